"""The chapter says in its prose what its cells compute."""

import re

from mambaviz.theory import (
    discretize_dense,
    hippo_legs,
    power_norms,
)

CHAPTER = "hippo"


def test_the_annotated_s4_is_linked_section_by_section(text):
    """S096."""
    site = "https://srush.github.io/annotated-s4/"
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    noted = {
        section.partition("\n")[0]: re.findall(
            rf"\]\({re.escape(site)}([^)]+)\)", section
        )
        for section in sections
        if ":::{margin} In the Annotated S4" in section
    }
    part_1b = "#part-1b-addressing-long-range-dependencies-with-hippo"
    assert noted == {
        "Compress a signal into coefficients": [part_1b],
        "Which ages survive": [part_1b],
        "From HiPPO to S4 and S4D": [
            "#part-2-implementing-s4",
            "#turning-hippo-to-dplr",
            "s4d.html",
        ],
        "A tune, long ago": ["#part-3-s4-in-practice"],
    }


def test_the_explosion_in_the_table_is_that_of_the_matrix(text):
    A, B = hippo_legs(8, sign=1)
    for rule, power in (("zoh", 38), ("bilinear", 40)):
        A_bar, _ = discretize_dense(A, B, 0.1, rule)
        norm = power_norms(A_bar, 100)[-1].item()
        assert f"{norm:.0e}" == f"2e+{power}"
        assert rf"$2 \cdot 10^{{{power}}}$" in text


def test_the_network_keeps_as_many_numbers_as_it_says(text):
    said = " ".join(text.split())
    assert "8 channels of 32 states" in said
    assert "from a state of 256 numbers" in said


def test_no_picture_is_described_for_one_mode_alone(source):
    """In the dark a stronger colour is a brighter one."""
    words = "\n".join(cell.source for cell in source.cells)
    assert not re.search(r"(?i)\b(dark|bright|pale)(er|est)?\b", words)
