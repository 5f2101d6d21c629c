// Optimizer steps without Python, for sanitizers: every instruction set, kind, size and dtype, in buffers of exact length.
#include "optlayers/updates.h"

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "cpu/kernels.h"
#include "device_updates.h"

namespace {

using namespace optl;
using updates::Entry;
using updates::Next;

int failures = 0;

void check(bool good, const char* what, Second second, const char* isa) {
  if (good) return;
  ++failures;
  std::printf("%s: %s of kind %d\n", isa, what, static_cast<int>(second));
}

template <class T>
struct Kernels {
  const char* isa;
  decltype(&portable::moments_step<T>) step;
  decltype(&portable::moments_pull<T>) pull, push;
};

template <class T>
std::vector<Kernels<T>> kernels_of_this_processor() {
  std::vector<Kernels<T>> out{
      {"portable", portable::moments_step<T>, portable::moments_pull<T>, portable::moments_push<T>}};
#ifdef OPTL_DISPATCH_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    out.push_back({"avx2", avx2::moments_step<T>, avx2::moments_pull<T>, avx2::moments_push<T>});
  }
#endif
#ifdef OPTL_DISPATCH_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    out.push_back({"avx512", avx512::moments_step<T>, avx512::moments_pull<T>, avx512::moments_push<T>});
  }
#endif
  out.push_back({"CUDA's on the host", device::moments_step<T>, device::moments_pull<T>, device::moments_push<T>});
  return out;
}

/// Five arrays of one tensor; zero gradients and moments at the first entry.
template <class T>
struct Arrays {
  std::vector<T> column[5];
  Arrays(int64_t size, std::mt19937& random) {
    std::normal_distribution<double> normal;
    for (int k = 0; k < 5; ++k) {
      for (int64_t i = 0; i < size; ++i) {
        const double value = normal(random);
        column[k].push_back(static_cast<T>(i == 0 ? 0 : k < 3 ? value : value * value + 0.5));
      }
    }
  }
  Entry<T> operator[](size_t i) const { return {column[0][i], column[1][i], column[2][i], column[3][i], column[4][i]}; }
};

template <class T>
MomentNumbers<T> numbers_of(Second second) {
  const T least = second == Second::kMaximum ? T(0.1) : T(0.2);
  return {T(-1), T(0.1), T(0.9), T(0.1), T(0.8), least, T(-0.3), T(-0.2), T(1.5), T(0.01), T(0.05), T(-0.02)};
}

template <class T>
bool near(T a, T b) {
  return std::fabs(a - b) <= (sizeof(T) == 8 ? T(1e-12) : T(1e-4)) * (T(1) + std::fabs(b));
}

/// The kernels against the formulas entry by entry; without p, and with a moment overwritten, for every other tensor.
template <Second S, class T>
void check_kernels(const Kernels<T>& kernels, const std::vector<int64_t>& sizes, std::mt19937& random) {
  const MomentNumbers<T> c = numbers_of<T>(S);
  for (const int threads : {1, 2}) {
    std::vector<Arrays<T>> x, dot, stepped, pulled, pushed;
    std::vector<MomentArrays<T>> step, pull, push;
    for (const int64_t size : sizes) {
      for (auto* arrays : {&x, &dot, &stepped, &pulled, &pushed}) arrays->emplace_back(size, random);
    }
    for (size_t i = 0; i < sizes.size(); ++i) {
      MomentArrays<T> a{sizes[i], {}, {}, {}};
      for (int k = 0; k < 5; ++k) a.entry[k] = k == 1 && i % 2 ? nullptr : x[i].column[k].data();
      step.push_back(a), pull.push_back(a), push.push_back(a);
      if (i % 2) stepped[i].column[1] = x[i].column[2], step[i].entry[2] = stepped[i].column[1].data();
      for (int k = 0; k < 5; ++k) {
        pull[i].change[k] = push[i].change[k] = dot[i].column[k].data();
        if (k < 4) step[i].out[k] = stepped[i].column[k].data(), push[i].out[k] = pushed[i].column[k].data();
        pull[i].out[k] = i % 2 && k == 1 ? nullptr : pulled[i].column[k].data();
      }
    }
    const auto count = static_cast<int64_t>(sizes.size());
    kernels.step(S, c, count, step.data(), false, threads);
    kernels.pull(S, c, count, pull.data(), threads);
    kernels.push(S, c, count, push.data(), threads);
    bool good = true;
    for (size_t i = 0; i < sizes.size(); ++i) {
      for (size_t j = 0; j < static_cast<size_t>(sizes[i]); ++j) {
        Entry<T> at = x[i][j];
        if (i % 2) at.p = 0;
        const Entry<T> change = dot[i][j], bar = updates::pull<S>(c, at, Next<T>{change.g, change.p, change.m, change.v});
        const Next<T> next = updates::step<S>(c, at), moved = updates::push<S>(c, at, change);
        good = good && near(stepped[i].column[0][j], next.u) && near(stepped[i].column[1][j], next.m) &&
               near(pulled[i].column[0][j], bar.g) && near(pulled[i].column[2][j], bar.m) &&
               near(pushed[i].column[0][j], moved.u) && near(pushed[i].column[1][j], moved.m);
        if (S != Second::kNone) {
          good = good && near(stepped[i].column[2][j], next.v) && near(pulled[i].column[3][j], bar.v) &&
                 near(pushed[i].column[2][j], moved.v);
        }
        if (S == Second::kLargest) good = good && near(pulled[i].column[4][j], bar.top);
      }
    }
    check(good, "kernels differ from the formula", S, kernels.isa);
  }
}

/// The formulas against differences of the step, and against each other; finite where everything is zero.
template <Second S>
void check_formulas(std::mt19937& random) {
  auto c = numbers_of<double>(S);
  const Arrays<double> x(40, random), dot(40, random), bar(40, random);
  bool good = true;
  for (size_t i = 1; i < 40; ++i) {
    const Entry<double> at = x[i], d = dot[i], b = bar[i];
    const double h = 1e-6;
    const auto moved = [&](double t) {
      return updates::step<S>(c, Entry<double>{at.g + t * d.g, at.p + t * d.p, at.m + t * d.m, at.v + t * d.v, at.top + t * d.top});
    };
    const Next<double> up = moved(h), down = moved(-h), rate = updates::push<S>(c, at, d);
    const auto slope = [&](double a, double z, double exact) { return std::fabs((a - z) / (2 * h) - exact) < 1e-7 * (1 + std::fabs(exact)); };
    good = good && slope(up.u, down.u, rate.u) && slope(up.m, down.m, rate.m) && slope(up.v, down.v, rate.v) &&
           slope(up.top, down.top, rate.top);
    const Entry<double> back = updates::pull<S>(c, at, Next<double>{b.g, b.p, b.m, b.v});
    const double forward = b.g * rate.u + b.p * rate.m + b.m * rate.v + (S == Second::kLargest ? b.v * rate.top : 0);
    good = good && near(back.g * d.g + back.p * d.p + back.m * d.m + back.v * d.v + back.top * d.top, forward);
  }
  check(good, "derivatives are wrong", S, "formulas");
  c.epsilon = c.rho = c.take2 = 0;
  const Entry<double> zero{0, 0, 0, 0, 0}, of = updates::pull<S>(c, zero, Next<double>{1, 1, 1, 1});
  check(std::isfinite(of.g + of.p + of.m + of.v + of.top), "a derivative at zero is not finite", S, "formulas");
}

template <Second S, class T>
void check_kind(std::mt19937& random) {
  std::vector<int64_t> sizes{0, 2047, 2048, 2049, 40000, 1};
  for (int64_t n = 1; n < 36; ++n) sizes.push_back(n);
  for (const Kernels<T>& kernels : kernels_of_this_processor<T>()) check_kernels<S, T>(kernels, sizes, random);
}

template <Second S>
void check_second(std::mt19937& random) {
  check_formulas<S>(random);
  check_kind<S, float>(random);
  check_kind<S, double>(random);
}

}  // namespace

/// How many checks failed.
int check_updates() {
  std::mt19937 random(0);
  check_second<Second::kNone>(random);
  check_second<Second::kSquare>(random);
  check_second<Second::kLargest>(random);
  check_second<Second::kCentered>(random);
  check_second<Second::kMaximum>(random);
  return failures;
}
