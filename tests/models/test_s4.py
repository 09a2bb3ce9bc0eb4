"""S4 against dense matrices, and against LSSL in another basis."""

import numpy as np
import pytest
import torch

from mambaviz.models.lti import LSSL
from mambaviz.models.s4 import S4, as_complex
from mambaviz.theory import conjugate_half, dplr_legs
from tests.models import layer_cases as cases
from tests.models.layer_cases import error
from tests.models.mamba_cases import normal, perturbed

# float64; the kernel goes through an FFT, powers do not.
RELATIVE = 1e-11


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = S4(4, 6, dt_min=0.01, dt_max=0.5)
    return perturbed(layer, size=0.2).double()


def dense(layer, d):
    """A, B and C of channel d on both of each pair, from the parameters."""
    Lambda = -np.exp(layer.log_A_real[d].detach().numpy())
    Lambda = Lambda + 1j * layer.A_imag[d].detach().numpy()
    P, B, C = (
        (t[d, :, 0] + 1j * t[d, :, 1]).detach().numpy()
        for t in (layer.P, layer.B, layer.C)
    )
    Lambda, P, B, C = (
        np.concatenate([t, t.conj()]) for t in (Lambda, P, B, C)
    )
    return np.diag(Lambda) - np.outer(P, P.conj()), B, C


def bilinear(A, B, delta):
    left = np.eye(len(A)) - delta / 2 * A
    right = np.eye(len(A)) + delta / 2 * A
    return np.linalg.solve(left, right), np.linalg.solve(left, delta * B)


@pytest.mark.parametrize("length", [1, 2, 7, 16, 33])
def test_the_kernel_is_a_sum_of_matrix_powers(layer, length):
    K_bar = layer.kernel(length).detach()
    for d, delta in enumerate(layer.delta.tolist()):
        A, B, C = dense(layer, d)
        A_bar, B_bar = bilinear(A, B, delta)
        expected = [
            C @ np.linalg.matrix_power(A_bar, k) @ B_bar for k in range(length)
        ]
        # The conjugates make the sum real: what is left is rounding.
        assert np.abs(np.imag(expected)).max() < 1e-12
        expected = torch.tensor(np.real(expected))
        assert error(K_bar[d], expected) < RELATIVE


def test_a_kernel_is_the_start_of_a_longer_one(layer):
    """So C is a parameter of the system and not of one length."""
    longer = layer.kernel(40)
    assert error(layer.kernel(11), longer[:, :11]) < RELATIVE


def test_the_woodbury_step_is_the_dense_one(layer):
    x, h = normal(2, 4), normal(2, 4, 3, 2, seed=1)
    h = torch.view_as_complex(h)
    y, after = layer.step(x, h)
    shared, after_shared = layer.step(x, h, layer.system())
    assert error(shared, y) < RELATIVE
    assert error(after_shared, after) < RELATIVE
    for d, delta in enumerate(layer.delta.tolist()):
        A_bar, B_bar = bilinear(*dense(layer, d)[:2], delta)
        whole = torch.cat([h[:, d], h[:, d].conj()], -1).numpy()
        expected = whole @ A_bar.T + B_bar * x[:, d, None].numpy()
        expected = torch.tensor(expected[:, :3])
        assert error(after[:, d].detach(), expected) < RELATIVE


@pytest.mark.parametrize("d_state", [2, 16, 64])
def test_s4_starts_as_an_lssl_with_legs(d_state):
    torch.manual_seed(0)
    s4 = S4(3, d_state).double()
    lssl = LSSL(3, d_state).double()
    V = conjugate_half(dplr_legs(d_state)).V
    with torch.no_grad():
        # y = 2 Re(C V^* h) for the h of LegS. float32 first values would
        # only agree to 1e-7, so Lambda, P and B are set again in float64.
        half = conjugate_half(dplr_legs(d_state))
        s4.log_A_real[:] = torch.log(-half.Lambda.real)
        s4.A_imag[:] = half.Lambda.imag
        s4.P[:] = torch.view_as_real(half.P[:, 0])
        s4.B[:] = torch.view_as_real(half.B)
        lssl.B[:] = lssl.B[0].square().round().sqrt()
        n = torch.arange(d_state, dtype=torch.float64)
        b = torch.sqrt(2 * n + 1)
        lssl.A[:] = -torch.tril(torch.outer(b, b), -1) - torch.diag(n + 1)
        lssl.C[:] = 2 * (as_complex(s4.C) @ V.mH).real
        lssl.log_dt[:] = s4.log_dt
        lssl.D[:] = s4.D
        x = normal(2, 50, 3)
        # The entries of V^* A V are sums of 64 terms of size up to 127.
        assert error(s4(x), lssl(x)) < 1e-10


def test_first_values_are_those_of_legs():
    torch.manual_seed(0)
    layer = S4(300, 8)
    half = conjugate_half(dplr_legs(8))
    assert (
        error(layer.Lambda.detach().real, half.Lambda.real.expand(300, 4))
        < 1e-6
    )
    assert error(layer.A_imag, half.Lambda.imag.expand(300, 4)) < 1e-6
    assert error(layer.P[..., 0], half.P[:, 0].real.expand(300, 4)) < 1e-6
    assert error(layer.B[..., 0], half.B.real.expand(300, 4)) < 1e-6
    # 1200 complex numbers: their mean square is 1 within 0.03 or so.
    assert 0.85 < layer.C.square().sum(-1).mean() < 1.15
    count = sum(p.numel() for p in layer.parameters())
    assert count == 300 * (4 * 8 + 2)


def test_it_is_stable_whatever_it_learns():
    torch.manual_seed(0)
    layer = perturbed(S4(4, 6), size=3.0).double()
    A_bar, _, _ = layer.system()
    assert (torch.linalg.eigvals(A_bar).abs() < 1).all()


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


def test_an_odd_number_of_states_is_refused():
    with pytest.raises(ValueError, match="d_state must be even.* got 5"):
        S4(4, 5)


def test_it_learns_a_delay():
    torch.manual_seed(0)
    layer = S4(2, 16, dt_min=0.1, dt_max=0.3)
    first, last = cases.loss_after_delay_training(layer, 2)
    assert last < first / 20
