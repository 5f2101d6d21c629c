"""From the answer of a cone solver to a point refined to rounding accuracy, and a verdict on each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._base.status import Status
from .._native.cone_kkt import Refined
from ..linear_solve.sparse import is_positive_semidefinite
from ..solvers.conic import ConeProgram, ConeSolver
from .cone_blocks import groups, interior, project
from .cone_data import Full, Structure
from .cone_rule import residual, terms
from .cone_system import ConeSystem, samples_of

EXACT = 1e-13  # residual at which nothing is left to gain
SETTLED = 1e-12  # residual below which another factorization is not worth it
ROUGH = 1e-9  # residual above which the units may be to blame
FACTORIZATIONS = 3
CHORD_STEPS = 3  # with one factorization


class Point(NamedTuple):
    """All float64, the batch first. Of failed samples ``x`` is zero and ``v`` in the interior of the cones."""

    x: Tensor
    v: Tensor  # w s - z / w
    w: Tensor  # units of the rows, a positive number a cone
    s: Tensor  # slacks; of DUAL_INFEASIBLE the certificate -A d for a direction d; NaN of other failures
    z: Tensor  # multipliers; of PRIMAL_INFEASIBLE the certificate; NaN of other failures
    status: Tensor
    iterations: Tensor
    residuals: Tensor  # (B, 2): primal, dual


def find_point(structure: Structure, solver: ConeSolver, count: int, data: Sequence[Tensor]) -> Point:
    """Solve a batch: values ``P, q, A, b`` with `count` samples, or one that is shared; see :class:`Structure`."""
    device = data[0].device
    data = [tensor.cpu() for tensor in data]
    m, n = structure.on_A.shape
    like = data[1]
    valid = _valid(structure, count, data)
    if count and valid.all():
        found = _solve_valid(structure, solver, count, data)
        return found if device.type == "cpu" else Point(*(tensor.to(device) for tensor in found))
    end = Point(
        x=like.new_zeros(count, n),
        v=interior(structure.cones, like).repeat(count, 1),
        w=like.new_ones(count, m),
        s=like.new_full((count, m), torch.nan),
        z=like.new_full((count, m), torch.nan),
        status=like.new_full((count,), int(Status.INVALID_INPUT)),
        iterations=like.new_zeros(count),
        residuals=like.new_full((count, 2), torch.inf),
    )
    chosen = valid.nonzero().squeeze(-1)
    if len(chosen):
        found = _solve_valid(structure, solver, len(chosen), samples_of(data, chosen))
        for whole, part in zip(end, found, strict=True):
            whole[chosen] = part
    return Point(*(tensor.to(device) for tensor in end))


def _solve_valid(structure: Structure, solver: ConeSolver, count: int, data: Sequence[Tensor]) -> Point:
    on_P, on_A = structure.on_P, structure.on_A
    P, q, A, b = (tensor.numpy() for tensor in data)
    answer = solver.solve_cones(ConeProgram(structure.cones, on_P, P, q, on_A, A, b, count))
    x, s, z, status, iterations = (torch.from_numpy(part) for part in answer)
    if not answer.status.any() and all(np.isfinite(part).all() for part in answer[:3]):  # as a rule
        at, v, w, slack, multiplier, residuals = refined_point(structure, data, x, s, z)
        if bool((residuals <= solver.eps).all()):
            return Point(at, v, w, slack, multiplier, x.new_zeros(count), iterations.double(), residuals)
    primal, dual = status == int(Status.PRIMAL_INFEASIBLE), status == int(Status.DUAL_INFEASIBLE)
    usable = torch.isfinite(torch.cat([x, s, z], -1)).all(-1) & ~primal & ~dual
    safe = [torch.where(usable.unsqueeze(-1), part, 0.0) for part in (x, s, z)]
    at, v, w, slack, multiplier, residuals = refined_point(structure, data, *safe)
    solved = usable & (residuals.amax(-1) <= solver.eps)
    zero = torch.zeros_like(x)
    status = torch.where(~solved & (status == int(Status.SOLVED)), int(Status.NUMERICAL_ERROR), status)
    unit = interior(structure.cones, v)
    image = -on_A.mv(data[2], x)
    return Point(
        x=torch.where(solved.unsqueeze(-1), at, zero),
        v=torch.where(solved.unsqueeze(-1), v, unit),
        w=torch.where(solved.unsqueeze(-1), w, 1.0),
        s=torch.where(solved.unsqueeze(-1), slack, _certificate(dual, image, x)),
        z=torch.where(solved.unsqueeze(-1), multiplier, _certificate(primal, z, z)),
        status=torch.where(solved, int(Status.SOLVED), status).double(),
        iterations=iterations.double(),
        residuals=torch.where(usable.unsqueeze(-1), residuals, torch.inf),
    )


def _certificate(where: Tensor, value: Tensor, unit: Tensor) -> Tensor:
    """Scaled to a largest entry of one in `unit`; NaN for other samples."""
    size = unit.abs().amax(-1, keepdim=True) if unit.shape[-1] else unit.new_ones(len(unit), 1)
    return torch.where(where.unsqueeze(-1), value / torch.where(size > 0, size, 1.0), torch.nan)


def refined_point(structure: Structure, data: Sequence[Tensor], x: Tensor, s: Tensor, z: Tensor) -> Refined:
    """A solver's points, all numbers, refined and judged: compiled, or by the same steps in torch."""
    if structure.kkt is not None:
        return structure.kkt.refine(len(x), data, x, s, z)
    w, at, v, residuals = _refined_in_good_units(structure, data, x, s, z)
    scaled = project(structure.cones, v)
    return Refined(at, v, w, scaled / w, w * (scaled - v), residuals)


def _refined_in_good_units(
    structure: Structure, data: Sequence[Tensor], x: Tensor, s: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``w, x, v`` and the residuals; where they do not get small, once more in the units that the data came in."""
    w = _units(structure, data, x, s, z)
    at, v, residuals = _refined(structure, data, w, x.clone(), w * s - z / w)
    rough = (residuals.amax(-1) > ROUGH).nonzero().squeeze(-1)
    if len(rough):
        again = (1 / _row_sizes(structure, data[2])).expand_as(w)[rough]
        start = again * s[rough] - z[rough] / again
        other = again, *_refined(structure, samples_of(data, rough), again, x[rough], start)
        better = other[3].amax(-1) < residuals[rough].amax(-1)
        for whole, part in zip((w, at, v, residuals), other, strict=True):
            whole[rough[better]] = part[better]
    return w, at, v, residuals


def _refined(
    structure: Structure, data: Sequence[Tensor], w: Tensor, x: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Newton steps on (CONE-3), several with one factorization, each kept where the residual falls (CONE-9)."""
    best, force = _measure(structure, data, w, x, v)
    for number in range(FACTORIZATIONS):
        going = (best.amax(-1) > (SETTLED if number else EXACT)).nonzero().squeeze(-1)
        if not len(going):
            break
        own = samples_of(data, going)
        system = ConeSystem(structure, v[going], own[0], own[2], w[going])
        fell = False
        for _ in range(CHORD_STEPS):
            dx, dv, _ = system.solve(-force[0][going], -force[1][going], transpose=False)
            trial = x[going] + dx, v[going] + dv
            now, next_force = _measure(structure, own, w[going], *trial)
            better = now.amax(-1) < 0.5 * best[going].amax(-1)  # not so for NaN
            if not better.any():
                break
            fell = True
            kept = going[better]
            for whole, part in zip((x, v, best, *force), (*trial, now, *next_force), strict=True):
                whole[kept] = part[better]
            if best[going].max() <= EXACT:
                break
        if not fell:
            break
    return x, v, best


def _measure(
    structure: Structure, data: Sequence[Tensor], w: Tensor, x: Tensor, v: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Relative residuals ``(B, 2)`` (CONE-4), and the residual itself."""
    _, q, A, b = data
    args = [*data, w]
    found = terms(structure, (x, v), args)
    f1, f2 = residual(found, args)
    unit = _row_sizes(structure, A).clamp(max=1.0)
    primal = _largest((f2 / w).abs() / (unit + b.abs() + found.Ax.abs() + (found.s / w).abs()))
    force = torch.stack([_largest(part.abs()) for part in (found.Px, q.expand_as(x), found.ATz)]).amax(0)
    dual = _largest(f1.abs()) / (_nonzero(_largest(q.abs())).clamp(max=1.0) + force)
    return torch.stack([primal, dual], -1), (f1, f2)


def _units(structure: Structure, data: Sequence[Tensor], x: Tensor, s: Tensor, z: Tensor) -> Tensor:
    """``w``: the square root of (force over length), over the largest entry of the rows of a cone (CONE-5)."""
    _, q, A, b = data
    rows = _row_sizes(structure, A)
    force = torch.maximum(_largest(q.abs()), _largest(structure.on_A.transposed().mv(A, z).abs()))
    length = torch.maximum(_largest(x.abs()), _largest(b.abs() / rows))
    ratio = (_nonzero(force) / _nonzero(length)).clamp(1e-12, 1e12).sqrt().unsqueeze(-1)
    return ratio / rows


def _row_sizes(structure: Structure, A: Tensor) -> Tensor:
    """The largest entry in the rows of each cone, one where all are zero; row by row in the zero and nonneg cones."""
    on_A = structure.on_A
    if isinstance(on_A, Full):
        sizes = on_A.dense(A).abs().amax(-1) if on_A.shape[1] else A.new_zeros(len(A), on_A.shape[0])
    else:
        rows = torch.from_numpy(on_A.rows).expand(A.shape)
        sizes = A.new_zeros(len(A), on_A.shape[0]).scatter_reduce(1, rows, A.abs(), "amax")
    for group in groups(structure.cones):
        if group.kind not in ("zero", "nonneg"):
            index = torch.from_numpy(group.index).to(A.device)
            sizes[:, index] = sizes[:, index].amax(-1, keepdim=True)
    return _nonzero(sizes)


def _nonzero(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1.0)


def _largest(value: Tensor) -> Tensor:
    return value.amax(-1) if value.shape[-1] else value.new_zeros(value.shape[:-1])


def _valid(structure: Structure, count: int, data: Sequence[Tensor]) -> Tensor:
    """``(count)``: data are finite, and P is positive semidefinite up to rounding."""
    if structure.kkt is not None and count:
        return structure.kkt.valid(data).expand(count)
    valid = torch.ones(count, dtype=torch.bool)
    for tensor in data:
        valid = valid & torch.isfinite(tensor).all(-1)
    P, on_P = data[0], structure.on_P
    if not P.shape[-1]:
        return valid
    finite = torch.isfinite(P).all(-1)
    if isinstance(on_P, Full):
        size = _nonzero(_largest(P.abs()))[:, None, None]
        Q = torch.where(finite[:, None, None], on_P.dense(P) / size, 0.0)
        shifted = 0.5 * (Q + Q.mT) + 1e-8 * torch.eye(Q.shape[-1], dtype=Q.dtype)
        return valid & (torch.linalg.cholesky_ex(shifted)[1] == 0)
    semidefinite = []
    for values, good in zip(P.numpy(), finite.tolist(), strict=True):
        Q = on_P.matrix(values)
        semidefinite.append(good and is_positive_semidefinite(0.5 * (Q + Q.T)))
    return valid & torch.tensor(semidefinite)
