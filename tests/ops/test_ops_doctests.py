"""The examples in the docstrings are run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name", ["mambaviz.ops.causal_conv1d", "mambaviz.ops.selective_scan"]
)
def test_examples(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
