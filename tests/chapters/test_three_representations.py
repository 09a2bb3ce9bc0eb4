"""The chapter runs, and says in its prose what its cells compute."""

import ast
import math
import re
from pathlib import Path

import jupytext
import nbclient
import pytest
from docutils import nodes

from mambaviz import exercises, widgets
from mambaviz.exercises import three_representations as questions
from mambaviz.theory import (
    fft_convolution_flops,
    lti_recurrence_flops,
)

CHAPTERS = Path(__file__).parents[2] / "chapters"
CHAPTER = CHAPTERS / "three-representations.md"
LONGEST_CELL = 15  # lines

SECTIONS = {
    "S068 to S070": "the-recurrence-step-by-step",
    "S071, S078, S079": "what-each-way-costs",
    "S072, S073, S075": "a-filter-that-slides",
    "S074, E6": "what-shapes-a-kernel",
    "S076, E7": "padding",
    "S077": "training-in-parallel-the-fft",
    "S080 to S082": "train-one-way-deploy-the-other",
    "S083": "what-had-to-stay-fixed",
    "S084": "the-same-for-every-text",
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


@pytest.fixture(scope="module")
def text(source):
    return "\n\n".join(
        cell.source for cell in source.cells if cell.cell_type != "code"
    )


def calls(cell, name):
    """The calls of a function in a cell."""
    return [
        node
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == name
    ]


def pages_in(notebook):
    return [
        output["data"]["text/html"]
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "text/html" in output.get("data", {})
    ]


def test_every_cell_runs_and_is_quiet(executed):
    streams = {
        output.name
        for cell in code_cells(executed)
        for output in cell.outputs
        if output.output_type == "stream"
    }
    assert streams == {"stdout"}


def test_cells_are_short(source):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(source)]
    assert max(lengths[1:]) <= LONGEST_CELL


def test_what_only_draws_is_folded_and_what_teaches_is_open(source):
    imports, *rest = code_cells(source)
    folded = [
        cell for cell in rest if "hide-input" in cell.metadata.get("tags", [])
    ]
    assert folded == [cell for cell in rest if calls(cell, "plate")]
    assert imports.metadata["tags"] == ["hide-input"]


def test_every_plate_says_in_words_what_it_shows(source, executed):
    alts = [
        {k.arg: k.value for k in call.keywords}["alt"]
        for cell in code_cells(source)
        for call in calls(cell, "plate")
    ]
    assert all(len(ast.literal_eval(alt).split()) >= 12 for alt in alts)
    figures = [p for p in pages_in(executed) if 'class="mv-plate"' in p]
    assert len(figures) == len(alts) == 6


def test_times_alone_are_marked_as_measured(executed):
    marked = [p for p in pages_in(executed) if "data-measured" in p]
    (times,) = marked
    assert "one more output" in times
    # What is taken out for a comparison of two builds ends at its first
    # closing tag.
    assert times.startswith('<figure class="mv-plate" data-measured>')
    assert times.count("</figure>") == 1


def test_the_three_explorables_stand_in_the_page(executed):
    found = [
        name
        for page in pages_in(executed)
        for name in re.findall(r'data-explorable="(\w+)"', page)
    ]
    assert found == ["kernel_slides", "kernel_builder", "break_lti"]


@pytest.mark.parametrize(
    "kind", [widgets.KernelSlides, widgets.KernelBuilder, widgets.BreakLTI]
)
def test_how_it_is_computed_leads_into_this_chapter(kind, text):
    places = re.findall(r"^:name: (\S+)$", text, flags=re.MULTILINE)
    for target in kind.computed.values():
        page, _, place = target.partition("#")
        assert page == "chapters/three-representations.html"
        assert place in places


def test_every_exercise_is_asked_and_has_a_hidden_solution(source):
    shown = []
    for cell, after in zip(source.cells, source.cells[1:], strict=False):
        if cell.cell_type != "code" or not calls(cell, "check"):
            continue
        (call,) = calls(cell, "check")
        (name,) = (ast.literal_eval(argument) for argument in call.args)
        assert exercises.check(name).passed is None
        assert after.source.startswith(
            ":::{admonition} Solution\n:class: dropdown\n"
        )
        (solution,) = re.findall(r":pyobject: (\w+)", after.source)
        assert hasattr(questions, solution)
        rest = name.removeprefix("three/").replace("-", "_")
        assert solution == f"solve_{rest}"
        shown.append(name)
    assert shown == [e.name for e in questions.EXERCISES]


@pytest.mark.parametrize(("claims", "section"), SECTIONS.items())
def test_every_claim_has_its_section(claims, section, text):
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    assert section in map(nodes.make_id, headings), claims


def test_both_misconceptions_stand_in_a_box(text):
    boxes = re.findall(r":::\{admonition\} Common misconception: (.+)", text)
    assert boxes == [
        '"the kernel has a fixed, small size"',
        '"padding at the end is harmless"',
    ]


def test_counts_in_the_prose_are_those_of_theory(source, text):
    # One multiplication and one addition a lag, but for the first.
    last = 1024 + 1023
    one = lti_recurrence_flops(1, 16)
    assert f"takes {one} operations, at any length" in " ".join(text.split())
    assert f"takes {last:,} at token 1,024" in " ".join(text.split())
    assert f"generation: {one} operations a token" in text
    assert f"generation: {last:,} at token 1,024" in text
    (cell,) = [c.source for c in code_cells(source) if "350_208" in c.source]
    for count in (
        1024 * one,
        fft_convolution_flops(1, 1024, 1),
        sum(2 * k - 1 for k in range(1, 1025)),
    ):
        assert f"{count:_}" in cell


def test_what_four_pads_leave_is_said_as_it_is(text):
    left = f"{math.exp(4 * -0.2):.0%}".replace("%", " %")
    assert text.count(left) == 2
