// The second-order cone t >= |y| of d rows (t, y): Nesterov-Todd scaling, Jordan division and steps to the boundary.
#pragma once

#include "optlayers/numbers.h"

// Templates on the number, a double or one in each SIMD lane, whose arithmetic is included before; see
// docs/theory/cone_interior_point.md. Nothing here looks at one lane alone, so that lanes never disturb each other.
namespace optl::OPTL_ISA::second_order {

template <class V>
OPTL_HD inline V tail_dot(int64_t d, const V* a, const V* b) {
  V sum = a[0] - a[0];
  for (int64_t i = 1; i < d; ++i) sum += a[i] * b[i];
  return sum;
}

/// t - |y|, the smaller eigenvalue.
template <class V>
OPTL_HD inline V margin(int64_t d, const V* v) { return v[0] - square_root(tail_dot(d, v, v)); }

/// t^2 - |y|^2, negative wherever the point is not inside.
template <class V>
OPTL_HD inline V determinant(int64_t d, const V* v) {
  const V length = square_root(tail_dot(d, v, v));
  return (v[0] - length) * most(v[0] + length, fill<V>(0));
}

/// (CIP-11): W = theta [[w0, w1'], [w1, I + w1 w1' / (1 + w0)]], and lambda = W z.
template <class V>
struct Scaling {
  V theta;
  V *w, *lambda;  // d each
};

/// Of the pair s, z. Lanes in which both are inside.
template <class V>
OPTL_HD inline MaskOf<V> scale(int64_t d, const V* s, const V* z, Scaling<V>& out) {
  const V s_det = determinant(d, s), z_det = determinant(d, z);
  const V s_size = square_root(s_det), z_size = square_root(z_det);
  out.theta = square_root(s_size / z_size);
  V* const w = out.w;
  w[0] = s[0] / s_size + z[0] / z_size;
  for (int64_t i = 1; i < d; ++i) w[i] = s[i] / s_size - z[i] / z_size;
  const V size = square_root(determinant(d, w));
  for (int64_t i = 1; i < d; ++i) w[i] = w[i] / size;
  w[0] = square_root(1.0 + tail_dot(d, w, w));  // not w[0] / size: |w|_J = 1 has to hold to rounding

  const V half = 0.5 * size, geometric = square_root(s_size * z_size);
  const V to_z = half + s[0] / s_size, to_s = half + z[0] / z_size;
  const V total = s[0] / s_size + z[0] / z_size + 2.0 * half;
  const V on_s = geometric * to_s / (total * s_size), on_z = geometric * to_z / (total * z_size);
  out.lambda[0] = half * geometric;
  for (int64_t i = 1; i < d; ++i) out.lambda[i] = on_s * s[i] + on_z * z[i];
  return (s_det > fill<V>(0)) & (z_det > fill<V>(0));
}

/// out = W v, or W^-1 v if `inverse`; W is symmetric. May be in place.
template <class V>
OPTL_HD inline void multiply(int64_t d, const Scaling<V>& by, bool inverse, const V* v, V* out) {
  const double sign = inverse ? -1 : 1;
  const V unit = inverse ? 1.0 / by.theta : by.theta;
  const V along = tail_dot(d, by.w, v), first = v[0];
  const V push = sign * first + along / (1.0 + by.w[0]);
  out[0] = unit * (by.w[0] * first + sign * along);
  for (int64_t i = 1; i < d; ++i) out[i] = unit * (v[i] + push * by.w[i]);
}

/// out = H v = theta^2 (2 w (w'v) - J v). May be in place.
template <class V>
OPTL_HD inline void square(int64_t d, const Scaling<V>& by, const V* v, V* out) {
  const V unit = by.theta * by.theta, twice = 2.0 * (by.w[0] * v[0] + tail_dot(d, by.w, v));
  out[0] = unit * (twice * by.w[0] - v[0]);
  for (int64_t i = 1; i < d; ++i) out[i] = unit * (twice * by.w[i] + v[i]);
}

/// (CIP-12) out = W (lambda \ (W^-1 ds o W dz - centre e)); a and b are work, d each.
template <class V>
OPTL_HD inline void correction(int64_t d, const Scaling<V>& by, const V* ds, const V* dz, const V& centre, V* a, V* b,
                               V* out) {
  multiply(d, by, true, ds, a);
  multiply(d, by, false, dz, b);
  const V first = a[0] * b[0] + tail_dot(d, a, b) - centre;
  for (int64_t i = 1; i < d; ++i) b[i] = a[0] * b[i] + b[0] * a[i];
  const V* const lambda = by.lambda;
  const V top = (lambda[0] * first - tail_dot(d, lambda, b)) / determinant(d, lambda);
  for (int64_t i = 1; i < d; ++i) a[i] = (b[i] - top * lambda[i]) / lambda[0];
  a[0] = top;
  multiply(d, by, false, a, out);
}

/// The largest step up to `limit` that stays in the cone: the hyperbolic rotation that takes v / |v|_J to the unit takes
/// dv / |v|_J to some (r0, r1), and from the unit the way out is 1 / (|r1| - r0).
template <class V>
OPTL_HD inline V step_length(int64_t d, const V* v, const V* dv, const V& limit) {
  const V zero = fill<V>(0), one = fill<V>(1);
  const V size = square_root(determinant(d, v)), first = (v[0] * dv[0] - tail_dot(d, v, dv)) / size;
  const V push = (dv[0] + first) / (size + v[0]);
  V tail = zero;
  for (int64_t i = 1; i < d; ++i) {
    const V turned = dv[i] - push * v[i];
    tail += turned * turned;
  }
  const V rate = square_root(tail) - first;
  const auto leaves = rate > zero;
  return select(leaves, least(size / select(leaves, rate, one), limit), limit);
}

/// H = theta^2 (diag(corner, 1, ..., 1) + u u' - v v') with u = (head, along w1), v = (0, back w1): sparse in two more
/// variables, where 2 w w' - J would be dense.
template <class V>
struct RankTwo {
  V corner, head, along, back;
};

template <class V>
OPTL_HD inline RankTwo<V> rank_two(int64_t d, const V* w) {
  const V size = w[0] * w[0] + tail_dot(d, w, w), corner = 0.5 / size, head = square_root(size - corner);
  return {corner, head, 2.0 * w[0] / head, square_root(2.0 * (2.0 + 1.0 / size) / (2.0 * size - 1.0 / size))};
}

}  // namespace optl::OPTL_ISA::second_order
