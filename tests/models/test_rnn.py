"""The RNN against torch.nn.RNN, and how its memory fades."""

import pytest
import torch
from torch import nn

from mambaviz.models import generate
from mambaviz.models.rnn import RNN, RNNLM
from tests.models import layer_cases as cases
from tests.models.layer_cases import error
from tests.models.mamba_cases import normal, seeded, some_ids

# float64 here and there; the sums differ in their order only.
RELATIVE = 1e-13


def rnn(**options):
    torch.manual_seed(0)
    return RNN(4, 6, **options).double()


@pytest.fixture(params=["tanh", "identity"])
def layer(request):
    return rnn(activation=request.param)


def pairs(ours, theirs):
    return [(ours.W_x, theirs.weight_ih_l0), (ours.W_h, theirs.weight_hh_l0)]


@pytest.mark.parametrize("to_torch", [True, False])
def test_it_is_the_rnn_of_torch_with_its_gradients(to_torch):
    ours, theirs = rnn(), nn.RNN(4, 6, batch_first=True).double()
    with torch.no_grad():
        for mine, other in pairs(ours, theirs):
            other.copy_(mine) if to_torch else mine.copy_(other)
        if to_torch:
            theirs.bias_ih_l0.copy_(ours.b / 4)
            theirs.bias_hh_l0.copy_(ours.b * 3 / 4)
        else:
            ours.b.copy_(theirs.bias_ih_l0 + theirs.bias_hh_l0)
    x = normal(2, 9, 4).requires_grad_()
    h_0 = normal(2, 6, seed=1).requires_grad_()
    hs = ours.states(x, h_0)
    expected, last = theirs(x, h_0[None])
    assert error(hs, expected) < RELATIVE
    assert error(ours(x, h_0, True)[1], last[0]) < RELATIVE
    weights = normal(*hs.shape, seed=7)
    mine = [x, h_0, ours.W_x, ours.W_h, ours.b]
    others = [x, h_0, theirs.weight_ih_l0, theirs.weight_hh_l0]
    found = torch.autograd.grad((weights * hs).sum(), mine)
    wanted = torch.autograd.grad(
        (weights * expected).sum(), [*others, theirs.bias_hh_l0]
    )
    for gradient, target in zip(found, wanted, strict=True):
        assert error(gradient, target) < RELATIVE


def test_the_output_is_a_linear_view_of_the_state():
    layer, x = rnn(d_out=3), normal(2, 5, 4)
    expected = nn.functional.linear(layer.states(x), layer.W_y, layer.b_y)
    assert layer(x).shape == (2, 5, 3)
    assert error(layer(x), expected) < RELATIVE


def test_first_values_are_those_of_torch():
    torch.manual_seed(0)
    layer = RNN(20, 100)
    # Uniform within 1/10: all of 20,000 values are, and reach near the end.
    for parameter in (layer.W_h, layer.W_x, layer.W_y):
        assert 0.0999 < parameter.abs().max() <= 0.1
        # The root mean square of that distribution is 0.1 / sqrt(3).
        spread = parameter.square().mean().sqrt().item()
        assert spread == pytest.approx(0.1 / 3**0.5, rel=0.03)
    count = sum(p.numel() for p in layer.parameters())
    assert count == 100 * (100 + 20 + 1) + 20 * (100 + 1)


def jacobian_norms(layer, lags):
    """Of dh_t / dh_{t-k}, for each k: the largest and smallest stretch."""
    x = normal(1, max(lags), 4, seed=2)
    found = []
    for k in lags:
        jacobian = torch.autograd.functional.jacobian(
            lambda h, k=k: layer.states(x[:, :k], h[None])[0, -1],
            normal(6, seed=3),
        )
        stretches = torch.linalg.svdvals(jacobian)
        found.append((stretches[0].item(), stretches[-1].item()))
    return found


@pytest.mark.parametrize("radius", [0.5, 0.9, 1.0, 1.1])
def test_a_linear_memory_fades_as_a_power_of_its_radius(radius):
    torch.manual_seed(0)
    layer = RNN(4, 6, activation="identity", radius=radius).double()
    with torch.no_grad():  # orthogonal_ is exact to float32 only
        U, _, V = torch.linalg.svd(layer.W_h)
        layer.W_h.copy_(radius * U @ V)
    lags = [1, 4, 30]
    for k, (largest, smallest) in zip(
        lags, jacobian_norms(layer, lags), strict=True
    ):
        assert largest == pytest.approx(radius**k, rel=1e-12)
        assert smallest == pytest.approx(radius**k, rel=1e-12)


def test_radius_is_the_stretch_at_first():
    torch.manual_seed(0)
    stretches = torch.linalg.svdvals(RNN(4, 32, radius=0.7).W_h)
    # float32: a QR of 32 columns.
    assert (stretches - 0.7).abs().max() < 1e-5


def test_the_tanh_makes_the_memory_fade_even_at_radius_one():
    torch.manual_seed(0)
    layer = RNN(4, 6, radius=1.0).double()
    (one, _), (late, _) = jacobian_norms(layer, [1, 30])
    assert one <= 1 + 1e-6  # |tanh'| <= 1, W_h orthogonal to float32
    assert late < 0.01 * one


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_state": 0}, "d_state must be a positive integer; got 0"),
        ({"activation": "relu"}, "activation must be one of .* got 'relu'"),
        ({"radius": -0.5}, "radius must not be negative; got -0.5"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RNN(4, **options)


def test_it_learns_a_delay():
    torch.manual_seed(0)
    layer = RNN(2, 16, radius=1.0)
    first, last = cases.loss_after_delay_training(layer, 2, lag=2, lr=1e-2)
    assert last < first / 5


# ---- The language model ----------------------------------------------------


def language_model():
    torch.manual_seed(0)
    return RNNLM(13, 4, 6).double()


def test_the_language_model_steps_as_it_reads():
    model, ids = language_model(), some_ids(2, 9)
    logits, state = model(ids, return_state=True)
    assert logits.shape == (2, 9, 13)
    assert error(model.states(ids)[:, -1], state) == 0
    assert error(model(ids, last_only=True), logits[:, -1:]) < RELATIVE
    _, half = model(ids[:, :4], return_state=True)
    assert error(model(ids[:, 4:], half), logits[:, 4:]) < RELATIVE
    state, steps = model.initial_state(2), []
    for t in range(9):
        step, state = model.step(ids[:, t], state)
        steps.append(step)
    assert error(torch.stack(steps, 1), logits) < RELATIVE


def test_the_language_model_generates_what_it_expects():
    model, ids = language_model(), some_ids(2, 3)
    continued = generate(model, ids, 5)
    for t in range(3, 8):
        likeliest = model(continued[:, :t])[:, -1].argmax(-1)
        assert torch.equal(continued[:, t], likeliest)


def test_the_language_model_learns_a_cycle():
    torch.manual_seed(0)
    model = RNNLM(5, 8, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    start = torch.randint(0, 5, (16, 1), generator=seeded())
    ids = (start + torch.arange(12)) % 5
    for _ in range(60):
        logits = model(ids[:, :-1])
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05  # ln 5 = 1.6 at first
    expected = (ids[:1, :2] + torch.arange(0, 10, 2)[:, None]).flatten() % 5
    assert torch.equal(generate(model, ids[:1, :2], 8)[0], expected)


def test_a_token_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="from 0 to 12; got 13 at"):
        language_model()(torch.tensor([[1, 13]]))
