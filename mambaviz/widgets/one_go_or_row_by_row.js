// OneGoOrRowByRow: an attention matrix at once or by rows. See one_go_or_row_by_row.py.

/** The tokens of a text, always the longest piece that fits; null if none does. */
export function encodePieces(text, pieces) {
  const ids = new Map(pieces.map((piece, n) => [piece, n]));
  const longest = Math.max(...pieces.map((piece) => piece.length));
  const tokens = [];
  for (let start = 0; start < text.length; ) {
    let length = longest;
    while (length && !ids.has(text.slice(start, start + length))) length -= 1;
    if (!length) return null;
    tokens.push(ids.get(text.slice(start, start + length)));
    start += pieces[tokens.at(-1)].length;
  }
  return tokens;
}

/** The text of some tokens. */
export function decodePieces(tokens, pieces) {
  return tokens.map((token) => pieces[token]).join("");
}

/** In one go: softmax of Q Kᵀ / √d, what comes later masked. */
export function weightsInOneGo(Q, K) {
  const turned = K[0].map((_, n) => K.map((k) => k[n]));
  const scores = matrixProduct(Q, turned);
  const scale = Math.sqrt(K[0].length);
  return scores.map((row, t) => softmax(row.map((score, s) => (s > t ? -Infinity : score / scale))));
}

/** Row t alone, from its query and the keys so far, which are all there is. */
export function weightsOfRow(q, keys) {
  const scale = Math.sqrt(q.length);
  return softmax(keys.map((k) => q.reduce((sum, value, n) => sum + value * k[n], 0) / scale));
}

/** GELU, exactly: x times the share of a normal distribution below x. */
export function gelu(x) {
  return (x / 2) * (1 + errorFunction(x / Math.SQRT2));
}

/** What a token brings: its place in the stream, its query, key and value. */
export function broughtBy(writer, id) {
  const x = writer["embedding.weight"][id];
  const normed = layerNorm(writer, "layers.0.norm", x);
  const [q, k, v] = ["q", "k", "v"].map((name) => affine(writer, `layers.0.attention.${name}_proj`, normed));
  return { x, q, k, v };
}

/**
 * The distribution of the token after the last of `brought`: of that one the
 * query, of all of them the keys and values, and nothing else of the past.
 */
export function nextProbabilities(writer, brought) {
  const { x, q } = brought.at(-1);
  const size = q.length / writer.n_heads;
  const found = [];
  for (let from = 0; from < q.length; from += size) {
    const of = (values) => values.slice(from, from + size);
    const weights = weightsOfRow(of(q), brought.map(({ k }) => of(k)));
    for (let n = from; n < from + size; n++) found.push(brought.reduce((sum, { v }, s) => sum + weights[s] * v[n], 0));
  }
  const looked = sumOf(x, affine(writer, "layers.0.attention.out_proj", found));
  const hidden = affine(writer, "layers.0.mlp.0", layerNorm(writer, "layers.0.mlp_norm", looked)).map(gelu);
  const thought = sumOf(looked, affine(writer, "layers.0.mlp.2", hidden));
  return softmax(matrixVector(writer["lm_head.weight"], layerNorm(writer, "norm", thought)));
}

/** A number in [0, 1) for a place in the text, by the generator of StillKnowsHello. */
export function chanceAt(seed, place) {
  // The first numbers of two seeds in a row are nearly alike.
  for (let n = 0; n < place + 3; n++) seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed / 2 ** 32;
}

/** The token at which the probabilities, added up, pass `chance`. */
export function drawToken(probabilities, chance) {
  let sum = 0;
  const found = probabilities.findIndex((p) => (sum += p) > chance);
  return found < 0 ? probabilities.length - 1 : found;
}

function sumOf(v, w) {
  return v.map((value, n) => value + w[n]);
}

/** W x + b. */
function affine(writer, name, x) {
  return sumOf(matrixVector(writer[`${name}.weight`], x), writer[`${name}.bias`]);
}

function layerNorm(writer, name, x) {
  const [scale, shift] = [writer[`${name}.weight`], writer[`${name}.bias`]];
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  const size = Math.sqrt(variance + 1e-5); // PyTorch's eps
  return x.map((value, n) => (scale[n] * (value - mean)) / size + shift[n]);
}

/** erf by a series whose terms all have one sign. */
function errorFunction(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let [term, sum] = [x, x];
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= (2 * x * x) / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** The weights by name, from all of them in a row. */
function unpack({ n_heads, shapes, weights }) {
  const bytes = Uint8Array.from(atob(weights), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  const next = () => view.getFloat32(4 * at++, true);
  const filled = ([count, ...rest]) => Array.from({ length: count }, () => (rest.length ? filled(rest) : next()));
  return { n_heads, ...Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, filled(shape)])) };
}

function softmax(scores) {
  const top = Math.max(...scores);
  const raised = scores.map((score) => Math.exp(score - top));
  const sum = raised.reduce((a, b) => a + b, 0);
  return raised.map((value) => value / sum);
}

const [ONE_GO_MOST, ONE_GO_SHOWN] = [17, 5];

/** A piece with its space made visible. */
const visible = (piece) => piece.replace(/ /g, "␣");

/** A share in whole per cent, never rounded to a false 0 or 100. */
function inPercent(share) {
  if (share > 0 && share < 0.005) return "<1 %";
  if (share < 1 && share > 0.995) return ">99 %";
  return `${Math.round(100 * share)} %`;
}

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const { pieces, writer: numbers, head, trained } = model.get("words");
  const writer = unpack(numbers);
  const d_model = writer["embedding.weight"][0].length;
  const size = d_model / writer.n_heads;
  const ofHead = (values) => values.slice((head - 1) * size, head * size);
  const now = () => {
    const ids = model.get("tokens").map(Math.round);
    const t = Math.min(model.get("token"), ids.length);
    const byRow = model.get("way") === "generation";
    const brought = ids.map((id) => broughtBy(writer, id));
    const [Q, K, V] = ["q", "k", "v"].map((name) => brought.map((token) => ofHead(token[name])));
    const whole = weightsInOneGo(Q, K);
    const rows = Q.map((q, n) => weightsOfRow(q, K.slice(0, n + 1)));
    const gap = Math.max(...rows.flatMap((row, n) => row.map((value, s) => Math.abs(value - whole[n][s]))));
    const next = nextProbabilities(writer, brought.slice(0, t));
    const told = byRow ? undefined : ids[t]; // by the text
    return { ids, t, byRow, weights: byRow ? rows : whole, K, V, gap, next, told };
  };
  const most = ({ ids, t, weights }) => {
    const row = weights[t - 1].slice(0, t);
    const place = row.indexOf(Math.max(...row));
    return `${visible(pieces[ids[place]])}: ${inPercent(row[place])}`;
  };
  const expected = ({ next }) => {
    const id = next.indexOf(Math.max(...next));
    return `${visible(pieces[id])}: ${inPercent(next[id])}`;
  };

  const strip = html("div", { class: "mv-one-strip", role: "group", "aria-label": "Tokens" });
  card.picture.before(strip);
  picture(card, {
    height: (width) => placesOfPicture(width).bottom,
    layout: (root, width) => ({ root: svg("g", {}, root), width }),
    draw: ({ root, width }) => {
      root.replaceChildren();
      const all = now();
      drawMatrix(root, width, all, pieces);
      drawKept(root, width, all);
      drawExpected(root, width, all, pieces);
    },
    describe: () => {
      const all = now();
      const { ids, t, byRow } = all;
      return (
        `Attention matrix of ${ids.length} tokens, ${byRow ? `of which ${t} rows are there` : "filled in one go"}. ` +
        `Token ${t}, ${visible(pieces[ids[t - 1]])}, may look at ${t}, and looks most at ${most(all)}. ` +
        `Likeliest next is ${expected(all)}.`
      );
    },
  });
  showStrip(card, strip, now, pieces);
  writerButtons(card, now);
  choice(card, "way");
  textField(card, pieces);
  slider(card, "token");
  choice(card, "pick");
  slider(card, "seed");
  readouts(card, [
    ["Comparisons so far", "x", () => {
      const { ids, t, byRow } = now();
      const L = byRow ? t : ids.length;
      return `${(L * (L + 1)) / 2} for ${L} tokens`;
    }],
    ["One after another", "ink", () => {
      const { t, byRow } = now();
      return byRow ? `${t} ${t === 1 ? "row" : "rows"}` : "1 product";
    }],
    ["Looks most at", "x", () => most(now())],
    ["Likeliest next", "y", () => expected(now())],
    [`Keys and values, ${2 * d_model} a token`, "x", () => {
      const { ids, t, byRow } = now();
      return `${((byRow ? t : ids.length) * 2 * d_model).toLocaleString("en-GB")} numbers`;
    }],
    ["Row by row against one go", "ink", () => {
      const { gap } = now();
      return gap ? `${format(gap, 2)} apart` : "the same bits";
    }],
    ["Weights", "ink", () => (trained ? "trained on this page" : "drawn, not trained")],
  ]);
  return card.stop;
}

/** The tokens as buttons: those that the chosen one may look at are lit. */
function showStrip(card, strip, now, pieces) {
  const { signal } = card;
  let drawn = "";
  const show = () => {
    const { ids, t, byRow, weights } = now();
    if (drawn !== ids.join()) {
      drawn = ids.join();
      const buttons = ids.map((id, n) => {
        const button = html("button", { type: "button", class: "mv-one-token", "data-token": n + 1 }, visible(pieces[id]));
        const look = () => card.turn("token", n + 1);
        button.addEventListener("click", look, { signal });
        button.addEventListener("pointerenter", (event) => {
          if (event.pointerType === "mouse") look();
        }, { signal });
        return button;
      });
      strip.replaceChildren(...buttons);
    }
    [...strip.children].forEach((button, n) => {
      const lit = n < t;
      button.classList.toggle("mv-lit", lit && n < t - 1);
      button.classList.toggle("mv-here", n === t - 1);
      button.classList.toggle("mv-unknown", byRow && n >= t);
      button.setAttribute("aria-pressed", String(n === t - 1));
      button.style.setProperty("--mv-weight", lit ? `${Math.round(12 + 38 * weights[t - 1][n])}%` : "0%");
    });
  };
  card.onChange(show);
  show();
}

/** Let the writer add a token, or one after another. */
function writerButtons(card, now) {
  const { model, signal } = card;
  const button = (text) => html("button", { type: "button", class: "mv-button" }, text);
  const [next, play] = [button("Next token"), button("Play")];
  play.setAttribute("aria-pressed", "false");
  card.controls.before(html("div", { class: "mv-player" }, next, play));
  /** Write a token behind the one that is looked at; what stood there goes. */
  const write = () => {
    card.turn("way", "generation");
    const { ids, t, next: expected } = now();
    if (t >= ONE_GO_MOST) return false;
    const id =
      model.get("pick") === "likeliest"
        ? expected.indexOf(Math.max(...expected))
        : drawToken(expected, chanceAt(model.get("seed"), t));
    card.turn("tokens", [...ids.slice(0, t), id]);
    return card.turn("token", t + 1);
  };
  let timer = 0;
  const pause = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  };
  next.addEventListener("click", () => {
    pause();
    if (!write()) card.refuse(`The picture has room for ${ONE_GO_MOST} tokens. Choose an earlier one to go on from there.`);
  }, { signal });
  play.addEventListener("click", () => {
    if (timer) return pause();
    // Of a full text, the first words again.
    if (now().t >= ONE_GO_MOST) card.turn("token", 4);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    write();
    timer = setInterval(() => write() || pause(), 700);
  }, { signal });
  signal.addEventListener("abort", pause);
}

/** A field for a text of one's own. */
function textField(card, pieces) {
  const { model, signal, knobs } = card;
  const field = html("input", {
    type: "text",
    class: "mv-one-field",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    "aria-label": "Text",
    "data-lm-suppress-shortcuts": "true",
  });
  const row = html("label", { class: "mv-one-text" }, html("span", {}, "Your text"), field, html("p", { class: "mv-hint" }, knobs.tokens.hint));
  card.controls.append(row);
  const show = () => (field.value = decodePieces(model.get("tokens").map(Math.round), pieces));
  field.addEventListener("change", () => {
    const tokens = encodePieces(field.value, pieces);
    if (!tokens) {
      card.refuse("The toy knows letters without accents, the space and . , ? ' only. Nothing was changed.");
      show();
    } else if (!tokens.length || tokens.length > ONE_GO_MOST) {
      card.refuse(`This text has ${tokens.length} tokens; it must have 1 to ${ONE_GO_MOST}. Nothing was changed.`);
      show();
    } else if (card.turn("tokens", tokens)) {
      card.turn("token", tokens.length);
    }
  }, { signal });
  model.on("change:tokens", show);
  signal.addEventListener("abort", () => model.off("change:tokens", show));
  show();
}

const LABELS = 96; // pixels for the names of the rows
const NARROW = 560;
const HEAD_CELL = 5; // the height of one number of a key or a value

/** Where the parts of the picture begin and end. */
function placesOfPicture(width) {
  const narrow = width < NARROW;
  const free = narrow ? width : Math.min(0.6 * width, width - 250);
  const side = Math.min(384, Math.floor(free - LABELS - 4));
  const top = 26;
  const kept = top + side + 30;
  const keptEnd = kept + 2 * 8 * HEAD_CELL + 4;
  const next = narrow
    ? { y: keptEnd + 30, left: 0, right: width, tall: 20 }
    : { y: kept, left: LABELS + side + 34, right: width, tall: 17 };
  const bottom = Math.max(keptEnd, next.y + (ONE_GO_SHOWN + 1) * next.tall) + 4;
  return { narrow, side, top, kept, next, bottom };
}

/** The side of a cell: the triangle keeps its size while a text grows. */
function cellOf(side, ids) {
  return side / Math.max(12, ids.length);
}

function writeSmall(root, x, y, text, more = {}) {
  return svg("text", { x: x.toFixed(1), y: y.toFixed(1), text, class: "mv-one-small", ...more }, root);
}

function drawMatrix(root, width, { ids, t, byRow, weights }, pieces) {
  const { narrow, side: whole, top } = placesOfPicture(width);
  const side = cellOf(whole, ids);
  const text = (...of) => writeSmall(root, ...of);
  ids.forEach((id, row) => {
    const y = top + row * side;
    const here = row === t - 1;
    const late = byRow && row >= t;
    text(LABELS - 8, y + side / 2 + 4, `${visible(pieces[id])} ${row + 1}`, {
      "text-anchor": "end",
      class: `mv-one-small${here ? " mv-one-marked" : ""}${late ? " mv-one-late" : ""}`,
    });
    // Where numbers would touch, every other one, and none beside the chosen.
    if (here || side >= 20 || (row % 2 === 0 && Math.abs(row + 1 - t) > 1)) {
      text(LABELS + (row + 0.5) * side, top - 8, String(row + 1), {
        "text-anchor": "middle",
        class: `mv-one-small${here ? " mv-one-marked" : ""}`,
      });
    }
    ids.forEach((_, column) => {
      const box = { x: LABELS + column * side + 0.75, y: y + 0.75, width: side - 1.5, height: side - 1.5, rx: 2 };
      if (column > row) {
        svg("circle", { cx: box.x + box.width / 2, cy: box.y + box.height / 2, r: 1.2, class: "mv-one-masked" }, root);
        return;
      }
      svg("rect", { ...box, class: `mv-one-cell${late ? " mv-one-coming" : ""}` }, root);
      if (!late) svg("rect", { ...box, class: "mv-one-weight", "fill-opacity": weights[row][column].toFixed(3) }, root);
    });
    if (here) svg("rect", { x: LABELS, y, width: side * (row + 1), height: side, rx: 3, class: "mv-one-frame" }, root);
  });
  if (narrow) return;
  const left = LABELS + whole + 34;
  text(left, 14, `row ${t}: what it looks at`, { class: "mv-title" });
  const bar = linear([0, 1], [left + 92, width - 42]);
  weights[t - 1].slice(0, t).forEach((weight, n) => {
    const y = top + n * side;
    text(left + 84, y + side / 2 + 4, visible(pieces[ids[n]]), { "text-anchor": "end" });
    svg("rect", { x: bar(0), y: y + side * 0.2, width: Math.max(1, bar(weight) - bar(0)).toFixed(1), height: side * 0.6, class: "mv-one-bar" }, root);
    text(bar(weight) + 5, y + side / 2 + 4, inPercent(weight));
  });
}

/** Under each column its token's key and value: wide is positive, slim negative. */
function drawKept(root, width, { ids, t, byRow, K, V }) {
  const { narrow, side: whole, kept } = placesOfPicture(width);
  const side = cellOf(whole, ids);
  const there = byRow ? t : ids.length;
  writeSmall(root, narrow ? 0 : LABELS, kept - 8, "what each token leaves, in this head", { class: "mv-title" });
  [["key", K], ["value", V]].forEach(([name, rows], part) => {
    const top = kept + part * (8 * HEAD_CELL + 4);
    const most = Math.max(...rows.flat().map(Math.abs));
    writeSmall(root, LABELS - 8, top + 4 * HEAD_CELL + 4, name, { "text-anchor": "end" });
    rows.forEach((values, s) => {
      const x = LABELS + s * side + 1.5;
      const tall = (8 * HEAD_CELL) / values.length;
      svg("rect", { x, y: top, width: side - 3, height: 8 * HEAD_CELL - 1, rx: 2, class: `mv-one-cell${s < there ? "" : " mv-one-coming"}` }, root);
      if (s >= there) return;
      values.forEach((value, n) => {
        const wide = (side - 5) * (value < 0 ? 0.45 : 1);
        svg("rect", {
          ...{ x: (x + side / 2 - 1.5 - wide / 2).toFixed(1), y: top + n * tall, width: wide.toFixed(1), height: tall - 1 },
          ...{ class: "mv-one-number", "fill-opacity": (0.1 + (0.9 * Math.abs(value)) / most).toFixed(2) },
        }, root);
      });
    });
  });
}

/** The likeliest next tokens, and all the rest. */
function drawExpected(root, width, { ids, t, next, told }, pieces) {
  const { next: { y: top, left, right, tall } } = placesOfPicture(width);
  const text = (...of) => writeSmall(root, ...of);
  text(left, top - 8, `next after ${visible(pieces[ids[t - 1]])}`, { class: "mv-title" });
  const bar = linear([0, 1], [left + 92, right - 60]);
  const likeliest = next.map((p, id) => [p, id]).sort(([p], [q]) => q - p).slice(0, ONE_GO_SHOWN);
  const rest = Math.max(0, 1 - likeliest.reduce((sum, [p]) => sum + p, 0));
  [...likeliest, [rest, null]].forEach(([p, id], n) => {
    const y = top + n * tall;
    const right = id !== null && id === told;
    const marked = right ? " mv-one-marked" : "";
    text(left + 84, y + tall / 2 + 4, id === null ? "the rest" : visible(pieces[id]), { "text-anchor": "end", class: `mv-one-small${marked}` });
    svg("rect", { x: bar(0), y: y + tall * 0.18, width: Math.max(1, bar(p) - bar(0)).toFixed(1), height: (tall * 0.64).toFixed(1), class: `mv-one-next${id === null ? " mv-one-rest" : ""}` }, root);
    text(bar(p) + 5, y + tall / 2 + 4, `${inPercent(p)}${right ? " ✓" : ""}`, { class: `mv-one-small${marked}` });
  });
}

export default { render };
