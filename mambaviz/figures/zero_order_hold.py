"""The plates of the chapter ``zero-order-hold``.

Every ``draw_<what>(data, ax=None)`` draws numbers that ``mambaviz.theory``
computed, in the light colours of the palette, for the width of its axes; see
:func:`mambaviz.figures.plate.plate`.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
from torch import Tensor

from mambaviz import theme
from mambaviz.figures.plate import DPI, blank_axes
from mambaviz.theory.convergence import (
    discretization_errors,
    observed_order,
)
from mambaviz.theory.discretize import (
    DISCRETIZATION_RULES,
    euler_to_zoh_ratio,
    half_life,
    phi1,
)

INK = {name: pair.light for name, pair in theme.INKS.items()}

# Mamba's first values: delta is drawn between these, A is -1, -2, ..., -16.
INITIAL_DELTAS = (1e-3, 1e-1)
INITIAL_A = (-1.0, -16.0)

# Steps that divide the duration of the test problem in `theory.convergence`.
DELTAS = [4 / n for n in (32, 64, 128, 256, 512, 1024)]
SAMPLINGS = {
    "left": "error of h, x from the start of each step",
    "right": "error of h, x from the end of each step",
    "midpoint": "error of h, x from the middle of each step",
    "average": "error of h, x the mean of both ends",
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


def error_orders(
    samplings: Sequence[str] = ("left", "midpoint"),
    deltas: Sequence[float] = DELTAS,
) -> dict[str, dict[str, Float[Tensor, " n_deltas"]]]:
    """Every rule's error at every delta, for each way to sample the input.

    Returns:
        ``errors[sampling][rule]``, the rules in the order of
        ``theme.RULES``.
    """
    return {
        sampling: {
            rule: discretization_errors(rule, deltas, sampling)
            for rule in theme.RULES
        }
        for sampling in samplings
    }


def draw_error_orders(
    errors: Mapping[str, Mapping[str, Float[Tensor, " n_deltas"]]],
    deltas: Sequence[float] = DELTAS,
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """Error against delta for the five rules, a panel for each sampling.

    Each line is named with its slope as measured (``observed_order``). Lines
    that fall together are named together, steep ones below the flat ones.

    Args:
        errors: ``errors[sampling][rule]``, from :func:`error_orders`.
        deltas: the steps that they belong to.
        ax: as many axes as samplings.

    Returns:
        The axes; each line's label is the name of its rule.
    """
    ax = blank_axes(panels=len(errors)) if ax is None else ax
    smallest = min(
        e.min().item() for rules in errors.values() for e in rules.values()
    )
    for panel, (sampling, rules) in zip(ax, errors.items(), strict=True):
        orders = {r: observed_order(deltas, e) for r, e in rules.items()}
        for rule, error in rules.items():
            style = theme.RULES[rule]
            panel.plot(deltas, error, label=rule, **_line(style))
        steep = [rule for rule in rules if orders[rule] > 1.5]
        flat = [rule for rule in rules if rule not in steep]
        for group, place in (flat, (0.05, 0.97)), (steep, (0.54, 0.24)):
            for row, rule in enumerate(group):
                text = f"{theme.RULES[rule].label}: {orders[rule]:.2f}"
                _key(panel, place, row, theme.RULES[rule], text)
        panel.set_title(SAMPLINGS[sampling])
        panel.set(xscale="log", yscale="log", xlabel="step Δ")
        panel.set_ylim(smallest / 2, 20)
        _decades(panel.yaxis, range(-5, 1, 2))
        panel.set_xticks(deltas[::-2], [f"1/{1 / d:g}" for d in deltas[::-2]])
        panel.minorticks_off()
    return ax


def draw_stability_plane(
    points: Sequence[complex] = DECAYING, ax: np.ndarray | None = None
) -> np.ndarray:
    """Where a discretised mode stays bounded, in the plane of lambda delta.

    The regions are |A_bar| <= 1, evaluated with the rules themselves on a
    grid. The points all decay in continuous time, since their real parts are
    negative: a dot where the rule agrees, a cross where its state grows.

    Args:
        points: eigenvalue times delta, left of the imaginary axis.
        ax: three axes.

    Returns:
        The axes. The dots are labelled "stays", the crosses "grows".
    """
    ax = blank_axes(panels=3) if ax is None else ax
    panels = {
        "euler": "Euler",
        "backward_euler": "backward Euler",
        "zoh": "ZOH, bilinear, Mamba's code",
    }
    real, imaginary = np.linspace(-4, 2.4, 129), np.linspace(-2.4, 2.4, 97)
    plane = torch.from_numpy(real + 1j * imaginary[:, None])
    points = torch.tensor(points, dtype=torch.complex128)
    for panel, (rule, title) in zip(ax, panels.items(), strict=True):
        # A_bar depends on lambda delta alone: let delta be 1.
        modulus = DISCRETIZATION_RULES[rule](plane, 1.0, 1.0)[0].abs()
        modulus = modulus.clamp(max=9)  # backward Euler has a pole at 1
        panel.contourf(
            real,
            imaginary,
            modulus,
            levels=[-1, 1],
            colors=INK["muted"],
            alpha=0.18,
        )
        panel.contour(
            real,
            imaginary,
            modulus,
            levels=[1],
            colors=INK["muted"],
            linewidths=1,
        )
        panel.axvline(0, c=INK["ink"], lw=1)
        stays = DISCRETIZATION_RULES[rule](points, 1.0, 1.0)[0].abs() <= 1
        for mask, name, marker, ink in (
            (stays, "stays", "o", "ink"),
            (~stays, "grows", "X", "warn"),
        ):
            some = points[mask]
            panel.plot(
                some.real,
                some.imag,
                marker,
                ms=7,
                c=INK[ink],
                mec=INK["page"],
                mew=0.8,
                label=name,
            )
        count = f"{stays.sum()} of {len(points)}"
        panel.set_title(f"{title}\n{count} stay bounded", linespacing=1.4)
        panel.set(aspect="equal", xlabel="Re λΔ")
        panel.set_xticks([-4, -2, 0, 2], ["−4", "−2", "0", "2"])
        panel.set_yticks([-2, 0, 2], ["−2i", "0", "2i"])
        panel.grid(False)
    return ax


def phi1_errors(
    dtype: torch.dtype, per_decade: int = 4, decades: int = 16
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """What two ways to compute (e^w - 1) / w lose, in one precision.

    The naive way subtracts 1 from e^w and divides; the other is
    ``theory.phi1``. Both are judged by decimal arithmetic with 60 digits.
    An error jumps up and down from one w to the next: we give the worst of
    eight neighbours.

    Args:
        dtype: torch.float32 or torch.float64.
        per_decade: how many places in each power of ten.
        decades: how many powers of ten below 1.

    Returns:
        w, all negative as delta A is, from -10^-decades to -1; the relative
        error of the naive way; that of ``phi1``.
    """
    neighbours = 8
    exponents = torch.linspace(
        -decades, 0, decades * per_decade + 1, dtype=torch.float64
    )
    spread = torch.arange(neighbours) / (neighbours * per_decade)
    w = -(10 ** (exponents[:, None] - spread)).to(dtype)
    exact = [_phi1_in_decimals(value) for value in w.flatten().tolist()]

    def worst(values: Float[Tensor, "n neighbours"]) -> Float[Tensor, " n"]:
        errors = [
            abs(float(Decimal(value) / truth - 1))
            for value, truth in zip(
                values.flatten().tolist(), exact, strict=True
            )
        ]
        return torch.tensor(errors).double().view(w.shape).amax(-1)

    return w[:, 0], worst((torch.exp(w) - 1) / w), worst(phi1(w))


def _phi1_in_decimals(w: float) -> Decimal:
    with localcontext(prec=60):
        return (Decimal(w).exp() - 1) / Decimal(w)


def draw_expm1(
    errors: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    ax: Axes | None = None,
) -> Axes:
    """Relative error of (e^w - 1) / w, naively and by ``theory.phi1``.

    Args:
        errors: from :func:`phi1_errors`, under "float32" and "float64".
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; the lines are labelled "naive float32" and so on.
    """
    ax = blank_axes() if ax is None else ax
    dashes = {"float32": (None, None), "float64": (4, 1.5)}
    for name, (w, naive, stable) in errors.items():
        for way, values, ink in (
            ("naive", naive, "warn"),
            ("phi1", stable, "ink"),
        ):
            ax.plot(
                w.abs(),
                values,
                c=INK[ink],
                dashes=dashes[name],
                lw=1.6,
                label=f"{way} {name}",
            )
    for text, w, error, ink in (
        ("naive, float32", 1e-12, 1.0, "warn"),
        ("naive, float64", 1e-11, 1e-5, "warn"),
        ("phi1, float32", 1e-5, 4e-11, "ink"),
        ("phi1, float64", 1e-7, 1e-16, "ink"),
    ):
        _note(ax, w, error, text, INK[ink], (0, 7))
    ax.set(xscale="log", yscale="log", ylim=(1e-18, 100))
    _decades(ax.xaxis, range(-16, 1, 4))
    _decades(ax.yaxis, range(-16, 1, 4))
    ax.set_xlabel("|ΔA|")
    ax.set_title("relative error of (exp(ΔA) − 1) / ΔA")
    return ax


def draw_half_lives(
    A: Sequence[float] = (-1.0, -2.0, -4.0, -8.0, -16.0),
    deltas: tuple[float, float] = INITIAL_DELTAS,
    ax: Axes | None = None,
) -> Axes:
    """Half-life against delta, a line for each A, with both extremes told.

    Args:
        A: negative numbers, the slowest decay first.
        deltas: the smallest and the largest step.
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; a line's label is its A.
    """
    ax = blank_axes() if ax is None else ax
    low, high = deltas
    delta = torch.logspace(
        math.log10(low), math.log10(high), 25, dtype=torch.float64
    )
    slowest, fastest = half_life(A[0], delta), half_life(A[-1], delta)
    ax.fill_between(delta, fastest, slowest, color=INK["A"], alpha=0.1, lw=0)
    for a in A:
        steps = half_life(a, delta)
        ax.plot(delta, steps, c=INK["A"], lw=1.4, label=f"{a:g}")
        name = f"{a:g}".replace("-", "−")
        name = f"A = {name}" if a in (A[0], A[-1]) else name
        _note(ax, high, steps[-1], name, INK["A"], (8, 0), va="center")
    for a, d, offset, ha in (
        (A[0], low, (9, 5), "left"),
        (A[-1], high, (-8, -10), "right"),
    ):
        steps = half_life(a, d).item()
        ax.plot(d, steps, "o", c=INK["A"], ms=7, clip_on=False, zorder=3)
        text = f"{steps:.0f} steps" if steps > 10 else f"{steps:.2f} steps"
        _note(ax, d, steps, text, INK["ink"], offset, ha)
    ax.set(xscale="log", yscale="log", xlim=deltas, ylim=(0.2, 2000))
    ax.set_xticks([1e-3, 1e-2, 1e-1], ["0.001", "0.01", "0.1"])
    ax.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    ax.minorticks_off()
    ax.set_xlabel("step Δ", color=INK["delta"])
    ax.set_title("half-life, in steps")
    return ax


def draw_euler_ratio(
    marks: Sequence[float] = (0.1, 1.0, 1.6, 4.0), ax: Axes | None = None
) -> Axes:
    """How much larger the released code's B_bar is than that of ZOH.

    Args:
        marks: values of u = delta |A| at which the ratio is told.
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; the curve is labelled "ratio", the dots "marks".
    """
    ax = blank_axes() if ax is None else ax
    u = torch.logspace(-3, math.log10(5), 80, dtype=torch.float64)
    first = INITIAL_DELTAS[0] * -INITIAL_A[0]
    last = INITIAL_DELTAS[1] * -INITIAL_A[1]
    ax.axvspan(first, last, color=INK["muted"], alpha=0.12, lw=0)
    _note(ax, first, 4.3, "where Mamba starts", INK["muted"], (8, 0))
    ax.axhline(1, c=INK["muted"], lw=1)
    ax.plot(u, euler_to_zoh_ratio(-1.0, u), c=INK["B"], lw=2, label="ratio")
    at = torch.tensor(marks).double()
    ratios = euler_to_zoh_ratio(-1.0, at)
    ax.plot(at, ratios, "o", c=INK["B"], ms=7, label="marks")
    for mark, ratio in zip(marks, ratios.tolist(), strict=True):
        text = f"{ratio:.2f} at {mark:g}"
        _note(ax, mark, ratio, text, INK["ink"], (-9, 5), "right")
    ax.set(xscale="log", xlim=(1e-3, 5), ylim=(0.7, 4.6))
    ax.set_xticks([0.001, 0.01, 0.1, 1], ["0.001", "0.01", "0.1", "1"])
    ax.minorticks_off()
    ax.set_yticks([1, 2, 3, 4], ["1", "2", "3", "4"])
    ax.set_xlabel("u = Δ |A|")
    ax.set_title("B̄ of Mamba's code, divided by B̄ of ZOH")
    return ax


def _line(style: theme.RuleStyle) -> dict[str, object]:
    return {
        "color": INK[style.ink],
        "dashes": style.dashes or (None, None),
        "marker": style.marker,
        "markersize": 5,
        "linewidth": 1.4,
    }


def _key(
    ax: Axes,
    place: tuple[float, float],
    row: int,
    style: theme.RuleStyle,
    text: str,
) -> None:
    """A line's name behind a piece of the line, one of a few in rows."""
    inches = ax.figure.dpi_scale_trans + ScaledTranslation(
        *place, ax.transAxes
    )
    y = -(row * 17 + 9) / DPI
    length = 36 / DPI
    ax.add_artist(
        Line2D(
            [0, length / 2, length],
            [y, y, y],
            transform=inches,
            markevery=[1],
            clip_on=False,
            **_line(style),
        )
    )
    ax.text(length + 7 / DPI, y, text, transform=inches, va="center_baseline")


def _note(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    colour: str,
    offset: tuple[float, float] = (0, 0),
    ha: str = "left",
    va: str = "baseline",
) -> None:
    """Text at a point of the data, moved by so many pixels."""
    ax.annotate(
        text,
        (float(x), float(y)),
        offset,
        textcoords="offset points",
        color=colour,
        ha=ha,
        va=va,
        annotation_clip=False,
    )


def _decades(axis: Axis, exponents: Sequence[int]) -> None:
    """Powers of ten as ticks, in Unicode and not in mathtext."""
    digits = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    names = [
        "1" if e == 0 else "10" + str(e).translate(digits) for e in exponents
    ]
    axis.set_ticks([10.0**e for e in exponents], names)
    axis.set_ticks([], minor=True)
