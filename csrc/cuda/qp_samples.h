// A batch of quadratic programs, each taken by the next free block: check, load, iterate, and store in the user's units.
#pragma once

#include "cuda/qp_interior_point.h"

namespace optl::cuda {

template <class T, class Block>
class QpSamples {
 public:
  OPTL_DEVICE QpSamples(const QpSizes& sizes, const QpProblem<T>& problem, const QpResult<T>& result,
                        InteriorPoint<Block>& run)
      : z(sizes), in(problem), out(result), run_(run), q(run.q) {}

  OPTL_DEVICE void solve(int64_t b, double eps, int64_t max_steps) {
    Status status = kInvalidInput;
    run_.iterations = 0;
    if (numbers(b)) {
      q.load_symmetric(in.Q[b]);
      q.load_rows(in.A[b], q.k, 0, nullptr);
      q.load_rows(in.G[b], q.m, q.k, nullptr);
      if (run_.factor.convex(std::numeric_limits<T>::epsilon())) {
        q.equilibrate();
        q.each(q.n, [&](int j) { q.p[j] = static_cast<double>(in.p[b][j]); });
        q.scale();
        load_right_hand_sides(b);
        status = run_.run(eps, max_steps);
      }
    }
    if (q.block->thread() == 0) *out.status[b] = status, *out.iterations[b] = run_.iterations;
    if (status == kInvalidInput || status == kNumericalError) store_nan(b);
    else store(b, status);
  }

 private:
  const QpSizes& z;
  const QpProblem<T>& in;
  const QpResult<T>& out;
  InteriorPoint<Block>& run_;
  Program<Block>& q;

  /// No NaN, and infinities only where they make a row absent.
  OPTL_DEVICE bool numbers(int64_t b) const {
    const auto finite = [&](const T* v, int count) {
      return q.all(count, [&](int i) { return std::isfinite(v[i]); });
    };
    const auto above = [&](const T* v, int count, T sign) {  // false for NaN
      return q.all(count, [&](int i) { return sign * v[i] > -std::numeric_limits<T>::infinity(); });
    };
    const int both = q.lower < q.upper ? q.lower : q.upper;
    return finite(in.Q[b], q.n * q.n) && finite(in.p[b], q.n) && finite(in.G[b], q.m * q.n) &&
           finite(in.A[b], q.k * q.n) && finite(in.b[b], q.k) && above(in.h[b], q.m, 1) &&
           above(in.lb[b], q.lower, -1) && above(in.ub[b], q.upper, 1) &&
           q.all(both, [&](int j) { return in.lb[b][j] <= in.ub[b][j]; });
  }

  /// Right-hand sides and the kind of each row.
  OPTL_DEVICE void load_right_hand_sides(int64_t b) {
    const auto set = [&](int i, T value, Kind kind) {
      q.kind[i] = std::isfinite(value) ? kind : rules::kAbsent;
      q.c[i] = q.kind[i] ? q.row[i] * static_cast<double>(value) : 0;
    };
    const int low = q.dense, high = q.dense + q.lower;
    // A fixed variable is the equality at its upper bound.
    const auto fixed = [&](int j) { return q.lower && q.upper && in.lb[b][j] == in.ub[b][j]; };
    q.each(q.k, [&](int i) { set(i, in.b[b][i], rules::kEquality); });
    q.each(q.m, [&](int i) { set(q.k + i, in.h[b][i], rules::kInequality); });
    q.each(q.lower, [&](int j) { set(low + j, -in.lb[b][j], fixed(j) ? rules::kAbsent : rules::kInequality); });
    q.each(q.upper, [&](int j) { set(high + j, in.ub[b][j], fixed(j) ? rules::kEquality : rules::kInequality); });
    q.block->sync();
  }

  OPTL_DEVICE void store_nan(int64_t b) const {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    q.each(q.n, [&](int j) { out.x[b][j] = nan; });
    q.each(q.k, [&](int i) { out.y[b][i] = nan; });
    q.each(q.m, [&](int i) { out.z[b][i] = out.s[b][i] = nan, out.active_G[b][i] = false; });
    q.each(q.lower, [&](int j) { out.z_lb[b][j] = nan, out.active_lb[b][j] = false; });
    q.each(q.upper, [&](int j) { out.z_ub[b][j] = nan, out.active_ub[b][j] = false; });
    q.each(3, [&](int i) { out.residuals[b][i] = nan; });
  }

  OPTL_DEVICE void store(int64_t b, Status status) const {
    const Iterate& it = run_.it;
    const double* x = status == kDualInfeasible ? run_.ray_x : it.x;
    const double* dual = status == kPrimalInfeasible ? run_.proof : it.dual;
    double x_unit = 1, dual_unit = 1 / q.cost;  // certificates are brought to max-norm one instead
    if (status == kDualInfeasible) x_unit = 1 / q.largest(q.n, [&](int j) { return q.column[j] * x[j]; });
    if (status == kPrimalInfeasible) dual_unit = 1 / q.largest(q.N, [&](int i) { return q.row[i] * dual[i]; });
    // Inequalities that hold with equality and push; weakly active ones, z = s = 0, count as inactive (IPM-16).
    const double weak = rules::kWeak * (1 + q.largest(q.N, [&](int i) { return it.dual[i]; }));
    const auto multiplier = [&](int i) { return dual_unit * q.row[i] * dual[i]; };
    const auto active = [&](int i) { return q.is_inequality(i) && it.dual[i] > rules::most(it.s[i], weak); };
    q.block->sync();

    q.each(q.n, [&](int j) { out.x[b][j] = static_cast<T>(x_unit * q.column[j] * x[j]); });
    q.each(q.k, [&](int i) { out.y[b][i] = static_cast<T>(multiplier(i)); });
    q.each(q.m, [&](int i) {
      const int r = q.k + i;
      out.z[b][i] = static_cast<T>(multiplier(r));
      out.s[b][i] = static_cast<T>(q.kind[r] ? it.s[r] / q.row[r] : std::numeric_limits<double>::infinity());
      out.active_G[b][i] = active(r);
    });
    const int low = q.dense, high = q.dense + q.lower;
    q.each(q.n, [&](int j) {
      double below = q.lower ? multiplier(low + j) : 0, above = q.upper ? multiplier(high + j) : 0;
      bool at_lower = q.lower && active(low + j), at_upper = q.upper && active(high + j);
      if (q.upper && q.is_equality(high + j)) {  // a fixed variable: its multiplier goes by its sign to one of the bounds
        const double v = above;
        above = rules::most(v, 0), below = rules::most(-v, 0);
        at_upper = it.dual[high + j] >= 0, at_lower = !at_upper;
      }
      if (q.lower) out.z_lb[b][j] = static_cast<T>(below), out.active_lb[b][j] = at_lower;
      if (q.upper) out.z_ub[b][j] = static_cast<T>(above), out.active_ub[b][j] = at_upper;
    });
    const double norms[] = {run_.norms.primal, run_.norms.dual, run_.norms.gap};
    q.each(3, [&](int i) { out.residuals[b][i] = static_cast<T>(norms[i]); });
  }
};

/// What every thread of the grid runs. workspace: a counter, 0 at first, in two doubles, then `stride` doubles a block.
template <class T, class Block>
OPTL_DEVICE void qp_solve_block(Block& block, const QpSizes& sizes, const QpProblem<T>& in, double eps,
                                int64_t max_steps, const QpResult<T>& out, double* workspace, int64_t stride,
                                int64_t room) {
  Places places{block.shared(), workspace + 2 + block.index() * stride, room};
  InteriorPoint<Block> run(sizes, &block, block.threads(), places);
  QpSamples<T, Block> samples(sizes, in, out, run);
  for (int64_t b; (b = block.take(reinterpret_cast<int64_t*>(workspace))) < sizes.batch;) {
    samples.solve(b, eps, max_steps);
  }
}

}  // namespace optl::cuda
