// The Python face of the native core: with cone_kkt_bind.cpp, all that knows Python. It converts, releases the GIL and calls api.h.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>
#include <vector>

#include "api.h"
#include "bind.h"
#include "cpu/cone_plan.h"

namespace py = pybind11;

void bind_cone_kkt(py::module_& module);  // cone_kkt_bind.cpp

namespace {

template <class T>
void qp_solve(const py::tuple& sizes_in, const py::tuple& arrays, double eps, int64_t max_steps, int64_t workspace,
              int threads) {
  const optl::QpSizes z = optl::sizes(sizes_in);
  optl::Reader r(arrays);
  const auto in = r.problem<T>();
  const auto out = r.solution<T>(z);
  const py::gil_scoped_release release;
  optl::qp_solve<T>(z, in, eps, max_steps, out, reinterpret_cast<double*>(workspace), threads);
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
  const optl::QpSizes z = optl::sizes(sizes_in);
  optl::Reader r(arrays);
  const auto in = r.system<T>();
  const auto out = r.system_result<T>(z);
  const py::gil_scoped_release release;
  optl::qp_kkt<T>(z, in, out, reinterpret_cast<double*>(workspace), threads);
  return all_regular(out, z.batch, tolerance);
}

template <class T>
bool qp_backward(const py::tuple& sizes_in, const py::tuple& arrays, double tolerance, int64_t workspace, int threads) {
  const optl::QpSizes z = optl::sizes(sizes_in);
  optl::Reader r(arrays);
  const auto in = r.backward<T>();
  const auto out = r.gradients<T>(z);
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

/// The words of a plan, as bytes. Each pattern is a count and the addresses of its rows and columns.
py::bytes cone_analyse(int32_t n, const std::tuple<int32_t, int64_t, int64_t>& P,
                       const std::tuple<int32_t, int64_t, int64_t>& A, int32_t zero, int32_t nonneg,
                       const std::vector<int32_t>& second_order, const std::vector<int32_t>& semidefinite,
                       int32_t exponential, int32_t power) {
  const auto pattern = [](const auto& p) {
    return optl::ConePattern{std::get<0>(p), address<const int32_t>(std::get<1>(p)), address<const int32_t>(std::get<2>(p))};
  };
  std::vector<int32_t> words;
  {
    const py::gil_scoped_release release;
    words = optl::cone_analyse(n, pattern(P), pattern(A), {zero, nonneg, second_order, semidefinite, exponential, power});
  }
  return {reinterpret_cast<const char*>(words.data()), words.size() * sizeof(int32_t)};
}

int64_t cone_workspace(int64_t plan, int64_t batch) {
  return optl::cone_workspace(optl::ConePlan(address<const int32_t>(plan)), batch);
}

void cone_solve(int64_t plan_at, int64_t batch, int64_t exponents, const py::tuple& arrays, double eps,
                int64_t max_steps, int64_t workspace, int threads) {
  const optl::ConePlan plan(address<const int32_t>(plan_at));
  optl::Reader r(arrays);
  optl::ConeProblem in{batch, {}, {}, {}, {}, address<const double>(exponents)};
  for (auto* a : {&in.P, &in.q, &in.A, &in.b}) *a = r.input<double>();
  optl::ConeResult out{};
  out.x = r.output<double>(plan.size.n), out.s = r.output<double>(plan.size.m), out.z = r.output<double>(plan.size.m);
  out.status = r.output<int64_t>(1), out.iterations = r.output<int64_t>(1);
  const py::gil_scoped_release release;
  optl::cone_solve(plan, in, eps, max_steps, out, address<double>(workspace), threads);
}

template <class T>
void moments_step(int second, int64_t numbers, int64_t count, int64_t table, bool apply, int threads) {
  const py::gil_scoped_release release;
  optl::moments_step<T>(static_cast<optl::Second>(second), optl::moment_numbers<T>(numbers), count, optl::moment_arrays<T>(table),
                        apply, threads);
}

template <class T, auto Kernel>
void moments_change(int second, int64_t numbers, int64_t count, int64_t table, int threads) {
  const py::gil_scoped_release release;
  Kernel(static_cast<optl::Second>(second), optl::moment_numbers<T>(numbers), count, optl::moment_arrays<T>(table), threads);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native kernels of optlayers; called by optlayers._native.ops only.";
  module.def("version", [] { return OPTL_VERSION; }, "Version of the package this extension was built from.");
  module.def("cuda_why_not", [] { return OPTL_CUDA_WHY_NOT; }, "Why the CUDA kernels were not built; empty if they were.");
  module.def("isa", &optl::isa, "Instruction set the kernels run with on this processor.");
  module.def("qp_workspace", [](const py::tuple& values) { return optl::qp_workspace(optl::sizes(values)); },
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
  bind_cone_kkt(module);
  module.def("cone_analyse", &cone_analyse, "Analyse a pattern of cone programs.");
  module.def("cone_workspace", &cone_workspace, "Doubles of workspace a thread needs for a batch on this plan.");
  module.def("cone_solve_float64", &cone_solve);
  module.def("moments_step_float32", &moments_step<float>);
  module.def("moments_step_float64", &moments_step<double>);
  module.def("moments_pull_float32", &moments_change<float, &optl::moments_pull<float>>);
  module.def("moments_pull_float64", &moments_change<double, &optl::moments_pull<double>>);
  module.def("moments_push_float32", &moments_change<float, &optl::moments_push<float>>);
  module.def("moments_push_float64", &moments_change<double, &optl::moments_push<double>>);
  module.def("chain_workspace", &optl::chain_workspace, "Doubles of workspace a thread needs for rows of n.");
}
