"""The examples in the docstrings are run."""

import doctest
import importlib
from pathlib import Path

import pytest

import mambaviz

ROOT = Path(mambaviz.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in [*(ROOT / "theory").glob("*.py"), ROOT / "theme.py"]
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_the_examples_are_found():
    assert {"mambaviz.theory.discretize", "mambaviz.theory.hippo"} <= set(
        WITH_EXAMPLES
    )


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
