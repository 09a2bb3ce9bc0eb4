"""SignFlip: the matrix of LegS with its sign, and with the other one."""

from jaxtyping import Float
from torch import Tensor

from mambaviz.theory.discretize import discretize_dense
from mambaviz.theory.hippo import hippo_legs, power_norms
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.traits import Choice, Quantity

CHAPTER = "chapters/hippo.html"

STEPS = 100


class SignFlip(Explorable):
    r"""What if the HiPPO matrix had the other sign?

    The matrix of LegS has the eigenvalues -1, -2, ..., -N. With the other
    sign they are 1, 2, ..., N, and a state without any input grows. Drawn is
    the norm of :math:`\bar A^k`, the most that k steps leave of a state, for
    the zero-order hold.

    Args:
        sign: ``"minus"`` or ``"plus"``.
        states: N, from 1 to 12.
        delta: the step, from 0.01 to 0.25.

    Example:
        >>> SignFlip(sign="plus").numbers()["Left after 100 steps, at most"]
        '1.9e+38'
    """

    _module = "sign_flip"
    question = "What if the HiPPO matrix had the other sign?"
    lesson = (
        "With the minus sign all eigenvalues are negative and every state"
        " fades. With a plus sign, as some texts print the matrix, they are"
        " positive: with 8 states and a step of 0.1, a hundred steps multiply"
        " a state by up to 2·10³⁸."
    )
    answer = (
        "Turn the sign: the crosses move from the left half of the line to"
        " the right, and the curve, whose axis counts powers of ten, turns"
        " from a decay into an explosion. The numbers in the matrix are the"
        " same but for their sign. With the minus sign the norm first stays"
        " up before it falls, and longer for more states: the eigenvalues"
        " alone do not tell how a state fades, since the eigenvectors of this"
        " matrix are far from perpendicular. Take a single state: then they"
        " do."
    )
    computed = {
        "mambaviz.theory.hippo.hippo_legs": CHAPTER + "#legs-code",
        "mambaviz.theory.hippo.power_norms": CHAPTER + "#norms-code",
    }

    sign = Choice(
        "plus",
        options={
            "minus": "−, as it must be",
            "plus": "+, as sometimes printed",
        },
        label="The sign of A",
    )
    states = Quantity(
        8,
        low=1,
        high=12,
        integer=True,
        label="N",
        symbol="h",
        hint="how many numbers the state has",
    )
    delta = Quantity(
        0.1,
        low=0.01,
        high=0.25,
        scale="log",
        label="Δ",
        symbol="delta",
        hint="the step",
    )

    def norms(self) -> Float[Tensor, " n_norms"]:
        """The norm of A_bar^k for every k from 0 to 100."""
        A, B = hippo_legs(self.states, sign=1 if self.sign == "plus" else -1)
        A_bar, _ = discretize_dense(A, B, self.delta)
        return power_norms(A_bar, STEPS)

    def numbers(self) -> dict[str, str]:
        """The eigenvalues, and what is left at most."""
        norms = self.norms()
        mark = "" if self.sign == "plus" else "−"
        last = f" to {mark}{self.states}" if self.states > 1 else ""
        return {
            "The sign of A": self.knob_traits()["sign"].options[self.sign],
            "Eigenvalues of A": f"{mark}1{last}",
            "Left after 10 steps, at most": f"{norms[10].item():.2g}",
            "Left after 100 steps, at most": f"{norms[-1].item():.2g}",
        }
