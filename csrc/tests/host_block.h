// Plays the threads of a GPU block on the host: fibres that run, in random order, from one barrier to the next.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <source_location>
#include <vector>

#include "fibre.h"
#include "optlayers/device.h"

namespace optl {

/// The Block of device.h. A barrier that only some threads reach, or that threads reach at different places, ends the
/// program with a message; a race shows as a result that depends on `seed`.
class HostGrid;

class HostBlock {
 public:
  using Where = std::source_location;

  HostBlock(HostGrid& grid, int thread) : grid_(grid), thread_(thread) {}

  int64_t index() const;
  int64_t blocks() const;
  int thread() const { return thread_; }
  int threads() const;
  double* shared() const;

  void sync(Where where = Where::current()) const;
  void sync_warp(Where where = Where::current()) const;
  double sum(double v, Where where = Where::current()) { return across(v, Plus{}, where); }
  double largest(double v, Where where = Where::current()) { return across(v, Larger{}, where); }
  bool all(bool v, Where where = Where::current()) { return sum(v ? 0 : 1, where) == 0; }
  bool any(bool v, Where where = Where::current()) { return sum(v ? 1 : 0, where) > 0; }
  double sum_lanes(double v, int width, Where where = Where::current()) { return lanes(v, width, Plus{}, where); }
  double largest_lanes(double v, int width, Where where = Where::current()) { return lanes(v, width, Larger{}, where); }
  uint32_t ballot(bool v, Where where = Where::current());
  int64_t take(int64_t* counter, Where where = Where::current());

 private:
  HostGrid& grid_;
  int thread_;
  int turn_ = 0, lane_turn_ = 0;  // of the block's slots and of the warp's: two sets in turn, as on the GPU

  template <class Combine>
  double across(double v, const Combine& combine, Where where);
  template <class Combine>
  double lanes(double v, int width, const Combine& combine, Where where);
};

class HostGrid {
 public:
  HostGrid(int64_t blocks, int threads, int64_t shared_bytes, unsigned seed)
      : blocks_(blocks), threads_(threads), shared_(static_cast<size_t>(shared_bytes) / sizeof(double)),
        random_(seed), meeting_(static_cast<size_t>(threads), nullptr),
        meetings_(static_cast<size_t>(threads / kWarp) + 1) {
    for (auto* set : {&slots_[0], &slots_[1], &lane_slots_[0], &lane_slots_[1]}) set->resize(meeting_.size());
  }

  /// kernel(block) on every thread of every block, one block after the other.
  template <class Kernel>
  void run(const Kernel& kernel) {
    for (index_ = 0; index_ < blocks_; ++index_) {
      std::fill(shared_.begin(), shared_.end(), std::numeric_limits<double>::quiet_NaN());
      fibres_.clear();
      for (int t = 0; t < threads_; ++t) {
        fibres_.push_back(std::make_unique<Fibre>([this, t, &kernel] {
          HostBlock block(*this, t);
          kernel(block);
          ++ended_;
        }));
      }
      for (ended_ = 0; ended_ < threads_;) round();
    }
  }

 private:
  friend class HostBlock;
  /// Where the threads of a warp or of the block wait for each other.
  struct Meeting {
    int present = 0;
    HostBlock::Where where{};
  };

  int64_t blocks_, index_ = 0;
  int threads_, ended_ = 0;
  std::vector<double> shared_;
  std::minstd_rand random_;
  std::vector<Meeting*> meeting_;  // at which each thread is, or null
  std::vector<Meeting> meetings_;  // of the block, then of each warp
  std::vector<double> slots_[2], lane_slots_[2];
  bool combined_[2] = {};
  double total_[2] = {};
  int64_t taken_ = 0;
  std::vector<std::unique_ptr<Fibre>> fibres_;

  /// Every thread that may run does so until it waits or ends, up or down from any of them on.
  void round() {
    const int start = static_cast<int>(random_() % static_cast<unsigned>(threads_));
    const int step = random_() % 2 ? 1 : threads_ - 1;
    bool moved = false;
    for (int i = 0, t = start; i < threads_; ++i, t = (t + step) % threads_) {
      if (meeting_[static_cast<size_t>(t)] || fibres_[static_cast<size_t>(t)]->done()) continue;
      fibres_[static_cast<size_t>(t)]->resume();
      moved = true;
    }
    if (!moved) fail("some threads wait at a barrier that others do not come to", nullptr);
  }

  void wait(int thread, bool warp, const HostBlock::Where& where) {
    const int first = warp ? thread / kWarp * kWarp : 0, count = warp ? kWarp : threads_;
    Meeting& here = meetings_[warp ? static_cast<size_t>(thread / kWarp) + 1 : 0];
    if (here.present++ == 0) here.where = where;
    if (here.where.line() != where.line() || here.where.column() != where.column()) {
      fail("threads wait at different barriers", &where);
    }
    meeting_[static_cast<size_t>(thread)] = &here;
    if (here.present == count) {  // the last one to come lets all go on
      here.present = 0;
      std::fill_n(meeting_.begin() + first, count, nullptr);
    }
    fibres_[static_cast<size_t>(thread)]->suspend();
  }

  [[noreturn]] void fail(const char* what, const HostBlock::Where* other) const {
    std::printf("block %d: %s\n", static_cast<int>(index_), what);
    const auto tell = [](const HostBlock::Where& where, int count) {
      std::printf("  %s:%d: %d threads\n", where.file_name(), static_cast<int>(where.line()), count);
    };
    for (const Meeting& m : meetings_) {
      if (m.present > 0) tell(m.where, m.present - (other ? 1 : 0));
    }
    if (other) tell(*other, 1);
    std::printf("  %d threads have ended\n", ended_);
    std::fflush(stdout);
    std::_Exit(EXIT_FAILURE);
  }
};

inline int64_t HostBlock::index() const { return grid_.index_; }
inline int64_t HostBlock::blocks() const { return grid_.blocks_; }
inline int HostBlock::threads() const { return grid_.threads_; }
inline double* HostBlock::shared() const { return grid_.shared_.data(); }
inline void HostBlock::sync(Where where) const { grid_.wait(thread_, false, where); }
inline void HostBlock::sync_warp(Where where) const { grid_.wait(thread_, true, where); }

template <class Combine>
double HostBlock::across(double v, const Combine& combine, Where where) {
  auto& slots = grid_.slots_[turn_];
  slots[static_cast<size_t>(thread_)] = v;
  grid_.combined_[turn_] = false;
  sync(where);
  if (!grid_.combined_[turn_]) {  // the first to come back does it for all
    grid_.total_[turn_] = std::accumulate(slots.begin() + 1, slots.end(), slots[0], combine);
    grid_.combined_[turn_] = true;
  }
  const double total = grid_.total_[turn_];
  turn_ ^= 1;
  return total;
}

template <class Combine>
double HostBlock::lanes(double v, int width, const Combine& combine, Where where) {
  auto& slots = grid_.lane_slots_[lane_turn_];
  slots[static_cast<size_t>(thread_)] = v;
  sync_warp(where);
  const auto from = slots.begin() + thread_ / width * width;
  lane_turn_ ^= 1;
  return std::accumulate(from + 1, from + width, *from, combine);
}

inline uint32_t HostBlock::ballot(bool v, Where where) {
  auto& slots = grid_.lane_slots_[lane_turn_];
  slots[static_cast<size_t>(thread_)] = v;
  sync_warp(where);
  uint32_t bits = 0;
  const int first = thread_ / kWarp * kWarp;
  for (int l = 0; l < kWarp; ++l) bits |= (slots[static_cast<size_t>(first + l)] != 0 ? 1u : 0u) << l;
  lane_turn_ ^= 1;
  return bits;
}

inline int64_t HostBlock::take(int64_t* counter, Where where) {
  sync(where);
  if (thread_ == 0) grid_.taken_ = (*counter)++;
  sync(where);
  return grid_.taken_;
}

}  // namespace optl
