"""What every launch of a kernel needs: its device, and rows to walk along."""

import contextlib
from collections.abc import Iterator

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


# What a grid has room for along its second and third axis.
MOST = 2**16 - 1


def by_sequences(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors, or where the first axis is longer than MOST, their parts.

    For kernels with one sequence for each place along such an axis.
    """
    batch = tensors[0].shape[0]
    if batch <= MOST:
        yield tensors
        return
    for first in range(0, batch, MOST):
        yield tuple(t[first : first + MOST] for t in tensors)


def contiguous_channels(x: Tensor) -> Tensor:
    """x (batch, length, d_inner) with its channels side by side in memory.

    The kernels take strides of batch and length and read neighbouring
    channels at once; only a layout with another last axis is copied.
    """
    return x if x.stride(2) == 1 else x.contiguous()


def next_power_of_2(n: int) -> int:
    """The least power of two from n on; Triton's own takes 5 us to say it."""
    return 1 << (n - 1).bit_length()
