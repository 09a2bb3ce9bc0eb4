r"""H3: two SSMs and two products, in the place of attention.

    q, k, v = W_q x, W_k x, W_v x                 split into heads
    y       = W_o ( q SSM_diag( SSM_shift(k) v^T ) )

The shift SSM remembers the last few keys, so that a key can be that of the
token *before* a value. The product with v opens the gate at the tokens that
matter, the diagonal SSM carries what passed, and the product with q takes
out what is asked for: with a fixed A, selection by multiplication.

A, B and C of the shift SSM are a matrix that moves each state one place on,
the first unit vector, and learned:

    h_t = (k_t, k_{t-1}, ..., k_{t-N+1}),    C h_t = sum over j of C_j k_{t-j}

which is a short convolution with the weights C, and is computed as one.

Source: Fu et al. 2023 (arXiv 2212.14052), section 3.1, algorithm 1.
See: the chapter ``selection``.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from mambaviz.models.checks import (
    expect_divides,
    expect_sequence,
    expect_sizes,
    expect_token,
)
from mambaviz.models.s4d import S4D
from mambaviz.ops.causal_conv1d import causal_conv1d, causal_conv1d_step

Values = Float[Tensor, "batch length d_model"]
Token = Float[Tensor, "batch d_model"]


class H3State(NamedTuple):
    """What the layer remembers; its size does not depend on the length."""

    # The last d_state - 1 keys, the newest last.
    shift: Float[Tensor, "batch d_model d_state-1"]
    # For each head one state for each product of a key and a value.
    diagonal: Complex[Tensor, "batch d_head d_head n_heads n_pairs"]


class H3(nn.Module):
    """The H3 layer, with n_heads heads of d_head = d_model / n_heads.

        k_bar_t = SSM_shift(k)_t + D_k k_t
        S_t     = SSM_diag(k_bar v^T)_t        one (d_head, d_head) a head
        y_t     = W_o (q_t^T S_t)

    All d_head^2 products of a head go through one diagonal system, so heads
    cost d_head times as much state and as many fewer parameters.

    It has 4 d_model (d_model + 1) parameters in its projections, d_model
    (d_state + 1) in the shift SSM and n_heads (3 d_state + 2) in the
    diagonal one.

    Args:
        d_model: width of the input and of the output.
        d_state: N, states of both SSMs; even.
        n_heads: divides d_model; d_model if None, which is d_head = 1.
        dt_min, dt_max: the bounds of the diagonal SSM's delta at first.

    Raises:
        ValueError: an argument out of range.

    Source: Fu et al. 2023 (arXiv 2212.14052), algorithm 1. As in the released
        code: S4D-Lin with the bilinear rule, D and D_k normal, C of the shift
        SSM uniform within N^-1/2. There B of the shift SSM is learned too;
        here it stays the unit vector of the paper.

    Example:
        >>> layer = H3(d_model=8, d_state=16, n_heads=2)
        >>> y, state = layer(torch.ones(2, 10, 8), return_state=True)
        >>> state.shift.shape, state.diagonal.shape  # whatever the length
        (torch.Size([2, 8, 15]), torch.Size([2, 4, 4, 2, 8]))
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        n_heads: int | None = None,
        *,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        n_heads = d_model if n_heads is None else n_heads
        expect_sizes(d_model=d_model, d_state=d_state, n_heads=n_heads)
        expect_divides("n_heads", n_heads, "d_model", d_model)
        self.d_model, self.d_state = d_model, d_state
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        bound = 1 / math.sqrt(d_state)
        C = torch.empty(d_model, d_state).uniform_(-bound, bound)
        self.shift_C = nn.Parameter(C)
        self.shift_D = nn.Parameter(torch.randn(d_model))
        self.diagonal = S4D(
            n_heads,
            d_state,
            init="lin",
            rule="bilinear",
            dt_min=dt_min,
            dt_max=dt_max,
        )
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(
        self,
        x: Values,
        state: H3State | None = None,
        return_state: bool = False,
    ) -> Values | tuple[Values, H3State]:
        """The layer over a sequence, both SSMs as convolutions.

        Args:
            x: the input.
            state: what the tokens before left behind; nothing if None.
            return_state: whether to return what these leave behind.

        Returns:
            y, and the state if asked for.

        Raises:
            ValueError: a length of 0, shapes that do not fit.
        """
        expect_sequence(x, self.d_model)
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        shift, diagonal = (None, None) if state is None else state
        k, shift = causal_conv1d(
            k, self._shift_weight(), None, None, shift, True
        )
        kv = self._products(k, v)  # b d e l h
        S = self.diagonal(
            kv.flatten(0, 2),
            None if diagonal is None else diagonal.flatten(0, 2),
            return_state,
        )
        if return_state:
            S, diagonal = S
            diagonal = diagonal.unflatten(0, kv.shape[:3])
        y = self.out_proj(self._ask(q, S.unflatten(0, kv.shape[:3])))
        return (y, H3State(shift, diagonal)) if return_state else y

    def step(self, x: Token, state: H3State) -> tuple[Token, H3State]:
        """One step, both SSMs as recurrences; the given state is kept.

        Args:
            x: the input of this step.
            state: what the tokens before left behind.

        Returns:
            y, and what this token leaves behind.

        Raises:
            ValueError: shapes that do not fit.
        """
        expect_token(x, self.d_model)
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        k, shift = causal_conv1d_step(state.shift, k, self._shift_weight())
        kv = self._products(k[:, None], v[:, None])[..., 0, :]  # b d e h
        S, diagonal = self.diagonal.step(
            kv.flatten(0, 2), state.diagonal.flatten(0, 2)
        )
        S = S.unflatten(0, kv.shape[:3])[..., None, :]  # b d e 1 h
        y = self.out_proj(self._ask(q[:, None], S)[:, 0])
        return y, H3State(shift, diagonal.unflatten(0, kv.shape[:3]))

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> H3State:
        """The state before any input: zeros.

        Args:
            batch: sequences.
            device: that of the weights if None.
            dtype: a real one, that of the weights if None; for the diagonal
                SSM raised to float32 at least and made complex.
        """
        shift = self.shift_C.new_zeros(
            (batch, self.d_model, self.d_state - 1),
            device=device,
            dtype=dtype,
        )
        products = (batch, self.d_head, self.d_head)
        diagonal = self.diagonal.initial_state(
            math.prod(products), device, dtype
        )
        return H3State(shift, diagonal.unflatten(0, products))

    def _shift_weight(self) -> Tensor:
        """C, plus D at the present key; the last weight meets that one."""
        present = nn.functional.pad(
            self.shift_D[:, None], (self.d_state - 1, 0)
        )
        return self.shift_C.flip(-1) + present

    def _products(self, k: Tensor, v: Tensor) -> Tensor:
        """k v^T in each head, heads last, as the diagonal SSM's channels."""
        heads = (self.n_heads, self.d_head)
        k, v = k.unflatten(-1, heads), v.unflatten(-1, heads)
        return torch.einsum("blhd,blhe->bdelh", k, v)

    def _ask(self, q: Tensor, S: Tensor) -> Tensor:
        """q^T S in each head, the heads side by side."""
        q = q.unflatten(-1, (self.n_heads, self.d_head))
        return torch.einsum("blhd,bdelh->blhe", q, S).flatten(2)
