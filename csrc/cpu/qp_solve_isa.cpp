// The quadratic program kernel, one sample a task: check, equilibrate, iterate, and scale the answer back.
#include "cpu/interior_point.h"
#include "cpu/kernels.h"
#include "cpu/lane_batch.h"

namespace optl::OPTL_ISA {

namespace {

/// Every entry above -inf (sign 1) or below inf (sign -1); false for NaN.
template <class T>
bool bounded(const T* v, int64_t count, T sign) {
  for (int64_t i = 0; i < count; ++i) {
    if (!(sign * v[i] > -std::numeric_limits<T>::infinity())) return false;
  }
  return true;
}

template <class T>
bool numbers(const QpSizes& z, const QpProblem<T>& in, int64_t b) {
  bool good = finite(in.Q[b], z.n * z.n) && finite(in.p[b], z.n) && finite(in.G[b], z.m * z.n) &&
              finite(in.A[b], z.k * z.n) && finite(in.b[b], z.k) && bounded<T>(in.h[b], z.m, 1) &&
              bounded<T>(in.lb[b], z.lower, -1) && bounded<T>(in.ub[b], z.upper, 1);
  for (int64_t j = 0; j < std::min(z.lower, z.upper); ++j) good = good && in.lb[b][j] <= in.ub[b][j];
  return good;
}

/// Right-hand sides and the kind of each row.
template <class T>
void load_right_hand_sides(const QpSizes& z, const QpProblem<T>& in, int64_t b, Program& q) {
  const auto set = [&q](int64_t i, double value, Kind kind) {
    q.kind[i] = std::isfinite(value) ? kind : rules::kAbsent;
    q.c[i] = q.kind[i] ? q.row[i] * value : 0;
  };
  for (int64_t i = 0; i < z.k; ++i) set(i, in.b[b][i], rules::kEquality);
  for (int64_t i = 0; i < z.m; ++i) set(z.k + i, in.h[b][i], rules::kInequality);
  for (int64_t j = 0; j < z.lower; ++j) set(q.dense + j, -in.lb[b][j], rules::kInequality);
  for (int64_t j = 0; j < z.upper; ++j) {  // a fixed variable is the equality at its upper bound
    const bool fixed = z.lower && in.lb[b][j] == in.ub[b][j];
    set(q.dense + z.lower + j, in.ub[b][j], fixed ? rules::kEquality : rules::kInequality);
    if (fixed) set(q.dense + j, std::numeric_limits<double>::infinity(), rules::kAbsent);
  }
}

template <class T>
void store_nan(const QpSizes& z, const QpResult<T>& out, int64_t b) {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  std::fill_n(out.x[b], z.n, nan), std::fill_n(out.y[b], z.k, nan), std::fill_n(out.z[b], z.m, nan);
  std::fill_n(out.z_lb[b], z.lower, nan), std::fill_n(out.z_ub[b], z.upper, nan), std::fill_n(out.s[b], z.m, nan);
  std::fill_n(out.active_G[b], z.m, false), std::fill_n(out.active_lb[b], z.lower, false);
  std::fill_n(out.active_ub[b], z.upper, false), std::fill_n(out.residuals[b], 3, nan);
}

template <class T>
void store(const QpSizes& z, const InteriorPoint& run, Status status, const QpResult<T>& out, int64_t b) {
  const Program& q = run.q;
  const double* x = status == kDualInfeasible ? run.ray_x : run.it.x;
  const double* dual = status == kPrimalInfeasible ? run.proof : run.it.dual;
  double x_unit = 1, dual_unit = 1 / q.cost;  // certificates are brought to max-norm one instead
  if (status == kDualInfeasible) {
    double most = 0;
    for (int64_t j = 0; j < q.n; ++j) most = rules::most(most, std::fabs(q.column[j] * x[j]));
    x_unit = 1 / most;
  }
  if (status == kPrimalInfeasible) {
    double most = 0;
    for (int64_t i = 0; i < q.N; ++i) most = rules::most(most, std::fabs(q.row[i] * dual[i]));
    dual_unit = 1 / most;
  }
  const auto multiplier = [&](int64_t i) { return dual_unit * q.row[i] * dual[i]; };
  // Inequalities that hold with equality and push; weakly active ones, z = s = 0, count as inactive (IPM-16).
  const double weak = rules::kWeak * (1 + largest(run.it.dual, q.N));
  const auto active = [&](int64_t i) {
    return run.is_inequality(i) && run.it.dual[i] > rules::most(run.it.s[i], weak);
  };
  for (int64_t j = 0; j < z.n; ++j) out.x[b][j] = static_cast<T>(x_unit * q.column[j] * x[j]);
  for (int64_t i = 0; i < z.k; ++i) out.y[b][i] = static_cast<T>(multiplier(i));
  for (int64_t i = 0; i < z.m; ++i) {
    const int64_t r = z.k + i;
    out.z[b][i] = static_cast<T>(multiplier(r));
    out.s[b][i] = static_cast<T>(q.kind[r] ? run.it.s[r] / q.row[r] : std::numeric_limits<double>::infinity());
    out.active_G[b][i] = active(r);
  }
  for (int64_t j = 0; j < z.lower; ++j) {
    out.z_lb[b][j] = static_cast<T>(multiplier(q.dense + j));
    out.active_lb[b][j] = active(q.dense + j);
  }
  for (int64_t j = 0; j < z.upper; ++j) {
    const int64_t r = q.dense + z.lower + j;
    const double v = multiplier(r);
    out.z_ub[b][j] = static_cast<T>(v);
    out.active_ub[b][j] = active(r);
    if (!run.is_equality(r)) continue;  // a fixed variable: its multiplier goes by its sign to one of the two bounds
    out.z_ub[b][j] = static_cast<T>(rules::most(v, 0)), out.z_lb[b][j] = static_cast<T>(rules::most(-v, 0));
    out.active_ub[b][j] = run.it.dual[r] >= 0, out.active_lb[b][j] = run.it.dual[r] < 0;
  }
  out.residuals[b][0] = static_cast<T>(run.norms.primal);
  out.residuals[b][1] = static_cast<T>(run.norms.dual);
  out.residuals[b][2] = static_cast<T>(run.norms.gap);
}

template <class T>
void solve_sample(const QpSizes& sizes, const QpProblem<T>& in, double eps, int64_t max_steps, const QpResult<T>& out,
                  int64_t b, double* workspace, int threads) {
  Arena arena{workspace};
  InteriorPoint run(sizes, arena);
  Program& q = run.q;
  q.threads = threads;
  Status status = kInvalidInput;
  if (numbers(sizes, in, b)) {
    q.load(in.Q[b], in.A[b], in.G[b]);
    if (q.convex(std::numeric_limits<T>::epsilon(), run.factor)) {
      q.equilibrate();
      q.load_rows(in.p[b], 1, q.p);
      q.scale();
      load_right_hand_sides(sizes, in, b, q);
      status = run.run(eps, max_steps, sizeof(T) == sizeof(float));
    }
  }
  *out.status[b] = status;
  *out.iterations[b] = run.iterations;
  if (status == kInvalidInput || status == kNumericalError) {
    store_nan(sizes, out, b);
  } else {
    store(sizes, run, status, out, b);
  }
}

#ifdef OPTL_LANES
/// Samples as run_lanes wants them. What a lane has found is stored through the one-sample layout.
template <class T>
struct LaneSource {
  const QpSizes& sizes;
  const QpProblem<T>& in;
  const QpResult<T>& out;
  double eps;
  int64_t max_steps;
  InteriorPoint& one;
  double* workspace;  // that of `one`

  bool load(int64_t b, Program& q) const {
    if (!numbers(sizes, in, b)) return false;
    q.load(in.Q[b], in.A[b], in.G[b]);
    q.load_rows(in.p[b], 1, q.p);
    std::fill_n(q.row, q.N, 1.0);
    load_right_hand_sides(sizes, in, b, q);
    return true;
  }

  void alone(int64_t b) const { solve_sample(sizes, in, eps, max_steps, out, b, workspace, 1); }

  void finish(int64_t b, const LaneInteriorPoint& lanes, int lane) const {
    const LaneProgram& from = lanes.q;
    for (int64_t j = 0; j < from.n; ++j) one.q.column[j] = from.column[j][lane], one.it.x[j] = from.it.x[j][lane];
    for (int64_t i = 0; i < from.N; ++i) {
      one.q.row[i] = from.row[i][lane], one.it.dual[i] = from.it.dual[i][lane], one.it.s[i] = from.it.s[i][lane];
      one.q.kind[i] = from.inequality[i][lane] ? rules::kInequality
                      : from.equality[i][lane] ? rules::kEquality
                                               : rules::kAbsent;
    }
    one.q.cost = from.cost[0][lane];
    one.norms = {lanes.norms.primal[lane], lanes.norms.dual[lane], lanes.norms.gap[lane]};
    *out.status[b] = kSolved;
    *out.iterations[b] = lanes.iterations[lane];
    store(sizes, one, kSolved, out, b);
  }
};
#endif

}  // namespace

int64_t workspace_size(const QpSizes& sizes) {
  Arena arena{nullptr};
  InteriorPoint layout(sizes, arena);  // what qp_kkt needs is a part of it
#ifdef OPTL_LANES
  if (use_lanes(sizes)) {
    LaneInteriorPoint lanes(sizes, arena);
    LaneProgram group(sizes, arena);
  }
#endif
  return arena.used;
}

template <class T>
void qp_solve(const QpSizes& sizes, const QpProblem<T>& in, double eps, int64_t max_steps, const QpResult<T>& out,
              double* workspace, int threads) {
  const int64_t stride = workspace_size(sizes);
#ifdef OPTL_LANES
  if (use_lanes(sizes)) {
    std::atomic<int64_t> next{0};
    for_threads(sizes, threads, [&](int thread) {
      double* mine = workspace + thread * stride;
      Arena arena{mine};
      InteriorPoint one(sizes, arena);
      const LaneSource<T> source{sizes, in, out, eps, max_steps, one, mine};
      run_lanes(sizes, std::numeric_limits<T>::epsilon(), eps, max_steps, next, one.q, arena, source);
    });
    return;
  }
#endif
  for_samples(sizes, threads, [&](int64_t b, int thread) {
    solve_sample(sizes, in, eps, max_steps, out, b, workspace + thread * stride, threads_a_sample(sizes, threads));
  });
}

template void qp_solve(const QpSizes&, const QpProblem<float>&, double, int64_t, const QpResult<float>&, double*, int);
template void qp_solve(const QpSizes&, const QpProblem<double>&, double, int64_t, const QpResult<double>&, double*,
                       int);

}  // namespace optl::OPTL_ISA
