r"""Recall: what of its past input a state can still tell, and how well.

A linear state is a sum of past inputs, h = sum over lags j of K_j x_{now - j}.
Whatever A and B are, its kernels K say what it holds, and the best linear
decoder of that has a closed form once the input is known: here a Gaussian
one, smooth over ``correlation`` steps. So LegS, LegT, S4D and a random matrix
are compared by one measure, whether or not they have a basis to be read in.

See: the chapter ``hippo``.
"""

import math

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from mambaviz.theory.checks import (
    expect_floating,
    expect_positive,
    expect_whole,
)
from mambaviz.theory.discretize import linear_recurrence


def random_transition(
    d_state: int,
    spectral_radius: int | float,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
) -> tuple[Float[Tensor, "d_state d_state"], Float[Tensor, " d_state"]]:
    """A memory that nobody designed: what HiPPO is compared with.

        A_bar = rho G / rho(G),   B_bar = g,   G and g standard normal

    Args:
        d_state: N, how many numbers the state holds.
        spectral_radius: rho, the size of the largest eigenvalue, positive;
            below 1 the memory forgets.
        generator: the source of G, then g.
        dtype: of the result.

    Returns:
        A_bar and B_bar, discrete from the start.

    Raises:
        TypeError: d_state is no int, or dtype is not floating-point.
        ValueError: d_state < 1, or a radius that is not positive and finite.
    """
    expect_whole(1, d_state=d_state)
    expect_positive(spectral_radius=spectral_radius)
    expect_floating(dtype)
    n = d_state
    G = torch.randn(n, n, generator=generator, dtype=torch.float64)
    g = torch.randn(n, generator=generator, dtype=torch.float64)
    A_bar = spectral_radius / torch.linalg.eigvals(G).abs().max() * G
    return A_bar.to(dtype), g.to(dtype)


def state_kernels(
    A_bar: Inexact[Tensor, "d_state d_state"] | Inexact[Tensor, " d_state"],
    B_bar: Inexact[Tensor, " d_state"],
    length: int,
) -> Float[Tensor, "n_real length"]:
    """What each number of the state holds of each past input.

        h = sum over lags j of (A_bar^j B_bar) x_{now - j}

    Args:
        A_bar: a matrix, or the diagonal of one.
        B_bar: input weights.
        length: how many lags.

    Returns:
        Column j is A_bar^j B_bar. A complex state is two real numbers: the
        real parts come first, then the imaginary ones.

    Raises:
        TypeError, ValueError: length is no int, or below 1; A_bar and B_bar
            as in ``linear_recurrence``.
    """
    expect_whole(1, length=length)
    impulse = torch.zeros(length, dtype=B_bar.dtype, device=B_bar.device)
    impulse[0] = 1
    kernels = linear_recurrence(A_bar, B_bar, impulse).mT
    if kernels.is_complex():
        return torch.cat([kernels.real, kernels.imag])
    return kernels


def error_by_age(
    reading: Float[Tensor, "*batch length"],
    x: Float[Tensor, "*batch length"],
    n_bins: int = 5,
) -> Float[Tensor, "*batch n_bins"]:
    """How wrong a reading of the past is, from the oldest part to the newest.

        error_b = rms over bin b of (reading - x)  /  rms over all of x

    Args:
        reading: what was read back.
        x: what was, oldest first.
        n_bins: into how many parts to cut it; 5 makes fifths.

    Returns:
        0 is perfect; 1 is what reading 0 everywhere gives, on average.

    Raises:
        TypeError: n_bins is no int.
        ValueError: n_bins < 1, or fewer inputs than bins.
    """
    expect_whole(1, n_bins=n_bins)
    if x.shape[-1] < n_bins:
        raise ValueError(
            f"x must have at least n_bins = {n_bins} inputs; got {x.shape[-1]}"
        )
    square = torch.tensor_split((reading - x) ** 2, n_bins, dim=-1)
    bins = torch.stack([part.mean(dim=-1) for part in square], dim=-1)
    return torch.sqrt(bins / (x**2).mean(dim=-1, keepdim=True))


def smooth_covariance(
    length: int, correlation: int | float, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "length length"]:
    """A smooth random input: how alike two of its values are.

        covariance_jk = exp(-(j - k)^2 / (2 correlation^2))

    Args:
        length: how many inputs.
        correlation: within how many steps the input hardly changes; positive.
        dtype: of the result.

    Returns:
        The covariance; every input has mean 0 and variance 1.

    Raises:
        TypeError: length is no int, or dtype is not floating-point.
        ValueError: length < 1, or a correlation that is not positive and
            finite.
    """
    expect_whole(1, length=length)
    expect_positive(correlation=correlation)
    expect_floating(dtype)
    k = torch.arange(length, dtype=dtype)
    return torch.exp(-((k[:, None] - k) ** 2) / (2 * correlation**2))


def smooth_signals(
    n_signals: int,
    length: int,
    correlation: int | float,
    generator: torch.Generator,
) -> Float[Tensor, "n_signals length"]:
    """Gaussian random inputs with the covariance of ``smooth_covariance``.

    Args:
        n_signals: how many, independent.
        length: of each.
        correlation: as in ``smooth_covariance``.
        generator: their source.

    Returns:
        The signals, float64, one in each row.

    Raises:
        TypeError, ValueError: as ``smooth_covariance``; n_signals is no int,
            or below 1.
    """
    expect_whole(1, n_signals=n_signals)
    root = _root(smooth_covariance(length, correlation))
    noise = torch.randn(
        n_signals, length, generator=generator, dtype=root.dtype
    )
    return noise @ root.mT


def optimal_decoder(
    kernels: Float[Tensor, "*batch n_real length"],
    covariance: Float[Tensor, "length length"],
    precision: float = 1e-4,
) -> Float[Tensor, "*batch length n_real"]:
    """The best linear reading of the past from a state, in closed form.

        W = S K^T (K S K^T + precision^2 diag(K S K^T))^-1

    with K the kernels and S the covariance of the input: the mean of a
    Gaussian process given the state. Each number of the state is read with an
    error of ``precision`` times its own rms. That term is not a convenience:
    LegS and S4D-Real have the same eigenvalues, so the state of one is a
    matrix times the state of the other, and read without error both know the
    same. What differs is the digits that it takes.

    Args:
        kernels: K, as ``state_kernels`` gives them; column j for lag j. Of
            several memories, all at once.
        covariance: S, over lags.
        precision: relative error of a stored number, from 1e-12 up. Rounding
            makes one of 1.7e-3 in bfloat16, 2e-4 in float16 and 2.5e-8 in
            float32 (rms). Below 1e-2, K and S must be float64.

    Returns:
        W; row j reads the input of j steps ago: W @ h.

    Raises:
        ValueError: a precision below 1e-12, where float64 gives out, or one
            that is not finite.
    """
    G, Q, R, scale = _decoding(kernels, covariance, precision)
    explained = Q[..., : len(G), :].mT @ G.mT  # n_real length
    W = torch.linalg.solve_triangular(R, explained, upper=True).mT
    return W / scale.mT


def decoder_error(
    kernels: Float[Tensor, "*batch n_real length"],
    covariance: Float[Tensor, "length length"],
    precision: float = 1e-4,
) -> Float[Tensor, "*batch length"]:
    """How wrong the best linear reading of the past is, for each lag.

        error_j = sqrt(E (x_j - (W h)_j)^2 / E x_j^2)

    over all inputs with this covariance and all errors of reading: an
    expectation in closed form, without a single sample.

    Arguments and errors: as in ``optimal_decoder``.

    Returns:
        One error a lag: 0 if the state knows it, 1 if it knows nothing.

    Example:
        >>> from mambaviz.theory import discretize_dense, hippo_legs
        >>> A_bar, B_bar = discretize_dense(*hippo_legs(32), 2 / 400)
        >>> kernels = state_kernels(A_bar, B_bar, 400)
        >>> error = decoder_error(kernels, smooth_covariance(400, 15))
        >>> print(f"{error[50]:.3f} {error[300]:.3f}")
        0.001 0.259
    """
    G, Q, _, _ = _decoding(kernels, covariance, precision)
    # As a residual: 1 - |explained|^2 would lose half the digits.
    target = torch.cat([G.mT, G.new_zeros(Q.shape[-1], len(G))])
    residual = target - Q @ (Q.mT @ target)
    return torch.linalg.vector_norm(residual, dim=-2) / torch.sqrt(
        covariance.diagonal()
    )


def _decoding(
    kernels: Tensor, covariance: Tensor, precision: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """S = G G^T; Q R = [(K G)^T scaled to unit columns; precision I]."""
    if not 1e-12 <= precision < math.inf:
        raise ValueError(
            f"precision must be at least 1e-12 and finite; got {precision}"
        )
    G = _root(covariance)
    state = kernels @ G  # n_real length
    scale = torch.linalg.vector_norm(state, dim=-1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1)  # a state that is always 0
    I = torch.eye(state.shape[-2], dtype=state.dtype, device=state.device)
    noise = (precision * I).expand(*state.shape[:-2], -1, -1)
    Q, R = torch.linalg.qr(torch.cat([(state / scale).mT, noise], dim=-2))
    return G, Q, R, scale


def _root(covariance: Tensor) -> Tensor:
    """G with G G^T = covariance, which rounding may leave indefinite."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * torch.sqrt(values.clamp_min(0))
