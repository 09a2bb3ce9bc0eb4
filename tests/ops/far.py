"""Numbers that lie so far apart that 32 bits do not hold their distance."""

import functools
from pathlib import Path

import torch
from torch import Tensor

HALF = 2**31  # elements
PLACES = 64  # tensors
ROOM = 64  # elements of each, but for the long steps


class Holes:
    """Memory of half precision numbers, almost all of it hole.

    Where a kernel takes 2^31 for -2^31, it reads a zero; on a GPU it reads
    outside, and fails.
    """

    def __init__(self, folder: Path) -> None:
        self.first, self.used = HALF, 0
        if torch.cuda.is_available():
            self.first, self.memory = 0, _on_a_gpu()
        else:
            self.memory = torch.from_file(
                str(folder / "holes"),
                shared=True,
                size=2 * HALF + PLACES * ROOM,
                dtype=torch.float16,
            )

    def far(self, values: Tensor, axis: int) -> Tensor:
        """The same, with two steps along the axis to go 2^31 numbers."""
        shape = [*values.shape]
        assert shape[axis] == 3
        shape[axis] = 1
        strides = [*torch.empty(shape).stride()]
        strides[axis] = HALF // 2
        assert self.used < PLACES
        assert values.numel() <= 3 * ROOM
        far = self.memory.as_strided(
            values.shape, strides, self.first + ROOM * self.used
        )
        self.used += 1
        return far.copy_(values)


@functools.cache
def _on_a_gpu() -> Tensor:
    """Once in each process, since several may share the GPU."""
    size = HALF + PLACES * ROOM
    return torch.zeros(size, dtype=torch.float16, device="cuda")
