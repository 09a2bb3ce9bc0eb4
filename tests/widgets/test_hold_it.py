"""HoldIt in a browser: its samples are dragged by mouse, finger and keys."""

import re

import pytest

from mambaviz.widgets import HoldIt
from tests.widgets import showing
from tests.widgets.showing import frame, readout

pytestmark = pytest.mark.browser

PHONE = {"width": 360, "height": 500}
EXACT = "0 within rounding"


def state(page, name):
    found = showing.state(page, name)
    frame(page)
    return found


def put(page, name, value):
    page.evaluate(
        "([name, value]) =>"
        " document.querySelector('.mv-explorable').model.set(name, value)",
        [name, value],
    )
    frame(page)


def handle(page, k):
    return page.get_by_role("slider", name=f"x_{k}", exact=True)


def middle(page, k):
    box = handle(page, k).locator("rect").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def dots(page):
    """The middle of every dot, from the left."""
    return page.locator(".mv-hold-dots > g").evaluate_all(
        "(all) => all.map((dot) => {"
        " const { e, f } = dot.transform.baseVal[0].matrix;"
        " return [e, f]; })"
    )


def curve_at(page, across):
    """How high the curve stands at a place, from its polyline."""
    d = page.locator(".mv-hold-curve").get_attribute("d")
    points = [
        tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", d)
    ]
    return min(points, key=lambda point: abs(point[0] - across))[1]


@pytest.mark.parametrize("width", [360, 760])
def test_dots_lie_on_the_curve_at_the_right_edges_of_the_steps(show, width):
    widget = HoldIt(delta=0.7, A=-3)
    page = show(widget, viewport={"width": width, "height": 900})
    assert readout(page, "Largest gap").inner_text() == EXACT
    treads = page.locator(".mv-hit").evaluate_all(
        "(all) => all.map((rect) => [rect.x, rect.width]"
        ".map((length) => length.baseVal.value))"
    )
    placed = dots(page)
    assert len(placed) == len(treads) == len(widget.samples)
    for (x, y), (left, wide) in zip(placed, treads, strict=True):
        assert x == pytest.approx(left + wide, abs=0.1)
        assert y == pytest.approx(curve_at(page, x), abs=0.2)


def test_mambas_rule_misses_by_what_python_says(show):
    widget = HoldIt(rule="mamba")
    page = show(widget)
    gap = widget.numbers()["Largest gap"]
    assert readout(page, "Largest gap").inner_text() == gap
    x, y = dots(page)[3]
    assert curve_at(page, x) - y > 20
    assert page.locator(".mv-hold-misses").get_attribute("d").count("M") == 10
    page.get_by_role("radio", name="Zero-order hold").check(force=True)
    frame(page)
    assert readout(page, "Largest gap").inner_text() == EXACT
    assert page.locator(".mv-hold-misses").get_attribute("d") == ""


def test_zero_order_hold_is_exact_everywhere_in_the_knobs_range(show):
    page = show(HoldIt())
    for delta in (0.05, 0.4, 1.5):
        for A in (-4, -1, -0.1):
            put(page, "delta", delta)
            put(page, "A", A)
            assert readout(page, "Largest gap").inner_text() == EXACT


def test_a_sample_is_dragged_by_mouse(show):
    page = show(HoldIt(), viewport={"width": 760, "height": 900})
    before = state(page, "samples")
    x, y = middle(page, 4)
    # Not at its middle: the value must not jump to the pointer.
    page.mouse.move(x + 12, y + 9)
    page.mouse.down()
    page.mouse.move(x + 12, y + 8)
    assert state(page, "samples") == before
    page.mouse.move(x + 40, y - 60, steps=4)
    moved = state(page, "samples")
    assert moved[4] > before[4] + 0.4
    assert moved[:4] + moved[5:] == before[:4] + before[5:]
    page.mouse.move(x, y - 900)
    assert state(page, "samples")[4] == 1
    page.mouse.up()
    page.mouse.move(x, y)
    assert state(page, "samples")[4] == 1
    page.get_by_role("button", name="Reset").click()
    assert state(page, "samples") == before


def test_another_mouse_button_does_not_drag(show):
    page = show(HoldIt(), viewport={"width": 760, "height": 900})
    before = state(page, "samples")
    x, y = middle(page, 4)
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x, y - 60)
    assert state(page, "samples") == before


def test_a_finger_drags_a_sample_and_scrolls_beside_it(show):
    page = show(HoldIt(), viewport=PHONE, has_touch=True, is_mobile=True)
    devtools = page.context.new_cdp_session(page)

    def touch(kind, *points):
        at = [{"x": x, "y": y} for x, y in points]
        devtools.send(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": at}
        )
        frame(page)

    def swipe(x, y, down):
        touch("touchStart", (x, y))
        for share in range(1, 9):
            touch("touchMove", (x, y + down * share / 8))
        touch("touchEnd")
        page.wait_for_timeout(100)

    before = state(page, "samples")
    x, y = middle(page, 7)
    swipe(x, y, 60)
    after = state(page, "samples")
    # 60 pixels are 0.7 of the axis here, and all of them must count.
    assert before[7] - after[7] == pytest.approx(0.7, abs=0.06)
    assert page.evaluate("scrollY") == 0

    picture = page.locator("svg.mv-picture").bounding_box()
    swipe(picture["x"] + 40, picture["y"] + 250, -120)
    assert page.evaluate("scrollY") > 50
    assert state(page, "samples") == after


def test_handles_are_large_enough_for_a_finger(show):
    page = show(HoldIt(), viewport=PHONE)
    for k in range(10):
        box = handle(page, k).locator("rect").bounding_box()
        assert box["height"] >= 40
        # As wide as the step: ten of them share the width.
        assert box["width"] >= 24
    page.set_viewport_size({"width": 760, "height": 900})
    frame(page)
    assert handle(page, 0).locator("rect").bounding_box()["width"] >= 40


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ArrowUp", 0.55),
        ("ArrowRight", 0.55),
        ("ArrowDown", 0.45),
        ("ArrowLeft", 0.45),
        ("PageUp", 0.75),
        ("PageDown", 0.25),
        ("Home", -1),
        ("End", 1),
        ("Control+ArrowUp", 0.5),
        ("a", 0.5),
    ],
)
def test_a_sample_is_moved_by_keys(show, key, value):
    page = show(HoldIt(samples=[0.5] * 8))
    handle(page, 0).focus()
    page.keyboard.press(key)
    assert state(page, "samples") == [value] + [0.5] * 7


def test_keys_stop_at_the_limits(show):
    page = show(HoldIt(samples=[1.0, -1.0] * 4))
    before = state(page, "samples")
    for k, keys in ((0, ("ArrowUp", "PageUp")), (1, ("ArrowDown", "Home"))):
        handle(page, k).focus()
        for key in keys:
            page.keyboard.press(key)
    assert state(page, "samples") == before
    assert not page.locator(".mv-error").is_visible()


def test_a_screen_reader_is_told_names_values_and_times(show):
    page = show(HoldIt(delta=0.5))
    third = handle(page, 3)
    third.focus()
    page.keyboard.press("ArrowDown")
    frame(page)
    attributes = {
        name: third.get_attribute(name)
        for name in (
            "aria-valuemin",
            "aria-valuemax",
            "aria-valuenow",
            "aria-valuetext",
            "aria-orientation",
            "data-lm-suppress-shortcuts",
            "tabindex",
        )
    }
    assert attributes == {
        "aria-valuemin": "-1",
        "aria-valuemax": "1",
        "aria-valuenow": "0.8",
        "aria-valuetext": "0.8, held from 1.5 to 2",
        "aria-orientation": "vertical",
        "data-lm-suppress-shortcuts": "true",
        "tabindex": "0",
    }
    # What has role="img" would hide the handles in it.
    picture = page.locator("svg.mv-picture")
    assert picture.get_attribute("role") == "group"
    assert EXACT in picture.get_attribute("aria-label")


def test_the_sample_in_focus_is_written_out_as_a_step(show):
    page = show(HoldIt(A=-2, delta=0.5))
    handle(page, 4).focus()
    frame(page)
    lines = page.locator(".mv-hold-look").all_text_contents()
    assert lines[0] == (
        "At the end of the hold of x₄ the curve is at y(2.5) = −0.14"
    )
    assert lines[1] == (
        "and the dot is at h₄ = Ā h₃ + B̄ x₄"
        " = 0.368 · 0.823 + 0.632 · (−0.7) = −0.14"
    )


def test_python_may_change_how_many_samples_there_are(show):
    page = show(HoldIt())
    handle(page, 2).focus()
    put(page, "samples", [0.5] * 12)
    assert page.locator(".mv-handle").count() == len(dots(page)) == 12
    put(page, "samples", [0.5] * 8)
    assert page.locator(".mv-handle").count() == len(dots(page)) == 8
    # Whoever was at a handle is there still, and so after a new layout.
    assert focused(page) == "x_2"
    page.set_viewport_size({"width": 420, "height": 700})
    frame(page)
    frame(page)
    assert focused(page) == "x_2"


def focused(page):
    return page.evaluate("document.activeElement.getAttribute('aria-label')")


def test_a_dot_beyond_the_picture_is_an_arrow_at_its_edge(show):
    page = show(HoldIt(A=-4, delta=1.5, rule="euler"))
    box = page.locator(".mv-hold-band").bounding_box()
    for k, (_, y) in enumerate(dots(page)):
        up = page.locator(".mv-hold-dots path").nth(k)
        top = page.locator("svg.mv-picture").bounding_box()["y"]
        assert box["y"] < top + y < box["y"] + box["height"]
        below = y > box["height"] / 2
        flipped = up.get_attribute("transform") == "scale(1 -1)"
        assert flipped == below == (k % 2 == 1)


def test_in_steps_there_is_no_time_and_no_curve(show):
    widget = HoldIt(view="steps")
    assert "in steps" in widget.numbers()["What is shown"]
    page = show(HoldIt(), viewport={"width": 760, "height": 900})
    of_time = (*("tread", "area", "curve", "misses", "edges", "delta"),)
    for name in of_time:
        assert page.locator(f".mv-hold-{name}").first.is_visible() or (
            name == "misses"  # there are none with the zero-order hold
        )
    page.get_by_role("radio", name="in steps").focus()
    page.keyboard.press("Space")
    assert state(page, "view") == "steps"
    for name in of_time:
        assert not page.locator(f".mv-hold-{name}").first.is_visible()
    sticks = page.locator(".mv-hold-sticks").get_attribute("d")
    grips = page.locator(".mv-grip").evaluate_all(
        "(all) => all.map((grip) => grip.cx.baseVal.value)"
    )
    across = [float(x) for x in re.findall(r"M([\d.]+)", sticks)]
    # Input and output of one k stand at one place.
    assert across == pytest.approx(grips, abs=0.1)
    assert [x for x, _ in dots(page)] == pytest.approx(grips, abs=0.1)
    ticks = page.locator(".mv-hold-times text").all_text_contents()
    assert ticks == ["k = 0", *map(str, range(1, 10))]
    names = page.locator(".mv-hold-dots text").all_text_contents()
    assert names[:2] == ["y₀", "y₁"]
    assert "no time" in page.locator("svg.mv-picture").get_attribute(
        "aria-label"
    )
    said = page.locator(".mv-hold-look").all_text_contents()
    assert said[0] == "Step k = 1: x₁ goes in, y₁ = h₁ comes out"
    third = handle(page, 3)
    third.focus()
    page.keyboard.press("ArrowDown")
    assert state(page, "samples")[3] == 0.8
    assert third.get_attribute("aria-valuetext") == "0.8, at step 3"


def test_the_outputs_of_the_steps_are_the_states_of_python(show):
    widget = HoldIt(view="steps", rule="mamba", samples=[0.5, -0.25] * 4)
    page = show(widget, viewport={"width": 760, "height": 900})
    wanted = [float(h) for h in widget.numbers()["h"].split(", ")]
    # 280 pixels are 2.9 of the axis; 0 is in the middle.
    found = [(190 - y) * 2.9 / 280 for _, y in dots(page)]
    assert found == pytest.approx(wanted, abs=0.006)
    page.get_by_role("radio", name="in time").focus()
    page.keyboard.press("Space")
    assert state(page, "view") == "time"
    assert page.locator(".mv-hold-sticks").is_visible() is False
    assert page.locator(".mv-hold-dots text").first.text_content() == "h₀"
