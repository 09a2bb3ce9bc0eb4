"""The claims ledger: what the book says, and what keeps each of it true.

Every chapter has a file ``<chapter>.yml`` beside this module, a list with an
entry for each claim; the file of the chapter ``zero-order-hold`` explains the
fields. Here they are read and rendered as the appendix of the book, and
``tests/book/test_claims.py`` holds the book to them. The appendix also offers
the whole ledger as one JSON file.
"""

import ast
import importlib
import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal, localcontext
from pathlib import Path

import torch
import yaml
from docutils import nodes

FOLDER = Path(__file__).parent
OURS = "ours"  # the source of a number that this book computed first
IN_WORDS = "text"  # shown by sentences and cells, not by a picture

_ID = re.compile(r"([SE])(\d+)")
_WORKS_AND_PLACE = re.compile(r"([^\s,]+)(?:,\s*(.+))?", re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_LABEL = re.compile(r"^\(([^()\s]+)\)=$|^:name: *(\S+)$", re.MULTILINE)
_CELL = re.compile(r"^(`{3,}|~{3,}).*?^\1 *$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Published:
    """A number that a claim prints.

    Attributes:
        number: as it is printed.
        of: what it is a number of.
        source: a key of the bibliography and, after a comma, the place in
            it; or ``ours``.
        computed: an expression that gives it here, if any does.
    """

    number: str
    of: str
    source: str
    computed: str | None = None


@dataclass(frozen=True)
class Claim:
    """One entry of the ledger.

    Attributes:
        id: S and a number for a claim, E and a number for a misconception.
        claim: what is true, as MyST.
        chapter: the name of its chapter.
        anchor: a heading's id or a label in that chapter.
        shown_by: explorables, plates, or ``text``.
        test: what keeps it true, each as ``path::name``.
        published: the numbers in it.
    """

    id: str
    claim: str
    chapter: str
    anchor: str
    shown_by: tuple[str, ...]
    test: tuple[str, ...]
    published: tuple[Published, ...] = ()


def read_claims(folder: Path = FOLDER) -> list[Claim]:
    """Read the ledger.

    Args:
        folder: with a YAML file for each chapter.

    Returns:
        The claims in the order of their numbers, misconceptions last.

    Raises:
        ValueError: an entry is not as it should be, or two have one id.

    Example:
        >>> read_claims()[0].id
        'S001'
    """
    claims = {}
    for path in sorted(folder.glob("*.yml")):
        entries = yaml.safe_load(path.read_text("utf-8"))
        if not isinstance(entries, list):
            raise ValueError(f"{path.name} is no list of claims")
        for entry in entries:
            claim = _read_claim(entry, path)
            if claim.id in claims:
                raise ValueError(
                    f"{claim.id} is in {path.name} and in "
                    f"{claims[claim.id].chapter}.yml: keep one"
                )
            claims[claim.id] = claim
    return sorted(claims.values(), key=order)


def order(claim: Claim) -> tuple[bool, int]:
    """Where a claim stands among others: by its number, S before E."""
    kind, number = _ID.fullmatch(claim.id).groups()
    return kind == "E", int(number)


def anchors(source: str, chapter: str) -> dict[str, str]:
    """What a reader may link to in a chapter.

    Args:
        source: the chapter's MyST.
        chapter: its name.

    Returns:
        Of each heading's id, of its name in MyST, and of each label, the
        address that a link of MyST gives to lead there.

    Example:
        >>> found = anchors("# One\\n\\n(here)=\\n## Two: a_b\\n", "page")
        >>> found["two-a-b"], found["two-a_b"], found["here"]
        ('page.md#two-a_b', 'page.md#two-a_b', '#here')
    """
    found = {}
    for heading in _HEADING.findall(_CELL.sub("", source)):
        words = re.sub(r"\{\w+\}(?=`)|[`*]|\$", "", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        for name in (nodes.make_id(words), slug):
            found.setdefault(name, f"{chapter}.md#{slug}")
    for labels in _LABEL.findall(source):
        found |= {label: f"#{label}" for label in labels if label}
    return found


def evaluate(expression: str) -> float:
    """Compute what a number of the ledger is said to be.

    Args:
        expression: Python that uses ``mambaviz``, whose modules are imported
            as they are named, ``torch`` and ``math``; or the path of a
            function without arguments.

    Returns:
        The number.

    Example:
        >>> round(evaluate("mambaviz.theory.half_life(-1.0, 0.001)"))
        693
    """
    names = {"math": math, "torch": torch}
    for node in ast.walk(ast.parse(expression, mode="eval")):
        path = _dotted(node)
        if path and path[0] == "mambaviz":
            names["mambaviz"] = importlib.import_module("mambaviz")
            _import_along(path)
    value = eval(expression, names)
    value = value() if callable(value) else value
    return value.item() if isinstance(value, torch.Tensor) else value


def agrees(number: str, value: float) -> bool:
    """Whether a value, rounded to the digits of a printed number, is it.

    Args:
        number: as printed, such as ``1,600``, ``2e38`` or ``99 %``.
        value: as computed; 0.99 for 99 %.

    Example:
        >>> agrees("1.58", 1.5820), agrees("1,600", 1594.2)
        (True, False)
        >>> agrees("1.9e38", 1.8999e38), agrees("99.8 %", 0.9981)
        (True, True)
    """
    digits = number.translate(str.maketrans("−", "-", ", _\u202f\u2009%"))
    printed = Decimal(digits)
    with localcontext(prec=400):
        exact = Decimal(value) * (100 if number.endswith("%") else 1)
        return exact.is_finite() and exact.quantize(printed) == printed


def ledger_page(
    claims: Iterable[Claim], chapters: Mapping[str, str]
) -> Iterator[str]:
    """The appendix as MyST, chapter after chapter.

    Args:
        claims: the ledger; entries of other chapters are left out.
        chapters: the sources of the book's chapters, in its order.

    Yields:
        Blocks of MyST.
    """
    by_chapter = {name: [] for name in chapters}
    for claim in claims:
        by_chapter.get(claim.chapter, []).append(claim)
    for chapter, entries in by_chapter.items():
        if not entries:
            continue
        title = _HEADING.search(chapters[chapter])[1]
        places = anchors(chapters[chapter], chapter)
        yield f"## {title}"
        yield "\n\n".join(_entry(claim, places) for claim in entries)


def write_json(claims: Iterable[Claim], path: Path) -> None:
    """Write the ledger as one JSON file.

    Args:
        claims: the ledger.
        path: of the file.
    """
    entries = [asdict(claim) for claim in claims]
    text = json.dumps(entries, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _read_claim(entry: object, path: Path) -> Claim:
    name = entry.get("id") if isinstance(entry, dict) else entry
    where = f"{path.name}, {name!r}"
    fields = _checked(
        entry,
        where,
        {"id", "claim", "chapter", "anchor", "shown_by", "test"},
        {"published"},
    )
    if not _ID.fullmatch(str(fields["id"])):
        raise ValueError(f"{where}: the id is not like S001 or E1")
    if fields["chapter"] != path.stem:
        raise ValueError(
            f"{where}: its chapter is {fields['chapter']!r}; the claims of "
            f"that chapter belong to {fields['chapter']}.yml"
        )
    numbers = []
    for number in _listed(fields.get("published", [])):
        known = _checked(
            number, where, {"number", "of", "source"}, {"computed"}
        )
        if not all(isinstance(value, str) for value in known.values()):
            raise ValueError(
                f"{where}: {number} has a value that is no text; put "
                "numbers in quotes"
            )
        numbers.append(Published(**known))
    for name in ("claim", "anchor"):
        fields[name] = " ".join(str(fields[name]).split())
    for name in ("shown_by", "test"):
        fields[name] = tuple(map(str, _listed(fields[name])))
    return Claim(**fields | {"published": tuple(numbers)})


def _checked(
    entry: object, where: str, needed: set[str], optional: set[str]
) -> dict:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: {entry!r} is not a mapping")
    missing = sorted(name for name in needed if not entry.get(name))
    unknown = sorted(set(entry) - needed - optional)
    if missing or unknown:
        raise ValueError(
            f"{where}: missing {missing}, unknown {unknown}; the fields are "
            f"{sorted(needed)}, and {sorted(optional)} where it applies"
        )
    return dict(entry)


def _listed(value: object) -> list:
    return value if isinstance(value, list) else [value]


def _entry(claim: Claim, places: Mapping[str, str]) -> str:
    """One claim as the item of a definition list."""
    # A dead link fails the build, and names the page and the address.
    address = places.get(claim.anchor, f"{claim.chapter}.md#{claim.anchor}")
    shown = [f"`{name}`" for name in claim.shown_by if name != IN_WORDS]
    said = [
        claim.claim,
        f"**Shown** in [its section]({address})"
        + (f" by {_and(shown)}." if shown else ", in words and code."),
        "**Kept true** by " + _and(f"`{name}`" for name in claim.test) + ".",
    ]
    if claim.published:
        said.append("**Numbers**")
        said.append("\n".join(_number(number) for number in claim.published))
    body = textwrap.indent("\n\n".join(said), "  ")
    return f"[{claim.id}]{{#{claim.id.lower()}}}\n:{body[1:]}"


def _number(number: Published) -> str:
    if number.source == OURS:
        source = "our own figure"
    else:
        work, place = _WORKS_AND_PLACE.fullmatch(number.source).groups()
        source = f"{{cite}}`{work}`" + (f", {place}" if place else "")
    said = f"- {number.number}: {number.of}; {source}"
    if number.computed:
        return f"{said}, and computed here as `{number.computed}`"
    return f"{said}, not computed here"


def _and(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _dotted(node: ast.AST) -> list[str]:
    """The names of ``a.b.c``, or nothing if the node is something else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return [*before, node.attr] if before else []
    return []


def _import_along(path: list[str]) -> None:
    """Import the modules that a dotted name leads through."""
    for k in range(2, len(path) + 1):
        try:
            importlib.import_module(".".join(path[:k]))
        except ModuleNotFoundError:
            return
