"""HoldIt: drag an input and see steps follow a continuous system."""

import torch

from mambaviz.theory.discretize import (
    DISCRETIZATION_RULES,
    held_state,
    linear_recurrence,
)
from mambaviz.widgets.explorable import ZOH_CHAPTER, Explorable
from mambaviz.widgets.traits import Choice, Quantity, Series

# Below this a gap is what float64 leaves of an exact 0.
ROUNDING = 1e-12


class HoldIt(Explorable):
    r"""Can steps follow a continuous system exactly?

    Each sample :math:`x_k` is held for a time Δ. The continuous system
    :math:`h'(t) = A h(t) + B x(t)`, :math:`y = C h`, follows this staircase
    in a curve with a closed form; the recurrence
    :math:`h_k = \bar A h_{k-1} + \bar B x_k` follows it in steps. With the
    zero-order hold, :math:`h_k` is the continuous state at the *end* of the
    hold of :math:`x_k`, at time :math:`(k+1)\Delta`; with another rule it
    misses.

    Here B = -A and C = 1: a held 1 then leads to y = 1, so that staircase
    and curve share one axis.

    Args:
        delta: how long each sample is held, from 0.05 to 1.5.
        A: the system's continuous parameter, from -4 to -0.1.
        samples: the input, 8 to 12 numbers from -1 to 1.
        rule: how the steps are made: ``"zoh"``, ``"mamba"`` (the released
            code: A by zero-order hold, B by Euler) or ``"euler"``.
        view: ``"time"``, x(t) and y(t) with the steps on them, or
            ``"steps"``, the two sequences alone.

    Example:
        >>> widget = HoldIt(rule="mamba")
        >>> widget.numbers()["Largest gap"]
        '0.361'
    """

    _module = "hold_it"
    question = "Can steps follow a continuous system exactly?"
    lesson = (
        "Yes, while the input is held: with the zero-order hold the state"
        " after each step is the state of the continuous system at the end of"
        " that hold, for every Δ and every input. Mamba's code, which takes"
        " ΔB for B̄, misses, and the more so the larger Δ|A| is."
    )
    answer = (
        "Drag any x, Δ or A: with the zero-order hold the dots never leave"
        " the curve, although the steps know nothing of what lies between"
        " them. The dot of a sample stands at the right edge of its step,"
        " where its hold ends. Δ says how long a value is held: a larger Δ"
        " gives the curve more time to reach it. Choose Mamba's code: with"
        " one Δ for all steps, every dot lies too far out by the same factor,"
        " Δ|A| / (1 − exp(ΔA)), which is close to one only where Δ|A| is"
        " small. Euler's steps jump past the held value where Δ|A| is above"
        " 1, and where it is above 2 they grow without end. At last show the"
        " steps alone: a sequence goes in and a sequence comes out, counted"
        " by k, and Δ is left in Ā and B̄ only."
    )
    computed = {
        "mambaviz.theory.discretize.discretize_zoh": ZOH_CHAPTER + "#zoh-code",
        "mambaviz.theory.discretize.linear_recurrence": ZOH_CHAPTER
        + "#recurrence-code",
        "mambaviz.theory.discretize.held_state": ZOH_CHAPTER
        + "#held-state-code",
    }

    delta = Quantity(
        0.4,
        low=0.05,
        high=1.5,
        label="Δ",
        symbol="delta",
        hint="how long each x is held: watch the times, and Ā",
    )
    A = Quantity(
        -2.0,
        low=-4.0,
        high=-0.1,
        scale="log",
        label="A",
        symbol="A",
        hint="with B = −A and C = 1, so a held 1 leads to y\u00a0=\u00a01",
    )
    samples = Series(
        (0.5, 0.85, 0.85, 0.85, -0.7, -0.7, 0.0, 0.8, 0.0, 0.0),
        low=-1.0,
        high=1.0,
        shortest=8,
        longest=12,
        label="x",
        symbol="x",
    )
    rule = Choice(
        "zoh",
        options={
            "zoh": "Zero-order hold",
            "mamba": "Mamba's code: B̄ = ΔB",
            "euler": "Euler: Ā = 1 + ΔA too",
        },
        label="How the steps are made",
    )
    view = Choice(
        "time",
        options={"time": "x(t) → y(t), in time", "steps": "xₖ → yₖ, in steps"},
        label="What is shown",
    )

    def numbers(self) -> dict[str, str]:
        """Ā, B̄, the states and how far they are from the curve, as text."""
        A = torch.tensor([self.A], dtype=torch.float64)
        x = torch.tensor(self.samples, dtype=torch.float64)
        ends = torch.arange(1, len(x) + 1, dtype=torch.float64) * self.delta
        A_bar, B_bar = DISCRETIZATION_RULES[self.rule](A, -A, self.delta)
        h = linear_recurrence(A_bar, B_bar, x)
        gap = (h - held_state(A, -A, x, self.delta, ends)).abs().max().item()
        exact = gap < ROUNDING
        return {
            "Δ": f"{self.delta:g}",
            "A": f"{self.A:g}",
            "x": ", ".join(f"{value:g}" for value in self.samples),
            "Steps": self.knob_traits()["rule"].options[self.rule],
            "Ā": f"{A_bar.item():.3g}",
            "B̄": f"{B_bar.item():.3g}",
            "h": ", ".join(f"{value:.3g}" for value in h.flatten().tolist()),
            "Largest gap": "0 within rounding" if exact else f"{gap:.3g}",
            "What is shown": self.knob_traits()["view"].options[self.view],
        }
