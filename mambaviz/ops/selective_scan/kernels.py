"""The Triton kernels of the fused scan: ``fused.py`` launches them.

    a_t = exp(delta_t A)      h_t = a_t h_{t-1} + delta_t x_t B_t
    y_t = (C_t . h_t + D x_t) silu(z_t)

**One thread, one channel.** A program is one warp. It owns LANES = 32
channels of one sequence; each thread holds all d_state states of its channel
in registers and walks through time. So the recurrence is one multiplication
and addition in a register, the sum over states never leaves the thread, and
x, delta, z and y are read and written 32 neighbours at a time. Of the steps,
T are written out one after the other, so that the exponentials of one hide
the latency of another; what a tile reads is asked for one tile ahead.

**What is read, what is written.** Per step and channel x, delta and z in, y
out; B_t and C_t once per 32 channels, from the cache. The state, d_state
times as large, is read and written only where a chunk of time begins. With
bfloat16 and 16 states that is 8 bytes for each step and channel instead of
the 384 and more of one operation after the other. Training adds the state
before every CK-th step, written once and read once: 4 d_state / CK bytes each
time, 16 with 16 states and CK = 4. The backward pass reads x, delta, z and
dy, writes dx, ddelta and dz, and writes and reads again the partial sums of
dB and dC, 8 d_state bytes for each step and 32 channels: 4 per channel.

**Chunks of time.** Where batch times channels is too small to fill the GPU,
time is cut into chunks:

    chunk_ends     every chunk but the last from a zero state: its last state,
                   and the sum of delta, whose exponential is its whole decay
    join_chunks    the state before each chunk, one after the other
    forward        every chunk from the right state

**Backwards.** With g_t the gradient of h_t and r_t = a_{t+1} g_{t+1}, which is
all that step t needs to know of the later ones:

    g_t = dy_t C_t + r_t                        r_{t-1} = a_t g_t
    dB_t = sum over channels of g_t delta_t x_t
    dC_t = sum over channels of dy_t h_t
    dx_t = delta_t (g_t . B_t) + D dy_t
    ddelta_t = x_t (g_t . B_t) + A . (r_{t-1} h_{t-1})
    dA = sum over time of delta_t r_{t-1} h_{t-1}

h is recomputed, T steps at a time, from the checkpoints of the forward pass.

**Sums over channels** are the only ones that leave a thread. They are written
as the product of a row of ones with the 32 channels' terms, in full float32:
the compiler turns it over through shared memory and gives each thread one
column to add up. Of fewer than 16 states the terms of several steps make up
the 32 columns. A block writes its own partial sum, and ``fused.py`` adds the
blocks in a fixed order. There is no atomic addition: every run gives the same
bits.

**One kernel after the other.** Where one writes what the next reads, the next
may start (``launch_pdl``) before all is written, load what does not depend on
it, and wait then. It saves a microsecond or two of a short scan.

**Resets** select and never multiply by zero, since 0 times NaN is NaN: what
is no number in one packed sequence stays out of the others.

Everything computes in float32, whatever the inputs are. exp(v) is exp2(v
log2 e), one instruction of the special-function unit; log2 e is multiplied
into A once.
"""

import triton
import triton.language as tl

LANES = tl.constexpr(32)  # channels of a program, one for each thread
LOG2E = tl.constexpr(1.4426950408889634)
LOG2E_LOW = tl.constexpr(1.9259629911266175e-08)  # past float32's digits
LN2 = tl.constexpr(0.6931471805599453)

# Numbers that no kernel is compiled for anew.
RUNTIME = [
    "rows",
    "length",
    "steps",
    "n_chunks",
    "n_kept",
    "spacing",
    "blocks",
    "blocks_per_group",
]


@triton.jit
def exp_of_minus_abs(v):
    """exp(-|v|) to the last bits: exp2(v log2 e) would lose some to log2 e.

    ``lost`` is what the rounded product t misses of -|v| log2 e, in units of
    e: with one rounding, a fused multiply-add gives v log2 e - t exactly.
    """
    v = -tl.minimum(tl.abs(v), 80.0)
    t = v * LOG2E
    lost = tl.fma(v, LOG2E, -t) + v * LOG2E_LOW
    power = tl.exp2(t)
    return power + power * (lost * LN2)


@triton.jit
def softplus(v):
    """max(v, 0) + log(1 + e), e = exp(-|v|), to the last bits of float32.

    log(1 + e) is e + e^2 P(e), P by equal ripples on [0, 1].
    """
    e = exp_of_minus_abs(v)
    p = 0.02020457200706005 + e * -0.003318469738587737
    p = -0.0576644204556942 + e * p
    p = 0.10680553317070007 + e * p
    p = -0.15355394780635834 + e * p
    p = 0.19695399701595306 + e * p
    p = -0.24958586692810059 + e * p
    p = 0.33330512046813965 + e * p
    p = -0.4999993145465851 + e * p
    above = tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return above + (e + e * (e * p))


@triton.jit
def inverse(d):
    """1 / d for finite d >= 1: a division would care for any d."""
    r = tl.rsqrt(d)
    r = r * r
    return r + r * (1.0 - d * r)


@triton.jit
def softplus_slope(v):
    """1 / (1 + exp(-v)), with the exponential that softplus has."""
    e = exp_of_minus_abs(v)
    return tl.where(v >= 0.0, 1.0, e) * inverse(1.0 + e)


@triton.jit
def sigmoid(v):
    """1 / (1 + exp(-v)), for the gate, where |v| is small."""
    return inverse(1.0 + tl.exp2(tl.minimum(v * -LOG2E, 115.0)))


@triton.jit
def load_states(p, stride, lane, N: tl.constexpr, NP: tl.constexpr):
    """(NP, LANES) from N rows, the others zero.

    Row by row, since the layout of a two-dimensional load would stay with
    the state: thread and channel would no longer be the same. The sum in
    integers joins the rows without an instruction.
    """
    n = tl.arange(0, NP)
    h = tl.zeros((NP, LANES), tl.int32)
    for i in tl.static_range(N):
        row = tl.load(p + i * stride + lane)
        row = row.to(tl.float32).to(tl.int32, bitcast=True)
        h += tl.where((n == i)[:, None], row[None, :], 0)
    return h.to(tl.float32, bitcast=True)


@triton.jit
def pick(tile, here, axis: tl.constexpr):
    """The slice along axis where ``here``: no instruction inside a thread."""
    bits = tl.where(here, tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, axis).to(tl.float32, bitcast=True)


@triton.jit
def store_states(p, stride, lane, ok, h, N: tl.constexpr, NP: tl.constexpr):
    """N rows of LANES from a state, where ``ok``."""
    n = tl.arange(0, NP)
    for i in tl.static_range(N):
        row = pick(h, (n == i)[:, None], 0)
        tl.store(p + i * stride + lane, row, ok)


@triton.jit
def clamp(i, left, WHOLE: tl.constexpr):
    """Step i of a tile, or the last that is left."""
    if WHOLE:
        return i
    else:
        return tl.minimum(i, left - 1)


@triton.jit
def load_steps(p, stride, lane, left, T: tl.constexpr, WHOLE: tl.constexpr):
    """T rows of a sequence, of which ``left`` are left; the last repeats."""
    rows = ()
    for i in tl.static_range(T):
        row = p + clamp(i, left, WHOLE) * stride
        rows = rows + (tl.load(row + lane),)
    return rows


@triton.jit
def load_weights(
    B_ptr, C_ptr, B_n, C_n, B_fixed, C_fixed, N: tl.constexpr,
    NP: tl.constexpr, B_FIXED: tl.constexpr, C_FIXED: tl.constexpr,
    PAIRS: tl.constexpr,
):  # fmt: skip
    """B and C of a step, to be multiplied with states; zero from N on."""
    n = tl.arange(0, NP)
    if PAIRS:
        pairs = tl.load(B_ptr + tl.arange(0, 2 * NP))
        B, C = tl.split(tl.reshape(pairs, (NP, 2)))
        return B[:, None], C[:, None]
    else:
        if B_FIXED:
            B = B_fixed
        elif N == NP:
            B = tl.load(B_ptr + n * B_n).to(tl.float32)[:, None]
        else:
            B = tl.load(B_ptr + n * B_n, n < N, 0.0).to(tl.float32)[:, None]
        if C_FIXED:
            C = C_fixed
        elif N == NP:
            C = tl.load(C_ptr + n * C_n).to(tl.float32)[:, None]
        else:
            C = tl.load(C_ptr + n * C_n, n < N, 0.0).to(tl.float32)[:, None]
        return B, C


@triton.jit
def step_size(raw, bias, live, SOFTPLUS: tl.constexpr):
    """delta, and 0 after the end: a step of size 0 changes nothing."""
    v = raw.to(tl.float32) + bias
    if SOFTPLUS:
        v = softplus(v)
    return tl.where(live, v, 0.0)


@triton.jit
def let_next_start(OVERLAP: tl.constexpr):
    """The next kernel may start: it waits itself for what this one writes.

    Not said before a kernel that needs the whole GPU: its programs would
    crowd where room is first, and others would have none to do.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def await_previous(OVERLAP: tl.constexpr):
    """Go on when all that the kernel before has written can be read."""
    if OVERLAP:
        tl.extra.cuda.gdc_wait()


@triton.jit
def whereabouts(blocks, n_chunks):
    """This program's block, chunk and sequence, and its own number."""
    here = tl.program_id(0)
    block = here % blocks
    chunk = here // blocks % n_chunks
    sequence = here // (blocks * n_chunks)
    return block, chunk, sequence.to(tl.int64), here.to(tl.int64)


@triton.jit
def channels(block, width, blocks_per_group, FULL: tl.constexpr):
    """A block's group and channels, and which of its lanes have one.

    A block never crosses the border between two groups of channels.
    """
    group = block // blocks_per_group
    inside = (block % blocks_per_group) * LANES + tl.arange(0, LANES)
    if FULL:
        ok = tl.full((LANES,), 1, tl.int1)
    else:
        ok = inside < width
        inside = tl.minimum(inside, width - 1)
    return group, group * width + inside, ok


@triton.jit
def compose(decay_1, end_1, decay_2, end_2):
    """Two stretches of time, one after the other."""
    return decay_1 * decay_2, decay_2 * end_1 + end_2


@triton.jit
def compose_unless_reset(fresh_1, decay_1, end_1, fresh_2, decay_2, end_2):
    """As ``compose``; into a stretch with a reset, not even NaN gets."""
    end = tl.where(fresh_2 != 0, end_2, decay_2 * end_1 + end_2)
    return fresh_1 | fresh_2, decay_1 * decay_2, end


@triton.jit
def scan_tile(a, b, starts, HAS_RESET: tl.constexpr):
    """h_t = a_t h_{t-1} + b_t along a tile; only b_t where ``starts``."""
    if HAS_RESET:
        fresh = tl.broadcast_to(starts[:, None, :].to(tl.int32), a.shape)
        _, _, h = tl.associative_scan((fresh, a, b), 0, compose_unless_reset)
    else:
        _, h = tl.associative_scan((a, b), 0, compose)
    return h


@triton.jit
def tile_weights(
    p, time, stride_l, stride_n, fixed, N: tl.constexpr, NP: tl.constexpr,
    FIXED: tl.constexpr,
):  # fmt: skip
    """B or C of a tile's steps, (T, NP, 1); if fixed, (1, NP, LANES)."""
    n = tl.arange(0, NP)
    if FIXED:
        return fixed[None]
    else:
        p = p + time[:, None] * stride_l + n[None, :] * stride_n
        if N == NP:
            rows = tl.load(p)
        else:
            rows = tl.load(p, mask=(n < N)[None, :], other=0.0)
        return rows.to(tl.float32)[:, :, None]


@triton.jit
def tile_pairs(p, time, stride_l, NP: tl.constexpr, T: tl.constexpr):
    """B and C of a tile's steps, (T, NP, 1), from rows of pairs."""
    p = p + time[:, None] * stride_l + tl.arange(0, 2 * NP)[None, :]
    B, C = tl.split(tl.reshape(tl.load(p), (T, NP, 2)))
    return B[:, :, None], C[:, :, None]


@triton.jit
def tile_half(
    p, which: tl.constexpr, time, stride_l, NP: tl.constexpr, T: tl.constexpr
):  # fmt: skip
    """B (0) or C (1) alone from rows of pairs; whole rows if they are short.

    A tile has a number for each thread, or some threads wait for others.
    """
    if T * NP < LANES:
        return tile_pairs(p, time, stride_l, NP, T)[which]
    else:
        p = p + time[:, None] * stride_l + tl.arange(0, NP)[None, :] * 2
        return tl.load(p + which)[:, :, None]


@triton.jit(do_not_specialize=RUNTIME)
def forward(
    x_ptr, delta_ptr, z_ptr, A_ptr, B_ptr, C_ptr, D_ptr, bias_ptr, reset_ptr,
    y_ptr, sum_ptr, initial_ptr, kept_ptr, ends_ptr, totals_ptr, last_ptr,
    x_b, x_l, delta_b, delta_l, z_b, z_l, A_d, A_n,
    B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, initial_b, initial_d, initial_n,
    d_inner, width, blocks_per_group, blocks,
    rows, length, steps, n_chunks, n_kept, spacing,
    N: tl.constexpr, NP: tl.constexpr, WHOLE: tl.constexpr,
    FULL: tl.constexpr, STAGES: tl.constexpr, T: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_Z: tl.constexpr, HAS_RESET: tl.constexpr,
    B_FIXED: tl.constexpr, C_FIXED: tl.constexpr, PAIRS: tl.constexpr,
    FROM: tl.constexpr, KEEP: tl.constexpr, GRAIN: tl.constexpr,
    DENSE: tl.constexpr, ENDS: tl.constexpr, WRITE_Y: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """A chunk of time: y, or (ENDS) its last state and its sum of delta.

    FROM "zero", "given" (``initial_state``) or "states" (one a chunk).
    """
    block, chunk, sequence, here = whereabouts(blocks, n_chunks)
    if ENDS:
        let_next_start(OVERLAP)
        if chunk == n_chunks - 1:
            return  # No chunk comes after it.
    t = tl.arange(0, T)
    lane = tl.arange(0, LANES)
    group, d, ok = channels(block, width, blocks_per_group, FULL)
    first = (t == 0)[:, None, None]
    last = (t == T - 1)[:, None, None]
    A2 = load_states(A_ptr, A_n, d * A_d, N, NP) * LOG2E
    D = tl.load(D_ptr + d).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + d).to(tl.float32)[None, :]
    await_previous(OVERLAP)
    B_fixed = A2
    C_fixed = A2
    if B_FIXED:
        B_fixed = load_states(B_ptr, B_n, d * B_l, N, NP)
    else:
        B_ptr += sequence * B_b + group.to(tl.int64) * B_g
    if C_FIXED:
        C_fixed = load_states(C_ptr, C_n, d * C_l, N, NP)
    else:
        C_ptr += sequence * C_b + group.to(tl.int64) * C_g
    if FROM == "given":
        states = initial_ptr + sequence * initial_b
        h = load_states(states, initial_n, d * initial_d, N, NP)
    elif FROM == "states":
        states = initial_ptr + here * (NP * LANES)
        h = load_states(states, LANES, lane, NP, NP)
    else:
        h = tl.zeros((NP, LANES), tl.float32)
    total = tl.zeros((1, LANES), tl.float32)
    x_ptr += sequence * x_b
    delta_ptr += sequence * delta_b
    z_ptr += sequence * z_b
    y_ptr += sequence * rows * d_inner
    sum_ptr += sequence * rows * d_inner
    reset_ptr += sequence * rows
    kept_ptr += (sequence * n_kept * blocks + block) * (NP * LANES)
    start = chunk * steps
    for t0 in tl.range(0, tl.minimum(steps, length - start), T,
                       num_stages=STAGES):  # fmt: skip
        now = start + t0 + t
        live = (now < length)[:, None] | WHOLE
        time = now.to(tl.int64)
        if not WHOLE:
            time = tl.minimum(now, length - 1).to(tl.int64)
        p = x_ptr + time[:, None] * x_l + d[None, :]
        x = tl.load(p).to(tl.float32)
        p = delta_ptr + time[:, None] * delta_l + d[None, :]
        dt = step_size(tl.load(p), bias, live, SOFTPLUS)
        if PAIRS and ENDS:
            B = tile_half(B_ptr, 0, time, B_l, NP, T)
        elif PAIRS:
            B, C = tile_pairs(B_ptr, time, B_l, NP, T)
        else:
            B = tile_weights(B_ptr, time, B_l, B_n, B_fixed, N, NP, B_FIXED)
            C = tile_weights(C_ptr, time, C_l, C_n, C_fixed, N, NP, C_FIXED)
        a = tl.exp2(dt[:, None, :] * A2[None])
        goes_on = first
        sizes = dt
        starts = live
        if HAS_RESET:
            starts = (tl.load(reset_ptr + time) != 0)[:, None] & live
            goes_on = first & (starts == 0)[:, None, :]
            sizes = tl.where(starts, float("nan"), dt)
        if ENDS:
            total += tl.sum(sizes[:, None, :], 0)
        b = (dt * x)[:, None, :] * B
        b = tl.where(goes_on, a * h[None] + b, b)
        hs = scan_tile(a, b, starts, HAS_RESET)
        if KEEP:
            for i in tl.static_range(0, T, GRAIN):
                k = start + t0 + i
                every = spacing
                if DENSE:  # no division and no branch
                    every = GRAIN
                if DENSE or k % every == 0:
                    before = h
                    if i > 0:
                        before = pick(hs, (t == i - 1)[:, None, None], 0)
                    to = (k // every).to(tl.int64) * blocks * (NP * LANES)
                    keep = (lane >= 0) & (k < length)
                    store_states(kept_ptr + to, LANES, lane, keep, before,
                                 NP, NP)  # fmt: skip
        h = pick(hs, last, 0)
        if WRITE_Y:
            at = time[:, None] * d_inner + d[None, :]
            write = ok[None, :] & live
            y = tl.sum(hs * C, 1)
            if not FIRST:
                y += tl.load(sum_ptr + at)
            if LAST:
                y += D * x
                if HAS_Z:
                    p = z_ptr + time[:, None] * z_l + d[None, :]
                    z = tl.load(p).to(tl.float32)
                    y *= z * sigmoid(z)
                tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), write)
            else:
                tl.store(sum_ptr + at, y, write)
    if ENDS:
        p = ends_ptr + here * (NP * LANES)
        store_states(p, LANES, lane, lane >= 0, h, NP, NP)
        tl.store(totals_ptr + here * LANES + lane[None, :], total)
    if WRITE_Y:
        p = last_ptr + sequence * d_inner * N
        last_chunk = ok & (chunk == n_chunks - 1)
        store_states(p, 1, d * N, last_chunk, h, N, NP)


@triton.jit(do_not_specialize=RUNTIME)
def join_chunks(
    A_ptr, ends_ptr, totals_ptr, initial_ptr, states_ptr,
    A_d, A_n, initial_b, initial_d, initial_n,
    width, blocks_per_group, blocks, n_chunks,
    N: tl.constexpr, NP: tl.constexpr, FULL: tl.constexpr, U: tl.constexpr,
    GIVEN: tl.constexpr, REVERSE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The state that each chunk starts from; in reverse, the r it ends with.

    From one chunk to the next the state decays by exp(A sum(delta)), and what
    the chunk made of a zero state is added. A sum that is NaN says that there
    was a reset, after which nothing is left of the state before; or that a
    delta was NaN, and then what the chunk made is NaN already. A program takes
    one state of 32 channels, so that many chunks can be read at once.
    """
    n = tl.program_id(0) % NP
    block = tl.program_id(0) // NP % blocks
    sequence = (tl.program_id(0) // (NP * blocks)).to(tl.int64)
    lane = tl.arange(0, LANES)
    group, d, ok = channels(block, width, blocks_per_group, FULL)
    A2 = tl.zeros((LANES,), tl.float32)
    h = tl.zeros((LANES,), tl.float32)
    if n < N:
        A2 = tl.load(A_ptr + d * A_d + n * A_n).to(tl.float32) * LOG2E
        if GIVEN:
            p = initial_ptr + sequence * initial_b
            h = tl.load(p + d * initial_d + n * initial_n).to(tl.float32)
    await_previous(OVERLAP)
    for c0 in range(0, n_chunks, U):
        ends = ()
        totals = ()
        for i in tl.static_range(U):
            c = tl.minimum(c0 + i, n_chunks - 1)
            if REVERSE:
                c = n_chunks - 1 - c
            here = (sequence * n_chunks + c) * blocks + block
            ends = ends + (tl.load(ends_ptr + (here * NP + n) * LANES + lane),)
            totals = totals + (tl.load(totals_ptr + here * LANES + lane),)
        for i in tl.static_range(U):
            c = tl.minimum(c0 + i, n_chunks - 1)
            if REVERSE:
                c = n_chunks - 1 - c
            here = (sequence * n_chunks + c) * blocks + block
            p = states_ptr + (here * NP + n) * LANES + lane
            tl.store(p, h, (lane >= 0) & (c0 + i < n_chunks))
            total = totals[i]
            passed = tl.exp2(total * A2) * h + ends[i]
            h = tl.where(total == total, passed, ends[i])


@triton.jit(do_not_specialize=RUNTIME)
def chunk_adjoints(
    delta_ptr, z_ptr, A_ptr, B_ptr, C_ptr, bias_ptr, reset_ptr, grad_y_ptr,
    ends_ptr, totals_ptr,
    delta_b, delta_l, z_b, z_l, grad_b, grad_l, A_d, A_n,
    B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n,
    width, blocks_per_group, blocks, rows, length, steps, n_chunks,
    N: tl.constexpr, NP: tl.constexpr, WHOLE: tl.constexpr,
    FULL: tl.constexpr, STAGES: tl.constexpr, T: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_Z: tl.constexpr, HAS_RESET: tl.constexpr,
    C_FIXED: tl.constexpr, PAIRS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The r with which a chunk begins, if it ends with r = 0; sum of delta."""
    let_next_start(OVERLAP)
    block, chunk, sequence, here = whereabouts(blocks, n_chunks)
    if chunk == 0:
        return  # No chunk comes before it.
    t = tl.arange(0, T)
    lane = tl.arange(0, LANES)
    group, d, ok = channels(block, width, blocks_per_group, FULL)
    first = (t == 0)[:, None, None]
    last = (t == T - 1)[:, None, None]
    A2 = load_states(A_ptr, A_n, d * A_d, N, NP) * LOG2E
    bias = tl.load(bias_ptr + d).to(tl.float32)[None, :]
    await_previous(OVERLAP)
    C_fixed = A2
    if C_FIXED:
        C_fixed = load_states(C_ptr, C_n, d * C_l, N, NP)
    else:
        C_ptr += sequence * C_b + group.to(tl.int64) * C_g
    B_ptr += sequence * B_b + group.to(tl.int64) * B_g
    delta_ptr += sequence * delta_b
    z_ptr += sequence * z_b
    grad_y_ptr += sequence * grad_b
    reset_ptr += sequence * rows
    r = tl.zeros((NP, LANES), tl.float32)
    total = tl.zeros((1, LANES), tl.float32)
    start = chunk * steps
    end = tl.minimum(start + steps, length)
    for t0 in tl.range(0, end - start, T, num_stages=STAGES):
        # From the last step of the chunk to the first.
        now = end - 1 - t0 - t
        live = (now >= start)[:, None] | WHOLE
        time = tl.maximum(now, 0)
        if not WHOLE:
            time = tl.maximum(time, start)
        time = time.to(tl.int64)
        p = delta_ptr + time[:, None] * delta_l + d[None, :]
        dt = step_size(tl.load(p), bias, live, SOFTPLUS)
        p = grad_y_ptr + time[:, None] * grad_l + d[None, :]
        dy = tl.load(p).to(tl.float32)
        if HAS_Z:
            p = z_ptr + time[:, None] * z_l + d[None, :]
            z = tl.load(p).to(tl.float32)
            dy *= z * sigmoid(z)
        dy = tl.where(live, dy, 0.0)
        if PAIRS:
            C = tile_half(B_ptr, 1, time, B_l, NP, T)
        else:
            C = tile_weights(C_ptr, time, C_l, C_n, C_fixed, N, NP, C_FIXED)
        a = tl.exp2(dt[:, None, :] * A2[None])
        sizes = dt
        starts = live
        if HAS_RESET:
            # Also before the chunk, where its first step is repeated.
            starts = (tl.load(reset_ptr + time) != 0)[:, None]
            sizes = tl.where(starts, float("nan"), dt)
        total += tl.sum(sizes[:, None, :], 0)
        c = dy[:, None, :] * C
        c = tl.where(first, c + r[None], c)
        b = a * c
        if HAS_RESET:
            b = tl.where(starts[:, None, :], 0.0, b)
        rs = scan_tile(a, b, starts, HAS_RESET)
        r = pick(rs, last, 0)
    p = ends_ptr + here * (NP * LANES)
    store_states(p, LANES, lane, lane >= 0, r, NP, NP)
    tl.store(totals_ptr + here * LANES + lane[None, :], total)


@triton.jit
def add_compensated(total, low, more):
    """total + more by Kahan's summation: ``low`` is what rounding added."""
    more -= low
    after = total + more
    return after, (after - total) - more


@triton.jit
def put(tile, here, slice):
    """A tile with a slice where ``here``, in place of zeros.

    As in ``load_states``, the sum in integers takes no instruction.
    """
    bits = slice.to(tl.int32, bitcast=True)
    bits = tl.where(here[:, None, None], bits[None], 0)
    return (tile.to(tl.int32, bitcast=True) + bits).to(
        tl.float32, bitcast=True
    )


@triton.jit
def sum_over_lanes(rows, COLUMNS: tl.constexpr):
    """(COLUMNS,) from (LANES, ...), each thread's column added up by one."""
    rows = tl.reshape(rows, (LANES, COLUMNS))
    ones = tl.full((1, LANES), 1.0, tl.float32)
    sums = tl.dot(ones, rows, input_precision="ieee")
    return tl.reshape(sums, (COLUMNS,))


@triton.jit(do_not_specialize=RUNTIME)
def backward(
    x_ptr, delta_ptr, z_ptr, A_ptr, B_ptr, C_ptr, D_ptr, bias_ptr,
    reset_ptr,
    grad_y_ptr, sum_ptr, kept_ptr, later_ptr,
    dx_ptr, ddelta_ptr, dz_ptr, dBC_ptr, dA_ptr, dB_ptr, dC_ptr,
    dinitial_ptr,
    x_b, x_l, delta_b, delta_l, z_b, z_l, grad_b, grad_l, A_d, A_n,
    B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, later_b, later_d, later_n,
    d_inner, width, blocks_per_group, blocks,
    rows, length, steps, n_chunks, n_kept,
    N: tl.constexpr, NP: tl.constexpr, WHOLE: tl.constexpr,
    FULL: tl.constexpr, STAGES: tl.constexpr, T: tl.constexpr,
    TILES: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_RESET: tl.constexpr, B_FIXED: tl.constexpr, C_FIXED: tl.constexpr,
    PAIRS: tl.constexpr, GIVEN: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, AHEAD: tl.constexpr,
    TOGETHER: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """A chunk of time backwards, TILES tiles of T steps to a checkpoint.

    Of few states the terms of TOGETHER steps are added over channels at once.
    """
    let_next_start(OVERLAP)
    CK: tl.constexpr = T * TILES
    block, chunk, sequence, here = whereabouts(blocks, n_chunks)
    sequences = tl.num_programs(0) // (blocks * n_chunks)
    lane = tl.arange(0, LANES)
    group, d, ok = channels(block, width, blocks_per_group, FULL)
    A2 = load_states(A_ptr, A_n, d * A_d, N, NP) * LOG2E
    D = tl.load(D_ptr + d).to(tl.float32)
    bias = tl.load(bias_ptr + d).to(tl.float32)
    await_previous(OVERLAP)
    B_fixed = A2
    C_fixed = A2
    if B_FIXED:
        B_fixed = load_states(B_ptr, B_n, d * B_l, N, NP)
        dB = tl.zeros((NP, LANES), tl.float32)
    if C_FIXED:
        C_fixed = load_states(C_ptr, C_n, d * C_l, N, NP)
        dC = tl.zeros((NP, LANES), tl.float32)
    if GIVEN:
        p = later_ptr + sequence * later_b
        r = load_states(p, later_n, d * later_d, N, NP)
    else:
        p = later_ptr + here * (NP * LANES)
        r = load_states(p, LANES, lane, NP, NP)
    dA = tl.zeros((NP, LANES), tl.float32)
    dD = tl.zeros((LANES,), tl.float32)
    dbias = tl.zeros((LANES,), tl.float32)
    low_D = dD
    low_bias = dbias

    start = (chunk * steps).to(tl.int64)
    end = tl.minimum(start + steps, length)
    x_ptr += sequence * x_b + start * x_l
    delta_ptr += sequence * delta_b + start * delta_l
    z_ptr += sequence * z_b + start * z_l
    grad_y_ptr += sequence * grad_b + start * grad_l
    row = (sequence * rows + start) * d_inner
    reset_ptr += sequence * rows + start
    if not B_FIXED:
        B_ptr += sequence * B_b + start * B_l + group.to(tl.int64) * B_g
    if not C_FIXED:
        C_ptr += sequence * C_b + start * C_l + group.to(tl.int64) * C_g
    kept_ptr += (sequence * n_kept * blocks + block) * (NP * LANES)
    first_row = (block.to(tl.int64) * sequences + sequence) * length + start
    dBC_ptr += first_row * (2 * NP)
    in_group = tl.arange(0, CK)
    slot = tl.arange(0, 2 * TOGETHER)
    no_terms = tl.zeros((2 * TOGETHER, NP, LANES), tl.float32)
    COLUMNS: tl.constexpr = 2 * NP * TOGETHER
    place = tl.arange(0, COLUMNS)  # of a sum over channels, in rows of pairs
    if TOGETHER > 1:
        of_C = place // NP % 2
        place = place // (2 * NP) * (2 * NP) + place % NP * 2 + of_C

    count = (end - start).to(tl.int32)
    if AHEAD:
        t1 = ((count - 1) // CK * CK).to(tl.int64)
        last = (count - t1).to(tl.int32)
        next_x = load_steps(x_ptr + t1 * x_l, x_l, d, last, CK, WHOLE)
        next_delta = load_steps(
            delta_ptr + t1 * delta_l, delta_l, d, last, CK, WHOLE
        )
    for back in tl.range(0, (count + CK - 1) // CK, num_stages=STAGES):
        t0 = (count - 1) // CK * CK - back * CK
        left = count - t0
        t = t0.to(tl.int64)
        if AHEAD:
            xs, deltas = next_x, next_delta
            t1 = tl.maximum(t0 - CK, 0).to(tl.int64)
            then = (count - t1).to(tl.int32)
            next_x = load_steps(x_ptr + t1 * x_l, x_l, d, then, CK, WHOLE)
            next_delta = load_steps(
                delta_ptr + t1 * delta_l, delta_l, d, then, CK, WHOLE
            )
        else:
            xs = load_steps(x_ptr + t * x_l, x_l, d, left, CK, WHOLE)
            deltas = load_steps(
                delta_ptr + t * delta_l, delta_l, d, left, CK, WHOLE
            )
        grads = load_steps(grad_y_ptr + t * grad_l, grad_l, d, left, CK, WHOLE)
        zs = grads
        if HAS_Z:
            zs = load_steps(z_ptr + t * z_l, z_l, d, left, CK, WHOLE)
        k = ((chunk * steps + t0) // CK).to(tl.int64) * blocks * (NP * LANES)
        kept = load_states(kept_ptr + k, LANES, lane, NP, NP)
        if PAIRS and TOGETHER > 1:
            s = (t0 + clamp(in_group, left, WHOLE)).to(tl.int64)
            group_B, group_C = tile_pairs(B_ptr, s, B_l, NP, CK)
            group_B = tl.broadcast_to(group_B, (CK, NP, LANES))
            group_C = tl.broadcast_to(group_C, (CK, NP, LANES))
        group_D = tl.zeros((LANES,), tl.float32)
        group_bias = tl.zeros((LANES,), tl.float32)
        for tile in tl.static_range(TILES - 1, -1, -1):
            h = kept
            for i in tl.static_range(tile * T):
                live = WHOLE | (i < left)
                j = clamp(i, left, WHOLE)
                dt = step_size(deltas[i], bias, live, SOFTPLUS)
                a = tl.exp2(dt[None, :] * A2)
                s = (t0 + j).to(tl.int64)
                B, _ = load_weights(
                    B_ptr + s * B_l, C_ptr + s * C_l, B_n, C_n,
                    B_fixed, C_fixed, N, NP, B_FIXED, C_FIXED, PAIRS,
                )  # fmt: skip
                b = (dt * xs[i].to(tl.float32))[None, :] * B
                h = a * h + b
                if HAS_RESET:
                    starts = (tl.load(reset_ptr + t0 + j) != 0) & live
                    h = tl.where(starts, b, h)
            hs = (h,)
            resets = ()
            a_s = ()
            ys = ()
            Bs = ()
            Cs = ()
            dts = ()
            for i in tl.static_range(T):
                live = WHOLE | (tile * T + i < left)
                j = clamp(tile * T + i, left, WHOLE)
                dt = step_size(deltas[tile * T + i], bias, live, SOFTPLUS)
                a = tl.exp2(dt[None, :] * A2)
                s = (t0 + j).to(tl.int64)
                if PAIRS and TOGETHER > 1:
                    now = (in_group == tile * T + i)[:, None, None]
                    B, C = pick(group_B, now, 0), pick(group_C, now, 0)
                else:
                    B, C = load_weights(
                        B_ptr + s * B_l, C_ptr + s * C_l, B_n, C_n,
                        B_fixed, C_fixed, N, NP, B_FIXED, C_FIXED, PAIRS,
                    )  # fmt: skip
                b = (dt * xs[tile * T + i].to(tl.float32))[None, :] * B
                h = a * h + b
                if HAS_RESET:
                    starts = (tl.load(reset_ptr + t0 + j) != 0) & live
                    h = tl.where(starts, b, h)
                    resets = resets + (starts,)
                hs = hs + (h,)
                a_s = a_s + (a,)
                ys = ys + (tl.sum(h * C, 0),)
                Bs = Bs + (B,)
                Cs = Cs + (C,)
                dts = dts + (dt,)
            terms = no_terms
            for i in tl.static_range(T - 1, -1, -1):
                live = WHOLE | (tile * T + i < left)
                x = tl.where(ok, xs[tile * T + i].to(tl.float32), 0.0)
                dt = dts[i]
                y = ys[i]
                dout = grads[tile * T + i].to(tl.float32)
                dout = tl.where(ok & live, dout, 0.0)
                dy = dout
                if HAS_Z:
                    z = zs[tile * T + i].to(tl.float32)
                    gate = sigmoid(z)
                    dy = dout * z * gate
                g = dy[None, :] * Cs[i] + r
                r = a_s[i] * g
                before = hs[i]
                if HAS_RESET:
                    before = tl.where(resets[i], 0.0, before)
                w = r * before
                if HAS_RESET:
                    r = tl.where(resets[i], 0.0, r)
                du = dt * x
                gB = tl.sum(g * Bs[i], 0)
                wA = tl.sum(w * A2, 0) * LN2
                dA += w * dt[None, :]
                to_B = g * du[None, :]
                to_C = hs[i + 1] * dy[None, :]
                if B_FIXED:
                    dB += to_B
                if C_FIXED:
                    dC += to_C
                if not (B_FIXED and C_FIXED):
                    if TOGETHER == 1:
                        pairs = tl.permute(tl.join(to_B, to_C), (1, 0, 2))
                        sums = sum_over_lanes(pairs, COLUMNS)
                    else:
                        at_B = i % TOGETHER * 2
                        terms = put(terms, slot == at_B, to_B)
                        terms = put(terms, slot == at_B + 1, to_C)
                        if i % TOGETHER == 0:
                            turned = tl.permute(terms, (2, 0, 1))
                            sums = sum_over_lanes(turned, COLUMNS)
                            terms = no_terms
                    if i % TOGETHER == 0:
                        first = tile * T + i
                        to = dBC_ptr + (t0 + first).to(tl.int64) * (2 * NP)
                        there = WHOLE | (first + place // (2 * NP) < left)
                        tl.store(to + place, sums, there)
                at = row + (t0 + tile * T + i).to(tl.int64) * d_inner + d
                if not FIRST:
                    at_sum = sum_ptr + at
                    block_size = sequences * rows.to(tl.int64) * d_inner
                    y += tl.load(at_sum, ok & live)
                    gB += tl.load(at_sum + block_size, ok & live)
                    wA += tl.load(at_sum + 2 * block_size, ok & live)
                if LAST:
                    if HAS_Z:
                        slope = gate * (1.0 + z * (1.0 - gate))
                        dz = dout * slope * (y + D * x)
                        dz = dz.to(dz_ptr.dtype.element_ty)
                        tl.store(dz_ptr + at, dz, ok & live)
                    dx = D * dy + dt * gB
                    ddelta = x * gB + wA
                    if SOFTPLUS:
                        v = deltas[tile * T + i].to(tl.float32) + bias
                        ddelta *= softplus_slope(v)
                    ddelta = tl.where(live, ddelta, 0.0)
                    dx = dx.to(dx_ptr.dtype.element_ty)
                    tl.store(dx_ptr + at, dx, ok & live)
                    group_D += dy * x
                    group_bias += ddelta
                    ddelta = ddelta.to(ddelta_ptr.dtype.element_ty)
                    tl.store(ddelta_ptr + at, ddelta, ok & live)
                else:
                    at_sum = sum_ptr + at
                    block_size = sequences * rows.to(tl.int64) * d_inner
                    tl.store(at_sum, y, ok & live)
                    tl.store(at_sum + block_size, gB, ok & live)
                    tl.store(at_sum + 2 * block_size, wA, ok & live)
        dD, low_D = add_compensated(dD, low_D, group_D)
        dbias, low_bias = add_compensated(dbias, low_bias, group_bias)
    everywhere = lane >= 0
    p = dA_ptr + here * ((NP + 2) * LANES)
    store_states(p, LANES, lane, everywhere, dA, NP, NP)
    tl.store(p + NP * LANES + lane, dD)
    tl.store(p + (NP + 1) * LANES + lane, dbias)
    if B_FIXED:
        p = dB_ptr + here * (NP * LANES)
        store_states(p, LANES, lane, everywhere, dB, NP, NP)
    if C_FIXED:
        p = dC_ptr + here * (NP * LANES)
        store_states(p, LANES, lane, everywhere, dC, NP, NP)
    if chunk == 0:
        before = dinitial_ptr + sequence * d_inner * N
        store_states(before, 1, d * N, ok, r, N, NP)


@triton.jit(do_not_specialize=["blocks_per_group", "count", "length"])
def sum_blocks(
    dBC_ptr, dB_ptr, dC_ptr, dB_b, dB_l, dB_g, dC_b, dC_l, dC_g,
    blocks_per_group, count, length,
    N: tl.constexpr, NP: tl.constexpr, ROWS: tl.constexpr,
    B_FIXED: tl.constexpr, C_FIXED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The blocks' partial sums of dB and dC, added in the blocks' order.

    A row is one step of one sequence; there are ``count``.
    """
    await_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1)
    column = tl.arange(0, 2 * NP)
    live = (row < count)[:, None]
    p = dBC_ptr + group.to(tl.int64) * blocks_per_group * count * (2 * NP)
    p += row[:, None] * (2 * NP) + column[None, :]
    total = tl.zeros((ROWS, 2 * NP), tl.float32)
    for _ in range(blocks_per_group):
        total += tl.load(p, mask=live, other=0.0)
        p += count.to(tl.int64) * (2 * NP)
    dB, dC = tl.split(tl.reshape(total, (ROWS, NP, 2)))
    n = tl.arange(0, NP)
    live = live & (n < N)[None, :]
    sequence = row // length
    t = row % length
    if not B_FIXED:
        to = dB_ptr + sequence * dB_b + t * dB_l + group * dB_g
        to = to[:, None] + n[None, :]
        tl.store(to, dB.to(dB_ptr.dtype.element_ty), mask=live)
    if not C_FIXED:
        to = dC_ptr + sequence * dC_b + t * dC_l + group * dC_g
        to = to[:, None] + n[None, :]
        tl.store(to, dC.to(dC_ptr.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["count", "length"])
def pair(
    B_ptr, C_ptr, pairs_ptr, B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n,
    B_share, C_share, count, length,
    N: tl.constexpr, NP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """B and C of a step side by side in float32, padded with zeros.

    A group of the pairs takes B from group // B_share, so for C.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1).to(tl.int64)
    n = tl.arange(0, NP)
    live = (row < count)[:, None]
    some = live & (n < N)[None, :]
    sequence = row // length
    t = row % length
    p = B_ptr + sequence * B_b + t * B_l + (group // B_share) * B_g
    B = tl.load(p[:, None] + n[None, :] * B_n, mask=some, other=0.0)
    p = C_ptr + sequence * C_b + t * C_l + (group // C_share) * C_g
    C = tl.load(p[:, None] + n[None, :] * C_n, mask=some, other=0.0)
    pairs = tl.join(B.to(tl.float32), C.to(tl.float32))
    pairs = tl.reshape(pairs, (ROWS, 2 * NP))
    at = (row * tl.num_programs(1) + group)[:, None] * (2 * NP)
    column = tl.arange(0, 2 * NP)[None, :]
    tl.store(pairs_ptr + at + column, pairs, mask=live)


@triton.jit(do_not_specialize=["d_inner", "B_width", "C_width"])
def step(
    state, x, delta, A, B, C, D, z, bias, y, after, d_inner, B_width, C_width,
    h_b, h_d, h_n, x_b, x_d, delta_b, delta_d, A_d, A_n, B_b, B_g, B_n,
    C_b, C_g, C_n, z_b, z_d, y_b, y_d, a_b, a_d, a_n,
    N: tl.constexpr, NP: tl.constexpr, CHANNELS: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """One step of CHANNELS channels, for generation: state in, state out."""
    d = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    b = tl.program_id(1).to(tl.int64)
    n = tl.arange(0, NP)
    inside = d < d_inner
    ok = inside[:, None] & (n < N)[None, :]
    x_t = tl.load(x + b * x_b + d * x_d, inside, 0.0).to(tl.float32)
    delta_t = tl.load(delta + b * delta_b + d * delta_d, inside, 0.0)
    delta_t = delta_t.to(tl.float32)
    if HAS_BIAS:
        delta_t += tl.load(bias + d, inside, 0.0).to(tl.float32)
    if SOFTPLUS:
        delta_t = softplus(delta_t)
    A_n_ = tl.load(A + d[:, None] * A_d + n[None, :] * A_n, ok, 0.0)
    B_t = tl.load(
        B + b * B_b + (d // B_width)[:, None] * B_g + n[None, :] * B_n, ok, 0.0
    ).to(tl.float32)
    C_t = tl.load(
        C + b * C_b + (d // C_width)[:, None] * C_g + n[None, :] * C_n, ok, 0.0
    ).to(tl.float32)
    at = d.to(tl.int64)[:, None] * h_d + n[None, :] * h_n
    h = tl.load(state + b * h_b + at, ok, 0.0).to(tl.float32)
    a = tl.exp2(delta_t[:, None] * (A_n_.to(tl.float32) * LOG2E))
    h = a * h + (delta_t * x_t)[:, None] * B_t
    y_t = tl.sum(h * C_t, 1)
    if HAS_D:
        y_t += tl.load(D + d, inside, 0.0).to(tl.float32) * x_t
    if HAS_Z:
        z_t = tl.load(z + b * z_b + d * z_d, inside, 0.0).to(tl.float32)
        y_t *= z_t * sigmoid(z_t)
    at = d.to(tl.int64)[:, None] * a_d + n[None, :] * a_n
    tl.store(after + b * a_b + at, h, ok)
    tl.store(y + b * y_b + d * y_d, y_t.to(y.dtype.element_ty), inside)
