"""ThreeOdometers, OneGoOrRowByRow, MemoryMeter: numbers, in a browser."""

import pytest
import torch
from torch.nn import functional as F

from mambaviz.models import MambaBlock, TransformerLM
from mambaviz.models.pieces import PIECES, encode_pieces
from mambaviz.widgets import MemoryMeter, OneGoOrRowByRow, ThreeOdometers
from mambaviz.widgets.memory_meter import memory
from mambaviz.widgets.one_go_or_row_by_row import SENTENCE, drawn_head
from mambaviz.widgets.three_odometers import slope
from tests.browsing import page_with

KINDS = [ThreeOdometers, OneGoOrRowByRow, MemoryMeter]
ROWS = encode_pieces(SENTENCE)


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


def test_the_matrix_is_torchs():
    widget = OneGoOrRowByRow(drawn_head())
    q, k = (
        torch.tensor(widget.words["head"][name], dtype=torch.float64)[ROWS]
        for name in "qk"
    )
    eye = torch.eye(len(ROWS), dtype=torch.float64)
    wanted = F.scaled_dot_product_attention(
        q[None], k[None], eye[None], is_causal=True
    )[0]
    assert torch.allclose(widget.weights(), wanted, rtol=0, atol=1e-12)
    assert widget.words["trained"]
    assert not OneGoOrRowByRow().words["trained"]


@pytest.fixture
def show(browser):
    """Open a page with an explorable; its errors fail the test."""
    contexts = []

    def open_page(widget, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: pytest.fail(str(error)))
        page.set_content(page_with(widget))
        return page

    yield open_page
    for context in contexts:
        context.close()


def frame(page):
    page.evaluate("() => new Promise(requestAnimationFrame)")


def readout(page, label):
    return page.locator(".mv-readouts div", has_text=label).locator("dd")


def state(page, name):
    return page.evaluate(
        "(name) => document.querySelector('.mv-explorable').model.get(name)",
        name,
    )


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
        name = knob.get_attribute("data-trait")
        before = state(page, name)
        box = knob.bounding_box()
        at = box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2
        (page.touchscreen.tap if touch else page.mouse.click)(*at)
        assert state(page, name) != before


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 800])
@pytest.mark.parametrize(
    "widget",
    [
        ThreeOdometers,
        lambda: ThreeOdometers(tokens=1000),
        OneGoOrRowByRow,
        lambda: OneGoOrRowByRow(tokens=[0], way="generation", token=1),
        MemoryMeter,
        lambda: MemoryMeter(length=4000, layers=96, width=8192),
        lambda: MemoryMeter(length=1, layers=1, width=16),
    ],
)
def test_all_words_lie_inside_the_picture(show, widget, width):
    page = show(widget(), viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.locator(".mv-stage svg").first.evaluate(
        "(root) => { const frame = root.getBoundingClientRect();"
        " return [...root.querySelectorAll('text')].filter((text) => {"
        "  const box = text.getBoundingClientRect();"
        "  return box.left < frame.left - 1 || box.right > frame.right + 1"
        "   || box.bottom > frame.bottom + 1 || box.top < frame.top - 1; })"
        ".map((text) => text.textContent); }"
    )
    assert outside == []
    overlaps = page.locator(".mv-stage svg").first.evaluate(
        "(root) => { const all = [...root.querySelectorAll('text')]"
        "  .filter((t) => t.textContent).map((t) => [t.textContent,"
        "   t.getBoundingClientRect()]); const found = [];"
        " for (const [n, [a, p]] of all.entries())"
        "  for (const [b, q] of all.slice(n + 1))"
        "   if (p.left < q.right - 1 && q.left < p.right - 1"
        "    && p.top < q.bottom - 3 && q.top < p.bottom - 3)"
        "     found.push(`${a} | ${b}`);"
        " return found; }"
    )
    assert overlaps == []


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
    page.get_by_role("button", name="Next token").click()
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
        ("a" * 13, "has 13 tokens"),
        ("", "1 to 12"),
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
        for widget in (OneGoOrRowByRow(), OneGoOrRowByRow(drawn_head()))
    ]
    assert shown == ["drawn, not trained", "trained on this page"]


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
    assert knob.longest == len(ROWS)
