// The symmetric systems of active sets, and the gradients they lead to.
#include <algorithm>
#include <atomic>

#include "cpu/kernels.h"
#include "cpu/lane_active_set.h"
#include "cpu/program.h"

namespace optl::OPTL_ISA {

namespace {

/// The part of five parallel arrays, for the variables and each kind of row, that row i lies in.
template <class T>
T& at_row(const QpSizes& z, int64_t i, T* y, T* G, T* lb, T* ub) {
  if (i < z.k) return y[i];
  if ((i -= z.k) < z.m) return G[i];
  if ((i -= z.m) < z.lower) return lb[i];
  return ub[i - z.lower];
}

/// Matrices and right-hand sides as the user gave them; inactive rows are absent and zero.
template <class T>
void load_system(const QpSizes& z, const QpKkt<T>& in, int64_t b, Program& q, double* r_x, double* r_row) {
  q.load(in.Q[b], in.A[b], in.G[b]);
  for (int64_t j = 0; j < q.ld; ++j) q.p[j] = 0, r_x[j] = j < q.n ? static_cast<double>(in.r_x[b][j]) : 0;
  for (int64_t i = 0; i < q.N; ++i) {
    const bool active = i < q.k || at_row<const bool>(z, i, nullptr, in.active_G[b], in.active_lb[b], in.active_ub[b]);
    q.kind[i] = active ? rules::kEquality : rules::kAbsent;
    const T r = at_row<const T>(z, i, in.r_y[b], in.r_z[b], in.r_lb[b], in.r_ub[b]);
    r_row[i] = active ? static_cast<double>(r) : 0;
    q.c[i] = 0;
    if (!active && i < q.dense) std::memset(q.C + i * q.ld, 0, sizeof(double) * static_cast<size_t>(q.ld));
  }
}

/// One sample in the one-problem layout, of which the inactive rows of G are left out.
template <class T>
void solve_sample(const QpSizes& sizes, const QpKkt<T>& in, const QpKktResult<T>& out, int64_t b, double* workspace,
                  int threads) {
  const bool* active = in.active_G[b];
  QpSizes packed = sizes;
  packed.m = std::count(active, active + sizes.m, true);
  Arena arena{workspace};
  Program q(packed, arena);
  q.threads = threads;
  ActiveSet system(q, arena);
  q.load_symmetric(in.Q[b]);
  q.load_rows(in.A[b], q.k, q.C);
  int64_t row = 0;
  const auto set = [&](int64_t i, bool present, T r) {
    q.kind[i] = present ? rules::kEquality : rules::kAbsent;
    system.r_row[i] = present ? static_cast<double>(r) : 0;
    q.c[i] = 0;
  };
  for (; row < q.k; ++row) set(row, true, in.r_y[b][row]);
  for (int64_t i = 0; i < sizes.m; ++i) {
    if (!active[i]) continue;
    q.load_rows(in.G[b] + i * q.n, 1, q.C + row * q.ld);
    set(row++, true, in.r_z[b][i]);
  }
  for (int64_t j = 0; j < q.lower; ++j) set(row++, in.active_lb[b][j], in.r_lb[b][j]);
  for (int64_t j = 0; j < q.upper; ++j) set(row++, in.active_ub[b][j], in.r_ub[b][j]);
  for (int64_t j = 0; j < q.ld; ++j) q.p[j] = 0, system.r_x[j] = j < q.n ? static_cast<double>(in.r_x[b][j]) : 0;
  q.equilibrate();
  q.scale();
  for (int64_t j = 0; j < q.n; ++j) system.r_x[j] *= q.cost * q.column[j];
  for (int64_t i = 0; i < q.N; ++i) {
    if (q.kind[i]) system.r_row[i] *= q.row[i];
  }
  const double size = rules::larger(largest(system.r_x, q.n), largest(system.r_row, q.N));
  const auto solve = [&](bool quick) {
    system.quick = quick;
    for (int64_t i = 0; i < q.N; ++i) system.weight[i] = q.kind[i] ? system.full() : 0;
    return rules::divide(system.solve(q), size);
  };
  const bool rounded = sizeof(T) == sizeof(float) && q.n >= rules::kQuickSize && uses(Accelerator::kFloats);
  double error = solve(rounded);
  if (rounded && !(error <= rules::kQuickPolished)) error = solve(false);
  *out.error[b] = static_cast<T>(error);
  for (int64_t j = 0; j < q.n; ++j) out.d_x[b][j] = static_cast<T>(q.column[j] * system.dx[j]);
  const auto multiplier = [&](int64_t i) { return static_cast<T>(q.row[i] * system.dual[i] / q.cost); };
  for (row = 0; row < q.k; ++row) out.d_y[b][row] = multiplier(row);
  for (int64_t i = 0; i < sizes.m; ++i) out.d_z[b][i] = active[i] ? multiplier(row++) : 0;
  for (int64_t j = 0; j < q.lower; ++j) out.d_lb[b][j] = multiplier(row++);
  for (int64_t j = 0; j < q.upper; ++j) out.d_ub[b][j] = multiplier(row++);
}

#ifdef OPTL_LANES
/// The samples first .. first + count - 1, one in each lane.
template <class T>
void solve_group(const QpSizes& sizes, const QpKkt<T>& in, const QpKktResult<T>& out, int64_t first, int count,
                 double* workspace) {
  Arena arena{workspace};
  Program reader(sizes, arena);
  double *r_x = arena.take(reader.ld), *r_row = arena.take(reader.N);
  LaneActiveSet system(sizes, arena);
  const LaneProgram& q = system.q;
  for (int l = 0; l < count; ++l) {
    load_system(sizes, in, first + l, reader, r_x, r_row);
    q.load_lane(l, reader);
    for (int64_t j = 0; j < q.n; ++j) system.r_x[j][l] = r_x[j];
    for (int64_t i = 0; i < q.N; ++i) system.r_row[i][l] = r_row[i];
  }
  const Mask factored = system.solve();
  for (int l = 0; l < count; ++l) {
    const int64_t b = first + l;
    *out.error[b] = static_cast<T>(system.error[l]);
    for (int64_t j = 0; j < q.n; ++j) out.d_x[b][j] = static_cast<T>(q.column[j][l] * system.dx[j][l]);
    for (int64_t i = 0; i < q.N; ++i) {
      at_row(sizes, i, out.d_y[b], out.d_z[b], out.d_lb[b], out.d_ub[b]) =
          static_cast<T>(q.row[i][l] * system.dual[i][l] / q.cost[0][l]);
    }
  }
  for (int l = 0; l < count; ++l) {  // a rho that rounding swallows is raised there
    if (!factored[l]) solve_sample(sizes, in, out, first + l, workspace, 1);
  }
}
#endif

/// Solve every sample, in groups if lanes are used, and call done(b).
template <class T, class Done>
void solve_all(const QpSizes& sizes, const QpKkt<T>& in, const QpKktResult<T>& out, double* workspace, int threads,
               const Done& done) {
  const int64_t stride = workspace_size(sizes);
#ifdef OPTL_LANES
  if (use_lanes(sizes)) {
    std::atomic<int64_t> next{0};
    for_threads(sizes, threads, [&](int thread) {
      for (int64_t first; (first = next.fetch_add(kWidth)) < sizes.batch;) {
        const int64_t end = first + kWidth < sizes.batch ? first + kWidth : sizes.batch;
        solve_group(sizes, in, out, first, static_cast<int>(end - first), workspace + thread * stride);
        for (int64_t b = first; b < end; ++b) done(b);
      }
    });
    return;
  }
#endif
  for_samples(sizes, threads, [&](int64_t b, int thread) {
    solve_sample(sizes, in, out, b, workspace + thread * stride, threads_a_sample(sizes, threads));
    done(b);
  });
}

/// out = -(left right' + second_left second_right'), rows x columns.
template <class T>
void outer(const T* left, const T* right, const T* second_left, const T* second_right, int64_t rows, int64_t columns,
           T* out) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      out[i * columns + j] = -(left[i] * right[j] + second_left[i] * second_right[j]);
    }
  }
}

/// (IPM-21)
template <class T>
void form_gradients(const QpSizes& sizes, const QpBackward<T>& in, const QpBackwardResult<T>& out, int64_t b) {
  const int64_t n = sizes.n;
  const T *u_x = out.u.d_x[b], *x = in.x[b];
  if (out.grad_G.data) outer(in.z[b], u_x, out.u.d_z[b], x, sizes.m, n, out.grad_G[b]);
  if (out.grad_A.data) outer(in.y[b], u_x, out.u.d_y[b], x, sizes.k, n, out.grad_A[b]);
  if (!out.grad_Q.data) return;
  for (int64_t i = 0; i < n; ++i) {
    const T half_u = u_x[i] / 2, half_x = x[i] / 2;
    for (int64_t j = 0; j < n; ++j) out.grad_Q[b][i * n + j] = -(half_u * x[j] + half_x * u_x[j]);
  }
}

}  // namespace

template <class T>
void qp_kkt(const QpSizes& sizes, const QpKkt<T>& in, const QpKktResult<T>& out, double* workspace, int threads) {
  solve_all(sizes, in, out, workspace, threads, [](int64_t) {});
}

template <class T>
void qp_backward(const QpSizes& sizes, const QpBackward<T>& in, const QpBackwardResult<T>& out, double* workspace,
                 int threads) {
  solve_all(sizes, in.system, out.u, workspace, threads, [&](int64_t b) { form_gradients(sizes, in, out, b); });
}

template void qp_kkt(const QpSizes&, const QpKkt<float>&, const QpKktResult<float>&, double*, int);
template void qp_kkt(const QpSizes&, const QpKkt<double>&, const QpKktResult<double>&, double*, int);
template void qp_backward(const QpSizes&, const QpBackward<float>&, const QpBackwardResult<float>&, double*, int);
template void qp_backward(const QpSizes&, const QpBackward<double>&, const QpBackwardResult<double>&, double*, int);

}  // namespace optl::OPTL_ISA
