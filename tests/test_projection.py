"""Projections: one catalogue of sets, and what every projection has to do over it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacrev, vmap

from optlayers import projection

F64 = torch.float64


def rand(*shape, seed=0):
    return torch.rand(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@dataclass
class Case:
    """A set: its projection, the shape of a point, parameters of one sample, and how far a point violates it."""

    name: str
    project: Callable[..., Tensor]
    violation: Callable[..., Tensor]  # (y, *parameters) -> (*batch)
    parameters: tuple[Tensor, ...] = ()
    shape: tuple[int, ...] = (5,)
    convex: bool = True
    euclidean: bool = True  # the nearest point in the Euclidean norm
    scale: float = 1.0  # of the points to project
    tolerance: float = 1e-9
    own: tuple[int, ...] = field(default=())  # dimensions that the parameters have in one sample

    def __str__(self):
        return self.name

    def __post_init__(self):
        self.own = tuple(parameter.dim() for parameter in self.parameters)

    def points(self, *batch, seed=1):
        return self.scale * randn(*batch, *self.shape, seed=seed)

    def leaves(self, *batch):
        """A batch of points, and the parameters, of which the first has a batch as well."""
        shared = list(self.parameters)
        if shared:
            shared[0] = shared[0].expand(*batch, *shared[0].shape).clone()
        return [leaf.requires_grad_() for leaf in (self.points(*batch), *[p.clone() for p in shared])]


def below(*residuals):
    """The largest of residuals that should not be positive, over a sample."""
    return torch.stack([r.flatten(1).amax(1) if r.dim() > 1 else r for r in residuals]).amax(0)


def norm(y, p):
    return torch.linalg.vector_norm(y, p, dim=-1)


def product(A, y):
    return (A @ y.unsqueeze(-1)).squeeze(-1)


def outside_exponential(v):
    """Distance to the surface in the direction of z, where y > 0."""
    x, y, z = v.unbind(-1)
    flat = (y < 1e-30) & (x <= 0)
    return torch.where(flat, below(-z, -y), y * (x / torch.where(flat, 1.0, y)).exp() - z)


def outside_exponential_dual(v):
    x, y, z = v.unbind(-1)
    flat = x > -1e-30
    return torch.where(flat, below(x, -y, -z), -x * (y / torch.where(flat, 1.0, x)).exp() - torch.e * z)


def outside_power(v, alpha):
    x, y, z = v.unbind(-1)
    return below(-x, -y, z.abs() - x.clamp(min=0) ** alpha * y.clamp(min=0) ** (1 - alpha))


def outside_psd(Y):
    return below(-torch.linalg.eigvalsh(Y), (Y - Y.mT).abs())


ONE = torch.tensor(1.3, dtype=F64)
LOWER, UPPER = -rand(5), rand(5, seed=1)
NORMAL, OFFSET = randn(5, seed=2), torch.tensor(-0.7, dtype=F64)
A, B = randn(2, 5, seed=3), randn(2, seed=4)
G, H = randn(4, 5, seed=5), rand(4, seed=6) - 0.3

CASES = [
    Case("simplex", projection.simplex, lambda y, r: below(-y, (y.sum(-1) - r).abs()), (ONE,)),
    Case(
        "sparse_simplex",
        lambda x, *r: projection.sparse_simplex(x, 2, *r),
        lambda y, r: below(-y, (y.sum(-1) - r).abs(), (y > 0).sum(-1) - 2.0),
        (ONE,),
        convex=False,
    ),
    Case("l1_ball", projection.l1_ball, lambda y, r: norm(y, 1) - r, (ONE,)),
    Case("l1_sphere", projection.l1_sphere, lambda y, r: (norm(y, 1) - r).abs(), (ONE,), convex=False),
    Case("l2_ball", projection.l2_ball, lambda y, r: norm(y, 2) - r, (ONE,)),
    Case("l2_sphere", projection.l2_sphere, lambda y, r: (norm(y, 2) - r).abs(), (ONE,), convex=False),
    Case("linf_ball", projection.linf_ball, lambda y, r: norm(y, torch.inf) - r, (0.5 * ONE,)),
    Case("box", projection.box, lambda y, lower, upper: below(lower - y, y - upper), (LOWER, UPPER)),
    Case("hypercube", projection.hypercube, lambda y, s: below(-y, y - s), (0.5 * ONE,)),
    Case("hyperplane", projection.hyperplane, lambda y, a, b: (y @ a - b).abs(), (NORMAL, OFFSET)),
    Case("halfspace", projection.halfspace, lambda y, a, b: y @ a - b, (NORMAL, OFFSET)),
    Case("affine", projection.affine, lambda y, A, b: below((product(A, y) - b).abs()), (A, B)),
    Case("polyhedron", projection.polyhedron, lambda y, G, h: below(product(G, y) - h), (G, H)),
    Case(
        "polyhedron",
        projection.polyhedron,
        lambda y, G, h, A, b: below(product(G, y) - h, (product(A, y) - b).abs()),
        (G, H + 1, A[:1], B[:1]),
    ),
    Case(
        "box_section",
        projection.box_section,
        lambda y, lower, upper, a, b: below(lower - y, y - upper, (y @ a - b).abs()),
        (LOWER, UPPER, NORMAL, 0.1 * OFFSET),
    ),
    Case(
        "capped_simplex",
        projection.capped_simplex,
        lambda y, k: below(-y, y - 1, (y.sum(-1) - k).abs()),
        (torch.tensor(2.2, dtype=F64),),
    ),
    Case("isotonic", projection.isotonic, lambda y: below(y[..., :-1] - y[..., 1:])),
    Case("zero", projection.zero, lambda y: y.abs().amax(-1)),
    Case("nonneg", projection.nonneg, lambda y: below(-y)),
    Case("second_order", projection.second_order, lambda y: norm(y[..., 1:], 2) - y[..., 0]),
    Case("exponential", projection.exponential, outside_exponential, shape=(3,)),
    Case("dual", projection.dual(projection.exponential), outside_exponential_dual, shape=(3,)),
    Case("power", projection.power, outside_power, (torch.tensor(0.3, dtype=F64),), shape=(3,)),
    Case(
        "transport",
        lambda x, a, b: projection.transport(x, (a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True))),
        lambda y, a, b: below(-y, (y.sum(-1) - a / a.sum(-1)).abs(), (y.sum(-2) - b / b.sum(-1)).abs()),
        (rand(3, seed=9) + 0.1, rand(4, seed=10) + 0.1),
        shape=(3, 4),
    ),
    Case(
        "birkhoff",
        projection.birkhoff,
        lambda y: below(-y, (y.sum(-1) - 1).abs(), (y.sum(-2) - 1).abs()),
        shape=(4, 4),
    ),
    Case(
        "kl_transport",
        lambda x, a, b: projection.kl_transport(x, (a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True))),
        lambda y, a, b: below(-y, (y.sum(-1) - a / a.sum(-1)).abs(), (y.sum(-2) - b / b.sum(-1)).abs()),
        (rand(3, seed=9) + 0.1, rand(4, seed=10) + 0.1),
        shape=(3, 4),
        euclidean=False,
    ),
    Case(
        "kl_birkhoff",
        projection.kl_birkhoff,
        lambda y: below(-y, (y.sum(-1) - 1).abs(), (y.sum(-2) - 1).abs()),
        shape=(4, 4),
        scale=0.3,
        euclidean=False,
    ),
    Case("psd", projection.psd, outside_psd, shape=(4, 4)),
    Case(
        "nuclear_ball",
        projection.nuclear_ball,
        lambda y, r: torch.linalg.svdvals(y).sum(-1) - r,
        (ONE,),
        shape=(3, 4),
    ),
]
CONVEX = [case for case in CASES if case.convex and case.euclidean]


def flat_distance(x, y):
    return (x - y).flatten(1).norm(dim=1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lands_in_the_set_and_stays_there(case):
    for scale in (0.1, 1.0, 10.0):
        y = case.project(scale * case.points(20), *case.parameters)
        size = 1 + y.flatten(1).abs().amax(1)
        assert (case.violation(y, *case.parameters) <= case.tolerance * size).all()
        again = case.project(y if case.euclidean else y.log(), *case.parameters)
        assert (flat_distance(y, again) <= case.tolerance * size).all()


@pytest.mark.parametrize("case", CONVEX, ids=str)
def test_firmly_nonexpansive(case):
    x, z = case.points(50), case.points(50, seed=2)
    dx, dy = (x - z).flatten(1), (case.project(x, *case.parameters) - case.project(z, *case.parameters)).flatten(1)
    assert ((dy * dy).sum(1) <= (dx * dy).sum(1) + case.tolerance * (dx * dx).sum(1)).all()


@pytest.mark.parametrize("case", CONVEX, ids=str)
def test_no_point_of_the_set_is_closer(case):
    """The variational inequality (x - Px)'(z - Px) <= 0 for z in the set: with feasibility, it defines Px."""
    x = case.points(30)
    y = case.project(x, *case.parameters)
    for seed, scale in ((3, 0.2), (4, 1.0), (5, 5.0)):
        z = case.project(scale * case.points(30, seed=seed), *case.parameters)
        inner = ((x - y) * (z - y)).flatten(1).sum(1)
        assert (inner <= 10 * case.tolerance * (1 + (x * x).flatten(1).sum(1) + (z * z).flatten(1).sum(1))).all()


@pytest.mark.parametrize("case", CONVEX, ids=str)
def test_jacobian_is_that_of_a_projection(case):
    """Symmetric, with eigenvalues between 0 and 1."""
    x = case.points(6)
    J = vmap(jacrev(lambda x: case.project(x, *case.parameters).flatten()))(x).flatten(2)
    torch.testing.assert_close(J, J.mT, rtol=0, atol=1e-8)
    eigenvalues = torch.linalg.eigvalsh((J + J.mT) / 2)
    assert eigenvalues.min() > -1e-8 and eigenvalues.max() < 1 + 1e-8


@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_and_second_derivatives(case):
    leaves = case.leaves(2)
    assert gradcheck(case.project, leaves, check_forward_ad=True, atol=1e-6, rtol=1e-5)
    assert gradgradcheck(case.project, leaves, atol=1e-5, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_broadcast_and_gradients_sum(case):
    x, weight = case.points(3, 2), randn(3, 2, *case.shape, seed=7)
    shared = [p.clone().requires_grad_() for p in case.parameters]
    each = [p.expand(3, 1, *p.shape).clone().requires_grad_() for p in case.parameters]
    y = case.project(x, *shared)
    torch.testing.assert_close(y, case.project(x, *each), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(y[1, 0], case.project(x[1, 0], *shared), rtol=1e-9, atol=1e-10)
    if shared:
        got = torch.autograd.grad((y * weight).sum(), shared)
        want = torch.autograd.grad((case.project(x, *each) * weight).sum(), each)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b.sum((0, 1)), rtol=1e-7, atol=1e-8)
    one = case.points()
    if shared:  # a batch of parameters, and one point
        assert case.project(one, *each).shape == (3, 1, *case.shape)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_vmap_equals_a_batch(case):
    x = case.points(2, 3)
    y = vmap(vmap(lambda x: case.project(x, *case.parameters)))(x)
    torch.testing.assert_close(y, case.project(x, *case.parameters), rtol=1e-9, atol=1e-10)


# Tracing takes seconds; these are the same code as another case, but for a line or two.
TRACED_ELSEWHERE = {
    "l1_sphere",
    "linf_ball",
    "hypercube",
    "halfspace",
    "capped_simplex",
    "birkhoff",
    "kl_birkhoff",
    "dual",
}


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in TRACED_ELSEWHERE], ids=str)
def test_compiled_equals_eager(case):
    x = case.points(3)
    want = case.project(x, *case.parameters)
    torch._dynamo.reset()  # or the variants of one lambda count against its limit
    compiled = torch.compile(lambda x: case.project(x, *case.parameters), fullgraph=True, backend="aot_eager")
    x.requires_grad_()
    torch.testing.assert_close(compiled(x), want, rtol=1e-9, atol=1e-10)
    weight = randn(*want.shape, seed=8)
    gradient = [
        torch.autograd.grad((f(x) * weight).sum(), x) for f in (compiled, lambda x: case.project(x, *case.parameters))
    ]
    torch.testing.assert_close(*gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dtype_layout_and_empty_batch(case):
    x = case.points(4)
    want = case.project(x, *case.parameters)
    y = case.project(x.float(), *[p.float() for p in case.parameters])
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-4)
    strided = torch.stack([x, x], -1)[..., 0]
    assert not strided.is_contiguous()
    torch.testing.assert_close(case.project(strided, *case.parameters), want, rtol=0, atol=0)
    assert case.project(case.points(0), *case.parameters).shape == (0, *case.shape)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_bad_sample_is_alone(case):
    x = case.points(3)
    want = case.project(x, *case.parameters)
    x[1] = torch.nan
    y = case.project(x, *case.parameters)
    assert y[1].isnan().any()
    torch.testing.assert_close(y[[0, 2]], want[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_malformed_arguments(case):
    with pytest.raises(TypeError, match=rf"projection\.{case.name}.*x is a list"):
        case.project([1.0, 2.0], *case.parameters)
    with pytest.raises(ValueError, match=rf"projection\.{case.name}.*x has dtype torch.int64"):
        case.project(torch.ones(case.shape, dtype=torch.int64), *case.parameters)
    with pytest.raises(ValueError, match=rf"projection\.{case.name}.*x has shape \(\)"):
        case.project(torch.tensor(1.0, dtype=F64), *case.parameters)


# -- kinks and scales ---------------------------------------------------------------------------------

KINKS = [0.0, 0.65, 1.0, -1.0, 1.3]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kinks_are_finite(case):
    """Constant points: the apex of cones, ties, repeated eigenvalues, entries on bounds."""
    for value in KINKS:
        for point in (torch.full(case.shape, value, dtype=F64), value * torch.eye(*(2 * case.shape)[-2:], dtype=F64)):
            x = point.expand(2, *case.shape).clone() if point.shape == case.shape else point[0].expand(2, *case.shape)
            leaves = [leaf.clone().requires_grad_() for leaf in (x, *case.parameters)]
            y = case.project(*leaves)
            weight = randn(*y.shape, seed=11)
            first = torch.autograd.grad((y * weight).sum(), leaves, create_graph=True, materialize_grads=True)
            second = torch.autograd.grad(
                sum(g.square().sum() for g in first if g.requires_grad) + 0 * y.sum(), leaves, materialize_grads=True
            )
            assert all(t.isfinite().all() for t in (y, *first, *second))
            if case.convex and case.euclidean:
                J = jacrev(lambda x: case.project(x, *case.parameters).flatten())(x[0]).flatten(1)
                eigenvalues = torch.linalg.eigvals(J).real
                assert eigenvalues.min() > -1e-6 and eigenvalues.max() < 1 + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("case", [case for case in CASES if case.euclidean], ids=str)
def test_points_of_any_scale(case, dtype):
    """Far away the set is reached all the same, to the rounding error of the point, and derivatives are finite."""
    parameters = [p.to(dtype) for p in case.parameters]
    eps = torch.finfo(dtype).eps
    for scale in (1e-9, 1e9):
        x = (scale * case.points(8)).to(dtype).requires_grad_()
        y = case.project(x, *parameters)
        size = 1 + x.detach().flatten(1).abs().amax(1)
        assert (case.violation(y.detach(), *parameters) <= 1000 * eps * size).all()
        (gradient,) = torch.autograd.grad((y * randn(*y.shape, seed=12).to(dtype)).sum(), x)
        assert gradient.isfinite().all() and (not case.convex or gradient.abs().max() < 100)


# -- simplices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_simplex_masked_large_and_tied_entries(dtype):
    x = torch.tensor([[-torch.inf, 1.0, 2.0], [1e9, 1e9, 3.0], [0.25, 0.25, 0.25]], dtype=dtype, requires_grad=True)
    y = projection.simplex(x)
    want = torch.tensor([[0, 0, 1], [0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]], dtype=dtype)
    torch.testing.assert_close(y, want)
    (gradient,) = torch.autograd.grad(y[:, 1].sum(), x)
    want = torch.tensor([[0, 0, 0], [-0.5, 0.5, 0], [-1 / 3, 2 / 3, -1 / 3]], dtype=dtype)
    torch.testing.assert_close(gradient, want)


@pytest.mark.parametrize("n", [1, 20, 600, 5000])
def test_simplex_equals_sorting(n):
    x = randn(7, n) * torch.logspace(-4, 4, 7, dtype=F64)[:, None]
    u = x.sort(-1, descending=True).values
    excess = u.cumsum(-1) - 1
    count = torch.arange(1, n + 1)
    k = (u * count > excess).sum(-1, keepdim=True)
    want = (x - excess.gather(-1, k - 1) / k).clamp(min=0)
    torch.testing.assert_close(projection.simplex(x), want, rtol=1e-9, atol=1e-9)


def test_radius_zero_and_below():
    x = torch.tensor([[3.0, 3.0, 1.0], [3.0, 2.0, 1.0]], dtype=F64)
    y = projection.simplex(x, torch.tensor([0.0, -1.0], dtype=F64))
    assert (y[0] == 0).all() and y[1].isnan().all()
    with pytest.raises(ValueError, match=r"projection\.simplex: radius is -1.*not negative"):
        projection.simplex(x, -1.0)
    with pytest.raises(ValueError, match="at least one entry"):
        projection.simplex(x[:, :0])


@pytest.mark.parametrize("radius", [0.5, 2.0])
def test_balls_inside_and_outside(radius):
    """Inside, the identity and no gradient for the radius; outside, the sphere."""
    r = torch.tensor(radius, dtype=F64, requires_grad=True)
    x = torch.tensor([0.6, -0.8], dtype=F64)  # of length 1, l1 norm 1.4, maximum norm 0.8
    for ball, sphere in ((projection.l1_ball, projection.l1_sphere), (projection.l2_ball, projection.l2_sphere)):
        y = ball(x, r)
        (gradient,) = torch.autograd.grad(y.sum(), r, materialize_grads=True)
        if radius == 2:
            assert (y == x).all() and gradient == 0
        else:
            torch.testing.assert_close(y, sphere(x, r))


def test_box_section_is_the_simplex():
    x = randn(6, 8)
    args = (torch.zeros(8, dtype=F64), torch.full((8,), torch.inf, dtype=F64), torch.ones(8, dtype=F64), 1.0)
    torch.testing.assert_close(projection.box_section(x, *args), projection.simplex(x))
    J = [vmap(jacrev(f))(x) for f in (lambda x: projection.box_section(x, *args), projection.simplex)]
    torch.testing.assert_close(*J)


def test_capped_simplex_masks_and_whole_numbers():
    x = torch.tensor([[3.0, 2.0, -torch.inf, 0.0], [9.0, 8.0, 1.0, 0.0]], dtype=F64, requires_grad=True)
    y = projection.capped_simplex(x, 2)
    torch.testing.assert_close(y, torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=F64))
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert gradient.isfinite().all()
    assert projection.capped_simplex(x, torch.tensor([3.5, 3.5], dtype=F64))[0].isnan().all()
    with pytest.raises(ValueError, match="total is 5; expected a number from 0 to 4"):
        projection.capped_simplex(x, 5)


# -- linear constraints -------------------------------------------------------------------------------


def test_infeasible_and_degenerate_samples():
    x = randn(2, 3)
    a = torch.tensor([[0.0, 0, 0], [0, 2, 0]], dtype=F64, requires_grad=True)
    y = projection.hyperplane(x, a, 1.0)
    assert y[0].isnan().all() and y[1, 1] == 0.5
    assert torch.autograd.grad(y[1].sum(), a)[0].isfinite().all()
    torch.testing.assert_close(projection.halfspace(x, a, 1.0)[0], x[0])
    assert projection.halfspace(x, a, torch.inf).equal(x)
    assert projection.box(x, 0.0, torch.tensor([1.0, -1, 1], dtype=F64)).isnan().tolist() == [[False, True, False]] * 2
    assert (
        projection.box_section(x, 0.0, 1.0, torch.ones(3, dtype=F64), torch.tensor([1.0, 9], dtype=F64))[1]
        .isnan()
        .all()
    )
    A = torch.tensor([[1.0, 1, 0], [2, 2, 0]], dtype=F64)  # dependent rows: consistent, then not
    b = torch.tensor([[1.0, 2], [1, 3]], dtype=F64, requires_grad=True)
    y = projection.affine(x, A, b)
    torch.testing.assert_close(y[0, :2].sum(), torch.tensor(1.0, dtype=F64))
    assert y[1].isnan().all() and (torch.autograd.grad(y[0].sum(), b)[0][1] == 0).all()
    G, h = torch.tensor([[1.0, 0, 0], [-1, 0, 0]], dtype=F64), torch.tensor([[0.0, 0], [0, -1]], dtype=F64)
    y = projection.polyhedron(x, G, h)
    assert y[0, 0].abs() < 1e-12 and y[1].isnan().all()
    with pytest.raises(ValueError, match=r"projection\.polyhedron: A is given without"):
        projection.polyhedron(x, G, h, A)


def test_transport_infeasible_and_masked():
    x = randn(2, 2, 2)
    x[:, 0, 0] = -torch.inf
    y = projection.transport(
        x.requires_grad_(), (torch.ones(2, dtype=F64), torch.tensor([[1.0, 1], [1, 2]], dtype=F64))
    )
    torch.testing.assert_close(y[0], torch.tensor([[0.0, 1], [1, 0]], dtype=F64))
    assert y[1].isnan().all()
    assert torch.autograd.grad(y[0].square().sum(), x)[0].isfinite().all()


# -- cones --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cone,shape",
    [
        (projection.nonneg, (4,)),
        (projection.second_order, (4,)),
        (projection.psd, (3, 3)),
        (projection.exponential, (3,)),
        (lambda x: projection.power(x, 0.7), (3,)),
        (projection.isotonic, (5,)),
    ],
)
def test_moreau_decomposition(cone, shape):
    """x = P(x) - P_dual(-x), the two orthogonal."""
    x = randn(60, *shape) * torch.logspace(-3, 3, 60, dtype=F64).reshape(-1, *[1] * len(shape))
    x = (x + x.mT) / 2 if len(shape) == 2 else x
    y, z = cone(x), projection.dual(cone)(-x)
    size = (x * x).flatten(1).sum(1)
    torch.testing.assert_close(y - z, x)
    assert ((y * z).flatten(1).sum(1).abs() <= 1e-9 * size).all()


def test_psd_with_repeated_eigenvalues_in_closed_form():
    """At diag(2, 2, -1): entries across the sign change by 2 / (2 + 1) of the change of X."""
    X = torch.diag(torch.tensor([2.0, 2, -1], dtype=F64))
    H = randn(3, 3)
    H = H + H.T
    factor = torch.tensor([[1, 1, 2 / 3], [1, 1, 2 / 3], [2 / 3, 2 / 3, 0]], dtype=F64)
    _, dY = torch.func.jvp(projection.psd, (X,), (H,))
    torch.testing.assert_close(dY, factor * H)
    assert gradgradcheck(projection.psd, (X.requires_grad_(),))


@pytest.mark.parametrize(
    "project,shape",
    [(projection.psd, (3, 3)), (projection.exponential, (3,)), (lambda x: projection.power(x, 0.4), (3,))],
)
def test_third_derivatives(project, shape):
    """The last order that the formulas by Newton steps promise; by finite differences of the second."""
    x, v = 2 * randn(*shape, seed=21), randn(*shape, seed=22)

    def along(t):
        return (project(x + t * v) * v).sum() ** 2

    second = torch.func.grad(torch.func.grad(along))
    t, d = torch.tensor(0.0, dtype=F64), 1e-5
    torch.testing.assert_close(
        torch.func.grad(second)(t), (second(t + d) - second(t - d)) / (2 * d), rtol=1e-4, atol=1e-5
    )


def test_extreme_exponential_points():
    """Where ratios overflow, the cone is its flat face, and nothing is NaN."""
    big, tiny = 1e9, 1e-12
    x = torch.tensor(
        [
            [-big, tiny, -5],
            [-big, 1, 3],
            [tiny, -big, 4],
            [big, 1, 1],
            [0, 0, 0],
            [0, 0, -1],
            [0, 0, 1],
            [1, 0, 0],
            [0, 1, 1],
        ],
        dtype=F64,
        requires_grad=True,
    )
    y = projection.exponential(x)
    assert (outside_exponential(y.detach()) <= 1e-7 * (1 + y.detach().abs().amax(-1))).all()
    torch.testing.assert_close(projection.exponential(y), y, rtol=1e-6, atol=1e-6)
    assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize(
    "cone",
    [
        projection.exponential,
        projection.second_order,
        *[lambda x, a=a: projection.power(x, a) for a in (0.1, 0.5, 0.99)],
    ],
)
def test_cones_over_many_scales(cone):
    """Entries from 1e-5 to 1e5: both parts stay where they are projected again, and are orthogonal, to rounding."""
    x = randn(3000, 3) * 10 ** (10 * rand(3000, 3) - 5)
    y, z = cone(x), projection.dual(cone)(-x)
    size = x.norm(dim=-1)
    assert ((y * z).sum(-1).abs() <= 1e-14 * size**2).all()
    for again, point in ((cone(y), y), (projection.dual(cone)(z), z), (y - z, x)):
        assert ((again - point).norm(dim=-1) <= 1e-13 * size).all()


@pytest.mark.parametrize("a", [0.02, 0.1, 0.5])
def test_power_cone_near_its_polar(a):
    """The equation for the height is flat up to rounding over most of the range."""
    x, y = -rand(2, 500)
    height = (-x / a) ** a * (-y / (1 - a)) ** (1 - a)
    v = torch.stack([x, y, -height * (1 + 10 ** (-10 * rand(500, seed=1)))], -1)
    s = projection.power(v, a)
    z = s - v
    assert (s[:, 0] ** a * s[:, 1] ** (1 - a) >= s[:, 2].abs() - 1e-12).all() and ((s * z).sum(-1).abs() < 1e-12).all()
    assert ((z[:, 0] / a) ** a * (z[:, 1] / (1 - a)) ** (1 - a) >= z[:, 2].abs() - 1e-12).all()


def test_power_cone_outside_of_its_range():
    x = randn(3, 3)
    y = projection.power(x, torch.tensor([0.5, 1.5, -1.0], dtype=F64))
    assert y.isnan().all(-1).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="alpha is 1; expected a number between 0 and 1"):
        projection.power(x, 1)


def test_polyhedron_in_float32_at_vertices_and_with_rows_that_rounding_makes_contradict():
    generator = torch.Generator().manual_seed(2)
    G, h, x = (torch.randn(*shape, generator=generator) for shape in ((30, 10), (30,), (500, 10)))
    h = h.abs() + 0.1
    y = projection.polyhedron(3 * x, G, h)
    want = projection.polyhedron(3 * x.double(), G.double(), h.double())
    torch.testing.assert_close(y, want.float(), rtol=0, atol=1e-5)
    row = torch.randn(10, generator=generator)
    A, b = torch.stack([row, 0.3 * row, 7.7 * row]), torch.tensor([0.1, 0.3 * 0.1, 7.7 * 0.1])
    torch.testing.assert_close(projection.polyhedron(x, G, h, A, b) @ row, b[:1].expand(500), rtol=0, atol=1e-5)
