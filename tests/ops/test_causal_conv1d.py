"""The short convolution, against torch.nn.Conv1d and itself in parts."""

import jaxtyping
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from mambaviz.ops.causal_conv1d import causal_conv1d, causal_conv1d_step

LENGTHS = [1, 2, 3, 4, 5, 33]
WIDTHS = [1, 2, 3, 4, 7]


def arguments(batch=2, length=9, d_inner=5, d_conv=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.to(dtype)

    return {
        "x": randn(batch, length, d_inner),
        "weight": randn(d_inner, d_conv),
        "bias": randn(d_inner),
        "initial_state": randn(batch, d_inner, d_conv - 1),
    }


def by_conv1d(x, weight, bias=None, activation=None, initial_state=None):
    """PyTorch's convolution over the state and the inputs, one after other."""
    d_inner, d_conv = weight.shape
    conv = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner)
    conv = conv.to(x.dtype)
    if initial_state is None:
        initial_state = x.new_zeros(len(x), d_inner, d_conv - 1)
    given = {"weight": weight[:, None]}
    given["bias"] = torch.zeros_like(weight[:, 0]) if bias is None else bias
    inputs = torch.cat([initial_state, x.transpose(1, 2)], 2)
    y = torch.func.functional_call(conv, given, inputs).transpose(1, 2)
    return y if activation is None else nn.SiLU()(y)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("d_conv", WIDTHS)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("without", ["", "bias", "initial_state"])
def test_is_the_convolution_of_pytorch(length, d_conv, activation, without):
    given = arguments(length=length, d_conv=d_conv)
    given.pop(without, None)
    leaves = {n: t.requires_grad_() for n, t in given.items()}
    ours = causal_conv1d(**leaves, activation=activation)
    theirs = by_conv1d(**leaves, activation=activation)
    # d_conv products and sums in another order.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    wave = torch.cos(torch.arange(ours.numel()).double()).view(ours.shape)
    for one, other in zip(
        torch.autograd.grad(ours, list(leaves.values()), wave),
        torch.autograd.grad(theirs, list(leaves.values()), wave),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("d_conv", [1, 4])
def test_gradcheck(length, d_conv):
    """Through the last state too, with a border inside."""
    given = arguments(length=length, d_inner=2, d_conv=d_conv)
    reset = torch.zeros(2, length, dtype=torch.bool)
    reset[1, length // 2] = True
    assert gradcheck(
        lambda *tensors: causal_conv1d(
            *tensors[:3], "silu", tensors[3], True, reset=reset
        ),
        [t.requires_grad_() for t in given.values()],
    )


@pytest.mark.parametrize("d_conv", WIDTHS)
@pytest.mark.parametrize("cut", [1, 2, 4, 8])
def test_two_parts_with_the_state_handed_over_are_the_whole(d_conv, cut):
    given = arguments(d_conv=d_conv)
    x = given.pop("x")
    y, state = causal_conv1d(x, **given, return_last_state=True)
    y_1, state_1 = causal_conv1d(x[:, :cut], **given, return_last_state=True)
    given["initial_state"] = state_1
    y_2, state_2 = causal_conv1d(x[:, cut:], **given, return_last_state=True)
    assert torch.equal(torch.cat([y_1, y_2], 1), y)
    assert torch.equal(state_2, state)


def test_the_state_is_the_last_inputs():
    given = arguments(d_conv=4, length=5)
    _, state = causal_conv1d(**given, return_last_state=True)
    assert torch.equal(state, given["x"][:, 2:].transpose(1, 2))
    given["x"] = given["x"][:, :1]
    _, state = causal_conv1d(**given, return_last_state=True)
    before = given["initial_state"][..., 1:]
    late = torch.cat([before, given["x"].transpose(1, 2)], 2)
    assert torch.equal(state, late)


@pytest.mark.parametrize("d_conv", WIDTHS)
def test_stepping_is_convolving(d_conv):
    given = arguments(d_conv=d_conv)
    y, last = causal_conv1d(**given, activation="silu", return_last_state=True)
    state = given["initial_state"]
    for t in range(y.shape[1]):
        before = state.clone()
        y_t, new = causal_conv1d_step(
            state, given["x"][:, t], given["weight"], given["bias"], "silu"
        )
        assert torch.equal(state, before)
        # A vector's exponential is rounded otherwise than a single one.
        torch.testing.assert_close(y_t, y[:, t], rtol=1e-15, atol=1e-15)
        state = new
    assert torch.equal(state, last)


@pytest.mark.parametrize("more", [0, 1, 5])
@pytest.mark.parametrize("d_conv", WIDTHS)
def test_a_step_writes_over_its_state_if_it_may(d_conv, more):
    """And keeps as many inputs as it was given, the older ones too."""
    given = arguments(d_conv=d_conv)
    older = torch.randn(2, 5, more, dtype=torch.float64)
    state = torch.cat([older, given["initial_state"]], 2)
    seen = torch.cat([state, given["x"].transpose(1, 2)], 2)
    rest = given["weight"], given["bias"], "silu"
    for t in range(given["x"].shape[1]):
        x = given["x"][:, t]
        y, new = causal_conv1d_step(state, x, *rest)
        kept = state.shape[2]
        assert torch.equal(new, seen[..., t + 1 : t + 1 + kept])
        y_, same = causal_conv1d_step(state, x, *rest, in_place=True)
        assert same is state
        assert torch.equal(y, y_)
        assert torch.equal(state, new)
    expected = by_conv1d(
        *(given[n] for n in ("x", "weight", "bias")),
        "silu",
        given["initial_state"],
    )
    torch.testing.assert_close(y, expected[:, -1], rtol=0, atol=1e-14)


def test_a_state_in_place_keeps_its_precision():
    given = arguments(length=1, dtype=torch.bfloat16)
    state = arguments()["initial_state"].float()
    x, weight = given["x"][:, 0], given["weight"]
    before = state.clone()
    y, new = causal_conv1d_step(state, x, weight)
    assert new.dtype == y.dtype == torch.bfloat16
    assert new.is_contiguous()
    y_, same = causal_conv1d_step(state, x, weight, in_place=True)
    assert same is state
    assert torch.equal(y, y_)
    seen = torch.cat([before, x[..., None].float()], 2)[..., 1:]
    assert torch.equal(state, seen)


def test_a_state_more_precise_than_x_is_not_rounded():
    """What cancels shows it; the kernel does not round it either."""
    weight = torch.tensor([[1.0, -1.0, 1.0]])
    state = torch.tensor([[[1.0, 1.001]]])
    x = torch.zeros(1, 1, 1, dtype=torch.bfloat16)
    y, last = causal_conv1d(
        x, weight, initial_state=state, return_last_state=True
    )
    expected = (state[0, 0, 0] - state[0, 0, 1]).bfloat16()
    assert y.item() == expected.item() != 0
    assert last.dtype == torch.bfloat16
    y, _ = causal_conv1d_step(state, x[:, 0], weight, in_place=True)
    assert y.item() == expected.item()


def test_a_state_in_place_needs_a_place_for_each_element():
    given = arguments(length=1)
    state = given["initial_state"][:1].expand(2, 5, 3)
    with pytest.raises(RuntimeError, match="a place of its own; got shape"):
        causal_conv1d_step(
            state, given["x"][:, 0], given["weight"], in_place=True
        )


@pytest.mark.parametrize("d_conv", WIDTHS)
@pytest.mark.parametrize("poison", [0.0, float("nan")])
def test_a_packed_sequence_is_its_parts(d_conv, poison):
    """With sequences shorter than the weights, and with what is no number."""
    given = arguments(batch=1, length=12, d_conv=d_conv)
    del given["initial_state"]
    x = given.pop("x")
    x[:, 4] += poison
    starts = [0, 1, 3, 5, 11]
    reset = torch.zeros(1, 12, dtype=torch.bool)
    reset[0, starts] = True
    state = torch.full((1, 5, d_conv - 1), 7.0, dtype=x.dtype)
    leaf = x.requires_grad_()
    y, last = causal_conv1d(
        leaf, **given, initial_state=state, return_last_state=True, reset=reset
    )
    for start, end in zip(starts, [*starts[1:], 12], strict=True):
        own = x[:, start:end].detach().requires_grad_()
        alone, own_last = causal_conv1d(own, **given, return_last_state=True)
        assert torch.allclose(y[:, start:end], alone, equal_nan=True)
        (grad,) = torch.autograd.grad(
            y[:, start:end].sum(), leaf, retain_graph=True
        )
        (own_grad,) = torch.autograd.grad(alone.sum(), own)
        expected = torch.zeros_like(grad)
        expected[:, start:end] = own_grad
        assert torch.equal(grad, expected)
    assert torch.equal(last, own_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    """Sums are in float32; so only the last rounding is seen."""
    given = arguments(dtype=dtype, length=50)
    y, state = causal_conv1d(**given, return_last_state=True)
    assert y.dtype == state.dtype == dtype
    truth = by_conv1d(**{n: t.double() for n, t in given.items()})
    # Half a unit in the last place, and what float32 adds to it.
    allowed = 0.5 * torch.finfo(dtype).eps * truth.abs() * 1.001 + 1e-6
    assert ((y.double() - truth).abs() <= allowed).all()


def test_parameters_may_be_more_precise_than_the_input():
    given = arguments(dtype=torch.bfloat16)
    for name in ("weight", "bias"):
        given[name] = given[name].float().requires_grad_()
    y = causal_conv1d(**given)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert given["weight"].grad.dtype == torch.float32


def test_autocast_changes_nothing():
    given = arguments(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = causal_conv1d(**given)
    assert torch.equal(y, causal_conv1d(**given))


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_graph_has_no_break(dynamic):
    compiled = torch.compile(
        causal_conv1d, fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    for length in (3, 9):
        given = arguments(length=length)
        reset = torch.zeros(2, length, dtype=torch.bool)
        reset[0, 1] = True
        torch.testing.assert_close(
            compiled(**given, reset=reset), causal_conv1d(**given, reset=reset)
        )
    torch._dynamo.reset()


def test_strides_change_nothing():
    given = arguments(length=20)
    expected = causal_conv1d(**given)
    given["x"] = given["x"].transpose(1, 2).contiguous().transpose(1, 2)
    given["weight"] = given["weight"].t().contiguous().t()
    given["initial_state"] = given["initial_state"].mT.contiguous().mT
    assert torch.equal(causal_conv1d(**given), expected)


def ones(*shape):
    return torch.ones(shape, dtype=torch.float64)


def test_tensors_that_do_not_fit_are_stopped_by_the_signature():
    given = arguments()
    for name, wrong in [
        ("weight", ones(4, 4)),
        ("bias", ones(4)),
        ("initial_state", ones(2, 5, 4)),
    ]:
        with pytest.raises(jaxtyping.TypeCheckError):
            causal_conv1d(**(given | {name: wrong}))


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"x": ones(2, 5)}, r"x .*\(batch, length, d_inner\).*got \(2, 5\)"),
        ({"x": ones(2, 0, 5)}, r"length at least 1; got \(2, 0, 5\)"),
        ({"x": ones(2, 9, 5).long()}, "x must be floating.* torch.int64"),
        ({"weight": ones(4, 5)}, r"weight .*\(5, at least 1\).*\(4, 5\)"),
        ({"weight": ones(5, 0)}, r"weight .*got \(5, 0\)"),
        ({"weight": ones(5, 1, 4)}, r"weight .*got \(5, 1, 4\)"),
        ({"bias": ones(1, 5)}, r"bias .*\(5,\); got \(1, 5\)"),
        ({"initial_state": ones(2, 5, 4)}, r"state .*\(2, 5, 3\).*5, 4\)"),
        ({"reset": ones(2, 9)}, "reset must be torch.bool; got torch.float64"),
        ({"reset": ones(9, 2).bool()}, r"reset .*\(2, 9\); got \(9, 2\)"),
        ({"bias": ones(5).to("meta")}, "bias .*device of x, cpu; got meta"),
        ({"activation": "relu"}, "None or \"silu\"; got 'relu'"),
    ],
)
def test_refusals(wrong, words):
    with pytest.raises(ValueError, match=words):
        causal_conv1d(**(arguments() | wrong))


@pytest.mark.usefixtures("outside_tests")
def test_a_step_refuses_a_sequence():
    given = arguments()
    with pytest.raises(ValueError, match=r"x .*\(batch, d_inner\); got"):
        causal_conv1d_step(given["initial_state"], given["x"], given["weight"])
    with pytest.raises(ValueError, match=r"\(2, 5, 3 or more\); got .*, 2\)"):
        causal_conv1d_step(
            given["initial_state"][..., 1:], given["x"][:, 0], given["weight"]
        )
    for state in (ones(), ones(3, 5, 6)):
        with pytest.raises(ValueError, match=r"\(2, 5, 3 or more\); got \("):
            causal_conv1d_step(state, given["x"][:, 0], given["weight"])
