"""The CUDA kernels against the reference: on a GPU with DEVICE=cuda, else on blocks of threads that the host plays."""

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pybind11
import pytest
import torch

import optlayers as ol
from optlayers._native import available, ops, reference
from optlayers._native.reference_kkt import singular_tolerance

ROOT = Path(__file__).resolve().parents[1]
F64, F32 = torch.float64, torch.float32
EPS = {F64: 1e-9, F32: 1e-5}


@pytest.fixture(scope="module")
def played_module(tmp_path_factory):
    """cuda/bind.cpp over csrc/tests/host: the module of CUDA kernels, its blocks played by the host."""
    if not shutil.which("c++"):
        pytest.skip("needs a C++ compiler")
    target = tmp_path_factory.mktemp("cuda") / "_cuda.so"
    csrc = ROOT / "csrc"
    includes = [csrc, csrc / "include", pybind11.get_include(), sysconfig.get_path("include")]
    sources = [csrc / "cuda" / "bind.cpp", *(csrc / "tests" / "host").glob("*.cpp"), csrc / "tests" / "fibre.cpp"]
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-fPIC", "-shared", '-DOPTL_VERSION="played"']
    command = ["c++", *flags, *(f"-I{path}" for path in includes), *map(str, sources), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("_cuda", target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def kernels(device, request, monkeypatch):
    """`ops`, with the CUDA kernels in the place of the CPU's where there is no GPU; and the device to put data on."""
    if device.type == "cuda":
        assert available(device)
        return device
    module = request.getfixturevalue("played_module")
    monkeypatch.setattr("optlayers._native.extension.cuda", lambda: (module, None))
    monkeypatch.setattr(ops, "available", lambda device: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    for name in ("solve", "kkt", "backward"):
        monkeypatch.setattr(ops, f"_qp_{name}_cpu", getattr(ops, f"_qp_{name}_cuda"))
    return device


def qp_solve(device, problem, max_steps=100):
    moved = [t.to(device) for t in problem]
    result = ops._qp_solve_cuda(*moved, EPS[problem[1].dtype], max_steps)
    return ops.QPSolveResult(*(t.cpu() for t in result))


def make(batch, n, m, k, bounds=False, dtype=F64):
    """Random programs with a strictly feasible point."""
    L, x = torch.randn(batch, n, n, dtype=F64), torch.randn(batch, n, dtype=F64)
    G, A = torch.randn(batch, m, n, dtype=F64), torch.randn(batch, k, n, dtype=F64)
    mul = lambda M: (M @ x[..., None])[..., 0]  # noqa: E731
    width = n if bounds else 0
    lb, ub = (x[:, :width] + sign * torch.rand(batch, width, dtype=F64) for sign in (-1, 1))
    Q = L @ L.mT / n + 1e-2 * torch.eye(n, dtype=F64)
    data = (Q, torch.randn(batch, n, dtype=F64), G, mul(G) + torch.rand(batch, m, dtype=F64), A, mul(A), lb, ub)
    return [t.to(dtype) for t in data]


def assert_equal(mine, plain, dtype, rtol=None):
    rtol = rtol or (1e-9 if dtype == F64 else 2e-5)
    for name, a, b in zip(mine._fields, mine, plain, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, name
        if name not in ("iterations", "residuals"):  # rounding may decide a step earlier or later
            torch.testing.assert_close(
                a, b, rtol=rtol, atol=rtol, equal_nan=True, msg=lambda text, n=name: f"{n}: {text}"
            )


SIZES = [(3, 1, 2, 0), (5, 4, 0, 1), (3, 10, 10, 3), (2, 16, 30, 0), (2, 17, 9, 5), (2, 33, 40, 8), (1, 70, 30, 10)]


@pytest.mark.parametrize("dtype", [F64, F32], ids=str)
@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_solution_and_gradients_equal_the_reference(kernels, size, bounds, dtype):
    problem = make(*size, bounds=bounds, dtype=dtype)
    plain = ops.QPSolveResult(*reference.qp_solve(*problem, EPS[dtype], 100))
    mine = qp_solve(kernels, problem)
    assert_equal(mine, plain, dtype)
    assert (mine.residuals <= EPS[dtype]).all()

    Q, _, G, _, A = problem[:5]
    at = (Q, G, A, plain.active_G, plain.active_lb, plain.active_ub, plain.x, plain.y, plain.z)
    v = [torch.randn_like(t) for t in plain[:5]]
    want = ops.QPBackwardResult(*reference.qp_backward(*at, *v, True, True, True))
    moved = [t.to(kernels) for t in (*at, *v)]
    got = ops.QPBackwardResult(*(t.cpu() for t in ops._qp_backward_cuda(*moved, True, True, True)))
    assert got.error.max() < singular_tolerance(dtype)
    assert_equal(got._replace(error=want.error), want, dtype, rtol=1e-7 if dtype == F64 else 1e-3)
    some = ops._qp_backward_cuda(*moved, False, True, False)
    assert some[5].numel() == 0 and torch.equal(some[6].cpu(), got.grad_G) and some[7].numel() == 0


def linear_program():
    problem = make(4, 7, 5, 2, bounds=True)
    return [torch.zeros_like(problem[0]), *problem[1:]]


def repeated_rows():
    Q, p, G, h, A, b, lb, ub = make(3, 8, 6, 3)
    again = (torch.cat([t, t[:, :2]], 1) for t in (G, h, A, b))
    return [Q, p, *again, lb, ub]


def weakly_active():
    """The minimiser touches the first row without pushing."""
    x0 = torch.randn(3, 4).double()
    e = x0[:, :0]
    Q, G = torch.eye(4).double().expand(3, 4, 4), torch.eye(4).double()[:2].expand(3, 2, 4)
    return [Q, -x0, G, x0[:, :2] - torch.tensor([0.0, 1.0]).double(), x0.new_zeros(3, 0, 4), e, e, e]


def bad_scaling():
    Q, p, G, h, A, b, lb, ub = make(3, 10, 8, 3, bounds=True)
    rows = 10 ** torch.linspace(-6, 4, 8, dtype=F64)
    return [1e6 * Q, 1e6 * p, rows[:, None] * G, rows * h, 1e4 * A, 1e4 * b, lb, ub]


def absent_rows_and_fixed_variables():
    problem = make(3, 6, 8, 2, bounds=True)
    problem[3][:, 2:5], problem[6][:, 0], problem[7][:, 1] = torch.inf, -torch.inf, torch.inf
    problem[6][:, 4] = problem[7][:, 4]
    return problem


def degenerate_vertex():
    """Many more tight rows than variables, where the violation lags behind the gap."""
    G = torch.randn(3, 40, 5, dtype=F64)
    Q, e = 1e-6 * torch.eye(5, dtype=F64).expand(3, 5, 5), G[:, 0, :0]
    return [Q, -G[:, :3].sum(1), G, torch.zeros(3, 40).double(), G[:, :0], e, e, e]


def failures():
    """Solved, infeasible, NaN, not convex, unbounded, infeasible and unbounded, solved."""
    problem = make(7, 5, 4, 1, bounds=True)
    Q, p, G, h, A, b, lb, ub = problem
    G[1, 1], h[1, 1] = -G[1, 0], -h[1, 0] - 1
    p[2, 0], Q[3, 0, 0] = torch.nan, -1.0
    for i in (4, 5):
        Q[i], A[i], b[i], lb[i], ub[i] = 0, 0, 0, -torch.inf, torch.inf
        G[i], h[i] = 0, 1
    G[5, 0, 0], G[5, 1, 0], h[5, :2] = 1, -1, torch.tensor([-1.0, -1.0])
    return problem


HARD = (linear_program, repeated_rows, weakly_active, bad_scaling, absent_rows_and_fixed_variables, degenerate_vertex)


@pytest.mark.parametrize("family", [*HARD, failures], ids=lambda family: family.__name__)
def test_hard_cases_equal_the_reference(kernels, family):
    problem = family()
    plain = ops.QPSolveResult(*reference.qp_solve(*problem, 1e-9, 100))
    mine = qp_solve(kernels, problem)
    assert mine.status.tolist() == plain.status.tolist()
    if family is failures:
        solved = plain.status == 0
        assert solved.tolist() == [True, False, False, False, False, False, True]
        assert mine.x[2:4].isnan().all() and mine.z[2:4].isnan().all()
        torch.testing.assert_close(mine.x[solved], plain.x[solved], rtol=1e-9, atol=1e-9)
        G, h, A, b, lb, ub = (t[1] for t in problem[2:])
        y, z, z_lb, z_ub = (t[1] for t in mine[1:5])  # a Farkas certificate
        assert (G.mT @ z + A.mT @ y + z_ub - z_lb).abs().max() < 1e-7
        assert h @ z + b @ y + ub @ z_ub - lb @ z_lb < -1e-3
        assert abs(torch.cat([y, z, z_lb, z_ub]).abs().max() - 1) < 1e-12
        assert problem[1][4] @ mine.x[4] < 0  # a direction of descent
    else:
        assert (plain.status == 0).all()
        torch.testing.assert_close(mine.x, plain.x, rtol=1e-8, atol=1e-8)
        assert torch.equal(mine.active_G, plain.active_G) and torch.equal(mine.active_ub, plain.active_ub)


def test_singular_systems_get_the_least_squares_solution(kernels):
    """Repeated equalities with right-hand sides that differ, and a direction that nothing holds."""
    Q = torch.diag(torch.tensor([2.0, 1.0, 0.0, 3.0])).double().expand(2, 4, 4)
    A = torch.tensor([[1.0, 0, 0, 1], [1, 0, 0, 1]]).double().expand(2, 2, 4)
    e, none = Q[:, 0, :0], torch.zeros(2, 0, dtype=torch.bool)
    r_x, r_y = torch.randn(2, 4).double(), torch.randn(2, 2).double()
    system = [Q, Q[:, :0], A, none, none, none, r_x, r_y, e, e, e]
    want = ops.QPKktResult(*reference.qp_kkt(*system))
    got = ops.QPKktResult(*(t.cpu() for t in ops._qp_kkt_cuda(*(t.to(kernels) for t in system))))
    assert_equal(got, want, F64, rtol=1e-6)
    r_x[0, 0] = torch.nan
    got = ops._qp_kkt_cuda(*(t.to(kernels) for t in system))
    assert all(t[0].isnan().all() for t in got) and not any(t[1].isnan().any() for t in got)


def test_step_limit_and_empty_batch(kernels):
    problem = make(2, 8, 8, 2)
    assert qp_solve(kernels, problem, max_steps=1).status.tolist() == [int(ol.Status.MAX_STEPS)] * 2
    assert qp_solve(kernels, [t[:0] for t in problem]).x.shape == (0, 8)


def test_derivatives_through_the_public_function(kernels):
    Q, p, G, h, A, b, lb, ub = (t[0].to(kernels) for t in make(1, 4, 3, 1, bounds=True))
    p = torch.stack([p, p + 0.1])  # the others are shared

    def solve(Q, p, G, h, A, b, lb, ub):
        return ol.solve_qp(Q @ Q.mT + 0.1 * torch.eye(4, dtype=F64, device=kernels), p, G, h, A, b, lb=lb, ub=ub)[:3]

    inputs = [t.clone().requires_grad_() for t in (Q, p, G, h, A, b, lb, ub)]
    assert torch.autograd.gradcheck(solve, inputs)
    assert torch.autograd.gradgradcheck(solve, inputs, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_captures_both_kernels(device):
    problem = [t.to(device) for t in make(16, 12, 8, 3)]
    p, total = problem[1].requires_grad_(), torch.zeros((), dtype=F64, device=device)

    def step():
        x = ol.solve_qp(problem[0], p, *problem[2:6], throw=False).x
        (gradient,) = torch.autograd.grad(x.sum(), p)
        total.copy_(gradient.sum() + x.sum())

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():
        p.add_(0.1)
    graph.replay()
    replayed = total.item()
    step()
    assert replayed == pytest.approx(total.item(), rel=1e-12)
