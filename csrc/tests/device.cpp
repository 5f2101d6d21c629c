// The blocks of the host themselves, and what only the kernels of CUDA do: singular systems without a look from the host.
#include <cmath>
#include <cstdio>
#include <vector>

#include "device_qp.h"

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

/// Two systems that contradict themselves, and their least-squares solutions of least norm by hand.
template <class T>
int check_singular() {
  const QpSizes z{2, 2, 2, 0, 0, 0};
  const T Q[] = {1, 0, 0, 0, 1, 0, 0, 1};
  const T A[] = {0, 0, 0, 0, T(0.6), T(0.8), T(0.6), T(0.8)};  // none; one row twice
  const T r_x[] = {3, 2, 0, 0}, r_y[] = {0, 0, 1, 3};          // x_1 has no effect; a'x is to be 1 and 3
  const T want[] = {3, 0, T(1.2), T(1.6)}, want_y[] = {0, 0, -1, -1};
  T x[4], y[4], error[2];
  bool none = false;
  T nothing = 0;
  const Batched<const T> no{&nothing, 0};
  const Batched<const bool> inactive{&none, 0};
  const QpKkt<T> system{{Q, 4}, no, {A, 4}, inactive, inactive, inactive, {r_x, 2}, {r_y, 2}, no, no, no};
  const Batched<T> unwanted{&nothing, 0};
  std::vector<double> workspace(static_cast<size_t>(device::workspace_size(z)));
  device::qp_backward<T>(z, {system, {}, {}, {}}, {{{x, 2}, {y, 2}, unwanted, unwanted, unwanted, {error, 1}}, {}, {}, {}},
                         workspace.data(), 1);
  int wrong = 0;
  for (int i = 0; i < 4; ++i) wrong += !(std::fabs(x[i] - want[i]) < 1e-6) + !(std::fabs(y[i] - want_y[i]) < 1e-6);
  for (const T e : error) wrong += !(e > 0.3 && e < 1);
  if (wrong) {
    std::printf("singular systems on the device: x %g %g %g %g, y %g %g %g %g, error %g %g\n", double{x[0]}, double{x[1]},
                double{x[2]}, double{x[3]}, double{y[0]}, double{y[1]}, double{y[2]}, double{y[3]}, double{error[0]},
                double{error[1]});
  }
  return wrong;
}

}  // namespace

int check_device() {
  int failures = check_singular<double>() + check_singular<float>();
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
