"""The solver of differential equations against closed forms."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from mambaviz.theory import solve_ode


def grid(start, end, n):
    return torch.linspace(start, end, n, dtype=torch.float64)


class TestClosedForms:
    @pytest.mark.parametrize("n", [2, 5, 40])
    def test_decay(self, n):
        times = grid(0, 10, n)
        h = solve_ode(lambda t, h: -h, torch.ones(()).double(), times)
        assert (h - torch.exp(-times)).abs().max() <= 1e-14

    def test_turning(self):
        """100 turns: the errors of all the steps add up."""
        times = grid(0, 200 * math.pi, 11)
        one = torch.ones((), dtype=torch.complex128)
        h = solve_ode(lambda t, h: 1j * h, one, times)
        assert (h - torch.exp(1j * times)).abs().max() <= 1e-11

    def test_logistic(self):
        """Not linear: h' = h (1 - h), h = 1 / (1 + 9 e^-t) from 1/10."""
        times = grid(0, 12, 7)
        h = solve_ode(
            lambda t, h: h * (1 - h),
            torch.tensor(0.1, dtype=torch.float64),
            times,
        )
        true = 1 / (1 + 9 * torch.exp(-times))
        assert (h - true).abs().max() <= 1e-13

    def test_slope_that_depends_on_time_alone(self):
        """A quadrature, from a start that is not 0."""
        times = grid(2, 5, 4)
        h = solve_ode(
            lambda t, h: torch.full_like(h, 1 / t),
            torch.zeros(2, 3).double(),
            times,
        )
        assert h.shape == (4, 2, 3)
        true = torch.log(times / 2)[:, None, None].expand_as(h)
        assert (h - true).abs().max() <= 1e-13

    def test_rest(self):
        times = grid(0, 1, 3)
        h = solve_ode(lambda t, h: 0 * h, torch.zeros(2).double(), times)
        assert torch.equal(h, torch.zeros(3, 2).double())

    def test_fast_and_slow(self):
        """A decay that is over at once must not spoil the slow one."""
        rates = torch.tensor([-300.0, -0.5]).double()
        times = grid(0, 3, 4)
        h = solve_ode(lambda t, h: rates * h, torch.ones(2).double(), times)
        error = (h - torch.exp(rates * times[:, None])).abs()
        # What is left of the fast one is rounding, which a step at the limit
        # of stability lets grow before it is seen and refused.
        assert (error.max(0).values <= torch.tensor([1e-10, 1e-13])).all()

    def test_scipys_integrator(self):
        """Van der Pol's oscillator, of which there is no closed form."""

        def slope(t, h):
            return [h[1], 2 * (1 - h[0] ** 2) * h[1] - h[0]]

        times = grid(0, 5, 6)
        start = torch.tensor([1.0, 0.0]).double()
        h = solve_ode(lambda t, h: torch.stack(slope(t, h)), start, times)
        true = solve_ivp(
            slope,
            (0, 5),
            start.tolist(),
            "DOP853",
            times.tolist(),
            rtol=1e-13,
            atol=1e-15,
        )
        assert (h - torch.from_numpy(true.y.T)).abs().max() <= 1e-11


class TestControl:
    @pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10, 1e-13])
    def test_the_error_follows_the_tolerance(self, tolerance):
        times = grid(0, 20, 2)
        one = torch.ones((), dtype=torch.complex128)
        h = solve_ode(lambda t, h: 1j * h, one, times, tolerance)
        # Some ten steps, each with an error of about the tolerance.
        error = (h[-1] - torch.exp(1j * times[-1])).abs()
        assert error <= 20 * tolerance

    def test_less_is_asked_at_less_cost(self):
        calls = 0

        def slope(t, h):
            nonlocal calls
            calls += 1
            return 1j * h

        one, times = torch.ones((), dtype=torch.complex128), grid(0, 20, 2)
        costs = []
        for tolerance in (1e-13, 1e-8, 1e-3):
            calls = 0
            solve_ode(slope, one, times, tolerance)
            costs.append(calls)
        assert costs == sorted(costs, reverse=True)
        assert costs[0] > 1.5 * costs[-1]

    def test_float32_stops_at_its_rounding(self):
        times = torch.linspace(0, 3, 4)
        h = solve_ode(lambda t, h: -h, torch.ones(2), times)
        assert h.dtype == torch.float32
        true = torch.exp(-times)[:, None].expand_as(h)
        # 8 rounding errors a step, and a few steps.
        assert (h - true).abs().max() <= 32 * torch.finfo(torch.float32).eps

    def test_it_lands_on_the_times(self):
        seen = []

        def slope(t, h):
            seen.append(t)
            return -h

        times = torch.tensor([0.1, 0.3, 0.7, 1.1], dtype=torch.float64)
        solve_ode(slope, torch.ones(()).double(), times)
        assert min(seen) == 0.1
        assert max(seen) <= 1.1 * (1 + 1e-15)
        assert set(times.tolist()) <= set(seen)

    def test_gradient(self):
        """h(1) = e^a from h(0) = 1: the slope in a is e^a."""
        a = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
        h = solve_ode(
            lambda t, h: a * h, torch.ones(()).double(), grid(0, 1, 2)
        )
        h[-1].backward()
        assert a.grad.item() == pytest.approx(math.exp(-0.7), rel=1e-12)


class TestRefusals:
    @pytest.mark.parametrize("times", [[0.0, 0.0], [1.0, 0.5]])
    def test_times(self, times):
        times = torch.tensor(times).double()
        with pytest.raises(ValueError, match="times must increase; got"):
            solve_ode(lambda t, h: -h, torch.ones(1).double(), times)

    def test_no_time(self):
        with pytest.raises(ValueError, match="at least one time; got none"):
            solve_ode(
                lambda t, h: -h, torch.ones(1).double(), torch.ones(0).double()
            )

    @pytest.mark.parametrize(
        "slope",
        [
            lambda t, h: h * math.nan,
            lambda t, h: 1 / (h * 0),
            lambda t, h: torch.sign(torch.tensor(t - 0.3).double()) + 0 * h,
        ],
    )
    def test_slopes(self, slope):
        with pytest.raises(ArithmeticError, match="smooth and finite: from"):
            solve_ode(slope, torch.ones(1).double(), grid(0, 1, 2))

    def test_a_state_that_grows_beyond_all_numbers(self):
        with pytest.raises(ArithmeticError, match="from t = "):
            solve_ode(
                lambda t, h: h**2, torch.ones(1).double(), grid(0, 1.5, 2)
            )
