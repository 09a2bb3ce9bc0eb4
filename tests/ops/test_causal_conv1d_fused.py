"""The convolution in Triton: on a GPU where there is one, else interpreted."""

import sys

import pytest
import torch

pytest.importorskip("triton")
from mambaviz.ops import launch
from mambaviz.ops.causal_conv1d import (
    causal_conv1d,
    causal_conv1d_step,
    fused,
)
from tests.ops.far import Holes
from tests.ops.launches import launches
from tests.ops.test_causal_conv1d import arguments

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
NAMES = ("x", "weight", "bias", "initial_state")


def given(dtype=torch.float32, without=(), **sizes):
    values = arguments(**sizes)
    return [
        None if n in without else values[n].to(DEVICE, dtype) for n in NAMES
    ]


def both(function, tensors, grad):
    """y and all gradients."""
    leaves = [
        None if t is None else t.detach().requires_grad_() for t in tensors
    ]
    y = function(*leaves)
    held = [leaf for leaf in leaves if leaf is not None]
    return y.detach(), *torch.autograd.grad(y, held, grad.to(y.dtype))


def in_triton(silu):
    return lambda x, w, b, s: fused.convolve(x, w, b, s, silu)


def in_pytorch(silu):
    activation = "silu" if silu else None
    # On a CPU there are no kernels to take.
    return lambda x, w, b, s: causal_conv1d(
        x.cpu(), w.cpu(), _cpu(b), activation, _cpu(s)
    ).to(x.device)


def _cpu(tensor):
    return None if tensor is None else tensor.cpu()


def judge(tensors, silu):
    """At most twice the error of plain PyTorch, against float64."""
    torch.manual_seed(3)
    grad = torch.randn(tensors[0].shape).to(tensors[0])
    double = [None if t is None else t.double() for t in tensors]
    exact = both(in_pytorch(silu), double, grad)
    plain = both(in_pytorch(silu), tensors, grad)
    ours = both(in_triton(silu), tensors, grad)
    for k, (a, b, c) in enumerate(zip(ours, plain, exact, strict=True)):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        scale = c.norm() + 1e-30
        limit = 2 * (b.double() - c).norm() / scale + 2**-21
        assert (a.double() - c).norm() / scale <= limit, k


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize(
    ("without", "sizes"),
    [
        ((), {"length": 9, "d_inner": 5}),
        ((), {"length": 1, "d_inner": 3}),
        ((), {"length": 2, "d_inner": 70, "batch": 1}),
        (("bias",), {"length": 40, "d_inner": 3, "d_conv": 2}),
        (("initial_state",), {"length": 33, "d_inner": 4, "d_conv": 3}),
        (("bias", "initial_state"), {"length": 5, "d_inner": 2, "d_conv": 8}),
    ],
)
def test_is_the_convolution_in_pytorch(silu, without, sizes):
    judge(given(without=without, **sizes), silu)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("silu", "more", "without", "sizes"),
    [
        (True, 0, (), {"d_inner": 300, "d_conv": 4}),
        (False, 1, ("bias",), {"d_inner": 5, "d_conv": 4}),
        (True, 0, (), {"d_inner": 1, "d_conv": 2, "batch": 1}),
        (True, 6, (), {"d_inner": 33, "d_conv": 8}),
    ],
)
def test_one_step_as_one_kernel(silu, more, without, sizes, dtype):
    x, weight, bias, state = given(dtype, without, length=1 + more, **sizes)
    now, seen = x[:, -1], x.transpose(1, 2)[..., :-1]
    state = torch.cat([seen, state], 2)  # the older ones meet no weight
    activation = "silu" if silu else None
    double = (_cpu(t) for t in (state, now, weight, bias))
    exact, after = causal_conv1d_step(
        *(t if t is None else t.double() for t in double), activation
    )
    kept = state.clone()
    y, new = fused.step(state, now, weight, bias, silu, False)
    assert torch.equal(state, kept)
    assert torch.equal(new.cpu(), after.to(dtype))
    assert y.dtype == dtype
    # One rounding at the end, which the interpreter does by cutting off.
    rounding = torch.finfo(dtype).eps / (1 if DEVICE == "cpu" else 2)
    off = (y.cpu().double() - exact).norm() / exact.norm()
    assert off <= rounding + 2**-21
    again, same = fused.step(state, now, weight, bias, silu, True)
    assert same is state
    assert torch.equal(again, y)
    assert torch.equal(state, new)


def test_weights_and_bias_may_be_parts_of_others():
    x, weight, bias, state = given(length=9, d_inner=6)
    wide = torch.stack([bias, bias], 1)
    tensors = x, weight.T.contiguous().T, wide[:, 0], state
    judge(tensors, True)
    expected = fused.step(state, x[:, 0], weight, bias, True, False)
    found = fused.step(state, x[:, 0], *tensors[1:3], True, False)
    assert all(map(torch.equal, found, expected))
    one = bias[:1].expand(6)
    judge((x, weight, one, state), False)


def test_autograd_knows_of_a_state_that_was_written_over():
    x, weight, bias, state = given(length=1, d_inner=6)
    before = 2 * state.requires_grad_()
    loss = before.square().sum()
    with torch.no_grad():
        fused.step(before, x[:, 0], weight, bias, True, True)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()


def test_time_may_be_the_last_axis_in_memory():
    x, *others = given(length=150, d_inner=6)
    x = x.transpose(1, 2).contiguous().transpose(1, 2)
    judge([x, *others], True)


def test_a_program_goes_through_several_tiles(monkeypatch):
    monkeypatch.setattr(fused, "TILES_FROM", 0)
    judge(given(length=70, d_inner=6), True)
    judge(given(length=65, d_inner=3, without=("initial_state",)), False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    judge(given(dtype, length=21, d_inner=7), True)


def test_kernels_start_on_the_device_of_the_tensors(monkeypatch):
    """Not on the current one."""
    started = launches(fused, monkeypatch)
    x, weight = (torch.empty(s, device="meta") for s in ((2, 9, 4), (4, 3)))
    tensors = x, weight, None, None, True
    fused._backward(fused._forward(*tensors), *tensors)
    state = torch.empty(2, 4, 2, device="meta")
    fused.step(state, x[:, 0], weight, None, True, False)
    names = "forward", "backward", "step"
    assert started == [(name, x.device) for name in names]


def test_more_sequences_than_a_grid_has_room_for(monkeypatch):
    """Its second and third axis end at 65,535."""
    arguments = []
    launches(fused, monkeypatch, arguments)
    batch = 140_000
    x, weight, state = (
        torch.empty(s, device="meta")
        for s in ((batch, 1, 300), (300, 3), (batch, 300, 2))
    )
    tensors = x, weight, None, state, True
    fused._backward(fused._forward(*tensors), *tensors)
    fused.step(state, x[:, 0], weight, None, True, False)
    grids = [named["grid"] for named in arguments]
    assert all(max(grid[1:], default=1) < 2**16 for grid in grids)
    forwards, backwards, (step,) = grids[:3], grids[3:6], grids[6:]
    assert sum(grid[2] for grid in forwards) == batch
    assert sum(grid[2] for grid in backwards) == batch
    assert step == (3 * batch,)


def test_sequences_in_several_launches(monkeypatch):
    tensors = given(batch=5, length=9, d_inner=3)
    grad = torch.ones_like(tensors[0])
    expected = both(in_triton(True), tensors, grad)
    monkeypatch.setattr(launch, "MOST", 2)
    found = both(in_triton(True), tensors, grad)
    assert all(map(torch.equal, found, expected))


def test_steps_in_memory_beyond_31_bits(tmp_path):
    """Of the channels of a state, its inputs, the weights and a single x."""
    near = given(torch.float16, length=4, d_inner=3)
    holes = Holes(tmp_path)
    expected = both(in_triton(True), near, torch.ones_like(near[0]))
    x, weight, bias, state = near
    alone = fused.step(state, x[:, 0], weight, bias, True, False)
    for axis in (1, 2):
        tensors = x, holes.far(weight, 0), bias, holes.far(state, axis)
        found = both(in_triton(True), tensors, torch.ones_like(x))
        assert all(map(torch.equal, found, expected))
        row = holes.far(x[:, 0], 1)
        found = fused.step(tensors[3], row, tensors[1], bias, True, False)
        assert all(map(torch.equal, found, alone))
        fused.step(tensors[3], row, tensors[1], bias, True, True)
        assert torch.equal(tensors[3], alone[1])


def test_every_element_is_written(poisoned):
    tensors = given(length=37, d_inner=35)
    grad = torch.ones_like(tensors[0])
    assert all(
        t.isfinite().all() for t in both(in_triton(True), tensors, grad)
    )


@pytest.fixture
def poisoned(monkeypatch):
    """Memory that is not written is NaN."""
    empty_like, new_empty = torch.empty_like, torch.Tensor.new_empty
    monkeypatch.setattr(
        torch,
        "empty_like",
        lambda *a, **k: empty_like(*a, **k).fill_(torch.nan),
    )
    monkeypatch.setattr(
        torch.Tensor,
        "new_empty",
        lambda *a, **k: new_empty(*a, **k).fill_(torch.nan),
    )


def test_a_second_derivative_says_where_there_is_one():
    x, weight, bias, _ = given(length=4, d_inner=2)
    weight = weight.requires_grad_()
    y = fused.convolve(x, weight, bias, None, True)
    (grad,) = torch.autograd.grad(y.sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="on a CPU it has all"):
        grad.sum().backward()


@ON_GPU
@pytest.mark.parametrize("length", [1, 2, 3, 9, 4097])
def test_the_door_takes_the_kernels_on_a_gpu(length, monkeypatch):
    calls = []
    x, weight, bias, state = given(length=length, d_inner=48)
    causal_conv1d(x, weight, bias)  # loads them
    door = sys.modules["mambaviz.ops.causal_conv1d"]
    monkeypatch.setitem(
        door._loaded,
        "convolve",
        lambda *a: calls.append(1) or fused.convolve(*a),
    )
    y, last = causal_conv1d(x, weight, bias, "silu", state, True)
    expected, last_ = causal_conv1d(
        x.cpu(), weight.cpu(), bias.cpu(), "silu", state.cpu(), True
    )
    assert calls == [1]
    torch.testing.assert_close(y.cpu(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(last.cpu(), last_)


@ON_GPU
def test_the_door_steps_by_one_kernel_where_no_gradient_is_asked(monkeypatch):
    x, weight, bias, state = given(length=1, d_inner=48)
    causal_conv1d(x, weight, bias)  # loads it
    door = sys.modules["mambaviz.ops.causal_conv1d"]
    calls = []
    monkeypatch.setitem(
        door._loaded, "step", lambda *a: calls.append(1) or fused.step(*a)
    )
    y, new = causal_conv1d_step(state, x[:, 0], weight, bias, "silu")
    assert calls == [1]
    weight.requires_grad_()
    y_, new_ = causal_conv1d_step(state, x[:, 0], weight, bias, "silu")
    assert calls == [1]
    assert y_.requires_grad
    torch.testing.assert_close(y, y_.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(new, new_)


@ON_GPU
@pytest.mark.usefixtures("outside_tests")
def test_a_compiled_graph_has_no_break():
    x, weight, bias, state = given(length=50, d_inner=64)
    compiled = torch.compile(causal_conv1d, fullgraph=True)
    grad = torch.randn_like(x)
    tensors = x, weight, bias, state
    found, expected = (
        both(lambda x, w, b, s, f=f: f(x, w, b, "silu", s), tensors, grad)
        for f in (compiled, causal_conv1d)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@ON_GPU
def test_the_same_bits_every_time():
    tensors = given(torch.bfloat16, length=3000, d_inner=300, batch=2)
    grad = torch.randn_like(tensors[0])
    first = both(in_triton(True), tensors, grad)
    for _ in range(3):
        again = both(in_triton(True), tensors, grad)
        assert all(map(torch.equal, first, again))
