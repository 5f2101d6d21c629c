"""TorchOpt's question whether fast kernels are there."""

from __future__ import annotations

from collections.abc import Iterable

import torch

__all__ = ["is_available"]

Device = torch.device | str | int


def is_available(devices: Device | Iterable[Device] | None = None) -> bool:
    """Whether torch's fused Adam, which the optimizers here use, runs on the devices: CPU, and CUDA where there is one.

    Args:
        devices: one, or several; None asks for CPU and CUDA.
    """
    if devices is None:
        devices = ["cuda", "cpu"]
    elif isinstance(devices, (torch.device, str, int)):
        devices = [devices]
    kinds = [torch.device("cuda", d).type if isinstance(d, int) else torch.device(d).type for d in devices]
    return all(kind == "cpu" or (kind == "cuda" and torch.cuda.is_available()) for kind in kinds)
