r"""Bodies that move: the systems with which the book begins.

    h'(t) = A h(t) + B x(t),    y(t) = C h(t) + D x(t)

The state is made of positions q and velocities q', the input is a force, and
the output a position. Units are m, kg, s and N.

See: the chapter ``state-space-models``.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mambaviz.theory.checks import expect_not_negative, expect_positive


def mass_spring(
    mass: float, stiffness: float, damping: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A mass on a spring: the state is its position and its velocity.

        mass q'' + damping q' + stiffness q = x,    h = (q, q'),    y = q

    Args:
        mass: in kg, positive.
        stiffness: in N/m, at least 0.
        damping: in N s/m, at least 0; at ``critical_damping`` the mass
            returns as fast as it can without passing its place of rest.

    Returns:
        A (2, 2), B (2,), C (2,) and D (), float64; x is a force in N.

    Raises:
        ValueError: a mass that is not positive, or a negative stiffness or
            damping.

    Example:
        >>> A, _, _, _ = mass_spring(mass=2.0, stiffness=8.0, damping=1.0)
        >>> A
        tensor([[ 0.0000,  1.0000],
                [-4.0000, -0.5000]], dtype=torch.float64)
    """
    expect_positive(mass=mass)
    expect_not_negative(stiffness=stiffness, damping=damping)
    rows = [[0.0, 1.0], [-stiffness / mass, -damping / mass]]
    A = torch.tensor(rows, dtype=torch.float64)
    B = torch.tensor([0.0, 1 / mass], dtype=torch.float64)
    C = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return A, B, C, torch.tensor(0.0, dtype=torch.float64)


def critical_damping(mass: float, stiffness: float) -> float:
    """The least damping with which a mass on a spring does not swing.

        damping = 2 sqrt(stiffness mass)

    Both eigenvalues of A are then -sqrt(stiffness / mass).

    Args:
        mass: in kg, positive.
        stiffness: in N/m, positive.

    Returns:
        The damping, in N s/m.

    Raises:
        ValueError: one of them is not positive.

    Example:
        >>> critical_damping(mass=2.0, stiffness=8.0)
        8.0
    """
    expect_positive(mass=mass, stiffness=stiffness)
    return 2 * math.sqrt(stiffness * mass)


def body_in_space(mass: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A body in three dimensions: six states, three inputs, three outputs.

        q'' = x / mass,    h = (q, q'),    y = q

    Args:
        mass: in kg, positive.

    Returns:
        A (6, 6), B (6, 3), C (3, 6) and D (3, 3), float64; x is a force in N.

    Raises:
        ValueError: a mass that is not positive.
    """
    expect_positive(mass=mass)
    I = torch.eye(3, dtype=torch.float64)
    O = torch.zeros_like(I)
    A = torch.cat([torch.cat([O, I], 1), torch.cat([O, O], 1)])
    return A, torch.cat([O, I / mass]), torch.cat([I, O], 1), O


def turning_force(
    t: Float[Tensor, "*times"],
    mass: float,
    thrust: float,
    turn_rate: float,
    gravity: float = 9.81,
) -> Float[Tensor, "*times 3"]:
    """A thrust that turns in the horizontal plane, and the weight.

        x(t) = (thrust cos(w t), thrust sin(w t), -gravity mass)

    Args:
        t: in s.
        mass: in kg.
        thrust: in N.
        turn_rate: w, in rad/s.
        gravity: in m/s^2.

    Returns:
        The force at each time, its axes last, in N.
    """
    turn = turn_rate * t
    weight = torch.full_like(t, -gravity * mass)
    force = thrust * torch.cos(turn), thrust * torch.sin(turn), weight
    return torch.stack(force, dim=-1)


def turning_flight(
    t: Float[Tensor, "*times"],
    mass: float,
    thrust: float,
    turn_rate: float,
    gravity: float = 9.81,
    initial_state: Float[Tensor, " 6"] | None = None,
) -> Float[Tensor, "*times 6"]:
    """The state of a ``body_in_space`` under a ``turning_force``, exactly.

        q(t) = q_0 + v_0 t + r (1 - cos(w t), w t - sin(w t), 0)
               - (0, 0, gravity t^2 / 2),    r = thrust / (mass w^2)
        h(t) = (q(t), q'(t))

    Args:
        t: in s.
        mass, thrust, turn_rate, gravity: as in ``turning_force``; the turn
            rate w is not 0.
        initial_state: position and velocity at t = 0; zero if None.

    Returns:
        Position and velocity at each time, in m and m/s.

    Raises:
        ValueError: a mass that is not positive, or a turn rate of 0.
    """
    expect_positive(mass=mass)
    if turn_rate == 0:
        raise ValueError(f"turn_rate must not be 0; got {turn_rate}")
    start = torch.zeros(6).to(t) if initial_state is None else initial_state
    turn, r = turn_rate * t, thrust / (mass * turn_rate**2)
    flown = torch.stack(
        [
            r * (1 - torch.cos(turn)),
            r * (turn - torch.sin(turn)),
            -gravity * t**2 / 2,
            r * turn_rate * torch.sin(turn),
            r * turn_rate * (1 - torch.cos(turn)),
            -gravity * t,
        ],
        dim=-1,
    )
    drift = torch.cat([start[3:], torch.zeros_like(start[3:])])
    return start + t[..., None] * drift + flown
