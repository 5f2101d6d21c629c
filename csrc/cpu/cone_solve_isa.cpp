// The cone program kernel: deals samples out to threads and SIMD lanes, and scales what the lanes find back.
#include <atomic>

#include "cpu/cone_interior_point.h"
#include "cpu/kernels.h"

namespace optl::OPTL_ISA {

namespace {

/// One thread's lanes, and where the next programs wait for a lane to fall free.
template <class V>
class ConeLanes {
 public:
  ConeLanes(const ConePlan& plan, const ConeProblem& in, const ConeResult& out, Arena& arena)
      : lanes_(plan, in.exponents, arena), group_(plan, arena), plan_(plan), in_(in), out_(out),
        x_work_(take<V>(arena, plan.size.n)), row_work_(take<V>(arena, plan.size.m)) {}

  /// Solve samples, drawn in groups from `next`, until none is left.
  void run(std::atomic<int64_t>& next, double eps, int64_t max_steps) {
    lanes_.clear(), group_.clear();
    std::fill_n(running_, kLanesOf<V>, -1);
    for (;;) {
      bool busy = false;
      for (int l = 0; l < kLanesOf<V>; ++l) {
        if (running_[l] >= 0 && !lanes_.running(l)) store(running_[l], l), running_[l] = -1;
        if (running_[l] < 0 && (waiting_ > 0 || fetch(next))) {
          running_[l] = sample_[--waiting_];
          lanes_.enter(l, group_, waiting_);
        }
        busy = busy || running_[l] >= 0;
      }
      if (!busy) return;
      lanes_.step();
      lanes_.check(eps, max_steps);
    }
  }

 private:
  ConeInteriorPoint<V> lanes_;
  ConeData<V> group_;
  const ConePlan& plan_;
  const ConeProblem& in_;
  const ConeResult& out_;
  V *x_work_, *row_work_;
  int64_t sample_[kLanesOf<V>], running_[kLanesOf<V>];  // waiting samples; those in lanes, -1 for none
  int waiting_ = 0;

  bool fetch(std::atomic<int64_t>& next) {
    while (waiting_ == 0) {
      const int64_t first = next.fetch_add(kLanesOf<V>), end = std::min(first + kLanesOf<V>, in_.batch);
      if (first >= end) return false;
      for (int64_t b = first; b < end; ++b) {
        if (group_.load_lane(waiting_, in_.P[b], in_.q[b], in_.A[b], in_.b[b])) {
          sample_[waiting_++] = b;
        } else {
          store_nan(b);
        }
      }
    }
    group_.equilibrate(x_work_, row_work_);
    return true;
  }

  void store(int64_t b, int lane) const {
    const ConeData<V>& data = lanes_.data;
    const ConeIterate<V>& from = lanes_.best;
    const Status status = lanes_.status[lane];
    const bool certificate = status == kPrimalInfeasible || status == kDualInfeasible;
    const double cost = at_lane(data.cost, lane);  // a certificate has b'z or q'x = -kappa in the scaled units
    const double unit = certificate ? cost / at_lane(&from.kappa, lane) : 1 / at_lane(&from.tau, lane);
    const double of_z = unit / cost;
    for (int64_t j = 0; j < plan_.size.n; ++j) {
      out_.x[b][j] = unit * at_lane(data.column + j, lane) * at_lane(from.x + j, lane);
    }
    for (int64_t i = 0; i < plan_.size.m; ++i) {
      const double row = at_lane(data.row + i, lane);
      out_.s[b][i] = unit * at_lane(from.s + i, lane) / row;
      out_.z[b][i] = of_z * row * at_lane(from.z + i, lane);
    }
    *out_.status[b] = status;
    *out_.iterations[b] = lanes_.iterations[lane];
  }

  void store_nan(int64_t b) const {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    std::fill_n(out_.x[b], plan_.size.n, nan);
    std::fill_n(out_.s[b], plan_.size.m, nan), std::fill_n(out_.z[b], plan_.size.m, nan);
    *out_.status[b] = kInvalidInput;
    *out_.iterations[b] = 0;
  }
};

template <class V>
int64_t workspace_of(const ConePlan& plan) {
  Arena arena{nullptr};
  const ConeLanes<V> layout(plan, {}, {}, arena);
  return arena.used;
}

template <class V>
void solve(const ConePlan& plan, const ConeProblem& in, double eps, int64_t max_steps, const ConeResult& out,
           double* workspace, int threads) {
  const int64_t stride = workspace_of<V>(plan), groups = (in.batch + kLanesOf<V> - 1) / kLanesOf<V>;
  std::atomic<int64_t> next{0};
  const auto run = [&](int64_t thread) {
    Arena arena{workspace + thread * stride};
    ConeLanes<V>(plan, in, out, arena).run(next, eps, max_steps);
  };
#ifdef _OPENMP
  const int team = static_cast<int>(std::min<int64_t>(threads, groups));
#pragma omp parallel num_threads(team) if (team > 1)
  run(omp_get_thread_num());
#else
  (void)threads, (void)groups;
  run(0);
#endif
}

/// Lanes pay from two samples on; a single one runs on plain numbers.
bool in_lanes([[maybe_unused]] int64_t batch) {
#ifdef OPTL_LANES
  return batch > 1;
#else
  return false;
#endif
}

}  // namespace

int64_t cone_workspace(const ConePlan& plan, int64_t batch) {
#ifdef OPTL_LANES
  if (in_lanes(batch)) return workspace_of<Vec>(plan);
#endif
  return workspace_of<double>(plan);
}

void cone_solve(const ConePlan& plan, const ConeProblem& in, double eps, int64_t max_steps, const ConeResult& out,
                double* workspace, int threads) {
#ifdef OPTL_LANES
  if (in_lanes(in.batch)) return solve<Vec>(plan, in, eps, max_steps, out, workspace, threads);
#endif
  solve<double>(plan, in, eps, max_steps, out, workspace, threads);
}

}  // namespace optl::OPTL_ISA
