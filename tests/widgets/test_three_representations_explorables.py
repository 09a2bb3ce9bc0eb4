"""KernelSlides, KernelBuilder and BreakLTI: numbers, and in a browser."""

import math
import re

import numpy as np
import pytest
import scipy.signal

from mambaviz.widgets import BreakLTI, KernelBuilder, KernelSlides
from mambaviz.widgets.kernel_slides import TOKENS
from tests.widgets.showing import frame, readout, state, words_outside

SUBSCRIPTS = "₀₁₂₃₄₅₆₇"


def numbers_in(text):
    return [float(value) for value in text.split(", ")]


@pytest.mark.parametrize("A_bar", [0.0, 0.6, 0.95])
def test_the_sum_of_products_is_the_recurrence(A_bar):
    wanted = scipy.signal.lfilter([1 - A_bar], [1, -A_bar], TOKENS)
    for k in range(len(TOKENS)):
        found = KernelSlides(k=k, A_bar=A_bar).numbers()
        y = found[f"y{SUBSCRIPTS[k]} by the kernel"]
        assert float(y) == pytest.approx(wanted[k], rel=5e-3, abs=1e-12)
        assert y == found[f"y{SUBSCRIPTS[k]} by the recurrence"]


def test_pads_change_the_state_and_no_earlier_output():
    plain = KernelSlides(k=4).numbers()
    for fill in (-1.0, 0.0, 1.0):
        padded = KernelSlides(k=4, pads=3, fill=fill).numbers()
        name = "y₄ by the kernel"
        assert padded[name] == plain[name]
        before = float(padded["State after the last token"])
        after = float(padded["State after the padding"])
        share = 0.6**3
        wanted = share * before + (1 - share) * fill
        assert after == pytest.approx(wanted, abs=2e-3)


def test_a_kernel_that_reaches_both_ways_sees_the_padding():
    seen = {
        KernelSlides(k=4, pads=2, fill=fill, padding="both").numbers()[
            "y₄ by the kernel"
        ]
        for fill in (-1.0, 1.0)
    }
    assert len(seen) == 2


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("frequency", [0.0, 3.0])
def test_a_kernel_is_scipys_impulse_response(share, frequency):
    widget = KernelBuilder(share=share, frequency=frequency, A=-0.7)
    w, d = frequency, widget.delta
    A = np.array([[-0.7, -w, 0], [w, -0.7, 0], [0, 0, widget.alone]])
    B = np.array([[0.7], [0], [-widget.alone]])
    C = np.array([[1 - share, 0, share]])
    system = scipy.signal.cont2discrete((A, B, C, np.zeros((1, 1))), d)
    # SciPy reads the state before the input enters: one step later.
    _, (response,) = scipy.signal.dimpulse(system, n=6)
    found = widget.numbers()
    begins = numbers_in(found["K̄ begins"])
    assert begins == pytest.approx(response[1:, 0], rel=5e-3, abs=1e-6)
    assert found["Kernel against impulse response"] == "0 within rounding"
    if frequency:
        period = float(found["Period"].removesuffix(" steps"))
        assert period == pytest.approx(2 * math.pi / (w * d), rel=5e-3)
    else:
        assert found["Period"] == "none"


@pytest.mark.parametrize("what", ["input", "delta"])
def test_without_a_swing_alone_one_kernel_does_it(what):
    still = BreakLTI(what=what, swing=0.0).numbers()
    assert still["One kernel does it"] == "yes"
    assert still["Error of a delay by 4"] == "0 within rounding"
    for swing in (0.1, 1.0):
        moved = BreakLTI(what=what, swing=swing).numbers()
        assert moved["One kernel does it"] == "no"
        assert float(moved["Error of a delay by 4"]) > 0.01


def test_a_closed_step_lets_nothing_in_and_keeps_the_state():
    A_bar, B_bar = BreakLTI(what="delta", swing=1.0).steps()
    closed = B_bar == 0
    assert closed.sum() == 6
    assert (A_bar[closed] == 1).all()


KINDS = [KernelSlides, KernelBuilder, BreakLTI]


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
@pytest.mark.parametrize("kind", KINDS)
def test_a_phone_shows_all_of_it(show, kind):
    page = show(kind(), viewport={"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert words_outside(page) == []


def test_a_swing_that_whole_steps_cannot_show_has_no_period():
    fast = KernelBuilder(delta=1.0, frequency=4.0).numbers()["Period"]
    assert fast == "under 2 steps"
    slow = KernelBuilder(delta=1.0, frequency=3.1).numbers()["Period"]
    assert slow == "2.03 steps"


@pytest.mark.browser
@pytest.mark.parametrize("frequency", [0.0, 3.1, 8.0])
def test_the_page_says_the_period_of_python(show, frequency):
    widget = KernelBuilder(delta=1.0, frequency=frequency)
    page = show(widget)
    shown = readout(page, "Period of the pair").inner_text()
    assert shown == widget.numbers()["Period"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 800])
def test_the_frame_crosses_no_title(show, width):
    size = {"width": width, "height": 700}
    for k in (0, 7):
        page = show(KernelSlides(k=k), viewport=size)
        crossed = page.evaluate(
            """() => {
              const boxes = (css) => [...document.querySelectorAll(css)]
                .map((e) => e.getBoundingClientRect());
              return boxes(".mv-slide-window").flatMap((a) =>
                boxes(".mv-title").filter((b) => a.left < b.right &&
                  b.left < a.right && a.top < b.bottom - 3 &&
                  b.top + 3 < a.bottom));
            }"""
        )
        assert crossed == []


@pytest.mark.browser
def test_the_pad_value_rests_until_there_is_a_pad(show):
    page = show(KernelSlides())
    fill = page.locator('input[type="range"][data-trait="fill"]')
    hint = page.locator(".mv-slider", has=fill).locator(".mv-hint")
    assert fill.is_disabled()
    assert "raise Pads" in hint.inner_text()
    page.locator('input[type="range"][data-trait="pads"]').press("ArrowRight")
    frame(page)
    assert fill.is_enabled()
    assert hint.inner_text() == "what the padding holds"


@pytest.mark.browser
def test_the_kernel_steps_on_and_plays_to_the_end(show):
    page = show(KernelSlides(k=6))
    following = page.get_by_role("button", name="Next token")
    following.click()
    assert state(page, "k") == 7
    following.click()
    assert state(page, "k") == 0
    following.focus()
    page.keyboard.press("Enter")
    assert state(page, "k") == 1
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(
        "() => document.querySelector('.mv-explorable').model.get('k') >= 2"
    )
    page.get_by_role("button", name="Pause").click()
    stopped = state(page, "k")
    page.wait_for_timeout(1100)
    assert state(page, "k") == stopped


@pytest.mark.browser
def test_the_page_shows_the_numbers_of_python(show):
    widget = KernelSlides(pads=2)
    page = show(widget)
    said = widget.numbers()
    for label in ("State after the last token", "State after the padding"):
        assert readout(page, label).inner_text() == said[label]
    y = readout(page, "yₖ by the kernel").inner_text()
    assert y == said["y₃ by the kernel"]

    page = show(BreakLTI())
    label = "Largest spread along a diagonal"
    assert readout(page, label).inner_text() == BreakLTI().numbers()[label]


@pytest.mark.browser
def test_one_shade_a_diagonal_without_a_swing(show):
    page = show(BreakLTI(swing=0.0))
    shades = page.locator(".mv-lti-cell").evaluate_all(
        "(all) => all.map((c) => [c.x.baseVal.value, c.y.baseVal.value,"
        " c.getAttribute('fill-opacity')])"
    )
    by_lag = {}
    for x, y, shade in shades:
        by_lag.setdefault(round((y - x) / 5), set()).add(shade)
    assert all(len(found) == 1 for found in by_lag.values())
    assert len(by_lag) == 12


@pytest.mark.browser
def test_a_wrong_number_is_refused_in_words(show):
    page = show(KernelBuilder())
    field = page.locator('[data-field="A"]')
    field.fill("2")
    field.press("Enter")
    assert re.search(
        "from −4 to −0.05", page.get_by_role("alert").inner_text()
    )
    assert state(page, "A") == -0.5
