"""Classes generated from an alias: its options become those of the constructor, in the signature too."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def class_signature(first: str, alias: Callable[..., Any], *keywords: inspect.Parameter) -> inspect.Signature:
    """``(first, *options of the alias, *, keywords)``, what :func:`help` shows."""
    head = inspect.Parameter(first, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    options = [option.replace(annotation=inspect.Parameter.empty) for option in _options(alias).parameters.values()]
    return inspect.Signature([head, *options, *keywords])


def bind(owner: str, alias: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """All options of the alias by name, defaults included.

    Raises:
        TypeError: an option that the alias does not have, naming `owner`.
    """
    try:
        bound = _options(alias).bind(*args, **options)
    except TypeError as error:
        raise TypeError(f"{owner}: {error}; expected {_options(alias)}.") from None
    bound.apply_defaults()
    return dict(bound.arguments)


def _options(alias: Callable[..., Any]) -> inspect.Signature:
    """Its parameters but `mask`, whose place is taken by parameter groups."""
    signature = inspect.signature(alias)
    kept = [option for name, option in signature.parameters.items() if name != "mask"]
    return inspect.Signature(kept)
