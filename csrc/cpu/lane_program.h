// Equilibrated programs, one per SIMD lane: program.h in the other layout, without padding and without branches.
#pragma once

#include <algorithm>

#include "cpu/lane_cholesky.h"
#include "cpu/program.h"

#ifdef OPTL_LANES
namespace optl::OPTL_ISA {

/// Beyond, the tiles of cholesky.h run faster on one program than lanes on many: measured with AVX2.
inline constexpr int64_t kLaneLimit = 24;

inline bool use_lanes(const QpSizes& sizes) { return sizes.batch > 1 && sizes.n <= kLaneLimit; }

inline Real* take_lanes(Arena& arena, int64_t count) { return reinterpret_cast<Real*>(arena.take(count * kWidth)); }

/// x (n), multipliers of all rows (N), slacks (N).
struct LanePoint {
  Real *x, *dual, *s;
};

/// kWidth programs. Everything that belongs to a lane lies in one block, so that a lane moves by one loop.
struct LaneProgram {
  int64_t n, k, m, lower, upper, dense, N, block;
  Real *Q, *C, *p, *c, *column, *row, *cost;  // as in Program
  Mask *inequality, *equality;                // N each
  LanePoint it;

  LaneProgram(const QpSizes& z, Arena& arena)
      : n(z.n), k(z.k), m(z.m), lower(z.lower), upper(z.upper), dense(k + m), N(dense + lower + upper),
        block(n * n + dense * n + 3 * n + 6 * N + 1) {
    Q = take_lanes(arena, block), C = Q + n * n, p = C + dense * n, column = p + n, it.x = column + n;
    c = it.x + n, row = c + N, it.dual = row + N, it.s = it.dual + N;
    inequality = reinterpret_cast<Mask*>(it.s + N), equality = inequality + N;
    cost = it.s + 3 * N;
  }

  /// Lanes that never hold a program compute something all the same; let it be nothing slow.
  void clear() const { std::fill_n(Q, block, every(0)); }

  void copy_lane(int to, const LaneProgram& other, int from) const {
    const double* source = reinterpret_cast<const double*>(other.Q) + from;
    double* target = reinterpret_cast<double*>(Q) + to;
    for (int64_t i = 0; i < block; ++i) target[i * kWidth] = source[i * kWidth];
  }

  /// Take what `Program::load` has read, and right-hand sides in the user's units, into a lane.
  void load_lane(int lane, const Program& q) const {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) Q[i * n + j][lane] = q.Q[i * q.ld + j];
      p[i][lane] = q.p[i];
    }
    for (int64_t i = 0; i < dense; ++i) {
      for (int64_t j = 0; j < n; ++j) C[i * n + j][lane] = q.C[i * q.ld + j];
    }
    for (int64_t i = 0; i < N; ++i) {
      c[i][lane] = q.c[i];
      inequality[i][lane] = -static_cast<int64_t>(q.kind[i] == rules::kInequality);
      equality[i][lane] = -static_cast<int64_t>(q.kind[i] == rules::kEquality);
    }
    cost[0][lane] = q.cost;
  }

  Mask present(int64_t i) const { return inequality[i] | equality[i]; }

  /// Ruiz factors (IPM-3); `size` and `scratch` are n each.
  void equilibrate(Real* size, Real* scratch) const {
    for (int64_t j = 0; j < n; ++j) column[j] = every(1);
    for (int64_t i = 0; i < dense; ++i) {
      Real most = every(0);
      for (int64_t j = 0; j < n; ++j) most = optl::OPTL_ISA::most(absolute(C[i * n + j]), most);
      row[i] = divide(every(1), most);
    }
    for (int pass = 0; pass < rules::kRuizPasses; ++pass) {
      for (int64_t j = 0; j < n; ++j) size[j] = scratch[j] = every(0);
      for (int64_t i = 0; i < n; ++i) raise(Q + i * n, column[i], size);
      for (int64_t i = 0; i < dense; ++i) {
        row[i] = divide(row[i], square_root(row[i] * raise(C + i * n, row[i], scratch)));
      }
      for (int64_t j = 0; j < n; ++j) {
        column[j] = divide(column[j], square_root(column[j] * most(cost[0] * size[j], scratch[j])));
      }
    }
    for (int64_t j = 0; j < n; ++j) column[j] = power_of_two(column[j]);
    for (int64_t i = 0; i < dense; ++i) row[i] = power_of_two(row[i]);
    for (int64_t j = 0; j < lower; ++j) row[dense + j] = every(1) / column[j];
    for (int64_t j = 0; j < upper; ++j) row[dense + lower + j] = every(1) / column[j];
  }

  /// Scale all data and bring the cost to one (IPM-3).
  void scale() const {
    Real total = every(0), top = every(0);
    for (int64_t i = 0; i < n; ++i) {
      Real most = every(0);
      for (int64_t j = 0; j < n; ++j) {
        Q[i * n + j] = Q[i * n + j] * (column[i] * column[j]);
        most = optl::OPTL_ISA::most(absolute(Q[i * n + j]), most);
      }
      total += most;
      p[i] = p[i] * column[i];
      top = larger(top, absolute(p[i]));
    }
    cost[0] = power_of_two(divide(every(1), most(top, total / static_cast<double>(n))));
    for (int64_t i = 0; i < n * n; ++i) Q[i] = Q[i] * cost[0];
    for (int64_t i = 0; i < n; ++i) p[i] = p[i] * cost[0];
    for (int64_t i = 0; i < dense; ++i) {
      for (int64_t j = 0; j < n; ++j) C[i * n + j] = C[i * n + j] * (row[i] * column[j]);
    }
    for (int64_t i = 0; i < N; ++i) c[i] = c[i] * row[i];
  }

  /// out = Q x.
  void quadratic(const Real* x, Real* out) const { multiply(Q, n, n, x, out); }

  /// out = [A; G; -I; I] x, zero at absent rows.
  void rows(const Real* x, Real* out) const {
    multiply(C, dense, n, x, out);
    for (int64_t j = 0; j < lower; ++j) out[dense + j] = -x[j];
    for (int64_t j = 0; j < upper; ++j) out[dense + lower + j] = x[j];
    for (int64_t i = 0; i < N; ++i) out[i] = keep(present(i), out[i]);
  }

  /// out += [A; G; -I; I]' v for v that is zero at absent rows.
  void add_adjoint(const Real* v, Real* out) const {
    multiply_transposed(C, dense, n, v, out);
    for (int64_t j = 0; j < lower; ++j) out[j] -= v[dense + j];
    for (int64_t j = 0; j < upper; ++j) out[j] += v[dense + lower + j];
  }

 private:
  /// out_j <- max(out_j, scale |from_j|); returns max |from_j| column_j.
  Real raise(const Real* from, const Real& scale, Real* out) const {
    Real top = every(0);
    for (int64_t j = 0; j < n; ++j) {
      const Real v = absolute(from[j]);
      top = most(v * column[j], top);
      out[j] = most(scale * v, out[j]);
    }
    return top;
  }
};

/// U'U = Q + rho I + C' diag(weight) C of every lane.
struct LaneFactor {
  Real *U, *inverse, *S, *diagonal;

  LaneFactor(const LaneProgram& q, Arena& arena)
      : U(take_lanes(arena, q.n * q.n)), inverse(take_lanes(arena, q.n)), S(take_lanes(arena, q.dense * q.n)),
        diagonal(take_lanes(arena, q.n)) {}

  /// (IPM-6). Lanes where it exists at the first rho.
  Mask factor(const LaneProgram& q, const Real* weight) const {
    for (int64_t i = 0; i < q.dense; ++i) {
      for (int64_t j = 0; j < q.n; ++j) S[i * q.n + j] = weight[i] * q.C[i * q.n + j];
    }
    for (int64_t j = 0; j < q.n; ++j) diagonal[j] = every(rules::kRho);
    for (int64_t j = 0; j < q.lower; ++j) diagonal[j] += weight[q.dense + j];
    for (int64_t j = 0; j < q.upper; ++j) diagonal[j] += weight[q.dense + q.lower + j];
    LaneFactorTask task{q.n, q.dense, q.Q, diagonal, S, q.C, U, inverse, {}};
    lane_cholesky(task);
    return task.positive;
  }

  /// Lanes whose Q, as loaded, is positive semidefinite up to the rounding of its dtype.
  Mask convex(const LaneProgram& q, double input_eps) const {
    const double shift = rules::most(1e-8, 4 * static_cast<double>(q.n) * input_eps);
    for (int64_t j = 0; j < q.n; ++j) diagonal[j] = every(shift) / q.cost[0];
    LaneFactorTask task{q.n, 0, q.Q, diagonal, S, q.C, U, inverse, {}};
    lane_cholesky(task);
    return task.positive;
  }

  void solve(int64_t n, Real* x) const { lane_cholesky_solve(U, inverse, n, x); }
};

}  // namespace optl::OPTL_ISA
#endif
