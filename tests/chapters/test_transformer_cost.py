"""The chapter runs, and says in its prose what its cells compute."""

import ast
import re
from pathlib import Path

import jupytext
import nbclient
import pytest
from docutils import nodes

from mambaviz import exercises, widgets
from mambaviz.exercises import transformer_cost as questions
from mambaviz.models.pieces import PIECES
from mambaviz.theory import cost

CHAPTERS = Path(__file__).parents[2] / "chapters"
CHAPTER = CHAPTERS / "transformer-cost.md"
LONGEST_CELL = 15  # lines

SECTIONS = {
    "S005": "a-text-is-a-sequence-of-tokens",
    "S006, S007, S010": "who-may-look-at-whom",
    "S008, S009, S012": "one-token-at-a-time",
    "S013, S014": "training-the-matrix-in-one-go",
    "S015, S016, E1": "writing-the-same-again-and-again",
    "S011, S017": "the-cache-and-what-it-costs",
    "S018": "two-ways-to-remember",
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


@pytest.fixture(scope="module")
def words(text):
    return " ".join(text.split())


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
    imports, *rest = code_cells(source)
    for cell in rest:
        more = 7 if calls(cell, "plate") else 0  # words for the eye
        assert len(cell.source.splitlines()) <= LONGEST_CELL + more


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
    (times,) = [p for p in pages_in(executed) if "data-measured" in p]
    assert times.startswith('<figure class="mv-plate" data-measured>')
    assert times.count("</figure>") == 1


def test_the_three_explorables_stand_in_the_page(executed):
    found = [
        name
        for page in pages_in(executed)
        for name in re.findall(r'data-explorable="(\w+)"', page)
    ]
    assert found == ["one_go_or_row_by_row", "three_odometers", "memory_meter"]
    (matrix,) = [p for p in pages_in(executed) if '"trained":' in p]
    assert '"trained":true' in matrix


@pytest.mark.parametrize(
    "kind",
    [widgets.ThreeOdometers, widgets.OneGoOrRowByRow, widgets.MemoryMeter],
)
def test_how_it_is_computed_leads_into_this_chapter(kind, text):
    places = re.findall(r"^:name: (\S+)$", text, flags=re.MULTILINE)
    for target in kind.computed.values():
        page, _, place = target.partition("#")
        assert page == "chapters/transformer-cost.html"
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
        rest = name.removeprefix("cost/").replace("-", "_")
        assert solution == f"solve_{rest}"
        shown.append(name)
    assert shown == [e.name for e in questions.EXERCISES]


@pytest.mark.parametrize(("claims", "section"), SECTIONS.items())
def test_every_claim_has_its_section(claims, section, text):
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    assert section in map(nodes.make_id, headings), claims


def test_the_dated_box_has_its_date(words):
    box = words.partition("(dated)=")[2].partition(" ::: ")[0]
    assert "As of 2024" in box
    assert "hybrids" in box


def test_the_misconception_stands_in_a_box(words, text):
    boxes = re.findall(r":::\{admonition\} Common misconception: (.+)", text)
    assert len(boxes) == 1
    assert "L²" in boxes[0]
    box = words.partition("Common misconception")[2].partition(" ::: ")[0]
    assert "$L^3/6$" in box
    assert "$L^2/2$ is what remains *with* a cache" in box
    ratio = cost.scores_without_cache(1000) / cost.scores_with_cache(1000)
    assert f"{ratio:g} times apart" in box


def test_the_way_on_leads_to_recurrent_networks(words):
    assert "(recurrent-networks.md)" in words


def test_printed_numbers_are_those_of_the_theory(executed):
    said = printed(executed, "without, with_cache")
    assert "167,167,000" in said
    assert "500,500" in said
    assert printed(executed, "crossover_length()") == "32 40 tokens\n"
    assert "7,077,888" in printed(executed, "named_parameters")
    same, again, _ = printed(executed, "train_writer").splitlines()
    assert same == again
    assert "at 4,608 tokens" in printed(executed, "linear_flops")


def test_numbers_in_the_prose_are_those_of_the_code(words):
    assert f"a list of {len(PIECES)}: a few words" in words
    weights = cost.transformer_layer_weights(768)
    assert f"{weights:,} at 768" in words
    moved = cost.crossover_length(state_bytes=4)
    assert f"4 bytes a number moves the 32 to {moved}" in words
    shared = cost.crossover_length(n_heads=4, n_kv_heads=1)
    assert (
        f"share one key and value head {{cite}}`ainslie2023gqa` it is {shared}"
        in words
    )
    assert f"{cost.kv_cache_bytes(1, 12, 768):,} bytes a token" in words
    kept = cost.ssm_state_bytes(24, 768) + cost.conv_state_bytes(24, 768)
    assert f"stays {kept:,} bytes" in words
