"""What every explorable is: knobs with limits, one module, two hosts."""

import html
import importlib
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import traitlets

from mambaviz import widgets
from mambaviz.theory import euler_to_zoh_ratio, held_state
from mambaviz.widgets import HoldIt, MemoryDecay, explorable, modules
from mambaviz.widgets.traits import Choice, Quantity, Series

ALL = [getattr(widgets, name) for name in widgets.__all__]
VIEW = "application/vnd.jupyter.widget-view+json"

KNOBS = [
    pytest.param(kind, name, knob, id=f"{kind.__name__}-{name}")
    for kind in ALL
    for name, knob in kind.knob_traits().items()
]
BOOK = Path(__file__).parents[2]
HUGE = 10**400  # too large for a float


@pytest.fixture(autouse=True)
def _afresh(monkeypatch):
    monkeypatch.setattr(explorable, "_shown", Counter())
    monkeypatch.delenv("MAMBAVIZ_STATIC", raising=False)


@pytest.fixture
def static(monkeypatch):
    monkeypatch.setenv("MAMBAVIZ_STATIC", "1")


class Page(HTMLParser):
    """The scripts and the text of a piece of a page, as a browser cuts it."""

    def __init__(self, source):
        super().__init__()
        self.scripts, self.words, self.ids, self.tags = [], [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)

    @property
    def state(self):
        return json.loads(self.scripts[0])

    @property
    def text(self):
        return "".join(self.words)


def senseless(knob):
    """Values that a knob must refuse."""
    always = [math.nan, math.inf, -math.inf, None, True, "0.5", [], {}, HUGE]
    if isinstance(knob, Quantity):
        beyond = [knob.low - 1e-9, knob.high + 1e-9, 1e300, -1e300, 1j]
        return always + beyond + ([knob.low + 0.5] if knob.integer else [])
    if isinstance(knob, Choice):
        return [*always, 0, knob.default_value.upper(), ""]
    assert isinstance(knob, Series)
    good = list(knob.default_value)
    return [
        *always,
        0.5,
        good[: knob.shortest - 1],
        good[:1] * (knob.longest + 1),
        "1" * knob.shortest,
        [str(value) for value in good],
        *([*good[:-1], bad] for bad in [math.nan, 1e9, None, True, HUGE]),
    ]


@pytest.mark.parametrize("kind", ALL)
def test_an_unknown_keyword_is_named(kind):
    with pytest.raises(TypeError, match="no knob Delta, colour; its knobs"):
        kind(colour="red", Delta=1)


@pytest.mark.parametrize(("kind", "name", "knob"), KNOBS)
def test_senseless_values_are_refused_by_name_and_value(kind, name, knob):
    widget = kind()
    before = getattr(widget, name)
    for value in senseless(knob):
        said = re.escape(f"you gave {value!r}")
        with pytest.raises(traitlets.TraitError, match=said) as refusal:
            setattr(widget, name, value)
        assert f"{name} must be " in str(refusal.value)
        assert getattr(widget, name) == before
        with pytest.raises(traitlets.TraitError, match=said):
            kind(**{name: value})


@pytest.mark.parametrize(("kind", "name", "knob"), KNOBS)
def test_what_lies_at_the_limits_is_taken(kind, name, knob):
    if isinstance(knob, Quantity):
        values = [knob.low, knob.high, torch.tensor(knob.high).item()]
    elif isinstance(knob, Choice):
        values = list(knob.options)
    else:
        values = [
            [knob.low] * knob.shortest,
            [knob.high] * knob.longest,
        ]
    widget = kind()
    for value in values:
        setattr(widget, name, value)
        assert getattr(widget, name) == value
        assert kind(**{name: value}).numbers()


@pytest.mark.parametrize("delta", [-1, 0, -1e-300, math.nan])
def test_the_refusal_of_a_delta_says_what_would_be_right(delta):
    with pytest.raises(
        traitlets.TraitError, match=r"delta must be a number from 0.001 to 1"
    ):
        MemoryDecay(delta=delta)


def test_a_huge_state_is_refused():
    with pytest.raises(
        traitlets.TraitError, match="whole number from 1 to 16; you gave 10000"
    ):
        MemoryDecay(states=10_000)


def test_a_series_is_copied():
    mine = [0.5] * 8
    widget = HoldIt(samples=mine)
    mine[0] = 99.0
    assert widget.samples == [0.5] * 8
    assert HoldIt(samples=torch.full((8,), 0.5)).samples == [0.5] * 8


@pytest.mark.parametrize("kind", ALL)
def test_a_trait_can_be_observed_and_linked(kind):
    name, knob = next(
        (n, k)
        for n, k in kind.knob_traits().items()
        if isinstance(k, Quantity)
    )
    one, other = kind(), kind()
    seen = []
    one.observe(lambda change: seen.append(change.new), name)
    traitlets.link((one, name), (other, name))
    setattr(other, name, knob.low)
    assert getattr(one, name) == knob.low
    assert seen == [knob.low]


@pytest.mark.parametrize("kind", ALL)
def test_in_jupyter_it_is_a_widget(kind):
    widget = kind()
    bundle = widget._repr_mimebundle_()
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    assert bundle[VIEW]["model_id"] == widget.model_id
    assert "text/html" not in bundle
    synced = widget.get_state()
    assert {*kind.knob_traits(), "words", "knobs", "_esm", "_css"} <= {*synced}
    json.dumps({name: synced[name] for name in (*kind.knob_traits(), "knobs")})


@pytest.mark.parametrize("kind", ALL)
def test_in_the_book_it_is_html_alone(kind, static):
    widget = kind()
    bundle = widget._repr_mimebundle_()
    # Only a terminal shows the plain text.
    assert set(bundle) == {"text/plain", "text/html"}
    assert bundle["text/plain"] == repr(widget)
    assert widget.comm is None


@pytest.mark.parametrize("kind", ALL)
def test_the_book_carries_the_state(kind):
    widget = kind()
    state = Page(widget.static_html()).state
    assert set(state) == {*kind.knob_traits(), "words", "knobs"}
    for name in kind.knob_traits():
        assert state[name] == getattr(widget, name)
    assert state["words"]["question"] == kind.question
    assert list(state["knobs"]) == list(kind.knob_traits())


@pytest.mark.parametrize("kind", ALL)
def test_without_javascript_the_words_and_numbers_stand_there(kind):
    widget = kind()
    text = Page(widget.static_html()).text
    assert kind.question.endswith("?")
    assert widget.numbers()
    for part in (kind.question, kind.lesson, *itemised(widget.numbers())):
        assert part in text


def itemised(numbers):
    for name, value in numbers.items():
        assert isinstance(value, str), name
        yield from (name, value)


@pytest.mark.parametrize("kind", ALL)
def test_two_on_a_page_are_told_apart(kind):
    page = Page("".join(kind().static_html() for _ in range(3)))
    first = kind._module.replace("_", "-")
    assert page.ids == [first, f"{first}-2", f"{first}-3"]


def test_no_word_ends_the_script_or_becomes_a_tag():
    evil = "</script><img src=x onerror=y> <script> & \"'"

    class Evil(MemoryDecay):
        question = lesson = answer = evil

        def numbers(self):
            return {evil: evil}

    source = Evil().static_html()
    page = Page(source)
    assert page.state["words"]["question"] == evil
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert page.text == evil * 4
    assert html.escape(evil) in source
    assert "</" not in page.scripts[0]


def test_no_word_hides_the_end_of_the_script():
    """After "<!-- <script>" a browser looks for two ends of the script."""

    class Evil(MemoryDecay):
        question = "<!-- <script>"

    assert "<" not in Page(Evil().static_html()).scripts[0]


@pytest.mark.parametrize("kind", ALL)
def test_repr_is_what_python_would_write(kind):
    widget = kind()
    again = eval(repr(widget), {kind.__name__: kind})
    assert repr(again) == repr(widget)


@pytest.mark.parametrize("kind", ALL)
def test_the_code_behind_it_is_shown_in_the_book(kind):
    assert kind.computed
    for path, address in kind.computed.items():
        room, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(room), name) is not None
        page, anchor = address.split("#")
        text = (BOOK / page).with_suffix(".md").read_text(encoding="utf-8")
        assert f":name: {anchor}\n" in text, address


def test_memory_decay_prints_what_theory_gives():
    # At ΔA = -ln 2 a state loses half in every step.
    half = MemoryDecay(A=-1.0, delta=math.log(2)).numbers()
    assert half["Half-life"] == "1 steps"
    assert half["Ā = exp(ΔA)"] == "0.5"
    assert half["Left after 10 steps"] == "0.1%"
    # Claim S086: from 693 steps to 0.43.
    assert MemoryDecay(A=-1, delta=0.001).numbers()["Half-life"] == "693 steps"
    assert (
        MemoryDecay(A=-16, delta=0.1).numbers()["Half-life"] == "0.433 steps"
    )


@pytest.mark.parametrize(("A", "delta"), [(-2.0, 0.5), (-0.1, 1.5)])
def test_hold_it_prints_what_theory_gives(A, delta):
    ends = delta * torch.arange(1, 11, dtype=torch.float64)
    x = torch.tensor(HoldIt().samples, dtype=torch.float64)
    a = torch.tensor([A], dtype=torch.float64)
    h = held_state(a, -a, x, delta, ends).flatten()

    zoh = HoldIt(A=A, delta=delta).numbers()
    assert zoh["Largest gap"] == "0 within rounding"
    assert float(zoh["Ā"]) == pytest.approx(math.exp(A * delta), rel=5e-3)
    printed = [float(value) for value in zoh["h"].split(", ")]
    assert printed == pytest.approx(h.tolist(), rel=5e-3)

    # The same A_bar and a larger B_bar: every state grows by one factor.
    mamba = HoldIt(A=A, delta=delta, rule="mamba").numbers()
    gap = (euler_to_zoh_ratio(A, delta) - 1) * h.abs().max()
    assert float(mamba["Largest gap"]) == pytest.approx(gap.item(), rel=5e-3)


def test_an_explorable_is_a_class_and_a_module_of_the_same_name():
    assert modules.names() == sorted(kind._module for kind in ALL)
    for kind in ALL:
        assert kind.__module__ == f"mambaviz.widgets.{kind._module}"
    with pytest.raises(ValueError, match="no explorable 'lib'; there are"):
        modules.module("lib")


@pytest.mark.parametrize(
    "source",
    [
        modules.library(),
        *(modules.module(name) for name in modules.names()),
    ],
)
def test_modules_keep_to_what_needs_no_bundler(source):
    assert not re.search(r"^[ \t]*import\b", source, re.MULTILINE)
    # An export is seen at the start of a line, and there only.
    plain = (
        r"^export (default \{ render \};$|(async )?function |const |class )"
    )
    for line in re.findall(r"^[ \t]*export\b.*", source, re.MULTILINE):
        assert re.match(plain, line), line


def test_exports_are_found_and_turned_into_a_classic_script(
    tmp_path, monkeypatch
):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.js").write_text("export const one = 1;\n")
    source = (
        "export function two() {\n  return one + 1;\n}\n"
        "export async function three() {}\n"
        "export class Four {}\n"
        "const five = 'export function six() {}';\n"
        "export default { render };\n"
    )
    (tmp_path / "count.js").write_text(source)
    monkeypatch.setattr(modules, "ROOM", tmp_path)
    monkeypatch.setattr(modules, "LIBRARY", ("a.js",))

    assert modules.names() == ["count"]
    assert modules.exports(source) == ["two", "three", "Four"]
    assert modules.esm("count") == f"const one = 1;\n\n{source}"
    assert modules.classic("lib") == (
        'MambaViz.define("lib", (lib) => {\n"use strict";\n'
        "const one = 1;\n\nreturn { one };\n});\n"
    )
    assert modules.classic("count") == (
        'MambaViz.define("count", (lib) => {\n"use strict";\n'
        "const { one } = lib;\n"
        "function two() {\n  return one + 1;\n}\n"
        "async function three() {}\n"
        "class Four {}\n"
        "const five = 'export function six() {}';\n"
        "const explorable = { render };\n\n"
        "return { two, three, Four, default: explorable };\n});\n"
    )


@pytest.mark.parametrize("kind", ALL)
def test_a_class_carries_its_module_and_the_palette(kind):
    assert kind._esm.endswith(modules.module(kind._module))
    assert kind._esm.count("\nexport default") == 1
    assert "--mv-delta:" in kind._css
    assert ".mv-card" in kind._css
