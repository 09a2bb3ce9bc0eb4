"""Kernels start on the GPU of their tensors, whichever is the current one."""

import pytest
import torch

pytest.importorskip("triton")

from mambaviz.ops.causal_conv1d import causal_conv1d, causal_conv1d_step
from mambaviz.ops.rms_norm import rms_norm
from mambaviz.ops.selective_scan import selective_scan, selective_scan_step

BATCH, LENGTH, D_INNER, D_STATE = 2, 600, 64, 16


def given(device: str) -> dict[str, torch.Tensor]:
    """The same numbers on each device."""
    at_random = torch.Generator().manual_seed(0)
    shapes = {
        "x": (BATCH, LENGTH, D_INNER),
        "delta": (BATCH, LENGTH, D_INNER),
        "A": (D_INNER, D_STATE),
        "B": (BATCH, LENGTH, D_STATE),
        "C": (BATCH, LENGTH, D_STATE),
    }
    tensors = {
        name: torch.randn(*shape, generator=at_random)
        for name, shape in shapes.items()
    }
    tensors["A"] = -tensors["A"].exp()
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def scan(device: str) -> list[torch.Tensor]:
    """So long that time is cut into chunks: every kernel of the scan."""
    tensors = given(device)
    for tensor in tensors.values():
        tensor.requires_grad_()
    y = selective_scan(**tensors, delta_softplus=True, backend="fused")
    y.square().sum().backward()
    return [y, *(tensor.grad for tensor in tensors.values())]


def scan_step(device: str) -> list[torch.Tensor]:
    tensors = {
        name: tensor if name == "A" else tensor[:, 0]
        for name, tensor in given(device).items()
    }
    state = torch.ones(BATCH, D_INNER, D_STATE, device=device)
    return [*selective_scan_step(state, **tensors, delta_softplus=True)]


def convolution(device: str) -> list[torch.Tensor]:
    tensors = given(device)
    x = tensors["x"].requires_grad_()
    weight = tensors["A"][:, :4].contiguous().requires_grad_()
    y = causal_conv1d(x, weight)
    y.square().sum().backward()
    return [y, x.grad, weight.grad]


def convolution_step(device: str) -> list[torch.Tensor]:
    tensors = given(device)
    state = torch.ones(BATCH, D_INNER, 3, device=device)
    weight = tensors["A"][:, :4]
    return [*causal_conv1d_step(state, tensors["x"][:, 0], weight)]


def norm(device: str) -> list[torch.Tensor]:
    tensors = given(device)
    return [rms_norm(tensors["x"], tensors["x"][0, 0])]


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
