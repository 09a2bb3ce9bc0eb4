"""The claims ledger: whole, true to the chapters, and its numbers right."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from mambaviz import widgets
from mambaviz.book import claims

ROOT = Path(__file__).parents[2]
CHAPTERS = ROOT / "chapters"


def rows(first: int, last: int) -> set[str]:
    return {f"S{number:03d}" for number in range(first, last + 1)}


# Which rows each chapter owes. A chapter that is in the table of contents and
# lacks one of them fails below.
OWED = {
    "index": {"S001", "S003", "S004"},
    "transformer-cost": {"S002"} | rows(5, 18) | {"E1"},
    "recurrent-networks": rows(19, 30) | {"E2", "E3"},
    "state-space-models": rows(31, 59) | {"E4", "E5"},
    "zero-order-hold": rows(60, 67) | {"E11", "E25"},
    "three-representations": rows(68, 84) | {"E6", "E7"},
    "hippo": rows(85, 96) | {"E8", "E9", "E10"},
}
# Rows of which the guide has a picture: words alone would be less than that.
PICTURED = {
    *("S005", "S006", "S007", "S008", "S009", "S010", "S012", "S013"),
    *("S015", "S019", "S020", "S024", "S026", "S029", "S033", "S034"),
    *("S036", "S037", "S040", "S041", "S042", "S045", "S046", "S047"),
    *("S049", "S051", "S052", "S053", "S055", "S056", "S057", "S058"),
    *("S061", "S062", "S063", "S064", "S065", "S068", "S070", "S072"),
    *("S073", "S074", "S075", "S077", "S079", "S081", "S085", "S087"),
    *("S089", "S092"),
}
LEDGER = claims.read_claims()
NAMES = [claim.id for claim in LEDGER]
NUMBERS = [
    pytest.param(number, id=f"{claim.id}-{number.number}")
    for claim in LEDGER
    for number in claim.published
    if number.computed
]


def source_of(chapter: str) -> str:
    return (CHAPTERS / f"{chapter}.md").read_text(encoding="utf-8")


@cache
def functions_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }


def chapters_in_order() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = [entry for part in toc["parts"] for entry in part["chapters"]]
    files = [toc["root"], *(entry["file"] for entry in pages)]
    return [file.rpartition("/")[2] for file in files]


@pytest.mark.parametrize(
    "chapter", [name for name in chapters_in_order() if name in OWED]
)
def test_a_chapter_has_every_row_that_it_owes(chapter):
    held = {claim.id for claim in LEDGER if claim.chapter == chapter}
    assert held == OWED[chapter]


def test_a_file_of_claims_has_its_chapter():
    assert {c.chapter for c in LEDGER} <= set(chapters_in_order())


@pytest.mark.parametrize("claim", LEDGER, ids=NAMES)
def test_a_claim_has_its_place_in_the_chapter(claim):
    assert claim.anchor in claims.anchors(
        source_of(claim.chapter), claim.chapter
    )


@pytest.mark.parametrize("claim", LEDGER, ids=NAMES)
def test_what_shows_a_claim_stands_in_the_chapter(claim):
    source = source_of(claim.chapter)
    for name in claim.shown_by:
        if name == claims.IN_WORDS:
            continue
        assert re.search(rf"\b{name}\b", source), f"{name} is not shown"
        if hasattr(widgets, name):
            continue
        room = f"mambaviz/figures/{claim.chapter.replace('-', '_')}.py"
        assert name in functions_in(room), (
            f"{name} is neither an explorable nor a plate of the chapter"
        )


@pytest.mark.parametrize("name", sorted(PICTURED))
def test_what_the_guide_draws_is_a_picture_here(name):
    (claim,) = [claim for claim in LEDGER if claim.id == name]
    assert set(claim.shown_by) - {claims.IN_WORDS}


@pytest.mark.parametrize("claim", LEDGER, ids=NAMES)
def test_what_keeps_a_claim_true_is_a_test(claim):
    for test in claim.test:
        path, _, name = test.partition("::")
        assert name in functions_in(path), f"{path} has no {name}"
        assert name.startswith("test_")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_what_is_computed(number):
    value = claims.evaluate(number.computed)
    assert claims.agrees(number.number, value), (
        f"{number.of}: printed {number.number}, computed {value!r}"
    )


def test_a_number_names_a_work_of_the_bibliography():
    text = (CHAPTERS / "references.bib").read_text(encoding="utf-8")
    works = set(re.findall(r"^@\w+\{([^,\s]+),", text, re.MULTILINE))
    assert works
    for claim in LEDGER:
        for number in claim.published:
            work = re.split(r"[,\s]", number.source)[0]
            assert work in works | {claims.OURS}, f"{claim.id}: {work}"


@pytest.mark.parametrize(
    ("printed", "value", "right"),
    [
        ("1.58", 1.5820, True),
        ("1.58", 1.5751, True),
        ("1.58", 1.5749, False),
        ("167,167,000", 167_167_000, True),
        ("167,167,000", 167_167_001, False),
        ("2e38", 1.9e38, True),
        ("2e38", 2.6e38, False),
        ("99 %", 0.991, True),
        ("99 %", 0.98, False),
        ("−0.5", -0.5, True),
        ("1", float("nan"), False),
        ("1", float("inf"), False),
    ],
)
def test_a_number_agrees_in_the_digits_that_are_printed(printed, value, right):
    assert claims.agrees(printed, value) is right


WELL = {
    "id": "S001",
    "claim": "Something is so.",
    "chapter": "a",
    "anchor": "here",
    "shown_by": "text",
    "test": "tests/test_a.py::test_it",
}


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ({"id": "S001"}, "a.yml is no list of claims"),
        (["S001"], "is not a mapping"),
        ([WELL | {"id": "X1"}], "the id is not like S001 or E1"),
        ([WELL | {"test": ""}], r"missing \['test'\]"),
        ([WELL | {"why": "so"}], r"unknown \['why'\]"),
        ([WELL | {"chapter": "b"}], "belong to b.yml"),
        ([WELL, WELL], "S001 is in a.yml and in a.yml: keep one"),
        (
            [WELL | {"published": {"number": 3, "of": "x", "source": "ours"}}],
            "put numbers in quotes",
        ),
    ],
)
def test_a_fault_of_the_ledger_is_named(tmp_path, entries, fault):
    (tmp_path / "a.yml").write_text(yaml.safe_dump(entries))
    with pytest.raises(ValueError, match=fault):
        claims.read_claims(tmp_path)


def test_claims_stand_in_the_order_of_their_numbers(tmp_path):
    for chapter, names in {"b": ["E2", "S010"], "a": ["S002", "E1"]}.items():
        entries = [WELL | {"id": n, "chapter": chapter} for n in names]
        (tmp_path / f"{chapter}.yml").write_text(yaml.safe_dump(entries))
    found = [claim.id for claim in claims.read_claims(tmp_path)]
    assert found == ["S002", "S010", "E1", "E2"]


def test_the_appendix_follows_the_chapters(tmp_path):
    for chapter, name in {"b": "S002", "a": "S001", "gone": "S003"}.items():
        entry = WELL | {"id": name, "chapter": chapter}
        if chapter == "a":
            entry["published"] = {
                "number": "2", "of": "one and one", "source": "gu2023, sec. 1",
                "computed": "1 + 1",
            }  # fmt: skip
        (tmp_path / f"{chapter}.yml").write_text(yaml.safe_dump([entry]))
    sources = {"b": "# Second\n\n## Here\n", "a": "# First\n\n(here)=\n## X\n"}
    page = "\n\n".join(
        claims.ledger_page(claims.read_claims(tmp_path), sources)
    )
    assert re.findall("^## (.+)$", page, re.MULTILINE) == ["Second", "First"]
    assert "[its section](b.md#here)" in page
    assert "[its section](#here)" in page
    assert "S003" not in page
    assert (
        "- 2: one and one; {cite}`gu2023`, sec. 1, "
        "and computed here as `1 + 1`" in page
    )
