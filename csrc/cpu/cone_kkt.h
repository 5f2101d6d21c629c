// The kernels of cone_kkt_api.h as each instruction set provides them.
#pragma once

#include "cone_kkt_api.h"
#ifdef _OPENMP
#include <omp.h>
#endif

namespace optl {

#define OPTL_DECLARE_CONE_KKT(isa)                                                                                       \
  namespace isa::kkt {                                                                                                   \
  int64_t cone_kkt_workspace(const ConeKktPlan&, int64_t batch);                                                         \
  void cone_kkt_refine(const ConeKktPlan&, int64_t batch, const ConeKktProblems&, const ConeKktPoints&,                  \
                       const ConeKktRefined&, double*, int threads);                                                     \
  void cone_kkt_solve(const ConeKktPlan&, int64_t batch, const ConeKktLinear&, bool transpose,                           \
                      const ConeKktLinearResult&, double*, int threads);                                                 \
  void cone_kkt_gradients(const ConeKktPlan&, int64_t batch, const ConeKktGradients&, Batched<double>, Batched<double>); \
  int64_t cone_kkt_valid_workspace(const LdlPlan&);                                                                      \
  void cone_kkt_valid(const ConeKktPlan&, const LdlPlan&, int64_t batch, const ConeKktProblems&, Batched<bool>, double*); \
  }

OPTL_DECLARE_CONE_KKT(portable)
#ifdef OPTL_DISPATCH_AVX2
OPTL_DECLARE_CONE_KKT(avx2)
#endif
#ifdef OPTL_DISPATCH_AVX512
OPTL_DECLARE_CONE_KKT(avx512)
#endif

}  // namespace optl
