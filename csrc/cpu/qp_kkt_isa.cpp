// The symmetric system of an active set, one sample a task: equilibrate, factor, refine; and the gradients it leads to.
#include "cpu/kernels.h"
#include "cpu/program.h"

namespace optl::OPTL_ISA {

namespace {

template <class T>
void solve_sample(const QpSizes& sizes, const QpKkt<T>& in, const QpKktResult<T>& out, int64_t b, double* workspace) {
  Arena arena{workspace};
  Program q(sizes, arena);
  ActiveSet system(q, arena);

  q.load(in.Q[b], in.A[b], in.G[b]);
  for (int64_t i = 0; i < q.N; ++i) {
    const bool active = i < q.k                   ? true
                        : i < q.dense             ? in.active_G[b][i - q.k]
                        : i < q.dense + q.lower   ? in.active_lb[b][i - q.dense]
                                                  : in.active_ub[b][i - q.dense - q.lower];
    q.kind[i] = active ? rules::kEquality : rules::kAbsent;
    system.weight[i] = active ? 1 / rules::kDelta : 0;
    if (!active && i < q.dense) std::memset(q.C + i * q.ld, 0, sizeof(double) * static_cast<size_t>(q.ld));
  }
  q.equilibrate();
  for (int64_t j = 0; j < q.ld; ++j) q.p[j] = 0;
  q.scale();

  for (int64_t j = 0; j < q.ld; ++j) system.r_x[j] = j < q.n ? q.cost * q.column[j] * in.r_x[b][j] : 0;
  for (int64_t i = 0; i < q.N; ++i) {
    const T* r = i < q.k                 ? in.r_y[b] + i
                 : i < q.dense           ? in.r_z[b] + (i - q.k)
                 : i < q.dense + q.lower ? in.r_lb[b] + (i - q.dense)
                                         : in.r_ub[b] + (i - q.dense - q.lower);
    system.r_row[i] = q.kind[i] ? q.row[i] * static_cast<double>(*r) : 0;
  }
  const double size = rules::larger(largest(system.r_x, q.n), largest(system.r_row, q.N));
  *out.error[b] = static_cast<T>(rules::divide(system.solve(q), size));
  for (int64_t j = 0; j < q.n; ++j) out.d_x[b][j] = static_cast<T>(q.column[j] * system.dx[j]);
  for (int64_t i = 0; i < q.N; ++i) {
    const T value = static_cast<T>(q.row[i] * system.dual[i] / q.cost);
    (i < q.k                 ? out.d_y[b] + i
     : i < q.dense           ? out.d_z[b] + (i - q.k)
     : i < q.dense + q.lower ? out.d_lb[b] + (i - q.dense)
                             : out.d_ub[b] + (i - q.dense - q.lower))[0] = value;
  }
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

template <class T>
void backward_sample(const QpSizes& sizes, const QpBackward<T>& in, const QpBackwardResult<T>& out, int64_t b,
                     double* workspace) {
  solve_sample(sizes, in.system, out.u, b, workspace);
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
  const int64_t stride = workspace_size(sizes);
  for_samples(sizes, threads, [&](int64_t b, int thread) { solve_sample(sizes, in, out, b, workspace + thread * stride); });
}

template <class T>
void qp_backward(const QpSizes& sizes, const QpBackward<T>& in, const QpBackwardResult<T>& out, double* workspace,
                 int threads) {
  const int64_t stride = workspace_size(sizes);
  for_samples(sizes, threads,
              [&](int64_t b, int thread) { backward_sample(sizes, in, out, b, workspace + thread * stride); });
}

template void qp_kkt(const QpSizes&, const QpKkt<float>&, const QpKktResult<float>&, double*, int);
template void qp_kkt(const QpSizes&, const QpKkt<double>&, const QpKktResult<double>&, double*, int);
template void qp_backward(const QpSizes&, const QpBackward<float>&, const QpBackwardResult<float>&, double*, int);
template void qp_backward(const QpSizes&, const QpBackward<double>&, const QpBackwardResult<double>&, double*, int);

}  // namespace optl::OPTL_ISA
