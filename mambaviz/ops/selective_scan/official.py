"""The functions of the packages ``mamba_ssm`` and ``causal_conv1d``, here.

Code that calls theirs runs with these: the same argument names, defaults and
layouts, on any device. There, time is the last axis; all of them are thin
adapters that move it and call ``selective_scan`` or ``causal_conv1d``, whose
names for the arguments are: u is x, dt is delta, dim is d_inner, dstate is
d_state, width is d_conv, nheads times dim is d_inner.

Source: github.com/state-spaces/mamba, mamba_ssm/ops/selective_scan_interface
and mamba_ssm/ops/triton/selective_state_update; github.com/Dao-AILab/
causal-conv1d, causal_conv1d/causal_conv1d_interface.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
import torch.nn.functional as F
from jaxtyping import Float, Inexact, Int
from torch import Tensor

from mambaviz.ops.causal_conv1d import causal_conv1d, causal_conv1d_step
from mambaviz.ops.selective_scan import selective_scan, selective_scan_step

Sequence = Float[Tensor, "batch dim length"]
Channels = Float[Tensor, " dim"]
Matrix = Inexact[Tensor, "dim dstate"]
# With a complex A, the last axis holds real and imaginary parts in turn.
Weights = (
    Matrix
    | Float[Tensor, "batch dstate _length"]
    | Float[Tensor, "batch _ngroups dstate _length"]
)
State = Inexact[Tensor, "batch dim dstate"]
HeadState = Inexact[Tensor, "batch nheads dim dstate"]
StepInput = Float[Tensor, "batch *heads dim"]
StepWeights = (
    Inexact[Tensor, "batch dstate"] | Inexact[Tensor, "batch _ngroups dstate"]
)


# Where each function is imported from. The version is the last that had
# Mamba-1 only: nobody is to look here for the parts of Mamba-2.
PACKAGES = {"mamba_ssm": "1.2.2", "causal_conv1d": "1.6.0"}
PLACES = {
    "mamba_ssm.ops.selective_scan_interface": (
        "selective_scan_fn",
        "selective_scan_ref",
        "mamba_inner_fn",
    ),
    "mamba_ssm.ops.triton.selective_state_update": ("selective_state_update",),
    "causal_conv1d": ("causal_conv1d_fn", "causal_conv1d_update"),
    "causal_conv1d.causal_conv1d_interface": (
        "causal_conv1d_fn",
        "causal_conv1d_update",
    ),
}


def stand_in() -> None:
    """Let ``import mamba_ssm`` and ``import causal_conv1d`` find this module.

    For this process, and only where these packages are not installed. Code
    that looks for them, such as the Mamba of ``transformers``, then runs on
    the functions below; so call this before that code is imported.

    Raises:
        RuntimeError: a package of that name is installed, or transformers
            has already looked for them.

    Example:
        >>> stand_in()
        >>> from mamba_ssm.ops.selective_scan_interface import (
        ...     selective_scan_fn,
        ... )
        >>> selective_scan_fn.__module__
        'mambaviz.ops.selective_scan.official'
    """
    late = "transformers.models.mamba.modeling_mamba"
    ours = [n for n in PACKAGES if _is_ours(sys.modules.get(n))]
    if len(ours) == len(PACKAGES):
        return
    if late in sys.modules:
        raise RuntimeError(
            f"{late} is already imported and has looked for mamba_ssm; call "
            "stand_in() before"
        )
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        if found is not None:
            raise RuntimeError(
                f"{name} is installed, at {found.origin}; remove it, or do "
                "without stand_in()"
            )
    for place, functions in PLACES.items():
        module = _module(place)
        for function in functions:
            setattr(module, function, globals()[function])


def _module(name: str) -> ModuleType:
    """The module of a dotted name, made with those above it."""
    if name not in sys.modules:
        module = ModuleType(name, f"Stands in for {name}: {__name__}.")
        module.__spec__ = ModuleSpec(name, None, origin=__name__)
        module.__path__ = []
        package, _, last = name.rpartition(".")
        module.__version__ = PACKAGES[name.partition(".")[0]]
        sys.modules[name] = module
        if package:
            setattr(_module(package), last, module)
    return sys.modules[name]


def _is_ours(module: ModuleType | None) -> bool:
    return getattr(getattr(module, "__spec__", None), "origin", "") == __name__


def selective_scan_fn(
    u: Sequence,
    delta: Sequence,
    A: Matrix,
    B: Weights,
    C: Weights,
    D: Channels | None = None,
    z: Sequence | None = None,
    delta_bias: Channels | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Sequence | tuple[Sequence, State]:
    """``selective_scan`` in the official layout.

    Unlike there, the last state has a gradient, and so does what it is
    computed from.

    Raises:
        ValueError: as ``selective_scan`` does.
    """
    return _scan(
        "auto",
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        delta_softplus,
        return_last_state,
    )


def selective_scan_ref(
    u: Sequence,
    delta: Sequence,
    A: Matrix,
    B: Weights,
    C: Weights,
    D: Channels | None = None,
    z: Sequence | None = None,
    delta_bias: Channels | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Sequence | tuple[Sequence, State]:
    """``selective_scan_fn`` by the plain loop over time."""
    return _scan(
        "reference",
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        delta_softplus,
        return_last_state,
    )


def mamba_inner_fn(
    xz: Float[Tensor, "batch two_dim length"],
    conv1d_weight: Float[Tensor, "dim 1 width"],
    conv1d_bias: Channels | None,
    x_proj_weight: Float[Tensor, "n_projected dim"],
    delta_proj_weight: Float[Tensor, "dim dt_rank"],
    out_proj_weight: Float[Tensor, "d_model dim"],
    out_proj_bias: Float[Tensor, " d_model"] | None,
    A: Matrix,
    B: Weights | None = None,
    C: Weights | None = None,
    D: Channels | None = None,
    delta_bias: Channels | None = None,
    B_proj_bias: Float[Tensor, " _n_B"] | None = None,
    C_proj_bias: Float[Tensor, " _n_C"] | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Float[Tensor, " _n_B"] | None = None,
    c_rms_weight: Float[Tensor, " _n_C"] | None = None,
    dt_rms_weight: Float[Tensor, " dt_rank"] | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Float[Tensor, "batch length d_model"]:
    """A Mamba block between its two outer projections, and the second one.

        x = silu(conv(x));  dt, B, C = x_proj x;  delta = dt_proj dt
        out_proj (scan(x, delta, A, B, C, D) silu(z))

    Args:
        xz: x and z, what in_proj gives, one above the other.
        x_proj_weight: its rows are for dt, for B and for C; without those of
            a B or C that is given. With a complex A, rows of B and C come in
            pairs, real and imaginary.
        checkpoint_lvl: taken and not needed; ``torch.utils.checkpoint`` does
            what it does there.
        b_rms_weight, c_rms_weight, dt_rms_weight: if given, B, C or dt is
            first divided by its root mean square and multiplied by this.

    The other arguments are those of ``selective_scan_fn``.

    Raises:
        ValueError: as ``selective_scan`` does.
    """
    x, z = xz.transpose(1, 2).chunk(2, -1)
    x = causal_conv1d(x, conv1d_weight[:, 0], conv1d_bias, "silu")
    dt_rank = delta_proj_weight.shape[1]
    n_weights = A.shape[1] * (2 if A.is_complex() else 1)
    sizes = [dt_rank] + [n_weights for w in (B, C) if w is None]
    dt, *projected = F.linear(x, x_proj_weight).split(sizes, -1)
    B, C = (
        _projected(projected.pop(0), A, bias, rms_weight, b_c_dt_rms_eps)
        if given is None
        else _time_second(given, A)
        for given, bias, rms_weight in (
            (B, B_proj_bias, b_rms_weight),
            (C, C_proj_bias, c_rms_weight),
        )
    )
    dt = _normalised(dt, dt_rms_weight, b_c_dt_rms_eps)
    y = selective_scan(
        x,
        F.linear(dt, delta_proj_weight),
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        delta_softplus,
    )
    return F.linear(y, out_proj_weight, out_proj_bias)


def selective_state_update(
    state: State | HeadState,
    x: StepInput,
    dt: StepInput,
    A: Inexact[Tensor, "*heads dim dstate"],
    B: StepWeights,
    C: StepWeights,
    D: Float[Tensor, "*heads dim"] | None = None,
    z: StepInput | None = None,
    dt_bias: Float[Tensor, "*heads dim"] | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Int[Tensor, " batch"] | None = None,
) -> StepInput:
    """``selective_scan_step``, which here writes the new state into ``state``.

    All arguments of (..., dim) may be of (..., nheads, dim) instead; groups
    of B and C are then groups of heads.

    Raises:
        NotImplementedError: ``state_batch_indices`` is given.
        ValueError: as ``selective_scan_step`` does.
    """
    _not_here(state_batch_indices=state_batch_indices)
    n_heads = state.shape[1] if state.ndim == 4 else 1
    for name, weights in (("B", B), ("C", C)):
        groups = weights.shape[1] if weights.ndim == 3 else 1
        if n_heads % groups:
            raise ValueError(
                f"the groups of {name} must divide the {n_heads} heads; "
                f"got {groups} in shape {tuple(weights.shape)}"
            )
    x_, dt, z = (t if t is None else t.flatten(1) for t in (x, dt, z))
    D, dt_bias = (t if t is None else t.flatten() for t in (D, dt_bias))
    y, new_state = selective_scan_step(
        state.flatten(1, -2),
        x_,
        dt,
        A.flatten(0, -2),
        # As one group, which no shape of A can be taken for.
        B.unsqueeze(1) if B.ndim == 2 else B,
        C.unsqueeze(1) if C.ndim == 2 else C,
        D,
        z,
        dt_bias,
        dt_softplus,
        in_place=True,
    )
    if state.ndim == 4 and not state.is_contiguous():
        state.copy_(new_state.view_as(state))  # a copy was flattened
    return y.view(x.shape)


def causal_conv1d_fn(
    x: Sequence,
    weight: Float[Tensor, "dim width"],
    bias: Channels | None = None,
    seq_idx: Int[Tensor, "batch length"] | None = None,
    initial_states: Float[Tensor, "batch dim width-1"] | None = None,
    return_final_states: bool = False,
    final_states_out: Float[Tensor, "batch dim width-1"] | None = None,
    activation: str | None = None,
) -> Sequence | tuple[Sequence, Float[Tensor, "batch dim width-1"]]:
    """``causal_conv1d`` in the official layout.

    Args:
        seq_idx: the number of the packed sequence that a step is in; a new
            one starts where it changes.
        final_states_out: the last state is written here too.
        activation: None, "silu", or "swish", which is the same.

    Raises:
        ValueError: as ``causal_conv1d`` does.
    """
    reset = None
    if seq_idx is not None:
        reset = F.pad(seq_idx[:, 1:] != seq_idx[:, :-1], (1, 0))
    y, last_state = causal_conv1d(
        x.transpose(1, 2),
        weight,
        bias,
        _silu(activation),
        initial_states,
        return_last_state=True,
        reset=reset,
    )
    y = y.transpose(1, 2)
    if not return_final_states:
        return y
    if final_states_out is not None:
        last_state = final_states_out.copy_(last_state)
    return y, last_state


def causal_conv1d_update(
    x: Float[Tensor, "batch dim"] | Sequence,
    conv_state: Float[Tensor, "batch dim state_len"],
    weight: Float[Tensor, "dim width"],
    bias: Channels | None = None,
    activation: str | None = None,
    cache_seqlens: Int[Tensor, " batch"] | None = None,
    conv_state_indices: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch dim"] | Sequence:
    """One step or some, which move on ``conv_state`` in place.

    Args:
        conv_state: the last inputs, at least width - 1, the newest last.

    Raises:
        NotImplementedError: ``cache_seqlens`` or ``conv_state_indices`` is
            given.
        ValueError: too short a state; as ``causal_conv1d`` does.
    """
    _not_here(
        cache_seqlens=cache_seqlens, conv_state_indices=conv_state_indices
    )
    kept, reach = conv_state.shape[-1], weight.shape[1] - 1
    if kept < reach:
        raise ValueError(
            f"conv_state must hold width - 1 = {reach} inputs; "
            f"got {kept} in shape {tuple(conv_state.shape)}"
        )
    inputs = x[..., None] if x.ndim == 2 else x  # batch dim length
    if inputs.shape[-1] == 1:
        y, _ = causal_conv1d_step(
            conv_state,
            inputs[..., 0],
            weight,
            bias,
            _silu(activation),
            in_place=True,
        )
        return y.view(x.shape)
    y = causal_conv1d(
        inputs.transpose(1, 2),
        weight,
        bias,
        _silu(activation),
        conv_state[..., kept - reach :],
    )
    seen = torch.cat([conv_state, inputs.to(conv_state.dtype)], -1)
    conv_state.copy_(seen[..., seen.shape[-1] - kept :])
    return y.transpose(1, 2)


def _scan(
    backend: str,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    return_last_state: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    y, last_state = selective_scan(
        u.transpose(1, 2),
        delta.transpose(1, 2),
        A,
        _time_second(B, A),
        _time_second(C, A),
        D,
        None if z is None else z.transpose(1, 2),
        delta_bias,
        delta_softplus,
        return_last_state=True,
        backend=backend,
    )
    y = y.transpose(1, 2)
    return (y, last_state) if return_last_state else y


def _time_second(weights: Tensor, A: Tensor) -> Tensor:
    """B or C as ``selective_scan`` has them: batch length [groups] d_state."""
    if weights.ndim == 2:
        return weights
    if A.is_complex():
        weights = _complex(weights)
    return weights.movedim(-1, 1)


def _complex(pairs: Tensor) -> Tensor:
    """Real and imaginary parts in turn along the last axis."""
    pairs = pairs.to(torch.promote_types(pairs.dtype, torch.float32))
    return torch.complex(pairs[..., ::2], pairs[..., 1::2])


def _projected(
    weights: Tensor,
    A: Tensor,
    bias: Tensor | None,
    rms_weight: Tensor | None,
    eps: float,
) -> Tensor:
    """B or C out of x_proj: batch length d_state."""
    if bias is not None:
        weights = weights + bias.to(weights.dtype)
    weights = _normalised(weights, rms_weight, eps)
    return _complex(weights) if A.is_complex() else weights


def _normalised(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    if weight is None:
        return x
    return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps)


def _silu(activation: str | None) -> str | None:
    return "silu" if activation == "swish" else activation


def _not_here(**arguments: Tensor | None) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise NotImplementedError(
                f"{name} is for servers that batch requests as they come, "
                "which this package is not for; leave it None"
            )
