"""The fused scan on a GPU beside its peers, each checked before it is timed.

For every shape: forward, and forward + backward, as medians with the 10th
and 90th percentile of replays of a CUDA graph, the L2 cache flushed before
each; beside them the floor, which no implementation can be below on that GPU
(``floor_ms`` says what is counted), and the peak of memory beyond the inputs.

What is timed has just been compared, at the same shape and in the same run,
with plain PyTorch in float64: values and all gradients. It may err at most
twice as much as plain PyTorch in its own precision. For longer sequences than
LONGEST_JUDGED plain PyTorch goes through them in stretches, and hands over
the state and, on its way back, the gradient of it. What does not agree is not
timed, and the run fails.

The official CUDA kernel takes part where ``selective_scan_cuda`` can be
imported, in its own layout (batch, channel, length), without any transpose.
Its values and gradients are compared with the same results.

Other ways to mix a sequence stand beside: PyTorch's loop and its parallel
scan, its own associative scan compiled by ``torch.compile``, an FFT
convolution, and attention. A library that cannot, runs out of memory or gives
another result has a row all the same: ``refused`` says why, and times are
missing.

    python -m benchmarks.selective_scan --out measured.json    # on the GPU
    python -m benchmarks.selective_scan --record measured.json # in a checkout

The second writes a record of that GPU, ``selective_scan_h200`` of an H200;
together with ``--out`` it may stand in one command. Rows are written as they
come, so that a run that was cut short loses none; ``--parts`` measures what
was left, and ``--record`` takes the figures of several runs.
"""

import argparse
import functools
import importlib
import json
import platform
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from mambaviz.ops.selective_scan import selective_scan
from mambaviz.records.store import replace_text, write_record

IN_TIME = ("x", "delta", "B", "C", "z")  # (batch, length, ...)
LONGEST_JUDGED = 8192
# Elements of states that plain PyTorch holds at once for longer ones.
STRETCH = 2**24
# Relative, of the official kernel: ten times what rounding to bfloat16 costs,
# and a term that is missing or doubled costs more.
OFFICIAL_LIMIT = 2e-2
REPEATS = 21
FLUSH_BYTES = 2**28


class Shape(NamedTuple):
    """What is scanned."""

    batch: int
    d_inner: int
    length: int
    d_state: int
    dtype: str


SHAPES = [
    Shape(8, 2048, 2048, 16, "bfloat16"),
    Shape(8, 2048, 2048, 16, "float32"),
    Shape(4, 1536, 2048, 16, "bfloat16"),
    Shape(1, 1536, 2048, 16, "bfloat16"),
    *(
        Shape(1, 1024, length, 16, "bfloat16")
        for length in (512, 1024, 2048, 8192, 32768, 131072, 524288)
    ),
    *(
        Shape(4, 1536, 2048, d_state, "bfloat16")
        for d_state in (1, 3, 17, 64, 256)
    ),
]
# Those that are not meant for every shape.
SMALL = Shape(1, 1024, 2048, 16, "bfloat16")
LENGTHS_OF_PEERS = (512, 2048, 8192, 32768)

# Exponentials and multiply-adds a second, measured on an H100; an H200 has the
# same processor.
SPECIAL, FMA = 4.1e12, 28e12


@functools.cache
def copy_rate() -> float:
    """Bytes a second that a large copy reads and writes, measured."""
    source = torch.ones(2**32, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    median, *_ = _percentiles(lambda: target.copy_(source))
    return 2 * source.numel() / (median / 1e3)


def floor_ms(shape: Shape, backward: bool) -> float:
    """The least time that memory and arithmetic units need.

    Per batch, step and channel: forward N + 3 special-function operations,
    4 N + 25 multiply-adds, and x, delta, z and y once; backward the
    exponentials again, 13 N + 40 multiply-adds, and four more reads and three
    writes.
    """
    batch, d_inner, length, n, dtype = shape
    places = batch * d_inner * length
    width = 2 if dtype != "float32" else 4
    copy = copy_rate()
    forward = max(4 * width / copy, (n + 3) / SPECIAL, (4 * n + 25) / FMA)
    both = forward + max(
        7 * width / copy, (n + 3) / SPECIAL, (13 * n + 40) / FMA
    )
    return 1e3 * places * (both if backward else forward)


def make_inputs(
    shape: Shape, seed: int = 0, device: str = "cuda"
) -> dict[str, torch.Tensor]:
    """Of the sizes that Mamba's initialisation gives them."""
    batch, d_inner, length, d_state, dtype = shape
    generator = torch.Generator(device).manual_seed(seed)
    randn = functools.partial(torch.randn, generator=generator, device=device)
    given = getattr(torch, dtype)
    sequence = batch, length, d_inner
    rows = batch, length, d_state
    step = torch.exp(
        torch.rand(d_inner, generator=generator, device=device) * 4.6 - 6.9
    )
    n = torch.arange(1, d_state + 1, device=device)
    return {
        "x": randn(sequence, dtype=given),
        "delta": (randn(sequence) / 2).to(given),
        "A": -n * torch.exp(0.3 * randn(d_inner, d_state)),
        "B": randn(rows, dtype=given),
        "C": randn(rows, dtype=given),
        "D": randn(d_inner),
        "z": randn(sequence, dtype=given),
        "delta_bias": step + torch.log(-torch.expm1(-step)),
    }


def run(scan: Callable, inputs: dict, grad: torch.Tensor | None) -> dict:
    """y, and if a gradient of it is given, those of the inputs."""
    if grad is None:
        with torch.no_grad():
            return {"y": scan(**inputs)}
    leaves = {k: v.detach().requires_grad_() for k, v in inputs.items()}
    y = scan(**leaves)
    grads = torch.autograd.grad(y, list(leaves.values()), grad.to(y.dtype))
    return {"y": y.detach(), **dict(zip(leaves, grads, strict=True))}


def by(backend: str) -> Callable:
    """The door with a backend."""
    return functools.partial(
        selective_scan, delta_softplus=True, backend=backend
    )


def compose(
    first: tuple[torch.Tensor, torch.Tensor],
    second: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two stretches of time, one after the other: (decay, end) each."""
    return first[0] * second[0], second[0] * first[1] + second[1]


def by_associative_scan(
    x: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    z: torch.Tensor,
    delta_bias: torch.Tensor,
    combine_mode: str = "pointwise",
) -> torch.Tensor:
    """The scan by PyTorch's operator for it, a prototype in torch 2.11.

    Args:
        combine_mode: "pointwise", which is compiled, for a GPU only; or
            "generic", operation by operation.
    """
    from torch._higher_order_ops.associative_scan import associative_scan

    given = x.dtype
    precision = torch.promote_types(given, torch.float32)
    x, delta, z, B, C = (w.to(precision) for w in (x, delta, z, B, C))
    delta = F.softplus(delta + delta_bias)
    a = torch.exp(delta[..., None] * A)
    b = (delta * x)[..., None] * B[:, :, None]
    _, h = associative_scan(compose, (a, b), 1, combine_mode=combine_mode)
    y = (h * C[:, :, None]).sum(-1) + D * x
    return (y * F.silu(z)).to(given)


def off(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """The norm of the error over that of the exact value."""
    exact = exact.double()
    return ((ours.double() - exact).norm() / exact.norm()).item()


def in_float(inputs: dict, dtype: torch.dtype) -> dict:
    """All inputs in one precision."""
    return {name: tensor.to(dtype) for name, tensor in inputs.items()}


class Judges(NamedTuple):
    """Plain PyTorch's results, as ``run`` gives them."""

    exact: dict[str, torch.Tensor]  # in float64
    plain: dict[str, torch.Tensor]  # in the precision of the inputs


def judges(
    inputs: dict, grad: torch.Tensor | None, rung: str = "chunked"
) -> Judges:
    """What a scan is compared with; with gradients if ``grad`` is given.

    Args:
        inputs: of the scan.
        grad: of y; None for values alone.
        rung: which of plain PyTorch's judges, not the one that is judged;
            of longer sequences than LONGEST_JUDGED it is "associative".
    """
    plainly = functools.partial(run, by(rung))
    if inputs["x"].shape[1] > LONGEST_JUDGED:
        plainly = run_in_stretches
    double = in_float(inputs, torch.float64)
    return Judges(plainly(double, grad), plainly(inputs, grad))


def run_in_stretches(inputs: dict, grad: torch.Tensor | None) -> dict:
    """As ``run``, by the parallel scan in PyTorch, on one after the other.

    All steps of a stretch at once, since step by step a long sequence would
    take minutes.
    """
    batch, length, d_inner = inputs["x"].shape
    d_state = inputs["A"].shape[1]
    steps = max(1, STRETCH // (batch * d_inner * d_state))
    scan = functools.partial(by("associative"), return_last_state=True)
    stretches = [slice(t, t + steps) for t in range(0, length, steps)]

    def during(stretch: slice) -> dict:
        return {
            name: tensor[:, stretch] if name in IN_TIME else tensor
            for name, tensor in inputs.items()
        }

    ys, befores = [], []
    state = None
    with torch.no_grad():
        for stretch in stretches:
            befores.append(state)
            y, state = scan(**during(stretch), initial_state=state)
            ys.append(y)
    found = {"y": torch.cat(ys, 1)}
    if grad is None:
        return found
    found |= {name: torch.zeros_like(t) for name, t in inputs.items()}
    grad_state = torch.zeros_like(state)
    for stretch, before in reversed([*zip(stretches, befores, strict=True)]):
        if before is None:
            before = torch.zeros_like(state)
        leaves = during(stretch) | {"initial_state": before}
        leaves = {k: v.detach().requires_grad_() for k, v in leaves.items()}
        y, after = scan(**leaves)
        *grads, grad_state = torch.autograd.grad(
            [y, after],
            list(leaves.values()),
            [grad[:, stretch].to(y.dtype), grad_state],
        )
        for name, part in zip(inputs, grads, strict=True):
            total = found[name]
            (total[:, stretch] if name in IN_TIME else total).add_(part)
    return found


def compare(ours: dict, judged: Judges, shape: Shape) -> float:
    """The largest relative error; RuntimeError if plain PyTorch does better.

    Raises:
        RuntimeError: an error is more than twice that of plain PyTorch.
    """
    worst = 0.0
    for name, value in ours.items():
        exact = judged.exact[name]
        error, plain = off(value, exact), off(judged.plain[name], exact)
        if not error <= 2 * plain + 2**-22:
            raise RuntimeError(
                f"{shape}: {name} is off by {error:.1e}, plain PyTorch by "
                f"{plain:.1e}; not timed"
            )
        worst = max(worst, error)
    return worst


def twice(work: Callable[[], dict]) -> dict:
    """What it gives, if it gives the same bits again.

    Raises:
        RuntimeError: it does not.
    """
    first, second = work(), work()
    for name, value in first.items():
        if not torch.equal(value, second[name]):
            raise RuntimeError(f"{name} differs from run to run; not timed")
    return first


def check(
    scan: Callable,
    inputs: dict,
    shape: Shape,
    backward: bool,
    rung: str = "chunked",
) -> float:
    """``compare`` a scan with its ``judges``.

    Raises:
        RuntimeError: an error is more than twice that of plain PyTorch.
    """
    grad = torch.randn_like(inputs["x"]) if backward else None
    judged = judges(inputs, grad, rung)
    return compare(run(scan, inputs, grad), judged, shape)


def time_ms(work: Callable) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile over replays of a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return _percentiles(graph.replay)


def time_eagerly_ms(work: Callable) -> tuple[float, float, float]:
    """As time_ms, of what is too long for a graph, five times."""
    work()
    return _percentiles(work, 5)


def _percentiles(
    work: Callable, repeats: int = REPEATS
) -> tuple[float, float, float]:
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(repeats):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in "se")
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return spread(times)


def spread(times: list[float]) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile, which lie among the times."""
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return statistics.median(times), tenths[0], tenths[-1]


def peak_mib(work: Callable) -> float:
    """The most memory held at a time beyond what was there before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def official(inputs: dict, grad: torch.Tensor) -> tuple[Callable, ...] | None:
    """The CUDA kernel's two passes on the same values; None without it.

    Each returns what ``run`` does, in the kernel's layout.
    """
    try:
        kernel = importlib.import_module("selective_scan_cuda")
    except ImportError:
        return None
    u, delta, z, B, C, grad = (
        w.mT.contiguous()
        for w in (*(inputs[n] for n in ("x", "delta", "z", "B", "C")), grad)
    )
    B, C = B[:, None], C[:, None]
    A, D, bias = (inputs[name] for name in ("A", "D", "delta_bias"))

    def forward() -> dict:
        return {"y": kernel.fwd(u, delta, A, B, C, D, z, bias, True)[-1]}

    def both() -> dict:
        out, states, y = kernel.fwd(u, delta, A, B, C, D, z, bias, True)
        dx, ddelta, dA, dB, dC, dD, dbias, dz = kernel.bwd(
            u, delta, A, B, C, D, z, bias, grad, states, out, None, True, False
        )
        return {
            "y": y, "x": dx, "delta": ddelta, "A": dA, "B": dB[:, 0],
            "C": dC[:, 0], "D": dD, "z": dz, "delta_bias": dbias,
        }  # fmt: skip

    return forward, both


def compare_official(found: dict, exact: dict) -> float:
    """The largest relative error of the official kernel's results.

    Raises:
        RuntimeError: it is more than OFFICIAL_LIMIT.
    """
    errors = [
        within(
            OFFICIAL_LIMIT,
            off(value.mT if name in ("y", *IN_TIME) else value, exact[name]),
            f"official {name}",
        )
        for name, value in found.items()
    ]
    return max(errors)


def fused(inputs: dict, grad: torch.Tensor) -> tuple[Callable, Callable]:
    """Our two passes."""
    return (
        lambda: run(by("fused"), inputs, None),
        lambda: run(by("fused"), inputs, grad),
    )


def row(
    what: str,
    shape: Shape,
    mode: str,
    times: tuple[float, float, float],
    mib: float | None,
    error: float | None,
    refused: str | None = None,
) -> list:
    """A row of the record."""
    floor = floor_ms(shape, mode != "forward")
    return [what, *shape, mode, *times, mib, floor, error, refused]


def peer_row(
    what: str,
    shape: Shape,
    mode: str,
    agree: Callable[[], float],
    work: Callable,
    clock: Callable[[Callable], tuple[float, float, float]],
) -> list:
    """A row of a library that is not ours, which may be unable to.

    Args:
        what: its name in the record.
        shape: what it mixes.
        mode: of the two that ``floor_ms`` knows.
        agree: gives its relative error; raises where that is too large.
        work: what is timed.
        clock: ``time_ms`` or ``time_eagerly_ms``.
    """
    try:
        error = agree()
        return row(what, shape, mode, clock(work), peak_mib(work), error)
    except Exception as reason:  # a compiler may raise anything
        said = " ".join(str(reason).split())
        said = re.sub(r"/\S*/", "", said)  # the folders of one machine
        refused = f"{type(reason).__name__}: {said}"[:200]
    # Out of the except, which would hold on to the tensors of the failure.
    torch.cuda.empty_cache()
    return row(what, shape, mode, (None,) * 3, None, None, refused)


COLUMNS = [
    "what",
    "batch",
    "d_inner",
    "length",
    "d_state",
    "dtype",
    "mode",
    "median_ms",
    "p10_ms",
    "p90_ms",
    "peak_memory_mib",
    "floor_ms",
    "relative_error",
    "refused",
]
KEY = COLUMNS.index("mode") + 1  # what a row is of: so many columns


def measure_shape(shape: Shape) -> list[list]:
    """Ours and the official kernel, both directions."""
    inputs = make_inputs(shape)
    grad = torch.randn_like(inputs["x"])
    modes = ("forward", "forward + backward")
    ours, theirs = fused(inputs, grad), official(inputs, grad)
    judged = judges(inputs, grad)
    errors = [compare(twice(work), judged, shape) for work in ours]
    agreed = [None, None]
    if theirs is not None and shape.d_state <= 256:
        agreed = [compare_official(work(), judged.exact) for work in theirs]
    # Their memory is not to be counted, nor missed by what is timed.
    del judged
    torch.cuda.empty_cache()
    rows = [
        row("fused", shape, mode, time_ms(work), peak_mib(work), error)
        for mode, work, error in zip(modes, ours, errors, strict=True)
    ]
    if agreed[0] is not None:
        rows += [
            row("official", shape, mode, time_ms(work), peak_mib(work), error)
            for mode, work, error in zip(modes, theirs, agreed, strict=True)
        ]
    return rows


def measure_memory(shape: Shape) -> list[list]:
    """With few states kept: the price of memory in time."""
    from mambaviz.ops.selective_scan import fused as rung

    inputs = make_inputs(shape)
    _, both = fused(inputs, torch.randn_like(inputs["x"]))
    mode = "forward + backward"
    with rung.keeping(2**24):
        error = check(by("fused"), inputs, shape, True)
        twice(both)
        return [
            row("fused, at most 16 MiB of states kept", shape, mode,
                time_ms(both), peak_mib(both), error)
        ]  # fmt: skip


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention by PyTorch's fused operator."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def check_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> float:
    """The last queries against the formula in float64.

    Raises:
        RuntimeError: they differ by more than the precision explains.
    """
    last = min(128, q.shape[2])
    found = attend(q, k, v)[:, :, -last:]
    q, k, v = (w.double() for w in (q[:, :, -last:], k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    future = torch.ones_like(scores, dtype=torch.bool).triu(
        1 + scores.shape[-1] - last
    )
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    # The weights are rounded to the inputs' precision, and so is y.
    return within(
        2 * torch.finfo(found.dtype).eps, off(found, weights @ v), "attention"
    )


def convolve(signal: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """As long a kernel as the sequence, without wrapping around."""
    length = signal.shape[-1]
    n = 2 * length
    spectrum = torch.fft.rfft(signal, n=n) * torch.fft.rfft(kernel, n=n)
    return torch.fft.irfft(spectrum, n=n)[..., :length]


def check_convolution(signal: torch.Tensor, kernel: torch.Tensor) -> float:
    """The last steps against the sum in float64.

    Raises:
        RuntimeError: they differ by more than the precision explains.
    """
    last = min(128, signal.shape[-1])
    found = convolve(signal, kernel)[..., -last:]
    signal, kernel = signal.double(), kernel.double()
    backwards = kernel.flip(-1)
    length = signal.shape[-1]
    exact = torch.stack(
        [
            (signal[..., : t + 1] * backwards[..., length - 1 - t :]).sum(-1)
            for t in range(length - last, length)
        ],
        -1,
    )
    # An FFT adds up in log2(n) levels, each with a rounding.
    return within(
        40 * torch.finfo(found.dtype).eps, off(found, exact), "convolution"
    )


def within(limit: float, error: float, what: str) -> float:
    """The error.

    Raises:
        RuntimeError: it is more than the limit, or not a number.
    """
    if not error <= limit:
        raise RuntimeError(f"{what} is off by {error:.1e}; not timed")
    return error


def measure_peers(length: int) -> list[list]:
    """Other ways to mix a sequence, at SMALL's sizes."""
    shape = SMALL._replace(length=length)
    heads = shape.d_inner // 64
    qkv = [
        torch.randn(1, heads, length, 64, device="cuda", dtype=torch.bfloat16)
        for _ in range(3)
    ]
    kernel = torch.randn(shape.d_inner, length, device="cuda")
    signal = torch.randn(1, shape.d_inner, length, device="cuda")
    peers = {
        "attention (SDPA, causal, heads of 64)": (
            check_attention, attend, qkv
        ),
        "convolution by FFT, float32": (
            check_convolution, convolve, (signal, kernel)
        ),
    }  # fmt: skip
    rows = [
        peer_row(
            name,
            shape,
            "forward",
            functools.partial(agree, *given),
            functools.partial(work, *given),
            time_ms,
        )
        for name, (agree, work, given) in peers.items()
    ]
    return rows + measure_rungs(length)


def measure_rungs(length: int) -> list[list]:
    """Plain PyTorch's, at SMALL's sizes, each judged by another one."""
    shape = SMALL._replace(length=length)
    inputs = make_inputs(shape)
    rows = []
    for backend, longest, judge in (
        ("chunked", LONGEST_JUDGED, "reference"),
        ("associative", LONGEST_JUDGED, "chunked"),
        ("reference", 2048, "chunked"),
    ):
        if length > longest:
            continue
        error = check(by(backend), inputs, shape, False, judge)

        def work(backend: str = backend) -> dict:
            return run(by(backend), inputs, None)

        times = time_eagerly_ms(work)
        rows.append(
            row(backend, shape, "forward", times, peak_mib(work), error)
        )
    return rows


def measure_compiled(length: int) -> list[list]:
    """PyTorch's associative scan by its own compiler, both directions.

    Backwards for the shortest length alone: it takes minutes to compile.
    """
    shape = SMALL._replace(length=length)
    inputs = make_inputs(shape)
    torch.compiler.reset()
    scan = torch.compile(by_associative_scan, fullgraph=True, dynamic=False)
    modes = [("forward", None)]
    if length == min(LENGTHS_OF_PEERS):
        modes.append(("forward + backward", torch.randn_like(inputs["x"])))
    return [
        peer_row(
            "associative_scan, compiled",
            shape,
            mode,
            functools.partial(check, scan, inputs, shape, wanted is not None),
            functools.partial(run, scan, inputs, wanted),
            time_ms,
        )
        for mode, wanted in modes
    ]


# What can be measured by itself: a function, and what it is called with.
PARTS = {
    "shapes": (measure_shape, SHAPES),
    "memory": (measure_memory, SHAPES[:1]),
    "peers": (measure_peers, LENGTHS_OF_PEERS),
    "compiled": (
        measure_compiled,
        [n for n in LENGTHS_OF_PEERS if n <= LONGEST_JUDGED],
    ),
}


def measure(parts: list[str], out: Path) -> None:
    """Write all rows, part by part, and what they were measured on."""
    import triton

    found = {
        "device": torch.cuda.get_device_name(),
        "software": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": triton.__version__,
        },
        "copy_bytes_per_s": copy_rate(),
        "parts": parts,
        "cut_short": parts,
        "rows": [],
    }
    for part in parts:
        work, cases = PARTS[part]
        for case in cases:
            rows = work(case)
            torch.cuda.empty_cache()
            report(rows)
            found["rows"] += rows
            replace_text(out, json.dumps(found))  # a run may end at any time
        found["cut_short"] = found["cut_short"][1:]
        replace_text(out, json.dumps(found))


def together(runs: list[dict], parts: Iterable[str], key: int) -> dict:
    """The figures of several runs as those of one; the last of each row.

    Args:
        runs: what ``measure`` wrote.
        parts: all that a run can have, in their order.
        key: how many columns, from the first, say what a row is of.

    Raises:
        ValueError: they are of different GPUs or different software.
    """
    first = runs[0]
    for run in runs[1:]:
        for name in ("device", "software"):
            if run[name] != first[name]:
                raise ValueError(
                    f"runs of one record have the same {name}; got "
                    f"{first[name]} and {run[name]}"
                )
    begun = [part for run in runs for part in run["parts"]]
    whole = {
        part
        for run in runs
        for part in run["parts"]
        if part not in run["cut_short"]
    }
    rows = {tuple(row[:key]): row for run in runs for row in run["rows"]}
    return first | {
        "rows": list(rows.values()),
        "runs": [run["parts"] for run in runs],
        "parts": [part for part in parts if part in begun],
        "cut_short": [part for part in parts if part not in whole],
    }


def gpu_of(device: str) -> str:
    """A GPU's short name: "h100" of "NVIDIA H100 80GB HBM3"."""
    return device.removeprefix("NVIDIA ").split()[0].lower()


def report(rows: list[list]) -> None:
    """Print rows as they come."""
    for what, *shape, mode, median, _, _, mib, floor, error, refused in rows:
        if refused is not None:
            print(f"{what:38s} {shape!s:38s} {mode:19s} {refused}", flush=True)
            continue
        print(
            f"{what:38s} {shape!s:38s} {mode:19s} {median:9.4f} ms "
            f"floor {floor:8.4f} {mib or 0:9.1f} MiB {error or 0:.1e}",
            flush=True,
        )


def main() -> None:
    """Measure, record, or both."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="where to write the figures")
    parser.add_argument(
        "--record", type=Path, nargs="+", help="figures to be recorded"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS)
    )
    options = parser.parse_args()
    if options.out is None and options.record is None:
        parser.error("give --out FILE, --record FILE, or both")
    if options.out is not None:
        if not torch.cuda.is_available():
            sys.exit("this measures on a GPU, and torch finds none")
        measure(options.parts, options.out)
    if options.record is not None:
        found = together(
            [json.loads(f.read_text()) for f in options.record], PARTS, KEY
        )
        print(write_record(
            f"selective_scan_{gpu_of(found['device'])}",
            command="python -m benchmarks.selective_scan --parts "
            f"{' '.join(found['parts'])} --out measured.json "
            "--record measured.json",
            columns=COLUMNS,
            rows=found["rows"],
            repeats=REPEATS,
            statistic="median, 10th and 90th percentile of CUDA graph "
            "replays, L2 flushed before each; PyTorch's rungs eagerly, 5 "
            "times",
            checked_against="plain PyTorch in float64, values and, where the "
            "backward pass is timed, all gradients: at most twice the error "
            f"of plain PyTorch in the same precision (of more than "
            f"{LONGEST_JUDGED} steps in stretches, state and its gradient "
            "handed over; the chunked scan: by the loop over time), the "
            "fused scan in two runs with the same bits; "
            f"official: the same error, at most {OFFICIAL_LIMIT}; "
            "attention and convolution: their formulas in float64",
            max_abs_error=None,
            seed=0,
            config={"floor": {"copy_bytes_per_s": found["copy_bytes_per_s"],
                              "special_per_s": SPECIAL, "fma_per_s": FMA},
                    "runs": found["runs"], "cut_short": found["cut_short"]},
            device=found["device"],
            software=found["software"],
        ))  # fmt: skip


if __name__ == "__main__":
    main()
