// The searches without Python, for sanitizers: every instruction set, size and dtype, in buffers of exact length.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "cpu/kernels.h"

namespace {

using namespace optl;

int failures = 0;

void check(bool good, const char* what, int64_t n, const char* isa) {
  if (good) return;
  ++failures;
  std::printf("%s: %s at n %d\n", isa, what, static_cast<int>(n));
}

template <class T>
struct Kernels {
  const char* isa;
  decltype(&portable::simplex<T>) simplex;
  decltype(&portable::simplex_backward<T>) simplex_backward;
  decltype(&portable::entmax15<T>) entmax15;
};

template <class T>
std::vector<Kernels<T>> kernels_of_this_processor() {
  std::vector<Kernels<T>> out{
      {"portable", portable::simplex<T>, portable::simplex_backward<T>, portable::entmax15<T>}};
#ifdef OPTL_DISPATCH_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    out.push_back({"avx2", avx2::simplex<T>, avx2::simplex_backward<T>, avx2::entmax15<T>});
  }
#endif
#ifdef OPTL_DISPATCH_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    out.push_back({"avx512", avx512::simplex<T>, avx512::simplex_backward<T>, avx512::entmax15<T>});
  }
#endif
  return out;
}

/// `std::vector<bool>` has no array of bool to point to.
struct Mask {
  explicit Mask(int64_t size) : data(new bool[static_cast<size_t>(size)]) {}
  std::unique_ptr<bool[]> data;
};

constexpr int64_t kRows = 6;

/// Normal entries; ties in row 1, masked ones in row 2, a NaN in row 3, all masked in row 4, all equal in row 5.
template <class T>
std::vector<T> points(int64_t n, std::mt19937& random) {
  std::normal_distribution<double> normal;
  std::vector<T> x(static_cast<size_t>(kRows * n));
  for (T& value : x) value = static_cast<T>(normal(random));
  const T infinity = std::numeric_limits<T>::infinity();
  for (int64_t i = 0; i < n; ++i) {
    x[n + i] = std::round(x[n + i]), x[4 * n + i] = -infinity, x[5 * n + i] = T(0.1);
    if (i % 2) x[2 * n + i] = -infinity;
  }
  x[3 * n + n / 2] = std::numeric_limits<T>::quiet_NaN();
  return x;
}

template <class T>
void check_thresholds(const Kernels<T>& kernels, int64_t n, std::mt19937& random) {
  const double tolerance = sizeof(T) == 8 ? 1e-12 : 1e-4;
  const std::vector<T> x = points<T>(n, random);
  const std::vector<T> radius{1, 2, T(0.5), 1, 1, 0};
  std::vector<T> point(x.size()), again(x.size()), grad(x.size()), grad_radius(kRows), p(x.size());
  Mask support(kRows * n), support_again(kRows * n);
  const RowSizes sizes{kRows, n};
  kernels.simplex(sizes, {x.data(), n}, {radius.data(), 1}, {point.data(), n}, {support.data.get(), n}, 1);
  kernels.simplex(sizes, {x.data(), n}, {radius.data(), 1}, {again.data(), n}, {support_again.data.get(), n}, 2);
  kernels.simplex_backward(sizes, {support.data.get(), n}, {x.data(), n}, {grad.data(), n}, {grad_radius.data(), 1}, 2);
  kernels.entmax15(sizes, {x.data(), n}, {p.data(), n}, 2);
  for (int64_t row = 0; row < kRows; ++row) {
    double sum = 0, entmax_sum = 0, grad_sum = 0, least = 0;
    bool same = true, marked = true;
    for (int64_t i = row * n; i < (row + 1) * n; ++i) {
      const double y = point[i];
      sum += y, entmax_sum += p[i], grad_sum += grad[i], least = std::min(least, y);
      same = same && (y == again[i] || (y != y && again[i] != again[i]));
      marked = marked && support.data[i] == support_again.data[i] && (row == 5 || support.data[i] == (y > 0));
    }
    check(same && marked, "depends on the threads, or marks what is not positive", n, kernels.isa);
    if (row == 3 || row == 4) {
      check(sum != sum && entmax_sum != entmax_sum, "is not NaN where there is no point", n, kernels.isa);
      check(grad_sum == 0 && grad_radius[row] == 0, "has a gradient where there is no point", n, kernels.isa);
    } else {
      check(std::fabs(sum - radius[row]) < tolerance && least >= 0, "is off the simplex", n, kernels.isa);
      check(std::fabs(entmax_sum - 1) < tolerance, "entmax does not sum to one", n, kernels.isa);
      check(std::fabs(grad_sum) < tolerance * static_cast<double>(n), "gradient does not sum to zero", n, kernels.isa);
    }
  }
}

/// The running sums of the solution that the blocks give stay within the tube, and touch it where they bend.
template <class T>
void check_chain(int64_t n, std::mt19937& random) {
  const std::vector<T> x = points<T>(n, random);
  const T infinity = std::numeric_limits<T>::infinity();
  const std::vector<T> up{0, T(0.5), infinity, 1, 1, 2}, down{infinity, T(0.5), 0, 1, 1, T(0.25)};
  std::vector<int64_t> labels(x.size());
  std::vector<T> jumps(x.size());
  std::vector<double> workspace(static_cast<size_t>(2 * chain_workspace(n)));
  chain<T>({kRows, n}, {x.data(), n}, {up.data(), 1}, {down.data(), 1}, {labels.data(), n}, {jumps.data(), n},
           workspace.data(), 2);
  for (const int64_t row : {0, 1, 5}) {
    const T* entries = x.data() + row * n;
    const int64_t* block = labels.data() + row * n;
    const T* jump = jumps.data() + row * n;
    double pull = 0, path = 0, sums = 0, worst = 0;
    for (int64_t start = 0, end = 0; start < n; start = end) {
      double total = 0;
      for (end = start; end < n && block[end] == block[start]; ++end) total += static_cast<double>(entries[end]);
      const double force = end == n ? 0 : jump[end - 1] > 0 ? double{up[row]} : -double{down[row]};
      const double value = (total + force - pull) / static_cast<double>(end - start);
      for (int64_t i = start; i + 1 < end; ++i) {
        path += value, sums += static_cast<double>(entries[i]);
        worst = std::max({worst, path - sums - up[row], sums - path - down[row]});
      }
      path += value, sums += static_cast<double>(entries[end - 1]), pull = force;
    }
    check(worst < 1e-9 * static_cast<double>(n), "the string leaves the tube", n, "chain");
  }
  for (const int64_t row : {3, 4}) {
    check(labels[(row + 1) * n - 1] == 0, "a row that is not finite has blocks", n, "chain");
  }
}

template <class T>
void check_all() {
  std::mt19937 random(0);
  for (int64_t n = 1; n <= 1000; n += n < 70 ? 1 : 310) {
    for (const Kernels<T>& kernels : kernels_of_this_processor<T>()) check_thresholds(kernels, n, random);
    check_chain<T>(n, random);
  }
}

}  // namespace

/// How many checks failed.
int check_searches() {
  check_all<double>();
  check_all<float>();
  return failures;
}
