// The loop over rows that the searches share.
#pragma once

#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace optl {

/// run(row, thread) for every row, in equal shares; `work` is the length of all of them, which says what threads are worth.
template <class Run>
void for_rows(int64_t rows, int64_t work, int threads, const Run& run) {
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows > 1 && work > 8192)
  for (int64_t row = 0; row < rows; ++row) run(row, omp_get_thread_num());
#else
  (void)work, (void)threads;
  for (int64_t row = 0; row < rows; ++row) run(row, 0);
#endif
}

}  // namespace optl
