"""The chapter says in its prose what its cells compute."""

import contextlib
import re

import pytest
import torch

from mambaviz.theory import discretize
from mambaviz.theory.convergence import (
    discretization_errors,
    observed_order,
)
from mambaviz.theory.discretize import (
    DISCRETIZATION_RULES,
    euler_to_zoh_ratio,
    half_life,
)
from tests.chapters.reading import code_cells, printed

CHAPTER = "zero-order-hold"


@pytest.mark.parametrize("rule", DISCRETIZATION_RULES)
def test_the_curve_ends_its_holds_at_the_states_of_zoh_alone(
    rule, source, monkeypatch
):
    """The chapter's check can fail: it is not held against itself."""
    swapped = DISCRETIZATION_RULES[rule]
    monkeypatch.setattr(discretize, "discretize_zoh", swapped)
    asks = "assert (states - held_state("
    cells = [cell.source for cell in code_cells(source)]
    (asking,) = [k for k, cell in enumerate(cells) if asks in cell]
    setup, asked = cells[asking].split(asks)
    names, dtype = {}, torch.get_default_dtype()
    try:
        exec(cells[0], names)  # the imports
        names["discretize_zoh"] = swapped
        exec(cells[asking - 1], names)  # the system
        exec(setup, names)
        fails = pytest.raises(AssertionError)
        with contextlib.nullcontext() if rule == "zoh" else fails:
            exec(asks + asked.splitlines()[0], names)
    finally:
        torch.set_default_dtype(dtype)


def test_half_lives_in_the_prose_are_those_of_mambas_first_values(text):
    slowest = half_life(-1.0, 0.001).item()
    fastest = half_life(-16.0, 0.1).item()
    assert f"{slowest:.0f} steps down to {fastest:.2f}" in text
    assert f"a factor of {slowest / fastest:,.0f}" in text
    assert f"from {slowest:.0f} steps to {fastest:.2f}" in text


def test_ratios_in_the_prose_are_those_of_the_rules(words):
    ratios = [f"{euler_to_zoh_ratio(-u, 1.0):.2f}" for u in (0.1, 1, 1.6, 4)]
    (said,) = re.findall(r"At \$u = 0\.1\$ that is .+? Why", words)
    assert re.findall(r"\b\d\.\d\d\b", said) == ratios
    assert f"{', '.join(ratios[:-1])} and {ratios[-1]} times as large" in words


def test_the_box_of_notation_tells_time_from_steps(text):
    section = text.partition("## From the equation to the step")[2]
    section = section.partition("\n## ")[0]
    assert section.count(":name: time-and-steps") == 1
    box = section.partition(":name: time-and-steps")[2].partition(":::")[0]
    for row in (
        r"| $x(t)$, $h(t)$, $y(t)$ | $x_k$, $h_k$, $y_k$ |",
        r"| $A$, $B$, which give a rate | $\bar A$, $\bar B$, with a bar",
    ):
        assert row in box
    # Where a hold ends both name one number: the cells show it of all holds.
    assert r"$h_k = h(t)$ at $t = (k + 1)\,\Delta$" in box


def test_the_block_stores_a_and_no_bar(executed):
    stored = printed(executed, "block.state_dict()").split()
    assert "A_log" in stored
    assert not [name for name in stored if "bar" in name.lower()]


@pytest.mark.parametrize("rule", DISCRETIZATION_RULES)
@pytest.mark.parametrize("sampling", ["left", "right", "midpoint", "average"])
def test_orders_in_the_prose_are_those_measured(rule, sampling):
    second = rule in ("zoh", "bilinear") and sampling in (
        "midpoint",
        "average",
    )
    deltas = [0.1, 0.05, 0.025]
    errors = discretization_errors(rule, deltas, sampling)
    expected = 2 if second else 1
    assert observed_order(deltas, errors) == pytest.approx(expected, abs=0.1)
