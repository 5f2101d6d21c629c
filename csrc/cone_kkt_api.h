// What the native core offers for the points of cone programs, their linear systems and their derivatives (docs/theory/cone.md).
#pragma once

#include "api.h"

namespace optl {

struct ConeKktPlan;
struct LdlPlan;

/// Values of P, q, A and b on the patterns of a plan.
struct ConeKktProblems {
  Batched<const double> P, q, A, b;
};

/// What a solver has found.
struct ConeKktPoints {
  Batched<const double> x, s, z;
};

struct ConeKktRefined {
  Batched<double> x, v, w, s, z, residuals;  // residuals: 2 each, primal and dual
};

/// The system in (x, v, s, z) at v, in units w, with r on the right.
struct ConeKktLinear {
  Batched<const double> P, A, v, w, r_x, r_v, r_s, r_z;
};

struct ConeKktLinearResult {
  Batched<double> d_x, d_v, d_s, d_z, error;
};

/// A solution x, z and what a transposed system gave: u = d_x and t = w d_v.
struct ConeKktGradients {
  Batched<const double> x, z, u, t;
};

/// Doubles of workspace that one thread needs for `cone_kkt_refine` and `cone_kkt_solve`.
int64_t cone_kkt_workspace(const ConeKktPlan& plan, int64_t batch);

/// Newton steps (CONE-9) from a solver's points, which have to be numbers; residuals (CONE-4) judge what they end at.
/// workspace: min(threads, batch) times the above, aligned to 64 bytes. Does not allocate.
void cone_kkt_refine(const ConeKktPlan& plan, int64_t batch, const ConeKktProblems& problems, const ConeKktPoints& start,
                     const ConeKktRefined& result, double* workspace, int threads);

/// Solve the linear system, or its transpose, of every sample; error is the relative residual of (CONE-7) or (CONE-8), of
/// order one where that is singular and has no solution: then the least-squares one of least norm is found.
void cone_kkt_solve(const ConeKktPlan& plan, int64_t batch, const ConeKktLinear& system, bool transpose,
                    const ConeKktLinearResult& result, double* workspace, int threads);

/// Gradients of the values of P and A (CONE-12); null where one is not wanted; where its stride is 0, what
/// the whole batch adds to it.
void cone_kkt_gradients(const ConeKktPlan& plan, int64_t batch, const ConeKktGradients& at, Batched<double> grad_P,
                        Batched<double> grad_A);

/// Whether the data of each sample are numbers and P is positive semidefinite up to rounding: of_P is the plan of its
/// pattern. workspace: cone_kkt_valid_workspace(of_P) doubles. Does not allocate.
int64_t cone_kkt_valid_workspace(const LdlPlan& of_P);
void cone_kkt_valid(const ConeKktPlan& plan, const LdlPlan& of_P, int64_t batch, const ConeKktProblems& problems,
                    Batched<bool> valid, double* workspace);

}  // namespace optl
