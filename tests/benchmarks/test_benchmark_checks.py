"""What the benchmarks compare before they time: a wrong result is found."""

import contextlib
import functools
import itertools
import json
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from benchmarks import language_models, selective_scan
from benchmarks.selective_scan import (
    COLUMNS,
    Shape,
    by_associative_scan,
    check,
    make_inputs,
    peer_row,
)

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


def test_a_run_that_was_cut_short_loses_no_row(one_run, tmp_path):
    """And another run of what was left makes it whole."""
    measured, longer = one_run
    first = measured(tmp_path / "1.json", ["shapes", "memory"], longer)
    assert [row[1:6] for row in first["rows"]] == [[*SMALL]] * 2
    assert first["cut_short"] == ["shapes", "memory"]
    assert selective_scan.together([first])["cut_short"] == first["cut_short"]
    second = measured(tmp_path / "2.json", ["shapes"])
    assert second["cut_short"] == []
    both = selective_scan.together([first, second])
    assert both["cut_short"] == ["memory"]
    assert both["parts"] == ["shapes", "memory", "shapes"]
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
        selective_scan.together([run, run | {key: "another"}])


@ON_GPU
def test_compiled_it_is_the_scan():
    shape = SMALL._replace(d_inner=64, length=300, d_state=16)
    scan = torch.compile(by_associative_scan, fullgraph=True, dynamic=False)
    assert check(scan, make_inputs(shape), shape, backward=False) < 1e-5


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
        300, (2, 40), generator=torch.Generator().manual_seed(0)
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
        300, (2, 40), generator=torch.Generator().manual_seed(0)
    )
    with pytest.raises(RuntimeError, match=f"{name} under autocast"):
        language_models.compare_gradients(ours, plain, ids)


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
    message = f"second run {name}: differs; not timed"
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
