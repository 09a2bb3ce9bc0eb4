"""Orders of the five rules (S064), as slopes that were measured."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from mambaviz.theory import (
    DISCRETIZATION_RULES,
    discretization_errors,
    observed_order,
)
from mambaviz.theory.convergence import smooth_input, smooth_state

DELTAS = [2.0**-i for i in range(5, 11)]
# A slope differs from its order by the next term, which these steps make
# about a fiftieth of the error.
TOLERANCE = 0.05
SECOND_ORDER = {"zoh", "bilinear"}


@pytest.mark.parametrize("rule", DISCRETIZATION_RULES)
@pytest.mark.parametrize("sampling", ["left", "right"])
def test_at_either_end_every_rule_is_first_order(rule, sampling):
    errors = discretization_errors(rule, DELTAS, sampling)
    assert observed_order(DELTAS, errors) == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize("rule", DISCRETIZATION_RULES)
@pytest.mark.parametrize("sampling", ["midpoint", "average"])
def test_in_the_middle_two_rules_are_second_order(rule, sampling):
    errors = discretization_errors(rule, DELTAS, sampling)
    order = 2 if rule in SECOND_ORDER else 1
    slope = observed_order(DELTAS, errors)
    assert slope == pytest.approx(order, abs=TOLERANCE)


def test_closed_form_solves_the_equation():
    times = torch.linspace(0, 4, 33).double()
    solution = solve_ivp(
        lambda t, h: -h + math.cos(3 * t),
        (0, 4),
        [0.0],
        method="DOP853",
        t_eval=times.numpy(),
        rtol=1e-13,
        atol=1e-14,
    )
    theirs = torch.from_numpy(solution.y[0])
    torch.testing.assert_close(
        smooth_state(times), theirs, rtol=1e-10, atol=1e-11
    )
    assert torch.equal(smooth_input(times), torch.cos(3 * times))


def test_order_of_a_known_power():
    errors = 3 * torch.tensor(DELTAS).double() ** 1.5
    assert observed_order(DELTAS, errors) == pytest.approx(1.5, rel=1e-12)


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tustin", [0.1]), "rule must be one of zoh.*; got 'tustin'"),
        (("zoh", [0.1], "centre"), "one of midpoint.*; got 'centre'"),
        (("zoh", [0.3]), "divide the duration 4; got 0.3"),
        (("zoh", [-0.1]), "positive and finite; got -0.1"),
        (("zoh", [math.nan]), "positive and finite; got nan"),
        (("zoh", []), "at least one"),
    ],
)
def test_refused_errors(arguments, words):
    with pytest.raises(ValueError, match=words):
        discretization_errors(*arguments)


@pytest.mark.parametrize(
    ("deltas", "errors", "words"),
    [
        ([0.1], [0.1], "two different"),
        ([0.1, 0.1], [0.1, 0.2], "two different"),
        ([0.1, 0.2], [0.1], "pair up"),
        ([0.1, 0.2], [0.1, 0.0], "positive"),
        ([0.1, 0.2], [0.1, math.nan], "positive"),
    ],
)
def test_refused_orders(deltas, errors, words):
    with pytest.raises(ValueError, match=words):
        observed_order(deltas, torch.tensor(errors))
