"""Steps as a CUDA graph: what plain stepping gives."""

import threading
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from mambaviz.models import RNNLM, CapturedStep, MambaConfig, MambaLM, sampling
from mambaviz.models.captured import (
    can_capture,
    has_hooks,
    lasting,
    overwrite,
)

ON_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU"
)


def small(device: str = "cpu") -> MambaLM:
    torch.manual_seed(0)
    config = MambaConfig(d_model=32, n_layers=2, vocab_size=50)
    return MambaLM(config).to(device).eval()


def begun(batch: int, length: int) -> tuple:
    """On a GPU a model, tokens, its captured step, and a state."""
    model = small("cuda")
    ids = torch.randint(50, (batch, length), device="cuda")
    return model, ids, CapturedStep(model), model.initial_state(batch)


def test_it_needs_a_gpu():
    model = small()
    step = CapturedStep(model)
    with pytest.raises(ValueError, match="needs a GPU; got ids on cpu"):
        step(torch.tensor([1]), model.initial_state(1))
    assert not can_capture(model, torch.tensor([[1]]))


def test_a_state_is_written_over_as_a_whole_or_not_at_all():
    a, b = torch.zeros(3, 2), torch.ones(3, 2)
    overwrite((a, b), (torch.full((3, 2), 5), a))  # as in a delay line
    assert (a == 5).all()
    assert (b == 0).all()
    with pytest.raises(ValueError, match=r"\(3, 2\); got \(1, 2\)"):
        overwrite((a, b), (torch.ones(3, 2), torch.ones(1, 2)))
    assert (a == 5).all()
    assert (b == 0).all()


@torch.no_grad()
def test_what_is_captured_reads_no_cast_that_autocast_frees():
    linear, x = nn.Linear(2, 2), torch.ones(1, 2)
    with torch.autocast("cpu"):
        before = linear(x)
        linear.weight.fill_(5)
        linear.bias.fill_(0)
        assert torch.equal(linear(x), before)  # of the cached casts
        with lasting():
            assert (linear(x) == 10).all()
        assert torch.equal(linear(x), before)
    assert (linear(x) == 10).all()


@torch.inference_mode()
def test_what_is_made_in_inference_mode_is_not_bound_to_it():
    model, ids = small(), torch.tensor([1, 2])
    assert ids.is_inference()
    assert model.lm_head.weight.is_inference()
    with lasting():
        assert not torch.is_grad_enabled()
        held = ids.clone()
        state = model.initial_state(2)
        logits, after = model.step(held, state, in_place=True)
        assert after[0].ssm is state[0].ssm
    with torch.inference_mode(False), torch.no_grad():
        held.copy_(ids)
        overwrite(state, model.initial_state(2))
        expected, _ = model.step(held, state)
    assert torch.equal(logits, expected)


class Recurrence(nn.Module):
    """A sum, by a step that notes the modes it runs in."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def step(self, ids, state):
        self.modes += [
            torch.is_inference_mode_enabled(),
            torch.is_grad_enabled(),
            torch.is_autocast_cache_enabled(),
        ]
        return state[0], (state[0] + ids,)


@pytest.fixture
def without_a_gpu(monkeypatch):
    """Nothing of CUDA does anything: a step is taken where it is captured."""
    monkeypatch.setattr(torch, "cuda", MagicMock())


@pytest.mark.usefixtures("without_a_gpu", "outside_tests")
def test_a_captured_step_is_bound_to_no_mode_and_to_its_shapes():
    model = Recurrence()
    step = CapturedStep(model)
    with torch.inference_mode():
        ids, state = torch.tensor([1, 2]), (torch.zeros(2),)
        step._capture(ids, state)
    assert model.modes == [False, False, False] * 2
    assert step._state[0].tolist() == [2, 4]
    step._ids.copy_(ids)  # as the next call does
    on_gpu = SimpleNamespace(is_cuda=True, shape=ids.shape)
    with pytest.raises(ValueError, match=r"shapes: \(2,\); got \(1,\)"):
        step(on_gpu, (torch.zeros(1),))
    with pytest.raises(ValueError, match=r"shapes: \(1,\); got \(2,\)"):
        CapturedStep(model)._capture(ids, (torch.zeros(1),))


@pytest.mark.parametrize(
    "register",
    [register_module_forward_hook, register_module_forward_pre_hook],
)
def test_a_hook_on_every_module_is_one_on_this(register):
    model = small()
    assert not has_hooks(model)
    handle = register(lambda *a: None)
    try:
        assert has_hooks(model)
    finally:
        handle.remove()
    assert not has_hooks(model)


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook"])
def test_a_hook_on_a_part_is_one_on_the_model(kind):
    model = small()
    part = model.backbone.layers[0]
    handle = getattr(part, f"register_{kind}")(lambda *a: None)
    assert has_hooks(model)
    handle.remove()
    assert not has_hooks(model)


@ON_GPU
@torch.no_grad()
def test_it_steps_as_the_model_does():
    model, ids, step, state = begun(3, 20)
    captured = state
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
    with pytest.raises(ValueError, match=r"must keep their shapes: \(2, "):
        step(ids, model.initial_state(1))


@ON_GPU
@torch.no_grad()
def test_a_step_captured_under_autocast_outlives_it():
    model, ids, step, state = begun(3, 9)
    captured = model.initial_state(3)
    taken = []
    for k in range(9):
        with torch.autocast("cuda", torch.bfloat16):
            expected, _ = model.step(ids[:, k], state, in_place=True)
            inside = k % 2 == 0
            if inside:
                found, captured = step(ids[:, k], captured)
        # The memory of the casts goes to others.
        taken += [
            torch.full_like(p, torch.nan, dtype=torch.bfloat16)
            for p in model.parameters()
        ]
        if not inside:
            found, captured = step(ids[:, k], captured)
        assert torch.equal(found, expected)


@ON_GPU
@pytest.mark.parametrize("first", [True, False])
@torch.no_grad()
def test_calls_in_inference_mode_and_outside_go_together(first):
    model, ids, step, state = begun(3, 6)
    captured = state
    for k in range(6):
        expected, state = model.step(ids[:, k], state)
        with torch.inference_mode((k % 2 == 0) == first):
            if k == 3:  # a copy, of this mode
                captured = tuple(
                    type(layer)(*(part.clone() for part in layer))
                    for layer in captured
                )
            found, captured = step(ids[:, k].clone(), captured)
        assert torch.equal(found, expected)


@ON_GPU
def test_another_thread_may_take_memory_meanwhile():
    """As that of a DataLoader does, which pins it."""
    model = small("cuda")
    ids = torch.randint(50, (2, 7), device="cuda")
    text = model.generate(ids, 30)
    done, pinned, broken = threading.Event(), [], []

    def pin():
        try:
            while not done.is_set():
                pinned.append(torch.empty(1024, pin_memory=True))
        except RuntimeError as error:
            broken.append(error)

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        texts = [model.generate(ids, 30) for _ in range(5)]
    finally:
        done.set()
        thread.join()
    assert not broken
    assert pinned
    assert all(torch.equal(other, text) for other in texts)


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
    handle = register_module_forward_hook(lambda *a: None)
    assert not can_capture(model, ids)
    handle.remove()
    assert not can_capture(RNNLM(50, 8, 8).cuda(), ids)
