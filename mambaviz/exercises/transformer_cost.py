"""The exercises of the chapter ``transformer-cost``."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mambaviz.exercises.exercise import Exercise, Mistake, UnreadableAnswer
from mambaviz.exercises.judges import Function, Number, Outcome, quote
from mambaviz.models.attention import attention_weights
from mambaviz.theory.cost import crossover_length

_Cache = tuple[Tensor, Tensor]
# (length, prompt): how long the text becomes, and how it begins.
_TEXTS = [(1000, 10), (1, 1), (2, 1), (3, 2), (10, 4), (5, 5), (10**6, 1000)]


def solve_without_cache(length: int, prompt: int = 1) -> int:
    """Triangles t (t + 1) / 2, summed over t = prompt to length."""

    def pyramid(rows: int) -> int:
        return rows * (rows + 1) * (rows + 2) // 6

    return pyramid(length) - pyramid(prompt - 1)


WITHOUT_CACHE = Exercise(
    name="cost/without-cache",
    question=(
        "No cache, but a prompt: its `prompt` tokens are known, and the "
        "model reads them in a single pass. Then the text grows by one token "
        "a pass, until a last pass over `length` tokens. A pass over t "
        "tokens computes a triangle of t(t+1)/2 scores in each head. Write "
        "`scores(length, prompt)`: how many one head computes in all. Find "
        "the sum on paper first; one of our texts has a million tokens."
    ),
    solution=solve_without_cache,
    judge=Function(
        "scores(length, prompt)", _TEXTS, lambda length, prompt: ()
    ),
    mistakes=[
        Mistake(
            lambda length, prompt: length * (length + 1) // 2,
            "That is one triangle: what is computed with a cache. Without "
            "one, every pass computes a triangle of its own.",
        ),
        Mistake(
            lambda length, prompt: solve_without_cache(length),
            "So it is without a prompt, from a text of one token on. Here "
            "the passes over fewer tokens than the prompt has do not happen.",
        ),
        Mistake(
            lambda length, prompt: solve_without_cache(length, prompt + 1),
            "The pass over the prompt itself is missing: its triangle "
            "belongs to the sum.",
        ),
        Mistake(
            lambda length, prompt: solve_without_cache(length - 1, prompt),
            "One pass is missing: `range(prompt, length)` ends before it. "
            "The last triangle belongs to the sum.",
        ),
        Mistake(
            lambda length, prompt: solve_without_cache(length - prompt),
            "The new tokens look at the prompt too: a pass over t tokens "
            "computes all t rows, those of the prompt among them.",
        ),
    ],
    nudge=(
        "Without a prompt, the triangles up to t make a pyramid of "
        "t(t+1)(t+2)/6. With one, a smaller pyramid is cut off its top: that "
        "of the passes that do not happen."
    ),
)


def _texts() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4, 4), (1, 3, 3), (9, 2, 5)]
    return [
        tuple(
            torch.randn(
                length, width, generator=generator, dtype=torch.float64
            )
            for width in (d_head, d_head, d_value)
        )
        for length, d_head, d_value in shapes
    ]


@dataclass(frozen=True)
class Stepwise(Function):
    """A function that is given one token at a time, and keeps a cache.

    It is judged by its outputs for a whole text, against those of attention
    that sees the text at once.
    """

    def read(self, answer: object) -> list[Outcome]:
        """Run the function over each text.

        Raises:
            UnreadableAnswer: if it cannot be called.
        """
        if not callable(answer):
            raise UnreadableAnswer(
                f"We received {quote(answer)}. Give the function's name, "
                "without parentheses after it."
            )

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache, outputs = None, []
            for token in zip(q, k, v, strict=True):
                y, cache = answer(*token, cache)
                outputs.append(torch.as_tensor(y).reshape(-1))
            return torch.stack(outputs)

        return super().read(run)


def solve_kv_cache(
    q: Tensor, k: Tensor, v: Tensor, cache: _Cache | None
) -> tuple[Tensor, _Cache]:
    """Append first, then attend: a token looks at itself too."""
    keys, values = k[None], v[None]
    if cache is not None:
        keys = torch.cat([cache[0], keys])
        values = torch.cat([cache[1], values])
    weights = torch.softmax(keys @ q / math.sqrt(len(q)), dim=0)
    return weights @ values, (keys, values)


def at_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The uncached model: causal attention over the whole text."""
    weights = attention_weights(q[None, None], k[None, None], causal=True)
    return weights[0, 0] @ v


def _no_memory(q, k, v, cache):
    return v, None


def _unscaled(q, k, v, cache):
    return solve_kv_cache(q * math.sqrt(len(q)), k, v, cache)


def _without_itself(q, k, v, cache):
    if cache is None:
        return solve_kv_cache(q, k, v, None)
    y, _ = solve_kv_cache(q, cache[0][-1], cache[1][-1], _shorter(cache))
    return y, (torch.cat([cache[0], k[None]]), torch.cat([cache[1], v[None]]))


def _shorter(cache):
    return tuple(part[:-1] for part in cache) if len(cache[0]) > 1 else None


def _no_softmax(q, k, v, cache):
    _, (keys, values) = solve_kv_cache(q, k, v, cache)
    return (keys @ q / math.sqrt(len(q))) @ values, (keys, values)


KV_CACHE = Exercise(
    name="cost/kv-cache",
    question=(
        "Write `step(q, k, v, cache)` for one attention head: it is given "
        "the query, key and value of one new token, three vectors, and what "
        "you returned as the cache before, None at the first token. Return "
        "the pair (y, cache): the output of this token, and a cache of any "
        "kind you like. We run it over texts and compare with attention that "
        "sees the whole text at once."
    ),
    solution=solve_kv_cache,
    judge=Stepwise(
        "step(q, k, v, cache)",
        _texts(),
        lambda q, k, v: (len(v), v.shape[1]),
    ),
    mistakes=[
        Mistake(
            _no_memory,
            "Your output is the token's own value. Keep the keys and values "
            "of earlier tokens, and give them back as the cache.",
        ),
        Mistake(
            _unscaled,
            "The scores are not scaled: divide q·k by the square root of the "
            "number of entries of q, before the softmax.",
        ),
        Mistake(
            _without_itself,
            "A token may look at itself: put its key and value into the "
            "cache first, then attend.",
        ),
        Mistake(
            _no_softmax,
            "The scores are not yet weights. A softmax over all keys in the "
            "cache makes them positive, with a sum of 1.",
        ),
    ],
    nudge=(
        "Put k and v below those in the cache, take the scores of q with "
        "all keys, divide them by the root of q's length, make weights of "
        "them by a softmax, and sum up the values with these."
    ),
)


def solve_crossover() -> int:
    """Numbers that Mamba keeps, over those that one more token adds.

    A unit of width has 2 blocks, each 2 channels of 16 states and 4 inputs;
    one token adds a key and a value to it, for one head in four.
    """
    return 2 * 2 * (16 + 4) * 4 // 2


_CROSSING = solve_crossover()

CROSSOVER = Exercise(
    name="cost/crossover",
    question=(
        "In many Transformers four query heads share one key and one value "
        "head, so their cache is a quarter of that in this chapter. From how "
        "many tokens on is such a cache as large as what a Mamba of as many "
        "parameters keeps, its convolution's inputs included? Predict it, "
        "then look at what `crossover_length` says."
    ),
    solution=float(_CROSSING),
    judge=Number(rtol=0.001),
    mistakes=[
        Mistake(
            float(crossover_length(d_conv=4)),
            "That is where a cache without sharing is as large. This one "
            "grows at a quarter of the pace.",
        ),
        Mistake(
            float(crossover_length(n_heads=4, n_kv_heads=1)),
            "Mamba's states alone are as large there. Its short convolution "
            "keeps 4 more numbers beside each 16 states.",
        ),
        Mistake(
            _CROSSING / 2,
            "Two Mamba blocks stand for one layer of the Transformer, and "
            "two numbers a token, key and value, for one unit of width. One "
            "of the two is missing.",
        ),
        Mistake(
            10.0,
            "A smaller cache takes longer to become as large, not shorter.",
        ),
    ],
    nudge=(
        "Count numbers, not bytes, for one unit of d_model and one layer: "
        "what the cache gains with a token, and what two Mamba blocks keep."
    ),
)


def solve_overtakes(d_model: int = 768) -> float:
    """4 d_model t = 24 d_model^2, so t = 6 d_model."""
    return 6.0 * d_model


OVERTAKES = Exercise(
    name="cost/overtakes",
    question=(
        "With a cache, token t costs a layer 24 d² operations in its "
        "matrices, d being d_model, and 4 d t in attention. At which t do "
        "both cost the same, for a `d_model` of 768?"
    ),
    solution=solve_overtakes(),
    judge=Number(rtol=0.001),
    mistakes=[
        Mistake(
            768.0,
            "There attention costs 4 d², a sixth of the matrices.",
        ),
        Mistake(
            12.0 * 768,
            "That counts one multiplication for a score or for its use, "
            "not for both; the 4 has them all: 2 operations for each of two "
            "products.",
        ),
        Mistake(
            6.0,
            "That is the answer in units of d_model.",
        ),
        Mistake(
            math.sqrt(6 * 768),
            "Attention's cost of one token grows with t, not with its "
            "square: with a cache it computes one row.",
        ),
    ],
    nudge="Set 24 d² and 4 d t equal, and divide by 4 d.",
)


EXERCISES = (WITHOUT_CACHE, KV_CACHE, CROSSOVER, OVERTAKES)
