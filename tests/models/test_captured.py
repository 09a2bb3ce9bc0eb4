"""Steps as a CUDA graph: what plain stepping gives."""

import pytest
import torch

from mambaviz.models import RNNLM, CapturedStep, MambaConfig, MambaLM, sampling
from mambaviz.models.captured import can_capture

ON_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU"
)


def small(device: str = "cpu") -> MambaLM:
    torch.manual_seed(0)
    config = MambaConfig(d_model=32, n_layers=2, vocab_size=50)
    return MambaLM(config).to(device).eval()


def test_it_needs_a_gpu():
    model = small()
    step = CapturedStep(model)
    with pytest.raises(ValueError, match="needs a GPU; got ids on cpu"):
        step(torch.tensor([1]), model.initial_state(1))
    assert not can_capture(model, torch.tensor([[1]]))


@ON_GPU
@torch.no_grad()
def test_it_steps_as_the_model_does():
    model = small("cuda")
    ids = torch.randint(50, (3, 20), device="cuda")
    step = CapturedStep(model)
    state = captured = model.initial_state(3)
    for k in range(20):
        logits, state = model.step(ids[:, k], state)
        found, captured = step(ids[:, k], captured)
        assert torch.equal(found, logits)


@ON_GPU
@torch.no_grad()
def test_it_goes_on_from_another_state():
    model = small("cuda")
    ids = torch.tensor([4, 5], device="cuda")
    step = CapturedStep(model)
    step(ids, model.initial_state(2))
    _, other = model(torch.randint(50, (2, 9), device="cuda"), None, True)
    kept = [part.clone() for layer in other for part in layer]
    expected, _ = model.step(ids, other)
    found, _ = step(ids, other)
    assert torch.equal(found, expected)
    now = [part for layer in other for part in layer]
    assert all(map(torch.equal, now, kept))
    with pytest.raises(ValueError, match=r"captured for ids of shape \(2,\)"):
        step(ids[:1], other)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_each_model_steps_on_its_own_gpu():
    text = {}
    for gpu in ("cuda:0", "cuda:1", "cuda:0"):
        model = small(gpu)
        ids = torch.arange(14, device=gpu).view(2, 7)
        text[gpu] = model.generate(ids, 30)
        assert text[gpu].device == torch.device(gpu)
        assert torch.cuda.current_device() == 0
    assert torch.equal(text["cuda:0"].cpu(), text["cuda:1"].cpu())


@ON_GPU
def test_padding_before_a_prompt_leaves_a_state_of_another_layout(
    monkeypatch,
):
    """For which the kernels are compiled anew, and not within the graph."""
    torch.manual_seed(0)
    config = MambaConfig(d_model=40, n_layers=2, vocab_size=50)
    model = MambaLM(config).cuda().eval()
    ids = torch.randint(50, (3, 7), device="cuda")
    mask = torch.ones_like(ids).bool()
    mask[1, :4] = False
    with_graph = model.generate(ids, 30, mask=mask)
    monkeypatch.setattr(sampling, "CAPTURE_FROM", 1000)
    assert torch.equal(model.generate(ids, 30, mask=mask), with_graph)


@ON_GPU
@torch.no_grad()
def test_a_model_that_cannot_write_over_its_state_is_captured_too():
    torch.manual_seed(0)
    model = RNNLM(50, 8, 8).cuda().eval()
    ids = torch.randint(50, (3, 5), device="cuda")
    step = CapturedStep(model)
    _, state = model(ids[:, :1], None, True)
    captured = state
    for k in range(1, 5):
        logits, state = model.step(ids[:, k], state)
        found, captured = step(ids[:, k], captured)
        torch.testing.assert_close(found, logits)


@ON_GPU
def test_generation_is_the_same_with_and_without(monkeypatch):
    model = small("cuda")
    ids = torch.randint(50, (2, 7), device="cuda")
    calls = []
    monkeypatch.setattr(
        sampling,
        "CapturedStep",
        lambda m: calls.append(m) or CapturedStep(m),
    )
    with_graph = model.generate(ids, 30)
    assert calls == [model]
    monkeypatch.setattr(sampling, "CAPTURE_FROM", 1000)
    assert torch.equal(model.generate(ids, 30), with_graph)
    assert calls == [model]


@ON_GPU
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("tokens", [4, 30])  # without a graph, and with one
def test_broken_weights_are_an_error_after_which_the_gpu_goes_on(
    temperature, tokens
):
    model = small("cuda")
    ids = torch.randint(50, (2, 7), device="cuda")
    text = model.generate(ids, tokens)
    weight = model.lm_head.weight[3]
    kept = weight.clone()
    weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="step 0, .* of row 0 is nan"):
        model.generate(ids, tokens, temperature)
    weight.data.copy_(kept)
    assert torch.equal(model.generate(ids, tokens), text)


@ON_GPU
def test_what_a_graph_cannot_do_is_not_captured():
    model, ids = small("cuda"), torch.tensor([[1]], device="cuda")
    assert can_capture(model, ids)
    handle = model.backbone.layers[0].register_forward_hook(lambda *a: None)
    assert not can_capture(model, ids)
    handle.remove()
    assert can_capture(model, ids)
    assert not can_capture(RNNLM(50, 8, 8).cuda(), ids)
