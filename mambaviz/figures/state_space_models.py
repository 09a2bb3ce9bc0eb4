"""The plates of the chapter ``state-space-models``, and their numbers.

Every ``draw_<what>(data, ax=None)`` draws numbers that were computed before,
in the light colours of the palette, for the width of its axes; see
:func:`mambaviz.figures.plate.plate`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from mambaviz import theme
from mambaviz.figures.plate import blank_axes
from mambaviz.theory.discretize import discretize_dense
from mambaviz.theory.lti import fft_convolution, simulate_ode, ssm_kernel
from mambaviz.theory.mechanics import (
    body_in_space,
    critical_damping,
    mass_spring,
    turning_flight,
    turning_force,
)

INK = {name: pair.light for name, pair in theme.INKS.items()}

# The mass on a spring that the chapter keeps to.
MASS, STIFFNESS = 1.0, 4.0
DAMPINGS = {
    "light": 0.6,
    "critical": critical_damping(MASS, STIFFNESS),
    "heavy": 10.0,
}
# The flight: kg, N, rad/s, and metres a second at the start.
FLIGHT = {"mass": 2.0, "thrust": 12.0, "turn_rate": 2.0}
LAUNCH = (0.0, 0.0, 0.0, 0.0, 4.0, 18.0)
# The recording that a system is learned from.
DELTA, LENGTH, TAPS, NOISE = 0.1, 200, 60, 0.01


def release(times: Float[Tensor, " n"]) -> dict[str, Float[Tensor, "n 2"]]:
    """A mass is pulled one metre aside and let go, with three dampings.

    Args:
        times: in s, from 0 on.

    Returns:
        Position and velocity at each time, by the damping's name.
    """
    h_0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    see_all = torch.eye(2, dtype=torch.float64)
    no_force = torch.zeros(1, dtype=torch.float64)
    states = {}
    for name, damping in DAMPINGS.items():
        A, B, _, _ = mass_spring(MASS, STIFFNESS, damping)
        states[name] = simulate_ode(
            A, B[:, None], see_all, 0.0, lambda _: no_force, times, h_0
        )
    return states


def draw_release(
    times: Float[Tensor, " n"],
    states: Mapping[str, Float[Tensor, "n 2"]],
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """A mass on a spring; its position over time; its path as a state.

    Args:
        times: in s.
        states: from :func:`release`.
        ax: three axes.

    Returns:
        The axes; lines are labelled by the damping.
    """
    ax = blank_axes(panels=3) if ax is None else ax
    _sketch(ax[0])
    looks = {"light": ("-", 2.0), "critical": ("--", 2.0), "heavy": (":", 2.2)}
    for name, h in states.items():
        dashes, width = looks[name]
        look = {"c": INK["h"], "ls": dashes, "lw": width, "label": name}
        ax[1].plot(times, h[:, 0], **look)
        ax[2].plot(h[:, 0], h[:, 1], **look)
    ax[1].set(xlabel="seconds", xlim=(-0.3, 8.3), ylim=(-0.75, 1.65))
    ax[1].set_xticks([0, 4, 8])
    ax[1].set_yticks([0, 1])
    ax[1].set_title("position h₁")
    ax[1].legend(loc="upper right", frameon=False, ncols=1, handlelength=1.8)
    ax[2].plot([1], [0], "o", c=INK["h"], ms=6)
    ax[2].set(xlabel="position h₁", xlim=(-0.8, 1.2), ylim=(-1.8, 1.2))
    ax[2].set_xticks([0, 1])
    ax[2].set_yticks([-1, 0, 1], ["−1", "0", "1"])
    ax[2].set_title("velocity h₂ against h₁")
    return ax


def _sketch(ax: Axes) -> None:
    """A wall, a spring, a mass, and the force that pushes it."""
    ax.plot([0, 0], [0.1, 1.1], c=INK["ink"], lw=3)
    across = np.concatenate([[0, 0.3], np.linspace(0.4, 1.7, 14), [1.8, 2.1]])
    up = 0.55 + np.concatenate(
        [[0, 0], 0.16 * (-1.0) ** np.arange(14), [0, 0]]
    )
    ax.plot(across, up, c=INK["A"], lw=1.6)
    ax.add_patch(
        Rectangle((2.1, 0.2), 0.8, 0.7, fc=INK["page"], ec=INK["h"], lw=2)
    )
    arrow = {"arrowstyle": "-|>", "lw": 1.8}
    ax.annotate(
        "", (3.8, 0.55), (2.95, 0.55), arrowprops=arrow | {"color": INK["x"]}
    )
    ax.text(3.55, 0.72, "force x", color=INK["x"], ha="center")
    ax.annotate(
        "", (2.9, 1.35), (2.1, 1.35), arrowprops=arrow | {"color": INK["h"]}
    )
    ax.text(2.5, 1.5, "position h₁", color=INK["h"], ha="center")
    ax.text(1.2, 0.0, "spring, damper", color=INK["A"], ha="center")
    ax.set(xlim=(-0.15, 4.2), ylim=(-0.5, 2.1))
    ax.axis("off")
    ax.set_title("a mass on a spring")


def draw_vectors(
    walk: Float[Tensor, "steps n"],
    embeddings: Float[Tensor, "tokens d_model"],
    tokens: Sequence[str],
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """A walk as rows of numbers, and a text as rows of numbers.

    Args:
        walk: the states of a walk through the maze.
        embeddings: one row for each token.
        tokens: the text.
        ax: two axes.

    Returns:
        The axes.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    steps = [f"h{'₀₁₂₃₄₅₆₇'[k]}" for k in range(len(walk))]
    _rows(ax[0], walk, steps, "a walk: state after state", digits=0)
    _rows(ax[1], embeddings, tokens, "a text: token after token", digits=1)
    ax[0].set_xticks(range(3), ["column", "row", "to exit"])
    ax[1].set_xticks([])
    return ax


def _rows(
    ax: Axes, rows: Tensor, names: Sequence[str], title: str, digits: int
) -> None:
    """Vectors as rows of cells, the number in each, shaded by its size."""
    largest = rows.abs().max().item()
    for (row, column), value in np.ndenumerate(rows.numpy()):
        ax.add_patch(
            Rectangle(
                (column - 0.46, row - 0.42),
                0.92,
                0.84,
                color=INK["h"],
                alpha=round(0.05 + 0.3 * abs(value) / largest, 2),
                lw=0,
            )
        )
        # Rounded first, so that no number is written as −0.
        text = f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
        ax.text(
            column,
            row,
            text,
            ha="center",
            va="center_baseline",
            fontsize=10.5 if digits else 12.5,
        )
    ax.set(xlim=(-0.6, rows.shape[1] - 0.4), ylim=(len(rows) - 0.4, -0.6))
    ax.set_yticks(range(len(rows)), names)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(title)


def draw_modes(
    A: Float[Tensor, "2 2"], ax: np.ndarray | None = None
) -> np.ndarray:
    """Where states go by themselves, and the same along the eigenvectors.

        h' = A h,    h = V g,    g_n' = lambda_n g_n

    Args:
        A: symmetric, with two negative eigenvalues.
        ax: two axes.

    Returns:
        The axes.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    values, V = torch.linalg.eigh(A)
    t = torch.linspace(0, 4, 80, dtype=torch.float64)
    angles = torch.arange(8, dtype=torch.float64) * (torch.pi / 4) + 0.2
    starts = torch.stack([torch.cos(angles), torch.sin(angles)], dim=1)
    for start in starts:
        g = (V.T @ start) * torch.exp(t[:, None] * values)  # n, 2
        for panel, path in zip(ax, (g @ V.T, g), strict=True):
            panel.plot(*path.T, c=INK["h"], lw=1.3)
            panel.plot(*path[:1].T, "o", c=INK["h"], ms=4)
    for n in range(2):
        for panel, way in ((ax[0], V[:, n]), (ax[1], torch.eye(2)[n])):
            ends = np.outer([-1.2, 1.2], way.numpy())
            panel.plot(*ends.T, c=INK["A"], lw=1.6, ls="--", zorder=1)
    for panel, names in zip(
        ax, (["h₁", "h₂"], ["first mode", "second mode"]), strict=True
    ):
        panel.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
        panel.set_xticks([-1, 0, 1], ["−1", "0", "1"])
        panel.set_yticks([-1, 0, 1], ["−1", "0", "1"])
        panel.set_xlabel(names[0])
        panel.set_ylabel(names[1])
    ax[0].set_title("the states push each other")
    ax[1].set_title("each mode fades alone")
    return ax


def fly(
    times: Float[Tensor, " n"],
) -> tuple[Float[Tensor, "n 6"], Float[Tensor, "n 6"]]:
    """A body under a turning thrust: by the two equations, and exactly.

    Args:
        times: in s, from 0 on.

    Returns:
        Position and velocity at each time, by the solver and by the formula.
    """
    A, B, _, _ = body_in_space(FLIGHT["mass"])
    h_0 = torch.tensor(LAUNCH, dtype=torch.float64)
    see_all = torch.eye(6, dtype=torch.float64)
    solved = simulate_ode(
        A, B, see_all, 0.0, lambda t: turning_force(t, **FLIGHT), times, h_0
    )
    return solved, turning_flight(times, **FLIGHT, initial_state=h_0)


def draw_flight(
    solved: Float[Tensor, "n 6"],
    exact: Float[Tensor, "n 6"],
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """The flight from above and from the side.

    Args:
        solved, exact: from :func:`fly`.
        ax: two axes.

    Returns:
        The axes.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    for panel, up in ((ax[0], 0), (ax[1], 2)):
        panel.plot(
            exact[:, 1],
            exact[:, up],
            c=INK["muted"],
            lw=4,
            alpha=0.4,
            label="formula",
        )
        panel.plot(
            solved[::4, 1],
            solved[::4, up],
            "o",
            c=INK["h"],
            ms=4,
            label="state space",
        )
        panel.plot(exact[0, 1], exact[0, up], "s", c=INK["ink"], ms=6)
        panel.set(xlabel="north, metres", xlim=(-1.5, 28))
        panel.set_xticks([0, 10, 20])
    ax[0].set(ylim=(-6, 11), ylabel="east, metres")
    ax[0].set_yticks([0, 10])
    ax[0].set_title("from above")
    ax[1].set(ylim=(-9, 25), ylabel="height, metres")
    ax[1].set_yticks([0, 10, 20])
    ax[1].set_title("from the side")
    ax[1].legend(loc="upper right", frameon=False, handlelength=1.4)
    return ax


def recording() -> tuple[Float[Tensor, " length"], Float[Tensor, " length"]]:
    """A noisy measurement of a mass on a spring that is pushed at random.

    Returns:
        The force, held for ``DELTA`` each, and the measured positions, whose
        error is ``NOISE`` of their spread.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(LENGTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(LENGTH, generator=generator, dtype=torch.float64)
    A, B, C, _ = mass_spring(MASS, STIFFNESS, DAMPINGS["light"])
    y = fft_convolution(impulse_kernel(A, B, C, LENGTH), x)
    return x, y + NOISE * y.std() * noise


def impulse_kernel(
    A: Float[Tensor, "d_state d_state"],
    B: Float[Tensor, " d_state"],
    C: Float[Tensor, " d_state"],
    taps: int = TAPS,
) -> Float[Tensor, " taps"]:
    """What one held push adds to the outputs that follow."""
    return ssm_kernel(*discretize_dense(A, B, DELTA), C, taps)


def fit_loss(
    A: Float[Tensor, "d_state d_state"],
    B: Float[Tensor, " d_state"],
    C: Float[Tensor, " d_state"],
    x: Float[Tensor, " length"],
    y: Float[Tensor, " length"],
) -> Float[Tensor, ""]:
    """The mean square of what a system's output lacks to the measured one.

    Relative to the mean square of the measured output.
    """
    missing = fft_convolution(impulse_kernel(A, B, C, len(x)), x) - y
    return missing.square().mean() / y.square().mean()


@dataclass(frozen=True)
class Fit:
    """A system learned from a recording.

    Attributes:
        A, B, C: what was found.
        losses: before each step, and after the last.
        kernels: the impulse response after so many steps.
    """

    A: Float[Tensor, "d_state d_state"]
    B: Float[Tensor, " d_state"]
    C: Float[Tensor, " d_state"]
    losses: list[float]
    kernels: dict[int, Float[Tensor, " taps"]]


def first_guess() -> tuple[Tensor, Tensor, Tensor]:
    """A, B and C to start from, which know nothing of the right ones."""
    A = torch.tensor([[-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    B, C = torch.tensor([[1.0, 0.5], [0.5, -0.5]], dtype=torch.float64)
    return A, B.clone(), C.clone()


def identify(
    x: Float[Tensor, " length"],
    y: Float[Tensor, " length"],
    steps: int = 150,
    stages: Sequence[int] = (0, 20, 40),
) -> Fit:
    """Learn A, B and C from an input and an output, by gradient (Adam).

    Args:
        x, y: a recording with the step ``DELTA``.
        steps: how many.
        stages: after how many steps the impulse response is kept, beside the
            last.

    Returns:
        What was found, and how.
    """
    parameters = [p.requires_grad_() for p in first_guess()]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    losses, kernels = [], {}
    for step in range(steps + 1):
        loss = fit_loss(*parameters, x, y)
        losses.append(loss.item())
        if step in stages or step == steps:
            kernels[step] = impulse_kernel(*parameters).detach()
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    A, B, C = (p.detach() for p in parameters)
    return Fit(A, B, C, losses, kernels)


def draw_fit(fit: Fit, ax: np.ndarray | None = None) -> np.ndarray:
    """The loss of the fit, and its impulse response on the way.

    Args:
        fit: from :func:`identify`.
        ax: two axes.

    Returns:
        The axes.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    ax[0].plot(fit.losses, c=INK["ink"], lw=1.6)
    ax[0].set(xlabel="step", yscale="log", ylim=(3e-5, 5))
    ax[0].set_xticks([0, 50, 100, 150])
    powers = (-4, -2, 0)
    ax[0].set_yticks([10.0**p for p in powers], ["10⁻⁴", "0.01", "1"])
    ax[0].set_yticks([], minor=True)
    ax[0].set_title("loss, share of the output")
    A, B, C, _ = mass_spring(MASS, STIFFNESS, DAMPINGS["light"])
    times = DELTA * np.arange(TAPS)
    ax[1].plot(
        times,
        impulse_kernel(A, B, C),
        c=INK["muted"],
        lw=5,
        alpha=0.35,
        label="true",
    )
    looks = [":", "-.", "--"]
    *early, last = fit.kernels.items()
    for (step, kernel), dashes in zip(early, looks, strict=False):
        ax[1].plot(
            times, kernel, c=INK["y"], ls=dashes, lw=1.3, label=f"step {step}"
        )
    ax[1].plot(times, last[1], c=INK["y"], lw=1.8, label=f"step {last[0]}")
    low, high = ax[1].get_ylim()
    ax[1].set(xlabel="seconds", ylim=(low, low + 1.5 * (high - low)))
    ax[1].set_xticks([0, 2, 4, 6])
    ax[1].set_yticks([0, 0.04])
    ax[1].set_title("answer to one push")
    ax[1].legend(loc="upper right", frameon=False, ncols=2, handlelength=1.8)
    return ax
