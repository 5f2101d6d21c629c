// The sparse LDL' for sanitizers: patterns of every kind, one matrix and one a lane, in buffers of exact length.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#ifndef OPTL_ISA
#define OPTL_ISA portable
#endif
#include "cpu/lane_ldl.h"

namespace {

using namespace optl;

int failures = 0;

void check(bool good, const char* what, const char* pattern) {
  if (good) return;
  ++failures;
  std::printf("ldl: %s of %s\n", what, pattern);
}

/// Entries (row, col) of a symmetric matrix, and the signs of its pivots.
struct Pattern {
  const char* name;
  int32_t n;
  std::vector<int32_t> rows, cols;
  std::vector<double> sign;

  void add(int32_t i, int32_t j) { rows.push_back(i), cols.push_back(j); }
};

/// [[Q, C'], [C, -D]] of n and m rows, each entry there with this probability; some given twice, in either triangle.
Pattern saddle(const char* name, int32_t n, int32_t m, double density, std::mt19937& random) {
  Pattern p{name, n + m, {}, {}, {}};
  std::uniform_real_distribution<double> uniform;
  for (int32_t i = 0; i < n + m; ++i) {
    p.sign.push_back(i < n ? 1 : -1), p.add(i, i);
    for (int32_t j = 0; j < i && j < n; ++j) {
      if (uniform(random) < density) p.add(i, j);
      if (uniform(random) < density / 4) p.add(j, i);
    }
  }
  return p;
}

/// A chain with one row that touches all, which eliminated first would fill everything.
Pattern arrow(int32_t n) {
  Pattern p{"an arrow", n, {}, {}, std::vector<double>(n, 1)};
  for (int32_t i = 0; i < n; ++i) {
    p.add(i, i);
    if (i > 0) p.add(0, i);
    if (i > 1) p.add(i, i - 1);
  }
  return p;
}

template <class V>
double& lane(V& v, size_t l) { return reinterpret_cast<double*>(&v)[l]; }

template <class V>
void check_solution(const Pattern& p, const LdlPlan& plan, std::mt19937& random) {
  std::normal_distribution<double> normal;
  const size_t n = static_cast<size_t>(p.n), count = p.rows.size(), lanes = sizeof(V) / sizeof(double);
  std::vector<V> entries(count), x(n), b(n), L(static_cast<size_t>(portable::ldl_values(plan)));
  std::vector<V> work(static_cast<size_t>(portable::ldl_workspace(plan)));
  std::vector<int32_t> place(n);
  for (size_t l = 0; l < lanes; ++l) {  // quasidefinite: diagonally dominant, with these signs
    std::vector<double> sum(n, 1.0);
    for (size_t e = 0; e < count; ++e) {
      if (p.rows[e] == p.cols[e]) continue;
      const double v = lane(entries[e], l) = normal(random);
      sum[static_cast<size_t>(p.rows[e])] += std::fabs(v), sum[static_cast<size_t>(p.cols[e])] += std::fabs(v);
    }
    for (size_t e = 0; e < count; ++e) {
      const size_t i = static_cast<size_t>(p.rows[e]);
      if (p.rows[e] == p.cols[e]) lane(entries[e], l) = p.sign[i] * sum[i];
    }
    for (size_t i = 0; i < n; ++i) lane(x[i], l) = normal(random);
  }
  const auto size = static_cast<int32_t>(count);
  portable::symmetric_product(p.n, size, p.rows.data(), p.cols.data(), entries.data(), x.data(), b.data());
  portable::ldl_load(plan, entries.data(), L.data());
  portable::ldl_factor(plan, p.sign.data(), 1e-12, L.data(), work.data(), place.data());
  portable::ldl_solve(plan, L.data(), b.data(), work.data());
  double error = 0;
  for (size_t i = 0; i < n; ++i) {
    for (size_t l = 0; l < lanes; ++l) error = std::max(error, std::fabs(lane(b[i], l) - lane(x[i], l)));
  }
  check(error < 1e-12, "a wrong solution", p.name);

  // Of nothing at all, every pivot is one of the right sign and of the least size, and L the identity.
  std::fill(entries.begin(), entries.end(), V{});
  portable::ldl_load(plan, entries.data(), L.data());
  portable::ldl_factor(plan, p.sign.data(), 0.5, L.data(), work.data(), place.data());
  std::copy(x.begin(), x.end(), b.begin());
  portable::ldl_solve(plan, L.data(), b.data(), work.data());
  bool replaced = true;
  for (size_t i = 0; i < n; ++i) replaced = replaced && lane(b[i], 0) == 2 * p.sign[i] * lane(x[i], 0);
  check(replaced, "a pivot that was not replaced", p.name);
}

}  // namespace

int check_ldl() {
  std::mt19937 random(3);
  std::vector<Pattern> patterns{arrow(40), saddle("one variable", 1, 0, 1, random), saddle("no entry", 7, 5, 0, random)};
  patterns.push_back(saddle("a dense matrix", 45, 30, 1, random));
  patterns.push_back(saddle("a dense matrix, no rows", 37, 0, 1, random));
  for (const auto& [n, m, density] : std::vector<std::tuple<int32_t, int32_t, double>>{
           {3, 2, 0.5}, {20, 30, 0.15}, {60, 90, 0.03}, {150, 150, 0.01}}) {
    patterns.push_back(saddle("a sparse matrix", n, m, density, random));
  }
  for (const Pattern& p : patterns) {
    const auto words = ldl_analyse(p.n, static_cast<int32_t>(p.rows.size()), p.rows.data(), p.cols.data());
    const LdlPlan plan(words.data());
    std::vector<int32_t> order(plan.order, plan.order + p.n), all(order.size());
    std::iota(all.begin(), all.end(), 0), std::sort(order.begin(), order.end());
    check(order == all, "an order that is no permutation", p.name);
    check_solution<double>(p, plan, random);
    check_solution<portable::Vec>(p, plan, random);
  }
  const Pattern p = arrow(40);
  const auto words = ldl_analyse(p.n, static_cast<int32_t>(p.rows.size()), p.rows.data(), p.cols.data());
  check(LdlPlan(words.data()).size.values < 6 * p.n, "fill", p.name);
  return failures;
}
