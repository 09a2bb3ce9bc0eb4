"""The chapter runs, and says in its prose what its cells compute."""

import ast
import re
from pathlib import Path

import jupytext
import nbclient
import pytest
from docutils import nodes

from mambaviz import exercises, widgets
from mambaviz.exercises import hippo as questions
from mambaviz.theory import (
    discretize_dense,
    hippo_legs,
    power_norms,
)

CHAPTERS = Path(__file__).parents[2] / "chapters"
CHAPTER = CHAPTERS / "hippo.md"
LONGEST_CELL = 15  # lines

SECTIONS = {
    "S085, S086": "what-a-decides",
    "S087, S092": "compress-a-signal-into-coefficients",
    "S088, S091, E9": "which-ages-survive",
    "S089, E8": "the-matrix",
    "S090, E10": "four-matrices-one-judge",
    "S093": "a-window-the-legendre-memory-unit",
    "S094, S096": "from-hippo-to-s4-and-s4d",
    "S095": "a-tune-long-ago",
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


@pytest.fixture(scope="module")
def text(source):
    return "\n\n".join(
        cell.source for cell in source.cells if cell.cell_type != "code"
    )


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


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
    assert len(figures) == len(alts) == 5


def test_the_three_explorables_stand_in_the_page(executed):
    found = [
        name
        for page in pages_in(executed)
        for name in re.findall(r'data-explorable="(\w+)"', page)
    ]
    assert found == ["draw_and_remember", "sign_flip", "four_as"]


@pytest.mark.parametrize(
    "kind", [widgets.DrawAndRemember, widgets.SignFlip, widgets.FourAs]
)
def test_how_it_is_computed_leads_into_this_chapter(kind, text):
    places = re.findall(r"^:name: (\S+)$", text, flags=re.MULTILINE)
    for target in kind.computed.values():
        page, _, place = target.partition("#")
        assert page == "chapters/hippo.html"
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
        rest = name.removeprefix("hippo/").replace("-", "_")
        assert solution == f"solve_{rest}"
        shown.append(name)
    assert shown == [e.name for e in questions.EXERCISES]


@pytest.mark.parametrize(("claims", "section"), SECTIONS.items())
def test_every_claim_has_its_section(claims, section, text):
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    assert section in map(nodes.make_id, headings), claims


def test_the_misconceptions_stand_in_boxes(text):
    boxes = re.findall(r":::\{admonition\} Common misconception: (.+)", text)
    assert boxes == [
        '"the HiPPO matrix, as printed"',
        '"HiPPO keeps the recent past better"',
        '"Mamba uses the HiPPO matrix"',
    ]


def test_the_annotated_s4_is_linked_section_by_section(text):
    """S096."""
    site = "https://srush.github.io/annotated-s4/"
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    noted = {
        section.partition("\n")[0]: re.findall(
            rf"\]\({re.escape(site)}([^)]+)\)", section
        )
        for section in sections
        if "*In the Annotated S4:*" in section
    }
    part_1b = "#part-1b-addressing-long-range-dependencies-with-hippo"
    assert noted == {
        "Compress a signal into coefficients": [part_1b],
        "Which ages survive": [part_1b],
        "From HiPPO to S4 and S4D": [
            "#part-2-implementing-s4",
            "#turning-hippo-to-dplr",
            "s4d.html",
        ],
        "A tune, long ago": ["#part-3-s4-in-practice"],
    }


def test_the_explosion_in_the_table_is_that_of_the_matrix(text):
    A, B = hippo_legs(8, sign=1)
    for rule, power in (("zoh", 38), ("bilinear", 40)):
        A_bar, _ = discretize_dense(A, B, 0.1, rule)
        norm = power_norms(A_bar, 100)[-1].item()
        assert f"{norm:.0e}" == f"2e+{power}"
        assert rf"$2 \cdot 10^{{{power}}}$" in text


def test_the_network_keeps_as_many_numbers_as_it_says(text):
    said = " ".join(text.split())
    assert "8 channels of 32 states" in said
    assert "from a state of 256 numbers" in said
