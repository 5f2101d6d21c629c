// The quadratic program kernels: how many blocks of how many threads, what of their arrays is shared, and the launches.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/qp_samples.h"
#include "cuda/qp_systems.h"

namespace optl::cuda {

namespace {

constexpr int kMostThreads = 256;
constexpr int64_t kMostWorkspace = int64_t{1} << 27;  // doubles, a gigabyte: large problems get fewer blocks

template <class T>
__global__ void __launch_bounds__(kMostThreads)
    solve_kernel(QpSizes sizes, QpProblem<T> in, double eps, int64_t max_steps, QpResult<T> out, double* workspace,
                 int64_t stride, int64_t room) {
  CudaBlock block;
  qp_solve_block<T>(block, sizes, in, eps, max_steps, out, workspace, stride, room);
}

template <class T>
__global__ void __launch_bounds__(kMostThreads)
    backward_kernel(QpSizes sizes, QpBackward<T> in, double tolerance, QpBackwardResult<T> out, double* workspace,
                    int64_t stride, int64_t room) {
  CudaBlock block;
  qp_backward_block<T>(block, sizes, in, tolerance, out, workspace, stride, room);
}

/// A grid of blocks that stay and take one sample after the other.
struct Plan {
  int blocks, threads;
  int64_t room, shared_bytes, stride;  // doubles, bytes, doubles of workspace a block
  int64_t workspace() const { return 2 + blocks * stride; }
};

/// Shared memory goes to the arrays that are asked for first, as far as it reaches with the whole of a multiprocessor's for
/// one block; as many blocks as fit, but no more than there are samples.
template <class Layout, class Kernel>
Error make_plan(const QpSizes& z, int device, Kernel* kernel, Plan* plan) {
  int shared = 0, reserved = 0, multiprocessors = 0, per_multiprocessor = 0;
  OPTL_CUDA_TRY(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  OPTL_CUDA_TRY(cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, device));
  OPTL_CUDA_TRY(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  cudaFuncAttributes attributes;
  OPTL_CUDA_TRY(cudaFuncGetAttributes(&attributes, kernel));

  plan->threads = static_cast<int>(std::min<int64_t>(threads_for(z.n), kMostThreads));
  plan->room = (shared - reserved - static_cast<int64_t>(attributes.sharedSizeBytes)) / static_cast<int64_t>(sizeof(double));
  Places places{nullptr, nullptr, plan->room};
  Layout layout(z, nullptr, plan->threads, places);
  plan->shared_bytes = places.shared_used * static_cast<int64_t>(sizeof(double));
  plan->stride = places.global_used;
  OPTL_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(plan->shared_bytes)));
  OPTL_CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, plan->threads,
                                                              static_cast<size_t>(plan->shared_bytes)));
  const int64_t fit = static_cast<int64_t>(multiprocessors) * std::max(per_multiprocessor, 1);
  const int64_t most = std::max<int64_t>(kMostWorkspace / std::max<int64_t>(plan->stride, 1), 1);
  plan->blocks = static_cast<int>(std::min({fit, most, z.batch}));
  return 0;
}

template <class T>
Error plan_solve(const QpSizes& z, int device, Plan* plan) {
  return make_plan<InteriorPoint<CudaBlock>>(z, device, solve_kernel<T>, plan);
}

template <class T>
Error plan_backward(const QpSizes& z, int device, Plan* plan) {
  return make_plan<SystemSpace<CudaBlock>>(z, device, backward_kernel<T>, plan);
}

/// Counter to zero, then the launch, both on the stream: a CUDA graph can capture them.
template <class Kernel, class... Arguments>
Error launch(const Plan& plan, Kernel* kernel, double* workspace, Stream stream, const Arguments&... arguments) {
  const auto on = static_cast<cudaStream_t>(stream);
  OPTL_CUDA_TRY(cudaMemsetAsync(workspace, 0, 2 * sizeof(double), on));
  kernel<<<plan.blocks, plan.threads, static_cast<size_t>(plan.shared_bytes), on>>>(arguments..., workspace, plan.stride,
                                                                                    plan.room);
  OPTL_CUDA_TRY(cudaGetLastError());
  return 0;
}

}  // namespace

template <class T>
Error qp_workspace(const QpSizes& z, int device, int64_t* doubles) {
  const OnDevice guard(device);
  OPTL_CUDA_TRY(guard.error);
  Plan solve{}, backward{};
  if (const Error error = plan_solve<T>(z, device, &solve)) return error;
  if (const Error error = plan_backward<T>(z, device, &backward)) return error;
  *doubles = std::max(solve.workspace(), backward.workspace());
  return 0;
}

template <class T>
Error qp_solve(const QpSizes& z, const QpProblem<T>& problem, double eps, int64_t max_steps, const QpResult<T>& result,
               double* workspace, int device, Stream stream) {
  const OnDevice guard(device);
  OPTL_CUDA_TRY(guard.error);
  Plan plan{};
  if (const Error error = plan_solve<T>(z, device, &plan)) return error;
  return launch(plan, solve_kernel<T>, workspace, stream, z, problem, eps, max_steps, result);
}

template <class T>
Error qp_backward(const QpSizes& z, const QpBackward<T>& in, double tolerance, const QpBackwardResult<T>& result,
                  double* workspace, int device, Stream stream) {
  const OnDevice guard(device);
  OPTL_CUDA_TRY(guard.error);
  Plan plan{};
  if (const Error error = plan_backward<T>(z, device, &plan)) return error;
  return launch(plan, backward_kernel<T>, workspace, stream, z, in, tolerance, result);
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
