// The cone program kernel for sanitizers: every cone and instruction set, one sample and many, in buffers of exact length.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <new>
#include <random>
#include <vector>

#include "cpu/cone_plan.h"
#include "cpu/kernels.h"

namespace {

using namespace optl;

int failures = 0;

void check(bool good, const char* what, const char* family, const char* isa) {
  if (good) return;
  ++failures;
  std::printf("cones, %s: %s of %s\n", isa, what, family);
}

struct Kernel {
  const char* isa;
  decltype(&portable::cone_workspace) workspace;
  decltype(&portable::cone_solve) solve;
};

std::vector<Kernel> kernels_of_this_processor() {
  std::vector<Kernel> out{{"portable", portable::cone_workspace, portable::cone_solve}};
#ifdef OPTL_DISPATCH_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    out.push_back({"avx2", avx2::cone_workspace, avx2::cone_solve});
  }
#endif
#ifdef OPTL_DISPATCH_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    out.push_back({"avx512", avx512::cone_workspace, avx512::cone_solve});
  }
#endif
  return out;
}

struct Family {
  const char* name;
  int32_t n;
  bool quadratic;
  ConeSizes cones;
  std::vector<double> exponents;
};

/// A point inside each cone and its dual.
std::vector<double> unit_point(const Family& f) {
  std::vector<double> e(f.cones.zero, 0.0);
  e.insert(e.end(), f.cones.nonneg, 1.0);
  for (const int32_t d : f.cones.second_order) e.push_back(1), e.insert(e.end(), d - 1, 0.0);
  for (const int32_t k : f.cones.semidefinite) {
    for (int32_t j = 0; j < k; ++j) e.insert(e.end(), j, 0.0), e.push_back(1);
  }
  for (int32_t i = 0; i < f.cones.exponential; ++i) e.insert(e.end(), {-1.05, 0.556, 1.26});
  for (const double a : f.exponents) e.insert(e.end(), {std::sqrt(1 + a), std::sqrt(2 - a), 0.1});
  return e;
}

/// A batch with a diagonal P, if any, a dense A and known strictly feasible points; sample 1, if there is one, holds a NaN.
/// In sample 2 a row asks for the impossible.
struct Programs {
  int64_t batch, n, m;
  std::vector<double> P, q, A, b;
  std::vector<int32_t> P_index, A_rows, A_cols;

  Programs(const Family& f, int64_t batch, std::mt19937& random) : batch(batch), n(f.n) {
    const std::vector<double> e = unit_point(f);
    m = static_cast<int64_t>(e.size());
    std::normal_distribution<double> normal;
    for (int32_t j = 0; j < n && f.quadratic; ++j) P_index.push_back(j);
    for (int32_t i = 0; i < m; ++i) {
      for (int32_t j = 0; j < n; ++j) A_rows.push_back(i), A_cols.push_back(j);
    }
    for (int64_t sample = 0; sample < batch; ++sample) {
      for (int64_t j = 0; j < n && f.quadratic; ++j) P.push_back(0.1 + std::fabs(normal(random)));
      std::vector<double> x(n), slope(n, 0.0);
      for (double& v : x) v = normal(random);
      for (int64_t i = 0; i < m; ++i) {
        double at = 0;
        const double z = i < f.cones.zero ? normal(random) : e[i];
        for (int64_t j = 0; j < n; ++j) {
          A.push_back(normal(random));
          at += A.back() * x[j], slope[j] += A.back() * z;
        }
        b.push_back(at + e[i]);
      }
      for (int64_t j = 0; j < n; ++j) q.push_back(-slope[j] - (f.quadratic ? P[sample * n + j] * x[j] : 0));
      if (sample == 1) q.back() = std::numeric_limits<double>::quiet_NaN();
      if (sample == 2) {
        const int64_t row = sample * m + f.cones.zero + (f.cones.exponential == 3);  // of (x, y, z), y
        for (int64_t j = 0; j < n; ++j) A[row * n + j] = 0;
        b[row] = -100;
      }
    }
  }

  ConeProblem view(const Family& f, int64_t first, int64_t count) const {
    const int64_t of_P = static_cast<int64_t>(P_index.size());
    return {count, {P.data() + first * of_P, of_P}, {q.data() + first * n, n}, {A.data() + first * m * n, m * n},
            {b.data() + first * m, m}, f.exponents.data()};
  }
};

struct Found {
  std::vector<double> x, s, z;
  std::vector<int64_t> status, iterations;

  Found(const Kernel& kernel, const ConePlan& plan, const ConeProblem& in, int threads)
      : x(in.batch * plan.size.n), s(in.batch * plan.size.m), z(s.size()), status(in.batch), iterations(in.batch) {
    const int64_t count = threads * kernel.workspace(plan, in.batch);
    double* workspace = new (std::align_val_t{64}) double[static_cast<size_t>(count)];
    std::fill_n(workspace, count, std::numeric_limits<double>::quiet_NaN());
    const ConeResult out{{x.data(), plan.size.n}, {s.data(), plan.size.m}, {z.data(), plan.size.m}, {status.data(), 1},
                         {iterations.data(), 1}};
    kernel.solve(plan, in, 1e-8, 100, out, workspace, threads);
    operator delete[](workspace, std::align_val_t{64});
  }
};

/// Largest entry of Ax + s - b and of Px + A'z + q, and |s'z|.
double violation(const Programs& p, const Found& found, int64_t b, bool quadratic) {
  double worst = 0, gap = 0;
  std::vector<double> slope(p.q.begin() + b * p.n, p.q.begin() + (b + 1) * p.n);
  for (int64_t j = 0; j < p.n && quadratic; ++j) slope[j] += p.P[b * p.n + j] * found.x[b * p.n + j];
  for (int64_t i = 0; i < p.m; ++i) {
    double row = found.s[b * p.m + i] - p.b[b * p.m + i];
    for (int64_t j = 0; j < p.n; ++j) {
      const double a = p.A[(b * p.m + i) * p.n + j];
      row += a * found.x[b * p.n + j], slope[j] += a * found.z[b * p.m + i];
    }
    worst = std::max(worst, std::fabs(row)), gap += found.s[b * p.m + i] * found.z[b * p.m + i];
  }
  for (const double v : slope) worst = std::max(worst, std::fabs(v));
  return std::max(worst, std::fabs(gap));
}

void check_family(const Kernel& kernel, const Family& f, std::mt19937& random) {
  constexpr int64_t kBatch = 11;  // more than lanes, and not a multiple of them
  const Programs p(f, kBatch, random);
  const int32_t of_P = static_cast<int32_t>(p.P_index.size()), of_A = static_cast<int32_t>(p.A_rows.size());
  const std::vector<int32_t> words = cone_analyse(f.n, {of_P, p.P_index.data(), p.P_index.data()},
                                                  {of_A, p.A_rows.data(), p.A_cols.data()}, f.cones);
  const ConePlan plan(words.data());
  check(plan.size.m == p.m, "number of rows", f.name, kernel.isa);
  const Found all(kernel, plan, p.view(f, 0, kBatch), 2);
  for (int64_t b = 0; b < kBatch; ++b) {
    if (b == 1) {
      check(all.status[b] == kInvalidInput && all.x[b * p.n] != all.x[b * p.n], "a NaN", f.name, kernel.isa);
      continue;
    }
    if (b == 2) {
      check(all.status[b] == kPrimalInfeasible, "infeasibility", f.name, kernel.isa);
      continue;
    }
    check(all.status[b] == kSolved, "a status", f.name, kernel.isa);
    check(violation(p, all, b, f.quadratic) < 1e-5, "a residual", f.name, kernel.isa);
  }
  const Found one(kernel, plan, p.view(f, 3, 1), 1), some(kernel, plan, p.view(f, 3, 3), 1);
  for (int64_t j = 0; j < p.n; ++j) {
    // Rounding differs, and an objective that is known to 1e-8 tells x to the root of that.
    check(std::fabs(one.x[j] - all.x[3 * p.n + j]) < 1e-3, "one sample differs", f.name, kernel.isa);
    check(some.x[j] == all.x[3 * p.n + j], "the place in the batch matters", f.name, kernel.isa);
  }
}

}  // namespace

/// How many checks failed.
int check_cones() {
  const std::vector<Family> families{
      {"linear programs", 4, false, {1, 9, {}, {}, 0, 0}, {}},
      {"quadratic programs", 6, true, {2, 7, {}, {}, 0, 0}, {}},
      {"second-order cones", 5, true, {1, 0, {4, 1, 3}, {}, 0, 0}, {}},
      {"large second-order cones", 6, false, {0, 2, {20, 9}, {}, 0, 0}, {}},
      {"semidefinite cones", 4, true, {0, 0, {}, {3, 1, 4}, 0, 0}, {}},
      {"exponential cones", 4, true, {1, 0, {}, {}, 3, 0}, {}},
      {"power cones", 4, true, {0, 0, {}, {}, 0, 2}, {0.3, 0.8}},
      {"all cones", 8, true, {1, 3, {3}, {2}, 1, 1}, {0.5}},
  };
  std::mt19937 random(0);
  for (const Kernel& kernel : kernels_of_this_processor()) {
    for (const Family& family : families) check_family(kernel, family, random);
  }
  return failures;
}
