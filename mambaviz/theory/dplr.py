r"""S4 and S4D: the HiPPO matrix made cheap, then replaced by its diagonal.

The LegS matrix has no usable eigenvectors, but it is one rank away from a
matrix that has perfect ones. S4 keeps the rank, S4D drops it:

    LegS    A = V (Lambda - P P^*) V^*     V unitary, Lambda diagonal
    S4      diagonal plus low rank: Lambda - P P^*, learned from there
    S4D     diagonal: Lambda alone, from LegS or from a formula

V only changes the basis of the state, so a model never needs it. Real systems
come as conjugate pairs, and only one state of each pair is stored: it stands
for itself and its conjugate, so the output is y = 2 Re(C h).

The S4 paper has Lambda - P Q^* and reads C^* h. Here Q = P, as for the HiPPO
matrices; a system with Re Lambda < 0 then stays stable whatever P learns. And
here the output is C h, without a conjugate.

See: the chapter ``hippo``.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float, Inexact
from torch import Tensor
from torch.linalg import matrix_power

from mambaviz.theory.checks import expect_whole
from mambaviz.theory.discretize import DISCRETIZATION_RULES
from mambaviz.theory.hippo import hippo_legs, hippo_legt

Step = Float[Tensor, "*#channels"] | int | float
Diagonal = Inexact[Tensor, "*#channels n"]
Pairs = Complex[Tensor, "*#channels n_pairs"]
LowRank = Complex[Tensor, "*#channels n_pairs rank"]


class DPLR(NamedTuple):
    """A = V (diag(Lambda) - P P^*) V^* and V^* B, by their parts.

    Attributes:
        Lambda: the diagonal.
        P: the low-rank part, one column a rank.
        B: input weights in the basis of V.
        V: the basis, one column a state.
    """

    Lambda: Complex[Tensor, " n"]
    P: Complex[Tensor, "n rank"]
    B: Complex[Tensor, " n"]
    V: Complex[Tensor, "d_state n"]


def dplr_legs(d_state: int) -> DPLR:
    """LegS as a diagonal plus one rank.

        P_n = sqrt(n + 1/2)
        (A + P P^T)_nk = -1/2                            if n = k
                         -sqrt(n + 1/2) sqrt(k + 1/2)    if n > k
                         +sqrt(n + 1/2) sqrt(k + 1/2)    if n < k

    which is -1/2 and a skew-symmetric matrix S. So -i S is Hermitian, and its
    eigenvectors are unitary to the last digit, at any N: the stable way round
    the eigenvectors of A itself.

    An eigenvector is free up to its phase; it is taken such that V^* B is real
    and positive, so that results do not depend on the machine.

    Args:
        d_state: N. If even, the states pair up: see ``conjugate_half``.

    Returns:
        Lambda = -1/2 + i omega with omega ascending, P of one column, B, V;
        complex128. Work O(N^3), once.

    Raises:
        TypeError, ValueError: d_state is no int, or below 1.

    Source: Gu et al. 2022 (arXiv 2111.00396), theorem 1 and appendix C.1.

    Example:
        >>> Lambda, P, B, V = dplr_legs(8)
        >>> A = V @ (torch.diag(Lambda) - P @ P.mH) @ V.mH
        >>> torch.allclose(A.real, hippo_legs(8)[0])
        True
    """
    A, B = hippo_legs(d_state)
    return _diagonalize(A, B, (B / math.sqrt(2))[:, None], -0.5)


def dplr_legt(d_state: int, window: int | float = 1.0) -> DPLR:
    """LegT as a diagonal plus two ranks.

        P_n0 = sqrt(2n+1) / sqrt(theta) for even n, else 0
        P_n1 = sqrt(2n+1) / sqrt(theta) for odd n, else 0

    P P^T fills n - k even, where A is symmetric; what is left is skew. The
    real part of Lambda is 0: without its low rank, LegT does not decay.

    Args:
        d_state: N.
        window: theta, as in ``hippo_legt``.

    Returns:
        As ``dplr_legs``, with P of two columns.

    Raises:
        TypeError: d_state is no int.
        ValueError: d_state < 1, or a window that is not positive.

    Source: Gu et al. 2022 (arXiv 2111.00396), theorem 1 and appendix C.1.
    """
    A, B = hippo_legt(d_state, window)
    even = torch.arange(d_state) % 2 == 0
    P = torch.stack([B * even, B * ~even], dim=1) * math.sqrt(window)
    return _diagonalize(A, B, P, 0.0)


def conjugate_half(system: DPLR) -> DPLR:
    """One state of each conjugate pair, that with the positive frequency.

    Args:
        system: all N states, N even.

    Returns:
        Those N / 2 with Im Lambda > 0, in ascending order.

    Raises:
        ValueError: an odd number of states: one has no partner.

    Example:
        >>> conjugate_half(dplr_legs(64)).Lambda.shape
        torch.Size([32])
    """
    Lambda, P, B, V = system
    n = len(Lambda)
    if n % 2:
        raise ValueError(f"d_state must be even to pair up; got {n}")
    half = slice(n // 2, None)
    return DPLR(Lambda[half], P[half], B[half], V[:, half])


def dplr_discretize(
    Lambda: Pairs, P: LowRank, B: Pairs, delta: Step
) -> tuple[
    Complex[Tensor, "*channels d_state d_state"],
    Complex[Tensor, "*channels d_state"],
]:
    """S4 as a recurrence: the bilinear rule, on the whole state.

        A     = diag(Lambda, conj Lambda) - [P; conj P] [P; conj P]^*
        A_bar = (I - delta A / 2)^-1 (I + delta A / 2)
        B_bar = (I - delta A / 2)^-1 delta [B; conj B]

    The low rank mixes a state with the conjugates of the others, so the
    recurrence runs on [h; conj h]. Its first half is h.

    Args:
        Lambda: one of each conjugate pair, Re Lambda < 0 for a stable system.
        P: low rank, one column a rank.
        B: input weights.
        delta: step, positive; one for each channel, or one.

    Returns:
        A_bar and B_bar of d_state = 2 n_pairs; the output is 2 Re(C h) with h
        the first half. Work O(N^3) once, then O(N^2) a step; by Woodbury a
        step takes O(N).

    Raises:
        ValueError: a delta that is not positive and finite.

    Source: Gu et al. 2022 (arXiv 2111.00396), eq. 3 and theorem 2.
    """
    delta = _step(delta, Lambda)[..., None]
    P, A = _both(P, -2), torch.diag_embed(_both(Lambda))
    half_A = delta[..., None] / 2 * (A - P @ P.mH)
    delta_B = (delta * _both(B))[..., None]
    I = torch.eye(half_A.shape[-1], dtype=A.dtype, device=A.device)
    A_bar = torch.linalg.solve(I - half_A, I + half_A)
    B_bar = torch.linalg.solve(I - half_A, delta_B)
    return A_bar, B_bar.squeeze(-1)


def dplr_kernel(
    Lambda: Pairs, P: LowRank, B: Pairs, C: Pairs, delta: Step, length: int
) -> Float[Tensor, "*channels length"]:
    """The kernel of S4, without a power of a matrix for each step.

        K_bar_l  = C A_bar^l B_bar                      for l = 0 .. L - 1
        K_hat(z) = sum over l of K_bar_l z^l            at z = e^(-i theta)
                 = C_tilde (I - z A_bar)^-1 B_bar,      as z^L = 1
        C_tilde  = C (I - A_bar^L)

    A sum of powers has become one inverse at each of L angles theta, and an
    inverse FFT returns from K_hat to K_bar. With the bilinear rule the inverse
    is one of A itself:

        K_hat(z) = e^(i theta/2) C_tilde M^-1 B
        M        = (2i / delta) sin(theta/2) - cos(theta/2) A

    In this form nothing is infinite at z = -1, where the paper's factor
    2 / (1 + z) is. M is diagonal plus low rank, so Woodbury inverts it with
    R = ((2i / delta) sin - cos Lambda)^-1, a Cauchy matrix, and c = cos:

        M^-1 = R - c R P (I + c P^* R P)^-1 P^* R

    All products are over both halves of the pairs, so K_bar is real and half
    of the angles are enough.

    Args:
        Lambda, P, B: as in ``dplr_discretize``.
        C: output weights.
        delta: step, positive; one for each channel, or one.
        length: L, at least 1; odd or even.

    Returns:
        K_bar, with y = 2 Re(C h). Differentiable in all of the arguments.
        Work O(N^3 log L) for C_tilde, O(L N) for the Cauchy products
        and O(L log L) for the FFT; memory O(L N), since the Cauchy matrix is
        built. A fused kernel needs O(L + N). Powers, one by one, would take
        O(L N^2).

    Raises:
        TypeError: length is no int.
        ValueError: length < 1, or a delta that is not positive and finite.

    Source: Gu et al. 2022 (arXiv 2111.00396), algorithm 1, lemmas C.2 to C.4.
    There C_tilde is the learned parameter; here C is, and C_tilde is exact
    for every length.

    Example:
        >>> Lambda, P, B, _ = conjugate_half(dplr_legs(4))
        >>> K_bar = dplr_kernel(Lambda, P, B, torch.ones_like(B), 0.1, 5)
        >>> A_bar, B_bar = dplr_discretize(Lambda, P, B, 0.1)
        >>> torch.allclose(K_bar[0], B_bar.sum().real)
        True
    """
    expect_whole(1, length=length)
    A_bar, _ = dplr_discretize(Lambda, P, B, delta)
    Lambda, P, B, C = _both(Lambda), _both(P, -2), _both(B), _both(C)
    C_tilde = C - (C[..., None, :] @ matrix_power(A_bar, length)).squeeze(-2)

    delta = _step(delta, Lambda)[..., None, None]
    k = torch.arange(length // 2 + 1, dtype=delta.dtype, device=delta.device)
    half_theta = math.pi / length * k[:, None]  # angles 1
    sin, cos = torch.sin(half_theta), torch.cos(half_theta)
    R = 1 / (2j * sin / delta - cos * Lambda[..., None, :])

    # C_tilde R B, C_tilde R P, P^* R B and P^* R P at all angles at once: R is
    # diagonal, so each is R times the products of left and right.
    shape = torch.broadcast_shapes(C_tilde.shape, B.shape, P.shape[:-1])
    P = P.expand(*shape, -1)
    left = torch.cat([C_tilde.expand(shape)[..., None], P.conj()], dim=-1)
    right = torch.cat([B.expand(shape)[..., None], P], dim=-1)
    both = (left[..., None] * right[..., None, :]).flatten(-2)
    products = (R @ both).unflatten(-1, (left.shape[-1], right.shape[-1]))
    CRB, CRP = products[..., :1, :1], products[..., :1, 1:]
    PRB, PRP = products[..., 1:, :1], products[..., 1:, 1:]
    I = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    c = cos[..., None]
    K_hat = CRB - c * CRP @ torch.linalg.solve(I + c * PRP, PRB)
    turn = torch.polar(torch.ones_like(half_theta), half_theta)
    K_hat = turn * K_hat.squeeze(-1)  # channels angles 1
    return torch.fft.irfft(K_hat.squeeze(-1), n=length)


def s4d_lin(d_state: int) -> Complex[Tensor, " n_pairs"]:
    """S4D-Lin: a Fourier series that fades.

        Lambda_n = -1/2 + i pi n      for n = 0 .. N/2 - 1

    Args:
        d_state: N, the size of the real state; even.

    Returns:
        One of each conjugate pair, complex128.

    Raises:
        TypeError: d_state is no int.
        ValueError: d_state odd or below 2.

    Source: Gu et al. 2022 (arXiv 2206.11893), section 4 (S4D-Lin). The Mamba
    paper (table 8) writes -1/2 + i n, without pi.

    Example:
        >>> s4d_lin(4).imag
        tensor([0.0000, 3.1416], dtype=torch.float64)
    """
    n = _pairs(d_state)
    return torch.complex(torch.full_like(n, -0.5), math.pi * n)


def s4d_inv(d_state: int) -> Complex[Tensor, " n_pairs"]:
    """S4D-Inv: close to the frequencies of LegS, by a formula.

        Lambda_n = -1/2 + i (N / pi) (N / (2n+1) - 1)

    Arguments and errors: as ``s4d_lin``.

    Source: Gu et al. 2022 (arXiv 2206.11893), section 4 (S4D-Inv).
    """
    n = _pairs(d_state)
    omega = d_state / math.pi * (d_state / (2 * n + 1) - 1)
    return torch.complex(torch.full_like(n, -0.5), omega)


def s4d_legs(d_state: int) -> Complex[Tensor, " n_pairs"]:
    """S4D-LegS: LegS without its low rank.

        Lambda of A + P P^T = V diag(Lambda) V^*

    Arguments and errors: as ``s4d_lin``.

    Source: Gu et al. 2022 (arXiv 2206.11893), section 4 (S4D-LegS).
    """
    _pairs(d_state)
    return conjugate_half(dplr_legs(d_state)).Lambda


def s4d_real(d_state: int) -> Float[Tensor, " d_state"]:
    """S4D-Real: the eigenvalues of LegS, and Mamba's A.

        Lambda_n = -(n+1)             for n = 0 .. N - 1

    Not the matrix of LegS: the same eigenvalues on perpendicular eigenvectors.

    Args:
        d_state: N.

    Returns:
        The diagonal, float64; each state stands for itself alone.

    Raises:
        TypeError, ValueError: d_state is no int, or below 1.

    Source: Gu and Dao 2023 (arXiv 2312.00752), section 3.6.
    """
    expect_whole(1, d_state=d_state)
    return -torch.arange(1, d_state + 1, dtype=torch.float64)


def s4d_kernel(
    Lambda: Diagonal,
    B: Diagonal,
    C: Diagonal,
    delta: Step,
    length: int,
    rule: str = "zoh",
) -> Float[Tensor, "*channels length"]:
    """The kernel of S4D: powers of numbers.

        K_bar_l = 2 Re sum over n of C_n B_bar_n A_bar_n^l    if complex
        K_bar_l =      sum over n of C_n B_bar_n A_bar_n^l    if real

    a product of the row (C B_bar) with the Vandermonde matrix of A_bar. The 2
    and the real part are the conjugate of each state, which is not stored; a
    pair with Im Lambda = 0, as the first of S4D-Lin, counts twice.

    Args:
        Lambda: the diagonal of A: one of each pair if complex.
        B: input weights, of the dtype of Lambda.
        C: output weights, of the dtype of Lambda.
        delta: step, positive; one for each channel, or one.
        length: L, at least 1.
        rule: a key of ``DISCRETIZATION_RULES``.

    Returns:
        K_bar. Differentiable in all of the arguments. Work O(N L); memory
        O(N L), since the Vandermonde matrix is built. A fused kernel needs
        O(N + L).

    Raises:
        TypeError: length is no int; as ``discretize_zoh``.
        ValueError: length < 1, unknown rule; as ``discretize_zoh``.

    Source: Gu et al. 2022 (arXiv 2206.11893), section 3 (the kernel as a
    Vandermonde product).

    Example:
        >>> Lambda = s4d_real(1)
        >>> s4d_kernel(Lambda, -Lambda, -Lambda, math.log(2), 3)
        tensor([0.5000, 0.2500, 0.1250], dtype=torch.float64)
    """
    expect_whole(1, length=length)
    if rule not in DISCRETIZATION_RULES:
        rules = ", ".join(DISCRETIZATION_RULES)
        raise ValueError(f"rule must be one of {rules}; got {rule!r}")
    delta = _step(delta, Lambda)[..., None]
    A_bar, B_bar = DISCRETIZATION_RULES[rule](Lambda, B, delta)
    vandermonde = _powers(A_bar, length)  # channels n length
    K_bar = torch.einsum("...n,...nl->...l", C * B_bar, vandermonde)
    return 2 * K_bar.real if K_bar.is_complex() else K_bar


def _diagonalize(A: Tensor, B: Tensor, P: Tensor, shift: float) -> DPLR:
    """The parts of A, where A + P P^T is ``shift`` plus a skew matrix."""
    normal = A + P @ P.mT
    skew = (normal - normal.mT) / 2
    omega, V = torch.linalg.eigh(-1j * skew)
    V_B = V.mH @ B.to(V)
    V = V * (V_B / V_B.abs())
    Lambda = torch.complex(torch.full_like(omega, shift), omega)
    return DPLR(Lambda, V.mH @ P.to(V), V.mH @ B.to(V), V)


def _powers(a: Tensor, length: int) -> Tensor:
    """1, a, a^2 ...: twice as many at each turn, so rounding hardly adds up.

    Unlike a ** l, it is right at a complex 0, and so is its derivative.
    """
    powers, square = torch.ones_like(a)[..., None], a[..., None]
    while powers.shape[-1] < length:
        powers = torch.cat([powers, powers * square], dim=-1)
        square = square * square
    return powers[..., :length]


def _both(t: Tensor, dim: int = -1) -> Tensor:
    """Both of each pair: first all stored states, then their conjugates."""
    return torch.cat([t, t.conj()], dim=dim)


def _step(delta: Tensor | float, like: Tensor) -> Tensor:
    """delta in the precision and on the device of ``like``."""
    real = like.dtype.to_real()
    delta = torch.as_tensor(delta, dtype=real, device=like.device)
    bad = ~((delta > 0) & torch.isfinite(delta))
    if bad.any():
        raise ValueError(
            f"delta must be positive and finite; got {delta[bad][0]:g}"
        )
    return delta


def _pairs(d_state: int) -> Tensor:
    """n = 0 to N/2 - 1, of an even N."""
    expect_whole(0, d_state=d_state)
    if d_state < 2 or d_state % 2:
        raise ValueError(f"d_state must be even and at least 2; got {d_state}")
    return torch.arange(d_state // 2, dtype=torch.float64)
