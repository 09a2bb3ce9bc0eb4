"""Rung 1: the loop over time. The definition, and the judge of the others.

    delta := softplus(delta + delta_bias)
    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t
    y_t = (C_t . h_t + D x_t) silu(z_t)

It imports no other rung. What it costs per step, batch and channel: d_state
exponentials and, written out as one operation after the other, about ten
reads and writes of the whole state. The other rungs differ in nothing else.
"""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Inexact
from torch import Tensor

# B and C: one for each step, or one for all steps.
Weights = (
    Inexact[Tensor, "batch length d_state"]
    | Inexact[Tensor, "batch length _groups d_state"]
    | Inexact[Tensor, "d_inner d_state"]
)

# From here on log(1 + e^x) is x to the last bit, in float64 too. The default
# of softplus, 20, would cost float64 six digits.
SOFTPLUS_THRESHOLD = 40


def selective_scan_reference(
    x: Float[Tensor, "batch length d_inner"],
    delta: Float[Tensor, "batch length d_inner"],
    A: Inexact[Tensor, "d_inner d_state"],
    B: Weights,
    C: Weights,
    D: Float[Tensor, " d_inner"] | None = None,
    z: Float[Tensor, "batch length d_inner"] | None = None,
    delta_bias: Float[Tensor, " d_inner"] | None = None,
    initial_state: Inexact[Tensor, "batch d_inner d_state"] | None = None,
    reset: Bool[Tensor, "batch length"] | None = None,
    delta_softplus: bool = False,
) -> tuple[
    Float[Tensor, "batch length d_inner"],
    Inexact[Tensor, "batch d_inner d_state"],
]:
    """One step after the other; the gradient is autograd's, of any order.

    Arguments as at the door, ``mambaviz.ops.selective_scan``.

    Returns:
        y in the dtype of x, and the last state in the accumulation dtype.
    """
    batch, length, d_inner = x.shape
    dtype = accumulation_dtype(x, delta, A)
    state_dtype = dtype.to_complex() if A.is_complex() else dtype
    step = discrete_step(delta, delta_bias, delta_softplus, dtype)
    A = A.to(state_dtype)
    if initial_state is None:
        h = A.new_zeros(batch, *A.shape)
    else:
        h = initial_state.to(state_dtype)

    # unbind, since the gradient of x[:, t] is as large as x: indexing would
    # make the backward pass quadratic in the length.
    ys = []
    for x_t, delta_t, B_t, C_t, starts in zip(
        x.to(dtype).unbind(1),
        step.unbind(1),
        _per_step(B, x, dtype),
        _per_step(C, x, dtype),
        [None] * length if reset is None else reset.unbind(1),
        strict=True,
    ):
        if starts is not None:
            h = torch.where(starts[:, None, None], 0, h)
        A_bar = torch.exp(delta_t[..., None] * A)
        h = A_bar * h + (delta_t * x_t)[..., None] * B_t
        ys.append(readout(h, C_t))
    y = torch.stack(ys, 1)
    if D is not None:
        y = y + D.to(dtype) * x.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(x.dtype), h


def accumulation_dtype(x: Tensor, delta: Tensor, A: Tensor) -> torch.dtype:
    """What the scan computes in: float64 if one of these is, else float32."""
    wide = torch.float64, torch.complex128
    double = any(t.dtype in wide for t in (x, delta, A))
    return torch.float64 if double else torch.float32


def discrete_step(
    delta: Float[Tensor, "*shape d_inner"],
    delta_bias: Float[Tensor, " d_inner"] | None,
    delta_softplus: bool,
    dtype: torch.dtype,
) -> Float[Tensor, "*shape d_inner"]:
    """delta, with its bias and softplus where they are asked for."""
    delta = delta.to(dtype)
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta, threshold=SOFTPLUS_THRESHOLD)
    return delta


def _per_step(
    weights: Tensor, x: Tensor, dtype: torch.dtype
) -> Iterator[Tensor]:
    """B or C at each step, in a shape that broadcasts with the state."""
    weights = weights.to(dtype.to_complex() if weights.is_complex() else dtype)
    weights = with_groups(weights)
    _, length, d_inner = x.shape
    if weights.ndim == 2:
        return itertools.repeat(weights, length)
    width = d_inner // weights.shape[2]
    return (
        # a view if there is one group: batch d_inner d_state
        w[:, :, None].expand(-1, -1, width, -1).flatten(1, 2)
        for w in weights.unbind(1)
    )


def with_groups(weights: Tensor) -> Tensor:
    """B or C with its axis of groups; a fixed one has none."""
    return weights.unsqueeze(2) if weights.ndim == 3 else weights


def readout(h: Tensor, C: Tensor) -> Tensor:
    """C . h; twice its real part if h stands for its conjugate too."""
    y = (C * h).sum(-1)
    return 2 * y.real if y.is_complex() else y
