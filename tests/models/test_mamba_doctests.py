"""The examples in the docstrings of Mamba and attention are run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name", ["attention", "language_model", "mamba", "positions", "sampling"]
)
def test_examples(name):
    module = importlib.import_module(f"mambaviz.models.{name}")
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
