"""Deep equilibrium layers: values, gradients by every adjoint, estimates of the Jacobian, failures."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

import optlayers as ol
from optlayers.linear_solve import GMRES, Identity, Neumann

F64 = torch.float64
TIGHT = ol.Picard(rtol=1e-13, batch_ndim=1)


class Cell(nn.Module):
    """tanh(W z + U x + b), with a W of norm 0.7."""

    def __init__(self, inputs=3, width=4):
        super().__init__()
        self.inside, self.outside = nn.Linear(width, width, dtype=F64), nn.Linear(inputs, width, dtype=F64, bias=False)
        with torch.no_grad():
            self.inside.weight.mul_(0.7 / torch.linalg.matrix_norm(self.inside.weight, 2))

    def forward(self, z, x):
        return torch.tanh(self.inside(z) + self.outside(x))


@pytest.fixture
def cell():
    return Cell()


@pytest.fixture
def x():
    return torch.randn(5, 3, dtype=F64)


def start(x, width=4):
    return x.new_zeros(*x.shape[:-1], width)


def gradients(cell, x, adjoint, **options):
    x = x.clone().requires_grad_()
    layer = ol.FixedPointLayer(cell, solver=TIGHT, adjoint=adjoint, **options)
    return torch.autograd.grad(layer(x, start(x)).square().sum(), [x, *cell.parameters()])


def assert_all_close(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_equilibrium_and_statistics_of_each_sample(cell, x):
    solution = ol.FixedPointLayer(cell).solve(torch.cat([x, 1e3 * x]), start(torch.cat([x, x])))
    torch.testing.assert_close(solution.x[:5], cell(solution.x[:5], x), rtol=0, atol=1e-9)
    assert solution.status.tolist() == [ol.Status.SOLVED] * 10
    assert solution.residuals.shape == (10, 1) and (solution.residuals <= 1e-10).all()
    assert len(solution.iterations.unique()) > 1  # saturated samples are done sooner
    warm = ol.FixedPointLayer(cell).solve(x, solution.x[:5].detach())
    assert (warm.iterations < solution.iterations[:5]).all()


def test_affine_map_in_closed_form(x):
    W = 0.3 * torch.randn(3, 3, dtype=F64)
    W.requires_grad_()
    z = ol.FixedPointLayer(lambda z, x: z @ W.T + x, solver=TIGHT)(x)
    want = torch.linalg.solve(torch.eye(3, dtype=F64) - W, x.mT).mT
    assert_all_close([z], [want], 1e-11)
    assert_all_close(*[torch.autograd.grad((v**3).sum(), W) for v in (z, want)], 1e-10)


def test_implicit_equals_unrolling(cell, x):
    want = gradients(cell, x, ol.Unroll())
    for adjoint in (ol.Implicit(), ol.Implicit(GMRES(batch_ndim=1, rtol=1e-13)), ol.OneStep(60)):
        assert_all_close(gradients(cell, x, adjoint), want, 1e-8)


@pytest.mark.parametrize("k", [1, 2, 6])
def test_backward_steps_equal_the_neumann_series(cell, x, k):
    series = gradients(cell, x, ol.Implicit(Neumann(k - 1)))
    assert_all_close(gradients(cell, x, ol.OneStep(k)), series, 1e-12)
    if k == 1:
        assert_all_close(gradients(cell, x, ol.Implicit(Identity())), series, 1e-15)
    exact = gradients(cell, x, ol.Implicit())
    error = sum((a - b).norm() for a, b in zip(series, exact, strict=True)) / sum(a.norm() for a in exact)
    assert 1e-6 < error < 0.7**k


def test_first_and_second_derivatives(x):
    layer = ol.FixedPointLayer(Cell(2, 2), solver=TIGHT)
    names, values = zip(*layer.named_parameters(), strict=True)

    def f(x, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (x, start(x, 2)))

    inputs = (x[:2, :2].clone().requires_grad_(), *values)
    assert gradcheck(f, inputs, check_forward_ad=True)
    assert gradgradcheck(f, inputs)


def test_samples_are_strangers(cell, x):
    layer = ol.FixedPointLayer(cell, solver=TIGHT)
    together = layer(x, start(x))
    for row, alone in zip(x, together, strict=True):
        torch.testing.assert_close(layer(row[None], start(row[None]))[0], alone, rtol=1e-12, atol=1e-12)
    assert layer(x[:0], start(x[:0])).shape == (0, 4)
    torch.testing.assert_close(layer(x.T.contiguous().T, start(x)), together)
    unbatched = ol.FixedPointLayer(cell, solver=ol.Picard(rtol=1e-13))
    torch.testing.assert_close(unbatched(x[0], start(x[0])), together[0], rtol=1e-11, atol=1e-12)


def test_vmap_and_compile_equal_eager(cell, x):
    few = ol.Picard(max_steps=6, rtol=0.1)  # vmap and the compiler take all steps
    layer = ol.FixedPointLayer(cell, solver=few)
    one_by_one = torch.stack([layer(row, start(row)) for row in x])
    torch.testing.assert_close(torch.vmap(lambda row: layer(row, start(row)))(x), one_by_one)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    grads = [torch.autograd.grad(f(x[0], start(x[0])).sum(), list(cell.parameters())) for f in (compiled, layer)]
    assert_all_close(*grads, 1e-10)


def test_pytrees_and_the_default_start():
    def fn(z, x):
        a, b = z["a"], z["b"]
        return {"a": 0.5 * b.sin() + x["a"], "b": 0.25 * a.sum(-1, keepdim=True) + x["b"]}

    x = {"a": torch.randn(4, 2, dtype=F64), "b": torch.randn(4, 1, dtype=F64, requires_grad=True)}
    z = ol.FixedPointLayer(fn, solver=TIGHT)(x)
    torch.testing.assert_close(z, fn(z, x), rtol=0, atol=1e-11)
    assert torch.autograd.grad(z["a"].sum(), x["b"])[0].isfinite().all()


def test_failures(x):
    def fn(z, x):
        return torch.where(x.sum(-1, keepdim=True) > 0, z + 1, 0.5 * z + x)  # the first has no fixed point

    x.requires_grad_()
    bad = x.sum(-1) > 0
    assert bad.any() and not bad.all()
    with pytest.raises(ol.SolveError, match=r"fixed_point: \d of 5 samples not solved"):
        ol.FixedPointLayer(fn)(x)
    solution = ol.FixedPointLayer(fn, throw=False).solve(x)
    assert (solution.x.isnan().all(-1) == bad).all()
    solved = solution.status == ol.Status.SOLVED
    (gradient,) = torch.autograd.grad(solution.x[solved].sum(), x)
    torch.testing.assert_close(gradient, torch.where(bad, 0.0, 2.0)[:, None].expand(5, 3).double())
    with pytest.raises(ValueError, match="expected the same shapes"):
        ol.FixedPointLayer(lambda z, x: z[:, :2])(x)


def test_jacobian_norm(cell, x):
    layer = ol.FixedPointLayer(cell)
    z = layer(x, start(x)).detach()
    J = torch.vmap(torch.func.jacrev(cell))(z, x)
    want = J.square().sum((1, 2)) / 4
    estimate = layer.jacobian_norm(z, x, samples=4000)
    torch.testing.assert_close(estimate, want, rtol=0.1, atol=0)

    torch.manual_seed(0)
    noise = torch.randn(5, 4, dtype=F64)
    torch.manual_seed(0)
    penalty = layer.jacobian_norm(z, x).sum()
    exact = torch.vmap(torch.func.jacrev(cell))(z, x)
    exact = (noise[:, None] @ exact).square().sum() / 4
    grads = [torch.autograd.grad(value, cell.inside.weight)[0] for value in (penalty, exact)]
    torch.testing.assert_close(*grads)
    with pytest.raises(ValueError, match="samples is 0"):
        layer.jacobian_norm(z, x, samples=0)


def test_spectral_radius():
    matrices = [torch.diag(torch.tensor([0.2, -0.9, 0.5])), torch.zeros(3, 3)]
    matrices.append(torch.block_diag(0.8 * torch.tensor([[0.6, -0.8], [0.8, 0.6]]), torch.tensor([[0.1]])))  # a pair
    W = torch.stack(matrices).double()
    layer = ol.FixedPointLayer(lambda z, x: (W @ z[..., None])[..., 0] + x)
    zeros = torch.zeros(3, 3, dtype=F64)
    radius = layer.spectral_radius(zeros, zeros, steps=400)
    torch.testing.assert_close(radius, torch.tensor([0.9, 0.0, 0.8], dtype=F64), rtol=2e-2, atol=1e-6)
    with pytest.raises(ValueError, match="steps is 1"):
        layer.spectral_radius(zeros, zeros, steps=1)


def test_float32_state_dict_and_copies(cell, x):
    layer = ol.FixedPointLayer(cell)
    again = ol.FixedPointLayer(Cell())
    again.load_state_dict(layer.state_dict())
    torch.testing.assert_close(again(x, start(x)), layer(x, start(x)))
    torch.testing.assert_close(copy.deepcopy(layer)(x, start(x)), layer(x, start(x)))
    single = copy.deepcopy(layer).float()(x.float(), start(x.float()))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), layer(x, start(x)), rtol=1e-4, atol=1e-4)
    assert "Anderson" in repr(layer)


def test_training_lowers_the_loss(x):
    torch.manual_seed(1)
    layer, target = ol.FixedPointLayer(Cell()), 0.5 * torch.randn(5, 4, dtype=F64).tanh()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        z = layer(x, start(x))
        loss = (z - target).square().mean()
        optimizer.zero_grad()
        (loss + 0.05 * layer.jacobian_norm(z, x).mean()).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
