// What the threads of a block do together: loops, reductions, and products with matrices.
#pragma once

#include <cmath>
#include <cstdint>

#include "optlayers/device.h"
#include "optlayers/qp_rules.h"

namespace optl::cuda {

/// Where the arrays of a problem lie: in shared memory while there is room, then in global memory. With null pointers it
/// only counts. What is asked for first is what is used most.
struct Places {
  double *shared, *global;
  int64_t room;  // doubles of shared memory
  int64_t shared_used = 0, global_used = 0;

  OPTL_HD double* take(int64_t count) {
    const int64_t whole = (count + 1) / 2 * 2;
    const bool fits = shared_used + whole <= room;
    double* const base = fits ? shared : global;
    int64_t& used = fits ? shared_used : global_used;
    double* const out = base ? base + used : nullptr;
    used += whole;
    return out;
  }
};

/// Entry i of a vector belongs to thread i modulo the number of threads: what only touches own entries needs no barrier.
/// Everything else here waits for its inputs first, and leaves its outputs ready for every thread.
template <class Block>
struct Worker {
  Block* block;
  double* parts;  // one double a thread

  OPTL_HD Worker(Block* on, int threads, Places& places) : block(on), parts(places.take(threads)) {}

  template <class Run>
  OPTL_DEVICE void each(int count, const Run& run) const {
    for (int i = block->thread(); i < count; i += block->threads()) run(i);
  }

  /// The sum of f(i).
  template <class Term>
  OPTL_DEVICE double sum(int count, const Term& term) const {
    double v = 0;
    each(count, [&](int i) { v += term(i); });
    return block->sum(v);
  }

  /// The largest |f(i)|, NaN if one is.
  template <class Term>
  OPTL_DEVICE double largest(int count, const Term& term) const {
    double v = 0;
    each(count, [&](int i) { v = rules::larger(v, std::fabs(term(i))); });
    return block->largest(v);
  }

  /// Whether f(i) holds for every i.
  template <class Test>
  OPTL_DEVICE bool all(int count, const Test& test) const {
    bool v = true;
    each(count, [&](int i) { v = v && test(i); });
    return block->all(v);
  }

  /// Lanes that share a row of a matrix with `count` rows: enough for all threads, and for neighbours in memory.
  OPTL_DEVICE int lanes(int count) const {
    int width = 4;
    while (width < kWarp && 2 * width * count <= block->threads()) width *= 2;
    return width;
  }

  /// run(i, first, width) for every row: the lanes first, first + width, ... of it, all the lanes of a warp together; run
  /// is told of rows past the end too.
  template <class Run>
  OPTL_DEVICE void each_row(int count, const Run& run) const {
    const int width = lanes(count), thread = block->thread();
    for (int top = 0; top < count; top += block->threads() / width) run(top + thread / width, thread % width, width);
  }

  /// out = a x, 0 at rows of kind 0.
  OPTL_DEVICE_CALL void multiply(const double* a, int ld, int count, int n, const double* x, const rules::Kind* kind,
                                 double* out) const {
    block->sync();
    each_row(count, [&](int i, int first, int width) {
      double v = 0;
      for (int j = first; i < count && j < n; j += width) v += a[i * ld + j] * x[j];
      v = block->sum_lanes(v, width);
      if (i < count && first == 0) out[i] = !kind || kind[i] ? v : 0;
    });
    block->sync();
  }

  /// out = a' v. Where there are more threads than columns, each sums over a part of the rows first.
  OPTL_DEVICE_CALL void multiply_transposed(const double* a, int ld, int count, int n, const double* v,
                                            double* out) const {
    block->sync();
    const int threads = block->threads(), shares = threads / n;
    if (shares < 2) {
      each(n, [&](int j) {
        double sum = 0;
        for (int i = 0; i < count; ++i) sum += a[i * ld + j] * v[i];
        out[j] = sum;
      });
    } else {
      const int share = block->thread() / n, column = block->thread() % n;
      if (share < shares) {
        double sum = 0;
        for (int i = share; i < count; i += shares) sum += a[i * ld + column] * v[i];
        parts[share * n + column] = sum;
      }
      block->sync();
      each(n, [&](int j) {
        double sum = 0;
        for (int s = 0; s < shares; ++s) sum += parts[s * n + j];
        out[j] = sum;
      });
    }
    block->sync();
  }
};

}  // namespace optl::cuda
