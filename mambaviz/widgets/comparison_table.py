"""ComparisonTable: what a token costs three kinds of network."""

import math
from collections.abc import Mapping, Sequence

import traitlets

from mambaviz.theory.cost import (
    attention_flops,
    kv_cache_bytes,
    linear_flops,
    scores_with_cache,
    transformer_layer_weights,
)
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.fold_unfold import CHAPTER
from mambaviz.widgets.traits import Quantity

# As many parameters in matrices as one Transformer layer's 12 d^2, where d is
# d_model: a layer of a tanh RNN has three of d^2, a diagonal recurrence two.
LAYERS = {"transformer": 1, "rnn": 4, "linear": 6}
NAMES = {
    "transformer": "Transformer",
    "rnn": "RNN, tanh",
    "linear": "Linear recurrence",
}
ROWS = {
    "chain": "Training: steps that wait for one another",
    "training": "Training: operations for the sequence",
    "token": "Generation: operations for one more token",
    "bytes": "Generation: bytes kept from token to token",
}
FLOAT = 4  # bytes

# Of each network: lengths and seconds.
Times = Mapping[str, Mapping[str, tuple[Sequence[int], Sequence[float]]]]


def costs(kind: str, length: int, d_model: int) -> dict[str, int]:
    """The four counts of one kind of network, exactly.

        matrices: 24 d^2 a token for each kind    (12 d^2 weights)

        Transformer   1 layer: 4 d a score; keys and values are kept
        RNN           4 layers; cell (layer, t) waits for (layer, t - 1) and
                      (layer - 1, t), so the longest chain has L + 3 cells
        linear        6 layers: 2 d a step; in training a scan of Hillis and
                      Steele, 3 d a combination, ceil(log2 L) levels each

    The tanh, biases, norms and the softmax are left out.

    Args:
        kind: a key of ``LAYERS``.
        length: L, tokens so far.
        d_model: d, the width.

    Returns:
        The counts under the keys of ``ROWS``.
    """
    d, layers = d_model, LAYERS[kind]
    matrices = linear_flops(transformer_layer_weights(d))
    if kind == "transformer":
        return {
            "chain": layers,
            "training": length * matrices
            + attention_flops(scores_with_cache(length), d),
            "token": matrices + attention_flops(length, d),
            "bytes": kv_cache_bytes(length, layers, d, element_bytes=FLOAT),
        }
    if kind == "rnn":
        return {
            "chain": length + layers - 1,
            "training": length * matrices,
            "token": matrices,
            "bytes": layers * d * FLOAT,
        }
    levels = (length - 1).bit_length()
    combinations = levels * length - (2**levels - 1)
    return {
        "chain": layers * levels,
        "training": length * matrices + layers * 3 * d * combinations,
        "token": matrices + layers * 2 * d,
        "bytes": layers * d * FLOAT,
    }


def slope(kind: str, row: str, length: int, d_model: int) -> float:
    """The power of the length that a count grows with, from L to 2 L."""
    here, there = (costs(kind, n, d_model)[row] for n in (length, 2 * length))
    return math.log2(there / here)


class ComparisonTable(Explorable):
    """What does a longer text cost?

    Each cell has an exact count at the length that is chosen, and a slope: 0
    if it stays when the length doubles, 1 if it doubles too, 2 if it becomes
    four times as large. The three networks have the same width and as many
    parameters in their matrices: 1 Transformer layer, 4 layers of a tanh RNN,
    6 of a diagonal linear recurrence.

    Args:
        times: seconds measured on this machine, under "sequence" and "token",
            for each name of a network a list of lengths and one of seconds;
            None where nothing was measured.
        doublings: the length is 2 to this power, from 4 to 20.
        d_model: the width, from 16 to 4096.

    Example:
        >>> ComparisonTable(doublings=10).numbers()["RNN, tanh: steps"]
        '1,027 (slope 1.00)'
    """

    _module = "comparison_table"
    question = "What does a longer text cost?"
    lesson = (
        "A Transformer trains without waiting, but each new token costs more"
        " than the last and its memory grows. A recurrent network's tokens"
        " cost the same for ever and its memory stays, but its training waits"
        " once a token. A linear recurrence has the recurrent network's"
        " generation, and a training that waits about as long as the"
        " logarithm of the length."
    )
    answer = (
        "Move the length: where the slope is 0 the number stays. The"
        " Transformer's bytes grow in step with the text; those of the two"
        " recurrences do not. Its operations grow with a slope between 1 and"
        " 2, and the wider the network, the longer the text at which"
        " attention takes over. Only the RNN has a slope of 1 in the first"
        " row: its chain of waiting is as long as the text."
    )
    computed = {
        "mambaviz.widgets.comparison_table.costs": CHAPTER + "#costs-code",
    }

    doublings = Quantity(
        11,
        low=4,
        high=20,
        integer=True,
        label="log₂ L",
        symbol="x",
        hint="the length L is 2 to this power: from 16 tokens to a million",
    )
    d_model = Quantity(
        768,
        low=16,
        high=4096,
        integer=True,
        label="d_model",
        symbol="ink",
        hint="the width of each network; 768 in the smallest GPT-2",
    )

    def __init__(self, times: Times | None = None, **values):
        self._times = times
        super().__init__(**values)

    @traitlets.default("words")
    def _default_words(self) -> dict:
        return super()._default_words() | {"times": self._times}

    def numbers(self) -> dict[str, str]:
        """Every cell, its count and its slope, as text."""
        short = {
            "chain": "steps",
            "training": "training operations",
            "token": "operations a token",
            "bytes": "bytes kept",
        }
        length = 2**self.doublings
        found = {"Length": f"{length:,} tokens"}
        for kind, name in NAMES.items():
            for row, count in costs(kind, length, self.d_model).items():
                power = slope(kind, row, length, self.d_model) + 0.0
                found[f"{name}: {short[row]}"] = (
                    f"{count:,} (slope {power:.2f})"
                )
        return found

    def static_html(self) -> str:
        """The explorable; marked as measured where it holds seconds."""
        page = super().static_html()
        # A section has none inside, so its end is the end of what is marked.
        return (
            page
            if self._times is None
            else f"<section data-measured>{page}</section>"
        )
