// Maze: one walk as a map, a graph and a state vector. See maze.py.

// What each move adds to column and row: up, right, down, left.
const MOVES = [[0, -1], [1, 0], [0, 1], [-1, 0]];

/** Where one can go from a place: { move, place }. */
export function successors({ columns, open }, place) {
  return MOVES.flatMap(([right, down], move) =>
    open[place] & (2 ** move) ? [{ move, place: place + right + columns * down }] : [],
  );
}

/** The least number of moves to the exit, for every place; −1 for no way. */
export function stepsToExit(maze) {
  const steps = maze.open.map(() => -1);
  steps[maze.exit] = 0;
  const waiting = [maze.exit];
  // The list grows while it is walked along: breadth first.
  for (const place of waiting) {
    for (const { place: beside } of successors(maze, place)) {
      if (steps[beside] >= 0) continue;
      steps[beside] = steps[place] + 1;
      waiting.push(beside);
    }
  }
  return steps;
}

/** The places of a walk, the start first; a wall stops a move. */
export function follow(maze, walk) {
  const places = [maze.start];
  for (const move of walk) {
    const ahead = successors(maze, places.at(-1)).find((way) => way.move === move);
    places.push(ahead ? ahead.place : places.at(-1));
  }
  return places;
}

/** A move that leads nearer to the exit; −1 where none does. */
export function nextMove(maze, place) {
  const steps = stepsToExit(maze);
  const nearer = successors(maze, place).find((way) => steps[way.place] === steps[place] - 1);
  return nearer ? nearer.move : -1;
}

/** h_k = A h_{k−1} + B x_k with A = B = 1: column and row, without walls. */
export function withoutWalls({ columns, start }, walk) {
  let [column, row] = [start % columns, Math.floor(start / columns)];
  const states = [[column, row]];
  for (const move of walk) {
    [column, row] = [column + MOVES[move][0], row + MOVES[move][1]];
    states.push([column, row]);
  }
  return states;
}

const WAYS = ["up", "right", "down", "left"];
const SIGNS = ["↑", "→", "↓", "←"];
const ARROWS = { ArrowUp: 0, ArrowRight: 1, ArrowDown: 2, ArrowLeft: 3 };
const PACE_OF_WALK = 450; // milliseconds a move

function render(context) {
  const card = makeCard(context);
  const { model, knobs, signal } = card;
  const { mazes } = model.get("words");
  const now = () => {
    const walk = model.get("walk").slice(0, model.get("k")).map(Math.round);
    const maze = mazes[model.get("walls")];
    const places = follow(maze, walk);
    const believed = withoutWalls(maze, walk);
    const steps = stepsToExit(maze);
    const place = places.at(-1);
    return { walk, maze, places, believed, steps, place, next: nextMove(maze, place) };
  };
  const go = (move) => {
    // A move made in the past leaves out what came after.
    const { walk } = now();
    if (walk.length >= knobs.walk.longest) {
      card.refuse("The walk is as long as it can be. Undo a move, or press Reset.");
      return false;
    }
    return card.turn("walk", [...walk, move]) && card.turn("k", walk.length + 1);
  };

  const root = picture(card, {
    height: (width) => sizesOf(width, mazes.maze).height,
    layout: (svgRoot, width) => layoutMaze(svgRoot, width, mazes.maze),
    draw: (parts) => drawMaze(parts, now()),
    describe: () => {
      const { walk, maze, steps, place, next } = now();
      const at = `column ${place % maze.columns}, row ${Math.floor(place / maze.columns)}`;
      const ways = successors(maze, place).map(({ move }) => WAYS[move]).join(", ");
      return (
        `After ${walk.length} moves at ${at}, ${steps[place]} moves from the exit. Open: ${ways}. ` +
        (next < 0 ? "This is the exit." : `The controller would go ${WAYS[next]}.`)
      );
    },
  });
  // An image hides the map from who walks by the keyboard.
  root.setAttribute("role", "group");
  root.addEventListener("click", (event) => {
    const cell = event.target.closest?.("[data-place]");
    if (!cell) return;
    const { maze, place } = now();
    const way = successors(maze, place).find((one) => one.place === Number(cell.dataset.place));
    if (way) go(way.move);
  }, { signal });
  root.addEventListener("keydown", (event) => {
    if (!(event.key in ARROWS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    go(ARROWS[event.key]);
  }, { signal });

  walkButtons(card, go, now);
  slider(card, "k");
  choice(card, "walls");
  readouts(card, [
    ["Moves made", "ink", () => String(now().walk.length)],
    ["x: the last move", "x", () => WAYS[now().walk.at(-1)] ?? "none"],
    ["h: column, row, moves to the exit", "h", () => {
      const { maze, place, steps } = now();
      return `${place % maze.columns}, ${Math.floor(place / maze.columns)}, ${steps[place]}`;
    }],
    ["y: the controller's next move", "y", () => WAYS[now().next] ?? "stay"],
    ["A h + B x, without walls", "A", () => now().believed.at(-1).map((v) => format(v)).join(", ")],
  ]);
  return card.stop;
}

/** The four moves, undo, and the controller: a move or all of them. */
function walkButtons(card, go, now) {
  const { signal } = card;
  const row = html("div", { class: "mv-player" });
  const button = (text, act) => {
    const made = html("button", { type: "button", class: "mv-button" }, text);
    made.addEventListener("click", act, { signal });
    row.append(made);
    return made;
  };
  let timer = 0;
  const pause = () => {
    clearInterval(timer);
    timer = 0;
    run.textContent = "Controller: to the exit";
    run.setAttribute("aria-pressed", "false");
  };
  for (const [move, name] of WAYS.entries()) {
    button(`${SIGNS[move]} ${name}`, () => {
      pause();
      go(move);
    });
  }
  button("Undo", () => {
    pause();
    const { walk } = now();
    // The series is never empty: with none of its moves made, k is 0.
    if (walk.length > 1) card.turn("walk", walk.slice(0, -1));
    card.turn("k", Math.max(0, walk.length - 1));
  });
  const step = () => {
    const { next } = now();
    return next >= 0 && go(next);
  };
  button("Controller: one move", () => {
    pause();
    step();
  });
  const run = button("Controller: to the exit", () => {
    if (timer) return pause();
    run.textContent = "Stop";
    run.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      if (!step() || now().next < 0) pause();
    }, PACE_OF_WALK);
  });
  run.setAttribute("aria-pressed", "false");
  card.controls.before(row);
  signal.addEventListener("abort", pause);
}

function sizesOf(width, { columns, rows }) {
  const narrow = width < 560;
  const side = Math.floor(Math.min(54, (narrow ? width - 4 : width * 0.5) / columns));
  const map = { x: narrow ? Math.floor((width - side * columns) / 2) : 2, y: 26, side };
  const below = map.y + side * rows;
  const graph = narrow
    ? { left: 14, right: width - 14, top: below + 46, bottom: below + 176 }
    : { left: map.x + side * columns + 42, right: width - 16, top: 46, bottom: below - 36 };
  const vector = (narrow ? graph.bottom + 30 : below) + 30;
  return { narrow, map, graph, vector, height: vector + 104 };
}

function layoutMaze(root, width, maze) {
  const sizes = sizesOf(width, maze);
  const { narrow, map, graph, vector } = sizes;
  const title = (x, y, text) => svg("text", { x, y, text, class: "mv-title" }, root);
  title(map.x, 14, "Map");
  title(narrow ? map.x : graph.left - 8, narrow ? graph.top - 20 : 14, "Graph: what leads where");
  title(narrow ? 0 : map.x, vector, "State vector");
  const { columns, rows } = maze;
  const board = svg("g", {
    ...{ class: "mv-maze-board", tabindex: 0, role: "application", "aria-label": "the map; the arrow keys walk" },
    "data-lm-suppress-shortcuts": "true",
  }, root);
  svg("rect", { x: map.x, y: map.y, width: map.side * columns, height: map.side * rows, class: "mv-maze-floor" }, board);
  const middle = (place) => [
    map.x + map.side * ((place % columns) + 0.5),
    map.y + map.side * (Math.floor(place / columns) + 0.5),
  ];
  const cells = maze.open.map((_, place) => {
    const [x, y] = middle(place);
    const half = map.side / 2;
    return svg("rect", { x: x - half, y: y - half, width: map.side, height: map.side, class: "mv-maze-cell", "data-place": place }, board);
  });
  const counts = maze.open.map((_, place) => {
    const [x, y] = middle(place);
    return svg("text", { x: x - map.side / 2 + 5, y: y + map.side / 2 - 5, class: "mv-maze-count" }, board);
  });
  const [exitX, exitY] = middle(maze.exit);
  svg("text", { x: exitX, y: exitY - map.side / 2 + 14, "text-anchor": "middle", text: "exit", class: "mv-maze-word" }, board);
  const shape = (name, parent = board) => svg("path", { class: name }, parent);
  const trail = shape("mv-maze-trail");
  const belief = shape("mv-maze-belief");
  const walls = shape("mv-maze-walls");
  const me = svg("circle", { r: map.side * 0.22, class: "mv-maze-me" }, board);
  const hint = svg("text", { "text-anchor": "middle", class: "mv-maze-next" }, board);

  const edges = shape("mv-maze-edges", root);
  const walked = shape("mv-maze-walked", root);
  const nodes = maze.open.map((_, place) => svg("circle", { class: "mv-maze-node", "data-place": place }, root));
  const signs = MOVES.map((_, move) => svg("text", { "text-anchor": "middle", text: SIGNS[move], class: "mv-maze-sign" }, root));
  const exitWord = svg("text", { "text-anchor": "end", text: "exit", class: "mv-maze-word" }, root);
  svg("text", { x: graph.right + 8, y: graph.bottom + 26, "text-anchor": "end", text: "a column nearer with each good move →" }, root);

  const wide = narrow ? Math.min(92, (width - 8) / 3) : 104;
  const boxes = ["column", "row", "to the exit"].map((name, n) => {
    const x = (narrow ? 0 : map.x) + n * (wide + 4);
    svg("rect", { x, y: vector + 10, width: wide, height: 42, rx: 5, class: "mv-maze-box" }, root);
    svg("text", { x: x + wide / 2, y: vector + 48, "text-anchor": "middle", text: name }, root);
    return svg("text", { x: x + wide / 2, y: vector + 31, "text-anchor": "middle", class: "mv-maze-entry" }, root);
  });
  const sums = [0, 1].map((n) => svg("text", { x: narrow ? 0 : map.x, y: vector + 72 + 20 * n, class: "mv-maze-sum" }, root));
  return { ...sizes, maze, middle, cells, counts, trail, belief, walls, me, hint, edges, walked, nodes, signs, exitWord, boxes, sums };
}

/** Where the graph's nodes are: a column for each distance, the exit last. */
function placesInGraph({ left, right, top, bottom }, maze, steps) {
  const most = Math.max(...steps);
  const layers = Array.from({ length: most + 1 }, () => []);
  steps.forEach((count, place) => layers[count].push(place));
  const gap = (bottom - top) / Math.max(1, ...layers.map((layer) => layer.length - 1));
  const across = linear([most, 0], [left, right]);
  const spots = [];
  layers.forEach((layer, count) => {
    // A node stands level with those it leads to, so that few edges cross.
    const level = new Map(layer.map((place) => {
      const nearer = successors(maze, place).filter((way) => steps[way.place] < count);
      const sum = nearer.reduce((total, way) => total + spots[way.place][1], 0);
      return [place, nearer.length ? sum / nearer.length : 0];
    }));
    layer.sort((one, other) => level.get(one) - level.get(other) || one - other);
    layer.forEach((place, n) => {
      spots[place] = [across(count), (top + bottom) / 2 + gap * (n - (layer.length - 1) / 2)];
    });
  });
  return spots;
}

const spot = ([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`;

function drawMaze(parts, { walk, maze, places, believed, steps, place, next }) {
  const { map, middle, narrow } = parts;
  const ways = successors(maze, place);
  const beside = new Set(ways.map((way) => way.place));
  const visited = new Set(places);
  parts.cells.forEach((cell, n) =>
    set(cell, { class: `mv-maze-cell${visited.has(n) ? " mv-visited" : ""}${beside.has(n) ? " mv-beside" : ""}` }),
  );
  parts.counts.forEach((text, n) => set(text, { text: steps[n] }));
  set(parts.trail, { d: line(places.map(middle)) });
  const strayed = believed.some(([column, row], k) => row * maze.columns + column !== places[k]);
  const last = believed.at(-1);
  const inside = ([column, row]) => [
    map.x + map.side * clamp(column + 0.5, 0.15, maze.columns - 0.15),
    map.y + map.side * clamp(row + 0.5, 0.15, maze.rows - 0.15),
  ];
  set(parts.belief, { d: strayed ? line(believed.map(inside)) : "" });
  let walls = "";
  maze.open.forEach((mask, n) => {
    const [x, y] = middle(n);
    const half = map.side / 2;
    if (!(mask & 1)) walls += `M${x - half} ${y - half}h${map.side}`;
    if (!(mask & 8)) walls += `M${x - half} ${y - half}v${map.side}`;
    if (!(mask & 2)) walls += `M${x + half} ${y - half}v${map.side}`;
    if (!(mask & 4)) walls += `M${x - half} ${y + half}h${map.side}`;
  });
  set(parts.walls, { d: walls });
  const [x, y] = middle(place);
  set(parts.me, { cx: x, cy: y });
  const [right, down] = MOVES[next] ?? [0, 0];
  set(parts.hint, { x: x + right * map.side * 0.38, y: y + down * map.side * 0.38 + 4.5, text: next < 0 ? "" : SIGNS[next] });

  const spots = placesInGraph(parts.graph, maze, steps);
  let edges = "";
  maze.open.forEach((_, n) => {
    for (const way of successors(maze, n)) if (way.place > n) edges += `M${spot(spots[n])}L${spot(spots[way.place])}`;
  });
  set(parts.edges, { d: edges });
  set(parts.walked, { d: line(places.map((n) => spots[n])) });
  parts.nodes.forEach((node, n) => {
    const here = n === place;
    set(node, {
      ...{ cx: spots[n][0].toFixed(1), cy: spots[n][1].toFixed(1), r: here ? 7.5 : narrow ? 4.6 : 5.4 },
      class: `mv-maze-node${visited.has(n) ? " mv-visited" : ""}${beside.has(n) ? " mv-beside" : ""}${here ? " mv-here" : ""}`,
    });
  });
  parts.signs.forEach((sign, move) => {
    const way = ways.find((one) => one.move === move);
    sign.style.display = way ? "" : "none";
    if (!way) return;
    const [to, from] = [spots[way.place], spots[place]];
    set(sign, { x: (to[0] + (to[0] - from[0]) * 0.15).toFixed(1), y: (to[1] - 9).toFixed(1), class: move === next ? "mv-maze-sign mv-chosen" : "mv-maze-sign" });
  });
  set(parts.exitWord, { x: spots[maze.exit][0] + 8, y: spots[maze.exit][1] - 12 });

  const [column, row] = [place % maze.columns, Math.floor(place / maze.columns)];
  [column, row, steps[place]].forEach((value, n) => set(parts.boxes[n], { text: value }));
  const [first, second] = parts.sums;
  if (!walk.length) {
    set(first, { text: "No move yet: the state is where you start.", class: "mv-maze-sum" });
    set(second, { text: "" });
    return;
  }
  const before = places.at(-2);
  const from = [before % maze.columns, Math.floor(before / maze.columns)];
  const move = MOVES[walk.at(-1)];
  const predicted = from.map((value, n) => value + move[n]);
  const vector = (values) => `(${values.map((v) => format(v)).join(", ")})`;
  set(first, { text: `A h + B x = ${vector(from)} + ${vector(move)} = ${vector(predicted)}`, class: "mv-maze-sum" });
  const stopped = before === place;
  const isRim = predicted[0] < 0 || predicted[0] >= maze.columns || predicted[1] < 0 || predicted[1] >= maze.rows;
  set(second, {
    text: stopped
      ? narrow
        ? `${isRim ? "the rim" : "a wall"}: the state stays ${vector(from)}`
        : `${isRim ? "The rim" : "A wall"}: the equation predicted ${vector(predicted)}, the state stays ${vector(from)}.`
      : strayed
        ? `and so it is; in all, it believes ${vector(last)}`
        : "and so it is: predicted, and reached",
    class: stopped ? "mv-maze-sum mv-stopped" : "mv-maze-sum",
  });
}

export default { render };
