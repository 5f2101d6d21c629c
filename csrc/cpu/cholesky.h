// Q + diag + S'S = U'U and solves with it, in register tiles on column panels, blocked for two levels of cache.
#pragma once

#include "cpu/team.h"
#include "cpu/vec.h"

namespace optl::OPTL_ISA {

/// A matrix is stored in panels of this many columns, each panel row by row: products then read memory in order.
template <class S>
inline constexpr int64_t kPanel = kTileVecs * kLanes<S>;
template <class S>
inline constexpr int64_t panel_columns(int64_t ld) { return round_up(ld, kPanel<S>); }

/// Rows of a block, and the depth to which a product is taken before the next: a panel of that depth stays in the
/// first level of the cache, a block of it in the second.
inline constexpr int64_t kBlock = 96, kDepth = 128;
static_assert(kBlock % kTileRows == 0 && kBlock % kPanel<float> == 0);

/// acc +-= L' R over `count` rows: kTileRows columns of L, V vectors of R, both in panels.
template <bool kAdd, class S, int V>
OPTL_INLINE void accumulate(const S* L, const S* R, int64_t count, typename Simd<S>::Type (&acc)[kTileRows][V]) {
  const auto add = [&](int64_t row, typename Simd<S>::Type (&to)[kTileRows][V]) OPTL_INLINED {
    typename Simd<S>::Type right[V];
    OPTL_UNROLL for (int v = 0; v < V; ++v) right[v] = load(R + row * kPanel<S> + v * kLanes<S>);
    OPTL_UNROLL for (int a = 0; a < kTileRows; ++a) {
      const auto left = splat(L[row * kPanel<S> + a]);
      OPTL_UNROLL for (int v = 0; v < V; ++v) {
        to[a][v] = kAdd ? multiply_add(left, right[v], to[a][v]) : subtract_product(left, right[v], to[a][v]);
      }
    }
  };
  int64_t q = 0;
  if constexpr (kTileRows * V < 8) {  // too few sums to hide the latency of an addition
    typename Simd<S>::Type odd[kTileRows][V];
    OPTL_UNROLL for (int a = 0; a < kTileRows; ++a) {
      OPTL_UNROLL for (int v = 0; v < V; ++v) odd[a][v] = splat(S(0));
    }
    for (; q + 2 <= count; q += 2) add(q, acc), add(q + 1, odd);
    OPTL_UNROLL for (int a = 0; a < kTileRows; ++a) {
      OPTL_UNROLL for (int v = 0; v < V; ++v) acc[a][v] += odd[a][v];
    }
  }
  for (; q < count; ++q) add(q, acc);
}

/// U'U = Q + diag(diagonal) + S'S. Q: n rows of length ld = padded(n), upper triangle read; S and U in panels of
/// `rows` and order() rows.
template <class S>
class Cholesky {
 public:
  int64_t n, ld, rows = 0;
  int threads = 1;
  S *U, *inverse;  // `inverse` holds 1 / the diagonal of U
  S* blocks;       // for each panel the inverse of its diagonal block and the transpose of that, row by row

  static int64_t block_size(int64_t ld) { return 2 * kPanel<S> * panel_columns<S>(ld); }

  int64_t order() const { return round_up(n, kTileRows); }

  /// Does not allocate. False if a pivot is not positive (or NaN).
  bool factor(const double* Q, const double* diagonal, const S* weighted) {
    Q_ = Q, diagonal_ = diagonal, S_ = weighted;
    bool positive = true;
    as_team(threads, [&](const Member& me) { factor_panels(me, positive); });
    return positive;
  }

  /// Solve U'U x = x in place; x has length ld, zero beyond n.
  void solve(S* x) const {
    for (int64_t j = 0; j < ld; j += kPanel<S>) with_vectors(j, [&](auto count) { forward<count()>(j, x); });
    for (int64_t j = (ld - 1) / kPanel<S> * kPanel<S>; j >= 0; j -= kPanel<S>) {
      with_vectors(j, [&](auto count) { backward<count()>(j, x); });
    }
  }

 private:
  using V = typename Simd<S>::Type;
  const double *Q_ = nullptr, *diagonal_ = nullptr;
  const S* S_ = nullptr;

  template <int N>
  struct Count { constexpr int operator()() const { return N; } };

  /// run(number of vectors) for what is right of column j in its panel, of which the last may be narrower.
  template <class Run>
  void with_vectors(int64_t j, const Run& run) const {
    const int64_t end = j - j % kPanel<S> + kPanel<S>;
    const int64_t left = ((end < ld ? end : ld) - j) / kLanes<S>;
    if (left >= kTileVecs) return run(Count<kTileVecs>{});
    if constexpr (kTileVecs > 2) {
      if (left == 2) return run(Count<2>{});
    }
    run(Count<1>{});
  }

  /// Entry (i, j) of a matrix in panels of `height` rows.
  template <class P>
  static P* at(P* matrix, int64_t height, int64_t i, int64_t j) {
    return matrix + (j - j % kPanel<S>) * height + i * kPanel<S> + j % kPanel<S>;
  }

  template <int N>
  OPTL_INLINE void gather(int64_t i, int64_t j, bool fresh, V (&acc)[kTileRows][N]) const {
    OPTL_UNROLL for (int a = 0; a < kTileRows; ++a) {
      OPTL_UNROLL for (int v = 0; v < N; ++v) {
        acc[a][v] = fresh ? load_as<S>(Q_ + (i + a) * ld + j + v * kLanes<S>)
                          : load(at(U, order(), i + a, j) + v * kLanes<S>);
      }
    }
  }

  template <int N>
  OPTL_INLINE void put(int64_t i, int64_t j, const V (&acc)[kTileRows][N]) const {
    S* const to = at(U, order(), i, j);
    OPTL_UNROLL for (int a = 0; a < kTileRows; ++a) {
      OPTL_UNROLL for (int v = 0; v < N; ++v) store(to + a * kPanel<S> + v * kLanes<S>, acc[a][v]);
    }
  }

  /// What one thread of a team does: in each block of rows every so many panels, and the first one the diagonal block,
  /// which all others wait for.
  void factor_panels(const Member& me, bool& positive) {
    const int64_t step = kPanel<S> * me.count, mine = kPanel<S> * me.id;
    for (int64_t top = 0; top < order(); top += kBlock) {
      const int64_t end = top + kBlock < order() ? top + kBlock : order();
      const int64_t right = panel_columns<S>(end);
      // The products to take are those with the rows of S, then those with the rows of U above.
      int64_t from = 0;
      for (; rows + top - from > kDepth; from += kDepth) {
        for_tiles({top + mine, ld, step}, top, end, [&](int64_t i, int64_t j, auto count) {
          update<count()>(i, j, from);
          return true;
        });
      }
      const auto finish = [&](const Panels& panels) {
        return for_tiles(panels, top, end, [&](int64_t i, int64_t j, auto count) { return eliminate<count()>(i, j, from); });
      };
      me.wait();
      if (me.id == 0) positive = finish({top, right < ld ? right : ld, kPanel<S>});
      me.wait();
      if (!positive) return;
      finish({right + mine, ld, step});
      me.wait();
    }
    for (int64_t j = mine; j < order(); j += step) invert(j);
  }

  /// The first columns of some panels.
  struct Panels {
    int64_t from, end, step;
  };

  /// run(i, j, number of vectors) for the tiles of the rows [top, end) at the diagonal and right of it, panel by panel,
  /// as long as it returns true.
  template <class Run>
  bool for_tiles(const Panels& panels, int64_t top, int64_t end, const Run& run) const {
    bool going = true;
    for (int64_t panel = panels.from; panel < panels.end; panel += panels.step) {
      const int64_t left = end < panel ? end : panel;
      if (top < left) {
        with_vectors(panel, [&](auto count) {
          for (int64_t i = top; i < left; i += kTileRows) run(i, panel, count);
        });
      }
      for (int64_t i = left < top ? top : left; going && i < end && i < panel + kPanel<S>; i += kTileRows) {
        const int64_t j = i - i % kLanes<S>;
        with_vectors(j, [&](auto count) { going = run(i, j, count); });
      }
    }
    return going;
  }

  /// acc += the products of the rows [from, to), of S and then of U, with the columns of a tile.
  template <int N>
  OPTL_INLINE void add_products(int64_t i, int64_t j, int64_t from, int64_t to, V (&acc)[kTileRows][N]) const {
    if (from < rows) {
      const int64_t end = to < rows ? to : rows;
      accumulate<true, S>(at(S_, rows, from, i), at(S_, rows, from, j), end - from, acc);
      from = rows;
    }
    if (from >= to) return;
    accumulate<false, S>(at(U, order(), from - rows, i), at(U, order(), from - rows, j), to - from, acc);
  }

  /// The part of a tile's products that comes next, beginning with row `from`.
  template <int N>
  void update(int64_t i, int64_t j, int64_t from) {
    V acc[kTileRows][N];
    gather(i, j, from == 0, acc);
    add_products(i, j, from, from + kDepth, acc);
    put(i, j, acc);
  }

  /// The last part of a tile's products, and its elimination. False if a pivot is not positive.
  template <int N>
  bool eliminate(int64_t i, int64_t j, int64_t from) {
    V acc[kTileRows][N];
    gather(i, j, from == 0, acc);
    add_products(i, j, from, rows + i, acc);
    if (i >= j && !factor_diagonal(i, i - j, acc)) return false;
    OPTL_UNROLL for (int a = 0; a < kTileRows; ++a) {
      OPTL_UNROLL for (int b = 0; b < a; ++b) {
        const V factor = splat(*at(U, order(), i + b, i + a));
        OPTL_UNROLL for (int v = 0; v < N; ++v) acc[a][v] = subtract_product(factor, acc[b][v], acc[a][v]);
      }
      OPTL_UNROLL for (int v = 0; v < N; ++v) acc[a][v] = acc[a][v] * splat(inverse[i + a]);
    }
    put(i, j, acc);
    if (i >= j) clear_below(i);
    return true;
  }

  /// The square tile at (i, i), which begins at column `offset` of acc: its factor, into U and `inverse`; its diagonal
  /// in acc, on which elimination goes on.
  template <int N>
  OPTL_INLINE bool factor_diagonal(int64_t i, int64_t offset, V (&acc)[kTileRows][N]) const {
    constexpr int kSquare = kTileRows > kLanes<S> ? kTileRows / kLanes<S> : 1;  // vectors
    if constexpr (N >= kSquare) {
      S block[kTileRows][kSquare * kLanes<S>];
      OPTL_UNROLL for (int a = 0; a < kTileRows; ++a) {
        OPTL_UNROLL for (int v = 0; v < kSquare; ++v) store(block[a] + v * kLanes<S>, acc[a][v]);
      }
      for (int a = 0; a < kTileRows; ++a) {
        S* const row = block[a] + offset;
        for (int b = 0; b < a; ++b) {
          for (int c = a; c < kTileRows; ++c) row[c] -= block[b][offset + a] * block[b][offset + c];
        }
        const S pivot = row[a] + static_cast<S>(diagonal_[i + a]);
        if (!(pivot > 0)) return false;
        inverse[i + a] = 1 / std::sqrt(pivot);
        for (int c = a + 1; c < kTileRows; ++c) *at(U, order(), i + a, i + c) = row[c] *= inverse[i + a];
      }
      OPTL_UNROLL for (int a = 0; a < kTileRows; ++a) {
        V shift = splat(S(0));
        shift[(static_cast<int>(offset) + a) % kLanes<S>] = static_cast<S>(diagonal_[i + a]);
        acc[a][kSquare > 1 ? a / kLanes<S> : 0] += shift;
      }
    }
    return true;
  }

  /// Zeros below the diagonal of the tile at (i, i), within its panel.
  void clear_below(int64_t i) const {
    for (int a = 0; a < kTileRows; ++a) {
      for (S* c = at(U, order(), i + a, i - i % kPanel<S>), *end = at(U, order(), i + a, i + a); c < end; ++c) *c = 0;
    }
  }

  S* inverse_block(int64_t j) const { return blocks + 2 * kPanel<S> * j; }
  int64_t height(int64_t j) const { return order() - j < kPanel<S> ? order() - j : kPanel<S>; }

  /// The diagonal block of the panel at j: substitution would go one number at a time, a product does not.
  void invert(int64_t j) const {
    S *plain = inverse_block(j), *transposed = plain + kPanel<S> * kPanel<S>;
    std::memset(plain, 0, sizeof(S) * static_cast<size_t>(kPanel<S> * kPanel<S>));
    for (int64_t a = 0; a < height(j); ++a) {
      V acc[kTileVecs];
      OPTL_UNROLL for (int v = 0; v < kTileVecs; ++v) acc[v] = splat(S(0));
      for (int64_t b = 0; b < a; ++b) {
        const V factor = splat(*at(U, order(), j + b, j + a));
        OPTL_UNROLL for (int v = 0; v < kTileVecs; ++v) {
          acc[v] = subtract_product(factor, load(transposed + b * kPanel<S> + v * kLanes<S>), acc[v]);
        }
      }
      S* const row = transposed + a * kPanel<S>;
      OPTL_UNROLL for (int v = 0; v < kTileVecs; ++v) store(row + v * kLanes<S>, acc[v] * splat(inverse[j + a]));
      row[a] = inverse[j + a];
      for (int64_t b = 0; b <= a; ++b) plain[b * kPanel<S> + a] = row[b];
    }
  }

  /// out = +-M' x for `count` rows of M, added to what is there.
  template <bool kAdd, int N>
  static void combine(const S* M, const S* x, int64_t count, V (&out)[N]) {
    V odd[N];
    for (int v = 0; v < N; ++v) odd[v] = splat(S(0));
    int64_t i = 0;
    const auto add = [](const V& scale, const S* row, V& to) {
      to = kAdd ? multiply_add(scale, load(row), to) : subtract_product(scale, load(row), to);
    };
    for (; i + 2 <= count; i += 2, M += 2 * kPanel<S>) {
      const V first = splat(x[i]), second = splat(x[i + 1]);
      for (int v = 0; v < N; ++v) {
        add(first, M + v * kLanes<S>, out[v]);
        add(second, M + kPanel<S> + v * kLanes<S>, odd[v]);
      }
    }
    if (i < count) {
      for (int v = 0; v < N; ++v) add(splat(x[i]), M + v * kLanes<S>, out[v]);
    }
    for (int v = 0; v < N; ++v) out[v] += odd[v];
  }

  /// x_j <- block' x_j, over the panel at j.
  template <int N>
  void apply(const S* block, int64_t j, S* x) const {
    V out[N];
    for (int v = 0; v < N; ++v) out[v] = splat(S(0));
    combine<true>(block, x + j, height(j), out);
    for (int v = 0; v < N; ++v) store(x + j + v * kLanes<S>, out[v]);
  }

  /// The part of U'x = x in the panel at j, given all before.
  template <int N>
  void forward(int64_t j, S* x) const {
    V acc[N];
    for (int v = 0; v < N; ++v) acc[v] = load(x + j + v * kLanes<S>);
    combine<false>(at(U, order(), 0, j), x, j, acc);
    for (int v = 0; v < N; ++v) store(x + j + v * kLanes<S>, acc[v]);
    apply<N>(inverse_block(j), j, x);
  }

  /// The part of U x = x in the panel at j, given all after; then it is taken from the rows above.
  template <int N>
  void backward(int64_t j, S* x) const {
    apply<N>(inverse_block(j) + kPanel<S> * kPanel<S>, j, x);
    V known[N];
    for (int v = 0; v < N; ++v) known[v] = load(x + j + v * kLanes<S>);
    const S* row = at(U, order(), 0, j);
    for (int64_t i = 0; i < j; i += 4, row += 4 * kPanel<S>) {
      V acc[4];
      for (int r = 0; r < 4; ++r) {
        acc[r] = load(row + r * kPanel<S>) * known[0];
        for (int v = 1; v < N; ++v) acc[r] = multiply_add(load(row + r * kPanel<S> + v * kLanes<S>), known[v], acc[r]);
      }
      double sums[4];
      sum_lanes(acc, sums);
      for (int r = 0; r < 4; ++r) x[i + r] -= static_cast<S>(sums[r]);
    }
  }
};

}  // namespace optl::OPTL_ISA
