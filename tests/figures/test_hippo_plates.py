"""The plates of the chapter on HiPPO: their numbers, and their drawing."""

import numpy as np
import pytest
import scipy.special
import torch
from matplotlib.text import Text

from mambaviz.figures import hippo as figures
from mambaviz.figures.plate import NARROW, blank_axes, plate
from mambaviz.models import LSSL, S4, S4D
from mambaviz.theory import hippo_legs, hippo_legt, s4d_real

ERRORS = figures.remembered(figures.random_inputs(), 64)
FOUR = figures.four_errors()
LOSSES = [1.39 * 0.99**k for k in range(300)]
RUNS = {name: figures.Trained(None, 1024, LOSSES) for name in figures.TRAINED}
RIGHT = {
    name: {1024: 1 - 0.2 * n, 4096: 1 - 0.2 * n, 16384: 1 - 0.24 * n}
    for n, name in enumerate(figures.TRAINED)
}
SIGNAL = figures.random_inputs(1, 1000)[0, :600]
MATRICES = {
    "LegS": hippo_legs(6)[0],
    "LegT": hippo_legt(6)[0],
    "S4D-Real": torch.diag(s4d_real(6)),
}
PLATES = {
    "matrices": (figures.draw_matrices, (MATRICES,), 3, 230),
    "projection": (figures.draw_projection, (SIGNAL, (6, 12, 24)), 2, 320),
    "errors_by_age": (figures.draw_errors_by_age, (ERRORS,), 1, 350),
    "recall": (figures.draw_recall, (FOUR,), 1, 320),
    "training": (figures.draw_training, (RUNS, RIGHT), 2, 320),
}


def mean(name):
    return ERRORS[name].mean(dim=0)


def test_the_order_of_the_fifths():
    """S088, S091, E9: over 24 signals, by the chapter's recipe."""
    fading = ERRORS["LegS, time-invariant"]
    assert (fading.mean(dim=0).diff() < 0).all()
    scaled = ERRORS["LegS, scaled"]
    oldest, newest = mean("LegS, scaled")[[0, 4]]
    assert 0.5 < oldest / newest < 2
    assert (fading[:, 0] > 10 * scaled[:, 0]).all()
    # The caption: at the newest fifth for most signals, not for all.
    assert 12 < (fading[:, 4] > scaled[:, 4]).sum() < 24
    window = mean("LegT, a window")
    assert (window[:2] > 0.9).all()
    assert (window[3:] < 1e-3).all()


def test_the_order_of_the_four():
    """S090, E10: by eighths of the past, without its two ends.

    A random matrix has standard normal numbers, scaled to a spectral radius
    of 0.98; the seeds are 0 to 23, and each of them must keep the order.
    """
    eighths = {n: figures.by_eighths(e)[:, 2:7] for n, e in FOUR.items()}
    lin, legs, real, random = eighths.values()
    assert len(random) == figures.DRAWS >= 20
    assert len({tuple(draw.tolist()) for draw in random}) == len(random)
    assert list(eighths) == ["S4D-Lin", "LegS", "S4D-Real", "random"]
    assert (lin < legs).all()
    assert (legs < real).all()
    assert (real < random).all()
    assert random.min() > 0.9 > 0.3 > legs.max()


def test_the_band_goes_from_the_best_draw_to_the_worst():
    ax = figures.draw_recall(FOUR)
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    (band,) = ax.collections
    ages, height = band.get_paths()[0].vertices.T
    for age in (20, 45, 100):
        draws = FOUR["random"][:, age]
        assert draws.min() <= lines["random"][age] <= draws.max()
        found = height[ages == age]
        assert found.min() == pytest.approx(draws.min().item())
        assert found.max() == pytest.approx(draws.max().item())


def test_with_enough_digits_s4d_real_is_legs():
    few = figures.four_errors(d_state=8, precision=1e-3, draws=1)
    many = figures.four_errors(d_state=8, precision=1e-11, draws=1)
    assert (few["S4D-Real"] - few["LegS"]).max() > 0.1
    # The eigenvectors may multiply 1e-11 by 8e4.
    torch.testing.assert_close(
        many["S4D-Real"], many["LegS"], rtol=0, atol=1e-6
    )


def test_a_tune_is_a_sine_in_the_first_quarter():
    generator = torch.Generator().manual_seed(1)
    x, tune = figures.tune_task(4000, 64, generator)
    assert x.dtype == torch.float32
    assert set(tune.tolist()) == {0, 1, 2, 3}
    k = torch.arange(16)
    for number in range(4):
        mean = x[tune == number].mean(dim=0)
        wave = torch.sin(2 * torch.pi * (number + 1) * k / 16)
        # About 1000 of each with noise of 0.5: five times 0.016.
        assert (mean[:16] - wave).abs().max() < 0.08
        assert mean[16:].abs().max() < 0.08


def test_the_layers_start_where_they_say():
    kinds = {"S4 (LegS)": S4, "S4D-Lin": S4D, "S4D-Real": S4D, "random": LSSL}
    torch.manual_seed(3)
    for name, kind in kinds.items():
        layer = figures.make_layer(name, 6, 16, 100)
        assert type(layer) is kind
        assert (layer.delta >= 0.0099).all()
        assert (layer.delta <= 0.0401).all()
    slowest = torch.linalg.eigvals(layer.A.detach()).real.max()
    assert slowest.item() == pytest.approx(-1, abs=1e-3)  # float32
    with pytest.raises(ValueError, match="LegT"):
        figures.make_layer("LegT", 6, 16, 100)


def test_training_is_the_same_each_time_and_leaves_torchs_seed():
    before = torch.random.get_rng_state()
    one, other = (
        figures.train_on_tunes("S4D-Lin", steps=60, length=256)
        for _ in range(2)
    )
    assert one.losses == pytest.approx(other.losses, rel=1e-6)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.mean(one.losses[-5:]) < 0.5 * np.log(4)
    delta = one.model.mixing.layer.delta.clone()
    # The same tune, four times as fine, with the same weights.
    assert figures.accuracy(one, 1024) > 0.8
    torch.testing.assert_close(one.model.mixing.layer.delta, delta)


def test_a_random_matrix_learns_late():
    """S090: or not at all, or as the page says as well as the others."""
    never = figures.train_on_tunes("random", seed=1)
    lucky = figures.train_on_tunes("random", seed=2)
    soon = figures.train_on_tunes("S4D-Lin", steps=150, seed=1)
    # Chance is a quarter: 16 of 64, with a standard deviation of 3.5.
    assert figures.accuracy(never, 1024) < 0.4
    assert figures.accuracy(lucky, 1024) > 0.9
    assert figures.accuracy(soon, 1024) > 0.9
    late = np.array(lucky.losses[:100]).mean()
    assert late > 2 * np.array(soon.losses[:100]).mean()


def test_a_square_for_each_number_and_its_sign():
    ax = figures.draw_matrices(MATRICES)
    for panel, matrix in zip(ax, MATRICES.values(), strict=True):
        squares = [p for p in panel.patches if p.get_alpha() is not None]
        assert len(squares) == matrix.count_nonzero()
        minus, plus = panel.lines
        assert len(minus.get_xdata()) == (matrix < 0).sum()
        assert len(plus.get_xdata()) == (matrix > 0).sum()


def test_the_polynomials_are_scipys():
    left, right = figures.draw_projection(SIGNAL, (6, 12, 24))
    for n, curve in enumerate(left.lines):
        r, values = curve.get_data()
        wanted = scipy.special.eval_sh_legendre(n, r) * np.sqrt(2 * n + 1)
        np.testing.assert_allclose(values, wanted, atol=1e-13)
    gaps = [
        np.abs(line.get_ydata() - SIGNAL.numpy()).mean()
        for line in right.lines[1:]
    ]
    assert gaps[0] > gaps[1] > gaps[2]


@pytest.mark.parametrize("name", PLATES)
def test_each_drawing_makes_a_small_plate(name):
    draw, data, panels, height = PLATES[name]
    made = plate(draw, *data, alt="it", panels=panels, height=height)
    assert len(made.html().encode()) <= 40_000
    assert "$" not in made.html()


@pytest.mark.parametrize("name", PLATES)
@pytest.mark.parametrize("width", [680, NARROW])
def test_labels_stay_inside_the_picture_and_apart(name, width):
    draw, data, panels, height = PLATES[name]
    ax = blank_axes(panels, width, height)
    draw(*data, ax=ax)
    figure = np.ravel(ax)[0].figure
    figure.draw_without_rendering()
    frame = figure.bbox.padded(1)
    for panel in np.ravel(ax):
        texts = [*panel.texts, panel.title]
        if panel.axison:
            texts += [panel.xaxis.label, panel.yaxis.label]
            texts += [*panel.get_xticklabels(), *panel.get_yticklabels()]
        shown = [t for t in texts if t.get_text() and t.get_visible()]
        boxes = [Text.get_window_extent(text) for text in shown]
        for n, (text, box) in enumerate(zip(shown, boxes, strict=True)):
            assert frame.contains(*box.min), text
            assert frame.contains(*box.max), text
            for other in boxes[n + 1 :]:
                assert not box.padded(-1).overlaps(other.padded(-1)), text
