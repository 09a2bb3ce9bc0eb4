"""The exercises of the chapter on a Transformer's cost, by other means."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from mambaviz.exercises import check, find
from mambaviz.exercises.transformer_cost import (
    solve_crossover,
    solve_kv_cache,
    solve_without_cache,
)
from mambaviz.theory.cost import (
    attention_flops,
    crossover_length,
    linear_flops,
    transformer_layer_weights,
)


@pytest.mark.parametrize("length", [1, 2, 5, 12])
def test_the_scores_are_pairs_of_a_growing_text(length):
    triples = [
        (newest, asking, asked)
        for newest, asking, asked in itertools.product(range(length), repeat=3)
        if asked <= asking <= newest
    ]
    assert solve_without_cache(length) == len(triples)


def test_a_loop_over_the_tokens_passes_too():
    def scores(length, prompt):
        return sum(t * (t + 1) // 2 for t in range(prompt, length + 1))

    assert check("cost/without-cache", scores).passed
    wrong = check("cost/without-cache", lambda *text: scores(*text) + 1)
    assert not wrong.passed


@pytest.mark.parametrize("length", [1, 7])
def test_the_cache_gives_torchs_attention(length):
    generator = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, length, 4, generator=generator).double()
    wanted = F.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=True
    )[0]
    cache = None
    for t in range(length):
        y, cache = solve_kv_cache(q[t], k[t], v[t], cache)
        assert torch.allclose(y, wanted[t], rtol=0, atol=1e-14)
    assert sum(part.numel() for part in cache) == 2 * length * 4


def test_any_kind_of_cache_will_do():
    def step(q, k, v, cache):
        cache = [*(cache or []), (k, v)]
        keys = torch.stack([key for key, _ in cache])
        values = torch.stack([value for _, value in cache])
        weights = (keys @ q / len(q) ** 0.5).softmax(0)
        return weights @ values, cache

    assert check("cost/kv-cache", step).passed

    def forgetful(q, k, v, cache):
        y, cache = step(q, k, v, cache)
        return y, cache[-7:]  # a window: wrong for the text of nine tokens

    result = check("cost/kv-cache", forgetful)
    assert not result.passed
    assert not check("cost/kv-cache", lambda q, k, v, cache: q).passed
    assert "function" in check("cost/kv-cache", 3).message


def test_the_crossing_is_that_of_theory():
    shared = crossover_length(d_conv=4, n_heads=32, n_kv_heads=8)
    assert solve_crossover() == shared == find("cost/crossover").solution


def test_both_parts_cost_the_same_there():
    t = round(find("cost/overtakes").solution)
    matrices = linear_flops(transformer_layer_weights(768))
    # Row t of the attention: t scores.
    assert attention_flops(t, 768) == matrices
