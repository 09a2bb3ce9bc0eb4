"""Hyena against a sum over all pairs, and its state that grows."""

import math

import numpy as np
import pytest
import torch

from mambaviz.models.hyena import Hyena, HyenaFilter
from tests.models import layer_cases as cases
from tests.models.layer_cases import error
from tests.models.mamba_cases import gradients, normal, perturbed

# float64 here and there; the sums differ in their order only.
RELATIVE = 1e-12


@pytest.fixture(params=[3, 1])
def layer(request):
    torch.manual_seed(0)
    layer = Hyena(4, 64, d_conv=request.param, d_filter=8, n_features=5)
    # Small: what is inside the sines is 14 times as large.
    return perturbed(layer, size=0.05).double()


def kernel_by_numpy(drawn, length):
    """Equation 7, lag by lag."""
    p = {n: t.detach().numpy() for n, t in drawn.named_parameters()}
    L = drawn.max_length
    n_bands = (p["layers.0.weight"].shape[1] - 1) // 2
    bands = np.linspace(1e-4, n_bands - 1, n_bands)
    d_model = p["out_proj.weight"].shape[0]
    decay = np.linspace(math.log(100) / 1.5, math.log(100) / 0.3, d_model)
    rows = []
    for lag in range(length):
        angle = 2 * np.pi * bands * lag / L
        t = lag / (L - 1)
        u = np.concatenate([[t], np.cos(angle), -np.sin(angle)])
        for i in range(3):
            u = p[f"layers.{i}.weight"] @ u + p[f"layers.{i}.bias"]
            u = np.sin(p["frequency"] * u)
        rows.append(np.exp(-t * decay) * (p["out_proj.weight"] @ u))
    return torch.tensor(np.stack(rows, -1))


def directly(layer, x):
    """Algorithm 3 with sums in the place of convolutions."""
    p = dict(layer.named_parameters())
    z = x @ p["in_proj.weight"].T + p["in_proj.bias"]
    short, d_conv = [], layer.d_conv
    for t in range(x.shape[1]):
        total = p["short_conv.bias"].expand(len(x), -1)
        for j in range(min(d_conv, t + 1)):
            tap = p["short_conv.weight"][:, 0, d_conv - 1 - j]
            total = total + tap * z[:, t - j]
        short.append(total)
    q, k, v = torch.stack(short, 1).split(4, dim=-1)
    h = layer.filter(x.shape[1])
    ys = []
    for t in range(x.shape[1]):
        total = p["D"] * k[:, t] * v[:, t]
        for s in range(t + 1):
            total = total + h[:, t - s] * k[:, s] * v[:, s]
        ys.append(q[:, t] * total)
    y = torch.stack(ys, 1)
    return y @ p["out_proj.weight"].T + p["out_proj.bias"]


def test_it_is_its_definition_with_all_gradients(layer):
    x = normal(2, 9, 4)
    ours, plain = layer(x), directly(layer, x)
    assert error(ours, plain) < RELATIVE
    expected = gradients(plain, layer)
    for name, gradient in gradients(ours, layer).items():
        assert expected[name].norm() > 0, name
        assert error(gradient, expected[name]) < RELATIVE, name


def test_the_kernel_is_equation_7():
    torch.manual_seed(0)
    drawn = HyenaFilter(3, 20, d_filter=8, n_features=7).double()
    expected = kernel_by_numpy(drawn, 20)
    # A sine of 14 times a sum multiplies its rounding by 14, three times.
    assert error(drawn(20), expected) < 1e-10
    assert error(drawn(7), drawn(20)[:, :7]) < RELATIVE


def test_the_window_leaves_a_hundredth():
    """At 1.5 and at 0.3 of the longest length, outermost channels."""
    drawn = HyenaFilter(3, 101).double()
    with torch.no_grad():
        flat = drawn.layers[-1]  # the FFN is 1 everywhere
        flat.weight.zero_()
        flat.bias.copy_(torch.pi / 2 / drawn.frequency)
        drawn.out_proj.weight.fill_(1 / 64)
    h = drawn(101)
    assert h[2, 30].item() == pytest.approx(0.01, rel=1e-9)
    assert h[0, 100].item() == pytest.approx(0.01 ** (1 / 1.5), rel=1e-9)


def test_parameters_do_not_depend_on_the_length():
    counts = [
        sum(p.numel() for p in Hyena(16, length).parameters())
        for length in (32, 4096)
    ]
    of_filter = (33 * 64 + 64) + 2 * (64 * 64 + 64) + 64 * 16 + 64
    expected = 4 * 16 * 17 + 3 * 16 * (3 + 1) + 16 + of_filter
    assert counts == [expected, expected]


def test_its_state_grows_with_the_text(layer):
    state = layer.initial_state(2, dtype=torch.float64)
    assert state.past.shape == (2, 0, 4)
    for t in range(1, 4):
        _, state = layer.step(normal(2, 4, seed=t), state)
        assert state.past.shape == (2, t, 4)
    assert state.conv.shape == (2, 12, layer.d_conv - 1)


def test_three_ways_give_one_result(layer):
    cases.check_three_ways(layer)


def test_both_ways_have_the_same_gradients(layer):
    cases.check_gradients_of_both_ways(layer)


def test_a_step_keeps_its_state(layer):
    cases.check_step_keeps_its_state(layer)


def test_it_is_causal(layer):
    cases.check_causal(layer)


@pytest.mark.usefixtures("outside_tests")
def test_bad_input_is_refused(layer):
    cases.check_refusals(layer.float())


def test_precisions(layer):
    cases.check_precisions(layer)


def test_a_text_longer_than_the_kernel_is_refused():
    layer = Hyena(4, 6, d_filter=8, n_features=5)
    _, state = layer(torch.ones(1, 5, 4), None, True)
    with pytest.raises(ValueError, match="max_length = 6 tokens; got 7, 5 of"):
        layer(torch.ones(1, 2, 4), state)
    with pytest.raises(ValueError, match="max_length = 6 tokens; got 7, 0 of"):
        layer(torch.ones(1, 7, 4))
    _, state = layer.step(torch.ones(1, 4), state)
    with pytest.raises(ValueError, match="max_length = 6 tokens; got 7, 6 of"):
        layer.step(torch.ones(1, 4), state)


@pytest.mark.parametrize("n_features", [1, 4])
def test_bad_features_are_refused(n_features):
    with pytest.raises(
        ValueError, match=f"odd .* at least 3; got {n_features}"
    ):
        Hyena(4, 8, n_features=n_features)
