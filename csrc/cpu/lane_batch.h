// Keeps the lanes full: loads programs in groups, and gives each lane that falls free the next of them.
#pragma once

#include <atomic>

#include "cpu/lane_interior_point.h"

#ifdef OPTL_LANES
namespace optl::OPTL_ISA {

/// One thread's share of a batch; threads draw groups of samples from `next`. `source` knows about samples:
/// load(b, program) reads one and says whether it holds numbers, alone(b) solves it with the one-sample kernel,
/// finish(b, lanes, lane) writes what a lane has found.
template <class Source>
void run_lanes(const QpSizes& sizes, double input_eps, double eps, int64_t max_steps, std::atomic<int64_t>& next,
               Program& reader, Arena& arena, const Source& source) {
  LaneInteriorPoint lanes(sizes, arena);
  const LaneProgram group(sizes, arena);
  lanes.q.clear(), group.clear();
  int64_t waiting[kWidth], running[kWidth];  // samples, -1 for none
  int count = 0;
  std::fill_n(running, kWidth, -1);

  const auto fetch = [&] {  // until there is a group, or no sample left
    while (count == 0) {
      const int64_t first = next.fetch_add(kWidth), end = std::min(first + kWidth, sizes.batch);
      if (first >= end) return;
      for (int64_t b = first; b < end; ++b) {
        if (source.load(b, reader)) {
          group.load_lane(count, reader), waiting[count++] = b;
        } else {
          source.alone(b);
        }
      }
      if (count == 0) continue;
      const Mask good = lanes.prepare(group, input_eps);
      for (int l = 0; l < count; ++l) {
        if (!good[l]) source.alone(waiting[l]), waiting[l] = -1;
      }
    }
  };
  for (;;) {
    bool busy = false, fill = true;
    for (int l = 0; l < kWidth && !uses(Accelerator::kRefill); ++l) {
      fill = fill && (running[l] < 0 || lanes.state(l) != LaneState::kRunning);
    }
    for (int l = 0; l < kWidth; ++l) {
      if (running[l] >= 0 && lanes.state(l) == LaneState::kRunning) {
        busy = true;
        continue;
      }
      if (running[l] >= 0 && lanes.state(l) == LaneState::kSolved) source.finish(running[l], lanes, l);
      if (running[l] >= 0 && lanes.state(l) == LaneState::kLeft) source.alone(running[l]);
      running[l] = -1;
      while (running[l] < 0 && fill) {
        if (count == 0) fetch();
        if (count == 0) break;
        running[l] = waiting[--count];
      }
      if (running[l] < 0) continue;
      lanes.enter(l, group, count);
      busy = true;
    }
    if (!busy) return;
    lanes.advance(eps, max_steps);
  }
}

}  // namespace optl::OPTL_ISA
#endif
