r"""The compiled loops of ``cpu.py``, and the vectors that they compute with.

One value here is ``Lanes``: LANES numbers, one a channel, which the processor
adds or multiplies in one instruction, or in as few as its vectors are wide.
Numba has no such type, so the first half of this file teaches it one: its
arithmetic, how it is read and written, and the three functions that a scan
needs (``exp2``, ``softplus``, ``silu``). The second half is the scan.

Numba compiles anew when *this* file has changed and looks at no other, so
everything that is compiled stands here.
"""

import math
import operator
from collections.abc import Callable
from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model
from numpy.polynomial import Chebyshev, Polynomial

LANES = 16  # float32 numbers in a vector of AVX-512
TILE = 32  # steps from one checkpoint to the next

LN2 = math.log(2)
LOG2_E = 1 / LN2

# The two desks that a thread works on. ``tiles`` has values for each step of
# a tile, and ``cells`` for each n; each is LANES wide, and these are the rows.
# H is the state before a tile, and the states after its steps follow.
STEP, SLOPE, X, Z, Y, GRAD_Y, TO_A, TO_B, SPARE = range(9)
A_2, B_D, C_D, GRAD_H, SUM_A, SUM_B, SUM_C, H = range(8)
A_BAR = H + TILE + 1
TILES_ROWS, CELLS_ROWS = SPARE + 1, A_BAR + TILE

# No reordering, and no promise that there are no NaNs: only a product and the
# sum that it goes into may become one operation. Reordering would also undo
# the rounding in ``exp2``.
FASTMATH = ("contract",)
OPTIONS = {
    "nogil": True,
    # No array is made in here, so there are no references to be counted, and
    # the counting would stand in the innermost loops.
    "_nrt": False,
    "error_model": "numpy",
    "boundscheck": False,
    "fastmath": set(FASTMATH),
}
inlined = njit(forceinline=True, **OPTIONS)


def compiled(function: Callable) -> Callable:
    """Compiled when first called, and kept on disk if there is a place."""
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # Numba found no folder that it can write to
        return njit(**OPTIONS)(function)


class Lanes(types.Type):
    """LANES numbers, one a channel, that are computed with as one value."""

    def __init__(self, scalar: types.Float) -> None:
        self.scalar = scalar
        super().__init__(name=f"Lanes({scalar})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        scalar = manager.lookup(lanes.scalar).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(scalar, LANES))


def _integers(width: int, values: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(width), len(values)), values)


def _spread(builder, number):
    """LANES times the same number."""
    nothing = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    first = builder.insert_element(nothing, number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, nothing, _integers(32, [0] * LANES))


def _common(*kinds: types.Type) -> Lanes | None:
    """The one kind of Lanes among the arguments, if there is just one."""
    lanes = {kind for kind in kinds if isinstance(kind, Lanes)}
    return lanes.pop() if len(lanes) == 1 else None


def _all_lanes(context, builder, signature, values):
    """The arguments as Lanes; a number is spread."""
    lanes = _common(*signature.args)
    return [
        value
        if kind == lanes
        else _spread(builder, context.cast(builder, value, kind, lanes.scalar))
        for value, kind in zip(values, signature.args, strict=True)
    ]


@no_type_check
def _arithmetic(operation: Callable, instruction: str) -> None:
    @intrinsic
    def compute(typing, left, right):
        def build(*arguments):
            _, builder, *_ = arguments
            pair = _all_lanes(*arguments)
            return getattr(builder, instruction)(*pair, flags=FASTMATH)

        return _common(left, right)(left, right), build

    @overload(operation)
    def choose(left, right):
        if _common(left, right) is not None:
            return lambda left, right: compute(left, right)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")


@intrinsic
@no_type_check
def where_less(typing, left, right, yes, no):
    """``yes`` where left < right, else ``no``: also where one is a NaN."""

    def build(*arguments):
        _, builder, *_ = arguments
        left, right, yes, no = _all_lanes(*arguments)
        return builder.select(builder.fcmp_ordered("<", left, right), yes, no)

    kinds = (left, right, yes, no)
    return _common(*kinds)(*kinds), build


@intrinsic
@no_type_check
def filled(typing, number):
    """LANES times the same number."""

    def build(context, builder, signature, values):
        return _spread(builder, *values)

    return Lanes(number)(number), build


@intrinsic
@no_type_check
def lane_sum(typing, lanes):
    """The sum over the lanes, half to half: always in the same order."""

    def build(context, builder, signature, values):
        (v,), width = values, LANES
        while width > 1:
            width //= 2
            low = _integers(32, list(range(width)))
            high = _integers(32, list(range(width, 2 * width)))
            v = builder.fadd(
                builder.shuffle_vector(v, v, low),
                builder.shuffle_vector(v, v, high),
            )
        return builder.extract_element(v, ir.IntType(32)(0))

    return lanes.scalar(lanes), build


@intrinsic
@no_type_check
def low_bits_as_exponent(typing, lanes):
    """The floats whose exponents are the last bits of these floats."""
    width, significand = (32, 23) if lanes.scalar.bitwidth == 32 else (64, 52)

    def build(context, builder, signature, values):
        shift = _integers(width, [significand] * LANES)
        bits = builder.bitcast(*values, shift.type)
        return builder.bitcast(builder.shl(bits, shift), values[0].type)

    return lanes(lanes), build


def _pointer(context, builder, signature, values):
    """To ``array[index]``, for whichever arguments come first."""
    kind, index = signature.args[:2]
    parts, kinds = [values[1]], [index]
    if isinstance(index, types.BaseTuple):
        parts, kinds = cgutils.unpack_tuple(builder, values[1]), index.types
    where = [
        context.cast(builder, part, integer, types.intp)
        for part, integer in zip(parts, kinds, strict=True)
    ]
    zero = context.get_constant(types.intp, 0)
    where += [zero] * (kind.ndim - len(where))
    array = context.make_array(kind)(context, builder, values[0])
    return cgutils.get_item_pointer(
        context, builder, kind, array, where, wraparound=False
    )


def _as_pointer_to_lanes(context, builder, pointer, number):
    lanes = context.get_value_type(Lanes(number))
    return builder.bitcast(pointer, lanes.as_pointer())


@intrinsic
@no_type_check
def load(typing, array, index):
    """LANES numbers that lie side by side, from ``array[index]`` on."""
    width = array.dtype.bitwidth // 8

    def build(context, builder, signature, values):
        pointer = _pointer(context, builder, signature, values)
        vector = _as_pointer_to_lanes(context, builder, pointer, array.dtype)
        return builder.load(vector, align=width)

    return Lanes(array.dtype)(array, index), build


@intrinsic
@no_type_check
def load_one(typing, array, index):
    """LANES times ``array[index]``."""

    def build(context, builder, signature, values):
        pointer = _pointer(context, builder, signature, values)
        return _spread(builder, builder.load(pointer))

    return Lanes(array.dtype)(array, index), build


@intrinsic
@no_type_check
def store(typing, array, index, lanes):
    """The opposite of ``load``."""
    width = array.dtype.bitwidth // 8

    def build(context, builder, signature, values):
        pointer = _pointer(context, builder, signature, values)
        vector = _as_pointer_to_lanes(context, builder, pointer, array.dtype)
        builder.store(values[2], vector, align=width)
        return context.get_dummy_value()

    return types.void(array, index, lanes), build


@intrinsic
@no_type_check
def widened(typing, lanes):
    """The same numbers in float64."""
    double = Lanes(types.float64)

    def build(context, builder, signature, values):
        if lanes == double:
            return values[0]
        vector = context.get_value_type(double)
        return builder.fpext(values[0], vector)

    return double(lanes), build


def exp2(p):
    """2^p in compiled code; zero where it would be below the normal floats.

        2^p = 2^k 2^f     k = p rounded, f = p - k, so |f| <= 1/2

    A polynomial is 2^f to the last digits. Adding ``large``, whose last bit
    is worth 1, rounds p; and the last bits of the sum are the exponent field
    of 2^k.
    """
    raise NotImplementedError


def log1p(e):
    """log(1 + e) in compiled code, for 0 <= e <= 1, with all digits near 0.

    log(1 + e) = 2 artanh(s) = 2 s sum_j s^(2j) / (2j + 1),   s = e / (2 + e)
    """
    raise NotImplementedError


def exp2_series(degree: int) -> tuple[float, ...]:
    """Coefficients of 2^f = sum_j (f ln 2)^j / j!, the highest power first."""
    return tuple(LN2**j / math.factorial(j) for j in range(degree, -1, -1))


def exp2_interpolation(degree: int) -> tuple[float, ...]:
    """Coefficients of 2^f, the highest power first, to some 15 digits.

    Through the points where Chebyshev's polynomial of the next degree is 0:
    with the error spread evenly, one term less than the series is enough.
    """
    near = Chebyshev.interpolate(np.exp2, degree, domain=[-0.5, 0.5])
    return tuple(near.convert(kind=Polynomial).coef[::-1].tolist())


def log1p_series(degree: int) -> tuple[float, ...]:
    """Coefficients of 2 artanh(s) / s in s^2, the highest power first."""
    return tuple(2 / (2 * j + 1) for j in range(degree, -1, -1))


# What is left out is below a quarter of the last bit of the sum.
@overload(exp2, jit_options={"forceinline": True, **OPTIONS})
@no_type_check
def _(p):
    if p.scalar.bitwidth == 32:
        bias, large, series = 127, 1.5 * 2**23, exp2_interpolation(6)
    else:
        bias, large, series = 1023, 1.5 * 2**52, exp2_series(13)
    lowest, highest, large = -bias, bias + 1, large + bias
    a, b, *c = series
    c = tuple(c)

    def compute(p):
        p = where_less(p, lowest, lowest, p)  # and a NaN stays one
        p = where_less(highest, p, highest, p)
        shifted = p + large
        f = p - (shifted - large)
        total = a * f + b
        for term in c:
            total = total * f + term
        return total * low_bits_as_exponent(shifted)

    return compute


@overload(log1p, jit_options={"forceinline": True, **OPTIONS})
@no_type_check
def _(e):
    a, b, *c = log1p_series(6 if e.scalar.bitwidth == 32 else 15)
    c = tuple(c)

    def compute(e):
        s = e / (e + 2.0)
        s2 = s * s
        total = a * s2 + b
        for term in c:
            total = total * s2 + term
        return s * total

    return compute


@inlined
@no_type_check
def sigmoid_pair(x):
    """s(x) = 1 / (1 + e^-x), s(-x), and e^-|x|: none loses digits."""
    e = exp2(where_less(x, 0.0, x, 0.0 - x) * LOG2_E)
    return (
        where_less(x, 0.0, e, 1.0) / (e + 1.0),
        where_less(x, 0.0, 1.0, e) / (e + 1.0),
        e,
    )


@inlined
@no_type_check
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), and its slope."""
    slope, _, e = sigmoid_pair(x)
    return where_less(0.0, x, x, 0.0) + log1p(e), slope


@inlined
@no_type_check
def silu(z):
    """z s(z), and its slope s(z) + z s(z) s(-z)."""
    s, opposite, _ = sigmoid_pair(z)
    return z * s, s + z * s * opposite


@inlined
@no_type_check
def read(values, start, stride, count, row):
    """``count`` numbers from ``start`` on, then zeros; ``row`` is a desk."""
    if stride == 1 and count == LANES:
        return load(values, start)
    for j in range(LANES):
        row[j] = values[start + j * stride] if j < count else 0
    return load(row, 0)


@inlined
@no_type_check
def write(values, start, count, row, lanes):
    """The first ``count`` of the lanes, side by side from ``start`` on."""
    if count == LANES:
        store(values, start, lanes)
        return
    store(row, 0, lanes)
    for j in range(count):
        values[start + j] = row[j]


@inlined
@no_type_check
def add(sums, lanes, start, count, row):
    """Add the first ``count`` of the lanes to sums in float64."""
    if count == LANES:
        store(sums, start, load(sums, start) + widened(lanes))
        return
    store(row, 0, lanes)
    for j in range(count):
        sums[start + j] += row[j]


@inlined
@no_type_check
def gather(cells, row, matrix, channel, count, factor):
    """A block of a (d_inner, d_state) matrix, for each n, to the desk."""
    for n in range(cells.shape[1]):
        for j in range(LANES):
            inside = j < count
            cells[row, n, j] = matrix[channel + j, n] * factor if inside else 0


@inlined
@no_type_check
def scatter(cells, row, matrix, channel, count):
    """The opposite of ``gather``."""
    for n in range(cells.shape[1]):
        for j in range(count):
            matrix[channel + j, n] = cells[row, n, j]


@inlined
@no_type_check
def take_state(cells, row, state, b, channel, count):
    """A block of one sequence's state to the desk; zeros if there is none."""
    cells[row] = 0
    if len(state) > 0:
        gather(cells, row, state[b], channel, count, 1.0)


@inlined
@no_type_check
def take_block(tiles, cells, block, A, B, C, D, bias):
    """What does not change with time. Returns B and C, and D and the bias."""
    channel, count = block[0], block[1]
    gather(cells, A_2, A, channel, count, LOG2_E)
    if block[2] < 0:
        gather(cells, B_D, B[0, 0], channel, count, 1.0)
    if block[3] < 0:
        gather(cells, C_D, C[0, 0], channel, count, 1.0)
    row = tiles[SPARE, 0]
    D_k = read(D, channel, 1, count, row)
    bias_k = read(bias, channel, 1, count, row)
    return (B, B_D, block[2]), (C, C_D, block[3]), D_k, bias_k


@inlined
@no_type_check
def take_tile(tiles, row, source, b, start, stop, channel, count):
    """Some steps of a block to the desk, from memory with any strides."""
    values, (s_b, s_t, s_d) = source
    origin = b * s_b + channel * s_d
    for t in range(start, stop):
        lanes = read(values, origin + t * s_t, s_d, count, tiles[SPARE, 0])
        store(tiles, (row, t - start), lanes)


@inlined
@no_type_check
def discretize(tiles, steps, bias, delta_softplus, keep):
    """delta as it came to the step; with ``keep``, how fast the one moves.

    Forwards nobody asks for that slope, and its divisions take their time.
    """
    for i in range(steps):
        step, slope = (
            load(tiles, (STEP, i)) + bias,
            filled(tiles.dtype.type(1)),
        )
        if delta_softplus:
            step, slope = softplus(step)
        store(tiles, (STEP, i), step)
        if keep:
            store(tiles, (SLOPE, i), slope)


@inlined
@no_type_check
def weight(weights, cells, b, t, n):
    """B or C for state n: one number, or one for each channel if fixed."""
    numbers, row, group = weights
    if group < 0:
        return load(cells, (row, n))
    return load_one(numbers, (b, t, group, n))


# The next two have the innermost loops and are not inlined: by themselves
# they keep all their constants in registers.
@njit(**OPTIONS)
@no_type_check
def scan_tile(tiles, cells, b, start, stop, B, C, reset, keep):
    """The steps of a tile, from H on, without skip and gate.

        h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t,   y_t = C_t . h_t

    H becomes the last state; but with ``keep`` = 1 it stays, and the state
    and A_bar of every step are left on the desk.
    """
    for t in range(start, stop):
        i = t - start
        carry = len(reset) == 0 or not reset[b, t]
        step = load(tiles, (STEP, i))
        drive = step * load(tiles, (X, i))
        y = filled(tiles.dtype.type(0))
        for n in range(cells.shape[1]):
            A_bar = exp2(step * load(cells, (A_2, n)))
            h = drive * weight(B, cells, b, t, n)
            if carry:
                h = A_bar * load(cells, (H + i * keep, n)) + h
            store(cells, (H + (i + 1) * keep, n), h)
            if keep:
                store(cells, (A_BAR + i, n), A_bar)
            y = y + h * weight(C, cells, b, t, n)
        store(tiles, (Y, i), y)


@njit(**OPTIONS)
@no_type_check
def walk_back(tiles, cells, b, start, stop, B, C, reset, grad_B, grad_C):
    """The steps of a tile backwards, from GRAD_H, which moves along.

        g_t = exp(delta_{t+1} A) g_{t+1} + grad_y_t C_t

    The sums over the steps are added up in SUM_A, and in SUM_B and SUM_C if
    B or C is fixed; sums over n go to TO_A and TO_B, those over channels to
    ``grad_B`` and ``grad_C``.
    """
    zero = filled(tiles.dtype.type(0))
    for t in range(stop - 1, start - 1, -1):
        i = t - start
        carry = len(reset) == 0 or not reset[b, t]
        step, grad_y = load(tiles, (STEP, i)), load(tiles, (GRAD_Y, i))
        drive = step * load(tiles, (X, i))
        to_A, to_B = zero, zero
        for n in range(cells.shape[1]):
            g = load(cells, (GRAD_H, n)) + grad_y * weight(C, cells, b, t, n)
            g_B, g_C = g * drive, grad_y * load(cells, (H + i + 1, n))
            if B[2] < 0:
                store(cells, (SUM_B, n), load(cells, (SUM_B, n)) + g_B)
            else:
                grad_B[t, n] += lane_sum(g_B)
            if C[2] < 0:
                store(cells, (SUM_C, n), load(cells, (SUM_C, n)) + g_C)
            else:
                grad_C[t, n] += lane_sum(g_C)
            to_B = to_B + g * weight(B, cells, b, t, n)
            if carry:
                g = g * load(cells, (A_BAR + i, n))
                store(cells, (GRAD_H, n), g)
                g = g * load(cells, (H + i, n))
                store(cells, (SUM_A, n), load(cells, (SUM_A, n)) + g * step)
                to_A = to_A + g * load(cells, (A_2, n))
            else:
                store(cells, (GRAD_H, n), zero)
        store(tiles, (TO_A, i), to_A)
        store(tiles, (TO_B, i), to_B)


@compiled
@no_type_check
def scan_blocks(first, last, tiles, cells, blocks, inputs, initial, outputs):
    """Blocks ``first`` up to ``last``, counted over the whole batch."""
    x, delta, z, A, B, C, D, bias, reset, delta_softplus, gated = inputs
    y, last_state, checkpoints = outputs
    length, row = y.shape[1], tiles[SPARE, 0]
    for item in range(first, last):
        b, block = item // len(blocks), blocks[item % len(blocks)]
        channel, count = block[0], block[1]
        B_k, C_k, D_k, bias_k = take_block(
            tiles, cells, block, A, B, C, D, bias
        )
        take_state(cells, H, initial, b, channel, count)
        for start in range(0, length, TILE):
            stop = min(start + TILE, length)
            where = (b, start, stop, channel, count)
            if len(checkpoints):
                for n in range(cells.shape[1]):
                    kept = checkpoints[b, start // TILE, n]
                    write(kept, channel, count, row, load(cells, (H, n)))
            take_tile(tiles, STEP, delta, *where)
            take_tile(tiles, X, x, *where)
            if gated:
                take_tile(tiles, Z, z, *where)
            discretize(tiles, stop - start, bias_k, delta_softplus, 0)
            scan_tile(tiles, cells, b, start, stop, B_k, C_k, reset, 0)
            for i in range(stop - start):
                y_t = load(tiles, (Y, i)) + D_k * load(tiles, (X, i))
                if gated:
                    gate, _ = silu(load(tiles, (Z, i)))
                    y_t = y_t * gate
                write(y[b, start + i], channel, count, row, y_t)
        scatter(cells, H, last_state[b], channel, count)


@compiled
@no_type_check
def walk_blocks(
    first, last, tiles, cells, blocks, pieces, inputs, kept, outputs
):
    """Pieces ``first`` up to ``last``, counted over the whole batch.

    ``grad_last`` is the last state's gradient, ``grad_state`` that of the one
    before the first step. ``sums`` are those over the steps: of A, of fixed B
    and C, of D and of the bias.
    """
    x, delta, z, A, B, C, D, bias, reset, delta_softplus, gated = inputs
    grad_y, grad_last, checkpoints = kept
    grad_x, grad_delta, grad_z, grad_B, grad_C, grad_state, sums = outputs
    length, d_state = grad_x.shape[1], A.shape[1]
    row, zero = tiles[SPARE, 0], filled(tiles.dtype.type(0))
    for item in range(first, last):
        b, piece = item // len(pieces), pieces[item % len(pieces)]
        for k in range(piece[0], piece[1]):
            block = blocks[k]
            channel, count = block[0], block[1]
            B_k, C_k, D_k, bias_k = take_block(
                tiles, cells, block, A, B, C, D, bias
            )
            gather(cells, GRAD_H, grad_last[b], channel, count, 1.0)
            for start in range((length - 1) // TILE * TILE, -1, -TILE):
                stop = min(start + TILE, length)
                where = (b, start, stop, channel, count)
                for n in range(d_state):
                    before = checkpoints[b, start // TILE, n]
                    h = read(before, channel, 1, count, row)
                    store(cells, (H, n), h)
                take_tile(tiles, STEP, delta, *where)
                take_tile(tiles, X, x, *where)
                take_tile(tiles, GRAD_Y, grad_y, *where)
                discretize(tiles, stop - start, bias_k, delta_softplus, 1)
                scan_tile(tiles, cells, b, start, stop, B_k, C_k, reset, 1)
                if gated:
                    take_tile(tiles, Z, z, *where)
                    for i in range(stop - start):
                        gate, slope = silu(load(tiles, (Z, i)))
                        y_t = load(tiles, (Y, i)) + D_k * load(tiles, (X, i))
                        g = load(tiles, (GRAD_Y, i))
                        store(tiles, (GRAD_Y, i), g * gate)
                        g = g * y_t * slope
                        write(grad_z[b, start + i], channel, count, row, g)
                cells[SUM_A : SUM_C + 1] = 0
                walk_back(
                    tiles,
                    cells,
                    b,
                    start,
                    stop,
                    B_k,
                    C_k,
                    reset,
                    grad_B[item],
                    grad_C[item],
                )
                sum_D, sum_bias = zero, zero
                for i in range(stop - start):
                    x_t, g = load(tiles, (X, i)), load(tiles, (GRAD_Y, i))
                    to_B = load(tiles, (TO_B, i))
                    sum_D = sum_D + g * x_t
                    g = g * D_k + load(tiles, (STEP, i)) * to_B
                    write(grad_x[b, start + i], channel, count, row, g)
                    g = x_t * to_B + LN2 * load(tiles, (TO_A, i))
                    g = g * load(tiles, (SLOPE, i))
                    sum_bias = sum_bias + g
                    write(grad_delta[b, start + i], channel, count, row, g)
                where = channel, count, row
                add(sums[b, 3 * d_state], sum_D, *where)
                add(sums[b, 3 * d_state + 1], sum_bias, *where)
                for m in range(3):
                    if m > 0 and block[1 + m] >= 0:
                        continue  # B or C, which is not fixed
                    for n in range(d_state):
                        g = load(cells, (SUM_A + m, n))
                        add(sums[b, m * d_state + n], g, *where)
            scatter(cells, GRAD_H, grad_state[b], channel, count)
