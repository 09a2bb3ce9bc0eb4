"""The examples in the docstrings of the time-invariant layers are run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["lti", "rnn", "s4", "s4d", "h3", "hyena"])
def test_examples(name):
    module = importlib.import_module(f"mambaviz.models.{name}")
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
