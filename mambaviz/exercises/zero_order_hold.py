"""The exercises of the chapter ``zero-order-hold``."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mambaviz.exercises.exercise import Exercise, Mistake
from mambaviz.exercises.judges import Function, Number, Text
from mambaviz.theory.convergence import discretization_errors, observed_order
from mambaviz.theory.discretize import (
    DISCRETIZATION_RULES,
    discretize_euler,
    discretize_mamba,
    discretize_zoh,
    half_life,
    phi1,
)


def solve_b_bar(A: Tensor, B: Tensor, delta: float) -> Tensor:
    """ZOH's B_bar. phi1(u) = (e^u - 1) / u is 1 at u = 0, and stable."""
    return phi1(delta * A) * delta * B


def _systems(*rows: Sequence) -> list[tuple]:
    """Arguments (A, B, delta), with A and B as float64 tensors."""
    f64 = functools.partial(torch.tensor, dtype=torch.float64)
    return [(f64(A), f64(B), delta) for A, B, delta in rows]


def _b_bar_on(inputs: list[tuple]) -> Function:
    return Function(
        "b_bar(A, B, delta)", inputs, result=lambda A, B, delta: A.shape
    )


_ORDINARY = _systems((-1.0, 1.0, 0.5), (-16.0, -2.0, 0.1), (-0.5, 3.0, 4.0))
_ZERO = _systems((0.0, 3.0, 0.1))
_TINY = _systems((-1e-6, 3.0, 0.1), (-1e-9, 3.0, 0.1), (-1e-12, 3.0, 0.1))
_SEVERAL = _systems(([-16.0, -1.0, 0.0, -1e-9], [1.0, 2.0, 3.0, -1.0], 0.1))

B_BAR = Exercise(
    name="zoh/b-bar",
    question=(
        "Write `b_bar(A, B, delta)`, the `B_bar` of zero-order hold for a "
        "diagonal A. A and B are float64 tensors of one shape, delta is a "
        "number, and the result must be right also where A is 0 or close "
        "to 0."
    ),
    solution=solve_b_bar,
    judge=_b_bar_on(_ORDINARY + _ZERO + _TINY + _SEVERAL),
    mistakes=[
        Mistake(
            lambda A, B, delta: (torch.exp(delta * A) - 1) / A * B,
            "Where A = 0 the formula is 0 / 0. What does (e^u - 1) / u tend "
            "to as u goes to 0? Write `B_bar` as that quotient times the "
            "rest, and give the quotient its limit at 0.",
            judge=_b_bar_on(_ORDINARY + _ZERO),
        ),
        Mistake(
            lambda A, B, delta: delta * B,
            "That is Euler's rule. Zero-order hold agrees with it only where "
            "delta A is close to 0: elsewhere what is written early in the "
            "hold has decayed by its end.",
            judge=_b_bar_on(_ORDINARY),
        ),
        Mistake(
            lambda A, B, delta: delta * phi1(delta * A),
            "Where is B? The result must double when B doubles, and change "
            "its sign when B does.",
            judge=_b_bar_on(_ORDINARY),
        ),
        Mistake(
            lambda A, B, delta: phi1(delta * A) * B,
            "One delta is missing. The formula divides by delta A, and then "
            "multiplies by delta B: the two deltas cancel, and A alone is "
            "divided by.",
            judge=_b_bar_on(_ORDINARY),
        ),
        Mistake(
            lambda A, B, delta: (
                B * (math.expm1(delta * A) / A if A else delta)
            ),
            "Right for one number. A holds one number per state, and some "
            "may be 0 where others are not: work elementwise, with functions "
            "such as `torch.expm1` and `torch.where`.",
            judge=_b_bar_on(_ORDINARY + _ZERO + _TINY),
        ),
        Mistake(
            lambda A, B, delta: torch.where(
                A == 0, delta * B, (torch.exp(delta * A) - 1) / A * B
            ),
            "Right at A = 0 and far from it, but not in between. e^u - 1 "
            "subtracts two nearly equal numbers and loses digits where u is "
            "small, and Euler's delta B is no more than close there. "
            "`torch.expm1` computes e^u - 1 without the subtraction.",
            judge=_b_bar_on(_ORDINARY + _ZERO),
        ),
    ],
    nudge=(
        "Zero-order hold sums what every moment of the hold contributes: "
        "`B_bar` is the integral of e^(s A) over s from 0 to delta, times B."
    ),
)


def solve_half_life(A: float = -1.0, steps: int = 50) -> float:
    """Solve ln 2 / (delta |A|) = steps for delta.

    The half-life falls like 1 / delta: at delta = 1 it is ln 2 / |A|.
    """
    return half_life(A, delta=1.0).item() / steps  # 0.0139


_DELTA = solve_half_life()

HALF_LIFE = Exercise(
    name="zoh/half-life",
    question=(
        "A state has A = -1 and no input. For which step Δ is half of it "
        "left after 50 steps? Give Δ within 1 %."
    ),
    solution=_DELTA,
    judge=Number(rtol=0.01),
    mistakes=[
        Mistake(
            1 / 50,
            "After 50 of these steps 1/e of the state is left, about 37 %, "
            "and not 1/2. Solve e^(50 Δ A) = 1/2.",
        ),
        Mistake(
            1 / _DELTA,
            "That is 1/Δ. A longer memory needs a smaller step.",
        ),
        Mistake(
            50 * math.log(2),
            "After one such step almost nothing is left. In e^(50 Δ A) = 1/2 "
            "the number of steps multiplies Δ: solve for Δ by dividing.",
        ),
        Mistake(
            -_DELTA,
            "The size is right, but a step is positive. The logarithm of 1/2 "
            "is negative, and so is A: the signs cancel.",
        ),
        Mistake(
            100 * _DELTA,
            "That is Δ in percent, a hundred times too large.",
        ),
        Mistake(
            math.exp(-_DELTA),
            "That is `A_bar`, what one step leaves of the state. Which Δ has "
            "e^(Δ A) equal to it?",
        ),
    ],
    nudge="Without input, k steps leave e^(k Δ A) of a state. Set k = 50.",
)


def solve_euler_limit(A: float = -16.0) -> float:
    """Solve 1 + delta A = -1 for delta.

    Euler's A_bar falls from 1 along a straight line in delta, and below -1
    the state grows while it changes its sign.
    """
    A_bar, _ = discretize_euler(A, 1.0, delta=1.0)
    slope = A_bar.item() - 1
    return -2 / slope  # 0.125


_LIMIT = solve_euler_limit()

EULER_LIMIT = Exercise(
    name="zoh/euler-limit",
    question=(
        "Forward Euler follows a state with A = -16 and no input. What is "
        "the largest step Δ with which the state never grows? Give Δ within "
        "0.1 %."
    ),
    solution=_LIMIT,
    judge=Number(rtol=0.001),
    mistakes=[
        Mistake(
            _LIMIT / 2,
            "Here `A_bar` = 1 + Δ A is 0, and the state is gone in one step. "
            "With a larger Δ it changes its sign at every step. How large "
            "may `A_bar` then be for the state not to grow?",
        ),
        Mistake(
            2.0,
            "2 is the limit of Δ |A|. Divide by |A| to get Δ.",
        ),
        Mistake(
            16.0,
            "That is |A|, which counts per unit of time. A step is a time, "
            "and 1/|A| is the scale to measure it on.",
        ),
        Mistake(
            1 / _LIMIT,
            "That is 1/Δ: turn it over.",
        ),
        Mistake(
            -_LIMIT,
            "The size is right, but a step is positive.",
        ),
    ],
    nudge="The state stays bounded while -1 <= 1 + Δ A <= 1.",
)


_A_BAR, _B_BAR = (v.item() for v in discretize_zoh(-2.0, 1.0, math.log(2) / 2))
_FIRST, _SECOND = 4.0, 8.0


def solve_which_state(
    A_bar: float = _A_BAR,
    B_bar: float = _B_BAR,
    inputs: Sequence[float] = (_FIRST, _SECOND),
) -> float:
    """h_k is the state at the end of the hold of x_k: x_k is in it."""
    h = 0.0
    for x_k in inputs:
        h = A_bar * h + B_bar * x_k
    return h  # 0.5 * 1 + 0.25 * 8 = 2.5


WHICH_STATE = Exercise(
    name="zoh/which-state",
    question=(
        f"Zero-order hold has given `A_bar` = {_A_BAR:.2g} and `B_bar` = "
        f"{_B_BAR:.2g}. The state starts at 0; the input {_FIRST:g} is held "
        f"for one step, then the input {_SECOND:g} for one step. What is "
        "the state at the end of the second hold, within 1 %?"
    ),
    solution=solve_which_state(),
    judge=Number(rtol=0.01),
    mistakes=[
        Mistake(
            solve_which_state(inputs=(_FIRST,)),
            "That is the state at the end of the first hold. One more step: "
            "let it decay, and add the second input's share.",
        ),
        Mistake(
            solve_which_state(inputs=(_FIRST, 0.0)),
            "The second input is missing. At the end of its hold it is "
            "already in the state: h_k contains x_k.",
        ),
        Mistake(
            solve_which_state(inputs=(_FIRST, _SECOND, 0.0)),
            "That is one step too late: `A_bar` has also shrunk what the "
            "second input has only just written.",
        ),
        Mistake(
            solve_which_state(B_bar=1.0),
            "`B_bar` is missing: of each input, `B_bar` times it reaches the "
            "state.",
        ),
        Mistake(
            solve_which_state(A_bar=1.0),
            "`A_bar` is missing: during the second hold, what the first "
            "input left behind decays.",
        ),
        Mistake(
            solve_which_state(inputs=(_SECOND, _FIRST)),
            "The inputs have changed places: the older one has decayed by "
            "`A_bar`, the newer one has not.",
        ),
    ],
    nudge="Twice the same step: h becomes `A_bar` h + `B_bar` x.",
)


def solve_ratio(A: float = -16.0, delta: float = 0.1) -> float:
    """delta B / B_bar, which is u / (1 - e^-u) with u = delta |A|."""
    _, B_bar_released = discretize_mamba(A, 1.0, delta)
    _, B_bar_zoh = discretize_zoh(A, 1.0, delta)
    return (B_bar_released / B_bar_zoh).item()  # 2.00


_RATIO = solve_ratio()
_U = 0.1 * 16.0  # delta |A|

RATIO = Exercise(
    name="zoh/ratio",
    question=(
        "Mamba's released code uses Δ B where zero-order hold has `B_bar`. "
        "With Δ = 0.1 and A = -16, what is Δ B divided by `B_bar`? Give it "
        "within 1 %."
    ),
    solution=_RATIO,
    judge=Number(rtol=0.01),
    mistakes=[
        Mistake(
            1 / _RATIO,
            "That is `B_bar` divided by Δ B: turn it over.",
        ),
        Mistake(
            1.0,
            "They agree only in the limit of a small Δ A. Here Δ A = -1.6: "
            "what is written early in the hold has decayed by its end.",
        ),
        Mistake(
            _U,
            "That is Δ |A|. Divide it by the share of the way to its limit "
            "that the state covers in one hold, 1 - e^(Δ A).",
        ),
        Mistake(
            -math.expm1(-_U),
            "That is 1 - e^(Δ A), the share of the way to its limit that the "
            "state covers in one hold. `B_bar` is this share of B/|A|.",
        ),
    ],
    nudge="`B_bar` = (1 - e^(Δ A)) B / |A|. What is B in the ratio?",
)


def solve_second_order(deltas: Sequence[float] = (0.1, 0.05)) -> str:
    """Measure the order of each rule, and take the largest but ZOH's."""
    orders = {}
    for rule in DISCRETIZATION_RULES:
        errors = discretization_errors(rule, deltas, sampling="midpoint")
        orders[rule] = observed_order(deltas, errors)
    del orders["zoh"]
    return max(orders, key=orders.get)  # 2.0; the others have 1.0


SECOND_ORDER = Exercise(
    name="zoh/second-order",
    question=(
        "A smooth input is sampled in the middle of each hold. Of the five "
        "rules, two then have an error that falls to a quarter when Δ is "
        "halved. One is zero-order hold; which is the other?"
    ),
    solution=solve_second_order(),
    judge=Text(tuple(DISCRETIZATION_RULES)),
    mistakes=[
        Mistake(
            "zoh",
            "Zero-order hold is the one that we named. Which of the other "
            "four treats both ends of the hold alike?",
        ),
        Mistake(
            "euler",
            "Euler takes the slope at the start of the hold for the whole of "
            "it. Halving Δ halves the error, and no more.",
        ),
        Mistake(
            "backward_euler",
            "Backward Euler takes the slope at the end of the hold for the "
            "whole of it: as one-sided as Euler, from the other side.",
        ),
        Mistake(
            "mamba",
            "The released code has the decay of zero-order hold, but Euler's "
            "weight for the input, and its error is of first order.",
        ),
    ],
    nudge="Look at the slopes of the errors that the chapter measures.",
)

EXERCISES = (
    B_BAR,
    HALF_LIFE,
    EULER_LIMIT,
    WHICH_STATE,
    RATIO,
    SECOND_ORDER,
)
