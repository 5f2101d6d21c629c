// The linear systems of cone programs (CONE-6): spectrum of the projection, matrix, factorization, refined solution.
#pragma once

#include "cpu/cone_projection.h"
#include "cpu/lane_ldl.h"
#include "cpu/one_or_lanes.h"

namespace optl::OPTL_ISA::kkt {

// Regularization of the scaled matrix, which refinement takes out again. Where P and Lambda both vanish, rounding over its
// square is the error of the factorization.
inline constexpr double kShift = 1e-6;
inline constexpr double kAccuracy = 1e-9;  // relative residual up to which refinement counts as converged
inline constexpr int kRefinements = 30, kScalings = 5;

/// Values of one program, or of one in each lane.
template <class V>
struct ConeValues {
  const V *P, *q, *A, *b;
};

/// out = M x, or out = M'x with rows and columns swapped.
template <class V>
inline void sparse_product(int32_t entries, const int32_t* rows, const int32_t* cols, const V* values, const V* x,
                           int32_t size, V* out) {
  std::fill_n(out, size, every_as<V>(0));
  for (int32_t e = 0; e < entries; ++e) out[rows[e]] += values[e] * x[cols[e]];
}

/// Calls run(block, its exponent) for the blocks that are not rows of zero or nonneg.
template <class Run>
inline void for_blocks(const ConeKktPlan& plan, const Run& run) {
  for (int32_t i = 0; i < plan.size.blocks; ++i) {
    if (plan.block[i].kind > ConeKktBlock::kNonneg) run(plan.block[i], plan.exponent[i]);
  }
}

/// Room for a block of one lane, in doubles.
struct ConeScratch {
  double *in, *values, *vectors, *work;
  ConeScratch(const ConeKktPlan& plan, Arena& arena) {
    int64_t tall = 1, square = 1;
    for_blocks(plan, [&](const ConeKktBlock& block, double) {
      tall = std::max<int64_t>(tall, block.size), square = std::max<int64_t>(square, int64_t{block.size} * block.size);
    });
    in = arena.take(tall), values = arena.take(tall), vectors = arena.take(square);
    work = arena.take(projection::workspace(plan.size.order));
  }
};

/// s = Pi(v); lanes from `count` on are like the first.
template <class V>
void cone_project(const ConeKktPlan& plan, const ConeScratch& scratch, int count, const V* v, V* s) {
  for (int32_t i = 0; i < plan.size.blocks; ++i) {
    const ConeKktBlock& block = plan.block[i];
    const V *from = v + block.start;
    V* to = s + block.start;
    if (block.kind <= ConeKktBlock::kNonneg) {
      for (int32_t r = 0; r < block.size; ++r) to[r] = block.kind == ConeKktBlock::kZero ? every_as<V>(0) : most(from[r], every_as<V>(0));
      continue;
    }
    for (int l = 0; l < kProblems<V>; ++l) {
      if (l < count) {
        for (int32_t r = 0; r < block.size; ++r) scratch.in[r] = lane(from[r], l);
        projection::project(block, plan.exponent[i], scratch.in, scratch.values, scratch.work);
      }
      const bool own = l < count;
      for (int32_t r = 0; r < block.size; ++r) lane(to[r], l) = own ? scratch.values[r] : lane(to[r], 0);
    }
  }
}

/// Solves with the Jacobian of (CONE-3) and its transpose.
template <class V>
class ConeSystem {
 public:
  ConeSystem(const ConeKktPlan& plan, const ConeScratch& scratch, Arena& arena) : plan_(plan), scratch_(scratch) {
    const int64_t n = plan.size.n, m = plan.size.m, N = n + m;
    lam_ = take<V>(arena, m), root_ = take<V>(arena, m), U_ = take<V>(arena, plan.size.vectors);
    K_ = take<V>(arena, plan.size.K), scale_ = take<V>(arena, N), norm_ = take<V>(arena, N);
    L_ = take<V>(arena, ldl_values(plan.ldl)), work_ = take<V>(arena, ldl_workspace(plan.ldl));
    rhs_ = take<V>(arena, N), u_ = take<V>(arena, N), residual_ = take<V>(arena, N), step_ = take<V>(arena, N);
    image_ = take<V>(arena, N), other_ = take<V>(arena, N), rotated_ = take<V>(arena, m), row_ = take<V>(arena, m);
    sign_ = arena.take(N), place_ = reinterpret_cast<int32_t*>(arena.take((N + 1) / 2));
    if (!sign_) return;
    std::fill_n(sign_, n, 1.0), std::fill_n(sign_ + n, m, -1.0);
  }

  /// Take the eigenvalues and eigenvectors of the derivative of the projection at v (`count` lanes are in use).
  void differentiate(int count, const V* v) {
    for (int32_t i = 0; i < plan_.size.blocks; ++i) {
      const ConeKktBlock& block = plan_.block[i];
      const V* from = v + block.start;
      if (block.kind <= ConeKktBlock::kNonneg) {
        for (int32_t r = 0; r < block.size; ++r) {
          const V one = every_as<V>(1), none = every_as<V>(0);
          lam_[block.start + r] = block.kind == ConeKktBlock::kZero ? none : select(from[r] > none, one, none);
        }
        continue;
      }
      const int32_t square = block.size * block.size;
      V *const lam = lam_ + block.start, *const U = U_ + block.vectors;
      for (int l = 0; l < kProblems<V>; ++l) {
        const bool own = l < count;
        if (own) {
          for (int32_t r = 0; r < block.size; ++r) scratch_.in[r] = lane(from[r], l);
          projection::spectrum(block, plan_.exponent[i], scratch_.in, scratch_.values, scratch_.vectors, scratch_.work);
        }
        for (int32_t r = 0; r < block.size; ++r) lane(lam[r], l) = own ? scratch_.values[r] : lane(lam[r], 0);
        for (int32_t r = 0; r < square; ++r) lane(U[r], l) = own ? scratch_.vectors[r] : lane(U[r], 0);
      }
    }
    for (int32_t i = 0; i < plan_.size.m; ++i) root_[i] = square_root(every_as<V>(1) - lam_[i]);
  }

  /// Put K together, scale and factor it; the values have to stay where they are.
  void factor(const ConeValues<V>& values, const V* w) {
    A_ = values.A, w_ = w;
    assemble(values.P);
    equilibrate();
    ldl_load(plan_.ldl, K_, L_);
    for (int32_t i = 0; i < plan_.size.n + plan_.size.m; ++i) L_[plan_.ldl.diagonal[i]] += every_as<V>(sign_[i] * kShift);
    ldl_factor(plan_.ldl, sign_, kShift / 2, L_, work_, place_);
  }

  /// J (dx, dv) = (r1, r2), or with J'; none of them the same. Returns the relative residual of the inner system.
  V solve(const V* r1, const V* r2, bool transpose, V* dx, V* dv) {
    const int32_t n = plan_.size.n, m = plan_.size.m;
    coordinates(r2, rotated_);
    if (transpose) {  // (CONE-8)
      for (int32_t i = 0; i < m; ++i) row_[i] = w_[i] * r2[i];
      sparse_product(plan_.size.A, plan_.A_col, plan_.A_row, A_, row_, n, rhs_);
      for (int32_t j = 0; j < n; ++j) rhs_[j] = r1[j] - rhs_[j];
      for (int32_t i = 0; i < m; ++i) rhs_[n + i] = every_as<V>(0) - root_[i] * rotated_[i];
    } else {  // (CONE-7)
      std::copy_n(r1, n, rhs_);
      for (int32_t i = 0; i < m; ++i) rhs_[n + i] = root_[i] * rotated_[i];
    }
    const V error = solve_saddle();
    std::copy_n(u_, n, dx);
    for (int32_t i = 0; i < m; ++i) rotated_[i] = root_[i] * u_[n + i];
    if (transpose) {
      vector(rotated_, dv);
      for (int32_t i = 0; i < m; ++i) dv[i] += r2[i];
      return error;
    }
    sparse_product(plan_.size.A, plan_.A_row, plan_.A_col, A_, dx, m, row_);
    vector(rotated_, dv);
    for (int32_t i = 0; i < m; ++i) dv[i] = r2[i] - w_[i] * row_[i] - dv[i];
    return error;
  }

  /// out = D r for the derivative D of the projection.
  void derivative(const V* r, V* out) {
    coordinates(r, rotated_);
    for (int32_t i = 0; i < plan_.size.m; ++i) rotated_[i] = lam_[i] * rotated_[i];
    vector(rotated_, out);
  }

 private:
  /// out = U'r.
  void coordinates(const V* r, V* out) const { turn<true>(r, out); }
  /// out = U c.
  void vector(const V* c, V* out) const { turn<false>(c, out); }

  template <bool transpose>
  void turn(const V* in, V* out) const {
    std::copy_n(in, plan_.size.m, out);
    for_blocks(plan_, [&](const ConeKktBlock& block, double) {
      const V *from = in + block.start, *U = U_ + block.vectors;
      V* const to = out + block.start;
      std::fill_n(to, block.size, every_as<V>(0));
      for (int32_t i = 0; i < block.size; ++i, U += block.size) {
        for (int32_t k = 0; k < block.size; ++k) {
          if constexpr (transpose) to[k] += U[k] * from[i];
          else to[i] += U[k] * from[k];
        }
      }
    });
  }

  void assemble(const V* P) {
    const int32_t n = plan_.size.n, m = plan_.size.m;
    std::fill_n(K_, plan_.size.K, every_as<V>(0));
    for (int32_t i = 0; i < m; ++i) K_[n + i] -= lam_[i];
    for (int32_t e = 0; e < plan_.size.P; ++e) {
      K_[plan_.P_slot[e]] += every_as<V>(plan_.P_row[e] == plan_.P_col[e] ? 1 : 0.5) * P[e];
    }
    for (int32_t e = 0; e < plan_.size.A; ++e) {
      const int32_t row = plan_.A_row[e];
      const ConeKktBlock& block = plan_.block[plan_.block_of[row]];
      V* const to = K_ + plan_.A_slot[e];
      if (block.kind <= ConeKktBlock::kNonneg) {
        *to += root_[row] * w_[row] * A_[e];
        continue;
      }
      const V* const U = U_ + block.vectors + (row - block.start) * block.size;
      const V entry = w_[row] * A_[e];
      for (int32_t k = 0; k < block.size; ++k) to[k] += U[k] * entry;
    }
    for_blocks(plan_, [&](const ConeKktBlock& block, double) {
      V* at = K_ + block.entry;
      for (int32_t c = 0; c < block.columns; ++c, at += block.size) {
        for (int32_t k = 0; k < block.size; ++k) at[k] = at[k] * root_[block.start + k];
      }
    });
  }

  /// Powers of two that bring the columns of the scaled matrix near max-norm one (Ruiz, 2001).
  void equilibrate() {
    const int32_t N = plan_.size.n + plan_.size.m;
    std::fill_n(scale_, N, every_as<V>(1));
    for (int pass = 0; pass < kScalings; ++pass) {
      std::fill_n(norm_, N, every_as<V>(0));
      for (int32_t e = 0; e < plan_.size.K; ++e) {
        const int32_t i = plan_.K_row[e], j = plan_.K_col[e];
        const V entry = absolute(K_[e]);
        norm_[i] = most(entry * scale_[j], norm_[i]), norm_[j] = most(entry * scale_[i], norm_[j]);
      }
      for (int32_t i = 0; i < N; ++i) scale_[i] = scale_[i] / square_root(nonzero<V>(norm_[i] * scale_[i]));
    }
    for (int32_t i = 0; i < N; ++i) scale_[i] = power_of_two(scale_[i]);
    for (int32_t e = 0; e < plan_.size.K; ++e) K_[e] = K_[e] * (scale_[plan_.K_row[e]] * scale_[plan_.K_col[e]]);
  }

  void multiply_K(const V* x, V* out) const {
    symmetric_product(plan_.size.n + plan_.size.m, plan_.size.K, plan_.K_row, plan_.K_col, K_, x, out);
  }

  /// step_ <- (K + R)^-1 rhs; with `exactly`, refined: the factorization alone has errors of about rounding over kShift.
  void substitute(const V* rhs, bool exactly) {
    const int32_t N = plan_.size.n + plan_.size.m;
    std::copy_n(rhs, N, step_);
    ldl_solve(plan_.ldl, L_, step_, work_);
    for (int pass = 0; exactly && pass < 2; ++pass) {
      multiply_K(step_, image_);
      for (int32_t i = 0; i < N; ++i) image_[i] = rhs[i] - image_[i] - every_as<V>(sign_[i] * kShift) * step_[i];
      ldl_solve(plan_.ldl, L_, image_, work_);
      for (int32_t i = 0; i < N; ++i) step_[i] += image_[i];
    }
  }

  /// Iterate u_ += (K + R)^-1 residual_ from zero until the residual settles; u_ and residual_ are what is left.
  void refine(const V* rhs, bool exactly) {
    const int32_t N = plan_.size.n + plan_.size.m;
    std::fill_n(u_, N, every_as<V>(0)), std::copy_n(rhs, N, residual_);
    const V enough = every_as<V>(1e-16) * largest_of(rhs, N);
    V last = every_as<V>(projection::kInfinity);
    for (int pass = 0; pass < kRefinements; ++pass) {
      substitute(residual_, exactly);
      multiply_K(step_, image_);
      const V change = largest_of(image_, N);
      const auto going = change < last;  // not so at rounding, nor for NaN
      for (int32_t i = 0; i < N; ++i) {
        u_[i] = select(going, u_[i] + step_[i], u_[i]);
        residual_[i] = select(going, residual_[i] - image_[i], residual_[i]);
      }
      last = select(going, change, every_as<V>(0));
      if (!any(last > enough)) break;
    }
  }

  /// u_ <- the solution of K u = rhs_, or where there is none the least-squares solution of least norm (linear_solve/
  /// saddle.py says why); returns its relative residual in scaled units.
  V solve_saddle() {
    const int32_t N = plan_.size.n + plan_.size.m;
    for (int32_t i = 0; i < N; ++i) rhs_[i] = rhs_[i] * scale_[i];
    const V size = largest_of(rhs_, N);
    refine(rhs_, false);
    const auto wrong = largest_of(residual_, N) > every_as<V>(kAccuracy) * size;
    if (any(wrong)) least_squares(wrong);
    multiply_K(u_, image_);
    for (int32_t i = 0; i < N; ++i) image_[i] = rhs_[i] - image_[i], u_[i] = u_[i] * scale_[i];
    return largest_of(image_, N) / nonzero(size);
  }

  template <class M>
  void least_squares(const M& wrong) {
    const int32_t N = plan_.size.n + plan_.size.m;
    V* const first = other_;
    std::copy_n(u_, N, first);
    refine(rhs_, true);  // what is left is outside of the range of K
    for (int32_t i = 0; i < N; ++i) norm_[i] = rhs_[i] - residual_[i];
    refine(norm_, true);
    std::copy_n(u_, N, norm_);
    refine(norm_, true);  // what is left is in the null space
    for (int32_t i = 0; i < N; ++i) u_[i] = select(wrong, norm_[i] - residual_[i], first[i]);
  }

  const ConeKktPlan& plan_;
  const ConeScratch& scratch_;
  const V *A_ = nullptr, *w_ = nullptr;
  V *lam_, *root_, *U_, *K_, *scale_, *norm_, *L_, *work_, *rhs_, *u_, *residual_, *step_, *image_, *other_, *rotated_,
      *row_;
  double* sign_;
  int32_t* place_;
};

}  // namespace optl::OPTL_ISA::kkt
