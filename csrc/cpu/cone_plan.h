// What all cone programs on one pattern share: the entries of the KKT matrix, where the data go, and the blocks of cones.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/ldl_plan.h"

namespace optl {

enum ConeKind : int32_t { kZeroCone, kNonnegative, kSecondOrder, kSemidefinite, kExponentialCone, kPowerCone };

/// Where an m x n matrix may be nonzero; an entry given twice counts as a sum.
struct ConePattern {
  int32_t count;
  const int32_t *rows, *cols;
};

/// The rows of a product of cones, in this order; second_order holds dimensions, semidefinite orders.
struct ConeSizes {
  int32_t zero, nonneg;
  std::vector<int32_t> second_order, semidefinite;
  int32_t exponential, power;
};

/// Analyse programs with n variables. P may have entries in both triangles. Returns the words that ConePlan reads.
std::vector<int32_t> cone_analyse(int32_t n, const ConePattern& P, const ConePattern& A, const ConeSizes& cones);

/// A view of those words. K = [[P, A'], [A, -H]], its upper triangle as entries: those of P, by columns, then those of A,
/// by columns, then those of H. A large second-order cone has two variables more in K, after the rows: see `extra`.
struct ConePlan {
  struct Sizes {
    int32_t n, m, order;              // order: of K, n + m + the extra variables
    int32_t P_given, A_given;         // entries as the caller has them
    int32_t P, A, entries;            // entries of K from P, from A, and in all
    int32_t blocks, triples, degree;  // degree: that of the barrier, nu
    int32_t tallest;                  // rows of the largest block that is not a zero or nonnegative cone
    int32_t largest;                  // order of the largest semidefinite cone
    int32_t scalings;                 // entries of the scalings of all of them
  };
  /// Rows from `row`, `rows` of them; a semidefinite cone's `order`; its first entry in K. H of a block with more than one
  /// row is dense, upper triangle by columns, unless there is an `extra` variable (else -1): then it is the diagonal, the
  /// columns of that variable and of the next, and their diagonals. place: a power cone's exponent among theirs; where the
  /// scaling of a semidefinite cone is among theirs, of 2 order^2 + order entries each.
  struct Block {
    int32_t kind, row, rows, order, entry, extra, place;
  };

  explicit ConePlan(const int32_t* words);

  Sizes size;
  const Block* blocks;
  const int32_t *P_slot, *A_slot;    // of each given entry, among the entries of K
  const int32_t *P_start, *A_start;  // n + 1: first entry of K in each column of P, of A
  const int32_t *rows, *cols;        // of the entries of K
  LdlPlan ldl;
};

}  // namespace optl
