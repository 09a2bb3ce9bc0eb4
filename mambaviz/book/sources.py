"""The code behind the figures, folded where a chapter calls it.

A chapter calls ``figures.draw_masks``; its reader wants to see what that does
without leaving the page. So below each code cell stands the source of every
function and class of ``mambaviz.figures`` that the cell is the first to name:
inside the fold of a cell that is folded itself, else in a box of its own.
"""

import ast
import importlib
import inspect
import textwrap
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
        new = [f for f in called(code.astext(), names) if f not in shown]
        whole = [f for f in with_helpers(new) if f not in shown]
        if not new:
            continue
        shown.update(whole)
        block = _source(whole)
        if cell.get("hide_mode"):
            code += block
        else:
            cell.parent.insert(cell.parent.index(cell) + 1, _box(new, block))


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
        if _is_code(found) and found not in seen:
            seen.append(found)
            yield found


def with_helpers(found: list[object]) -> list[object]:
    """The same, and the private functions and classes that they need.

    Args:
        found: functions and classes; each helper follows all of them.
    """
    whole = list(found)
    for thing in whole:  # grows meanwhile
        module = vars(inspect.getmodule(thing))
        for node in ast.walk(ast.parse(textwrap.dedent(_code(thing)))):
            if not isinstance(node, ast.Name) or node.id[0] != "_":
                continue
            helper = module.get(node.id)
            if _is_code(helper) and helper not in whole:
                whole.append(helper)
    return whole


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


def _is_code(found: object) -> bool:
    defined = inspect.isfunction(found) or inspect.isclass(found)
    return defined and _is_of_room(found.__module__)


def _code(found: object) -> str:
    return inspect.getsource(found).rstrip()


def _source(found: list[object]) -> nodes.literal_block:
    code = "\n\n\n".join(map(_code, found))
    return nodes.literal_block(code, code, language="python")


def _box(found: list[object], block: nodes.literal_block) -> nodes.admonition:
    title = nodes.title("", "", nodes.Text("The code of "))
    for i, thing in enumerate(found):
        if i:
            title += nodes.Text(" and " if i == len(found) - 1 else ", ")
        title += nodes.literal("", thing.__name__)
    return nodes.admonition("", title, block, classes=["dropdown"])
