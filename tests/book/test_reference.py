"""The pages made of docstrings: complete, readable, and in colour."""

import importlib
import re
from html import unescape
from pathlib import Path

import pytest
import yaml

from mambaviz.book import reference
from tests.book.conftest import Book

ROOT = Path(__file__).parents[2]
PAGES = {
    path.stem: path.read_text("utf-8")
    for path in sorted((ROOT / "chapters").glob("api-*.md"))
}


def offers(room: str) -> set[str] | None:
    return getattr(importlib.import_module(room), "__all__", None)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_every_public_name_once(page):
    header = yaml.safe_load(PAGES[page].split("---")[1])
    places = reference.places_of(PAGES[page])
    assert {place.room for place in places} == {*header[reference.KEY]}
    for room in header[reference.KEY]:
        shown = [n for p in places if p.room == room for n in p.names]
        assert sorted(shown) == sorted(offers(room) or {*shown})


@pytest.mark.parametrize("page", PAGES)
def test_every_function_and_class_says_what_it_is(page):
    for room, _, names in reference.places_of(PAGES[page]):
        for name in names:
            value = getattr(importlib.import_module(room), name)
            if callable(value):
                assert value.__doc__, f"{room}.{name}"


def test_the_rooms_below_the_pictures_have_a_page():
    assert {"api-theory", "api-ops", "api-models", "api-records"} <= {*PAGES}


def test_a_promise_that_nothing_keeps_is_named(monkeypatch):
    room = importlib.import_module("mambaviz.records.store")
    monkeypatch.setattr(room, "__all__", ["record_names", "lost"], False)
    with pytest.raises(ImportError, match="store offers lost, but no module"):
        reference.public_names(room)


def test_code_in_a_summary_stays_code_in_the_contents():
    contents, *_ = reference.page_parts(reference.places_of(PAGES["api-ops"]))
    assert "``mamba_ssm`` and ``causal_conv1d``" in contents


@pytest.fixture
def translated():
    known = reference.Reference()
    known.names = {"half_life": "mambaviz.theory.half_life"}
    known.chapters = {"hold-it"}
    return known.as_rst


@pytest.mark.parametrize(
    ("words", "rst"),
    [
        ("while delta |A| <= 2", r"while delta \|A\| <= 2"),
        ("a *ledger*, 2 * 3", r"a *ledger*, 2 \* 3"),
        ("a trailing_ and x_k", r"a trailing\_ and x_k"),
        ("see ``x * y``", "see ``x * y``"),
        ("``half_life``", ":py:obj:`half_life <mambaviz.theory.half_life>`"),
        ("set in :math:`A|_0`", "set in :math:`A|_0`"),
        ("chapter ``hold-it``", "chapter :doc:`/chapters/hold-it`"),
        ("the ``hold-it``", "the ``hold-it``"),
        ("the chapter ``lost``", "the chapter ``lost``"),
        ("arXiv 1234.5678)", "`arXiv 1234.5678 <{}/1234.5678>`__)"),
        (
            "Args:\n    A: |A|.\n\n    B: 2",
            "Args:\n    A: \\|A\\|.\n\n    B: 2",
        ),
        (
            "Returns:\n    One: a\n      sum.",
            ":Returns:\n    One: a\n      sum.",
        ),
        ("Source: Gu,\neq. 4.", ":Source:\n    Gu,\n    eq. 4."),
    ],
)
def test_words_keep_what_they_say(translated, words, rst):
    assert translated(words) == rst.format("https://arxiv.org/abs")


def test_what_is_indented_is_a_formula_unless_it_is_in_a_section(translated):
    rst = translated(
        "One.\n\n    h = *A* h_\n\nExample:\n    >>> 2 * 3\n    6"
    )
    formula, example = rst.split(":Example:")
    assert ":class: mv-formula\n\n    h = *A* h_" in formula
    assert example.strip() == ">>> 2 * 3\n    6"


def test_the_comment_above_a_value_is_its_docstring():
    importlib.import_module("mambaviz.models")
    said = reference.comment_above("mambaviz.models.RELEASED")
    assert said.startswith("The models released with the paper")
    rules = "mambaviz.theory.DISCRETIZATION_RULES"  # which has none
    assert reference.comment_above(rules) == ""


CLASS = '''
class Scale:
    """A scale."""

    def step(self, x):
        """One step."""
        return self._of(x)

    def _of(self, x):
        """Kept: no page shows it."""
        return 2 * x
'''


def test_code_stands_below_its_docstring_without_it():
    assert reference.without_docstrings(CLASS.strip()).split("\n") == [
        "class Scale:",
        "    def step(self, x):",
        "        return self._of(x)",
        "",
        "    def _of(self, x):",
        '        """Kept: no page shows it."""',
        "        return 2 * x",
    ]


# ---- A built page ----------------------------------------------------------

SMALL = {
    "index": "# A small book\n",
    "theory": "---\napi: [mambaviz.theory]\n---\n\n# Theory\n",
    "zero-order-hold": "# Hold it\n",
}


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Book:
    book = Book(tmp_path_factory.mktemp("reference"))
    book.write(SMALL)
    book.build_well()
    return book


@pytest.fixture(scope="module")
def page(book) -> str:
    return book.page("chapters/theory.html")


def entry(page: str, name: str) -> str:
    """What the page has of one name, up to the next."""
    _, _, rest = page.partition(f'id="mambaviz.theory.{name}"')
    assert rest, f"the page has no {name}"
    return re.split(r'<dl class="py |<section ', rest)[0]


def words(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]+>", "", html)))


@pytest.mark.build
def test_the_page_has_a_place_for_each_name(page):
    for _, file, names in reference.places_of(PAGES["api-theory"]):
        assert f'id="module-{file}"' in page
        for name in names:
            assert page.count(f'id="mambaviz.theory.{name}"') == 1


@pytest.mark.build
def test_a_signature_says_the_axes_and_defaults(page):
    signature, _, _ = entry(page, "hippo_legs").partition("</dt>")
    said = words(signature)
    assert "d_state: int" in said
    assert "dtype = torch.float64" in said
    assert "tuple[Float[Tensor, 'd_state d_state'], Float[" in said


@pytest.mark.build
def test_symbols_have_their_colours(page):
    shown = entry(page, "discretize_zoh")
    _, _, formula = shown.partition("mv-formula")
    formula, _, _ = formula.partition("</pre>")
    for symbol in ("A_bar", "B_bar", "delta", "A", "B"):
        name = symbol.removesuffix("_bar")
        assert f'<span class="mv-{name}">{symbol}</span>' in formula
    assert words(formula).count("exp(delta A)") == 2
    assert '<span class="n mv-delta"><span class="pre">delta' in shown
    assert '<strong class="mv-A">A</strong>' in shown


@pytest.mark.build
def test_sections_examples_and_links(page):
    shown = entry(page, "discretize_zoh")
    labels = re.findall(r'<dt class="field-\w+">(\w+)', shown)
    expected = ["Parameters", "Returns", "Raises", "Source", "Example"]
    assert labels == expected
    assert ">>> A_bar, B_bar = discretize_zoh(-1.0, 1.0" in words(shown)
    assert "0.500 0.500" in shown
    assert 'href="https://arxiv.org/abs/2312.00752"' in shown
    euler = entry(page, "discretize_euler")
    assert 'href="#mambaviz.theory.discretize_zoh"' in euler
    assert re.search(r'href="zero-order-hold.html"[^>]*>.{,60}Hold it', page)


@pytest.mark.build
def test_code_is_folded_below_and_does_not_say_it_all_again(page):
    _, _, code = entry(page, "discretize_zoh").partition("<details")
    assert "<summary" in code
    assert "def discretize_zoh(A: Values, B: Values" in words(code)
    assert "return A_bar, B_bar" in words(code)
    assert "Zero-order hold" not in words(code)
    rules = words(entry(page, "DISCRETIZATION_RULES"))
    assert '"zoh": discretize_zoh' in rules


@pytest.mark.build
def test_a_page_of_a_module_that_is_not_there_fails_the_build(tmp_path):
    book = Book(tmp_path)
    page = "---\napi: [mambaviz.nowhere]\n---\n\n# Nothing\n"
    book.write({"index": "# A book\n", "nothing": page})
    result = book.build()
    assert result.returncode != 0
    assert "chapters/nothing.md: No module named" in result.stderr


# ---- In a browser ----------------------------------------------------------

# Text whose contrast with what lies behind it is below 4.5, as WCAG asks.
FAINT = """() => {
  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const paint = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return pen.getImageData(0, 0, 1, 1).data;
  };
  const known = new Map();
  const rgba = (colour) => {
    if (!known.has(colour)) known.set(colour, paint(colour));
    return known.get(colour);
  };
  const light = ([r, g, b]) => {
    const linear = (v) => v <= 10.31
      ? v / 255 / 12.92
      : ((v / 255 + 0.055) / 1.055) ** 2.4;
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const faint = new Set();
  const article = document.querySelector("article.bd-article");
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    if (style.visibility === "hidden") continue;
    let behind = element;
    while (rgba(getComputedStyle(behind).backgroundColor)[3] < 255)
      behind = behind.parentElement;
    const pair = [rgba(style.color),
      rgba(getComputedStyle(behind).backgroundColor)].map(light);
    if ((Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05) < 4.5)
      faint.add(`${element.className}: ${text.slice(0, 30)}`);
  }
  return [...faint];
}"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_it_is_readable_on_phone_and_desk(browser, book, width, mode):
    view = browser.new_page(viewport={"width": width, "height": 740})
    try:
        view.goto((book.html / "chapters" / "theory.html").as_uri())
        view.evaluate(
            """(mode) => {
              document.documentElement.dataset.theme = mode;
              for (const fold of document.querySelectorAll("details"))
                fold.open = true;
            }""",
            mode,
        )
        beyond = "document.documentElement.scrollWidth - innerWidth"
        assert view.evaluate(beyond) <= 0
        assert view.evaluate(FAINT) == []
    finally:
        view.close()


@pytest.mark.browser
def test_a_long_name_of_a_file_breaks_on_a_narrow_phone(browser, book):
    view = browser.new_page(viewport={"width": 320, "height": 740})
    try:
        view.goto((book.html / "chapters" / "theory.html").as_uri())
        view.evaluate(
            """document.querySelector(".bd-article h2 code .pre").textContent
            = "selective_scan.official" """
        )
        beyond = "document.documentElement.scrollWidth - innerWidth"
        assert view.evaluate(beyond) <= 0
    finally:
        view.close()
