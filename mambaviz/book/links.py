"""No link of the book is dead, and nothing is loaded from the network."""

import posixpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.util.logging import getLogger

from mambaviz.book.pages import Page

_LOGGER = getLogger(__name__)


def check(pages: list[Page], outdir: Path) -> None:
    """Warn of each link to nowhere and of each thing from the network.

    Args:
        pages: all pages of the book.
        outdir: the folder they are in.
    """
    for page in pages:
        for url in sorted(page.loads):
            if urlsplit(url).scheme in {"http", "https"} or url[:2] == "//":
                _warn(page, "loads from the network", url)
    ids = {page.name: page.ids for page in pages}
    for page in pages:
        for url in sorted(page.links | page.loads):
            if not _is_alive(url, page, ids, outdir):
                _warn(page, "has a dead link", url)


def _is_alive(
    url: str, page: Page, ids: dict[str, set[str]], outdir: Path
) -> bool:
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return True  # not ours to know
    folder = posixpath.dirname(page.name)
    target = posixpath.normpath(posixpath.join(folder, unquote(parts.path)))
    if not parts.path:
        target = page.name
    if not (outdir / target).is_file():
        return False
    if not parts.fragment or target not in ids:
        return True
    # What follows an "=" is the state of the explorable with that id.
    return unquote(parts.fragment).partition("=")[0] in ids[target]


def _warn(page: Page, what: str, url: str) -> None:
    _LOGGER.warning(
        "%s %s: %s", page.name, what, url, type="mambaviz", subtype="link"
    )
