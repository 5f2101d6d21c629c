"""`ImplicitModule`: what is meta and what is inner, and the derivative of the inner solution."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn.functional import mse_loss

import optlayers as ol
from optlayers.linear_solve import LU


class Ridge(ol.ImplicitModule, linear_solve=LU()):
    """min_w |X w - y|^2 / 2 + penalty |w - center|^2 / 2, solved in closed form."""

    def __init__(self, penalty, center):
        super().__init__()
        self.penalty = penalty
        self.center = center
        self.w = nn.Parameter(torch.zeros_like(center))

    def objective(self, X, y):
        return 0.5 * (X @ self.w - y).square().sum() + 0.5 * (self.penalty * (self.w - self.center).square()).sum()

    def solve(self, X, y):
        H = X.mT @ X + torch.diag(self.penalty.expand_as(self.w))
        self.w.copy_(torch.linalg.solve(H, X.mT @ y + self.penalty * self.center))
        return self


def ridge(penalty, center, X, y):
    H = X.mT @ X + torch.diag(penalty.expand_as(center))
    return torch.linalg.solve(H, X.mT @ y + penalty * center)


@pytest.fixture
def problem():
    torch.manual_seed(0)
    make = {"dtype": torch.float64}
    penalty, center = torch.rand(3, **make) + 0.5, torch.randn(3, **make)
    return [value.requires_grad_() for value in (penalty, center, torch.randn(6, 3, **make), torch.randn(6, **make))]


def test_solution_and_gradients_equal_the_closed_form(problem):
    penalty, center, X, y = problem
    w = Ridge(penalty, center).solve(X, y).w
    expected = ridge(*problem)
    torch.testing.assert_close(w, expected)
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    got = torch.autograd.grad((w * weight).sum(), problem)
    torch.testing.assert_close(got, torch.autograd.grad((expected * weight).sum(), problem))


def test_derivatives_of_both_orders_and_modes(problem):
    def solution(penalty, center, X, y):
        return Ridge(penalty, center).solve(X, y).w

    assert gradcheck(solution, problem, check_forward_ad=True)
    assert gradgradcheck(solution, problem)


def test_a_condition_of_its_own_in_pieces_of_any_shape(problem):
    class Stationary(Ridge):
        def optimality(self, X, y):
            return list(X.mT @ (X @ self.w - y) + self.penalty * (self.w - self.center))  # one number a piece

    got = torch.autograd.grad(Stationary(*problem[:2]).solve(*problem[2:]).w.sum(), problem)
    torch.testing.assert_close(got, torch.autograd.grad(ridge(*problem).sum(), problem))


def test_meta_is_what_was_given_and_the_rest_is_inner():
    class Inner(ol.ImplicitModule):
        def __init__(self, net, strength, *, extra):
            super().__init__()
            self.net = net
            self.copy = copy.deepcopy(net)
            self.strength = strength
            self.extra = extra["tensor"]
            self.bias = nn.Parameter(torch.zeros(2))
            self.register_meta_parameter("rate", torch.ones(()))
            self.register_meta_module("head", nn.Linear(1, 1))

    inner = Inner(nn.Linear(2, 2), torch.ones(()), extra={"tensor": nn.Parameter(torch.ones(3))})
    inner_names = {name for name, _ in inner.named_parameters()}
    assert inner_names == {"copy.weight", "copy.bias", "bias"}
    meta = {name for name, _ in inner.named_meta_parameters()}
    assert meta == {"net.weight", "net.bias", "strength", "extra", "rate", "head.weight", "head.bias"}
    assert len(list(inner.parameters())) == 3
    assert set(inner.state_dict()) == inner_names | meta
    inner.to(torch.float64).eval()
    assert all(p.dtype == torch.float64 for p in [*inner.parameters(), *inner.meta_parameters()])
    assert not inner.net.training
    fresh = Inner(nn.Linear(2, 2), torch.zeros(()), extra={"tensor": nn.Parameter(torch.zeros(3))}).double()
    fresh.load_state_dict(inner.state_dict())
    assert fresh.strength == 1 and fresh.net.weight.equal(inner.net.weight)


def test_an_attribute_given_another_value_is_no_longer_meta():
    class Inner(ol.ImplicitModule):
        def __init__(self, given):
            super().__init__()
            self.value = given

    inner = Inner(torch.ones(2))
    inner.value = nn.Parameter(torch.zeros(2))
    assert [name for name, _ in inner.named_parameters()] == ["value"]
    assert not list(inner.meta_parameters())
    del inner.value
    assert not list(inner.parameters())


def test_solving_again_after_backward_starts_from_the_solution(problem):
    inner = Ridge(*problem[:2])
    leaf = inner.w
    for _ in range(2):
        (grad,) = torch.autograd.grad(inner.solve(*problem[2:]).w.sum(), problem[:1])
    torch.testing.assert_close(grad, torch.autograd.grad(ridge(*problem).sum(), problem[:1])[0])
    assert inner.w is not leaf and not inner.w.is_leaf
    with torch.no_grad():
        inner.solve(*problem[2:])
    assert inner.w is leaf


def test_a_solved_module_can_be_copied_moved_and_pickled(problem):
    inner = Ridge(*(value.detach() for value in problem[:2]))
    inner.center = inner.center.requires_grad_()
    solved = inner.solve(*problem[2:])
    twin = copy.deepcopy(solved)
    assert twin.w.is_leaf and twin.w.equal(solved.w) and twin.w is not solved.w
    assert {name for name, _ in twin.named_meta_parameters()} == {"penalty", "center"}
    assert twin.solve(*problem[2:]).w.grad_fn is not None
    assert pickle.loads(pickle.dumps(twin.float())).w.dtype == torch.float32
    assert solved.float().w.is_leaf


def test_frozen_inner_parameters_are_constants():
    class Inner(ol.ImplicitModule):
        def __init__(self, target):
            super().__init__()
            self.target = target
            self.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)
            self.w = nn.Parameter(torch.zeros(()))

        def objective(self):
            return (self.scale * self.w - self.target).square()

        def solve(self):
            self.w.copy_(self.target / self.scale)

    target = torch.tensor(3.0, requires_grad=True)
    inner = Inner(target)
    inner.solve()
    assert torch.autograd.grad(inner.w, target)[0] == 0.5
    assert not inner.scale.requires_grad


def test_tied_inner_parameters_stay_tied():
    class Inner(ol.ImplicitModule):
        def __init__(self, target):
            super().__init__()
            self.target = target
            self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
            self.b.weight = self.a.weight

        def objective(self):
            return (self.a.weight + self.b.weight - self.target).square().sum()

        def solve(self):
            self.a.weight.fill_(self.target.item() / 2)

    target = torch.tensor(3.0, requires_grad=True)
    inner = Inner(target)
    inner.solve()
    assert inner.a.weight is inner.b.weight
    assert torch.autograd.grad((inner.a.weight + inner.b.weight).sum(), target)[0] == 1


def test_batch_normalization_counts_in_solve_only():
    torch.manual_seed(0)

    class Inner(ol.ImplicitModule, linear_solve=LU()):
        def __init__(self, center):
            super().__init__()
            self.center = center
            self.net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()

        def objective(self, x, y):
            penalty = sum((p - self.center).square().sum() for p in self.parameters())
            return mse_loss(self.net(x), y) + penalty

        def solve(self, x, y):
            parameters = list(self.parameters())
            optimizer = torch.optim.LBFGS(parameters, max_iter=500, tolerance_grad=1e-13, tolerance_change=0)

            def closure():
                optimizer.zero_grad()
                loss = self.objective(x, y)
                loss.backward(inputs=parameters)
                return loss

            with torch.enable_grad():
                optimizer.step(closure)

    center = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x, y = torch.randn(8, 2, dtype=torch.float64), torch.randn(8, 1, dtype=torch.float64)
    inner = Inner(center)
    inner.solve(x, y)
    counted = inner.net[1].num_batches_tracked.item()
    loss = sum(p.sum() for p in inner.parameters())
    (grad,) = torch.autograd.grad(loss, center)
    assert inner.net[1].num_batches_tracked == counted and inner.net[1].track_running_stats

    def solved_at(value):
        with torch.no_grad():
            center.fill_(value)
            inner.solve(x, y)
            return sum(p.sum() for p in inner.parameters())

    step = 1e-4
    torch.testing.assert_close(grad, (solved_at(0.5 + step) - solved_at(0.5 - step)) / (2 * step), rtol=1e-5, atol=0)


def test_the_equilibrium_of_a_meta_network():
    """A DEQ whose parameter is the state: its condition comes as a tuple of rows, and each solve replaces the state."""
    torch.manual_seed(0)

    class Equilibrium(ol.ImplicitModule, linear_solve=LU()):
        def __init__(self, meta_net):
            super().__init__()
            self.meta_net = meta_net

        def forward(self, x):
            return self.meta_net(x)

        def optimality(self):
            return tuple(self.x - self.forward(self.x))

        def register_x(self, x):
            self.x = nn.Parameter(x)

        def solve(self):
            for _ in range(200):
                self.x = nn.Parameter(self(self.x))
            return self

    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    with torch.no_grad():
        net[0].weight *= 0.5
    start = torch.randn(1, 4, dtype=torch.float64)
    inner = Equilibrium(net)
    inner.register_x(start)
    parameters = dict(net.named_parameters())
    got = torch.autograd.grad(inner.solve().x.mean(), list(parameters.values()))
    unrolled = start
    for _ in range(200):
        unrolled = functional_call(net, parameters, (unrolled,))
    torch.testing.assert_close(got, torch.autograd.grad(unrolled.mean(), list(parameters.values())))


def test_super_solve_attaches_once(problem):
    class Twice(Ridge):
        def solve(self, X, y):
            super().solve(X, y)
            assert self.w.is_leaf
            return super().solve(X, y)

    got = torch.autograd.grad(Twice(*problem[:2]).solve(*problem[2:]).w.sum(), problem)
    torch.testing.assert_close(got, torch.autograd.grad(ridge(*problem).sum(), problem))


def test_a_failing_solve_leaves_the_module_usable(problem):
    inner = Ridge(*problem[:2])
    with pytest.raises(RuntimeError):
        inner.solve(problem[2][:, :2], problem[3])
    assert inner.solve(*problem[2:]).w.grad_fn is not None


def test_malformed():
    class Nothing(ol.ImplicitModule):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2))

        def solve(self):
            return self

    class TooFew(Nothing):
        def optimality(self):
            return self.w[:1]

    with pytest.raises(TypeError, match="neither objective nor optimality"):
        Nothing().solve()
    with pytest.raises(ValueError, match=r"1 entries.*2 inner parameters"):
        TooFew().solve()
    with pytest.raises(TypeError, match="expected a tensor"):
        Nothing().register_meta_parameter("a", 3)
    with pytest.raises(TypeError, match="expected a module"):
        Nothing().register_meta_module("a", torch.ones(1))
    with pytest.raises(NotImplementedError, match="solves the inner problem"):
        ol.ImplicitModule().solve()
