"""The exercises of the chapter on HiPPO, against SciPy and closed forms."""

import math
import re

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch

from mambaviz.exercises import check, find
from mambaviz.exercises.hippo import (
    solve_eigenvalues,
    solve_forgets,
    solve_online,
    solve_pairs,
    solve_window,
)
from mambaviz.figures import hippo as figures
from mambaviz.theory.hippo import hippo_legs


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 4, 12])
def test_the_slowest_state_by_scipy(n):
    A = hippo_legs(n)[0].numpy()
    found = scipy.linalg.svdvals(scipy.linalg.expm(0.7 * A))[0]
    assert solve_eigenvalues(n, 0.7) == pytest.approx(found, rel=1e-9)
    assert sorted(np.diag(A)) == list(range(-n, 0))  # triangular: eigenvalues


def test_no_state_fades_faster_at_the_start_than_the_docstring_says():
    A, B = hippo_legs(8)
    I = torch.eye(8, dtype=A.dtype)
    assert torch.allclose(A + A.mT, -(I + torch.outer(B, B)), atol=1e-12)
    # The bound that follows, and with 8 numbers the value itself.
    assert solve_eigenvalues() == pytest.approx(np.exp(-0.5), rel=1e-6)


def test_random_states_come_near_and_none_goes_beyond():
    A, _ = hippo_legs(8)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, 20_000, generator=generator, dtype=A.dtype)
    left = (torch.matrix_exp(A) @ (start / start.norm(dim=0))).norm(dim=0)
    assert math.exp(-1) < left.max() <= solve_eigenvalues()


def test_listening_with_one_number_is_a_running_sum():
    # (1 + 1/t) h = h_before + x/t: t (h after) + h after = sum of x.
    x = double(1.0, 4.0, -2.0, 7.0)
    h = solve_online(double(-1.0)[:, None], double(1.0), x)
    assert h.item() == pytest.approx(x.sum().item() / 5)


def test_the_answer_to_listen_may_use_an_inverse():
    def listen(A, B, x):
        h = np.zeros(len(B))
        for k, x_k in enumerate(x.numpy(), start=1):
            inverse = np.linalg.inv(np.eye(len(B)) - A.numpy() / k)
            h = inverse @ (h + B.numpy() * x_k / k)
        return h

    assert check("hippo/online", listen).passed is True


def test_the_window_is_a_delay():
    """Its transfer function to the oldest end is nearly that of a delay."""
    theta, n = 2.0, 8
    both = solve_window(n, theta).numpy()
    A, B = both[:, :n], both[:, n:]
    # At the window's end every plain Legendre polynomial is 1.
    frequencies = np.linspace(0.1, 3, 7)
    response = [
        np.linalg.solve(1j * w * np.eye(n) - A, B).sum() for w in frequencies
    ]
    np.testing.assert_allclose(
        response, np.exp(-1j * frequencies * theta), atol=1e-4
    )


def test_the_shares_are_the_integrals_of_the_weights():
    t = 400.0
    weights = [
        lambda a: (a <= t) / t,
        lambda a: (a <= 200) / 200,
        lambda a: np.exp(-a / 100) / 100,
    ]
    wanted = [
        scipy.integrate.quad(w, 200, 5000, points=[t], limit=200)[0]
        for w in weights
    ]
    assert solve_forgets() == pytest.approx(wanted, abs=1e-6)
    assert check("hippo/forgets", [0.5, 0, 0.135]).passed is True


def test_the_errors_in_the_question_are_those_of_the_window():
    question = find("hippo/which-memory").question
    shown = re.search(r"newest, are ([\d., and]+?)\. Which", question)[1]
    numbers = [float(n) for n in re.findall(r"\d+\.\d+", shown)]
    errors = figures.remembered(figures.random_inputs(24, 500), 40)
    window = errors["LegT, a window"].mean(dim=0).tolist()
    assert len(numbers) == 5
    for number, error in zip(numbers, window, strict=True):
        digits = 4 if number < 0.01 else 2
        assert round(error, digits) == number


def test_the_kernel_is_scipys():
    Lambda = torch.tensor([-0.5 + 3j, -1 + 6j], dtype=torch.complex128)
    C = torch.tensor([1 + 0.5j, 2 - 1j], dtype=torch.complex128)
    both = np.concatenate([Lambda.numpy(), Lambda.numpy().conj()])
    read = np.concatenate([C.numpy(), C.numpy().conj()])
    A_bar = np.exp(0.2 * both)
    B_bar = np.array(
        [scipy.integrate.quad_vec(lambda s, a=a: np.exp(a * s), 0, 0.2)[0]
         for a in both]
    )  # fmt: skip
    wanted = [(read * A_bar**lag * B_bar).sum() for lag in range(6)]
    found = solve_pairs(Lambda, C, 0.2, 6)
    np.testing.assert_allclose(found, np.real(wanted), rtol=1e-10)
    assert np.abs(np.imag(wanted)).max() < 1e-12


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("Scaled", "all ages alike"),
        ("FADING", "gradually"),
        ("random", "about as many"),
    ],
)
def test_a_wrong_memory_gets_its_hint(answer, words):
    assert words in check("hippo/which-memory", answer).hint
