"""The knobs of an explorable: values with a range, a unit and a name.

Each is a trait that refuses what makes no sense, and describes itself to the
JavaScript side, so that a slider, a typed number, a shared link and a Python
assignment all obey the same limits.
"""

import math
from collections.abc import Mapping, Sequence

import traitlets


class Knob(traitlets.TraitType):
    """What all knobs share: a label, and a description for JavaScript."""

    kind = ""

    def describe(self) -> dict:
        """What JavaScript needs to show this knob and to guard it."""
        return {"kind": self.kind, "label": self.label, "hint": self.hint}

    def refuse(self, value: object, wanted: str) -> None:
        """Raise the error that names the value and says what is right."""
        raise traitlets.TraitError(
            f"{self.name} must be {wanted}; you gave {value!r}"
        )


def _real(value: object) -> float | None:
    """A finite float, or None where the value is no such thing."""
    if isinstance(value, bool | str | bytes):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


class Quantity(Knob):
    """A number within bounds, moved by a slider.

    Args:
        default: where the slider stands at first.
        low, high: the bounds, both allowed.
        label: the name beside the slider, such as ``"Δ"``.
        symbol: the palette's name of the quantity, for its colour.
        scale: ``"linear"``, or ``"log"`` for a range of one sign.
        integer: whether only whole numbers are allowed.
        step: of a whole number, what it must be a multiple of.
        unit: shown behind the number.
        hint: one short sentence below the slider.
    """

    kind = "quantity"

    def __init__(
        self,
        default: float,
        *,
        low: float,
        high: float,
        label: str,
        symbol: str = "ink",
        scale: str = "linear",
        integer: bool = False,
        step: int = 1,
        unit: str = "",
        hint: str = "",
    ):
        self.low, self.high, self.label, self.symbol = low, high, label, symbol
        self.scale, self.integer, self.step = scale, integer, step
        self.unit, self.hint = unit, hint
        super().__init__(default)
        self.tag(sync=True)

    def validate(self, obj: object, value: object) -> float | int:
        """The number itself, or an error with the bounds in it."""
        number = _real(value)
        whole = "a whole number" if self.integer else "a number"
        if self.step > 1:
            whole = f"a multiple of {self.step}"
        wanted = f"{whole} from {self.low:g} to {self.high:g}"
        if number is None or not self.low <= number <= self.high:
            self.refuse(value, wanted)
        if not self.integer:
            return number
        if number % self.step:
            self.refuse(value, wanted)
        return int(number)

    def describe(self) -> dict:
        """Bounds, scale and names, for the slider."""
        return super().describe() | {
            "low": self.low,
            "high": self.high,
            "scale": self.scale,
            "integer": self.integer,
            "step": self.step,
            "symbol": self.symbol,
            "unit": self.unit,
        }


class Choice(Knob):
    """One of a few named options, shown as buttons of which one is pressed.

    Args:
        default: the option at first.
        options: what each option is called in the picture.
        label: the name of the group of buttons.
        hint: one short sentence below it.
    """

    kind = "choice"

    def __init__(
        self,
        default: str,
        *,
        options: Mapping[str, str],
        label: str,
        hint: str = "",
    ):
        self.options, self.label, self.hint = dict(options), label, hint
        super().__init__(default)
        self.tag(sync=True)

    def validate(self, obj: object, value: object) -> str:
        """The option itself, or an error with the options in it."""
        if not isinstance(value, str) or value not in self.options:
            self.refuse(value, f"one of {', '.join(self.options)}")
        return value

    def describe(self) -> dict:
        """The options and their names, for the buttons."""
        return super().describe() | {"options": self.options}


class Series(Knob):
    """A short list of numbers within bounds, such as an input's samples.

    Args:
        default: the numbers at first.
        low, high: the bounds of every number.
        shortest, longest: how many numbers there may be.
        label: the name of the series.
        symbol: the palette's name of the quantity, for its colour.
        hint: one short sentence below it.
    """

    kind = "series"

    def __init__(
        self,
        default: Sequence[float],
        *,
        low: float,
        high: float,
        shortest: int,
        longest: int,
        label: str,
        symbol: str = "ink",
        hint: str = "",
    ):
        self.low, self.high, self.label, self.symbol = low, high, label, symbol
        self.shortest, self.longest, self.hint = shortest, longest, hint
        super().__init__(tuple(default))
        self.tag(sync=True)

    def validate(self, obj: object, value: object) -> list[float]:
        """The numbers as a new list, or an error with the bounds in it."""
        count = f"{self.longest}"
        if self.shortest < self.longest:
            count = f"{self.shortest} to {count}"
        wanted = f"{count} numbers from {self.low:g} to {self.high:g}"
        try:
            items = list(value)
        except TypeError:
            self.refuse(value, wanted)
        numbers = [_real(item) for item in items]
        if not self.shortest <= len(numbers) <= self.longest or any(
            n is None or not self.low <= n <= self.high for n in numbers
        ):
            self.refuse(value, wanted)
        return numbers

    def describe(self) -> dict:
        """Bounds and length, for the handles."""
        return super().describe() | {
            "low": self.low,
            "high": self.high,
            "shortest": self.shortest,
            "longest": self.longest,
            "symbol": self.symbol,
        }
