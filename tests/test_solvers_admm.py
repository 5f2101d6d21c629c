"""ADMM as the solver of `solve_qp`: the answers of the interior point method, by another way."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol

F64 = torch.float64
ADMM = ol.ADMM()


def program(batch=3, n=5, m=4, k=1, shared=False, bounds=True):
    lead = () if shared else (batch,)
    M, G, A = (torch.randn(*lead, rows, n, dtype=F64) for rows in (n, m, k))
    x = 0.3 * torch.randn(batch, n, dtype=F64)
    data = {"Q": M.mT @ M / n, "p": torch.randn(batch, n, dtype=F64)}
    data |= {"G": G, "h": (G @ x[..., None])[..., 0] + torch.rand(batch, m, dtype=F64)}
    data |= {"A": A, "b": (A @ x[..., None])[..., 0]}
    return data | ({"lb": x.amin(0) - 0.5, "ub": x.amax(0) + 0.5} if bounds else {})


CASES = {
    "shared": program(6, shared=True),
    "unshared": program(),
    "unconstrained": {key: value for key, value in program().items() if key in ("Q", "p")},
    "equalities": program(m=0, k=2, bounds=False),
    "inequalities": program(m=7, k=0, bounds=False),
    "upper bounds only": {key: value for key, value in program().items() if key != "lb"},
}


@pytest.mark.parametrize("data", CASES.values(), ids=CASES.keys())
def test_equals_the_interior_point_method(data):
    data = {key: value.clone().requires_grad_() for key, value in data.items()}
    both = []
    for solver in (ADMM, ol.InteriorPoint()):
        solution = ol.solve_qp(**data, solver=solver)
        assert solution.status.eq(0).all() and solution.residuals.max() < 1e-9
        loss = sum(value.pow(2).sum() for value in solution[:5]) + solution.s.sum()
        both.append([*solution[:6], *torch.autograd.grad(loss, list(data.values()))])
    torch.testing.assert_close(*both, rtol=1e-8, atol=1e-9)


def test_gradcheck():
    data = program(2, 3, 2, 1, shared=True)
    inputs = [data.pop(key).requires_grad_() for key in ("p", "h", "b")]

    def solve(p, h, b):
        return ol.solve_qp(p=p, h=h, b=b, **data, solver=ADMM).x

    assert gradcheck(solve, inputs, check_forward_ad=True)
    assert gradgradcheck(solve, inputs)


def test_shared_matrices_are_factored_once(monkeypatch):
    seen = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: seen.append(matrix.shape) or eigh(matrix))
    data = program(6, shared=True)
    together = ol.solve_qp(**data, solver=ADMM)
    spread = {key: value.expand(6, *value.shape).clone() if key in "QGA" else value for key, value in data.items()}
    torch.testing.assert_close(ol.solve_qp(**spread, solver=ADMM).x, together.x, rtol=0, atol=1e-10)
    assert seen == [(1, 5, 5), (6, 5, 5)]


def test_infeasible_unbounded_and_invalid_samples_are_told_apart():
    data = program(5)
    h, p, Q = data["h"].clone(), data["p"].clone(), data["Q"].clone()
    h[1] = -100.0
    Q[2] = -torch.eye(5, dtype=F64)
    p[3] = torch.nan
    data |= {"h": h, "p": p, "Q": Q}
    data["p"].requires_grad_()
    solution = ol.solve_qp(**data, solver=ADMM, throw=False)
    status = ol.Status
    want = [status.SOLVED, status.PRIMAL_INFEASIBLE, status.INVALID_INPUT, status.INVALID_INPUT, status.SOLVED]
    assert solution.status.tolist() == want
    assert solution.x[1:4].isnan().all()
    good = [0, 4]
    torch.testing.assert_close(solution.x[good], ol.solve_qp(**data, throw=False).x[good], rtol=0, atol=1e-9)
    (gradient,) = torch.autograd.grad(solution.x[good].sum(), data["p"])
    assert gradient[1:4].eq(0).all() and gradient[good].ne(0).any()
    y, z, low, up = solution.y[1], solution.z[1], solution.z_lb[1], solution.z_ub[1]
    assert (data["G"][1].mT @ z + data["A"][1].mT @ y + up - low).abs().max() < 1e-5
    assert data["h"][1] @ z + data["b"][1] @ y + data["ub"] @ up - data["lb"] @ low < -0.1

    zero, cost = torch.zeros(2, 2, dtype=F64), torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=F64)
    bounds = {"lb": torch.tensor([0.0, -torch.inf], dtype=F64)}
    solution = ol.solve_qp(zero, cost, **bounds, solver=ADMM, throw=False)
    assert solution.status.tolist() == [status.SOLVED, status.DUAL_INFEASIBLE]
    with pytest.raises(ol.SolveError, match=r"DUAL_INFEASIBLE.*sample 1"):
        ol.solve_qp(zero, cost, **bounds, solver=ADMM)


def test_degenerate_programs():
    n = 3
    eye, ones = torch.eye(n, dtype=F64), torch.ones(1, n, dtype=F64)
    p = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    repeated = {"A": ones.expand(2, n), "b": torch.ones(2, dtype=F64), "lb": torch.zeros(n, dtype=F64)}
    linear = {
        "G": torch.cat([ones, ones]),
        "h": torch.tensor([1.0, torch.inf], dtype=F64),
        "lb": torch.zeros(n, dtype=F64),
    }
    fixed = {"lb": torch.tensor([0.5, -1.0, -1.0], dtype=F64), "ub": torch.tensor([0.5, 1.0, 1.0], dtype=F64)}
    scaled = {"G": 1e6 * eye, "h": torch.full((n,), 1e5, dtype=F64), "A": 1e-6 * ones, "b": torch.zeros(1, dtype=F64)}
    for Q, constraints in ((eye, repeated), (0 * eye, linear), (eye, fixed), (eye, scaled)):
        got, want = (ol.solve_qp(Q, p, **constraints, solver=solver) for solver in (ADMM, ol.InteriorPoint()))
        torch.testing.assert_close(got.x, want.x, rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_dtypes_shapes_warm_starts_vmap_and_limits():
    data = program(4, shared=True)
    cold = ol.solve_qp(**data, solver=ADMM)
    single = ol.solve_qp(**{key: value.float() for key, value in data.items()}, solver=ADMM)
    assert single.x.dtype == torch.float32
    torch.testing.assert_close(single.x, cold.x.float(), rtol=0, atol=1e-4)
    one = ol.solve_qp(**data | {key: data[key][0] for key in "phb"}, solver=ADMM)
    torch.testing.assert_close(one.x, cold.x[0], rtol=0, atol=1e-10)
    assert ol.solve_qp(**data | {key: data[key][:0] for key in "phb"}, solver=ADMM).x.shape == (0, 5)
    assert (ol.solve_qp(**data, solver=ADMM, init=cold).iterations < cold.iterations).any()
    mapped = torch.vmap(lambda p: ol.solve_qp(**data | {"p": p}, solver=ol.ADMM(max_steps=500)).x)(
        data["p"][:, None].expand(4, 4, 5)
    )
    torch.testing.assert_close(mapped.diagonal().mT, cold.x, rtol=0, atol=1e-9)
    limited = ol.solve_qp(**data, solver=ol.ADMM(eps=1e-14, max_steps=0), throw=False)
    assert limited.status.eq(int(ol.Status.MAX_STEPS)).all() and limited.iterations.eq(0).all()
    with pytest.raises(ValueError, match=r"solver is ol\.ADMM, but a matrix is sparse"):
        ol.solve_qp(torch.eye(5, dtype=F64).to_sparse_csr(), data["p"], solver=ADMM)
    with pytest.raises(ValueError, match=r"ol\.ADMM cannot be unrolled"):
        ol.solve_qp(**data, solver=ADMM, adjoint=ol.Unroll())
