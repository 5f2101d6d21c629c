// One equilibrated quadratic program in the workspace: loading, scaling, products, and its condensed factorisation.
#pragma once

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

/// U'U = Q + rho I + C' diag(weight) C: the upper triangle U (ld x ld) and the inverses of its diagonal.
struct Factor {
  int64_t ld;
  double *U, *inverse;
  Factor(int64_t n, Arena& arena) : ld(padded(n)), U(arena.take(ld * ld)), inverse(arena.take(ld)) {}
  void solve(double* x) const { cholesky_solve(U, inverse, ld, x); }
};

/// The N = k + m + (n) + (n) rows [A; G; -I; I] share one index; matrices have rows padded to ld with zeros.
struct Program {
  int64_t n, ld, k, m, lower, upper, dense, N;
  double *Q, *C, *p, *c;         // ld x ld, dense x ld, ld, N; scaled, c = [b; h; -lb; ub] with 0 at absent rows
  double *column, *row, cost;    // x = column * x_scaled, multiplier = row * scaled / cost, slack = scaled / row
  double *S, *diagonal;          // dense x ld, ld: scratch of `factor`
  double *size, *scratch;        // ld, ld
  Kind* kind;                    // N

  Program(const QpSizes& sizes, Arena& arena)
      : n(sizes.n), ld(padded(n)), k(sizes.k), m(sizes.m), lower(sizes.lower), upper(sizes.upper), dense(k + m),
        N(dense + lower + upper), cost(1) {
    Q = arena.take(ld * ld), C = arena.take(dense * ld), p = arena.take(ld), c = arena.take(N);
    column = arena.take(ld), row = arena.take(N);
    S = arena.take(dense * ld), diagonal = arena.take(ld);
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
    double most = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        const double v = 0.5 * (static_cast<double>(Q_in[i * n + j]) + static_cast<double>(Q_in[j * n + i]));
        Q[i * ld + j] = Q[j * ld + i] = v;
        most = rules::most(std::fabs(v), most);
      }
      for (int64_t j = n; j < ld; ++j) Q[i * ld + j] = 0;
    }
    for (int64_t i = n * ld; i < ld * ld; ++i) Q[i] = 0;
    cost = most > 0 ? 1 / most : 1;
    load_rows(A_in, k, C);
    load_rows(G_in, m, C + k * ld);
  }

  /// Ruiz factors of [[Q, C'], [C, 0]] as powers of two (IPM-3), of Q brought to max-norm one by `cost`.
  void equilibrate() {
    for (int64_t j = 0; j < ld; ++j) column[j] = j < n;
    for (int64_t i = 0; i < dense; ++i) row[i] = rules::divide(1, largest(C + i * ld, n));
    for (int pass = 0; pass < rules::kRuizPasses; ++pass) {
      for (int64_t j = 0; j < ld; ++j) size[j] = scratch[j] = 0;
      // Q is symmetric: the largest entries of its columns, scaled by the rows they stand in.
      for (int64_t i = 0; i < n; ++i) largest_scaled(Q + i * ld, column, column[i], size, ld);
      for (int64_t i = 0; i < dense; ++i) {
        const double most = row[i] * largest_scaled(C + i * ld, column, row[i], scratch, ld);
        row[i] = rules::divide(row[i], std::sqrt(most));
      }
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
      double most = 0;
      for (int64_t j = 0; j < n; ++j) {
        Q[i * ld + j] *= column[i] * column[j];
        most = rules::most(most, std::fabs(Q[i * ld + j]));
      }
      total += most;
      p[i] *= column[i];
    }
    cost = rules::power_of_two(rules::divide(1, rules::most(largest(p, n), total / n)));
    for (int64_t i = 0; i < n * ld; ++i) Q[i] *= cost;
    for (int64_t i = 0; i < n; ++i) p[i] *= cost;
    for (int64_t i = 0; i < dense; ++i) {
      for (int64_t j = 0; j < n; ++j) C[i * ld + j] *= row[i] * column[j];
    }
  }

  /// out = Q x; out and x are padded.
  void quadratic(const double* x, double* out) const {
    multiply_rows(Q, ld, ld, x, out);
  }

  /// out = [A; G; -I; I] x, zero at absent rows.
  void rows(const double* x, double* out) const {
    multiply_rows(C, dense, ld, x, out);
    for (int64_t i = 0; i < dense; ++i) out[i] = kind[i] ? out[i] : 0;
    for (int64_t j = 0; j < lower; ++j) out[dense + j] = kind[dense + j] ? -x[j] : 0;
    for (int64_t j = 0; j < upper; ++j) out[dense + lower + j] = kind[dense + lower + j] ? x[j] : 0;
  }

  /// out = [A; G; -I; I]' v for v that is zero at absent rows.
  void adjoint(const double* v, double* out) const {
    for (int64_t j = 0; j < ld; ++j) out[j] = 0;
    add_rows(C, dense, ld, v, out);
    for (int64_t j = 0; j < lower; ++j) out[j] -= v[dense + j];
    for (int64_t j = 0; j < upper; ++j) out[j] += v[dense + lower + j];
  }

  /// Factor Q + rho I + C' diag(weight) C (IPM-6). A rho that rounding swallows is raised, a hundredfold at a time.
  bool factor(const double* weight, Factor& out) {
    int64_t count = 0;
    for (int64_t i = 0; i < dense; ++i) {
      if (weight[i] == 0) continue;
      const Vec root = splat(std::sqrt(weight[i]));
      double* to = S + count++ * ld;
      for (int64_t j = 0; j < ld; j += kWidth) store(to + j, root * optl::OPTL_ISA::load(C + i * ld + j));
    }
    double rho = rules::kRho;
    for (int attempt = 0; attempt < 4; ++attempt, rho *= 100) {
      for (int64_t j = 0; j < ld; ++j) diagonal[j] = j < n ? rho : 1;
      for (int64_t j = 0; j < lower; ++j) diagonal[j] += weight[dense + j];
      for (int64_t j = 0; j < upper; ++j) diagonal[j] += weight[dense + lower + j];
      if (cholesky(Q, diagonal, S, count, ld, out.U, out.inverse)) return true;
    }
    return false;
  }

  /// Whether Q, as `load` left it, is positive semidefinite up to the rounding of its dtype.
  bool convex(double input_eps, Factor& out) {
    const double shift = rules::most(1e-8, 4 * static_cast<double>(n) * input_eps);
    for (int64_t j = 0; j < ld; ++j) diagonal[j] = j < n ? shift / cost : 1;
    return cholesky(Q, diagonal, S, 0, ld, out.U, out.inverse);
  }
};

/// Scratch of ActiveSet: the system of some rows as equalities, regularised and refined (IPM-11).
struct ActiveSet {
  Factor factor;
  double *dx, *dual, *r_x, *r_row, *weight, *e_x, *e_row, *step, *moved, *new_x, *new_dual;

  ActiveSet(const Program& q, Arena& arena) : factor(q.n, arena) {
    dx = arena.take(q.ld), r_x = arena.take(q.ld), e_x = arena.take(q.ld), step = arena.take(q.ld);
    new_x = arena.take(q.ld), dual = arena.take(q.N), r_row = arena.take(q.N), weight = arena.take(q.N);
    e_row = arena.take(q.N), moved = arena.take(q.N), new_dual = arena.take(q.N);
  }

  /// Solve Q dx + C_a' dual = r_x, C_a dx = r_row for the rows a with weight = 1/delta, others having weight 0.
  /// r_x (padded) and r_row (0 at the others) are inputs. The refinement starts at zero, so that a consistent
  /// singular system ends at its solution of least norm. Returns the max-norm of the residual.
  double solve(Program& q) {
    for (int64_t j = 0; j < q.ld; ++j) dx[j] = 0, e_x[j] = r_x[j];
    for (int64_t i = 0; i < q.N; ++i) dual[i] = 0, e_row[i] = r_row[i];
    double best = rules::larger(largest(r_x, q.n), largest(r_row, q.N));
    if (!q.factor(weight, factor)) return std::numeric_limits<double>::infinity();
    for (int pass = 0; pass < rules::kRefinements; ++pass) {
      for (int64_t i = 0; i < q.N; ++i) moved[i] = weight[i] * e_row[i];
      q.adjoint(moved, step);
      for (int64_t j = 0; j < q.ld; ++j) step[j] += e_x[j];
      factor.solve(step);
      q.rows(step, moved);
      for (int64_t j = 0; j < q.ld; ++j) new_x[j] = dx[j] + step[j];
      for (int64_t i = 0; i < q.N; ++i) new_dual[i] = dual[i] + weight[i] * (moved[i] - e_row[i]);
      q.quadratic(new_x, e_x);
      q.adjoint(new_dual, step);
      q.rows(new_x, moved);
      for (int64_t j = 0; j < q.ld; ++j) e_x[j] = r_x[j] - e_x[j] - step[j];
      for (int64_t i = 0; i < q.N; ++i) e_row[i] = weight[i] != 0 ? r_row[i] - moved[i] : 0;
      const double error = rules::larger(largest(e_x, q.n), largest(e_row, q.N));
      if (!(error < best)) break;
      for (int64_t j = 0; j < q.ld; ++j) dx[j] = new_x[j];
      for (int64_t i = 0; i < q.N; ++i) dual[i] = new_dual[i];
      const bool worthwhile = error < 0.5 * best;
      best = error;
      if (!worthwhile || error == 0) break;
    }
    return best;
  }
};

}  // namespace optl::OPTL_ISA
