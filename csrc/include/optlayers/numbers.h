// Arithmetic on plain numbers under the names that cpu/lanes.h gives to vectors of them, so that templates take either.
#pragma once

#include <cmath>
#include <cstdint>

#include "optlayers/qp_rules.h"

namespace optl::OPTL_ISA {

using rules::larger;
using rules::least;
using rules::most;

OPTL_HD inline double select(bool condition, double yes, double no) { return condition ? yes : no; }
OPTL_HD inline double keep(bool condition, double v) { return condition ? v : 0.0; }
OPTL_HD inline bool any(bool condition) { return condition; }
OPTL_HD inline double absolute(double v) { return v < 0 ? -v : v; }
OPTL_HD inline double square_root(double v) { return std::sqrt(v); }
OPTL_HD inline double power_of_two(double v) { return rules::power_of_two(v); }
OPTL_HD inline double logarithm(double v) { return std::log(v); }
OPTL_HD inline double exponential(double v) { return std::exp(v); }
/// log(1 + v) without cancellation.
OPTL_HD inline double logarithm_above_one(double v) { return std::log1p(v); }

/// a b + c, rounded once where a vector's is.
OPTL_HD inline double multiply_add(double a, double b, double c) {
#if defined(__FMA__) || defined(__CUDACC__)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

/// The same number in every lane; what the comparison of two numbers gives.
template <class V>
OPTL_HD inline V fill(double v) { return v - V{}; }
template <class V>
using MaskOf = decltype(V{} < V{});
template <class V>
OPTL_HD inline MaskOf<V> always(bool v) { return v ? V{} == V{} : V{} != V{}; }

}  // namespace optl::OPTL_ISA
