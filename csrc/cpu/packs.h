// As many numbers as an instruction takes, as the V of formulas that are written once for a number and for a vector.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "cpu/vec.h"
#include "optlayers/updates.h"

namespace optl::OPTL_ISA {

// A type of its own: attributes such as may_alias, which that of vec.h has, do not pass through templates.
#if defined(__GNUC__)
template <class T>
struct PackOf;
template <>
struct PackOf<float> {
  typedef float Type __attribute__((vector_size(kWidth * sizeof(double))));
};
template <>
struct PackOf<double> {
  typedef double Type __attribute__((vector_size(kWidth * sizeof(double))));
};
#else
template <class T>
struct PackOf {
  using Type = T;
};
#endif
template <class T>
using Pack = typename PackOf<T>::Type;
template <class T>
inline constexpr int64_t kPack = sizeof(Pack<T>) / sizeof(T);

/// Reads and writes a pack of entries.
template <class T>
struct Whole {
  Pack<T> load(const T* from) const {
    Pack<T> v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
  void store(T* to, const Pack<T>& v) const { std::memcpy(to, &v, sizeof v); }
};

/// The first `count` entries of one.
template <class T>
struct Part {
  int64_t count;
  Pack<T> load(const T* from) const {
    Pack<T> v{};
    std::memcpy(&v, from, static_cast<size_t>(count) * sizeof(T));
    return v;
  }
  void store(T* to, const Pack<T>& v) const { std::memcpy(to, &v, static_cast<size_t>(count) * sizeof(T)); }
};

/// run(i, access) for i = 0, kPack, ... below n, where `access` reads and writes the entries from i on.
template <class T, class Run>
void for_packs(int64_t n, const Run& run) {
  int64_t i = 0;
  for (; i + kPack<T> <= n; i += kPack<T>) run(i, Whole<T>{});
  if (i < n) run(i, Part<T>{n - i});
}

#if defined(__GNUC__)
inline Pack<double> square_root(Pack<double> v) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_pd(0xff, v);  // the plain one makes GCC 12 warn
#elif defined(__AVX2__)
  return _mm256_sqrt_pd(v);
#elif defined(__SSE2__)
  return _mm_sqrt_pd(v);
#else
  for (int l = 0; l < kPack<double>; ++l) v[l] = std::sqrt(v[l]);
  return v;
#endif
}

inline Pack<float> square_root(Pack<float> v) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, v);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(v);
#elif defined(__SSE2__)
  return _mm_sqrt_ps(v);
#else
  for (int l = 0; l < kPack<float>; ++l) v[l] = std::sqrt(v[l]);
  return v;
#endif
}

/// What updates::Lane asks of a vector V of T, whose comparisons give masks.
template <class T, class V>
struct PackLane {
  using Scalar = T;
  static V all(T c) { return c - V{}; }  // + would turn -0 into 0
  template <class Mask>
  static V choose(const Mask& where, const V& a, const V& b) {
    return where ? a : b;
  }
  static V root(const V& a) { return square_root(a); }
};
#endif

}  // namespace optl::OPTL_ISA

#if defined(__GNUC__)
namespace optl::updates {

template <>
struct Lane<OPTL_ISA::Pack<float>> : OPTL_ISA::PackLane<float, OPTL_ISA::Pack<float>> {};
template <>
struct Lane<OPTL_ISA::Pack<double>> : OPTL_ISA::PackLane<double, OPTL_ISA::Pack<double>> {};

}  // namespace optl::updates
#endif
