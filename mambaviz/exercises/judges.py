"""The kinds of answer: a number, a tensor, a text, a function."""

import math
import re
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mambaviz.exercises.exercise import Judge, UnreadableAnswer

# How close, in multiples of the tolerance, a number is called close.
NEARLY = 5


def quote(value: object) -> str:
    """Show any object in one short line.

    Args:
        value: anything, even an object whose ``repr`` fails or is long.

    Returns:
        At most about 70 characters.
    """
    short = reprlib.Repr()
    short.maxother = short.maxstring = short.maxlong = 60
    try:
        # Their own repr is for programmers: <function f at 0x7f...>.
        if callable(value) and isinstance(name := value.__name__, str):
            kind = "class" if isinstance(value, type) else "function"
            return f"the {kind} {name}"[:70]
    except Exception:
        pass
    try:
        # An address in memory tells nobody anything.
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", short.repr(value))
        return " ".join(text.split())
    except Exception:
        return f"an object of the class {type(value).__name__}"


@dataclass(frozen=True)
class Number(Judge):
    """A real, finite number.

    Attributes:
        rtol: how far it may be from the solution, relative to the solution.
    """

    rtol: float

    sample = "your_number"

    @property
    def wanted(self) -> str:
        """The kind of answer, with its tolerance."""
        return f"a number, within {self._tolerance}"

    @property
    def _tolerance(self) -> str:
        return f"{100 * self.rtol:g} %"

    def read(self, answer: object) -> float:
        """Take any number of Python, NumPy or torch, but no NaN or infinity.

        Args:
            answer: a tensor or an array counts if it has one element.

        Returns:
            The number.

        Raises:
            UnreadableAnswer: if it is no such number.
        """
        received = f"We received {quote(answer)}"
        try:
            number = self._unwrap(answer)
            if isinstance(number, str | bytes):
                raise UnreadableAnswer("Leave out quotation marks and units.")
            if isinstance(number, complex):
                raise UnreadableAnswer("Give a real number.")
            if isinstance(number, bool):
                raise UnreadableAnswer("A truth value is not a number.")
            number = float(number)
        except UnreadableAnswer as error:
            raise UnreadableAnswer(f"{received}. {error}") from None
        except Exception:
            message = f"{received}, which is not a number."
            raise UnreadableAnswer(message) from None
        if not math.isfinite(number):
            raise UnreadableAnswer(f"{received}, which is not finite.")
        return number

    def _unwrap(self, answer: Any) -> Any:
        if isinstance(answer, Tensor):
            answer = answer.detach().numpy(force=True)
        if not isinstance(answer, np.ndarray | np.generic):
            return answer
        if answer.size != 1:
            shape = answer.shape
            raise UnreadableAnswer(f"Its shape is {shape}. Give one number.")
        return answer.item()

    def same(self, given: float, other: float) -> bool:
        """Say whether two numbers agree within the tolerance."""
        slack = 1 + 1e-9  # 0.101 is within 1 % of 0.1, rounding or not
        return abs(given - other) <= self.rtol * abs(other) * slack

    def confirm(self, given: float, solution: float) -> str:
        """Quote the number beside the solution."""
        return f"We computed {solution:.6g}, and you gave {given:.6g}."

    def object_to(self, given: float, solution: float) -> str:
        """Quote the number, and say whether it is close."""
        if abs(given - solution) <= NEARLY * self.rtol * abs(solution):
            return (
                f"You gave {given:.6g}, which is close, but not within "
                f"{self._tolerance}. Give another digit."
            )
        return f"You gave {given:.6g}."


@dataclass(frozen=True)
class Array(Judge):
    """A tensor, an array or a nested list of numbers, of a given shape.

    Attributes:
        shape: the shape that it must have.
        rtol: how far an element may be from the solution's, relative to the
            largest element of the solution.
    """

    shape: tuple[int, ...]
    rtol: float = 1e-10

    sample = "your_tensor"

    @property
    def wanted(self) -> str:
        """The kind of answer, with its shape."""
        return (
            f"a tensor of shape {tuple(self.shape)}"
            if self.shape
            else "a number"
        )

    def read(self, answer: object) -> Tensor:
        """Take a tensor, an array or a list, in double precision.

        Args:
            answer: numbers; where one number is asked for, one element in any
                shape counts.

        Returns:
            float64, or complex128 for complex numbers, on the CPU.

        Raises:
            UnreadableAnswer: if it has another shape or holds no numbers.
        """
        received = f"We received {quote(answer)}"
        try:
            is_complex = torch.as_tensor(answer).is_complex()
            kind = torch.complex128 if is_complex else torch.float64
            # From the answer again: torch makes a float a float32.
            tensor = torch.as_tensor(answer, dtype=kind).detach().cpu()
        except Exception:
            raise UnreadableAnswer(
                f"{received}, which does not hold numbers."
            ) from None
        if self.shape == () and tensor.numel() == 1:
            tensor = tensor.reshape(())
        if tensor.shape != self.shape:
            raise UnreadableAnswer(
                f"{received}, of shape {tuple(tensor.shape)}."
            )
        return tensor

    def same(self, given: Tensor, other: Tensor) -> bool:
        """Say whether all elements agree; a NaN agrees with a NaN."""
        kind = torch.promote_types(given.dtype, other.dtype)
        finite = other[other.isfinite()].abs()
        size = finite.max().item() if finite.numel() else 0.0
        return torch.allclose(
            given.to(kind),
            other.to(kind),
            rtol=0,
            atol=self.rtol * size,
            equal_nan=True,
        )

    def confirm(self, given: Tensor, solution: Tensor) -> str:
        """Say how well the elements agree."""
        error = (given - solution).abs().max() if given.numel() else 0.0
        return f"The largest difference from what we computed is {error:.1g}."

    def object_to(self, given: Tensor, solution: Tensor) -> str:
        """Quote the element that is farthest from the solution's."""
        # A NaN is farther away than any number.
        error = (
            (given - solution).abs().nan_to_num(nan=math.inf, posinf=math.inf)
        )
        index = tuple(
            i.item() for i in torch.unravel_index(error.argmax(), given.shape)
        )
        return f"The element at {index} is {given[index].item():.6g}."


@dataclass(frozen=True)
class Text(Judge):
    """One of several words.

    Attributes:
        choices: the words that can be chosen.
    """

    choices: Sequence[str]

    sample = '"your word"'

    @property
    def wanted(self) -> str:
        """The kind of answer, with the choice."""
        words = ", ".join(f'"{word}"' for word in self.choices)
        return f"one of {words}"

    def read(self, answer: object) -> str:
        """Take a word, whatever its case and the signs between its parts.

        Args:
            answer: a text; "Backward-Euler" is "backward_euler".

        Returns:
            The word as it stands in ``choices``.

        Raises:
            UnreadableAnswer: if it is none of them.
        """
        received = f"We received {quote(answer)}."
        if not isinstance(answer, str):
            raise UnreadableAnswer(received)
        for word in self.choices:
            if _letters(word) == _letters(answer):
                return word
        raise UnreadableAnswer(received)

    def same(self, given: str, other: str) -> bool:
        """Say whether two words are the same."""
        return given == other

    def confirm(self, given: str, solution: str) -> str:
        """Quote the word."""
        return f'It is "{given}".'

    def object_to(self, given: str, solution: str) -> str:
        """Quote the word."""
        return f'You gave "{given}".'


def _letters(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


class Outcome(NamedTuple):
    """What a function did with one test input.

    Attributes:
        shown: a clause such as "returned 0.5".
        value: what it returned, in double precision; None if it was not what
            was asked for.
    """

    shown: str
    value: Tensor | None


@dataclass(frozen=True)
class Function(Judge):
    """A function, tried on fixed inputs.

    Attributes:
        call: the function's name and parameters, such as
            ``"b_bar(A, B, delta)"``.
        inputs: argument lists; the edge cases belong among them.
        result: the shape of what the function returns, from its arguments.
        rtol: as for :class:`Array`, for each input on its own.
    """

    call: str
    inputs: Sequence[Sequence[Any]]
    result: Callable[..., tuple[int, ...]]
    rtol: float = 1e-10

    @property
    def sample(self) -> str:
        """The name of the function that is asked for."""
        return self.call.partition("(")[0]

    @property
    def wanted(self) -> str:
        """The kind of answer, with the function's parameters."""
        return f"a function `{self.call}`"

    def read(self, answer: object) -> list[Outcome]:
        """Call the function with each input.

        Args:
            answer: a callable; it gets copies, which it may overwrite.

        Returns:
            What it did with each input; an exception is an outcome too, and
            a division by zero counts as a NaN.

        Raises:
            UnreadableAnswer: if it cannot be called.
        """
        if not callable(answer):
            raise UnreadableAnswer(
                f"We received {quote(answer)}. Give the function's name, "
                "without parentheses after it."
            )
        return [self._try(answer, arguments) for arguments in self.inputs]

    def _try(self, function: Callable, arguments: Sequence[Any]) -> Outcome:
        judge = Array(self.result(*arguments), self.rtol)
        try:
            returned = function(*map(_copy, arguments))
        except ZeroDivisionError as error:
            nothing = torch.full(judge.shape, math.nan, dtype=torch.float64)
            return Outcome(_raised(error), nothing)
        except Exception as error:
            return Outcome(_raised(error), None)
        if returned is None:
            return Outcome("returned None (is a `return` missing?)", None)
        try:
            value = judge.read(returned)
        except UnreadableAnswer:
            received = f"returned {quote(returned)}"
            return Outcome(f"{received}, which is not {judge.wanted}", None)
        return Outcome(f"returned {_numbers(value)}", value)

    def _agrees(self, given: Outcome, other: Outcome) -> bool:
        if given.value is None or other.value is None:
            return False
        return Array(other.value.shape, self.rtol).same(
            given.value, other.value
        )

    def same(self, given: list[Outcome], other: list[Outcome]) -> bool:
        """Say whether two functions returned the same for every input."""
        pairs = zip(given, other, strict=True)
        return all(self._agrees(mine, theirs) for mine, theirs in pairs)

    def confirm(self, given: list[Outcome], solution: list[Outcome]) -> str:
        """Say on how many inputs the function was tried."""
        return f"Your function is right on all {len(given)} of our inputs."

    def object_to(self, given: list[Outcome], solution: list[Outcome]) -> str:
        """Quote the first input for which the function is wrong."""
        name = self.call.partition("(")[0]
        for arguments, ours, theirs in zip(
            self.inputs, solution, given, strict=True
        ):
            if self._agrees(theirs, ours):
                continue
            error = _relative_error(theirs.value, ours.value)
            size = f" (relative error {error:.1g})" if error < math.inf else ""
            shown = ", ".join(map(_argument, arguments))
            return f"`{name}({shown})` {theirs.shown}{size}."
        raise ValueError("the two functions agree on every input")


def _copy(argument: Any) -> Any:
    return argument.clone() if isinstance(argument, Tensor) else argument


def _argument(argument: Any) -> str:
    if isinstance(argument, Tensor):
        return _numbers(argument)
    return quote(argument)


def _numbers(tensor: Tensor) -> str:
    if tensor.ndim == 0:
        return f"{tensor.item():.10g}"
    if tensor.ndim == 1 and len(tensor) <= 8:
        return "[" + ", ".join(f"{v:.6g}" for v in tensor.tolist()) + "]"
    return quote(tensor)


def _relative_error(given: Tensor | None, wanted: Tensor) -> float:
    """The largest error over the largest element; infinite where undefined."""
    if given is None or not given.isfinite().all() or not wanted.any():
        return math.inf
    return ((given - wanted).abs().max() / wanted.abs().max()).item()


def _raised(error: Exception) -> str:
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    if len(text) > 160:
        text = text[:160] + " …"
    return f"raised {name}: {text.rstrip('.')}" if text else f"raised {name}"
