// The system of some rows as equalities, regularised and refined (IPM-11), by a block of threads.
#pragma once

#include "cuda/qp_factor.h"

namespace optl::cuda {

/// Q dx + C_a' dual = r_x, C_a dx = r_row for the rows a with weight 1/delta, others having weight 0. r_x and r_row (0 at
/// the others) are inputs.
template <class Block>
struct ActiveSet {
  Program<Block>& q;
  Factor<Block>& factor;
  double *r_x, *r_row, *weight;
  double *dx, *dual;                     // the solution
  double *new_x, *new_dual, *new_moved;  // what the last step has led to; new_moved = C new_x, at all rows

  OPTL_HD ActiveSet(Program<Block>& program, Factor<Block>& by, Places& places) : q(program), factor(by) {
    for (double** v : {&r_x, &dx, &new_x, &e_x_, &step_}) *v = places.take(q.n);
    for (double** v : {&r_row, &weight, &dual, &new_dual, &new_moved, &moved_, &e_row_}) *v = places.take(q.N);
  }

  /// Factor and take the first step, which solves the system up to its regularisation. False if there is no factor.
  OPTL_DEVICE bool start() {
    if (!factor.factor(weight)) return false;
    restart();
    return true;
  }

  /// The first step once more, for another right-hand side.
  OPTL_DEVICE void restart() {
    q.each(q.n, [&](int j) { dx[j] = 0, e_x_[j] = r_x[j]; });
    q.each(q.N, [&](int i) { dual[i] = moved_[i] = 0, e_row_[i] = r_row[i]; });
    step();
  }

  /// Refine, from zero and the first step on: so a consistent singular system ends at its solution of least norm.
  /// Returns the max-norm of the residual.
  OPTL_DEVICE_CALL double refine() {
    double best = size();
    for (int pass = 1;; ++pass) {
      const double error = residual();
      if (!(error < best)) return best;
      q.each(q.n, [&](int j) { dx[j] = new_x[j]; });
      q.each(q.N, [&](int i) { dual[i] = new_dual[i], moved_[i] = new_moved[i]; });
      const bool worthwhile = error < 0.5 * best;
      best = error;
      if (!worthwhile || error == 0 || pass == rules::kRefinements) return best;
      step();
    }
  }

  /// For a system that contradicts itself, the least-squares solution of least norm, with the factor at hand. Of
  /// M = K + D, D = (rho I, -delta I), the system K and its regularisation, powers of D M^-1 and M^-1 D tend to the
  /// orthogonal projection onto the null space of K, which is one of x times one of the multipliers: so what cannot be
  /// reached is taken from the right-hand side, then what has no effect from the solution. spare_*: n and N.
  /// Returns the max-norm of the residual.
  OPTL_DEVICE_CALL double least_squares(double* spare_x, double* spare_row) {
    q.each(q.n, [&](int j) { spare_x[j] = r_x[j]; });
    q.each(q.N, [&](int i) { spare_row[i] = r_row[i]; });
    for (int pass = 0; pass < kProjections; ++pass) {
      restart();
      residual();
      q.each(q.n, [&](int j) { r_x[j] = e_x_[j]; });
      q.each(q.N, [&](int i) { r_row[i] = e_row_[i]; });
    }
    q.each(q.n, [&](int j) { r_x[j] = spare_x[j] - r_x[j]; });
    q.each(q.N, [&](int i) { r_row[i] = spare_row[i] - r_row[i]; });
    restart();
    refine();
    q.each(q.n, [&](int j) { new_x[j] = dx[j]; });
    q.each(q.N, [&](int i) { new_dual[i] = dual[i]; });
    const auto keep = [&](double* x, double* rows) {  // what is projected is no increment
      q.each(q.n, [&](int j) { x[j] = dx[j], dx[j] = 0; });
      q.each(q.N, [&](int i) { rows[i] = dual[i], dual[i] = moved_[i] = 0; });
    };
    keep(r_x, r_row);
    for (int pass = 0; pass < kProjections; ++pass) {
      q.each(q.n, [&](int j) { e_x_[j] = factor.rho * new_x[j]; });
      q.each(q.N, [&](int i) { e_row_[i] = weight[i] != 0 ? -rules::kDelta * new_dual[i] : 0; });
      step();
    }
    q.each(q.n, [&](int j) { new_x[j] = dx[j] = r_x[j] - new_x[j], r_x[j] = spare_x[j]; });
    q.each(q.N, [&](int i) { new_dual[i] = dual[i] = r_row[i] - new_dual[i], r_row[i] = spare_row[i]; });
    q.rows(new_x, new_moved);
    return residual();
  }

  /// Max-norm of the right-hand side.
  OPTL_DEVICE double size() const {
    return rules::larger(q.largest(q.n, [&](int j) { return r_x[j]; }),
                         q.largest(q.N, [&](int i) { return r_row[i]; }));
  }

 private:
  static constexpr int kProjections = 6;
  double *e_x_, *step_, *moved_, *e_row_;  // moved_ = C dx

  /// What new_x and new_dual leave of the right-hand side, in e_x_ and e_row_; its max-norm.
  OPTL_DEVICE double residual() {
    q.quadratic(new_x, e_x_);
    q.adjoint(new_dual, step_);
    q.each(q.n, [&](int j) { e_x_[j] = r_x[j] - e_x_[j] - step_[j]; });
    q.each(q.N, [&](int i) { e_row_[i] = weight[i] != 0 ? r_row[i] - new_moved[i] : 0; });
    return rules::larger(q.largest(q.n, [&](int j) { return e_x_[j]; }),
                         q.largest(q.N, [&](int i) { return e_row_[i]; }));
  }

  /// From the kept solution and its residual e_ to a new one.
  OPTL_DEVICE_CALL void step() {
    q.each(q.N, [&](int i) { new_moved[i] = weight[i] * e_row_[i]; });
    q.adjoint(new_moved, step_);
    q.each(q.n, [&](int j) { step_[j] += e_x_[j]; });
    factor.solve(step_);
    q.rows(step_, new_moved);
    q.each(q.n, [&](int j) { new_x[j] = dx[j] + step_[j]; });
    q.each(q.N, [&](int i) {
      new_dual[i] = dual[i] + weight[i] * (new_moved[i] - e_row_[i]);
      new_moved[i] += moved_[i];
    });
  }
};

}  // namespace optl::cuda
