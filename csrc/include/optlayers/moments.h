// The step that the optimizers with moments share, and lists of tensors for it, as the kernels of every device get them.
#pragma once

#include <cstdint>

namespace optl {

/// Adam, AMSGrad, NAdam, RAdam, Adamax, RMSProp, Adagrad and momentum are one formula with different numbers (OPT-1),
///
///   h = gradient g + decay p
///   m <- keep1 m + take1 h
///   v <- keep2 v + take2 h^2
///   u = (alpha m + beta h) / (sigma sqrt(w + rho) + epsilon) + shrink p,
///
/// where alpha, beta and shrink contain the learning rate, so that u is what is added to the parameter p. It is w = v
/// (kSquare); or top <- max(top, v) (kLargest); or v - m^2 (kCentered). With kMaximum v <- max(keep2 v, |h| + take2) stands
/// for the root; with kNone there is no division. A square below the smallest normal number counts as that, and a v
/// of kMaximum below the root of it as the root: constants, so that derivatives at a zero gradient are finite.
enum class Second { kNone = 0, kSquare = 1, kLargest = 2, kCentered = 3, kMaximum = 4 };

template <class T>
struct MomentNumbers {
  T gradient, decay, keep1, take1, keep2, take2, alpha, beta, sigma, rho, epsilon, shrink;
};

/// One tensor of an optimizer step: `size` entries, contiguous in each array. Arrays that are null are read as zeros, and
/// not written. entry: g, p, m, v, top. change and out: below.
template <class T>
struct MomentArrays {
  int64_t size;
  const T* entry[5];
  const T* change[5];
  T* out[5];
};

}  // namespace optl
