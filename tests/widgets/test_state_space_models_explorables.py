"""Maze, Wires and DrawASignal: numbers, and in a browser."""

import math
import re

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import scipy.sparse.csgraph
import torch
import traitlets

from mambaviz import theme
from mambaviz.widgets import DrawASignal, Maze, Wires
from mambaviz.widgets.maze import (
    PICTURE,
    follow,
    next_move,
    read_maze,
    steps_to_exit,
    successors,
    without_walls,
)
from tests.widgets.showing import (
    frame,
    readout,
    state,
    words_outside,
    words_that_overlap,
)

STEPS = ("b", "a", "c", "d")


def drawn(row, column):
    """What stands in the picture between two places, or in one."""
    return PICTURE.strip("\n").splitlines()[row][column]


def test_the_graph_has_the_ways_of_the_picture():
    maze = read_maze()
    for place in range(30):
        row, column = divmod(place, 6)
        around = {
            0: (2 * row, 3 * column + 1),
            1: (2 * row + 1, 3 * column + 3),
            2: (2 * row + 2, 3 * column + 1),
            3: (2 * row + 1, 3 * column),
        }
        beside = {0: place - 6, 1: place + 1, 2: place + 6, 3: place - 1}
        wanted = [
            (move, beside[move])
            for move, spot in around.items()
            if drawn(*spot) == " "
        ]
        assert successors(maze, place) == wanted


@pytest.mark.parametrize("walls", [True, False])
def test_distances_are_scipys(walls):
    maze = read_maze(walls=walls)
    edges = np.zeros((30, 30))
    for place in range(30):
        for _, beside in successors(maze, place):
            edges[place, beside] = 1
    assert (edges == edges.T).all()
    found = scipy.sparse.csgraph.shortest_path(edges, unweighted=True)
    assert steps_to_exit(maze) == found[maze["exit"]].tolist()


@pytest.mark.parametrize("walls", [True, False])
def test_the_controller_needs_the_least_number_of_moves(walls):
    maze = read_maze(walls=walls)
    least = steps_to_exit(maze)
    for place in range(30):
        here, moves = place, 0
        while (move := next_move(maze, here)) >= 0:
            here = dict(successors(maze, here))[move]
            moves += 1
        assert here == maze["exit"]
        assert moves == least[place]


def test_in_open_space_the_equation_is_the_walk():
    maze = read_maze(walls=False)
    generator = torch.Generator().manual_seed(0)
    walk = [1, 2]
    for _ in range(40):  # a random walk that keeps off the outer walls
        ways = successors(maze, follow(maze, walk)[-1])
        n = int(torch.randint(len(ways), (), generator=generator))
        walk.append(ways[n][0])
    played = [[p % 6, p // 6] for p in follow(maze, walk)]
    assert without_walls(maze, walk).tolist() == played


def test_in_open_space_only_the_rim_stops_a_walk():
    maze = read_maze(walls=False)
    for place in range(30):
        row, column = divmod(place, 6)
        inside = {
            0: row > 0,
            1: column < 5,
            2: row < 4,
            3: column > 0,
        }
        ways = [move for move, _ in successors(maze, place)]
        assert ways == [move for move in range(4) if inside[move]]


def test_a_wall_stops_the_walk_and_not_the_equation():
    maze = read_maze()
    walk = [1, 2, 1, 1]  # the second and the last move meet a wall
    places = follow(maze, walk)
    assert places == [0, 1, 1, 2, 2]
    believed = without_walls(maze, walk).tolist()
    assert believed[-1] == [3, 1]


@pytest.mark.parametrize("walk", ["", {}, "12", None, [4], [0] * 61, 3, []])
def test_what_is_no_walk_is_refused(walk):
    with pytest.raises(traitlets.TraitError, match="walk must be"):
        Maze(walk=walk)


def test_without_moves_the_state_is_the_start():
    found = Maze(k=0).numbers()
    assert found["x: the last move"] == "none"
    assert found["A h + B x, without walls"] == "0, 0"


SYSTEMS = [
    {},
    {"A": [-1, 0, 0, -2], "B": [1, -3], "C": [2, 0.5], "D": -1.0, "x": 0.7},
    {"A": [0.3, 1, -1, 0.3], "h": [-2, 0.25], "x": -1.5},
]


@pytest.mark.parametrize("system", SYSTEMS)
def test_wires_add_up(system):
    widget = Wires(**system)
    A = np.reshape(widget.A, (2, 2))
    B, C, h = (np.array(v) for v in (widget.B, widget.C, widget.h))
    on = widget.currents()
    np.testing.assert_allclose(on["slope"], A @ h + B * widget.x, rtol=1e-15)
    np.testing.assert_allclose(on["slope"], on["Ah"] + on["Bx"], rtol=1e-15)
    y = C @ h + widget.D * widget.x
    np.testing.assert_allclose(on["y"], y, rtol=1e-15)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_moment_later_the_state_is_scipys(system):
    widget = Wires(**system)
    A, B, _, h = widget.system()
    both = np.zeros((3, 3))
    both[:2, :2], both[:2, 2] = A, B * widget.x
    wanted = scipy.linalg.expm(0.1 * both) @ [*h.tolist(), 1]
    np.testing.assert_allclose(widget.later(), wanted[:2], rtol=1e-13)


def test_cutting_d_takes_d_x_from_y_and_nothing_else():
    on = Wires(D=0.75, x=1.25).currents()
    cut = Wires(D=0.75, x=1.25, skip="off").currents()
    assert on["y"] - cut["y"] == on["Dx"] == 0.75 * 1.25  # exact in binary
    assert cut["y"] == cut["Ch"]
    for name in ("Bx", "Ah", "slope", "Ch"):
        assert torch.equal(on[name], cut[name])


@pytest.mark.parametrize("reads", ["position", "velocity"])
@pytest.mark.parametrize("zeta", [0.05, 1.0, 2.0])
def test_a_drawn_signal_gets_scipys_answer(reads, zeta):
    generator = np.random.default_rng(1)
    samples = generator.uniform(-1, 1, 60).round(2).tolist()
    widget = DrawASignal(
        samples=samples, zeta=zeta, omega=3.0, D=0.5, reads=reads
    )
    h, y = widget.respond()
    # Position and velocity themselves: the second is omega times ours.
    A = np.array([[0.0, 1.0], [-9.0, -6 * zeta]])
    B = np.array([[0.0], [9.0]])
    system = scipy.signal.cont2discrete(
        (A, B, np.eye(2), np.zeros((2, 1))), 0.025
    )
    _, _, states = scipy.signal.dlsim(system, np.repeat([*samples, 0], 4))
    q, speed = states[1:241].T
    np.testing.assert_allclose(h[:, 0], q, atol=1e-12)
    np.testing.assert_allclose(h[:, 1], speed / 3, atol=1e-12)
    shown = h[:, int(reads == "velocity")].numpy()
    np.testing.assert_allclose(y, shown + 0.5 * np.repeat(samples, 4))


@pytest.mark.parametrize("zeta", [0.3, 1.0, 1.7])
def test_the_eigenvalues_are_those_of_the_matrix(zeta):
    widget = DrawASignal(zeta=zeta, omega=2.0)
    A, _ = widget.oscillator()
    found = np.linalg.eigvals(A.numpy())
    said = widget.numbers()["Eigenvalues of A"]
    numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", said)]
    if zeta < 1:
        assert numbers[0] == pytest.approx(found[0].real, rel=5e-3)
        assert numbers[1] == pytest.approx(abs(found[0].imag), rel=5e-3)
    else:
        # A double eigenvalue is known to the root of the rounding only.
        wanted = sorted(found.real, reverse=True)
        assert numbers == pytest.approx(wanted, rel=5e-3)


def press(page, name):
    page.get_by_role("button", name=name).click()


KINDS = [Maze, Wires, DrawASignal]


@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
def test_a_phone_shows_all_of_it(show, kind):
    page = show(kind(), viewport={"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert words_outside(page) == []


@pytest.mark.browser
@pytest.mark.parametrize("kind", [Wires, DrawASignal])
def test_every_slider_redraws_and_reset_brings_back(show, kind):
    page = show(kind())
    card = page.locator(".mv-stage svg").first
    first = card.inner_html()
    for knob in page.locator('input[type="range"]').all():
        before = card.inner_html()
        knob.focus()
        knob.press("ArrowRight")
        frame(page)
        assert card.inner_html() != before
    press(page, "Reset")
    frame(page)
    assert card.inner_html() == first


@pytest.mark.browser
@pytest.mark.parametrize("kind", [Wires, DrawASignal])
def test_a_slider_moves_by_mouse_and_by_touch(show, kind):
    for touch in (False, True):
        page = show(kind(), has_touch=touch)
        slider = page.locator('[data-trait="D"]')
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        at = box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2
        (page.touchscreen.tap if touch else page.mouse.click)(*at)
        assert state(page, "D") > 0.5


@pytest.mark.browser
def test_the_page_shows_the_numbers_of_python(show):
    for widget in (Maze(), Maze(walk=[1, 2, 1, 0]), Maze(k=0), Maze(k=3)):
        page = show(widget)
        for label, value in widget.numbers().items():
            shown = readout(page, label).inner_text()
            assert shown.replace("−", "-") == value, label
    page = show(Wires())
    assert readout(page, "y = C h + D x").inner_text() == "1.1"
    assert readout(page, "Eigenvalues of A").inner_text() == "−0.5 ± 1.94 i"
    assert readout(page, "left alone").inner_text() == "swings, fades"
    widget = DrawASignal()
    page = show(widget)
    for label, value in widget.numbers().items():
        shown = readout(page, label).inner_text()
        assert shown.replace("−", "-") == value, label


@pytest.mark.browser
def test_one_walks_by_key_by_button_by_mouse_and_by_finger(show):
    page = show(Maze(k=0), has_touch=True)
    board = page.locator(".mv-maze-board")
    board.focus()
    board.press("ArrowRight")
    assert state(page, "walk") == [1]
    press(page, "→ right")
    assert state(page, "walk") == [1, 1]
    page.locator('.mv-maze-cell[data-place="8"]').click()
    assert state(page, "walk") == [1, 1, 2]
    frame(page)
    page.locator('.mv-maze-cell[data-place="7"]').tap()
    assert state(page, "walk") == [1, 1, 2, 3]
    page.locator('.mv-maze-cell[data-place="29"]').click()  # far away
    assert len(state(page, "walk")) == 4
    press(page, "Undo")
    assert state(page, "walk") == [1, 1, 2]
    for _ in range(4):
        press(page, "Undo")
    assert readout(page, "Moves made").inner_text() == "0"
    assert readout(page, "h: column").inner_text() == "0, 0, 11"
    press(page, "Reset")
    assert state(page, "walk") == Maze().walk


@pytest.mark.browser
def test_one_goes_back_along_the_walk_and_takes_another_way(show):
    page = show(Maze())
    slider = page.locator('input[data-trait="k"]')
    slider.focus()
    slider.press("ArrowLeft")
    assert readout(page, "h: column").inner_text() == "1, 1, 7"
    slider.press("Home")
    assert readout(page, "h: column").inner_text() == "0, 0, 11"
    for _ in range(2):
        slider.press("ArrowRight")
    assert readout(page, "h: column").inner_text() == "2, 0, 9"
    press(page, "← left")
    assert state(page, "walk") == [1, 1, 3]
    assert state(page, "k") == 3
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.click(box["x"] + 2, middle)
    assert readout(page, "Moves made").inner_text() == "0"


@pytest.mark.browser
def test_the_controller_walks_to_the_exit_and_stops(show):
    page = show(Maze(k=0))
    press(page, "Controller: one move")
    assert len(state(page, "walk")) == 1
    press(page, "Controller: to the exit")
    page.wait_for_function(
        "() => document.querySelector('.mv-explorable')"
        ".model.get('walk').length === 11"
    )
    page.wait_for_timeout(600)
    assert len(state(page, "walk")) == 11
    assert readout(page, "h: column").inner_text() == "5, 4, 0"
    assert readout(page, "next move").inner_text() == "stay"


@pytest.mark.browser
def test_a_wall_is_said_in_words_and_a_full_walk_is_refused(show):
    page = show(Maze(k=0))
    press(page, "↑ up")
    frame(page)
    said = page.locator(".mv-maze-sum.mv-stopped").text_content()
    assert "the state stays (0, 0)" in said
    page = show(Maze(k=0, walls="open"))
    press(page, "↑ up")
    frame(page)
    said = page.locator(".mv-maze-sum.mv-stopped").text_content()
    assert said.lower().startswith("the rim")
    page = show(Maze(walk=[1, 3] * 30))
    press(page, "→ right")
    assert "as long as it can be" in page.get_by_role("alert").inner_text()
    assert len(state(page, "walk")) == 60


@pytest.mark.browser
def test_terms_appear_one_after_the_other(show):
    page = show(Wires())
    for shown, name in enumerate(STEPS):
        page.locator(f'input[data-trait="step"][value="{name}"]').check(
            force=True
        )
        frame(page)
        later = page.locator(".mv-wire.mv-later").count()
        assert later == len(STEPS) - 1 - shown
        texts = page.locator(".mv-picture").text_content()
        assert ("A h =" in texts) == (shown >= 1)
        assert ("C h =" in texts) == (shown >= 2)
        assert (".1" in readout(page, "y = C h").inner_text()) == (shown >= 3)
        for label, first in (
            ("h′ = A h + B x", 1),
            ("C h: y", 2),
            ("y = C h + D x", 3),
            ("Eigenvalues", 1),
        ):
            told = readout(page, label).inner_text()
            assert (told == "not yet") == (shown < first), label
        lit = page.locator(".mv-wire-term:not(.mv-later)").all_text_contents()
        said = " ".join("".join(lit).split())
        assert said == EQUATIONS[shown]
        assert len(Wires(step=name).numbers()) == (1, 3, 4, 6)[shown]


EQUATIONS = [
    "B x",
    "h′ = A h + B x",
    "h′ = A h + B x y = C h",
    "h′ = A h + B x y = C h + D x",
]


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_equations_have_the_colours_of_their_symbols(show, mode):
    for skip, said in (("on", EQUATIONS[3]), ("off", EQUATIONS[2])):
        page = show(Wires(skip=skip), mode=mode)
        pieces = page.locator(".mv-wire-term").evaluate_all(
            """(all) => all.filter((one) => one.style.display !== "none")
              .map((one) => [one.textContent, getComputedStyle(one).fill])"""
        )
        assert " ".join("".join(p for p, _ in pieces).split()) == said
        inks = {"h′": "h"} | {name: name for name in "ABCDxhy"}
        for piece, fill in pieces:
            if name := inks.get(piece.strip()):
                ink = getattr(theme.SYMBOLS[name], mode).lstrip("#")
                red, green, blue = bytes.fromhex(ink)
                assert fill == f"rgb({red}, {green}, {blue})", piece


@pytest.mark.browser
def test_while_time_passes_nothing_is_cut_off_and_nothing_overlaps(show):
    page = show(Wires(), viewport={"width": 360, "height": 700})
    for _ in range(30):
        press(page, "Let 0.1 s pass")
        frame(page)
        assert words_outside(page) == []
        assert words_that_overlap(page) == []
        cut = page.locator(".mv-entries input").evaluate_all(
            "(all) => all.filter((one) => one.scrollWidth > one.clientWidth)"
            ".map((one) => one.value)"
        )
        assert cut == []
        room = page.locator(".mv-wire-state").bounding_box()
        word = page.locator("text.mv-wire-h").bounding_box()
        assert word["width"] < room["width"] - 4
        node = page.locator("circle.mv-wire-sum").first.bounding_box()
        for value in page.locator(".mv-wire-A .mv-wire-value").all():
            box = value.bounding_box()
            over = box["y"] + box["height"] - 2 < node["y"]
            beside = box["x"] > node["x"] or (
                box["x"] + box["width"] <= node["x"]
            )
            assert over or beside


@pytest.mark.browser
def test_an_entry_is_typed_and_a_senseless_one_refused(show):
    page = show(Wires())
    field = page.locator('[data-entry="A3"]')
    field.fill("-5")
    assert state(page, "A") == [0, 1, -4, -5]
    assert readout(page, "Eigenvalues of A").inner_text() == "−1, −4"
    field.press("ArrowUp")
    assert state(page, "A")[3] == pytest.approx(-4.9)
    field.fill("1000")
    assert (
        "A must be 4 numbers from −10 to 10"
        in page.get_by_role("alert").inner_text()
    )
    assert state(page, "A")[3] == pytest.approx(-4.9)
    field.blur()
    assert float(field.input_value()) == pytest.approx(-4.9)
    press(page, "Reset")
    assert state(page, "A") == [0, 1, -4, -1]
    assert field.input_value() == "-1"


@pytest.mark.browser
def test_time_passes_and_the_matrices_stay(show):
    page = show(Wires())
    press(page, "Let 0.1 s pass")
    wanted = Wires().later().tolist()
    assert state(page, "h") == pytest.approx(wanted, rel=1e-9)
    assert state(page, "A") == [0, 1, -4, -1]
    press(page, "Play")
    page.wait_for_timeout(500)
    press(page, "Pause")
    held = state(page, "h")
    assert held != pytest.approx(wanted)
    page.wait_for_timeout(300)
    assert state(page, "h") == held


@pytest.mark.browser
def test_a_state_that_grows_without_end_stops_the_clock(show):
    page = show(Wires(A=[10, 0, 0, 10], h=[60, 0]))
    press(page, "Let 0.1 s pass")
    assert "outgrown" in page.get_by_role("alert").inner_text()
    assert state(page, "h") == [60, 0]


@pytest.mark.browser
def test_a_signal_is_drawn_by_mouse_and_by_keys(show):
    page = show(DrawASignal())
    press(page, "Silence")
    assert not any(state(page, "samples"))
    box = page.locator(".mv-draw-area").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], middle - 30)
    page.mouse.up()
    samples = state(page, "samples")
    assert sum(value > 0 for value in samples) > 12
    assert samples[:17] == [0] * 17
    pen = page.locator(".mv-pen")
    pen.focus()
    pen.press("Home")
    pen.press("ArrowUp")
    assert state(page, "samples")[0] == 0.05
    pen.press("Shift+ArrowRight")
    assert state(page, "samples")[1] == 0.05
    assert pen.get_attribute("aria-valuetext") == "at 0.1 s: 0.05"


@pytest.mark.browser
def test_at_rest_nothing_comes_out_and_a_step_ends_at_its_height(show):
    page = show(DrawASignal(zeta=1.0, omega=6.0))
    press(page, "Silence")
    assert readout(page, "Largest |y|").inner_text() == "0"
    press(page, "Step")
    at_end = readout(page, "h at the end").inner_text().split(", ")
    assert float(at_end[0]) == pytest.approx(0.6, abs=1e-3)
    assert math.isfinite(float(at_end[1].replace("−", "-").split("·")[0]))
