"""Rung 4 for a GPU: the scan as one pass over memory, in Triton.

``kernels.py`` holds the kernels and says how they work. Here is what is
around them: which cases they take, how time is cut into chunks, what is kept
for the backward pass, and the sums over blocks that end it.

**What is kept.** The backward pass needs the state before every
``SPACING``-th step. If these states take at most ``KEPT_BYTES`` the forward
pass keeps them all. Else it keeps every 2nd, 4th, 8th ... of them, as many as
fit but at least the first, and the backward pass, which then works on one
stretch of time after the other, computes those of a stretch again before it
goes through it.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from mambaviz.ops.launch import (
    MOST,
    contiguous_channels,
    next_power_of_2,
    on_device,
)
from mambaviz.ops.register import FLOATS
from mambaviz.ops.selective_scan import kernels
from mambaviz.ops.selective_scan.reference import with_groups

LANES = 32
# States of a channel that one pass works on; more take several.
STATES = 16
# Threads that share so many: twice the programs, each with half the registers.
THREADS = 2
MAX_STATES = 256
# Steps that are written out one after the other, forwards: the exponentials
# of one hide the latency of another. TILE_OF_BOTH where two threads share.
TILE = 8
TILE_OF_BOTH = 16
# A checkpoint every SPACING steps, backwards in tiles of that many steps.
SPACING = 4
# Tiles that are on their way while another is computed: fewer, and more
# programs find room side by side.
STAGES = 3
STAGES_ALONE = 4  # of 8 steps, where one thread has all STATES states
KEPT_BYTES = 2**30
# The blocks' partial sums of dB and dC, before they are added up.
PARTIAL_BYTES = 2**29
# A program that adds them up, or the chunks' sums over time, has those of so
# many blocks or chunks on their way at once; of blocks in so many columns.
ADDED_AT_ONCE = 8
ADDED_COLUMNS = 64
# From so many elements of x on it pays to write B and C as pairs first; below,
# one launch less counts for more. Rows of fewer than STATES states would be
# copied by some of the threads while the others wait.
PAIRS_FROM = 2**23
PAIRS_OF_FEW_FROM = 2**16
# Chunks of time, none shorter than MIN_CHUNK. Forwards WARPS programs for each
# scheduler of the GPU; of STATES states half as many, unless their chunks are
# LONG; and none where there are ENOUGH_WARPS anyway.
MIN_CHUNK = 16
WARPS = 4
LONG = 128
ENOUGH_WARPS = 0.7
# Backwards, BACK_WARPS programs of a scheduler find room, BACK_WARPS_OF_FEW
# with up to FEW states; more take turns. Measured: what a turn takes beside
# its steps, as steps; and as parts of one turn over the whole length, the
# first pass over chunks where all schedulers have work, and what one program
# of it alone would take.
BACK_WARPS = 2
BACK_WARPS_OF_FEW = 3
FEW = 4
STEPS_OF_TURN = 10
FIRST_PASS = 0.15
FIRST_PASS_ALONE = 0.24


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
    """Why the kernels cannot do this case; None if they can."""
    given = (x, delta, A, B, C, D, z, delta_bias, initial_state)
    for tensor in given:
        if tensor is not None and tensor.dtype not in FLOATS:
            return f"it computes in real float32, and got {tensor.dtype}"
    if A.shape[1] > MAX_STATES:
        return f"d_state is at most {MAX_STATES}, and got {A.shape[1]}"
    groups = _groups(B, C)
    if groups > MOST:
        return f"it takes at most {MOST} groups, and got {groups}"
    if not (x.is_cuda or triton.knobs.runtime.interpret):
        return f"it runs on a GPU, and got a tensor on {x.device}"
    return None


class Cut(NamedTuple):
    """How a problem is cut: channels in blocks, states in parts."""

    batch: int
    length: int
    d_inner: int
    d_state: int
    groups: int

    @property
    def width(self) -> int:
        """Channels that share B and C."""
        return self.d_inner // self.groups

    @property
    def blocks_per_group(self) -> int:
        """Blocks of LANES channels; none crosses the border of a group."""
        return -(-self.width // LANES)

    @property
    def blocks(self) -> int:
        """Of all groups."""
        return self.groups * self.blocks_per_group

    @property
    def programs(self) -> int:
        """Of a pass over all time, with a thread for each channel."""
        return self.batch * self.blocks

    @property
    def parts(self) -> int:
        """Passes over time, each with at most STATES states."""
        return len(self.padded)

    @property
    def padded(self) -> list[int]:
        """States of each part, rounded up to a power of two."""
        left = range(self.d_state, 0, -STATES)
        return [next_power_of_2(min(n, STATES)) for n in left]

    def part(self, tensor: Tensor | None, part: int) -> Tensor | None:
        """The part's states, of the last axis."""
        if tensor is None:
            return None
        return tensor[..., part * STATES : (part + 1) * STATES]

    def spacing(self) -> int:
        """Steps from one kept state to the next; the first is always kept."""
        states = self.batch * self.blocks * LANES * sum(self.padded)
        spacing = SPACING
        while (
            spacing < self.length
            and 4 * states * -(-self.length // spacing) > KEPT_BYTES
        ):
            spacing *= 2
        return spacing

    def kept_shape(self) -> tuple[int, ...]:
        """(padded states, batch, kept of each, blocks, LANES)."""
        n_kept = -(-self.length // self.spacing())
        return sum(self.padded), self.batch, n_kept, self.blocks, LANES

    def kept_part(self, kept: Tensor, part: int) -> Tensor:
        """What is kept of a part: (batch, kept, blocks, states, LANES)."""
        _, batch, n_kept, blocks, lanes = kept.shape
        first, states = sum(self.padded[:part]), self.padded[part]
        rows = kept[first : first + states]
        return rows.view(batch, n_kept, blocks, states, lanes)

    def room(self, n: int, rows: int, like: Tensor) -> Tensor:
        """Rows of LANES numbers, n times for every block."""
        shape = self.batch, n, self.blocks, rows, LANES
        return like.new_empty(shape, dtype=torch.float32)


def checkpoint_shape(
    batch: int, length: int, d_inner: int, d_state: int, groups: int = 1
) -> tuple[int, ...]:
    """(padded states, batch, kept of each, blocks, LANES)."""
    return Cut(batch, length, d_inner, d_state, groups).kept_shape()


class Plan(NamedTuple):
    """Chunks of time: how many, and how long."""

    n_chunks: int
    steps: int

    @classmethod
    def forwards(
        cls, cut: Cut, device: torch.device, padded: int = STATES
    ) -> "Plan":
        """One chunk if that is enough programs; chunks cost a second pass."""
        schedulers = _schedulers(device)
        if _threads(padded) * cut.programs >= ENOUGH_WARPS * schedulers:
            return cls(1, cut.length)
        n_chunks = WARPS * schedulers // cut.programs
        if padded == STATES and cut.length < LONG * n_chunks:
            n_chunks //= 2
        return cls._of(cut, min(n_chunks, cut.length // MIN_CHUNK), padded)

    @classmethod
    def backwards(
        cls, cut: Cut, device: torch.device, padded: int = STATES
    ) -> "Plan":
        """As many programs as find room, in one turn or several."""
        programs = _threads(padded) * cut.programs
        room = _back_warps(padded) * _schedulers(device)
        return cls._of(cut, _cheapest(programs, room, cut.length), padded)

    @classmethod
    def _of(cls, cut: Cut, n_chunks: int, padded: int) -> "Plan":
        """About so many chunks, of whole tiles."""
        tile = _tile(padded)
        steps = -(-cut.length // max(1, n_chunks))
        steps = -(-steps // tile) * tile
        return cls(-(-cut.length // steps), steps)


@functools.cache
def _cheapest(programs: int, room: int, length: int) -> int:
    """How many chunks of time are done first, backwards.

    Args:
        programs: of one chunk.
        room: how many of them find room at a time.
        length: steps of all chunks.
    """

    def cost(n_chunks: int) -> float:
        turns = math.ceil(n_chunks * programs / room)
        total = turns * (1 / n_chunks + STEPS_OF_TURN / length)
        if n_chunks > 1:
            total += FIRST_PASS * programs / room + FIRST_PASS_ALONE / n_chunks
        return total

    most = min(length // MIN_CHUNK, math.ceil(4 * room / programs))
    return min(range(1, max(1, most) + 1), key=cost)


def _tile(padded: int) -> int:
    """Steps of a tile: of pairs it has a number for each thread."""
    return max(TILE, LANES // (2 * padded))


def _threads(padded: int) -> int:
    """Threads that share a channel."""
    return THREADS if padded == STATES else 1


def _stages(padded: int, threads: int) -> int:
    """Tiles on their way, forwards and in the adjoint's first pass."""
    return STAGES_ALONE if padded == STATES and threads == 1 else STAGES


def _back_warps(padded: int) -> int:
    """Programs of a scheduler, backwards."""
    return BACK_WARPS_OF_FEW if padded <= FEW else BACK_WARPS


def _registers(padded: int) -> dict[str, int]:
    """With few states so many for a thread that its programs find room."""
    if padded > FEW:
        return {}
    return {"maxnreg": 2**14 // (BACK_WARPS_OF_FEW * LANES) // 8 * 8}


@functools.cache
def _schedulers(device: torch.device) -> int:
    if device.type != "cuda":
        return 4
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def _overlap(device: torch.device) -> bool:
    """Whether a kernel may start before the one before it has ended.

    It then has its first numbers when what it waits for is there.
    """
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (9, 0)
    )


def _after_ours(device: torch.device, ours: bool = True) -> dict[str, bool]:
    """Options of a launch; ``ours``: right after a kernel of this file.

    Before it waits, a kernel reads A, D and delta_bias alone, which none of
    these kernels writes.
    """
    overlap = _overlap(device)
    options = {"OVERLAP": overlap}
    return options | {"launch_pdl": True} if overlap and ours else options


class Inputs(NamedTuple):
    """The arguments as the kernels take them, for one part of the states."""

    cut: Cut
    x: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor  # or the pairs
    C: Tensor
    D: Tensor
    z: Tensor
    bias: Tensor
    reset: Tensor
    flags: dict[str, bool]

    @classmethod
    def of(
        cls,
        cut: Cut,
        part: int,
        x: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        bias: Tensor | None,
        reset: Tensor | None,
        softplus: bool,
    ) -> "Inputs":
        """From the arguments of a rung."""
        B, C = with_groups(B), with_groups(C)
        A, B, C = (cut.part(tensor, part) for tensor in (A, B, C))
        x, delta = contiguous_channels(x), contiguous_channels(delta)
        flags = {
            "SOFTPLUS": softplus,
            "HAS_Z": z is not None,
            "HAS_RESET": reset is not None,
            "B_FIXED": B.ndim == 2,
            "C_FIXED": C.ndim == 2,
            "PAIRS": _as_pairs(cut, B, C),
        }
        zeros = None
        if D is None or bias is None:
            zeros = x.new_zeros(cut.d_inner)
        D = zeros if D is None else D.contiguous()
        z = x if z is None else contiguous_channels(z)
        bias = zeros if bias is None else bias.contiguous()
        reset = x if reset is None else reset.contiguous().view(torch.uint8)
        if flags["PAIRS"]:  # Last: the scan may start before these are there.
            B = _pairs(cut, B, C)
        return cls(cut, x, delta, A, B, C, D, z, bias, reset, flags)

    @property
    def padded(self) -> int:
        """States, rounded up to a power of two."""
        return next_power_of_2(self.A.shape[1])

    @property
    def tile(self) -> int:
        """Steps of a tile."""
        return _tile(self.padded)

    def between(self, begin: int, end: int) -> "Inputs":
        """A stretch of time."""
        if (begin, end) == (0, self.cut.length):
            return self
        narrow = {
            name: tensor[:, begin:end]
            for name in ("x", "delta", "B", "C", "z", "reset")
            if (tensor := getattr(self, name)).ndim > 2 or name == "reset"
        }
        cut = self.cut._replace(length=end - begin)
        return self._replace(cut=cut, **narrow)

    def sizes(self, plan: Plan) -> dict[str, int]:
        """What all kernels are told of sizes, and A."""
        cut = self.cut
        return {
            "width": cut.width,
            "blocks_per_group": cut.blocks_per_group,
            "blocks": cut.blocks,
            "n_chunks": plan.n_chunks,
            "N": self.A.shape[1],
            "NP": self.padded,
            "FULL": cut.width % LANES == 0,
            **_strides(self.A, A=("d", "n")),
            "A_ptr": self.A,
        }

    def sequences(self, *names: str, tile: int = 0) -> dict[str, Tensor | int]:
        """Pointers and strides of what the kernels walk through.

        In tiles of so many steps, or of their own size.
        """
        arguments = {
            "length": self.cut.length,
            "WHOLE": self.cut.length % (tile or self.tile) == 0,
            "reset_ptr": self.reset,
        }
        for name in names:
            tensor = getattr(self, name)
            arguments[f"{name}_ptr"] = tensor
            arguments |= _strides(tensor, **{name: ("b", "l")})
        for name in ("B", "C"):
            tensor = getattr(self, name)
            arguments[f"{name}_ptr"] = tensor
            if tensor.ndim == 2:  # fixed: d_inner d_state
                tensor = tensor[None, :, None]
            arguments |= _strides(tensor, **{name: ("b", "l", "g", "n")})
        return arguments | self.flags


def _strides(tensor: Tensor, **names: tuple[str, ...]) -> dict[str, int]:
    ((name, axes),) = names.items()
    steps = zip(axes, tensor.stride(), strict=False)
    return {f"{name}_{axis}": step for axis, step in steps}


def _state_strides(name: str, state: Tensor | None) -> dict[str, int]:
    """Of a state (batch, d_inner, d_state); nothing if it is not used."""
    if state is None:
        return {f"{name}_b": 0, f"{name}_d": 0, f"{name}_n": 0}
    return _strides(state, **{name: ("b", "d", "n")})


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
        y, the last state, and the kept states if ``keep``.
    """
    cut = _cut(x, A, B, C)
    y = x.new_empty(x.shape)
    single = functools.partial(x.new_empty, dtype=torch.float32)
    kept = single(cut.kept_shape() if keep else (0,))
    sums = single(x.shape if cut.parts > 1 else (0,))
    last_states = []
    with on_device(x.device):
        for part in range(cut.parts):
            inputs = Inputs.of(
                cut, part, x, delta, A, B, C, D, z, delta_bias, reset,
                delta_softplus,
            )  # fmt: skip
            last_states.append(single((cut.batch, *inputs.A.shape)))
            _forward(
                inputs,
                cut.part(initial_state, part),
                y=y,
                sums=sums,
                last=last_states[-1],
                kept=cut.kept_part(kept, part) if keep else None,
                spacing=cut.spacing() if keep else SPACING,
                first=part == 0,
                final=part == cut.parts - 1,
            )
    return y, _joined(last_states), kept


def _forward(inputs: Inputs, initial: Tensor | None, **outputs) -> None:
    """One part of the states: one launch, or three if time is in chunks."""
    plan = Plan.forwards(inputs.cut, inputs.x.device, inputs.padded)
    paired = inputs.flags["PAIRS"]
    if plan.n_chunks == 1:
        _walk(inputs, plan, initial, None, follows=paired, **outputs)
        return
    ends = inputs.cut.room(plan.n_chunks, inputs.padded, inputs.x)
    totals = inputs.cut.room(plan.n_chunks, 1, inputs.x)
    _walk(inputs, plan, None, None, ends=ends, totals=totals, follows=paired)
    states = _join(inputs, plan, ends, totals, initial, reverse=False)
    _walk(inputs, plan, None, states, follows=True, **outputs)


def _walk(
    inputs: Inputs,
    plan: Plan,
    initial: Tensor | None,
    states: Tensor | None,
    *,
    y: Tensor | None = None,
    sums: Tensor | None = None,
    last: Tensor | None = None,
    kept: Tensor | None = None,
    ends: Tensor | None = None,
    totals: Tensor | None = None,
    spacing: int = SPACING,
    first: bool = True,
    final: bool = True,
    follows: bool = False,
) -> None:
    """Launch ``kernels.forward`` for what is given to be written.

    ``follows``: right after a kernel of ours.
    """
    cut = inputs.cut
    tile, threads = inputs.tile, 1
    if plan.n_chunks > 1:  # Kept states may lie closer than a tile is long.
        tile = min(tile, plan.steps)
        threads = 1 if cut.width % LANES == 0 else _threads(inputs.padded)
    elif inputs.padded == STATES:
        tile, threads = TILE_OF_BOTH, THREADS
    source = "zero" if initial is None else "given"
    unused = inputs.x
    kernels.forward[(cut.programs * plan.n_chunks * threads,)](
        **inputs.sequences("x", "delta", "z", tile=tile),
        **inputs.sizes(plan),
        **_state_strides("initial", initial),
        D_ptr=inputs.D,
        bias_ptr=inputs.bias,
        y_ptr=_or(y, unused),
        sum_ptr=_or(sums, unused),
        initial_ptr=_or(initial, _or(states, unused)),
        kept_ptr=_or(kept, unused),
        ends_ptr=_or(ends, unused),
        totals_ptr=_or(totals, unused),
        last_ptr=_or(last, unused),
        d_inner=cut.d_inner,
        rows=inputs.reset.stride(0) if y is None else cut.length,
        steps=plan.steps,
        n_kept=0 if kept is None else kept.shape[1],
        spacing=spacing,
        T=tile,
        GRAIN=SPACING,
        DENSE=spacing == SPACING,
        STAGES=_stages(inputs.padded, threads),
        FROM=source if states is None else "states",
        KEEP=kept is not None,
        ENDS=ends is not None,
        WRITE_Y=y is not None,
        FIRST=first,
        LAST=final,
        THREADS=threads,
        **_after_ours(inputs.x.device, follows),
        num_warps=1,
    )


def _join(
    inputs: Inputs,
    plan: Plan,
    ends: Tensor,
    totals: Tensor,
    initial: Tensor | None,
    *,
    reverse: bool,
) -> Tensor:
    """The state at the start of each chunk; in reverse, r at its end."""
    cut = inputs.cut
    states = torch.empty_like(ends)
    kernels.join_chunks[(cut.programs * inputs.padded,)](
        **inputs.sizes(plan),
        **_state_strides("initial", initial),
        ends_ptr=ends,
        totals_ptr=totals,
        initial_ptr=_or(initial, ends),
        states_ptr=states,
        U=32,
        GIVEN=initial is not None,
        REVERSE=reverse,
        **_after_ours(inputs.x.device),
        num_warps=1,
    )
    return states


def backward(
    grad_y: Tensor,
    grad_last_state: Tensor,
    kept: Tensor,
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
    cut = _cut(x, A, B, C)
    shapes = B.shape, C.shape
    B, C = with_groups(B), with_groups(C)
    grad_y = contiguous_channels(grad_y)
    spacing = _spacing_of(kept.shape[2], cut.length)
    length = _stretch(cut, spacing)
    several = x.new_empty(
        (3, *x.shape) if cut.parts > 1 else (0,), dtype=torch.float32
    )
    grads = Gradients(
        x=x.new_empty(x.shape),
        delta=delta.new_empty(x.shape),
        z=None if z is None else z.new_empty(x.shape),
        B=B.new_empty(B.shape),
        C=C.new_empty(C.shape),
        sums=several,
    )
    parts = []
    with on_device(x.device):
        for part in range(cut.parts):
            inputs = Inputs.of(
                cut, part, x, delta, A, B, C, D, z, delta_bias, reset,
                delta_softplus,
            )  # fmt: skip
            later = cut.part(grad_last_state, part)
            total = None
            kept_part = cut.kept_part(kept, part)
            for begin in reversed(range(0, cut.length, length)):
                end = min(begin + length, cut.length)
                stretch = Stretch(part, begin, end)
                some = kept_part[:, begin // spacing : -(-end // spacing)]
                later, sums = _backward(
                    inputs.between(begin, end),
                    grad_y[:, begin:end],
                    some,
                    spacing,
                    later,
                    grads,
                    stretch,
                )
                if total is not None:
                    sums = [a + b for a, b in zip(sums, total, strict=True)]
                total = sums
            parts.append((later, *total))
    later, of_A, of_D, of_bias, of_B, of_C = zip(*parts, strict=True)
    # D and delta_bias have their gradients when the last part is added.
    return (
        grads.x,
        grads.delta,
        _joined(of_A).to(A.dtype),
        grads.B.view(shapes[0]) if B.ndim == 4 else _joined(of_B).to(B.dtype),
        grads.C.view(shapes[1]) if C.ndim == 4 else _joined(of_C).to(C.dtype),
        None if D is None else of_D[-1].to(D.dtype),
        grads.z,
        None if delta_bias is None else of_bias[-1].to(delta_bias.dtype),
        None
        if initial_state is None
        else _joined(later).to(initial_state.dtype),
    )


class Gradients(NamedTuple):
    """What the kernels write step by step."""

    x: Tensor
    delta: Tensor
    z: Tensor | None
    B: Tensor
    C: Tensor
    sums: Tensor  # over the parts so far: of y, of g . B and of A . w


class Stretch(NamedTuple):
    """Steps begin to end, for one part of the states."""

    part: int
    begin: int
    end: int


def _backward(
    inputs: Inputs,
    grad_y: Tensor,
    kept: Tensor,
    spacing: int,
    later: Tensor,
    grads: Gradients,
    stretch: Stretch,
) -> tuple[Tensor, list[Tensor]]:
    """One part of the states in one stretch of time.

    Returns:
        r before the stretch, and the sums over time: the gradients of A, D,
        delta_bias, and of B and C where they are fixed.
    """
    cut, flags = inputs.cut, inputs.flags
    plan = Plan.backwards(cut, inputs.x.device, inputs.padded)
    if spacing > SPACING:
        kept = _recompute(inputs, kept, spacing)
    kept = kept.contiguous()  # of a stretch
    given = later if plan.n_chunks == 1 else None
    if given is None:
        later = _later(inputs, plan, grad_y, later)
    n, n_chunks = inputs.A.shape[1], plan.n_chunks
    fixed = flags["B_FIXED"], flags["C_FIXED"]
    sums = inputs.padded * (1 + sum(fixed)) + 2
    over_time = cut.room(n_chunks, sums, inputs.x)
    rows = 0 if all(fixed) else cut.batch * cut.length
    threads = _threads(inputs.padded)
    partial = over_time.new_empty(
        threads * cut.blocks, rows, 2 * inputs.padded
    )
    before = over_time.new_empty(cut.batch, cut.d_inner, n)
    begin = stretch.begin
    kernels.backward[(cut.programs * n_chunks * threads,)](
        **inputs.sequences("x", "delta", "z"),
        **inputs.sizes(plan),
        **_strides(grad_y, grad=("b", "l")),
        **_state_strides("later", given),
        D_ptr=inputs.D,
        bias_ptr=inputs.bias,
        grad_y_ptr=grad_y,
        sum_ptr=grads.sums[:, :, begin:] if cut.parts > 1 else grads.sums,
        kept_ptr=kept,
        later_ptr=later,
        dx_ptr=grads.x[:, begin:],
        ddelta_ptr=grads.delta[:, begin:],
        dz_ptr=inputs.x if grads.z is None else grads.z[:, begin:],
        dBC_ptr=partial,
        over_time_ptr=over_time,
        dinitial_ptr=before,
        d_inner=cut.d_inner,
        rows=grads.x.shape[1],
        steps=plan.steps,
        n_kept=kept.shape[1],
        T=SPACING,
        STAGES=STAGES,
        THREADS=threads,
        AHEAD=threads == 1 and inputs.x.dtype != torch.float32,
        GIVEN=given is not None,
        FIRST=stretch.part == 0,
        LAST=stretch.part == cut.parts - 1,
        **_after_ours(inputs.x.device, given is None or flags["PAIRS"]),
        **_registers(inputs.padded),
        num_warps=1,
    )
    gradients = _sum_over_time(inputs, over_time)
    _sum_blocks(inputs, partial, grads, stretch)
    return before, gradients


def _sum_over_time(inputs: Inputs, over_time: Tensor) -> list[Tensor]:
    """The gradients of A, D and delta_bias, and of fixed B and C."""
    batch, n_chunks, blocks, rows, _ = over_time.shape
    cut, flags, n = inputs.cut, inputs.flags, inputs.A.shape[1]
    of_states, of_channels = (cut.d_inner, n), (cut.d_inner,)
    dA, dD, dbias, dB, dC = gradients = [
        over_time.new_empty(shape)
        for shape in (
            of_states,
            of_channels,
            of_channels,
            of_states if flags["B_FIXED"] else 0,
            of_states if flags["C_FIXED"] else 0,
        )
    ]
    kernels.sum_over_time[blocks, rows](
        over_time,
        dA,
        dD,
        dbias,
        dB,
        dC,
        cut.width,
        cut.blocks_per_group,
        blocks,
        batch * n_chunks,
        N=n,
        NP=inputs.padded,
        FULL=cut.width % LANES == 0,
        AT_ONCE=ADDED_AT_ONCE,
        B_FIXED=flags["B_FIXED"],
        **_after_ours(inputs.x.device),
        num_warps=1,
    )
    return gradients


def _sum_blocks(
    inputs: Inputs, partial: Tensor, grads: Gradients, stretch: Stretch
) -> None:
    """Write the gradients of B and C where they differ from step to step."""
    cut, flags = inputs.cut, inputs.flags
    if flags["B_FIXED"] and flags["C_FIXED"]:
        return
    part, begin, end = stretch
    targets = {}
    for name in ("B", "C"):
        grad = getattr(grads, name)
        if grad.ndim == 4:
            grad = cut.part(grad[:, begin:end], part)
        targets[name] = grad
    # With fewer groups than blocks of channels have, sums of groups follow.
    written = {
        name: grad
        if grad.ndim == 2 or grad.shape[2] == cut.groups
        else partial.new_empty(*grad.shape[:2], cut.groups, grad.shape[3])
        for name, grad in targets.items()
    }
    dB, dC = written["B"], written["C"]
    rows = ADDED_COLUMNS // (2 * inputs.padded)
    count = cut.batch * cut.length
    kernels.sum_blocks[-(-count // rows), cut.groups](
        partial,
        dB,
        dC,
        *(dB.stride()[:3] if dB.ndim == 4 else (0, 0, 0)),
        *(dC.stride()[:3] if dC.ndim == 4 else (0, 0, 0)),
        _threads(inputs.padded) * cut.blocks_per_group,
        count,
        cut.length,
        N=inputs.A.shape[1],
        NP=inputs.padded,
        ROWS=rows,
        AT_ONCE=ADDED_AT_ONCE,
        B_FIXED=flags["B_FIXED"],
        C_FIXED=flags["C_FIXED"],
        **_after_ours(inputs.x.device),
        num_warps=4,
    )
    for name, grad in targets.items():
        if written[name] is not grad:
            groups = written[name].unflatten(2, (grad.shape[2], -1))
            grad.copy_(groups.sum(3))


def _later(
    inputs: Inputs, plan: Plan, grad_y: Tensor, later: Tensor
) -> Tensor:
    """r at the end of each chunk."""
    cut = inputs.cut
    begins = cut.room(plan.n_chunks, inputs.padded, inputs.x)
    totals = cut.room(plan.n_chunks, 1, inputs.x)
    arguments = inputs.sequences("delta", "z")
    del arguments["B_FIXED"]
    kernels.chunk_adjoints[(cut.programs * plan.n_chunks,)](
        **arguments,
        **inputs.sizes(plan),
        **_strides(grad_y, grad=("b", "l")),
        bias_ptr=inputs.bias,
        grad_y_ptr=grad_y,
        ends_ptr=begins,
        totals_ptr=totals,
        rows=inputs.reset.stride(0),
        steps=plan.steps,
        T=inputs.tile,
        STAGES=_stages(inputs.padded, 1),
        **_after_ours(inputs.x.device, inputs.flags["PAIRS"]),
        num_warps=1,
    )
    return _join(inputs, plan, begins, totals, later, reverse=True)


def _recompute(inputs: Inputs, kept: Tensor, spacing: int) -> Tensor:
    """All states that the backward pass needs, from those that were kept."""
    cut = inputs.cut
    states = cut.room(-(-cut.length // SPACING), inputs.padded, inputs.x)
    plan = Plan(kept.shape[1], spacing)
    _walk(inputs, plan, None, states=kept.contiguous(), kept=states)
    return states


def _spacing_of(n_kept: int, length: int) -> int:
    """Steps from one kept state to the next, as the forward pass chose."""
    spacing = SPACING
    while -(-length // spacing) > n_kept:
        spacing *= 2
    return spacing


def _stretch(cut: Cut, spacing: int) -> int:
    """Steps of time that the backward pass works on at once."""
    blocks = cut.batch * cut.blocks
    states = max(cut.padded)
    steps = PARTIAL_BYTES // (blocks * _threads(states) * 2 * states * 4)
    if spacing > SPACING:
        per_step = blocks * LANES * states * 4 // SPACING
        steps = min(steps, KEPT_BYTES // per_step)
    return max(1, steps // spacing) * spacing


def _cut(x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Cut:
    return Cut(*x.shape, A.shape[1], _groups(B, C))


def _groups(B: Tensor, C: Tensor) -> int:
    """Groups of channels that share B and C both."""
    return math.lcm(*(w.shape[2] for w in (B, C) if w.ndim == 4))


def _joined(parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor


def _as_pairs(cut: Cut, B: Tensor, C: Tensor) -> bool:
    """Whether B and C are written as pairs first."""
    if B.ndim == 2 or C.ndim == 2:
        return False
    same = B.shape[2] == C.shape[2] == cut.groups
    few = B.shape[3] <= STATES // 2
    least = PAIRS_OF_FEW_FROM if few else PAIRS_FROM
    return not same or cut.batch * cut.length * cut.d_inner >= least


def _pairs(cut: Cut, B: Tensor, C: Tensor) -> Tensor:
    """B and C of a step as a row of pairs, in float32 and padded with 0."""
    padded = next_power_of_2(B.shape[3])
    shape = cut.batch, cut.length, cut.groups, 2 * padded
    pairs = B.new_empty(shape, dtype=torch.float32)
    rows = 32
    count = cut.batch * cut.length
    kernels.pair[-(-count // rows), cut.groups](
        B,
        C,
        pairs,
        *B.stride(),
        *C.stride(),
        cut.groups // B.shape[2],
        cut.groups // C.shape[2],
        count,
        cut.length,
        N=B.shape[3],
        NP=padded,
        ROWS=rows,
        num_warps=4,
    )
    return pairs


def step(
    state: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    in_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step, without a gradient, as one kernel.

    Args:
        B: (batch, d_state), (batch, groups, d_state) or, of two axes, fixed
            and expanded to (1, d_inner, d_state).
        C: likewise.

    The other arguments are those of ``selective_scan_step``.
    """
    batch, d_inner = x.shape
    d_state = A.shape[1]
    y = torch.empty_like(x)
    if in_place:
        after = state
        torch.autograd.graph.increment_version(state)
    else:
        after = torch.empty_like(state, dtype=torch.float32)
    D, delta_bias = (
        v if v is None else v.contiguous() for v in (D, delta_bias)
    )
    padded = next_power_of_2(d_state)
    channels = max(1, min(512 // padded, next_power_of_2(d_inner)))
    B, C = (w[:, None] if w.ndim == 2 else w for w in (B, C))
    with on_device(x.device):
        kernels.step[(-(-d_inner // channels) * batch,)](
            state,
            x,
            delta,
            A,
            B,
            C,
            _or(D, x),
            _or(z, x),
            _or(delta_bias, x),
            y,
            after,
            d_inner,
            d_inner // B.shape[1],
            d_inner // C.shape[1],
            *state.stride(),
            *x.stride(),
            *delta.stride(),
            *A.stride(),
            0 if B.shape[0] == 1 else B.stride(0),
            *B.stride()[1:],
            0 if C.shape[0] == 1 else C.stride(0),
            *C.stride()[1:],
            *_or(z, x).stride(),
            *y.stride(),
            *after.stride(),
            N=d_state,
            NP=padded,
            CHANNELS=channels,
            SOFTPLUS=delta_softplus,
            HAS_D=D is not None,
            HAS_Z=z is not None,
            HAS_BIAS=delta_bias is not None,
            num_warps=1,
        )
    return y, after


@contextlib.contextmanager
def keeping(n_bytes: int) -> Iterator[None]:
    """Within it, at most so many bytes of states are kept for backward.

    Fewer bytes cost a second pass over the sequence in the backward pass.
    """
    global KEPT_BYTES
    before, KEPT_BYTES = KEPT_BYTES, n_bytes
    try:
        yield
    finally:
        KEPT_BYTES = before
