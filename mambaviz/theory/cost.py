r"""What attention and state space models cost, counted exactly.

Everything here is a whole number: of scores, floating-point operations,
parameters, elements or bytes. A count of parameters or of memory traffic is
the total of a *ledger*, a list of named tensors, so that a page can print
what was counted.

Sizes are those of one sequence and of one layer unless an argument says
otherwise. "Full" attention has as many key and value heads as query heads.

See: the chapters ``transformer-cost`` and ``hardware-aware-scan``.
"""

import math
from typing import NamedTuple

from mambaviz.theory.checks import expect_whole


class LedgerEntry(NamedTuple):
    """One line of a ledger: a tensor, and how many times it counts.

    Args:
        name: what it is.
        shape: its axes.
        times: how many there are, or how often it is moved.

    Example:
        >>> LedgerEntry("in_proj.weight", (3072, 768), times=24).count
        56623104
    """

    name: str
    shape: tuple[int, ...]
    times: int = 1

    @property
    def count(self) -> int:
        """How many elements, all times together."""
        return math.prod(self.shape) * self.times


Ledger = list[LedgerEntry]


def ledger_total(ledger: Ledger) -> int:
    """The sum of a ledger, in elements.

    Example:
        >>> weight = LedgerEntry("weight", (3, 4))
        >>> ledger_total([weight, LedgerEntry("bias", (3,), times=2)])
        18
    """
    return sum(entry.count for entry in ledger)


def scores_with_cache(length: int) -> int:
    """Attention scores that one head computes over a whole sequence.

        sum of t for t = 1 to L = L (L + 1) / 2

    Token t is compared with itself and the t - 1 before it. So many too are
    the pairs of a causal attention matrix in training, where all of them are
    computed at once.

    Args:
        length: tokens, at least 0.

    Raises:
        TypeError: a count that is no int.
        ValueError: one that is too small, here below 0. All counts raise
            these.

    Example:
        >>> scores_with_cache(1000)
        500500
    """
    expect_whole(0, length=length)
    return length * (length + 1) // 2


def scores_without_cache(length: int) -> int:
    """Scores when each new token computes the whole triangle once more.

        sum of t (t + 1) / 2 for t = 1 to L = L (L + 1) (L + 2) / 6

    That is (L + 2) / 3 times as many as with a cache. Argument and errors: as
    in ``scores_with_cache``.

    Example:
        >>> scores_without_cache(1000)
        167167000
    """
    expect_whole(0, length=length)
    return length * (length + 1) * (length + 2) // 6


def state_updates(length: int) -> int:
    """Updates of the state h_t = A_bar h_{t-1} + B_bar x_t: one a token.

    Argument and errors: as in ``scores_with_cache``.
    """
    expect_whole(0, length=length)
    return length


def attention_flops(scores: int, d_model: int) -> int:
    """Operations to compute scores and use them, all heads of a layer.

        q . k and its share of the sum of v: 2 d_model + 2 d_model each

    A multiplication and an addition are two operations. The softmax is left
    out.

    Args:
        scores: of one head, such as ``scores_with_cache(length)``; at least 0.
        d_model: of all heads together.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``; d_model < 1.
    """
    expect_whole(0, scores=scores)
    expect_whole(1, d_model=d_model)
    return 4 * d_model * scores


def transformer_layer_weights(d_model: int) -> int:
    """The elements of a Transformer layer's matrices.

        4 D^2 (query, key, value, output) + 8 D^2 (D -> 4 D -> D) = 12 D^2

    Norms and biases are left out.

    Args:
        d_model: D, at least 1.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``.
    """
    expect_whole(1, d_model=d_model)
    return 12 * d_model**2


def mamba_block_weights(d_model: int, expand: int = 2) -> int:
    """The elements of a Mamba block's two large matrices, E = expand.

        2 E D^2 (in_proj: D -> 2 E D) + E D^2 (out_proj: E D -> D) = 3 E D^2

    With E = 2, two blocks have the 12 D^2 of one Transformer layer.

    Args:
        d_model: D, at least 1.
        expand: E = d_inner / d_model, at least 1.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``.
    """
    expect_whole(1, d_model=d_model, expand=expand)
    return 3 * expand * d_model**2


def linear_flops(weights: int) -> int:
    """Operations per token of matrices with so many elements: two for each.

    Args:
        weights: elements, such as ``mamba_block_weights(768)``; at least 0.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``.

    Example:
        >>> linear_flops(transformer_layer_weights(768)) == 24 * 768**2
        True
    """
    expect_whole(0, weights=weights)
    return 2 * weights


def mamba_parameters(
    d_model: int,
    n_layers: int,
    vocab_size: int,
    d_state: int = 16,
    d_conv: int = 4,
    expand: int = 2,
    dt_rank: int | None = None,
    vocab_multiple: int = 8,
) -> Ledger:
    """Every parameter of a Mamba language model, under its official name.

    The output shares its matrix with the embedding.

    Args:
        d_model, n_layers, d_state, d_conv, expand: of the model.
        vocab_size: is rounded up to a multiple of ``vocab_multiple``.
        dt_rank: d_model / 16, rounded up, if None.
        vocab_multiple: 8 in the released models.

    Returns:
        The ledger; ``times`` is n_layers for what each layer has.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``; any size below 1.

    Example:
        >>> ledger_total(mamba_parameters(768, 24, 50277))  # mamba-130m
        129135360
    """
    expect_whole(1, d_model=d_model, n_layers=n_layers, expand=expand)
    expect_whole(1, d_state=d_state, d_conv=d_conv, vocab_size=vocab_size)
    expect_whole(1, vocab_multiple=vocab_multiple)
    dt_rank = -(-d_model // 16) if dt_rank is None else dt_rank
    expect_whole(1, dt_rank=dt_rank)
    d_inner = expand * d_model
    vocab_size = -(-vocab_size // vocab_multiple) * vocab_multiple
    layer = {
        "norm.weight": (d_model,),
        "mixer.in_proj.weight": (2 * d_inner, d_model),
        "mixer.conv1d.weight": (d_inner, 1, d_conv),
        "mixer.conv1d.bias": (d_inner,),
        "mixer.x_proj.weight": (dt_rank + 2 * d_state, d_inner),
        "mixer.dt_proj.weight": (d_inner, dt_rank),
        "mixer.dt_proj.bias": (d_inner,),
        "mixer.A_log": (d_inner, d_state),
        "mixer.D": (d_inner,),
        "mixer.out_proj.weight": (d_model, d_inner),
    }
    return [
        LedgerEntry("embedding.weight", (vocab_size, d_model)),
        *(LedgerEntry(name, shape, n_layers) for name, shape in layer.items()),
        LedgerEntry("norm_f.weight", (d_model,)),
    ]


def transformer_parameters(
    d_model: int, n_layers: int, vocab_size: int, context: int = 0
) -> Ledger:
    """Every parameter of a Transformer language model like GPT-2.

    Biases everywhere, two LayerNorms a layer and one at the end, a feed-
    forward part of 4 d_model. The output shares its matrix with the embedding.

    Args:
        d_model, n_layers, vocab_size: of the model.
        context: how many positions are learned; 0 if none are.

    Returns:
        The ledger; ``times`` is n_layers for what each layer has.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``; any other size
            below 1.

    Example:
        >>> ledger_total(transformer_parameters(768, 12, 50257, 1024))  # GPT-2
        124439808
    """
    expect_whole(1, d_model=d_model, n_layers=n_layers, vocab_size=vocab_size)
    expect_whole(0, context=context)
    layer = {
        "attention_norm.weight": (d_model,),
        "attention_norm.bias": (d_model,),
        "qkv_proj.weight": (3 * d_model, d_model),
        "qkv_proj.bias": (3 * d_model,),
        "out_proj.weight": (d_model, d_model),
        "out_proj.bias": (d_model,),
        "mlp_norm.weight": (d_model,),
        "mlp_norm.bias": (d_model,),
        "up_proj.weight": (4 * d_model, d_model),
        "up_proj.bias": (4 * d_model,),
        "down_proj.weight": (d_model, 4 * d_model),
        "down_proj.bias": (d_model,),
    }
    return [
        LedgerEntry("embedding.weight", (vocab_size, d_model)),
        LedgerEntry("position.weight", (context, d_model)),
        *(LedgerEntry(name, shape, n_layers) for name, shape in layer.items()),
        LedgerEntry("norm_f.weight", (d_model,)),
        LedgerEntry("norm_f.bias", (d_model,)),
    ]


def kv_cache_bytes(
    length: int,
    n_layers: int,
    d_model: int,
    n_heads: int = 1,
    n_kv_heads: int | None = None,
    element_bytes: int = 2,
    batch: int = 1,
) -> int:
    """The keys and values of all tokens so far: memory that grows.

        2 batch length n_layers n_kv_heads (d_model / n_heads) element_bytes

    Args:
        length: tokens in the cache, of each sequence; 0 if it is empty.
        n_layers, d_model, n_heads: of the model; n_heads divides d_model.
        n_kv_heads: fewer than n_heads where groups of query heads share
            their keys and values, and a divisor of it; as many if None.
        element_bytes: 2 for bfloat16, 4 for float32.
        batch: sequences.

    Returns:
        Bytes, of all layers and sequences together.

    Raises:
        TypeError: as ``scores_with_cache``.
        ValueError: length < 0, another size below 1, or heads that do not
            divide.

    Example:
        >>> kv_cache_bytes(2048, n_layers=12, d_model=768)
        75497472
    """
    kv_width = _kv_width(d_model, n_heads, n_kv_heads)
    expect_whole(0, length=length)
    expect_whole(1, n_layers=n_layers, batch=batch)
    expect_whole(1, element_bytes=element_bytes)
    return 2 * batch * length * n_layers * kv_width * element_bytes


def ssm_state_bytes(
    n_layers: int,
    d_model: int,
    d_state: int = 16,
    expand: int = 2,
    element_bytes: int = 2,
    batch: int = 1,
) -> int:
    """The states h of all layers: memory that never grows.

        batch n_layers expand d_model d_state element_bytes

    Args:
        n_layers: Mamba blocks; a model of as many parameters as a Transformer
            has twice as many of them as that has layers.
        d_model, d_state, expand: of the model.
        element_bytes: 2 for bfloat16, 4 for float32.
        batch: sequences.

    Returns:
        Bytes, of all layers and sequences together.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``; any size below 1.

    Example:
        >>> ssm_state_bytes(n_layers=24, d_model=768)  # mamba-130m
        1179648
    """
    expect_whole(1, n_layers=n_layers, d_model=d_model, d_state=d_state)
    expect_whole(1, expand=expand, element_bytes=element_bytes, batch=batch)
    return batch * n_layers * expand * d_model * d_state * element_bytes


def conv_state_bytes(
    n_layers: int,
    d_model: int,
    d_conv: int = 4,
    expand: int = 2,
    element_bytes: int = 2,
    batch: int = 1,
) -> int:
    """The last inputs of the short convolutions, in all layers.

        batch n_layers expand d_model d_conv element_bytes

    The released code keeps d_conv inputs, the newest among them, although
    d_conv - 1 would do. Other arguments, result and errors: as in
    ``ssm_state_bytes``.

    Args:
        d_conv: taps of the convolution, at least 1.
    """
    expect_whole(1, n_layers=n_layers, d_model=d_model, d_conv=d_conv)
    expect_whole(1, expand=expand, element_bytes=element_bytes, batch=batch)
    return batch * n_layers * expand * d_model * d_conv * element_bytes


def crossover_length(
    d_state: int = 16,
    d_conv: int = 0,
    expand: int = 2,
    n_heads: int = 1,
    n_kv_heads: int | None = None,
    kv_bytes: int = 2,
    state_bytes: int = 2,
) -> int:
    """From how many tokens on a KV cache is as large as Mamba's state.

    Two Mamba blocks stand against one Transformer layer of the same d_model,
    so that the parameters are equal, and d_model cancels:

        2 expand (d_state state_bytes + d_conv kv_bytes)
            / (2 (n_kv_heads / n_heads) kv_bytes)

    Args:
        d_state, expand: of the Mamba model.
        d_conv: 0 leaves the state of the convolution out; 4 counts it.
        n_heads, n_kv_heads: of the Transformer, as in ``kv_cache_bytes``.
        kv_bytes: of an element of the cache and of the convolution's state.
        state_bytes: of an element of h.

    Returns:
        Tokens, rounded up.

    Raises:
        TypeError: as ``scores_with_cache``.
        ValueError: d_conv < 0, another size below 1, or n_kv_heads that does
            not divide n_heads.

    Example:
        >>> crossover_length(), crossover_length(d_conv=4)
        (32, 40)
        >>> crossover_length(n_heads=32, n_kv_heads=8)
        128
        >>> crossover_length(state_bytes=4)
        64
    """
    kv_heads = _kv_width(n_heads, n_heads, n_kv_heads)
    expect_whole(1, d_state=d_state, expand=expand)
    expect_whole(1, kv_bytes=kv_bytes, state_bytes=state_bytes)
    expect_whole(0, d_conv=d_conv)
    state = expand * (d_state * state_bytes + d_conv * kv_bytes) * n_heads
    return -(-state // (kv_heads * kv_bytes))


def unfused_scan_traffic(
    batch: int, length: int, d_inner: int, d_state: int
) -> Ledger:
    """Elements that a selective scan moves when each stage is a kernel.

    The large tensors go out to memory after one stage and come back for the
    next: 6 batch length d_inner d_state. What is d_state times smaller, such
    as x, delta and y, is left out, in favour of this one.

    Args:
        batch, length, d_inner, d_state: of the scan, each at least 1.

    Returns:
        The ledger, an entry for each read and write.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``; any size below 1.

    Example:
        >>> ledger = unfused_scan_traffic(1, 2048, 1024, 16)
        >>> ledger_total(ledger) == 6 * 2048 * 1024 * 16
        True
    """
    _expect_scan(batch, length, d_inner, d_state)
    shape = batch, length, d_inner, d_state
    return [
        LedgerEntry("discretise: write A_bar", shape),
        LedgerEntry("discretise: write B_bar x", shape),
        LedgerEntry("scan: read A_bar", shape),
        LedgerEntry("scan: read B_bar x", shape),
        LedgerEntry("scan: write h", shape),
        LedgerEntry("output: read h", shape),
    ]


def fused_scan_traffic(
    batch: int,
    length: int,
    d_inner: int,
    d_state: int,
    is_gated: bool = False,
) -> Ledger:
    """Elements that a selective scan moves when one kernel does it all.

    A_bar, B_bar x and h live and die on the chip; what is left is the inputs,
    once each, and y: 3 batch length d_inner + 2 batch length d_state
    + d_inner d_state, and batch length d_inner more for a gate.

    Args:
        batch, length, d_inner, d_state: of the scan.
        is_gated: whether the kernel also multiplies by silu(z).

    Returns:
        The ledger, an entry for each read and write.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``; any size below 1.

    Example:
        >>> sizes = 1, 2048, 1024, 16
        >>> unfused = ledger_total(unfused_scan_traffic(*sizes))
        >>> print(f"{unfused / ledger_total(fused_scan_traffic(*sizes)):.1f}")
        31.6
    """
    _expect_scan(batch, length, d_inner, d_state)
    sequence = batch, length, d_inner
    gate = [LedgerEntry("read z", sequence)] if is_gated else []
    return [
        LedgerEntry("read x", sequence),
        LedgerEntry("read delta", sequence),
        *gate,
        LedgerEntry("read A", (d_inner, d_state)),
        LedgerEntry("read B", (batch, length, d_state)),
        LedgerEntry("read C", (batch, length, d_state)),
        LedgerEntry("write y", sequence),
    ]


def saved_for_backward(
    batch: int, length: int, d_inner: int, d_state: int
) -> Ledger:
    """Elements that autograd keeps from a selective scan written in PyTorch.

        A_bar = exp(delta A)           keeps delta, A and A_bar
        B_bar x = (delta x) B          keeps delta, x, delta x and B
        h = A_bar h + B_bar x          keeps A_bar and h
        y = C h                        keeps C and h

    each once, although several stages want it. Arguments, result and errors:
    as in ``unfused_scan_traffic``, with an entry for each tensor.
    """
    _expect_scan(batch, length, d_inner, d_state)
    return [
        *_scan_inputs(batch, length, d_inner, d_state),
        LedgerEntry("delta x", (batch, length, d_inner)),
        LedgerEntry("A_bar", (batch, length, d_inner, d_state)),
        LedgerEntry("h", (batch, length, d_inner, d_state)),
    ]


def saved_with_recomputation(
    batch: int,
    length: int,
    d_inner: int,
    d_state: int,
    chunk: int = 2048,
) -> Ledger:
    """Elements that a fused scan keeps, which computes A_bar and h again.

    The inputs, and for each chunk where it ended. The official kernel keeps
    the pair (P, h) there, after every 2048 tokens.

    Args:
        batch, length, d_inner, d_state: of the scan.
        chunk: tokens from one kept pair to the next, at least 1.

    Returns:
        The ledger, an entry for each tensor.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``; any size below 1.

    Source: state-spaces/mamba, csrc/selective_scan/selective_scan.cpp.
    """
    _expect_scan(batch, length, d_inner, d_state)
    expect_whole(1, chunk=chunk)
    ends = batch, -(-length // chunk), d_inner, d_state
    return [
        *_scan_inputs(batch, length, d_inner, d_state),
        LedgerEntry("P at the ends of chunks", ends),
        LedgerEntry("h at the ends of chunks", ends),
    ]


def selective_scan_flops(
    batch: int, length: int, d_inner: int, d_state: int
) -> int:
    """Operations of a selective scan: O(batch length d_inner d_state).

        delta A, exp: 2 N    (delta x) B: 1 + N    A_bar h + B_bar x: 2 N
        C h: 2 N - 1         together 7 N per batch, step and channel

    The exponential counts as one. Softplus, skip and gate are left out.
    Arguments and errors: as in ``unfused_scan_traffic``.
    """
    _expect_scan(batch, length, d_inner, d_state)
    return 7 * batch * length * d_inner * d_state


def lti_recurrence_flops(
    length: int, d_state: int, is_dense: bool = False
) -> int:
    """Operations of y_k = C h_k with h_k = A_bar h_{k-1} + B_bar x_k.

        diagonal A_bar: N + N + N + (2 N - 1) = 5 N - 1 a step
        dense A_bar:    N (2 N - 1) + N + N + (2 N - 1) = 2 N^2 + 3 N - 1

    For one channel; A_bar and B_bar are there already.

    Args:
        length: steps, at least 1.
        d_state: N, at least 1.
        is_dense: whether A_bar is a full matrix.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``.
    """
    expect_whole(1, length=length, d_state=d_state)
    if is_dense:
        return length * (2 * d_state**2 + 3 * d_state - 1)
    return length * (5 * d_state - 1)


def direct_convolution_flops(length: int) -> int:
    """Operations of y_k = sum of K_bar_j x_{k-j}, as long as the sequence.

        L (L + 1) / 2 products + L (L + 1) / 2 - L sums = L^2

    For one channel: the last output alone costs 2 L - 1.

    Args:
        length: L, of the input and of the kernel, at least 1.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``.
    """
    expect_whole(1, length=length)
    return length**2


def fft_flops(size: int) -> int:
    """Operations of one complex FFT of a power of two, by halving.

    size / 2 log2(size) butterflies of one complex product and two complex
    sums, 6 + 2 + 2 real operations:    5 size log2(size)

    Args:
        size: points, a power of two.

    Raises:
        TypeError: as ``scores_with_cache``.
        ValueError: size < 1, or no power of two.
    """
    expect_whole(1, size=size)
    if size & (size - 1):
        raise ValueError(f"size must be a power of two; got {size}")
    return 5 * size * (size.bit_length() - 1)


def fft_convolution_flops(batch: int, length: int, d_inner: int) -> int:
    """Operations of an LTI layer by FFT: O(batch length d_inner log length).

        per channel:           one FFT for K_bar
        per batch and channel: two FFTs, a complex product of 6 per frequency

    Padded to n, the power of two that is at least 2 length - 1. The kernel is
    there already, and the inverse's division by n is folded into it.

    Args:
        batch, d_inner: sequences, and channels of each.
        length: of a sequence and of the kernel, at least 1.

    Raises:
        TypeError, ValueError: as ``scores_with_cache``; any size below 1.
    """
    expect_whole(1, batch=batch, length=length, d_inner=d_inner)
    n = 1 << (2 * length - 2).bit_length()
    return d_inner * (fft_flops(n) + batch * (2 * fft_flops(n) + 6 * n))


def _scan_inputs(
    batch: int, length: int, d_inner: int, d_state: int
) -> Ledger:
    """What a selective scan is given."""
    return [
        LedgerEntry("x", (batch, length, d_inner)),
        LedgerEntry("delta", (batch, length, d_inner)),
        LedgerEntry("A", (d_inner, d_state)),
        LedgerEntry("B", (batch, length, d_state)),
        LedgerEntry("C", (batch, length, d_state)),
    ]


def _kv_width(d_model: int, n_heads: int, n_kv_heads: int | None) -> int:
    """How wide the keys of all heads are together, if the heads fit."""
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    expect_whole(1, d_model=d_model, n_heads=n_heads, n_kv_heads=n_kv_heads)
    if d_model % n_heads:
        raise ValueError(
            f"n_heads must divide d_model; got {n_heads} and {d_model}"
        )
    if n_heads % n_kv_heads:
        raise ValueError(
            f"n_kv_heads must divide n_heads; got {n_kv_heads} and {n_heads}"
        )
    return d_model // n_heads * n_kv_heads


def _expect_scan(batch: int, length: int, d_inner: int, d_state: int) -> None:
    """Refuse sizes that no scan has."""
    expect_whole(1, batch=batch, length=length)
    expect_whole(1, d_inner=d_inner, d_state=d_state)
