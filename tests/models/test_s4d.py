"""S4D against powers of its diagonal, and against Mamba's scan."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mambaviz.models import S6
from mambaviz.models.s4d import INITS, S4D
from mambaviz.theory import phi1
from tests.models import layer_cases as cases
from tests.models.layer_cases import error
from tests.models.mamba_cases import normal, perturbed

# float64; both take powers of numbers within the unit circle.
RELATIVE = 1e-12
CASES = [(init, rule) for init in INITS for rule in ("zoh", "bilinear")]


def s4d(init="lin", rule="zoh"):
    torch.manual_seed(0)
    layer = S4D(4, 6, init=init, rule=rule, dt_min=0.01, dt_max=0.5)
    return perturbed(layer, size=0.2).double()


@pytest.fixture(params=CASES, ids="-".join)
def layer(request):
    return s4d(*request.param)


def numbers(layer):
    """Lambda, B, C and delta as NumPy has them."""
    p = {name: t.detach().numpy() for name, t in layer.named_parameters()}
    Lambda, B, C = -np.exp(p["log_A_real"]), p["B"], p["C"]
    if "A_imag" in p:
        Lambda = Lambda + 1j * p["A_imag"]
        B, C = B[..., 0] + 1j * B[..., 1], C[..., 0] + 1j * C[..., 1]
    return Lambda, B, C, np.exp(p["log_dt"])[:, None]


def test_the_kernel_is_a_sum_of_powers(layer):
    Lambda, B, C, delta = numbers(layer)
    if layer.rule == "zoh":
        A_bar = np.exp(delta * Lambda)
        B_bar = (A_bar - 1) / Lambda * B
    else:
        A_bar = (1 + delta / 2 * Lambda) / (1 - delta / 2 * Lambda)
        B_bar = delta * B / (1 - delta / 2 * Lambda)
    expected = np.stack(
        [(C * A_bar**k * B_bar).sum(-1) for k in range(20)], axis=-1
    )
    if layer.is_complex:
        expected = 2 * expected.real
    assert error(layer.kernel(20), torch.tensor(expected)) < RELATIVE


def test_without_selection_s6_is_s4d_real():
    """S6 holds B by Euler: B_bar = delta B, so B is divided by phi1."""
    torch.manual_seed(0)
    s6 = S6(4, 6, selective=(), backend="reference").double()
    layer = S4D(4, 6, init="real").double()
    with torch.no_grad():
        delta = F.softplus(s6.delta_bias)
        layer.log_dt[:] = delta.log()
        layer.log_A_real[:] = s6.A_log
        layer.B[:] = s6.B / phi1(delta[:, None] * s6.A)
        layer.C[:], layer.D[:] = s6.C, s6.D
    x = normal(2, 12, 4)
    theirs, their_state = s6(x, None, True)
    y, state = layer(x, None, True)
    assert error(y, theirs) < RELATIVE
    # S4D's h is the same state: B_bar is the same.
    assert error(state, their_state) < RELATIVE


@pytest.mark.parametrize(
    ("init", "real", "imaginary"),
    [
        ("lin", [-0.5] * 3, [0, math.pi, 2 * math.pi]),
        # N / pi (N / (2 n + 1) - 1) with N = 6
        ("inv", [-0.5] * 3, [30 / math.pi, 6 / math.pi, 1.2 / math.pi]),
        ("real", [-1, -2, -3, -4, -5, -6], None),
    ],
)
def test_first_values(init, real, imaginary):
    torch.manual_seed(0)
    layer = S4D(400, 6, init=init)
    Lambda = layer.Lambda.detach()
    assert error(Lambda.real, torch.tensor(real).expand(400, -1)) < 1e-6
    if imaginary is not None:
        expected = torch.tensor(imaginary).expand(400, -1)
        assert error(Lambda.imag, expected) < 1e-6
        assert torch.equal(layer.B[0], torch.tensor([[1.0, 0.0]] * 3))
        # 1200 complex numbers: their mean square is 1 within 0.03 or so.
        assert 0.85 < layer.C.square().sum(-1).mean() < 1.15
    else:
        assert (layer.B == 1).all()
        assert 0.85 < layer.C.square().mean() < 1.15
    assert layer.delta.min() >= 1e-3 * (1 - 1e-6)  # exp(log) rounds
    assert layer.delta.max() <= 0.1 * (1 + 1e-6)
    count = sum(p.numel() for p in layer.parameters())
    assert count == 400 * (3 * 6 + 2)


def test_three_ways_give_one_result(layer):
    cases.check_three_ways(layer)


def test_both_ways_have_the_same_gradients(layer):
    cases.check_gradients_of_both_ways(layer)


def test_a_step_keeps_its_state(layer):
    cases.check_step_keeps_its_state(layer)


def test_it_is_causal(layer):
    cases.check_causal(layer)


@pytest.mark.usefixtures("outside_tests")
def test_bad_input_is_refused(layer):
    cases.check_refusals(layer.float())


def test_precisions(layer):
    cases.check_precisions(layer)


def test_a_long_float32_sequence_keeps_its_digits():
    """Steps round once each; doubling keeps the powers of A_bar exact."""
    torch.manual_seed(0)
    layer, x = S4D(4, 16), normal(1, 4096, 4, dtype=torch.float32)
    y, state = layer(x, None, True)
    exact, exact_state = layer.double()(x.double(), None, True)
    # The phase of A_bar^k is k times its own, which float32 holds to 6e-8:
    # 1e-4 after 2000 steps, the longest that a state lives here.
    assert error(y, exact) < 1e-4
    assert error(state.to(exact_state.dtype), exact_state) < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "fout"}, "init must be one of .* got 'fout'"),
        ({"rule": "euler"}, "rule must be one of .* got 'euler'"),
        ({"d_state": 5}, "d_state must be even .* got 5"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        S4D(4, **options)


@pytest.mark.parametrize("init", ["lin", "inv", "legs"])
def test_it_learns_a_delay(init):
    torch.manual_seed(0)
    layer = S4D(2, 16, init=init, dt_min=0.1, dt_max=0.3)
    first, last = cases.loss_after_delay_training(layer, 2)
    assert last < first / 20
