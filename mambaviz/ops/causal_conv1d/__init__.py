"""The short causal convolution that stands before Mamba's scan.

    y_t = activation(bias + sum over j of weight_j x_{t - (d_conv - 1) + j})

Each channel has its own ``d_conv`` weights, of which the last meets the
present input, as in the weight of a ``torch.nn.Conv1d``. What the next inputs
need is the *state*: the last d_conv - 1 inputs, the newest last.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mambaviz.ops.register import (
    FLOATS,
    constant_to_the_compiler,
    expect_writable,
    load,
    unseen,
)

Sequence = Float[Tensor, "batch length d_inner"]
Weight = Float[Tensor, "d_inner d_conv"]
Bias = Float[Tensor, " d_inner"]
__all__ = ["causal_conv1d", "causal_conv1d_step"]

# What the kernels of a GPU take: weights a channel, and inputs that a step
# takes over, all of them in registers.
MAX_FUSED = 8
MAX_KEPT = 16
# The last d_conv - 1 inputs, the newest last.
State = Float[Tensor, "batch d_inner d_conv-1"]


def causal_conv1d(
    x: Sequence,
    weight: Weight,
    bias: Bias | None = None,
    activation: str | None = None,
    initial_state: State | None = None,
    return_last_state: bool = False,
    *,
    reset: Bool[Tensor, "batch length"] | None = None,
) -> Sequence | tuple[Sequence, State]:
    """The convolution of each channel with its own weights.

    Args:
        x: the input, at least one step.
        weight: for each channel d_conv weights, at least one.
        bias: added to the sum; none if None.
        activation: None or "silu".
        initial_state: the d_conv - 1 inputs before the first; zero if None.
        return_last_state: whether to return the state after the last step.
        reset: True where a new sequence starts in a packed one: no weight
            from there on meets an input from before.

    Returns:
        y in the dtype of x, and if asked for the last state, likewise.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a sequence of
            no steps, an unknown activation.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1)
        >>> causal_conv1d(x, torch.tensor([[0.5, 1.0]])).flatten()
        tensor([1.0000, 2.5000, 5.0000])
    """
    _check(x, weight, bias, activation, initial_state, reset)
    if reset is None and _fits_kernels(x, weight, bias, initial_state):
        silu = activation == "silu"
        y = _loaded["convolve"](x, weight, bias, initial_state, silu)
        if not return_last_state:
            return y
        last = _last_inputs(x, weight.shape[1] - 1, initial_state)
    else:
        y, last = _in_pytorch(
            x, weight, bias, activation, initial_state, reset
        )
    return (y, last) if return_last_state else y


def causal_conv1d_step(
    state: Float[Tensor, "batch d_inner _kept"],
    x: Float[Tensor, "batch d_inner"],
    weight: Weight,
    bias: Bias | None = None,
    activation: str | None = None,
    *,
    in_place: bool = False,
) -> tuple[
    Float[Tensor, "batch d_inner"], Float[Tensor, "batch d_inner _kept"]
]:
    """One step of the convolution, for generation.

    Args:
        state: the last inputs before this one, d_conv - 1 or more, the
            newest last; it stays as it is.
        in_place: write the new state into ``state`` instead.

    The other arguments are those of ``causal_conv1d`` for one step.

    Returns:
        y in the dtype of x, and the new state, as long as the given one: in
        place ``state`` itself, else a new one in the dtype of x.

    Raises:
        ValueError: as ``causal_conv1d`` does.
        RuntimeError: in place, a state with two elements in one place.
    """
    if x.ndim != 2:
        raise ValueError(
            f"x must have shape (batch, d_inner); got {tuple(x.shape)}"
        )
    _check(x[:, None], weight, bias, activation, None, None)
    reach = weight.shape[1] - 1
    if state.shape[:2] != x.shape or state.ndim != 3 or state.shape[2] < reach:
        raise ValueError(
            f"the state must have shape ({x.shape[0]}, {x.shape[1]}, {reach} "
            f"or more); got {tuple(state.shape)}"
        )
    met = state[..., state.shape[2] - reach :]  # by weights; the rest is older
    _check(x[:, None], weight, bias, activation, met, None)
    tensors = (x, weight, bias, state)
    if in_place:
        expect_writable(state)
    if (
        state.shape[2] <= MAX_KEPT
        and _fits_kernels(*tensors)
        and unseen(tensors)
    ):
        silu = activation == "silu"
        return _loaded["step"](state, x, weight, bias, silu, in_place)
    y = causal_conv1d(x[:, None], weight, bias, activation, met)
    dtype = state.dtype if in_place else x.dtype
    seen = torch.cat([state.to(dtype), x[..., None].to(dtype)], -1)[..., 1:]
    return y[:, 0], state.copy_(seen) if in_place else seen.contiguous()


def _fits_kernels(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None
) -> bool:
    """Whether the Triton kernels are there and can do this case."""
    given = (t for t in (x, weight, bias, state) if t is not None)
    return (
        x.is_cuda
        and 2 <= weight.shape[1] <= MAX_FUSED
        and all(t.dtype in FLOATS for t in given)
        and _has_kernels()
    )


_loaded: dict[str, Callable | None] = {}


@constant_to_the_compiler
def _has_kernels() -> bool:
    return load(_loaded, __name__, "convolve", "step")


def _in_pytorch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The formula, one weight after the other; y and the last state."""
    length, reach = x.shape[1], weight.shape[1] - 1
    if initial_state is None:
        padded = F.pad(x, (0, 0, reach, 0))
    else:
        dtype = torch.promote_types(x.dtype, initial_state.dtype)
        before = initial_state.transpose(1, 2).to(dtype)
        # batch reach+length d_inner
        padded = torch.cat([before, x.to(dtype)], 1)
    numbers = None if reset is None else _sequence_numbers(reset, reach)

    dtype = torch.promote_types(padded.dtype, torch.float32)
    dtype = torch.promote_types(dtype, weight.dtype)
    y = torch.zeros_like(x, dtype=dtype)
    if bias is not None:
        y = y + bias.to(dtype)
    for j in range(reach + 1):
        x_j = padded[:, j : j + length]
        if numbers is not None:
            same = numbers[:, j : j + length] == numbers[:, reach:]
            x_j = torch.where(same[..., None], x_j, 0)
        y = torch.addcmul(y, x_j.to(dtype), weight[:, j].to(dtype))
    if activation == "silu":
        y = F.silu(y)
    y = y.to(x.dtype)
    last = padded[:, length:].to(x.dtype)
    if numbers is not None:
        same = numbers[:, length:] == numbers[:, -1:]
        last = torch.where(same[..., None], last, 0)
    return y, last.transpose(1, 2).contiguous()


def _last_inputs(x: Tensor, reach: int, before: Tensor | None) -> Tensor:
    """The last ``reach`` inputs: batch d_inner reach."""
    last = x[:, max(x.shape[1] - reach, 0) :].transpose(1, 2)
    missing = reach - last.shape[2]
    if missing and before is not None:
        last = torch.cat([before[:, :, -missing:].to(x.dtype), last], -1)
    elif missing:
        last = F.pad(last, (missing, 0))
    return last.contiguous()


def _sequence_numbers(reset: Tensor, reach: int) -> Tensor:
    """Which of the packed sequences a step is in; what came before, in 0."""
    return F.pad(reset.long().cumsum(1), (reach, 0))


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
) -> None:
    """Refuse what does not fit."""
    if activation not in (None, "silu"):
        raise ValueError(
            f'activation must be None or "silu"; got {activation!r}'
        )
    if x.ndim != 3 or x.shape[1] == 0:
        raise ValueError(
            "x must have shape (batch, length, d_inner), length at least 1; "
            f"got {tuple(x.shape)}"
        )
    batch, length, d_inner = x.shape
    if weight.ndim != 2 or weight.shape[0] != d_inner or 0 in weight.shape:
        raise ValueError(
            "weight must have shape (d_inner, d_conv), here "
            f"({d_inner}, at least 1); got {tuple(weight.shape)}"
        )
    state = (batch, d_inner, weight.shape[1] - 1)
    for name, tensor, shape in (
        ("x", x, x.shape),
        ("weight", weight, weight.shape),
        ("bias", bias, (d_inner,)),
        ("the state", initial_state, state),
        ("reset", reset, (batch, length)),
    ):
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(
                f"{name} must have shape {shape}; got {tuple(tensor.shape)}"
            )
        if tensor.device != x.device:
            raise ValueError(
                f"{name} must be on the device of x, {x.device}; "
                f"got {tensor.device}"
            )
        kind = "torch.bool" if name == "reset" else "floating-point"
        fits = (
            tensor.dtype == torch.bool
            if name == "reset"
            else tensor.is_floating_point()
        )
        if not fits:
            raise ValueError(f"{name} must be {kind}; got {tensor.dtype}")
