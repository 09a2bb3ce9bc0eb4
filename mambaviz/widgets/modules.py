"""The JavaScript of the explorables, as Jupyter and as the book want it.

An explorable is written once, as an ES module ``<name>.js`` that may use
everything exported by ``lib/*.js``. Jupyter gets one module with the library
in front (:func:`esm`); the book gets classic scripts (:func:`classic`), which
a browser runs from ``file://`` and while the page is being parsed, so that
the picture stands there before the first paint. Neither needs a bundler: the
modules keep to exports at the start of a line and import nothing.
"""

import re
from pathlib import Path

ROOM = Path(__file__).parent
LIBRARY = (
    "numbers.js",
    "traits.js",
    "plot.js",
    "rules.js",
    "matrices.js",
    "card.js",
    "pen.js",
)

_EXPORT = re.compile(
    r"^export (?P<what>default|(?:async )?function|const|class)"
    r"(?: (?P<name>\w+))?",
    re.MULTILINE,
)


def names() -> list[str]:
    """The names of all explorables, in alphabetical order."""
    return sorted(path.stem for path in ROOM.glob("*.js"))


def library() -> str:
    """The shared library as one ES module."""
    return "\n".join(
        (ROOM / "lib" / part).read_text(encoding="utf-8") for part in LIBRARY
    )


def module(name: str) -> str:
    """The source of one explorable's ES module, without the library.

    Args:
        name: the module's name, one of :func:`names`.

    Raises:
        ValueError: there is no explorable of that name.
    """
    if name not in names():
        raise ValueError(
            f"there is no explorable {name!r}; there are {names()}"
        )
    return (ROOM / f"{name}.js").read_text(encoding="utf-8")


def exports(source: str) -> list[str]:
    """The names that a module exports, the default one left out."""
    return [m["name"] for m in _EXPORT.finditer(source) if m["name"]]


def esm(name: str) -> str:
    """One explorable as a self-contained ES module, for anywidget."""
    return f"{_without_exports(library())}\n{module(name)}"


def classic(name: str) -> str:
    """One explorable, or the library as ``"lib"``, as a classic script.

    The scripts hand what they export to ``MambaViz.define``, which the
    book's static host provides.
    """
    shared = ", ".join(exports(library()))
    if name == "lib":
        head, source, result = "", library(), shared
    else:
        source = module(name)
        head = f"const {{ {shared} }} = lib;\n"
        result = ", ".join([*exports(source), "default: explorable"])
    return (
        f'MambaViz.define("{name}", (lib) => {{\n"use strict";\n'
        f"{head}{_without_exports(source)}\n"
        f"return {{ {result} }};\n}});\n"
    )


def stylesheet() -> str:
    """The style sheet that all explorables share."""
    return (ROOM / "explorable.css").read_text(encoding="utf-8")


def _without_exports(source: str) -> str:
    def strip(match: re.Match) -> str:
        if match["what"] == "default":
            return "const explorable ="
        return match.group().removeprefix("export ")

    return _EXPORT.sub(strip, source)
