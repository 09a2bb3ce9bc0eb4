"""DrawASignal: draw x(t), and see the state and the output follow."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mambaviz.theory.discretize import discretize_dense, linear_recurrence
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.maze import CHAPTER
from mambaviz.widgets.traits import Choice, Quantity, Series

LENGTH = 60  # values that can be drawn
DELTA = 0.1  # seconds that each is held
SUBSTEPS = 4  # points of the curves within a hold


def _push(k: int) -> float:
    """A push one way, and later a longer one back."""
    return 0.8 if 4 <= k < 16 else -0.5 if 28 <= k < 46 else 0.0


class DrawASignal(Explorable):
    r"""What does a state make of a signal?

    The input pushes a mass on a spring with a damper. The state has two
    numbers, the position and the velocity, the latter in units that make both
    equally large:

    .. math::
        A = \begin{pmatrix} 0 & \omega \\ -\omega & -2 \zeta \omega
        \end{pmatrix}, \qquad B = \begin{pmatrix} 0 \\ \omega \end{pmatrix}

    Args:
        omega: how fast it swings, in rad/s, from 0.5 to 6.
        zeta: its damping over the critical one, from 0.05 to 2.
        D: the direct path, from -1 to 1.
        reads: ``"position"``, C = (1, 0), or ``"velocity"``, C = (0, 1).
        samples: the input, 60 values from -1 to 1, each held for 0.1 s.

    Example:
        >>> DrawASignal(zeta=1.0).numbers()["Eigenvalues of A"]
        '-2.5, -2.5'
    """

    _module = "draw_a_signal"
    question = "What does a state make of a signal?"
    lesson = (
        "The input is a function of time, and so are the state and the"
        " output. The state lags behind the input, overshoots and rings,"
        " as A lets it; the output is what C reads from the state, with the"
        " input itself added through D."
    )
    answer = (
        "Draw with mouse, finger or pen, or move the pen with the arrow"
        " keys. A sudden step in the input never gives a step in the state:"
        " it takes time to move. Lower the damping: it rings on after the"
        " input is gone, so the present state tells of the past. Raise it:"
        " at 1 it returns as fast as it can without swinging over, above"
        " that it creeps. Read the velocity instead of the position: the"
        " state is the same, C alone has changed. Turn up D: now the edges"
        " of the input show in the output, and nothing changes in h."
    )
    computed = {
        "mambaviz.theory.lti.simulate_ode": CHAPTER + "#ode-code",
        "mambaviz.theory.discretize.linear_recurrence": (
            "chapters/zero-order-hold.html#recurrence-code"
        ),
    }

    samples = Series(
        [_push(k) for k in range(LENGTH)],
        low=-1.0,
        high=1.0,
        shortest=LENGTH,
        longest=LENGTH,
        label="The input",
        symbol="x",
    )
    omega = Quantity(
        2.5,
        low=0.5,
        high=6.0,
        label="ω",
        symbol="A",
        unit="rad/s",
        hint="how stiff the spring is",
    )
    zeta = Quantity(
        0.25,
        low=0.05,
        high=2.0,
        scale="log",
        label="ζ",
        symbol="A",
        hint="damping; at 1, critical",
    )
    D = Quantity(
        0.0,
        low=-1.0,
        high=1.0,
        label="D",
        symbol="D",
        hint="how much of the input passes by",
    )
    reads = Choice(
        "position",
        options={
            "position": "C = (1, 0): the position",
            "velocity": "C = (0, 1): the velocity",
        },
        label="What the output reads",
    )

    def oscillator(self) -> tuple[Float[Tensor, "2 2"], Float[Tensor, " 2"]]:
        """A and B."""
        w = self.omega
        A = [[0, w], [-w, -2 * self.zeta * w]]
        return (
            torch.tensor(A, dtype=torch.float64),
            torch.tensor([0, w], dtype=torch.float64),
        )

    def respond(
        self,
    ) -> tuple[Float[Tensor, "length 2"], Float[Tensor, " length"]]:
        """State and output at the ends of the quarters of all holds."""
        bars = discretize_dense(*self.oscillator(), DELTA / SUBSTEPS)
        x = torch.tensor(self.samples, dtype=torch.float64)
        x = x.repeat_interleave(SUBSTEPS)
        h = linear_recurrence(*bars, x)
        return h, h[:, int(self.reads == "velocity")] + self.D * x

    def numbers(self) -> dict[str, str]:
        """The extremes of input and output, and the eigenvalues."""
        h, y = self.respond()
        w, zeta = self.omega, self.zeta
        if zeta < 1:
            swing = w * math.sqrt(1 - zeta**2)
            values = f"{-zeta * w:.3g} ± {swing:.3g} i"
        else:
            apart = w * math.sqrt(zeta**2 - 1)
            values = f"{-zeta * w + apart:.3g}, {-zeta * w - apart:.3g}"
        return {
            "Eigenvalues of A": values,
            "Largest |x|": f"{max(map(abs, self.samples)):.3g}",
            "Largest |h|": f"{h.abs().max().item():.3g}",
            "Largest |y|": f"{y.abs().max().item():.3g}",
            "h at the end": ", ".join(f"{v:.3g}" for v in h[-1].tolist()),
        }
