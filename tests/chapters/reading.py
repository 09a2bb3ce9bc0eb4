"""A chapter as its tests read it: its cells, its words, and what it gives."""

import ast
import functools
import re
from pathlib import Path

import jupytext
import nbclient
import pytest
from docutils import nodes

CHAPTERS = Path(__file__).parents[2] / "chapters"


def read(chapter):
    return jupytext.read(CHAPTERS / f"{chapter}.md", fmt="md:myst")


@functools.cache
def execute(chapter):
    """The chapter as the book runs it, once for all tests of a run."""
    client = nbclient.NotebookClient(
        read(chapter), timeout=120, resources={"metadata": {"path": CHAPTERS}}
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


def sections(text):
    """What a reader may link to: the ids that the headings get in HTML."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {nodes.make_id(heading) for heading in headings}


def calls(cell, name):
    """The calls of a function in a cell."""
    return [
        node
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == name
    ]


def pages_of(cell):
    """What an executed cell shows as HTML."""
    return [
        output["data"]["text/html"]
        for output in cell.outputs
        if "text/html" in output.get("data", {})
    ]


def pages_in(notebook):
    return [page for cell in code_cells(notebook) for page in pages_of(cell)]


def printed(notebook, word):
    """What the cell printed that has a word in its source."""
    (cell,) = [c for c in code_cells(notebook) if word in c.source]
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")
