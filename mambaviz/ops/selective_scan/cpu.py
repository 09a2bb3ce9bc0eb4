r"""Rung 4 on a CPU: softplus, scan, skip and gate in one pass over memory.

    delta := softplus(delta + delta_bias)
    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t
    y_t = (C_t . h_t + D x_t) silu(z_t)

Numba compiles ``cpu_kernels.py`` for the processor at hand, so the reader
needs no compiler. Channels do not speak to each other: ``LANES`` of them form
a block, whose states stay in the nearest cache while time is walked. Memory
is read and written once, and nothing larger than x is made but the
checkpoints, a state every ``TILE`` steps.

*Backward.* Tile by tile from the end, the states are computed again from the
checkpoint and then walked back with g_t, the gradient of h_t:

    g_t = exp(delta_{t+1} A) g_{t+1} + C_t grad_y_t         (grad_y_t: ungated)
    grad_A     = sum_t g_t exp(delta_t A) h_{t-1} delta_t
    grad_delta = sum_n g_t (exp(delta_t A) h_{t-1} A + B_t x_t)
    grad_x     = sum_n g_t delta_t B_t + D grad_y_t
    grad_B_t   = sum_d g_t delta_t x_t
    grad_C_t   = sum_d h_t grad_y_t

The sums over channels d are taken in an order that depends on the shapes
alone, so the bits are the same on every run and for any number of threads.

*Threads* are Python's own, as many as torch's: the loops run without the
interpreter's lock. Numba's own threads would end the process when two threads
enter them at once, or after a fork; here both may happen.

*Precision.* float64 if x, delta or A is float64, else float32; half precision
is converted to float32 on the way in, and back on the way out.

*Compiling* takes some seconds, once for each precision and direction. Numba
keeps the result beside this file or, where that cannot be written, in the
user's cache folder; where neither can, every process compiles anew.
"""

import collections
import concurrent.futures
import functools
import itertools
import math
import os
import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mambaviz.ops.selective_scan.cpu_kernels import (
    CELLS_ROWS,
    LANES,
    TILE,
    TILES_ROWS,
    scan_blocks,
    walk_blocks,
)
from mambaviz.ops.selective_scan.reference import accumulation_dtype

GRAIN = 500_000  # states; for fewer, a thread costs more than it brings
PARTS = 4  # for each thread: one that was held up does fewer of them
PIECES = 32  # of the sums over channels, unless a piece has PIECE_LENGTH
PIECE_LENGTH = 16  # blocks
NUMBERS = {torch.float32: np.float32, torch.float64: np.float64}
NO_RESET = np.empty((0, 0), bool)
NO_STATE = {
    dtype: np.empty((0, 0, 0), number) for dtype, number in NUMBERS.items()
}


def refusal(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
) -> str | None:
    """Why this rung cannot do it; None if it can."""
    if not x.is_cpu:
        return f"it computes on a CPU, and x is on {x.device}"
    if A.is_complex():
        return f"it computes with real numbers, and A is {A.dtype}"
    return None


def checkpoint_shape(
    batch: int, length: int, d_inner: int, d_state: int, groups: int = 1
) -> tuple[int, ...]:
    """A state before each tile, with the channels side by side."""
    return batch, -(-length // TILE), d_state, d_inner


def forward(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the checkpoints if they are to be kept."""
    batch, length, d_inner = x.shape
    dtype, d_state = accumulation_dtype(x, delta, A), A.shape[1]
    y = x.new_empty(batch, length, d_inner, dtype=dtype)
    state = np.empty((batch, d_inner, d_state), NUMBERS[dtype])
    shape = checkpoint_shape(batch, length, d_inner, d_state)
    checkpoints = x.new_empty(shape if keep else (0, 0, 0, 0), dtype=dtype)
    blocks = _blocks(d_inner, _groups(B), _groups(C))
    inputs = _inputs(
        dtype, x, delta, A, B, C, D, z, delta_bias, reset, delta_softplus
    )
    first_state = _state(initial_state, dtype)
    outputs = y.numpy(), state, checkpoints.numpy()

    def scan(first: int, last: int) -> None:
        desks = _desks(threading.get_ident(), d_state, dtype)
        scan_blocks(first, last, *desks, blocks, inputs, first_state, outputs)

    _share(scan, batch * len(blocks), state.size * length)
    kept = checkpoints if keep else checkpoints.flatten()
    return _to(y, x.dtype), torch.from_numpy(state), kept


def backward(
    grad_y: Tensor,
    grad_last_state: Tensor,
    checkpoints: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of the nine tensors before ``reset``, in their order."""
    batch, length, d_inner = x.shape
    dtype, d_state = accumulation_dtype(x, delta, A), A.shape[1]
    groups, number = (_groups(B), _groups(C)), NUMBERS[dtype]
    states = grad_last_state.numel() * length
    pieces = _pieces(batch, d_inner, *groups, _most_pieces(states))
    # One sum over channels for each piece, one over steps for each sequence.
    parts_B, parts_C = (
        np.zeros(
            (batch * len(pieces), length, d_state) if n else (0, 0, 0), number
        )
        for n in groups
    )
    sums = np.zeros((batch, 3 * d_state + 2, d_inner))
    # By torch, which begins an array where a line of the cache begins, so
    # that no two blocks of channels write to one.
    grad_x, grad_delta, grad_z = (
        x.new_empty(batch, length, d_inner, dtype=dtype) for _ in range(3)
    )
    grad_state = np.empty(grad_last_state.shape, number)
    blocks = _blocks(d_inner, *groups)
    inputs = _inputs(
        dtype, x, delta, A, B, C, D, z, delta_bias, reset, delta_softplus
    )
    kept = (
        _memory(grad_y, dtype),
        _array(grad_last_state, dtype),
        checkpoints.numpy(),
    )
    outputs = (
        grad_x.numpy(),
        grad_delta.numpy(),
        grad_z.numpy(),
        parts_B,
        parts_C,
        grad_state,
        sums,
    )

    def walk(first: int, last: int) -> None:
        desks = _desks(threading.get_ident(), d_state, dtype)
        walk_blocks(first, last, *desks, blocks, pieces, inputs, kept, outputs)

    _share(walk, batch * len(pieces), states)
    sums = (sums.sum(0) if batch > 1 else sums[0]).astype(number, copy=False)
    grad_A, grad_B, grad_C = (
        sums[n * d_state : (n + 1) * d_state].T for n in range(3)
    )
    return (
        _to(grad_x, x.dtype),
        _to(grad_delta, delta.dtype),
        _tensor(grad_A, A),
        _tensor(_add_pieces(parts_B, B) if groups[0] else grad_B, B),
        _tensor(_add_pieces(parts_C, C) if groups[1] else grad_C, C),
        _tensor(sums[-2], D),
        None if z is None else _to(grad_z, z.dtype),
        _tensor(sums[-1], delta_bias),
        _tensor(grad_state, initial_state),
    )


def _groups(weights: Tensor) -> int:
    """The number of groups of B or C, 0 if it is fixed."""
    if weights.ndim == 2:
        return 0
    return weights.shape[2] if weights.ndim == 4 else 1


def _segments(d_inner: int, groups_B: int, groups_C: int) -> tuple[int, int]:
    """How many channels have the same groups, and how many blocks they are."""
    width = math.gcd(d_inner // max(groups_B, 1), d_inner // max(groups_C, 1))
    return width, -(-width // LANES)


@functools.lru_cache
def _blocks(d_inner: int, groups_B: int, groups_C: int) -> np.ndarray:
    """First channel, number of channels, group of B, group of C of each block.

    The group of a fixed B or C is -1.
    """
    width, _ = _segments(d_inner, groups_B, groups_C)
    return np.array(
        [
            (
                channel,
                min(LANES, start + width - channel),
                channel * groups_B // d_inner if groups_B else -1,
                channel * groups_C // d_inner if groups_C else -1,
            )
            for start in range(0, d_inner, width)
            for channel in range(start, start + width, LANES)
        ]
    )


def _most_pieces(states: int) -> int:
    """As many as are worth a thread, whatever threads there are."""
    return min(max(states // GRAIN, 1), PIECES)


@functools.lru_cache
def _pieces(
    batch: int, d_inner: int, groups_B: int, groups_C: int, most: int
) -> np.ndarray:
    """Runs of blocks with the same groups: each one's first, and the next's.

    Every piece has sums as large as B and C of one group. There are ``most``
    pieces, and more only if all of them are PIECE_LENGTH blocks long, so that
    the sums stay small beside x.
    """
    width, n_blocks = _segments(d_inner, groups_B, groups_C)
    all_blocks = batch * n_blocks * (d_inner // width)
    length = min(-(-all_blocks // most), PIECE_LENGTH)
    return np.array(
        [
            (first, min(first + length, segment + n_blocks))
            for segment in range(0, all_blocks // batch, n_blocks)
            for first in range(segment, segment + n_blocks, length)
        ]
    )


def _add_pieces(parts: np.ndarray, weights: Tensor) -> np.ndarray:
    """The gradient of B or C from that of its pieces, in their order."""
    batch, length, *_, d_state = weights.shape
    if len(parts) == batch:
        return parts.reshape(weights.shape)
    parts = parts.reshape(batch, _groups(weights), -1, length, d_state)
    total = parts[:, :, 0]

    def add(first: int, last: int) -> None:
        for piece in range(1, parts.shape[2]):
            total[:, :, first:last] += parts[:, :, piece, first:last]

    if parts.shape[2] > 1:
        _share(add, length, parts.size)
    return total.swapaxes(1, 2).reshape(weights.shape)


@functools.lru_cache(os.cpu_count())
def _desks(
    thread: int, d_state: int, dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """What one thread works on; small enough to stay in its caches.

    It is kept for the thread's next call. Made by torch, which begins an
    array where a line of the cache begins: half of all vectors would lie on
    two lines otherwise, and the loops take a tenth longer.
    """
    rows = TILES_ROWS * TILE, CELLS_ROWS * d_state
    desk = torch.empty(sum(rows), LANES, dtype=dtype, device="cpu").numpy()
    return (
        desk[: rows[0]].reshape(TILES_ROWS, TILE, LANES),
        desk[rows[0] :].reshape(CELLS_ROWS, d_state, LANES),
    )


def _to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Where there is nothing to do, without asking PyTorch."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _tensor(values: np.ndarray, like: Tensor | None) -> Tensor | None:
    """Contiguous, and a copy only if it has to be, as in ``_array``."""
    if like is None:
        return None
    return _to(torch.from_numpy(np.ascontiguousarray(values)), like.dtype)


def _array(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Contiguous; a copy only if it has to be."""
    return np.ascontiguousarray(_to(tensor, dtype).numpy(force=True))


def _memory(
    tensor: Tensor, dtype: torch.dtype
) -> tuple[np.ndarray, tuple[int, ...]]:
    """All memory between a sequence's first number and last, and strides."""
    tensor = _to(tensor, dtype)
    strides = tensor.stride()
    if not tensor.is_contiguous():
        last = sum(
            (size - 1) * stride
            for size, stride in zip(tensor.shape, strides, strict=True)
        )
        tensor = tensor.as_strided((last + 1,), (1,))
    return tensor.numpy(force=True).ravel(), strides


def _inputs(
    dtype: torch.dtype,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
) -> tuple:
    """The arguments of the operation as the compiled loops take them."""
    return (
        _memory(x, dtype),
        _memory(delta, dtype),
        _memory(x if z is None else z, dtype),
        _array(A, dtype),
        _weights(B, dtype),
        _weights(C, dtype),
        _channels(D, x, dtype),
        _channels(delta_bias, x, dtype),
        NO_RESET if reset is None else _array(reset, torch.bool),
        delta_softplus,
        z is not None,
    )


def _weights(weights: Tensor, dtype: torch.dtype) -> np.ndarray:
    """B or C with its axis of groups; fixed, the first two have size 1."""
    array = _array(weights, dtype)
    if array.ndim == 2:
        return array[None, None]
    return array[:, :, None] if array.ndim == 3 else array


def _state(state: Tensor | None, dtype: torch.dtype) -> np.ndarray:
    """A state, or none for zeros."""
    return NO_STATE[dtype] if state is None else _array(state, dtype)


def _channels(
    values: Tensor | None, x: Tensor, dtype: torch.dtype
) -> np.ndarray:
    """D or the bias, or zeros."""
    if values is None:
        return np.zeros(x.shape[2], NUMBERS[dtype])
    return _array(values, dtype)


def _share(work: Callable[[int, int], None], count: int, states: int) -> None:
    """Do ``count`` items of work, on as many threads as torch would use.

    Args:
        work: takes the first item and the one after the last.
        count: how many items there are.
        states: how many states they compute together.
    """
    threads = min(torch.get_num_threads(), max(states // GRAIN, 1))
    n_parts = min(count, PARTS * threads) if threads > 1 else 1
    if n_parts == 1:
        work(0, count)
        return
    bounds = [count * part // n_parts for part in range(n_parts + 1)]
    parts = collections.deque(itertools.pairwise(bounds))

    def work_on() -> None:
        while True:
            try:
                part = parts.popleft()
            except IndexError:
                return
            work(*part)

    helpers = [
        _pool(os.getpid()).submit(work_on)
        for _ in range(min(threads, n_parts) - 1)
    ]
    work_on()
    for helper in helpers:
        if not helper.cancel():  # for one that has not begun, nothing is left
            helper.result()


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> concurrent.futures.ThreadPoolExecutor:
    """The threads of this process; a fork has none and starts its own."""
    return concurrent.futures.ThreadPoolExecutor(
        os.cpu_count(), thread_name_prefix="selective_scan"
    )
