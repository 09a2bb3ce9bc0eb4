"""When a kernel may start without an operator, and where kernels are."""

import pytest
import torch

from mambaviz.ops.register import load, unseen, writable


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

    with torch.autograd.forward_ad.dual_level():
        look(torch.autograd.forward_ad.make_dual(x, x))
    torch.func.vmap(look)(x)
    torch.func.jvp(look, (x,), (x,))
    torch.compile(look, backend="eager", fullgraph=False)(x)
    look(x.to("meta"))
    look(x.as_subclass(Kind))
    assert not any(found)
    assert len(found) == 6


class Kind(torch.Tensor):
    """Not a plain tensor."""


def test_writable_is_what_has_a_place_for_each_element():
    x = torch.ones(2, 3, 4)
    assert writable(x)
    assert writable(x.transpose(1, 2)[:, 1:])
    assert writable(x[:1].expand(1, 3, 4))
    assert not writable(x[:1].expand(2, 3, 4))


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
