"""The bodies of the first chapters against their closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from mambaviz.theory import (
    body_in_space,
    critical_damping,
    is_minimal,
    mass_spring,
    simulate_ode,
    turning_flight,
    turning_force,
)


def grid(end, n):
    return torch.linspace(0, end, n, dtype=torch.float64)


class TestMassSpring:
    """S032."""

    @pytest.mark.parametrize("damping", [0.0, 0.5, 8.0, 20.0])
    def test_let_go(self, damping):
        """From a metre away, without a force: e^(A t)."""
        A, B, C, D = mass_spring(2.0, 8.0, damping)
        start, times = torch.tensor([1.0, 0.0]).double(), grid(5.0, 6)
        y = simulate_ode(A, B, C, D, lambda t: 0.0, times, start)
        true = [expm(t * A.numpy())[0, 0] for t in times.tolist()]
        assert np.abs(y.numpy() - true).max() <= 1e-10

    def test_its_equation(self):
        """mass q'' + damping q' + stiffness q = x."""
        mass, stiffness, damping = 2.0, 7.0, 0.3
        A, B, C, D = mass_spring(mass, stiffness, damping)
        h, x = torch.tensor([0.4, -1.1]).double(), 5.0
        velocity, acceleration = (A @ h + B * x).tolist()
        assert velocity == h[1].item()
        assert mass * acceleration + damping * h[1].item() + (
            stiffness * h[0].item()
        ) == pytest.approx(x)
        assert (C @ h + D * x).item() == h[0].item()

    @pytest.mark.parametrize("s", [0.5j, 2j, 1 + 3j])
    def test_transfer_function(self, s):
        """C (s - A)^-1 B = 1 / (mass s^2 + damping s + stiffness)."""
        mass, stiffness, damping = 3.0, 5.0, 0.7
        A, B, C, _ = (M.numpy() for M in mass_spring(mass, stiffness, damping))
        transfer = C @ np.linalg.solve(s * np.eye(2) - A, B)
        true = 1 / (mass * s**2 + damping * s + stiffness)
        assert transfer == pytest.approx(true, rel=1e-13)

    @pytest.mark.parametrize(("mass", "stiffness"), [(1.0, 1.0), (3.0, 0.2)])
    def test_critical_damping(self, mass, stiffness):
        """Just below it swings; from it on it does not."""
        critical = critical_damping(mass, stiffness)
        rate = math.sqrt(stiffness / mass)
        for factor, swings in [(0.99, True), (1.01, False)]:
            A, _, _, _ = mass_spring(mass, stiffness, factor * critical)
            turns = torch.linalg.eigvals(A).imag.abs().max()
            assert (turns > 0.01 * rate) == swings
        A, _, _, _ = mass_spring(mass, stiffness, critical)
        # A double root: sqrt(2^-52) of it may be lost.
        roots = torch.linalg.eigvals(A)
        assert (roots + rate).abs().max() <= 1e-7

    def test_both_states_are_needed(self):
        A, B, C, _ = mass_spring(2.0, 8.0, 0.5)
        assert is_minimal(A, B, C)
        # From its velocity alone, a free mass's position is not known.
        A, B, _, _ = mass_spring(2.0, 0.0)
        assert not is_minimal(A, B, torch.tensor([0.0, 1.0]).double())


class TestBodyInSpace:
    """S043."""

    FLIGHT = {"mass": 2.0, "thrust": 3.0, "turn_rate": 1.7}

    @pytest.mark.parametrize("start", [None, [1.0, -2.0, 3.0, 4.0, 0.5, 20.0]])
    def test_analytic_trajectory(self, start):
        """<= 1e-9, position and velocity."""
        A, B, _, _ = body_in_space(2.0)
        if start is not None:
            start = torch.tensor(start, dtype=torch.float64)
        times, identity = grid(4.0, 9), torch.eye(6).double()
        h = simulate_ode(
            A,
            B,
            identity,
            0.0,
            lambda t: turning_force(t, **self.FLIGHT),
            times,
            start,
        )
        true = turning_flight(times, **self.FLIGHT, initial_state=start)
        assert h.shape == true.shape == (9, 6)
        assert (h - true).abs().max() <= 1e-9
        # It flies: the agreement is not one of zeros.
        assert (true[-1] - true[0]).abs().min() > 0.05

    def test_output_is_the_position(self):
        times = grid(2.0, 3)
        y = simulate_ode(
            *body_in_space(2.0),
            lambda t: turning_force(t, **self.FLIGHT),
            times,
        )
        true = turning_flight(times, **self.FLIGHT)
        assert (y - true[:, :3]).abs().max() <= 1e-9

    def test_the_trajectory_obeys_newton(self):
        """Its second derivative, by autograd, is force / mass."""
        t = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

        h = turning_flight(t, **self.FLIGHT)
        force = turning_force(t, **self.FLIGHT)
        for axis in range(3):
            (velocity,) = torch.autograd.grad(h[axis], t, create_graph=True)
            assert velocity.item() == pytest.approx(h[axis + 3].item())
            (acceleration,) = torch.autograd.grad(
                velocity, t, retain_graph=True
            )
            newton = (force[axis] / self.FLIGHT["mass"]).item()
            assert acceleration.item() == pytest.approx(newton, rel=1e-12)

    def test_thrown(self):
        """Without thrust, a parabola."""
        start = torch.tensor([0.0, 0, 2, 3, 0, 10]).double()
        h = turning_flight(
            grid(1.0, 2), 1.0, 0.0, 1.0, gravity=10.0, initial_state=start
        )
        assert h[1].tolist() == [3.0, 0.0, 7.0, 3.0, 0.0, 0.0]


class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda: mass_spring(0.0, 1.0), "mass must be positive.* got 0.0"),
            (
                lambda: mass_spring(1.0, -2.0),
                "stiffness must be at least 0 and finite; got -2.0",
            ),
            (
                lambda: mass_spring(1.0, 1.0, math.nan),
                "damping must be at least 0 and finite; got nan",
            ),
            (lambda: critical_damping(1.0, -1.0), "stiffness .* got -1.0"),
            (lambda: body_in_space(-2.0), "mass .* got -2.0"),
            (
                lambda: turning_flight(grid(1.0, 2), 1.0, 1.0, 0.0),
                "turn_rate must not be 0; got 0.0",
            ),
        ],
    )
    def test_quantities(self, call, words):
        with pytest.raises(ValueError, match=words):
            call()
