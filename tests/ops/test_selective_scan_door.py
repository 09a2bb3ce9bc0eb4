"""The door: what it refuses, and which backend it opens to."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import mambaviz.ops.selective_scan as door
from mambaviz.ops.selective_scan import (
    BACKENDS,
    selective_scan,
    selective_scan_step,
    unavailable,
)
from tests.ops.scan_cases import TENSORS, case, in_dtype, run, scan_by

CALLS = {
    "d_state": {"d_state": 4},
    "complex": {"is_complex": True},
}


def test_tensors_that_do_not_fit_are_stopped_by_the_signature():
    import jaxtyping

    a = case()
    for name in (n for n in TENSORS if n not in ("B", "C")):
        with pytest.raises(jaxtyping.TypeCheckError):
            selective_scan(**(a | {name: a[name][..., :1]}))


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


@pytest.mark.usefixtures("outside_tests")
class TestRefusals:
    """What a reader sees, who runs without the shape checks."""

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"x": ones(2, 6)}, r"x .*\(batch, length, d_inner\); .*\(2, 6\)"),
            ({"x": ones(2, 0, 6)}, r"length .*least 1; .* \(2, 0, 6\)"),
            ({"x": ones(0, 37, 6)}, r"batch, .*least 1; .* \(0, 37, 6\)"),
            ({"x": ones(2, 37, 0)}, r"d_inner .*least 1; .* \(2, 37, 0\)"),
            ({"delta": ones(2, 36, 6)}, r"delta .*\(2, 37, 6\); .*36"),
            ({"A": ones(3, 6)}, r"A .*here \(6, at least 1\); .*\(3, 6\)"),
            ({"A": ones(6)}, r"A .*got \(6,\)"),
            ({"A": ones(6, 0)}, r"A .*got \(6, 0\)"),
            ({"B": ones(2, 37, 4)}, r"B .*\(2, 37, 3\), .*\(2, 37, 4\)"),
            ({"B": ones(3, 6)}, r"fixed B .*\(6, 3\); got \(3, 6\)"),
            ({"C": ones(2, 3, 37)}, r"C .*got \(2, 3, 37\)"),
            ({"C": ones(2, 37, 4, 3)}, r"C must divide d_inner = 6; got 4"),
            ({"C": ones(2, 37, 0, 3)}, r"C must divide d_inner = 6; got 0"),
            ({"C": ones(2, 37, 2, 1, 3)}, r"C .*got \(2, 37, 2, 1, 3\)"),
            ({"B": ones(3)}, r"B .*got \(3,\)"),
            ({"D": ones(3)}, r"D .*\(6,\); got \(3,\)"),
            ({"z": ones(2, 37, 1)}, r"z .*\(2, 37, 6\); got \(2, 37, 1\)"),
            ({"delta_bias": ones(1, 6)}, r"delta_bias .*\(6,\); got \(1, 6\)"),
            ({"initial_state": ones(2, 3, 6)}, r"initial_state .*\(2, 6, 3\)"),
            ({"reset": ones(37, 2).bool()}, r"reset .*\(2, 37\)"),
            ({"reset": ones(2, 37)}, r"reset .*bool; got torch.float32"),
            ({"x": ones(2, 37, 6).int()}, "x must be .* got torch.int32"),
            ({"z": ones(2, 37, 6).cfloat()}, "z must be .* torch.complex64"),
            ({"D": ones(6).bool()}, "D must be .* got torch.bool"),
            ({"A": ones(6, 3).long()}, "A must be .* got torch.int64"),
            (
                {"B": ones(6, 3).cfloat()},
                r"B may be complex only if A is; got .*complex64 .*float64",
            ),
            (
                {"initial_state": ones(2, 6, 3).cdouble()},
                "the state may be complex only if A is",
            ),
            (
                {"C": torch.ones(6, 3, device="meta")},
                "C must be on the device of x, cpu; got meta",
            ),
            ({"backend": "cuda"}, "reference, .*, fused; got 'cuda'"),
        ],
    )
    def test_of_a_sequence(self, wrong, words):
        with pytest.raises(ValueError, match=words):
            selective_scan(**(case() | wrong))

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"x": ones(2, 1, 6)}, r"x .*\(batch, d_inner\); got \(2, 1, 6\)"),
            (
                {"state": ones(2, 3, 6)},
                r"state .*\(2, 6, 3\); got \(2, 3, 6\)",
            ),
            ({"delta": ones(6)}, r"delta .*\(2, 6\); got \(6,\)"),
            ({"A": ones(3, 3)}, r"A .*got \(3, 3\)"),
            ({"B": ones(6, 3)}, "B has the shape of A, .*fixed_B=True"),
            ({"C": ones(6, 3)}, "C has the shape of A, .*fixed_C=True"),
            ({"C": ones(2, 4, 3)}, "C must divide d_inner = 6; got 4"),
            ({"C": ones(2, 4)}, r"C .*got \(2, 4\)"),
            (
                {"B": ones(2, 3), "fixed_B": True},
                r"fixed B .*\(6, 3\); got \(2, 3\)",
            ),
            ({"z": ones(2, 6).int()}, "z must be .* got torch.int32"),
            (
                {"A": torch.ones(6, 3, device="meta")},
                "A must be on the device of x, cpu; got meta",
            ),
        ],
    )
    def test_of_a_step(self, wrong, words):
        step = {
            "state": ones(2, 6, 3),
            "x": ones(2, 6),
            "delta": ones(2, 6),
            "A": -ones(6, 3),
            "B": ones(2, 3),
            "C": ones(2, 3),
        }
        selective_scan_step(**step)
        with pytest.raises(ValueError, match=words):
            selective_scan_step(**(step | wrong))


class Refusing:
    """A backend that is there and can nothing."""

    @staticmethod
    def refusal(*tensors):
        return "it has no wings"

    @staticmethod
    def run(*arguments):
        raise AssertionError("it was asked all the same")


class TestChoice:
    def test_a_named_backend_that_is_missing(self, monkeypatch):
        monkeypatch.delitem(door._loaded, "cpu", raising=False)
        monkeypatch.setitem(door._missing, "cpu", "numba is not here")
        with pytest.raises(
            RuntimeError,
            match='"cpu" is not available here: numba is not here; '
            "these can do it: reference, associative, chunked",
        ):
            selective_scan(**case(), backend="cpu")

    def test_a_named_backend_that_cannot(self, monkeypatch):
        monkeypatch.delitem(door._missing, "fused", raising=False)
        monkeypatch.setitem(door._loaded, "fused", Refusing)
        with pytest.raises(
            ValueError,
            match='"fused" cannot do this: it has no wings; '
            "these can: reference, associative, chunked",
        ):
            selective_scan(**case(), backend="fused")

    def test_auto_goes_on_where_the_best_cannot(self, monkeypatch, recwarn):
        monkeypatch.delitem(door._missing, "cpu", raising=False)
        monkeypatch.setitem(door._loaded, "cpu", Refusing)
        a = in_dtype(case(), torch.float32)
        assert torch.equal(
            selective_scan(**a), selective_scan(**a, backend="chunked")
        )
        assert not recwarn.list

    def test_auto_says_once_what_is_missing(self, monkeypatch):
        monkeypatch.delitem(door._loaded, "cpu", raising=False)
        monkeypatch.setitem(door._missing, "cpu", "numba is not here")
        monkeypatch.setattr(door, "_noticed", set())
        a = in_dtype(case(), torch.float32)
        with pytest.warns(UserWarning, match="numba is not here") as said:
            first = selective_scan(**a)
        assert len(said) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            second = selective_scan(**a)
        assert torch.equal(first, second)
        assert torch.equal(first, selective_scan(**a, backend="chunked"))

    def test_auto_is_cpu_where_numba_is(self):
        pytest.importorskip("numba")
        assert unavailable("cpu") is None
        a = in_dtype(case(), torch.float32)
        for what, value in run(scan_by("cpu"), a).items():
            assert torch.equal(run(scan_by("auto"), a)[what], value), what

    def test_auto_takes_whatever_the_door_takes(self):
        for kinds in (
            {"is_complex": True},
            {"B": "fixed", "C": 2},
            {"d_inner": 1, "d_state": 33, "length": 1},
        ):
            selective_scan(**case(**kinds))

    def test_unknown(self):
        with pytest.raises(ValueError, match="'tpu'"):
            unavailable("tpu")

    @pytest.mark.parametrize("backend", ["reference", "chunked"])
    def test_plain_pytorch_is_always_there(self, backend):
        assert backend in BACKENDS
        assert unavailable(backend) is None


def test_without_numba_and_triton_everything_runs():
    """In a process in which they cannot be imported, and are not tried."""
    program = """
import sys, warnings
sys.modules["numba"] = sys.modules["triton"] = None
import torch
import mambaviz.ops.causal_conv1d
import mambaviz.ops.selective_scan.official
from mambaviz.ops.selective_scan import selective_scan
x, A, B = torch.randn(1, 9, 4), -torch.rand(4, 2), torch.randn(1, 9, 2)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    y = selective_scan(x, x.exp(), A, B, B)
    selective_scan(x, x.exp(), A, B, B)
assert ["numba" in str(w.message) for w in said] == [True], said
assert torch.allclose(
    y, selective_scan(x, x.exp(), A, B, B, backend="reference"), atol=1e-5
)
for backend in ("cpu", "fused"):
    try:
        selective_scan(x, x, A, B, B, backend=backend)
    except RuntimeError as error:
        assert "cannot be imported" in str(error), error
    else:
        raise AssertionError(backend)
"""
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        check=True,
    )


def test_a_triton_too_old_for_the_kernels_is_as_good_as_none():
    """As PyTorch up to 2.8 brings it; it is named, and nothing breaks."""
    program = """
import triton
triton.__version__ = "3.4.0"
import torch
from mambaviz.ops import causal_conv1d
from mambaviz.ops.selective_scan import unavailable
reason = unavailable("fused")
assert "Triton 3.5 or newer" in reason and "3.4.0" in reason, reason
assert not causal_conv1d._has_kernels()
"""
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        check=True,
    )


def test_plain_pytorch_imports_neither_nor_the_compiler():
    """Which would take longer than all else that a short program does."""
    program = """
import sys, torch
from mambaviz.ops.selective_scan import selective_scan
x, A, B = torch.randn(1, 9, 4), -torch.rand(4, 2), torch.randn(1, 9, 2)
x.requires_grad_()
for backend in ("reference", "associative", "chunked"):
    selective_scan(x, x.exp(), A, B, B, backend=backend).sum().backward()
found = {"numba", "triton", "torch._dynamo", "matplotlib"} & set(sys.modules)
assert not found, found
"""
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        check=True,
    )
