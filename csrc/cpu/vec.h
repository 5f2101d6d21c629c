// Vectors of doubles as wide as the instruction set, and the loops over rows that are built from them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__FMA__)
#include <immintrin.h>
#endif

#include "optlayers/qp_rules.h"

// Everything below lives in a namespace named after the instruction set it is compiled for.
#define OPTL_STRING_(x) #x
#define OPTL_STRING(x) OPTL_STRING_(x)

// What has to be in registers as a whole: functions and lambdas inlined, loops over arrays of vectors unrolled.
#if defined(__clang__)
#define OPTL_INLINE inline __attribute__((always_inline))
#define OPTL_INLINED __attribute__((always_inline))
#define OPTL_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define OPTL_INLINE inline __attribute__((always_inline))
#define OPTL_INLINED __attribute__((always_inline))
#define OPTL_UNROLL _Pragma("GCC unroll 16")
#else
#define OPTL_INLINE inline
#define OPTL_INLINED
#define OPTL_UNROLL
#endif

namespace optl::OPTL_ISA {

#if defined(__AVX512F__)
inline constexpr int kWidth = 8, kTileRows = 8, kTileVecs = 3;  // 24 of 32 registers accumulate
#elif defined(__AVX2__)
inline constexpr int kWidth = 4, kTileRows = 4, kTileVecs = 3;  // 12 of 16
#else
inline constexpr int kWidth = 2, kTileRows = 4, kTileVecs = 2;  // 8 of 16
#endif
/// Rows are padded with zeros to a multiple of this: whole vectors, of floats too.
inline constexpr int64_t kPad = 2 * kWidth;
inline constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
inline constexpr int64_t padded(int64_t n) { return round_up(n, kPad); }

#if defined(__GNUC__)
typedef double Vec __attribute__((vector_size(kWidth * sizeof(double)), may_alias));
typedef float FloatVec __attribute__((vector_size(kWidth * sizeof(double)), may_alias));
inline Vec splat(double v) { return v - Vec{}; }  // v + 0 would cost an addition: it turns -0 into 0
inline FloatVec splat(float v) { return v - FloatVec{}; }
#else
template <class S, int N>
struct Lanes {
  S lane[N];
  Lanes& operator+=(const Lanes& o) { for (int i = 0; i < N; ++i) lane[i] += o.lane[i]; return *this; }
  Lanes& operator-=(const Lanes& o) { for (int i = 0; i < N; ++i) lane[i] -= o.lane[i]; return *this; }
  friend Lanes operator*(Lanes a, const Lanes& b) { for (int i = 0; i < N; ++i) a.lane[i] *= b.lane[i]; return a; }
  friend Lanes operator-(Lanes a, const Lanes& b) { a -= b; return a; }
  friend Lanes operator+(Lanes a, const Lanes& b) { a += b; return a; }
  S operator[](int i) const { return lane[i]; }
  S& operator[](int i) { return lane[i]; }
};
using Vec = Lanes<double, kWidth>;
using FloatVec = Lanes<float, 2 * kWidth>;
inline Vec splat(double v) { Vec r; for (int i = 0; i < kWidth; ++i) r.lane[i] = v; return r; }
inline FloatVec splat(float v) { FloatVec r; for (int i = 0; i < 2 * kWidth; ++i) r.lane[i] = v; return r; }
#endif

/// The vector of a scalar type, and how many it holds.
template <class S> struct Simd;
template <> struct Simd<double> { typedef Vec Type; };
template <> struct Simd<float> { typedef FloatVec Type; };
template <class S>
inline constexpr int kLanes = static_cast<int>(kWidth * sizeof(double) / sizeof(S));

inline Vec load(const double* p) { Vec v; std::memcpy(&v, p, sizeof v); return v; }
inline FloatVec load(const float* p) { FloatVec v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(double* p, const Vec& v) { std::memcpy(p, &v, sizeof v); }
inline void store(float* p, const FloatVec& v) { std::memcpy(p, &v, sizeof v); }

/// Doubles as a vector of either kind.
template <class S>
inline typename Simd<S>::Type load_as(const double* p) {
  if constexpr (sizeof(S) == sizeof(double)) {
    return load(p);
  } else {
#if defined(__AVX512F__)
    const __m256 halves[2] = {_mm512_maskz_cvtpd_ps(0xff, load(p)), _mm512_maskz_cvtpd_ps(0xff, load(p + kWidth))};
    FloatVec v;
    std::memcpy(&v, halves, sizeof v);
    return v;
#elif defined(__FMA__)
    return _mm256_set_m128(_mm256_cvtpd_ps(load(p + kWidth)), _mm256_cvtpd_ps(load(p)));
#else
    typename Simd<S>::Type v;
    for (int l = 0; l < kLanes<S>; ++l) v[l] = static_cast<S>(p[l]);
    return v;
#endif
  }
}

/// a b + c, fused where the processor can: standard C++ does not let the compiler do it.
template <class V>
inline V multiply_add(const V& a, const V& b, const V& c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(a[0]) == sizeof(double)) return _mm512_fmadd_pd(a, b, c);
  else return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  if constexpr (sizeof(a[0]) == sizeof(double)) return _mm256_fmadd_pd(a, b, c);
  else return _mm256_fmadd_ps(a, b, c);
#else
  V out = c;
  out += a * b;
  return out;
#endif
}

/// c - a b.
template <class V>
inline V subtract_product(const V& a, const V& b, const V& c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(a[0]) == sizeof(double)) return _mm512_fnmadd_pd(a, b, c);
  else return _mm512_fnmadd_ps(a, b, c);
#elif defined(__FMA__)
  if constexpr (sizeof(a[0]) == sizeof(double)) return _mm256_fnmadd_pd(a, b, c);
  else return _mm256_fnmadd_ps(a, b, c);
#else
  V out = c;
  out -= a * b;
  return out;
#endif
}

/// Sums of the lanes of four vectors.
template <class V>
inline void sum_lanes(const V (&v)[4], double* out) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (sizeof(v[0][0]) == sizeof(double)) {
    const __m256d low = _mm256_hadd_pd(v[0], v[1]), high = _mm256_hadd_pd(v[2], v[3]);
    store(out, _mm256_permute2f128_pd(low, high, 0x20) + _mm256_permute2f128_pd(low, high, 0x31));
    return;
  } else {
    const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    const __m128 sums = _mm256_castps256_ps128(pairs) + _mm256_extractf128_ps(pairs, 1);
    store(out, _mm256_cvtps_pd(sums));
    return;
  }
#endif
  for (int r = 0; r < 4; ++r) {
    double sum = 0;
    for (size_t l = 0; l < sizeof(V) / sizeof(v[0][0]); ++l) sum += static_cast<double>(v[r][l]);
    out[r] = sum;
  }
}

/// a'b over a padded length.
inline double dot(const double* a, const double* b, int64_t n) {
  Vec first = splat(0.0), second = splat(0.0);
  int64_t i = 0;
  for (; i + 2 * kWidth <= n; i += 2 * kWidth) {
    first = multiply_add(load(a + i), load(b + i), first);
    second = multiply_add(load(a + i + kWidth), load(b + i + kWidth), second);
  }
  for (; i < n; i += kWidth) first = multiply_add(load(a + i), load(b + i), first);
  first += second;
  double sum = 0;
  for (int l = 0; l < kWidth; ++l) sum += first[l];
  return sum;
}

/// out += scale * a over a padded length.
inline void axpy(double scale, const double* a, double* out, int64_t n) {
  const Vec s = splat(scale);
  for (int64_t i = 0; i < n; i += kWidth) store(out + i, multiply_add(s, load(a + i), load(out + i)));
}

/// out_i = a_i'x for `rows` rows a_i of padded length ld, four at a time to share the loads of x.
inline void multiply_rows(const double* a, int64_t rows, int64_t ld, const double* x, double* out) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4, a += 4 * ld) {
    Vec acc[4] = {splat(0.0), splat(0.0), splat(0.0), splat(0.0)};
    for (int64_t j = 0; j < ld; j += kWidth) {
      const Vec v = load(x + j);
      for (int r = 0; r < 4; ++r) acc[r] = multiply_add(load(a + r * ld + j), v, acc[r]);
    }
    sum_lanes(acc, out + i);
  }
  for (; i < rows; ++i, a += ld) out[i] = dot(a, x, ld);
}

/// out += sum of v_i a_i over `rows` rows a_i, ld apart, of padded length n, four at a time to share the loads of out.
inline void add_rows(const double* a, int64_t rows, int64_t ld, int64_t n, const double* v, double* out) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4, a += 4 * ld) {
    if (v[i] == 0 && v[i + 1] == 0 && v[i + 2] == 0 && v[i + 3] == 0) continue;
    const Vec scale[4] = {splat(v[i]), splat(v[i + 1]), splat(v[i + 2]), splat(v[i + 3])};
    for (int64_t j = 0; j < n; j += kWidth) {
      Vec acc = load(out + j);
      for (int r = 0; r < 4; ++r) acc = multiply_add(scale[r], load(a + r * ld + j), acc);
      store(out + j, acc);
    }
  }
  for (; i < rows; ++i, a += ld) axpy(v[i], a, out, n);
}

/// Elementwise a > b ? a : b, so that NaN in `a` is dropped; one instruction.
inline Vec most(const Vec& a, const Vec& b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_pd(0xff, a, b);  // the plain one makes GCC 12 warn
#elif defined(__FMA__)
  return _mm256_max_pd(a, b);
#else
  Vec out = b;
  for (int l = 0; l < kWidth; ++l) out[l] = a[l] > b[l] ? a[l] : b[l];
  return out;
#endif
}

inline Vec absolute(const Vec& v) {
#if defined(__FMA__) && !defined(__AVX512F__)
  return _mm256_andnot_pd(splat(-0.0), v);
#else
  return most(v, splat(0.0) - v);
#endif
}

/// Whether every entry is a number; 0 * v is NaN for those that are not.
template <class S>
inline bool finite(const S* v, int64_t n) {
  constexpr int kSums = 4;
  const auto zero = splat(S(0));
  typename Simd<S>::Type sum[kSums];
  OPTL_UNROLL for (int r = 0; r < kSums; ++r) sum[r] = zero;
  int64_t i = 0;
  for (; i + kSums * kLanes<S> <= n; i += kSums * kLanes<S>) {
    OPTL_UNROLL for (int r = 0; r < kSums; ++r) sum[r] = multiply_add(zero, load(v + i + r * kLanes<S>), sum[r]);
  }
  S total = 0;
  for (; i < n; ++i) total += 0 * v[i];
  for (int r = 0; r < kSums; ++r) {
    for (int l = 0; l < kLanes<S>; ++l) total += sum[r][l];
  }
  return total == 0;
}

/// max |v|; 0 of nothing, NaN where there is one or an infinity.
inline double largest(const double* v, int64_t n) {
  Vec lane = splat(0.0), sum = lane;
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Vec next = load(v + i);
    lane = most(absolute(next), lane);
    sum = multiply_add(splat(0.0), next, sum);
  }
  double top = 0, check = 0;
  for (int l = 0; l < kWidth; ++l) top = rules::most(lane[l], top), check += sum[l];
  for (; i < n; ++i) top = rules::most(std::fabs(v[i]), top), check += 0 * v[i];
  return top + check;
}

/// R rows a_i, `ld` apart, from column `first` to the end: top_i = max_j |a_ij| b_j for b >= 0, and
/// out_j <- max(out_j, scale_i |a_ij|).
template <int R>
inline void largest_scaled(const double* a, int64_t ld, int64_t first, const double* b, const double* scale, double* out,
                           double* top) {
  Vec lane[R], factor[R];
  for (int r = 0; r < R; ++r) lane[r] = splat(0.0), factor[r] = splat(scale[r]);
  for (int64_t j = first; j < ld; j += kWidth) {
    const Vec column = load(b + j);
    Vec raised = load(out + j);
    for (int r = 0; r < R; ++r) {
      const Vec v = absolute(load(a + r * ld + j));
      lane[r] = most(v * column, lane[r]);
      raised = most(factor[r] * v, raised);
    }
    store(out + j, raised);
  }
  for (int r = 0; r < R; ++r) {
    top[r] = 0;
    for (int l = 0; l < kWidth; ++l) top[r] = rules::most(lane[r][l], top[r]);
  }
}

}  // namespace optl::OPTL_ISA
