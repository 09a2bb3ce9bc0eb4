"""Every backend against the reference, in values and in all gradients.

What a backend says it cannot do is skipped here, and refused at the door;
the tests of the backend say what it has to be able to do.
"""

import functools
import itertools

import pytest
import torch
from torch.autograd import gradcheck

from mambaviz.ops.selective_scan import selective_scan
from tests.ops.scan_cases import (
    JUDGED,
    TENSORS,
    case,
    error,
    in_dtype,
    run,
    scan_by,
)

CASES = {
    "one step": {"length": 1},
    "one step, no state": {"length": 1, "without": ("initial_state",)},
    "63 steps": {"length": 63, "d_state": 16},
    "100 steps": {"length": 100, "d_state": 16, "batch": 1},
    "4097 steps": {"length": 4097, "batch": 1, "d_inner": 3},
    "one of each": {"batch": 1, "d_inner": 1, "d_state": 1},
    "33 channels": {"d_inner": 33, "d_state": 16},
    "130 channels": {"d_inner": 130, "batch": 1, "d_state": 1},
    "batch of 5": {"batch": 5, "length": 20},
    "bare": {"without": TENSORS[5:], "softplus": False, "reset": False},
    "no softplus": {"softplus": False},
    "no gate": {"without": ("z",)},
    "no skip": {"without": ("D",)},
    "no bias": {"without": ("delta_bias",)},
    "no state": {"without": ("initial_state",)},
    "no reset": {"reset": False},
    "2 groups": {"B": 2, "C": 2},
    "groups of B alone": {"B": 3},
    "3 groups of B, 2 of C": {"B": 3, "C": 2},
    "a group a channel": {"B": 6, "C": 1},
    "fixed B": {"B": "fixed"},
    "fixed C": {"C": "fixed"},
    "fixed B and C": {"B": "fixed", "C": "fixed"},
    "fixed B, groups of C": {"B": "fixed", "C": 2},
    "fixed, one channel": {"B": "fixed", "C": "fixed", "d_inner": 1},
}
COMPLEX_CASES = {
    "complex": {},
    "complex, bare": CASES["bare"],
    "complex, groups": {"B": 2, "C": 3},
    "complex, fixed B": {"B": "fixed"},
    "complex, fixed C": {"C": "fixed"},
    "complex A alone": {"complex_weights": False},
    "complex A, fixed": {"complex_weights": False, "B": "fixed", "C": 2},
    "complex, 600 steps": {"length": 600, "batch": 1, "d_state": 16},
}
CASES |= {
    name: kinds | {"is_complex": True} for name, kinds in COMPLEX_CASES.items()
}
# Some thousand roundings of 1e-16.
EXACT = 1e-12


def attempt(backend: str, arguments: dict) -> dict:
    """``run``, or a skip where the backend refuses."""
    try:
        return run(scan_by(backend), arguments)
    except ValueError as refusal:
        if f'"{backend}" cannot do this' not in str(refusal):
            raise
        pytest.skip(str(refusal))


@functools.cache
def exact(name: str) -> dict:
    return run(scan_by("reference"), case(**CASES[name]))


@pytest.mark.parametrize("backend", JUDGED)
@pytest.mark.parametrize("name", CASES)
def test_is_the_reference_in_float64(name, backend):
    ours = attempt(backend, case(**CASES[name]))
    for what, value in exact(name).items():
        assert ours[what].dtype == value.dtype, what
        assert error(ours[what], value) < EXACT, what


MIXTURES = {
    "float32": (torch.float32, ()),
    "bfloat16": (torch.bfloat16, ()),
    "float16": (torch.float16, ()),
    # As under autocast: parameters stay in float32.
    "bfloat16 inputs": (
        torch.bfloat16,
        ("A", "D", "delta_bias", "initial_state"),
    ),
    "float16 inputs, float32 B C": (
        torch.float16,
        ("A", "D", "delta_bias", "initial_state", "B", "C"),
    ),
    "float32, x in bfloat16": (torch.float32, ()),
}


@pytest.mark.parametrize("backend", JUDGED)
@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("kinds", ["63 steps", "2 groups", "complex"])
def test_in_lower_precision_errs_as_plain_pytorch_does(
    kinds, mixture, backend
):
    """At most twice the reference's own error in the same precision.

    Twice, since sums in another order round otherwise; and one rounding of
    the largest element is allowed, as the reference may be right by luck.
    Both are compared with float64 on the same, rounded, arguments.
    """
    dtype, in_float32 = MIXTURES[mixture]
    given = in_dtype(case(**CASES[kinds]), dtype)
    given = (
        in_dtype(given, torch.float32, *in_float32) if in_float32 else given
    )
    if mixture == "float32, x in bfloat16":
        given = in_dtype(given, torch.bfloat16, "x")
    ours = attempt(backend, given)
    plain = run(scan_by("reference"), given)
    truth = run(scan_by("reference"), in_dtype(given, torch.float64))
    for what, value in truth.items():
        assert ours[what].dtype == plain[what].dtype, what
        rounding = torch.finfo(plain[what].dtype).eps
        allowed = 2 * error(plain[what], value) + rounding
        assert error(ours[what], value) <= allowed, what


def test_dtypes_of_what_comes_out():
    given = in_dtype(case(), torch.float32)
    given = in_dtype(given, torch.bfloat16, "x")
    given = in_dtype(given, torch.float16, "z", "C")
    for backend in ["reference", *JUDGED]:
        found = run(scan_by(backend), given)
        assert found["y"].dtype == torch.bfloat16
        assert found["last_state"].dtype == torch.float32
        for name in TENSORS:
            assert found[f"grad_{name}"].dtype == given[name].dtype


def views(arguments: dict) -> dict:
    """The same numbers, laid out in as many odd ways."""
    a = dict(arguments)
    for name in ("x", "z"):  # as the official layout has them
        a[name] = a[name].transpose(1, 2).contiguous().transpose(1, 2)
    wide = torch.empty(*a["delta"].shape[:2], 2 * a["delta"].shape[2])
    wide = wide.to(a["delta"].dtype)
    wide[..., 1::2] = a["delta"]
    a["delta"] = wide[..., 1::2]
    a["A"] = a["A"].t().contiguous().t()
    # Out of one projection, as B, C and dt are.
    both = torch.cat([a["B"], a["C"]], -1)
    a["B"], a["C"] = both.chunk(2, -1)
    a["D"] = a["D"][:, None].expand(-1, 3)[:, 1]
    a["initial_state"] = a["initial_state"].movedim(0, 2).clone()
    a["initial_state"] = a["initial_state"].movedim(2, 0)
    a["reset"] = a["reset"].t().contiguous().t()
    for name in TENSORS:
        assert torch.equal(a[name], arguments[name])
    return a


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_strides_change_nothing(dtype, backend):
    given = in_dtype(case(length=70), dtype)
    strided = attempt(backend, views(given))
    plain = attempt(backend, given)
    # The order of a sum may depend on strides, its rounding with it.
    tolerance = 100 * torch.finfo(dtype).eps
    for what, value in plain.items():
        assert error(strided[what], value) < tolerance, what


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
def test_one_tensor_for_all_sequences(backend):
    """Expanded over batch and over channels, with strides of 0."""
    a = in_dtype(case(batch=3, length=40), torch.float32)
    for name in ("x", "B"):
        a[name] = a[name][:1].expand_as(a[name])
    a["delta"] = a["delta"][..., :1].expand_as(a["delta"])
    solid = {
        k: v.clone() if isinstance(v, torch.Tensor) else v
        for k, v in a.items()
    }
    expanded, plain = attempt(backend, a), attempt(backend, solid)
    tolerance = 100 * torch.finfo(torch.float32).eps
    for what, value in plain.items():
        assert error(expanded[what], value) < tolerance, what


@pytest.mark.parametrize("backend", JUDGED)
@pytest.mark.parametrize("is_complex", [False, True])
def test_gradcheck(backend, is_complex):
    a = case(length=6, d_inner=4, d_state=2, B=2, C=1, is_complex=is_complex)
    attempt(backend, a)

    def scan(*tensors):
        given = dict(zip(TENSORS, tensors, strict=True))
        return scan_by(backend)(**(a | given), return_last_state=True)

    assert gradcheck(
        scan, [a[name].requires_grad_() for name in TENSORS], fast_mode=True
    )


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
def test_only_some_gradients(backend):
    """A gradient does not depend on who else wants one."""
    a = in_dtype(case(), torch.float32)
    full = attempt(backend, a)
    for names in [("x",), ("A", "z"), ("initial_state",), ("B", "D")]:
        leaves = {n: a[n].detach().requires_grad_() for n in names}
        y = scan_by(backend)(**(a | leaves))
        found = torch.autograd.grad(y.sum(), list(leaves.values()))
        again = {n: a[n].detach().requires_grad_() for n in TENSORS}
        every = torch.autograd.grad(
            scan_by(backend)(**(a | again)).sum(), [again[n] for n in names]
        )
        for one, other in zip(found, every, strict=True):
            assert torch.equal(one, other)
    assert set(full) == {"y", "last_state"} | {f"grad_{n}" for n in TENSORS}


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
def test_gradient_through_the_last_state_alone(backend):
    a = in_dtype(case(), torch.float32)
    x = a["x"].requires_grad_()
    _, h = scan_by(backend)(**a, return_last_state=True)
    (found,) = torch.autograd.grad(h.square().sum(), x)
    a["x"] = x.detach().double().requires_grad_()
    _, h = selective_scan(**a, return_last_state=True, backend="reference")
    (truth,) = torch.autograd.grad(h.square().sum(), a["x"])
    # Some ten roundings in float32.
    assert error(found, truth) < 1e-6


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
@pytest.mark.parametrize("is_complex", [False, True])
def test_a_packed_sequence_is_its_parts(backend, is_complex):
    """Lengths around the borders of blocks, values and gradients."""
    lengths = [3, 1, 32, 33, 64, 7]
    a = case(
        batch=1,
        length=sum(lengths),
        is_complex=is_complex,
        without=("initial_state",),
    )
    ends = list(itertools.accumulate(lengths))
    a["reset"] = torch.zeros(1, sum(lengths), dtype=torch.bool)
    a["reset"][0, [0, *ends[:-1]]] = True
    a = in_dtype(a, torch.float32)
    along = ("x", "delta", "z", "B", "C")
    leaves = {n: a[n].detach().requires_grad_() for n in along}
    attempt(backend, a)
    y = scan_by(backend)(**(a | leaves))
    packed = torch.autograd.grad(y.square().sum(), list(leaves.values()))
    for end, length in zip(ends, lengths, strict=True):
        part = slice(end - length, end)
        own = {
            n: a[n][:, part].double().requires_grad_()
            if not a[n].is_complex()
            else a[n][:, part].to(torch.complex128).requires_grad_()
            for n in along
        }
        truth = selective_scan(
            **(a | own | {"reset": None}), backend="reference"
        )
        assert error(y[:, part], truth) < 1e-5
        grads = torch.autograd.grad(truth.square().sum(), list(own.values()))
        for found, value in zip(packed, grads, strict=True):
            # The largest gradients of the whole are in the scale of float32.
            off = (found[:, part] - value).abs().max()
            assert off < 1e-5 * found.abs().max()


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nothing_leaks_over_a_reset(backend, poison):
    """Not even what is no number, forwards or backwards."""
    a = in_dtype(case(batch=2, length=80, reset=False), torch.float32)
    a["reset"] = torch.zeros(2, 80, dtype=torch.bool)
    a["reset"][0, 40] = True
    x = a["x"].clone()
    x[0, 35, 1] = poison
    x.requires_grad_()
    y = scan_by(backend)(**(a | {"x": x}))
    clean = scan_by(backend)(**a)
    assert not y[0, 35:40, 1].isfinite().any()
    assert torch.equal(y[0, :35], clean[0, :35])
    assert torch.equal(y[0, 40:], clean[0, 40:])
    assert torch.equal(y[1], clean[1])
    (grad,) = torch.autograd.grad(y[0, 40:].sum(), x)
    assert torch.equal(grad[0, :40], torch.zeros_like(grad[0, :40]))
    assert grad[0, 40:].isfinite().all()


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
def test_a_nan_is_passed_on(backend):
    a = in_dtype(case(length=50, reset=False), torch.float32)
    a["x"][1, 20, 3] = float("nan")
    y, h = scan_by(backend)(**a, return_last_state=True)
    assert y[1, 20:, 3].isnan().all()
    assert h[1, 3].isnan().all()
    y[1, 20:, 3] = 0
    assert y.isfinite().all()


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
@pytest.mark.parametrize("cut", [1, 31, 32, 50])
def test_two_parts_with_the_state_handed_over_are_the_whole(backend, cut):
    a = in_dtype(case(length=77), torch.float32)
    along = ("x", "delta", "z", "B", "C", "reset")
    leaves = [a[n].detach().requires_grad_() for n in TENSORS]
    whole = a | dict(zip(TENSORS, leaves, strict=True))
    scan = scan_by(backend)
    y, h = scan(**whole, return_last_state=True)
    early = whole | {n: whole[n][:, :cut] for n in along}
    y_1, h_1 = scan(**early, return_last_state=True)
    late = whole | {n: whole[n][:, cut:] for n in along}
    late["initial_state"] = h_1
    y_2, h_2 = scan(**late, return_last_state=True)
    # Chunks begin elsewhere, so sums are rounded otherwise.
    assert error(torch.cat([y_1, y_2], 1), y) < 1e-5
    assert error(h_2, h) < 1e-5
    loss = y.square().sum() + h.square().sum()
    parts = y_1.square().sum() + y_2.square().sum() + h_2.square().sum()
    for one, other in zip(
        torch.autograd.grad(parts, leaves),
        torch.autograd.grad(loss, leaves),
        strict=True,
    ):
        assert error(one, other) < 1e-5


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
def test_large_steps_forget_and_small_steps_remember(backend):
    """delta |A| from 1e-6 to beyond the smallest number of float32."""
    a = in_dtype(
        case(length=64, without=TENSORS[5:], softplus=False, reset=False),
        torch.float32,
    )
    sizes = 10.0 ** torch.arange(-6, 5)
    a["delta"] = (
        a["delta"].sign().abs() * sizes[torch.arange(64) % 11][None, :, None]
    )
    ours = attempt(backend, a)
    plain = run(scan_by("reference"), a)
    truth = run(scan_by("reference"), in_dtype(a, torch.float64))
    for what, value in truth.items():
        assert ours[what].isfinite().all()
        allowed = 2 * error(plain[what], value) + 2e-7
        assert error(ours[what], value) <= allowed, what


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
def test_arguments_are_left_as_they_were_and_not_handed_out(backend):
    a = in_dtype(case(), torch.float32)
    copies = {n: a[n].clone() for n in [*TENSORS, "reset"]}
    leaves = {n: a[n].detach().requires_grad_() for n in TENSORS}
    y, h = scan_by(backend)(**(a | leaves), return_last_state=True)
    (y.sum() + h.sum()).backward()
    storages = {t.untyped_storage().data_ptr() for t in leaves.values()}
    for out in [y, h, *(t.grad for t in leaves.values())]:
        assert out.untyped_storage().data_ptr() not in storages
        storages.add(out.untyped_storage().data_ptr())
    for name, copy in copies.items():
        assert torch.equal(a[name], copy)


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
def test_an_argument_that_changed_is_noticed(backend):
    a = in_dtype(case(), torch.float32)
    a["delta"].requires_grad_()  # whose gradient needs x
    x = a["x"]
    y = scan_by(backend)(**a)
    with torch.no_grad():
        x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("backend", ["reference", *JUDGED])
def test_the_same_bits_every_time(backend):
    a = in_dtype(case(batch=3, length=130, d_inner=40), torch.float32)
    first = attempt(backend, a)
    for what, value in attempt(backend, a).items():
        assert torch.equal(first[what], value), what
