// Mehrotra's predictor-corrector with proximal terms and an active-set polish, on one equilibrated program.
#pragma once

#include <algorithm>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/program.h"

namespace optl::OPTL_ISA {

/// x (ld), multipliers of all rows (N; 0 at absent ones), slacks (N; positive at inequalities, 0 elsewhere).
struct Iterate {
  double *x, *dual, *s;
  Iterate(const Program& q, Arena& arena) : x(arena.take(q.ld)), dual(arena.take(q.N)), s(arena.take(q.N)) {}
};

struct Norms {
  double primal = 0, dual = 0, gap = 0;
  double worst() const { return rules::larger(primal, rules::larger(dual, gap)); }
};

class InteriorPoint {
 public:
  Program q;
  Factor factor;
  Iterate it, move;
  Norms norms;
  double *ray_x, *proof;  // what certifies unboundedness (ld) and infeasibility (N)
  int64_t iterations = 0;

  InteriorPoint(const QpSizes& sizes, Arena& arena)
      : q(sizes, arena), factor(q.n, arena), it(q, arena), move(q, arena), trial_(q, arena), last_(q, arena),
        active_set_(q, arena) {
    r_x_ = arena.take(q.ld), Qx_ = arena.take(q.ld), leak_ = arena.take(q.ld), ray_x = arena.take(q.ld);
    for (double** v : {&r_row_, &weight_, &r_gap_, &pull_, &rows_, &Cx_, &start_, &proof}) *v = arena.take(q.N);
    guess_ = reinterpret_cast<bool*>(arena.take(q.N)), refused_ = reinterpret_cast<bool*>(arena.take(q.N));
    active_ = reinterpret_cast<bool*>(arena.take(q.N));
  }

  /// The loop (IPM-5..15), on an equilibrated program; `rounded` if its data came as floats.
  Status run(double eps, int64_t max_steps, bool rounded) {
    count_ = std::count(q.kind, q.kind + q.N, rules::kInequality);
    bool unbounded = false;  // a ray was found; what is left to see is whether there is a feasible point
    has_refused_ = false, allowed_ = static_cast<int64_t>(rules::kUnclear * static_cast<double>(count_));
    const auto solved = [&] { return unbounded ? kDualInfeasible : kSolved; };
    quick_ = q.n >= rules::kQuickSize && uses(Accelerator::kFloats);
    active_set_.quick = quick_ && rounded && q.n >= rules::kQuickPolish;
    if (!start()) return kNumericalError;
    for (int64_t step = 0;; ++step) {
      norms = residuals(it);
      if (norms.worst() <= eps) {
        for (int64_t i = 0; i < q.N; ++i) guess_[i] = is_equality(i) || (is_inequality(i) && it.dual[i] > it.s[i]);
        active_set_.quick = false;
        polish(rules::most(norms.worst(), rules::kPolished), 1);
        return solved();
      }
      if (step == max_steps) return unbounded ? kDualInfeasible : kMaxSteps;

      if (mean_gap(0) < rules::kQuickGap) quick_ = false;
      if (!factor_at([&](int64_t i) { return rules::weight(q.kind[i], it.s[i], it.dual[i], delta_); })) {
        return failed(unbounded);
      }
      for (int64_t i = 0; i < q.N; ++i) r_gap_[i] = it.s[i] * it.dual[i];
      // Near a degenerate vertex the proximal terms hold the multipliers back, the violation stays behind the gap, and
      // the slacks that have vanished meanwhile jam every step. There the step is refined to the one without them.
      refinements_ = norms.primal > norms.gap && norms.gap < rules::kLagging ? rules::kStepRefinements : 0;
      direction();
      if (promising(guess())) {
        if (polish(active_set_.quick ? rules::kQuickPolished : rules::kPolished, rules::kFlips)) return solved();
        residuals(it);  // the polish has overwritten them
      }
      correct();
      direction();
      if (!finite()) return failed(unbounded);

      if (proves_infeasible(it) || proves_infeasible(move)) return kPrimalInfeasible;
      if (!unbounded && (proves_unbounded(it.x, Cx_) || proves_unbounded(move.x, nullptr))) {
        unbounded = true;
        look_for_feasible();
      } else {
        advance();
      }
      ++iterations;
    }
  }

  bool is_inequality(int64_t i) const { return q.kind[i] == rules::kInequality; }
  bool is_equality(int64_t i) const { return q.kind[i] == rules::kEquality; }

 private:
  Iterate trial_, last_;
  ActiveSet active_set_;
  double *r_x_, *r_row_, *Qx_, *Cx_;  // of the iterate that `residuals` was asked about last
  double *weight_, *r_gap_, *pull_, *rows_, *start_, *leak_;
  bool *guess_, *refused_, *active_;
  int64_t count_ = 0, allowed_ = 0;
  double delta_ = rules::kDelta;
  bool quick_ = false;
  bool has_refused_ = false;
  int refinements_ = 0;

  static Status failed(bool unbounded) { return unbounded ? kDualInfeasible : kNumericalError; }

  /// Factor (IPM-6) for the weights that weigh(row) says, which may depend on delta_; in floats as long as they serve.
  template <class Weigh>
  bool factor_at(const Weigh& weigh) {
    for (;;) {
      delta_ = quick_ ? rules::kQuickDelta : rules::kDelta;
      for (int64_t i = 0; i < q.N; ++i) weight_[i] = weigh(i);
      if (!quick_) return q.factor(weight_, factor);
      if (q.quick_factor(weight_, factor)) return true;
      quick_ = false;
    }
  }

  /// The minimiser of the objective plus half the squared violation, pushed inside the cone (IPM-4).
  bool start() {
    if (!factor_at([&](int64_t i) { return is_equality(i) ? 1 / delta_ : is_inequality(i) ? 1 : 0; })) return false;
    for (int64_t i = 0; i < q.N; ++i) pull_[i] = weight_[i] * q.c[i];
    q.adjoint(pull_, it.x);
    for (int64_t j = 0; j < q.ld; ++j) it.x[j] -= q.p[j];
    factor.solve(it.x);
    q.rows(it.x, rows_);
    for (int64_t i = 0; i < q.N; ++i) {
      const double violation = weight_[i] * (rows_[i] - q.c[i]);
      it.dual[i] = is_inequality(i) ? rules::most(violation, 1) : violation;
      it.s[i] = is_inequality(i) ? rules::most(-violation, 1) : 0;
    }
    return true;
  }

  /// KKT residuals into r_x_, r_row_; their norms relative to what they are sums of (IPM-10).
  Norms residuals(const Iterate& at) {
    q.quadratic(at.x, Qx_);
    q.adjoint(at.dual, r_x_);
    q.rows(at.x, Cx_);
    const double terms = rules::most(rules::most(largest(Qx_, q.n), largest(r_x_, q.n)), largest(q.p, q.n));
    const double top = 1 + largest(at.dual, q.N);
    Norms out;
    const auto raise = [](double& most, double v) { most = rules::larger(most, std::fabs(v)); };
    for (int64_t j = 0; j < q.ld; ++j) {
      r_x_[j] += Qx_[j] + q.p[j];
      if (j < q.n) raise(out.dual, r_x_[j] / (rules::least(q.column[j], 1) + terms));
    }
    for (int64_t i = 0; i < q.N; ++i) {
      r_row_[i] = q.kind[i] ? Cx_[i] + at.s[i] - q.c[i] : 0;
      const double unit = rules::least(q.row[i], 1) + std::fabs(q.c[i]);
      raise(out.primal, r_row_[i] / (unit + std::fabs(Cx_[i])));
      if (is_inequality(i)) raise(out.gap, rules::least(at.s[i] / unit, at.dual[i] / top));
    }
    return out;
  }

  /// Newton step towards zero residuals and s z = s z - r_gap, into `move` (IPM-7).
  void direction() {
    for (int64_t i = 0; i < q.N; ++i) {
      pull_[i] = is_inequality(i) ? r_gap_[i] / (it.s[i] + delta_ * it.dual[i]) : 0;
      rows_[i] = weight_[i] * r_row_[i] - pull_[i];
    }
    q.adjoint(rows_, move.x);
    for (int64_t j = 0; j < q.ld; ++j) move.x[j] = -r_x_[j] - move.x[j];
    factor.solve(move.x);
    q.rows(move.x, rows_);
    for (int64_t i = 0; i < q.N; ++i) {
      move.dual[i] = last_.dual[i] = weight_[i] * (rows_[i] + r_row_[i]) - pull_[i];
    }
    for (int64_t j = 0; j < q.ld; ++j) last_.x[j] = move.x[j];
    for (int pass = 0; pass < refinements_; ++pass) refine_direction();
    for (int64_t i = 0; i < q.N; ++i) {
      move.s[i] = is_inequality(i) ? delta_ * last_.dual[i] - r_row_[i] - rows_[i] : 0;
    }
  }

  /// What the proximal terms have kept from `move`: rho and delta times the `last_` part of it, solved for (IPM-20).
  void refine_direction() {
    for (int64_t i = 0; i < q.N; ++i) last_.s[i] = delta_ * weight_[i] * last_.dual[i];
    q.adjoint(last_.s, leak_);
    for (int64_t j = 0; j < q.ld; ++j) last_.x[j] = rules::kRho * last_.x[j] - leak_[j];
    factor.solve(last_.x);
    q.rows(last_.x, last_.dual);
    for (int64_t j = 0; j < q.ld; ++j) move.x[j] += last_.x[j];
    for (int64_t i = 0; i < q.N; ++i) {
      rows_[i] += last_.dual[i];
      last_.dual[i] = weight_[i] * last_.dual[i] + last_.s[i];
      move.dual[i] += last_.dual[i];
    }
  }

  double mean_gap(double length) const {
    double total = 0;
    for (int64_t i = 0; i < q.N; ++i) {
      total += (it.s[i] + length * move.s[i]) * (it.dual[i] + length * move.dual[i]);
    }
    return total / static_cast<double>(std::max<int64_t>(count_, 1));
  }

  /// The longest step up to 1 that keeps s and z nonnegative (IPM-9).
  double step_length() const {
    double length = 1;
    for (int64_t i = 0; i < q.N; ++i) {
      if (!is_inequality(i)) continue;
      if (move.s[i] < 0) length = rules::least(length, -it.s[i] / move.s[i]);
      if (move.dual[i] < 0) length = rules::least(length, -it.dual[i] / move.dual[i]);
    }
    return length;
  }

  /// Mehrotra's second-order correction and centering, from the affine step in `move`, into r_gap_ (IPM-8).
  void correct() {
    const double ratio = mean_gap(step_length()) / rules::most(mean_gap(0), 1e-200);
    const double sigma = std::pow(rules::least(rules::most(ratio, 0), 1), 3);
    const double lag = refinements_ ? rules::kBalance * largest(r_row_, q.N) : 0;
    const double target = rules::most(rules::most(sigma * mean_gap(0), lag), 1e-30);
    for (int64_t i = 0; i < q.N; ++i) r_gap_[i] = it.s[i] * it.dual[i] + move.s[i] * move.dual[i] - target;
  }

  /// Go almost to the boundary; nearer, the smaller the gap.
  void advance() {
    double length = step_length();
    if (length < rules::kQuickLength) quick_ = false;
    if (length < 1) length *= rules::most(1 - mean_gap(0), 0.995);
    for (int64_t j = 0; j < q.n; ++j) it.x[j] += length * move.x[j];
    for (int64_t i = 0; i < q.N; ++i) {
      it.s[i] += length * move.s[i];
      it.dual[i] += length * move.dual[i];
      if (!is_inequality(i)) continue;
      it.s[i] = rules::most(it.s[i], rules::kTiny);
      it.dual[i] = rules::most(it.dual[i], rules::kTiny);
    }
  }

  bool finite() const {
    double sum = 0;  // inf - inf and inf * 0 are NaN: one comparison tells
    for (int64_t j = 0; j < q.n; ++j) sum += 0 * move.x[j];
    for (int64_t i = 0; i < q.N; ++i) sum += 0 * move.dual[i];
    return sum == 0;
  }

  /// Guess the active set from the affine step: -ds/s tends to 1 at active rows, to 0 at others. Returns how many rows
  /// are not clear yet.
  int64_t guess() {
    int64_t unclear = 0;
    for (int64_t i = 0; i < q.N; ++i) {
      const double indicator = is_inequality(i) ? -move.s[i] / it.s[i] : 1;
      guess_[i] = q.kind[i] && indicator > 0.5;
      unclear += !(std::fabs(indicator - 0.5) > rules::kMargin);
    }
    return unclear;
  }

  /// Whether the guess is worth a try: few rows are unclear, far fewer than when the last try failed, or none in a set
  /// that is not the one refused.
  bool promising(int64_t unclear) {
    if (q.N == 0 || unclear > allowed_ || !uses(Accelerator::kCrossover)) return false;
    if (has_refused_ && std::equal(guess_, guess_ + q.N, refused_)) return false;
    std::copy(guess_, guess_ + q.N, refused_);
    has_refused_ = true, allowed_ = unclear / 2;
    return true;
  }

  /// Rows of the active set in trial on the wrong side of (IPM-12), by more than `tolerance`, change sides. How many.
  int64_t flip(const double* dual, const double* moved, double tolerance) {
    const double zero = -tolerance * (1 + largest(dual, q.N));
    int64_t count = 0;
    for (int64_t i = 0; i < q.N; ++i) {
      const double excess = active_[i] ? zero - dual[i] : start_[i] + moved[i] - q.c[i] - tolerance * (1 + std::fabs(q.c[i]));
      const bool wrong = is_inequality(i) && excess > 0;
      active_[i] = active_[i] != wrong;
      count += wrong;
    }
    return count;
  }

  /// Active sets are for doubles from here on, the one that floats have failed on among them. Always false.
  bool no_more_floats() { return active_set_.quick = has_refused_ = false; }

  /// Solve on the guessed active set, at most `flips` times corrected (IPM-11, IPM-12). If the residual is good enough,
  /// the solution becomes the iterate.
  bool polish(double tolerance, int flips) {
    ActiveSet& a = active_set_;
    std::copy(guess_, guess_ + q.N, active_);
    for (int64_t j = 0; j < q.ld; ++j) a.r_x[j] = -q.p[j] - Qx_[j];
    std::copy(Cx_, Cx_ + q.N, start_);
    for (int64_t wrong = q.N + 1;; --flips) {
      for (int64_t i = 0; i < q.N; ++i) {
        a.weight[i] = active_[i] ? a.full() : 0;
        a.r_row[i] = active_[i] ? q.c[i] - start_[i] : 0;
      }
      if (!a.start(q)) return a.quick ? no_more_floats() : false;
      // What is far on the wrong side shows before the refinement, to which floats leave more.
      int64_t now = a.quick ? 0 : flip(a.new_dual, a.new_moved, rules::kRough);
      if (now == 0) {
        a.refine(q);
        for (int64_t j = 0; j < q.ld; ++j) trial_.x[j] = it.x[j] + a.dx[j];
        q.rows(trial_.x, rows_);
        for (int64_t i = 0; i < q.N; ++i) {
          trial_.dual[i] = is_inequality(i) ? rules::most(a.dual[i], 0) : a.dual[i];
          trial_.s[i] = is_inequality(i) && !active_[i] ? rules::most(q.c[i] - rows_[i], 0) : 0;
        }
        const Norms reached = residuals(trial_);
        if (reached.worst() <= tolerance) {
          norms = reached;
          std::swap(it, trial_);
          return true;
        }
        q.rows(a.dx, rows_);
        now = flip(a.dual, rows_, a.quick ? rules::kQuickPolished : rules::kSign);
        if (now == 0 && a.quick) return no_more_floats();  // the set is right, but not the numbers
      }
      if (now == 0 || 2 * now > wrong || flips == 0) return false;
      wrong = now;
    }
  }

  /// What the multipliers in `proof`, positive part, tell against every x (IPM-13). Expects rows_ = Cx - c.
  rules::Evidence evidence_against_x() {
    rules::Evidence out;
    double total = 0;
    for (int64_t i = 0; i < q.N; ++i) {
      if (is_inequality(i)) proof[i] = rules::most(proof[i], 0);
      total += std::fabs(proof[i]);
      out.size += std::fabs(rows_[i] * proof[i]);
      out.gain += rows_[i] * proof[i];
    }
    if (!(out.gain > 0)) return out;
    q.adjoint(proof, leak_);
    for (int64_t j = 0; j < q.n; ++j) out.leak += std::fabs(leak_[j]);
    out.scale = rules::most(rules::most(largest(it.x, q.n), 1), out.size / rules::most(total, rules::kTiny));
    return out;
  }

  /// Whether the multipliers, purified if they are promising, prove that no x is feasible; they are kept in `proof`.
  bool proves_infeasible(const Iterate& candidate) {
    for (int64_t i = 0; i < q.N; ++i) rows_[i] = q.kind[i] ? Cx_[i] - q.c[i] : 0, proof[i] = candidate.dual[i];
    const rules::Evidence rough = evidence_against_x();
    if (rough.excludes(rules::kCertificate)) return true;
    if (!rough.excludes(rules::kPromising)) return false;
    // H holds C'WC with W up to 1/delta: v - W C H^-1 C'v leaks (Q + rho) H^-1 times as much as v (IPM-14).
    factor.solve(leak_);
    q.rows(leak_, pull_);
    for (int64_t i = 0; i < q.N; ++i) proof[i] -= weight_[i] * pull_[i];
    return evidence_against_x().excludes(rules::kCertificate);
  }

  /// Whether x is a direction of descent without end (IPM-15); it is kept in ray_x. Cx may be known already.
  bool proves_unbounded(const double* x, const double* Cx) {
    rules::Evidence out;
    double total = 0;
    for (int64_t j = 0; j < q.n; ++j) {
      const double descent = -(q.p[j] + Qx_[j]) * x[j];
      total += std::fabs(x[j]);
      out.size += std::fabs(descent);
      out.gain += descent;
    }
    if (!(out.gain > 0)) return false;
    if (!Cx) q.rows(x, rows_), Cx = rows_;
    for (int64_t i = 0; i < q.N; ++i) out.leak = rules::most(out.leak, is_inequality(i) ? Cx[i] : std::fabs(Cx[i]));
    out.scale = rules::most(out.size / rules::most(total, rules::kTiny), 1);
    if (!out.excludes(rules::kCertificate)) return false;  // by the rows alone, mostly
    q.quadratic(x, leak_);
    out.leak = rules::most(out.leak, largest(leak_, q.n));
    if (!out.excludes(rules::kCertificate)) return false;
    std::copy(x, x + q.n, ray_x);
    return true;
  }

  /// After a ray: go on with min |x|^2 / 2. The program is unbounded if it has a feasible point at all.
  void look_for_feasible() {
    for (int64_t i = 0; i < q.ld * q.ld; ++i) q.Q[i] = 0;
    for (int64_t j = 0; j < q.n; ++j) q.Q[j * q.ld + j] = 1;
    for (int64_t j = 0; j < q.ld; ++j) q.p[j] = it.x[j] = 0;
    for (int64_t i = 0; i < q.N; ++i) {
      it.dual[i] = is_inequality(i);
      it.s[i] = is_inequality(i) ? rules::most(q.c[i], 1) : 0;
    }
  }
};

}  // namespace optl::OPTL_ISA
