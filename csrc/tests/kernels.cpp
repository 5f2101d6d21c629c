// The kernels without Python, for sanitizers: every instruction set, size, dtype and stride, in buffers of exact length.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "cpu/kernels.h"
#include "device_qp.h"

namespace {

using namespace optl;

int failures = 0;

void check(bool good, const char* what, const QpSizes& z, const char* isa) {
  if (good) return;
  ++failures;
  std::printf("%s: %s at batch %d, n %d, k %d, m %d, bounds %d\n", isa, what, static_cast<int>(z.batch),
              static_cast<int>(z.n), static_cast<int>(z.k), static_cast<int>(z.m), static_cast<int>(z.lower));
}

/// The kernels as one instruction set provides them.
template <class T>
struct Kernels {
  const char* isa;
  decltype(&portable::workspace_size) workspace_size;
  decltype(&portable::qp_solve<T>) solve;
  decltype(&portable::qp_backward<T>) backward;
};

template <class T>
std::vector<Kernels<T>> kernels_of_this_processor() {
  std::vector<Kernels<T>> out{
      {"portable", portable::workspace_size, portable::qp_solve<T>, portable::qp_backward<T>},
      {"device", device::workspace_size, device::qp_solve<T>, device::qp_backward<T>}};
#ifdef OPTL_DISPATCH_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    out.push_back({"avx2", avx2::workspace_size, avx2::qp_solve<T>, avx2::qp_backward<T>});
  }
#endif
#ifdef OPTL_DISPATCH_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    out.push_back({"avx512", avx512::workspace_size, avx512::qp_solve<T>, avx512::qp_backward<T>});
  }
#endif
  return out;
}

/// A workspace that ends where it should, aligned as it should be and full of NaN.
class Workspace {
 public:
  explicit Workspace(int64_t count) : data_(static_cast<double*>(::operator new(bytes(count), kAlignment))) {
    std::fill_n(data_, count, std::numeric_limits<double>::quiet_NaN());
  }
  Workspace(const Workspace&) = delete;
  ~Workspace() { ::operator delete(data_, kAlignment); }
  double* data() const { return data_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  static size_t bytes(int64_t count) { return static_cast<size_t>(count) * sizeof(double); }
  double* data_;
};

/// One array a sample: `gap` entries lie between one and the next, and must not be read; or one that all share.
template <class T>
struct Array {
  std::vector<T> values;
  int64_t count = 0, stride = 0;

  Array() = default;
  Array(int64_t batch, int64_t size, int64_t gap, bool shared)
      : values(static_cast<size_t>(shared ? size : std::max<int64_t>(batch * (size + gap) - gap, 0)),
               std::numeric_limits<T>::quiet_NaN()),
        count(size), stride(shared ? 0 : size + gap) {}
  T* operator[](int64_t b) { return values.data() + b * stride; }
  operator Batched<const T>() const { return {values.data(), stride}; }
  operator Batched<T>() { return {values.data(), stride}; }
};

struct Masks {
  std::unique_ptr<bool[]> values;
  int64_t count;
  Masks(int64_t batch, int64_t size) : values(new bool[static_cast<size_t>(batch * size)]), count(size) {}
  const bool* operator[](int64_t b) const { return values.get() + b * count; }
  operator Batched<const bool>() const { return {values.get(), count}; }
  operator Batched<bool>() { return {values.get(), count}; }
};

enum class Layout { kContiguous, kGaps, kShared };

/// Feasible programs: Q = LL'/n + I/100, all else standard normal, a point with positive slacks.
template <class T>
struct Problem {
  QpSizes z;
  Array<T> Q, p, G, h, A, b, lb, ub;

  Problem(const QpSizes& sizes, Layout layout, std::mt19937& random) : z(sizes) {
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    const int64_t gap = layout == Layout::kGaps ? 3 : 0;
    const bool shared = layout == Layout::kShared;
    const auto array = [&](int64_t size, bool may_share) { return Array<T>(z.batch, size, gap, shared && may_share); };
    Q = array(z.n * z.n, true), p = array(z.n, false), G = array(z.m * z.n, true), h = array(z.m, true);
    A = array(z.k * z.n, true), b = array(z.k, true), lb = array(z.lower, true), ub = array(z.upper, true);
    std::vector<double> L(static_cast<size_t>(z.n * z.n)), x(static_cast<size_t>(z.n));
    for (int64_t s = 0; s < z.batch; ++s) {
      for (int64_t j = 0; j < z.n; ++j) p[s][j] = static_cast<T>(normal(random));
      if (shared && s > 0) continue;
      for (double& v : L) v = normal(random);
      for (double& v : x) v = normal(random);
      for (int64_t i = 0; i < z.n; ++i) {
        for (int64_t j = 0; j < z.n; ++j) {
          double sum = i == j ? 0.01 : 0;
          for (int64_t l = 0; l < z.n; ++l) sum += at(L, i * z.n + l) * at(L, j * z.n + l) / static_cast<double>(z.n);
          Q[s][i * z.n + j] = static_cast<T>(sum);
        }
      }
      const auto fill = [&](T* rows, T* sides, int64_t count, bool slack) {
        for (int64_t i = 0; i < count; ++i) {
          double sum = slack ? uniform(random) : 0;
          for (int64_t j = 0; j < z.n; ++j) {
            rows[i * z.n + j] = static_cast<T>(normal(random));
            sum += static_cast<double>(rows[i * z.n + j]) * at(x, j);
          }
          sides[i] = static_cast<T>(sum);
        }
      };
      fill(G[s], h[s], z.m, true);
      fill(A[s], b[s], z.k, false);
      for (int64_t j = 0; j < z.lower; ++j) lb[s][j] = static_cast<T>(at(x, j) - uniform(random));
      for (int64_t j = 0; j < z.upper; ++j) ub[s][j] = static_cast<T>(at(x, j) + uniform(random));
    }
  }

  QpProblem<T> view() const { return {Q, p, G, h, A, b, lb, ub}; }

 private:
  static double at(const std::vector<double>& v, int64_t i) { return v[static_cast<size_t>(i)]; }
};

template <class T>
struct Solution {
  Array<T> x, y, z, z_lb, z_ub, s, residuals;
  Masks active_G, active_lb, active_ub;
  Array<int64_t> status, iterations;

  explicit Solution(const QpSizes& q)
      : x(q.batch, q.n, 0, false), y(q.batch, q.k, 0, false), z(q.batch, q.m, 0, false),
        z_lb(q.batch, q.lower, 0, false), z_ub(q.batch, q.upper, 0, false), s(q.batch, q.m, 0, false),
        residuals(q.batch, 3, 0, false), active_G(q.batch, q.m), active_lb(q.batch, q.lower),
        active_ub(q.batch, q.upper), status(q.batch, 1, 0, false), iterations(q.batch, 1, 0, false) {}

  QpResult<T> view() { return {x, y, z, z_lb, z_ub, s, active_G, active_lb, active_ub, status, iterations, residuals}; }
};

template <class T>
double tolerance() { return sizeof(T) == 4 ? 1e-5 : 1e-9; }

template <class T>
Solution<T> solve(const Kernels<T>& kernels, const QpSizes& z, const QpProblem<T>& problem, int threads) {
  const Workspace workspace(threads * kernels.workspace_size(z));
  Solution<T> out(z);
  kernels.solve(z, problem, tolerance<T>(), 100, out.view(), workspace.data(), threads);
  return out;
}

/// max |M'v| is added to `out`; rows x n.
template <class T>
void add_adjoint(const T* M, const T* v, int64_t rows, int64_t n, std::vector<double>& out) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) out[static_cast<size_t>(j)] += static_cast<double>(M[i * n + j]) * v[i];
  }
}

template <class T>
double row_times(const T* row, const T* x, int64_t n) {
  double sum = 0;
  for (int64_t j = 0; j < n; ++j) sum += static_cast<double>(row[j]) * x[j];
  return sum;
}

double largest(const std::vector<double>& v) {
  double most = 0;
  for (const double entry : v) most = std::max(most, std::fabs(entry));
  return most;
}

/// Stationarity, feasibility, signs and complementarity, absolute; the data are of order one.
template <class T>
double kkt_residual(Problem<T>& in, Solution<T>& out, int64_t s) {
  const QpSizes& z = in.z;
  std::vector<double> gradient(static_cast<size_t>(z.n));
  for (int64_t j = 0; j < z.n; ++j) {
    gradient[static_cast<size_t>(j)] = row_times(in.Q[s] + j * z.n, out.x[s], z.n) + in.p[s][j] -
                                       (z.lower ? out.z_lb[s][j] : 0) + (z.upper ? out.z_ub[s][j] : 0);
  }
  add_adjoint(in.A[s], out.y[s], z.k, z.n, gradient);
  add_adjoint(in.G[s], out.z[s], z.m, z.n, gradient);
  double worst = largest(gradient);
  const auto pair = [&worst](double slack, double multiplier) {
    worst = std::max(worst, std::fabs(std::min(slack, multiplier)));
  };
  for (int64_t i = 0; i < z.k; ++i) {
    worst = std::max(worst, std::fabs(row_times(in.A[s] + i * z.n, out.x[s], z.n) - in.b[s][i]));
  }
  for (int64_t i = 0; i < z.m; ++i) pair(in.h[s][i] - row_times(in.G[s] + i * z.n, out.x[s], z.n), out.z[s][i]);
  for (int64_t j = 0; j < z.lower; ++j) pair(out.x[s][j] - in.lb[s][j], out.z_lb[s][j]);
  for (int64_t j = 0; j < z.upper; ++j) pair(in.ub[s][j] - out.x[s][j], out.z_ub[s][j]);
  return worst;
}

/// Backward with random cotangents: the system it solves holds, and the gradients are the products of the solution.
template <class T>
void check_backward(const Kernels<T>& kernels, Problem<T>& in, Solution<T>& at, std::mt19937& random, int threads) {
  const QpSizes& z = in.z;
  const int64_t B = z.batch;
  std::normal_distribution<double> normal;
  const auto cotangent = [&](int64_t size) {
    Array<T> out(B, size, 2, false);
    for (int64_t b = 0; b < B; ++b) std::generate_n(out[b], size, [&] { return static_cast<T>(normal(random)); });
    return out;
  };
  Array<T> v_x = cotangent(z.n), v_y = cotangent(z.k), v_z = cotangent(z.m), v_lb = cotangent(z.lower),
           v_ub = cotangent(z.upper);
  const auto output = [&](int64_t size) { return Array<T>(B, size, 0, false); };
  Array<T> u_x = output(z.n), u_y = output(z.k), u_z = output(z.m), u_lb = output(z.lower), u_ub = output(z.upper),
           error = output(1), grad_Q = output(z.n * z.n), grad_G = output(z.m * z.n), grad_A = output(z.k * z.n);
  const QpKkt<T> system{in.Q, in.G, in.A, at.active_G, at.active_lb, at.active_ub, v_x, v_y, v_z, v_lb, v_ub};
  const Workspace workspace(threads * kernels.workspace_size(z));
  kernels.backward(z, {system, at.x, at.y, at.z}, {{u_x, u_y, u_z, u_lb, u_ub, error}, grad_Q, grad_G, grad_A},
                   workspace.data(), threads);
  for (int64_t s = 0; s < B; ++s) {
    std::vector<double> left(static_cast<size_t>(z.n));
    double size = 1, wrong = 0;
    for (int64_t j = 0; j < z.n; ++j) {
      left[static_cast<size_t>(j)] = row_times(in.Q[s] + j * z.n, u_x[s], z.n) - v_x[s][j] -
                                     (z.lower ? u_lb[s][j] : 0) + (z.upper ? u_ub[s][j] : 0);
      size = std::max(size, std::fabs(static_cast<double>(u_x[s][j])));
    }
    add_adjoint(in.A[s], u_y[s], z.k, z.n, left);
    add_adjoint(in.G[s], u_z[s], z.m, z.n, left);
    for (int64_t i = 0; i < z.k; ++i) {
      size = std::max(size, std::fabs(static_cast<double>(u_y[s][i])));
      wrong = std::max(wrong, std::fabs(row_times(in.A[s] + i * z.n, u_x[s], z.n) - v_y[s][i]));
      wrong = std::max(wrong, std::fabs(grad_A[s][i * z.n] + at.y[s][i] * u_x[s][0] + double{u_y[s][i]} * at.x[s][0]));
    }
    for (int64_t i = 0; i < z.m; ++i) {
      size = std::max(size, std::fabs(static_cast<double>(u_z[s][i])));
      const double row = row_times(in.G[s] + i * z.n, u_x[s], z.n) - v_z[s][i];
      wrong = std::max(wrong, std::fabs(at.active_G[s][i] ? row : double{u_z[s][i]}));
      wrong = std::max(wrong, std::fabs(grad_G[s][i * z.n] + at.z[s][i] * u_x[s][0] + double{u_z[s][i]} * at.x[s][0]));
    }
    wrong = std::max(wrong, std::fabs(double{grad_Q[s][z.n - 1]} +
                                      (u_x[s][0] * at.x[s][z.n - 1] + at.x[s][0] * u_x[s][z.n - 1]) / 2));
    check(std::max(wrong, largest(left)) <= 30 * tolerance<T>() * size, "backward is wrong", z, kernels.isa);
  }
}

template <class T>
void check_random(const Kernels<T>& kernels, const QpSizes& z, Layout layout, std::mt19937& random) {
  Problem<T> problem(z, layout, random);
  Solution<T> one = solve(kernels, z, problem.view(), 1), two = solve(kernels, z, problem.view(), 2);
  for (int64_t b = 0; b < z.batch; ++b) {
    check(*one.status[b] == kSolved, "is not solved", z, kernels.isa);
    check(kkt_residual(problem, one, b) <= 30 * tolerance<T>(), "is not optimal", z, kernels.isa);
  }
  const auto same = [](const Array<T>& left, const Array<T>& right) { return left.values == right.values; };
  check(same(one.x, two.x) && same(one.y, two.y) && same(one.z, two.z), "depends on the threads", z, kernels.isa);

  QpSizes single = z;  // each sample alone takes the other layout where n is small
  single.batch = 1;
  for (int64_t b = 0; b < z.batch; ++b) {
    const auto from = [b](Batched<const T> v) { return Batched<const T>{v[b], v.stride}; };
    const QpProblem<T> all = problem.view();
    Solution<T> alone = solve(kernels, single,
                              {from(all.Q), from(all.p), from(all.G), from(all.h), from(all.A), from(all.b),
                               from(all.lb), from(all.ub)},
                              1);
    double apart = 0;
    for (int64_t j = 0; j < z.n; ++j) apart = std::max(apart, std::fabs(double{alone.x[0][j]} - one.x[b][j]));
    check(apart <= tolerance<T>(), "depends on the batch", z, kernels.isa);
  }
  check_backward(kernels, problem, one, random, 2);
}

/// Samples without a solution, among others that have one.
template <class T>
void check_statuses(const Kernels<T>& kernels, int64_t n, std::mt19937& random) {
  const QpSizes z{6, n, 1, 4, n, n};
  Problem<T> problem(z, Layout::kContiguous, random);
  const T infinity = std::numeric_limits<T>::infinity();
  for (int64_t j = 0; j < n; ++j) problem.G[1][n + j] = -problem.G[1][j];  // the opposite of the row above
  problem.h[1][1] = -problem.h[1][0] - 1;
  problem.p[2][0] = std::numeric_limits<T>::quiet_NaN();
  problem.Q[3][0] = -1;
  std::fill_n(problem.Q[4], n * n, T(0)), std::fill_n(problem.A[4], n, T(0)), std::fill_n(problem.G[4], 4 * n, T(0));
  std::fill_n(problem.lb[4], n, -infinity), std::fill_n(problem.ub[4], n, infinity);
  std::fill_n(problem.h[4], 4, T(1)), problem.b[4][0] = 0;
  Solution<T> out = solve(kernels, z, problem.view(), 2);
  const int64_t expected[] = {kSolved, kPrimalInfeasible, kInvalidInput, kInvalidInput, kDualInfeasible, kSolved};
  check(std::equal(expected, expected + 6, out.status.values.begin()), "has wrong statuses", z, kernels.isa);
}

template <class T>
void check_all() {
  std::mt19937 random(0);
  for (const Kernels<T>& kernels : kernels_of_this_processor<T>()) {
    // Every size that lanes may take, and of larger ones every remainder of a tile.
    for (int64_t n = 1; n <= 70; n += (n < 27 ? 1 : 5) * (sizeof(T) == 4 ? 3 : 1)) {
      const int64_t bounds = n % 2 ? n : 0;
      device::room = n % 3 * 3000;
      const auto layout = static_cast<Layout>(n % 3);
      check_random(kernels, {n < 20 ? 11 : 3, n, n / 4, 70 - n, n % 4 == 1 ? bounds : 0, bounds}, layout, random);
    }
    for (const int64_t n : {97, 130}) check_random(kernels, {2, n, n / 5, n, 0, 0}, Layout::kContiguous, random);
    check_random(kernels, {1, 210, 42, 210, 0, 0}, Layout::kContiguous, random);  // both threads on one problem
    check_random(kernels, {3, 8, 0, 0, 0, 0}, Layout::kContiguous, random);
    check_random(kernels, {2, 60, 0, 0, 60, 60}, Layout::kContiguous, random);
    for (const int64_t n : {5, 64}) check_statuses(kernels, n, random);
    std::printf("%s, %d bytes: done\n", kernels.isa, static_cast<int>(sizeof(T)));
  }
}

}  // namespace

int check_searches();  // searches.cpp
int check_device();    // device.cpp
int check_ldl();       // ldl.cpp
int check_cone_kkt();  // cone_kkt.cpp
int check_cones();     // cones.cpp
int check_updates();   // updates.cpp

int main() {
  check_all<double>();
  check_all<float>();
  failures += check_searches() + check_device() + check_ldl() + check_cone_kkt() + check_cones() + check_updates();
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
