"""ThreeOdometers: what a growing text has cost so far, in three ways."""

import math

from mambaviz.theory.cost import (
    scores_with_cache,
    scores_without_cache,
    state_updates,
)
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.traits import Quantity

CHAPTER = "chapters/transformer-cost.html"

COUNTS = {
    "without": scores_without_cache,
    "cache": scores_with_cache,
    "mamba": state_updates,
}
NAMES = {
    "without": "Scores without a cache",
    "cache": "Scores with a cache",
    "mamba": "Mamba's state updates",
}


def slope(way: str, length: int) -> float:
    """The power of the length that a count grows with, from L to 2 L."""
    count = COUNTS[way]
    return math.log2(count(2 * length) / count(length))


class ThreeOdometers(Explorable):
    r"""What has this text cost so far?

    A text is written token by token. Three odometers count for one attention
    head or one state: the scores where each token computes all of them anew,
    :math:`L(L+1)(L+2)/6`, those where keys and values are kept,
    :math:`L(L+1)/2`, and Mamba's updates of its state, L.

    Args:
        tokens: L, from 1 to 1000.

    Example:
        >>> ThreeOdometers(tokens=1000).numbers()["Scores without a cache"]
        '167,167,000'
    """

    _module = "three_odometers"
    question = "What has this text cost so far?"
    lesson = (
        "After 1,000 tokens a Transformer that computes everything anew for"
        " each token has computed 167,167,000 scores for each head; one that"
        " keeps its keys and values 500,500; and Mamba has updated each state"
        " 1,000 times. When a long text doubles, the three grow eightfold,"
        " fourfold and twofold."
    )
    answer = (
        "Add tokens and watch the wheels. The newest token alone adds a whole"
        " triangle of scores without a cache, one row of it with one, and one"
        " update in Mamba. At one token all three are equal; at 1,000 the"
        " first is 334 times the second, for the ratio is a third of L + 2."
        " The slopes under the odometers say what doubling the text does:"
        " they come near 3 and 2, and Mamba's is 1 from the start. The counts"
        " are of different things, and one score is cheaper than one update"
        " of a layer's states: compare how they grow."
    )
    computed = {
        "mambaviz.theory.scores_without_cache": CHAPTER + "#without-code",
        "mambaviz.theory.scores_with_cache": CHAPTER + "#with-code",
    }

    tokens = Quantity(
        5,
        low=1,
        high=1000,
        integer=True,
        label="L",
        symbol="x",
        hint="how many tokens the text has by now",
    )

    def numbers(self) -> dict[str, str]:
        """Every count, what the newest token added, and the slope."""
        length = self.tokens
        found = {"Tokens": f"{length:,}"}
        for way, count in COUNTS.items():
            newest = count(length) - count(length - 1)
            found[NAMES[way]] = f"{count(length):,}"
            found[f"{NAMES[way]}: the newest token"] = f"{newest:,}"
            found[f"{NAMES[way]}: slope"] = f"{slope(way, length):.2f}"
        return found
