"""Every warning of a build fails it, and a failed build is not forgotten.

Sphinx's own switch for this is a flag of the command line that a plain
``jupyter-book build .`` does not have. And Sphinx warns about a page only
when it reads or writes it again, so that a second build after a bad one would
pass: here a build counts as passed only when it has said so itself, and until
then every page is read again.
"""

import io
import logging
import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import ENV_PICKLE_FILENAME, Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import (
    NAMESPACE,
    WarningStreamHandler,
    getLogger,
    is_suppressed_warning,
)

PASSED = "mambaviz-passed"  # the mark of a build without a defect
LIVE_ONLY = "application/vnd.jupyter.widget-view+json"

# Of a cell that raised: colours for a terminal, the way through the libraries
# to the cell, and where else all that can be read.
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_INSIDE = re.compile(r"Traceback \(.*?(?=nbclient\.exceptions)", re.DOTALL)
_REPORT = "Notebook exception traceback saved in"

_LOGGER = getLogger(__name__)


def setup(app: Sphinx) -> "Judge":
    """Listen from now on, and judge at the very end.

    Returns:
        Who judges, so that the last steps can know of the defects before.
    """
    judge = Judge(app)
    logging.getLogger(NAMESPACE).addHandler(judge)
    app.connect("config-inited", judge.forget_failed_build)
    app.connect("env-get-outdated", judge.note_changes)
    app.connect("env-updated", judge.rewrite_all)
    app.connect("doctree-read", refuse_dead_widgets)
    app.connect("build-finished", judge.finish, priority=990)
    return judge


class Judge(WarningStreamHandler):
    """Collects what Sphinx warns of and fails the build for it.

    It is of the kind of Sphinx's own handler and stands behind it: so it gets
    a warning once and with its place, also one that Sphinx held back.
    """

    def __init__(self, app: Sphinx) -> None:
        """Listen to the build of ``app``."""
        super().__init__(io.StringIO())
        self.setLevel(logging.WARNING)
        self.app = app
        self.defects: dict[str, None] = {}  # an ordered set
        self.changed = False
        self.addFilter(self._is_unsuppressed)

    def emit(self, record: logging.LogRecord) -> None:
        """Note one warning or error: where it is and what it says."""
        message = _ANSI.sub("", record.getMessage()).strip()
        if _REPORT not in message:
            message = _INSIDE.sub("", message.replace("WARNING: ", "", 1))
            message = message.replace(f"{self.app.srcdir}/", "")
            self.defects.setdefault(message.replace(":: ", ": ", 1))

    def forget_failed_build(self, app: Sphinx, config: Config) -> None:
        """Read everything again unless the last build has passed."""
        if not self._mark.exists():
            (Path(app.doctreedir) / ENV_PICKLE_FILENAME).unlink(
                missing_ok=True
            )
        self._mark.unlink(missing_ok=True)

    def note_changes(
        self,
        app: Sphinx,
        env: BuildEnvironment,
        added: set[str],
        changed: set[str],
        removed: set[str],
    ) -> list[str]:
        """Remember whether any chapter is new, changed or gone."""
        self.changed = bool(added or changed or removed)
        return []

    def rewrite_all(self, app: Sphinx, env: BuildEnvironment) -> list[str]:
        """Write every page when one has changed.

        A page that stayed the same may point to a place that is gone; Sphinx
        would look only when it writes that page.
        """
        return sorted(env.all_docs) if self.changed else []

    def finish(self, app: Sphinx, exception: Exception | None) -> None:
        """Fail the build, or let it pass and leave the mark of that."""
        logging.getLogger(NAMESPACE).removeHandler(self)
        if exception is None and not self.defects:
            self._mark.touch()
            return
        if exception is None:
            app.statuscode = 1  # which Jupyter Book exits with
        print(self._verdict(exception), file=sys.stderr)

    def _verdict(self, exception: Exception | None) -> str:
        defects = [*self.defects]
        if exception is not None:
            defects.append(f"{type(exception).__name__}: {exception}")
        count = "1 defect" if len(defects) == 1 else f"{len(defects)} defects"
        lines = [f"\nThe book was not built: {count}."]
        for number, defect in enumerate(defects, start=1):
            first, *more = defect.splitlines() or [""]
            lines.append(f"{number:3}. {first}")
            lines += [f"     {line}" for line in more if line.strip()]
        return "\n".join(lines)

    @property
    def _mark(self) -> Path:
        return Path(self.app.doctreedir) / PASSED

    def _is_unsuppressed(self, record: logging.LogRecord) -> bool:
        return not is_suppressed_warning(
            getattr(record, "type", ""),
            getattr(record, "subtype", ""),
            getattr(self.app.config, "suppress_warnings", ()),
        )


def refuse_dead_widgets(app: Sphinx, doctree: nodes.document) -> None:
    """Refuse an ipywidget that would stand on the page and do nothing.

    An explorable knows how to be static; a bare slider needs a kernel.
    """
    for node in doctree.findall(nodes.container):
        if node.get("mime_type") == LIVE_ONLY:
            _LOGGER.warning(
                "a bare ipywidget needs a kernel and is dead in the book; "
                "show an explorable, or keep the cell out of the book",
                location=node,
                type="mambaviz",
                subtype="widget",
            )
