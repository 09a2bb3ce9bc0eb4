"""When a kernel may start without an operator, and where kernels are."""

import pytest
import torch

from mambaviz.ops.register import expect_writable, load, unseen


def test_a_call_is_unseen_without_a_gradient():
    x, weight = torch.ones(3), torch.nn.Parameter(torch.ones(3))
    assert unseen((x, None))
    assert not unseen((x, weight))
    with torch.no_grad():
        assert unseen((x, weight))


def test_a_call_is_seen_where_somebody_watches():
    x = torch.ones(3)
    found = []

    def look(x):
        found.append(unseen((x,)))
        return x * 1

    class LookBehind(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x: x.clone())
        backward = staticmethod(lambda ctx, grad: look(grad))

    def look_behind(x):
        return LookBehind.apply(x)

    with torch.autograd.forward_ad.dual_level():
        look(torch.autograd.forward_ad.make_dual(x, x))
    torch.func.vmap(look)(x)
    torch.func.jvp(look, (x,), (x,))
    torch.autograd.functional.jacobian(look_behind, x, vectorize=True)
    torch.compile(look, backend="eager", fullgraph=False)(x)
    look(x.to("meta"))
    look(x.as_subclass(Kind))
    assert not any(found)
    assert len(found) == 7


class Kind(torch.Tensor):
    """Not a plain tensor."""


def test_a_state_to_be_written_has_a_place_for_each_element():
    x = torch.ones(2, 3, 4)
    for state in (x, x.transpose(1, 2)[:, 1:], x[:1].expand(1, 3, 4)):
        expect_writable(state)
    twice = x[:1].expand(2, 3, 4), x.view(-1).as_strided((2, 3), (1, 1))
    for state in twice:
        with pytest.raises(RuntimeError, match=r"own; got shape \(2, 3"):
            expect_writable(state)


def test_a_state_of_any_size_may_be_compiled():
    def write(state):
        expect_writable(state)
        return state.add_(1)

    compiled = torch.compile(
        write, backend="eager", fullgraph=True, dynamic=True
    )
    for size in (2, 3, 5):
        state = torch.zeros(size, 4, 3)
        assert compiled(state) is state
        assert (state == 1).all()


def test_without_a_library_each_function_is_none():
    loaded = {}
    assert not load(loaded, "mambaviz.ops.no_such_operation", "one", "two")
    assert loaded == {"one": None, "two": None}
    assert not load(loaded, "mambaviz.ops.rms_norm", "normalise")


def test_functions_are_loaded_once():
    fused = pytest.importorskip("mambaviz.ops.causal_conv1d.fused")
    loaded = {}
    for _ in range(2):
        assert load(loaded, "mambaviz.ops.causal_conv1d", "convolve", "step")
        assert loaded == {"convolve": fused.convolve, "step": fused.step}
