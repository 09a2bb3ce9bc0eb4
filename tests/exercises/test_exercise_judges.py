"""The kinds of answer, each on its own."""

import fractions
import math

import numpy as np
import pytest
import torch

from mambaviz.exercises.exercise import UnreadableAnswer
from mambaviz.exercises.judges import Array, Function, Number, Text, quote


@pytest.mark.parametrize(
    "answer",
    [
        2,
        2.0,
        fractions.Fraction(2),
        np.float32(2),
        np.int64(2),
        np.array(2.0),
        np.array([[2.0]]),
        torch.tensor(2),
        torch.tensor([2.0]),
        torch.tensor(2.0, dtype=torch.bfloat16).float(),
        torch.nn.Parameter(torch.tensor(2.0)),
    ],
    ids=repr,
)
def test_a_number_of_any_library_is_read(answer):
    number = Number(rtol=0.01).read(answer)
    assert type(number) is float
    assert number == 2.0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("0.5", "'0.5'.*quotation marks"),
        (True, "truth value"),
        (np.bool_(True), "truth value"),
        (1j, "real number"),
        (torch.tensor(1j), "real number"),
        (math.nan, "nan, which is not finite"),
        (np.array([math.inf]), "inf.*not finite"),
        ([2.0], r"\[2.0\], which is not a number"),
        (math.sqrt, "the function sqrt, which is not a number"),
        (10**400, "not a number"),
        (torch.ones(2, 3), r"shape is \(2, 3\)"),
        (np.empty(0), r"shape is \(0,\)"),
    ],
    ids=str,
)
def test_what_is_not_one_real_finite_number_is_refused(answer, why):
    with pytest.raises(UnreadableAnswer, match=why):
        Number(rtol=0.01).read(answer)


def test_the_tolerance_of_a_number_is_relative_to_the_solution():
    judge = Number(rtol=0.01)
    assert judge.same(0.101, 0.1)
    assert not judge.same(0.10101, 0.1)
    assert judge.same(-99.0, -100.0)
    assert not judge.same(-0.1, 0.1)
    assert "within 1 %" in judge.wanted
    assert "within 0.1 %" in Number(rtol=0.001).wanted


def test_a_close_number_is_called_close():
    judge = Number(rtol=0.01)
    assert "close" in judge.object_to(1.04, 1.0)
    assert "close" not in judge.object_to(1.06, 1.0)
    assert "1.06" in judge.object_to(1.06, 1.0)


@pytest.mark.parametrize(
    "answer",
    [
        [1, 2, 3],
        (1.0, 2.0, 3.0),
        np.array([1, 2, 3]),
        np.array([1, 2, 3], dtype=np.float16),
        torch.tensor([1, 2, 3]),
        torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
    ],
    ids=repr,
)
def test_an_array_of_any_library_is_read(answer):
    wanted = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    tensor = Array((3,)).read(answer)
    assert tensor.dtype == torch.float64
    assert not tensor.requires_grad
    assert torch.equal(tensor, wanted)
    assert Array((3,)).same(tensor, wanted)


@pytest.mark.parametrize("answer", [0.1, 0.1 + 0.3j, [0.1], [0.1 + 0.3j]])
def test_numbers_of_python_keep_their_digits(answer):
    shape = (1,) if isinstance(answer, list) else ()
    assert Array(shape).read(answer).tolist() == answer


@pytest.mark.parametrize(
    "answer", [None, "abc", [[1.0], [1.0, 2.0]], {}, object(), [None] * 3]
)
def test_what_holds_no_numbers_is_no_array(answer):
    with pytest.raises(UnreadableAnswer, match="does not hold numbers"):
        Array((3,)).read(answer)


def test_an_array_of_another_shape_is_refused_with_its_shape():
    with pytest.raises(UnreadableAnswer, match=r"of shape \(1, 3\)"):
        Array((3,)).read(torch.ones(1, 3))
    assert Array((3,)).wanted == "a tensor of shape (3,)"


def test_arrays_are_compared_on_the_scale_of_their_largest_element():
    judge = Array((2,), rtol=1e-3)
    wanted = judge.read([100.0, 0.0])
    assert judge.same(judge.read([100.0, 0.09]), wanted)
    assert not judge.same(judge.read([100.0, 0.11]), wanted)
    assert not judge.same(judge.read([100.0, math.nan]), wanted)
    assert not judge.same(judge.read([100.0, math.inf]), wanted)
    assert not judge.same(judge.read([100.0, 1j]), wanted)
    assert "(1,) is nan" in judge.object_to(
        judge.read([90.0, math.nan]), wanted
    )
    assert "(0,) is 90" in judge.object_to(judge.read([90.0, 1.0]), wanted)
    assert "0.09" in judge.confirm(judge.read([100.0, 0.09]), wanted)


def test_a_word_is_read_whatever_its_case_and_signs():
    judge = Text(("zoh", "backward_euler"))
    for word in ("backward_euler", "Backward Euler", " BACKWARD-euler "):
        assert judge.read(word) == "backward_euler"
    assert judge.same("zoh", "zoh")
    assert not judge.same("zoh", "backward_euler")
    for wrong in ("tustin", "", 3, None, ["zoh"]):
        with pytest.raises(UnreadableAnswer):
            judge.read(wrong)
    assert judge.wanted == 'one of "zoh", "backward_euler"'


def double(x):
    return 2 * x


ON = [(torch.tensor(v, dtype=torch.float64),) for v in (0.0, 3.0, [1.0, 2.0])]
DOUBLE = Function("double(x)", ON, result=lambda x: x.shape)


def objection(function):
    given, solution = DOUBLE.read(function), DOUBLE.read(double)
    assert not DOUBLE.same(given, solution)
    return DOUBLE.object_to(given, solution)


@pytest.mark.parametrize(
    "function",
    [
        double,
        lambda x: x + x,
        lambda x: (2 * x).numpy(),
        lambda x: (2 * x).tolist(),
        lambda x: torch.nn.Parameter(2 * x),
        lambda x: x.mul_(2),  # it may overwrite what it is given
    ],
)
def test_a_right_function_is_right_each_time(function):
    for _ in range(2):
        assert DOUBLE.same(DOUBLE.read(function), DOUBLE.read(double))


def test_a_wrong_function_is_shown_where_it_fails_first():
    assert objection(lambda x: x**2) == (
        "`double(3)` returned 9 (relative error 0.5)."
    )
    assert objection(lambda x: 2 * x.sum()) == (
        "`double([1, 2])` returned tensor(6., dtype=torch.float64), which is "
        "not a tensor of shape (2,)."
    )
    assert objection(lambda x: 2 * x / (x != 0)) == (
        "`double(0)` returned nan."
    )
    assert "returned None" in objection(lambda x: None)
    assert "returned 'a', which is not a number" in objection(lambda x: "a")


def test_an_exception_is_quoted():
    def fails(x):
        raise ValueError("a\n  long " + 200 * "story ")

    text = objection(fails)
    assert text.startswith("`double(0)` raised ValueError: a long story ")
    assert len(text) < 220

    def fails_silently(x):
        raise ValueError

    assert objection(fails_silently) == "`double(0)` raised ValueError."
    assert "raised TypeError" in objection(lambda: 1)


def test_a_division_by_zero_is_a_nan_that_is_quoted_as_it_was():
    def divides(x):
        return 2 * x if x.ndim else 2 * float(x) ** 2 / float(x)

    assert objection(divides) == (
        "`double(0)` raised ZeroDivisionError: float division by zero."
    )
    nan_at_zero = DOUBLE.read(lambda x: 2 * x**2 / x)
    assert DOUBLE.same(DOUBLE.read(divides), nan_at_zero)


def test_what_cannot_be_called_is_no_function():
    with pytest.raises(UnreadableAnswer, match="0.5.*without parentheses"):
        DOUBLE.read(0.5)
    assert DOUBLE.wanted == "a function `double(x)`"
    assert DOUBLE.sample == "double"


def test_a_quotation_is_one_short_line_without_addresses():
    class Broken:
        def __repr__(self):
            raise RuntimeError

    values = [
        torch.zeros(50, 50),
        "a\n" * 900,
        list(range(900)),
        10**900,
        object(),
        Broken(),
        double,
        torch.nn.Linear(2, 2),
        {1: {2: {3: {}}}},
    ]
    for value in values:
        text = quote(value)
        assert 0 < len(text) <= 75, text
        assert "\n" not in text
        assert "0x" not in text
    assert quote(double) == "the function double"
    assert quote(float) == "the class float"
    assert quote(Broken()) == "<Broken instance>"
    # What only carries the name of a built-in class.
    assert quote(type("set", (), {})()) == "an object of the class set"
