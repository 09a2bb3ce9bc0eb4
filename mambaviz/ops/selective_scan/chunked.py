"""Rung 3: the loop in chunks, with a backward pass of its own.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t

Only the recurrence needs a loop. All else is done for a chunk of steps at
once, in buffers that fit into a cache:

    forward     A_bar = exp(delta A)             for the chunk
                drive = delta B x                for the chunk
                h_t = A_bar_t h_{t-1} + drive_t  one operation a step, in place
                y = C . h                        one batch of matrix products

With g_t the gradient of h_t, the backward pass is a scan from the end:

    backward    g_t = C_t grad_y_t + A_bar_{t+1} g_{t+1}
                grad_C_t = sum over channels of grad_y_t h_t
                grad_B_t = sum over channels of g_t delta_t x_t
                grad_A   = sum over steps of g_t A_bar_t h_{t-1} delta_t

It needs all h_t. They are not kept: the forward pass keeps the state at the
start of each chunk, and the backward pass, which walks through the chunks
from the last to the first, computes the others again from there. So what is
held in memory is never d_state times as large as x.

Where A is complex, gradients are conjugate, as PyTorch has them, and the
factor 2 of 2 Re(C . h) is taken into C.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mambaviz.ops.selective_scan.reference import discrete_step
from mambaviz.ops.selective_scan.rows import Rows

# A buffer has about so many elements, but at least MIN_STEPS steps.
BUFFER = 2**18
MIN_STEPS = 16
# On a CPU, so many channels times states at most take part in a step.
BLOCK = 2**15
# Steps of so small a state are joined, until so few are left.
SMALL, FEW_STEPS = 2**13, 16


def refusal(*tensors: Tensor | None) -> str | None:
    """Why this rung cannot: there is nothing that it cannot."""
    return None


def checkpoint_shape(
    batch: int, length: int, d_inner: int, d_state: int, groups: int = 1
) -> tuple[int, ...]:
    """One state at the start of each chunk, laid out in rows."""
    size = batch * d_inner * d_state
    return -(-length // _steps_per_chunk(size)), size


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
    """Arguments as at the door.

    Returns:
        y, the last state, and the checkpoints if ``keep``, else an empty
        tensor.
    """
    rows = Rows.of(x, delta, A, B, C)
    step = discrete_step(delta, delta_bias, delta_softplus, rows.dtype)
    system = _System.of(rows, x, step, A, B, C, reset)
    if initial_state is None:
        state = torch.zeros_like(system.A)
    else:
        state = rows.state(initial_state)
    checkpoints = state.new_empty(
        checkpoint_shape(*x.shape, A.shape[1]) if keep else 0
    )
    y = rows.unsequence(_scan(system, state, checkpoints))
    if D is not None:
        y = y + D.to(y.dtype) * x
    if z is not None:
        y = y * F.silu(z.to(y.dtype))
    y = y.to(x.dtype).contiguous()
    return y, rows.unstate(state), checkpoints


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
    """The gradients of all arguments but ``reset``, None where one is None."""
    rows = Rows.of(x, delta, A, B, C)
    dtype = rows.dtype
    step = discrete_step(delta, delta_bias, delta_softplus, dtype)
    system = _System.of(rows, x, step, A, B, C, reset)
    grad_out = grad_y.to(dtype)
    gate, gate_slope = (1, 0) if z is None else _silu(z.to(dtype))
    grad = grad_out * gate  # of C . h + D x
    grad_state = rows.state(grad_last_state)
    found = _scan_back(system, rows.sequence(grad), grad_state, checkpoints)
    y, grad_step, grad_drive = map(
        rows.unsequence, (found.y, found.step, found.drive)
    )

    grad_x = step * grad_drive
    grad_delta = grad_step + x * grad_drive
    if D is not None:
        grad_x = grad_x + grad * D.to(dtype)
        y = y + x * D.to(dtype)
    if delta_softplus:
        # softplus'(v) = 1 - e^-softplus(v)
        grad_delta = grad_delta * -torch.expm1(-step)
    gradients = (
        (x, grad_x),
        (delta, grad_delta),
        (A, rows.unmatrix(found.A)),
        (B, rows.unweights(found.B, B)),
        (C, rows.unweights(found.C, C) * (2 if A.is_complex() else 1)),
        (D, (grad * x).sum((0, 1))),
        (z, grad_out * y * gate_slope),
        (delta_bias, grad_delta.sum((0, 1))),
        (initial_state, rows.unstate(grad_state)),
    )
    return tuple(_like(tensor, gradient) for tensor, gradient in gradients)


def _silu(z: Tensor) -> tuple[Tensor, Tensor]:
    """silu(z) and its derivative."""
    sigmoid = torch.sigmoid(z)
    return z * sigmoid, sigmoid * (1 + z * (1 - sigmoid))


class _System(NamedTuple):
    """The bare recurrence in rows, or a part of it."""

    step: Tensor  # length rows width
    drive: Tensor  # length rows width: delta x
    A: Tensor  # rows d_state width
    B: Tensor  # length rows d_state 1; fixed, as A
    C: Tensor  # as B
    reset: Tensor | None  # length rows 1 1
    starts: list[bool]  # at which steps reset is true in some row

    @classmethod
    def of(
        cls,
        rows: Rows,
        x: Tensor,
        step: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        reset: Tensor | None,
    ) -> "_System":
        starts = [False] * x.shape[1]
        if reset is not None:
            starts = reset.any(0).tolist()
            reset = rows.mask(reset)
        return cls(
            rows.sequence(step),
            rows.sequence(step * x),
            rows.matrix(A),
            rows.weights(B),
            rows.weights(2 * C if A.is_complex() else C),
            reset,
            starts,
        )

    def block(self, rows: slice, channels: slice) -> "_System":
        """Some rows and channels, all steps."""

        def of(w: Tensor) -> Tensor:
            return w[rows, :, channels] if w.ndim == 3 else w[:, rows]

        return self._replace(
            step=self.step[:, rows, channels],
            drive=self.drive[:, rows, channels],
            A=of(self.A),
            B=of(self.B),
            C=of(self.C),
            reset=None if self.reset is None else self.reset[:, rows],
        )

    def chunk(self, steps: slice) -> "_System":
        """Some steps, all rows and channels."""
        return self._replace(
            step=self.step[steps],
            drive=self.drive[steps],
            B=self.B if self.B.ndim == 3 else self.B[steps],
            C=self.C if self.C.ndim == 3 else self.C[steps],
            reset=None if self.reset is None else self.reset[steps],
            starts=self.starts[steps],
        )


class _Gradients(NamedTuple):
    """What the way back finds, in rows."""

    step: Tensor  # length rows width; through exp(delta A) only
    drive: Tensor  # length rows width
    A: Tensor  # rows d_state width
    B: Tensor  # length rows d_state; fixed, as A
    C: Tensor  # as B
    y: Tensor  # no gradient: C . h, which that of the gate needs


def _scan(system: _System, state: Tensor, checkpoints: Tensor) -> Tensor:
    """C . h at every step; ``state`` moves from the first to the last."""
    y = torch.empty_like(system.drive)
    chunks = _chunks(len(y), state.numel())
    for rows, channels in _blocks(system.A):
        block = system.block(rows, channels)
        longest = chunks[0].stop
        A_bar, h = _buffer(longest, block.A), _buffer(longest + 1, block.A)
        h[0] = state[rows, :, channels]
        for i, steps in enumerate(chunks):
            if checkpoints.numel():
                kept = checkpoints[i].view_as(state)
                kept[rows, :, channels] = h[0]
            chunk = block.chunk(steps)
            n = len(chunk.step)
            _recur(chunk, A_bar[:n], h[: n + 1])
            y[steps, rows, channels] = _sum_states(chunk.C, h[1 : n + 1])
            h[0] = h[n]
        state[rows, :, channels] = h[0]
    return y


def _scan_back(
    system: _System, grad_y: Tensor, grad_state: Tensor, checkpoints: Tensor
) -> _Gradients:
    """All gradients; ``grad_state`` moves from the last to the first."""
    found = _Gradients(
        torch.empty_like(grad_y),
        torch.empty_like(grad_y),
        torch.zeros_like(system.A),
        _zeros_for(system.B),
        _zeros_for(system.C),
        torch.empty_like(grad_y),
    )
    chunks = _chunks(len(grad_y), grad_state.numel())
    for rows, channels in _blocks(system.A):
        block = system.block(rows, channels)
        longest = chunks[0].stop
        A_bar, h = _buffer(longest, block.A), _buffer(longest + 1, block.A)
        g = torch.empty_like(A_bar)
        g_after = grad_state[rows, :, channels]
        for i, steps in reversed([*enumerate(chunks)]):
            at = steps, rows, channels
            chunk, grad = block.chunk(steps), grad_y[at]
            n = len(grad)
            kept = checkpoints[i].view_as(grad_state)
            h[0] = kept[rows, :, channels]
            A_bar_n, g_n = A_bar[:n], g[:n]
            _recur(chunk, A_bar_n, h[: n + 1])
            before, after = h[:n], h[1 : n + 1]
            found.y[at] = _sum_states(chunk.C, after)
            _add(found.C, chunk.C, at, after.conj(), grad)

            g_after = _recur_back(chunk, grad, g_after, A_bar_n, g_n)
            found.drive[at] = _sum_states(chunk.B.conj(), g_n)
            _add(found.B, chunk.B, at, g_n, chunk.drive)

            # By step and A, through A_bar_t = exp(delta_t A) only.
            if any(chunk.starts):
                before.masked_fill_(chunk.reset, 0)
            grad_exponent = g_n.mul_(A_bar_n).mul_(before.conj())
            torch.mul(grad_exponent, block.A.conj(), out=A_bar_n)
            found.step[at] = A_bar_n.sum(2).real
            found.A[rows, :, channels] += grad_exponent.mul_(
                chunk.step[:, :, None]
            ).sum(0)
        grad_state[rows, :, channels] = g_after
    return found


def _recur(chunk: _System, A_bar: Tensor, h: Tensor) -> None:
    """From h[0], the state before the chunk, to those after its steps.

    A_bar_t = exp(delta_t A)
    h_t = A_bar_t h_{t-1} + delta_t B_t x_t
    """
    torch.mul(chunk.step[:, :, None], chunk.A, out=A_bar).exp_()
    torch.mul(chunk.B, chunk.drive[:, :, None], out=h[1:])
    if not any(chunk.starts):
        _advance(A_bar, h)
        return
    before, *states = h.unbind(0)
    for t, (A_bar_t, h_t) in enumerate(
        zip(A_bar.unbind(0), states, strict=True)
    ):
        if chunk.starts[t]:
            before = before.masked_fill(chunk.reset[t], 0)
        before = h_t.addcmul_(A_bar_t, before)


def _recur_back(
    chunk: _System, grad_y: Tensor, g_after: Tensor, A_bar: Tensor, g: Tensor
) -> Tensor:
    """From the chunk's last step to its first.

        g_t = C_t grad_y_t + A_bar_{t+1} g_{t+1}

    ``g_after`` is A_bar_{t+1} g_{t+1} for the last t; that for the step
    before the first is returned. A complex A_bar becomes its conjugate.
    """
    if A_bar.is_complex():
        A_bar.conj_physical_()
    torch.mul(chunk.C.conj(), grad_y[:, :, None], out=g)
    g_later = g[-1].add_(g_after)
    if not any(chunk.starts):
        _advance(A_bar[1:], g, reverse=True)
        return A_bar[0] * g[0]
    steps, factors = g.unbind(0), A_bar.unbind(0)
    for t in range(len(g) - 1, 0, -1):
        if chunk.starts[t]:
            g_later = g_later.masked_fill(chunk.reset[t], 0)
        g_later = steps[t - 1].addcmul_(factors[t], g_later)
    if chunk.starts[0]:
        g_later = g_later.masked_fill(chunk.reset[0], 0)
    return factors[0] * g_later


def _advance(a: Tensor, h: Tensor, reverse: bool = False) -> None:
    """h_t := a_t h_{t-1} + h_t, from the known h_0 on; or from the other end.

    A step of a small state takes less time than its call. There, two steps
    become one,

        h_{t+1} = (a_{t+1} a_t) h_{t-1} + (a_{t+1} h_t + h_{t+1}),

    and once the state after each pair is known, so is the one within.

    Args:
        a: the factor of each step.
        h: one more; in place.
        reverse: h[-1] is the known one, and a[-1] the first factor.
    """
    n = len(a)
    if n < 2 * FEW_STEPS or a[0].numel() > SMALL:
        factors, states = a.unbind(0), h.unbind(0)
        if reverse:
            factors, states = factors[::-1], states[::-1]
        before, *after = states
        for a_t, h_t in zip(factors, after, strict=True):
            before = h_t.addcmul_(a_t, before)
        return
    odd = n % 2
    if reverse:
        states, known = h[:-1], h[odd::2]
        one, two = slice(odd + 1, n, 2), slice(odd, n - 1, 2)
        within = slice(1 - odd, n, 2)
    else:
        states, known = h[1:], h[::2]
        one, two = slice(0, n - 1, 2), slice(1, n, 2)
        within = slice(0, n, 2)
    states[two].addcmul_(a[two], states[one])
    _advance(a[one] * a[two], known, reverse)
    states = states[within]
    before = known[-len(states) :] if reverse else known[: len(states)]
    states.addcmul_(a[within], before)


def _sum_states(weights: Tensor, h: Tensor) -> Tensor:
    """The real part of weights . h, per step, row and channel."""
    if weights.ndim == 3:
        return (weights * h).sum(-2).real
    return (weights.mT @ h).squeeze(-2).real


def _add(
    total: Tensor,
    weights: Tensor,
    at: tuple[slice, slice, slice],
    h: Tensor,
    row: Tensor,
) -> None:
    """Add h times a row: over channels, or over steps if B or C is fixed."""
    steps, rows, channels = at
    if weights.ndim == 3:
        total[rows, :, channels] += (h * row[:, :, None]).sum(0)
    else:
        row = row[:, :, None].to(h.dtype)
        total[steps, rows] += (row @ h.mT).squeeze(-2)


def _zeros_for(weights: Tensor) -> Tensor:
    return weights.new_zeros(
        weights.shape if weights.ndim == 3 else weights.shape[:-1]
    )


def _like(tensor: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """In the dtype of the tensor; of a real one, the gradient is real."""
    if tensor is None:
        return None
    if not tensor.is_complex():
        gradient = gradient.real
    return gradient.to(tensor.dtype).contiguous()


def _steps_per_chunk(size: int) -> int:
    """How many steps of so large a state fit into a buffer."""
    return max(MIN_STEPS, BUFFER // min(size, BLOCK))


def _chunks(length: int, size: int) -> list[slice]:
    per_chunk = _steps_per_chunk(size)
    return [
        slice(start, min(start + per_chunk, length))
        for start in range(0, length, per_chunk)
    ]


def _blocks(A: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and channels that take part in a step of the loop together.

    On a GPU all do: there, a step is bound by its launch.
    """
    n_rows, d_state, width = A.shape
    block = A.numel() if A.is_cuda else BLOCK
    channels = max(1, min(width, block // d_state))
    rows = max(1, block // (d_state * channels))
    for r in range(0, n_rows, rows):
        for w in range(0, width, channels):
            yield slice(r, r + rows), slice(w, w + channels)


def _buffer(steps: int, state: Tensor) -> Tensor:
    return state.new_empty(steps, *state.shape)
