"""What one program of a Triton kernel did, statement by statement.

``record_trace`` runs the kernel's own source and writes a trace; here is what
it holds, to be stepped through by whoever has no Triton: which statement, what
it read and wrote in memory, and which registers it changed.

**What a byte of traffic is.** An element that a statement asks for counts
once, however many lanes ask for it: lanes without a channel and steps after
the end repeat the last one that there is, and it is not fetched again for
them. Lanes that a mask leaves out count nothing. An element that is asked for
by two statements counts twice.

See: the chapter ``hardware-aware-scan``.
"""

import itertools
import json
import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

# A register: a number, a flag or a name; or an array, {"dtype", "shape",
# "values"}; or pointers, {"tensor", "shape", "at"}, each to an element of a
# tensor. Arrays are flat in C order, and of the lanes only ``Trace.lanes``
# are there.
Register = bool | int | float | str | None | dict


@dataclass(frozen=True)
class Access:
    """Elements of one tensor that a statement read or wrote.

    Args:
        tensor: its name, as at the door of ``selective_scan``.
        elements: flat indices, each once, in rising order.
        element_bytes: of one of them.
        values: what was written there; None for what was read.
    """

    tensor: str
    elements: tuple[int, ...]
    element_bytes: int
    values: tuple[float, ...] | None = None

    @property
    def bytes(self) -> int:
        """That count as traffic."""
        return len(self.elements) * self.element_bytes


@dataclass(frozen=True)
class Step:
    """A statement, or what is left of it once a function has returned.

    Args:
        line: its first line in ``kernels.py``.
        depth: functions around it: 0 in the kernel itself.
        goes_on: whether it began in an earlier step and goes on here, after
            a function that it called.
        registers: those that it set to something else. On the line of a
            ``def`` they are the function's arguments.
        loads: what it read.
        stores: what it wrote.
    """

    line: int
    depth: int
    goes_on: bool
    registers: dict[str, Register]
    loads: tuple[Access, ...]
    stores: tuple[Access, ...]

    @property
    def bytes(self) -> int:
        """Read and written."""
        return sum(access.bytes for access in (*self.loads, *self.stores))


@dataclass(frozen=True)
class Function:
    """The source of a function that was stepped through.

    Args:
        first: the line of its ``def`` in ``kernels.py``.
        lines: from there to its end.
        ends: of each statement of several lines, first line to last.
    """

    first: int
    lines: tuple[str, ...]
    ends: dict[int, int]


@dataclass(frozen=True)
class TracedTensor:
    """A tensor in memory; of an output, what it was in the end.

    Args:
        dtype: of its elements, as torch names it.
        shape: its axes.
        values: flat, in C order.
    """

    dtype: str
    shape: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Trace:
    """One program of one launch, from its first statement to its last.

    Args:
        kernel: its name in ``kernels.py``.
        source_sha256: of the file ``kernels.py`` that was run.
        lanes: how many of a program's lanes have a channel; others are not
            in the registers.
        arguments: numbers, flags and names that the kernel was given.
        tensors: those that it read or wrote.
        functions: the kernel and those that it called.
        steps: what was executed, in order.
    """

    kernel: str
    source_sha256: str
    lanes: int
    arguments: dict[str, Register]
    tensors: dict[str, TracedTensor]
    functions: dict[str, Function]
    steps: tuple[Step, ...]

    def function(self, step: Step) -> str:
        """The name of the function in which a step is."""
        for name, function in self.functions.items():
            if 0 <= step.line - function.first < len(function.lines):
                return name
        raise ValueError(f"line {step.line} is in no function of the trace")

    def text(self, step: Step) -> str:
        """The lines of a step's statement."""
        function = self.functions[self.function(step)]
        end = function.ends.get(step.line, step.line) - function.first
        return "\n".join(function.lines[step.line - function.first : end + 1])

    def bytes_so_far(self) -> list[int]:
        """Read and written until each step has ended."""
        return list(itertools.accumulate(step.bytes for step in self.steps))

    def traffic(self) -> dict[str, int]:
        """Bytes of each tensor, under the names of the ledger in theory.

        Keys are such as "read x" and "write y": see
        ``mambaviz.theory.fused_scan_traffic``.
        """
        total = {}
        for step in self.steps:
            for verb, accesses in (
                ("read", step.loads),
                ("write", step.stores),
            ):
                for access in accesses:
                    key = f"{verb} {access.tensor}"
                    total[key] = total.get(key, 0) + access.bytes
        return total

    def written(self, tensor: str) -> dict[int, float]:
        """What the steps wrote to a tensor, from element to value."""
        return {
            element: value
            for step in self.steps
            for access in step.stores
            if access.tensor == tensor
            for element, value in zip(
                access.elements, access.values, strict=True
            )
        }

    def to_json(self) -> str:
        """Compact, a line for each step, and the same for the same trace."""
        head = {
            "kernel": self.kernel,
            "source_sha256": self.source_sha256,
            "lanes": self.lanes,
            "arguments": self.arguments,
            "tensors": {
                name: {
                    "dtype": tensor.dtype,
                    "shape": tensor.shape,
                    "values": tensor.values,
                }
                for name, tensor in self.tensors.items()
            },
            "functions": {
                name: {
                    "first": function.first,
                    "lines": function.lines,
                    "ends": function.ends,
                }
                for name, function in self.functions.items()
            },
        }
        lines = [f'"{key}":{_compact(value)}' for key, value in head.items()]
        steps = ",\n".join(
            _compact(_step_to_json(step)) for step in self.steps
        )
        return "{" + ",\n".join(lines) + f',\n"steps":[\n{steps}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> "Trace":
        """What ``to_json`` wrote."""
        found = json.loads(text)
        return cls(
            kernel=found["kernel"],
            source_sha256=found["source_sha256"],
            lanes=found["lanes"],
            arguments=found["arguments"],
            tensors={
                name: TracedTensor(
                    tensor["dtype"],
                    tuple(tensor["shape"]),
                    tuple(tensor["values"]),
                )
                for name, tensor in found["tensors"].items()
            },
            functions={
                name: Function(
                    function["first"],
                    tuple(function["lines"]),
                    {int(a): b for a, b in function["ends"].items()},
                )
                for name, function in found["functions"].items()
            },
            steps=tuple(map(_step_from_json, found["steps"])),
        )


def read_trace(path: str | PathLike[str]) -> Trace:
    """A trace from its file.

    Raises:
        ValueError: an array of it has not as many values as its shape says.
    """
    trace = Trace.from_json(Path(path).read_text(encoding="utf-8"))
    for name, tensor in trace.tensors.items():
        if len(tensor.values) != math.prod(tensor.shape):
            raise ValueError(
                f"{name} has the shape {tensor.shape} and "
                f"{len(tensor.values)} values"
            )
    return trace


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _step_to_json(step: Step) -> dict:
    """What is empty is left out, and elements are in runs."""
    record = {"line": step.line, "depth": step.depth}
    if step.goes_on:
        record["goes_on"] = True
    if step.registers:
        record["registers"] = step.registers
    for key in ("loads", "stores"):
        if accesses := getattr(step, key):
            record[key] = [_access_to_json(access) for access in accesses]
    return record


def _step_from_json(record: dict) -> Step:
    return Step(
        record["line"],
        record["depth"],
        record.get("goes_on", False),
        record.get("registers", {}),
        *(
            tuple(map(_access_from_json, record.get(key, ())))
            for key in ("loads", "stores")
        ),
    )


def _access_to_json(access: Access) -> dict:
    """``runs`` are pairs of a first element and how many follow each other."""
    runs = []
    for element in access.elements:
        if runs and element == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([element, 1])
    record = {
        "tensor": access.tensor,
        "runs": runs,
        "bytes": access.bytes,
    }
    if access.values is not None:
        record["values"] = access.values
    return record


def _access_from_json(record: dict) -> Access:
    elements = tuple(
        element
        for first, count in record["runs"]
        for element in range(first, first + count)
    )
    values = record.get("values")
    return Access(
        record["tensor"],
        elements,
        record["bytes"] // len(elements),
        None if values is None else tuple(values),
    )
