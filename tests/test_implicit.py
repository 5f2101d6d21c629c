"""The gradient rule: every mode and order against closed forms, unrolling and finite differences."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import optlayers as ol

F64 = torch.float64
SOLVES = {
    "auto": None,  # LU, for few unknowns
    "normal_cg": ol.linear_solve.NormalCG(rtol=1e-13),
    "gmres": ol.linear_solve.GMRES(rtol=1e-13),
    "bicgstab": ol.linear_solve.BiCGSTAB(rtol=1e-13),
    "plain function": lambda matvec, b: ol.linear_solve.LU()(matvec, b),
}


def rotated(x, a, W):
    """A residual whose Jacobian is far from symmetric, so that a missing transpose shows."""
    return x + 0.4 * torch.tanh(W @ x) + 0.1 * x**3 - a


def relax(init, a, W):
    x = init
    for _ in range(90):
        x = x - 0.6 * rotated(x, a, W)
    return x


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, dtype=F64, generator=generator)
    W = torch.randn(4, 4, dtype=F64, generator=generator)
    W = 0.5 * (W - W.T) + 0.3 * W
    return torch.zeros(4, dtype=F64), a, W


def leaves(*tensors):
    return [t.clone().requires_grad_() for t in tensors]


# -- one rule, every mode and order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVES)
def test_first_and_second_order_both_modes(problem, name):
    init, a, W = problem
    solver = ol.custom_root(rotated, solve=SOLVES[name])(relax)
    inputs = leaves(a, W)
    assert gradcheck(lambda a, W: solver(init, a, W), inputs, check_forward_ad=True)
    if name not in ("gmres", "bicgstab"):  # second order asks nothing of the iterative solvers that normal_cg does not
        assert gradgradcheck(lambda a, W: solver(init, a, W), inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("solve", [ol.linear_solve.LU(), ol.linear_solve.GMRES(), ol.linear_solve.NormalCG()], ids=str)
def test_a_plain_backward_evaluates_the_residual_once(problem, solve):
    init, a, W = problem
    calls = []

    def counted(x, a, W):
        calls.append(None)
        return rotated(x, a, W)

    a, W = leaves(a, W)
    x = ol.custom_root(counted, solve=solve)(relax)(init, a, W)
    calls.clear()
    quick = torch.autograd.grad(x.sum(), (a, W), retain_graph=True)
    assert len(calls) == 1
    torch.testing.assert_close(quick, torch.autograd.grad(x.sum(), (a, W), create_graph=True))


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: jacrev(f, 1),
        lambda f: jacfwd(f, 1),
        lambda f: jacrev(jacrev(f, 1), 1),
        lambda f: jacfwd(jacrev(f, 1), 1),
        lambda f: jacrev(jacfwd(f, 1), 1),
        lambda f: jacrev(jacrev(jacrev(f))),
        lambda f: lambda a, W: hessian(lambda a: f(a, W).pow(3).sum())(a),
        lambda f: lambda a, W: grad(lambda W: f(a, W).pow(2).sum())(W),
        lambda f: lambda a, W: vjp(lambda a: f(a, W), a)[1](torch.ones_like(a))[0],
        lambda f: lambda a, W: jvp(lambda W: f(a, W), (W,), (W.cos(),))[1],
    ],
    ids=["jacrev", "jacfwd", "rev-rev", "fwd-rev", "rev-fwd", "rev-rev-rev", "hessian", "grad", "vjp", "jvp"],
)
def test_torch_func_equals_unrolling(problem, transform):
    init, a, W = problem
    solver = ol.custom_root(rotated)(relax)
    implicit = transform(lambda a, W: solver(init, a, W))(a, W)
    unrolled = transform(lambda a, W: relax(init, a, W))(a, W)
    torch.testing.assert_close(implicit, unrolled, rtol=1e-9, atol=1e-11)


def test_forward_over_forward_raises_instead_of_losing_terms(problem):
    init, a, W = problem
    solver = ol.custom_root(rotated)(relax)
    with pytest.raises(RuntimeError, match="forward mode over forward mode"):
        jacfwd(jacfwd(lambda a: solver(init, a, W)))(a)


def test_vmap_equals_loop_nested_and_over_grad(problem):
    init, _, _ = problem
    a, W = torch.randn(3, 4, dtype=F64), 0.3 * torch.randn(2, 4, 4, dtype=F64)
    solver = ol.custom_root(rotated)(relax)

    def gradient(a, W):
        return grad(lambda a, W: solver(init, a, W).pow(2).sum(), (0, 1))(a, W)

    got = vmap(vmap(gradient, (0, None)), (None, 0))(a, W)
    want = [torch.stack([torch.stack([gradient(x, w)[i] for x in a]) for w in W]) for i in range(2)]
    torch.testing.assert_close(list(got), want)
    of_sum = grad(lambda W: vmap(lambda a: solver(init, a, W))(a).pow(2).sum())(W[0])
    torch.testing.assert_close(of_sum, want[1][0].sum(0))


def test_batched_gradients_of_autograd(problem):
    init, a, W = problem
    solver = ol.custom_root(rotated)(relax)
    assert gradcheck(
        lambda a, W: solver(init, a, W),
        leaves(a, W),
        check_batched_grad=True,
        check_forward_ad=True,
        check_batched_forward_grad=True,
    )


def test_compiled_fullgraph_equals_eager(problem):
    init, a, W = problem
    solver = ol.custom_root(rotated)(relax)

    def loss(a, W):
        return solver(init, a, W).pow(2).sum()

    inputs = leaves(a, W)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), loss(*inputs))
    got = torch.autograd.grad(compiled(*inputs), inputs)
    torch.testing.assert_close(got, torch.autograd.grad(loss(*inputs), inputs))


def test_compiled_closure_raises(problem):
    init, a, W = problem
    (W,) = leaves(W)
    solver = ol.custom_root(lambda x, a: rotated(x, a, W))(lambda init, a: relax(init, a, W))
    compiled = torch.compile(lambda a: solver(init, a).sum(), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="must not capture a tensor"):
        compiled(*leaves(a))


# -- the shapes of arguments and solutions ---------------------------------------------------------------------------


def test_pytrees_scalars_strings_and_integers():
    def residual(x, theta, *, data, kind):
        assert kind == "ridge"
        count, (scale,) = data["count"], data["scale"]
        return {"u": x["u"] * count - theta["a"] * scale, "v": [x["v"][0] - x["u"].sum() * theta["b"]]}

    @ol.custom_root(residual)
    def solver(init, theta, *, data, kind):
        u = theta["a"] * data["scale"][0] / data["count"]
        return {"u": u, "v": [u.sum() * theta["b"]]}

    def f(a, b, scale):
        data = {"count": torch.tensor([2, 4, 5]), "scale": (scale,), "unused": None}
        x = solver(None, {"a": a, "b": b}, kind="ridge", data=data)
        return x["u"], x["v"][0]

    inputs = leaves(torch.randn(3, dtype=F64), torch.tensor(0.7, dtype=F64), torch.tensor(1.3, dtype=F64))
    assert gradcheck(f, inputs, check_forward_ad=True)
    assert gradgradcheck(f, inputs)


def test_solution_across_several_tensors_sees_the_whole_jacobian():
    """The diagonal blocks of this Jacobian are zero: a solver that sees only them fails."""
    solver = ol.custom_root(lambda x, a: (x[1] - a, x[0] + x[1] - 2 * a))(lambda init, a: (a.clone(), a.clone()))
    (a,) = leaves(torch.tensor([1.0, 2.0], dtype=F64))
    x = solver(None, a)
    (gradient,) = torch.autograd.grad((3 * x[0] + x[1]).sum(), a)
    torch.testing.assert_close(gradient, torch.full((2,), 4.0, dtype=F64))


@pytest.mark.parametrize("argnums", [None, 1, 2, (1, 2), (2,)])
def test_argnums(problem, argnums):
    init, a, W = problem
    solver = ol.custom_root(rotated, argnums=argnums)(relax)
    a, W = leaves(a, W)
    grads = torch.autograd.grad(solver(init, W=W, a=a).sum(), (a, W), allow_unused=True)
    wanted = (1, 2) if argnums is None else (argnums,) if isinstance(argnums, int) else argnums
    assert [g is not None for g in grads] == [1 in wanted, 2 in wanted]
    reference = torch.autograd.grad(relax(init, a, W).sum(), (a, W))
    for got, want in zip(grads, reference, strict=True):
        if got is not None:
            torch.testing.assert_close(got, want)


def test_argnums_of_init_is_an_error():
    with pytest.raises(ValueError, match="initial guess"):
        ol.custom_root(rotated, argnums=(0, 1))


def test_aux_is_returned_without_gradient(problem):
    init, a, W = problem
    solver = ol.custom_root(rotated, has_aux=True)(lambda init, a, W: (relax(init, a, W), {"steps": 90, "a": a * 2}))
    a, W = leaves(a, W)
    x, aux = solver(init, a, W)
    assert aux["steps"] == 90 and not aux["a"].requires_grad
    torch.testing.assert_close(torch.autograd.grad(x.sum(), W), torch.autograd.grad(relax(init, a, W).sum(), W))


def test_init_gets_no_gradient_and_does_not_matter(problem):
    init, a, W = problem
    solver = ol.custom_root(rotated)(relax)
    init, a = leaves(init, a)
    far = init + 0.3
    grads = torch.autograd.grad(solver(far, a, W).sum(), (init, a), allow_unused=True)
    assert grads[0] is None
    torch.testing.assert_close(grads[1], torch.autograd.grad(solver(init, a, W).sum(), a)[0])


def test_shared_and_non_leaf_arguments(problem):
    init, a, _ = problem
    solver = ol.custom_root(lambda x, a, b: x * (1 + b**2) - a)(lambda init, a, b: a / (1 + b**2))
    (a,) = leaves(a)

    def f(a):
        twice = a * 2  # non-leaf, and given as both arguments
        return solver(init, twice, twice)

    assert gradcheck(f, a, check_forward_ad=True)
    assert gradgradcheck(f, a)


def test_step_size_of_the_solver_does_not_scale_the_gradient(problem):
    init, a, W = problem
    grads = []
    for step in (0.2, 0.6):

        @ol.custom_root(rotated)
        def solver(init, a, W, step=step):
            x = init
            for _ in range(300):
                x = x - step * rotated(x, a, W)
            return x

        (leaf,) = leaves(a)
        grads.append(torch.autograd.grad(solver(init, leaf, W).sum(), leaf)[0])
    torch.testing.assert_close(*grads)


def test_solver_may_return_what_it_was_given_and_work_in_place():
    @ol.custom_root(lambda x, a: x - a)
    def solver(init, a):
        init.copy_(a)
        return init

    (a,) = leaves(torch.randn(3, dtype=F64))
    x = solver(torch.zeros(3, dtype=F64), a)
    torch.testing.assert_close(torch.autograd.grad(x.sum(), a)[0], torch.ones(3, dtype=F64))


def test_no_graph_without_gradients(problem):
    init, a, W = problem
    calls = []
    solver = ol.custom_root(lambda *args: calls.append(1) or rotated(*args))(relax)
    with torch.no_grad():
        assert not solver(init, *leaves(a, W)).requires_grad
    assert not calls
    assert solver(init, a, W).grad_fn is None


def test_float32_stays_float32(problem):
    init, a, W = (t.float() for t in problem)
    solver = ol.custom_root(rotated)(relax)
    inputs = leaves(a, W)
    x = solver(init, *inputs)
    grads = torch.autograd.grad(x.sum(), inputs)
    assert x.dtype == torch.float32 and all(g.dtype == torch.float32 for g in grads)
    double = [t.double().detach().requires_grad_() for t in inputs]
    want = torch.autograd.grad(relax(init.double(), *double).sum(), double)
    for got, reference in zip(grads, want, strict=True):
        torch.testing.assert_close(got.double(), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batched_systems_one_factorization_per_sample(batch):
    """With batch_ndim the samples are independent systems, and an empty batch is one too."""
    a = torch.randn(batch, 4, dtype=F64)
    W = 0.3 * torch.randn(4, 4, dtype=F64)

    def residual(x, a, W):
        return x + 0.4 * torch.tanh(x @ W.T) - a

    def loop(init, a, W):
        x = init
        for _ in range(100):
            x = x - 0.7 * residual(x, a, W)
        return x

    inputs = leaves(a, W)
    grads = [
        torch.autograd.grad(ol.custom_root(residual, solve=solve)(loop)(torch.zeros_like(a), *inputs).sum(), inputs)
        for solve in (ol.linear_solve.LU(batch_ndim=1), ol.linear_solve.GMRES(rtol=1e-13, batch_ndim=1))
    ]
    want = torch.autograd.grad(loop(torch.zeros_like(a), *inputs).sum(), inputs)
    for got in grads:
        torch.testing.assert_close(got, want)


# -- closures and modules --------------------------------------------------------------------------------------------


def closed_over(weight, bias, a):
    """The fixed point of a map that holds its parameters in its closure."""

    def fn(x, a):
        return torch.tanh(x @ weight.T + bias) + a

    @ol.custom_fixed_point(fn)
    def solver(init, a):
        x = init
        for _ in range(120):
            x = fn(x, a)
        return x

    return solver(torch.zeros_like(a), a)


def test_closures_keep_their_gradient_at_every_order():
    weight, bias, a = 0.2 * torch.randn(3, 3, dtype=F64), torch.randn(3, dtype=F64), torch.randn(2, 3, dtype=F64)
    assert gradcheck(closed_over, leaves(weight, bias, a), check_forward_ad=True)
    assert gradgradcheck(closed_over, leaves(weight, bias, a), check_fwd_over_rev=True)


def test_closures_under_torch_func():
    weight, a = 0.2 * torch.randn(3, 3, dtype=F64), torch.randn(2, 3, dtype=F64)
    biases = torch.randn(4, 3, dtype=F64)

    def gradient(bias):
        return grad(lambda bias: closed_over(weight, bias, a).pow(2).sum())(bias)

    torch.testing.assert_close(vmap(gradient)(biases), torch.stack([gradient(bias) for bias in biases]))
    exact = hessian(lambda bias: closed_over(weight, bias, a).pow(2).sum())(biases[0])

    def unrolled(bias):
        x = torch.zeros_like(a)
        for _ in range(120):
            x = torch.tanh(x @ weight.T + bias) + a
        return x.pow(2).sum()

    torch.testing.assert_close(exact, hessian(unrolled)(biases[0]))


class Equilibrium(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.linear = nn.Linear(4, 4, dtype=F64)
        with torch.no_grad():
            self.linear.weight.mul_(0.5)
        self.options = options

    def step(self, x, a):
        return torch.tanh(self.linear(x) + a)

    def forward(self, a):
        @ol.custom_fixed_point(self.step, **self.options)
        def solver(init, a):
            x = init
            for _ in range(150):
                x = self.step(x, a)
            return x

        return solver(torch.zeros_like(a), a)


def test_modules_resolve_copy_and_pickle_after_backward():
    module, a = Equilibrium(), torch.randn(2, 4, dtype=F64)
    module(a).pow(2).sum().backward()
    first = module.linear.weight.grad.clone()
    x = torch.zeros_like(a)
    for _ in range(150):
        x = module.step(x, a)
    torch.testing.assert_close(torch.autograd.grad(x.pow(2).sum(), module.linear.weight)[0], first)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        other.zero_grad()
        other(a).pow(2).sum().backward()
        torch.testing.assert_close(other.linear.weight.grad, first)
    module.zero_grad()
    module(a).pow(2).sum().backward()
    torch.testing.assert_close(module.linear.weight.grad, first)


def test_in_place_change_between_forward_and_backward_raises(problem):
    init, a, W = problem
    solver = ol.custom_root(rotated)(relax)
    a, W = leaves(a, W)
    x = solver(init, a, W)
    with torch.no_grad():
        W.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


# -- approximations by name, failures aloud --------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [0, 1, 5])
def test_neumann_equals_that_many_backward_iterations(terms):
    a = torch.randn(2, 4, dtype=F64)
    torch.manual_seed(0)
    module = Equilibrium(solve=ol.linear_solve.Neumann(terms))
    x = module(a)
    got = torch.autograd.grad(x.sum(), module.linear.weight)[0]
    at = x.detach().requires_grad_()
    image = module.step(at, a)
    u = torch.ones_like(at)
    for _ in range(terms):
        u = torch.ones_like(at) + torch.autograd.grad(image, at, u, retain_graph=True)[0]
    want = torch.autograd.grad(image, module.linear.weight, u)[0]
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    if terms == 0:
        module.options = {"solve": ol.linear_solve.Identity()}
        torch.testing.assert_close(torch.autograd.grad(module(a).sum(), module.linear.weight)[0], want)


def test_unconverged_backward_warns_with_the_residual(problem):
    init, a, W = problem
    solver = ol.custom_root(rotated, solve=ol.linear_solve.CG(maxiter=1))(relax)
    (a,) = leaves(a)
    with pytest.warns(ol.linear_solve.ConvergenceWarning, match="residual"):
        solver(init, a, W).sum().backward()


def test_preconditioner_is_transposed_for_the_transposed_system(problem):
    """The exact inverse as preconditioner: one iteration each way, if and only if it is transposed with the system."""
    init, a, W = problem
    x = relax(init, a, W)
    inverse = torch.linalg.inv(jacrev(rotated)(x, a, W))
    solve = ol.linear_solve.GMRES(maxiter=1, preconditioner=lambda v: inverse @ v)
    solver = ol.custom_root(rotated, solve=solve)(relax)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (a,) = leaves(a)
        solver(init, a, W).sum().backward()
        torch.func.jvp(lambda a: solver(init, a, W), (a.detach(),), (torch.ones(4, dtype=F64),))


def test_converged_backward_is_silent(problem):
    init, a, W = problem
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ol.custom_root(rotated)(relax)(init, *leaves(a, W)).sum().backward()


def test_residual_of_another_shape_is_named(problem):
    init, a, W = problem
    solver = ol.custom_root(lambda x, a, W: rotated(x, a, W)[:2])(relax)
    with pytest.raises(ValueError, match=r"residual returned .* \[\(2,\)\].*\[\(4,\)\]"):
        solver(init, *leaves(a, W))


def test_integer_solution_is_named():
    solver = ol.custom_root(lambda x, a: x)(lambda init, a: torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="has_aux"):
        solver(None, *leaves(torch.ones(2)))


def test_gradient_error_is_proportional_to_the_solution_error(problem):
    init, a, W = problem
    exact = torch.autograd.functional.jacobian(lambda a: relax(init, a, W), a)
    ratios = []
    for size in (1e-2, 1e-4, 1e-6):
        solver = ol.custom_root(rotated)(lambda init, a, W, size=size: relax(init, a, W) + size)
        jacobian = torch.autograd.functional.jacobian(lambda a, solver=solver: solver(init, a, W), a)
        error = (jacobian - exact).norm()
        ratios.append(error.item() / size)
    assert max(ratios) < 3 * min(ratios)


# -- products of the Jacobian of a root ------------------------------------------------------------------------------


def ridge(x, theta, X, y):
    return X.T @ (X @ x - y) + theta * x


def test_ridge_vjp_and_jvp_against_the_closed_form():
    X, y = torch.randn(20, 5, dtype=F64), torch.randn(20, dtype=F64)
    theta = torch.tensor(2.5, dtype=F64)
    H = X.T @ X + theta * torch.eye(5, dtype=F64)
    x = torch.linalg.solve(H, X.T @ y)
    closed = -torch.linalg.solve(H, x)
    cotangent = torch.randn(5, dtype=F64)
    for solve in (None, ol.linear_solve.CG(rtol=1e-14), ol.linear_solve.Cholesky(), ol.linear_solve.LDL()):
        grads = ol.root_vjp(ridge, x, (theta, X, y), cotangent, solve=solve)
        torch.testing.assert_close(grads[0], closed @ cotangent, rtol=1e-10, atol=1e-12)
        tangent = ol.root_jvp(ridge, x, (theta, X, y), (torch.ones((), dtype=F64), None, None), solve=solve)
        torch.testing.assert_close(tangent, closed, rtol=1e-10, atol=1e-12)


def test_root_products_are_differentiable():
    X, y = torch.randn(6, 3, dtype=F64), torch.randn(6, dtype=F64)
    v = torch.randn(3, dtype=F64)

    def root(theta):
        return torch.linalg.solve(X.T @ X + theta * torch.eye(3, dtype=F64), X.T @ y)

    def by_rule(theta, v):
        return ol.root_vjp(ridge, root(theta.detach()), (theta, X, y), v)[0]

    def by_jvp(theta, v):
        return ol.root_jvp(ridge, root(theta.detach()), (theta, X, y), (torch.ones_like(theta), None, None)) @ v

    inputs = leaves(torch.tensor(1.5, dtype=F64), v)
    assert gradcheck(by_rule, inputs)
    assert gradcheck(by_jvp, inputs)


def test_root_vjp_gives_none_for_what_is_not_floating():
    x = torch.ones(2, dtype=F64)
    got = ol.root_vjp(lambda x, a, n, kind: x - a * n, x, (x, torch.tensor(1), "kind"), x)
    assert got[1] is None and got[2] is None
    torch.testing.assert_close(got[0], torch.ones(2, dtype=F64))


# -- what the seeds of this library do -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solve",
    [
        ol.linear_solve.CG(rtol=1e-6),
        ol.linear_solve.NormalCG(rtol=1e-6),
        ol.linear_solve.Neumann(100, alpha=0.1),
        ol.linear_solve.LU(),
    ],
    ids=["CG", "NormalCG", "Neumann", "LU"],
)
def test_implicit_maml_of_the_tutorial(solve):
    """TorchOpt's tutorial on implicit differentiation (iMAML on a linear model), and the numbers it prints."""
    torch.manual_seed(0)
    x, w, b = torch.randn(20, 4), torch.randn(4, 1), torch.randn(1)
    y = x @ w + b + 0.5 * torch.randn(20, 1)
    net = nn.Linear(4, 1)
    nn.init.ones_(net.weight)
    nn.init.zeros_(net.bias)

    def model(params, x):
        return torch.func.functional_call(net, dict(zip(["weight", "bias"], params, strict=True)), x)

    def objective(params, meta_params, data):
        x, y, model = data
        proximity = sum(0.5 * (p1 - p2).square().sum() for p1, p2 in zip(params, meta_params, strict=True))
        return nn.functional.mse_loss(model(params, x), y) + proximity

    @ol.custom_root(torch.func.grad(objective), argnums=1, solve=solve)
    def inner_solver(params, meta_params, data):
        with torch.enable_grad():
            for _ in range(100):
                grads = torch.autograd.grad(objective(params, meta_params, data), params)
                params = tuple((p - 2e-2 * g).detach().requires_grad_() for p, g in zip(params, grads, strict=True))
        return params

    meta_params = tuple(net.parameters())
    init = tuple(p.detach().clone().requires_grad_() for p in meta_params)
    optimal = inner_solver(init, meta_params, (x, y, model))
    grads = torch.autograd.grad(model(optimal, x).mean(), meta_params)
    torch.testing.assert_close(grads[0], torch.tensor([[-0.0369, 0.0248, 0.0347, 0.0067]]), rtol=0, atol=6e-5)
    torch.testing.assert_close(grads[1], torch.tensor([0.3156]), rtol=0, atol=6e-5)


def softmax_kkt(point, theta):
    """KKT residual of ``max theta'x + H(x), sum x = 1``; positivity is implied by the entropy."""
    x, u = point
    return theta - x.log() - 1 + u, x.sum(-1, keepdim=True) - 1


@ol.custom_root(softmax_kkt)
def softmax_by_entropy(init, theta):
    x = (theta - theta.max()).exp()
    x = x / x.sum()
    return x, (x.log() + 1 - theta).mean(-1, keepdim=True)


def test_softmax_as_entropy_regularized_program():
    theta = torch.randn(6, dtype=F64)

    def f(theta):
        return softmax_by_entropy(None, theta)[0]

    torch.testing.assert_close(f(theta), theta.softmax(-1))
    torch.testing.assert_close(jacrev(f)(theta), jacrev(lambda t: t.softmax(-1))(theta))
    weights = torch.randn(6, dtype=F64)
    exact = hessian(lambda t: t.softmax(-1) @ weights)(theta)
    torch.testing.assert_close(hessian(lambda t: f(t) @ weights)(theta), exact)
    torch.testing.assert_close(vmap(f)(torch.randn(3, 6, dtype=F64)).sum(-1), torch.ones(3, dtype=F64))


# -- the solver and the residual are independent choices -----------------------------------------------------------


def simplex_projection(v):
    ordered = v.sort(descending=True).values
    mean = (ordered.cumsum(0) - 1) / torch.arange(1, len(v) + 1)
    return (v - mean[(ordered > mean).sum() - 1]).clamp(min=0)


def test_one_solver_with_two_residuals_has_one_jacobian():
    """Coordinate descent on a simplex, differentiated by the projected-gradient and the mirror-descent fixed point."""

    def gradient(x, H, c):
        return H @ x - c

    def exchange(init, H, c):  # exact steps along e_i - e_j, which stay on the simplex
        x = init
        for _ in range(400):
            for i in range(3):
                step = torch.zeros(3, dtype=F64)
                step[i], step[(i + 1) % 3] = 1, -1
                x = x - step * (step @ gradient(x, H, c)) / (step @ H @ step)
        return x

    H = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 1.5]], dtype=F64)
    c, init = torch.tensor([0.3, 0.2, 0.1], dtype=F64), torch.full((3,), 1 / 3, dtype=F64)

    def projected(x, H, c):
        return simplex_projection(x - gradient(x, H, c))

    def mirror(x, H, c):
        return (x.log() - gradient(x, H, c)).softmax(0)

    jacobians = [jacrev(ol.custom_fixed_point(fn)(exchange), (1, 2))(init, H, c) for fn in (projected, mirror)]
    torch.testing.assert_close(*jacobians, rtol=1e-8, atol=1e-10)
    unrolled = jacrev(exchange, 2)(init, H, c)
    torch.testing.assert_close(jacobians[0][1], unrolled, rtol=1e-8, atol=1e-10)


def test_ridge_in_every_way_of_calling():
    """custom_root and custom_fixed_point, arguments by position and by name in any order, with and without aux."""
    X, y = torch.randn(20, 5, dtype=F64), torch.randn(20, dtype=F64)
    theta = torch.tensor(2.5, dtype=F64)
    H = X.T @ X + theta * torch.eye(5, dtype=F64)
    closed = -torch.linalg.solve(H, torch.linalg.solve(H, X.T @ y))

    def solver(init, theta, X, y):
        return torch.linalg.solve(X.T @ X + theta * torch.eye(5, dtype=F64), X.T @ y)

    def with_aux(init, theta, X, y):
        return solver(init, theta, X, y), {"norm": theta}

    def step(x, theta, X, y):
        return x - 0.01 * ridge(x, theta, X, y)

    plain = [ol.custom_root(ridge)(solver), ol.custom_fixed_point(step)(solver)]
    both = [ol.custom_root(ridge, has_aux=True)(with_aux), ol.custom_fixed_point(step, has_aux=True)(with_aux)]
    for fn in [*plain, *(lambda *args, fn=fn, **kwargs: fn(*args, **kwargs)[0] for fn in both)]:
        for call in (
            lambda theta, fn=fn: fn(None, theta, X, y),
            lambda theta, fn=fn: fn(None, y=y, theta=theta, X=X),
            lambda theta, fn=fn: fn(None, theta, y=y, X=X),
        ):
            torch.testing.assert_close(jacrev(call)(theta), closed, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(jacfwd(call)(theta), closed, rtol=1e-9, atol=1e-11)
