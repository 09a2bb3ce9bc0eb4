"""Parts of pages that are made when the book is built.

A page says where such a part belongs by a comment of its own line, as in
``% generated: ledger``; a notebook, which no build makes, leaves it out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from sphinx.application import Sphinx
from sphinx_external_toc.api import Document, SiteMap

from mambaviz.book import claims, stops

LEDGER_FILE = "claims.json"  # at the book's root

_MARK = re.compile(r"^% generated: (\w+)$", re.MULTILINE)


def setup(app: Sphinx) -> None:
    """Fill the marks of pages, and write the ledger beside them."""
    app.connect("source-read", fill)
    app.connect("build-finished", write_ledger)


def fill(app: Sphinx, docname: str, content: list[str]) -> None:
    """Put the parts that a page asks for into its source.

    Args:
        app: the Sphinx application.
        docname: the page.
        content: its source, which is replaced.

    Raises:
        ValueError: there is no such part, or the ledger has a fault.
    """
    names = set(_MARK.findall(content[0]))
    if not names:
        return
    unknown = names - PARTS.keys()
    if unknown:
        raise ValueError(
            f"{docname} asks for {sorted(unknown)}; what is generated is "
            f"{sorted(PARTS)}"
        )
    made = {name: PARTS[name](app, docname) for name in names}
    content[0] = _MARK.sub(lambda mark: made[mark[1]], content[0])


def pages_in_order(site_map: SiteMap) -> Iterator[str]:
    """The pages of a book in the order of its table of contents.

    Args:
        site_map: what sphinx-external-toc has read.
    """

    def below(page: Document) -> Iterator[str]:
        yield page.docname
        for name in page.child_files():
            yield from below(site_map[name])

    return below(site_map.root)


def write_ledger(app: Sphinx, exception: Exception | None) -> None:
    """Write the claims of the book's chapters as one file."""
    if exception is not None or app.builder.format != "html":
        return
    chapters = {name.rpartition("/")[2] for name in app.env.all_docs}
    held = [c for c in claims.read_claims() if c.chapter in chapters]
    if held:
        claims.write_json(held, Path(app.outdir) / LEDGER_FILE)


def _ledger(app: Sphinx, docname: str) -> str:
    """The claims, chapter after chapter."""
    sources = {}
    for name in pages_in_order(app.config.external_site_map):
        path = Path(app.env.doc2path(name))
        sources[path.stem] = path.read_text("utf-8")
        app.env.note_dependency(str(path))
    for path in claims.FOLDER.glob("*.yml"):
        app.env.note_dependency(str(path))
    return "\n\n".join(claims.ledger_page(claims.read_claims(), sources))


def _way(app: Sphinx, docname: str) -> str:
    """The picture of the way, and its words."""
    there = _addresses(app, docname)
    drawn = f"```{{raw}} html\n{stops.picture(there)}\n```"
    return f"{drawn}\n\n{stops.in_words(there)}"


def _edition(app: Sphinx, docname: str) -> str:
    return stops.edition(_addresses(app, docname))


def _addresses(app: Sphinx, docname: str) -> dict[str, str]:
    """Where each chapter is, seen from a page."""
    app.env.note_dependency(str(Path(app.srcdir, "_toc.yml")))
    return {
        name.rpartition("/")[2]: app.builder.get_relative_uri(docname, name)
        for name in pages_in_order(app.config.external_site_map)
    }


PARTS = {"edition": _edition, "ledger": _ledger, "way": _way}
