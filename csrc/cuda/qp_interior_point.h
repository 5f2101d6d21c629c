// The interior point iteration of docs/theory/qp.md on one equilibrated program, by a block of threads.
#pragma once

#include "cuda/qp_active_set.h"

namespace optl::cuda {

/// x (n), multipliers of all rows (N; 0 at absent ones), slacks (N; positive at inequalities, 0 elsewhere).
struct Iterate {
  double *x, *dual, *s;
  OPTL_HD Iterate(int n, int N, Places& places) : x(places.take(n)), dual(places.take(N)), s(places.take(N)) {}
};

struct Norms {
  double primal = 0, dual = 0, gap = 0;
  OPTL_DEVICE double worst() const { return rules::larger(primal, rules::larger(dual, gap)); }
};

/// The same steps as on the CPU (cpu/interior_point.h), but for its factorisations in floats, and with one factor in the
/// place of two: after an active set that was refused, that of the step is computed again.
template <class Block>
class InteriorPoint {
 public:
  Program<Block> q;
  Factor<Block> factor;
  Iterate it, move;
  Norms norms;
  double *ray_x, *proof;  // what certifies unboundedness (n) and infeasibility (N)
  int64_t iterations = 0;

  OPTL_HD InteriorPoint(const QpSizes& sizes, Block* block, int threads, Places& places)
      : q(sizes, block, threads, places), factor(q, places), it(q.n, q.N, places), move(q.n, q.N, places), ray_x(nullptr),
        proof(nullptr), active_set_(q, factor, places), last_(q.n, q.N, places), trial_(q.n, q.N, places) {
    for (double** v : {&r_x_, &Qx_, &leak_}) *v = places.take(q.n);
    for (double** v : {&r_row_, &weight_, &r_gap_, &pull_, &rows_, &Cx_, &start_}) *v = places.take(q.N);
    for (bool** v : {&guess_, &refused_, &active_}) *v = reinterpret_cast<bool*>(places.take((q.N + 7) / 8));
    factor.place_matrices(places);
    q.place_matrices(places);
    ray_x = places.take(q.n), proof = places.take(q.N);
  }

  /// The loop (IPM-5..15), on an equilibrated program.
  OPTL_DEVICE Status run(double eps, int64_t max_steps) {
    count_ = q.sum(q.N, [&](int i) { return q.is_inequality(i) ? 1 : 0; });
    bool unbounded = false;  // a ray was found; what is left to see is whether there is a feasible point
    has_refused_ = false, allowed_ = std::floor(rules::kUnclear * count_);
    iterations = 0;
    if (!begin()) return kNumericalError;
    for (int64_t step = 0;; ++step) {
      norms = residuals(it);
      if (norms.worst() <= eps) {
        q.each(q.N, [&](int i) { guess_[i] = q.is_equality(i) || (q.is_inequality(i) && it.dual[i] > it.s[i]); });
        polish(rules::most(norms.worst(), rules::kPolished), 1);
        return unbounded ? kDualInfeasible : kSolved;
      }
      if (step == max_steps) return unbounded ? kDualInfeasible : kMaxSteps;

      if (!factor_step()) return failed(unbounded);
      q.each(q.N, [&](int i) { r_gap_[i] = it.s[i] * it.dual[i]; });
      // Near a degenerate vertex the proximal terms hold the multipliers back, the violation stays behind the gap, and
      // the slacks that have vanished meanwhile jam every step. There the step is refined to the one without them.
      refinements_ = norms.primal > norms.gap && norms.gap < rules::kLagging ? rules::kStepRefinements : 0;
      direction();
      if (promising(guess())) {
        if (polish(rules::kPolished, rules::kFlips)) return unbounded ? kDualInfeasible : kSolved;
        residuals(it);  // the polish has overwritten them, and the factor
        if (!factor_step()) return failed(unbounded);
      }
      correct();
      direction();
      if (!finite()) return failed(unbounded);

      if (proves_infeasible(it) || proves_infeasible(move)) return kPrimalInfeasible;
      if (!unbounded && (proves_unbounded(it) || proves_unbounded(move))) {
        unbounded = true;
        look_for_feasible();
      } else {
        advance();
      }
      ++iterations;
    }
  }

 private:
  ActiveSet<Block> active_set_;
  Iterate last_, trial_;
  double *r_x_, *r_row_, *Qx_, *Cx_;  // of the iterate that `residuals` was asked about last
  double *weight_, *r_gap_, *pull_, *rows_, *start_, *leak_;
  bool *guess_, *refused_, *active_;
  double count_ = 0, allowed_ = 0;
  bool has_refused_ = false;
  int refinements_ = 0;

  static OPTL_DEVICE Status failed(bool unbounded) { return unbounded ? kDualInfeasible : kNumericalError; }

  OPTL_DEVICE double barrier(int i) const { return it.s[i] + rules::kDelta * it.dual[i]; }

  /// Weights and factor (IPM-6) at the iterate.
  OPTL_DEVICE bool factor_step() {
    q.each(q.N, [&](int i) { weight_[i] = rules::weight(q.kind[i], it.s[i], it.dual[i], rules::kDelta); });
    return factor.factor(weight_);
  }

  /// The minimiser of the objective plus half the squared violation, pushed inside the cone (IPM-4).
  OPTL_DEVICE bool begin() {
    q.each(q.N, [&](int i) {
      weight_[i] = q.is_equality(i) ? 1 / rules::kDelta : q.is_inequality(i) ? 1 : 0;
      pull_[i] = weight_[i] * q.c[i];
    });
    if (!factor.factor(weight_)) return false;
    q.adjoint(pull_, it.x);
    q.each(q.n, [&](int j) { it.x[j] -= q.p[j]; });
    factor.solve(it.x);
    q.rows(it.x, rows_);
    q.each(q.N, [&](int i) {
      const double violation = weight_[i] * (rows_[i] - q.c[i]);
      it.dual[i] = q.is_inequality(i) ? rules::most(violation, 1) : violation;
      it.s[i] = q.is_inequality(i) ? rules::most(-violation, 1) : 0;
    });
    return true;
  }

  /// KKT residuals into r_x_, r_row_; their norms relative to what they are sums of (IPM-10).
  OPTL_DEVICE_CALL Norms residuals(const Iterate& at) {
    q.quadratic(at.x, Qx_);
    q.adjoint(at.dual, r_x_);
    q.rows(at.x, Cx_);
    const double terms = q.largest(q.n, [&](int j) {
      return rules::larger(rules::larger(std::fabs(Qx_[j]), std::fabs(r_x_[j])), std::fabs(q.p[j]));
    });
    const double top = 1 + q.largest(q.N, [&](int i) { return at.dual[i]; });
    Norms out;
    out.dual = q.largest(q.n, [&](int j) {
      r_x_[j] += Qx_[j] + q.p[j];
      return r_x_[j] / (rules::least(q.column[j], 1) + terms);
    });
    double gap = 0;
    out.primal = q.largest(q.N, [&](int i) {
      r_row_[i] = q.kind[i] ? Cx_[i] + at.s[i] - q.c[i] : 0;
      const double unit = rules::least(q.row[i], 1) + std::fabs(q.c[i]);
      if (q.is_inequality(i)) gap = rules::larger(gap, std::fabs(rules::least(at.s[i] / unit, at.dual[i] / top)));
      return r_row_[i] / (unit + std::fabs(Cx_[i]));
    });
    out.gap = q.block->largest(gap);
    return out;
  }

  /// Newton step towards zero residuals and s z = s z - r_gap, into `move` (IPM-7).
  OPTL_DEVICE_CALL void direction() {
    q.each(q.N, [&](int i) {
      pull_[i] = q.is_inequality(i) ? r_gap_[i] / barrier(i) : 0;
      rows_[i] = weight_[i] * r_row_[i] - pull_[i];
    });
    q.adjoint(rows_, move.x);
    q.each(q.n, [&](int j) { move.x[j] = -r_x_[j] - move.x[j]; });
    factor.solve(move.x);
    q.rows(move.x, rows_);
    q.each(q.N, [&](int i) { move.dual[i] = last_.dual[i] = weight_[i] * (rows_[i] + r_row_[i]) - pull_[i]; });
    q.each(q.n, [&](int j) { last_.x[j] = move.x[j]; });
    for (int pass = 0; pass < refinements_; ++pass) refine_direction();
    q.each(q.N, [&](int i) {
      move.s[i] = q.is_inequality(i) ? rules::kDelta * last_.dual[i] - r_row_[i] - rows_[i] : 0;
    });
  }

  /// What the proximal terms have kept from `move`: rho and delta times the `last_` part of it, solved for (IPM-20).
  OPTL_DEVICE void refine_direction() {
    q.each(q.N, [&](int i) { last_.s[i] = rules::kDelta * weight_[i] * last_.dual[i]; });
    q.adjoint(last_.s, leak_);
    q.each(q.n, [&](int j) { last_.x[j] = rules::kRho * last_.x[j] - leak_[j]; });
    factor.solve(last_.x);
    q.rows(last_.x, last_.dual);
    q.each(q.n, [&](int j) { move.x[j] += last_.x[j]; });
    q.each(q.N, [&](int i) {
      rows_[i] += last_.dual[i];
      last_.dual[i] = weight_[i] * last_.dual[i] + last_.s[i];
      move.dual[i] += last_.dual[i];
    });
  }

  OPTL_DEVICE double mean_gap(double length) const {
    const double total = q.sum(q.N, [&](int i) {
      return (it.s[i] + length * move.s[i]) * (it.dual[i] + length * move.dual[i]);
    });
    return total / rules::most(count_, 1);
  }

  /// The longest step up to 1 that keeps s and z nonnegative (IPM-9).
  OPTL_DEVICE double step_length() const {
    const double rate = q.largest(q.N, [&](int i) {  // one over the longest step; where s or z is tiny it may be inf
      if (!q.is_inequality(i)) return 0.0;
      return rules::most(rules::most(-move.s[i] / it.s[i], -move.dual[i] / it.dual[i]), 0);
    });
    return rate > 1 ? 1 / rate : 1;
  }

  /// Mehrotra's second-order correction and centering, from the affine step in `move`, into r_gap_ (IPM-8).
  OPTL_DEVICE void correct() {
    const double gap = mean_gap(0);
    const double ratio = mean_gap(step_length()) / rules::most(gap, 1e-200);
    const double kept = rules::least(rules::most(ratio, 0), 1);
    const double lag = refinements_ ? rules::kBalance * q.largest(q.N, [&](int i) { return r_row_[i]; }) : 0;
    const double target = rules::most(rules::most(kept * kept * kept * gap, lag), 1e-30);
    q.each(q.N, [&](int i) { r_gap_[i] = it.s[i] * it.dual[i] + move.s[i] * move.dual[i] - target; });
  }

  /// Go almost to the boundary; nearer, the smaller the gap.
  OPTL_DEVICE void advance() {
    double length = step_length();
    if (length < 1) length *= rules::most(1 - mean_gap(0), 0.995);
    q.each(q.n, [&](int j) { it.x[j] += length * move.x[j]; });
    q.each(q.N, [&](int i) {
      it.s[i] += length * move.s[i];
      it.dual[i] += length * move.dual[i];
      if (!q.is_inequality(i)) return;
      it.s[i] = rules::most(it.s[i], rules::kTiny);
      it.dual[i] = rules::most(it.dual[i], rules::kTiny);
    });
  }

  OPTL_DEVICE bool finite() const {
    return q.all(q.n, [&](int j) { return std::isfinite(move.x[j]); }) &&
           q.all(q.N, [&](int i) { return std::isfinite(move.dual[i]); });
  }

  /// Guess the active set from the affine step: -ds/s tends to 1 at active rows, to 0 at others. Returns how many rows
  /// are not clear yet.
  OPTL_DEVICE double guess() {
    return q.sum(q.N, [&](int i) {
      const double indicator = q.is_inequality(i) ? -move.s[i] / it.s[i] : 1;
      guess_[i] = q.kind[i] && indicator > 0.5;
      return std::fabs(indicator - 0.5) > rules::kMargin ? 0 : 1;
    });
  }

  /// Whether the guess is worth a try: few rows are unclear, far fewer than when the last try failed, or none in a set
  /// that is not the one refused.
  OPTL_DEVICE bool promising(double unclear) {
    if (q.N == 0 || unclear > allowed_) return false;
    if (has_refused_ && q.all(q.N, [&](int i) { return guess_[i] == refused_[i]; })) return false;
    q.each(q.N, [&](int i) { refused_[i] = guess_[i]; });
    has_refused_ = true, allowed_ = std::floor(unclear / 2);
    return true;
  }

  /// Rows of the active set in trial on the wrong side of (IPM-12), by more than `tolerance`, change sides. How many.
  OPTL_DEVICE double flip(const double* dual, const double* moved, double tolerance) {
    const double zero = -tolerance * (1 + q.largest(q.N, [&](int i) { return dual[i]; }));
    return q.sum(q.N, [&](int i) {
      const double excess =
          active_[i] ? zero - dual[i] : start_[i] + moved[i] - q.c[i] - tolerance * (1 + std::fabs(q.c[i]));
      const bool wrong = q.is_inequality(i) && excess > 0;
      active_[i] = active_[i] != wrong;
      return wrong ? 1 : 0;
    });
  }

  /// Solve on the guessed active set, at most `flips` times corrected (IPM-11, IPM-12). If the residual is good enough,
  /// the solution becomes the iterate.
  OPTL_DEVICE_CALL bool polish(double tolerance, int flips) {
    ActiveSet<Block>& a = active_set_;
    q.each(q.n, [&](int j) { a.r_x[j] = -q.p[j] - Qx_[j]; });
    q.each(q.N, [&](int i) { active_[i] = guess_[i], start_[i] = Cx_[i]; });
    for (double wrong = q.N + 1;; --flips) {
      q.each(q.N, [&](int i) {
        a.weight[i] = active_[i] ? 1 / rules::kDelta : 0;
        a.r_row[i] = active_[i] ? q.c[i] - start_[i] : 0;
      });
      if (!a.start()) return false;
      // What is far on the wrong side shows before the refinement.
      double now = flip(a.new_dual, a.new_moved, rules::kRough);
      if (now == 0) {
        a.refine();
        if (accept(tolerance)) return true;
        q.rows(a.dx, rows_);
        now = flip(a.dual, rows_, rules::kSign);
      }
      if (now == 0 || 2 * now > wrong || flips == 0) return false;
      wrong = now;
    }
  }

  /// Whether the solution on the active set has a residual that is good enough; it is the iterate then.
  OPTL_DEVICE bool accept(double tolerance) {
    const ActiveSet<Block>& a = active_set_;
    q.each(q.n, [&](int j) { trial_.x[j] = it.x[j] + a.dx[j]; });
    q.rows(trial_.x, rows_);
    q.each(q.N, [&](int i) {
      trial_.dual[i] = q.is_inequality(i) ? rules::most(a.dual[i], 0) : a.dual[i];
      trial_.s[i] = q.is_inequality(i) && !active_[i] ? rules::most(q.c[i] - rows_[i], 0) : 0;
    });
    const Norms reached = residuals(trial_);
    if (!(reached.worst() <= tolerance)) return false;
    norms = reached;
    const Iterate before = it;
    it = trial_, trial_ = before;
    return true;
  }

  /// What the multipliers in `proof`, positive part, tell against every x (IPM-13). Expects rows_ = Cx - c.
  OPTL_DEVICE rules::Evidence evidence_against_x() {
    rules::Evidence out;
    out.gain = q.sum(q.N, [&](int i) {
      if (q.is_inequality(i)) proof[i] = rules::most(proof[i], 0);
      return rows_[i] * proof[i];
    });
    if (!(out.gain > 0)) return out;
    out.size = q.sum(q.N, [&](int i) { return std::fabs(rows_[i] * proof[i]); });
    const double total = q.sum(q.N, [&](int i) { return std::fabs(proof[i]); });
    q.adjoint(proof, leak_);
    out.leak = q.sum(q.n, [&](int j) { return std::fabs(leak_[j]); });
    const double reach = q.largest(q.n, [&](int j) { return it.x[j]; });
    out.scale = rules::most(rules::most(reach, 1), out.size / rules::most(total, rules::kTiny));
    return out;
  }

  /// Whether the multipliers, purified if they are promising, prove that no x is feasible; they are kept in `proof`.
  OPTL_DEVICE_CALL bool proves_infeasible(const Iterate& candidate) {
    q.each(q.N, [&](int i) { rows_[i] = q.kind[i] ? Cx_[i] - q.c[i] : 0, proof[i] = candidate.dual[i]; });
    const rules::Evidence rough = evidence_against_x();
    if (rough.excludes(rules::kCertificate)) return true;
    if (!rough.excludes(rules::kPromising)) return false;
    // H holds C'WC with W up to 1/delta: v - W C H^-1 C'v leaks (Q + rho) H^-1 times as much as v (IPM-14).
    factor.solve(leak_);
    q.rows(leak_, pull_);
    q.each(q.N, [&](int i) { proof[i] -= weight_[i] * pull_[i]; });
    return evidence_against_x().excludes(rules::kCertificate);
  }

  /// Whether x is a direction of descent without end (IPM-15); it is kept in ray_x.
  OPTL_DEVICE_CALL bool proves_unbounded(const Iterate& candidate) {
    rules::Evidence out;
    out.gain = q.sum(q.n, [&](int j) { return -(q.p[j] + Qx_[j]) * candidate.x[j]; });
    if (!(out.gain > 0)) return false;
    out.size = q.sum(q.n, [&](int j) { return std::fabs((q.p[j] + Qx_[j]) * candidate.x[j]); });
    const double total = q.sum(q.n, [&](int j) { return std::fabs(candidate.x[j]); });
    q.quadratic(candidate.x, leak_);
    q.rows(candidate.x, rows_);
    out.leak = rules::most(q.largest(q.n, [&](int j) { return leak_[j]; }), q.largest(q.N, [&](int i) {
      return q.is_inequality(i) ? rules::most(rows_[i], 0) : rows_[i];
    }));
    out.scale = rules::most(out.size / rules::most(total, rules::kTiny), 1);
    if (!out.excludes(rules::kCertificate)) return false;
    q.each(q.n, [&](int j) { ray_x[j] = candidate.x[j]; });
    return true;
  }

  /// After a ray: go on with min |x|^2 / 2. The program is unbounded if it has a feasible point at all.
  OPTL_DEVICE void look_for_feasible() {
    q.each_row(q.n, [&](int i, int first, int width) {
      for (int j = first; i < q.n && j < q.n; j += width) q.Q[i * q.ld + j] = i == j;
    });
    q.each(q.n, [&](int j) { q.p[j] = it.x[j] = 0; });
    q.each(q.N, [&](int i) {
      it.dual[i] = q.is_inequality(i);
      it.s[i] = q.is_inequality(i) ? rules::most(q.c[i], 1) : 0;
    });
  }
};

}  // namespace optl::cuda
