"""The plates of the chapter ``transformer-cost``, and their numbers.

Every ``draw_<what>(data, ax=None)`` draws numbers that were computed before,
in the light colours of the palette, for the width of its axes; see
:func:`mambaviz.figures.plate.plate`. Its two toy models are trained here, in
seconds.
"""

import string
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.nn import functional as F

from mambaviz import theme
from mambaviz.figures.plate import blank_axes
from mambaviz.figures.timing import Times, draw_panel_of_times, shortest
from mambaviz.models import (
    EncoderDecoder,
    KVCache,
    MambaBlock,
    MultiHeadAttention,
    TransformerLM,
    recorded_weights,
    scaled_dot_product_attention,
    token_probabilities,
)
from mambaviz.models.pieces import (
    NAMES,
    PIECES,
    THINGS,
    decode_pieces,
    encode_pieces,
)
from mambaviz.theory.cost import (
    scores_with_cache,
    scores_without_cache,
    state_updates,
)

INK = {name: pair.light for name, pair in theme.INKS.items()}

SENTENCE = (
    "Hello my name is Maarten and I like tea."
    " Maarten likes tea. Goodbye Maarten."
)

# What is translated: 0 to 999, in words.
START, END = 10, 11  # after the ten digits
ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight"),
    *("nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen"),
    *("sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = (
    *("twenty", "thirty", "forty", "fifty"),
    *("sixty", "seventy", "eighty", "ninety"),
)
NUMBER_WORDS = ("", *ONES, *TENS, "hundred")  # the first fills up


@contextmanager
def _drawn(seed: int):
    """A seed of its own, single precision and, for small sizes, one thread."""
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)
        torch.set_num_threads(threads)


def make_texts(names: Sequence[str]) -> Int[Tensor, "texts length"]:
    """Every text of the one kind: about a name and a thing."""
    return torch.tensor(
        [
            encode_pieces(
                f"Hello my name is {name} and I like {thing}."
                f" {name} likes {thing}. Goodbye {name}."
            )
            for name in names
            for thing in THINGS
        ]
    )


def train_writer(steps: int = 300, seed: int = 0) -> TransformerLM:
    """A decoder-only Transformer of one layer that goes on with such texts.

    It has no positions, so that a query or key depends on its token alone.
    Every fourth step is about names of one letter, as the toy spells what it
    does not know.
    """
    # " I" is a piece of its own.
    letters = make_texts(string.ascii_letters.replace("I", ""))
    known = make_texts(NAMES)
    generator = torch.Generator().manual_seed(seed)
    with _drawn(seed):
        model = TransformerLM(
            len(PIECES), 32, 1, 4, positions="none", tie_embeddings=False
        )
        texts = (
            _some(letters if step % 4 == 3 else known, 32, generator)
            for step in range(steps)
        )
        _train(model, ((x[:, :-1], x[:, 1:]) for x in texts), steps)
    return model


def _some(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return rows[torch.randint(len(rows), (count,), generator=generator)]


def _train(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, ...]],
    steps: int,
    rate: float = 0.02,
) -> None:
    """Adam, its rate falling to 0; the last of a batch is what is wanted."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for *given, wanted in batches:
        logits = model(*given)
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval().requires_grad_(False)


def write(
    model: TransformerLM, prompt: str, new_tokens: int, seed: int
) -> str:
    """What a trained writer makes of a prompt, with drawn tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([encode_pieces(prompt)])
    longer = model.generate(
        ids, new_tokens, temperature=1.0, generator=generator
    )
    return decode_pieces(longer[0].tolist())


def next_probabilities(
    model: TransformerLM, prompt: str
) -> Float[Tensor, " pieces"]:
    """The distribution that the token after a prompt is drawn from."""
    logits = model(torch.tensor([encode_pieces(prompt)]), last_only=True)
    return token_probabilities(logits[:, -1].double())[0]


class Head(NamedTuple):
    """One attention head of the writer, as a text of any tokens meets it.

    Attributes:
        q, k: query and key of each piece.
        number: which head it is, from 1.
    """

    q: Float[Tensor, "pieces d_head"]
    k: Float[Tensor, "pieces d_head"]
    number: int


def looking_head(model: TransformerLM) -> Head:
    """The head whose row of "Goodbye" looks most at the name."""
    layer = model.layers[0]
    x = layer.norm(model.embedding.weight)[None]  # pieces as one sequence
    attention = layer.attention
    q, k = (
        proj(x).unflatten(-1, (-1, attention.d_head))[0].transpose(0, 1)
        for proj in (attention.q_proj, attention.k_proj)
    )  # n_heads pieces d_head
    ids = encode_pieces(SENTENCE)
    asking = ids.index(PIECES.index(" Goodbye"))
    name = PIECES.index(" Maarten")
    seen = torch.tensor(ids[: asking + 1])
    scores = (q[:, seen[-1:]] @ k[:, seen].mT) / attention.d_head**0.5
    share = (scores.softmax(-1) * (seen == name)).sum((1, 2))
    best = share.argmax().item()
    return Head(q[best].double(), k[best].double(), best + 1)


def draw_attention(
    weights: Float[Tensor, "length length"],
    tokens: Sequence[str],
    ax: Axes | None = None,
) -> Axes:
    """A causal attention matrix, a row for each query.

    Args:
        weights: rows that sum to 1.
        tokens: their texts.
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; a cell is a patch, its alpha the weight.
    """
    ax = blank_axes() if ax is None else ax
    _cells(ax, weights)
    names = [token.strip() or "␣" for token in tokens]
    ax.set_xticks(range(len(names)), names, rotation=90)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.set_title("row: who asks; column: who is looked at")
    return ax


def _cells(
    ax: Axes,
    weights: Tensor,
    allowed: Tensor | None = None,
    ink: str = "x",
) -> None:
    rows, columns = weights.shape
    if allowed is None:
        allowed = weights > 0
    for (row, column), weight in np.ndenumerate(weights.numpy()):
        if not allowed[row, column]:
            continue
        ax.add_patch(
            Rectangle(
                (column - 0.46, row - 0.46),
                0.92,
                0.92,
                fc=to_rgba(INK[ink], round(weight, 2)),
                ec=INK["line"],
                lw=0.7,
            )
        )
    ax.set(xlim=(-0.6, columns - 0.4), ylim=(rows - 0.4, -0.6))
    ax.set_aspect("equal")
    ax.grid(False)
    ax.set_frame_on(False)


def draw_next(
    distributions: Mapping[str, Float[Tensor, " pieces"]],
    ax: np.ndarray | None = None,
    shown: int = 6,
) -> np.ndarray:
    """The likeliest next tokens after some prompts, as bars in per cent.

    Args:
        distributions: by what the panel is called, from
            :func:`next_probabilities`.
        ax: as many axes.
        shown: how many tokens have a bar; another holds all the rest.

    Returns:
        The axes; the widths of the bars of one panel sum to 100.
    """
    ax = blank_axes(panels=len(distributions)) if ax is None else ax
    for panel, (name, p) in zip(ax, distributions.items(), strict=True):
        likeliest, ids = p.topk(shown)
        widths = [*(100 * likeliest).tolist()]
        widths.append(max(0.0, 100 - sum(widths)))
        names = [PIECES[n].strip() or "a space" for n in ids] + ["the rest"]
        inks = [INK["y"]] * shown + [INK["muted"]]
        panel.barh(range(shown + 1), widths, color=inks, height=0.62)
        for row, width in enumerate(widths):
            panel.text(
                width + 2, row, f"{width:.0f} %", va="center", color=INK["ink"]
            )
        panel.set(xlim=(0, 130), ylim=(shown + 0.6, -0.6))
        panel.set_yticks(range(shown + 1), names)
        panel.set_xticks([0, 50, 100])
        panel.set_title(name)
    return ax


def number_in_words(number: int) -> list[str]:
    """The words of a number below 1000.

    Example:
        >>> number_in_words(340)
        ['three', 'hundred', 'forty']
    """
    hundreds, rest = divmod(number, 100)
    words = [ONES[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(TENS[rest // 10 - 2])
        rest %= 10
        return words + ([ONES[rest]] if rest else [])
    return words + ([ONES[rest]] if rest or not words else [])


def number_pairs(
    numbers: Sequence[int],
) -> tuple[Int[Tensor, "count words"], Int[Tensor, "count digits"]]:
    """Numbers in words, filled up with 0, and in digits, with ``END``."""
    ids = {word: n for n, word in enumerate(NUMBER_WORDS)}
    source = torch.zeros(len(numbers), 4, dtype=torch.long)
    target = torch.full((len(numbers), 4), END)
    for row, number in enumerate(numbers):
        words = [ids[word] for word in number_in_words(number)]
        digits = [int(digit) for digit in str(number)]
        source[row, : len(words)] = torch.tensor(words)
        target[row, : len(digits)] = torch.tensor(digits)
    return source, target


def train_translator(
    steps: int = 400, seed: int = 0
) -> tuple[EncoderDecoder, list[int]]:
    """An encoder-decoder that writes numbers in digits.

    Returns:
        The model, and the 200 numbers of 21 to 999 it has not seen.
    """
    generator = torch.Generator().manual_seed(seed)
    # 0 to 20 are always seen: the words have to be learned somewhere.
    order = (21 + torch.randperm(979, generator=generator)).tolist()
    source, target = number_pairs([*range(21), *order[200:]])
    shifted = F.pad(target[:, :-1], (1, 0), value=START)
    # Of few words there are few numbers: they are drawn more often.
    words = (source > 0).sum(1)
    often = (1 / words.bincount()[words]) ** 0.5
    with _drawn(seed):
        model = EncoderDecoder(len(NUMBER_WORDS), 12, 48, 1, 4)
        drawn = (
            often.multinomial(128, True, generator=generator)
            for _ in range(steps)
        )
        batches = ((source[n], shifted[n], target[n]) for n in drawn)
        _train(model, batches, steps, rate=0.01)
    return model, order[:200]


def share_translated(model: EncoderDecoder, numbers: Sequence[int]) -> float:
    """The share of numbers that come out right in every digit."""
    source, target = number_pairs(numbers)
    written = model.translate(source, START, END, 4)
    written = F.pad(written, (0, 4 - written.shape[1]), value=END)
    return (written == target).all(1).double().mean().item()


class Masks(NamedTuple):
    """The three attentions of one translation, means over their heads.

    Attributes:
        words, digits: what is read, and what is written from the start token.
        encoder, decoder, cross: the weights.
    """

    words: list[str]
    digits: list[str]
    encoder: Float[Tensor, "source source"]
    decoder: Float[Tensor, "target target"]
    cross: Float[Tensor, "target source"]


def three_masks(model: EncoderDecoder, number: int) -> Masks:
    """What the translator looks at while it translates one number."""
    words, digits = number_in_words(number), str(number)
    source, target = number_pairs([number])
    source = source[:, : len(words)]
    target = F.pad(target[:, : len(digits)], (1, 0), value=START)
    with recorded_weights(model) as weights:
        model(source, target)
    found = [
        weights[name][0][0].mean(0)
        for name in (
            "encoder.0.attention",
            "decoder.0.attention",
            "decoder.0.cross_attention",
        )
    ]
    return Masks(words, ["start", *digits], *found)


def draw_masks(masks: Masks, ax: np.ndarray | None = None) -> np.ndarray:
    """Who may look at whom: in the encoder, in the decoder, and between.

    Args:
        masks: from :func:`three_masks`.
        ax: three axes.

    Returns:
        The axes; what is allowed is a patch, its alpha the weight.
    """
    ax = blank_axes(panels=3) if ax is None else ax
    sides = (
        ("encoder: all", masks.words, masks.words, masks.encoder),
        ("decoder: causal", masks.digits, masks.digits, masks.decoder),
        ("between: all words", masks.digits, masks.words, masks.cross),
    )
    for n, (panel, side) in enumerate(zip(ax, sides, strict=True)):
        title, asking, asked, weights = side
        allowed = torch.ones_like(weights, dtype=torch.bool)
        allowed = allowed.tril() if n == 1 else allowed
        _cells(panel, weights, allowed, ("x", "y", "h")[n])
        panel.set_xticks(range(len(asked)), asked, rotation=90)
        panel.set_yticks(range(len(asking)), asking)
        panel.tick_params(length=0)
        panel.set_title(title)
    return ax


def draw_counts(most: int = 1000, ax: Axes | None = None) -> Axes:
    """The three counts against the length, exactly.

    Args:
        most: the longest text.
        ax: where to draw; a figure of its own if None.

    Returns:
        The axes; a line's label is what is counted.
    """
    ax = blank_axes() if ax is None else ax
    lengths = sorted({round(most ** (n / 40)) for n in range(41)})
    looks = {
        "scores, no cache: slope 3": (scores_without_cache, "warn", "s", 2),
        "scores, with cache: slope 2": (scores_with_cache, "x", "o", 1),
        "Mamba’s updates: slope 1": (state_updates, "h", "^", 0),
    }
    for name, (count, ink, marker, at) in looks.items():
        values = [count(length) for length in lengths]
        ax.plot(
            lengths,
            values,
            c=INK[ink],
            marker=marker,
            ms=5,
            markevery=(at, 6),
            lw=1.5,
            label=name,
        )
        ax.annotate(
            f"{values[-1]:,}",
            (lengths[-1], values[-1]),
            (4, 7),
            textcoords="offset points",
            ha="right",
            color=INK[ink],
        )
    ax.set(xscale="log", yscale="log", xlabel="tokens", ylim=(0.6, 4e10))
    ax.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    ax.set_yticks([1, 1e3, 1e6, 1e9], ["1", "10³", "10⁶", "10⁹"])
    ax.set_xticks([], minor=True)
    ax.set_yticks([], minor=True)
    ax.set_title("how often, for a whole text")
    ax.legend(loc="upper left", frameon=False)
    return ax


def measure_reading(d_model: int = 64) -> Times:
    """Seconds to read a text, at once and token by token, on this machine.

    One attention layer; token by token it has a cache.

    Returns:
        By name, the lengths and the shortest of a few times for each.
    """
    lengths = [2**n for n in range(6, 11)]
    with _drawn(0), torch.inference_mode():
        layer = MultiHeadAttention(d_model, 1)

        def by_token(x: Tensor) -> None:
            state = layer.initial_state(1)
            for token in x.unbind(1):
                _, state = layer.step(token, state)

        given = {n: (torch.randn(1, n, d_model),) for n in lengths}
        return {
            name: (lengths, [shortest(run, given[n]) for n in lengths])
            for name, run in (("one go", layer), ("row by row", by_token))
        }


def measure_token(d_model: int = 64) -> Times:
    """Seconds for one more token after so many, on this machine.

    One attention layer without and with a cache, and one Mamba block.

    Returns:
        By name, the lengths and the shortest of a few times for each.
    """
    with _drawn(0), torch.inference_mode():
        layer = MultiHeadAttention(d_model, 1, backend="explicit")
        mamba = MambaBlock(d_model)
        x, state = torch.randn(1, d_model), mamba.initial_state(1)
        short = [2**n for n in range(7, 12)]
        long = [2**n for n in range(12, 19)]

        def cache(length: int) -> KVCache:
            return KVCache(*torch.randn(2, 1, 1, length, d_model))

        def one_row(x: Tensor, cache: KVCache) -> Tensor:
            # In place: a cache that is copied to grow hides the slope.
            q = layer.q_proj(x)[:, None, None]
            y = scaled_dot_product_attention(q, *cache)
            return layer.out_proj(y[:, 0, 0])

        ways = {
            "no cache": (
                short,
                layer,
                lambda n: (torch.randn(1, n, d_model),),
            ),
            "with cache": (long, one_row, lambda n: (x, cache(n))),
            "Mamba": (short + long, mamba.step, lambda n: (x, state)),
        }
        return {
            name: (lengths, [shortest(run, given(n)) for n in lengths])
            for name, (lengths, run, given) in ways.items()
        }


def draw_times(
    reading: Times, token: Times, ax: np.ndarray | None = None
) -> np.ndarray:
    """Time against length on logarithmic axes, each line with its slope.

    Args:
        reading: from :func:`measure_reading`.
        token: from :func:`measure_token`.
        ax: two axes.

    Returns:
        The axes; a line's label is the name and the slope.
    """
    ax = blank_axes(panels=2) if ax is None else ax
    looks = {
        "one go": ("x", "o"),
        "row by row": ("muted", "s"),
        "no cache": ("warn", "s"),
        "with cache": ("x", "o"),
        "Mamba": ("h", "^"),
    }
    titles = ("seconds, reading a text", "seconds, one more token")
    for panel, times, title in zip(ax, (reading, token), titles, strict=True):
        # The loop's fixed costs bend all but the last three.
        draw_panel_of_times(panel, times, looks, title, last=3)
    ends = [seconds[-1] for _, seconds in reading.values()]
    ax[0].text(
        0.97,
        0.05,
        f"at the end {max(ends) / min(ends):.0f} times apart",
        transform=ax[0].transAxes,
        ha="right",
        color=INK["ink"],
    )
    return ax
