"""The judge itself, against closed forms, SciPy and finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.signal import lfilter
from torch.autograd import gradcheck, gradgradcheck

from mambaviz.ops.selective_scan import selective_scan, selective_scan_step
from mambaviz.theory import discretize_mamba, linear_recurrence
from tests.ops.scan_cases import TENSORS, case, error, run, scan_by

# Some tens of steps of float64, each with a few roundings of 1e-16.
EXACT = 1e-14

reference = scan_by("reference")


def test_one_state_with_constant_steps_is_a_filter_of_scipy():
    delta, a, b, c, d = 0.3, -0.7, 1.3, 0.6, -0.2
    x = np.random.default_rng(0).standard_normal(50)
    decay = math.exp(delta * a)
    # Y(z)/X(z) = c delta b / (1 - decay z^-1) + d
    y = lfilter([c * delta * b + d, -d * decay], [1, -decay], x)
    full = torch.ones(1, 50, 1, dtype=torch.float64)
    ours = reference(
        torch.from_numpy(x)[None, :, None],
        delta * full,
        torch.tensor([[a]], dtype=torch.float64),
        b * full,
        c * full,
        torch.tensor([d], dtype=torch.float64),
    )
    np.testing.assert_allclose(ours.flatten(), y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("is_complex", [False, True])
def test_varying_steps_are_the_recurrence_of_theory(is_complex):
    """Channel by channel, with discretize_mamba's A_bar at each step."""
    arguments = case(
        is_complex=is_complex,
        softplus=False,
        reset=False,
        without=("D", "z", "initial_state"),
    )
    x, delta, A, B, C = (arguments[n] for n in ("x", "delta", "A", "B", "C"))
    y, last = reference(x, delta, A, B, C, return_last_state=True)
    for b, d in ((0, 0), (1, 4)):
        h = torch.zeros_like(A[d])
        for t in range(x.shape[1]):
            A_bar, B_bar = discretize_mamba(A[d], B[b, t], delta[b, t, d])
            (h,) = linear_recurrence(A_bar, B_bar, x[b, t, d : d + 1], h)
            out = (C[b, t] * h).sum()
            out = 2 * out.real if is_complex else out
            assert out.item() == pytest.approx(y[b, t, d].item(), rel=1e-12)
        torch.testing.assert_close(last[b, d], h, rtol=1e-12, atol=0)


def test_the_closed_form_with_all_there_is():
    """h_t is a sum over all earlier steps, each with its decay since."""
    arguments = case(batch=1, length=9, d_inner=4, d_state=2, B=2, C="fixed")
    a = {k: v[0] if k in "x delta z B" else v for k, v in arguments.items()}
    starts = arguments["reset"][0] = torch.arange(9) == 5
    step = torch.log1p(torch.exp(a["delta"] + a["delta_bias"]))
    ys = []
    for t in range(9):
        y = torch.zeros(4, dtype=torch.float64)
        for d in range(4):
            first = 5 if t >= 5 else 0
            for n in range(2):
                h = sum(
                    torch.exp(step[s + 1 : t + 1, d].sum() * a["A"][d, n])
                    * step[s, d]
                    * a["B"][s, d // 2, n]
                    * a["x"][s, d]
                    for s in range(first, t + 1)
                )
                if not first:
                    decay = torch.exp(step[: t + 1, d].sum() * a["A"][d, n])
                    h = h + decay * arguments["initial_state"][0, d, n]
                y[d] += a["C"][d, n] * h
        gate = a["z"][t] / (1 + torch.exp(-a["z"][t]))
        ys.append((y + a["D"] * a["x"][t]) * gate)
    assert starts.any()
    assert error(reference(**arguments)[0], torch.stack(ys)) < EXACT


def test_a_complex_state_stands_for_itself_and_its_conjugate():
    """It is a real 2 x 2 system that turns and decays, by SciPy's expm."""
    delta, A, B, C = 0.3, -0.5 + 2j, 0.8 - 0.3j, 1.1 + 0.4j
    x = np.random.default_rng(1).standard_normal(20)
    turn = expm(delta * np.array([[A.real, -A.imag], [A.imag, A.real]]))
    drive = delta * np.array([B.real, B.imag])
    readout = 2 * np.array([C.real, -C.imag])
    h, y = np.zeros(2), []
    for x_t in x:
        h = turn @ h + drive * x_t
        y.append(readout @ h)
    full = torch.ones(1, 20, 1, dtype=torch.complex128)
    ours = reference(
        torch.from_numpy(x)[None, :, None],
        delta * full.real,
        A * full[0, :1],
        B * full,
        C * full,
    )
    np.testing.assert_allclose(ours.flatten(), y, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "kinds",
    [
        {},
        {"B": 2, "C": "fixed"},
        {"is_complex": True},
        {"is_complex": True, "complex_weights": False, "B": "fixed"},
        {"softplus": False, "reset": False},
    ],
    ids=str,
)
def test_gradcheck(kinds):
    arguments = case(batch=2, length=5, d_inner=4, d_state=2, **kinds)
    names = [n for n in TENSORS if arguments[n] is not None]

    def scan(*tensors):
        given = dict(zip(names, tensors, strict=True))
        return reference(**(arguments | given), return_last_state=True)

    leaves = [arguments[name].requires_grad_() for name in names]
    assert gradcheck(scan, leaves)


def test_it_can_be_differentiated_twice():
    arguments = case(batch=1, length=3, d_inner=2, d_state=1)

    def scan(x, delta, A):
        return reference(**(arguments | {"x": x, "delta": delta, "A": A}))

    leaves = [arguments[n].requires_grad_() for n in ("x", "delta", "A")]
    assert gradgradcheck(scan, leaves)


def test_the_backward_pass_is_linear_in_the_length():
    """Indexing x[:, t] would make its gradient as large as x at each step."""

    class Written(torch.utils._python_dispatch.TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, function, types, args, kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and not out._is_view():
                self.total += out.numel()
            return out

    totals = []
    for length in (64, 128, 256):
        with Written() as written:
            run(reference, case(1, length, 8, 2, reset=False))
        totals.append(written.total)
    # A quadratic part would make the second step more than twice the first.
    assert totals[2] - totals[1] < 2.05 * (totals[1] - totals[0])


@pytest.mark.parametrize(
    "kinds",
    [
        {},
        {"B": 3, "C": 2},
        {"B": "fixed"},
        {"C": "fixed", "is_complex": True},
        {"without": ("D", "z"), "softplus": False},
    ],
    ids=str,
)
def test_stepping_is_scanning(kinds):
    arguments = case(**kinds, reset=False)
    y, last_state = reference(**arguments, return_last_state=True)
    state = arguments["initial_state"]
    fixed = {
        f"fixed_{w}": True for w in "BC" if kinds.get(w, "each") == "fixed"
    }
    common = {n: arguments[n] for n in ("A", "D", "delta_bias")}
    for t in range(y.shape[1]):
        now = {
            n: arguments[n] if arguments[n] is None else arguments[n][:, t]
            for n in ("x", "delta", "z")
        }
        weights = {
            n: arguments[n] if f"fixed_{n}" in fixed else arguments[n][:, t]
            for n in "BC"
        }
        before = state.clone()
        y_t, new = selective_scan_step(
            state,
            **now,
            **common,
            **weights,
            **fixed,
            delta_softplus=arguments["delta_softplus"],
        )
        assert torch.equal(state, before)
        y_, same = selective_scan_step(
            state,
            **now,
            **common,
            **weights,
            **fixed,
            delta_softplus=arguments["delta_softplus"],
            in_place=True,
        )
        assert same is state
        assert torch.equal(y_, y_t)
        assert torch.equal(state, new)
        assert error(y_t, y[:, t]) < EXACT
    assert error(state, last_state) < EXACT


def test_a_step_in_place_needs_a_state_that_can_hold_it():
    a = case(length=1, is_complex=True, reset=False)
    now = [a["x"][:, 0], a["delta"][:, 0], a["A"]]
    weights = [a[n][:, 0] for n in "BC"]
    state = torch.zeros(a["initial_state"].shape)
    with pytest.raises(ValueError, match="must be complex; got torch.float32"):
        selective_scan_step(state, *now, *weights, in_place=True)


def test_a_step_where_batch_equals_d_inner():
    """The shapes of fixed weights and of one for each sequence agree here."""
    a = case(batch=4, length=1, d_inner=4, reset=False)
    now = {n: a[n][:, 0] for n in ("x", "delta", "z")}
    rest = {n: a[n] for n in ("A", "D", "delta_bias", "delta_softplus")}
    weights = {"B": a["B"][:, 0], "C": a["C"][:, 0]}  # batch d_state
    state = a["initial_state"]
    y, _ = selective_scan_step(state, **now, **rest, **weights)
    assert error(y, selective_scan(**a)[:, 0]) < EXACT
    y, _ = selective_scan_step(
        state, **now, **rest, **weights, fixed_B=True, fixed_C=True
    )
    assert error(y, selective_scan(**(a | weights))[:, 0]) < EXACT


def test_a_step_has_a_gradient():
    a = case(batch=2, length=1, d_inner=3, reset=False)
    names = ("initial_state", "x", "delta", "A", "B", "C")
    leaves = [
        (a[n][:, 0] if n in ("x", "delta", "B", "C") else a[n]).clone()
        for n in names
    ]
    assert gradcheck(
        lambda *t: selective_scan_step(*t, delta_softplus=True),
        [leaf.requires_grad_() for leaf in leaves],
    )


def test_a_step_in_place_has_the_gradient_of_one_that_is_not():
    a = case(batch=2, length=1, d_inner=3, reset=False)
    now = {n: a[n][:, 0] for n in ("x", "delta", "B", "C")}
    grads = []
    for in_place in (False, True):
        leaves = [t.clone().requires_grad_() for t in (a["A"], *now.values())]
        A, *others = leaves
        rest = dict(zip(now, others, strict=True))
        state = a["initial_state"].clone()
        y, h = selective_scan_step(state, A=A, **rest, in_place=in_place)
        grads.append(torch.autograd.grad((y + h.sum(-1)).sum(), leaves))
    assert all(map(torch.equal, *grads))


def test_softplus_of_float64_is_exact_far_out():
    """It is log(1 + e^x), not x, where e^-x is above 1e-16."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    A = torch.tensor([[-1e-3]], dtype=torch.float64)
    for raw in (19.0, 21.0, 25.0, 36.0, 39.0, 41.0, 700.0):
        _, h = reference(
            one,
            raw * one,
            A,
            one,
            one,
            delta_softplus=True,
            return_last_state=True,
        )
        exact = raw + math.log1p(math.exp(-raw))
        assert h.item() == pytest.approx(exact, rel=2e-16, abs=0)
