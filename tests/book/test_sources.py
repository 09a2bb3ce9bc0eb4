"""The code of the figures that a chapter calls stands on its page."""

import html
import inspect
import re

import pytest

from mambaviz.book.sources import called, with_helpers
from mambaviz.figures import hippo, timing
from tests.book.conftest import NOTEBOOK, Book, cell

IMPORTS = """
%matplotlib inline
import torch
from mambaviz.figures import hippo as figures
from mambaviz.figures.plate import plate
from mambaviz.figures.timing import Measured
"""


def test_what_a_cell_calls():
    names = {}
    assert [*called(IMPORTS, names)] == []
    code = "a = Measured\nplate(figures.draw_matrices, figures.draw_matrices)"
    assert [*called(code, names)] == [timing.Measured, hippo.draw_matrices]
    assert [*called("torch.zeros(figures.WIDTH, plate)", names)] == []


def test_what_is_called_brings_its_helpers():
    whole = with_helpers([hippo.draw_matrices])
    assert whole[0] is hippo.draw_matrices
    assert hippo._squares in whole


def text_of(page):
    """A page's words and code, without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", page))


@pytest.mark.build
def test_a_page_shows_it_once_folded(tmp_path):
    book = Book(tmp_path)
    hidden = cell(
        ":tags: [hide-input]\n\nprint(figures.draw_matrices.__name__)"
    )
    book.write(
        {
            "index": "# A book\n",
            "page": NOTEBOOK
            + "# A page\n"
            + cell("from mambaviz.figures import hippo as figures")
            + cell("print(figures.by_eighths.__name__)")
            + hidden
            + cell("print(figures.by_eighths.__name__)"),
            "works": "# Works\n\n```{bibliography}\n```\n",
        }
    )
    book.build_well()
    page = book.page("chapters/page.html")
    text = text_of(page)
    for function in (hippo.by_eighths, hippo._squares):
        assert text.count(inspect.getsource(function).rstrip()) == 1
    assert text.count("The code of by_eighths") == 1
    assert "The code of draw_matrices" not in text
    (fold,) = re.findall("<details.*?</details>", page, flags=re.DOTALL)
    assert "def draw_matrices" in text_of(fold)
