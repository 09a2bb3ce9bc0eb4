"""The exercises of the chapter on the zero-order hold, against closed forms.

The numbers are worked out here by hand, so that a solution that followed a
wrong theory would be noticed.
"""

import math
import re

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch

from mambaviz.exercises import check, find, zero_order_hold
from mambaviz.exercises.zero_order_hold import solve_b_bar
from mambaviz.theory.discretize import discretize_mamba, discretize_zoh


def hint_of(name, which):
    return find(name).mistakes[which].hint


def test_the_solutions_are_the_closed_forms():
    solution = {n: find(f"zoh/{n}").solution for n in NUMBERS}
    assert solution["half-life"] == pytest.approx(math.log(2) / 50, rel=1e-12)
    assert solution["euler-limit"] == pytest.approx(0.125, rel=1e-12)
    assert solution["which-state"] == pytest.approx(2.5, rel=1e-12)
    # u / (1 - e^-u) = 3 in closed form, with Lambert's W
    assert solution["ratio"] == pytest.approx(
        3 + scipy.special.lambertw(-3 * math.exp(-3)).real, rel=1e-12
    )
    assert find("zoh/which-rule").solution == "bilinear"


NUMBERS = {
    "half-life": (0.0139, 0.014, np.float32(0.01386), torch.tensor(0.0138)),
    "euler-limit": (1 / 8, np.array([0.125]), 2 / 16),
    "which-state": (2.5, torch.tensor([2.5])),
    "ratio": (2.82, 2.8, np.float32(2.8214), torch.tensor([2.82])),
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
        ("ratio", 3, 0),
        ("ratio", 3.16, 1),
        ("ratio", -2.82, 2),
        ("ratio", 0.354, 3),
        ("ratio", 0.94, 4),
        ("ratio", 1.904, 5),
        ("ratio", 0.405, 6),
        ("ratio", 1.0986, 7),
        ("which-rule", "Euler", 0),
        ("which-rule", "Backward Euler", 1),
        ("which-rule", "ZOH", 2),
        ("which-rule", "Mamba", 3),
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
    assert "A = −1 " in find("zoh/half-life").question
    assert "50 steps" in find("zoh/half-life").question
    assert "A = −16 " in find("zoh/euler-limit").question
    assert "three times" in find("zoh/ratio").question
    which_rule = find("zoh/which-rule").question
    assert "Δ A = −6." in which_rule
    assert "`A_bar` = −0.5?" in which_rule


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


def test_at_the_ratio_the_codes_weight_is_three_times_that_of_zoh():
    u = find("zoh/ratio").solution
    for A in (-1.0, -16.0):
        _, B_bar_code = discretize_mamba(A, 2.0, u / abs(A))
        _, B_bar_zoh = discretize_zoh(A, 2.0, u / abs(A))
        torch.testing.assert_close(B_bar_code, 3 * B_bar_zoh)


def test_half_is_left_after_the_half_life():
    delta = zero_order_hold.solve_half_life(A=-3.0, steps=7)
    assert math.exp(-3.0 * delta) ** 7 == pytest.approx(0.5, rel=1e-12)


def test_no_other_rule_gives_the_decay_that_the_question_names():
    assert (1 - 3) / (1 + 3) == -0.5  # the bilinear rule at delta A = -6
    hint = [m.hint for m in find("zoh/which-rule").mistakes]
    for text, A_bar in zip(
        hint, ("−5", "0.143", "0.0025", "0.0025"), strict=True
    ):
        assert A_bar in text
    assert math.exp(-6) == pytest.approx(0.0025, abs=5e-5)
    with pytest.raises(ValueError, match="not enough values"):
        zero_order_hold.solve_which_rule(wanted=0.5)


def test_eulers_state_grows_just_above_the_limit_and_not_below():
    limit = zero_order_hold.solve_euler_limit()
    assert abs(1 - 16 * limit * 0.999) < 1
    assert abs(1 - 16 * limit * 1.001) > 1


def with_numpy(A, B, delta):
    A, B = A.numpy(), B.numpy()
    A_or_1 = np.where(A == 0, 1, A)
    return np.where(A == 0, delta, np.expm1(delta * A) / A_or_1) * B


def series(w):
    return 1 + w / 2 + w**2 / 6


def with_a_mask(A, B, delta):
    w = delta * A
    phi = series(w)
    far = w.abs() > 1e-5
    phi[far] = torch.expm1(w[far]) / w[far]
    return phi * delta * B


def with_two_wheres(A, B, delta):
    safe = torch.where(A == 0, -1, A)
    quotient = torch.expm1(delta * safe) / safe
    return torch.where(A == 0, delta + delta**2 * A / 2, quotient) * B


def with_an_integral(A, B, delta):
    nodes, weights = np.polynomial.legendre.leggauss(20)
    s = torch.tensor(delta * (nodes + 1) / 2)
    return torch.exp(A[..., None] * s) @ torch.tensor(weights) * delta / 2 * B


@torch.no_grad()
def without_a_graph(A, B, delta):
    return with_two_wheres(A, B, delta)


RIGHT = {
    "torch.where twice": with_two_wheres,
    "a mask": with_a_mask,
    "quadrature": with_an_integral,
    "in place": lambda A, B, delta: B.mul_(solve_b_bar(A, 1.0, delta)),
    "A overwritten": lambda A, B, delta: (
        solve_b_bar(A.mul_(delta), B, 1.0) * delta
    ),
}


@pytest.mark.parametrize("way", RIGHT)
def test_b_bar_may_be_written_in_several_ways(way):
    for _ in range(2):
        result = check("zoh/b-bar", RIGHT[way])
        assert result.passed is True, result


def with_floats(A, B, delta):
    return (math.exp(delta * A) - 1) / float(A) * float(B)


def with_a_constant(A, B, delta):
    w = delta * A
    near = w.abs() < 1e-12
    w = torch.where(near, 1.0, w)
    return torch.where(near, delta * B, torch.expm1(w) / w * delta * B)


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
        7,
    ),
    "NaN in the gradient": (
        lambda A, B, d: torch.where(A == 0, d, torch.expm1(d * A) / A) * B,
        4,
    ),
    "NaN in the gradient of a series": (
        lambda A, B, d: (
            torch.where(
                (d * A).abs() < 1e-5,
                series(d * A),
                torch.expm1(d * A) / (d * A),
            )
            * d
            * B
        ),
        4,
    ),
    "a constant at 0": (with_a_constant, 5),
    "NumPy": (with_numpy, 6),
    "no graph": (without_a_graph, 6),
    "Euler where A is small": (
        lambda A, B, d: torch.where(
            A.abs() < 1e-4, d * B, torch.expm1(d * A) / A * B
        ),
        8,
    ),
    "digits lost": (
        lambda A, B, d: torch.where(
            A.abs() < 1e-13, d * B, (torch.exp(d * A) - 1) / A * B
        ),
        8,
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


def test_the_solution_for_b_bar_is_torch_alone():
    used = solve_b_bar.__code__.co_names
    assert "phi1" not in used
    assert not any(name.startswith("discretize") for name in used)


@pytest.mark.parametrize("A", [0.0, -1e-12, -1e-6, -0.3, -20.0])
def test_the_solution_for_b_bar_has_the_derivative_of_the_theory(A):
    A = torch.tensor(A, dtype=torch.float64, requires_grad=True)
    B = torch.tensor(3.0, dtype=torch.float64)
    (ours,) = torch.autograd.grad(solve_b_bar(A, B, 0.1), A)
    (theory,) = torch.autograd.grad(discretize_zoh(A, B, 0.1)[1], A)
    torch.testing.assert_close(ours, theory, rtol=1e-7, atol=0)


def test_a_derivative_is_quoted_as_one():
    message = check("zoh/b-bar", WRONG["NaN in the gradient"][0]).message
    assert message == (
        "`b_bar(0, 3, 0.1)` has the derivative nan with respect to A."
    )
    assert "has no derivative" in check("zoh/b-bar", with_numpy).message


def test_b_bar_is_judged_where_gradients_are_switched_off():
    with torch.no_grad():
        assert check("zoh/b-bar", solve_b_bar).passed is True
        result = check("zoh/b-bar", with_a_constant)
    assert result.hint == hint_of("zoh/b-bar", 5)


def test_minus_signs_in_the_words_are_true_ones():
    for exercise in zero_order_hold.EXERCISES:
        hints = [mistake.hint for mistake in exercise.mistakes]
        for words in (exercise.question, exercise.nudge, *hints):
            outside_code = re.sub(r"`[^`]*`", "", words)
            assert not re.search(r"(?<![A-Za-z])-", outside_code), words
