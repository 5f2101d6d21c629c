// The active-set systems of one problem per SIMD lane: ActiveSet of program.h in the other layout.
#pragma once

#include "cpu/lane_program.h"

#ifdef OPTL_LANES
namespace optl::OPTL_ISA {

/// Rows of the system are the equalities of `q`; other rows are absent.
struct LaneActiveSet {
  LaneProgram q;
  LaneFactor factor;
  Real *r_x, *r_row;  // right-hand sides, in the user's units until solve() scales them
  Real *dx, *dual;    // the solution, equilibrated
  Real error{};       // its residual, relative to the right-hand sides
  Real *step, *e_x, *new_x, *weight, *moved, *e_row, *new_dual;

  LaneActiveSet(const QpSizes& sizes, Arena& arena) : q(sizes, arena), factor(q, arena) {
    for (Real** v : {&r_x, &dx, &step, &e_x, &new_x}) *v = take_lanes(arena, q.n);
    for (Real** v : {&r_row, &dual, &weight, &moved, &e_row, &new_dual}) *v = take_lanes(arena, q.N);
    if (arena.base) {  // see LaneProgram::clear
      q.clear();
      std::fill_n(r_x, q.n, every(0)), std::fill_n(r_row, q.N, every(0));
    }
  }

  /// Equilibrate, factor, refine (IPM-17). Lanes that could be factored.
  Mask solve() {
    q.equilibrate(step, new_x);
    q.scale();
    for (int64_t j = 0; j < q.n; ++j) dx[j] = every(0), e_x[j] = r_x[j] = r_x[j] * (q.cost[0] * q.column[j]);
    for (int64_t i = 0; i < q.N; ++i) {
      weight[i] = keep(q.equality[i], every(1 / rules::kDelta));
      dual[i] = every(0), e_row[i] = r_row[i] = keep(q.equality[i], r_row[i] * q.row[i]);
    }
    const Mask factored = factor.factor(q, weight);
    const Real size = larger(largest(r_x, q.n), largest(r_row, q.N));
    Real best = size;
    Mask refining = is(true);
    for (int pass = 0; pass < rules::kRefinements && any(refining); ++pass) {
      for (int64_t i = 0; i < q.N; ++i) e_row[i] = weight[i] * e_row[i];
      for (int64_t j = 0; j < q.n; ++j) step[j] = e_x[j];
      q.add_adjoint(e_row, step);
      factor.solve(q.n, step);
      q.rows(step, moved);
      for (int64_t j = 0; j < q.n; ++j) new_x[j] = dx[j] + step[j];
      for (int64_t i = 0; i < q.N; ++i) new_dual[i] = dual[i] + weight[i] * moved[i] - e_row[i];
      q.quadratic(new_x, e_x);
      q.add_adjoint(new_dual, e_x);
      q.rows(new_x, moved);
      for (int64_t j = 0; j < q.n; ++j) e_x[j] = r_x[j] - e_x[j];
      for (int64_t i = 0; i < q.N; ++i) e_row[i] = keep(q.equality[i], r_row[i] - moved[i]);
      const Real residual = larger(largest(e_x, q.n), largest(e_row, q.N));
      const Mask better = refining & (residual < best);
      for (int64_t j = 0; j < q.n; ++j) dx[j] = select(better, new_x[j], dx[j]);
      for (int64_t i = 0; i < q.N; ++i) dual[i] = select(better, new_dual[i], dual[i]);
      refining = better & (residual < 0.5 * best) & (residual > every(0));
      best = select(better, residual, best);
    }
    error = divide(best, size);
    return factored;
  }
};

}  // namespace optl::OPTL_ISA
#endif
