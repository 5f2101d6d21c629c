"""diffcp as an alternative derivative of cone programs, and as an oracle of our own."""

import importlib

import pytest
import torch
from test_cone import CONES, VERTICES, outputs, random_cone_program

import optlayers as ol

pytest.importorskip("clarabel")
F64 = torch.float64
KNOWN = {name: CONES[name] for name in ("zero", "nonneg", "second_order", "psd", "exponential")}
KNOWN["mixed"] = ol.Cones(zero=1, nonneg=2, second_order=(3, 4), psd=(2, 3))


def quadratic(cones):
    return lambda: random_cone_program(cones, (2,))[0], cones


def linear(cones, v):
    def make():
        (_, _, A, b), (_, _, z) = random_cone_program(cones, n=2, v=v)
        return None, -A.mT @ z, A, b

    return make, cones


PROGRAMS = {name: quadratic(cones) for name, cones in KNOWN.items()}
PROGRAMS |= {f"{name}-vertex": linear(*VERTICES[name]) for name in KNOWN if name in VERTICES}


@pytest.mark.parametrize(("make", "cones"), PROGRAMS.values(), ids=PROGRAMS)
def test_gradients_and_tangents_are_those_of_diffcp(make, cones):
    pytest.importorskip("diffcp")
    P, *rest = make()
    leaves = [t.requires_grad_() for t in (P, *rest) if t is not None]
    found = {}
    for adjoint in (ol.Implicit(), ol.Diffcp(dense=True), ol.Diffcp()):
        solution = ol.solve_cone(P, *rest, cones, adjoint=adjoint)
        torch.manual_seed(1)
        loss = sum((torch.randn_like(t) * t).sum() for t in outputs(solution))
        f = lambda b, adjoint=adjoint: outputs(ol.solve_cone(P, *rest[:2], b, cones, adjoint=adjoint))  # noqa: E731
        tangents = torch.func.jvp(f, (rest[2].detach(),), (torch.ones_like(rest[2]),))[1]
        found[adjoint] = [*torch.autograd.grad(loss, leaves), *(t.detach() for t in tangents)]
    for adjoint, tolerance in ((ol.Diffcp(dense=True), 1e-6), (ol.Diffcp(), 1e-5)):
        for got, want in zip(found[adjoint], found[ol.Implicit()], strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=tolerance * max(1.0, want.abs().max().item()))


def test_a_failed_sample_leaves_the_others_alone():
    pytest.importorskip("diffcp")
    b = torch.tensor([[2.0, -1.0], [-1.0, -1.0]], dtype=F64, requires_grad=True)  # x <= b1, -x <= b2
    A, q = torch.tensor([[1.0], [-1.0]], dtype=F64), torch.ones(1, dtype=F64)
    x = ol.solve_cone(None, q, A, b, ol.Cones(nonneg=2), adjoint=ol.Diffcp(), throw=False).x
    assert x[1].isnan()
    (grad,) = torch.autograd.grad(x[0].sum(), b)
    assert not grad[1].any() and grad[0].isfinite().all()


def test_power_cones_and_a_missing_package_are_named(monkeypatch):
    data, _ = random_cone_program(CONES["power"])
    with pytest.raises(ValueError, match="diffcp has no power cones"):
        ol.solve_cone(*data, CONES["power"], adjoint=ol.Diffcp())
    data, _ = random_cone_program(CONES["nonneg"])
    real = importlib.import_module

    def missing(name):
        if name == "diffcp":
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match="pip install"):
        ol.solve_cone(*data, CONES["nonneg"], adjoint=ol.Diffcp())
