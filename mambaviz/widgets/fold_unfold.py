"""FoldUnfold: one recurrent cell, and the chain that it stands for."""

import torch

from mambaviz.models import RNN
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.traits import Quantity

CHAPTER = "chapters/recurrent-networks.html"

WORDS = ("Hello", "my", "name", "is", "Maarten")
INPUTS = (1.0, -0.4, 0.3, 0.6, -0.8)  # one number for each word


class FoldUnfold(Explorable):
    r"""Is a loop anything other than a chain?

    One cell with one state: :math:`h_t = \tanh(w_h h_{t-1} + w_x x_t)`,
    :math:`y_t = w_y h_t`. Folded, it runs once for each word and keeps its
    state; unfolded, it stands there once for each word.

    Args:
        unfolded: how many words have a cell of their own, from 0 to 5.
        w_h: weight of the state before, from -2 to 2.
        w_x: weight of the word, from -2 to 2.
        w_y: weight of the state in the output, from -2 to 2.
        h_0: the state before the first word, from -1 to 1.

    Example:
        >>> FoldUnfold(w_h=0.0).numbers()["h₅"]
        '-0.664'
    """

    _module = "fold_unfold"
    question = "Is a loop anything other than a chain?"
    lesson = (
        "No. The cell with a loop and the chain of five cells compute the"
        " same numbers with the same three weights; the chain only shows all"
        " the moments at once. The sixth word would need no more than the"
        " last state."
    )
    answer = (
        "Unfold the loop word by word: the numbers stay as they are, and so"
        " does the last state, for no cell has weights of its own. Every cell"
        " waits for the one on its left: that arrow is why the chain cannot"
        " be computed all at once. Change h₀, the state before the first"
        " word: it stands for whatever was read before, and nothing else of"
        " that past is needed. With w_h = 0 each word is alone; with w_h near"
        " 1 the first word still shows in the last state."
    )
    computed = {"mambaviz.models.RNN": CHAPTER + "#rnn-states-code"}

    unfolded = Quantity(
        2,
        low=0,
        high=5,
        integer=True,
        label="Unfolded",
        symbol="h",
        hint="how many words have a cell of their own",
    )
    w_h = Quantity(
        0.9,
        low=-2.0,
        high=2.0,
        label="w_h",
        symbol="A",
        hint="from the state before to the state",
    )
    w_x = Quantity(
        1.0,
        low=-2.0,
        high=2.0,
        label="w_x",
        symbol="B",
        hint="from the word to the state",
    )
    w_y = Quantity(
        1.0,
        low=-2.0,
        high=2.0,
        label="w_y",
        symbol="C",
        hint="from the state to the output",
    )
    h_0 = Quantity(
        0.0,
        low=-1.0,
        high=1.0,
        label="h₀",
        symbol="h",
        hint="the state before the first word: all that is left of what was"
        " read earlier",
    )

    def numbers(self) -> dict[str, str]:
        """Every state and output, and the last state both ways, as text."""
        with torch.random.fork_rng(devices=[]):
            layer = RNN(1, 1, 1).double()
        with torch.no_grad():
            for name in ("h", "x", "y"):
                getattr(layer, f"W_{name}").fill_(getattr(self, f"w_{name}"))
            layer.b.zero_()
            layer.b_y.zero_()
            x = torch.tensor(INPUTS, dtype=torch.float64).reshape(1, -1, 1)
            h = torch.full((1, 1), self.h_0, dtype=torch.float64)
            states = layer.states(x, h)
            y = layer.read(states).flatten().tolist()
            for k in range(len(INPUTS)):
                _, h = layer.step(x[:, k], h)
        found = {}
        for k, (word, state) in enumerate(
            zip(WORDS, states.flatten().tolist(), strict=True)
        ):
            found[f"x{_SUB[k]} of “{word}”"] = f"{INPUTS[k]:g}"
            found[f"h{_SUB[k]}"] = f"{state:.3g}"
            found[f"y{_SUB[k]}"] = f"{y[k]:.3g}"
        found["Last state by the loop, step by step"] = f"{h.item():.3g}"
        return found


_SUB = "₁₂₃₄₅"
