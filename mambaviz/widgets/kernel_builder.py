"""KernelBuilder: choose eigenvalues and a step, and see the kernel."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mambaviz.theory.discretize import discretize_dense
from mambaviz.theory.lti import impulse_response, ssm_kernel
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.kernel_slides import CHAPTER
from mambaviz.widgets.traits import Quantity

LENGTH = 48  # how much of the kernel is drawn


class KernelBuilder(Explorable):
    r"""What shapes a kernel?

    Three states: a pair with the eigenvalues :math:`A \pm i\omega`, and one
    alone with its own decay. Their kernel :math:`\bar K_j = C \bar A^j \bar
    B` is a swinging and a plain decay, mixed, and it is the output for the
    input 1, 0, 0, ...

    Args:
        delta: the step, from 0.02 to 1.
        A: the real part of the pair, from -4 to -0.05.
        frequency: :math:`\omega`, its imaginary part, from 0 to 8.
        alone: the third eigenvalue, from -4 to -0.05.
        share: how much of the kernel is the third state's, from 0 to 1.

    Example:
        >>> KernelBuilder(delta=0.5, A=-1.0, frequency=0.0).numbers()["ΔA"]
        '-0.5'
    """

    _module = "kernel_builder"
    question = "What shapes a kernel?"
    lesson = (
        "Every eigenvalue of A gives the kernel one decay, and an imaginary"
        " part makes it swing; Δ stretches the whole. The kernel is the"
        " answer to a single 1, and the recurrence gives the same answer."
    )
    answer = (
        "Move A towards 0: the kernel grows long. Raise ω: it swings, with"
        " the period 2π / (Δω) steps; one under 2 steps cannot be told from a"
        " slower one. Halve Δ: the same curve, in twice as"
        " many steps; A times two and ω times two undo it. Mix in the third"
        " state with a small decay: a quick part and a slow tail in one"
        " kernel. The dots are the recurrence, run on 1, 0, 0, …; they never"
        " leave the bars. In the disc stand the eigenvalues of Ā, and one"
        " step multiplies by them: inside the circle a kernel fades."
    )
    computed = {
        "mambaviz.theory.lti.ssm_kernel": CHAPTER + "#kernel-code",
        "mambaviz.theory.lti.impulse_response": CHAPTER + "#impulse-code",
    }

    delta = Quantity(
        0.15,
        low=0.02,
        high=1.0,
        scale="log",
        label="Δ",
        symbol="delta",
        hint="the step: stretches the kernel",
    )
    A = Quantity(
        -0.5,
        low=-4.0,
        high=-0.05,
        scale="log",
        label="A",
        symbol="A",
        hint="decay of the pair",
    )
    frequency = Quantity(
        2.5,
        low=0.0,
        high=8.0,
        label="ω",
        symbol="A",
        hint="imaginary part of the pair: how fast it swings",
    )
    alone = Quantity(
        -0.2,
        low=-4.0,
        high=-0.05,
        scale="log",
        label="A₃",
        symbol="A",
        hint="decay of the third state, which does not swing",
    )
    share = Quantity(
        0.3,
        low=0.0,
        high=1.0,
        label="Share",
        symbol="C",
        hint="how much of the kernel is the third state's",
    )

    def system(
        self,
    ) -> tuple[Float[Tensor, "3 3"], Float[Tensor, " 3"], Float[Tensor, " 3"]]:
        """The discrete system: A_bar and B_bar by zero-order hold, and C."""
        A, w = self.A, self.frequency
        matrix = torch.tensor(
            [[A, -w, 0.0], [w, A, 0.0], [0.0, 0.0, self.alone]],
            dtype=torch.float64,
        )
        # Each part alone would lead a constant 1 to 1 if it did not swing.
        B = torch.tensor([-A, 0.0, -self.alone], dtype=torch.float64)
        C = torch.tensor(
            [1 - self.share, 0.0, self.share], dtype=torch.float64
        )
        return *discretize_dense(matrix, B, self.delta), C

    def numbers(self) -> dict[str, str]:
        """Sizes, period, first values and both ways to them, as text."""
        A_bar, B_bar, C = self.system()
        K_bar = ssm_kernel(A_bar, B_bar, C, LENGTH)
        answer = impulse_response(A_bar, B_bar, C, 0.0, LENGTH)
        gap = (K_bar - answer).abs().max().item()
        swing = self.delta * self.frequency
        period = f"{2 * math.pi / swing:.3g} steps" if swing else "none"
        if swing > math.pi:
            # Faster than that, a swing looks like a slower one at whole steps.
            period = "under 2 steps"
        return {
            "ΔA": f"{self.delta * self.A:.3g}",
            "Period": period,
            "Half-life of the pair": (
                f"{math.log(2) / (self.delta * -self.A):.3g} steps"
            ),
            "Half-life of the third state": (
                f"{math.log(2) / (self.delta * -self.alone):.3g} steps"
            ),
            "K̄ begins": ", ".join(f"{v:.3g}" for v in K_bar[:5].tolist()),
            "Kernel against impulse response": (
                "0 within rounding" if gap < 1e-12 else f"{gap:.3g}"
            ),
        }
