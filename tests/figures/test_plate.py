import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import plotly.graph_objects as go
import pytest

from mambaviz import theme
from mambaviz.figures import plate as plates
from mambaviz.figures.plate import (
    NARROW,
    WIDE,
    blank_axes,
    interactive_plate,
    plate,
)

INK = {name: pair.light for name, pair in theme.INKS.items()}


def draw_lines(points, ax=None):
    x = np.linspace(0, 1, points)
    ax.plot(x, x**2, "o-", color=INK["x"])
    ax.fill_between(x, x**2, color=INK["A"], alpha=0.2)
    ax.set_title("a <b> & c")
    return ax


def draw_panels(ax=None):
    for panel, name in zip(ax, "ABC", strict=True):
        panel.plot([0, 1], [0, 1], color=INK[name])


def drawings(made):
    """The SVG elements of a plate, as a parser of XML sees them."""
    return [ElementTree.fromstring(svg) for svg in (made.wide, made.narrow)]


def test_plate_draws_for_both_widths():
    seen = []

    def draw(ax):
        seen.append(ax.figure.get_figwidth() * 72)

    made = plate(draw, alt="nothing", height=200)
    assert seen == [WIDE, NARROW]
    wide, narrow = drawings(made)
    assert wide.get("viewBox") == "0 0 680 200"
    assert narrow.get("viewBox") == "0 0 340 200"
    assert made.html().count("<svg") == 2


def test_panels_stand_side_by_side_when_wide_and_stacked_when_narrow():
    made = plate(draw_panels, alt="three lines", panels=3, height=150)
    wide, narrow = drawings(made)
    assert wide.get("viewBox") == "0 0 680 150"
    assert narrow.get("viewBox") == "0 0 340 450"
    beside = [ax.get_subplotspec().colspan.start for ax in blank_axes(3)]
    stacked = [
        ax.get_subplotspec().rowspan.start for ax in blank_axes(3, NARROW)
    ]
    assert beside == stacked == [0, 1, 2]


@pytest.mark.parametrize("alt", ["", "  ", None])
def test_a_plate_without_alt_text_is_refused(alt):
    with pytest.raises(ValueError, match="alt must say in words"):
        plate(draw_lines, 5, alt=alt)
    with pytest.raises(ValueError, match="alt must say in words"):
        interactive_plate(go.Figure(), alt)


def test_alt_text_is_the_name_of_the_picture():
    made = plate(draw_lines, 5, alt='y < 1 & "x"')
    page = made.html()
    assert 'role="img" aria-label="y &lt; 1 &amp; &quot;x&quot;"' in page
    assert page.count("aria-label") == 1


def test_the_same_data_give_the_same_bytes():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_plate import draw_lines, plate\n"
        "print(plate(draw_lines, 9, alt='a').html())"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    other = subprocess.run(command, capture_output=True, check=True, text=True)
    assert other.stdout.strip() == plate(draw_lines, 9, alt="a").html()


def test_no_date_no_program_and_no_rules_for_the_whole_page():
    page = plate(draw_lines, 9, alt="a").html()
    assert not re.search(r"metadata|<style|\d\d:\d\d|[Mm]atplotlib|<\?", page)


def test_every_colour_follows_the_page():
    page = plate(draw_lines, 9, alt="a").html()
    left = re.sub(r"var\(--mv-(\w+), (#[0-9a-f]{6})\)", "", page)
    assert not re.search(r"#[0-9a-f]{6}\b(?!-)", left)
    for name, value in re.findall(r"var\(--mv-(\w+), (#[0-9a-f]{6})\)", page):
        assert value == theme.INKS[name].light
    assert f"var(--mv-x, {INK['x']})" in page
    assert f"fill:var(--mv-A, {INK['A']})" in page


def test_a_colour_outside_the_palette_is_refused():
    def draw(ax):
        ax.plot([0, 1], color="#123456")

    with pytest.raises(ValueError, match="#123456, which is no light colour"):
        plate(draw, alt="a line")


def test_ids_are_unique_and_every_reference_has_its_target():
    one = plate(draw_lines, 9, alt="a")
    two = plate(draw_lines, 10, alt="a")
    svg = one.wide + one.narrow + two.wide + two.narrow
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) >= 8
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"mv[0-9a-f]{6}-\d+", name) for name in ids)
    for drawing in (one.wide, one.narrow, two.wide, two.narrow):
        own = set(re.findall(r'\bid="([^"]+)"', drawing))
        used = re.findall(r'(?:url\(|href=")#([^")]+)', drawing)
        assert set(used) == own


def test_text_stays_text_in_the_readers_font():
    wide, narrow = drawings(plate(draw_lines, 9, alt="a"))
    for svg in (wide, narrow):
        texts = {text.text for text in svg.iter("text")}
        assert {"a <b> & c", "0.0", "1.0"} <= texts
        assert float(svg.get("font-size")) >= 12.5
    assert "font-family" not in ElementTree.tostring(wide, encoding="unicode")


def test_text_is_readable_at_every_width_of_the_page():
    sheet = plates.stylesheet()
    change = int(re.search(r"@container \(min-width: (\d+)px\)", sheet)[1])
    assert plates.TEXT_SIZE * change / WIDE >= 10.5
    # A phone of 320 px leaves 288 px between the page's margins.
    assert plates.TEXT_SIZE * 288 / NARROW >= 10.5


def test_thinning_moves_a_line_by_less_than_a_third_of_a_pixel():
    t = np.linspace(0, 1, 400)
    points = np.column_stack([600 * t, 100 * np.sin(9 * t)])
    path = "M" + "L".join(f"{x:f} {y:f} " for x, y in points)
    short = plates._short_path(path)
    kept = np.array(re.findall(r"-?[\d.]+", short), float).reshape(-1, 2)
    assert len(kept) < 100
    missed = np.interp(points[:, 0], kept[:, 0], kept[:, 1]) - points[:, 1]
    assert abs(missed).max() < 0.3


def test_paths_keep_their_rings_and_curves():
    ring = "M 0 0 L 10.04 0 L 10 10 z M 2.006 2 L 5 2 L 5 5 z "
    assert plates._short_path(ring) == "M0 0L10 0L10 10zM2.01 2L5 2L5 5z"
    curve = "M 0 3 C 0.795609 3 1.55874 2.683901 2.12132 2.12132 z"
    assert plates._short_path(curve) == "M0 3C0.8 3 1.56 2.68 2.12 2.12z"


def test_matplotlibs_state_is_as_it_was():
    before = dict(matplotlib.rcParams)
    plate(draw_lines, 9, alt="a")
    blank_axes()
    assert dict(matplotlib.rcParams) == before
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        assert pyplot.get_fignums() == []


def test_state_is_restored_and_refusals_pass_through_when_drawing_fails():
    before = dict(matplotlib.rcParams)

    def draw(ax):
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        plate(draw, alt="a")
    assert dict(matplotlib.rcParams) == before


def test_a_readers_matplotlib_settings_do_not_change_a_plate():
    ours = plate(draw_lines, 9, alt="a").html()
    settings = {"font.size": 30, "axes.facecolor": "red", "lines.marker": "x"}
    with matplotlib.rc_context(settings):
        assert plate(draw_lines, 9, alt="a").html() == ours


def test_caption_keeps_its_markup_and_colours_its_symbols():
    caption = r"Is \(x_k < \bar A\) <b>held</b>? <script>no & no</script>"
    made = plate(draw_lines, 5, alt="a", caption=caption)
    page = made.html()
    assert r"\({\class{mv-x}{x}}_k &lt; {\class{mv-A}{\bar A}}\)" in page
    assert "<b>held</b>? &lt;script&gt;no &amp; no&lt;/script&gt;" in page
    assert '<figcaption class="tex2jax_process mathjax_process">' in page
    assert "figcaption" not in plate(draw_lines, 5, alt="a").html()


def test_a_notebook_gets_the_style_sheet_and_the_book_does_not(monkeypatch):
    made = plate(draw_lines, 5, alt="a")
    monkeypatch.delenv("MAMBAVIZ_STATIC", raising=False)
    live = made._repr_html_()
    assert "--mv-ink:" in live
    assert "@container" in live
    monkeypatch.setenv("MAMBAVIZ_STATIC", "1")
    assert made._repr_html_() == made.html()
    assert "<style" not in made.html()


def test_text_of_a_plate_in_a_terminal_is_short():
    assert (
        repr(plate(draw_lines, 5, alt="a")) == "Plate(alt='a', caption=None)"
    )


def test_stylesheet_rules_touch_plates_only():
    sheet = re.sub(r"/\*.*?\*/", "", plates.stylesheet(), flags=re.DOTALL)
    for selector in re.findall(r"([^{}]+)\{", sheet):
        selector = selector.strip()
        assert selector.startswith(("@", ".mv-pl")), selector


def test_fonts_are_those_that_ship_with_matplotlib():
    # The layout of a plate must not depend on the fonts of a machine.
    with matplotlib.style.context(plates.STYLE, after_reset=True):
        family = matplotlib.rcParams["font.sans-serif"][0]
    assert family == "DejaVu Sans"
