// LDL' of sparse symmetric matrices on one pattern: of one matrix (V = double), or of one in each lane (V = Vec).
#pragma once

#include <algorithm>

#include "cpu/ldl_plan.h"
#include "cpu/vec.h"

namespace optl::OPTL_ISA {

#if defined(__AVX512F__)
inline constexpr int kLdlRows = 4;  // 16 of 32 registers accumulate
#else
inline constexpr int kLdlRows = 2;  // 8 of 16
#endif
inline constexpr int kLdlColumns = 4;

// A tile is R x C vectors: one row each where a lane is a matrix, kWidth rows of one matrix else, single rows at the end.
template <class Row, class V>
inline constexpr int kTileRowsOf = sizeof(Row) / sizeof(V);
template <class Row, class V>
inline Row rows_at(const V* at) { Row row; std::memcpy(&row, at, sizeof row); return row; }
template <class Row, class V>
inline void put_rows(V* at, const Row& row) { std::memcpy(at, &row, sizeof row); }
template <class Row, class V>
inline Row as_row(const V& v) {
  if constexpr (sizeof(Row) == sizeof(V)) return v;
  else return splat(v);
}
inline double minus_product(double a, double b, double c) { return c - a * b; }
inline Vec minus_product(const Vec& a, const Vec& b, const Vec& c) { return subtract_product(a, b, c); }
inline double one_over(double v) { return 1 / v; }
inline Vec one_over(const Vec& v) {
  Vec one = splat(1.0);
#if defined(__GNUC__)
  return one / v;
#else
  for (int l = 0; l < kWidth; ++l) one[l] /= v[l];
  return one;
#endif
}
inline double zero_like(double) { return 0; }
inline Vec zero_like(const Vec&) { return splat(0.0); }

/// d, or `sign * least` where sign * d is not at least that; so for NaN.
inline double right_sign(double d, double sign, double least) { return sign * d >= least ? d : sign * least; }
inline Vec right_sign(Vec d, double sign, double least) {
  for (int l = 0; l < kWidth; ++l) d[l] = right_sign(d[l], sign, least);
  return d;
}

/// Entries of V that `ldl_factor` works in, `ldl_solve` in fewer; and those of a factor.
inline int64_t ldl_workspace(const LdlPlan& plan) {
  return int64_t{kPanelWidth} * kLdlColumns + std::max<int64_t>(plan.size.height, plan.size.n) + kWidth;
}
inline int64_t ldl_values(const LdlPlan& plan) { return plan.size.values + plan.size.n; }

/// Put the entries of a matrix where the factorization expects them.
template <class V>
void ldl_load(const LdlPlan& plan, const V* entries, V* L) {
  std::fill_n(L, plan.size.values, zero_like(V{}));
  for (int32_t e = 0; e < plan.size.entries; ++e) L[plan.slot[e]] += entries[e];
}

/// The panel of a supernode: L below the diagonal, on the diagonal the inverses of D.
template <class V>
struct LdlPanel {
  V* values;
  V* D;
  int64_t height, width;
};

/// acc(r, c) -= sum over `count` columns k of L(r, k) M(k, c).
template <class Row, int R, int C, class V>
inline void ldl_accumulate(const V* L, int64_t height, const V* M, int64_t count, Row (&acc)[R][C]) {
  for (int64_t k = 0; k < count; ++k, L += height, M += C) {
    Row left[R];
    for (int r = 0; r < R; ++r) left[r] = rows_at<Row>(L + r * kTileRowsOf<Row, V>);
    for (int c = 0; c < C; ++c) {
      const Row right = as_row<Row>(M[c]);
      for (int r = 0; r < R; ++r) acc[r][c] = minus_product(left[r], right, acc[r][c]);
    }
  }
}

/// M(k, c) = D_k L(c, k) for C rows of `count` columns.
template <int C, class V>
inline void ldl_scaled_rows(const V* L, int64_t height, const V* D, int64_t count, V* M) {
  for (int64_t k = 0; k < count; ++k, L += height, M += C) {
    for (int c = 0; c < C; ++c) M[c] = D[k] * L[c];
  }
}

/// run<Row, R>(i) for all rows from `from` to `end`, in tiles as large as there is room for.
template <class V, class Run>
inline void ldl_for_tiles(int64_t from, int64_t end, const Run& run) {
  constexpr int step = sizeof(Vec) / sizeof(V);
  int64_t i = from;
  for (; i + kLdlRows * step <= end; i += kLdlRows * step) run.template operator()<Vec, kLdlRows>(i);
  for (; i + step <= end; i += step) run.template operator()<Vec, 1>(i);
  if constexpr (step > 1) {
    for (; i < end; ++i) run.template operator()<V, 1>(i);
  }
}

/// Columns j.. of a panel, C of them: what the columns before them take, the diagonal block, and the rows below it.
template <int C, class V>
inline void ldl_columns(const LdlPanel<V>& p, int64_t j, const double* sign, double least, V* M) {
  V* const at = p.values + j * p.height;
  ldl_scaled_rows<C>(p.values + j, p.height, p.D, j, M);
  for (int64_t i = j; i < j + C; ++i) {
    V acc[1][C];
    for (int c = 0; c < C; ++c) acc[0][c] = at[c * p.height + i];
    ldl_accumulate<V>(p.values + i, p.height, M, j, acc);
    for (int c = 0; c < C; ++c) at[c * p.height + i] = acc[0][c];
  }
  V unit[C][C] = {}, inverse[C];
  for (int c = 0; c < C; ++c) {
    V* const column = at + c * p.height + j;
    for (int b = 0; b < c; ++b) {
      for (int i = c; i < C; ++i) column[i] -= at[b * p.height + j + i] * p.D[j + b] * unit[c][b];
    }
    const V d = p.D[j + c] = right_sign(column[c], sign[c], least);
    column[c] = inverse[c] = one_over(d);
    for (int i = c + 1; i < C; ++i) column[i] = unit[i][c] = column[i] * inverse[c];
  }
  ldl_for_tiles<V>(j + C, p.height, [&]<class Row, int R>(int64_t i) {
    Row acc[R][C];
    constexpr int step = kTileRowsOf<Row, V>;
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < C; ++c) acc[r][c] = rows_at<Row>(at + c * p.height + i + r * step);
    }
    ldl_accumulate<Row>(p.values + i, p.height, M, j, acc);
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < C; ++c) {
        for (int b = 0; b < c; ++b) acc[r][c] = minus_product(acc[r][b], as_row<Row>(unit[c][b]), acc[r][c]);
      }
      for (int c = 0; c < C; ++c) put_rows(at + c * p.height + i + r * step, acc[r][c] * as_row<Row>(inverse[c]));
    }
  });
}

/// Take from a panel what C rows of an earlier one, its rows `from`.., contribute. place[i] is where pivot i is in the
/// target, `rows` those of the source below its diagonal block.
template <int C, class V>
inline void ldl_update(const LdlPanel<V>& source, const int32_t* rows, int64_t below, int64_t from, int32_t column,
                       const int32_t* place, const LdlPanel<V>& target, V* M) {
  const V* const L = source.values + source.width;
  ldl_scaled_rows<C>(L + from, source.height, source.D, source.width, M);
  V* columns[C];
  for (int c = 0; c < C; ++c) columns[c] = target.values + (rows[from + c] - column) * target.height;
  ldl_for_tiles<V>(from, below, [&]<class Row, int R>(int64_t i) {
    constexpr int step = kTileRowsOf<Row, V>;
    Row acc[R][C];
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < C; ++c) acc[r][c] = as_row<Row>(zero_like(V{}));
    }
    ldl_accumulate<Row>(L + i, source.height, M, source.width, acc);
    for (int r = 0; r < R; ++r) {
      for (int l = 0; l < step; ++l) {
        const int32_t to = place[rows[i + r * step + l]];
        for (int c = 0; c < C; ++c) {
          if constexpr (step == 1) columns[c][to] += acc[r][c];
          else columns[c][to] += acc[r][c][l];
        }
      }
    }
  });
}

/// run<C>(j) for columns from 0 to `width`, four at a time.
template <class Run>
inline void ldl_for_columns(int64_t width, const Run& run) {
  int64_t j = 0;
  for (; j + kLdlColumns <= width; j += kLdlColumns) run.template operator()<kLdlColumns>(j);
  switch (width - j) {
    case 3: return run.template operator()<3>(j);
    case 2: return run.template operator()<2>(j);
    case 1: return run.template operator()<1>(j);
  }
}

/// Factor P'KP = L D L' in place, L as `ldl_load` filled it: ldl_values(plan) entries. sign: n, in the order of the
/// matrix, that of each pivot; one that is not of its sign, and at least `least` in size, is replaced by sign * least.
/// work: ldl_workspace(plan) entries; place: n. Does not allocate.
template <class V>
void ldl_factor(const LdlPlan& plan, const double* sign, double least, V* L, V* work, int32_t* place) {
  V* const D = L + plan.size.values;
  const auto panel = [&](int32_t s) {
    return LdlPanel<V>{L + plan.panel[s], D + plan.first[s], plan.width(s) + plan.below(s), plan.width(s)};
  };
  for (int32_t s = 0; s < plan.size.supernodes; ++s) {
    const LdlPanel<V> target = panel(s);
    const int32_t *rows = plan.rows + plan.row_start[s], first = plan.first[s];
    for (int32_t k = 0; k < target.width; ++k) place[first + k] = k;
    for (int32_t i = 0; i < plan.below(s); ++i) place[rows[i]] = static_cast<int32_t>(target.width) + i;
    for (int32_t u = plan.update_start[s]; u < plan.update_start[s + 1]; ++u) {
      const LdlPlan::Update update = plan.updates[u];
      const LdlPanel<V> source = panel(update.source);
      ldl_for_columns(update.count, [&]<int C>(int64_t c) {
        ldl_update<C>(source, plan.rows + plan.row_start[update.source], plan.below(update.source), update.from + c,
                      first, place, target, work);
      });
    }
    ldl_for_columns(target.width, [&]<int C>(int64_t j) {
      double own[C];
      for (int c = 0; c < C; ++c) own[c] = sign[plan.order[first + j + c]];
      ldl_columns<C>(target, j, own, least, work);
    });
  }
}

/// Solve K x = x in place, x in the order of the matrix. work: ldl_workspace(plan) entries. Does not allocate.
template <class V>
void ldl_solve(const LdlPlan& plan, const V* L, V* x, V* work) {
  V* const y = work;
  for (int32_t k = 0; k < plan.size.n; ++k) y[k] = x[plan.order[k]];
  for (int32_t s = 0; s < plan.size.supernodes; ++s) {
    const int64_t width = plan.width(s), below = plan.below(s), height = width + below;
    const int32_t* const rows = plan.rows + plan.row_start[s];
    const V* const panel = L + plan.panel[s];
    V* const own = y + plan.first[s];
    ldl_for_columns(width, [&]<int C>(int64_t j) {
      V v[C];
      const V* const at = panel + j * height;
      for (int c = 0; c < C; ++c) {
        v[c] = own[j + c];
        for (int b = 0; b < c; ++b) v[c] = minus_product(at[b * height + j + c], v[b], v[c]);
        own[j + c] = v[c];
      }
      const auto take = [&](int64_t i, V& from) {
        for (int c = 0; c < C; ++c) from = minus_product(at[c * height + i], v[c], from);
      };
      for (int64_t i = j + C; i < width; ++i) take(i, own[i]);
      for (int64_t i = 0; i < below; ++i) take(width + i, y[rows[i]]);
      for (int c = 0; c < C; ++c) own[j + c] = v[c] * at[c * height + j + c];
    });
  }
  for (int32_t s = plan.size.supernodes - 1; s >= 0; --s) {
    const int64_t width = plan.width(s), below = plan.below(s), height = width + below;
    const int32_t* const rows = plan.rows + plan.row_start[s];
    const V* const panel = L + plan.panel[s];
    V* const own = y + plan.first[s];
    const int64_t tail = width % kLdlColumns;
    const auto take = [&]<int C>(int64_t j) {
      V acc[C];
      const V* const at = panel + j * height;
      for (int c = 0; c < C; ++c) acc[c] = own[j + c];
      const auto add = [&](int64_t i, const V& v) {
        for (int c = 0; c < C; ++c) acc[c] = minus_product(at[c * height + i], v, acc[c]);
      };
      for (int64_t i = j + C; i < width; ++i) add(i, own[i]);
      for (int64_t i = 0; i < below; ++i) add(width + i, y[rows[i]]);
      for (int c = C - 1; c >= 0; --c) {
        for (int b = c + 1; b < C; ++b) acc[c] = minus_product(at[c * height + j + b], acc[b], acc[c]);
        own[j + c] = acc[c];
      }
    };
    switch (tail) {
      case 3: take.template operator()<3>(width - tail); break;
      case 2: take.template operator()<2>(width - tail); break;
      case 1: take.template operator()<1>(width - tail); break;
    }
    for (int64_t j = width - tail - kLdlColumns; j >= 0; j -= kLdlColumns) take.template operator()<kLdlColumns>(j);
  }
  for (int32_t k = 0; k < plan.size.n; ++k) x[plan.order[k]] = y[k];
}

/// out = K x for the symmetric matrix whose entries, each in either triangle, are at (rows[e], cols[e]).
template <class V>
void symmetric_product(int32_t n, int32_t entries, const int32_t* rows, const int32_t* cols, const V* values,
                       const V* x, V* out) {
  std::fill_n(out, n, zero_like(V{}));
  for (int32_t e = 0; e < entries; ++e) {
    const int32_t i = rows[e], j = cols[e];
    out[i] += values[e] * x[j];
    if (i != j) out[j] += values[e] * x[i];
  }
}

}  // namespace optl::OPTL_ISA
