"""Hyperparameters of learning problems: values, Jacobians and second derivatives of their solutions, several ways."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol

F64 = torch.float64
TIGHT = 1e-12


def soft(x, step):
    return x.sign() * (x.abs() - step).clamp(min=0)


def solved(solver, objective, init, *args, through=None):
    """The minimum, differentiated through the optimality residual of the solver, or of another one."""

    @ol.custom_root((through or solver).optimality(objective))
    def run(init, *args):
        x, status, _, _ = solver(lambda x: objective(x, *args), init)
        assert status == ol.Status.SOLVED
        return x

    return run(init, *args)


@pytest.fixture
def regression():
    X = torch.randn(12, 4, dtype=F64)
    return X, X @ torch.tensor([2.0, -1.0, 0.0, 0.0], dtype=F64) + 0.1 * torch.randn(12, dtype=F64)


def halves(x):
    return 0.5 * x.square().sum()


@pytest.mark.parametrize("kind", [ol.ProximalGradient, ol.BlockCoordinateDescent])
def test_lasso_and_elastic_net(kind, regression):
    X, y = regression
    penalty = torch.tensor([1.5, 0.3], dtype=F64, requires_grad=True)  # of |w| and of w^2 / 2

    def fit(penalty):
        solver = kind(lambda w, step: soft(w, step * penalty[0]) / (1 + step * penalty[1]), rtol=TIGHT)
        return solved(solver, lambda w, penalty: halves(X @ w - y), torch.zeros(4, dtype=F64), penalty)

    w = fit(penalty)
    slope = X.mT @ (y - X @ w) - penalty[1] * w
    support = w != 0
    assert 0 < support.sum() < 4
    torch.testing.assert_close(slope[support], penalty[0] * w[support].sign(), rtol=0, atol=1e-8)
    assert (slope[~support].abs() <= penalty[0]).all()
    # On its support w is linear in the first penalty, with a ridge system: the closed form of the Jacobian.
    jacobian = torch.autograd.functional.jacobian(fit, penalty)
    A = X[:, support].mT @ X[:, support] + penalty[1] * torch.eye(int(support.sum()), dtype=F64)
    want = -torch.linalg.solve(A, torch.stack([w[support].sign(), w[support]], -1))
    torch.testing.assert_close(jacobian[support], want.detach(), rtol=0, atol=1e-8)
    assert jacobian[~support].eq(0).all()
    assert gradcheck(fit, penalty, check_forward_ad=True) and gradgradcheck(fit, penalty)


def test_multi_task_lasso():
    X, Y = torch.randn(10, 4, dtype=F64), torch.randn(10, 3, dtype=F64)
    penalty = torch.tensor(4.0, dtype=F64, requires_grad=True)

    def fit(penalty):
        prox = ol.ProximalGradient(lambda W, step: shrink_by(W, step * penalty), rtol=TIGHT)
        return solved(prox, lambda W, p: halves(X @ W - Y), torch.zeros(4, 3, dtype=F64), penalty)

    def shrink_by(W, threshold):
        size = torch.where((W == 0).all(-1, keepdim=True), 1.0, W).norm(dim=-1, keepdim=True)
        return W * (1 - threshold / size).clamp(min=0)

    W = fit(penalty)
    rows = W.norm(dim=-1)
    slope = X.mT @ (Y - X @ W)
    assert 0 < (rows > 0).sum() < 4
    torch.testing.assert_close(slope[rows > 0], penalty * (W / rows[:, None])[rows > 0], rtol=0, atol=1e-7)
    assert (slope[rows == 0].norm(dim=-1) <= penalty).all()
    assert gradcheck(fit, penalty, atol=1e-5) and gradgradcheck(fit, penalty, atol=1e-4)


@pytest.mark.parametrize(
    "solver", [ol.LBFGS(rtol=TIGHT), ol.GradientDescent(acceleration=True, rtol=TIGHT)], ids=["lbfgs", "gd"]
)
def test_logistic_regression(solver, regression):
    X, y = regression
    labels = y.sign()
    penalty = torch.tensor(0.5, dtype=F64, requires_grad=True)

    def objective(w, penalty):
        return torch.nn.functional.softplus(-labels * (X @ w)).sum() + penalty * halves(w)

    def fit(penalty):
        return solved(solver, objective, torch.zeros(4, dtype=F64), penalty)

    w = fit(penalty)
    chance = torch.sigmoid(X @ w)
    hessian = X.mT @ ((chance * (1 - chance))[:, None] * X) + penalty * torch.eye(4, dtype=F64)
    jacobian = torch.autograd.functional.jacobian(fit, penalty)
    torch.testing.assert_close(jacobian, -torch.linalg.solve(hessian, w).detach(), rtol=0, atol=1e-8)
    assert gradgradcheck(fit, penalty)


def test_ridge_error_of_the_jacobian_is_that_of_the_solution(regression):
    X, y = regression
    penalty = torch.tensor(0.7, dtype=F64, requires_grad=True)
    A = X.mT @ X + penalty.detach() * torch.eye(4, dtype=F64)
    want = torch.linalg.solve(A, X.mT @ y)
    errors = []
    for rtol in (1e-2, 1e-4, 1e-6, 1e-8):
        solver = ol.GradientDescent(rtol=rtol)
        w = solved(solver, lambda w, p: halves(X @ w - y) + p * halves(w), torch.zeros(4, dtype=F64), penalty)
        jacobian = torch.stack([torch.autograd.grad(entry, penalty, retain_graph=True)[0] for entry in w])
        errors.append(((w - want).norm().item(), (jacobian + torch.linalg.solve(A, want)).norm().item()))
    smallest = torch.linalg.eigvalsh(A)[0]
    assert all(of_jacobian <= 2 * of_solution / smallest for of_solution, of_jacobian in errors)
    assert errors[-1][1] < 1e-5 * errors[0][1]


def test_multiclass_svm_dual_by_any_solver_through_any_residual():
    X, labels = torch.randn(6, 3, dtype=F64), torch.tensor([0, 1, 2, 0, 1, 2])
    Y = torch.nn.functional.one_hot(labels, 3).to(F64)
    K = X @ X.mT + torch.eye(6, dtype=F64)
    penalty = torch.tensor(2.0, dtype=F64, requires_grad=True)

    def objective(beta, penalty):
        D = Y - beta
        return 0.5 / penalty * (D * (K @ D)).sum() - (beta * (1 - Y)).sum()

    start = torch.full((6, 3), 1 / 3, dtype=F64)
    projected = ol.ProjectedGradient(ol.projection.simplex, rtol=TIGHT)
    mirror = ol.MirrorDescent(lambda y: y.softmax(-1), rtol=1e-10)
    blocks = ol.BlockCoordinateDescent(lambda x, step: ol.projection.simplex(x), rtol=TIGHT)
    found = []
    for solver, tol in ((projected, 1e-7), (blocks, 1e-7), (mirror, 1e-7)):
        for through in (projected, mirror):
            beta = solved(solver, objective, start, penalty, through=through)
            found.append((tol, beta.detach(), torch.autograd.grad((beta * K[:, :3]).sum(), penalty)[0]))
    for tol, beta, gradient in found[1:]:
        torch.testing.assert_close(beta, found[0][1], rtol=0, atol=tol)
        torch.testing.assert_close(gradient, found[0][2], rtol=0, atol=10 * tol)
    assert gradcheck(lambda penalty: solved(projected, objective, start, penalty), penalty)


def test_kernel_svm_with_intercept():
    X = torch.randn(8, 2, dtype=F64)
    labels = torch.tensor([1.0, -1] * 4, dtype=F64)
    limit = torch.tensor(0.8, dtype=F64, requires_grad=True)

    def gram(width):
        return torch.exp(-width * (X[:, None] - X).square().sum(-1)) + 0.1 * torch.eye(8, dtype=F64)

    def by_projection(limit, width):
        # labels * alpha in [0, limit], sum zero: a box cut by a hyperplane
        low, high = (-limit * (labels < 0)), (limit * (labels > 0))
        weights, total = torch.ones(8, dtype=F64), torch.zeros((), dtype=F64)
        solver = ol.ProjectedGradient(lambda a: ol.projection.box_section(a, low, high, weights, total), rtol=TIGHT)
        start = torch.zeros(8, dtype=F64)
        return solved(solver, lambda a, width: 0.5 * a @ gram(width) @ a - labels @ a, start, width)

    def by_qp(limit, width):
        ones = torch.ones(1, 8, dtype=F64)
        return ol.solve_qp(
            gram(width), -labels, A=ones, b=ones[0, :1] * 0, lb=-limit * (labels < 0), ub=limit * (labels > 0)
        ).x

    width = torch.tensor(0.5, dtype=F64, requires_grad=True)
    both = []
    for fit in (by_projection, by_qp):
        a = fit(limit, width)
        both.append((a, *torch.autograd.grad(a.pow(3).sum(), (limit, width))))
    torch.testing.assert_close(*both, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["projected", "lbfgsb", "blocks"])
def test_nonnegative_least_squares(kind, regression):
    X, y = regression
    zero = torch.zeros(4, dtype=F64)
    solver = {
        "projected": ol.ProjectedGradient(ol.projection.nonneg, rtol=TIGHT),
        "lbfgsb": ol.LBFGSB(0.0, torch.inf, rtol=TIGHT),
        "blocks": ol.BlockCoordinateDescent(lambda x, step: x.clamp(min=0), rtol=TIGHT),
    }[kind]
    y.requires_grad_()

    def fit(y):
        return solved(solver, lambda w, y: halves(X @ w - y), zero, y)

    w = fit(y)
    want = ol.solve_qp(X.mT @ X, -X.mT @ y, lb=zero).x
    torch.testing.assert_close(w, want, rtol=0, atol=1e-8)
    got, oracle = (torch.autograd.grad(v.pow(2).sum(), y)[0] for v in (w, want))
    torch.testing.assert_close(got, oracle, rtol=0, atol=1e-7)


def test_nonnegative_matrix_factorization():
    W, H = torch.rand(5, 2, dtype=F64) + 0.1, torch.rand(2, 4, dtype=F64) + 0.1
    target = (W @ H + 0.02 * torch.rand(5, 4, dtype=F64)).requires_grad_()

    def objective(x, target):  # the ridge settles the scale that the two factors could trade
        return halves(x["W"] @ x["H"] - target) + 0.05 * halves(x["W"]) + 0.05 * halves(x["H"])

    def positive(x, step):
        return {key: value.clamp(min=0) for key, value in x.items()}

    start = {"W": W, "H": H}
    descent = ol.ProximalGradient(positive, rtol=1e-11)
    blocks = ol.BlockCoordinateDescent(positive, rtol=1e-11)
    products = []
    for solver in (descent, blocks):
        x = solved(solver, objective, start, target)
        product = x["W"] @ x["H"]
        products.append((product, *torch.autograd.grad(product.pow(2).sum(), target)))
    torch.testing.assert_close(*products, rtol=0, atol=1e-6)
    step = 1e-5 * torch.randn(5, 4, dtype=F64)
    ends = []
    for sign in (1, -1):
        x = solved(descent, objective, start, target.detach() + sign * step)
        ends.append((x["W"] @ x["H"]).pow(2).sum())
    torch.testing.assert_close(0.5 * (ends[0] - ends[1]), (products[0][1] * step).sum(), rtol=1e-4, atol=1e-10)


def test_portfolio():
    M = torch.randn(12, 5, dtype=F64)
    risk, mean = M.mT @ M / 12, torch.rand(5, dtype=F64).requires_grad_()
    aversion = torch.tensor(2.0, dtype=F64, requires_grad=True)
    solver = ol.ProjectedGradient(ol.projection.simplex, rtol=TIGHT)

    def allocate(mean, aversion):
        def cost(x, mean, aversion):
            return 0.5 * aversion * x @ risk @ x - mean @ x

        return solved(solver, cost, torch.full((5,), 0.2, dtype=F64), mean, aversion)

    ones = torch.ones(1, 5, dtype=F64)
    want = ol.solve_qp(aversion * risk, -mean, A=ones, b=ones[0, :1], lb=0 * ones[0]).x
    x = allocate(mean, aversion)
    torch.testing.assert_close(x, want, rtol=0, atol=1e-8)
    both = (torch.autograd.grad(v.pow(3).sum(), (mean, aversion)) for v in (x, want))
    torch.testing.assert_close(*both, rtol=0, atol=1e-7)
    assert gradcheck(allocate, (mean, aversion)) and gradgradcheck(allocate, (mean, aversion))
