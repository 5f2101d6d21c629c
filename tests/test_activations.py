"""Activations: one catalogue of layers, what each has to do over it, and the problem that each of them solves."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jacrev, vmap

import optlayers as ol

F64 = torch.float64


@dataclass
class Case:
    """A layer; the slope of its entries, by which its Jacobian is diag(s) - s s' / sum(s); the sum of its entries."""

    name: str
    along: Callable[..., nn.Module]  # dim=
    slope: Callable[[Tensor], Tensor]
    total: int = 1

    def __post_init__(self):
        self.layer = self.along(dim=-1)

    def __str__(self):
        return self.name


def power(exponent):
    return lambda p: torch.where(p > 0, p**exponent, 0.0)


CASES = [
    Case("softmax", ol.Softmax, lambda p: p),
    Case("sparsemax", ol.Sparsemax, power(0.0)),
    Case("entmax-1", partial(ol.Entmax, 1), lambda p: p),
    Case("entmax-1.01", partial(ol.Entmax, 1.01), power(0.99)),
    Case("entmax-1.5", partial(ol.Entmax, 1.5), power(0.5)),
    Case("entmax-1.7", partial(ol.Entmax, 1.7), power(0.3)),
    Case("entmax-2.5", partial(ol.Entmax, 2.5), power(-0.5)),
    Case("lml", partial(ol.LML, 2), lambda p: p * (1 - p), total=2),
    Case("topk", partial(ol.TopK, 2), lambda p: ((p > 0) & (p < 1)).double(), total=2),
]
ENTMAX = [case for case in CASES if isinstance(case.layer, ol.Entmax)]


def rows(*shape, scale=1.0, seed=1):
    return scale * torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_jacobian_is_that_of_a_shared_threshold(case):
    x = rows(5, 7)
    p = case.layer(x)
    assert (p >= 0).all() and (p.sum(-1) - case.total).abs().max() < 1e-12
    s = case.slope(p)
    want = torch.diag_embed(s) - s[:, :, None] * s[:, None] / s.sum(-1)[:, None, None]
    torch.testing.assert_close(vmap(jacrev(case.layer))(x), want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_and_second_derivatives(case):
    x = rows(2, 5).requires_grad_()
    assert gradcheck(case.layer, x, check_forward_ad=True)
    assert gradgradcheck(case.layer, x)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_transforms_equal_a_loop(case):
    x = rows(2, 3, 5)
    each = torch.stack([torch.stack([case.layer(row) for row in plane]) for plane in x])
    torch.testing.assert_close(case.layer(x), each, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(vmap(vmap(case.layer))(x), each, rtol=1e-12, atol=1e-14)

    def loss(row):
        return (case.layer(row) ** 3).sum()

    torch.testing.assert_close(vmap(hessian(loss))(x[0]), torch.stack([hessian(loss)(row) for row in x[0]]))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled_equals_eager(case):
    compiled = torch.compile(case.layer, fullgraph=True, backend="aot_eager")
    x = rows(3, 5).requires_grad_()
    results = [torch.autograd.grad((layer(x) ** 3).sum(), x)[0] for layer in (compiled, case.layer)]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_and_dtypes(case):
    x = rows(4, 5, 3)
    layer = case.along(dim=1)
    along = case.layer(x.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(layer(x), along)
    torch.testing.assert_close(layer(x.transpose(0, 2)).transpose(0, 2), along)  # not contiguous
    torch.testing.assert_close(layer(x[:1]), along[:1])
    single = layer(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), along, rtol=1e-4, atol=1e-6)
    assert case.layer(x[:0, :, :]).shape == (0, 5, 3)
    assert "dim=1" in repr(layer)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_masked_equal_and_huge_entries(case):
    x = rows(6, 8)
    mask = torch.zeros_like(x, dtype=torch.bool).index_fill(1, torch.tensor([2, 5]), True)
    masked = x.masked_fill(mask, -torch.inf).requires_grad_()
    p = case.layer(masked)
    torch.testing.assert_close(p[:, ~mask[0]], case.layer(x[:, ~mask[0]]), rtol=1e-10, atol=1e-12)
    (gradient,) = torch.autograd.grad((p**2).sum(), masked)
    assert (p[mask] == 0).all() and (gradient[mask] == 0).all() and gradient.isfinite().all()

    equal = case.layer(torch.full((3, 8), 2.5, dtype=F64))
    torch.testing.assert_close(equal, torch.full_like(equal, case.total / 8), rtol=1e-12, atol=0)

    for dtype in (F64, torch.float32):
        huge = (1e9 * x).to(dtype).requires_grad_()
        p = case.layer(huge)
        chosen = torch.zeros_like(p).scatter(1, huge.topk(case.total).indices, 1.0)
        torch.testing.assert_close(p, chosen, rtol=0, atol=1e-6)
        assert torch.autograd.grad((p**2).sum(), huge)[0].isfinite().all()


@pytest.mark.parametrize("case", CASES[1:], ids=str)
def test_a_sample_that_has_no_point_leaves_the_others_alone(case):
    x = rows(4, 6)
    x[1], x[2, 3] = -torch.inf, torch.nan
    x.requires_grad_()
    p = case.layer(x)
    assert p[[1, 2]].isnan().all()
    torch.testing.assert_close(p[[0, 3]], case.layer(x[[0, 3]]), rtol=1e-13, atol=0)  # SIMD lanes round apart
    (gradient,) = torch.autograd.grad((p.nan_to_num() ** 2).sum(), x)
    (alone,) = torch.autograd.grad((case.layer(x[[0, 3]]) ** 2).sum(), x)
    torch.testing.assert_close(gradient, alone, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n", [1, 2, 6, 3000])
@pytest.mark.parametrize("case", ENTMAX, ids=str)
def test_entmax_meets_the_optimality_conditions(case, n):
    """Stationarity on the support, and its sign off it: with feasibility, they define the maximizer."""
    for scale in (1e-3, 1.0, 30.0):
        x, a = rows(4, n, scale=scale), case.layer.alpha - 1
        p = case.layer(x)
        tolerance = 1e-12 * (1 + scale)
        assert (p >= 0).all() and (p.sum(-1) - 1).abs().max() < 1e-11
        score = x - (p.log() if a == 0 else p**a / a)
        threshold = score.gather(1, p.argmax(1, keepdim=True))
        assert ((score - threshold).abs()[p > 1e-100] < 1e3 * tolerance).all()
        unseen = 5e-324**a / a if a > 0 else torch.inf  # what p ** a / a may be where p underflows
        assert (x - threshold <= unseen + 1e3 * tolerance)[p == 0].all()


def test_sparsemax_is_the_projection_and_the_quadratic_program():
    x = rows(4, 6).requires_grad_()
    eye, ones = torch.eye(6, dtype=F64), torch.ones(6, dtype=F64)
    qp = ol.solve_qp(eye, -x, A=ones[None], b=ones[:1], lb=torch.zeros_like(ones)).x
    for other in (qp, ol.projection.simplex(x)):
        torch.testing.assert_close(ol.Sparsemax()(x), other, rtol=0, atol=1e-10)
        grads = [torch.autograd.grad((p**3).sum(), x)[0] for p in (ol.Sparsemax()(x), other)]
        torch.testing.assert_close(*grads, rtol=0, atol=1e-9)


def test_entmax_15_is_the_sorted_closed_form():
    x = rows(20, 9)
    z, _ = (x / 2).sort(descending=True)
    for row, got in zip(z, ol.Entmax(1.5)(x).sort(descending=True).values, strict=True):
        for k in range(9, 0, -1):  # the largest support whose threshold lies below its entries
            mean, spread = row[:k].mean(), (row[:k] - row[:k].mean()).square().sum()
            threshold = mean - ((1 - spread) / k).clamp(min=0).sqrt()
            if spread <= 1 and threshold < row[k - 1]:
                break
        torch.testing.assert_close(got, (row - threshold).clamp(min=0).square(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", [1.0, 1 + 1e-12, 1.0001, 1.5, 2.0, 3.0])
def test_derivatives_in_alpha(alpha):
    x = rows(2, 5).requires_grad_()
    order = torch.tensor([alpha, 1.6], dtype=F64, requires_grad=True)

    def entmax(x, order):
        return ol.Entmax(order)(x)

    torch.testing.assert_close(entmax(x, order)[0], ol.Entmax(alpha)(x)[0], rtol=1e-10, atol=1e-12)
    if alpha > 1 + 1e-9:  # below 1 there is nothing to take a difference with
        assert gradcheck(entmax, (x, order), check_forward_ad=True)
        assert gradgradcheck(entmax, (x, order), atol=1e-4)
        return
    (slope,) = torch.autograd.grad(entmax(x, order)[0].square().sum(), order)
    step = 1e-5
    difference = ol.Entmax(1 + step)(x[0]).square().sum() - ol.Entmax(1.0)(x[0]).square().sum()
    assert slope[0].item() == pytest.approx(difference.item() / step, rel=1e-3)


def test_alpha_broadcasts_and_its_gradient_sums():
    x = rows(2, 3, 4, 5)
    heads = torch.tensor([[1.2], [1.5], [2.0]], dtype=F64, requires_grad=True)  # (heads, 1): one for all queries
    layer = ol.Entmax(nn.Parameter(heads.detach()))
    p = layer(x)
    for head in range(3):
        torch.testing.assert_close(p[:, head], ol.Entmax(heads[head].item())(x[:, head]), rtol=1e-10, atol=1e-12)
    each = heads.detach().expand(2, 3, 4).clone().requires_grad_()
    (of_each,) = torch.autograd.grad((ol.Entmax(each)(x) ** 2).sum(), each)
    (shared,) = torch.autograd.grad((p**2).sum(), layer.alpha)
    torch.testing.assert_close(shared, of_each.sum((0, 2))[:, None])
    assert list(layer.state_dict()) == ["alpha"]
    along = vmap(lambda row, alpha: ol.Entmax(alpha)(row), in_dims=(1, 0), out_dims=1)(x, heads[:, 0])
    torch.testing.assert_close(along, p)


def test_alpha_below_one_is_no_entropy():
    with pytest.raises(ValueError, match=r"Entmax: alpha is 0.5; expected a number that is at least 1"):
        ol.Entmax(0.5)
    p = ol.Entmax(torch.tensor([0.5, 1.5], dtype=F64))(rows(2, 4))
    assert p[0].isnan().all() and p[1].isfinite().all()


def test_topk_is_the_quadratic_program():
    x = rows(4, 6).requires_grad_()
    eye, ones = torch.eye(6, dtype=F64), torch.ones(6, dtype=F64)
    for strength in (0.3, 1.0):
        p = ol.TopK(3, strength)(x)
        qp = ol.solve_qp(strength * eye, -x, A=ones[None], b=3 * ones[:1], lb=0 * ones, ub=ones).x
        torch.testing.assert_close(p, qp, rtol=0, atol=1e-10)
        grads = [torch.autograd.grad((y**3).sum(), x)[0] for y in (p, qp)]
        torch.testing.assert_close(*grads, rtol=0, atol=1e-9)
    torch.testing.assert_close(ol.TopK(1)(x), ol.Sparsemax()(x))


def minimised(objective, total, start):
    """The layer as the problem it is: an objective of one sample, and the sum of the entries."""
    return ol.OptLayer(objective, equality=lambda p, x: p.sum() - total, init=torch.full((5,), start, dtype=F64))


@pytest.mark.parametrize(
    ("layer", "as_problem"),
    [
        (ol.Softmax(), minimised(lambda p, x: (p * p.log()).sum() - x @ p, 1, 0.2)),
        (ol.LML(2), minimised(lambda p, x: (p * p.log() + (1 - p) * (1 - p).log()).sum() - x @ p, 2, 0.4)),
        # Where all entries are positive, the bound plays no part.
        (ol.Entmax(1.5), minimised(lambda p, x: (p**1.5 - p).sum() / 0.75 - x @ p, 1, 0.2)),
    ],
    ids=["softmax", "lml", "entmax-1.5"],
)
def test_equals_the_optimization_problem(layer, as_problem):
    x = rows(3, 5, scale=0.5).requires_grad_()
    values = [layer(x), as_problem(x)]
    torch.testing.assert_close(*values, rtol=0, atol=1e-8)
    grads = [torch.autograd.grad((p**3).sum(), x)[0] for p in values]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-7)


def test_lml_is_a_sigmoid_with_a_shared_threshold():
    for n, k, scale in ((6, 2, 1.0), (6, 5, 10.0), (2000, 7, 3.0)):
        p = ol.LML(k)(rows(4, n, scale=scale))
        inside = (p > 1e-12) & (p < 1 - 1e-4)
        shift = p.logit() - rows(4, n, scale=scale)
        low, high = (torch.where(inside, shift, fill) for fill in (torch.inf, -torch.inf))
        assert (high.amax(1) - low.amin(1)).max() < 1e-8
    full = rows(3, 6).index_fill(1, torch.tensor([0, 4]), -torch.inf)
    want = torch.ones(6, dtype=F64).index_fill(0, torch.tensor([0, 4]), 0.0)
    torch.testing.assert_close(ol.LML(4)(full), want.expand(3, 6))  # four are left, and four are wanted


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ol.Sparsemax()([1.0]), TypeError, "Sparsemax: x is a list; expected a torch.Tensor"),
        (lambda: ol.Sparsemax()(torch.zeros(3, dtype=torch.int64)), ValueError, "Sparsemax: x has dtype torch.int64"),
        (
            lambda: ol.Entmax(1.5, dim=2)(rows(3, 4)),
            ValueError,
            r"Entmax: x has shape \(3, 4\); expected a dimension 2",
        ),
        (lambda: ol.Entmax(1.5)(rows(3, 0)), ValueError, r"Entmax: x has shape \(3, 0\); expected at least one entry"),
        (lambda: ol.Entmax(torch.ones(5, dtype=F64))(rows(3, 4)), ValueError, r"alpha has leading .* \(5,\)"),
        (lambda: ol.Entmax(torch.ones(3))(rows(3, 4)), ValueError, "alpha has dtype torch.float32 but x has"),
        (lambda: ol.LML(0), ValueError, "LML: k is 0; expected an integer that is at least 1"),
        (lambda: ol.TopK(2, strength=0.0), ValueError, "TopK: strength is 0.0; expected a positive number"),
        (lambda: ol.LML(4)(rows(3, 4)), ValueError, "x has 4 entries along dimension -1; expected more than k = 4"),
    ],
)
def test_malformed_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
