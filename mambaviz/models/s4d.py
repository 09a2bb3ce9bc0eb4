r"""S4D: S4 without the low rank, which turns all matrices into numbers.

    h_k = A_bar h_{k-1} + B_bar x_k,      y_k = 2 Re(C h_k) + D x_k

    K_bar_l = 2 Re sum over n of C_n B_bar_n A_bar_n^l

A_bar is a diagonal: each state fades and turns on its own, and the kernel is
a product with the Vandermonde matrix of A_bar. What a diagonal cannot be is
LegS itself, so its first values are chosen by a formula; see ``INITS``.

Source: Gu et al. 2022 (arXiv 2206.11893), sections 3 and 4.
See: the chapter ``hippo``.
"""

import torch
from jaxtyping import Float, Inexact
from torch import Tensor, nn

from mambaviz.models.checks import expect_one_of, expect_sizes
from mambaviz.models.lti import RULES, LTILayer, System, in_full
from mambaviz.models.s4 import as_complex, complex_normal, decaying, stored
from mambaviz.theory.discretize import DISCRETIZATION_RULES
from mambaviz.theory.dplr import (
    s4d_inv,
    s4d_kernel,
    s4d_legs,
    s4d_lin,
    s4d_real,
)

INITS = {
    "lin": s4d_lin,
    "inv": s4d_inv,
    "legs": s4d_legs,
    "real": s4d_real,
}

Diagonal = Inexact[Tensor, "d_model n"]


class S4D(LTILayer):
    """One diagonal system for each channel.

    With "lin", "inv" and "legs" the states are complex, and one of each
    conjugate pair is stored; complex parameters are stored as in ``S4``. With
    "real" each of the N states stands for itself, and y = C h + D x. Mamba's
    A starts there.

    It has d_model (3 N + 2) real parameters: Lambda, B and C of N each, delta
    and D.

    Args:
        d_model: channels of the input and of the output.
        d_state: N, real states of a channel; even unless "real".
        init: Lambda at first, a key of ``INITS``.
        rule: "zoh" or "bilinear".
        dt_min, dt_max: the bounds of delta at first; between, uniform in its
            logarithm.

    Raises:
        ValueError: an argument out of range.

    Source: Gu et al. 2022 (arXiv 2206.11893), section 3 (Re Lambda as an
        exponential, both rules, B = 1 and C normal at first) and section 4
        (the inits). D normal as in the released code.

    Example:
        >>> layer = S4D(d_model=3, d_state=64)
        >>> sum(p.numel() for p in layer.parameters())
        582
        >>> y = layer(torch.ones(2, 10, 3))
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        init: str = "lin",
        rule: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
    ) -> None:
        expect_sizes(d_model=d_model, d_state=d_state)
        expect_one_of("init", init, tuple(INITS))
        expect_one_of("rule", rule, RULES)
        Lambda = INITS[init](d_state)
        super().__init__(d_model, d_state, len(Lambda), dt_min, dt_max)
        self.rule, self.is_complex = rule, Lambda.is_complex()
        shape, dtype = (d_model, len(Lambda)), self.D.dtype
        log_A_real = torch.log(-Lambda.real).to(dtype).repeat(d_model, 1)
        self.log_A_real = nn.Parameter(log_A_real)
        if self.is_complex:
            A_imag = Lambda.imag.to(dtype).repeat(d_model, 1)
            self.A_imag = nn.Parameter(A_imag)
            self.A_imag._no_weight_decay = True
            self.B = stored(
                torch.complex(torch.ones(shape), torch.zeros(shape))
            )
            self.C = stored(complex_normal(*shape))
        else:
            self.B = nn.Parameter(torch.ones(shape))
            self.C = nn.Parameter(torch.randn(shape))
        self.log_A_real._no_weight_decay = self.B._no_weight_decay = True

    @property
    def Lambda(self) -> Diagonal:
        """The diagonal: one of each pair, or real."""
        if self.is_complex:
            return decaying(self.log_A_real, self.A_imag)
        return -in_full(self.log_A_real).exp()

    def system(self) -> System:
        """A_bar, B_bar and C, with the 2 of the pairs in C."""
        Lambda, B, C = self._continuous()
        discretize = DISCRETIZATION_RULES[self.rule]
        A_bar, B_bar = discretize(Lambda, B, self.delta[:, None])
        return A_bar, B_bar, 2 * C if self.is_complex else C

    def kernel(self, length: int) -> Float[Tensor, "d_model length"]:
        """K_bar, by the Vandermonde matrix."""
        Lambda, B, C = self._continuous()
        return s4d_kernel(Lambda, B, C, self.delta, length, self.rule)

    def _continuous(self) -> tuple[Diagonal, Diagonal, Diagonal]:
        read = as_complex if self.is_complex else in_full
        return self.Lambda, read(self.B), read(self.C)
