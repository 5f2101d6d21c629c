"""Learning problems solved here and by scikit-learn: the models agree, and so does their change with the penalty.

The derivative of scikit-learn's model is a difference of two of its fits.
"""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import ElasticNet, LogisticRegression, MultiTaskLasso
from sklearn.svm import SVC, LinearSVC

import optlayers as ol
from optlayers import prox

F64 = torch.float64


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    X = X / X.std(0)
    return torch.from_numpy(X), torch.from_numpy((y - y.mean()) / y.std())


def iris(classes, step=5):
    X, y = load_iris(return_X_y=True)
    keep = np.flatnonzero(y < classes)[::step]
    X = X - X.mean(0)
    return torch.from_numpy(X[keep]), torch.from_numpy(y[keep])


def elastic_net(penalty):
    """1 / 2n |Xw - y|^2 + penalty (|w|_1 + |w|^2 / 2) / 2."""
    X, y = diabetes()
    solver = ol.ProximalGradient(lambda w, step: prox.elastic_net(w, 0.5 * step * penalty, 0.5 * step * penalty))
    return ol.minimise(lambda w: 0.5 * (X @ w - y).square().mean(), torch.zeros(10, dtype=F64), solver=solver).x


def sk_elastic_net(penalty):
    X, y = diabetes()
    return ElasticNet(penalty, l1_ratio=0.5, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(X, y).coef_


def multi_task_lasso(penalty):
    """1 / 2n |XW - Y|^2 + penalty (sum of the lengths of the rows of W)."""
    X, Y = (part.contiguous() for part in diabetes()[0].split([6, 4], -1))
    solver = ol.ProximalGradient(lambda W, step: prox.group(W, step * penalty), rtol=1e-12)
    start = torch.zeros(6, 4, dtype=F64)
    return ol.minimise(lambda W: 0.5 * (X @ W - Y).square().sum() / len(X), start, solver=solver).x.mT


def sk_multi_task_lasso(penalty):
    X, Y = diabetes()[0].split([6, 4], -1)
    return MultiTaskLasso(penalty, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(X, Y).coef_


def logistic_regression(penalty, classes=3):
    """Sum of cross-entropies + penalty |W|^2 / 2."""
    X, y = iris(classes)

    def loss(W, penalty):
        return torch.nn.functional.cross_entropy(X @ W.mT, y, reduction="sum") + 0.5 * penalty * W.square().sum()

    return ol.minimise(loss, torch.zeros(classes, 4, dtype=F64), (penalty,)).x


def sk_logistic_regression(penalty):
    model = LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-12, solver="newton-cg", max_iter=1000)
    return model.fit(*iris(3)).coef_


def kernel_svm(bound):
    """The dual: min 1/2 a'K a - sum a over 0 <= a <= bound, y'a = 0, with the signs in K."""
    X, y = iris(2)
    sign = 2.0 * y.to(F64) - 1
    K = torch.exp(-0.5 * torch.cdist(X, X).square()) * sign * sign[:, None]
    zero = torch.zeros(len(X), dtype=F64)
    return ol.solve_qp(K, zero - 1, A=sign[None], b=zero[:1], lb=zero, ub=bound + zero).x * sign


def sk_kernel_svm(bound):
    X, y = iris(2)
    model = SVC(C=bound, gamma=0.5, tol=1e-12).fit(X, y)
    a = np.zeros(len(X))
    a[model.support_] = model.dual_coef_[0]
    return a


def multiclass_svm(C):
    """min |W|^2 / 2 + C sum s  s.t.  w_k x_i - w_(y_i) x_i + [k != y_i] <= s_i, a QP in (W, s)."""
    X, y = iris(3)
    count, classes, features = len(X), 3, 4
    wrong = 1.0 - torch.nn.functional.one_hot(y, classes).to(F64)
    own = torch.nn.functional.one_hot(y, classes).to(F64)
    difference = torch.eye(classes, dtype=F64) - own[:, None, :]  # (i, k, class)
    G = torch.cat(
        [
            torch.einsum("ikc,if->ikcf", difference, X).reshape(count * classes, classes * features),
            -torch.eye(count, dtype=F64).repeat_interleave(classes, 0),
        ],
        -1,
    )
    Q = torch.diag(torch.cat([torch.ones(classes * features, dtype=F64), torch.zeros(count, dtype=F64)]))
    p = torch.cat([torch.zeros(classes * features, dtype=F64), C.expand(count)])
    return ol.solve_qp(Q, p, G, -wrong.reshape(-1)).x[: classes * features].reshape(classes, features)


def sk_multiclass_svm(C):
    model = LinearSVC(C=C, multi_class="crammer_singer", fit_intercept=False, tol=1e-12, max_iter=10_000_000)
    return model.fit(*iris(3)).coef_


PROBLEMS = {
    "elastic net": (elastic_net, sk_elastic_net, 0.1, 1e-7),
    "multi-task lasso": (multi_task_lasso, sk_multi_task_lasso, 0.2, 1e-7),
    "logistic regression": (logistic_regression, sk_logistic_regression, 0.7, 1e-6),
    "kernel SVM": (kernel_svm, sk_kernel_svm, 0.8, 1e-7),
    "multiclass SVM": (multiclass_svm, sk_multiclass_svm, 0.5, 1e-6),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_model_and_its_derivative(name):
    ours, theirs, penalty, tolerance = PROBLEMS[name]
    at = torch.tensor(penalty, dtype=F64, requires_grad=True)
    model = ours(at)
    np.testing.assert_allclose(model.detach().numpy(), theirs(penalty), rtol=0, atol=tolerance)
    step = 1e-4
    slope = (theirs(penalty + step) - theirs(penalty - step)) / (2 * step)
    assert np.abs(slope).max() > 1e-2
    got = torch.autograd.functional.jacobian(ours, at).numpy()
    np.testing.assert_allclose(got, slope, rtol=0, atol=1e-3 * np.abs(slope).max())
