r"""Attention: each token takes a weighted mean of what others offer.

    y = softmax(q k^T / sqrt(d_head)) v

The matrix of weights is computed in the open by ``attention_weights``. The
fast path, PyTorch's fused operator, never builds it; a test holds the two
together, and ``recorded_weights`` makes any model here take the open path and
hand over its matrices.

What attention remembers of the past is its KV cache: the keys and values of
all earlier tokens. It is the explicit ``state`` of every class here and in
``transformer``, and unlike that of an RNN it grows with each token.

Source: Vaswani et al. 2017 (arXiv 1706.03762), eq. 1.
See: the chapter ``transformer-cost``.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from mambaviz.models.checks import (
    expect_divides,
    expect_one_of,
    expect_sequence,
    expect_token,
)
from mambaviz.models.positions import rotate_pairs, xpos_decay

BACKENDS = ("explicit", "torch")
INSIDE = ("none", "rope", "xpos")  # positions known to attention alone

Values = Float[Tensor, "batch length d_model"]
Token = Float[Tensor, "batch d_model"]
# True where a query may look. It broadcasts over what it leaves out.
Mask = Bool[Tensor, "#batch #n_heads #queries #keys"]
# Of all keys, in their sequence; one row serves all where they agree.
Positions = Int[Tensor, "#batch keys"]


class KVCache(NamedTuple):
    """Keys and values of all tokens so far, (batch, heads, length, d_head)."""

    k: Float[Tensor, "batch n_kv_heads keys d_head"]
    v: Float[Tensor, "batch n_kv_heads keys d_head"]

    @property
    def length(self) -> int:
        """How many tokens it holds."""
        return self.k.shape[-2]

    def append(self, later: "KVCache") -> "KVCache":
        """A longer cache; this one stays as it is.

        The copy reads no more than the next token's attention does anyway.

        Raises:
            ValueError: caches that differ in more than their length.
        """
        here, there = (
            (*cache.k.shape[:2], cache.k.shape[3]) for cache in (self, later)
        )
        if here != there:
            raise ValueError(
                "a cache must have the shape (batch, heads, length, d_head), "
                f"here {there} but for the length; got {tuple(self.k.shape)}"
            )
        pairs = zip(self, later, strict=True)
        return KVCache(*(torch.cat(pair, dim=-2) for pair in pairs))


def causal_mask(
    queries: int, keys: int, device: torch.device | None = None
) -> Bool[Tensor, "queries keys"]:
    """Which keys each query may see: its own token and those before it.

    The queries are the *last* tokens among the keys, as with a cache.

    Example:
        >>> causal_mask(2, 3).int()
        tensor([[1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    every = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return every.tril(keys - queries)


def attention_weights(
    q: Float[Tensor, "batch n_heads queries d_head"],
    k: Float[Tensor, "batch n_heads keys d_head"],
    mask: Mask | None = None,
    causal: bool = False,
) -> Float[Tensor, "batch n_heads queries keys"]:
    """How much each query takes from each key.

        weights = softmax(q k^T / sqrt(d_head))

    Args:
        q: queries.
        k: keys.
        mask: True where a query may look; all True if None.
        causal: allow only keys up to the query's own, see ``causal_mask``.

    Returns:
        Rows that sum to 1; a row that may look nowhere is all zeros.
    """
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    mask = _joined(mask, causal, scores.shape[-2], scores.shape[-1], q.device)
    if mask is None:
        return scores.softmax(dim=-1)
    # The lowest number instead of -inf: a row without a key then has a
    # softmax and a gradient, and the second fill makes both zero.
    lowest = torch.finfo(scores.dtype).min
    weights = scores.masked_fill(~mask, lowest).softmax(dim=-1)
    return weights.masked_fill(~mask, 0)


def scaled_dot_product_attention(
    q: Float[Tensor, "batch n_heads queries d_head"],
    k: Float[Tensor, "batch n_heads keys d_head"],
    v: Float[Tensor, "batch n_heads keys d_value"],
    mask: Mask | None = None,
    causal: bool = False,
    backend: str = "explicit",
) -> Float[Tensor, "batch n_heads queries d_value"]:
    """Each query's mean of the values, weighted by its attention.

        y = softmax(q k^T / sqrt(d_head)) v

    Args:
        q, k, mask, causal: as in ``attention_weights``.
        v: values, one per key.
        backend: ``explicit`` builds the matrix; ``torch`` calls the fused
            operator of PyTorch, which does not.

    Returns:
        One vector per query; zeros where it may look nowhere.

    Raises:
        ValueError: an unknown backend.
    """
    match backend:
        case "explicit":
            return attention_weights(q, k, mask, causal) @ v
        case "torch":
            queries, keys = q.shape[-2], k.shape[-2]
            # PyTorch lines up the *first* query with the first key, and
            # takes its fastest kernels only when there is no mask tensor.
            square = causal and mask is None and queries == keys
            if not square:
                mask = _joined(mask, causal, queries, keys, q.device)
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=square
            )
    raise ValueError(f"backend must be one of {BACKENDS}; got {backend!r}")


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each over its own share of d_model.

        q, k, v = W_q x, W_k x, W_v x        split into heads
        y = W_o concat over heads of softmax(q k^T / sqrt(d_head)) v

    Args:
        d_model: width of the input and the output.
        n_heads: divides d_model; d_head = d_model / n_heads.
        n_kv_heads: divides n_heads; each key-value head then serves
            n_heads / n_kv_heads query heads, and the cache is smaller by
            that factor. As many as n_heads if None.
        bias: whether the four projections add one.
        positions: "none", "rope" or "xpos".
        causal: whether a token may look at itself and earlier ones only.
        backend: see ``scaled_dot_product_attention``.

    Raises:
        ValueError: numbers that do not divide, an unknown name.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.2; grouped
        heads from Ainslie et al. 2023 (arXiv 2305.13245).
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        bias: bool = True,
        positions: str = "none",
        causal: bool = True,
        backend: str = "torch",
    ) -> None:
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        expect_divides("n_heads", n_heads, "d_model", d_model)
        expect_divides("n_kv_heads", n_kv_heads, "n_heads", n_heads)
        expect_one_of("positions", positions, INSIDE)
        expect_one_of("backend", backend, BACKENDS)
        d_head = d_model // n_heads
        if positions != "none":
            expect_divides(
                "2, as features turn in pairs,", 2, "d_head", d_head
            )
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.d_model, self.d_head = d_model, d_head
        self.positions, self.causal, self.backend = positions, causal, backend
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, n_kv_heads * d_head, bias=bias)
        self.v_proj = nn.Linear(d_model, n_kv_heads * d_head, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)
        # Where ``recorded_weights`` collects the matrices.
        self.recorder: list[Tensor] | None = None

    def forward(
        self,
        x: Values,
        state: KVCache | None = None,
        return_state: bool = False,
        *,
        mask: Mask | None = None,
        positions: Positions | None = None,
        context: KVCache | None = None,
    ) -> Values | tuple[Values, KVCache]:
        """Attend from each token of x.

        Args:
            x: the tokens that ask.
            state: the cache of the tokens before x.
            return_state: whether to return the cache that includes x.
            mask: True where a token may look, over all keys, cached ones
                included; joined with the causal mask.
            positions: of all keys, of which the last are those of x;
                0, 1, 2 ... if None.
            context: keys and values of another sequence, to look at instead
                of x and the state (cross-attention); see ``remember``.

        Returns:
            y, and the cache if asked for; with a context, that one.

        Raises:
            ValueError: a length of 0, a width or a cache that does not fit.
        """
        expect_sequence(x, self.d_model)
        length = x.shape[1]
        if positions is None:
            keys = length + (0 if state is None else state.length)
            positions = torch.arange(keys, device=x.device)[None]
        q = self._heads(self.q_proj(x))  # b h l d_head
        if self.positions != "none":
            q = rotate_pairs(q, positions[:, -length:])
        cache = context
        if context is None:
            cache = self.remember(x, positions[:, -length:])
            cache = cache if state is None else state.append(cache)
        k, v = cache
        if self.positions == "xpos":
            q, k = self._fade(q, k, positions)
        served = self.n_heads // self.n_kv_heads
        y = self._attend(
            q,
            k.repeat_interleave(served, dim=1),
            v.repeat_interleave(served, dim=1),
            mask,
            self.causal and context is None,
        )
        y = self.out_proj(y.transpose(1, 2).flatten(2))  # b l d_model
        return (y, cache) if return_state else y

    def step(self, x: Token, state: KVCache) -> tuple[Token, KVCache]:
        """One token more: its own query, over the grown cache.

        Args:
            x: the token.
            state: the cache of the tokens before it; it stays as it is.

        Returns:
            y, and a cache longer by one.

        Raises:
            ValueError: a width or a cache that does not fit.
        """
        expect_token(x, self.d_model)
        y, state = self(x[:, None], state, True)
        return y[:, 0], state

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """An empty cache.

        Args:
            batch: sequences.
            device: that of the weights if None.
            dtype: that of the weights if None.
        """
        shape = batch, self.n_kv_heads, 0, self.d_head
        weight = self.k_proj.weight
        empty = weight.new_empty(shape, device=device, dtype=dtype)
        return KVCache(empty, empty)

    def remember(
        self, x: Values, positions: Positions | None = None
    ) -> KVCache:
        """The keys and values of x.

        Args:
            x: the tokens.
            positions: of each in its sequence; 0, 1, 2 ... if None.

        Raises:
            ValueError: a length of 0, a width that does not fit.
        """
        expect_sequence(x, self.d_model)
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        k = self._heads(self.k_proj(x))
        if self.positions != "none":
            k = rotate_pairs(k, positions)
        return KVCache(k, self._heads(self.v_proj(x)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.d_head)).transpose(1, 2)

    def _fade(
        self, q: Tensor, k: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The decay of xPos, counted from the middle of the queries.

        Only differences matter. Counted from there, scores stay within
        float32 for 30,000 queries at once, and keys are cached as they are,
        since their factor would change with every token.
        """
        positions = positions.to(torch.promote_types(q.dtype, torch.float32))
        asking = positions[:, -q.shape[-2] :]
        middle = (asking[:, :1] + asking[:, -1:]) / 2
        q_decay = xpos_decay(asking - middle, self.d_head)[:, None]
        k_decay = xpos_decay(middle - positions, self.d_head)[:, None]
        return q * q_decay.to(q.dtype), k * k_decay.to(k.dtype)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        causal: bool,
    ) -> Tensor:
        if self.recorder is None:
            return scaled_dot_product_attention(
                q, k, v, mask, causal, self.backend
            )
        weights = attention_weights(q, k, mask, causal)
        self.recorder.append(weights.detach())
        return weights @ v


@contextmanager
def recorded_weights(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """While open, every attention in the model keeps its matrices.

        with recorded_weights(model) as weights:
            model(ids)
        weights["layers.0.attention"][0]  # batch n_heads queries keys

    Args:
        model: any module; the attentions in it take the explicit path.

    Yields:
        For each attention, by its name in the model, one matrix per call.
    """
    attentions = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, MultiHeadAttention)
    }
    weights: dict[str, list[Tensor]] = {name: [] for name in attentions}
    for name, attention in attentions.items():
        attention.recorder = weights[name]
    try:
        yield weights
    finally:
        for attention in attentions.values():
            attention.recorder = None


def _joined(
    mask: Tensor | None,
    causal: bool,
    queries: int,
    keys: int,
    device: torch.device,
) -> Tensor | None:
    """Both masks as one; None where everyone may look everywhere."""
    if not causal or queries == 1:  # the last token sees all before it
        return mask
    before = causal_mask(queries, keys, device)
    return before[None, None] if mask is None else before & mask
