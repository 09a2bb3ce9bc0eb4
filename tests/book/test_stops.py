"""The map of the way, and the other parts that a build puts into pages."""

import json
import re

import pytest

from mambaviz.book import stops
from tests.book.conftest import Book

SOME = {"zero-order-hold": "zoh.html", "hippo": "../deep/hippo.html"}
ALL = {stop.chapter: f"{stop.chapter}.html" for stop in stops.STOPS}


def test_every_stop_is_drawn_for_a_desk_and_for_a_phone():
    drawn = stops.picture(SOME)
    for stop in stops.STOPS:
        assert len(re.findall(rf">\d+ {stop.title}</text>", drawn)) == 2
    assert drawn.count('<path class="mv-way-arrow"') == 2 * (
        len(stops.STOPS) - 1
    )


def test_a_stop_that_is_there_is_a_link():
    drawn = stops.picture(SOME)
    assert re.findall('href="([^"]+)"', drawn) == 2 * [
        "zoh.html",
        "../deep/hippo.html",
    ]
    assert drawn.count("mv-way-later") == 2 * (len(stops.STOPS) - 2)
    assert "mv-way-later" not in stops.picture(ALL)


def test_the_words_say_what_the_picture_says():
    words = stops.in_words(SOME)
    assert len(re.findall(r"^\d+\. ", words, re.MULTILINE)) == len(stops.STOPS)
    assert "[Zero-order hold](zero-order-hold.md): takes a step $\\Delta$" in (
        words
    )
    assert "**Selection**: $\\Delta$, $B$ and $C$ depend on the token" in words


def test_no_line_is_wider_than_its_box():
    for stop in stops.STOPS:
        for line in (*stop.idea, *stop.but):
            # About 6.4 px a letter at 12.5 px; a box has 180 px for text.
            assert len(line.replace("`", "")) <= 29, line


def test_an_edition_names_what_it_holds():
    assert "holds all 11 chapters" in stops.edition(ALL)
    some = stops.edition(SOME)
    assert "holds 2 of the 11 chapters" in some
    assert (
        "[Zero-order hold](zero-order-hold.md) and "
        "[HiPPO and S4](hippo.md)." in some
    )
    assert "none" in stops.edition({})


@pytest.mark.build
def test_marks_are_filled_and_the_ledger_is_offered(tmp_path):
    book = Book(tmp_path)
    book.write(
        {
            "index": "# A book\n\n## How does Mamba work\n\n"
            "## Three ways to read\n\n## From the problem to Mamba\n\n"
            "% generated: way\n\n% generated: edition\n",
            "works": "# Works\n\n```{bibliography}\n```\n",
        }
    )
    book.build_well()
    page = book.page("index.html")
    assert page.count('<g class="mv-way-stop mv-way-later">') == 22
    assert "This edition holds 0 of the 11 chapters" in page
    held = json.loads((book.html / "claims.json").read_text())
    assert {claim["chapter"] for claim in held} == {"index"}
    assert held[0]["id"] == "S001"


@pytest.mark.build
def test_a_mark_for_nothing_fails_the_build(tmp_path):
    book = Book(tmp_path)
    book.write({"index": "# A book\n\n% generated: poem\n", "b": "# B\n"})
    result = book.build()
    assert result.returncode != 0
    assert "asks for ['poem']" in result.stderr
