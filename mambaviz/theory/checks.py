"""What the functions of this room refuse of numbers and dtypes.

A size of 2.5 would give three states, and an int32 would cut a matrix off at
its points, both without a word.
"""

import math

import torch


def expect_whole(least: int, **counts: int) -> None:
    """Refuse what is no whole number, or too small.

    Args:
        least: the smallest count that is right.
        counts: by their names.

    Raises:
        TypeError: a count that is not an int.
        ValueError: one below the least.
    """
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool):
            raise TypeError(
                f"{name} must be a whole number, an int; got {count!r}"
            )
        if count < least:
            raise ValueError(f"{name} must be at least {least}; got {count}")


def expect_positive(**quantities: int | float) -> None:
    """Refuse 0 and below, infinity and NaN.

    Args:
        quantities: by their names.

    Raises:
        ValueError: one of these.
    """
    for name, value in quantities.items():
        if not 0 < value < math.inf:
            raise ValueError(
                f"{name} must be positive and finite; got {value}"
            )


def expect_not_negative(**quantities: int | float) -> None:
    """Refuse what is below 0, infinity and NaN.

    Args:
        quantities: by their names.

    Raises:
        ValueError: one of these.
    """
    for name, value in quantities.items():
        if not 0 <= value < math.inf:
            raise ValueError(
                f"{name} must be at least 0 and finite; got {value}"
            )


def expect_floating(dtype: torch.dtype) -> None:
    """Refuse a dtype that would cut numbers off at the point.

    Args:
        dtype: of a result that has fractions.

    Raises:
        TypeError: one that is not real and floating-point.
    """
    if not dtype.is_floating_point:
        raise TypeError(
            f"dtype must be floating-point, such as torch.float64; got {dtype}"
        )
