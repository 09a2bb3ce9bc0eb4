"""What holds for each exercise of each chapter."""

import html
import importlib
import inspect
import math
import re

import numpy as np
import pytest
import torch

from mambaviz import exercises

EXERCISES = [exercises.find(name) for name in exercises.names()]
BY_NAME = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
MISTAKES = [
    pytest.param(e, m, id=f"{e.name}-{i}")
    for e in EXERCISES
    for i, m in enumerate(e.mistakes)
]


class Hostile:
    """An object that fails at whatever is done with it."""

    def __repr__(self):
        raise RuntimeError("no repr")

    def __float__(self):
        raise KeyError("no float")

    def __array__(self, *_):
        raise OSError("no array")

    def __call__(self, *_):
        raise NotImplementedError("no call")


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raises(*_):
    raise ValueError("<b>no</b> value `here`")


def raises_mutely(*_):
    raise Mute


def recurses(*_):
    return recurses(*_)


WEIRD = {
    "nan": float("nan"),
    "infinity": -math.inf,
    "text": "abc",
    "empty text": "",
    "bytes": b"abc",
    "truth": True,
    "numpy truth": np.bool_(True),
    "list": [1.0, 2.0],
    "ragged list": [[1.0], [1.0, 2.0]],
    "dict": {"delta": 0.1},
    "object": object(),
    "hostile": Hostile(),
    "class": float,
    "not implemented": NotImplemented,
    "huge integer": 10**400,
    "zero": 0,
    "integer": -3,
    "complex": 1 + 2j,
    "numpy complex": np.complex64(1j),
    "numpy nan": np.float32("nan"),
    "numpy text": np.array("abc"),
    "numpy objects": np.array([None, "a"], dtype=object),
    "torch nan": torch.tensor(math.nan),
    "torch complex": torch.tensor(1j),
    "torch gradient": torch.ones(3, requires_grad=True),
    "torch meta": torch.empty((), device="meta"),
    "empty tensor": torch.empty(0),
    "wrong shape": torch.ones(7, 5, 3),
    "function raises": raises,
    "function raises mutely": raises_mutely,
    "function recurses": recurses,
    "function returns None": lambda *_: None,
    "function returns text": lambda *_: "abc",
    "function returns a shape": lambda *_: torch.ones(7, 5),
    "function returns nan": lambda *_: math.nan,
    "function takes nothing": lambda: 1.0,
    "function divides by zero": lambda *_: 1 / 0,
    "method": [].append,
    "script": "<script>alert(1)</script>",
}


def test_names_are_unique_and_start_with_their_chapter():
    names = exercises.names()
    assert len(set(names)) == len(names)
    for name in names:
        chapter, _, rest = name.partition("/")
        assert chapter in exercises.CHAPTERS
        assert re.fullmatch(r"[a-z0-9-]+", rest), name


@BY_NAME
def test_unanswered_repeats_the_question_and_says_how_to_answer(exercise):
    result = exercises.check(exercise.name)
    assert result.passed is None
    assert result.message == exercise.question
    assert f'check("{exercise.name}", ' in result.hint
    assert "No answer yet" in repr(result)
    assert "No answer yet" in result._repr_html_()


@BY_NAME
def test_the_solution_is_right(exercise):
    result = exercises.check(exercise.name, exercise.solution)
    assert result.passed is True
    assert result.hint == ""
    assert "Right" in repr(result)
    assert "Right" in result._repr_html_()


@BY_NAME
def test_the_solution_can_be_shown_in_a_few_lines(exercise):
    chapter, _, rest = exercise.name.partition("/")
    module = importlib.import_module(
        f"mambaviz.exercises.{exercises.CHAPTERS[chapter]}"
    )
    solve = getattr(module, "solve_" + rest.replace("-", "_"))
    assert inspect.getmodule(solve) is module
    assert len(inspect.getsource(solve).splitlines()) <= 12
    answer = solve if exercise.solution is solve else solve()
    assert exercises.check(exercise.name, answer).passed is True


@BY_NAME
def test_there_are_two_mistakes_and_all_hints_differ(exercise):
    hints = [m.hint for m in exercise.mistakes] + [exercise.nudge]
    assert len(exercise.mistakes) >= 2
    assert all(hints)
    assert len(set(hints)) == len(hints)


@pytest.mark.parametrize(("exercise", "mistake"), MISTAKES)
def test_each_mistake_gets_its_own_hint(exercise, mistake):
    result = exercises.check(exercise.name, mistake.answer)
    assert result.passed is False
    assert result.hint == mistake.hint
    assert "Not yet" in repr(result)
    words = html.escape(mistake.hint.replace("`", ""))
    assert words in re.sub("</?code>", "", result._repr_html_())


@BY_NAME
@pytest.mark.parametrize("kind", WEIRD)
def test_a_weird_answer_is_not_right_and_raises_nothing(exercise, kind):
    result = exercises.check(exercise.name, WEIRD[kind])
    assert result.passed is False
    assert result.message
    assert result.hint
    card = result._repr_html_()
    assert "<b>" not in card
    assert "<script" not in card
    assert " at 0x" not in card


@BY_NAME
def test_a_card_fits_a_terminal(exercise):
    answers = [None, exercise.solution, *WEIRD.values()]
    for answer in answers + [m.answer for m in exercise.mistakes]:
        text = repr(exercises.check(exercise.name, answer))
        assert max(map(len, text.splitlines())) <= 79
        assert text.splitlines()[0].endswith(exercise.name)
