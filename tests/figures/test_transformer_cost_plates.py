import numpy as np
import pytest
import torch
from matplotlib.text import Text

from mambaviz.figures import transformer_cost as figures
from mambaviz.figures.plate import NARROW, blank_axes, plate
from mambaviz.models import attention_weights, recorded_weights
from mambaviz.models.pieces import PIECES, decode_pieces, encode_pieces

READING = {
    "one go": ([64, 256, 1024], [6e-5, 3e-4, 2e-3]),
    "row by row": ([64, 256, 1024], [3e-3, 2e-2, 1e-1]),
}
TOKEN = {
    "no cache": ([128, 512, 2048], [2e-4, 2e-3, 3e-2]),
    "with cache": ([4096, 32768, 131072], [2e-4, 2e-3, 2e-2]),
    "Mamba": ([128, 2048, 131072], [1e-4] * 3),
}


@pytest.fixture(scope="module")
def writer():
    return figures.train_writer()


@pytest.fixture(scope="module")
def translator():
    return figures.train_translator()


@pytest.fixture(scope="module")
def weights(writer):
    head = figures.looking_head(writer)
    ids = encode_pieces(figures.SENTENCE)
    q, k = head.q[ids][None, None], head.k[ids][None, None]
    return attention_weights(q, k, causal=True)[0, 0]


@pytest.mark.parametrize(
    "text",
    ["Hello my name is Maarten", "My, Name?", " a  b", figures.SENTENCE],
)
def test_tokens_lose_nothing(text):
    ids = encode_pieces(text)
    assert decode_pieces(ids) == text
    # The longest piece that fits: no two in a row could be a longer one.
    for start, piece in enumerate(PIECES[n] for n in ids):
        rest = decode_pieces(ids[start:])
        assert len(piece) == max(len(p) for p in PIECES if rest.startswith(p))


def test_a_letter_that_no_token_has_is_named():
    with pytest.raises(ValueError, match="'é'"):
        encode_pieces("Hello André")


def test_no_piece_stands_twice():
    assert len(set(PIECES)) == len(PIECES) == 80


def test_the_translator_is_right(translator):
    model, unseen = translator
    # Claim S007: at least 99 % of the numbers that it has not seen.
    assert len(set(unseen)) == 200
    assert figures.share_translated(model, unseen) >= 0.99


def test_numbers_in_words():
    def read(words):
        total = 0
        for word in words:
            if word == "hundred":
                total *= 100
            elif word in figures.ONES:
                total += figures.ONES.index(word)
            else:
                total += 10 * (figures.TENS.index(word) + 2)
        return total

    found = [figures.number_in_words(n) for n in range(1000)]
    assert [read(words) for words in found] == list(range(1000))
    assert found[342] == ["three", "hundred", "forty", "two"]
    assert max(map(len, found)) == 4


def test_the_three_masks(translator):
    masks = figures.three_masks(translator[0], 342)
    assert masks.encoder.shape == (4, 4)
    assert masks.decoder.shape == (4, 4)
    assert figures.three_masks(translator[0], 340).cross.shape == (4, 3)
    assert (masks.encoder > 0).all()  # full
    assert torch.equal(masks.decoder > 0, torch.ones(4, 4).tril() > 0)
    for found in masks[2:]:
        # float32, four numbers a row.
        assert (found.sum(1) - 1).abs().max() < 1e-5
    # To write the 3 the model looks at "three".
    assert masks.cross[0].argmax() == 0


def test_the_same_prompt_and_seed_give_the_same_text(writer):
    prompt = "Hello my name is Maarten"
    one, same = (figures.write(writer, prompt, 12, 1) for _ in range(2))
    assert one == same
    assert one.startswith(prompt)
    others = {figures.write(writer, prompt, 12, seed) for seed in range(10)}
    assert len(others) > 1
    # What was read comes back: the name after "Goodbye".
    p = figures.next_probabilities(writer, figures.SENTENCE[:-9])
    assert figures.SENTENCE[:-9].endswith("Goodbye")
    assert p[PIECES.index(" Maarten")] > 0.8
    assert abs(p.sum() - 1) < 1e-12


def test_the_head_is_that_of_the_model(writer, weights):
    ids = torch.tensor([encode_pieces(figures.SENTENCE)])
    number = figures.looking_head(writer).number
    with recorded_weights(writer) as seen:
        writer(ids)
    recorded = seen["layers.0.attention"][0][0, number - 1]
    # The model works in float32, the head's numbers in float64.
    assert (recorded - weights).abs().max() < 1e-5
    assert (weights.sum(1) - 1).abs().max() < 1e-12
    assert weights.triu(1).abs().max() == 0


def test_rows_in_any_order_are_the_matrix(writer, weights):
    head = figures.looking_head(writer)
    ids = encode_pieces(figures.SENTENCE)
    for t in (16, 3, 9, 0):
        scores = head.k[ids[: t + 1]] @ head.q[ids[t]] / 8**0.5
        row = np.exp(scores.numpy())
        row /= row.sum()
        assert np.abs(row - weights[t, : t + 1].numpy()).max() < 1e-6


def test_training_leaves_torch_as_it_was():
    before = torch.random.get_rng_state(), torch.get_num_threads()
    kind = torch.get_default_dtype()
    figures.train_writer(steps=2)
    figures.train_translator(steps=2)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    assert torch.get_default_dtype() == kind


def test_bars_of_a_panel_sum_to_100(writer):
    name = "Hello my name is"
    p = figures.next_probabilities(writer, name)
    ax = blank_axes(panels=2)
    panel, _ = figures.draw_next({"one": p, "two": p}, ax=ax)
    widths = [bar.get_width() for bar in panel.patches]
    assert sum(widths) == pytest.approx(100, abs=1e-9)
    assert len(widths) == 7


def test_counts_are_drawn_to_the_end():
    ax = figures.draw_counts(1000)
    ends = [line.get_ydata()[-1] for line in ax.lines]
    assert ends == [167_167_000, 500_500, 1000]
    for line, power in zip(ax.lines, (3, 2, 1), strict=True):
        x, y = line.get_data()
        # The small terms fade like 3/L: at 500 tokens they are under 1 %.
        assert np.log(y[-1] / y[-5]) / np.log(x[-1] / x[-5]) == pytest.approx(
            power, rel=0.01
        )


def test_times_are_positive_and_as_many_as_lengths():
    for measured in (
        figures.measure_reading(d_model=8),
        figures.measure_token(d_model=8),
    ):
        for lengths, seconds in measured.values():
            assert len(lengths) == len(seconds)
            assert min(seconds) > 0


PLATES = ("attention", "next", "masks", "counts", "times")


@pytest.fixture(scope="module")
def drawn(writer, translator, weights):
    tokens = [PIECES[n] for n in encode_pieces(figures.SENTENCE)]
    bars = {
        name: figures.next_probabilities(writer, prompt)
        for name, prompt in (
            ("… my name is", "Hello my name is"),
            ("… and I like", "Hello my name is Maarten and I like"),
            ("… Goodbye", "Hello my name is Maarten. Goodbye"),
        )
    }
    masks = figures.three_masks(translator[0], 342)
    return {
        "attention": (figures.draw_attention, (weights, tokens), 1, 430),
        "next": (figures.draw_next, (bars,), 3, 230),
        "masks": (figures.draw_masks, (masks,), 3, 230),
        "counts": (figures.draw_counts, (1000,), 1, 340),
        "times": (figures.draw_times, (READING, TOKEN), 2, 320),
    }


@pytest.mark.parametrize("name", PLATES)
def test_each_drawing_makes_a_small_plate(drawn, name):
    draw, data, panels, height = drawn[name]
    made = plate(draw, *data, alt="it", panels=panels, height=height)
    # The attention matrix has 153 cells, each for page and phone.
    assert len(made.html().encode()) <= 80_000
    assert "$" not in made.html()


@pytest.mark.parametrize("name", PLATES)
@pytest.mark.parametrize("width", [680, NARROW])
def test_labels_stay_inside_the_picture_and_apart(drawn, name, width):
    draw, data, panels, height = drawn[name]
    ax = blank_axes(panels, width, height)
    draw(*data, ax=ax)
    figure = np.ravel(ax)[0].figure
    figure.draw_without_rendering()
    frame = figure.bbox.padded(1)
    for panel in np.ravel(ax):
        texts = [*panel.texts, panel.title]
        texts += [panel.xaxis.label, panel.yaxis.label]
        texts += [*panel.get_xticklabels(), *panel.get_yticklabels()]
        shown = [t for t in texts if t.get_text() and t.get_visible()]
        boxes = [Text.get_window_extent(text) for text in shown]
        for n, (text, box) in enumerate(zip(shown, boxes, strict=True)):
            assert frame.contains(*box.min), text
            assert frame.contains(*box.max), text
            for other in boxes[n + 1 :]:
                assert not box.padded(-1).overlaps(other.padded(-1)), text
