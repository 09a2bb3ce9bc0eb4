"""FiveRules: its numbers, its drawing, and its knobs in a browser."""

import math
import re
from itertools import pairwise

import pytest
import traitlets

from mambaviz.theme import RULES
from mambaviz.theory.discretize import (
    DISCRETIZATION_RULES,
    discretize_mamba,
    discretize_zoh,
)
from mambaviz.widgets import FiveRules

RATIO = "|B̄| of Mamba's code ÷ ZOH's"
LEAVES = "Euler leaves the circle at Δ"
NAMES = {
    "zoh": "ZOH, Mamba's code",
    "bilinear": "bilinear",
    "backward_euler": "backward Euler",
    "euler": "Euler",
}
# Mild, real, and the corners of the knobs' ranges.
STATES = [
    {"delta": 1.0, "A": -0.4, "frequency": 1.0},
    {"delta": 1.6, "A": -1.0, "frequency": 0.0},
    {"delta": 0.01, "A": -0.05, "frequency": 0.0},
    {"delta": 0.01, "A": -8.0, "frequency": 8.0},
    {"delta": 4.0, "A": -0.05, "frequency": 8.0},
    {"delta": 4.0, "A": -8.0, "frequency": 0.0},
    {"delta": 4.0, "A": -8.0, "frequency": 8.0},
]


def size_of(rule, widget):
    """|A_bar| as the theory has it."""
    A = complex(widget.A, widget.frequency)
    return abs(DISCRETIZATION_RULES[rule](A, 1.0, widget.delta)[0].item())


class TestNumbers:
    @pytest.mark.parametrize("state", STATES)
    def test_sizes_and_fates_are_those_of_the_theory(self, state):
        widget = FiveRules(**state)
        numbers = widget.numbers()
        for rule, name in NAMES.items():
            text, fate = numbers[f"|Ā| of {name}"].split(", ")
            size = size_of(rule, widget)
            assert float(text) == pytest.approx(size, rel=5e-3)
            assert fate == ("fades" if size < 1 else "grows")
            assert float(text) != 1

    def test_mambas_code_shares_the_pole_of_zoh(self):
        for state in STATES:
            widget = FiveRules(**state)
            assert size_of("mamba", widget) == size_of("zoh", widget)

    @pytest.mark.parametrize(
        ("product", "ratio"),
        [(0.1, "1.05"), (1.0, "1.58"), (1.6, "2"), (4.0, "4.07")],
    )
    def test_b_bar_of_mambas_code_for_a_real_state(self, product, ratio):
        # The product alone counts, however it is shared.
        for delta in (product, product / 2):
            A = -product / delta
            widget = FiveRules(delta=delta, A=A, frequency=0)
            assert widget.numbers()[RATIO] == ratio
            zoh, mamba = (
                rule(A, 1.0, delta)[1].item()
                for rule in (discretize_zoh, discretize_mamba)
            )
            assert float(ratio) == pytest.approx(mamba / zoh, rel=5e-3)

    @pytest.mark.parametrize("state", STATES)
    def test_euler_leaves_where_it_says(self, state):
        widget = FiveRules(**state)
        at = float(widget.numbers()[LEAVES])
        A = complex(widget.A, widget.frequency)
        assert abs(1 + 0.99 * at * A) < 1 < abs(1 + 1.01 * at * A)

    def test_only_euler_ever_grows(self):
        grown = set()
        for state in STATES:
            widget = FiveRules(**state)
            grown |= {r for r in RULES if size_of(r, widget) > 1}
            A = complex(widget.A, widget.frequency)
            outside = abs(1 + widget.delta * A) > 1
            assert ("grows" in widget.numbers()["|Ā| of Euler"]) == outside
        assert grown == {"euler"}

    def test_at_first_four_rules_are_inside_and_euler_is_outside(self):
        sizes = {rule: size_of(rule, FiveRules()) for rule in RULES}
        assert 1 < sizes.pop("euler") < 1.3
        assert max(sizes.values()) < 1

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("delta", 0),
            ("delta", -1),
            ("delta", math.nan),
            ("delta", 7),
            ("A", 0),
            ("A", 0.5),
            ("A", -1 + 1j),
            ("A", -1e300),
            ("frequency", -1),
            ("frequency", "fast"),
            ("frequency", None),
        ],
    )
    def test_absurd_values_are_refused_by_name(self, name, value):
        widget = FiveRules()
        before = getattr(widget, name)
        told = f"{name} must be a number from .*{re.escape(repr(value))}"
        with pytest.raises(traitlets.TraitError, match=told):
            setattr(widget, name, value)
        assert getattr(widget, name) == before

    def test_an_unknown_knob_is_refused(self):
        with pytest.raises(TypeError, match="no knob omega"):
            FiveRules(omega=1)

    def test_every_rule_is_handed_its_look(self):
        assert list(RULES) == ["zoh", "mamba", *list(NAMES)[1:]]
        assert set(RULES) == set(DISCRETIZATION_RULES)
        rules = FiveRules().words["rules"]
        assert {n: r["label"] for n, r in rules.items()} == {
            n: style.label for n, style in RULES.items()
        }
        # Ink is never all that tells two rules apart.
        assert len({style.marker for style in RULES.values()}) == len(RULES)
        assert len({style.dashes for style in RULES.values()}) == len(RULES)


def sized(width):
    return {"width": width, "height": 900}


def look(page):
    """What is drawn and what is written, once it is painted."""
    page.evaluate("() => new Promise(requestAnimationFrame)")
    picture = page.locator("svg.mv-picture")
    return {
        "picture": picture.inner_html(),
        "said": picture.get_attribute("aria-label"),
        "readouts": page.locator(".mv-readouts").inner_text(),
    }


def put(page, **values):
    page.evaluate(
        "(values) =>"
        " document.querySelector('.mv-explorable').model.set(values)",
        values,
    )
    return look(page)


def boxes(page, selector):
    """Where things are drawn, in pixels: left, top, right, bottom."""
    return page.locator(selector).evaluate_all(
        "(all) => all"
        ".filter((one) => one.textContent || one.tagName != 'text')"
        ".map((one) => { const r = one.getBoundingClientRect();"
        " return [r.left, r.top, r.right, r.bottom]; })"
    )


@pytest.mark.browser
class TestDrawing:
    @pytest.mark.parametrize("state", STATES)
    def test_the_readouts_are_pythons_numbers(self, show, state):
        widget = FiveRules(**state)
        page = show(widget, viewport=sized(760))
        shown = dict(
            zip(
                page.locator(".mv-readouts dt").all_inner_texts(),
                page.locator(".mv-readouts dd").all_inner_texts(),
                strict=True,
            )
        )
        numbers = widget.numbers()
        assert list(shown) == list(numbers)[3:]
        for name, text in shown.items():
            size, *fate = text.split(", ")
            wanted, *wanted_fate = numbers[name].split(", ")
            assert fate == wanted_fate
            assert number(size) == pytest.approx(float(wanted), rel=1e-9)

    def test_poles_stand_where_the_theory_says(self, show):
        widget = FiveRules()
        page = show(widget, viewport=sized(760))
        (circle,) = boxes(page, ".mv-rule-disc")
        radius = (circle[2] - circle[0]) / 2
        origin = (circle[0] + radius, circle[1] + radius)
        # The key beside a readout is no pole: look into the picture alone.
        drawn = page.locator(
            "svg.mv-picture g.mv-rule[transform]"
        ).evaluate_all(
            "(all) => all.map((one) => { const { e, f } ="
            " one.getScreenCTM(); return [e, f]; })"
        )
        assert len(drawn) >= len(NAMES)
        A = complex(widget.A, widget.frequency)
        for rule, (x, y) in zip(NAMES, drawn, strict=False):
            found = complex(x - origin[0], origin[1] - y) / radius
            A_bar = DISCRETIZATION_RULES[rule](A, 1.0, widget.delta)[0].item()
            assert abs(found - A_bar) < 0.01, rule

    @pytest.mark.parametrize("width", [360, 760])
    @pytest.mark.parametrize("state", STATES)
    def test_no_name_covers_another_or_leaves_the_picture(
        self, show, width, state
    ):
        page = show(FiveRules(**state), viewport=sized(width))
        (frame,) = boxes(page, ".mv-rule-frame")
        names = boxes(page, ".mv-rule-halo")
        assert len(names) == len(NAMES)
        for left, top, right, bottom in names:
            assert frame[0] <= left < right <= frame[2]
            assert frame[1] <= top < bottom <= frame[3]
        for k, one in enumerate(names):
            for other in names[k + 1 :]:
                # Boxes hold the letters' full height: let them touch.
                beside = one[2] <= other[0] + 1 or other[2] <= one[0] + 1
                apart = one[3] <= other[1] + 2 or other[3] <= one[1] + 2
                assert beside or apart, (one, other)
        (stage,) = boxes(page, ".mv-stage")
        for left, _, right, bottom in boxes(page, "svg.mv-picture text"):
            assert stage[0] - 1 <= left < right <= stage[2] + 1
            assert bottom <= stage[3] + 1

    def test_beyond_the_picture_there_is_an_arrow_and_a_value(self, show):
        page = show(FiveRules(delta=4, A=-8, frequency=8), viewport=sized(760))
        arrows = page.locator(".mv-rule-arrow").evaluate_all(
            "(all) => all.map((one) => one.getAttribute('d'))"
        )
        assert [bool(d) for d in arrows] == [False, False, False, True]
        names = page.locator(".mv-rule-halo").all_text_contents()
        assert names[-1] == "Euler: −31 + 32i"
        beyond = page.locator(".mv-rule-beyond").all_text_contents()
        size = abs(1 + 4 * (-8 + 8j)) ** 30
        assert beyond[:3] == [""] * 3
        assert beyond[3] == f"|h| reaches {size / 1e49:.2f}·10⁴⁹ ↑"
        put(page, delta=0.1)
        assert page.locator(".mv-rule-arrow").last.get_attribute("d") == ""
        assert page.locator(".mv-rule-halo").last.text_content() == "Euler"
        assert page.locator(".mv-rule-beyond").last.text_content() == ""

    def test_dots_of_zoh_lie_on_the_true_curve(self, show):
        page = show(
            FiveRules(delta=0.5, A=-0.3, frequency=2.5), viewport=sized(760)
        )
        curve = points(page.locator(".mv-rule-truth").first)
        dots = points(page.locator(".mv-rule-dots").first)
        assert len(dots) == 31
        for x, y in dots:
            near = min(curve, key=lambda point: abs(point[0] - x))
            assert y == pytest.approx(near[1], abs=0.2)
        # Another rule's do not.
        bilinear = points(page.locator(".mv-rule-dots").nth(1))
        gaps = (
            abs(y - z) for (_, y), (_, z) in zip(dots, bilinear, strict=True)
        )
        assert max(gaps) > 5

    def test_dots_end_where_euler_leaves_the_strip(self, show):
        page = show(FiveRules(), viewport=sized(760))
        size = size_of("euler", FiveRules())
        inside = sum(size**k <= 1.5 for k in range(31))
        assert len(points(page.locator(".mv-rule-dots").last)) == inside
        put(page, delta=0.5)
        assert len(points(page.locator(".mv-rule-dots").last)) == 31

    def test_the_legend_says_when_the_curve_is_only_a_bound(self, show):
        page = show(FiveRules(delta=1, frequency=1), viewport=sized(760))
        legend = page.locator("svg.mv-picture text:has(.mv-rule-true)")
        assert "curve the true Re h" in legend.text_content()
        put(page, delta=4, frequency=8)
        assert "curve the true ±|h|" in legend.text_content()

    def test_the_trail_of_a_rule_leads_from_one_to_its_marker(self, show):
        page = show(FiveRules(), viewport=sized(760))
        (circle,) = boxes(page, ".mv-rule-disc")
        trails = page.locator(".mv-rule-trail")
        assert trails.count() == len(NAMES)
        starts = {points(trails.nth(k))[0] for k in range(len(NAMES))}
        assert len(starts) == 1
        # Half a turn or less, in steps too short to be seen as corners.
        for k in range(3):
            way = points(trails.nth(k))
            longest = max(math.dist(a, b) for a, b in pairwise(way))
            assert longest < (circle[2] - circle[0]) / 12


@pytest.mark.browser
class TestKnobs:
    @pytest.mark.parametrize("knob", ["delta", "A", "frequency"])
    @pytest.mark.parametrize("means", ["mouse", "keyboard"])
    def test_a_knob_moves_picture_and_readouts_and_reset_undoes_it(
        self, show, knob, means
    ):
        page = show(FiveRules(), viewport=sized(760))
        before = look(page)
        slider = page.locator(f"input[data-trait={knob}]")
        if means == "mouse":
            box = slider.bounding_box()
            middle = box["y"] + box["height"] / 2
            page.mouse.move(box["x"] + box["width"] / 2, middle)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] * 0.93, middle, steps=4)
            page.mouse.up()
        else:
            slider.focus()
            page.keyboard.press("ArrowRight")
            page.keyboard.press("ArrowRight")
        after = look(page)
        assert all(before[part] != after[part] for part in before)
        page.get_by_role("button", name="Reset").click()
        assert look(page) == before

    @pytest.mark.parametrize("knob", ["delta", "A", "frequency"])
    def test_a_typed_number_out_of_range_is_refused(self, show, knob):
        page = show(FiveRules(), viewport=sized(760))
        before = look(page)
        field = page.locator(f"input[data-field={knob}]")
        shown = field.input_value()
        field.fill("99")
        field.press("Enter")
        assert "99" in page.get_by_role("alert").inner_text()
        assert field.input_value() == shown
        assert look(page) == before

    def test_every_state_draws_finite_numbers(self, show):
        page = show(FiveRules(), viewport=sized(360))
        for state in STATES:
            drawn = put(page, **state)
            for word in ("NaN", "Infinity", "undefined"):
                assert not any(word in part for part in drawn.values())


def points(path):
    """The corners of a drawn line, or the dots, in the picture's pixels."""
    d = path.get_attribute("d")
    found = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", d)
    return [(float(x), float(y)) for x, y in found]


def number(text):
    """A number as the book prints it."""
    text = text.replace("−", "-")
    mantissa, _, power = text.partition("·10")
    digits = "⁰¹²³⁴⁵⁶⁷⁸⁹"
    exponent = "".join(
        "-" if c == "⁻" else str(digits.index(c)) for c in power
    )
    return float(mantissa) * 10 ** int(exponent or 0)
