"""What holds for the words of every chapter."""

import ast
import re
from pathlib import Path

import jupytext
import pytest

CHAPTERS = Path(__file__).parents[2] / "chapters"
PAGES = sorted(CHAPTERS.glob("*.md"))
MOST_WORDS = 2700

AMERICAN = r"\b\w*(color|discretiz|behavior|normaliz|generaliz)\w*"

FENCE = re.compile(r"^(`{3,})\{?.*?^\1$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)
CAPTION_MATH = re.compile(r"\\{1,2}\((.+?)\\{1,2}\)", re.DOTALL)
SHADES = r"(?i)\b(?:dark|bright|light|pale)(?:er|est)\b|\b(?:dark|bright)\b"
CITATION = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
# Commands of TeX that stand for a symbol of ours; the rest are layout.
GREEK = r"\\(?:Delta|varphi|phi|lambda|omega|tau|sigma|theta|pi|ell)\b"
WORDS_IN_MATH = r"\\(?:text\w*|mathrm|operatorname|begin|end)\s*\{[^{}]*\}"


def cells(page, kind):
    notebook = jupytext.read(page, fmt="md:myst")
    return [c.source for c in notebook.cells if c.cell_type == kind]


def markdown(page):
    return "\n\n".join(cells(page, "markdown"))


def prose(page):
    """The words of a page, without code, directives and equations."""
    text = FENCE.sub(" ", markdown(page))
    text = re.sub(r"^:{3}.*$|^:\w+:.*$", " ", text, flags=re.MULTILINE)
    for pattern in (CITATION, CODE):
        text = pattern.sub(" ", text)
    text = MATH.sub(" ", text)
    return re.sub(r"\]\([^)]*\)", "]", text)  # links keep their words


def equations(page):
    text = CODE.sub(" ", FENCE.sub(" ", markdown(page)))
    found = [display or inline for display, inline in MATH.findall(text)]
    for code in cells(page, "code"):
        found += CAPTION_MATH.findall(code)
    return found


def symbols(page):
    """The letters that stand as symbols in a page's equations."""
    letters = set()
    for equation in equations(page):
        equation = re.sub(WORDS_IN_MATH, " ", equation)
        letters |= set(re.findall(GREEK, equation))
        letters |= set(re.findall(r"[A-Za-z]", without_commands(equation)))
    return letters


def without_commands(equation):
    return re.sub(r"\\[A-Za-z]+", " ", equation)


def cited():
    keys = ",".join(
        key for page in PAGES for key in CITATION.findall(markdown(page))
    )
    return {key.strip() for key in keys.split(",")}


def bibliography():
    text = (CHAPTERS / "references.bib").read_text("utf-8")
    entries = re.split(r"^@", text, flags=re.MULTILINE)[1:]
    return {re.match(r"\w+\{([^,]+),", entry)[1]: entry for entry in entries}


def told_of_pictures(page):
    """The captions and the alternative texts that a page's cells give."""
    return [
        part.value
        for code in cells(page, "code")
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.keyword) and node.arg in ("alt", "caption")
        for part in ast.walk(node.value)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]


pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def test_the_pages_are_there():
    names = {page.stem for page in PAGES}
    assert {"index", "notation", "references", "zero-order-hold"} <= names


@pages
def test_no_page_is_too_long(page):
    words = re.findall(r"[^\W\d_][\w'’-]*", prose(page))
    assert 0 < len(words) <= MOST_WORDS


@pages
def test_nothing_is_simple_and_nobody_shouts(page):
    text = prose(page)
    assert not re.findall(r"(?i)\b(?:simply|obviously|trivially)\b", text)
    assert "!" not in text


@pages
def test_spelling_is_british(page):
    assert not re.findall(AMERICAN, prose(page), flags=re.IGNORECASE)


@pages
def test_every_symbol_is_in_the_notation(page):
    unknown = symbols(page) - symbols(CHAPTERS / "notation.md")
    assert not unknown


@pages
def test_a_page_has_one_title_and_skips_no_level(page):
    text = FENCE.sub("", markdown(page))
    levels = [
        len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    steps = zip(levels, levels[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)


@pages
def test_no_scale_of_colours_is_told_by_its_lightness(page):
    """In the dark the scales are turned: say "the stronger the colour"."""
    for words in told_of_pictures(page):
        assert not re.findall(SHADES, words), words


def test_what_is_cited_is_in_the_bibliography_and_nothing_else():
    assert cited() == set(bibliography())


@pytest.mark.parametrize("key", sorted(bibliography()))
def test_a_reference_can_be_found(key):
    entry = bibliography()[key]
    fields = set(re.findall(r"^\s*(\w+)\s*=", entry, flags=re.MULTILINE))
    assert {"author", "title", "year"} <= fields
    assert fields & {"doi", "url", "publisher"}


def test_the_guide_is_credited_by_name():
    for page in ("index", "references", "zero-order-hold"):
        text = " ".join(prose(CHAPTERS / f"{page}.md").split())
        assert "Maarten Grootendorst" in text
        assert "A Visual Guide to Mamba" in text
    assert "grootendorst2024" in cited()


def test_the_judges_can_object(tmp_path):
    """The patterns above see what they should."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n\nIt is simply $Q + \\text{q}$ of `code!`!\n\n"
        "```python\ncolor = 1\n```\n\nThe color $\\tau$ {cite}`one,two`.\n\n"
        '```{code-cell} ipython3\nplate(caption=f"Darker is {2}.")\n```\n'
    )
    assert symbols(page) == {"Q", r"\tau"}
    assert prose(page).count("!") == 1
    assert len(re.findall(AMERICAN, prose(page))) == 1
    assert "one" not in prose(page)
    (caption, *_) = told_of_pictures(page)
    assert re.findall(SHADES, caption) == ["Darker"]
