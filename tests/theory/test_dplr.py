"""S4 and S4D against powers of matrices (S094) and their own definitions."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete, dimpulse
from torch.autograd import gradcheck

from mambaviz.theory import (
    DISCRETIZATION_RULES,
    DPLR,
    conjugate_half,
    discretize_dense,
    dplr_discretize,
    dplr_kernel,
    dplr_legs,
    dplr_legt,
    hippo_legs,
    hippo_legt,
    linear_recurrence,
    s4d_inv,
    s4d_kernel,
    s4d_legs,
    s4d_lin,
    s4d_real,
)

SYSTEMS = {"legs": (dplr_legs, hippo_legs), "legt": (dplr_legt, hippo_legt)}
# Kernels agree to this times their largest value. Both sides round: the
# powers by about 1e-16 a step over the 4096 steps, the generating function by
# 1e-16 times the condition of the basis, which is 1, and of Woodbury.
RELATIVE = 2e-12


def assert_close(ours, theirs, relative=RELATIVE):
    """Equal up to ``relative`` times the largest element of ``theirs``."""
    ours, theirs = (
        np.asarray(t.detach().resolve_conj()) for t in (ours, theirs)
    )
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= relative * np.abs(theirs).max()


def output_weights(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator).double() / math.sqrt(n)


def random_pairs(n_pairs, rank=1, seed=0, channels=()):
    """Lambda, P, B, C of a stable system that is not HiPPO."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(
            *channels, *shape, dtype=torch.complex128, generator=generator
        )

    Lambda = draw(n_pairs)
    Lambda = torch.complex(-Lambda.real.abs() - 0.1, 3 * Lambda.imag)
    return Lambda, draw(n_pairs, rank), draw(n_pairs), draw(n_pairs)


def whole(Lambda, P, B, C):
    """The same system over both states of each pair, as one matrix."""
    Lambda, P, B, C = (torch.cat([t, t.conj()]) for t in (Lambda, P, B, C))
    return torch.diag(Lambda) - P @ P.mH, B, C


def power_kernel(A, B, C, delta, length):
    """K_bar by definition: C A_bar^l B_bar, one power after the other."""
    I = torch.eye(len(A), dtype=A.dtype)
    inverse = torch.linalg.inv(I - delta / 2 * A)
    A_bar, h = inverse @ (I + delta / 2 * A), inverse @ (delta * B)
    taps = []
    for _ in range(length):
        taps.append((C @ h).real)
        h = A_bar @ h
    return torch.stack(taps)


class TestDecomposition:
    @pytest.mark.parametrize("n", [1, 2, 5, 8, 64, 256])
    @pytest.mark.parametrize("kind", SYSTEMS)
    def test_reassembles(self, kind, n):
        decompose, hippo = SYSTEMS[kind]
        Lambda, P, B, V = decompose(n)
        A, B_real = hippo(n)
        I = torch.eye(n, dtype=V.dtype)
        # The Hermitian eigenproblem is exact to n units in the last place.
        close = 1e-12
        assert_close(V.mH @ V, I, close)
        assert_close(V @ (torch.diag(Lambda) - P @ P.mH) @ V.mH, A + 0j, close)
        assert_close(V @ B, B_real + 0j, close)

    @pytest.mark.parametrize(
        ("decompose", "rank", "shift"),
        [(dplr_legs, 1, -0.5), (dplr_legt, 2, 0.0)],
    )
    def test_parts(self, decompose, rank, shift):
        Lambda, P, B, _ = decompose(16)
        assert P.shape == (16, rank)
        assert (Lambda.real == shift).all()
        assert (Lambda.imag.diff() > 0).all()
        assert_close(Lambda.flip(0).conj(), Lambda, 1e-14)
        # The phase that makes the parts the same on every machine.
        assert (B.real > 0).all()
        assert B.imag.abs().max() < 1e-14

    def test_legt_of_a_window(self):
        window = 0.25
        Lambda, P, _, V = dplr_legt(6, window)
        A = V @ (torch.diag(Lambda) - P @ P.mH) @ V.mH
        assert_close(A, hippo_legt(6, window)[0] + 0j, 1e-13)

    def test_half_is_every_state_with_a_positive_frequency(self):
        system = dplr_legs(10)
        half = conjugate_half(system)
        assert (half.Lambda.imag > 0).all()
        A, B, _ = whole(*half[:3], half.B)
        V = torch.cat([half.V, half.V.conj()], dim=1)
        assert_close(V @ A @ V.mH, hippo_legs(10)[0] + 0j, 1e-13)
        assert_close(V @ B, hippo_legs(10)[1] + 0j, 1e-13)


class TestKernel:
    """S094: the convolution and the recurrence are one system."""

    @pytest.mark.parametrize("length", [1, 2, 255, 256, 4096])
    @pytest.mark.parametrize("delta", [1e-4, 1e-2, 1.0])
    @pytest.mark.parametrize("kind", SYSTEMS)
    def test_is_that_of_the_real_matrix(self, kind, delta, length):
        """64 states; the judge never sees Lambda, P, V or a root of unity."""
        n = 64
        decompose, hippo = SYSTEMS[kind]
        Lambda, P, B, V = conjugate_half(decompose(n))
        C = output_weights(n)
        ours = dplr_kernel(Lambda, P, B, C.to(V) @ V, delta, length)
        A_bar, B_bar = discretize_dense(*hippo(n), delta, "bilinear")
        impulse = torch.eye(1, length, dtype=torch.float64)[0]
        assert_close(ours, linear_recurrence(A_bar, B_bar, impulse) @ C)

    def test_is_the_impulse_response_that_scipy_finds(self):
        n, delta, length = 12, 0.05, 100
        A, B = (t.numpy() for t in hippo_legs(n))
        C = output_weights(n)
        system = A, B[:, None], C[None].numpy(), np.zeros((1, 1))
        A_bar, *_ = cont2discrete(system, delta, method="bilinear")
        # SciPy's rule also changes C and D; ours leaves them (see
        # test_discretize), so only its A_bar is taken.
        B_bar = np.linalg.solve(np.eye(n) - delta / 2 * A, delta * B)
        # dimpulse delays by one step: it reads the state before the input.
        _, (y,) = dimpulse(
            (A_bar, B_bar[:, None], system[2], system[3], delta), n=length + 1
        )
        Lambda, P, B, V = conjugate_half(dplr_legs(n))
        ours = dplr_kernel(Lambda, P, B, C.to(V) @ V, delta, length)
        assert_close(ours, torch.from_numpy(y[1:, 0]))

    def test_against_exact_arithmetic(self):
        """Both routes in float64 could be wrong together; mpmath is not."""
        n, length = 6, 40
        Lambda, P, B, V = conjugate_half(dplr_legs(n))
        C = output_weights(n)
        ours = dplr_kernel(Lambda, P, B, C.to(V) @ V, 0.125, length)
        with mpmath.workdps(40):
            A = mpmath.matrix(n, n)
            for i in range(n):
                for k in range(i):
                    A[i, k] = -mpmath.sqrt((2 * i + 1) * (2 * k + 1))
                A[i, i] = -(i + 1)
            h = mpmath.matrix([mpmath.sqrt(2 * i + 1) / 8 for i in range(n)])
            left = mpmath.eye(n) - A / 16
            h = mpmath.lu_solve(left, h)
            exact = []
            for _ in range(length):
                exact.append(float(mpmath.fdot(C.tolist(), list(h))))
                h = mpmath.lu_solve(left, h + A * h / 16)
        assert_close(ours, torch.tensor(exact, dtype=torch.float64), 1e-14)

    @pytest.mark.parametrize("rank", [1, 2, 3])
    @pytest.mark.parametrize("length", [7, 300])
    def test_of_any_diagonal_and_rank(self, rank, length):
        parts = random_pairs(5, rank)
        ours = dplr_kernel(*parts, 0.1, length)
        A, B, C = whole(*parts)
        assert_close(ours, power_kernel(A, B, C, 0.1, length))

    def test_where_the_paper_divides_by_zero(self):
        """At z = -1, an angle of every even length."""
        parts = random_pairs(3)
        K_bar = dplr_kernel(*parts, 0.1, 2)
        assert K_bar.isfinite().all()
        alternating = K_bar[0] - K_bar[1]
        A, B, C = whole(*parts)
        reference = power_kernel(A, B, C, 0.1, 2)
        assert_close(alternating, reference[0] - reference[1])

    def test_nothing_wraps_around(self):
        """A slow system, far from silent after L steps: C_tilde matters."""
        Lambda, P, B, C = random_pairs(4)
        parts = Lambda / 100, P / 100, B, C
        short = dplr_kernel(*parts, 0.01, 50)
        assert short[-1].abs() > 0.1 * short.abs().max()
        assert_close(short, dplr_kernel(*parts, 0.01, 400)[:50])

    def test_channels_are_one_system_each(self):
        Lambda, P, B, C = random_pairs(3, 1, channels=(2, 4))
        delta = torch.linspace(0.01, 0.5, 8).double().reshape(2, 4)
        together = dplr_kernel(Lambda, P, B, C, delta, 20)
        alone = dplr_kernel(
            Lambda[1, 2], P[1, 2], B[1, 2], C[1, 2], delta[1, 2], 20
        )
        assert_close(together[1, 2], alone)
        # One matrix, many steps and readings: the parts broadcast.
        shared = dplr_kernel(Lambda[1, 2], P[1, 2], B[1, 2], C, delta, 20)
        assert shared.shape == (2, 4, 20)
        assert_close(shared[1, 2], alone)

    @pytest.mark.parametrize("length", [8, 9])
    def test_gradients_are_those_of_finite_differences(self, length):
        parts = [t.requires_grad_() for t in random_pairs(2, 2)]
        delta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        assert gradcheck(
            lambda *args: dplr_kernel(*args, length), (*parts, delta)
        )

    @pytest.mark.parametrize("length", [65, 512])
    def test_gradients_are_those_of_the_powers(self, length):
        system = conjugate_half(dplr_legs(16))
        C = output_weights(16).to(system.V) @ system.V
        weights = output_weights(length, seed=1)
        grads = []
        for by_definition in (False, True):
            parts = [
                t.clone().requires_grad_()
                for t in (system.Lambda, system.P, system.B, C)
            ]
            delta = torch.tensor(0.02, dtype=torch.float64)
            delta.requires_grad_()
            if by_definition:
                K_bar = power_kernel(*whole(*parts), delta, length)
            else:
                K_bar = dplr_kernel(*parts, delta, length)
            grads.append(torch.autograd.grad(weights @ K_bar, [*parts, delta]))
        for ours, theirs in zip(*grads, strict=True):
            assert_close(ours, theirs, 1e-10)

    def test_single_precision(self):
        parts = [t.to(torch.complex64) for t in random_pairs(8)]
        ours = dplr_kernel(*parts, 0.05, 200)
        assert ours.dtype == torch.float32
        true = dplr_kernel(*(t.to(torch.complex128) for t in parts), 0.05, 200)
        assert_close(ours.double(), true, 1e-5)


class TestRecurrence:
    @pytest.mark.parametrize("rank", [1, 2])
    def test_is_the_bilinear_rule(self, rank):
        Lambda, P, B, C = random_pairs(4, rank)
        A, B_whole, _ = whole(Lambda, P, B, C)
        theirs = discretize_dense(A, B_whole, 0.2, "bilinear")
        ours = dplr_discretize(Lambda, P, B, 0.2)
        for mine, reference in zip(ours, theirs, strict=True):
            assert_close(mine, reference, 1e-14)

    def test_steps_to_what_the_kernel_says(self):
        """One by one, with only the first half of the state read."""
        Lambda, P, B, C = random_pairs(4)
        x = output_weights(60, seed=2)
        A_bar, B_bar = dplr_discretize(Lambda, P, B, 0.2)
        h = linear_recurrence(A_bar, B_bar, x + 0j)
        y = 2 * (h[:, :4] @ C).real
        K_bar = dplr_kernel(Lambda, P, B, C, 0.2, 60)
        convolved = np.convolve(K_bar.numpy(), x.numpy())[:60]
        assert_close(y, torch.from_numpy(convolved))
        assert_close(h[:, 4:], h[:, :4].conj(), 1e-13)

    def test_in_the_basis_of_legs_it_is_legs(self):
        system = conjugate_half(dplr_legs(64))
        V = torch.cat([system.V, system.V.conj()], dim=1)
        A_bar, B_bar = dplr_discretize(*system[:3], 0.01)
        A_real, B_real = discretize_dense(*hippo_legs(64), 0.01, "bilinear")
        assert_close(V @ A_bar @ V.mH, A_real + 0j)
        assert_close(V @ B_bar, B_real + 0j)

    def test_no_low_rank_makes_it_unstable(self):
        """Re A is 2 Re Lambda - 2 P P^*: it only ever damps."""
        for seed in range(20):
            Lambda, P, B, _ = random_pairs(4, 2, seed)
            A_bar, _ = dplr_discretize(Lambda, 10 * P, B, 0.5)
            assert torch.linalg.eigvals(A_bar).abs().max() < 1


class TestDiagonals:
    def test_formulas(self):
        lin, inv = s4d_lin(8), s4d_inv(8)
        assert (lin.real == -0.5).all()
        assert (inv.real == -0.5).all()
        for n in range(4):
            assert lin.imag[n].item() == pytest.approx(math.pi * n)
            frequency = 8 / math.pi * (8 / (2 * n + 1) - 1)
            assert inv.imag[n].item() == pytest.approx(frequency)
        assert s4d_real(3).tolist() == [-1, -2, -3]

    def test_legs_without_its_rank(self):
        """The eigenvalues that NumPy finds of A + P P^T."""
        A, B = (t.numpy() for t in hippo_legs(12))
        values = np.linalg.eigvals(A + np.outer(B, B) / 2)
        positive = np.sort(values.imag[values.imag > 0])
        Lambda = s4d_legs(12)
        assert_close(Lambda.imag, torch.from_numpy(positive), 1e-12)
        assert (Lambda.real == -0.5).all()

    def test_inv_is_close_to_legs(self):
        """The law of the largest frequencies, N^2 / pi and down."""
        legs, inv = s4d_legs(256).imag.flip(0), s4d_inv(256).imag
        off = (inv / legs - 1).abs()
        assert off[0] < 0.005
        assert off[:10].max() < 0.07


class TestDiagonalKernel:
    @staticmethod
    def power_kernel(Lambda, B, C, delta, length, rule):
        """One power after the other, over both states of each pair."""
        if Lambda.is_complex():
            Lambda, B, C = (torch.cat([t, t.conj()]) for t in (Lambda, B, C))
        A = torch.diag(Lambda)
        A_bar, h = discretize_dense(A, B, delta, rule)
        taps = []
        for _ in range(length):
            taps.append((C @ h).real)
            h = A_bar @ h
        return torch.stack(taps)

    @pytest.mark.parametrize("rule", DISCRETIZATION_RULES)
    @pytest.mark.parametrize("length", [1, 2, 100, 1000])
    @pytest.mark.parametrize("init", [s4d_lin, s4d_inv, s4d_legs, s4d_real])
    def test_is_that_of_the_powers(self, init, length, rule):
        Lambda = init(16)
        # Euler is stable for these frequencies, up to 80, with this step.
        delta = 1e-4
        n = len(Lambda)
        B = output_weights(n, 1).to(Lambda)
        C = output_weights(n, 2).to(Lambda)
        if Lambda.is_complex():
            C = C * torch.exp(1j * torch.arange(n).double())
        ours = s4d_kernel(Lambda, B, C, delta, length, rule)
        theirs = self.power_kernel(Lambda, B, C, delta, length, rule)
        assert_close(ours, theirs)

    @pytest.mark.parametrize("rule", ["zoh", "bilinear"])
    def test_long_steps(self, rule):
        Lambda, _, B, C = random_pairs(6)
        ours = s4d_kernel(Lambda, B, C, 1.5, 300, rule)
        assert_close(ours, self.power_kernel(Lambda, B, C, 1.5, 300, rule))

    def test_bilinear_is_s4_without_its_rank(self):
        Lambda, P, B, C = random_pairs(6)
        ours = s4d_kernel(Lambda, B, C, 0.1, 128, "bilinear")
        assert_close(ours, dplr_kernel(Lambda, 0 * P, B, C, 0.1, 128))

    def test_channels_are_one_system_each(self):
        Lambda, _, B, C = random_pairs(3, channels=(4,))
        delta = torch.linspace(0.01, 0.5, 4).double()
        together = s4d_kernel(Lambda, B, C, delta, 20)
        alone = s4d_kernel(Lambda[2], B[2], C[2], delta[2], 20)
        assert_close(together[2], alone)
        shared = s4d_kernel(Lambda[2], B[2], C, delta, 20)
        assert_close(shared[2], alone)

    @pytest.mark.parametrize("rule", ["zoh", "bilinear"])
    def test_gradients(self, rule):
        Lambda, _, B, C = (t.requires_grad_() for t in random_pairs(2))
        delta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        assert gradcheck(
            lambda *args: s4d_kernel(*args, 7, rule), (Lambda, B, C, delta)
        )
        real = [output_weights(3, s).requires_grad_() for s in range(3)]
        assert gradcheck(
            lambda *args: s4d_kernel(*args, 7, rule), (*real, delta)
        )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    def test_a_state_that_forgets_at_once(self, dtype):
        """Bilinear at delta A = -2: A_bar is 0, and 0^0 is 1."""
        A = torch.full((1,), -20.0, dtype=dtype, requires_grad=True)
        one = torch.ones_like(A).detach()
        K_bar = s4d_kernel(A, one, one, 0.1, 4, "bilinear")
        pairs = 2 if dtype.is_complex else 1
        expected = [pairs * 0.05, 0, 0, 0]
        assert K_bar.tolist() == pytest.approx(expected, abs=1e-17)
        assert gradcheck(
            lambda A: s4d_kernel(A, one, one, 0.1, 4, "bilinear"), A
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
    def test_single_precision(self, dtype):
        Lambda, _, B, C = random_pairs(4)
        parts = [t.to(torch.complex64) for t in (Lambda, B, C)]
        if not dtype.is_complex:
            parts = [t.real for t in parts]
        ours = s4d_kernel(*parts, 0.05, 500)
        assert ours.dtype == torch.float32
        double = torch.promote_types(dtype, torch.float64)
        true = s4d_kernel(*(t.to(double) for t in parts), 0.05, 500)
        assert_close(ours.double(), true, 1e-5)


PAIR = torch.ones(1, dtype=torch.complex128)


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dplr_legs(0), "d_state must be at least 1; got 0"),
        (lambda: dplr_legt(4, -1.0), "window must be positive.*got -1.0"),
        (
            lambda: conjugate_half(dplr_legs(5)),
            "d_state must be even to pair up; got 5",
        ),
        (lambda: s4d_lin(5), "even and at least 2; got 5"),
        (lambda: s4d_legs(0), "even and at least 2; got 0"),
        (lambda: s4d_real(0), "at least 1; got 0"),
        (
            lambda: dplr_kernel(-PAIR, PAIR[None], PAIR, PAIR, 0.1, 0),
            "length must be at least 1; got 0",
        ),
        (
            lambda: dplr_kernel(-PAIR, PAIR[None], PAIR, PAIR, -0.1, 3),
            "delta must be positive and finite; got -0.1",
        ),
        (
            lambda: dplr_discretize(-PAIR, PAIR[None], PAIR, math.nan),
            "delta must be positive and finite; got nan",
        ),
        (
            lambda: s4d_kernel(-PAIR, PAIR, PAIR, math.inf, 3),
            "delta must be positive and finite; got inf",
        ),
        (
            lambda: s4d_kernel(-PAIR, PAIR, PAIR, 0.1, 0),
            "length must be at least 1; got 0",
        ),
        (
            lambda: s4d_kernel(-PAIR, PAIR, PAIR, 0.1, 3, "tustin"),
            "zoh, .*; got 'tustin'",
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
        *(
            (lambda build=build: build(4.0), "d_state .*whole.* got 4.0")
            for build in (
                dplr_legs,
                dplr_legt,
                s4d_lin,
                s4d_inv,
                s4d_legs,
                s4d_real,
            )
        ),
        (
            lambda: s4d_kernel(-PAIR, PAIR, PAIR, 0.1, 2.5),
            "length .*whole.* got 2.5",
        ),
        (
            lambda: dplr_kernel(-PAIR, PAIR[None], PAIR, PAIR, 0.1, 2.5),
            "length .*whole.* got 2.5",
        ),
    ],
)
def test_sizes_are_whole(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def test_the_parts_have_names():
    system = dplr_legs(4)
    assert isinstance(system, DPLR)
    assert system._fields == ("Lambda", "P", "B", "V")
