"""DrawAndRemember, SignFlip and FourAs: numbers, and in a browser."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
import traitlets

from mambaviz.theory import project_held
from mambaviz.widgets import DrawAndRemember, FourAs, SignFlip
from mambaviz.widgets.four_as import NAMES, reach
from tests.widgets.showing import frame, readout, state, words_outside


def error(widget, which):
    return float(widget.numbers()[f"Error, {which} fifth"])


def test_each_memory_keeps_the_ages_it_should():
    """S085, S088: four matrices, one signal, four fates of the oldest."""
    kept = {
        memory: DrawAndRemember(memory=memory, states=24, horizon=16)
        for memory in ("legs", "legt", "fading", "random")
    }
    assert error(kept["legs"], "oldest") < 0.1
    assert error(kept["fading"], "newest") < error(kept["fading"], "oldest")
    assert error(kept["fading"], "oldest") > 0.3
    for lost in ("legt", "random"):
        assert error(kept[lost], "newest") < 0.15
        # 1 is what reading 0 gives, on average over all ages.
        assert error(kept[lost], "oldest") > 0.9


def test_more_numbers_bring_finer_detail():
    """S087: as many numbers as the best polynomial needs."""
    alike = [
        float(DrawAndRemember(states=n).numbers()["Correlation"])
        for n in (3, 8, 16, 24)
    ]
    assert alike == sorted(alike)
    assert alike[0] < 0.7
    assert alike[-1] > 0.99


@pytest.mark.parametrize("now", [5, 30, 64])
def test_the_state_is_the_projection(now):
    widget = DrawAndRemember(states=7, now=now)
    x = torch.tensor(widget.samples[:now], dtype=torch.float64)
    torch.testing.assert_close(
        widget.state(), project_held(x, 7, "uniform", now), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("memory", ["legs", "legt", "fading"])
def test_numbers_moved_by_hand_are_legendre_coefficients(memory):
    """S093: of a silent signal, so that nothing but the hand is read."""
    moved = [0.0] * 24
    moved[0], moved[3] = 0.5, -0.2
    widget = DrawAndRemember(memory=memory, samples=[0.0] * 64, moved=moved)
    measure, horizon = widget.measure()
    ages = torch.arange(64, dtype=torch.float64).flip(0) + 0.5
    past = ages <= horizon if memory == "legt" else ages < 65
    place = (
        torch.exp(-ages / horizon)
        if measure == "exponential"
        else 1 - ages / horizon
    )
    z = 2 * place[past] - 1
    cubic = np.sqrt(7) * scipy.special.eval_legendre(3, z.numpy())
    np.testing.assert_allclose(
        widget.reading()[past], 0.5 - 0.2 * cubic, atol=1e-12
    )


def test_no_other_number_fits_better():
    """The coefficients of scaled LegS are the best ones."""
    x = DrawAndRemember(states=6).numbers()
    for n in range(6):
        for way in (-0.1, 0.1):
            moved = [way * (k == n) for k in range(24)]
            worse = DrawAndRemember(states=6, moved=moved).numbers()
            assert float(worse["Error, all of it"]) > float(
                x["Error, all of it"]
            )


def test_the_random_memory_takes_no_notice_of_a_hand():
    plain = DrawAndRemember(memory="random").numbers()
    assert DrawAndRemember(memory="random", moved=[1] * 24).numbers() == plain


def test_silence_has_no_correlation():
    silent = DrawAndRemember(samples=[0.0] * 64).numbers()
    assert silent["The signal"] == "0 throughout"
    assert "Correlation" not in silent


@pytest.mark.parametrize("sign", ["minus", "plus"])
@pytest.mark.parametrize("delta", [0.03, 0.1])
def test_the_signs_are_scipys(sign, delta):
    """S089, E8: by SciPy's matrix exponential."""
    n = np.arange(8)
    b = np.sqrt(2 * n + 1)
    A = np.tril(np.outer(b, b), -1) + np.diag(n + 1)
    A = A if sign == "plus" else -A
    assert sorted(np.linalg.eigvals(A).real) == pytest.approx(
        sorted((n + 1) if sign == "plus" else -(n + 1))
    )
    widget = SignFlip(sign=sign, delta=delta)
    for steps in (1, 10, 100):
        wanted = np.linalg.norm(scipy.linalg.expm(steps * delta * A))
        # Powers of one step against one exponential, at a condition of 8e4.
        assert widget.norms()[steps].item() == pytest.approx(wanted, rel=1e-9)
    mark = "" if sign == "plus" else "−"
    assert widget.numbers()["Eigenvalues of A"] == f"{mark}1 to {mark}8"


def test_a_single_state_fades_as_its_eigenvalue():
    norms = SignFlip(sign="minus", states=1, delta=0.2).norms()
    wanted = torch.exp(-0.2 * torch.arange(101, dtype=torch.float64))
    torch.testing.assert_close(norms, wanted)
    assert SignFlip(states=1).numbers()["Eigenvalues of A"] == "1"


def test_the_order_of_the_four_at_first():
    """S090: at the first picture of FourAs."""
    widget = FourAs()
    old = {kind: widget.errors(kind)[60:180].mean() for kind in NAMES}
    assert old["lin"] < old["legs"] < old["real"] < old["random"]
    assert reach(widget.errors("legs")) == 200
    assert reach(widget.errors("random")) < 50


def test_more_digits_bring_s4d_real_to_legs():
    """E10: the same memory, in coordinates that need more digits."""
    gaps = []
    for digits in (2, 6, 10):
        widget = FourAs(states=6, digits=digits)
        gap = widget.errors("real") - widget.errors("legs")
        gaps.append(gap.abs().max().item())
    assert gaps[0] > 0.1
    assert gaps[0] > 100 * gaps[1] > 1e4 * gaps[2]


def test_states_come_in_pairs():
    with pytest.raises(traitlets.TraitError, match="a multiple of 2 from 2"):
        FourAs(states=5)


KINDS = [DrawAndRemember, SignFlip, FourAs]


@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
def test_every_slider_redraws_and_reset_brings_back(show, kind):
    page = show(kind())
    card = page.locator(".mv-stage svg").first
    first = card.inner_html()
    for name in kind.knob_traits():
        knob = page.locator(f'input[type="range"][data-trait="{name}"]')
        if not knob.count() or knob.is_disabled():
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
    for touch in (False, True):
        page = show(kind(), has_touch=touch)
        before = state(page, "states")
        slider = page.locator('input[type="range"][data-trait="states"]')
        box = slider.bounding_box()
        at = box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2
        (page.touchscreen.tap if touch else page.mouse.click)(*at)
        assert state(page, "states") != before


@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [360, 800])
def test_every_text_stays_in_the_picture(show, kind, width):
    page = show(kind(), viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert words_outside(page) == []


@pytest.mark.browser
@pytest.mark.parametrize("memory", ["legs", "legt", "fading", "random"])
def test_the_page_shows_the_numbers_of_python(show, memory):
    widget = DrawAndRemember(memory=memory)
    page = show(widget)
    said = widget.numbers()
    for label in (
        "Correlation",
        "Error, all of it",
        "Error, newest fifth",
        "Error, oldest fifth",
    ):
        shown = readout(page, label).inner_text()
        assert float(shown) == pytest.approx(float(said[label]), rel=6e-3)


@pytest.mark.browser
def test_the_reach_on_the_page_is_that_of_python(show):
    widget = FourAs()
    page = show(widget)
    for label, said in widget.numbers().items():
        assert readout(page, label).inner_text() == said


@pytest.mark.browser
def test_the_sign_turns_by_the_keyboard(show):
    page = show(SignFlip())
    assert readout(page, "after 100 steps").inner_text() == "1.9·10³⁸"
    page.get_by_role("radio", name="+, as sometimes printed").focus()
    page.keyboard.press("ArrowLeft")
    frame(page)
    assert state(page, "sign") == "minus"
    assert readout(page, "Eigenvalues of A").inner_text() == "−1 to −8"
    wanted = SignFlip(sign="minus").norms()[-1].item()
    shown = float(readout(page, "after 100 steps").inner_text())
    assert shown == pytest.approx(wanted, rel=0.05)  # two digits


@pytest.mark.browser
@pytest.mark.parametrize("touch", [False, True])
def test_one_draws_with_a_mouse_and_with_a_finger(show, touch):
    page = show(DrawAndRemember(), has_touch=touch)
    before = state(page, "samples")
    area = page.locator(".mv-draw-area").bounding_box()
    x = [area["x"] + share * area["width"] for share in (0.25, 0.75)]
    y = area["y"] + 0.2 * area["height"]
    if touch:
        page.touchscreen.tap(x[0], y)
    else:
        page.mouse.move(x[0], y)
        page.mouse.down()
        page.mouse.move(x[1], y)
        page.mouse.up()
    after = state(page, "samples")
    changed = [k for k in range(64) if after[k] != before[k]]
    wanted = [16] if touch else list(range(16, 49))
    assert changed == wanted
    assert all(0.5 < after[k] < 1 for k in changed)


@pytest.mark.browser
def test_one_draws_with_the_keyboard(show):
    page = show(DrawAndRemember())
    before = state(page, "samples")
    pen = page.locator(".mv-pen")
    pen.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"):
        pen.press(key)
    after = state(page, "samples")
    assert after[2] == pytest.approx(before[2] + 0.1)
    assert [k for k in range(64) if after[k] != before[k]] == [2]
    assert pen.get_attribute("aria-valuetext").startswith("step 2: ")
    pen.press("Shift+ArrowRight")
    assert state(page, "samples")[3] == after[2]


@pytest.mark.browser
def test_play_lets_the_state_hear_the_signal(show):
    page = show(DrawAndRemember())
    page.get_by_role("button", name="Play").click()
    assert state(page, "now") < 64
    page.wait_for_function(
        "() => document.querySelector('.mv-explorable').model.get('now') >= 8"
    )
    page.get_by_role("button", name="Pause").click()
    stopped = state(page, "now")
    page.wait_for_timeout(300)
    assert state(page, "now") == stopped


@pytest.mark.browser
def test_the_horizon_rests_where_there_is_none(show):
    page = show(DrawAndRemember())
    slider = page.locator('input[type="range"][data-trait="horizon"]')
    hint = page.locator(".mv-slider", has=slider).locator(".mv-hint")
    assert slider.is_disabled()
    assert hint.inner_text().startswith("scaled LegS has none")
    for name, rests in (("LegT: a window", False), ("a random matrix", True)):
        page.locator("label", has_text=name).click()
        frame(page)
        assert slider.is_disabled() == rests
    assert hint.inner_text() == "a random matrix has none"


@pytest.mark.browser
@pytest.mark.parametrize("touch", [False, True])
def test_a_number_is_moved_with_a_mouse_and_with_a_finger(show, touch):
    page = show(DrawAndRemember(), has_touch=touch)
    area = page.locator(".mv-state-area").bounding_box()
    x = area["x"] + 3.5 * area["width"] / 12
    y = [area["y"] + share * area["height"] for share in (0.25, 0.1)]
    if touch:
        page.touchscreen.tap(x, y[0])
    else:
        page.mouse.move(x, y[0])
        page.mouse.down()
        # A hand that strays sideways moves the number that it took.
        page.mouse.move(x + 60, y[1])
        page.mouse.up()
    moved = state(page, "moved")
    assert [n for n in range(24) if moved[n]] == [3]
    heard = DrawAndRemember().heard()[3].item()
    # The area has 42 pixels for the limit of 0.5, and 4 more.
    wanted = 0.5 / 42 * (23 if touch else 36.8)
    assert heard + moved[3] == pytest.approx(wanted, abs=0.02)
    frame(page)
    assert float(readout(page, "Error, all of it").inner_text()) > 0.3


@pytest.mark.browser
def test_a_number_is_moved_with_the_keyboard_and_forgotten(show):
    page = show(DrawAndRemember())
    back = page.get_by_role("button", name="Numbers as heard")
    assert back.is_disabled()
    handle = page.locator(".mv-number")
    handle.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"):
        handle.press(key)
    heard = DrawAndRemember().heard()
    value = heard[2].item() + state(page, "moved")[2]
    assert value == pytest.approx(math.floor(20 * heard[2]) / 20 + 0.1)
    frame(page)
    said = handle.get_attribute("aria-valuetext")
    assert said.startswith("number 3 of 12: ")
    assert page.locator(".mv-remember-share").get_attribute("d")
    back.click()
    assert not any(state(page, "moved"))
    # What is heard anew has numbers of its own.
    handle.press("ArrowDown")
    assert any(state(page, "moved"))
    page.get_by_role("button", name="Steps").click()
    assert not any(state(page, "moved"))
    handle.press("ArrowDown")
    page.get_by_role("button", name="Reset").click()
    assert not any(state(page, "moved"))
    page.locator("label", has_text="a random matrix").click()
    frame(page)
    assert not handle.is_visible()


@pytest.mark.browser
def test_templates_and_silence(show):
    page = show(DrawAndRemember())
    page.get_by_role("button", name="Silence").click()
    assert not any(state(page, "samples"))
    frame(page)
    assert readout(page, "Correlation").inner_text() == "a signal of 0"
    page.get_by_role("button", name="One bump").click()
    assert max(state(page, "samples")) == 1


@pytest.mark.browser
def test_a_wrong_number_is_refused_in_words(show):
    page = show(FourAs())
    field = page.locator('[data-field="digits"]')
    field.fill("11")
    field.press("Enter")
    assert "from 1 to 10" in page.get_by_role("alert").inner_text()
    assert state(page, "digits") == 4
