"""Numbers that lie so far apart that 32 bits do not hold their distance."""

from pathlib import Path

import torch
from torch import Tensor

HALF = 2**31  # elements


class Holes:
    """Memory of 2^32 numbers in half precision, almost all of it hole.

    Where a kernel takes 2^31 for -2^31, it reads a zero.
    """

    def __init__(self, folder: Path) -> None:
        size, self.used = 2 * HALF + 4096, 0
        if torch.cuda.is_available():
            self.memory = torch.zeros(size, dtype=torch.float16, device="cuda")
        else:
            self.memory = torch.from_file(
                str(folder / "holes"),
                shared=True,
                size=size,
                dtype=torch.float16,
            )

    def far(self, values: Tensor, axis: int) -> Tensor:
        """The same, with two steps along the axis to go 2^31 numbers."""
        shape = [*values.shape]
        assert shape[axis] == 3
        shape[axis] = 1
        strides = [*torch.empty(shape).stride()]
        strides[axis] = HALF // 2
        far = self.memory.as_strided(
            values.shape, strides, HALF + 64 * self.used
        )
        self.used += 1
        return far.copy_(values)
