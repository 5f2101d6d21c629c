// The interior point iteration for cone programs, of one (V = double) or of one in each SIMD lane, each lane at its own place.
#pragma once

#include "api.h"
#include "cpu/cone_product.h"

namespace optl::OPTL_ISA {

inline constexpr double kStaticTerm = 1e-8;     // added to the diagonal of K, with the sign of the pivot
inline constexpr double kLeastPivot = 2e-7;     // takes the place of one that is smaller, or of the wrong sign
inline constexpr int kSolveRefinements = 10;
inline constexpr double kRefined = 1e-13;       // residual, relative to the right-hand side, of a refined solve
inline constexpr double kNearBoundary = 0.99;   // part of the step to the boundary that is taken
inline constexpr double kShorter = 0.96, kShorterAtMost = 0.6;  // first and last factor of a step that goes too far
inline constexpr double kShortest = 1e-4;       // a step shorter than this ends the iteration
inline constexpr double kSlow = 0.1;            // after one shorter than this, no primal-dual scaling (CIP-13) any more
inline constexpr int64_t kStalled = 5;          // steps that have not halved residuals
inline constexpr double kNear = 1e-6;           // that are below this end the iteration
inline constexpr double kCertain = 1e-8;        // relative residual of a certificate
inline constexpr double kCancelled = 1e-4;      // the same in units in which the data are about one

/// The embedding (CIP-3): a point, or a step.
template <class V>
struct ConeIterate {
  V *x, *z, *s;  // n, m, m
  V tau, kappa;

  void allocate(const ConePlan& plan, Arena& arena) {
    x = take<V>(arena, plan.size.n), z = take<V>(arena, plan.size.m), s = take<V>(arena, plan.size.m);
  }
};

/// (CIP-5) to (CIP-9); one `check` and one `step` make an iteration.
template <class V>
class ConeInteriorPoint {
 public:
  using M = MaskOf<V>;

  ConeData<V> data;
  ConeIterate<V> it{}, best{};
  int64_t iterations[kLanesOf<V>] = {};
  Status status[kLanesOf<V>] = {};

  ConeInteriorPoint(const ConePlan& plan, const double* exponents, Arena& arena)
      : data(plan, arena), cones_(plan, exponents, arena), plan_(plan), n_(plan.size.n), m_(plan.size.m),
        N_(plan.size.order) {
    for (ConeIterate<V>* point : {&it, &best, &move_}) point->allocate(plan, arena);
    for (V** v : {&Px_, &Atz_, &r_x_, &px_}) *v = take<V>(arena, n_);
    for (V** v : {&Ax_, &r_z_, &c_}) *v = take<V>(arena, m_);
    for (V** v : {&u_, &w_, &rhs_, &r_, &d_, &trial_, &r_trial_}) *v = take<V>(arena, N_);
    H_ = take<V>(arena, plan.size.entries - plan.size.P - plan.size.A);
    L_ = take<V>(arena, ldl_values(plan.ldl)), work_ = take<V>(arena, ldl_workspace(plan.ldl));
    sign_ = arena.take(N_), place_ = reinterpret_cast<int32_t*>(arena.take((N_ + 1) / 2));
  }

  /// Once, before anything else; empty lanes compute something all the same.
  void clear() {
    for (int64_t i = 0; i < N_; ++i) sign_[i] = i < n_ || (i >= n_ + m_ && (i - n_ - m_) % 2 == 0) ? 1 : -1;
    data.clear();
    for (int lane = 0; lane < kLanesOf<V>; ++lane) set_running(lane, false), reset(lane);
  }

  /// Put a prepared program into a lane.
  void enter(int lane, const ConeData<V>& from, int source) {
    data.copy_lane(lane, from, source);
    reset(lane);
    set_running(lane, true);
    if (!plan_.size.triples) starting_ = starting_ | one_lane(lane);
    entered_ = true;
    primal_dual_ = primal_dual_ | one_lane(lane);
    iterations[lane] = progress_[lane] = 0, at_lane(&best_worst_, lane) = at_lane(&goal_, lane) = INFINITY;
  }

  bool running(int lane) const { return lane_of(running_, lane); }

  /// Residuals of all lanes; those that are done, or fail, stop, with `best` what they have found.
  void check(double eps, int64_t max_steps) {
    residuals();
    const Verdict v = judge();
    const V worst = larger(v.primal, larger(v.dual, v.gap));
    const M fresh = starting_, better = running_ & !fresh & (worst < best_worst_);
    keep_best(better, worst);
    const M solved = better & (worst <= fill<V>(eps));
    const M stuck = failed_ | !(worst < fill<V>(INFINITY));
    for (int l = 0; l < kLanesOf<V>; ++l) {
      if (!running(l) || lane_of(fresh, l)) continue;
      if (lane_of(solved, l)) {
        stop(l, kSolved);
      } else if (lane_of(v.infeasible, l) || lane_of(v.unbounded, l)) {
        stop(l, lane_of(v.infeasible, l) ? kPrimalInfeasible : kDualInfeasible);
        take_lane(l);
      } else if (lane_of(stuck, l)) {
        stop(l, kNumericalError);
      } else if (iterations[l] >= max_steps) {
        stop(l, kMaxSteps);
      } else if (at_lane(&worst, l) <= at_lane(&goal_, l)) {
        at_lane(&goal_, l) = 0.5 * at_lane(&worst, l), progress_[l] = iterations[l];
      } else if (iterations[l] >= progress_[l] + kStalled && at_lane(&best_worst_, l) <= kNear &&
                 at_lane(&it.tau, l) > at_lane(&it.kappa, l)) {
        stop(l, kNumericalError);
      }
    }
  }

  /// Predictor, corrector and step, in all lanes.
  void step() {
    if (entered_) residuals();
    entered_ = false;
    failed_ = failed_ | !cones_.scale(it.s, it.z, primal_dual_);
    cones_.entries(H_ - plan_.size.P - plan_.size.A);
    factor();

    constant_right_hand_side();
    solve(rhs_, u_, true);
    const V mu = (dot(it.s, it.z, m_) + it.tau * it.kappa) / static_cast<double>(plan_.size.degree + 1);
    const V one = fill<V>(1), zero = fill<V>(0);
    prepare_tau();

    for (int64_t i = 0; i < m_; ++i) c_[i] = zero;
    right_hand_side(one);
    solve(rhs_, w_, true);
    const V affine = direction(one, it.tau * it.kappa);
    start();

    V sigma = 1.0 - affine;  // where the last step was short, this one does nothing but to make the point central
    sigma = select(jammed_, one, sigma * sigma * sigma);
    for (int64_t i = 0; i < m_; ++i) move_.s[i] = keep(!jammed_, move_.s[i]), move_.z[i] = keep(!jammed_, move_.z[i]);
    move_.tau = keep(!jammed_, move_.tau);
    cones_.correction(it.z, move_.s, move_.z, sigma * mu, c_);
    const V d_kappa = it.tau * it.kappa + move_.tau * move_.kappa - sigma * mu;
    right_hand_side(1.0 - sigma);
    solve(rhs_, w_, true);
    go(direction(1.0 - sigma, d_kappa));
  }

 private:
  struct Verdict {
    V primal, dual, gap;
    M infeasible, unbounded;
  };

  ConeProduct<V> cones_;
  const ConePlan& plan_;
  int64_t n_, m_, N_;
  ConeIterate<V> move_{};
  V *Px_, *Atz_, *r_x_, *px_, *Ax_, *r_z_, *c_;
  V *u_, *w_, *rhs_, *r_, *d_, *trial_, *r_trial_;
  V *H_, *L_, *work_;
  double* sign_;
  int32_t* place_;
  V r_tau_{}, xPx_{}, denominator_{}, best_worst_{}, goal_{};  // goal_: residual at which a point counts as progress
  int64_t progress_[kLanesOf<V>] = {};                         // the iteration of the last progress
  M running_{}, starting_{}, failed_{}, primal_dual_{}, jammed_{};
  bool entered_ = false;

  static M one_lane(int lane) {
    V v = fill<V>(0);
    at_lane(&v, lane) = 1;
    return v > fill<V>(0);
  }
  void set_running(int lane, bool on) {
    const M here = one_lane(lane);
    running_ = on ? M(running_ | here) : M(running_ & !here);
    starting_ = starting_ & !here, failed_ = failed_ & !here, jammed_ = jammed_ & !here;
  }
  void reset(int lane) {
    for (int64_t j = 0; j < n_; ++j) at_lane(it.x + j, lane) = 0;
    for (int64_t i = 0; i < m_; ++i) at_lane(it.s + i, lane) = at_lane(it.z + i, lane) = 0;
    cones_.set_unit(it.s, lane), cones_.set_unit(it.z, lane);
    at_lane(&it.tau, lane) = at_lane(&it.kappa, lane) = 1;
  }
  void stop(int lane, Status found) {
    status[lane] = found;
    set_running(lane, false);
  }
  void take_lane(int lane) { keep_best(one_lane(lane), fill<V>(0)); }

  void keep_best(const M& lanes, const V& worst) {
    if (!any(lanes)) return;
    for (int64_t j = 0; j < n_; ++j) best.x[j] = select(lanes, it.x[j], best.x[j]);
    for (int64_t i = 0; i < m_; ++i) {
      best.z[i] = select(lanes, it.z[i], best.z[i]), best.s[i] = select(lanes, it.s[i], best.s[i]);
    }
    best.tau = select(lanes, it.tau, best.tau), best.kappa = select(lanes, it.kappa, best.kappa);
    best_worst_ = select(lanes, worst, best_worst_);
  }

  static V dot(const V* a, const V* b, int64_t count) {
    V sum = fill<V>(0);
    for (int64_t i = 0; i < count; ++i) sum = multiply_add(a[i], b[i], sum);
    return sum;
  }

  /// (CIP-3).
  void residuals() {
    data.quadratic(it.x, Px_), data.adjoint(it.z, Atz_), data.rows_of(it.x, Ax_);
    for (int64_t j = 0; j < n_; ++j) r_x_[j] = Px_[j] + Atz_[j] + data.q[j] * it.tau;
    for (int64_t i = 0; i < m_; ++i) r_z_[i] = Ax_[i] + it.s[i] - data.b[i] * it.tau;
    xPx_ = dot(it.x, Px_, n_);
    r_tau_ = it.kappa + xPx_ / it.tau + dot(data.q, it.x, n_) + dot(data.b, it.z, m_);
  }

  /// (CIP-23), in the units of the data.
  Verdict judge() const {
    const V zero = fill<V>(0), one = fill<V>(1);
    V scaled_x = zero, scaled_z = zero, scaled_Atz = zero, scaled_Px = zero, scaled_ray = zero;
    V x = zero, Px = zero, Atz = zero, q = zero, r_x = zero, Ax = zero, s = zero, z = zero, b = zero, r_z = zero, ray = zero;
    const V back = 1.0 / *data.cost;
    for (int64_t j = 0; j < n_; ++j) {
      const V unit = back / data.column[j];
      x = larger(absolute(data.column[j] * it.x[j]), x), Px = larger(unit * absolute(Px_[j]), Px);
      Atz = larger(unit * absolute(Atz_[j]), Atz), q = larger(unit * absolute(data.q[j]), q);
      r_x = larger(unit * absolute(r_x_[j]), r_x);
      scaled_x = larger(absolute(it.x[j]), scaled_x), scaled_Px = larger(absolute(Px_[j]), scaled_Px);
      scaled_Atz = larger(absolute(Atz_[j]), scaled_Atz);
    }
    for (int64_t i = 0; i < m_; ++i) {
      const V unit = 1.0 / data.row[i];
      Ax = larger(unit * absolute(Ax_[i]), Ax), s = larger(unit * absolute(it.s[i]), s);
      b = larger(unit * absolute(data.b[i]), b), r_z = larger(unit * absolute(r_z_[i]), r_z);
      z = larger(back * data.row[i] * absolute(it.z[i]), z), ray = larger(unit * absolute(Ax_[i] + it.s[i]), ray);
      scaled_z = larger(absolute(it.z[i]), scaled_z), scaled_ray = larger(absolute(Ax_[i] + it.s[i]), scaled_ray);
    }
    const V qx = dot(data.q, it.x, n_) * back, bz = dot(data.b, it.z, m_) * back;
    const V inverse = 1.0 / it.tau, xPx = xPx_ * back * inverse;  // the three terms of the gap, times tau
    const V primal_value = absolute(0.5 * xPx + qx), dual_value = absolute(0.5 * xPx + bz);
    Verdict v{};
    v.primal = inverse * r_z / larger(one, inverse * larger(Ax, larger(s, b * it.tau)));
    v.dual = inverse * r_x / larger(one, inverse * larger(Px, larger(Atz, q * it.tau)));
    v.gap = inverse * absolute(xPx + qx + bz) / larger(one, inverse * larger(primal_value, dual_value));
    const M apart = it.kappa > it.tau;
    v.infeasible = apart & (bz < zero) & (Atz <= kCertain * larger(one, x + z) * absolute(bz)) &
                   (scaled_Atz <= kCancelled * scaled_z);
    v.unbounded = apart & (qx < zero) & (larger(Px, ray) <= kCertain * larger(one, x + s) * absolute(qx)) &
                  (larger(scaled_Px, scaled_ray) <= kCancelled * scaled_x);
    return v;
  }

  void factor() {
    const LdlPlan& ldl = plan_.ldl;
    std::fill_n(L_, ldl.size.values, fill<V>(0));
    const int64_t given = plan_.size.P + plan_.size.A;
    for (int64_t e = 0; e < plan_.size.entries; ++e) L_[ldl.slot[e]] += e < given ? data.P[e] : H_[e - given];
    for (int64_t i = 0; i < N_; ++i) L_[ldl.diagonal[i]] += sign_[i] * kStaticTerm;
    ldl_factor(ldl, sign_, kLeastPivot, L_, work_, place_);
  }

  /// out = b - K v for a right-hand side b; the largest entry.
  V residual(const V* b, const V* v, V* out) const {
    for (int64_t i = 0; i < N_; ++i) out[i] = b[i];
    const int64_t given = plan_.size.P + plan_.size.A;
    for (int64_t e = 0; e < plan_.size.entries; ++e) {
      const int32_t i = plan_.rows[e], j = plan_.cols[e];
      const V value = e < given ? data.P[e] : H_[e - given];
      out[i] -= value * v[j];
      if (i != j) out[j] -= value * v[i];
    }
    return largest_of(out);
  }
  V largest_of(const V* v) const {
    V top = fill<V>(0);
    for (int64_t i = 0; i < N_; ++i) top = larger(absolute(v[i]), top);
    return top;
  }

  /// K out = b; with `refine`, without the static term.
  void solve(const V* b, V* out, bool refine) {
    std::copy_n(b, N_, out);
    ldl_solve(plan_.ldl, L_, out, work_);
    if (!refine) return;
    const V enough = kRefined * largest_of(b);
    V size = residual(b, out, r_);
    M open = running_ & (size > enough);
    for (int pass = 0; pass < kSolveRefinements && any(open); ++pass) {
      std::copy_n(r_, N_, d_);
      ldl_solve(plan_.ldl, L_, d_, work_);
      for (int64_t i = 0; i < N_; ++i) trial_[i] = out[i] + d_[i];
      const V next = residual(b, trial_, r_trial_);
      const M better = open & (next < size);
      for (int64_t i = 0; i < N_; ++i) {
        out[i] = select(better, trial_[i], out[i]), r_[i] = select(better, r_trial_[i], r_[i]);
      }
      open = better & (next > enough) & (next < 0.2 * size);
      size = select(better, next, size);
    }
  }

  /// (-q, b); where a lane starts (CIP-22), and there is no P, (0, b).
  void constant_right_hand_side() {
    const M split = plan_.size.P ? always<V>(false) : starting_;
    for (int64_t j = 0; j < n_; ++j) rhs_[j] = select(split, fill<V>(0), -data.q[j]);
    for (int64_t i = 0; i < m_; ++i) rhs_[n_ + i] = data.b[i];
    std::fill_n(rhs_ + n_ + m_, N_ - n_ - m_, fill<V>(0));
  }

  /// (-eta rho_x, s + c - eta rho_z); where a lane starts, (-q, 0).
  void right_hand_side(const V& eta) {
    for (int64_t j = 0; j < n_; ++j) rhs_[j] = select(starting_, -data.q[j], -eta * r_x_[j]);
    for (int64_t i = 0; i < m_; ++i) {
      rhs_[n_ + i] = select(starting_, fill<V>(0), it.s[i] + c_[i] - eta * r_z_[i]);
    }
    std::fill_n(rhs_ + n_ + m_, N_ - n_ - m_, fill<V>(0));
  }

  /// The denominator of (CIP-7).
  void prepare_tau() {
    data.quadratic(u_, px_);
    const V along = dot(u_, px_, n_), across = dot(it.x, px_, n_) / it.tau;
    const V apart = along - 2.0 * across + xPx_ / (it.tau * it.tau);  // |u - xi|_P^2
    denominator_ = it.kappa / it.tau + most(apart, fill<V>(0)) - along - dot(data.q, u_, n_) - dot(data.b, u_ + n_, m_);
  }

  /// The step from w_ and u_, into move_; its length, at most one.
  V direction(const V& eta, const V& d_kappa) {
    const V along = dot(data.q, w_, n_) + 2.0 * dot(Px_, w_, n_) / it.tau + dot(data.b, w_ + n_, m_);
    move_.tau = (eta * r_tau_ - d_kappa / it.tau + along) / denominator_;
    move_.kappa = -(d_kappa + it.kappa * move_.tau) / it.tau;
    for (int64_t j = 0; j < n_; ++j) move_.x[j] = w_[j] + move_.tau * u_[j];
    for (int64_t i = 0; i < m_; ++i) move_.z[i] = w_[n_ + i] + move_.tau * u_[n_ + i];
    cones_.multiply(move_.z, move_.s);
    for (int64_t i = 0; i < m_; ++i) move_.s[i] = -move_.s[i] - it.s[i] - c_[i];
    const V zero = fill<V>(0), one = fill<V>(1);
    V length = fill<V>(1 / kNearBoundary);
    for (const auto& [at, by] : {std::pair(it.tau, move_.tau), std::pair(it.kappa, move_.kappa)}) {
      const auto falls = by < zero;
      length = least(select(falls, -at / select(falls, by, one), length), length);
    }
    length = kNearBoundary * cones_.step_length(it.s, it.z, move_.s, move_.z, length);
    return plan_.size.triples ? near_path(length) : length;
  }

  /// Lanes that start take the point of (CIP-22); they take no step this time.
  void start() {
    if (!any(starting_)) return;
    const bool split = plan_.size.P == 0;
    for (int64_t j = 0; j < n_; ++j) it.x[j] = select(starting_, u_[j], it.x[j]);
    V *s = r_, *z = d_;
    const int32_t zeros = plan_.size.blocks && plan_.blocks[0].kind == kZeroCone ? plan_.blocks[0].rows : 0;
    for (int64_t i = 0; i < m_; ++i) {
      s[i] = i < zeros ? fill<V>(0) : -u_[n_ + i];
      z[i] = split ? w_[n_ + i] : u_[n_ + i];
    }
    for (V* v : {s, z}) {
      const V low = cones_.margin(v);
      cones_.shift(select(low > fill<V>(0), fill<V>(0), 1.0 - low), v);
    }
    for (int64_t i = 0; i < m_; ++i) {
      it.s[i] = select(starting_, s[i], it.s[i]), it.z[i] = select(starting_, z[i], it.z[i]);
    }
  }

  /// Shorten the step until it ends inside the exponential and power cones and near the central path (CIP-9).
  V near_path(V length) const {
    const double degree = plan_.size.degree + 1, limit = 1 + plan_.size.triples;
    for (double factor = kShorter;; factor = rules::most(factor * factor, kShorterAtMost)) {
      V gap = (it.tau + length * move_.tau) * (it.kappa + length * move_.kappa);
      const V barrier = cones_.barriers(it.s, it.z, move_.s, move_.z, length) - logarithm(gap);
      for (int64_t i = 0; i < m_; ++i) gap += (it.s[i] + length * move_.s[i]) * (it.z[i] + length * move_.z[i]);
      const M far = running_ & !(degree * logarithm(gap / degree) + barrier <= fill<V>(limit)) &
                    (length >= fill<V>(kShortest * kShorter));
      if (!any(far)) return length;
      length = select(far, factor * length, length);
    }
  }

  void go(const V& length) {
    const M ready = running_ & !starting_ & !failed_, goes = ready & (length > fill<V>(0));
    const M shortest = ready & !(length >= fill<V>(kShortest)), slow = ready & !(length >= fill<V>(kSlow));
    failed_ = failed_ | (shortest & !primal_dual_);  // with such scalings, it tries again without
    primal_dual_ = primal_dual_ & !slow;
    jammed_ = slow & !jammed_;
    const auto add = [&](V& at, const V& by) { at = select(goes, at + length * by, at); };
    for (int64_t j = 0; j < n_; ++j) add(it.x[j], move_.x[j]);
    for (int64_t i = 0; i < m_; ++i) add(it.z[i], move_.z[i]), add(it.s[i], move_.s[i]);
    add(it.tau, move_.tau), add(it.kappa, move_.kappa);
    for (int l = 0; l < kLanesOf<V>; ++l) iterations[l] += lane_of(goes, l);
    starting_ = always<V>(false);
  }
};

}  // namespace optl::OPTL_ISA
