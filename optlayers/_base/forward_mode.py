"""Refuses forward mode over forward mode, of which torch loses a part."""

from __future__ import annotations

from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters


def forbid_nested_forward(name: str) -> None:
    """Raise if two forward-mode transforms are active.

    torch disables forward mode inside ``Function.jvp``, so that a jvp of a jvp loses its mixed terms without a word.
    """
    levels = [level for level in retrieve_all_functorch_interpreters() if level.key() == TransformType.Jvp]
    if len(levels) > 1:
        raise RuntimeError(
            f"{name}: forward mode over forward mode (jacfwd of jacfwd, jvp of jvp) is not supported by "
            f"torch.autograd.Function and would be wrong. Use reverse mode for one of the two: "
            f"torch.func.hessian, jacfwd(jacrev(f)), jacrev(jacfwd(f)) and jacrev(jacrev(f)) are all exact."
        )
