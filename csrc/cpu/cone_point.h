// From the answer of a cone solver to a point refined to rounding accuracy: units, residuals, Newton steps (CONE-9).
#pragma once

#include "cpu/cone_system.h"

namespace optl::OPTL_ISA::kkt {

inline constexpr double kExact = 1e-13;  // residual at which nothing is left to gain
inline constexpr double kSettled = 1e-12;  // residual below which another factorization is not worth it
inline constexpr double kRough = 1e-9;   // residual above which the units may be to blame
inline constexpr int kFactorizations = 3, kChordSteps = 3;

/// A candidate: x, v = w s - z / w, its residuals (CONE-4), and the residual F itself.
template <class V>
struct ConeCandidate {
  V *x, *v, *f1, *f2;
  V primal, dual;

  ConeCandidate(const ConeKktPlan& plan, Arena& arena)
      : x(take<V>(arena, plan.size.n)), v(take<V>(arena, plan.size.m)), f1(take<V>(arena, plan.size.n)),
        f2(take<V>(arena, plan.size.m)) {}
  V worst() const { return larger(primal, dual); }
};

template <class V>
class ConePoint {
 public:
  ConePoint(const ConeKktPlan& plan, Arena& arena)
      : scratch(plan, arena), system(plan, scratch, arena), plan_(plan), best_(plan, arena), trial_(plan, arena),
        other_(plan, arena) {
    const int64_t n = plan.size.n, m = plan.size.m;
    w = take<V>(arena, m), s = take<V>(arena, m), z = take<V>(arena, m);
    rows_ = take<V>(arena, m), Px_ = take<V>(arena, n), ATz_ = take<V>(arena, n), Ax_ = take<V>(arena, m);
    dx_ = take<V>(arena, n), dv_ = take<V>(arena, m), start_x_ = take<V>(arena, n), start_s_ = take<V>(arena, m);
    start_z_ = take<V>(arena, m), first_w_ = take<V>(arena, m);
  }

  /// Refine the solver's x, s and z, `count` lanes of which are in use: x() and v() are the point in units w, from which
  /// follow s and z.
  void refine(int count, const ConeValues<V>& values, const V* x, const V* solver_s, const V* solver_z) {
    const int32_t n = plan_.size.n, m = plan_.size.m;
    count_ = count, values_ = values;
    std::copy_n(x, n, start_x_), std::copy_n(solver_s, m, start_s_), std::copy_n(solver_z, m, start_z_);
    row_sizes();
    units();
    improve();
    const auto rough = best_.worst() > every_as<V>(kRough);
    if (any(rough)) {  // once more in the units that the data came in
      std::swap(best_, other_);
      std::copy_n(w, m, first_w_);
      for (int32_t i = 0; i < m; ++i) w[i] = every_as<V>(1) / rows_[i];
      improve();
      const auto better = (best_.worst() < other_.worst()) & rough;
      keep(better, best_, other_);
      std::swap(best_, other_);
      for (int32_t i = 0; i < m; ++i) w[i] = select(better, w[i], first_w_[i]);
    }
    cone_project(plan_, scratch, count_, best_.v, s);
    for (int32_t i = 0; i < m; ++i) {
      z[i] = w[i] * (s[i] - best_.v[i]);
      s[i] = s[i] / w[i];
    }
  }

  const V* x() const { return best_.x; }
  const V* v() const { return best_.v; }
  V primal() const { return best_.primal; }
  V dual() const { return best_.dual; }

  ConeScratch scratch;
  ConeSystem<V> system;
  V *w, *s, *z;

 private:
  template <class M>
  void keep(const M& where, const ConeCandidate<V>& from, ConeCandidate<V>& to) const {
    for (int32_t j = 0; j < plan_.size.n; ++j) {
      to.x[j] = select(where, from.x[j], to.x[j]), to.f1[j] = select(where, from.f1[j], to.f1[j]);
    }
    for (int32_t i = 0; i < plan_.size.m; ++i) {
      to.v[i] = select(where, from.v[i], to.v[i]), to.f2[i] = select(where, from.f2[i], to.f2[i]);
    }
    to.primal = select(where, from.primal, to.primal), to.dual = select(where, from.dual, to.dual);
  }

  /// The largest entry in the rows of each cone, one where all are zero; row by row in zero and nonneg.
  void row_sizes() {
    std::fill_n(rows_, plan_.size.m, every_as<V>(0));
    for (int32_t e = 0; e < plan_.size.A; ++e) {
      V& row = rows_[plan_.A_row[e]];
      row = most(absolute(values_.A[e]), row);
    }
    for_blocks(plan_, [&](const ConeKktBlock& block, double) {
      std::fill_n(rows_ + block.start, block.size, largest_of(rows_ + block.start, block.size));
    });
    for (int32_t i = 0; i < plan_.size.m; ++i) rows_[i] = nonzero(rows_[i]);
  }

  /// w: the square root of (force over length), over the size of the row (CONE-5).
  void units() {
    const int32_t n = plan_.size.n, m = plan_.size.m;
    sparse_product(plan_.size.A, plan_.A_col, plan_.A_row, values_.A, start_z_, n, ATz_);
    const V force = most(largest_of(values_.q, n), largest_of(ATz_, n));
    V length = largest_of(start_x_, n);
    for (int32_t i = 0; i < m; ++i) length = most(absolute(values_.b[i]) / rows_[i], length);
    const V ratio = nonzero(force) / nonzero(length);
    const V root = square_root(least(most(ratio, every_as<V>(1e-12)), every_as<V>(1e12)));
    for (int32_t i = 0; i < m; ++i) w[i] = root / rows_[i];
  }

  void measure(ConeCandidate<V>& at) {
    const int32_t n = plan_.size.n, m = plan_.size.m;
    cone_project(plan_, scratch, count_, at.v, s);
    for (int32_t i = 0; i < m; ++i) z[i] = w[i] * (s[i] - at.v[i]);
    std::fill_n(Px_, n, every_as<V>(0));
    for (int32_t e = 0; e < plan_.size.P; ++e) {  // only P's symmetric part enters
      const V half = every_as<V>(0.5) * values_.P[e];
      Px_[plan_.P_row[e]] += half * at.x[plan_.P_col[e]], Px_[plan_.P_col[e]] += half * at.x[plan_.P_row[e]];
    }
    sparse_product(plan_.size.A, plan_.A_col, plan_.A_row, values_.A, z, n, ATz_);
    sparse_product(plan_.size.A, plan_.A_row, plan_.A_col, values_.A, at.x, m, Ax_);
    for (int32_t j = 0; j < n; ++j) at.f1[j] = Px_[j] + values_.q[j] + ATz_[j];
    at.primal = every_as<V>(0);
    for (int32_t i = 0; i < m; ++i) {
      at.f2[i] = w[i] * (Ax_[i] - values_.b[i]) + s[i];
      const V unit = least(rows_[i], every_as<V>(1));
      const V size = unit + absolute(values_.b[i]) + absolute(Ax_[i]) + absolute(s[i] / w[i]);
      at.primal = larger(absolute(at.f2[i] / w[i]) / size, at.primal);
    }
    const V q = largest_of(values_.q, n);
    const V force = larger(q, larger(largest_of(Px_, n), largest_of(ATz_, n)));
    at.dual = largest_of(at.f1, n) / (least(nonzero(q), every_as<V>(1)) + force);
  }

  /// Newton steps, several with one factorization, each kept where it halves the residual: best_ from the start.
  void improve() {
    const int32_t n = plan_.size.n, m = plan_.size.m;
    std::copy_n(start_x_, n, best_.x);
    for (int32_t i = 0; i < m; ++i) best_.v[i] = w[i] * start_s_[i] - start_z_[i] / w[i];
    measure(best_);
    const V exact = every_as<V>(kExact), settled = every_as<V>(kSettled);
    auto open = is_as<V>(true);
    for (int round = 0; round < kFactorizations; ++round) {
      open &= best_.worst() > (round == 0 ? exact : settled);
      if (!any(open)) break;
      system.differentiate(count_, best_.v);
      system.factor(values_, w);
      auto going = open, fell = is_as<V>(false);
      for (int step = 0; step < kChordSteps && any(going); ++step) {
        for (int32_t j = 0; j < n; ++j) trial_.f1[j] = every_as<V>(0) - best_.f1[j];
        for (int32_t i = 0; i < m; ++i) trial_.f2[i] = every_as<V>(0) - best_.f2[i];
        system.solve(trial_.f1, trial_.f2, false, dx_, dv_);
        for (int32_t j = 0; j < n; ++j) trial_.x[j] = best_.x[j] + dx_[j];
        for (int32_t i = 0; i < m; ++i) trial_.v[i] = best_.v[i] + dv_[i];
        measure(trial_);
        going &= trial_.worst() < every_as<V>(0.5) * best_.worst();  // not so for NaN
        fell |= going;
        keep(going, trial_, best_);
        going &= best_.worst() > exact;
      }
      open &= fell;
    }
  }

  const ConeKktPlan& plan_;
  int count_ = 0;
  ConeValues<V> values_{};
  ConeCandidate<V> best_, trial_, other_;
  V *rows_, *Px_, *ATz_, *Ax_, *dx_, *dv_, *start_x_, *start_s_, *start_z_, *first_w_;
};

}  // namespace optl::OPTL_ISA::kkt
