"""The exercises of the chapter ``hippo``."""

import functools
import math

import torch
from torch import Tensor

from mambaviz.exercises.exercise import Exercise, Mistake
from mambaviz.exercises.judges import Array, Function, Number, Text
from mambaviz.theory.dplr import s4d_kernel
from mambaviz.theory.hippo import hippo_legs, hippo_legt, lmu

_f64 = functools.partial(torch.tensor, dtype=torch.float64)


def solve_eigenvalues(d_state: int = 8, t: float = 1.0) -> float:
    """The largest singular value of e^(t A), not its largest eigenvalue.

    A + A^T = -(I + B B^T): a state perpendicular to B fades like e^(-t/2), and
    the numbers of LegS lie so that some state stays nearly perpendicular.
    """
    A, _ = hippo_legs(d_state)
    after = torch.matrix_exp(t * A)
    return torch.linalg.matrix_norm(after, ord=2).item()


_AFTER = torch.matrix_exp(hippo_legs(8)[0])

EIGENVALUES = Exercise(
    name="hippo/eigenvalues",
    question=(
        "LegS with 8 numbers has the eigenvalues −1 to −8, and listens to "
        "silence: h' = A h. States of length 1 are left alone from the time "
        "0 on. How long can one still be at the time 1, if it began in the "
        "direction that fades most slowly? Try it, with `hippo_legs` and "
        "`torch.matrix_exp`. Within 1 %."
    ),
    solution=solve_eigenvalues(),
    judge=Number(rtol=0.01),
    mistakes=[
        Mistake(
            math.exp(-1),
            "That is what the slowest eigenvalue says, and it holds for a "
            "state along its eigenvector. But the eigenvectors of LegS are "
            "far from perpendicular: a sum of several can fade more slowly "
            "than each of them. Try many random states.",
        ),
        Mistake(
            _AFTER[:, 0].norm().item(),
            "You began with the first number alone. Another direction fades "
            "more slowly.",
        ),
        Mistake(
            torch.linalg.matrix_norm(_AFTER).item(),
            "That is the root of the sum of all squares in e^A, all "
            "directions together. No state can grow here; which one shrinks "
            "least?",
        ),
        Mistake(
            _AFTER.abs().max().item(),
            "That is the largest entry of e^A: how much of one number "
            "arrives in one number. The direction asked for has several.",
        ),
        Mistake(
            1.0,
            "None of its length is lost? Every state fades here, if slowly.",
        ),
    ],
    nudge=(
        "After a unit of time a state h has become `torch.matrix_exp(A) @ h`. "
        "Draw many directions h of length 1, look for the longest result, and "
        "then ask which norm of a matrix finds it at once."
    ),
)


def _backward_euler(A: Tensor, B: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """h' = (A h + B x) / t by backward Euler, with a given t of every step."""
    h, I = torch.zeros_like(B), torch.eye(len(B), dtype=A.dtype)
    for x_k, t_k in zip(x, t, strict=True):
        h = torch.linalg.solve(I - A / t_k, h + B * x_k / t_k)
    return h


def solve_online(A: Tensor, B: Tensor, x: Tensor) -> Tensor:
    """Step k ends at the time k + 1, and there the slope is taken."""
    h, I = torch.zeros_like(B), torch.eye(len(B), dtype=A.dtype)
    for k, x_k in enumerate(x):
        t = k + 1
        h = torch.linalg.solve(I - A / t, h + B * x_k / t)
    return h


def _every_step_alike(A: Tensor, B: Tensor, x: Tensor) -> Tensor:
    return _backward_euler(A, B, x, torch.full_like(x, len(x)))


def _without_t(A: Tensor, B: Tensor, x: Tensor) -> Tensor:
    return _backward_euler(A, B, x, torch.ones_like(x))


def _forward_euler(A: Tensor, B: Tensor, x: Tensor) -> Tensor:
    h = torch.zeros_like(B)
    for k, x_k in enumerate(x):
        h = h + (A @ h + B * x_k) / (k + 1)
    return h


def _undivided_input(A: Tensor, B: Tensor, x: Tensor) -> Tensor:
    h, I = torch.zeros_like(B), torch.eye(len(B), dtype=A.dtype)
    for k, x_k in enumerate(x):
        h = torch.linalg.solve(I - A / (k + 1), h + B * x_k)
    return h


ONLINE = Exercise(
    name="hippo/online",
    question=(
        "Let scaled LegS listen. Write `listen(A, B, x)`: start with h = 0 "
        "and take one step of backward Euler of h' = (A h + B x) / t for "
        "each input. Step k leads from the time k to the time k + 1, and t "
        "is the time at its end. Return the last h. A is (N, N), B has N "
        "numbers and x any number of inputs, all float64."
    ),
    solution=solve_online,
    judge=Function(
        "listen(A, B, x)",
        [
            (*hippo_legs(1), _f64([1.0, 3.0])),
            (*hippo_legs(3), _f64([0.5, -1.0, 2.0])),
            (*hippo_legs(5), _f64([1.0, 0.0, 0.0, -2.0, 1.0, 0.5])),
        ],
        lambda A, B, x: tuple(B.shape),
        rtol=1e-9,
    ),
    mistakes=[
        Mistake(
            _without_t,
            "You have not divided by t. That is the time-invariant memory "
            "with a time constant of one step: it forgets at once.",
        ),
        Mistake(
            _every_step_alike,
            "Your t is the same at every step. So the memory forgets "
            "exponentially; the factor 1 / (k + 1) is what keeps the oldest "
            "input as well as the newest.",
        ),
        Mistake(
            _forward_euler,
            "That is forward Euler. Its states grow huge before they "
            "settle. In backward Euler the slope is that of the new state: "
            "solve (I − A / t) h = h_before + B x / t.",
        ),
        Mistake(
            _undivided_input,
            "The input must be divided by t too, like A h.",
        ),
    ],
    nudge=(
        "With t = k + 1, each step solves (I − A / t) h = h_before + B x / t; "
        "`torch.linalg.solve` does it."
    ),
)


def solve_window(d_state: int, window: float) -> Tensor:
    """A and B of the LMU, side by side."""
    n = torch.arange(d_state, dtype=torch.float64)
    sign = (-1.0) ** (n[:, None] - n + 1)
    ahead = n[:, None] < n
    A = (2 * n[:, None] + 1) / window * torch.where(ahead, -1.0, sign)
    B = (2 * n + 1) / window * (-1.0) ** n
    return torch.cat([A, B[:, None]], dim=1)


def _beside(system: tuple[Tensor, Tensor]) -> Tensor:
    A, B = system
    return torch.cat([A, B[:, None]], dim=1)


def _columns(d_state: int, window: float) -> Tensor:
    """(2k + 1) of the column in place of (2n + 1) of the row."""
    A, B = lmu(d_state, window)
    n = torch.arange(d_state, dtype=torch.float64)
    return _beside((A / (2 * n[:, None] + 1) * (2 * n + 1), B))


def _one_side(d_state: int, window: float) -> Tensor:
    """The same alternating sign on both sides of the diagonal."""
    n = torch.arange(d_state, dtype=torch.float64)
    _, B = lmu(d_state, window)
    sign = (-1.0) ** (n[:, None] - n + 1)
    return _beside(((2 * n[:, None] + 1) / window * sign, B))


WINDOW = Exercise(
    name="hippo/window",
    question=(
        "Build the window of the Legendre Memory Unit. Write "
        "`window_system(d_state, window)` with A_nk = (2n+1)/θ times −1 "
        "if n < k and (−1)^(n−k+1) if n ≥ k, and B_n = (2n+1)/θ (−1)^n, "
        "where θ is `window`. Return A and B side by side: shape "
        "(d_state, d_state + 1), B in the last column, float64."
    ),
    solution=solve_window,
    judge=Function(
        "window_system(d_state, window)",
        [(1, 1.0), (2, 2.0), (5, 30.0)],
        lambda d_state, window: (d_state, d_state + 1),
    ),
    mistakes=[
        Mistake(
            lambda d_state, window: _beside(lmu(d_state)),
            "The window is missing: divide by θ. Yours always remembers "
            "one unit of time.",
        ),
        Mistake(
            _columns,
            "2n + 1 belongs to the row, n, and you multiply by that of the "
            "column. Reshape it to one column, `[:, None]`, before you "
            "multiply.",
        ),
        Mistake(
            _one_side,
            "Above the diagonal, n < k, every sign is −1. Signs that "
            "alternate there too make a matrix of rank 1: it cannot slide a "
            "window.",
        ),
        Mistake(
            lambda d_state, window: _beside(hippo_legt(d_state, window)),
            "That is LegT in the orthonormal scaling. The memory is the "
            "same, but its numbers are others: the LMU has 2n + 1 in each "
            "row, and no square roots.",
        ),
    ],
    nudge=(
        "`torch.where(n[:, None] < n, -1.0, (-1.0) ** (n[:, None] - n + 1))` "
        "are the signs. Multiply the rows by (2n + 1) / θ."
    ),
)


def solve_forgets(t: float = 400.0) -> list[float]:
    """The integral of each memory's weight, from age t / 2 on."""
    scaled = (t - t / 2) / t
    window = 0.0  # nothing beyond the window's end, which is t / 2
    fading = math.exp(-(t / 2) / (t / 4))
    return [scaled, window, fading]


EIGHTH = math.exp(-2.0)

FORGETS = Exercise(
    name="hippo/forgets",
    question=(
        "Predict before you measure. After 400 steps three memories have "
        "fitted their past: scaled LegS, LegT with a window of 200 steps, "
        "and time-invariant LegS with a time constant of 100 steps. What "
        "share of each fit's whole weight lies on ages above 200 steps? "
        "Before the first step there was silence, which counts as input "
        "too. Give three numbers in that order, as a list or a tensor, "
        "within 0.5 % of the largest."
    ),
    solution=solve_forgets(),
    judge=Array((3,), rtol=0.005),
    mistakes=[
        Mistake(
            [0.5, 1.0, 1 - EIGHTH],
            "These are the shares of the newer half. The question is the "
            "older one.",
        ),
        Mistake(
            [0.5, 0.5, EIGHTH],
            "The window of LegT ends at an age of 200 steps: beyond it "
            "nothing has any weight.",
        ),
        Mistake(
            [0.0, 0.0, EIGHTH],
            "Scaled LegS weights all ages alike, from 0 to 400: it does not "
            "forget its older half.",
        ),
        Mistake(
            [EIGHTH, 0.0, EIGHTH],
            "You let scaled LegS fade too. The 1 / t in its equation makes "
            "its weight the same at every age: the exponential belongs to "
            "the time-invariant use alone.",
        ),
        Mistake(
            [0.5, 0.0, math.exp(-0.5)],
            "The last one is e^(−age / time constant) at the age of 200: "
            "you have divided the other way round.",
        ),
        Mistake(
            [0.5, 0.0, EIGHTH - math.exp(-4.0)],
            "Nearly: the last weight goes on beyond 400 steps, into the "
            "silence before the first input, and that counts here.",
        ),
    ],
    nudge=(
        "The weights of an age a are 1/t up to t; 1/θ up to θ; and "
        "e^(−a/τ)/τ. Each has a whole of 1. Integrate from 200 on."
    ),
)


def solve_which_memory() -> str:
    """Nothing, then everything: a window with an edge."""
    return "window"


WHICH_MEMORY = Exercise(
    name="hippo/which-memory",
    question=(
        "Somebody reads a past of 500 steps back from 40 numbers. The "
        "errors by fifths, from the oldest to the newest, are 0.82, 0.96, "
        '0.71, 0.0001 and 0.0002. Which memory was it: "scaled" LegS, a '
        '"window", "fading" (time-invariant LegS), or a "random" '
        "matrix?"
    ),
    solution=solve_which_memory(),
    judge=Text(("scaled", "window", "fading", "random")),
    mistakes=[
        Mistake(
            "scaled",
            "Scaled LegS weights all ages alike: it would not lose the "
            "oldest fifths while it keeps the newest perfectly.",
        ),
        Mistake(
            "fading",
            "Its error would grow gradually from the newest fifth to the "
            "oldest. Here it jumps in the middle, and what lies on the near "
            "side is equally good.",
        ),
        Mistake(
            "random",
            "40 numbers of a random matrix hold about as many of the newest "
            "steps. Two whole fifths, 200 steps, without error are more "
            "than that.",
        ),
    ],
    nudge="Where does the error jump, and what lies on either side of it?",
)


def _pairs(*values: complex) -> Tensor:
    return torch.tensor(values, dtype=torch.complex128)


_SYSTEMS = [
    (_pairs(-0.5 + 3j), _pairs(1 + 0.5j), 0.1, 4),
    (_pairs(-0.5 + 0j, -0.5 + 3j, -1 + 6j), _pairs(1, 2 - 1j, 1j), 0.3, 6),
]


def solve_pairs(
    Lambda: Tensor, C: Tensor, delta: float, length: int
) -> Tensor:
    """Twice the real part: a state and its conjugate add up to that."""
    A_bar = torch.exp(delta * Lambda)
    B_bar = (A_bar - 1) / Lambda
    lag = torch.arange(length)
    powers = A_bar[:, None] ** lag
    return 2 * ((C * B_bar) @ powers).real


def _kernel(Lambda: Tensor, C: Tensor, delta: float, length: int) -> Tensor:
    return s4d_kernel(Lambda, torch.ones_like(Lambda), C, delta, length)


def _by_euler(Lambda: Tensor, C: Tensor, delta: float, length: int) -> Tensor:
    powers = torch.exp(delta * Lambda)[:, None] ** torch.arange(length)
    return 2 * delta * (C @ powers).real


def _one_late(Lambda: Tensor, C: Tensor, delta: float, length: int) -> Tensor:
    return _kernel(Lambda, C, delta, length + 1)[1:]


PAIRS = Exercise(
    name="hippo/pairs",
    question=(
        "Write `s4d(Lambda, C, delta, length)`, the kernel of S4D by "
        "zero-order hold with B = 1. Lambda and C hold one of each conjugate "
        "pair, complex128, none of Lambda is 0; delta is a number. Return "
        "`length` real numbers, the first for lag 0."
    ),
    solution=solve_pairs,
    judge=Function(
        "s4d(Lambda, C, delta, length)",
        _SYSTEMS,
        lambda Lambda, C, delta, length: (length,),
    ),
    mistakes=[
        Mistake(
            lambda *system: _kernel(*system) / 2,
            "The other half of each pair is missing: a state and its "
            "conjugate add up to twice the real part.",
        ),
        Mistake(
            _by_euler,
            "Your `B_bar` is Δ B, Euler's rule. By zero-order hold it is "
            "(e^(Δ Lambda) − 1) / Lambda.",
        ),
        Mistake(
            _one_late,
            "Your kernel begins with lag 1. The state has already taken the "
            "present input in when it is read: lag 0 has the power 0.",
        ),
    ],
    nudge=(
        "`A_bar` = e^(Δ Lambda), `B_bar` = (`A_bar` − 1) / Lambda; the kernel "
        "at lag l is twice the real part of the sum of C `B_bar` `A_bar`^l."
    ),
)


EXERCISES = (EIGENVALUES, ONLINE, WINDOW, FORGETS, WHICH_MEMORY, PAIRS)
