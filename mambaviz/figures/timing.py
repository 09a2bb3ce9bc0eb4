"""Times of this machine: how they are taken, drawn, and marked as measured."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
import torch
from matplotlib.axes import Axes

from mambaviz import theme
from mambaviz.figures.plate import Plate, is_static

INK = {name: pair.light for name, pair in theme.INKS.items()}

# By name, lengths and the seconds that each took.
Times = Mapping[str, tuple[Sequence[int], Sequence[float]]]


@dataclass(frozen=True)
class Measured:
    """A plate of times: they are this machine's, and differ each time.

    Attributes:
        plate: the plate.
    """

    plate: Plate

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        if not is_static():
            return {"text/html": self.plate._repr_html_()}
        head = '<figure class="mv-plate"'
        page = self.plate.html().replace(head, f"{head} data-measured", 1)
        return {"text/plain": repr(self), "text/html": page}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Small operations: threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def shortest(run: Callable, arguments: tuple, times: int = 3) -> float:
    """Seconds of the shortest of a few runs, after one that does not count."""
    return min(_seconds(run, arguments, times))


def middle(run: Callable, arguments: tuple, times: int = 9) -> float:
    """Seconds of the median of a few runs, after one that does not count."""
    return median(_seconds(run, arguments, times))


def slope(
    lengths: Sequence[int], seconds: Sequence[float], last: int = 4
) -> float:
    """The power of the length that a time grows with, at its far end.

    Args:
        lengths, seconds: from the shortest length to the longest.
        last: over how many of them a straight line is laid.

    Returns:
        The power, rounded to a tenth.

    Example:
        >>> slope([10, 100, 1000], [3e-6, 3e-4, 3e-2])
        2.0
    """
    n = min(last, len(lengths))
    power, _ = np.polyfit(np.log(lengths[-n:]), np.log(seconds[-n:]), 1)
    return round(power.item(), 1) + 0.0  # not -0.0


def power_of_ten(exponent: int) -> str:
    """A power of ten as a label.

    Example:
        >>> power_of_ten(-3), power_of_ten(0)
        ('10⁻³', '1')
    """
    raised = str(exponent).translate(
        str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    )
    return f"10{raised}" if exponent else "1"


def draw_panel_of_times(
    ax: Axes,
    times: Times,
    looks: Mapping[str, tuple[str, str]],
    title: str,
    xlabel: str = "tokens",
    last: int = 4,
) -> None:
    """Time against length on logarithmic axes, each line with its slope.

    Args:
        ax: where to draw.
        times: the label of a line is its name and its slope.
        looks: of each name, the ink and the marker.
        title, xlabel: words on the panel and below it.
        last: as for :func:`slope`.
    """
    for name, (lengths, seconds) in times.items():
        ink, marker = looks[name]
        ax.plot(
            lengths,
            seconds,
            c=INK[ink],
            marker=marker,
            ms=5,
            lw=1.4,
            label=f"{name}: {slope(lengths, seconds, last):.1f}",
        )
    ax.set(xscale="log", yscale="log", xlabel=xlabel, title=title)
    for axis in (ax.xaxis, ax.yaxis):
        low, high = (math.log10(end) for end in axis.get_view_interval())
        powers = range(math.ceil(low), math.floor(high) + 1)
        axis.set_ticks([10.0**p for p in powers], map(power_of_ten, powers))
        axis.set_ticks([], minor=True)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.6)  # room for the legend
    ax.legend(loc="upper left", frameon=False, handlelength=1.6)


def _seconds(run: Callable, arguments: tuple, times: int) -> list[float]:
    """Seconds of each of a few runs, after one that does not count."""
    run(*arguments)
    marks = [time.perf_counter()]
    for _ in range(times):
        run(*arguments)
        marks.append(time.perf_counter())
    return [after - before for before, after in pairwise(marks)]
