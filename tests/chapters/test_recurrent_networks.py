"""The chapter runs, and says in its prose what its cells compute."""

import ast
import re
from pathlib import Path

import jupytext
import nbclient
import pytest
from docutils import nodes

from mambaviz import exercises, widgets
from mambaviz.exercises import recurrent_networks as questions
from mambaviz.figures import recurrent_networks as figures
from mambaviz.theory import hillis_steele_schedule, scan_depth

CHAPTERS = Path(__file__).parents[2] / "chapters"
CHAPTER = CHAPTERS / "recurrent-networks.md"
LONGEST_CELL = 15  # lines

SECTIONS = {
    "S019, S020": "one-cell-used-again-and-again",
    "S021": "only-the-last-state-is-needed",
    "S022, S023": "the-price-of-a-word",
    "S024, S025": "what-the-state-holds",
    "S026, S027, E2": "why-the-first-word-fades",
    "S028, E3": "training-waits",
    "S029, S030": "what-each-of-them-costs",
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


def printed(executed, word):
    """What the cell printed that has a word in its source."""
    (cell,) = [c for c in code_cells(executed) if word in c.source]
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


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
    assert max(lengths[1:]) <= LONGEST_CELL + 4  # plates: words for the eye
    shown = [
        len(cell.source.splitlines())
        for cell in code_cells(source)
        if not calls(cell, "plate")
    ]
    assert max(shown[1:]) <= LONGEST_CELL


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


def test_times_alone_are_marked_as_measured(executed):
    marked = [p for p in pages_in(executed) if "data-measured" in p]
    times, table = marked
    assert times.startswith('<figure class="mv-plate" data-measured>')
    assert times.count("</figure>") == 1
    assert table.startswith("<section data-measured>")
    assert 'data-explorable="comparison_table"' in table


def test_the_three_explorables_stand_in_the_page(executed):
    found = [
        name
        for page in pages_in(executed)
        for name in re.findall(r'data-explorable="(\w+)"', page)
    ]
    assert found == ["fold_unfold", "still_knows_hello", "comparison_table"]


@pytest.mark.parametrize(
    "kind",
    [widgets.FoldUnfold, widgets.StillKnowsHello, widgets.ComparisonTable],
)
def test_how_it_is_computed_leads_into_this_chapter(kind, text):
    places = re.findall(r"^:name: (\S+)$", text, flags=re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    places += map(nodes.make_id, headings)
    for target in kind.computed.values():
        page, _, place = target.partition("#")
        assert page == "chapters/recurrent-networks.html"
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
        rest = name.removeprefix("rnn/").replace("-", "_")
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
        '"it forgets because it has only one previous state"',
        '"a recurrent network cannot be trained in parallel"',
    ]


def test_the_promise_names_where_it_is_kept(text):
    _, _, box = text.partition("(promise)=\n:::{admonition}")
    box = " ".join(box.partition("\n:::\n")[0].split())
    assert "Mamba" in box
    assert "honest comparison" in box


def test_numbers_in_the_prose_are_those_of_the_code(executed, text):
    words = " ".join(text.split())
    levels = scan_depth(hillis_steele_schedule(128))
    assert f"in {levels} levels for 128 steps" in words
    assert "128 steps in 7 levels" in printed(executed, "by_loop = figures")
    assert figures.SIGNS * len(figures.SENTENCE) <= figures.D_STATE
    assert "three signs a word and sixteen numbers make five words" in words
    # |lambda| of the linear network, before it is trained.
    kept = (-figures.DiagonalRecurrence().nu.exp()).exp()
    assert 0.99 <= kept.min() < kept.max() <= 0.999
    assert "between 99 and 99.9 % of its length" in words
