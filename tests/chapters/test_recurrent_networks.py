"""The chapter says in its prose what its cells compute."""

from mambaviz.figures import recurrent_networks as figures
from mambaviz.theory import hillis_steele_schedule, scan_depth
from tests.chapters.reading import printed

CHAPTER = "recurrent-networks"


def test_the_promise_says_what_has_to_be_measured(text):
    _, _, box = text.partition("(promise)=\n:::{admonition}")
    box = " ".join(box.partition("\n:::\n")[0].split())
    assert "Mamba" in box
    assert "it must be measured" in box


def test_numbers_in_the_prose_are_those_of_the_code(executed, words):
    levels = scan_depth(hillis_steele_schedule(128))
    assert f"in {levels} levels for 128 steps" in words
    assert "128 steps in 7 levels" in printed(executed, "by_loop = figures")
    assert figures.SIGNS * len(figures.SENTENCE) <= figures.D_STATE
    assert "three signs a word and sixteen numbers make five words" in words
    # |lambda| of the linear network, before it is trained.
    kept = (-figures.DiagonalRecurrence().nu.exp()).exp()
    assert 0.99 <= kept.min() < kept.max() <= 0.999
    assert "between 99 and 99.9 % of its length" in words
