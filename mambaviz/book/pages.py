"""Reading the written pages: links, ids, icons and the text to search.

What a page really needs shows only when it is written, whichever extension,
template or cell has put it there. So the last steps of a build look at the
HTML itself.
"""

import html
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

NOT_TEXT = {"button", "script", "style", "summary", "svg", "template"}
# Inline equations are read where they stand for readers without JavaScript.
NOT_TEXT_CLASSES = {"headerlink", "math", "mv-tex-display"}
RUNNING_TEXT = {"a", "b", "code", "em", "i", "noscript", "span", "strong"}
ICON_STYLES = {
    "fa": "solid",
    "fas": "solid",
    "fa-solid": "solid",
    "far": "regular",
    "fa-regular": "regular",
    "fab": "brands",
    "fa-brands": "brands",
}

TEX_LETTERS = {
    r"\Delta": "Δ",
    r"\lambda": "λ",
    r"\omega": "ω",
    r"\varphi": "φ",
    r"\partial": "∂",
    r"\ln": "ln",
    r"\exp": "exp",
    r"\cos": "cos",
}


@dataclass
class Page:
    """What the last steps of a build need to know of one page.

    Attributes:
        name: the page's address below the book's root.
        ids: the places in it that a link can point to.
        links: where its links point to.
        loads: what a browser would load to show it.
        icons: the icons on it, as pairs of style and name.
        text: the chapter's text, as sections with their ids.
    """

    name: str
    ids: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    loads: set[str] = field(default_factory=set)
    icons: set[tuple[str, str]] = field(default_factory=set)
    text: str = ""


def read_pages(outdir: Path) -> list[Page]:
    """Read every page of a built book.

    Args:
        outdir: the folder of the book.

    Returns:
        The pages, sorted by name.
    """
    paths = sorted(
        path
        for path in outdir.rglob("*.html")
        if "_static" not in path.relative_to(outdir).parts
    )
    return [
        read_page(
            path.relative_to(outdir).as_posix(),
            path.read_text(encoding="utf-8"),
        )
        for path in paths
    ]


def read_page(name: str, source: str) -> Page:
    """Read one page.

    Args:
        name: its address below the book's root.
        source: its HTML.
    """
    reader = _Reader(name)
    reader.feed(source)
    reader.close()
    page = reader.page
    page.text = re.sub(r"\s+", " ", "".join(reader.text)).strip()
    return page


def read_out(tex: str) -> str:
    r"""An equation as the words around it can carry it: ``\bar A`` as ``Ā``.

    Args:
        tex: the equation's source.

    Returns:
        Its letters and signs; what only sets them in two dimensions is gone.
    """
    tex = re.sub(r"\\(?:bar|overline)\s*\{?(\w)\}?", "\\1\u0304", tex)
    tex = re.sub(r"\\[A-Za-z]+", lambda m: TEX_LETTERS.get(m[0], " "), tex)
    return re.sub(r"\\.|[{}]", "", tex)


def icons_of(classes: str) -> set[tuple[str, str]]:
    """The icons that a class attribute asks for.

    Args:
        classes: for example ``"fa-solid fa-sun fa-lg"``.

    Returns:
        Pairs of style and class, here ``("solid", "fa-sun")`` and
        ``("solid", "fa-lg")``: that the second is only a size is for the
        theme's style sheet to know.
    """
    words = classes.split()
    styles = {ICON_STYLES[w] for w in words if w in ICON_STYLES}
    names = {w for w in words if w.startswith("fa-")} - ICON_STYLES.keys()
    return {(style, name) for style in styles for name in names}


class _Reader(HTMLParser):
    def __init__(self, name: str) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page(name)
        self.text: list[str] = []
        self.in_article = False
        self.in_equation = False
        self.skipped = ""  # the tag of the element being left out, and
        self.depth = 0  # how many of the same kind are open in it

    def handle_starttag(
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:
        attributes = {key: value or "" for key, value in attrs}
        classes = attributes.get("class", "")
        self._note(tag, attributes)
        if tag == self.skipped:
            self.depth += 1
        elif not self.skipped:
            words = classes.split()
            if tag in NOT_TEXT or NOT_TEXT_CLASSES & {*words}:
                self.skipped, self.depth = tag, 1
            elif tag == "article" and "bd-article" in words:
                self.in_article = True
            elif self.in_article and tag == "section":
                name = html.escape(attributes.get("id", ""))
                self.text.append(f'<section id="{name}">')
            else:
                self.in_equation = "mv-tex" in words
                self._space(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == self.skipped:
            self.depth -= 1
            if not self.depth:
                self.skipped = ""
        elif not self.skipped:
            if tag == "article":
                self.in_article = False
            elif self.in_article and tag == "section":
                self.text.append("</section>")
            else:
                self.in_equation = False
                self._space(tag)

    def handle_data(self, data: str) -> None:
        if self.in_article and not self.skipped:
            if self.in_equation:
                data = read_out(data)
            self.text.append(html.escape(data, quote=False))

    def _space(self, tag: str) -> None:
        # Words of neighbouring blocks must not run together.
        if self.in_article and tag not in RUNNING_TEXT:
            self.text.append(" ")

    def _note(self, tag: str, attributes: dict[str, str]) -> None:
        page = self.page
        page.icons |= icons_of(attributes.get("class", ""))
        for key in ("id", "name"):
            if key in attributes and (key == "id" or tag == "a"):
                page.ids.add(attributes[key])
        if "src" in attributes:
            page.loads.add(attributes["src"])
        if "href" in attributes:
            is_loaded = tag in {"link", "image", "use"}
            (page.loads if is_loaded else page.links).add(attributes["href"])
