"""H3 against a sum over all pairs of positions."""

import pytest
import torch

from mambaviz.models.h3 import H3
from tests.models import layer_cases as cases
from tests.models.layer_cases import error
from tests.models.mamba_cases import gradients, normal, perturbed

# float64 here and there; the sums differ in their order only.
RELATIVE = 1e-12


def h3(n_heads=None, d_state=6):
    torch.manual_seed(0)
    layer = H3(4, d_state, n_heads, dt_min=0.01, dt_max=0.5)
    return perturbed(layer, size=0.2).double()


@pytest.fixture(params=[4, 2, 1])
def layer(request):
    return h3(request.param)


def directly(layer, x):
    """Algorithm 1, each SSM as the system it is, in O(length^2)."""
    p = dict(layer.named_parameters())
    q, k, v = (
        x @ p[f"{name}_proj.weight"].T + p[f"{name}_proj.bias"]
        for name in "qkv"
    )
    batch, length, d_model = x.shape
    n = layer.d_state
    shift_A = torch.diag(torch.ones(n - 1, dtype=x.dtype), -1)
    e_1 = torch.eye(n, dtype=x.dtype)[0]
    h, shifted = torch.zeros(batch, d_model, n, dtype=x.dtype), []
    for t in range(length):
        h = h @ shift_A.T + k[:, t, :, None] * e_1
        shifted.append((p["shift_C"] * h).sum(-1) + p["shift_D"] * k[:, t])
    k_bar = torch.stack(shifted, 1)

    Lambda = torch.complex(
        -p["diagonal.log_A_real"].exp(), p["diagonal.A_imag"]
    )
    B = torch.view_as_complex(p["diagonal.B"])
    C = torch.view_as_complex(p["diagonal.C"])
    delta = p["diagonal.log_dt"].exp()[:, None]
    A_bar = (1 + delta / 2 * Lambda) / (1 - delta / 2 * Lambda)
    B_bar = delta * B / (1 - delta / 2 * Lambda)
    d_head = d_model // layer.n_heads
    rows = []
    for t in range(length):
        heads = []
        for head in range(layer.n_heads):
            part = slice(head * d_head, (head + 1) * d_head)
            y = torch.zeros(batch, d_head, dtype=x.dtype)
            for s in range(t + 1):
                lag = A_bar[head] ** (t - s)
                weight = 2 * (C[head] * lag * B_bar[head]).sum().real
                if s == t:
                    weight = weight + p["diagonal.D"][head]
                score = (q[:, t, part] * k_bar[:, s, part]).sum(-1)
                y = y + weight * score[:, None] * v[:, s, part]
            heads.append(y)
        rows.append(torch.cat(heads, -1))
    y = torch.stack(rows, 1)
    return y @ p["out_proj.weight"].T + p["out_proj.bias"]


def test_it_is_its_definition_with_all_gradients(layer):
    x = normal(2, 9, 4)
    ours, plain = layer(x), directly(layer, x)
    assert error(ours, plain) < RELATIVE
    expected = gradients(plain, layer)
    for name, gradient in gradients(ours, layer).items():
        assert expected[name].norm() > 0, name
        # One factor k more than in the values, from A_bar^k.
        assert error(gradient, expected[name]) < 10 * RELATIVE, name


def test_a_sequence_shorter_than_the_shift_is_as_good(layer):
    x = normal(2, 3, 4)
    assert error(layer(x), directly(layer, x)) < RELATIVE


def test_first_values_and_parameters():
    torch.manual_seed(0)
    layer = H3(64, 16, n_heads=8)
    assert layer.d_head == 8
    assert layer.diagonal.rule == "bilinear"
    assert 0.24 < layer.shift_C.abs().max() <= 0.25  # within 16^-1/2
    imaginary = torch.pi * torch.arange(8.0)  # S4D-Lin
    assert error(layer.diagonal.A_imag, imaginary.expand(8, -1)) < 1e-6
    count = sum(p.numel() for p in layer.parameters())
    expected = 4 * 64 * 65 + 64 * (16 + 1) + 8 * (3 * 16 + 2)
    assert count == expected


def test_the_state_has_a_size_of_its_own():
    layer = h3(n_heads=2)
    _, after_3 = layer(normal(2, 3, 4), None, True)
    _, after_30 = layer(normal(2, 30, 4), None, True)
    for short, long in zip(after_3, after_30, strict=True):
        assert short.shape == long.shape
    assert after_3.shift.shape == (2, 4, 5)
    assert after_3.diagonal.shape == (2, 2, 2, 2, 3)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_state": 5}, "d_state must be even .* got 5"),
        ({"n_heads": 3}, "n_heads must divide d_model; 3 does not divide 4"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        H3(4, **options)
