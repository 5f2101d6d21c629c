"""Soft sorting and ranking: against the quadratic program over the permutahedron, and their limits."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol

F64 = torch.float64
LAYERS = [
    pytest.param(kind(strength, descending=descending), id=f"{kind.__name__}-{strength}-{descending}")
    for kind in (ol.SoftSort, ol.SoftRank)
    for strength in (0.3, 2.0)
    for descending in (False, True)
]


def rows(*shape, seed=1):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def nearest_in_permutahedron(z, w):
    """The program over all subsets S: sum_S y <= the sum of the |S| largest of w, with equality for all entries."""
    n = z.shape[-1]
    subsets = [s for k in range(1, n) for s in itertools.combinations(range(n), k)]
    G = torch.stack([torch.zeros(n, dtype=F64).index_fill(0, torch.tensor(s), 1.0) for s in subsets])
    largest = w.sort(-1, descending=True).values.cumsum(-1)
    h = torch.stack([largest[..., len(s) - 1] for s in subsets], -1)
    ones = torch.ones(1, n, dtype=F64)
    return ol.solve_qp(torch.eye(n, dtype=F64), -z, G, h, ones, largest[..., -1:]).x


@pytest.mark.parametrize("layer", LAYERS)
def test_is_the_projection_onto_the_permutahedron(layer):
    x, ranks = rows(6, 4).requires_grad_(), torch.arange(1.0, 5.0, dtype=F64)
    order = ranks.flip(0) if layer.descending else ranks
    if isinstance(layer, ol.SoftSort):
        want = nearest_in_permutahedron((order / layer.strength).expand(6, 4), x)
    else:
        want = nearest_in_permutahedron((-x if layer.descending else x) / layer.strength, ranks.expand(6, 4))
    torch.testing.assert_close(layer(x), want, rtol=0, atol=1e-9)
    weight = rows(6, 4, seed=2)
    grads = [torch.autograd.grad((weight * y).sum(), x)[0] for y in (layer(x), want)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-8)


@pytest.mark.parametrize("layer", LAYERS)
def test_derivatives_and_transforms(layer):
    x = rows(3, 5).requires_grad_()
    assert gradcheck(layer, x, check_forward_ad=True)
    assert gradgradcheck(lambda x: layer(x**3), x)
    torch.testing.assert_close(torch.vmap(layer)(x), torch.stack([layer(row) for row in x]))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(*[torch.autograd.grad((f(x) ** 2).sum(), x)[0] for f in (compiled, layer)])


@pytest.mark.parametrize("descending", [False, True])
def test_limits(descending):
    x = rows(4, 6)
    hard = x.sort(-1, descending=descending)
    torch.testing.assert_close(ol.SoftSort(1e-3, descending=descending)(x), hard.values)
    ranks = hard.indices.argsort(-1).double() + 1
    torch.testing.assert_close(ol.SoftRank(1e-3, descending=descending)(x), ranks)
    mean = ol.SoftSort(1e6, descending=descending)(x)
    torch.testing.assert_close(mean, x.mean(-1, keepdim=True).expand(4, 6), rtol=0, atol=1e-4)
    even = ol.SoftRank(0.1)(torch.tensor([2.0, 2.0, 1.0, 2.0], dtype=F64))
    torch.testing.assert_close(even, torch.tensor([3.0, 3.0, 1.0, 3.0], dtype=F64))


@pytest.mark.parametrize("kind", [ol.SoftSort, ol.SoftRank])
def test_shapes_dtypes_and_malformed_arguments(kind):
    x = rows(2, 5, 3)
    along = kind(0.5)(x.mT).mT
    torch.testing.assert_close(kind(0.5, dim=1)(x), along)
    torch.testing.assert_close(kind(0.5, dim=1)(x.float()).double(), along, rtol=1e-5, atol=1e-5)
    assert kind()(x[:0]).shape == (0, 5, 3)
    assert kind()(x[..., :1]).shape == (2, 5, 1)
    x[0, 0, 0] = torch.nan
    torch.testing.assert_close(kind(0.5, dim=1)(x)[1], along[1])
    with pytest.raises(ValueError, match=f"{kind.__name__}: strength is -1.0; expected a positive number"):
        kind(-1.0)
    with pytest.raises(ValueError, match="expected at least one entry along dimension -1"):
        kind()(x[..., :0])
    with pytest.raises(TypeError, match="x is a list"):
        kind()([1.0])
