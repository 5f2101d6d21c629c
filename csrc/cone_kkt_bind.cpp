// The Python face of cone_kkt_api.h: addresses in, kernels called without the GIL. bind.cpp registers it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "cone_kkt_api.h"
#include "cpu/cone_kkt_plan.h"

namespace py = pybind11;

namespace {

using Integers = std::vector<int64_t>;

template <class T>
T* address(int64_t value) { return reinterpret_cast<T*>(value); }

/// Arguments as flat integers: words and exponents of the plan and the batch, then address and stride of each array.
class Arguments {
 public:
  explicit Arguments(const Integers& values)
      : plan(address<const int32_t>(values.at(0)), address<const double>(values.at(1))), batch(values.at(2)),
        values_(values) {}
  template <class T>
  optl::Batched<T> next() {
    T* const data = address<T>(values_.at(position_));
    const int64_t stride = values_.at(position_ + 1);
    position_ += 2;
    return {data, stride};
  }
  template <class T, class... Arrays>
  void read(Arrays&... arrays) { ((arrays = next<T>()), ...); }

  optl::ConeKktPlan plan;
  int64_t batch;

 private:
  const Integers& values_;
  size_t position_ = 3;
};

optl::ConeKktProblems problems(Arguments& in) {
  optl::ConeKktProblems p{};
  in.read<const double>(p.P, p.q, p.A, p.b);
  return p;
}

void refine(const Integers& values, int64_t workspace, int threads) {
  Arguments in(values);
  const auto p = problems(in);
  optl::ConeKktPoints start{};
  in.read<const double>(start.x, start.s, start.z);
  optl::ConeKktRefined out{};
  in.read<double>(out.x, out.v, out.w, out.s, out.z, out.residuals);
  const py::gil_scoped_release release;
  optl::cone_kkt_refine(in.plan, in.batch, p, start, out, address<double>(workspace), threads);
}

void solve(const Integers& values, bool transpose, int64_t workspace, int threads) {
  Arguments in(values);
  optl::ConeKktLinear s{};
  in.read<const double>(s.P, s.A, s.v, s.w, s.r_x, s.r_v, s.r_s, s.r_z);
  optl::ConeKktLinearResult out{};
  in.read<double>(out.d_x, out.d_v, out.d_s, out.d_z, out.error);
  const py::gil_scoped_release release;
  optl::cone_kkt_solve(in.plan, in.batch, s, transpose, out, address<double>(workspace), threads);
}

void gradients(const Integers& values) {
  Arguments in(values);
  optl::ConeKktGradients at{};
  in.read<const double>(at.x, at.z, at.u, at.t);
  optl::Batched<double> grad_P{}, grad_A{};
  in.read<double>(grad_P, grad_A);
  const py::gil_scoped_release release;
  optl::cone_kkt_gradients(in.plan, in.batch, at, grad_P, grad_A);
}

void valid(const Integers& values, int64_t of_P, int64_t workspace) {
  Arguments in(values);
  const auto p = problems(in);
  const auto out = in.next<bool>();
  const py::gil_scoped_release release;
  optl::cone_kkt_valid(in.plan, optl::LdlPlan(address<const int32_t>(of_P)), in.batch, p, out, address<double>(workspace));
}

py::bytes ldl_analyse(int32_t n, int32_t entries, int64_t rows, int64_t cols) {
  std::vector<int32_t> words;
  {
    const py::gil_scoped_release release;
    words = optl::ldl_analyse(n, entries, address<const int32_t>(rows), address<const int32_t>(cols));
  }
  return {reinterpret_cast<const char*>(words.data()), words.size() * sizeof(int32_t)};
}

}  // namespace

void bind_cone_kkt(py::module_& module) {
  module.def("ldl_analyse", &ldl_analyse, "Analyse the pattern of a symmetric matrix; the words of its plan, as bytes.");
  module.def("cone_kkt_workspace", [](const Integers& values) {
    const Arguments in(values);
    return optl::cone_kkt_workspace(in.plan, in.batch);
  });
  module.def("cone_kkt_valid_workspace", [](int64_t of_P) {
    return optl::cone_kkt_valid_workspace(optl::LdlPlan(address<const int32_t>(of_P)));
  });
  module.def("cone_kkt_refine", &refine);
  module.def("cone_kkt_solve", &solve);
  module.def("cone_kkt_gradients", &gradients);
  module.def("cone_kkt_valid", &valid);
}
