r"""The one gradient rule: the implicit function theorem for a root ``x(theta)`` of ``F(x, theta) = 0``.

With ``A = dF/dx`` and ``B = dF/dtheta`` at the solution (IFT-2),

    forward mode   A dx = -B dtheta          reverse mode   A' u = v,   theta_bar = -B' u.

Both linear systems are roots again, of ``A u - v``, so their derivatives come from this same rule: that is what makes
double backward, and any higher order, exact (IFT-4).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vjp

from .._base.forward_mode import forbid_nested_forward
from .tracking import may_be_differentiated, paused, recording, transformed

Product = Callable[[Sequence[Tensor]], list[Tensor]]


class Rule(ABC):
    """What the gradient rule must know of a root problem; trees are flat lists of tensors here.

    Attributes:
        differentiable: for each argument, whether a gradient may flow to it.
    """

    differentiable: Sequence[bool]

    @abstractmethod
    def residual(self, x: list[Tensor], args: list[Tensor]) -> list[Tensor]:
        """``F(x, args)``, shaped like `x`, in differentiable torch operations."""

    @abstractmethod
    def solve_linear(self, x: list[Tensor], args: list[Tensor], rhs: list[Tensor], transpose: bool) -> list[Tensor]:
        """Solve ``A u = rhs``, or ``A' u = rhs``, where ``A = dF/dx`` at ``(x, args)``. Primal only."""

    def vjp(
        self, x: list[Tensor], args: list[Tensor], cotangent: Sequence[Tensor | None], needed: Sequence[bool]
    ) -> list[Tensor | None] | None:
        """A faster first-order ``theta_bar`` where the problem has one; None takes the generic path.

        None in place of a cotangent is zero.
        """
        return None


class Adjoint(Rule):
    """The linear system ``A u = rhs`` (or with ``A'``) of another rule, as a root problem in ``u``."""

    def __init__(self, base: Rule, num_x: int, transpose: bool):
        self.base = base
        self.num_x = num_x
        self.transpose = transpose
        self.differentiable = [True] * num_x + list(base.differentiable) + [True] * num_x

    def _split(self, args: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        return args[: self.num_x], args[self.num_x : -self.num_x], args[-self.num_x :]

    def solve(self, args: list[Tensor]) -> list[Tensor]:
        x, base_args, rhs = self._split(args)
        return self.base.solve_linear(x, base_args, rhs, self.transpose)

    def residual(self, x, args):
        at, base_args, rhs = self._split(args)
        product = pull_back if self.transpose else push_forward
        image = product(lambda *x: self.base.residual(list(x), base_args), at, x)
        return [a - b for a, b in zip(image, rhs, strict=True)]

    def solve_linear(self, x, args, rhs, transpose):
        at, base_args, _ = self._split(args)
        return self.base.solve_linear(at, base_args, rhs, self.transpose ^ transpose)


def pull_back(fn, at: Sequence[Tensor], cotangent: Sequence[Tensor]) -> list[Tensor]:
    """``J' cotangent`` for the Jacobian of `fn` at `at`."""
    return pulling(fn, at)[1](cotangent)


def push_forward(fn, at: Sequence[Tensor], tangent: Sequence[Tensor]) -> list[Tensor]:
    """``J tangent`` by two pull-backs: forward mode does not nest inside ``Function.jvp``."""
    return pushing(*pulling(fn, at))(tangent)


def pulling(fn, at: Sequence[Tensor]) -> tuple[Sequence[Tensor], Product]:
    """The values of `fn` at `at`, and ``cotangent -> J' cotangent``, which does not evaluate `fn` again."""
    values, pull = vjp(_fresh(fn), *at)[:2]
    return values, lambda cotangent: list(pull(list(cotangent)))


def pushing(values: Sequence[Tensor], pull: Product) -> Product:
    """``tangent -> J tangent``, from what :func:`pulling` gives; evaluates neither the function nor `pull` again."""
    zeros = [torch.zeros_like(value) for value in values]
    push = vjp(lambda *cotangent: pull(cotangent), *zeros)[1]
    return lambda tangent: list(push(list(tangent)))


def _fresh(fn):
    """`fn` with new tensors as results: vjp cannot return a constant that an earlier transform has wrapped."""
    return lambda *values: [value.view_as(value) for value in fn(*values)]


def solve_adjoint(rule: Rule, x: list[Tensor], args: list[Tensor], rhs: list[Tensor], transpose: bool) -> list[Tensor]:
    """Solve ``A u = rhs`` or ``A' u = rhs``, differentiably in all of `x`, `args` and `rhs`."""
    system = Adjoint(rule, len(x), transpose)
    inputs = [*x, *args, *rhs]
    return attach(system, untracked(system.solve, inputs), inputs)


def reverse(
    rule: Rule, x: list[Tensor], args: list[Tensor], cotangent: list[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    """``theta_bar = -B' A'^-1 cotangent`` for the arguments that need it; `x` is attached to `args`."""
    grads: list[Tensor | None] = [None] * len(args)
    where = [index for index, need in enumerate(needed) if need]
    if where:
        u = solve_adjoint(rule, x, args, cotangent, transpose=True)
        residual = _residual_of(rule, x, args, where)
        for index, grad in zip(where, pull_back(residual, [args[i] for i in where], u), strict=True):
            grads[index] = -grad
    return grads


def forward(rule: Rule, x: list[Tensor], args: list[Tensor], tangents: Sequence[Tensor | None]) -> list[Tensor]:
    """``dx = -A^-1 B dtheta``; `x` is attached to `args`, None is a tangent of zero."""
    moving = {
        i: t for i, (t, may) in enumerate(zip(tangents, rule.differentiable, strict=True)) if may and t is not None
    }
    if not moving:
        return [torch.zeros_like(value) for value in x]
    residual = _residual_of(rule, x, args, list(moving))
    change = push_forward(residual, [args[i] for i in moving], list(moving.values()))
    return solve_adjoint(rule, x, args, [-c for c in change], transpose=False)


def _residual_of(rule: Rule, x: list[Tensor], args: list[Tensor], where: list[int]):
    """The residual as a function of the arguments at the indices `where` only."""

    def residual(*some: Tensor) -> list[Tensor]:
        full = list(args)
        for index, value in zip(where, some, strict=True):
            full[index] = value
        return rule.residual(x, full)

    return residual


class _Untracked(torch.autograd.Function):
    """Runs a function of tensors below all active transforms, so that none of them records it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(fn, *tensors: Tensor):
        return tuple(value.clone() for value in fn(list(tensors)))  # an output must not be a view of an input

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.num_inputs = len(inputs)
        ctx.save_for_forward(*output)
        ctx.save_for_backward(*output)  # unused there; the generated vmap rule wants both lists alike

    @staticmethod
    def backward(ctx, *cotangents):
        return (None,) * ctx.num_inputs

    @staticmethod
    def jvp(ctx, *tangents):
        return tuple(torch.zeros_like(value) for value in ctx.saved_tensors)


def untracked(fn: Callable[[list[Tensor]], Sequence[Tensor]], tensors: Sequence[Tensor]) -> list[Tensor]:
    """``fn(tensors)`` as constants: no derivative flows through, in any mode, at any level."""
    if not recording() or torch.compiler.is_compiling():
        with torch.no_grad():
            return list(fn(list(tensors)))
    return list(_Untracked.apply(fn, *tensors))


class _ReverseRoot(torch.autograd.Function):
    """Gives the values ``x`` of a root their derivative with respect to the arguments of its residual.

    `x` is a list of tensors that nobody else holds and no transform has to see, or how many of `tensors` it takes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rule: Rule, x: list[Tensor] | int, *tensors: Tensor):
        return tuple([value.clone() for value in tensors[:x]] if isinstance(x, int) else x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        rule, x, *tensors = inputs
        ctx.rule, ctx.num_x, ctx.skipped = rule, len(output), x if isinstance(x, int) else 0
        # The outputs, not the inputs: they are attached to the graph, so that backward can be differentiated again.
        ctx.save_for_backward(*output, *tensors[ctx.skipped :])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *cotangents):
        rule, num_x, skipped = ctx.rule, ctx.num_x, ctx.skipped
        saved = list(ctx.saved_tensors)
        x, args = saved[:num_x], saved[num_x:]
        needed = [
            need and may for need, may in zip(ctx.needs_input_grad[2 + skipped :], rule.differentiable, strict=True)
        ]
        grads = None if recording() else rule.vjp(x, args, cotangents, needed)
        if grads is None:
            v = [torch.zeros_like(a) if b is None else b for a, b in zip(x, cotangents, strict=True)]
            grads = reverse(rule, x, args, v, needed)
        return None, None, *[None] * skipped, *grads


class _Root(_ReverseRoot):
    """The same with forward mode, which torch.compile cannot trace through."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output):
        _ReverseRoot.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*output, *inputs[2 + ctx.skipped :])

    @staticmethod
    def jvp(ctx, _rule, _x, *tangents):
        forbid_nested_forward("optlayers")
        x, args = list(ctx.saved_tensors[: ctx.num_x]), list(ctx.saved_tensors[ctx.num_x :])
        return tuple(forward(ctx.rule, x, args, tangents[ctx.skipped :]))


# torch inspects the signature of forward at every call; kept here it costs nothing.
_ReverseRoot.forward.__signature__ = inspect.signature(_ReverseRoot.forward)  # pyright: ignore[reportFunctionMemberAccess]
# What Function.apply comes down to where there is no transform to prepare for: a fifth of its overhead.
_apply_plainly = super(torch.autograd.Function, _Root).apply  # pyright: ignore[reportAttributeAccessIssue]


def attach(rule: Rule, x: Sequence[Tensor], args: Sequence[Tensor], fresh: bool = False) -> list[Tensor]:
    """Return the root `x`, whose own history is dropped, with its derivatives with respect to `args`, at any order.

    `fresh` values were made for the purpose: nobody else holds them, and they need no copy.
    """
    if not recording():
        return list(x)
    if torch.compiler.is_compiling():
        return list(_ReverseRoot.apply(rule, len(x), *x, *args))
    if transformed():
        return list(_Root.apply(rule, len(x), *x, *args))
    if not may_be_differentiated(args):
        return list(x)
    if not fresh:
        with paused():
            x = [value.clone() for value in x]
    return list(_apply_plainly(rule, list(x), *args))
