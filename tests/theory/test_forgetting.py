"""What a recurrent state loses, against NumPy, autograd and closed forms."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from mambaviz.theory import linear_probe, stretch_by_lag


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def states_of(W_h, driven, is_linear=False):
    """The recurrence written out, differentiable in its first state."""

    def run(h):
        states = []
        for driven_t in driven:
            h = W_h @ h + driven_t
            h = h if is_linear else torch.tanh(h)
            states.append(h)
        return torch.stack(states)

    return run


@pytest.mark.parametrize("rho", [0.5, 0.9, 1.0, 1.2])
def test_an_orthogonal_step_fades_by_the_radius(rho):
    Q = torch.from_numpy(scipy.stats.ortho_group.rvs(7, random_state=3))
    states = torch.full((2, 24, 7), torch.nan, dtype=torch.float64)
    found = stretch_by_lag(rho * Q, states, is_linear=True)
    np.testing.assert_allclose(found, rho ** np.arange(25.0), rtol=1e-13)


@pytest.mark.parametrize("is_linear", [False, True])
def test_stretches_are_those_of_autograd(generator, is_linear):
    W_h = torch.randn(5, 5, generator=generator).double() / 2
    driven = torch.randn(3, 6, 5, generator=generator).double()
    start = torch.zeros(5, dtype=torch.float64)
    runs = [states_of(W_h, text, is_linear) for text in driven]
    squares = [
        torch.autograd.functional.jacobian(run, start).square().sum((1, 2))
        for run in runs
    ]
    wanted = (torch.stack(squares).mean(0) / 5).sqrt()
    states = torch.stack([run(start) for run in runs])
    found = stretch_by_lag(W_h, states, is_linear)
    assert found[0] == 1
    np.testing.assert_allclose(found[1:], wanted, rtol=1e-12)


def test_a_tanh_never_stretches_more_than_the_radius(generator):
    Q, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator).double())
    states = torch.rand(4, 10, 6, generator=generator).double() * 2 - 1
    found = stretch_by_lag(0.95 * Q, states)
    assert (found <= 0.95 ** torch.arange(11.0) * (1 + 1e-12)).all()
    assert found[10] < 0.9 * 0.95**10


def test_the_probe_is_numpys_least_squares(generator):
    states = torch.randn(40, 6, generator=generator).double()
    targets = torch.randn(40, 3, generator=generator).double()
    wanted, *_ = np.linalg.lstsq(states.numpy(), targets.numpy())
    found = linear_probe(states, targets, ridge=0.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-13)
    # The default ridge moves it by about 1e-9.
    found = linear_probe(states, targets)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-8)


def test_a_ridge_solves_what_has_no_single_answer():
    states = torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
    found = linear_probe(states, states[:, :1])
    # Of all solutions the shortest: each column gives one half.
    assert torch.allclose(found, torch.full_like(found, 0.5), atol=1e-6)


@pytest.mark.parametrize("ridge", [-1e-9, math.nan])
def test_a_ridge_that_is_none(ridge):
    with pytest.raises(ValueError, match=f"ridge .* got {ridge}"):
        linear_probe(torch.eye(2), torch.eye(2), ridge)


def test_states_that_never_move_say_nothing():
    with pytest.raises(torch.linalg.LinAlgError):
        linear_probe(torch.zeros(3, 2), torch.ones(3, 1))
