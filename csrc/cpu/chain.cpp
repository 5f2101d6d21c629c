// The blocks of a chain problem, isotonic regression and total variation, by the taut string.
//
// With running sums X_k of x and Y_k of the solution, Y is the shortest path from 0 to X_n with X_k - down <= Y_k <=
// X_k + up in between; its slopes are the solution. It rises where it bends around the upper bound and falls around the
// lower one. From the last bend on, the path runs between the greatest convex minorant of the upper bound and the least
// concave majorant of the lower one; where their first slopes cross, it bends. A bound of inf has no chain of its own,
// and for up = 0, down = inf what is left is the pooling of adjacent violators.
#include <algorithm>
#include <cmath>

#include "api.h"
#include "cpu/rows.h"

namespace optl {

namespace {

/// Segments of a convex (sign 1) or concave (sign -1) chain: how much it climbs in each, over how many steps. Slopes are
/// of sums over the segment itself, not of differences of running sums over the row, which would round.
struct Chain {
  double *climb, *length;
  int64_t first, last;  // [first, last)
  double sign;

  bool single() const { return last - first == 1; }
  void start(double c, double l) { first = 0, last = 1, climb[0] = c, length[0] = l; }
  /// The sign of the difference of two segments' slopes, without the two divisions.
  double steeper(int64_t i, const Chain& other, int64_t j) const {
    return climb[i] * other.length[j] - other.climb[j] * length[i];
  }
  /// A step more; segments that bend the wrong way are pooled.
  void push(double c) {
    climb[last] = c, length[last] = 1, ++last;
    while (last - first > 1 && sign * steeper(last - 1, *this, last - 2) <= 0) {
      climb[last - 2] += climb[last - 1], length[last - 2] += length[last - 1], --last;
    }
  }
};

/// Writes 1 or -1 to `jumps` where the path bends, after the entry before it.
template <class T>
class TautString {
 public:
  TautString(int64_t n, double up, double down, double* workspace, T* jumps)
      : upper_{workspace, workspace + n, 0, 0, 1}, lower_{workspace + 2 * n, workspace + 3 * n, 0, 0, -1},
        up_(up), down_(down), has_upper_(std::isfinite(up)), has_lower_(std::isfinite(down)), jumps_(jumps) {}

  void run(const T* x, int64_t n) {
    for (int64_t k = 0; k < n; ++k) {
      // The bounds are off the sums by `up` and `down` but at the ends of the row, where the path is held.
      const double at_first = k == 0, at_last = k == n - 1, value = static_cast<double>(x[k]);
      if (has_upper_) {
        upper_.push(value + (at_first - at_last) * up_);
        bend(upper_, lower_, has_lower_, -1);
      }
      if (has_lower_) {
        lower_.push(value - (at_first - at_last) * down_);
        bend(lower_, upper_, has_upper_, 1);
      }
    }
    // Where one bound is alone, its chain is the path; where both are, they have met in one segment.
    if (has_upper_ != has_lower_) {
      const Chain& chain = has_upper_ ? upper_ : lower_;
      for (int64_t i = chain.first; i + 1 < chain.last; ++i) emit(chain.length[i], chain.sign);
    }
  }

 private:
  /// While the chain just extended has swung over the first segment of the other, the path follows that one.
  void bend(Chain& moved, Chain& other, bool has_other, double jump) {
    if (!has_other) return;
    while (moved.single() && other.last > other.first && moved.length[moved.first] > other.length[other.first] &&
           moved.sign * moved.steeper(moved.first, other, other.first) < 0) {
      const double climb = other.climb[other.first], length = other.length[other.first];
      emit(length, jump);
      ++other.first;
      moved.start(moved.climb[moved.first] - climb, moved.length[moved.first] - length);
    }
  }

  void emit(double length, double jump) {
    position_ += static_cast<int64_t>(length);
    jumps_[position_ - 1] = static_cast<T>(jump);
  }

  Chain upper_, lower_;
  double up_, down_;
  bool has_upper_, has_lower_;
  T* jumps_;
  int64_t position_ = 0;
};

/// Blocks whose values differ by rounding only are one: takes back their jumps. Values are summed afresh.
template <class T>
void merge(const T* x, int64_t n, double up, double down, double* workspace, T* jumps) {
  double *sum = workspace, *length = workspace + n, *largest = workspace + 2 * n, *end = workspace + 3 * n;
  int64_t blocks = 0;
  double pull = 0;  // of the jump before the block
  for (int64_t i = 0; i < n; ++blocks) {
    double total = 0, peak = 0;
    const int64_t start = i;
    do {
      total += static_cast<double>(x[i]), peak = std::max(peak, std::fabs(static_cast<double>(x[i])));
    } while (++i < n && jumps[i - 1] == 0);
    const double force = i == n ? 0 : jumps[i - 1] > 0 ? up : -down;
    sum[blocks] = total + force - pull, length[blocks] = static_cast<double>(i - start);
    largest[blocks] = std::max({peak, std::fabs(force), std::fabs(pull)}), end[blocks] = static_cast<double>(i);
    pull = force;
    while (blocks > 0) {
      const int64_t edge = static_cast<int64_t>(end[blocks - 1]) - 1;
      // Both sides of a comparison of means, times both lengths.
      const double rise = sum[blocks] * length[blocks - 1] - sum[blocks - 1] * length[blocks];
      const double rounding = 1e-13 * std::max(largest[blocks - 1], largest[blocks]);
      if (static_cast<double>(jumps[edge]) * rise > rounding * length[blocks - 1] * length[blocks]) break;
      jumps[edge] = 0;
      sum[blocks - 1] += sum[blocks], length[blocks - 1] += length[blocks], end[blocks - 1] = end[blocks];
      largest[blocks - 1] = std::max(largest[blocks - 1], largest[blocks]);
      --blocks;
    }
  }
}

template <class T>
void chain_row(int64_t n, const T* x, double up, double down, int64_t* labels, T* jumps, double* workspace) {
  std::fill_n(jumps, n, T(0));
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) finite &= x[i] - x[i] == 0;  // no branch
  if (finite && up >= 0 && down >= 0) {
    TautString<T>(n, up, down, workspace, jumps).run(x, n);
    merge(x, n, up, down, workspace, jumps);
  }
  int64_t label = 0;
  for (int64_t i = 0; i < n; ++i) {
    labels[i] = label;
    label += jumps[i] != 0;
  }
}

template <class T>
void block_mean_row(int64_t n, const T* x, const int64_t* labels, T* mean) {
  for (int64_t start = 0, end = 0; start < n; start = end) {
    double sum = 0;
    for (end = start; end < n && labels[end] == labels[start]; ++end) sum += static_cast<double>(x[end]);
    std::fill(mean + start, mean + end, static_cast<T>(sum / static_cast<double>(end - start)));
  }
}

}  // namespace

int64_t chain_workspace(int64_t n) { return 4 * n; }

template <class T>
void chain(const RowSizes& sizes, Batched<const T> x, Batched<const T> up, Batched<const T> down,
           Batched<int64_t> labels, Batched<T> jumps, double* workspace, int threads) {
  for_rows(sizes.rows, 8 * sizes.rows * sizes.n, threads, [&](int64_t row, int thread) {
    chain_row(sizes.n, x[row], static_cast<double>(*up[row]), static_cast<double>(*down[row]), labels[row], jumps[row],
              workspace + thread * chain_workspace(sizes.n));
  });
}

template <class T>
void block_mean(const RowSizes& sizes, Batched<const T> x, Batched<const int64_t> labels, Batched<T> mean,
                int threads) {
  for_rows(sizes.rows, 2 * sizes.rows * sizes.n, threads,
           [&](int64_t row, int) { block_mean_row(sizes.n, x[row], labels[row], mean[row]); });
}

template void chain(const RowSizes&, Batched<const float>, Batched<const float>, Batched<const float>, Batched<int64_t>,
                    Batched<float>, double*, int);
template void chain(const RowSizes&, Batched<const double>, Batched<const double>, Batched<const double>,
                    Batched<int64_t>, Batched<double>, double*, int);
template void block_mean(const RowSizes&, Batched<const float>, Batched<const int64_t>, Batched<float>, int);
template void block_mean(const RowSizes&, Batched<const double>, Batched<const int64_t>, Batched<double>, int);

}  // namespace optl
