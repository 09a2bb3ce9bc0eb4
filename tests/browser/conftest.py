"""The book that the browser tests read."""

import subprocess
import sys
from pathlib import Path

import pytest

from mambaviz.book import bootstrap
from tests.browser.visiting import served

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def book() -> Path:
    """The built book of this tree; quick when nothing changed."""
    with bootstrap.alone(ROOT):
        build = subprocess.run(
            [Path(sys.executable).with_name("jupyter-book"), "build", "."],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert build.returncode == 0, build.stdout[-3000:] + build.stderr[-6000:]
    return ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def book_url(book):
    """The book's address on a local server, below a sub-path."""
    with served(book) as address:
        yield address


@pytest.fixture(params=["file", "server"])
def book_root(request, book) -> str:
    """The book's address, once as a folder and once on a server."""
    if request.param == "file":
        return book.as_uri() + "/"
    return request.getfixturevalue("book_url")
