"""What the models refuse, each with the value and what would do."""

from collections.abc import Sized

import torch
from torch import Tensor


def expect_sizes(**sizes: object) -> None:
    """Refuse a size that no axis has."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(
                f"{name} must be a positive integer; got {size!r}"
            )


def expect_divides(name: str, part: int, of: str, whole: int) -> None:
    """Refuse a part that does not divide its whole."""
    if part < 1 or whole % part:
        raise ValueError(
            f"{name} must divide {of}; {part} does not divide {whole}"
        )


def expect_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a word that is not among the known ones."""
    if value not in known:
        raise ValueError(f"{name} must be one of {known}; got {value!r}")


def expect_ids(ids: Tensor, vocab_size: int) -> None:
    """Refuse no token at all, and one that no embedding has.

    It looks at tokens on a CPU only: a look at those on a GPU would wait for
    the device, and a compiled function cannot raise.
    """
    if ids.numel() == 0:
        raise ValueError(
            "ids must have at least one token; got ids of shape "
            f"{tuple(ids.shape)}"
        )
    if torch.compiler.is_compiling() or not ids.is_cpu:
        return
    wrong = (ids < 0) | (ids >= vocab_size)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"ids must be from 0 to {vocab_size - 1}; got "
            f"{ids[index].item()} at index {index}"
        )


def expect_mask(
    mask: Tensor | None, shape: tuple[int, ...], name: str = "mask"
) -> None:
    """Refuse a mask that is not one truth value for each token."""
    if mask is None:
        return
    if mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(
            f"{name} must be torch.bool of shape {tuple(shape)}, one value "
            f"for each token; got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def expect_states(states: Sized, layers: Sized) -> None:
    """Refuse more or fewer states than there are layers."""
    if len(states) != len(layers):
        raise ValueError(
            f"the model has {len(layers)} layers, one state for each; "
            f"got {len(states)} states"
        )


def expect_sequence(x: Tensor, d_model: int) -> None:
    """Refuse what is not (batch, length, d_model) with a step in it."""
    if x.ndim != 3 or x.shape[1] == 0 or x.shape[2] != d_model:
        raise ValueError(
            f"x must have shape (batch, length, {d_model}), length > 0; "
            f"got {tuple(x.shape)}"
        )


def expect_token(x: Tensor, d_model: int) -> None:
    """Refuse what is not (batch, d_model)."""
    if x.ndim != 2 or x.shape[1] != d_model:
        raise ValueError(
            f"x must have shape (batch, {d_model}); got {tuple(x.shape)}"
        )


def expect_shape(name: str, value: Tensor, wanted: tuple[int, ...]) -> None:
    """Refuse another shape than the one wanted."""
    if value.shape != wanted:
        raise ValueError(
            f"{name} must have shape {wanted}; got {tuple(value.shape)}"
        )
