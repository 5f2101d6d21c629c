// One equilibrated quadratic program in the workspace: loading, scaling, products, and its condensed factorisation.
#pragma once

#include <algorithm>
#include <limits>

#include "api.h"
#include "cpu/cholesky.h"
#include "optlayers/qp_rules.h"

namespace optl::OPTL_ISA {

using rules::Kind;

/// Hands out the workspace; on a null pointer it only counts.
struct Arena {
  double* base;
  int64_t used = 0;
  double* take(int64_t count) {
    double* out = base ? base + used : nullptr;
    used += (count + 7) / 8 * 8;
    return out;
  }
};

/// A factor of Q + rho I + C' diag(weight) C, of doubles or, in the same place, of floats.
struct Factor {
  Cholesky<double> exact;
  Cholesky<float> quick;
  bool is_quick = false;

  Factor(int64_t n, Arena& arena) : exact{}, quick{} {
    exact.n = quick.n = n, exact.ld = quick.ld = padded(n);
    exact.U = arena.take(exact.order() * panel_columns<double>(exact.ld)), exact.inverse = arena.take(exact.ld);
    exact.blocks = arena.take(std::max(Cholesky<double>::block_size(exact.ld), Cholesky<float>::block_size(exact.ld) / 2));
    quick.U = reinterpret_cast<float*>(exact.U), quick.inverse = reinterpret_cast<float*>(exact.inverse);
    quick.blocks = reinterpret_cast<float*>(exact.blocks), rounded_ = reinterpret_cast<float*>(arena.take(exact.ld));
  }

  void solve(double* x) const {
    if (!is_quick) return exact.solve(x);
    double most = 0;  // floats have no room for large and small units
    for (int64_t j = 0; j < exact.ld; ++j) most = rules::most(std::fabs(x[j]), most);
    const double unit = most > 0 ? most : 1;
    for (int64_t j = 0; j < exact.ld; ++j) rounded_[j] = static_cast<float>(x[j] / unit);
    quick.solve(rounded_);
    for (int64_t j = 0; j < exact.ld; ++j) x[j] = unit * static_cast<double>(rounded_[j]);
  }

 private:
  float* rounded_;
};

/// The N = k + m + (n) + (n) rows [A; G; -I; I] share one index; matrices have rows padded to ld with zeros.
struct Program {
  int64_t n, ld, k, m, lower, upper, dense, N;
  double *Q, *C, *p, *c;         // ld x ld, dense x ld, ld, N; scaled, c = [b; h; -lb; ub] with 0 at absent rows
  double *column, *row, cost;    // x = column * x_scaled, multiplier = row * scaled / cost, slack = scaled / row
  double *S_, *diagonal;         // dense rows in panels, ld: scratch of `factor`
  double *size, *scratch;        // ld, ld
  Kind* kind;                    // N
  int threads = 1;               // that share the large products and factorisations

  Program(const QpSizes& sizes, Arena& arena)
      : n(sizes.n), ld(padded(n)), k(sizes.k), m(sizes.m), lower(sizes.lower), upper(sizes.upper), dense(k + m),
        N(dense + lower + upper), cost(1) {
    Q = arena.take(ld * ld), C = arena.take(dense * ld), p = arena.take(ld), c = arena.take(N);
    column = arena.take(ld), row = arena.take(N);
    S_ = arena.take(dense * panel_columns<double>(ld)), diagonal = arena.take(ld);
    size = arena.take(ld), scratch = arena.take(ld);
    kind = reinterpret_cast<Kind*>(arena.take(N));
  }

  /// Copy `rows` rows into padded storage.
  template <class T>
  void load_rows(const T* from, int64_t rows, double* to) const {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < n; ++j) to[i * ld + j] = static_cast<double>(from[i * n + j]);
      for (int64_t j = n; j < ld; ++j) to[i * ld + j] = 0;
    }
  }

  /// (Q + Q')/2, with one over its largest entry in `cost`, and the raw rows [A; G].
  template <class T>
  void load(const T* Q_in, const T* A_in, const T* G_in) {
    load_symmetric(Q_in);
    load_rows(A_in, k, C);
    load_rows(G_in, m, C + k * ld);
  }

  template <class T>
  void load_symmetric(const T* from) {
    constexpr int64_t kTile = 8;  // reads of columns stay in the cache
    double most = 0;
    for (int64_t top = 0; top < n; top += kTile) {
      for (int64_t left = 0; left <= top; left += kTile) {
        for (int64_t i = top; i < std::min(top + kTile, n); ++i) {
          for (int64_t j = left; j < std::min(left + kTile, i + 1); ++j) {
            const double v = 0.5 * (static_cast<double>(from[i * n + j]) + static_cast<double>(from[j * n + i]));
            Q[i * ld + j] = Q[j * ld + i] = v;
            most = rules::most(std::fabs(v), most);
          }
        }
      }
      for (int64_t i = top; i < std::min(top + kTile, n); ++i) std::fill(Q + i * ld + n, Q + (i + 1) * ld, 0.0);
    }
    std::fill(Q + n * ld, Q + ld * ld, 0.0);
    cost = most > 0 ? 1 / most : 1;
  }

  /// Ruiz factors of [[Q, C'], [C, 0]] as powers of two (IPM-3), of Q brought to max-norm one by `cost`.
  void equilibrate() {
    for (int64_t j = 0; j < ld; ++j) column[j] = j < n;
    for (int64_t i = 0; i < dense; ++i) row[i] = rules::divide(1, largest(C + i * ld, n));
    for (int pass = 0; pass < rules::kRuizPasses; ++pass) {
      for (int64_t j = 0; j < ld; ++j) size[j] = scratch[j] = 0;
      // Q is symmetric: one triangle tells the largest entries of columns, scaled by the rows they stand in.
      raise(Q, n, true, column, size, [&](int64_t i, double most) { size[i] = rules::most(size[i], most); });
      raise(C, dense, false, row, scratch, [&](int64_t i, double most) {
        row[i] = rules::divide(row[i], std::sqrt(row[i] * most));
      });
      for (int64_t j = 0; j < n; ++j) {
        const double most = column[j] * rules::most(cost * size[j], scratch[j]);
        column[j] = rules::divide(column[j], std::sqrt(most));
      }
    }
    for (int64_t j = 0; j < n; ++j) column[j] = rules::power_of_two(column[j]);
    for (int64_t i = 0; i < dense; ++i) row[i] = rules::power_of_two(row[i]);
    for (int64_t j = 0; j < lower; ++j) row[dense + j] = 1 / column[j];
    for (int64_t j = 0; j < upper; ++j) row[dense + lower + j] = 1 / column[j];
  }

  /// Scale Q, p and the rows, exactly; bring the cost to one (IPM-3).
  void scale() {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) {
      total += scale_row(Q + i * ld, column[i]);
      p[i] *= column[i];
    }
    cost = rules::power_of_two(rules::divide(1, rules::most(largest(p, n), total / static_cast<double>(n))));
    const Vec unit = splat(cost);
    for (int64_t i = 0; i < n * ld; i += kWidth) store(Q + i, unit * optl::OPTL_ISA::load(Q + i));
    for (int64_t i = 0; i < n; ++i) p[i] *= cost;
    for (int64_t i = 0; i < dense; ++i) scale_row(C + i * ld, row[i]);
  }

  /// out = Q x; out and x are padded.
  void quadratic(const double* x, double* out) const {
    multiply(Q, ld, x, out);
  }

  /// out = [A; G; -I; I] x, zero at absent rows.
  void rows(const double* x, double* out) const {
    multiply(C, dense, x, out);
    for (int64_t i = 0; i < dense; ++i) out[i] = kind[i] ? out[i] : 0;
    for (int64_t j = 0; j < lower; ++j) out[dense + j] = kind[dense + j] ? -x[j] : 0;
    for (int64_t j = 0; j < upper; ++j) out[dense + lower + j] = kind[dense + lower + j] ? x[j] : 0;
  }

  /// out = [A; G; -I; I]' v for v that is zero at absent rows.
  void adjoint(const double* v, double* out) const {
    split(threads, ld, kPad, dense * ld, [&](int64_t from, int64_t end) {
      std::fill(out + from, out + end, 0.0);
      add_rows(C + from, dense, ld, end - from, v, out + from);
    });
    for (int64_t j = 0; j < lower; ++j) out[j] -= v[dense + j];
    for (int64_t j = 0; j < upper; ++j) out[j] += v[dense + lower + j];
  }

  /// Factor Q + rho I + C' diag(weight) C (IPM-6). A rho that rounding swallows is raised, a hundredfold at a time.
  bool factor(const double* weight, Factor& out) { return factor(weight, out, out.exact, rules::kRho, 4); }

  /// The same in floats.
  bool quick_factor(const double* weight, Factor& out) { return factor(weight, out, out.quick, rules::kQuickRho, 1); }

  /// Whether Q, as `load` left it, is positive semidefinite up to the rounding of its dtype.
  bool convex(double input_eps, Factor& out) {
    const double size = static_cast<double>(n), room = (size + 2) * size * std::numeric_limits<float>::epsilon();
    return has_cholesky(-room, out.quick) || has_cholesky(rules::most(1e-8, 4 * size * input_eps), out.exact);
  }

 private:
  void multiply(const double* matrix, int64_t count, const double* x, double* out) const {
    split(threads, count, 4, count * ld, [&](int64_t from, int64_t end) {
      multiply_rows(matrix + from * ld, end - from, ld, x, out + from);
    });
  }

  /// v_j <- factor column_j v_j; returns the largest |v_j|.
  double scale_row(double* v, double factor) const {
    const Vec scale = splat(factor);
    Vec lane = splat(0.0);
    for (int64_t j = 0; j < ld; j += kWidth) {
      const Vec scaled = optl::OPTL_ISA::load(v + j) * (scale * optl::OPTL_ISA::load(column + j));
      store(v + j, scaled);
      lane = optl::OPTL_ISA::most(absolute(scaled), lane);
    }
    double top = 0;
    for (int l = 0; l < kWidth; ++l) top = rules::most(lane[l], top);
    return top;
  }

  /// out_j <- max_i scale_i |a_ij|, and found(i, max_j |a_ij| column_j); of the upper triangle if that is enough.
  template <class Found>
  void raise(const double* a, int64_t rows, bool upper_half, const double* scale, double* out, const Found& found) const {
    double top[4];
    int64_t i = 0;
    const auto first = [&] { return upper_half ? i - i % kWidth : 0; };
    for (; i + 4 <= rows; i += 4) {
      largest_scaled<4>(a + i * ld, ld, first(), column, scale + i, out, top);
      for (int r = 0; r < 4; ++r) found(i + r, top[r]);
    }
    for (; i < rows; ++i) {
      largest_scaled<1>(a + i * ld, ld, first(), column, scale + i, out, top);
      found(i, top[0]);
    }
  }

  template <class S>
  bool factor(const double* weight, Factor& out, Cholesky<S>& cholesky, double rho, int attempts) {
    cholesky.rows = std::count_if(weight, weight + dense, [](double w) { return w != 0; });
    S* const weighted = reinterpret_cast<S*>(S_);
    cholesky.threads = threads;
    split(threads, ld, kPanel<S>, cholesky.rows * ld, [&](int64_t from, int64_t end) {
      weigh(weight, cholesky.rows, from, end, weighted);
    });
    out.is_quick = sizeof(S) == sizeof(float);
    for (int attempt = 0; attempt < attempts; ++attempt, rho *= 100) {
      for (int64_t j = 0; j < ld; ++j) diagonal[j] = j < n ? rho : 1;
      for (int64_t j = 0; j < lower; ++j) diagonal[j] += weight[dense + j];
      for (int64_t j = 0; j < upper; ++j) diagonal[j] += weight[dense + lower + j];
      if (cholesky.factor(Q, diagonal, weighted)) return true;
    }
    return false;
  }

  /// Whether Q, its largest entry taken for one, and the shift make a matrix with a Cholesky factor.
  template <class S>
  bool has_cholesky(double shift, Cholesky<S>& cholesky) {
    for (int64_t j = 0; j < ld; ++j) diagonal[j] = j < n ? shift / cost : 1;
    cholesky.rows = 0, cholesky.threads = threads;
    return cholesky.factor(Q, diagonal, nullptr);
  }

  /// The columns [first, last) of the `count` rows of C that have a weight, times its root, in panels.
  template <class S>
  void weigh(const double* weight, int64_t count, int64_t first, int64_t last, S* to) const {
    for (int64_t i = 0; i < dense; ++i) {
      if (weight[i] == 0) continue;
      const auto root = splat(static_cast<S>(std::sqrt(weight[i])));
      const double* row = C + i * ld;
      for (int64_t j = first; j < last; j += kPanel<S>) {
        const int64_t end = last - j < kPanel<S> ? last - j : kPanel<S>;
        for (int64_t c = 0; c < end; c += kLanes<S>) store(to + j * count + c, root * load_as<S>(row + j + c));
      }
      to += kPanel<S>;
    }
  }
};

/// The system of some rows as equalities, regularised and refined (IPM-11): Q dx + C_a' dual = r_x, C_a dx = r_row for
/// the rows a with weight full(), others having weight 0. r_x (padded) and r_row (0 at the others) are inputs.
struct ActiveSet {
  Factor factor;
  bool quick = false;                    // factor in floats: more refinement, to an accuracy that is enough for them
  double *r_x, *r_row, *weight;
  double *dx, *dual;                     // the solution
  double *new_x, *new_dual, *new_moved;  // what the last step has led to; new_moved = C new_x, at all rows

  ActiveSet(const Program& q, Arena& arena) : factor(q.n, arena) {
    for (double** v : {&r_x, &dx, &new_x, &e_x_, &step_}) *v = arena.take(q.ld);
    for (double** v : {&r_row, &weight, &dual, &new_dual, &new_moved, &moved_, &e_row_}) *v = arena.take(q.N);
  }

  double full() const { return 1 / (quick ? rules::kQuickDelta : rules::kDelta); }

  /// Factor and take the first step, which solves the system up to its regularisation. False if there is no factor.
  bool start(Program& q) {
    if (!(quick ? q.quick_factor(weight, factor) : q.factor(weight, factor))) return false;
    for (int64_t j = 0; j < q.ld; ++j) dx[j] = 0, e_x_[j] = r_x[j];
    for (int64_t i = 0; i < q.N; ++i) dual[i] = moved_[i] = 0, e_row_[i] = r_row[i];
    step(q);
    return true;
  }

  /// Refine, from zero and the first step on: so a consistent singular system ends at its solution of least norm.
  /// Returns the max-norm of the residual.
  double refine(const Program& q) {
    const int passes = quick ? rules::kQuickRefinements : rules::kRefinements;
    double best = rules::larger(largest(r_x, q.n), largest(r_row, q.N));
    const double enough = quick ? 0.1 * rules::kQuickPolished * best : 0;
    for (int pass = 1;; ++pass) {
      q.quadratic(new_x, e_x_);
      q.adjoint(new_dual, step_);
      for (int64_t j = 0; j < q.ld; ++j) e_x_[j] = r_x[j] - e_x_[j] - step_[j];
      for (int64_t i = 0; i < q.N; ++i) e_row_[i] = weight[i] != 0 ? r_row[i] - new_moved[i] : 0;
      const double error = rules::larger(largest(e_x_, q.n), largest(e_row_, q.N));
      if (!(error < best)) return best;
      std::copy(new_x, new_x + q.ld, dx);
      std::copy(new_dual, new_dual + q.N, dual);
      std::copy(new_moved, new_moved + q.N, moved_);
      const bool worthwhile = error < 0.5 * best;
      best = error;
      if (!worthwhile || error <= enough || pass == passes) return best;
      step(q);
    }
  }

  /// Both; the residual is infinite where there is no factor.
  double solve(Program& q) { return start(q) ? refine(q) : std::numeric_limits<double>::infinity(); }

 private:
  double *e_x_, *e_row_, *step_, *moved_;  // moved_ = C dx

  /// From the kept solution and its residual e_ to a new one.
  void step(const Program& q) {
    for (int64_t i = 0; i < q.N; ++i) new_moved[i] = weight[i] * e_row_[i];
    q.adjoint(new_moved, step_);
    for (int64_t j = 0; j < q.ld; ++j) step_[j] += e_x_[j];
    factor.solve(step_);
    q.rows(step_, new_moved);
    for (int64_t j = 0; j < q.ld; ++j) new_x[j] = dx[j] + step_[j];
    for (int64_t i = 0; i < q.N; ++i) {
      new_dual[i] = dual[i] + weight[i] * (new_moved[i] - e_row_[i]);
      new_moved[i] += moved_[i];
    }
  }
};

}  // namespace optl::OPTL_ISA
