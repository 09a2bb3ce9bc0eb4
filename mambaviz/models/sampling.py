"""From logits to tokens: the distribution, the choice, and the loop.

    p = softmax(logits / temperature), cut to its likeliest tokens

``generate`` works with any language model that has

    model(ids, return_state=True, last_only=True) -> (logits, state)
    model.step(ids, state) -> (logits, state)

with ids (batch, length) and logits (batch, 1, vocab_size) in the first, ids
(batch,) and logits (batch, vocab_size) in the second: an RNN, a Mamba, and a
Transformer whose state is its KV cache. For a CUDA graph, a model says that
it has a ``constant_state``; its ``step`` then also takes ``in_place``, which
writes the new state into the given one.

See: the chapter ``mamba-block``.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mambaviz.models.captured import CapturedStep, can_capture
from mambaviz.models.checks import (
    LARGEST,
    can_look,
    expect_count,
    expect_ids,
    expect_mask,
    expect_sizes,
    is_int,
    is_number,
)

Ids = Int[Tensor, "batch length"]
# On a GPU: from so many tokens on, a CUDA graph of the step pays.
CAPTURE_FROM = 8


class Generator(Protocol):
    """What ``generate`` asks of a model; it is also an ``nn.Module``."""

    def __call__(
        self, ids: Tensor, *, return_state: bool, last_only: bool
    ) -> tuple[Tensor, Any]:
        """The logits after the last token, and the state there."""
        ...

    def step(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The logits after one more token, and the new state."""
        ...


def token_probabilities(
    logits: Float[Tensor, "batch vocab_size"],
    temperature: int | float = 1.0,
    top_k: int | None = None,
    top_p: int | float | None = None,
) -> Float[Tensor, "batch vocab_size"]:
    """The distribution that the next token is drawn from.

        p = softmax(logits / temperature)

    then only the top_k likeliest tokens, then of these only the likeliest
    that together reach top_p; what is left is scaled to sum to 1.

    Args:
        logits: one row per sequence.
        temperature: 0 puts all on the likeliest token (of equals, on the
            first); below 1 sharpens, above 1 flattens.
        top_k: how many tokens stay, from 1 to vocab_size; all if None.
        top_p: the probability to reach, above 0, at most 1; 1 if None.

    Returns:
        Rows that sum to 1, in at least float32.

    Raises:
        ValueError: a temperature, top_k or top_p outside its range.

    Example:
        >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> token_probabilities(logits, top_k=2)
        tensor([[0.6250, 0.3750, 0.0000]])
        >>> token_probabilities(logits, top_p=0.6)
        tensor([[0.6250, 0.3750, 0.0000]])
    """
    vocab_size = logits.shape[-1]
    _check_choice(temperature, top_k, top_p, vocab_size)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1)

    # From the largest logit down, so that a tiny temperature gives -inf and
    # not inf; below the smallest normal number it would count as 0.
    logits = logits - logits.amax(-1, keepdim=True)
    scaled = logits / max(temperature, torch.finfo(logits.dtype).tiny)
    if top_k is None and top_p is None:
        return scaled.softmax(-1)
    likeliest, ids = scaled.topk(top_k or vocab_size)  # in falling order
    p = likeliest.softmax(-1)
    if top_p is not None:
        before = p.cumsum(-1) - p
        p = p * (before < top_p)
        p = p / p.sum(-1, keepdim=True)
    return torch.zeros_like(logits).scatter(-1, ids, p)


def choose_token(
    logits: Float[Tensor, "batch vocab_size"],
    temperature: int | float = 0.0,
    top_k: int | None = None,
    top_p: int | float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """The next token of each sequence.

    Args:
        temperature: 0 takes the likeliest token and needs no generator.
        generator: the source of chance, on the device of the logits;
            PyTorch's own if None. From the same state it makes the same
            choices.

    The other arguments are those of ``token_probabilities``.

    Raises:
        ValueError: as ``token_probabilities``; also, where the logits are on
            a CPU, a row of which the largest is NaN or infinite.

    Example:
        >>> choose_token(torch.tensor([[0.1, 2.0, 0.3]]))
        tensor([1])
    """
    _check_choice(temperature, top_k, top_p, logits.shape[-1])
    if can_look(logits):
        _expect_finite(logits.amax(-1, keepdim=True))
    return _choose(logits, temperature, top_k, top_p, generator)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """While open, every module is in eval mode; then in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def generate(
    model: nn.Module,
    ids: Ids,
    max_new_tokens: int,
    temperature: int | float = 0.0,
    top_k: int | None = None,
    top_p: int | float | None = None,
    generator: torch.Generator | None = None,
    on_token: Callable[[Tensor], object] | None = None,
    *,
    mask: Bool[Tensor, "batch length"] | None = None,
    vocab_size: int | None = None,
) -> Int[Tensor, "batch longer"]:
    """Continue a prompt: read it in one pass, then go step by step.

    On a GPU the steps of a model whose state has a constant size run as a
    CUDA graph, see ``CapturedStep``.

    Logits that are NaN or infinite raise at their step on a CPU, and on a
    GPU wherever it is waited for anyway: to draw a token, or to hand it over.
    Without either, greedy steps on a GPU wait for nothing, and the error
    comes after the last of them.

    Args:
        model: see the head of this module. It generates in eval mode, and
            each module in it is left in the mode it was in.
        ids: the prompts, at least one token each.
        max_new_tokens: how many tokens to add; 0 returns the prompts.
        temperature, top_k, top_p, generator: see ``choose_token``.
        on_token: called after each step with a copy of its tokens, (batch,).
        mask: False at the padding of shorter prompts, which comes before
            them; the model must take this argument.
        vocab_size: choose below this id, for a model whose vocabulary is
            padded; below the width of the logits if None.

    Returns:
        The prompts and what follows them.

    Raises:
        ValueError: an empty prompt, a token that is not below vocab_size, a
            max_new_tokens that is no integer or negative, a mask with padding
            elsewhere or for a model that takes none, a temperature, top_k or
            top_p out of range, logits of which the largest is NaN or
            infinite.
    """
    _check_prompt(model, ids, mask, vocab_size)
    expect_count("max_new_tokens", max_new_tokens)
    _check_choice(temperature, top_k, top_p, vocab_size)
    if max_new_tokens == 0:
        return ids.clone()
    padding = {} if mask is None else {"mask": mask}
    waits = ids.is_cpu or temperature > 0 or on_token is not None
    tokens, largest = [], []
    with evaluating(model):
        logits, state = model(
            ids, return_state=True, last_only=True, **padding
        )
        logits = logits[:, -1]
        width = logits[:, :vocab_size].shape[-1]
        _check_choice(temperature, top_k, top_p, width)
        worth_it = max_new_tokens >= CAPTURE_FROM and can_capture(model, ids)
        step = CapturedStep(model) if worth_it else model.step
        while True:
            logits = logits[:, :vocab_size]
            largest.append(logits.amax(-1))
            if waits:
                _expect_finite(largest[-1][:, None], len(tokens))
            chosen = _choose(logits, temperature, top_k, top_p, generator)
            tokens.append(chosen)
            if on_token is not None:
                on_token(chosen.clone())
            if len(tokens) == max_new_tokens:
                break
            logits, state = step(chosen, state)
    if not waits:
        _expect_finite(torch.stack(largest, 1))
    return torch.cat([ids, torch.stack(tokens, 1).to(ids.dtype)], 1)


def _choose(
    logits: Tensor,
    temperature: int | float,
    top_k: int | None,
    top_p: int | float | None,
    generator: torch.Generator | None,
) -> Tensor:
    """``choose_token``, of what has been checked."""
    if temperature == 0:
        return logits.argmax(-1)
    p = token_probabilities(logits, temperature, top_k, top_p)
    return torch.multinomial(p, 1, generator=generator).squeeze(-1)


def _expect_finite(largest: Tensor, first: int = 0) -> None:
    """Refuse logits that leave no choice.

    One NaN makes the largest of its row NaN; of logits that are all -inf it
    is -inf, and an infinite one makes every probability NaN.

    Args:
        largest: of the logits, (batch, steps).
        first: number of the first of these steps.
    """
    broken = ~largest.isfinite()
    if broken.any():
        step, row = broken.T.nonzero()[0].tolist()
        raise ValueError(
            f"no token can be chosen at step {first + step}, counted from 0: "
            f"the largest logit of row {row} is {largest[row, step].item()}; "
            "look for NaN and inf in the weights, and in half precision for "
            "numbers beyond its range"
        )


def _check_choice(
    temperature: int | float,
    top_k: int | None,
    top_p: int | float | None,
    vocab_size: int | None,
) -> None:
    if not is_number(temperature) or not 0 <= temperature <= LARGEST:
        raise ValueError(
            "temperature must be 0, for the likeliest token, or positive and "
            f"finite; got {temperature!r}"
        )
    most = math.inf if vocab_size is None else vocab_size
    if top_k is not None and not (is_int(top_k) and 1 <= top_k <= most):
        raise ValueError(
            f"top_k must be an integer from 1 to vocab_size = {most}; "
            f"got {top_k!r}"
        )
    if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"top_p must be above 0 and at most 1; got {top_p!r}")


def _check_prompt(
    model: nn.Module,
    ids: Tensor,
    mask: Tensor | None,
    vocab_size: int | None,
) -> None:
    if ids.ndim != 2:
        raise ValueError(
            f"ids must have shape (batch, length); got {tuple(ids.shape)}"
        )
    if ids.shape[1] == 0:
        raise ValueError(
            "the prompt is empty: a model needs at least one token to go on "
            f"from; got ids of shape {tuple(ids.shape)}"
        )
    if vocab_size is not None:  # a look that is worth it on a GPU too
        expect_sizes(vocab_size=vocab_size)
        expect_ids(ids.cpu(), vocab_size)
    expect_mask(mask, ids.shape)
    if mask is None:
        return
    padded_later = ~mask[:, -1] | (mask[:, :-1] & ~mask[:, 1:]).any(1)
    if padded_later.any():
        rows = padded_later.nonzero().flatten().tolist()
        raise ValueError(
            "padding must come before a prompt, and a prompt has at least "
            f"one token; the mask of row {rows[0]} ends or breaks otherwise"
        )
    if not _takes_mask(model):
        raise ValueError(
            f"{type(model).__name__} takes no mask: give it prompts of one "
            "length, without padding"
        )


def _takes_mask(model: nn.Module) -> bool:
    """Whether its forward has an argument of this name, or takes any."""
    return any(
        p.name == "mask" or p.kind is inspect.Parameter.VAR_KEYWORD
        for p in inspect.signature(model.forward).parameters.values()
    )
