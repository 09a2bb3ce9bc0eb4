"""The chapter says in its prose what its cells compute."""

import math
import re

from mambaviz.theory import (
    fft_convolution_flops,
    lti_recurrence_flops,
)
from tests.chapters.reading import code_cells, pages_in

CHAPTER = "three-representations"


def test_the_measured_picture_is_that_of_one_more_output(executed):
    (times,) = [p for p in pages_in(executed) if "data-measured" in p]
    assert "one more output" in times


def test_counts_in_the_prose_are_those_of_theory(source, text):
    # One multiplication and one addition a lag, but for the first.
    last = 1024 + 1023
    one = lti_recurrence_flops(1, 16)
    assert f"takes {one} operations, at any length" in " ".join(text.split())
    assert f"takes {last:,} at token 1,024" in " ".join(text.split())
    (cell,) = [c.source for c in code_cells(source) if "350_208" in c.source]
    for count in (
        1024 * one,
        fft_convolution_flops(1, 1024, 1),
        sum(2 * k - 1 for k in range(1, 1025)),
    ):
        assert f"{count:_}" in cell


def test_what_four_pads_leave_is_said_as_it_is(text):
    left = f"{math.exp(4 * -0.2):.0%}".replace("%", " %")
    assert text.count(left) == 2


def test_no_picture_is_described_for_one_mode_alone(source):
    """In the dark a stronger colour is a brighter one."""
    words = "\n".join(cell.source for cell in source.cells)
    assert not re.search(r"(?i)\b(dark|bright|pale)(er|est)?\b", words)
