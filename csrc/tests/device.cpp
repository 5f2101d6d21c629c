// The host's own threads of a block: reductions and barriers, whatever the order in which the threads run.
#include <cstdio>

#include "host_block.h"

namespace {

using namespace optl;

/// Every collective once; results must not depend on the thread.
void kernel(HostBlock& block, int64_t* counter, double* out) {
  double* shared = block.shared();
  for (int64_t problem; (problem = block.take(counter)) < 5;) {
    const int t = block.thread(), count = block.threads();
    shared[t] = t;
    block.sync();
    double seen = shared[(t + 7) % count];
    const double total = block.sum(seen), most = block.largest(-seen) + block.largest(seen);
    seen = block.sum_lanes(t % 4, 4);
    const bool good = block.all(seen == 6) && !block.any(t < 0) && block.ballot(t % 2 == 0) == 0x55555555u;
    if (t == 0) out[problem] = total + 1000 * most + (good ? 0.5 : 0);
  }
}

}  // namespace

int check_device() {
  int failures = 0;
  for (const int threads : {32, 96}) {
    double out[5] = {};
    int64_t counter = 0;
    HostGrid(3, threads, 96 * sizeof(double), 1).run([&](HostBlock& block) { kernel(block, &counter, out); });
    const double last = threads - 1;
    for (const double value : out) failures += value != last * threads / 2 + 1000 * last + 0.5;
  }
  if (failures) std::printf("the blocks of the host: %d wrong\n", failures);
  return failures;
}
