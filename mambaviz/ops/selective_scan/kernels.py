"""The Triton kernels of the fused scan: ``fused.py`` launches them.

    a_t = exp(delta_t A)      h_t = a_t h_{t-1} + delta_t x_t B_t
    y_t = (C_t . h_t + D x_t) silu(z_t)

**One thread, one channel.** A program is one warp. It owns LANES = 32
channels of one sequence; each thread holds all d_state states of its channel
in registers and walks through time. So the recurrence is one multiplication
and addition in a register, the sum over states never leaves the thread, and
x, delta, z and y are read and written 32 neighbours at a time. Of the steps,
T are written out one after the other, so that the exponentials of one hide
the latency of another; what a tile reads is asked for two tiles ahead.

**Or two.** Sixteen states fill a thread's registers, and with few such threads
side by side the GPU waits. So two threads (THREADS) share a channel, eight
states each: there are twice as many programs, of 16 channels each. What a
channel needs once a step, softplus and the gate, either thread does for every
other step and hands to its partner; sums over states they add together.

**What is read, what is written.** Per step and channel x, delta and z in, y
out; B_t and C_t once for each program, from the cache. The state, d_state
times as large, is read and written only where a chunk of time begins. With
bfloat16 and 16 states that is 8 bytes for each step and channel instead of
the 384 and more of one operation after the other. Training adds the state
before every 4th step, written once and read once: d_state bytes each time.
The backward pass reads x, delta, z and dy, writes dx, ddelta and dz, and
writes and reads again the partial sums of dB and dC, 8 d_state bytes for each
step and program: with 16 states, 8 for each channel.

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

h is recomputed, a tile at a time, from the checkpoints of the forward pass.

**Sums over channels** are the only ones that leave a thread and its partner.
They are written as the product of a row of ones with all channels' terms, in
full float32: the compiler turns it over through shared memory and gives each
thread a column or two to add up. A program writes its own partial sum, and
``sum_blocks`` adds them in a fixed order, as ``sum_over_time`` adds what each
chunk and sequence has for A, D and delta_bias. There is no atomic addition:
every run gives the same bits.

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
def inverse(d, finite):
    """1 / d for d >= 1: a division would care for any d.

    ``finite`` is d; of a d that is infinite, any other number.
    """
    r = tl.rsqrt(d)
    r = r * r
    return r + r * (1.0 - finite * r)


@triton.jit
def softplus_slope(v):
    """1 / (1 + exp(-v)), with the exponential that softplus has."""
    e = exp_of_minus_abs(v)
    return tl.where(v >= 0.0, 1.0, e) * inverse(1.0 + e, 1.0 + e)


@triton.jit
def sigmoid(v):
    """1 / (1 + exp(-v)), for the gate, where |v| is mostly small."""
    d = 1.0 + tl.exp2(v * -LOG2E)
    return inverse(d, tl.minimum(d, 1e38))


@triton.jit
def load_states(
    p, stride, lane, N: tl.constexpr, NP: tl.constexpr,
    THREADS: tl.constexpr = 1,
):  # fmt: skip
    """(NP // THREADS, LANES): the states of each thread, zero from N on.

    Row by row, since the layout of a two-dimensional load would stay with
    the state: thread and channel would no longer be the same. The sum in
    integers joins the rows without an instruction.
    """
    OWN: tl.constexpr = NP // THREADS
    n = tl.arange(0, OWN)
    before = tl.arange(0, LANES) // (LANES // THREADS) * OWN
    at = p + before.to(tl.int64) * stride + lane
    h = tl.zeros((OWN, LANES), tl.int32)
    for i in tl.static_range(min(N, OWN)):
        if THREADS == 1 or N == NP:
            row = tl.load(at)
        else:
            row = tl.load(at, before + i < N, 0.0)
        at += stride
        row = row.to(tl.float32).to(tl.int32, bitcast=True)
        h += tl.where((n == i)[:, None], row[None, :], 0)
    return h.to(tl.float32, bitcast=True)


@triton.jit
def pick(tile, here, axis: tl.constexpr):
    """The slice along axis where ``here``: no instruction inside a thread."""
    bits = tl.where(here, tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, axis).to(tl.float32, bitcast=True)


@triton.jit
def store_states(
    p, stride, lane, ok, h, N: tl.constexpr, NP: tl.constexpr,
    THREADS: tl.constexpr = 1,
):  # fmt: skip
    """The first N states, where ``ok``."""
    OWN: tl.constexpr = NP // THREADS
    n = tl.arange(0, OWN)
    before = tl.arange(0, LANES) // (LANES // THREADS) * OWN
    lane += before * stride
    for i in tl.static_range(min(N, OWN)):
        row = pick(h, (n == i)[:, None], 0)
        there = ok if THREADS == 1 or N == NP else ok & (before + i < N)
        tl.store(p + i * stride + lane, row, there)


@triton.jit
def clamp(i, left, WHOLE: tl.constexpr):
    """Step i of a tile, or the last that is left."""
    if WHOLE:
        return i
    else:
        return tl.minimum(i, left - 1)


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
def whereabouts(blocks, n_chunks, THREADS: tl.constexpr = 1):
    """This program's block, chunk, sequence, their number, and the slots.

    A block has LANES channels, each in its slot. THREADS programs share it.
    """
    here = tl.program_id(0) // THREADS
    block = here % blocks
    chunk = here // blocks % n_chunks
    sequence = here // (blocks * n_chunks)
    slot = tl.arange(0, LANES)
    if THREADS > 1:
        own: tl.constexpr = LANES // THREADS
        slot = tl.program_id(0) % THREADS * own + slot % own
    return block, chunk, sequence.to(tl.int64), here.to(tl.int64), slot


@triton.jit
def channels(block, slot, width, blocks_per_group, FULL: tl.constexpr):
    """A block's group, and the channels in its slots; not all have one.

    A block never crosses the border between two groups of channels.
    """
    group = block // blocks_per_group
    inside = (block % blocks_per_group) * LANES + slot
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
        p = p + time[:, None] * stride_l + n.to(tl.int64)[None, :] * stride_n
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


@triton.jit
def own_steps(T: tl.constexpr, THREADS: tl.constexpr):
    """Which steps of a tile a thread looks after: every THREADS-th."""
    if THREADS == 1:
        return tl.arange(0, T)[:, None]
    else:
        thread = tl.arange(0, LANES) // (LANES // THREADS)
        return tl.arange(0, T // 2)[:, None] * 2 + thread[None, :]


@triton.jit
def for_both(rows, T: tl.constexpr, THREADS: tl.constexpr):
    """(T, LANES): each of two threads gets the other's steps too."""
    if THREADS == 1:
        return rows
    else:
        lane = tl.arange(0, LANES)[None, :] % (LANES // 2)
        lane = tl.broadcast_to(lane, rows.shape)
        even = tl.gather(rows, lane, 1)
        odd = tl.gather(rows, lane + LANES // 2, 1)
        return tl.reshape(
            tl.permute(tl.join(even, odd), (0, 2, 1)), (T, LANES)
        )


@triton.jit
def sum_of_both(rows, T: tl.constexpr, THREADS: tl.constexpr):
    """What two threads have together, to each for its own steps."""
    if THREADS == 1:
        return rows
    else:
        lane = tl.arange(0, LANES)[None, :]
        steps = tl.reshape(rows, (T // 2, 2, LANES))
        even, odd = tl.split(tl.permute(steps, (0, 2, 1)))
        first = lane < LANES // 2
        here, there = tl.where(first, even, odd), tl.where(first, odd, even)
        lane = tl.broadcast_to(lane ^ (LANES // 2), there.shape)
        return here + tl.gather(there, lane, 1)


@triton.jit
def own_weights(
    rows, T: tl.constexpr, NP: tl.constexpr, THREADS: tl.constexpr
):  # fmt: skip
    """(T, NP // THREADS, LANES) of (T, NP, 1): those of a thread's states."""
    if THREADS == 1:
        return rows
    else:
        OWN: tl.constexpr = NP // THREADS
        WIDTH: tl.constexpr = LANES // THREADS
        rows = tl.reshape(rows, (T, THREADS, OWN, 1))
        rows = tl.broadcast_to(rows, (T, THREADS, OWN, WIDTH))
        return tl.reshape(tl.permute(rows, (0, 2, 1, 3)), (T, OWN, LANES))


@triton.jit
def both_weights(
    B_ptr, C_ptr, time, B_l, B_n, C_l, C_n, B_fixed, C_fixed,
    N: tl.constexpr, NP: tl.constexpr, T: tl.constexpr,
    B_FIXED: tl.constexpr, C_FIXED: tl.constexpr, PAIRS: tl.constexpr,
    THREADS: tl.constexpr,
):  # fmt: skip
    """B and C of a tile's steps, of the states that a thread has."""
    if PAIRS:
        B, C = tile_pairs(B_ptr, time, B_l, NP, T)
    else:
        B = tile_weights(B_ptr, time, B_l, B_n, B_fixed, N, NP, B_FIXED)
        C = tile_weights(C_ptr, time, C_l, C_n, C_fixed, N, NP, C_FIXED)
    if not B_FIXED:
        B = own_weights(B, T, NP, THREADS)
    if not C_FIXED:
        C = own_weights(C, T, NP, THREADS)
    return B, C


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
    THREADS: tl.constexpr,
):  # fmt: skip
    """A chunk of time: y, or (ENDS) its last state and its sum of delta.

    FROM "zero", "given" (``initial_state``) or "states" (one a chunk).
    """
    block, chunk, sequence, here, slot = whereabouts(blocks, n_chunks, THREADS)
    if ENDS:
        let_next_start(OVERLAP)
        if chunk == n_chunks - 1:
            return  # No chunk comes after it.
    t = tl.arange(0, T)
    own = own_steps(T, THREADS)
    group, d, ok = channels(block, slot, width, blocks_per_group, FULL)
    far = d.to(tl.int64)
    first = (t == 0)[:, None, None]
    last = (t == T - 1)[:, None, None]
    A2 = load_states(A_ptr, A_n, far * A_d, N, NP, THREADS) * LOG2E
    D = tl.load(D_ptr + d).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + d).to(tl.float32)[None, :]
    await_previous(OVERLAP)
    B_fixed = A2
    C_fixed = A2
    if B_FIXED:
        B_fixed = load_states(B_ptr, B_n, far * B_l, N, NP, THREADS)
    else:
        B_ptr += sequence * B_b + group.to(tl.int64) * B_g
    if C_FIXED:
        C_fixed = load_states(C_ptr, C_n, far * C_l, N, NP, THREADS)
    else:
        C_ptr += sequence * C_b + group.to(tl.int64) * C_g
    if FROM == "given":
        states = initial_ptr + sequence * initial_b
        h = load_states(states, initial_n, far * initial_d, N, NP, THREADS)
    elif FROM == "states":
        states = initial_ptr + here * (NP * LANES)
        h = load_states(states, LANES, slot, NP, NP, THREADS)
    else:
        h = tl.zeros((NP // THREADS, LANES), tl.float32)
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
        time = clamp(start + t0 + t, length, WHOLE).to(tl.int64)
        live = (start + t0 + own < length) | WHOLE
        own_time = clamp(start + t0 + own, length, WHOLE).to(tl.int64)
        p = x_ptr + own_time * x_l + d[None, :]
        x = tl.load(p)
        p = delta_ptr + own_time * delta_l + d[None, :]
        raw = tl.load(p)
        z = x
        if WRITE_Y and LAST and HAS_Z:
            z = tl.load(z_ptr + own_time * z_l + d[None, :])
        x = x.to(tl.float32)
        dt = step_size(raw, bias, live, SOFTPLUS)
        dts = for_both(dt, T, THREADS)
        if PAIRS and ENDS:
            B = tile_half(B_ptr, 0, time, B_l, NP, T)
            B = own_weights(B, T, NP, THREADS)
        else:
            B, C = both_weights(
                B_ptr, C_ptr, time, B_l, B_n, C_l, C_n, B_fixed, C_fixed,
                N, NP, T, B_FIXED, C_FIXED, PAIRS, THREADS,
            )  # fmt: skip
        a = tl.exp2(dts[:, None, :] * A2[None])
        goes_on = first
        sizes = dts
        starts = live
        if HAS_RESET:
            inside = (start + t0 + t < length) | WHOLE
            starts = ((tl.load(reset_ptr + time) != 0) & inside)[:, None]
            goes_on = first & (starts == 0)[:, None, :]
            sizes = tl.where(starts, float("nan"), dts)
        if ENDS:
            total += tl.sum(sizes[:, None, :], 0)
        b = for_both(dt * x, T, THREADS)[:, None, :] * B
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
                    keep = (slot >= 0) & (k < length)
                    store_states(kept_ptr + to, LANES, slot, keep, before,
                                 NP, NP, THREADS)  # fmt: skip
        h = pick(hs, last, 0)
        if WRITE_Y:
            at = own_time * d_inner + d[None, :]
            write = ok[None, :] & live
            y = sum_of_both(tl.sum(hs * C, 1), T, THREADS)
            if not FIRST:
                y += tl.load(sum_ptr + at)
            if LAST:
                y += D * x
                if HAS_Z:
                    z = z.to(tl.float32)
                    y *= z * sigmoid(z)
                tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), write)
            else:
                tl.store(sum_ptr + at, y, write)
    if ENDS:
        p = ends_ptr + here * (NP * LANES)
        store_states(p, LANES, slot, slot >= 0, h, NP, NP, THREADS)
        tl.store(totals_ptr + here * LANES + slot[None, :], total)
    if WRITE_Y:
        p = last_ptr + sequence * d_inner * N
        last_chunk = ok & (chunk == n_chunks - 1)
        store_states(p, 1, far * N, last_chunk, h, N, NP, THREADS)


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
    group, d, ok = channels(block, lane, width, blocks_per_group, FULL)
    far = d.to(tl.int64)
    A2 = tl.zeros((LANES,), tl.float32)
    h = tl.zeros((LANES,), tl.float32)
    if n < N:
        p = A_ptr + far * A_d + n.to(tl.int64) * A_n
        A2 = tl.load(p).to(tl.float32) * LOG2E
        if GIVEN:
            p = initial_ptr + sequence * initial_b
            p += far * initial_d + n.to(tl.int64) * initial_n
            h = tl.load(p).to(tl.float32)
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
    block, chunk, sequence, here, lane = whereabouts(blocks, n_chunks)
    if chunk == 0:
        return  # No chunk comes before it.
    t = tl.arange(0, T)
    group, d, ok = channels(block, lane, width, blocks_per_group, FULL)
    far = d.to(tl.int64)
    first = (t == 0)[:, None, None]
    last = (t == T - 1)[:, None, None]
    A2 = load_states(A_ptr, A_n, far * A_d, N, NP) * LOG2E
    bias = tl.load(bias_ptr + d).to(tl.float32)[None, :]
    await_previous(OVERLAP)
    C_fixed = A2
    if C_FIXED:
        C_fixed = load_states(C_ptr, C_n, far * C_l, N, NP)
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
    bits = tl.where(here, bits[None], 0)
    return (tile.to(tl.int32, bitcast=True) + bits).to(
        tl.float32, bitcast=True
    )


@triton.jit
def store_sums(
    p, to_B, to_C, first, skip, left, T: tl.constexpr, NP: tl.constexpr,
    WHOLE: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """Sums over channels of the steps ``first``, ``first + skip``, ...

    In rows of pairs; a thread adds up one of their columns or two.
    """
    OWN: tl.constexpr = NP // THREADS
    WIDTH: tl.constexpr = LANES // THREADS
    terms = tl.reshape(tl.join(to_B, to_C), (T, OWN, THREADS, WIDTH, 2))
    terms = tl.permute(terms, (3, 0, 2, 1, 4))
    terms = tl.reshape(terms, (WIDTH, T * NP * 2))
    ones = tl.full((1, WIDTH), 1.0, tl.float32)
    sums = tl.dot(ones, terms, input_precision="ieee")
    sums = tl.reshape(sums, (T * NP * 2,))
    place = tl.arange(0, T * NP * 2)
    t = first + place // (2 * NP) * skip
    tl.store(p + t * (2 * NP) + place % (2 * NP), sums, WHOLE | (t < left))


@triton.jit
def every_other(tile, T: tl.constexpr, OWN: tl.constexpr):
    """The even steps of a tile, and the odd ones."""
    pairs = tl.reshape(tile, (T // 2, 2, OWN, LANES))
    return tl.split(tl.permute(pairs, (0, 2, 3, 1)))


@triton.jit
def sum_over_channels(
    p, to_B, to_C, left, T: tl.constexpr, NP: tl.constexpr,
    WHOLE: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """The block's part of dB and dC of a tile.

    For more columns than two a thread, the compiler would rearrange all terms
    between threads once more: then half of the steps at a time.
    """
    if T * NP <= LANES:
        store_sums(p, to_B, to_C, 0, 1, left, T, NP, WHOLE, THREADS)
    else:
        H: tl.constexpr = T // 2
        even_B, odd_B = every_other(to_B, T, NP // THREADS)
        even_C, odd_C = every_other(to_C, T, NP // THREADS)
        store_sums(p, even_B, even_C, 0, 2, left, H, NP, WHOLE, THREADS)
        store_sums(p, odd_B, odd_C, 1, 2, left, H, NP, WHOLE, THREADS)


@triton.jit
def load_rows(p, i, stride, d, AHEAD: tl.constexpr):
    """Rows i of a sequence.

    Said to be aligned to nothing, each thread loads what it works on, not
    several neighbours, and nothing has to change its layout. But only what is
    loaded by 4 bytes and more can be on its way through shared memory.
    """
    p += i * stride + d[None, :]
    if AHEAD or p.dtype.element_ty == tl.float32:
        p = tl.multiple_of(p, [1, 1])
    return tl.load(p)


@triton.jit
def load_own(
    x_ptr, delta_ptr, grad_y_ptr, z_ptr, x_l, delta_l, grad_l, z_l,
    t, i, d, HAS_Z: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """x, delta, dy and z of the steps i from t on; without z, dy again."""
    t = t.to(tl.int64)
    x = load_rows(x_ptr + t * x_l, i, x_l, d, AHEAD)
    delta = load_rows(delta_ptr + t * delta_l, i, delta_l, d, AHEAD)
    dy = load_rows(grad_y_ptr + t * grad_l, i, grad_l, d, AHEAD)
    if HAS_Z:
        return x, delta, dy, load_rows(z_ptr + t * z_l, i, z_l, d, AHEAD)
    else:
        return x, delta, dy, dy


@triton.jit(do_not_specialize=RUNTIME)
def backward(
    x_ptr, delta_ptr, z_ptr, A_ptr, B_ptr, C_ptr, D_ptr, bias_ptr,
    reset_ptr,
    grad_y_ptr, sum_ptr, kept_ptr, later_ptr,
    dx_ptr, ddelta_ptr, dz_ptr, dBC_ptr, over_time_ptr, dinitial_ptr,
    x_b, x_l, delta_b, delta_l, z_b, z_l, grad_b, grad_l, A_d, A_n,
    B_b, B_l, B_g, B_n, C_b, C_l, C_g, C_n, later_b, later_d, later_n,
    d_inner, width, blocks_per_group, blocks,
    rows, length, steps, n_chunks, n_kept,
    N: tl.constexpr, NP: tl.constexpr, WHOLE: tl.constexpr,
    FULL: tl.constexpr, STAGES: tl.constexpr, T: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_RESET: tl.constexpr, B_FIXED: tl.constexpr, C_FIXED: tl.constexpr,
    PAIRS: tl.constexpr, GIVEN: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, AHEAD: tl.constexpr,
    OVERLAP: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """A chunk of time backwards, in tiles from one kept state to the next."""
    let_next_start(OVERLAP)
    OWN: tl.constexpr = NP // THREADS
    block, chunk, sequence, here, slot = whereabouts(blocks, n_chunks, THREADS)
    sequences = tl.num_programs(0) // (blocks * n_chunks * THREADS)
    t = tl.arange(0, T)
    own = own_steps(T, THREADS)
    group, d, ok = channels(block, slot, width, blocks_per_group, FULL)
    far = d.to(tl.int64)
    first = (t == 0)[:, None, None]
    A2 = load_states(A_ptr, A_n, far * A_d, N, NP, THREADS) * LOG2E
    D = tl.load(D_ptr + d).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + d).to(tl.float32)[None, :]
    await_previous(OVERLAP)
    B_fixed = A2
    C_fixed = A2
    dB = A2
    dC = A2
    if B_FIXED:
        B_fixed = load_states(B_ptr, B_n, far * B_l, N, NP, THREADS)
        dB = tl.zeros((OWN, LANES), tl.float32)
    if C_FIXED:
        C_fixed = load_states(C_ptr, C_n, far * C_l, N, NP, THREADS)
        dC = tl.zeros((OWN, LANES), tl.float32)
    if GIVEN:
        p = later_ptr + sequence * later_b
        r = load_states(p, later_n, far * later_d, N, NP, THREADS)
    else:
        p = later_ptr + here * (NP * LANES)
        r = load_states(p, LANES, slot, NP, NP, THREADS)
    dA = tl.zeros((OWN, LANES), tl.float32)
    dD = tl.zeros((1, LANES), tl.float32)
    dbias = tl.zeros((1, LANES), tl.float32)
    low_D = dD
    low_bias = dbias

    start = (chunk * steps).to(tl.int64)
    count = tl.minimum(steps, length - chunk * steps)
    x_ptr += sequence * x_b + start * x_l
    delta_ptr += sequence * delta_b + start * delta_l
    z_ptr += sequence * z_b + start * z_l
    grad_y_ptr += sequence * grad_b + start * grad_l
    row = (sequence * rows + start) * d_inner
    size = sequences * rows.to(tl.int64) * d_inner
    reset_ptr += sequence * rows + start
    if not B_FIXED:
        B_ptr += sequence * B_b + start * B_l + group.to(tl.int64) * B_g
    if not C_FIXED:
        C_ptr += sequence * C_b + start * C_l + group.to(tl.int64) * C_g
    kept_ptr += (sequence * n_kept * blocks + block) * (NP * LANES)
    part = block * THREADS + tl.program_id(0) % THREADS
    first_row = (part.to(tl.int64) * sequences + sequence) * length + start
    dBC_ptr += first_row * (2 * NP)

    if AHEAD:
        t1 = (count - 1) // T * T
        then = clamp(own, count - t1, WHOLE)
        next_x, next_raw, next_dout, next_z = load_own(
            x_ptr, delta_ptr, grad_y_ptr, z_ptr, x_l, delta_l, grad_l, z_l,
            t1, then, d, HAS_Z, AHEAD,
        )  # fmt: skip
    for back in tl.range(0, (count + T - 1) // T, num_stages=STAGES):
        t0 = (count - 1) // T * T - back * T
        left = count - t0
        s = t0.to(tl.int64)
        time = (t0 + clamp(t, left, WHOLE)).to(tl.int64)
        live = (own < left) | WHOLE
        some = ok[None, :] & live
        if AHEAD:
            x, raw, dout, z = next_x, next_raw, next_dout, next_z
            t1 = tl.maximum(t0 - T, 0)
            then = clamp(own, count - t1, WHOLE)
            next_x, next_raw, next_dout, next_z = load_own(
                x_ptr, delta_ptr, grad_y_ptr, z_ptr, x_l, delta_l, grad_l,
                z_l, t1, then, d, HAS_Z, AHEAD,
            )  # fmt: skip
        else:
            now = clamp(own, left, WHOLE)
            x, raw, dout, z = load_own(
                x_ptr, delta_ptr, grad_y_ptr, z_ptr, x_l, delta_l, grad_l,
                z_l, t0, now, d, HAS_Z, AHEAD,
            )  # fmt: skip
        x = tl.where(ok[None, :], x.to(tl.float32), 0.0)
        dout = tl.where(some, dout.to(tl.float32), 0.0)
        k = ((chunk * steps + t0) // T).to(tl.int64) * blocks * (NP * LANES)
        h = load_states(kept_ptr + k, LANES, slot, NP, NP, THREADS)
        B, C = both_weights(
            B_ptr, C_ptr, time, B_l, B_n, C_l, C_n, B_fixed, C_fixed,
            N, NP, T, B_FIXED, C_FIXED, PAIRS, THREADS,
        )  # fmt: skip
        dt = step_size(raw, bias, live, SOFTPLUS)
        dy = dout
        if HAS_Z:
            z = z.to(tl.float32)
            gate = sigmoid(z)
            dy = dout * z * gate
        dts = for_both(dt, T, THREADS)[:, None, :]
        us = for_both(dt * x, T, THREADS)[:, None, :]
        dys = for_both(dy, T, THREADS)[:, None, :]

        a = tl.exp2(dts * A2[None])
        b = us * B
        goes_on = first
        starts = live
        if HAS_RESET:
            inside = (t < left) | WHOLE
            starts = ((tl.load(reset_ptr + time) != 0) & inside)[:, None]
            goes_on = first & (starts == 0)[:, None, :]
        b = tl.where(goes_on, a * h[None] + b, b)
        hs = scan_tile(a, b, starts, HAS_RESET)
        c = dys * C
        gs = tl.zeros((T, OWN, LANES), tl.float32)
        ws = tl.zeros((T, OWN, LANES), tl.float32)
        for j in tl.static_range(T - 1, -1, -1):
            now = (t == j)[:, None, None]
            g = pick(c, now, 0) + r
            r = pick(a, now, 0) * g
            before = h
            if j > 0:
                before = pick(hs, (t == j - 1)[:, None, None], 0)
            w = r * before
            if HAS_RESET:
                fresh = tl.sum(tl.where((t == j)[:, None], starts, 0), 0) != 0
                w = tl.where(fresh[None, :], 0.0, w)
                r = tl.where(fresh[None, :], 0.0, r)
            gs = put(gs, now, g)
            ws = put(ws, now, w)
        y = sum_of_both(tl.sum(hs * C, 1), T, THREADS)
        gB = sum_of_both(tl.sum(gs * B, 1), T, THREADS)
        wA = sum_of_both(tl.sum(ws * A2[None], 1), T, THREADS) * LN2
        dA += tl.sum(ws * dts, 0)
        to_B = gs * us
        to_C = hs * dys
        if B_FIXED:
            dB += tl.sum(to_B, 0)
        if C_FIXED:
            dC += tl.sum(to_C, 0)
        if not (B_FIXED and C_FIXED):
            to = dBC_ptr + s * (2 * NP)
            sum_over_channels(to, to_B, to_C, left, T, NP, WHOLE, THREADS)
        at = row + s * d_inner + (own * d_inner + d[None, :])
        at = tl.multiple_of(at, [1, 1])
        if not FIRST:
            y += tl.load(sum_ptr + at, some)
            gB += tl.load(sum_ptr + size + at, some)
            wA += tl.load(sum_ptr + 2 * size + at, some)
        if LAST:
            if HAS_Z:
                slope = gate * (1.0 + z * (1.0 - gate))
                dz = dout * slope * (y + D * x)
                tl.store(dz_ptr + at, dz.to(dz_ptr.dtype.element_ty), some)
            dx = D * dy + dt * gB
            tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), some)
            ddelta = x * gB + wA
            if SOFTPLUS:
                ddelta *= softplus_slope(raw.to(tl.float32) + bias)
            ddelta = tl.where(live, ddelta, 0.0)
            to = ddelta_ptr + at
            tl.store(to, ddelta.to(ddelta_ptr.dtype.element_ty), some)
            dD, low_D = add_compensated(
                dD, low_D, tl.sum((dy * x)[:, None, :], 0)
            )
            dbias, low_bias = add_compensated(
                dbias, low_bias, tl.sum(ddelta[:, None, :], 0)
            )
        else:
            tl.store(sum_ptr + at, y, some)
            tl.store(sum_ptr + size + at, gB, some)
            tl.store(sum_ptr + 2 * size + at, wA, some)
    everywhere = slot >= 0
    SUMS: tl.constexpr = NP * (1 + B_FIXED + C_FIXED) + 2
    p = over_time_ptr + here * (SUMS * LANES)
    store_states(p, LANES, slot, everywhere, dA, NP, NP, THREADS)
    if THREADS > 1:
        other = (tl.arange(0, LANES) ^ (LANES // 2))[None, :]
        dD += tl.gather(dD, other, 1)
        dbias += tl.gather(dbias, other, 1)
    tl.store(p + NP * LANES + slot[None, :], dD)
    tl.store(p + (NP + 1) * LANES + slot[None, :], dbias)
    p += (NP + 2) * LANES
    if B_FIXED:
        store_states(p, LANES, slot, everywhere, dB, NP, NP, THREADS)
        p += NP * LANES
    if C_FIXED:
        store_states(p, LANES, slot, everywhere, dC, NP, NP, THREADS)
    if chunk == 0:
        before = dinitial_ptr + sequence * d_inner * N
        store_states(before, 1, far * N, ok, r, N, NP, THREADS)


@triton.jit(do_not_specialize=[*RUNTIME, "count"])
def sum_over_time(
    over_time_ptr, dA_ptr, dD_ptr, dbias_ptr, dB_ptr, dC_ptr,
    width, blocks_per_group, blocks, count,
    N: tl.constexpr, NP: tl.constexpr, FULL: tl.constexpr,
    AT_ONCE: tl.constexpr, B_FIXED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The sums over each chunk of each sequence, added in a fixed order.

    There are ``count``; a program adds up one row of one block's.
    """
    let_next_start(OVERLAP)
    block = tl.program_id(0)
    row = tl.program_id(1)
    slot = tl.arange(0, LANES)
    _, d, ok = channels(block, slot, width, blocks_per_group, FULL)
    far = d.to(tl.int64)
    await_previous(OVERLAP)
    rows = tl.num_programs(1)
    total = tl.zeros((AT_ONCE, LANES), tl.float32)
    for first in range(0, count, AT_ONCE):
        here = first + tl.arange(0, AT_ONCE)
        at = (here.to(tl.int64) * blocks + block) * rows + row
        p = over_time_ptr + at[:, None] * LANES + slot[None, :]
        total += tl.load(p, mask=(here < count)[:, None], other=0.0)
    total = tl.sum(total, 0)
    if row == NP:
        tl.store(dD_ptr + d, total, ok)
    elif row == NP + 1:
        tl.store(dbias_ptr + d, total, ok)
    else:
        to = dA_ptr
        n = row
        if row >= NP + 2:
            n = (row - 2) % NP
            to = dC_ptr
            if B_FIXED and row < 2 * NP + 2:
                to = dB_ptr
        tl.store(to + far * N + n, total, ok & (n < N))


@triton.jit(do_not_specialize=["parts", "count", "length"])
def sum_blocks(
    dBC_ptr, dB_ptr, dC_ptr, dB_b, dB_l, dB_g, dC_b, dC_l, dC_g,
    parts, count, length,
    N: tl.constexpr, NP: tl.constexpr, ROWS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    B_FIXED: tl.constexpr, C_FIXED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The programs' partial sums of dB and dC, added in a fixed order.

    A row is one step of one sequence; there are ``count``.
    """
    await_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1)
    column = tl.arange(0, 2 * NP)
    live = (row < count)[:, None]
    p = dBC_ptr + group.to(tl.int64) * parts * count * (2 * NP)
    p += row[:, None] * (2 * NP) + column[None, :]
    total = tl.zeros((AT_ONCE, ROWS, 2 * NP), tl.float32)
    for first in range(0, parts, AT_ONCE):
        part = first + tl.arange(0, AT_ONCE)
        at = part.to(tl.int64) * count * (2 * NP)
        there = (part < parts)[:, None, None] & live[None]
        total += tl.load(p[None] + at[:, None, None], mask=there, other=0.0)
    total = tl.sum(total, 0)
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
    far = n.to(tl.int64)[None, :]
    sequence = row // length
    t = row % length
    p = B_ptr + sequence * B_b + t * B_l + (group // B_share) * B_g
    B = tl.load(p[:, None] + far * B_n, mask=some, other=0.0)
    p = C_ptr + sequence * C_b + t * C_l + (group // C_share) * C_g
    C = tl.load(p[:, None] + far * C_n, mask=some, other=0.0)
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
    """One step of CHANNELS channels, for generation: state in, state out.

    A thread reads its states before it writes them: ``after`` may be
    ``state``.
    """
    blocks = tl.cdiv(d_inner, CHANNELS)
    d = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    n = tl.arange(0, NP)
    inside = d < d_inner
    ok = inside[:, None] & (n < N)[None, :]
    far, far_n = d.to(tl.int64), n.to(tl.int64)[None, :]
    x_t = tl.load(x + b * x_b + far * x_d, inside, 0.0).to(tl.float32)
    delta_t = tl.load(delta + b * delta_b + far * delta_d, inside, 0.0)
    delta_t = delta_t.to(tl.float32)
    if HAS_BIAS:
        delta_t += tl.load(bias + d, inside, 0.0).to(tl.float32)
    if SOFTPLUS:
        delta_t = softplus(delta_t)
    A_n_ = tl.load(A + far[:, None] * A_d + far_n * A_n, ok, 0.0)
    group = (d // B_width).to(tl.int64)[:, None]
    B_t = tl.load(B + b * B_b + group * B_g + far_n * B_n, ok, 0.0)
    B_t = B_t.to(tl.float32)
    group = (d // C_width).to(tl.int64)[:, None]
    C_t = tl.load(C + b * C_b + group * C_g + far_n * C_n, ok, 0.0)
    C_t = C_t.to(tl.float32)
    at = far[:, None] * h_d + far_n * h_n
    h = tl.load(state + b * h_b + at, ok, 0.0).to(tl.float32)
    a = tl.exp2(delta_t[:, None] * (A_n_.to(tl.float32) * LOG2E))
    h = a * h + (delta_t * x_t)[:, None] * B_t
    y_t = tl.sum(h * C_t, 1)
    if HAS_D:
        y_t += tl.load(D + d, inside, 0.0).to(tl.float32) * x_t
    if HAS_Z:
        z_t = tl.load(z + b * z_b + far * z_d, inside, 0.0).to(tl.float32)
        y_t *= z_t * sigmoid(z_t)
    at = far[:, None] * a_d + far_n * a_n
    tl.store(after + b * a_b + at, h.to(after.dtype.element_ty), ok)
    tl.store(y + b * y_b + far * y_d, y_t.to(y.dtype.element_ty), inside)
