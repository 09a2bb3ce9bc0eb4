"""The norm: its formula, its kernel, and when which of them runs."""

import sys

import pytest
import torch
import torch.nn.functional as F

from mambaviz.ops.rms_norm import rms_norm
from tests.ops.far import Holes
from tests.ops.launches import launches

triton = pytest.importorskip("triton")
from mambaviz.ops.rms_norm import fused  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
PRECISIONS = [
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float32),
]


def given(*shape, dtypes=PRECISIONS[0]):
    torch.manual_seed(0)
    x = 30 * torch.randn(shape)
    weight = 1 + 0.1 * torch.randn(shape[-1])
    return x.to(DEVICE, dtypes[0]), weight.to(DEVICE, dtypes[1])


def exact(x, weight, eps):
    x, weight = x.double(), weight.double()
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def judge(y, x, weight, eps, cuts_off=False):
    """Each feature is off by one rounding at the end, and a few before."""
    assert y.dtype == weight.dtype
    assert y.shape == x.shape
    rounding = torch.finfo(y.dtype).eps / (1 if cuts_off else 2)
    expected = exact(x, weight, eps)
    limit = (rounding + 2**-21) * expected.abs()
    assert ((y - expected).abs() <= limit).all()


@pytest.mark.parametrize("dtypes", PRECISIONS)
@pytest.mark.parametrize("shape", [(3, 7, 64), (2, 5), (4, 1), (33,)])
def test_it_is_the_formula(shape, dtypes):
    x, weight = (t.cpu() for t in given(*shape, dtypes=dtypes))
    judge(rms_norm(x, weight, 1e-3), x, weight, 1e-3)


def test_double_precision_stays():
    x, weight = (t.cpu().double() for t in given(3, 16))
    y = rms_norm(x, weight)
    assert y.dtype == torch.float64
    torch.testing.assert_close(
        y, F.rms_norm(x, (16,), weight, 1e-5), rtol=0, atol=0
    )


def test_its_gradients_are_those_of_the_formula():
    x, weight = (t.cpu().double().requires_grad_() for t in given(4, 6))
    assert torch.autograd.gradcheck(rms_norm, (x, weight))
    assert torch.autograd.gradgradcheck(rms_norm, (x, weight))


@pytest.mark.parametrize("dtypes", PRECISIONS)
@pytest.mark.parametrize(
    "shape", [(3, 64), (2, 2, 5), (1, 1), (2, 768), (2, 3000)]
)
def test_the_kernel_is_the_formula(shape, dtypes):
    x, weight = given(*shape, dtypes=dtypes)
    y = fused.normalise(x, weight, 1e-3)
    judge(y, x, weight, 1e-3, cuts_off=DEVICE == "cpu")


def test_the_kernel_takes_any_layout():
    x, weight = given(6, 5, 48)
    expected = fused.normalise(x, weight, 1e-5)
    others = (
        x.transpose(0, 1).contiguous().transpose(0, 1),
        x.mT.contiguous().mT,
        torch.stack([x, x], -1)[..., 1],
    )
    for other in others:
        assert torch.equal(fused.normalise(other, weight, 1e-5), expected)
    twice = torch.stack([weight, weight], -1)[:, 0]
    assert torch.equal(fused.normalise(x, twice, 1e-5), expected)


def test_the_kernel_keeps_zeros_and_what_is_no_number_in_their_row():
    x, weight = given(3, 40)
    x[0], x[1, 7] = 0, torch.nan
    y = fused.normalise(x, weight, 1e-5)
    assert (y[0] == 0).all()
    assert y[1].isnan().all()
    judge(y[2], x[2], weight, 1e-5)


def test_the_kernel_steps_beyond_31_bits(tmp_path):
    x, weight = given(2, 3)
    holes = Holes(tmp_path)
    low = x.half(), weight.half()
    x_far, weight_far = holes.far(low[0], 1), holes.far(low[1], 0)
    y = fused.normalise(x_far, weight_far, 1e-5)
    assert torch.equal(y, fused.normalise(*low, 1e-5))


def test_the_kernel_starts_on_the_device_of_the_tensors(monkeypatch):
    """Not on the current one."""
    started = launches(fused, monkeypatch)
    x, weight = (torch.empty(s, device="meta") for s in ((3, 8), (8,)))
    fused.normalise(x, weight, 1e-5)
    assert started == [("normalise", x.device)]


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("x", "weight", "words"),
    [
        ((5, 63), (64,), r"\(\.\.\., 64\); got \(5, 63\)"),
        ((), (64,), r"\(\.\.\., 64\); got \(\)"),
        ((5, 64), (1, 64), r"weight .*\(d_model,\); got \(1, 64\)"),
    ],
)
def test_refusals(x, weight, words):
    with pytest.raises(ValueError, match=words):
        rms_norm(torch.ones(x), torch.ones(weight))


def test_it_refuses_two_devices():
    with pytest.raises(ValueError, match="device of the weight, meta; .*cpu"):
        rms_norm(torch.ones(2, 3), torch.ones(3, device="meta"))


@ON_GPU
def test_the_door_takes_the_kernel_where_no_gradient_is_asked(monkeypatch):
    x, weight = given(3, 64, dtypes=PRECISIONS[1])
    rms_norm(x, weight)  # loads it
    door = sys.modules["mambaviz.ops.rms_norm"]
    calls = []
    monkeypatch.setitem(
        door._loaded,
        "normalise",
        lambda *a: calls.append(1) or fused.normalise(*a),
    )
    y = rms_norm(x, weight)
    assert calls == [1]
    by_formula = rms_norm(x, weight.requires_grad_())
    assert calls == [1]
    assert by_formula.requires_grad
    assert torch.equal(rms_norm(x[:0], weight), x[:0].bfloat16())
    torch.testing.assert_close(y, by_formula.detach(), rtol=2**-7, atol=0)
