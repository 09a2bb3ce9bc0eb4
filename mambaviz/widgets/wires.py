"""Wires: the two equations as a circuit, with a number on every wire."""

import torch
from jaxtyping import Float
from torch import Tensor

from mambaviz.theory.discretize import discretize_dense
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.maze import CHAPTER
from mambaviz.widgets.traits import Choice, Quantity, Series

PASSING = 0.1  # seconds at a press of the button
LOW, HIGH = -10.0, 10.0


class Wires(Explorable):
    """What flows through the two equations?

    The state equation h' = A h + B x and the output equation y = C h + D x,
    with two numbers in the state, at one moment. The terms can be looked at
    one after the other; then time may pass, with the input held.

    Args:
        A: the four entries of a 2 by 2 matrix, row by row, from -10 to 10.
        B, C: two numbers each, from -10 to 10.
        D: the direct path, from -2 to 2.
        h: the state, two numbers from -100 to 100.
        x: the input, from -2 to 2.
        step: the last term that is shown, ``"b"``, ``"a"``, ``"c"`` or
            ``"d"``.
        skip: ``"on"``, or ``"off"``: the path through D is cut.

    Example:
        >>> Wires().numbers()["y = C h + D x"]
        '1.1'
    """

    _module = "wires"
    question = "What flows through the two equations?"
    lesson = (
        "The input enters through B and pushes the state; the state pushes"
        " itself through A; both together are its rate of change. The output"
        " reads the state through C, and D lets the input past it. On every"
        " wire is the product of what enters it and the matrix it came"
        " through."
    )
    answer = (
        "Go through the four terms in their order; each lights up in the"
        " equations as it comes to its wire. B x: the input pushes"
        " some of the states. A h: each state pushes itself, on the diagonal,"
        " and the other one, off it; set the two entries off the diagonal to"
        " 0 and neither feels the other. Their sum is the rate h′, not the"
        " next state. C h: what shows of the state. D x: what passes it by."
        " Cut D: y changes by D x exactly, no other wire does, and what is"
        " left is the state space model proper. Now let"
        " time pass: h and everything after it changes, while A, B, C and"
        " D stay as they are."
    )
    computed = {
        "mambaviz.theory.lti.simulate_ode": CHAPTER + "#ode-code",
        "mambaviz.theory.discretize.discretize_dense": (
            CHAPTER + "#dense-code"
        ),
    }

    step = Choice(
        "d",
        options={
            "b": "1. B x",
            "a": "2. + A h",
            "c": "3. C h",
            "d": "4. + D x",
        },
        label="Term by term, up to",
    )
    A = Series(
        [0, 1, -4, -1],
        low=LOW,
        high=HIGH,
        shortest=4,
        longest=4,
        label="A",
        symbol="A",
    )
    B = Series(
        [0, 1],
        low=LOW,
        high=HIGH,
        shortest=2,
        longest=2,
        label="B",
        symbol="B",
    )
    C = Series(
        [1, 0],
        low=LOW,
        high=HIGH,
        shortest=2,
        longest=2,
        label="C",
        symbol="C",
    )
    h = Series(
        [0.5, 1],
        low=-100,
        high=100,
        shortest=2,
        longest=2,
        label="h",
        symbol="h",
    )
    x = Quantity(
        1.2, low=-2, high=2, label="x", symbol="x", hint="the input, held"
    )
    D = Quantity(
        0.5, low=-2, high=2, label="D", symbol="D", hint="past the state"
    )
    skip = Choice(
        "on",
        options={"on": "with D", "off": "D is cut"},
        label="The direct path",
    )

    def system(self) -> list[Tensor]:
        """A (2, 2), B, C and h, in float64."""
        tensors = [
            torch.tensor(values, dtype=torch.float64)
            for values in (self.A, self.B, self.C, self.h)
        ]
        return [tensors[0].reshape(2, 2), *tensors[1:]]

    def currents(self) -> dict[str, Tensor]:
        """What is on every wire."""
        A, B, C, h = self.system()
        D = self.D if self.skip == "on" else 0.0
        through_D = torch.tensor(D * self.x, dtype=torch.float64)
        pushed, own = B * self.x, A @ h
        return {
            "Bx": pushed,
            "Ah": own,
            "slope": own + pushed,
            "Ch": C @ h,
            "Dx": through_D,
            "y": C @ h + through_D,
        }

    def later(self, delta: float = PASSING) -> Float[Tensor, " 2"]:
        """The state after a time, the input being held."""
        A, B, _, h = self.system()
        A_bar, B_bar = discretize_dense(A, B, delta)
        return A_bar @ h + B_bar * self.x

    def eigenvalues(self) -> Tensor:
        """Of A, the one with the larger imaginary or real part first."""
        found = torch.linalg.eigvals(self.system()[0]).tolist()
        found.sort(key=lambda value: (-value.imag, -value.real))
        return torch.tensor(found, dtype=torch.complex128)

    def numbers(self) -> dict[str, str]:
        """The numbers on the wires that are reached, as text."""
        on = self.currents()
        steps = self.knob_traits()["step"].options
        reached = list(steps).index(self.step)

        def told(value: Tensor) -> str:
            if value.ndim == 0:
                return f"{value.item():.3g}"
            return ", ".join(f"{v:.3g}" for v in value.tolist())

        wires = (
            (0, "B x", "Bx"),
            (1, "A h", "Ah"),
            (1, "h′ = A h + B x", "slope"),
            (2, "C h", "Ch"),
            (3, "D x", "Dx"),
            (3, "y = C h + D x", "y"),
        )
        return {
            label: told(on[name])
            for step, label, name in wires
            if step <= reached
        }
