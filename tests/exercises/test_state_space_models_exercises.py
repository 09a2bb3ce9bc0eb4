"""The exercises on state space models, against numbers worked out by hand."""

import re

import numpy as np
import pytest
import scipy.signal
import torch

from mambaviz.exercises import check, find, state_space_models
from mambaviz.exercises.state_space_models import _REDUNDANT


def test_the_solutions_are_the_closed_forms():
    # s^2 - a s + 9 has a double root at a = -6; A h = (1, -3), B x = (0, 2.4)
    assert find("ssm/critical-damping").solution == pytest.approx(-6)
    wanted = torch.tensor([1.0, -0.6], dtype=torch.float64)
    torch.testing.assert_close(find("ssm/predict-rate").solution, wanted)
    assert find("ssm/redundant-state").solution == "h_3"


def test_at_the_critical_entry_the_eigenvalues_meet():
    a = find("ssm/critical-damping").solution
    values = np.linalg.eigvals(np.array([[0, 1], [-9, a]]))
    # A double eigenvalue is known to the root of the rounding error only.
    np.testing.assert_allclose(values, -3, atol=1e-6)


def test_scipy_finds_the_same_state_redundant():
    A, B, C = (matrix.numpy() for matrix in _REDUNDANT)
    t = np.linspace(0, 5, 50)

    def response(kept):
        system = A[np.ix_(kept, kept)], B[kept, None], C[None, kept], [[0.0]]
        return scipy.signal.impulse(system, T=t)[1]

    whole = response([0, 1, 2])
    for n in range(3):
        rest = [m for m in range(3) if m != n]
        same = np.allclose(response(rest), whole, atol=1e-10)
        assert same == (n == 2)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("critical-damping", torch.tensor(-6.0)),
        ("critical-damping", np.float32(-5.98)),
        ("predict-rate", [1.0, -0.6]),
        ("predict-rate", np.array([1.0, -0.6])),
        ("redundant-state", "H_3"),
        ("isolate-d", lambda read: (read(2.0) - read(0.0)) / 2),
        ("isolate-d", lambda read: (read(1.0) - read(-1.0)) / 2),
    ],
)
def test_a_right_answer_may_be_written_in_several_ways(name, answer):
    assert check(f"ssm/{name}", answer).passed is True


@pytest.mark.parametrize(
    ("name", "answer", "which"),
    [
        ("critical-damping", 6, 0),
        ("critical-damping", -12, 1),
        ("critical-damping", -3, 2),
        ("critical-damping", 0, 3),
        ("critical-damping", -9, 4),
        ("predict-rate", [1.0, -3.0], 0),
        ("predict-rate", [0.0, 2.4], 1),
        ("predict-rate", [-4.0, 1.9], 2),
        ("predict-rate", [1.5, 0.4], 3),
        ("redundant-state", "h_2", 0),
        ("redundant-state", "h_1", 1),
        ("isolate-d", lambda read: read(1), 0),
        ("isolate-d", lambda read: read(0), 1),
    ],
)
def test_a_typical_error_gets_the_hint_that_is_meant_for_it(
    name, answer, which
):
    result = check(f"ssm/{name}", answer)
    assert result.hint == find(f"ssm/{name}").mistakes[which].hint


def test_minus_signs_in_the_words_are_true_ones():
    for exercise in state_space_models.EXERCISES:
        hints = [mistake.hint for mistake in exercise.mistakes]
        for words in (exercise.question, exercise.nudge, *hints):
            outside_code = re.sub(r"`[^`]*`", "", words)
            assert not re.search(r"(?<![A-Za-z])-", outside_code), words
