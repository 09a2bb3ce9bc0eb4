"""The examples in the docstrings are run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "mambaviz.theory.discretize",
        "mambaviz.theory.convergence",
        "mambaviz.theme",
    ],
)
def test_examples(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
