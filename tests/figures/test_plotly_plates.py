import base64
import json
import re
from pathlib import Path

import numpy as np
import plotly
import plotly.graph_objects as go
import pytest

from mambaviz import theme
from mambaviz.book import __file__ as book_room
from mambaviz.figures.plate import interactive_plate, stylesheet
from tests.browser.visiting import PHONE, visit

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
SCRIPT = Path(book_room).parent / "static" / "plotly_plates.js"
INK = theme.INKS
ALT = "Two lines that cross & part"


def make_figure():
    x = np.linspace(0, 1, 5)
    line = {"color": INK["x"].light}
    figure = go.Figure()
    figure.add_scatter(x=x, y=x**2, line=line, name="one")
    figure.add_scatter(x=x, y=1 - x, name="<two>", uid="random")
    figure.update_layout(height=300)
    return figure


def spec_of(page):
    (text,) = re.findall(r'<script type="application/json">(.*?)</sc', page)
    return json.loads(text)


def test_static_html_is_deterministic_and_asks_for_nothing():
    page = interactive_plate(make_figure(), ALT).html()
    assert page == interactive_plate(make_figure(), ALT).html()
    assert "random" not in page
    assert "http" not in page
    assert 'class="mv-plate mv-plotly" data-plotly' in page


def test_static_html_says_its_alt_text_as_label_and_as_words():
    page = interactive_plate(make_figure(), ALT, r"See \(x\)").html()
    said = "Two lines that cross &amp; part"
    assert f'aria-label="{said}"' in page
    assert f"<p>{said}</p>" in page
    assert r"\({\class{mv-x}{x}}\)</figcaption>" in page


def test_the_data_arrive_whole_and_no_text_can_end_the_script():
    page = interactive_plate(make_figure(), ALT).html()
    data = spec_of(page)["data"]
    raw = base64.b64decode(data[0]["y"]["bdata"])
    np.testing.assert_array_equal(
        np.frombuffer(raw, data[0]["y"]["dtype"]), np.linspace(0, 1, 5) ** 2
    )
    assert data[1]["name"] == "<two>"
    assert "<two>" not in page


def test_colours_become_variables_and_the_template_is_the_books():
    spec = spec_of(interactive_plate(make_figure(), ALT).html())
    x = INK["x"].light
    assert spec["data"][0]["line"]["color"] == f"var(--mv-x, {x})"
    template = spec["layout"]["template"]
    page, ink = INK["page"].light, INK["ink"].light
    assert template["layout"]["paper_bgcolor"] == f"var(--mv-page, {page})"
    assert template["layout"]["font"]["color"] == f"var(--mv-ink, {ink})"
    assert "data" not in template  # plotly's own default has this key


def test_logarithmic_axes_get_whole_decades_only():
    figure = make_figure().update_xaxes(type="log")
    layout = spec_of(interactive_plate(figure, ALT).html())["layout"]
    assert layout["xaxis"]["dtick"] == 1
    assert "dtick" not in layout.get("yaxis", {})


def test_making_a_plate_leaves_the_figure_as_it_was():
    figure = make_figure()
    before = figure.to_json()
    interactive_plate(figure, ALT).html()
    assert figure.to_json() == before


def test_a_notebook_shows_it_as_plotly_does_and_the_book_as_html(monkeypatch):
    made = interactive_plate(make_figure(), ALT)
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    monkeypatch.delenv("MAMBAVIZ_STATIC", raising=False)
    assert "application/vnd.plotly.v1+json" in made._repr_mimebundle_()
    monkeypatch.setenv("MAMBAVIZ_STATIC", "1")
    bundle = made._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert bundle["text/html"] == made.html()
    assert bundle["text/plain"] == f"InteractivePlate(alt={ALT!r})"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a page of two plotly plates, one far below the other."""
    folder = tmp_path_factory.mktemp("plates")
    (folder / "plotly.min.js").write_bytes(PLOTLY.read_bytes())
    (folder / "plotly_plates.js").write_bytes(SCRIPT.read_bytes())
    plate = interactive_plate(make_figure(), ALT).html()
    (folder / "index.html").write_text(
        '<!doctype html><html lang="en" data-theme="light"><meta charset='
        '"utf-8"><meta name="viewport" content="width=device-width">'
        '<title>plates</title><link rel="icon" href="data:,">'
        f"<style>{theme.css_variables()}{stylesheet()}"
        "body { margin: 10px; background: var(--mv-page); }</style><body>"
        f'<button id="before">a</button>{plate}<button id="after">b</button>'
        f'<div style="height:4000px"></div>{plate}'
        '<script src="plotly.min.js"></script>'
        '<script src="plotly_plates.js"></script></body></html>',
        encoding="utf-8",
    )
    return folder


DRAWN = "document.querySelector('.mv-plot[data-mounted] .scatterlayer')"
STROKE = (
    "getComputedStyle(document.querySelector('.scatterlayer .js-line')).stroke"
)


def rgb(colour):
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgb({r}, {g}, {b})"


@pytest.fixture
def opened(browser, folder):
    with visit(browser, folder.as_uri() + "/", "index.html") as seen:
        seen.page.wait_for_function(DRAWN)
        yield seen
        assert seen.complaints == []


@pytest.mark.browser
def test_a_plate_is_drawn_when_it_comes_near(opened):
    page = opened.page
    mounted = ".mv-plot[data-mounted]"
    assert page.locator(mounted).count() == 1
    assert page.locator(f"{mounted} > p").is_hidden()
    assert page.locator(".mv-plot").nth(1).locator("p").is_visible()
    page.locator(".mv-plot").nth(1).scroll_into_view_if_needed()
    page.wait_for_function(
        "document.querySelectorAll('.mv-plot[data-mounted]').length === 2"
    )


@pytest.mark.browser
def test_nothing_moves_when_the_picture_arrives(opened):
    height = opened.page.locator(".mv-plot").first.bounding_box()["height"]
    assert height == 300


@pytest.mark.browser
def test_colours_follow_the_page_into_the_dark_and_back(opened):
    page = opened.page
    for mode in ("light", "dark", "light"):
        page.evaluate(f"document.documentElement.dataset.theme = '{mode}'")
        page.wait_for_function(
            f"{STROKE} === '{rgb(getattr(INK['x'], mode))}'", timeout=5000
        )
        tick = page.locator(".xtick text").first
        colour = tick.evaluate("text => getComputedStyle(text).fill")
        assert colour == rgb(getattr(INK["muted"], mode))


@pytest.mark.browser
def test_paper_gets_the_light_colours_of_a_dark_page(opened):
    page = opened.page
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function(f"{STROKE} === '{rgb(INK['x'].dark)}'")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(STROKE) == rgb(INK["x"].light)
    assert page.locator(".mv-plot[data-mounted]").count() == 2
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(STROKE) == rgb(INK["x"].dark)


@pytest.mark.browser
def test_a_zoomed_picture_stays_zoomed_when_the_page_turns_dark(opened):
    page = opened.page
    plot = "document.querySelector('.mv-plot')"
    page.evaluate(f"Plotly.relayout({plot}, {{'xaxis.range': [0.2, 0.4]}})")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function(f"{STROKE} === '{rgb(INK['x'].dark)}'")
    assert page.evaluate(f"{plot}.layout.xaxis.range") == [0.2, 0.4]


@pytest.mark.browser
def test_a_picture_is_as_wide_as_its_column(opened):
    page = opened.page
    for width in (1000, 360):
        page.set_viewport_size({"width": width, "height": 700})
        page.wait_for_function(
            "document.querySelector('.main-svg').clientWidth"
            f" === {width - 20}",
            timeout=5000,
        )
    sideways = "document.documentElement.scrollWidth"
    assert page.evaluate(sideways) == 360


@pytest.mark.browser
def test_the_keyboard_passes_through(opened):
    page = opened.page
    page.locator("#before").focus()
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "after":
            return
    pytest.fail("Tab never came out of the plot")


@pytest.mark.browser
def test_no_logo_no_link_and_only_four_buttons(opened):
    page = opened.page
    names = page.locator(".mv-plot .modebar-btn").evaluate_all(
        "all => all.map((b) => b.dataset.title)"
    )
    assert names == ["Zoom", "Pan", "Reset axes", "Download plot as a PNG"]
    assert page.locator(".mv-plot a[href]").count() == 0
    hidden = page.locator(".mv-plot").first.locator(".main-svg")
    flags = hidden.evaluate_all("all => all.map((s) => s.ariaHidden)")
    assert set(flags) == {"true"}


@pytest.mark.browser
def test_a_finger_scrolls_the_page_and_not_the_picture(browser, folder):
    options = {"viewport": PHONE, "has_touch": True, "is_mobile": True}
    root = folder.as_uri() + "/"
    with visit(browser, root, "index.html", **options) as seen:
        seen.page.wait_for_function(DRAWN)
        plot = seen.page.locator(".mv-plot").first
        assert plot.evaluate("plot => plot._fullLayout.dragmode") is False
        assert seen.complaints == []


@pytest.mark.browser
def test_without_javascript_the_words_stand_there(browser, folder):
    root = folder.as_uri() + "/"
    options = {"java_script_enabled": False}
    context = browser.new_context(**options)
    try:
        page = context.new_page()
        page.goto(root + "index.html")
        assert page.get_by_text(ALT).first.is_visible()
    finally:
        context.close()
