"""Every page of the built book, opened without a network."""

import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from mambaviz.widgets import modules
from tests.browser.visiting import PHONE, pages_of, served, visit

pytestmark = pytest.mark.browser

EXPLORABLES = set(modules.names())


def test_every_page_is_whole_and_asks_for_nothing(browser, book, book_root):
    complaints = {}
    drawn = set()
    pages = pages_of(book)
    assert len(pages) >= 6, pages
    for path in pages:
        with visit(browser, book_root, path) as seen:
            page = seen.page
            wrong = seen.complaints + page.evaluate(UNRENDERED)
            drawn |= set(page.evaluate(MOUNTED))
        if wrong:
            complaints[path] = wrong
    assert complaints == {}
    assert drawn == EXPLORABLES


# What a page shows that did not come out: mathematics, pictures, icons, code.
UNRENDERED = """() => {
  const wrong = [];
  const look = (selector, bad) => {
    for (const element of document.querySelectorAll(selector)) {
      const complaint = bad(element);
      const what = element.outerHTML.slice(0, 90);
      if (complaint) wrong.push(`${complaint}: ${what}`);
    }
  };
  const mask = (icon, part) => {
    const { maskImage, webkitMaskImage } = getComputedStyle(icon, part);
    return ![undefined, "", "none"].includes(maskImage || webkitMaskImage);
  };
  look(".math", (e) => !e.querySelector("mjx-container") && "not set");
  look("mjx-merror", () => "bad TeX");
  look("img", (e) => e.complete && !e.naturalWidth && "empty image");
  look("img", (e) => !e.hasAttribute("alt") && "image without alt");
  look("svg[role=img]", (e) => !e.getAttribute("aria-label") && "no words");
  look("i[class*='fa-'], span[class*='fa-']",
    (e) => !mask(e, null) && !mask(e, "::before") && "no icon");
  look("[data-explorable]", (e) => {
    if (e.dataset.mounted !== "true") return "not mounted";
    const svg = e.querySelector("svg.mv-picture");
    return !svg?.getBoundingClientRect().height && "not drawn";
  });
  return wrong;
}"""

MOUNTED = """() => [...document.querySelectorAll("[data-explorable]")]
  .map((box) => box.dataset.explorable)"""


def test_a_page_that_asks_a_cdn_is_caught(browser, book, tmp_path):
    copy = tmp_path / "book"
    shutil.copytree(book, copy)
    page = copy / "chapters" / "notation.html"
    page.write_text(
        page.read_text().replace(
            "</head>",
            '<script src="https://cdn.example.org/x.js"></script></head>',
        )
    )
    root = copy.as_uri() + "/"
    with visit(browser, root, "chapters/notation.html") as seen:
        assert any("cdn.example.org" in text for text in seen.complaints)
    with visit(browser, root, "index.html") as seen:
        assert seen.complaints == []


def test_the_book_moves_to_another_folder(browser, book, tmp_path):
    copy = tmp_path / "a folder, näher"
    shutil.copytree(book, copy)
    root = copy.as_uri() + "/"
    with visit(browser, root, "chapters/zero-order-hold.html") as seen:
        assert seen.complaints + seen.page.evaluate(UNRENDERED) == []
        assert len(seen.page.evaluate(MOUNTED)) >= 3


def test_no_page_pushes_a_phone_sideways(browser, book):
    wide = {}
    for path in pages_of(book):
        root = book.as_uri() + "/"
        with visit(browser, root, path, viewport=PHONE) as seen:
            beyond = seen.page.evaluate(
                "() => document.documentElement.scrollWidth - innerWidth"
            )
            # Within a line of text an equation has to fit as it is.
            cut = seen.page.locator("p span.math, li span.math").evaluate_all(
                """all => all.filter((math) => {
                  const set = math.querySelector("mjx-math");
                  const { width } = set.getBoundingClientRect();
                  return width > math.getBoundingClientRect().width + 1;
                }).map((math) => math.textContent.slice(0, 60))"""
            )
        if beyond > 0 or cut:
            wide[path] = (beyond, cut)
    assert wide == {}


WIDE_TABLES = """() => [
  ...document.querySelectorAll("table:has(th:nth-child(4) > p:not(:empty))")
].map((table) => {
  const box = table.closest(".pst-scrollable-table-container");
  const left = (e) => Math.round(e.getBoundingClientRect().left);
  const cells = [...table.querySelectorAll("td:first-child, th:first-child")];
  const narrow = Math.max(...[...table.querySelectorAll("td")].map(
    (cell) => cell.clientHeight / Math.max(cell.clientWidth, 1)));
  box.scrollLeft = 10_000;
  return {
    moved: box.scrollLeft,
    away: cells.map((cell) => left(cell) - left(box)).filter(Boolean),
    narrow,
  };
})"""


def test_a_wide_table_moves_in_its_own_box_on_a_phone(browser, book):
    """And what a row is about stays; no column is squeezed to a stripe."""
    tables = []
    for path in pages_of(book):
        root = book.as_uri() + "/"
        with visit(browser, root, path, viewport=PHONE) as seen:
            tables += seen.page.evaluate(WIDE_TABLES)
    assert len(tables) >= 2
    for table in tables:
        assert table["moved"] > 20
        assert table["away"] == []
        assert table["narrow"] < 4


@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_shows_displayed_equations_whole(browser, book, width):
    """What is cut there can be scrolled, but who would know?"""
    cut, seen_any = {}, False
    for path in pages_of(book):
        root, size = book.as_uri() + "/", {"width": width, "height": 740}
        with visit(browser, root, path, viewport=size) as seen:
            shown = seen.page.locator("div.math mjx-container").evaluate_all(
                """all => all.map((set) => [
                  set.textContent.slice(0, 60),
                  set.scrollWidth,
                  set.clientWidth,
                ])"""
            )
        seen_any = seen_any or bool(shown)
        if wide := [one for one in shown if one[1] > one[2]]:
            cut[path] = wide
    assert seen_any
    assert cut == {}


def test_nothing_shifts_while_a_page_loads(browser, book_url):
    context = browser.new_context(viewport=PHONE)
    context.add_init_script(
        """window.shifts = [];
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries())
            for (const source of entry.sources)
              if (source.node?.parentElement?.closest?.(".mv-explorable"))
                window.shifts.push([entry.value, source.node.outerHTML]);
        }).observe({ type: "layout-shift", buffered: true });"""
    )
    try:
        page = context.new_page()
        page.goto(book_url + "index.html", wait_until="load")
        page.wait_for_timeout(500)
        assert page.evaluate("window.shifts") == []
    finally:
        context.close()


def test_the_landing_page_shows_an_explorable_above_the_fold(browser, book):
    with visit(browser, book.as_uri() + "/", "index.html") as seen:
        seen.page.wait_for_selector("[data-mounted] svg.mv-picture")
        picture = seen.page.locator("svg.mv-picture").first.bounding_box()
        assert picture["y"] + 150 < 900


def test_without_javascript_the_words_and_numbers_stand_there(browser, book):
    options = {"java_script_enabled": False}
    context = browser.new_context(**options)
    try:
        page = context.new_page()
        page.goto((book / "index.html").as_uri())
        text = page.locator(".mv-fallback").inner_text()
    finally:
        context.close()
    assert "How long does a state remember a token?" in text
    assert "6.93 steps" in text


def test_the_landing_page_is_found_under_its_chapter_name_too(browser, book):
    page = browser.new_page()
    try:
        page.goto((book / "chapters" / "index.html").as_uri())
        page.wait_for_url((book / "index.html").as_uri())
        assert page.locator("[data-mounted]").count() == 1
    finally:
        page.close()


def test_search_finds_a_word_and_shows_where(browser, book_root):
    path = "search.html?q=half-life"
    with visit(browser, book_root, path) as seen:
        results = seen.page.locator("ul.search li")
        results.first.wait_for()
        seen.page.locator("ul.search li p.context").first.wait_for()
        text = " ".join(results.all_inner_texts()).lower()
        assert seen.complaints == []
    assert "half-life" in text


def test_a_missing_page_finds_its_way_home(browser, book):
    with served(book) as root, visit(browser, root, "404.html") as seen:
        page = seen.page
        # A static host answers an address it does not know with this page.
        html = (book / "404.html").read_text()
        page.route(
            "**/nowhere.html",
            lambda route: route.fulfill(body=html, content_type="text/html"),
        )
        page.goto(root + "chapters/nowhere.html")
        links = page.locator("main a").evaluate_all(
            "all => all.map((a) => a.href)"
        )
        assert links
        assert all(link.startswith(root) for link in links)
        assert page.evaluate(
            """() => [...document.styleSheets]
              .every((sheet) => sheet.cssRules.length)"""
        )


def test_light_and_dark_differ_and_print_is_light(browser, book):
    root = book.as_uri() + "/"
    with visit(browser, root, "index.html") as seen:
        page = seen.page
        ink = """() => getComputedStyle(document.documentElement)
            .getPropertyValue("--mv-ink")"""
        colour = """() => getComputedStyle(
            document.querySelector(".mv-question")).color"""
        page.evaluate("document.documentElement.dataset.theme = 'light'")
        light, shown = page.evaluate(ink), page.evaluate(colour)
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        assert page.evaluate(ink) != light
        assert page.evaluate(colour) != shown
        theme = "document.documentElement.dataset.theme"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(theme) == "light"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(theme) == "dark"
        page.emulate_media(media="print")
        assert page.evaluate(ink) == light
        assert not page.locator(".mv-controls").first.is_visible()
        assert page.locator("svg.mv-picture").first.is_visible()


class _Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name in ("id", "name") and value:
                self.ids.add(value)


def test_every_link_inside_the_book_leads_somewhere(book):
    parsed = {
        path: _Links((book / path).read_text()) for path in pages_of(book)
    }
    dead = []
    for path, page in parsed.items():
        # An explorable's links to the code behind it lie in its state.
        text = (book / path).read_text()
        provenance = re.findall(r'"(chapters/[\w-]+\.html#[\w-]+)"', text)
        for name in provenance:
            target, anchor = name.split("#")
            if anchor not in parsed[target].ids:
                dead.append((path, name))
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("#MathJax"):
                continue
            target = book / path
            if parts.path:
                target = (book / path).parent / unquote(parts.path)
            if not target.exists():
                dead.append((path, link))
                continue
            name = target.resolve().relative_to(book.resolve()).as_posix()
            if parts.fragment and name in parsed:
                known = parsed[name].ids
                if unquote(parts.fragment) not in known | {"", "top"}:
                    dead.append((path, link))
    assert dead == []
