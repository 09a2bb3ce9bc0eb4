"""The rungs of the selective scan on a CPU, in time and memory, and others'.

Each rung, the scan of mambapy, and the path of transformers for machines
without its kernels compute the same from the same tensors: softplus of delta
and its bias, the scan, skip and gate. At each shape everything is compared
with the reference in float64 first, and what does not agree is not timed.
Then all of them run in turns, so that a slow moment of the machine is a slow
moment of all; a ratio is the median of the ratios of each turn. In its turn
each is called once before its calls are timed: as in a loop of training, it
then finds its own memory and code where it left them. Otherwise its clock
would run while memory that the one before has freed goes back to the system.

Run from the repository's root, on a machine that does nothing else:

    python -m benchmarks.selective_scan_cpu

It writes the record ``selective_scan_cpu``. ``--quick`` takes the smallest
shape alone, to try it out, and has to be given a folder, ``--out FOLDER``.
"""

import argparse
import ctypes
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.selective_scan import twice
from mambaviz.ops.selective_scan import selective_scan
from mambaviz.records.store import RESULTS, write_record

SHAPES = (  # batch length d_inner
    (1, 256, 128),
    (1, 1024, 256),
    (4, 512, 512),
    (1, 1024, 1536),
    (1, 4096, 768),
)
D_STATE = 16
# A shape where all states would be 64 times as large as x.
MANY_STATES, MANY_STATES_SHAPE = 64, (1, 1024, 1536)
FORWARD, TRAINING = MODES = ("forward", "forward and backward")
RUNGS = ("reference", "associative", "chunked", "cpu")
FUSED_OR_CHUNKED = ("chunked", "cpu")  # which never hold all states
PEERS = ("mambapy", "transformers")
RIVALS = ("reference", *PEERS)  # what the others are compared with

SEED, THREADS = 0, 2
# Many turns of what is short: a machine has slow moments of some seconds.
MAX_TURNS, MIN_TURNS = 61, 3
BUDGET_S = 4.0  # for all turns of one contender in one mode
SAMPLE_S = 0.01  # of as many calls as take so long
REST_S = 0.005  # after which the threads of the one before are asleep

# Sums in another order round otherwise, and a scan as a tree otherwise than
# a loop: up to so many times the error of the loop in float32.
ERROR_ALLOWED = 4

# The loop of transformers takes ``states[:, :, t]``, whose gradient is as
# large as all states, at every step: quadratic in the length. From so many
# bytes on, one call takes 20 seconds and more.
MOST_GRADIENTS = 25e9

NAMES = ("x", "delta", "A", "B", "C", "D", "z", "delta_bias")
ALONG_TIME = ("x", "delta", "B", "C", "z")


class Contender(NamedTuple):
    """A function of the tensors of NAMES that returns y."""

    scan: Callable[..., Tensor]
    time_last: bool = False  # takes and returns (batch, d_inner, length)


def contender(name: str) -> Contender:
    """By its name; loaded only now, so that memory is measured alone."""
    if name == "mambapy":
        from mambapy.mamba import MambaBlock

        def with_pscan(x, delta, A, B, C, D, z, delta_bias):
            step = F.softplus(delta + delta_bias)
            y = MambaBlock.selective_scan(None, x, step, A, B, C, D)
            return y * F.silu(z)

        return Contender(with_pscan)
    if name == "transformers":
        from transformers.models.mamba import modeling_mamba

        def slow_path(*tensors):
            return modeling_mamba.mamba_selective_scan(
                *tensors, delta_softplus=True
            )

        return Contender(slow_path, time_last=True)

    def rung(*tensors):
        return selective_scan(*tensors, delta_softplus=True, backend=name)

    return Contender(rung)


def make_inputs(
    shape: tuple[int, int, int], d_state: int = D_STATE
) -> dict[str, Tensor]:
    """As in a layer of Mamba: A from -1 to -N, steps about 0.001 to 0.1."""
    batch, length, d_inner = shape
    generator = torch.Generator().manual_seed(SEED)

    def randn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    steps = torch.rand(d_inner, generator=generator) * math.log(100)
    return {
        "x": randn(*shape),
        "delta": randn(*shape) / 2,
        "A": -torch.arange(1.0, d_state + 1).repeat(d_inner, 1),
        "B": randn(batch, length, d_state),
        "C": randn(batch, length, d_state),
        "D": torch.ones(d_inner),
        "z": randn(*shape),
        "delta_bias": torch.log(torch.expm1(steps.exp() / 1000)),
    }


def prepare(
    one: Contender, inputs: dict[str, Tensor], mode: str
) -> Callable[[], dict[str, Tensor]]:
    """A call to be timed; it returns y and, in training, the gradients."""
    tensors = {
        name: t.mT.contiguous()
        if one.time_last and name in ALONG_TIME
        else t.clone()
        for name, t in inputs.items()
    }
    generator = torch.Generator().manual_seed(SEED + 1)
    grad_y = torch.randn(inputs["x"].shape, generator=generator)
    grad_y = grad_y.to(inputs["x"].dtype)
    if one.time_last:
        grad_y = grad_y.mT.contiguous()

    def forward() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"y": one.scan(*tensors.values())}

    def forward_and_backward() -> dict[str, Tensor]:
        leaves = [t.requires_grad_() for t in tensors.values()]
        y = one.scan(*leaves)
        grads = torch.autograd.grad(y, leaves, grad_y)
        return {"y": y.detach()} | dict(zip(NAMES, grads, strict=True))

    return forward if mode == FORWARD else forward_and_backward


def errors(
    one: Contender, found: dict[str, Tensor], truth: dict[str, Tensor]
) -> dict[str, float]:
    """The error of y and of each gradient: its norm over the exact one's.

    Not the largest element's, of which luck decides in sums of thousands.
    """
    off = {}
    for name, value in found.items():
        if one.time_last and name in (*ALONG_TIME, "y"):
            value = value.mT
        exact = truth[name]
        distance = (value.double() - exact).norm() / exact.norm()
        off[name] = distance.item()
    return off


def too_slow(name: str, shape: tuple[int, int, int], mode: str) -> bool:
    """Whether one call would take more than about 20 seconds."""
    gradients = all_states(shape) * shape[1]
    slow = name == "transformers" and mode == TRAINING
    return slow and gradients > MOST_GRADIENTS


def all_states(shape: tuple[int, int, int], d_state: int = D_STATE) -> int:
    """Bytes of a float32 tensor (batch, length, d_inner, d_state)."""
    return 4 * math.prod(shape) * d_state


def seconds(call: Callable, times: int = 1) -> float:
    """How long a call takes, on average of so many in a row."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def trim() -> None:
    """Give memory that was freed back to the system."""
    ctypes.CDLL(None).malloc_trim(0)


def rest() -> None:
    """Leave nothing of one contender to the next."""
    trim()
    time.sleep(REST_S)


class Measured(NamedTuple):
    """What came of one contender at one shape, in one mode."""

    times: list[float]  # in seconds, one a turn
    error: float


def measure(
    shape: tuple[int, int, int], mode: str, truth: dict[str, Tensor]
) -> dict[str, Measured]:
    """Check all contenders, then time them in turns.

    Raises:
        SystemExit: one does not agree with the reference in float64.
        RuntimeError: a rung has other bits in a second run.
    """
    inputs = make_inputs(shape)
    calls, off, plans = {}, {}, {}
    for name in (*RUNGS, *PEERS):
        if too_slow(name, shape, mode):
            continue
        one = contender(name)
        call = prepare(one, inputs, mode)
        found = twice(call) if name in RUNGS else call()
        off[name] = errors(one, found, truth)
        for what, error in off[name].items():
            plain = off["reference"][what]
            allowed = ERROR_ALLOWED * plain + torch.finfo(torch.float32).eps
            if not error <= allowed:
                sys.exit(
                    f"{name} at {shape}, {mode}: {what} is off by {error:.1e} "
                    f"where {allowed:.1e} is allowed, so it is not timed"
                )
        once = seconds(call)
        times = max(1, int(SAMPLE_S / once))
        turns = int(BUDGET_S / (once * times))
        calls[name] = call
        plans[name] = times, min(max(turns, MIN_TURNS), MAX_TURNS)
    taken = {name: [] for name in calls}
    for turn in range(MAX_TURNS):
        for name, call in calls.items():
            times, turns = plans[name]
            if turn < turns:
                rest()
                call()
                taken[name].append(seconds(call, times))
    return {
        name: Measured(taken[name], max(off[name].values())) for name in calls
    }


def ratio(rival: Measured | None, one: Measured) -> float | None:
    """How many times as long the rival takes: the median over the turns."""
    if rival is None:
        return None
    return statistics.median(
        theirs / ours
        for theirs, ours in zip(rival.times, one.times, strict=False)
    )


def resident(field: str) -> int:
    """A size that Linux keeps of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {field}")


def peak_memory(call: Callable) -> int:
    """What a call takes beyond what was held before it, in bytes."""
    trim()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the last peak
    call()
    return resident("VmHWM") - before


def report_memory(name: str, shapes: tuple) -> None:
    """Print the peaks of a contender, and how long its very first call took.

    The first call loads and, for the compiled rung, compiles. One more peak
    is that with MANY_STATES, for the rungs that never hold all states.
    """
    torch.set_num_threads(THREADS)
    one = contender(name)
    first = seconds(prepare(one, make_inputs(SHAPES[0]), TRAINING))
    peaks = [
        None
        if too_slow(name, shape, mode)
        else peak_memory(prepare(one, make_inputs(shape), mode))
        for shape in shapes
        for mode in MODES
    ]
    told = {"first": first, "peaks": peaks}
    if name in FUSED_OR_CHUNKED:
        inputs = make_inputs(MANY_STATES_SHAPE, MANY_STATES)
        told["many"] = peak_memory(prepare(one, inputs, TRAINING))
    print(json.dumps(told))


def ask_memory(name: str, quick: bool) -> dict:
    """What ``report_memory`` prints in another process, with no cache."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, "--memory", name]
            + ["--quick"] * quick,
            env=os.environ
            | {
                "NUMBA_CACHE_DIR": folder,
                # Large arrays go back to the system when they are freed.
                "MALLOC_MMAP_THRESHOLD_": "65536",
                "MALLOC_TRIM_THRESHOLD_": "65536",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


# What a row of the record holds.
COLUMNS = [
    "batch",
    "length",
    "d_inner",
    "mode",
    "contender",
    "median_ms",
    *(f"{rival}_over_it" for rival in RIVALS),
    "peak_memory_mib",
    "all_states_mib",
    "relative_error",
    "turns",
    "note",
]


def row(
    shape: tuple[int, int, int],
    mode: str,
    name: str,
    measured: dict[str, Measured],
    peak: int | None,
) -> list:
    """The values of COLUMNS."""
    head = [*shape, mode, name]
    states = round(all_states(shape) / 2**20, 1)
    if name not in measured:
        nothing = [None] * (2 + len(RIVALS))
        note = "skipped: a call would take more than 20 seconds"
        return [*head, *nothing, states, None, None, note]
    one = measured[name]
    ratios = [ratio(measured.get(rival), one) for rival in RIVALS]
    return [
        *head,
        round(1000 * statistics.median(one.times), 3),
        *(value and round(value, 2) for value in ratios),
        round(peak / 2**20, 1),
        states,
        float(f"{one.error:.1e}"),
        len(one.times),
        None,
    ]


def summary(rows: list[list]) -> str:
    """The ratios to mambapy of the two fast rungs: mean and worst."""
    named = [dict(zip(COLUMNS, values, strict=True)) for values in rows]
    lines = []
    for name in FUSED_OR_CHUNKED:
        for mode in MODES:
            ratios = [
                values["mambapy_over_it"]
                for values in named
                if (values["contender"], values["mode"]) == (name, mode)
            ]
            lines.append(
                f"mambapy over {name}, {mode}: "
                f"{statistics.geometric_mean(ratios):.1f} in the geometric "
                f"mean, {min(ratios):.1f} at least"
            )
    return "\n".join(lines)


def text(values: list) -> str:
    """A row, to be printed."""
    return "  ".join("-" if value is None else str(value) for value in values)


def main() -> int:
    """Check, measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    shapes = SHAPES[:1] if given.quick else SHAPES
    if given.memory:
        report_memory(given.memory, shapes)
        return 0
    if given.quick and given.out == RESULTS:
        parser.error("a quick run is no record; say --out FOLDER")

    torch.set_num_threads(THREADS)
    cells = [(shape, mode) for shape in shapes for mode in MODES]
    told, peaks = {}, {}
    for name in (*RUNGS, *PEERS):
        told[name] = ask_memory(name, given.quick)
        for cell, peak in zip(cells, told[name]["peaks"], strict=True):
            peaks[name, *cell] = peak
    every_state = all_states(MANY_STATES_SHAPE, MANY_STATES)
    for name in FUSED_OR_CHUNKED:
        if told[name]["many"] > every_state / 2:
            sys.exit(
                f"{name} takes {told[name]['many']} bytes at its peak where "
                f"all states are {every_state}: it seems to hold them"
            )

    print(text(COLUMNS))
    rows, worst, reference = [], 0.0, contender("reference")
    for shape in shapes:
        exact = {name: t.double() for name, t in make_inputs(shape).items()}
        truth = prepare(reference, exact, TRAINING)()
        for mode in MODES:
            measured = measure(shape, mode, truth)
            worst = max(worst, *(one.error for one in measured.values()))
            for name in (*RUNGS, *PEERS):
                peak = peaks[name, shape, mode]
                rows.append(row(shape, mode, name, measured, peak))
                print(
                    "  ".join("-" if v is None else str(v) for v in rows[-1])
                )
    print(summary(rows))
    path = write_record(
        "selective_scan_cpu",
        command="python -m benchmarks.selective_scan_cpu"
        + " --quick" * given.quick,
        columns=COLUMNS,
        rows=rows,
        repeats=MIN_TURNS,
        statistic=(
            "median over the turns, of times and of the ratios of each turn,"
            " after one call that is not timed;"
            f" {MIN_TURNS} to {MAX_TURNS} turns, as the column says;"
            " peak memory of one call, beyond its inputs"
        ),
        checked_against=(
            "selective_scan_reference in float64: the norm of the error of y"
            " and of each gradient, over that of the exact one; rungs in two"
            " runs with the same bits"
        ),
        max_abs_error=worst,
        seed=SEED,
        software={
            name: version(name)
            for name in ("torch", "numba", "mambapy", "transformers")
        },
        config={
            "dtype": "float32",
            "d_state": D_STATE,
            "threads": THREADS,
            "error_allowed_over_reference": ERROR_ALLOWED,
            "numba_first_use_s": round(told["cpu"]["first"], 1),
            "training_with_many_states": {
                "shape": MANY_STATES_SHAPE,
                "d_state": MANY_STATES,
                "all_states_mib": every_state / 2**20,
            }
            | {
                f"{name}_peak_memory_mib": round(told[name]["many"] / 2**20, 1)
                for name in FUSED_OR_CHUNKED
            },
        },
        folder=given.out,
    )
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
