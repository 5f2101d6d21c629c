"""``qp_kkt`` and ``qp_backward`` in plain torch, and the least-squares solution of singular systems.

Everything runs in float64, whatever the dtype of the data; equations (IPM-n) stand in docs/theory/qp.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import can_read, choose, surely_none
from .reference_program import Program, active_set_solve, build, largest, symmetric_part


def qp_kkt(Q, G, A, active_G, active_lb, active_ub, r_x, r_y, r_z, r_lb, r_ub) -> tuple[Tensor, ...]:
    """Twin of :func:`optlayers._native.ops.qp_kkt`, where the contract stands."""
    system = _active_system(Q, G, A, active_G, active_lb, active_ub, r_x, r_y, r_z, r_lb, r_ub)
    dx, dual, residual = active_set_solve(system.program, system.program.equality, system.r_x, system.r_row)
    solution = _unscale(system, dx, dual, residual, r_x.dtype)
    return redo_singular(solution, Q, G, A, active_G, active_lb, active_ub, r_x, r_y, r_z, r_lb, r_ub)


def qp_backward(
    Q,
    G,
    A,
    active_G,
    active_lb,
    active_ub,
    x,
    y,
    z,
    v_x,
    v_y,
    v_z,
    v_lb,
    v_ub,
    want_Q: bool,
    want_G: bool,
    want_A: bool,
) -> tuple[Tensor, ...]:
    """Twin of :func:`optlayers._native.ops.qp_backward`, where the contract stands."""
    *u, error = qp_kkt(Q, G, A, active_G, active_lb, active_ub, v_x, v_y, v_z, v_lb, v_ub)
    u_x, u_y, u_G = u[:3]
    return *u, *matrix_gradients(x, y, z, u_x, u_y, u_G, want_Q, want_G, want_A), error


def matrix_gradients(x, y, z, u_x, u_y, u_G, want_Q: bool, want_G: bool, want_A: bool) -> tuple[Tensor, ...]:
    """Gradients of Q, G and A (IPM-21), ``(B, 0, 0)`` where not wanted."""
    none = x.new_empty(x.shape[0], 0, 0)
    cross = _outer(u_x, x) if want_Q else none
    return (
        -(cross + cross.mT) / 2,
        -(_outer(z, u_x) + _outer(u_G, x)) if want_G else none,
        -(_outer(y, u_x) + _outer(u_y, x)) if want_A else none.clone(),
    )


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left.unsqueeze(-1) * right.unsqueeze(-2)


def redo_singular(solution: tuple[Tensor, ...], *arguments: Tensor) -> tuple[Tensor, ...]:
    """Give samples whose residual in `solution` is not small the answer of :func:`qp_kkt_least_squares`, or NaN.

    NaN where the data that count are not finite: eigenvalues exist of numbers only.
    """
    doubtful = (solution[-1] <= singular_tolerance(solution[0].dtype)).logical_not_()
    if surely_none(doubtful) or not can_read(doubtful):
        return solution
    Q, G, A, active_G, active_lb, active_ub, r_x, r_y, r_z, r_lb, r_ub = arguments
    masked = ((active_G.unsqueeze(-1), G), (active_G, r_z), (active_lb, r_lb), (active_ub, r_ub))
    read = [Q, A, r_x, r_y, *(torch.where(mask, t, 0.0) for mask, t in masked)]
    finite = torch.cat([t.isfinite().flatten(1) for t in read], -1).all(-1)
    index = (doubtful & finite).nonzero().squeeze(-1)
    redone = qp_kkt_least_squares(*(t[index] for t in arguments))
    solution = choose(doubtful & ~finite, tuple(torch.full_like(t, torch.nan) for t in solution), solution)
    return tuple(old.index_put((index,), new) for old, new in zip(solution, redone, strict=True))


def qp_kkt_least_squares(Q, G, A, active_G, active_lb, active_ub, r_x, r_y, r_z, r_lb, r_ub) -> tuple[Tensor, ...]:
    """:func:`qp_kkt` by eigenvalues, one sample after the other: for singular systems the least-squares solution of
    least norm, both measured in the equilibrated problem (IPM-17)."""
    system = _active_system(Q, G, A, active_G, active_lb, active_ub, r_x, r_y, r_z, r_lb, r_ub)
    program, n = system.program, r_x.shape[-1]
    dx, dual = torch.zeros_like(system.r_x), torch.zeros_like(system.r_row)
    identity = torch.eye(n, dtype=dx.dtype, device=dx.device)
    for i in range(len(dx)):
        rows = program.equality[i].nonzero().squeeze(-1)
        C = torch.cat([program.C[i], -identity[: program.lower], identity[: program.upper]])[rows]
        K = torch.cat([torch.cat([program.Q[i], C.mT], -1), torch.cat([C, C.new_zeros(len(C), len(C))], -1)])
        values, vectors = torch.linalg.eigh(K)
        kept = values.abs() > max(1e-11, 10 * torch.finfo(r_x.dtype).eps) * values.abs().max()
        inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
        d = vectors @ (inverse * (vectors.mT @ torch.cat([system.r_x[i], system.r_row[i, rows]])))
        dx[i], dual[i, rows] = d[:n], d[n:]
    e_x = system.r_x - program.quadratic(dx) - program.adjoint(dual)
    residual = torch.maximum(largest(e_x), largest(system.r_row - program.rows(dx)))
    return _unscale(system, dx, dual, residual, r_x.dtype)


def singular_tolerance(dtype: torch.dtype) -> float:
    """The relative residual above which a system solved by :func:`qp_kkt` has to be treated as singular."""
    return max(1e-9, 100 * torch.finfo(dtype).eps)


class _System(NamedTuple):
    program: Program  # the active rows, all equalities
    r_x: Tensor
    r_row: Tensor
    sizes: list[int]  # rows of A, G, -I, I


def _active_system(Q, G, A, active_G, active_lb, active_ub, r_x, r_y, r_z, r_lb, r_ub) -> _System:
    active = torch.cat([torch.ones_like(r_y, dtype=torch.bool), active_G, active_lb, active_ub], -1)
    r_row = torch.where(active, torch.cat([r_y, r_z, r_lb, r_ub], -1), 0.0).double()
    none = r_x.new_zeros(r_x.shape[0], 0).double()
    C = torch.cat([A, torch.where(active_G.unsqueeze(-1), G, 0.0)], -2).double()
    # Every row as an equality: `build` equilibrates, and the masks then keep the active ones.
    wide = torch.full_like(r_x, torch.inf).double()
    lb, ub = (-wide if active_lb.shape[-1] else none), (wide if active_ub.shape[-1] else none)
    program = build(
        symmetric_part(Q.double()), torch.zeros_like(r_x).double(), C[:, :0], none, C, C.new_zeros(C.shape[:2]), lb, ub
    )
    program = replace(program, equality=active, present=active)
    sizes = [t.shape[-1] for t in (r_y, r_z, r_lb, r_ub)]
    return _System(program, program.cost * program.column * r_x.double(), program.row * r_row, sizes)


def _unscale(system: _System, dx: Tensor, dual: Tensor, residual: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    program = system.program
    size = torch.maximum(largest(system.r_x), largest(system.r_row))
    error = (residual / torch.where(size > 0, size, 1.0)).squeeze(-1)
    parts = (program.row * dual / program.cost).split(system.sizes, -1)
    return tuple(t.to(dtype) for t in (program.column * dx, *parts, error))
