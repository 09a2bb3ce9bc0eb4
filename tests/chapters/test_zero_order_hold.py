"""The chapter runs, and says in its prose what its cells compute."""

import ast
import contextlib
import re
from pathlib import Path

import jupytext
import nbclient
import pytest
import torch
from docutils import nodes

from mambaviz import exercises, widgets
from mambaviz.exercises import zero_order_hold as questions
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

CHAPTERS = Path(__file__).parents[2] / "chapters"
CHAPTER = CHAPTERS / "zero-order-hold.md"
LONGEST_CELL = 15  # lines

# What the book owes its source, by the number of the claim, and the section
# that holds it.
SECTIONS = {
    "S060": "why-the-samples-are-not-enough",
    "S061": "hold-each-value",
    "S062": "the-step-is-learned",
    "S063": "hold-each-value",
    "S064": "from-the-equation-to-the-step",
    "S065": "a-sequence-in-a-sequence-out",
    "S066": "which-state-goes-with-which-token",
    "S067": "the-model-stores-a-not-its-bar",
    "S086": "how-long-a-state-remembers",
    "E11": "where-the-released-code-differs",
    "E25": "which-state-goes-with-which-token",
}


@pytest.fixture(scope="module")
def source():
    return jupytext.read(CHAPTER, fmt="md:myst")


@pytest.fixture(scope="module")
def executed(source):
    """The chapter as the book runs it; a raising cell fails its tests."""
    client = nbclient.NotebookClient(
        source.copy(), timeout=120, resources={"metadata": {"path": CHAPTERS}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMBAVIZ_STATIC", "1")
        return client.execute()


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(notebook):
    return "\n\n".join(
        cell.source for cell in notebook.cells if cell.cell_type != "code"
    )


def tags(cell):
    return cell.metadata.get("tags", [])


def calls(cell, name):
    """The calls of a function in a cell."""
    return [
        node
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == name
    ]


def html_outputs(cell):
    return [
        output["data"]["text/html"]
        for output in cell.outputs
        if "text/html" in output.get("data", {})
    ]


def sections(text):
    """What a reader may link to: the ids that the headings get in HTML."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {nodes.make_id(heading) for heading in headings}


def test_every_cell_runs_and_is_quiet(executed):
    streams = {
        output.name
        for cell in code_cells(executed)
        for output in cell.outputs
        if output.output_type == "stream"
    }
    assert streams == {"stdout"}


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


def test_cells_are_short(source):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(source)]
    assert max(lengths) <= LONGEST_CELL


def test_what_only_draws_is_folded_and_what_teaches_is_open(source):
    imports, *rest = code_cells(source)
    folded = [cell for cell in rest if "hide-input" in tags(cell)]
    draws = [cell for cell in rest if calls(cell, "plate")]
    assert folded == draws
    assert len(draws) >= 3
    assert imports.source.startswith("import ")
    assert tags(imports) == ["hide-input"]
    prompt = imports.metadata["mystnb"]["code_prompt_show"]
    assert prompt == "Show the imports"


def test_every_plate_says_in_words_what_it_shows(source):
    for cell in code_cells(source):
        for call in calls(cell, "plate"):
            alt = {k.arg: k.value for k in call.keywords}["alt"]
            assert len(ast.literal_eval(alt).split()) >= 12


def test_plates_arrive_as_pictures(executed):
    for cell in code_cells(executed):
        if calls(cell, "plate"):
            (page,) = html_outputs(cell)
            assert page.startswith('<figure class="mv-plate">')


def test_three_different_explorables_stand_in_the_page(executed):
    found = [
        name
        for cell in code_cells(executed)
        for page in html_outputs(cell)
        for name in re.findall(r'data-explorable="(\w+)"', page)
    ]
    assert sorted(found) == ["five_rules", "hold_it", "memory_decay"]


@pytest.mark.parametrize(
    "explorable", [widgets.FiveRules, widgets.HoldIt, widgets.MemoryDecay]
)
def test_how_it_is_computed_leads_to_a_place_in_a_chapter(explorable, source):
    text = text_of(source)
    places = sections(text)
    places |= set(re.findall(r"^:name: (\S+)$", text, flags=re.MULTILINE))
    assert explorable.computed
    for target in explorable.computed.values():
        page, _, place = target.partition("#")
        assert page == "chapters/zero-order-hold.html"
        assert place in places


def test_every_exercise_is_asked_without_an_answer(source):
    asked = [
        [ast.literal_eval(argument) for argument in call.args]
        for cell in code_cells(source)
        for call in calls(cell, "check")
    ]
    assert len(asked) >= 4
    assert sorted(asked) == sorted([e.name] for e in questions.EXERCISES)
    assert not any(exercises.check(*arguments) for arguments in asked)


def test_every_exercise_is_followed_by_its_hidden_solution(source):
    shown = []
    for cell, after in zip(source.cells, source.cells[1:], strict=False):
        if cell.cell_type != "code" or not calls(cell, "check"):
            continue
        (call,) = calls(cell, "check")
        assert after.source.startswith(
            ":::{admonition} Solution\n:class: dropdown\n"
        )
        (name,) = re.findall(r":pyobject: (\w+)", after.source)
        exercise = exercises.find(ast.literal_eval(call.args[0]))
        solution = getattr(questions, name)
        answer = exercise.check(solution)
        if not answer.passed:  # the answer is a value, not a function
            answer = exercise.check(solution())
        assert answer.passed, answer
        shown.append(name)
    assert len(shown) == len(set(shown)) == len(questions.EXERCISES)


@pytest.mark.parametrize(("claim", "section"), SECTIONS.items())
def test_every_claim_has_its_section(claim, section, source):
    assert section in sections(text_of(source)), claim


def test_both_misconceptions_stand_in_a_box(source):
    text = text_of(source)
    boxes = re.findall(r":::\{admonition\} Common misconception: (.+)", text)
    assert boxes == [
        '"the index is off by one"',
        '"Mamba discretises with ZOH"',
    ]


def test_half_lives_in_the_prose_are_those_of_mambas_first_values(source):
    slowest = half_life(-1.0, 0.001).item()
    fastest = half_life(-16.0, 0.1).item()
    text = text_of(source)
    assert f"{slowest:.0f} steps down to {fastest:.2f}" in text
    assert f"a factor of {slowest / fastest:,.0f}" in text
    assert f"from {slowest:.0f} steps to {fastest:.2f}" in text


def test_ratios_in_the_prose_are_those_of_the_rules(source):
    ratios = [f"{euler_to_zoh_ratio(-u, 1.0):.2f}" for u in (0.1, 1, 1.6, 4)]
    text = " ".join(text_of(source).split())
    (said,) = re.findall(r"At \$u = 0\.1\$ that is .+? Why", text)
    assert re.findall(r"\b\d\.\d\d\b", said) == ratios
    assert f"{', '.join(ratios[:-1])} and {ratios[-1]} times as large" in text


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
