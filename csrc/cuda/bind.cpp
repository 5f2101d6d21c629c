// The Python face of the CUDA module: converts, releases the GIL, calls cuda/kernels.h, and raises its errors.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "bind.h"
#include "cuda/kernels.h"

namespace py = pybind11;

namespace {

void check(optl::cuda::Error error, const char* what) {
  if (error) throw std::runtime_error(std::string("optlayers: ") + what + " failed: " + optl::cuda::error_text(error));
}

int device_count() {
  int count = 0;
  check(optl::cuda::device_count(&count), "counting the CUDA devices");
  return count;
}

py::tuple describe(int device) {
  optl::cuda::Device out{};
  check(optl::cuda::describe(device, &out), "describing a CUDA device");
  const std::string problem = out.runs ? optl::cuda::error_text(out.runs) : "";
  return py::make_tuple(std::string(out.name), out.major, out.minor, out.multiprocessors, out.shared_bytes, problem);
}

template <class T>
int64_t qp_workspace(const py::tuple& sizes, int device) {
  int64_t doubles = 0;
  check(optl::cuda::qp_workspace<T>(optl::sizes(sizes), device, &doubles), "planning qp_solve");
  return doubles;
}

template <class T>
void qp_solve(const py::tuple& sizes, const py::tuple& arrays, double eps, int64_t max_steps, int64_t workspace,
              int device, int64_t stream) {
  const optl::QpSizes z = optl::sizes(sizes);
  optl::Reader r(arrays);
  const auto in = r.problem<T>();
  const auto out = r.solution<T>(z);
  const py::gil_scoped_release release;
  check(optl::cuda::qp_solve<T>(z, in, eps, max_steps, out, reinterpret_cast<double*>(workspace), device,
                                reinterpret_cast<optl::cuda::Stream>(stream)),
        "qp_solve");
}

template <class T>
void qp_kkt(const py::tuple& sizes, const py::tuple& arrays, double tolerance, int64_t workspace, int device,
            int64_t stream) {
  const optl::QpSizes z = optl::sizes(sizes);
  optl::Reader r(arrays);
  const optl::QpBackward<T> in{r.system<T>(), {}, {}, {}};
  const optl::QpBackwardResult<T> out{r.system_result<T>(z), {}, {}, {}};
  const py::gil_scoped_release release;
  check(optl::cuda::qp_backward<T>(z, in, tolerance, out, reinterpret_cast<double*>(workspace), device,
                                   reinterpret_cast<optl::cuda::Stream>(stream)),
        "qp_kkt");
}

template <class T>
void qp_backward(const py::tuple& sizes, const py::tuple& arrays, double tolerance, int64_t workspace, int device,
                 int64_t stream) {
  const optl::QpSizes z = optl::sizes(sizes);
  optl::Reader r(arrays);
  const auto in = r.backward<T>();
  const auto out = r.gradients<T>(z);
  const py::gil_scoped_release release;
  check(optl::cuda::qp_backward<T>(z, in, tolerance, out, reinterpret_cast<double*>(workspace), device,
                                   reinterpret_cast<optl::cuda::Stream>(stream)),
        "qp_backward");
}

template <class T>
void moments_step(int second, int64_t numbers, int64_t count, int64_t table, bool apply, int device, int64_t stream) {
  const py::gil_scoped_release release;
  check(optl::cuda::moments_step<T>(static_cast<optl::Second>(second), optl::moment_numbers<T>(numbers), count,
                                    optl::moment_arrays<T>(table), apply, device,
                                    reinterpret_cast<optl::cuda::Stream>(stream)),
        "moments_step");
}

template <class T, auto Kernel>
void moments_change(int second, int64_t numbers, int64_t count, int64_t table, int device, int64_t stream) {
  const py::gil_scoped_release release;
  check(Kernel(static_cast<optl::Second>(second), optl::moment_numbers<T>(numbers), count,
               optl::moment_arrays<T>(table), device, reinterpret_cast<optl::cuda::Stream>(stream)),
        "the derivative of moments_step");
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
  module.doc() = "CUDA kernels of optlayers; called by optlayers._native only.";
  module.def("version", [] { return OPTL_VERSION; }, "Version of the package this module was built from.");
  module.def("versions", [] { const auto v = optl::cuda::versions(); return py::make_tuple(v.runtime, v.driver); },
             "CUDA versions of the runtime linked in and of the driver, 13000 for 13.0.");
  module.def("device_count", &device_count);
  module.def("describe", &describe, "name, major, minor, multiprocessors, shared bytes, why kernels do not run there.");
  module.def("qp_workspace_float32", &qp_workspace<float>, "Doubles of workspace the kernels need on a device.");
  module.def("qp_workspace_float64", &qp_workspace<double>);
  module.def("qp_solve_float32", &qp_solve<float>);
  module.def("qp_solve_float64", &qp_solve<double>);
  module.def("qp_kkt_float32", &qp_kkt<float>);
  module.def("qp_kkt_float64", &qp_kkt<double>);
  module.def("qp_backward_float32", &qp_backward<float>);
  module.def("qp_backward_float64", &qp_backward<double>);
  module.def("moments_step_float32", &moments_step<float>);
  module.def("moments_step_float64", &moments_step<double>);
  module.def("moments_pull_float32", &moments_change<float, &optl::cuda::moments_pull<float>>);
  module.def("moments_pull_float64", &moments_change<double, &optl::cuda::moments_pull<double>>);
  module.def("moments_push_float32", &moments_change<float, &optl::cuda::moments_push<float>>);
  module.def("moments_push_float64", &moments_change<double, &optl::cuda::moments_push<double>>);
}
