"""How the chapters' code is run: the kernels' environment and the cache.

Jupyter Book keeps outputs under a key made of the cells alone. A change in
the package would leave the *old* output under the new source, so the cache
lives in a folder named after a fingerprint of everything else that an output
depends on, and Sphinx reads all chapters again when that fingerprint changes.
"""

import hashlib
import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

import mambaviz

KERNEL_ENVIRONMENT = {
    "MAMBAVIZ_STATIC": "1",  # explorables show themselves as plain HTML
    "PYTHONHASHSEED": "0",  # the same order of sets in every build
    "PLOTLY_RENDERER": "plotly_mimetype",  # so that a bare figure is noticed
}
LIBRARIES = (
    "anywidget",
    "matplotlib",
    "numba",  # chooses the backend of a scan
    "numpy",
    "plotly",
    "torch",
)
OF_THE_PAGE = {".css", ".html", ".js", ".pyc", ".svg"}  # no output needs them
KEPT_CACHES = 2


def setup(app: Sphinx) -> None:
    """Connect the kernels' environment and the cache."""
    app.add_config_value("mambaviz_fingerprint", "", "env", str)
    app.connect("config-inited", choose_cache)
    environment = KernelEnvironment()
    app.connect("builder-inited", environment.enter)
    app.connect("build-finished", environment.leave)


class KernelEnvironment:
    """The environment variables of the kernels, for the time of a build."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self.before: dict[str, str | None] = {}

    def enter(self, app: Sphinx) -> None:
        """Set the variables; a kernel inherits them from this process."""
        self.before = {
            name: os.environ.get(name) for name in KERNEL_ENVIRONMENT
        }
        os.environ.update(KERNEL_ENVIRONMENT)

    def leave(self, app: Sphinx, exception: Exception | None) -> None:
        """Set them back to what they were."""
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def fingerprint(package: Path) -> str:
    """What an output depends on besides the cells, as a short name.

    Args:
        package: the folder of the package; its Python and data files count,
            its styles, scripts and templates do not.

    Returns:
        16 hexadecimal digits: of those files and of the versions of Python
        and of :data:`LIBRARIES`.
    """
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.suffix not in OF_THE_PAGE:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(package)} {content}\n".encode())
    digest.update(f"python {platform.python_version()}\n".encode())
    for library in LIBRARIES:
        try:
            version = metadata.version(library)
        except metadata.PackageNotFoundError:
            version = "absent"
        digest.update(f"{library} {version}\n".encode())
    return digest.hexdigest()[:16]


def choose_cache(app: Sphinx, config: Config) -> None:
    """Name the cache after the fingerprint; drop all but the newest caches."""
    config.mambaviz_fingerprint = fingerprint(Path(mambaviz.__file__).parent)
    caches = Path(app.outdir).parent / ".jupyter_cache"
    cache = caches / config.mambaviz_fingerprint
    cache.mkdir(parents=True, exist_ok=True)
    os.utime(cache)
    config.nb_execution_cache_path = str(cache)
    by_age = sorted(
        (p for p in caches.iterdir() if re.fullmatch("[0-9a-f]{16}", p.name)),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for old in by_age[KEPT_CACHES:]:
        shutil.rmtree(old)
