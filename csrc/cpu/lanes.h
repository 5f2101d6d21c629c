// Arithmetic with one problem per SIMD lane: a matrix entry is a vector, the same entry of kWidth problems.
#pragma once

#include "cpu/vec.h"

#if defined(__GNUC__)  // vector extensions: comparisons and selections of lanes
#define OPTL_LANES 1

namespace optl::OPTL_ISA {

using Real = Vec;
typedef int64_t Mask __attribute__((vector_size(kWidth * sizeof(double))));  // -1 where true

inline Real every(double v) { return splat(v); }
inline Mask is(bool v) { return Mask{} - static_cast<int64_t>(v); }
inline Real select(const Mask& mask, const Real& yes, const Real& no) { return mask ? yes : no; }
inline Mask select(const Mask& mask, const Mask& yes, const Mask& no) { return (mask & yes) | (~mask & no); }
inline Real keep(const Mask& mask, const Real& v) { return reinterpret_cast<Real>(mask & reinterpret_cast<Mask>(v)); }
inline bool any(const Mask& mask) {
  int64_t found = 0;
  for (int l = 0; l < kWidth; ++l) found |= mask[l];
  return found != 0;
}
inline Real least(const Real& a, const Real& b) { return a < b ? a : b; }
/// Maximum that keeps a NaN.
inline Real larger(const Real& a, const Real& b) { return (a > b) | (a != a) ? a : b; }
inline Real square_root(const Real& v) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_pd(0xff, v);
#elif defined(__FMA__)
  return _mm256_sqrt_pd(v);
#else
  Real out = v;
  for (int l = 0; l < kWidth; ++l) out[l] = std::sqrt(v[l]);
  return out;
#endif
}
inline Real divide(const Real& value, const Real& size) {
  const Mask positive = size > every(0);
  return value / select(positive, size, every(1));
}
inline Real power_of_two(Real v) {
  for (int l = 0; l < kWidth; ++l) v[l] = rules::power_of_two(v[l]);
  return v;
}
/// To two units in the last place: v = 2^k m with m in [sqrt(1/2), sqrt(2)), and the series of log((1 + t) / (1 - t)).
/// -inf at 0, NaN below; not for subnormal numbers.
inline Real logarithm(const Real& v) {
  constexpr uint64_t kHalfRoot = 0x3FE6A09E667F3BCD, kMantissa = 0x000FFFFFFFFFFFFF;
  constexpr uint64_t kBias = uint64_t{1024} << 52, kTwo52 = 0x4330000000000000;  // an integer below the bits of 2^52
  typedef uint64_t Bits __attribute__((vector_size(sizeof(Real))));
  const Bits shifted = reinterpret_cast<Bits>(v) - kHalfRoot;
  const Real m = reinterpret_cast<Real>((shifted & kMantissa) + kHalfRoot);
  const Real k = reinterpret_cast<Real>(((shifted + kBias) >> 52) | kTwo52) - (4503599627370496.0 + 1024);
  const Real t = (m - 1.0) / (m + 1.0), square = t * t;
  Real series = every(1.0 / 21);
  for (int odd = 19; odd >= 3; odd -= 2) series = multiply_add(series, square, every(1.0 / odd));
  const Real sum = multiply_add(k, every(0.6931471805599453), multiply_add(2.0 * t * square, series, 2.0 * t));
  const Mask positive = v > every(0);
  return select(positive & (v < every(INFINITY)), sum,
                select(positive, v, select(v == every(0), every(-INFINITY), every(NAN))));
}
inline Real logarithm_above_one(const Real& v) {
  const Real whole = 1.0 + v, rounded = whole - 1.0;  // what 1 + v lost is made up for by the slope
  const Mask small = rounded == every(0);
  return select(small, v, logarithm(whole) * (v / select(small, every(1), rounded)));
}
/// The same of e^v, by e^r = 1 + r + r^2/2 + ... for v = k log 2 + r; 0 below -700, infinity above 700.
inline Real exponential(const Real& v) {
  const Real bounded = least(most(v, every(-700)), every(700));
  const Real shifted = multiply_add(bounded, every(1.4426950408889634), every(6755399441055744.0));  // rounds to integers
  const Real k = shifted - 6755399441055744.0;
  const Real r = multiply_add(k, every(-1.9082149292705877e-10), multiply_add(k, every(-0.6931471803691238), bounded));
  Real series = every(1.0);
  for (int i = 13; i >= 1; --i) series = multiply_add(series, r / static_cast<double>(i), every(1.0));
  const Real power = series * reinterpret_cast<Real>((reinterpret_cast<Mask>(shifted) + 1023) << 52);
  return select(v > every(700), every(INFINITY), select(v < every(-700), every(0), select(v == v, power, v)));
}

/// max |v|; NaN where there is one.
inline Real largest(const Real* v, int64_t n) {
  Real most = every(0);
  for (int64_t i = 0; i < n; ++i) most = larger(most, absolute(v[i]));
  return most;
}

/// out = M x for M of `rows` rows, R of them at a time to share the loads of x.
template <int R = 4>
inline void multiply(const Real* M, int64_t rows, int64_t n, const Real* x, Real* out) {
  int64_t i = 0;
  for (; i + R <= rows; i += R) {
    Vec acc[R] = {};
    for (int64_t j = 0; j < n; ++j) {
      for (int r = 0; r < R; ++r) acc[r] = multiply_add(M[(i + r) * n + j], x[j], acc[r]);
    }
    for (int r = 0; r < R; ++r) out[i + r] = acc[r];
  }
  if constexpr (R > 1) multiply<R / 2>(M + i * n, rows - i, n, x, out + i);
}

/// out += M' v, R rows at a time to share the loads of out.
template <int R = 4>
inline void multiply_transposed(const Real* M, int64_t rows, int64_t n, const Real* v, Real* out) {
  int64_t i = 0;
  for (; i + R <= rows; i += R) {
    for (int64_t j = 0; j < n; ++j) {
      Vec acc = out[j];
      for (int r = 0; r < R; ++r) acc = multiply_add(M[(i + r) * n + j], v[i + r], acc);
      out[j] = acc;
    }
  }
  if constexpr (R > 1) multiply_transposed<R / 2>(M + i * n, rows - i, n, v + i, out);
}

}  // namespace optl::OPTL_ISA
#endif
