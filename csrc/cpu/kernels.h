// The kernels as each instruction set provides them, for the dispatcher, and the loop over samples they share.
#pragma once

#include "api.h"
#ifdef OPTL_ISA
#include "cpu/team.h"
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

namespace optl {

/// What benchmarks/accelerators.py switches off to time its worth, by names in the environment variable
/// OPTLAYERS_WITHOUT ("crossover floats refill"), which is read once.
enum class Accelerator { kCrossover, kFloats, kRefill };
bool uses(Accelerator accelerator);

#define OPTL_DECLARE_KERNELS(isa)                                                                                \
  namespace isa {                                                                                                \
  int64_t workspace_size(const QpSizes& sizes);                                                                  \
  template <class T>                                                                                             \
  void qp_solve(const QpSizes&, const QpProblem<T>&, double eps, int64_t max_steps, const QpResult<T>&, double*, \
                int threads);                                                                                    \
  template <class T>                                                                                             \
  void qp_kkt(const QpSizes&, const QpKkt<T>&, const QpKktResult<T>&, double*, int threads);                     \
  template <class T>                                                                                             \
  void qp_backward(const QpSizes&, const QpBackward<T>&, const QpBackwardResult<T>&, double*, int threads);      \
  template <class T>                                                                                            \
  void simplex(const RowSizes&, Batched<const T> x, Batched<const T> radius, Batched<T> point, Batched<bool>,   \
               int threads);                                                                                    \
  template <class T>                                                                                            \
  void simplex_backward(const RowSizes&, Batched<const bool>, Batched<const T>, Batched<T>, Batched<T>, int);   \
  template <class T>                                                                                            \
  void entmax15(const RowSizes&, Batched<const T> x, Batched<T> p, int threads);                                \
  int64_t cone_workspace(const ConePlan&, int64_t batch);                                                       \
  void cone_solve(const ConePlan&, const ConeProblem&, double eps, int64_t max_steps, const ConeResult&, double*, \
                  int threads);                                                                                 \
  template <class T>                                                                                            \
  void moments_step(Second, const MomentNumbers<T>&, int64_t count, const MomentArrays<T>*, bool apply, int);   \
  template <class T>                                                                                            \
  void moments_pull(Second, const MomentNumbers<T>&, int64_t count, const MomentArrays<T>*, int threads);       \
  template <class T>                                                                                            \
  void moments_push(Second, const MomentNumbers<T>&, int64_t count, const MomentArrays<T>*, int threads);       \
  }

OPTL_DECLARE_KERNELS(portable)
#ifdef OPTL_DISPATCH_AVX2
OPTL_DECLARE_KERNELS(avx2)
#endif
#ifdef OPTL_DISPATCH_AVX512
OPTL_DECLARE_KERNELS(avx512)
#endif

#ifdef OPTL_ISA
namespace OPTL_ISA {

/// Whether a batch is worth a team of threads: starting one costs a few microseconds.
inline bool worth_threads(const QpSizes& sizes, int threads) {
  const double work = static_cast<double>(sizes.batch) * static_cast<double>(sizes.n * sizes.n) *
                      static_cast<double>(sizes.n + sizes.k + sizes.m);
  return threads > 1 && sizes.batch > 1 && work > 2e3;
}

/// Threads that share one sample: all of them where most would have no sample of their own.
inline int threads_a_sample(const QpSizes& sizes, int threads) {
  return 2 * sizes.batch <= threads && sizes.n >= kTeamSize ? threads : 1;
}

/// Threads among which the samples are dealt out.
inline int threads_for_samples(const QpSizes& sizes, int threads) {
  if (!worth_threads(sizes, threads) || threads_a_sample(sizes, threads) > 1) return 1;
  return sizes.batch < threads ? static_cast<int>(sizes.batch) : threads;
}

/// run(sample, thread) for every sample.
template <class Run>
void for_samples(const QpSizes& sizes, int threads, const Run& run) {
#ifdef _OPENMP
  const int team = threads_for_samples(sizes, threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(team) if (team > 1)
  for (int64_t b = 0; b < sizes.batch; ++b) run(b, omp_get_thread_num());
#else
  (void)threads;
  for (int64_t b = 0; b < sizes.batch; ++b) run(b, 0);
#endif
}

/// run(thread) once on every thread.
template <class Run>
void for_threads(const QpSizes& sizes, int threads, const Run& run) {
#ifdef _OPENMP
  const int team = threads_for_samples(sizes, threads);
#pragma omp parallel num_threads(team) if (team > 1)
  run(omp_get_thread_num());
#else
  (void)sizes, (void)threads;
  run(0);
#endif
}

}  // namespace OPTL_ISA
#endif

}  // namespace optl
