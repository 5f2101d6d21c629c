// What the cone programs of a batch share: cones, patterns, and how the matrix of their linear systems is put together.
#pragma once

#include <cstdint>

#include "cpu/ldl_plan.h"

namespace optl {

/// Rows that are one cone; of the zero and the nonnegative cone, all of them are one block.
struct ConeKktBlock {
  enum Kind : int32_t { kZero, kNonneg, kSecondOrder, kPsd, kExponential, kPower };

  int32_t kind, start, size;
  int32_t vectors;         // where its eigenvectors start, size x size; none of zero and nonneg
  int32_t entry, columns;  // its part of C: `columns` runs of `size` entries of K
};

/// A view of words that Python writes (functional/cone_assembly.py). K of (CONE-6) has one entry for each pair of places
/// that mirror each other, the diagonal first.
struct ConeKktPlan {
  struct Sizes {
    int32_t n, m, blocks, P, A, K, vectors, order;  // entries of P, A and K; of all eigenvectors; the largest PSD order
  };

  ConeKktPlan(const int32_t* words, const double* exponents)
      : size(*reinterpret_cast<const Sizes*>(words)), exponent(exponents),
        block(reinterpret_cast<const ConeKktBlock*>(words + sizeof(Sizes) / sizeof(int32_t))),
        P_row(reinterpret_cast<const int32_t*>(block + size.blocks)), P_col(P_row + size.P), P_slot(P_col + size.P),
        A_row(P_slot + size.P), A_col(A_row + size.A), A_slot(A_col + size.A), block_of(A_slot + size.A),
        K_row(block_of + size.m), K_col(K_row + size.K), ldl(K_col + size.K) {}

  Sizes size;
  const double* exponent;                 // blocks: that of a power cone
  const ConeKktBlock* block;
  const int32_t *P_row, *P_col, *P_slot;  // P_slot: the entry of K that one of P adds to, half if it is off the diagonal
  const int32_t *A_row, *A_col, *A_slot;  // A_slot: the entry, or the first of `size` entries, that it adds to
  const int32_t* block_of;                // m
  const int32_t *K_row, *K_col;
  LdlPlan ldl;
};

}  // namespace optl
