"""The wheel of this package, which the built book carries along.

A downloaded chapter installs it, so that a notebook runs on a machine that
has never seen the repository.
"""

import os
from contextlib import contextmanager
from pathlib import Path

from flit_core.wheel import make_wheel_in

# The timestamp of every file in the wheel: the first of January 2026, UTC.
# Any fixed moment would do; two builds of a commit must not differ.
EPOCH = 1767225600


@contextmanager
def _fixed_time():
    """Tell flit, the only way it listens, when the files were made."""
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = str(EPOCH)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SOURCE_DATE_EPOCH"]
        else:
            os.environ["SOURCE_DATE_EPOCH"] = before


def write_wheel(root: Path, folder: Path) -> Path:
    """Build the wheel, with the same bytes for the same sources.

    No network and no other process is needed: the build backend that
    ``pyproject.toml`` names is called here.

    Args:
        root: the repository, with ``pyproject.toml``.
        folder: where to put the wheel; made if missing.

    Returns:
        The wheel's path.

    Example:
        >>> import tempfile
        >>> root = Path(__file__).parents[2]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(write_wheel(root, Path(folder)).name[:9])
        mambaviz-
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _fixed_time():
        return make_wheel_in(root / "pyproject.toml", folder).file
