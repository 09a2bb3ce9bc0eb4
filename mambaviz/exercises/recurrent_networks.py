"""The exercises of the chapter ``recurrent-networks``."""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mambaviz.exercises.exercise import Exercise, Judge, Mistake
from mambaviz.exercises.judges import Function, Number
from mambaviz.theory.recall import state_kernels

_f64 = functools.partial(torch.tensor, dtype=torch.float64)

_CELLS = [
    (
        _f64([[0.5, -1.0], [0.3, 0.8]]),
        _f64([[1.0], [-0.5]]),
        _f64([0.1, -0.2]),
        _f64([[1.0], [0.5], [-2.0]]),
    ),
    (
        _f64([[0.9]]),
        _f64([[1.0, 0.4]]),
        _f64([0.0]),
        _f64([[1.0, -1.0], [0.0, 2.0]]),
    ),
    (
        _f64([[0.0, 1.5], [-1.5, 0.0]]),
        _f64([[0.7], [0.2]]),
        _f64([0.0, 0.3]),
        _f64([[2.0]]),
    ),
]


def solve_cell(W_h: Tensor, W_x: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """One state, overwritten at every step."""
    h, states = torch.zeros_like(b), []
    for x_t in x:
        h = torch.tanh(W_h @ h + W_x @ x_t + b)
        states.append(h)
    return torch.stack(states)


def _forgets(W_h: Tensor, W_x: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(x @ W_x.T + b)


def _transposed(W_h: Tensor, W_x: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return solve_cell(W_h.T, W_x, b, x)


def _no_tanh(W_h: Tensor, W_x: Tensor, b: Tensor, x: Tensor) -> Tensor:
    h, states = torch.zeros_like(b), []
    for x_t in x:
        h = W_h @ h + W_x @ x_t + b
        states.append(h)
    return torch.stack(states)


def _late_tanh(W_h: Tensor, W_x: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(_no_tanh(W_h, W_x, b, x))


CELL = Exercise(
    name="rnn/cell",
    question=(
        "Write `run(W_h, W_x, b, x)`, which gives all states of h_t = "
        "tanh(`W_h` h_{t-1} + `W_x` x_t + b) from a state of 0. x has a row "
        "for each step, and so has the result."
    ),
    solution=solve_cell,
    judge=Function(
        "run(W_h, W_x, b, x)",
        _CELLS,
        lambda W_h, W_x, b, x: (len(x), len(b)),
    ),
    mistakes=[
        Mistake(
            _forgets,
            "Each of your states knows its own word alone: h_{t-1} never "
            "enters. Keep h from one turn of the loop to the next.",
        ),
        Mistake(
            _transposed,
            "`W_h` is turned over. Row i of `W_h` says how the old state "
            "enters number i of the new one: `W_h @ h`.",
        ),
        Mistake(
            _no_tanh,
            "The tanh is missing: your recurrence is linear.",
        ),
        Mistake(
            _late_tanh,
            "The tanh comes too late. It belongs inside the loop: what is "
            "carried on is the state after the tanh.",
        ),
    ],
    nudge=(
        "Start with a state of zeros, loop over the rows of x, overwrite "
        "the state in each turn, and keep a list of what it was."
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


_NETWORKS = [(1000, 1), (1000, 4), (5, 5), (1, 3), (64, 12), (3, 8)]


def solve_serial_chain(length: int, n_layers: int) -> int:
    """From the first cell to the last: along the text, and up the layers."""
    done = {}
    for layer in range(n_layers):
        for t in range(length):
            before = done.get((layer, t - 1), 0), done.get((layer - 1, t), 0)
            done[layer, t] = 1 + max(before)
    return done[n_layers - 1, length - 1]


SERIAL_CHAIN = Exercise(
    name="rnn/serial-chain",
    question=(
        "A tanh network has several layers. The cell of layer l and word t "
        "needs the state of layer l at word t - 1 and the output of layer "
        "l - 1 at word t; one cell takes one unit of time. Write "
        "`chain(length, n_layers)`: how many units a forward pass takes at "
        "least, with as many processors as you like."
    ),
    solution=solve_serial_chain,
    judge=Function(
        "chain(length, n_layers)", _NETWORKS, lambda length, n_layers: ()
    ),
    mistakes=[
        Mistake(
            lambda length, n_layers: length * n_layers,
            "That is how many cells there are: the time on one processor. "
            "The second layer can begin as soon as the first has done the "
            "first word.",
        ),
        Mistake(
            lambda length, n_layers: length,
            "So long is the chain of one layer. The last word must then "
            "still go up through the others.",
        ),
        Mistake(
            lambda length, n_layers: length + n_layers,
            "One too many: a cell is both the last of its row and the first "
            "of its column, and counts once.",
        ),
        Mistake(
            lambda length, n_layers: n_layers,
            "So it is in a Transformer. Here a cell also waits for the one "
            "on its left.",
        ),
    ],
    nudge=(
        "Draw a grid, words from left to right and layers upwards, with an "
        "arrow for every wait. How many cells are on the longest way from "
        "the first cell to the last?"
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


EXERCISES = (CELL, RECALL, SERIAL_CHAIN, RADIUS)
