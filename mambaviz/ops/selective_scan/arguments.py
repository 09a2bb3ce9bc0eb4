"""What the door lets in. Every refusal names the value and what would do."""

import torch
from torch import Tensor

REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex128, torch.complex64)


def check_scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
) -> None:
    """Refuse what ``selective_scan`` cannot mean.

    Raises:
        ValueError: a shape, dtype or device that does not fit.
    """
    if x.ndim != 3:
        raise ValueError(
            f"x must have shape (batch, length, d_inner); got {_shape(x)}"
        )
    batch, length, d_inner = x.shape
    _check_not_empty(x, "batch, length and d_inner")
    _check_system(A, d_inner)
    state = (batch, d_inner, A.shape[1])
    for name, tensor, shape in (
        ("delta", delta, (batch, length, d_inner)),
        ("z", z, (batch, length, d_inner)),
        ("D", D, (d_inner,)),
        ("delta_bias", delta_bias, (d_inner,)),
        ("initial_state", initial_state, state),
        ("reset", reset, (batch, length)),
    ):
        _check_shape(name, tensor, shape)
    for name, weights in (("B", B), ("C", C)):
        if weights.ndim == 2:
            _check_shape(name, weights, (d_inner, A.shape[1]), "fixed ")
        else:
            _check_weights(name, weights, (batch, length), A)
    _check_dtypes(x, delta, A, B, C, D, z, delta_bias, initial_state)
    if reset is not None and reset.dtype != torch.bool:
        raise ValueError(f"reset must be torch.bool; got {reset.dtype}")
    _check_devices(
        x,
        delta=delta,
        A=A,
        B=B,
        C=C,
        D=D,
        z=z,
        delta_bias=delta_bias,
        initial_state=initial_state,
        reset=reset,
    )


def check_step(
    state: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    fixed_B: bool,
    fixed_C: bool,
) -> None:
    """Refuse what ``selective_scan_step`` cannot mean.

    Raises:
        ValueError: a shape, dtype or device that does not fit.
    """
    if x.ndim != 2:
        raise ValueError(
            f"x must have shape (batch, d_inner); got {_shape(x)}"
        )
    batch, d_inner = x.shape
    _check_not_empty(x, "batch and d_inner")
    _check_system(A, d_inner)
    for name, tensor, shape in (
        ("state", state, (batch, d_inner, A.shape[1])),
        ("delta", delta, (batch, d_inner)),
        ("z", z, (batch, d_inner)),
        ("D", D, (d_inner,)),
        ("delta_bias", delta_bias, (d_inner,)),
    ):
        _check_shape(name, tensor, shape)
    for name, weights, fixed in (("B", B, fixed_B), ("C", C, fixed_C)):
        if fixed:
            _check_shape(name, weights, (d_inner, A.shape[1]), "fixed ")
            continue
        if weights.shape == A.shape and batch != d_inner:
            raise ValueError(
                f"{name} has the shape of A, {_shape(A)}: "
                f"pass fixed_{name}=True if it is the same at every step"
            )
        _check_weights(name, weights, (batch,), A)
    _check_dtypes(x, delta, A, B, C, D, z, delta_bias, state)
    _check_devices(
        x,
        state=state,
        delta=delta,
        A=A,
        B=B,
        C=C,
        D=D,
        z=z,
        delta_bias=delta_bias,
    )


def _check_not_empty(x: Tensor, axes: str) -> None:
    if x.numel() == 0:
        raise ValueError(
            f"{axes} must be at least 1; got x of shape {_shape(x)}"
        )


def _check_system(A: Tensor, d_inner: int) -> None:
    if A.ndim != 2 or A.shape[0] != d_inner or A.shape[1] == 0:
        raise ValueError(
            f"A must have shape (d_inner, d_state), here ({d_inner}, at least "
            f"1); got {_shape(A)}"
        )


def _check_shape(
    name: str, tensor: Tensor | None, shape: tuple[int, ...], kind: str = ""
) -> None:
    if tensor is not None and tensor.shape != shape:
        raise ValueError(
            f"{kind}{name} must have shape {tuple(shape)}; "
            f"got {_shape(tensor)}"
        )


def _check_weights(
    name: str, weights: Tensor, where: tuple[int, ...], A: Tensor
) -> None:
    """B or C for each step: ``where`` is (batch, length) or (batch,)."""
    d_inner, d_state = A.shape
    shape = _shape(weights)
    if shape == (*where, d_state):
        return
    groups = shape[len(where) : -1]
    if len(groups) != 1 or shape != (*where, *groups, d_state):
        front = ", ".join(map(str, where))
        raise ValueError(
            f"{name} must have shape ({front}, {d_state}), "
            f"({front}, groups, {d_state}) or, if fixed, "
            f"({d_inner}, {d_state}); got {shape}"
        )
    if groups[0] == 0 or d_inner % groups[0] != 0:
        raise ValueError(
            f"the groups of {name} must divide d_inner = {d_inner}; "
            f"got {groups[0]} in shape {shape}"
        )


def _check_dtypes(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    state: Tensor | None,
) -> None:
    for name, tensor in (
        ("x", x),
        ("delta", delta),
        ("D", D),
        ("z", z),
        ("delta_bias", delta_bias),
    ):
        if tensor is not None and tensor.dtype not in REAL:
            raise ValueError(
                f"{name} must be one of {_names(REAL)}; got {tensor.dtype}"
            )
    for name, tensor in (("A", A), ("B", B), ("C", C), ("the state", state)):
        if tensor is None or tensor.dtype in REAL:
            continue
        if tensor.dtype not in COMPLEX:
            raise ValueError(
                f"{name} must be one of {_names(REAL + COMPLEX)}; "
                f"got {tensor.dtype}"
            )
        if not A.is_complex():
            raise ValueError(
                f"{name} may be complex only if A is; "
                f"got {tensor.dtype} with A of {A.dtype}"
            )


def _check_devices(x: Tensor, **others: Tensor | None) -> None:
    device = x.device
    for name, tensor in others.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(
                f"{name} must be on the device of x, {device}; "
                f"got {tensor.device}"
            )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
