r"""HiPPO: a state that is a projection of everything heard so far.

Fold the past onto [0, 1], with r = 1 now and r = 0 the oldest moment, and keep
N coefficients of it in an orthonormal basis:

    h_n(t) = integral over 0..1 of phi_n(r) x(time at r) dr
    phi_n(r) = sqrt(2n + 1) P_n(2r - 1)        P_n: Legendre polynomial

How the past is folded decides what is remembered, and is all that tells the
three memories apart. With age a = t - time:

    memory                  r            weight of age a    horizon
    LegS, scaled            1 - a/t      1/t up to t        t, all of the past
    LegT (the LMU)          1 - a/theta  1/theta            the window theta
    LegS, time-invariant    e^(-a/tau)   e^(-a/tau) / tau   time constant tau

The first two have the measure ``uniform``, the last ``exponential``. The same
matrix A makes the first and the last: h' = (A h + B x) / t forgets nothing,
h' = (A h + B x) / tau forgets exponentially.

The matrix of LegS is never diagonalised here: its eigenvectors have a
condition number of 8e4 at N = 8 and 1e23 at N = 32
(``legs_eigenvector_condition``). It is discretised as a matrix.

See: the chapter ``hippo``.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from mambaviz.theory.checks import (
    expect_floating,
    expect_positive,
    expect_whole,
)
from mambaviz.theory.discretize import discretize_dense

Time = int | float
Measure = Literal["uniform", "exponential"]
ScaledRule = Literal["zoh", "bilinear", "backward_euler", "euler"]
System = tuple[Float[Tensor, "d_state d_state"], Float[Tensor, " d_state"]]
Signal = Callable[[Float[Tensor, " n_times"]], Float[Tensor, " n_times"]]

# ``project_signal`` integrates panel by panel, each by this many Gauss points.
PANELS = 64
POINTS = 16
# Steps whose matrices are built together: 256 of 64 by 64 are 8 MB.
BLOCK = 256
# Beyond it, the condition of the eigenvectors of LegS leaves float64 (at 406).
MOST_EIGENVECTORS = 400


def hippo_legs(
    d_state: int, sign: int = -1, dtype: torch.dtype = torch.float64
) -> System:
    """LegS: the polynomial that fits all of the past, equally well.

        A_nk = -sqrt(2n+1) sqrt(2k+1)  if n > k
               -(n+1)                  if n = k
               0                       if n < k
        B_n  = sqrt(2n+1)

    Derivation. In h_n(t) = integral of phi_n(r) x(t r) dr, time only stretches
    the past: t d/dt x(t r) = r d/dr x(t r). By parts, with phi_n(1) = B_n,

        t h_n' = B_n x(t) - integral of (r phi_n)' x(t r) dr
        (r phi_n)' = (n+1) phi_n + sum over k < n of B_n B_k phi_k

    which is t h' = A h + B x. The matrix is triangular, so its eigenvalues are
    its diagonal, -1 to -N.

    Used time-invariantly, h' = A h + B x, the same matrix projects the past
    onto exponentially warped polynomials: h_n(t) is the integral of
    e^-a phi_n(e^-a) x(t - a) over all ages a. For a time constant tau,
    discretise with the step delta / tau.

    Args:
        d_state: N, how many coefficients.
        sign: -1. With +1, which some texts print, every eigenvalue is positive
            and the state explodes (``power_norms``).
        dtype: of the result.

    Returns:
        A and B.

    Raises:
        TypeError: d_state is no int, or dtype is not floating-point.
        ValueError: d_state < 1, or a sign that is neither -1 nor 1.

    Source: Gu et al. 2020 (arXiv 2008.07669), theorem 2, there with A for our
    -A; Gu et al. 2022 (arXiv 2111.00396), eq. 2. Time-invariant use: Gu et
    al. 2022 (arXiv 2206.12037).

    Example:
        >>> hippo_legs(3)[0].diagonal()
        tensor([-1., -2., -3.], dtype=torch.float64)
    """
    n = _degrees(d_state)
    expect_floating(dtype)
    if sign not in (-1, 1):
        raise ValueError(f"sign must be -1 or 1; got {sign}")
    B = torch.sqrt(2 * n + 1)
    A = torch.tril(torch.outer(B, B), -1) + torch.diag(n + 1)
    return (sign * A).to(dtype), B.to(dtype)


def hippo_legt(
    d_state: int, window: Time = 1.0, dtype: torch.dtype = torch.float64
) -> System:
    """LegT: the polynomial that fits the last ``window`` of the past.

        A_nk = -sqrt(2n+1) sqrt(2k+1) / theta                if n >= k
               -sqrt(2n+1) sqrt(2k+1) / theta * (-1)^(n-k)   if n < k
        B_n  = sqrt(2n+1) / theta

    Derivation. In h_n(t) = integral of phi_n(r) x(t - theta (1 - r)) dr the
    window slides: theta d/dt = d/dr. By parts, with b_n = sqrt(2n+1), phi_n(1)
    = b_n and phi_n(0) = (-1)^n b_n,

        theta h_n' = b_n x(t) - (-1)^n b_n x(t - theta)
                     - integral of phi_n' x dr
        phi_n' = sum over k < n, n - k odd, of 2 b_n b_k phi_k

    The state must forget x(t - theta), which it no longer has: it takes its
    own reconstruction, the sum of h_k phi_k(0). So LegT is a projection up to
    the error of that one value, while LegS is one exactly.

    The LMU is the same system in other units: see ``lmu``.

    Args:
        d_state: N, how many coefficients.
        window: theta, positive, in the unit of time.
        dtype: of the result.

    Returns:
        A and B.

    Raises:
        TypeError: d_state is no int, or dtype is not floating-point.
        ValueError: d_state < 1, or a window that is not positive.

    Source: Gu et al. 2020 (arXiv 2008.07669), theorem 1, in the orthonormal
    scaling of the released code.
    """
    n = _degrees(d_state)
    expect_positive(window=window)
    expect_floating(dtype)
    b = torch.sqrt(2 * n + 1)
    ahead = n[:, None] < n
    parity = (-1.0) ** (n[:, None] - n)
    A = -torch.outer(b, b) * torch.where(ahead, parity, 1.0) / window
    return A.to(dtype), (b / window).to(dtype)


def lmu(
    d_state: int, window: Time = 1.0, dtype: torch.dtype = torch.float64
) -> System:
    """The Legendre Memory Unit: LegT, with time running the other way.

        A_nk = (2n+1) / theta * { (-1)^(n-k+1) if n >= k;  -1 if n < k }
        B_n  = (2n+1) / theta * (-1)^n

    Its state m reads x(t - a) as the sum of m_n P_n(2a/theta - 1), with
    plain Legendre polynomials in the age a. Since P_n(-z) = (-1)^n P_n(z),

        m = T h,  A_lmu = T A T^-1,  B_lmu = T B,  T_nn = (-1)^n sqrt(2n+1)

    where h, A, B are those of ``hippo_legt``. Arguments, errors: as there.

    Source: Voelker, Kajic and Eliasmith 2019, eq. 1 and 2.
    """
    n = _degrees(d_state)
    expect_positive(window=window)
    expect_floating(dtype)
    ahead = n[:, None] < n
    parity = (-1.0) ** (n[:, None] - n + 1)
    rows = (2 * n + 1) / window
    A = rows[:, None] * torch.where(ahead, -1.0, parity)
    return A.to(dtype), ((-1.0) ** n * rows).to(dtype)


def power_norms(
    A_bar: Inexact[Tensor, "d_state d_state"], n_powers: int
) -> Float[Tensor, " n_norms"]:
    """How much of a state can be left after k steps without input.

        || A_bar^k ||   for k = 0 to n_powers, Frobenius norm

    Args:
        A_bar: one discrete step.
        n_powers: the last k, at least 0.

    Returns:
        n_powers + 1 norms. They may overflow to infinity.

    Raises:
        TypeError, ValueError: n_powers is no int, or below 0.

    Example:
        >>> A, B = hippo_legs(8, sign=1)
        >>> norms = power_norms(discretize_dense(A, B, 0.1)[0], 100)
        >>> print(f"{norms[100]:.0e}")
        2e+38
    """
    expect_whole(0, n_powers=n_powers)
    power = torch.eye(len(A_bar), dtype=A_bar.dtype, device=A_bar.device)
    norms = [torch.linalg.matrix_norm(power)]
    for _ in range(n_powers):
        power = A_bar @ power
        norms.append(torch.linalg.matrix_norm(power))
    return torch.stack(norms)


def legs_eigenvectors(
    d_state: int,
) -> tuple[Float[Tensor, "d_state d_state"], Float[Tensor, "d_state d_state"]]:
    """The eigenvectors of LegS and their inverse, both in closed form.

        V_nj    = (-1)^(n+j) sqrt(2n+1) (n+j)! / ((n-j)! j!^2)
        V^-1_jn = sqrt(2n+1) j!^2 / ((j-n)! (j+n+1)!)

    V_nj is the coefficient of r^j in phi_n, since r^(j+1) = e^(-(j+1) a) is
    the eigenfunction that decays at the rate j + 1; V^-1 writes r^j in the
    basis. No term is a difference, so all digits hold even where V^-1 V, once
    multiplied out, is nothing but rounding errors.

    Args:
        d_state: N, from 1 to 400.

    Returns:
        V, its columns scaled to norm 1, and V^-1, its rows scaled to match.
        Column j belongs to the eigenvalue -(j + 1).

    Raises:
        TypeError: d_state is no int.
        ValueError: d_state < 1, or so large that V^-1 overflows.

    Source: Gu et al. 2022 (arXiv 2111.00396), lemma 3.2, there up to the
    scaling and the signs.
    """
    n = _degrees(d_state)[:, None]
    if d_state > MOST_EIGENVECTORS:
        raise ValueError(
            f"d_state must be at most {MOST_EIGENVECTORS}, or the inverse "
            f"of the eigenvectors overflows; got {d_state}"
        )
    j = n.T
    log = torch.special.gammaln  # log of a factorial, at 1 more
    low = n >= j
    gap = torch.where(low, n - j, 0)
    half = 0.5 * torch.log(2 * n + 1)
    magnitude = half + log(n + j + 1) - log(gap + 1) - 2 * log(j + 1)
    inverse = half - log(gap.T + 1) - log(n + j + 2) + 2 * log(j + 1)
    # Columns of V by their norm, in logarithms: V itself may overflow.
    magnitude = torch.where(low, magnitude, -math.inf)
    norm = 0.5 * torch.logsumexp(2 * magnitude, dim=0)  # j
    V = (-1.0) ** (n + j) * torch.exp(magnitude - norm)
    V_inverse = torch.where(low.T, torch.exp(inverse + norm), 0)  # n j
    return V, V_inverse.T


def legs_eigenvector_condition(d_state: int) -> float:
    """What a change to the eigenbasis of LegS does to rounding errors.

        cond(V) = ||V|| ||V^-1||,   spectral norms, columns of V of norm 1

    Each norm is that of a matrix known to all digits, so the result holds even
    above 1e16, where no numerical eigendecomposition can say it.

    Args:
        d_state: N, from 1 to 400.

    Returns:
        1 for N = 1; from there it grows about as e^(1.76 N).

    Raises:
        TypeError, ValueError: as ``legs_eigenvectors``.

    Example:
        >>> print(f"{legs_eigenvector_condition(8):.1e}")
        7.7e+04
    """
    V, V_inverse = legs_eigenvectors(d_state)
    norm = torch.linalg.matrix_norm
    return (norm(V, 2) * norm(V_inverse, 2)).item()


def legendre_basis(
    d_state: int, r: Float[Tensor, "*points"]
) -> Float[Tensor, "*points d_state"]:
    """The orthonormal Legendre polynomials on [0, 1].

        phi_n(r) = sqrt(2n+1) P_n(z),   z = 2r - 1
        (n+1) P_{n+1}(z) = (2n+1) z P_n(z) - n P_{n-1}(z)

    The recurrence is stable on [0, 1]; sums of powers of r are not.

    Args:
        d_state: N, so n runs from 0 to N - 1.
        r: where in the past, from 0 (oldest) to 1 (now).

    Returns:
        phi_n at each r, n last.

    Raises:
        TypeError: d_state is no int.
        ValueError: d_state < 1, or an r outside [0, 1].

    Example:
        >>> legendre_basis(2, torch.tensor([0.0, 0.5, 1.0]))
        tensor([[ 1.0000, -1.7321],
                [ 1.0000,  0.0000],
                [ 1.0000,  1.7321]])
    """
    scale = torch.sqrt(2 * _degrees(d_state) + 1).to(r)
    _refuse_outside_0_to_1("r", r)
    z = 2 * r - 1
    P = [torch.ones_like(z), z]
    for n in range(1, d_state - 1):
        P.append(((2 * n + 1) * z * P[n] - n * P[n - 1]) / (n + 1))
    return scale * torch.stack(P[:d_state], dim=-1)


def measure_density(
    measure: Measure, ages: Float[Tensor, "*ages"], horizon: Time
) -> Float[Tensor, "*ages"]:
    """How much an age counts in the fit.

        uniform:      1 / horizon   up to the horizon, then 0
        exponential:  e^(-a / horizon) / horizon

    Both have total weight 1; both are -dr/da of the table above.

    Args:
        measure: "uniform" or "exponential".
        ages: how long ago, from 0 up, in the unit of the horizon.
        horizon: t for scaled LegS, the window for LegT, the time constant for
            time-invariant LegS; positive.

    Returns:
        The weight of each age, in 1 / time.

    Raises:
        ValueError: unknown measure, an age below 0, or a horizon that is not
            positive and finite.
    """
    r = _position(measure, ages, horizon)
    if measure == "uniform":
        return (r > 0).to(r) / horizon
    return r / horizon


def project_signal(
    signal: Signal,
    time: Time,
    d_state: int,
    measure: Measure,
    horizon: Time,
) -> Float[Tensor, " d_state"]:
    """The true coefficients of a signal, by quadrature: what h should be.

        h_n = integral over ages of phi_n(r(a)) x(t - a) measure(a) da

    The history starts at time 0; before it the signal counts as 0. Gauss
    quadrature on panels that are fine both where the signal moves (equal in
    age) and where the polynomials do (equal in arccos(2r - 1)).

    Args:
        signal: x, of a tensor of times from 0 to ``time``.
        time: t, now; positive.
        d_state: N.
        measure: "uniform" or "exponential".
        horizon: as in ``measure_density``.

    Returns:
        h, float64.

    Raises:
        TypeError: d_state is no int.
        ValueError: as ``measure_density``; d_state < 1, or a time that is
            not positive.

    Example:
        >>> h = project_signal(lambda t: t, 2.0, 2, "uniform", 2.0)
        >>> print(f"{h[0]:.4f} {h[1]:.4f}")  # x = 2r = 1 + (2r - 1)
        1.0000 0.5774
    """
    expect_positive(time=time)
    expect_positive(horizon=horizon)
    end = min(time, horizon) if measure == "uniform" else time
    in_age = torch.linspace(0, end, PANELS + 1, dtype=torch.float64)
    r_end = _position(measure, in_age[-1:], horizon)
    turn = torch.linspace(0, math.pi, PANELS + 1, dtype=torch.float64)
    r = r_end + (1 - r_end) * (1 + torch.cos(turn[1:-1])) / 2
    uniform = measure == "uniform"
    in_turn = horizon * (1 - r) if uniform else -horizon * torch.log(r)
    edges = torch.cat([in_age, in_turn]).sort().values
    nodes, weights = _gauss(POINTS)
    width = edges.diff()[:, None]
    ages = (edges[:-1, None] + width * nodes).flatten()
    weight = (width * weights).flatten()
    weight = weight * measure_density(measure, ages, horizon)
    phi = legendre_basis(d_state, _position(measure, ages, horizon))
    return (weight * signal(time - ages)) @ phi


def project_held(
    x: Float[Tensor, "*batch length"],
    d_state: int,
    measure: Measure,
    horizon: Time,
) -> Float[Tensor, "*batch d_state"]:
    """The true coefficients of a staircase: x_k held for one unit of time.

        h_n = sum over k of x_k (Phi_n(r_{k+1}) - Phi_n(r_k))
        Phi_n(r) = integral of phi_n from 0 to r
                 = (P_{n+1}(z) - P_{n-1}(z)) / (2 sqrt(2n+1)),   z = 2r - 1

    with r_k where the start of hold k lies, P_{-1} = -1. For both LegS this
    is, exactly, what the ZOH recurrence arrives at; for LegT nearly.

    Args:
        x: the inputs, oldest first.
        d_state: N.
        measure: "uniform" or "exponential".
        horizon: as in ``measure_density``, in steps.

    Returns:
        h at the end of the last hold.

    Raises:
        TypeError: d_state is no int.
        ValueError: as ``measure_density``; d_state < 1.
    """
    expect_whole(1, d_state=d_state)
    length = x.shape[-1]
    ages = torch.arange(length, -1, -1, dtype=x.dtype, device=x.device)
    r = _position(measure, ages, horizon)
    n = torch.arange(d_state + 1, dtype=x.dtype, device=x.device)
    P = legendre_basis(d_state + 1, r) / torch.sqrt(2 * n + 1)
    before = torch.cat([-torch.ones_like(P[:, :1]), P[:, : d_state - 1]], -1)
    Phi = (P[:, 1:] - before) / (2 * torch.sqrt(2 * n[:-1] + 1))
    return x @ Phi.diff(dim=0)


def legs_transition(
    d_state: int, kept: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch d_state d_state"]:
    """One exact step of LegS: the same polynomial, seen in a longer past.

        A_bar    = exp(-A ln kept)
        A_bar_nk = kept * integral of phi_n(kept r) phi_k(r) dr
        B_bar    = (I - A_bar) e_0

    What was the whole past, [0, 1], becomes its older part, [0, kept]; the
    rest is the hold of the new input. So kept is k / (k + 1) for the scaled
    use and e^(-delta) for the time-invariant one. The integrand is a
    polynomial of degree 2N - 2, which N Gauss points integrate exactly: no
    eigenvectors, no matrix exponential.

    Args:
        d_state: N.
        kept: share of the new interval that the old past takes, 0 to 1.

    Returns:
        A_bar, for each share; B_bar is e_0 minus its first column, since a
        constant input keeps the state at x e_0.

    Raises:
        TypeError: d_state is no int.
        ValueError: d_state < 1, or a share outside [0, 1].

    Example:
        >>> A, B = hippo_legs(4)
        >>> kept = torch.exp(torch.tensor(-0.1, dtype=A.dtype))
        >>> A_bar, _ = discretize_dense(A, B, 0.1)
        >>> torch.allclose(legs_transition(4, kept), A_bar)
        True
    """
    _refuse_outside_0_to_1("kept", kept)
    r, weights = (t.to(kept) for t in _gauss(len(_degrees(d_state))))
    here = legendre_basis(d_state, r)  # r k
    there = legendre_basis(d_state, kept[..., None] * r)  # ... r n
    weighted = kept[..., None, None] * weights[:, None] * here
    return there.mT @ weighted


def scaled_legs_states(
    x: Float[Tensor, " length"], d_state: int, rule: ScaledRule = "zoh"
) -> Float[Tensor, "length d_state"]:
    """LegS as it was meant: h' = (A h + B x) / t, from t = 0.

        zoh:     h_k = A_bar h_{k-1} + (I - A_bar) e_0 x_k,
                 A_bar = exp(A ln((k+1) / k))
        others:  h_k = A_bar h_{k-1} + B_bar x_k, with the A_bar and B_bar of
                 A / (k+1) and B / (k+1) for a step of 1

    x_k is held from time k to k + 1. With ZOH, h_k is the projection of that
    staircase, exactly, and the first step too: A_bar = 0, h_0 = x_0 e_0. The
    others hold the factor 1 / t still within a step, at its value at the end.
    Euler is the formula of the paper's theorem 2; before it settles its states
    grow to 1e9 at N = 16 and 1e45 at N = 64, so it needs few states.

    The unit of time does not matter: LegS has no delta.

    Args:
        x: the inputs, oldest first.
        d_state: N.
        rule: "zoh", "bilinear", "backward_euler" or "euler".

    Returns:
        The state after each input. Work O(length N^3), since each step has a
        matrix of its own; memory O(length N), and 256 such matrices.

    Raises:
        TypeError: d_state is no int.
        ValueError: unknown rule, no input, or d_state < 1.

    Source: Gu et al. 2020 (arXiv 2008.07669), theorem 2; the released code for
    the other rules. Its "zoh" takes the steps from time 1 on, so that its x_k
    is held from k + 1 to k + 2, after a state of 0; ours starts at 0.
    """
    expect_whole(1, d_state=d_state)
    if len(x) == 0:
        raise ValueError("x must hold at least one input; got length 0")
    h = x.new_zeros(d_state)
    states = []
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        A_bars, B_bars = _scaled_steps(start, len(block), d_state, rule)
        for A_bar, B_bar, x_k in zip(
            A_bars.to(x), B_bars.to(x), block, strict=True
        ):
            h = A_bar @ h + B_bar * x_k
            states.append(h)
    return torch.stack(states)


def reconstruct(
    h: Float[Tensor, "*batch d_state"],
    ages: Float[Tensor, " n_ages"],
    measure: Measure,
    horizon: Time,
) -> Float[Tensor, "*batch n_ages"]:
    """The past, read back from the state alone.

        x(t - a) ~ sum over n of h_n phi_n(r(a))

    Args:
        h: coefficients; for the LMU, h = T^-1 m.
        ages: how long ago, from 0 up, in the unit of the horizon.
        measure: "uniform" for scaled LegS and LegT, "exponential" for
            time-invariant LegS.
        horizon: as in ``measure_density``.

    Returns:
        One value an age; 0 beyond a uniform horizon, where nothing is kept.

    Raises:
        ValueError: as ``measure_density``.

    Example:
        >>> h = project_signal(lambda t: t, 2.0, 3, "uniform", 2.0)
        >>> reconstruct(h, torch.tensor([0.0, 0.5, 1.5]), "uniform", 2.0)
        tensor([2.0000, 1.5000, 0.5000], dtype=torch.float64)
    """
    ages = ages.to(h)
    r = _position(measure, ages, horizon)
    values = h @ legendre_basis(h.shape[-1], r).mT
    if measure == "uniform":
        return torch.where(ages <= horizon, values, 0)
    return values


def hold_ages(
    length: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, " length"]:
    """How long ago the middle of each hold was, oldest first, in steps.

    Args:
        length: how many holds, the last of which has just ended.
        dtype: of the result.

    Raises:
        TypeError: length is no int, or dtype is not floating-point.
        ValueError: length < 1.

    Example:
        >>> hold_ages(3)
        tensor([2.5000, 1.5000, 0.5000], dtype=torch.float64)
    """
    expect_whole(1, length=length)
    expect_floating(dtype)
    return torch.arange(length - 1, -1, -1, dtype=dtype) + 0.5


def _position(measure: str, ages: Tensor, horizon: Time) -> Tensor:
    """Where on [0, 1] an age lies: 1 is now."""
    expect_positive(horizon=horizon)
    if not (ages >= 0).all():
        raise ValueError(f"ages must be at least 0; got {ages.min():g}")
    match measure:
        case "uniform":
            return (1 - ages / horizon).clamp_min(0)
        case "exponential":
            return torch.exp(-ages / horizon)
    known = ", ".join(get_args(Measure))
    raise ValueError(f"measure must be one of {known}; got {measure!r}")


def _scaled_steps(
    start: int, count: int, d_state: int, rule: str
) -> tuple[Tensor, Tensor]:
    """A_bar and B_bar of scaled LegS for the holds from ``start`` on."""
    k = torch.arange(start, start + count, dtype=torch.float64)
    if rule == "zoh":
        A_bars = legs_transition(d_state, k / (k + 1))
        e_0 = torch.eye(d_state, dtype=torch.float64)[0]
        return A_bars, e_0 - A_bars[..., 0]
    known = get_args(ScaledRule)
    if rule not in known:
        raise ValueError(
            f"rule must be one of {', '.join(known)}; got {rule!r}"
        )
    A, B = hippo_legs(d_state)
    steps = [discretize_dense(A, B, 1 / t, rule) for t in (k + 1).tolist()]
    A_bars, B_bars = (torch.stack(parts) for parts in zip(*steps, strict=True))
    return A_bars, B_bars


def _gauss(n_points: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(n_points)
    return torch.from_numpy(nodes + 1) / 2, torch.from_numpy(weights) / 2


def _degrees(d_state: int) -> Tensor:
    """n = 0 to d_state - 1, of which there must be one."""
    expect_whole(1, d_state=d_state)
    return torch.arange(d_state, dtype=torch.float64)


def _refuse_outside_0_to_1(name: str, value: Tensor) -> None:
    if not ((value >= 0) & (value <= 1)).all():
        low, high = value.min(), value.max()
        raise ValueError(
            f"{name} must lie from 0 to 1; got {low:g} to {high:g}"
        )
