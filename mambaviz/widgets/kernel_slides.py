"""KernelSlides: a kernel moves over a padded input, one output a stop."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from mambaviz.theory.lti import (
    causal_convolution,
    simulate_recurrence,
    ssm_kernel,
)
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.traits import Choice, Quantity

CHAPTER = "chapters/three-representations.html"

# Eight places; the last of them may hold padding.
TOKENS = (0.9, 0.4, -0.6, 0.7, 1.0, -0.3, 0.5, 0.8)
# How far a kernel of an image filter reaches past its place, to the right.
AHEAD = 2


class KernelSlides(Explorable):
    r"""How can one kernel give every output?

    The system :math:`h_k = \bar A h_{k-1} + (1 - \bar A) x_k`,
    :math:`y_k = h_k`, has the kernel :math:`\bar K_j = (1 - \bar A) \bar
    A^j`. Turned round and laid over the input with its newest end at token k,
    it gives :math:`y_k` as a sum of products. Zeros stand before the first
    token, so that it is never short of input.

    Args:
        k: the token whose output is computed, from 0 to 7.
        A_bar: what a step leaves of the state, from 0 to 0.95.
        pads: how many places at the end hold padding, from 0 to 3.
        fill: what stands in those places, from -1 to 1.
        padding: ``"left"``, the zeros before the input, or ``"both"``, the
            kernel in the middle as with images; it then sees two tokens
            ahead.

    Example:
        >>> KernelSlides(k=1, A_bar=0.5).numbers()["y₁ by the kernel"]
        '0.425'
    """

    _module = "kernel_slides"
    question = "How can one kernel give every output?"
    lesson = (
        "The same numbers, laid over the input at every token in turn, give"
        " every output; none waits for another. With zeros on the left the"
        " output of a token knows nothing of later ones, so padding at the"
        " end changes no earlier output. It does change the state that is"
        " carried on."
    )
    answer = (
        "Step through the tokens: the kernel keeps its shape and moves, and"
        " its sum of products is what the recurrence has at that token. At"
        " the first token all but one of its numbers lie on zeros. Put"
        " padding at the end and change what it holds: no output before it"
        " moves, but the carried state does, even where the padding is 0,"
        " for every step multiplies it by Ā. Then let the kernel reach both"
        " ways, as with images: outputs now change with tokens that are yet"
        " to come, and no recurrence that runs forward can follow."
    )
    computed = {
        "mambaviz.theory.lti.ssm_kernel": CHAPTER + "#kernel-code",
        "mambaviz.theory.lti.causal_convolution": CHAPTER
        + "#convolution-code",
        "mambaviz.theory.lti.simulate_recurrence": CHAPTER
        + "#recurrence-lti-code",
    }

    k = Quantity(
        3,
        low=0,
        high=7,
        integer=True,
        label="k",
        symbol="y",
        hint="which output is being computed",
    )
    A_bar = Quantity(
        0.6,
        low=0.0,
        high=0.95,
        label="Ā",
        symbol="A",
        hint="with B̄ = 1 − Ā and C = 1; near 1 the kernel is long",
    )
    pads = Quantity(
        0,
        low=0,
        high=3,
        integer=True,
        label="Pads",
        symbol="x",
        hint="how many places at the end are padding",
    )
    fill = Quantity(
        0.0,
        low=-1.0,
        high=1.0,
        label="Pad value",
        symbol="x",
        hint="what the padding holds",
    )
    padding = Choice(
        "left",
        options={
            "left": "Zeros on the left: causal",
            "both": "Zeros on both sides, as with images",
        },
        label="Where the kernel reaches",
    )

    def _tokens(self) -> Float[Tensor, " length"]:
        x = torch.tensor(TOKENS, dtype=torch.float64)
        x[len(x) - self.pads :] = self.fill
        return x

    def numbers(self) -> dict[str, str]:
        """Kernel, outputs both ways and the carried states, as text."""
        x = self._tokens()
        one = torch.ones(1, dtype=torch.float64)
        A_bar, B_bar = self.A_bar * one, (1 - self.A_bar) * one
        K_bar = ssm_kernel(A_bar, B_bar, one, len(x))
        ahead = AHEAD if self.padding == "both" else 0
        y = causal_convolution(K_bar, pad(x, (0, ahead)))[ahead:]
        h = simulate_recurrence(A_bar, B_bar, one, 0.0, x)
        sub = "₀₁₂₃₄₅₆₇"[self.k]
        return {
            "K̄": ", ".join(f"{v:.3g}" for v in K_bar.tolist()),
            "x": ", ".join(f"{v:g}" for v in x.tolist()),
            "Where the kernel reaches": self.knob_traits()["padding"].options[
                self.padding
            ],
            f"y{sub} by the kernel": f"{y[self.k]:.3g}",
            f"y{sub} by the recurrence": f"{h[self.k]:.3g}",
            "State after the last token": f"{h[len(x) - 1 - self.pads]:.3g}",
            "State after the padding": f"{h[-1]:.3g}",
        }
