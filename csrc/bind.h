// How Python hands over the arrays of quadratic programs and of optimizer steps, to the CPU's kernels and to those of CUDA.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "optlayers/batch.h"
#include "optlayers/moments.h"

namespace optl {

/// Arguments come as one flat tuple of integers: address and stride of each input, then the address of each output,
/// which is contiguous. One cast instead of forty.
class Reader {
 public:
  explicit Reader(const pybind11::tuple& values) {
    values_.reserve(values.size());
    for (const pybind11::handle value : values) values_.push_back(value.cast<int64_t>());
  }
  int64_t next() { return values_.at(position_++); }
  template <class T>
  Batched<const T> input() {
    const T* data = reinterpret_cast<const T*>(next());
    return {data, next()};
  }
  /// `count` values a sample.
  template <class T>
  Batched<T> output(int64_t count) {
    return {reinterpret_cast<T*>(next()), count};
  }
  QpSizes sizes() {
    QpSizes z{};
    for (int64_t* field : {&z.batch, &z.n, &z.k, &z.m, &z.lower, &z.upper}) *field = next();
    return z;
  }

  template <class T>
  QpProblem<T> problem() {
    QpProblem<T> in{};
    for (auto* a : {&in.Q, &in.p, &in.G, &in.h, &in.A, &in.b, &in.lb, &in.ub}) *a = input<T>();
    return in;
  }
  template <class T>
  QpResult<T> solution(const QpSizes& z) {
    QpResult<T> out{};
    out.x = output<T>(z.n), out.y = output<T>(z.k), out.z = output<T>(z.m);
    out.z_lb = output<T>(z.lower), out.z_ub = output<T>(z.upper), out.s = output<T>(z.m);
    out.active_G = output<bool>(z.m), out.active_lb = output<bool>(z.lower), out.active_ub = output<bool>(z.upper);
    out.status = output<int64_t>(1), out.iterations = output<int64_t>(1), out.residuals = output<T>(3);
    return out;
  }

  template <class T>
  QpKkt<T> system() {
    QpKkt<T> in{};
    for (auto* a : {&in.Q, &in.G, &in.A}) *a = input<T>();
    for (auto* a : {&in.active_G, &in.active_lb, &in.active_ub}) *a = input<bool>();
    for (auto* a : {&in.r_x, &in.r_y, &in.r_z, &in.r_lb, &in.r_ub}) *a = input<T>();
    return in;
  }
  template <class T>
  QpKktResult<T> system_result(const QpSizes& z) {
    QpKktResult<T> out{};
    out.d_x = output<T>(z.n), out.d_y = output<T>(z.k), out.d_z = output<T>(z.m);
    out.d_lb = output<T>(z.lower), out.d_ub = output<T>(z.upper), out.error = output<T>(1);
    return out;
  }

  template <class T>
  QpBackward<T> backward() {
    QpBackward<T> in{system<T>(), {}, {}, {}};
    for (auto* a : {&in.x, &in.y, &in.z}) *a = input<T>();
    return in;
  }
  template <class T>
  QpBackwardResult<T> gradients(const QpSizes& z) {
    QpBackwardResult<T> out{system_result<T>(z), {}, {}, {}};
    out.grad_Q = output<T>(z.n * z.n), out.grad_G = output<T>(z.m * z.n), out.grad_A = output<T>(z.k * z.n);
    return out;
  }

 private:
  std::vector<int64_t> values_;
  size_t position_ = 0;
};

inline QpSizes sizes(const pybind11::tuple& values) { return Reader(values).sizes(); }

/// The twelve numbers of a step, which come as doubles.
template <class T>
MomentNumbers<T> moment_numbers(int64_t values) {
  const double* v = reinterpret_cast<const double*>(values);
  MomentNumbers<T> c{};
  for (T* field : {&c.gradient, &c.decay, &c.keep1, &c.take1, &c.keep2, &c.take2, &c.alpha, &c.beta, &c.sigma, &c.rho,
                   &c.epsilon, &c.shrink}) {
    *field = static_cast<T>(*v++);
  }
  return c;
}

/// Tensors come as a table of 64-bit integers, which MomentArrays is laid out as.
template <class T>
const MomentArrays<T>* moment_arrays(int64_t table) {
  static_assert(sizeof(MomentArrays<T>) == 16 * sizeof(int64_t));
  return reinterpret_cast<const MomentArrays<T>*>(table);
}

}  // namespace optl
