r"""The scan: a linear recurrence, computed in any grouping.

    h_t = a_t h_{t-1} + b_t

One step is the pair (a_t, b_t), the map h -> a_t h + b_t. Two steps in a row
are again such a map, so pairs combine:

    (a_1, b_1) then (a_2, b_2)    =    (a_2 a_1, a_2 b_1 + b_2)

and the prefix of t pairs is (P_t, h_t): P_t = a_t ... a_1, and h_t the state
that a start from zero reaches. Combining is associative, so prefixes may be
grouped at will; it is not commutative, so the order in time must stay.

A *schedule* says which grouping. It is a list of levels; a level is a list of
(left, right): the pair at ``right`` becomes left then right. What happens in
one level can happen at once, as all of it reads what stood there before the
level. A scan runs its schedule, so a count or a picture of the schedule is
one of the scan. They return all prefixes, (P, h); from another initial state
h_0 the states are h + P * h_0.

These functions explain and judge; ``mambaviz.ops`` has the quick ones.

See: the chapter ``parallel-scan``.
"""

from collections.abc import Callable

import torch
from jaxtyping import Inexact
from torch import Tensor

from mambaviz.theory.checks import expect_whole

Pairs = tuple[Inexact[Tensor, "..."], Inexact[Tensor, "..."]]
Operator = Callable[[Pairs, Pairs], Pairs]
Schedule = list[list[tuple[int, int]]]


def combine(earlier: Pairs, later: Pairs) -> Pairs:
    """Two steps of the recurrence as one, for numbers a and b.

        (a_1, b_1) then (a_2, b_2) = (a_2 a_1, a_2 b_1 + b_2)

    Args:
        earlier: (a_1, b_1), elementwise in any shape.
        later: (a_2, b_2).

    Returns:
        The pair of the map that does the earlier step and then the later.

    Source: Blelloch 1990 (CMU-CS-90-190), on first-order recurrences.

    Example:
        >>> pair = lambda a, b: (torch.tensor(a), torch.tensor(b))
        >>> combine(pair(0.5, 1.0), pair(0.25, 2.0))
        (tensor(0.1250), tensor(2.2500))
    """
    a_1, b_1 = earlier
    a_2, b_2 = later
    return a_2 * a_1, a_2 * b_1 + b_2


def combine_matrices(earlier: Pairs, later: Pairs) -> Pairs:
    """The same for a matrix a, (..., d_state, d_state), and a vector b.

        (a_1, b_1) then (a_2, b_2) = (a_2 a_1, a_2 b_1 + b_2)

    Here even the order within a_2 a_1 matters, and it costs d_state^3: the
    reason why models that scan have a diagonal A.

    Args:
        earlier: (a_1, b_1), of (..., d_state, d_state) and (..., d_state).
        later: (a_2, b_2).

    Returns:
        The pair of the map that does the earlier step and then the later.
    """
    a_1, b_1 = earlier
    a_2, b_2 = later
    return a_2 @ a_1, (a_2 @ b_1[..., None]).squeeze(-1) + b_2


def sequential_schedule(length: int) -> Schedule:
    """One step after the other: a for loop.

        work = length - 1        depth = length - 1

    Args:
        length: how many pairs, at least 1.

    Raises:
        TypeError, ValueError: length is no int, or below 1; all schedules
            raise these.

    Example:
        >>> sequential_schedule(4)
        [[(0, 1)], [(1, 2)], [(2, 3)]]
    """
    expect_whole(1, length=length)
    return [[(i - 1, i)] for i in range(1, length)]


def hillis_steele_schedule(length: int) -> Schedule:
    """Each position takes in what lies 1, 2, 4, ... before it.

        work = k length - (2^k - 1)    depth = k,    k = ceil(log2(length))

    The fewest levels, for about log2(length) times the work of the loop.
    Arguments and errors: as in ``sequential_schedule``.

    Source: Hillis and Steele 1986, doi 10.1145/7902.7903.

    Example:
        >>> hillis_steele_schedule(4)
        [[(0, 1), (1, 2), (2, 3)], [(0, 2), (1, 3)]]
    """
    expect_whole(1, length=length)
    return [
        [(i - gap, i) for i in range(gap, length)] for gap in _gaps(length)
    ]


def blelloch_schedule(length: int) -> Schedule:
    """Up a binary tree, then down it again.

    The way up leaves at each position the sum of a block that ends there;
    the way down completes it with what lies before that block. For a length
    of 2^k, k > 1,

        work = 2 length - k - 2    depth = 2 k - 2,    in 2 k - 1 levels

    so less than twice the work of the loop, for any length. The root, at the
    last position, is done when the way down begins: nothing waits for it, and
    the longest chain is one shorter than the number of levels.

    Blelloch's own way down starts from an identity at the root and ends with
    exclusive prefixes. This one (Brent and Kung's) needs no identity, no
    padding to a power of two, and ends with inclusive ones.
    Arguments and errors: as in ``sequential_schedule``.

    Source: Blelloch 1990 (CMU-CS-90-190); Brent and Kung 1982,
    doi 10.1109/TC.1982.1675982.

    Example:
        >>> blelloch_schedule(4)
        [[(0, 1), (2, 3)], [(1, 3)], [(1, 2)]]
    """
    expect_whole(1, length=length)
    gaps = _gaps(length)
    up = [
        [(i - gap, i) for i in range(2 * gap - 1, length, 2 * gap)]
        for gap in gaps
    ]
    down = [
        [(i - gap, i) for i in range(3 * gap - 1, length, 2 * gap)]
        for gap in reversed(gaps)
    ]
    return [level for level in up + down if level]


def chunked_schedule(length: int, chunk: int) -> Schedule:
    """A loop in each chunk, a loop over the chunks' ends, one last level.

    All chunks loop at once from zero; then the last position of each chunk
    takes in the one of the chunk before, one after the other; then all the
    other positions take in the chunk before theirs. With n full chunks,
    n > 1 and chunk > 1,

        work = 2 length - chunk - n        depth = chunk + n - 2

    which is least deep where chunk is about sqrt(length).

    Args:
        length: how many pairs, at least 1.
        chunk: how many pairs to a chunk, at least 1; the last may be shorter.

    Raises:
        TypeError, ValueError: one of them is no int, or below 1.

    Example:
        >>> for level in chunked_schedule(6, 3):
        ...     print(level)
        [(0, 1), (3, 4)]
        [(1, 2), (4, 5)]
        [(2, 5)]
        [(2, 3), (2, 4)]
    """
    expect_whole(1, length=length, chunk=chunk)
    starts = range(0, length, chunk)
    ends = [min(start + chunk, length) - 1 for start in starts]
    inside = [
        [(s + j - 1, s + j) for s in starts if s + j < length]
        for j in range(1, min(chunk, length))
    ]
    across = [
        [(end, next_end)]
        for end, next_end in zip(ends, ends[1:], strict=False)
    ]
    carry = [
        (end, i)
        for end, next_end in zip(ends, ends[1:], strict=False)
        for i in range(end + 1, next_end)
    ]
    return inside + across + ([carry] if carry else [])


def scan_work(schedule: Schedule) -> int:
    """How many times the schedule combines two pairs.

    Example:
        >>> scan_work(blelloch_schedule(8)), scan_work(sequential_schedule(8))
        (11, 7)
    """
    return sum(len(level) for level in schedule)


def scan_depth(schedule: Schedule) -> int:
    """The longest chain of combinations that wait for one another.

    Never more than the number of levels, ``len(schedule)``.

    Example:
        >>> scan_depth(blelloch_schedule(8)), len(blelloch_schedule(8))
        (4, 5)
    """
    depth: dict[int, int] = {}
    for level in schedule:
        before = depth.copy()
        for left, right in level:
            waited = max(before.get(left, 0), before.get(right, 0))
            depth[right] = waited + 1
    return max(depth.values(), default=0)


def run_schedule(
    schedule: Schedule,
    a: Inexact[Tensor, "..."],
    b: Inexact[Tensor, "..."],
    dim: int = 0,
    operator: Operator = combine,
) -> Pairs:
    """All prefixes, grouped as the schedule says.

    Args:
        schedule: levels of (left, right), positions along ``dim``.
        a: real or complex, time along ``dim``.
        b: in the shape of a, or as the operator wants it.
        dim: the axis of time, at least one step long.
        operator: what combines the earlier pairs with the later; it gets all
            pairs of a level at once, along a new first axis.

    Returns:
        P and h, in the shapes of a and b. Differentiable.

    Raises:
        ValueError: no step, or shapes that do not fit.
    """
    a, b = _steps(a, b, dim, operator)
    for level in schedule:
        lefts, rights = zip(*level, strict=True)
        combined = operator(_at(lefts, a, b), _at(rights, a, b))
        for i, a_i, b_i in zip(rights, *combined, strict=True):
            a[i], b[i] = a_i, b_i
    return torch.stack(a, dim), torch.stack(b, dim)


def sequential_scan(
    a: Inexact[Tensor, "..."],
    b: Inexact[Tensor, "..."],
    dim: int = 0,
    operator: Operator = combine,
) -> Pairs:
    """All prefixes by ``sequential_schedule``: h_t = a_t h_{t-1} + b_t.

    Arguments, result and errors: as in ``run_schedule``.

    Example:
        >>> P, h = sequential_scan(torch.full((3,), 0.5), torch.ones(3))
        >>> h
        tensor([1.0000, 1.5000, 1.7500])
        >>> h + P * 8  # from the state 8
        tensor([5.0000, 3.5000, 2.7500])
    """
    return run_schedule(
        sequential_schedule(_length(a, dim)), a, b, dim, operator
    )


def hillis_steele_scan(
    a: Inexact[Tensor, "..."],
    b: Inexact[Tensor, "..."],
    dim: int = 0,
    operator: Operator = combine,
) -> Pairs:
    """All prefixes by ``hillis_steele_schedule``.

    Arguments, result and errors: as in ``run_schedule``.
    """
    return run_schedule(
        hillis_steele_schedule(_length(a, dim)), a, b, dim, operator
    )


def blelloch_scan(
    a: Inexact[Tensor, "..."],
    b: Inexact[Tensor, "..."],
    dim: int = 0,
    operator: Operator = combine,
) -> Pairs:
    """All prefixes by ``blelloch_schedule``.

    Arguments, result and errors: as in ``run_schedule``.
    """
    return run_schedule(
        blelloch_schedule(_length(a, dim)), a, b, dim, operator
    )


def chunked_scan(
    a: Inexact[Tensor, "..."],
    b: Inexact[Tensor, "..."],
    chunk: int,
    dim: int = 0,
    operator: Operator = combine,
) -> Pairs:
    """All prefixes by ``chunked_schedule``.

    Arguments, result and errors: as in ``run_schedule``; and chunk, at least
    1, the number of steps in a chunk.
    """
    return run_schedule(
        chunked_schedule(_length(a, dim), chunk), a, b, dim, operator
    )


def cumsum_scan(
    a: Inexact[Tensor, "*shape"], b: Inexact[Tensor, "*shape"], dim: int = 0
) -> Pairs:
    """The tempting shortcut, which is wrong in floating point.

        h_t = P_t sum over s <= t of b_s / P_s,    P_t = a_t ... a_1

    True on paper, and two calls long. But P decays like a product of numbers
    below 1, so the sum of b / P overflows: in float32 after 303 steps of
    a = 0.75 and b = 1, after 126 of a = 0.5. From there h is infinite or NaN,
    although the states themselves are small. And a = 0, to forget all that
    was, is NaN at once. Tests show that it fails; nothing here uses it.

    Args:
        a: real or complex, not 0, time along ``dim``.
        b: in the shape of a.
        dim: the axis of time.

    Returns:
        P and h, while they last.

    Example:
        >>> halves = torch.full((200,), 0.5)
        >>> P, h = cumsum_scan(halves, torch.ones(200))
        >>> h[[0, 1, 125, 126, 199]]
        tensor([1.0000, 1.5000, 2.0000,    inf,    nan])
    """
    P = torch.cumprod(a, dim)
    return P, P * torch.cumsum(b / P, dim)


def _gaps(length: int) -> list[int]:
    """1, 2, 4, ... below the length."""
    return [2**k for k in range((length - 1).bit_length())]


def _at(
    positions: tuple[int, ...], a: list[Tensor], b: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """The pairs at some positions, along a new first axis."""
    return (
        torch.stack([a[i] for i in positions]),
        torch.stack([b[i] for i in positions]),
    )


def _length(a: Tensor, dim: int) -> int:
    """How many steps there are along an axis."""
    if not -a.ndim <= dim < a.ndim:
        raise ValueError(
            f"dim must be an axis of a, from {-a.ndim} to {a.ndim - 1}; "
            f"got {dim}"
            if a.ndim
            else f"a must have an axis of time; got shape {tuple(a.shape)}"
        )
    if a.shape[dim] == 0:
        raise ValueError(
            "a and b must have at least one step; got a of shape "
            f"{tuple(a.shape)} with time along dim {dim}"
        )
    return a.shape[dim]


def _steps(
    a: Tensor, b: Tensor, dim: int, operator: Operator
) -> tuple[list[Tensor], list[Tensor]]:
    """a and b step by step, if they fit together."""
    length = _length(a, dim)
    fits = b.ndim > 0 and -b.ndim <= dim < b.ndim and b.shape[dim] == length
    if operator is combine:
        fits = a.shape == b.shape
    if not fits:
        wanted = "the same shape" if operator is combine else "as many steps"
        raise ValueError(
            f"a and b must have {wanted}; got {tuple(a.shape)} and "
            f"{tuple(b.shape)} with time along dim {dim}"
        )
    b = b.to(torch.promote_types(a.dtype, b.dtype))
    return list(a.unbind(dim)), list(b.unbind(dim))
