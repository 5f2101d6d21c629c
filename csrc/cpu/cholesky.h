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
inline void accumulate(const S* L, const S* R, int64_t count, typename Simd<S>::Type (&acc)[kTileRows][V]) {
  for (int64_t q = 0; q < count; ++q, L += kPanel<S>, R += kPanel<S>) {
    typename Simd<S>::Type right[V];
    for (int v = 0; v < V; ++v) right[v] = load(R + v * kLanes<S>);
    for (int a = 0; a < kTileRows; ++a) {
      const auto left = splat(L[a]);
      for (int v = 0; v < V; ++v) {
        acc[a][v] = kAdd ? multiply_add(left, right[v], acc[a][v]) : subtract_product(left, right[v], acc[a][v]);
      }
    }
  }
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
  void gather(int64_t i, int64_t j, bool fresh, V (&acc)[kTileRows][N]) const {
    for (int a = 0; a < kTileRows; ++a) {
      for (int v = 0; v < N; ++v) {
        acc[a][v] = fresh ? load_as<S>(Q_ + (i + a) * ld + j + v * kLanes<S>)
                          : load(at(U, order(), i + a, j) + v * kLanes<S>);
      }
    }
  }

  template <int N>
  void put(int64_t i, int64_t j, const V (&acc)[kTileRows][N]) const {
    for (int a = 0; a < kTileRows; ++a) {
      for (int v = 0; v < N; ++v) store(at(U, order(), i + a, j) + v * kLanes<S>, acc[a][v]);
    }
  }

  /// What one thread of a team does: in each block of rows every so many panels, and the first one the diagonal block,
  /// which all others wait for.
  void factor_panels(const Member& me, bool& positive) {
    const int64_t step = kPanel<S> * me.count, mine = kPanel<S> * me.id;
    for (int64_t top = 0; top < order(); top += kBlock) {
      const int64_t end = top + kBlock < order() ? top + kBlock : order();
      const int64_t right = panel_columns<S>(end);
      bool fresh = true;
      for (int64_t q = 0; q < rows; q += kDepth, fresh = false) {
        update<true>({top + mine, ld, step}, top, end, S_, rows, q, q + kDepth < rows ? q + kDepth : rows, fresh);
      }
      for (int64_t q = 0; q < top; q += kDepth, fresh = false) {
        update<false>({top + mine, ld, step}, top, end, U, order(), q, q + kDepth < top ? q + kDepth : top, fresh);
      }
      me.wait();
      if (me.id == 0) positive = finish({top, right < ld ? right : ld, kPanel<S>}, top, end, fresh);
      me.wait();
      if (!positive) return;
      finish({right + mine, ld, step}, top, end, fresh);
      me.wait();
    }
    for (int64_t j = mine; j < order(); j += step) invert(j);
  }

  /// The first columns of some panels.
  struct Panels {
    int64_t from, end, step;
  };

  /// run(i, j, number of vectors) for the tiles of the rows [top, end) at the diagonal and right of it, panel by panel.
  template <class Run>
  void for_tiles(const Panels& panels, int64_t top, int64_t end, const Run& run) const {
    for (int64_t panel = panels.from; panel < panels.end; panel += panels.step) {
      const int64_t left = end < panel ? end : panel;
      if (top < left) {
        with_vectors(panel, [&](auto count) {
          for (int64_t i = top; i < left; i += kTileRows) run(i, panel, count);
        });
      }
      for (int64_t i = left < top ? top : left; i < end && i < panel + kPanel<S>; i += kTileRows) {
        const int64_t j = i - i % kLanes<S>;
        with_vectors(j, [&](auto count) { run(i, j, count); });
      }
    }
  }

  /// +- the product of the rows [from, to) of a matrix, on the rows [top, end).
  template <bool kAdd>
  void update(const Panels& panels, int64_t top, int64_t end, const S* matrix, int64_t height, int64_t from, int64_t to,
              bool fresh) {
    for_tiles(panels, top, end, [&](int64_t i, int64_t j, auto count) {
      V acc[kTileRows][count()];
      gather(i, j, fresh, acc);
      accumulate<kAdd, S>(at(matrix, height, from, i), at(matrix, height, from, j), to - from, acc);
      put(i, j, acc);
    });
  }

  /// Eliminate the rows [top, end), to which all rows above are applied.
  bool finish(const Panels& panels, int64_t top, int64_t end, bool fresh) {
    bool positive = true;
    for_tiles(panels, top, end, [&](int64_t i, int64_t j, auto count) {
      if (!positive) return;
      V acc[kTileRows][count()];
      gather(i, j, fresh, acc);
      accumulate<false, S>(at(U, order(), top, i), at(U, order(), top, j), i - top, acc);
      if (i < j) {
        eliminate(i, j, acc);
      } else {
        positive = eliminate_diagonal(i, j, acc);
      }
    });
    return positive;
  }

  template <int N>
  void eliminate(int64_t i, int64_t j, V (&acc)[kTileRows][N]) const {
    for (int a = 0; a < kTileRows; ++a) {
      for (int b = 0; b < a; ++b) {
        const V factor = splat(*at(U, order(), i + b, i + a));
        for (int v = 0; v < N; ++v) acc[a][v] = subtract_product(factor, acc[b][v], acc[a][v]);
      }
      for (int v = 0; v < N; ++v) acc[a][v] = acc[a][v] * splat(inverse[i + a]);
    }
    put(i, j, acc);
  }

  template <int N>
  bool eliminate_diagonal(int64_t i, int64_t j, V (&acc)[kTileRows][N]) const {
    for (int a = 0; a < kTileRows; ++a) {
      S* row = at(U, order(), i + a, j);
      for (int b = 0; b < a; ++b) {
        const V factor = splat(*at(U, order(), i + b, i + a));
        for (int v = 0; v < N; ++v) acc[a][v] = subtract_product(factor, acc[b][v], acc[a][v]);
      }
      for (int v = 0; v < N; ++v) store(row + v * kLanes<S>, acc[a][v]);
      S& pivot = row[i + a - j];
      pivot += static_cast<S>(diagonal_[i + a]);
      if (!(pivot > 0)) return false;
      inverse[i + a] = 1 / std::sqrt(pivot);
      for (S* c = at(U, order(), i + a, j - j % kPanel<S>); c < &pivot; ++c) *c = 0;
      for (int v = 0; v < N; ++v) {
        acc[a][v] = load(row + v * kLanes<S>) * splat(inverse[i + a]);
        store(row + v * kLanes<S>, acc[a][v]);
      }
    }
    return true;
  }

  S* inverse_block(int64_t j) const { return blocks + 2 * kPanel<S> * j; }
  int64_t height(int64_t j) const { return order() - j < kPanel<S> ? order() - j : kPanel<S>; }

  /// The diagonal block of the panel at j: substitution would go one number at a time, a product does not.
  void invert(int64_t j) const {
    S *plain = inverse_block(j), *transposed = plain + kPanel<S> * kPanel<S>;
    for (int64_t a = 0; a < height(j); ++a) {
      S* row = transposed + a * kPanel<S>;
      V acc[kTileVecs];
      for (int v = 0; v < kTileVecs; ++v) acc[v] = splat(S(0));
      for (int64_t b = 0; b < a; ++b) {
        const V factor = splat(*at(U, order(), j + b, j + a));
        for (int v = 0; v < kTileVecs; ++v) {
          acc[v] = subtract_product(factor, load(transposed + b * kPanel<S> + v * kLanes<S>), acc[v]);
        }
      }
      const V scale = splat(inverse[j + a]);
      for (int v = 0; v < kTileVecs; ++v) store(row + v * kLanes<S>, acc[v] * scale);
      row[a] = inverse[j + a];
      for (int64_t b = 0; b < kPanel<S>; ++b) plain[b * kPanel<S> + a] = row[b];
    }
    for (int64_t a = 0; a < kPanel<S>; ++a) {
      for (int64_t b = height(j); b < kPanel<S>; ++b) plain[a * kPanel<S> + b] = 0;
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
