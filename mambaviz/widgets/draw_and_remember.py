"""DrawAndRemember: draw a signal and see which ages a state keeps."""

import functools
import math

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from mambaviz.theory.discretize import discretize_dense, linear_recurrence
from mambaviz.theory.hippo import (
    Measure,
    hippo_legs,
    hippo_legt,
    hold_ages,
    reconstruct,
    scaled_legs_states,
)
from mambaviz.theory.recall import (
    error_by_age,
    optimal_decoder,
    smooth_covariance,
    state_kernels,
)
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.traits import Choice, Quantity, Series

CHAPTER = "chapters/hippo.html"

LENGTH = 64  # steps in the picture
MOST = 24  # numbers in a state, at most
PARTS = 5  # of the past, for the error by age
# How the random memory is read: for inputs smooth over this many steps, each
# number of the state to this relative error.
CORRELATION = 3
PRECISION = 0.01
RADIUS = 0.9

System = tuple[Float[Tensor, "d_state d_state"], Float[Tensor, " d_state"]]


class RandomSystems:
    """Random systems of every size, all of them corners of the largest.

        A_bar = rho G_N / rho(G_N),   B_bar = g_N

    G and g are standard normal, in three decimals so that a page can carry
    them; G_N is the upper left N by N corner.

    Args:
        most: the largest N.
        radius: rho, the spectral radius of every one.
        seed: of G, then g.
    """

    def __init__(self, most: int, radius: float, seed: int):
        generator = torch.Generator().manual_seed(seed)
        G = torch.randn(most, most, generator=generator, dtype=torch.float64)
        g = torch.randn(most, generator=generator, dtype=torch.float64)
        self.G, self.g = G.round(decimals=3), g.round(decimals=3)
        self.scales = [
            radius / torch.linalg.eigvals(self.G[:n, :n]).abs().max().item()
            for n in range(1, most + 1)
        ]

    def system(self, d_state: int) -> System:
        """A_bar and B_bar of N = ``d_state`` numbers."""
        n = d_state
        return self.scales[n - 1] * self.G[:n, :n], self.g[:n]

    def words(self) -> dict:
        """What a page needs: ``G``, ``g`` and the factor for every N."""
        return {
            "G": self.G.tolist(),
            "g": self.g.tolist(),
            "scales": self.scales,
        }


@functools.cache
def random_systems() -> RandomSystems:
    """The random memories of this explorable."""
    return RandomSystems(MOST, RADIUS, seed=1)


def _wave(k: int) -> float:
    """Alike at every age, so that only the memory tells ages apart."""
    slow = 0.5 * math.sin(2 * math.pi * (k + 4) / 40)
    quick = 0.35 * math.sin(2 * math.pi * k / 19)
    return round(slow + quick, 2)


class DrawAndRemember(Explorable):
    r"""What can N numbers keep of a signal?

    The state hears a signal, one value a step, and keeps N numbers. Four
    memories, and the past as each of them can read it back from the state
    alone: scaled LegS, which fits a polynomial to all of the past; LegT, the
    same for a window of the last ``horizon`` steps; the matrix of LegS used
    time-invariantly, whose weights fade as :math:`e^{-a/\tau}` with
    :math:`\tau` = ``horizon``; and a random matrix, read by the best linear
    decoder for smooth inputs. The numbers of the first three are coefficients
    of Legendre polynomials, and may be moved by hand.

    Args:
        states: N, how many numbers are kept, from 1 to 24.
        memory: ``"legs"``, ``"legt"``, ``"fading"`` (LegS, time-invariant) or
            ``"random"``.
        horizon: the window of LegT or the time constant of the time-invariant
            memory, from 8 to 64 steps; the two others have none.
        now: how many steps have been heard, from 5 to 64.
        samples: the signal, 64 numbers from -1 to 1.
        moved: how far each number of the state was moved by hand, 24 numbers
            of which the first N count; the random memory takes no notice.

    Example:
        >>> DrawAndRemember(states=24).numbers()["Correlation"]
        '1'
    """

    _module = "draw_and_remember"
    question = "What can a few numbers keep of a signal?"
    lesson = (
        "A state of N numbers can hold the best fit of a polynomial to all it"
        " has heard. Which ages are fitted is decided by the matrix: scaled"
        " LegS fits all of the past equally, LegT a window, and the same"
        " LegS matrix used time-invariantly forgets exponentially. A random"
        " matrix keeps next to nothing beyond the newest steps."
    )
    answer = (
        "Draw, or put the pen on the picture and use the arrow keys. The"
        " thick line is read from the N numbers below and from nothing else."
        " With scaled LegS it follows all of the past, in the rough;"
        " raise N and finer detail appears, at every age alike. Press Play"
        " and the state takes in one value after the other: the same"
        " N numbers stretch over an ever longer past. LegT follows the newest"
        " part only and knows nothing of what lies before its window."
        " The time-invariant LegS is sharp near now and blunt far back, and"
        " the oldest part is lost: the recency belongs to this use of"
        " the matrix, not to the matrix. The random memory has as many"
        " numbers as the others, and wastes them. Drag one of the N numbers,"
        " or move it with the keys: the thin line is its own curve, which"
        " grows and shrinks with it, and the thick line is the sum of all. In"
        " scaled LegS no number can be moved without making the whole error"
        " larger."
    )
    computed = {
        "mambaviz.theory.hippo.scaled_legs_states": CHAPTER + "#scaled-code",
        "mambaviz.theory.hippo.hippo_legt": CHAPTER + "#legt-code",
        "mambaviz.theory.hippo.reconstruct": CHAPTER + "#reading-code",
        "mambaviz.theory.recall.optimal_decoder": CHAPTER + "#decoder-code",
    }

    memory = Choice(
        "legs",
        options={
            "legs": "LegS, scaled: all of the past",
            "legt": "LegT: a window",
            "fading": "LegS, time-invariant",
            "random": "a random matrix",
        },
        label="The memory",
    )
    states = Quantity(
        12,
        low=1,
        high=MOST,
        integer=True,
        label="N",
        symbol="h",
        hint="how many numbers the state keeps",
    )
    horizon = Quantity(
        16,
        low=8,
        high=LENGTH,
        integer=True,
        label="θ, τ",
        symbol="delta",
        unit="steps",
        hint="window of LegT, time constant of the time-invariant LegS",
    )
    now = Quantity(
        LENGTH,
        low=PARTS,
        high=LENGTH,
        integer=True,
        label="now",
        symbol="x",
        unit="steps",
        hint="how much of the signal has been heard",
    )
    samples = Series(
        [_wave(k) for k in range(LENGTH)],
        low=-1.0,
        high=1.0,
        shortest=LENGTH,
        longest=LENGTH,
        label="The signal",
        symbol="x",
    )
    moved = Series(
        [0.0] * MOST,
        low=-2.0,
        high=2.0,
        shortest=MOST,
        longest=MOST,
        label="Moved by hand",
        symbol="h",
    )

    @traitlets.default("words")
    def _words_with_random(self) -> dict:
        return self._default_words() | {"random": random_systems().words()}

    def state(self) -> Float[Tensor, " d_state"]:
        """The numbers that are read: those heard, as moved by hand."""
        h = self.heard()
        if self.memory == "random":
            return h
        return h + torch.tensor(self.moved[: self.states], dtype=h.dtype)

    def heard(self) -> Float[Tensor, " d_state"]:
        """The state after the last step heard."""
        x = torch.tensor(self.samples[: self.now], dtype=torch.float64)
        if self.memory == "legs":
            return scaled_legs_states(x, self.states)[-1]
        return linear_recurrence(*self.system(), x)[-1]

    def system(self) -> System:
        """A_bar and B_bar of a memory whose steps are all alike."""
        if self.memory == "legt":
            A, B = hippo_legt(self.states, self.horizon)
            return discretize_dense(A, B, 1.0)
        if self.memory == "fading":
            return discretize_dense(*hippo_legs(self.states), 1 / self.horizon)
        return random_systems().system(self.states)

    def reading(self) -> Float[Tensor, " length"]:
        """The past as read from the state, oldest first."""
        if self.memory == "random":
            kernels = state_kernels(*self.system(), self.now)
            covariance = smooth_covariance(self.now, CORRELATION)
            W = optimal_decoder(kernels, covariance, PRECISION)
            return (W @ self.state()).flip(0)
        measure, horizon = self.measure()
        ages = hold_ages(self.now)
        return reconstruct(self.state(), ages, measure, horizon)

    def measure(self) -> tuple[Measure, int]:
        """How the past is weighted, and over what horizon."""
        if self.memory == "legs":
            return "uniform", self.now
        if self.memory == "legt":
            return "uniform", self.horizon
        return "exponential", self.horizon

    def numbers(self) -> dict[str, str]:
        """How alike signal and reading are, and the error by age."""
        x = torch.tensor(self.samples[: self.now], dtype=torch.float64)
        reading = self.reading()
        told = {
            "The memory": self.knob_traits()["memory"].options[self.memory],
            "Kept": f"{self.states} for {self.now} heard",
        }
        if not x.any():
            return told | {"The signal": "0 throughout"}
        errors = error_by_age(reading, x, PARTS)
        whole = error_by_age(reading, x, 1)
        alike = torch.corrcoef(torch.stack([reading, x]))[0, 1].item()
        return told | {
            "Correlation": (
                "undefined" if math.isnan(alike) else f"{alike:.3g}"
            ),
            "Error, all of it": f"{whole.item():.3g}",
            "Error, newest fifth": f"{errors[-1].item():.3g}",
            "Error, oldest fifth": f"{errors[0].item():.3g}",
        }
