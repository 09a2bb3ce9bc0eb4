r"""From continuous time to steps: five rules, and the recurrence they feed.

The system is continuous, its input is a sequence:

    h'(t) = A h(t) + B x(t)        ->        h_k = A_bar h_{k-1} + B_bar x_k

and x_k is held for one step of length delta. A rule says what A_bar and B_bar
are. h_k is the state at the *end* of the hold of x_k, at time (k + 1) delta
when k counts from 0.

A rule takes a diagonal A as the tensor of its diagonal: everything is then
elementwise, and A, B and delta broadcast. ``discretize_dense`` takes a matrix.
Tensors are real or complex and keep their precision; Python numbers take the
precision of the tensors they come with, and float64 on their own.

See: the chapter ``zero-order-hold``.
"""

import functools
import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

Number = int | float | complex
Values = Inexact[Tensor, "*#shape"] | Number
Steps = Float[Tensor, "*#shape"] | int | float
Pair = tuple[Inexact[Tensor, "*#shape"], Inexact[Tensor, "*#shape"]]
# A system's matrix, or its diagonal alone.
Matrix = Inexact[Tensor, "d_state d_state"] | Inexact[Tensor, " d_state"]
Vector = Inexact[Tensor, " d_state"]

# Inside this circle phi1 is its Taylor series, in this many terms: the first
# one left out is then below 1e-22, so derivatives keep their digits too.
SERIES_RADIUS = 0.5
SERIES_TERMS = 18


def phi1(w: Values) -> Inexact[Tensor, "*#shape"]:
    """The mean of e^(s w) over 0 <= s <= 1, which is 1 at w = 0.

        phi1(w) = (e^w - 1) / w = 1 + w/2 (1 + w/3 (1 + w/4 (1 + ...

    ``expm1`` keeps the digits that e^w - 1 would lose near 0, but the
    derivative of the quotient loses them again; that of the series does not.

    Args:
        w: any shape, real or complex, finite.

    Returns:
        phi1 of each element, differentiable any number of times.

    Raises:
        TypeError: w holds integers.
        ValueError: w holds a NaN or an infinity.

    Example:
        >>> phi1(1e-12)
        tensor(1.0000, dtype=torch.float64)
    """
    (w,) = _checked(w=w)
    small = w.abs() < SERIES_RADIUS
    near, far = torch.where(small, w, 0), torch.where(small, 1, w)
    series = torch.ones_like(near)
    for k in range(SERIES_TERMS, 1, -1):
        series = 1 + near / k * series
    return torch.where(small, series, torch.expm1(far) / far)


def discretize_zoh(A: Values, B: Values, delta: Steps) -> Pair:
    """Zero-order hold: exact as long as the input is held.

        A_bar = exp(delta A)
        B_bar = (delta A)^-1 (exp(delta A) - 1) delta B
              = phi1(delta A) delta B

    Args:
        A: diagonal of the continuous system, in 1 / time; 0 is allowed.
        B: input weights; broadcasts with A and delta.
        delta: how long each input is held, positive, in time.

    Returns:
        A_bar and B_bar.

    Raises:
        TypeError: an argument holds integers, or delta is complex.
        ValueError: a NaN, an infinity, delta <= 0, or shapes that do not
            broadcast. All five rules raise these.

    Source: Gu and Dao 2023 (arXiv 2312.00752), eq. 4.

    Example:
        >>> A_bar, B_bar = discretize_zoh(-1.0, 1.0, math.log(2))
        >>> print(f"{A_bar:.3f} {B_bar:.3f}")
        0.500 0.500
    """
    A, B, delta = _elementwise(A=A, B=B, delta=delta)
    A_bar = torch.exp(delta * A)
    B_bar = phi1(delta * A) * delta * B
    return A_bar, B_bar


def discretize_euler(A: Values, B: Values, delta: Steps) -> Pair:
    """Euler: a straight step along the slope at the start.

        A_bar = 1 + delta A
        B_bar = delta B

    A decaying state stays bounded only while delta |A| <= 2 (A real).
    Arguments, result and errors: as in ``discretize_zoh``.
    """
    A, B, delta = _elementwise(A=A, B=B, delta=delta)
    A_bar = 1 + delta * A
    B_bar = delta * B
    return A_bar, B_bar


def discretize_backward_euler(A: Values, B: Values, delta: Steps) -> Pair:
    """Backward Euler: a straight step along the slope at the end.

        A_bar = 1 / (1 - delta A)
        B_bar = delta B / (1 - delta A)

    Not finite where delta A = 1, which no decaying state reaches.
    Arguments, result and errors: as in ``discretize_zoh``.
    """
    A, B, delta = _elementwise(A=A, B=B, delta=delta)
    A_bar = 1 / (1 - delta * A)
    B_bar = delta * B / (1 - delta * A)
    return A_bar, B_bar


def discretize_bilinear(A: Values, B: Values, delta: Steps) -> Pair:
    """Bilinear (Tustin): a step along the mean of both slopes.

        A_bar = (1 + delta A / 2) / (1 - delta A / 2)
        B_bar = delta B / (1 - delta A / 2)

    S4's rule. Not finite where delta A = 2, which no decaying state reaches.
    Arguments, result and errors: as in ``discretize_zoh``.
    """
    A, B, delta = _elementwise(A=A, B=B, delta=delta)
    A_bar = (1 + delta * A / 2) / (1 - delta * A / 2)
    B_bar = delta * B / (1 - delta * A / 2)
    return A_bar, B_bar


def discretize_mamba(A: Values, B: Values, delta: Steps) -> Pair:
    """Mamba's released code: A by zero-order hold, B by Euler.

        A_bar = exp(delta A)
        B_bar = delta B

    The paper (Gu and Dao 2023, arXiv 2312.00752, eq. 4) holds B by ZOH too;
    the released code uses Euler for B. ``euler_to_zoh_ratio`` is the factor.
    Arguments, result and errors: as in ``discretize_zoh``.
    """
    A, B, delta = _elementwise(A=A, B=B, delta=delta)
    A_bar = torch.exp(delta * A)
    B_bar = delta * B
    return A_bar, B_bar


DISCRETIZATION_RULES: dict[str, Callable[[Values, Values, Steps], Pair]] = {
    "zoh": discretize_zoh,
    "euler": discretize_euler,
    "backward_euler": discretize_backward_euler,
    "bilinear": discretize_bilinear,
    "mamba": discretize_mamba,
}


def euler_to_zoh_ratio(A: Values, delta: Steps) -> Inexact[Tensor, "*#shape"]:
    """How much larger the released code's B_bar is than that of ZOH.

        delta B / (phi1(delta A) delta B) = u / (1 - e^-u),   u = delta |A|

    The right-hand side is for a real, negative A.

    Args:
        A: diagonal of the continuous system.
        delta: step, positive.

    Returns:
        B_bar of ``discretize_mamba`` over B_bar of ``discretize_zoh``.

    Raises:
        TypeError, ValueError: as ``discretize_zoh``.

    Example:
        >>> print(f"{euler_to_zoh_ratio(-16.0, 0.1):.2f}")
        2.00
    """
    A, delta = _elementwise(A=A, delta=delta)
    return 1 / phi1(delta * A)


def half_life(A: Values, delta: Steps) -> Float[Tensor, "*#shape"]:
    """After how many steps without input half of the state is left.

        |exp(delta A)|^k = 1/2    at    k = ln 2 / (delta |Re A|)

    Args:
        A: diagonal of the continuous system, Re A <= 0.
        delta: step, positive.

    Returns:
        Steps, rarely a whole number; infinite where Re A = 0.

    Raises:
        TypeError, ValueError: as ``discretize_zoh``; Re A > 0: such a state
            grows.

    Example:
        >>> print(f"{half_life(-1.0, 0.001):.0f} {half_life(-16.0, 0.1):.2f}")
        693 0.43
    """
    A, delta = _elementwise(A=A, delta=delta)
    decay = -A.real
    _refuse(decay < 0, A, "A", "have no positive real part")
    return math.log(2) / (delta * decay.abs())


def exp_and_phi1(
    Z: Inexact[Tensor, "*batch d_state d_state"],
) -> tuple[
    Inexact[Tensor, "*batch d_state d_state"],
    Inexact[Tensor, "*batch d_state d_state"],
]:
    """Both functions of a matrix, singular or not, from one exponential.

        exp [ Z  I ]  =  [ exp(Z)  phi1(Z) ]
            [ 0  0 ]     [   0        I    ]

    Args:
        Z: square matrices, real or complex.

    Returns:
        exp(Z) and phi1(Z), which is Z^-1 (exp(Z) - I) where Z has an inverse.

    Source: Van Loan 1978, doi 10.1109/TAC.1978.1101743.
    """
    n = Z.shape[-1]
    I = torch.eye(n, dtype=Z.dtype, device=Z.device).expand_as(Z)
    upper = torch.cat([Z, I], dim=-1)
    # exp(Z) too comes from here: in PyTorch 2.13, matrix_exp of one matrix
    # with a norm near 0.05 is off by 2e-10. With I in it, no norm is below 1.
    both = torch.matrix_exp(torch.nn.functional.pad(upper, (0, 0, 0, n)))
    return both[..., :n, :n], both[..., :n, n:]


def discretize_dense(
    A: Inexact[Tensor, "d_state d_state"],
    B: Inexact[Tensor, "d_state ..."],
    delta: Float[Tensor, ""] | int | float,
    rule: str = "zoh",
) -> tuple[Inexact[Tensor, "d_state d_state"], Inexact[Tensor, "d_state ..."]]:
    """The five rules for a matrix A; the formulas are the same.

    Args:
        A: the continuous system; it may be singular.
        B: input weights, (d_state,) or (d_state, d_input).
        delta: step, positive, one for the whole system.
        rule: a key of ``DISCRETIZATION_RULES``.

    Returns:
        A_bar and B_bar, in the shapes of A and B.

    Raises:
        TypeError, ValueError: as ``discretize_zoh``; A not square, B or delta
            of another shape; unknown rule.
        torch.linalg.LinAlgError: the rule's I - delta A (backward Euler) or
            I - delta A / 2 (bilinear) is singular.

    Example:
        >>> A = torch.tensor([[0.0, 1.0], [0.0, 0.0]])  # singular: a mass
        >>> discretize_dense(A, torch.tensor([0.0, 1.0]), 2.0)[1]
        tensor([2., 2.])
    """
    A, B, delta = _dense(A, B, delta)
    I = torch.eye(len(A), dtype=A.dtype, device=A.device)
    delta_A, delta_B = delta * A, delta * B
    solve = torch.linalg.solve
    match rule:
        case "zoh":
            A_bar, phi = exp_and_phi1(delta_A)
            return A_bar, phi @ delta_B
        case "euler":
            return I + delta_A, delta_B
        case "backward_euler":
            return solve(I - delta_A, I), solve(I - delta_A, delta_B)
        case "bilinear":
            left, right = I - delta_A / 2, I + delta_A / 2
            return solve(left, right), solve(left, delta_B)
        case "mamba":
            A_bar, _ = exp_and_phi1(delta_A)
            return A_bar, delta_B
    rules = ", ".join(DISCRETIZATION_RULES)
    raise ValueError(f"rule must be one of {rules}; got {rule!r}")


def linear_recurrence(
    A_bar: Matrix,
    B_bar: Vector,
    x: Inexact[Tensor, " length"],
    initial_state: Vector | None = None,
) -> Inexact[Tensor, "length d_state"]:
    """Every state of the discrete system, one after the other.

        h_k = A_bar h_{k-1} + B_bar x_k

    h_k is the state at the end of the hold of x_k: the first row has already
    seen the first input.

    Args:
        A_bar: (d_state,) if diagonal, else (d_state, d_state).
        B_bar: (d_state,).
        x: one input per step.
        initial_state: the state before the first input; zero if None.

    Returns:
        The states, one per input.

    Raises:
        TypeError: an argument holds integers.
        ValueError: a NaN, an infinity, no input, or shapes that do not fit.

    Example:
        >>> A_bar, B_bar = torch.tensor([0.5]), torch.tensor([1.0])
        >>> linear_recurrence(A_bar, B_bar, torch.ones(3)).squeeze(-1)
        tensor([1.0000, 1.5000, 1.7500])
    """
    A_bar, B_bar, x, h = _driven(A_bar, B_bar, x, initial_state, "_bar")
    apply = torch.mul if A_bar.ndim == 1 else torch.mv
    states = []
    for x_k in x:
        h = apply(A_bar, h) + B_bar * x_k
        states.append(h)
    return torch.stack(states)


def held_state(
    A: Matrix,
    B: Vector,
    x: Inexact[Tensor, " length"],
    delta: Float[Tensor, ""] | int | float,
    times: Float[Tensor, " n_times"],
    initial_state: Vector | None = None,
) -> Inexact[Tensor, "n_times d_state"]:
    """The continuous state, exactly, while the input is held step by step.

        h(k delta + s) = exp(s A) h(k delta) + phi1(s A) s B x_k

    At the end of each hold this is the ZOH recurrence (row k of
    ``linear_recurrence`` is h((k + 1) delta)); between, it moves on.

    Args:
        A: (d_state,) if diagonal, else (d_state, d_state).
        B: (d_state,).
        x: the inputs; x_k is held from k delta to (k + 1) delta.
        delta: step, positive.
        times: when to look, from 0 to length * delta, in any order.
        initial_state: the state at time 0; zero if None.

    Returns:
        The state at each time.

    Raises:
        TypeError, ValueError: as ``discretize_zoh`` and
            ``linear_recurrence``; a time outside 0 to length * delta.
    """
    A, B, x, h_0 = _driven(A, B, x, initial_state)
    _, delta, times = _checked(A=A, delta=delta, times=times)
    _refuse_outside(times, len(x) * delta)
    zoh = discretize_zoh if A.ndim == 1 else discretize_dense
    ends = linear_recurrence(*zoh(A, B, delta), x, h_0)  # length d_state
    k = (times / delta).long().clamp(0, len(x) - 1)
    h_k = torch.cat([h_0[None], ends])[k]  # n_times d_state
    s = (times - k * delta)[:, None].to(A.real.dtype)
    drive = s * B * x[k, None]
    if A.ndim == 1:
        return torch.exp(s * A) * h_k + phi1(s * A) * drive
    exp, phi = exp_and_phi1(s[..., None] * A)  # n_times d_state d_state
    return (exp @ h_k[..., None] + phi @ drive[..., None]).squeeze(-1)


def _checked(**arguments: Tensor | Number) -> list[Tensor]:
    """The arguments as tensors; one that no rule could use is refused."""
    for name, value in arguments.items():
        _refuse_type(name, value)
    given = [v for v in arguments.values() if isinstance(v, Tensor)]
    dtypes = [t.dtype for t in given] or [torch.float64]
    real = functools.reduce(torch.promote_types, dtypes).to_real()
    tensors = []
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            dtype = real.to_complex() if isinstance(value, complex) else real
            device = given[0].device if given else None
            value = torch.tensor(value, dtype=dtype, device=device)
        _refuse(~torch.isfinite(value), value, name, "be finite")
        if name == "delta":
            _refuse(value <= 0, value, name, "be positive")
        tensors.append(value)
    return tensors


def _elementwise(**arguments: Tensor | Number) -> list[Tensor]:
    """As ``_checked``, for arguments that must broadcast together."""
    tensors = _checked(**arguments)
    shapes = [tuple(t.shape) for t in tensors]
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        named = zip(arguments, shapes, strict=True)
        got = ", ".join(f"{name} {shape}" for name, shape in named)
        raise ValueError(
            f"shapes must broadcast together; got {got}"
        ) from None
    return tensors


def _dense(
    A: Tensor, B: Tensor, delta: Tensor | Number
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_checked``, for a square A; A and B get one dtype."""
    A, B, delta = _checked(A=A, B=B, delta=delta)
    square = A.ndim == 2 and A.shape[0] == A.shape[1]
    _expect(square, A, "A", "(d_state, d_state)")
    _expect(B.shape[:1] == A.shape[:1], B, "B", f"({len(A)}, ...)")
    _expect(delta.ndim == 0, delta, "delta", "()")
    return *_one_dtype(A, B), delta


def _driven(
    A: Tensor,
    B: Tensor,
    x: Tensor,
    initial_state: Tensor | None,
    bar: str = "",
) -> list[Tensor]:
    """As ``_checked``, for a system with its input, all of one dtype."""
    A, B, x = _checked(**{f"A{bar}": A, f"B{bar}": B, "x": x})
    (h,) = _checked(
        initial_state=torch.zeros_like(B)
        if initial_state is None
        else initial_state
    )
    n = A.shape[:1]
    fits = A.ndim > 0 and A.shape in (n, n + n)
    _expect(fits, A, f"A{bar}", "(d_state,) or (d_state, d_state)")
    _expect(B.shape == n, B, f"B{bar}", f"({len(A)},)")
    _expect(h.shape == n, h, "initial_state", f"({len(A)},)")
    _expect(x.ndim == 1 and len(x) > 0, x, "x", "(length,), length > 0")
    return _one_dtype(A, B, x, h)


def _one_dtype(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the smallest dtype that holds them all."""
    dtypes = (t.dtype for t in tensors)
    dtype = functools.reduce(torch.promote_types, dtypes)
    return [t.to(dtype) for t in tensors]


def _refuse_type(name: str, value: object) -> None:
    """Refuse what is no number, and tensors of whole numbers."""
    is_real = name in ("delta", "times")
    if isinstance(value, Tensor):
        fits = value.is_floating_point() or value.is_complex()
        fits = fits and not (is_real and value.is_complex())
        got = f"a tensor of {value.dtype}: {value.flatten()[:3].tolist()}"
    else:
        wanted = int | float if is_real else Number
        fits = isinstance(value, wanted) and not isinstance(value, bool)
        got = f"{value!r}, a {type(value).__name__}"
    if not fits:
        kinds = "floating-point" if is_real else "floating-point or complex"
        raise TypeError(f"{name} must be {kinds}; got {got}")


def _refuse(bad: Tensor, value: Tensor, name: str, must: str) -> None:
    """Name the first element of ``value`` that is bad, if one is."""
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        where = f" at index {index}" if index else ""
        raise ValueError(
            f"{name} must {must}; got {value[index].item()}{where}"
        )


def _refuse_outside(times: Tensor, end: Tensor) -> None:
    """Refuse a time before 0 or after the end, but for rounding."""
    rounding = 8 * torch.finfo(times.dtype).eps
    outside = (times < 0) | (times > end * (1 + rounding))
    _refuse(outside, times, "times", f"lie from 0 to {end:g}")


def _expect(fits: bool, value: Tensor, name: str, wanted: str) -> None:
    """Refuse a shape."""
    if not fits:
        raise ValueError(
            f"{name} must have shape {wanted}; got {tuple(value.shape)}"
        )
