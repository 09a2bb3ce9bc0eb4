"""The book that the browser tests read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mambaviz.book import bootstrap
from tests.browser.visiting import served

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    """The built book of this tree; quick when nothing changed.

    Built once for all processes that run tests: a build removes what the
    tests of another one are reading.
    """
    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent  # which the processes share
    is_built = run / "the book is built"
    with bootstrap.alone(ROOT):
        if not is_built.exists():
            build = subprocess.run(
                [Path(sys.executable).with_name("jupyter-book"), "build", "."],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            said = build.stdout[-3000:] + build.stderr[-6000:]
            assert build.returncode == 0, said
            is_built.touch()
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
