"""The rungs with a backward pass of their own, as operators of PyTorch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mambaviz.ops.selective_scan import selective_scan
from tests.ops.scan_cases import (
    ALL_BACKENDS,
    TENSORS,
    case,
    error,
    in_dtype,
    run,
    scan_by,
)

OPERATORS = [b for b in ALL_BACKENDS if b in ("chunked", "cpu")]


def floats(**kinds):
    return in_dtype(case(**kinds), torch.float32)


@pytest.mark.usefixtures("outside_tests")  # a symbolic size is no int
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("backend", OPERATORS)
@pytest.mark.parametrize(
    "kinds",
    [{}, {"B": "fixed", "C": 3}, {"without": TENSORS[5:], "reset": False}],
    ids=str,
)
def test_pytorch_accepts_it(kinds, backend, keep):
    """Schema, fake tensors, autograd and their symbolic shapes."""
    a = floats(length=9, **kinds)
    tensors = [
        a[n] if a[n] is None else a[n].requires_grad_() for n in TENSORS
    ]
    arguments = (*tensors, a.get("reset"), True, keep)
    operator = getattr(torch.ops.mambaviz, f"selective_scan_{backend}").default
    results = torch.library.opcheck(operator, arguments)
    assert set(results.values()) == {"SUCCESS"}
    backward = getattr(
        torch.ops.mambaviz, f"selective_scan_{backend}_backward"
    ).default
    with torch.no_grad():
        y, h, checkpoints = operator(*arguments[:-1], True)
        detached = [t if t is None else t.detach() for t in tensors]
        results = torch.library.opcheck(
            backward,
            (y, h, checkpoints, *detached, a.get("reset"), True),
        )
    assert set(results.values()) == {"SUCCESS"}


COMPILED = """
import torch
from tests.ops.scan_cases import TENSORS, case, in_dtype
from mambaviz.ops.selective_scan import selective_scan


def layer(arguments, leaves):
    # What stands around a scan in a model is compiled with it.
    given = {{**arguments, **dict(zip(TENSORS, leaves))}}
    given["x"] = torch.tanh(leaves[0])
    y, h = selective_scan(
        **given, return_last_state=True, backend={backend!r}
    )
    return y.square().sum() + h.sum()


for dynamic in (False, True):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(
        layer, fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    for length in (40, 65, 100):
        a = in_dtype(case(length=length), torch.float32)
        leaves = [a[n].requires_grad_() for n in TENSORS]
        found = torch.autograd.grad(compiled(a, leaves), leaves)
        expected = torch.autograd.grad(layer(a, leaves), leaves)
        assert all(map(torch.equal, found, expected)), (dynamic, length)
        with torch.no_grad():
            assert torch.equal(compiled(a, leaves), layer(a, leaves))
    # With and without gradients; if sizes are fixed, for each length.
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == (2 if dynamic else 6), graphs
"""


@pytest.mark.parametrize("backend", ["auto", "chunked"])
def test_a_compiled_graph_has_no_break(backend):
    """In another process, where no shape checks stand around functions."""
    program = COMPILED.format(backend=backend)
    notice = "ignore:selective_scan runs on"  # where there is no Numba
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", notice, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("backend", OPERATORS)
def test_the_second_derivative_is_refused(backend):
    a = floats()
    x = a["x"].requires_grad_()
    y = scan_by(backend)(**a)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match='"reference" has all'):
        grad.sum().backward()


@pytest.mark.parametrize("backend", OPERATORS)
def test_forward_mode_is_refused(backend):
    """And not answered with 0, as an operator would by itself."""
    a = floats()
    x = a.pop("x")
    with pytest.raises(NotImplementedError, match='"reference" has all'):
        torch.func.jvp(lambda x: scan_by(backend)(x, **a), (x,), (x,))


@pytest.mark.parametrize("backend", OPERATORS)
def test_gradients_by_torch_func(backend):
    a = floats()
    x = a.pop("x")

    def loss(x, delta):
        y = scan_by(backend)(x, **(a | {"delta": delta}))
        return y.square().sum()

    found = torch.func.grad(loss, argnums=(0, 1))(x, a["delta"])
    leaves = [x.requires_grad_(), a["delta"].detach().requires_grad_()]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("backend", OPERATORS)
def test_many_gradients_in_one_go(backend):
    """By torch.autograd's own vmap, which is not that of torch.func."""
    given = case(batch=1, length=3, d_inner=2, d_state=2)
    x = given.pop("x").requires_grad_()
    grads = torch.randn(4, *x.shape, dtype=x.dtype)
    y = scan_by(backend)(x=x, **given)
    (found,) = torch.autograd.grad(
        y, x, grads, retain_graph=True, is_grads_batched=True
    )
    for one, grad in zip(found, grads, strict=True):
        (alone,) = torch.autograd.grad(y, x, grad, retain_graph=True)
        torch.testing.assert_close(one, alone)


@pytest.mark.parametrize("backend", OPERATORS)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_under_activation_checkpointing(use_reentrant, backend):
    a = floats()
    plain = run(scan_by(backend), a)

    def recomputed(return_last_state, **arguments):
        tensors = [arguments.pop(n) for n in TENSORS]

        def scan(*tensors):
            given = dict(zip(TENSORS, tensors, strict=True))
            return selective_scan(
                **given, **arguments, return_last_state=True, backend=backend
            )

        return checkpoint(scan, *tensors, use_reentrant=use_reentrant)

    if use_reentrant:  # which torch.autograd.grad does not support
        leaves = {n: a[n].detach().requires_grad_() for n in TENSORS}
        y, h = recomputed(True, **(a | leaves))
        (y.square().sum() + h.sum()).backward()
        again = {n: a[n].detach().requires_grad_() for n in TENSORS}
        y, h = scan_by(backend)(**(a | again), return_last_state=True)
        (y.square().sum() + h.sum()).backward()
        for name in TENSORS:
            assert torch.equal(leaves[name].grad, again[name].grad), name
    else:
        for what, value in run(recomputed, a).items():
            assert torch.equal(value, plain[what]), what


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("enabled_in_backward", [False, True])
def test_autocast_changes_nothing(enabled_in_backward, backend):
    """Inputs as they come, all sums in float32; y as x."""
    a = in_dtype(floats(), torch.bfloat16, "x", "z", "B", "C", "delta")
    plain = run(scan_by(backend), a)
    leaves = {n: a[n].detach().requires_grad_() for n in TENSORS}
    cast = torch.autocast("cpu", dtype=torch.bfloat16)
    with cast:
        y = scan_by(backend)(**(a | leaves))
    assert torch.equal(y, plain["y"])
    again = {n: a[n].detach().requires_grad_() for n in TENSORS}
    expected = torch.autograd.grad(
        scan_by(backend)(**(a | again)).sum(), list(again.values())
    )
    with torch.autocast(
        "cpu", dtype=torch.bfloat16, enabled=enabled_in_backward
    ):
        found = torch.autograd.grad(y.sum(), list(leaves.values()))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("backend", OPERATORS)
def test_checkpoints_are_kept_only_for_a_backward_pass(backend, monkeypatch):
    """What forward keeps is there for whoever needs it, and only then."""
    a = floats()
    kept = []
    operator = getattr(torch.ops.mambaviz, f"selective_scan_{backend}")

    class Calls(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args, kwargs=None):
            if function is operator.default:
                kept.append(args[-1])
            return function(*args, **(kwargs or {}))

    scan = scan_by(backend)
    with Calls():
        scan(**a)
        with torch.no_grad():
            scan(**(a | {"x": a["x"].clone().requires_grad_()}))
        with torch.inference_mode():
            scan(**a)
        scan(**(a | {"A": a["A"].clone().requires_grad_()}))
    assert kept == [False, False, False, True]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("backend", OPERATORS)
def test_many_at_once_by_vmap(backend):
    a = floats()
    x = torch.stack([a.pop("x"), torch.ones(2, 37, 6)])
    scan = scan_by(backend)
    found = torch.func.vmap(lambda x: scan(x, **a))(x)
    for one, x_one in zip(found, x, strict=True):
        assert error(one, scan(x_one, **a)) < 1e-6


class Seen(torch.Tensor):
    """A kind of tensor of its own, which is told of every operator."""

    calls = []

    def __new__(cls, plain):
        own = cls._make_wrapper_subclass(cls, plain.shape, dtype=plain.dtype)
        own.plain = plain
        return own

    @classmethod
    def __torch_dispatch__(cls, function, types, args, kwargs=None):
        cls.calls.append(str(function))
        plain = [t.plain if isinstance(t, cls) else t for t in args]
        return function(*plain, **(kwargs or {}))


@pytest.mark.parametrize("backend", OPERATORS)
def test_a_tensor_of_its_own_kind_sees_the_operator(backend):
    """Plain tensors go past PyTorch's dispatcher; this one has to pass it."""
    a = floats()
    Seen.calls.clear()
    y = scan_by(backend)(**(a | {"x": Seen(a["x"])}))
    assert f"mambaviz.selective_scan_{backend}.default" in Seen.calls
    assert torch.equal(y, scan_by(backend)(**a))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize("backend", OPERATORS)
def test_a_trace_holds_the_operator_and_not_its_numbers(backend):
    a = floats()
    x, scan = a.pop("x"), scan_by(backend)
    traced = torch.jit.trace(lambda x: scan(x, **a), x, check_trace=False)
    assert f"mambaviz::selective_scan_{backend}" in str(traced.graph)
    assert torch.equal(traced(2 * x), scan(2 * x, **a))
