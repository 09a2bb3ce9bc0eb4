"""MyST as plain Markdown: what a notebook program can show."""

import inspect
from pathlib import Path

import pytest
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from mambaviz.book.notebooks import markdown_cells
from mambaviz.book.plain import PlainMarkdown, cite, colour, read_book
from mambaviz.theme import SYMBOLS
from mambaviz.theory import discretize

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "chapters").glob("*.md"))
BIBLIOGRAPHY = ROOT / "chapters" / "references.bib"
EXTENSIONS = ("amsmath", "colon_fence", "deflist", "dollarmath")

WORKS = r"""
@misc{two, author = {Gu, Albert and Dao, Tri}, title = {Mamba},
  year = {2023}, url = {https://example.org/mamba}}
@book{three, author = {van Loan, C. and R{\'e}, C. and Gu, A.},
  title = {Three}, year = {1978}, doi = {10.1/x}}
@misc{nobody, title = {A Manual}}
"""
A = rf"{{\color{{{SYMBOLS['A'].light}}}{{A}}}}"


@pytest.fixture
def convert(tmp_path):
    """Convert a text as the chapter ``here``, beside a chapter ``other``."""
    (tmp_path / "works.bib").write_text(WORKS)
    other = "# The *other* one\n\n(far)=\n## Far away\n\n$$ a $$ (eq-far)\n"
    (tmp_path / "other.md").write_text(other)

    def convert(text, link=lambda chapter, heading: f"{chapter}!{heading}"):
        (tmp_path / "here.md").write_text(text)
        book = read_book(
            [tmp_path / "here.md", tmp_path / "other.md"],
            [tmp_path / "works.bib"],
            EXTENSIONS,
        )
        convert.plain = PlainMarkdown(book, "here", link)
        return convert.plain.cell(text)

    return convert


UNTOUCHED = """\
# A title with `code` and **bold**

A paragraph with [a link](https://example.org/a_b) and \\$5,
in two lines.

- a list
  - in a list

| a | b |
| --- | --- |
| 1 | 2 |

> a quote

```python
# {ref}`not a role` and $not$ math
```

    indented $code$

<div class="x">
*html*
</div>"""


def test_plain_markdown_stays_as_it_is(convert):
    assert convert(UNTOUCHED) == UNTOUCHED


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        # equations
        ("so $A$ is", f"so ${A}$ is"),
        ("a \\$A$ b", "a \\$A$ b"),
        ("`$A$`", "`$A$`"),
        ("$$\nA\n$$", f"$$\n{A}\n$$"),
        ("$$ A $$", f"$$\n{A}\n$$"),
        ("```{math}\nA\n```", f"$$\n{A}\n$$"),
        (
            "```{math}\n:label: one\nA\n```\n\nby {eq}`one`",
            f"$$\n{A} \\tag{{1}}\n$$\n\nby (1)",
        ),
        ("$$ A $$ (one)\n\n$$ A $$ (two)\n\n{eq}`two`",
         f"$$\n{A} \\tag{{1}}\n$$\n\n$$\n{A} \\tag{{2}}\n$$\n\n(2)"),
        ("\\begin{align}\nA\n\\end{align}\n\nend",
         f"\\begin{{align}}\n{A}\n\\end{{align}}\n\nend"),
        ("{math}`A`", f"${A}$"),
        ("| $A$ | b |\n| --- | --- |\n| $A$ | $|t|$ |",
         f"| ${A}$ | b |\n| --- | --- |\n| ${A}$ | $|t|$ |"),
        ("| a |\n| --- |\n| $\\|A\\|$ |",
         f"| a |\n| --- |\n| $\\|{A}\\|$ |"),
        # admonitions
        ("```{note}\nMind $A$.\n```", f"> **Note**\n>\n> Mind ${A}$."),
        ("```{tip} In one line.\n```", "> **Tip**\n>\n> In one line."),
        (":::{admonition} A title\n:class: warning\n\none\n\ntwo\n:::",
         "> **A title**\n>\n> one\n>\n> two"),
        (":::{admonition} Hidden\n:class: dropdown tip\nsolution\n:::",
         "<details>\n<summary>Hidden</summary>\n\nsolution\n\n</details>"),
        ("::::{dropdown} Outer\n:::{note}\ninner\n:::\n::::",
         "<details>\n<summary>Outer</summary>\n\n"
         "> **Note**\n>\n> inner\n\n</details>"),
        ("```{margin}\ntext\n```", "> text"),
        ("```{sidebar} Aside\ntext\n```", "> **Aside**\n>\n> text"),
        ("````{note}\n```python\nx = 1\n```\n````",
         "> **Note**\n>\n> ```python\n> x = 1\n> ```"),
        # in lists and quotes
        ("- item\n\n  ```{note}\n  body\n  ```\n\n- next",
         "- item\n\n  > **Note**\n  >\n  > body\n\n- next"),
        ("1. item\n\n   $$\n   A\n   $$", f"1. item\n\n   $$\n   {A}\n   $$"),
        ("> ```{tip}\n> body\n> ```", "> > **Tip**\n> >\n> > body"),
        # layout, code, raw
        ("::::{grid} 2\n:::{grid-item-card} Title\nbody\n:::\n::::",
         "**Title**\n\nbody"),
        ("```{code-block} text\nx\n```", "```text\nx\n```"),
        ("```{raw} html\n<b>x</b>\n```", "<b>x</b>"),
        ("```{raw} latex\nx\n```", ""),
        ("a\n\n% a comment\n\nb", "a\n\n\nb"),
        ("a\n\n```{tableofcontents}\n```\n\nb", "a\n\n\nb"),
        ("Term $A$\n: its meaning, $A$\n  to the end\n\n  or so\n\nend",
         f"- **Term ${A}$**\n  its meaning, ${A}$\n  to the end\n\n  or so"
         "\n\nend"),
        ("```{glossary}\none\n  : first\n\ntwo\n  : second\n```",
         "- **one**\n    first\n\n- **two**\n    second"),
        # references
        ("(near)=\n## Near *by*\n\nsee {ref}`near`",
         "## Near *by*\n\nsee [Near *by*](here!Near *by*)"),
        ("see {ref}`there <far>`", "see [there](other!Far away)"),
        ("see {doc}`other`", "see [The *other* one](other!None)"),
        ("see {doc}`it </chapters/other>`", "see [it](other!None)"),
        ("see [it](other.md) or [it](other)",
         "see [it](other!None) or [it](other!None)"),
        ("see [far $A$](other.md#far-away)",
         f"see [far ${A}$](other!Far away)"),
        ("see [](#far)", "see [Far away](other!Far away)"),
        ("## Here I am\n\n[up](#here-i-am)",
         "## Here I am\n\n[up](here!Here I am)"),
        ("by {eq}`eq-far`", "by (1)"),
        ("[file](data.csv)", "[file](data.csv)"),
        # citations
        ("as {cite}`two`", "as ([Gu and Dao, 2023](https://example.org/mamba))"),
        ("{cite:t}`three` say",
         "[van Loan et al., 1978](https://doi.org/10.1/x) say"),
        ("{cite}`two,\nnobody`",
         "([Gu and Dao, 2023](https://example.org/mamba); A Manual)"),
        # other roles
        ("{sub}`2` {kbd}`Esc` {func}`~a.b` {abbr}`ZOH (zero-order hold)`",
         "<sub>2</sub> `Esc` `a.b` ZOH (zero-order hold)"),
        ("- a {cite}`two,\n  nobody`",
         "- a ([Gu and Dao, 2023](https://example.org/mamba); A Manual)"),
    ],
)  # fmt: skip
def test_myst_becomes_plain(convert, myst, plain):
    assert convert(myst) == plain


@pytest.mark.parametrize(
    ("myst", "named"),
    [
        ("```{unheard-of}\n```", "unheard-of"),
        ("{glue}`x`", "glue"),
        ("{ref}`nowhere`", "nowhere"),
        ("[](#nowhere)", "nowhere"),
        ("{doc}`nowhere`", "nowhere"),
        ("{cite}`nobody2000`", "nobody2000"),
        ("a[^1]\n\n[^1]: note", "footnote"),
        ("[words]{.class}", ".class"),
        ("![a](https://example.org/a.png){width=9px}", "width"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(convert, myst, named):
    with pytest.raises(ValueError, match=rf"here\.md uses .*{named}"):
        convert(myst)


def test_code_of_the_package_is_shown_as_it_is(tmp_path):
    text = (
        "```{literalinclude} "
        f"{Path(discretize.__file__)}\n:pyobject: discretize_zoh\n```\n"
    )
    chapter = tmp_path / "here.md"
    chapter.write_text(text)
    plain = PlainMarkdown(read_book([chapter]), "here").cell(text)
    with open(discretize.__file__) as file:
        source = file.read()
    function = plain.removeprefix("```python\n").removesuffix("\n```")
    assert function.startswith("def discretize_zoh(")
    assert function in source
    assert function == inspect.getsource(
        inspect.unwrap(discretize.discretize_zoh)
    ).strip("\n").removeprefix("@jaxtyped\n")


def test_a_renamed_function_is_noticed(tmp_path):
    text = (
        f"```{{literalinclude}} {discretize.__file__}\n"
        ":pyobject: discretize_zooh\n```\n"
    )
    chapter = tmp_path / "here.md"
    chapter.write_text(text)
    with pytest.raises(ValueError, match="discretize_zooh"):
        read_book([chapter])


def test_a_picture_travels_in_the_cell(convert, tmp_path):
    (tmp_path / "dot.svg").write_text("<svg/>")
    assert (
        convert("```{figure} dot.svg\n:alt: a dot\nThe caption.\n```")
        == "![a dot](attachment:dot.svg)\n\nThe caption."
    )
    assert convert.plain.attachments == {
        "dot.svg": {"image/svg+xml": "PHN2Zy8+"}
    }
    assert convert("![a dot](dot.svg)") == "![a dot](attachment:dot.svg)"
    remote = "![a dot](https://example.org/dot.svg)"
    assert convert(remote) == remote
    assert convert.plain.attachments == {}


def test_the_bibliography_lists_what_is_cited(convert):
    plain = convert("{cite}`two`\n\n```{bibliography}\n```")
    (entry,) = [block for block in plain.split("\n- ")[1:]]
    assert "Albert Gu and Tri Dao" in entry
    assert "Three" not in plain


def test_labels_reach_where_myst_lets_them(convert):
    plain = convert("## Far away\n\n[here](#far-away) {ref}`far`")
    assert "[here](here!Far away)" in plain
    assert "[Far away](other!Far away)" in plain


def test_a_label_of_this_chapter_comes_first(convert):
    plain = convert("(far)=\n## Quite near\n\n{ref}`far`")
    assert plain.endswith("[Quite near](here!Quite near)")


@pytest.mark.parametrize(
    ("key", "named"),
    [("gu2023mamba", "Gu and Dao, 2023"), ("gu2022s4", "Gu et al., 2022")],
)
def test_works_are_named_by_author_and_year(key, named):
    works = read_book([], [BIBLIOGRAPHY]).bibliography.entries
    assert cite(works[key]) == named


def test_colours_are_those_of_the_palette():
    coloured = colour(r"\bar A x")
    assert rf"\color{{{SYMBOLS['A'].light}}}{{\bar A}}" in coloured
    assert rf"\color{{{SYMBOLS['x'].light}}}{{x}}" in coloured


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_myst_is_left_in_any_chapter(path):
    book = read_book(CHAPTERS, [BIBLIOGRAPHY], EXTENSIONS, markdown_cells)
    plain = PlainMarkdown(book, path.stem, lambda chapter, heading: chapter)
    config = MdParserConfig(enable_extensions=set(EXTENSIONS))
    parser = create_md_parser(config, RendererHTML)
    cells = markdown_cells(path)
    assert cells
    for cell in cells:
        found = parser.parse(plain.cell(cell))
        blocks = {token.type for token in found}
        assert not blocks & {
            "colon_fence", "myst_target", "myst_block_break",
            "math_block_label", "dl_open",
        }  # fmt: skip
        for token in found:
            if token.type == "fence":
                assert not token.info.strip().startswith("{")
            for child in token.children or []:
                assert child.type != "myst_role"
