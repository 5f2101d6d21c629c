// The data of a cone program, of one (V = double) or of one in each SIMD lane (V = Vec): loading, scaling, products.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/cone_plan.h"
#include "cpu/lane_ldl.h"
#include "cpu/lanes.h"
#include "cpu/program.h"
#include "optlayers/numbers.h"

namespace optl::OPTL_ISA {

template <class V>
inline constexpr int kLanesOf = static_cast<int>(sizeof(V) / sizeof(double));

template <class V>
inline V* take(Arena& arena, int64_t count) { return reinterpret_cast<V*>(arena.take(count * kLanesOf<V>)); }

/// What `v` holds for one lane.
template <class V>
inline double& at_lane(V* v, int lane) { return reinterpret_cast<double*>(v)[lane]; }
template <class V>
inline const double& at_lane(const V* v, int lane) { return reinterpret_cast<const double*>(v)[lane]; }
inline bool lane_of(bool mask, int /*lane*/) { return mask; }
#ifdef OPTL_LANES
inline bool lane_of(const Mask& mask, int lane) { return mask[lane] != 0; }
#endif

inline constexpr int kRuizPasses = 10;
inline constexpr double kScaleLimit = 1e4;  // factors stay between its inverse and it

/// min x'Px/2 + q'x s.t. Ax + s = b, equilibrated (CIP-2). All that belongs to a lane lies in one block, so that a lane
/// moves by one loop.
template <class V>
struct ConeData {
  const ConePlan& plan;
  int64_t n, m, block;
  V *P, *A;              // entries, as the plan has them
  V *q, *b;              // n, m
  V *column, *row, *cost;  // D (n), E (m), c

  ConeData(const ConePlan& plan, Arena& arena)
      : plan(plan), n(plan.size.n), m(plan.size.m), block(plan.size.P + plan.size.A + 2 * n + 2 * m + 1) {
    P = take<V>(arena, block), A = P + plan.size.P, q = A + plan.size.A, b = q + n;
    column = b + m, row = column + n, cost = row + m;
  }

  void clear() const { std::fill_n(P, block, fill<V>(0)); }

  void copy_lane(int to, const ConeData& other, int from) const {
    for (int64_t i = 0; i < block; ++i) at_lane(P + i, to) = at_lane(other.P + i, from);
  }

  /// Put one sample's values into a lane; whether all are numbers.
  bool load_lane(int lane, const double* P_values, const double* q_values, const double* A_values,
                 const double* b_values) const {
    double check = 0;  // stays 0 unless a value is not finite
    for (int64_t i = 0; i < plan.size.P + plan.size.A; ++i) at_lane(P + i, lane) = 0;
    for (int32_t e = 0; e < plan.size.P_given; ++e) {
      const int32_t slot = plan.P_slot[e];
      at_lane(P + slot, lane) += plan.rows[slot] == plan.cols[slot] ? P_values[e] : 0.5 * P_values[e];
      check += 0 * P_values[e];
    }
    for (int32_t e = 0; e < plan.size.A_given; ++e) {
      at_lane(P + plan.A_slot[e], lane) += A_values[e], check += 0 * A_values[e];
    }
    for (int64_t j = 0; j < n; ++j) at_lane(q + j, lane) = q_values[j], check += 0 * q_values[j];
    for (int64_t i = 0; i < m; ++i) at_lane(b + i, lane) = b_values[i], check += 0 * b_values[i];
    return check == 0;
  }

  /// Find the factors and scale; x_work is n, row_work m.
  void equilibrate(V* x_work, V* row_work) const {
    for (int64_t j = 0; j < n; ++j) column[j] = fill<V>(1);
    for (int64_t i = 0; i < m; ++i) row[i] = fill<V>(1);
    *cost = fill<V>(1);
    for (int pass = 0; pass < kRuizPasses; ++pass) {
      norms(x_work, row_work);
      for (int64_t j = 0; j < n; ++j) column[j] = shrink(column[j], x_work[j]);
      for (int64_t i = 0; i < m; ++i) row[i] = shrink(row[i], row_work[i]);
      even_out();
      norms_of_objective(x_work);
      V total = fill<V>(0), top = fill<V>(0);
      for (int64_t j = 0; j < n; ++j) {
        total += x_work[j], top = most(absolute(q[j]) * column[j], top);
      }
      *cost = inside(divide(fill<V>(1), most(top, total / static_cast<double>(std::max<int64_t>(n, 1)))));
    }
    for (int64_t j = 0; j < n; ++j) column[j] = power_of_two(column[j]);
    for (int64_t i = 0; i < m; ++i) row[i] = power_of_two(row[i]);
    *cost = power_of_two(*cost);

    for (int64_t j = 0; j < n; ++j) {
      for (int32_t e = plan.P_start[j]; e < plan.P_start[j + 1]; ++e) {
        P[e] = P[e] * (*cost * column[plan.rows[e]] * column[j]);
      }
      for (int32_t e = plan.A_start[j]; e < plan.A_start[j + 1]; ++e) {
        P[e] = P[e] * (row[plan.rows[e] - n] * column[j]);
      }
      q[j] = q[j] * (*cost * column[j]);
    }
    for (int64_t i = 0; i < m; ++i) b[i] = b[i] * row[i];
  }

  /// out = P x.
  void quadratic(const V* x, V* out) const {
    std::fill_n(out, n, fill<V>(0));
    for (int64_t j = 0; j < n; ++j) {
      V sum = out[j];
      for (int32_t e = plan.P_start[j]; e < plan.P_start[j + 1]; ++e) {
        const int32_t i = plan.rows[e];
        sum = multiply_add(P[e], x[i], sum);
        if (i != j) out[i] = multiply_add(P[e], x[j], out[i]);
      }
      out[j] = sum;
    }
  }

  /// out = A x.
  void rows_of(const V* x, V* out) const {
    std::fill_n(out, m, fill<V>(0));
    for (int64_t j = 0; j < n; ++j) {
      for (int32_t e = plan.A_start[j]; e < plan.A_start[j + 1]; ++e) {
        const int64_t i = plan.rows[e] - n;
        out[i] = multiply_add(P[e], x[j], out[i]);
      }
    }
  }

  /// out = A' z.
  void adjoint(const V* z, V* out) const {
    for (int64_t j = 0; j < n; ++j) {
      V sum = fill<V>(0);
      for (int32_t e = plan.A_start[j]; e < plan.A_start[j + 1]; ++e) sum = multiply_add(P[e], z[plan.rows[e] - n], sum);
      out[j] = sum;
    }
  }

 private:
  static double divide(double value, double size) { return rules::divide(value, size); }
  static V inside(const V& v) { return least(most(v, fill<V>(1 / kScaleLimit)), fill<V>(kScaleLimit)); }
  static V shrink(const V& factor, const V& size) {
    const auto empty = !(size > fill<V>(0));
    return inside(factor / square_root(select(empty, fill<V>(1), size)));
  }
#ifdef OPTL_LANES
  static Real divide(const Real& value, const Real& size) { return OPTL_ISA::divide(value, size); }
#endif

  /// Max-norms of the columns of the scaled P.
  void norms_of_objective(V* of_column) const {
    std::fill_n(of_column, n, fill<V>(0));
    for (int64_t j = 0; j < n; ++j) {
      for (int32_t e = plan.P_start[j]; e < plan.P_start[j + 1]; ++e) {
        const int32_t i = plan.rows[e];
        const V size = absolute(P[e]) * (*cost * column[i] * column[j]);
        of_column[i] = most(size, of_column[i]), of_column[j] = most(size, of_column[j]);
      }
    }
  }
  /// And of those of [P; A] and of the rows of A.
  void norms(V* of_column, V* of_row) const {
    norms_of_objective(of_column);
    std::fill_n(of_row, m, fill<V>(0));
    for (int64_t j = 0; j < n; ++j) {
      for (int32_t e = plan.A_start[j]; e < plan.A_start[j + 1]; ++e) {
        const int64_t i = plan.rows[e] - n;
        const V size = absolute(P[e]) * (row[i] * column[j]);
        of_row[i] = most(size, of_row[i]), of_column[j] = most(size, of_column[j]);
      }
    }
  }
  /// The rows of a cone whose shape depends on their units share one factor.
  void even_out() const {
    for (int32_t k = 0; k < plan.size.blocks; ++k) {
      const ConePlan::Block& block = plan.blocks[k];
      if (block.kind == kZeroCone || block.kind == kNonnegative) continue;
      V sum = fill<V>(0);
      for (int32_t i = 0; i < block.rows; ++i) sum += row[block.row + i];
      std::fill_n(row + block.row, block.rows, sum / static_cast<double>(block.rows));
    }
  }
};

}  // namespace optl::OPTL_ISA
