"""The choice of the next token, and the loop, on models without weights."""

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn

from mambaviz.models import (
    RNNLM,
    TransformerLM,
    choose_token,
    generate,
    sampling,
    token_probabilities,
)
from tests.models.mamba_cases import normal, seeded, small_lm

LOGITS = torch.tensor([[0.05, 0.4, 0.3, 0.05, 0.2]]).log() + 3


def drawn(n, seed=0, **options):
    """How often each token was drawn, out of n times."""
    tokens = choose_token(
        LOGITS.expand(n, -1), generator=seeded(seed), **options
    )
    return torch.bincount(tokens, minlength=5)


# ---- The distribution ------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.05, 0.4, 0.3, 0.05, 0.2]),
        ({"top_k": 2}, [0, 4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 5}, [0.05, 0.4, 0.3, 0.05, 0.2]),
        # 0.4 alone does not reach 0.5; with 0.3 it does.
        ({"top_p": 0.5}, [0, 4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0]),
        ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
        ({"top_p": 1.0}, [0.05, 0.4, 0.3, 0.05, 0.2]),
        # top_p counts in what top_k has left: 4/9 < 0.7 <= 7/9.
        ({"top_k": 3, "top_p": 0.7}, [0, 4 / 7, 3 / 7, 0, 0]),
        ({"temperature": 0.5}, [1, 64, 36, 1, 16]),
        ({"temperature": 0.5, "top_k": 2}, [0, 64, 36, 0, 0]),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e-300}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e9}, [1, 1, 1, 1, 1]),
    ],
)
def test_probabilities(options, expected):
    expected = torch.tensor([expected], dtype=torch.float32)
    expected = expected / expected.sum()
    p = token_probabilities(LOGITS, **options)
    # A softmax in float32, of logits of 3: a few roundings of 1e-7 each.
    assert torch.allclose(p, expected, atol=2e-6)
    assert (p[expected == 0] == 0).all()


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_k": 4, "top_p": 0.9}]
)
def test_tokens_are_drawn_by_their_probability(options):
    n = 20000
    p = token_probabilities(LOGITS, **options)[0]
    counts = drawn(n, **{"temperature": 1.0} | options)
    assert (counts[p == 0] == 0).all()
    kept = p > 0
    expected = p[kept].double() / p[kept].double().sum() * n
    # Of true samples, one in a hundred has a smaller p.
    assert chisquare(counts[kept], expected).pvalue > 0.01


def test_each_row_is_on_its_own():
    logits = normal(6, 9)
    options = {"temperature": 0.8, "top_k": 5, "top_p": 0.8}
    together = token_probabilities(logits, **options)
    for row, p in zip(logits, together, strict=True):
        assert torch.allclose(token_probabilities(row[None], **options)[0], p)
        assert p.sum().item() == pytest.approx(1, abs=1e-12)


def test_top_k_keeps_k_of_equals_and_greedy_takes_the_first():
    equal = torch.zeros(1, 7)
    assert (token_probabilities(equal, top_k=3) > 0).sum() == 3
    assert choose_token(equal) == 0
    assert token_probabilities(equal, temperature=0)[0, 0] == 1


def test_top_p_stops_where_it_is_reached():
    p = token_probabilities(torch.zeros(1, 4), top_p=0.5)  # 1/4 each
    assert p.sort().values.tolist() == [[0, 0, 0.5, 0.5]]


def test_a_forbidden_token_is_never_drawn():
    logits = torch.zeros(1000, 4)
    logits[:, 2] = -math.inf
    tokens = choose_token(logits, 2.0, generator=seeded())
    assert set(tokens.tolist()) == {0, 1, 3}


def test_half_precision_is_lifted_before_the_softmax():
    logits = LOGITS.to(torch.bfloat16)
    p = token_probabilities(logits, top_p=0.9)
    assert p.dtype == torch.float32
    assert torch.equal(p, token_probabilities(logits.float(), top_p=0.9))
    assert choose_token(logits) == 1


def test_the_same_generator_makes_the_same_choices():
    options = {"temperature": 1.0, "top_p": 0.95}
    assert torch.equal(drawn(50, 3, **options), drawn(50, 3, **options))
    assert not torch.equal(drawn(50, 3, **options), drawn(50, 4, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.5}, "temperature .* got -0.5"),
        ({"temperature": math.nan}, "temperature .* got nan"),
        ({"temperature": math.inf}, "temperature .* got inf"),
        ({"temperature": "hot"}, "temperature .* got 'hot'"),
        ({"temperature": True}, "temperature .* got True"),
        ({"temperature": 10**400}, "temperature .* got 1000"),
        ({"top_k": 0}, "top_k .* from 1 to vocab_size = 5; got 0"),
        ({"top_k": 6}, "top_k .* got 6"),
        ({"top_k": 2.5}, "top_k must be an integer .* got 2.5"),
        ({"top_k": True}, "top_k must be an integer .* got True"),
        ({"top_p": "0.5"}, "top_p .* got '0.5'"),
        ({"top_p": True}, "top_p .* got True"),
        ({"top_p": 0.0}, "top_p .* got 0.0"),
        ({"top_p": 1.5}, "top_p .* got 1.5"),
        ({"top_p": math.nan}, "top_p .* got nan"),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(
    options, message, outside_tests
):
    with pytest.raises(ValueError, match=message):
        token_probabilities(LOGITS, **options)
    with pytest.raises(ValueError, match=message):
        choose_token(LOGITS, **{"temperature": 0.0} | options)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_without_a_largest_leave_no_choice(temperature, value):
    logits = LOGITS.repeat(3, 1)
    logits[1] = value
    with pytest.raises(ValueError, match=f"logit of row 1 is {value}; look"):
        choose_token(logits, temperature)


# ---- The loop --------------------------------------------------------------


class Adder(nn.Module):
    """The next token is the sum of all so far, modulo the vocabulary."""

    vocab_size = 10

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, ids, return_state, last_only):
        assert return_state
        assert last_only
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls.append(("forward", tuple(ids.shape)))
        return self.logits(ids.sum(1))[:, None], ids.sum(1)

    def step(self, ids, state):
        self.calls.append(("step", tuple(ids.shape)))
        return self.logits(state + ids), state + ids

    def logits(self, total):
        return nn.functional.one_hot(
            total % self.vocab_size, self.vocab_size
        ).float()


def test_the_prompt_is_read_once_and_no_step_is_wasted():
    model = Adder()
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    out = generate(model, ids, 3)
    assert out.tolist() == [[1, 2, 3, 6, 2, 4], [4, 5, 6, 5, 0, 0]]
    assert out.dtype == ids.dtype
    assert model.calls == [("forward", (2, 3))] + 2 * [("step", (2,))]


def test_nothing_to_add_gives_the_prompt_and_asks_nothing():
    model, ids = Adder(), torch.tensor([[1, 2]])
    out = generate(model, ids, 0)
    assert torch.equal(out, ids)
    assert out is not ids
    assert model.calls == []


def test_each_step_is_handed_over_as_it_comes():
    seen = []
    out = generate(Adder(), torch.tensor([[1], [2]]), 3, on_token=seen.append)
    assert torch.equal(torch.stack(seen, 1), out[:, 1:])


def test_what_is_done_to_a_token_that_was_handed_over_alters_no_text():
    ids = torch.tensor([[1], [2]])
    plain = generate(Adder(), ids, 4)
    assert torch.equal(generate(Adder(), ids, 4, on_token=Tensor.zero_), plain)


class Broken(Adder):
    """An adder whose row 1 has one odd logit after its second step."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def logits(self, total):
        logits = super().logits(total)
        if len(self.calls) == 3:
            logits[1, 9] = self.value
        return logits


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_logit_is_an_error_at_its_step(temperature, value):
    seen, ids = [], torch.tensor([[1, 2], [3, 4]])
    with pytest.raises(
        ValueError, match=f"at step 2, .* of row 1 is {value}; look for NaN"
    ):
        generate(Broken(value), ids, 9, temperature, on_token=seen.append)
    assert len(seen) == 2
    # A token may be ruled out, and no one looks at those beyond vocab_size.
    generate(Broken(-value), ids, 9, temperature, vocab_size=9)
    if value == math.inf:
        generate(Broken(-value), ids, 9, temperature)


def test_looking_once_finds_the_first_broken_step():
    """As is done at the end of greedy steps on a GPU."""
    largest = torch.zeros(3, 6)  # batch steps
    sampling._expect_finite(largest)
    largest[1, 4], largest[2, 3], largest[0, 5] = math.inf, math.nan, math.nan
    with pytest.raises(ValueError, match="at step 3, .* of row 2 is nan"):
        sampling._expect_finite(largest)


def test_only_real_tokens_are_chosen():
    ids = torch.tensor([[3, 6]])  # the sum is 9, which is the likeliest
    assert generate(Adder(), ids, 1)[0, -1] == 9
    assert generate(Adder(), ids, 1, vocab_size=9)[0, -1] < 9
    with pytest.raises(ValueError, match="vocab_size = 9; got 10"):
        generate(Adder(), ids, 1, top_k=10, vocab_size=9)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("vocab_size", [None, 99])
def test_no_more_tokens_stay_than_there_are(temperature, vocab_size):
    ids = torch.tensor([[1, 2]])
    options = {"temperature": temperature, "vocab_size": vocab_size}
    assert generate(Adder(), ids, 1, top_k=10, **options).shape == (1, 3)
    with pytest.raises(ValueError, match="1 to vocab_size = 10; got 11"):
        generate(Adder(), ids, 1, top_k=11, **options)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_the_mode_it_was_in(training):
    model = Adder().train(training)
    generate(model, torch.tensor([[1]]), 2)
    assert model.training is training

    def stop(token):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, torch.tensor([[1]]), 2, on_token=stop)
    assert model.training is training


def test_each_module_is_left_in_the_mode_it_was_in():
    """As one trains a head on features that stand still."""
    model = Adder()
    model.still, model.learning = nn.Dropout(), nn.Sequential(nn.Dropout())
    model.still.eval()
    modes = [module.training for module in model.modules()]
    generate(model, torch.tensor([[1]]), 2)
    assert [module.training for module in model.modules()] == modes

    def stop(token):
        assert not any(module.training for module in model.modules())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, torch.tensor([[1]]), 2, on_token=stop)
    assert [module.training for module in model.modules()] == modes


def test_a_mask_is_for_a_model_that_takes_one():
    ids = torch.tensor([[1, 2]])
    padding = mask([0, 1])
    with pytest.raises(ValueError, match="RNNLM takes no mask: give it"):
        generate(RNNLM(5, 3), ids, 2, mask=padding)
    model = TransformerLM(5, 4, 1, 2)
    assert generate(model, ids, 2, mask=padding).shape == (1, 4)


@pytest.mark.parametrize("count", [2.5, True, "3", None, -1])
def test_a_text_has_a_whole_number_of_tokens(count, outside_tests):
    ids = torch.tensor([[1, 2]])
    words = rf"max_new_tokens must be an integer of 0 or more; got {count!r}"
    for model in (small_lm(), TransformerLM(5, 4, 1, 2)):
        with pytest.raises(ValueError, match=words):
            model.generate(ids, count)
    with pytest.raises(ValueError, match=words):
        generate(RNNLM(5, 3), ids, count)


def test_the_generator_decides():
    ids = torch.tensor([[1, 2]] * 4)

    def sampled(seed):
        return generate(Adder(), ids, 8, 2.0, 8, 0.9, seeded(seed))

    assert torch.equal(sampled(1), sampled(1))
    assert not torch.equal(sampled(1), sampled(2))


def mask(*rows):
    return torch.tensor(rows, dtype=torch.bool)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.zeros(2, 0, dtype=torch.long)}, r"empty.*\(2, 0\)"),
        ({"ids": torch.ones(3).long()}, r"\(batch, length\); got \(3,\)"),
        ({"ids": torch.tensor([[1, 10]])}, "from 0 to 9; got 10"),
        ({"ids": torch.ones(2, 3)}, "ids must .* got torch.float32"),
        ({"vocab_size": 9.5}, "vocab_size .* got 9.5"),
        ({"top_k": 0}, "top_k .* got 0"),
        ({"mask": mask([1, 1])}, r"mask must be .* \(2, 3\).* \(1, 2\)"),
        ({"max_new_tokens": -1}, "max_new_tokens .* got -1"),
        ({"temperature": -1.0}, "temperature .* got -1.0"),
        ({"top_k": 11}, "top_k .* got 11"),
        ({"top_p": 2.0}, "top_p .* got 2.0"),
        ({"mask": mask([1, 1, 1], [1, 1, 0])}, "mask of row 1"),
        ({"mask": mask([0, 0, 0], [1, 1, 1])}, "mask of row 0"),
        ({"mask": mask([1, 1, 1], [1, 0, 1])}, "mask of row 1"),
    ],
)
def test_what_cannot_be_continued(change, message, outside_tests):
    arguments = {"ids": torch.ones(2, 3).long(), "max_new_tokens": 2}
    with pytest.raises(ValueError, match=message):
        generate(Adder(), **arguments | {"vocab_size": 10} | change)
