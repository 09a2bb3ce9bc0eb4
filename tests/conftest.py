"""What every test shares: shapes are checked at the doors of the rooms."""

import sys

import jaxtyping
import pytest

pytest_plugins = ["tests.browsing"]  # the fixture `browser`

# Their public functions say the axes of each tensor; in the tests, and only
# there, beartype holds every call to what the signature says.
CHECKED_ROOMS = [
    "mambaviz.theory",
    "mambaviz.ops",
    "mambaviz.models",
    "mambaviz.tasks",
]

imported = [room for room in CHECKED_ROOMS if room in sys.modules]
if imported:
    raise RuntimeError(
        f"{imported} imported before the shape checks were installed"
    )
jaxtyping.install_import_hook(CHECKED_ROOMS, "beartype.beartype")


@pytest.fixture
def outside_tests(monkeypatch):
    """Without the shape checks, as a reader calls the package."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
