"""What an exercise is, and the verdict on an answer to it."""

import html
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mambaviz.theme import INKS


class UnreadableAnswer(Exception):
    """The answer is not of the kind that the exercise asks for."""


class Judge(ABC):
    """How one kind of answer is read and compared.

    The kinds are in :mod:`mambaviz.exercises.judges`.

    Attributes:
        sample: what a reader writes as the answer, in ``check(name, sample)``.
        wanted: what is asked for, in words that follow "This exercise asks
            for".
    """

    sample: str
    wanted: str

    @abstractmethod
    def read(self, answer: object) -> Any:
        """Bring an answer into a form that can be compared.

        Args:
            answer: anything that a reader may have given.

        Returns:
            The answer in the judge's own form.

        Raises:
            UnreadableAnswer: if the answer is of another kind; the message
                quotes it.
        """

    @abstractmethod
    def same(self, given: Any, other: Any) -> bool:
        """Say whether two answers, both already read, are the same."""

    @abstractmethod
    def confirm(self, given: Any, solution: Any) -> str:
        """Say in a sentence what was right about an answer."""

    @abstractmethod
    def object_to(self, given: Any, solution: Any) -> str:
        """Say in a sentence what was received, without giving the solution."""


@dataclass(frozen=True, eq=False)
class Mistake:
    """A wrong answer that readers give, and what to say to them.

    Attributes:
        answer: the wrong answer itself.
        hint: what to think about; it does not give the solution away.
        judge: recognises the mistake where the exercise's own judge is too
            strict: one with a wider tolerance, or with fewer test inputs.
    """

    answer: object
    hint: str
    judge: Judge | None = None


@dataclass(frozen=True, eq=False)
class Exercise:
    """A question whose answer can be judged.

    In ``question`` and in every hint, code stands between backticks.

    Attributes:
        name: ``chapter/exercise``, what the reader types.
        question: one or two sentences, with the tolerance of a number.
        solution: the right answer. The chapter's module has it as a function
            ``solve_...`` too, for the chapter to show.
        judge: reads and compares answers.
        mistakes: known wrong answers with their hints. The first that fits
            counts, so the special ones stand before the general ones.
        nudge: the hint for a wrong answer that nobody foresaw.
    """

    name: str
    question: str
    solution: object
    judge: Judge
    mistakes: Sequence[Mistake]
    nudge: str

    def check(self, answer: object = None) -> "Result":
        """Judge an answer.

        Args:
            answer: anything; None means that there is no answer yet.

        Returns:
            The verdict. An answer of the wrong kind is not right yet, and
            nothing that a given function raises gets out.
        """
        call = f'check("{self.name}", {self.judge.sample})'
        if answer is None:
            return Result(
                self.name,
                passed=None,
                message=self.question,
                hint=f"Nothing was given yet. To answer, run `{call}`.",
            )
        try:
            given = self.judge.read(answer)
        except UnreadableAnswer as error:
            message = f"This exercise asks for {self.judge.wanted}. {error}"
            hint = self._hint_for(answer, otherwise=f"Run `{call}`.")
            return Result(self.name, passed=False, message=message, hint=hint)
        solution = self.judge.read(self.solution)
        if self.judge.same(given, solution):
            message = self.judge.confirm(given, solution)
            return Result(self.name, passed=True, message=message)
        message = self.judge.object_to(given, solution)
        hint = self._hint_for(answer, otherwise=self.nudge)
        return Result(self.name, passed=False, message=message, hint=hint)

    def _hint_for(self, answer: object, otherwise: str) -> str:
        for mistake in self.mistakes:
            judge = mistake.judge or self.judge
            try:
                given = judge.read(answer)
            except UnreadableAnswer:
                continue
            if judge.same(given, judge.read(mistake.answer)):
                return mistake.hint
        return otherwise


class _Look(NamedTuple):
    sign: str
    status: str
    kind: str
    edge: str


# Sign, words and the style of the edge say it, not the colour alone.
_LOOKS = {
    None: _Look("\N{WHITE CIRCLE}", "No answer yet", "open", "dashed muted"),
    True: _Look("\N{CHECK MARK}", "Right", "right", "solid ink"),
    False: _Look("\N{RIGHTWARDS ARROW}", "Not yet", "wrong", "double warn"),
}


@dataclass(frozen=True)
class Result:
    """The verdict on an answer, as a card in a notebook.

    Attributes:
        name: the exercise.
        passed: True, False, or None where there was no answer.
        message: the verdict in a sentence or two; without an answer, the
            question.
        hint: what to think about or do next; empty where nothing is left.
    """

    name: str
    passed: bool | None
    message: str
    hint: str = ""

    def __bool__(self) -> bool:
        """Be true for a right answer only."""
        return self.passed is True

    def __repr__(self) -> str:
        """Write the card for a terminal, in lines of at most 79 columns."""
        look = _LOOKS[self.passed]
        paragraphs = [f"{look.sign} {look.status}: {self.name}", self.message]
        if self.hint:
            label = "" if self.passed is None else "Hint: "
            paragraphs.append(label + self.hint)
        return "\n  ".join(
            textwrap.fill(
                paragraph,
                width=77,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
            for paragraph in paragraphs
        )

    def _repr_html_(self) -> str:
        look = _LOOKS[self.passed]
        label = "" if self.passed is None else "<strong>Hint.</strong> "
        hint = (
            f'<p class="mv-check-hint">{label}{_markup(self.hint)}</p>'
            if self.hint
            else ""
        )
        # Enough to look right where the book's style sheet is absent.
        edge_line, edge_ink = look.edge.split()
        style = (
            f"color: {_ink('ink')}; background: {_ink('card')}; "
            f"border: 1px solid {_ink('line')}; "
            f"border-left: 4px {edge_line} {_ink(edge_ink)}; "
            "border-radius: 4px; padding: 0.1em 1em"
        )
        return (
            f'<div class="mv-check mv-check-{look.kind}" style="{style}">'
            '<p class="mv-check-status">'
            f'<span aria-hidden="true">{look.sign}</span> '
            f"<strong>{look.status}</strong> "
            f"<code>{html.escape(self.name)}</code></p>"
            f"<p>{_markup(self.message)}</p>{hint}</div>"
        )


# Where no page has declared the palette, JupyterLab's theme stands in for it.
_JUPYTER = {
    "card": "--jp-layout-color1",
    "ink": "--jp-content-font-color1",
    "line": "--jp-border-color2",
    "muted": "--jp-content-font-color2",
    "warn": "--jp-error-color1",
}


def _ink(name: str) -> str:
    light = INKS[name].light
    return f"var(--mv-{name}, var({_JUPYTER[name]}, {light}))"


def _markup(text: str) -> str:
    """Escape a text for HTML and set what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
