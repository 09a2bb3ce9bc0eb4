r"""How fast the five rules approach the continuous state as delta shrinks.

A rule is of order p when its error shrinks like delta^p. For an input that is
held, ZOH has no error at all. For a smooth input the answer depends on the
rule *and* on where the input is sampled: at either end of the interval all
five are first order, because the sample itself is half a step early or late;
with the midpoint, or the mean of both ends, ZOH and bilinear are second order
and the others stay first.

See: the chapter ``zero-order-hold``.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mambaviz.theory.checks import expect_positive
from mambaviz.theory.discretize import (
    DISCRETIZATION_RULES,
    linear_recurrence,
)

Sampling = Literal["midpoint", "left", "right", "average"]

# The test problem: h' = A h + cos(OMEGA t), h(0) = 0, from 0 to DURATION.
A = -1.0
OMEGA = 3.0
DURATION = 4.0


def smooth_input(t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The input of the test problem, x(t) = cos(omega t), omega = 3."""
    return torch.cos(OMEGA * t)


def smooth_state(t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The state of the test problem, in closed form.

    h' = a h + cos(omega t),  h(0) = 0,  a = -1,  omega = 3
    h  = (omega sin(omega t) - a cos(omega t) + a e^(a t))
         / (a^2 + omega^2)
    """
    turning = OMEGA * torch.sin(OMEGA * t) - A * torch.cos(OMEGA * t)
    return (turning + A * torch.exp(A * t)) / (A**2 + OMEGA**2)


def discretization_errors(
    rule: str,
    deltas: Sequence[float],
    sampling: Sampling = "midpoint",
) -> Float[Tensor, " n_deltas"]:
    """The largest error of a rule on the test problem, for each delta.

        error = max over k of |h_k - h((k + 1) delta)|

    Args:
        rule: a key of ``DISCRETIZATION_RULES``.
        deltas: steps that divide the duration, 4, into whole numbers.
        sampling: which value of x(t) stands for the interval of x_k: at its
            midpoint, its left end, its right end, or the average of both.

    Returns:
        One error per delta, float64.

    Raises:
        ValueError: an unknown rule or sampling, no delta, or one that does
            not divide the duration.

    Example:
        >>> discretization_errors("euler", [0.1, 0.05])
        tensor([0.0173, 0.0082], dtype=torch.float64)
    """
    if rule not in DISCRETIZATION_RULES:
        rules = ", ".join(DISCRETIZATION_RULES)
        raise ValueError(f"rule must be one of {rules}; got {rule!r}")
    if len(deltas) == 0:
        raise ValueError(f"deltas must hold at least one step; got {deltas}")
    errors = []
    for delta in deltas:
        edges = torch.arange(_steps(delta) + 1, dtype=torch.float64) * delta
        x = _sample(edges, sampling)
        A_bar, B_bar = DISCRETIZATION_RULES[rule](A, 1.0, delta)
        h = linear_recurrence(A_bar[None], B_bar[None], x).squeeze(-1)
        errors.append((h - smooth_state(edges[1:])).abs().max())
    return torch.stack(errors)


def observed_order(
    deltas: Sequence[float], errors: Float[Tensor, " n_deltas"]
) -> float:
    """The slope of log(error) against log(delta), by least squares.

    Args:
        deltas: at least two different steps.
        errors: one positive error per step.

    Returns:
        About 1 for a first-order rule, 2 for a second-order one.

    Raises:
        ValueError: too few points, or an error that has no logarithm.

    Example:
        >>> deltas = [0.1, 0.01]
        >>> round(observed_order(deltas, 7 * torch.tensor(deltas) ** 2), 3)
        2.0
    """
    if len(deltas) != len(errors) or len(set(deltas)) < 2:
        raise ValueError(
            "deltas and errors must pair up, with at least two different "
            f"deltas; got {list(deltas)} and {errors.tolist()}"
        )
    steps = torch.tensor(deltas, dtype=torch.float64)
    points = torch.stack([steps, errors.double()])
    if not (points > 0).all():
        raise ValueError(
            "deltas and errors must be positive; got "
            f"{list(deltas)} and {errors.tolist()}"
        )
    log_delta, log_error = points.log()
    log_delta = log_delta - log_delta.mean()
    return ((log_delta @ log_error) / (log_delta @ log_delta)).item()


def _sample(
    edges: Float[Tensor, " n_edges"], sampling: str
) -> Float[Tensor, " n_steps"]:
    """One input per interval between two edges."""
    left, right = edges[:-1], edges[1:]
    match sampling:
        case "midpoint":
            return smooth_input((left + right) / 2)
        case "left":
            return smooth_input(left)
        case "right":
            return smooth_input(right)
        case "average":
            return (smooth_input(left) + smooth_input(right)) / 2
    known = ", ".join(get_args(Sampling))
    raise ValueError(f"sampling must be one of {known}; got {sampling!r}")


def _steps(delta: float) -> int:
    """How many steps make up the duration, if they do."""
    expect_positive(delta=delta)
    steps = round(DURATION / delta)
    if steps < 1 or not math.isclose(steps * delta, DURATION):
        raise ValueError(
            f"delta must divide the duration {DURATION:g}; got {delta}"
        )
    return steps
