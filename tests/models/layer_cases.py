"""What every layer promises: three ways through a sequence, one result."""

import pytest
import torch

from tests.models import mamba_cases
from tests.models.mamba_cases import normal

# float64 here and there; the sums differ in their order only, and the FFT
# rounds relative to the largest output.
RELATIVE = 1e-12


def error(ours, theirs):
    """As that of ``mamba_cases``, for complex numbers too."""
    assert ours.is_complex() == theirs.is_complex()
    if ours.is_complex():
        ours, theirs = torch.view_as_real(ours), torch.view_as_real(theirs)
    return mamba_cases.error(ours, theirs)


def leaves(state):
    """The tensors of a state."""
    return state if isinstance(state, tuple) else (state,)


def in_chunks(layer, x, sizes, state=None):
    """Forward piece by piece, the state handed over."""
    ys = []
    for chunk in x.split(sizes, dim=1):
        y, state = layer(chunk, state, return_state=True)
        ys.append(y)
    return torch.cat(ys, dim=1), state


def step_by_step(layer, x, state=None):
    """One token after the other."""
    state = (
        layer.initial_state(len(x), dtype=x.dtype) if state is None else state
    )
    ys = []
    for x_t in x.unbind(1):
        y, state = layer.step(x_t, state)
        ys.append(y)
    return torch.stack(ys, dim=1), state


def check_three_ways(layer, d_model=4, length=13):
    """Forward, chunks and steps agree from an empty state and a full one."""
    before, x = normal(2, 5, d_model, seed=3), normal(2, length, d_model)
    _, full = layer(before, None, True)
    for start in (None, full):
        y, state = layer(x, start, True)
        assert error(layer(x, start), y) == 0
        sizes = [1, 5, length - 7, 1]
        ways = [
            in_chunks(layer, x, sizes, start),
            step_by_step(layer, x, start),
        ]
        for other, other_state in ways:
            assert error(other, y) < RELATIVE
            pairs = zip(leaves(other_state), leaves(state), strict=True)
            for ours, theirs in pairs:
                assert ours.dtype == theirs.dtype
                assert error(ours, theirs) < RELATIVE
    assert error(layer(x), layer(x, full)) > 1e-3  # the state matters


def check_gradients_of_both_ways(layer, d_model=4, length=9):
    """One loss, by the convolution and by the recurrence."""
    x = normal(2, length, d_model).requires_grad_()
    _, full = layer(normal(2, 5, d_model, seed=3), None, True)
    start = [leaf.detach().requires_grad_() for leaf in leaves(full)]
    state = type(full)(*start) if isinstance(full, tuple) else start[0]
    names, parameters = zip(*layer.named_parameters(), strict=True)
    names = [*names, "x", *(f"state {i}" for i in range(len(start)))]
    found = []
    for way in (
        lambda: layer(x, state, True),
        lambda: step_by_step(layer, x, state),
    ):
        y, last = way()
        loss = (normal(*y.shape, seed=7) * y).sum()
        for leaf in leaves(last):
            loss = loss + leaf.abs().square().sum()
        found.append(torch.autograd.grad(loss, [*parameters, x, *start]))
    for name, forward, steps in zip(names, *found, strict=True):
        assert forward.norm() > 0 or forward.numel() == 0, name
        # One order more than the values: derivatives of A_bar^k have a
        # factor k, and those of both ways sum in different orders.
        assert error(forward, steps) < 10 * RELATIVE, name


def check_step_keeps_its_state(layer, d_model=4):
    _, state = layer(normal(2, 5, d_model), None, True)
    kept = [leaf.clone() for leaf in leaves(state)]
    layer.step(normal(2, d_model, seed=1), state)
    for leaf, before in zip(leaves(state), kept, strict=True):
        assert torch.equal(leaf, before)


def check_causal(layer, d_model=4):
    """A later input changes no earlier output."""
    x = normal(1, 8, d_model)
    changed = x.clone()
    changed[:, 5] += 1
    y, other = layer(x), layer(changed)
    assert error(other[:, :5], y[:, :5]) < RELATIVE
    assert error(other[:, 5], y[:, 5]) > 1e-3


def check_refusals(layer, d_model=4):
    """Each names what came and what would be right."""
    state = layer.initial_state(2)
    with pytest.raises(
        ValueError, match=rf"length > 0; got \(2, 0, {d_model}"
    ):
        layer(torch.ones(2, 0, d_model))
    with pytest.raises(ValueError, match=rf"{d_model}\).* got \(2, 3, 7\)"):
        layer(torch.ones(2, 3, 7))
    with pytest.raises(
        ValueError, match=rf"{d_model}\).* got \(3, {d_model}\)"
    ):
        layer(torch.ones(3, d_model))
    with pytest.raises(
        ValueError, match=rf"\(batch, {d_model}\); got \(2, 7\)"
    ):
        layer.step(torch.ones(2, 7), state)
    with pytest.raises(ValueError, match=r"must have shape \(2.*got \(3"):
        layer(torch.ones(2, 3, d_model), layer.initial_state(3))
    with pytest.raises(ValueError, match=r"must have shape \(2.*got \(3"):
        layer.step(torch.ones(2, d_model), layer.initial_state(3))


def check_precisions(layer, d_model=4, length=64):
    """float32 and bfloat16, against the same numbers in float64."""
    x = normal(2, length, d_model, dtype=torch.float32)
    exact = layer.double()(x.double())
    y = layer.float()(x)
    assert y.dtype == torch.float32
    # Sums of 64 terms and an FFT: some ten roundings of 6e-8 each, and A_bar
    # is rounded before its powers are taken, up to 64 times.
    assert error(y.double(), exact) < 1e-5
    low = layer.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    exact = layer.double()(x.bfloat16().double())
    # bfloat16 rounds to 2e-3; some five roundings in a row, none in a sum.
    assert error(low.double(), exact) < 1e-2


def loss_after_delay_training(layer, d_model, lag=4, steps=120, lr=2e-2):
    """First and last loss of learning y_t = x_{t - lag}."""
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        x = torch.randn(8, 32, d_model, generator=generator)
        target = torch.nn.functional.pad(x, (0, 0, lag, 0))[:, :32]
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], sum(losses[-5:]) / 5
