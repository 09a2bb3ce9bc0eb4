"""A line for each chapter as it is read, and at last where the book is."""

import os
import time
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger

_LOGGER = getLogger(__name__)


def setup(app: Sphinx) -> None:
    """Connect the progress lines."""
    progress = Progress()
    app.connect("env-before-read-docs", progress.begin)
    app.connect("source-read", progress.begin_chapter)
    app.connect("doctree-read", progress.end_chapter)
    app.connect("build-finished", progress.finish, priority=995)


class Progress:
    """Counts the chapters of one build and tells how each was made."""

    def __init__(self) -> None:
        """Start with nothing read."""
        self.total = 0
        self.count = 0
        self.began = 0.0

    def begin(
        self, app: Sphinx, env: BuildEnvironment, docnames: list[str]
    ) -> None:
        """Note how many chapters there are to read."""
        self.total = len(docnames)
        if not docnames:
            _LOGGER.info("no chapter has changed since the last build")

    def begin_chapter(
        self, app: Sphinx, docname: str, content: list[str]
    ) -> None:
        """Note when the reading of a chapter begins."""
        self.began = time.time()

    def end_chapter(self, app: Sphinx, doctree: nodes.document) -> None:
        """Say how the chapter was made and how long that took."""
        self.count += 1
        docname = app.env.docname
        data = getattr(app.env, "nb_metadata", {}).get(docname, {})
        run = data.get("exec_data")
        if run is None:
            result = "read, nothing to execute"
        elif not run["succeeded"]:
            result = f"failed with {run['error']}"
        elif run["mtime"] < self.began:  # when its outputs were made
            result = "unchanged, from the cache"
        else:
            result = f"executed in {run['runtime']:.1f} s"
        name = docname.rpartition("/")[2]
        _LOGGER.info("[%d/%d] %s … %s", self.count, self.total, name, result)

    def finish(self, app: Sphinx, exception: Exception | None) -> None:
        """Say where the finished book is and how to serve it."""
        if exception is not None or app.statuscode != 0:
            return
        page = os.path.relpath(Path(app.outdir) / "index.html")
        _LOGGER.info("\nThe book is ready. Open %s", page)
        _LOGGER.info("or serve it on this machine with: make serve")
