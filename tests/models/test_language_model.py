"""The language model: hand-over, generation, memory, compilation."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mambaviz.models import RELEASED, MambaConfig, MambaLM, recorded_scans
from mambaviz.models.mamba import SelectiveScan
from tests.models.mamba_cases import (
    error,
    gradients,
    seeded,
    small_lm,
    some_ids,
)

# float64 here and there; the sums differ in their order only.
RELATIVE = 1e-12


# ---- Size and start --------------------------------------------------------


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_of_the_released_models(name):
    config = RELEASED[name]
    with torch.device("meta"):
        model = MambaLM(config)
    D, inner, N = config.d_model, 2 * config.d_model, 16
    rank = math.ceil(D / 16)
    block = (
        3 * inner * D  # in_proj and out_proj
        + 5 * inner  # convolution and its bias
        + inner * (rank + 2 * N)  # x_proj
        + inner * (rank + 1)  # dt_proj
        + inner * (N + 1)  # A_log and D
    )
    total = 50280 * D + config.n_layers * (block + D) + D
    assert sum(p.numel() for p in model.parameters()) == total
    if name == "mamba-130m":
        assert total == 129_135_360


def test_names_are_the_official_ones():
    names = set(small_lm().state_dict())
    outside = {n for n in names if ".mixer." not in n}
    assert outside == {
        "backbone.embedding.weight",
        "backbone.layers.0.norm.weight",
        "backbone.layers.1.norm.weight",
        "backbone.norm_f.weight",
        "lm_head.weight",
    }
    assert "backbone.layers.1.mixer.A_log" in names


@pytest.mark.parametrize(
    ("vocab_size", "multiple", "rows"), [(13, 8, 16), (16, 8, 16), (13, 1, 13)]
)
def test_the_vocabulary_is_padded(vocab_size, multiple, rows):
    model = small_lm(vocab_size=vocab_size, pad_vocab_size_multiple=multiple)
    assert model.backbone.embedding.weight.shape == (rows, 8)
    assert model(some_ids(1, 2)).shape == (1, 2, rows)


def test_tied_and_untied():
    tied, untied = small_lm(), small_lm(tie_embeddings=False)
    assert tied.lm_head.weight is tied.backbone.embedding.weight
    assert untied.lm_head.weight is not untied.backbone.embedding.weight
    count = [sum(p.numel() for p in m.parameters()) for m in (tied, untied)]
    assert count[1] - count[0] == 16 * 8


def test_the_first_values():
    torch.manual_seed(0)
    config = MambaConfig(64, 9, 300, bias=True)
    model = MambaLM(config)
    assert model.backbone.embedding.weight.std().item() == pytest.approx(
        0.02, rel=0.02
    )
    for layer in model.backbone.layers:
        mixer = layer.mixer
        # Uniform within 1 / sqrt(d_inner), over sqrt(n_layers).
        bound = 128**-0.5 / 9**0.5
        largest = mixer.out_proj.weight.abs().max()
        assert 0.99 * bound < largest <= bound
        assert not mixer.in_proj.bias.any()
        assert not mixer.out_proj.bias.any()
        delta = F.softplus(mixer.dt_proj.bias)
        assert 0.9e-3 < delta.min() < delta.max() < 0.11
        assert mixer.A_log._no_weight_decay
    # About the entropy of a uniform guess, as nothing is learnt yet.
    logits = model(some_ids(4, 32, 300)).flatten(0, 1)
    loss = F.cross_entropy(logits, some_ids(1, 128, 300, seed=1)[0])
    assert loss.item() == pytest.approx(math.log(304), abs=0.1)


def test_it_learns():
    torch.manual_seed(0)
    model = MambaLM(MambaConfig(16, 2, 11))
    ids = some_ids(2, 12, 11)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        loss = F.cross_entropy(
            model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1  # from log 16 = 2.8
    assert torch.equal(model.generate(ids[:, :2], 10), ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 0}, "d_model must be an integer of at least 1; got 0"),
        ({"d_model": "8"}, "d_model .* got '8'"),
        ({"n_layers": True}, "n_layers .* got True"),
        ({"vocab_size": -3}, "vocab_size .* got -3"),
        ({"d_conv": -1}, "d_conv .* got -1"),
        ({"expand": 1.5}, "expand .* got 1.5"),
        ({"dt_rank": "small"}, "dt_rank .* got 'small'"),
        ({"dt_max": 1e-9}, "dt_min <= dt_max"),
        ({"dt_max": math.inf}, "dt_max .* got inf"),
        ({"dt_scale": math.nan}, "dt_scale .* got nan"),
        ({"norm_eps": 10**400}, "norm_eps .* got 1000"),
        ({"d_model": 2**31}, "in_proj would .* d_model = 2147483648"),
        ({"d_model": 2**70}, f"embedding would .* d_model = {2**70}"),
        ({"vocab_size": 2**62}, f"embedding .* vocab_size = {2**62}"),
        (
            {"pad_vocab_size_multiple": 2**80},
            f"embedding .* pad_vocab_size_multiple = {2**80}",
        ),
        ({"d_conv": 2**62}, f"conv1d .* d_conv = {2**62}"),
        ({"d_state": 2**62}, f"x_proj .* d_state = {2**62}"),
        ({"dt_rank": 2**62}, f"x_proj .* dt_rank = {2**62}"),
        ({"dt_init": "zero"}, "dt_init .* got 'zero'"),
        ({"norm_eps": 0.0}, "norm_eps .* got 0.0"),
        ({"norm_eps": math.nan}, "norm_eps .* got nan"),
        ({"bias": "yes"}, "bias .* got 'yes'"),
        ({"selective": ("A",)}, r"selective .* \('A',\)"),
        ({"pad_vocab_size_multiple": 0}, "pad_vocab_size_multiple .* got 0"),
    ],
)
def test_a_config_that_cannot_be(change, message, outside_tests):
    with pytest.raises(ValueError, match=message):
        MambaConfig(**{"d_model": 8, "n_layers": 1, "vocab_size": 5} | change)


def test_making_a_config_uses_up_no_chance():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    MambaConfig(8, 1, 5)
    assert torch.equal(torch.rand(3), expected)


# ---- Hand-over -------------------------------------------------------------


@given(
    batch=st.integers(1, 3), first=st.integers(1, 6), second=st.integers(1, 6)
)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_chunks_and_steps_give_what_the_whole_gives(batch, first, second):
    model = small_lm()
    ids = some_ids(batch, first + second)
    whole, last = model(ids, return_state=True)
    one, state = model(ids[:, :first], return_state=True)
    two, state = model(ids[:, first:], state, return_state=True)
    assert error(torch.cat([one, two], 1), whole) < RELATIVE
    for ours, theirs in zip(state, last, strict=True):
        assert error(ours.conv, theirs.conv) < RELATIVE
        assert error(ours.ssm, theirs.ssm) < RELATIVE
    only = model(ids, last_only=True)
    assert error(only, whole[:, -1:]) < RELATIVE

    state, logits = model.initial_state(batch), []
    for token in ids.unbind(1):
        logits_t, state = model.step(token, state)
        logits.append(logits_t)
    assert error(torch.stack(logits, 1), whole) < RELATIVE


def test_one_state_can_be_continued_in_several_ways():
    model = small_lm()
    _, state = model(some_ids(2, 5), return_state=True)
    token = torch.tensor([3, 4])
    first, _ = model.step(token, state)
    model.step(token + 1, state)
    again, new = model.step(token, state)
    assert torch.equal(first, again)
    with torch.no_grad():
        again, _ = model.step(token, state, in_place=True)
    assert torch.equal(first, again)
    for now, then in zip(state, new, strict=True):
        assert torch.equal(now.conv, then.conv)
        assert torch.equal(now.ssm, then.ssm)


def test_the_state_has_one_size_for_any_length():
    model = small_lm(d_model=8, d_state=3, d_conv=4, n_layers=2)

    def numbers(length):
        _, state = model(some_ids(1, length), return_state=True)
        return sum(t.numel() for layer in state for t in layer)

    # Per layer, d_inner times N states and d_conv - 1 inputs.
    assert numbers(1) == numbers(50) == 2 * 16 * (3 + 3)


def test_the_wrong_number_of_states_is_refused():
    model = small_lm()
    with pytest.raises(ValueError, match="2 layers.* got 1 states"):
        model(some_ids(1, 3), model.initial_state(1)[:1])
    with pytest.raises(ValueError, match="2 layers.* got 3 states"):
        model.step(some_ids(1, 1)[0], 3 * model.initial_state(1)[:1])


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[3, 1], [0, 13]], r"from 0 to 12; got 13 at index \(1, 1\)"),
        ([[-1, 3]], r"from 0 to 12; got -1 at index \(0, 0\)"),
        ([[], []], r"at least one token.* \(2, 0\)"),
    ],
)
def test_ids_that_the_model_does_not_have(ids, message):
    model, ids = small_lm(), torch.tensor(ids).long()
    with pytest.raises(ValueError, match=message):
        model(ids)
    if ids.numel():
        with pytest.raises(ValueError, match=message):
            model.generate(ids, 2)
        with pytest.raises(ValueError, match="from 0 to 12; got"):
            model.step(ids[-1, :], model.initial_state(2))


def test_a_state_of_another_batch_is_refused(outside_tests):
    model = small_lm()
    with pytest.raises(ValueError, match=r"\(2, 16, 3\); got \(3, 16, 3\)"):
        model(some_ids(2, 3), model.initial_state(3))
    with pytest.raises(ValueError, match=r"\(2, 16, 3\); got \(3, 16, 3\)"):
        model.step(torch.tensor([1, 2]), model.initial_state(3))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_logits_and_no_state(side):
    model, lengths, longest = small_lm(), [1, 3, 6], 6
    ids = some_ids(3, longest)
    mask = torch.zeros(3, longest, dtype=torch.bool)
    tokens = [
        slice(longest - n, None) if side == "left" else slice(0, n)
        for n in lengths
    ]
    for row, where in enumerate(tokens):
        mask[row, where] = True
    logits, state = model(ids, None, True, mask=mask)
    for row, where in enumerate(tokens):
        alone, own = model(ids[row : row + 1, where], return_state=True)
        assert error(logits[row : row + 1, where], alone) < RELATIVE
        for ours, theirs in zip(state, own, strict=True):
            assert error(ours.ssm[row : row + 1], theirs.ssm) < RELATIVE
            assert error(ours.conv[row : row + 1], theirs.conv) <= RELATIVE


def test_packed_sequences_do_not_see_each_other():
    model, lengths = small_lm(), [4, 1, 3]
    ids = some_ids(2, sum(lengths))
    reset = torch.zeros(2, sum(lengths), dtype=torch.bool)
    reset[:, [0, 4, 5]] = True
    packed = model(ids, reset=reset)
    alone = [model(part) for part in ids.split(lengths, 1)]
    assert error(packed, torch.cat(alone, 1)) < RELATIVE
    assert error(model(ids), packed) > 0.01


# ---- Generation ------------------------------------------------------------


def test_greedy_generation_is_the_likeliest_token_each_time():
    model, ids = small_lm(), some_ids(3, 4)
    expected = ids
    for _ in range(12):
        logits = model(expected)[:, -1, :13]
        expected = torch.cat([expected, logits.argmax(-1)[:, None]], 1)
    assert len(set(expected[:, 4:].flatten().tolist())) > 2
    assert torch.equal(model.generate(ids, 12), expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_left_padded_batch_generates_what_each_prompt_does(temperature):
    model, lengths, longest = small_lm(), [2, 5, 1, 5], 5
    ids = some_ids(4, longest)
    mask = torch.zeros(4, longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        mask[row, longest - length :] = True
    if temperature == 0:
        together = model.generate(ids, 20, mask=mask)
        alone = [
            model.generate(ids[row : row + 1, longest - n :], 20)
            for row, n in enumerate(lengths)
        ]
    else:  # The draws of a batch depend on its rows: so, one row at a time.
        alone, rows = [], []
        for row, n in enumerate(lengths):
            one = slice(row, row + 1)
            rows.append(
                model.generate(
                    ids[one], 20, 1.0, generator=seeded(row), mask=mask[one]
                )
            )
            alone.append(
                model.generate(
                    ids[one, longest - n :], 20, 1.0, generator=seeded(row)
                )
            )
        together = torch.cat(rows)
    for row, text in enumerate(alone):
        assert torch.equal(together[row, -20:], text[0, -20:])
    assert torch.equal(together[:, :longest], ids)


def test_no_token_of_the_padding_is_ever_generated():
    model = small_lm(tie_embeddings=False)
    with torch.no_grad():  # whatever the features are, one of these two wins
        model.lm_head.weight[13] = 1e3 * model.lm_head.weight[0]
        model.lm_head.weight[14] = -model.lm_head.weight[13]
    ids = some_ids(8, 3)
    assert (model(ids).argmax(-1) > 12).all()
    assert (model.generate(ids, 10) < 13).all()
    assert (model.generate(ids, 10, 5.0, generator=seeded()) < 13).all()


def test_generation_in_half_precision():
    model, ids = small_lm().to(torch.bfloat16), some_ids(2, 4)
    assert model.generate(ids, 5).shape == (2, 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert small_lm(torch.float32).generate(ids, 5).shape == (2, 9)


# ---- Precision and memory --------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_as_far_off_as_its_numbers(dtype):
    model, ids = small_lm(torch.float32), some_ids(2, 20)
    exact = model(ids)
    with torch.autocast("cpu", dtype):
        logits = model(ids)
        loss = F.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        )
    assert logits.dtype == dtype
    # Some ten roundings in a row, each of eps / 2 at most.
    assert error(logits, exact) < 5 * torch.finfo(dtype).eps
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("in_fp32", [True, False])
def test_the_residual_stream_is_float32_if_asked_for(in_fp32):
    model = small_lm(torch.bfloat16, residual_in_fp32=in_fp32)
    seen = []
    model.backbone.norm_f.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].dtype)
    )
    logits, state = model(some_ids(1, 4), return_state=True)
    model.step(torch.tensor([1]), state)
    assert seen == 2 * [torch.float32 if in_fp32 else torch.bfloat16]
    assert logits.dtype == torch.bfloat16
    assert small_lm()(some_ids(1, 2)).dtype == torch.float64


def saved_bytes(model, ids):
    """What a forward pass keeps for the backward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        logits = model(ids)
    return logits, sum(kept.values())


def test_activation_checkpointing_saves_memory_and_changes_nothing():
    plain, ids = small_lm(n_layers=4), some_ids(2, 64)
    thrifty = MambaLM(plain.config, activation_checkpointing=True).double()
    thrifty.load_state_dict(plain.state_dict())
    logits, bytes_plain = saved_bytes(plain, ids)
    again, bytes_thrifty = saved_bytes(thrifty, ids)
    assert torch.equal(logits, again)
    expected = gradients(logits, plain)
    for name, gradient in gradients(again, thrifty).items():
        assert error(gradient, expected[name]) < RELATIVE
    # What is left: one (batch, length, d_model) per layer, and the head's.
    assert bytes_thrifty < bytes_plain / 4


def test_gradients_flow_through_a_handed_over_state():
    model, ids = small_lm(), some_ids(2, 8)
    whole = gradients(model(ids), model)
    one, state = model(ids[:, :3], return_state=True)
    two = model(ids[:, 3:], state)
    for name, gradient in gradients(torch.cat([one, two], 1), model).items():
        assert error(gradient, whole[name]) < RELATIVE, name


# ---- Other devices ---------------------------------------------------------


def test_every_tensor_is_made_where_the_inputs_are():
    # The meta device stands for any that is not the CPU: what is made on the
    # CPU by oversight does not mix with it. PyTorch has no autocast for it.
    with torch.device("meta"):
        model = MambaLM(small_lm().config, backend="chunked")
    ids = some_ids(2, 5).to("meta")
    mask = torch.ones(2, 5, dtype=torch.bool, device="meta")
    with recorded_scans(model) as scans:
        _, state = model(ids, return_state=True)
        model(ids, state, mask=mask)
        logits = model(ids, state, reset=mask)
    assert logits.is_meta
    logits, state = model.step(ids[:, 0], model.initial_state(2))
    assert logits.is_meta
    assert all(t.is_meta for layer in state for t in layer)
    assert all(
        t.device.type == "cpu" for t in model.initial_state(2, "cpu")[0]
    )
    record = scans["backbone.layers.1.mixer"][2]
    assert record.h.is_meta
    assert record.attention().shape == (2, 16, 5, 5)


# ---- torch.compile ---------------------------------------------------------

COMPILED = """
import torch
from mambaviz.models import MambaBlock, MambaConfig, MambaLM

torch.manual_seed(0)
ids = torch.arange(18).reshape(2, 9) % 13


def compare(model, *arguments, **options):
    model.zero_grad()
    logits = model(*arguments, **options)
    logits.square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    again, _ = compiled(*arguments, return_state=True, **options)
    again.square().mean().backward()
    assert torch.allclose(again, logits, rtol=1e-5, atol=1e-6)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, gradient, rtol=1e-4, atol=1e-7)


def compare_step(model, ids, state):
    model.zero_grad()
    logits, after = model.step(ids, state)
    logits.square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    step = torch.compile(model.step, fullgraph=True, backend="aot_eager")
    again, later = step(ids, state)
    again.square().mean().backward()
    assert torch.allclose(again, logits, rtol=1e-5, atol=1e-6)
    for h, other in zip(later, after, strict=True):
        for t, wanted in zip(h, other, strict=True):
            assert torch.allclose(t, wanted, rtol=1e-5, atol=1e-6)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, gradient, rtol=1e-4, atol=1e-7)


config = MambaConfig(8, 1, 13, d_state=3)
for backend in ("chunked", "reference", "associative"):
    compare(MambaLM(config, backend=backend), ids)
model = MambaLM(config)
_, state = model(ids, return_state=True)
state = tuple(type(h)(*(t.detach() for t in h)) for h in state)
compare(model, ids, state)
compare_step(model, ids[:, 0], state)
compare(model, ids, mask=ids != 0)
compare(model, ids, reset=ids == 0)
compare(MambaBlock(8, 3), torch.randn(2, 5, 8))
print("no graph break")
"""


def test_a_compiled_forward_pass_has_no_graph_break():
    # In a process of its own: the shape checks of the tests are not Python
    # that a compiler could read.
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True
    )
    assert done.stdout.strip() == "no graph break", done.stderr[-3000:]


def test_importing_the_models_imports_no_compiler():
    # It takes a second, and a reader of the book has no use for it.
    program = "import sys, mambaviz.models; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "mambaviz.models" in loaded, done.stderr
    heavy = {"torch._dynamo", "triton", "numba", "transformers", "matplotlib"}
    assert not loaded & heavy


def test_the_backend_reaches_every_scan():
    other = small_lm()
    by_loop = MambaLM(other.config, backend="reference").double()
    assert {
        module.backend
        for module in by_loop.modules()
        if isinstance(module, SelectiveScan)
    } == {"reference"}
    by_loop.load_state_dict(other.state_dict())
    assert error(by_loop(some_ids(2, 9)), other(some_ids(2, 9))) < RELATIVE


def test_logits_of_a_nan_are_nan_and_only_from_there_on():
    model, ids = small_lm(), some_ids(1, 6)
    ids[0, 3], ids[0, [0, 1, 2, 4, 5]] = 12, torch.tensor([0, 1, 2, 3, 4])
    expected = model(ids)
    with torch.no_grad():
        model.backbone.embedding.weight[12, 0] = math.nan
    logits = model(ids)[..., :12]
    assert torch.equal(logits[:, :3], expected[:, :3, :12])
    assert logits[:, 3:].isnan().all()


def test_logits_do_not_depend_on_later_tokens():
    model, ids = small_lm(), some_ids(2, 7)
    other = ids.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 13
    assert torch.equal(model(ids)[:, :5], model(other)[:, :5])
    assert error(model(ids)[:, 5:], model(other)[:, 5:]) > 0.01
