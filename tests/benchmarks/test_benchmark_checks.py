"""What the benchmarks compare before they time: a wrong result is found."""

import contextlib
import functools
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map

from benchmarks import language_models, selective_scan
from benchmarks.language_models import SMALL_VOCABULARY, RoomyTransformer
from benchmarks.selective_scan import (
    COLUMNS,
    Shape,
    by_associative_scan,
    check,
    make_inputs,
    peer_row,
)
from mambaviz.models import MambaLM, TransformerLM, sampling
from mambaviz.models.captured import overwrite
from mambaviz.ops import causal_conv1d, rms_norm

ROOT = Path(__file__).parents[2]
SMALL = Shape(batch=2, d_inner=6, length=37, d_state=3, dtype="float32")
GENERIC = functools.partial(by_associative_scan, combine_mode="generic")
ON_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU"
)


@pytest.fixture(autouse=True)
def same_gradients():
    """In sums as short as these, luck decides by how much each one errs."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def one_thread():
    """Of what is so small, threads on a busy machine only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def copies(monkeypatch):
    """At a rate that needs no GPU."""
    monkeypatch.setattr(selective_scan, "copy_rate", lambda: 3e12)


def never(work):
    raise AssertionError("it was timed")


def as_dict(row):
    return dict(zip(COLUMNS, row, strict=True))


# ---- The scan and its peers -------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_associative_scan_is_the_scan(dtype):
    shape = SMALL._replace(dtype=dtype)
    inputs = make_inputs(shape, device="cpu")
    assert check(GENERIC, inputs, shape, backward=True) > 0


def test_in_float64_it_is_so_to_the_last_digits():
    """The check in the benchmark allows twice the error of float32."""
    inputs = make_inputs(SMALL, device="cpu")
    inputs = selective_scan.in_float(inputs, torch.float64)
    y = GENERIC(**inputs)
    expected = selective_scan.by("reference")(**inputs)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_a_scan_that_composes_wrongly_is_refused(monkeypatch):
    monkeypatch.setattr(
        selective_scan,
        "compose",
        lambda first, second: (
            first[0] * second[0],
            first[0] * first[1] + second[1],
        ),
    )
    inputs = make_inputs(SMALL, device="cpu")
    with pytest.raises(RuntimeError, match="y is off by"):
        check(GENERIC, inputs, SMALL, backward=False)
    row = peer_row(
        "a peer",
        SMALL,
        "forward",
        functools.partial(check, GENERIC, inputs, SMALL, False),
        lambda: None,
        never,
    )
    assert "y is off by" in as_dict(row)["refused"]


def test_what_a_library_cannot_is_in_its_row():
    """Pointwise it is for a GPU only; the row says so and has no time."""
    inputs = make_inputs(SMALL, device="cpu")
    scan = by_associative_scan
    row = as_dict(
        peer_row(
            "associative_scan, compiled",
            SMALL,
            "forward",
            functools.partial(check, scan, inputs, SMALL, False),
            functools.partial(scan, **inputs),
            never,
        )
    )
    assert row["refused"].startswith("ValueError: For combine_mode")
    assert row["median_ms"] is row["p10_ms"] is row["p90_ms"] is None
    assert row["relative_error"] is row["peak_memory_mib"] is None
    assert row["floor_ms"] > 0
    json.dumps(row)  # as the figures are kept


@pytest.mark.parametrize(
    ("device", "name"),
    [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200")],
)
def test_a_record_is_of_one_kind_of_gpu(device, name):
    assert selective_scan.gpu_of(device) == name


def test_a_reason_is_one_line_and_not_long():
    def fail():
        raise MemoryError("in\n  /opt/some/where/scan.py: " + 500 * "a")

    refused = peer_row("a peer", SMALL, "forward", fail, fail, never)[-1]
    assert refused.startswith("MemoryError: in scan.py: aaa")
    assert len(refused) == 200


def test_what_agrees_has_its_error_and_is_timed(monkeypatch):
    monkeypatch.setattr(selective_scan, "peak_mib", lambda work: 7.0)
    row = as_dict(
        peer_row(
            "a peer", SMALL, "forward", lambda: 0.5, None, lambda w: (2, 1, 3)
        )
    )
    figures = row["median_ms"], row["p10_ms"], row["p90_ms"]
    assert figures == (2, 1, 3)
    assert (row["peak_memory_mib"], row["relative_error"]) == (7.0, 0.5)
    assert row["refused"] is None


@pytest.mark.parametrize("length", [5, 150])
def test_attention_and_convolution_are_compared(length, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, length, 8, generator=generator)
    assert selective_scan.check_attention(q, k, v) < 1e-6
    monkeypatch.setattr(
        selective_scan, "attend", F.scaled_dot_product_attention
    )
    with pytest.raises(RuntimeError, match="attention is off by"):
        selective_scan.check_attention(q, k, v)
    signal = torch.randn(1, 3, length, generator=generator)
    kernel = torch.randn(3, length, generator=generator)
    assert selective_scan.check_convolution(signal, kernel) < 1e-6

    def around(signal, kernel):
        product = torch.fft.rfft(signal) * torch.fft.rfft(kernel)
        return torch.fft.irfft(product, n=length)

    monkeypatch.setattr(selective_scan, "convolve", around)
    with pytest.raises(RuntimeError, match="convolution is off by"):
        selective_scan.check_convolution(signal, kernel)


@pytest.fixture
def in_stretches(monkeypatch):
    """SMALL is too long to be judged at once: stretches of 8 steps."""
    monkeypatch.setattr(selective_scan, "LONGEST_JUDGED", 8)
    monkeypatch.setattr(selective_scan, "STRETCH", 8 * 2 * 6 * 3)


def test_stretches_are_the_whole(in_stretches):
    inputs = make_inputs(SMALL, device="cpu")
    inputs = selective_scan.in_float(inputs, torch.float64)
    grad = torch.randn_like(inputs["x"])
    found = selective_scan.run_in_stretches(inputs, grad)
    expected = selective_scan.run(selective_scan.by("reference"), inputs, grad)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    (y,) = selective_scan.run_in_stretches(inputs, None).values()
    assert torch.equal(y, found["y"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["x", "A", "C"])
def test_gradients_of_long_sequences_are_compared(name, dtype, in_stretches):
    """Values alone do not show that a gradient is too large."""

    def scan(**inputs):
        inputs[name] = inputs[name].clone()
        if inputs[name].requires_grad:
            inputs[name].register_hook(lambda grad: 1.2 * grad)
        return GENERIC(**inputs)

    shape = SMALL._replace(dtype=dtype)
    inputs = make_inputs(shape, device="cpu")
    assert check(GENERIC, inputs, shape, backward=True) > 0
    assert check(scan, inputs, shape, backward=False) > 0
    with pytest.raises(RuntimeError, match=f"{name} is off by"):
        check(scan, inputs, shape, backward=True)


def official_kernel(spoiled=None):
    """The module's two functions in PyTorch, (batch, channel, length)."""

    def scan(u, delta, A, B, C, D, z, bias):
        u, delta, z, B, C = (w.mT for w in (u, delta, z, B[:, 0], C[:, 0]))
        plainly = selective_scan.by("reference")
        return plainly(u, delta, A, B, C, D, z, bias).mT

    def fwd(*tensors_and_softplus):
        y = scan(*tensors_and_softplus[:-1])
        return y, None, y

    def bwd(u, delta, A, B, C, D, z, bias, grad, states, out, *flags):
        leaves = [
            w.detach().requires_grad_()
            for w in (u, delta, A, B, C, D, bias, z)
        ]
        *others, bias, z = leaves
        grads = torch.autograd.grad(scan(*others, z, bias), leaves, grad)
        names = ("x", "delta", "A", "B", "C", "D", "delta_bias", "z")
        return [
            1.1 * g if name == spoiled else g
            for name, g in zip(names, grads, strict=True)
        ]

    return SimpleNamespace(fwd=fwd, bwd=bwd)


@pytest.fixture
def on_a_cpu(monkeypatch):
    """``measure_shape`` without a clock, and with a rung that runs here."""
    # The true one may be there, and wants a GPU.
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", None)

    def ours(inputs, grad):
        scan = selective_scan.by("reference")
        return [
            functools.partial(selective_scan.run, scan, inputs, g)
            for g in (None, grad)
        ]

    make = functools.partial(make_inputs, device="cpu")
    monkeypatch.setattr(selective_scan, "make_inputs", make)
    monkeypatch.setattr(selective_scan, "fused", ours)
    monkeypatch.setattr(selective_scan, "time_ms", lambda work: (2, 1, 3))
    monkeypatch.setattr(selective_scan, "peak_mib", lambda work: 7.0)


def test_every_row_says_how_much_it_errs(on_a_cpu, in_stretches, monkeypatch):
    kernel = official_kernel()
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", kernel)
    rows = [as_dict(row) for row in selective_scan.measure_shape(SMALL)]
    assert [(row["what"], row["mode"]) for row in rows] == [
        (what, mode)
        for what in ("fused", "official")
        for mode in ("forward", "forward + backward")
    ]
    for row in rows:
        assert 0 < row["relative_error"] < 1e-6


@pytest.mark.parametrize("mode", ["forward", "forward + backward"])
def test_what_differs_from_run_to_run_is_not_timed(
    mode, on_a_cpu, monkeypatch
):
    """By a bit of one number, which no error would show."""
    fused, runs = selective_scan.fused, itertools.count()

    def ours(inputs, grad):
        forward, both = fused(inputs, grad)

        def racing(work=forward if mode == "forward" else both):
            found = work()
            if next(runs):
                y = found["y"].view(-1)
                y[7] = torch.nextafter(y[7], y[7] + 1)
            return found

        return (racing, both) if mode == "forward" else (forward, racing)

    monkeypatch.setattr(selective_scan, "fused", ours)
    monkeypatch.setattr(selective_scan, "time_ms", never)
    with pytest.raises(RuntimeError, match="y differs from run to run"):
        selective_scan.measure_shape(SMALL)


@pytest.mark.parametrize("spoiled", ["x", "B", "A"])
def test_a_wrong_official_gradient_is_not_timed(
    spoiled, on_a_cpu, monkeypatch
):
    kernel = official_kernel(spoiled)
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", kernel)
    monkeypatch.setattr(selective_scan, "time_ms", never)
    with pytest.raises(RuntimeError, match=f"official {spoiled} is off by"):
        selective_scan.measure_shape(SMALL)


@pytest.fixture
def one_run(on_a_cpu, monkeypatch):
    """A run of all parts, or until one breaks off, of SMALL and a longer."""
    longer = SMALL._replace(length=2 * SMALL.length)

    def measured(out, parts, broken=None):
        def rows(case):
            if case == broken:
                raise KeyboardInterrupt
            return selective_scan.measure_shape(case)

        monkeypatch.setattr(
            selective_scan,
            "PARTS",
            {"shapes": (rows, [SMALL, longer]), "memory": (rows, [SMALL])},
        )
        with contextlib.suppress(KeyboardInterrupt):
            selective_scan.measure(parts, out)
        return json.loads(out.read_text())

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA T1")
    monkeypatch.setitem(
        sys.modules, "triton", SimpleNamespace(__version__="3")
    )
    return measured, longer


def together(*runs):
    parts, key = selective_scan.PARTS, selective_scan.KEY
    return selective_scan.together(runs, parts, key)


def test_a_run_that_was_cut_short_loses_no_row(one_run, tmp_path):
    """And another run of what was left makes it whole."""
    measured, longer = one_run
    first = measured(tmp_path / "1.json", ["shapes", "memory"], longer)
    assert [row[1:6] for row in first["rows"]] == [[*SMALL]] * 2
    assert first["cut_short"] == ["shapes", "memory"]
    assert together(first)["cut_short"] == first["cut_short"]
    second = measured(tmp_path / "2.json", ["shapes"])
    assert second["cut_short"] == []
    both = together(first, second)
    assert both["cut_short"] == ["memory"]
    assert both["parts"] == ["shapes", "memory"]
    assert both["runs"] == [["shapes", "memory"], ["shapes"]]
    # Of what was measured twice, the later.
    assert both["rows"] == second["rows"]
    assert [row[1:6] for row in both["rows"]] == [
        [*shape] for shape in (SMALL, SMALL, longer, longer)
    ]


@pytest.mark.parametrize("key", ["device", "software"])
def test_runs_of_different_machines_make_no_record(key, one_run, tmp_path):
    measured, _ = one_run
    run = measured(tmp_path / "1.json", ["memory"])
    with pytest.raises(ValueError, match=f"have the same {key}; got"):
        together(run, run | {key: "another"})


@pytest.mark.parametrize("times", [[1, 2, 3, 4, 5], [9, 7, 7.5, 7, 8]])
def test_percentiles_lie_among_the_times(times):
    """Also those of five."""
    median, low, high = selective_scan.spread(times)
    assert min(times) <= low <= median <= high <= max(times)
    assert selective_scan.spread([1, 2, 3, 4, 5]) == (3, 1.4, 4.6)


@pytest.fixture
def rungs(on_a_cpu, monkeypatch):
    """What is timed of the rungs, at sizes of a CPU."""
    timed = []

    def clock(work):
        timed.append(work)
        return 2, 1, 3

    monkeypatch.setattr(selective_scan, "SMALL", SMALL)
    monkeypatch.setattr(selective_scan, "time_eagerly_ms", clock)
    return timed


def test_every_rung_is_judged(rungs):
    rows = [as_dict(row) for row in selective_scan.measure_rungs(37)]
    names = ["chunked", "associative", "reference"]
    assert [row["what"] for row in rows] == names
    assert all(0 < row["relative_error"] < 1e-6 for row in rows)
    assert len(rungs) == 3
    # Longer ones would be judged by the associative scan alone.
    assert (
        selective_scan.measure_rungs(selective_scan.LONGEST_JUDGED + 1) == []
    )


@pytest.mark.parametrize(
    ("wrong", "before"), [("chunked", 0), ("associative", 1), ("reference", 0)]
)
def test_no_rung_judges_itself(wrong, before, rungs, monkeypatch):
    """A wrong judge refuses what is right; nothing wrong is timed."""
    scan = selective_scan.selective_scan

    def spoiled(*tensors, backend, **options):
        y = scan(*tensors, backend=backend, **options)
        return 1.5 * y if backend == wrong else y

    monkeypatch.setattr(selective_scan, "selective_scan", spoiled)
    with pytest.raises(RuntimeError, match="y is off by"):
        selective_scan.measure_rungs(37)
    assert len(rungs) == before


@ON_GPU
def test_compiled_it_is_the_scan():
    shape = SMALL._replace(d_inner=64, length=300, d_state=16)
    scan = torch.compile(by_associative_scan, fullgraph=True, dynamic=False)
    assert check(scan, make_inputs(shape), shape, backward=False) < 1e-5


# ---- Generation -------------------------------------------------------------


@pytest.fixture
def graphs(monkeypatch):
    """What a CUDA graph does, on a CPU: the models that have one."""
    made = []

    class Replayed:
        """Its first step spoils its own state, as that of a capture does."""

        def __init__(self, model):
            made.append(model)
            self.model, self.state = model, None

        def __call__(self, ids, state):
            if self.state is None:
                self.state = tree_map(torch.clone, state)
                self.logits, _ = self.model.step(
                    ids, self.state, in_place=True
                )
            if state is not self.state:
                self.set_back(state)
            logits, _ = self.model.step(ids, self.state, in_place=True)
            self.logits.copy_(logits)  # where the last ones were
            return self.logits, self.state

        def set_back(self, state):
            overwrite(self.state, state)

    monkeypatch.setattr(
        sampling,
        "can_capture",
        lambda model, ids: getattr(model, "constant_state", False),
    )
    monkeypatch.setattr(sampling, "CapturedStep", Replayed)
    return made


def test_each_way_to_generate_agrees():
    language_models.check_generation("cpu")


def test_of_a_graph_it_is_the_graph_that_is_compared(graphs, monkeypatch):
    language_models.check_generation("cpu")
    kinds = [type(model) for model in graphs]
    assert kinds == [MambaLM] * 3 + [RoomyTransformer] * 4
    monkeypatch.setattr(
        sampling.CapturedStep, "set_back", lambda self, state: None
    )
    with pytest.raises(RuntimeError, match="Mamba is off by"):
        language_models.check_generation("cpu")


def test_reading_a_prompt_makes_no_graph(graphs):
    """As with Mamba; its time is in the same record."""
    _, model = language_models.small_pair("Transformer", "cpu")
    ids = torch.randint(SMALL_VOCABULARY, (2, 5))
    roomy = RoomyTransformer(model, 2, 5 + 24, True)
    read = roomy.generate(ids, 1)
    assert graphs == []
    more = roomy.generate(ids, 24)
    assert graphs == [roomy]
    assert more[:, :6].equal(read)


def spoil_step(kind, spoil, monkeypatch):
    """Let ``spoil`` change what a step leaves behind."""
    step = kind.step

    def spoiled(self, ids, state, **options):
        logits, after = step(self, ids, state, **options)
        return logits, spoil(self, state, after)

    monkeypatch.setattr(kind, "step", spoiled)


def forget(self, before, after):
    for cache in self.caches:
        cache.k.zero_(), cache.v.zero_()
    return after


def stand_still(self, before, after):
    return before


def lose(self, before, after):
    return tree_map(torch.zeros_like, after)


@pytest.mark.parametrize(
    ("kind", "spoil", "named"),
    [
        (RoomyTransformer, forget, "in its room, by SDPA is off"),
        (RoomyTransformer, stand_still, "in its room, by SDPA is off"),
        (TransformerLM, stand_still, "Transformer is off"),
        (MambaLM, stand_still, "Mamba is off"),
        (MambaLM, lose, "Mamba is off"),
    ],
)
def test_a_model_that_loses_its_state_is_refused(
    kind, spoil, named, monkeypatch
):
    spoil_step(kind, spoil, monkeypatch)
    with pytest.raises(RuntimeError, match=f"{named} by .*not timed"):
        language_models.check_generation("cpu")


def test_a_wrong_attention_by_products_is_refused(monkeypatch):
    def wrongly(self, *arguments, softmax=torch.Tensor.softmax, **options):
        with monkeypatch.context() as patch:
            patch.setattr(
                torch.Tensor, "softmax", lambda s, d: softmax(1.01 * s, d)
            )
            return step(self, *arguments, **options)

    step = RoomyTransformer.step
    monkeypatch.setattr(RoomyTransformer, "step", wrongly)
    with pytest.raises(RuntimeError, match="in its room, by products is off"):
        language_models.check_generation("cpu")


def test_a_wrong_prompt_is_refused(monkeypatch):
    forward = RoomyTransformer.forward

    def spoiled(self, *arguments, **options):
        logits, state = forward(self, *arguments, **options)
        return 1.001 * logits, state

    monkeypatch.setattr(RoomyTransformer, "forward", spoiled)
    with pytest.raises(RuntimeError, match="in its room, by SDPA is off"):
        language_models.check_generation("cpu")


@pytest.mark.parametrize("kind", [MambaLM, TransformerLM, RoomyTransformer])
def test_a_wrong_token_is_refused(kind, monkeypatch):
    generate = kind.generate

    def spoiled(*arguments):
        tokens = generate(*arguments)
        tokens[1, -1] = (tokens[1, -1] + 1) % SMALL_VOCABULARY
        return tokens

    monkeypatch.setattr(kind, "generate", spoiled)
    with pytest.raises(RuntimeError, match="not the likeliest tokens; not"):
        language_models.check_generation("cpu")


def test_other_logits_of_mamba_in_a_second_run_are_refused(monkeypatch):
    runs, by_steps = itertools.count(), language_models.logits_by_steps

    def racing(model, *arguments):
        found = by_steps(model, *arguments)
        return found.nextafter(found + next(runs))

    monkeypatch.setattr(language_models, "logits_by_steps", racing)
    with pytest.raises(RuntimeError, match="Mamba differs in a second run"):
        language_models.check_generation("cpu")


@pytest.mark.parametrize("kind", ["Mamba", "Transformer"])
def test_a_text_of_one_word_shows_nothing(kind):
    """Which is what small models write with their first weights."""
    ours, plain = language_models.small_pair(kind, "cpu")
    plain.load_state_dict(ours.state_dict())
    tokens = ours.generate(torch.randint(SMALL_VOCABULARY, (3, 17)), 24)
    with torch.no_grad(), pytest.raises(RuntimeError, match="show little"):
        language_models.check_tokens(plain.double(), tokens, 24, "it")


@pytest.mark.parametrize(
    "part",
    [
        language_models.measure_generation,
        language_models.measure_small_generation,
    ],
)
def test_nothing_is_timed_before_generation_agrees(part, monkeypatch):
    def refuse():
        raise RuntimeError("refused")

    monkeypatch.setattr(language_models, "check_generation", refuse)
    monkeypatch.setattr(language_models, "mamba", never)
    with pytest.raises(RuntimeError, match="refused"):
        part(never)


def test_a_record_says_how_each_part_was_checked():
    assert language_models.CHECKS.keys() == language_models.PARTS.keys()


# ---- Training ---------------------------------------------------------------

KINDS = ["Mamba", "Transformer"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_agrees_with_the_formulas(kind):
    error = language_models.check_training(kind, False, "cpu")
    # Under autocast nearly all is rounded to bfloat16.
    assert 1e-4 < error < 5e-2


@pytest.mark.parametrize("kind", KINDS)
def test_both_models_are_not_one(kind):
    """What is timed, and formulas that it does not use."""
    ours, plain = language_models.small_pair(kind, "cpu")
    backends = [
        {m.backend for m in model.modules() if hasattr(m, "backend")}
        for model in (ours, plain)
    ]
    expected = {
        "Mamba": [{"auto"}, {"reference"}],
        "Transformer": [{"torch"}, {"explicit"}],
    }
    assert backends == expected[kind]


def parameter(model, kind):
    """One that lies before the operation in question."""
    name = {
        "Mamba": "backbone.layers.0.mixer.A_log",
        "Transformer": "layers.0.attention.q_proj.weight",
    }[kind]
    return name, dict(model.named_parameters())[name]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda grad: grad * 1.0001,
        lambda grad: torch.zeros_like(grad),
        lambda grad: grad.clone().index_fill_(
            0, torch.tensor([3]), float("nan")
        ),
    ],
    ids=["a little", "missing", "not a number"],
)
def test_a_wrong_gradient_is_not_timed(kind, spoil):
    ours, plain = language_models.small_pair(kind, "cpu")
    name, spoiled = parameter(ours, kind)
    spoiled.register_hook(spoil)
    ids = torch.randint(
        SMALL_VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(0)
    )
    with pytest.raises(RuntimeError, match=f"{name} in float32.*not timed"):
        language_models.compare_gradients(ours, plain, ids)


def test_a_gradient_wrong_in_low_precision_only_is_not_timed():
    ours, plain = language_models.small_pair("Mamba", "cpu")
    name, spoiled = parameter(ours, "Mamba")
    calls = []

    def spoil_the_second(grad):
        calls.append(1)
        return grad * 1.2 if len(calls) == 2 else grad

    spoiled.register_hook(spoil_the_second)
    ids = torch.randint(
        SMALL_VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(0)
    )
    with pytest.raises(RuntimeError, match=f"{name} under autocast"):
        language_models.compare_gradients(ours, plain, ids)


@pytest.mark.parametrize("factor", [1.0, 0.9])
def test_a_wrong_kernel_of_the_convolution_is_not_timed(factor, monkeypatch):
    """The formulas do without it, on a GPU too."""
    calls = []

    def kernel(x, weight, bias, state, silu):
        calls.append(x.dtype)
        activation = "silu" if silu else None
        y, _ = causal_conv1d._in_pytorch(
            x, weight, bias, activation, state, None
        )
        return factor * y

    monkeypatch.setattr(
        causal_conv1d,
        "_fits_kernels",
        lambda x, *others: x.dtype != torch.float64,
    )
    monkeypatch.setitem(causal_conv1d._loaded, "convolve", kernel)
    with (
        contextlib.nullcontext()
        if factor == 1
        else pytest.raises(RuntimeError, match="in float32, off.*not timed")
    ):
        language_models.check_training("Mamba", False, "cpu")
    assert set(calls) <= {torch.float32, torch.bfloat16}
    # Two layers, of ours alone; with the right kernel in both precisions,
    # and in the lower one two more times.
    assert len(calls) == (8 if factor == 1 else 2)


def test_without_kernels_there_are_none(monkeypatch):
    for module, name in (
        (causal_conv1d, "_fits_kernels"),
        (rms_norm, "_fits_kernel"),
    ):
        monkeypatch.setattr(module, name, lambda *_: never(_))
    with language_models.without_kernels(), torch.no_grad():
        causal_conv1d.causal_conv1d(torch.ones(1, 3, 2), torch.ones(2, 4))
        rms_norm.rms_norm(torch.ones(2), torch.ones(2))
    with pytest.raises(AssertionError, match="it was timed"):
        causal_conv1d.causal_conv1d(torch.ones(1, 3, 2), torch.ones(2, 4))


@pytest.mark.parametrize(
    ("name", "compiled", "refused"),
    [
        ("backbone.layers.0.mixer.A_log", False, True),
        ("backbone.layers.0.mixer.A_log", True, True),
        ("backbone.embedding.weight", False, True),
        # PyTorch's compiler adds it up in any order.
        ("backbone.embedding.weight", True, False),
    ],
)
def test_other_bits_in_a_second_run_are_not_timed(
    name, compiled, refused, monkeypatch
):
    ours, plain = language_models.small_pair("Mamba", "cpu")
    compilations, calls = [], []
    monkeypatch.setattr(ours, "compile", lambda **k: compilations.append(k))

    def one_bit_in_the_last(grad):
        calls.append(1)
        return grad * (1 + 2**-23) if len(calls) == 4 else grad

    dict(ours.named_parameters())[name].register_hook(one_bit_in_the_last)
    monkeypatch.setattr(
        language_models, "small_pair", lambda *a: (ours, plain)
    )
    message = f"in a second run Mamba differs: {name}; not timed"
    with (
        pytest.raises(RuntimeError, match=message)
        if refused
        else contextlib.nullcontext()
    ):
        language_models.check_training("Mamba", compiled, "cpu")
    assert len(calls) == 4
    assert len(compilations) == compiled


def test_a_row_says_nothing_of_what_it_was_not_asked():
    width = len(language_models.COLUMNS)
    row = language_models.filled(("mambaviz", "Mamba"))
    assert row == ["mambaviz", "Mamba", *[None] * (width - 2)]
    assert language_models.filled(range(width)) == [*range(width)]


# ---- transformers' Mamba ----------------------------------------------------

FLOAT32, AUTOCAST, GENERATE = language_models.ALLOWED
SMALL_TRANSFORMERS = """
import sys
import torch
if sys.argv[1] == "ours":
    from mambaviz.ops.selective_scan import official
    official.stand_in()
from benchmarks import language_models
torch.save(language_models.small_transformers("cpu"), sys.argv[2])
"""


def test_of_transformers_all_that_is_timed_is_compared(tmp_path):
    found = {}
    for which in ("plain", "ours"):
        path = tmp_path / which
        command = [sys.executable, "-c", SMALL_TRANSFORMERS, which, path]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, cwd=ROOT, env=one_thread)
        found[which] = torch.load(path, weights_only=True)
    errors = language_models.compare_transformers(**found)
    assert 1e-4 < errors.pop(AUTOCAST) < 5e-2
    assert errors.keys() == {FLOAT32, GENERATE}
    assert all(0 < error < 2e-6 for error in errors.values())


def results(**spoiled):
    """A loss and two gradients, or logits, of each mode."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(9, generator=generator) for _ in range(3)]
    found = {
        FLOAT32: exact,
        AUTOCAST: [t.bfloat16() for t in exact],
        GENERATE: exact[1:],
    }
    return {
        mode: [*tensors[:-1], spoiled.get(mode, torch.clone)(tensors[-1])]
        for mode, tensors in found.items()
    }


@pytest.mark.parametrize(
    ("mode", "spoil"),
    [
        (FLOAT32, lambda t: 1.002 * t),
        (FLOAT32, lambda t: t.index_fill(0, torch.tensor([3]), torch.nan)),
        (AUTOCAST, lambda t: 1.03 * t),
        (AUTOCAST, lambda t: t / 0),
        (GENERATE, lambda t: 0.998 * t),
        (GENERATE, lambda t: torch.nan * t),
    ],
)
def test_what_is_wrong_with_stand_in_is_not_timed(mode, spoil):
    errors = language_models.compare_transformers(results(), results())
    assert errors == {FLOAT32: 0, AUTOCAST: errors[AUTOCAST], GENERATE: 0}
    with pytest.raises(RuntimeError, match=f"stand_in.., {re.escape(mode)},"):
        language_models.compare_transformers(
            results(**{mode: spoil}), results()
        )


def test_a_row_has_the_error_of_what_it_times(monkeypatch):
    """And none where another precision was compared."""
    modes = [FLOAT32, AUTOCAST, GENERATE]

    def child(command, check):
        flag = command[command.index("--transformers") + 1]
        out = Path(command[-1])
        if "--only-check" in command:
            torch.save(results(), out.parent / f"{flag == 'ours'}.pt")
            rows = []
        else:
            rows = [[flag, "Mamba", 1, mode, *[0] * 8] for mode in modes]
        out.write_text(json.dumps(rows))

    rows = []
    monkeypatch.setattr(subprocess, "run", child)
    language_models.measure_both_transformers(
        lambda *row: rows.append(language_models.filled(row))
    )
    errors = language_models.compare_transformers(results(), results())
    assert errors[AUTOCAST] > 0
    assert [(row[0], row[3], row[-1]) for row in rows] == [
        ("ours", FLOAT32, 0),
        ("ours", AUTOCAST, errors[AUTOCAST]),
        ("ours", GENERATE, None),
        *(("plain", mode, None) for mode in modes),
    ]


# ---- The record of language models ------------------------------------------


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """What ``--record`` would write of some runs."""

    def record(*runs):
        paths = [tmp_path / f"{i}.json" for i in range(len(runs))]
        for path, run in zip(paths, runs, strict=True):
            path.write_text(json.dumps(run))
        kept = {}
        monkeypatch.setattr(
            language_models,
            "write_record",
            lambda name, **record: kept.update(record, name=name),
        )
        monkeypatch.setattr(sys, "argv", ["", "--record", *map(str, paths)])
        language_models.main()
        return kept

    return record


def a_run(ms, parts, cut_short):
    return {
        "device": "NVIDIA H200",
        "software": {"torch": "1"},
        "parts": parts,
        "cut_short": cut_short,
        "rows": [
            language_models.filled(["us", "Mamba", 1, part, 1, 64, 1, ms])
            for part in parts
        ],
    }


def test_of_a_part_measured_twice_the_later_counts(recorded):
    first = a_run(7, ["small", "training"], ["training"])
    record = recorded(first, a_run(8, ["training", "generation"], []))
    assert [(row[3], row[7]) for row in record["rows"]] == [
        ("small", 7),
        ("training", 8),
        ("generation", 8),
    ]
    assert record["config"]["cut_short"] == ["transformers"]
    assert record["config"]["runs"] == [
        ["small", "training"],
        ["training", "generation"],
    ]
    assert "--parts generation training small --out" in record["command"]
    checks = language_models.CHECKS
    assert record["checked_against"] == (
        f"{checks['generation']}; {checks['training']}"
    )
    assert recorded(first)["config"]["cut_short"] == [
        "generation",
        "training",
        "transformers",
    ]


@pytest.mark.parametrize("key", ["device", "software"])
def test_models_on_different_machines_make_no_record(key, recorded):
    run = a_run(7, ["small"], [])
    with pytest.raises(ValueError, match=f"have the same {key}; got"):
        recorded(run, run | {key: "another"})
