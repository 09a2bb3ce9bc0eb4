"""The exercises of the chapter on recurrent networks, by other means."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch

from mambaviz.exercises import check, find
from mambaviz.exercises.recurrent_networks import (
    solve_cell,
    solve_recall_100,
    solve_serial_chain,
)


def test_the_cell_is_torchs():
    torch.manual_seed(1)
    theirs = torch.nn.RNN(3, 5, batch_first=True).double()
    x = torch.randn(1, 9, 3, dtype=torch.float64)
    with torch.no_grad():
        wanted, _ = theirs(x)
        found = solve_cell(
            theirs.weight_hh_l0,
            theirs.weight_ih_l0,
            theirs.bias_ih_l0 + theirs.bias_hh_l0,
            x[0],
        )
    assert torch.allclose(found, wanted[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_any_orthogonal_matrix_recalls(seed):
    Q = torch.from_numpy(scipy.stats.ortho_group.rvs(256, random_state=seed))
    assert check("rnn/recall-100", lambda n: Q).passed
    assert check("rnn/recall-100", lambda n: 0.99 * Q).passed
    assert not check("rnn/recall-100", lambda n: 0.95 * Q).passed


def test_the_solution_recalls_by_hand():
    W_h = solve_recall_100(256).numpy()
    x = np.random.default_rng(2).standard_normal(121)
    h = np.zeros(256)
    for value in x:
        h = W_h @ h
        h[0] += value
    assert h[100] == x[-101]


def test_a_short_memory_and_a_wrong_shape_do_not_pass():
    def short(d_state):
        W_h = solve_recall_100(d_state)
        W_h[90, 89] = 0  # what arrives there is dropped
        return W_h

    result = check("rnn/recall-100", short)
    assert not result.passed
    assert "error of 1" in result.message
    assert not check("rnn/recall-100", lambda n: torch.eye(n - 1)).passed
    assert "is mixed" in check("rnn/recall-100", torch.eye).hint
    grown = check("rnn/recall-100", lambda n: 1e9 * solve_recall_100(n))
    assert not grown.passed


@pytest.mark.parametrize(("length", "n_layers"), [(1, 1), (4, 3), (3, 4)])
def test_the_chain_is_the_longest_path(length, n_layers):
    # All monotone paths of a small grid, one by one.
    moves = "t" * (length - 1) + "l" * (n_layers - 1)
    paths = set(itertools.permutations(moves))
    longest = max(len(path) + 1 for path in paths)
    assert solve_serial_chain(length, n_layers) == longest
    assert longest == length + n_layers - 1


def test_the_radius_is_the_hundredth_root():
    assert find("rnn/radius").solution == pytest.approx(
        np.exp(np.log(0.5) / 100), rel=1e-12
    )
    assert check("rnn/radius", 0.993).passed
    assert not check("rnn/radius", 0.99).passed
    assert check("rnn/radius", 0.9931).passed
    # The number in the hint for a linear loss.
    assert round(100 * 0.995**100) == 61
