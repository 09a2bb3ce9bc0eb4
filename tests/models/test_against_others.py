"""Our Mamba against that of transformers and mambapy: weights, values, files.

Importing transformers takes seconds, so all of it is in this file.
"""

import os

import mambapy.mamba
import pytest
import torch
import transformers
from torch import nn

from mambaviz.models import MambaBlock, MambaConfig, MambaLM
from tests.models.mamba_cases import (
    error,
    gradients,
    normal,
    perturbed,
    seeded,
    some_ids,
)

# float32 here and there, and sums in other orders: measured, 3e-6 at most.
RELATIVE = 1e-5
VOCABULARY = 24

SHAPES = {
    "as released": {},
    "wide": {"d_state": 5, "expand": 3, "d_conv": 3, "dt_rank": 4},
    "biases": {"d_state": 7, "bias": True, "d_conv": 2},
    "no biases": {"d_state": 1, "conv_bias": False, "expand": 1},
    "untied": {"d_state": 9, "tie_embeddings": False, "norm_eps": 1e-3},
}


def ours(**settings):
    torch.manual_seed(0)
    shape = {"d_model": 12, "n_layers": 2, "vocab_size": VOCABULARY}
    return perturbed(MambaLM(MambaConfig(**shape | settings)))


def test_nothing_that_is_compared_is_as_it_started():
    """A tensor of ones or zeros could stand for another unnoticed."""
    for settings in SHAPES.values():
        for name, parameter in ours(**settings).named_parameters():
            values = parameter.unique().numel()
            assert values == parameter.numel(), name


def theirs(model):
    """The same model, built by transformers, with the same weights.

    In the plain PyTorch of that library: no kernel, nothing from mambapy.
    """
    c = model.config
    block = model.backbone.layers[0].mixer
    config = transformers.MambaConfig(
        vocab_size=c.padded_vocab_size,
        hidden_size=c.d_model,
        state_size=c.d_state,
        num_hidden_layers=c.n_layers,
        layer_norm_epsilon=c.norm_eps,
        expand=c.expand,
        conv_kernel=c.d_conv,
        use_bias=c.bias,
        use_conv_bias=c.conv_bias,
        time_step_rank=block.dt_rank,
        tie_word_embeddings=c.tie_embeddings,
        use_mambapy=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    other = transformers.MambaForCausalLM(config).eval()
    weights = {their_name(n): p for n, p in model.named_parameters()}
    found = other.load_state_dict(weights, strict=False)
    tied = ["lm_head.weight"] if c.tie_embeddings else []
    assert found.missing_keys == tied
    assert not found.unexpected_keys
    return other


def outputs_of(layers):
    """What each layer returns, once they have run."""
    seen = []
    for layer in layers:
        layer.register_forward_hook(
            lambda layer, inputs, out: seen.append(
                out[0] if isinstance(out, tuple) else out
            )
        )
    return seen


def outputs_of_steps(layers):
    """What the step of each layer returns, once they have run."""
    seen = []

    def kept(step):
        def keeping(x, state, **options):
            y, state = step(x, state, **options)
            seen.append(y)
            return y, state

        return keeping

    for layer in layers:
        layer.step = kept(layer.step)
    return seen


def step_by_step(model, ids):
    """The logits after each token."""
    state, logits = model.initial_state(len(ids)), []
    for token in ids.unbind(1):
        logits_t, state = model.step(token, state)
        logits.append(logits_t)
    return torch.stack(logits, 1)


def their_name(name):
    return name.replace("backbone.embedding.", "backbone.embeddings.")


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def pair(request):
    model = ours(**request.param)
    return model, theirs(model)


def test_logits_layers_and_gradients_are_those_of_transformers(pair):
    model, other = pair
    ids = some_ids(3, 11, VOCABULARY)
    layers = outputs_of(model.backbone.layers)
    logits = model(ids)
    out = other(ids, output_hidden_states=True, use_cache=False)
    assert error(logits, out.logits) < RELATIVE
    # The last of theirs is after norm_f.
    for one, their_one in zip(layers, out.hidden_states[:-1], strict=True):
        assert error(one, their_one) < RELATIVE
    grads = gradients(logits, model)
    expected = gradients(out.logits, other)
    assert len(grads) == len(expected)
    for name, grad in grads.items():
        assert error(grad, expected[their_name(name)]) < RELATIVE, name


def test_a_long_text_is_that_of_transformers():
    """Long enough for every way of cutting it up inside the scan."""
    model = ours(d_state=5)
    ids = some_ids(2, 400, VOCABULARY)
    logits, out = model(ids), theirs(model)(ids, use_cache=False).logits
    assert error(logits, out) < RELATIVE


def test_steps_are_those_of_transformers(pair):
    model, other = pair
    ids = some_ids(3, 10, VOCABULARY)
    with torch.no_grad():
        out = other(ids[:, :4], use_cache=True)
        logits, state = model(ids[:, :4], return_state=True)
        assert error(logits, out.logits) < RELATIVE
        layers = outputs_of_steps(model.backbone.layers)
        for token in ids[:, 4:].unbind(1):
            out = other(
                token[:, None],
                cache_params=out.cache_params,
                use_cache=True,
                output_hidden_states=True,
            )
            layers.clear()
            logits, state = model.step(token, state)
            assert error(logits, out.logits[:, -1]) < RELATIVE
            their_layers = out.hidden_states[:-1]
            for one, their_one in zip(layers, their_layers, strict=True):
                assert error(one, their_one[:, 0]) < RELATIVE
        for layer, ours_after in enumerate(state):
            h = out.cache_params.get_recurrent_state(layer)
            assert error(ours_after.ssm, h) < RELATIVE


def test_a_chunked_prompt_is_the_whole_of_transformers(pair):
    model, other = pair
    ids = some_ids(3, 13, VOCABULARY)
    layers = outputs_of(model.backbone.layers)
    state, logits = None, []
    for chunk in ids.split([1, 5, 2, 5], 1):
        part, state = model(chunk, state, return_state=True)
        logits.append(part)
    out = other(ids, output_hidden_states=True, use_cache=False)
    ours_whole = torch.cat(logits, 1)
    assert error(ours_whole, out.logits) < RELATIVE
    n_layers = model.config.n_layers
    for layer, their_one in enumerate(out.hidden_states[:-1]):
        one = torch.cat(layers[layer::n_layers], 1)
        assert error(one, their_one) < RELATIVE
    expected = gradients(out.logits, other)
    for name, grad in gradients(ours_whole, model).items():
        assert error(grad, expected[their_name(name)]) < RELATIVE, name


def test_gradients_through_steps_are_those_of_transformers(pair):
    model, other = pair
    ids = some_ids(3, 7, VOCABULARY)
    logits = step_by_step(model, ids)
    whole = other(ids, use_cache=False).logits
    assert error(logits, whole) < RELATIVE
    expected = gradients(whole, other)
    for name, grad in gradients(logits, model).items():
        assert error(grad, expected[their_name(name)]) < RELATIVE, name


def test_greedy_generation_is_that_of_transformers(pair):
    model, other = pair
    ids = some_ids(3, 5, VOCABULARY)
    text = other.generate(ids, max_new_tokens=15, do_sample=False)
    assert torch.equal(model.generate(ids, 15), text)


def test_a_left_padded_row_is_that_row_alone_in_transformers(pair):
    model, other = pair
    lengths, longest = [3, 7, 8], 8
    ids = some_ids(3, longest, VOCABULARY)
    steps = torch.arange(longest)
    mask = steps >= longest - torch.tensor(lengths)[:, None]
    logits = model(ids, mask=mask)
    for row, length in enumerate(lengths):
        alone = other(ids[row : row + 1, -length:], use_cache=False).logits
        assert error(logits[row : row + 1, -length:], alone) < RELATIVE
    if model.config.bias:
        return  # Their mask goes before in_proj, whose bias then fills it.
    out = other(ids, attention_mask=mask.long(), use_cache=False).logits
    assert error(logits[mask], out[mask]) < RELATIVE


def test_sampling_has_the_distribution_of_transformers():
    from transformers import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    from mambaviz.models import token_probabilities

    logits = 3 * normal(50, 40)
    for temperature, top_k, top_p in (
        (0.7, None, None),
        (1.0, 5, None),
        (1.3, None, 0.8),
        (0.9, 20, 0.5),
    ):
        scores = TemperatureLogitsWarper(temperature)(None, logits)
        if top_k is not None:
            scores = TopKLogitsWarper(top_k)(None, scores)
        if top_p is not None:
            scores = TopPLogitsWarper(top_p)(None, scores)
        p = token_probabilities(logits, temperature, top_k, top_p)
        assert error(p, scores.softmax(-1)) < 1e-12


# ---- Files -----------------------------------------------------------------


@pytest.mark.parametrize("shard", ["5GB", "2KB"])
def test_what_transformers_saves_we_load(pair, tmp_path, shard):
    model, other = pair
    other.save_pretrained(tmp_path, max_shard_size=shard)
    files = [n for n in os.listdir(tmp_path) if n.endswith(".safetensors")]
    assert len(files) == 1 if shard == "5GB" else len(files) > 2
    loaded = MambaLM.from_pretrained(tmp_path)
    assert loaded.config.norm_eps == model.config.norm_eps
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    ids = some_ids(2, 6, VOCABULARY)
    assert torch.equal(loaded(ids), model(ids))


def test_what_we_save_transformers_loads(pair, tmp_path):
    model, _ = pair
    model.save_pretrained(tmp_path, layout="transformers")
    other, report = transformers.MambaForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values()), report
    for name, parameter in model.named_parameters():
        assert torch.equal(other.state_dict()[their_name(name)], parameter)
    ids = some_ids(2, 6, VOCABULARY)
    assert error(model(ids), other.eval()(ids).logits) < RELATIVE
    # And back again.
    other.save_pretrained(tmp_path / "again")
    back = MambaLM.from_pretrained(tmp_path / "again")
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name


def test_automatic_classes_know_what_we_save(tmp_path):
    model = ours()
    model.save_pretrained(tmp_path, layout="transformers")
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(other, transformers.MambaForCausalLM)


# ---- mambapy ---------------------------------------------------------------


def their_config(c):
    return mambapy.mamba.MambaConfig(
        d_model=c.d_model,
        n_layers=c.n_layers,
        dt_rank=c.dt_rank,
        d_state=c.d_state,
        expand_factor=c.expand,
        d_conv=c.d_conv,
        rms_norm_eps=c.norm_eps,
        bias=c.bias,
        conv_bias=c.conv_bias,
    )


class Around(nn.Module):
    """mambapy's Mamba with the embedding, norm and head of its ``lm``.

    That module itself also imports its Mamba-2, and with it einops.
    """

    def __init__(self, config, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.mamba = mambapy.mamba.Mamba(config)
        self.norm_f = mambapy.mamba.RMSNorm(
            config.d_model, config.rms_norm_eps
        )
        self.lm_head = nn.Linear(config.d_model, vocab_size, bias=False)

    def forward(self, ids):
        return self.lm_head(self.norm_f(self.mamba(self.embedding(ids))))

    def step(self, ids, caches):
        x, caches = self.mamba.step(self.embedding(ids), caches)
        return self.lm_head(self.norm_f(x)), caches


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def mambapy_pair(request):
    # It never ties the two.
    model = ours(**request.param | {"tie_embeddings": False})
    c = model.config
    other = Around(their_config(c), c.padded_vocab_size)
    other.load_state_dict(
        {mambapy_name(n): p for n, p in model.named_parameters()}
    )
    return model, other


def mambapy_name(name):
    for part in ("backbone.embedding.", "backbone.norm_f."):
        name = name.replace(part, part.removeprefix("backbone."))
    return name.replace("backbone.", "mamba.")


def test_logits_layers_and_gradients_are_those_of_mambapy(mambapy_pair):
    model, other = mambapy_pair
    ids = some_ids(3, 11, VOCABULARY)
    layers = outputs_of(model.backbone.layers)
    their_layers = outputs_of(other.mamba.layers)
    logits, out = model(ids), other(ids)
    assert error(logits, out) < RELATIVE
    for one, their_one in zip(layers, their_layers, strict=True):
        assert error(one, their_one) < RELATIVE
    expected = gradients(out, other)
    grads = gradients(logits, model)
    assert len(grads) == len(expected)
    for name, grad in grads.items():
        assert error(grad, expected[mambapy_name(name)]) < RELATIVE, name


def test_a_chunked_prompt_is_the_whole_of_mambapy(mambapy_pair):
    model, other = mambapy_pair
    ids = some_ids(3, 13, VOCABULARY)
    state, logits = None, []
    for chunk in ids.split([2, 1, 6, 4], 1):
        part, state = model(chunk, state, return_state=True)
        logits.append(part)
    logits, out = torch.cat(logits, 1), other(ids)
    assert error(logits, out) < RELATIVE
    expected = gradients(out, other)
    for name, grad in gradients(logits, model).items():
        assert error(grad, expected[mambapy_name(name)]) < RELATIVE, name


def test_steps_are_those_of_mambapy(mambapy_pair):
    model, other = mambapy_pair
    ids, c = some_ids(3, 9, VOCABULARY), model.config
    state = model.initial_state(3)
    empty = torch.zeros(3, c.expand * c.d_model, c.d_conv - 1)
    caches = [(None, empty) for _ in range(c.n_layers)]
    layers = outputs_of_steps(model.backbone.layers)
    their_layers = outputs_of_steps(other.mamba.layers)
    with torch.no_grad():
        for token in ids.unbind(1):
            logits, state = model.step(token, state)
            their_logits, caches = other.step(token, caches)
            assert error(logits, their_logits) < RELATIVE
    assert len(layers) == ids.shape[1] * c.n_layers
    for one, their_one in zip(layers, their_layers, strict=True):
        assert error(one, their_one) < RELATIVE
    for mine, (h, inputs) in zip(state, caches, strict=True):
        assert error(mine.ssm, h) < RELATIVE
        assert error(mine.conv, inputs) < RELATIVE


def test_gradients_through_steps_are_those_of_mambapy(mambapy_pair):
    model, other = mambapy_pair
    ids = some_ids(3, 7, VOCABULARY)
    logits, out = step_by_step(model, ids), other(ids)
    assert error(logits, out) < RELATIVE
    expected = gradients(out, other)
    for name, grad in gradients(logits, model).items():
        assert error(grad, expected[mambapy_name(name)]) < RELATIVE, name


def test_a_block_starts_like_one_of_mambapy():
    """The same distributions, tensor by tensor, over many channels."""
    torch.manual_seed(1)
    mine = dict(MambaBlock(256, d_state=4).named_parameters())
    config = mambapy.mamba.MambaConfig(256, 1, d_state=4)
    block = dict(mambapy.mamba.MambaBlock(config).named_parameters())
    assert mine.keys() == block.keys()
    for name, parameter in mine.items():
        levels = torch.linspace(0.02, 0.98, 25)
        sample, other = (
            p.detach().flatten()[
                torch.randint(p.numel(), (20000,), generator=seeded())
            ]
            for p in (parameter, block[name])
        )
        ours_at, theirs_at = sample.quantile(levels), other.quantile(levels)
        spread = theirs_at[-1] - theirs_at[0] + 1e-6
        # 512 channels place a quantile within some 2% of the range.
        assert ((ours_at - theirs_at).abs() < 0.08 * spread).all(), name
