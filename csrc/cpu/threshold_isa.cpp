// Points (y - t)+ and their squares, whose threshold t is set by the sum: simplex projection and 1.5-entmax.
//
// The sum is convex and decreasing in t, so Newton's method from a t below the root climbs to it without sorting. What
// lies below t never comes back: a row is first cut down to the few entries above the first t, kept where the result will be.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace optl::OPTL_ISA {

namespace {

/// As wide as T, so that entries and their count fill vectors of one length.
template <class T>
using Count = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

constexpr int64_t kBlock = 32;
constexpr int kSteps = 100;  // never reached: the steps are quadratic, or end with the support

/// The largest entry; NaN if there is a NaN, or no finite largest one.
template <class T>
T finite_top(const T* x, int64_t n) {
  T top = -std::numeric_limits<T>::infinity();
  Count<T> unordered = 0;
#pragma omp simd reduction(max : top) reduction(| : unordered)
  for (int64_t i = 0; i < n; ++i) {
    top = x[i] > top ? x[i] : top;
    unordered |= x[i] != x[i];
  }
  return !unordered && std::isfinite(top) ? top : std::numeric_limits<T>::quiet_NaN();
}

/// Copy the entries of scale (x - top) above `bound` to `kept`, which may be the beginning of a scaled x itself.
template <class T>
int64_t keep_above(const T* x, int64_t n, T scale, T top, T bound, T* kept) {
  int64_t count = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t end = std::min(start + kBlock, n);
    Count<T> any = 0;
#pragma omp simd reduction(| : any)
    for (int64_t i = start; i < end; ++i) any |= scale * (x[i] - top) > bound;
    if (!any) continue;
    for (int64_t i = start; i < end; ++i) {
      const T y = scale * (x[i] - top);
      kept[count] = y;  // count <= i: not past the end, and behind what is read
      count += y > bound;
    }
  }
  return count;
}

/// The t at which sum (y - t)+ = radius, for a largest y of 0; `kept` holds the `count` entries above -radius, and is spent.
template <class T>
T simplex_threshold(T* kept, int64_t count, T radius) {
  T t = -radius;
  int64_t inside = 0;
  for (int step = 0; step < kSteps; ++step) {
    T sum = 0;
    Count<T> above = 0;
#pragma omp simd reduction(+ : sum, above)
    for (int64_t i = 0; i < count; ++i) {
      sum += kept[i] > t ? kept[i] : T(0);
      above += kept[i] > t;
    }
    if (above == inside) break;  // this t is the threshold of these entries
    inside = above;
    t = std::max(t, (sum - radius) / static_cast<T>(above));
    if (2 * inside < count) count = keep_above(kept, count, T(1), T(0), t, kept);
  }
  return t;
}

/// The t at which sum (y - t)+^2 = 1, for a largest y of 0; `kept` as above, of the entries above -1.
template <class T>
T norm_threshold(T* kept, int64_t count) {
  T t = -1;
  for (int step = 0; step < kSteps; ++step) {
    T sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum, squares)
    for (int64_t i = 0; i < count; ++i) {
      const T u = kept[i] > t ? kept[i] - t : T(0);
      sum += u, squares += u * u;
    }
    const T better = t + (squares - std::sqrt(squares)) / sum;  // the norm, not its square, is nearly linear in t
    if (!(better > t)) break;
    t = better;
    if (step % 2 == 0) count = keep_above(kept, count, T(1), T(0), t, kept);
  }
  return t;
}

template <class T>
void simplex_row(int64_t n, const T* x, T radius, T* point, bool* support) {
  const T top = finite_top(x, n);
  if (!(radius >= 0) || top != top) {
    std::fill_n(point, n, std::numeric_limits<T>::quiet_NaN());
    std::fill_n(support, n, false);
    return;
  }
  const T least = std::max(radius, T(1e-30));  // so that the largest entries are in the support of a radius of 0 too
  const T t = simplex_threshold(point, keep_above(x, n, T(1), top, -least, point), least);
  Count<T> count = 0;
#pragma omp simd reduction(+ : count)
  for (int64_t i = 0; i < n; ++i) {
    support[i] = x[i] - top > t;
    count += support[i];
  }
  const T shift = radius < least ? -radius / static_cast<T>(count) : t;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) point[i] = x[i] - top > t ? x[i] - top - shift : T(0);
}

template <class T>
void entmax15_row(int64_t n, const T* x, T* p) {
  const T top = finite_top(x, n);
  if (top != top) {
    std::fill_n(p, n, top);
    return;
  }
  const T half = T(0.5), t = norm_threshold(p, keep_above(x, n, half, top, T(-1), p));
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T y = half * (x[i] - top), u = y > t ? y - t : T(0);
    p[i] = u * u;
  }
}

template <class T>
void simplex_backward_row(int64_t n, const bool* support, const T* cotangent, T* grad_x, T& grad_radius) {
  T sum = 0;
  Count<T> count = 0;
#pragma omp simd reduction(+ : sum, count)
  for (int64_t i = 0; i < n; ++i) {
    sum += support[i] ? cotangent[i] : T(0);
    count += support[i];
  }
  const T mean = sum / static_cast<T>(std::max<Count<T>>(count, 1));
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) grad_x[i] = support[i] ? cotangent[i] - mean : T(0);
  grad_radius = mean;
}

}  // namespace

template <class T>
void simplex(const RowSizes& sizes, Batched<const T> x, Batched<const T> radius, Batched<T> point,
             Batched<bool> support, int threads) {
  for_rows(sizes.rows, sizes.rows * sizes.n, threads,
           [&](int64_t row, int) { simplex_row(sizes.n, x[row], *radius[row], point[row], support[row]); });
}

template <class T>
void simplex_backward(const RowSizes& sizes, Batched<const bool> support, Batched<const T> cotangent, Batched<T> grad_x,
                      Batched<T> grad_radius, int threads) {
  for_rows(sizes.rows, sizes.rows * sizes.n, threads, [&](int64_t row, int) {
    simplex_backward_row(sizes.n, support[row], cotangent[row], grad_x[row], *grad_radius[row]);
  });
}

template <class T>
void entmax15(const RowSizes& sizes, Batched<const T> x, Batched<T> p, int threads) {
  for_rows(sizes.rows, sizes.rows * sizes.n, threads, [&](int64_t row, int) { entmax15_row(sizes.n, x[row], p[row]); });
}

#define OPTL_INSTANTIATE(T)                                                                                          \
  template void simplex(const RowSizes&, Batched<const T>, Batched<const T>, Batched<T>, Batched<bool>, int);        \
  template void simplex_backward(const RowSizes&, Batched<const bool>, Batched<const T>, Batched<T>, Batched<T>, int); \
  template void entmax15(const RowSizes&, Batched<const T>, Batched<T>, int);
OPTL_INSTANTIATE(float)
OPTL_INSTANTIATE(double)

}  // namespace optl::OPTL_ISA
