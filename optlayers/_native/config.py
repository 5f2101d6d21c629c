"""What is installed here: versions, devices, and which kernels run on them."""

from __future__ import annotations

import platform

import torch

from . import _C, cuda, why_not


def show_config() -> str:
    """Describe this installation in a few lines: versions, devices, native kernels, and why there are none.

    What to send along with a bug report. Without native kernels everything runs all the same, in plain torch.

    Returns:
        The text, to be printed.
    """
    lines = [
        f"optlayers {'without its extension' if _C is None else _C.version()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"cpu: {_kernels('cpu', '' if _C is None else f' for {_C.isa()}, {torch.get_num_threads()} threads')}",
    ]
    module, reason = cuda()
    if module is None:
        lines.append(f"cuda: no native kernels: {reason}")
    else:
        runtime, driver = (f"{v // 1000}.{v % 1000 // 10}" for v in module.versions())
        count = module.device_count()
        lines.append(f"cuda: runtime {runtime}, driver for {driver}, {count or 'no'} device{'s' if count != 1 else ''}")
        for index in range(count):
            name, major, minor, multiprocessors, _, _ = module.describe(index)
            what = f"{name}, sm_{major}{minor}, {multiprocessors} multiprocessors"
            lines.append(f"cuda:{index}: {what}: {_kernels(f'cuda:{index}', '')}")
    if torch.version.cuda is None:
        lines.append("torch was built without CUDA")
    return "\n".join(lines)


def _kernels(device: str, what: str) -> str:
    reason = why_not(device)
    return f"native kernels{what}" if reason is None else f"no native kernels: {reason}"
