"""`project`: one set, intersections against closed forms and the QP engine, failures."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol
from optlayers import projection

F64 = torch.float64


def unit_diagonal(X):
    return X - torch.diag_embed(X.diagonal(dim1=-2, dim2=-1) - 1)


@pytest.fixture
def problem():
    """Points, and the radius and upper bounds of the simplex and the box to meet."""
    torch.manual_seed(0)
    x, radius, upper = torch.randn(2, 3, dtype=F64), torch.tensor([1.3, 1.7], dtype=F64), torch.full((3,), 0.8)
    return x.requires_grad_(), radius.requires_grad_(), upper.to(F64).requires_grad_()


def both(x, radius, upper):
    sets = [lambda v: projection.simplex(v, radius), lambda v: projection.box(v, 0.0, upper)]
    return ol.project(x, sets).x


def section(x, radius, upper):
    return projection.box_section(x, 0.0, upper, torch.ones(3, dtype=F64), radius)


def test_intersection_equals_the_closed_form_in_value_and_gradients(problem):
    weight = torch.randn(2, 3, dtype=F64)
    values = [f(*problem) for f in (both, section)]
    torch.testing.assert_close(*values, rtol=0, atol=1e-9)
    torch.testing.assert_close(*[torch.autograd.grad((y * weight).sum(), problem) for y in values])


def test_derivatives_of_both_orders_and_modes(problem):
    assert gradcheck(both, problem, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(both, problem, fast_mode=True)


def test_vmap_and_a_single_sample_equal_the_batch(problem):
    x, radius, upper = (value.detach() for value in problem)
    want = both(x, radius, upper)
    one = [both(point, r, upper) for point, r in zip(x, radius, strict=True)]
    torch.testing.assert_close(torch.stack(one), want, rtol=0, atol=1e-9)
    vmapped = torch.vmap(
        lambda point, r: (
            ol.project(
                point,
                [lambda v: projection.simplex(v, r), lambda v: projection.box(v, 0.0, upper)],
                solver=ol.Picard(max_steps=200),
            ).x
        )
    )(x, radius)
    torch.testing.assert_close(vmapped, want, rtol=0, atol=1e-9)


def test_a_set_named_twice_changes_nothing(problem):
    """The corrections are not unique then, the projection is."""
    x, radius, _ = problem
    values = [ol.project(x, [lambda v: projection.simplex(v, radius)] * 2).x, projection.simplex(x, radius)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*[torch.autograd.grad(y[:, 0].sum(), (x, radius)) for y in values])


def test_matrices_the_nearest_correlation_matrix():
    """Example of Higham, "Computing the nearest correlation matrix" (2002), section 4."""
    A = torch.tensor([[2.0, -1, 0, 0], [-1, 2, -1, 0], [0, -1, 2, -1], [0, 0, -1, 2]], dtype=F64)
    X = ol.project(A.expand(3, 4, 4), [projection.psd, unit_diagonal], sample_dims=2).x
    torch.testing.assert_close(X.diagonal(dim1=-2, dim2=-1), torch.ones(3, 4, dtype=F64))
    assert torch.linalg.eigvalsh(X).min() > -1e-8
    published = torch.tensor([1.0, -0.8084, 0.1916, 0.1068], dtype=F64)
    torch.testing.assert_close(X[0, 0], published, rtol=0, atol=5e-5)


def test_one_set(problem):
    x, radius, _ = problem
    solution = ol.project(x, lambda v: projection.simplex(v, radius))
    torch.testing.assert_close(solution.x, projection.simplex(x, radius))
    assert solution.status.tolist() == [0, 0] and solution.iterations.tolist() == [0, 0]


def test_float32_and_empty_batches():
    sets = [projection.nonneg, projection.l2_ball]
    assert ol.project(torch.randn(4, 3), sets).x.dtype == torch.float32
    for onto in (sets, projection.nonneg):
        assert ol.project(torch.zeros(0, 3), onto).x.shape == (0, 3)


def test_sets_that_do_not_meet_fail_alone():
    upper = torch.tensor([[1.0], [-1.0]], dtype=F64)
    x = torch.full((2, 1), 3.0, dtype=F64, requires_grad=True)
    sets = [projection.nonneg, lambda v: torch.minimum(v, upper)]
    solver = ol.Picard(max_steps=50)
    with pytest.raises(ol.SolveError, match="sample 1"):
        ol.project(x, sets, solver=solver)
    solution = ol.project(x, sets, solver=solver, throw=False)
    assert solution.x[0] == 1 and solution.x[1].isnan()
    assert torch.autograd.grad(solution.x[0].sum(), x)[0].tolist() == [[0.0], [0.0]]


def test_one_set_that_is_empty():
    x, radius = torch.zeros(2, 3, dtype=F64), torch.tensor([1.0, -1.0], dtype=F64)
    with pytest.raises(ol.SolveError, match="PRIMAL_INFEASIBLE"):
        ol.project(x, lambda v: projection.simplex(v, radius))


def test_malformed():
    with pytest.raises(ValueError, match="onto is empty"):
        ol.project(torch.zeros(3), [])
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        ol.project(torch.zeros(3), projection.psd, sample_dims=2)
    with pytest.raises(TypeError, match="x is a list"):
        ol.project([1.0], projection.nonneg)
