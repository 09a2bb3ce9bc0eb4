"""The code behind the figures, folded where a chapter calls it.

A chapter calls ``figures.draw_masks``; its reader wants to see what that does
without leaving the page. So below each code cell stands the source of every
function and class of ``mambaviz.figures`` that the cell is the first to name:
inside the fold of a cell that is folded itself, else in a box of its own.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx

ROOM = "mambaviz.figures"
TOOLS = "mambaviz.figures.plate"  # how any picture is made into a plate


def setup(app: Sphinx) -> None:
    """Show the code of a page's figures when the page has been read."""
    app.connect("doctree-read", show_sources)


def show_sources(app: Sphinx, doctree: nodes.document) -> None:
    """Put the sources below the cells that name them.

    Args:
        app: the Sphinx application.
        doctree: the page, which grows.
    """
    names, shown = {}, set()
    for cell in list(doctree.findall(nodes.container)):
        if cell.get("nb_element") != "cell_code":
            continue
        code = cell.children[0]
        if code.get("nb_element") != "cell_code_source":
            continue
        blocks = []
        for found in called(code.astext(), names):
            if found not in shown:
                shown.add(found)
                blocks.append(found)
        if not blocks:
            continue
        if cell.get("hide_mode"):
            code += [_source(found) for found in blocks]
        else:
            at = cell.parent.index(cell) + 1
            cell.parent[at:at] = [_box(found) for found in blocks]


def called(code: str, names: dict[str, object]) -> Iterator[object]:
    """The functions and classes of the figures' room that a cell names.

    Args:
        code: the cell.
        names: what earlier cells imported from that room, by the name it has
            on the page; grows by what this cell imports.

    Yields:
        Each once, in the order of the cell.
    """
    tree = ast.parse(_without_magics(code))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_of_room(node.module):
            names |= {
                alias.asname or alias.name: _import(node.module, alias.name)
                for alias in node.names
            }
    seen = []
    for node in sorted(
        (n for n in ast.walk(tree) if isinstance(n, ast.Attribute | ast.Name)),
        key=lambda n: (n.end_lineno, n.end_col_offset),
    ):
        if isinstance(node, ast.Name):
            found = names.get(node.id)
        elif isinstance(node.value, ast.Name):
            found = getattr(names.get(node.value.id), node.attr, None)
        else:
            continue
        is_code = inspect.isfunction(found) or inspect.isclass(found)
        if is_code and _is_of_room(found.__module__) and found not in seen:
            seen.append(found)
            yield found


def _is_of_room(module: str | None) -> bool:
    return (module or "").startswith(ROOM) and module != TOOLS


def _import(module: str, name: str) -> object:
    try:
        return importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), name)


def _without_magics(code: str) -> str:
    return "\n".join(
        line for line in code.split("\n") if line[:1] not in ("%", "!")
    )


def _source(found: object) -> nodes.literal_block:
    code = inspect.getsource(found).rstrip()
    return nodes.literal_block(code, code, language="python")


def _box(found: object) -> nodes.admonition:
    title = nodes.title("", "", nodes.Text("The code of "))
    title += nodes.literal("", found.__name__)
    return nodes.admonition("", title, _source(found), classes=["dropdown"])
