"""The trace of the fused kernel: its bytes, its values and its lines."""

import itertools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from mambaviz.ops.selective_scan import record_trace, selective_scan
from mambaviz.ops.selective_scan.trace import Trace, read_trace
from mambaviz.theory import fused_scan_traffic

KERNELS = Path(record_trace.__file__).with_name("kernels.py")
SIZES = {"batch": 1, "length": 12, "d_inner": 4, "d_state": 2}
FLOAT = 4  # bytes


def python(*arguments: str) -> subprocess.CompletedProcess:
    """A process of its own: Triton chooses once how kernels run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def recorded(path: Path) -> Path:
    module = "mambaviz.ops.selective_scan.record_trace"
    done = python("-m", module, "--out", str(path))
    assert done.returncode == 0, done.stderr[-2000:]
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return recorded(tmp_path_factory.mktemp("trace") / "trace.json")


@pytest.fixture(scope="module")
def trace(path) -> Trace:
    return read_trace(path)


def formula(
    length: int, d_inner: int, d_state: int, **_: int
) -> dict[str, int]:
    """Bytes by the ledger of the book, and what the kernel has beyond it.

    The ledger is of h_t = A_bar h_{t-1} + B_bar x_t, y_t = C_t . h_t and the
    gate. Skip, bias and last state are not in it: d_inner (2 + d_state).
    """
    ledger = fused_scan_traffic(1, length, d_inner, d_state, is_gated=True)
    assert all(entry.times == 1 for entry in ledger)
    elements = {entry.name: entry.count for entry in ledger}
    beyond = {
        "read D": d_inner,
        "read delta_bias": d_inner,
        "write last_state": d_inner * d_state,
    }
    assert not elements.keys() & beyond.keys()
    return {k: FLOAT * n for k, n in (elements | beyond).items()}


def test_bytes_are_those_of_the_formula(trace):
    expected = formula(**SIZES)
    assert trace.traffic() == expected
    so_far = trace.bytes_so_far()
    assert so_far[-1] == sum(expected.values()) == 1056
    assert so_far == sorted(so_far)
    assert len(so_far) == len(trace.steps)


def touched(trace: Trace, kind: str) -> dict[str, list[int]]:
    """The elements of each tensor, as often as they are asked for."""
    found = {}
    for step in trace.steps:
        for access in getattr(step, kind):
            found.setdefault(access.tensor, []).extend(access.elements)
    return found


def test_every_element_is_read_once_or_written_once(trace):
    loads, stores = touched(trace, "loads"), touched(trace, "stores")
    assert loads.keys() == {*"xzABCD"} | {"delta", "delta_bias"}
    assert stores.keys() == {"y", "last_state"}
    assert trace.tensors.keys() == loads.keys() | stores.keys()
    for name, elements in [*loads.items(), *stores.items()]:
        size = math.prod(trace.tensors[name].shape)
        assert sorted(elements) == list(range(size)), name


def test_what_is_written_is_the_scan(trace):
    arguments = record_trace.example()
    exact = selective_scan(
        **{
            name: value.double() if isinstance(value, torch.Tensor) else value
            for name, value in arguments.items()
        },
        return_last_state=True,
        backend="reference",
    )
    for name, expected in zip(("y", "last_state"), exact, strict=True):
        written = trace.written(name)
        found = torch.tensor([written[i] for i in range(expected.numel())])
        # A dozen steps, each with a few roundings of float32.
        torch.testing.assert_close(
            found.double(), expected.flatten(), rtol=2e-6, atol=2e-6
        )
        in_memory = torch.tensor(trace.tensors[name].values)
        assert torch.equal(in_memory, found)
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            traced = trace.tensors[name]
            assert traced.shape == tuple(value.shape) or name in "BC"
            assert traced.values == tuple(value.flatten().tolist())


def test_lines_are_those_of_the_kernels(trace):
    lines = KERNELS.read_text().splitlines()
    for name, function in trace.functions.items():
        assert function.lines[0].startswith(f"def {name}("), name
        first = function.first - 1
        assert lines[first : first + len(function.lines)] == [*function.lines]
    verbs = {"loads": "tl.load(", "stores": "tl.store("}
    for step in trace.steps:
        assert lines[step.line - 1].strip()
        assert trace.text(step).startswith(lines[step.line - 1])
        for kind, verb in verbs.items():
            if getattr(step, kind):
                assert verb in trace.text(step)
    assert trace.kernel == "forward"
    assert {trace.function(step) for step in trace.steps} == {*trace.functions}


def test_a_step_sets_what_its_statement_names(trace):
    """Registers change where the source assigns them, and nowhere else."""
    for step in trace.steps:
        text = trace.text(step)
        for name in step.registers:
            if text.startswith("def "):
                assert re.search(rf"\b{name}\b", text), (name, text)
            else:
                target = re.split(r" [+*/-]?= | in ", text)[0]
                assert re.search(rf"\b{name}\b", target), (name, text)


def test_functions_are_entered_and_left(trace):
    depths = [step.depth for step in trace.steps]
    assert depths[0] == 0
    # Out of several functions at once, where each returns what it got.
    assert max(b - a for a, b in itertools.pairwise(depths)) == 1
    for before, step in itertools.pairwise(trace.steps):
        entered = trace.text(step).startswith("def ")
        assert entered == (step.depth > before.depth)
        if step.goes_on:
            assert step.depth < before.depth


def test_registers_hold_the_state(trace):
    """By hand: the state that the first tile ends with."""
    arguments = record_trace.example()
    x, delta, bias = (
        arguments[n].double() for n in ("x", "delta", "delta_bias")
    )
    A, B = arguments["A"].double(), arguments["B"].double()
    h = torch.zeros(4, 2, dtype=torch.float64)
    for t in range(8):
        dt = torch.log1p(torch.exp(delta[0, t] + bias))[:, None]
        h = torch.exp(dt * A) * h + dt * x[0, t][:, None] * B[0, t]
    values = [
        step.registers["h"]
        for step in trace.steps
        if "h" in step.registers and trace.function(step) == "forward"
    ]
    zero, first, _ = values
    assert set(zero["values"]) == {0}
    assert first["shape"] == [2, 4]
    found = torch.tensor(first["values"]).reshape(2, 4).T
    torch.testing.assert_close(found.double(), h, rtol=2e-6, atol=2e-6)


def test_the_same_bytes_every_time_and_few(path, tmp_path):
    text = path.read_bytes()
    assert recorded(tmp_path / "again.json").read_bytes() == text
    assert len(text) < 200_000
    assert Trace.from_json(text.decode()).to_json() == text.decode()


OTHER = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from mambaviz.ops.selective_scan.record_trace import record
x, delta, z = torch.randn(3, 1, 9, 5)
A, B, C = -torch.rand(5, 3), torch.randn(1, 9, 3), torch.randn(1, 9, 3)
D, bias, state = torch.ones(5), torch.zeros(5), torch.randn(1, 5, 3)
trace = record(
    x=x, delta=delta.exp(), A=A, B=B, C=C, D=D, z=z, delta_bias=bias,
    initial_state=state,
)
print(trace.to_json())
"""


def test_what_a_mask_leaves_out_does_not_count():
    """Three states in rows of four; and a state to begin with."""
    done = python("-c", OTHER)
    assert done.returncode == 0, done.stderr[-2000:]
    trace = Trace.from_json(done.stdout)
    sizes = {"length": 9, "d_inner": 5, "d_state": 3}
    assert trace.arguments["NP"] == 4
    first = {"read initial_state": FLOAT * 5 * 3}
    assert trace.traffic() == formula(**sizes) | first


# A copy of the kernels with another line, in the place of the real ones.
CHANGED = """
import importlib.util, os, pathlib, sys, tempfile
os.environ["TRITON_INTERPRET"] = "1"
from mambaviz.ops.selective_scan import record_trace
path = pathlib.Path(record_trace.__file__).with_name("kernels.py")
text, (before, after) = path.read_text(), sys.argv[1:]
assert text.count(before) >= 1, before
name = "mambaviz.ops.selective_scan.kernels"
with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / "kernels.py"
    copy.write_text(text.replace(before, after))
    spec = importlib.util.spec_from_file_location(name, copy)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    print(record_trace.record(**record_trace.example()).to_json())
"""


def test_one_load_too_many_is_noticed():
    before = "        p = delta_ptr + own_time * delta_l + d[None, :]\n"
    done = python(
        "-c", CHANGED, before, f"        x += 0 * tl.load(p)\n{before}"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    traffic = Trace.from_json(done.stdout).traffic()
    expected = formula(**SIZES)
    assert traffic != expected
    assert traffic == expected | {"read x": 2 * expected["read x"]}


def test_a_mask_that_is_missing_is_noticed():
    """Lanes without a channel then write what is another's."""
    before = "tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), write)"
    done = python("-c", CHANGED, before, before.replace(", write", ""))
    assert done.returncode != 0
    assert re.search(r"line \d+ writes an element twice", done.stderr)


def test_another_way_to_memory_is_refused():
    before = "tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), write)"
    done = python("-c", CHANGED, before, "tl.atomic_add(y_ptr + at, y, write)")
    assert done.returncode != 0
    assert "it got to memory by atomic_rmw" in done.stderr


def test_kernels_that_were_compiled_are_refused():
    """Triton was told too late: the kernels are already another thing."""
    done = python(
        "-c",
        "from mambaviz.ops.selective_scan import record_trace, unavailable\n"
        "unavailable('fused')\n"
        "record_trace.record(**record_trace.example())",
    )
    assert done.returncode != 0
    assert "set TRITON_INTERPRET=1 before" in done.stderr
