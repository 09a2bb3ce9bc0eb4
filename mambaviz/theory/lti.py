r"""A linear time-invariant system, and the ways to run it.

    h'(t) = A h(t) + B x(t)              h_k = A_bar h_{k-1} + B_bar x_k
    y(t)  = C h(t) + D x(t)              y_k = C h_k + D x_k

On the left it is continuous, on the right discrete; the rules of
``discretize`` lead from one to the other and leave C and D alone. Several
ways lead from x to y, and they agree to rounding:

    an ODE solver      ``simulate_held``
    the recurrence     ``simulate_recurrence``
    a parallel scan    ``simulate_scan``
    a convolution      K_bar * x + D x, where K_bar is the ``ssm_kernel``:
                       directly, by FFT, or as a Toeplitz matrix times x

y_k is the output at the end of the hold of x_k, as everywhere in this book.
SciPy's discrete systems read the state before x_k enters, so their impulse
response is K_bar one step later.

The shapes, in every function here:

    A    (d_state, d_state), or (d_state,): the diagonal of a diagonal one
    B    (d_state, d_in), or (d_state,): then there is one input, x (length,)
    C    (d_out, d_state), or (d_state,): then there is one output, y (length,)
    D    (d_out, d_in); a number where both are 1; or 0
    x    (length, d_in), or (length,)

All may be complex, and y is then complex too. With C = identity, y shows the
state.

See: the chapters ``state-space-models`` and ``three-representations``.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Inexact
from torch import Tensor
from torch.nn.functional import pad

from mambaviz.theory.checks import expect_not_negative, expect_whole
from mambaviz.theory.discretize import (
    Matrix,
    Number,
    _checked,
    _expect,
    _one_dtype,
)
from mambaviz.theory.ode import solve_ode
from mambaviz.theory.scan import (
    Pairs,
    blelloch_scan,
    combine,
    combine_matrices,
)

Inputs = Inexact[Tensor, " d_state"] | Inexact[Tensor, "d_state d_in"]
Outputs = Inexact[Tensor, " d_state"] | Inexact[Tensor, "d_out d_state"]
Skip = Inexact[Tensor, "d_out d_in"] | Inexact[Tensor, ""] | Number
Signal = Inexact[Tensor, " length"] | Inexact[Tensor, "length d_in"]
Response = Inexact[Tensor, " length"] | Inexact[Tensor, "length d_out"]
Kernel = Inexact[Tensor, " taps"] | Inexact[Tensor, "taps d_out d_in"]
State = Inexact[Tensor, " d_state"]


def simulate_ode(
    A: Matrix,
    B: Inputs,
    C: Outputs,
    D: Skip,
    x: Callable[[Tensor], Tensor | Number],
    times: Float[Tensor, " length"],
    initial_state: State | None = None,
) -> Response:
    """The output for an input that is a function of time, by ``solve_ode``.

        h'(t) = A h(t) + B x(t)
        y(t)  = C h(t) + D x(t)

    Args:
        A, B, C, D: the continuous system.
        x: of a time, (), in float64; returns (d_in,), or a number where B is
            a vector. Smooth between neighbouring ``times``.
        times: increasing; the system starts at the first.
        initial_state: the state at the first time; zero if None.

    Returns:
        y at each of the times.

    Raises:
        TypeError, ValueError: as ``simulate_recurrence``; times that do not
            increase.
        ArithmeticError: as ``solve_ode``: the input is not smooth.

    Example:
        >>> one = torch.ones(1).double()
        >>> times = torch.tensor([0.0, 1.0]).double()
        >>> simulate_ode(-one, one, one, 0.0, lambda t: 1.0, times)
        tensor([0.0000, 0.6321], dtype=torch.float64)
    """
    is_vector = C.ndim == 1
    h_0 = _initial(A, initial_state)
    A, B, C, D, h_0, _ = _one_dtype(
        *_matrices(A, B, C, D), h_0, torch.as_tensor(x(times[0]))
    )

    def x_at(t: float) -> Tensor:
        value = x(torch.tensor(t, dtype=torch.float64))
        return torch.as_tensor(value, dtype=A.dtype).reshape(B.shape[1])

    h = solve_ode(lambda t, h: _apply(A, h) + B @ x_at(t), h_0, times)
    y = h @ C.T + torch.stack([x_at(t) for t in times.tolist()]) @ D.T
    return y.squeeze(-1) if is_vector else y


def simulate_held(
    A: Matrix,
    B: Inputs,
    C: Outputs,
    D: Skip,
    x: Signal,
    delta: Float[Tensor, ""] | int | float,
    initial_state: State | None = None,
) -> Response:
    """The output for an input that is held step by step, by ``solve_ode``.

        h'(t) = A h(t) + B x_k    for    k delta <= t <= (k + 1) delta
        y_k   = C h((k + 1) delta) + D x_k

    The continuous system itself, with no rule of discretisation: what the
    ZOH recurrence must reproduce.

    Args:
        A, B, C, D: the continuous system.
        x: the inputs.
        delta: how long each is held, positive, in time; it gets no gradient.
        initial_state: the state at time 0; zero if None.

    Returns:
        y_k for each input.

    Raises:
        TypeError, ValueError: as ``simulate_recurrence``; a delta that is not
            positive and finite.
        ArithmeticError: as ``solve_ode``.
    """
    is_vector = C.ndim == 1
    A, B, C, D, x, h = _driven(A, B, C, D, x, initial_state)
    (delta,) = _checked(delta=delta)
    hold = torch.tensor([0.0, delta.item()], dtype=torch.float64)
    states = []
    for drive in x @ B.T:
        _, h = solve_ode(lambda _, h, B_x=drive: _apply(A, h) + B_x, h, hold)
        states.append(h)
    y = torch.stack(states) @ C.T + x @ D.T
    return y.squeeze(-1) if is_vector else y


def simulate_recurrence(
    A_bar: Matrix,
    B_bar: Inputs,
    C: Outputs,
    D: Skip,
    x: Signal,
    initial_state: State | None = None,
) -> Response:
    """The output, one step after the other.

        h_k = A_bar h_{k-1} + B_bar x_k
        y_k = C h_k + D x_k

    Args:
        A_bar, B_bar, C, D: the discrete system.
        x: the inputs.
        initial_state: the state before the first input; zero if None.

    Returns:
        y_k for each input.

    Raises:
        TypeError: an argument holds integers.
        ValueError: a NaN, an infinity, no input, or shapes that do not fit
            together.

    Example:
        >>> half, one = torch.tensor([0.5]), torch.ones(1)
        >>> simulate_recurrence(half, one, one, 0.0, torch.ones(3))
        tensor([1.0000, 1.5000, 1.7500])
    """
    is_vector = C.ndim == 1
    A_bar, B_bar, C, D, x, h = _driven(A_bar, B_bar, C, D, x, initial_state)
    outputs = []
    for x_k in x:
        h = _apply(A_bar, h) + B_bar @ x_k
        outputs.append(C @ h + D @ x_k)
    y = torch.stack(outputs)
    return y.squeeze(-1) if is_vector else y


def simulate_scan(
    A_bar: Matrix,
    B_bar: Inputs,
    C: Outputs,
    D: Skip,
    x: Signal,
    initial_state: State | None = None,
    scan: Callable[..., Pairs] = blelloch_scan,
) -> Response:
    """The output by a scan over the pairs (A_bar, B_bar x_k).

        (P_k, h_k) = (A_bar, B_bar x_0) then ... then (A_bar, B_bar x_k)
        y_k        = C (h_k + P_k h_{-1}) + D x_k

    Args:
        A_bar, B_bar, C, D: the discrete system.
        x: the inputs.
        initial_state: h_{-1}, the state before the first input; zero if None.
        scan: one of ``scan``, such as ``hillis_steele_scan``.

    Returns:
        y_k for each input.

    Raises:
        TypeError, ValueError: as ``simulate_recurrence``.
    """
    is_vector = C.ndim == 1
    A_bar, B_bar, C, D, x, h_0 = _driven(A_bar, B_bar, C, D, x, initial_state)
    operator = combine if A_bar.ndim == 1 else combine_matrices
    every_A_bar = A_bar.expand(len(x), *A_bar.shape)
    P, h = scan(every_A_bar, x @ B_bar.T, operator=operator)
    h = h + (P * h_0 if A_bar.ndim == 1 else P @ h_0)
    y = h @ C.T + x @ D.T
    return y.squeeze(-1) if is_vector else y


def ssm_kernel(
    A_bar: Matrix, B_bar: Inputs, C: Outputs, length: int
) -> Kernel:
    """What an input adds to the outputs 0, 1, 2, ... steps later.

        K_bar = (C B_bar, C A_bar B_bar, C A_bar^2 B_bar, ...)

    It is as long as the sequence: the system forgets by a factor, so the
    kernel fades and never ends.

    Args:
        A_bar, B_bar, C: the discrete system.
        length: how many lags, at least 1.

    Returns:
        (length,) where B_bar and C are vectors, else (length, d_out, d_in).

    Raises:
        TypeError, ValueError: as ``simulate_recurrence``; length is no int,
            or below 1.

    Source: Gu and Dao 2023 (arXiv 2312.00752), eq. 3a.

    Example:
        >>> half, one = torch.tensor([0.5]), torch.ones(1)
        >>> ssm_kernel(half, one, one, 4)
        tensor([1.0000, 0.5000, 0.2500, 0.1250])
    """
    expect_whole(1, length=length)
    are_vectors = B_bar.ndim == C.ndim == 1
    A_bar, B_bar, C, _ = _matrices(A_bar, B_bar, C, 0.0)
    taps = []
    for _ in range(length):
        taps.append(C @ B_bar)
        C = C * A_bar if A_bar.ndim == 1 else C @ A_bar
    K_bar = torch.stack(taps)
    return K_bar[:, 0, 0] if are_vectors else K_bar


def impulse_response(
    A_bar: Matrix, B_bar: Inputs, C: Outputs, D: Skip, length: int
) -> Kernel:
    """The output for the input 1, 0, 0, ..., by the recurrence.

        (C B_bar + D, C A_bar B_bar, C A_bar^2 B_bar, ...)

    ``ssm_kernel`` with D in its first place, found in another way.

    Args:
        A_bar, B_bar, C, D: the discrete system.
        length: how many outputs, at least 1.

    Returns:
        (length,) where B_bar and C are vectors, else (length, d_out, d_in):
        one response for each input.

    Raises:
        TypeError, ValueError: as ``ssm_kernel``.
    """
    expect_whole(1, length=length)
    are_vectors = B_bar.ndim == C.ndim == 1
    system = _matrices(A_bar, B_bar, C, D)
    responses = []
    for row in torch.eye(system[1].shape[1]).to(system[1]):
        impulse = pad(row[None], (0, 0, 0, length - 1))  # length d_in
        responses.append(simulate_recurrence(*system, impulse))
    response = torch.stack(responses, dim=-1)
    return response[:, 0, 0] if are_vectors else response


def causal_convolution(K_bar: Kernel, x: Signal) -> Response:
    """The sum of all past inputs, each weighted by its lag.

        y_k = sum over j of K_bar_j x_{k-j},    x_k = 0 where k < 0

    The zeros before the first input are the padding, on the left: y_k has
    seen x_0 to x_k and nothing later.

    Args:
        K_bar: (taps,), or (taps, d_out, d_in).
        x: (length,), or (length, d_in).

    Returns:
        (length,), or (length, d_out).

    Raises:
        TypeError: one of them holds integers.
        ValueError: a NaN, an infinity, no tap, no input, or shapes that do
            not fit together.

    Example:
        >>> causal_convolution(torch.tensor([1.0, 10.0]), torch.arange(4.0))
        tensor([ 0.,  1., 12., 23.])
    """
    is_vector = K_bar.ndim == 1
    K_bar, x = _convolved(K_bar, x)
    taps = len(K_bar)
    windows = pad(x, (0, 0, taps - 1, 0)).unfold(0, taps, 1)
    y = torch.einsum("lik,koi->lo", windows, K_bar.flip(0))
    return y.squeeze(-1) if is_vector else y


def fft_convolution(K_bar: Kernel, x: Signal) -> Response:
    """``causal_convolution`` in O(length log length), by the FFT.

        y = ifft(fft(K_bar) fft(x)),    both padded with zeros

    The product of two Fourier transforms belongs to a convolution on a
    circle. The zeros, at the end, make the circle so long that nothing
    comes round: length + taps - 1.

    Arguments, result and errors: as in ``causal_convolution``.
    """
    return _circular(K_bar, x, len(K_bar) + len(x) - 1)


def wrapped_fft_convolution(K_bar: Kernel, x: Signal) -> Response:
    """The FFT without padding: wrong, as the end comes round to the start.

        y_k = sum over j of K_bar_j x_{(k-j) mod length}

    The first outputs then hold inputs that are yet to come; taps beyond
    length are left out.

    Arguments, result and errors: as in ``causal_convolution``.

    Example:
        >>> x = torch.tensor([0.0, 0.0, 0.0, 1.0])
        >>> y = wrapped_fft_convolution(torch.tensor([1.0, 0.5]), x)
        >>> y.round(decimals=6).abs()  # y_0 knows x_3
        tensor([0.5000, 0.0000, 0.0000, 1.0000])
    """
    return _circular(K_bar, x, len(x))


def toeplitz_matrix(
    K_bar: Inexact[Tensor, " taps"], length: int | None = None
) -> Inexact[Tensor, "length length"]:
    """The matrix M of a causal convolution, y = M x.

        M_kj = K_bar_{k-j}    where k >= j, else 0

    The same number all along each diagonal: the stripes of a system that
    treats all times alike. Of an ``impulse_response`` it includes D.

    Args:
        K_bar: one input, one output.
        length: of x and y; the number of taps if None.

    Returns:
        M, lower triangular.

    Raises:
        TypeError: K_bar holds integers, or length is no int.
        ValueError: a NaN, an infinity, no tap, more than one input or output,
            or length < 1.

    Example:
        >>> toeplitz_matrix(torch.tensor([1.0, 0.5, 0.25]))
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 1.0000, 0.0000],
                [0.2500, 0.5000, 1.0000]])
    """
    (K_bar,) = _checked(K_bar=K_bar)
    _expect(K_bar.ndim == 1 and len(K_bar) > 0, K_bar, "K_bar", "(taps,)")
    length = len(K_bar) if length is None else length
    expect_whole(1, length=length)
    K_bar = pad(K_bar, (0, max(0, length - len(K_bar))))
    k = torch.arange(length, device=K_bar.device)
    lag = k[:, None] - k
    return torch.where(lag >= 0, K_bar[lag.clamp(min=0)], 0)


def time_varying_matrix(
    A_bar: Inexact[Tensor, "length d_state"]
    | Inexact[Tensor, "length d_state d_state"],
    B_bar: Inexact[Tensor, "length d_state"],
    C: Inexact[Tensor, "length d_state"],
    D: Inexact[Tensor, " length"] | Inexact[Tensor, ""] | Number = 0.0,
) -> Inexact[Tensor, "length length"]:
    """The matrix M of a system that changes at every step, y = M x.

        h_k  = A_bar_k h_{k-1} + B_bar_k x_k,    y_k = C_k h_k + D_k x_k
        M_kj = C_k A_bar_k ... A_bar_{j+1} B_bar_j  (+ D_k where k = j)

    Lower triangular, but no longer striped: no one kernel does it. Row k says
    how much of each past input is in y_k, as a row of attention does.

    Args:
        A_bar: one diagonal, or one matrix, for each step.
        B_bar, C: one for each step.
        D: one for each step, or one for all.

    Returns:
        M.

    Raises:
        ValueError: no step, or shapes that do not fit. The values are not
            checked.

    Example:
        >>> ones = torch.ones(3, 1)
        >>> reset = torch.tensor([[0.5], [0.5], [0.0]])  # forget all at k = 2
        >>> time_varying_matrix(reset, ones, ones)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 1.0000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    # Values are not checked, so that torch.vmap can run this over channels.
    D = torch.as_tensor(D, dtype=None if isinstance(D, Tensor) else C.dtype)
    _expect(B_bar.ndim == 2 and len(B_bar) > 0, B_bar, "B_bar", "(length, n)")
    wanted = tuple(B_bar.shape)
    _expect(C.shape == wanted, C, "C", f"{wanted}")
    shapes = (wanted, (*wanted, wanted[1]))
    _expect(A_bar.shape in shapes, A_bar, "A_bar", f"{wanted} or {shapes[1]}")
    _expect(D.shape in ((), wanted[:1]), D, "D", f"() or {wanted[:1]}")
    A_bar, B_bar, C, D = _one_dtype(A_bar, B_bar, C, D)
    length, rows = wanted[0], []
    h = B_bar[:0]  # the state that each past input of size 1 has left
    for k in range(length):
        h = torch.cat([_apply(A_bar[k], h), B_bar[k : k + 1]])  # k + 1, n
        rows.append(pad(h @ C[k], (0, length - 1 - k)))
    return torch.stack(rows) + torch.diag(D.expand(length))


def controllability_matrix(
    A: Matrix, B: Inputs
) -> Inexact[Tensor, "d_state n_columns"]:
    """Where the input can push the state, directly and through A.

        [B, A B, A^2 B, ..., A^(d_state - 1) B]

    Its rank is the number of directions that an input can reach.

    Args:
        A, B: continuous or discrete.

    Returns:
        (d_state, d_state d_in), the powers one after the other.

    Raises:
        TypeError: A or B holds integers.
        ValueError: a NaN, an infinity, or shapes that do not fit.

    Source: Kalman 1963, doi 10.1137/0301010.
    """
    A, B, _, _ = _matrices(A, B, B.reshape(len(B), -1).T, 0.0)
    columns = [B]
    for _ in range(len(A) - 1):
        columns.append(_apply(A, columns[-1].T).T)
    return torch.cat(columns, dim=1)


def observability_matrix(
    A: Matrix, C: Outputs
) -> Inexact[Tensor, "n_rows d_state"]:
    """What of the state the output can show, directly and through A.

        [C; C A; C A^2; ...; C A^(d_state - 1)]

    Its rank is the number of directions that an output can show.

    Args:
        A, C: continuous or discrete.

    Returns:
        (d_state d_out, d_state), the powers one below the other.

    Raises:
        TypeError, ValueError: as ``controllability_matrix``.

    Source: Kalman 1963, doi 10.1137/0301010.
    """
    transposed = A if A.ndim == 1 else A.T
    return controllability_matrix(transposed, C if C.ndim == 1 else C.T).T


def controllability_rank(A: Matrix, B: Inputs, tolerance: float = 1e-9) -> int:
    """How many independent directions of the state an input can reach.

    A is first divided by its norm, which changes no rank and keeps the powers
    in range. Even so they grow alike: beyond some ten states in double
    precision, the answer is no longer to be trusted.

    Args:
        A, B: continuous or discrete.
        tolerance: singular values below this times the largest count as 0.

    Returns:
        From 0 to d_state.

    Raises:
        TypeError, ValueError: as ``controllability_matrix``; a tolerance
            below 0.
    """
    expect_not_negative(tolerance=tolerance)
    reached = controllability_matrix(A / _norm(A), B)
    return int(torch.linalg.matrix_rank(reached, rtol=tolerance))


def observability_rank(A: Matrix, C: Outputs, tolerance: float = 1e-9) -> int:
    """How many independent directions of the state an output can show.

    Arguments, result and errors: as in ``controllability_rank``, with C.
    """
    expect_not_negative(tolerance=tolerance)
    shown = observability_matrix(A / _norm(A), C)
    return int(torch.linalg.matrix_rank(shown, rtol=tolerance))


def is_minimal(
    A: Matrix, B: Inputs, C: Outputs, tolerance: float = 1e-9
) -> bool:
    """Whether no system with fewer states has the same outputs.

    So it is where inputs reach every direction of the state, and the output
    shows every one.

    Args:
        A, B, C: continuous or discrete.
        tolerance: as in ``controllability_rank``, with its limits.

    Raises:
        TypeError, ValueError: as ``controllability_rank``.

    Example:
        >>> A, B, C = -torch.arange(1.0, 3.0), torch.ones(2), torch.ones(2)
        >>> is_minimal(A, B, C)
        True
        >>> is_minimal(*add_redundant_state(A, B, C, torch.ones(2)))
        False
    """
    reached = controllability_rank(A, B, tolerance)
    shown = observability_rank(A, C, tolerance)
    return reached == shown == len(A)


def change_basis(
    A: Matrix,
    B: Inputs,
    C: Outputs,
    T: Inexact[Tensor, "d_state d_state"],
) -> tuple[Inexact[Tensor, "d_state d_state"], Inputs, Outputs]:
    """The same system for the state T h: other matrices, the same output.

        A -> T A T^-1,    B -> T B,    C -> C T^-1

    D stays, and so does the kernel: C T^-1 (T A T^-1)^k T B = C A^k B.

    Args:
        A, B, C: continuous or discrete.
        T: has an inverse.

    Returns:
        The new A, B and C; A is a matrix even if it was a diagonal.

    Raises:
        TypeError: an argument holds integers.
        ValueError: a NaN, an infinity, or a T of another shape than A.
        torch.linalg.LinAlgError: T has no inverse.
    """
    A, B, C, T = _one_dtype(*_checked(A=A, B=B, C=C, T=T))
    A = torch.diag(A) if A.ndim == 1 else A
    _expect(T.shape == A.shape, T, "T", f"{tuple(A.shape)}")
    over_T = torch.linalg.inv(T)
    return T @ A @ over_T, T @ B, C @ over_T


def add_redundant_state(
    A: Matrix, B: Inputs, C: Outputs, weights: State
) -> tuple[Inexact[Tensor, "n n"], Inexact[Tensor, "n ..."], Tensor]:
    """One state more, which is a sum of the others and tells nothing new.

        h -> [h; w h],    A -> [A  0; w A  0],    B -> [B; w B],    C -> [C  0]

    The output stays; after a ``change_basis`` the new state is also hidden.

    Args:
        A, B, C: a continuous system, or a discrete one.
        weights: w, one for each state.

    Returns:
        The new A, a matrix, B and C.

    Raises:
        TypeError: an argument holds integers.
        ValueError: a NaN, an infinity, or weights that are not (d_state,).
    """
    A, B, C, w = _one_dtype(*_checked(A=A, B=B, C=C, weights=weights))
    A = torch.diag(A) if A.ndim == 1 else A
    _expect(w.shape == A.shape[:1], w, "weights", f"({len(A)},)")
    taller = torch.cat([A, (w @ A)[None]])
    return pad(taller, (0, 1)), torch.cat([B, (w @ B)[None]]), pad(C, (0, 1))


def superposition_error(
    system: Callable[[Tensor], Tensor],
    x_1: Inexact[Tensor, "*shape"],
    x_2: Inexact[Tensor, "*shape"],
    weights: tuple[float, float] = (2.0, -3.0),
) -> float:
    """How far a system is from linear, on two inputs.

        max |S(a x_1 + b x_2) - (a S(x_1) + b S(x_2))| / max |S(...)|

    Args:
        system: from x to y; any function, such as a layer.
        x_1, x_2: two inputs of one shape.
        weights: a and b.

    Returns:
        About the rounding, 1e-16, for a linear system; 0 where y is 0.

    Example:
        >>> x = torch.tensor([1.0, 2.0]).double()
        >>> superposition_error(lambda x: 3 * x, x, x) < 1e-15
        True
        >>> superposition_error(torch.square, x, x)
        2.0
    """
    a, b = weights
    summed = system(a * x_1 + b * x_2)
    apart = a * system(x_1) + b * system(x_2)
    return _relative(summed - apart, summed)


def shift_error(
    system: Callable[[Tensor], Tensor],
    x: Inexact[Tensor, "length ..."],
    steps: int,
) -> float:
    """How far a system is from time-invariant, on one input.

        max |S(x delayed) - S(x) delayed| / max |S(x)|

    A delay by some steps puts as many zeros in front and drops as many at the
    end.

    Args:
        system: from x to y; any function, such as a layer.
        x: an input, time first.
        steps: of the delay, from 1 to length - 1.

    Returns:
        About the rounding, 1e-16, for a time-invariant system.

    Raises:
        TypeError: steps is no int.
        ValueError: a delay by less than 1 step or more than length - 1.

    Example:
        >>> louder = torch.tensor([1.0, 2.0, 4.0])
        >>> shift_error(lambda x: louder * x, torch.ones(3), 1)
        0.5
    """
    expect_whole(1, steps=steps)
    if steps >= len(x):
        raise ValueError(
            f"steps must be from 1 to {len(x) - 1}, as x has {len(x)}; "
            f"got {steps}"
        )

    def delayed(signal: Tensor) -> Tensor:
        zeros = torch.zeros_like(signal[:steps])
        return torch.cat([zeros, signal[:-steps]])

    y = system(x)
    return _relative(system(delayed(x)) - delayed(y), y)


def _circular(K_bar: Tensor, x: Tensor, circle: int) -> Tensor:
    """The convolution on a circle of so many steps."""
    is_vector = K_bar.ndim == 1
    is_complex = K_bar.is_complex() or x.is_complex()
    K_bar, x = _convolved(K_bar, x)
    K_hat = torch.fft.fft(K_bar, circle, dim=0)
    x_hat = torch.fft.fft(x, circle, dim=0)
    y_hat = torch.einsum("foi,fi->fo", K_hat, x_hat)
    y = torch.fft.ifft(y_hat, dim=0)[: len(x)]
    y = y if is_complex else y.real
    return y.squeeze(-1) if is_vector else y


def _apply(A: Tensor, h: Tensor) -> Tensor:
    """A h, for a matrix A or its diagonal, and one state h or rows of them."""
    return A * h if A.ndim == 1 else h @ A.T


def _matrices(
    A: Tensor, B: Tensor, C: Tensor, D: Tensor | Number
) -> list[Tensor]:
    """The system in one dtype, B, C and D as matrices."""
    A, B, C, D = _one_dtype(*_checked(A=A, B=B, C=C, D=D))
    n = A.shape[:1]
    fits = A.ndim > 0 and A.shape in (n, n + n)
    _expect(fits, A, "A", "(d_state,) or (d_state, d_state)")
    fits = B.ndim in (1, 2) and B.shape[:1] == n
    _expect(fits, B, "B", f"({len(A)},) or ({len(A)}, d_in)")
    fits = C.ndim in (1, 2) and C.shape[-1:] == n
    _expect(fits, C, "C", f"({len(A)},) or (d_out, {len(A)})")
    B = B[:, None] if B.ndim == 1 else B
    C = C[None] if C.ndim == 1 else C
    full = C.shape[0], B.shape[1]
    if D.ndim == 0 and (full == (1, 1) or D == 0):
        D = D.expand(full)
    _expect(D.shape == full, D, "D", f"{full}, or be 0")
    return [A, B, C, D]


def _driven(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | Number,
    x: Tensor,
    initial_state: Tensor | None,
) -> list[Tensor]:
    """As ``_matrices``, with x as (length, d_in) and the state before it."""
    A, B_matrix, C, D = _matrices(A, B, C, D)
    (x,) = _checked(x=x)
    inputs = B.shape[1:]
    fits = x.ndim > 0 and len(x) > 0 and x.shape[1:] == inputs
    wanted = f"(length, {inputs[0]})" if inputs else "(length,)"
    _expect(fits, x, "x", f"{wanted}, length > 0")
    x = x if inputs else x[:, None]
    return _one_dtype(A, B_matrix, C, D, x, _initial(A, initial_state))


def _convolved(K_bar: Tensor, x: Tensor) -> list[Tensor]:
    """The kernel as (taps, d_out, d_in), the input as (length, d_in)."""
    K_bar, x = _one_dtype(*_checked(K_bar=K_bar, x=x))
    fits = K_bar.ndim in (1, 3) and len(K_bar) > 0
    _expect(fits, K_bar, "K_bar", "(taps,) or (taps, d_out, d_in)")
    inputs = K_bar.shape[2:]
    fits = x.ndim > 0 and len(x) > 0 and x.shape[1:] == inputs
    wanted = f"(length, {inputs[0]})" if inputs else "(length,)"
    _expect(fits, x, "x", f"{wanted}, length > 0")
    if K_bar.ndim == 1:
        return [K_bar[:, None, None], x[:, None]]
    return [K_bar, x]


def _initial(A: Tensor, initial_state: Tensor | None) -> Tensor:
    """The state before the first input."""
    if initial_state is None:
        return A.new_zeros(len(A))
    (h,) = _checked(initial_state=initial_state)
    _expect(h.shape == A.shape[:1], h, "initial_state", f"({len(A)},)")
    return h


def _norm(A: Tensor) -> Tensor:
    """The largest singular value of a matrix or a diagonal, never 0."""
    A = torch.diag(A) if A.ndim == 1 else A
    tiny = torch.finfo(A.dtype).tiny
    return torch.linalg.matrix_norm(A, 2).clamp(min=tiny)


def _relative(error: Tensor, y: Tensor) -> float:
    """The largest error over the largest y; as it is where y is 0."""
    size = y.abs().max()
    return (error.abs().max() / torch.where(size > 0, size, 1)).item()
