// The interior point iteration of interior_point.h on one problem per SIMD lane, each lane at its own place in it.
#pragma once

#include "cpu/kernels.h"
#include "cpu/lane_program.h"

#ifdef OPTL_LANES
namespace optl::OPTL_ISA {

struct LaneNorms {
  Real primal, dual, gap;
  Real worst() const { return larger(primal, larger(dual, gap)); }
};

/// What a round has left a lane in.
enum class LaneState : unsigned char {
  kRunning,
  kSolved,
  kLeft,  // something rare: the one-sample kernel has to start this sample again
};

/// Lanes take either a step of the iteration or, in `polishing`, one try at an active set. Both are "factor Q + C'WC,
/// then solve H dx = e_x + C'g, dual = W C dx - g a few times", so a round does both at once (IPM-7, IPM-11).
class LaneInteriorPoint {
 public:
  LaneProgram q;
  LaneNorms norms{};  // of q.it
  int64_t iterations[kWidth] = {};

  LaneInteriorPoint(const QpSizes& sizes, Arena& arena) : q(sizes, arena), factor_(q, arena) {
    for (LanePoint* point : {&move_, &trial_}) {
      point->x = take_lanes(arena, q.n), point->dual = take_lanes(arena, q.N), point->s = take_lanes(arena, q.N);
    }
    for (Real** v : {&r_x_, &Qx_, &e_x_, &rhs_, &dx_, &new_x_, &spare_x_}) *v = take_lanes(arena, q.n);
    for (Real** v : {&r_row_, &rows_, &weight_, &barrier_, &e_row_, &g_, &moved_, &new_dual_, &dual_, &spare_row_}) {
      *v = take_lanes(arena, q.N);
    }
    active_ = reinterpret_cast<Mask*>(take_lanes(arena, q.N)), refused_ = reinterpret_cast<Mask*>(take_lanes(arena, q.N));
  }

  /// Check Q, equilibrate and find the starting points (IPM-3, IPM-4) of loaded programs, between two rounds; lanes
  /// where that went well.
  Mask prepare(const LaneProgram& q, double input_eps) const {
    const Mask convex = factor_.convex(q, input_eps);
    q.equilibrate(rhs_, dx_);
    q.scale();
    for (int64_t i = 0; i < q.N; ++i) {
      weight_[i] = select(q.equality[i], every(1 / rules::kDelta), keep(q.inequality[i], every(1)));
      g_[i] = weight_[i] * q.c[i];
    }
    const Mask factored = factor_.factor(q, weight_);
    for (int64_t j = 0; j < q.n; ++j) q.it.x[j] = -q.p[j];
    q.add_adjoint(g_, q.it.x);
    factor_.solve(q.n, q.it.x);
    q.rows(q.it.x, rows_);
    for (int64_t i = 0; i < q.N; ++i) {
      const Real violation = weight_[i] * (rows_[i] - q.c[i]);
      q.it.dual[i] = select(q.inequality[i], most(violation, every(1)), violation);
      q.it.s[i] = keep(q.inequality[i], most(-violation, every(1)));
    }
    return convex & factored;
  }

  /// Put a prepared problem into a lane.
  void enter(int lane, const LaneProgram& from, int source) {
    q.copy_lane(lane, from, source);
    iterations[lane] = 0, tries_[lane] = 0, state_[lane] = LaneState::kRunning, polishing_[lane] = 0;
    has_refused_[lane] = 0;
    double count = 0;
    for (int64_t i = 0; i < q.N; ++i) count -= static_cast<double>(q.inequality[i][lane]);
    allowed_[lane] = rules::kUnclear * count;
  }

  LaneState state(int lane) const { return state_[lane]; }

  /// One round of every lane.
  void advance(double eps, int64_t max_steps) {
    norms = residuals(q.it, r_x_, r_row_, Qx_, rows_);
    begin_steps(eps, max_steps);
    weigh();
    const Mask factored = factor_.factor(q, weight_);
    const Mask stepping = ~polishing_;
    leave(~factored);

    push();
    aim(stepping);
    look();
    refine();
    merge(stepping);
    push();
    take_move(stepping);
    refine();
    for (int pass = 2; pass < rules::kRefinements && any(refining_); ++pass) {
      for (int64_t i = 0; i < q.N; ++i) g_[i] = weight_[i] * e_row_[i];
      push();
      refine();
    }
    leave(stepping & (~finite() | suspicious()));
    const Mask polished = polishing_;
    Mask to_move = stepping & ~clear_;
    polishing_ = select(stepping, clear_, polishing_);
    if (any(polished)) to_move |= judge(polished);
    go(to_move);
  }

 private:
  LaneFactor factor_;
  LanePoint move_{}, trial_{};
  Real *r_x_, *Qx_, *e_x_, *rhs_, *dx_, *new_x_, *spare_x_;
  Real *r_row_, *rows_, *weight_, *barrier_, *e_row_, *g_, *moved_, *new_dual_, *dual_, *spare_row_;
  Mask *active_, *refused_;  // the set in trial, and the one tried last
  Mask polishing_{}, refining_{}, has_refused_{}, last_{}, clear_{};
  Real best_{}, tolerance_{}, count_{}, allowed_{}, wrong_{}, wrong_before_{};
  int tries_[kWidth] = {};
  LaneState state_[kWidth] = {};

  void leave(const Mask& lanes) {
    for (int l = 0; l < kWidth; ++l) {
      if (lanes[l] && state_[l] == LaneState::kRunning) state_[l] = LaneState::kLeft;
    }
  }

  /// KKT residuals and what they are sums of; their relative norms (IPM-10).
  LaneNorms residuals(const LanePoint& at, Real* r_x, Real* r_row, Real* Qx, Real* Cx) const {
    q.quadratic(at.x, Qx);
    for (int64_t j = 0; j < q.n; ++j) r_x[j] = every(0);
    q.add_adjoint(at.dual, r_x);
    q.rows(at.x, Cx);
    const Real terms = most(most(largest(Qx, q.n), largest(r_x, q.n)), largest(q.p, q.n));
    const Real top = every(1) + largest(at.dual, q.N);
    LaneNorms out{};
    for (int64_t j = 0; j < q.n; ++j) {
      r_x[j] += Qx[j] + q.p[j];
      out.dual = larger(out.dual, absolute(r_x[j]) / (least(q.column[j], every(1)) + terms));
    }
    for (int64_t i = 0; i < q.N; ++i) {
      r_row[i] = keep(q.present(i), Cx[i] + at.s[i] - q.c[i]);
      const Real unit = least(q.row[i], every(1)) + absolute(q.c[i]);
      out.primal = larger(out.primal, absolute(r_row[i]) / (unit + absolute(Cx[i])));
      out.gap = larger(out.gap, keep(q.inequality[i], absolute(least(at.s[i] / unit, at.dual[i] / top))));
    }
    return out;
  }

  /// Lanes that have converged try a last active set; those that lag or are out of steps leave.
  void begin_steps(double eps, int64_t max_steps) {
    count_ = every(0);
    for (int64_t i = 0; i < q.N; ++i) count_ += keep(q.inequality[i], every(1));
    count_ = most(count_, every(1));
    const Real worst = norms.worst();
    const Mask converged = ~polishing_ & (worst <= every(eps));
    if (any(converged)) {
      for (int64_t i = 0; i < q.N; ++i) {
        const Mask guess = q.equality[i] | (q.inequality[i] & (q.it.dual[i] > q.it.s[i]));
        active_[i] = select(converged, guess, active_[i]);
      }
      tolerance_ = select(converged, most(worst, every(rules::kPolished)), tolerance_);
      polishing_ |= converged;
      begin_tries(converged, 1);
    }
    last_ = select(~polishing_, is(false), last_ | converged);
    // Where the violation lags behind the gap, the one-sample kernel refines its steps.
    leave(~polishing_ & (norms.primal > norms.gap) & (norms.gap < every(rules::kLagging)));
    for (int l = 0; l < kWidth; ++l) {
      if (!polishing_[l] && iterations[l] == max_steps && state_[l] == LaneState::kRunning) state_[l] = LaneState::kLeft;
    }
  }

  /// Weights, and the first right-hand sides: of the affine step, or of the system on the active set.
  void weigh() {
    const Real full = every(1 / rules::kDelta);
    for (int64_t i = 0; i < q.N; ++i) {
      const Mask inequality = q.inequality[i];
      const Real s = q.it.s[i], z = q.it.dual[i];
      barrier_[i] = select(inequality, s + rules::kDelta * z, every(1));
      const Real usual = select(q.equality[i], full, keep(inequality, z / barrier_[i]));
      weight_[i] = select(polishing_, keep(active_[i], full), usual);
      e_row_[i] = keep(active_[i], q.c[i] - rows_[i]);
      const Real pull = keep(inequality, s * z / barrier_[i]);
      g_[i] = select(polishing_, weight_[i] * e_row_[i], pull - weight_[i] * r_row_[i]);
      dual_[i] = every(0);
    }
    for (int64_t j = 0; j < q.n; ++j) {
      dx_[j] = every(0);
      spare_x_[j] = -q.p[j] - Qx_[j];
      e_x_[j] = select(polishing_, spare_x_[j], -r_x_[j]);
    }
    best_ = larger(largest(spare_x_, q.n), largest(e_row_, q.N));
    refining_ = polishing_;
  }

  /// rhs_ = H^-1 (e_x + C'g), moved_ = C rhs_, new_dual_ = W moved_ - g.
  void push() {
    for (int64_t j = 0; j < q.n; ++j) rhs_[j] = e_x_[j];
    q.add_adjoint(g_, rhs_);
    factor_.solve(q.n, rhs_);
    q.rows(rhs_, moved_);
    for (int64_t i = 0; i < q.N; ++i) new_dual_[i] = weight_[i] * moved_[i] - g_[i];
  }

  Real slack_step(int64_t i) const {
    return keep(q.inequality[i], rules::kDelta * new_dual_[i] - r_row_[i] - moved_[i]);
  }

  /// From the affine step: is the active set clear; centering and correction into trial_.dual (IPM-8).
  void aim(const Mask& stepping) {
    Real unclear = every(0);
    Mask same = has_refused_;
    for (int64_t i = 0; i < q.N; ++i) {
      const Real ds = trial_.s[i] = slack_step(i);
      const Real indicator = select(q.inequality[i], -ds / select(q.inequality[i], q.it.s[i], every(1)), every(1));
      const Mask guess = q.present(i) & (indicator > every(0.5));
      unclear += keep(~(absolute(indicator - every(0.5)) > every(rules::kMargin)), every(1));
      same &= ~(guess ^ refused_[i]);
      active_[i] = select(stepping, guess, active_[i]);
    }
    clear_ = stepping & is(q.N > 0 && uses(Accelerator::kCrossover)) & (unclear <= allowed_) & ~same;
    allowed_ = select(clear_, 0.5 * unclear, allowed_);
    for (int64_t i = 0; i < q.N; ++i) refused_[i] = select(clear_, active_[i], refused_[i]);
    has_refused_ |= clear_;
    begin_tries(clear_, rules::kFlips);
    tolerance_ = select(clear_, every(rules::kPolished), tolerance_);

    const LanePoint affine{rhs_, new_dual_, trial_.s};
    const Real mu = mean_gap(affine, every(0));
    const Real ratio = mean_gap(affine, step_length(affine)) / most(mu, every(1e-200));
    const Real kept = least(most(ratio, every(0)), every(1));
    const Real target = most(kept * kept * kept * mu, every(1e-30));
    for (int64_t i = 0; i < q.N; ++i) {
      const Real r_gap = q.it.s[i] * q.it.dual[i] + trial_.s[i] * new_dual_[i] - target;
      spare_row_[i] = keep(q.inequality[i], r_gap / barrier_[i]) - weight_[i] * r_row_[i];
    }
  }

  void begin_tries(const Mask& lanes, int flips) {
    for (int l = 0; l < kWidth; ++l) tries_[l] = lanes[l] ? flips : tries_[l];
    wrong_before_ = select(lanes, every(INFINITY), wrong_before_);
  }

  /// Rows on the wrong side of (IPM-12), by more than `tolerance`, change sides in some lanes. How many.
  Real flip(const Mask& lanes, const Real* dual, const Real* Cx, double tolerance) {
    const Real zero = -tolerance * (every(1) + largest(dual, q.N));
    Real count = every(0);
    for (int64_t i = 0; i < q.N; ++i) {
      const Real most_slack = tolerance * (every(1) + absolute(q.c[i]));
      const Mask wrong = lanes & q.inequality[i] & select(active_[i], dual[i] < zero, Cx[i] - q.c[i] > most_slack);
      active_[i] ^= wrong;
      count += keep(wrong, every(1));
    }
    return count;
  }

  /// In polishing lanes, what is far on the wrong side shows before the refinement.
  void look() {
    wrong_ = every(0);
    if (!any(polishing_)) return;
    for (int64_t i = 0; i < q.N; ++i) spare_row_[i] = select(polishing_, rows_[i] + moved_[i], spare_row_[i]);
    wrong_ = flip(polishing_, new_dual_, spare_row_, rules::kRough);
    refining_ &= ~(wrong_ > every(0));
  }

  /// The second right-hand sides.
  void merge(const Mask& stepping) {
    for (int64_t j = 0; j < q.n; ++j) e_x_[j] = select(stepping, -r_x_[j], e_x_[j]);
    for (int64_t i = 0; i < q.N; ++i) g_[i] = select(stepping, spare_row_[i], weight_[i] * e_row_[i]);
  }

  void take_move(const Mask& stepping) {
    for (int64_t j = 0; j < q.n; ++j) move_.x[j] = select(stepping, rhs_[j], move_.x[j]);
    for (int64_t i = 0; i < q.N; ++i) {
      move_.dual[i] = select(stepping, new_dual_[i], move_.dual[i]);
      move_.s[i] = select(stepping, slack_step(i), move_.s[i]);
    }
  }

  /// One pass of iterative refinement in the polishing lanes; the residual is that of the system itself (IPM-11).
  void refine() {
    if (!any(polishing_)) return;
    for (int64_t j = 0; j < q.n; ++j) new_x_[j] = dx_[j] + rhs_[j], trial_.x[j] = q.it.x[j] + new_x_[j];
    for (int64_t i = 0; i < q.N; ++i) new_dual_[i] += dual_[i];
    q.quadratic(trial_.x, e_x_);
    q.add_adjoint(new_dual_, e_x_);
    q.rows(trial_.x, moved_);
    for (int64_t j = 0; j < q.n; ++j) e_x_[j] = -q.p[j] - e_x_[j];
    for (int64_t i = 0; i < q.N; ++i) e_row_[i] = keep(active_[i], q.c[i] - moved_[i]);
    const Real error = larger(largest(e_x_, q.n), largest(e_row_, q.N));
    const Mask better = refining_ & (error < best_);
    for (int64_t j = 0; j < q.n; ++j) dx_[j] = select(better, new_x_[j], dx_[j]);
    for (int64_t i = 0; i < q.N; ++i) dual_[i] = select(better, new_dual_[i], dual_[i]);
    refining_ = better & (error < 0.5 * best_) & (error > every(0));
    best_ = select(better, error, best_);
  }

  Mask finite() const {
    Real sum = every(0);
    for (int64_t j = 0; j < q.n; ++j) sum += every(0) * move_.x[j];
    for (int64_t i = 0; i < q.N; ++i) sum += every(0) * move_.dual[i];
    return sum == every(0);
  }

  /// Lanes where iterate or step might become a certificate (IPM-13, IPM-15).
  Mask suspicious() {
    const Real reach = most(largest(q.it.x, q.n), every(1));
    Mask found = is(false);
    for (const bool step : {false, true}) {
      const LanePoint& at = step ? move_ : q.it;
      Real gain = every(0), size = every(0), total = every(0), leak = every(0), outward = every(0);
      for (int64_t i = 0; i < q.N; ++i) {
        const Real proof = select(q.inequality[i], most(at.dual[i], every(0)), at.dual[i]);
        const Real term = proof * (rows_[i] - q.c[i]);
        spare_row_[i] = proof;
        gain += term, size += absolute(term), total += absolute(proof);
      }
      const Mask excludes = gain > 1e-8 * size;
      if (any(excludes)) {
        for (int64_t j = 0; j < q.n; ++j) spare_x_[j] = every(0);
        q.add_adjoint(spare_row_, spare_x_);
        for (int64_t j = 0; j < q.n; ++j) leak += absolute(spare_x_[j]);
        const Real scale = most(reach, size / most(total, every(rules::kTiny)));
        found |= excludes & (gain >= rules::kPromising * leak * scale);
      }

      gain = size = total = every(0);
      for (int64_t j = 0; j < q.n; ++j) {
        const Real descent = -(q.p[j] + Qx_[j]) * at.x[j];
        gain += descent, size += absolute(descent), total += absolute(at.x[j]);
      }
      const Mask descends = gain > 1e-8 * size;
      if (!any(descends)) continue;
      q.rows(at.x, spare_row_);
      for (int64_t i = 0; i < q.N; ++i) {
        outward = most(outward, select(q.inequality[i], spare_row_[i], absolute(spare_row_[i])));
      }
      const Real scale = most(size / most(total, every(rules::kTiny)), every(1));
      const Mask open = descends & (gain >= rules::kCertificate * outward * scale);
      if (!any(open)) continue;
      q.quadratic(at.x, spare_x_);
      found |= open & (gain >= rules::kCertificate * largest(spare_x_, q.n) * scale);
    }
    return found;
  }

  /// After refinement: signs, and the residual of the whole problem (IPM-12). Solved lanes stop; lanes with changed
  /// rows try again; the rest is returned, to go on.
  Mask judge(const Mask& polished) {
    const Mask refined = polished & ~(wrong_ > every(0));
    for (int64_t j = 0; j < q.n; ++j) trial_.x[j] = q.it.x[j] + dx_[j];
    q.rows(trial_.x, moved_);
    for (int64_t i = 0; i < q.N; ++i) {
      const Mask inequality = q.inequality[i];
      trial_.dual[i] = select(inequality, most(dual_[i], every(0)), dual_[i]);
      trial_.s[i] = keep(inequality & ~active_[i], most(q.c[i] - moved_[i], every(0)));
    }
    const LaneNorms reached = residuals(trial_, spare_x_, spare_row_, rhs_, moved_);
    const Mask good = refined & (reached.worst() <= tolerance_);
    for (int64_t j = 0; j < q.n; ++j) q.it.x[j] = select(good, trial_.x[j], q.it.x[j]);
    for (int64_t i = 0; i < q.N; ++i) {
      q.it.dual[i] = select(good, trial_.dual[i], q.it.dual[i]);
      q.it.s[i] = select(good, trial_.s[i], q.it.s[i]);
    }
    norms.primal = select(good, reached.primal, norms.primal);
    norms.dual = select(good, reached.dual, norms.dual);
    norms.gap = select(good, reached.gap, norms.gap);
    const Mask again = refined & ~good;
    wrong_ += flip(again, dual_, moved_, rules::kSign);
    const Mask fewer = (wrong_ > every(0)) & (2.0 * wrong_ <= wrong_before_);
    wrong_before_ = select(polished, wrong_, wrong_before_);
    Mask rest = is(false);
    for (int l = 0; l < kWidth; ++l) {
      if (!polished[l] || state_[l] != LaneState::kRunning) continue;
      if (!good[l] && fewer[l] && tries_[l]-- > 0) continue;
      polishing_[l] = 0;
      if (good[l] || last_[l]) {
        state_[l] = LaneState::kSolved;
      } else {
        rest[l] = -1;
      }
    }
    return rest;
  }

  Real mean_gap(const LanePoint& step, const Real& length) const {
    Real total = every(0);
    for (int64_t i = 0; i < q.N; ++i) {
      total += (q.it.s[i] + length * step.s[i]) * keep(q.inequality[i], q.it.dual[i] + length * step.dual[i]);
    }
    return total / count_;
  }

  /// The longest step up to 1 that keeps s and z nonnegative (IPM-9).
  Real step_length(const LanePoint& step) const {
    Real length = every(1);
    for (int64_t i = 0; i < q.N; ++i) {
      const Mask inequality = q.inequality[i];
      const Mask less_s = inequality & (step.s[i] < every(0)), less_z = inequality & (step.dual[i] < every(0));
      length = least(select(less_s, -q.it.s[i] / select(less_s, step.s[i], every(1)), every(1)), length);
      length = least(select(less_z, -q.it.dual[i] / select(less_z, step.dual[i], every(1)), every(1)), length);
    }
    return length;
  }

  /// Go almost to the boundary; nearer, the smaller the gap.
  void go(const Mask& lanes) {
    if (!any(lanes)) return;
    Real length = step_length(move_);
    const Real shy = length * most(every(1) - mean_gap(move_, every(0)), every(0.995));
    length = select(length < every(1), shy, length);
    for (int64_t j = 0; j < q.n; ++j) q.it.x[j] = select(lanes, q.it.x[j] + length * move_.x[j], q.it.x[j]);
    for (int64_t i = 0; i < q.N; ++i) {
      const Real floor = select(q.inequality[i], every(rules::kTiny), every(-INFINITY));
      const Real s = keep(q.inequality[i], most(q.it.s[i] + length * move_.s[i], every(rules::kTiny)));
      q.it.s[i] = select(lanes, s, q.it.s[i]);
      q.it.dual[i] = select(lanes, most(q.it.dual[i] + length * move_.dual[i], floor), q.it.dual[i]);
    }
    for (int l = 0; l < kWidth; ++l) iterations[l] += lanes[l] ? 1 : 0;
  }
};

}  // namespace optl::OPTL_ISA
#endif
