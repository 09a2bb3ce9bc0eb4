"""HiPPO against quadrature, SciPy and mpmath (S087-S093, E8, E9, E10)."""

import math

import mpmath
import numpy as np
import pytest
import torch
from numpy.polynomial import Legendre
from scipy.integrate import quad, quad_vec, solve_ivp
from scipy.interpolate import pade
from scipy.linalg import expm
from scipy.signal import cont2discrete
from scipy.special import eval_sh_legendre
from torch.autograd import gradcheck

from mambaviz.theory import (
    discretize_dense,
    error_by_age,
    hippo_legs,
    hippo_legt,
    hold_ages,
    legendre_basis,
    legs_eigenvector_condition,
    legs_eigenvectors,
    legs_transition,
    linear_recurrence,
    lmu,
    measure_density,
    observed_order,
    power_norms,
    project_held,
    project_signal,
    reconstruct,
    s4d_real,
    scaled_legs_states,
    smooth_signals,
)

MEASURES = ["uniform", "exponential"]


def double(values):
    """A float64 tensor; torch.tensor(...).double() would round to float32."""
    return torch.tensor(values, dtype=torch.float64)


def phi(n):
    """NumPy's orthonormal Legendre polynomial on [0, 1]."""
    return math.sqrt(2 * n + 1) * Legendre.basis(n, domain=[0, 1])


def integral(polynomial):
    """From 0 to 1, exactly but for rounding."""
    antiderivative = polynomial.integ()
    return antiderivative(1) - antiderivative(0)


def position(measure, age, horizon):
    """The table at the head of hippo.py, once more."""
    return (
        1 - age / horizon if measure == "uniform" else np.exp(-age / horizon)
    )


def density(measure, age, horizon):
    """And its weights."""
    if measure == "uniform":
        return (age < horizon) / horizon
    return np.exp(-age / horizon) / horizon


def signal(t):
    """Smooth, and not at rest at time 0."""
    return torch.cos(3 * t) + 0.3 * torch.sin(11 * t + 1)


def samples(length, time):
    """The signal in the middle of each hold."""
    return signal((torch.arange(length).double() + 0.5) * time / length)


class TestMatrices:
    @pytest.mark.parametrize("n", [1, 2, 7, 12])
    def test_legs_is_what_its_derivation_says(self, n):
        A, B = hippo_legs(n)
        r = Legendre([0.5, 0.5], domain=[0, 1])
        for i in range(n):
            assert B[i].item() == pytest.approx(phi(i)(1), rel=1e-14)
            for k in range(n):
                entry = -integral((r * phi(i)).deriv() * phi(k))
                # A difference of numbers up to the row's largest, n^1.5.
                assert A[i, k].item() == pytest.approx(entry, abs=1e-12)

    @pytest.mark.parametrize("n", [1, 2, 7, 12])
    @pytest.mark.parametrize("window", [1.0, 0.25, 40.0])
    def test_legt_is_what_its_derivation_says(self, n, window):
        A, B = hippo_legt(n, window)
        for i in range(n):
            scaled = B[i].item() * window
            assert scaled == pytest.approx(phi(i)(1), rel=1e-14)
            for k in range(n):
                inside = -integral(phi(i).deriv() * phi(k)) if i else 0
                leaving = -phi(i)(0) * phi(k)(0)
                entry = A[i, k].item() * window
                assert entry == pytest.approx(inside + leaving, abs=1e-12)

    @pytest.mark.parametrize("n", [1, 4, 64])
    def test_eigenvalues_of_legs(self, n):
        """S089: exactly -1 to -N, the diagonal of a triangular matrix."""
        A, _ = hippo_legs(n)
        assert torch.equal(A, A.tril())
        assert torch.equal(A.diagonal(), -torch.arange(1, n + 1).double())
        assert torch.equal(A.diagonal(), s4d_real(n))

    def test_lmu_is_legt_in_other_units(self):
        n = torch.arange(9).double()
        T = torch.diag((-1.0) ** n * torch.sqrt(2 * n + 1))
        A, B = hippo_legt(9, 0.7)
        A_lmu, B_lmu = lmu(9, 0.7)
        torch.testing.assert_close(A_lmu, T @ A @ torch.linalg.inv(T))
        torch.testing.assert_close(B_lmu, T @ B)

    @pytest.mark.parametrize("n", [1, 2, 5])
    def test_lmu_is_the_pade_approximation_of_a_delay(self, n):
        """Its reading at the age theta: e^(-theta s) to the order [n-1/n]."""
        window = 0.5
        A, B = (t.numpy() for t in lmu(n, window))
        series = [(-window) ** k / math.factorial(k) for k in range(2 * n)]
        above, below = pade(series, n, n - 1)
        for s in (0.3, 2j, -1 + 5j):
            read = np.ones(n) @ np.linalg.solve(s * np.eye(n) - A, B)
            assert read == pytest.approx(above(s) / below(s), rel=1e-9)

    @pytest.mark.parametrize("matrices", [hippo_legs, hippo_legt, lmu])
    def test_keeps_the_precision_asked_for(self, matrices):
        for t in matrices(3, dtype=torch.float32):
            assert t.dtype == torch.float32


class TestSign:
    """E8: the minus sign is not a matter of taste."""

    @pytest.mark.parametrize(
        ("rule", "norm"), [("zoh", 1.9012e38), ("bilinear", 2.1538e40)]
    )
    def test_plus_explodes(self, rule, norm):
        A, B = hippo_legs(8, sign=1)
        norms = power_norms(discretize_dense(A, B, 0.1, rule)[0], 100)
        assert norms[100].item() == pytest.approx(norm, rel=1e-4)
        system = A.numpy(), B[:, None].numpy(), np.eye(8), np.zeros((8, 1))
        theirs = cont2discrete(system, 0.1, method=rule)[0]
        power = np.linalg.matrix_power(theirs, 100)
        # A hundred steps of rounding, each 1e-15 of the largest eigenvalue.
        assert norms[100].item() == pytest.approx(
            np.linalg.norm(power), rel=1e-10
        )

    @pytest.mark.parametrize("rule", ["zoh", "bilinear"])
    def test_minus_forgets(self, rule):
        A, B = hippo_legs(8)
        norms = power_norms(discretize_dense(A, B, 0.1, rule)[0], 100)
        assert norms[0].item() == pytest.approx(math.sqrt(8))
        # The slowest eigenvalue is e^-10; the eigenvectors add the rest.
        assert norms[100].item() < 1e-2

    def test_plus_is_minus_reversed(self):
        A, _ = hippo_legs(5)
        plus, B = hippo_legs(5, sign=1)
        assert torch.equal(plus, -A)
        assert torch.equal(B, hippo_legs(5)[1])


class TestEigenvectors:
    """E10: why LegS never goes through its eigenvectors."""

    def test_they_are_eigenvectors(self):
        A, _ = hippo_legs(8)
        V, V_inverse = legs_eigenvectors(8)
        close = {"rtol": 0, "atol": 1e-13}  # entries of A up to 14
        torch.testing.assert_close(A @ V, V * A.diagonal(), **close)
        torch.testing.assert_close(
            torch.linalg.vector_norm(V, dim=0), torch.ones(8).double()
        )
        # The inverse has entries of 1e4, which cancel.
        torch.testing.assert_close(
            V_inverse @ V, torch.eye(8).double(), rtol=0, atol=1e-11
        )

    @pytest.mark.parametrize(("n", "condition"), [(4, 86.11), (8, 7.703e4)])
    def test_condition_as_numpy_finds_it(self, n, condition):
        ours = legs_eigenvector_condition(n)
        assert ours == pytest.approx(condition, rel=1e-3)
        _, V = np.linalg.eig(hippo_legs(n)[0].numpy())
        # NumPy's own eigenvectors lose cond * 1e-16.
        assert ours == pytest.approx(np.linalg.cond(V), rel=1e-6)

    def test_condition_where_numpy_cannot_see_it(self):
        n = 32
        with mpmath.workdps(60):
            V = mpmath.matrix(n, n)
            for j in range(n):
                column = [phi_coefficient(i, j) for i in range(n)]
                norm = mpmath.norm(column)
                for i in range(n):
                    V[i, j] = column[i] / norm
            values = mpmath.svd_r(V, compute_uv=False)
            exact = float(values[0] / values[n - 1])
        assert exact == pytest.approx(1.22e23, rel=1e-2)
        assert legs_eigenvector_condition(n) == pytest.approx(exact, rel=1e-9)
        _, V = np.linalg.eig(hippo_legs(n)[0].numpy())
        assert np.linalg.cond(V) < 1e21  # an artefact of rounding

    def test_grows_without_end(self):
        conditions = [legs_eigenvector_condition(n) for n in (4, 8, 16, 256)]
        assert conditions == sorted(conditions)
        assert 1e190 < conditions[-1] < math.inf

    def test_diagonalising_loses_what_the_matrix_keeps(self):
        A, B = hippo_legs(32)
        values, V = np.linalg.eig(A.numpy())
        diagonalised = (V * np.exp(0.01 * values)) @ np.linalg.inv(V)
        exact = expm(0.01 * A.numpy())
        ours, _ = discretize_dense(A, B, 0.01)
        assert np.abs(diagonalised - exact).max() > 1e-4
        assert np.abs(ours.numpy() - exact).max() < 1e-12


def phi_coefficient(n, j):
    """Of r^j in phi_n, by mpmath."""
    if j > n:
        return mpmath.mpf(0)
    return (
        (-1) ** (n + j)
        * mpmath.sqrt(2 * n + 1)
        * mpmath.binomial(n, j)
        * mpmath.binomial(n + j, j)
    )


class TestBasis:
    def test_against_scipy(self):
        r = torch.linspace(0, 1, 101).double()
        ours = legendre_basis(65, r)
        for n in range(65):
            theirs = math.sqrt(2 * n + 1) * eval_sh_legendre(n, r.numpy())
            # Rounding of z moves P_n by up to n^2 / 2 units in the last place.
            assert np.abs(ours[:, n].numpy() - theirs).max() < 2e-12

    def test_orthonormal(self):
        """S093, by a rule that NumPy makes and we do not use."""
        nodes, weights = np.polynomial.legendre.leggauss(80)
        basis = legendre_basis(64, torch.from_numpy((nodes + 1) / 2))
        gram = basis.mT @ (torch.from_numpy(weights / 2)[:, None] * basis)
        torch.testing.assert_close(
            gram, torch.eye(64).double(), rtol=0, atol=1e-12
        )

    def test_powers_of_r_would_not_do(self):
        # Otherwise the recurrence would be for nothing.
        r, n = 0.9, 40
        powers = sum(float(phi_coefficient(n, j)) * r**j for j in range(n + 1))
        exact = math.sqrt(2 * n + 1) * eval_sh_legendre(n, r)
        assert abs(powers - exact) > 1e6
        ours = legendre_basis(n + 1, double(r))
        assert ours[n].item() == pytest.approx(exact, rel=1e-12)

    def test_gradient_and_shapes(self):
        r = double([[0.1, 0.5, 0.9]])
        assert gradcheck(lambda r: legendre_basis(6, r), r.requires_grad_())
        assert legendre_basis(1, r).shape == (1, 3, 1)
        assert legendre_basis(2, r.float()).dtype == torch.float32


class TestMeasure:
    @pytest.mark.parametrize("measure", MEASURES)
    @pytest.mark.parametrize("horizon", [0.5, 1.0, 20.0])
    def test_weights_sum_to_one_and_make_the_basis_orthonormal(
        self, measure, horizon
    ):
        end = horizon if measure == "uniform" else math.inf

        def gram(age):
            ages = double([age])
            r = double([position(measure, age, horizon)])
            row = legendre_basis(5, r)[0]
            weight = measure_density(measure, ages, horizon)
            return (weight * torch.outer(row, row)).numpy()

        total, _ = quad_vec(gram, 0, end, epsabs=1e-11)
        assert np.abs(total - np.eye(5)).max() < 1e-10

    def test_nothing_counts_beyond_a_uniform_horizon(self):
        ages = torch.tensor([0.0, 1.9, 2.1])
        got = measure_density("uniform", ages, 2.0)
        assert got.tolist() == [0.5, 0.5, 0.0]


class TestProjection:
    @pytest.mark.parametrize("measure", MEASURES)
    @pytest.mark.parametrize(("time", "horizon"), [(2, 2.0), (2, 0.6)])
    def test_of_a_signal_against_scipy(self, measure, time, horizon):
        end = min(time, horizon) if measure == "uniform" else time
        ours = project_signal(signal, time, 12, measure, horizon)
        for n in range(12):
            theirs, _ = quad(
                lambda age, n=n: (
                    phi(n)(position(measure, age, horizon))
                    * density(measure, age, horizon)
                    * signal(double(time - age)).item()
                ),
                0,
                end,
                epsabs=1e-12,
                limit=200,
            )
            assert ours[n].item() == pytest.approx(theirs, abs=1e-9)

    def test_of_a_window_longer_than_the_history(self):
        """Before time 0 there is silence."""
        ours = project_signal(torch.ones_like, 1.0, 4, "uniform", 4.0)
        for n in range(4):
            part = phi(n).integ()
            true = part(1) - part(0.75)
            assert ours[n].item() == pytest.approx(true, abs=1e-13)

    @pytest.mark.parametrize("measure", MEASURES)
    @pytest.mark.parametrize("horizon", [9.0, 4.5])
    def test_of_a_staircase_against_scipy(self, measure, horizon):
        x = double([1.0, -2.0, 0.5, 3.0, -1.0, 0.2, 0.7, 4.0, 1.5])
        ours = project_held(x, 10, measure, horizon)
        for n in range(10):
            theirs = sum(
                x_k * quad(self.one_hold, start, end, (n, measure, horizon))[0]
                for x_k, (start, end) in zip(
                    x.tolist(), self.holds(9, measure, horizon), strict=True
                )
            )
            assert ours[n].item() == pytest.approx(theirs, abs=1e-10)

    @staticmethod
    def one_hold(age, n, measure, horizon):
        r = position(measure, age, horizon)
        return phi(n)(r) * density(measure, age, horizon)

    @staticmethod
    def holds(length, measure, horizon):
        """The ages where each hold ends and starts, cut at the horizon."""
        cut = horizon * (1 - 1e-15) if measure == "uniform" else length
        for k in range(length):
            yield min(length - k - 1, cut), min(length - k, cut)

    def test_batches(self):
        x = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
        h = project_held(x, 4, "uniform", 20.0)
        assert h.dtype == torch.float32
        alone = project_held(x[1, 2], 4, "uniform", 20.0)
        torch.testing.assert_close(h[1, 2], alone)


class TestTransition:
    @pytest.mark.parametrize(
        ("n", "delta"),
        [(1, 0.3), (8, 0.1), (64, 0.002), (64, 0.1), (64, 2.0), (128, 0.01)],
    )
    def test_is_the_exponential_of_the_matrix(self, n, delta):
        A, B = hippo_legs(n)
        ours = legs_transition(n, double(math.exp(-delta)))
        exact = expm(delta * A.numpy())
        # Nodes are right to 1e-16 and phi_n' reaches n^2.5.
        limit = 1e-15 + 1e-17 * n**2.5
        assert np.abs(ours.numpy() - exact).max() < limit
        B_bar = torch.eye(n).double()[0] - ours[:, 0]
        _, theirs = discretize_dense(A, B, delta)
        torch.testing.assert_close(B_bar, theirs, rtol=0, atol=10 * limit)

    def test_two_steps_are_one_longer_step(self):
        kept = double([0.9, 0.5, 0.45, 1.0, 0.0])
        one, two, both, all_of_it, nothing = legs_transition(16, kept)
        torch.testing.assert_close(two @ one, both, rtol=0, atol=1e-13)
        torch.testing.assert_close(
            all_of_it, torch.eye(16).double(), rtol=0, atol=1e-13
        )
        assert torch.equal(nothing, torch.zeros(16, 16).double())


class TestOnline:
    """S087: the state, updated step by step, is the projection."""

    @pytest.mark.parametrize("length", [1, 2, 300, 1000])
    def test_scaled_legs_is_exactly_that_of_the_staircase(self, length):
        x = samples(length, 2.0)
        h = scaled_legs_states(x, 64)
        for seen in {1, length // 2 + 1, length}:
            true = project_held(x[:seen], 64, "uniform", seen)
            # Each of up to 1000 steps rounds by about 1e-14.
            torch.testing.assert_close(h[seen - 1], true, rtol=0, atol=1e-11)

    def test_time_invariant_legs_is_exactly_that_of_the_warped_staircase(self):
        length, n = 1000, 64
        x = samples(length, 2.0)
        for horizon in (100.0, 1000.0):
            A_bar, B_bar = discretize_dense(*hippo_legs(n), 1 / horizon)
            h = linear_recurrence(A_bar, B_bar, x)[-1]
            true = project_held(x, n, "exponential", horizon)
            torch.testing.assert_close(h, true, rtol=0, atol=1e-11)

    def test_legt_is_nearly_that_of_its_window(self):
        """Up to the one value it must forget; better with every state."""
        length, window = 800, 400
        x = samples(length, 2.0)
        errors = []
        for n in (8, 12, 16):
            A_bar, B_bar = discretize_dense(*hippo_legt(n, window), 1.0)
            h = linear_recurrence(A_bar, B_bar, x)[-1]
            true = project_held(x, n, "uniform", window)
            errors.append(torch.linalg.vector_norm(h - true).item())
        # How fast depends on the signal; that it does is the claim.
        assert errors[0] > 10 * errors[1]
        assert errors[1] > 3 * errors[2]

    @pytest.mark.parametrize(
        ("rule", "order"),
        [("zoh", 2), ("bilinear", 1), ("backward_euler", 1), ("euler", 1)],
    )
    def test_approaches_the_true_projection(self, rule, order):
        """ZOH by the square of the step, as the midpoints allow."""
        lengths = [250, 500, 1000]
        true = project_signal(signal, 2.0, 12, "uniform", 2.0)
        errors = [
            torch.linalg.vector_norm(
                scaled_legs_states(samples(length, 2.0), 12, rule)[-1] - true
            )
            for length in lengths
        ]
        slope = observed_order([2 / n for n in lengths], torch.stack(errors))
        # Backward Euler is still on its way to its slope of 1.
        assert slope == pytest.approx(order, abs=0.25)

    def test_scaled_legs_solves_its_equation(self):
        n, start, end = 8, 0.5, 3.0
        A, B = (t.numpy() for t in hippo_legs(n))
        begin = project_signal(signal, start, n, "uniform", start)
        solution = solve_ivp(
            lambda t, h: (A @ h + B * signal(double(t)).item()) / t,
            (start, end),
            begin.numpy(),
            method="DOP853",
            rtol=1e-11,
            atol=1e-12,
        )
        true = project_signal(signal, end, n, "uniform", end)
        assert np.abs(solution.y[:, -1] - true.numpy()).max() < 1e-9

    def test_scaled_legs_has_no_unit_of_time(self):
        x = samples(50, 2.0)
        once = scaled_legs_states(x, 16)[-1]
        slowly = scaled_legs_states(x.repeat_interleave(3), 16)[-1]
        torch.testing.assert_close(once, slowly, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("rule", ["zoh", "bilinear"])
    def test_gradient(self, rule):
        x = samples(5, 2.0).requires_grad_()
        assert gradcheck(lambda x: scaled_legs_states(x, 3, rule), x)

    @pytest.mark.parametrize("rule", ["zoh", "backward_euler"])
    def test_single_precision(self, rule):
        x = samples(600, 2.0)
        single = scaled_legs_states(x.float(), 32, rule)
        assert single.dtype == torch.float32
        double = scaled_legs_states(x, 32, rule)
        torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


class TestReconstruction:
    @pytest.mark.parametrize("measure", MEASURES)
    def test_is_the_sum_over_the_basis(self, measure):
        ages = torch.linspace(0, 3, 7).double()
        h = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
        h = h.double()
        ours = reconstruct(h, ages, measure, 3.0)
        for i, age in enumerate(ages.tolist()):
            row = [phi(n)(position(measure, age, 3.0)) for n in range(6)]
            np.testing.assert_allclose(ours[:, i], h @ double(row))

    @pytest.mark.parametrize("measure", MEASURES)
    def test_returns_what_the_basis_can_say(self, measure):
        """A past that is one of the polynomials comes back whole."""
        horizon, ages = 2.0, torch.linspace(0, 2, 50).double()

        def x(t):
            r = position(measure, 2 - t.numpy(), horizon)
            return torch.from_numpy(phi(5)(r))

        # Time 60 is far enough for the exponential: e^-30 is left out.
        time = 2.0 if measure == "uniform" else 60.0
        h = project_signal(
            lambda t: x(t - time + 2), time, 8, measure, horizon
        )
        torch.testing.assert_close(
            reconstruct(h, ages, measure, horizon),
            x(2 - ages),
            rtol=0,
            atol=1e-10,
        )

    def test_beyond_the_window_there_is_nothing(self):
        h = torch.ones(3).double()
        ages = double([1.0, 1.5])
        assert reconstruct(h, ages, "uniform", 1.0)[1] == 0
        assert reconstruct(h, ages, "exponential", 1.0)[1] != 0


class TestWhatIsRemembered:
    """S088, S091, S092, E9, over 24 random inputs from silence.

    The inputs are Gaussian, of variance 1, smooth over 30 of 1000 steps; 64
    states; the time-invariant memory has a time constant of 250 steps, the
    window is 500 steps.
    """

    LENGTH, STATES = 1000, 64
    WINDOW, CONSTANT = 500.0, 250.0

    @pytest.fixture(scope="class")
    @classmethod
    def x(cls):
        generator = torch.Generator().manual_seed(0)
        return smooth_signals(24, cls.LENGTH, 30, generator)

    def read(self, x, measure, horizon):
        # TestOnline: the online state is this projection.
        h = project_held(x, self.STATES, measure, horizon)
        return reconstruct(h, hold_ages(self.LENGTH), measure, horizon)

    def errors(self, x, measure, horizon):
        return error_by_age(self.read(x, measure, horizon), x)

    def test_scaled_legs_remembers_every_age(self, x):
        errors = self.errors(x, "uniform", self.LENGTH)
        assert errors.max() < 0.03
        # No recency: the oldest fifth is as good as the newest.
        oldest, newest = errors.mean(dim=0)[[0, 4]]
        assert 0.5 < oldest / newest < 2

    def test_time_invariant_legs_forgets_by_age(self, x):
        errors = self.errors(x, "exponential", self.CONSTANT)
        assert (errors.mean(dim=0).diff() < 0).all()
        oldest, _, middle, _, newest = errors.T
        assert (oldest > middle).all()
        assert (middle > newest).all()

    def test_scaled_is_far_better_on_the_oldest_fifth(self, x):
        scaled = self.errors(x, "uniform", self.LENGTH)
        invariant = self.errors(x, "exponential", self.CONSTANT)
        assert (invariant[:, 0] > 10 * scaled[:, 0]).all()

    def test_window_remembers_its_half_and_nothing_else(self, x):
        errors = self.errors(x, "uniform", self.WINDOW)
        assert errors[:, 3:].max() < 1e-3
        # The first two fifths lie outside: the reading there is 0.
        power = x[:, :400].square().mean() / x.square().mean()
        outside = errors[:, :2].square().mean()
        assert outside.item() == pytest.approx(power.item(), rel=0.2)

    def test_the_whole_signal_is_in_the_state(self, x):
        reading = self.read(x, "uniform", self.LENGTH)
        pairs = zip(reading, x, strict=True)
        correlations = [torch.corrcoef(torch.stack(p))[0, 1] for p in pairs]
        assert min(correlations) > 0.999


@pytest.mark.usefixtures("outside_tests")
class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda: hippo_legs(0), "d_state must be at least 1; got 0"),
            (lambda: hippo_legt(-2), "d_state must be at least 1; got -2"),
            (
                lambda: project_held(torch.ones(2), 0, "uniform", 2.0),
                "d_state must be at least 1; got 0",
            ),
            (
                lambda: scaled_legs_states(torch.ones(2), 0),
                "d_state must be at least 1; got 0",
            ),
            (
                lambda: legs_eigenvectors(401),
                "d_state must be at most 400.* overflows; got 401",
            ),
            (
                lambda: legs_eigenvector_condition(500),
                "d_state must be at most 400.* overflows; got 500",
            ),
            (
                lambda: power_norms(torch.eye(2), -1),
                "n_powers must be at least 0; got -1",
            ),
            (lambda: hold_ages(0), "length must be at least 1; got 0"),
            (lambda: hippo_legs(3, sign=2), "sign must be -1 or 1; got 2"),
            (lambda: hippo_legt(3, 0.0), "window must be positive.*got 0.0"),
            (lambda: lmu(3, math.nan), "window must be positive.*got nan"),
            (
                lambda: legendre_basis(2, torch.tensor([0.5, 1.5])),
                "r must lie from 0 to 1; got 0.5 to 1.5",
            ),
            (
                lambda: legs_transition(2, torch.tensor(1.5)),
                "kept must lie from 0 to 1; got 1.5 to 1.5",
            ),
            (
                lambda: measure_density("flat", torch.ones(1), 1.0),
                "uniform, exponential; got 'flat'",
            ),
            (
                lambda: measure_density("uniform", -torch.ones(1), 1.0),
                "ages must be at least 0; got -1",
            ),
            (
                lambda: project_held(torch.ones(2), 2, "uniform", -1.0),
                "horizon must be positive.*got -1",
            ),
            (
                lambda: project_signal(torch.cos, 0.0, 2, "uniform", 1.0),
                "time must be positive.*got 0",
            ),
            (
                lambda: project_signal(torch.cos, 1.0, 2, "flat", 1.0),
                "uniform, exponential; got 'flat'",
            ),
            (
                lambda: scaled_legs_states(torch.ones(2), 2, "tustin"),
                "zoh, bilinear.*; got 'tustin'",
            ),
            (
                lambda: scaled_legs_states(torch.ones(0), 2),
                "at least one input; got length 0",
            ),
        ],
    )
    def test_says_what_would_be_right(self, call, words):
        with pytest.raises(ValueError, match=words):
            call()

    @pytest.mark.parametrize("build", [hippo_legs, hippo_legt, lmu])
    def test_a_size_or_dtype_that_would_be_cut_off(self, build):
        with pytest.raises(TypeError, match="whole number.* got 2.5"):
            build(2.5)
        with pytest.raises(
            TypeError, match="floating-point.* got torch.int32"
        ):
            build(3, dtype=torch.int32)

    @pytest.mark.parametrize(
        "call",
        [
            lambda n: legs_eigenvectors(n),
            lambda n: legendre_basis(n, torch.ones(2)),
            lambda n: legs_transition(n, torch.ones(2)),
            lambda n: project_held(torch.ones(2), n, "uniform", 2.0),
            lambda n: project_signal(torch.cos, 1.0, n, "uniform", 1.0),
            lambda n: scaled_legs_states(torch.ones(2), n),
        ],
    )
    def test_a_fraction_of_a_state(self, call):
        with pytest.raises(TypeError, match="d_state .*whole.* got 2.5"):
            call(2.5)


def test_the_largest_eigenbasis_is_finite():
    V, V_inverse = legs_eigenvectors(400)
    assert torch.isfinite(V).all()
    assert torch.isfinite(V_inverse).all()
    assert math.isfinite(legs_eigenvector_condition(400))
