"""Linear solvers: one catalogue of solver, kind of matrix and dtype, and the properties every entry has.

A long file, so that a new solver is held to all of them by one line.
"""

import warnings
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optlayers.linear_solve import (
    CG,
    GMRES,
    LDL,
    LU,
    MINRES,
    Auto,
    BiCGSTAB,
    Cholesky,
    ConvergenceWarning,
    Identity,
    Neumann,
    NormalCG,
    Operator,
)

POSITIVE, SYMMETRIC, GENERAL, ROTATION = "positive", "symmetric", "general", "rotation"
ALL = (POSITIVE, SYMMETRIC, GENERAL, ROTATION)


class Case(NamedTuple):
    solver: object
    kinds: tuple = ALL  # of matrices it is meant for

    def __str__(self):
        return type(self.solver).__name__ + ("" if not hasattr(self.solver, "restart") else str(self.solver.restart))


CASES = [
    Case(LU()),
    Case(Auto()),
    Case(Cholesky(), (POSITIVE,)),
    Case(LDL(), (POSITIVE, SYMMETRIC)),
    Case(CG(), (POSITIVE,)),
    Case(MINRES(), (POSITIVE, SYMMETRIC)),
    Case(NormalCG()),
    Case(BiCGSTAB()),
    Case(GMRES()),
    Case(GMRES(restart=6), (POSITIVE, GENERAL, ROTATION)),  # restarted, it may crawl on indefinite ones
]
KRYLOV = [case for case in CASES if hasattr(case.solver, "preconditioner")]
DENSE = [case for case in CASES if isinstance(case.solver, LU | Cholesky)]
DTYPES = [torch.float64, torch.float32]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def matrices(kind, n, batch=(), seed=0):
    """Matrices of a kind with singular values in [1, 4]; the rotations turn, which a wrong transpose turns back."""
    generator = torch.Generator().manual_seed(seed)
    if kind == ROTATION:
        angle = torch.rand((*batch, 1, 1), generator=generator, dtype=torch.float64) * 0.6 + 0.6
        turn = torch.zeros(n, n, dtype=torch.float64)
        for i in range(0, n - 1, 2):
            turn[i, i + 1], turn[i + 1, i] = -1.0, 1.0
        return 2 * (torch.cos(angle) * torch.eye(n, dtype=torch.float64) + torch.sin(angle) * turn)
    q, p = torch.linalg.qr(torch.randn((2, *batch, n, n), generator=generator, dtype=torch.float64))[0]
    values = 1 + 3 * torch.rand((*batch, n), generator=generator, dtype=torch.float64)
    if kind == SYMMETRIC:
        values = values * (1 - 2 * (torch.arange(n) % 2))
    if kind != GENERAL:
        return q * values[..., None, :] @ q.mT
    return q * values[..., None, :] @ q.mT + 0.5 * (p - p.mT)  # a positive symmetric part, and a skew one


def product(matrix):
    return lambda v: (matrix @ v[..., None]).squeeze(-1)


def right_side(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tolerance(dtype):
    return 1e-8 if dtype == torch.float64 else 2e-3


def assert_solves(solution, matrix, b, tol):
    expected = torch.linalg.solve(matrix.double(), b.double())
    assert solution.converged.all()
    assert solution.x.dtype == b.dtype
    assert ((solution.x - expected).norm(dim=-1) <= tol * expected.norm(dim=-1)).all()


# -- values ---------------------------------------------------------------------------------------------------------


@each_dtype
@each_case
@settings(max_examples=12, deadline=None, derandomize=True)
@given(n=st.integers(1, 12), batch=st.sampled_from([(), (1,), (3,), (0,), (2, 2)]), seed=st.integers(0, 1000))
def test_agrees_with_torch_and_reports_its_residual(case, dtype, n, batch, seed):
    for kind in case.kinds:
        a, b = matrices(kind, n, batch, seed).to(dtype), right_side(*batch, n, seed=seed).to(dtype)
        solution = replace(case.solver, batch_ndim=len(batch)).solve(Operator(product(a)), b)
        assert_solves(solution, a, b, tolerance(dtype))
        residual = (b - product(a)(solution.x)).norm(dim=-1) / b.norm(dim=-1)
        torch.testing.assert_close(solution.residual, residual, rtol=0.1, atol=8 * torch.finfo(dtype).eps)
        assert solution.residual.shape == solution.converged.shape == solution.iterations.shape == batch
        assert solution.iterations.dtype == torch.int64


@each_dtype
@each_case
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_has_no_scale_of_its_own(case, dtype, scale):
    a, b = matrices(case.kinds[-1], 6).to(dtype), right_side(6).to(dtype)
    solution = case.solver.solve(Operator(product(a)), b * scale)
    assert solution.converged and solution.residual <= torch.finfo(dtype).eps ** (2 / 3)
    torch.testing.assert_close(
        solution.x / scale, torch.linalg.solve(a, b), rtol=tolerance(dtype), atol=tolerance(dtype)
    )


@each_case
def test_zero_gives_exactly_zero_from_any_start(case):
    a = matrices(case.kinds[-1], 4)
    for init in (None, torch.ones(4, dtype=torch.float64)):
        solution = case.solver.solve(Operator(product(a)), torch.zeros(4, dtype=torch.float64), init)
        assert torch.equal(solution.x, torch.zeros(4, dtype=torch.float64))
        assert solution.converged and solution.residual == 0


@each_case
def test_a_multiple_of_the_identity_takes_one_step(case):
    b = right_side(7)
    solution = case.solver.solve(Operator(lambda v: 3.0 * v), b)
    torch.testing.assert_close(solution.x, b / 3, rtol=1e-14, atol=0)
    assert solution.converged and solution.iterations <= 1


@each_case
def test_starts_from_init(case):
    a, b = matrices(case.kinds[-1], 8), right_side(8)
    exact = torch.linalg.solve(a, b)
    far = case.solver.solve(Operator(product(a)), b, 1e6 * right_side(8, seed=5))
    torch.testing.assert_close(far.x, exact, rtol=1e-7, atol=1e-9)
    if case in KRYLOV:
        assert case.solver.solve(Operator(product(a)), b, exact).iterations <= 1
        assert far.iterations > 1


@pytest.mark.parametrize("case", [Case(CG()), Case(MINRES()), Case(NormalCG()), Case(GMRES())], ids=str)
@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_is_exact_in_n_steps_and_not_before(case, n):
    a, b = matrices(POSITIVE, n), right_side(n)
    solution = replace(case.solver, maxiter=n).solve(Operator(product(a)), b)
    assert_solves(solution, a, b, 1e-10)
    short = replace(case.solver, maxiter=n - 1).solve(Operator(product(a)), b)
    assert not short.converged and short.residual > 1e-6


@each_case
def test_solves_trees_across_all_leaves(case):
    n = 7
    a, b = matrices(case.kinds[-1], n, (3,)), right_side(3, n)

    def tree_of(v):
        return {"scalar": v[..., 0], "parts": (v[..., 1:5].unflatten(-1, (2, 2)), None, v[..., 5:])}

    def flat_of(t):
        return torch.cat([t["scalar"][..., None], t["parts"][0].flatten(-2), t["parts"][2]], -1)

    # The coupling between leaves is dense: solving diagonal blocks one by one would be far off.
    batched = replace(case.solver, batch_ndim=1).solve(Operator(lambda t: tree_of(product(a)(flat_of(t)))), tree_of(b))
    single = case.solver.solve(Operator(lambda t: tree_of(product(a[0])(flat_of(t)))), tree_of(b[0]))
    expected = torch.linalg.solve(a, b)
    torch.testing.assert_close(flat_of(batched.x), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(flat_of(single.x), expected[0], rtol=1e-7, atol=1e-9)
    assert batched.x["parts"][1] is None and single.x["scalar"].shape == ()


@each_case
def test_ridge_is_added(case):
    a, b = matrices(case.kinds[-1], 5), right_side(5)
    solution = replace(case.solver, ridge=0.7).solve(Operator(product(a)), b)
    identity = torch.eye(5, dtype=torch.float64)
    if isinstance(case.solver, NormalCG):
        expected = torch.linalg.solve(a.mT @ a + 0.7 * identity, a.mT @ b)
    else:
        expected = torch.linalg.solve(a + 0.7 * identity, b)
    assert solution.converged
    torch.testing.assert_close(solution.x, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("rows", [4, 9])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("with_rmatvec", [True, False])
def test_normal_cg_solves_least_squares(rows, ridge, with_rmatvec):
    a, b = right_side(3, rows, 6, seed=3), right_side(3, rows)
    operator = Operator(product(a), product(a.mT) if with_rmatvec else None)
    solution = NormalCG(ridge=ridge, batch_ndim=1).solve(operator, b, torch.zeros(3, 6, dtype=torch.float64))
    assert solution.converged.all()
    if ridge:
        identity = torch.eye(6, dtype=torch.float64)
        expected = torch.linalg.solve(a.mT @ a + ridge * identity, product(a.mT)(b))
    else:
        expected = product(torch.linalg.pinv(a))(b)  # of least norm, as the start was zero
    torch.testing.assert_close(solution.x, expected, rtol=1e-7, atol=1e-8)


@each_case
def test_transposed_system(case):
    kind = case.kinds[-1]
    a, b = matrices(kind, 6), right_side(6)
    expected = torch.linalg.solve(a.mT, b)
    for operator in (Operator(product(a), product(a.mT)).T, Operator(product(a)).T):
        torch.testing.assert_close(case.solver.T.solve(operator, b).x, expected, rtol=1e-8, atol=1e-9)
        assert torch.equal(operator.T.matvec(b), product(a)(b))


# -- preconditioners ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", KRYLOV, ids=str)
def test_the_inverse_as_preconditioner_converges_at_once_and_transposed_for_the_transpose(case):
    a, b = matrices(GENERAL if GENERAL in case.kinds else POSITIVE, 8), right_side(8)
    solver = replace(case.solver, preconditioner=product(torch.linalg.inv(a)))
    operator = Operator(product(a), product(a.mT))
    assert case.solver.solve(operator, b).iterations > 1
    for system, method, matrix in ((operator, solver, a), (operator.T, solver.T, a.mT)):
        solution = method.solve(system, b)
        assert solution.iterations <= 2
        assert_solves(solution, matrix, b, 1e-8)


@pytest.mark.parametrize("case", [case for case in KRYLOV if ROTATION in case.kinds], ids=str)
def test_a_preconditioner_left_untransposed_would_be_noticed(case):
    a, b = matrices(ROTATION, 8), right_side(8)
    twist = torch.diag(torch.linspace(0.1, 3, 8, dtype=torch.float64)) @ a.mT  # far from symmetric
    solver = replace(case.solver, preconditioner=product(twist))
    v, w = right_side(8, seed=7), right_side(8, seed=8)
    torch.testing.assert_close(solver.T.preconditioner(v) @ w, v @ twist @ w)
    assert_solves(solver.T.solve(Operator(product(a)).T, b), a.mT, b, 1e-8)


@pytest.mark.parametrize("case", KRYLOV, ids=str)
def test_a_diagonal_preconditioner_saves_iterations(case):
    scales = torch.logspace(-2, 2, 24, dtype=torch.float64)
    a, b = scales[:, None] * matrices(POSITIVE, 24) * scales, right_side(24)
    plain = case.solver.solve(Operator(product(a)), b)
    solver = replace(case.solver, preconditioner=lambda v: v / a.diagonal())
    better = solver.solve(Operator(product(a)), b)
    assert better.iterations < plain.iterations or not plain.converged
    if not isinstance(case.solver, NormalCG) and getattr(case.solver, "restart", 24) >= 24:
        assert_solves(better, a, b, 1e-6)


# -- samples are strangers ------------------------------------------------------------------------------------------


@each_case
def test_samples_do_not_touch_each_other(case):
    kind = case.kinds[-1]
    a, b = matrices(kind, 6, (5,)), right_side(5, 6)
    a[0], b[0] = 2.0 * torch.eye(6), 1.0  # converges at once, then waits for the others
    b[2, 3] = torch.nan
    b[3] = 0.0
    a[4, 1, 1] = torch.inf
    solution = replace(case.solver, batch_ndim=1).solve(Operator(product(a)), b)
    assert solution.converged.tolist() == [True, True, False, True, False]
    assert solution.x[2].isnan().all() and solution.residual[2].isnan()
    for i in (0, 1, 3):
        alone = replace(case.solver, batch_ndim=1).solve(Operator(product(a[i : i + 1])), b[i : i + 1])
        # To rounding: BLAS may order the sums of another batch size otherwise.
        torch.testing.assert_close(solution.x[i], alone.x[0], rtol=1e-12, atol=1e-13)
        assert solution.iterations[i] == alone.iterations[0]


@each_case
def test_batched_samples_stop_at_different_iterations(case):
    easy, hard = 2.0 * torch.eye(8, dtype=torch.float64), matrices(case.kinds[:3][-1], 8)
    a, b = torch.stack([easy, hard]), right_side(2, 8)
    solution = replace(case.solver, batch_ndim=1).solve(Operator(product(a)), b)
    assert_solves(solution, a, b, 1e-8)
    if case in KRYLOV:
        assert solution.iterations[0] == 1 < solution.iterations[1]


# -- failures are reported ------------------------------------------------------------------------------------------

HARD = {
    "singular": (torch.tensor([[1.0, 2.0], [2.0, 4.0]]), torch.tensor([1.0, 0.0])),
    "zero": (torch.zeros(2, 2), torch.tensor([1.0, 2.0])),
    "nan": (torch.tensor([[1.0, 0.0], [0.0, torch.nan]]), torch.tensor([1.0, 1.0])),
}


@each_dtype
@each_case
@pytest.mark.parametrize("name", HARD)
def test_systems_without_solution_are_reported_and_warned_about(case, dtype, name):
    a, b = (value.to(dtype) for value in HARD[name])
    solution = case.solver.solve(Operator(product(a)), b)
    assert not solution.converged
    assert not solution.residual <= 0.1
    with pytest.warns(ConvergenceWarning, match=r"did not converge; worst relative residual (nan|\d)"):
        case.solver(product(a), b)


@each_case
def test_rank_deficient_to_rounding_is_reported(case):
    factor = right_side(8, 7, seed=2)
    solution = case.solver.solve(Operator(product(factor @ factor.mT)), right_side(8))
    assert not solution.converged and solution.residual > 1e-3


@pytest.mark.parametrize("case", KRYLOV, ids=str)
def test_consistent_singular_systems_are_solved(case):
    q = torch.linalg.qr(right_side(6, 6))[0]
    a = q * torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0, 0.0], dtype=torch.float64) @ q.mT
    b = a @ right_side(6, seed=9)
    solution = case.solver.solve(Operator(product(a)), b)
    assert solution.converged
    torch.testing.assert_close(solution.x, torch.linalg.pinv(a) @ b, rtol=1e-8, atol=1e-9)  # the one of least norm


@pytest.mark.parametrize("case", [Case(MINRES()), Case(GMRES()), Case(NormalCG())], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_inconsistent_singular_systems_end_at_the_least_residual(case, seed):
    factor = right_side(6, 5, seed=seed)
    a, b = factor @ factor.mT, right_side(6, seed=seed + 50)
    solution = case.solver.solve(Operator(product(a)), b)
    least = torch.linalg.pinv(a) @ b
    assert not solution.converged
    assert solution.residual <= 1.001 * (b - a @ least).norm() / b.norm()


@each_case
def test_an_invalid_sample_leaves_shared_gradients_alone(case):
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    a, b = matrices(case.kinds[-1], 3), right_side(2, 3)
    b[1, 0] = torch.nan
    x = replace(case.solver, batch_ndim=1).solve(Operator(product(scale * a)), b).x
    assert x[1].isnan().all()
    (gradient,) = torch.autograd.grad(x[0].sum(), scale)
    torch.testing.assert_close(gradient, -torch.linalg.solve(a, b[0]).sum() / 4, rtol=1e-7, atol=0)


@pytest.mark.parametrize("case", DENSE, ids=str)
def test_a_singular_sample_is_nan_and_leaves_the_gradient_of_others_alone(case):
    shift = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    base = torch.stack([torch.eye(3), -0.5 * torch.eye(3), torch.eye(3)]).double()  # shifted, the second is singular
    base[2, 0, 0] = torch.inf
    b = right_side(3, 3)
    solver = replace(case.solver, batch_ndim=1)
    solution = solver.solve(Operator(product(base + shift * torch.eye(3))), b)
    assert solution.converged.tolist() == [True, False, False] and solution.x[1:].isnan().all()
    (gradient,) = torch.autograd.grad(solution.x[0].sum(), shift)
    torch.testing.assert_close(gradient, -b[0].sum() / 1.5**2)


def test_bicgstab_starts_afresh_when_the_shadow_residual_is_lost():
    a = torch.tensor([[-1.0, -1.0, 0.0], [0.0, -2.0, -2.0], [1.0, 1.0, -1.0]], dtype=torch.float64)
    b = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)  # after one step the residual is (0, -0.4, 0.8)
    assert_solves(BiCGSTAB().solve(Operator(product(a)), b), a, b, 1e-8)


def test_bicgstab_says_when_no_half_of_a_step_is_possible():
    quarter_turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([1.0, 2.0], dtype=torch.float64)
    lost = BiCGSTAB().solve(Operator(product(quarter_turn)), b)
    assert not lost.converged and lost.iterations == 1 and lost.residual == 1
    assert_solves(GMRES().solve(Operator(product(quarter_turn)), b), quarter_turn, b, 1e-12)


def test_gmres_restarted_too_early_says_that_it_stagnates():
    n = 8
    cycle = torch.roll(torch.eye(n, dtype=torch.float64), 1, 0)
    b = torch.eye(n, dtype=torch.float64)[0]
    stalled = GMRES(restart=n - 1).solve(Operator(product(cycle)), b)
    assert not stalled.converged and stalled.residual == 1 and stalled.iterations == n - 1
    assert_solves(GMRES(restart=n).solve(Operator(product(cycle)), b), cycle, b, 1e-14)


def test_gmres_breaks_down_happily():
    a = torch.block_diag(matrices(GENERAL, 2), matrices(GENERAL, 6, seed=4))
    b = torch.cat([right_side(2), torch.zeros(6, dtype=torch.float64)])  # an invariant subspace of dimension 2
    solution = GMRES().solve(Operator(product(a)), b)
    assert solution.iterations == 2
    assert_solves(solution, a, b, 1e-12)


@each_case
@pytest.mark.parametrize("condition", [1e4, 1e8])
def test_ill_conditioned_systems_are_solved_or_reported(case, condition):
    q = torch.linalg.qr(right_side(20, 20))[0]
    a, b = q * torch.logspace(0, -torch.tensor(condition).log10().item(), 20) @ q.mT, right_side(20)
    solution = case.solver.solve(Operator(product(a)), b)
    error = (solution.x - torch.linalg.solve(a, b)).norm() / torch.linalg.solve(a, b).norm()
    true_residual = (b - a @ solution.x).norm() / b.norm()
    assert solution.residual == pytest.approx(true_residual.item(), rel=0.5, abs=1e-14)
    if case.solver.__class__ in (LU, LDL, Cholesky, Auto) or (isinstance(case.solver, CG) and condition == 1e4):
        assert solution.converged
    if solution.converged:
        assert error < 1e-10 * condition


def test_a_claim_the_true_residual_does_not_bear_out_gets_a_second_round():
    q = torch.linalg.qr(right_side(30, 30))[0]
    a = (q * torch.logspace(-3, 0, 30, dtype=torch.float64) @ q.mT).float()
    b = right_side(12, 30).float()
    solution = CG(maxiter=1000, batch_ndim=1).solve(Operator(product(a)), b)
    assert solution.converged.all()  # of one round only, some 6 of these 12 do


def test_too_few_iterations_warn_with_residual_and_samples():
    a, b = matrices(POSITIVE, 8, (4,)), right_side(4, 8)
    a[1] = torch.eye(8)
    solver = CG(maxiter=2, batch_ndim=1)
    with pytest.warns(ConvergenceWarning, match=r"linear_solve.CG: 3 of 4 samples, at \[\(0,\), \(2,\), \(3,\)\]") as w:
        solver(product(a), b)
    worst = solver.solve(Operator(product(a)), b).residual.max()
    assert f"{worst:.1e}" in str(w[0].message) and w[0].filename == __file__
    loose = CG(rtol=0.9, batch_ndim=1)
    loose(product(a), b)  # a warning is an error in this suite
    assert CG(maxiter=2, atol=1e3).solve(Operator(product(a[0])), b[0]).iterations == 0


@each_case
def test_input_that_does_not_fit_raises(case):
    b = right_side(4)
    for matvec, rhs, init, message in (
        (lambda v: v[:3], b, None, "matvec gave"),
        (lambda v: v, torch.arange(4), None, "give float32 or float64"),
        (lambda v: v, {"a": None}, None, "no tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            case.solver.solve(Operator(matvec), rhs, init)
    if not isinstance(case.solver, NormalCG):
        with pytest.raises(ValueError, match="must be square"):
            case.solver.solve(Operator(lambda v: v[:4]), b, right_side(6))


# -- where nothing is recorded, the solvers take short cuts ---------------------------------------------------------


def _mixed():
    a, b = matrices(POSITIVE, 6, (6,)), right_side(6, 6)
    a[0], b[0] = 2.0 * torch.eye(6), 1.0  # done at once
    b[1, 3] = torch.nan
    b[2] = 0.0
    a[3, 1, 1] = torch.inf
    a[4] = 0.0
    return a, b


SHORT_CUTS = {
    "a batch": (matrices(POSITIVE, 6, (3,)), right_side(3, 6)),
    "one": (matrices(POSITIVE, 6), right_side(6)),
    "none": (matrices(POSITIVE, 6, (0,)), right_side(0, 6)),
    "every kind of sample": _mixed(),
    "no curvature": (
        torch.stack([torch.diag(torch.tensor([1.0, -1.0])), torch.eye(2)]).double(),
        torch.ones(2, 2).double(),
    ),
    "singular": (torch.ones(2, 2).double(), torch.tensor([1.0, 0.0]).double()),
    "tiny": (matrices(POSITIVE, 6, (2,)).float(), (1e-30 * right_side(2, 6)).float()),
    "huge": (matrices(POSITIVE, 6, (2,)).float(), (1e30 * right_side(2, 6)).float()),
}


@pytest.mark.parametrize("name", SHORT_CUTS)
@pytest.mark.parametrize("case", [*CASES, Case(CG(preconditioner=lambda v: 0.5 * v)), Case(CG(maxiter=2))], ids=str)
def test_short_cuts_change_nothing(case, name):
    a, b = SHORT_CUTS[name]
    solver = replace(case.solver, batch_ndim=b.ndim - 1)
    careful = solver.solve(Operator(product(a)), b)  # the tests above have derivatives on, and go this way
    with torch.no_grad():
        quick = solver.solve(Operator(product(a)), b)
    assert torch.equal(quick.converged, careful.converged)
    assert torch.equal(quick.iterations, careful.iterations)
    assert quick.x.dtype == b.dtype and quick.x.shape == careful.x.shape
    tol = tolerance(b.dtype)
    scale = b.abs().nan_to_num().amax() if b.numel() else 1.0
    torch.testing.assert_close(quick.x, careful.x, rtol=tol, atol=tol * float(scale), equal_nan=True)
    torch.testing.assert_close(quick.residual, careful.residual, rtol=0.1, atol=tol, equal_nan=True)


def test_samples_that_are_done_do_not_break_the_short_cut(monkeypatch):
    def never(*_):
        raise AssertionError("started over")

    monkeypatch.setattr(CG, "run", never)
    a, b = matrices(POSITIVE, 8, (4,)), right_side(4, 8)
    a[0] = 2.0 * torch.eye(8)  # leaves a residual of exactly zero
    b[1] = 0.0
    with torch.no_grad():
        assert_solves(CG(batch_ndim=1).solve(Operator(product(a)), b), a, b, 1e-8)


# -- approximations by name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_neumann_is_its_series_and_identity_its_first_term(alpha):
    a, b = matrices(GENERAL, 4) / 6, right_side(4)
    step = torch.eye(4, dtype=torch.float64) - alpha * a
    for terms in (0, 1, 5):
        series = alpha * sum(torch.linalg.matrix_power(step, k) @ b for k in range(terms + 1))
        solution = Neumann(terms, alpha).solve(Operator(product(a)), b)
        torch.testing.assert_close(solution.x, series)
        torch.testing.assert_close(solution.residual, (b - a @ series).norm() / b.norm())
        assert solution.converged and solution.iterations == terms
        torch.testing.assert_close(Neumann(terms, alpha)(product(a), b), series)  # and does not warn
    torch.testing.assert_close(Neumann(400, alpha)(product(a), b), torch.linalg.solve(a, b))


def test_identity_is_the_right_side_and_takes_no_product():
    b = {"a": right_side(2, 3)}

    def never(v):
        raise AssertionError("Identity must not evaluate the operator")

    assert Identity()(never, b) is b
    mine, series = (s.solve(Operator(lambda t: {"a": 3 * t["a"]}), b) for s in (Identity(), Neumann(0)))
    assert torch.equal(mine.x["a"], b["a"]) and mine.residual == series.residual == pytest.approx(2.0)


@pytest.mark.parametrize("solver", [Neumann(2), Identity()], ids=["Neumann", "Identity"])
def test_approximations_report_invalid_input(solver):
    b = torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [0.0, 0.0]])
    solution = replace(solver, batch_ndim=1).solve(Operator(lambda v: 0.5 * v), b)
    assert solution.converged.tolist() == [True, False, True] and solution.residual[2] == 0


# -- the default ----------------------------------------------------------------------------------------------------


def test_auto_goes_matrix_free_for_many_unknowns_and_falls_back_for_the_undone():
    n = Auto().dense_limit + 6
    b = right_side(2, n)
    b[1] = 0.0
    b[1, 0] = 1.0
    products = []

    def matvec(v):
        products.append(None)
        # Sample 0 is easy; sample 1 shifts, on which restarted GMRES stagnates and the normal equations do not.
        return torch.stack([v[0] * (1 + torch.arange(n) % 3), torch.roll(v[1], 1)])

    solution = Auto(batch_ndim=1).solve(Operator(matvec), b)
    assert solution.converged.all() and len(products) < 200
    assert solution.iterations[0] == 3  # as many as eigenvalues: the second method leaves it alone
    torch.testing.assert_close(solution.x[0], b[0] / (1 + torch.arange(n) % 3))
    torch.testing.assert_close(solution.x[1], torch.roll(b[1], -1))
    assert not GMRES(batch_ndim=1).solve(Operator(matvec), b).converged[1]


def test_dense_solvers_take_operators_that_vmap_refuses():
    a, b = matrices(GENERAL, 5), right_side(5)

    def matvec(v):
        return product(a)(v) if v.abs().max() < 1e9 else v  # vmap cannot decide this

    assert_solves(LU().solve(Operator(matvec), b), a, b, 1e-10)


def test_refinement_repairs_pivot_growth():
    n = 50
    a = torch.eye(n, dtype=torch.float64) - torch.ones(n, n, dtype=torch.float64).tril(-1)
    a[:, -1] = 1.0  # partial pivoting lets the last column grow by 2 ** 49
    x = right_side(n)
    assert (LU().solve(Operator(product(a)), a @ x).x - x).norm() < 1e-12 * x.norm()


# -- transforms and derivatives -------------------------------------------------------------------------------------


@each_case
def test_vmap_is_the_loop(case):
    kind = case.kinds[-1]
    a, b = matrices(kind, 4, (3,)), right_side(3, 4)
    b[1] = 0.0
    mapped = torch.vmap(lambda m, v: case.solver.solve(Operator(product(m)), v))(a, b)
    looped = [case.solver.solve(Operator(product(m)), v) for m, v in zip(a, b, strict=True)]
    for i, solution in enumerate(looped):
        torch.testing.assert_close(mapped.x[i], solution.x, rtol=1e-9, atol=1e-10)
        assert mapped.converged[i] and mapped.iterations[i] == solution.iterations
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what cannot be read cannot be warned about
        nothing = torch.vmap(lambda m, v: case.solver(product(m), v))(torch.zeros_like(a), b)
    assert torch.equal(nothing[1], torch.zeros(4, dtype=torch.float64))


COMPILED = [Case(s) for s in (LU(), Cholesky(), LDL(), Auto(), Neumann(3), Identity(), CG(maxiter=3))]


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_compiles_to_one_graph(case):
    a, b = matrices(POSITIVE, 3), right_side(3)

    def run(matrix, rhs):
        return case.solver(product(matrix), rhs)

    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(a, b), run(a, b))


@pytest.mark.parametrize("case", [case for case in CASES if str(case) != "GMRES6"], ids=str)  # 4 unknowns: no restart
def test_derivatives_of_a_direct_call(case):
    w, b = right_side(4, 4, seed=3).requires_grad_(), right_side(4).requires_grad_()
    identity = torch.eye(4, dtype=torch.float64)
    shape = {
        POSITIVE: lambda m: m @ m.mT + identity,
        SYMMETRIC: lambda m: m + m.mT + 0.5 * identity,
        ROTATION: lambda m: m + 4 * identity,
    }[case.kinds[-1]]

    def solve(matrix, rhs):
        return case.solver(product(shape(matrix)), rhs)

    def exact(matrix, rhs):
        return torch.linalg.solve(shape(matrix), rhs)

    assert torch.autograd.gradcheck(solve, (w, b), check_forward_ad=True)
    if isinstance(case.solver, LU | Cholesky | Auto):
        assert torch.autograd.gradgradcheck(solve, (w, b))
        second = torch.func.jacfwd(torch.func.jacrev(solve))(w.detach(), b.detach())
        torch.testing.assert_close(second, torch.func.jacfwd(torch.func.jacrev(exact))(w.detach(), b.detach()))


@each_case
def test_init_gets_no_gradient_and_numbers_about_the_solve_carry_none(case):
    a, b = matrices(case.kinds[-1], 4).requires_grad_(), right_side(4).requires_grad_()
    init = right_side(4, seed=6).requires_grad_()
    solution = case.solver.solve(Operator(product(a)), b, init)
    assert solution.x.requires_grad and not solution.residual.requires_grad
    assert torch.autograd.grad(solution.x.sum(), init, allow_unused=True) == (None,)


def test_ldl_factors_where_nothing_is_recorded(monkeypatch):
    calls = []
    real = torch.linalg.ldl_factor_ex
    monkeypatch.setattr(torch.linalg, "ldl_factor_ex", lambda m: calls.append(None) or real(m))
    a, b = matrices(SYMMETRIC, 4), right_side(4)
    assert_solves(LDL().solve(Operator(product(a)), b), a, b, 1e-12)
    assert len(calls) == 1
    a.requires_grad_()
    LDL()(product(a), b)
    torch.func.jvp(lambda v: LDL()(product(a.detach()), v), (b,), (b,))
    assert len(calls) == 1
    with torch.no_grad():
        LDL()(product(a), b)
    assert len(calls) == 2


def test_large_batched_systems_on_several_threads():
    """torch's batched LU is not safe there; the solver must be."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        A, b = torch.randn(3, 160, 160, dtype=torch.float64), torch.randn(3, 160, dtype=torch.float64)
        x = LU(batch_ndim=1)(lambda v: (A @ v[..., None])[..., 0], b)
        by_vmap = torch.vmap(lambda A, b: LU()(lambda v: A @ v, b))(A, b)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close((A @ x[..., None])[..., 0], b, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(by_vmap, x)
