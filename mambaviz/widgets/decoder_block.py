"""DecoderBlock: where a Transformer block has its shapes and parameters."""

import math
from typing import NamedTuple

from mambaviz.models.pieces import PIECES
from mambaviz.theory.cost import transformer_layer_weights
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.three_odometers import CHAPTER
from mambaviz.widgets.traits import Choice, Quantity

D_HEAD = 64  # of every GPT-2, from 12 heads to 25
NAMES = {
    "embedding": "Embedding",
    "norm": "Norm",
    "q": "Query Q",
    "k": "Key K",
    "v": "Value V",
    "scores": "Masked weights",
    "o": "Output O",
    "add": "Residual sum",
    "mlp_norm": "Second norm",
    "up": "Feed-forward, up",
    "down": "Feed-forward, down",
    "mlp_add": "Second residual sum",
}


class Part(NamedTuple):
    """One part of a block.

    Attributes:
        weight: the shape of its matrix, or of a norm's scale; empty where it
            has nothing to learn.
        bias: how many numbers it adds.
        shape: of what comes out of it.
    """

    weight: list[int]
    bias: int
    shape: list[int]

    @property
    def parameters(self) -> int:
        """Everything in it that is learned."""
        return (math.prod(self.weight) if self.weight else 0) + self.bias


def parts(d_model: int, length: int) -> dict[str, Part]:
    """The parts of a block, and the embedding before it, for one text.

        matrices  4 d^2 (Q K V O) + 8 d^2 (up and down)    = 12 d^2
        biases    4 d  (Q K V O) + 5 d (up and down)       =  9 d
        norms     a scale and a shift of d each, two times =  4 d

    Args:
        d_model: d, a multiple of ``D_HEAD``.
        length: L, tokens of the text.

    Returns:
        The parts in the order in which a token passes through them.
    """
    d, heads, L = d_model, d_model // D_HEAD, length
    stream, hidden = [1, L, d], [1, L, 4 * d]
    return {
        "embedding": Part([len(PIECES), d], 0, stream),
        "norm": Part([d], d, stream),
        "q": Part([d, d], d, stream),
        "k": Part([d, d], d, stream),
        "v": Part([d, d], d, stream),
        "scores": Part([], 0, [1, heads, L, L]),
        "o": Part([d, d], d, stream),
        "add": Part([], 0, stream),
        "mlp_norm": Part([d], d, stream),
        "up": Part([4 * d, d], 4 * d, hidden),
        "down": Part([d, 4 * d], d, stream),
        "mlp_add": Part([], 0, stream),
    }


def block_parameters(d_model: int) -> dict[str, int]:
    """What a block learns: in "matrices", in the "rest", and in "all"."""
    block = parts(d_model, 1)
    del block["embedding"]
    total = sum(part.parameters for part in block.values())
    matrices = transformer_layer_weights(d_model)
    return {"matrices": matrices, "rest": total - matrices, "all": total}


def written(shape: list[int]) -> str:
    """A shape as text: 1 × 17 × 3,072."""
    return " × ".join(f"{size:,}" for size in shape) or "none"


class DecoderBlock(Explorable):
    """Where in a block are the parameters?

    One layer of a GPT with its matrices to scale: a square holds as many
    weights as d_model times d_model. Each part tells the shape of what comes
    out of it, for one text, and what it has learned. A head is 64 wide, so
    there are d_model / 64 of them.

    Args:
        part: the part that is chosen, a key of ``NAMES``.
        d_model: the width, a multiple of 64 from 64 to 4096.
        length: L, tokens of the text, from 1 to 1024.

    Example:
        >>> DecoderBlock(d_model=768).numbers()["The block, in all"]
        '7,087,872'
    """

    _module = "decoder_block"
    question = "Where in a block are the parameters?"
    lesson = (
        "A block has twelve squares of d_model times d_model weights: four in"
        " its attention, eight in its feed-forward part. Biases and norms add"
        " only 13 times d_model. What a longer text makes larger is not the"
        " weights but what flows between them, and the masked weights of"
        " attention most of all."
    )
    answer = (
        "Choose one part after another, by pointer or with Tab and Enter."
        " A shape is texts × tokens × numbers for each; of the masked weights"
        " it is texts × heads × tokens that ask × tokens looked at."
        " Eight of the twelve squares are the feed-forward part's: it widens"
        " each token to 4 × d_model and narrows it again. Everything else"
        " comes out as wide as it went in, so that it can be added to the"
        " line on the left. Double d_model: the block becomes nearly four"
        " times as large. Double the length: no parameter is added, most"
        " shapes double, and the masked weights become four times as many."
    )
    computed = {
        "mambaviz.widgets.decoder_block.parts": CHAPTER + "#parts-code",
    }

    part = Choice("up", options=NAMES, label="Part")
    d_model = Quantity(
        768,
        low=64,
        high=4096,
        step=64,
        integer=True,
        label="d_model",
        symbol="ink",
        hint="the width, in steps of 64; 768 in the smallest GPT-2",
    )
    length = Quantity(
        17,
        low=1,
        high=1024,
        integer=True,
        label="L",
        symbol="x",
        hint="tokens of the text",
    )

    def numbers(self) -> dict[str, str]:
        """What is chosen, its shapes, and the sum over the block."""
        chosen = parts(self.d_model, self.length)[self.part]
        block = block_parameters(self.d_model)
        return {
            "Chosen": NAMES[self.part],
            "Its weights": written(chosen.weight),
            "Its parameters, bias included": f"{chosen.parameters:,}",
            "What comes out": written(chosen.shape),
            "12 d_model²": f"{block['matrices']:,}",
            "Biases and norms, 13 d_model": f"{block['rest']:,}",
            "The block, in all": f"{block['all']:,}",
        }
