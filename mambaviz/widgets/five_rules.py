"""FiveRules: five ways from continuous to discrete, and one that leaves."""

import traitlets

from mambaviz.theme import RULES
from mambaviz.theory.discretize import (
    DISCRETIZATION_RULES,
    euler_to_zoh_ratio,
)
from mambaviz.widgets.explorable import ZOH_CHAPTER, Explorable
from mambaviz.widgets.traits import Quantity


class FiveRules(Explorable):
    r"""Which rule keeps a fading state fading?

    A state whose continuous parameter :math:`A` has a negative real part
    fades. One step of length :math:`\Delta` multiplies it by
    :math:`\bar A`, a point of the complex plane that starts at 1 and moves
    as :math:`\Delta` grows. The discrete state fades as long as that point is
    inside the unit circle: always with ZOH, Mamba's code (the same
    :math:`\bar A`), the bilinear rule and backward Euler; with Euler only
    while :math:`\Delta < -2\,\mathrm{Re}\,A / |A|^2`.

    Args:
        delta: the step size Δ, from 0.01 to 4.
        A: the real part of the continuous parameter, from -8 to -0.05.
        frequency: its imaginary part ω, from 0 to 8, in radians per unit of
            time.

    Example:
        >>> widget = FiveRules(A=-1, frequency=0, delta=2.5)
        >>> widget.numbers()["|Ā| of Euler"]
        '1.5, grows'
    """

    _module = "five_rules"
    question = "Which rule keeps a fading state fading?"
    lesson = (
        "With zero-order hold, Mamba's code, the bilinear rule and backward"
        " Euler the factor Ā of one step stays inside the unit circle for"
        " every Δ, so that a fading state keeps fading; with Euler it leaves"
        " the circle when Δ is too large, and the state grows without bound."
    )
    answer = (
        "Every Ā starts at 1 for Δ = 0, in the same direction; then they "
        "part. ZOH winds along the true spiral, and its dots lie on the "
        "curve. Backward Euler bends towards 0 and fades too fast or too "
        "slowly. The bilinear rule runs towards −1, where a state hardly "
        "fades and changes its sign with every step. Euler goes straight on "
        "and leaves the circle; with ω = 0, as in Mamba, all stay on the "
        "real axis, and Euler leaves at −1. Mamba's code has the Ā of ZOH "
        "and a larger B̄: at ω = 0 and Δ|A| = 1.6 it is twice that of ZOH; "
        "this scales what comes in, not what is kept."
    )
    computed = {
        "mambaviz.theory.discretize.DISCRETIZATION_RULES": ZOH_CHAPTER
        + "#rules-code",
        "mambaviz.theory.discretize.euler_to_zoh_ratio": ZOH_CHAPTER
        + "#mamba-code",
    }

    delta = Quantity(
        1.0,
        low=0.01,
        high=6.0,
        scale="log",
        label="Δ",
        symbol="delta",
        hint="the step size: it moves each Ā along its line",
    )
    A = Quantity(
        -0.4,
        low=-8.0,
        high=-0.05,
        scale="log",
        label="Re A",
        symbol="A",
        hint="how fast the true state fades",
    )
    frequency = Quantity(
        1.0,
        low=0.0,
        high=8.0,
        label="ω",
        symbol="A",
        hint="A = Re A + iω: how fast it turns; 0 in Mamba",
    )

    @traitlets.default("words")
    def _words_with_rules(self) -> dict:
        rules = {n: style._asdict() for n, style in RULES.items()}
        return self._default_words() | {"rules": rules}

    def numbers(self) -> dict[str, str]:
        """What each rule multiplies a state by, and what becomes of it."""
        A = complex(self.A, self.frequency)
        ratio = euler_to_zoh_ratio(A, self.delta).abs().item()
        leaves = -2 * A.real / abs(A) ** 2
        numbers = {
            "Δ": f"{self.delta:g}",
            "Re A": f"{self.A:g}",
            "ω": f"{self.frequency:g}",
        }
        for key, label in (
            ("zoh", f"{RULES['zoh'].label}, {RULES['mamba'].label}"),
            ("bilinear", RULES["bilinear"].label),
            ("backward_euler", RULES["backward_euler"].label),
            ("euler", RULES["euler"].label),
        ):
            A_bar, _ = DISCRETIZATION_RULES[key](A, 1.0, self.delta)
            numbers[f"|Ā| of {label}"] = _size_and_fate(A_bar.abs().item())
        return numbers | {
            "Euler leaves the circle at Δ": f"{leaves:.3g}",
            "|B̄| of Mamba's code ÷ ZOH's": f"{ratio:.3g}",
        }


def _size_and_fate(size: float) -> str:
    """A magnitude, in as many digits as tell it from 1, and its meaning."""
    for digits in range(3, 10):
        text = f"{size:.{digits}g}"
        if float(text) != 1:
            break
    fate = "fades" if size < 1 else "grows" if size > 1 else "stays"
    return f"{text}, {fate}"
