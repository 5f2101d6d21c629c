// The product of cones of a program: scaling, its matrix H, corrections and step lengths, block by block.
#pragma once

#include "cpu/cone_data.h"
#include "optlayers/cone_second_order.h"
#include "optlayers/cone_semidefinite.h"
#include "optlayers/cone_triples.h"

namespace optl::OPTL_ISA {

/// Runs over the blocks of a plan; equations of docs/theory/cone_interior_point.md. Does not allocate.
template <class V>
class ConeProduct {
 public:
  using Block = ConePlan::Block;
  using M = MaskOf<V>;

  ConeProduct(const ConePlan& plan, const double* exponents, Arena& arena) : plan_(plan), exponents_(exponents) {
    const int64_t m = plan.size.m, k = plan.size.largest;
    first_ = take<V>(arena, m), second_ = take<V>(arena, m), theta_ = take<V>(arena, plan.size.blocks);
    for (V** v : {&a_, &b_, &c_}) *v = take<V>(arena, std::max<int64_t>({plan.size.tallest, k * k, 3 * k}));
    matrices_ = take<V>(arena, plan.size.scalings);
    triples_ = take<V>(arena, kTriple * plan.size.triples);
  }

  /// Entry i of the unit point of a block.
  double unit(const Block& block, int64_t i) const {
    switch (block.kind) {
      case kNonnegative: return 1;
      case kSecondOrder: return i == 0;
      case kSemidefinite: return semidefinite::on_diagonal(i);
      case kExponentialCone: return triples::Exponential::kUnit[i];
      case kPowerCone: {
        const double a = exponents_[block.place];
        return i == 0 ? std::sqrt(1 + a) : i == 1 ? std::sqrt(2 - a) : 0;
      }
    }
    return 0;
  }

  /// v = e, in one lane.
  void set_unit(V* v, int lane) const {
    for_blocks([&](const Block& block, int32_t) {
      for (int64_t i = 0; i < block.rows; ++i) at_lane(v + block.row + i, lane) = unit(block, i);
    });
  }

  /// The scaling at (s, z), in lanes of `primal_dual` that of (CIP-13) for exponential and power cones; lanes that have one.
  M scale(const V* s, const V* z, const M& primal_dual) {
    M good = always<V>(true);
    for_blocks([&](const Block& block, int32_t k) {
      const V *sb = s + block.row, *zb = z + block.row;
      V* const w = first_ + block.row;
      switch (block.kind) {
        case kNonnegative:
          for (int64_t i = 0; i < block.rows; ++i) {
            w[i] = sb[i] / zb[i];
            good = good & (sb[i] > fill<V>(0)) & (zb[i] > fill<V>(0));
          }
          break;
        case kSecondOrder: {
          auto scaling = second_order_scaling(block, k);
          good = good & second_order::scale(block.rows, sb, zb, scaling);
          theta_[k] = scaling.theta;
          break;
        }
        case kSemidefinite: good = good & semidefinite::scale(block.order, sb, zb, semidefinite_scaling(block), a_, b_); break;
        case kExponentialCone: scale_triple<triples::Exponential>(block, sb, zb, primal_dual); break;
        case kPowerCone: scale_triple<triples::Power>(block, sb, zb, primal_dual); break;
      }
    });
    return good;
  }

  /// The entries of -H in K.
  void entries(V* K) const {
    for_blocks([&](const Block& block, int32_t k) {
      V* const out = K + block.entry;
      switch (block.kind) {
        case kNonnegative:
          for (int64_t i = 0; i < block.rows; ++i) out[i] = -first_[block.row + i];
          break;
        case kSecondOrder: second_order_entries(block, k, out); break;
        case kSemidefinite: semidefinite::entries(block.order, semidefinite_scaling(block), a_, out); break;
        case kExponentialCone:
        case kPowerCone:
          for (int e = 0; e < 6; ++e) out[e] = -triple(block)[e];
          break;
      }
    });
  }

  /// out = H v.
  void multiply(const V* v, V* out) const {
    for_blocks([&](const Block& block, int32_t k) {
      const V* const in = v + block.row;
      V* const to = out + block.row;
      switch (block.kind) {
        case kZeroCone: std::fill_n(to, block.rows, fill<V>(0)); break;
        case kNonnegative:
          for (int64_t i = 0; i < block.rows; ++i) to[i] = first_[block.row + i] * in[i];
          break;
        case kSecondOrder: second_order::square(block.rows, second_order_scaling(block, k), in, to); break;
        case kSemidefinite: semidefinite::square(block.order, semidefinite_scaling(block), in, a_, b_, to); break;
        case kExponentialCone:
        case kPowerCone: triples::multiply(triple(block), in, to); break;
      }
    });
  }

  /// out = the corrector's term c (CIP-12, CIP-15) for the predictor's ds, dz and the target `centre`.
  void correction(const V* z, const V* ds, const V* dz, const V& centre, V* out) const {
    for_blocks([&](const Block& block, int32_t k) {
      const V *dsb = ds + block.row, *dzb = dz + block.row;
      V* const to = out + block.row;
      switch (block.kind) {
        case kZeroCone: std::fill_n(to, block.rows, fill<V>(0)); break;
        case kNonnegative:
          for (int64_t i = 0; i < block.rows; ++i) to[i] = (dsb[i] * dzb[i] - centre) / z[block.row + i];
          break;
        case kSecondOrder:
          second_order::correction(block.rows, second_order_scaling(block, k), dsb, dzb, centre, a_, b_, to);
          break;
        case kSemidefinite:
          semidefinite::correction(block.order, semidefinite_scaling(block), dsb, dzb, centre, a_, b_, c_, to);
          break;
        case kExponentialCone: correct_triple<triples::Exponential>(block, z, dsb, dzb, centre, to); break;
        case kPowerCone: correct_triple<triples::Power>(block, z, dsb, dzb, centre, to); break;
      }
    });
  }

  /// The largest step up to `limit` that keeps s and z in the symmetric cones.
  V step_length(const V* s, const V* z, const V* ds, const V* dz, V limit) const {
    for_blocks([&](const Block& block, int32_t) {
      const int64_t r = block.row;
      switch (block.kind) {
        case kNonnegative:
          for (int64_t i = r; i < r + block.rows; ++i) {
            const auto less_s = ds[i] < fill<V>(0), less_z = dz[i] < fill<V>(0);
            limit = least(select(less_s, -s[i] / select(less_s, ds[i], fill<V>(1)), limit), limit);
            limit = least(select(less_z, -z[i] / select(less_z, dz[i], fill<V>(1)), limit), limit);
          }
          break;
        case kSecondOrder:
          limit = second_order::step_length(block.rows, s + r, ds + r, limit);
          limit = second_order::step_length(block.rows, z + r, dz + r, limit);
          break;
        case kSemidefinite:
          limit = semidefinite::step_length(block.order, semidefinite_scaling(block), false, ds + r, a_, b_, c_, limit);
          limit = semidefinite::step_length(block.order, semidefinite_scaling(block), true, dz + r, a_, b_, c_, limit);
          break;
      }
    });
    return limit;
  }

  /// The sum of f(s) + f*(z) + nu over the cones at s + length ds and z + length dz (CIP-9); NaN or infinite outside.
  V barriers(const V* s, const V* z, const V* ds, const V* dz, const V& length) const {
    V sum = fill<V>(0);
    for_blocks([&](const Block& block, int32_t) {
      const int64_t r = block.row;
      switch (block.kind) {
        case kNonnegative:
          for (int64_t i = r; i < r + block.rows; ++i) {
            sum -= logarithm((s[i] + length * ds[i]) * (z[i] + length * dz[i]));
          }
          break;
        case kSecondOrder:
          move(block.rows, s + r, ds + r, length, a_), move(block.rows, z + r, dz + r, length, b_);
          sum -= 0.5 * logarithm(second_order::determinant(block.rows, a_) * second_order::determinant(block.rows, b_));
          break;
        case kSemidefinite:
          move(block.rows, s + r, ds + r, length, a_), sum -= semidefinite::log_determinant(block.order, a_, b_);
          move(block.rows, z + r, dz + r, length, a_), sum -= semidefinite::log_determinant(block.order, a_, b_);
          break;
        case kExponentialCone:
        case kPowerCone: {
          V at[3], dual[3];
          move(3, s + r, ds + r, length, at), move(3, z + r, dz + r, length, dual);
          sum += block.kind == kExponentialCone ? triple_barriers<triples::Exponential>(block, at, dual)
                                                : triple_barriers<triples::Power>(block, at, dual);
          break;
        }
      }
    });
    return sum;
  }

  /// The smallest eigenvalue of v over the symmetric cones.
  V margin(const V* v) const {
    V low = fill<V>(INFINITY);
    for_blocks([&](const Block& block, int32_t) {
      const V* const at = v + block.row;
      switch (block.kind) {
        case kNonnegative:
          for (int64_t i = 0; i < block.rows; ++i) low = least(at[i], low);
          break;
        case kSecondOrder: low = least(second_order::margin(block.rows, at), low); break;
        case kSemidefinite: low = least(semidefinite::margin(block.order, at, a_, b_), low); break;
      }
    });
    return low;
  }

  /// v += amount e.
  void shift(const V& amount, V* v) const {
    for_blocks([&](const Block& block, int32_t) {
      for (int64_t i = 0; i < block.rows; ++i) v[block.row + i] += unit(block, i) * amount;
    });
  }

 private:
  static constexpr int64_t kTriple = 6 + 3 + 6;  // H, gradient and Hessian of the dual barrier

  const ConePlan& plan_;
  const double* exponents_;
  V *first_, *second_;  // a row each: s / z, or w and lambda of second-order cones
  V *theta_, *matrices_, *triples_;
  V *a_, *b_, *c_;

  template <class Run>
  void for_blocks(const Run& run) const {
    for (int32_t k = 0; k < plan_.size.blocks; ++k) run(plan_.blocks[k], k);
  }

  static void move(int64_t rows, const V* v, const V* dv, const V& length, V* out) {
    for (int64_t i = 0; i < rows; ++i) out[i] = v[i] + length * dv[i];
  }

  V exponent(const Block& block) const {
    return fill<V>(block.kind == kPowerCone ? exponents_[block.place] : 0);
  }

  second_order::Scaling<V> second_order_scaling(const Block& block, int32_t k) const {
    return {theta_[k], first_ + block.row, second_ + block.row};
  }

  void second_order_entries(const Block& block, int32_t k, V* out) const {
    const V* const w = first_ + block.row;
    const V unit = theta_[k] * theta_[k];
    const int64_t d = block.rows;
    if (block.extra < 0) {
      for (int64_t j = 0; j < d; ++j) {
        for (int64_t i = 0; i <= j; ++i) *out++ = unit * (-2.0 * w[i] * w[j] + (i < j ? 0.0 : j == 0 ? 1.0 : -1.0));
      }
      return;
    }
    const auto two = second_order::rank_two(d, w);
    for (int64_t i = 0; i < d; ++i) *out++ = i ? -unit : -unit * two.corner;
    for (int64_t i = 0; i < d; ++i) *out++ = i ? unit * two.along * w[i] : unit * two.head;
    for (int64_t i = 1; i < d; ++i) *out++ = unit * two.back * w[i];
    out[0] = unit, out[1] = -unit;
  }

  semidefinite::Scaling<V> semidefinite_scaling(const Block& block) const {
    V* const at = matrices_ + block.place;
    const int64_t area = int64_t{block.order} * block.order;
    return {at, at + area, at + 2 * area};
  }

  V* triple(const Block& block) const {
    return triples_ + kTriple * (plan_.size.triples - (plan_.blocks + plan_.size.blocks - &block));
  }

  template <class Cone>
  void scale_triple(const Block& block, const V* s, const V* z, const M& primal_dual) {
    V* const H = triple(block);
    V *gradient = H + 6, *G = H + 9;
    const auto at = Cone::barrier(exponent(block), z);
    at.gradient(gradient), at.hessian(G);
    V z_tilde[3];
    const V s_tilde[3] = {-gradient[0], -gradient[1], -gradient[2]};
    Cone::conjugate(exponent(block), s, z_tilde);
    triples::scale(s, z, s_tilde, z_tilde, G, primal_dual, H);
  }

  template <class Cone>
  void correct_triple(const Block& block, const V* z, const V* ds, const V* dz, const V& centre, V* out) const {
    const V *gradient = triple(block) + 6, *G = triple(block) + 9;
    const auto at = Cone::barrier(exponent(block), z + block.row);
    V back[3], curving[3], third[3];
    triples::solve(G, ds, back);
    for (V& v : back) v = keep(absolute(v) < fill<V>(INFINITY), v);  // without it where G is singular to rounding
    Cone::curving(exponent(block), at, dz, back, curving);
    at.third(dz, back, curving, third);
    for (int i = 0; i < 3; ++i) out[i] = centre * gradient[i] - 0.5 * third[i];
  }

  template <class Cone>
  V triple_barriers(const Block& block, const V* s, const V* z) const {
    V z_tilde[3];
    const M inside = Cone::conjugate(exponent(block), s, z_tilde);
    const V sum = Cone::value(Cone::barrier(exponent(block), z)) - Cone::value(Cone::barrier(exponent(block), z_tilde));
    return select(inside, sum, fill<V>(INFINITY));
  }
};

}  // namespace optl::OPTL_ISA
