"""The five rules against SciPy, mpmath and finite differences."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.signal import cont2discrete, dlsim
from torch.autograd import gradcheck, gradgradcheck

from mambaviz.theory import (
    DISCRETIZATION_RULES,
    discretize_dense,
    discretize_mamba,
    discretize_zoh,
    euler_to_zoh_ratio,
    exp_and_phi1,
    half_life,
    held_state,
    linear_recurrence,
    phi1,
)

RULES = list(DISCRETIZATION_RULES)
# Our name and SciPy's. SciPy has no rule that mixes two, as Mamba does.
SCIPY_RULES = {
    "zoh": "zoh",
    "euler": "euler",
    "backward_euler": "backward_diff",
    "bilinear": "bilinear",
}
RELATIVE = 1e-10

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 6)
deltas = st.floats(1e-4, 1.0)
examples = settings(max_examples=50, deadline=None)


def assert_close(ours, theirs, relative=RELATIVE):
    """Equal up to ``relative`` times the largest element of ``theirs``."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert np.abs(ours - theirs).max() <= relative * scale


def random_system(seed, n, is_complex=False):
    """A stable system, as a rule not diagonal, with |A| of about 4."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if is_complex else torch.float64
    A, B = (
        torch.randn(*shape, dtype=dtype, generator=generator)
        for shape in ((n, n), (n,))
    )
    A = 2 * A / math.sqrt(n) - 3 * torch.eye(n, dtype=dtype)
    return A, B


def random_diagonal(seed, n, is_complex=False):
    """Decay rates over six decades, where S4 and Mamba live."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if is_complex else torch.float64
    rates = 10 ** (6 * torch.rand(n, generator=generator).double() - 4)
    B = torch.randn(n, dtype=dtype, generator=generator)
    if is_complex:
        turns = torch.randn(n, generator=generator).double()
        return torch.complex(-rates, 5 * turns), B
    return -rates, B


def scipy_step(A, B, delta, rule):
    """A_bar and B_bar by SciPy."""
    A, B = np.asarray(A), np.asarray(B)
    columns = B.reshape(len(A), -1)
    C, D = np.eye(len(A)), np.zeros_like(columns)
    A_bar, B_bar, *_ = cont2discrete(
        (A, columns, C, D), delta, method=SCIPY_RULES[rule]
    )
    return A_bar, B_bar.reshape(B.shape)


class TestPhi1:
    """phi1(z) = (e^z - 1) / z."""

    # Both sides of the series' radius, and around it.
    SIZES = [0.0, 1e-300, 1e-16, 1e-8, 1e-3, 0.1, 0.4999, 0.5, 0.51, 2.0, 30.0]
    ANGLES = [0.0, 0.3, math.pi / 2, 2.0, math.pi]

    @staticmethod
    def exact(z, order=0):
        """phi1 or a derivative: sum of z^k (k + order)!/(k! (k+order+1)!)."""
        with mpmath.workdps(60):
            z = mpmath.mpmathify(z)
            terms = (
                z**k / mpmath.factorial(k) / (k + order + 1)
                for k in range(200)
            )
            return complex(mpmath.fsum(terms))

    @pytest.mark.parametrize(
        ("dtype", "relative"),
        [
            (torch.float64, 1e-14),
            (torch.complex128, 1e-14),
            (torch.float32, 1e-6),
            (torch.complex64, 1e-6),
        ],
    )
    def test_value_and_derivatives_near_zero(self, dtype, relative):
        real = not dtype.is_complex
        angles = [0.0, math.pi] if real else self.ANGLES
        points = [
            complex(size * math.cos(a), size * math.sin(a))
            for size in self.SIZES
            for a in angles
        ]
        z = torch.tensor([p.real if real else p for p in points], dtype=dtype)
        z.requires_grad_()
        value = phi1(z)
        # Analytic, so PyTorch's gradient of the real part is conj(phi1').
        (first,) = torch.autograd.grad(value.real.sum(), z, create_graph=True)
        (second,) = torch.autograd.grad(first.real.sum(), z)
        assert value.dtype == dtype
        for order, ours in enumerate([value, first.conj(), second.conj()]):
            # The z that the dtype holds, not the one that was asked for.
            for at, got in zip(z.tolist(), ours.tolist(), strict=True):
                true = self.exact(at, order)
                if order and abs(at) > 1:
                    continue  # the other test looks there
                limit = relative * (1 if order == 0 else 50)
                assert abs(got - true) <= limit * abs(true), (order, at)

    @pytest.mark.parametrize("is_complex", [False, True])
    def test_gradients_are_those_of_finite_differences(self, is_complex):
        z = torch.tensor([-3.0, -0.6, -0.4, 1e-3, 0.0, 2.0]).double()
        if is_complex:
            z = torch.cat([z * 1j, z * (1 + 2j)])
        z.requires_grad_()
        assert gradcheck(phi1, z)
        assert gradgradcheck(phi1, z)

    def test_naive_formulas_fail_where_ours_does_not(self):
        # Otherwise the tests above would prove nothing.
        z = torch.logspace(-12, -6, 25).double().requires_grad_()
        naive = (torch.exp(z) - 1) / z
        assert (naive - phi1(z)).abs().max() > 1e-6
        (torch.expm1(z) / z).sum().backward()
        assert (z.grad - 0.5).abs().max() > 1e-6

    def test_large_arguments(self):
        assert phi1(-1e300).item() == pytest.approx(1e-300)
        assert phi1(700.0).item() == pytest.approx(math.expm1(700) / 700)


class TestExpAndPhi1:
    """The same two functions of a matrix."""

    def test_of_a_diagonal_matrix(self):
        z = torch.tensor([-2.0, -1e-9, 0.0, 0.3]).double()
        exp, phi = exp_and_phi1(torch.diag(z))
        assert_close(exp, torch.diag(z.exp()), 1e-14)
        assert_close(phi, torch.diag(phi1(z)), 1e-14)

    @pytest.mark.parametrize("is_complex", [False, True])
    def test_definition(self, is_complex):
        Z, _ = random_system(3, 4, is_complex)
        I = torch.eye(4, dtype=Z.dtype)
        exp, phi = exp_and_phi1(Z)
        true = torch.from_numpy(expm(Z.numpy()))
        assert_close(exp, true)
        assert_close(phi, torch.linalg.solve(Z, true - I))
        # In a batch PyTorch takes another path.
        batch = torch.stack([Z, 0 * Z, 0.01 * Z, 9 * Z])
        exps, phis = exp_and_phi1(batch)
        for i, one in enumerate(batch):
            exp, phi = exp_and_phi1(one)
            assert_close(exps[i], exp, 1e-13)
            assert_close(phis[i], phi, 1e-13)

    @pytest.mark.parametrize(
        ("dtype", "relative"), [(torch.float64, 1e-14), (torch.float32, 1e-6)]
    )
    @pytest.mark.parametrize("norm", [1e-6, 1e-3, 0.03, 0.049, 0.4, 3.0, 50.0])
    def test_every_norm(self, norm, dtype, relative):
        # PyTorch's own matrix_exp fails here at 0.03 and 0.049 (and in
        # float32 at 0.4), by a wrong coefficient in one of its branches.
        Z = torch.tensor([[-norm, norm / 3], [0.0, -norm / 2]], dtype=dtype)
        exp, _ = exp_and_phi1(Z)
        assert_close(exp, expm(Z.double()), relative * max(1, norm))


class TestAgainstScipy:
    @examples
    @given(seed=seeds, n=sizes, delta=deltas, is_complex=st.booleans())
    @pytest.mark.parametrize("rule", SCIPY_RULES)
    def test_dense(self, rule, seed, n, delta, is_complex):
        A, B = random_system(seed, n, is_complex)
        ours = discretize_dense(A, B, delta, rule)
        for mine, theirs in zip(
            ours, scipy_step(A, B, delta, rule), strict=True
        ):
            assert_close(mine, theirs)

    @examples
    @given(seed=seeds, n=sizes, delta=deltas, is_complex=st.booleans())
    @pytest.mark.parametrize("rule", SCIPY_RULES)
    def test_diagonal(self, rule, seed, n, delta, is_complex):
        A, B = random_diagonal(seed, n, is_complex)
        A_bar, B_bar = DISCRETIZATION_RULES[rule](A, B, delta)
        # State by state: a slow one must not hide behind a fast one's error.
        for i in range(n):
            theirs = scipy_step(A[i : i + 1, None], B[i : i + 1], delta, rule)
            assert_close(A_bar[i : i + 1, None], theirs[0])
            assert_close(B_bar[i : i + 1], theirs[1])

    @examples
    @given(seed=seeds, n=sizes, delta=deltas, is_complex=st.booleans())
    @pytest.mark.parametrize("rule", RULES)
    def test_diagonal_is_dense_with_zeros(
        self, rule, seed, n, delta, is_complex
    ):
        A, B = random_diagonal(seed, n, is_complex)
        A_bar, B_bar = DISCRETIZATION_RULES[rule](A, B, delta)
        dense = discretize_dense(torch.diag(A), B, delta, rule)
        assert_close(torch.diag(A_bar), dense[0])
        assert_close(B_bar, dense[1])

    @pytest.mark.parametrize("rule", SCIPY_RULES)
    def test_singular_matrix_and_two_inputs(self, rule):
        # A mass on a spring of stiffness 0: A has no inverse.
        A = torch.tensor([[0.0, 1.0], [0.0, 0.0]]).double()
        B = torch.tensor([[0.0, 0.2], [1.0, -0.7]]).double()
        ours = discretize_dense(A, B, 0.3, rule)
        for mine, theirs in zip(
            ours, scipy_step(A, B, 0.3, rule), strict=True
        ):
            assert_close(mine, theirs)

    @pytest.mark.parametrize("n", [1, 4])
    def test_large_input_weights_cost_no_digits(self, n):
        # Scaling and squaring sees Z alone, never B.
        A, B = random_system(1, n)
        small = discretize_dense(A, B, 0.1)[1]
        assert_close(discretize_dense(A, 1e12 * B, 0.1)[1], 1e12 * small)

    @pytest.mark.parametrize(
        ("rule", "alpha"),
        [
            ("zoh", 0.0),
            ("euler", 0.0),
            ("backward_euler", 1),
            ("bilinear", 0.5),
        ],
    )
    def test_outputs_reconciled(self, rule, alpha):
        """SciPy also changes C and D; ours stay. Both mean the same states.

        SciPy writes w_{k+1} = A_bar w_k + B_bar x_k and reads its output
        from w_k, the state *before* x_k; our h_k is w_{k+1}. Its generalised
        bilinear rule reads C at (1 - alpha) w_k + alpha w_{k+1}, which it
        folds into new C and D: alpha = 0 for Euler (and for ZOH), 1 for
        backward Euler, 1/2, the trapezoid, for bilinear.
        """
        A, B = random_system(5, 3)
        C = torch.tensor([[1.0, -2.0, 0.5]]).double()
        D = torch.tensor([[0.25]]).double()
        x = torch.randn(
            40, generator=torch.Generator().manual_seed(1)
        ).double()
        delta = 0.2

        system = tuple(M.numpy() for M in (A, B[:, None], C, D))
        theirs = cont2discrete(system, delta, method=SCIPY_RULES[rule])
        _, y_scipy, _ = dlsim(theirs, x.numpy())

        h = linear_recurrence(*discretize_dense(A, B, delta, rule), x)
        w = torch.cat([torch.zeros(1, 3).double(), h[:-1]])
        y = ((1 - alpha) * w + alpha * h) @ C[0] + D[0, 0] * x
        assert_close(y, y_scipy[:, 0])

    @pytest.mark.parametrize("is_complex", [False, True])
    def test_mamba_is_zoh_for_A_and_euler_for_B(self, is_complex):
        A, B = random_system(7, 4, is_complex)
        A_bar, B_bar = discretize_dense(A, B, 0.2, "mamba")
        assert_close(A_bar, scipy_step(A, B, 0.2, "zoh")[0])
        assert_close(B_bar, 0.2 * B)


class TestHeldState:
    """The exact state against an integrator of differential equations."""

    @staticmethod
    def integrate(A, B, x, delta, times, h_0):
        """The state at sorted times, one hold after the other."""
        A, B, x, times = (np.asarray(v) for v in (A, B, x, times))
        h, states = np.asarray(h_0), np.empty((len(times), len(B)), A.dtype)
        for k in range(len(x)):
            start, end = k * delta, (k + 1) * delta
            inside = (times > start) & (times <= end)
            if k == 0:
                inside |= times == 0
            solution = solve_ivp(
                lambda _, h, x_k=x[k]: A @ h + B * x_k,
                (start, end),
                h.astype(A.dtype),
                method="DOP853",
                t_eval=np.append(times[inside], end),
                rtol=1e-13,
                atol=1e-15,
            )
            assert solution.success
            states[inside], h = solution.y.T[:-1], solution.y.T[-1]
        return states

    @settings(max_examples=12, deadline=None)
    @given(
        seed=seeds,
        n=st.integers(1, 4),
        delta=st.floats(0.02, 0.5),
        is_complex=st.booleans(),
        is_diagonal=st.booleans(),
    )
    def test_against_solve_ivp(self, seed, n, delta, is_complex, is_diagonal):
        A, B = random_system(seed, n, is_complex)
        A = A.diagonal().contiguous() if is_diagonal else A
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(5, generator=generator).double()
        h_0 = torch.randn(n, generator=generator).double()
        # Away from the steps, where rounding decides which hold it is.
        times = (torch.arange(20).double() / 4 + 0.1) * delta
        ours = held_state(A, B, x, delta, times, h_0)
        matrix = torch.diag(A) if is_diagonal else A
        theirs = self.integrate(matrix, B, x, delta, times, h_0)
        assert_close(ours, theirs)

    @pytest.mark.parametrize("is_diagonal", [False, True])
    def test_lands_on_the_recurrence_at_the_end_of_each_hold(
        self, is_diagonal
    ):
        # E25: row k is the state at (k + 1) delta; 0.1 does not add up
        # exactly in binary, so this also looks at the borders.
        A, B = random_system(2, 3)
        A = A.diagonal() if is_diagonal else A
        x = torch.sin(torch.arange(60).double())
        h_0 = torch.ones(3).double()
        discretize = discretize_zoh if is_diagonal else discretize_dense
        h = linear_recurrence(*discretize(A, B, 0.1), x, h_0)
        times = torch.arange(61).double() * 0.1
        held = held_state(A, B, x, 0.1, times, h_0)
        assert_close(held, torch.cat([h_0[None], h]), 1e-13)

    def test_a_rounded_end_is_still_the_end(self):
        x = torch.ones(2).double()
        end = torch.tensor([math.nextafter(0.2, 1)], dtype=torch.float64)
        h = held_state(-x[:1], x[:1], x, 0.1, end)
        assert h.item() == pytest.approx(-math.expm1(-0.2), rel=1e-14)

    def test_any_order_of_times(self):
        A, B, x = (
            torch.tensor(v, dtype=torch.float64)
            for v in ([-1.0], [1.0], [1.0, 0.0])
        )
        times = torch.tensor([0.2, 0.05, 0.0], dtype=torch.float64)
        back = held_state(A, B, x, 0.1, times.flip(0)).flip(0)
        assert torch.equal(held_state(A, B, x, 0.1, times), back)

    @pytest.mark.parametrize("is_diagonal", [False, True])
    def test_float32_system_float64_times(self, is_diagonal):
        A = torch.tensor([-1.0]) if is_diagonal else torch.tensor([[-1.0]])
        h = held_state(
            A, torch.ones(1), torch.ones(2), 0.1, torch.tensor([0.15]).double()
        )
        assert h.dtype == torch.float32
        assert h.item() == pytest.approx(-math.expm1(-0.15), rel=1e-6)


class TestLimits:
    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    def test_A_of_zero_gives_B_bar_delta_B(self, rule, dtype):
        A = torch.zeros(3, dtype=dtype)
        B = torch.tensor([1.0, -2.0, 1e-9], dtype=dtype)
        A_bar, B_bar = DISCRETIZATION_RULES[rule](A, B, 0.3)
        assert torch.equal(A_bar, torch.ones_like(A))
        assert_close(B_bar, 0.3 * B, 1e-15)

    @pytest.mark.parametrize("size", [0.0, 1e-300, 1e-12, 1e-6])
    def test_gradients_as_A_vanishes(self, size):
        # B_bar = delta B (1 + delta A/2 + (delta A)^2/6 ...)
        A, B, delta = (
            torch.tensor(v, dtype=torch.float64, requires_grad=True)
            for v in (-size, 2.0, 0.3)
        )
        _, B_bar = discretize_zoh(A, B, delta)
        B_bar.backward()
        z = -0.3 * size
        slope = 1 / 2 + z / 3
        assert A.grad.item() == pytest.approx(0.18 * slope, rel=1e-11)
        assert B.grad.item() == pytest.approx(0.3 * (1 + z / 2), rel=1e-11)
        # d/d delta of (e^(delta A) - 1)/A B is e^(delta A) B.
        assert delta.grad.item() == pytest.approx(2 * math.exp(z), rel=1e-11)

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("is_complex", [False, True])
    def test_gradcheck_diagonal(self, rule, is_complex):
        A, B = random_diagonal(4, 4, is_complex)
        A = torch.cat([A[:3], torch.zeros(1, dtype=A.dtype)]).requires_grad_()
        B.requires_grad_()
        delta = torch.tensor([[0.01], [0.1]]).double().requires_grad_()
        # B varies with the step, as in a selective model.
        assert gradcheck(DISCRETIZATION_RULES[rule], (A, B, delta))

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("is_complex", [False, True])
    @pytest.mark.parametrize("is_singular", [False, True])
    def test_gradcheck_dense(self, rule, is_complex, is_singular):
        A, B = random_system(4, 3, is_complex)
        if is_singular:
            A[2] = 0
        A.requires_grad_()
        B.requires_grad_()
        delta = torch.tensor(0.2).double().requires_grad_()
        assert gradcheck(
            lambda *system: discretize_dense(*system, rule), (A, B, delta)
        )

    @pytest.mark.parametrize("rule", RULES)
    def test_loss_gradient_in_delta(self, rule):
        """S062: delta is learnable; dL/d delta against finite differences."""
        A, B = random_diagonal(11, 4)
        x = torch.sin(torch.arange(30).double())

        def loss(delta):
            A_bar, B_bar = DISCRETIZATION_RULES[rule](A, B, delta)
            return linear_recurrence(A_bar, B_bar, x)[-1].square().sum()

        delta = torch.tensor(0.01).double().requires_grad_()
        loss(delta).backward()
        # Central differences with Richardson's extrapolation, error O(e^4).
        slopes = [
            (loss(0.01 + e) - loss(0.01 - e)) / (2 * e) for e in (2e-5, 1e-5)
        ]
        assert delta.grad.item() == pytest.approx(
            ((4 * slopes[1] - slopes[0]) / 3).item(), rel=1e-6
        )

    @pytest.mark.parametrize("rule", RULES)
    def test_stability(self, rule):
        """Only Euler can leave the unit circle with a decaying state."""
        A = -torch.logspace(-3, 3, 61).double()
        A_bar, _ = DISCRETIZATION_RULES[rule](A, 1.0, 1.0)
        outside = A_bar.abs() > 1
        if rule == "euler":
            assert torch.equal(outside, A < -2)
        else:
            assert not outside.any()

    def test_decay_lies_between_zero_and_one(self):
        """S067: A < 0, so 0 < A_bar < 1 for every delta."""
        A = -torch.logspace(-4, 2, 25).double()
        delta = torch.logspace(-4, 0, 17).double()[:, None]
        A_bar, _ = discretize_zoh(A, 1.0, delta)
        assert ((A_bar > 0) & (A_bar < 1)).all()


class TestRatiosAndHalfLives:
    @pytest.mark.parametrize(
        ("u", "ratio", "digits"),
        [(0.1, 1.05, 2), (1.0, 1.58, 2), (1.6, 2.0, 1), (4.0, 4.07, 2)],
    )
    def test_E11(self, u, ratio, digits):
        measured = euler_to_zoh_ratio(-u / 0.1, 0.1).item()
        assert round(measured, digits) == ratio
        assert measured == pytest.approx(u / (1 - math.exp(-u)), rel=1e-14)

    @examples
    @given(seed=seeds, n=sizes, delta=deltas)
    def test_ratio_is_that_of_the_two_rules(self, seed, n, delta):
        A, B = random_diagonal(seed, n)
        released = discretize_mamba(A, B, delta)[1]
        held = discretize_zoh(A, B, delta)[1]
        ratio = euler_to_zoh_ratio(A, delta)
        torch.testing.assert_close(ratio, released / held, rtol=1e-14, atol=0)

    @pytest.mark.parametrize(
        ("delta", "a", "steps"), [(0.001, -1.0, 693.15), (0.1, -16.0, 0.433)]
    )
    def test_S086(self, delta, a, steps):
        assert half_life(a, delta).item() == pytest.approx(steps, rel=1e-3)

    def test_half_is_left_after_a_half_life(self):
        A = torch.tensor([-0.5 + 3j, -2 - 1j]).to(torch.complex128)
        k = half_life(A, 0.01)
        A_bar, _ = discretize_zoh(A, 1.0, 0.01)
        assert_close(A_bar.abs() ** k, [0.5, 0.5], 1e-13)

    def test_a_state_that_does_not_decay(self):
        assert half_life(2j, 0.1).item() == math.inf
        with pytest.raises(ValueError, match="positive real part; got 0.5"):
            half_life(0.5, 0.1)


class TestLinearRecurrence:
    @pytest.mark.parametrize("is_complex", [False, True])
    @pytest.mark.parametrize("is_diagonal", [False, True])
    def test_is_the_sum_of_all_past_inputs(self, is_complex, is_diagonal):
        """h_k = A_bar^(k+1) h_0 + sum over j of A_bar^(k-j) B_bar x_j."""
        A, B = random_system(8, 3, is_complex)
        A_bar, B_bar = discretize_dense(A, B, 0.3)
        A_bar = torch.diag(A_bar.diagonal()) if is_diagonal else A_bar
        x = torch.cos(torch.arange(12).double())
        h_0 = torch.tensor([1.0, -1.0, 2.0]).double()
        given = A_bar.diagonal() if is_diagonal else A_bar
        h = linear_recurrence(given, B_bar, x, h_0)
        power = torch.linalg.matrix_power
        for k in range(12):
            closed = power(A_bar, k + 1) @ h_0.to(A.dtype) + sum(
                power(A_bar, k - j) @ B_bar * x[j] for j in range(k + 1)
            )
            assert_close(h[k], closed, 1e-13)

    def test_first_row_has_seen_the_first_input(self):
        ones = torch.ones(1).double()
        assert linear_recurrence(0.5 * ones, ones, 3 * ones).item() == 3


class TestPrecisionAndShapes:
    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize(
        "dtype",
        [torch.float32, torch.float64, torch.complex64, torch.complex128],
    )
    def test_keeps_the_precision_it_was_given(self, rule, dtype):
        A = torch.full((2,), -0.3, dtype=dtype)
        pairs = [
            DISCRETIZATION_RULES[rule](A, A, 0.1),
            discretize_dense(torch.diag(A), A, 0.1, rule),
        ]
        assert all(t.dtype == dtype for pair in pairs for t in pair)

    @pytest.mark.parametrize("rule", RULES)
    def test_numbers_become_float64(self, rule):
        for A in (-1, -1.0):
            pair = DISCRETIZATION_RULES[rule](A, 1, 0.1)
            assert all(t.dtype == torch.float64 for t in pair)
        A_bar, _ = DISCRETIZATION_RULES[rule](-1 + 2j, 1.0, 0.1)
        assert A_bar.dtype == torch.complex128

    @pytest.mark.parametrize("rule", RULES)
    def test_broadcasts_as_a_selective_model_does(self, rule):
        batch, length, d_inner, d_state = 2, 3, 5, 4
        A = -torch.rand(d_inner, d_state)
        delta = torch.rand(batch, length, d_inner, 1) + 0.1
        B = torch.randn(batch, length, 1, d_state)
        full = batch, length, d_inner, d_state
        pair = DISCRETIZATION_RULES[rule](A, B, delta)
        assert [t.shape for t in pair] == [full, full]
        one = DISCRETIZATION_RULES[rule](
            A[2, 1], B[1, 0, 0, 1], delta[1, 0, 2]
        )
        for t, alone in zip(pair, one, strict=True):
            assert t[1, 0, 2, 1].item() == pytest.approx(alone.item())


ONE = torch.ones(1).double()
TWO = torch.ones(2).double()


@pytest.mark.usefixtures("outside_tests")
class TestRefusals:
    """What a reader sees, who runs without the shape checks."""

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize(
        ("A", "B", "delta", "error", "words"),
        [
            (math.nan, 1.0, 0.1, ValueError, "A must be finite; got nan"),
            (-1.0, math.inf, 0.1, ValueError, "B must be finite; got inf"),
            (-1.0, 1.0, math.nan, ValueError, "delta must be finite; got nan"),
            (-1.0, 1.0, 0.0, ValueError, "delta must be positive; got 0.0"),
            (-1.0, 1.0, -0.5, ValueError, "delta must be positive; got -0.5"),
            (
                torch.tensor([-1.0, complex(0, math.inf)]),
                1.0,
                0.1,
                ValueError,
                r"A must be finite; got infj at index \(1,\)",
            ),
            (
                -1.0,
                1.0,
                torch.tensor([[0.5, 0.25], [-0.25, 0.5]]),
                ValueError,
                r"positive; got -0.25 at index \(1, 0\)",
            ),
            (
                torch.tensor([-1, -2]),
                1.0,
                0.1,
                TypeError,
                r"A must be floating.*torch.int64: \[-1, -2\]",
            ),
            (-1.0, True, 0.1, TypeError, "B must be .* got True, a bool"),
            (-1.0, "1", 0.1, TypeError, "B must be .* got '1', a str"),
            (-1.0, 1.0, 0.1j, TypeError, "delta must be floating.* got 0.1j"),
            (
                -1.0,
                1.0,
                torch.tensor(0.5j),
                TypeError,
                r"delta .*complex64: \[0.5j\]",
            ),
            (
                torch.ones(3),
                torch.ones(4),
                0.1,
                ValueError,
                r"broadcast together; got A \(3,\), B \(4,\), delta \(\)",
            ),
        ],
    )
    def test_elementwise(self, rule, A, B, delta, error, words):
        with pytest.raises(error, match=words):
            DISCRETIZATION_RULES[rule](A, B, delta)

    @pytest.mark.parametrize(
        ("A", "B", "delta", "rule", "words"),
        [
            (TWO, TWO, 0.1, "zoh", r"A .*\(d_state, d_state\); got \(2,\)"),
            (torch.ones(2, 3), TWO, 0.1, "zoh", r"A .* got \(2, 3\)"),
            (torch.eye(2), torch.ones(3), 0.1, "zoh", r"B .* got \(3,\)"),
            (torch.eye(2), TWO, TWO, "zoh", r"delta .*\(\); got \(2,\)"),
            (torch.eye(2), TWO, -1.0, "zoh", "delta .* got -1.0"),
            (torch.eye(2) * math.nan, TWO, 0.1, "zoh", r"nan at .*\(0, 0\)"),
            (torch.eye(2), TWO, 0.1, "tustin", "bilinear.*; got 'tustin'"),
        ],
    )
    def test_dense(self, A, B, delta, rule, words):
        with pytest.raises(ValueError, match=words):
            discretize_dense(A, B, delta, rule)

    @pytest.mark.parametrize(
        ("rule", "pole"), [("backward_euler", 1.0), ("bilinear", 2.0)]
    )
    def test_poles(self, rule, pole):
        with pytest.raises(torch.linalg.LinAlgError):
            discretize_dense(torch.eye(1), ONE, pole, rule)
        A_bar, _ = DISCRETIZATION_RULES[rule](1.0, 1.0, pole)
        assert not A_bar.isfinite()

    @pytest.mark.parametrize(
        ("A", "B", "x", "h_0", "words"),
        [
            (torch.ones(2, 3), TWO, TWO, None, r"A_bar .* got \(2, 3\)"),
            (TWO, ONE, TWO, None, r"B_bar .* \(2,\); got \(1,\)"),
            (TWO, TWO, torch.ones(3, 1), None, r"x .* got \(3, 1\)"),
            (TWO, TWO, torch.ones(0), None, r"x .* got \(0,\)"),
            (TWO, TWO, TWO, ONE, r"initial_state .* \(2,\); got \(1,\)"),
            (TWO, TWO, TWO * math.nan, None, "x must be finite; got nan"),
        ],
    )
    def test_recurrence(self, A, B, x, h_0, words):
        with pytest.raises(ValueError, match=words):
            linear_recurrence(A, B, x, h_0)

    @pytest.mark.parametrize(
        ("times", "words"),
        [
            ([-0.1], "from 0 to 0.2; got -0.1"),
            ([0.1, 0.3], r"0.3 at .*\(1,\)"),
        ],
    )
    def test_times_outside(self, times, words):
        times = torch.tensor(times, dtype=torch.float64)
        with pytest.raises(ValueError, match=words):
            held_state(-ONE, ONE, TWO, 0.1, times)
