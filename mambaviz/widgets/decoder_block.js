// DecoderBlock: the parts of a Transformer block. See decoder_block.py.

/** The matrix, the bias and the output's shape of each part, for one text. */
export function partsOf(D, L) {
  const [stream, hidden] = [[1, L, D], [1, L, 4 * D]];
  const square = { weight: [D, D], bias: D, shape: stream };
  const norm = { weight: [D], bias: D, shape: stream };
  const sum = { weight: [], bias: 0, shape: stream };
  return {
    embedding: { weight: [PIECES_KNOWN, D], bias: 0, shape: stream },
    norm,
    q: square,
    k: square,
    v: square,
    scores: { weight: [], bias: 0, shape: [1, D / D_HEAD, L, L] },
    o: square,
    add: sum,
    mlp_norm: norm,
    up: { weight: [4 * D, D], bias: 4 * D, shape: hidden },
    down: { weight: [D, 4 * D], bias: D, shape: stream },
    mlp_add: sum,
  };
}

/** Everything in a part that is learned. */
export function parametersOf({ weight, bias }) {
  return (weight.length ? weight.reduce((all, size) => all * size, 1) : 0) + bias;
}

/** What a block learns: in its matrices, in the rest, and in all. */
export function blockParameters(D) {
  const { embedding, ...block } = partsOf(D, 1);
  const all = Object.values(block).reduce((sum, part) => sum + parametersOf(part), 0);
  return { matrices: 12 * D * D, rest: all - 12 * D * D, all };
}

const [PIECES_KNOWN, D_HEAD] = [80, 64];
const PART_SAYS = {
  embedding: "A row for each of the 80 pieces: a number becomes a vector. There is one embedding for all blocks.",
  norm: "Brings each token’s numbers to a common size, then scales and shifts them.",
  q: "Makes each token’s query: what it asks.",
  k: "Makes each token’s key: how it is found.",
  v: "Makes each token’s value: what it has to give.",
  scores: "Queries meet keys, in each head by itself, and what comes later is masked. Nothing here is learned.",
  o: "Mixes what the heads have found.",
  add: "Adds what attention found to what was there before.",
  mlp_norm: "The same once more, before the feed-forward part.",
  up: "Makes each token, by itself, four times as wide; then the GELU, a smooth curve, bends each number.",
  down: "Makes it as narrow as before: 4 × d_model numbers in, d_model out.",
  mlp_add: "Adds the feed-forward part’s answer. The next block begins here.",
};

function shapeText(shape) {
  return shape.map((size) => size.toLocaleString("en-GB")).join(" × ") || "none";
}

function countText(count) {
  return count.toLocaleString("en-GB");
}

function render(context) {
  const card = makeCard(context);
  const { model, knobs, signal } = card;
  const names = knobs.part.options;
  const parts = () => partsOf(model.get("d_model"), model.get("length"));
  const chosen = () => parts()[model.get("part")];
  const total = () => blockParameters(model.get("d_model"));

  const root = picture(card, {
    height: (width) => blockRows(squareOf(width)).bottom + 26,
    layout: (root, width) => layoutBlock(root, width, names),
    draw: (drawn) => drawBlock(drawn, parts(), model.get("part")),
    describe: () => {
      const { matrices, rest, all } = total();
      return (
        `${names[model.get("part")]}: weights ${shapeText(chosen().weight)}, ${countText(parametersOf(chosen()))} parameters; ` +
        `out comes ${shapeText(chosen().shape)}. The block has ${countText(all)} parameters: ` +
        `${countText(matrices)} in matrices, ${countText(rest)} in biases and norms.`
      );
    },
  });
  // An image would hide the parts that stand in it from a screen reader.
  root.setAttribute("role", "group");
  const choose = (event) => {
    const part = event.target.closest?.("[data-part]");
    if (!part) return false;
    return card.turn("part", part.dataset.part);
  };
  root.addEventListener("click", choose, { signal });
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    if (choose(event)) event.preventDefault();
  }, { signal });

  const says = html("p", { class: "mv-block-says" });
  card.controls.before(says);
  const say = () => (says.textContent = PART_SAYS[model.get("part")]);
  card.onChange(say);
  say();
  for (const name of ["d_model", "length"]) slider(card, name);
  card.readouts.classList.add("mv-block-readouts");
  readouts(card, [
    ["Chosen", "y", () => names[model.get("part")]],
    ["Its weights", "y", () => shapeText(chosen().weight)],
    ["Its parameters, with bias", "y", () => countText(parametersOf(chosen()))],
    ["What comes out", "x", () => shapeText(chosen().shape)],
    ["12 d_model²", "ink", () => countText(total().matrices)],
    ["Biases and norms, 13 d_model", "ink", () => countText(total().rest)],
    ["The block, in all", "ink", () => countText(total().all)],
  ]);
  return card.stop;
}

const [STREAM, LEFT, LOW, GAP] = [15, 40, 24, 15];
const BROAD = 560; // from this width on the numbers stand in two columns

/** The side of a square of d_model × d_model in a picture of some width. */
function squareOf(width) {
  return Math.round(clamp((width - LEFT - 132) / 4, 28, 62));
}

/** Where each row begins, from the top, and where the picture ends. */
function blockRows(side) {
  const rows = {};
  let y = 24;
  for (const [name, tall] of [
    ...[["embedding", LOW], ["norm", LOW], ["qkv", side], ["scores", side], ["o", side], ["add", LOW]],
    ...[["mlp_norm", LOW], ["up", side], ["down", side], ["mlp_add", LOW]],
  ]) {
    rows[name] = { y, tall, middle: y + tall / 2, end: y + tall };
    y += tall + GAP + (name === "embedding" || name === "add" ? 4 : 0);
  }
  return { rows, bottom: y };
}

function layoutBlock(root, width, names) {
  const side = squareOf(width);
  const { rows, bottom } = blockRows(side);
  const wide = 4 * side;
  const middle = LEFT + wide / 2;
  const broad = width >= BROAD;
  const beside = LEFT + wide + (broad ? 28 : 8);
  const far = broad ? { x: width - 16, "text-anchor": "end" } : { x: beside };
  svg("text", { x: beside, y: 14, text: "what comes out", class: "mv-title" }, root);
  if (broad) svg("text", { ...far, y: 14, text: "parameters", class: "mv-title" }, root);
  svg("text", { x: 0, y: bottom + 18, text: "A coloured square: d_model × d_model weights.", class: "mv-block-count" }, root);
  svg("rect", { x: 1, y: rows.norm.y - 12, width: (width - 2).toFixed(1), height: rows.mlp_add.end + 8 - rows.norm.y + 12, rx: 8, class: "mv-block-frame" }, root);
  const flow = svg("g", { class: "mv-block-flow" }, root);
  const run = (...points) => svg("path", { d: line(points) }, flow);

  // The stream that everything is added to, and the ways out of it and back.
  run([LEFT, rows.embedding.middle], [STREAM, rows.embedding.middle], [STREAM, bottom]);
  for (const [from, last, back] of [["norm", "o", "add"], ["mlp_norm", "down", "mlp_add"]]) {
    run([STREAM, rows[from].middle], [LEFT, rows[from].middle]);
    run([middle, rows[last].end], [middle, rows[back].middle], [STREAM + 11, rows[back].middle]);
    svg("path", { d: `M${STREAM + 11} ${rows[back].middle}l8 -4v8z`, class: "mv-block-head" }, flow);
  }
  const spread = side + 8;
  for (const n of [-1, 0, 1]) {
    run([middle + n * spread, rows.norm.end], [middle + n * spread, rows.qkv.y]);
    run([middle + n * spread, rows.qkv.end], [middle + (n * side) / 3, rows.scores.y]);
  }
  run([middle, rows.scores.end], [middle, rows.o.y]);
  run([middle, rows.mlp_norm.end], [middle, rows.up.y]);
  run([middle, rows.up.end], [middle, rows.down.y]);

  const buttons = {};
  const part = (name, of, row = rows[name]) => {
    const button = svg("g", {
      ...{ class: `mv-block-part mv-block-${of}`, tabindex: 0, role: "button", "data-part": name },
      ...{ "aria-label": names[name], "data-lm-suppress-shortcuts": "true" },
    }, root);
    buttons[name] = button;
    return { button, row };
  };
  const box = (name, of, x, breadth, text, row) => {
    const made = part(name, of, row);
    svg("rect", { x, y: made.row.y, width: breadth, height: made.row.tall, rx: 3, class: "mv-block-box" }, made.button);
    svg("text", { x: x + breadth / 2, y: made.row.middle + 4, "text-anchor": "middle", text, class: "mv-block-name" }, made.button);
    return made;
  };
  box("embedding", "table", LEFT, wide, "embedding");
  box("norm", "norm", LEFT, wide, "norm");
  ["q", "k", "v"].forEach((name, n) =>
    box(name, "attention", middle + (n - 1) * spread - side / 2, side, name.toUpperCase(), rows.qkv),
  );
  // What a token may look at: itself and what is to its left.
  const { button: mask, row } = part("scores", "free");
  const [at, cell] = [middle - side / 2, side / 4];
  svg("rect", { x: at, y: row.y, width: side, height: side, class: "mv-block-box" }, mask);
  for (let t = 0; t < 4; t++) {
    svg("rect", { x: at, y: row.y + t * cell, width: (t + 1) * cell, height: cell, class: "mv-block-seen" }, mask);
  }
  box("o", "attention", middle - side / 2, side, "O");
  box("mlp_norm", "norm", LEFT, wide, "norm");
  for (const name of ["up", "down"]) {
    const { button, row } = box(name, "forward", LEFT, wide, name);
    for (const n of [1, 2, 3]) {
      svg("line", { x1: LEFT + n * side, x2: LEFT + n * side, y1: row.y, y2: row.end, class: "mv-block-seam" }, button);
    }
    button.append(button.querySelector("text")); // above the seams
  }
  for (const name of ["add", "mlp_add"]) {
    const { button, row } = part(name, "free");
    svg("circle", { cx: STREAM, cy: row.middle, r: 16, class: "mv-block-reach" }, button);
    svg("circle", { cx: STREAM, cy: row.middle, r: 10, class: "mv-block-box" }, button);
    svg("path", { d: `M${STREAM - 5} ${row.middle}h10m-5 -5v10`, class: "mv-block-plus" }, button);
  }

  const notes = Object.entries(rows).map(([name, { middle: y }]) => [
    name === "qkv" ? ["q", "k", "v"] : [name],
    svg("text", {
      // Four numbers need the room that a square leaves.
      x: name === "scores" && !broad ? middle + side / 2 + 10 : beside,
      y: broad ? y + 4 : y - 2,
    }, root),
    svg("text", { ...far, y: broad ? y + 4 : y + 12 }, root),
  ]);
  return { buttons, notes };
}

function drawBlock({ buttons, notes }, parts, chosen) {
  for (const [name, button] of Object.entries(buttons)) {
    button.setAttribute("aria-pressed", name === chosen);
  }
  for (const [members, shape, count] of notes) {
    const part = parts[members[0]];
    const learned = parametersOf(part);
    const marked = members.includes(chosen) ? " mv-block-marked" : "";
    set(shape, { text: shapeText(part.shape), class: `mv-block-shape${marked}` });
    const each = members.length > 1 ? " each" : "";
    set(count, { text: learned ? `${countText(learned)}${each}` : "no parameters", class: `mv-block-count${marked}` });
  }
}

export default { render };
