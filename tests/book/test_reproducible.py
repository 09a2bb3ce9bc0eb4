"""Two builds of the same sources give the same bytes."""

import re

import pytest

from tests.book.conftest import CLEAN, Book, copy_package

pytestmark = pytest.mark.build

# A timing is the one thing that may differ, and only inside such an element.
MEASURED = re.compile(
    rb"<(?P<tag>\w+)(?=[^>]*\sdata-measured)[^>]*>.*?</(?P=tag)>", re.DOTALL
)


def contents(book: Book) -> dict[str, bytes]:
    """Every file of a built book, without what was measured."""
    return {
        path.relative_to(book.html).as_posix(): MEASURED.sub(
            b"", path.read_bytes()
        )
        for path in sorted(book.html.rglob("*"))
        if path.is_file()
    }


def test_another_checkout_gives_the_same_bytes(clean_book, tmp_path):
    checkout = copy_package(tmp_path / "another" / "checkout")
    book = Book(checkout, checkout)
    book.write(CLEAN)
    book.build_well(PYTHONHASHSEED="2")
    assert_same(contents(clean_book), contents(book))

    # And a later build is no other than a first one.
    index = CLEAN["index"]
    book.write({**CLEAN, "index": f"{index}\nOf the [past](#gone).\n"})
    assert book.build().returncode != 0
    book.write({**CLEAN, "index": f"{index}\nUnsurpassable.\n"})
    book.build_well()
    book.write(CLEAN)
    book.build_well()
    assert_same(contents(clean_book), contents(book))


def assert_same(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_only_what_was_measured_is_left_out():
    html = b'<p>a <b data-measured>1 ms</b> c</p><p class="x">d</p>'
    assert MEASURED.sub(b"", html) == b'<p>a  c</p><p class="x">d</p>'
