// Q + diag + S'S = U'U in register tiles, fused: each tile is gathered, eliminated and solved without leaving registers.
#pragma once

#include "cpu/vec.h"

namespace optl::OPTL_ISA {

/// acc +-= L' R over `count` rows: kTileRows columns of L, V vectors of R.
template <bool kAdd, int V>
inline void accumulate(const double* L, const double* R, int64_t ld, int64_t count, Vec (&acc)[kTileRows][V]) {
  for (int64_t q = 0; q < count; ++q, L += ld, R += ld) {
    Vec right[V];
    for (int v = 0; v < V; ++v) right[v] = load(R + v * kWidth);
    for (int a = 0; a < kTileRows; ++a) {
      const Vec left = splat(L[a]);
      for (int v = 0; v < V; ++v) {
        acc[a][v] = kAdd ? multiply_add(left, right[v], acc[a][v]) : subtract_product(left, right[v], acc[a][v]);
      }
    }
  }
}

/// The tile at (i, j) of Q + S'S less what the factored rows above explain.
template <int V>
inline void gather(const double* Q, const double* S, int64_t rows, const double* U, int64_t ld, int64_t i, int64_t j,
                   Vec (&acc)[kTileRows][V]) {
  for (int a = 0; a < kTileRows; ++a) {
    for (int v = 0; v < V; ++v) acc[a][v] = load(Q + (i + a) * ld + j + v * kWidth);
  }
  accumulate<true>(S + i, S + j, ld, rows, acc);
  accumulate<false>(U + i, U + j, ld, i, acc);
}

/// Rows i.. of U at columns j..: gather, then solve with the transposed diagonal block.
template <int V>
inline void panel(const double* Q, const double* S, int64_t rows, double* U, const double* inverse, int64_t ld,
                  int64_t i, int64_t j) {
  Vec acc[kTileRows][V];
  gather<V>(Q, S, rows, U, ld, i, j, acc);
  for (int a = 0; a < kTileRows; ++a) {
    for (int b = 0; b < a; ++b) {
      const Vec factor = splat(U[(i + b) * ld + i + a]);
      for (int v = 0; v < V; ++v) acc[a][v] = subtract_product(factor, acc[b][v], acc[a][v]);
    }
    for (int v = 0; v < V; ++v) {
      acc[a][v] = acc[a][v] * splat(inverse[i + a]);
      store(U + (i + a) * ld + j + v * kWidth, acc[a][v]);
    }
  }
}

/// Factor Q + diag(diagonal) + S'S = U'U. Q, U: ld x ld, ld = padded(n); S: rows x ld; `diagonal` is 1 on the padding.
/// Reads the upper triangle of Q, writes that of U and the inverses of its diagonal. Does not allocate.
/// False if a pivot is not positive (or NaN).
inline bool cholesky(const double* Q, const double* diagonal, const double* S, int64_t rows, int64_t ld, double* U,
                     double* inverse) {
  constexpr int kDiagonalVecs = kTileRows / kWidth;
  static_assert(kTileRows % kWidth == 0 && kPad % kTileRows == 0);
  for (int64_t i = 0; i < ld; i += kTileRows) {
    Vec acc[kTileRows][kDiagonalVecs];
    gather<kDiagonalVecs>(Q, S, rows, U, ld, i, i, acc);
    for (int a = 0; a < kTileRows; ++a) {
      double* row = U + (i + a) * ld + i;
      for (int v = 0; v < kDiagonalVecs; ++v) store(row + v * kWidth, acc[a][v]);
      row[a] += diagonal[i + a];
    }
    for (int a = 0; a < kTileRows; ++a) {
      double* row = U + (i + a) * ld + i;
      for (int b = 0; b < a; ++b) {
        const double* above = U + (i + b) * ld + i;
        for (int c = a; c < kTileRows; ++c) row[c] -= above[a] * above[c];
      }
      if (!(row[a] > 0)) return false;
      inverse[i + a] = 1 / std::sqrt(row[a]);
      for (int c = a; c < kTileRows; ++c) row[c] *= inverse[i + a];
    }
    int64_t j = i + kTileRows;
    for (; j + kTileVecs * kWidth <= ld; j += kTileVecs * kWidth) panel<kTileVecs>(Q, S, rows, U, inverse, ld, i, j);
    for (; j < ld; j += kWidth) panel<1>(Q, S, rows, U, inverse, ld, i, j);
  }
  return true;
}

/// Solve U'U x = x in place.
inline void cholesky_solve(const double* U, const double* inverse, int64_t ld, double* x) {
  for (int64_t i = 0; i < ld; ++i) {  // x_j -= U_ij x_i for j > i, whole vectors after the first few entries
    const double* row = U + i * ld;
    const double v = x[i] *= inverse[i];
    const int64_t next = (i + kWidth) / kWidth * kWidth;
    for (int64_t j = i + 1; j < next; ++j) x[j] -= row[j] * v;
    axpy(-v, row + next, x + next, ld - next);
  }
  for (int64_t i = ld - 1; i >= 0; --i) {
    const double* row = U + i * ld;
    const int64_t next = (i + kWidth) / kWidth * kWidth;
    double v = x[i] - dot(row + next, x + next, ld - next);
    for (int64_t j = i + 1; j < next; ++j) v -= row[j] * x[j];
    x[i] = v * inverse[i];
  }
}

}  // namespace optl::OPTL_ISA
