// One equilibrated quadratic program, worked on by a block of threads: loading, scaling, products.
#pragma once

#include <limits>

#include "optlayers/batch.h"
#include "cuda/worker.h"

namespace optl::cuda {

using rules::Kind;

/// The N = k + m + (n) + (n) rows [A; G; -I; I] share one index (IPM-2); matrices have rows of ld entries.
template <class Block>
struct Program : Worker<Block> {
  using Worker<Block>::block;
  int n, ld, k, m, lower, upper, dense, N;
  double *p, *c;                 // n, N; scaled, c = [b; h; -lb; ub] with 0 at absent rows
  double *column, *row, cost;    // x = column * x_scaled, multiplier = row * scaled / cost, slack = scaled / row
  double* spare;                 // n
  Kind* kind;                    // N
  double *Q, *C;                 // n x ld, dense x ld

  OPTL_HD Program(const QpSizes& z, Block* on, int threads, Places& places)
      : Worker<Block>(on, threads, places), n(static_cast<int>(z.n)), ld(n | 1), k(static_cast<int>(z.k)),
        m(static_cast<int>(z.m)), lower(static_cast<int>(z.lower)), upper(static_cast<int>(z.upper)), dense(k + m),
        N(dense + lower + upper), p(places.take(n)), c(places.take(N)), column(places.take(n)), row(places.take(N)),
        cost(1), spare(places.take(n)), kind(reinterpret_cast<Kind*>(places.take((N + 7) / 8))), Q(nullptr),
        C(nullptr) {}

  OPTL_HD void place_matrices(Places& places) {
    C = places.take(static_cast<int64_t>(dense) * ld);
    Q = places.take(static_cast<int64_t>(n) * ld);
  }

  OPTL_DEVICE bool is_inequality(int i) const { return kind[i] == rules::kInequality; }
  OPTL_DEVICE bool is_equality(int i) const { return kind[i] == rules::kEquality; }

  /// (Q + Q')/2, with one over its largest entry in `cost`.
  template <class T>
  OPTL_DEVICE void load_symmetric(const T* from) {
    double most = 0;
    this->each_row(n, [&](int i, int first, int width) {
      for (int j = first; i < n && j < n; j += width) {
        const double v = 0.5 * (static_cast<double>(from[i * n + j]) + static_cast<double>(from[j * n + i]));
        Q[i * ld + j] = v;
        most = rules::larger(most, std::fabs(v));
      }
    });
    most = block->largest(most);
    cost = most > 0 ? 1 / most : 1;
  }

  /// `count` rows into C from row `at` on; zeros for those that `keep`, if given, does not hold of.
  template <class T>
  OPTL_DEVICE void load_rows(const T* from, int count, int at, const bool* keep) {
    this->each_row(count, [&](int i, int first, int width) {
      for (int j = first; i < count && j < n; j += width) {
        C[(at + i) * ld + j] = !keep || keep[i] ? static_cast<double>(from[i * n + j]) : 0;
      }
    });
  }

  /// Ruiz factors of [[Q, C'], [C, 0]] as powers of two (IPM-3), of Q brought to max-norm one by `cost`.
  OPTL_DEVICE_CALL void equilibrate() {
    this->each(n, [&](int j) { column[j] = 1; });
    this->each(dense, [&](int i) { row[i] = 1; });
    scale_rows([](double row, double most) { return rules::divide(row, most); });
    for (int pass = 0; pass < rules::kRuizPasses; ++pass) {
      block->sync();
      this->each(n, [&](int j) {
        double of_Q = 0, of_C = 0;
        for (int i = 0; i < n; ++i) of_Q = rules::most(column[i] * std::fabs(Q[i * ld + j]), of_Q);
        for (int i = 0; i < dense; ++i) of_C = rules::most(row[i] * std::fabs(C[i * ld + j]), of_C);
        spare[j] = column[j] * rules::most(cost * of_Q, of_C);
      });
      scale_rows([](double row, double most) { return rules::divide(row, std::sqrt(row * most)); });
      this->each(n, [&](int j) { column[j] = rules::divide(column[j], std::sqrt(spare[j])); });
    }
    this->each(n, [&](int j) { column[j] = rules::power_of_two(column[j]); });
    block->sync();
    this->each(dense, [&](int i) { row[i] = rules::power_of_two(row[i]); });
    this->each(lower, [&](int j) { row[dense + j] = 1 / column[j]; });
    this->each(upper, [&](int j) { row[dense + lower + j] = 1 / column[j]; });
    block->sync();
  }

  /// Scale Q, p and the rows, exactly; bring the cost to one (IPM-3).
  OPTL_DEVICE_CALL void scale() {
    double total = 0;
    this->each_row(n, [&](int i, int first, int width) {
      double most = 0;
      for (int j = first; i < n && j < n; j += width) {
        Q[i * ld + j] *= column[i] * column[j];
        most = rules::most(std::fabs(Q[i * ld + j]), most);
      }
      most = block->largest_lanes(most, width);
      if (i < n && first == 0) total += most;
    });
    total = block->sum(total);
    this->each(n, [&](int j) { p[j] *= column[j]; });
    const double top = this->largest(n, [&](int j) { return p[j]; });
    cost = rules::power_of_two(rules::divide(1, rules::most(top, total / n)));
    this->each(n, [&](int j) { p[j] *= cost; });
    this->each_row(n, [&](int i, int first, int width) {
      for (int j = first; i < n && j < n; j += width) Q[i * ld + j] *= cost;
    });
    this->each_row(dense, [&](int i, int first, int width) {
      for (int j = first; i < dense && j < n; j += width) C[i * ld + j] *= row[i] * column[j];
    });
    block->sync();
  }

  /// out = Q x.
  OPTL_DEVICE void quadratic(const double* x, double* out) const { this->multiply(Q, ld, n, n, x, nullptr, out); }

  /// out = [A; G; -I; I] x, zero at absent rows.
  OPTL_DEVICE_CALL void rows(const double* x, double* out) const {
    this->multiply(C, ld, dense, n, x, kind, out);
    this->each(lower, [&](int j) { out[dense + j] = kind[dense + j] ? -x[j] : 0; });
    this->each(upper, [&](int j) { out[dense + lower + j] = kind[dense + lower + j] ? x[j] : 0; });
    block->sync();
  }

  /// out = [A; G; -I; I]' v for v that is zero at absent rows.
  OPTL_DEVICE_CALL void adjoint(const double* v, double* out) const {
    this->multiply_transposed(C, ld, dense, n, v, out);
    this->each(n, [&](int j) {
      if (lower) out[j] -= v[dense + j];
      if (upper) out[j] += v[dense + lower + j];
    });
    block->sync();
  }

 private:
  /// row_i <- change(row_i, max_j |C_ij| column_j).
  template <class Change>
  OPTL_DEVICE void scale_rows(const Change& change) {
    block->sync();
    this->each_row(dense, [&](int i, int first, int width) {
      double most = 0;
      for (int j = first; i < dense && j < n; j += width) {
        most = rules::most(std::fabs(C[i * ld + j]) * column[j], most);
      }
      most = block->largest_lanes(most, width);
      if (i < dense && first == 0) row[i] = change(row[i], most);
    });
    block->sync();
  }
};

}  // namespace optl::cuda
