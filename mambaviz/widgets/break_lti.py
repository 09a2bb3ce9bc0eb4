"""BreakLTI: let B change over time, and see the stripes go."""

import torch
from jaxtyping import Float
from torch import Tensor

from mambaviz.theory.lti import shift_error, time_varying_matrix
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.kernel_slides import CHAPTER
from mambaviz.widgets.traits import Choice, Quantity

# Which of twelve tokens carry something; the others are noise.
WANTED = (1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1)
Steps = Float[Tensor, "length 1"]


class BreakLTI(Explorable):
    r"""When is a layer no longer one convolution?

    The outputs are a matrix times the inputs. While :math:`\bar A`, :math:`
    \bar B` and C stay the same, that matrix has the same number all along
    each diagonal, and its first column is the kernel. Here :math:`A = -1` and
    :math:`C = 1`, and :math:`\bar B`, or the step, can be made smaller at
    some tokens.

    Args:
        delta: the step, from 0.05 to 2.
        swing: how much smaller at the tokens without content, from 0, not at
            all, to 1, nothing is left.
        what: ``"input"``, only the input's weight changes, or ``"delta"``, the
            step does, and with it both.

    Example:
        >>> BreakLTI(swing=0.0).numbers()["One kernel does it"]
        'yes'
    """

    _module = "break_lti"
    question = "When is a layer no longer one convolution?"
    lesson = (
        "As soon as one of its parameters changes from token to token. The"
        " matrix from inputs to outputs then loses its stripes: no one kernel"
        " does it, and a delayed input no longer gives the same output,"
        " delayed."
    )
    answer = (
        "At a swing of 0 every diagonal has one colour: the matrix is"
        " determined by its first column, the kernel. Raise the swing with"
        " B̄ changing: whole columns fade, those of tokens that are let in"
        " less. Let Δ change instead: columns of tokens without content fade"
        " and the rows beside them become alike, since such a token neither"
        " enters nor takes anything from what is remembered. At a swing of 1"
        " it might as well not be there. That is what Mamba gains, and the"
        " kernel and the FFT are what it gives up."
    )
    computed = {
        "mambaviz.theory.lti.time_varying_matrix": CHAPTER
        + "#time-varying-code",
        "mambaviz.theory.lti.shift_error": CHAPTER + "#shift-code",
    }

    swing = Quantity(
        0.6,
        low=0.0,
        high=1.0,
        label="Swing",
        symbol="B",
        hint="0: the same at every token; 1: closed where there is no content",
    )
    delta = Quantity(
        0.3,
        low=0.05,
        high=2.0,
        scale="log",
        label="Δ",
        symbol="delta",
        hint="the step, with A = −1 and C = 1",
    )
    what = Choice(
        "input",
        options={
            "input": "B̄ changes over time",
            "delta": "Δ changes over time",
        },
        label="What is no longer fixed",
    )

    def steps(self) -> tuple[Steps, Steps]:
        """A_bar and B_bar of every step."""
        wanted = torch.tensor(WANTED, dtype=torch.float64)[:, None]
        open_ = 1 - self.swing * (1 - wanted)
        delta = torch.full_like(open_, self.delta)
        if self.what == "delta":
            delta = delta * open_
            return torch.exp(-delta), -torch.expm1(-delta)
        return torch.exp(-delta), -torch.expm1(-delta) * open_

    def numbers(self) -> dict[str, str]:
        """How striped the matrix is, and how the system treats a delay."""
        A_bar, B_bar = self.steps()
        M = time_varying_matrix(A_bar, B_bar, torch.ones_like(B_bar))
        spread = largest_spread(M)
        impulse = torch.zeros(len(M), dtype=torch.float64)
        impulse[0] = 1
        delay = shift_error(lambda x: M @ x, impulse, 4)
        return {
            "What is no longer fixed": self.knob_traits()["what"].options[
                self.what
            ],
            "B̄ of the tokens": ", ".join(
                f"{v:.2g}" for v in B_bar.flatten().tolist()
            ),
            "Largest spread along a diagonal": _zero_or(spread),
            "Error of a delay by 4": _zero_or(delay),
            "One kernel does it": "yes" if spread < 1e-12 else "no",
        }


def largest_spread(M: Float[Tensor, "length length"]) -> float:
    """The largest difference between two numbers of one diagonal."""
    return max(
        (d.max() - d.min()).item()
        for d in (M.diagonal(-lag) for lag in range(len(M)))
    )


def _zero_or(value: float) -> str:
    return "0 within rounding" if value < 1e-12 else f"{value:.3g}"
