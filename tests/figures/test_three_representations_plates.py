import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import sympy
import torch
from matplotlib.text import Text

from mambaviz.figures import three_representations as figures
from mambaviz.figures.plate import NARROW, blank_axes, plate
from mambaviz.figures.timing import slope


def real(*values):
    return torch.tensor(values, dtype=torch.float64)


X = real(1.0, 0.6, 0.9, 0.4)
TERMS = figures.share_of_each_input(real(0.6)[0], real(1.0)[0], X)
M = torch.from_numpy(scipy.linalg.toeplitz(0.7 ** np.arange(8), np.zeros(8)))
VARYING = M * real(1, 0.3, 1, 1, 0.3, 0.3, 1, 0.3)
TIMES = (
    {
        "recurrence": ([512, 1024, 2048], [3e-3, 6e-3, 1.2e-2]),
        "direct": ([512, 1024, 2048], [5e-5, 2e-4, 8e-4]),
        "FFT": ([512, 1024, 2**16], [2e-4, 2.3e-4, 1e-2]),
    },
    {
        "recurrence": ([2**14, 2**18, 2**21], [4e-6] * 3),
        "convolution": ([2**14, 2**18, 2**21], [3e-6, 4e-5, 6e-4]),
    },
)
A_bar, B_bar, C = sympy.symbols("A_bar B_bar C")
LETTERS = sympy.symbols("x_0:3")
WRITTEN_OUT = [
    sum(C * A_bar ** (k - j) * B_bar * LETTERS[j] for j in range(k + 1))
    for k in range(3)
]
COUNTS = {
    "d_state": 16,
    "length": 1024,
    "solver": 7680,
    "step": 79,
    "last output": 2047,
    "twice": 2.19,
}
WAVE = torch.sin(torch.arange(40.0))
LOSSES = [0.33 * 0.97**k for k in range(200)]
PLATES = {
    "unrolled": (figures.draw_unrolled, (), 2, 230),
    "written_out": (
        figures.draw_written_out,
        (WRITTEN_OUT, LETTERS),
        1,
        140,
    ),
    "three": (figures.draw_three, (COUNTS,), 3, 260),
    "terms": (figures.draw_terms, (TERMS,), 1, 240),
    "image_filter": (
        figures.draw_image_filter,
        (figures.square_image(), real(*figures.EDGES)),
        3,
        230,
    ),
    "toeplitz": (figures.draw_toeplitz, (M, VARYING), 2, 290),
    "times": (figures.draw_times, TIMES, 2, 320),
    "deployed": (figures.draw_deployed, (LOSSES, WAVE, WAVE, WAVE), 2, 320),
}


@pytest.fixture(scope="module")
def trained():
    return figures.train_by_convolution()


def test_five_ways_meet_scipys():
    generator = torch.Generator().manual_seed(3)
    A = torch.randn(3, 3, generator=generator).double() - 2 * torch.eye(3)
    B, C = torch.randn(2, 3, generator=generator).double()
    x = torch.randn(25, generator=generator).double()
    outputs = figures.five_ways(A, B, C, 0.5, x, 0.2)
    assert len(outputs) == 5
    A_bar, B_bar, *_ = scipy.signal.cont2discrete(
        (A.numpy(), B.numpy()[:, None], C.numpy()[None], np.zeros((1, 1))),
        0.2,
    )
    taps = [C.numpy() @ B_bar[:, 0]]
    for _ in x[1:]:
        B_bar = A_bar @ B_bar
        taps.append(C.numpy() @ B_bar[:, 0])
    wanted = scipy.signal.lfilter(taps, [1.0], x.numpy()) + 0.5 * x.numpy()
    for name, y in outputs.items():
        # The chapter's bound; five algorithms, outputs of size 1.
        np.testing.assert_allclose(y, wanted, atol=1e-12, err_msg=name)


def test_the_filter_is_scipys():
    generator = torch.Generator().manual_seed(4)
    image = torch.rand(7, 9, generator=generator).double()
    weights = torch.randn(3, 3, generator=generator).double()
    np.testing.assert_allclose(
        figures.filter_image(image, weights),
        scipy.signal.correlate2d(image, weights, mode="same"),
        atol=1e-14,
    )


def test_terms_sum_to_the_states():
    states = scipy.signal.lfilter([1.0], [1.0, -0.6], X.numpy())
    np.testing.assert_allclose(TERMS.sum(dim=1), states, rtol=1e-15)
    ax = figures.draw_terms(TERMS)
    for j, pieces in enumerate(ax.containers):
        heights = [bar.get_height() for bar in pieces]
        np.testing.assert_allclose(heights, TERMS[:, j])
    assert len(ax.containers) == len(X)


def test_unrolled_shows_every_step():
    loop, chain = figures.draw_unrolled(steps=3)
    words = [text.get_text() for text in chain.texts]
    assert {f"{s}{k}" for s in "xhy" for k in "₀₁₂"} <= set(words)
    assert words.count("Ā") == 2
    assert [text.get_text() for text in loop.texts].count("Ā") == 1


def test_the_letters_are_those_of_the_algebra():
    """S068: row by row, each weight above a bar of the age of its token."""
    h, written = 0, []
    for x_k in LETTERS:
        h = A_bar * h + B_bar * x_k
        written.append(sympy.expand(C * h))
    ax = figures.draw_written_out(written, LETTERS)
    rows = {}
    for text in ax.texts:
        rows.setdefault(text.get_position()[1], []).append(text)
    read = [
        "".join(t.get_text() for t in sorted(row, key=Text.get_position))
        for _, row in sorted(rows.items())
    ]
    assert read == [
        "y₀=CB̄x₀",
        "y₁=CĀB̄x₀+CB̄x₁",
        "y₂=CĀ²B̄x₀+CĀB̄x₁+CB̄x₂",
    ]
    by_age = {}
    for bar in ax.patches:
        age = round(bar.get_y() - bar.get_x() - 0.56)
        by_age.setdefault(age, set()).add(bar.get_alpha())
    assert [len(by_age[age]) for age in range(3)] == [1, 1, 1]
    strength = [max(by_age[age]) for age in range(3)]
    assert strength == sorted(strength, reverse=True)


def test_for_and_against_have_the_counts():
    """S079."""
    words = {
        panel.get_title(): [text.get_text() for text in panel.texts]
        for panel in figures.draw_three(COUNTS)
    }
    assert list(words) == [
        "differential equation",
        "recurrence",
        "convolution",
    ]
    assert "− a token: 7,680 operations" in words["differential equation"]
    assert "+ a token: 79 operations" in words["recurrence"]
    assert "+ twice as long: 2.2 × the work" in words["convolution"]
    assert "− token 1,024: 2,047 operations" in words["convolution"]
    for lines in words.values():
        assert {line[:2] for line in lines} >= {"+ ", "− "}


def test_the_slopes_of_a_solver_are_counted():
    A, B = -torch.arange(1, 5).double(), torch.ones(4).double()
    few, many = (figures.count_slopes(A, B, delta) for delta in (0.01, 1.0))
    assert 2 < few < many


def test_stripes_are_of_one_shade_where_the_system_is_fixed():
    fixed, varying = figures.draw_toeplitz(M, VARYING)

    def shades(ax, lag):
        return {
            patch.get_alpha()
            for patch in ax.patches
            if patch.get_alpha() is not None
            and round(patch.get_y() - patch.get_x()) == lag
        }

    for lag in range(7):
        assert len(shades(fixed, lag)) == 1
        assert len(shades(varying, lag)) == 2


def test_each_line_has_its_name_and_its_slope():
    whole, token = figures.draw_times(*TIMES)
    labels = [line.get_label() for line in [*whole.lines, *token.lines]]
    assert labels[:2] == ["recurrence: 1.0", "direct: 2.0"]
    assert labels[3] == "recurrence: 0.0"


def test_the_lines_of_a_whole_sequence_can_cross():
    """S077: all ways from one length on, the FFT the farthest."""
    times = figures.measure_sequence()
    assert list(times) == ["recurrence", "direct", "FFT"]
    assert len({lengths[0] for lengths, _ in times.values()}) == 1
    assert max(times["FFT"][0]) > 8 * max(times["direct"][0])
    assert all(min(seconds) > 0 for _, seconds in times.values())
    # Not how fast, which is the machine's affair: a direct convolution of
    # 16 times the length does 256 times the work.
    assert slope(*times["direct"], last=5) > 1


def test_times_are_positive_and_as_many_as_lengths():
    times = figures.measure_token()
    assert set(times) == {"recurrence", "convolution"}
    for lengths, seconds in times.values():
        assert len(lengths) == len(seconds)
        assert min(seconds) > 0


def test_the_layer_learns_and_both_ways_agree(trained):
    model, losses = trained
    assert losses[-1] < losses[0] / 10
    x, wanted = figures.echo_task(2, 120, torch.Generator().manual_seed(5))
    with torch.no_grad():
        by_convolution, by_recurrence = model(x), model.stream(x)
    # Claim S081: within 1e-5 in single precision.
    assert (by_convolution - by_recurrence).abs().max() < 1e-5
    assert (by_convolution - wanted).square().mean() < 0.02


def test_training_is_the_same_each_time_and_leaves_torchs_seed(trained):
    before = torch.random.get_rng_state()
    _, losses = figures.train_by_convolution(steps=3)
    assert losses == pytest.approx(trained[1][:3], rel=1e-6)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_echo_is_the_input_six_steps_later():
    x, wanted = figures.echo_task(3, 20, torch.Generator().manual_seed(6))
    assert torch.equal(wanted[:, 6:], x[:, :-6])
    assert not wanted[:, :6].any()


@pytest.mark.parametrize("name", PLATES)
def test_each_drawing_makes_a_small_plate(name):
    draw, data, panels, height = PLATES[name]
    made = plate(draw, *data, alt="it", panels=panels, height=height)
    assert len(made.html().encode()) <= 26_000
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
