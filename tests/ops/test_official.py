"""The official names, against transformers' own PyTorch and the door."""

import inspect
import itertools
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from transformers import MambaConfig
from transformers.models.mamba import modeling_mamba as theirs

from mambaviz.ops.causal_conv1d import causal_conv1d
from mambaviz.ops.selective_scan import (
    official,
    selective_scan,
    selective_scan_step,
)
from mambaviz.ops.selective_scan.official import (
    causal_conv1d_fn,
    causal_conv1d_update,
    mamba_inner_fn,
    selective_scan_fn,
    selective_scan_ref,
    selective_state_update,
)

# The parameters of the official functions, in their order.
SIGNATURES = {
    "selective_scan_fn": "u delta A B C D=None z=None delta_bias=None "
    "delta_softplus=False return_last_state=False",
    "selective_scan_ref": "u delta A B C D=None z=None delta_bias=None "
    "delta_softplus=False return_last_state=False",
    "selective_state_update": "state x dt A B C D=None z=None dt_bias=None "
    "dt_softplus=False state_batch_indices=None",
    "mamba_inner_fn": "xz conv1d_weight conv1d_bias x_proj_weight "
    "delta_proj_weight out_proj_weight out_proj_bias A B=None C=None D=None "
    "delta_bias=None B_proj_bias=None C_proj_bias=None delta_softplus=True "
    "checkpoint_lvl=1 b_rms_weight=None c_rms_weight=None dt_rms_weight=None "
    "b_c_dt_rms_eps=1e-06",
    "causal_conv1d_fn": "x weight bias=None seq_idx=None initial_states=None "
    "return_final_states=False final_states_out=None activation=None",
    "causal_conv1d_update": "x conv_state weight bias=None activation=None "
    "cache_seqlens=None conv_state_indices=None",
}


def randn(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if dtype.is_complex:
        other = torch.randn(*shape, generator=generator, dtype=torch.float64)
        values = torch.complex(values, other)
    return values.to(dtype)


def close(ours, expected, itype=torch.float32):
    """The tolerances of the official tests."""
    relative, absolute = {
        torch.float32: (6e-4, 2e-3),
        torch.float16: (3e-3, 5e-3),
        torch.bfloat16: (3e-2, 5e-2),
    }[itype]
    torch.testing.assert_close(ours, expected, rtol=relative, atol=absolute)


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signature_is_the_official_one(name):
    parameters = inspect.signature(getattr(official, name)).parameters
    assert SIGNATURES[name].split() == [
        n if p.default is p.empty else f"{n}={p.default}"
        for n, p in parameters.items()
    ]


# The sweep of the official tests: each option by itself, and up to 4096 steps.
OPTIONS = ("D", "z", "delta_bias", "delta_softplus")
GIVEN = [
    tuple(itertools.compress(OPTIONS, bits))
    for bits in itertools.product((0, 1), repeat=4)
]
SWEEP = [
    *itertools.product([(), OPTIONS], [None, 1, 2], [1, 128, 372]),
    *itertools.product(GIVEN[1:-1], [None], [64]),
    (OPTIONS, 2, 4096),
]


@pytest.mark.parametrize("scan", [selective_scan_fn, selective_scan_ref])
@pytest.mark.parametrize(
    "itype", [torch.float32, torch.float16, torch.bfloat16]
)
@pytest.mark.parametrize(("given", "groups", "length"), SWEEP)
def test_selective_scan_is_that_of_transformers(
    given, groups, length, itype, scan
):
    batch, dim, dstate = 2, 4, 8
    shape = (batch, dstate, length)
    if groups:
        shape = (batch, groups, dstate, length)
    u = randn(batch, dim, length, dtype=itype)
    delta = 0.5 * randn(batch, dim, length, seed=1).sigmoid().to(itype)
    A = -0.5 * randn(dim, dstate).sigmoid()
    B, C = (randn(*shape, dtype=itype, seed=s) for s in (2, 3))
    options = {
        "D": randn(dim),
        "z": randn(batch, dim, length, dtype=itype, seed=4),
        "delta_bias": 0.5 * randn(dim, seed=5).sigmoid(),
        "delta_softplus": True,
    }
    options = {name: options[name] for name in given}
    options["return_last_state"] = True
    leaves = [
        t.requires_grad_()
        for t in (u, delta, A, B, C, *options.values())
        if isinstance(t, torch.Tensor)
    ]
    y, last_state = scan(u, delta, A, B, C, **options)
    # Theirs knows one group, so it does each by itself.
    width = dim // (groups or 1)
    parts = []
    for g in range(groups or 1):
        own = slice(g * width, (g + 1) * width)
        cut = {
            n: o
            if not isinstance(o, torch.Tensor)
            else (o[own] if o.ndim == 1 else o[:, own])
            for n, o in options.items()
        }
        parts.append(
            theirs.mamba_selective_scan(
                u[:, own].float(),
                delta[:, own].float(),
                A[own],
                B[:, g].float() if groups else B.float(),
                C[:, g].float() if groups else C.float(),
                **cut,
            )
        )
    expected, expected_state = (
        torch.cat(part, 1) for part in zip(*parts, strict=True)
    )
    assert y.dtype == itype
    close(y, expected.to(itype), itype)
    close(last_state, expected_state.to(last_state.dtype), itype)
    wave = torch.cos(torch.arange(y.numel())).view(y.shape)
    for one, other in zip(
        torch.autograd.grad(y, leaves, wave.to(itype)),
        torch.autograd.grad(expected, leaves, wave),
        strict=True,
    ):
        assert one.dtype == other.dtype
        # Those of A add up over all steps; after one, they are 0.
        scale = other.abs().max().clamp(min=1)
        close(one / scale, other / scale, itype)


@pytest.mark.parametrize("kinds", [*itertools.product("fv", repeat=2)])
def test_fixed_weights_are_a_group_for_each_channel(kinds):
    batch, dim, dstate, length = 2, 4, 3, 11
    u, delta = randn(batch, dim, length), randn(batch, dim, length).exp()
    A = -randn(dim, dstate).exp()
    fixed = [randn(dim, dstate, seed=seed) for seed in (1, 2)]
    each = (batch, dim, dstate, length)
    spread = [w[None, :, :, None].expand(each).contiguous() for w in fixed]
    given = [
        f if kind == "f" else s
        for kind, f, s in zip(kinds, fixed, spread, strict=True)
    ]
    y = selective_scan_fn(u, delta, A, *given)
    truth = selective_scan_fn(u, delta, A, *spread)
    torch.testing.assert_close(y, truth)


@pytest.mark.parametrize("kinds", [*itertools.product("fvg", repeat=2)])
def test_complex_weights_are_pairs_along_the_last_axis(kinds):
    """Fixed, variable, and in groups; compared with the door."""
    batch, dim, dstate, length = 2, 4, 3, 11
    u = randn(batch, dim, length)
    delta = randn(batch, dim, length, seed=1).sigmoid()
    A = -randn(dim, dstate, dtype=torch.complex64)
    A = torch.complex(-A.real.abs(), A.imag)
    given, expected = [], []
    for seed, kind in enumerate(kinds):
        shape = {
            "f": (dim, dstate),
            "v": (batch, dstate, length),
            "g": (batch, 2, dstate, length),
        }[kind]
        w = randn(*shape, dtype=torch.complex64, seed=seed)
        given.append(w if kind == "f" else torch.view_as_real(w).flatten(-2))
        expected.append(w if kind == "f" else w.movedim(-1, 1))
    y = selective_scan_fn(u, delta, A, *given)
    truth = selective_scan(u.mT, delta.mT, A, *expected).mT
    assert torch.equal(y, truth)


def mixer(seed=0, **options):
    torch.manual_seed(seed)
    config = MambaConfig(
        hidden_size=12, state_size=5, conv_kernel=3, time_step_rank=4
    )
    config.update(options)
    return theirs.MambaMixer(config, layer_idx=0)


def inner(layer, hidden, function=mamba_inner_fn, **options):
    """As transformers calls it in training."""
    return function(
        layer.in_proj(hidden).transpose(1, 2),
        layer.conv1d.weight,
        layer.conv1d.bias,
        layer.x_proj.weight,
        layer.dt_proj.weight,
        layer.out_proj.weight,
        layer.out_proj.bias,
        -torch.exp(layer.A_log),
        None,
        None,
        layer.D,
        delta_bias=layer.dt_proj.bias,
        delta_softplus=True,
        **options,
    )


@pytest.mark.parametrize("use_bias", [False, True])
def test_mamba_inner_fn_is_the_layer_of_transformers(use_bias):
    layer = mixer(use_bias=use_bias).double()
    hidden = randn(2, 17, 12, dtype=torch.float64)
    leaves = [hidden.requires_grad_(), *layer.parameters()]
    found, expected = inner(layer, hidden), layer(hidden)
    # Their A is rounded to float32 on the way.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        scale = other.abs().max()
        torch.testing.assert_close(
            one / scale, other / scale, rtol=0, atol=1e-6
        )


def test_mamba_inner_fn_with_given_weights_and_biases():
    """A fixed B, and biases of C: they are what the parts make of them."""
    layer = mixer()
    hidden = randn(2, 7, 12)
    xz = layer.in_proj(hidden).transpose(1, 2)
    A, B = -torch.exp(layer.A_log), randn(24, 5)
    C_bias, C_scale, dt_scale = randn(5), randn(5, seed=1), randn(4)
    found = mamba_inner_fn(
        xz,
        layer.conv1d.weight,
        None,
        layer.x_proj.weight[:9],
        layer.dt_proj.weight,
        layer.out_proj.weight,
        None,
        A,
        B=B,
        C_proj_bias=C_bias,
        c_rms_weight=C_scale,
        dt_rms_weight=dt_scale,
        b_c_dt_rms_eps=1e-3,
        delta_softplus=False,
    )
    x, z = xz.chunk(2, 1)
    x = causal_conv1d(x.mT, layer.conv1d.weight[:, 0], None, "silu")
    dt, C = (x @ layer.x_proj.weight[:9].T).split([4, 5], -1)

    def normal(v, scale):
        return v / (v.square().mean(-1, keepdim=True) + 1e-3).sqrt() * scale

    delta = normal(dt, dt_scale) @ layer.dt_proj.weight.T
    y = selective_scan(x, delta, A, B, normal(C + C_bias, C_scale), z=z.mT)
    expected = y @ layer.out_proj.weight.T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_mamba_inner_fn_with_a_complex_A():
    """Rows of x_proj for B and C in pairs, real and imaginary."""
    dim, dstate, rank, length = 6, 3, 2, 8
    xz = randn(2, 2 * dim, length)
    conv, x_proj = randn(dim, 1, 4), randn(rank + 4 * dstate, dim)
    dt_proj, out_proj = randn(dim, rank), randn(5, dim)
    A = randn(dim, dstate, dtype=torch.complex64)
    A = torch.complex(-A.real.abs(), A.imag)
    found = mamba_inner_fn(xz, conv, None, x_proj, dt_proj, out_proj, None, A)
    x, z = xz.chunk(2, 1)
    x = causal_conv1d(x.mT, conv[:, 0], None, "silu")
    dt, B, C = (x @ x_proj.T).split([rank, 2 * dstate, 2 * dstate], -1)
    B, C = (
        torch.view_as_complex(w.unflatten(-1, (-1, 2)).contiguous())
        for w in (B, C)
    )
    y = selective_scan(x, dt @ dt_proj.T, A, B, C, z=z.mT, delta_softplus=True)
    torch.testing.assert_close(found, y @ out_proj.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "itype", [torch.float32, torch.float16, torch.bfloat16]
)
@pytest.mark.parametrize("has_z", [False, True])
@pytest.mark.parametrize("dstate", [16, 32])
def test_state_update_is_that_of_transformers(dstate, has_z, itype):
    batch, dim = 2, 64
    state = randn(batch, dim, dstate, dtype=itype)
    x, dt = (randn(batch, dim, dtype=itype, seed=s) for s in (1, 2))
    dt_bias = randn(dim) - 4
    A = -randn(dim, dstate).sigmoid() - 1
    B, C = (randn(batch, dstate, dtype=itype, seed=s) for s in (3, 4))
    D = randn(dim)
    z = randn(batch, dim, dtype=itype, seed=5) if has_z else None
    before = state.clone()
    y = selective_state_update(
        state, x, dt, A, B, C, D, z, dt_bias, dt_softplus=True
    )
    expected_state = before.to(torch.float32, copy=True)
    x, dt, B, C = (t.float() for t in (x, dt, B, C))
    expected = theirs.mamba_selective_state_update(
        expected_state, x, dt, A, B, C, D, dt_bias, True
    )
    if has_z:
        expected = expected * F.silu(z.float())
    assert y.dtype == state.dtype == itype
    close(y, expected.to(itype), itype)
    close(state, expected_state.to(itype), itype)
    assert not torch.equal(state, before)


@pytest.mark.parametrize("ngroups", [1, 2, 4])
def test_state_update_of_heads(ngroups):
    """Head h uses group h // (nheads / ngroups) of B and C."""
    batch, nheads, dim, dstate = 3, 4, 5, 6
    double = {"dtype": torch.float64}
    state = randn(batch, nheads, dim, dstate, **double)
    x, dt, z = (randn(batch, nheads, dim, **double, seed=s) for s in range(3))
    A = -randn(nheads, dim, dstate, **double).exp()
    B, C = (randn(batch, ngroups, dstate, **double, seed=s) for s in (3, 4))
    D, dt_bias = (randn(nheads, dim, **double, seed=s) for s in (5, 6))
    before = state.clone()
    y = selective_state_update(
        state, x, dt, A, B, C, D, z, dt_bias, dt_softplus=True
    )
    for b, h in itertools.product(range(batch), range(nheads)):
        group = h // (nheads // ngroups)
        step = torch.log1p(torch.exp(dt[b, h] + dt_bias[h]))
        new = torch.exp(step[:, None] * A[h]) * before[b, h]
        new = new + (step * x[b, h])[:, None] * B[b, group]
        out = (new @ C[b, group] + D[h] * x[b, h]) * F.silu(z[b, h])
        torch.testing.assert_close(state[b, h], new, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(y[b, h], out, rtol=1e-12, atol=1e-14)


def test_state_update_where_batch_equals_dim():
    """B of (batch, dstate) is one for each sequence, never fixed."""
    state, x, dt = randn(3, 3, 2), randn(3, 3), randn(3, 3).exp()
    A, B, C = -torch.ones(3, 2), randn(3, 2), randn(3, 2, seed=1)
    y, new = selective_scan_step(state, x, dt, A, B, C)
    assert torch.equal(selective_state_update(state, x, dt, A, B, C), y)
    assert torch.equal(state, new)


def test_state_update_can_be_mapped():
    state, x, dt = randn(5, 2, 3, 2), randn(5, 2, 3), randn(5, 2, 3).exp()
    A, B, C = -torch.ones(3, 2), randn(2, 2), randn(2, 2, seed=1)
    many = state.clone()
    ys = torch.func.vmap(selective_state_update, (0, 0, 0, None, None, None))(
        many, x, dt, A, B, C
    )
    for one, then, x_, dt_, y in zip(state, many, x, dt, ys, strict=True):
        expected = selective_state_update(one, x_, dt_, A, B, C)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(then, one)


def test_state_update_writes_through_a_view():
    states = torch.zeros(2, 7, 4, 3)
    view = states[:, 2].transpose(1, 2).contiguous().transpose(1, 2)
    view.zero_()
    strided = states[:, 2]
    arguments = (randn(2, 4), randn(2, 4).exp(), -torch.ones(4, 3))
    weights = (randn(2, 3), randn(2, 3, seed=1))
    selective_state_update(view, *arguments, *weights)
    selective_state_update(strided, *arguments, *weights)
    assert torch.equal(states[:, 2], view)
    assert states[:, 2].any()
    assert not states[:, [0, 1, 3]].any()


@pytest.mark.usefixtures("outside_tests")
def test_state_update_refuses():
    state, x = torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4)
    A, B = -torch.ones(3, 4, 5), torch.ones(2, 2, 5)
    with pytest.raises(ValueError, match="groups of B .* 3 heads; got 2"):
        selective_state_update(state, x, x, A, B, B)
    B = torch.ones(2, 3, 5)
    indices = torch.tensor([0, 1])
    with pytest.raises(NotImplementedError, match="state_batch_indices"):
        selective_state_update(
            state, x, x, A, B, B, state_batch_indices=indices
        )
    assert not state.any()


@pytest.mark.parametrize("itype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 8, 151])
def test_convolution_is_that_of_transformers(
    length, width, has_bias, activation, itype
):
    x, weight = randn(2, 12, length, dtype=itype), randn(12, width)
    bias = randn(12) if has_bias else None
    y = causal_conv1d_fn(x, weight, bias, activation=activation)
    expected = theirs.causal_conv1d_fn(x, weight, bias, activation)
    assert y.dtype == itype
    close(y, expected, itype)


def test_convolution_of_channels_side_by_side():
    """As a view of (batch, length, dim), which some callers hand over."""
    x, weight = randn(2, 9, 6), randn(6, 4)
    y = causal_conv1d_fn(x.mT, weight)
    torch.testing.assert_close(y, causal_conv1d_fn(x.mT.contiguous(), weight))


def test_convolution_of_packed_sequences_and_with_states():
    x, weight, bias = randn(1, 5, 10), randn(5, 4), randn(5)
    numbers = torch.tensor([[3, 3, 3, 7, 8, 8, 8, 8, 8, 8]])
    y = causal_conv1d_fn(x, weight, bias, numbers)
    for part in (slice(0, 3), slice(3, 4), slice(4, 10)):
        alone = theirs.causal_conv1d_fn(x[..., part], weight, bias)
        torch.testing.assert_close(y[..., part], alone)

    whole, state = causal_conv1d_fn(x, weight, return_final_states=True)
    assert torch.equal(state, x[..., -3:])
    early, state = causal_conv1d_fn(
        x[..., :6], weight, return_final_states=True
    )
    out = torch.empty_like(state)
    late, last = causal_conv1d_fn(
        x[..., 6:],
        weight,
        initial_states=state,
        return_final_states=True,
        final_states_out=out,
    )
    assert torch.equal(torch.cat([early, late], -1), whole)
    assert last is out
    assert torch.equal(out, x[..., -3:])


@pytest.mark.parametrize("itype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 4, 5])
@pytest.mark.parametrize("more", [0, 1, 9])
def test_convolution_update_is_that_of_transformers(
    more, length, width, activation, itype
):
    state = randn(2, 6, width - 1 + more, dtype=itype)
    x, weight, bias = randn(2, 6, length, dtype=itype), randn(6, width), None
    same = state.clone()
    y = causal_conv1d_update(x, state, weight, bias, activation)
    # Theirs takes a state of at least one input.
    pad = F.pad(same, (1, 0))
    expected = theirs.causal_conv1d_update(x, pad, weight, bias, activation)
    close(y, expected, itype)
    assert torch.equal(state, pad[..., 1:])


def test_convolution_update_of_one_step():
    state, weight = randn(2, 6, 4), randn(6, 4)
    same, x = state.clone(), randn(2, 6)
    y = causal_conv1d_update(x, state, weight, activation="silu")
    expected = theirs.causal_conv1d_update(
        x[..., None], same, weight, activation="silu"
    )
    torch.testing.assert_close(y, expected[..., 0])
    assert torch.equal(state, same)


@pytest.mark.usefixtures("outside_tests")
def test_convolution_update_refuses():
    x, weight = torch.ones(2, 3), torch.ones(3, 4)
    with pytest.raises(ValueError, match=r"width - 1 = 3 .*got 2 .*2, 3, 2"):
        causal_conv1d_update(x, torch.ones(2, 3, 2), weight)
    for name in ("cache_seqlens", "conv_state_indices"):
        with pytest.raises(NotImplementedError, match=name):
            causal_conv1d_update(
                x,
                torch.ones(2, 3, 3),
                weight,
                **{name: torch.ones(2, dtype=torch.int32)},
            )


STAND_IN = """
import torch
{before}
from transformers import MambaConfig, MambaForCausalLM
torch.manual_seed(0)
model = MambaForCausalLM(MambaConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=2, state_size=5))
for parameter in model.parameters():
    parameter.data += 0.05 * torch.randn_like(parameter)
ids = torch.randint(40, (2, 11))
out = model(ids, labels=ids)
out.loss.backward()
grads = [p.grad for p in model.parameters()]
model.eval()
text = model.generate(
    ids, max_new_tokens=5, do_sample=False, output_logits=True,
    return_dict_in_generate=True)
torch.save(
    [out.logits.detach(), *grads, text.sequences, *text.logits], {path!r})
"""


def test_transformers_runs_on_these_unmodified(tmp_path):
    found = {}
    for name, before in {
        "theirs": "",
        "ours": "from mambaviz.ops.selective_scan import official\n"
        "official.stand_in()\n",
    }.items():
        path = str(tmp_path / name)
        script = STAND_IN.format(before=before, path=path)
        result = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert ("falling back" in result.stderr) is (name == "theirs")
        found[name] = torch.load(path, weights_only=True)
    for a, b in zip(found["ours"], found["theirs"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("import transformers.models.mamba.modeling_mamba", "call stand_in()"),
        ("import sys; sys.path.insert(0, 'site')", "mamba_ssm is installed"),
    ],
)
def test_stand_in_refuses(tmp_path, before, words):
    (tmp_path / "site" / "mamba_ssm").mkdir(parents=True)
    (tmp_path / "site" / "mamba_ssm" / "__init__.py").touch()
    script = (
        f"{before}\nfrom mambaviz.ops.selective_scan import official\n"
        "official.stand_in()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode != 0
    assert words in result.stderr
