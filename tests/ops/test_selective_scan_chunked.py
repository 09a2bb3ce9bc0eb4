"""What is particular to the chunked rung: its memory and its borders."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mambaviz.ops.selective_scan import chunked
from tests.ops.scan_cases import case, error, in_dtype, run, scan_by


class Memory(TorchDispatchMode):
    """The largest tensor that was made, and the most alive at once."""

    def __init__(self):
        super().__init__()
        self.largest = self.alive = self.peak = 0
        self.storages = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args, kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, torch.Tensor):
                self.largest = max(self.largest, t.untyped_storage().nbytes())
                self.watch(t.untyped_storage())
        return out

    def watch(self, storage):
        if storage in self.storages:
            return
        self.storages.add(storage)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self.forget, size)

    def forget(self, size):
        self.alive -= size


@pytest.mark.parametrize("B", ["each", 2, "fixed"])
def test_it_never_holds_all_states(B):
    """Neither in one tensor nor in all its tensors together.

    The operator hides what is inside it from this count, so this calls the
    rung itself.
    """
    batch, length, d_inner, d_state = 2, 512, 128, 64
    a = case(batch, length, d_inner, d_state, B=B, C=B, reset=False)
    a = in_dtype(a, torch.float32)
    del a["delta_softplus"]
    tensors = (*a.values(), None)
    every_state = 4 * batch * length * d_inner * d_state
    with Memory() as forward:
        y, h, checkpoints = chunked.forward(*tensors, True, True)
    with Memory() as backward:
        chunked.backward(y, h, checkpoints, *tensors, True)
    for memory in (forward, backward):
        assert memory.largest <= every_state / 16
        assert memory.peak <= every_state / 2
    assert checkpoints.shape == chunked.checkpoint_shape(
        batch, length, d_inner, d_state
    )


def test_the_count_of_memory_counts():
    with Memory() as memory:
        kept = torch.zeros(1000)
        for _ in range(3):
            torch.zeros(500).add(1)
        kept.view(10, 100).add_(1)
    assert memory.largest == 4000
    assert memory.peak == 4000 + 2 * 2000
    assert memory.alive == 4000


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kinds", ["each", 2, 14, "fixed"])
@pytest.mark.parametrize("block", [1, 50, 100, 10**6])
def test_blocks_and_chunks_do_not_show(kinds, block, is_complex, monkeypatch):
    """Blocks of one channel, of some, of whole rows; chunks of 7 steps."""
    a = case(3, 40, 14, 5, B=kinds, C=kinds, is_complex=is_complex)
    truth = run(scan_by("reference"), a)
    monkeypatch.setattr(chunked, "BLOCK", block)
    monkeypatch.setattr(chunked, "MIN_STEPS", 7)
    monkeypatch.setattr(chunked, "BUFFER", 7)
    found = run(scan_by("chunked"), a)
    for what, value in truth.items():
        assert error(found[what], value) < 1e-13, what


@pytest.mark.parametrize("block", [1, 50, 100, 10**6])
def test_each_channel_is_in_one_block(block, monkeypatch):
    monkeypatch.setattr(chunked, "BLOCK", block)
    seen = torch.zeros(6, 5, 14)
    for rows, channels in chunked._blocks(seen):
        seen[rows, :, channels] += 1
    assert torch.equal(seen, torch.ones_like(seen))


def test_the_size_of_a_buffer():
    """2 MiB of float32 at most, for one step in a block of any model."""
    for batch, d_inner, d_state in [(1, 4, 1), (1, 128, 16), (8, 5120, 128)]:
        size = batch * d_inner * d_state
        steps = chunked._steps_per_chunk(size)
        assert steps >= 16
        assert steps * min(size, chunked.BLOCK) <= 2**19


def test_any_number_of_states_is_fine():
    """More states than fit into a block: one channel at a time."""
    a = case(1, 3, 2, chunked.BLOCK + 1, reset=False)
    truth = run(scan_by("reference"), a)
    for what, value in run(scan_by("chunked"), a).items():
        assert error(value, truth[what]) < 1e-12, what
