"""solve_qp with sparse matrices: against the dense engine, by finite differences, degenerate, infeasible and large."""

import importlib

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_qp import EVERY_OUTPUT, F64, kkt_error, random_qp, requiring_grad
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol
from optlayers._base.pattern import _FromValues
from optlayers.linear_solve.sparse import SaddleFactor, equilibration, is_positive_semidefinite
from optlayers.solvers.crossover import crossover
from optlayers.solvers.sparse import SparsePoint, SparseProgram

pytest.importorskip("clarabel")  # an optional dependency
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
]
MATRICES = ("Q", "G", "A")
CONVERSIONS = {"csr": torch.Tensor.to_sparse_csr, "csc": torch.Tensor.to_sparse_csc}


def sparse_qp(batch=(), n=12, m=10, k=3, density=0.5, dtype=F64):
    """A random problem whose matrices have zeros, the same in all samples, as dense tensors."""
    data = random_qp(batch, n, m, k, dtype=dtype)
    x = (data["lb"] + data["ub"]) / 2
    keep = torch.rand(n, n) < density
    Q = data["Q"] * (keep & keep.T)
    data["Q"] = Q + torch.diag_embed(Q.abs().sum(-1) + 0.1)  # diagonally dominant, hence convex, whatever was kept
    for matrix, vector in (("G", "h"), ("A", "b")):
        pattern = torch.rand(data[matrix].shape[-2:]) < density
        pattern[:, 0] = True  # no empty row
        if matrix == "A":
            pattern[:, :k] = True  # no dependent rows, whose multipliers are not unique
        slack = torch.rand_like(data[vector]) / 10 if matrix == "G" else 0
        data[matrix] = data[matrix] * pattern
        data[vector] = (data[matrix] @ x[..., None])[..., 0] + slack
    return data


def to_sparse(data, layout="csr"):
    """The same with matrices as sparse leaves."""
    convert = CONVERSIONS[layout]
    leaves = {name: (convert(t) if name in MATRICES else t.clone()) for name, t in data.items()}
    return {name: t.detach().requires_grad_() for name, t in leaves.items()}


def values(tensor):
    return tensor if tensor.layout == torch.strided else tensor.values()


def weighted(solution):
    """A scalar that every output enters."""
    generator = torch.Generator().manual_seed(1)
    outputs = (getattr(solution, name) for name in EVERY_OUTPUT)
    return sum((t * torch.randn(t.shape, dtype=t.dtype, generator=generator)).sum() for t in outputs)


# -- against the dense engine ---------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 10**6),
    batch=st.sampled_from([(), (1,), (3,), (2, 2)]),
    n=st.integers(2, 20),
    m=st.integers(0, 20),
    k=st.integers(0, 2),
    layout=st.sampled_from(["csr", "csc"]),
)
@settings(max_examples=40, deadline=None)
def test_values_and_gradients_equal_those_of_the_dense_engine(seed, batch, n, m, k, layout):
    torch.manual_seed(seed)
    data = sparse_qp(batch, n, m, min(k, n - 1))
    dense, sparse = requiring_grad(data), to_sparse(data, layout)
    want, got = ol.solve_qp(**dense), ol.solve_qp(**sparse)
    for name in EVERY_OUTPUT:
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-8, atol=1e-8)
    assert got.status.shape == got.iterations.shape == torch.Size(batch) and got.residuals.shape == (*batch, 3)
    grads = [torch.autograd.grad(weighted(s), list(a.values())) for s, a in ((want, dense), (got, sparse))]
    for name, expected, found in zip(data, *grads, strict=True):
        if name in MATRICES:
            assert found.layout == sparse[name].layout and found.values().shape == sparse[name].values().shape
            pattern = torch.ones_like(sparse[name].values())
            expected, found = expected * on_pattern(found, pattern).to_dense(), found.to_dense()
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8 * (1 + expected.abs().sum().item()))


def on_pattern(matrix, entries):
    """A matrix with other entries; differentiable in them, twice, which torch's own constructor is not."""
    return _FromValues.apply(entries, (*indices(matrix), matrix.shape, matrix.layout))


def indices(matrix):
    if matrix.layout == torch.sparse_csr:
        return matrix.crow_indices(), matrix.col_indices()
    return matrix.ccol_indices(), matrix.row_indices()


@pytest.mark.parametrize("which", MATRICES)
def test_one_sparse_matrix_among_dense_ones(which):
    data = sparse_qp((3,))
    mixed = {name: t.to_sparse_csr() if name == which else t for name, t in data.items()}
    torch.testing.assert_close(ol.solve_qp(**mixed).x, ol.solve_qp(**data).x, rtol=1e-9, atol=1e-9)


def test_scipy_matrices_are_constants():
    data = sparse_qp()
    scipy = {name: sp.csc_array(t.numpy()) if name in MATRICES else t for name, t in data.items()}
    torch.testing.assert_close(ol.solve_qp(**scipy).x, ol.solve_qp(**data).x, rtol=1e-9, atol=1e-9)
    p = data["p"].clone().requires_grad_()
    (got,) = torch.autograd.grad(ol.solve_qp(**{**scipy, "p": p}).x.sum(), p)
    (want,) = torch.autograd.grad(ol.solve_qp(**{**data, "p": p}).x.sum(), p)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)


def test_shared_matrices_get_the_sum_of_gradients():
    data = sparse_qp()
    p = data["p"] + torch.randn(3, len(data["p"]), dtype=F64) / 10
    leaves = to_sparse(data)
    together = torch.autograd.grad(
        ol.solve_qp(**{**leaves, "p": p}).x.pow(2).sum(), [leaves[name] for name in MATRICES]
    )
    for name, total in zip(MATRICES, together, strict=True):
        single = [
            torch.autograd.grad(ol.solve_qp(**{**leaves, "p": one}).x.pow(2).sum(), leaves[name])[0].values()
            for one in p
        ]
        torch.testing.assert_close(total.values(), torch.stack(single).sum(0), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("given_names", [(), ("G", "h"), ("A", "b"), ("lb",), ("ub",), ("G", "h", "lb")])
def test_every_subset_of_constraints(given_names):
    data = sparse_qp((2,))
    data = {name: t for name, t in data.items() if name in ("Q", "p", *given_names)}
    leaves = to_sparse(data)
    solution = ol.solve_qp(**leaves)
    assert kkt_error(data, solution) < 1e-10
    weighted(solution).backward()
    assert all(torch.isfinite(values(leaf.grad)).all() for leaf in leaves.values())


def test_empty_batch():
    leaves = to_sparse(sparse_qp())
    leaves["p"] = torch.zeros(0, 12, dtype=F64, requires_grad=True)
    solution = ol.solve_qp(**leaves)
    assert solution.x.shape == (0, 12) and solution.status.shape == (0,)
    solution.x.sum().backward()
    assert not values(leaves["Q"].grad).any()


def test_float32_in_float32_out():
    data = sparse_qp((2,), dtype=torch.float32)
    leaves = to_sparse(data)
    solution = ol.solve_qp(**leaves)
    assert all(getattr(solution, name).dtype == torch.float32 for name in (*EVERY_OUTPUT, "residuals"))
    weighted(solution).backward()
    double = ol.solve_qp(**{name: t.double() for name, t in data.items()})
    torch.testing.assert_close(solution.x.double(), double.x, rtol=1e-6, atol=1e-6)
    assert all(leaf.grad.dtype == torch.float32 for leaf in leaves.values())


# -- derivatives ----------------------------------------------------------------------------------------------------


def through_values(data):
    """solve_qp as a function of the values of sparse matrices and of vectors."""
    leaves = to_sparse(data)
    frames = {name: leaves[name].detach() for name in MATRICES if name in data}

    def f(*tensors):
        named = dict(zip(data, tensors, strict=True))
        for name, frame in frames.items():
            named[name] = on_pattern(frame, named[name])
        solution = ol.solve_qp(**named)
        return tuple(getattr(solution, name) for name in EVERY_OUTPUT)

    return f, [values(leaf).detach().clone().requires_grad_() for leaf in leaves.values()]


def test_gradcheck_of_every_output_with_respect_to_values_and_vectors():
    f, inputs = through_values(sparse_qp((2,), n=4, m=4, k=1))
    assert gradcheck(f, inputs)


def test_second_derivatives_with_respect_to_values_and_vectors():
    f, inputs = through_values(sparse_qp(n=3, m=3, k=1))
    assert gradgradcheck(f, inputs)


def test_first_derivatives_through_the_constructor_of_torch():
    data = sparse_qp()
    Q = data["Q"].to_sparse_csr()
    entries = Q.values().clone().requires_grad_()
    built = torch.sparse_csr_tensor(Q.crow_indices(), Q.col_indices(), entries, Q.shape)
    leaves = to_sparse(data)
    (got,) = torch.autograd.grad(ol.solve_qp(**{**leaves, "Q": built}).x.sum(), entries)
    (want,) = torch.autograd.grad(ol.solve_qp(**leaves).x.sum(), leaves["Q"])
    torch.testing.assert_close(got, want.values())


def test_forward_mode_and_torch_func_with_respect_to_vectors():
    data = sparse_qp(n=4, m=4, k=1)
    constants = {name: sp.csr_array(t.numpy()) for name, t in data.items() if name in MATRICES}
    names = [name for name in data if name not in MATRICES]

    def f(*tensors):
        solution = ol.solve_qp(**constants, **dict(zip(names, tensors, strict=True)))
        return tuple(getattr(solution, name) for name in EVERY_OUTPUT)

    inputs = [data[name].clone().requires_grad_() for name in names]
    assert gradcheck(f, inputs, check_forward_ad=True)
    p, *others = (t.detach() for t in inputs)
    (want,) = torch.autograd.grad(f(*inputs)[0].pow(2).sum(), inputs[0])
    torch.testing.assert_close(torch.func.grad(lambda p: f(p, *others)[0].pow(2).sum())(p), want)
    with pytest.raises(RuntimeError, match="vmap cannot map"):
        torch.func.vmap(lambda p: f(p, *others))(p[None])
    with pytest.raises(RuntimeError, match="vmap cannot map"):
        torch.func.jacrev(lambda p: f(p, *others)[0])(p)


def test_gradient_of_a_sparse_leaf_can_be_differentiated():
    data = sparse_qp(n=4, m=4, k=1)
    f, inputs = through_values(data)
    leaves = to_sparse(data)
    (first,) = torch.autograd.grad(ol.solve_qp(**leaves).x.pow(2).sum(), leaves["Q"], create_graph=True)
    (second,) = torch.autograd.grad(first.values().pow(2).sum(), leaves["G"])
    (want,) = torch.autograd.grad(f(*inputs)[0].pow(2).sum(), inputs[0], create_graph=True)
    (want,) = torch.autograd.grad(want.pow(2).sum(), inputs[2])
    torch.testing.assert_close(second.values(), want, rtol=1e-8, atol=1e-10)


def test_another_linear_solver_gives_the_same_gradient():
    leaves = to_sparse(sparse_qp((2,), n=5, m=4, k=1))
    grads = []
    for adjoint in (ol.Implicit(), ol.Implicit(ol.linear_solve.GMRES(rtol=1e-12, batch_ndim=1))):
        grads.append(torch.autograd.grad(weighted(ol.solve_qp(**leaves, adjoint=adjoint)), list(leaves.values())))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(values(got), values(want), rtol=1e-7, atol=1e-8)


# -- degenerate programs --------------------------------------------------------------------------------------------


def test_dependent_rows_infinite_bounds_and_fixed_variables():
    data = sparse_qp()
    data["A"], data["b"] = data["A"][[0, 0, 1]], data["b"][[0, 0, 1]]
    data["h"][0] = torch.inf
    data["lb"][:3], data["ub"][3:5] = -torch.inf, torch.inf
    middle = (data["lb"] + data["ub"])[6] / 2
    data["lb"][6] = data["ub"][6] = middle
    data["h"] = data["h"] + 0.5
    dense, sparse = requiring_grad(data), to_sparse(data)
    want, got = ol.solve_qp(**dense), ol.solve_qp(**sparse)
    torch.testing.assert_close(got.x, want.x, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(got.y[0], got.y[1])  # least norm: duplicates share
    assert got.x[6] == middle and got.z[0] == 0
    (expected,) = torch.autograd.grad(want.x.pow(2).sum(), dense["p"])
    (found,) = torch.autograd.grad(got.x.pow(2).sum(), sparse["p"])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_degenerate_linear_programs_end_at_an_exact_kkt_point(seed):
    """Transport between equal numbers: many optimal bases, non-unique x and multipliers."""
    size = 8
    cost = torch.randint(1, 4, (size, size), generator=torch.Generator().manual_seed(seed)).double()
    eye, ones = sp.eye_array(size), np.ones((1, size))
    A = sp.vstack([sp.kron(eye, ones), sp.kron(ones, eye)], format="csr")
    data = {"p": cost.flatten(), "b": torch.ones(2 * size, dtype=F64), "lb": torch.zeros(size**2, dtype=F64)}
    solution = ol.solve_qp(sp.csr_array((size**2, size**2)), A=A, **data)
    dense = {"Q": torch.zeros(size**2, size**2, dtype=F64), "A": torch.from_numpy(A.toarray()), **data}
    assert kkt_error(dense, solution) < 1e-9


def test_infeasible_unbounded_and_invalid_samples_leave_the_others_alone():
    """min q x_0^2 / 2 + p'x with x_0 + x_1 = b and x >= lb, where a sample differs from the first in one number."""
    Q = torch.tensor([[1.0, 1.0]] + [[1.0, 1.0]] * 3 + [[1.0, 0.0]], dtype=F64)  # diagonals
    p = torch.tensor([[0.0, 1.0]] * 5, dtype=F64)
    b = torch.tensor([[1.0], [1.0], [1.0], [-1.0], [1.0]], dtype=F64)
    lb = torch.zeros(5, 2, dtype=F64)
    ub = torch.full((5, 2), torch.inf, dtype=F64)
    p[1, 0], ub[2, 0] = torch.nan, -1.0
    p[4, 1], ub[4, 0] = -1.0, 5.0
    starts, columns = torch.tensor([[0, 1, 2]] * 5), torch.tensor([[0, 1]] * 5)
    A = torch.tensor([[1.0, 1.0]] * 4 + [[1.0, 0.0]], dtype=F64)
    leaves = {
        "Q": torch.sparse_csr_tensor(starts, columns, Q, (5, 2, 2)),
        "p": p,
        "A": torch.sparse_csr_tensor(torch.tensor([[0, 2]] * 5), columns, A, (5, 1, 2)),
        "b": b,
        "lb": lb,
        "ub": ub,
    }
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    solution = ol.solve_qp(**leaves, throw=False)
    S = ol.Status
    expected = [S.SOLVED, S.INVALID_INPUT, S.INVALID_INPUT, S.PRIMAL_INFEASIBLE, S.DUAL_INFEASIBLE]
    assert solution.status.tolist() == expected
    torch.testing.assert_close(solution.x[0], torch.tensor([1.0, 0.0], dtype=F64))
    assert solution.x[1:].isnan().all()
    solution.x.nan_to_num().sum().backward()
    for name, leaf in leaves.items():
        assert torch.isfinite(values(leaf.grad)).all() and not values(leaf.grad)[1:].any(), name
    assert leaves["b"].grad[0] == pytest.approx(1.0)
    with pytest.raises(ol.SolveError, match="4 of 5 samples"):
        ol.solve_qp(**leaves)


def test_certificate_of_infeasibility():
    A = sp.csr_array([[1.0, 1.0], [1.0, 1.0]])
    b = torch.tensor([0.0, 1.0], dtype=F64)
    solution = ol.solve_qp(sp.eye_array(2), torch.zeros(2, dtype=F64), A=A, b=b, throw=False)
    assert solution.status == ol.Status.PRIMAL_INFEASIBLE
    y = solution.y.numpy()
    assert np.abs(A.T @ y).max() < 1e-6 and b.numpy() @ y < -0.1 and np.abs(y).max() == 1


def test_indefinite_objective_is_invalid():
    Q = sp.diags_array([1.0, -1e-3])
    bound = torch.ones(2, dtype=F64)
    solution = ol.solve_qp(Q, torch.zeros(2, dtype=F64), lb=-bound, ub=bound, throw=False)
    assert solution.status == ol.Status.INVALID_INPUT
    assert is_positive_semidefinite(sp.csr_array(np.ones((3, 3))))


# -- the parts ------------------------------------------------------------------------------------------------------


def test_saddle_factor_least_squares_of_least_norm():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((2, 6))
    C = rng.standard_normal((2, 6))
    C = np.vstack([C, C.sum(0)])
    Q, C = sp.csr_array(root.T @ root), sp.csr_array(C)
    K = np.block([[Q.toarray(), C.toarray().T], [C.toarray(), np.zeros((3, 3))]])
    assert np.linalg.matrix_rank(K) < len(K)
    factor = SaddleFactor(Q, C, np.ones(len(K)))
    rhs = rng.standard_normal(len(K))
    u, error = factor.solve(rhs)
    want = np.linalg.pinv(K, rcond=1e-12) @ rhs
    np.testing.assert_allclose(u, want, atol=1e-8 * np.abs(want).max())
    assert error == pytest.approx(np.abs(rhs - K @ want).max() / np.abs(rhs).max(), rel=1e-6)
    assert factor.solve(K @ rhs)[1] < 1e-12


def test_saddle_factor_with_a_dense_row_and_bad_scales():
    n = 3000
    units = 10.0 ** np.random.default_rng(0).uniform(-4, 4, n)
    Q, C = sp.csr_array(sp.diags_array(units)), sp.csr_array(np.ones((1, n)))
    factor = SaddleFactor(Q, C, equilibration(Q, C))
    assert len(factor.factor.outer) == 1
    rhs = np.ones(n + 1)
    u, error = factor.solve(rhs)
    y = (1 / units).sum() - 1
    np.testing.assert_allclose(u[-1], y / (1 / units).sum(), rtol=1e-9)
    np.testing.assert_allclose(u[:-1], (1 - u[-1]) / units, rtol=1e-6)
    assert error < 1e-12


def test_crossover_from_a_rough_point_with_a_wrong_active_set():
    data = sparse_qp(n=20, m=30, k=2)
    n = len(data["p"])
    eye = sp.eye_array(n)
    arrays = {name: t.numpy() for name, t in data.items()}
    C = sp.vstack([sp.csr_array(arrays["G"]), -eye, eye], format="csr")
    c = np.concatenate([arrays["h"], -arrays["lb"], arrays["ub"]])
    program = SparseProgram(sp.csr_array(arrays["Q"]), arrays["p"], sp.csr_array(arrays["A"]), arrays["b"], C, c)
    rough = SparsePoint(np.zeros(n), np.zeros(2), np.ones(len(c)), ol.Status.SOLVED, 0)
    end, _ = crossover(program, rough)
    assert end.residuals.max() < 1e-10
    np.testing.assert_allclose(end.x, ol.solve_qp(**data).x, atol=1e-8)


def test_projection_on_the_simplex_with_a_hundred_thousand_variables():
    n = 100_000
    point = torch.randn(n, dtype=F64, requires_grad=True)
    one = torch.ones(1, dtype=F64)
    solution = ol.solve_qp(sp.eye_array(n), -point, A=sp.csr_array(np.ones((1, n))), b=one, lb=torch.zeros_like(point))
    ordered = point.detach().sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, n + 1)
    tau = excess[ordered > excess][-1]
    torch.testing.assert_close(solution.x, (point - tau).clamp(min=0), rtol=0, atol=1e-12)
    weights = torch.linspace(-1, 1, n, dtype=F64)
    (grad,) = torch.autograd.grad(solution.x @ weights, point)
    support = solution.x > 0
    torch.testing.assert_close(grad, torch.where(support, weights - weights[support].mean(), 0.0), rtol=0, atol=1e-10)


# -- what is refused ------------------------------------------------------------------------------------------------


def test_any_function_with_a_tolerance_is_a_solver():
    class Far:
        eps = 1e-8

        def __call__(self, program):
            none = np.zeros(len(program.e)), np.zeros(len(program.c))
            return SparsePoint(np.zeros_like(program.p), *none, ol.Status.MAX_STEPS, 7)

    data = sparse_qp()
    solution = ol.solve_qp(**to_sparse(data), solver=Far())
    torch.testing.assert_close(solution.x, ol.solve_qp(**data).x, rtol=1e-8, atol=1e-8)
    assert solution.iterations == 7


def test_patterns_of_a_batch_must_be_equal():
    starts, columns = torch.tensor([[0, 1, 2], [0, 1, 2]]), torch.tensor([[0, 1], [1, 0]])
    Q = torch.sparse_csr_tensor(starts, columns, torch.ones(2, 2, dtype=F64), (2, 2, 2))
    with pytest.raises(ValueError, match="solve_qp: the samples of Q have different sparsity patterns"):
        ol.solve_qp(Q, torch.zeros(2, dtype=F64))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"Q": lambda: torch.eye(3, dtype=F64).to_sparse()}, TypeError, "layout torch.sparse_coo"),
        ({"Q": lambda: torch.eye(4, dtype=F64).to_sparse_csr()}, ValueError, "Q has shape"),
        ({"Q": lambda: torch.eye(3).to_sparse_csr()}, ValueError, "dtype"),
        ({"h": None}, ValueError, "give both"),
        ({"adjoint": ol.Unroll()}, ValueError, "adjoint"),
        ({"solver": ol.InteriorPoint(eps=1e-3)}, ValueError, "ol.Clarabel"),
    ],
)
def test_bad_arguments_are_named(change, error, match):
    eye = torch.eye(3, dtype=F64)
    arguments = {"Q": eye.to_sparse_csr(), "p": torch.ones(3, dtype=F64), "G": eye.to_sparse_csr(), "h": eye[0]}
    change = {name: value() if name == "Q" else value for name, value in change.items()}
    with pytest.raises(error, match=match):
        ol.solve_qp(**{**arguments, **change})


def test_a_missing_clarabel_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install optlayers\[cvxpy\]"):
        ol.solve_qp(sp.eye_array(2), torch.zeros(2, dtype=F64))
