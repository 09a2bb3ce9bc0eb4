"""What holds for every chapter: it runs, and its parts are all there."""

import ast
import importlib
import re

import pytest

from mambaviz import exercises, widgets
from tests.chapters.contents import CONTENTS, LONGEST_CELL
from tests.chapters.reading import (
    calls,
    code_cells,
    pages_in,
    pages_of,
    read,
    sections,
    text_of,
)

EXPLORABLES = {
    kind._module: kind for kind in map(vars(widgets).get, widgets.__all__)
}


@pytest.fixture(scope="module", params=CONTENTS)
def chapter(request):
    return request.param


@pytest.fixture
def contents(chapter):
    return CONTENTS[chapter]


def plates_in(notebook):
    return [cell for cell in code_cells(notebook) if calls(cell, "plate")]


def tags(cell):
    return cell.metadata.get("tags", [])


def test_every_chapter_with_exercises_is_read_here():
    modules = exercises.CHAPTERS.values()
    assert {name.replace("_", "-") for name in modules} == set(CONTENTS)


def test_every_cell_runs_and_is_quiet(executed):
    streams = {
        output.name
        for cell in code_cells(executed)
        for output in cell.outputs
        if output.output_type == "stream"
    }
    assert streams == {"stdout"}


def test_cells_are_short(source, contents):
    imports, *rest = code_cells(source)
    assert len(imports.source.splitlines()) <= contents.longest_imports
    for cell in rest:
        draws = calls(cell, "plate")
        longest = contents.longest_plate if draws else LONGEST_CELL
        assert len(cell.source.splitlines()) <= longest, cell.source


def test_what_only_draws_is_folded_and_what_teaches_is_open(source):
    imports, *rest = code_cells(source)
    folded = [cell for cell in rest if "hide-input" in tags(cell)]
    assert folded == [cell for cell in rest if calls(cell, "plate")]
    assert imports.source.startswith("import ")
    assert tags(imports) == ["hide-input"]
    prompt = imports.metadata["mystnb"]["code_prompt_show"]
    assert prompt == "Show the imports"


def test_every_plate_says_in_words_what_it_shows(source, contents):
    alts = [
        {k.arg: k.value for k in call.keywords}["alt"]
        for cell in plates_in(source)
        for call in calls(cell, "plate")
    ]
    assert all(len(ast.literal_eval(alt).split()) >= 12 for alt in alts)
    assert len(alts) == contents.plates


def test_plates_arrive_as_pictures(executed, contents):
    for cell in plates_in(executed):
        (page,) = pages_of(cell)
        assert page.startswith('<figure class="mv-plate"')
    figures = [p for p in pages_in(executed) if 'class="mv-plate"' in p]
    assert len(figures) == contents.plates


def test_times_alone_are_marked_as_measured(executed, contents):
    marked = [
        (cell, page)
        for cell in code_cells(executed)
        for page in pages_of(cell)
        if "data-measured" in page
    ]
    found = []
    for cell, page in marked:
        # What is taken out for a comparison of two builds ends at its first
        # closing tag.
        if plates := calls(cell, "plate"):
            assert page.startswith('<figure class="mv-plate" data-measured>')
            assert page.count("</figure>") == 1
            (plate,) = plates
            found.append(plate.args[0].attr)
        else:
            assert page.startswith("<section data-measured>")
            found += re.findall(r'data-explorable="(\w+)"', page)
    assert found == list(contents.measured)


def test_the_explorables_stand_in_the_page(executed, contents):
    found = [
        name
        for page in pages_in(executed)
        for name in re.findall(r'data-explorable="(\w+)"', page)
    ]
    assert found == list(contents.explorables)


def test_how_it_is_computed_leads_to_a_named_place(chapter, contents):
    for name in contents.explorables:
        targets = EXPLORABLES[name].computed.values()
        assert targets
        for target in targets:
            page, _, place = target.partition("#")
            if target not in contents.elsewhere:
                assert page == f"chapters/{chapter}.html"
            home = page.removeprefix("chapters/").removesuffix(".html")
            text = text_of(read(home))
            places = re.findall(r"^:name: (\S+)$", text, flags=re.MULTILINE)
            assert place in places, name


def test_every_exercise_is_asked_and_has_a_hidden_solution(
    chapter, source, contents
):
    room = chapter.replace("-", "_")
    questions = importlib.import_module(f"mambaviz.exercises.{room}")
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
        prefix, _, rest = name.partition("/")
        assert exercises.CHAPTERS[prefix] == room
        assert solution == f"solve_{rest.replace('-', '_')}"
        solve = getattr(questions, solution)
        if not exercises.check(name, solve).passed:
            # The answer is a value, not a function.
            assert exercises.check(name, solve()).passed, name
        shown.append(name)
    names = [exercise.name for exercise in questions.EXERCISES]
    assert shown == (list(contents.asked) or names)
    assert sorted(shown) == sorted(names)


def test_every_claim_has_its_section(text, contents):
    there = sections(text)
    for claims, section in contents.sections.items():
        assert section in there, claims


def test_the_misconceptions_stand_in_boxes(text, contents):
    boxes = re.findall(r":::\{admonition\} Common misconception: (.+)", text)
    assert boxes == list(contents.misconceptions)
