// Points of cone programs refined, their linear systems solved, their cotangents pulled back: a lane a program, or one.
#include <algorithm>

#include "cpu/cone_point.h"
#include "cpu/cone_kkt.h"

namespace optl::OPTL_ISA::kkt {

namespace {

/// Doubles of L for all lanes above which they do not fit a cache, and one program at a time is faster.
constexpr int64_t kLaneValues = 1 << 18;

#ifdef OPTL_LANES
constexpr int kGroup = kWidth;
#else
constexpr int kGroup = 1;
#endif

/// Programs that are worked on together.
int64_t group_size(const ConeKktPlan& plan, int64_t batch) {
  return batch > 1 && ldl_values(plan.ldl) * kGroup <= kLaneValues ? kGroup : 1;
}

/// `count` samples from `first` as values of V; lanes beyond them are like the first.
template <class V>
const V* gather(const Batched<const double>& from, int64_t first, int count, int64_t size, V* to) {
  if constexpr (kProblems<V> == 1) {
    (void)count, (void)size, (void)to;
    return from[first];
  } else {
    for (int l = 0; l < kProblems<V>; ++l) {
      const double* source = from[first + (l < count ? l : 0)];
      double* const target = reinterpret_cast<double*>(to) + l;
      for (int64_t i = 0; i < size; ++i) target[i * kProblems<V>] = source[i];
    }
    return to;
  }
}

template <class V>
void scatter(const V* from, int64_t first, int count, int64_t size, const Batched<double>& to) {
  for (int l = 0; l < count; ++l) {
    double* const target = to[first + l];
    const double* const source = reinterpret_cast<const double*>(from) + l;
    for (int64_t i = 0; i < size; ++i) target[i] = source[i * kProblems<V>];
  }
}

/// Room for the data of a group.
template <class V>
struct ConeRoom {
  V *P, *q, *A, *b;
  ConeRoom(const ConeKktPlan& plan, Arena& arena) {
    const auto some = [&](int64_t count) { return take<V>(arena, kProblems<V> == 1 ? 0 : count); };
    P = some(plan.size.P), q = some(plan.size.n), A = some(plan.size.A), b = some(plan.size.m);
  }
};

template <class V>
void refine_group(const ConeKktPlan& plan, const ConeKktProblems& in, const ConeKktPoints& start, const ConeKktRefined& out,
                  int64_t first, int count, double* workspace) {
  Arena arena{workspace};
  ConePoint<V> point(plan, arena);
  const ConeRoom<V> room(plan, arena);
  V* const held[3] = {take<V>(arena, plan.size.n), take<V>(arena, plan.size.m), take<V>(arena, plan.size.m)};
  const auto [n, m] = std::pair{plan.size.n, plan.size.m};
  const ConeValues<V> values{gather(in.P, first, count, plan.size.P, room.P), gather(in.q, first, count, n, room.q),
                             gather(in.A, first, count, plan.size.A, room.A), gather(in.b, first, count, m, room.b)};
  point.refine(count, values, gather(start.x, first, count, n, held[0]), gather(start.s, first, count, m, held[1]),
               gather(start.z, first, count, m, held[2]));
  scatter(point.x(), first, count, n, out.x), scatter(point.v(), first, count, m, out.v);
  scatter<V>(point.w, first, count, m, out.w), scatter<V>(point.s, first, count, m, out.s);
  scatter<V>(point.z, first, count, m, out.z);
  const V residuals[2] = {point.primal(), point.dual()};
  scatter(residuals, first, count, 2, out.residuals);
}

/// The system in (x, v, s, z): that of (CONE-3) in the first two, from which the others follow (CONE-11).
template <class V>
void solve_group(const ConeKktPlan& plan, const ConeKktLinear& in, bool transpose, const ConeKktLinearResult& out, int64_t first,
                 int count, double* workspace) {
  Arena arena{workspace};
  const ConeScratch scratch(plan, arena);
  ConeSystem<V> system(plan, scratch, arena);
  const ConeRoom<V> room(plan, arena);
  const int32_t n = plan.size.n, m = plan.size.m;
  const auto rows = [&](const Batched<const double>& from) { return gather(from, first, count, m, take<V>(arena, m)); };
  const ConeValues<V> values{gather(in.P, first, count, plan.size.P, room.P), nullptr,
                             gather(in.A, first, count, plan.size.A, room.A), nullptr};
  const V *const v = rows(in.v), *const w = rows(in.w), *const r_s = rows(in.r_s), *const r_z = rows(in.r_z);
  const V *const r_v = rows(in.r_v), *const r_x = gather(in.r_x, first, count, n, take<V>(arena, n));
  V *const d_x = take<V>(arena, n), *const d_v = take<V>(arena, m), *const moved = take<V>(arena, m),
    *const right = take<V>(arena, m);

  system.differentiate(count, v);
  system.factor(values, w);
  V error;
  if (transpose) {
    for (int32_t i = 0; i < m; ++i) moved[i] = r_s[i] / w[i] + w[i] * r_z[i];
    system.derivative(moved, right);
    for (int32_t i = 0; i < m; ++i) right[i] += r_v[i] - w[i] * r_z[i];
    error = system.solve(r_x, right, true, d_x, d_v);
    scatter(r_s, first, count, m, out.d_s), scatter(r_z, first, count, m, out.d_z);
  } else {
    error = system.solve(r_x, r_v, false, d_x, d_v);
    system.derivative(d_v, moved);
    for (int32_t i = 0; i < m; ++i) right[i] = r_s[i] + moved[i] / w[i];
    scatter<V>(right, first, count, m, out.d_s);
    for (int32_t i = 0; i < m; ++i) right[i] = r_z[i] + w[i] * (moved[i] - d_v[i]);
    scatter<V>(right, first, count, m, out.d_z);
  }
  scatter<V>(d_x, first, count, n, out.d_x), scatter<V>(d_v, first, count, m, out.d_v);
  scatter<V>(&error, first, count, 1, out.error);
}

/// Doubles that one group of V needs, for either.
template <class V>
int64_t room_for(const ConeKktPlan& plan) {
  Arena arena{nullptr};
  const ConePoint<V> point(plan, arena);
  const ConeRoom<V> room(plan, arena);
  take<V>(arena, 2 * plan.size.n), take<V>(arena, 8 * int64_t{plan.size.m});
  return arena.used + 64 * kProblems<V>;
}

int64_t room_for_group(const ConeKktPlan& plan, int64_t batch) {
#ifdef OPTL_LANES
  if (group_size(plan, batch) > 1) return room_for<Real>(plan);
#endif
  (void)batch;
  return room_for<double>(plan);
}

/// run(first, count, workspace) for every group of samples, dealt out to threads.
template <class Run>
void for_groups(const ConeKktPlan& plan, int64_t batch, double* workspace, int threads, const Run& run) {
  const int64_t group = group_size(plan, batch), groups = (batch + group - 1) / group;
  const int64_t room = room_for_group(plan, batch);
#ifdef _OPENMP
  const int team = static_cast<int>(std::min<int64_t>(threads, groups));
#pragma omp parallel for schedule(dynamic, 1) num_threads(team) if (team > 1)
  for (int64_t g = 0; g < groups; ++g) {
    run(g * group, static_cast<int>(std::min(group, batch - g * group)), workspace + omp_get_thread_num() * room);
  }
#else
  (void)threads;
  for (int64_t g = 0; g < groups; ++g) {
    run(g * group, static_cast<int>(std::min(group, batch - g * group)), workspace + 0 * room);
  }
#endif
}

/// Whether every entry is a number.
bool numbers(const double* v, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += 0 * v[i];
  return sum == 0;
}

}  // namespace

int64_t cone_kkt_workspace(const ConeKktPlan& plan, int64_t batch) { return room_for_group(plan, batch); }

void cone_kkt_refine(const ConeKktPlan& plan, int64_t batch, const ConeKktProblems& in, const ConeKktPoints& start,
                 const ConeKktRefined& out, double* workspace, int threads) {
  for_groups(plan, batch, workspace, threads, [&](int64_t first, int count, double* room) {
#ifdef OPTL_LANES
    if (group_size(plan, batch) > 1) return refine_group<Real>(plan, in, start, out, first, count, room);
#endif
    refine_group<double>(plan, in, start, out, first, count, room);
  });
}

void cone_kkt_solve(const ConeKktPlan& plan, int64_t batch, const ConeKktLinear& in, bool transpose, const ConeKktLinearResult& out,
                double* workspace, int threads) {
  for_groups(plan, batch, workspace, threads, [&](int64_t first, int count, double* room) {
#ifdef OPTL_LANES
    if (group_size(plan, batch) > 1) return solve_group<Real>(plan, in, transpose, out, first, count, room);
#endif
    solve_group<double>(plan, in, transpose, out, first, count, room);
  });
}

int64_t cone_kkt_valid_workspace(const LdlPlan& plan) {
  Arena arena{nullptr};
  for (const int64_t count : {ldl_values(plan), ldl_workspace(plan), int64_t{plan.size.n}, int64_t{plan.size.n} / 2 + 1}) {
    arena.take(count);
  }
  return arena.used;
}

void cone_kkt_valid(const ConeKktPlan& plan, const LdlPlan& of_P, int64_t batch, const ConeKktProblems& in, Batched<bool> valid,
                double* workspace) {
  constexpr double shift = 1e-8, tiny = 1e-30;
  const int32_t n = plan.size.n;
  Arena arena{workspace};
  double *const L = arena.take(ldl_values(of_P)), *const work = arena.take(ldl_workspace(of_P)), *const sign = arena.take(n);
  int32_t* const place = reinterpret_cast<int32_t*>(arena.take(n / 2 + 1));
  std::fill_n(sign, n, 1.0);
  for (int64_t b = 0; b < batch; ++b) {
    bool good = numbers(in.P[b], plan.size.P) && numbers(in.q[b], n) && numbers(in.A[b], plan.size.A) &&
                numbers(in.b[b], plan.size.m);
    const double size = good ? nonzero(largest_of(in.P[b], plan.size.P)) : 1;
    if (good && plan.size.P) {  // positive semidefinite up to rounding: nothing has to be done about a pivot
      std::fill_n(L, of_P.size.values, 0.0);
      for (int32_t e = 0; e < plan.size.P; ++e) {
        L[of_P.slot[e]] += in.P[b][e] / size * (plan.P_row[e] == plan.P_col[e] ? 1 : 0.5);
      }
      for (int32_t j = 0; j < n; ++j) L[of_P.diagonal[j]] += shift;
      ldl_factor(of_P, sign, tiny, L, work, place);
      for (int32_t j = 0; j < n; ++j) good = good && L[of_P.size.values + j] > tiny;
    }
    *valid[b] = good;
  }
}

void cone_kkt_gradients(const ConeKktPlan& plan, int64_t batch, const ConeKktGradients& in, Batched<double> grad_P,
                    Batched<double> grad_A) {
  const auto add = [&](int32_t entries, const Batched<double>& grad, const auto& term) {
    if (!grad.data) return;
    for (int64_t b = 0; b < batch; ++b) {
      double* const to = grad[b];
      for (int32_t e = 0; e < entries; ++e) to[e] = (grad.stride ? 0 : to[e]) - term(b, e);
    }
  };
  add(plan.size.P, grad_P, [&](int64_t b, int32_t e) {
    const int32_t i = plan.P_row[e], j = plan.P_col[e];
    return 0.5 * (in.u[b][i] * in.x[b][j] + in.u[b][j] * in.x[b][i]);
  });
  add(plan.size.A, grad_A, [&](int64_t b, int32_t e) {
    const int32_t i = plan.A_row[e], j = plan.A_col[e];
    return in.z[b][i] * in.u[b][j] + in.t[b][i] * in.x[b][j];
  });
}

}  // namespace optl::OPTL_ISA::kkt
