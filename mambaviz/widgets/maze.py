"""Maze: one walk as a map, as a graph and as a state vector."""

from typing import TypedDict

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from mambaviz.theory.lti import simulate_recurrence
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.traits import Choice, Quantity, Series

CHAPTER = "chapters/state-space-models.html"

PICTURE = """
+--+--+--+--+--+--+
|        |        |
+  +--+  +  +--+  +
|  |     |  |     |
+  +  +--+  +  +--+
|  |        |     |
+--+--+  +--+--+  +
|     |     |     |
+  +  +--+  +  +--+
|  |              |
+--+--+--+--+--+--+
"""
# What each move adds to column and row, and its name.
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
NAMES = ("up", "right", "down", "left")
LONGEST = 60  # moves


class Grid(TypedDict):
    """A maze; its places count from 0, row after row.

    ``open`` has for each place the sum of 2^move over the moves that no wall
    stops.
    """

    columns: int
    rows: int
    start: int
    exit: int
    open: list[int]


def read_maze(picture: str = PICTURE, walls: bool = True) -> Grid:
    """A maze from its picture; start and exit are in opposite corners.

    Args:
        picture: two signs wide and one line high a place, walls between.
        walls: whether the walls inside count; those around always do.

    Example:
        >>> read_maze("+--+--+\\n|     |\\n+--+--+")["open"]
        [2, 8]
    """
    lines = picture.strip("\n").splitlines()
    columns, rows = len(lines[0]) // 3, len(lines) // 2

    def is_open(column: int, row: int, move: int) -> bool:
        right, down = MOVES[move]
        if not (0 <= column + right < columns and 0 <= row + down < rows):
            return False
        # The wall beside a place: a post of its line, or the line above or
        # below.
        across = 3 * (column + (right > 0)) if right else 3 * column + 1
        sign = lines[2 * row + 1 + down][across]
        return sign == " " or not walls

    masks = [
        sum(2**move for move in range(4) if is_open(column, row, move))
        for row in range(rows)
        for column in range(columns)
    ]
    last = len(masks) - 1
    return Grid(columns=columns, rows=rows, start=0, exit=last, open=masks)


def successors(maze: Grid, place: int) -> list[tuple[int, int]]:
    """Where one can go from a place: pairs (move, next place)."""
    return [
        (move, place + right + maze["columns"] * down)
        for move, (right, down) in enumerate(MOVES)
        if maze["open"][place] & 2**move
    ]


def steps_to_exit(maze: Grid) -> list[int]:
    """The least number of moves to the exit, for every place.

    Breadth first: the exit's neighbours, then theirs, and so on; -1 for a
    place from which no way leads there.
    """
    steps = [-1] * len(maze["open"])
    steps[maze["exit"]] = 0
    waiting = [maze["exit"]]
    for place in waiting:  # which grows on the way
        for _, beside in successors(maze, place):
            if steps[beside] < 0:
                steps[beside] = steps[place] + 1
                waiting.append(beside)
    return steps


def follow(maze: Grid, walk: list[int]) -> list[int]:
    """The places of a walk, the start first; a wall stops a move."""
    places = [maze["start"]]
    for move in walk:
        ahead = dict(successors(maze, places[-1]))
        places.append(ahead.get(move, places[-1]))
    return places


def next_move(maze: Grid, place: int) -> int:
    """The controller: a move that leads nearer to the exit; -1 if there."""
    steps = steps_to_exit(maze)
    for move, beside in successors(maze, place):
        if steps[beside] == steps[place] - 1:
            return move
    return -1


def without_walls(
    maze: Grid, walk: list[int]
) -> Float[Tensor, "length_and_1 2"]:
    """The same walk as a state space model, which knows no walls.

        h_k = A h_{k-1} + B x_k,    A = B = 1 0
                                            0 1

    Args:
        maze: gives the start.
        walk: the moves; x_k is what move k adds to column and row.

    Returns:
        Column and row, at the start and after each move.
    """
    row, column = divmod(maze["start"], maze["columns"])
    h_0 = torch.tensor([column, row], dtype=torch.float64)
    if not walk:
        return h_0[None]
    one = torch.eye(2, dtype=torch.float64)
    x = torch.tensor([MOVES[move] for move in walk], dtype=torch.float64)
    nothing = torch.zeros(2, 2, dtype=torch.float64)
    h = simulate_recurrence(one, one, one, nothing, x, initial_state=h_0)
    return torch.cat([h_0[None], h])


class Maze(Explorable):
    """What must one know to walk on?

    A walk through a maze, seen three ways: on the map, in the graph of what
    leads where, and as a state vector. A controller reads the state and picks
    the next move.

    Args:
        walk: the moves, each 0 (up), 1 (right), 2 (down) or 3 (left), from
            one to 60 of them.
        k: how many of them are made, from 0; all of a ``walk`` that is given
            without it.
        walls: ``"maze"``, or ``"open"``: no walls but those around.

    Example:
        >>> Maze(k=0).numbers()["h: column, row, moves to the exit"]
        '0, 0, 11'
    """

    _module = "maze"
    question = "What must you know to find the way on?"
    lesson = (
        "Not how you came: only where you are. A few numbers, the state, are"
        " enough, together with the next move. Where no wall is met the state"
        " moves by a linear equation; a wall is what that equation does not"
        " know, and the rim of the maze is one too."
        " A controller that reads the state alone finds the exit in the"
        " least number of moves, eleven from the start."
    )
    answer = (
        "Walk with the buttons, the arrow keys, or by touching the next"
        " place. Every move shows in all three pictures: a step on the map,"
        " an edge in the graph, an addition in the vector. Come to one place"
        " by two different ways: the state is the same, and so is"
        " everything that can follow. Walk against a wall: the equation"
        " says that you have moved, the maze says no; the dashed trace is"
        " where the equation believes you to be. Then take the walls inside"
        " away: trace and walk are one, until you walk against the rim. Let"
        " the controller walk from anywhere: it needs exactly the number of"
        " moves that the state names."
    )
    computed = {
        "mambaviz.widgets.maze.steps_to_exit": CHAPTER + "#maze-code",
        "mambaviz.widgets.maze.next_move": CHAPTER + "#controller-code",
        "mambaviz.widgets.maze.without_walls": CHAPTER + "#walk-code",
    }

    walk = Series(
        [1, 1, 2, 3, 2],
        low=0,
        high=3,
        shortest=1,
        longest=LONGEST,
        label="The moves",
        symbol="x",
    )
    k = Quantity(
        5,
        low=0,
        high=LONGEST,
        integer=True,
        label="k",
        symbol="x",
        hint="go back along the walk; a new move then starts from there",
    )
    walls = Choice(
        "maze",
        options={"maze": "with its walls", "open": "open, but for the rim"},
        label="The maze",
    )

    def __init__(self, **values):
        """Make the explorable; a walk that is given is walked to its end."""
        walk = values.get("walk")
        if isinstance(walk, list | tuple):
            values.setdefault("k", min(len(walk), LONGEST))
        super().__init__(**values)

    @traitlets.default("words")
    def _words_with_mazes(self) -> dict:
        mazes = {"maze": read_maze(), "open": read_maze(walls=False)}
        return self._default_words() | {"mazes": mazes}

    def maze(self) -> Grid:
        """The maze as it stands."""
        return read_maze(walls=self.walls == "maze")

    def moves(self) -> list[int]:
        """Those that are made, in whole numbers."""
        return [round(move) for move in self.walk[: self.k]]

    def numbers(self) -> dict[str, str]:
        """Input, state and output of the present moment."""
        maze, walk = self.maze(), self.moves()
        place = follow(maze, walk)[-1]
        row, column = divmod(place, maze["columns"])
        steps = steps_to_exit(maze)[place]
        believed = without_walls(maze, walk)[-1].tolist()
        on = next_move(maze, place)
        return {
            "Moves made": f"{len(walk)}",
            "x: the last move": NAMES[walk[-1]] if walk else "none",
            "h: column, row, moves to the exit": f"{column}, {row}, {steps}",
            "y: the controller's next move": NAMES[on] if on >= 0 else "stay",
            "A h + B x, without walls": ", ".join(f"{v:g}" for v in believed),
        }
