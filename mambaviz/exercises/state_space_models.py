"""The exercises of the chapter ``state-space-models``."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from mambaviz.exercises.exercise import Exercise, Mistake
from mambaviz.exercises.judges import Array, Function, Number, Text
from mambaviz.theory.discretize import discretize_dense
from mambaviz.theory.lti import ssm_kernel
from mambaviz.theory.mechanics import critical_damping, mass_spring

_f64 = functools.partial(torch.tensor, dtype=torch.float64)

_MASS, _STIFFNESS = 2.0, 18.0


def solve_critical_damping() -> float:
    """Both eigenvalues meet: damping = 2 sqrt(stiffness mass)."""
    damping = critical_damping(_MASS, _STIFFNESS)  # 12 N s/m
    A, _, _, _ = mass_spring(_MASS, _STIFFNESS, damping)
    return A[1, 1].item()  # -12 / 2


_CRITICAL = solve_critical_damping()

CRITICAL_DAMPING = Exercise(
    name="ssm/critical-damping",
    question=(
        f"A mass of {_MASS:g} kg is held by a spring of {_STIFFNESS:g} N/m. "
        "Its state is (position, velocity), and `A = [[0, 1], "
        f"[{-_STIFFNESS / _MASS:g}, a]]`. Choose a so that the mass, let go, "
        "returns as fast as it can without swinging over. Within 1 %."
    ),
    solution=_CRITICAL,
    judge=Number(rtol=0.01),
    mistakes=[
        Mistake(
            -_CRITICAL,
            "The size is right, the sign is not: with a positive entry the "
            "damper would push, and the velocity would feed itself.",
        ),
        Mistake(
            _MASS * _CRITICAL,
            "That is the damping in N s/m, with its sign. In A stands what "
            "it does to the velocity: force over mass.",
        ),
        Mistake(
            _CRITICAL / 2,
            "That is where the two eigenvalues should meet. Their sum is the "
            "sum of A's diagonal, and there are two of them.",
        ),
        Mistake(
            0.0,
            "Without damping it swings for ever. The eigenvalues, now ± 3 i, "
            "must meet on the real axis.",
        ),
        Mistake(
            -_STIFFNESS / _MASS,
            "That is the other entry of the row, the spring's. At the "
            "right a the polynomial s² − a s + 9 has a double root.",
        ),
    ],
    nudge=(
        "The eigenvalues solve s² − a s + 9 = 0. Below the right damping "
        "they are complex, above it they are two: at it they meet."
    ),
)

_REDUNDANT = (
    _f64([[-1.0, 0.0, 0.0], [0.5, -2.0, 0.0], [0.0, 1.0, -3.0]]),
    _f64([1.0, 0.0, 2.0]),
    _f64([1.0, 1.0, 0.0]),
)
_NAMES = ("h_1", "h_2", "h_3")


def solve_redundant_state() -> str:
    """Leave out each state in turn, and compare the answers to a push."""
    A, B, C = _REDUNDANT
    whole = ssm_kernel(*discretize_dense(A, B, 0.1), C, 50)
    for n, name in enumerate(_NAMES):
        rest = [m for m in range(3) if m != n]
        A_bar, B_bar = discretize_dense(A[rest][:, rest], B[rest], 0.1)
        if torch.allclose(ssm_kernel(A_bar, B_bar, C[rest], 50), whole):
            return name
    raise ValueError("every state is needed")


REDUNDANT_STATE = Exercise(
    name="ssm/redundant-state",
    question=(
        "`A = [[-1, 0, 0], [0.5, -2, 0], [0, 1, -3]]`, B = (1, 0, 2), "
        'C = (1, 1, 0), D = 0. One of the three states, "h_1", "h_2" or '
        '"h_3", can be left out, and no output changes, whatever the input. '
        "Which?"
    ),
    solution=solve_redundant_state(),
    judge=Text(_NAMES),
    mistakes=[
        Mistake(
            "h_2",
            "B does not reach it, but A does: h_1 pushes it with 0.5, and C "
            "reads it. Who is moved, and is read by nobody?",
        ),
        Mistake(
            "h_1",
            "The input enters there, C reads it, and it pushes h_2: without "
            "it the output would be 0. Look along the columns of A for who "
            "pushes nobody else.",
        ),
    ],
    nudge=(
        "A state is needed if an input reaches it, and if it shows: in C, or "
        "through A in a state that shows."
    ),
)


def _boxes() -> list[tuple[Callable]]:
    """Black boxes: the output at one moment, at a state nobody is told."""

    def box(C_h: float, D: float) -> tuple[Callable]:
        return (lambda x: C_h + D * x,)

    return [box(0.7, 0.4), box(-2.0, -1.5), box(0.0, 2.0), box(3.0, 0.0)]


def solve_isolate_d(read: Callable[[float], float]) -> float:
    """The state is the same in both readings, so C h falls out."""
    return read(1.0) - read(0.0)


ISOLATE_D = Exercise(
    name="ssm/isolate-d",
    question=(
        "Time stands still in a state space model: its state h is what it "
        "is, and you may not see it. `read(x)` gives y = C h + D x at this "
        "moment for any number x, as often as you ask. Write "
        "`isolate_d(read)`, which returns D."
    ),
    solution=solve_isolate_d,
    judge=Function("isolate_d(read)", _boxes(), lambda read: ()),
    mistakes=[
        Mistake(
            lambda read: read(1.0),
            "That is C h + D: the state shows in it too. Which second "
            "reading has the same C h?",
        ),
        Mistake(
            lambda read: read(0.0),
            "With no input nothing takes the direct path: that is C h, the "
            "very part that you want to be rid of.",
        ),
        Mistake(
            lambda read: read(0.0) - read(1.0),
            "Right but for the sign: subtract what is there without input "
            "from what is there with it.",
        ),
        Mistake(
            lambda read: read(1.0) - read(-1.0),
            "C h has fallen out. But from −1 to 1 the input has changed by 2.",
        ),
    ],
    nudge="Read twice, at the same state. What changes is D times the input.",
)

_STATE = (
    _f64([[0.0, 1.0], [-4.0, -1.0]]),
    _f64([0.0, 2.0]),
    _f64([0.5, 1.0]),
    1.2,
)


def solve_predict_rate() -> Tensor:
    """The state equation: every term, then their sum."""
    A, B, h, x = _STATE
    return A @ h + B * x  # (1, -3) + (0, 2.4)


def _mistaken_rates() -> dict[str, Tensor]:
    A, B, h, x = _STATE
    return {
        "no input": A @ h,
        "turned": A.T @ h + B * x,
        "next": h + A @ h + B * x,
        "input alone": B * x,
    }


PREDICT_RATE = Exercise(
    name="ssm/predict-rate",
    question=(
        "`A = [[0, 1], [-4, -1]]`, B = (0, 2), the state is h = (0.5, 1) and "
        "the input x = 1.2. How fast does each number of the state change "
        "at this moment? Predict h' by hand, then see."
    ),
    solution=solve_predict_rate(),
    # Numbers of one decimal: any rounding of theirs is meant.
    judge=Array((2,), rtol=1e-6),
    mistakes=[
        Mistake(
            _mistaken_rates()["no input"],
            "That is A h, what the state does by itself. The input pushes "
            "too.",
        ),
        Mistake(
            _mistaken_rates()["input alone"],
            "That is B x, the input's push. The state pushes itself too.",
        ),
        Mistake(
            _mistaken_rates()["turned"],
            "You went down the columns of A. The first number of A h is the "
            "first row of A times h.",
        ),
        Mistake(
            _mistaken_rates()["next"],
            "You added the rate to the state. h' is the rate itself; how far "
            "the state gets depends on how long it lasts.",
        ),
    ],
    nudge="Two terms, A h and B x, each with two numbers. Add them.",
)


EXERCISES = (CRITICAL_DAMPING, PREDICT_RATE, REDUNDANT_STATE, ISOLATE_D)
