r"""The plate: one picture, drawn for a page and again for a phone.

A plate is a matplotlib drawing as inline SVG. It is drawn twice, 680 and 340
pixels wide, and the page shows the one that fits its column, so that text is
never scaled below a readable size. Colours of the palette become CSS
variables: the same bytes follow the light and the dark page. Text stays text
in the reader's system font, which is why drawings use Unicode ("Δ", "10⁻³")
and no mathtext: its letters are placed one by one for another font.

Nothing here touches pyplot or leaves a trace in matplotlib's settings.
"""

import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mambaviz import theme

if TYPE_CHECKING:
    import plotly.graph_objects

WIDE, NARROW = 680, 340  # CSS pixels
DPI = 72  # the SVG backend's: one point is one pixel

# plate.css changes over at 580 px: 12.5 px are then 10.7 on the screen, and
# 10.6 where a phone leaves 288 px to the narrow drawing.
TEXT_SIZE = 12.5
STYLE = theme.matplotlib_style() | {
    "font.size": TEXT_SIZE,
    "axes.labelsize": TEXT_SIZE,
    "axes.titlesize": TEXT_SIZE,
    "axes.titleweight": "normal",
    "lines.solid_capstyle": "butt",
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "xtick.labelsize": TEXT_SIZE,
    "ytick.labelsize": TEXT_SIZE,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}

_VARIABLES = {
    ink.light: f"var(--mv-{name}, {ink.light})"
    for name, ink in theme.INKS.items()
}
_DEFAULTS = {
    ("font-size", f"{TEXT_SIZE}px"),
    ("stroke-linejoin", "round"),  # by plate.css
    ("stroke-linejoin", "miter"),
    ("stroke-linecap", "butt"),
    ("stroke-dashoffset", "0"),
    ("text-anchor", "start"),
}
_HEX = re.compile(r"#[0-9a-f]{6}\b", re.IGNORECASE)
_MATH = re.compile(r"(\\\(.*?\\\))", re.DOTALL)
_ESCAPED_TAG = re.compile(r"&lt;(/?(?:b|i|em|strong|code))&gt;")


@dataclass(frozen=True)
class Plate:
    """A finished plate; a notebook shows it as HTML.

    Attributes:
        wide: SVG, 680 px.
        narrow: SVG, 340 px.
        alt: what the picture shows, for who does not see it.
        caption: HTML with LaTeX in ``\\( \\)``, or None.
    """

    wide: str = field(repr=False)
    narrow: str = field(repr=False)
    alt: str
    caption: str | None = None

    def html(self) -> str:
        """The plate as a ``<figure>``; the page brings the style sheet."""
        return (
            '<figure class="mv-plate"><div class="mv-plate-picture"'
            f' role="img" aria-label="{html.escape(self.alt)}">'
            f"{self.wide}{self.narrow}</div>"
            f"{_caption(self.caption)}</figure>"
        )

    def _repr_html_(self) -> str:
        if is_static():
            return self.html()
        # A notebook has no sheet of ours, and perhaps a dark page that does
        # not say so in a way we know: it gets the colours and a ground.
        ground = ".mv-plate { background: var(--mv-page); padding: 0.5em; }"
        sheet = theme.css_variables() + stylesheet() + ground
        return f"<style>{sheet}</style>{self.html()}"


@dataclass(frozen=True)
class InteractivePlate:
    """A plotly figure as a plate: hover and zoom, in the book's style.

    Attributes:
        figure: the plotly figure.
        alt: what the picture shows, for who does not see it.
        caption: HTML with LaTeX in ``\\( \\)``, or None.
    """

    figure: "plotly.graph_objects.Figure"
    alt: str
    caption: str | None = None

    def html(self) -> str:
        """The plate as a ``<figure>`` for ``plotly_plates.js`` to draw."""
        spec = json.loads(self.figure.to_json(engine="json"))
        spec = {key: spec[key] for key in ("data", "layout")}
        for trace in spec["data"]:
            trace.pop("uid", None)
        for name, axis in spec["layout"].items():
            if (
                re.fullmatch(r"[xy]axis\d*", name)
                and axis.get("type") == "log"
            ):
                axis.setdefault("dtick", 1)  # digits between are too small
        height = spec["layout"].setdefault("height", 400)
        spec["layout"]["template"] = plotly_template()
        text = json.dumps(
            _with_variables(spec),
            ensure_ascii=False,
            separators=(",", ":"),
            sort_keys=True,
        ).replace("<", r"\u003c")
        alt = html.escape(self.alt)
        # The paragraph serves a reader without JavaScript; the height is
        # reserved so that nothing moves when the picture arrives.
        return (
            '<figure class="mv-plate mv-plotly" data-plotly>'
            f'<div class="mv-plot" role="group" aria-label="{alt}"'
            f' style="min-height:{height}px"><p>{alt}</p></div>'
            f'<script type="application/json">{text}</script>'
            f"{_caption(self.caption)}</figure>"
        )

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        if is_static():
            return {"text/plain": repr(self), "text/html": self.html()}
        return self.figure._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        """The plate by what it shows, without the figure's data."""
        return f"InteractivePlate(alt={self.alt!r})"


def plate(
    draw: Callable[..., object],
    *data: object,
    alt: str,
    caption: str | None = None,
    panels: int = 1,
    height: int = 320,
) -> Plate:
    r"""Draw a picture for both widths and make a plate of it.

    Args:
        draw: called as ``draw(*data, ax=ax)``, once for each width. ``ax``
            is one set of axes, or an array of ``panels``. It draws with the
            light colours of ``theme`` alone; tints are made with ``alpha``.
        *data: what to draw; computed before, and the same for both widths.
        alt: one or two sentences that say what the picture shows.
        caption: text with ``<b>``, ``<i>``, ``<em>``, ``<strong>`` and
            ``<code>``, and LaTeX between ``\(`` and ``\)``.
        panels: how many; side by side when wide, stacked when narrow.
        height: of one panel with its labels, in pixels, at both widths.

    Returns:
        The plate; the same data give the same bytes.

    Raises:
        ValueError: no ``alt``, or a colour that is not in the palette and
            so could not follow the page into the dark.
    """
    alt = _checked_alt(alt)
    wide, narrow = (
        _draw(draw, data, width, panels, height) for width in (WIDE, NARROW)
    )
    return Plate(wide, narrow, alt, caption)


def interactive_plate(
    figure: "plotly.graph_objects.Figure",
    alt: str,
    caption: str | None = None,
) -> InteractivePlate:
    """Make a plate of a plotly figure.

    In the book it becomes static HTML that ``plotly_plates.js`` draws with
    the page's own copy of plotly.js; in a running notebook plotly shows it.
    Colours given in the palette's light hex values follow the page.

    Args:
        figure: the plotly figure, without a template of its own.
        alt: one or two sentences that say what the picture shows.
        caption: as for :func:`plate`.

    Raises:
        ValueError: no ``alt``.
    """
    return InteractivePlate(figure, _checked_alt(alt), caption)


def blank_axes(
    panels: int = 1, width: int = WIDE, height: int = 320
) -> Axes | np.ndarray:
    """Axes in the book's style on a figure of their own, outside pyplot.

    Args:
        panels: how many sets of axes.
        width: of the figure, in pixels; from 500 on, panels stand side by
            side, below they are stacked.
        height: of one panel, in pixels.

    Returns:
        One set of axes, or an array of ``panels``.
    """
    beside = width >= 500
    rows, columns = (1, panels) if beside else (panels, 1)
    with matplotlib.style.context(STYLE, after_reset=True):
        figure = Figure(
            figsize=(width / DPI, rows * height / DPI),
            dpi=DPI,
            layout="constrained",
        )
        FigureCanvasSVG(figure)
        figure.get_layout_engine().set(w_pad=4 / DPI, h_pad=4 / DPI)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
    return axes[0] if panels == 1 else axes


def stylesheet() -> str:
    """The rules under ``.mv-plate``, for the book's style sheet."""
    return Path(__file__).with_name("plate.css").read_text(encoding="utf-8")


def is_static() -> bool:
    """Whether this process builds the book instead of serving a reader."""
    return os.environ.get("MAMBAVIZ_STATIC") == "1"


def plotly_template() -> dict[str, object]:
    """The plate style as a plotly layout template, in light hex values."""
    ink = {name: pair.light for name, pair in theme.INKS.items()}
    axis = {
        "automargin": True,
        "gridcolor": ink["line"],
        "linecolor": ink["line"],
        "zerolinecolor": ink["line"],
        "tickfont": {"color": ink["muted"]},
        "title": {"standoff": 8},
    }
    return {
        "layout": {
            # Not transparent: plotly mixes a hover label's ground from it,
            # and a downloaded picture needs one.
            "paper_bgcolor": ink["page"],
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": [ink[name] for name in ("x", "A", "y", "B", "h")],
            "font": {
                "family": theme.FONT,
                "size": TEXT_SIZE,
                "color": ink["ink"],
            },
            "hoverlabel": {
                "bgcolor": ink["card"],
                "bordercolor": ink["line"],
                "font": {"color": ink["ink"]},
            },
            "hovermode": "closest",
            "modebar": {
                "bgcolor": "rgba(0,0,0,0)",
                "color": ink["muted"],
                "activecolor": ink["ink"],
            },
            "margin": {"l": 48, "r": 12, "t": 24, "b": 40},
            "xaxis": axis,
            "yaxis": axis,
        }
    }


def _checked_alt(alt: str) -> str:
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(
            f"alt must say in words what the picture shows; got {alt!r}"
        )
    return alt.strip()


def _caption(caption: str | None) -> str:
    """The caption as HTML, its symbols in their colours."""
    if caption is None:
        return ""

    def coloured(name: str, tex: str) -> str:
        return rf"\class{{mv-{name}}}{{{tex}}}"

    pieces = []
    for piece in _MATH.split(caption):
        if _MATH.fullmatch(piece):
            piece = theme.colour_symbols(piece[2:-2], coloured)
            pieces.append(rf"\({html.escape(piece, quote=False)}\)")
        else:
            escaped = html.escape(piece, quote=False)
            pieces.append(_ESCAPED_TAG.sub(r"<\1>", escaped))
    # MathJax, as Sphinx sets it up, looks only where it is told to.
    classes = "tex2jax_process mathjax_process"
    return f'<figcaption class="{classes}">{"".join(pieces)}</figcaption>'


def _with_variables(value: object) -> object:
    """A plotly figure's JSON with palette colours as CSS variables."""
    if isinstance(value, dict):
        return {key: _with_variables(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_with_variables(v) for v in value]
    if isinstance(value, str):
        return _HEX.sub(
            lambda m: _VARIABLES.get(m.group().lower(), m.group()), value
        )
    return value


def _draw(
    draw: Callable[..., object],
    data: tuple,
    width: int,
    panels: int,
    height: int,
) -> str:
    """One drawing as SVG that may stand in a page beside others."""
    stream = BytesIO()
    with matplotlib.style.context(STYLE, after_reset=True):
        ax = blank_axes(panels, width, height)
        draw(*data, ax=ax)
        figure = np.ravel(ax)[0].figure
        figure.savefig(
            stream, format="svg", metadata={"Date": None, "Creator": None}
        )
    root = ElementTree.fromstring(stream.getvalue())
    _tidy(root, _referenced(root))
    inside = "".join(
        ElementTree.tostring(child, encoding="unicode") for child in root
    )
    inside = _own_ids(_HEX.sub(_variable, inside.replace(" />", "/>")))
    name = "wide" if width == WIDE else "narrow"
    tall = round(figure.get_figheight() * DPI)
    return (
        f'<svg class="mv-{name}" viewBox="0 0 {width} {tall}" width="{width}"'
        f' height="{tall}" font-size="{TEXT_SIZE}">{inside}</svg>'
    )


def _variable(match: re.Match) -> str:
    colour = match.group().lower()
    if colour not in _VARIABLES:
        raise ValueError(
            f"a plate was drawn with {colour}, which is no light colour of "
            f"theme.INKS; use one of {', '.join(theme.INKS)}, with alpha "
            "for a tint"
        )
    return _VARIABLES[colour]


def _own_ids(svg: str) -> str:
    """Ids that no other drawing on the page has, made from the content."""
    digest = hashlib.sha256(svg.encode()).hexdigest()[:6]
    for number, old in enumerate(re.findall(r'\bid="([^"]+)"', svg)):
        svg = re.sub(rf'(id="|#){old}\b', rf"\1mv{digest}-{number}", svg)
    return svg


def _referenced(root: ElementTree.Element) -> set[str]:
    """The ids that something in the drawing points at."""
    values = [v for element in root.iter() for v in element.attrib.values()]
    return set(re.findall(r"#([\w-]+)", " ".join(values)))


def _tidy(element: ElementTree.Element, referenced: set[str]) -> None:
    """Make an SVG short, and fit to stand in a page beside others.

    Gone are ids that nothing uses, rules for the whole page, metadata, what
    cannot be seen, and groups that group nothing.
    """
    element.tag = _local(element.tag)
    element.attrib = dict(_attributes(element, referenced))
    element.tail = None
    element.text = (element.text or "").strip() or None
    kept = []
    for child in element:
        _tidy(child, referenced)
        match child.tag:
            case "metadata" | "style":
                continue
            case "g" | "defs" if not len(child):
                continue
            case "path" if child.get("style") == "fill:none":
                continue
            case "g" if not child.attrib:
                kept.extend(child)
            case _:
                kept.append(child)
    element[:] = kept
    # A group says once what all its markers would repeat.
    styles = {child.get("style") for child in kept}
    markers = len(kept) > 1 and {child.tag for child in kept} == {"use"}
    if markers and len(styles) == 1 and "style" not in element.attrib:
        element.set("style", styles.pop())
        for child in kept:
            del child.attrib["style"]


def _attributes(
    element: ElementTree.Element, referenced: set[str]
) -> Iterator[tuple[str, str]]:
    for name, value in element.attrib.items():
        name = _local(name)
        match name:
            case "id" if value not in referenced:
                continue
            case "style":
                value = _short_style(value, _local(element.tag))
            case "d":
                value = _short_path(value)
            case "transform":
                value = re.sub(r"rotate\(-?0 [^)]*\)", "", _rounded(value))
            case "x" | "y" | "width" | "height":
                value = _rounded(value)
        if value.strip():
            yield name, value.strip()


def _short_style(style: str, tag: str) -> str:
    """A style without the font, which is the page's, and the defaults."""
    defaults = _DEFAULTS
    if tag == "text":
        defaults = defaults | {("fill", theme.INKS["ink"].light)}
    rules = []
    for rule in style.split(";"):
        name, _, value = (part.strip() for part in rule.partition(":"))
        if name not in ("", "font-family") and (name, value) not in defaults:
            rules.append(f"{name}:{_rounded(value)}")
    return ";".join(rules)


def _short_path(path: str) -> str:
    """A path with rounded numbers; polylines lose points in a row."""
    pieces = []
    for piece in re.findall(r"M[^M]*", path):
        numbers = re.findall(r"-?[\d.]+(?:e-?\d+)?", piece)
        if not set(re.findall("[A-Za-z]", piece)) <= set("MLz"):
            curve = re.sub(r"\s*([A-Za-z])\s*", r"\1", _rounded(piece))
            pieces.append(re.sub(r"\s+", " ", curve).strip())
            continue
        points = _thinned(np.array(numbers, dtype=float).reshape(-1, 2))
        text = "L".join(_rounded(f"{x:f} {y:f}") for x, y in points)
        pieces.append(f"M{text}" + "z" * ("z" in piece))
    return "".join(pieces)


def _thinned(points: np.ndarray, tolerance: float = 0.1) -> np.ndarray:
    """A polyline without the points that are not missed.

    Args:
        points: (n, 2), in pixels.
        tolerance: how far the line may move, in pixels.

    Source: Douglas and Peucker 1973, doi 10.3138/FM57-6770-U75U-7727.
    """
    keep = np.zeros(len(points), dtype=bool)
    keep[[0, -1]] = True
    spans = [(0, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        chord = points[last] - points[first]
        arms = points[first + 1 : last] - points[first]
        along = np.clip(arms @ chord / max(chord @ chord, 1e-12), 0, 1)
        away = np.linalg.norm(arms - along[:, None] * chord, axis=1)
        middle = first + 1 + int(away.argmax())
        if away.max() > tolerance:
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return points[keep]


def _rounded(text: str) -> str:
    """Numbers to a tenth of a pixel, or to a hundredth below ten.

    Markers are drawn around 0 and a few pixels wide: they need the digits.
    """

    def short(match: re.Match) -> str:
        number = float(match.group())
        digits = 2 if abs(number) < 10 else 1
        text = f"{round(number, digits) + 0.0:.{digits}f}"
        return text.rstrip("0").rstrip(".")

    return re.sub(r"-?\d+\.\d+(?:e-?\d+)?", short, text)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
