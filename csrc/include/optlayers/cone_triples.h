// The exponential and the power cone, three rows each: dual barrier, its derivatives, conjugate gradient and scaling.
#pragma once

#include "optlayers/numbers.h"

// Numbers as in cone_second_order.h; equations of docs/theory/cone_interior_point.md.
namespace optl::OPTL_ISA::triples {

inline constexpr double kDegree = 3;
inline constexpr double kCentral = 1e-7;  // as near to the central path, the differences that H is made of are rounding
inline constexpr int kNewton = 60;  // steps to a scalar root; some eight are usual

template <class V>
OPTL_HD inline V dot(const V* a, const V* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

/// Entries 11, 12, 22, 13, 23, 33 of a symmetric matrix.
template <class V>
OPTL_HD inline void multiply(const V* m, const V* v, V* out) {
  const V x = v[0], y = v[1], z = v[2];
  out[0] = m[0] * x + m[1] * y + m[3] * z;
  out[1] = m[1] * x + m[2] * y + m[4] * z;
  out[2] = m[3] * x + m[4] * y + m[5] * z;
}

/// out = m^-1 v for a positive definite m.
template <class V>
OPTL_HD inline void solve(const V* m, const V* v, V* out) {
  const V l21 = m[1] / m[0], l31 = m[3] / m[0];
  const V d2 = m[2] - l21 * m[1], below = m[4] - l31 * m[1], l32 = below / d2, d3 = m[5] - l31 * m[3] - l32 * below;
  const V y2 = v[1] - l21 * v[0], y3 = v[2] - l31 * v[0] - l32 * y2;
  out[2] = y3 / d3;
  out[1] = y2 / d2 - l32 * out[2];
  out[0] = v[0] / m[0] - l21 * out[1] - l31 * out[2];
}

/// A barrier -log r(z) - sum of weight_i log |z_i|, by r and its derivatives at a point.
template <class V>
struct Barrier {
  V r, slope[3], curve[6];
  V weight[3], z[3];

  OPTL_HD V pole(int i) const {  // weight / z without 0 / 0
    return weight[i] / select(weight[i] != fill<V>(0), z[i], fill<V>(1));
  }
  OPTL_HD void gradient(V* out) const {
    for (int i = 0; i < 3; ++i) out[i] = -slope[i] / r - pole(i);
  }
  OPTL_HD void hessian(V* out) const {
    for (int j = 0, e = 0; j < 3; ++j) {
      for (int i = 0; i <= j; ++i, ++e) out[e] = (slope[i] / r) * (slope[j] / r) - curve[e] / r;
      const V p = pole(j), safe = select(weight[j] != fill<V>(0), weight[j], fill<V>(1));
      out[e - 1] += p * p / safe;
    }
  }
  /// out = third derivative along d and e (CIP-17); `curving` is that of r alone.
  OPTL_HD void third(const V* d, const V* e, const V* curving, V* out) const {
    V along_d[3], along_e[3];
    multiply(curve, d, along_d), multiply(curve, e, along_e);
    const V rd = dot(slope, d) / r, re = dot(slope, e) / r, both = dot(along_d, e) / r;
    for (int i = 0; i < 3; ++i) {
      const V safe = select(weight[i] != fill<V>(0), z[i], fill<V>(1));
      out[i] = ((both - 2.0 * rd * re) * slope[i] + rd * along_e[i] + re * along_d[i] - curving[i]) / r -
               2.0 * pole(i) * (d[i] / safe) * (e[i] / safe);
    }
  }
};

/// y exp(x / y) <= z, and its dual.
struct Exponential {
  static constexpr double kUnit[3] = {-1.051383945322714, 0.556409619469370, 1.258967884768947};

  /// (CIP-16).
  template <class V>
  OPTL_HD static Barrier<V> barrier(const V& /*exponent*/, const V* z) {
    const V u = z[0], w = z[2], level = logarithm(-w / u), zero = fill<V>(0), one = fill<V>(1);
    return {z[1] - u - u * level, {-level, one, -u / w}, {1.0 / u, zero, zero, -1.0 / w, zero, u / (w * w)},
            {one, zero, one}, {u, z[1], w}};
  }
  /// Its value; infinite outside.
  template <class V>
  OPTL_HD static V value(const Barrier<V>& at) {
    const V zero = fill<V>(0), u = at.z[0], w = at.z[2];
    const auto inside = (u < zero) & (w > zero) & (at.r > zero);
    return select(inside, -logarithm(select(inside, -at.r * u * w, fill<V>(1))), fill<V>(INFINITY));
  }
  template <class V>
  OPTL_HD static void curving(const V& /*exponent*/, const Barrier<V>& at, const V* d, const V* e, V* out) {
    const V u = at.z[0], w = at.z[2], across = 1.0 / (w * w);
    out[0] = across * d[2] * e[2] - d[0] * e[0] / (u * u);
    out[1] = fill<V>(0);
    out[2] = across * (d[0] * e[2] + d[2] * e[0]) - 2.0 * u * across / w * d[2] * e[2];
  }
  /// out = minus the gradient of the conjugate barrier at s (CIP-18). Lanes in which s is inside.
  template <class V>
  OPTL_HD static MaskOf<V> conjugate(const V& /*exponent*/, const V* s, V* out) {
    const V x = s[0], y = s[1], z = s[2], delta = logarithm(z / y) - x / y, zero = fill<V>(0);
    V e = most(0.5 * delta, delta - logarithm_above_one(delta));  // both are below
    for (int step = 0; step < kNewton; ++step) {  // rises to the root: the left side is concave
      const V next = e + (delta - e - logarithm_above_one(e)) * (1.0 + e) / (2.0 + e);
      const auto rising = next > e * (1.0 + 1e-15);
      e = select(rising, next, e);
      if (!any(rising)) break;
    }
    const V u = -1.0 / (e * y);
    out[0] = u, out[1] = 1.0 / y + u * (1.0 + logarithm((1.0 + e) * y / z)), out[2] = (1.0 + e) / (e * z);
    return (y > zero) & (z > zero) & (delta > zero);
  }
};

/// x^a y^(1-a) >= |t|, and its dual.
struct Power {
  /// (CIP-19).
  template <class V>
  OPTL_HD static Barrier<V> barrier(const V& a, const V* z) {
    const V u = z[0], v = z[1], w = z[2], b = 2.0 * a, c = 2.0 - b, zero = fill<V>(0);
    const V phi = exponential(b * logarithm(u / a) + c * logarithm(v / (1.0 - a))), root = square_root(phi);
    return {(root - w) * (root + w),
            {phi * b / u, phi * c / v, -2.0 * w},
            {phi * b * (b - 1.0) / (u * u), phi * b * c / (u * v), phi * c * (c - 1.0) / (v * v), zero, zero, fill<V>(-2)},
            {1.0 - a, a, zero},
            {u, v, w}};
  }
  /// Its value; infinite outside.
  template <class V>
  OPTL_HD static V value(const Barrier<V>& at) {
    const V zero = fill<V>(0), one = fill<V>(1), u = at.z[0], v = at.z[1];
    const auto inside = (u > zero) & (v > zero) & (at.r > zero);
    const V sum = logarithm(select(inside, at.r, one)) + at.weight[0] * logarithm(select(inside, u, one)) +
                  at.weight[1] * logarithm(select(inside, v, one));
    return select(inside, -sum, fill<V>(INFINITY));
  }
  template <class V>
  OPTL_HD static void curving(const V& a, const Barrier<V>& at, const V* d, const V* e, V* out) {
    const V b = 2.0 * a, c = 2.0 - b, u = at.z[0], v = at.z[1], phi = at.slope[0] * u / b;
    const V d1 = d[0] / u, d2 = d[1] / v, e1 = e[0] / u, e2 = e[1] / v, cross = d1 * e2 + d2 * e1;
    out[0] = phi * b / u * ((b - 1.0) * ((b - 2.0) * d1 * e1 + c * cross) + c * (c - 1.0) * d2 * e2);
    out[1] = phi * c / v * ((c - 1.0) * ((c - 2.0) * d2 * e2 + b * cross) + b * (b - 1.0) * d1 * e1);
    out[2] = fill<V>(0);
  }
  /// (CIP-20), by Newton's method on the logarithm of k (CIP-21). Lanes in which s is inside.
  template <class V>
  OPTL_HD static MaskOf<V> conjugate(const V& a, const V* s, V* out) {
    const V zero = fill<V>(0), one = fill<V>(1), b = 1.0 - a, t = absolute(s[2]);
    const auto flat = t * t <= 1e-200 * s[0] * s[1];
    const V base = 2.0 * a * logarithm(s[0]) + 2.0 * b * logarithm(s[1]);
    const V gamma = base - 2.0 * logarithm(select(flat, one, t));
    // From 1 / (e^gamma - 1), which is below; where that is all rounding, e^gamma - 1 is gamma.
    V k = 1.0 / select(flat, one, most(most(exponential(gamma) - 1.0, gamma), fill<V>(1e-300)));
    for (int step = 0; step < kNewton; ++step) {
      const V first = (1.0 + a) / a + 2.0 * k, second = (1.0 + b) / b + 2.0 * k;
      const V excess = 2.0 * a * logarithm(first) + 2.0 * b * logarithm(second) - logarithm(4.0 * k * (1.0 + k)) - gamma;
      const V fall = 1.0 + k / (1.0 + k) - 4.0 * k * (a / first + b / second);  // of the left side, in log k
      const V next = k * exponential(least(excess / fall, fill<V>(40)));
      const auto rising = (!flat) & (next > k * (1.0 + 4e-16));
      k = select(rising, next, k);
      if (!any(rising)) break;
    }
    k = select(flat, zero, k);
    out[0] = (1.0 + a + 2.0 * a * k) / s[0], out[1] = (1.0 + b + 2.0 * b * k) / s[1];
    const V phi = exponential(2.0 * a * logarithm(out[0] / a) + 2.0 * b * logarithm(out[1] / b));
    out[2] = -0.5 * s[2] * phi / (1.0 + k);
    return (s[0] > zero) & (s[1] > zero) & (flat | (gamma > zero));
  }
};

/// (CIP-13): H with H z = s and H z~ = s~, given s~ = -grad f*(z), z~ = -grad f(s), G = the Hessian of f* at z. Where the
/// point is central up to rounding, and in lanes that do not ask for `primal_dual`, H = mu G.
template <class V>
OPTL_HD inline void scale(const V* s, const V* z, const V* s_tilde, const V* z_tilde, const V* G,
                          const MaskOf<V>& primal_dual, V* H) {
  const V gap = dot(s, z), mu = gap / kDegree, mu_tilde = dot(s_tilde, z_tilde) / kDegree;
  V ds[3], dz[3], r[3], image[3];
  multiply(G, z_tilde, image);
  for (int i = 0; i < 3; ++i) {
    ds[i] = s[i] - mu * s_tilde[i], dz[i] = z[i] - mu * z_tilde[i];
    r[i] = mu_tilde * s_tilde[i] - image[i];
  }
  // z'ds = s'dz = 0 by definition; what rounding takes from that near the boundary is put back.
  const V along_s = dot(ds, z) / gap, along_z = dot(dz, s) / gap;
  for (int i = 0; i < 3; ++i) ds[i] -= along_s * s[i], dz[i] -= along_z * z[i];
  const V spread = dot(ds, dz), excess = dot(z_tilde, image) - kDegree * mu_tilde * mu_tilde;
  const V a[3] = {z[1] * dz[2] - z[2] * dz[1], z[2] * dz[0] - z[0] * dz[2], z[0] * dz[1] - z[1] * dz[0]};
  const V length = dot(a, a), zero = fill<V>(0), one = fill<V>(1);
  const auto distinct = primal_dual & (mu * mu_tilde > fill<V>(1 + kCentral)) &
                        (excess > kCentral * kDegree * mu_tilde * mu_tilde) & (spread > zero) & (length > zero);
  const V by_spread = 1.0 / select(distinct, spread, one), by_excess = 1.0 / select(distinct, excess, one);
  V rest = zero;
  for (int j = 0, e = 0; j < 3; ++j) {
    for (int i = 0; i <= j; ++i, ++e) {
      const V entry = G[e] - s_tilde[i] * s_tilde[j] / kDegree - r[i] * r[j] * by_excess;
      rest += (i == j ? 1.0 : 2.0) * entry * entry;
    }
  }
  const V t = mu * square_root(rest) / select(distinct, length, one);
  for (int j = 0, e = 0; j < 3; ++j) {
    for (int i = 0; i <= j; ++i, ++e) {
      const V full = s[i] * s[j] / gap + ds[i] * ds[j] * by_spread + t * a[i] * a[j];
      H[e] = select(distinct, full, mu * G[e]);
    }
  }
}

}  // namespace optl::OPTL_ISA::triples
