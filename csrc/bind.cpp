// The Python face of the native core: the only file that knows Python. It converts, releases the GIL and calls api.h.
#include <pybind11/pybind11.h>

#include <vector>

#include "api.h"

namespace py = pybind11;

namespace {

/// Arguments come as one flat tuple of integers: address and stride of each input, then the address of each output,
/// which is contiguous. One cast instead of forty.
class Reader {
 public:
  explicit Reader(const py::tuple& values) {
    values_.reserve(values.size());
    for (const py::handle value : values) values_.push_back(value.cast<int64_t>());
  }
  int64_t next() { return values_.at(position_++); }
  template <class T>
  optl::Batched<const T> input() {
    const T* data = reinterpret_cast<const T*>(next());
    return {data, next()};
  }
  /// `count` values a sample.
  template <class T>
  optl::Batched<T> output(int64_t count) {
    return {reinterpret_cast<T*>(next()), count};
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
  for (auto* a : {&in.Q, &in.p, &in.G, &in.h, &in.A, &in.b, &in.lb, &in.ub}) *a = r.input<T>();
  optl::QpResult<T> out{};
  out.x = r.output<T>(z.n), out.y = r.output<T>(z.k), out.z = r.output<T>(z.m);
  out.z_lb = r.output<T>(z.lower), out.z_ub = r.output<T>(z.upper), out.s = r.output<T>(z.m);
  out.active_G = r.output<bool>(z.m);
  out.active_lb = r.output<bool>(z.lower), out.active_ub = r.output<bool>(z.upper);
  out.status = r.output<int64_t>(1), out.iterations = r.output<int64_t>(1), out.residuals = r.output<T>(3);
  const py::gil_scoped_release release;
  optl::qp_solve<T>(z, in, eps, max_steps, out, reinterpret_cast<double*>(workspace), threads);
}

template <class T>
optl::QpKkt<T> kkt_system(Reader& r) {
  optl::QpKkt<T> in{};
  for (auto* a : {&in.Q, &in.G, &in.A}) *a = r.input<T>();
  for (auto* a : {&in.active_G, &in.active_lb, &in.active_ub}) *a = r.input<bool>();
  for (auto* a : {&in.r_x, &in.r_y, &in.r_z, &in.r_lb, &in.r_ub}) *a = r.input<T>();
  return in;
}

template <class T>
optl::QpKktResult<T> kkt_result(Reader& r, const optl::QpSizes& z) {
  optl::QpKktResult<T> out{};
  out.d_x = r.output<T>(z.n), out.d_y = r.output<T>(z.k), out.d_z = r.output<T>(z.m);
  out.d_lb = r.output<T>(z.lower), out.d_ub = r.output<T>(z.upper), out.error = r.output<T>(1);
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
  const auto out = kkt_result<T>(r, z);
  const py::gil_scoped_release release;
  optl::qp_kkt<T>(z, in, out, reinterpret_cast<double*>(workspace), threads);
  return all_regular(out, z.batch, tolerance);
}

template <class T>
bool qp_backward(const py::tuple& sizes_in, const py::tuple& arrays, double tolerance, int64_t workspace, int threads) {
  const optl::QpSizes z = sizes(sizes_in);
  Reader r(arrays);
  optl::QpBackward<T> in{kkt_system<T>(r), {}, {}, {}};
  for (auto* a : {&in.x, &in.y, &in.z}) *a = r.input<T>();
  optl::QpBackwardResult<T> out{kkt_result<T>(r, z), {}, {}, {}};
  out.grad_Q = r.output<T>(z.n * z.n), out.grad_G = r.output<T>(z.m * z.n), out.grad_A = r.output<T>(z.k * z.n);
  const py::gil_scoped_release release;
  optl::qp_backward<T>(z, in, out, reinterpret_cast<double*>(workspace), threads);
  return all_regular(out.u, z.batch, tolerance);
}

/// The searches take integers as they come: addresses and, of what may be shared, strides.
template <class T>
T* address(int64_t value) {
  return reinterpret_cast<T*>(value);
}

template <class T>
void simplex(int64_t rows, int64_t n, int64_t x, int64_t radius, int64_t radius_stride, int64_t point, int64_t support,
             int threads) {
  const py::gil_scoped_release release;
  optl::simplex<T>({rows, n}, {address<const T>(x), n}, {address<const T>(radius), radius_stride},
                   {address<T>(point), n}, {address<bool>(support), n}, threads);
}

template <class T>
void simplex_backward(int64_t rows, int64_t n, int64_t support, int64_t cotangent, int64_t grad_x, int64_t grad_radius,
                      int threads) {
  const py::gil_scoped_release release;
  optl::simplex_backward<T>({rows, n}, {address<const bool>(support), n}, {address<const T>(cotangent), n},
                            {address<T>(grad_x), n}, {address<T>(grad_radius), 1}, threads);
}

template <class T>
void entmax15(int64_t rows, int64_t n, int64_t x, int64_t p, int threads) {
  const py::gil_scoped_release release;
  optl::entmax15<T>({rows, n}, {address<const T>(x), n}, {address<T>(p), n}, threads);
}

template <class T>
void chain(int64_t rows, int64_t n, int64_t x, int64_t up, int64_t down, int64_t labels, int64_t jumps,
           int64_t workspace, int threads) {
  const py::gil_scoped_release release;
  optl::chain<T>({rows, n}, {address<const T>(x), n}, {address<const T>(up), 1}, {address<const T>(down), 1},
                 {address<int64_t>(labels), n}, {address<T>(jumps), n}, address<double>(workspace), threads);
}

template <class T>
void block_mean(int64_t rows, int64_t n, int64_t x, int64_t labels, int64_t mean, int threads) {
  const py::gil_scoped_release release;
  optl::block_mean<T>({rows, n}, {address<const T>(x), n}, {address<const int64_t>(labels), n}, {address<T>(mean), n},
                      threads);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native kernels of optlayers; called by optlayers._native.ops only.";
  module.def("version", [] { return OPTL_VERSION; }, "Version of the package this extension was built from.");
  module.def("cuda_why_not", [] { return OPTL_CUDA_WHY_NOT; }, "Why the CUDA kernels were not built; empty if they were.");
  module.def("isa", &optl::isa, "Instruction set the kernels run with on this processor.");
  module.def("qp_workspace", [](const py::tuple& values) { return optl::qp_workspace(sizes(values)); },
             "Doubles of workspace a thread needs for problems of these sizes.");
  module.def("qp_solve_float32", &qp_solve<float>);
  module.def("qp_solve_float64", &qp_solve<double>);
  module.def("qp_kkt_float32", &qp_kkt<float>);
  module.def("qp_kkt_float64", &qp_kkt<double>);
  module.def("qp_backward_float32", &qp_backward<float>);
  module.def("qp_backward_float64", &qp_backward<double>);
  module.def("simplex_float32", &simplex<float>);
  module.def("simplex_float64", &simplex<double>);
  module.def("simplex_backward_float32", &simplex_backward<float>);
  module.def("simplex_backward_float64", &simplex_backward<double>);
  module.def("entmax15_float32", &entmax15<float>);
  module.def("entmax15_float64", &entmax15<double>);
  module.def("chain_float32", &chain<float>);
  module.def("chain_float64", &chain<double>);
  module.def("block_mean_float32", &block_mean<float>);
  module.def("block_mean_float64", &block_mean<double>);
  module.def("chain_workspace", &optl::chain_workspace, "Doubles of workspace a thread needs for rows of n.");
}
