"""The chapter says in its prose what its cells compute."""

import re

import torch

from mambaviz import widgets
from mambaviz.book.equations import colour
from mambaviz.figures import state_space_models as figures
from mambaviz.models import RELEASED
from tests.chapters.reading import code_cells

CHAPTER = "state-space-models"


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


def test_the_smallest_released_model_has_so_many_channels(words):
    smallest = min(RELEASED.values(), key=lambda config: config.d_model)
    channels = smallest.expand * smallest.d_model
    assert f"side by side, {channels:,} in the smallest released" in words
    assert smallest.block().d_inner == channels


def test_the_equations_without_d_stand_in_their_colours(text):
    """What the page shows of the model proper, term by term."""
    section = text.partition("### D goes past it")[2].partition("\n## ")[0]
    (equations,) = re.findall(r"\$\$\n(.+?)\n\$\$", section, re.DOTALL)
    coloured = colour(equations)
    found = re.findall(r"\\class\{mv-(\w+)\}", coloured)
    assert found == ["h", "A", "h", "B", "x", "y", "C", "h"]
