// Constants and scalar rules of the quadratic program engine; docs/theory/qp.md derives them, reference.py repeats them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "optlayers/device.h"

namespace optl::rules {

// Active rows enter the condensed matrix with weight 1/kDelta, whose rounding, 1e-16/kDelta, has to stay below kRho.
inline constexpr double kRho = 1e-8;    // proximal terms of the equilibrated problem (IPM-5)
inline constexpr double kDelta = 1e-7;
// While the gap is above kQuickGap, floats are accurate enough for the steps, with terms that fit them (IPM-22).
inline constexpr double kQuickGap = 1e-2, kQuickRho = 1e-5, kQuickDelta = 1e-3, kQuickLength = 0.1;
inline constexpr int64_t kQuickSize = 51;  // variables from which on that pays
// Of data that came as floats, active sets are factored in floats too (polishing them from kQuickPolish variables on),
// and refined to this residual.
inline constexpr int64_t kQuickPolish = 150;
inline constexpr double kQuickPolished = 1e-10;
inline constexpr int kRuizPasses = 5;
inline constexpr int kRefinements = 6, kQuickRefinements = 12;
inline constexpr double kLagging = 1e-3;      // once the gap is below this, the violation should be below the gap
inline constexpr double kBalance = 1e-3;      // where it is not: least gap aimed at, relative to the violation
inline constexpr int kStepRefinements = 12;   // and refinements of the step
inline constexpr double kMargin = 0.1;       // a row is unclear while -ds/s is this near to 1/2
inline constexpr double kUnclear = 0.05;     // an active set is tried once no larger part of the inequalities is unclear
inline constexpr int kFlips = 6;             // corrections of a tried active set, as long as each halves the wrong rows
inline constexpr double kRough = 1e-6;       // wrong by more, relative, is wrong before the refinement
inline constexpr double kPolished = 1e-11;   // residual a polished solution must have
inline constexpr double kSign = 1e-12;       // this little below zero, relative, is zero
inline constexpr double kWeak = 1e-10;       // a multiplier this small, relative, makes its row weakly active: inactive
inline constexpr double kCertificate = 1e8;  // a certificate must exclude every solution within this radius (IPM-13)
inline constexpr double kPromising = 1e3;    // from this radius on, a candidate is worth purifying
inline constexpr double kTiny = 1e-300;

enum Kind : unsigned char { kAbsent, kInequality, kEquality };

/// 1 / (s/z + delta), bounded by 1/delta where z/s is not (IPM-6).
OPTL_HD inline double weight(Kind kind, double s, double z, double delta) {
  if (kind == kAbsent) return 0;
  return kind == kEquality ? 1 / delta : z / (s + delta * z);
}

/// Nearest power of two, in logarithm, of a positive normal number: scaling by it is exact.
OPTL_HD inline double power_of_two(double v) {
  constexpr uint64_t kRoundUp = 0x0010000000000000 - 0x0006A09E667F3BCD;  // carries mantissas from sqrt(2) on
  uint64_t bits;
  std::memcpy(&bits, &v, sizeof v);
  bits = (bits + kRoundUp) & 0x7FF0000000000000;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// Not std::fmax: where its rules for NaN cost a call into the library, these are one instruction.
OPTL_HD inline double most(double a, double b) { return a > b ? a : b; }
OPTL_HD inline double least(double a, double b) { return a < b ? a : b; }

/// Maximum that keeps a NaN.
OPTL_HD inline double larger(double a, double b) { return a > b || a != a ? a : b; }

OPTL_HD inline double divide(double value, double size) { return size > 0 ? value / size : value; }

/// What a candidate certificate achieves: it excludes every solution nearer than gain / leak.
struct Evidence {
  double gain = 0, size = 0, leak = 0, scale = 1;  // size: sum of the terms of gain, without signs; scale: of the data
  OPTL_HD bool excludes(double radius) const { return gain > 1e-8 * size && gain >= radius * leak * scale; }
};

}  // namespace optl::rules
