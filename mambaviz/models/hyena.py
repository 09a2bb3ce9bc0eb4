r"""Hyena: a kernel as long as the text, drawn by a small network.

    q, k, v = short_conv(W_in x)
    y       = W_out ( q (h * (k v) + D k v) )
    h_t     = Window(t) FFN(PositionalEncoding(t))

The products are those of H3. But h is no SSM: it is a function of the lag t,
with as many parameters for a long text as for a short one. The price is paid
in generation. A kernel that is free has no recurrence, so no state of fixed
size can replace the past: a step needs *all* earlier k v, as attention needs
its cache.

Source: Poli et al. 2023 (arXiv 2302.10866), eq. 6 and 7, algorithms 1 to 3.
See: the chapter ``selection``.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mambaviz.models.checks import expect_sequence, expect_sizes, expect_token
from mambaviz.models.lti import in_full, long_convolution
from mambaviz.ops.causal_conv1d import causal_conv1d

# The windows' e-foldings over max_length: at 1.5 or 0.3 of it, from the
# slowest channel to the fastest, 1/100 is left. As in the released code.
SLOWEST, FASTEST = math.log(100) / 1.5, math.log(100) / 0.3

Values = Float[Tensor, "batch length d_model"]
Token = Float[Tensor, "batch d_model"]


class HyenaState(NamedTuple):
    """What the operator remembers: everything. It grows with each token."""

    # The last d_conv - 1 inputs of the short convolution, the newest last.
    conv: Float[Tensor, "batch 3*d_model d_conv-1"]
    # k v of all tokens so far, the oldest first.
    past: Float[Tensor, "batch past d_model"]


class HyenaFilter(nn.Module):
    """The kernel as a function of the lag.

        h_t      = exp(-decay t / (L - 1)) FFN(features(t))
        features = t / (L - 1), cos(2 pi f t / L), -sin(2 pi f t / L)
        FFN      = linear, sine, linear, sine, linear, sine, linear

    with L = max_length and f from about 0 to the number of bands - 1. A sine
    instead of a GELU gives the network the high frequencies that it would
    learn late; its own frequency is learned too.

    Args:
        d_model: kernels, one for each channel.
        max_length: L, the longest kernel.
        d_filter: width of the FFN.
        n_features: of a lag, odd: t and a cosine and a sine for each band.
        frequency: of the sines at first.

    Raises:
        ValueError: an argument out of range.

    Source: Poli et al. 2023 (arXiv 2302.10866), eq. 7 and algorithm 2; the
        released code for features, decay and first values. There the table
        of features is learned, slowly; here it is fixed.
    """

    def __init__(
        self,
        d_model: int,
        max_length: int,
        *,
        d_filter: int = 64,
        n_features: int = 33,
        frequency: int | float = 14.0,
    ) -> None:
        super().__init__()
        expect_sizes(d_model=d_model, max_length=max_length, d_filter=d_filter)
        if n_features < 3 or n_features % 2 == 0:
            raise ValueError(
                f"n_features must be odd and at least 3; got {n_features}"
            )
        self.max_length = max_length
        self.layers = nn.ModuleList(
            [
                nn.Linear(n_features, d_filter),
                nn.Linear(d_filter, d_filter),
                nn.Linear(d_filter, d_filter),
            ]
        )
        self.out_proj = nn.Linear(d_filter, d_model, bias=False)
        self.frequency = nn.Parameter(
            torch.full((d_filter,), float(frequency))
        )
        self.n_bands = (n_features - 1) // 2

    def features(self, length: int) -> Float[Tensor, "length n_features"]:
        """What the network is told of each lag."""
        like = in_full(self.frequency)
        lag = torch.arange(length).to(like)[:, None]
        f = _spaced(1e-4, self.n_bands - 1, self.n_bands, like)
        angle = 2 * math.pi * lag / self.max_length * f
        t = lag / max(self.max_length - 1, 1)
        return torch.cat([t, angle.cos(), -angle.sin()], dim=-1)

    def forward(self, length: int) -> Float[Tensor, "d_model length"]:
        """h at the lags 0 to length - 1, in float32 or more."""
        features = self.features(length)
        h = features
        for layer in self.layers:
            h = F.linear(h, in_full(layer.weight), in_full(layer.bias))
            h = torch.sin(in_full(self.frequency) * h)
        h = F.linear(h, in_full(self.out_proj.weight))  # length d_model
        decay = _spaced(SLOWEST, FASTEST, h.shape[1], h)
        return (torch.exp(-features[:, :1] * decay) * h).T


class Hyena(nn.Module):
    """The Hyena operator of order 2.

    Two gates, and between them one long kernel; before the first stands the
    short convolution that all three projections go through. So it is in the
    released code. In definition 3.1 of the paper a second long kernel takes
    the place of that short one.

    It has 4 d_model (d_model + 1) parameters in its projections, 3 d_model
    (d_conv + 1) in the short convolution, d_model for D, and those of
    ``HyenaFilter``; none of these depend on max_length.

    Args:
        d_model: width of the input and of the output.
        max_length: the longest sequence, steps included: the lags that the
            kernel is defined for.
        d_conv: taps of the short convolution.
        d_filter, n_features, frequency: see ``HyenaFilter``. As in the
            released code for the Pile.

    Raises:
        ValueError: an argument out of range.

    Source: Poli et al. 2023 (arXiv 2302.10866), algorithm 3.

    Example:
        >>> operator = Hyena(d_model=8, max_length=32)
        >>> x = torch.ones(2, 10, 8)
        >>> y, state = operator(x, return_state=True)
        >>> state.past.shape  # of all ten tokens
        torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        d_model: int,
        max_length: int,
        *,
        d_conv: int = 3,
        d_filter: int = 64,
        n_features: int = 33,
        frequency: int | float = 14.0,
    ) -> None:
        super().__init__()
        expect_sizes(d_model=d_model, d_conv=d_conv)
        self.d_model, self.d_conv = d_model, d_conv
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        # It only holds the parameters, with their first values.
        self.short_conv = nn.Conv1d(
            3 * d_model, 3 * d_model, d_conv, groups=3 * d_model
        )
        self.filter = HyenaFilter(
            d_model,
            max_length,
            d_filter=d_filter,
            n_features=n_features,
            frequency=frequency,
        )
        self.D = nn.Parameter(torch.randn(d_model))
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(
        self,
        x: Values,
        state: HyenaState | None = None,
        return_state: bool = False,
    ) -> Values | tuple[Values, HyenaState]:
        """The operator over a sequence.

        Args:
            x: the input.
            state: of the tokens before; nothing if None. All of them take
                part in the convolution again.
            return_state: whether to return the state that includes these.

        Returns:
            y, and the state if asked for.

        Raises:
            ValueError: a length of 0, more than max_length tokens in all,
                shapes that do not fit.
        """
        expect_sequence(x, self.d_model)
        state = self.initial_state(len(x)) if state is None else state
        q, kv, conv = self._gated(x, state.conv)
        past = self._grown(state.past, kv)
        long = long_convolution(self.filter(past.shape[1]), past)
        long = long[:, -x.shape[1] :].to(x.dtype)
        y = self.out_proj(q * (long + self.D * kv))
        return (y, HyenaState(conv, past)) if return_state else y

    def step(self, x: Token, state: HyenaState) -> tuple[Token, HyenaState]:
        """One step, in time and memory that grow with the number of tokens.

            y_t = W_out ( q_t (sum over j of h_j (k v)_{t-j} + D (k v)_t) )

        Args:
            x: the input of this step.
            state: of the tokens before; it stays as it is.

        Returns:
            y, and a state longer by one token.

        Raises:
            ValueError: more than max_length tokens in all, shapes that do
                not fit.
        """
        expect_token(x, self.d_model)
        q, kv, conv = self._gated(x[:, None], state.conv)
        past = self._grown(state.past, kv)
        h = self.filter(past.shape[1]).flip(-1)
        long = torch.einsum("dt,btd->bd", h, past.to(h.dtype))
        y = self.out_proj(q[:, 0] * (long.to(x.dtype) + self.D * kv[:, 0]))
        return y, HyenaState(conv, past)

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> HyenaState:
        """The state before any input: no past.

        Args:
            batch: sequences.
            device: that of the weights if None.
            dtype: that of the weights if None.
        """
        weight, d_model = self.in_proj.weight, self.d_model
        return HyenaState(
            weight.new_zeros(
                (batch, 3 * d_model, self.d_conv - 1),
                device=device,
                dtype=dtype,
            ),
            weight.new_zeros((batch, 0, d_model), device=device, dtype=dtype),
        )

    def _gated(self, x: Tensor, conv: Tensor) -> tuple[Tensor, ...]:
        """q, k v, and the last inputs of the short convolution."""
        z, conv = causal_conv1d(
            self.in_proj(x),
            self.short_conv.weight.squeeze(1),
            self.short_conv.bias,
            None,
            conv,
            True,
        )
        q, k, v = z.chunk(3, dim=-1)
        return q, k * v, conv

    def _grown(self, past: Tensor, kv: Tensor) -> Tensor:
        """All k v so far, refused where the kernel ends."""
        fits = past.ndim == 3 and past.shape[::2] == kv.shape[::2]
        if not fits:
            raise ValueError(
                f"state.past must have shape ({len(kv)}, past, "
                f"{self.d_model}); got {tuple(past.shape)}"
            )
        total = past.shape[1] + kv.shape[1]
        if total > self.filter.max_length:
            raise ValueError(
                "the kernel is defined for max_length = "
                f"{self.filter.max_length} tokens; got {total}, "
                f"{past.shape[1]} of them in the state"
            )
        return torch.cat([past, kv], dim=1)


def _spaced(first: float, last: int | float, n: int, like: Tensor) -> Tensor:
    """n numbers, equally far apart, in the precision of ``like``."""
    return torch.linspace(first, last, n, dtype=like.dtype, device=like.device)
