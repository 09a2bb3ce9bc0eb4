r"""Forgetting: how a recurrent state loses its past, and how to read the rest.

    h_t = f(W_h h_{t-1} + W_x x_t),      f = tanh or nothing

A small change of h_{t-k} reaches h_t through k steps,

    dh_t / dh_{t-k} = J_t J_{t-1} ... J_{t-k+1},    J_t = diag(1 - h_t^2) W_h

and J_t = W_h where there is no tanh. The same product carries the past into
the state and, transposed, a gradient back to the past. What is left of an
input is read by a linear probe.

See: the chapter ``recurrent-networks``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mambaviz.theory.checks import expect_not_negative


def stretch_by_lag(
    W_h: Float[Tensor, "d_state d_state"],
    states: Float[Tensor, "batch length d_state"],
    is_linear: bool = False,
) -> Float[Tensor, " lags"]:
    r"""What k steps do to the length of a small change of the state.

        stretch_k = rms over texts of |J_k ... J_1|_F / sqrt(d_state)

    It is how much longer a change in a random direction becomes, and how much
    longer a gradient on its way back. For W_h = rho times an orthogonal matrix
    it is rho^k without the tanh, and at most rho^k with it.

    Args:
        W_h: of the recurrence.
        states: h after each step, in -1..1 after a tanh; the change is made
            before the first.
        is_linear: whether there is no tanh.

    Returns:
        length + 1 numbers, for k = 0 to length; the first is 1.

    Example:
        >>> states = torch.zeros(1, 3, 2)
        >>> stretch_by_lag(0.5 * torch.eye(2), states)
        tensor([1.0000, 0.5000, 0.2500, 0.1250])
    """
    J = torch.eye(len(W_h), dtype=W_h.dtype, device=W_h.device)
    J = J.expand(len(states), -1, -1)
    slopes = torch.ones_like(states) if is_linear else 1 - states**2
    squares = [J.new_ones(())]
    for slope in slopes.unbind(1):
        J = slope[..., None] * (W_h @ J)  # batch d_state d_state
        squares.append(J.square().sum(dim=(1, 2)).mean() / len(W_h))
    return torch.stack(squares).sqrt()


def linear_probe(
    states: Float[Tensor, "samples d_state"],
    targets: Float[Tensor, "samples d_target"],
    ridge: float = 1e-9,
) -> Float[Tensor, "d_state d_target"]:
    """The matrix that reads the targets from the states with least squares.

        W = (H^T H + ridge tr(H^T H) / d_state I)^-1 H^T T

    Args:
        states: H, a sample in each row.
        targets: T, what belongs to each.
        ridge: at least 0; keeps it solvable where states hardly move.

    Returns:
        W; read with ``states @ W``.

    Raises:
        ValueError: a ridge below 0.
        torch.linalg.LinAlgError: the states are all 0, or do not span
            their space and ridge is 0.

    Example:
        >>> states = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
        >>> linear_probe(states, 2 * states[:, 1:] - states[:, :1]).round()
        tensor([[-1.],
                [ 2.]])
    """
    expect_not_negative(ridge=ridge)
    G = states.mT @ states
    I = torch.eye(len(G), dtype=G.dtype, device=G.device)
    noise = ridge * G.trace() / len(G)
    return torch.linalg.solve(G + noise * I, states.mT @ targets)
