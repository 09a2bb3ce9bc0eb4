"""Times of a machine: their slopes, their ticks, and the mark they carry."""

import numpy as np
import pytest

from mambaviz.figures import timing
from mambaviz.figures.plate import blank_axes, plate

LENGTHS = [64, 256, 1024, 4096, 16384]
TIMES = {
    "flat": (LENGTHS, [2e-6] * 5),
    "steep": (LENGTHS, [1e-9 * n**2 for n in LENGTHS]),
}
LOOKS = {"flat": ("h", "o"), "steep": ("warn", "s")}


@pytest.mark.parametrize("power", [0, 0.5, 1, 2])
def test_slopes_are_powers_of_the_length(power):
    seconds = [1e-6 * n**power for n in LENGTHS]
    assert timing.slope(LENGTHS, seconds) == pytest.approx(power)
    assert str(timing.slope(LENGTHS, seconds))[0] != "-"


def test_the_slope_is_that_of_the_far_end():
    seconds = [1e-3, 1e-3, 1e-3, 4e-3, 16e-3]
    assert timing.slope(LENGTHS, seconds, last=3) == pytest.approx(1)
    assert timing.slope(LENGTHS, seconds, last=5) < 0.9


def test_the_shortest_run_counts_and_the_first_does_not():
    waits = iter([0.2, 0.03, 0.01, 0.02])

    def run():
        timing.time.sleep(next(waits))

    assert 0.01 <= timing.shortest(run, ()) < 0.03


def test_the_median_run_counts_and_the_first_does_not():
    waits = iter([0.2, 0.09, 0.01, 0.03])

    def run():
        timing.time.sleep(next(waits))

    assert 0.03 <= timing.middle(run, (), 3) < 0.09


def test_ticks_are_whole_powers_and_labels_name_the_slope():
    ax = blank_axes()
    timing.draw_panel_of_times(ax, TIMES, LOOKS, "seconds")
    assert [line.get_label() for line in ax.lines] == [
        "flat: 0.0",
        "steep: 2.0",
    ]
    for axis in (ax.xaxis, ax.yaxis):
        powers = np.log10(axis.get_majorticklocs())
        assert len(powers) >= 2
        assert powers == pytest.approx(powers.round())
        labels = [label.get_text() for label in axis.get_majorticklabels()]
        assert labels == [timing.power_of_ten(int(p)) for p in powers.round()]


def test_a_measured_plate_is_marked_in_the_book_alone(monkeypatch):
    made = timing.Measured(
        plate(lambda ax: ax.set_title("two seconds"), alt="a title")
    )
    monkeypatch.setenv("MAMBAVIZ_STATIC", "1")
    page = made._repr_mimebundle_()["text/html"]
    assert page.startswith('<figure class="mv-plate" data-measured>')
    monkeypatch.delenv("MAMBAVIZ_STATIC")
    assert "data-measured" not in made._repr_mimebundle_()["text/html"]
