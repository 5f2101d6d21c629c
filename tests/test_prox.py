"""Proximal operators: one catalogue of penalties, and what every operator has to do over it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacrev, vmap

from optlayers import projection, prox

F64 = torch.float64
NORM = torch.linalg.vector_norm


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@dataclass
class Case:
    """An operator, its penalty with the strengths in it, the strengths of one sample, and the shape of a point."""

    name: str
    operator: Callable[..., Tensor]
    penalty: Callable[..., Tensor]  # (y, *strengths) -> (*batch); inf outside of the domain
    strengths: tuple[Tensor, ...] = (torch.tensor(0.6, dtype=F64),)
    shape: tuple[int, ...] = (6,)

    def __str__(self):
        return self.name

    def points(self, *batch, seed=1):
        return 1.5 * randn(*batch, *self.shape, seed=seed)

    def __call__(self, x):
        return self.operator(x, *self.strengths)


def nonneg(penalty):
    return lambda y, s: torch.where((y < 0).any(-1), torch.inf, penalty(y, s))


def sums(per_entry):
    return lambda y, *s: per_entry(y, *s).sum(-1)


EACH = (torch.tensor([0.1, 0.5, 1.0, 0.0, 2.0, 0.3], dtype=F64),)
CASES = [
    Case("none", prox.none, lambda y: 0 * y.sum(-1), ()),
    Case("l1", prox.l1, sums(lambda y, s: s * y.abs())),
    Case("l1", prox.l1, sums(lambda y, s: s * y.abs()), EACH),
    Case("nonneg_l1", prox.nonneg_l1, nonneg(sums(lambda y, s: s * y))),
    Case(
        "elastic_net",
        prox.elastic_net,
        sums(lambda y, s, r: s * y.abs() + r / 2 * y * y),
        (torch.tensor(0.6, dtype=F64), torch.tensor(0.8, dtype=F64)),
    ),
    Case("group", prox.group, lambda y, s: s * NORM(y, dim=-1), (torch.tensor(2.5, dtype=F64),)),
    Case("ridge", prox.ridge, sums(lambda y, s: s / 2 * y * y)),
    Case("nonneg_ridge", prox.nonneg_ridge, nonneg(sums(lambda y, s: s / 2 * y * y))),
    Case("nuclear", prox.nuclear, lambda y, s: s * torch.linalg.svdvals(y).sum(-1), shape=(3, 4)),
    Case("total_variation", prox.total_variation, lambda y, s: s * y.diff().abs().sum(-1)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_minimises(case):
    """The objective grows by at least half the squared distance from its minimizer: which defines the operator."""
    x = case.points(40)
    y = case(x)

    def objective(y):
        return (y - x).square().flatten(1).sum(1) / 2 + case.penalty(y, *case.strengths)

    for seed, scale in ((2, 1e-3), (3, 0.1), (4, 1.0), (5, 10.0)):
        z = y + scale * case.points(40, seed=seed)
        grown = objective(y) + (z - y).square().flatten(1).sum(1) / 2
        assert (objective(z) >= grown - 1e-9 * (1 + grown)).all()
        if "nonneg" in case.name:
            z = z.clamp(min=0)
            assert (objective(z) >= objective(y) + (z - y).square().sum(1) / 2 - 1e-9).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_jacobian_is_that_of_a_proximal_operator(case):
    """Symmetric, with eigenvalues between 0 and 1: the operator is a gradient, and firmly nonexpansive."""
    J = vmap(jacrev(lambda x: case(x).flatten()))(case.points(5)).flatten(2)
    torch.testing.assert_close(J, J.mT, rtol=0, atol=1e-9)
    eigenvalues = torch.linalg.eigvalsh(J)
    assert eigenvalues.min() > -1e-9 and eigenvalues.max() < 1 + 1e-9


@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_and_second_derivatives(case):
    strengths = [s.clone() + (0.01 if s.dim() else 0) for s in case.strengths]  # a strength of zero is a kink
    leaves = [leaf.requires_grad_() for leaf in (case.points(2), *strengths)]
    assert gradcheck(case.operator, leaves, check_forward_ad=True)
    assert gradgradcheck(case.operator, leaves)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_strengths_broadcast_and_gradients_sum(case):
    x = case.points(3, 2)
    torch.testing.assert_close(case(x)[1, 0], case(x[1, 0]))
    if not case.strengths:
        return
    shared = [s.clone().requires_grad_() for s in case.strengths]
    per_sample = () if case.name in ("group", "nuclear", "total_variation") or shared[0].dim() else (1,)
    each = [s.detach().expand(3, 2, *(per_sample or s.shape)).clone().requires_grad_() for s in shared]
    weight = randn(*x.shape, seed=7)
    y, y_each = case.operator(x, *shared), case.operator(x, *each)
    torch.testing.assert_close(y, y_each)
    got, want = (torch.autograd.grad((v * weight).sum(), leaves) for v, leaves in ((y, shared), (y_each, each)))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b.flatten(0, 1).sum(0).reshape(a.shape))
    assert case.operator(x[0, 0], *each).shape == x.shape  # a batch of strengths, and one point


@pytest.mark.parametrize("case", CASES, ids=str)
def test_vmap_and_compile_equal_eager(case):
    x = case.points(3).requires_grad_()
    want, weight = case(x), randn(3, *case.shape, seed=8)
    torch.testing.assert_close(vmap(case.operator, (0, *[None] * len(case.strengths)))(x, *case.strengths), want)
    torch._dynamo.reset()  # or the variants of one lambda count against its limit
    compiled = torch.compile(lambda x: case.operator(x, *case.strengths), fullgraph=True, backend="aot_eager")
    got = compiled(x)
    torch.testing.assert_close(got, want)
    gradients = [torch.autograd.grad((y * weight).sum(), x) for y in (got, want)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dtype_layout_and_empty_batch(case):
    x = case.points(4)
    want = case(x)
    y = case.operator(x.float(), *[s.float() for s in case.strengths])
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(case(torch.stack([x, x], -1)[..., 0]), want)
    assert case(case.points(0)).shape == (0, *case.shape)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_bad_sample_is_alone(case):
    x = case.points(3)
    want = case(x)
    x[1] = torch.nan
    y = case(x)
    assert y[1].isnan().any()
    torch.testing.assert_close(y[[0, 2]], want[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_malformed_arguments(case):
    with pytest.raises(TypeError, match=rf"prox\.{case.name}: x is a list"):
        case([1.0, 2.0])
    with pytest.raises(ValueError, match=rf"prox\.{case.name}: x has shape \(\)"):
        case(torch.tensor(1.0, dtype=F64))
    if case.strengths:
        with pytest.raises(ValueError, match=r"is -1\.0; expected a number that is not negative"):
            case.operator(case.points(), *[-1.0 for _ in case.strengths])
        x = case.points(2)
        bad = [torch.tensor([0.5, -0.5], dtype=F64) for _ in case.strengths]
        if case.name not in ("group", "nuclear", "total_variation"):
            bad = [b[:, None] for b in bad]
        y = case.operator(x, *bad)
        assert y[0].isfinite().all() and y[1].isnan().any()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kinks_and_large_numbers_are_finite(case):
    for x in (
        torch.zeros(2, *case.shape, dtype=F64),
        torch.full((2, *case.shape), 0.6, dtype=F64),
        1e9 * case.points(2),
    ):
        x.requires_grad_()
        y = case(x)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        assert y.isfinite().all() and g.isfinite().all()
        if g.requires_grad:
            assert (
                torch.autograd.grad(g.square().sum(), x, allow_unused=True, materialize_grads=True)[0].isfinite().all()
            )


def test_moreau_decomposition():
    """x = prox of a norm + projection onto the ball of its dual norm."""
    x, s = 2 * randn(20, 6), torch.tensor(0.7, dtype=F64)
    for operator, ball in ((prox.l1, projection.linf_ball), (prox.group, projection.l2_ball)):
        torch.testing.assert_close(operator(x, s) + ball(x, s), x)


def test_nuclear_with_repeated_singular_values():
    """At a multiple of the identity, in closed form: symmetric directions are kept, skew ones shrink by 1 - s/sigma."""
    X = 2 * torch.eye(3, dtype=F64)
    H = randn(3, 3)
    _, dY = torch.func.jvp(lambda X: prox.nuclear(X, 0.5), (X,), (H,))
    torch.testing.assert_close(dY, (H + H.T) / 2 + 0.75 * (H - H.T) / 2)
    assert gradgradcheck(lambda X: prox.nuclear(X, 0.5), (X.requires_grad_(),))


def test_total_variation_limits():
    x = randn(3, 50)
    torch.testing.assert_close(prox.total_variation(x, 0.0), x)
    torch.testing.assert_close(prox.total_variation(x, 1e3), x.mean(-1, keepdim=True).expand(3, 50))
    steps = torch.tensor([0.0, 0, 0, 4, 4, 4], dtype=F64)  # the ends move towards each other by strength / length
    torch.testing.assert_close(
        prox.total_variation(steps, 0.9), steps + torch.tensor([0.3] * 3 + [-0.3] * 3, dtype=F64)
    )


def test_total_variation_satisfies_its_dual_conditions():
    """y = x - D'z with |z| <= s, and z = s sign(Dy) where y jumps; at a length at which no oracle is needed."""
    x, s = randn(4, 2000).cumsum(-1), 1.7
    y = prox.total_variation(x, s)
    z = (x - y).cumsum(-1)
    assert z[:, -1].abs().max() < 1e-9 and z.abs().max() <= s + 1e-9
    jump = y.diff()
    moved = jump.abs() > 1e-9
    assert moved.any()
    torch.testing.assert_close(z[:, :-1][moved], -s * jump.sign()[moved], rtol=0, atol=1e-9)


def test_from_projection():
    x = randn(3, 4)
    operator = prox.from_projection(projection.simplex)
    torch.testing.assert_close(operator(x, 3.0), projection.simplex(x))
