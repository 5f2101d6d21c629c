"""TorchOpt's question whether fast kernels are there."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..._native import available

__all__ = ["is_available"]

Device = torch.device | str | int


def is_available(devices: Device | Iterable[Device] | None = None) -> bool:
    """Whether the fused kernels of the optimizers run on the devices; they are used wherever they do.

    Args:
        devices: one, or several; None asks for CPU and CUDA.
    """
    if devices is None:
        devices = ["cuda", "cpu"]
    elif isinstance(devices, (torch.device, str, int)):
        devices = [devices]
    return all(available(torch.device("cuda", d) if isinstance(d, int) else d) for d in devices)
