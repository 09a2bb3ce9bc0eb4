"""Kernels start on the GPU of their tensors, whichever is the current one."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from mambaviz.ops.causal_conv1d import causal_conv1d, causal_conv1d_step
from mambaviz.ops.rms_norm import rms_norm
from mambaviz.ops.selective_scan import selective_scan_step
from tests.ops import test_causal_conv1d
from tests.ops.scan_cases import case, in_dtype, run, scan_by

LENGTH = 600  # on a GPU, chunks of time


def given(arguments: dict, device: str) -> dict:
    """In float32 on a device."""
    return {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in in_dtype(arguments, torch.float32).items()
    }


def scan(device: str, length: int = LENGTH) -> list[Tensor]:
    """Every kernel of it."""
    tensors = given(case(length=length, d_inner=64, d_state=16), device)
    return [*run(scan_by("fused"), tensors).values()]


def scan_step(device: str) -> list[Tensor]:
    a = given(case(length=1, d_inner=64, d_state=16), device)
    now = {n: a[n][:, 0] for n in ("x", "delta", "B", "C", "z")}
    rest = {n: a[n] for n in ("A", "D", "delta_bias", "delta_softplus")}
    return [*selective_scan_step(a["initial_state"], **now, **rest)]


def convolution(device: str) -> list[Tensor]:
    tensors = given(test_causal_conv1d.arguments(length=LENGTH), device)
    leaves = [tensor.requires_grad_() for tensor in tensors.values()]
    y = causal_conv1d(**tensors)
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


def convolution_step(device: str) -> list[Tensor]:
    a = given(test_causal_conv1d.arguments(length=1), device)
    weights = a["weight"], a["bias"]
    return [*causal_conv1d_step(a["initial_state"], a["x"][:, 0], *weights)]


def norm(device: str) -> list[Tensor]:
    x = given(case(), device)["x"]
    return [rms_norm(x, x[0, 0])]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize(
    "operation", [scan, scan_step, convolution, convolution_step, norm]
)
def test_another_gpu_gives_the_same_bits(operation):
    first, second = operation("cuda:0"), operation("cuda:1")
    assert torch.cuda.current_device() == 0
    for one, other in zip(first, second, strict=True):
        assert other.device == torch.device("cuda:1")
        assert torch.equal(one.cpu(), other.cpu())
