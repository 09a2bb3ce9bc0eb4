"""The exercises of the chapter on recurrent networks, by other means."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from mambaviz.exercises import check, find
from mambaviz.exercises.recurrent_networks import (
    solve_recall_100,
    solve_serial_chain,
)


def holds(w, u):
    """Whether the worst noise, 0.3 against the first word, is too weak.

    The state must stay above every fixed point of h = tanh(w h - 0.3 u).
    """
    h = np.tanh(u)
    for _ in range(10_000):
        h = np.tanh(w * h - 0.3 * u)
    return bool(h > 0)


@pytest.mark.parametrize("u", [0.05, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("w", [0.8, 1.3, 1.6, 2.0, 3.0, 40.0])
def test_a_cell_passes_if_the_worst_noise_cannot_turn_it(w, u):
    assert check("rnn/latch", [w, u, 0]).passed is holds(w, u)


def test_the_push_of_the_solution_is_where_a_resting_place_ends():
    # The largest push that leaves h = tanh(2 h - push) a positive solution.
    best = scipy.optimize.minimize_scalar(
        lambda h: np.arctanh(h) - 2 * h, bounds=(0.1, 0.9), method="bounded"
    )
    assert 0.3 < -best.fun < 1  # from what noise to what the first word adds
    assert holds(2, -best.fun / 0.3 * 0.99)
    assert not holds(2, -best.fun / 0.3 * 1.01)


def test_a_cell_that_answers_with_other_than_three_numbers():
    assert "three numbers" in check("rnn/latch", [2.0, 1.0]).message
    assert not check("rnn/latch", [2.0, 1.0, np.nan]).passed
    assert check("rnn/latch", torch.tensor([3, 1, 0])).passed


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


@pytest.mark.parametrize(
    ("length", "directions"),
    [(1, (1,)), (4, (1, 1, 1)), (3, (1, -1, 1, 1)), (6, (-1, 1, 1, -1, -1))],
)
def test_the_chain_is_how_long_all_processors_take(length, directions):
    # Let every cell work as soon as it can, unit by unit.
    layers = len(directions)
    waiting = set(itertools.product(range(layers), range(length)))
    done, units = set(), 0
    while waiting:
        ready = {
            (layer, t)
            for layer, t in waiting
            if (layer == 0 or (layer - 1, t) in done)
            and (
                not 0 <= t - directions[layer] < length
                or (layer, t - directions[layer]) in done
            )
        }
        done |= ready
        waiting -= ready
        units += 1
    assert solve_serial_chain(length, directions) == units
    turns = sum(a != b for a, b in itertools.pairwise(directions))
    assert units == length * (1 + turns) + layers - 1 - turns


def test_the_radius_is_the_hundredth_root():
    assert find("rnn/radius").solution == pytest.approx(
        np.exp(np.log(0.5) / 100), rel=1e-12
    )
    assert check("rnn/radius", 0.993).passed
    assert not check("rnn/radius", 0.99).passed
    assert check("rnn/radius", 0.9931).passed
    # The number in the hint for a linear loss.
    assert round(100 * 0.995**100) == 61
