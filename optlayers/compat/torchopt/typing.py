"""TorchOpt's names of types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.futures import Future

from .base import ChainedGradientTransformation, EmptyState, GradientTransformation, UninitializedState

__all__ = [
    "ChainedGradientTransformation", "Device", "Distribution", "EmptyState", "Future", "GradientTransformation",
    "LinearSolver", "ListOfOptionalTensors", "ListOfTensors", "ModuleTensorContainers", "Numeric", "OptState",
    "OptionalTensor", "OptionalTensorOrOptionalTensors", "OptionalTensorTree", "Params", "PyTree", "Samplable",
    "SampleFunc", "Scalar", "ScalarOrSchedule", "Schedule", "SequenceOfOptionalTensors", "SequenceOfTensors", "Size",
    "Tensor", "TensorContainer", "TensorOrTensors", "TensorTree", "TupleOfOptionalTensors", "TupleOfTensors",
    "UninitializedState", "Updates",
]  # fmt: skip

Device = torch.device | str | int
Size = torch.Size
Scalar = float | int | bool
Numeric = Tensor | Scalar
Schedule = Callable[[Numeric], Numeric]
ScalarOrSchedule = float | Schedule

OptionalTensor = Tensor | None
ListOfTensors = list[Tensor]
TupleOfTensors = tuple[Tensor, ...]
SequenceOfTensors = Sequence[Tensor]
TensorOrTensors = Tensor | SequenceOfTensors
ListOfOptionalTensors = list[OptionalTensor]
TupleOfOptionalTensors = tuple[OptionalTensor, ...]
SequenceOfOptionalTensors = Sequence[OptionalTensor]
OptionalTensorOrOptionalTensors = OptionalTensor | SequenceOfOptionalTensors
TensorContainer = dict[str, OptionalTensor]
ModuleTensorContainers = tuple[TensorContainer, ...]

# Nestings of any depth, which the type system has no name for.
PyTree = TensorTree = OptionalTensorTree = Params = Updates = OptState = Any

LinearSolver = Callable[[Callable[[Any], Any], Any], Any]
SampleFunc = Callable[[Size], Tensor | Sequence[Numeric]]


@runtime_checkable
class Samplable(Protocol):
    """What draws samples of a given shape."""

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Any:
        """Values of this shape."""
        ...
