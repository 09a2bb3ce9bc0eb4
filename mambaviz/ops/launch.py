"""What every launch of a kernel needs: its device, and rows to walk along."""

import contextlib

import torch
import triton
from torch import Tensor

# Which compiles the kernels as they stand; PyTorch 2.9 is the first with it.
OLDEST_TRITON = 3, 5

if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST_TRITON:
    raise ImportError(
        f"Triton {'.'.join(map(str, OLDEST_TRITON))} or newer is needed; "
        f"got {triton.__version__}"
    )


def on_device(device: torch.device) -> contextlib.AbstractContextManager:
    """Kernels start on the current device: make it the tensors' own."""
    if device.type == "cuda":
        return torch.cuda.device(device)
    return contextlib.nullcontext()


def contiguous_channels(x: Tensor) -> Tensor:
    """x (batch, length, d_inner) with its channels side by side in memory.

    The kernels take strides of batch and length and read neighbouring
    channels at once; only a layout with another last axis is copied.
    """
    return x if x.stride(2) == 1 else x.contiguous()


def next_power_of_2(n: int) -> int:
    """The least power of two from n on; Triton's own takes 5 us to say it."""
    return 1 << (n - 1).bit_length()
