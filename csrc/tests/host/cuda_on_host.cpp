// The CUDA module without a GPU: cuda/kernels.h on the blocks that the host plays, for cuda/bind.cpp to be linked with.
#include "../device_qp.h"

#include "cuda/kernels.h"

namespace optl::cuda {

const char* error_text(Error) { return "the host's blocks do not fail"; }

Versions versions() { return {13000, 13000}; }

Error device_count(int* count) { return *count = 1, 0; }

Error describe(int, Device* out) {
  *out = {"blocks played by the host", 9, 0, 1, 0, 0};
  return 0;
}

template <class T>
Error qp_workspace(const QpSizes& z, int, int64_t* doubles) {
  device::room = 37 * z.n % 4 * 2000;  // more or less of the arrays in shared memory
  return *doubles = device::workspace_size(z), 0;
}

template <class T>
Error qp_solve(const QpSizes& z, const QpProblem<T>& problem, double eps, int64_t max_steps, const QpResult<T>& result,
               double* workspace, int, Stream) {
  return device::qp_solve(z, problem, eps, max_steps, result, workspace, 1), 0;
}

template <class T>
Error qp_backward(const QpSizes& z, const QpBackward<T>& in, double tolerance, const QpBackwardResult<T>& result,
                  double* workspace, int, Stream) {
  return device::qp_backward(z, in, tolerance, result, workspace), 0;
}

template Error qp_workspace<float>(const QpSizes&, int, int64_t*);
template Error qp_workspace<double>(const QpSizes&, int, int64_t*);
template Error qp_solve(const QpSizes&, const QpProblem<float>&, double, int64_t, const QpResult<float>&, double*, int,
                        Stream);
template Error qp_solve(const QpSizes&, const QpProblem<double>&, double, int64_t, const QpResult<double>&, double*,
                        int, Stream);
template Error qp_backward(const QpSizes&, const QpBackward<float>&, double, const QpBackwardResult<float>&, double*, int,
                           Stream);
template Error qp_backward(const QpSizes&, const QpBackward<double>&, double, const QpBackwardResult<double>&, double*,
                           int, Stream);

}  // namespace optl::cuda
