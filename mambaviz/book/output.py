"""The last steps of a build, on the written book: trim, complete, check."""

import re
import shutil
from pathlib import Path

import pydata_sphinx_theme
import sphinx_book_theme
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger

from mambaviz.book import icons, links, search
from mambaviz.book.assets import OWN, PLOTLY
from mambaviz.book.pages import Page, read_pages

# What the theme and the extensions copy and no page of ours uses. The HTML
# files in it are templates.
UNUSED = (
    "_static/**/*.map",
    "_static/**/*.html",
    "_static/images",
    "_static/locales",
    "_static/scripts/fontawesome.js*",
    "_static/vendor/fontawesome",
    "reports",  # of cells that raised in an earlier build
)
PYDATA = (
    Path(pydata_sphinx_theme.__file__).parent
    / "theme"
    / "pydata_sphinx_theme"
    / "static"
)
BOOK_THEME = sphinx_book_theme.get_html_theme_path() / "static"
SOURCE_MAP = re.compile(r"/[/*]# sourceMappingURL=\S+( \*/)?\n?")

_LOGGER = getLogger(__name__)


def finish(app: Sphinx) -> None:
    """Bring the written book into its final form and check it.

    Args:
        app: the Sphinx application, after everything else is written.
    """
    outdir = Path(app.outdir)
    remove_old_pages(app)
    remove_unused(outdir)
    pages = read_pages(outdir)
    remove_unreferenced(pages, outdir)
    write_icons(pages, outdir)
    chapters = {app.builder.get_target_uri(n): n for n in app.env.all_docs}
    texts = search.search_texts(pages, chapters)
    (outdir / "_static" / OWN / "search-texts.js").write_text(
        texts, encoding="utf-8"
    )
    for defect in links.find_defects(pages, outdir):
        _LOGGER.warning("%s", defect)


def remove_old_pages(app: Sphinx) -> None:
    """Remove the pages of chapters that the book no longer has."""
    outdir = Path(app.outdir)
    names = [*app.env.all_docs, *app.config.html_additional_pages, "search"]
    pages = {Path(app.builder.get_outfilename(name)) for name in names}
    pages.add(outdir / f"{app.config.root_doc}.html")
    for path in outdir.rglob("*.html"):
        if "_static" not in path.parts and path not in pages:
            path.unlink()


def remove_unused(outdir: Path) -> None:
    """Remove what no page uses, and the pointers of scripts to it."""
    for pattern in UNUSED:
        for path in sorted(outdir.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    for path in (outdir / "_static").rglob("*.[cj]s*"):
        if path.suffix in {".css", ".js"} and "vendor" not in path.parts:
            text = path.read_text(encoding="utf-8")
            if SOURCE_MAP.search(text):
                path.write_text(SOURCE_MAP.sub("", text), encoding="utf-8")


def remove_unreferenced(pages: list[Page], outdir: Path) -> None:
    """Remove pictures and libraries that no page shows any more."""
    urls = {url for page in pages for url in page.loads | page.links}
    used = {url.partition("?")[0].rpartition("/")[2] for url in urls}
    for folder in ("_images", "_downloads"):
        for path in sorted((outdir / folder).rglob("*")):
            if path.is_file() and path.name not in used:
                path.unlink()
    plotly = outdir / "_static" / PLOTLY
    if plotly.name not in used:
        plotly.unlink(missing_ok=True)


def write_icons(pages: list[Page], outdir: Path) -> None:
    """Write the icons in use, and the theme's styles without its fonts."""
    static = outdir / "_static"
    script = (PYDATA / "scripts" / "fontawesome.js").read_text("utf-8")
    sheet = "styles/pydata-sphinx-theme.css"
    theme_icons = icons.Icons(script, (PYDATA / sheet).read_text("utf-8"))
    for theme, name in (
        (PYDATA, sheet),
        (BOOK_THEME, "styles/sphinx-book-theme.css"),
    ):
        styles = SOURCE_MAP.sub("", (theme / name).read_text("utf-8"))
        (static / name).write_text(
            theme_icons.without_fonts(styles), encoding="utf-8"
        )
    scripts = [
        (static / "scripts" / f"{name}.js").read_text("utf-8")
        for name in ("pydata-sphinx-theme", "sphinx-book-theme")
    ]
    (static / OWN / "icons.css").write_text(
        theme_icons.sheet(icons.used_icons(pages, scripts)), encoding="utf-8"
    )
