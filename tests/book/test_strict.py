"""Every defect ends the real command with a status and its own name."""

import re

import pytest

from mambaviz.book.links import find_defects
from mambaviz.book.pages import read_page
from tests.book.conftest import NOTEBOOK, Book, cell

pytestmark = pytest.mark.build

DEFECTIVE = {
    "index": "# A book of defects\n",
    "raising": NOTEBOOK
    + "# Raising\n"
    + cell("def fail(n):\n    raise ValueError(f'no {n}')\n\nfail(7)"),
    "pointing": "# Pointing\n\n"
    "[There](#nowhere), [gone](gone.md), {ref}`lost`.\n",
    "citing": "# Citing\n\n{cite}`nobody1999`\n",
    "showing": "# Showing\n\n"
    "```{literalinclude} code.py\n:pyobject: renamed\n```\n",
    "gluing": NOTEBOOK
    + "# Gluing\n"
    + cell("from myst_nb import glue\n\nglue('known', 1)")
    + "\nIt is {glue:}`unknown`.\n",
    "bare": NOTEBOOK
    + "# Bare\n"
    + cell("import plotly.graph_objects as go\n\ngo.Figure()")
    + cell("import ipywidgets\n\nipywidgets.IntSlider()")
    + cell("import sys\n\n_ = sys.stderr.write('careful')")
    + cell(
        "from IPython.display import HTML\n\n"
        "HTML('<div data-explorable=\"no_such\"></div>')"
    ),
}
SOUND = {name: f"# {name.title()}\n" for name in DEFECTIVE} | {
    "pointing": "# Pointing\n\n[There](#the-place).\n",
    "showing": "(the-place)=\n# Showing\n",
}


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Book:
    book = Book(tmp_path_factory.mktemp("defective"))
    book.write(DEFECTIVE, toc=[*DEFECTIVE, "missing"])
    (book.folder / "chapters" / "code.py").write_text("def named(): pass\n")
    return book


@pytest.fixture(scope="module")
def first(book):
    return book.build()


def listed(result) -> str:
    """The numbered list at the end of a failed build."""
    _, _, rest = result.stderr.partition("The book was not built: ")
    return rest


def test_a_book_with_defects_has_a_status(first):
    assert first.returncode != 0
    assert "Finished generating HTML" not in first.stdout


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("chapters/raising.md", "ValueError: no 7"),
        ("chapters/pointing.md", "target not found: 'nowhere'"),
        ("chapters/pointing.md", "target not found: 'gone.md'"),
        ("chapters/pointing.md", "undefined label: 'lost'"),
        ("chapters/index.md", "nonexisting document 'chapters/missing'"),
        ("chapters/citing.md", "nobody1999"),
        ("chapters/showing.md", "'renamed' not found in include file"),
        ("chapters/gluing.md", "No key 'unknown'"),
        ("chapters/bare.md", "skipping unknown output mime type"),
        ("chapters/bare.md", "a bare ipywidget needs a kernel"),
        ("chapters/bare.md", "stderr was found in the cell outputs"),
        ("chapters/bare.md", "no such explorable: no_such"),
    ],
)
def test_each_defect_is_listed_with_its_place(first, place, words):
    of_place = re.findall(
        rf"^ *\d+\. {re.escape(place)}(?::\d+)?: (.*(?:\n {{5}}.*)*)",
        listed(first),
        re.MULTILINE,
    )
    assert any(words in text for text in of_place), listed(first)


def test_nothing_is_listed_twice(first):
    heads = re.findall(r"^ *\d+\. (.*)", listed(first), re.MULTILINE)
    assert len(heads) == len(set(heads)) == 12, heads
    assert listed(first).startswith("12 defects.")


def test_what_raised_is_shown_without_the_way_to_it(first):
    assert "fail(7)" in listed(first)
    assert "site-packages" not in listed(first)
    assert "\x1b[" not in listed(first)


def test_a_failed_build_fails_again_and_a_repaired_one_passes(book, first):
    again = book.build()
    assert again.returncode != 0
    assert listed(again) == listed(first)
    book.write(SOUND)
    book.build_well()
    # The chapter that points stays as it is; what it points to goes.
    book.write({**SOUND, "showing": "# Showing\n"})
    broken = book.build()
    assert broken.returncode != 0
    assert listed(broken).startswith("1 defect.")
    assert "chapters/pointing.md:3: " in listed(broken)
    assert "target not found: 'the-place'" in listed(broken)


@pytest.mark.parametrize(
    ("markup", "defect"),
    [
        ('<a href="other.html">x</a>', None),
        ('<a href="other.html#there">x</a>', None),
        ('<a href="#here">x</a><p id="here"></p>', None),
        ('<a href="#">x</a>', None),
        ('<a href="#here=%7B%7D">x</a><p id="here"></p>', None),
        ('<a href="https://example.org/">x</a>', None),
        ('<img src="data:image/gif;base64,AA" />', None),
        ('<a href="gone.html">x</a>', "has a dead link: gone.html"),
        ('<a href="#gone">x</a>', "has a dead link: #gone"),
        (
            '<a href="other.html#gone">x</a>',
            "has a dead link: other.html#gone",
        ),
        ('<img src="../gone.png" />', "has a dead link: ../gone.png"),
        (
            '<script src="https://cdn.example.org/x.js"></script>',
            "loads from the network: https://cdn.example.org/x.js",
        ),
        (
            '<link rel="stylesheet" href="//cdn.example.org/x.css">',
            "loads from the network: //cdn.example.org/x.css",
        ),
    ],
)
def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(
    tmp_path, markup, defect
):
    sources = {
        "chapters/this.html": markup,
        "chapters/other.html": '<p id="there"></p>',
    }
    (tmp_path / "chapters").mkdir()
    for name, source in sources.items():
        (tmp_path / name).write_text(source)
    pages = [read_page(name, source) for name, source in sources.items()]
    expected = [f"chapters/this.html {defect}"] if defect else []
    assert find_defects(pages, tmp_path) == expected
