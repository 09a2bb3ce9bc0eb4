"""The exercises of the chapter ``zero-order-hold``."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mambaviz.exercises.exercise import Exercise, Mistake
from mambaviz.exercises.judges import Function, Number, Outcome, Text
from mambaviz.theory.discretize import (
    DISCRETIZATION_RULES,
    discretize_euler,
    discretize_zoh,
    phi1,
)


def solve_b_bar(A: Tensor, B: Tensor, delta: float) -> Tensor:
    """phi1(w) delta B, where phi1(w) = (e^w - 1) / w, and w = delta A.

    Near 0, phi1(w) is 1 + w / 2: the derivative there is right too.
    """
    w = delta * A
    small = w.abs() < 1e-8
    w_or_1 = torch.where(small, 1, w)  # 0 / 0 has a NaN for a derivative
    quotient = torch.expm1(w_or_1) / w_or_1
    return torch.where(small, 1 + w / 2, quotient) * delta * B


class _Differentiable(Function):
    """Judges a derivative in place of a value where A requires a gradient.

    It is the derivative with respect to A, which then is a single number.
    """

    def _try(self, function: Callable, arguments: Sequence) -> Outcome:
        A, B, delta = arguments
        if not A.requires_grad:
            return super()._try(function, arguments)
        try:
            # The reader never asked for a gradient: no warning about one.
            with torch.enable_grad(), warnings.catch_warnings(action="ignore"):
                B_bar = function(A.clone(), B.clone(), delta)
                (slope,) = torch.autograd.grad(B_bar.sum(), A)
        except Exception:
            nothing = torch.full_like(A, math.nan, requires_grad=False)
            shown = "has no derivative with respect to A that torch can take"
            return Outcome(shown, nothing)
        shown = f"has the derivative {slope.item():.6g} with respect to A"
        return Outcome(shown, slope)


def _systems(*rows: Sequence) -> list[tuple]:
    """Arguments (A, B, delta), with A and B as float64 tensors."""
    f64 = functools.partial(torch.tensor, dtype=torch.float64)
    return [(f64(A), f64(B), delta) for A, B, delta in rows]


def _slopes(inputs: list[tuple]) -> list[tuple]:
    """The same arguments, marked for the derivative with respect to A."""
    return [(A.clone().requires_grad_(), B, delta) for A, B, delta in inputs]


def _b_bar_on(inputs: list[tuple]) -> Function:
    return _Differentiable(
        "b_bar(A, B, delta)", inputs, result=lambda A, B, delta: A.shape
    )


def _b_bar_with_limit(A: Tensor, B: Tensor, delta: float) -> Tensor:
    """Right in value everywhere, but constant in A at A = 0."""
    w_or_1 = torch.where(A == 0, 1, delta * A)
    quotient = torch.expm1(w_or_1) / w_or_1
    return torch.where(A == 0, 1, quotient) * delta * B


_ORDINARY = _systems((-1.0, 1.0, 0.5), (-16.0, -2.0, 0.1), (-0.5, 3.0, 4.0))
_ZERO = _systems((0.0, 3.0, 0.1))
_TINY = _systems((-1e-6, 3.0, 0.1), (-1e-9, 3.0, 0.1), (-1e-12, 3.0, 0.1))
_SEVERAL = _systems(([-16.0, -1.0, 0.0, -1e-9], [1.0, 2.0, 3.0, -1.0], 0.1))

B_BAR = Exercise(
    name="zoh/b-bar",
    question=(
        "Write `b_bar(A, B, delta)`, the `B_bar` of zero-order hold for a "
        "diagonal A. Use torch alone, without `phi1` or `discretize_zoh`. A "
        "and B are float64 tensors of one shape, and delta is a number. The "
        "result must be right also where A is 0 or close to 0, and so must "
        "its derivative with respect to A where A is 0."
    ),
    solution=solve_b_bar,
    judge=_b_bar_on(
        _ORDINARY + _ZERO + _TINY + _SEVERAL + _slopes(_ORDINARY + _ZERO)
    ),
    mistakes=[
        Mistake(
            lambda A, B, delta: (torch.exp(delta * A) - 1) / A * B,
            "Where A = 0 the formula is 0 / 0. With w = delta A, what does "
            "(e^w − 1) / w tend to as w goes to 0? Write `B_bar` as that "
            "quotient times the rest, and give the quotient its limit at 0.",
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
            lambda A, B, delta: torch.where(
                A == 0, delta * B, torch.expm1(delta * A) / A * B
            ),
            "The values are right, but the derivative at A = 0 is NaN. "
            "`torch.where` sends a gradient into both of its branches: the "
            "one that was not chosen gets 0, and its division by 0 makes a "
            "NaN of that. Keep the 0 out of the division, with a second "
            "`torch.where` before it.",
        ),
        Mistake(
            _b_bar_with_limit,
            "The values are right, but the derivative at A = 0 is 0, since "
            "what stands for (e^w − 1) / w there, with w = delta A, is a "
            "constant. Which straight line in w does the quotient follow "
            "near 0?",
        ),
        Mistake(
            lambda A, B, delta: solve_b_bar(A.detach(), B, delta),
            "The values are right, but torch cannot differentiate them with "
            "respect to A. Stay with tensors and torch's functions from A to "
            "the result: NumPy, `math`, `item()` and `detach()` lose track "
            "of A.",
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
            "Right at A = 0 and far from it, but not in between. With w = "
            "delta A, e^w − 1 subtracts two nearly equal numbers and loses "
            "digits where w is small, and Euler's delta B is no more than "
            "close there. `torch.expm1` computes e^w − 1 without the "
            "subtraction.",
            judge=_b_bar_on(_ORDINARY + _ZERO),
        ),
    ],
    nudge=(
        "Zero-order hold sums what every moment of the hold contributes: "
        "`B_bar` is the integral of e^(s A) over s from 0 to delta, times B."
    ),
)


def solve_half_life(A: float = -1.0, steps: int = 50) -> float:
    """Solve e^(steps delta A) = 1/2 for delta.

    The logarithm of both sides: steps delta A = -ln 2, and A = -|A|.
    """
    return math.log(2) / (steps * abs(A))  # 0.0139


_DELTA = solve_half_life()

HALF_LIFE = Exercise(
    name="zoh/half-life",
    question=(
        "A state has A = −1 and no input. For which step Δ is half of it "
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
        "Euler follows a state with A = −16 and no input. What is the "
        "largest step Δ with which the state never grows? Give Δ within "
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
    nudge="The state stays bounded while −1 <= 1 + Δ A <= 1.",
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


def solve_ratio(ratio: float = 3.0) -> float:
    """Solve u / (1 - e^-u) = ratio, the code's B_bar over ZOH's, for u.

    u = ratio (1 - e^-u): put the last u in on the right, until it stays.
    """
    u = ratio
    for _ in range(100):
        u = ratio * (1 - math.exp(-u))
    return u  # 2.82


def _solve_ratio_of_growth(ratio: float = 3.0) -> float:
    """Solve (e^u - 1) / u = ratio for u: phi1 of u, and not of w = -u."""
    u = ratio
    for _ in range(100):
        u = math.log1p(ratio * u)
    return u


_RATIO = solve_ratio()

RATIO = Exercise(
    name="zoh/ratio",
    question=(
        "Mamba's released code uses Δ B where zero-order hold has `B_bar`. "
        "The state is real and decays. At which u = Δ |A| is the code's Δ B "
        "three times the `B_bar` of zero-order hold? Give u within 1 %."
    ),
    solution=_RATIO,
    judge=Number(rtol=0.01),
    mistakes=[
        Mistake(
            3.0,
            "For a large u the factor is almost u itself, but here that is "
            "too coarse: e^−3 is about 0.05. Divide u by 1 − e^−u, and ask "
            "for 3 again.",
        ),
        Mistake(
            3 / -math.expm1(-3),
            "That is the factor at u = 3. We look for the u at which the "
            "factor is 3.",
        ),
        Mistake(
            -_RATIO,
            "That is Δ A. The strength u = Δ |A| has no sign.",
        ),
        Mistake(
            1 / _RATIO,
            "That is 1/u: turn it over.",
        ),
        Mistake(
            -math.expm1(-_RATIO),
            "That is 1 − e^−u at the u that we look for, the share of the "
            "way to its limit that the state covers in one hold. Multiply it "
            "by the factor.",
        ),
        Mistake(
            _solve_ratio_of_growth(),
            "This u solves (e^u − 1) / u = 3, which belongs to a growing "
            "state. In (e^w − 1) / w, w = Δ A = −u is negative. And which "
            "of the two weights is the larger one?",
        ),
        Mistake(
            math.log(3 / 2),
            "With this u, 1 − e^−u is 1/3. But Δ B depends on u as well: "
            "what is to be 1/3 is (1 − e^−u) / u.",
        ),
        Mistake(
            math.log(3),
            "With this u, e^−u is 1/3: a third of an old state is left after "
            "one step. The question is about what is written in that step.",
        ),
    ],
    nudge=(
        "`B_bar` = (1 − e^−u) B / |A|, and Δ B = u B / |A|. Their quotient "
        "is to be 3: set it so, and find u by trying or by iterating."
    ),
)


def solve_which_rule(w: float = -6.0, wanted: float = -0.5) -> str:
    """Try all rules on A = w with a step of 1, so that delta A = w."""
    fitting = []
    for name, rule in DISCRETIZATION_RULES.items():
        A_bar, _ = rule(A=w, B=1.0, delta=1.0)
        if math.isclose(A_bar.item(), wanted):
            fitting.append(name)
    (only,) = fitting
    return only  # (1 - 3) / (1 + 3)


_A_BAR_OF = {
    name: rule(A=-6.0, B=1.0, delta=1.0)[0].item()
    for name, rule in DISCRETIZATION_RULES.items()
}

WHICH_RULE = Exercise(
    name="zoh/which-rule",
    question=(
        "A decaying real state has Δ A = −6. Which rule gives `A_bar` = −0.5?"
    ),
    solution=solve_which_rule(),
    judge=Text(tuple(DISCRETIZATION_RULES)),
    mistakes=[
        Mistake(
            "euler",
            "A negative `A_bar` is possible with Euler, but 1 + Δ A is "
            f"−{-_A_BAR_OF['euler']:g} here: the state changes its sign and "
            "grows.",
        ),
        Mistake(
            "backward_euler",
            "1 / (1 − Δ A) is positive for every decaying state, here "
            f"{_A_BAR_OF['backward_euler']:.3f}. Backward Euler does not "
            "change the sign of a state.",
        ),
        Mistake(
            "zoh",
            "Zero-order hold has the exact decay e^(Δ A), here "
            f"{_A_BAR_OF['zoh']:.4f}. An exponential of a real number is "
            "never negative.",
        ),
        Mistake(
            "mamba",
            "The released code differs from zero-order hold in `B_bar` only. "
            f"Its `A_bar` is e^(Δ A) too, here {_A_BAR_OF['mamba']:.4f}, "
            "and positive.",
        ),
    ],
    nudge=(
        "Put Δ A = −6 into the `A_bar` of each rule. Which can be negative?"
    ),
)

EXERCISES = (
    B_BAR,
    HALF_LIFE,
    EULER_LIMIT,
    WHICH_STATE,
    RATIO,
    WHICH_RULE,
)
