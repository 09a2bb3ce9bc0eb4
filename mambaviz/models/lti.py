r"""Layers that treat every input alike, and LSSL, the first of them.

    h'(t) = A h(t) + B x(t)              h_k = A_bar h_{k-1} + B_bar x_k
    y(t)  = C h(t) + D x(t)              y_k = C h_k + D x_k

Each channel has a system of its own with one input and one output, and no
channel sees another. Nothing depends on x, so one kernel serves all steps:

    training     y = K_bar * x + D x,    K_bar_l = C A_bar^l B_bar, by FFT
    generation   the recurrence, which keeps nothing but h

``LTILayer`` holds what the two ways have in common. LSSL, S4 and S4D differ
in the form of A, and so in the way to K_bar:

    layer        A                     K_bar                       a step
    LSSL         a matrix              powers, O(N^2 L)            O(N^2)
    S4           diagonal + low rank   Cauchy, O(N L + N^3 log L)  O(N)
    S4D          diagonal              Vandermonde, O(N L)         O(N)

``ChannelMixing`` is what stands around such a layer in a network.

Source: Gu et al. 2021 (arXiv 2110.13985), section 3.
See: the chapters ``state-space-models`` and ``three-representations``.
"""

import math

import torch
from jaxtyping import Float, Inexact
from torch import Tensor, nn
from torch.linalg import matrix_power
from torch.nn import functional as F

from mambaviz.models.checks import (
    expect_dt_range,
    expect_one_of,
    expect_sequence,
    expect_shape,
    expect_sizes,
    expect_token,
)
from mambaviz.theory.discretize import exp_and_phi1
from mambaviz.theory.hippo import hippo_legs

RULES = ("bilinear", "zoh")

Values = Float[Tensor, "batch length d_model"]
Token = Float[Tensor, "batch d_model"]
State = Inexact[Tensor, "batch d_model n"]
# A_bar, whole or its diagonal, B_bar and C, one of each for each channel.
System = tuple[
    Inexact[Tensor, "d_model d_state d_state"]
    | Inexact[Tensor, "d_model d_state"],
    Inexact[Tensor, "d_model d_state"],
    Inexact[Tensor, "d_model d_state"],
]


def long_convolution(
    K_bar: Float[Tensor, "d_model taps"],
    x: Values,
) -> Values:
    """Each channel with its own kernel, causally, by the FFT.

        y_k = sum over j of K_bar_j x_{k-j},    x_k = 0 where k < 0

    ``theory.fft_convolution`` for many sequences at once. Zeros at the end
    make the circle long enough that nothing comes round; one more than needed
    keeps its length even.

    Args:
        K_bar: one kernel for each channel.
        x: the input.

    Returns:
        y, in float32 or more. Work O(d_model L log L) for each sequence.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1)
        >>> long_convolution(torch.tensor([[1.0, 0.5]]), x).flatten()
        tensor([1.0000, 2.5000, 5.0000])
    """
    dtype = torch.promote_types(K_bar.dtype, x.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    length = x.shape[1]
    circle = length + K_bar.shape[1]
    K_hat = torch.fft.rfft(K_bar.to(dtype).T, circle, dim=0)  # f d
    x_hat = torch.fft.rfft(x.to(dtype), circle, dim=1)  # b f d
    return torch.fft.irfft(K_hat * x_hat, circle, dim=1)[:, :length]


def krylov(
    A_bar: Inexact[Tensor, "d_model n n"] | Inexact[Tensor, "d_model n"],
    v: Inexact[Tensor, "d_model n"],
    length: int,
) -> Inexact[Tensor, "d_model n length"]:
    """v, A_bar v, A_bar^2 v ...: twice as many at each turn.

    Args:
        A_bar: one matrix, or one diagonal, for each channel.
        v: one vector for each channel.
        length: how many.

    Returns:
        They stand side by side. Work O(N^2 length) and log2(length) products
        of matrices; for a diagonal O(N length).

    Source: Gu et al. 2021 (arXiv 2110.13985), eq. 7 and section 4.2, the
        squaring technique.

    Example:
        >>> krylov(torch.tensor([[0.5]]), torch.ones(1, 1), 4)
        tensor([[[1.0000, 0.5000, 0.2500, 0.1250]]])
    """
    is_diagonal = A_bar.ndim == v.ndim
    apply = torch.mul if is_diagonal else torch.matmul
    power = A_bar[..., None] if is_diagonal else A_bar
    columns = v[..., None]
    # What has faded so far that its square underflows is 0: else a CPU would
    # spend a hundred times as long on denormal numbers.
    faded = torch.finfo(power.dtype).tiny ** 0.5
    while (n := columns.shape[-1]) < length:
        later = apply(power, columns[..., : length - n])
        columns = torch.cat([columns, later], dim=-1)
        power = apply(power, power)
        power = torch.where(power.abs() > faded, power, 0)
    return columns


class LTILayer(nn.Module):
    """One linear system for each channel, the same at every step.

    A subclass has the parameters and says what they mean: ``system`` for the
    recurrence, ``kernel`` for the convolution.

    Args:
        d_model: channels of the input and of the output.
        d_state: N, the real states of a channel.
        n_stored: how many numbers hold them: N / 2 complex ones where a state
            stands for itself and its conjugate, else N real ones.
        dt_min, dt_max: the bounds of delta at first; between, uniform in its
            logarithm.

    Raises:
        ValueError: an argument out of range.
    """

    is_complex = True

    def __init__(
        self,
        d_model: int,
        d_state: int,
        n_stored: int,
        dt_min: float,
        dt_max: float,
    ) -> None:
        super().__init__()
        expect_dt_range(dt_min, dt_max)
        self.d_model, self.d_state = d_model, d_state
        self.n_stored = n_stored
        log_dt = torch.empty(d_model).uniform_(
            math.log(dt_min), math.log(dt_max)
        )
        self.log_dt = nn.Parameter(log_dt)
        self.D = nn.Parameter(torch.randn(d_model))
        self.log_dt._no_weight_decay = True

    @property
    def delta(self) -> Float[Tensor, " d_model"]:
        """The step of each channel, positive; in float32 or more."""
        return in_full(self.log_dt).exp()

    def system(self) -> System:
        """A_bar, B_bar and C of the whole state, with y = Re(C h) + D x."""
        raise NotImplementedError

    def kernel(self, length: int) -> Float[Tensor, "d_model length"]:
        """K_bar, so that y = K_bar * x + D x from a state of zero."""
        raise NotImplementedError

    def forward(
        self, x: Values, state: State | None = None, return_state: bool = False
    ) -> Values | tuple[Values, State]:
        """The layer over a sequence, by the convolution.

            y_k     = (K_bar * x)_k + Re(C A_bar^(k+1) h_{-1}) + D x_k
            h_{L-1} = sum over k of A_bar^(L-1-k) B_bar x_k  +  A_bar^L h_{-1}

        Args:
            x: the input.
            state: h_{-1}, the state before the first step; zero if None.
            return_state: whether to return the state after the last step.

        Returns:
            y, in the dtype of x, and the state if asked for.

        Raises:
            ValueError: a length of 0, shapes that do not fit.
        """
        expect_sequence(x, self.d_model)
        length = x.shape[1]
        y = long_convolution(self.kernel(length), x) + in_full(self.D) * x
        if state is not None:
            self._expect_state(state, len(x))
            y = y + self._free_response(state, length)
        y = y.to(x.dtype)
        return (y, self._last_state(x, state)) if return_state else y

    def step(
        self, x: Token, state: State, system: System | None = None
    ) -> tuple[Token, State]:
        """One step, by the recurrence; the given state is not changed.

        Args:
            x: the input.
            state: the state before it.
            system: what ``system`` returned, so that many steps need it only
                once; computed here if None.

        Returns:
            y, in the dtype of x, and the state after this step.

        Raises:
            ValueError: shapes that do not fit, a state that is real where
                it should be complex, or the other way round.
        """
        expect_token(x, self.d_model)
        self._expect_state(state, len(x))
        A_bar, B_bar, C = self.system() if system is None else system
        h = _apply(A_bar, self._whole(state)) + B_bar * in_full(x)[..., None]
        y = (C * h).sum(-1).real + in_full(self.D) * x
        return y.to(x.dtype), h[..., : self.n_stored]

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """The state before any input: zero.

        Args:
            batch: sequences.
            device: that of the weights if None.
            dtype: a real one, that of the weights if None; raised to float32
                at least, and made complex where the states are.
        """
        dtype = torch.promote_types(dtype or self.log_dt.dtype, torch.float32)
        dtype = dtype.to_complex() if self.is_complex else dtype
        shape = batch, self.d_model, self.n_stored
        return self.log_dt.new_zeros(shape, device=device, dtype=dtype)

    def _free_response(self, state: Tensor, length: int) -> Tensor:
        """What the state alone gives: Re(C A_bar^(k+1) h_{-1})."""
        A_bar, _, C = self.system()
        transposed = A_bar.mT if A_bar.ndim == 3 else A_bar
        rows = krylov(transposed, _apply(transposed, C), length)
        h = self._whole(state).to(rows.dtype)
        return torch.einsum("dnl,bdn->bld", rows, h).real

    def _last_state(self, x: Tensor, state: Tensor | None) -> Tensor:
        """The state after the inputs x, in the precision of the layer."""
        A_bar, B_bar, _ = self.system()
        length = x.shape[1]
        columns = krylov(A_bar, B_bar, length).flip(-1)
        h = torch.einsum("dnl,bld->bdn", columns, x.to(columns.dtype))
        if state is not None:
            is_matrix = A_bar.ndim == 3
            power = (
                matrix_power(A_bar, length)
                if is_matrix
                else krylov(A_bar, A_bar, length)[..., -1]
            )
            h = h + _apply(power, self._whole(state))
        return h[..., : self.n_stored]

    def _whole(self, state: Tensor) -> Tensor:
        """The state as ``system`` wants it; S4 adds the conjugates."""
        return state

    def _expect_state(self, state: Tensor, batch: int) -> None:
        wanted = (batch, self.d_model, self.n_stored)
        expect_shape("state", state, wanted)
        if state.is_complex() != self.is_complex:
            kind = "complex" if self.is_complex else "real"
            raise ValueError(f"state must be {kind}; got {state.dtype}")


class LSSL(LTILayer):
    """The linear state space layer: A is a matrix, and it is learned.

        A_bar = (I - delta A / 2)^-1 (I + delta A / 2)      bilinear
        A_bar = exp(delta A)                                zoh

    A is one matrix for all channels, LegS at first; B, C, D and delta are one
    for each channel. Since delta is, so is A_bar. With ``A.requires_grad_``
    of False and the same for B and log_dt, it is the paper's LSSL-fixed.

    It has N^2 + d_model (2 N + 2) parameters. A is learned as it is, so no
    structure keeps it stable or cheap: that is what S4 adds.

    Args:
        d_model: channels of the input and of the output.
        d_state: N, states of a channel.
        rule: "bilinear", as in the paper, or "zoh".
        dt_min, dt_max: the bounds of delta at first.

    Raises:
        ValueError: an argument out of range.

    Source: Gu et al. 2021 (arXiv 2110.13985), eq. 4, 5 and 7, section 3.3.
        There A is kept to a structured family that has no stable algorithm;
        here, as any method allows, it is free.
    """

    is_complex = False

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        rule: str = "bilinear",
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
    ) -> None:
        expect_sizes(d_model=d_model, d_state=d_state)
        expect_one_of("rule", rule, RULES)
        super().__init__(d_model, d_state, d_state, dt_min, dt_max)
        self.rule = rule
        A, B = hippo_legs(d_state, dtype=self.D.dtype)
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(B.repeat(d_model, 1))
        self.C = nn.Parameter(torch.randn(d_model, d_state))
        self.A._no_weight_decay = self.B._no_weight_decay = True

    def system(self) -> System:
        """A_bar, B_bar and C. Work O(d_model N^3): see ``step``."""
        A, B, C = in_full(self.A), in_full(self.B), in_full(self.C)
        delta_A = self.delta[:, None, None] * A  # d n n
        delta_B = (self.delta[:, None] * B)[..., None]  # d n 1
        if self.rule == "zoh":
            A_bar, phi = exp_and_phi1(delta_A)
            return A_bar, (phi @ delta_B).squeeze(-1), C
        I = torch.eye(self.d_state, dtype=A.dtype, device=A.device)
        # (I - M)^-1 (I + M) = 2 (I - M)^-1 - I. A solve with I + M instead
        # meets denormal numbers at LegS and takes twenty times as long.
        inverse = torch.linalg.inv(I - delta_A / 2)
        return 2 * inverse - I, (inverse @ delta_B).squeeze(-1), C

    def kernel(self, length: int) -> Float[Tensor, "d_model length"]:
        """K_bar_l = C A_bar^l B_bar, by powers of a matrix."""
        A_bar, B_bar, C = self.system()
        return torch.einsum("dn,dnl->dl", C, krylov(A_bar, B_bar, length))


class ChannelMixing(nn.Module):
    """A layer whose channels do not meet, and then a place where they do.

        y = GLU(W gelu(layer(x)) + b),    GLU(a, g) = a sigmoid(g)

    The nonlinearity stands after the layer and not between its steps, which
    is why the steps can still be one convolution.

    Args:
        layer: any with d_model channels and the protocol of ``LTILayer``.
        d_model: its width.

    Source: Gu et al. 2022 (arXiv 2111.00396), section 3.4; GELU and GLU as
        in the released code of S4 and S4D.
    """

    def __init__(self, layer: nn.Module, d_model: int) -> None:
        super().__init__()
        self.layer = layer
        self.out_proj = nn.Linear(d_model, 2 * d_model)

    def forward(
        self, x: Values, state: object = None, return_state: bool = False
    ) -> Values | tuple[Values, object]:
        """As the layer."""
        if not return_state:
            return self._mix(self.layer(x, state))
        y, state = self.layer(x, state, True)
        return self._mix(y), state

    def step(self, x: Token, state: object) -> tuple[Token, object]:
        """One step; the given state is not changed."""
        y, state = self.layer.step(x, state)
        return self._mix(y), state

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> object:
        """The layer's."""
        return self.layer.initial_state(batch, device, dtype)

    def _mix(self, y: Tensor) -> Tensor:
        return F.glu(self.out_proj(F.gelu(y)), dim=-1)


def in_full(
    t: Inexact[Tensor, "*shape"],
) -> Inexact[Tensor, "*shape"]:
    """The same numbers in float32 or more."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _apply(A_bar: Tensor, h: Tensor) -> Tensor:
    """A_bar h for each channel, for a matrix or its diagonal."""
    if A_bar.ndim == 2:
        return A_bar * h
    return torch.einsum("dij,...dj->...di", A_bar, h.to(A_bar.dtype))
