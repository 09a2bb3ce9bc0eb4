"""Arguments for the selective scan, and what came of them."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from mambaviz.ops.selective_scan import (
    BACKENDS,
    selective_scan,
    unavailable,
)

# "fused" computes in float32 on a GPU: test_selective_scan_fused.
ALL_BACKENDS = [b for b in BACKENDS if b != "fused" and unavailable(b) is None]
# "reference" is the judge of the others.
JUDGED = [b for b in ALL_BACKENDS if b != "reference"]
TENSORS = (
    "x",
    "delta",
    "A",
    "B",
    "C",
    "D",
    "z",
    "delta_bias",
    "initial_state",
)


def case(
    batch: int = 2,
    length: int = 37,
    d_inner: int = 6,
    d_state: int = 3,
    *,
    B: str | int = "each",
    C: str | int = "each",
    is_complex: bool = False,
    complex_weights: bool | None = None,
    without: tuple[str, ...] = (),
    softplus: bool = True,
    reset: bool = True,
    seed: int = 0,
) -> dict:
    """Arguments in float64, of the sizes that a trained layer has.

    B and C: "each" for (batch, length, d_state), a number of groups, or
    "fixed".
    """
    generator = torch.Generator().manual_seed(seed)
    double = {"generator": generator, "dtype": torch.float64}

    def randn(*shape: int, as_complex: bool = False) -> Tensor:
        values = torch.randn(*shape, **double)
        if as_complex:
            return torch.complex(values, torch.randn(*shape, **double))
        return values

    def weights(kind: str | int) -> Tensor:
        as_complex = is_complex if complex_weights is None else complex_weights
        shapes = {"each": (batch, length), "fixed": (d_inner,)}
        shape = shapes.get(kind, (batch, length, kind))
        return randn(*shape, d_state, as_complex=as_complex)

    A = -8 * torch.rand(d_inner, d_state, **double)
    if is_complex:
        A = torch.complex(A, 5 * randn(d_inner, d_state))
    delta = randn(batch, length, d_inner) - 2
    arguments = {
        "x": randn(batch, length, d_inner),
        "delta": delta if softplus else delta.exp(),
        "A": A,
        "B": weights(B),
        "C": weights(C),
        "D": randn(d_inner),
        "z": randn(batch, length, d_inner),
        "delta_bias": randn(d_inner) / 4 if softplus else None,
        "initial_state": randn(batch, d_inner, d_state, as_complex=is_complex),
    }
    for name in without:
        arguments[name] = None
    arguments["delta_softplus"] = softplus
    if reset:
        starts = torch.rand(batch, length, generator=generator) < 0.1
        arguments["reset"] = starts
    return arguments


def in_dtype(arguments: dict, dtype: torch.dtype, *names: str) -> dict:
    """Those arguments, all tensors if none are named, in another dtype."""
    # There are no complex numbers of 16 bits.
    complex_dtype = torch.promote_types(dtype, torch.complex64)
    cast = {
        name: value.to(complex_dtype if value.is_complex() else dtype)
        for name, value in arguments.items()
        if name in (names or TENSORS) and value is not None
    }
    return arguments | cast


def run(scan: Callable, arguments: dict) -> dict[str, Tensor]:
    """y, the last state, and the gradients of a loss through both."""
    leaves = {
        name: arguments[name].detach().requires_grad_()
        for name in TENSORS
        if arguments[name] is not None
    }
    y, last_state = scan(**(arguments | leaves), return_last_state=True)
    grads = torch.autograd.grad(
        [y, last_state],
        list(leaves.values()),
        [_waves(y, 1.0), _waves(last_state, 2.0)],
    )
    named = {f"grad_{name}": g for name, g in zip(leaves, grads, strict=True)}
    return {"y": y.detach(), "last_state": last_state.detach(), **named}


def _waves(like: Tensor, frequency: float) -> Tensor:
    """A gradient of size 1 that favours no direction."""
    count = torch.arange(like.numel(), dtype=torch.float64, device=like.device)
    angles = frequency * count
    waves = torch.polar(torch.ones_like(angles), angles).view(like.shape)
    return (waves if like.is_complex() else waves.real).to(like.dtype)


def scan_by(backend: str) -> Callable:
    """The door with a backend."""
    return functools.partial(selective_scan, backend=backend)


def error(ours: Tensor, exact: Tensor) -> float:
    """The largest error, over the largest element."""
    assert ours.shape == exact.shape
    scale = exact.abs().max().item()
    off = (ours.to(exact.dtype) - exact).abs().max().item()
    return off / scale if scale else off
