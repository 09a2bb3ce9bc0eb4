"""No link of the book is dead, and nothing is loaded from the network."""

import posixpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mambaviz.book.pages import Page


def find_defects(pages: list[Page], outdir: Path) -> list[str]:
    """Every link to nowhere and everything loaded from the network.

    Args:
        pages: all pages of the book.
        outdir: the folder they are in.

    Returns:
        A sentence for each, with the page and the address.
    """
    ids = {page.name: page.ids for page in pages}
    defects = []
    for page in pages:
        for url in sorted(page.loads):
            if urlsplit(url).scheme in {"http", "https"} or url[:2] == "//":
                defects.append(f"{page.name} loads from the network: {url}")
        for url in sorted(page.links | page.loads):
            if not _is_alive(url, page, ids, outdir):
                defects.append(f"{page.name} has a dead link: {url}")
    return defects


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
