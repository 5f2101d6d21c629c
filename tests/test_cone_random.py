"""Random cone programs, each cone alone and mixed, 20 to 200 rows: residuals, gradients, certificates.

The suite takes 2 programs of each of the 20 families; ``EVERY_PROGRAM=1`` takes 10 of each, 200 in all.
"""

import math
import os

import pytest
import torch

import optlayers as ol
from optlayers.functional.cone_blocks import interior, project

pytest.importorskip("clarabel")
F64 = torch.float64
COUNT = 10 if os.environ.get("EVERY_PROGRAM") else 2


def exponents(count):
    return tuple(0.1 + 0.8 * i / (count - 1) for i in range(count))


SMALL = {
    "zero-20": ol.Cones(zero=20),
    "nonneg-20": ol.Cones(nonneg=20),
    "second_order-20": ol.Cones(second_order=(10, 10)),
    "psd-21": ol.Cones(psd=(6,)),
    "exponential-21": ol.Cones(exponential=7),
    "power-21": ol.Cones(power=exponents(7)),
    "mixed-20": ol.Cones(zero=2, nonneg=3, second_order=(3,), psd=(3,), exponential=1, power=(0.3,)),
    "mixed-58": ol.Cones(zero=5, nonneg=12, second_order=(3, 7), psd=(3, 4), exponential=3, power=(0.3, 0.6)),
}
CONES = SMALL | {
    "zero-60": ol.Cones(zero=60),
    "nonneg-100": ol.Cones(nonneg=100),
    "nonneg-200": ol.Cones(nonneg=200),
    "second_order-60": ol.Cones(second_order=(3,) * 20),
    "second_order-100": ol.Cones(second_order=(40, 60)),
    "psd-60": ol.Cones(psd=(4,) * 6),
    "psd-91": ol.Cones(psd=(13,)),
    "psd-190": ol.Cones(psd=(19,)),
    "exponential-60": ol.Cones(exponential=20),
    "exponential-180": ol.Cones(exponential=60),
    "power-90": ol.Cones(power=exponents(30)),
    "mixed-186": ol.Cones(
        zero=20, nonneg=40, second_order=(3, 7, 20), psd=(5, 8), exponential=10, power=(0.3, 0.6, 0.2, 0.5, 0.8)
    ),
}


def mv(matrix, vector):
    return (matrix @ vector[..., None])[..., 0]


def interior_points(cones, count, dual=False):
    """Random points in the interior of the cones, or of their duals: that of a cone here is in both."""
    v = torch.randn(count, cones.rows, dtype=F64)
    return (v + project(cones, -v) if dual else project(cones, v)) + 0.2 * interior(cones, v)


def programs(cones, count):
    """Programs that are strictly feasible, primal and dual; the first half linear, the others with P of half rank."""
    m = cones.rows
    equations = cones.zero == m
    n = 2 * m if equations else (m + cones.zero) // 2
    A, x = torch.randn(count, m, n, dtype=F64) / math.sqrt(n), torch.randn(count, n, dtype=F64)
    s, z = interior_points(cones, count), interior_points(cones, count, dual=True)
    root = torch.randn(count, n, n if equations else n // 2, dtype=F64) / math.sqrt(n)
    root[: 0 if equations else count // 2] = 0.0
    P = root @ root.mT
    return [P, -mv(A.mT, z) - mv(P, x), A, mv(A, x) + s]


def largest(value):
    return value.abs().amax(-1)


@pytest.mark.parametrize("cones", CONES.values(), ids=CONES)
def test_residuals_and_gradients(cones):
    data = programs(cones, COUNT)
    steps = [torch.randn_like(t) for t in data]
    steps[0] = data[0] @ steps[0] + steps[0].mT @ data[0]  # P keeps its null space up to the square of a step
    width = 1e-6
    moved = [torch.cat([t, t + width * e, t - width * e]) for t, e in zip(data, steps, strict=True)]
    moved[0] = ((moved[0] + moved[0].mT) / 2).requires_grad_()
    moved = [t.detach().requires_grad_() for t in moved]
    solution = ol.solve_cone(*moved, cones)
    x, s, z = solution.x, solution.s, solution.z

    P, q, A, b = (t.detach() for t in moved)
    s0, z0 = s.detach(), z.detach()
    assert (largest(mv(P, x) + q + mv(A.mT, z)) < 1e-11 * (1 + largest(q))).all()
    assert (largest(mv(A, x) + s - b) < 1e-11 * (1 + largest(b))).all()
    assert (largest(project(cones, s0) - s0) < 1e-11).all()
    assert (largest(project(cones, -z0)) < 1e-11).all()
    assert ((s0 * z0).sum(-1).abs() < 1e-10).all()

    weights = [torch.randn_like(t[:COUNT]).repeat(3, 1) for t in (x, s, z)]
    value = sum((w * t).sum(-1) for w, t in zip(weights, (x, s, z), strict=True))
    grads = torch.autograd.grad(value[:COUNT].sum(), moved)
    terms = torch.stack([(g[:COUNT] * e).flatten(1).sum(-1) for g, e in zip(grads, steps, strict=True)])
    _, up, down = value.detach().split(COUNT)
    error = (terms.sum(0) - (up - down) / (2 * width)).abs()
    assert (error < 1e-5 * terms.sum(0).abs() + 1e-6 * terms.norm(dim=0)).all(), error / terms.norm(dim=0)


@pytest.mark.parametrize("cones", SMALL.values(), ids=SMALL)
def test_certificates_of_infeasible_and_unbounded_programs(cones):
    count = 3 * COUNT
    P, q, A, b = programs(cones, count)
    infeasible, unbounded = slice(COUNT, 2 * COUNT), slice(2 * COUNT, count)
    # A'z = 0 and b'z = -1 for a z in the interior of the dual cones
    z = interior_points(cones, COUNT, dual=True)
    A[infeasible] -= z[..., None] * mv(A[infeasible].mT, z)[:, None] / z.square().sum(-1)[:, None, None]
    b[infeasible] -= z * ((b[infeasible] * z).sum(-1, keepdim=True) + 1) / z.square().sum(-1, keepdim=True)
    # -Ad in the interior of the cones, Pd = 0 and q'd = -1
    d = torch.randn(COUNT, q.shape[-1], dtype=F64)
    d = d / d.norm(dim=-1, keepdim=True)
    A[unbounded] -= (mv(A[unbounded], d) + interior_points(cones, COUNT))[..., None] * d[:, None]
    away = torch.eye(d.shape[-1], dtype=F64) - d[..., None] * d[:, None]
    P[unbounded] = away @ P[unbounded] @ away
    q[unbounded] -= d * ((q[unbounded] * d).sum(-1, keepdim=True) + 1)

    solution = ol.solve_cone(P, q, A, b, cones, throw=False)
    names = [ol.Status.SOLVED, ol.Status.PRIMAL_INFEASIBLE, ol.Status.DUAL_INFEASIBLE]
    assert solution.status.tolist() == [int(name) for name in names for _ in range(COUNT)]
    z, s = solution.z[infeasible], solution.s[unbounded]
    scale = (b[infeasible] * z).sum(-1)
    assert (scale < 0).all() and (largest(mv(A[infeasible].mT, z)) < 1e-6 * scale.abs()).all()
    assert (largest(project(cones, -z)) < 1e-6).all()
    assert (largest(project(cones, s) - s) < 1e-6).all()
    if cones.zero < cones.rows:  # otherwise -Ad is zero
        K = torch.cat([A[unbounded], P[unbounded]], 1)
        rhs = torch.cat([-s, torch.zeros_like(q[unbounded])], -1)
        d = torch.linalg.lstsq(K, rhs[..., None]).solution[..., 0]
        assert ((q[unbounded] * d).sum(-1) < 0).all() and (largest(mv(K, d) - rhs) < 1e-5 * largest(d)).all()
