"""How the extensions are called: addresses, strides, workspace, threads or stream; everything is checked by now."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _C, cuda


def _packed(t: Tensor) -> Tensor:
    """`t`, not contiguous, with contiguous inner dimensions; an expanded batch dimension stays expanded."""
    if t[0].is_contiguous():
        return t
    return t[:1].contiguous().expand(t.shape) if t.stride(0) == 0 else t.contiguous()


def _arrays(sizes: tuple[int, ...], inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]):
    """What the extension is to be given, and the tensors to hold as long as it works: addresses, and strides of inputs.

    An input that is None is zero.
    """
    like, zeros = outputs[0], None
    held = [t if t is None or t.is_contiguous() else _packed(t) for t in inputs]
    arrays = []
    for t in held:
        if t is None:
            zeros = like.new_zeros(max(sizes[1:])) if zeros is None else zeros
            arrays += (zeros.data_ptr(), 0)
        else:
            arrays += (t.data_ptr(), t.stride()[0])
    arrays += [t.data_ptr() for t in outputs]
    return tuple(arrays), (*held, zeros)


def of_dtype(module, function: str, dtype: torch.dtype):
    return getattr(module, function + ("_float32" if dtype == torch.float32 else "_float64"))


def run(kernel: str, sizes: tuple[int, ...], inputs: Sequence[Tensor | None], outputs: Sequence[Tensor], *settings):
    """Call the extension on the CPU."""
    arrays, _held = _arrays(sizes, inputs, outputs)
    threads = torch.get_num_threads()
    workspace = torch.empty(min(threads, sizes[0]) * _C.qp_workspace(sizes), dtype=torch.float64)
    return of_dtype(_C, kernel, outputs[0].dtype)(sizes, arrays, *settings, workspace.data_ptr(), threads)


def launch(kernel: str, sizes: tuple[int, ...], inputs: Sequence[Tensor | None], outputs: Sequence[Tensor], *settings):
    """Put the kernel of a CUDA device on torch's current stream.

    Nothing waits: memory that torch takes back now goes to work that comes later on the same stream.
    """
    module, _ = cuda()
    device, dtype = outputs[0].device, outputs[0].dtype
    index = device.index or 0
    arrays, _held = _arrays(sizes, inputs, outputs)
    doubles = of_dtype(module, "qp_workspace", dtype)(sizes, index)
    workspace = torch.empty(doubles, dtype=torch.float64, device=device)
    stream = torch.cuda.current_stream(device).cuda_stream
    of_dtype(module, kernel, dtype)(sizes, arrays, *settings, workspace.data_ptr(), index, stream)
