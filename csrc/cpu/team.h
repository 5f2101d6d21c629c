// The threads that work together on one large problem. What they compute does not depend on how many they are.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace optl::OPTL_ISA {

/// Where the threads of a team wait for each other. Unlike OpenMP's barrier it gives its core away soon: on a busy
/// machine the one that is waited for may need it.
class Meeting {
 public:
  void wait(int count) {
    const int round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      if (spins > kSpins) std::this_thread::yield();
    }
  }

 private:
  static constexpr int kSpins = 2000;
  std::atomic<int> arrived_{0}, round_{0};
};

/// One of the threads of a team.
struct Member {
  int id, count;
  Meeting& meeting;

  void wait() const {
    if (count > 1) meeting.wait(count);
  }
};

/// run(member) on every thread of a team.
template <class Run>
void as_team(int threads, const Run& run) {
  Meeting meeting;
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    run(Member{omp_get_thread_num(), omp_get_num_threads(), meeting});
    return;
  }
#endif
  (void)threads;
  run(Member{0, 1, meeting});
}

/// Variables from which on a factorisation is worth a team.
inline constexpr int64_t kTeamSize = 200;

/// Multiplications from which on a product is worth a team, which takes microseconds to start.
inline constexpr int64_t kTeamWork = 4000000;

/// run(from, to) on parts of [0, count) that begin at multiples of `unit`, one for each thread if `work` is worth it.
template <class Run>
void split(int threads, int64_t count, int64_t unit, int64_t work, const Run& run) {
  as_team(work < kTeamWork ? 1 : threads, [&](const Member& me) {
    const int64_t units = (count + unit - 1) / unit;
    const int64_t from = units * me.id / me.count * unit, end = units * (me.id + 1) / me.count * unit;
    if (from < end) run(from, end < count ? end : count);
  });
}

}  // namespace optl::OPTL_ISA
