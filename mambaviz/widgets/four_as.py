"""FourAs: what four matrices let a best reader read, age by age."""

import functools

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from mambaviz.theory.discretize import discretize_dense, discretize_zoh
from mambaviz.theory.dplr import s4d_lin, s4d_real
from mambaviz.theory.hippo import hippo_legs
from mambaviz.theory.recall import (
    decoder_error,
    smooth_covariance,
    state_kernels,
)
from mambaviz.widgets.draw_and_remember import RandomSystems
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.traits import Quantity

CHAPTER = "chapters/hippo.html"

LENGTH = 200  # inputs in the past
CORRELATION = 8  # steps within which an input hardly changes
MOST = 32
RADIUS = 0.96  # of the random matrix, for each step
HALF = 0.5  # an error below this counts as remembered
NAMES = {
    "lin": "S4D-Lin",
    "legs": "LegS",
    "real": "S4D-Real",
    "random": "random",
}


@functools.cache
def random_systems() -> RandomSystems:
    """The random memories of this explorable."""
    return RandomSystems(MOST, RADIUS, seed=4)


class FourAs(Explorable):
    r"""What does each A let you read?

    Four memories of N numbers hear the same smooth random input; the random
    matrix is one draw, always the same. The best linear decoder reads the
    past back, and each of its numbers is known to so many digits only. Drawn
    is the error that this reader must make, for every age of the input: 0 is
    perfect, 1 is to know nothing.

    Args:
        states: N, even, from 2 to 32.
        span: how many units of time the past of 200 steps takes, from 0.5 to
            16; the step Δ is a two-hundredth of it.
        digits: to how many digits each number is read, from 1 to 10.

    Example:
        >>> FourAs().numbers()["LegS reads back"]
        'all 200 steps'
    """

    _module = "four_as"
    question = "What does each A let you read?"
    lesson = (
        "Four memories with as many numbers are worth very different things."
        " S4D-Lin, a Fourier series that fades, and LegS can be read far"
        " back. S4D-Real, Mamba's A, has the eigenvalues of LegS but needs"
        " many more digits to be read. A random matrix keeps the newest"
        " steps."
    )
    answer = (
        "At the start each number has four digits. Raise the digits: the"
        " curve of S4D-Real comes down to that of LegS, since the one state is"
        " a matrix times the other: they know the same. With few states they"
        " soon meet; with 32, more digits than a computer's double precision"
        " has would be needed. Move the span: with a short one the past is"
        " less than one unit of time, nothing has faded yet, and LegS is"
        " good at all ages; with a long one the oldest inputs have faded in"
        " all four. Take two states: nobody can say much, whatever A is. At"
        " the far left the curves dip: the signal starts abruptly there, and"
        " even a poor memory notices that. The random matrix is one draw; the"
        " figure above has 24."
    )
    computed = {
        "mambaviz.theory.recall.decoder_error": CHAPTER + "#decoder-code",
        "mambaviz.theory.dplr.s4d_lin": CHAPTER + "#lin-code",
        "mambaviz.theory.hippo.hippo_legs": CHAPTER + "#legs-code",
    }

    states = Quantity(
        32,
        low=2,
        high=MOST,
        step=2,
        integer=True,
        label="N",
        symbol="h",
        hint="numbers in each state, in pairs",
    )
    span = Quantity(
        2.0,
        low=0.5,
        high=16.0,
        scale="log",
        label="200 Δ",
        symbol="delta",
        hint="units of time in the past of 200 steps",
    )
    digits = Quantity(
        4,
        low=1,
        high=10,
        integer=True,
        label="Digits",
        symbol="C",
        hint="to which each number of a state is read",
    )

    @traitlets.default("words")
    def _words_with_random(self) -> dict:
        return self._default_words() | {"random": random_systems().words()}

    def kernels(self, kind: str) -> Float[Tensor, "n_real length"]:
        """What each number of a state holds of each past input."""
        n, delta = self.states, self.span / LENGTH
        if kind == "random":
            return state_kernels(*random_systems().system(n), LENGTH)
        if kind == "legs":
            return state_kernels(
                *discretize_dense(*hippo_legs(n), delta), LENGTH
            )
        A = s4d_lin(n) if kind == "lin" else s4d_real(n)
        return state_kernels(
            *discretize_zoh(A, torch.ones_like(A), delta), LENGTH
        )

    def errors(self, kind: str) -> Float[Tensor, " length"]:
        """The error of the best reader, newest input first."""
        covariance = smooth_covariance(LENGTH, CORRELATION)
        return decoder_error(
            self.kernels(kind), covariance, 10.0**-self.digits
        )

    def numbers(self) -> dict[str, str]:
        """How far back each memory can be read."""
        return {
            f"{name} reads back": reach_in_words(self.errors(kind))
            for kind, name in NAMES.items()
        }


def reach(errors: Float[Tensor, " length"]) -> int:
    """How many steps are remembered before the first that is not."""
    return int((errors < HALF).long().cumprod(dim=0).sum())


def reach_in_words(errors: Float[Tensor, " length"]) -> str:
    """The reach as a card says it."""
    steps = reach(errors)
    if steps == len(errors):
        return f"all {steps} steps"
    return f"{steps} step{'' if steps == 1 else 's'}"
