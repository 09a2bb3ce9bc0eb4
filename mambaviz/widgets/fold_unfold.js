// FoldUnfold: a recurrent cell as a loop and as a chain. See fold_unfold.py.

/** One step of the cell: h_t = tanh(w_h h_{t−1} + w_x x_t). */
export function stepCell(w_h, w_x, h, x) {
  return Math.tanh(w_h * h + w_x * x);
}

/** The folded cell: one variable, overwritten at every word. */
export function runFolded(w_h, w_x, h, inputs) {
  for (const x of inputs) h = stepCell(w_h, w_x, h, x);
  return h;
}

/** The chain: every state, each made from the one before. */
export function runUnfolded(w_h, w_x, h, inputs) {
  const chain = [h];
  inputs.forEach((x, t) => chain.push(stepCell(w_h, w_x, chain[t], x)));
  return chain.slice(1);
}

const FOLD_WORDS = ["Hello", "my", "name", "is", "Maarten"];
const FOLD_INPUTS = [1, -0.4, 0.3, 0.6, -0.8];
const FOLD_SUBSCRIPTS = "₀₁₂₃₄₅";

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const now = () => {
    const [n, w_h, w_x, w_y, h_0] = ["unfolded", "w_h", "w_x", "w_y", "h_0"].map((name) => model.get(name));
    const chain = runUnfolded(w_h, w_x, h_0, FOLD_INPUTS.slice(0, n));
    // The loop goes on from where the chain ends.
    const last = runFolded(w_h, w_x, chain.at(-1) ?? h_0, FOLD_INPUTS.slice(n));
    return { n, w_h, w_x, w_y, h_0, chain, last, loop: runFolded(w_h, w_x, h_0, FOLD_INPUTS) };
  };

  picture(card, {
    height: (width) => (width < 480 ? 266 : 286),
    layout: (root, width, tall) => ({ root: svg("g", {}, root), width, tall }),
    draw: (parts) => drawFold(parts, now()),
    describe: () => {
      const { n, chain, last, w_y } = now();
      const states = chain.map((h, t) => `after ${FOLD_WORDS[t]} ${format(h)}`).join(", ");
      return (
        `${n} of 5 words have a cell of their own${n ? `: ${states}` : ""}. ` +
        (n < 5 ? `One cell with a loop runs for the other ${5 - n}. ` : "Nothing is folded. ") +
        `Last state ${format(last)}, last output ${format(w_y * last)}.`
      );
    },
  });
  for (const name of ["unfolded", "w_h", "w_x", "w_y", "h_0"]) slider(card, name);
  readouts(card, [
    ["h₅ as it stands here", "h", () => format(now().last)],
    ["h₅ by the loop alone", "h", () => format(now().loop)],
    ["Difference", "h", () => {
      const { last, loop } = now();
      return last === loop ? "0, to the last bit" : format(last - loop);
    }],
    ["y₅ = w_y h₅", "y", () => format(now().w_y * now().last)],
  ]);
  return card.stop;
}

/** A number as a small circle can hold it. */
function twoPlaces(value) {
  return value.toFixed(2).replace("-", "\u2212");
}

/** A straight arrow with its head at the end. */
function arrowPath(x0, y0, x1, y1) {
  const size = Math.hypot(x1 - x0, y1 - y0) || 1;
  const [a, b] = [(x1 - x0) / size, (y1 - y0) / size];
  const [p, q] = [x1 - 6 * a, y1 - 6 * b];
  return `M${x0} ${y0}L${x1} ${y1}M${p - 4 * b} ${q + 4 * a}L${x1} ${y1}L${p + 4 * b} ${q - 4 * a}`;
}

function drawFold({ root, width, tall }, { n, w_h, w_x, w_y, h_0, chain, last }) {
  root.replaceChildren();
  const narrow = width < 480;
  const columns = n + (n < 5 ? 1 : 0);
  const lead = narrow ? 24 : 46; // for h₀
  // The cells keep their places while the chain grows, if there is room.
  const tail = n < 5 ? (narrow ? 34 : 20) : 4; // for the loop
  const slot = Math.min((width - lead - tail) / columns, narrow ? 92 : 128);
  const start = lead + (width - lead - tail - slot * columns) / 2;
  const middle = (k) => start + slot * (k + 0.5);
  const r = Math.min(narrow ? 20 : 27, slot * 0.33);
  const [low, mid, high] = [tall - 66, tall / 2 - 2, 62];
  const text = (x, y, words, symbol, more = {}) =>
    svg("text", { x: x.toFixed(1), y, "text-anchor": "middle", text: words, class: `mv-fold-text mv-fill-${symbol}`, ...more }, root);
  const arrow = (name, ...at) => svg("path", { d: arrowPath(...at), class: `mv-fold-arrow mv-fold-${name}` }, root);
  svg("text", { x: 0, y: 14, class: "mv-title", text: n === 0 ? "Folded: one cell with a loop" : n === 5 ? "Unfolded: one cell a word" : narrow ? `${n} unfolded, ${5 - n} in the loop` : `${n} ${n === 1 ? "word" : "words"} unfolded, ${5 - n} still in the loop` }, root);

  arrow("A", middle(0) - slot / 2 - (narrow ? 2 : 8), mid, middle(0) - r - 2, mid);
  text(middle(0) - slot / 2 - (narrow ? 12 : 26), mid - 6, "h₀", "h");
  text(middle(0) - slot / 2 - (narrow ? 12 : 26), mid + 9, format(h_0, 2), "h");
  for (let k = 0; k < columns; k++) {
    const folded = k === n;
    const x = middle(k);
    const h = folded ? last : chain[k];
    const sub = folded && n < 4 ? `${FOLD_SUBSCRIPTS[n + 1]}…₅` : FOLD_SUBSCRIPTS[k + 1];
    arrow("B", x, low - 24, x, mid + r + 3);
    arrow("C", x, mid - r - 2, x, high + 18);
    if (k) arrow("A", middle(k - 1) + r + 2, mid, x - r - 3, mid);
    svg("circle", { cx: x.toFixed(1), cy: mid, r, class: "mv-fold-cell" }, root);
    text(x, mid + 4, twoPlaces(h), "h", { class: `mv-fold-text mv-fill-h mv-fold-value${r < 20 ? " mv-fold-tight" : ""}` });
    text(x, high + 2, twoPlaces(w_y * h), "y");
    text(x, high - 13, `y${sub}`, "y");
    text(x, low - 10, folded && n < 4 ? `x${sub}` : format(FOLD_INPUTS[k], 2), "x");
    const words = folded ? FOLD_WORDS.slice(n) : [FOLD_WORDS[k]];
    const shown = words.length > 2 ? [words[0], "…", words.at(-1)] : words;
    shown.forEach((word, row) => text(x, low + 8 + 15 * row, word, "ink", { class: "mv-fold-text mv-fold-word" }));
    if (folded) {
      const turns = 5 - n;
      const out = r + (narrow ? 12 : 18);
      svg("path", { d: `M${(x + r * 0.75).toFixed(1)} ${mid - r * 0.7}C${x + out + 14} ${mid - out - 10} ${x + out + 14} ${mid + out + 10} ${(x + r * 0.75).toFixed(1)} ${mid + r * 0.75}`, class: "mv-fold-arrow mv-fold-A" }, root);
      const [hx, hy] = [x + r * 0.75, mid + r * 0.75];
      svg("path", { d: `M${hx + 9} ${hy - 1}L${hx} ${hy}L${hx + 5} ${hy + 8}`, class: "mv-fold-arrow mv-fold-A" }, root);
      svg("text", { x: (x + out + 8).toFixed(1), y: mid - out + 2, text: `×${turns}`, class: "mv-fold-text mv-fill-A mv-fold-turns" }, root);
    }
  }
  if (columns) {
    const x = middle(0);
    text(x - (narrow ? 14 : 16), (mid - r + high + 22) / 2 + 4, `${narrow ? "" : "w_y "}${format(w_y, 2)}`, "C", { "text-anchor": "end" });
    text(x - (narrow ? 14 : 16), (mid + r + low - 20) / 2 + 4, `${narrow ? "" : "w_x "}${format(w_x, 2)}`, "B", { "text-anchor": "end" });
    if (columns > 1) text((middle(0) + middle(1)) / 2, mid - (slot < 80 ? r + 2 : 8), format(w_h, 2), "A");
    else text(x + r + (narrow ? 34 : 44), mid + 4, `w_h ${format(w_h, 2)}`, "A", { "text-anchor": "start" });
  }
}

export default { render };
