"""Rung 2: the parallel prefix scan, as ``mambaviz.theory.scan`` has it.

    (a_t, b_t) = (exp(delta_t A), delta_t B_t x_t)
    h_t = second part of (a_1, b_1) then ... then (a_t, b_t)

The loop over time becomes about 2 log2(length) levels, each of which could
happen at once. In PyTorch it writes every level to memory, in tensors of
(batch, length, d_inner, d_state): it is here to be understood, and shows by
its time that fewer steps alone do not make a scan fast.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Inexact
from torch import Tensor

from mambaviz.ops.selective_scan.reference import (
    Weights,
    accumulation_dtype,
    discrete_step,
    readout,
    with_groups,
)
from mambaviz.theory.scan import Pairs, blelloch_scan, combine


def selective_scan_associative(
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
    prefix_scan: Callable[..., Pairs] = blelloch_scan,
) -> tuple[
    Float[Tensor, "batch length d_inner"],
    Inexact[Tensor, "batch d_inner d_state"],
]:
    """All steps at once; the gradient is autograd's, of any order.

    Arguments as in ``selective_scan_reference``, and

        prefix_scan: a scan of ``mambaviz.theory.scan``.

    Returns:
        y in the dtype of x, and the last state in the accumulation dtype.
    """
    dtype = accumulation_dtype(x, delta, A)
    state_dtype = dtype.to_complex() if A.is_complex() else dtype
    step = discrete_step(delta, delta_bias, delta_softplus, dtype)
    A, B, C = (t.to(state_dtype) for t in (A, B, C))
    B, C = (_for_each_channel(w, x) for w in (B, C))

    A_bar = torch.exp(step[..., None] * A)  # batch length d_inner d_state
    if reset is not None:
        A_bar = torch.where(reset[..., None, None], 0, A_bar)
    inputs = (step * x)[..., None] * B  # batch length d_inner d_state
    first = A_bar[:, 0], inputs[:, 0]
    if initial_state is None:
        h_0 = torch.zeros_like(inputs[:, 0])
    else:
        h_0 = initial_state.to(state_dtype)
    _, seen = _combine_unless_reset((torch.ones_like(h_0), h_0), first)
    inputs = torch.cat([seen[:, None], inputs[:, 1:]], 1)
    operator = combine if reset is None else _combine_unless_reset
    _, h = prefix_scan(A_bar, inputs, dim=1, operator=operator)

    y = readout(h, C)
    if D is not None:
        y = y + D.to(dtype) * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(x.dtype), h[:, -1]


def _for_each_channel(weights: Tensor, x: Tensor) -> Tensor:
    """B or C, in a shape that broadcasts with all states."""
    if weights.ndim == 2:
        return weights  # d_inner d_state
    weights = with_groups(weights)
    return weights.repeat_interleave(x.shape[2] // weights.shape[2], 2)


def _combine_unless_reset(earlier: Pairs, later: Pairs) -> Pairs:
    """``combine``, where a later a of 0 lets not even an infinity through."""
    (a_1, b_1), (a_2, _) = earlier, later
    return combine((a_1, torch.where(a_2 == 0, 0, b_1)), later)
