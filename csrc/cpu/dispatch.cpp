// Chooses, once, the widest build of the kernels that this processor runs.
#include "cpu/kernels.h"

#include <cstdlib>
#include <cstring>

#include "cpu/dispatch.h"

namespace optl {

bool uses(Accelerator accelerator) {
  static const char* const names[] = {"crossover", "floats", "refill"};
  static const char* const without = std::getenv("OPTLAYERS_WITHOUT");
  return !without || !std::strstr(without, names[static_cast<int>(accelerator)]);
}

const char* isa() {
#ifdef OPTL_DISPATCH_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("fma")) {
    return "avx512";
  }
#endif
#ifdef OPTL_DISPATCH_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
  return "portable";
}

int64_t qp_workspace(const QpSizes& sizes) { OPTL_DISPATCH(workspace_size, sizes); }

template <class T>
void qp_solve(const QpSizes& sizes, const QpProblem<T>& problem, double eps, int64_t max_steps,
              const QpResult<T>& result, double* workspace, int threads) {
  OPTL_DISPATCH(qp_solve, sizes, problem, eps, max_steps, result, workspace, threads);
}

template <class T>
void qp_kkt(const QpSizes& sizes, const QpKkt<T>& system, const QpKktResult<T>& result, double* workspace,
            int threads) {
  OPTL_DISPATCH(qp_kkt, sizes, system, result, workspace, threads);
}

template <class T>
void qp_backward(const QpSizes& sizes, const QpBackward<T>& in, const QpBackwardResult<T>& result, double* workspace,
                 int threads) {
  OPTL_DISPATCH(qp_backward, sizes, in, result, workspace, threads);
}

template <class T>
void simplex(const RowSizes& sizes, Batched<const T> x, Batched<const T> radius, Batched<T> point,
             Batched<bool> support, int threads) {
  OPTL_DISPATCH(simplex, sizes, x, radius, point, support, threads);
}

template <class T>
void simplex_backward(const RowSizes& sizes, Batched<const bool> support, Batched<const T> cotangent, Batched<T> grad_x,
                      Batched<T> grad_radius, int threads) {
  OPTL_DISPATCH(simplex_backward, sizes, support, cotangent, grad_x, grad_radius, threads);
}

template <class T>
void entmax15(const RowSizes& sizes, Batched<const T> x, Batched<T> p, int threads) {
  OPTL_DISPATCH(entmax15, sizes, x, p, threads);
}

int64_t cone_workspace(const ConePlan& plan, int64_t batch) { OPTL_DISPATCH(cone_workspace, plan, batch); }

void cone_solve(const ConePlan& plan, const ConeProblem& problem, double eps, int64_t max_steps,
                const ConeResult& result, double* workspace, int threads) {
  OPTL_DISPATCH(cone_solve, plan, problem, eps, max_steps, result, workspace, threads);
}

template <class T>
void moments_step(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                  bool apply, int threads) {
  OPTL_DISPATCH(moments_step, second, numbers, count, tensors, apply, threads);
}

template <class T>
void moments_pull(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                  int threads) {
  OPTL_DISPATCH(moments_pull, second, numbers, count, tensors, threads);
}

template <class T>
void moments_push(Second second, const MomentNumbers<T>& numbers, int64_t count, const MomentArrays<T>* tensors,
                  int threads) {
  OPTL_DISPATCH(moments_push, second, numbers, count, tensors, threads);
}

template void qp_solve(const QpSizes&, const QpProblem<float>&, double, int64_t, const QpResult<float>&, double*, int);
template void qp_solve(const QpSizes&, const QpProblem<double>&, double, int64_t, const QpResult<double>&, double*,
                       int);
template void qp_kkt(const QpSizes&, const QpKkt<float>&, const QpKktResult<float>&, double*, int);
template void qp_kkt(const QpSizes&, const QpKkt<double>&, const QpKktResult<double>&, double*, int);
template void qp_backward(const QpSizes&, const QpBackward<float>&, const QpBackwardResult<float>&, double*, int);
template void qp_backward(const QpSizes&, const QpBackward<double>&, const QpBackwardResult<double>&, double*, int);
template void simplex(const RowSizes&, Batched<const float>, Batched<const float>, Batched<float>, Batched<bool>, int);
template void simplex_backward(const RowSizes&, Batched<const bool>, Batched<const float>, Batched<float>, Batched<float>, int);
template void entmax15(const RowSizes&, Batched<const float>, Batched<float>, int);
template void simplex(const RowSizes&, Batched<const double>, Batched<const double>, Batched<double>, Batched<bool>, int);
template void simplex_backward(const RowSizes&, Batched<const bool>, Batched<const double>, Batched<double>, Batched<double>, int);
template void entmax15(const RowSizes&, Batched<const double>, Batched<double>, int);

template void moments_step(Second, const MomentNumbers<float>&, int64_t, const MomentArrays<float>*, bool, int);
template void moments_pull(Second, const MomentNumbers<float>&, int64_t, const MomentArrays<float>*, int);
template void moments_push(Second, const MomentNumbers<float>&, int64_t, const MomentArrays<float>*, int);
template void moments_step(Second, const MomentNumbers<double>&, int64_t, const MomentArrays<double>*, bool, int);
template void moments_pull(Second, const MomentNumbers<double>&, int64_t, const MomentArrays<double>*, int);
template void moments_push(Second, const MomentNumbers<double>&, int64_t, const MomentArrays<double>*, int);

}  // namespace optl
