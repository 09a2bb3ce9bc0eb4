"""What every test shares: shapes are checked at the doors of the rooms."""

import os
import sys

import jaxtyping
import pytest
import torch

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
hook = jaxtyping.install_import_hook(CHECKED_ROOMS, "beartype.beartype").hook
is_checked = hook.should_instrument
# Triton compiles a kernel from its source: nothing may stand around it.
hook.should_instrument = lambda module: (
    not module.endswith(".kernels") and is_checked(module)
)

# Without a GPU, Triton's interpreter runs the kernels. It has to be chosen
# before they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def outside_tests(monkeypatch):
    """Without the shape checks, as a reader calls the package."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
