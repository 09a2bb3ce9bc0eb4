"""A slider, a typed number, a link and Python obey the same limits."""

import math
from decimal import Decimal
from itertools import pairwise

import pytest
import traitlets

from mambaviz import widgets
from mambaviz.widgets import HoldIt, modules
from tests.browsing import HOST, page_with

pytestmark = pytest.mark.browser

ANYTHING = [
    *(math.nan, math.inf, -math.inf, 0, 1, -1, 0.5, 1.5, 2, 4.0, 16, 17),
    *(-0.1, -4, -16, -16.000001, 0.001, 0.0009, 1e300, -1e300, 1e-300),
    *(None, True, "", "0.5", "zoh", "mamba", "Zero-order hold"),
    *([], [0.5] * 7, [0.5] * 8, [-1] * 12, [1] * 13, {}),
    *([bad] * 8 for bad in (math.nan, 1.01, None, True, "0.5", [0.5])),
]


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    page.add_script_tag(content=HOST.read_text(encoding="utf-8"))
    page.add_script_tag(content=modules.classic("lib"))
    yield page
    page.close()


@pytest.mark.parametrize("kind", widgets.__all__)
def test_javascript_refuses_what_python_refuses(page, kind):
    widget = getattr(widgets, kind)()
    asked, expected = [], []
    for name in widget.knob_traits():
        for value in ANYTHING:
            asked.append([name, widget.knobs[name], value])
            expected.append((name, value, taken(widget, name, value)))
    answers = page.evaluate(
        "(asked) => asked.map((one) =>"
        " !MambaViz.modules.lib.accept(...one).refusal)",
        asked,
    )
    found = [
        (*told[:2], answer)
        for told, answer in zip(expected, answers, strict=True)
    ]
    # As text, for NaN is not equal to itself.
    assert list(map(repr, found)) == list(map(repr, expected))
    assert {True, False} == {accepted for *_, accepted in expected}


@pytest.mark.parametrize("kind", widgets.__all__)
def test_wherever_a_slider_stands_python_takes_its_value(page, kind):
    widget = getattr(widgets, kind)()
    for name, knob in widget.knobs.items():
        if knob["kind"] != "quantity":
            continue
        values, back = places(page, knob)
        assert values[0] == knob["low"]
        assert values[-1] == knob["high"]
        assert values == sorted(set(values)), name
        assert back == list(range(int(back[0]), int(back[-1]) + 1)), name
        assert all(taken(widget, name, value) for value in values)


@pytest.mark.parametrize("kind", widgets.__all__)
def test_between_its_bounds_a_slider_stands_at_round_numbers(page, kind):
    for name, knob in getattr(widgets, kind)().knobs.items():
        if knob["kind"] != "quantity" or knob["integer"]:
            continue
        inner = [Decimal(str(value)) for value in places(page, knob)[0][1:-1]]
        assert 90 <= len(inner) < 300, name
        steps = {b - a for a, b in pairwise(inner)}
        leading = {step.as_tuple().digits[0] for step in steps}
        assert leading <= {1, 2, 5}, name
        for a, b in pairwise(inner):
            assert a % (b - a) == b % (b - a) == 0, name
        if knob["scale"] == "log":
            ratios = [abs(b / a) for a, b in pairwise(inner)]
            assert max(max(r, 1 / r) for r in ratios) < 1.11, name
        else:
            assert len(steps) == 1, name


def places(page, knob):
    """Every value a slider can have, and where each of them stands."""
    return page.evaluate(
        """(knob) => {
            const { low, high, at, value } = MambaViz.modules.lib
                .strides(knob);
            const all = [];
            for (let k = low; k <= high; k++) all.push(k);
            return [all.map(value), all.map(value).map(at)];
        }""",
        knob,
    )


# What every JavaScript object has, and no knob.
INHERITED = ["toString", "constructor", "__proto__"]


@pytest.mark.parametrize("name", INHERITED)
def test_what_every_object_has_is_no_option(page, name):
    knob = HoldIt().knobs["rule"]
    assert page.evaluate(
        "([name, knob]) =>"
        " MambaViz.modules.lib.accept('rule', knob, name).refusal",
        [name, knob],
    )


@pytest.mark.parametrize("name", INHERITED)
def test_what_every_object_has_is_no_knob(browser, tmp_path, name):
    file = tmp_path / "page.html"
    file.write_text(page_with(HoldIt()), encoding="utf-8")
    page = browser.new_page()
    try:
        page.goto(f"{file.as_uri()}#{anchor(file)}?{name}=1")
        assert page.locator(".mv-card").count() == 1
        assert name in page.locator(".mv-error").inner_text()
    finally:
        page.close()


def anchor(file):
    return file.read_text(encoding="utf-8").split(' id="')[1].split('"')[0]


def taken(widget, name, value):
    try:
        setattr(widget, name, value)
    except traitlets.TraitError:
        return False
    return True
