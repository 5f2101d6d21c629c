"""CvxpyLayer: values and duals against cvxpy itself, derivatives, batches, failures, what is refused."""

import copy
import importlib
import pickle

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol

cp = pytest.importorskip("cvxpy")  # an optional dependency
pytest.importorskip("clarabel")

F64 = torch.float64


def least_squares(m=5, n=3):
    """Box-constrained least squares, which is a QP; cvxpy adds the residual to the variables."""
    A, b, x = cp.Parameter((m, n)), cp.Parameter(m), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0, x <= 0.3])
    return problem, [A, b], [x], [torch.randn(m, n, dtype=F64), torch.randn(m, dtype=F64)]


def by_cvxpy(problem, parameters, values, variables, **options):
    """What cvxpy itself makes of it."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value.numpy()
    problem.solve(solver="CLARABEL", **options)
    dense = [v.value.toarray() if hasattr(v.value, "toarray") else v.value for v in variables]
    return [torch.as_tensor(np.asarray(value, dtype=float)) for value in dense]


def duals(problem):
    return [dual for constraint in problem.constraints for dual in constraint.dual_variables]


def test_values_and_duals_are_those_of_cvxpy():
    problem, parameters, variables, values = least_squares()
    variables = variables + duals(problem)
    got = ol.CvxpyLayer(problem, parameters, variables)(*values)
    for output, want in zip(got, by_cvxpy(problem, parameters, values, variables), strict=True):
        torch.testing.assert_close(output, want.reshape(output.shape), rtol=1e-5, atol=1e-6)
