// The projection of one vector onto one cone, and the eigenvalues and eigenvectors of its derivative (docs/theory/cone.md).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/cone_kkt_plan.h"

namespace optl::OPTL_ISA::kkt::projection {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kLimit = 200;     // roots are looked for in [-kLimit, kLimit]
inline constexpr double kNear = 1e-6;     // ratio of two sides from which on their logarithms are compared
inline constexpr double kStill = 1e-12;   // a Newton step so small is the last
inline constexpr double kNoHeight = -34;  // a root of the power cone below which what is left of |z| is rounding
inline constexpr double kEdge = 1e-15;    // share of a projection, or of what it leaves, below which it counts as zero

/// A value and its slope.
struct Slope {
  double value, slope;
};

/// The root of an increasing function: Newton's method, bisection where that is slower.
template <class Fn>
double bracketed_root(const Fn& fn, double lower, double upper) {
  double x = (lower + upper) / 2, last = upper - lower;
  for (int step = 0; step < 200; ++step) {
    const Slope f = fn(x);
    if (f.value < 0) lower = x;
    if (f.value > 0) upper = x;
    const double newton = std::min(std::max(x - f.value / f.slope, lower), upper);  // the root may be an end
    const double length = std::fabs(newton - x), still = kStill * (1 + std::fabs(x));
    // Where the function is flat, rounding may turn its slope, and a step out of the bracket would end as none.
    const bool fits = f.slope > 0 && (length < 0.75 * last || length <= still);
    const double next = fits ? newton : (lower + upper) / 2;
    last = std::fabs(next - x), x = next;
    if (!(last > still)) break;
  }
  return x;
}

/// The ray through (r, 1, exp r) and the polar ray orthogonal to it, with the factors that make x and y come out.
struct ExponentialRays {
  double primal, polar, d_primal, d_polar, up, down;
  ExponentialRays(const double* v, double r) {
    const double q = r * (r - 1) + 1, dq = 2 * r - 1;
    primal = ((r - 1) * v[0] + v[1]) / q, polar = (v[0] - r * v[1]) / q;
    d_primal = (v[0] - primal * dq) / q, d_polar = -(v[1] + polar * dq) / q;
    up = std::exp(r), down = std::exp(-r);
  }
  /// How far they overshoot z.
  Slope excess(double z) const {
    return {primal * up - polar * down - z, (d_primal + primal) * up + (polar - d_polar) * down};
  }
  /// The same in logarithms near the root, where that is nearly linear.
  Slope balance(double z) const {
    const double left = primal * up, right = polar * down + z;
    if (!(left > kNear * right && right > kNear * left)) return excess(z);
    return {std::log(left) - std::log(right),
            (d_primal + primal) * up / left - (d_polar - polar) * down / right};
  }
};

/// Onto y exp(x / y) <= z; v has a largest entry of one (Friberg, 2023).
inline void exponential(const double* v, double* s) {
  const double x = v[0], y = v[1], z = v[2];
  if (y > 0 && y * std::exp(x / y) <= z) {
    std::copy_n(v, 3, s);
    return;
  }
  if (x > 0 && x * std::exp(y / x) <= -std::exp(1.0) * z) {
    std::fill_n(s, 3, 0.0);
    return;
  }
  if (x > 0 || y > 0) {
    const double lower = std::max(x > 0 ? 1 - y / x : -kInfinity, -kLimit);
    const double upper = std::min(y > 0 ? x / y : kInfinity, kLimit);
    const bool beyond = lower >= upper || (x <= 0 && ExponentialRays(v, lower).excess(z).value > 0) ||
                        (y <= 0 && ExponentialRays(v, upper).excess(z).value < 0);
    if (!beyond) {
      double r = bracketed_root([&](double at) { return ExponentialRays(v, at).balance(z); }, lower, upper);
      const Slope f = ExponentialRays(v, r).excess(z);
      const double polished = r - f.value / f.slope;
      if (std::fabs(polished - r) < 1e-6) r = polished;
      const ExponentialRays at(v, r);
      // For a large ratio the primal factor is a difference of close numbers, and what is left of z is accurate.
      s[2] = r > 0 ? z + at.polar * at.down : at.primal * at.up;
      s[1] = r > 0 ? s[2] * at.down : at.primal;
      s[0] = r * s[1];
      return;
    }
  }
  // Where the ratio is beyond all exponentials the cone is flat: z >= 0 over the quadrant x <= 0 <= y.
  s[0] = std::min(x, 0.0), s[1] = std::max(y, 0.0), s[2] = std::max(z, 0.0);
}

/// The positive root of p^2 - x p - c = 0, and the derivative of its logarithm along dc.
inline Slope positive_root(double x, double c, double dc) {
  const double s = std::sqrt(x * x + 4 * c);
  const double p = x > 0 ? (s + x) / 2 : 2 * c / (s - x);
  return {p, dc / (s * p)};
}

/// Onto x^a y^(1 - a) >= |z|; v has a largest entry of one (Hien, 2015).
inline void power(const double* v, double a, double* s) {
  const double x = v[0], y = v[1], height = std::fabs(v[2]);
  if (x >= 0 && y >= 0 && std::pow(x, a) * std::pow(y, 1 - a) >= height) {
    std::copy_n(v, 3, s);
    return;
  }
  if (x <= 0 && y <= 0 && std::pow(-x / a, a) * std::pow(-y / (1 - a), 1 - a) >= height) {
    std::fill_n(s, 3, 0.0);
    return;
  }
  if (height > 0) {
    const auto point = [&](double root) {  // r = |z| sigmoid(root) over the geometric mean, in logarithms
      const double up = 1 / (1 + std::exp(-root)), down = 1 / (1 + std::exp(root));
      const double product = height * height * up * down, d_product = product * (down - up);
      const Slope px = positive_root(x, a * product, a * d_product);
      const Slope py = positive_root(y, (1 - a) * product, (1 - a) * d_product);
      s[0] = px.value, s[1] = py.value, s[2] = height * up;
      return Slope{std::log(s[2]) - a * std::log(s[0]) - (1 - a) * std::log(s[1]),
                   down - a * px.slope - (1 - a) * py.slope};
    };
    const double root = bracketed_root(point, -kLimit, kLimit);
    if (root > kNoHeight) {
      point(root);
      s[2] = std::copysign(s[2], v[2]);
      return;
    }
  }
  s[0] = std::max(x, 0.0), s[1] = std::max(y, 0.0), s[2] = 0;
}

/// Of a cone in three dimensions, `run` for a vector with a largest entry of one.
template <class Run>
inline void scaled(const double* v, double* s, const Run& run) {
  const double size = std::max({std::fabs(v[0]), std::fabs(v[1]), std::fabs(v[2])});
  const double unit = size > 0 ? size : 1, part[3] = {v[0] / unit, v[1] / unit, v[2] / unit};
  run(part, s);
  for (int i = 0; i < 3; ++i) s[i] *= unit;
}

/// Where entry (i, j) of a symmetric matrix is among its rows, the upper triangle column by column.
inline int32_t triangle(int32_t i, int32_t j) { return i <= j ? j * (j + 1) / 2 + i : i * (i + 1) / 2 + j; }

/// Eigenvalues, on the diagonal of X, and eigenvectors, the columns of Q, of a k x k matrix by Jacobi's method; both by rows.
inline void eigen(int32_t k, double* X, double* Q) {
  double norm = 0;
  for (int32_t i = 0; i < k * k; ++i) norm = std::max(norm, std::fabs(X[i])), Q[i] = i % (k + 1) == 0;
  const double least = 0.1 * std::numeric_limits<double>::epsilon() * norm;
  for (int sweep = 0; sweep < 60; ++sweep) {
    bool rotated = false;
    for (int32_t p = 0; p < k; ++p) {
      for (int32_t q = p + 1; q < k; ++q) {
        const double off = X[p * k + q], gap = X[q * k + q] - X[p * k + p];
        if (!(std::fabs(off) > least)) continue;
        rotated = true;
        const double theta = gap / (2 * off);
        const double t = std::copysign(1.0, theta) / (std::fabs(theta) + std::hypot(theta, 1.0));
        const double c = 1 / std::sqrt(t * t + 1), sine = t * c;
        const auto turn = [&](double& a, double& b) {
          const double before = a;
          a = c * a - sine * b, b = sine * before + c * b;
        };
        for (int32_t i = 0; i < k; ++i) turn(X[i * k + p], X[i * k + q]);
        for (int32_t i = 0; i < k; ++i) turn(X[p * k + i], X[q * k + i]);
        for (int32_t i = 0; i < k; ++i) turn(Q[i * k + p], Q[i * k + q]);
        X[p * k + q] = X[q * k + p] = 0;
      }
    }
    if (!rotated) break;
  }
}

/// The order of a matrix of so many rows.
inline int32_t order_of(int32_t size) {
  return static_cast<int32_t>(std::lround((std::sqrt(8.0 * size + 1) - 1) / 2));
}

/// The eigenvalues and eigenvectors of a matrix given by its scaled upper triangle.
inline void eigen_of_rows(int32_t k, const double* v, double* X, double* Q) {
  for (int32_t i = 0; i < k; ++i) {
    for (int32_t j = 0; j < k; ++j) X[i * k + j] = v[triangle(i, j)] * (i == j ? 1 : std::sqrt(0.5));
  }
  eigen(k, X, Q);
}

inline void semidefinite(int32_t size, const double* v, double* s, double* work) {
  const int32_t k = order_of(size);
  double *X = work, *Q = work + k * k;
  eigen_of_rows(k, v, X, Q);
  std::fill_n(s, size, 0.0);
  for (int32_t a = 0; a < k; ++a) {
    const double value = X[a * k + a];
    if (!(value > 0)) continue;
    for (int32_t j = 0; j < k; ++j) {
      for (int32_t i = 0; i <= j; ++i) s[triangle(i, j)] += value * Q[i * k + a] * Q[j * k + a];
    }
  }
  for (int32_t j = 0; j < k; ++j) {
    for (int32_t i = 0; i < j; ++i) s[triangle(i, j)] *= std::sqrt(2.0);
  }
}

/// The Euclidean norm, of entries of any size.
inline double norm(const double* v, int32_t count) {
  double largest = 0, sum = 0;
  for (int32_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(v[i]));
  const double unit = largest > 0 ? largest : 1;
  for (int32_t i = 0; i < count; ++i) sum += (v[i] / unit) * (v[i] / unit);
  return largest * std::sqrt(sum);
}

inline void second_order(int32_t size, const double* v, double* s) {
  const double t = v[0], length = norm(v + 1, size - 1);
  if (length <= t) {
    std::copy_n(v, size, s);
  } else if (length <= -t) {
    std::fill_n(s, size, 0.0);
  } else {
    const double half = t / 2 + length / 2;
    s[0] = half;
    for (int32_t i = 1; i < size; ++i) s[i] = half / length * v[i];
  }
}

/// Doubles that the functions below work in.
inline int64_t workspace(int64_t order) { return 2 * order * order; }

/// The projection s of v onto a block of rows, one of zero or nonneg excluded.
inline void project(const ConeKktBlock& block, double exponent, const double* v, double* s, double* work) {
  switch (block.kind) {
    case ConeKktBlock::kSecondOrder: return second_order(block.size, v, s);
    case ConeKktBlock::kPsd: return semidefinite(block.size, v, s, work);
    case ConeKktBlock::kExponential: return scaled(v, s, [](const double* a, double* out) { exponential(a, out); });
    default: return scaled(v, s, [=](const double* a, double* out) { power(a, exponent, out); });
  }
}

/// For v = (t, y) and u = y / |y|: 1 along (1, u), 0 along (1, -u), (1 + t / |y|) / 2 across. U by rows.
inline void second_order_spectrum(int32_t size, const double* v, double* lam, double* U) {
  if (size == 1) {
    lam[0] = v[0] > 0, U[0] = 1;
    return;
  }
  const double t = v[0], length = norm(v + 1, size - 1), unit = length > 0 ? length : 1, half = std::sqrt(0.5);
  const auto u = [&](int32_t i) { return length > 0 ? v[i] / unit : i == 1 ? 1.0 : 0.0; };
  // The Householder reflection that takes the first unit vector to -sign u: its other columns are orthogonal to u.
  const double sign = u(1) < 0 ? -1 : 1, span = std::sqrt(2 + 2 * std::fabs(u(1)));
  const auto h = [&](int32_t i) { return (u(i) + (i == 1 ? sign : 0)) / span; };
  for (int32_t i = 0; i < size; ++i) {
    U[i * size] = half * (i ? u(i) : 1), U[i * size + 1] = half * (i ? -u(i) : 1);
    for (int32_t k = 2; k < size; ++k) U[i * size + k] = i ? (i == k) - 2 * h(i) * h(k) : 0;
  }
  const bool inside = length <= t, polar = length <= -t;
  for (int32_t k = 0; k < size; ++k) {
    lam[k] = inside ? 1 : polar ? 0 : k == 0 ? 1 : k == 1 ? 0 : 0.5 * (1 + t / unit);
  }
}

/// The symmetric products of eigenvectors; for two of them (l+ + m+) / (|l| + |m|).
inline void semidefinite_spectrum(int32_t size, const double* v, double* lam, double* U, double* work) {
  const int32_t k = order_of(size);
  double *X = work, *Q = work + k * k;
  eigen_of_rows(k, v, X, Q);
  for (int32_t b = 0; b < k; ++b) {
    for (int32_t a = 0; a <= b; ++a) {
      const int32_t pair = triangle(a, b);
      const double first = X[a * k + a], second = X[b * k + b], total = std::fabs(first) + std::fabs(second);
      lam[pair] = total > 0 ? (std::max(first, 0.0) + std::max(second, 0.0)) / total : 1;
      for (int32_t j = 0; j < k; ++j) {
        for (int32_t i = 0; i <= j; ++i) {
          const double product = 0.5 * (Q[i * k + a] * Q[j * k + b] + Q[i * k + b] * Q[j * k + a]);
          U[triangle(i, j) * size + pair] = product * (i == j ? 1 : std::sqrt(2.0)) * (a == b ? 1 : std::sqrt(2.0));
        }
      }
    }
  }
}

inline void cross(const double* a, const double* b, double* out) {
  out[0] = a[1] * b[2] - a[2] * b[1], out[1] = a[2] * b[0] - a[0] * b[2], out[2] = a[0] * b[1] - a[1] * b[0];
}

/// Of a cone in three dimensions: 1 along the projection s, 0 along z = s - v, (CONE-10) across.
inline void three_spectrum(int32_t kind, double a, const double* v, const double* s, double* lam, double* U) {
  const double z[3] = {s[0] - v[0], s[1] - v[1], s[2] - v[2]}, length = norm(s, 3), height = norm(z, 3);
  double slope[3], curved[3] = {0, 0, 0}, size;  // the gradient of the surface, its Hessian as size * curved curved'
  if (kind == ConeKktBlock::kExponential) {
    const double ratio = s[0] / s[1], growth = std::exp(ratio);
    slope[0] = growth, slope[1] = growth * (1 - ratio), slope[2] = -1;
    curved[0] = 1, curved[1] = -ratio, size = growth / s[1];
  } else {
    const double mean = std::pow(s[0], a) * std::pow(s[1], 1 - a);
    slope[0] = -a * mean / s[0], slope[1] = -(1 - a) * mean / s[1], slope[2] = (s[2] > 0) - (s[2] < 0);
    curved[0] = 1 / s[0], curved[1] = -1 / s[1], size = a * (1 - a) * mean;
  }
  const bool inside = height <= kEdge * (length + height), outside = length <= kEdge * (length + height);
  const double steep = norm(slope, 3);
  if (inside || outside || !std::isfinite(steep) || !std::isfinite(size)) {
    // On a face, where the surface is flat, the projection keeps the coordinates that it does not set to zero.
    for (int i = 0; i < 3; ++i) {
      lam[i] = inside ? 1 : outside ? 0 : s[i] != 0;
      for (int k = 0; k < 3; ++k) U[3 * i + k] = i == k;
    }
    return;
  }
  double along[3], normal[3], across[3], third[3];
  // Away from the apex the normal of the surface is more exact than a small z.
  for (int i = 0; i < 3; ++i) along[i] = s[i] / length, normal[i] = -slope[i] / steep;
  cross(along, normal, across);
  const double wide = norm(across, 3);
  for (double& e : across) e /= wide;
  cross(across, along, third);
  const double product = curved[0] * across[0] + curved[1] * across[1];
  lam[0] = 1, lam[1] = 0, lam[2] = 1 / (1 + height * (size * product * product / steep));
  for (int i = 0; i < 3; ++i) U[3 * i] = along[i], U[3 * i + 1] = third[i], U[3 * i + 2] = across[i];
}

/// The eigenvalues, in [0, 1], and eigenvectors, size x size by rows, of the derivative of `project` at v.
inline void spectrum(const ConeKktBlock& block, double exponent, const double* v, double* lam, double* U, double* work) {
  if (block.kind == ConeKktBlock::kSecondOrder) {
    second_order_spectrum(block.size, v, lam, U);
  } else if (block.kind == ConeKktBlock::kPsd) {
    semidefinite_spectrum(block.size, v, lam, U, work);
  } else {
    double s[3];
    project(block, exponent, v, s, work);
    three_spectrum(block.kind, exponent, v, s, lam, U);
  }
  for (int32_t k = 0; k < block.size; ++k) lam[k] = std::min(std::max(lam[k], 0.0), 1.0);
}

}  // namespace optl::OPTL_ISA::kkt::projection
