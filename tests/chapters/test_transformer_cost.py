"""The chapter says in its prose what its cells compute."""

from mambaviz.models.pieces import PIECES
from mambaviz.theory import cost
from tests.chapters.reading import pages_in, printed

CHAPTER = "transformer-cost"


def test_the_matrix_is_of_trained_attention(executed):
    (matrix,) = [p for p in pages_in(executed) if '"trained":' in p]
    assert '"trained":true' in matrix


def test_the_dated_box_has_its_date(words):
    box = words.partition("(dated)=")[2].partition(" ::: ")[0]
    assert "As of 2024" in box
    assert "hybrids" in box


def test_the_misconception_stands_in_a_box(words):
    box = words.partition("Common misconception")[2].partition(" ::: ")[0]
    assert "$L^3/6$" in box
    assert "$L^2/2$ is what remains *with* a cache" in box
    ratio = cost.scores_without_cache(1000) / cost.scores_with_cache(1000)
    assert f"{ratio:g} times apart" in box


def test_the_way_on_leads_to_recurrent_networks(words):
    assert "(recurrent-networks.md)" in words


def test_printed_numbers_are_those_of_the_theory(executed):
    said = printed(executed, "without, with_cache")
    assert "167,167,000" in said
    assert "500,500" in said
    assert printed(executed, "crossover_length()") == "32 40 tokens\n"
    assert printed(executed, "block.parameters()") == (
        "in matrices 7,077,888, in all 7,087,872\n"
    )
    same, again, _ = printed(executed, "train_writer").splitlines()
    assert same == again
    assert "169,869,312" in printed(executed, "bytes of weights")


def test_numbers_in_the_prose_are_those_of_the_code(words):
    assert f"a list of {len(PIECES)}: a few words" in words
    weights = cost.transformer_layer_weights(768)
    assert f"{weights:,} at 768, and {13 * 768:,} in biases" in words
    moved = cost.crossover_length(state_bytes=4)
    assert f"4 bytes a number moves the 32 to {moved}" in words
    shared = cost.crossover_length(n_heads=4, n_kv_heads=1)
    assert (
        f"share one key and value head {{cite}}`ainslie2023gqa` it is {shared}"
        in words
    )
    assert f"{cost.kv_cache_bytes(1, 12, 768):,} bytes a token" in words
    kept = cost.ssm_state_bytes(24, 768) + cost.conv_state_bytes(24, 768)
    assert f"stays {kept:,} bytes" in words


def test_pictures_are_described_for_a_dark_page_too(text):
    # There what is strong is bright.
    assert "darker" not in text
    assert "is dark" not in text
