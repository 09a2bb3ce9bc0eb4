"""The examples in the docstrings of the whole package are run."""

import doctest
import importlib
from pathlib import Path

import pytest

import mambaviz

ROOT = Path(mambaviz.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_the_examples_are_found():
    rooms = {name.split(".")[1] for name in WITH_EXAMPLES}
    assert rooms >= {"theory", "ops", "models", "figures", "widgets", "book"}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
