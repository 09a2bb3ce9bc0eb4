"""The Triton kernel of the norm: ``fused.py`` calls it.

    y = weight x / sqrt(mean(x^2) + eps)

One program has one token: it reads it once, adds up the squares, and writes
the token in the precision that comes next. It computes in float32. Which
squares a thread adds, and in which order threads join, the width alone
decides: every run gives the same bits.
"""

import triton
import triton.language as tl


@triton.jit
def normalise(
    x, weight, y, x_row, x_d, w_d, d_model, eps, WIDTH: tl.constexpr
):  # fmt: skip
    """One token of WIDTH features at most."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDTH)
    inside = d < d_model
    far = d.to(tl.int64)  # a step in memory may be long
    v = tl.load(x + row * x_row + far * x_d, inside, 0.0).to(tl.float32)
    w = tl.load(weight + far * w_d, inside, 0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt_rn(tl.sum(v * v, 0) / d_model + eps)
    v = v * scale * w
    tl.store(y + row * d_model + d, v.to(y.dtype.element_ty), inside)
