"""What a state still tells: closed forms against samples (S090, E10)."""

import math

import numpy as np
import pytest
import torch

from mambaviz.theory import (
    decoder_error,
    discretize_dense,
    discretize_zoh,
    error_by_age,
    hippo_legs,
    optimal_decoder,
    random_transition,
    s4d_lin,
    s4d_real,
    smooth_covariance,
    smooth_signals,
    state_kernels,
)

LENGTH, STATES, CORRELATION = 400, 32, 15
DELTA = 2 / LENGTH
FLOAT32 = 2.5e-8  # rms error of rounding, relative


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def legs(n=STATES):
    return state_kernels(*discretize_dense(*hippo_legs(n), DELTA), LENGTH)


def diagonal(A):
    """By ZOH, with B = 1, as S4D has it."""
    A_bar, B_bar = discretize_zoh(A, torch.ones_like(A), DELTA)
    return state_kernels(A_bar, B_bar, LENGTH)


def random(seed, n=STATES):
    return state_kernels(*random_transition(n, 0.98, seeded(seed)), LENGTH)


def by_lag(kernels, precision=1e-4):
    """The rms error in eight bins of lags, newest first."""
    covariance = smooth_covariance(LENGTH, CORRELATION)
    error = decoder_error(kernels, covariance, precision)
    return error.reshape(8, -1).square().mean(dim=1).sqrt()


class TestFourMatrices:
    """E10, S090: N = 32, L = 400, step 2 / L, input smooth over 15 steps.

    The last eighth is easier than the one before: beyond it there is no input
    that could be mistaken for it. So orders in lag leave it out.
    """

    SEEDS = range(24)

    @pytest.fixture(scope="class")
    @classmethod
    def randoms(cls):
        return torch.stack([by_lag(random(seed)) for seed in cls.SEEDS])

    def test_legs_forgets_slowly_from_nothing(self):
        error = by_lag(legs())
        assert (error[:7].diff() > 0).all()
        assert error[0] < 0.01
        assert 0.1 < error[6] < 0.4

    def test_s4d_real_forgets_fast(self):
        error = by_lag(diagonal(s4d_real(STATES)))
        assert (error[:7].diff() > 0).all()
        assert error[0] > 0.05
        assert error[6] > 0.7
        assert (error > by_lag(legs())).all()

    def test_s4d_lin_is_flat_and_best(self):
        error = by_lag(diagonal(s4d_lin(STATES)))
        # A Fourier series of period 2, which is the whole history: its ends
        # meet, so both of them are a little worse than the middle.
        assert error.max() < 0.1
        assert error[1:7].max() < 1.5 * error[1:7].min()
        assert (error[2:] < 0.5 * by_lag(legs())[2:]).all()
        assert error[0] > by_lag(legs())[0]

    def test_random_is_worst(self, randoms):
        real = by_lag(diagonal(s4d_real(STATES)))
        assert (randoms[:, 1:] > real[1:]).all()
        assert (randoms.mean(dim=0) > real).all()
        assert (randoms[:, 2:7] > 0.9).all()

    @pytest.mark.parametrize("precision", [1e-2, 1e-3, FLOAT32])
    def test_the_order_is_that_of_every_common_precision(self, precision):
        kinds = [
            diagonal(s4d_lin(STATES)),
            legs(),
            diagonal(s4d_real(STATES)),
            random(0),
        ]
        errors = [by_lag(kernels, precision)[2:7] for kernels in kinds]
        for better, worse in zip(errors, errors[1:], strict=False):
            assert (better < worse).all()


class TestTheSameEigenvalues:
    """LegS and S4D-Real know the same; one needs more digits to say it."""

    @pytest.mark.parametrize("n", [2, 4, 6])
    def test_read_without_error_they_are_equal(self, n):
        covariance = smooth_covariance(LENGTH, CORRELATION)
        one = decoder_error(legs(n), covariance, 1e-11)
        other = decoder_error(diagonal(s4d_real(n)), covariance, 1e-11)
        # The eigenvectors multiply 1e-11 by up to 3e3 at N = 6.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)

    def test_read_in_three_digits_they_are_not(self):
        covariance = smooth_covariance(LENGTH, CORRELATION)
        one = decoder_error(legs(6), covariance, 1e-3)
        other = decoder_error(diagonal(s4d_real(6)), covariance, 1e-3)
        assert (other - one).max() > 0.1

    def test_more_digits_help_s4d_real_most(self):
        coarse, fine = 1e-3, FLOAT32
        gains = [
            by_lag(kernels, coarse)[3] - by_lag(kernels, fine)[3]
            for kernels in (legs(), diagonal(s4d_real(STATES)))
        ]
        assert gains[1] > 5 * gains[0] > 0


class TestDecoder:
    PRECISION = 0.01

    @pytest.fixture
    def kernels(self):
        return random(3, n=6)[:, :60]

    @pytest.fixture
    def covariance(self):
        return smooth_covariance(60, 5)

    def test_is_the_formula(self, kernels, covariance):
        K, S = kernels.numpy(), covariance.numpy()
        gram = K @ S @ K.T
        noisy = gram + self.PRECISION**2 * np.diag(np.diag(gram))
        theirs = np.linalg.solve(noisy, K @ S).T
        ours = optimal_decoder(kernels, covariance, self.PRECISION)
        # Solving squares the condition number, which is 1e2 / precision here.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
        error = np.sqrt(np.diag(S - theirs @ K @ S))
        got = decoder_error(kernels, covariance, self.PRECISION)
        np.testing.assert_allclose(got, error, rtol=0, atol=1e-9)

    def test_error_is_that_of_samples(self, kernels, covariance):
        n_signals = 20_000
        x = smooth_signals(n_signals, 60, 5, seeded(0))
        h = x @ kernels.mT
        scale = (kernels @ covariance @ kernels.mT).diagonal().sqrt()
        noise = torch.randn(h.shape, generator=seeded(1), dtype=h.dtype)
        h = h + self.PRECISION * scale * noise
        W = optimal_decoder(kernels, covariance, self.PRECISION)
        measured = (h @ W.mT - x).square().mean(dim=0).sqrt()
        true = decoder_error(kernels, covariance, self.PRECISION)
        # An rms of n samples is off by 1 / sqrt(2n), 0.5% here; 5 of that.
        assert ((measured / true - 1).abs() < 5 / math.sqrt(40_000)).all()

    @pytest.mark.parametrize("read", [optimal_decoder, decoder_error])
    def test_several_memories_at_once(self, read, covariance):
        several = torch.stack([random(seed, n=6)[:, :60] for seed in range(4)])
        apart = [read(kernels, covariance) for kernels in several]
        for shape in ((4,), (2, 2)):
            together = read(several.unflatten(0, shape), covariance)
            expected = torch.stack(apart).unflatten(0, shape)
            torch.testing.assert_close(
                together, expected, rtol=1e-9, atol=1e-9
            )

    def test_an_empty_state_harms_nothing(self, kernels, covariance):
        padded = torch.cat([kernels, torch.zeros(1, 60).double()])
        W = optimal_decoder(padded, covariance)
        assert (W[:, -1] == 0).all()
        torch.testing.assert_close(
            W[:, :-1], optimal_decoder(kernels, covariance)
        )

    def test_a_state_that_knows_one_lag(self):
        """White noise and one number, read with error p: p / sqrt(1 + p^2)."""
        kernels, covariance = torch.eye(1, 4).double(), torch.eye(4).double()
        error = decoder_error(kernels, covariance, 0.1)
        left = 0.1 / math.sqrt(1.01)
        expected = torch.tensor([left, 1, 1, 1], dtype=torch.float64)
        torch.testing.assert_close(error, expected)

    def test_single_precision(self, kernels, covariance):
        given = kernels.float(), covariance.float(), self.PRECISION
        assert optimal_decoder(*given).dtype == torch.float32
        true = decoder_error(kernels, covariance, self.PRECISION)
        # The root of a covariance that is rounded to 6e-8 is off by 2e-4.
        torch.testing.assert_close(
            decoder_error(*given).double(), true, rtol=0, atol=1e-3
        )


class TestPieces:
    def test_kernels_are_powers(self):
        A_bar, B_bar = random_transition(5, 0.9, seeded(0))
        kernels = state_kernels(A_bar, B_bar, 7)
        for j in range(7):
            power = np.linalg.matrix_power(A_bar.numpy(), j) @ B_bar.numpy()
            np.testing.assert_allclose(kernels[:, j], power, atol=1e-14)

    def test_kernels_of_a_complex_diagonal_are_two_for_each_state(self):
        a = torch.tensor([0.5 + 0.5j, -0.1j], dtype=torch.complex128)
        kernels = state_kernels(a, torch.ones_like(a), 4)
        powers = a[:, None] ** torch.arange(4)
        torch.testing.assert_close(kernels[:2], powers.real)
        torch.testing.assert_close(kernels[2:], powers.imag)

    @pytest.mark.parametrize("radius", [0.5, 0.98])
    def test_random_transition_has_its_radius_and_its_seed(self, radius):
        A_bar, B_bar = random_transition(20, radius, seeded(4))
        largest = np.abs(np.linalg.eigvals(A_bar.numpy())).max()
        assert largest == pytest.approx(radius, rel=1e-12)
        again = random_transition(20, radius, seeded(4))
        assert torch.equal(A_bar, again[0])
        assert torch.equal(B_bar, again[1])

    def test_signals_have_their_covariance(self):
        n_signals = 20_000
        x = smooth_signals(n_signals, 30, 4, seeded(0))
        measured = x.mT @ x / n_signals
        # A product of two unit Gaussians has variance up to 2; 5 sigma.
        limit = 5 * math.sqrt(2 / n_signals)
        true = [
            [math.exp(-((j - k) ** 2) / 32) for k in range(30)]
            for j in range(30)
        ]
        assert np.abs(measured.numpy() - true).max() < limit

    def test_error_by_age(self):
        x = torch.tensor([[3.0, -3.0, 1.0, 1.0, -1.0]] * 2).double()
        reading = x.clone()
        reading[:, 0] += 1
        reading[0, 3:] = 0
        scale = math.sqrt(21 / 5)
        expected = [
            [math.sqrt(1 / 3) / scale, 1 / scale],
            [math.sqrt(1 / 3) / scale, 0],
        ]
        got = error_by_age(reading, x, n_bins=2)
        np.testing.assert_allclose(got, expected)
        assert error_by_age(0 * x, x, n_bins=1)[0].item() == 1


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: random_transition(0, 0.9, seeded(0)),
            "d_state must be at least 1; got 0",
        ),
        (
            lambda: random_transition(2, -0.9, seeded(0)),
            "spectral_radius must be positive.*got -0.9",
        ),
        (
            lambda: smooth_covariance(3, 0),
            "correlation must be positive.*got 0",
        ),
        (
            lambda: decoder_error(torch.ones(1, 2), torch.eye(2), 0.0),
            "precision must be at least 1e-12 and finite; got 0.0",
        ),
        (
            lambda: error_by_age(torch.ones(3), torch.ones(3)),
            "n_bins = 5 inputs; got 3",
        ),
        (
            lambda: error_by_age(torch.ones(3), torch.ones(3), 0),
            "n_bins must be at least 1; got 0",
        ),
        (
            lambda: state_kernels(torch.ones(2), torch.ones(2), 0),
            "length must be at least 1; got 0",
        ),
        (
            lambda: smooth_covariance(-3, 2.0),
            "length must be at least 1; got -3",
        ),
        (
            lambda: smooth_signals(0, 3, 2.0, seeded(0)),
            "n_signals must be at least 1; got 0",
        ),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: random_transition(2.5, 0.9, seeded(0)),
            "d_state .*whole.* got 2.5",
        ),
        (
            lambda: random_transition(2, 0.9, seeded(0), torch.int32),
            "floating-point.* got torch.int32",
        ),
        (
            lambda: smooth_covariance(3, 2.0, torch.int64),
            "floating-point.* got torch.int64",
        ),
    ],
)
def test_sizes_are_whole_and_numbers_have_fractions(call, words):
    with pytest.raises(TypeError, match=words):
        call()
