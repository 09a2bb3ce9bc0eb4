"""Transformers: attention and MLPs, and tokens in and out.

``TransformerLM`` is the decoder-only one that writes on; ``EncoderDecoder``
the first one, which reads with one half and writes with the other.

Source: Vaswani et al. 2017 (arXiv 1706.03762).
See: the chapter ``transformer-cost``.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mambaviz.models import sampling
from mambaviz.models.attention import (
    INSIDE,
    KVCache,
    Mask,
    MultiHeadAttention,
    Positions,
    Token,
    Values,
)
from mambaviz.models.checks import (
    expect_count,
    expect_divides,
    expect_ids,
    expect_mask,
    expect_one_of,
    expect_sequence,
    expect_states,
    expect_token_id,
)
from mambaviz.models.positions import sinusoids

POSITIONS = (*INSIDE, "learned", "sinusoidal")
WEIGHT_STD = 0.02

Ids = Int[Tensor, "batch length"]
# True where a token may look at one of the source.
SourceMask = Bool[Tensor, "#batch #n_heads #length #source"]
# True at a token, False at padding.
Padding = Bool[Tensor, "batch length"]


class TransformerBlock(nn.Module):
    """One layer of a Transformer, with a norm before each part.

        x = x + attention(norm(x))
        x = x + cross_attention(norm(x), context)      only where cross
        x = x + mlp(norm(x)),    mlp(x) = W_2 gelu(W_1 x)

    With the usual mlp_ratio of 4, and without cross, its matrices hold
    12 d_model^2 numbers.

    Args:
        d_model, n_heads, n_kv_heads, bias, positions, causal, backend: see
            ``MultiHeadAttention``.
        mlp_ratio: hidden width of the MLP over d_model; 0 for no MLP.
        cross: whether it also looks at another sequence.
        dropout: share of each part's output that training drops.

    Raises:
        ValueError: as ``MultiHeadAttention``.
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
        mlp_ratio: int = 4,
        cross: bool = False,
        dropout: float = 0.0,
        backend: str = "torch",
    ) -> None:
        super().__init__()
        common = {"n_kv_heads": n_kv_heads, "bias": bias, "backend": backend}
        self.norm = nn.LayerNorm(d_model)
        self.attention = MultiHeadAttention(
            d_model, n_heads, positions=positions, causal=causal, **common
        )
        self.cross_attention = self.mlp = None
        if cross:
            self.cross_norm = nn.LayerNorm(d_model)
            self.cross_attention = MultiHeadAttention(
                d_model, n_heads, causal=False, **common
            )
        if mlp_ratio:
            d_hidden = mlp_ratio * d_model
            self.mlp_norm = nn.LayerNorm(d_model)
            self.mlp = nn.Sequential(
                nn.Linear(d_model, d_hidden, bias=bias),
                nn.GELU(),
                nn.Linear(d_hidden, d_model, bias=bias),
            )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Values,
        state: KVCache | None = None,
        return_state: bool = False,
        *,
        mask: Mask | None = None,
        positions: Positions | None = None,
        context: KVCache | None = None,
        context_mask: SourceMask | None = None,
    ) -> Values | tuple[Values, KVCache]:
        """The layer over a sequence.

        Args:
            x, state, return_state, mask, positions: as in
                ``MultiHeadAttention``.
            context: keys and values that its cross-attention looks at.
            context_mask: True where it may.

        Returns:
            The residual stream after it, and the cache if asked for.

        Raises:
            ValueError: another shape; a context without cross-attention, or
                the other way round.
        """
        expect_sequence(x, self.attention.d_model)
        if (context is None) != (self.cross_attention is None):
            raise ValueError(
                "a block with cross-attention needs a context, and only such "
                f"a block; got {'none' if context is None else 'one'}"
            )
        y, state = self.attention(
            self.norm(x), state, True, mask=mask, positions=positions
        )
        x = x + self.dropout(y)
        if self.cross_attention is not None:
            y = self.cross_attention(
                self.cross_norm(x), context=context, mask=context_mask
            )
            x = x + self.dropout(y)
        if self.mlp is not None:
            x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return (x, state) if return_state else x

    def step(self, x: Token, state: KVCache) -> tuple[Token, KVCache]:
        """One token more.

        Args:
            x: the token; with cross-attention there is no single step.
            state: the cache of the tokens before it; it stays as it is.

        Returns:
            The token after this layer, and a cache longer by one.
        """
        y, state = self(x[:, None], state, True)
        return y[:, 0], state

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """An empty cache, see ``MultiHeadAttention.initial_state``."""
        return self.attention.initial_state(batch, device, dtype)


class TokenEmbedding(nn.Embedding):
    """A vector for each token, and where asked for, one for its position.

    Args:
        vocab_size: different tokens.
        d_model: width of the vectors.
        positions: "learned" or "sinusoidal" adds a vector for the position;
            any other of ``POSITIONS`` leaves that to attention.
        max_length: how many positions are learned.
    """

    def __init__(
        self, vocab_size: int, d_model: int, positions: str, max_length: int
    ) -> None:
        expect_one_of("positions", positions, POSITIONS)
        super().__init__(vocab_size, d_model)
        self.positions = positions
        if positions == "learned":
            self.position = nn.Embedding(max_length, d_model)
        elif positions == "sinusoidal":
            expect_divides("2, sine and cosine,", 2, "d_model", d_model)

    def forward(
        self, ids: Ids, positions: Int[Tensor, "#batch length"]
    ) -> Values:
        """The first content of the residual stream.

        Raises:
            ValueError: no token, one that the model does not have (looked
                for on a CPU only), a position that was not learned.
        """
        expect_ids(ids, self.num_embeddings)
        x = super().forward(ids)
        match self.positions:
            case "learned":
                known = self.position.num_embeddings
                if positions.numel() and int(positions.max()) >= known:
                    raise ValueError(
                        f"only {known} positions are learned, 0 to "
                        f"{known - 1}; got position {int(positions.max())}"
                    )
                return x + self.position(positions)
            case "sinusoidal":
                # The tokens are scaled to the size of the sinusoids, as in
                # Vaswani et al., section 3.4.
                d_model = self.embedding_dim
                place = sinusoids(positions, d_model).to(x.dtype)
                return math.sqrt(d_model) * x + place
        return x

    def first_values(self) -> None:
        """Small random vectors; where they are scaled, of size 1 then."""
        scaled = self.positions == "sinusoidal"
        std = self.embedding_dim**-0.5 if scaled else WEIGHT_STD
        nn.init.normal_(self.weight, std=std)
        if self.positions == "learned":
            nn.init.normal_(self.position.weight, std=WEIGHT_STD)


class TransformerState(NamedTuple):
    """What a ``TransformerLM`` remembers: everything, token by token."""

    caches: tuple[KVCache, ...]  # one for each layer
    mask: Bool[Tensor, "batch keys"] | None  # False at padding


class TransformerLM(nn.Module):
    """A decoder-only Transformer: tokens in, a guess at each next one out.

        x = embedding(ids)
        x = block(x)                 n_layers times, causal
        logits = lm_head(norm(x))

    Without MLP, of 2 layers, d_model 128, 8 heads and 16 tokens, it is the
    "MHA" of the Mamba paper's table 2: 136,960 parameters ("137K") with
    rope, xpos or sinusoidal positions; learned ones would add 128 for each.

    Args:
        vocab_size: different tokens.
        d_model: width of the residual stream.
        n_layers: blocks.
        n_heads, n_kv_heads, mlp_ratio, bias, dropout, backend: see
            ``TransformerBlock``.
        positions: "learned", "sinusoidal", "rope", "xpos" or "none".
        max_length: of learned positions only; the others have no limit.
        tie_embeddings: whether lm_head and embedding are one matrix.

    Raises:
        ValueError: as ``MultiHeadAttention``.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_layers: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        positions: str = "rope",
        max_length: int = 1024,
        mlp_ratio: int = 4,
        bias: bool = True,
        tie_embeddings: bool = True,
        dropout: float = 0.0,
        backend: str = "torch",
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(
            vocab_size, d_model, positions, max_length
        )
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            TransformerBlock(
                d_model,
                n_heads,
                n_kv_heads=n_kv_heads,
                positions=_inside(positions),
                mlp_ratio=mlp_ratio,
                bias=bias,
                dropout=dropout,
                backend=backend,
            )
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        _first_values(self)
        if tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    def forward(
        self,
        ids: Ids,
        state: TransformerState | None = None,
        return_state: bool = False,
        *,
        mask: Padding | None = None,
        last_only: bool = False,
    ) -> (
        Float[Tensor, "batch _length vocab_size"]
        | tuple[Float[Tensor, "batch _length vocab_size"], TransformerState]
    ):
        """What the model expects after each token.

        Args:
            ids: tokens, below vocab_size.
            state: of the tokens before; none if None.
            return_state: whether to return the state that includes these.
            mask: False at padding: the tokens of a row then give what they
                would give without it. The state remembers it.
            last_only: whether to give the last position only, (batch, 1,
                vocab_size), which of a prompt is all that one needs.

        Returns:
            Logits, and the state if asked for.

        Raises:
            ValueError: a token that the model does not have (looked for on
                a CPU only), a state or mask that does not fit, a position
                that was not learned.
        """
        before = [None] * len(self.layers) if state is None else state.caches
        expect_states(before, self.layers)
        past = 0 if state is None else before[0].length
        mask = _grown(None if state is None else state.mask, past, ids, mask)
        positions = _counted(mask, past + ids.shape[1], ids.device)
        x = self.embedding(ids, positions[:, -ids.shape[1] :])
        x = self.dropout(x)
        caches = []
        for layer, cache in zip(self.layers, before, strict=True):
            x, cache = layer(
                x, cache, True, mask=_of_keys(mask), positions=positions
            )
            caches.append(cache)
        x = x[:, -1:] if last_only else x
        logits = self.lm_head(self.norm(x))
        state = TransformerState(tuple(caches), mask)
        return (logits, state) if return_state else logits

    def step(
        self, ids: Int[Tensor, " batch"], state: TransformerState
    ) -> tuple[Float[Tensor, "batch vocab_size"], TransformerState]:
        """One token more.

        Args:
            ids: that token of each sequence.
            state: of the tokens before it; it stays as it is.

        Returns:
            The logits after it, and a state that includes it.

        Raises:
            ValueError: as ``forward``.
        """
        logits, state = self(ids[:, None], state, True)
        return logits[:, 0], state

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TransformerState:
        """The state before any token: empty caches.

        Args:
            batch: sequences.
            device: that of the weights if None.
            dtype: that of the weights if None.
        """
        caches = (
            layer.initial_state(batch, device, dtype) for layer in self.layers
        )
        return TransformerState(tuple(caches), None)

    def generate(
        self,
        ids: Ids,
        max_new_tokens: int,
        temperature: int | float = 0.0,
        top_k: int | None = None,
        top_p: int | float | None = None,
        generator: torch.Generator | None = None,
        on_token: Callable[[Tensor], object] | None = None,
        *,
        mask: Padding | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """The prompts and what follows.

        Args:
            ids: the prompts, at least one token each.
            max_new_tokens: how many tokens to add; 0 returns the prompts.
            temperature, top_k, top_p, generator: see ``choose_token``.
            on_token: called after each step with a copy of its tokens,
                (batch,).
            mask: False at the padding of shorter prompts, which comes before
                them.

        Raises:
            ValueError: as ``sampling.generate``.
        """
        return sampling.generate(
            self,
            ids,
            max_new_tokens,
            temperature,
            top_k,
            top_p,
            generator,
            on_token,
            mask=mask,
            vocab_size=self.embedding.num_embeddings,
        )


class DecoderState(NamedTuple):
    """What a decoder needs for its next token."""

    caches: tuple[KVCache, ...]  # of the target so far, one for each layer
    contexts: tuple[KVCache, ...]  # of the source, one for each layer
    source_mask: Bool[Tensor, "batch source"] | None
    target_mask: Bool[Tensor, "batch keys"] | None


class EncoderDecoder(nn.Module):
    """The first Transformer: one half reads, the other writes.

        memory = norm(encoder(source))        each token sees all of them
        logits = lm_head(norm(decoder(target, memory)))

    Three masks are at work: none in the encoder but padding, causal among
    the target's tokens, and target by source, L x M, in between.

    Args:
        source_vocab_size, target_vocab_size: different tokens of each side.
        d_model, n_heads, mlp_ratio, bias, dropout, backend: see
            ``TransformerBlock``.
        n_layers: of each half.
        positions, max_length: see ``TransformerLM``.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.1; there the
        norms stand behind the parts, here before them.
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        d_model: int,
        n_layers: int,
        n_heads: int,
        *,
        positions: str = "sinusoidal",
        max_length: int = 1024,
        mlp_ratio: int = 4,
        bias: bool = True,
        dropout: float = 0.0,
        backend: str = "torch",
    ) -> None:
        super().__init__()

        def half(cross: bool) -> nn.ModuleList:
            return nn.ModuleList(
                TransformerBlock(
                    d_model,
                    n_heads,
                    positions=_inside(positions),
                    causal=cross,
                    cross=cross,
                    mlp_ratio=mlp_ratio,
                    bias=bias,
                    dropout=dropout,
                    backend=backend,
                )
                for _ in range(n_layers)
            )

        self.source_embedding = TokenEmbedding(
            source_vocab_size, d_model, positions, max_length
        )
        self.target_embedding = TokenEmbedding(
            target_vocab_size, d_model, positions, max_length
        )
        self.dropout = nn.Dropout(dropout)
        self.encoder, self.decoder = half(cross=False), half(cross=True)
        self.encoder_norm = nn.LayerNorm(d_model)
        self.decoder_norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, target_vocab_size, bias=False)
        _first_values(self)

    def forward(
        self,
        source: Int[Tensor, "batch source"],
        target: Int[Tensor, "batch target"],
        *,
        source_mask: Bool[Tensor, "batch source"] | None = None,
        target_mask: Bool[Tensor, "batch target"] | None = None,
    ) -> Float[Tensor, "batch target vocab_size"]:
        """What is expected after each token of the target.

        Args:
            source: the tokens to read.
            target: those to write, shifted: it begins with a start token.
            source_mask, target_mask: False at padding.

        Returns:
            Logits.

        Raises:
            ValueError: a token that the model does not have (looked for on
                a CPU only), a mask that does not fit, a position that was
                not learned.
        """
        state = self.read(source, source_mask)
        return self.write(target, state, target_mask)[0]

    def encode(
        self,
        source: Int[Tensor, "batch source"],
        mask: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch source d_model"]:
        """The features of the source, each token having seen all.

        Args:
            source: the tokens to read.
            mask: False at padding.

        Raises:
            ValueError: as ``forward``.
        """
        expect_mask(mask, source.shape)
        positions = _counted(mask, source.shape[1], source.device)
        x = self.dropout(self.source_embedding(source, positions))
        for layer in self.encoder:
            x = layer(x, mask=_of_keys(mask), positions=positions)
        return self.encoder_norm(x)

    def read(
        self,
        source: Int[Tensor, "batch source"],
        mask: Bool[Tensor, "batch source"] | None = None,
    ) -> DecoderState:
        """The state before the first target token: the source, read once.

        Arguments and errors are those of ``encode``.
        """
        memory = self.encode(source, mask)
        batch, device = memory.shape[0], memory.device
        return DecoderState(
            tuple(
                layer.initial_state(batch, device, memory.dtype)
                for layer in self.decoder
            ),
            tuple(
                layer.cross_attention.remember(memory)
                for layer in self.decoder
            ),
            mask,
            None,
        )

    def write(
        self,
        target: Int[Tensor, "batch target"],
        state: DecoderState,
        mask: Bool[Tensor, "batch target"] | None = None,
    ) -> tuple[Float[Tensor, "batch target vocab_size"], DecoderState]:
        """More target tokens.

        Args:
            target: these tokens.
            state: of the source and of the target's tokens before; it stays
                as it is.
            mask: False at padding among these tokens.

        Returns:
            The logits after each, and a state that includes them.

        Raises:
            ValueError: as ``forward``.
        """
        length, past = target.shape[1], state.caches[0].length
        mask = _grown(state.target_mask, past, target, mask)
        positions = _counted(mask, past + length, target.device)
        x = self.target_embedding(target, positions[:, -length:])
        x = self.dropout(x)
        caches = []
        for layer, cache, context in zip(
            self.decoder, state.caches, state.contexts, strict=True
        ):
            x, cache = layer(
                x,
                cache,
                True,
                mask=_of_keys(mask),
                positions=positions,
                context=context,
                context_mask=_of_keys(state.source_mask),
            )
            caches.append(cache)
        logits = self.lm_head(self.decoder_norm(x))
        state = state._replace(caches=tuple(caches), target_mask=mask)
        return logits, state

    @torch.no_grad()
    def translate(
        self,
        source: Int[Tensor, "batch source"],
        start: int,
        end: int,
        max_new_tokens: int,
        *,
        source_mask: Bool[Tensor, "batch source"] | None = None,
    ) -> Int[Tensor, "batch target"]:
        """The likeliest next token, again and again, until all rows end.

        Args:
            source: the tokens to read.
            start: the token that every target begins with.
            end: the token that ends one; it also fills up shorter rows.
            max_new_tokens: when to stop at the latest.
            source_mask: False at padding.

        Returns:
            The targets, without the start token.

        Raises:
            ValueError: a start or end that is no token of the target's
                vocabulary, a max_new_tokens that is no integer or negative,
                and as ``forward``.
        """
        for name, token in (("start", start), ("end", end)):
            expect_token_id(name, token, self.target_embedding.num_embeddings)
        expect_count("max_new_tokens", max_new_tokens)
        with sampling.evaluating(self):
            state = self.read(source, source_mask)
            ids = source.new_full((len(source), 1), start)
            ended = torch.zeros_like(ids, dtype=torch.bool)
            written = []
            for _ in range(max_new_tokens):
                logits, state = self.write(ids, state)
                ids = logits.argmax(-1).masked_fill(ended, end)
                written.append(ids)
                ended = ended | (ids == end)
                if ended.all():
                    break
        return torch.cat(written, 1) if written else source[:, :0]


def _grown(
    before: Tensor | None, past: int, ids: Tensor, mask: Tensor | None
) -> Tensor | None:
    """The padding mask of all tokens so far; None while there was none."""
    expect_mask(mask, ids.shape)
    if before is None and mask is None:
        return None
    tokens = torch.ones_like(ids, dtype=torch.bool)
    before = tokens[:, :1].expand(-1, past) if before is None else before
    return torch.cat([before, tokens if mask is None else mask], 1)


def _counted(mask: Tensor | None, length: int, device: torch.device) -> Tensor:
    """The position of each token: how many tokens of its row come before."""
    if mask is None:
        return torch.arange(length, device=device)[None]
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def _of_keys(mask: Tensor | None) -> Tensor | None:
    """The same keys for all heads and queries."""
    return None if mask is None else mask[:, None, None]


def _inside(positions: str) -> str:
    """What attention itself must know of the positions."""
    return positions if positions in INSIDE else "none"


def _first_values(model: nn.Module) -> None:
    """As GPT-2: small weights, no biases, smaller on the way back.

    The projections into the residual stream are divided by the square root
    of their number, so that their sum keeps its size.

    Source: Radford et al. 2019 (GPT-2), section 2.3.
    """
    back = [
        linear
        for block in model.modules()
        if isinstance(block, TransformerBlock)
        for linear in _back(block)
    ]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=WEIGHT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, TokenEmbedding):
            module.first_values()
    for linear in back:
        nn.init.normal_(linear.weight, std=WEIGHT_STD / math.sqrt(len(back)))


def _back(block: TransformerBlock) -> list[nn.Linear]:
    """The projections of a block whose output is added to the stream."""
    found = [block.attention.out_proj]
    if block.cross_attention is not None:
        found.append(block.cross_attention.out_proj)
    if block.mlp is not None:
        found.append(block.mlp[-1])
    return found
