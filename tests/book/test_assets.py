"""What each page loads, shows and offers, and what lies beside the pages."""

import json
import re

import plotly
import pytest
import sphinx_book_theme

from mambaviz.book import equations, icons, output
from mambaviz.book.pages import Page, icons_of, read_page
from mambaviz.book.search import search_texts
from mambaviz.widgets import modules

OWN = "_static/mambaviz/"


def scripts(page: str) -> list[str]:
    """The addresses of a page's scripts from the book's root, in order."""
    found = re.findall(r'<script[^>]* src="(?:\.\./)*([^"?]*)', page)
    return [address.removeprefix("./") for address in found]


@pytest.mark.build
class TestBuiltBook:
    def test_a_page_of_words_loads_nothing_of_ours_but_styles(
        self, clean_book
    ):
        page = clean_book.page("index.html")
        assert not [name for name in scripts(page) if "mambaviz" in name]
        assert not [name for name in scripts(page) if "vendor" in name]
        assert f"{OWN}book.css?v=" in page
        assert f"{OWN}icons.css" in page

    def test_an_explorables_page_has_host_library_and_module_in_order(
        self, clean_book
    ):
        page = clean_book.page("chapters/explorable.html")
        head = page.partition("</head>")[0]
        own = [name for name in scripts(head) if name.startswith(OWN)]
        assert own == [
            f"{OWN}{name}.js" for name in ("host", "lib", "memory_decay")
        ]
        tags = re.findall(r"<script[^>]*mambaviz[^>]*>", head)
        assert len(tags) == 3
        # They block: the explorable is drawn while its page is parsed.
        assert not [t for t in tags if "defer" in t or "async" in t]
        text = (clean_book.html / OWN / "memory_decay.js").read_text()
        assert text == modules.classic("memory_decay")

    def test_mathjax_is_local_and_only_where_there_are_equations(
        self, clean_book
    ):
        address = "_static/vendor/mathjax/tex-chtml-full.js"
        assert address in scripts(clean_book.page("chapters/explorable.html"))
        assert address not in scripts(clean_book.page("chapters/plate.html"))
        vendor = clean_book.html / "_static" / "vendor" / "mathjax"
        names = {
            path.relative_to(vendor).as_posix()
            for path in vendor.rglob("*")
            if path.is_file()
        }
        fonts = {name for name in names if name.endswith(".woff")}
        assert names - fonts == {"tex-chtml-full.js"}
        assert len(fonts) == 23

    def test_plotly_is_the_packages_own_and_only_on_its_page(self, clean_book):
        plotly_script = "_static/vendor/plotly.min.js"
        page = clean_book.page("chapters/plate.html")
        assert scripts(page)[-2:] == [
            plotly_script,
            f"{OWN}plotly_plates.js",
        ]
        explorable = clean_book.page("chapters/explorable.html")
        assert plotly_script not in scripts(explorable)
        source = plotly.offline.get_plotlyjs()
        copied = (clean_book.html / plotly_script).read_text("utf-8")
        assert copied == source

    def test_nothing_comes_from_the_network(self, clean_book):
        for path in clean_book.html.rglob("*.html"):
            page = read_page(path.name, path.read_text("utf-8"))
            assert not [u for u in page.loads if "//" in u.partition("?")[0]]
            assert "thebe" not in path.read_text("utf-8").lower()

    def test_the_themes_weight_is_left_behind(self, clean_book):
        static = clean_book.html / "_static"
        assert not list(static.rglob("*.map"))
        assert not list(static.rglob("fontawesome*"))
        assert not list(static.rglob("*.html"))
        for path in [*static.rglob("*.css"), *static.rglob("*.js")]:
            if "vendor" not in path.parts:
                assert "sourceMappingURL" not in path.read_text("utf-8")
        styles = (static / "styles" / "pydata-sphinx-theme.css").read_text()
        assert "@font-face" not in styles
        assert "webfonts" not in styles

    def test_every_icon_on_a_page_has_its_outline(self, clean_book):
        sheet = (clean_book.html / OWN / "icons.css").read_text("utf-8")
        used = set()
        for path in clean_book.html.rglob("*.html"):
            used |= set(re.findall(r"fa-[a-z-]+", path.read_text("utf-8")))
        used -= {"fa-solid", "fa-lg"}
        assert len(used) > 10
        assert [name for name in used if f").{name}{{" not in sheet] == []
        assert "fa-rocket" not in sheet

    def test_an_equation_is_coloured_and_plain_without_scripts(
        self, clean_book
    ):
        page = clean_book.page("chapters/explorable.html")
        coloured = r"{\class{mv-A}{\bar A}} = e^{{\class{mv-delta}{\Delta}}"
        assert coloured in page
        shown = r'<noscript><code class="mv-tex">\ln 2 / (\Delta |A|)</code>'
        assert shown in page
        assert re.findall(r'<div class="[^"]*pst-js-only[^"]*math', page)
        assert "class{" not in page.partition("</head>")[0]

    def test_each_notebook_is_offered_where_it_is(self, clean_book):
        page = clean_book.page("chapters/explorable.html")
        links = re.findall(r'<a [^>]*href="([^"]*\.ipynb)"([^>]*)>', page)
        assert links
        for address, attributes in links:
            assert address == "../notebooks/explorable.ipynb"
            assert "download" in attributes
        assert (clean_book.html / "notebooks" / "explorable.ipynb").is_file()
        assert ".ipynb" not in clean_book.page("chapters/works.html")
        for name in ("chapters/explorable.html", "chapters/works.html"):
            assert "window.print()" in clean_book.page(name)
            assert "_sources" not in clean_book.page(name)

    def test_the_landing_page_is_the_root_chapter(self, clean_book):
        page = clean_book.page("index.html")
        assert "Only words" in page
        assert 'href="chapters/explorable.html#the-half-life"' in page
        moved = clean_book.page("chapters/index.html")
        assert 'content="0; url=../index.html"' in moved
        assert 'location.replace("../index.html" +' in moved
        back = clean_book.page("chapters/explorable.html")
        assert 'href="../index.html"' in back
        assert "chapters/index.html" not in back

    def test_the_missing_page_asks_for_nothing_before_it_knows_the_root(
        self, clean_book
    ):
        source = clean_book.page("404.html")
        # A browser looks ahead in what stands there as markup.
        assert not read_page("404.html", source).loads
        assert "<base href=" in source
        inner = re.search(r"const page = (.*);\n", source)[1]
        page = json.loads(inner)
        assert page.count("<head>") == 1
        assert "Page not found" in page
        assert 'href="index.html"' in page

    def test_the_search_page_carries_the_texts(self, clean_book):
        page = clean_book.page("search.html")
        assert scripts(page)[-3:] == [
            "searchindex.js",
            f"{OWN}search-texts.js",
            f"{OWN}search.js",
        ]
        script = (clean_book.html / OWN / "search-texts.js").read_text()
        texts = json.loads(script.partition("=")[2].strip().strip(";"))
        assert texts.keys() == {
            "chapters/index",
            "chapters/explorable",
            "chapters/plate",
            "chapters/works",
        }
        assert 'id="the-half-life"' in texts["chapters/explorable"]
        assert "The half-life" in texts["chapters/explorable"]
        assert "search-texts" not in clean_book.page("index.html")

    def test_a_static_host_finds_what_it_wants(self, clean_book):
        assert (clean_book.html / ".nojekyll").is_file()
        assert list((clean_book.html / "wheels").glob("*.whl"))
        assert not (clean_book.html / "genindex.html").exists()
        assert not (clean_book.html / "_sources").exists()

    def test_the_theme_follows_the_system_before_the_first_paint(
        self, clean_book
    ):
        page = clean_book.page("index.html")
        assert 'data-theme="light"' in page.partition("<head>")[0]
        early = page.find("prefers-color-scheme")
        assert 0 < early < page.find('rel="stylesheet"')
        assert "no-js" not in page


THEME = {
    "script": (output.PYDATA / "scripts" / "fontawesome.js").read_text(),
    "styles": (output.PYDATA / "styles" / "pydata-sphinx-theme.css").read_text(
        "utf-8"
    ),
}


@pytest.fixture(scope="module")
def theme_icons():
    return icons.Icons(THEME["script"], THEME["styles"])


def test_an_icon_is_taken_from_the_right_style(theme_icons):
    solid = theme_icons.outlines["solid", "fa-sun"]
    regular = theme_icons.outlines["regular", "fa-sun"]
    assert solid.path != regular.path
    assert ("brands", "fa-github") in theme_icons.outlines
    assert ("solid", "fa-github") not in theme_icons.outlines
    # An older name of the same icon.
    assert (
        theme_icons.outlines["solid", "fa-search"]
        == theme_icons.outlines["solid", "fa-magnifying-glass"]
    )


def test_an_unknown_icon_is_warned_of_and_a_size_is_not(
    theme_icons, monkeypatch
):
    warned = []
    monkeypatch.setattr(
        icons._LOGGER, "warning", lambda text, *args: warned.append(args)
    )
    theme_icons.sheet(icons_of("fa-solid fa-sun fa-lg"))
    assert warned == []
    theme_icons.sheet(icons_of("fas fa-no-such-icon"))
    assert warned == [("solid", "fa-no-such-icon")]


def test_the_themes_own_letters_become_outlines(theme_icons):
    letters = re.compile('[\ue000-\uf8ff]|content:"\\\\[ef]')
    book_theme = sphinx_book_theme.get_html_theme_path() / "static"
    sheets = [
        THEME["styles"],
        (book_theme / "styles" / "sphinx-book-theme.css").read_text("utf-8"),
    ]
    for sheet in sheets:
        assert letters.search(sheet)
        drawn = theme_icons.without_fonts(sheet)
        assert not letters.search(drawn)
        assert "--mv-icon:" in drawn
        assert drawn.count("{") == drawn.count("}")


def test_icons_that_scripts_add_are_found():
    scripts = ['i.classList="fa-solid fa-xmark"', "x='fa-not'"]
    pages = [Page("a.html", icons={("solid", "fa-bars")})]
    assert icons.used_icons(pages, scripts) == {
        ("solid", "fa-xmark"),
        ("solid", "fa-bars"),
    }


def test_colours_stay_out_of_words():
    assert equations.colour(r"\text{A} B") == (r"\text{A} {\class{mv-B}{B}}")


def test_a_pages_text_is_what_a_reader_reads():
    page = read_page(
        "chapters/x.html",
        """<nav>not this</nav><article class="bd-article">
        <section id="a"><h1>Half<a class="headerlink" href="#a">#</a></h1>
        <p>One <span class="math pst-js-only">\\(x\\)</span><noscript><code
        class="mv-tex">\\bar{A} = e^{\\Delta A} &lt; 1</code></noscript>,
        <b>two</b>, <code>\\d{2}</code>.</p>
        <script>if (1 < 2) {}</script><svg><text>no</text></svg>
        <pre>code</pre></section></article><footer>nor this</footer>""",
    )
    assert page.text == (
        '<section id="a"> Half One A\u0304 = e^Δ A &lt; 1, two, \\d{2}.'
        " code </section>"
    )


def test_the_landing_pages_text_has_the_name_that_the_index_knows():
    pages = [
        Page("index.html", text="a"),
        Page("chapters/b.html", text="b"),
        Page("404.html", text="not to be found"),
    ]
    names = {"index.html": "chapters/index", "chapters/b.html": "chapters/b"}
    script = search_texts(pages, names)
    assert json.loads(script.partition("=")[2].strip().strip(";")) == {
        "chapters/b": "b",
        "chapters/index": "a",
    }
