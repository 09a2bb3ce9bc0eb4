"""The plates of the chapter ``zero-order-hold``.

Every ``draw_<what>(data, ax=None)`` draws numbers that ``mambaviz.theory``
computed, in the light colours of the palette, for the width of its axes; see
:func:`mambaviz.figures.plate.plate`.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation
from torch import Tensor

from mambaviz import theme
from mambaviz.figures.plate import DPI, blank_axes, is_narrow
from mambaviz.theory.convergence import discretization_errors
from mambaviz.theory.discretize import (
    DISCRETIZATION_RULES,
    discretize_zoh,
    euler_to_zoh_ratio,
    half_life,
    held_state,
    linear_recurrence,
    phi1,
)

INK = {name: pair.light for name, pair in theme.INKS.items()}

# Mamba's first values: delta is drawn between these, A is -1, -2, ..., -16.
INITIAL_DELTAS = (1e-3, 1e-1)
INITIAL_A = (-1.0, -16.0)

# Steps that divide the duration of the test problem in `theory.convergence`.
DELTAS = [4 / n for n in (32, 64, 128, 256, 512, 1024)]
SAMPLINGS = {
    "left": "x sampled where each hold begins",
    "midpoint": "x sampled at each midpoint",
}

# Eigenvalues times delta, all decaying, for the stability plane.
DECAYING = (
    -0.4 + 0.6j,
    -0.15 - 1.7j,
    -1.2 - 0.6j,
    -1.6 + 1.5j,
    -2.6 - 1.1j,
    -3.2 + 0.6j,
)


class RuleStyle(NamedTuple):
    """How a rule looks in every picture of it; ink alone tells nothing.

    Attributes:
        label: the rule's name in words.
        ink: a name of the palette. Euler alone may blow up: it is warned of.
        dashes: lengths of stroke and gap, in line widths; () is unbroken.
        marker: matplotlib's letter: circle, diamond, square, triangles.
    """

    label: str
    ink: str
    dashes: tuple[float, ...]
    marker: str


# The five rules are no symbols, so they take none of the symbols' colours.
RULE_STYLES = {
    "zoh": RuleStyle("ZOH", "ink", (), "o"),
    "mamba": RuleStyle("Mamba's code", "ink", (5, 1.5, 1, 1.5), "D"),
    "bilinear": RuleStyle("bilinear", "muted", (4, 1.5), "s"),
    "backward_euler": RuleStyle("backward Euler", "muted", (1, 1.2), "v"),
    "euler": RuleStyle("Euler", "warn", (7, 2), "^"),
}


def draw_hold(
    x: Float[Tensor, " length"],
    delta: float,
    A: float = -1.0,
    B: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Samples held as a staircase, and the output at the end of each hold.

    The system has one state and y = h. The curve is exact
    (``held_state``); the dots are the recurrence (``linear_recurrence``) and
    stand where it holds true: the k-th, counted from 0, at (k + 1) delta.

    Args:
        x: one input per step, at least two.
        delta: how long each is held.
        A: the continuous system, negative.
        B: input weight.
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes. Their lines have the labels "x held", "y exact", "x
        samples" and "y dots".
    """
    ax = blank_axes() if ax is None else ax
    A, B = torch.tensor([A]).double(), torch.tensor([B]).double()
    steps = len(x)
    edges = torch.arange(steps + 1).double() * delta
    times = torch.linspace(0, steps * delta, 24 * steps + 1).double()
    exact = held_state(A, B, x.double(), delta, times)[:, 0]
    dots = linear_recurrence(*discretize_zoh(A, B, delta), x.double())[:, 0]

    held = torch.cat([x, x[-1:]])
    ax.step(
        edges, held, where="post", color=INK["x"], lw=1.4, label="x held"
    )
    ax.plot(
        edges[:-1], x, "o", color=INK["x"], ms=5, label="x samples", zorder=3
    )
    ax.plot(times, exact, color=INK["y"], lw=2, label="y exact")
    ax.plot(
        edges[1:],
        dots,
        "o",
        ms=7,
        mfc=INK["page"],
        mec=INK["y"],
        mew=2,
        label="y dots",
        zorder=4,
        clip_on=False,
    )

    low = min(0.0, x.min().item())
    high = max(0.0, x.max().item())
    room = 0.16 * (high - low)
    ax.set(xlim=(0, steps * delta), ylim=(low - room, high + 1.6 * room))
    every = 2 if is_narrow(ax) else 1
    shown = range(0, steps + 1, every)
    ax.set_xticks(
        [k * delta for k in shown],
        ["0", *(f"{k}Δ" if k > 1 else "Δ" for k in shown[1:])],
    )
    ax.set_yticks([0])
    ax.set_xlabel("time t")
    _label_hold(ax, x, dots, delta)
    return ax


def _label_hold(
    ax: Axes,
    x: Float[Tensor, " length"],
    dots: Float[Tensor, " length"],
    delta: float,
) -> None:
    """Names at the lines, and one sample followed to where it lands."""
    k = int((x[1:] - dots[1:]).abs().argmax()) + 1
    _note(ax, k * delta, x[k], f"x{_below(k)}", INK["x"], (0, 9), "center")
    _note(
        ax,
        (k + 0.5) * delta,
        x[k],
        "held",
        INK["x"],
        (0, 6 if x[k] > dots[k] else -14),
        "center",
    )
    _note(
        ax,
        (k + 1) * delta,
        dots[k],
        f"y{_below(k)} lands here",
        INK["y"],
        (9, -4),
    )


def error_orders(
    samplings: Sequence[str] = tuple(SAMPLINGS),
    deltas: Sequence[float] = DELTAS,
) -> dict[str, dict[str, Float[Tensor, " n_deltas"]]]:
    """Every rule's error at every delta, for each way to sample the input.

    Returns:
        errors[sampling][rule], the rules in the order of ``RULE_STYLES``.
    """
    return {
        sampling: {
            rule: discretization_errors(rule, deltas, sampling)
            for rule in RULE_STYLES
        }
        for sampling in samplings
    }
