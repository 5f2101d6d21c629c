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
inline Real logarithm(Real v) {
  for (int l = 0; l < kWidth; ++l) v[l] = std::log(v[l]);
  return v;
}
inline Real exponential(Real v) {
  for (int l = 0; l < kWidth; ++l) v[l] = std::exp(v[l]);
  return v;
}
inline Real logarithm_above_one(Real v) {
  for (int l = 0; l < kWidth; ++l) v[l] = std::log1p(v[l]);
  return v;
}
inline Real exponential_less_one(Real v) {
  for (int l = 0; l < kWidth; ++l) v[l] = std::expm1(v[l]);
  return v;
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
