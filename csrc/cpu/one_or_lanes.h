// The arithmetic of lanes.h for one problem too, so that a kernel is written once: V is double, or a vector of lanes.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/lanes.h"
#include "cpu/program.h"

namespace optl::OPTL_ISA::kkt {

using OPTL_ISA::most, OPTL_ISA::absolute;
#ifdef OPTL_LANES
using OPTL_ISA::any, OPTL_ISA::larger, OPTL_ISA::least, OPTL_ISA::power_of_two, OPTL_ISA::select, OPTL_ISA::square_root;
#endif

template <class V> inline V every_as(double v) {
  if constexpr (sizeof(V) == sizeof(double)) return v;
  else return splat(v);
}
template <class V> inline auto is_as(bool v) {
#ifdef OPTL_LANES
  if constexpr (sizeof(V) > sizeof(double)) return is(v);
  else
#endif
    return v;
}
inline double select(bool mask, double yes, double no) { return mask ? yes : no; }
inline bool any(bool mask) { return mask; }
inline double most(double a, double b) { return a > b ? a : b; }
inline double larger(double a, double b) { return a > b || a != a ? a : b; }
inline double least(double a, double b) { return a < b ? a : b; }
inline double absolute(double v) { return std::fabs(v); }
inline double square_root(double v) { return std::sqrt(v); }
inline double power_of_two(double v) { return rules::power_of_two(v); }
inline double& lane(double& v, int) { return v; }
inline double lane(const double& v, int) { return v; }
#ifdef OPTL_LANES
inline double& lane(Real& v, int l) { return reinterpret_cast<double*>(&v)[l]; }
inline double lane(const Real& v, int l) { return v[l]; }
#endif

/// How many problems a V holds.
template <class V> inline constexpr int kProblems = sizeof(V) / sizeof(double);

/// max |v|; 0 of nothing, NaN where there is one.
template <class V>
inline V largest_of(const V* v, int64_t n) {
  V top = every_as<V>(0);
  for (int64_t i = 0; i < n; ++i) top = larger(absolute(v[i]), top);
  return top;
}
/// v, or one where it is not positive.
template <class V>
inline V nonzero(const V& v) { return select(v > every_as<V>(0), v, every_as<V>(1)); }

/// Part of a workspace.
template <class V>
inline V* take(Arena& arena, int64_t count) { return reinterpret_cast<V*>(arena.take(count * kProblems<V>)); }

}  // namespace optl::OPTL_ISA::kkt
