"""The closest feasible program: shifts, solution and derivatives."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap

import optlayers as ol

F64 = torch.float64


def contradictory(batch=3, n=4, m=6, k=2, feasible=(0,)):
    """Random constraints that contradict each other but for the samples `feasible`."""
    G, A = torch.randn(batch, m, n, dtype=F64), torch.randn(batch, k, n, dtype=F64)
    h = torch.randn(batch, m, dtype=F64) - 1
    h[list(feasible)] = 5.0
    Q = torch.eye(n, dtype=F64) + 0.1 * torch.ones(n, n, dtype=F64)
    data = {
        "Q": Q,
        "p": torch.randn(batch, n, dtype=F64),
        "G": G,
        "h": h,
        "A": A,
        "b": torch.randn(batch, k, dtype=F64),
    }
    return {**data, "lb": torch.full((n,), -2.0, dtype=F64)}


def fields(data):
    def f(*tensors):
        found = ol.solve_closest_qp(**dict(zip(data, tensors, strict=True)))
        return found.x, found.shift_h, found.shift_b

    return f


def test_shifts_are_the_least_ones():
    """Optimality of the shifts: (t, r) = (z, y) is itself a Farkas certificate of the unshifted program."""
    data = contradictory()
    found = ol.solve_closest_qp(**data)
    t, r = found.shift_h, found.shift_b
    x = found.x
    residual = torch.einsum("bij,bj->bi", data["A"], x) - data["b"]
    torch.testing.assert_close(residual, r, rtol=0, atol=1e-9)
    violation = (torch.einsum("bij,bj->bi", data["G"], x) - data["h"]).clamp(min=0)
    torch.testing.assert_close(violation, t, rtol=0, atol=1e-9)
    pull = torch.einsum("bij,bi->bj", data["G"], t) + torch.einsum("bij,bi->bj", data["A"], r)
    at_bound = x <= data["lb"] + 1e-9  # there the bound may push back
    assert (torch.where(at_bound, pull.clamp(max=0), pull).abs() < 1e-9).all()
    assert (t[0] == 0).all() and (r[0] == 0).all() and (t[1:] > 1e-3).any(-1).all()


def test_feasible_samples_are_solved_as_they_are():
    data = contradictory(feasible=(0, 2))
    found = ol.solve_closest_qp(**data)
    alone = {name: value[[0, 2]] if value.shape[0] == 3 else value for name, value in data.items()}
    torch.testing.assert_close(found.x[[0, 2]], ol.solve_qp(**alone).x, rtol=0, atol=0)


def test_solution_minimises_over_the_shifted_set():
    data = contradictory()
    found = ol.solve_closest_qp(**data)
    z, y, z_lb = found.solution.z, found.solution.y, found.solution.z_lb
    stationarity = found.x @ data["Q"] + data["p"] - z_lb
    stationarity = stationarity + torch.einsum("bij,bi->bj", data["G"], z) + torch.einsum("bij,bi->bj", data["A"], y)
    assert stationarity.abs().max() < 1e-8
    assert found.solution.s.min() >= -1e-9


def test_derivatives_of_solution_and_shifts_against_finite_differences():
    data = contradictory(batch=2, n=3, m=4, k=1)
    assert ol.solve_closest_qp(**data).shift_h[1].max() > 1e-3
    leaves = [value.clone().requires_grad_() for value in data.values()]
    assert gradcheck(fields(data), leaves, check_forward_ad=True)


def test_second_derivatives():
    data = contradictory(batch=2, n=2, m=3, k=1)
    assert gradgradcheck(fields(data), [value.clone().requires_grad_() for value in data.values()])


def test_vmap_equals_batch():
    data = contradictory()
    shared = {name: data[name] for name in ("Q", "lb")}
    mapped = {name: value for name, value in data.items() if name not in shared}

    def f(*tensors):
        found = ol.solve_closest_qp(**shared, **dict(zip(mapped, tensors, strict=True)))
        return found.x, found.shift_h, found.shift_b

    for got, want in zip(vmap(f)(*mapped.values()), f(*mapped.values()), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-8)


def test_only_inequalities_or_only_equalities():
    x = torch.tensor([[1.0]], dtype=F64)
    found = ol.solve_closest_qp(
        x, x[0], G=torch.tensor([[1.0], [-1.0]], dtype=F64), h=torch.tensor([0.0, -2.0], dtype=F64)
    )
    torch.testing.assert_close(found.shift_h, torch.tensor([1.0, 1.0], dtype=F64))  # x <= 0 and x >= 2: meet at 1
    torch.testing.assert_close(found.x, torch.tensor([1.0], dtype=F64))
    found = ol.solve_closest_qp(
        x, x[0], A=torch.tensor([[1.0], [1.0]], dtype=F64), b=torch.tensor([0.0, 2.0], dtype=F64)
    )
    torch.testing.assert_close(found.shift_b, torch.tensor([1.0, -1.0], dtype=F64))


def test_other_failures_still_raise():
    eye = torch.eye(2, dtype=F64)
    with pytest.raises(ol.SolveError, match="DUAL_INFEASIBLE"):
        ol.solve_closest_qp(0 * eye, eye[0], G=eye, h=eye[0])
    with pytest.raises(ol.SolveError, match="INVALID_INPUT"):  # bounds are not shifted
        ol.solve_closest_qp(eye, eye[0], lb=eye[0], ub=-eye[0])


def test_a_layer_learns_constraints_from_an_infeasible_start():
    """Random constraints that contradict the bounds; training fits a hidden feasible program all the same."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.rand(3, 6, dtype=F64, generator=generator)
    hidden = hidden / hidden.sum(-1, keepdim=True)  # x = 1 is feasible
    eye, one = torch.eye(6, dtype=F64), torch.ones(3, dtype=F64)
    p = torch.randn(20, 6, dtype=F64, generator=generator)
    target = ol.solve_qp(eye, p, A=hidden, b=one, lb=torch.zeros(6, dtype=F64)).x
    A = torch.nn.Parameter(0.5 * torch.randn(3, 6, dtype=F64, generator=generator))
    layer = ol.QPLayer(eye, A=A, b=one, lb=torch.zeros(6, dtype=F64), closest=True)
    assert layer.solve(p=p).shift_b.abs().max() > 0.1
    optimizer = torch.optim.Adam([A], lr=5e-2)
    losses = []
    for _ in range(150):
        found = layer.solve(p=p)
        loss = (found.x - target).square().mean() + found.shift_b.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert layer.solve(p=p).shift_b.abs().max() < 1e-6
