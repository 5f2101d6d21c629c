// A batch of active-set systems and the gradients they lead to, each taken by the next free block.
#pragma once

#include "cuda/qp_active_set.h"

namespace optl::cuda {

/// The arrays that a block works in.
template <class Block>
struct SystemSpace {
  Program<Block> q;
  Factor<Block> factor;
  ActiveSet<Block> system;
  double *spare_x, *spare_row;

  OPTL_HD SystemSpace(const QpSizes& sizes, Block* block, int threads, Places& places)
      : q(sizes, block, threads, places), factor(q, places), system(q, factor, places), spare_x(nullptr),
        spare_row(nullptr) {
    factor.place_matrices(places);
    q.place_matrices(places);
    spare_x = places.take(q.n), spare_row = places.take(q.N);
  }
};

template <class T, class Block>
class QpSystems {
 public:
  OPTL_DEVICE QpSystems(const QpKkt<T>& in, const QpKktResult<T>& out, SystemSpace<Block>& space)
      : in_(in), out_(out), space_(space), q(space.q), system(space.system) {}

  /// A singular system gets its least-squares solution of least norm, data that are not finite NaN.
  OPTL_DEVICE void solve(int64_t b, double tolerance) {
    load(b);
    const double size = system.size();
    double error = rules::divide(system.start() ? system.refine() : std::numeric_limits<double>::infinity(), size);
    if (!(error <= tolerance) && std::isfinite(error)) {
      error = rules::divide(system.least_squares(space_.spare_x, space_.spare_row), size);
    }
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const double unit = std::isfinite(error) && finite(b) ? 1 : nan;  // of the answer
    q.block->sync();
    if (q.block->thread() == 0) *out_.error[b] = static_cast<T>(unit * error);
    q.each(q.n, [&](int j) { out_.d_x[b][j] = static_cast<T>(unit * q.column[j] * system.dx[j]); });
    const auto store = [&](T* to, int count, int from) {
      q.each(count, [&](int i) { to[i] = static_cast<T>(unit * q.row[from + i] * system.dual[from + i] / q.cost); });
    };
    store(out_.d_y[b], q.k, 0), store(out_.d_z[b], q.m, q.k);
    store(out_.d_lb[b], q.lower, q.dense), store(out_.d_ub[b], q.upper, q.dense + q.lower);
    q.block->sync();
  }

  /// (IPM-21)
  OPTL_DEVICE void form_gradients(int64_t b, const QpBackward<T>& at, const QpBackwardResult<T>& out) const {
    const T *u_x = out.u.d_x[b], *x = at.x[b];
    if (out.grad_G.data) outer(at.z[b], out.u.d_z[b], u_x, x, q.m, out.grad_G[b]);
    if (out.grad_A.data) outer(at.y[b], out.u.d_y[b], u_x, x, q.k, out.grad_A[b]);
    if (!out.grad_Q.data) return;
    q.each_row(q.n, [&](int i, int first, int width) {
      if (i >= q.n) return;
      const T half_u = u_x[i] / 2, half_x = x[i] / 2;
      for (int j = first; j < q.n; j += width) out.grad_Q[b][i * q.n + j] = -(half_u * x[j] + half_x * u_x[j]);
    });
  }

 private:
  const QpKkt<T>& in_;
  const QpKktResult<T>& out_;
  SystemSpace<Block>& space_;
  Program<Block>& q;
  ActiveSet<Block>& system;

  /// Inactive rows are absent and zero; the program is equilibrated without them.
  OPTL_DEVICE void load(int64_t b) {
    q.load_symmetric(in_.Q[b]);
    q.load_rows(in_.A[b], q.k, 0, nullptr);
    q.load_rows(in_.G[b], q.m, q.k, in_.active_G[b]);
    const auto set = [&](int i, bool active, T r) {
      q.kind[i] = active ? rules::kEquality : rules::kAbsent;
      system.r_row[i] = active ? static_cast<double>(r) : 0;
      system.weight[i] = active ? 1 / rules::kDelta : 0;
      q.c[i] = 0;
    };
    const int low = q.dense, high = q.dense + q.lower;
    q.each(q.k, [&](int i) { set(i, true, in_.r_y[b][i]); });
    q.each(q.m, [&](int i) { set(q.k + i, in_.active_G[b][i], in_.r_z[b][i]); });
    q.each(q.lower, [&](int j) { set(low + j, in_.active_lb[b][j], in_.r_lb[b][j]); });
    q.each(q.upper, [&](int j) { set(high + j, in_.active_ub[b][j], in_.r_ub[b][j]); });
    q.each(q.n, [&](int j) { q.p[j] = 0; });
    q.block->sync();
    q.equilibrate();
    q.scale();
    q.each(q.n, [&](int j) { system.r_x[j] = q.cost * q.column[j] * static_cast<double>(in_.r_x[b][j]); });
    q.each(q.N, [&](int i) { system.r_row[i] *= q.kind[i] ? q.row[i] : 0; });
    q.block->sync();
  }

  /// Whether the data that count are numbers.
  OPTL_DEVICE bool finite(int64_t b) const {
    return q.all(q.n * q.n, [&](int i) { return std::isfinite(in_.Q[b][i]); }) &&
           q.all(q.k * q.n, [&](int i) { return std::isfinite(in_.A[b][i]); }) &&
           q.all(q.m * q.n, [&](int i) { return !in_.active_G[b][i / q.n] || std::isfinite(in_.G[b][i]); }) &&
           q.all(q.n, [&](int j) { return std::isfinite(system.r_x[j]); }) &&
           q.all(q.N, [&](int i) { return std::isfinite(system.r_row[i]); });
  }

  /// to = -(left u_x' + right x'), rows x n.
  OPTL_DEVICE void outer(const T* left, const T* right, const T* u_x, const T* x, int rows, T* to) const {
    q.each_row(rows, [&](int i, int first, int width) {
      for (int j = first; i < rows && j < q.n; j += width) to[i * q.n + j] = -(left[i] * u_x[j] + right[i] * x[j]);
    });
  }
};

/// What every thread of the grid runs; `out` has gradients that are null where only the system is to be solved.
/// workspace: as in qp_solve_block.
template <class T, class Block>
OPTL_DEVICE void qp_backward_block(Block& block, const QpSizes& sizes, const QpBackward<T>& in, double tolerance,
                                   const QpBackwardResult<T>& out, double* workspace, int64_t stride, int64_t room) {
  Places places{block.shared(), workspace + 2 + block.index() * stride, room};
  SystemSpace<Block> space(sizes, &block, block.threads(), places);
  QpSystems<T, Block> systems(in.system, out.u, space);
  for (int64_t b; (b = block.take(reinterpret_cast<int64_t*>(workspace))) < sizes.batch;) {
    systems.solve(b, tolerance);
    systems.form_gradients(b, in, out);
  }
}

}  // namespace optl::cuda
