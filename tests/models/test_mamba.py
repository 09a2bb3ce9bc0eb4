"""S6 and the block against their definition, written out step by step."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, uniform

from mambaviz.models import (
    S6,
    MambaBlock,
    MambaState,
    RMSNorm,
    recorded_scans,
)
from mambaviz.models.mamba import SELECTIVE, inverse_softplus
from tests.models.mamba_cases import (
    error,
    gradients,
    normal,
    perturbed,
    seeded,
)

# float64 here and there; the sums differ in their order only.
RELATIVE = 1e-12

SUBSETS = [
    subset
    for size in range(len(SELECTIVE) + 1)
    for subset in itertools.combinations(SELECTIVE, size)
]
VARIANTS = {
    "standard": {},
    "wide": {"expand": 3, "d_state": 5, "dt_rank": 3},
    "narrow": {"expand": 1, "d_state": 1, "d_conv": 1},
    "both biases": {"bias": True, "d_conv": 2},
    "no bias": {"conv_bias": False},
    "no convolution": {"d_conv": 0},
    "no gate": {"gate": False},
    "bare": {"gate": False, "d_conv": 0, "selective": ()},
} | {f"selective {s}": {"selective": s} for s in SUBSETS[:-1]}


def block(d_model=4, seed=0, **options):
    torch.manual_seed(seed)
    options = {"d_state": 3} | options
    return perturbed(MambaBlock(d_model, **options), seed).double()


def layers():
    """Layers of each kind, all with d_model 4."""
    torch.manual_seed(1)
    yield "S6", perturbed(S6(4, 3)).double()
    yield "LTI", perturbed(S6(4, 3, selective=())).double()
    for name in ("standard", "wide", "narrow", "no convolution", "no gate"):
        yield name, block(**VARIANTS[name])
    yield "fixed B", block(selective=("delta", "C"))


LAYERS = [pytest.param(layer, id=name) for name, layer in layers()]


def plain_s6(p, x, widths):
    """h and y of algorithm 2, one step after the other."""
    batch, length, d_inner = x.shape
    A = -p["A_log"].exp()
    h = torch.zeros(batch, *A.shape, dtype=x.dtype)
    hs, ys = [], []
    for t in range(length):
        dt, B, C = (
            (x[:, t] @ p["x_proj.weight"].T).split(widths, -1)
            if "x_proj.weight" in p
            else (None, None, None)
        )
        bias = p["dt_bias" if "dt_bias" in p else "dt_proj.bias"]
        raw = dt @ p["dt_proj.weight"].T if dt.shape[-1] else 0
        delta = torch.log1p(torch.exp(raw + bias)).expand(batch, d_inner)
        B = p["B"] if "B" in p else B[:, None]
        C = p["C"] if "C" in p else C[:, None]
        A_bar = torch.exp(delta[:, :, None] * A)
        h = A_bar * h + delta[:, :, None] * B * x[:, t, :, None]
        hs.append(h)
        ys.append((C * h).sum(-1) + p["D"] * x[:, t])
    return torch.stack(hs, 1), torch.stack(ys, 1)


def parameters_of(layer):
    return dict(layer.named_parameters())


def widths_of(layer):
    sizes = {"delta": layer.dt_rank, "B": layer.d_state, "C": layer.d_state}
    return [sizes[n] if n in layer.selective else 0 for n in SELECTIVE]


def plain_block(layer, u):
    """Figure 3, with the convolution as a sum of shifted products."""
    p = parameters_of(layer)
    xz = F.linear(u, p["in_proj.weight"], p.get("in_proj.bias"))
    x = xz[..., : layer.d_inner]
    z = xz[..., layer.d_inner :]
    if "conv1d.weight" in p:
        weight = p["conv1d.weight"][:, 0]  # d_inner d_conv
        d_conv = weight.shape[1]
        total = torch.zeros_like(x) + p.get("conv1d.bias", 0)
        for t, j in itertools.product(range(x.shape[1]), range(d_conv)):
            if t >= j:
                shifted = torch.zeros_like(x)
                shifted[:, t] = x[:, t - j] * weight[:, d_conv - 1 - j]
                total = total + shifted
        x = total
    x = x * torch.sigmoid(x)
    if "x_proj.weight" in p:
        _, y = plain_s6(p, x, widths_of(layer))
    else:
        p = p | {"x_proj.weight": x.new_zeros(0, layer.d_inner)}
        _, y = plain_s6(p, x, [0, 0, 0])
    if z.shape[-1]:
        y = y * z * torch.sigmoid(z)
    return F.linear(y, p["out_proj.weight"], p.get("out_proj.bias"))


# ---- The definition --------------------------------------------------------


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_block_is_its_definition_with_all_gradients(options):
    layer, u = block(**options), normal(2, 6, 4).requires_grad_()
    ours, plain = layer(u), plain_block(layer, u)
    assert error(ours, plain) < RELATIVE
    expected = gradients(plain, layer)
    for name, gradient in gradients(ours, layer).items():
        assert expected[name].norm() > 0, name
        assert error(gradient, expected[name]) < RELATIVE, name
    (to_u,) = torch.autograd.grad(ours.square().sum(), u)
    (plainly,) = torch.autograd.grad(plain.square().sum(), u)
    assert error(to_u, plainly) < RELATIVE


@pytest.mark.parametrize("subset", SUBSETS[1:], ids=str)
def test_s6_alone_is_its_definition(subset):
    torch.manual_seed(3)
    layer = perturbed(S6(6, 5, dt_rank=2, selective=subset)).double()
    x = normal(2, 7, 6)
    h, y = plain_s6(parameters_of(layer), x, widths_of(layer))
    ours, state = layer(x, return_state=True)
    assert error(ours, y) < RELATIVE
    assert error(state, h[:, -1]) < RELATIVE


def test_with_nothing_selective_the_layer_is_time_invariant():
    torch.manual_seed(0)
    still = perturbed(S6(4, 3, selective=())).double()
    selective = perturbed(S6(4, 3)).double()
    x = normal(1, 8, 4)
    x[:, 4:] = 0
    later = x.roll(3, dims=1)
    for layer, invariant in ((still, True), (selective, True)):
        shifted = layer(later)[:, 3:]
        assert (error(shifted, layer(x)[:, :5]) < RELATIVE) is invariant
    # What parts them is linearity: two inputs at once.
    other = normal(1, 8, 4, seed=1)
    assert error(still(x + other), still(x) + still(other)) < RELATIVE
    assert error(selective(x + other), selective(x) + selective(other)) > 0.01


# ---- The start -------------------------------------------------------------


def test_names_and_shapes_are_the_official_ones():
    D, N, E, W = 40, 16, 2, 4
    rank, inner = math.ceil(D / 16), E * D
    shapes = {
        "in_proj.weight": (2 * inner, D),
        "conv1d.weight": (inner, 1, W),
        "conv1d.bias": (inner,),
        "x_proj.weight": (rank + 2 * N, inner),
        "dt_proj.weight": (inner, rank),
        "dt_proj.bias": (inner,),
        "A_log": (inner, N),
        "D": (inner,),
        "out_proj.weight": (D, inner),
    }
    state = MambaBlock(D).state_dict()
    assert {name: tuple(v.shape) for name, v in state.items()} == shapes
    with_bias = MambaBlock(D, bias=True, conv_bias=False).state_dict()
    assert set(with_bias) == set(shapes) - {"conv1d.bias"} | {
        "in_proj.bias",
        "out_proj.bias",
    }
    # 3 E D^2 in the two projections, the rest grows with D.
    projections = sum(
        state[f"{name}_proj.weight"].numel() for name in ("in", "out")
    )
    assert projections == 3 * E * D**2


def test_the_first_delta_is_log_uniform():
    torch.manual_seed(0)
    layer = S6(4000)
    log_delta = F.softplus(layer.dt_proj.bias.detach().double()).log()
    low, high = math.log(1e-3), math.log(0.1)
    # Of true samples, one in a hundred has a smaller p.
    assert kstest(log_delta, uniform(low, high - low).cdf).pvalue > 0.01
    assert low <= log_delta.min() + 1e-5
    assert log_delta.max() <= high + 1e-5


def test_no_first_delta_is_below_the_floor():
    torch.manual_seed(0)
    bias = S6(500, dt_min=1e-6, dt_init_floor=1e-2).dt_proj.bias
    delta = F.softplus(bias.detach())
    assert torch.isclose(delta.min(), torch.tensor(1e-2), rtol=1e-4)
    assert (delta < 1.001e-2).float().mean() > 0.5


def test_the_rest_of_the_start():
    torch.manual_seed(0)
    layer = MambaBlock(32, d_state=5, dt_rank=4)
    expected = torch.arange(1.0, 6.0).expand(64, 5)
    assert torch.allclose(layer.A, -expected, rtol=1e-6)
    assert torch.equal(layer.D, torch.ones(64))
    weight = layer.dt_proj.weight.detach()
    assert weight.abs().max() <= 4**-0.5
    assert weight.std() == pytest.approx(0.5 / 3**0.5, rel=0.1)
    # PyTorch's own: uniform within 1 / sqrt(d_conv).
    assert 0.45 < layer.conv1d.weight.abs().max() <= 0.5
    assert 0.4 < layer.conv1d.bias.abs().max() <= 0.5
    constant = S6(8, dt_rank=4, dt_init="constant", dt_scale=3.0)
    assert torch.equal(constant.dt_proj.weight, torch.full((8, 4), 1.5))


def test_marks_for_optimisers():
    layer = MambaBlock(8)
    decay_free = {
        name
        for name, p in layer.named_parameters()
        if getattr(p, "_no_weight_decay", False)
    }
    assert decay_free == {"A_log", "D"}
    assert layer.dt_proj.bias._no_reinit


def test_inverse_softplus_in_its_range():
    y = torch.logspace(-4, 2, 50, dtype=torch.float64)
    assert error(F.softplus(inverse_softplus(y), threshold=40), y) < 1e-14


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: S6(0), "d_model must be a positive integer; got 0"),
        (lambda: S6(4, d_state=-1), "d_state .* got -1"),
        (lambda: S6(4, dt_rank=0), "dt_rank .* got 0"),
        (lambda: S6(4, dt_rank="some"), "dt_rank .* got 'some'"),
        (lambda: S6(4, selective=("A",)), r"selective .* got \('A',\)"),
        (lambda: S6(4, selective="B"), "selective .* got 'B'"),
        (lambda: S6(4, dt_min=0.2), "dt_min <= dt_max; got 0.2 and 0.1"),
        (lambda: S6(4, dt_init="zero"), "dt_init .* got 'zero'"),
        (lambda: S6(4, dt_init_floor=0.0), "dt_init_floor .* got 0.0"),
        (lambda: MambaBlock(4, expand=0), "expand .* got 0"),
        (lambda: MambaBlock(4, d_conv=-1), "d_conv .* got -1"),
        (lambda: block()(normal(1, 0, 4)), "length"),
        (
            lambda: block(backend="fast")(normal(1, 2, 4)),
            "backend .* got 'fast'",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mask_and_reset_exclude_each_other():
    mask = torch.ones(1, 3, dtype=torch.bool)
    for layer in (block(), S6(4, 3).double()):
        with pytest.raises(ValueError, match="not both"):
            layer(normal(1, 3, 4), mask=mask, reset=mask)


def true(*shape):
    return torch.ones(shape, dtype=torch.bool)


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": true(2, 4)}, r"mask must be .* \(2, 3\).* \(2, 4\)"),
        ({"mask": true(1, 3)}, r"mask must be .* \(2, 3\).* \(1, 3\)"),
        ({"mask": true(2, 3).int()}, "mask must be torch.bool .* torch.int32"),
        ({"reset": true(2, 4)}, r"reset must .* \(2, 3\); got \(2, 4\)"),
        (
            {"reset": true(2, 3).int()},
            "reset must be torch.bool.* torch.int32",
        ),
        (
            {"state": (normal(1, 8, 3), normal(2, 8, 3))},
            r"state must have shape \(2, 8, 3\); got \(1, 8, 3\)",
        ),
        (
            {"state": (normal(2, 8, 2), normal(2, 8, 3))},
            r"state must have shape \(2, 8, 3\); got \(2, 8, 2\)",
        ),
        (
            {"state": (normal(2, 8, 3), normal(2, 8, 5))},
            r"initial_state must have shape \(2, 8, 3\); got \(2, 8, 5\)",
        ),
    ],
)
def test_what_a_block_does_not_take(options, message):
    layer = block()
    options = dict(options)
    state = options.pop("state", None)
    state = None if state is None else MambaState(*state)
    with pytest.raises(ValueError, match=message):
        layer(normal(2, 3, 4), state, **options)
    if state is not None:
        with pytest.raises(ValueError, match=r"state must have shape"):
            layer.step(normal(2, 4), state)


@pytest.mark.parametrize("backend", ["auto", "chunked"])
def test_a_second_derivative_is_refused_in_words(backend):
    layer, x = block(backend=backend), normal(2, 3, 4).requires_grad_()
    (grad_x,) = torch.autograd.grad(
        layer(x).square().sum(), x, create_graph=True
    )
    with pytest.raises(NotImplementedError, match='"reference" has all'):
        grad_x.sum().backward()


def test_the_reference_has_a_second_derivative():
    layer = block(backend="reference")
    x = normal(1, 3, 4).requires_grad_()
    assert torch.autograd.gradgradcheck(layer, (x,))


# ---- One protocol for all layers -------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@given(data=st.data())
@settings(max_examples=5, deadline=None, derandomize=True)
def test_chunks_and_steps_give_what_the_whole_gives(layer, data):
    batch = data.draw(st.integers(1, 3))
    length = data.draw(st.integers(2, 9))
    cut = data.draw(st.integers(1, length - 1))
    x = normal(batch, length, 4, seed=length)
    whole, last = layer(x, return_state=True)

    first, state = layer(x[:, :cut], return_state=True)
    second, state = layer(x[:, cut:], state, return_state=True)
    assert error(torch.cat([first, second], 1), whole) < RELATIVE
    assert_same_state(state, last)

    state, ys = layer.initial_state(batch), []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        ys.append(y_t)
    assert error(torch.stack(ys, 1), whole) < RELATIVE
    assert_same_state(state, last)


def assert_same_state(state, other):
    for ours, theirs in zip(tensors_of(state), tensors_of(other), strict=True):
        if theirs.numel():
            assert error(ours, theirs) < RELATIVE
        assert ours.shape == theirs.shape


def tensors_of(state):
    return (state,) if isinstance(state, torch.Tensor) else tuple(state)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_given_state_is_not_changed(layer):
    x = normal(2, 5, 4)
    _, state = layer(x, return_state=True)
    before = [t.clone() for t in tensors_of(state)]
    layer.step(x[:, 0], state)
    layer(x, state, return_state=True)
    for now, then in zip(tensors_of(state), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_a_step_writes_over_the_given_state_if_it_may(layer):
    x = normal(2, 5, 4)
    _, state = layer(x, return_state=True)
    expected, new = layer.step(x[:, 0], state)
    y, same = layer.step(x[:, 0], state, in_place=True)
    assert torch.equal(y, expected)
    for now, then, place in zip(
        tensors_of(same), tensors_of(new), tensors_of(state), strict=True
    ):
        assert now is place
        assert torch.equal(now, then)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_gives_what_it_gives_alone(layer, side):
    lengths, longest = [1, 2, 5, 7], 7
    x = normal(len(lengths), longest, 4)  # at padding anything may stand
    mask = torch.zeros(len(lengths), longest, dtype=torch.bool)
    rows = []
    for row, length in enumerate(lengths):
        start = longest - length if side == "left" else 0
        rows.append(slice(start, start + length))
        mask[row, rows[-1]] = True
    y, state = layer(x, None, True, mask=mask)
    after = normal(len(lengths), 4, seed=5)
    y_next, _ = layer.step(after, state)
    for row, tokens in enumerate(rows):
        alone, own = layer(x[row : row + 1, tokens], return_state=True)
        assert error(y[row : row + 1, tokens], alone) < RELATIVE
        mine = [t[row : row + 1] for t in tensors_of(state)]
        for ours, theirs in zip(mine, tensors_of(own), strict=True):
            assert error(ours, theirs) < RELATIVE or not theirs.numel()
        alone_next, _ = layer.step(after[row : row + 1], own)
        assert error(y_next[row : row + 1], alone_next) < RELATIVE


@pytest.mark.parametrize("layer", LAYERS)
@given(data=st.data())
@settings(max_examples=5, deadline=None, derandomize=True)
def test_padding_anywhere_is_as_if_it_were_not_there(layer, data):
    """Also when a state came before, and whatever stands at the padding."""
    batch, length = 3, 7
    seed = data.draw(st.integers(0, 1000))
    mask = torch.rand(batch, length, generator=seeded(seed)) < 0.6
    mask[:, 3] = True  # a row has at least one token
    x = normal(batch, length, 4, seed=seed)
    garbage = torch.where(mask[..., None], x, math.nan)
    _, before = layer(normal(batch, 4, 4, seed=1), return_state=True)
    y, state = layer(garbage, before, True, mask=mask)
    for row in range(batch):
        one = slice(row, row + 1)
        own = [t[one] for t in tensors_of(before)]
        own = (
            own[0] if isinstance(before, torch.Tensor) else type(before)(*own)
        )
        alone, own = layer(x[one, mask[row]], own, True)
        assert error(y[one, mask[row]], alone) < RELATIVE
        mine = [t[one] for t in tensors_of(state)]
        for ours, theirs in zip(mine, tensors_of(own), strict=True):
            assert error(ours, theirs) < RELATIVE or not theirs.numel()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_row_of_padding_alone_keeps_its_state(layer):
    _, state = layer(normal(2, 5, 4), return_state=True)
    mask = torch.tensor([[False] * 3, [True] * 3])
    _, later = layer(normal(2, 3, 4, seed=1), state, True, mask=mask)
    for now, then in zip(tensors_of(later), tensors_of(state), strict=True):
        assert torch.equal(now[0], then[0])
        assert not then.numel() or not torch.equal(now[1], then[1])


@pytest.mark.parametrize("layer", LAYERS)
def test_packed_sequences_do_not_see_each_other(layer):
    lengths = [3, 1, 4]
    x = normal(2, sum(lengths), 4)
    starts = [sum(lengths[:k]) for k in range(len(lengths))]
    reset = torch.zeros(2, sum(lengths), dtype=torch.bool)
    reset[:, starts] = True
    # The state of someone else must not reach them either.
    _, foreign = layer(normal(2, 4, 4, seed=9), return_state=True)
    y, state = layer(x, foreign, True, reset=reset)
    for start, length in zip(starts, lengths, strict=True):
        alone, own = layer(x[:, start : start + length], return_state=True)
        assert error(y[:, start : start + length], alone) < RELATIVE
    assert_same_state(state, own)


# ---- Precision -------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_half_precision_is_as_far_off_as_its_numbers(dtype, how):
    layer, u = block(8, d_state=4), normal(2, 12, 8)
    exact = layer(u)
    if how == "autocast":
        layer = layer.float()
        with torch.autocast("cpu", dtype):
            y, state = layer(u.float(), return_state=True)
            y_t, later = layer.step(u[:, 0].float(), state)
    else:
        layer = layer.to(dtype)
        y, state = layer(u.to(dtype), return_state=True)
        y_t, later = layer.step(u[:, 0].to(dtype), state)
    assert y.dtype == y_t.dtype == dtype
    assert state.ssm.dtype == later.ssm.dtype == torch.float32
    # Four roundings of weights and four of values, each of eps / 2.
    assert error(y, exact) < 4 * torch.finfo(dtype).eps
    # The state goes on in float32, and step by step gives the same.
    assert error(later.ssm, layer_state_after(layer, u, dtype, how)) < 1e-6


def layer_state_after(layer, u, dtype, how):
    longer = torch.cat([u, u[:, :1]], 1)
    if how == "weights":
        return layer(longer.to(dtype), return_state=True)[1].ssm
    with torch.autocast("cpu", dtype):
        return layer(longer.float(), return_state=True)[1].ssm


def test_a_norm_of_half_precision_computes_in_float32():
    norm = perturbed(RMSNorm(64)).to(torch.bfloat16)
    x = 1e3 * normal(5, 64)
    weight = norm.weight.double()
    exact = weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    # Two roundings, of weight x and of nothing else: x comes in float32.
    assert norm(x.float()).dtype == torch.bfloat16
    assert error(norm(x.float()), exact) < torch.finfo(torch.bfloat16).eps / 2
    theirs = F.rms_norm(x, (64,), weight, 1e-5)
    assert error(norm.double()(x), theirs) < RELATIVE


@pytest.mark.usefixtures("outside_tests")
def test_a_norm_says_which_width_it_takes():
    with pytest.raises(ValueError, match=r"\(\.\.\., 64\); got \(5, 63\)"):
        RMSNorm(64)(torch.zeros(5, 63))


# ---- What selection means --------------------------------------------------


def recorded(layer, x, **options):
    with recorded_scans(layer) as scans:
        y = layer(x, **options)
    ((record,),) = scans.values()
    return record, y


@pytest.mark.parametrize("subset", SUBSETS, ids=str)
def test_only_what_is_selective_depends_on_the_input(subset):
    layer = block(selective=subset)
    one, _ = recorded(layer, normal(1, 5, 4))
    other, _ = recorded(layer, normal(1, 5, 4, seed=1))
    for name in SELECTIVE:
        same = torch.equal(getattr(one, name), getattr(other, name))
        assert same is (name not in subset), name
    assert torch.equal(one.A, other.A)


def test_A_is_static_and_A_bar_is_not():
    record, _ = recorded(block(), normal(1, 9, 4))
    assert record.A.ndim == 2
    assert (record.A_bar.std(1) > 0).all()


def test_a_small_step_keeps_the_state_and_a_large_one_takes_the_input():
    layer = perturbed(S6(4, 3)).double()
    x = normal(1, 1, 4)
    state = normal(1, 4, 3, seed=1)
    with torch.no_grad():
        layer.dt_proj.weight.zero_()
        layer.dt_proj.bias.fill_(-40)
        _, kept = layer(x, state, return_state=True)
        layer.dt_proj.bias.fill_(40)
        _, taken = layer(x, state, return_state=True)
        _, fresh = layer(x, return_state=True)
    assert error(kept, state) < 1e-12
    assert error(taken, fresh) < 1e-6


@pytest.mark.parametrize(("d_conv", "sees"), [(0, 1), (1, 1), (4, 4)])
def test_how_many_tokens_the_step_of_a_first_layer_depends_on(d_conv, sees):
    u = normal(1, 8, 4).requires_grad_()
    record, _ = recorded(block(d_conv=d_conv), u)
    (jacobian,) = torch.autograd.grad(record.delta[0, 6].sum(), u)
    touched = jacobian[0].abs().sum(-1) > 0
    expected = torch.zeros(8, dtype=torch.bool)
    expected[7 - sees : 7] = True
    assert torch.equal(touched, expected)


# ---- Looking inside --------------------------------------------------------


def inspected():
    for name in ("standard", "no gate", "no convolution", "bare"):
        yield name, block(**VARIANTS[name])
    yield "fixed B", block(selective=("delta", "C"))
    yield "S6", perturbed(S6(4, 3)).double()


@pytest.mark.parametrize(
    "layer", [pytest.param(layer, id=name) for name, layer in inspected()]
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_record_holds_rebuilds_the_output(layer, packed):
    batch, length = 2, 6
    u = normal(batch, length, 4)
    options = {}
    if packed:
        reset = torch.zeros(batch, length, dtype=torch.bool)
        reset[0, 2] = reset[1, 4] = True
        options = {"reset": reset}
    with torch.no_grad():
        record, output = recorded(layer, u, **options)
    fresh = options.get("reset", torch.zeros(batch, length, dtype=torch.bool))
    B, C = (
        w.expand(batch, length, -1, -1) if w.ndim == 2 else w[:, :, None]
        for w in (record.B, record.C)
    )

    h = torch.zeros(batch, *record.A.shape, dtype=u.dtype)
    for t in range(length):
        h = h * ~fresh[:, t, None, None]
        delta = record.delta[:, t, :, None]
        A_bar = (delta * record.A).exp()
        assert error(record.A_bar[:, t], A_bar) < RELATIVE
        B_bar = (delta * B[:, t]).expand_as(h)
        assert error(record.B_bar[:, t], B_bar) < RELATIVE
        h = A_bar * h + B_bar * record.x[:, t, :, None]
        assert error(record.h[:, t], h) < RELATIVE

    y = (C * record.h).sum(-1) + record.D * record.x
    assert error(record.y, y) < RELATIVE
    gated = y if record.gate is None else y * record.gate
    assert error(record.output, gated) < RELATIVE
    if isinstance(layer, MambaBlock):
        gated = F.linear(gated, layer.out_proj.weight)
    assert error(output, gated) < RELATIVE

    alpha = record.attention()
    assert error(torch.einsum("bdts,bsd->btd", alpha, record.x), y) < RELATIVE
    for t, s in itertools.product(range(length), repeat=2):
        expected = hidden_attention(record, B, C, fresh, t, s)
        if expected.norm() == 0:
            assert torch.equal(alpha[:, :, t, s], expected)
        else:
            assert error(alpha[:, :, t, s], expected) < RELATIVE
    assert torch.equal(record.attention(slice(1, 3)), alpha[:, 1:3])


def hidden_attention(record, B, C, fresh, t, s):
    """alpha[t, s], by its formula: (batch, d_inner)."""
    batch, _, d_inner = record.x.shape
    if s > t:
        return torch.zeros(batch, d_inner, dtype=record.x.dtype)
    kept = torch.ones(batch, *record.A.shape, dtype=record.x.dtype)
    for r in range(s + 1, t + 1):
        A_bar = (record.delta[:, r, :, None] * record.A).exp()
        kept = kept * A_bar * ~fresh[:, r, None, None]
    B_bar = record.delta[:, s, :, None] * B[:, s]
    alpha = (C[:, t] * kept * B_bar).sum(-1)
    return alpha + record.D if s == t else alpha


def test_a_record_sees_the_state_that_came_before_and_the_padding():
    layer, u = block(), normal(2, 4, 4)
    _, state = layer(normal(2, 3, 4, seed=1), return_state=True)
    mask = torch.tensor([[False, False, True, True], [True] * 4])
    with recorded_scans(layer) as scans, torch.no_grad():
        _, last = layer(u, state, True, mask=mask)
    (record,) = scans[""]
    assert error(record.h[:, -1], last.ssm) < RELATIVE
    assert torch.equal(record.h[0, 1], state.ssm[0])
    assert (record.delta[0, :2] == 0).all()
    assert (record.delta[0, 2:] > 0).all()
    answered = torch.einsum("bdts,bsd->btd", record.attention(), record.x)
    assert error(answered, record.y) > 1e-4  # the rest is the state's


def test_recording_ends_and_leaves_no_trace():
    layer, u = block(), normal(1, 3, 4)
    plain = layer(u)
    with recorded_scans(layer) as scans:
        assert torch.equal(layer(u), plain)
        layer(u)
    layer(u)
    assert len(scans[""]) == 2
    with pytest.raises(ZeroDivisionError), recorded_scans(layer) as scans:
        raise ZeroDivisionError
    layer(u)
    assert scans == {"": []}
    assert not layer.scan._forward_hooks


def test_a_record_in_half_precision_has_its_states_in_float32():
    layer = block().to(torch.bfloat16)
    record, _ = recorded(layer, normal(1, 5, 4).to(torch.bfloat16))
    _, state = layer(normal(1, 5, 4).to(torch.bfloat16), return_state=True)
    assert record.h.dtype == record.delta.dtype == torch.float32
    assert error(record.h[:, -1], state.ssm) < 1e-6
    assert record.attention().dtype == torch.float32
