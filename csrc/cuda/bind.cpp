// The Python face of the CUDA module: converts, releases the GIL, calls cuda/api.h, and raises its errors.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "cuda/api.h"

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

}  // namespace

PYBIND11_MODULE(_cuda, module) {
  module.doc() = "CUDA kernels of optlayers; called by optlayers._native only.";
  module.def("version", [] { return OPTL_VERSION; }, "Version of the package this module was built from.");
  module.def("versions", [] { const auto v = optl::cuda::versions(); return py::make_tuple(v.runtime, v.driver); },
             "CUDA versions of the runtime linked in and of the driver, 13000 for 13.0.");
  module.def("device_count", &device_count);
  module.def("describe", &describe, "name, major, minor, multiprocessors, shared bytes, why kernels do not run there.");
}
