"""One palette for the book's symbols, in CSS, matplotlib, plotly and TeX.

Every symbol keeps its colour wherever it stands: in an equation, a figure, an
explorable. The colours were chosen so that each has a contrast of at least
4.5:1 on the page and on a card, and so that no two of them meet under normal,
deuteranopic or protanopic vision; ``tests/test_theme.py`` holds them to that.
Colour is never the only carrier of meaning.
"""

import re
from collections.abc import Callable
from typing import NamedTuple


class Ink(NamedTuple):
    """One colour, as it is on a light page and on a dark one."""

    light: str
    dark: str


SYMBOLS = {
    "A": Ink("#a11d1d", "#f0744f"),
    "B": Ink("#a65200", "#f7a845"),
    "C": Ink("#8f1267", "#e86ac6"),
    "D": Ink("#676c73", "#a1a6aa"),
    "delta": Ink("#3f4a10", "#eaf07d"),
    "x": Ink("#1d429a", "#5c9ff5"),
    "h": Ink("#a322e6", "#dcb4ff"),
    "y": Ink("#0d7e43", "#3ddd87"),
    "z": Ink("#02708f", "#9debea"),
}

SURFACES = {
    "page": Ink("#ffffff", "#14171c"),
    "card": Ink("#f7f6f2", "#1d2129"),
    "ink": Ink("#1f2328", "#e6e8eb"),
    "muted": Ink("#5c636b", "#a3abb5"),
    "line": Ink("#d9d7d0", "#353c46"),
    "warn": Ink("#a8071a", "#ff9c92"),
}

INKS = {**SYMBOLS, **SURFACES}

FONT = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', "
    "'DejaVu Sans', sans-serif"
)


class RuleStyle(NamedTuple):
    """How a discretisation rule looks in every picture of it.

    Attributes:
        label: the rule's name within a sentence.
        ink: a name of :data:`SURFACES`: colours of symbols mean symbols.
        dashes: lengths of stroke and gap, in line widths; () is unbroken.
        marker: matplotlib's letter: circle, diamond, square, triangles.
    """

    label: str
    ink: str
    dashes: tuple[float, ...]
    marker: str


# The keys of theory.discretize.DISCRETIZATION_RULES. Ink alone tells nothing;
# Euler alone may blow up: it is warned of.
RULES = {
    "zoh": RuleStyle("ZOH", "ink", (), "o"),
    "mamba": RuleStyle("Mamba's code", "ink", (5, 1.5, 1, 1.5), "D"),
    "bilinear": RuleStyle("bilinear", "muted", (4, 1.5), "s"),
    "backward_euler": RuleStyle("backward Euler", "muted", (1, 1.2), "v"),
    "euler": RuleStyle("Euler", "warn", (7, 2), "^"),
}

# The symbols as TeX writes them. In this book these letters mean nothing else.
TEX_NAMES = {r"\Delta": "delta"} | {s: s for s in SYMBOLS if len(s) == 1}


def css_variables() -> str:
    """The palette as CSS custom properties ``--mv-A``, ``--mv-page``, ...

    The dark values apply under the book's ``data-theme="dark"`` and under
    JupyterLab's dark themes.

    Returns:
        A style sheet.
    """

    def declare(mode: str) -> str:
        return "".join(
            f"  --mv-{name}: {getattr(ink, mode)};\n"
            for name, ink in INKS.items()
        )

    dark = ':root[data-theme="dark"], body[data-jp-theme-light="false"]'
    symbols = "".join(
        f".mv-{name} {{ color: var(--mv-{name}); }}\n" for name in SYMBOLS
    )
    return (
        f":root {{\n  --mv-font: {FONT};\n{declare('light')}}}\n"
        f"{dark} {{\n{declare('dark')}}}\n"
        # Ink on paper is light, whatever the screen was.
        f"@media print {{\n:root, {dark} {{\n{declare('light')}}}\n}}\n"
        f"{symbols}"
    )


_TEX_TOKEN = re.compile(
    r"""
    (?P<verbatim>\\(?:text\w*|math(?:rm|bb|cal|sf|it|frak|scr)|operatorname\*?|mbox|begin|end|label
        |ref|eqref|tag|color|textcolor|class|href|hspace)\s*\{[^{}]*\})
  | (?P<accent>\\(?:bar|overline|hat|tilde|dot|mathbf|boldsymbol)\s*)
        (?:\{\s*(?P<group>\\Delta|[A-Za-z])\s*\}
          |(?P<bare>\\Delta(?![A-Za-z])|[A-Za-z]))
  | (?P<command>\\(?:[A-Za-z]+|.))
  | (?P<letter>[A-Za-z])
    """,
    re.VERBOSE,
)


def colour_symbols(latex: str, wrap: Callable[[str, str], str]) -> str:
    r"""Give every symbol of the palette in an equation its colour.

    A symbol is one of the letters of :data:`SYMBOLS` standing as a variable,
    with its accent: the ``A`` of ``\bar A`` but not the one of ``\text{A}``.

    Args:
        latex: the equation's source.
        wrap: called with a symbol's name and its TeX, gives coloured TeX.

    Returns:
        The equation's source with each symbol wrapped.

    Example:
        >>> html = lambda name, tex: rf"\class{{mv-{name}}}{{{tex}}}"
        >>> print(colour_symbols(r"\bar A = e^{\Delta}", html))
        {\class{mv-A}{\bar A}} = e^{{\class{mv-delta}{\Delta}}}
    """

    def colour(match: re.Match) -> str:
        tex = match.group()
        symbol = match["group"] or match["bare"] or tex
        if match["verbatim"] or symbol not in TEX_NAMES:
            return tex
        return f"{{{wrap(TEX_NAMES[symbol], tex)}}}"

    return _TEX_TOKEN.sub(colour, latex)


def matplotlib_style() -> dict[str, object]:
    """The plate style as matplotlib settings (light inks; text stays text).

    Returns:
        Values for ``matplotlib.rc_context``.
    """
    ink, muted, line = (INKS[n].light for n in ("ink", "muted", "line"))
    return {
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "font.family": "sans-serif",
        "font.size": 10.5,
        "axes.labelsize": 10.5,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.labelcolor": ink,
        "axes.edgecolor": line,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": line,
        "grid.linewidth": 0.6,
        "text.color": ink,
        "xtick.color": muted,
        "ytick.color": muted,
        "lines.linewidth": 1.8,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "mambaviz",
    }
