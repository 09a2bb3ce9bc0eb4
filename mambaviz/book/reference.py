"""The reference of the package, which Sphinx's autodoc makes of docstrings.

A page whose header says ``api: [mambaviz.theory]`` gets, below its own words,
every public name of those modules, under a heading for each file that defines
some. A name that joins an ``__all__`` is on the page of the next build.

Autodoc reads reStructuredText. Our docstrings are plain words in which what is
indented is a formula, so here their signs are quoted, formulas get the colours
of the symbols, and a name that the reference knows becomes a link to it.
"""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger

from mambaviz.theme import SYMBOLS

KEY = "api"  # in a page's header: the modules that the page is about
SETTINGS = {
    "add_module_names": False,
    "autodoc_member_order": "bysource",
    "autodoc_preserve_defaults": True,  # as they are written
    "autodoc_typehints_format": "short",
    # As a list, not as entries that look like those of functions.
    "napoleon_custom_sections": [("Attributes", "params_style")],
    "napoleon_numpy_docstring": False,
    "python_maximum_signature_line_length": 60,  # then a line for each
    "python_use_unqualified_type_names": True,
    "toc_object_entries_show_parents": "hide",
}
VALUE = (ast.Assign, ast.AnnAssign)

_HEADER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)
# Napoleon knows the others, but in some of these it sees a type before ":".
_FIELD = re.compile(r"(Example|Returns|See|Source|Yields):(?: +|\n|$)")
_SECTION = re.compile(
    rf"^(?=(?:Args:|Attributes:|Raises:|{_FIELD.pattern}))", re.MULTILINE
)
# Names that share an explanation and do not fit into a line.
_NAMES = re.compile(r"^( +\w+(?:, \w+)*,)\n +(?=\w+(?:, \w+)*:)", re.MULTILINE)
_CODE = re.compile(r"(:[\w:]+:`[^`]+`|``.+?``)", re.DOTALL)
_EMPHASIS = re.compile(r"(?<![\w*^/])\*(?=[^\s*])([^*]+)(?<=\S)\*(?![\w*])")
_SIGN = re.compile(r"[\\*|`]|_(?!\w)")
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_DOI = re.compile(r"doi (10\.[^\s,;]*[^\s,;.)])")
# A symbol with its bar, if that is all that its name has before an index.
_SYMBOL = re.compile(
    rf"(?<![A-Za-z0-9_])({'|'.join(SYMBOLS)})((?:_bar)?(?![A-Za-z0-9]))"
)

_LOGGER = getLogger(__name__)


def setup(app: Sphinx) -> None:
    """Load autodoc, and stand between it and our docstrings."""
    for extension in ("autodoc", "napoleon"):
        app.setup_extension(f"sphinx.ext.{extension}")
    reference = Reference()
    app.connect("config-inited", choose_settings)
    app.connect("env-before-read-docs", reference.find_names)
    app.connect("source-read", reference.write)
    # Napoleon listens with a priority of 500.
    app.connect("autodoc-process-docstring", reference.translate, priority=400)
    app.connect("autodoc-process-docstring", add_code, priority=600)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("doctree-read", colour_symbols)


def choose_settings(app: Sphinx, config: Config) -> None:
    """Set what the reference wants of Sphinx."""
    for name, value in SETTINGS.items():
        config[name] = value


class Reference:
    """What the pages of the reference show, and so what links may lead to."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.names: dict[str, str] = {}  # as in a docstring -> where it leads
        self.chapters: set[str] = set()

    def find_names(
        self, app: Sphinx, env: BuildEnvironment, docnames: list[str]
    ) -> None:
        """Learn what all pages together will show, if any is to be read."""
        if not docnames:
            return  # and import nothing
        paths = [Path(env.doc2path(name)) for name in sorted(env.found_docs)]
        self.chapters = {path.stem for path in paths}
        for path in paths:
            with suppress(ImportError):  # its page will say so
                for place in places_of(path.read_text("utf-8")):
                    self.names[place.file] = place.file
                    for name in place.names:
                        full = f"{place.room}.{name}"
                        self.names[name] = self.names[full] = full

    def write(self, app: Sphinx, docname: str, content: list[str]) -> None:
        """Put the reference below the words of a page that asks for it.

        Args:
            app: the Sphinx application.
            docname: the page.
            content: its source, which is replaced.
        """
        try:
            places = places_of(content[0])
        except ImportError as error:
            _LOGGER.warning("%s", error, location=docname)
            return
        if places:
            content[0] += "\n" + "\n\n".join(page_parts(places)) + "\n"

    def translate(
        self,
        app: Sphinx,
        what: str,
        name: str,
        value: object,
        options: object,
        lines: list[str],
    ) -> None:
        """Turn a docstring into reStructuredText that napoleon can read.

        Args:
            app: the Sphinx application.
            what: the kind of thing that it belongs to.
            name: the name of that thing.
            value: the thing.
            options: of the directive.
            lines: the docstring, which is replaced.
        """
        text = comment_above(name) if what == "data" else "\n".join(lines)
        lines[:] = self.as_rst(text).split("\n")

    def as_rst(self, docstring: str) -> str:
        """A docstring as reStructuredText, but for napoleon's sections."""
        parts, section = [], ""
        text = _NAMES.sub(r"\1 ", _SECTION.sub("\n", docstring))
        for block in re.split(r"\n\s*\n", text.strip("\n")):
            indented = block.startswith(" ")
            if not indented:
                found = _SECTION.match(block)
                section = block.partition(":")[0] if found else ""
            if field := _FIELD.match(block):
                body = self._words(textwrap.dedent(block[field.end() :]))
                parts.append(f":{section}:\n{_indented(body)}")
            elif block.lstrip().startswith(">>>"):
                parts.append(block)
            elif indented and not section:
                parts.append(_block(block, "text", ":class: mv-formula"))
            else:
                parts.append(self._words(block))
        return "\n\n".join(parts)

    def _words(self, text: str) -> str:
        """Words with their code and links; other signs are only signs."""
        if text.startswith(">>>"):
            return text
        in_chapters = re.search(r"\bchapters?\b", text) is not None
        pieces = _CODE.split(text)
        for k, piece in enumerate(pieces):
            if k % 2 == 0:
                pieces[k] = _quoted(piece)
            elif piece.startswith("``"):
                pieces[k] = self._span(piece, in_chapters)
        return "".join(pieces)

    def _span(self, span: str, in_chapters: bool) -> str:
        name = span.strip("`")
        if in_chapters and name in self.chapters:
            return f":doc:`/chapters/{name}`"
        first, dot, rest = name.partition(".")
        if name in self.names:
            return f":py:obj:`{name} <{self.names[name]}>`"
        if first in self.names and dot:
            return f":py:obj:`{name} <{self.names[first]}.{rest}>`"
        return span


class Place(NamedTuple):
    """A file of the package and what a module offers of it.

    Attributes:
        room: the module that offers it.
        file: the name of the module that defines it.
        names: what it is, in the order of the file.
    """

    room: str
    file: str
    names: list[str]


def places_of(source: str) -> list[Place]:
    """What a page is the reference of.

    Args:
        source: the page's text.

    Raises:
        ImportError: there is no such module, or it promises a name that
            nothing in it defines.

    Example:
        >>> page = "---\\napi: [mambaviz.records.store]\\n---\\n# Records"
        >>> places_of(page)[0].names[0]
        'record_names'
    """
    header = _HEADER.match(source)
    rooms = (yaml.safe_load(header[1]) or {}).get(KEY, []) if header else []
    return [
        Place(room, file, names)
        for room in rooms
        for file, names in public_names(importlib.import_module(room)).items()
    ]


def public_names(room: ModuleType) -> dict[str, list[str]]:
    """What a module offers, by the module that defines it.

    Args:
        room: a module; without an ``__all__`` it offers the functions and
            classes that it defines.

    Returns:
        Module names in alphabetical order, each with the names that it
        defines in the order of its text.

    Raises:
        ImportError: the module promises a name that nothing in it defines.
    """
    own = [
        name
        for name, node in _definitions(room).items()
        if name[0] != "_" and not isinstance(node, VALUE)
    ]
    offered = getattr(room, "__all__", own)
    values = {name: getattr(room, name, None) for name in offered}
    found = {}
    for place, module in sorted(sys.modules.items()):
        if not f"{place}.".startswith(f"{room.__name__}."):
            continue
        names = [
            name
            for name in _definitions(module)
            if name in values and vars(module)[name] is values[name]
        ]
        if names:
            found[place] = names
            values = {n: v for n, v in values.items() if n not in names}
    if values:
        raise ImportError(
            f"{room.__name__} offers {', '.join(sorted(values))}, but no "
            "module in it defines that"
        )
    return found


def page_parts(places: list[Place]) -> Iterator[str]:
    """The reference as MyST: its contents, then file after file.

    Args:
        places: what the page shows.
    """
    contents = []
    for room, file, names in places:
        pieces = _CODE.split(inspect.getdoc(sys.modules[file]).split("\n")[0])
        pieces[::2] = map(_quoted, pieces[::2])
        links = [f":py:obj:`{name} <{room}.{name}>`" for name in names]
        contents += [
            f":py:mod:`{short_name(file)} <{file}>`",
            _indented(f"{''.join(pieces)}\n\n{', '.join(links)}\n"),
        ]
    yield _rst(
        ".. container:: mv-api-contents", _indented("\n".join(contents))
    )
    for room, file, names in places:
        yield f"## `{short_name(file)}`"
        values = vars(sys.modules[room])
        entries = [_entry(f"{room}.{name}", values[name]) for name in names]
        yield _rst(f".. automodule:: {file}", *entries)


def short_name(module: str) -> str:
    """A module's name within its room.

    Args:
        module: its whole name.

    Example:
        >>> short_name("mambaviz.ops.selective_scan")
        'selective_scan'
    """
    return ".".join(module.split(".")[2:]) or module.rpartition(".")[2]


def add_code(
    app: Sphinx,
    what: str,
    name: str,
    value: object,
    options: object,
    lines: list[str],
) -> None:
    """Put the code of a thing below its words, folded if it has its own.

    Args:
        app: the Sphinx application.
        what: its kind; a class shows its methods' code, too.
        name: its name.
        value: the thing itself.
        options: of the directive.
        lines: the words, which grow.
    """
    if what in ("function", "class", "exception"):
        code = without_docstrings(inspect.getsource(value))
        lines += ["", ".. dropdown:: Code", ""]
        lines += _indented(_block(code)).split("\n")
    elif what == "data":
        module, node = _assignment(name)
        code = ast.get_source_segment(inspect.getsource(module), node)
        lines += ["", *_block(code).split("\n")]


def without_docstrings(source: str) -> str:
    """A definition without the docstrings that its reference shows above it.

    Args:
        source: of a function or class; private ones in it keep theirs.

    Example:
        >>> source = "def one():\\n    'It is 1.'\\n    return 1"
        >>> print(without_docstrings(source))
        def one():
            return 1
    """
    lines = textwrap.dedent(source).split("\n")
    kept = dict(enumerate(lines, start=1))
    (definition,) = ast.parse("\n".join(lines)).body
    for node in [definition, *getattr(definition, "body", [])]:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if ast.get_docstring(node) is None or node.name[0] == "_":
            continue
        docstring = node.body[0]
        for number in range(docstring.lineno, docstring.end_lineno + 1):
            del kept[number]
        after = docstring.end_lineno + 1
        if not kept.get(after, "-").strip():
            del kept[after]
    return "\n".join(kept.values()).rstrip()


def comment_above(name: str) -> str:
    """What the comment above a value says of it.

    Args:
        name: the value's whole name, as its room offers it.
    """
    module, node = _assignment(name)
    lines = inspect.getsource(module).split("\n")[: node.lineno - 1]
    above = []
    while lines and lines[-1].startswith("#"):
        above.append(lines.pop().removeprefix("#").removeprefix(" "))
    return "\n".join(reversed(above))


def skip_tuple_fields(
    app: Sphinx,
    what: str,
    name: str,
    value: object,
    skip: bool,
    options: object,
) -> bool | None:
    """Leave out a named tuple's fields, which its signature has already.

    Args:
        app: the Sphinx application.
        what: the kind of thing that it is a member of.
        name: its name.
        value: the member.
        skip: whether autodoc would leave it out.
        options: of the directive.
    """
    return True if type(value).__name__ == "_tuplegetter" else None


def colour_symbols(app: Sphinx, doctree: nodes.document) -> None:
    """Give the palette's symbols their colour, in formulas and arguments."""
    for block in list(doctree.findall(nodes.literal_block)):
        if "mv-formula" in block["classes"]:
            parts = _coloured(block.astext())
            block.replace_self(
                nodes.literal_block("", "", *parts, classes=block["classes"])
            )
    for kind in (addnodes.desc_sig_name, addnodes.literal_strong):
        for node in doctree.findall(kind):
            if found := _SYMBOL.fullmatch(node.astext()):
                node["classes"].append(f"mv-{found[1]}")


def _coloured(formula: str) -> Iterator[nodes.Node]:
    end = 0
    for found in _SYMBOL.finditer(formula):
        yield nodes.Text(formula[end : found.start()])
        yield nodes.inline("", found[0], classes=[f"mv-{found[1]}"])
        end = found.end()
    yield nodes.Text(formula[end:])


def _entry(name: str, value: object) -> str:
    if inspect.isclass(value) and issubclass(value, Exception):
        return f".. autoexception:: {name}"
    if inspect.isclass(value):
        return f".. autoclass:: {name}\n   :members:"
    if inspect.isroutine(value):
        return f".. autofunction:: {name}"
    return f".. autodata:: {name}\n   :no-value:"


def _definitions(module: ModuleType) -> dict[str, ast.stmt]:
    """What is defined at a module's top, in the order of its text."""
    found = {}
    for node in ast.parse(inspect.getsource(module)).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]):
                found[name] = node
            case ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = node
    return found


def _assignment(name: str) -> tuple[ModuleType, ast.stmt]:
    """The module that defines a value, and how."""
    room, _, last = name.rpartition(".")
    for file, names in public_names(sys.modules[room]).items():
        if last in names:
            return sys.modules[file], _definitions(sys.modules[file])[last]
    raise KeyError(name)


def _quoted(text: str) -> str:
    """Words whose signs mean nothing to reStructuredText, but emphasis."""
    text = _EMPHASIS.sub("\0\\1\1", text)
    text = _SIGN.sub(lambda sign: f"\\{sign[0]}", text)
    text = text.replace("\0", "*").replace("\1", "*")
    text = _ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", text)
    return _DOI.sub(r"`doi \1 <https://doi.org/\1>`__", text)


def _indented(text: str) -> str:
    return textwrap.indent(text, "    ")


def _block(code: str, language: str = "python", option: str = "") -> str:
    head = f".. code-block:: {language}\n    {option}".rstrip()
    return f"{head}\n\n{_indented(textwrap.dedent(code))}\n"


def _rst(*parts: str) -> str:
    text = "\n\n".join(parts)
    return f"```{{eval-rst}}\n{text}\n```"
