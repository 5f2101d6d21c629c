"""solve_qp and QPLayer: values and derivatives against independent references, degenerate and bad input."""

import copy
import pickle
import warnings
from itertools import product

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import optlayers as ol

F64 = torch.float64
NAMES = ("Q", "p", "G", "h", "A", "b", "lb", "ub")
EVERY_OUTPUT = ("x", "y", "z", "z_lb", "z_ub", "s")


def random_qp(batch=(), n=6, m=8, k=2, bounds=True, dtype=F64):
    """A well-scaled problem with a known feasible point; strictly complementary with probability one."""
    L = torch.randn(*batch, n, n, dtype=dtype)
    x = torch.randn(*batch, n, dtype=dtype)
    G, A = torch.randn(*batch, m, n, dtype=dtype), torch.randn(*batch, k, n, dtype=dtype)
    data = {
        "Q": L @ L.mT / n + 1e-2 * torch.eye(n, dtype=dtype),
        "p": torch.randn(*batch, n, dtype=dtype),
        "G": G,
        "h": (G @ x[..., None])[..., 0] + torch.rand(*batch, m, dtype=dtype),
        "A": A,
        "b": (A @ x[..., None])[..., 0],
    }
    if bounds:
        data["lb"] = x - torch.rand(*batch, n, dtype=dtype)
        data["ub"] = x + torch.rand(*batch, n, dtype=dtype)
    return data


def active_set_solution(data, solution):
    """x by one LU solve on the active set of `solution`, whose signs and feasibility are checked; differentiable."""
    n = data["p"].shape[-1]
    eye = torch.eye(n, dtype=F64)
    rows, values = [data["A"]], [data["b"]]
    lower, upper = solution.z_lb > 1e-9, solution.z_ub > 1e-9
    for matrix, vector, active in (
        (data["G"], data["h"], solution.z > 1e-9),
        (-eye, -data["lb"], lower),
        (eye, data["ub"], upper),
    ):
        rows.append(matrix[active])
        values.append(vector[active])
    C, c = torch.cat(rows), torch.cat(values)
    zero = torch.zeros(len(C), len(C), dtype=F64)
    K = torch.cat([torch.cat([data["Q"], C.T], 1), torch.cat([C, zero], 1)])
    both = torch.linalg.solve(K, torch.cat([-data["p"], c]))
    x, multipliers = both[:n], both[n + len(data["b"]) :]
    assert (multipliers > 0).all() and (data["G"] @ x <= data["h"] + 1e-10).all()
    assert (x >= data["lb"] - 1e-10).all() and (x <= data["ub"] + 1e-10).all()
    return x


def requiring_grad(data):
    return {name: value.clone().requires_grad_() for name, value in data.items()}


def call(names, outputs=EVERY_OUTPUT, **options):
    """solve_qp as a function of tensors in the order of `names`."""

    def f(*tensors):
        solution = ol.solve_qp(**dict(zip(names, tensors, strict=True)), **options)
        return tuple(getattr(solution, name) for name in outputs)

    return f


def kkt_error(data, solution):
    """Largest violation of the KKT conditions, from the user's data."""
    x = solution.x
    zero = x.new_zeros(())
    stationarity = torch.einsum("...ij,...j->...i", data["Q"], x) + data["p"]
    errors = []
    for matrix, vector, z in (("G", "h", "z"), ("A", "b", "y")):
        if matrix in data:
            z = getattr(solution, z)
            stationarity = stationarity + torch.einsum("...ij,...i->...j", data[matrix], z)
            gap = torch.einsum("...ij,...j->...i", data[matrix], x) - data[vector]
            errors += [gap] if vector == "b" else [gap.clamp(min=0), z.clamp(max=0), torch.minimum(-gap, z)]
    if "lb" in data:
        stationarity = stationarity - solution.z_lb
        errors += [(data["lb"] - x).clamp(min=0), torch.minimum(x - data["lb"], solution.z_lb)]
    if "ub" in data:
        stationarity = stationarity + solution.z_ub
        errors += [(x - data["ub"]).clamp(min=0), torch.minimum(data["ub"] - x, solution.z_ub)]
    return max([zero, *(e.abs().max() for e in [stationarity, *errors] if e.numel())]).item()


# -- values and first derivatives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_solution_and_gradients_against_active_set_lu(seed):
    torch.manual_seed(seed)
    data = random_qp(n=10, m=10, k=3)
    ours, reference = requiring_grad(data), requiring_grad(data)
    solution = ol.solve_qp(**ours)
    x = active_set_solution(reference, solution)
    torch.testing.assert_close(solution.x, x, rtol=0, atol=1e-10)
    weights = torch.randn_like(x)
    got = torch.autograd.grad(solution.x @ weights, list(ours.values()))
    want = torch.autograd.grad(x @ weights, list(reference.values()))
    for name, a, b in zip(NAMES, got, want, strict=True):
        b = (b + b.T) / 2 if name == "Q" else b  # only the symmetric part of Q enters
        assert (a - b).abs().max() <= 1e-9 * (1 + b.abs().max()), name


def test_gradcheck_of_every_output_with_respect_to_every_input():
    data = requiring_grad(random_qp((2,), n=4, m=5, k=1))
    assert gradcheck(call(data), list(data.values()), check_forward_ad=True, check_batched_grad=True)


def test_second_derivatives_of_every_output_with_respect_to_every_input():
    data = requiring_grad(random_qp(n=3, m=4, k=1))
    assert gradgradcheck(call(data), list(data.values()), check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize(
    "adjoint",
    [
        ol.Implicit(ol.linear_solve.LU(batch_ndim=1)),
        ol.Implicit(ol.linear_solve.GMRES(rtol=1e-12, batch_ndim=1)),
        ol.Implicit(lambda matvec, b: ol.linear_solve.LU(batch_ndim=1)(matvec, b)),
    ],
    ids=["LU", "GMRES", "plain function"],
)
def test_any_linear_solver_gives_the_same_gradient(adjoint):
    data = requiring_grad(random_qp((3,), n=4, m=5, k=1))
    both = []
    for options in ({}, {"adjoint": adjoint}):
        solution = ol.solve_qp(**data, **options)
        loss = sum((getattr(solution, name) ** 2).sum() for name in EVERY_OUTPUT)
        both.append(torch.autograd.grad(loss, list(data.values())))
    torch.testing.assert_close(*both, rtol=1e-8, atol=1e-9)


def test_fused_first_order_equals_the_generic_rule():
    """Plain backward takes QPRule.vjp; with create_graph=True the residual is differentiated."""
    data = requiring_grad(random_qp((3,), n=4, m=5, k=1))
    data["A"], data["b"] = (data[name][:1].detach().requires_grad_() for name in ("A", "b"))  # shared
    data["b"] = (data["A"] @ torch.zeros(4, dtype=F64)).detach().requires_grad_()
    data["lb"], data["ub"] = (torch.full((4,), sign * 3.0, dtype=F64).requires_grad_() for sign in (-1, 1))
    data["h"] = data["h"].detach().abs().add(0.1).requires_grad_()
    solution = ol.solve_qp(**data)
    loss = sum((getattr(solution, name) ** 3).sum() for name in EVERY_OUTPUT)
    plain = torch.autograd.grad(loss, list(data.values()), retain_graph=True)
    generic = torch.autograd.grad(loss, list(data.values()), create_graph=True)
    torch.testing.assert_close(plain, tuple(g.detach() for g in generic), rtol=1e-10, atol=1e-10)


def test_unrolled_gradient_agrees_roughly_and_needs_no_polish():
    data = requiring_grad(random_qp(n=4, m=5, k=1))
    exact = torch.autograd.grad(ol.solve_qp(**data).x.sum(), list(data.values()))
    unrolled = torch.autograd.grad(ol.solve_qp(**data, adjoint=ol.Unroll()).x.sum(), list(data.values()))
    for a, b in zip(unrolled, exact, strict=True):
        assert (a - b).norm() <= 1e-3 * (1 + b.norm())


# -- transforms --------------------------------------------------------------------------------------------------------


def test_torch_func_jacobians_and_hessian():
    data = random_qp(n=3, m=4, k=1)
    f = call(data, ("x",))
    args = list(data.values())
    for index in range(len(args)):
        reverse, forward = jacrev(f, index)(*args)[0], jacfwd(f, index)(*args)[0]
        torch.testing.assert_close(reverse, forward, rtol=1e-8, atol=1e-10)

    def loss(p):
        return f(args[0], p, *args[2:])[0].pow(2).sum()

    H = hessian(loss)(args[1])
    eps = 1e-6
    columns = [
        (grad(loss)(args[1] + eps * e) - grad(loss)(args[1] - eps * e)) / (2 * eps) for e in torch.eye(3, dtype=F64)
    ]
    torch.testing.assert_close(H, torch.stack(columns), rtol=1e-5, atol=1e-6)


def test_vmap_equals_loop_equals_batch_nested_and_under_grad():
    data = random_qp((2, 3), n=4, m=5, k=1)
    f = call(data, ("x", "z", "y"))
    args = list(data.values())
    batched = f(*args)
    for got, want in zip(vmap(vmap(f))(*args), batched, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    for i, j in product(range(2), range(3)):
        for got, want in zip(f(*(t[i, j] for t in args)), batched, strict=True):
            torch.testing.assert_close(got, want[i, j], rtol=1e-9, atol=1e-10)

    def gradient(*args):
        return grad(lambda *args: f(*args)[0].pow(2).sum(), tuple(range(8)))(*args)

    leaves = [t.clone().requires_grad_() for t in args]
    want = torch.autograd.grad(f(*leaves)[0].pow(2).sum(), leaves)
    torch.testing.assert_close(vmap(vmap(gradient))(*args), want, rtol=1e-8, atol=1e-9)


def test_vmap_over_one_argument_shares_the_others():
    data = random_qp(n=4, m=5, k=1)
    p = torch.randn(5, 4, dtype=F64)
    others = {name: value for name, value in data.items() if name != "p"}
    mapped = vmap(lambda p: ol.solve_qp(p=p, **others).x)(p)
    torch.testing.assert_close(mapped, ol.solve_qp(p=p, **others).x)


def test_compiled_fullgraph_equals_eager():
    data = requiring_grad(random_qp((2,), n=4, m=5, k=1))

    def loss(**data):
        solution = ol.solve_qp(**data)
        return solution.x.pow(2).sum() + solution.z.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, want = compiled(**data), loss(**data)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad(got, list(data.values())), torch.autograd.grad(want, list(data.values()))
    )


# -- shapes, sharing, dtypes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (0,), (2, 0)])
def test_batch_shapes(batch):
    data = requiring_grad(random_qp(batch, n=4, m=5, k=1))
    solution = ol.solve_qp(**data)
    assert solution.x.shape == (*batch, 4) and solution.z.shape == (*batch, 5) and solution.y.shape == (*batch, 1)
    assert solution.status.shape == solution.iterations.shape == batch and solution.residuals.shape == (*batch, 3)
    grads = torch.autograd.grad(solution.x.sum(), list(data.values()))
    assert [g.shape for g in grads] == [t.shape for t in data.values()]


@pytest.mark.parametrize("given", [(), ("G",), ("A",), ("lb",), ("ub",), ("G", "A"), ("lb", "ub"), ("A", "lb")])
def test_every_subset_of_constraints(given):
    data = random_qp((2,), n=4, m=5, k=1)
    pairs = {"G": "h", "A": "b"}
    keep = {"Q", "p", *given, *(pairs[name] for name in given if name in pairs)}
    data = requiring_grad({name: value for name, value in data.items() if name in keep})
    solution = ol.solve_qp(**data)
    assert kkt_error(data, solution) < 1e-9
    assert gradcheck(call(data, ("x",)), list(data.values()))


def test_shared_arguments_get_the_sum_of_gradients():
    data = random_qp(n=4, m=5, k=1)
    p = torch.randn(3, 4, dtype=F64)
    for shared in ("Q", "G", "h", "A", "b", "lb", "ub"):
        leaf = data[shared].clone().requires_grad_()
        together = ol.solve_qp(**{**data, "p": p, shared: leaf}).x
        (got,) = torch.autograd.grad(together.pow(2).sum(), leaf)
        alone = [ol.solve_qp(**{**data, "p": row, shared: leaf}).x.pow(2).sum() for row in p]
        (want,) = torch.autograd.grad(sum(alone), leaf)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


def test_non_contiguous_and_expanded_inputs():
    data = random_qp((3,), n=4, m=5, k=1)
    want = ol.solve_qp(**data)
    strided = {name: value.repeat_interleave(2, -1)[..., ::2].mT.mT for name, value in data.items()}
    strided["G"] = data["G"].mT.contiguous().mT
    torch.testing.assert_close(ol.solve_qp(**strided).x, want.x)
    expanded = {name: value[0].expand(3, *value.shape[1:]) for name, value in data.items()}
    torch.testing.assert_close(ol.solve_qp(**expanded).x, want.x[:1].expand(3, 4))


def test_only_the_symmetric_part_of_Q_enters():
    data = random_qp(n=4, m=5, k=1)
    skew = torch.randn(4, 4, dtype=F64)
    solution = ol.solve_qp(**{**data, "Q": data["Q"] + skew - skew.T})
    torch.testing.assert_close(solution.x, ol.solve_qp(**data).x)


def test_float32_in_float32_out():
    data = random_qp((4,), n=6, m=8, k=2)
    single = requiring_grad({name: value.float() for name, value in data.items()})
    double = requiring_grad({name: value.float().double() for name, value in data.items()})
    solution = ol.solve_qp(**single)
    assert all(getattr(solution, name).dtype == torch.float32 for name in (*EVERY_OUTPUT, "residuals"))
    torch.testing.assert_close(solution.x.double(), ol.solve_qp(**double).x, rtol=1e-4, atol=1e-5)
    got = torch.autograd.grad(solution.x.sum(), list(single.values()))
    want = torch.autograd.grad(ol.solve_qp(**double).x.sum(), list(double.values()))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        assert (a.double() - b).norm() <= 1e-3 * (1 + b.norm())


# -- degenerate problems are ordinary input -----------------------------------------------------------------------


def test_infinite_bounds_and_rows_count_as_absent():
    data = random_qp(n=4, m=5, k=1)
    infinite = requiring_grad(data)
    with torch.no_grad():
        infinite["h"][1] = torch.inf
        infinite["lb"][:] = -torch.inf
        infinite["ub"][2] = torch.inf
    keep = torch.tensor([0, 2, 3, 4])
    plain = requiring_grad({**data, "G": data["G"][keep], "h": data["h"][keep]})
    plain["ub"] = torch.where(torch.arange(4) == 2, 1e6, plain["ub"].detach()).requires_grad_()
    del plain["lb"]
    solution, want = ol.solve_qp(**infinite), ol.solve_qp(**plain)
    torch.testing.assert_close(solution.x, want.x)
    assert solution.z[1] == 0 and solution.s[1] == torch.inf and (solution.z_lb == 0).all()
    loss = solution.x.pow(2).sum() + solution.z.sum() + solution.z_lb.sum() + solution.z_ub.sum()
    grads = torch.autograd.grad(loss, list(infinite.values()))
    assert all(g.isfinite().all() for g in grads)
    torch.testing.assert_close(
        torch.autograd.grad(ol.solve_qp(**infinite).x.sum(), infinite["p"]),
        torch.autograd.grad(want.x.sum(), plain["p"]),
    )


def test_linear_program_has_zero_gradient_in_its_cost():
    G = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=F64, requires_grad=True)
    h = torch.tensor([1.0, 0.0, 0.0], dtype=F64, requires_grad=True)
    p = torch.tensor([-2.0, -1.0], dtype=F64, requires_grad=True)
    solution = ol.solve_qp(torch.zeros(2, 2, dtype=F64), p, G, h)
    torch.testing.assert_close(solution.x, torch.tensor([1.0, 0.0], dtype=F64))
    dp, dh = torch.autograd.grad(solution.x[0], (p, h))
    torch.testing.assert_close(dp, torch.zeros(2, dtype=F64))
    torch.testing.assert_close(dh, torch.tensor([1.0, 0.0, 1.0], dtype=F64))


def test_singular_Q_with_a_unique_solution():
    data = random_qp(n=4, m=0, k=1)
    data = {name: value for name, value in data.items() if name not in ("G", "h")}
    v = torch.randn(4, 1, dtype=F64)
    data = requiring_grad({**data, "Q": v @ v.T})
    assert kkt_error(data, ol.solve_qp(**data)) < 1e-9
    rest = {name: value for name, value in data.items() if name != "Q"}  # a small step makes Q indefinite

    def f(*tensors):
        return ol.solve_qp(data["Q"].detach(), **dict(zip(rest, tensors, strict=True))).x

    assert gradcheck(f, list(rest.values()))


def test_dependent_and_duplicate_rows_change_neither_solution_nor_gradient():
    data = random_qp(n=5, m=3, k=2, bounds=False)
    plain = requiring_grad(data)
    x = ol.solve_qp(**plain).x
    want = torch.autograd.grad(x.pow(2).sum(), (plain["Q"], plain["p"]))
    doubled = {**data}
    mix = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]], dtype=F64)
    doubled["A"], doubled["b"] = mix @ data["A"], mix @ data["b"]
    doubled["G"], doubled["h"] = data["G"].repeat(2, 1), data["h"].repeat(2)
    doubled = requiring_grad(doubled)
    solution = ol.solve_qp(**doubled)
    assert kkt_error(doubled, solution) < 1e-9
    torch.testing.assert_close(solution.x, x, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(solution.z[:3], solution.z[3:], rtol=1e-5, atol=1e-7)  # the least-norm multiplier
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = torch.autograd.grad(solution.x.pow(2).sum(), (doubled["Q"], doubled["p"]))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def test_weakly_active_constraint_counts_as_inactive():
    """x = max(t, 0) at t = 0: the derivative is 1 on one side and 0 on the other; ours is 1."""
    t = torch.zeros(1, dtype=F64, requires_grad=True)
    solution = ol.solve_qp(torch.eye(1, dtype=F64), -t, lb=torch.zeros(1, dtype=F64))
    assert solution.x.abs() < 1e-9 and solution.z_lb.abs() < 1e-9
    assert torch.autograd.grad(solution.x.sum(), t)[0].item() == pytest.approx(1.0, abs=1e-12)


def test_fixed_variables():
    data = random_qp(n=4, m=5, k=1)
    value = torch.tensor(0.1, dtype=F64, requires_grad=True)
    lb = torch.where(torch.arange(4) == 1, value, -2.0)
    ub = torch.where(torch.arange(4) == 1, value, 2.0)
    data = {name: data[name] for name in ("Q", "p")}
    solution = ol.solve_qp(**data, lb=lb, ub=ub)
    assert solution.x[1].item() == pytest.approx(0.1, abs=1e-12)
    assert (solution.z_lb >= 0).all() and (solution.z_ub >= 0).all()
    (gradient,) = torch.autograd.grad(solution.x.sum(), value)
    eps = 1e-6

    def total(v):
        where = torch.arange(4) == 1
        lb, ub = torch.where(where, v, -2.0), torch.where(where, v, 2.0)
        return ol.solve_qp(**data, lb=lb.to(F64), ub=ub.to(F64)).x.sum()

    v = value.detach()
    torch.testing.assert_close(gradient, (total(v + eps) - total(v - eps)) / (2 * eps), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("objective, rows", [(1e6, 1.0), (1.0, 1e-6), (1.0, 1e4), (1e6, 1e-3), (1e-6, 1.0)])
def test_scaling_of_objective_and_rows_changes_nothing(objective, rows):
    data = random_qp((4,), n=6, m=8, k=2)
    want_data = requiring_grad(data)
    want = ol.solve_qp(**want_data)
    scaled = requiring_grad(
        {
            **data,
            "Q": data["Q"] * objective,
            "p": data["p"] * objective,
            **{name: data[name] * rows for name in ("G", "h", "A", "b")},
        }
    )
    solution = ol.solve_qp(**scaled)
    torch.testing.assert_close(solution.x, want.x, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(solution.z * rows / objective, want.z, rtol=1e-6, atol=1e-8)
    (got,) = torch.autograd.grad(solution.x.sum(), scaled["p"])
    (reference,) = torch.autograd.grad(want.x.sum(), want_data["p"])
    torch.testing.assert_close(got * objective, reference, rtol=1e-6, atol=1e-8)


# -- failures are data ------------------------------------------------------------------------------------------------


def spoiled():
    """Four good samples with an infeasible, an unbounded, a NaN and a non-convex one among them."""
    data = random_qp((8,), n=4, m=5, k=1)
    data["lb"] = data["lb"].clone()
    data["G"][2, 0], data["h"][2, 0] = torch.eye(4, dtype=F64)[0], data["lb"][2, 0] - 1  # x_0 <= lb_0 - 1
    data["Q"][3] = 0
    data["lb"][3], data["ub"][3] = -torch.inf, torch.inf
    data["G"][3], data["h"][3] = 0, 1
    data["A"][3], data["b"][3] = torch.tensor([1.0, 0, 0, 0], dtype=F64), 0
    data["p"][3] = torch.tensor([0, 1.0, 0, 0], dtype=F64)
    data["p"][5, 1] = torch.nan
    data["Q"][6] = -torch.eye(4, dtype=F64)
    return data


GOOD = [0, 1, 4, 7]
WANT = {
    2: ol.Status.PRIMAL_INFEASIBLE,
    3: ol.Status.DUAL_INFEASIBLE,
    5: ol.Status.INVALID_INPUT,
    6: ol.Status.INVALID_INPUT,
}


def test_bad_samples_are_named_and_leave_the_others_alone():
    data = requiring_grad(spoiled())
    solution = ol.solve_qp(**data, throw=False)
    assert {i: int(solution.status[i]) for i in WANT} == {i: int(status) for i, status in WANT.items()}
    assert solution.x[list(WANT)].isnan().all() and not solution.x[GOOD].isnan().any()
    alone = {name: value.detach()[GOOD].clone().requires_grad_() for name, value in data.items()}
    want = ol.solve_qp(**alone)
    for name in EVERY_OUTPUT:
        assert torch.equal(getattr(solution, name)[GOOD], getattr(want, name))
    grads = torch.autograd.grad(solution.x[GOOD].pow(2).sum(), list(data.values()))
    reference = torch.autograd.grad(want.x.pow(2).sum(), list(alone.values()))
    for got, expected in zip(grads, reference, strict=True):
        torch.testing.assert_close(got[GOOD], expected)
        assert (got[list(WANT)] == 0).all()


def test_gradient_through_failed_samples_is_zero_at_both_orders():
    data = requiring_grad(spoiled())
    solution = ol.solve_qp(**data, throw=False)
    loss = solution.x.nan_to_num().pow(2).sum() + solution.s.nan_to_num().sum()
    grads = torch.autograd.grad(loss, list(data.values()), create_graph=True)
    assert all((g[list(WANT)] == 0).all() and g.isfinite().all() for g in grads)
    second = torch.autograd.grad(sum(g.pow(2).sum() for g in grads), list(data.values()))
    assert all((g[list(WANT)] == 0).all() and g.isfinite().all() for g in second)


def test_bad_samples_under_vmap_come_back_nan_with_their_status():
    data = spoiled()
    x, status = vmap(lambda *args: (lambda s: (s.x, s.status))(ol.solve_qp(**dict(zip(data, args, strict=True)))))(
        *data.values()
    )
    assert {i: int(status[i]) for i in WANT} == {i: int(s) for i, s in WANT.items()}
    assert x[list(WANT)].isnan().all() and not x[GOOD].isnan().any()


def test_error_names_samples_status_and_remedy():
    with pytest.raises(
        ol.SolveError, match=r"4 of 8 samples not solved.*PRIMAL_INFEASIBLE \(sample 2.*throw=False"
    ) as e:
        ol.solve_qp(**spoiled())
    assert e.value.status.shape == (8,)
    assert str(pickle.loads(pickle.dumps(e.value))) == str(e.value)


def test_certificates():
    data = spoiled()
    solution = ol.solve_qp(**data, throw=False)
    y, z, z_lb, z_ub = (getattr(solution, name)[2] for name in ("y", "z", "z_lb", "z_ub"))
    G, h, A, b, lb, ub = (data[name][2] for name in ("G", "h", "A", "b", "lb", "ub"))
    assert min(z.min(), z_lb.min(), z_ub.min()) >= 0
    assert (G.T @ z + A.T @ y + z_ub - z_lb).abs().max() < 1e-6
    assert h @ z + b @ y + ub @ z_ub - lb @ z_lb < -1e-3


def test_step_limit_is_reported():
    data = random_qp(n=6, m=8, k=2)
    with pytest.raises(ol.SolveError, match="MAX_STEPS"):
        ol.solve_qp(**data, solver=ol.InteriorPoint(max_steps=0))


def test_no_derivative_warns_in_backward():
    """min 0 over a line inside a box: every x is a solution."""
    p = torch.zeros(2, dtype=F64, requires_grad=True)
    ones = torch.ones(2, dtype=F64)
    solution = ol.solve_qp(torch.zeros(2, 2, dtype=F64), p, A=ones[None], b=ones[:1], lb=-3 * ones, ub=3 * ones)
    assert (solution.x.sum() - 1).abs() < 1e-9
    with pytest.warns(ol.linear_solve.ConvergenceWarning, match="no exact derivative"):
        (gradient,) = torch.autograd.grad(solution.x[0], p)
    assert gradient.isfinite().all() and gradient.abs().max() < 1e3


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"Q": None}, TypeError, "Q is None"),
        ({"p": [1.0]}, TypeError, "p is a list"),
        ({"Q": torch.eye(3, dtype=F64)}, ValueError, r"Q has shape \(3, 3\); expected \(\*, 4, 4\)"),
        ({"G": torch.ones(5, 3, dtype=F64)}, ValueError, r"G has shape \(5, 3\); expected \(\*, m, 4\)"),
        ({"h": torch.ones(4, dtype=F64)}, ValueError, r"h has shape \(4,\).*since G has 5 rows"),
        ({"h": None}, ValueError, "G is given without h"),
        ({"A": None}, ValueError, "b is given without A"),
        ({"lb": torch.zeros(3, dtype=F64)}, ValueError, r"lb has shape \(3,\)"),
        ({"p": torch.zeros(4)}, ValueError, "p has dtype torch.float32 but Q has torch.float64"),
        ({"p": torch.zeros(4, dtype=torch.int64)}, ValueError, "p has dtype torch.int64"),
        ({"p": torch.zeros(2, 4, dtype=F64), "h": torch.ones(3, 5, dtype=F64)}, ValueError, "do not broadcast"),
        ({"p": torch.tensor(0.0, dtype=F64)}, ValueError, r"p has shape \(\)"),
        ({"adjoint": ol.OneStep()}, ValueError, "adjoint is OneStep"),
    ],
)
def test_malformed_input_is_named(change, error, message):
    data = random_qp(n=4, m=5, k=1)
    with pytest.raises(error, match=message):
        ol.solve_qp(**{**data, **change})


def test_a_program_too_large_for_the_dense_engine_is_refused_at_once(monkeypatch):
    """No memory is taken for it: the data here are views of one number."""
    p = torch.zeros(1, dtype=F64).expand(20_000)
    with pytest.raises(ValueError, match=r"20000 variables and 0 rows needs 8.94 GiB.*3e\+12 multiply-adds.*sparse"):
        ol.solve_qp(p[:1, None].expand(20_000, 20_000), p)
    monkeypatch.setattr("optlayers.solvers.size_limit.available_memory", lambda device: 10**8)
    with pytest.raises(ValueError, match=r"0.559 GiB of workspace \(0.0931 GiB are free\)"):
        ol.solve_qp(p[:1, None].expand(5000, 5000), p[:5000])


def test_the_workspace_is_what_the_check_counts_on():
    from optlayers._native import ops

    if ops._C is None:
        pytest.skip("no native core")
    for m in (0, 2500):
        assert ops._C.qp_workspace((1, 5000, 0, m, 5000, 5000)) < 1.03 * (3 * 5000**2 + 2 * m * 5000)


# -- the layer --------------------------------------------------------------------------------------------------------


def test_layer_holds_buffers_and_parameters():
    data = random_qp(n=4, m=5, k=1)
    layer = ol.QPLayer(nn.Parameter(data["Q"]), G=data["G"], h=nn.Parameter(data["h"]))
    assert {name for name, _ in layer.named_parameters()} == {"Q", "h"}
    assert set(layer.state_dict()) == {"Q", "G", "h"}
    x = layer(data["p"])
    torch.testing.assert_close(x, ol.solve_qp(*(data[name] for name in ("Q", "p", "G", "h"))).x)
    x.sum().backward()
    assert layer.Q.grad.shape == (4, 4) and layer.h.grad.shape == (5,)
    with_equality = layer.solve(p=data["p"], A=data["A"], b=data["b"])
    torch.testing.assert_close(data["A"] @ with_equality.x, data["b"])


def test_layer_in_a_sequential_copies_pickles_and_moves():
    layer = ol.QPLayer(torch.eye(4), A=torch.ones(1, 4), b=torch.ones(1), lb=torch.zeros(4))
    net = nn.Sequential(nn.Linear(3, 4), layer).double()
    inputs = torch.randn(5, 3, dtype=F64)
    x = net(inputs)
    torch.testing.assert_close(x.sum(-1), torch.ones(5, dtype=F64))
    x.pow(2).sum().backward()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(inputs), x)
    assert net.float()(inputs.float()).dtype == torch.float32
    assert "A=(1, 4)" in repr(layer)


def test_layer_wrong_calls_are_named():
    layer = ol.QPLayer(torch.eye(2), G=torch.ones(1, 2))
    p, h = torch.ones(2), torch.ones(1)
    with pytest.raises(TypeError, match="p, h is missing"):
        layer(p)
    with pytest.raises(TypeError, match="unknown argument 'c'"):
        layer(c=p)
    with pytest.raises(TypeError, match="Q was given to the constructor and again"):
        layer(Q=torch.eye(2), p=p, h=h)
    with pytest.raises(TypeError, match="G is a list"):
        ol.QPLayer(torch.eye(2), G=[1, 2])
    torch.testing.assert_close(layer(p, h=h), layer(p=p, h=h))


def test_simplex_projection_is_sparsemax():
    """A closed form: the projection onto the simplex, and its Jacobian diag(s) - ss'/|s| on the support s."""
    v = torch.randn(5, dtype=F64)
    layer = ol.QPLayer(
        torch.eye(5, dtype=F64), A=torch.ones(1, 5, dtype=F64), b=torch.ones(1, dtype=F64), lb=torch.zeros(5, dtype=F64)
    )
    ordered = v.sort(descending=True).values
    support = ordered + (1 - ordered.cumsum(0)) / torch.arange(1, 6) > 0
    threshold = (ordered[support].sum() - 1) / support.sum()
    torch.testing.assert_close(layer(-v), (v - threshold).clamp(min=0))
    s = (v > threshold).double()
    torch.testing.assert_close(jacrev(lambda v: layer(-v))(v), s.diag() - s.outer(s) / s.sum())
