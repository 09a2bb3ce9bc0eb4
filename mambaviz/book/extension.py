"""What the book needs beyond Jupyter Book, as one Sphinx extension.

This module only ties the threads: what each one does, and why, stands in the
module it comes from. ``_config.yml`` names the extension ``mambaviz.book``.
"""

import logging
import os
import warnings
from functools import partial
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.logging import getLogger

import mambaviz
from mambaviz.book import (
    assets,
    equations,
    execution,
    generated,
    notebooks,
    output,
    progress,
    reference,
    site,
    sources,
    strict,
    wheel,
)

_LOGGER = getLogger(__name__)


def setup(app: Sphinx) -> dict[str, object]:
    """Connect the book's extension to Sphinx.

    Args:
        app: the Sphinx application of this build.

    Returns:
        What Sphinx wants to know about an extension.
    """
    # sphinx-external-toc looks at every object there is, torch's old ones too.
    warnings.filterwarnings("ignore", r".*reduce_op", FutureWarning)
    judge = strict.setup(app)  # first: it listens to the others
    execution.setup(app)
    progress.setup(app)
    equations.setup(app)
    assets.setup(app)
    site.setup(app)
    sources.setup(app)
    notebooks.setup_notebooks(app)
    reference.setup(app)
    generated.setup(app)
    app.connect("config-inited", use_own_looks)
    app.connect("build-finished", partial(write_extras, judge), priority=800)
    return {
        "version": mambaviz.__version__,
        # The threads keep what they know of a build in the process.
        "parallel_read_safe": False,
        "parallel_write_safe": False,
    }


def use_own_looks(app: Sphinx, config: Config) -> None:
    """Take the package's templates, logo and icon."""
    # Relative, since Sphinx writes a hash of its settings into the book, and
    # two checkouts are to give the same book.
    room = Path(os.path.relpath(Path(__file__).parent, app.confdir))
    config.templates_path.insert(0, str(room / "templates"))
    config.html_logo = str(room / "static" / "logo.svg")
    config.html_favicon = str(room / "static" / "favicon.svg")


def write_extras(
    judge: strict.Judge, app: Sphinx, exception: Exception | None
) -> None:
    """Write what stands beside the pages, then what depends on all of it.

    Not after a defect: what follows from it would only hide it.

    Args:
        judge: who knows of the defects so far.
        app: the Sphinx application.
        exception: what ended the build, if anything did.
    """
    if exception or judge.defects or app.builder.name != "html":
        return
    try:
        notebooks.write_downloads(app)
    except ValueError as error:  # a chapter that no notebook can hold
        _LOGGER.warning("%s", error)
        return
    logging.getLogger("flit_core").setLevel(logging.WARNING)
    repository = Path(mambaviz.__file__).parents[1]
    wheel.write_wheel(repository, Path(app.outdir) / "wheels")
    output.finish(app)
