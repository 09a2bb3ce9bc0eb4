"""Every way to run a system against the others and against SciPy."""

import functools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from torch.autograd import gradcheck

from mambaviz.theory import (
    add_redundant_state,
    blelloch_scan,
    causal_convolution,
    change_basis,
    chunked_scan,
    controllability_matrix,
    controllability_rank,
    discretize_dense,
    discretize_zoh,
    fft_convolution,
    hillis_steele_scan,
    impulse_response,
    is_minimal,
    observability_matrix,
    observability_rank,
    sequential_scan,
    shift_error,
    simulate_held,
    simulate_ode,
    simulate_recurrence,
    simulate_scan,
    ssm_kernel,
    superposition_error,
    time_varying_matrix,
    toeplitz_matrix,
    wrapped_fft_convolution,
)

# What the book prints: all ways agree to this part of the largest output.
AGREEMENT = 1e-12

SCANS = {
    "sequential scan": sequential_scan,
    "Hillis-Steele scan": hillis_steele_scan,
    "Blelloch scan": blelloch_scan,
    "chunked scan": functools.partial(chunked_scan, chunk=4),
}

# A test of all kinds and fields sees at least so many different systems, a
# quarter of them in each; an example is a batch.
SYSTEMS = 1000
BATCH = 20
LONGEST = 16

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 6)
examples = settings(max_examples=25, deadline=None)
both = pytest.mark.parametrize("is_complex", [False, True])
every_kind = pytest.mark.parametrize("is_diagonal", [False, True])


def random(generator, *shape, is_complex=False):
    dtype = torch.complex128 if is_complex else torch.float64
    return torch.randn(*shape, dtype=dtype, generator=generator)


def random_system(seed, n, is_complex=False, is_diagonal=False, io=()):
    """A stable system whose conditioning is bounded, with delta = 1.

    The eigenvalues decay by a factor from e^-2.5 to e^-0.05 a step and turn
    by up to 2; a unitary basis hides them, and a small upper triangle makes
    the matrix non-normal.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = functools.partial(random, generator, is_complex=is_complex)
    uniform = torch.rand(2, n, generator=generator).double()
    A = -0.05 - 2.45 * uniform[0]
    A = torch.complex(A, 4 * uniform[1] - 2) if is_complex else A
    if not is_diagonal:
        basis, _ = torch.linalg.qr(draw(n, n))
        upper = 0.2 * torch.triu(draw(n, n), diagonal=1)
        A = basis @ (torch.diag(A) + upper) @ basis.mH
    d_in, d_out = io or (1, 1)
    B, C, D = draw(n, d_in), draw(d_out, n), draw(d_out, d_in)
    if not io:
        B, C, D = B[:, 0], C[0], D[0, 0]
    return A, B, C, D


def discretized(A, B, delta=1.0):
    zoh = discretize_zoh if A.ndim == 1 else discretize_dense
    if A.ndim == 1 and B.ndim == 2:
        A_bar, B_bar = zoh(A[:, None], B, delta)
        return A_bar[:, 0], B_bar
    return zoh(A, B, delta)


def random_input(seed, *shape, is_complex=False):
    generator = torch.Generator().manual_seed(seed + 1)
    return random(generator, *shape, is_complex=is_complex)


def relative_error(ours, true, scale=None):
    """The largest error, over the largest output unless a scale is given."""
    ours, true = np.asarray(ours), np.asarray(true)
    assert ours.shape == true.shape
    scale = np.abs(true).max() if scale is None else scale
    return np.abs(ours - true).max() / scale


def size_of_terms(A_bar, B_bar, C, D, x):
    """The largest sum of |C h| and |D x|, term by term.

    In a short sequence the terms of each y_k may nearly cancel, and what is
    left says nothing about the rounding of what was added.
    """
    identity = torch.eye(len(C), dtype=C.dtype)
    h = simulate_recurrence(A_bar, B_bar, identity, 0.0, x)
    return (h.abs() @ C.abs() + (D * x).abs()).max().item()


def side_by_side(systems):
    """Systems with one input and output each, as one with many."""
    A, B, C, D = zip(*systems, strict=True)
    A = torch.cat(A) if A[0].ndim == 1 else torch.block_diag(*A)
    B = torch.block_diag(*(b[:, None] for b in B))
    C = torch.block_diag(*(c[None] for c in C))
    return A, B, C, torch.diag(torch.stack(D))


def check_many(check, is_complex, is_diagonal, most_states=6):
    """Run check(systems, x), x one input a column, and count the systems.

    Examples share no seed: not when their seeds are neighbours, nor when
    Hypothesis draws an edge value again with another length. PyTorch uses 32
    bits of a seed, and all below fit into them.
    """
    seen = set()

    @settings(max_examples=16, deadline=None)
    @given(
        seed=st.integers(0, 2**23),
        n=st.integers(1, most_states),
        length=st.integers(1, LONGEST),
    )
    def run(seed, n, length):
        first = BATCH * (LONGEST * seed + length - 1)
        systems = [
            random_system(first + i, n, is_complex, is_diagonal)
            for i in range(BATCH)
        ]
        for system in systems:
            seen.add(b"".join(M.numpy().tobytes() for M in system))
        check(systems, random_input(first, length, BATCH))

    run()
    assert len(seen) >= SYSTEMS / 4


def every_discrete_way(A, B, C, D, x):
    """The name of each representation and its output."""
    A_bar, B_bar = discretized(A, B)
    system = A_bar, B_bar, C, D
    length = len(x)
    K_bar = ssm_kernel(A_bar, B_bar, C, length)
    x_c = x.to(K_bar.dtype)
    yield "direct convolution", causal_convolution(K_bar, x) + D * x
    yield "FFT convolution", fft_convolution(K_bar, x) + D * x
    yield "Toeplitz matrix", toeplitz_matrix(K_bar) @ x_c + D * x
    response = impulse_response(*system, length)
    yield "impulse response", toeplitz_matrix(response) @ x_c
    every = [M.expand(length, *M.shape) for M in (A_bar, B_bar, C)]
    yield "time-varying matrix", time_varying_matrix(*every, D) @ x_c
    for name, scan in SCANS.items():
        yield name, simulate_scan(*system, x, scan=scan)


def dlsim(A, B, C, u):
    """SciPy's output without D: (steps, d_out)."""
    D = np.zeros((len(C), B.shape[1]))
    return signal.dlsim((A, B, C, D, 1.0), u)[1]


def dimpulse(A, B, C, n):
    """SciPy's response to an impulse, without D: (n, d_out, d_in)."""
    D = np.zeros((len(C), B.shape[1]))
    return np.stack(signal.dimpulse((A, B, C, D, 1.0), n=n)[1], axis=-1)


def by_parts(run, A, B, C, *arguments):
    """SciPy's discrete systems are real: [Re h; Im h] stands for h."""
    if not np.iscomplexobj(A):
        return run(A, B, C, *arguments)
    d_in = B.shape[1]
    A, B, C = (
        np.block([[M.real, -M.imag], [M.imag, M.real]]) for M in (A, B, C)
    )
    real, imaginary = np.split(run(A, B[:, :d_in], C, *arguments), 2, axis=1)
    return real + 1j * imaginary


class TestAgreement:
    """S075, S077, S081, S123: one system, many ways."""

    @both
    @every_kind
    def test_all_ways(self, is_diagonal, is_complex):
        def check(systems, x):
            # One solution of all: steps that must be short cost the most.
            solved = simulate_held(*side_by_side(systems), x, 1.0)
            for i, system in enumerate(systems):
                A_bar, B_bar = discretized(*system[:2])
                y = simulate_recurrence(A_bar, B_bar, *system[2:], x[:, i])
                scale = size_of_terms(A_bar, B_bar, *system[2:], x[:, i])
                assert relative_error(solved[:, i], y, scale) <= AGREEMENT
                for name, other in every_discrete_way(*system, x[:, i]):
                    assert relative_error(other, y, scale) <= AGREEMENT, name

        check_many(check, is_complex, is_diagonal)

    @both
    @every_kind
    def test_a_long_sequence(self, is_diagonal, is_complex):
        system = random_system(0, 4, is_complex, is_diagonal)
        x = random_input(0, 1000)
        A_bar, B_bar = discretized(*system[:2])
        y = simulate_recurrence(A_bar, B_bar, *system[2:], x)
        K_bar = ssm_kernel(A_bar, B_bar, system[2], 1000)
        for convolve in (causal_convolution, fft_convolution):
            ours = convolve(K_bar, x) + system[3] * x
            assert relative_error(ours, y) <= AGREEMENT
        for name, scan in SCANS.items():
            ours = simulate_scan(A_bar, B_bar, *system[2:], x, scan=scan)
            assert relative_error(ours, y) <= AGREEMENT, name

    @examples
    @given(
        seed=seeds,
        n=sizes,
        io=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        is_complex=st.booleans(),
        is_diagonal=st.booleans(),
    )
    def test_several_inputs_and_outputs(
        self, seed, n, io, is_complex, is_diagonal
    ):
        A, B, C, D = random_system(seed, n, is_complex, is_diagonal, io)
        x = random_input(seed, 12, io[0], is_complex=is_complex)
        A_bar, B_bar = discretized(A, B)
        y = simulate_recurrence(A_bar, B_bar, C, D, x)
        assert y.shape == (12, io[1])
        K_bar = ssm_kernel(A_bar, B_bar, C, 12)
        skipped = x @ D.T
        ways = [
            simulate_held(A, B, C, D, x, 1.0),
            simulate_scan(A_bar, B_bar, C, D, x),
            causal_convolution(K_bar, x) + skipped,
            fft_convolution(K_bar, x) + skipped,
            causal_convolution(impulse_response(A_bar, B_bar, C, D, 12), x),
        ]
        for other in ways:
            assert relative_error(other, y) <= AGREEMENT
        # Input by input and output by output, it is a sum of single ones.
        for o in range(io[1]):
            single = sum(
                simulate_recurrence(A_bar, B_bar[:, i], C[o], D[o, i], x[:, i])
                for i in range(io[0])
            )
            assert relative_error(y[:, o], single) <= AGREEMENT

    @both
    @every_kind
    def test_from_an_initial_state(self, is_diagonal, is_complex):
        """Two halves, the state handed over, are the whole."""
        A, B, C, D = random_system(3, 4, is_complex, is_diagonal)
        A_bar, B_bar = discretized(A, B)
        x = random_input(3, 20)
        whole = simulate_recurrence(A_bar, B_bar, C, D, x)
        identity = torch.eye(4, dtype=A.dtype)
        states = simulate_recurrence(A_bar, B_bar, identity, 0.0, x[:8])
        rest, h = x[8:], states[-1]
        ways = [
            simulate_recurrence(A_bar, B_bar, C, D, rest, h),
            simulate_scan(A_bar, B_bar, C, D, rest, h),
            simulate_held(A, B, C, D, rest, 1.0, h),
        ]
        for other in ways:
            assert relative_error(other, whole[8:]) <= AGREEMENT

    def test_a_real_system_with_a_complex_state_and_input(self):
        A, B, C, D = random_system(4, 3)
        A_bar, B_bar = discretized(A, B)
        x = random_input(4, 10, is_complex=True)
        h = random_input(5, 3, is_complex=True)
        y = simulate_recurrence(A_bar, B_bar, C, D, x, h)
        parts = [
            simulate_recurrence(A_bar, B_bar, C, D, part(x), part(h))
            for part in (torch.real, torch.imag)
        ]
        assert relative_error(y, torch.complex(*parts)) <= 1e-15
        for other in (
            simulate_scan(A_bar, B_bar, C, D, x, h),
            simulate_held(A, B, C, D, x, 1.0, h),
        ):
            assert relative_error(other, y) <= AGREEMENT


class TestAgainstScipy:
    @staticmethod
    def statespace(A, B, C, D):
        """SciPy's matrices of a system with one input and output."""
        A, B, C, D = (np.asarray(M) for M in (A, B, C, D))
        A = np.diag(A) if A.ndim == 1 else A
        return (
            A,
            B.reshape(len(A), -1),
            C.reshape(-1, len(A)),
            np.atleast_2d(D),
        )

    @both
    @every_kind
    def test_simulations(self, is_diagonal, is_complex):
        """Theirs read the state before x_k: one step and D x apart."""

        def check(systems, x):
            A, B, C, _ = (M.numpy() for M in side_by_side(systems))
            A = np.diag(A) if is_diagonal else A
            discrete = [(*discretized(*s[:2]), *s[2:]) for s in systems]
            A_bar, B_bar, _, D = (M.numpy() for M in side_by_side(discrete))
            A_bar = np.diag(A_bar) if is_diagonal else A_bar
            none = np.zeros_like(D)
            held = signal.cont2discrete((A, B, C, none), 1.0)
            u = np.vstack([x.numpy(), np.zeros(BATCH)])
            late = {
                "cont2discrete, dlsim": by_parts(dlsim, *held[:2], C, u),
                "dlsim": by_parts(dlsim, A_bar, B_bar, C, u),
                "lsim": signal.lsim(
                    (A, B, C, none), u, np.arange(len(u)), interp=False
                )[1],
            }
            responses = by_parts(dimpulse, A_bar, B_bar, C, len(u))
            impulse = torch.zeros(len(x)).double()
            impulse[0] = 1
            for i, system in enumerate(discrete):
                y = simulate_recurrence(*system, x[:, i])
                scale = size_of_terms(*system, x[:, i])
                for name, theirs in late.items():
                    true = theirs[1:, i] + D[i, i] * x[:, i].numpy()
                    assert relative_error(y, true, scale) <= AGREEMENT, name
                K_bar = ssm_kernel(*system[:3], len(x))
                scale = size_of_terms(*system[:3], 0.0, impulse)
                true = responses[1:, i, i]
                assert relative_error(K_bar, true, scale) <= AGREEMENT

        check_many(check, is_complex, is_diagonal)

    @both
    @every_kind
    def test_lfilter(self, is_diagonal, is_complex):
        """The transfer function's coefficients, from the same system.

        A polynomial's coefficients lose digits, more with every state: of 4
        about 1e-13 in the worst of 50,000, so there are no more here.
        """

        def check(systems, x):
            for i, (A, B, C, D) in enumerate(systems):
                system = *discretized(A, B), C, D
                # C before x_k enters, so that D stays D: then one step later.
                numerator, denominator = signal.ss2tf(
                    *self.statespace(*system[:3], 0.0)
                )
                x_i = np.append(x[:, i].numpy(), 0.0)
                late = signal.lfilter(numerator[0], denominator, x_i)
                true = late[1:] + D.numpy() * x_i[:-1]
                y = simulate_recurrence(*system, x[:, i])
                scale = size_of_terms(*system, x[:, i])
                assert relative_error(y, true, scale) <= AGREEMENT

        check_many(check, is_complex, is_diagonal, most_states=4)

    @examples
    @given(
        seed=seeds,
        taps=st.integers(1, 20),
        length=st.integers(1, 20),
        is_complex=st.booleans(),
    )
    def test_convolutions(self, seed, taps, length, is_complex):
        K_bar = random_input(seed, taps, is_complex=is_complex)
        x = random_input(seed + 7, length)
        true = signal.fftconvolve(K_bar.numpy(), x.numpy())[:length]
        direct = np.convolve(K_bar.numpy(), x.numpy())[:length]
        for ours in (causal_convolution, fft_convolution):
            y = ours(K_bar, x)
            # The whole convolution has numbers up to about 5 sqrt(20).
            assert np.abs(y.numpy() - true).max() <= 1e-13
            assert np.abs(y.numpy() - direct).max() <= 1e-13
        M = toeplitz_matrix(K_bar, length)
        column = np.zeros(length, K_bar.numpy().dtype)
        column[: min(taps, length)] = K_bar[:length].numpy()
        row = np.zeros(length)
        assert np.array_equal(
            M, scipy.linalg.toeplitz(column, [column[0], *row[1:]])
        )
        y = M @ x.to(M.dtype)
        assert np.abs(y.numpy() - direct).max() <= 1e-13

    @both
    @every_kind
    def test_kernel_is_their_impulse_response_one_step_later(
        self, is_diagonal, is_complex
    ):
        """S074, E25."""
        A, B, C, D = random_system(1, 4, is_complex, is_diagonal)
        A_bar, B_bar = discretized(A, B)
        K_bar = ssm_kernel(A_bar, B_bar, C, 15)
        system = (*self.statespace(A_bar, B_bar, C, D), 1.0)
        if not is_complex:  # theirs are real
            _, (response,) = signal.dimpulse(system, n=16)
            assert response[0, 0] == D.item()
            assert relative_error(K_bar, response[1:, 0]) <= 1e-13
        A_np, B_np, C_np, _ = system[:4]
        power = np.linalg.matrix_power
        closed = [(C_np @ power(A_np, k) @ B_np).item() for k in range(15)]
        assert relative_error(K_bar, np.array(closed)) <= 1e-13


class TestODE:
    """S042, S043, on the systems of the chapters."""

    @both
    @every_kind
    @pytest.mark.parametrize("delta", [0.01, 0.3, 4.0])
    def test_held_input_against_expm(self, is_diagonal, is_complex, delta):
        """S042: <= 1e-10, by SciPy's exponential."""
        A, B, C, _ = random_system(2, 5, is_complex, is_diagonal)
        x = random_input(2, 12)
        y = simulate_held(A, B, C, 0.0, x, delta)
        dense = np.diag(A) if is_diagonal else A.numpy()
        block = np.zeros((6, 6), dense.dtype)
        block[:5, :5], block[:5, 5] = dense, B
        step = scipy.linalg.expm(delta * block)
        h, true = np.zeros(5), []
        for x_k in x.tolist():
            h = step[:5, :5] @ h + step[:5, 5] * x_k
            true.append(C.numpy() @ h)
        assert relative_error(y, np.array(true)) <= 1e-10

    @pytest.mark.parametrize("a", [-0.3, -1.0, -8.0])
    @pytest.mark.parametrize("omega", [0.5, 3.0])
    def test_a_turning_input(self, a, omega):
        """h' = a h + e^(i w t): h = (e^(i w t) - e^(a t)) / (i w - a)."""
        times = torch.linspace(0, 6, 25).double()
        A = torch.tensor([a], dtype=torch.complex128)
        one = torch.ones_like(A)
        y = simulate_ode(
            A, one, one, 2.0, lambda t: torch.exp(1j * omega * t), times
        )
        turning = torch.exp(1j * omega * times)
        h = (turning - torch.exp(a * times)) / (1j * omega - a)
        assert relative_error(y, h + 2 * turning) <= 1e-12

    def test_an_input_that_is_a_number(self):
        """A Python number must not pass through float32."""
        one = torch.ones(1).double()
        times = torch.tensor([0.0, 2.0]).double()
        y = simulate_ode(-one, one, one, 0.0, lambda t: 0.1, times)
        true = 0.1 * (1 - math.exp(-2))
        assert y[1].item() == pytest.approx(true, rel=1e-13)

    def test_a_complex_input_into_a_real_system(self):
        one = torch.ones(1).double()
        times = torch.tensor([0.0, 1.0]).double()
        y = simulate_ode(-one, one, one, 0.0, lambda t: 2 - 1j, times)
        true = (2 - 1j) * (1 - math.exp(-1))
        assert y[1].item() == pytest.approx(true, rel=1e-7)
        assert y.dtype == torch.complex128

    @every_kind
    def test_without_input_it_is_the_exponential(self, is_diagonal):
        A, _, _, _ = random_system(8, 3, is_diagonal=is_diagonal)
        h_0 = torch.tensor([1.0, -2.0, 0.5]).double()
        B, identity = torch.zeros(3, 2).double(), torch.eye(3).double()
        times = torch.tensor([1.0, 1.5, 4.0]).double()
        y = simulate_ode(
            A, B, identity, 0.0, lambda t: torch.zeros(2), times, h_0
        )
        dense = torch.diag(A) if is_diagonal else A
        for t, y_t in zip(times - 1, y, strict=True):
            true = scipy.linalg.expm((t * dense).numpy()) @ h_0.numpy()
            assert relative_error(y_t, true) <= 1e-12

    def test_ours_and_scipys_integrator(self):
        A, B, C, D = random_system(9, 4, io=(2, 3))
        times = torch.linspace(0, 5, 11).double()

        def x(t):
            return torch.stack([torch.sin(3 * t), torch.cos(t) ** 2])

        y = simulate_ode(A, B, C, D, x, times)
        solution = scipy.integrate.solve_ivp(
            lambda t, h: (
                A.numpy() @ h + B.numpy() @ x(torch.tensor(t)).numpy()
            ),
            (0, 5),
            np.zeros(4),
            "DOP853",
            times.numpy(),
            rtol=1e-13,
            atol=1e-15,
        )
        true = C.numpy() @ solution.y + D.numpy() @ x(times).numpy()
        assert relative_error(y, true.T) <= 1e-11  # that of SciPy


class TestKernel:
    @both
    @every_kind
    def test_powers(self, is_diagonal, is_complex):
        A, B, C, D = random_system(4, 3, is_complex, is_diagonal, io=(2, 3))
        A_bar, B_bar = discretized(A, B)
        K_bar = ssm_kernel(A_bar, B_bar, C, 8)
        assert K_bar.shape == (8, 3, 2)
        dense = torch.diag(A_bar) if is_diagonal else A_bar
        for k in range(8):
            power = torch.linalg.matrix_power(dense, k)
            assert relative_error(K_bar[k], C @ power @ B_bar) <= 1e-13
        response = impulse_response(A_bar, B_bar, C, D, 8)
        assert relative_error(response[0], K_bar[0] + D) <= 1e-15
        assert relative_error(response[1:], K_bar[1:]) <= 1e-13

    @both
    @every_kind
    def test_gradients(self, is_diagonal, is_complex):
        A, B, C, _ = random_system(5, 3, is_complex, is_diagonal)
        x = random_input(5, 6)
        leaves = [t.requires_grad_() for t in (*discretized(A, B), C, x)]
        leaves = [t.detach().requires_grad_() for t in leaves]

        def kernel(A_bar, B_bar, C, x):
            return ssm_kernel(A_bar, B_bar, C, 6)

        def convolved(A_bar, B_bar, C, x):
            return causal_convolution(kernel(A_bar, B_bar, C, x), x)

        def by_fft(A_bar, B_bar, C, x):
            return fft_convolution(kernel(A_bar, B_bar, C, x), x)

        def recurrent(A_bar, B_bar, C, x):
            return simulate_recurrence(A_bar, B_bar, C, 0.0, x)

        def scanned(A_bar, B_bar, C, x):
            return simulate_scan(A_bar, B_bar, C, 0.0, x)

        ways = [convolved, by_fft, recurrent, scanned]
        for way in (lambda *leaves: kernel(*leaves), *ways):
            assert gradcheck(way, leaves)
        # One loss, one gradient, whichever way forward went.
        gradients = [
            torch.autograd.grad(way(*leaves).abs().square().sum(), leaves)
            for way in ways
        ]
        for other in gradients[1:]:
            for ours, true in zip(other, gradients[0], strict=True):
                assert relative_error(ours, true) <= AGREEMENT

    def test_gradient_where_the_state_forgets_at_once(self):
        """A_bar = 0: the slope of A_bar^1 is 1 there, and not NaN."""
        A_bar = torch.zeros(1).double().requires_grad_()
        one = torch.ones(1).double()
        ssm_kernel(A_bar, one, one, 4).sum().backward()
        assert A_bar.grad.item() == 1

    def test_is_as_long_as_the_sequence(self):
        """E6: the last input still hears of the first, however faintly."""
        A_bar = torch.tensor([0.9]).double()
        one = torch.ones(1).double()
        K_bar = ssm_kernel(A_bar, one, one, 500)
        assert len(K_bar) == 500
        assert (K_bar > 0).all()
        assert K_bar[-1].item() == pytest.approx(0.9**499, rel=1e-12)


class TestConvolution:
    @pytest.mark.parametrize("convolve", [causal_convolution, fft_convolution])
    @pytest.mark.parametrize("k", [0, 3, 11])
    def test_no_future_input_alters_an_output(self, convolve, k):
        """S076, E7: padding on the left is what makes it causal."""
        K_bar, x = random_input(1, 12), random_input(2, 12)
        changed = x.clone()
        changed[k + 1 :] += 100
        before, after = convolve(K_bar, x), convolve(K_bar, changed)
        # The FFT spreads rounding of the large inputs over all outputs.
        tolerance = 0 if convolve is causal_convolution else 1e-12
        assert (after - before)[: k + 1].abs().max() <= tolerance
        if k < 11:
            assert (after - before)[k + 1].abs() > 1

    def test_zeros_at_the_end_alter_no_earlier_output(self):
        """E7: and zeros before the start only delay."""
        K_bar, x = random_input(1, 12), random_input(2, 12)
        zeros = torch.zeros(5).double()
        y = causal_convolution(K_bar, x)
        right = causal_convolution(K_bar, torch.cat([x, zeros]))
        left = causal_convolution(K_bar, torch.cat([zeros, x]))
        assert relative_error(right[:12], y) <= 1e-15
        assert relative_error(left[5:], y) <= 1e-15

    def test_zeros_at_the_end_do_alter_the_state_handed_on(self):
        """E7: it decays on, unless the step is 0 there."""
        A, B, _, _ = random_system(6, 3, is_diagonal=True)
        A_bar, B_bar = discretized(A, B)
        x = random_input(6, 10)
        padded = torch.cat([x, torch.zeros(4).double()])
        h = simulate_recurrence(A_bar, B_bar, torch.eye(3).double(), 0.0, x)
        late = simulate_recurrence(
            A_bar, B_bar, torch.eye(3).double(), 0.0, padded
        )
        assert relative_error(late[-1], h[-1] * A_bar**4) <= 1e-14
        assert relative_error(late[-1], h[-1]) > 0.1

    @examples
    @given(seed=seeds, length=st.integers(2, 20))
    def test_the_wrapped_fft_is_a_convolution_on_a_circle(self, seed, length):
        K_bar, x = random_input(seed, length), random_input(seed + 7, length)
        wrapped = wrapped_fft_convolution(K_bar, x)
        circle = scipy.linalg.circulant(K_bar.numpy()) @ x.numpy()
        assert np.abs(wrapped.numpy() - circle).max() <= 1e-13
        # Wrong wherever a lag reaches behind the start; right at the end.
        y = causal_convolution(K_bar, x)
        error = (wrapped - y).abs()
        assert error[-1] <= 1e-13
        assert error[:-1].max() > 1e-6

    def test_a_kernel_longer_than_the_input(self):
        K_bar, x = random_input(1, 9), random_input(2, 4)
        y = causal_convolution(K_bar[:4], x)
        for convolve in (causal_convolution, fft_convolution):
            assert relative_error(convolve(K_bar, x), y) <= 1e-14


class TestMatrices:
    @both
    @every_kind
    def test_time_varying(self, is_diagonal, is_complex):
        """S118: M is what a loop does, and has no stripes."""
        length, n = 9, 3
        generator = torch.Generator().manual_seed(1)
        draw = functools.partial(random, generator, is_complex=is_complex)
        A = 0.5 * draw(length, *((n,) if is_diagonal else (n, n)))
        B, C, D = draw(length, n), draw(length, n), draw(length)
        M = time_varying_matrix(A, B, C, D)
        x = draw(length)
        h, y = torch.zeros_like(B[0]), []
        for k in range(length):
            h = (A[k] * h if is_diagonal else A[k] @ h) + B[k] * x[k]
            y.append((C[k] * h).sum() + D[k] * x[k])
        assert relative_error(M @ x, torch.stack(y)) <= 1e-14
        assert torch.equal(M, M.tril())
        assert (M[1:, 1:] - M[:-1, :-1]).tril().abs().max() > 0.1
        # No kernel does it: the best one is still wrong.
        stripes = toeplitz_matrix(M[:, 0])
        assert relative_error(stripes @ x, M @ x) > 0.1

    @pytest.mark.parametrize("varying", ["A", "B", "C", "nothing"])
    def test_one_varying_matrix_breaks_the_stripes(self, varying):
        length = 8
        A_bar, B_bar, C, _ = random_system(3, 2, is_diagonal=True)
        A_bar = torch.exp(A_bar)
        every = {
            name: M.expand(length, 2).clone()
            for name, M in (("A", A_bar), ("B", B_bar), ("C", C))
        }
        if varying in every:
            every[varying] *= 1 + torch.arange(length).double()[:, None] / 9
        M = time_varying_matrix(*every.values())
        unevenness = (M[1:, 1:] - M[:-1, :-1]).abs().max().item()
        scale = M.abs().max().item()
        if varying == "nothing":
            assert unevenness <= 1e-15 * scale
            striped = toeplitz_matrix(ssm_kernel(A_bar, B_bar, C, length))
            assert relative_error(M, striped) <= 1e-14
        else:
            assert unevenness > 0.01 * scale

    def test_gradcheck(self):
        length, n = 4, 2
        generator = torch.Generator().manual_seed(2)
        leaves = [random(generator, length, n).requires_grad_() for _ in "ABC"]
        D = random(generator, length).requires_grad_()
        assert gradcheck(time_varying_matrix, (*leaves, D))

    def test_channels_side_by_side(self):
        """Under vmap, as hidden attention needs it."""
        generator = torch.Generator().manual_seed(3)
        A, B, C = (random(generator, 5, 6, 2) for _ in "ABC")
        together = torch.vmap(time_varying_matrix)(A, B, C)
        for c in range(5):
            alone = time_varying_matrix(A[c], B[c], C[c])
            assert relative_error(together[c], alone) <= 1e-15


class TestRealisations:
    """S032, E4."""

    def test_matrices_against_powers(self):
        A, B, C, _ = random_system(1, 4, io=(2, 3))
        power = np.linalg.matrix_power
        reached = np.hstack([power(A, k) @ B.numpy() for k in range(4)])
        shown = np.vstack([C.numpy() @ power(A, k) for k in range(4)])
        assert relative_error(controllability_matrix(A, B), reached) <= 1e-14
        assert relative_error(observability_matrix(A, C), shown) <= 1e-14

    @both
    def test_a_diagonal_is_a_matrix(self, is_complex):
        A, B, C, _ = random_system(2, 4, is_complex, is_diagonal=True)
        dense = torch.diag(A)
        for matrix, v in (
            (controllability_matrix, B),
            (observability_matrix, C),
        ):
            assert relative_error(matrix(A, v), matrix(dense, v)) <= 1e-14

    @examples
    @given(
        seed=seeds,
        n=st.integers(1, 5),
        unreached=st.integers(0, 2),
        hidden=st.integers(0, 2),
        is_complex=st.booleans(),
    )
    def test_ranks(self, seed, n, unreached, hidden, is_complex):
        """Modes that B or C leaves out, found in any basis."""
        generator = torch.Generator().manual_seed(seed)
        total = n + unreached + hidden
        rates = -0.2 - torch.arange(total).double() / total
        A = rates + 1j * rates**2 if is_complex else rates
        B, C = torch.ones_like(A), torch.ones_like(A)
        B[n : n + unreached] = 0
        C[n + unreached :] = 0
        # A basis of condition 1 to about 10.
        T = (
            torch.eye(total).double()
            + 0.3 * torch.linalg.qr(random(generator, total, total))[0]
        )
        A, B, C = change_basis(A, B, C, T.to(A.dtype))
        assert controllability_rank(A, B) == total - unreached
        assert observability_rank(A, C) == total - hidden
        assert is_minimal(A, B, C) == (unreached == hidden == 0)

    def test_equal_modes_cannot_be_told_apart(self):
        A, ones = -torch.ones(3).double(), torch.ones(3).double()
        assert controllability_rank(A, ones) == 1
        assert observability_rank(A, ones) == 1
        # Three inputs reach all three.
        assert controllability_rank(A, torch.eye(3).double()) == 3

    def test_no_dynamics_at_all(self):
        A, B = torch.zeros(2, 2).double(), torch.ones(2).double()
        assert controllability_rank(A, B) == 1
        assert controllability_rank(A, torch.zeros(2).double()) == 0

    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    def test_the_unit_of_time_does_not_matter(self, scale):
        A, B, C, _ = random_system(3, 6)
        assert is_minimal(scale * A, B, C)

    @examples
    @given(seed=seeds, n=st.integers(1, 5), is_complex=st.booleans())
    def test_another_basis_gives_the_same_output(self, seed, n, is_complex):
        generator = torch.Generator().manual_seed(seed)
        A, B, C, D = random_system(seed, n, is_complex)
        A_bar, B_bar = discretized(A, B)
        noise = random(generator, n, n, is_complex=is_complex)
        T = 2 * torch.eye(n, dtype=A.dtype) + torch.linalg.qr(noise)[0]
        x = random_input(seed, 20)
        y = simulate_recurrence(A_bar, B_bar, C, D, x)
        other = change_basis(A_bar, B_bar, C, T)
        assert relative_error(simulate_recurrence(*other, D, x), y) <= 1e-13
        assert relative_error(other[0], A_bar) > 1e-3 or n == 1
        # The eigenvalues too, by the polynomial whose roots they are: the
        # roots themselves lose digits where two are close.
        polynomials = [np.poly(M.numpy()) for M in (other[0], A_bar)]
        assert relative_error(*polynomials) <= 1e-12

    @both
    @every_kind
    def test_a_redundant_state(self, is_diagonal, is_complex):
        A, B, C, D = random_system(7, 3, is_complex, is_diagonal)
        w = torch.tensor([1.0, -2.0, 0.5]).double()
        A_2, B_2, C_2 = add_redundant_state(A, B, C, w)
        x = random_input(7, 15)
        y = simulate_held(A, B, C, D, x, 1.0)
        y_2 = simulate_held(A_2, B_2, C_2, D, x, 1.0)
        assert relative_error(y_2, y) <= AGREEMENT
        assert is_minimal(A, B, C)
        assert controllability_rank(A_2, B_2) == 3 < len(A_2)
        assert not is_minimal(A_2, B_2, C_2)
        # It is what it claims to be, the sum of the others, at all times.
        identity = torch.eye(4, dtype=A.dtype)
        h = simulate_held(A_2, B_2, identity, 0.0, x, 1.0)
        assert relative_error(h[:, 3], h[:, :3] @ w.to(h.dtype)) <= AGREEMENT

    def test_a_redundant_state_of_many_inputs_and_outputs(self):
        A, B, C, D = random_system(8, 3, io=(2, 2))
        A_2, B_2, C_2 = add_redundant_state(A, B, C, torch.ones(3).double())
        x = random_input(8, 6, 2)
        y = simulate_held(A, B, C, D, x, 1.0)
        y_2 = simulate_held(A_2, B_2, C_2, D, x, 1.0)
        assert relative_error(y_2, y) <= AGREEMENT


class TestSuperpositionAndShift:
    """S083."""

    @examples
    @given(
        seed=seeds, n=sizes, is_complex=st.booleans(), steps=st.integers(1, 9)
    )
    def test_of_an_lti_system(self, seed, n, is_complex, steps):
        A, B, C, D = random_system(seed, n, is_complex)
        A_bar, B_bar = discretized(A, B)
        x_1, x_2 = random_input(seed, 10), random_input(seed + 9, 10)
        for run in (
            lambda x: simulate_recurrence(A_bar, B_bar, C, D, x),
            lambda x: fft_convolution(
                impulse_response(A_bar, B_bar, C, D, 10), x
            ),
        ):
            assert superposition_error(run, x_1, x_2) <= 1e-12
            # Relative to the largest output, of which a late one is a part.
            assert shift_error(run, x_1, steps) <= 1e-12

    def test_skip_alone(self):
        """S056: y(D) - y(0) = D x."""
        A, B, C, _ = random_system(3, 4)
        A_bar, B_bar = discretized(A, B)
        x = random_input(3, 10)
        with_skip = simulate_recurrence(A_bar, B_bar, C, 0.5, x)
        without = simulate_recurrence(A_bar, B_bar, C, 0.0, x)
        assert relative_error(with_skip - without, 0.5 * x) <= 1e-14

    def test_what_is_not_linear(self):
        x_1, x_2 = random_input(1, 10), random_input(2, 10)
        assert superposition_error(torch.tanh, x_1, x_2) > 0.1
        assert shift_error(torch.tanh, x_1, 3) == 0

    def test_what_varies_in_time(self):
        x_1, x_2 = random_input(1, 10), random_input(2, 10)
        M = time_varying_matrix(
            *(0.8 * random_input(seed, 10, 2) for seed in (1, 2, 3))
        )
        assert superposition_error(lambda x: M @ x, x_1, x_2) <= 1e-14
        assert shift_error(lambda x: M @ x, x_1, 3) > 0.1

    def test_the_matrix_is_not_updated(self):
        """S054, E5: a run leaves its system as it was."""
        A, B, C, D = random_system(3, 4)
        before = [t.clone() for t in (A, B, C, D)]
        x = random_input(3, 10)
        for run in (simulate_recurrence, simulate_scan):
            run(A, B, C, D, x)
        simulate_held(A, B, C, D, x, 0.1)
        assert all(map(torch.equal, (A, B, C, D), before))


ONE = torch.ones(1).double()
TWO = torch.ones(2).double()


@pytest.mark.usefixtures("outside_tests")
class TestRefusals:
    @pytest.mark.parametrize(
        "run",
        [
            simulate_recurrence,
            simulate_scan,
            functools.partial(simulate_held, delta=0.1),
        ],
    )
    @pytest.mark.parametrize(
        ("system", "x", "words"),
        [
            ((torch.ones(2, 3), TWO, TWO, 0.0), TWO, r"A .* got \(2, 3\)"),
            ((TWO, ONE, TWO, 0.0), TWO, r"B .*\(2, d_in\); got \(1,\)"),
            ((TWO, TWO, ONE, 0.0), TWO, r"C .*\(d_out, 2\); got \(1,\)"),
            ((TWO, TWO, TWO, TWO), TWO, r"D .*\(1, 1\), or be 0; got \(2,\)"),
            (
                (TWO, torch.ones(2, 3), TWO, 1.0),
                torch.ones(4, 3),
                r"D .*\(1, 3\), or be 0; got \(\)",
            ),
            ((TWO, TWO, TWO, 0.0), torch.ones(3, 1), r"x .*\(length,\), l"),
            ((TWO, TWO, TWO, 0.0), torch.ones(0), r"length > 0; got \(0,\)"),
            (
                (TWO, torch.ones(2, 3), TWO, 0.0),
                torch.ones(4, 2),
                r"x .*\(length, 3\), length > 0; got \(4, 2\)",
            ),
            ((TWO, TWO, TWO, 0.0), TWO * math.nan, "x must be finite"),
        ],
    )
    def test_systems(self, run, system, x, words):
        with pytest.raises(ValueError, match=words):
            run(*system, x)

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (
                lambda: simulate_recurrence(TWO, TWO, TWO, 0.0, ONE, ONE),
                r"initial_state .*\(2,\); got \(1,\)",
            ),
            (lambda: simulate_held(TWO, TWO, TWO, 0.0, ONE, 0.0), "delta"),
            (lambda: ssm_kernel(TWO, TWO, TWO, 0), "length .* got 0"),
            (
                lambda: impulse_response(TWO, TWO, TWO, 0.0, -2),
                "length .* got -2",
            ),
            (
                lambda: causal_convolution(torch.ones(3, 2), TWO),
                r"K_bar .* got \(3, 2\)",
            ),
            (
                lambda: fft_convolution(torch.ones(3, 2, 2), TWO),
                r"x .*\(length, 2\), length > 0; got \(2,\)",
            ),
            (
                lambda: toeplitz_matrix(torch.ones(2, 2)),
                r"K_bar .* got \(2, 2\)",
            ),
            (
                lambda: time_varying_matrix(
                    torch.ones(3, 2), torch.ones(3, 2), torch.ones(2, 2)
                ),
                r"C .*\(3, 2\); got \(2, 2\)",
            ),
            (
                lambda: change_basis(TWO, TWO, TWO, torch.eye(3)),
                r"T .*\(2, 2\); got \(3, 3\)",
            ),
            (
                lambda: add_redundant_state(TWO, TWO, TWO, ONE),
                r"weights .*\(2,\); got \(1,\)",
            ),
            (
                lambda: shift_error(torch.neg, TWO, 2),
                "steps must be from 1 to 1, as x has 2; got 2",
            ),
        ],
    )
    def test_others(self, call, words):
        with pytest.raises(ValueError, match=words):
            call()

    def test_a_basis_that_has_none(self):
        with pytest.raises(torch.linalg.LinAlgError):
            change_basis(TWO, TWO, TWO, torch.zeros(2, 2))
