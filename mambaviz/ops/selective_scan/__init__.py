"""The selective scan, Mamba's heart, behind one door with many rungs.

    delta := softplus(delta + delta_bias)                 (each if asked for)
    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t
    y_t = (C_t . h_t + D x_t) silu(z_t)

A state stands for each pair of a channel and a state index. If A is complex,
so is h, a state stands for itself and its conjugate, and y_t has
2 Re(C_t . h_t) in the place of C_t . h_t.

The paper holds B by ZOH; the released code takes Euler's delta B, and so do
we: ``mambaviz.theory.euler_to_zoh_ratio`` is the difference.

The rungs compute the same and differ in how: ``reference`` is the loop,
``associative`` the parallel prefix scan, ``chunked`` the one for any device
in plain PyTorch, ``cpu`` (needs Numba) and ``fused`` (needs Triton) one pass
over memory.

Source: Gu and Dao 2023 (arXiv 2312.00752), algorithm 2; the conventions for
complex A and for groups are those of the released code.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Bool, Float, Inexact
from torch import Tensor

from mambaviz.ops.register import (
    constant_to_the_compiler,
    differentiable,
    expect_writable,
    never_autocast,
    unseen,
)
from mambaviz.ops.selective_scan.arguments import check_scan, check_step
from mambaviz.ops.selective_scan.operator import as_operator
from mambaviz.ops.selective_scan.reference import (
    selective_scan_reference,
)

__all__ = ["BACKENDS", "selective_scan", "selective_scan_step", "unavailable"]

BACKENDS = ("reference", "associative", "chunked", "cpu", "fused")
LIBRARIES = {"cpu": "numba", "fused": "triton"}

Sequence = Float[Tensor, "batch length d_inner"]
Channels = Float[Tensor, " d_inner"]
State = Inexact[Tensor, "batch d_inner d_state"]
Matrix = Inexact[Tensor, "d_inner d_state"]
# B and C: one for each step, or one for all steps.
Weights = (
    Inexact[Tensor, "batch length d_state"]
    | Inexact[Tensor, "batch length _groups d_state"]
    | Matrix
)
StepWeights = (
    Inexact[Tensor, "batch d_state"]
    | Inexact[Tensor, "batch _groups d_state"]
    | Matrix
)


def selective_scan(
    x: Sequence,
    delta: Sequence,
    A: Matrix,
    B: Weights,
    C: Weights,
    D: Channels | None = None,
    z: Sequence | None = None,
    delta_bias: Channels | None = None,
    delta_softplus: bool = False,
    initial_state: State | None = None,
    return_last_state: bool = False,
    *,
    reset: Bool[Tensor, "batch length"] | None = None,
    backend: str = "auto",
) -> Sequence | tuple[Sequence, State]:
    """The scan over a whole sequence; tensors may be views of any strides.

    Everything is computed in float64 if x, delta or A is float64, else in
    float32, whatever autocast says. A NaN is passed on, not looked for.

    Args:
        x: the input.
        delta: the step, positive once bias and softplus are applied.
        A: the diagonal of the continuous system, with negative real part.
        B: input weights, (batch, length, d_state); or in groups,
            (batch, length, groups, d_state), of which channel d uses number
            d // (d_inner / groups); or fixed, (d_inner, d_state). Complex
            only if A is.
        C: output weights, in any of B's shapes.
        D: weight of the skip; none if None.
        z: the gate, before its SiLU; none if None.
        delta_bias: added to delta.
        delta_softplus: whether delta goes through a softplus.
        initial_state: the state before the first step; zero if None.
        return_last_state: whether to return the state after the last step.
        reset: True where a new sequence starts in a packed one: the state
            is zero before that step.
        backend: one of ``BACKENDS``, or "auto": "fused" on a CUDA device,
            elsewhere "cpu" where there is Numba, else "chunked". A backend
            that is named is never replaced by another.

    Returns:
        y in the dtype of x, and if asked for the last state, in the
        precision computed in.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a sequence of
            no steps, an unknown backend, or one that cannot do this case.
        RuntimeError: the named backend is not available here.

    Example:
        >>> import torch
        >>> x = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1)
        >>> A, ones = torch.tensor([[-0.6931]]), torch.ones(1, 3, 1)
        >>> selective_scan(x, ones, A, ones, ones).flatten()
        tensor([1.0000, 0.5000, 0.2500])
    """
    check_scan(x, delta, A, B, C, D, z, delta_bias, initial_state, reset)
    tensors = (x, delta, A, B, C, D, z, delta_bias, initial_state, reset)
    rung = _choose(backend, tensors)
    y, last_state = rung.run(*tensors, delta_softplus)
    return (y, last_state) if return_last_state else y


def selective_scan_step(
    state: State,
    x: Float[Tensor, "batch d_inner"],
    delta: Float[Tensor, "batch d_inner"],
    A: Matrix,
    B: StepWeights,
    C: StepWeights,
    D: Channels | None = None,
    z: Float[Tensor, "batch d_inner"] | None = None,
    delta_bias: Channels | None = None,
    delta_softplus: bool = False,
    *,
    fixed_B: bool = False,
    fixed_C: bool = False,
    in_place: bool = False,
) -> tuple[Float[Tensor, "batch d_inner"], State]:
    """One step of the scan, for generation.

    Args:
        state: the state before this step; it stays as it is.
        B: (batch, d_state), or in groups (batch, groups, d_state), or fixed
            (d_inner, d_state), which ``fixed_B`` has to say: the shapes alone
            would not, when batch equals d_inner.
        C: in any of B's shapes, with ``fixed_C``.
        in_place: write the new state into ``state`` instead.

    The other arguments are those of ``selective_scan`` for one step.

    Returns:
        y in the dtype of x, and the new state.

    Raises:
        ValueError: as ``selective_scan`` does; also a real state in place
            where A is complex.
        RuntimeError: in place, a state with two elements in one place.
    """
    check_step(state, x, delta, A, B, C, D, z, delta_bias, fixed_B, fixed_C)
    if in_place and A.is_complex() and not state.is_complex():
        raise ValueError(
            f"a state of complex A must be complex; got {state.dtype}"
        )
    tensors = (x, delta, A, B, C, D, z, delta_bias, state)
    if in_place:
        expect_writable(state)
    if x.is_cuda and _steps_fused(tensors):
        return sys.modules[f"{__name__}.fused"].step(
            state,
            x,
            delta,
            A,
            B[None] if fixed_B else B,
            C[None] if fixed_C else C,
            D,
            z,
            delta_bias,
            delta_softplus,
            in_place,
        )
    before = state
    if in_place and differentiable(tensors):
        before = state.clone()  # which the derivative needs as it was
    y, h = never_autocast(selective_scan_reference)(
        x[:, None],
        delta[:, None],
        A,
        B if fixed_B else B[:, None],
        C if fixed_C else C[:, None],
        D,
        None if z is None else z[:, None],
        delta_bias,
        before,
        None,
        delta_softplus,
    )
    return y[:, 0], state.copy_(h) if in_place else h


def _steps_fused(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether one kernel can do this step: real numbers, no gradient."""
    if not unseen(tensors) or unavailable("fused") is not None:
        return False
    return _loaded["fused"].refusal(*tensors, None) is None


class _Rung(NamedTuple):
    """A backend that has been loaded."""

    run: Callable[..., tuple[Tensor, Tensor]]
    refusal: Callable[..., str | None]


_loaded: dict[str, _Rung] = {}
_missing: dict[str, str] = {}
_noticed: set[str] = set()


@constant_to_the_compiler
def unavailable(backend: str) -> str | None:
    """Why a backend cannot run on this machine; None if it can.

    Raises:
        ValueError: no such backend.
    """
    if backend not in BACKENDS:
        names = ", ".join(BACKENDS)
        raise ValueError(
            f'backend must be "auto" or one of {names}; got {backend!r}'
        )
    if backend in _loaded or backend in _missing:
        return _missing.get(backend)
    name = LIBRARIES.get(backend, "torch")
    try:
        importlib.import_module(name)
        name = f"{__name__}.{backend}"
        module = importlib.import_module(name)
        run = getattr(module, f"selective_scan_{backend}", None)
        if run is None:
            run = as_operator(backend, module)
        else:
            run = never_autocast(run)
    except (ImportError, OSError) as error:
        _missing[backend] = f"{name} cannot be imported ({error})"
        return _missing[backend]
    refusal = getattr(module, "refusal", lambda *tensors: None)
    _loaded[backend] = _Rung(run, refusal)
    return None


def _choose(backend: str, tensors: tuple[Tensor | None, ...]) -> _Rung:
    """The named backend or a complaint; for "auto", the best that can."""
    if backend == "auto":
        fast = _loaded[_fastest(tensors[0].is_cuda)]
        can = fast.refusal(*tensors) is None
        return fast if can else _loaded["chunked"]
    reason = unavailable(backend)
    if reason is not None:
        raise RuntimeError(
            f'backend "{backend}" is not available here: {reason}; '
            f"these can do it: {_those_that_can(tensors)}"
        )
    reason = _loaded[backend].refusal(*tensors)
    if reason is not None:
        raise ValueError(
            f'backend "{backend}" cannot do this: {reason}; '
            f"these can: {_those_that_can(tensors)}"
        )
    return _loaded[backend]


def _those_that_can(tensors: tuple[Tensor | None, ...]) -> str:
    return ", ".join(
        backend
        for backend in BACKENDS
        if unavailable(backend) is None
        and _loaded[backend].refusal(*tensors) is None
    )


@constant_to_the_compiler
def _fastest(is_cuda: bool) -> str:
    """The backend that "auto" prefers; a notice, once, if it is missing."""
    unavailable("chunked")  # loads it
    fast = "fused" if is_cuda else "cpu"
    reason = unavailable(fast)
    if reason is None:
        return fast
    if fast not in _noticed:
        _noticed.add(fast)
        warnings.warn(
            f'selective_scan runs on "chunked", in plain PyTorch: {reason}',
            stacklevel=4,
        )
    return "chunked"
