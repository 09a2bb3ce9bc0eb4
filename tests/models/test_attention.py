"""Attention against PyTorch's, RoPE and xPos against complex numbers."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck
from transformers.models.gptj import modeling_gptj

from mambaviz.models.attention import (
    KVCache,
    MultiHeadAttention,
    attention_weights,
    causal_mask,
    recorded_weights,
    scaled_dot_product_attention,
)
from mambaviz.models.positions import rotate_pairs, sinusoids, xpos_decay
from mambaviz.models.transformer import (
    EncoderDecoder,
    TokenEmbedding,
    TransformerBlock,
    TransformerLM,
)
from tests.models.mamba_cases import error, gradients, normal, perturbed

# float64 here and there; the sums differ in their order only.
RELATIVE = 1e-12
POSITIONS = ("none", "learned", "sinusoidal", "rope", "xpos")


def some_ids(batch, length, vocab_size=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab_size, (batch, length), generator=generator)


def random_mask(*shape, seed=0):
    """A mask that leaves each query at least its first key."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < 0.5
    mask[..., 0] = True
    return mask


def small_lm(**settings):
    torch.manual_seed(0)
    shape = {
        "vocab_size": 11,
        "d_model": 8,
        "n_layers": 2,
        "n_heads": 2,
        "max_length": 16,
    }
    model = TransformerLM(**shape | settings)
    return perturbed(model).double().eval()


def small_translator(**settings):
    torch.manual_seed(0)
    model = EncoderDecoder(11, 9, 8, 2, 2, max_length=16, **settings)
    return perturbed(model).double().eval()


# ---- The function ----------------------------------------------------------

QUERIES, KEYS = 5, 7
MASKS = {
    "none": None,
    "padding": random_mask(2, 1, 1, KEYS),
    "per query": random_mask(1, 1, QUERIES, KEYS),
    "per head": random_mask(2, 3, QUERIES, KEYS),
}


def qkv(queries=QUERIES, keys=KEYS, dtype=torch.float64):
    shapes = (2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 4)
    return [
        normal(*shape, seed=i, dtype=dtype).requires_grad_()
        for i, shape in enumerate(shapes)
    ]


@pytest.mark.parametrize("backend", ["explicit", "torch"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_is_that_of_pytorch_with_its_gradients(name, causal, backend):
    mask = MASKS[name]
    ours, theirs = qkv(), qkv()
    both = mask
    if causal:
        # Queries are the last of the keys; PyTorch would take the first.
        both = torch.ones(QUERIES, KEYS).tril(KEYS - QUERIES).bool()
        both = both if mask is None else both & mask
    y = scaled_dot_product_attention(*ours, mask, causal, backend)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = F.scaled_dot_product_attention(*theirs, attn_mask=both)
    assert error(y, expected) < RELATIVE
    weights = normal(*y.shape, seed=9)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert error(one.grad, other.grad) < RELATIVE


@pytest.mark.parametrize("backend", ["explicit", "torch"])
def test_square_and_causal(backend):
    q, k, v = qkv(6, 6)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    y = scaled_dot_product_attention(q, k, v, None, True, backend)
    assert error(y, expected) < RELATIVE


def test_by_hand():
    """Scores ln 1 and ln 3 share 1/4 and 3/4."""
    q = torch.tensor([[[[2 * math.log(3), 0.0, 0.0, 0.0]]]]).double()
    k = torch.eye(4).double()[None, None, [1, 0]]
    weights = attention_weights(q, k)
    assert torch.allclose(
        weights.flatten(), torch.tensor([0.25, 0.75]).double()
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_sum_to_one_and_the_future_has_no_weight(dtype):
    """S012."""
    q, k, _ = qkv(6, 6, dtype)
    weights = attention_weights(q, k, causal=True)
    eps = torch.finfo(dtype).eps
    assert (weights.sum(-1) - 1).abs().max() < 6 * eps
    assert (weights.triu(1) == 0).all()


def test_in_one_go_or_row_by_row_in_any_order():
    """S013: training builds the matrix at once, generation in rows."""
    q, k, v = qkv(6, 6)
    whole = scaled_dot_product_attention(q, k, v, causal=True)
    for t in (4, 0, 5, 2, 1, 3):
        row = scaled_dot_product_attention(
            q[:, :, t : t + 1], k[:, :, : t + 1], v[:, :, : t + 1], causal=True
        )
        assert error(row, whole[:, :, t : t + 1]) < RELATIVE


@pytest.mark.parametrize("backend", ["explicit", "torch"])
def test_a_query_that_may_look_nowhere_gets_zeros(backend):
    q, k, v = qkv()
    mask = torch.ones(1, 1, QUERIES, KEYS, dtype=torch.bool)
    mask[..., 2, :] = False
    y = scaled_dot_product_attention(q, k, v, mask, backend=backend)
    assert (y[:, :, 2] == 0).all()
    others = [0, 1, 3, 4]
    expected = scaled_dot_product_attention(q[:, :, others], k, v)
    assert error(y[:, :, others], expected) < RELATIVE
    for gradient in torch.autograd.grad(y.square().sum(), (q, k, v)):
        assert gradient.isfinite().all()
    assert (torch.autograd.grad(y_of(q, k, v, mask), q)[0][:, :, 2] == 0).all()


def y_of(q, k, v, mask):
    return scaled_dot_product_attention(q, k, v, mask).square().sum()


def test_gradcheck():
    q, k, v = qkv(3, 4)
    mask = random_mask(2, 1, 3, 4)
    assert gradcheck(
        lambda *qkv: scaled_dot_product_attention(*qkv, mask, True), (q, k, v)
    )


def test_the_causal_mask_counts_pairs():
    """S006: L (L + 1) / 2 of them."""
    assert causal_mask(20, 20).sum() == 20 * 21 // 2
    assert torch.equal(causal_mask(3, 8), causal_mask(8, 8)[-3:])


# ---- Positions -------------------------------------------------------------


def test_rope_is_that_of_gpt_j():
    q = normal(2, 3, 6, 8)
    positions = torch.tensor([0, 1, 5, 17, 200, 4000])
    table = modeling_gptj.create_sinusoidal_positions(4001, 8).double()
    sin, cos = table[positions][None].expand(2, -1, -1).chunk(2, -1)
    expected = modeling_gptj.apply_rotary_pos_emb(
        q.transpose(1, 2), sin, cos
    ).transpose(1, 2)
    # Their angles are float32: at 4000, off by 2e-4.
    assert error(rotate_pairs(q, positions[None]), expected) < 1e-4


def complex_score(q, k, m, n, fades):
    """The score of two heads as a sum over pairs, in complex numbers."""
    d_head = len(q)
    score = 0
    for i in range(d_head // 2):
        theta = 10000 ** (-2 * i / d_head)
        zeta = (2 * i / d_head + 0.4) / 1.4 if fades else 1
        q_i = complex(*q[2 * i : 2 * i + 2])
        k_i = complex(*k[2 * i : 2 * i + 2])
        turn = complex(math.cos((m - n) * theta), math.sin((m - n) * theta))
        faded = zeta ** ((m - n) / 512)
        score += (q_i * k_i.conjugate() * turn).real * faded
    return score


def scores_of(positions, x, start=0):
    """Query times key, as the layer gives them to attention."""
    layer = MultiHeadAttention(8, 1, positions=positions, bias=False).double()
    with torch.no_grad():
        layer.k_proj.weight.copy_(torch.eye(8))
        layer.q_proj.weight.copy_(torch.eye(8).flip(0))
    length = x.shape[1]
    at = start + torch.arange(length)[None]
    with recorded_weights(layer) as weights:
        layer(x, positions=at)
    return weights[""][0].log().squeeze(1) * math.sqrt(8)


@pytest.mark.parametrize("positions", ["rope", "xpos"])
@pytest.mark.parametrize("start", [0, 1000])
def test_scores_are_those_of_the_definition(positions, start):
    x = normal(1, 5, 8)
    scores = scores_of(positions, x, start)[0]
    for m, n in itertools.product(range(5), repeat=2):
        if n <= m:
            expected = complex_score(
                x[0, m].flip(0).tolist(),
                x[0, n].tolist(),
                m,
                n,
                positions == "xpos",
            )
            first = complex_score(
                x[0, m].flip(0).tolist(),
                x[0, 0].tolist(),
                m,
                0,
                positions == "xpos",
            )
            # A softmax fixes scores up to a constant for each row.
            difference = (scores[m, n] - scores[m, 0]).item()
            assert difference == pytest.approx(expected - first, abs=1e-10)


@pytest.mark.parametrize("shift", [1, 300, 10**6])
def test_turned_scores_depend_on_the_difference_alone(shift):
    q, k = normal(1, 2, 6, 8), normal(1, 2, 6, 8, seed=1)
    at = torch.arange(6)[None]
    near = rotate_pairs(q, at) @ rotate_pairs(k, at).mT
    far = rotate_pairs(q, at + shift) @ rotate_pairs(k, at + shift).mT
    # An angle of 10^6 rad has the rounding 1e-10.
    assert error(far, near) < 1e-9
    same = rotate_pairs(q, at).norm(dim=-1)
    assert error(same, q.norm(dim=-1)) < RELATIVE


def test_xpos_fades_with_distance_and_never_grows():
    n = torch.arange(0.0, 4096.0, 64.0).double()
    decay = xpos_decay(n, 16)
    assert (decay[0] == 1).all()
    assert (decay.diff(dim=0) < 0).all()
    assert (decay[1:].diff(dim=1)[:, 1::2] > 0).all()  # slow pairs reach far
    assert decay[8, 0].item() == pytest.approx(0.4 / 1.4, rel=1e-12)


@pytest.mark.parametrize("length", [9, 3000])
def test_xpos_in_float32_stays_finite(length):
    torch.manual_seed(0)
    layer = MultiHeadAttention(4, 1, positions="xpos")
    x = normal(1, length, 4, dtype=torch.float32)
    y, state = layer(x, None, True)
    assert y.isfinite().all()
    exact = layer.double()(x.double())
    # Softmax and sums in float32, after factors of up to 40.
    assert error(y, exact) < 2e-5


def test_sinusoids_are_those_of_the_paper():
    p = sinusoids(torch.arange(50), 6)
    for t, i in itertools.product(range(50), range(3)):
        angle = t / 10000 ** (2 * i / 6)
        assert p[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
        assert p[t, 2 * i + 1].item() == pytest.approx(
            math.cos(angle), abs=1e-12
        )


def test_positions_are_added_to_tokens_of_their_size():
    torch.manual_seed(0)
    ids, positions = some_ids(2, 5), torch.arange(5)[None]
    learned = TokenEmbedding(11, 64, "learned", 16)
    expected = learned.weight[ids] + learned.position.weight[:5]
    assert torch.equal(learned(ids, positions), expected)
    waves = TokenEmbedding(11, 64, "sinusoidal", 16)
    waves.first_values()
    expected = 8 * waves.weight[ids] + sinusoids(positions, 64).float()
    assert torch.equal(waves(ids, positions), expected)
    # Random numbers of variance 1, and sines whose mean square is 1/2.
    assert (8 * waves.weight).std().item() == pytest.approx(1, abs=0.1)


# ---- Heads, against torch.nn -----------------------------------------------


def copy_heads(ours, theirs):
    """The weights of our attention into PyTorch's."""
    with torch.no_grad():
        rows = ours.q_proj, ours.k_proj, ours.v_proj
        theirs.in_proj_weight.copy_(torch.cat([r.weight for r in rows]))
        theirs.in_proj_bias.copy_(torch.cat([r.bias for r in rows]))
        theirs.out_proj.load_state_dict(ours.out_proj.state_dict())


@pytest.mark.parametrize("backend", ["explicit", "torch"])
@pytest.mark.parametrize("causal", [False, True])
def test_heads_are_those_of_torch_nn(causal, backend):
    torch.manual_seed(0)
    ours = MultiHeadAttention(12, 3, causal=causal, backend=backend).double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    copy_heads(perturbed(ours), theirs)
    x, other = normal(2, 6, 12), normal(2, 6, 12)
    x.requires_grad_(), other.requires_grad_()
    padding = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    y = ours(x, mask=padding[:, None, None])
    # PyTorch's masks say where *not* to look.
    expected, _ = theirs(
        other,
        other,
        other,
        key_padding_mask=~padding,
        attn_mask=~causal_mask(6, 6) if causal else None,
    )
    assert error(y, expected) < RELATIVE
    weights = normal(*y.shape, seed=3)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    assert error(x.grad, other.grad) < RELATIVE
    assert (
        error(ours.out_proj.weight.grad, theirs.out_proj.weight.grad)
        < RELATIVE
    )
    inside = torch.cat(
        [p.weight.grad for p in (ours.q_proj, ours.k_proj, ours.v_proj)]
    )
    assert error(inside, theirs.in_proj_weight.grad) < RELATIVE


def test_grouped_heads_are_full_heads_with_copied_weights():
    torch.manual_seed(0)
    few = MultiHeadAttention(12, 6, n_kv_heads=2, positions="rope").double()
    full = MultiHeadAttention(12, 6, positions="rope").double()
    with torch.no_grad():
        for name in ("k_proj", "v_proj"):
            for kind in ("weight", "bias"):
                kept = getattr(getattr(few, name), kind)
                heads = kept.unflatten(0, (2, 2)).repeat_interleave(3, dim=0)
                getattr(getattr(full, name), kind).copy_(heads.flatten(0, 1))
        full.q_proj.load_state_dict(few.q_proj.state_dict())
        full.out_proj.load_state_dict(few.out_proj.state_dict())
    x = normal(2, 5, 12)
    assert error(few(x), full(x)) < RELATIVE
    _, cache = few(x, None, True)
    assert cache.k.shape == cache.v.shape == (2, 2, 5, 2)


def copy_norm_and_mlp(ours, theirs):
    theirs.linear1.load_state_dict(ours.mlp[0].state_dict())
    theirs.linear2.load_state_dict(ours.mlp[2].state_dict())
    theirs.norm1.load_state_dict(ours.norm.state_dict())


def test_block_is_the_encoder_layer_of_torch_nn():
    torch.manual_seed(0)
    ours = perturbed(TransformerBlock(8, 2)).double().eval()
    theirs = nn.TransformerEncoderLayer(
        8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True
    ).double()
    copy_heads(ours.attention, theirs.self_attn)
    copy_norm_and_mlp(ours, theirs)
    theirs.norm2.load_state_dict(ours.mlp_norm.state_dict())
    x, other = (
        normal(2, 5, 8).requires_grad_(),
        normal(2, 5, 8).requires_grad_(),
    )
    expected = theirs(other, src_mask=~causal_mask(5, 5))
    y = ours(x)
    assert error(y, expected) < RELATIVE
    y.square().sum().backward()
    expected.square().sum().backward()
    assert error(x.grad, other.grad) < RELATIVE
    assert (
        error(ours.mlp[0].weight.grad, theirs.linear1.weight.grad) < RELATIVE
    )


def test_block_is_the_decoder_layer_of_torch_nn():
    torch.manual_seed(0)
    ours = perturbed(TransformerBlock(8, 2, cross=True)).double().eval()
    theirs = nn.TransformerDecoderLayer(
        8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True
    ).double()
    copy_heads(ours.attention, theirs.self_attn)
    copy_heads(ours.cross_attention, theirs.multihead_attn)
    copy_norm_and_mlp(ours, theirs)
    theirs.norm2.load_state_dict(ours.cross_norm.state_dict())
    theirs.norm3.load_state_dict(ours.mlp_norm.state_dict())
    x, memory = normal(2, 5, 8), normal(2, 7, 8, seed=1)
    padding = random_mask(2, 7)
    context = ours.cross_attention.remember(memory)
    y = ours(x, context=context, context_mask=padding[:, None, None])
    expected = theirs(
        x,
        memory,
        tgt_mask=~causal_mask(5, 5),
        memory_key_padding_mask=~padding,
    )
    assert error(y, expected) < RELATIVE


@pytest.mark.parametrize("d_model", [16, 64])
def test_a_block_holds_12_d_model_squared(d_model):
    """S010."""
    block = TransformerBlock(d_model, 4)
    matrices = sum(p.numel() for p in block.parameters() if p.ndim == 2)
    assert matrices == 12 * d_model**2
    bare = TransformerBlock(d_model, 4, mlp_ratio=0)
    assert sum(p.numel() for p in bare.parameters() if p.ndim == 2) == (
        4 * d_model**2
    )


# ---- The protocol: cached = uncached ---------------------------------------

LAYERS = {
    f"{kind.__name__} {positions} {n_kv_heads}": (
        kind,
        {"positions": positions, "n_kv_heads": n_kv_heads},
    )
    for kind in (MultiHeadAttention, TransformerBlock)
    for positions in ("none", "rope", "xpos")
    for n_kv_heads in (None, 2)
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_step_by_step_and_in_chunks(name):
    kind, options = LAYERS[name]
    torch.manual_seed(0)
    layer = perturbed(kind(8, 4, **options)).double()
    x = normal(2, 9, 8)
    whole, last = layer(x, None, True)
    state = layer.initial_state(2)
    steps = []
    for x_t in x.unbind(1):
        before = state
        kept = [t.clone() for t in before]
        y, state = layer.step(x_t, state)
        steps.append(y)
        assert all(map(torch.equal, before, kept))
    assert error(torch.stack(steps, 1), whole) < RELATIVE
    for ours, theirs in zip(state, last, strict=True):
        assert error(ours, theirs) < RELATIVE
    first, state = layer(x[:, :4], None, True)
    second = layer(x[:, 4:], state)
    assert error(torch.cat([first, second], 1), whole) < RELATIVE


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("positions", POSITIONS)
def test_lm_cached_is_uncached(positions, tie_embeddings):
    model = small_lm(positions=positions, tie_embeddings=tie_embeddings)
    ids = some_ids(2, 10)
    whole = model(ids)
    state = model.initial_state(2)
    for t in range(10):
        logits, state = model.step(ids[:, t], state)
        assert error(logits, whole[:, t]) < RELATIVE
        assert error(model(ids[:, : t + 1])[:, -1], whole[:, t]) < RELATIVE
    first, state = model(ids[:, :7], None, True)
    second = model(ids[:, 7:], state)
    assert error(torch.cat([first, second], 1), whole) < RELATIVE
    assert torch.equal(model(ids, last_only=True), whole[:, -1:])


@pytest.mark.parametrize("positions", ["rope", "xpos", "sinusoidal"])
def test_lm_in_float32_cached_is_uncached_far_from_the_start(positions):
    model = small_lm(positions=positions).float()
    ids = some_ids(1, 1200)
    whole = model(ids)
    _, state = model(ids[:, :1199], None, True)
    logits, _ = model.step(ids[:, 1199], state)
    # Two layers of sums over 1200 tokens, in float32.
    assert error(logits, whole[:, -1]) < 1e-4


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_later_token_never_changes_an_earlier_output(positions):
    model = small_lm(positions=positions)
    ids = some_ids(1, 8)
    logits = model(ids)
    for t in range(8):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % 11
        difference = (model(changed) - logits).abs().amax(-1)[0]
        assert (difference[:t] == 0).all()
        assert (difference[t:] > 1e-9).all()


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(positions, side):
    model = small_lm(positions=positions)
    lengths, width = (6, 3, 1), 8
    rows = [some_ids(1, n, seed=n)[0] for n in lengths]
    ids = torch.zeros(3, width, dtype=torch.long)
    mask = torch.zeros(3, width, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        n = len(tokens)
        there = slice(width - n, None) if side == "left" else slice(n)
        ids[row, there], mask[row, there] = tokens, True
    later = some_ids(3, 2, seed=5)
    logits, state = model(ids, None, True, mask=mask)
    assert logits.isfinite().all()
    more = model(later, state)
    for row, tokens in enumerate(rows):
        alone = model(torch.cat([tokens, later[row]])[None])[0]
        n = len(tokens)
        assert error(logits[row, mask[row]], alone[:n]) < RELATIVE
        # The state knows the padding, so the tokens after it do too.
        assert error(more[row], alone[n:]) < RELATIVE


def test_generate_by_cache_is_generate_without():
    model = small_lm(positions="xpos")
    ids = some_ids(2, 3)
    written = model.generate(ids, 6)
    expected = ids
    for _ in range(6):
        chosen = model(expected)[:, -1].argmax(-1)
        expected = torch.cat([expected, chosen[:, None]], 1)
    assert torch.equal(written, expected)
    assert written.unique().numel() > 2
    # S008: the same prompt and seed give the same text.
    draws = [
        model.generate(
            ids, 20, 1.0, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_generate_after_left_padding():
    model = small_lm(positions="learned")
    tokens = some_ids(1, 3)
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), tokens], 1)
    mask = torch.tensor([[False, False, True, True, True]])
    written = model.generate(padded, 5, mask=mask)
    assert torch.equal(written[:, 2:], model.generate(tokens, 5))


def test_the_cache_grows_by_two_vectors_a_layer_and_token():
    """S011: 2 layers D L numbers; S017: and grouped heads need fewer."""
    for n_kv_heads, share in ((None, 1), (1, 2)):
        model = small_lm(n_kv_heads=n_kv_heads)
        _, state = model(some_ids(1, 13), None, True)
        numbers = sum(t.numel() for cache in state.caches for t in cache)
        assert numbers == 2 * 2 * 8 * 13 // share


@pytest.mark.parametrize(
    ("positions", "parameters"),
    [
        ("rope", 136_960),
        ("xpos", 136_960),
        ("sinusoidal", 136_960),
        ("learned", 136_960 + 256 * 128),
    ],
)
def test_the_model_of_table_2(positions, parameters):
    model = TransformerLM(
        16,
        128,
        2,
        8,
        positions=positions,
        max_length=256,
        mlp_ratio=0,
        tie_embeddings=False,
    )
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_first_values():
    torch.manual_seed(0)
    for model in (
        TransformerLM(50, 64, 3, 4, tie_embeddings=False),
        EncoderDecoder(50, 50, 64, 3, 4),
    ):
        ends = [
            module
            for name, module in model.named_modules()
            if name.endswith(("out_proj", "mlp.2"))
        ]
        assert len(ends) == (6 if isinstance(model, TransformerLM) else 15)
        small = 0.02 / len(ends) ** 0.5
        for linear in model.modules():
            if isinstance(linear, nn.Linear):
                std = small if linear in ends else 0.02
                # Of 4096 normal numbers, the sixth deviation is at 7%.
                assert linear.weight.std().item() == pytest.approx(std, 0.07)
                assert linear.bias is None or not linear.bias.any()


def test_gradients_are_those_of_the_explicit_path():
    found = [
        gradients(model(some_ids(2, 7)), model)
        for backend in ("explicit", "torch")
        for model in [small_lm(backend=backend, tie_embeddings=False)]
    ]
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient.abs().max() > 0, name
        assert error(found[1][name], gradient) < 1e-10, name


def test_recorded_weights_are_those_of_the_pass():
    model = small_lm()
    ids = some_ids(2, 6)
    plain = model(ids)
    with recorded_weights(model) as weights:
        recorded = model(ids)
        model.generate(ids[:1], 2)
    assert error(recorded, plain) < RELATIVE
    assert list(weights) == ["layers.0.attention", "layers.1.attention"]
    for matrices in weights.values():
        shapes = [tuple(m.shape) for m in matrices]
        assert shapes == [(2, 2, 6, 6), (1, 2, 6, 6), (1, 2, 1, 7)]
    model(ids)
    assert len(weights["layers.0.attention"]) == 3


def test_recorded_weights_are_let_go_after_an_error():
    model = small_lm()
    with pytest.raises(ValueError, match="got 99"), recorded_weights(model):
        model(torch.full((1, 2), 99))
    assert all(layer.attention.recorder is None for layer in model.layers)


def test_dropout_only_in_training():
    model = small_lm(dropout=0.5)
    ids = some_ids(1, 6)
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


def test_bfloat16_is_close():
    model = small_lm(positions="xpos")
    ids = some_ids(1, 40)
    exact = model(ids)
    # Weights, norms and sums of two layers, each with 8 bits of mantissa.
    assert error(model.bfloat16()(ids), exact) < 0.1


# ---- Encoder and decoder ---------------------------------------------------


@pytest.mark.parametrize("positions", POSITIONS)
def test_written_step_by_step_and_in_chunks(positions):
    model = small_translator(positions=positions)
    source, target = some_ids(2, 6), some_ids(2, 5, 9)
    whole = model(source, target)
    state = model.read(source)
    for t in range(5):
        logits, state = model.write(target[:, t : t + 1], state)
        assert error(logits[:, 0], whole[:, t]) < RELATIVE
    state = model.read(source)
    first, state = model.write(target[:, :2], state)
    second, _ = model.write(target[:, 2:], state)
    assert error(torch.cat([first, second], 1), whole) < RELATIVE


def test_three_masks():
    """S007: full in the encoder, causal in the decoder, L x M between."""
    model = small_translator()
    source, target = some_ids(2, 6), some_ids(2, 5, 9)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    with recorded_weights(model) as weights:
        model(source, target, source_mask=mask)
    encoder = weights["encoder.0.attention"][0]
    decoder = weights["decoder.1.attention"][0]
    cross = weights["decoder.1.cross_attention"][0]
    assert len(weights) == 6
    assert encoder.shape == (2, 2, 6, 6)
    assert decoder.shape == (2, 2, 5, 5)
    assert cross.shape == (2, 2, 5, 6)
    assert (encoder[0] > 0).all()
    assert ((encoder[1] > 0) == mask[1]).all()
    assert ((decoder > 0) == causal_mask(5, 5)).all()
    assert ((cross > 0) == mask[:, None, None]).all()


@pytest.mark.parametrize("positions", ["sinusoidal", "rope", "learned"])
def test_padded_source_and_target_change_nothing(positions):
    model = small_translator(positions=positions)
    source, target = some_ids(2, 6), some_ids(2, 5, 9)
    source_mask = torch.ones(2, 6, dtype=torch.bool)
    target_mask = torch.ones(2, 5, dtype=torch.bool)
    source_mask[1, 4:] = target_mask[1, 3:] = False
    logits = model(
        source, target, source_mask=source_mask, target_mask=target_mask
    )
    alone = model(source[1:, :4], target[1:, :3])
    assert error(logits[1:, :3], alone) < RELATIVE
    assert error(logits[:1], model(source[:1], target[:1])) < RELATIVE


def test_translate_takes_the_likeliest_and_stops():
    model = small_translator()
    source = some_ids(3, 6)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[2, 3:] = False
    start, longest = 0, 12
    free = [
        greedily(model, source[row : row + 1, : int(mask[row].sum())], start)
        for row in range(3)
    ]
    end = free[0][2]  # so that one row ends early
    written = model.translate(source, start, end, longest, source_mask=mask)
    for row, tokens in zip(written.tolist(), free, strict=True):
        stop = tokens.index(end) + 1 if end in tokens else longest
        expected = tokens[:stop] + [end] * (len(row) - stop)
        assert row == expected
    assert model.translate(source, start, end, 0).shape == (3, 0)


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("start", "end", "count", "words"),
    [
        (0, 1, -3, "max_new_tokens must be an integer of 0 or more; got -3"),
        (0, 1, 2.5, "max_new_tokens .* got 2.5"),
        (0, 99, 3, r"end must be a token, from 0 to \d+; got 99"),
        (0, True, 3, "end .* got True"),
        (-1, 1, 3, "start must be a token, .* got -1"),
    ],
)
def test_what_cannot_be_translated(start, end, count, words):
    with pytest.raises(ValueError, match=words):
        small_translator().translate(some_ids(1, 4), start, end, count)


def test_translating_leaves_each_module_in_its_mode():
    model = small_translator().train()
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    model.translate(some_ids(1, 4), 0, 1, 2)
    assert [module.training for module in model.modules()] == modes


def greedily(model, source, start, length=12):
    """Without a cache and without a mask."""
    target = torch.tensor([[start]])
    for _ in range(length):
        chosen = model(source, target)[:, -1:].argmax(-1)
        target = torch.cat([target, chosen], 1)
    return target[0, 1:].tolist()


def test_a_small_translator_learns():
    """S007: words to digits, in reverse, so that it must look across."""
    torch.manual_seed(0)
    model = EncoderDecoder(10, 11, 32, 1, 4)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        source = torch.randint(0, 10, (64, 5), generator=generator)
        target = torch.cat([torch.full((64, 1), 10), source.flip(1)], 1)
        logits = model(source, target[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    source = torch.randint(0, 10, (200, 5), generator=generator)
    written = model.translate(source, 10, 10, 5)
    assert (written == source.flip(1)).float().mean() > 0.99


# ---- Refusals --------------------------------------------------------------


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MultiHeadAttention(8, 3), "n_heads .* 3 does not divide 8"),
        (
            lambda: MultiHeadAttention(8, 4, n_kv_heads=3),
            "n_kv_heads must divide n_heads; 3 does",
        ),
        (lambda: MultiHeadAttention(8, 0), "0 does not divide 8"),
        (
            lambda: MultiHeadAttention(6, 2, positions="rope"),
            "pairs, must divide d_head; 2 does not divide 3",
        ),
        (
            lambda: MultiHeadAttention(8, 2, positions="learned"),
            "positions must be one of .* got 'learned'",
        ),
        (lambda: MultiHeadAttention(8, 2, backend="fast"), "got 'fast'"),
        (lambda: small_lm(positions="alibi"), "xpos.* got 'alibi'"),
        (
            lambda: TransformerLM(5, 3, 1, 1, positions="sinusoidal"),
            "2, sine and cosine, must divide d_model",
        ),
        (
            lambda: small_lm(positions="learned")(some_ids(1, 17)),
            "only 16 positions are learned, 0 to 15; got position 16",
        ),
        (
            lambda: scaled_dot_product_attention(*qkv(), backend="flash"),
            "one of .*explicit.* got 'flash'",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.usefixtures("outside_tests")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": [[3, 11]]}, r"from 0 to 10; got 11 at index \(0, 1\)"),
        ({"ids": [[-1, 3]]}, r"got -1 at index \(0, 0\)"),
        ({"ids": torch.ones(1, 0, dtype=torch.long)}, r"shape \(1, 0\)"),
        ({"mask": [[True]]}, r"mask must be .* \(1, 2\), .* \(1, 1\)"),
        ({"mask": [[1, 1]]}, r"torch\.bool .* got torch\.int64"),
        ({"caches": lambda caches: caches[:1]}, "2 layers.* got 1 states"),
        (
            {
                "caches": lambda caches: [
                    KVCache(c.k[:, :1], c.v) for c in caches
                ]
            },
            r"\(1, 2, 4\) but for the length; got \(1, 1, 3, 4\)",
        ),
        (
            {
                "caches": lambda caches: [
                    KVCache(*2 * [c.k.repeat(2, 1, 1, 1)]) for c in caches
                ]
            },
            r"got \(2, 2, 3, 4\)",
        ),
    ],
)
def test_what_a_model_does_not_take(change, words):
    model = small_lm()
    _, state = model(some_ids(1, 3), None, True)
    if "caches" in change:
        state = state._replace(caches=change["caches"](state.caches))
    ids = torch.as_tensor(change.get("ids", [[1, 2]]))
    mask = change.get("mask")
    mask = None if mask is None else torch.tensor(mask)
    with pytest.raises(ValueError, match=words):
        model(ids, state, mask=mask)


def test_a_context_is_for_blocks_that_look_across():
    x = normal(1, 2, 8)
    with pytest.raises(ValueError, match="needs a context.*got none"):
        TransformerBlock(8, 2, cross=True).double()(x)
    block = TransformerBlock(8, 2).double()
    context = block.attention.remember(x)
    with pytest.raises(ValueError, match="only such a block; got one"):
        block(x, context=context)


@pytest.mark.parametrize("shape", [(1, 2, 7), (1, 0, 8)])
def test_a_block_says_which_shape_it_takes(shape):
    block = TransformerBlock(8, 2)
    with pytest.raises(ValueError, match=r"\(batch, length, 8\).*; got \("):
        block(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"\(batch, length, 8\).*; got \("):
        block.step(torch.zeros(1, 7), block.initial_state(1))


def test_a_cache_says_how_long_it_is():
    empty = torch.empty(2, 3, 5, 4)
    assert KVCache(empty, empty).length == 5
