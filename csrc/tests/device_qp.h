// The CUDA kernels of quadratic programs on the host, with the signatures of those of the CPU.
#pragma once

#include <algorithm>
#include <cstring>

#include "cuda/qp_samples.h"
#include "cuda/qp_systems.h"
#include "host_block.h"

namespace optl::device {

/// Doubles of shared memory that the next calls have: with none every array lies in the workspace.
inline int64_t room = 0;
inline unsigned seed = 0;  // another order of the threads at every call: a race would change results

inline int threads_for(const QpSizes& z) { return static_cast<int>(std::min<int64_t>(cuda::threads_for(z.n), 96)); }

template <class Layout>
cuda::Places measure(const QpSizes& z) {
  cuda::Places places{nullptr, nullptr, room};
  Layout layout(z, nullptr, threads_for(z), places);
  return places;
}

inline int64_t workspace_size(const QpSizes& z) {
  const int64_t solve = measure<cuda::InteriorPoint<HostBlock>>(z).global_used;
  return 2 + 2 * std::max(solve, measure<cuda::SystemSpace<HostBlock>>(z).global_used);
}

/// kernel(block, stride) on two blocks.
template <class Layout, class Kernel>
void launch(const QpSizes& z, double* workspace, const Kernel& kernel) {
  const cuda::Places places = measure<Layout>(z);
  std::memset(workspace, 0, 2 * sizeof(double));
  HostGrid(2, threads_for(z), places.shared_used * static_cast<int64_t>(sizeof(double)), ++seed)
      .run([&](HostBlock& block) { kernel(block, places.global_used); });
}

template <class T>
void qp_solve(const QpSizes& z, const QpProblem<T>& problem, double eps, int64_t max_steps, const QpResult<T>& result,
              double* workspace, int) {
  launch<cuda::InteriorPoint<HostBlock>>(z, workspace, [&](HostBlock& block, int64_t stride) {
    cuda::qp_solve_block<T>(block, z, problem, eps, max_steps, result, workspace, stride, room);
  });
}

template <class T>
void qp_backward(const QpSizes& z, const QpBackward<T>& in, double tolerance, const QpBackwardResult<T>& result,
                 double* workspace) {
  launch<cuda::SystemSpace<HostBlock>>(z, workspace, [&](HostBlock& block, int64_t stride) {
    cuda::qp_backward_block<T>(block, z, in, tolerance, result, workspace, stride, room);
  });
}

template <class T>
void qp_backward(const QpSizes& z, const QpBackward<T>& in, const QpBackwardResult<T>& result, double* workspace, int) {
  qp_backward(z, in, sizeof(T) == 4 ? 1.2e-5 : 1e-9, result, workspace);
}

}  // namespace optl::device
