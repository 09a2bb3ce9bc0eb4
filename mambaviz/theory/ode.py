r"""A solver of differential equations, as an independent judge.

    h'(t) = slope(t, h)

It knows no exponential of a matrix, so it can judge those who do.
"""

import itertools
import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from mambaviz.theory.discretize import _checked

# An extrapolation uses at most this many runs, of 2, 4, ..., 16 substeps.
MOST_RUNS = 8
# One that needed no more than these was easy: the next step is longer.
EASY_RUNS = 6


def solve_ode(
    slope: Callable[[float, Tensor], Tensor],
    initial_state: Inexact[Tensor, "..."],
    times: Float[Tensor, " n_times"],
    tolerance: float = 1e-14,
) -> Inexact[Tensor, "n_times ..."]:
    """The solution of h'(t) = slope(t, h), with control of the error.

    A step is run by the midpoint rule with 2, 4, 6, ... substeps. The error
    of a run is a series in 1 / substeps^2, so the runs are extrapolated to
    infinitely many substeps, until two extrapolations agree to the tolerance;
    where they do not, the step is halved.

    It knows no exponential of a matrix, so it can judge those who do. It is
    explicit: a state that decays fast costs many steps.

    Args:
        slope: of a time and a state; smooth between neighbouring ``times``.
        initial_state: the state at the first time, of any shape.
        times: increasing, at least one.
        tolerance: of the error of a step, relative to the largest element
            that the state has had so far; 8 rounding errors at least.

    Returns:
        The state at each time, beginning with the initial one.

    Raises:
        ValueError: no time, or times that do not increase.
        ArithmeticError: no step is short enough: the slope is not smooth, or
            not finite.

    Source: Bulirsch and Stoer 1966, doi 10.1007/BF02165234.

    Example:
        >>> times = torch.tensor([0.0, 1.0]).double()
        >>> h = solve_ode(lambda t, h: -h, torch.ones(()).double(), times)
        >>> abs(h[1].item() - math.exp(-1)) < 1e-14
        True
    """
    (times,) = _checked(times=times)
    if len(times) == 0:
        raise ValueError("times must hold at least one time; got none")
    if not (times.diff() > 0).all():
        raise ValueError(f"times must increase; got {times.tolist()}")
    h, states = initial_state, [initial_state]
    tolerance = max(tolerance, 8 * torch.finfo(h.dtype).eps)
    size, step = 0.0, math.inf
    for t, end in itertools.pairwise(times.tolist()):
        shortest = 1e-9 * (end - t)
        while t < end:
            taken = min(step, end - t)
            size = max(size, _size(h))
            later, runs = _extrapolate(slope, t, h, taken, tolerance, size)
            if later is not None:
                # t + taken could miss the end by a rounding error.
                t, h = (end if taken == end - t else t + taken), later
                if runs <= EASY_RUNS and taken == step:
                    step = 2 * step
            elif taken > shortest:
                step = taken / 2
            else:
                raise ArithmeticError(
                    "the slope must be smooth and finite: from "
                    f"t = {t:g}, no step reaches the tolerance {tolerance:g}"
                )
        states.append(h)
    return torch.stack(states)


def _extrapolate(
    slope: Callable[[float, Tensor], Tensor],
    t: float,
    h: Tensor,
    step: float,
    tolerance: float,
    size: float,
) -> tuple[Tensor | None, int]:
    """The state one step later, and how many runs it took; None if no use.

    Neville's scheme at 1 / substeps^2 = 0: column m of a row has no error
    term below 1 / substeps^(2m + 2).
    """
    row: list[Tensor] = []
    for run in range(1, MOST_RUNS + 1):
        above, row = row, [_midpoint_run(slope, t, h, step, 2 * run)]
        for m, coarser in enumerate(above, start=1):
            ratio = (run / (run - m)) ** 2
            row.append(row[-1] + (row[-1] - coarser) / (ratio - 1))
        if run > 1:
            allowed = tolerance * max(size, _size(row[-1]))
            if _size(row[-1] - row[-2]) <= allowed:
                return row[-1], run
    return None, MOST_RUNS


def _midpoint_run(
    slope: Callable[[float, Tensor], Tensor],
    t: float,
    h: Tensor,
    step: float,
    substeps: int,
) -> Tensor:
    """The state one step later by Gragg's midpoint rule, smoothed."""
    s = step / substeps
    before, now = h, h + s * slope(t, h)
    for m in range(1, substeps):
        before, now = now, before + 2 * s * slope(t + m * s, now)
    return (before + now + s * slope(t + step, now)) / 2


def _size(h: Tensor) -> float:
    """The largest element."""
    return h.abs().max().item()
