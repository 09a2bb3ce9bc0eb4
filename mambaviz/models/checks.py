"""What the models refuse, each with the value and what would do."""

import sys
from collections.abc import Sized

import torch
from torch import Tensor

# An int may be larger, but no tensor could hold it.
LARGEST = sys.float_info.max


def is_int(value: object) -> bool:
    """Whether it is an int; True and False, which Python counts, are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is an int or a float; True and False are none."""
    return is_int(value) or isinstance(value, float)


def can_look(t: Tensor) -> bool:
    """Whether a check may look at the values.

    At those on a GPU it would wait for the device, and a compiled function
    cannot raise.
    """
    return t.is_cpu and not torch.compiler.is_compiling()


def expect_sizes(**sizes: object) -> None:
    """Refuse a size that no axis has."""
    for name, size in sizes.items():
        if not is_int(size) or size < 1:
            raise ValueError(
                f"{name} must be a positive integer; got {size!r}"
            )


def expect_count(name: str, count: object) -> None:
    """Refuse what is not an integer, 0 included."""
    if not is_int(count) or count < 0:
        raise ValueError(
            f"{name} must be an integer of 0 or more; got {count!r}"
        )


def expect_positive(**numbers: object) -> None:
    """Refuse what is not a positive number, or is not finite."""
    for name, number in numbers.items():
        if not is_number(number) or not 0 < number <= LARGEST:
            raise ValueError(
                f"{name} must be a positive number; got {number!r}"
            )


def expect_dt_range(dt_min: object, dt_max: object) -> None:
    """Refuse bounds between which no delta can start."""
    fits = is_number(dt_min) and is_number(dt_max)
    if not fits or not 0 < dt_min <= dt_max <= LARGEST:
        raise ValueError(
            "dt must be finite and have 0 < dt_min <= dt_max; got "
            f"{dt_min!r} and {dt_max!r}"
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

    The latter where it can look, see ``can_look``.
    """
    if ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"ids must be torch.int32 or torch.int64; got {ids.dtype}"
        )
    if ids.numel() == 0:
        raise ValueError(
            "ids must have at least one token; got ids of shape "
            f"{tuple(ids.shape)}"
        )
    if not can_look(ids):
        return
    wrong = (ids < 0) | (ids >= vocab_size)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"ids must be from 0 to {vocab_size - 1}; got "
            f"{ids[index].item()} at index {index}"
        )


def expect_token_id(name: str, token: object, vocab_size: int) -> None:
    """Refuse what is not the number of a token."""
    if not is_int(token) or not 0 <= token < vocab_size:
        raise ValueError(
            f"{name} must be a token, from 0 to {vocab_size - 1}; "
            f"got {token!r}"
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


def expect_device(device: torch.device | str) -> None:
    """Refuse a device that PyTorch cannot use here."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(
            'device must be one that is here, such as "cpu"; got '
            f"{device!r} ({str(error).partition('.')[0]})"
        ) from error


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
