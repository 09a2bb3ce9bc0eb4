"""The explorables of transformer-cost: their numbers, and in a browser."""

import copy
import itertools

import pytest
import torch
import traitlets
from torch.nn import functional as F

from mambaviz.models import MambaBlock, TransformerLM, recorded_weights
from mambaviz.models.pieces import PIECES, encode_pieces
from mambaviz.widgets import (
    DecoderBlock,
    MemoryMeter,
    OneGoOrRowByRow,
    ThreeOdometers,
)
from mambaviz.widgets.decoder_block import NAMES, block_parameters, parts
from mambaviz.widgets.memory_meter import memory
from mambaviz.widgets.one_go_or_row_by_row import (
    MOST,
    SENTENCE,
    drawn_writer,
)
from mambaviz.widgets.still_knows_hello import draws
from mambaviz.widgets.three_odometers import slope
from tests.widgets.showing import (
    frame,
    readout,
    state,
    words_outside,
    words_that_overlap,
)

KINDS = [ThreeOdometers, OneGoOrRowByRow, MemoryMeter, DecoderBlock]
ROWS = encode_pieces(SENTENCE)
PHONE = {"width": 360, "height": 740}
WRITER = copy.deepcopy(drawn_writer()).double()


@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_odometers_count_one_by_one(length):
    without = with_cache = 0
    for newest in range(length):
        with_cache += newest + 1
        without += sum(row + 1 for row in range(newest + 1))
    found = ThreeOdometers(tokens=length).numbers()
    assert found["Scores without a cache"] == str(without)
    assert found["Scores with a cache"] == str(with_cache)
    assert found["Mamba's state updates"] == str(length)


def test_a_thousand_tokens():
    found = ThreeOdometers(tokens=1000).numbers()
    assert found["Scores without a cache"] == "167,167,000"
    assert found["Scores with a cache"] == "500,500"
    assert found["Scores without a cache: the newest token"] == "500,500"


def test_slopes_come_near_three_two_and_one():
    for way, power in (("without", 3), ("cache", 2), ("mamba", 1)):
        # (1 + 1/(2 L))(1 + 1/L) / ...: the rest fades like 3/L.
        assert slope(way, 10_000) == pytest.approx(power, abs=1e-3)
        assert slope(way, 1) <= power


@pytest.mark.parametrize(("layers", "width"), [(1, 16), (12, 768)])
def test_the_crossing_is_at_32_and_at_40(layers, width):
    at = {n: memory(layers, width, n) for n in (31, 32, 39, 40)}
    states = at[32]["state"]
    both = states + at[32]["conv"]
    assert at[31]["cache"] < states == at[32]["cache"]
    assert at[39]["cache"] < both == at[40]["cache"]


def test_the_meter_counts_what_a_model_keeps():
    with torch.random.fork_rng(devices=[]):
        model = TransformerLM(7, 16, 3, 2)
        block = MambaBlock(16)
    _, state = model(torch.zeros(1, 5, dtype=torch.long), return_state=True)
    floats = sum(part.numel() for cache in state.caches for part in cache)
    found = memory(3, 16, 5)
    assert found["floats"] == floats == 2 * 3 * 16 * 5
    assert found["cache"] == 2 * floats
    h = [part for part in block.initial_state(1) if part.shape[-1] == 16]
    assert found["state"] == 2 * 3 * 2 * sum(part.numel() for part in h)


MODULES = {
    "embedding": "embedding",
    "norm": "layers.0.norm",
    "q": "layers.0.attention.q_proj",
    "k": "layers.0.attention.k_proj",
    "v": "layers.0.attention.v_proj",
    "o": "layers.0.attention.out_proj",
    "mlp_norm": "layers.0.mlp_norm",
    "up": "layers.0.mlp.0",
    "down": "layers.0.mlp.2",
    "mlp_add": "layers.0",
}


@pytest.mark.parametrize(("d_model", "length"), [(64, 1), (192, 5)])
def test_the_parts_are_those_of_the_model(d_model, length):
    with torch.random.fork_rng(devices=[]):
        model = TransformerLM(80, d_model, 1, d_model // 64)
    shapes = {}
    for part, path in MODULES.items():
        model.get_submodule(path).register_forward_hook(
            lambda _module, _given, out, part=part: shapes.update(
                {part: list((out[0] if type(out) is tuple else out).shape)}
            )
        )
    ids = torch.zeros(1, length, dtype=torch.long)
    with recorded_weights(model) as weights:
        model(ids)
    (weights,) = weights["layers.0.attention"]
    shapes["scores"] = list(weights.shape)
    shapes["add"] = shapes["o"]  # x + attention(norm(x))

    found = parts(d_model, length)
    assert {name: part.shape for name, part in found.items()} == shapes
    for name, path in MODULES.items():
        if name == "mlp_add":
            continue
        module = model.get_submodule(path)
        assert found[name].weight == list(module.weight.shape)
        total = sum(weight.numel() for weight in module.parameters())
        assert found[name].parameters == total
    block = sum(weight.numel() for weight in model.layers[0].parameters())
    assert block_parameters(d_model)["all"] == block
    assert block == 12 * d_model**2 + 13 * d_model


def test_a_length_adds_no_parameter():
    short, long = (DecoderBlock(length=n).numbers() for n in (1, 1024))
    assert short["The block, in all"] == long["The block, in all"]
    assert short["What comes out"] == "1 × 1 × 3,072"
    assert long["What comes out"] == "1 × 1,024 × 3,072"


def test_a_width_that_heads_of_64_do_not_fill_is_refused():
    with pytest.raises(
        traitlets.TraitError, match="a multiple of 64 from 64 to 4096"
    ):
        DecoderBlock(d_model=770)


def test_the_matrix_is_torchs():
    widget = OneGoOrRowByRow(drawn_writer(), head=2)
    layer = copy.deepcopy(drawn_writer()).double().layers[0]
    x = layer.norm(WRITER.embedding.weight[ROWS])
    q, k = (
        proj(x)[:, 8:16]
        for proj in (layer.attention.q_proj, layer.attention.k_proj)
    )
    eye = torch.eye(len(ROWS), dtype=torch.float64)
    wanted = F.scaled_dot_product_attention(
        q[None], k[None], eye[None], is_causal=True
    )[0]
    assert torch.allclose(widget.weights(), wanted, rtol=0, atol=1e-12)
    assert widget.words["trained"]
    assert not OneGoOrRowByRow().words["trained"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n_layers": 2}, "got 2 layers"),
        ({"positions": "rope"}, "'rope'"),
        ({"positions": "learned"}, "'learned'"),
        ({"head": 5}, "from 1 to 4; got 5"),
    ],
)
def test_a_writer_that_the_picture_cannot_compute_is_refused(changed, said):
    sizes = {"n_layers": 1, "positions": "none", "head": 1} | changed
    head = sizes.pop("head")
    with torch.random.fork_rng(devices=[]):
        model = TransformerLM(len(PIECES), 32, n_heads=4, **sizes)
    with pytest.raises(ValueError, match=said):
        OneGoOrRowByRow(model, head)


@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
def test_every_slider_redraws_and_reset_brings_back(show, kind):
    page = show(kind())
    card = page.locator(".mv-stage svg").first
    first = card.inner_html()
    knobs = page.locator('input[type="range"]')
    for n in range(knobs.count()):
        knob = knobs.nth(n)
        name = knob.get_attribute("data-trait")
        before = state(page, name)
        knob.focus()
        knob.press("ArrowLeft")
        assert state(page, name) != before, name
    frame(page)
    assert card.inner_html() != first
    page.get_by_role("button", name="Reset").click()
    frame(page)
    assert card.inner_html() == first


@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
def test_a_slider_moves_by_mouse_and_by_touch(show, kind):
    for touch in (False, True):
        page = show(kind(), has_touch=touch)
        knob = page.locator('input[type="range"]').first
        knob.scroll_into_view_if_needed()
        name = knob.get_attribute("data-trait")
        before = state(page, name)
        box = knob.bounding_box()
        at = box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2
        (page.touchscreen.tap if touch else page.mouse.click)(*at)
        assert state(page, name) != before


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 690, 800])
@pytest.mark.parametrize(
    "widget",
    [
        ThreeOdometers,
        lambda: ThreeOdometers(tokens=1000),
        OneGoOrRowByRow,
        lambda: OneGoOrRowByRow(tokens=[0], way="generation", token=1),
        lambda: OneGoOrRowByRow(tokens=(ROWS * 2)[:MOST], token=MOST),
        MemoryMeter,
        lambda: MemoryMeter(length=4000, layers=96, width=8192),
        lambda: MemoryMeter(length=1, layers=1, width=16),
        DecoderBlock,
        lambda: DecoderBlock(part="scores", d_model=4096, length=1024),
        lambda: DecoderBlock(part="q", d_model=64, length=1),
    ],
)
def test_all_words_lie_inside_the_picture(show, widget, width):
    page = show(widget(), viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert words_outside(page) == []
    assert words_that_overlap(page) == []


@pytest.mark.browser
def test_the_wheels_show_the_counts(show):
    page = show(ThreeOdometers(tokens=999))
    page.get_by_role("button", name="Add a token").click()
    frame(page)
    digits = "".join(page.locator(".mv-count-digit").all_text_contents())
    assert digits == "167167000" + "000500500" + "000001000"
    assert readout(page, "Cache saves").inner_text() == "334"
    page.get_by_role("button", name="Add a token").click()
    assert state(page, "tokens") == 1000  # the end of the counter
    page.get_by_role("button", name="Play").click()
    assert state(page, "tokens") < 1000
    page.get_by_role("button", name="Pause").click()


@pytest.mark.browser
def test_pointing_at_a_token_lights_those_before_it(show):
    page = show(OneGoOrRowByRow())
    tokens = page.locator(".mv-one-token")
    assert tokens.count() == len(ROWS) == 12
    for n in (4, 0, 11):
        tokens.nth(n).hover()
        assert state(page, "token") == n + 1
        assert page.locator(".mv-one-token.mv-lit").count() == n
    text = readout(page, "Comparisons so far").inner_text()
    assert text == "78 for 12 tokens"
    page = show(OneGoOrRowByRow(), has_touch=True)
    page.locator(".mv-one-token").nth(2).tap()
    assert state(page, "token") == 3
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert state(page, "token") == 4


@pytest.mark.browser
def test_the_last_row_makes_the_matrix_of_training(show):
    page = show(OneGoOrRowByRow(way="generation", token=11))
    weights = page.locator(".mv-one-weight")
    assert weights.count() == 66
    page.locator(".mv-one-token").nth(11).click()
    frame(page)
    assert weights.count() == 78
    by_row = weights.evaluate_all(
        "(all) => all.map((cell) => +cell.getAttribute('fill-opacity'))"
    )
    page.get_by_text("Training: in one go").click()
    frame(page)
    at_once = weights.evaluate_all(
        "(all) => all.map((cell) => +cell.getAttribute('fill-opacity'))"
    )
    assert by_row == at_once
    wanted = OneGoOrRowByRow().weights()
    cells = [wanted[t, s].item() for t in range(12) for s in range(t + 1)]
    # Written with three digits.
    assert at_once == pytest.approx(cells, abs=6e-4)
    gap = readout(page, "Row by row against").inner_text()
    assert gap == "the same bits" or "10⁻¹" in gap


@pytest.mark.browser
def test_next_token_is_drawn_from_the_bars(show):
    page = show(OneGoOrRowByRow(token=4, seed=3))
    button = page.get_by_role("button", name="Next token")
    button.focus()
    ids = ROWS[:4]
    for t in range(4, 8):
        p = WRITER(torch.tensor([ids]))[0, -1].softmax(-1)
        chance = draws(t + 3, 3)[-1]
        ids = [*ids, int(torch.searchsorted(p.cumsum(0), chance, right=True))]
        page.keyboard.press("Enter")
        frame(page)
        assert state(page, "tokens") == ids
        assert state(page, "token") == t + 1
        # A row of the matrix, and a key and a value, for each token.
        assert page.locator(".mv-one-weight").count() == (t + 1) * (t + 2) / 2
        kept = page.locator(".mv-one-number").count()
        assert kept == (t + 1) * 2 * 8
        assert readout(page, "Keys and values").inner_text() == (
            f"{64 * (t + 1)} numbers"
        )
    assert state(page, "way") == "generation"
    likeliest = OneGoOrRowByRow(tokens=ids, token=8).next_probabilities()
    shown = page.locator(".mv-one-next")
    assert shown.count() == 6
    wide = [bar.bounding_box()["width"] for bar in shown.all()]
    wanted = likeliest.topk(5).values.tolist()
    wanted.append(1 - sum(wanted))
    assert [w / sum(wide) for w in wide] == pytest.approx(wanted, abs=0.01)
    page.get_by_role("button", name="Reset").click()
    assert state(page, "tokens") == ROWS
    assert state(page, "way") == "training"


@pytest.mark.browser
def test_the_likeliest_needs_no_chance(show):
    ids = encode_pieces("Hello")
    texts = []
    for seed in (1, 2):
        page = show(OneGoOrRowByRow(tokens=ids, token=1, seed=seed))
        page.get_by_text("The likeliest", exact=True).click()
        for _ in range(3):
            page.get_by_role("button", name="Next token").click()
        texts.append(state(page, "tokens"))
    wanted = WRITER.generate(torch.tensor([ids]), 3, temperature=0)
    assert texts == [wanted[0].tolist()] * 2


@pytest.mark.browser
def test_a_full_picture_takes_no_more_tokens(show):
    full = (ROWS * 2)[:MOST]
    page = show(OneGoOrRowByRow(tokens=full, token=MOST - 1, seed=2))
    button = page.get_by_role("button", name="Next token")
    button.click()
    assert len(state(page, "tokens")) == MOST
    button.click()
    assert "room for 17" in page.get_by_role("alert").inner_text()
    page.get_by_role("button", name="Play").click()
    assert state(page, "token") == 5  # the first words again
    page.get_by_role("button", name="Pause").click()


@pytest.mark.browser
def test_in_training_the_text_is_marked(show):
    page = show(OneGoOrRowByRow(tokens=[0] * 9, token=3))
    marks = page.locator(".mv-stage text", has_text="%").all_text_contents()
    p = WRITER(torch.tensor([[0] * 3]))[0, -1].softmax(-1)
    within = 0 in p.topk(5).indices
    assert sum("✓" in mark for mark in marks) == within
    page.get_by_text("Generation: row by row").click()
    frame(page)
    marks = page.locator(".mv-stage text", has_text="%").all_text_contents()
    assert not any("✓" in mark for mark in marks)


@pytest.mark.browser
def test_a_text_of_ones_own(show):
    page = show(OneGoOrRowByRow())
    field = page.locator(".mv-one-field")
    assert field.input_value() == SENTENCE
    field.fill("Goodbye, Bo")
    field.press("Enter")
    assert state(page, "tokens") == encode_pieces("Goodbye, Bo")
    shown = page.locator(".mv-one-token").all_text_contents()
    assert "".join(shown).replace("␣", " ") == "Goodbye, Bo"
    for wrong, said in (
        ("Hello André", "without accents"),
        ("a" * 18, "has 18 tokens"),
        ("", "1 to 17"),
    ):
        field.fill(wrong)
        field.press("Enter")
        assert said in page.get_by_role("alert").inner_text()
        assert field.input_value() == "Goodbye, Bo"
    page.get_by_role("button", name="Reset").click()
    assert field.input_value() == SENTENCE


@pytest.mark.browser
def test_trained_weights_are_called_so(show):
    shown = [
        readout(show(widget), "Weights").inner_text()
        for widget in (OneGoOrRowByRow(), OneGoOrRowByRow(drawn_writer()))
    ]
    assert shown == ["drawn, not trained", "trained on this page"]


@pytest.mark.browser
@pytest.mark.parametrize(
    ("sizes", "ticks"),
    [
        ((200, 12, 768), ["100 kB", "1 MB", "10 MB", "100 MB"]),
        ((1, 1, 16), ["100 B", "1 kB", "10 kB", "100 kB"]),
        ((4000, 96, 8192), ["10 MB", "100 MB", "1 GB", "10 GB"]),
    ],
)
def test_the_bytes_of_the_axis_are_round(show, sizes, ticks):
    names = dict(zip(("length", "layers", "width"), sizes, strict=True))
    page = show(MemoryMeter(**names), viewport=PHONE)
    shown = page.locator(".mv-stage .mv-axis text").all_text_contents()
    assert [text for text in shown if text.endswith("B")] == ticks
    # On a straight line: a power of ten of bytes is as far everywhere.
    heights = page.locator(".mv-stage .mv-axis text").evaluate_all(
        "(all) => all.filter((one) => one.textContent.endsWith('B'))"
        ".map((one) => one.y.baseVal[0].value)"
    )
    gaps = [a - b for a, b in itertools.pairwise(heights)]
    assert gaps == pytest.approx([168 / 4.2] * 3, abs=0.2)


@pytest.mark.browser
def test_the_bars_of_the_meter_are_to_scale(show):
    page = show(MemoryMeter(length=400))
    wide = page.locator(".mv-meter-track").first.bounding_box()["width"]
    both = page.locator("rect.mv-meter-both").bounding_box()["width"]
    assert both / wide == pytest.approx(40 / 400, abs=0.01)
    assert readout(page, "Numbers in the cache").inner_text() == "7,372,800"
    for field, value in (("length", "40"), ("width", "2048")):
        box = page.locator(f'[data-field="{field}"]')
        box.fill(value)
        box.press("Enter")
    cache, kept = (
        readout(page, label).inner_text()
        for label in ("KV cache, bytes", "with convolution, bytes")
    )
    assert cache == kept


@pytest.mark.browser
def test_a_part_is_chosen_by_mouse_by_key_and_by_touch(show):
    page = show(DecoderBlock())
    buttons = page.locator("[data-part]")
    assert buttons.count() == len(NAMES)
    chosen = page.locator('[data-part][aria-pressed="true"]')
    for name in NAMES:
        page.locator(f'[data-part="{name}"]').click()
        frame(page)
        assert state(page, "part") == name
        assert chosen.get_attribute("data-part") == name
        assert readout(page, "Chosen").inner_text() == NAMES[name]
        said = DecoderBlock(part=name).numbers()
        for label in ("Its weights", "What comes out"):
            assert readout(page, label).inner_text() == said[label]
    for key, name in (("Enter", "q"), ("Space", "k")):
        button = page.get_by_role("button", name=NAMES[name], exact=True)
        button.focus()
        button.press(key)
        assert state(page, "part") == name
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert state(page, "part") == "v"
    page = show(DecoderBlock(), has_touch=True, viewport=PHONE)
    for name in ("mlp_add", "scores"):
        page.locator(f'[data-part="{name}"]').tap()
        assert state(page, "part") == name
    page.get_by_role("button", name="Reset").click()
    assert state(page, "part") == "up"


@pytest.mark.browser
def test_a_width_between_two_steps_is_refused_in_words(show):
    page = show(DecoderBlock())
    field = page.locator('[data-field="d_model"]')
    field.fill("770")
    field.press("Enter")
    said = page.get_by_role("alert").inner_text()
    assert "a multiple of 64 from 64 to 4096" in said
    assert state(page, "d_model") == 768
    field.fill("1600")
    field.press("Enter")
    total = readout(page, "The block, in all").inner_text()
    assert total == f"{12 * 1600**2 + 13 * 1600:,}"


@pytest.mark.browser
def test_the_squares_are_to_scale(show):
    page = show(DecoderBlock())
    area = {}
    for name in ("q", "o", "up", "down"):
        box = page.locator(f'[data-part="{name}"] rect')
        wide, tall = (
            float(box.get_attribute(side)) for side in ("width", "height")
        )
        area[name] = wide * tall
    assert area["up"] == 4 * area["q"]
    assert 4 * area["q"] + area["up"] + area["down"] == 12 * area["o"]


@pytest.mark.browser
def test_a_wrong_number_is_refused_in_words(show):
    page = show(ThreeOdometers())
    field = page.locator('[data-field="tokens"]')
    field.fill("0")
    field.press("Enter")
    assert "from 1 to 1000" in page.get_by_role("alert").inner_text()
    assert state(page, "tokens") == 5


def test_pieces_fit_the_slider_of_tokens():
    knob = OneGoOrRowByRow.knob_traits()["tokens"]
    assert knob.high == len(PIECES) - 1
    assert knob.longest == MOST > len(ROWS)
