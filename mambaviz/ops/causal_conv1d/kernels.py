"""The Triton kernels of the causal convolution: ``fused.py`` calls them.

    s_t = bias + sum over j of weight_j x_{t - reach + j}     reach = W - 1
    y_t = silu(s_t), or s_t without an activation

A program owns a tile of STEPS times CHANNELS and reads x once from memory,
W - 1 more times from the cache; everything computes in float32.

**Backwards**, with g_t the gradient of s_t, which is computed again from x:

    dx_t = sum over j of weight_j g_{t + reach - j}
    dweight_j = sum over t of g_t x_{t - reach + j}        dbias = sum of g_t

The gradient of the state is that of the inputs before the first step. Each
program writes its own sums over t, and ``fused.py`` adds them up in a
fixed order: no atomic addition, the same bits every run.
"""

import triton
import triton.language as tl

RUNTIME = ["length", "d_inner"]


@triton.jit
def sigmoid(v):
    """1 / (1 + exp(-v)) without overflow."""
    e = tl.exp(-tl.abs(v))
    return tl.where(v >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def load_inputs(
    x, x_l, x_d, state, s_k, s_d, t, d, length, inside,
    W: tl.constexpr, HAS_STATE: tl.constexpr,
):  # fmt: skip
    """x_t for a tile; before the first step from the state, else zero."""
    here = (t >= 0) & (t < length)
    at = t.to(tl.int64)[:, None] * x_l + d.to(tl.int64)[None, :] * x_d
    v = tl.load(x + at, here[:, None] & inside[None, :], 0.0).to(tl.float32)
    if HAS_STATE:
        before = (t < 0) & (t >= 1 - W)
        at = (t + W - 1)[:, None] * s_k + d.to(tl.int64)[None, :] * s_d
        v += tl.load(
            state + at, before[:, None] & inside[None, :], 0.0
        ).to(tl.float32)  # fmt: skip
    return v


@triton.jit(do_not_specialize=RUNTIME)
def forward(
    x, weight, bias, state, y, length, d_inner,
    x_b, x_l, x_d, s_b, s_d, s_k, y_b, y_l, y_d, w_d, w_j,
    W: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_STATE: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y for a tile of one sequence."""
    t = tl.program_id(0) * STEPS + tl.arange(0, STEPS)
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    b = tl.program_id(2).to(tl.int64)
    inside = d < d_inner
    s = tl.zeros((STEPS, CHANNELS), tl.float32)
    if HAS_BIAS:
        s += tl.load(bias + d, inside, 0.0).to(tl.float32)[None, :]
    for j in tl.static_range(W):
        w = tl.load(weight + d * w_d + j * w_j, inside, 0.0).to(tl.float32)
        v = load_inputs(
            x + b * x_b, x_l, x_d, state + b * s_b, s_k, s_d,
            t - (W - 1) + j, d, length, inside, W, HAS_STATE,
        )  # fmt: skip
        s += w[None, :] * v
    if SILU:
        s = s * sigmoid(s)
    at = t.to(tl.int64)[:, None] * y_l + d.to(tl.int64)[None, :] * y_d
    ok = (t < length)[:, None] & inside[None, :]
    tl.store(y + b * y_b + at, s.to(y.dtype.element_ty), ok)


@triton.jit(do_not_specialize=RUNTIME)
def backward(
    x, weight, bias, state, grad, grad_x, grad_state, sums, length, d_inner,
    x_b, x_l, x_d, s_b, s_d, s_k, g_b, g_l, g_d, gx_b, gx_l, gx_d,
    gs_b, gs_d, gs_k, w_d, w_j, m_p, m_j,
    W: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_STATE: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx for a tile, and its share of dweight and dbias."""
    first = tl.program_id(0) * STEPS
    if HAS_STATE:
        first -= W - 1
    t = first + tl.arange(0, STEPS)
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    b = tl.program_id(2).to(tl.int64)
    inside = d < d_inner
    inputs = ()  # x_{t - reach} ... x_{t + reach}
    for i in tl.static_range(2 * W - 1):
        inputs = inputs + (load_inputs(
            x + b * x_b, x_l, x_d, state + b * s_b, s_k, s_d,
            t - (W - 1) + i, d, length, inside, W, HAS_STATE,
        ),)  # fmt: skip
    part = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    sums += part.to(tl.int64) * m_p + d
    dx = tl.zeros((STEPS, CHANNELS), tl.float32)
    for k in tl.static_range(W):
        here = (t + k >= 0) & (t + k < length)
        at = (t + k).to(tl.int64)[:, None] * g_l
        at += d.to(tl.int64)[None, :] * g_d
        ok = here[:, None] & inside[None, :]
        g = tl.load(grad + b * g_b + at, ok, 0.0).to(tl.float32)
        if SILU:
            s = tl.zeros((STEPS, CHANNELS), tl.float32)
            if HAS_BIAS:
                s += tl.load(bias + d, inside, 0.0).to(tl.float32)[None, :]
            for j in tl.static_range(W):
                w = tl.load(weight + d * w_d + j * w_j, inside, 0.0)
                s += w.to(tl.float32)[None, :] * inputs[k + j]
            slope = sigmoid(s)
            g *= slope * (1.0 + s * (1.0 - slope))
        if k == 0:
            for j in tl.static_range(W):
                tl.store(sums + j * m_j, tl.sum(g * inputs[j], 0), inside)
            tl.store(sums + W * m_j, tl.sum(g, 0), inside)
        w = tl.load(weight + d * w_d + (W - 1 - k) * w_j, inside, 0.0)
        dx += w.to(tl.float32)[None, :] * g
    ok = ((t >= 0) & (t < length))[:, None] & inside[None, :]
    at = t.to(tl.int64)[:, None] * gx_l + d.to(tl.int64)[None, :] * gx_d
    tl.store(grad_x + b * gx_b + at, dx.to(grad_x.dtype.element_ty), ok)
    if HAS_STATE:
        ok = (t < 0)[:, None] & inside[None, :]
        at = (t + W - 1)[:, None] * gs_k + d.to(tl.int64)[None, :] * gs_d
        tl.store(
            grad_state + b * gs_b + at,
            dx.to(grad_state.dtype.element_ty),
            ok,
        )
