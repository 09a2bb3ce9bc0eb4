"""The exercises of the chapter ``recurrent-networks``."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mambaviz.exercises.exercise import (
    Exercise,
    Judge,
    Mistake,
    UnreadableAnswer,
)
from mambaviz.exercises.judges import Array, Function, Number, quote
from mambaviz.theory.recall import state_kernels

_f64 = functools.partial(torch.tensor, dtype=torch.float64)

_LOUDEST = 0.3  # the noise after the first word


@functools.cache
def _texts() -> Tensor:
    """Texts of 61 words, a row each; the first word is 1 or -1.

    The rest is noise: random, random and as loud as it may be, or all to one
    side, so also all against the first word.
    """
    draw = torch.Generator().manual_seed(0)
    noise = 2 * torch.rand(40, 60, generator=draw, dtype=torch.float64) - 1
    noise[:8] = noise[:8].sign()
    one_side = torch.ones(2, 60, dtype=torch.float64)
    noise = _LOUDEST * torch.cat([noise, one_side, -one_side])
    first = _f64([[1.0], [-1.0]]).repeat(len(noise) // 2, 1)
    return torch.cat([first, noise], dim=1)


@dataclass(frozen=True)
class Latch(Judge):
    """Three numbers w, u and b, judged by what a cell does with them."""

    sample = "[w, u, b]"
    wanted = "three numbers, `[w, u, b]`"

    def read(self, answer: object) -> tuple[str, float]:
        """Let the cell read all texts.

        Returns:
            What becomes of the first word, and in which share of the texts
            the last state has its sign.
        """
        w, u, b = numbers = Array((3,)).read(answer)
        if numbers.is_complex() or not numbers.isfinite().all():
            raise UnreadableAnswer(f"We received {quote(answer)}.")
        texts = _texts()
        h = torch.zeros(len(texts), dtype=torch.float64)
        for x in texts.T:
            before, h = h, torch.tanh(w * h + u * x + b)
        first = texts[:, 0]
        signs = torch.stack([before.sign(), h.sign()])  # 60 words and 61
        kept = signs == first
        share = kept.double().mean().item()
        if kept.all():
            return "keeps", share
        if (signs == -first).all():
            return "turns over", share
        if (signs == signs[0, 0]).all():
            return "is stuck", share
        if (kept[0] != kept[1]).all():
            return "swings", share
        return ("fades" if abs(w) <= 1 else "is pushed"), share

    def same(self, given: tuple[str, float], other: tuple[str, float]) -> bool:
        """Say whether the same becomes of the first word."""
        return given[0] == other[0]

    def confirm(self, given: tuple, solution: tuple) -> str:
        """Say on how many texts the cell was tried."""
        return f"Your cell kept the first word in all {len(_texts())} texts."

    def object_to(self, given: tuple, solution: tuple) -> str:
        """Quote the share of texts in which the sign is right."""
        return (
            f"At the end your state has the sign of the first word in "
            f"{given[1]:.0%} of our texts."
        )


def solve_latch() -> list[float]:
    """Above w = 1 the state has two places to rest, one for each sign."""
    w, u, b = 2.0, 1.0, 0.0
    # What a word must add to push it over: the rest of h = tanh(w h - push),
    # where w h - artanh(h) is largest.
    h = math.sqrt(1 - 1 / w)
    push = w * h - math.atanh(h)
    assert 0.3 * u < push < u  # the noise cannot
    return [w, u, b]


LATCH = Exercise(
    name="rnn/latch",
    question=(
        "Build a tanh cell that does not forget. Its state is one number, "
        "h_t = tanh(w h_{t-1} + u x_t + b), and begins at 0. The first word "
        "is 1 or -1. Another 59 or 60 follow, and they are noise: anything "
        "from -0.3 to 0.3. Give `[w, u, b]` so that the last state has the "
        "sign of the first word, whatever the noise."
    ),
    solution=solve_latch(),
    judge=Latch(),
    mistakes=[
        Mistake(
            [0.9, 1.0, 0.0],
            "With w from -1 to 1 the state has one place to rest. When the "
            "words are silent it goes back there, and what you see at the "
            "end is the latest noise. For which w does h = tanh(w h) have "
            "more than one solution?",
        ),
        Mistake(
            [1.1, 1.0, 0.0],
            "The state can rest in two places now, but noise pushes it from "
            "one to the other. Part them further, or let the words in less "
            "loudly.",
        ),
        Mistake(
            [2.0, 1.0, 2.0],
            "Your b is so large that the state ends with the same sign "
            "whatever the first word was.",
        ),
        Mistake(
            [-2.0, 1.0, 0.0],
            "The word is kept, but its sign turns over at every step, and "
            "our texts have 60 words or 61.",
        ),
        Mistake(
            [2.0, -1.0, 0.0],
            "The word is kept, with its sign turned over at the door: that "
            "is what a negative u does.",
        ),
    ],
    nudge=(
        "Put the noise aside and plot tanh(w h) against h for a few w. Where "
        "it crosses the line h, the state stays. You need a crossing on each "
        "side of 0."
    ),
)


_LAG, _STATES, _TEXT, _ERROR = 100, 256, 121, 1e-3


@dataclass(frozen=True)
class Recall(Judge):
    """A function that gives W_h, judged by what the state can still tell.

    The network is linear, and its input enters at the first number of the
    state. Its last state is read with the best linear decoder there is, each
    number with an error of a thousandth of the size of all.
    """

    sample = "transition"
    wanted = "a function `transition(d_state)`"

    def read(self, answer: object) -> tuple[str, tuple[float, float] | None]:
        """Call the function with 256.

        Returns:
            What it did, and of its matrix the error of reading the input of
            100 steps ago, and what each step makes of that input's length.
        """
        function = Function(
            "transition(d_state)", [(_STATES,)], lambda n: (n, n)
        )
        (outcome,) = function.read(answer)
        W_h = outcome.value
        if W_h is None or W_h.is_complex() or not W_h.isfinite().all():
            return outcome.shown, None
        first = torch.zeros(_STATES, dtype=torch.float64)
        first[0] = 1
        kernels = state_kernels(W_h, first, _TEXT)
        length = kernels[:, _LAG].norm().item()
        if not (kernels.isfinite().all() and length < 1e60):
            return "lets the state grow beyond all bounds", (1.0, 2.0)
        error = _reading_error(kernels, _LAG)
        return "returned a matrix", (error, length ** (1 / _LAG))

    def same(self, given: tuple, other: tuple) -> bool:
        """Say whether two matrices read the input alike, and stretch it so."""
        if given[1] is None or other[1] is None:
            return False
        pairs = zip(given[1], other[1], strict=True)
        return all(abs(mine - theirs) < 0.02 for mine, theirs in pairs)

    def confirm(self, given: tuple, solution: tuple) -> str:
        """Quote the error of reading."""
        return (
            f"The input of {_LAG} steps ago is read with an error of "
            f"{given[1][0]:.2g} of its size."
        )

    def object_to(self, given: tuple, solution: tuple) -> str:
        """Quote the error of reading, or what the function did instead."""
        shown, found = given
        if found is None:
            return f"`transition({_STATES})` {shown}."
        return (
            f"The input of {_LAG} steps ago is read with an error of "
            f"{found[0]:.2g} of its size, and a step multiplies what it left "
            f"by {found[1]:.2g}."
        )


def _reading_error(kernels: Tensor, lag: int) -> float:
    """How wrong the best linear reading of one input is; 1 knows nothing.

    h = K x + noise,    error^2 = 1 - k (K K^T + s^2 I)^-1 k
    """
    noise = _ERROR**2 * kernels.square().mean() * kernels.shape[1]
    I = torch.eye(len(kernels), dtype=torch.float64)
    k = kernels[:, lag]
    known = k @ torch.linalg.solve(kernels @ kernels.mT + noise * I, k)
    return max(0.0, 1 - known.item()) ** 0.5


def solve_recall_100(d_state: int) -> Tensor:
    """Each number moves one place on: a step that keeps every length."""
    I = torch.eye(d_state, dtype=torch.float64)
    return I.roll(1, dims=0)


def _shrinking(d_state: int) -> Tensor:
    return 0.9 * solve_recall_100(d_state)


def _identity(d_state: int) -> Tensor:
    return torch.eye(d_state, dtype=torch.float64)


def _growing(d_state: int) -> Tensor:
    return 1.1 * solve_recall_100(d_state)


def _as_made(d_state: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    bound = d_state**-0.5
    W_h = 2 * torch.rand(d_state, d_state, generator=generator) - 1
    return (bound * W_h).double()


RECALL = Exercise(
    name="rnn/recall-100",
    question=(
        "A linear network h_t = `W_h` h_{t-1} + e x_t has 256 numbers in "
        "its state; x_t is one number, and enters at the first of them "
        "(e = 1, 0, 0, ...). It reads 121 random inputs. Write "
        "`transition(d_state)`, which returns a `W_h` of shape "
        "(`d_state`, `d_state`). No step may make the state longer or "
        "shorter by more than 2 %, and the best linear decoder must read "
        "the input of 100 steps ago within 2 %, although it sees each "
        "number with an error of 0.1 % of the state's size."
    ),
    solution=solve_recall_100,
    judge=Recall(),
    mistakes=[
        Mistake(
            _identity,
            "Nothing is lost, but everything is mixed: your state is the "
            "sum of all inputs, and no decoder can tell them apart. Each "
            "input must come to lie in a direction of its own.",
        ),
        Mistake(
            _as_made,
            "So small entries shrink a state to about 0.6 of its length at "
            "every step, as they do in a new `torch.nn.RNN`. After 100 "
            "steps hardly anything is left.",
        ),
        Mistake(
            _shrinking,
            "0.9 to the power of 100 is 0.00003: far less than the error of "
            "reading. A step must keep lengths.",
        ),
        Mistake(
            _growing,
            "Your steps make the state grow. Old inputs are loud then, but "
            "the numbers leave all bounds: 1.1 to the power of 1,000 is "
            "10 to the power of 41. A step must keep lengths.",
        ),
    ],
    nudge=(
        "Two things are needed: a step must keep the length of what is in "
        "the state, and 121 inputs must end in 121 different directions. "
        "Which matrices keep lengths?"
    ),
)


_NETWORKS = [
    (64, (1,) * 12),
    (1000, (1,)),
    (5, (1, -1)),
    (7, (1, 1, -1, -1, 1)),
    (1, (1, -1, 1)),
    (8, (-1, -1, 1, 1, 1)),
]


def solve_serial_chain(length: int, directions: Sequence[int]) -> int:
    """Each cell is done one unit after the later of the two it waits for."""
    below = [0] * length
    for direction in directions:
        row, before = [0] * length, 0
        for t in range(length)[::direction]:
            before = row[t] = 1 + max(before, below[t])
        below = row
    return max(below)


def _turns(directions: Sequence[int]) -> int:
    return sum(a != b for a, b in pairwise(directions))


SERIAL_CHAIN = Exercise(
    name="rnn/serial-chain",
    question=(
        "In a tanh network of several layers some read the text from its "
        "end. `directions` has an entry for each layer, from the lowest up: "
        "1 if it reads forwards, -1 if backwards. A cell needs the state of "
        "its own layer at the word read before, and the output of the layer "
        "below at its own word; it takes one unit of time. Write "
        "`chain(length, directions)`: how many units a forward pass takes "
        "at least, with as many processors as you like."
    ),
    solution=solve_serial_chain,
    judge=Function(
        "chain(length, directions)", _NETWORKS, lambda length, directions: ()
    ),
    mistakes=[
        Mistake(
            lambda length, directions: length + len(directions) - 1,
            "So it is where all layers read in the same direction. Where the "
            "direction turns, the upper layer begins at the word that the "
            "lower one reads last.",
        ),
        Mistake(
            lambda length, directions: length * len(directions),
            "That is how many cells there are: the time on one processor. "
            "Two layers that read in the same direction can work at once, "
            "the upper one a word behind.",
        ),
        Mistake(
            lambda length, directions: length * (1 + _turns(directions)),
            "You have counted the turns. A layer that reads like the one "
            "below is not free: its last cell comes one unit later.",
        ),
        Mistake(
            lambda length, directions: length,
            "So long is the chain of one layer. The others end later.",
        ),
        Mistake(
            lambda length, directions: len(directions),
            "So it is in a Transformer. Here a cell also waits for its "
            "neighbour.",
        ),
    ],
    nudge=(
        "Draw the cells as a grid, words from left to right and layers "
        "upwards, and write into each when it is done: 1 after the later of "
        "the two that it waits for. Try 4 words and the directions 1, 1, -1."
    ),
)


def solve_radius(share: float = 0.5, lag: int = 100) -> float:
    """rho to the lag is the share, so rho is its root."""
    return share ** (1 / lag)


_RHO = solve_radius()  # 0.993092

RADIUS = Exercise(
    name="rnn/radius",
    question=(
        "A linear network has an orthogonal matrix times ρ for its `W_h`. "
        "Which ρ leaves one half of a gradient's norm after 100 steps? "
        "Within 0.05 %."
    ),
    solution=_RHO,
    judge=Number(rtol=0.0005),
    mistakes=[
        Mistake(
            0.5,
            "That halves the norm at every step. After 100 steps it is "
            "8·10⁻³¹.",
        ),
        Mistake(
            1 - 0.5 / 100,
            "The loss is not the same at every step: each multiplies what "
            "is left by ρ. You have 61 % left.",
        ),
        Mistake(
            1 / _RHO,
            "With a ρ above 1 the norm grows: yours has doubled.",
        ),
        Mistake(
            math.exp(-1 / 100),
            "That leaves 1/e, 37 %. The question is one half.",
        ),
    ],
    nudge="After k steps the norm is ρ to the power of k.",
)


EXERCISES = (LATCH, RECALL, SERIAL_CHAIN, RADIUS)
