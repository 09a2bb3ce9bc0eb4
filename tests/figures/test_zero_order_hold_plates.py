import math
import re

import numpy as np
import pytest
import torch
from matplotlib.path import Path
from matplotlib.text import Text

from mambaviz import theme
from mambaviz.figures import zero_order_hold as figures
from mambaviz.figures.plate import NARROW, blank_axes, plate
from mambaviz.theory.convergence import (
    discretization_errors,
    observed_order,
)
from mambaviz.theory.discretize import DISCRETIZATION_RULES

ERRORS = figures.error_orders()
PHI1_ERRORS = {
    "float32": figures.phi1_errors(torch.float32),
    "float64": figures.phi1_errors(torch.float64),
}
PLATES = {
    "error_orders": (figures.draw_error_orders, (ERRORS,), 2),
    "stability_plane": (figures.draw_stability_plane, (), 3),
    "expm1": (figures.draw_expm1, (PHI1_ERRORS,), 1),
    "half_lives": (figures.draw_half_lives, (), 1),
    "euler_ratio": (figures.draw_euler_ratio, (), 1),
}


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def words(ax):
    return [text.get_text() for text in [*ax.texts, ax.title]]


def test_every_error_drawn_is_the_theorys_and_named_with_its_slope():
    panels = figures.draw_error_orders(ERRORS)
    for ax, sampling in zip(panels, ERRORS, strict=True):
        drawn = lines(ax)
        for rule in DISCRETIZATION_RULES:
            errors = discretization_errors(rule, figures.DELTAS, sampling)
            deltas, values = drawn[rule].get_data()
            np.testing.assert_array_equal(deltas, figures.DELTAS)
            np.testing.assert_array_equal(values, errors)
            order = observed_order(figures.DELTAS, errors)
            label = theme.RULES[rule].label
            assert f"{label}: {order:.2f}" in words(ax)


def test_only_zoh_and_bilinear_gain_an_order_at_midpoints():
    def orders(sampling):
        return {
            rule: round(observed_order(figures.DELTAS, errors))
            for rule, errors in ERRORS[sampling].items()
        }

    assert set(orders("left").values()) == {1}
    second = {rule for rule, p in orders("midpoint").items() if p == 2}
    assert second == {"zoh", "bilinear"}


def test_rules_differ_by_dashes_and_by_marker_and_not_by_ink_alone():
    styles = theme.RULES
    assert set(styles) == set(DISCRETIZATION_RULES)
    for trait in ("label", "dashes", "marker"):
        assert len({getattr(s, trait) for s in styles.values()}) == 5
    assert {s.ink for s in styles.values()} <= {"ink", "muted", "warn"}
    drawn = lines(figures.draw_error_orders(ERRORS)[0])
    for rule, style in styles.items():
        assert drawn[rule].get_marker() == style.marker


def test_points_of_the_stability_plane_are_judged_by_the_rules():
    points = torch.tensor(figures.DECAYING)
    assert (points.real < 0).all()
    panels = figures.draw_stability_plane()
    groups = ("euler",), ("backward_euler",), ("zoh", "bilinear", "mamba")
    counts = []
    for ax, rules in zip(panels, groups, strict=True):
        drawn = lines(ax)
        stays = len(drawn["stays"].get_xdata())
        assert stays + len(drawn["grows"].get_xdata()) == len(points)
        for rule in rules:
            A_bar, _ = DISCRETIZATION_RULES[rule](points, 1.0, 1.0)
            assert (A_bar.abs() <= 1).sum() == stays
        assert f"{stays} of 6 stay bounded" in ax.title.get_text()
        counts.append(stays)
    assert counts == [2, 6, 6]


def test_regions_of_the_stability_plane_are_the_known_ones():
    real, imag = np.meshgrid(
        np.linspace(-3.9, 2.3, 63), np.linspace(-2, 2, 41)
    )
    z = (real + 1j * imag).ravel()
    known = {
        "Euler": abs(z + 1) - 1,
        "backward Euler": 1 - abs(z - 1),
        "ZOH, bilinear, Mamba's code": z.real,
    }
    for ax, (title, outside) in zip(
        figures.draw_stability_plane(), known.items(), strict=True
    ):
        assert ax.title.get_text().startswith(title + "\n")
        (region,) = ax.collections[0].get_paths()
        inside = np.zeros(len(z), dtype=bool)
        for ring in region.to_polygons():  # a ring in a ring is a hole
            points = np.column_stack([z.real, z.imag])
            inside ^= Path(ring).contains_points(points)
        clear = abs(outside) > 0.02
        np.testing.assert_array_equal(inside[clear], outside[clear] < 0)


def test_bilinear_and_mamba_share_the_region_of_zoh():
    z = torch.randn(500, dtype=torch.complex128, generator=_seed())
    regions = [
        DISCRETIZATION_RULES[rule](z, 1.0, 1.0)[0].abs() <= 1
        for rule in ("zoh", "bilinear", "mamba")
    ]
    assert torch.equal(regions[0], regions[1])
    assert torch.equal(regions[0], regions[2])
    assert 0 < regions[0].sum() < 500


def _seed():
    return torch.Generator().manual_seed(0)


def test_naive_phi1_loses_every_digit_and_ours_none():
    for dtype, errors in PHI1_ERRORS.items():
        z, naive, stable = errors
        epsilon = torch.finfo(getattr(torch, dtype)).eps
        assert z[0] == pytest.approx(-1e-16)
        assert z[-1] == -1
        assert naive[z.abs() < epsilon / 2].min() > 0.5
        assert stable.max() < 3 * epsilon
        # Where e^z - 1 keeps some digits, their number falls with |z|.
        some = (z.abs() > 10 * epsilon) & (z.abs() < 0.1)
        lost = naive[some] * z.abs()[some] / epsilon
        assert lost.min() > 0.05
        assert lost.max() < 2


def test_the_decimal_reference_of_phi1_is_its_series():
    z = -0.37
    series = math.fsum(z**k / math.factorial(k + 1) for k in range(25))
    assert float(figures._phi1_in_decimals(z)) == pytest.approx(
        series, rel=1e-15
    )


def test_expm1_draws_the_errors_it_is_given():
    drawn = lines(figures.draw_expm1(PHI1_ERRORS))
    for dtype, (z, naive, stable) in PHI1_ERRORS.items():
        for way, errors in (("naive", naive), ("phi1", stable)):
            line = drawn[f"{way} {dtype}"]
            np.testing.assert_array_equal(line.get_xdata(), z.abs())
            np.testing.assert_array_equal(line.get_ydata(), errors)


def test_half_lives_are_those_of_mambas_first_values():
    ax = figures.draw_half_lives()
    drawn = lines(ax)
    for A in (-1, -2, -4, -8, -16):
        delta, steps = drawn[f"{A}"].get_data()
        np.testing.assert_allclose(steps, math.log(2) / (delta * -A))
        np.testing.assert_allclose(delta[[0, -1]], [1e-3, 1e-1])
    assert {"693 steps", "0.43 steps", "A = −1", "A = −16"} <= set(words(ax))


def test_euler_ratio_is_that_of_e11():
    ax = figures.draw_euler_ratio()
    u, ratio = lines(ax)["ratio"].get_data()
    np.testing.assert_allclose(ratio, u / -np.expm1(-u), rtol=1e-12)
    told = {"1.05 at 0.1", "1.58 at 1", "2.00 at 1.6", "4.07 at 4"}
    assert told <= set(words(ax))
    (shade,) = ax.patches
    assert shade.get_x() == pytest.approx(1e-3)
    assert shade.get_x() + shade.get_width() == pytest.approx(1.6)


@pytest.mark.parametrize("name", PLATES)
def test_each_drawing_makes_a_small_plate(name):
    draw, data, panels = PLATES[name]
    made = plate(draw, *data, alt="what it shows", panels=panels)
    assert len(made.html().encode()) <= 26_000


@pytest.mark.parametrize("name", PLATES)
@pytest.mark.parametrize("width", [680, NARROW])
def test_labels_stay_inside_the_picture_and_apart(name, width):
    draw, data, panels = PLATES[name]
    ax = blank_axes(panels, width, 320)
    draw(*data, ax=ax)
    figure = np.ravel(ax)[0].figure
    figure.draw_without_rendering()
    frame = figure.bbox.padded(1)
    for panel in np.ravel(ax):
        texts = [*panel.texts, panel.title, panel.xaxis.label]
        texts += [*panel.get_xticklabels(), *panel.get_yticklabels()]
        boxes = {}
        for text in texts:
            if text.get_text() and text.get_visible():
                boxes[text.get_text()] = Text.get_window_extent(text)
        for what, box in boxes.items():
            assert frame.contains(*box.min), what
            assert frame.contains(*box.max), what
            for other, next_box in boxes.items():
                if other != what:
                    apart = not box.padded(-1).overlaps(next_box.padded(-1))
                    assert apart, (what, other)


def test_symbols_are_written_in_unicode_and_not_in_mathtext():
    for draw, data, panels in PLATES.values():
        made = plate(draw, *data, alt="what it shows", panels=panels)
        assert "$" not in made.html()
        for text in re.findall(r"<text[^>]*>([^<]*)</text>", made.html()):
            assert not re.search(r"-\d", text), text  # a minus is −
