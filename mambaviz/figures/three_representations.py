"""The plates of the chapter ``three-representations``, and their numbers.

Every ``draw_<what>(data, ax=None)`` draws numbers that were computed before,
in the light colours of the palette, for the width of its axes; see
:func:`mambaviz.figures.plate.plate`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from torch import Tensor, nn
from torch.nn import functional as F

from mambaviz import theme
from mambaviz.figures.plate import blank_axes
from mambaviz.figures.timing import (
    Times,
    draw_panel_of_times,
    middle,
    one_thread,
    shortest,
)
from mambaviz.models import LSSL, ChannelMixing
from mambaviz.theory.discretize import discretize_dense
from mambaviz.theory.lti import (
    Inputs,
    Matrix,
    Outputs,
    Response,
    Signal,
    causal_convolution,
    fft_convolution,
    simulate_held,
    simulate_recurrence,
    simulate_scan,
    ssm_kernel,
)
from mambaviz.theory.ode import solve_ode

if TYPE_CHECKING:
    import sympy

INK = {name: pair.light for name, pair in theme.INKS.items()}

# An edge that runs from the top down, as Sobel's filter sees it.
EDGES = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
SUBSCRIPTS = "₀₁₂₃₄₅"
ECHO_AFTER = 6  # steps, in the task that the layer is trained on


def five_ways(
    A: Matrix,
    B: Inputs,
    C: Outputs,
    D: float,
    x: Signal,
    delta: float,
) -> dict[str, Response]:
    """The output of one system for a held input, computed in five ways.

    Args:
        A, B, C, D: the continuous system; A is a matrix.
        x: the inputs, each held for one step.
        delta: the step.

    Returns:
        y by name: the ODE solver, which knows no A_bar; the recurrence, the
        direct convolution, the FFT and the parallel scan.
    """
    A_bar, B_bar = discretize_dense(A, B, delta)
    K_bar = ssm_kernel(A_bar, B_bar, C, len(x))
    return {
        "ODE solver": simulate_held(A, B, C, D, x, delta),
        "recurrence": simulate_recurrence(A_bar, B_bar, C, D, x),
        "direct convolution": causal_convolution(K_bar, x) + D * x,
        "FFT": fft_convolution(K_bar, x) + D * x,
        "parallel scan": simulate_scan(A_bar, B_bar, C, D, x),
    }


def draw_unrolled(steps: int = 3, ax: np.ndarray | None = None) -> np.ndarray:
    """The recurrence with its loop, and the same unrolled over the steps.

    Args:
        steps: how many are unrolled.
        ax: two axes.

    Returns:
        The axes.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    loop, chain = ax
    _column(loop, 0.0, ("x", "h", "y"))
    loop.add_patch(
        FancyArrowPatch(
            (0.16, 1.14),
            (0.16, 0.86),
            connectionstyle="arc3,rad=-3.2",
            arrowstyle="-|>",
            mutation_scale=12,
            color=INK["A"],
            lw=1.4,
        )
    )
    loop.text(0.72, 1.0, "Ā", color=INK["A"], va="center")
    loop.set_title("with a loop")
    for k in range(steps):
        _column(chain, float(k), tuple(f"{s}{'₀₁₂₃₄₅'[k]}" for s in "xhy"))
    for k in range(steps - 1):
        _arrow(chain, (k, 1.0), (k + 1, 1.0), "A")
        chain.text(k + 0.5, 1.12, "Ā", color=INK["A"], ha="center")
    chain.set_title("unrolled")
    for panel, right in ((loop, 1.3), (chain, steps - 0.4)):
        panel.set(xlim=(-0.6, right), ylim=(-0.5, 2.5), aspect="equal")
        panel.axis("off")
    return ax


def draw_written_out(
    outputs: Sequence["sympy.Expr"],
    inputs: Sequence["sympy.Symbol"],
    ax: Axes | None = None,
) -> Axes:
    """Outputs in letters, a column for each input, a bar for each weight.

    Args:
        outputs: y_0, y_1, ... as sums over the inputs, multiplied out in the
            symbols A_bar, B_bar and C.
        inputs: x_0, x_1, ...
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; each patch is a weight, the stronger the younger its token.
    """
    ax = blank_axes() if ax is None else ax
    steps = len(outputs)
    for k, y_k in enumerate(outputs):
        ax.text(-0.62, k, f"y{SUBSCRIPTS[k]}", color=INK["y"], **_CENTRED)
        ax.text(-0.45, k, "=", **_CENTRED)
        for j, x_j in enumerate(inputs[: k + 1]):
            powers = {
                symbol.name: power
                for symbol, power in y_k.coeff(x_j).as_powers_dict().items()
            }
            age = powers.get("A_bar", 0)
            ax.add_patch(
                Rectangle(
                    (j - 0.3, k + 0.26),
                    0.4,
                    0.1,
                    color=INK["A"],
                    alpha=round(0.9 * 0.5**age, 3),
                    lw=0,
                )
            )
            factors = [
                (letter + ("²³⁴⁵"[power - 2] if power > 1 else ""), name[0])
                for name, letter in (
                    ("C", "C"),
                    ("A_bar", "Ā"),
                    ("B_bar", "B̄"),
                )
                if (power := powers.get(name, 0))
            ]
            for n, (letter, ink) in enumerate(factors):
                place = j - 0.1 + 0.13 * (n - (len(factors) - 1) / 2)
                ax.text(place, k, letter, color=INK[ink], **_CENTRED)
            ax.text(
                j + 0.21, k, f"x{SUBSCRIPTS[j]}", color=INK["x"], **_CENTRED
            )
            if j < k:
                ax.text(j + 0.45, k, "+", **_CENTRED)
    ax.set(xlim=(-0.75, steps - 0.65), ylim=(steps - 0.5, -0.5))
    ax.axis("off")
    return ax


def share_of_each_input(
    A_bar: Float[Tensor, ""], B_bar: Float[Tensor, ""], x: Signal
) -> Float[Tensor, "length length"]:
    """What of every input is in every state: A_bar^(k-j) B_bar x_j.

    Returns:
        Row k holds the terms of h_k, and sums to it.
    """
    k = torch.arange(len(x))
    lag = (k[:, None] - k).clamp(min=0)
    return torch.tril(A_bar**lag * B_bar * x)


def draw_terms(
    terms: Float[Tensor, "length length"], ax: Axes | None = None
) -> Axes:
    """The states as stacked bars, a piece for each input.

    Args:
        terms: from :func:`share_of_each_input`, not negative.
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; container j holds the pieces of input j.
    """
    ax = blank_axes() if ax is None else ax
    terms = terms.numpy()
    below = np.zeros(len(terms))
    for j, piece in enumerate(terms.T):
        ax.bar(
            range(len(terms)),
            piece,
            bottom=below,
            color=INK["x"],
            alpha=0.75 - 0.6 * j / max(1, len(terms) - 1),
            edgecolor=INK["page"],
            linewidth=1,
            width=0.7,
            label=f"x{'₀₁₂₃₄₅'[j]}",
        )
        for k in range(j, len(terms)):
            if piece[k] > 0.07 * terms.sum(axis=1).max():
                ax.text(
                    k,
                    below[k] + piece[k] / 2,
                    f"x{'₀₁₂₃₄₅'[j]}",
                    color=INK["ink"],
                    ha="center",
                    va="center_baseline",
                )
        below = below + piece
    ax.set_xticks(
        range(len(terms)), [f"h{'₀₁₂₃₄₅'[k]}" for k in range(len(terms))]
    )
    ax.set_ylim(0, 1.06 * below.max())
    ax.set_title("what each input has left in the state")
    ax.grid(axis="x", visible=False)
    return ax


def square_image(size: int = 9) -> Float[Tensor, "size size"]:
    """A square of ones among zeros, ``size`` pixels wide."""
    image = torch.zeros(size, size, dtype=torch.float64)
    image[2 : size - 2, 2 : size - 3] = 1.0
    return image


def filter_image(
    image: Float[Tensor, "rows columns"],
    weights: Float[Tensor, "3 3"],
) -> Float[Tensor, "rows columns"]:
    """Each pixel and its neighbours, weighted and summed; zeros around.

    Source: torch's conv2d, which does not turn the filter round.
    """
    return F.conv2d(image[None, None], weights[None, None], padding=1)[0, 0]


def draw_image_filter(
    image: Float[Tensor, "rows columns"],
    weights: Float[Tensor, "3 3"],
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """An image, a filter, and where the filter answers.

    Args:
        image: from 0 to 1, the stronger the colour the larger.
        weights: of a pixel and its neighbours.
        ax: three axes.

    Returns:
        The axes.
    """
    ax = blank_axes(panels=3) if ax is None else ax
    response = filter_image(image, weights)
    _cells(ax[0], image, "x")
    _cells(ax[1], weights, "ink", digits=True)
    _cells(ax[2], response, "y")
    titles = ("image", "filter", "response (striped: negative)")
    for panel, title in zip(ax, titles, strict=True):
        panel.set_title(title)
    row, column = 2, 1
    ax[0].add_patch(
        Rectangle(
            (column - 0.5, row - 0.5), 3, 3, fill=False, ec=INK["ink"], lw=2
        )
    )
    ax[2].add_patch(
        Rectangle(
            (column + 0.5, row + 0.5), 1, 1, fill=False, ec=INK["ink"], lw=2
        )
    )
    return ax


def draw_toeplitz(
    fixed: Float[Tensor, "length length"],
    varying: Float[Tensor, "length length"],
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """Two matrices from inputs to outputs, the stronger the larger.

    Args:
        fixed: of a system that treats all steps alike.
        varying: of one that does not.
        ax: two axes.

    Returns:
        The axes.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    for panel, matrix, title in (
        (ax[0], fixed, "fixed: stripes"),
        (ax[1], varying, "B̄ changes: no stripes"),
    ):
        _cells(panel, matrix, "y")
        panel.set_title(title)
        panel.set_xlabel("input xⱼ", color=INK["x"])
        panel.set_ylabel("output yₖ", color=INK["y"])
    return ax


@one_thread()
def measure_sequence(d_state: int = 16) -> Times:
    """Seconds for a whole sequence, in three ways, on this machine.

    All begin at the same length; each goes as far as it can in time.

    Returns:
        By name, the lengths and the median of a few times for each.
    """
    A_bar = torch.linspace(0.5, 0.99, d_state, dtype=torch.float64)
    one = torch.ones(d_state, dtype=torch.float64)

    def given(length: int) -> tuple[Tensor, Tensor]:
        # One more tap makes the circle of the FFT two lengths, a power of 2:
        # how long it takes hangs on the factors of that number.
        x = torch.ones(length, dtype=torch.float64)
        return 0.99 ** torch.arange(length + 1, dtype=torch.float64), x

    ways = {  # up to which power of 2, and how often
        "recurrence": (
            13,
            3,
            lambda _, x: simulate_recurrence(A_bar, one, one, 0.0, x),
        ),
        # Not `causal_convolution`, which lays out a window for each output.
        "direct": (
            13,
            5,
            lambda K_bar, x: np.convolve(K_bar.numpy(), x.numpy()),
        ),
        "FFT": (18, 9, fft_convolution),
    }
    times = {}
    for name, (last, repeats, run) in ways.items():
        lengths = [2**n for n in range(9, last + 1)]
        times[name] = (
            lengths,
            [middle(run, given(n), repeats) for n in lengths],
        )
    return times


@one_thread()
def measure_token(d_state: int = 16) -> Times:
    """Seconds for one more output, after so many, on this machine.

    Returns:
        By name, the lengths and the shortest of a few times for each.
    """
    lengths = [2**n for n in range(14, 22)]
    A_bar = torch.linspace(0.5, 0.99, d_state, dtype=torch.float64)
    C = torch.ones(d_state, dtype=torch.float64)

    def given(length: int) -> tuple[Tensor, Tensor]:
        x = torch.ones(length, dtype=torch.float64)
        return x, x.clone()

    step = shortest(lambda h, B_bar: C @ (A_bar * h + B_bar), (C, C))
    return {
        "recurrence": (lengths, [step] * len(lengths)),
        "convolution": (
            lengths,
            [shortest(torch.dot, given(n)) for n in lengths],
        ),
    }


def draw_times(
    sequence: Times, token: Times, ax: np.ndarray | None = None
) -> np.ndarray:
    """Time against length on logarithmic axes, each line with its slope.

    Args:
        sequence: of a whole sequence, from :func:`measure_sequence`.
        token: of one more output, from :func:`measure_token`.
        ax: two axes.

    Returns:
        The axes; a line's label is the name of the way.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    markers = {
        "recurrence": ("h", "o"),
        "direct": ("muted", "s"),
        "convolution": ("muted", "s"),
        "FFT": ("y", "^"),
    }
    titles = ("seconds, a whole sequence", "seconds, one more output")
    for panel, times, title in zip(ax, (sequence, token), titles, strict=True):
        draw_panel_of_times(panel, times, markers, title, "length")
    return ax


def count_slopes(A: Matrix, B: Inputs, delta: float) -> int:
    """How often the ODE solver asks for h' while one input is held.

    Args:
        A, B: the continuous system; A is a diagonal.
        delta: how long the input, a 1, is held.
    """
    asked = 0

    def slope(_: float, h: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return A * h + B

    hold = torch.tensor([0.0, delta], dtype=torch.float64)
    solve_ode(slope, torch.zeros_like(B), hold)
    return asked


def draw_three(
    counts: Mapping[str, int | float], ax: np.ndarray | None = None
) -> np.ndarray:
    """The three representations of one system, and what each is good for.

    Args:
        counts: "d_state" and "length"; operations for a token by the
            "solver", by a "step" and for the "last output" of a convolution;
            and "twice", by how much the work of the FFT grows when the length
            doubles.
        ax: three axes.

    Returns:
        The axes; the texts of each are its lines, good ones with a plus.
    """
    ax = blank_axes(panels=3) if ax is None else ax
    words = {
        "differential equation": (
            "+ for any sampling, and to reason",
            f"+ keeps {counts['d_state']} numbers",
            f"− a token: {counts['solver']:,} operations",
            "− each token waits",
        ),
        "recurrence": (
            f"+ a token: {counts['step']:,} operations",
            f"+ keeps {counts['d_state']} numbers",
            "+ parameters may change",
            f"− training: {counts['length']:,} steps that wait",
        ),
        "convolution": (
            "+ training: no output waits",
            f"+ twice as long: {counts['twice']:.1f} × the work",
            f"− token {counts['length']:,}: {counts['last output']:,}"
            " operations",
            "− keeps all inputs",
            "− parameters must be fixed",
        ),
    }
    x = torch.tensor([1.0, 0.6, 0.9, 0.4], dtype=torch.float64)
    for panel, (name, lines) in zip(ax, words.items(), strict=True):
        panel.set_title(name)
        panel.set(xlim=(0, 4.6), ylim=(-5.4, 4.4))
        panel.axis("off")
        for n, line in enumerate(lines):
            panel.text(0, -1.2 - n, line, va="center")
    _draw_smoothly(ax[0], x)
    _draw_stepwise(ax[1], x)
    _draw_summed(ax[2], x)
    return ax


def _draw_smoothly(ax: Axes, x: Signal) -> None:
    """h(t), with each input held, as a curve."""
    fine = 24
    rate = torch.tensor([math.log(0.6)], dtype=torch.float64)
    B = rate / (0.6 - 1)  # so that B_bar of a whole step is 1
    A_bar = torch.exp(rate / fine)
    B_bar = (A_bar - 1) / rate * B
    one = torch.ones(1, dtype=torch.float64)
    h = simulate_recurrence(A_bar, B_bar, one, 0.0, x.repeat_interleave(fine))
    times = np.arange(len(h) + 1) / fine
    ax.step(range(5), [*x, x[-1]], where="post", c=INK["x"], lw=1.3)
    ax.plot(times, 2 * np.r_[0, h.numpy()], c=INK["h"], lw=2)
    _beside(ax, 2 * h[-1].item(), "h", "h")
    _beside(ax, x[-1].item(), "x", "x")


def _draw_stepwise(ax: Axes, x: Signal) -> None:
    """h_k as dots, each made from the one before."""
    one = torch.ones(1, dtype=torch.float64)
    h = 2 * simulate_recurrence(0.6 * one, one, one, 0.0, x).numpy()
    places = np.arange(len(x)) + 0.7
    ax.bar(places, x.numpy(), width=0.3, color=INK["x"], alpha=0.45)
    ax.plot(places, h, "o", c=INK["h"], ms=7)
    for k in range(len(x) - 1):
        _arrow(ax, (places[k], h[k]), (places[k + 1], h[k + 1]), "A")
    _beside(ax, h[-1], "h₃", "h")
    _beside(ax, x[-1].item(), "x₃", "x")


def _draw_summed(ax: Axes, x: Signal) -> None:
    """The kernel over the inputs, and the sum of the products."""
    places = np.arange(len(x)) + 0.5
    K_bar = 0.6 ** np.arange(len(x))[::-1]
    ax.bar(places, x.numpy(), width=0.3, color=INK["x"], alpha=0.45)
    ax.bar(places, 1.5 * K_bar, bottom=1.5, width=0.3, color=INK["ink"])
    ax.plot([0.1, 3.9], [1.5, 1.5], c=INK["muted"], lw=1)
    _beside(ax, 2.2, "K̄", "ink")
    _beside(ax, x[-1].item(), "x", "x")


def _beside(ax: Axes, height: float, name: str, ink: str) -> None:
    ax.text(4.15, height, name, color=INK[ink], va="center")


class Echo(nn.Module):
    """A network around one LSSL, with one number in and one out.

    Args:
        d_model: channels of the layer.
        d_state: states of a channel.
    """

    def __init__(self, d_model: int = 4, d_state: int = 16) -> None:
        super().__init__()
        self.in_proj = nn.Linear(1, d_model)
        lssl = LSSL(d_model, d_state, dt_min=0.05, dt_max=0.3)
        self.layer = ChannelMixing(lssl, d_model)
        self.out_proj = nn.Linear(d_model, 1)

    def forward(
        self, x: Float[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length"]:
        """The whole sequence at once, by the convolution."""
        return self.out_proj(self.layer(self.in_proj(x[..., None])))[..., 0]

    def stream(
        self, x: Float[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length"]:
        """The same, one token at a time, by the recurrence."""
        state = self.layer.initial_state(len(x), dtype=x.dtype)
        outputs = []
        for x_k in x.T:
            y, state = self.layer.step(self.in_proj(x_k[:, None]), state)
            outputs.append(self.out_proj(y)[:, 0])
        return torch.stack(outputs, dim=1)


def echo_task(
    batch: int, length: int, generator: torch.Generator
) -> tuple[Float[Tensor, "batch length"], Float[Tensor, "batch length"]]:
    """Noise, and the same noise ``ECHO_AFTER`` steps later."""
    x = (
        torch.rand(
            batch, length, generator=generator, dtype=torch.float32
        ).mul(2)
        - 1
    )
    return x, F.pad(x[:, :-ECHO_AFTER], (ECHO_AFTER, 0))


@one_thread()
def train_by_convolution(
    steps: int = 200, length: int = 64
) -> tuple[Echo, list[float]]:
    """Train the network on the echo task, always by the convolution.

    Returns:
        The network, in float32, and the loss of every step.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Echo().float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        x, wanted = echo_task(16, length, generator)
        loss = F.mse_loss(model(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def draw_deployed(
    losses: Sequence[float],
    wanted: Float[Tensor, " length"],
    by_convolution: Float[Tensor, " length"],
    by_recurrence: Float[Tensor, " length"],
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """The loss in training, and the trained layer's outputs both ways.

    Args:
        losses: of every training step.
        wanted: what should come out, for one sequence.
        by_convolution, by_recurrence: what does.
        ax: two axes.

    Returns:
        The axes; the lines of the second are labelled by what they are.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    ax[0].plot(losses, c=INK["ink"], lw=1.4)
    ax[0].set(xlabel="training step", ylim=(0, None))
    ax[0].set_xticks([0, len(losses) // 2, len(losses)])
    ax[0].set_title("loss, by convolution")
    k = range(len(wanted))
    ax[1].plot(k, wanted, c=INK["muted"], lw=4, alpha=0.4, label="wanted")
    ax[1].plot(k, by_convolution, c=INK["y"], lw=1.4, label="convolution")
    ax[1].plot(k, by_recurrence, "o", c=INK["h"], ms=3.5, label="recurrence")
    ax[1].set(xlabel="token", ylim=(-1.3, 2.4))
    ax[1].set_xticks(range(0, len(wanted) + 1, 10))
    ax[1].set_yticks([-1, 0, 1], ["−1", "0", "1"])
    ax[1].set_title("the same layer, both ways")
    ax[1].legend(loc="upper left", frameon=False, ncols=1)
    return ax


_CENTRED = {"ha": "center", "va": "center_baseline"}


def _column(ax: Axes, across: float, names: tuple[str, str, str]) -> None:
    """x below, h in the middle, y above, with arrows between."""
    for height, name, ink in zip((0.0, 1.0, 2.0), names, "xhy", strict=True):
        ax.add_patch(
            Circle((across, height), 0.26, fc=INK["page"], ec=INK[ink], lw=1.6)
        )
        ax.text(
            across,
            height,
            name,
            color=INK[ink],
            ha="center",
            va="center_baseline",
        )
    _arrow(ax, (across, 0.0), (across, 1.0), "B")
    _arrow(ax, (across, 1.0), (across, 2.0), "C")
    ax.text(across - 0.1, 0.5, "B̄", color=INK["B"], ha="right", va="center")
    ax.text(across - 0.1, 1.5, "C", color=INK["C"], ha="right", va="center")


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], ink: str
) -> None:
    (x0, y0), (x1, y1) = start, end
    away = 0.28 / np.hypot(x1 - x0, y1 - y0)
    ax.annotate(
        "",
        (x1 - away * (x1 - x0), y1 - away * (y1 - y0)),
        (x0 + away * (x1 - x0), y0 + away * (y1 - y0)),
        arrowprops={"arrowstyle": "-|>", "color": INK[ink], "lw": 1.4},
    )


def _cells(ax: Axes, matrix: Tensor, ink: str, digits: bool = False) -> None:
    """A matrix as squares, the stronger the larger; negative ones hatched."""
    largest = matrix.abs().max().item()
    rows, columns = matrix.shape
    for (row, column), value in np.ndenumerate(matrix.numpy()):
        if value and not digits:
            ax.add_patch(
                Rectangle(
                    (column - 0.46, row - 0.46),
                    0.92,
                    0.92,
                    color=INK[ink if value > 0 else "warn"],
                    alpha=round(0.08 + 0.87 * abs(value) / largest, 2),
                    lw=0,
                )
            )
            if value < 0:
                ax.plot(
                    [column - 0.3, column + 0.3],
                    [row, row],
                    c=INK["page"],
                    lw=1.5,
                )
        if digits:
            ax.text(
                column,
                row,
                f"{value:g}".replace("-", "−"),
                ha="center",
                va="center_baseline",
            )
    ax.add_patch(
        Rectangle(
            (-0.5, -0.5), columns, rows, fill=False, ec=INK["muted"], lw=1
        )
    )
    ax.set(xlim=(-0.6, columns - 0.4), ylim=(rows - 0.4, -0.6), aspect="equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.set_frame_on(False)
