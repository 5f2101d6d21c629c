// One entry of an optimizer step (OPT-1), with its products with cotangents and tangents, for kernels on any device.
//
// The formulas are written once for V, a number or a vector of them, of which Lane<V> says how to choose and take roots.
// optlayers/optim/moments.py repeats them in torch.
#pragma once

#include <cmath>
#include <limits>

#include "optlayers/device.h"
#include "optlayers/moments.h"

namespace optl::updates {

/// What belongs to an entry: gradient, parameter, first and second moment, largest second moment; or tangents of them.
template <class V>
struct Entry {
  V g, p, m, v, top;
};

/// What a step makes of it: the update and the next moments; or tangents or cotangents of them.
template <class V>
struct Next {
  V u, m, v, top;
};

/// Operations that a number and a vector do not share.
template <class V>
struct Lane {
  using Scalar = V;
  OPTL_HD static V all(Scalar c) { return c; }
  OPTL_HD static V choose(bool where, V a, V b) { return where ? a : b; }
  OPTL_HD static V root(V a) { return std::sqrt(a); }
};

template <class T>
inline constexpr T kTiny = std::numeric_limits<T>::min();
/// Its square root, rounded.
template <class T>
inline constexpr T kLeast = static_cast<T>(sizeof(T) == 8 ? 1.4916681462400413e-154 : 1.0842021724855044e-19);

template <class V>
OPTL_HD inline V size(const V& a) {
  return Lane<V>::choose(a < Lane<V>::all(0), -a, a);
}

template <class V>
OPTL_HD inline V sign(const V& a) {
  const V zero = Lane<V>::all(0);
  return Lane<V>::choose(a > zero, Lane<V>::all(1), Lane<V>::choose(a < zero, Lane<V>::all(-1), zero));
}

/// The larger one; NaN if there is one.
template <class V>
OPTL_HD inline V larger(const V& a, const V& b) {
  return Lane<V>::choose((a > b) | (a != a), a, b);
}

/// The derivative of larger(a, b) in a: a tie shares it.
template <class V>
OPTL_HD inline V share(const V& a, const V& b) {
  return Lane<V>::choose(a > b, Lane<V>::all(1), Lane<V>::choose(a == b, Lane<V>::all(0.5), Lane<V>::all(0)));
}

/// The step and what its derivatives need of the way there.
template <class V>
struct Forward {
  Next<V> next;
  V h, root, slope, inverse, quotient;  // slope of the root in w, or in v for kMaximum; inverse of the denominator
};

template <Second S, class V>
OPTL_HD inline Forward<V> forward(const MomentNumbers<V>& c, const Entry<V>& x) {
  using L = Lane<V>;
  using T = typename L::Scalar;
  const V zero = L::all(0);
  Forward<V> f;
  f.h = c.gradient * x.g + c.decay * x.p;
  f.next.m = c.keep1 * x.m + c.take1 * f.h;
  f.next.v = f.next.top = f.root = f.slope = zero;
  f.inverse = L::all(1);
  if constexpr (S == Second::kMaximum) {
    f.next.v = larger<V>(c.keep2 * x.v, size(f.h) + c.take2);
    const auto flat = f.next.v < L::all(kLeast<T>);
    f.root = L::choose(flat, L::all(kLeast<T>), f.next.v);
    f.slope = L::choose(flat, zero, L::all(1));
  } else if constexpr (S != Second::kNone) {
    f.next.v = c.keep2 * x.v + c.take2 * f.h * f.h;
    V w = f.next.v;
    if constexpr (S == Second::kLargest) w = f.next.top = larger<V>(x.top, f.next.v);
    if constexpr (S == Second::kCentered) w = f.next.v - f.next.m * f.next.m;
    w = w + c.rho;
    const auto flat = w < L::all(kTiny<T>);
    f.root = L::root(L::choose(flat, L::all(kTiny<T>), w));
    f.slope = L::choose(flat, zero, L::all(0.5) / f.root);
  }
  f.quotient = c.alpha * f.next.m + c.beta * f.h;
  if constexpr (S != Second::kNone) {
    f.inverse = L::all(1) / (c.sigma * f.root + c.epsilon);
    f.quotient = f.quotient * f.inverse;
  }
  f.next.u = f.quotient + c.shrink * x.p;
  return f;
}

template <Second S, class V>
OPTL_HD inline Next<V> step(const MomentNumbers<V>& c, const Entry<V>& x) {
  return forward<S>(c, x).next;
}

/// Cotangents of the entry from those of the step.
template <Second S, class V>
OPTL_HD inline Entry<V> pull(const MomentNumbers<V>& c, const Entry<V>& x, const Next<V>& bar) {
  using L = Lane<V>;
  const V one = L::all(1), two = L::all(2);
  const Forward<V> f = forward<S>(c, x);
  const V of_mean = bar.u * f.inverse, of_root = -of_mean * f.quotient * c.sigma * f.slope;
  V of_h = c.beta * of_mean, of_m = bar.m + c.alpha * of_mean, of_v = bar.v;
  Entry<V> out;
  out.v = out.top = L::all(0);
  if constexpr (S == Second::kMaximum) {
    of_v = of_v + of_root;
    const V kept = share<V>(c.keep2 * x.v, size(f.h) + c.take2);
    of_h = of_h + (one - kept) * of_v * sign(f.h);
    out.v = c.keep2 * kept * of_v;
  } else if constexpr (S != Second::kNone) {
    if constexpr (S == Second::kLargest) {
      const V of_top = bar.top + of_root, kept = share(x.top, f.next.v);
      out.top = kept * of_top;
      of_v = of_v + (one - kept) * of_top;
    } else {
      of_v = of_v + of_root;
    }
    if constexpr (S == Second::kCentered) of_m = of_m - two * f.next.m * of_root;
    of_h = of_h + two * c.take2 * f.h * of_v;
    out.v = c.keep2 * of_v;
  }
  of_h = of_h + c.take1 * of_m;
  out.m = c.keep1 * of_m;
  out.g = c.gradient * of_h;
  out.p = c.decay * of_h + c.shrink * bar.u;
  return out;
}

/// Tangents of the step from those of the entry.
template <Second S, class V>
OPTL_HD inline Next<V> push(const MomentNumbers<V>& c, const Entry<V>& x, const Entry<V>& dot) {
  using L = Lane<V>;
  const V one = L::all(1), two = L::all(2);
  const Forward<V> f = forward<S>(c, x);
  const V h = c.gradient * dot.g + c.decay * dot.p;
  V w = L::all(0);
  Next<V> out;
  out.m = c.keep1 * dot.m + c.take1 * h;
  out.v = out.top = w;
  if constexpr (S == Second::kMaximum) {
    const V kept = share<V>(c.keep2 * x.v, size(f.h) + c.take2);
    w = out.v = kept * c.keep2 * dot.v + (one - kept) * sign(f.h) * h;
  } else if constexpr (S != Second::kNone) {
    w = out.v = c.keep2 * dot.v + two * c.take2 * f.h * h;
    if constexpr (S == Second::kLargest) {
      const V kept = share(x.top, f.next.v);
      w = out.top = kept * dot.top + (one - kept) * out.v;
    }
    if constexpr (S == Second::kCentered) w = w - two * f.next.m * out.m;
  }
  out.u = (c.alpha * out.m + c.beta * h - f.quotient * c.sigma * f.slope * w) * f.inverse + c.shrink * dot.p;
  return out;
}

}  // namespace optl::updates
