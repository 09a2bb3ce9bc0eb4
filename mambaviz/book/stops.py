"""The way from the problem to Mamba: its stops, drawn and in words.

Each stop is a chapter; those that this edition holds can be followed. The
picture is drawn twice, for a desk and for a phone, as plates are.
"""

import html
import re
from collections.abc import Mapping
from typing import NamedTuple

from mambaviz.theme import TEX_NAMES


class Stop(NamedTuple):
    """A chapter on the way.

    Attributes:
        chapter: its name.
        title: what the map calls it.
        idea: what it brings, in lines for the picture; a symbol stands
            between backquotes.
        but: the trouble that leads to the next one, in lines.
    """

    chapter: str
    title: str
    idea: tuple[str, ...]
    but: tuple[str, ...] = ()


STOPS = (
    Stop(
        "transformer-cost",
        "Transformers",
        ("look back at everything",),
        ("but each token costs more", "than the one before"),
    ),
    Stop(
        "recurrent-networks",
        "Recurrent networks",
        ("keep one state, at one cost",),
        ("but the state forgets, and", "training goes step by step"),
    ),
    Stop(
        "state-space-models",
        "State space models",
        ("keep a linear state `h`,", "moved by `A`, `B`, `C` and `D`"),
        ("but in continuous time",),
    ),
    Stop(
        "zero-order-hold",
        "Zero-order hold",
        ("takes a step `Δ` a token: `Δ`", "and `A` become memory"),
        ("but still token by token",),
    ),
    Stop(
        "three-representations",
        "Three representations",
        ("the same model, trained as", "one convolution"),
        ("but which `A` remembers?",),
    ),
    Stop(
        "hippo",
        "HiPPO and S4",
        ("an `A` that remembers", "on purpose"),
        ("but every token is alike",),
    ),
    Stop(
        "selection",
        "Selection",
        ("`Δ`, `B` and `C` depend on the", "token: keep or pass over"),
        ("but no convolution fits",),
    ),
    Stop(
        "parallel-scan",
        "Parallel scan",
        ("the recurrence in parallel,", "since steps can be grouped"),
        ("but memory is the limit",),
    ),
    Stop(
        "hardware-aware-scan",
        "Hardware-aware scan",
        ("the state never leaves", "fast memory"),
        ("but a scan is no model yet",),
    ),
    Stop(
        "mamba-block",
        "The Mamba block",
        ("projection, convolution,", "scan and gate `z`, stacked"),
        ("but is it better?",),
    ),
    Stop(
        "honest-comparison",
        "Honest comparison",
        ("where Mamba wins, and", "where it loses"),
    ),
)

LABEL = "The way from the problem to Mamba, a box for each chapter"
LINE = 17  # from one line of text to the next, in pixels
BOX, MARGIN = 116, 12  # a box's height, and what its text keeps from its rim
GAPS = (31, 26)  # between the boxes: beside each other, and rows
LIST = """\
:::{{admonition}} The same way in words
:class: dropdown

{}
:::"""

_SYMBOL = re.compile(r"`([^`]+)`")
_NAMES = {"Δ": "delta"} | {s: s for s in TEX_NAMES if len(s) == 1}


def edition(addresses: Mapping[str, str]) -> str:
    """What this edition holds of the way, as MyST.

    Args:
        addresses: of each chapter that is there, what a link leads to.

    Returns:
        One paragraph.
    """
    there = [stop for stop in STOPS if stop.chapter in addresses]
    if len(there) == len(STOPS):
        return f"This edition holds all {len(STOPS)} chapters of the way."
    links = [f"[{stop.title}]({stop.chapter}.md)" for stop in there]
    *most, last = links or ["none"]
    named = f"{', '.join(most)} and {last}" if most else last
    return (
        f"This edition holds {len(there)} of the {len(STOPS)} chapters of the "
        f"way: {named}. The others, dashed in the picture, are still to be "
        "written."
    )


def in_words(addresses: Mapping[str, str]) -> str:
    """The way as a list, as MyST."""
    lines = []
    for number, stop in enumerate(STOPS, start=1):
        title = f"**{stop.title}**"
        if stop.chapter in addresses:
            title = f"[{stop.title}]({stop.chapter}.md)"
        words = "; ".join(" ".join(p) for p in (stop.idea, stop.but) if p)
        lines.append(f"{number}. {title}: {_SYMBOL.sub(_tex, words)}")
    return LIST.format("\n".join(lines))


def picture(addresses: Mapping[str, str]) -> str:
    """The way as a figure, as HTML."""
    return (
        '<figure class="mv-plate mv-way"><div class="mv-plate-picture">'
        f"{_drawing(addresses, 'wide', 680, 3)}"
        f"{_drawing(addresses, 'narrow', 340, 1)}</div></figure>"
    )


def _drawing(
    addresses: Mapping[str, str], name: str, width: int, columns: int
) -> str:
    """Boxes row after row, every second row from right to left."""
    beside, below = GAPS
    box = (width - (columns - 1) * beside - 2) / columns
    corners = []
    for k in range(len(STOPS)):
        row, column = divmod(k, columns)
        column = columns - 1 - column if row % 2 else column
        corners.append((1 + column * (box + beside), 1 + row * (BOX + below)))
    parts = [
        _arrow(here, there, box)
        for here, there in zip(corners, corners[1:], strict=False)
    ]
    parts += [
        _box(number, stop, corner, box, addresses.get(stop.chapter))
        for number, (stop, corner) in enumerate(
            zip(STOPS, corners, strict=True), start=1
        )
    ]
    height = corners[-1][1] + BOX + 1
    return (
        f'<svg class="mv-{name}" role="group" aria-label="{LABEL}"'
        f' viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}">{"".join(parts)}</svg>'
    )


def _box(
    number: int,
    stop: Stop,
    corner: tuple[float, float],
    width: float,
    address: str | None,
) -> str:
    x, y = corner
    lines = [("mv-way-title", f"{number} {stop.title}")]
    lines += [("mv-way-idea", line) for line in stop.idea]
    lines += [("mv-way-but", line) for line in stop.but]
    said = "".join(
        f'<text class="{kind}" x="{x + MARGIN:g}"'
        f' y="{y + 26 + k * LINE + (5 if k else 0):g}">{_spans(line)}</text>'
        for k, (kind, line) in enumerate(lines)
    )
    drawn = (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{BOX}"'
        f' rx="9"/>{said}'
    )
    if address:
        return f'<a class="mv-way-stop" href="{address}">{drawn}</a>'
    return f'<g class="mv-way-stop mv-way-later">{drawn}</g>'


def _arrow(
    here: tuple[float, float], there: tuple[float, float], box: float
) -> str:
    (x, y), (to_x, to_y) = here, there
    if y == to_y:
        way = 1 if to_x > x else -1
        start = x + (box if way > 0 else 0) + 4 * way
        end = to_x + (0 if way > 0 else box) - 4 * way
        middle = y + BOX / 2
        line = f"M{start:g} {middle:g}H{end:g}"
        head = f"m{-6 * way} -5l{6 * way} 5l{-6 * way} 5"
    else:
        middle = x + box / 2
        line = f"M{middle:g} {y + BOX + 4:g}V{to_y - 4:g}"
        head = "m-5 -6l5 6l5 -6"
    return f'<path class="mv-way-arrow" d="{line}{head}"/>'


def _spans(line: str) -> str:
    """A line of a box, its symbols in their colours."""
    return _SYMBOL.sub(
        lambda found: (
            f'<tspan class="mv-{_NAMES[found[1]]}">{found[1]}</tspan>'
        ),
        html.escape(line),
    )


def _tex(found: re.Match[str]) -> str:
    return "$\\Delta$" if found[1] == "Δ" else f"${found[1]}$"
