"""The exercises of the book: checks, hints and solutions.

A reader writes ``check("zoh/half-life", 0.01)`` in a cell. Each chapter has
a module here that reads like its list of questions, and is imported only
when one of its exercises is asked for.
"""

import difflib
import importlib
from importlib import resources

from mambaviz.exercises.exercise import Exercise, Judge, Mistake, Result

__all__ = [
    "Exercise",
    "Judge",
    "Mistake",
    "Result",
    "check",
    "find",
    "names",
    "stylesheet",
]

# What stands before the slash of an exercise's name -> its chapter's module.
CHAPTERS = {
    "cost": "transformer_cost",
    "rnn": "recurrent_networks",
    "ssm": "state_space_models",
    "zoh": "zero_order_hold",
    "three": "three_representations",
    "hippo": "hippo",
}


def check(name: str, answer: object = None) -> Result:
    """Judge an answer to an exercise.

    Args:
        name: the exercise, such as ``"zoh/half-life"``.
        answer: what the exercise asks for: a number, a text, a tensor or a
            function. Without it the question is repeated.

    Returns:
        The verdict, which a notebook shows as a card. No answer raises,
        whatever it is.

    Raises:
        ValueError: if no exercise has that name.

    Example:
        >>> check("zoh/half-life", 0.01386).passed
        True
    """
    return find(name).check(answer)


def find(name: str) -> Exercise:
    """Look an exercise up by its name.

    Args:
        name: the exercise, such as ``"zoh/half-life"``.

    Returns:
        The exercise with its question, solution and hints.

    Raises:
        ValueError: if no exercise has that name; the message lists those
            that there are, the nearest first.
    """
    chapter = name.partition("/")[0] if isinstance(name, str) else None
    if chapter in CHAPTERS:
        for exercise in _exercises_of(chapter):
            if exercise.name == name:
                return exercise

    def likeness(known: str) -> float:
        return difflib.SequenceMatcher(None, known, str(name)).ratio()

    # Sorting is stable: among equally near names the book's order stays.
    nearest = sorted(names(), key=likeness, reverse=True)
    raise ValueError(
        f"no exercise is called {name!r}; there are "
        + ", ".join(repr(known) for known in nearest)
    )


def names() -> list[str]:
    """List the names of all exercises, chapter by chapter.

    Returns:
        Names that :func:`check` knows.
    """
    return [e.name for chapter in CHAPTERS for e in _exercises_of(chapter)]


def stylesheet() -> str:
    """Read the style sheet of the cards that :func:`check` shows.

    Returns:
        CSS that uses the palette's variables, with its light inks where a
        page does not define them.
    """
    return resources.files(__name__).joinpath("check.css").read_text("utf-8")


def _exercises_of(chapter: str) -> tuple[Exercise, ...]:
    module = importlib.import_module(f"{__name__}.{CHAPTERS[chapter]}")
    return module.EXERCISES
