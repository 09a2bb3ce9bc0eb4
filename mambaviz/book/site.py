"""The site around the chapters: landing page, 404 page, page header."""

from collections.abc import Iterable
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.config import Config

# For whoever kept the address that the first chapter's source suggests.
MOVED = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<script>
  location.replace("{target}" + location.search + location.hash);
</script>
<noscript><meta http-equiv="refresh" content="0; url={target}"></noscript>
<link rel="canonical" href="{target}">
</head>
<body><p><a href="{target}">{title}</a></p></body>
</html>
"""

# What the last steps of a build bring into the book, or change in it.
CHANGED_LATER = ("mystnb.*.css", "scripts/*.js", "styles/*.css")


def setup(app: Sphinx) -> None:
    """Connect the pages and page parts that are not chapters."""
    app.add_builder(BookBuilder, override=True)
    app.connect("config-inited", add_pages)
    app.connect("html-page-context", offer_notebook, priority=900)
    app.connect("build-finished", write_site_files)


class BookBuilder(StandaloneHTMLBuilder):
    """Sphinx's HTML builder, with the root chapter as the landing page.

    Jupyter Book would leave a redirect at ``index.html``: a reader who opens
    the book would see an empty page first, and twice as many addresses.
    """

    def get_target_uri(self, docname: str, typ: str | None = None) -> str:
        """The page's address below the book's root."""
        return super().get_target_uri(self._landing(docname), typ)

    def get_outfilename(self, pagename: str) -> str:
        """The file that the page is written to."""
        return super().get_outfilename(self._landing(pagename))

    def copy_static_files(self) -> None:
        """Copy the theme's files as if for the first time.

        So a page names the same versions in a first and in a later build.
        """
        static = Path(self.outdir) / "_static"
        for pattern in CHANGED_LATER:
            for path in static.glob(pattern):
                path.unlink()
        super().copy_static_files()

    def load_indexer(self, docnames: Iterable[str]) -> None:
        """Begin the search index anew when all pages are written anew.

        Sphinx would keep words that no page has any more.
        """
        if not self.env.all_docs.keys() <= set(docnames):
            super().load_indexer(docnames)

    def _landing(self, pagename: str) -> str:
        return "index" if pagename == self.config.root_doc else pagename


def add_pages(app: Sphinx, config: Config) -> None:
    """Have a 404 page built."""
    config.html_additional_pages = {
        **config.html_additional_pages,
        "404": "404.html",
    }


def offer_notebook(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict,
    doctree: nodes.document | None,
) -> None:
    """Tell the page's header where the chapter's notebook is, if it has one.

    Args:
        app: the Sphinx application.
        pagename: the page, without suffix.
        templatename: its template.
        context: what the template is filled with.
        doctree: the page's document, if it comes from one.
    """
    if "kernelspec" in app.env.metadata.get(pagename, {}):
        name = pagename.rpartition("/")[2]
        context["notebook"] = f"notebooks/{name}.ipynb"


def write_site_files(app: Sphinx, exception: Exception | None) -> None:
    """Write the redirect to the landing page and what static hosts want."""
    if exception is not None or app.builder.format != "html":
        return
    outdir = Path(app.outdir)
    (outdir / ".nojekyll").touch()  # or such hosts would hide _static/
    root = app.config.root_doc
    if root != "index":
        old = outdir / f"{root}.html"
        target = "../" * root.count("/") + "index.html"
        old.parent.mkdir(parents=True, exist_ok=True)
        old.write_text(
            MOVED.format(title=app.config.html_title, target=target),
            encoding="utf-8",
        )
