"""solve_qp(init=): right guesses are taken after one iteration, wrong ones change nothing."""

import pytest
import scipy.sparse
import torch
from test_qp import EVERY_OUTPUT, F64, kkt_error, random_qp, requiring_grad, spoiled
from torch.func import vmap

import optlayers as ol


def perturbed(data, size=1e-4):
    """The vectors moved a little, so that the active set stays."""
    return {name: t + size * torch.randn_like(t) if name in "phb" else t.clone() for name, t in data.items()}


def adversary(solution, kind):
    """A guess as far from the solution as its type allows."""
    return {
        "nan": lambda: solution._make(torch.full_like(t, torch.nan) if t.is_floating_point() else t for t in solution),
        "all active": lambda: solution._make([solution.x, *[torch.full_like(t, 1e9) for t in solution[1:]]]),
        "none active": lambda: solution._make([solution.x, *[torch.zeros_like(t) for t in solution[1:]]]),
        "random": lambda: solution._make(torch.randn(t.shape, dtype=F64) for t in solution),
        "infinite": lambda: solution._make(t + 1.0 / torch.zeros_like(t) for t in solution),
    }[kind]()


def assert_same(got, want, atol=1e-9):
    for name in EVERY_OUTPUT:
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-8, atol=atol)
    assert torch.equal(got.status, want.status)


@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_a_perturbed_program_is_accepted_at_once(batch, bounds):
    data = random_qp(batch, bounds=bounds)
    init = ol.solve_qp(**data)
    near = perturbed(data)
    got = ol.solve_qp(**near, init=init)
    assert (got.iterations == 1).all() and (got.residuals < 1e-13).all()
    assert kkt_error(near, got) < 1e-12
    assert_same(got, ol.solve_qp(**near))


@pytest.mark.parametrize("kind", ["nan", "all active", "none active", "random", "infinite"])
def test_a_bad_guess_gives_the_cold_answer(kind):
    data = random_qp((6,), n=6, m=10)
    want = ol.solve_qp(**data)
    assert_same(ol.solve_qp(**data, init=adversary(want, kind)), want)


def test_only_rejected_samples_are_solved_again():
    """Samples 1 and 3 get a guess that is wrong; they equal the cold answer bit for bit, the others take one step."""
    data = random_qp((5,), n=8, m=14)
    want = ol.solve_qp(**data)
    z = want.z.clone()
    z[[1, 3]] = (want.z[[1, 3]] == 0) * torch.tensor(1e3, dtype=F64)
    cold = []
    solver = ol.InteriorPoint()
    init = want._replace(z=z)

    class Spy(ol.InteriorPoint):
        def __call__(self, data, guess=None):
            if guess is None:
                cold.append(len(data[1]))
            return super().__call__(data, guess)

    got = ol.solve_qp(**data, init=init, solver=Spy())
    assert cold == [2] and (got.iterations[[0, 2, 4]] == 1).all()
    alone = ol.solve_qp(**{name: t[[1, 3]] for name, t in data.items()}, solver=solver)
    assert torch.equal(got.x[[1, 3]], alone.x)
    assert_same(got, want)


def test_gradients_do_not_depend_on_the_guess():
    data = requiring_grad(random_qp((3,), n=5, m=6, k=1))
    init = ol.solve_qp(**data)
    both = []
    for options in ({}, {"init": init}):
        solution = ol.solve_qp(**data, **options)
        loss = sum((getattr(solution, name) ** 2).sum() for name in EVERY_OUTPUT)
        both.append(torch.autograd.grad(loss, list(data.values()), create_graph=True))
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in both[-1]), list(data.values()))
        both[-1] = [*(g.detach() for g in both[-1]), *second]
    torch.testing.assert_close(*both, rtol=1e-8, atol=1e-9)


def test_failures_keep_their_status():
    """What is infeasible, unbounded, NaN or not convex is so with any guess, that of a failed solution included."""
    data = spoiled()
    want = ol.solve_qp(**data, throw=False)
    for init in (want, adversary(want, "all active"), adversary(want, "none active")):
        got = ol.solve_qp(**data, init=init, throw=False)
        assert torch.equal(got.status, want.status)
        assert_same(got._make(t[[0, 1, 4, 7]] for t in got), want._make(t[[0, 1, 4, 7]] for t in want))


def test_a_saddle_point_is_not_accepted():
    """Not convex, with a point that satisfies the KKT conditions on the active set."""
    Q, one = torch.diag(torch.tensor([1.0, -1.0], dtype=F64)), torch.ones(2, dtype=F64)
    good = ol.solve_qp(Q.abs(), one, lb=-one, ub=one)
    got = ol.solve_qp(Q, one, lb=-one, ub=one, init=good, throw=False)
    assert got.status == ol.Status.INVALID_INPUT and got.x.isnan().all()


def test_fixed_variables_and_infinite_rows():
    data = random_qp((4,), n=5, m=6, k=1)
    inside = 0.5 * (data["lb"] + data["ub"])
    data["lb"][:, 2], data["ub"][:, 2] = inside[:, 2], inside[:, 2]
    data["h"][:, 1], data["lb"][:, 0], data["ub"][:, 4] = torch.inf, -torch.inf, torch.inf
    init = ol.solve_qp(**data)
    got = ol.solve_qp(**data, init=init)
    assert (got.iterations == 1).all()
    assert_same(got, init)


def test_one_guess_for_a_batch_and_shared_data():
    data = random_qp(n=6, m=8)
    init = ol.solve_qp(**data)
    p = data["p"] + 1e-5 * torch.randn(7, 6, dtype=F64)
    got = ol.solve_qp(**{**data, "p": p}, init=init)
    assert (got.iterations == 1).all()
    assert_same(got, ol.solve_qp(**{**data, "p": p}))


def test_float32_and_scaled_rows():
    data = random_qp((4,), n=6, m=8)
    single = {name: t.float() for name, t in data.items()}
    init = ol.solve_qp(**single)
    got = ol.solve_qp(**single, init=init)
    assert got.x.dtype == torch.float32 and (got.iterations == 1).all()
    torch.testing.assert_close(got.x, init.x, rtol=1e-4, atol=1e-5)
    scale = torch.logspace(-6, 6, 8, dtype=F64)
    scaled = {**data, "G": data["G"] * scale[:, None], "h": data["h"] * scale}
    wrong = adversary(ol.solve_qp(**scaled), "none active")
    assert_same(ol.solve_qp(**scaled, init=wrong), ol.solve_qp(**scaled))


def test_under_transforms_the_guess_is_not_looked_at():
    data = random_qp((3,), n=4, m=5, k=1)
    init = ol.solve_qp(**data)

    def f(p, init):
        return ol.solve_qp(**{**{k: t[0] for k, t in data.items()}, "p": p}, init=init).x

    torch.testing.assert_close(
        vmap(f)(data["p"], init), ol.solve_qp(**{k: t[:1] for k, t in data.items() if k != "p"}, p=data["p"]).x
    )


def test_layer_takes_a_guess():
    data = random_qp((3,), n=4, m=5, k=1)
    p = data.pop("p")
    layer = ol.QPLayer(**data)
    first = layer.solve(p=p)
    assert (layer.solve(p=p + 1e-6, init=first).iterations == 1).all()


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda s: tuple(s), TypeError, "init is a tuple; expected a QPSolution"),
        (lambda s: s._replace(x=s.x[..., :2]), ValueError, r"init.x is torch.float64 \(3, 2\)"),
        (lambda s: s._replace(z=s.z.float()), ValueError, "init.z is torch.float32"),
        (lambda s: s._replace(z_lb=s.z_lb[:2]), ValueError, r"broadcasts to \(3, 4\)"),
        (lambda s: s._make(t[None] for t in s), ValueError, "init.x"),
    ],
)
def test_malformed_guesses_are_named(change, error, message):
    data = random_qp((3,), n=4, m=5, k=1)
    solution = ol.solve_qp(**data)
    with pytest.raises(error, match=message):
        ol.solve_qp(**data, init=change(solution))


def test_where_no_guess_can_be_used_it_is_refused():
    data = random_qp(n=4, m=5, k=1)
    solution = ol.solve_qp(**data)
    with pytest.raises(ValueError, match="start cold"):
        ol.solve_qp(**data, init=solution, adjoint=ol.Unroll())
    with pytest.raises(ValueError, match="a matrix is sparse"):
        ol.solve_qp(**{**data, "Q": scipy.sparse.csr_array(data["Q"])}, init=solution)
    with pytest.raises(ValueError, match="closest=True"):
        ol.QPLayer(**data, closest=True).solve(init=solution)
