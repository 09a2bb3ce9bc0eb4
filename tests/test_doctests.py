"""The examples in the docstrings of the whole package are run, each of them.

Where Triton or Numba are absent, too: nothing imports them unasked.
"""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mambaviz
from mambaviz import widgets

ROOT = Path(mambaviz.__file__).parent
# module -> how many examples stand in its source
EXAMPLES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    ): count
    for path in sorted(ROOT.rglob("*.py"))
    if (count := len(re.findall(r"(?m)^ *>>> ", path.read_text("utf-8"))))
}

# What they change for a whole process is not to stay with the other tests.
ALONE = {"mambaviz.ops.selective_scan.official"}
EACH_IN_ORDER = """
import doctest, importlib, sys
results = doctest.testmod(importlib.import_module(sys.argv[1]))
sys.exit(results != (0, int(sys.argv[2])))
"""


def test_the_examples_are_found():
    rooms = {name.split(".")[1] for name in EXAMPLES}
    assert rooms >= {"theory", "ops", "models", "figures", "widgets", "book"}


def test_every_explorable_has_one():
    kinds = map(vars(widgets).get, widgets.__all__)
    assert {kind.__module__ for kind in kinds} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name):
    if name in ALONE:
        code, count = EACH_IN_ORDER, str(EXAMPLES[name])
        subprocess.run([sys.executable, "-c", code, name, count], check=True)
        return
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted == EXAMPLES[name]
    assert results.failed == 0
