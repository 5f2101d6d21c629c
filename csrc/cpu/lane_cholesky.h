// Q + diag + S'C = U'U for one problem per lane, in register tiles of a few rows and columns.
#pragma once

#include "cpu/lanes.h"

#ifdef OPTL_LANES
namespace optl::OPTL_ISA {

#if defined(__AVX512F__)
inline constexpr int kLaneRows = 4, kLaneColumns = 4;  // 16 of 32 registers accumulate
#else
inline constexpr int kLaneRows = 2, kLaneColumns = 4;  // 8 of 16
#endif

/// What one factorisation reads and writes: Q, U n x n (upper triangles), S and C rows x n.
struct LaneFactorTask {
  int64_t n, rows;
  const Real *Q, *diagonal, *S, *C;
  Real *U, *inverse;
  Mask positive;  // lanes in which every pivot was
};

/// Rows i.. of U, R of them, at columns j.., V of them. Returns through `unit` and `inverse` what the diagonal block,
/// at j = i, has found, and uses it elsewhere.
template <int R, int V>
inline void lane_tile(LaneFactorTask& t, int64_t i, int64_t j, Vec (&unit)[kLaneRows][kLaneRows]) {
  Vec acc[R][V];
  const int64_t n = t.n;
  for (int a = 0; a < R; ++a) {
    for (int v = 0; v < V; ++v) acc[a][v] = t.Q[(i + a) * n + j + v];
  }
  const Real *left = t.S + i, *right = t.C + j;
  for (int64_t q = 0; q < t.rows; ++q, left += n, right += n) {
    for (int a = 0; a < R; ++a) {
      for (int v = 0; v < V; ++v) acc[a][v] = multiply_add(left[a], right[v], acc[a][v]);
    }
  }
  left = t.U + i, right = t.U + j;
  for (int64_t q = 0; q < i; ++q, left += n, right += n) {
    for (int a = 0; a < R; ++a) {
      for (int v = 0; v < V; ++v) acc[a][v] = subtract_product(left[a], right[v], acc[a][v]);
    }
  }
  for (int a = 0; a < R; ++a) {
    for (int b = 0; b < a; ++b) {
      for (int v = 0; v < V; ++v) acc[a][v] = subtract_product(unit[b][a], acc[b][v], acc[a][v]);
    }
    if (i == j && a < V) {
      const Real pivot = acc[a][a] + t.diagonal[i + a];
      t.positive &= pivot > every(0);
      t.inverse[i + a] = every(1) / square_root(pivot);
      acc[a][a] = pivot;
    }
    for (int v = 0; v < V; ++v) t.U[(i + a) * n + j + v] = acc[a][v] = acc[a][v] * t.inverse[i + a];
    if (i == j) {
      for (int b = a + 1; b < R && b < V; ++b) unit[a][b] = acc[a][b];
    }
  }
}

template <int R>
inline void lane_rows(LaneFactorTask& t, int64_t i) {
  Vec unit[kLaneRows][kLaneRows] = {};
  int64_t j = i;
  for (; j + kLaneColumns <= t.n; j += kLaneColumns) lane_tile<R, kLaneColumns>(t, i, j, unit);
  switch (t.n - j) {
    case 3: return lane_tile<R, 3>(t, i, j, unit);
    case 2: return lane_tile<R, 2>(t, i, j, unit);
    case 1: return lane_tile<R, 1>(t, i, j, unit);
  }
}

/// Factor, in every lane at once; lanes in which a pivot is not positive hold NaN or garbage and are told.
inline void lane_cholesky(LaneFactorTask& t) {
  t.positive = is(true);
  int64_t i = 0;
  for (; i + kLaneRows <= t.n; i += kLaneRows) lane_rows<kLaneRows>(t, i);
  for (; i < t.n; ++i) lane_rows<1>(t, i);
}

/// Solve U'U x = x in place.
inline void lane_cholesky_solve(const Real* U, const Real* inverse, int64_t n, Real* x) {
  for (int64_t i = 0; i < n; ++i) {
    const Vec v = x[i] = x[i] * inverse[i];
    for (int64_t j = i + 1; j < n; ++j) x[j] = subtract_product(U[i * n + j], v, x[j]);
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    const Real* row = U + i * n;
    Vec even = x[i], odd = every(0);
    int64_t j = i + 1;
    for (; j + 1 < n; j += 2) {
      even = subtract_product(row[j], x[j], even);
      odd = subtract_product(row[j + 1], x[j + 1], odd);
    }
    if (j < n) even = subtract_product(row[j], x[j], even);
    x[i] = (even + odd) * inverse[i];
  }
}

}  // namespace optl::OPTL_ISA
#endif
