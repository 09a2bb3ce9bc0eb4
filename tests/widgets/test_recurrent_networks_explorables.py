"""FoldUnfold, StillKnowsHello and ComparisonTable: numbers, in a browser."""

import math

import numpy as np
import pytest
import torch

from mambaviz.theory import (
    hillis_steele_schedule,
    kv_cache_bytes,
    scan_depth,
    scan_work,
    scores_with_cache,
    transformer_layer_weights,
)
from mambaviz.widgets import ComparisonTable, FoldUnfold, StillKnowsHello
from mambaviz.widgets.comparison_table import LAYERS, costs, slope
from mambaviz.widgets.fold_unfold import INPUTS
from mambaviz.widgets.still_knows_hello import draws, network
from tests.browsing import page_with
from tests.widgets.showing import (
    frame,
    readout,
    state,
    words_outside,
    words_that_overlap,
)

TIMES = {
    "sequence": {
        "transformer": ([256, 512, 1024, 2048], [1e-3, 3e-3, 1e-2, 4e-2]),
        "rnn": ([256, 512, 1024, 2048], [1e-3, 2e-3, 4e-3, 8e-3]),
        "linear": ([256, 512, 1024, 2048], [2e-4, 4e-4, 9e-4, 2e-3]),
    },
    "token": {
        "transformer": ([1024, 2048, 4096, 8192], [1e-4, 2e-4, 4e-4, 8e-4]),
        "rnn": ([1024, 2048, 4096, 8192], [2e-5] * 4),
        "linear": ([1024, 2048, 4096, 8192], [5e-6] * 4),
    },
}
KINDS = [FoldUnfold, StillKnowsHello, ComparisonTable]


@pytest.mark.parametrize("h_0", [0.0, -0.7])
def test_the_cell_is_torchs(h_0):
    widget = FoldUnfold(w_h=1.3, w_x=-0.6, w_y=0.5, h_0=h_0)
    theirs = torch.nn.RNN(1, 1).double()
    with torch.no_grad():
        theirs.weight_hh_l0.fill_(1.3)
        theirs.weight_ih_l0.fill_(-0.6)
        theirs.bias_hh_l0.zero_()
        theirs.bias_ih_l0.zero_()
        x = torch.tensor(INPUTS, dtype=torch.float64)[:, None]
        states, _ = theirs(x, torch.full((1, 1), h_0, dtype=torch.float64))
    found = widget.numbers()
    for k, h in enumerate(states.flatten().tolist()):
        assert float(found[f"h{'₁₂₃₄₅'[k]}"]) == pytest.approx(h, rel=5e-3)
        y = float(found[f"y{'₁₂₃₄₅'[k]}"])
        assert y == pytest.approx(0.5 * h, rel=5e-3)
    assert found["Last state by the loop, step by step"] == found["h₅"]


def test_python_draws_the_generator_of_numerical_recipes():
    # Press et al. print the first of them, from a seed of 0.
    first = ["3C6EF35F", "47502932", "D1CCF6E9", "AAF95334", "6252E503"]
    found = [f"{round(u * 2**32):08X}" for u in draws(5, 0)]
    assert found == first


def test_steps_without_a_tanh_stretch_by_just_rho():
    W_h = network("linear", 0.7).W_h.detach().numpy()
    np.testing.assert_allclose(
        np.linalg.svd(W_h, compute_uv=False), 0.7, rtol=1e-12
    )
    found = StillKnowsHello(kind="linear", rho=0.7).numbers()
    assert found["Gradient after 4 steps"] == found["ρ⁴"] == "0.24"
    assert found["Gradient after 24 steps"] == found["ρ²⁴"]


def read(**knobs):
    found = StillKnowsHello(**knobs).numbers()
    return float(found["“Hello” read"].removesuffix(" %"))


def test_the_first_word_is_lost_and_kept_as_the_prose_says():
    assert read() < 40
    assert read(rho=0.3) < 20
    assert read() < read(rho=1.0) < 90
    assert read(rho=1.0, kind="linear") > 95
    # Without the tanh, forgetting is a matter of digits.
    assert read(rho=0.5, kind="linear") < 60
    assert read(rho=0.5, kind="linear", error=0.0) == 100
    assert read(rho=0.5, error=0.0) < 40


def test_a_tanh_keeps_the_gradient_below_the_law():
    for rho in (0.5, 1.0, 1.2):
        found = StillKnowsHello(rho=rho).numbers()
        assert float(found["Gradient after 4 steps"]) < rho**4


@pytest.mark.parametrize(("length", "d_model"), [(16, 32), (100, 64)])
def test_counts_are_those_of_theory(length, d_model):
    D, L = d_model, length
    weights = transformer_layer_weights(D)
    assert LAYERS["rnn"] * 3 * D**2 == weights
    assert LAYERS["linear"] * 2 * D**2 == weights

    one = costs("transformer", L, D)
    assert one["chain"] == 1
    assert one["training"] == 2 * weights * L + 4 * D * scores_with_cache(L)
    assert one["token"] == 2 * weights + 4 * D * L
    assert one["bytes"] == kv_cache_bytes(L, 1, D, element_bytes=4)

    # The chain of a stack, walked cell by cell.
    done = {}
    for layer in range(4):
        for t in range(L):
            before = done.get((layer, t - 1), 0), done.get((layer - 1, t), 0)
            done[layer, t] = 1 + max(before)
    two = costs("rnn", L, D)
    assert two["chain"] == done[3, L - 1]
    assert two["training"] == L * two["token"] == 2 * weights * L
    assert two["bytes"] == 4 * D * 4

    schedule = hillis_steele_schedule(L)
    three = costs("linear", L, D)
    assert three["chain"] == 6 * scan_depth(schedule)
    combined = 6 * 3 * D * scan_work(schedule)
    assert three["training"] == 2 * weights * L + combined
    assert three["token"] == 2 * weights + 6 * 2 * D


def test_slopes_are_what_doubling_does():
    at = 2**14, 64
    assert slope("rnn", "chain", *at) == pytest.approx(1, abs=1e-3)
    assert slope("linear", "chain", *at) == pytest.approx(math.log2(15 / 14))
    assert slope("transformer", "bytes", *at) == 1
    assert 1.9 < slope("transformer", "training", *at) < 2
    for kind in ("rnn", "linear"):
        assert slope(kind, "token", *at) == slope(kind, "bytes", *at) == 0
    assert 1 < slope("linear", "training", *at) < 1.1


def test_sizes_have_words():
    knob = ComparisonTable.knob_traits()["d_model"]
    assert (knob.label, knob.symbol) == ("d_model", "ink")


def test_seconds_are_marked_as_measured_and_counts_are_not():
    page = ComparisonTable(TIMES).static_html()
    assert page.startswith("<section data-measured>")
    assert page.endswith("</section>")
    assert page.count("</section>") == 1
    assert "data-measured" not in ComparisonTable().static_html()


@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
def test_every_slider_redraws_and_reset_brings_back(show, kind):
    page = show(kind())
    card = page.locator(".mv-stage svg").first
    first = card.inner_html()
    for name in kind.knob_traits():
        knob = page.locator(f'input[type="range"][data-trait="{name}"]')
        if not knob.count():
            continue
        before = state(page, name)
        knob.focus()
        knob.press("ArrowLeft")
        if state(page, name) == before:
            knob.press("ArrowRight")
        assert state(page, name) != before, name
    frame(page)
    assert card.inner_html() != first
    page.get_by_role("button", name="Reset").click()
    frame(page)
    assert card.inner_html() == first


@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
def test_a_slider_moves_by_mouse_and_by_touch(show, kind):
    knob = next(iter(kind.knob_traits()))
    for touch in (False, True):
        page = show(kind(), has_touch=touch)
        before = state(page, knob)
        box = page.locator(f'[data-trait="{knob}"]').bounding_box()
        at = box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2
        (page.touchscreen.tap if touch else page.mouse.click)(*at)
        assert state(page, knob) != before


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 800])
@pytest.mark.parametrize(
    "widget",
    [
        *(lambda n=n: FoldUnfold(unfolded=n, w_h=-1.23) for n in range(6)),
        StillKnowsHello,
        lambda: StillKnowsHello(kind="linear", rho=1.2),
        lambda: StillKnowsHello(kind="linear", rho=1.0),
        lambda: ComparisonTable(TIMES, doublings=20, d_model=4096),
    ],
)
def test_all_words_lie_inside_the_picture(show, widget, width):
    page = show(widget(), viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert words_outside(page) == []
    assert words_that_overlap(page) == []


@pytest.mark.browser
def test_the_last_state_stays_while_the_loop_unfolds(show):
    page = show(FoldUnfold())
    said = FoldUnfold().numbers()["h₅"]
    knob = page.locator('input[type="range"][data-trait="unfolded"]')
    knob.focus()
    knob.press("Home")
    for n in range(6):
        assert state(page, "unfolded") == n
        last = readout(page, "h₅ as it stands here").inner_text()
        assert last.replace("−", "-") == said
        assert readout(page, "h₅ by the loop alone").inner_text() == last
        text = readout(page, "Difference").inner_text()
        assert text == "0, to the last bit"
        frame(page)
        assert page.locator(".mv-fold-cell").count() == min(n + 1, 5)
        knob.press("ArrowRight")


@pytest.mark.browser
def test_a_link_keeps_the_state_over_a_reload(browser, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page_with(FoldUnfold()), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    field = page.locator('[data-field="h_0"]')
    field.fill("-0.37")
    field.press("Enter")
    page.get_by_role("button", name="Copy link").click()
    last = readout(page, "h₅ as it stands here").inner_text()
    link = page.evaluate("location.href")
    page.reload()
    elsewhere = browser.new_page()
    elsewhere.goto(link)
    for opened in (page, elsewhere):
        assert state(opened, "h_0") == -0.37
        shown = readout(opened, "h₅ as it stands here").inner_text()
        assert shown == last != readout_of(FoldUnfold())
        opened.close()


def readout_of(widget):
    return widget.numbers()["h₅"].replace("-", "−")


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["tanh", "linear"])
def test_the_page_reads_the_words_that_python_reads(show, kind):
    widget = StillKnowsHello(kind=kind, rho=0.62)
    page = show(widget)
    said = widget.numbers()
    shown = readout(page, "“Hello” read").inner_text()
    assert shown == said["“Hello” read"]
    four = readout(page, "Gradient after 4 steps").inner_text()
    assert four == said["Gradient after 4 steps"]
    bars = page.locator(".mv-hello-bar").evaluate_all(
        "(all) => all.map((bar) => bar.height.baseVal.value / 146)"
    )
    wanted = [float(v[:-2]) / 100 for v in list(said.values())[:5]]
    assert bars == pytest.approx(wanted, abs=1e-3)


@pytest.mark.browser
def test_taking_out_the_tanh_brings_the_first_word_back(show):
    page = show(StillKnowsHello(rho=1.0))
    label = "“Hello” read"
    before = float(readout(page, label).inner_text().removesuffix(" %"))
    page.get_by_text("without tanh").click()
    after = float(readout(page, label).inner_text().removesuffix(" %"))
    assert before < 90
    assert after > 95
    assert readout(page, "Gradient after 24 steps").inner_text() == "1"


@pytest.mark.browser
def test_a_slope_of_the_table_is_that_of_python(show):
    page = show(ComparisonTable(TIMES, doublings=12, d_model=256))
    slopes = page.locator(".mv-table-slope").all_text_contents()
    wanted = [
        round(slope(kind, row, 2**12, 256), 2)
        for row in costs("rnn", 2, 2)
        for kind in LAYERS
    ]
    assert [float(s.removeprefix("slope ")) for s in slopes[:12]] == wanted
    assert slopes[13] == "slope 1"
    assert slopes[16] == "slope 0"
    values = page.locator(".mv-table-value").all_text_contents()
    assert values[1] == "4,099"
    assert len(values) == 18


@pytest.mark.browser
def test_a_wrong_number_is_refused_in_words(show):
    page = show(StillKnowsHello())
    field = page.locator('[data-field="rho"]')
    field.fill("3")
    field.press("Enter")
    assert "from 0.3 to 1.25" in page.get_by_role("alert").inner_text()
    assert state(page, "rho") == 0.5
