r"""A chapter's MyST as the plain Markdown that every notebook program shows.

Directives become fences, quotes and ``<details>``, roles become text and
links, equations keep their LaTeX and get the palette's colours as
``\color``. MyST's own parser finds them; what stands around them is not
touched.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from mimetypes import guess_type
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

from docutils.parsers.rst import Directive
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline, image, link
from markdown_it.token import Token
from mdit_py_plugins.dollarmath.index import math_inline_dollar
from mdit_py_plugins.myst_role.index import myst_role
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.directives import parse_directive_text
from myst_parser.parsers.mdit import create_md_parser
from pybtex.database import BibliographyData, Entry, Person, parse_file
from pybtex.plugin import find_plugin
from pybtex.richtext import Text
from sphinx.directives.code import LiteralInclude, LiteralIncludeReader

from mambaviz.theme import SYMBOLS, colour_symbols

_DIRECTIVE = re.compile(r"\{(?P<name>[^}]+)\}\s*(?P<first>.*)", re.DOTALL)
_TERM = re.compile(r"^[ \t>]*()", re.MULTILINE)
_MEANING = re.compile(r"^[ \t>]*([:~][ \t]+)", re.MULTILINE)
_GIVEN = re.compile(r"\{(?:[.#][\w-]+|[\w-]+=)[^{}]*\}")  # as [text]{.class}
_TITLED = re.compile(r"(?P<title>.+?)\s*<(?P<target>[^<>]+)>", re.DOTALL)

ADMONITIONS = {
    "attention": "Attention",
    "caution": "Caution",
    "danger": "Danger",
    "error": "Error",
    "hint": "Hint",
    "important": "Important",
    "note": "Note",
    "seealso": "See also",
    "tip": "Tip",
    "warning": "Warning",
}
# What the book lays out in a way of its own, and a notebook one below the
# other: the title, then the content.
LAYOUTS = {
    "card", "container", "div", "glossary", "grid", "grid-item",
    "grid-item-card", "only", "tab-item", "tab-set", "table",
}  # fmt: skip
ASIDES = {"epigraph", "margin", "pull-quote", "sidebar", "topic"}
# What a notebook has no place for.
DROPPED = {"contents", "index", "tableofcontents", "toctree"}
CODE_ROLES = {
    "attr", "class", "code", "data", "exc", "file", "func", "guilabel", "kbd",
    "meth", "mod", "obj", "program", "samp",
}  # fmt: skip


class _WithArgument(Directive):
    """Any directive with a title or another argument, and any options."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec = {"class": str}  # not empty: options are looked for


class _WithoutArgument(_WithArgument):
    """Any directive whose text may begin in its first line."""

    optional_arguments = 0


@dataclass(frozen=True)
class Target:
    """What a label of the book names.

    Attributes:
        chapter: the chapter that it is in.
        title: what a reference to it says.
        heading: the heading that it belongs to, if any.
    """

    chapter: str
    title: str
    heading: str | None = None


@dataclass
class Book:
    """What a chapter may refer to.

    Attributes:
        paths: where each chapter is, by its name.
        bibliography: the works that may be cited.
        extensions: the MyST syntax that is switched on.
        labels: what each label names; filled by :func:`read_book`.
        titles: the chapters' titles; filled by :func:`read_book`.
        cited: the keys of the works cited, in the order of the chapters.
    """

    paths: dict[str, Path]
    bibliography: BibliographyData
    extensions: frozenset[str]
    labels: dict[str, Target] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    cited: list[str] = field(default_factory=list)


# Where a chapter, or one of its headings, can be read: an address.
Link = Callable[[str, str | None], str]


def read_book(
    chapters: Iterable[Path],
    bibliographies: Iterable[Path] = (),
    extensions: Iterable[str] = ("dollarmath",),
    texts: Callable[[Path], list[str]] = lambda path: [path.read_text("utf8")],
) -> Book:
    """Read what the chapters refer to: labels, titles, cited works.

    Args:
        chapters: the chapters' files, in the order of the book.
        bibliographies: BibTeX files.
        extensions: the MyST syntax that is switched on.
        texts: gives the Markdown cells of a chapter's file.

    Returns:
        The book, for :class:`PlainMarkdown`.
    """
    book = Book(
        paths={path.stem: path for path in chapters},
        bibliography=BibliographyData(),
        extensions=frozenset(extensions),
    )
    for path in bibliographies:
        book.bibliography.add_entries(
            parse_file(str(path)).entries.items(),
        )
    for name, path in book.paths.items():
        reader = PlainMarkdown(book, name, reading=True)
        for text in texts(path):
            reader.convert(text)
        book.titles.setdefault(name, name)
    return book


def colour(latex: str) -> str:
    r"""Colour an equation's symbols as MathJax and KaTeX both understand.

    Args:
        latex: the equation's source.

    Returns:
        The source with ``\color`` around each symbol, in the inks for a
        light page.
    """
    return colour_symbols(
        latex,
        lambda name, tex: rf"\color{{{SYMBOLS[name].light}}}{{{tex}}}",
    )


def cite(entry: Entry) -> str:
    """Name a work in running text, as ``Gu and Dao, 2023``.

    Args:
        entry: the work.

    Returns:
        Its authors' last names and its year.
    """
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    names = [_last_name(person) for person in people]
    if "others" in names[1:] or len(names) > 2:
        names = [f"{names[0]} et al."]
    said = " and ".join(names) or entry.fields.get("title", entry.key)
    return ", ".join(filter(None, [said, entry.fields.get("year")]))


def _last_name(person: Person) -> str:
    parts = person.prelast_names + person.last_names
    return str(Text.from_latex(" ".join(parts)))


class PlainMarkdown:
    """Turns the Markdown cells of one chapter into plain Markdown.

    Args:
        book: what the chapter may refer to.
        chapter: the chapter's name.
        link: gives the address of a chapter or of a heading in it.
        reading: collect labels into the book, and let the references that
            it does not know yet pass.

    Attributes:
        attachments: the pictures of the text converted last, as a
            notebook's cell wants them.

    Raises:
        ValueError: while converting, for syntax or a label unknown to us.
    """

    def __init__(
        self,
        book: Book,
        chapter: str,
        link: Link = lambda chapter, heading: "",
        reading: bool = False,
    ) -> None:
        self.book = book
        self.chapter = chapter
        self.path = book.paths[chapter]
        self.link = link
        self.reading = reading
        self.attachments: dict[str, dict[str, str]] = {}
        self.equations = 0
        self.waiting: list[str] = []  # labels of what comes next
        self.parser = self._make_parser()

    def cell(self, text: str) -> str:
        """Convert one cell, with its pictures in :attr:`attachments`.

        Args:
            text: the cell's MyST Markdown.

        Returns:
            Plain Markdown.
        """
        self.attachments = {}
        return self.convert(text).strip("\n")

    def convert(self, text: str) -> str:
        """Convert a piece of text, such as the content of a directive.

        Args:
            text: MyST Markdown.

        Returns:
            Plain Markdown.
        """
        text = text.rstrip("\n") + "\n"
        starts = [0, *(found.end() for found in re.finditer("\n", text))]
        env = {"literals": []}
        pieces, done, in_term = [], 0, False

        def replace(start: int, end: int, by: str) -> None:
            nonlocal done
            pieces.extend((text[done:start], by))
            done = end

        for token in self.parser.parse(text, env):
            if token.map is None:
                continue
            first, last = token.map
            start, end = starts[first], starts[max(last, first + 1)]
            block = self._block(token, text[start : starts[first + 1]])
            if block is not None:
                if token.type == "amsmath":  # its map ends a line too early
                    end = starts[first + token.content.count("\n") + 1]
                replace(start, end, block)
            elif token.type == "inline":
                for literal, by in self._inline(token, env):
                    found = _find(literal, text, max(start, done), end)
                    replace(*found.span(), _fit(by, literal, found))
                if in_term:
                    stop = start + len(text[start:end].rstrip())
                    replace(stop, stop, "**")
            elif token.type == "heading_open":
                self._note_heading(token, text[start:end])
            elif token.type in {"dt_open", "dd_open"}:
                mark = _TERM if token.type == "dt_open" else _MEANING
                found = mark.search(text, start)  # maps begin early here
                replace(*found.span(1), "- **" if mark is _TERM else "  ")
            in_term = token.type == "dt_open"
        return "".join(pieces) + text[done:]

    def _inline(self, token: Token, env: dict) -> list[tuple[str, str]]:
        """What stands in some running text, and what it becomes."""
        if self.waiting and token.level == 1:
            for label in self.waiting:  # of something without a heading
                self._add_label(label, token.content.split("\n")[0])
            self.waiting.clear()
        env["literals"].clear()
        found = []
        self.parser.inline.parse(token.content, self.parser, env, found)
        for part in found:
            if part.type == "text" and (given := _GIVEN.search(part.content)):
                raise self._unknown("attributes", given[0])
        return env["literals"]

    # ---- Blocks -----------------------------------------------------------

    def _block(self, token: Token, first_line: str) -> str | None:
        """What a block becomes; ``None`` for one that stays as it is."""
        match token.type:
            case "fence" | "colon_fence":
                found = _DIRECTIVE.fullmatch(token.info.strip())
                if found is None:
                    return None
                body = self._directive(
                    found["name"], found["first"], token.content
                )
            case "math_block" | "math_block_label":
                body = self._equation(token.content, token.info)
            case "amsmath":
                body = colour(token.content)
            case "myst_target":
                self.waiting.append(token.content)
                return ""
            case "myst_line_comment" | "myst_block_break":
                return ""
            case "footnote_reference_open":
                raise self._unknown("footnote", token.meta["label"])
            case _:
                return None
        if not body.strip():
            return ""
        markup = token.markup or body[:1]
        before = first_line[: max(first_line.find(markup), 0)]
        following = re.sub(r"[^>\s]", " ", before)
        lines = body.strip("\n").split("\n")
        return before + f"\n{following}".join(lines).rstrip() + "\n"

    def _directive(self, name: str, first: str, content: str) -> str:
        """What a directive becomes."""
        if name == "literalinclude":
            return self._literalinclude(first, content)
        if name in DROPPED:
            return ""
        if content.startswith(":::"):  # a fence within, and not an option
            content = "\n" + content
        bodily = name in ADMONITIONS or name in {"math", "margin", "epigraph"}
        parsed = parse_directive_text(
            _WithoutArgument if bodily else _WithArgument,
            first,
            content,
            validate_options=False,
        )
        argument = " ".join(parsed.arguments)
        options = {key: str(value) for key, value in parsed.options.items()}
        body = "\n".join(parsed.body)
        for label in filter(None, [*self.waiting, options.get("name")]):
            self._add_label(label, argument or body.split("\n")[0])
        self.waiting.clear()
        if name == "math":
            return self._equation(body, options.get("label", ""))
        if name in ADMONITIONS or name == "admonition":
            title = argument or ADMONITIONS.get(name, "")
            if "dropdown" in options.get("class", "").split():
                return self._details(title, body)
            return self._quote(title, body)
        if name in {"dropdown", "toggle"}:
            return self._details(argument or "Show", body)
        if name in ASIDES:
            return self._quote(argument, body)
        if name in LAYOUTS:
            title = f"**{self.convert(argument).strip()}**\n\n"
            shown = argument and name not in {"div", "container", "only"}
            shown = shown and not argument.replace(" ", "").isdigit()
            return (title if shown else "") + self.convert(body)
        if name in {"figure", "image"}:
            picture = self._picture(argument, options.get("alt", ""))
            return "\n\n".join(filter(None, [picture, self.convert(body)]))
        if name in {"code", "code-block", "sourcecode"}:
            return _fence(argument, body)
        if name == "raw":
            return body if argument == "html" else ""
        if name == "bibliography":
            return self._bibliography()
        raise self._unknown("directive", name)

    def _literalinclude(self, first: str, content: str) -> str:
        """The source of an object of the package, as the book shows it."""
        parsed = parse_directive_text(LiteralInclude, first, content)
        if parsed.warnings:
            raise ValueError(f"{self.path.name}: {parsed.warnings[0]}")
        options = parsed.options
        path = (self.path.parent / parsed.arguments[0]).resolve()
        config = SimpleNamespace(source_encoding="utf-8")
        source, _ = LiteralIncludeReader(str(path), options, config).read()
        if label := options.get("name"):
            self._add_label(label, options.get("pyobject", path.name))
        caption = options.get("caption", "")
        language = options.get("language", path.suffix.lstrip("."))
        language = {"py": "python", "js": "javascript"}.get(language, language)
        shown = _fence(language, source.strip("\n"))
        return f"{self.convert(caption)}\n{shown}" if caption else shown

    def _equation(self, latex: str, label: str) -> str:
        """A displayed equation, with the number that the book gives it."""
        tag = ""
        if label:
            self.equations += 1
            tag = rf" \tag{{{self.equations}}}"
            self._add_label(label, f"({self.equations})")
        return f"$$\n{colour(latex.strip())}{tag}\n$$"

    def _quote(self, title: str, body: str) -> str:
        """A quote with a bold title."""
        parts = [f"**{self.convert(title).strip()}**"] if title else []
        parts += [self.convert(body).strip("\n")] if body.strip() else []
        lines = "\n\n".join(parts).split("\n")
        return "\n".join(f"> {line}".rstrip() for line in lines)

    def _details(self, title: str, body: str) -> str:
        """Something that a click unfolds."""
        return (
            f"<details>\n<summary>{self.convert(title).strip()}</summary>\n\n"
            + self.convert(body).strip("\n")
            + "\n\n</details>"
        )

    def _picture(self, address: str, alt: str) -> str:
        """A picture, carried along in the notebook."""
        path = self.path.parent / unquote(address)
        kind = guess_type(path.name)[0] or "application/octet-stream"
        content = b64encode(path.read_bytes()).decode("ascii")
        self.attachments[path.name] = {kind: content}
        return f"![{alt}](attachment:{path.name})"

    def _bibliography(self) -> str:
        """The works that the book cites, as a list."""
        style = find_plugin("pybtex.style.formatting", "plain")()
        backend = find_plugin("pybtex.backends", "markdown")()
        works = style.format_bibliography(
            self.book.bibliography, sorted(set(self.book.cited))
        )
        return "\n".join(f"- {work.text.render(backend)}" for work in works)

    # ---- Labels -----------------------------------------------------------

    def _note_heading(self, token: Token, line: str) -> None:
        """Remember a heading under its labels and under its own name."""
        heading = line.strip().lstrip("#").split("\n")[0].strip()
        self.book.titles.setdefault(self.chapter, heading)
        for label in self.waiting:
            self._add_label(label, heading, heading)
        self.waiting.clear()
        self._add_label(_slug(heading), heading, heading, everywhere=False)

    def _add_label(
        self,
        label: str,
        title: str,
        heading: str | None = None,
        everywhere: bool = True,
    ) -> None:
        """Remember what a label names, for this chapter or for the book."""
        if self.reading:
            target = Target(self.chapter, title, heading)
            self.book.labels.setdefault(f"{self.chapter}#{label}", target)
            if everywhere:
                self.book.labels[label] = target

    def _target(self, label: str) -> Target:
        """What a label names, first in this chapter, then in the book."""
        for key in (f"{self.chapter}#{label}", label):
            if key in self.book.labels:
                return self.book.labels[key]
        if self.reading:
            return Target(self.chapter, label)
        raise self._unknown("label", label)

    def _address(self, target: Target) -> str:
        return self.link(target.chapter, target.heading)

    def _unknown(self, what: str, name: str) -> ValueError:
        return ValueError(
            f"{self.path.name} uses the {what} {name!r}, which "
            "mambaviz/book/plain.py cannot put into a notebook: use another, "
            "or teach it there"
        )

    # ---- Within a line ----------------------------------------------------

    def _make_parser(self) -> MarkdownIt:
        """MyST's parser, noting what it meets within lines.

        The inline rules below stand in for those of the same name: they let
        the original parse, then note the source it took and what to write
        in its place.
        """
        config = MdParserConfig(
            enable_extensions=set(self.book.extensions)
            - {"attrs_inline", "linkify", "substitution"}
        )
        parser = create_md_parser(config, RendererHTML)
        parser.disable("front_matter")
        parser.core.ruler.disable("inline")

        def noting(rule, kind, rewrite):
            def noted(state: StateInline, silent: bool) -> bool:
                start, count = state.pos, len(state.tokens)
                if not rule(state, silent):
                    return False
                if not silent:
                    literal = state.src[start : state.pos]
                    new = state.tokens[count:]
                    token = next(t for t in new if t.type == kind)
                    if found := rewrite(token, literal):
                        state.env["literals"].append(found)
                return True

            return noted

        rules = {
            "myst_role": (myst_role, "myst_role", self._role),
            "link": (link, "link_open", self._link),
            "image": (image, "image", self._image),
        }
        if "dollarmath" in self.book.extensions:
            dollars = math_inline_dollar()
            rules["math_inline"] = (dollars, "math_inline", self._math)
        for name, (rule, kind, rewrite) in rules.items():
            parser.inline.ruler.at(name, noting(rule, kind, rewrite))
        return parser

    def _math(self, token: Token, literal: str) -> tuple[str, str]:
        return literal, f"${colour(token.content.strip())}$"

    def _link(self, token: Token, literal: str) -> tuple[str, str] | None:
        """Let a link to a chapter lead where that chapter can be read."""
        tail = literal.rfind("](")
        address = urlsplit(token.attrGet("href") or "")
        if tail < 0 or address.scheme or address.netloc:
            return None
        if address.path:
            name = Path(unquote(address.path)).name.removesuffix(".md")
            if name not in self.book.paths:
                return None
            target = Target(name, self.book.titles.get(name, name))
            key = f"{name}#{unquote(address.fragment)}"
            target = self.book.labels.get(key, target)
        else:
            target = self._target(unquote(address.fragment))
        text = target.title if literal.startswith("[](") else ""
        return literal[tail:], f"{text}]({self._address(target)})"

    def _image(self, token: Token, literal: str) -> tuple[str, str] | None:
        address = token.attrGet("src") or ""
        if urlsplit(address).scheme:
            return None
        return literal, self._picture(address, token.content)

    def _role(self, token: Token, literal: str) -> tuple[str, str]:
        return literal, self._text_of_role(token.meta["name"], token.content)

    def _text_of_role(self, name: str, content: str) -> str:
        """What a role becomes."""
        titled = _TITLED.fullmatch(content)
        title, target = titled.groups() if titled else (None, content)
        if name == "math":
            return f"${colour(content)}$"
        if name in {"ref", "numref", "doc"}:
            if name == "doc":
                chapter = Path(target).name
                if chapter not in self.book.paths:
                    raise self._unknown("chapter", target)
                found = Target(chapter, self.book.titles.get(chapter, chapter))
            else:
                found = self._target(target)
            return f"[{title or found.title}]({self._address(found)})"
        if name == "eq":
            return self._target(target).title
        if name == "cite" or name.startswith("cite:"):
            works = [self._work(key.strip()) for key in content.split(",")]
            if name in {"cite:t", "cite:ts", "cite:ct", "cite:cts"}:
                return ", ".join(works)
            return f"({'; '.join(works)})"
        if name == "abbr" and "(" in content:
            return content
        if name in {"sub", "sup"}:
            return f"<{name}>{content}</{name}>"
        if name == "term":
            return title or content
        if name.split(":")[-1] in CODE_ROLES:
            return f"`{title or content.lstrip('~')}`"
        raise self._unknown("role", name)

    def _work(self, key: str) -> str:
        """A cited work, linked to where it can be read."""
        entry = self.book.bibliography.entries.get(key)
        if entry is None:
            raise self._unknown("work", key)
        if self.reading:
            self.book.cited.append(key)
        address = entry.fields.get("url")
        if not address and "doi" in entry.fields:
            address = f"https://doi.org/{entry.fields['doi']}"
        return f"[{cite(entry)}]({address})" if address else cite(entry)


def _slug(heading: str) -> str:
    """The name by which a link can name a heading, as MyST forms it."""
    words = re.sub(r"[^\w\- ]", "", heading.lower())
    return words.replace(" ", "-")


def _fence(language: str, code: str) -> str:
    """A code fence that no fence in the code can end."""
    longest = max(
        (len(ticks) for ticks in re.findall("`{3,}", code)), default=2
    )
    ticks = "`" * (longest + 1)
    return f"{ticks}{language}\n{code}\n{ticks}"


def _find(literal: str, text: str, start: int, end: int) -> re.Match[str]:
    """Find in the source what the parser took from it.

    The parser has taken off the prefix of a list or a quote from every line,
    and the backslash from a bar in a table.
    """
    pattern = re.escape(literal)
    pattern = pattern.replace(r"\|", r"\\?\|").replace("\\\n", r"\n[ \t>]*")
    found = re.compile(pattern).search(text, start, end)
    if found is None:
        raise ValueError(f"cannot find {literal!r} in {text[start:end]!r}")
    return found


def _fit(by: str, literal: str, found: re.Match[str]) -> str:
    """Give a replacement the prefix of lines and the bars of its source."""
    if prefix := re.search(r"\n([ \t>]*)", found[0]):
        by = by.replace("\n", "\n" + prefix[1])
    in_table = found[0].count(r"\|") > literal.count(r"\|")
    return by.replace("|", r"\|") if in_table else by
