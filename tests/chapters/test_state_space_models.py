"""The chapter runs, and says in its prose what its cells compute."""

import ast
import re
from pathlib import Path

import jupytext
import nbclient
import pytest
import torch
from docutils import nodes

from mambaviz import exercises, widgets
from mambaviz.exercises import state_space_models as questions
from mambaviz.figures import state_space_models as figures

CHAPTERS = Path(__file__).parents[2] / "chapters"
CHAPTER = CHAPTERS / "state-space-models.md"
LONGEST_CELL = 15  # lines

SECTIONS = {
    "S033 to S036, S038, S040": "where-you-are-and-what-comes-next",
    "S037": "a-state-is-a-list-of-numbers",
    "S032": "a-mass-on-a-spring",
    "S042, S046, S048, S059": "the-two-equations",
    "S051": "along-the-wires",
    "S052": "b-lets-the-input-in",
    "S047, S053, S054, E5": "a-connects-the-states",
    "S049, S055": "c-reads-the-state",
    "S056 to S058": "d-goes-past-it",
    "S031, S041": "a-signal-in-a-signal-out",
    "S039, S043": "predict-where-a-body-will-be",
    "S044, S045, S050": "learn-the-matrices-from-data",
    "E4": "not-the-only-description",
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


def printed(notebook, beginning):
    """The one line of the executed chapter that begins so."""
    lines = [
        line
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "stream"
        for line in output.text.splitlines()
    ]
    (line,) = [line for line in lines if line.startswith(beginning)]
    return line


def test_every_cell_runs_and_is_quiet(executed):
    streams = {
        output.name
        for cell in code_cells(executed)
        for output in cell.outputs
        if output.output_type == "stream"
    }
    assert streams == {"stdout"}


def test_cells_are_short(source):
    _, *rest = code_cells(source)  # the imports are a list
    assert max(len(c.source.splitlines()) for c in rest) <= LONGEST_CELL


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
    assert found == ["maze", "wires", "draw_a_signal"]


@pytest.mark.parametrize(
    "kind", [widgets.Maze, widgets.Wires, widgets.DrawASignal]
)
def test_how_it_is_computed_leads_to_a_place_in_a_chapter(kind):
    assert kind.computed
    for target in kind.computed.values():
        page, _, place = target.partition("#")
        text = (CHAPTERS.parent / page).with_suffix(".md").read_text("utf-8")
        places = re.findall(r"^:name: (\S+)$", text, flags=re.MULTILINE)
        headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
        assert place in [*places, *map(nodes.make_id, headings)]


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
        rest = name.removeprefix("ssm/").replace("-", "_")
        assert solution == f"solve_{rest}"
        shown.append(name)
    assert shown == [e.name for e in questions.EXERCISES]


def test_every_claim_has_its_section(text):
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    slugs = set(map(nodes.make_id, headings))
    assert set(SECTIONS.values()) <= slugs


def test_both_misconceptions_stand_in_a_box(text):
    boxes = re.findall(r":::\{admonition\} Common misconception: (.+)", text)
    assert boxes == [
        '"A is updated as the state moves"',
        '"the state is the smallest list there is"',
    ]


def test_a_moved_matrix_would_be_noticed(source, executed):
    """The chapter's fingerprint sees the last bit of one entry."""
    (cell,) = [c for c in code_cells(source) if "def fingerprint" in c.source]
    names = {}
    exec(code_cells(source)[0].source, names)
    torch.set_default_dtype(torch.float32)  # the imports changed it
    exec(cell.source.split("\n\n")[0], names)
    A = torch.tensor([[0.0, 1.0], [-4.0, -1.0]], dtype=torch.float64)
    moved = A.clone()
    moved[1, 1] = torch.nextafter(A[1, 1], A[0, 0])
    assert names["fingerprint"](A) == names["fingerprint"](A.clone())
    assert names["fingerprint"](A) != names["fingerprint"](moved)
    said = printed(executed, "before and after a pass: ")
    before, after = said.partition(": ")[2].split(", ")
    assert before == after == names["fingerprint"](A)


def test_numbers_in_words_are_those_of_the_cells(text, executed):
    assert "from each of 30 places" in text
    assert len(widgets.Maze().maze()["open"]) == 30
    assert "in 11 moves" in printed(executed, "from every place")
    assert "eleven from the start" in widgets.Maze.lesson
    assert f"= {2 * figures.LAUNCH[5] / 9.81:.2f}$ seconds" in text
    error = printed(executed, "loss ").rpartition(" ")[2].removesuffix("%")
    assert 0 < float(error) < 1
