"""The solver for cvxpylayers: by the calls that its layer makes, and in that layer where the package is installed."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

import optlayers as ol

cp = pytest.importorskip("cvxpy")
pytest.importorskip("clarabel")
from test_cvxpy_layer import (  # noqa: E402
    entropy,
    least_squares,
    logistic_regression,
    maximization,
    norm_ball,
    portfolio,
    quadratic_form,
    robust_least_squares,
    semidefinite_variable,
)

F64 = torch.float64
MODULE = "optlayers.compat.cvxpylayers"
PROBLEMS = [
    least_squares,
    quadratic_form,
    maximization,
    norm_ball,
    portfolio,
    robust_least_squares,
    semidefinite_variable,
    entropy,
    logistic_regression,
]


@pytest.fixture(autouse=True)
def package(monkeypatch):
    """cvxpylayers, or as much of it as the module imports."""
    try:
        importlib.import_module("cvxpylayers.interfaces.base")
        return
    except ImportError:
        pass
    for name in ("cvxpylayers", "cvxpylayers.interfaces", "cvxpylayers.interfaces.base"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["cvxpylayers.interfaces.base"], "SolverInterface", object, raising=False)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


def new_solver(*args, **options):
    return importlib.import_module(MODULE).OptLayers(*args, **options)


class Calls:
    """What cvxpylayers' torch layer asks of its solver, for a problem with all parameters in one batch."""

    def __init__(self, problem, parameters, solver):
        scopes = importlib.import_module("cvxpy.utilities.scopes")
        with scopes.quad_form_dpp_scope():
            data, chain, _ = problem.get_problem_data(solver="CLARABEL")
        program = data["param_prob"]
        program.reduced_P.cache()
        program.reduced_A.cache()
        self.solver, self.parameters, self.program = solver, parameters, program
        renamed, (x,) = chain.compose_var_id_map(), problem.variables()
        self.start = program.var_id_to_col[renamed.get(x.id, [x.id])[0]]
        renamed = chain.compose_param_id_map()
        self.columns = [program.param_id_to_col[renamed.get(p.id, [p.id])[0]] for p in parameters]
        self.ctx = SimpleNamespace(
            q=program.q, reduced_P=program.reduced_P, reduced_A=program.reduced_A, cone_dims=data["dims"]
        )
        solver.setup(self.ctx)

    def inputs(self, values):
        """``P``, ``q`` and ``A`` for values of the parameters, each ``(B, *shape)``; nothing symmetric."""
        stack = torch.ones(len(values[0]), self.program.total_param_size + 1, dtype=F64)
        for start, value in zip(self.columns, values, strict=True):
            flat = value.permute(0, *reversed(range(1, value.dim()))).flatten(1)  # column by column
            stack[:, start : start + flat.shape[1]] = flat
        parts = (self.ctx.reduced_P.reduced_mat, self.ctx.q, self.ctx.reduced_A.reduced_mat)
        return [None if part is None else torch.from_numpy(stack.numpy() @ part.toarray().T) for part in parts]

    def solve(self, inputs, needs_grad=True, **solver_args):
        return self.solver.solve_torch_batch(*inputs, self.ctx.cone_dims, solver_args, needs_grad)


def batch_of(make, count=3):
    problem, parameters, variables, values = make()
    return problem, parameters, variables, [torch.stack([(1 + 0.1 * i) * v for i in range(count)]) for v in values]


@pytest.mark.parametrize("make", [least_squares, norm_ball, robust_least_squares], ids=lambda make: make.__name__)
def test_values_and_derivatives_by_the_calls_of_the_layer(make):
    problem, parameters, variables, values = batch_of(make)
    calls = Calls(problem, parameters, new_solver())
    inputs = calls.inputs(values)
    x, z, state = calls.solve(inputs)
    (want,) = ol.CvxpyLayer(problem, parameters, variables)(*values)
    torch.testing.assert_close(x[:, calls.start : calls.start + want.shape[1]], want, rtol=1e-9, atol=1e-9)
    assert not x.requires_grad and not z.requires_grad
    dx, dz = torch.randn_like(x), torch.randn_like(z)
    grads = calls.solver.derivative_torch_batch(dx, dz, state)
    again = calls.solver.derivative_torch_batch(dx, dz, state)  # as with retain_graph=True
    step, directions = 1e-6, [None if t is None else torch.randn_like(t) * (t != 0) for t in inputs]
    moved = []
    for sign in (1, -1):
        at = [None if t is None else t + sign * step * d for t, d in zip(inputs, directions, strict=True)]
        x, z, _ = calls.solve(at, needs_grad=False)
        moved.append((dx * x).sum() + (dz * z).sum())
    got = sum((g * d).sum() for g, d in zip(grads, directions, strict=True) if g is not None)
    torch.testing.assert_close(got, (moved[0] - moved[1]) / (2 * step), rtol=1e-5, atol=1e-6)
    for first, second, given in zip(grads, again, inputs, strict=True):
        assert (first is None) == (given is None)
        assert given is None or (first.shape == given.shape and torch.equal(first, second))


def test_quadratic_programs_take_the_engine_for_them_unless_a_solver_is_named():
    problem, parameters, _, values = batch_of(least_squares)
    quadratic, cone = Calls(problem, parameters, new_solver()), Calls(problem, parameters, new_solver(ol.Clarabel()))
    assert quadratic.solver.quadratic is not None and cone.solver.quadratic is None
    results = [calls.solve(calls.inputs(values))[:2] for calls in (quadratic, cone)]
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(cone.solve(cone.inputs(values), eps=1e-7, mode="lsqr")[0], results[1][0])
    with pytest.raises(TypeError, match="solver_args has 'tolerance'"):
        cone.solve(cone.inputs(values), tolerance=1e-3)


@pytest.mark.parametrize("conic", [False, True], ids=["qp", "cone"])
def test_an_infeasible_sample_leaves_the_others_alone(conic):
    b, x = cp.Parameter(2), cp.Variable(2)
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(x - b - 0.2)), [x <= 1, x >= b, *([cp.norm(x) <= 9] if conic else [])]
    )
    values = [torch.tensor([[0.0, 0.5], [2.0, 0.0]], dtype=F64)]
    calls = Calls(problem, [b], new_solver(throw=False))
    x, z, state = calls.solve(calls.inputs(values))
    assert x[0].isfinite().all() and x[1].isnan().all() and z[1].isnan().all()
    dx = torch.zeros_like(x)
    dx[:, calls.start : calls.start + 2] = 1.0  # what else cvxpy added need not be unique
    for grad in calls.solver.derivative_torch_batch(dx, torch.zeros_like(z), state):
        assert grad is None or (grad.isfinite().all() and not grad[1].any())
    with pytest.raises(ol.SolveError, match="OptLayers: 1 of 2 samples"):
        Calls(problem, [b], new_solver()).solve(calls.inputs(values))


def test_one_object_serves_one_layer():
    problem, parameters, _, _ = least_squares()
    solver = new_solver()
    Calls(problem, parameters, solver)
    with pytest.raises(ValueError, match="the solver of another layer"):
        Calls(problem, parameters, solver)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpylayers.interfaces.base", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(ImportError, match="pip install cvxpylayers"):
        importlib.import_module(MODULE)


@pytest.mark.filterwarnings("ignore:Reading from a sparse CVXPY expression")
@pytest.mark.parametrize("make", PROBLEMS, ids=lambda make: make.__name__)
def test_in_the_layer_of_cvxpylayers(make):
    layers = pytest.importorskip("cvxpylayers.torch")
    problem, parameters, variables, values = batch_of(make)
    theirs = layers.CvxpyLayer(problem, parameters, variables, solver=new_solver())
    leaves = [value.requires_grad_() for value in values]
    own = ol.CvxpyLayer(problem, parameters, variables)
    results = []
    for layer in (theirs, own):
        (x,) = layer(*leaves)
        grads = torch.autograd.grad(x.sin().sum(), leaves)
        # cvxpylayers reads a triangle of a symmetric parameter, and gives the gradient there
        results.append(
            [x, *(g + g.mT if p.ndim == 2 and p.is_symmetric() else g for g, p in zip(grads, parameters, strict=True))]
        )
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
