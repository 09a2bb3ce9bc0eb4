"""The plates of the chapter ``recurrent-networks``, and their numbers.

Every ``draw_<what>(data, ax=None)`` draws numbers that were computed before,
in the light colours of the palette, for the width of its axes; see
:func:`mambaviz.figures.plate.plate`.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Inexact
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.nn import functional as F

from mambaviz import theme
from mambaviz.figures import timing
from mambaviz.figures.plate import blank_axes
from mambaviz.models import RNN, KVCache, TransformerBlock
from mambaviz.theory.forgetting import linear_probe, stretch_by_lag
from mambaviz.theory.scan import combine_matrices, hillis_steele_scan

INK = {name: pair.light for name, pair in theme.INKS.items()}

SENTENCE = ("Hello", "my", "name", "is", "Maarten")
SIGNS = 3  # a word is one of 2^3, given by three signs
D_STATE = 16
# The memories that are compared: activation and radius of W_h, for ``RNN``.
MEMORIES = {
    "as made": ("tanh", None),
    "tanh, radius 1": ("tanh", 1.0),
    "no tanh, radius 1": ("identity", 1.0),
}
Times = Mapping[str, timing.Times]


def make_memory(name: str, seed: int, d_state: int = D_STATE) -> RNN:
    """One of ``MEMORIES``, in float64; torch's own seed stays as it was.

    Args:
        name: "as made", which has the parameters of a new ``torch.nn.RNN``,
            or one with an orthogonal W_h.
        seed: of its parameters.
        d_state: numbers in its state.
    """
    activation, radius = MEMORIES[name]
    layer = _drawn(seed, SIGNS, d_state, activation=activation, radius=radius)
    return layer.requires_grad_(False)


def random_words(
    texts: int, length: int, generator: torch.Generator
) -> Float[Tensor, "texts length signs"]:
    """Texts of words drawn evenly from eight; a word is three signs."""
    coins = torch.randint(2, (texts, length, SIGNS), generator=generator)
    return 2.0 * coins.double() - 1.0


def read_by_probe(
    layer: RNN, error: float = 0.05, texts: int = 500, seed: int = 0
) -> Float[Tensor, " length"]:
    """How often a linear probe names each word of a sentence.

    It is fitted on the last states of some sentences, and tried on those of
    as many others.

    Args:
        layer: what reads the sentences.
        error: of reading a number of the state, uniform, in rms over its size.
        texts: to fit on, and to try on.
        seed: of the sentences and the errors.

    Returns:
        The share named right, from the first word to the last; chance is 1/8.
    """
    generator = torch.Generator().manual_seed(seed)
    words = random_words(2 * texts, len(SENTENCE), generator)
    h = layer.states(words)[:, -1]
    noise = torch.rand(h.shape, generator=generator, dtype=h.dtype) * 2 - 1
    h = h + error * h.square().mean().sqrt() * 3**0.5 * noise
    targets = words.flatten(1)
    read = h[texts:] @ linear_probe(h[:texts], targets[:texts])
    right = (read > 0) == (targets[texts:] > 0)
    return right.unflatten(1, (-1, SIGNS)).all(-1).double().mean(0)


def read_by_memory(seeds: int = 20) -> dict[str, Float[Tensor, "seeds words"]]:
    """``read_by_probe`` for each of ``MEMORIES``, for as many seeds."""
    with _one_thread():
        return {
            name: torch.stack(
                [
                    read_by_probe(make_memory(name, s), seed=s)
                    for s in range(seeds)
                ]
            )
            for name in MEMORIES
        }


def draw_probe(
    shares: Mapping[str, Float[Tensor, "seeds words"]],
    ax: Axes | None = None,
) -> Axes:
    """What a probe reads of each word, by how long ago it was.

    Args:
        shares: from :func:`read_by_memory`.
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; a line's label is the name of the memory. Thin bars reach
        from the least to the most of all seeds.
    """
    ax = blank_axes() if ax is None else ax
    looks = {
        "as made": ("warn", "s", "as made, with tanh"),
        "tanh, radius 1": ("muted", "^", "orthogonal, with tanh"),
        "no tanh, radius 1": ("h", "o", "orthogonal, no tanh"),
    }
    lags = np.arange(len(SENTENCE))
    for n, (name, found) in enumerate(shares.items()):
        ink, marker, label = looks[name]
        share = 100 * found.flip(1).numpy()
        at = lags + 0.07 * (n - 1)
        ax.plot(
            at,
            share.mean(0),
            c=INK[ink],
            marker=marker,
            ms=6,
            lw=1.6,
            label=label,
        )
        ax.vlines(
            at, share.min(0), share.max(0), colors=INK[ink], lw=1, alpha=0.6
        )
    ax.axhline(100 / 2**SIGNS, c=INK["ink"], lw=1, ls=(0, (4, 3)))
    ax.text(0, 100 / 2**SIGNS + 2, "chance", color=INK["muted"])
    names = [
        f"{word}\n{lag or 'now'}"
        for lag, word in enumerate(reversed(SENTENCE))
    ]
    ax.set_xticks(lags, names)
    ax.set(ylim=(0, 108), xlim=(-0.4, len(SENTENCE) - 0.6))
    ax.set_yticks([0, 50, 100])
    ax.set_title("% of words read from the last state, by lag")
    ax.legend(loc="center left", frameon=False, bbox_to_anchor=(0, 0.36))
    return ax


def states_of_sentences(
    seed: int = 0,
) -> tuple[Float[Tensor, "d_state words"], Float[Tensor, "d_state words"]]:
    """States of "Hello my name is Maarten", and of "Howdy my name ...".

    The network is as made; its words have codes that are drawn.

    Returns:
        The states after each word, for the one and for the other first word.
    """
    generator = torch.Generator().manual_seed(seed)
    words = random_words(1, len(SENTENCE), generator)
    other = words.clone()
    other[:, 0] = -other[:, 0]
    layer = make_memory("as made", seed)
    return layer.states(words)[0].mT, layer.states(other)[0].mT


def draw_states(
    states: Float[Tensor, "d_state words"],
    other: Float[Tensor, "d_state words"],
    ax: np.ndarray | None = None,
) -> np.ndarray:
    """The states as a heat map, and what another first word changes in them.

    Args:
        states, other: from :func:`states_of_sentences`.
        ax: two axes.

    Returns:
        The axes; a cell is a patch, its alpha the size of its number.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    titles = ("states, word by word", "minus those after “Howdy”")
    gap = states - other
    largest = max(states.abs().max(), gap.abs().max()).item()
    for panel, values, title in zip(ax, (states, gap), titles, strict=True):
        rows, columns = values.shape
        for (row, column), value in np.ndenumerate(values.numpy()):
            panel.add_patch(
                Rectangle(
                    (column - 0.47, row - 0.44),
                    0.94,
                    0.88,
                    color=INK["h" if value > 0 else "B"],
                    alpha=round(abs(value) / largest, 3),
                    lw=0,
                )
            )
        for column in range(columns):
            length = values[:, column].norm().item()
            panel.text(
                column,
                rows + 0.7,
                f"{length:.2f}",
                ha="center",
                va="center",
                color=INK["ink"],
            )
        panel.set(xlim=(-0.6, columns - 0.4), ylim=(rows + 1.4, -0.7))
        panel.set_xticks(range(columns), SENTENCE)
        panel.set_yticks([])
        panel.set_title(title)
        panel.grid(False)
        panel.set_frame_on(False)
    return ax


def gradients_by_lag(
    lags: int = 24, texts: int = 20, seed: int = 0
) -> dict[str, Float[Tensor, " lags"]]:
    """Norms of gradients for each of ``MEMORIES``, and for radii below 1.

    Returns:
        ``stretch_by_lag`` for lags 0 to ``lags``, by name.
    """
    generator = torch.Generator().manual_seed(seed)
    words = random_words(texts, 2 * lags, generator)
    found = {}
    for name in MEMORIES:
        layer = make_memory(name, seed)
        states = layer.states(words)[:, lags:]
        is_linear = layer.activation == "identity"
        found[name] = stretch_by_lag(layer.W_h, states, is_linear)
    for rho in (0.9, 0.5):
        W_h = rho * make_memory("no tanh, radius 1", seed).W_h
        found[f"no tanh, radius {rho}"] = stretch_by_lag(
            W_h, states, is_linear=True
        )
    return found


def draw_gradients(
    norms: Mapping[str, Float[Tensor, " lags"]], ax: Axes | None = None
) -> Axes:
    """The norm of a gradient against the steps that it has gone back.

    Args:
        norms: from :func:`gradients_by_lag`.
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; a line's label is the name.
    """
    ax = blank_axes() if ax is None else ax
    # Ink, marker, label, at which lag it stands, and how far from there.
    looks = {
        "no tanh, radius 1": ("h", "o", "radius 1", 24, (0, 6)),
        "no tanh, radius 0.9": ("h", "o", "radius 0.9", 24, (0, 11)),
        "tanh, radius 1": ("muted", "^", "radius 1, tanh", 24, (0, -17)),
        "no tanh, radius 0.5": ("h", "o", "radius 0.5", 13, (3, 3)),
        "as made": ("warn", "s", "as made, tanh", 12, (-4, -15)),
    }
    for name, (ink, marker, label, at, off) in looks.items():
        values = norms[name].numpy()
        lags = np.arange(len(values))
        ax.plot(
            lags[::2],
            values[::2],
            c=INK[ink],
            marker=marker,
            ms=4,
            lw=1.2,
            label=name,
        )
        ax.annotate(
            label,
            (lags[at], values[at]),
            off,
            textcoords="offset points",
            ha="left" if off[0] > 0 else "right",
            color=INK[ink],
        )
    ax.set(yscale="log", ylim=(1e-9, 30), xlabel="lag, in steps")
    ax.set_yticks([1.0, 1e-3, 1e-6, 1e-9], ["1", "10⁻³", "10⁻⁶", "10⁻⁹"])
    ax.set_yticks([], minor=True)
    ax.set_xticks([0, 4, 8, 12, 16, 20, 24])
    ax.set_title("norm of a gradient, after so many steps back")
    return ax


def run_long(
    steps: int = 1_000_000, seed: int = 0, look_at: Sequence[int] = ()
) -> tuple[dict[int, float], dict[int, int]]:
    """A recurrent network over a long text, with what it keeps on the way.

    In NumPy, where a small step costs least. Beside the state goes the
    derivative of it to one input sign of the first word, scaled back to
    length 1 from time to time so that it can be followed below the smallest
    number of a computer.

    Args:
        steps: words of the text.
        seed: of the network and the text.
        look_at: after which steps to look.

    Returns:
        log10 of the derivative's norm, and the bytes of the state, by step.
    """
    layer = make_memory("as made", seed)
    W_h, W_x, b = (w.numpy() for w in (layer.W_h, layer.W_x, layer.b))
    draw = np.random.default_rng(seed)
    h, logs, kept, size = np.zeros(D_STATE), {}, {}, 0.0
    v = W_x[:, 0]
    step = 0
    while step < steps:
        block = min(100, steps - step)
        words = 2.0 * draw.integers(2, size=(block, SIGNS)) - 1.0
        for driven in words @ W_x.T + b:
            h = np.tanh(W_h @ h + driven)
            slope = 1.0 - h * h
            v = slope * v if step == 0 else slope * (W_h @ v)
            step += 1
            if step in look_at:
                logs[step] = size + math.log10(np.linalg.norm(v))
                kept[step] = h.nbytes
        length = float(np.linalg.norm(v))
        size, v = size + math.log10(length), v / length
    return logs, kept


class DiagonalRecurrence(nn.Module):
    """A linear recurrence of complex numbers that turn and hardly fade.

        h_t = lambda h_{t-1} + W_x x_t,    |lambda| = exp(-exp(nu)) < 1
        y   = W_y (Re h, Im h)

    Source: Orvieto et al. 2023 (arXiv 2303.06349), without their
        normalisation.

    Args:
        d_state: complex numbers in the state.
        seed: of the parameters.
    """

    def __init__(self, d_state: int = 16, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        kind = {"generator": generator, "dtype": torch.float64}
        radius = 0.99 + 0.009 * torch.rand(d_state, **kind)
        self.nu = nn.Parameter((-radius.log()).log())
        self.angle = nn.Parameter(math.pi * torch.rand(d_state, **kind))
        self.W_x = nn.Parameter(0.3 * torch.randn(d_state, SIGNS, **kind))
        self.W_y = nn.Parameter(0.1 * torch.randn(SIGNS, 2 * d_state, **kind))

    def forward(
        self, x: Float[Tensor, "batch length signs"], by: str = "scan"
    ) -> Float[Tensor, "batch signs"]:
        """What it says after the last word.

        Args:
            x: the words.
            by: "scan", all at once, or "loop", one after the other.
        """
        a = torch.complex(-self.nu.exp(), self.angle).exp()
        driven = (x @ self.W_x.T).to(a.dtype)
        if by == "loop":
            h = torch.zeros_like(driven[:, 0])
            for driven_t in driven.unbind(1):
                h = a * h + driven_t
        else:
            _, states = scan_all_at_once(a.expand_as(driven), driven)
            h = states[:, -1]
        return torch.view_as_real(h).flatten(1) @ self.W_y.T


def scan_all_at_once(
    a: Inexact[Tensor, "batch length n"], b: Inexact[Tensor, "batch length n"]
) -> tuple[
    Inexact[Tensor, "batch length n"], Inexact[Tensor, "batch length n"]
]:
    """h_t = a_t h_{t-1} + b_t for all t, in log2(length) levels.

    At each level every position takes in what lies 1, 2, 4, ... before it:
    (a_1, b_1) then (a_2, b_2) = (a_2 a_1, a_2 b_1 + b_2).

    Returns:
        The products of a so far, and h.

    Source: Hillis and Steele 1986, doi 10.1145/7902.7903.
    """
    gap = 1
    while gap < a.shape[1]:
        b = torch.cat([b[:, :gap], a[:, gap:] * b[:, :-gap] + b[:, gap:]], 1)
        a = torch.cat([a[:, :gap], a[:, gap:] * a[:, :-gap]], 1)
        gap *= 2
    return a, b


def recall_task(
    batch: int, delay: int, generator: torch.Generator
) -> tuple[Float[Tensor, "batch length signs"], Float[Tensor, "batch signs"]]:
    """A word, then faint noise; what is wanted at the end is the word."""
    word = random_words(batch, 1, generator)
    shape = batch, delay, SIGNS
    noise = torch.randn(shape, generator=generator, dtype=word.dtype)
    return torch.cat([word, 0.03 * noise], 1), word[:, 0]


def train_recall(
    model: nn.Module,
    steps: int,
    delay: int = 63,
    batch: int = 32,
    seed: int = 0,
    rate: float = 0.01,
    **options: str,
) -> list[float]:
    """Train a network to say its first word at the end.

    Args:
        model: from (batch, length, signs) to the wanted signs.
        steps: of Adam.
        delay: steps after the word.
        batch, seed, rate: of the training.
        **options: for the model's forward.

    Returns:
        The loss of every step: 1 for saying 0, 0 for the word.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    with _one_thread():  # more would wait for each other: the steps are small
        for _ in range(steps):
            x, wanted = recall_task(batch, delay, generator)
            loss = F.mse_loss(model(x, **options), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


class LastWord(nn.Module):
    """A tanh network as it is made, which speaks after the last word."""

    def __init__(self, d_state: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.rnn = _drawn(seed, SIGNS, d_state, SIGNS)

    def forward(
        self, x: Float[Tensor, "batch length signs"]
    ) -> Float[Tensor, "batch signs"]:
        """What it says after the last word."""
        return self.rnn.read(self.rnn.states(x)[:, -1])


def draw_losses(
    losses: Mapping[str, Sequence[float]], ax: Axes | None = None
) -> Axes:
    """Training losses on the recall task.

    Args:
        losses: by name, in the order: tanh, linear.
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; a line's label is the name.
    """
    ax = blank_axes() if ax is None else ax
    inks = ("warn", "h")
    for (name, values), ink in zip(losses.items(), inks, strict=True):
        # A running mean: single batches jump.
        smooth = np.convolve(values, np.ones(5) / 5, mode="valid")
        ax.plot(smooth, c=INK[ink], lw=1.8, label=name)
        ax.annotate(
            name,
            (len(smooth) * 0.98, smooth[int(len(smooth) * 0.9)]),
            (0, 8),
            textcoords="offset points",
            ha="right",
            color=INK[ink],
        )
    longest = max(map(len, losses.values()))
    ax.set(xlabel="training step", ylim=(0, 1.35))
    ax.set_xticks([0, longest // 2, longest])
    ax.set_yticks([0, 0.5, 1])
    ax.set_title("loss: 1 is knowing nothing, 0 is the word")
    return ax


def newton_states(
    layer: RNN, x: Float[Tensor, "length d_model"], rounds: int
) -> list[Float[Tensor, "length d_state"]]:
    """The states of a tanh network by rounds of parallel scans.

    Guess all states at once. Around the guess, each step is nearly linear,

        h_t = f_t + J_t (h_{t-1} - g_{t-1}),    J_t = diag(1 - f_t^2) W_h

    with f_t the step from the guess g_{t-1}; that recurrence is linear, so a
    scan runs it. Its states are the next guess: Newton's method. After as
    many rounds as there are words it is exact in any case.

    Source: Lim et al. 2024 (arXiv 2309.12252).

    Args:
        layer: with a tanh.
        x: the words of one text.
        rounds: how often to improve the guess, which is 0 at first.

    Returns:
        The guess after each round.
    """
    guess = x.new_zeros(len(x), layer.d_state)
    driven = x @ layer.W_x.T + layer.b
    guesses = []
    for _ in range(rounds):
        before = torch.cat([guess[:1] * 0, guess[:-1]])
        f = torch.tanh(before @ layer.W_h.T + driven)
        J = (1 - f**2)[..., None] * layer.W_h  # length d_state d_state
        J = torch.cat([J[:1] * 0, J[1:]])  # the state before is known
        offset = f - torch.einsum("tij,tj->ti", J, before)
        _, guess = hillis_steele_scan(J, offset, operator=combine_matrices)
        guesses.append(guess)
    return guesses


def measure_networks(d_model: int = 64) -> Times:
    """Seconds of three networks, on this machine.

    One layer of each, in float32 on one thread, forward only: a Transformer
    layer with a cache, a tanh RNN in a loop, and a diagonal recurrence, by
    the scan for a sequence and by a step for a token.

    Returns:
        "sequence" and "token", then by name the lengths and the shortest of a
        few times for each.
    """
    with _one_thread(), torch.inference_mode():
        torch.manual_seed(0)
        block = TransformerBlock(d_model, 1).float().eval()
        rnn = RNN(d_model).float()
        single = {"dtype": torch.float32}
        a = torch.linspace(0.9, 0.999, d_model, **single)
        W = torch.randn(2, d_model, d_model, **single) / d_model**0.5

        def linear(x: Tensor) -> Tensor:
            driven = x @ W[0]
            _, h = scan_all_at_once(a.expand_as(driven), driven)
            return h @ W[1]

        def one_more(x: Tensor, h: Tensor) -> Tensor:
            return (a * h + x @ W[0]) @ W[1]

        def cache(length: int) -> KVCache:
            shape = 2, 1, 1, length, d_model
            return KVCache(*torch.randn(shape, **single))

        def text(length: int) -> tuple[Tensor]:
            return (torch.randn(1, length, d_model, **single),)

        whole = [2**n for n in range(8, 13)]
        far = [2**n for n in range(12, 18)]
        x, h = torch.randn(2, 1, d_model, **single)
        return {
            "sequence": {
                "transformer": _times(block, whole, text),
                "rnn": _times(rnn, whole, text),
                "linear": _times(linear, whole, text),
            },
            "token": {
                "transformer": _times(
                    block.step, far, lambda n: (x, cache(n))
                ),
                "rnn": _times(rnn.step, far, lambda n: (x, h)),
                "linear": _times(one_more, far, lambda n: (x, h)),
            },
        }


def draw_times(times: Times, ax: np.ndarray | None = None) -> np.ndarray:
    """Time against length on logarithmic axes, each line with its slope.

    Args:
        times: from :func:`measure_networks`.
        ax: two axes.

    Returns:
        The axes; a line's label is the name and the slope.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    names = {"transformer": "Transformer", "rnn": "RNN", "linear": "linear"}
    looks = {
        "Transformer": ("x", "s"),
        "RNN": ("warn", "^"),
        "linear": ("h", "o"),
    }
    titles = {
        "sequence": "seconds, a whole sequence",
        "token": "seconds, one more token",
    }
    for panel, (what, title) in zip(ax, titles.items(), strict=True):
        named = {names[kind]: found for kind, found in times[what].items()}
        timing.draw_panel_of_times(panel, named, looks, title)
    return ax


def _drawn(seed: int, *sizes: int, **options: object) -> RNN:
    """An ``RNN`` drawn in float64, whatever torch's default is."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64)
        try:
            return RNN(*sizes, **options)
        finally:
            torch.set_default_dtype(before)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Torch with one thread, whose seed stays as it was: times are calmer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


def _times(
    run: Callable, lengths: Sequence[int], given: Callable[[int], tuple]
) -> tuple[list[int], list[float]]:
    """The shortest of a few runs at each length, after one for nothing."""
    seconds = []
    for length in lengths:
        arguments = given(length)
        run(*arguments)
        marks = [time.perf_counter()]
        while len(marks) < 6 or (
            len(marks) < 60 and marks[-1] - marks[0] < 0.05
        ):
            run(*arguments)
            marks.append(time.perf_counter())
        seconds.append(min(b - a for a, b in pairwise(marks)))
    return list(lengths), seconds
