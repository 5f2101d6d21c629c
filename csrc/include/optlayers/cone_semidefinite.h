// The cone of positive semidefinite matrices of order k, as rows 11, 12, 22, 13, ... with sqrt(2) off the diagonal.
#pragma once

#include "optlayers/numbers.h"

// Numbers as in cone_second_order.h; matrices k x k, by columns. Equations of docs/theory/cone_interior_point.md.
namespace optl::OPTL_ISA::semidefinite {

inline constexpr double kRoot = 1.4142135623730951, kHalfRoot = 0.7071067811865476;
inline constexpr int kSweeps = 30;    // of rotations; some six are usual
inline constexpr int kBisections = 60;

/// Whether row i is a diagonal entry: i = j (j + 3) / 2 for an integer j.
OPTL_HD inline bool on_diagonal(int64_t i) {
  int64_t j = 0;
  while (j * (j + 3) / 2 < i) ++j;
  return j * (j + 3) / 2 == i;
}

template <class V>
OPTL_HD inline void unpack(int64_t k, const V* rows, V* X) {
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = 0; i < j; ++i, ++rows) X[i + j * k] = X[j + i * k] = kHalfRoot * *rows;
    X[j + j * k] = *rows++;
  }
}

template <class V>
OPTL_HD inline void pack(int64_t k, const V* X, V* rows) {
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = 0; i < j; ++i) *rows++ = kHalfRoot * (X[i + j * k] + X[j + i * k]);
    *rows++ = X[j + j * k];
  }
}

/// X = L L', L over X with zeros above. Lanes in which X is positive definite.
template <class V>
OPTL_HD inline MaskOf<V> cholesky(int64_t k, V* X) {
  MaskOf<V> good = always<V>(true);
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = j; i < k; ++i) {
      V sum = X[i + j * k];
      for (int64_t l = 0; l < j; ++l) sum -= X[i + l * k] * X[j + l * k];
      X[i + j * k] = sum;
    }
    const V pivot = X[j + j * k];
    good = good & (pivot > fill<V>(0));
    const V inverse = 1.0 / square_root(pivot);
    for (int64_t i = j; i < k; ++i) X[i + j * k] = X[i + j * k] * inverse;
    for (int64_t i = 0; i < j; ++i) X[i + j * k] = fill<V>(0);
  }
  return good;
}

/// (CIP-10): W z = R'ZR, W^-T s = T'ST with T = R^-T; both are diag(lambda).
template <class V>
struct Scaling {
  V *R, *T, *lambda;
};

/// out = B'X (transposed) or B X.
template <class V>
OPTL_HD inline void product(int64_t k, bool transposed, const V* B, const V* X, V* out) {
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = 0; i < k; ++i) {
      V sum = fill<V>(0);
      for (int64_t l = 0; l < k; ++l) sum = multiply_add(transposed ? B[l + i * k] : B[i + l * k], X[l + j * k], sum);
      out[i + j * k] = sum;
    }
  }
}

/// X <- B'XB for a symmetric X; work is k x k.
template <class V>
OPTL_HD inline void congruence(int64_t k, const V* B, V* X, V* work) {
  product(k, true, B, X, work);  // B'X, whose transpose is X B
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = 0; i <= j; ++i) {
      V sum = fill<V>(0);
      for (int64_t l = 0; l < k; ++l) sum = multiply_add(work[i + l * k], B[l + j * k], sum);
      X[i + j * k] = X[j + i * k] = sum;
    }
  }
}

/// Rotate columns p and q of a k x k matrix.
template <class V>
OPTL_HD inline void rotate(int64_t k, V* X, int64_t p, int64_t q, const V& c, const V& s) {
  V *x = X + p * k, *y = X + q * k;
  for (int64_t i = 0; i < k; ++i) {
    const V v = x[i];
    x[i] = c * v - s * y[i], y[i] = s * v + c * y[i];
  }
}

/// Make the columns of M orthogonal by rotations (Jacobi, one-sided), and turn those of R along.
template <class V>
OPTL_HD inline void orthogonalize(int64_t k, V* M, V* R) {
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    MaskOf<V> turned = always<V>(false);
    for (int64_t q = 1; q < k; ++q) {
      for (int64_t p = 0; p < q; ++p) {
        V a = fill<V>(0), b = a, c = a;
        for (int64_t i = 0; i < k; ++i) {
          a = multiply_add(M[i + p * k], M[i + p * k], a), b = multiply_add(M[i + q * k], M[i + q * k], b);
          c = multiply_add(M[i + p * k], M[i + q * k], c);
        }
        const auto turn = absolute(c) > 1e-15 * square_root(a * b);  // others stay as they are, to the bit
        if (!any(turn)) continue;
        turned = turned | turn;
        const V zeta = (b - a) / select(turn, 2.0 * c, fill<V>(1)), zero = fill<V>(0), one = fill<V>(1);
        const V size = 1.0 / (absolute(zeta) + square_root(1.0 + zeta * zeta));
        const V t = select(turn, select(zeta < zero, -size, size), zero);
        const V cosine = select(turn, one / square_root(1.0 + t * t), one);
        rotate(k, M, p, q, cosine, cosine * t), rotate(k, R, p, q, cosine, cosine * t);
      }
    }
    if (!any(turned)) return;
  }
}

/// Lanes in which both s and z are inside; a and b are work, k x k.
template <class V>
OPTL_HD inline MaskOf<V> scale(int64_t k, const V* s, const V* z, const Scaling<V>& out, V* a, V* b) {
  unpack(k, s, out.R), unpack(k, z, a);
  const auto s_good = cholesky(k, out.R), z_good = cholesky(k, a);
  product(k, true, a, out.R, b);  // L_Z' L_S, soon U Lambda
  orthogonalize(k, b, out.R);
  product(k, false, a, b, out.T);  // L_Z U Lambda
  for (int64_t j = 0; j < k; ++j) {
    V square = fill<V>(0);
    for (int64_t i = 0; i < k; ++i) square = multiply_add(b[i + j * k], b[i + j * k], square);
    const V lambda = out.lambda[j] = square_root(square), unit = 1.0 / square_root(lambda), back = unit / lambda;
    for (int64_t i = 0; i < k; ++i) out.R[i + j * k] = out.R[i + j * k] * unit, out.T[i + j * k] = out.T[i + j * k] * back;
  }
  return s_good & z_good;
}

/// G = R R'.
template <class V>
OPTL_HD inline void outer(int64_t k, const V* R, V* G) {
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = 0; i <= j; ++i) {
      V sum = fill<V>(0);
      for (int64_t l = 0; l < k; ++l) sum = multiply_add(R[i + l * k], R[j + l * k], sum);
      G[i + j * k] = G[j + i * k] = sum;
    }
  }
}

/// The entries of -H, upper triangle by columns: Hz = G Z G. `G` is work, k x k.
template <class V>
OPTL_HD inline void entries(int64_t k, const Scaling<V>& by, V* G, V* out) {
  outer(k, by.R, G);
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = 0; i <= j; ++i) {
      for (int64_t q = 0; q <= j; ++q) {
        for (int64_t p = 0; p <= (q < j ? q : i); ++p) {
          const double weight = -0.5 * (i == j ? 1.0 : kRoot) * (p == q ? 1.0 : kRoot);
          *out++ = weight * (G[i + p * k] * G[j + q * k] + G[i + q * k] * G[j + p * k]);
        }
      }
    }
  }
}

/// out = H v; a and b are work.
template <class V>
OPTL_HD inline void square(int64_t k, const Scaling<V>& by, const V* v, V* a, V* b, V* out) {
  unpack(k, v, a);
  congruence(k, by.R, a, b);
  product(k, false, by.R, a, b);
  for (int64_t j = 0; j < k; ++j) {  // (R R'ZR) R'
    for (int64_t i = 0; i < k; ++i) {
      V sum = fill<V>(0);
      for (int64_t l = 0; l < k; ++l) sum = multiply_add(b[i + l * k], by.R[j + l * k], sum);
      a[i + j * k] = sum;
    }
  }
  pack(k, a, out);
}

/// (CIP-12); a, b and c are work.
template <class V>
OPTL_HD inline void correction(int64_t k, const Scaling<V>& by, const V* ds, const V* dz, const V& centre, V* a, V* b, V* c,
                               V* out) {
  unpack(k, ds, a), congruence(k, by.T, a, c);
  unpack(k, dz, b), congruence(k, by.R, b, c);
  product(k, false, a, b, c);
  for (int64_t j = 0; j < k; ++j) {  // the symmetric part of the product is the Jordan product
    for (int64_t i = 0; i <= j; ++i) {
      const V mean = 0.5 * (c[i + j * k] + c[j + i * k]) - (i == j ? centre : fill<V>(0));
      a[i + j * k] = a[j + i * k] = 2.0 * mean / (by.lambda[i] + by.lambda[j]);
    }
  }
  product(k, false, by.R, a, b);
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = 0; i < k; ++i) {
      V sum = fill<V>(0);
      for (int64_t l = 0; l < k; ++l) sum = multiply_add(b[i + l * k], by.R[j + l * k], sum);
      a[i + j * k] = sum;
    }
  }
  pack(k, a, out);
}

/// Reflect X into a tridiagonal matrix of the same eigenvalues: diagonal and squares of what is beside it; X is spent.
template <class V>
OPTL_HD inline void tridiagonalize(int64_t k, V* X, V* diagonal, V* squares, V* work) {
  for (int64_t j = 0; j < k; ++j) {
    diagonal[j] = X[j + j * k];
    if (j + 1 == k) break;
    V* const v = X + j * k;  // column j, below the diagonal
    V tail = fill<V>(0);
    for (int64_t i = j + 2; i < k; ++i) tail = multiply_add(v[i], v[i], tail);
    const V head = v[j + 1], size = square_root(head * head + tail);
    squares[j] = head * head + tail;
    const auto reflects = tail > fill<V>(0);
    v[j + 1] = head + select(head < fill<V>(0), -size, size);
    const V norm = v[j + 1] * v[j + 1] + tail, twice = select(reflects, 2.0 / select(reflects, norm, fill<V>(1)), fill<V>(0));
    V along = fill<V>(0);
    for (int64_t i = j + 1; i < k; ++i) {
      V sum = fill<V>(0);
      for (int64_t l = j + 1; l < k; ++l) sum = multiply_add(X[i + l * k], v[l], sum);
      work[i] = twice * sum;
      along = multiply_add(work[i], v[i], along);
    }
    const V half = 0.5 * twice * along;
    for (int64_t i = j + 1; i < k; ++i) work[i] -= half * v[i];
    for (int64_t i = j + 1; i < k; ++i) {
      for (int64_t l = j + 1; l < k; ++l) X[i + l * k] -= work[i] * v[l] + v[i] * work[l];
    }
  }
}

/// A lower bound, close, of the smallest eigenvalue of X, which is spent; work is 3 k, at least.
template <class V>
OPTL_HD inline V smallest(int64_t k, V* X, V* work) {
  V *diagonal = work, *squares = work + k;
  tridiagonalize(k, X, diagonal, squares, work + 2 * k);
  V low = fill<V>(INFINITY), high = low;
  for (int64_t i = 0; i < k; ++i) {  // discs of Gershgorin; a diagonal entry is not less than the smallest eigenvalue
    const V before = i ? square_root(squares[i - 1]) : fill<V>(0), after = i + 1 < k ? square_root(squares[i]) : fill<V>(0);
    low = least(diagonal[i] - before - after, low), high = least(diagonal[i], high);
  }
  low = low - 1e-12 * absolute(low);
  for (int pass = 0; pass < kBisections; ++pass) {
    const auto open = high - low > 1e-4 * (absolute(low) + absolute(high));
    if (!any(open)) break;
    const V middle = 0.5 * (low + high);
    V pivot = diagonal[0] - middle;
    auto negative = !(pivot > fill<V>(0));
    for (int64_t i = 1; i < k; ++i) {
      pivot = diagonal[i] - middle - squares[i - 1] / select(negative, fill<V>(1), pivot);
      negative = negative | !(pivot > fill<V>(0));
    }
    high = select(open & negative, middle, high);
    low = select(open & !negative, middle, low);
  }
  return low;
}

/// The largest step up to `limit` along dv, of s or, with `dual`, of z; a, b and c are work, k x k and 3 k at least.
template <class V>
OPTL_HD inline V step_length(int64_t k, const Scaling<V>& by, bool dual, const V* dv, V* a, V* b, V* c, const V& limit) {
  unpack(k, dv, a);
  congruence(k, dual ? by.R : by.T, a, b);
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = 0; i < k; ++i) a[i + j * k] = a[i + j * k] / square_root(by.lambda[i] * by.lambda[j]);
  }
  const V low = smallest(k, a, c), zero = fill<V>(0);
  return select(low < zero, least(-1.0 / select(low < zero, low, fill<V>(1)), limit), limit);
}

template <class V>
OPTL_HD inline V margin(int64_t k, const V* v, V* a, V* b) {
  unpack(k, v, a);
  return smallest(k, a, b);
}

/// The logarithm of the determinant of v; a is work.
template <class V>
OPTL_HD inline V log_determinant(int64_t k, const V* v, V* a) {
  unpack(k, v, a);
  cholesky(k, a);
  V sum = fill<V>(0);
  for (int64_t j = 0; j < k; ++j) sum += logarithm(a[j + j * k]);
  return 2.0 * sum;
}

}  // namespace optl::OPTL_ISA::semidefinite
