// Refinement and linear systems of cone programs for sanitizers: every instruction set and cone, buffers of exact length.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "cpu/cone_kkt.h"
#include "cpu/cone_kkt_plan.h"
#include "cpu/kernels.h"

#ifndef OPTL_ISA
#define OPTL_ISA portable
#endif
#include "cpu/cone_projection.h"

namespace {

using namespace optl;
using Values = std::vector<double>;

int failures = 0;

void check(bool good, const char* what, int64_t batch, const char* isa) {
  if (good) return;
  ++failures;
  std::printf("%s: cone %s of a batch of %d\n", isa, what, static_cast<int>(batch));
}

struct Kernels {
  const char* isa;
  decltype(&portable::kkt::cone_kkt_workspace) workspace;
  decltype(&portable::kkt::cone_kkt_refine) refine;
  decltype(&portable::kkt::cone_kkt_solve) solve;
  decltype(&portable::kkt::cone_kkt_gradients) gradients;
  decltype(&portable::kkt::cone_kkt_valid) valid;
};

#define OPTL_KERNELS(isa)                                                                                     \
  Kernels{#isa, isa::kkt::cone_kkt_workspace, isa::kkt::cone_kkt_refine, isa::kkt::cone_kkt_solve,            \
          isa::kkt::cone_kkt_gradients, isa::kkt::cone_kkt_valid}

/// Programs with P diagonal, A dense and these blocks: kind and rows.
struct Program {
  int32_t n, m = 0, entries;
  std::vector<int32_t> words, rows, cols;
  std::vector<ConeKktBlock> blocks;
  Values exponents;

  Program(int32_t variables, const std::vector<std::pair<int32_t, int32_t>>& cones) : n(variables) {
    int32_t vectors = 0, order = 0;
    for (const auto& [kind, size] : cones) {
      const bool dense = kind > ConeKktBlock::kNonneg;
      blocks.push_back({kind, m, size, vectors, 0, dense ? n : 0}), exponents.push_back(0.4);
      m += size, vectors += dense ? size * size : 0;
      if (kind == ConeKktBlock::kPsd) order = std::max(order, size);  // rows: more than enough
    }
    for (int32_t i = 0; i < n + m; ++i) rows.push_back(i), cols.push_back(i);
    std::vector<int32_t> slot(static_cast<size_t>(m * n)), block_of;
    for (size_t b = 0; b < blocks.size(); ++b) {
      ConeKktBlock& block = blocks[b];
      block.entry = static_cast<int32_t>(rows.size());
      for (int32_t c = 0; c < n; ++c) {
        for (int32_t r = 0; r < block.size; ++r) {
          const size_t at = static_cast<size_t>((block.start + r) * n + c);
          slot[at] = block.entry + c * block.size + (block.kind > ConeKktBlock::kNonneg ? 0 : r);
          rows.push_back(n + block.start + r), cols.push_back(c);
        }
      }
      block_of.insert(block_of.end(), static_cast<size_t>(block.size), static_cast<int32_t>(b));
    }
    entries = static_cast<int32_t>(rows.size());
    words = {n, m, static_cast<int32_t>(blocks.size()), n, m * n, entries, vectors, order};
    for (const ConeKktBlock& b : blocks) words.insert(words.end(), {b.kind, b.start, b.size, b.vectors, b.entry, b.columns});
    for (int part = 0; part < 3; ++part) {
      for (int32_t j = 0; j < n; ++j) words.push_back(j);
    }
    for (int32_t e = 0; e < m * n; ++e) words.push_back(e / n);
    for (int32_t e = 0; e < m * n; ++e) words.push_back(e % n);
    for (const auto* list : {&slot, &block_of, &rows, &cols}) words.insert(words.end(), list->begin(), list->end());
    const auto ldl = ldl_analyse(n + m, entries, rows.data(), cols.data());
    words.insert(words.end(), ldl.begin(), ldl.end());
  }
};

/// An aligned workspace of exact length, full of NaN.
struct Workspace {
  static constexpr std::align_val_t kLine{64};
  double* data;
  explicit Workspace(int64_t count)
      : data(static_cast<double*>(::operator new(static_cast<size_t>(count) * sizeof(double), kLine))) {
    std::fill_n(data, count, std::numeric_limits<double>::quiet_NaN());
  }
  Workspace(const Workspace&) = delete;
  ~Workspace() { ::operator delete(data, kLine); }
};

void check_batch(const Kernels& kernels, const Program& p, int64_t batch, std::mt19937& random) {
  std::normal_distribution<double> normal;
  const ConeKktPlan plan(p.words.data(), p.exponents.data());
  const int64_t n = p.n, m = p.m, shared = batch == 3 ? 1 : batch;
  const auto values = [&](int64_t count, int64_t samples) {
    Values v(static_cast<size_t>(count * samples));
    for (double& e : v) e = normal(random);
    return v;
  };
  const auto in = [](const Values& v, int64_t stride) { return Batched<const double>{v.data(), stride}; };
  const auto out = [](Values& v, int64_t stride) { return Batched<double>{v.data(), stride}; };
  Values P(static_cast<size_t>(n * shared), 1.5), A = values(m * n, shared), x = values(n, batch), v = values(m, batch);
  Values q(x.size()), b(v.size()), s(v.size()), z(v.size()), work(static_cast<size_t>(4 * m * m + 1));
  const int64_t of_P = shared == batch ? n : 0, of_A = shared == batch ? m * n : 0;
  for (int64_t k = 0; k < batch; ++k) {
    for (const ConeKktBlock& block : p.blocks) {
      double *const from = v.data() + k * m + block.start, *const to = s.data() + k * m + block.start;
      if (block.kind > ConeKktBlock::kNonneg) {
        portable::kkt::projection::project(block, 0.4, from, to, work.data());
      } else {
        for (int32_t r = 0; r < block.size; ++r) to[r] = block.kind == ConeKktBlock::kZero ? 0 : std::max(from[r], 0.0);
      }
    }
    for (int64_t i = 0; i < m; ++i) z[k * m + i] = s[k * m + i] - v[k * m + i], b[k * m + i] = s[k * m + i];
    for (int64_t j = 0; j < n; ++j) q[k * n + j] = -1.5 * x[k * n + j];
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const double a = A[k * of_A + i * n + j];
        b[k * m + i] += a * x[k * n + j], q[k * n + j] -= a * z[k * m + i];
      }
    }
  }
  Values near = x, out_x(x.size()), out_v(v.size()), w(v.size()), out_s(v.size()), out_z(v.size());
  for (double& e : near) e += 1e-7 * normal(random);
  Values residuals(static_cast<size_t>(2 * batch)), error(static_cast<size_t>(batch));
  const ConeKktProblems problems{in(P, of_P), in(q, n), in(A, of_A), in(b, m)};
  for (const int threads : {1, 2}) {
    const Workspace room(std::min<int64_t>(threads, batch) * kernels.workspace(plan, batch));
    kernels.refine(plan, batch, problems, {in(near, n), in(s, m), in(z, m)},
                   {out(out_x, n), out(out_v, m), out(w, m), out(out_s, m), out(out_z, m), out(residuals, 2)}, room.data,
                   threads);
    check(*std::max_element(residuals.begin(), residuals.end()) < 1e-11, "refinement", batch, kernels.isa);
    for (const bool transpose : {false, true}) {
      const ConeKktLinear system{in(P, of_P), in(A, of_A), in(out_v, m), in(w, m), in(x, n), in(v, m), in(s, m), in(z, m)};
      Values u(x.size()), t(v.size()), d_s(v.size()), d_z(v.size());
      kernels.solve(plan, batch, system, transpose, {out(u, n), out(t, m), out(d_s, m), out(d_z, m), out(error, 1)},
                    room.data, threads);
      check(*std::max_element(error.begin(), error.end()) < 1e-11, "linear system", batch, kernels.isa);
      Values grad_P(P.size()), grad_A(A.size());
      kernels.gradients(plan, batch, {in(x, n), in(z, m), in(u, n), in(t, m)}, out(grad_P, of_P), out(grad_A, of_A));
      const auto finite = [](const Values& v) { return std::all_of(v.begin(), v.end(), [](double e) { return std::isfinite(e); }); };
      check(finite(grad_P) && finite(grad_A), "gradient", batch, kernels.isa);
    }
  }
  const auto diagonal = ldl_analyse(p.n, p.n, p.rows.data(), p.cols.data());
  const LdlPlan plan_of_P(diagonal.data());
  const std::unique_ptr<bool[]> valid(new bool[static_cast<size_t>(batch)]);
  const Workspace room(cone_kkt_valid_workspace(plan_of_P));
  kernels.valid(plan, plan_of_P, batch, problems, {valid.get(), 1}, room.data);
  check(std::all_of(valid.get(), valid.get() + batch, [](bool good) { return good; }), "validity", batch, kernels.isa);
}

}  // namespace

int check_cone_kkt() {
  std::vector<Kernels> all{OPTL_KERNELS(portable)};
#ifdef OPTL_DISPATCH_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(OPTL_KERNELS(avx2));
#endif
#ifdef OPTL_DISPATCH_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    all.push_back(OPTL_KERNELS(avx512));
  }
#endif
  using B = ConeKktBlock;
  const Program none(4, {}), mixed(23, {{B::kZero, 2}, {B::kNonneg, 5}, {B::kSecondOrder, 1}, {B::kSecondOrder, 6},
                                        {B::kPsd, 1}, {B::kPsd, 6}, {B::kExponential, 3}, {B::kPower, 3}});
  std::mt19937 random(5);
  for (const Kernels& kernels : all) {
    for (const int64_t batch : {1, 2, 3, 11}) {
      for (const Program* program : {&none, &mixed}) check_batch(kernels, *program, batch, random);
    }
  }
  return failures;
}
