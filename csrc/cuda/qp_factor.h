// The condensed matrix Q + rho I + C' diag(weight) C and its Cholesky factor, by panels of 16 columns.
#pragma once

#include "cuda/qp_program.h"

namespace optl::cuda {

/// Threads that have work in the sums of n x n matrices: one for each tile of 4 x 4 in the lower triangle, in whole warps.
inline int64_t threads_for(int64_t n) {
  const int64_t tiles = (n + 3) / 4 * ((n + 3) / 4 + 1) / 2;
  return (tiles + kWarp - 1) / kWarp * kWarp;
}

/// H = L L', lower triangle, rows of ld. Sums over rows of C, and over the columns of a panel, are the same sum over the
/// rows of a slab, which lies in shared memory as long as anything does; every thread adds to tiles of 4 x 4 in registers.
template <class Block>
class Factor {
 public:
  double rho = rules::kRho;  // of the last factor

  OPTL_HD Factor(Program<Block>& program, Places& places)
      : q(program), n_(q.n), ld_(q.ld), quarter_((q.n + 3) / 4), slab_(places.take(int64_t{kPanel} * 4 * quarter_)),
        inverse_(places.take(int64_t{(q.n + kPanel - 1) / kPanel} * kPanel * kInverse)),
        pivots_(places.take(2 * kPanel)), list_(reinterpret_cast<int*>(places.take((q.dense + 4) / 2))) {}

  OPTL_HD void place_matrices(Places& places) { H_ = places.take(static_cast<int64_t>(n_) * ld_); }

  /// Factor (IPM-6). A rho that rounding swallows is raised, a hundredfold at a time. False if there is no factor.
  OPTL_DEVICE_CALL bool factor(const double* weight) {
    list_rows(weight);
    rho = rules::kRho;
    for (int attempt = 0; attempt < 4; ++attempt, rho *= 100) {
      begin(rho, weight);
      add_rows(weight);
      if (decompose()) return true;
    }
    return false;
  }

  /// Whether Q, as it was loaded, is positive semidefinite up to the rounding of its dtype.
  OPTL_DEVICE bool convex(double input_eps) {
    begin(rules::most(1e-8, 4 * n_ * input_eps) / q.cost, nullptr);
    return decompose();
  }

  /// x <- H^-1 x.
  OPTL_DEVICE_CALL void solve(double* x) const {
    Block& block = *q.block;
    block.sync();
    const int last = (n_ - 1) / kPanel * kPanel;
    for (int j = 0; j <= last; j += kPanel) {
      const double* const inverse = inverse_ + j * kInverse;
      apply(x + j, width(j), [&](int r, int c) { return c <= r ? inverse[r * kInverse + c] : 0; });
      if (j == last) break;
      for (int i = j + kPanel + block.thread(); i < n_; i += block.threads()) {
        double v = x[i];
        for (int c = 0; c < kPanel; ++c) v -= H_[i * ld_ + j + c] * x[j + c];
        x[i] = v;
      }
      block.sync();
    }
    for (int j = last; j >= 0; j -= kPanel) {
      const double* const inverse = inverse_ + j * kInverse;
      const int rows = width(j);
      apply(x + j, rows, [&](int r, int c) { return c >= r ? inverse[c * kInverse + r] : 0; });
      if (j == 0) break;
      for (int i = block.thread(); i < j; i += block.threads()) {
        double v = x[i];
        for (int r = 0; r < rows; ++r) v -= H_[(j + r) * ld_ + i] * x[j + r];
        x[i] = v;
      }
      block.sync();
    }
  }

 private:
  static constexpr int kPanel = 16, kInverse = kPanel + 1;  // rows of odd length lie in different banks

  Program<Block>& q;
  int n_, ld_, quarter_;
  double *slab_, *inverse_, *pivots_;
  int* list_;  // of the rows that have a weight, their number last
  double* H_ = nullptr;

  OPTL_DEVICE int width(int j) const { return n_ - j < kPanel ? n_ - j : kPanel; }

  /// Entry j of row r of the slab: neighbouring tiles of 4 read neighbouring words.
  OPTL_DEVICE double& slab(int r, int j) const { return slab_[(r * 4 + j % 4) * quarter_ + j / 4]; }

  OPTL_DEVICE void list_rows(const double* weight) {
    Block& block = *q.block;
    block.sync();
    if (block.thread() < kWarp) {
      const int lane = block.thread();
      int count = 0;
      for (int top = 0; top < q.dense; top += kWarp) {
        const bool has_weight = top + lane < q.dense && weight[top + lane] != 0;
        const uint32_t bits = block.ballot(has_weight);
        if (has_weight) list_[count + ones(bits & ((uint32_t{1} << lane) - 1))] = top + lane;
        count += ones(bits);
      }
      if (lane == 0) list_[q.dense] = count;
    }
    block.sync();
  }

  static OPTL_DEVICE int ones(uint32_t bits) {
#ifdef __CUDA_ARCH__
    return __popc(bits);
#else
    return __builtin_popcount(bits);
#endif
  }

  /// The lower triangle of Q, plus shift and the weights of bounds, if any, on the diagonal.
  OPTL_DEVICE void begin(double shift, const double* weight) {
    q.block->sync();
    q.each_row(n_, [&](int i, int first, int width) {
      for (int j = first; i < n_ && j <= i; j += width) {
        double v = q.Q[i * ld_ + j];
        if (i == j) {
          v += shift;
          if (weight && q.lower) v += weight[q.dense + j];
          if (weight && q.upper) v += weight[q.dense + q.lower + j];
        }
        H_[i * ld_ + j] = v;
      }
    });
    q.block->sync();
  }

  /// C' diag(weight) C, a slab of rows at a time.
  OPTL_DEVICE void add_rows(const double* weight) {
    Block& block = *q.block;
    const int count = list_[q.dense];
    for (int top = 0; top < count; top += kPanel) {
      const int depth = count - top < kPanel ? count - top : kPanel;
      q.each_row(depth, [&](int r, int first, int width) {
        if (r >= depth) return;
        const int i = list_[top + r];
        const double root = std::sqrt(weight[i]);
        for (int j = first; j < n_; j += width) slab(r, j) = root * q.C[i * q.ld + j];
      });
      block.sync();
      accumulate(1, 0, depth);
      block.sync();
    }
  }

  /// The lower triangle from row and column `from`, a multiple of 4, on: H += sign slab' slab.
  OPTL_DEVICE_CALL void accumulate(double sign, int from, int depth) const {
    const int first = from / 4, tiles = quarter_ - first;
    for (int t = q.block->thread(); t < tiles * (tiles + 1) / 2; t += q.block->threads()) {
      int up = static_cast<int>((std::sqrt(8.0f * static_cast<float>(t) + 1) - 1) / 2);  // tile t = up (up + 1) / 2 + left
      while (up * (up + 1) / 2 > t) --up;
      while ((up + 1) * (up + 2) / 2 <= t) ++up;
      const int I = first + up, J = first + t - up * (up + 1) / 2;
      double sums[4][4] = {};
      for (int r = 0; r < depth; ++r) {
        double left[4], right[4];
        for (int a = 0; a < 4; ++a) {
          left[a] = slab_[(r * 4 + a) * quarter_ + I];
          right[a] = slab_[(r * 4 + a) * quarter_ + J];
        }
        for (int a = 0; a < 4; ++a) {
          for (int b = 0; b < 4; ++b) sums[a][b] += left[a] * right[b];
        }
      }
      for (int a = 0; a < 4; ++a) {
        for (int b = 0; b < 4; ++b) {
          const int i = 4 * I + a, j = 4 * J + b;
          if (i < n_ && j <= i) H_[i * ld_ + j] += sign * sums[a][b];
        }
      }
    }
  }

  /// H = L L' in place, with the inverses of the diagonal blocks. False at a pivot that is not positive.
  OPTL_DEVICE_CALL bool decompose() {
    Block& block = *q.block;
    for (int j = 0; j < n_; j += kPanel) {
      bool good = true;
      if (block.thread() < kWarp) good = diagonal_block(j);
      if (!block.all(good)) return false;
      const int end = j + kPanel;
      if (end >= n_) break;
      const double* const inverse = inverse_ + j * kInverse;
      for (int i = end + block.thread(); i < n_; i += block.threads()) {
        double* const row = H_ + i * ld_ + j;
        double known[kPanel];
        for (int c = 0; c < kPanel; ++c) known[c] = row[c];
OPTL_DEVICE_UNROLL
        for (int c = 0; c < kPanel; ++c) {
          double v = 0;
OPTL_DEVICE_UNROLL
          for (int s = 0; s <= c; ++s) v += known[s] * inverse[c * kInverse + s];
          row[c] = slab(c, i) = v;
        }
      }
      block.sync();
      accumulate(-1, end, kPanel);
      block.sync();
    }
    return true;
  }

  /// The factor of the block on the diagonal at j, and its inverse; by one warp, a lane for each row.
  OPTL_DEVICE bool diagonal_block(int j) {
    Block& block = *q.block;
    const int lane = block.thread(), size = width(j);
    double row[kPanel];
OPTL_DEVICE_UNROLL
    for (int c = 0; c < kPanel; ++c) row[c] = lane < size && c <= lane ? H_[(j + lane) * ld_ + j + c] : 0;
OPTL_DEVICE_UNROLL
    for (int c = 0; c < kPanel; ++c) {
      if (c < size) {
        double* const column = pivots_ + c % 2 * kPanel;  // two in turn: nobody writes to what another still reads
        if (lane < size && lane >= c) column[lane] = row[c];
        block.sync_warp();
        if (!(column[c] > 0) || std::isinf(column[c])) return false;
        const double scale = 1 / std::sqrt(column[c]);
        row[c] *= scale;
OPTL_DEVICE_UNROLL
        for (int b = c + 1; b < kPanel; ++b) {
          if (b <= lane && lane < size) row[b] -= row[c] * (column[b] * scale);
        }
      }
    }
OPTL_DEVICE_UNROLL
    for (int c = 0; c < kPanel; ++c) {
      if (lane < size && c <= lane) H_[(j + lane) * ld_ + j + c] = row[c];
    }
    block.sync_warp();
    // Lane c solves for column c of the inverse.
    double* const inverse = inverse_ + j * kInverse;
    if (lane < kPanel) {
OPTL_DEVICE_UNROLL
      for (int r = 0; r < kPanel; ++r) {
        double v = r == lane && r < size ? 1 : 0;
OPTL_DEVICE_UNROLL
        for (int s = 0; s < r; ++s) {
          if (s >= lane && r < size) v -= H_[(j + r) * ld_ + j + s] * row[s];
        }
        row[r] = r < size ? v / H_[(j + r) * ld_ + j + r] : 0;
        inverse[r * kInverse + lane] = row[r];
      }
    }
    return true;
  }

  /// x <- entry(r, c) x for the `size` entries of a panel, by one warp.
  template <class Entry>
  OPTL_DEVICE void apply(double* x, int size, const Entry& entry) const {
    Block& block = *q.block;
    if (block.thread() < kWarp) {
      const int r = block.thread();
      double v = 0;
      for (int c = 0; r < size && c < size; ++c) v += entry(r, c) * x[c];
      block.sync_warp();
      if (r < size) x[r] = v;
    }
    block.sync();
  }
};

}  // namespace optl::cuda
