"""The door ``check``, and the card that it shows."""

import html.parser
import re
import subprocess
import sys

import pytest

from mambaviz import exercises, theme
from mambaviz.exercises import Exercise, Mistake, Result
from mambaviz.exercises.judges import Number

TWO = Exercise(
    "test/two",
    "What is 1 + 1, within 1 %?",
    2.0,
    Number(rtol=0.01),
    [
        Mistake(-2.0, "Mind the sign."),
        Mistake(20.0, "Ten times `too` large.", judge=Number(rtol=0.5)),
        Mistake(11.0, "Add, do not append."),
    ],
    nudge="Count your <fingers>.",
)


def test_nothing_heavy_is_imported_before_an_exercise_is_asked_for():
    code = (
        "import sys, mambaviz.exercises as e; e.stylesheet();"
        "print('torch' in sys.modules); e.names();"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    "name", ["zoh/halflife", "half-life", "Zoh/half-life", "zoh/half-life "]
)
def test_an_unknown_name_is_answered_with_all_names_nearest_first(name):
    with pytest.raises(ValueError, match="no exercise is called") as caught:
        exercises.check(name, 1.0)
    assert repr(name) in str(caught.value)
    listed = re.findall(r"'([a-z0-9-]+/[a-z0-9-]+)'", str(caught.value))
    listed = [n for n in listed if n != name]
    assert listed[0] == "zoh/half-life"
    assert sorted(listed) == sorted(exercises.names())


@pytest.mark.parametrize("name", [0.0139, None, "", "zoh", "zoh/"])
def test_what_is_no_name_is_unknown_too(name):
    with pytest.raises(ValueError, match="zoh/half-life"):
        exercises.check(name)


def test_the_first_mistake_that_fits_gives_the_hint():
    assert TWO.check(2.01).passed is True
    assert TWO.check(-2.0).hint == "Mind the sign."
    assert TWO.check(20.0).hint == "Ten times `too` large."
    # Both fit; the wider one stands first.
    assert TWO.check(11.0).hint == "Ten times `too` large."
    assert TWO.check(7.0).hint == "Count your <fingers>."


def test_an_answer_of_the_wrong_kind_is_quoted_and_told_the_right_one():
    result = TWO.check("2")
    assert result.passed is False
    assert "asks for a number, within 1 %" in result.message
    assert "'2'" in result.message
    assert result.hint == 'Run `check("test/two", your_number)`.'


def test_a_result_is_true_for_a_right_answer_only():
    assert TWO.check(2.0)
    assert not TWO.check(3.0)
    assert not TWO.check()


def test_the_text_of_a_card():
    assert repr(TWO.check(-2)) == (
        "→ Not yet: test/two\n  You gave -2.\n  Hint: Mind the sign."
    )
    assert repr(TWO.check()) == (
        "○ No answer yet: test/two\n"
        "  What is 1 + 1, within 1 %?\n"
        "  Nothing was given yet. To answer, run "
        '`check("test/two", your_number)`.'
    )
    assert repr(TWO.check(2)) == (
        "✓ Right: test/two\n  We computed 2, and you gave 2."
    )


class Reader(html.parser.HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("passed", [None, True, False])
def test_a_card_is_well_formed_and_escapes_everything(passed):
    evil = "<img src=x onerror=alert(1)> & \"quotes' `<i>code</i>`"
    page = Reader(Result(evil, passed, evil, evil)._repr_html_())
    assert page.open == []
    allowed = {"div", "p", "span", "strong", "code"}
    assert {tag for tag, _ in page.tags} == allowed
    assert page.text.count("<img src=x onerror=alert(1)> & \"quotes' ") == 3
    assert "<i>code</i>" in page.text
    assert all(
        set(attributes) <= {"class", "style", "aria-hidden"}
        for _, attributes in page.tags
    )


def test_the_status_does_not_hang_on_colour_alone():
    cards = [TWO.check(answer)._repr_html_() for answer in (None, 2.0, 3.0)]
    words = ("No answer yet", "Right", "Not yet")
    for card, word in zip(cards, words, strict=True):
        assert f"<strong>{word}</strong>" in card
    edges = [re.search(r"border-left: 4px (\w+)", c).group(1) for c in cards]
    assert len(set(edges)) == 3


def test_every_colour_is_the_palettes_with_its_light_ink_to_fall_back_on():
    sources = [exercises.stylesheet()]
    sources += [TWO.check(a)._repr_html_() for a in (None, 2.0, 3.0)]
    for source in sources:
        # JupyterLab's own colour may stand between the two.
        variables = re.findall(
            r"var\(--mv-(\w+), (?:var\(--jp-[\w-]+, )?(#\w+)\)", source
        )
        assert variables
        for name, fallback in variables:
            assert fallback == theme.INKS[name].light
        assert len(re.findall(r"#[0-9a-f]{3,8}\b", source)) == len(variables)


def test_the_style_sheet_knows_the_classes_of_the_cards():
    css = exercises.stylesheet()
    cards = "".join(TWO.check(a)._repr_html_() for a in (None, 2.0, 3.0))
    styled = set(re.findall(r"\.(mv-check[\w-]*)", css))
    used = set(" ".join(re.findall(r'class="([^"]+)"', cards)).split())
    assert styled <= used
    assert css.count("{") == css.count("}")
