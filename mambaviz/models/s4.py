r"""S4: the memory of LegS at the price of a diagonal.

    A     = Lambda - P P^*                 diagonal, less one rank
    A_bar = (I - delta A / 2)^-1 (I + delta A / 2)
    B_bar = (I - delta A / 2)^-1 delta B

LegS is of this form in a basis where it is nearly diagonal (``dplr_legs``).
So no step multiplies by a matrix: the kernel is a Cauchy product at the roots
of unity, and the recurrence solves with I - delta A / 2 by Woodbury.

C and C_tilde. The sum of the first L terms of the kernel is

    sum over l < L of C A_bar^l z^l B_bar = C_tilde (I - z A_bar)^-1 B_bar
    C_tilde = C (I - A_bar^L)              where z^L = 1

The paper learns C_tilde itself, of one L, which saves the power. Here C is the
parameter and ``dplr_kernel`` computes C_tilde, so one layer is the same system
for every length, for chunks of any size, and for the recurrence.

Source: Gu et al. 2022 (arXiv 2111.00396), section 3, algorithm 1.
See: the chapter ``hippo``.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from mambaviz.models.checks import expect_sizes, expect_token
from mambaviz.models.lti import LTILayer, State, System, Token, in_full
from mambaviz.theory.dplr import (
    conjugate_half,
    dplr_discretize,
    dplr_kernel,
    dplr_legs,
)

Pairs = Complex[Tensor, "d_model n_pairs"]


class S4(LTILayer):
    """One S4 system for each channel, LegS at first.

    States come in conjugate pairs, and one of each pair is stored: y = 2 Re(C
    h) + D x with h of N / 2 complex numbers. Complex parameters are stored as
    pairs of real ones in a last axis of 2; Re Lambda is -exp(log_A_real) and
    stays negative, so the system stays stable whatever is learned.

    It has d_model (4 N + 2) real parameters: Lambda, P, B and C of N each,
    delta and D. A state handed over between chunks goes through the matrices
    of ``system``, in O(N^2 L); the kernel and the steps never need them.

    Args:
        d_model: channels of the input and of the output.
        d_state: N, real states of a channel; even.
        dt_min, dt_max: the bounds of delta at first; between, uniform in its
            logarithm.

    Raises:
        ValueError: an argument out of range.

    Source: Gu et al. 2022 (arXiv 2111.00396), theorems 1 to 3. There the low
        rank is P Q^*; with Q = P, as at the start, A stays stable: Goel et
        al. 2022 (arXiv 2202.09729). C and D normal as in the
        released code.

    Example:
        >>> layer = S4(d_model=3, d_state=64)
        >>> sum(p.numel() for p in layer.parameters())
        774
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
    ) -> None:
        expect_sizes(d_model=d_model, d_state=d_state)
        Lambda, P, B, _ = conjugate_half(dplr_legs(d_state))
        super().__init__(d_model, d_state, d_state // 2, dt_min, dt_max)
        log_A_real = torch.log(-Lambda.real).to(self.D.dtype)
        A_imag = Lambda.imag.to(self.D.dtype)
        self.log_A_real = nn.Parameter(log_A_real.repeat(d_model, 1))
        self.A_imag = nn.Parameter(A_imag.repeat(d_model, 1))
        self.P = stored(P.squeeze(-1).repeat(d_model, 1))
        self.B = stored(B.repeat(d_model, 1))
        self.C = stored(complex_normal(d_model, d_state // 2))
        for parameter in (self.log_A_real, self.A_imag, self.P, self.B):
            parameter._no_weight_decay = True

    @property
    def Lambda(self) -> Pairs:
        """The diagonal, one of each conjugate pair."""
        return decaying(self.log_A_real, self.A_imag)

    def system(self) -> System:
        """A_bar, B_bar and C of both of each pair, as matrices."""
        P, B, C = (as_complex(t) for t in (self.P, self.B, self.C))
        A_bar, B_bar = dplr_discretize(
            self.Lambda, P[..., None], B, self.delta
        )
        return A_bar, B_bar, torch.cat([C, C.conj()], dim=-1)

    def kernel(self, length: int) -> Float[Tensor, "d_model length"]:
        """K_bar, by Cauchy and Woodbury at the roots of unity."""
        P, B, C = (as_complex(t) for t in (self.P, self.B, self.C))
        return dplr_kernel(self.Lambda, P[..., None], B, C, self.delta, length)

    def step(
        self, x: Token, state: State, system: System | None = None
    ) -> tuple[Token, State]:
        """One step in O(N); the given state is not changed.

            r  = (I + delta A / 2) h + delta B x
            h' = (I - delta A / 2)^-1 r
               = R r - R P (p R r) / (1 + p R P)          by Woodbury
            R  = (1 - delta Lambda / 2)^-1,    p = delta / 2 P^*

        A product of P^* with both of each pair is 2 Re(P^* h).

        Args:
            x: the input.
            state: the state before it.
            system: what ``system`` returned, to go by its matrices instead,
                in O(N^2).

        Source: Gu et al. 2022 (arXiv 2111.00396), theorem 2.
        """
        if system is not None:
            return super().step(x, state, system)
        expect_token(x, self.d_model)
        self._expect_state(state, len(x))
        P, B, C = (as_complex(t) for t in (self.P, self.B, self.C))
        delta = self.delta[:, None]
        half_Lambda = delta / 2 * self.Lambda

        def p(h: Tensor) -> Tensor:
            return delta * (P.conj() * h).real.sum(-1, keepdim=True)

        r = (1 + half_Lambda) * state - P * p(state)
        r = r + delta * B * in_full(x)[..., None]
        R = 1 / (1 - half_Lambda)
        h = R * r - R * P * (p(R * r) / (1 + p(R * P)))
        y = 2 * (C * h).real.sum(-1) + in_full(self.D) * x
        return y.to(x.dtype), h

    def _whole(self, state: Tensor) -> Tensor:
        return torch.cat([state, state.conj()], dim=-1)


def decaying(
    log_A_real: Float[Tensor, "*shape"], A_imag: Float[Tensor, "*shape"]
) -> Complex[Tensor, "*shape"]:
    """Lambda = -exp(log_A_real) + i A_imag, in complex64 or more."""
    return torch.complex(-in_full(log_A_real).exp(), in_full(A_imag))


def complex_normal(*shape: int) -> Complex[Tensor, "*shape"]:
    """Complex numbers with a mean square of 1."""
    return torch.view_as_complex(torch.randn(*shape, 2) / 2**0.5)


def stored(z: Complex[Tensor, "*shape"]) -> nn.Parameter:
    """A complex parameter as real numbers, so that a module can be cast."""
    dtype = torch.get_default_dtype()
    return nn.Parameter(torch.view_as_real(z).to(dtype).contiguous())


def as_complex(t: Float[Tensor, "*shape 2"]) -> Complex[Tensor, "*shape"]:
    """What ``stored`` holds, in complex64 or more."""
    return torch.view_as_complex(in_full(t))
