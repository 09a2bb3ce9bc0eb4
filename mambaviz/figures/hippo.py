"""The plates of the chapter ``hippo``, and the numbers and networks in them.

Every ``draw_<what>(data, ax=None)`` draws numbers that were computed before,
in the light colours of the palette, for the width of its axes; see
:func:`mambaviz.figures.plate.plate`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.nn import functional as F

from mambaviz import theme
from mambaviz.figures.plate import blank_axes
from mambaviz.figures.timing import one_thread
from mambaviz.models import LSSL, S4, S4D, ChannelMixing
from mambaviz.models.lti import LTILayer
from mambaviz.theory.discretize import discretize_dense, discretize_zoh
from mambaviz.theory.dplr import s4d_lin, s4d_real
from mambaviz.theory.hippo import (
    Measure,
    hippo_legs,
    hold_ages,
    legendre_basis,
    project_held,
    reconstruct,
)
from mambaviz.theory.recall import (
    decoder_error,
    error_by_age,
    random_transition,
    smooth_covariance,
    smooth_signals,
    state_kernels,
)

INK = {name: pair.light for name, pair in theme.INKS.items()}

# A symbol's colour, a marker and dashes for each line: never colour alone.
MEMORIES = {
    "LegS, scaled": ("h", "o", "-"),
    "LegT, a window": ("x", "s", "--"),
    "LegS, time-invariant": ("A", "^", "-."),
}
FOUR = {
    "S4D-Lin": ("y", "o", "-"),
    "LegS": ("h", "s", "-"),
    "S4D-Real": ("A", "^", "-."),
    "random": ("ink", "x", ":"),
}
TRAINED = {
    "S4 (LegS)": ("h", "s", "-"),
    "S4D-Lin": ("y", "o", "--"),
    "S4D-Real": ("A", "^", "-."),
    "random": ("ink", "x", ":"),
}

DRAWS = 24  # of a random matrix, to be compared with the others
TUNES = 4  # how many the task tells apart
NOISE = 0.5


def remembered(
    x: Float[Tensor, "n_signals length"], d_state: int
) -> dict[str, Float[Tensor, "n_signals n_bins"]]:
    """How wrong three memories are, by fifths of the past, oldest first.

    LegT has a window of half of the past, the time-invariant LegS a time
    constant of a quarter. Each state is the projection that the recurrence
    arrives at.

    Args:
        x: signals, oldest input first.
        d_state: N of each memory.

    Returns:
        Errors by the names of ``MEMORIES``; 1 is what reading 0 gives.
    """
    length = x.shape[-1]
    measures: dict[str, tuple[Measure, float]] = {
        "LegS, scaled": ("uniform", length),
        "LegT, a window": ("uniform", length / 2),
        "LegS, time-invariant": ("exponential", length / 4),
    }

    def read(measure: Measure, horizon: float) -> Tensor:
        h = project_held(x, d_state, measure, horizon)
        return reconstruct(h, hold_ages(length), measure, horizon)

    return {
        name: error_by_age(read(*how), x) for name, how in measures.items()
    }


def random_inputs(
    n_signals: int = 24, length: int = 1000
) -> Float[Tensor, "n_signals length"]:
    """Gaussian inputs, smooth over 30 steps: one seed, many signals."""
    generator = torch.Generator().manual_seed(0)
    return smooth_signals(n_signals, length, 30, generator)


def four_kernels(
    d_state: int = 32, length: int = 400, draws: int = DRAWS
) -> dict[str, list[Float[Tensor, "n_real length"]]]:
    """What four memories of N numbers hold of each past input.

    The step is 2 / length; a random matrix has standard normal numbers,
    scaled to a spectral radius of 0.98, and its B_bar is standard normal.

    Args:
        d_state: N.
        length: how many inputs.
        draws: how many random matrices, of the seeds 0, 1, 2, ...

    Returns:
        Kernels by the names of ``FOUR``, newest input first: of each random
        matrix, and of the three others.
    """
    delta = 2 / length
    diagonals = {"S4D-Lin": s4d_lin(d_state), "S4D-Real": s4d_real(d_state)}
    systems = {
        name: discretize_zoh(A, torch.ones_like(A), delta)
        for name, A in diagonals.items()
    }
    systems["LegS"] = discretize_dense(*hippo_legs(d_state), delta)
    several = {name: [system] for name, system in systems.items()}
    several["random"] = [
        random_transition(d_state, 0.98, torch.Generator().manual_seed(seed))
        for seed in range(draws)
    ]
    return {
        name: [state_kernels(*system, length) for system in several[name]]
        for name in FOUR
    }


@one_thread()
def four_errors(
    d_state: int = 32,
    length: int = 400,
    precision: float = 1e-4,
    draws: int = DRAWS,
) -> dict[str, Float[Tensor, "n_draws length"]]:
    """The error of the best reader of four memories, newest input first.

    The input is Gaussian and smooth over 15 of 400 steps.

    Args:
        d_state: N.
        length: how many inputs.
        precision: relative error of each number of a state.
        draws: how many random matrices.

    Returns:
        Errors by the names of ``FOUR``: of each random matrix a row, of the
        three others one row.
    """
    covariance = smooth_covariance(length, 15 * length / 400)
    return {
        name: decoder_error(torch.stack(kernels), covariance, precision)
        for name, kernels in four_kernels(d_state, length, draws).items()
    }


def by_eighths(error: Float[Tensor, "*n length"]) -> Float[Tensor, "*n eight"]:
    """The rms error in eight parts of the past, newest first."""
    parts = error.unflatten(-1, (8, -1))
    return parts.square().mean(dim=-1).sqrt()


class TuneTeller(nn.Module):
    """A network around one layer that says which tune it has heard.

    Args:
        layer: with ``d_model`` channels.
    """

    def __init__(self, layer: LTILayer) -> None:
        super().__init__()
        self.in_proj = nn.Linear(1, layer.d_model)
        self.mixing = ChannelMixing(layer, layer.d_model)
        self.out_proj = nn.Linear(layer.d_model, TUNES)

    def forward(
        self, x: Float[Tensor, "batch length"]
    ) -> Float[Tensor, "batch tunes"]:
        """A score for each tune, from the last output alone."""
        y = self.mixing(self.in_proj(x[..., None]))
        return self.out_proj(y[:, -1])


@dataclass
class Trained:
    """A network, and what its training cost.

    Attributes:
        model: the network, float32.
        length: of the sequences in training.
        losses: of every step, in nats.
    """

    model: TuneTeller
    length: int
    losses: list[float]


def tune_task(
    batch: int, length: int, generator: torch.Generator
) -> tuple[Float[Tensor, "batch length"], Int[Tensor, " batch"]]:
    """A tune at the start, then nothing, and noise all along.

        x_k = sin(2 pi (tune + 1) k / (length / 4))  if k < length / 4, else 0
              + 0.5 times noise

    Args:
        batch: how many sequences.
        length: of each.
        generator: of the tunes and of the noise.

    Returns:
        The sequences, float32, and the tune of each, 0 to 3: the question
        comes after the last input, three quarters of the sequence later.
    """
    tune = torch.randint(TUNES, (batch,), generator=generator)
    noise = torch.randn(
        batch, length, generator=generator, dtype=torch.float32
    )
    k = torch.arange(length, dtype=torch.float32)
    heard = length // 4
    turns = (tune[:, None] + 1) * k / heard
    return torch.where(
        k < heard, torch.sin(2 * math.pi * turns), 0
    ) + NOISE * noise, tune


def make_layer(kind: str, d_model: int, d_state: int, length: int) -> LTILayer:
    """A layer whose A at first is one of four, for sequences of a length.

    The steps lie between 1 / length and 4 / length. The random A is dense,
    with standard normal numbers, shifted and scaled so that its slowest
    eigenvalue has the real part -1, as in LegS, and its eigenvalues fill a
    disc of radius N; its B is standard normal.

    Args:
        kind: a key of ``TRAINED``.
        d_model: channels.
        d_state: N.
        length: of the sequences.

    Raises:
        ValueError: an unknown kind.
    """
    steps = {"dt_min": 1 / length, "dt_max": 4 / length}
    match kind:
        case "S4 (LegS)":
            return S4(d_model, d_state, **steps)
        case "S4D-Lin":
            return S4D(d_model, d_state, init="lin", **steps)
        case "S4D-Real":
            return S4D(d_model, d_state, init="real", **steps)
        case "random":
            layer = LSSL(d_model, d_state, **steps)
            G = torch.randn(d_state, d_state) / math.sqrt(d_state)
            I = torch.eye(d_state)
            slowest = torch.linalg.eigvals(G).real.max()
            with torch.no_grad():
                layer.A.copy_(d_state * (G - slowest * I) - I)
                layer.B.normal_()
            return layer
    raise ValueError(f"kind must be one of {', '.join(TRAINED)}; got {kind!r}")


@one_thread()
def train_on_tunes(
    kind: str,
    steps: int = 200,
    length: int = 1024,
    d_model: int = 8,
    d_state: int = 32,
    seed: int = 0,
) -> Trained:
    """Train a network to tell a tune that it heard long ago.

    Adam at 0.02, falling to 0 along a cosine, with 16 fresh sequences a step.

    Args:
        kind: of its layer, a key of ``TRAINED``.
        steps: of training.
        length: of the sequences.
        d_model, d_state: the size of the layer.
        seed: of the weights, then of the sequences.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TuneTeller(make_layer(kind, d_model, d_state, length)).float()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        x, tune = tune_task(16, length, generator)
        loss = F.cross_entropy(model(x), tune)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return Trained(model, length, losses)


@one_thread()
@torch.no_grad()
def accuracy(
    trained: Trained, length: int, n_sequences: int = 64, seed: int = 99
) -> float:
    """The share of tunes told right, at any length and with the same weights.

    A longer sequence is the same tune, sampled more finely: the step shrinks
    by as much, and nothing else changes.

    Args:
        trained: from :func:`train_on_tunes`.
        length: of the sequences.
        n_sequences: how many.
        seed: of the sequences.
    """
    generator = torch.Generator().manual_seed(seed)
    layer = trained.model.mixing.layer
    finer = math.log(length / trained.length)
    x, tune = tune_task(n_sequences, length, generator)
    layer.log_dt.sub_(finer)
    guess = trained.model(x).argmax(dim=-1)
    layer.log_dt.add_(finer)
    return (guess == tune).double().mean().item()


def draw_matrices(
    matrices: Mapping[str, Float[Tensor, "d_state d_state"]],
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """Matrices as squares with their signs, the stronger the larger.

    Args:
        matrices: by name, one for each of the axes.
        ax: as many axes.

    Returns:
        The axes; each has one square for every number that is not 0.
    """
    ax = blank_axes(panels=len(matrices)) if ax is None else ax
    for panel, (name, matrix) in zip(ax, matrices.items(), strict=True):
        _squares(panel, matrix)
        panel.set_title(name)
    return ax


def draw_projection(
    x: Float[Tensor, " length"],
    sizes: Sequence[int] = (3, 6, 12),
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """The first Legendre polynomials, and a signal rebuilt from a few.

    Args:
        x: a signal, oldest input first.
        sizes: how many coefficients; two lie between the first and the last.
        ax: two axes.

    Returns:
        The axes; the lines of the second are labelled by their N.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    r = torch.linspace(0, 1, 81, dtype=torch.float64)
    basis = legendre_basis(4, r)
    for n, dashes in enumerate(("-", "--", "-.", ":")):
        ax[0].plot(
            r, basis[:, n], c=INK["h"], ls=dashes, lw=1.6, alpha=1 - 0.13 * n
        )
        ax[0].text(1.03, basis[-1, n], f"φ{'₀₁₂₃'[n]}", color=INK["h"])
    ax[0].set(xlim=(0, 1.15))
    ax[0].set_xticks([0, 1], ["oldest", "now"])
    ax[0].set_title("what is fitted to the past")
    k = np.arange(len(x))
    ages = hold_ages(len(x))
    ax[1].plot(k, x, c=INK["x"], lw=4, alpha=0.3, label="signal")
    for d_state, dashes in zip(sizes, (":", "--", "-"), strict=True):
        h = project_held(x, d_state, "uniform", len(x))
        reading = reconstruct(h, ages, "uniform", len(x))
        ax[1].plot(
            k, reading, c=INK["h"], ls=dashes, lw=1.5, label=f"N = {d_state}"
        )
    low, high = x.min().item(), x.max().item()
    ax[1].set(ylim=(low - 0.5, high + 0.6 * (high - low)))
    ax[1].set_xticks([0, len(x)], ["oldest", "now"])
    ax[1].set_yticks(range(math.ceil(low), math.floor(high) + 1, 2))
    ax[1].set_title("a signal, and N numbers of it")
    ax[1].legend(loc="upper left", frameon=False, ncols=2, handlelength=2.4)
    for panel in ax:
        panel.get_xticklabels()[0].set_ha("left")
        panel.get_xticklabels()[-1].set_ha("right")
    return ax


def draw_errors_by_age(
    errors: Mapping[str, Float[Tensor, "n_signals n_bins"]],
    ax: Axes | None = None,
) -> Axes:
    """The error of three memories in each fifth of the past.

    Args:
        errors: from :func:`remembered`.
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; a line's label is the name of its memory. The line is the
        mean over the signals, the band goes from the least to the most.
    """
    ax = blank_axes() if ax is None else ax
    for name, by_signal in errors.items():
        ink, marker, dashes = MEMORIES[name]
        places = range(by_signal.shape[-1])
        ax.fill_between(
            places,
            by_signal.amin(dim=0),
            by_signal.amax(dim=0),
            color=INK[ink],
            alpha=0.13,
            lw=0,
        )
        ax.plot(
            places,
            by_signal.mean(dim=0),
            c=INK[ink],
            marker=marker,
            ls=dashes,
            ms=6,
            label=name,
        )
    ax.axhline(1, c=INK["muted"], lw=1, ls=":")
    ax.set(yscale="log", xlim=(-0.25, 4.25), ylim=(None, 60))
    names = ("10⁻⁴", "10⁻³", "0.01", "0.1", "1")
    ax.set_yticks([10.0**p for p in range(-4, 1)], names)
    ax.set_yticks([], minor=True)
    ax.set_xticks(range(5), ["oldest", "", "middle", "", "newest"])
    ax.set_xlabel("fifths of the past")
    ax.set_title("error of what is read back; 1 is to know nothing")
    ax.legend(loc="upper left", frameon=False, handlelength=2.6)
    return ax


def draw_recall(
    errors: Mapping[str, Float[Tensor, "n_draws length"]],
    ax: Axes | None = None,
) -> Axes:
    """The error of the best reader of four memories, by age.

    Args:
        errors: from :func:`four_errors`.
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; a line's label is the name of its memory. The line is the
        mean over the draws, the band goes from the least to the most.
    """
    ax = blank_axes() if ax is None else ax
    for n, (name, by_draw) in enumerate(errors.items()):
        ink, marker, dashes = FOUR[name]
        if len(by_draw) > 1:
            ax.fill_between(
                range(by_draw.shape[-1]),
                by_draw.amin(dim=0),
                by_draw.amax(dim=0),
                color=INK[ink],
                alpha=0.13,
                lw=0,
            )
        ax.plot(
            by_draw.mean(dim=0),
            c=INK[ink],
            ls=dashes,
            marker=marker,
            markevery=(20 + 12 * n, 60),
            ms=6,
            label=name,
        )
    length = next(iter(errors.values())).shape[-1]
    # As in the explorables: now is at the right.
    ax.set(xlim=(length, 0), ylim=(0, 1.45), xlabel="age in steps")
    ax.set_xticks([0, length // 2, length], ["now", length // 2, length])
    ax.get_xticklabels()[0].set_ha("right")
    ax.get_xticklabels()[-1].set_ha("left")
    ax.set_yticks([0, 0.5, 1])
    ax.set_title("error of the best reader")
    ax.legend(loc="upper left", frameon=False, ncols=2, handlelength=2.6)
    return ax


def draw_training(
    trained: Mapping[str, Trained],
    accuracies: Mapping[str, Mapping[int, float]],
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """The losses of four trainings, and how often each network is right.

    Args:
        trained: by the names of ``TRAINED``.
        accuracies: of each, by the length of the sequences.
        ax: two axes.

    Returns:
        The axes; a line's label is the name of its layer.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    for name, run in trained.items():
        ink, marker, dashes = TRAINED[name]
        smooth = np.convolve(run.losses, np.ones(10) / 10, mode="valid")
        ax[0].plot(
            np.arange(len(smooth)) + 10, smooth, c=INK[ink], ls=dashes, lw=1.5
        )
        lengths = list(accuracies[name])
        ax[1].plot(
            range(len(lengths)),
            list(accuracies[name].values()),
            c=INK[ink],
            ls=dashes,
            marker=marker,
            ms=6,
            label=name,
        )
    ax[0].set(xlabel="training step", ylim=(0, 1.6))
    ax[0].set_xticks([0, len(run.losses) // 2, len(run.losses)])
    ax[0].set_yticks([0, 0.5, 1, 1.5])
    ax[0].set_title("loss; 1.39 is to guess")
    ax[1].axhline(1 / TUNES, c=INK["muted"], lw=1, ls=":")
    ax[1].set(xlabel="length", ylim=(0, 1.75), xlim=(-0.2, len(lengths) - 0.8))
    ax[1].set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths])
    ax[1].set_yticks([0, 0.25, 0.5, 1], ["0", "25 %", "50 %", "100 %"])
    ax[1].set_title("tunes told right")
    ax[1].legend(loc="upper left", frameon=False, ncols=1, handlelength=2.6)
    return ax


def _squares(ax: Axes, matrix: Tensor) -> None:
    """Each number that is not 0 as a square with its sign in it."""
    largest = matrix.abs().max().item()
    n = len(matrix)
    for (row, column), value in np.ndenumerate(matrix.numpy()):
        if not value:
            continue
        ax.add_patch(
            Rectangle(
                (column - 0.46, row - 0.46),
                0.92,
                0.92,
                color=INK["A" if value < 0 else "warn"],
                alpha=round(0.1 + 0.6 * abs(value) / largest, 2),
                lw=0,
            )
        )
    for sign, marker in ((-1, "_"), (1, "+")):
        rows, columns = np.nonzero(sign * matrix.numpy() > 0)
        ax.plot(columns, rows, marker, c=INK["ink"], ms=6)
    ax.add_patch(
        Rectangle((-0.5, -0.5), n, n, fill=False, ec=INK["muted"], lw=1)
    )
    ax.set(xlim=(-0.6, n - 0.4), ylim=(n - 0.4, -0.6), aspect="equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.set_frame_on(False)
