// Batches of arrays and of quadratic programs, as the kernels of every device are given them.
#pragma once

#include <cstdint>

#include "optlayers/device.h"

namespace optl {

/// Outcome of one sample; the values are those of optlayers.Status.
enum Status : int64_t {
  kSolved = 0,
  kMaxSteps = 1,
  kPrimalInfeasible = 2,
  kDualInfeasible = 3,
  kInvalidInput = 4,
  kNumericalError = 5,
};

/// n variables, k rows of A, m rows of G; lower and upper are n, or 0 where bounds of that kind are not given.
struct QpSizes {
  int64_t batch, n, k, m, lower, upper;
};

/// A batch of arrays, each contiguous; stride counts elements from one to the next, and is 0 for a shared one.
template <class T>
struct Batched {
  T* data;
  int64_t stride;
  OPTL_HD T* operator[](int64_t i) const { return data + i * stride; }
};

/// min 1/2 x'Qx + p'x  s.t.  Gx <= h, Ax = b, lb <= x <= ub; matrices row-major; Q counts as (Q + Q')/2.
template <class T>
struct QpProblem {
  Batched<const T> Q, p, G, h, A, b, lb, ub;
};

template <class T>
struct QpResult {
  Batched<T> x, y, z, z_lb, z_ub, s;
  Batched<bool> active_G, active_lb, active_ub;
  Batched<int64_t> status, iterations;
  Batched<T> residuals;  // 3 each
};

/// The symmetric system of the active rows; r_* may be anything where a row is not active.
template <class T>
struct QpKkt {
  Batched<const T> Q, G, A;
  Batched<const bool> active_G, active_lb, active_ub;
  Batched<const T> r_x, r_y, r_z, r_lb, r_ub;
};

template <class T>
struct QpKktResult {
  Batched<T> d_x, d_y, d_z, d_lb, d_ub, error;
};

/// A backward pass: the system with the cotangents as r_*, and the solution it is taken at.
template <class T>
struct QpBackward {
  QpKkt<T> system;
  Batched<const T> x, y, z;
};

/// Gradients of the matrices that are not wanted are null.
template <class T>
struct QpBackwardResult {
  QpKktResult<T> u;
  Batched<T> grad_Q, grad_G, grad_A;
};

}  // namespace optl
