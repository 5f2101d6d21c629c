"""minimise and SmoothInteriorPoint: closed forms, derivatives, transforms, failures, malformed input."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import optlayers as ol

F64 = torch.float64


def negative_entropy(x, v):
    return (x * x.log()).sum() - v @ x


def on_simplex(x, *_):
    return x.sum() - 1


def nonnegative(x, *_):
    return -x


def softmax(v, **options):
    """One sample without in_dims, a batch with."""
    start = torch.full((v.shape[-1],), 1 / v.shape[-1], dtype=v.dtype)
    if "in_dims" in options:
        start = start[None]
    return ol.minimise(negative_entropy, start, (v,), equality=on_simplex, **options)


def quartic(v, G, d, **options):
    """Every kind of constraint, weakly convex in no direction, active sets that differ over the batch."""

    def objective(x, v, G, d):
        return (x - v).pow(4).sum() / 4 + (x - v).pow(2).sum()

    start = torch.zeros(1, v.shape[-1], dtype=v.dtype)
    inequality = lambda x, v, G, d: G @ x - d  # noqa: E731
    return ol.minimise(
        objective, start, (v, G, d), equality=on_simplex, inequality=inequality, **{"in_dims": 0, **options}
    )


def quartic_data(batch=2, n=3, m=2, seed=2):
    torch.manual_seed(seed)
    return (
        torch.randn(batch, n, dtype=F64, requires_grad=True),
        torch.randn(batch, m, n, dtype=F64, requires_grad=True),
        torch.rand(batch, m, dtype=F64, requires_grad=True),
    )


def outputs(solution):
    return solution.x, solution.y, solution.z


# -- values and derivatives --------------------------------------------------------------------------------------------


def test_entropy_on_the_simplex_is_softmax():
    v = 3 * torch.randn(16, 7, dtype=F64)
    torch.testing.assert_close(softmax(v, in_dims=0).x, v.softmax(-1), rtol=0, atol=1e-12)
    got = jacrev(lambda v: softmax(v).x)(v[0])
    torch.testing.assert_close(got, jacrev(lambda v: v.softmax(-1))(v[0]), rtol=0, atol=1e-12)


def test_projection_onto_the_simplex_is_sparsemax():
    v = torch.randn(16, 7, dtype=F64, requires_grad=True)
    x = ol.minimise(
        lambda x, v: (x - v).square().sum() / 2,
        torch.zeros(1, 7, dtype=F64),
        (v,),
        equality=on_simplex,
        inequality=nonnegative,
        in_dims=0,
    ).x
    want = ol.projection.simplex(v)
    torch.testing.assert_close(x, want, rtol=0, atol=1e-12)
    weights = torch.randn_like(v)
    got, expected = (torch.autograd.grad((t * weights).sum(), v)[0] for t in (x, want))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_a_quadratic_program_agrees_with_solve_qp_in_all_multipliers():
    torch.manual_seed(1)
    L = torch.randn(5, 6, 6, dtype=F64)
    Q, p = L @ L.mT + torch.eye(6, dtype=F64), 3 * torch.randn(5, 6, dtype=F64)
    G, h = torch.randn(5, 4, 6, dtype=F64), torch.rand(5, 4, dtype=F64)
    A, b = torch.randn(5, 2, 6, dtype=F64), torch.zeros(5, 2, dtype=F64)
    want = ol.solve_qp(Q, p, G, h, A, b)
    got = ol.minimise(
        lambda x, Q, p, G, h, A, b: x @ Q @ x / 2 + p @ x,
        torch.zeros(1, 6, dtype=F64),
        (Q, p, G, h, A, b),
        equality=lambda x, Q, p, G, h, A, b: A @ x - b,
        inequality=lambda x, Q, p, G, h, A, b: G @ x - h,
        in_dims=0,
    )
    assert (want.z > 1e-6).any()
    for name in "xyz":
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=0, atol=1e-9)


def test_every_output_at_both_orders_in_both_modes():
    f = lambda *data: outputs(quartic(*data))  # noqa: E731
    assert gradcheck(f, quartic_data(), check_forward_ad=True, check_batched_grad=True)
    data = quartic_data(batch=1, n=2)
    z = quartic(*data).z
    assert (z > 1e-6).any() and (z == 0).any()
    assert gradgradcheck(f, data, check_fwd_over_rev=True)


def test_captured_tensors_and_shared_arguments_get_the_sum_over_the_batch():
    v = torch.randn(4, 3, dtype=F64)
    W = torch.randn(3, 3, dtype=F64, requires_grad=True)
    start = torch.zeros(1, 3, dtype=F64)

    def objective(x, W, v):
        return (x - W @ v).square().sum() + x.exp().sum()

    def captured(W, v=v):
        return ol.minimise(lambda x, v: objective(x, W, v), start, (v,), in_dims=0).x

    shared = ol.minimise(objective, start, (W, v), in_dims=(None, 0)).x
    each = [ol.minimise(objective, start[0], (W, row)).x for row in v]
    (want,) = torch.autograd.grad(torch.stack(each).pow(2).sum(), W)
    for x in (captured(W), shared):
        torch.testing.assert_close(torch.autograd.grad(x.pow(2).sum(), W)[0], want, rtol=1e-10, atol=1e-12)
    assert gradcheck(captured, (W,)) and gradgradcheck(captured, (W,))
    got = vmap(grad(lambda W: captured(W).pow(2).sum()))(torch.stack([W.detach(), W.detach()]))
    torch.testing.assert_close(got[1], want, rtol=1e-10, atol=1e-12)


def test_pytrees_in_unknown_arguments_and_constraints():
    def objective(x, theta):
        return (x["a"] - theta["target"][0]).square().sum() + (x["b"] * theta["target"][1]).exp().sum() - x["b"].sum()

    def inequality(x, theta):
        return {"cap": x["a"] - 0.5, "sum": x["b"].sum() - 1}

    theta = {"target": (torch.randn(2, 2, dtype=F64), torch.rand(3, dtype=F64) + 0.5)}
    start = {"a": torch.zeros(2, 2, dtype=F64), "b": torch.zeros(3, dtype=F64)}
    solution = ol.minimise(objective, start, (theta,), inequality=inequality)
    assert solution.x["a"].shape == (2, 2) and solution.z["cap"].shape == (2, 2) and solution.z["sum"].shape == ()
    torch.testing.assert_close(solution.x["a"], theta["target"][0].clamp(max=0.5), rtol=0, atol=1e-12)
    assert solution.x["b"].sum() <= 1 + 1e-12

    def flat(first, second):
        x = ol.minimise(objective, start, ({"target": (first, second)},), inequality=inequality).x
        return x["a"], x["b"]

    assert gradcheck(flat, [t.clone().requires_grad_() for t in theta["target"]])


@pytest.mark.parametrize(
    "linear_solve",
    [ol.linear_solve.LU(), ol.linear_solve.GMRES(rtol=1e-13), lambda mv, b: ol.linear_solve.LU(batch_ndim=1)(mv, b)],
    ids=["LU", "GMRES", "function"],
)
def test_any_linear_solver_gives_the_same_gradient(linear_solve):
    data = quartic_data()
    both = []
    for adjoint in (ol.Implicit(), ol.Implicit(linear_solve)):
        loss = sum(t.pow(2).sum() for t in outputs(quartic(*data, adjoint=adjoint)))
        both.append(torch.autograd.grad(loss, data))
    torch.testing.assert_close(*both, rtol=1e-8, atol=1e-10)


def test_another_residual_may_be_differentiated():
    """The projected gradient's fixed point in place of the KKT conditions."""
    v = torch.randn(6, 4, dtype=F64, requires_grad=True)

    def residual(x, v):
        return x - ol.projection.simplex(x - 0.3 * (x - v) * (1 + (x - v).square()))

    def solve(v, **options):
        return ol.minimise(
            lambda x, v: (x - v).square().sum() / 2 + (x - v).pow(4).sum() / 4,
            torch.zeros(1, 4, dtype=F64),
            (v,),
            equality=on_simplex,
            inequality=nonnegative,
            in_dims=0,
            **options,
        ).x

    weights = torch.randn(6, 4, dtype=F64)
    got, want = (torch.autograd.grad((x * weights).sum(), v)[0] for x in (solve(v, optimality=residual), solve(v)))
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)
    alone = ol.minimise(lambda x, v: (x - v).square().sum(), v[0].detach(), (v[0],), optimality=lambda x, v: x - v).x
    torch.testing.assert_close(jacrev(lambda v: alone * 0 + v)(v[0]), torch.eye(4, dtype=F64))
    assert torch.autograd.grad(alone.sum(), v)[0][0].tolist() == [1.0] * 4


@pytest.mark.parametrize("adjoint", [ol.Implicit(), ol.Implicit(ol.linear_solve.CG(batch_ndim=1))], ids=["auto", "CG"])
def test_solvers_that_follow_an_objective(adjoint):
    v = torch.randn(5, 4, dtype=F64, requires_grad=True)
    start = torch.zeros(1, 4, dtype=F64)

    def objective(x, v):
        return (x - v).square().sum() + x.exp().sum()

    def loss(**options):
        return ol.minimise(objective, start, (v,), in_dims=0, **options).x.pow(2).sum()

    got, want = (
        torch.autograd.grad(value, v)[0] for value in (loss(solver=ol.LBFGS(rtol=1e-12), adjoint=adjoint), loss())
    )
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)
    onto = ol.ProjectedGradient(ol.projection.simplex)
    x = ol.minimise(lambda x, v: (x - v).square().sum(), start, (v,), in_dims=0, solver=onto).x
    torch.testing.assert_close(x, ol.projection.simplex(v), rtol=0, atol=1e-8)
    got, want = (torch.autograd.grad(t.pow(2).sum(), v)[0] for t in (x, ol.projection.simplex(v)))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-7)


def test_many_unknowns_without_constraints_form_no_hessian():
    v = torch.randn(3000, dtype=F64, requires_grad=True)
    x = ol.minimise(lambda x, v: (x - v).square().sum() + (x[1:] - x[:-1]).square().sum(), torch.zeros_like(v), (v,)).x
    (gradient,) = torch.autograd.grad(x.sum(), v)  # the sum of x is that of v
    torch.testing.assert_close(gradient, torch.ones_like(v), rtol=0, atol=1e-6)


# -- transforms --------------------------------------------------------------------------------------------------------


def test_transforms_equal_those_of_softmax():
    v = torch.randn(5, 4, dtype=F64)

    def loss(f):
        return lambda v: f(v).pow(2).sum()

    ours, theirs = lambda v: softmax(v).x, lambda v: v.softmax(-1)
    pairs = [
        (vmap(ours)(v), vmap(theirs)(v)),
        (vmap(vmap(ours))(v.reshape(1, 5, 4)), theirs(v)[None]),
        (vmap(lambda v: softmax(v, in_dims=0).x)(v.reshape(1, 5, 4)), theirs(v)[None]),
        (vmap(jacfwd(ours))(v), vmap(jacrev(theirs))(v)),
        (vmap(hessian(loss(ours)))(v), vmap(hessian(loss(theirs)))(v)),
        (jacrev(vmap(ours))(v), jacrev(vmap(theirs))(v)),
    ]
    for got, want in pairs:
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_vmap_equals_the_batch_in_value_gradient_and_status():
    data = quartic_data()
    want = quartic(*data)

    def one(v, G, d):
        return outputs(quartic(v[None], G[None], d[None]))

    for got, expected in zip(vmap(one)(*data), outputs(want), strict=True):
        torch.testing.assert_close(got.squeeze(1), expected, rtol=1e-9, atol=1e-11)
    gradient = vmap(grad(lambda *data: sum(t.pow(2).sum() for t in one(*data)), (0, 1, 2)))
    expected = torch.autograd.grad(sum(t.pow(2).sum() for t in outputs(want)), data)
    torch.testing.assert_close(gradient(*[t.detach() for t in data]), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch, of a tensor that comes out of a graph break
def test_compiled_with_a_graph_break_equals_eager():
    v = torch.randn(3, 4, dtype=F64, requires_grad=True)

    def loss(v):
        return (2 * softmax(v, in_dims=0).x).pow(2).sum()

    compiled = torch.compile(loss, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(v), v), torch.autograd.grad(loss(v), v))
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="runs in eager mode"):
        torch.compile(loss, backend="aot_eager", fullgraph=True)(v)


# -- shapes and dtypes -------------------------------------------------------------------------------------------------


def test_batch_of_one_equals_a_single_program_and_samples_are_strangers():
    data = quartic_data(batch=4)
    together = quartic(*data)
    for i in range(4):
        one = quartic(*[t[i : i + 1] for t in data])
        for name in ("x", "y", "z"):
            torch.testing.assert_close(getattr(one, name)[0], getattr(together, name)[i], rtol=0, atol=1e-12)
        single = softmax(data[0][i])
        torch.testing.assert_close(single.x, softmax(data[0], in_dims=0).x[i], rtol=0, atol=1e-12)
        assert single.status.shape == () and single.residuals.shape == (3,) and single.y.shape == ()
        assert single.z.shape == (0,)


def test_empty_batch_non_contiguous_and_other_dimensions():
    empty = torch.randn(0, 4, dtype=F64, requires_grad=True)
    solution = softmax(empty, in_dims=0)
    assert solution.x.shape == (0, 4) and solution.y.shape == (0,) and solution.status.shape == (0,)
    assert torch.autograd.grad(solution.x.sum(), empty)[0].shape == (0, 4)
    v = torch.randn(4, 6, dtype=F64)
    torch.testing.assert_close(
        ol.minimise(negative_entropy, torch.full((1, 4), 0.25, dtype=F64), (v,), equality=on_simplex, in_dims=1).x,
        v.T.softmax(-1),
    )


def test_float32_stays_float32():
    v = torch.randn(8, 5, requires_grad=True)
    solution = softmax(v, in_dims=0)
    assert {t.dtype for t in (*outputs(solution), solution.residuals)} == {torch.float32}
    torch.testing.assert_close(solution.x, v.softmax(-1), rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(v)
    got, want = (torch.autograd.grad((x * weights).sum(), v)[0] for x in (solution.x, v.softmax(-1)))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


# -- degenerate programs ----------------------------------------------------------------------------------------------


def test_dependent_and_duplicate_constraints_change_nothing():
    v = torch.randn(6, 4, dtype=F64, requires_grad=True)

    def solve(equality, inequality):
        return ol.minimise(
            lambda x, v: (x - v).square().sum(), torch.zeros(1, 4, dtype=F64), (v,),
            equality=equality, inequality=inequality, in_dims=0,
        )  # fmt: skip

    plain = solve(on_simplex, nonnegative)
    doubled = solve(
        lambda x, v: x.sum() * torch.tensor([1.0, 2.0]) - torch.tensor([1.0, 2.0]), lambda x, v: torch.cat([-x, -x])
    )
    torch.testing.assert_close(doubled.x, plain.x, rtol=0, atol=1e-9)
    torch.testing.assert_close(doubled.z[:, :4] + doubled.z[:, 4:], plain.z, rtol=0, atol=1e-8)
    got, want = (torch.autograd.grad(s.x.pow(2).sum(), v)[0] for s in (doubled, plain))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-8)


def test_a_weakly_active_constraint_counts_as_inactive():
    v = torch.zeros(2, 3, dtype=F64, requires_grad=True)
    solution = ol.minimise(
        lambda x, v: (x - v).square().sum(), torch.ones(1, 3, dtype=F64), (v,), inequality=nonnegative, in_dims=0
    )
    torch.testing.assert_close(solution.x, v.detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.autograd.grad(solution.x.sum(), v)[0], torch.ones_like(v))


@pytest.mark.parametrize("objective_scale, row_scale", [(1e6, 1.0), (1e-6, 1.0), (1.0, 1e6), (1.0, 1e-6), (1e6, 1e-3)])
def test_units_of_objective_and_constraints_do_not_matter(objective_scale, row_scale):
    v = torch.randn(8, 5, dtype=F64)

    def solve(cost, row):
        return ol.minimise(
            lambda x, v: cost * ((x - v).square().sum() + x.exp().sum()),
            torch.zeros(1, 5, dtype=F64),
            (v,),
            equality=lambda x, v: row * (x.sum() - 1),
            inequality=lambda x, v: row * (x.square() - 0.16),
            in_dims=0,
        )

    want, got = solve(1.0, 1.0), solve(objective_scale, row_scale)
    torch.testing.assert_close(got.x, want.x, rtol=0, atol=1e-9)
    torch.testing.assert_close(got.z * row_scale / objective_scale, want.z, rtol=1e-7, atol=1e-9)


def test_a_start_far_from_the_feasible_set():
    cost = torch.rand(5, 3, dtype=F64) + 0.5
    for distance in (1e-3, 1.0, 1e3):
        x = ol.minimise(
            lambda x, cost: cost @ x - x.log().sum(),
            torch.full((1, 3), distance, dtype=F64),
            (cost,),
            equality=on_simplex,
            in_dims=0,
        ).x
        torch.testing.assert_close(x.sum(-1), torch.ones(5, dtype=F64))
        price = 1 / x - cost
        torch.testing.assert_close(price, price[:, :1].expand(5, 3), rtol=1e-8, atol=1e-8)


def test_no_derivative_warns_in_backward():
    """min 0 over a simplex: every point is a solution."""
    v = torch.zeros(3, dtype=F64, requires_grad=True)
    solution = ol.minimise(
        lambda x, v: v @ x, torch.full((3,), 0.3, dtype=F64), (v,), equality=on_simplex, inequality=nonnegative
    )
    with pytest.warns(ol.linear_solve.ConvergenceWarning, match="no exact derivative exists"):
        (gradient,) = torch.autograd.grad(solution.x[0], v)
    assert gradient.isfinite().all()


# -- failures are data -------------------------------------------------------------------------------------------------

WANT = {
    1: ol.Status.PRIMAL_INFEASIBLE,
    2: ol.Status.DUAL_INFEASIBLE,
    4: ol.Status.INVALID_INPUT,  # NaN
    5: ol.Status.INVALID_INPUT,  # not convex
}
GOOD = [0, 3, 6]


def spoiled():
    curvature = torch.ones(7, dtype=F64)
    curvature[2], curvature[5] = 0.0, -1.0
    slope = torch.randn(7, 2, dtype=F64)
    slope[2], slope[4, 0] = torch.tensor([1.0, -1.0]), torch.nan
    slope[5] = 0.01
    radius = torch.full((7,), 4.0, dtype=F64)
    radius[1], radius[2] = -1.0, torch.inf
    scale = torch.ones((), dtype=F64)
    return [t.requires_grad_() for t in (curvature, slope, radius, scale)]


def solve_spoiled(curvature, slope, radius, scale, **options):
    def objective(x, c, p, r, scale):
        return scale * (c * x.square().sum() / 2 + c.clamp(min=0) * x.pow(4).sum() + p @ x)

    def inequality(x, c, p, r, scale):
        return torch.where(r.isfinite(), x.square().sum() - r, x[0] - 1)

    dims = (0, 0, 0, None)
    start = torch.zeros(1, 2, dtype=F64)
    return ol.minimise(
        objective, start, (curvature, slope, radius, scale), inequality=inequality, in_dims=dims, **options
    )


def test_bad_samples_are_named_and_leave_the_others_alone():
    data = spoiled()
    solution = solve_spoiled(*data, throw=False)
    got = {i: ol.Status(int(solution.status[i])) for i in range(7)}
    assert got == {**dict.fromkeys(range(7), ol.Status.SOLVED), **WANT}
    assert solution.x[list(WANT)].isnan().all() and solution.x[GOOD].isfinite().all()
    alone = [t.detach()[GOOD].requires_grad_() for t in data[:3]] + [data[3].detach().clone().requires_grad_()]
    want = solve_spoiled(*alone)
    torch.testing.assert_close(solution.x[GOOD], want.x, rtol=0, atol=1e-14)
    loss, reference = solution.x.nan_to_num().pow(2).sum(), want.x.pow(2).sum()
    got = torch.autograd.grad(loss, data, create_graph=True)
    expected = torch.autograd.grad(reference, alone, create_graph=True)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g[GOOD] if g.ndim else g, e, rtol=1e-10, atol=1e-12)
        assert g.ndim == 0 or (g[list(WANT)] == 0).all()
    got = torch.autograd.grad(sum(g.pow(2).sum() for g in got), data)
    expected = torch.autograd.grad(sum(e.pow(2).sum() for e in expected), alone)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g[GOOD] if g.ndim else g, e, rtol=1e-8, atol=1e-10)


def test_bad_samples_under_vmap_come_back_nan_with_their_status():
    *data, scale = [t.detach() for t in spoiled()]

    def one(*sample):
        solution = solve_spoiled(*[t[None] for t in sample], scale)
        return solution.x.squeeze(0), solution.status.squeeze(0)

    x, status = vmap(one)(*data)
    assert {i: int(status[i]) for i in WANT} == {i: int(s) for i, s in WANT.items()}
    assert x[list(WANT)].isnan().all() and x[GOOD].isfinite().all()
    gradient = vmap(grad(lambda *sample: one(*sample)[0].nan_to_num().sum(), (0, 1, 2)))(*data)
    for g in gradient:
        assert (g[list(WANT)] == 0).all() and g.isfinite().all()


def test_all_samples_bad():
    data = [t.detach()[[1, 4]].requires_grad_() if t.ndim else t for t in spoiled()]
    solution = solve_spoiled(*data, throw=False)
    assert solution.x.isnan().all()
    for g in torch.autograd.grad(solution.x.nan_to_num().sum(), data, allow_unused=True):
        assert g is None or (g == 0).all()


def test_the_error_names_samples_and_reasons():
    with pytest.raises(ol.SolveError, match=r"minimise: 4 of 7 samples not solved.*PRIMAL_INFEASIBLE \(sample 1"):
        solve_spoiled(*spoiled())
    with pytest.raises(ol.SolveError, match="MAX_STEPS"):
        softmax(torch.randn(4, dtype=F64), solver=ol.SmoothInteriorPoint(max_steps=0))
    with pytest.raises(ol.SolveError, match="INVALID_INPUT"):  # outside of the domain
        ol.minimise(negative_entropy, torch.full((3,), -1.0, dtype=F64), (torch.zeros(3, dtype=F64),))


def infeasible(kind):
    """(inequality, equality) that contradict each other."""
    ball = lambda x, v: torch.stack([x.square().sum() - 1, (x - 5).square().sum() - 1])  # noqa: E731
    return {
        "balls": (ball, None),
        "equalities": (None, lambda x, v: torch.stack([x[0] - 1, x[0] - 2])),
        "simplex": (lambda x, v: torch.cat([-x, x.sum()[None] + 0.1]), on_simplex),
        "exponential": (lambda x, v: torch.stack([x[0].exp() - 1, 1 - x[0]]), None),
    }[kind]


@pytest.mark.parametrize("kind", ["balls", "equalities", "simplex", "exponential"])
def test_certificates_of_infeasibility(kind):
    v = torch.randn(5, 3, dtype=F64)
    inequality, equality = infeasible(kind)
    solution = ol.minimise(
        lambda x, v: (x - v).square().sum(), torch.zeros(1, 3, dtype=F64), (v,),
        equality=equality, inequality=inequality, in_dims=0, throw=False,
    )  # fmt: skip
    assert (solution.status == int(ol.Status.PRIMAL_INFEASIBLE)).all()
    # The least value of y'h(x) + z'g(x) over all x is positive.
    y, z = solution.y, solution.z
    assert z.numel() == 0 or z.min() >= 0

    def combined(x, y, z):
        total = 0.5e-10 * x.square().sum()
        total = total + (y * equality(x, None)).sum() if equality else total
        return total + (z * inequality(x, None)).sum() if inequality else total

    least = [ol.minimise(combined, torch.zeros(3, dtype=F64), (y[i], z[i]), throw=False) for i in range(5)]
    for i, s in enumerate(least):
        assert s.status == int(ol.Status.SOLVED) and combined(s.x, y[i], z[i]) > 1e-3


@pytest.mark.parametrize(
    "objective, inequality",
    [
        (lambda x: x.sum(), None),
        (lambda x: x.sum() + x[0].square(), lambda x: x[1] - 1),
        (lambda x: -x.log().sum(), nonnegative),
        (lambda x: -x.square().sum() - x.sum(), None),
    ],
    ids=["linear", "constrained", "logarithm", "concave"],
)
def test_unbounded_programs(objective, inequality):
    solution = ol.minimise(objective, torch.ones(2, dtype=F64), inequality=inequality, throw=False)
    assert solution.status == int(ol.Status.DUAL_INFEASIBLE)


def test_a_saddle_or_maximum_is_no_solution():
    saddle = lambda x: x[0].square() - x[1].square()  # noqa: E731
    solution = ol.minimise(saddle, torch.zeros(2, dtype=F64), throw=False)
    assert solution.status == int(ol.Status.INVALID_INPUT)
    # Along the constraint the saddle is convex: that is all the theorem asks for.
    solution = ol.minimise(saddle, torch.ones(2, dtype=F64), equality=lambda x: x[1] - 0.5)
    torch.testing.assert_close(solution.x, torch.tensor([0.0, 0.5], dtype=F64))


# -- malformed input ---------------------------------------------------------------------------------------------------

X = torch.full((3,), 0.3, dtype=F64)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"args": torch.zeros(3)}, TypeError, "args is a Tensor; expected a tuple"),
        ({"init": 1.0}, TypeError, "init is a float without a tensor"),
        ({"init": torch.ones(3, dtype=torch.int64)}, ValueError, "init has dtype torch.int64"),
        ({"objective": lambda x, v: x - v}, ValueError, r"objective returned shape \(3,\); expected one number"),
        ({"objective": lambda x, v: 1.0}, TypeError, "objective returned a float"),
        ({"equality": lambda x, v: x > v}, TypeError, "equality returned a tensor of torch.bool"),
        ({"inequality": lambda x, v: None}, TypeError, "inequality returned a NoneType"),
        ({"in_dims": (0, 0)}, ValueError, r"in_dims is \(0, 0\) for 1 arguments"),
        ({"in_dims": 3}, ValueError, "in_dims asks for dimension 3 of an argument of shape"),
        ({"in_dims": 0, "init": torch.ones(2, 3, dtype=F64)}, ValueError, "batch sizes differ: init has 2"),
        ({"adjoint": ol.OneStep()}, ValueError, "adjoint is OneStep"),
        ({"solver": ol.Picard(), "equality": on_simplex}, ValueError, "takes no equality and inequality"),
    ],
)
def test_malformed_input_is_named(change, error, message):
    call = {"objective": negative_entropy, "init": X, "args": (X,), **change}
    objective, init, args = (call.pop(name) for name in ("objective", "init", "args"))
    with pytest.raises(error, match=message):
        ol.minimise(objective, init, args, **call)


def test_a_module_as_objective_learns():
    model = nn.Linear(3, 1, dtype=F64)
    solution = ol.minimise(lambda x: model(x).square().sum() + x.square().sum(), torch.zeros(3, dtype=F64))
    gradients = torch.autograd.grad(solution.x.sum(), list(model.parameters()))
    w, b = (p.detach().flatten() for p in model.parameters())

    def closed_form(w, b):  # (ww' + I) x = -b w
        return -torch.linalg.solve(w.outer(w) + torch.eye(3, dtype=F64), b * w).sum()

    want = jacrev(closed_form, (0, 1))(w, b)
    torch.testing.assert_close([g.flatten() for g in gradients], [t.flatten() for t in want])
