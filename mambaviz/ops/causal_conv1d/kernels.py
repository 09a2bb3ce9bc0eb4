"""The Triton kernels of the causal convolution: ``fused.py`` calls them.

    s_t = bias + sum over j of weight_j x_{t - reach + j}     reach = W - 1
    y_t = silu(s_t), or s_t without an activation

**One thread, its own channels.** A program is one warp. It owns CHANNELS
neighbours of one sequence and holds T steps of them in registers, with the
inputs that reach into these steps: x is read once from memory, and its edges
once more from the cache. In a single ``step`` a thread has one channel, and
what is kept of its inputs. Everything computes in float32.

**Backwards**, with g_t the gradient of s_t, which is computed again from x:

    dx_t = sum over j of weight_j g_{t + reach - j}
    dweight_j = sum over t of g_t x_{t - reach + j}        dbias = sum of g_t

A program goes through some tiles of T steps one after the other and adds up
what they give to dweight and dbias. No sum leaves a thread: each program
writes its own, and ``fused.py`` adds them up in a fixed order. There is no
atomic addition: every run gives the same bits. The gradient of the state is
that of the inputs before the first step.
"""

import triton
import triton.language as tl

# Numbers that no kernel is compiled for anew. d_inner is none of them: if 16
# divides it, a thread reads and writes its channels in one go.
RUNTIME = ["length", "tiles"]


@triton.jit
def sigmoid(v):
    """1 / (1 + exp(-v)) without overflow."""
    e = tl.exp(-tl.abs(v))
    return tl.where(v >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def load_weights(
    weight, bias, w_d, w_j, d, inside, W: tl.constexpr, HAS_BIAS: tl.constexpr
):  # fmt: skip
    """The W weights of each channel, and its bias."""
    weights = ()
    p = weight + d.to(tl.int64) * w_d
    for _ in tl.static_range(W):
        weights = weights + (tl.load(p, inside, 0.0).to(tl.float32),)
        p += w_j
    if HAS_BIAS:
        return weights, tl.load(bias + d, inside, 0.0).to(tl.float32)
    else:
        return weights, tl.zeros(d.shape, tl.float32)


@triton.jit
def load_step(p, stride, t, d, inside, length):
    """A step of a sequence; zero outside of it."""
    ok = inside & (t >= 0) & (t < length)
    return tl.load(p + t.to(tl.int64) * stride + d, ok, 0.0).to(tl.float32)


@triton.jit
def load_inputs(
    x, x_l, state, s_d, s_k, first, d, inside, length,
    W: tl.constexpr, HAS_STATE: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """COUNT inputs from ``first`` on; before the first step, the state."""
    inputs = ()
    for i in tl.static_range(COUNT):
        t = first + i
        v = load_step(x, x_l, t, d, inside, length)
        if HAS_STATE:
            ok = inside & (t < 0) & (t >= 1 - W)
            k = (t + W - 1).to(tl.int64)
            p = state + d.to(tl.int64) * s_d + k * s_k
            v += tl.load(p, ok, 0.0).to(tl.float32)
        inputs = inputs + (v,)
    return inputs


@triton.jit
def convolve(inputs, weights, bias, i: tl.constexpr, W: tl.constexpr):
    """s, of the inputs from the i-th on."""
    s = bias
    for j in tl.static_range(W):
        s += weights[j] * inputs[i + j]
    return s


@triton.jit(do_not_specialize=RUNTIME)
def forward(
    x, weight, bias, state, y, length, d_inner,
    x_b, x_l, s_b, s_d, s_k, y_b, y_l, w_d, w_j,
    W: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_STATE: tl.constexpr, T: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y for T steps of one sequence."""
    first = tl.program_id(0) * T
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    b = tl.program_id(2).to(tl.int64)
    inside = d < d_inner
    weights, shift = load_weights(
        weight, bias, w_d, w_j, d, inside, W, HAS_BIAS
    )
    inputs = load_inputs(
        x + b * x_b, x_l, state + b * s_b, s_d, s_k, first - (W - 1),
        d, inside, length, W, HAS_STATE, T + W - 1,
    )  # fmt: skip
    for i in tl.static_range(T):
        s = convolve(inputs, weights, shift, i, W)
        if SILU:
            s = s * sigmoid(s)
        to = y + b * y_b + (first + i).to(tl.int64) * y_l + d
        tl.store(to, s.to(y.dtype.element_ty), inside & (first + i < length))


@triton.jit
def step(
    x, weight, bias, state, y, after, d_inner,
    x_b, x_d, s_b, s_d, s_k, y_b, y_d, a_b, a_d, a_k, w_d, w_j,
    W: tl.constexpr, KEPT: tl.constexpr, SILU: tl.constexpr,
    HAS_BIAS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One step, for generation: KEPT inputs in, the last KEPT out.

    A thread reads all that is kept of its channels before it writes any, so
    ``after`` may be ``state``.
    """
    blocks = tl.cdiv(d_inner, CHANNELS)
    d = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    inside = d < d_inner
    far = d.to(tl.int64)
    weights, shift = load_weights(
        weight, bias, w_d, w_j, d, inside, W, HAS_BIAS
    )
    inputs = ()
    p = state + b * s_b + far * s_d
    for _ in tl.static_range(KEPT):
        inputs = inputs + (tl.load(p, inside, 0.0).to(tl.float32),)
        p += s_k
    v = tl.load(x + b * x_b + far * x_d, inside, 0.0)
    inputs = inputs + (v.to(tl.float32),)
    s = convolve(inputs, weights, shift, KEPT + 1 - W, W)
    if SILU:
        s = s * sigmoid(s)
    tl.store(y + b * y_b + far * y_d, s.to(y.dtype.element_ty), inside)
    p = after + b * a_b + far * a_d
    for k in tl.static_range(KEPT):
        tl.store(p, inputs[k + 1].to(after.dtype.element_ty), inside)
        p += a_k


@triton.jit(do_not_specialize=RUNTIME)
def backward(
    x, weight, bias, state, grad, grad_x, grad_state, sums,
    length, d_inner, tiles,
    x_b, x_l, s_b, s_d, s_k, g_b, g_l, gx_b, gx_l, gs_b, gs_d, gs_k,
    w_d, w_j, m_p, m_j,
    W: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_STATE: tl.constexpr, T: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx for tiles of T steps, and their share of dweight and dbias."""
    first = tl.program_id(0) * T * tiles
    if HAS_STATE:
        first -= W - 1
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    b = tl.program_id(2).to(tl.int64)
    inside = d < d_inner
    weights, shift = load_weights(
        weight, bias, w_d, w_j, d, inside, W, HAS_BIAS
    )
    x += b * x_b
    grad += b * g_b
    total = ()
    for _ in tl.static_range(W + 1):
        total = total + (tl.zeros((CHANNELS,), tl.float32),)
    for tile in tl.range(0, tiles):
        t0 = first + tile * T
        inputs = load_inputs(
            x, x_l, state + b * s_b, s_d, s_k, t0 - (W - 1),
            d, inside, length, W, HAS_STATE, T + 2 * (W - 1),
        )  # fmt: skip
        gs = ()
        for i in tl.static_range(T + W - 1):
            g = load_step(grad, g_l, t0 + i, d, inside, length)
            if SILU:
                s = convolve(inputs, weights, shift, i, W)
                slope = sigmoid(s)
                g *= slope * (1.0 + s * (1.0 - slope))
            gs = gs + (g,)
        more = ()
        for j in tl.static_range(W):
            share = total[j]
            for i in tl.static_range(T):
                share += gs[i] * inputs[i + j]
            more = more + (share,)
        share = total[W]
        for i in tl.static_range(T):
            share += gs[i]
        total = more + (share,)
        for i in tl.static_range(T):
            dx = tl.zeros((CHANNELS,), tl.float32)
            for j in tl.static_range(W):
                dx += weights[j] * gs[i + W - 1 - j]
            t = t0 + i
            to = grad_x + b * gx_b + t.to(tl.int64) * gx_l + d
            ok = inside & (t >= 0) & (t < length)
            tl.store(to, dx.to(grad_x.dtype.element_ty), ok)
            if HAS_STATE:
                k = (t + W - 1).to(tl.int64)
                to = grad_state + b * gs_b + d.to(tl.int64) * gs_d + k * gs_k
                dx = dx.to(grad_state.dtype.element_ty)
                tl.store(to, dx, inside & (t < 0))
    part = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    sums += part.to(tl.int64) * m_p + d
    for j in tl.static_range(W + 1):
        tl.store(sums + j * m_j, total[j], inside)
