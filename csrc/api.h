// What the native core offers: plain functions of pointers, sizes, strides, workspace and thread count.
#pragma once

#include <cstdint>

#include "optlayers/batch.h"
#include "optlayers/moments.h"

namespace optl {

/// Widest instruction set this processor runs among those compiled: "portable", "avx2" or "avx512".
const char* isa();

/// Doubles of workspace that one thread needs, for any of the functions below.
int64_t qp_workspace(const QpSizes& sizes);

/// Solve a batch of programs, each to a status of its own. T is float or double; the iteration runs in double.
/// workspace: min(threads, batch) * qp_workspace(sizes) doubles, aligned to 64 bytes. Does not allocate.
template <class T>
void qp_solve(const QpSizes& sizes, const QpProblem<T>& problem, double eps, int64_t max_steps,
              const QpResult<T>& result, double* workspace, int threads);

/// Solve a batch of active-set systems by a regularised factorisation and refinement. error is the relative residual,
/// of order one for a singular inconsistent system; not small (maybe NaN or infinite) where the data hold a NaN. Workspace as above. Does not allocate.
template <class T>
void qp_kkt(const QpSizes& sizes, const QpKkt<T>& system, const QpKktResult<T>& result, double* workspace, int threads);

/// The same, and from its solution u the gradients of the matrices,
/// -(u_x x' + x u_x')/2, -(z u_x' + u_z x') and -(y u_x' + u_y x') (IPM-21). Does not allocate.
template <class T>
void qp_backward(const QpSizes& sizes, const QpBackward<T>& in, const QpBackwardResult<T>& result, double* workspace,
                 int threads);

/// A batch of rows of n entries each.
struct RowSizes {
  int64_t rows, n;
};

/// Project each row of x onto {y >= 0, sum(y) = radius}; support marks the entries above the threshold, which are
/// positive but for a radius of 0. A row with NaN or without a finite largest entry, or a radius that is negative or
/// NaN, gives NaN and an empty support; entries of -inf give 0. Does not allocate.
template <class T>
void simplex(const RowSizes& sizes, Batched<const T> x, Batched<const T> radius, Batched<T> point,
             Batched<bool> support, int threads);

/// Its cotangents: of x, the cotangent less its mean over the support; of the radius, one a row, that mean. 0 where the
/// support is empty. Does not allocate.
template <class T>
void simplex_backward(const RowSizes& sizes, Batched<const bool> support, Batched<const T> cotangent, Batched<T> grad_x,
                      Batched<T> grad_radius, int threads);

/// The entmax of each row of x for alpha = 1.5: p = (x / 2 - t)+^2 with a sum of 1; NaN and -inf as above.
/// Does not allocate.
template <class T>
void entmax15(const RowSizes& sizes, Batched<const T> x, Batched<T> p, int threads);

/// min x'Px/2 + q'x  s.t.  Ax + s = b, s in K, on the pattern of a plan (cpu/cone_plan.h): the values of its entries of P
/// and A; the exponents of the power cones, shared.
struct ConeProblem {
  int64_t batch;
  Batched<const double> P, q, A, b;
  const double* exponents;
};

struct ConeResult {
  Batched<double> x, s, z;
  Batched<int64_t> status, iterations;
};

struct ConePlan;

/// Doubles of workspace that one thread of `cone_solve` needs.
int64_t cone_workspace(const ConePlan& plan, int64_t batch);

/// Solve a batch of cone programs by an interior point method on the homogeneous embedding, each to a status of its own,
/// to relative residuals of eps. A sample without a solution has its certificate in z, scaled to b'z = -1, or in x, scaled to
/// q'x = -1; one that is neither solved nor certified has the best point seen; values that are not finite give NaN.
/// workspace: min(threads, batch) * cone_workspace(plan, batch) doubles, aligned to 64 bytes. Does not allocate.
void cone_solve(const ConePlan& plan, const ConeProblem& problem, double eps, int64_t max_steps,
                const ConeResult& result, double* workspace, int threads);

/// Doubles of workspace that one thread of `chain` needs.
int64_t chain_workspace(int64_t n);

/// The solution of min 1/2 |y - x|^2 + sum_i up (y_i+1 - y_i)+ + down (y_i - y_i+1)+ for each row, as its constant blocks,
/// numbered from 0 in labels, and in jumps 1 at the entry before a rise, -1 before a fall, else 0. Penalties, one a row,
/// may be inf. A row that is not finite, or whose penalty is negative or NaN, is one block.
/// workspace: threads * chain_workspace(n) doubles. Does not allocate.
template <class T>
void chain(const RowSizes& sizes, Batched<const T> x, Batched<const T> up, Batched<const T> down,
           Batched<int64_t> labels, Batched<T> jumps, double* workspace, int threads);

/// The mean of x over its block, for every entry; labels as `chain` gives them. Does not allocate.
template <class T>
void block_mean(const RowSizes& sizes, Batched<const T> x, Batched<const int64_t> labels, Batched<T> mean, int threads);

/// The step of `count` tensors; out: u, m, v, top, or p + u in place of u with `apply`. An array may be read and written.
/// Does not allocate.
template <class T>
void moments_step(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                  bool apply, int threads);

/// Its cotangents; change: those of u, m, v, top; out: those of g, p, m, v, top. Does not allocate.
template <class T>
void moments_pull(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                  int threads);

/// Its tangents; change: those of g, p, m, v, top; out: those of u, m, v, top. Does not allocate.
template <class T>
void moments_push(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                  int threads);

}  // namespace optl
