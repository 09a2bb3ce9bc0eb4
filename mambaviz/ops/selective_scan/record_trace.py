"""Record what the fused scan's forward kernel does, statement by statement.

    python -m mambaviz.ops.selective_scan.record_trace --out trace.json

The kernel is that of ``kernels.py`` itself, started by ``fused.py`` itself,
in Triton's interpreter: there every operation of the kernel is one of NumPy,
and every statement one of Python. Python tells which statement comes next
(``sys.settrace``), and what reads or writes memory goes through two functions
of the interpreter, in whose place stand ours for the time of the launch.

So it does not need a GPU, and cannot drift from the source. What it rests on
in Triton is looked for first, and checked afterwards: a statement that says
``tl.load`` or ``tl.store`` and does not come by here is an error, and so is
any other way to memory.

The interpreter is chosen when Triton decorates a kernel, hence in a process
of its own, or with TRITON_INTERPRET=1 from the start.
"""

import argparse
import ast
import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType

import numpy as np
import torch
from torch import Tensor

from mambaviz.ops.selective_scan import selective_scan, unavailable
from mambaviz.ops.selective_scan.trace import (
    Access,
    Function,
    Register,
    Step,
    Trace,
    TracedTensor,
)

# What the kernel calls otherwise than the door does.
AT_THE_DOOR = {
    "bias": "delta_bias",
    "initial": "initial_state",
    "last": "last_state",
}
# Called by the interpreter for each pair of elements: the scan is one step.
WITHIN_A_SCAN = {"compose"}


def example() -> dict[str, Tensor | bool]:
    """Twelve steps of four channels with two states, in eighths.

    A tile is 8 steps, so the second is not full; nor are 32 lanes.
    """
    batch, length, d_inner, d_state = 1, 12, 4, 2
    generator = torch.Generator().manual_seed(0)

    def eighths(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator)
        return (8 * values).round() / 8

    return {
        "x": eighths(batch, length, d_inner),
        "delta": eighths(batch, length, d_inner),
        "A": -torch.arange(1.0, d_state + 1).repeat(d_inner, 1),
        "B": eighths(batch, length, d_state),
        "C": eighths(batch, length, d_state),
        "D": torch.ones(d_inner),
        "z": eighths(batch, length, d_inner),
        "delta_bias": eighths(d_inner) - 1,
        "delta_softplus": True,
    }


def record(**arguments: Tensor | bool | None) -> Trace:
    """The trace of ``selective_scan(**arguments, backend="fused")``.

    Args:
        arguments: float32 tensors on the CPU, without gaps; small enough
            for one program, which has one sequence and up to 32 channels.

    Raises:
        RuntimeError: the kernels are not interpreted, or Triton's
            interpreter is not as it was.
        ValueError: the arguments take more than one program, or another
            precision.
    """
    reason = unavailable("fused")
    if reason is not None:
        raise RuntimeError(f"there is no kernel to trace: {reason}")
    kernels = sys.modules[f"{__package__}.fused"].kernels
    launch = _Launch(kernels, arguments["x"].shape[2])
    genuine = kernels.forward
    kernels.forward = launch
    try:
        with torch.no_grad():
            selective_scan(**arguments, backend="fused")
    finally:
        kernels.forward = genuine
    return launch.trace


class _Launch:
    """Stands in for a kernel: runs it once, and keeps what it did."""

    def __init__(self, kernels: ModuleType, lanes: int) -> None:
        self.kernel = kernels.forward
        self.all_lanes = kernels.LANES.value
        self.lanes = lanes
        self.trace = None
        if not hasattr(self.kernel, "rewrite"):
            raise RuntimeError(
                "the kernels were imported to be compiled; set "
                "TRITON_INTERPRET=1 before anything imports Triton"
            )

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        if grid != (1,) or self.trace is not None:
            raise ValueError(
                f"a trace is of one program and one launch; got a grid of "
                f"{grid}; take one sequence and up to {self.all_lanes} "
                "channels"
            )
        return self._run

    def _run(self, **arguments: object) -> None:
        memory, others = {}, {}
        for parameter in self.kernel.arg_names:
            value = arguments[parameter]
            if not isinstance(value, Tensor):
                others[parameter] = value
            elif value.numel():
                name = parameter.removesuffix("_ptr")
                name = AT_THE_DOOR.get(name, name)
                # What is not used points to what came before.
                memory.setdefault(value.data_ptr(), (name, value))
        tensors = {name: tensor for name, tensor in memory.values()}
        source = _Source(Path(self.kernel.fn.__code__.co_filename))
        recorder = _Recorder(
            source, tensors, self.kernel.fn.__name__, self.all_lanes,
            self.lanes,
        )  # fmt: skip
        with _in_place_of_memory(recorder):
            before = sys.gettrace()
            sys.settrace(recorder.on_call)
            try:
                self.kernel[(1,)](**arguments)
            except Exception as error:
                # Out of the interpreter's wrapping, one for each function.
                while error.__cause__ is not None:
                    error = error.__cause__
                raise error
            finally:
                sys.settrace(before)
        used = {
            access.tensor
            for step in recorder.steps
            for access in (*step.loads, *step.stores)
        }
        self.trace = Trace(
            kernel=self.kernel.fn.__name__,
            source_sha256=source.sha256,
            lanes=self.lanes,
            arguments=others,
            tensors={
                name: TracedTensor(
                    str(tensor.dtype).removeprefix("torch."),
                    tuple(tensor.shape),
                    _numbers(tensor.numpy()),
                )
                for name, tensor in tensors.items()
                if name in used
            },
            functions={
                name: source.functions[name] for name in recorder.entered
            },
            steps=tuple(recorder.steps),
        )
        self._check(self.trace)

    @staticmethod
    def _check(trace: Trace) -> None:
        """What was written is what is there in the end."""
        for name, tensor in trace.tensors.items():
            for element, value in trace.written(name).items():
                if tensor.values[element] != value:
                    raise RuntimeError(
                        f"{name} has {tensor.values[element]} at {element}, "
                        f"and the trace wrote {value}"
                    )


class _Source:
    """The kernels' file: its functions, and where its statements begin."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        content = path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.lines = content.decode().splitlines()
        self.begins: dict[int, int] = {}
        self.functions: dict[str, Function] = {}
        for node in ast.parse(content).body:
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = self._function(node)

    def _function(self, node: ast.FunctionDef) -> Function:
        ends = {}
        for statement in ast.walk(node):
            if not isinstance(statement, ast.stmt):
                continue
            first, last = statement.lineno, statement.end_lineno
            if body := getattr(statement, "body", None):
                # Of a loop or a condition, its head; an else is no statement.
                last = max(first, body[0].lineno - 1)
                if isinstance(statement, ast.FunctionDef):
                    last = _end_of_signature(node, self.lines)
            self.begins |= dict.fromkeys(range(first, last + 1), first)
            if last > first:
                ends[first] = last
        lines = self.lines[node.lineno - 1 : node.end_lineno]
        return Function(node.lineno, tuple(lines), dict(sorted(ends.items())))

    def text(self, line: int) -> str:
        """All lines of the statement that begins there."""
        return "\n".join(
            self.lines[at - 1]
            for at, first in sorted(self.begins.items())
            if first == line
        )


def _end_of_signature(node: ast.FunctionDef, lines: list[str]) -> int:
    """The line with the colon, which comes before a docstring."""
    last = node.body[0].lineno - 1
    while not lines[last - 1].partition("#")[0].rstrip().endswith(":"):
        last -= 1
    return last


class _Open:
    """A function that is being executed, and its statement."""

    def __init__(self, frame: FrameType) -> None:
        self.frame = frame
        self.line: int | None = None
        self.goes_on = False
        self.seen: dict[str, object] = {}  # held, so that no id comes twice
        self.calls = {"load": 0, "store": 0}  # to memory, of the statement


class _Recorder:
    """Follows Python through the kernel, and the kernel to memory."""

    def __init__(
        self,
        source: _Source,
        tensors: dict[str, Tensor],
        kernel: str,
        all_lanes: int,
        lanes: int,
    ) -> None:
        self.source, self.tensors, self.kernel = source, tensors, kernel
        self.all_lanes, self.lanes = all_lanes, lanes
        self.steps: list[Step] = []
        self.entered: list[str] = []
        self.stack: list[_Open] = []
        self.loads: list[Access] = []
        self.stores: list[Access] = []
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32 or not tensor.is_contiguous():
                raise ValueError(
                    "a trace is of float32 tensors without gaps; "
                    f"{name} is {tensor.dtype} with strides {tensor.stride()}"
                )

    def on_call(
        self, frame: FrameType, event: str, _: object
    ) -> Callable | None:
        """For ``sys.settrace``: whether a function is the kernel's."""
        name = frame.f_code.co_name
        if frame.f_code.co_filename != self.source.path or name == "<module>":
            return None  # the interpreter defines a function in a module
        caller = frame.f_back and frame.f_back.f_back
        if self.stack and caller is not self.stack[-1].frame:
            if name not in WITHIN_A_SCAN:
                raise self._changed(f"it called {name} in another way")
            return None
        if not self.stack and name != self.kernel:
            raise self._changed(f"it began with {name}")
        if self.stack:
            self._close()
            self.stack[-1].goes_on = True
        self.stack.append(_Open(frame))
        if name not in self.entered:
            self.entered.append(name)
        opened = self.stack[-1]
        if len(self.stack) > 1:
            opened.line = self.source.functions[name].first
        else:
            opened.seen = dict(frame.f_locals)  # these are the head's
        return self._on_event

    def _on_event(
        self, frame: FrameType, event: str, _: object
    ) -> Callable | None:
        top = self.stack[-1]
        if top.frame is not frame:
            raise self._changed("it went on in another function")
        if event == "line":
            first = self.source.begins[frame.f_lineno]
            if first != top.line:
                self._finish()
                top.line = first
        elif event == "return":
            self._finish()
            self.stack.pop()
        return self._on_event

    def _finish(self) -> None:
        """A statement has ended: what it said of memory must have come."""
        top = self.stack[-1]
        if top.line is None:
            return
        self._close()
        text = self.source.text(top.line)
        for verb, calls in top.calls.items():
            if calls != text.count(f"tl.{verb}("):
                raise self._changed(
                    f"line {top.line} has {text.count(f'tl.{verb}(')} "
                    f"tl.{verb}, of which {calls} came by"
                )
        top.calls = {"load": 0, "store": 0}
        top.goes_on = False

    def _close(self) -> None:
        """Write down a statement, so far as it has come."""
        top = self.stack[-1]
        now = dict(top.frame.f_locals)
        registers = {
            name: shown
            for name, value in now.items()
            if (name not in top.seen or top.seen[name] is not value)
            and (shown := self._show(value)) is not Ellipsis
            and (name not in top.seen or shown != self._show(top.seen[name]))
        }
        top.seen = now
        loads, stores = tuple(self.loads), tuple(self.stores)
        self.loads, self.stores = [], []
        if top.goes_on and not (registers or loads or stores):
            return
        depth = len(self.stack) - 1
        self.steps.append(
            Step(top.line, depth, top.goes_on, registers, loads, stores)
        )

    def _show(self, value: object) -> Register:
        """A register; an Ellipsis if it points to no tensor."""
        value = getattr(value, "value", value)  # of a constexpr
        if value is None or isinstance(value, bool | int | float | str):
            return value
        handle = getattr(value, "handle", None)
        data = getattr(handle, "data", None)
        if not isinstance(data, np.ndarray):
            raise self._changed(f"a register is a {type(value).__name__}")
        is_block = value.type.is_block()
        for axis, size in enumerate(data.shape):
            if is_block and size == self.all_lanes:
                data = data.take(range(self.lanes), axis)
        if value.dtype.is_ptr():
            place = self._place(data)
            if place is None:
                return ...
            tensor, elements = place
            shape = list(data.shape) if is_block else []
            at = elements.flatten().tolist()
            return {"tensor": tensor, "shape": shape, "at": at}
        numbers = _numbers(data)
        if not is_block:
            return numbers[0]
        return {
            "dtype": data.dtype.name,
            "shape": list(data.shape),
            "values": list(numbers),
        }

    def _place(self, addresses: np.ndarray) -> tuple[str, np.ndarray] | None:
        """The tensor that all addresses are in, and the elements there."""
        addresses = addresses.astype(np.int64)
        for name, tensor in self.tensors.items():
            offsets = addresses - tensor.data_ptr()
            size = tensor.element_size()
            inside = (offsets >= 0) & (offsets < tensor.numel() * size)
            if inside.all():
                return name, offsets // size
        return None

    def on_access(
        self,
        verb: str,
        addresses: np.ndarray,
        mask: np.ndarray,
        values: np.ndarray | None = None,
    ) -> None:
        """The kernel reads or writes, where the mask is true."""
        top = self.stack[-1]
        top.calls[verb] += 1
        mask = np.broadcast_to(mask, addresses.shape).astype(bool)
        addresses = addresses[mask]
        if not addresses.size:
            return
        place = self._place(addresses)
        if place is None:
            raise ValueError(
                f"line {top.line} has a {verb} outside of every tensor"
            )
        name, elements = place
        elements, first = np.unique(elements, return_index=True)
        if verb == "load":
            accesses, written = self.loads, None
        elif len(first) == len(addresses):
            values = np.broadcast_to(values, mask.shape)[mask]
            accesses, written = self.stores, _numbers(values[first])
        else:
            raise ValueError(f"line {top.line} writes an element twice")
        size = self.tensors[name].element_size()
        accesses.append(Access(name, tuple(elements.tolist()), size, written))

    def _changed(self, how: str) -> RuntimeError:
        import triton

        return RuntimeError(
            f"the interpreter of triton {triton.__version__} is not the one "
            f"that a trace was written for (3.7): {how}"
        )


class _Memory:
    """Stands in for the functions by which the interpreter gets to memory."""

    def __init__(self, genuine: ModuleType, recorder: _Recorder) -> None:
        self._genuine, self._recorder = genuine, recorder

    def load(
        self,
        addresses: np.ndarray,
        mask: np.ndarray,
        other: np.ndarray,
        dtype: np.dtype,
    ) -> np.ndarray:
        """As the interpreter calls it."""
        self._recorder.on_access("load", addresses, mask)
        return self._genuine.load(addresses, mask, other, dtype)

    def store(
        self, addresses: np.ndarray, values: np.ndarray, mask: np.ndarray
    ) -> None:
        """As the interpreter calls it."""
        self._recorder.on_access("store", addresses, mask, values)
        self._genuine.store(addresses, values, mask)

    def __getattr__(self, name: str) -> None:
        raise self._recorder._changed(f"it got to memory by {name}")


@contextlib.contextmanager
def _in_place_of_memory(recorder: _Recorder) -> Iterator[None]:
    from triton.runtime import interpreter

    genuine = getattr(interpreter, "_interpreter", None)
    for name in ("load", "store"):
        if not hasattr(genuine, name):
            raise recorder._changed(f"it has no _interpreter.{name}")
    interpreter._interpreter = _Memory(genuine, recorder)
    try:
        yield
    finally:
        interpreter._interpreter = genuine


def _numbers(values: np.ndarray) -> tuple[bool | int | float, ...]:
    """Flat; each float32 by the fewest digits that give it back."""
    flat = values.flatten()
    if flat.dtype == np.float32:
        return tuple(float(str(value)) for value in flat)
    return tuple(flat.tolist())


def main() -> None:
    """Write the trace of the example."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="where to write the trace"
    )
    options = parser.parse_args()
    os.environ["TRITON_INTERPRET"] = "1"
    trace = record(**example())
    options.out.write_text(trace.to_json(), encoding="utf-8")
    print(
        f"{options.out}: {len(trace.steps)} steps, "
        f"{trace.bytes_so_far()[-1]} bytes read and written"
    )


if __name__ == "__main__":
    main()
