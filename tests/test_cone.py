"""solve_cone: known answers for every cone, derivatives, degenerate, infeasible and malformed programs."""

import importlib
import math

import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol
from optlayers.functional.cone_blocks import matrices, project, triangles
from optlayers.functional.cone_spectrum import Spectrum
from optlayers.linear_solve import ConvergenceWarning
from optlayers.linear_solve.saddle import DenseSaddle

pytest.importorskip("clarabel")  # an optional dependency
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
]
F64 = torch.float64
CONES = {
    "zero": ol.Cones(zero=3),
    "nonneg": ol.Cones(nonneg=5),
    "second_order": ol.Cones(second_order=(4, 2, 4, 1)),
    "psd": ol.Cones(psd=(3, 2)),
    "exponential": ol.Cones(exponential=2),
    "power": ol.Cones(power=(0.3, 0.6)),
    "mixed": ol.Cones(zero=1, nonneg=2, second_order=(3,), psd=(2,), exponential=1, power=(0.4,)),
}
each_cone = pytest.mark.parametrize("cones", CONES.values(), ids=CONES)


def random_cone_program(cones, batch=(), n=None, v=None):
    """Data whose solution ``(x, s, z)`` is known: a projection and what it leaves are a slack and a multiplier."""
    m = cones.rows
    n = n or m + 1
    v = torch.randn(*batch, m, dtype=F64) if v is None else torch.tensor(v, dtype=F64)
    s = project(cones, v.reshape(-1, m)).reshape(v.shape)
    x, A = torch.randn(*batch, n, dtype=F64), torch.randn(*batch, m, n, dtype=F64) / math.sqrt(n)
    root = torch.randn(*batch, n, n, dtype=F64)
    P = 0.5 * root @ root.mT / n + 0.05 * torch.eye(n, dtype=F64)
    z = s - v
    return (P, -mv(P, x) - mv(A.mT, z), A, mv(A, x) + s), (x, s, z)


def mv(matrix, vector):
    return (matrix @ vector[..., None])[..., 0]


def outputs(solution):
    return solution.x, solution.s, solution.z


@each_cone
@pytest.mark.parametrize("batch", [(), (1,), (2, 3)], ids=str)
def test_recovers_a_known_solution(cones, batch):
    data, expected = random_cone_program(cones, batch)
    solution = ol.solve_cone(*data, cones)
    for got, want in zip(outputs(solution), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert solution.status.shape == solution.iterations.shape == torch.Size(batch)
    assert solution.residuals.shape == (*batch, 2) and solution.residuals.max() < 1e-12


@each_cone
def test_scs_ends_at_the_same_point(cones):
    pytest.importorskip("scs")
    data, expected = random_cone_program(cones, (2,))
    for got, want in zip(outputs(ol.solve_cone(*data, cones, solver=ol.SCS())), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


# -- known answers --------------------------------------------------------------------------------------------------


@each_cone
def test_projection_as_a_program(cones):
    """The nearest point of the cones: value, slack, multiplier and derivative are those of the projection."""
    m = cones.rows
    eye, none = torch.eye(m, dtype=F64), torch.zeros(m, dtype=F64)
    a = torch.randn(4, m, dtype=F64, requires_grad=True)
    solution = ol.solve_cone(eye, -a, -eye, none, cones)
    expected = project(cones, a)
    for got, want in zip(outputs(solution), (expected, expected, expected - a), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    weights = torch.randn(3, 4, m, dtype=F64)
    total, wanted = (
        sum((w * t).sum() for w, t in zip(weights, triple, strict=True))
        for triple in (outputs(solution), (expected, expected, expected - a))
    )
    (got,), (want,) = torch.autograd.grad(total, a), torch.autograd.grad(wanted, a)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


def test_least_eigenvalue_and_its_derivative():
    """min <C, X> with trace one and X positive semidefinite: the least eigenvalue, whose derivative is qq'."""
    C = torch.randn(4, 4, dtype=F64)
    C = (C + C.mT).requires_grad_()
    identity = triangles(torch.eye(4, dtype=F64))
    A = torch.cat([identity[None], -torch.eye(10, dtype=F64)])
    b = torch.zeros(11, dtype=F64).index_fill(0, torch.tensor([0]), 1.0)
    solution = ol.solve_cone(None, triangles(C), A, b, ol.Cones(zero=1, psd=(4,)))
    values, vectors = torch.linalg.eigh(C.detach())
    X = vectors[:, :1] @ vectors[:, :1].mT
    torch.testing.assert_close(matrices(solution.x), X, rtol=0, atol=1e-9)
    torch.testing.assert_close(-solution.z[0], values[0])
    (got,) = torch.autograd.grad((solution.x * triangles(C)).sum(), C)
    torch.testing.assert_close(0.5 * (got + got.mT), X, rtol=0, atol=1e-8)


def test_softmax_by_exponential_cones():
    """max c'x + entropy(x) with sum one: (-u_i, x_i, 1) in the cone for u_i <= entr(x_i), x the softmax of c."""
    n = 4
    c = torch.randn(n, dtype=F64, requires_grad=True)
    eye, zero = torch.eye(n, dtype=F64), torch.zeros(n, n, dtype=F64)
    # (u_i, x_i, 1): x_i exp(u_i / x_i) <= 1 says u_i <= -x_i log x_i
    rows = torch.stack([torch.cat([zero, -eye], 1), torch.cat([-eye, zero], 1), torch.zeros(n, 2 * n, dtype=F64)], 1)
    A = torch.cat([torch.cat([torch.ones(1, n, dtype=F64), torch.zeros(1, n, dtype=F64)], 1), rows.flatten(0, 1)])
    b = torch.cat([torch.ones(1, dtype=F64), torch.tensor([0.0, 0.0, 1.0], dtype=F64).repeat(n)])
    solution = ol.solve_cone(None, torch.cat([-c, -torch.ones(n, dtype=F64)]), A, b, ol.Cones(zero=1, exponential=n))
    x = solution.x[:n]
    torch.testing.assert_close(x, c.softmax(0), rtol=0, atol=1e-9)
    weights = torch.randn(n, dtype=F64)
    (got,), (want,) = (torch.autograd.grad(weights @ y, c) for y in (x, c.softmax(0)))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_cobb_douglas_by_a_power_cone(alpha):
    """max x^a y^(1-a) with px + ry = 1 spends the share a on x."""
    prices = torch.tensor([2.0, 3.0], dtype=F64, requires_grad=True)
    A = torch.cat([torch.cat([prices, prices.new_zeros(1)])[None], -torch.eye(3, dtype=F64)])
    b = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=F64)
    q = torch.tensor([0.0, 0.0, -1.0], dtype=F64)
    x = ol.solve_cone(None, q, A, b, ol.Cones(zero=1, power=(alpha,))).x[:2]
    share = torch.tensor([alpha, 1 - alpha], dtype=F64)
    torch.testing.assert_close(x, share / prices, rtol=0, atol=1e-9)
    (got,) = torch.autograd.grad(x[0], prices)
    torch.testing.assert_close(got, torch.tensor([-alpha / 4, 0.0], dtype=F64), rtol=0, atol=1e-8)


def test_least_norm_by_a_second_order_cone():
    """min |x| with a'x = 1: a / |a|^2, with multiplier 1 / |a|."""
    a = torch.randn(3, dtype=F64, requires_grad=True)
    A = torch.cat([torch.cat([a.new_zeros(1), a])[None], -torch.eye(4, dtype=F64)])
    b, q = torch.eye(5, dtype=F64)[0], torch.eye(4, dtype=F64)[0]
    solution = ol.solve_cone(None, q, A, b, ol.Cones(zero=1, second_order=(4,)))
    torch.testing.assert_close(solution.x[1:], a / (a @ a), rtol=0, atol=1e-9)
    torch.testing.assert_close(-solution.z[0], 1 / a.norm(), rtol=0, atol=1e-9)
    (got,), (want,) = (torch.autograd.grad(t, a) for t in (-solution.z[0], 1 / a.norm()))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-8)


# -- derivatives ----------------------------------------------------------------------------------------------------


def of_data(cones, **options):
    return lambda *data: outputs(ol.solve_cone(*data, cones, **options))


@each_cone
def test_gradcheck_of_every_output(cones):
    data, _ = random_cone_program(cones)
    inputs = [t.requires_grad_() for t in data]
    f = of_data(cones)
    assert gradcheck(
        lambda *d: torch.cat(f(*d), -1), inputs, check_forward_ad=True, fast_mode=True, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("cones", [ol.Cones(zero=1, nonneg=2), ol.Cones(second_order=(3,))], ids=["qp", "socp"])
def test_gradcheck_entry_by_entry(cones):
    data, _ = random_cone_program(cones, n=3)
    inputs = [t.requires_grad_() for t in data]
    assert gradcheck(of_data(cones), inputs, check_forward_ad=True, rtol=1e-6, atol=1e-6)


# Points outside of cone and polar, at which two directions are held: a vertex, for two variables.
VERTICES = {
    "nonneg": (ol.Cones(nonneg=4), (1.0, 2.0, -1.0, -0.5)),
    "second_order": (ol.Cones(second_order=(4,)), (0.3, 1.0, -0.5, 0.2)),
    "psd": (ol.Cones(psd=(2,)), (0.8, 0.4, -0.9)),
    "exponential": (ol.Cones(exponential=1), (0.7, 0.3, 0.1)),
    "power": (ol.Cones(power=(0.3,)), (0.2, 0.4, 1.0)),
}


@pytest.mark.parametrize("linear", [True, False], ids=["linear", "quadratic"])
@pytest.mark.parametrize("name", VERTICES)
def test_second_derivatives(name, linear):
    cones, v = VERTICES[name]
    (P, q, A, b), (_, _, z) = random_cone_program(cones, n=2, v=v)
    if linear:
        P, q = None, -mv(A.mT, z)
    inputs = [t.requires_grad_() for t in (q, A, b)]
    assert gradcheck(lambda *d: torch.cat(of_data(cones)(P, *d)), inputs, fast_mode=True, rtol=1e-5, atol=1e-6)
    assert gradgradcheck(lambda *d: of_data(cones)(P, *d)[0], inputs, fast_mode=True, rtol=1e-4, atol=1e-5)


@each_cone
def test_gradient_by_finite_differences_of_refined_solutions(cones):
    data, _ = random_cone_program(cones, n=cones.rows + 3)
    data = [t.requires_grad_() for t in data]
    directions = [torch.randn_like(t) for t in data]
    directions[0] = directions[0] + directions[0].mT
    weights = torch.randn(data[1].shape, dtype=F64)
    grads = torch.autograd.grad(weights @ ol.solve_cone(*data, cones).x, data)
    step = 1e-5

    def moved(t):
        solution = ol.solve_cone(*(d.detach() + t * e for d, e in zip(data, directions, strict=True)), cones)
        assert solution.residuals.max() < 1e-11
        return weights @ solution.x

    expected = (8 * (moved(step) - moved(-step)) - moved(2 * step) + moved(-2 * step)) / (12 * step)
    got = sum((g * e).sum() for g, e in zip(grads, directions, strict=True))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_vmap_is_a_loop_and_the_modes_agree():
    cones = CONES["mixed"]
    data, _ = random_cone_program(cones, (3,))
    f = of_data(cones)
    for mapped, batched in zip(torch.func.vmap(f)(*data), f(*data), strict=True):
        torch.testing.assert_close(mapped, batched, rtol=1e-9, atol=1e-9)
    shared = torch.func.vmap(f, in_dims=(None, 0, None, None))(data[0][0], data[1], data[2][0], data[3][0])
    torch.testing.assert_close(shared[0][1], f(data[0][0], data[1][1], data[2][0], data[3][0])[0])
    one = [t[0] for t in data]
    for reverse, forward in zip(
        torch.func.jacrev(f, argnums=3)(*one), torch.func.jacfwd(f, argnums=3)(*one), strict=True
    ):
        torch.testing.assert_close(reverse, forward, rtol=1e-6, atol=1e-7)
    leaves = [t.requires_grad_() for t in data]
    cotangents = torch.eye(3, dtype=F64)[..., None].expand(3, 3, 16)
    with pytest.raises(RuntimeError, match="is_grads_batched"):
        torch.autograd.grad(f(*leaves)[0], leaves[1], cotangents, is_grads_batched=True)


def test_another_linear_solver_gives_the_same_gradient():
    data, _ = random_cone_program(CONES["mixed"], (2,))
    inputs = [t.requires_grad_() for t in data]
    grads = []
    for adjoint in (ol.Implicit(), ol.Implicit(ol.linear_solve.LU(batch_ndim=1))):
        x, s, z = of_data(CONES["mixed"], adjoint=adjoint)(*inputs)
        grads.append(torch.autograd.grad(x.sin().sum() + (s * z.cos()).sum(), inputs))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@each_cone
def test_spectrum_is_that_of_the_derivative_of_the_projection(cones, scale):
    v = scale * torch.randn(20, cones.rows, dtype=F64)
    spectrum = Spectrum(cones, v)
    units = torch.eye(cones.rows, dtype=F64).expand(20, -1, -1)
    U = torch.stack([spectrum.vector(units[:, i]) for i in range(cones.rows)], -1)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda u: project(cones, u[None])[0]))(v)
    torch.testing.assert_close(U @ torch.diag_embed(spectrum.lam) @ U.mT, jacobian, rtol=0, atol=1e-9)
    torch.testing.assert_close(U.mT @ U, units.contiguous(), rtol=0, atol=1e-12)


# -- batches, dtypes, formats ---------------------------------------------------------------------------------------


def test_shared_arguments_get_the_sum_of_gradients():
    cones = CONES["mixed"]
    (P, q, A, b), _ = random_cone_program(cones)
    batch = q + 0.1 * torch.randn(3, len(q), dtype=F64)
    leaves = [t.requires_grad_() for t in (P, A, b)]
    together = torch.autograd.grad(ol.solve_cone(P, batch, A, b, cones).x.pow(2).sum(), leaves)
    single = [torch.autograd.grad(ol.solve_cone(P, one, A, b, cones).x.pow(2).sum(), leaves) for one in batch]
    for total, parts in zip(together, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(total, sum(parts), rtol=1e-9, atol=1e-9)


def test_non_contiguous_arguments_and_an_empty_batch():
    cones = CONES["mixed"]
    data, (x, _, _) = random_cone_program(cones, (2,))
    strided = [torch.stack([t, t], -1)[..., 0] for t in data]
    torch.testing.assert_close(ol.solve_cone(*strided, cones).x, x, rtol=1e-8, atol=1e-8)
    empty = [t[:0].requires_grad_() for t in data]
    solution = ol.solve_cone(*empty, cones)
    assert solution.x.shape == (0, cones.rows + 1) and solution.status.shape == (0,)
    solution.x.sum().backward()
    assert empty[0].grad.shape == empty[0].shape


def test_float32_in_float32_out():
    cones = CONES["mixed"]
    data, (x, _, _) = random_cone_program(cones)
    single = [t.float().requires_grad_() for t in data]
    solution = ol.solve_cone(*single, cones)
    assert all(t.dtype == torch.float32 for t in (*outputs(solution), solution.residuals))
    torch.testing.assert_close(solution.x.double(), x, rtol=1e-4, atol=1e-4)
    solution.x.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in single)


def sparse_program(cones, batch=()):
    """Data with zeros, the same in all samples, and more rows than fit a dense system."""
    (P, _, A, _), (x, s, z) = random_cone_program(cones, batch)
    n = x.shape[-1]
    P = torch.diag_embed(torch.rand(*batch, n, dtype=F64) + 0.5)
    A = A * ((torch.rand(cones.rows, n) < 0.1) | torch.eye(cones.rows, n, dtype=torch.bool))
    return [P, -mv(P, x) - mv(A.mT, z), A, mv(A, x) + s], x


LARGE = ol.Cones(zero=9, nonneg=30, second_order=(4, 9, 4), psd=(3, 4), exponential=3, power=(0.4, 0.2))


@pytest.mark.parametrize("convert", [torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse_csc], ids=["csr", "csc"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_sparse_matrices_equal_dense_ones(convert, batch):
    dense, x = sparse_program(LARGE, batch)
    sparse = [convert(t) if i in (0, 2) else t.clone() for i, t in enumerate(dense)]
    grads = []
    for data in (dense, sparse):
        leaves = [t.detach().requires_grad_() for t in data]
        solution = ol.solve_cone(*leaves, LARGE)
        torch.testing.assert_close(solution.x, x, rtol=1e-8, atol=1e-8)
        loss = solution.x.sin().sum() + (solution.s * solution.z.cos()).sum()
        grads.append(torch.autograd.grad(loss, leaves))
    for i, (want, got) in enumerate(zip(*grads, strict=True)):
        if i in (0, 2):
            assert got.layout == sparse[i].layout and got.values().shape == sparse[i].values().shape
            want, got = want * (dense[i] != 0), got.to_dense()
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


def test_scipy_matrices_are_constants_and_the_modes_agree():
    (P, q, A, b), x = sparse_program(LARGE)
    P, A = sp.csr_array(P.numpy()), sp.csc_matrix(A.numpy())
    torch.testing.assert_close(ol.solve_cone(P, q, A, b, LARGE).x, x, rtol=1e-8, atol=1e-8)

    def f(q, b):
        return outputs(ol.solve_cone(P, q, A, b, LARGE))

    inputs = [q.requires_grad_(), b.requires_grad_()]
    assert gradcheck(lambda *d: torch.cat(f(*d)), inputs, check_forward_ad=True, fast_mode=True, atol=1e-5)
    stacked = torch.func.vmap(f, in_dims=(0, None))(torch.stack([q.detach(), 2 * q.detach()]), b.detach())
    torch.testing.assert_close(stacked[0][0], x, rtol=1e-8, atol=1e-8)


# -- degenerate, infeasible, invalid --------------------------------------------------------------------------------


def test_dependent_equations_share_the_multiplier_and_have_a_derivative():
    """min |x|^2 / 2 with a'x = 1 stated twice."""
    a = torch.tensor([3.0, 4.0], dtype=F64)
    b = torch.ones(2, dtype=F64, requires_grad=True)
    solution = ol.solve_cone(torch.eye(2, dtype=F64), torch.zeros(2, dtype=F64), a.repeat(2, 1), b, ol.Cones(zero=2))
    torch.testing.assert_close(solution.x, a / 25, rtol=0, atol=1e-10)
    torch.testing.assert_close(solution.z, torch.full((2,), -0.5 / 25, dtype=F64), rtol=0, atol=1e-8)
    (grad,) = torch.autograd.grad(solution.x[0], b)
    torch.testing.assert_close(grad, torch.full((2,), 1.5 / 25, dtype=F64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [1e-4, 1e-5, 1e-6])
def test_slacks_and_multipliers_that_are_nearly_zero(size):
    """The solver has to come near enough for Newton's method to know which is which."""
    cones = ol.Cones(nonneg=8, second_order=(3, 3))
    v = [1.0, -1.0, size, -size] * 2 + [size - 1.0, 0.6, -0.8, 1.0 - size, 0.6, 0.8]
    data, expected = random_cone_program(cones, n=8, v=v)
    _, q, A, b = data
    q = -mv(A.mT, expected[2])  # a linear program
    solution = ol.solve_cone(None, q, A, b, cones)
    assert solution.residuals.max() < 1e-12
    torch.testing.assert_close(-q @ solution.x, -q @ expected[0])
    torch.testing.assert_close(ol.solve_cone(*data, cones).s, expected[1], rtol=0, atol=1e-9)


def test_a_multiplier_that_is_not_unique_warns():
    """The same program: its multipliers have a derivative in no direction of b but the one that keeps it feasible."""
    a = torch.tensor([3.0, 4.0], dtype=F64)
    b = torch.ones(2, dtype=F64, requires_grad=True)
    solution = ol.solve_cone(torch.eye(2, dtype=F64), torch.zeros(2, dtype=F64), a.repeat(2, 1), b, ol.Cones(zero=2))
    with pytest.warns(ConvergenceWarning, match="no exact derivative"):
        torch.autograd.grad(solution.z[0], b)


def test_rows_without_a_bound_are_no_constraint():
    q = torch.ones(2, dtype=F64, requires_grad=True)
    b = torch.tensor([torch.inf, 1.0, 1e20], dtype=F64)
    A = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=F64)
    solution = ol.solve_cone(torch.eye(2, dtype=F64), q, A, b, ol.Cones(nonneg=3))
    torch.testing.assert_close(solution.x, torch.tensor([-1.0, -1.0], dtype=F64))
    assert solution.s[0] == solution.s[2] == torch.inf and solution.z[0] == 0
    solution.x.sum().backward()
    torch.testing.assert_close(q.grad, torch.tensor([-0.5, -1.0], dtype=F64), rtol=0, atol=0.51)


def test_no_constraints_and_no_quadratic_term():
    P, q = torch.diag(torch.tensor([1.0, 2.0], dtype=F64)), torch.ones(2, dtype=F64, requires_grad=True)
    none = torch.zeros(0, 2, dtype=F64)
    solution = ol.solve_cone(P, q, none, none[:, 0], ol.Cones())
    torch.testing.assert_close(solution.x, torch.tensor([-1.0, -0.5], dtype=F64))
    (grad,) = torch.autograd.grad(solution.x.sum(), q)
    torch.testing.assert_close(grad, torch.tensor([-1.0, -0.5], dtype=F64))
    box = torch.cat([torch.eye(2), -torch.eye(2)]).to(F64)
    vertex = ol.solve_cone(None, q, box, torch.ones(4, dtype=F64), ol.Cones(nonneg=4))
    torch.testing.assert_close(vertex.x, -torch.ones(2, dtype=F64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("solver", [ol.Clarabel(), ol.ConeInteriorPoint()], ids=["clarabel", "ours"])
@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e3, 1e6])
def test_units_of_rows_objective_and_variables_change_nothing(unit, solver):
    cones = ol.Cones(zero=1, nonneg=4, second_order=(3,), psd=(2,))
    (P, q, A, b), (x, s, z) = random_cone_program(cones)
    rows = torch.ones(cones.rows, dtype=F64)
    rows[2], rows[5:8] = unit, 1 / unit
    for data, want in (
        ((P, q, rows[:, None] * A, rows * b), (x, rows * s, z / rows)),
        ((unit * P, unit * q, A, b), (x, s, unit * z)),
        ((P / unit**2, q / unit, A / unit, b), (unit * x, s, z)),
    ):
        solution = ol.solve_cone(*data, cones, solver=solver)
        for got, expected in zip(outputs(solution), want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7 * expected.abs().max().item())


def test_infeasible_unbounded_and_invalid_samples_leave_the_others_alone():
    """min p x^2 / 2 + q x + t with x <= u and |x - c| <= t, where a sample differs from the first in one number."""
    p, q = torch.tensor([1.0, 1, 1, 1, -1], dtype=F64), torch.tensor([0.5, torch.nan, 0.5, 0.5, 0.5], dtype=F64)
    t = torch.tensor([1.0, 1.0, 1.0, -1.0, 1.0], dtype=F64)
    cap = torch.tensor([[4.0]] * 2 + [[-1.0]] + [[4.0]] * 2, dtype=F64)  # t <= cap
    P = torch.diag_embed(torch.stack([p, torch.zeros_like(p)], -1))
    Q = torch.stack([q, t], -1)
    A = torch.tensor([[0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]], dtype=F64)
    b = torch.cat([cap, torch.zeros(5, 1, dtype=F64), torch.full((5, 1), -1.0, dtype=F64)], -1)
    A = A.repeat(5, 1, 1)
    A[3, 0], b[3, 0] = 0.0, 1.0  # nothing caps t
    leaves = [leaf.requires_grad_() for leaf in (P, Q, A, b)]
    cones = ol.Cones(nonneg=1, second_order=(2,))
    solution = ol.solve_cone(*leaves, cones, throw=False)
    S = ol.Status
    assert solution.status.tolist() == [
        S.SOLVED,
        S.INVALID_INPUT,
        S.PRIMAL_INFEASIBLE,
        S.DUAL_INFEASIBLE,
        S.INVALID_INPUT,
    ]
    assert solution.x[1:].isnan().all() and solution.x[0].isfinite().all()
    alone = ol.solve_cone(*(leaf[0] for leaf in leaves), cones)
    torch.testing.assert_close(solution.x[0], alone.x, rtol=0, atol=0)
    z = solution.z[2]
    assert mv(A[2].mT, z).abs().max() < 1e-6 and b[2] @ z < -0.1 and z.abs().max() == 1
    ray = solution.s[3]  # -A d for d = (0, 1): up the second-order cone
    torch.testing.assert_close(ray, torch.tensor([0.0, 1.0, 0.0], dtype=F64), rtol=0, atol=1e-6)
    solution.x.nan_to_num().sum().backward()
    for leaf in leaves:
        assert leaf.grad.isfinite().all() and not leaf.grad[1:].any() and leaf.grad[0].any()
    with pytest.raises(ol.SolveError, match="4 of 5 samples"):
        ol.solve_cone(*leaves, cones)


def test_dense_saddle_least_squares_of_least_norm():
    root = torch.randn(2, 6, dtype=F64)
    C = torch.randn(2, 6, dtype=F64)
    Q, C, D = root.mT @ root, torch.cat([C, C.sum(0, keepdim=True)]), torch.zeros(3, dtype=F64)
    regular = torch.eye(6, dtype=F64), C, D + 0.5
    K = torch.cat([torch.cat([Q, C.mT], 1), torch.cat([C, torch.diag(-D)], 1)])
    saddle = DenseSaddle(*(torch.stack(pair) for pair in zip((Q, C, D), regular, strict=True)))
    saddle_rhs = torch.randn(2, 9, dtype=F64)
    u, error = saddle.solve(saddle_rhs)
    scale = saddle.scale[0]
    scaled = torch.linalg.pinv(scale[:, None] * K * scale, rtol=1e-12) @ (scale * saddle_rhs[0])
    torch.testing.assert_close(u[0], scale * scaled, rtol=0, atol=1e-7 * scaled.abs().max().item())
    assert error[0] > 1e-3 and error[1] < 1e-14


# -- what is refused ------------------------------------------------------------------------------------------------


def test_any_object_with_a_tolerance_and_a_method_is_a_solver():
    class Rough:
        """Clarabel's point, spoiled: Newton's method has to mend it."""

        eps = 1e-8

        def solve_cones(self, program):
            point = ol.Clarabel().solve_cones(program)
            return point._replace(x=point.x + 1e-3, iterations=point.iterations + 100)

    data, (x, _, _) = random_cone_program(CONES["mixed"])
    solution = ol.solve_cone(*data, CONES["mixed"], solver=Rough())
    torch.testing.assert_close(solution.x, x, rtol=1e-9, atol=1e-9)
    assert solution.iterations > 100


def test_a_step_limit_is_reported():
    data, _ = random_cone_program(CONES["mixed"])
    solution = ol.solve_cone(*data, CONES["mixed"], solver=ol.Clarabel(max_steps=1), throw=False)
    assert solution.status == ol.Status.MAX_STEPS and solution.x.isnan().all()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"cones": "nonneg"}, TypeError, "cones is a str"),
        ({"cones": ol.Cones(nonneg=4)}, ValueError, "b has shape"),
        ({"A": torch.zeros(3, 3, dtype=F64)}, ValueError, "A has shape"),
        ({"P": torch.zeros(3, 2, dtype=F64)}, ValueError, "P has shape"),
        ({"P": [[1.0]]}, TypeError, "P is a list"),
        ({"q": torch.zeros(2)}, ValueError, "dtype"),
        ({"q": torch.zeros(4, 2, dtype=F64), "b": torch.zeros(3, 3, dtype=F64)}, ValueError, "do not broadcast"),
        ({"A": torch.zeros(3, 2, dtype=F64).to_sparse()}, TypeError, "layout torch.sparse_coo"),
        ({"adjoint": ol.Unroll()}, ValueError, "adjoint"),
    ],
)
def test_bad_arguments_are_named(change, error, match):
    arguments = {
        "P": torch.eye(2, dtype=F64),
        "q": torch.ones(2, dtype=F64),
        "A": torch.ones(3, 2, dtype=F64),
        "b": torch.ones(3, dtype=F64),
        "cones": ol.Cones(nonneg=3),
    }
    with pytest.raises(error, match=match) as raised:
        ol.solve_cone(**{**arguments, **change})
    assert str(raised.value).startswith("solve_cone")


@pytest.mark.parametrize("bad", [{"zero": -1}, {"second_order": (0,)}, {"psd": (2, 0)}, {"power": (1.0,)}], ids=str)
def test_impossible_cones_are_refused(bad):
    with pytest.raises(ValueError, match=f"Cones: {next(iter(bad))}"):
        ol.Cones(**bad)


@pytest.mark.parametrize("solver", [ol.Clarabel(), ol.SCS()], ids=["clarabel", "scs"])
def test_a_missing_package_is_named(monkeypatch, solver):
    def missing(name):
        raise ImportError(name)

    data, _ = random_cone_program(ol.Cones(nonneg=2))
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match="pip install"):
        ol.solve_cone(*data, ol.Cones(nonneg=2), solver=solver)
