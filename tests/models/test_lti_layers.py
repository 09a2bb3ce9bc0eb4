"""The convolution against its definition, LSSL against matrix powers."""

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch
from torch import nn

from mambaviz.models.lti import LSSL, ChannelMixing, krylov, long_convolution
from mambaviz.models.s4 import S4
from mambaviz.models.s4d import S4D
from mambaviz.theory import hippo_legs
from tests.models import layer_cases as cases
from tests.models.layer_cases import error
from tests.models.mamba_cases import normal, perturbed

# Both in float64; both take the powers of matrices of norm near 1.
RELATIVE = 1e-12


def lssl(rule="bilinear", seed=0):
    torch.manual_seed(seed)
    layer = LSSL(4, 6, rule=rule, dt_min=0.01, dt_max=0.5)
    # A keeps its eigenvalues left of 0 at this size of noise.
    return perturbed(layer, seed, size=0.1).double()


LAYERS = {
    "LSSL": lssl,
    "LSSL, zoh": lambda: lssl("zoh"),
    "mixed S4D": lambda: ChannelMixing(S4D(4, 6), 4).double(),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    torch.manual_seed(1)
    return request.param()


def discrete_by_scipy(A, B, delta, rule):
    if rule == "zoh":
        n = len(A)
        block = np.zeros((n + 1, n + 1))
        block[:n, :n], block[:n, n] = delta * A, delta * B
        e = scipy.linalg.expm(block)
        return e[:n, :n], e[:n, n]
    left = np.eye(len(A)) - delta / 2 * A
    right = np.eye(len(A)) + delta / 2 * A
    return np.linalg.solve(left, right), np.linalg.solve(left, delta * B)


# ---- The parts -------------------------------------------------------------


@pytest.mark.parametrize(("taps", "length"), [(1, 5), (5, 5), (9, 4), (3, 8)])
def test_the_long_convolution_is_its_sum(taps, length):
    K_bar, x = normal(3, taps, seed=1), normal(2, length, 3)
    expected = torch.zeros_like(x)
    for k in range(length):
        for j in range(min(taps, k + 1)):
            expected[:, k] += K_bar[:, j] * x[:, k - j]
    assert error(long_convolution(K_bar, x), expected) < RELATIVE


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_krylov_columns_are_powers(length):
    A, v = normal(3, 4, 4) / 4, normal(3, 4, seed=1)
    columns = krylov(A, v, length)
    assert columns.shape == (3, 4, length)
    diagonal = krylov(v, v, length)
    for k in range(length):
        power = torch.linalg.matrix_power(A, k)
        column = torch.einsum("dij,dj->di", power, v)
        assert error(columns[..., k], column) < RELATIVE
        assert error(diagonal[..., k], v ** (k + 1)) < RELATIVE


def test_what_has_faded_is_zero_and_never_denormal():
    A_bar = torch.full((1, 1), 0.25)  # 4^-32 is below the root of tiny
    columns = krylov(A_bar, torch.ones(1, 1), 512).flatten()
    assert columns[31] == 0.25**31
    tiny = torch.finfo(torch.float32).tiny
    assert ((columns == 0) | (columns >= tiny)).all()


# ---- LSSL ------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["bilinear", "zoh"])
def test_the_lssl_kernel_is_a_sum_of_matrix_powers(rule):
    layer, length = lssl(rule), 20
    A, B, C = (t.detach().numpy() for t in (layer.A, layer.B, layer.C))
    K_bar = layer.kernel(length).detach()
    for d, delta in enumerate(layer.delta.tolist()):
        A_bar, B_bar = discrete_by_scipy(A, B[d], delta, rule)
        expected = [
            C[d] @ np.linalg.matrix_power(A_bar, k) @ B_bar
            for k in range(length)
        ]
        assert error(K_bar[d], torch.tensor(np.array(expected))) < RELATIVE


def test_an_lssl_is_a_discrete_system_of_scipy():
    layer, x = lssl("zoh"), normal(1, 15, 4)
    y = layer(x)[0].detach()
    for d, delta in enumerate(layer.delta.tolist()):
        A, B = layer.A.detach().numpy(), layer.B[d].detach().numpy()[:, None]
        C, D = layer.C[d].detach().numpy()[None], [[layer.D[d].item()]]
        A_bar, B_bar, *_ = scipy.signal.cont2discrete((A, B, C, D), delta)
        # SciPy reads the state before x_k enters: C A_bar and C B_bar + D
        # read it after.
        system = (A_bar, B_bar, C @ A_bar, C @ B_bar + D, delta)
        _, expected, _ = scipy.signal.dlsim(system, x[0, :, d].numpy())
        assert error(y[:, d], torch.tensor(expected[:, 0])) < RELATIVE


def test_an_lssl_starts_at_legs_with_its_parameters_counted():
    torch.manual_seed(0)
    layer = LSSL(500, 6)
    A, B = hippo_legs(6, dtype=torch.float32)
    assert torch.equal(layer.A, A)
    assert all(torch.equal(row, B) for row in layer.B)
    assert 0.9 < layer.C.std() < 1.1  # 3000 samples: 1 within 0.013 or so
    assert layer.delta.min() >= 1e-3 * (1 - 1e-6)  # exp(log) rounds
    assert layer.delta.max() <= 0.1 * (1 + 1e-6)
    share = (layer.delta < 0.01).float().mean()
    assert 0.4 < share < 0.6  # half in each decade
    count = sum(p.numel() for p in layer.parameters())
    assert count == 6**2 + 500 * (2 * 6 + 2)


def test_steps_may_share_one_discrete_system():
    layer = lssl()
    _, state = layer(normal(2, 3, 4), None, True)
    x = normal(2, 4, seed=2)
    y, after = layer.step(x, state)
    shared, after_shared = layer.step(x, state, layer.system())
    assert torch.equal(y, shared)
    assert torch.equal(after, after_shared)


# ---- The protocol ----------------------------------------------------------


def test_three_ways_give_one_result(layer):
    cases.check_three_ways(layer)


def test_both_ways_have_the_same_gradients(layer):
    cases.check_gradients_of_both_ways(layer)


def test_a_step_keeps_its_state(layer):
    cases.check_step_keeps_its_state(layer)


def test_a_layer_is_causal(layer):
    cases.check_causal(layer)


@pytest.mark.usefixtures("outside_tests")
def test_bad_input_is_refused(layer):
    cases.check_refusals(layer.float())


def test_precisions(layer):
    cases.check_precisions(layer)


def test_channel_mixing_is_gelu_and_glu():
    torch.manual_seed(0)
    inner = S4D(4, 6).double()
    layer, x = ChannelMixing(inner, 4).double(), normal(2, 7, 4)
    u = inner(x)
    u = u * (1 + torch.erf(u / 2**0.5)) / 2  # gelu
    both = u @ layer.out_proj.weight.T + layer.out_proj.bias
    value, gate = both[..., :4], both[..., 4:]
    assert error(layer(x), value / (1 + torch.exp(-gate))) < RELATIVE


@pytest.mark.usefixtures("outside_tests")
def test_a_state_of_the_wrong_kind_is_refused():
    x = torch.ones(1, 2, 4)
    with pytest.raises(ValueError, match="must be real; got torch.complex64"):
        LSSL(4, 6)(x, torch.zeros(1, 4, 6, dtype=torch.complex64))
    with pytest.raises(ValueError, match="must be complex; got torch.float32"):
        S4(4, 6)(x, torch.zeros(1, 4, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 0}, "d_model must be a positive integer; got 0"),
        ({"d_state": -2}, "d_state must be a positive integer; got -2"),
        ({"rule": "euler"}, "rule must be one of .* got 'euler'"),
        ({"dt_min": 0.2}, "0 < dt_min <= dt_max; got 0.2 and 0.1"),
        ({"dt_min": 0.0}, "0 < dt_min <= dt_max; got 0.0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LSSL(**({"d_model": 4} | options))


def test_an_lssl_learns_a_delay():
    torch.manual_seed(0)
    layer = nn.Sequential(LSSL(2, 12, dt_min=0.1, dt_max=0.3))
    first, last = cases.loss_after_delay_training(layer, 2)
    assert last < first / 20
