"""OneGoOrRowByRow: one attention matrix, filled at once or row by row."""

import base64
import copy
from functools import cache

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from mambaviz.models import (
    TransformerLM,
    recorded_weights,
    token_probabilities,
)
from mambaviz.models.pieces import PIECES, decode_pieces, encode_pieces
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.three_odometers import CHAPTER
from mambaviz.widgets.traits import Choice, Quantity, Series

SENTENCE = "Hello my name is Maarten and I like tea. Goodbye Maarten"
MOST = 17  # tokens: a whole text of the kind that the writer has read
SHOWN = 5  # bars of next tokens; another has all the rest


@cache
def drawn_writer(
    pieces: int = len(PIECES),
    d_model: int = 32,
    n_heads: int = 4,
    seed: int = 0,
) -> TransformerLM:
    """A writer of one layer that nobody trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = TransformerLM(
            pieces,
            d_model,
            1,
            n_heads,
            positions="none",
            tie_embeddings=False,
        )
    for weight in model.parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        weight.data = drawn * (0.5 if weight.ndim == 2 else 0.1)
    for norm in (model.norm, model.layers[0].norm, model.layers[0].mlp_norm):
        norm.weight.data += 1
    return model.eval().requires_grad_(False)


def packed(model: TransformerLM) -> dict:
    """A writer as JavaScript gets it: its shapes, and all weights in a row.

    The weights are single precision and little-endian, in base64.
    """
    weights = model.state_dict()
    flat = torch.cat([weight.flatten() for weight in weights.values()])
    numbers = flat.float().cpu().numpy().astype("<f4").tobytes()
    return {
        "n_heads": model.layers[0].attention.n_heads,
        "shapes": {name: list(w.shape) for name, w in weights.items()},
        "weights": base64.b64encode(numbers).decode("ascii"),
    }


class OneGoOrRowByRow(Explorable):
    """Must a row wait for the row above?

    A text of up to 17 tokens, the attention of one head over it, and what a
    writer of one layer without positions expects after each token. In
    training the whole triangle is there at once, for all tokens are known; in
    generation a row can be computed when its token has been chosen.

    Args:
        writer: a model over ``mambaviz.models.pieces``, of one layer and
            without positions; one that nobody trained if None.
        head: which of its heads is shown, from 1.
        tokens: the text, as places in ``PIECES``; see ``encode_pieces``.
        token: which of them is looked at, from 1 on; in generation it is the
            newest.
        way: ``"training"`` or ``"generation"``.
        pick: how the writer chooses the next token: ``"drawn"`` from its
            probabilities, or the ``"likeliest"``.
        seed: of what is drawn, from 1 to 20.

    Raises:
        ValueError: a writer with more layers or with positions, or a head
            that it does not have.

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
        " token is drawn from what the last row has led to. Each token leaves"
        " one key and one value, and they stay as they are."
    )
    answer = (
        "Point at a token: those before it light up, and it can look at each"
        " of them, so L tokens make L(L+1)/2 pairs. The bars say what the"
        " model expects after it; in training that is held against the text,"
        " for all tokens at once, and a tick marks what the text has. Now"
        " press Next token: the model draws one from the bars, and it brings"
        " one row, one key and one value, while those before stay as they"
        " are. Switch to training: the matrix is the same, and the readout"
        " says how far apart the two are. Choose an early token and another"
        " seed, and another text is written; the likeliest token needs no"
        " chance. Or write a text of your own. Words that the toy knows are"
        " one token, anything else goes letter by letter. With the trained"
        " weights the token after “Goodbye” has to be the name, and you see"
        " what the row of “Goodbye” looks at."
    )
    computed = {
        "mambaviz.models.attention_weights": CHAPTER + "#weights-code",
        "mambaviz.models.pieces": CHAPTER + "#pieces-code",
        "mambaviz.models.TransformerBlock": CHAPTER + "#block-code",
    }

    tokens = Series(
        encode_pieces(SENTENCE),
        low=0,
        high=len(PIECES) - 1,
        shortest=1,
        longest=MOST,
        label="Tokens",
        symbol="x",
        hint="up to 17; words the toy knows are one token each",
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
    pick = Choice(
        "drawn",
        options={"drawn": "Drawn by chance", "likeliest": "The likeliest"},
        label="The next token",
    )
    seed = Quantity(
        7,
        low=1,
        high=20,
        integer=True,
        label="Seed",
        symbol="y",
        hint="of the chance: the same seed, the same text",
    )

    def __init__(
        self, writer: TransformerLM | None = None, head: int = 1, **values
    ):
        self._is_trained = writer is not None
        writer = writer or drawn_writer()
        _expect_writer(writer, head)
        # Of the same numbers, so that Python and JavaScript agree.
        self._writer = copy.deepcopy(writer).float().double()
        self._head = head
        super().__init__(**values)

    @traitlets.default("words")
    def _default_words(self) -> dict:
        return super()._default_words() | {
            "pieces": list(PIECES),
            "writer": packed(self._writer),
            "head": self._head,
            "trained": self._is_trained,
        }

    def _ids(self) -> list[int]:
        return [round(token) for token in self.tokens]

    def weights(self) -> Float[Tensor, "tokens tokens"]:
        """The attention matrix of the head that is shown."""
        with recorded_weights(self._writer) as seen:
            self._writer(torch.tensor([self._ids()]))
        return seen["layers.0.attention"][0][0, self._head - 1]

    def next_probabilities(self) -> Float[Tensor, " pieces"]:
        """What the writer expects after the token that is looked at."""
        ids = torch.tensor([self._ids()[: self.token]])
        return token_probabilities(self._writer(ids, last_only=True)[:, -1])[0]

    def numbers(self) -> dict[str, str]:
        """The text, the counts and the row that is looked at, as text."""
        ids = self._ids()
        t = min(self.token, len(ids))
        kept = 2 * self._writer.embedding.embedding_dim
        found = {
            "Text": decode_pieces(ids),
            "Tokens": str(len(ids)),
            "Comparisons in one go": str(len(ids) * (len(ids) + 1) // 2),
            "Comparisons row by row": str(t * (t + 1) // 2),
            "Numbers kept, row by row": f"{t} × {kept} = {t * kept:,}",
        }
        row = self.weights()[t - 1, :t].tolist()
        for n, weight in enumerate(row):
            name = f"{t} {PIECES[ids[t - 1]]!r} at {n + 1} {PIECES[ids[n]]!r}"
            found[name] = f"{100 * weight:.3g} %"
        likeliest, places = self.next_probabilities().topk(SHOWN)
        for p, n in zip(likeliest.tolist(), places.tolist(), strict=True):
            found[f"Next may be {PIECES[n]!r}"] = f"{100 * p:.3g} %"
        return found


def _expect_writer(writer: TransformerLM, head: int) -> None:
    layers, positions = len(writer.layers), writer.embedding.positions
    attention = writer.layers[0].attention
    if layers != 1 or {positions, attention.positions} != {"none"}:
        raise ValueError(
            "the picture computes a writer of one layer without positions; "
            f"got {layers} layers, positions {positions!r} and "
            f"{attention.positions!r}"
        )
    if not 1 <= head <= attention.n_heads:
        raise ValueError(
            f"head must be from 1 to {attention.n_heads}; got {head}"
        )
