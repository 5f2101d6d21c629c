"""TorchOpt's distribution of work, as far as it is that of :mod:`torch.distributed`: ranks, and what runs on which.

Remote calls are not here: processes started by ``torchrun`` that average gradients (DistributedDataParallel) replace
them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "TensorDimensionPartitioner", "auto_init_rpc", "barrier", "batch_partitioner", "dim_partitioner", "get_local_rank",
    "get_local_world_size", "get_rank", "get_world_info", "get_world_rank", "get_world_size", "is_available",
    "mean_reducer", "not_on_rank", "on_rank", "parallelize", "parallelize_async", "parallelize_sync",
    "rank_non_zero_only", "rank_zero_only", "remote_async_call", "remote_sync_call", "sum_reducer",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])


class WorldInfo(NamedTuple):
    """This process among all, as ``torchrun`` says in the environment."""

    world_rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self.world_rank


def is_available() -> bool:
    """Whether torch was built with :mod:`torch.distributed`."""
    return dist.is_available()


def get_world_info() -> WorldInfo:
    """Ranks and sizes; one process if nothing is said."""
    names = [("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)]
    return WorldInfo(*[int(os.environ.get(name, default)) for name, default in names])


def get_world_rank() -> int:
    """The number of this process among all."""
    return get_world_info().world_rank


get_rank = get_world_rank


def get_world_size() -> int:
    """How many processes there are."""
    return get_world_info().world_size


def get_local_rank() -> int:
    """The number of this process on its machine."""
    return get_world_info().local_rank


def get_local_world_size() -> int:
    """How many processes there are on this machine."""
    return get_world_info().local_world_size


def barrier(worker_names: Iterable[str] | None = None) -> None:
    """Wait for all processes of the default group, if there is one.

    Raises:
        NotImplementedError: `worker_names`: workers have no names without remote calls.
    """
    if worker_names is not None:
        raise _refusal("barrier(worker_names)")
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def on_rank(*ranks: int) -> Callable[[F], F]:
    """Decorate a function to run on these ranks only; elsewhere it returns None."""
    return lambda fn: _on(fn, lambda rank: rank in ranks)


def not_on_rank(*ranks: int) -> Callable[[F], F]:
    """Decorate a function to run on all ranks but these."""
    return lambda fn: _on(fn, lambda rank: rank not in ranks)


def rank_zero_only(func: F) -> F:
    """Decorate a function to run on rank 0 only."""
    return on_rank(0)(func)


def rank_non_zero_only(func: F) -> F:
    """Decorate a function to run on all ranks but 0."""
    return not_on_rank(0)(func)


def _on(fn: Callable[..., Any], wanted: Callable[[int], bool]) -> Any:
    @functools.wraps(fn)
    def maybe(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs) if wanted(get_world_rank()) else None

    return maybe


def mean_reducer(results: Iterable[Tensor]) -> Tensor:
    """The mean of tensors of one shape."""
    return torch.stack(list(results)).mean(0)


def sum_reducer(results: Iterable[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(list(results)).sum(0)


def _refusal(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"torchopt.distributed.{name}: remote calls are not part of optlayers. Start processes with torchrun and "
        "average gradients with torch.nn.parallel.DistributedDataParallel or torch.distributed.all_reduce."
    )


def _refused(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise _refusal(name)

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = "Raises NotImplementedError: remote calls are not part of optlayers."
    return refuse


TensorDimensionPartitioner = _refused("TensorDimensionPartitioner")
dim_partitioner = _refused("dim_partitioner")
batch_partitioner = _refused("batch_partitioner")
remote_async_call = _refused("remote_async_call")
remote_sync_call = _refused("remote_sync_call")
parallelize = _refused("parallelize")
parallelize_async = _refused("parallelize_async")
parallelize_sync = _refused("parallelize_sync")
auto_init_rpc = _refused("auto_init_rpc")
get_worker_id = _refused("get_worker_id")
