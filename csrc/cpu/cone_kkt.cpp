// Chooses the build of the kernels of cone_kkt_api.h.
#include "cpu/cone_kkt.h"

#include "cpu/dispatch.h"

namespace optl {

int64_t cone_kkt_workspace(const ConeKktPlan& plan, int64_t batch) { OPTL_DISPATCH(kkt::cone_kkt_workspace, plan, batch); }

void cone_kkt_refine(const ConeKktPlan& plan, int64_t batch, const ConeKktProblems& problems, const ConeKktPoints& start,
                     const ConeKktRefined& result, double* workspace, int threads) {
  OPTL_DISPATCH(kkt::cone_kkt_refine, plan, batch, problems, start, result, workspace, threads);
}

void cone_kkt_solve(const ConeKktPlan& plan, int64_t batch, const ConeKktLinear& system, bool transpose,
                    const ConeKktLinearResult& result, double* workspace, int threads) {
  OPTL_DISPATCH(kkt::cone_kkt_solve, plan, batch, system, transpose, result, workspace, threads);
}

void cone_kkt_gradients(const ConeKktPlan& plan, int64_t batch, const ConeKktGradients& at, Batched<double> grad_P,
                        Batched<double> grad_A) {
  OPTL_DISPATCH(kkt::cone_kkt_gradients, plan, batch, at, grad_P, grad_A);
}

int64_t cone_kkt_valid_workspace(const LdlPlan& of_P) { OPTL_DISPATCH(kkt::cone_kkt_valid_workspace, of_P); }

void cone_kkt_valid(const ConeKktPlan& plan, const LdlPlan& of_P, int64_t batch, const ConeKktProblems& problems,
                    Batched<bool> valid, double* workspace) {
  OPTL_DISPATCH(kkt::cone_kkt_valid, plan, of_P, batch, problems, valid, workspace);
}

}  // namespace optl
