"""The palette can be read and told apart, and reaches equations and CSS."""

import itertools
import re

import numpy as np
import pytest

from mambaviz.theme import (
    FONT,
    INKS,
    SURFACES,
    SYMBOLS,
    TEX_NAMES,
    colour_symbols,
    css_variables,
    matplotlib_style,
)

MODES = ["light", "dark"]

# Colour vision, as it acts on linear RGB: Machado, Oliveira and Fernandes
# 2009, doi 10.1109/TVCG.2009.113, severity 1.
VISIONS = {
    "normal": np.eye(3),
    "protanopic": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopic": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}

# The CIE 1976 distance between any two symbols. About 2.3 is a difference
# that is just noticed side by side; letters stand apart, so we ask for more.
# Nine dark inks on white have less room than nine bright ones on black.
LEAST_DISTANCE = {"light": 11, "dark": 15}


def linear(colour):
    """sRGB's #rrggbb as linear light, 0 to 1."""
    assert re.fullmatch("#[0-9a-f]{6}", colour), colour
    v = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return linear(colour) @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    """WCAG's contrast ratio, 1 to 21."""
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    """CIE L*a*b* of linear sRGB under D65."""
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    x, y, z = (
        t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29
        for t in to_xyz @ rgb / (to_xyz @ np.ones(3))
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


class TestPalette:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("surface", ["page", "card"])
    @pytest.mark.parametrize("name", [*SYMBOLS, "ink", "muted", "warn"])
    def test_everything_written_can_be_read(self, name, surface, mode):
        ink, ground = (getattr(INKS[n], mode) for n in (name, surface))
        assert contrast(ink, ground) >= 4.5

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("vision", VISIONS)
    def test_no_two_symbols_meet(self, vision, mode):
        seen = {
            name: lab(
                np.clip(VISIONS[vision] @ linear(getattr(ink, mode)), 0, 1)
            )
            for name, ink in SYMBOLS.items()
        }
        distances = {
            pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]])
            for pair in itertools.combinations(SYMBOLS, 2)
        }
        closest = min(distances, key=distances.get)
        assert distances[closest] >= LEAST_DISTANCE[mode], closest

    def test_the_measures_themselves(self):
        assert contrast("#000000", "#ffffff") == pytest.approx(21)
        assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
        assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=0.01)
        # sRGB red, as every colour table has it.
        red = lab(linear("#ff0000"))
        assert red == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
        for matrix in VISIONS.values():  # a grey stays the grey it is
            assert matrix @ np.ones(3) == pytest.approx(np.ones(3), abs=1e-5)

    def test_red_and_green_would_fail(self):
        # What the distance is for: these two are far apart to most eyes.
        red, green = linear("#b22222"), linear("#5a7a1e")
        normal = np.linalg.norm(lab(red) - lab(green))
        matrix = VISIONS["deuteranopic"]
        seen = [lab(np.clip(matrix @ c, 0, 1)) for c in (red, green)]
        assert normal > 60
        assert np.linalg.norm(seen[0] - seen[1]) < normal / 3

    def test_nine_symbols(self):
        assert list(SYMBOLS) == ["A", "B", "C", "D", "delta", *"xhyz"]
        assert not SYMBOLS.keys() & SURFACES.keys()


def mark(name, tex):
    return f"<{name}:{tex}>"


class TestColourSymbols:
    @pytest.mark.parametrize(
        ("latex", "coloured"),
        [
            ("A", "{<A:A>}"),
            (r"\Delta A", r"{<delta:\Delta>} {<A:A>}"),
            (r"\bar A", r"{<A:\bar A>}"),
            (r"\bar{B}", r"{<B:\bar{B}>}"),
            (r"\overline{\Delta}", r"{<delta:\overline{\Delta}>}"),
            (r"\mathbf{C}", r"{<C:\mathbf{C}>}"),
            ("h_{k-1}", "{<h:h>}_{k-1}"),
            ("x_k^2", "{<x:x>}_k^2"),
            ("e^{zD}", "e^{{<z:z>}{<D:D>}}"),
            (r"\frac{y}{2}", r"\frac{{<y:y>}}{2}"),
            # Letters that are no symbols: of words, names and commands.
            (r"\text{A and B}", r"\text{A and B}"),
            (r"\mathrm{Ch}", r"\mathrm{Ch}"),
            (r"\mathbb{C}", r"\mathbb{C}"),
            (r"\operatorname{diag}(A)", r"\operatorname{diag}({<A:A>})"),
            (r"\begin{array}{c}\end{array}", r"\begin{array}{c}\end{array}"),
            (r"\exp \hbar \Deltas", r"\exp \hbar \Deltas"),
            (r"\label{eq:zoh}", r"\label{eq:zoh}"),
            (r"\bar K \lambda a b", r"\bar K \lambda a b"),
            (r"\{A\}\\B", r"\{{<A:A>}\}\\{<B:B>}"),
            ("", ""),
        ],
    )
    def test_cases(self, latex, coloured):
        assert colour_symbols(latex, mark) == coloured

    def test_every_symbol_has_its_tex(self):
        assert set(TEX_NAMES.values()) == set(SYMBOLS)

    def test_nothing_but_colour_is_added(self):
        latex = r"h_k = \bar A h_{k-1} + \bar B x_k,\quad y_k = C h_k + D x_k"
        plain = colour_symbols(latex, lambda _, tex: tex)
        assert plain.replace("{", "").replace("}", "") == latex.replace(
            "{", ""
        ).replace("}", "")


class TestStyles:
    def test_every_ink_in_both_modes(self):
        sheet = css_variables()
        screen, paper = sheet.split("@media print")
        for name, ink in INKS.items():
            assert f"--mv-{name}: {ink.light};" in screen
            assert f"--mv-{name}: {ink.dark};" in screen
            assert f"--mv-{name}: {ink.light};" in paper
            assert f"--mv-{name}: {ink.dark};" not in paper
        for name in SYMBOLS:
            assert f".mv-{name} {{ color: var(--mv-{name}); }}" in sheet
        assert f"--mv-font: {FONT};" in sheet
        assert sheet.count("{") == sheet.count("}")

    def test_dark_values_stand_under_the_dark_switches(self):
        switches = (
            ':root[data-theme="dark"], body[data-jp-theme-light="false"]'
        )
        screen, paper = css_variables().split("@media print")
        dark = screen.split("}\n")[1]
        assert dark.startswith(switches)
        assert f"--mv-page: {SURFACES['page'].dark};" in dark
        # A page that is dark on the screen is printed in the light inks.
        assert f":root, {switches} {{" in paper

    def test_matplotlib_takes_every_setting(self):
        matplotlib = pytest.importorskip("matplotlib")
        with matplotlib.rc_context(matplotlib_style()):
            assert matplotlib.rcParams["text.color"] == SURFACES["ink"].light
