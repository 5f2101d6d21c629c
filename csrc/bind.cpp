// The Python face of the native core: the only file that knows Python. It converts, releases the GIL and calls api.h.
#include <pybind11/pybind11.h>

#include <vector>

#include "api.h"

namespace py = pybind11;

namespace {

/// Arguments come as one flat tuple of integers, (address, stride) for each array: one cast instead of forty.
class Reader {
 public:
  explicit Reader(const py::tuple& values) {
    values_.reserve(values.size());
    for (const py::handle value : values) values_.push_back(value.cast<int64_t>());
  }
  int64_t next() { return values_.at(position_++); }
  template <class T>
  optl::Batched<T> array() {
    T* data = reinterpret_cast<T*>(next());
    return {data, next()};
  }
  optl::QpSizes sizes() {
    optl::QpSizes z{};
    for (int64_t* field : {&z.batch, &z.n, &z.k, &z.m, &z.lower, &z.upper}) *field = next();
    return z;
  }

 private:
  std::vector<int64_t> values_;
  size_t position_ = 0;
};

optl::QpSizes sizes(const py::tuple& values) { return Reader(values).sizes(); }

template <class T>
void qp_solve(const py::tuple& sizes_in, const py::tuple& arrays, double eps, int64_t max_steps, int64_t workspace,
              int threads) {
  const optl::QpSizes z = sizes(sizes_in);
  Reader r(arrays);
  optl::QpProblem<T> in{};
  for (auto* a : {&in.Q, &in.p, &in.G, &in.h, &in.A, &in.b, &in.lb, &in.ub}) *a = r.array<const T>();
  optl::QpResult<T> out{};
  for (auto* a : {&out.x, &out.y, &out.z, &out.z_lb, &out.z_ub, &out.s}) *a = r.array<T>();
  for (auto* a : {&out.active_G, &out.active_lb, &out.active_ub}) *a = r.array<bool>();
  for (auto* a : {&out.status, &out.iterations}) *a = r.array<int64_t>();
  out.residuals = r.array<T>();
  const py::gil_scoped_release release;
  optl::qp_solve<T>(z, in, eps, max_steps, out, reinterpret_cast<double*>(workspace), threads);
}

template <class T>
optl::QpKkt<T> kkt_system(Reader& r) {
  optl::QpKkt<T> in{};
  for (auto* a : {&in.Q, &in.G, &in.A}) *a = r.array<const T>();
  for (auto* a : {&in.active_G, &in.active_lb, &in.active_ub}) *a = r.array<const bool>();
  for (auto* a : {&in.r_x, &in.r_y, &in.r_z, &in.r_lb, &in.r_ub}) *a = r.array<const T>();
  return in;
}

template <class T>
optl::QpKktResult<T> kkt_result(Reader& r) {
  optl::QpKktResult<T> out{};
  for (auto* a : {&out.d_x, &out.d_y, &out.d_z, &out.d_lb, &out.d_ub, &out.error}) *a = r.array<T>();
  return out;
}

/// Whether every sample's error is at most `tolerance`; not so for a NaN.
template <class T>
bool all_regular(const optl::QpKktResult<T>& out, int64_t batch, double tolerance) {
  bool regular = true;
  for (int64_t b = 0; b < batch; ++b) regular = regular && *out.error[b] <= tolerance;
  return regular;
}

template <class T>
bool qp_kkt(const py::tuple& sizes_in, const py::tuple& arrays, double tolerance, int64_t workspace, int threads) {
  const optl::QpSizes z = sizes(sizes_in);
  Reader r(arrays);
  const auto in = kkt_system<T>(r);
  const auto out = kkt_result<T>(r);
  const py::gil_scoped_release release;
  optl::qp_kkt<T>(z, in, out, reinterpret_cast<double*>(workspace), threads);
  return all_regular(out, z.batch, tolerance);
}

template <class T>
bool qp_backward(const py::tuple& sizes_in, const py::tuple& arrays, double tolerance, int64_t workspace, int threads) {
  const optl::QpSizes z = sizes(sizes_in);
  Reader r(arrays);
  optl::QpBackward<T> in{kkt_system<T>(r), {}, {}, {}};
  for (auto* a : {&in.x, &in.y, &in.z}) *a = r.array<const T>();
  optl::QpBackwardResult<T> out{kkt_result<T>(r), {}, {}, {}};
  for (auto* a : {&out.grad_Q, &out.grad_G, &out.grad_A}) *a = r.array<T>();
  const py::gil_scoped_release release;
  optl::qp_backward<T>(z, in, out, reinterpret_cast<double*>(workspace), threads);
  return all_regular(out.u, z.batch, tolerance);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native kernels of optlayers; called by optlayers._native.ops only.";
  module.def("version", [] { return OPTL_VERSION; }, "Version of the package this extension was built from.");
  module.def("isa", &optl::isa, "Instruction set the kernels run with on this processor.");
  module.def("qp_workspace", [](const py::tuple& values) { return optl::qp_workspace(sizes(values)); },
             "Doubles of workspace a thread needs for problems of these sizes.");
  module.def("qp_solve_float32", &qp_solve<float>);
  module.def("qp_solve_float64", &qp_solve<double>);
  module.def("qp_kkt_float32", &qp_kkt<float>);
  module.def("qp_kkt_float64", &qp_kkt<double>);
  module.def("qp_backward_float32", &qp_backward<float>);
  module.def("qp_backward_float64", &qp_backward<double>);
}
