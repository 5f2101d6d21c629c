// The Python face of the native core: the only file that knows Python. It converts, releases the GIL and calls api.h.
#include <pybind11/pybind11.h>

namespace {

/// Widest instruction set this processor runs among those compiled: "portable", "avx2" or "avx512".
const char* isa() {
#ifdef OPTL_DISPATCH_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("fma")) {
    return "avx512";
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
  return "portable";
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native kernels of optlayers; called by optlayers._native.ops only.";
  module.def("version", [] { return OPTL_VERSION; }, "Version of the package this extension was built from.");
  module.def("isa", &isa, "Instruction set the kernels run with on this processor.");
}
