r"""S6, the selective state space layer, and Mamba, the block around it.

S6 computes its step, its input and its output weights from its own input:

    delta_t = softplus(W_dt W_x x_t + b)     B_t = W_B x_t     C_t = W_C x_t
    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t
    y_t = C_t . h_t + D x_t

and the block puts a projection, a short convolution and a gate around it:

    x, z = W_in u
    u'   = W_out ( S6(silu(conv(x))) silu(z) )

The names, shapes and first values of the parameters are those of the released
code, so that its checkpoints load. A is one for all inputs; A_bar is not.

Source: Gu and Dao 2023 (arXiv 2312.00752), algorithm 2, figure 3, section
    3.6; the released code for the first values.
See: the chapters ``selection`` and ``mamba-block``.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mambaviz.models.checks import (
    expect_dt_range,
    expect_mask,
    expect_one_of,
    expect_positive,
    expect_sequence,
    expect_shape,
    expect_sizes,
    expect_token,
    is_int,
)
from mambaviz.ops.causal_conv1d import causal_conv1d, causal_conv1d_step
from mambaviz.ops.rms_norm import rms_norm
from mambaviz.ops.selective_scan import (
    BACKENDS,
    selective_scan,
    selective_scan_step,
)

SELECTIVE = ("delta", "B", "C")
# Its softplus is 0 in every precision, and any kernel can take its
# exponential, which of -inf would not be so sure.
NO_STEP = -1e4

Values = Float[Tensor, "batch length d_model"]
Inner = Float[Tensor, "batch length d_inner"]
Token = Float[Tensor, "batch d_model"]
# True at a token, False at padding; True where a packed sequence starts.
Mask = Bool[Tensor, "batch length"]
ScanState = Float[Tensor, "batch d_inner d_state"]
# B and C: at each step of each sequence, or fixed, (d_inner, d_state).
Weights = Float[Tensor, "... d_state"]


class MambaState(NamedTuple):
    """What a block remembers; its size does not depend on the length."""

    # The last d_conv - 1 inputs of the convolution, the newest last.
    conv: Float[Tensor, "batch d_inner d_conv-1"]
    ssm: ScanState  # h, in float32 or more


class SelectiveScan(nn.Module):
    """The scan as a module without parameters, so that hooks can see it.

    Args:
        backend: see ``mambaviz.ops.selective_scan``.

    Raises:
        ValueError: an unknown backend.
    """

    def __init__(self, backend: str = "auto") -> None:
        super().__init__()
        expect_backend(backend)
        self.backend = backend

    def forward(
        self,
        x: Inner,
        delta: Inner,
        A: Float[Tensor, "d_inner d_state"],
        B: Weights,
        C: Weights,
        D: Float[Tensor, " d_inner"] | None,
        z: Inner | None,
        delta_bias: Float[Tensor, " d_inner"],
        initial_state: ScanState | None,
        reset: Mask | None,
    ) -> tuple[Inner, ScanState]:
        """y, gated if there is a z, and the last state."""
        return selective_scan(
            x,
            delta,
            A,
            B,
            C,
            D,
            z,
            delta_bias,
            delta_softplus=True,
            initial_state=initial_state,
            return_last_state=True,
            reset=reset,
            backend=self.backend,
        )


class S6(nn.Module):
    """The selective state space layer alone: no convolution, no gate.

    Each of d_model channels has d_state states of its own. B and C are
    shared by all channels, and delta is computed through a bottleneck.

    Args:
        d_model: channels of the input and of the output.
        d_state: N, states per channel.
        dt_rank: width of the bottleneck; "auto" is d_model / 16, rounded up.
        selective: which of "delta", "B" and "C" depend on the input. One
            that does not is a parameter: delta per channel, B and C per
            channel and state (B = 1 and C normal at first, as in S4D).
            With none of them the layer is time-invariant: S4D-Real.
        dt_min: smallest delta at first, before the floor.
        dt_max: largest delta at first; between, uniform in its logarithm.
        dt_init: W_dt at first, "random" (uniform) or "constant".
        dt_scale: its size, in units of dt_rank^-1/2.
        dt_init_floor: no delta starts below it.
        backend: see ``mambaviz.ops.selective_scan``.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        *,
        dt_rank: int | str = "auto",
        selective: Sequence[str] = SELECTIVE,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        expect_sizes(d_model=d_model, d_state=d_state)
        expect_selective(selective)
        expect_dt(dt_min, dt_max, dt_init, dt_scale, dt_init_floor)
        self.d_inner, self.d_state = d_model, d_state
        self.dt_rank = resolve_dt_rank(dt_rank, d_model)
        self.selective = tuple(name for name in SELECTIVE if name in selective)

        widths = {"delta": self.dt_rank, "B": d_state, "C": d_state}
        self.widths = [widths[name] for name in self.selective]
        self.x_proj = (
            nn.Linear(d_model, sum(self.widths), bias=False)
            if self.selective
            else None
        )
        log_dt = torch.empty(d_model).uniform_(
            math.log(dt_min), math.log(dt_max)
        )
        bias = inverse_softplus(log_dt.exp().clamp(min=dt_init_floor))
        if "delta" in selective:
            self.dt_proj = nn.Linear(self.dt_rank, d_model)
            self.dt_proj.bias = nn.Parameter(bias)
            size = dt_scale * self.dt_rank**-0.5
            if dt_init == "random":
                nn.init.uniform_(self.dt_proj.weight, -size, size)
            else:
                nn.init.constant_(self.dt_proj.weight, size)
        else:
            self.dt_bias = nn.Parameter(bias)
            self.dt_bias._no_weight_decay = True
        fixed_B = torch.ones(d_model, d_state)
        fixed_C = torch.randn(d_model, d_state)
        self.B = None if "B" in selective else nn.Parameter(fixed_B)
        self.C = None if "C" in selective else nn.Parameter(fixed_C)

        n = torch.arange(1, d_state + 1, dtype=torch.get_default_dtype())
        self.A_log = nn.Parameter(n.log().repeat(d_model, 1))
        self.D = nn.Parameter(torch.ones(d_model))
        self.scan = SelectiveScan(backend)
        # As in the released code: what an optimiser should not decay, and
        # what setting all biases to zero would destroy.
        self.A_log._no_weight_decay = self.D._no_weight_decay = True
        self.delta_bias._no_reinit = True

    @property
    def A(self) -> Float[Tensor, "d_inner d_state"]:
        """A = -exp(A_log): negative, whatever A_log is; in float32 or more."""
        A_log = self.A_log
        return -A_log.to(torch.promote_types(A_log.dtype, torch.float32)).exp()

    @property
    def delta_bias(self) -> Float[Tensor, " d_inner"]:
        """b in delta = softplus(... + b)."""
        static = "delta" not in self.selective
        return self.dt_bias if static else self.dt_proj.bias

    def select(
        self, x: Float[Tensor, "*steps d_inner"]
    ) -> tuple[Float[Tensor, "*steps d_inner"], Weights, Weights]:
        """The choice: delta before its bias and softplus, B and C, from x."""
        chosen = {}
        if self.x_proj is not None:
            parts = self.x_proj(x).split(self.widths, dim=-1)
            chosen = dict(zip(self.selective, parts, strict=True))
        if "delta" in chosen:  # from dt_rank to d_inner
            delta = F.linear(chosen["delta"], self.dt_proj.weight)
        else:
            delta = torch.zeros_like(x)
        return delta, chosen.get("B", self.B), chosen.get("C", self.C)

    def selective_ssm(
        self,
        x: Inner,
        z: Inner | None,
        state: ScanState | None,
        mask: Mask | None,
        reset: Mask | None,
    ) -> tuple[Inner, ScanState]:
        """Algorithm 2: select, then scan, with z as the gate if there is one.

        At padding delta is 0: A_bar = 1 and B_bar = 0, the state stays. x is
        0 there too, since 0 times a NaN would not be.

        Args:
            x: the input, in a block the output of the convolution.
            z: the gate before its SiLU; none if None.
            state: h before the first step; zero if None.
            mask: False at padding.
            reset: True where a new sequence starts in a packed one.

        Returns:
            y, gated if there is a z, and h after the last step.
        """
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        delta, B, C = self.select(x)
        if mask is not None:
            delta = delta.masked_fill(~mask[..., None], NO_STEP)
        return self.scan(
            x, delta, self.A, B, C, self.D, z, self.delta_bias, state, reset
        )

    def selective_ssm_step(
        self,
        x: Float[Tensor, "batch d_inner"],
        z: Float[Tensor, "batch d_inner"] | None,
        state: ScanState,
        in_place: bool = False,
    ) -> tuple[Float[Tensor, "batch d_inner"], ScanState]:
        """The same for one step."""
        delta, B, C = self.select(x)
        return selective_scan_step(
            state,
            x,
            delta,
            self.A,
            B,
            C,
            self.D,
            z,
            self.delta_bias,
            delta_softplus=True,
            fixed_B="B" not in self.selective,
            fixed_C="C" not in self.selective,
            in_place=in_place,
        )

    def forward(
        self,
        x: Values,
        state: ScanState | None = None,
        return_state: bool = False,
        *,
        mask: Mask | None = None,
        reset: Mask | None = None,
    ) -> Values | tuple[Values, ScanState]:
        """The layer over a sequence.

        Args:
            x: the input.
            state: the state before the first step; zero if None.
            return_state: whether to return the state after the last step.
            mask: False at padding, which then leaves the state as it is.
                Not together with reset.
            reset: True where a new sequence starts in a packed one.

        Returns:
            y, and the state if asked for.

        Raises:
            ValueError: a length of 0, shapes that do not fit, a mask and a
                reset.
        """
        expect_sequence(x, self.d_inner)
        _expect_one_mask(mask, reset, x)
        y, state = self.selective_ssm(x, None, state, mask, reset)
        return (y, state) if return_state else y

    def step(
        self, x: Token, state: ScanState, *, in_place: bool = False
    ) -> tuple[Token, ScanState]:
        """One step.

        Args:
            x: the input of this step.
            state: the state before it; it stays as it is.
            in_place: write the new state into the given one instead.

        Returns:
            y, and the state after it.

        Raises:
            ValueError: shapes that do not fit.
        """
        expect_token(x, self.d_inner)
        return self.selective_ssm_step(x, None, state, in_place)

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ScanState:
        """The state before any input: zero.

        Args:
            batch: sequences.
            device: that of the weights if None.
            dtype: that of the weights if None; raised to float32 at least.
        """
        dtype = torch.promote_types(dtype or self.A_log.dtype, torch.float32)
        return self.A_log.new_zeros(
            (batch, self.d_inner, self.d_state), device=device, dtype=dtype
        )


class MambaBlock(S6):
    """Mamba: S6 between two projections, with a convolution and a gate.

    An S6 that is not alone: it inherits the selection and the scan, over
    expand * d_model channels instead of d_model.

    Args:
        d_model: width of the input and of the output.
        d_state: N, states per channel.
        d_conv: how many tokens the convolution sees; 0 leaves it out, but
            not its SiLU.
        expand: E, channels inside per channel outside.
        dt_rank: width of delta's bottleneck; "auto" is d_model / 16, up.
        conv_bias: whether the convolution adds a bias.
        bias: whether the two projections add one.
        gate: whether silu(z) multiplies what the SSM returns.
        selective, dt_min, dt_max, dt_init, dt_scale, dt_init_floor, backend:
            see ``S6``.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        *,
        dt_rank: int | str = "auto",
        conv_bias: bool = True,
        bias: bool = False,
        gate: bool = True,
        selective: Sequence[str] = SELECTIVE,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        backend: str = "auto",
    ) -> None:
        expect_sizes(d_model=d_model, expand=expand)
        if not is_int(d_conv) or d_conv < 0:
            raise ValueError(
                "d_conv must be an integer, 0 for no convolution, or more; "
                f"got {d_conv!r}"
            )
        d_inner = expand * d_model
        super().__init__(
            d_inner,
            d_state,
            dt_rank=resolve_dt_rank(dt_rank, d_model),
            selective=selective,
            dt_min=dt_min,
            dt_max=dt_max,
            dt_init=dt_init,
            dt_scale=dt_scale,
            dt_init_floor=dt_init_floor,
            backend=backend,
        )
        self.d_model, self.d_conv, self.gate = d_model, d_conv, gate
        branches = 2 if gate else 1
        self.in_proj = nn.Linear(d_model, branches * d_inner, bias=bias)
        # It only holds the parameters, under their official names.
        self.conv1d = (
            nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, bias=conv_bias)
            if d_conv
            else None
        )
        self.out_proj = nn.Linear(d_inner, d_model, bias=bias)

    def forward(
        self,
        x: Values,
        state: MambaState | None = None,
        return_state: bool = False,
        *,
        mask: Mask | None = None,
        reset: Mask | None = None,
    ) -> Values | tuple[Values, MambaState]:
        """The block over a sequence: figure 3, from left to right.

        Args:
            x: the input.
            state: what the tokens before left behind; nothing if None.
            return_state: whether to return what these leave behind.
            mask: False at padding, wherever it stands: the tokens of a row
                then give what they would give without it, and leave the
                same state. Not together with reset.
            reset: True where a new sequence starts in a packed one.

        Returns:
            y, and the state if asked for.

        Raises:
            ValueError: a length of 0, shapes that do not fit, a mask and a
                reset.
        """
        expect_sequence(x, self.d_model)
        _expect_one_mask(mask, reset, x)
        conv, ssm = (None, None) if state is None else state
        x, z = self.branch(x)  # each batch length d_inner
        x, conv = self.convolve(x, conv, mask, reset)
        y, ssm = self.selective_ssm(x, z, ssm, mask, reset)
        y = self.out_proj(y)
        return (y, MambaState(conv, ssm)) if return_state else y

    def step(
        self, x: Token, state: MambaState, *, in_place: bool = False
    ) -> tuple[Token, MambaState]:
        """One step.

        Args:
            x: the input of this step.
            state: what the tokens before left behind; it stays as it is.
            in_place: write the new state into the given one instead.

        Returns:
            y, and what this token leaves behind.

        Raises:
            ValueError: shapes that do not fit.
        """
        expect_token(x, self.d_model)
        x, z = self.branch(x)  # each batch d_inner
        x, conv = self.convolve_step(x, state.conv, in_place)
        y, ssm = self.selective_ssm_step(x, z, state.ssm, in_place)
        return self.out_proj(y), MambaState(conv, ssm)

    def branch(
        self, x: Float[Tensor, "*steps d_model"]
    ) -> tuple[
        Float[Tensor, "*steps d_inner"], Float[Tensor, "*steps d_inner"] | None
    ]:
        """x and z = W_in x; z is None without a gate."""
        x = self.in_proj(x)
        return tuple(x.chunk(2, dim=-1)) if self.gate else (x, None)

    def convolve(
        self,
        x: Inner,
        conv: Float[Tensor, "batch d_inner reach"] | None,
        mask: Mask | None,
        reset: Mask | None,
    ) -> tuple[Inner, Float[Tensor, "batch d_inner reach"]]:
        """silu(conv(x)), and the last inputs, which the next call needs.

        With a mask, the tokens of each row close up before the convolution
        and go back to their places after it.

        Args:
            x: the first half of ``branch``.
            conv: the last d_conv - 1 inputs before x, the newest last; zeros
                if None.
            mask: False at padding.
            reset: True where a new sequence starts in a packed one.
        """
        if self.conv1d is None:
            return F.silu(x), x[:, :0].transpose(1, 2)
        if mask is not None:
            places = _closed_up(mask)[..., None].expand_as(x)
            x = torch.empty_like(x).scatter(1, places, x)
        y, last = causal_conv1d(
            x,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            activation="silu",
            initial_state=conv,
            return_last_state=True,
            reset=reset,
        )
        if mask is None:
            return y, last
        conv = torch.zeros_like(last) if conv is None else conv
        return y.gather(1, places), _last_inputs(conv, x, mask.sum(1))

    def convolve_step(
        self,
        x: Float[Tensor, "batch d_inner"],
        conv: Float[Tensor, "batch d_inner reach"],
        in_place: bool = False,
    ) -> tuple[
        Float[Tensor, "batch d_inner"], Float[Tensor, "batch d_inner reach"]
    ]:
        """The same for one step."""
        if self.conv1d is None:
            return F.silu(x), conv
        reach = self.d_conv - 1
        expect_shape("the state", conv, (*x.shape, reach))
        return causal_conv1d_step(
            conv,
            x,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            activation="silu",
            in_place=in_place,
        )

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MambaState:
        """The state before any input: zeros.

        Args:
            batch: sequences.
            device: that of the weights if None.
            dtype: that of the weights if None; for the scan raised to
                float32 at least.
        """
        conv = self.in_proj.weight.new_zeros(
            (batch, self.d_inner, max(self.d_conv - 1, 0)),
            device=device,
            dtype=dtype,
        )
        return MambaState(conv, super().initial_state(batch, device, dtype))


class RMSNorm(nn.Module):
    """Scale each token to root mean square 1, then by a weight per feature.

        y = weight x / sqrt(mean(x^2) + eps)

    It computes in float32 or more and returns the dtype of its weight, so
    that a residual in float32 enters a block in the block's precision.

    Args:
        d_model: features.
        eps: keeps a token of zeros finite.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467), eq. 4.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """The normalised x.

        Raises:
            ValueError: x has another width, or is on another device.
        """
        return rms_norm(x, self.weight, self.eps)


class ResidualBlock(nn.Module):
    """A layer that adds to its input: x + mixer(norm(x)).

    Args:
        mixer: any layer with the protocol of ``S6`` and ``MambaBlock``.
        d_model: its width.
        eps: of the norm.
    """

    def __init__(
        self, mixer: nn.Module, d_model: int, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm = RMSNorm(d_model, eps)
        self.mixer = mixer

    def forward(
        self,
        x: Values,
        state: object = None,
        return_state: bool = False,
        **options: Tensor | None,
    ) -> Values | tuple[Values, object]:
        """As the mixer; the sum has the precision of x.

        Args:
            x: the residual stream.
            state: the mixer's; none if None.
            return_state: whether to return the mixer's state after x.
            options: the mixer's, such as mask and reset.
        """
        y = self.mixer(self.norm(x), state, return_state, **options)
        y, state = y if return_state else (y, None)
        y = _add_to(x, y)
        return (y, state) if return_state else y

    def step(
        self, x: Token, state: object, **options: bool
    ) -> tuple[Token, object]:
        """One step.

        Args:
            x: the residual stream.
            state: the mixer's; it stays as it is.
            options: the mixer's, such as in_place.
        """
        y, state = self.mixer.step(self.norm(x), state, **options)
        return _add_to(x, y), state

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> object:
        """The mixer's."""
        return self.mixer.initial_state(batch, device, dtype)


def inverse_softplus(
    y: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """The b of which softplus(b) = y.

        b = log(e^y - 1) = y + log(1 - e^-y)

    Example:
        >>> F.softplus(inverse_softplus(torch.tensor([0.001, 0.1])))
        tensor([0.0010, 0.1000])
    """
    return y + torch.log(-torch.expm1(-y))


def resolve_dt_rank(dt_rank: int | str, d_model: int) -> int:
    """A sixteenth of d_model, rounded up, for "auto"; else what it says."""
    if dt_rank == "auto":
        return -(-d_model // 16)
    if not is_int(dt_rank) or dt_rank < 1:
        raise ValueError(
            f'dt_rank must be "auto" or a positive integer; got {dt_rank!r}'
        )
    return dt_rank


def expect_selective(selective: Sequence[str]) -> None:
    """Refuse a name that S6 cannot let depend on its input."""
    if isinstance(selective, str) or not set(selective) <= set(SELECTIVE):
        raise ValueError(
            f"selective must be some of {SELECTIVE}; got {selective!r}"
        )


def expect_dt(
    dt_min: float, dt_max: float, init: str, scale: float, floor: float
) -> None:
    """Refuse what delta cannot start from."""
    expect_dt_range(dt_min, dt_max)
    expect_positive(dt_scale=scale, dt_init_floor=floor)
    if init not in ("random", "constant"):
        raise ValueError(
            f'dt_init must be "random" or "constant"; got {init!r}'
        )


def expect_backend(backend: str) -> None:
    """Refuse what is no backend; one that is may still not run here."""
    expect_one_of("backend", backend, ("auto", *BACKENDS))


def _add_to(x: Tensor, y: Tensor) -> Tensor:
    """x + y in the precision of x; where that is the higher, in one pass."""
    if torch.promote_types(x.dtype, y.dtype) != x.dtype:
        y = y.to(x.dtype)
    return x + y


def _closed_up(mask: Tensor) -> Tensor:
    """Where each token goes if the padding of its row moves to the end."""
    tokens = mask.cumsum(1)
    padding = tokens[:, -1:] + (~mask).cumsum(1)
    return torch.where(mask, tokens, padding) - 1


def _last_inputs(before: Tensor, x: Tensor, lengths: Tensor) -> Tensor:
    """The inputs up to the end of each row, as many as came ``before``."""
    inputs = torch.cat([before.transpose(1, 2).to(x.dtype), x], 1)
    reach = torch.arange(before.shape[-1], device=x.device)
    index = (lengths[:, None] + reach)[..., None].expand(-1, -1, x.shape[-1])
    return inputs.gather(1, index).transpose(1, 2)


def _expect_one_mask(
    mask: Tensor | None, reset: Tensor | None, x: Tensor
) -> None:
    expect_mask(mask, x.shape[:2])
    if mask is not None and reset is not None:
        raise ValueError("give a mask or a reset, not both")
