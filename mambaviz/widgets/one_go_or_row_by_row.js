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

function softmax(scores) {
  const top = Math.max(...scores);
  const raised = scores.map((score) => Math.exp(score - top));
  const sum = raised.reduce((a, b) => a + b, 0);
  return raised.map((value) => value / sum);
}

const ONE_GO_MOST = 12;

/** A piece with its space made visible. */
const visible = (piece) => piece.replace(/ /g, "␣");

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const { pieces, head, trained } = model.get("words");
  const now = () => {
    const ids = model.get("tokens").map(Math.round);
    const t = Math.min(model.get("token"), ids.length);
    const byRow = model.get("way") === "generation";
    const [Q, K] = [head.q, head.k].map((rows) => ids.map((id) => rows[id]));
    const whole = weightsInOneGo(Q, K);
    const rows = Q.map((q, n) => weightsOfRow(q, K.slice(0, n + 1)));
    const gap = Math.max(...rows.flatMap((row, n) => row.map((value, s) => Math.abs(value - whole[n][s]))));
    return { ids, t, byRow, weights: byRow ? rows : whole, gap };
  };
  const most = ({ ids, t, weights }) => {
    const row = weights[t - 1].slice(0, t);
    const place = row.indexOf(Math.max(...row));
    return `${visible(pieces[ids[place]])}: ${Math.round(100 * row[place])} %`;
  };

  const strip = html("div", { class: "mv-one-strip", role: "group", "aria-label": "Tokens" });
  card.picture.before(strip);
  picture(card, {
    height: (width) => 28 + ONE_GO_MOST * cellOf(width) + (width < 560 ? 0 : 6),
    layout: (root, width) => ({ root: svg("g", {}, root), width }),
    draw: ({ root, width }) => drawMatrix(root, width, now(), pieces),
    describe: () => {
      const all = now();
      const { ids, t, byRow } = all;
      return (
        `Attention matrix of ${ids.length} tokens, ${byRow ? `of which ${t} rows are there` : "filled in one go"}. ` +
        `Token ${t}, ${visible(pieces[ids[t - 1]])}, may look at ${t}, and looks most at ${most(all)}.`
      );
    },
  });
  showStrip(card, strip, now, pieces);
  rowButtons(card);
  choice(card, "way");
  textField(card, pieces);
  slider(card, "token");
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
      button.style.setProperty("--mv-weight", lit ? `${Math.round(12 + 60 * weights[t - 1][n])}%` : "0%");
    });
  };
  card.onChange(show);
  show();
}

/** The next row, and all of them in turn. */
function rowButtons(card) {
  const { model, signal } = card;
  const button = (text) => html("button", { type: "button", class: "mv-button" }, text);
  const [next, play] = [button("Next token"), button("Play")];
  play.setAttribute("aria-pressed", "false");
  card.controls.before(html("div", { class: "mv-player" }, next, play));
  const count = () => model.get("tokens").length;
  const on = () => card.turn("token", model.get("token") >= count() ? 1 : model.get("token") + 1);
  let timer = 0;
  const pause = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  };
  next.addEventListener("click", () => {
    pause();
    on();
  }, { signal });
  play.addEventListener("click", () => {
    if (timer) return pause();
    card.turn("way", "generation");
    card.turn("token", 1);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      on();
      if (model.get("token") >= count()) pause();
    }, 700);
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

function cellOf(width) {
  const free = width < 560 ? width - LABELS : Math.min(0.6 * width, width - 250) - LABELS;
  return Math.min(32, Math.floor(free / ONE_GO_MOST));
}

function drawMatrix(root, width, { ids, t, byRow, weights }, pieces) {
  root.replaceChildren();
  const side = cellOf(width);
  const text = (x, y, words, more = {}) => svg("text", { x: x.toFixed(1), y: y.toFixed(1), text: words, class: "mv-one-small", ...more }, root);
  const top = 26;
  ids.forEach((id, row) => {
    const y = top + row * side;
    const here = row === t - 1;
    const late = byRow && row >= t;
    text(LABELS - 8, y + side / 2 + 4, `${visible(pieces[id])} ${row + 1}`, {
      "text-anchor": "end",
      class: `mv-one-small${here ? " mv-one-marked" : ""}${late ? " mv-one-late" : ""}`,
    });
    text(LABELS + (row + 0.5) * side, top - 8, String(row + 1), {
      "text-anchor": "middle",
      class: `mv-one-small${here ? " mv-one-marked" : ""}`,
    });
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
  if (width < 560) return;
  const left = LABELS + ONE_GO_MOST * side + 34;
  text(left, 14, `row ${t}: what it looks at`, { class: "mv-title" });
  const bar = linear([0, 1], [left + 92, width - 42]);
  weights[t - 1].slice(0, t).forEach((weight, n) => {
    const y = top + n * side;
    text(left + 84, y + side / 2 + 4, visible(pieces[ids[n]]), { "text-anchor": "end" });
    svg("rect", { x: bar(0), y: y + side * 0.2, width: Math.max(1, bar(weight) - bar(0)).toFixed(1), height: side * 0.6, class: "mv-one-bar" }, root);
    text(bar(weight) + 5, y + side / 2 + 4, `${Math.round(100 * weight)} %`);
  });
}

export default { render };
