import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from matplotlib.text import Text

from mambaviz.figures import state_space_models as figures
from mambaviz.figures.plate import NARROW, blank_axes, plate
from mambaviz.theory.mechanics import mass_spring


def real(*values):
    return torch.tensor(values, dtype=torch.float64)


TIMES = torch.linspace(0, 8, 161, dtype=torch.float64)
STATES = figures.release(TIMES)
FLOWN = figures.fly(torch.linspace(0, 4, 121, dtype=torch.float64))
COUPLED = real((-2.0, 1.0), (1.0, -2.0))
WALK = real((0, 0, 11), (1, 0, 10), (2, 0, 9), (2, 1, 8), (1, 1, 7))
WORDS = ("Hello", "my", "name", "is", "Mamba")
EMBEDDINGS = torch.randn(
    5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)


@pytest.fixture(scope="module")
def fit():
    return figures.identify(*figures.recording())


def plates(fit):
    return {
        "release": (figures.draw_release, (TIMES, STATES), 3, 240),
        "vectors": (
            figures.draw_vectors,
            (WALK, EMBEDDINGS, WORDS),
            2,
            230,
        ),
        "modes": (figures.draw_modes, (COUPLED,), 2, 330),
        "flight": (figures.draw_flight, FLOWN, 2, 300),
        "fit": (figures.draw_fit, (fit,), 2, 300),
    }


NAMES = ["release", "vectors", "modes", "flight", "fit"]


def test_releases_are_the_closed_forms():
    t = TIMES.numpy()
    w = np.sqrt(4 - 0.3**2)
    light = np.exp(-0.3 * t) * (np.cos(w * t) + 0.3 / w * np.sin(w * t))
    critical = np.exp(-2 * t) * (1 + 2 * t)
    slow, fast = -5 + np.sqrt(21), -5 - np.sqrt(21)
    heavy = (fast * np.exp(slow * t) - slow * np.exp(fast * t)) / (fast - slow)
    # The solver's tolerance is 1e-14 a step, over some hundred steps.
    for name, q in (("light", light), ("critical", critical)):
        np.testing.assert_allclose(STATES[name][:, 0], q, atol=1e-11)
    np.testing.assert_allclose(STATES["heavy"][:, 0], heavy, atol=1e-11)


def test_only_the_light_damping_swings_over():
    over = {name: bool((h[:, 0] < -1e-12).any()) for name, h in STATES.items()}
    assert over == {"light": True, "critical": False, "heavy": False}
    end = {name: h[60, 0].item() for name, h in STATES.items()}
    assert end["critical"] < end["heavy"]


def test_the_flight_is_scipys_and_the_formulas():
    solved, exact = FLOWN
    # Claim S043.
    assert (solved - exact).abs().max() < 1e-9

    def slope(t, h):
        force = 12 * np.cos(2 * t), 12 * np.sin(2 * t), -9.81 * 2
        return [*h[3:], *(np.array(force) / 2)]

    found = scipy.integrate.solve_ivp(
        slope, (0, 4), figures.LAUNCH, rtol=1e-11, atol=1e-11
    )
    np.testing.assert_allclose(solved[-1], found.y[:, -1], atol=1e-8)


def test_the_recording_is_scipys_answer_and_its_noise():
    x, y = figures.recording()
    A, B, C, _ = mass_spring(1.0, 4.0, 0.6)
    A_bar = scipy.linalg.expm(0.1 * A.numpy())
    B_bar = np.linalg.solve(A.numpy(), (A_bar - np.eye(2)) @ B.numpy())
    h, clean = np.zeros(2), []
    for x_k in x.numpy():
        h = A_bar @ h + B_bar * x_k
        clean.append(C.numpy() @ h)
    noise = y.numpy() - np.array(clean)
    # 200 samples: the spread of a spread is about 5 %.
    assert noise.std() / np.std(clean) == pytest.approx(0.01, rel=0.2)


def test_gradients_are_difference_quotients():
    x, y = figures.recording()
    guess = [p.requires_grad_() for p in figures.first_guess()]
    assert torch.autograd.gradcheck(
        lambda *system: figures.fit_loss(*system, x[:80], y[:80]),
        guess,
        rtol=1e-5,  # claim S050
        atol=1e-8,
    )


def test_the_learned_system_answers_a_push_within_one_per_cent(fit):
    A, B, _, _ = mass_spring(1.0, 4.0, 0.6)
    A, B = A.numpy(), B.numpy()
    A_bar = scipy.linalg.expm(0.1 * A)
    h = np.linalg.solve(A, (A_bar - np.eye(2)) @ B)
    wanted = []
    for _ in range(figures.TAPS):
        wanted.append(h[0])
        h = A_bar @ h
    wanted = np.array(wanted)
    found = fit.kernels[150].numpy()
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < 0.01
    assert fit.losses[-1] < fit.losses[0] / 1000
    # No better than the noise: 1 % of the spread, squared.
    assert fit.losses[-1] == pytest.approx(1e-4, rel=0.2)
    values = np.linalg.eigvals(fit.A.numpy())
    assert max(values, key=lambda v: v.imag) == pytest.approx(
        -0.3 + 1j * np.sqrt(3.91), rel=0.01
    )
    assert np.abs(fit.A.numpy() - A).max() > 0.5


def test_stages_of_the_fit_are_drawn(fit):
    loss, answers = figures.draw_fit(fit)
    assert len(loss.lines[0].get_ydata()) == 151
    labels = [line.get_label() for line in answers.lines]
    assert labels == ["true", "step 0", "step 20", "step 40", "step 150"]
    true, *stages = (line.get_ydata() for line in answers.lines)
    errors = [np.abs(stage - true).max() for stage in stages]
    assert errors[-1] < errors[-2] < errors[0]


def test_modes_do_not_feel_each_other():
    _, own = figures.draw_modes(COUPLED)
    t = np.linspace(0, 4, 80)
    paths = [line for line in own.lines if len(line.get_xdata()) == 80]
    assert len(paths) == 8
    for line in paths:
        first, second = line.get_xydata().T
        np.testing.assert_allclose(first, first[0] * np.exp(-3 * t))
        np.testing.assert_allclose(second, second[0] * np.exp(-t))


def test_every_number_of_a_vector_is_written():
    walk, text = figures.draw_vectors(WALK, EMBEDDINGS, WORDS)
    said = [t.get_text() for t in walk.texts]
    assert said == [f"{v:.0f}" for v in WALK.flatten().tolist()]
    said = [t.get_text().replace("−", "-") for t in text.texts]
    wanted = [round(v, 1) for v in EMBEDDINGS.flatten().tolist()]
    assert [float(number) for number in said] == pytest.approx(wanted)
    assert [t.get_text() for t in text.get_yticklabels()] == list(WORDS)


@pytest.mark.parametrize("name", NAMES)
def test_each_drawing_makes_a_small_plate(name, fit):
    draw, data, panels, height = plates(fit)[name]
    made = plate(draw, *data, alt="it", panels=panels, height=height)
    assert len(made.html().encode()) <= 26_000
    assert "$" not in made.html()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [680, NARROW])
def test_labels_stay_inside_the_picture_and_apart(name, width, fit):
    draw, data, panels, height = plates(fit)[name]
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
