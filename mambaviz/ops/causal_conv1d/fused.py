"""The causal convolution for a GPU: one pass over memory, in Triton.

``kernels.py`` says what the kernels do. The gradients of weight and bias are
added up from one partial sum a program, always in the same order.
"""

import torch
from torch import Tensor

from mambaviz.ops.causal_conv1d import kernels
from mambaviz.ops.launch import (
    by_sequences,
    contiguous_channels,
    next_power_of_2,
    on_device,
)
from mambaviz.ops.register import register_operator

TILE = 16  # steps that a program holds in registers
CHANNELS = 64  # of a program: two for each thread
STEP_CHANNELS = 128  # of a program that does a single step
# A program goes through so many tiles backwards, so that the partial sums are
# small beside x; but through one only of a sequence with fewer elements.
TILES = 4
TILES_FROM = 2**22


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    silu: bool,
) -> Tensor:
    _, length, d_inner = x.shape
    x = contiguous_channels(x)
    y = x.new_empty(x.shape)
    before = x if state is None else state
    sizes = _sizes(x)
    grid = -(-length // sizes["T"]), -(-d_inner // sizes["CHANNELS"])
    shift = weight if bias is None else bias.contiguous()
    with on_device(x.device):
        for part in by_sequences(x, before, y):
            kernels.forward[(*grid, part[0].shape[0])](
                part[0],
                weight,
                shift,
                *part[1:],
                length,
                d_inner,
                *x.stride()[:2],
                *before.stride(),
                *y.stride()[:2],
                *weight.stride(),
                W=weight.shape[1],
                SILU=silu,
                HAS_BIAS=bias is not None,
                HAS_STATE=state is not None,
                num_warps=1,
                **sizes,
            )
    return y


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, length, d_inner = x.shape
    width = weight.shape[1]
    x, grad = contiguous_channels(x), contiguous_channels(grad)
    grad_x = x.new_empty(x.shape)
    before = x if state is None else state
    grad_before = x.new_empty(batch, 0, 0)
    if state is not None:
        grad_before = state.new_empty(state.shape)
    sizes = _sizes(x)
    tiles = TILES if x.numel() >= TILES_FROM else 1
    steps = length + (width - 1 if state is not None else 0)
    grid = (
        -(-steps // (tiles * sizes["T"])),
        -(-d_inner // sizes["CHANNELS"]),
    )
    sums = x.new_empty(
        (batch, grid[0], width + 1, d_inner), dtype=torch.float32
    )
    shift = weight if bias is None else bias.contiguous()
    with on_device(x.device):
        for part in by_sequences(x, before, grad, grad_x, grad_before, sums):
            kernels.backward[(*grid, part[0].shape[0])](
                part[0],
                weight,
                shift,
                *part[1:],
                length,
                d_inner,
                tiles,
                *x.stride()[:2],
                *before.stride(),
                *grad.stride()[:2],
                *grad_x.stride()[:2],
                *grad_before.stride(),
                *weight.stride(),
                *sums.stride()[1:3],
                W=width,
                SILU=silu,
                HAS_BIAS=bias is not None,
                HAS_STATE=state is not None,
                num_warps=1,
                **sizes,
            )
    total = sums.flatten(0, 1).sum(0)
    return (
        grad_x,
        total[:width].T.contiguous().to(weight.dtype),
        x.new_empty(0) if bias is None else total[width].to(bias.dtype),
        x.new_empty(0) if state is None else grad_before,
    )


def step(
    state: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    in_place: bool,
) -> tuple[Tensor, Tensor]:
    """One step, without a gradient, as one kernel; y and the new state.

    The arguments are those of ``causal_conv1d_step``.
    """
    batch, d_inner = x.shape
    y = x.new_empty(x.shape)
    after = state if in_place else x.new_empty(state.shape)
    if in_place:
        torch.autograd.graph.increment_version(state)
    channels = min(STEP_CHANNELS, next_power_of_2(d_inner))
    with on_device(x.device):
        kernels.step[(-(-d_inner // channels) * batch,)](
            x,
            weight,
            weight if bias is None else bias.contiguous(),
            state,
            y,
            after,
            d_inner,
            *x.stride(),
            *state.stride(),
            *y.stride(),
            *after.stride(),
            *weight.stride(),
            W=weight.shape[1],
            KEPT=state.shape[2],
            SILU=silu,
            HAS_BIAS=bias is not None,
            CHANNELS=channels,
        )
    return y, after


def _sizes(x: Tensor) -> dict[str, int]:
    """Steps and channels of a program: as many as it has use for."""
    _, length, d_inner = x.shape
    return {
        "T": min(TILE, next_power_of_2(length)),
        "CHANNELS": min(CHANNELS, next_power_of_2(d_inner)),
    }


def _fake_forward(x, weight, bias, state, silu):
    return x.new_empty(x.shape)


def _fake_backward(grad, x, weight, bias, state, silu):
    return tuple(
        x.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)
        for tensor in (x, weight, bias, state)
    )


def _remember(ctx, inputs, output):
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad):
    gradients = _call_backward(grad, *ctx.saved_tensors, ctx.silu)
    return *(
        None if tensor is None else gradient
        for tensor, gradient in zip(ctx.saved_tensors, gradients, strict=True)
    ), None  # fmt: skip


def _refuse(ctx, *_):
    raise NotImplementedError(
        "on a GPU causal_conv1d has a first derivative only, in reverse "
        "mode; on a CPU it has all"
    )


_ARGUMENTS = "Tensor x, Tensor weight, Tensor? bias, Tensor? state, bool silu"
_call_backward = register_operator(
    "mambaviz::causal_conv1d_backward",
    f"(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
    lambda ctx, inputs, output: None,
    _refuse,
    _refuse,
)
convolve = register_operator(
    "mambaviz::causal_conv1d",
    f"({_ARGUMENTS}) -> Tensor",
    _forward,
    _fake_forward,
    _remember,
    _differentiate,
    _refuse,
)
