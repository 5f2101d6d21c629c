// What all factorizations of symmetric matrices on one sparsity pattern share: the order of elimination and the shape of L.
#pragma once

#include <cstdint>
#include <vector>

namespace optl {

/// Columns of L that a panel holds at most.
inline constexpr int32_t kPanelWidth = 32;

/// An order of the vertices of a graph in which eliminating them makes few new edges, by approximate minimum degree
/// (Amestoy, Davis and Duff, 1996): order[k] is the k-th to go. `neighbours` of each vertex, both ways, no loops; spent.
std::vector<int32_t> minimum_degree(std::vector<std::vector<int32_t>> neighbours);

/// Analyse the pattern of a symmetric n x n matrix: `entries` pairs (row, col), each in either triangle, an entry given
/// twice counting as a sum. The diagonal is always there. Returns the words that LdlPlan reads.
std::vector<int32_t> ldl_analyse(int32_t n, int32_t entries, const int32_t* rows, const int32_t* cols);

/// A view of those words. Columns of L of like pattern form a supernode, stored as one dense panel: column-major, the
/// `width` rows of its diagonal block first and the rows of `rows` below. Pivots are numbered as they are eliminated.
struct LdlPlan {
  struct Sizes {
    int32_t n, supernodes, rows, values, updates, entries, height;  // height: of the tallest panel
  };
  /// Rows from `from` of supernode `source`, `count` of them, are columns of the supernode that is updated.
  struct Update {
    int32_t source, from, count;
  };

  explicit LdlPlan(const int32_t* words);

  Sizes size;
  const int32_t *order;         // n: the original index of each pivot
  const int32_t *first;         // supernodes + 1: first pivot of each
  const int32_t *row_start;     // supernodes + 1: its part of rows
  const int32_t *rows;          // pivots below the diagonal block, ascending
  const int32_t *panel;         // supernodes + 1: where its panel starts among the values
  const int32_t *update_start;  // supernodes + 1: its part of updates, by ascending source
  const Update *updates;
  const int32_t *slot;          // entries: the place of each among the values
  const int32_t *diagonal;      // n: the place of each original diagonal entry

  int32_t width(int32_t s) const { return first[s + 1] - first[s]; }
  int32_t below(int32_t s) const { return row_start[s + 1] - row_start[s]; }
};

}  // namespace optl
