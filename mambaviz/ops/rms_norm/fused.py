"""The norm for a GPU: a token in, a token out, in Triton."""

import torch
from torch import Tensor

from mambaviz.ops.launch import next_power_of_2, on_device
from mambaviz.ops.rms_norm import kernels

LANES = 32
# Features of a thread, so that a token is read by few of them at once.
EACH = 16
MAX_WARPS = 16


def normalise(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The norm without a gradient, in the dtype of the weight."""
    d_model = weight.shape[0]
    rows = x.reshape(-1, d_model)  # a copy only if rows have no one stride
    y = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
    width = next_power_of_2(d_model)
    warps = max(1, min(MAX_WARPS, width // (EACH * LANES)))
    with on_device(x.device):
        kernels.normalise[(rows.shape[0],)](
            rows,
            weight,
            y,
            *rows.stride(),
            *weight.stride(),
            d_model,
            eps,
            WIDTH=width,
            num_warps=warps,
        )
    return y
