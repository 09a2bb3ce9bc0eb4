"""The causal convolution for a GPU: one pass over memory, in Triton.

``kernels.py`` says what the kernels do. The gradients of weight and bias are
added up from one partial sum a tile, always in the same order.
"""

import torch
import triton
from torch import Tensor

from mambaviz.ops.causal_conv1d import kernels
from mambaviz.ops.devices import on_device
from mambaviz.ops.selective_scan.operator import register_operator

TILE = 1024  # elements of a program


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    silu: bool,
) -> Tensor:
    batch, length, d_inner = x.shape
    y = torch.empty_like(x)
    before = x if state is None else state
    steps, channels = _tile(x)
    grid = -(-length // steps), -(-d_inner // channels), batch
    with on_device(x.device):
        kernels.forward[grid](
            x,
            weight,
            weight if bias is None else bias,
            before,
            y,
            length,
            d_inner,
            *x.stride(),
            *before.stride(),
            *y.stride(),
            *weight.stride(),
            W=weight.shape[1],
            SILU=silu,
            HAS_BIAS=bias is not None,
            HAS_STATE=state is not None,
            STEPS=steps,
            CHANNELS=channels,
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
    grad_x = torch.empty_like(x)
    before = x if state is None else state
    grad_before = torch.empty_like(before) if state is not None else grad_x
    steps, channels = _tile(x)
    starts = length + (width - 1 if state is not None else 0)
    grid = -(-starts // steps), -(-d_inner // channels), batch
    sums = x.new_empty(
        (grid[0] * batch, width + 1, d_inner), dtype=torch.float32
    )
    with on_device(x.device):
        kernels.backward[grid](
            x,
            weight,
            weight if bias is None else bias,
            before,
            grad,
            grad_x,
            grad_before,
            sums,
            length,
            d_inner,
            *x.stride(),
            *before.stride(),
            *grad.stride(),
            *grad_x.stride(),
            *grad_before.stride(),
            *weight.stride(),
            *sums.stride()[:2],
            W=width,
            SILU=silu,
            HAS_BIAS=bias is not None,
            HAS_STATE=state is not None,
            STEPS=steps,
            CHANNELS=channels,
        )
    total = sums.sum(0)
    return (
        grad_x,
        total[:width].T.to(weight.dtype, copy=True),
        x.new_empty(0) if bias is None else total[width].to(bias.dtype),
        x.new_empty(0) if state is None else grad_before,
    )


def _tile(x: Tensor) -> tuple[int, int]:
    """Steps and channels of a program: long where x is contiguous."""
    batch, length, d_inner = x.shape
    if x.stride(1) == 1 and length > 1:
        steps = min(128, triton.next_power_of_2(length))
        return steps, min(TILE // steps, triton.next_power_of_2(d_inner))
    channels = min(64, triton.next_power_of_2(d_inner))
    return min(TILE // channels, triton.next_power_of_2(length)), channels


def _fake_forward(x, weight, bias, state, silu):
    return torch.empty_like(x)


def _fake_backward(grad, x, weight, bias, state, silu):
    return (
        torch.empty_like(x),
        weight.new_empty(weight.T.shape).T.contiguous(),
        x.new_empty(0) if bias is None else bias.new_empty(bias.shape),
        x.new_empty(0) if state is None else torch.empty_like(state),
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
