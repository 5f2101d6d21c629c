"""CvxpyLayer: values and duals against cvxpy itself, derivatives, batches, failures, what is refused."""

import copy
import importlib
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol

cp = pytest.importorskip("cvxpy")  # an optional dependency
pytest.importorskip("clarabel")

F64 = torch.float64


def least_squares(m=5, n=3):
    """Box-constrained least squares, which is a QP; cvxpy adds the residual to the variables."""
    A, b, x = cp.Parameter((m, n)), cp.Parameter(m), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0, x <= 0.3])
    return problem, [A, b], [x], [torch.randn(m, n, dtype=F64), torch.randn(m, dtype=F64)]


def by_cvxpy(problem, parameters, values, variables, **options):
    """What cvxpy itself makes of it."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value.numpy()
    problem.solve(solver="CLARABEL", **options)
    dense = [v.value.toarray() if hasattr(v.value, "toarray") else v.value for v in variables]
    return [torch.as_tensor(np.asarray(value, dtype=float)) for value in dense]


def duals(problem):
    return [dual for constraint in problem.constraints for dual in constraint.dual_variables]


# -- a catalogue of problems ----------------------------------------------------------------------------------------


def randn(*shape):
    return torch.randn(*shape, dtype=F64)


def symmetric(n):
    matrix = randn(n, n)
    return matrix + matrix.mT


def quadratic_form():
    P, b, x = cp.Parameter((3, 3), PSD=True), cp.Parameter(3), cp.Variable(3)
    root = randn(3, 3)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) + b @ x), [cp.sum(x) == 1, x >= -1])
    return problem, [P, b], [x], [root @ root.mT + torch.eye(3, dtype=F64), randn(3)]


def maximization():
    b, x = cp.Parameter(3), cp.Variable(3)
    problem = cp.Problem(cp.Maximize(b @ x - cp.sum_squares(x)), [x <= 0.1, cp.sum(x) == 0])
    return problem, [b], [x], [randn(3)]


def norm_ball():
    b, x = cp.Parameter(3), cp.Variable(3)
    return cp.Problem(cp.Minimize(b @ x), [cp.norm(x) <= 2, x[0] >= 0.1]), [b], [x], [randn(3)]


def several_second_order_cones():
    b, t, X = cp.Parameter(3), cp.Variable(2), cp.Variable((3, 2))
    target = cp.vstack([b, 2 * b]).T
    problem = cp.Problem(cp.Minimize(cp.sum(t) + cp.sum_squares(X - target)), [cp.SOC(t, X, axis=0)])
    return problem, [b], [t, X], [randn(3)]


def robust_least_squares():
    A, b, x = cp.Parameter((5, 2)), cp.Parameter(5), cp.Variable(2)
    return cp.Problem(cp.Minimize(cp.norm(A @ x - b) + 0.3 * cp.norm(x))), [A, b], [x], [randn(5, 2), randn(5)]


def portfolio():
    mu, root, risk, w = cp.Parameter(4), cp.Parameter((4, 4)), cp.Parameter(nonneg=True), cp.Variable(4)
    problem = cp.Problem(cp.Maximize(mu @ w), [cp.sum(w) == 1, w >= 0, cp.norm(root @ w) <= risk])
    values = [randn(4), torch.eye(4, dtype=F64) + 0.1 * randn(4, 4), torch.tensor(0.7, dtype=F64)]
    return problem, [mu, root, risk], [w], values


def nearest_correlation():
    C, X = cp.Parameter((3, 3), symmetric=True), cp.Variable((3, 3), symmetric=True)
    return cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0, cp.diag(X) == 1]), [C], [X], [symmetric(3)]


def semidefinite_variable():
    C, X = cp.Parameter((3, 3), symmetric=True), cp.Variable((3, 3), PSD=True)
    return cp.Problem(cp.Minimize(cp.trace(C @ X) + cp.sum_squares(X)), [cp.trace(X) == 1]), [C], [X], [symmetric(3)]


def diagonal_variable():
    C, D = cp.Parameter((3, 3)), cp.Variable((3, 3), diag=True)
    return cp.Problem(cp.Minimize(cp.sum_squares(D - C)), [D >> 0.2 * np.eye(3)]), [C], [D], [randn(3, 3)]


def sparse_variable():
    C, X = cp.Parameter((3, 3)), cp.Variable((3, 3), sparsity=[(0, 1, 2), (1, 2, 0)])
    return cp.Problem(cp.Minimize(cp.sum_squares(X - C) + 0.1 * cp.sum(cp.abs(X)))), [C], [X], [randn(3, 3)]


def diagonal_parameter():
    D, x = cp.Parameter((3, 3), diag=True), cp.Variable(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(D @ x - 1) + cp.norm1(x)))
    return problem, [D], [x], [torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=F64))]


def entropy():
    b, x = cp.Parameter(3), cp.Variable(3, nonneg=True)
    return cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) + b @ x), [cp.sum(x) == 1]), [b], [x], [randn(3)]


def logistic_regression():
    X, x = cp.Parameter((4, 2)), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.logistic(X @ x)) + 0.1 * cp.sum_squares(x)))
    return problem, [X], [x], [randn(4, 2)]


def log_sum_exp():
    b, x = cp.Parameter(3), cp.Variable(3)
    return cp.Problem(cp.Minimize(cp.log_sum_exp(x - b) + 0.5 * cp.sum_squares(x))), [b], [x], [randn(3)]


def power_cones():
    b, (u, w, v) = cp.Parameter(2), (cp.Variable(2) for _ in range(3))
    objective = cp.sum(v) - cp.sum_squares(u - b) - cp.sum_squares(w - 1)
    return cp.Problem(cp.Maximize(objective), [cp.PowCone3D(u, w, v, [0.3, 0.6])]), [b], [u, w, v], [randn(2) + 2]


def exponential_cones():
    b, (u, w, v) = cp.Parameter(2), (cp.Variable(2) for _ in range(3))
    objective = cp.sum(v) + cp.sum_squares(u - b) + cp.sum_squares(w - 1)
    return cp.Problem(cp.Minimize(objective), [cp.ExpCone(u, w, v)]), [b], [u, w, v], [randn(2)]


def geometric_mean():
    b, x = cp.Parameter(3), cp.Variable(3, nonneg=True)
    problem = cp.Problem(cp.Maximize(cp.geo_mean(x, approx=False)), [b @ x <= 1])  # a cone that cvxpy has to split
    return problem, [b], [x], [torch.rand(3, dtype=F64) + 0.2]


def relu():
    b, x = cp.Parameter(4), cp.Variable(4)  # the projection onto the nonnegative orthant
    return cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x], [randn(4)]


def multilabel():
    c, x = cp.Parameter(4), cp.Variable(4)  # LML: the two largest of four, softly
    entropy = cp.sum(cp.entr(x)) + cp.sum(cp.entr(1 - x))
    return cp.Problem(cp.Minimize(-c @ x - entropy), [cp.sum(x) == 2]), [c], [x], [randn(4)]


def cut_relaxation():
    C, X = cp.Parameter((4, 4), symmetric=True), cp.Variable((4, 4), PSD=True)
    return cp.Problem(cp.Maximize(cp.trace(C @ X)), [cp.diag(X) == 1]), [C], [X], [symmetric(4)]


def constrained_regulator():
    start, weights = cp.Parameter(2), cp.Parameter(2, nonneg=True)
    x, u = cp.Variable((4, 2)), cp.Variable(3)
    A, B = np.array([[1.0, 0.3], [0.0, 1.0]]), np.array([[0.0, 0.5]])
    moves = [x[0] == start, x[1:] == x[:-1] @ A.T + cp.reshape(u, (3, 1), order="C") @ B, cp.abs(u) <= 0.4]
    problem = cp.Problem(cp.Minimize(cp.sum(cp.square(x) @ weights) + cp.sum_squares(u)), moves)
    return problem, [start, weights], [x, u], [torch.tensor([1.0, 0.7], dtype=F64), torch.tensor([1.0, 0.5], dtype=F64)]


PROBLEMS = [
    relu,
    multilabel,
    cut_relaxation,
    constrained_regulator,
    least_squares,
    quadratic_form,
    maximization,
    norm_ball,
    several_second_order_cones,
    robust_least_squares,
    portfolio,
    nearest_correlation,
    semidefinite_variable,
    diagonal_variable,
    sparse_variable,
    diagonal_parameter,
    entropy,
    logistic_regression,
    log_sum_exp,
    power_cones,
    exponential_cones,
    geometric_mean,
]
pytestmark = pytest.mark.filterwarnings("ignore:Reading from a sparse CVXPY expression")  # cvxpy itself does
each_problem = pytest.mark.parametrize("make", PROBLEMS, ids=lambda make: make.__name__)


@each_problem
def test_values_and_duals_are_those_of_cvxpy(make):
    problem, parameters, variables, values = make()
    variables = variables + duals(problem)
    got = ol.CvxpyLayer(problem, parameters, variables)(*values)
    for output, variable, want in zip(got, variables, by_cvxpy(problem, parameters, values, variables), strict=True):
        assert output.shape == variable.shape and output.dtype == F64
        torch.testing.assert_close(output, want.reshape(output.shape), rtol=1e-4, atol=1e-4)


@each_problem
def test_gradients_in_all_parameters_of_all_outputs(make):
    problem, parameters, variables, values = make()
    # No dual of the diagonal is unique: whatever is off the diagonal of it multiplies nothing.
    layer = ol.CvxpyLayer(problem, parameters, variables + (duals(problem) if make is not diagonal_variable else []))
    inputs = [value.requires_grad_() for value in values]
    f = lambda *v: torch.cat([output.flatten() for output in layer(*v)])  # noqa: E731
    assert gradcheck(f, inputs, fast_mode=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [least_squares, quadratic_form, norm_ball], ids=lambda make: make.__name__)
def test_second_derivatives_and_forward_mode(make):
    problem, parameters, variables, values = make()
    layer = ol.CvxpyLayer(problem, parameters, variables)
    inputs = [value.requires_grad_() for value in values]
    assert gradcheck(lambda *v: layer(*v)[0], inputs, fast_mode=True, check_forward_ad=True, rtol=1e-5, atol=1e-5)
    assert gradgradcheck(lambda *v: layer(*v)[0], inputs, fast_mode=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("make", "closed_form"), [(relu, torch.relu), (multilabel, ol.LML(2))], ids=["relu", "lml"])
def test_problems_of_known_solution(make, closed_form):
    problem, parameters, variables, (value,) = make()
    value.requires_grad_()
    (x,) = ol.CvxpyLayer(problem, parameters, variables)(value)
    torch.testing.assert_close(x, closed_form(value), rtol=1e-8, atol=1e-8)
    weights = randn(4)
    (got,), (want,) = (torch.autograd.grad(weights @ t, value) for t in (x, closed_form(value)))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


def test_a_geometric_program_of_known_solution():
    """The box of largest volume with surface a: a cube, of side sqrt(a / 6)."""
    x, y, z, area = (*(cp.Variable(pos=True) for _ in range(3)), cp.Parameter(pos=True))
    problem = cp.Problem(cp.Maximize(x * y * z), [2 * (x * y + x * z + y * z) <= area])
    layer = ol.CvxpyLayer(problem, [area], [x, y, z], gp=True)
    a = torch.tensor([6.0, 24.0], dtype=F64, requires_grad=True)
    for side in layer(a):
        torch.testing.assert_close(side, (a / 6).sqrt(), rtol=1e-8, atol=1e-8)
        (grad,) = torch.autograd.grad(side.sum(), a, retain_graph=True)
        torch.testing.assert_close(grad, 1 / (24 * a).sqrt(), rtol=1e-7, atol=1e-8)


def test_a_geometric_program_with_a_parameter_as_exponent():
    x, y, z = (cp.Variable(pos=True) for _ in range(3))
    a, b, c = cp.Parameter(pos=True), cp.Parameter(pos=True), cp.Parameter()
    problem = cp.Problem(cp.Minimize(1 / (x * y * z)), [a * (x * y + x * z + y * z) <= b, x >= y**c])
    values = [torch.tensor(value, dtype=F64) for value in (2.0, 1.0, 0.5)]
    layer = ol.CvxpyLayer(problem, [a, b, c], [x, y, z], gp=True)
    for got, want in zip(layer(*values), by_cvxpy(problem, [a, b, c], values, [x, y, z], gp=True), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    inputs = [value.requires_grad_() for value in values]
    assert gradcheck(lambda *v: torch.stack(layer(*v)), inputs, fast_mode=True, rtol=1e-5, atol=1e-5)


# -- batches, dtypes, life as a module ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [least_squares, norm_ball, quadratic_form], ids=lambda make: make.__name__)
def test_batched_and_unbatched_parameters_mix(make):
    problem, parameters, variables, values = make()
    layer = ol.CvxpyLayer(problem, parameters, variables)
    last = values[-1] + 0.1 * torch.arange(3, dtype=F64)[:, None]
    leaves = [value.requires_grad_() for value in values[:-1]]
    (together,) = layer(*leaves, last)
    single = torch.stack([layer(*leaves, one)[0] for one in last])
    torch.testing.assert_close(together, single, rtol=1e-9, atol=1e-9)
    if leaves:
        grads = [torch.autograd.grad(x.pow(3).sum(), leaves) for x in (together, single)]
        for got, want in zip(*grads, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(layer(*leaves, last[:1])[0], single[:1], rtol=1e-9, atol=1e-9)
    assert layer(*leaves, last[:0])[0].shape == (0, *single.shape[1:])


def test_vmap_is_a_loop():
    for make in (quadratic_form, norm_ball):
        problem, parameters, variables, values = make()
        layer = ol.CvxpyLayer(problem, parameters, variables)
        last = values[-1] + 0.1 * torch.arange(3, dtype=F64)[:, None]
        mapped = torch.func.vmap(lambda v, layer=layer, values=values: layer(*values[:-1], v)[0])(last)
        torch.testing.assert_close(mapped, layer(*values[:-1], last)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [least_squares, norm_ball], ids=lambda make: make.__name__)
def test_float32_in_float32_out(make):
    problem, parameters, variables, values = make()
    layer = ol.CvxpyLayer(problem, parameters, variables)
    single = [value.float().requires_grad_() for value in values]
    (x,) = layer(*single)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), layer(*values)[0], rtol=1e-5, atol=1e-5)
    x.sum().backward()
    assert all(value.grad.dtype == torch.float32 for value in single)


def test_copies_pickles_and_two_threads():
    problem, parameters, variables, values = norm_ball()
    layer = ol.CvxpyLayer(problem, parameters, variables)
    (want,) = layer(*values)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.to(torch.float32)):
        assert torch.equal(other(*values)[0], want)
    with ThreadPoolExecutor(2) as pool:
        assert all(torch.equal(x, want) for (x,) in pool.map(lambda _: layer(*values), range(8)))


def test_values_of_the_problem_are_left_alone():
    problem, parameters, variables, values = norm_ball()
    by_cvxpy(problem, parameters, values, variables)
    before = [np.array(v.value) for v in (*variables, *duals(problem))]
    ol.CvxpyLayer(problem, parameters, variables + duals(problem))(*(2 * value for value in values))
    for old, v in zip(before, (*variables, *duals(problem)), strict=True):
        assert np.array_equal(old, v.value)


def test_a_problem_without_parameters():
    x = cp.Variable(2)
    layer = ol.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x[0] == 0]), [], [x])
    torch.testing.assert_close(layer()[0], torch.tensor([0.0, 1.0]))


def test_no_constraints():
    b, x = cp.Parameter(2), cp.Variable(2)
    layer = ol.CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, np.eye(2)) + b @ x)), [b], [x])
    torch.testing.assert_close(layer(torch.ones(2))[0], torch.full((2,), -0.5))


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "sparse"])
def test_both_engines_of_quadratic_programs(dense):
    problem, parameters, variables, values = least_squares()
    variables = variables + duals(problem)
    layer = ol.CvxpyLayer(problem, parameters, variables)
    layer.quadratic.dense = dense
    cone = ol.CvxpyLayer(problem, parameters, variables, solver=ol.Clarabel())
    leaves = [torch.stack([value, 2 * value]).requires_grad_() for value in values]
    got, want = layer(*leaves), cone(*leaves)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)
    grads = [torch.autograd.grad(sum(t.sin().sum() for t in outputs), leaves) for outputs in (got, want)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_maps_with_several_terms_an_entry():
    """Each entry of the data is a sum over parameters: no longer a gather."""
    weights, x = cp.Parameter(3), cp.Variable(2)
    terms = [randn(4, 2).numpy() for _ in range(3)]
    A = sum(weights[i] * terms[i] for i in range(3))
    problem = cp.Problem(cp.Minimize(cp.norm(A @ x - 1) + cp.sum_squares(x)))
    layer = ol.CvxpyLayer(problem, [weights], [x])
    assert any(map_.gather is None for _, map_ in layer.program.A.maps)
    inputs = randn(2, 3).requires_grad_()
    assert gradcheck(lambda w: layer(w)[0], inputs, check_forward_ad=True, fast_mode=True, rtol=1e-5, atol=1e-6)
    assert gradgradcheck(lambda w: layer(w)[0], inputs, fast_mode=True, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.func.vmap(lambda w: layer(w)[0])(inputs), layer(inputs)[0])


# -- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conic", [False, True], ids=["qp", "cone"])
def test_failed_samples_are_nan_and_leave_the_others_alone(conic):
    """x between lower and 1, and at most 2 in norm."""
    lower, target, x = cp.Parameter(), cp.Parameter(2), cp.Variable(2)
    constraints = [x >= lower, x <= 1, *([cp.norm(x) <= 2] if conic else [])]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - target)), constraints)
    layer = ol.CvxpyLayer(problem, [lower, target], [x, constraints[0].dual_variables[0]], throw=False)
    leaves = [torch.tensor([0.0, 3.0, torch.nan, 0.5], dtype=F64), torch.zeros(4, 2, dtype=F64)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    solution = layer.solve(*leaves)
    S = ol.Status
    assert solution.status.tolist() == [S.SOLVED, S.PRIMAL_INFEASIBLE, S.INVALID_INPUT, S.SOLVED]
    x, dual = solution.variables
    assert x[1:3].isnan().all() and dual[1:3].isnan().all()
    torch.testing.assert_close(x[[0, 3]], torch.tensor([[0.0, 0.0], [0.5, 0.5]], dtype=F64), rtol=0, atol=1e-6)
    x.nan_to_num().sum().backward()
    assert torch.equal(leaves[0].grad[1:3], torch.zeros(2, dtype=F64)) and leaves[0].grad[3] == pytest.approx(2.0)
    layer.throw = True
    with pytest.raises(ol.SolveError, match="CvxpyLayer: 2 of 4 samples"):
        layer(*leaves)


def test_unbounded():
    b, x = cp.Parameter(), cp.Variable()
    layer = ol.CvxpyLayer(cp.Problem(cp.Minimize(x), [x <= b]), [b], [x])
    with pytest.raises(ol.SolveError, match="DUAL_INFEASIBLE"):
        layer(torch.ones(()))


def test_solver_and_its_arguments():
    pytest.importorskip("scs")
    problem, parameters, variables, values = norm_ball()
    (want,) = ol.CvxpyLayer(problem, parameters, variables)(*values)
    for solver in ("SCS", "CLARABEL", "DIFFCP", ol.SCS()):
        layer = ol.CvxpyLayer(problem, parameters, variables, solver=solver, solver_args={"eps": 1e-12})
        torch.testing.assert_close(layer(*values, warm_start=True)[0], want, rtol=1e-8, atol=1e-8)
    (x,) = layer(*values, solver_args={"acceleration_lookback": 0, "mode": "lsqr", "max_iters": 10_000})
    torch.testing.assert_close(x, want, rtol=1e-8, atol=1e-8)
    with pytest.raises(ol.SolveError, match="MAX_STEPS"):
        layer(*values, solver_args={"max_iters": 1})
    with pytest.raises(TypeError, match="solver_args has 'tolerance'"):
        layer(*values, solver_args={"tolerance": 1e-3})


# -- what is refused ------------------------------------------------------------------------------------------------


def test_problems_that_are_refused():
    A, b, x = cp.Parameter((2, 2)), cp.Parameter(2), cp.Variable(2)
    ok = cp.Problem(cp.Minimize(cp.sum_squares(x - b)))
    with pytest.raises(ValueError, match="must be DPP"):
        ol.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(A @ A @ x - b))), [A, b], [x])
    with pytest.raises(ValueError, match="parameters are"):
        ol.CvxpyLayer(ok, [A, b], [x])
    with pytest.raises(ValueError, match="parameters are"):
        ol.CvxpyLayer(ok, [], [x])
    with pytest.raises(ValueError, match="is neither in"):
        ol.CvxpyLayer(ok, [b], [cp.Variable(2)])
    with pytest.raises(ValueError, match="lists or tuples"):
        ol.CvxpyLayer(ok, b, [x])
    with pytest.raises(ValueError, match="solver is 'MOSEK'"):
        ol.CvxpyLayer(ok, [b], [x], solver="MOSEK")
    n = cp.Variable(2, integer=True)
    with pytest.raises(ValueError, match="integer"):
        ol.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(n - b))), [b], [n])
    u = cp.Variable(pos=True)
    with pytest.raises(ValueError, match="pass gp=True"):
        ol.CvxpyLayer(cp.Problem(cp.Minimize(1 / u), [u**2.5 * u <= 2]), [], [u])


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ([(5, 3)], "A tensor must be provided for each CVXPY parameter"),
        ([(5, 2), (5,)], "has shape"),
        ([(4, 5, 3), (2, 5)], "do not broadcast"),
        ([(4, 5, 3), (4, 4, 5)], "at most one batch dimension"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_named(shapes, match):
    problem, parameters, variables, _ = least_squares()
    layer = ol.CvxpyLayer(problem, parameters, variables)
    with pytest.raises(ValueError, match=match):
        layer(*(torch.zeros(shape) for shape in shapes))
    with pytest.raises(TypeError, match=r"expected a torch\.Tensor"):
        layer(np.zeros((5, 3)), np.zeros(5))


def test_a_missing_cvxpy_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    problem, parameters, variables, _ = least_squares()
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install optlayers\[cvxpy\]"):
        ol.CvxpyLayer(problem, parameters, variables)
