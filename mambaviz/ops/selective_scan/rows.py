"""Sequences, groups and channels as rows: the layout inside ``chunked``.

A *row* is one group of channels in one sequence; its ``width`` channels see
the same B and C. With time first and channels last,

    x, delta, y     (length, rows, width)
    A, h            (rows, d_state, width)
    B, C            (length, rows, d_state, 1), or fixed, as A

a step of the scan is one operation on memory without gaps, and the sums over
states and over channels are matrix products.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mambaviz.ops.selective_scan.reference import (
    accumulation_dtype,
    with_groups,
)


class Rows(NamedTuple):
    """There and back, and for gradients the sums on the way back."""

    batch: int
    groups: int
    dtype: torch.dtype  # of sequences
    state_dtype: torch.dtype  # of all else; complex if A is

    @classmethod
    def of(
        cls, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor
    ) -> "Rows":
        """The layout for these arguments of a rung."""
        dtype = accumulation_dtype(x, delta, A)
        groups = math.lcm(*(w.shape[2] for w in (B, C) if w.ndim == 4))
        state_dtype = dtype.to_complex() if A.is_complex() else dtype
        return cls(x.shape[0], groups, dtype, state_dtype)

    def sequence(self, x: Tensor) -> Tensor:
        """From batch length d_inner to length rows width."""
        x = x.to(self.dtype).transpose(0, 1)  # length batch d_inner
        return x.reshape(len(x), self.batch * self.groups, -1)

    def unsequence(self, x: Tensor) -> Tensor:
        """From length rows width to batch length d_inner."""
        return x.reshape(len(x), self.batch, -1).transpose(0, 1)

    def state(self, h: Tensor) -> Tensor:
        """From batch d_inner d_state to rows d_state width, never a view."""
        h = h.to(self.state_dtype).unflatten(1, (self.groups, -1))
        h = h.flatten(0, 1).transpose(1, 2)
        return h.clone(memory_format=torch.contiguous_format)

    def unstate(self, h: Tensor) -> Tensor:
        """From rows d_state width to batch d_inner d_state, never a view."""
        h = h.transpose(1, 2).reshape(self.batch, -1, h.shape[1])
        return h.clone(memory_format=torch.contiguous_format)

    def matrix(self, A: Tensor) -> Tensor:
        """From d_inner d_state to rows d_state width."""
        return self.state(A.expand(self.batch, -1, -1))

    def unmatrix(self, grad: Tensor) -> Tensor:
        """From rows d_state width to d_inner d_state, summed over batch."""
        return self.unstate(grad).sum(0)

    def weights(self, B: Tensor) -> Tensor:
        """B or C: length rows d_state 1; fixed, rows d_state width."""
        if B.ndim == 2:
            return self.matrix(B)
        B = with_groups(B).to(self.state_dtype).transpose(0, 1)
        B = B.repeat_interleave(self.groups // B.shape[2], 2)
        return B.reshape(len(B), self.batch * self.groups, -1, 1)

    def mask(self, reset: Tensor) -> Tensor:
        """From batch length to length rows 1 1."""
        return reset.t().repeat_interleave(self.groups, 1)[:, :, None, None]

    def unweights(self, grad: Tensor, B: Tensor) -> Tensor:
        """The gradient of B from that of its rows."""
        if B.ndim == 2:
            return self.unmatrix(grad)
        batch, length, groups, d_state = with_groups(B).shape
        grad = grad.reshape(length, batch, groups, -1, d_state)
        return grad.sum(3).transpose(0, 1).reshape(B.shape)
