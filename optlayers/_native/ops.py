"""The native ops: schemas, contracts, fake kernels, vmap rules, and the only calls into the extension.

On the CPU and on CUDA devices an op is the compiled kernel; on other devices, and without the extensions, it is
:mod:`.reference`.
Ops are primal only: they have no derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _dispatch_keys, _is_tracing, _len_torch_dispatch_stack, _len_torch_function_stack
from torch._C._functorch import peek_interpreter_stack

from . import _C, available, reference, reference_kkt
from .extension import launch, of_dtype, run


class QPSolveResult(NamedTuple):
    """What :func:`qp_solve` returns; n variables, m rows of G, k rows of A, batch B."""

    x: Tensor  # (B, n)
    y: Tensor  # (B, k)
    z: Tensor  # (B, m)
    z_lb: Tensor  # (B, n) or (B, 0)
    z_ub: Tensor
    s: Tensor  # (B, m) = h - Gx, inf where h is
    active_G: Tensor  # (B, m) bool
    active_lb: Tensor  # (B, n) or (B, 0) bool
    active_ub: Tensor
    status: Tensor  # (B,) int64, optlayers.Status
    iterations: Tensor  # (B,) int64
    residuals: Tensor  # (B, 3): primal, dual, complementarity


class QPKktResult(NamedTuple):
    """What :func:`qp_kkt` returns."""

    d_x: Tensor  # (B, n)
    d_y: Tensor  # (B, k)
    d_z: Tensor  # (B, m), 0 at inactive rows
    d_lb: Tensor  # (B, n) or (B, 0), 0 at inactive bounds
    d_ub: Tensor
    error: Tensor  # (B,) relative residual


class QPBackwardResult(NamedTuple):
    """What :func:`qp_backward` returns."""

    u_x: Tensor  # (B, n)
    u_y: Tensor  # (B, k)
    u_G: Tensor  # (B, m), 0 at inactive rows
    u_lb: Tensor  # (B, n) or (B, 0), 0 at inactive bounds
    u_ub: Tensor
    grad_Q: Tensor  # (B, n, n) symmetric; a gradient that is not wanted is (B, 0, 0)
    grad_G: Tensor  # (B, m, n)
    grad_A: Tensor  # (B, k, n)
    error: Tensor  # (B,) relative residual


def qp_solve(
    Q: Tensor,
    p: Tensor,
    G: Tensor,
    h: Tensor,
    A: Tensor,
    b: Tensor,
    lb: Tensor,
    ub: Tensor,
    eps: float,
    max_steps: int,
) -> QPSolveResult:
    r"""Solve a batch of convex quadratic programs.

    .. math:: \min_x \tfrac12 x^\top Q x + p^\top x \quad\text{s.t.}\quad Gx \le h,\; Ax = b,\; lb \le x \le ub

    A primal-dual interior point method on equilibrated data, ended by an active-set solve that is accurate to rounding.
    Multipliers satisfy ``Qx + p + G'z + A'y + z_ub - z_lb = 0``. Float32 data are iterated in float64.

    Args:
        Q: ``(B, n, n)``; (Q + Q')/2 is what counts, and has to be positive semidefinite up to rounding.
        p: ``(B, n)``.
        G, h: ``(B, m, n)`` and ``(B, m)``; m may be 0; h may hold inf.
        A, b: ``(B, k, n)`` and ``(B, k)``; k may be 0; rows may depend on each other.
        lb, ub: ``(B, n)``, or ``(B, 0)`` where there are no bounds of that kind; may hold -inf and inf.
            A batch dimension may be expanded: shared data are read in place.
        eps: largest relative KKT residual, natural residual ``min(s, z)`` included, of a solution.
        max_steps: interior point steps.

    Returns:
        :class:`QPSolveResult`. ``active_*`` mark the inequalities with ``z > s``; weakly active ones are not marked.
        A variable with ``lb = ub`` has exactly one of its bounds marked, and its multiplier split by sign. Where the
        status is PRIMAL_INFEASIBLE the multipliers are a Farkas certificate, where it is DUAL_INFEASIBLE x is a
        direction of unbounded descent, both of max-norm one; INVALID_INPUT and NUMERICAL_ERROR give NaN.

    References: Mehrotra, "On the implementation of a primal-dual interior point method" (1992); docs/theory/qp.md.
    """
    run = _qp_solve_cpu if _direct(Q, p, G, h, A, b, lb, ub) else torch.ops.optlayers.qp_solve.default
    return QPSolveResult(*run(Q, p, G, h, A, b, lb, ub, eps, max_steps))


def qp_kkt(
    Q: Tensor,
    G: Tensor,
    A: Tensor,
    active_G: Tensor,
    active_lb: Tensor,
    active_ub: Tensor,
    r_x: Tensor,
    r_y: Tensor,
    r_z: Tensor,
    r_lb: Tensor,
    r_ub: Tensor,
) -> QPKktResult:
    r"""Solve a batch of symmetric systems, the KKT systems of the active rows.

    .. math::
        Q\,d_x + A^\top d_y + G^\top d_z + d_{ub} - d_{lb} = r_x, \quad A\,d_x = r_y, \quad
        G_i d_x = r_{z,i}, \quad -d_{x,i} = r_{lb,i}, \quad d_{x,i} = r_{ub,i} \quad (i \text{ active})

    Multipliers of inactive rows are 0, and what ``r`` holds there is ignored. A singular system gets the
    least-squares solution of least norm, both measured in the equilibrated system.

    Args:
        Q, G, A: as in :func:`qp_solve`.
        active_G, active_lb, active_ub: bool ``(B, m)``, ``(B, n)`` or ``(B, 0)``, ``(B, n)`` or ``(B, 0)``.
        r_x, r_y, r_z, r_lb, r_ub: right-hand sides, ``(B, n)``, ``(B, k)``, and of the shapes of the masks.

    Returns:
        :class:`QPKktResult`; ``error`` is the residual relative to the right-hand side, both in max-norm and
        equilibrated: about 1e-15, or of order one where the system contradicts itself. NaN in gives NaN out.
    """
    return QPKktResult(
        *torch.ops.optlayers.qp_kkt.default(Q, G, A, active_G, active_lb, active_ub, r_x, r_y, r_z, r_lb, r_ub)
    )


def qp_backward(
    Q: Tensor,
    G: Tensor,
    A: Tensor,
    active_G: Tensor,
    active_lb: Tensor,
    active_ub: Tensor,
    x: Tensor,
    y: Tensor,
    z: Tensor,
    v_x: Tensor,
    v_y: Tensor | None,
    v_z: Tensor | None,
    v_lb: Tensor | None,
    v_ub: Tensor | None,
    want_Q: bool,
    want_G: bool,
    want_A: bool,
) -> QPBackwardResult:
    r"""Pull cotangents of a batch of solutions back to the data of their programs, on the active rows.

    Solves the system of :func:`qp_kkt` for ``u`` with the cotangents ``v`` on the right (cotangents of inactive
    multipliers have no effect), and forms

    .. math::
        \bar Q = -\tfrac12 (u_x x^\top + x u_x^\top), \quad \bar G = -(z u_x^\top + u_G x^\top), \quad
        \bar A = -(y u_x^\top + u_y x^\top),

    each if it is wanted. The gradients of the vectors are :math:`\bar p = -u_x`, :math:`\bar h = u_G`,
    :math:`\bar b = u_y`, :math:`\bar l = -u_{lb}`, :math:`\bar u = u_{ub}`.

    Args:
        Q, G, A: as in :func:`qp_solve`.
        active_G, active_lb, active_ub: as in :func:`qp_kkt`.
        x, y, z: the solution, ``(B, n)``, ``(B, k)``, ``(B, m)``.
        v_x, v_y, v_z, v_lb, v_ub: cotangents of x, y, z, z_lb, z_ub, and of their shapes; None is zero.
        want_Q, want_G, want_A: whether to form the gradient.

    Returns:
        :class:`QPBackwardResult`; ``error`` is that of :func:`qp_kkt`.

    References: Amos and Kolter, "OptNet" (2017); docs/theory/qp.md, (IPM-21).
    """
    at, v = (Q, G, A, active_G, active_lb, active_ub, x, y, z), (v_x, v_y, v_z, v_lb, v_ub)
    if _direct(Q, G, A, *[t for t in v if t is not None]):  # the others came from the op
        return QPBackwardResult(*_qp_backward_cpu(*at, *v, want_Q, want_G, want_A))
    v = _filled(v, x, y, z, active_lb, active_ub)
    return QPBackwardResult(*torch.ops.optlayers.qp_backward.default(*at, *v, want_Q, want_G, want_A))


_library = torch.library.Library("optlayers", "FRAGMENT")
_library.define(
    "qp_solve(Tensor Q, Tensor p, Tensor G, Tensor h, Tensor A, Tensor b, Tensor lb, Tensor ub, float eps, "
    "int max_steps) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "qp_kkt(Tensor Q, Tensor G, Tensor A, Tensor active_G, Tensor active_lb, Tensor active_ub, Tensor r_x, "
    "Tensor r_y, Tensor r_z, Tensor r_lb, Tensor r_ub) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


_library.define(
    "qp_backward(Tensor Q, Tensor G, Tensor A, Tensor active_G, Tensor active_lb, Tensor active_ub, Tensor x, "
    "Tensor y, Tensor z, Tensor v_x, Tensor v_y, Tensor v_z, Tensor v_lb, Tensor v_ub, bool want_Q, bool want_G, "
    "bool want_A) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


# Dispatch keys of a CPU tensor with nothing special about it, as a bit set: no subclass, wrapper or pending negation.
_PLAIN_KEYS = _dispatch_keys(torch.empty(0, device="cpu")).raw_repr()


def _direct(*tensors: Tensor) -> bool:
    """Whether the kernel may be called past the dispatcher, whose 15 us outweigh a tiny program.

    So it is for plain tensors on the CPU while nothing is there that has to see the op: no compiler, no functorch
    transform, no dispatch or function mode, no tracer.
    """
    if _C is None or not _unwatched():
        return False
    return all([_dispatch_keys(t).raw_repr() == _PLAIN_KEYS for t in tensors])  # a list: faster than a generator


def _unwatched() -> bool:
    if torch.compiler.is_compiling() or peek_interpreter_stack() is not None:
        return False
    return not (_len_torch_dispatch_stack() or _len_torch_function_stack() or _is_tracing())


# `t.new_empty(*shape)` is the cheapest way to a contiguous tensor: half of torch.empty(shape, dtype=..., device=...).


def _empty_solution(Q, p, G, h, A, b, lb, ub, eps, max_steps) -> tuple[Tensor, ...]:
    batch, n = p.shape
    k, m, lower, upper = b.shape[1], h.shape[1], lb.shape[1], ub.shape[1]
    new = p.new_empty
    floats = new(batch, n), new(batch, k), new(batch, m), new(batch, lower), new(batch, upper), new(batch, m)
    active_G, status = new(batch, m, dtype=torch.bool), new(batch, dtype=torch.int64)
    masks = active_G, active_G.new_empty(batch, lower), active_G.new_empty(batch, upper)
    return *floats, *masks, status, status.new_empty(batch), new(batch, 3)


def _empty_kkt(Q, G, A, active_G, active_lb, active_ub, *r) -> tuple[Tensor, ...]:
    return *(t.new_empty(*t.shape) for t in r), Q.new_empty(r[0].shape[0])


def _empty_backward(Q, G, A, active_G, active_lb, active_ub, x, y, z, *rest) -> tuple[Tensor, ...]:
    want_Q, want_G, want_A = rest[5:]
    batch, n = x.shape
    new = x.new_empty
    u = new(batch, n), new(*y.shape), new(*z.shape), new(*active_lb.shape), new(*active_ub.shape)
    grads = (
        new(batch, n, n) if want_Q else new(batch, 0, 0),
        new(batch, z.shape[1], n) if want_G else new(batch, 0, 0),
        new(batch, y.shape[1], n) if want_A else new(batch, 0, 0),
    )
    return *u, *grads, new(batch)


def _filled(v: Sequence[Tensor | None], x, y, z, active_lb, active_ub) -> list[Tensor]:
    """The cotangents, with zeros in place of None."""
    shapes = [t.shape for t in (x, y, z, active_lb, active_ub)]
    return [x.new_zeros(shape) if t is None else t for t, shape in zip(v, shapes, strict=True)]


def call(kernel: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call the extension's function for this dtype, with the number of threads last."""
    of_dtype(_C, kernel, dtype)(*arguments, torch.get_num_threads())


def chain_workspace(threads: int, n: int) -> Tensor:
    """What the kernel of :func:`~.chain.chain_blocks` works in, for rows of n."""
    return torch.empty(threads * _C.chain_workspace(n), dtype=torch.float64)


def _qp_solve_cpu(Q, p, G, h, A, b, lb, ub, eps: float, max_steps: int) -> tuple[Tensor, ...]:
    outputs = _empty_solution(Q, p, G, h, A, b, lb, ub, eps, max_steps)
    if p.shape[0]:
        sizes = (*p.shape, b.shape[-1], h.shape[-1], lb.shape[-1], ub.shape[-1])
        run("qp_solve", sizes, (Q, p, G, h, A, b, lb, ub), outputs, eps, max_steps)
    return outputs


def _qp_kkt_cpu(Q, G, A, active_G, active_lb, active_ub, *r) -> tuple[Tensor, ...]:
    outputs = _empty_kkt(Q, G, A, active_G, active_lb, active_ub, *r)
    inputs = (Q, G, A, active_G, active_lb, active_ub, *r)
    sizes = (*r[0].shape, *(t.shape[-1] for t in r[1:]))
    if not sizes[0] or run("qp_kkt", sizes, inputs, outputs, reference_kkt.singular_tolerance(Q.dtype)):
        return outputs
    return reference_kkt.redo_singular(outputs, *inputs)


def _qp_backward_cpu(Q, G, A, active_G, active_lb, active_ub, x, y, z, *rest) -> tuple[Tensor, ...]:
    outputs = _empty_backward(Q, G, A, active_G, active_lb, active_ub, x, y, z, *rest)
    v, wants = rest[:5], rest[5:]
    inputs = (Q, G, A, active_G, active_lb, active_ub, *v, x, y, z)
    sizes = (*x.shape, y.shape[1], z.shape[1], active_lb.shape[1], active_ub.shape[1])
    ordered = (*outputs[:5], outputs[8], *outputs[5:8])
    if not sizes[0] or run("qp_backward", sizes, inputs, ordered, reference_kkt.singular_tolerance(Q.dtype)):
        return outputs
    v = _filled(v, x, y, z, active_lb, active_ub)
    u_x, u_y, u_G, u_lb, u_ub, error = reference_kkt.redo_singular(ordered[:6], *inputs[:6], *v)
    return u_x, u_y, u_G, u_lb, u_ub, *reference_kkt.matrix_gradients(x, y, z, u_x, u_y, u_G, *wants), error


CUDA_LARGEST = 1024  # variables up to which a block of threads takes a whole problem


def _has_cuda_kernel(like: Tensor) -> bool:
    return like.shape[-1] <= CUDA_LARGEST and available(like.device)


def _qp_solve_cuda(Q, p, G, h, A, b, lb, ub, eps: float, max_steps: int) -> tuple[Tensor, ...]:
    if not _has_cuda_kernel(p):
        return reference.qp_solve(Q, p, G, h, A, b, lb, ub, eps, max_steps)
    outputs = _empty_solution(Q, p, G, h, A, b, lb, ub, eps, max_steps)
    if p.shape[0]:
        sizes = (*p.shape, b.shape[-1], h.shape[-1], lb.shape[-1], ub.shape[-1])
        launch("qp_solve", sizes, (Q, p, G, h, A, b, lb, ub), outputs, eps, max_steps)
    return outputs


def _qp_kkt_cuda(Q, G, A, active_G, active_lb, active_ub, *r) -> tuple[Tensor, ...]:
    inputs = (Q, G, A, active_G, active_lb, active_ub, *r)
    if not _has_cuda_kernel(r[0]):
        return reference.qp_kkt(*inputs)
    outputs = _empty_kkt(*inputs)
    if r[0].shape[0]:
        sizes = (*r[0].shape, *(t.shape[-1] for t in r[1:]))
        launch("qp_kkt", sizes, inputs, outputs, reference_kkt.singular_tolerance(Q.dtype))
    return outputs


def _qp_backward_cuda(Q, G, A, active_G, active_lb, active_ub, x, y, z, *rest) -> tuple[Tensor, ...]:
    if not _has_cuda_kernel(x):
        return reference.qp_backward(Q, G, A, active_G, active_lb, active_ub, x, y, z, *rest)
    outputs = _empty_backward(Q, G, A, active_G, active_lb, active_ub, x, y, z, *rest)
    if x.shape[0]:
        inputs = (Q, G, A, active_G, active_lb, active_ub, *rest[:5], x, y, z)
        sizes = (*x.shape, y.shape[1], z.shape[1], active_lb.shape[1], active_ub.shape[1])
        ordered = (*outputs[:5], outputs[8], *outputs[5:8])
        launch("qp_backward", sizes, inputs, ordered, reference_kkt.singular_tolerance(Q.dtype))
    return outputs


def _flatten_vmap(op):
    """A vmap rule that makes one batch of the mapped dimension and B, keeping what is shared expanded."""

    def rule(info, in_dims, *args):
        def flatten(arg, dim):
            if not isinstance(arg, Tensor):
                return arg
            if dim is None:
                arg = arg.expand(info.batch_size, *arg.shape)
            else:
                arg = arg.movedim(dim, 0)
            return arg.reshape(arg.shape[0] * arg.shape[1], *arg.shape[2:])

        out = op(*(flatten(arg, dim) for arg, dim in zip(args, in_dims, strict=True)))
        batch = info.batch_size
        return tuple(t.reshape(batch, t.shape[0] // max(batch, 1), *t.shape[1:]) for t in out), (0,) * len(out)

    return rule


for _name, _plain, _cpu, _cuda, _fake in (
    ("qp_solve", reference.qp_solve, _qp_solve_cpu, _qp_solve_cuda, _empty_solution),
    ("qp_kkt", reference.qp_kkt, _qp_kkt_cpu, _qp_kkt_cuda, _empty_kkt),
    ("qp_backward", reference.qp_backward, _qp_backward_cpu, _qp_backward_cuda, _empty_backward),
):
    _library.impl(_name, _plain, "CompositeExplicitAutograd")
    _library.impl(_name, _cuda, "CUDA")
    if _C is not None:
        _library.impl(_name, _cpu, "CPU")
    torch.library.register_fake(f"optlayers::{_name}", _fake, lib=_library)
    torch.library.register_vmap(
        f"optlayers::{_name}", _flatten_vmap(getattr(torch.ops.optlayers, _name).default), lib=_library
    )
