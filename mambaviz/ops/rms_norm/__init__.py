"""The norm before each layer: a token scaled to root mean square 1.

    y = weight x / sqrt(mean(x^2) + eps)

The residual stream is in float32 and a layer may be in less. So the norm
reads one precision and writes another, which PyTorch does in three kernels;
on a GPU with Triton, where no gradient is asked for, it is one.

Source: Zhang and Sennrich 2019 (arXiv 1910.07467), eq. 4.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambaviz.ops.register import FLOATS, load, unseen

__all__ = ["rms_norm"]

MAX_FUSED = 2**14  # features that the kernel takes


def rms_norm(
    x: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, " d_model"],
    eps: float = 1e-5,
) -> Float[Tensor, "*batch d_model"]:
    """The normalised x, computed in float32 or more.

    Args:
        x: features of tokens, in any precision.
        weight: one for each feature.
        eps: keeps a token of zeros finite.

    Returns:
        y in the dtype of the weight.

    Raises:
        ValueError: shapes or devices that do not fit.

    Example:
        >>> rms_norm(torch.tensor([3.0, 4.0]), torch.ones(2), eps=0.0)
        tensor([0.8485, 1.1314])
    """
    if weight.ndim != 1:
        raise ValueError(
            f"weight must have shape (d_model,); got {tuple(weight.shape)}"
        )
    if x.shape[-1:] != weight.shape:
        raise ValueError(
            f"x must have shape (..., {weight.shape[0]}); got {tuple(x.shape)}"
        )
    if x.device != weight.device:
        raise ValueError(
            f"x must be on the device of the weight, {weight.device}; "
            f"got {x.device}"
        )
    if unseen((x, weight)) and _fits_kernel(x, weight):
        return _loaded["normalise"](x, weight, eps)
    dtype = torch.promote_types(x.dtype, weight.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    y = F.rms_norm(x.to(dtype), weight.shape, weight.to(dtype), eps)
    return y.to(weight.dtype)


def _fits_kernel(x: Tensor, weight: Tensor) -> bool:
    """Whether the Triton kernel is there and can do this case."""
    return (
        x.is_cuda
        and x.numel() > 0
        and weight.shape[0] <= MAX_FUSED
        and x.dtype in FLOATS
        and weight.dtype in FLOATS
        and load(_loaded, __name__, "normalise")
    )


_loaded: dict[str, Callable | None] = {}
