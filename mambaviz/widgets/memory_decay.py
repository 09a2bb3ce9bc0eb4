"""MemoryDecay: slide Δ and A and see what is left of the past."""

import math

import torch

from mambaviz.theory.discretize import discretize_zoh, half_life
from mambaviz.widgets.explorable import ZOH_CHAPTER, Explorable
from mambaviz.widgets.traits import Quantity


class MemoryDecay(Explorable):
    r"""How long does a state remember a token?

    A state with the continuous parameter A (negative), held for steps of
    length Δ, keeps the share :math:`e^{\Delta A k}` of a token that is k
    steps old; after :math:`\ln 2 / (\Delta |A|)` steps half of it is left.
    Several states have A, 2A, 3A, ..., as in a newly made Mamba.

    Args:
        delta: the step size Δ, from 0.001 to 1.
        A: the state's continuous parameter, from -16 to -0.1.
        states: how many states to draw, from 1 to 16.

    Example:
        >>> widget = MemoryDecay(delta=0.05)
        >>> widget.A
        -1.0
    """

    _module = "memory_decay"
    question = "How long does a state remember a token?"
    lesson = (
        "Every step multiplies the state by exp(ΔA). A small Δ, or an A close"
        " to zero, keeps the past. The lower picture takes B = −A, so that a"
        " constant 1 leads every state to 100 %; a step then takes in"
        " 1 − exp(ΔA) of a token."
    )
    answer = (
        "Move Δ to the left: the bars flatten, old words stay, and the sticks"
        " below hardly move the state. Move it to the right: only the newest"
        " token counts. Move A to the right, towards 0, and the state"
        " remembers longer; only the product ΔA counts for how much is kept."
        " Several states with different A remember over several time spans"
        " at once."
    )
    computed = {
        "mambaviz.theory.discretize.discretize_zoh": ZOH_CHAPTER + "#zoh-code",
        "mambaviz.theory.discretize.half_life": ZOH_CHAPTER
        + "#half-life-code",
    }

    delta = Quantity(
        0.1,
        low=0.001,
        high=1.0,
        scale="log",
        label="Δ",
        symbol="delta",
        hint="Mamba starts between 0.001 and 0.1",
    )
    A = Quantity(
        -1.0,
        low=-16.0,
        high=-0.1,
        scale="log",
        label="A",
        symbol="A",
        hint="Mamba starts at −1, −2, … −16",
    )
    states = Quantity(
        4,
        low=1,
        high=16,
        integer=True,
        label="States",
        symbol="h",
        hint="with A, 2A, 3A, … ; the bars belong to the first",
    )

    def numbers(self) -> dict[str, str]:
        """Half-life and shares of the first state, as text."""
        A_bar, _ = discretize_zoh(
            torch.tensor(self.A, dtype=torch.float64), 1.0, self.delta
        )
        steps = float(half_life(self.A, self.delta))
        after_ten = math.pow(float(A_bar), 10)
        return {
            "Δ": f"{self.delta:g}",
            "A": f"{self.A:g}",
            "Ā = exp(ΔA)": f"{float(A_bar):.4g}",
            "Half-life": f"{steps:.3g} steps",
            "Left after 10 steps": f"{after_ten:.1%}",
        }
