"""The exercises of the chapter on the zero-order hold, against closed forms.

The numbers are worked out here by hand, so that a solution that followed a
wrong theory would be noticed.
"""

import math

import numpy as np
import pytest
import scipy.integrate
import torch

from mambaviz.exercises import check, find, zero_order_hold
from mambaviz.exercises.zero_order_hold import solve_b_bar


def hint_of(name, which):
    return find(name).mistakes[which].hint


def test_the_solutions_are_the_closed_forms():
    solution = {n: find(f"zoh/{n}").solution for n in NUMBERS}
    assert solution["half-life"] == pytest.approx(math.log(2) / 50, rel=1e-12)
    assert solution["euler-limit"] == pytest.approx(0.125, rel=1e-12)
    assert solution["which-state"] == pytest.approx(2.5, rel=1e-12)
    assert solution["ratio"] == pytest.approx(
        1.6 / (1 - math.exp(-1.6)), rel=1e-12
    )
    assert find("zoh/second-order").solution == "bilinear"


NUMBERS = {
    "half-life": (0.0139, 0.014, np.float32(0.01386), torch.tensor(0.0138)),
    "euler-limit": (1 / 8, np.array([0.125]), 2 / 16),
    "which-state": (2.5, torch.tensor([2.5])),
    "ratio": (2, 2.0, 2.005),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_right_number_may_be_rounded(name):
    for answer in NUMBERS[name]:
        assert check(f"zoh/{name}", answer).passed is True, answer


@pytest.mark.parametrize(
    ("name", "answer", "which"),
    [
        ("half-life", 0.02, 0),
        ("half-life", 72.1, 1),
        ("half-life", 34.66, 2),
        ("half-life", -0.0139, 3),
        ("half-life", 1.39, 4),
        ("half-life", 0.986, 5),
        ("euler-limit", 1 / 16, 0),
        ("euler-limit", 2, 1),
        ("euler-limit", 16, 2),
        ("euler-limit", 8, 3),
        ("euler-limit", -0.125, 4),
        ("which-state", 1, 0),
        ("which-state", 0.5, 1),
        ("which-state", 1.25, 2),
        ("which-state", 10, 3),
        ("which-state", 3, 4),
        ("which-state", 2, 5),
        ("ratio", 0.5, 0),
        ("ratio", 1, 1),
        ("ratio", 1.6, 2),
        ("ratio", 0.798, 3),
        ("second-order", "Backward Euler", 2),
    ],
)
def test_a_mistake_as_a_reader_types_it(name, answer, which):
    result = check(f"zoh/{name}", answer)
    assert result.passed is False
    assert result.hint == hint_of(f"zoh/{name}", which)


def test_the_numbers_in_the_questions_are_those_of_the_solutions():
    question = find("zoh/which-state").question
    assert "`A_bar` = 0.5 and `B_bar` = 0.25" in question
    assert "input 4 " in question
    assert "input 8 " in question
    assert "A = -1 " in find("zoh/half-life").question
    assert "50 steps" in find("zoh/half-life").question
    assert "A = -16 " in find("zoh/euler-limit").question
    assert "Δ = 0.1 and A = -16" in find("zoh/ratio").question


def test_the_state_at_the_end_of_the_second_hold_is_the_continuous_one():
    delta, a = math.log(2) / 2, -2.0
    end = scipy.integrate.solve_ivp(
        lambda t, h: a * h + (4.0 if t < delta else 8.0),
        (0, 2 * delta),
        [0.0],
        rtol=1e-9,
        atol=1e-9,
        max_step=delta / 50,
    ).y[0, -1]
    assert check("zoh/which-state", end).passed is True
    assert end == pytest.approx(2.5, rel=1e-5)


def test_eulers_state_grows_just_above_the_limit_and_not_below():
    limit = zero_order_hold.solve_euler_limit()
    assert abs(1 - 16 * limit * 0.999) < 1
    assert abs(1 - 16 * limit * 1.001) > 1


def with_numpy(A, B, delta):
    A, B = A.numpy(), B.numpy()
    A_or_1 = np.where(A == 0, 1, A)
    return np.where(A == 0, delta, np.expm1(delta * A) / A_or_1) * B


RIGHT = {
    "torch.where": lambda A, B, delta: torch.where(
        A == 0, delta * B, torch.expm1(delta * A) / A * B
    ),
    "series near 0": lambda A, B, delta: (
        torch.where(
            (delta * A).abs() < 1e-5,
            1 + delta * A / 2 + (delta * A) ** 2 / 6,
            torch.expm1(delta * A) / (delta * A),
        )
        * delta
        * B
    ),
    "numpy": with_numpy,
    "in place": lambda A, B, delta: B.mul_(solve_b_bar(A, 1.0, delta)),
}


@pytest.mark.parametrize("way", RIGHT)
def test_b_bar_may_be_written_in_several_ways(way):
    for _ in range(2):
        result = check("zoh/b-bar", RIGHT[way])
        assert result.passed is True, result


def with_floats(A, B, delta):
    return (math.exp(delta * A) - 1) / float(A) * float(B)


WRONG = {
    "0/0 with expm1": (lambda A, B, d: torch.expm1(d * A) / A * B, 0),
    "0/0 as the paper has it": (
        lambda A, B, d: 1 / (d * A) * (torch.exp(d * A) - 1) * d * B,
        0,
    ),
    "division by zero": (with_floats, 0),
    "Euler": (lambda A, B, d: B * d, 1),
    "no B, and 0/0": (lambda A, B, d: torch.expm1(d * A) / A, 2),
    "a delta lost, and 0/0": (
        lambda A, B, d: torch.expm1(d * A) / (d * A) * B,
        3,
    ),
    "for one number": (
        lambda A, B, d: d * B if A == 0 else B / A * math.expm1(d * A),
        4,
    ),
    "Euler where A is small": (
        lambda A, B, d: torch.where(
            A.abs() < 1e-4, d * B, torch.expm1(d * A) / A * B
        ),
        5,
    ),
    "digits lost": (
        lambda A, B, d: torch.where(
            A.abs() < 1e-13, d * B, (torch.exp(d * A) - 1) / A * B
        ),
        5,
    ),
}


@pytest.mark.parametrize("way", WRONG)
def test_a_wrong_b_bar_gets_the_hint_for_its_mistake(way):
    function, which = WRONG[way]
    result = check("zoh/b-bar", function)
    assert result.passed is False
    assert result.hint == hint_of("zoh/b-bar", which)
    assert "`b_bar(" in result.message


def test_a_value_in_place_of_the_function_is_quoted():
    A = torch.tensor(-1.0)
    result = check("zoh/b-bar", solve_b_bar(A, A, 0.5))
    assert "tensor(-0.3935)" in result.message
    assert result.hint == 'Run `check("zoh/b-bar", b_bar)`.'


def test_a_b_bar_in_single_precision_is_told_how_far_off_it_is():
    result = check(
        "zoh/b-bar", lambda A, B, d: solve_b_bar(A.float(), B.float(), d)
    )
    assert result.passed is False
    assert "relative error" in result.message
