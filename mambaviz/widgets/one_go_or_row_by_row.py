"""OneGoOrRowByRow: one attention matrix, filled at once or row by row."""

from collections.abc import Mapping
from functools import cache

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from mambaviz.models.attention import attention_weights
from mambaviz.models.pieces import PIECES, decode_pieces, encode_pieces
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.three_odometers import CHAPTER
from mambaviz.widgets.traits import Choice, Quantity, Series

SENTENCE = "Hello my name is Maarten and I like tea. Goodbye Maarten"
MOST = 12  # tokens

# Queries and keys, one of each for every piece, under "q" and "k".
Head = Mapping[str, Float[Tensor, "pieces d_head"]]


@cache
def drawn_head(d_head: int = 8, seed: int = 0) -> Head:
    """Queries and keys that nobody trained."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(PIECES), d_head
    kind = {"generator": generator, "dtype": torch.float64}
    return {name: torch.randn(shape, **kind) for name in "qk"}


class OneGoOrRowByRow(Explorable):
    """Must a row wait for the row above?

    A text of up to 12 tokens, and the attention of one head over it. In
    training the whole triangle is there at once, for all tokens are known;
    in generation a row can be computed when its token has been chosen.

    Args:
        head: the head's query and key for each piece of
            ``mambaviz.models.pieces``, under "q" and "k", as a layer without
            positions has them; drawn at random if None.
        tokens: the text, as places in ``PIECES``; see ``encode_pieces``.
        token: which of them is looked at, from 1 on; in generation it is the
            newest.
        way: ``"training"`` or ``"generation"``.

    Example:
        >>> OneGoOrRowByRow(token=3).numbers()["Comparisons row by row"]
        '6'
    """

    _module = "one_go_or_row_by_row"
    question = "Must a row wait for the row above?"
    lesson = (
        "No. Row t of the attention matrix needs the query of token t and the"
        " keys of the tokens up to it, and nothing of another row. In"
        " training all tokens are known, so one product of two matrices gives"
        " all rows. In generation the rows come one by one, because the next"
        " token is not known before the last row has been used."
    )
    answer = (
        "Point at a token: those before it light up, and it can look at each"
        " of them, so L tokens make L(L+1)/2 pairs. Switch to generation and"
        " add tokens: each brings one row, and the rows above stay as they"
        " are. In the end the matrix is that of training; the readout says"
        " how far apart the two are. Now write a text of your own. Words that"
        " the toy knows are one token, anything else goes letter by letter."
        " With the trained weights the token after “Goodbye” has to be the"
        " name, and you see what the row of “Goodbye” looks at."
    )
    computed = {
        "mambaviz.models.attention_weights": CHAPTER + "#weights-code",
        "mambaviz.models.pieces": CHAPTER + "#pieces-code",
    }

    tokens = Series(
        encode_pieces(SENTENCE),
        low=0,
        high=len(PIECES) - 1,
        shortest=1,
        longest=MOST,
        label="Tokens",
        symbol="x",
        hint="up to 12; words the toy knows are one token each",
    )
    way = Choice(
        "training",
        options={
            "training": "Training: in one go",
            "generation": "Generation: row by row",
        },
        label="How the matrix is filled",
    )
    token = Quantity(
        11,
        low=1,
        high=MOST,
        integer=True,
        label="Token",
        symbol="x",
        hint="the one looked at; in generation, the newest",
    )

    def __init__(self, head: Head | None = None, **values):
        self._head = head
        super().__init__(**values)

    @traitlets.default("words")
    def _default_words(self) -> dict:
        head = self._head or drawn_head()
        rounded = {
            name: [[round(v, 3) + 0.0 for v in row] for row in rows.tolist()]
            for name, rows in head.items()
        }
        return super()._default_words() | {
            "pieces": list(PIECES),
            "head": rounded,
            "trained": self._head is not None,
        }

    def weights(self) -> Float[Tensor, "tokens tokens"]:
        """The attention matrix, with the rounded numbers of the picture."""
        ids = [round(token) for token in self.tokens]
        q, k = (
            torch.tensor(self.words["head"][name], dtype=torch.float64)[ids]
            for name in "qk"
        )
        return attention_weights(q[None, None], k[None, None], causal=True)[
            0, 0
        ]

    def numbers(self) -> dict[str, str]:
        """The text, the counts and the row that is looked at, as text."""
        ids = [round(token) for token in self.tokens]
        t = min(self.token, len(ids))
        found = {
            "Text": decode_pieces(ids),
            "Tokens": str(len(ids)),
            "Comparisons in one go": str(len(ids) * (len(ids) + 1) // 2),
            "Comparisons row by row": str(t * (t + 1) // 2),
        }
        row = self.weights()[t - 1, :t].tolist()
        for n, weight in enumerate(row):
            name = f"{t} {PIECES[ids[t - 1]]!r} at {n + 1} {PIECES[ids[n]]!r}"
            found[name] = f"{100 * weight:.3g} %"
        return found
