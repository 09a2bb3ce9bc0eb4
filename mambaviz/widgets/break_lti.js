// BreakLTI: parameters that change take the stripes away. See break_lti.py.

/** How far each token is let in: 1 where wanted, 1 − swing elsewhere. */
export function openings(swing, wanted) {
  return wanted.map((is) => 1 - swing * (1 - is));
}

/** A_bar and B_bar of every step, with A = −1: e^(−Δ) and 1 − e^(−Δ). */
export function stepsOf(what, swing, delta, wanted) {
  const open = openings(swing, wanted);
  const held = open.map((share) => (what === "delta" ? delta * share : delta));
  return {
    A_bar: held.map((step) => Math.exp(-step)),
    B_bar: held.map((step, k) => -Math.expm1(-step) * (what === "delta" ? 1 : open[k])),
  };
}

/** M_kj = A_bar_k … A_bar_{j+1} B_bar_j: what token j adds to output k. */
export function matrixOf(A_bar, B_bar) {
  let h = [];
  return A_bar.map((kept, k) => {
    h = [...h.map((left) => kept * left), B_bar[k]];
    return [...h, ...Array(A_bar.length - k - 1).fill(0)];
  });
}

/** The largest difference between two numbers of one diagonal. */
export function spreadOf(M) {
  const spreads = M.map((_, lag) => {
    const diagonal = M.slice(lag).map((row, j) => row[j]);
    return Math.max(...diagonal) - Math.min(...diagonal);
  });
  return Math.max(...spreads);
}

/** How far S(a delayed 1) is from S(1), delayed, over the largest of S(1). */
export function delayError(M, steps) {
  const gaps = M.slice(steps).map((row, k) => Math.abs(row[steps] - M[k][0]));
  const size = Math.max(...M.map((row) => Math.abs(row[0])));
  return Math.max(...gaps) / size;
}

const WANTED_TOKENS = [1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1];
const DELAY = 4;

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const knob = (name) => model.get(name);
  const now = () => {
    const { A_bar, B_bar } = stepsOf(knob("what"), knob("swing"), knob("delta"), WANTED_TOKENS);
    const M = matrixOf(A_bar, B_bar);
    return { M, B_bar, spread: spreadOf(M), delay: delayError(M, DELAY) };
  };
  const zeroOr = (value) => (value < 1e-12 ? "0 within rounding" : format(value));

  picture(card, {
    height: (width) => sideOf(width) + (width < 560 ? 276 : 66),
    layout: (root, width) => layoutBreak(root, width),
    draw: (parts) => drawBreak(parts, now()),
    describe: () => {
      const { spread, delay } = now();
      return (
        (spread < 1e-12 ? "Every diagonal of the matrix has one value: one kernel does it. " : `Values along a diagonal differ by up to ${format(spread)}: no one kernel does it. `) +
        `Error of an input delayed by ${DELAY}: ${zeroOr(delay)}.`
      );
    },
  });
  readouts(card, [
    ["Largest spread along a diagonal", "y", () => zeroOr(now().spread)],
    [`Error of a delay by ${DELAY}`, "x", () => zeroOr(now().delay)],
    ["One kernel does it", "y", () => (now().spread < 1e-12 ? "yes" : "no")],
  ]);
  slider(card, "swing");
  slider(card, "delta");
  choice(card, "what");
  return card.stop;
}

const sideOf = (width) => (width < 560 ? Math.min(width - 40, 300) : 300);

function layoutBreak(root, width) {
  const narrow = width < 560;
  const count = WANTED_TOKENS.length;
  const side = sideOf(width);
  const cell = side / count;
  const [left, top] = [30, 40];
  svg("text", { x: 0, y: 14, text: "What each input adds to each output", class: "mv-title" }, root);
  svg("text", { x: left + side, y: top + side + 16, "text-anchor": "end", text: "inputs xⱼ → ", class: "mv-fill-x" }, root);
  svg("text", { x: left, y: 32, text: "outputs yₖ ↓", class: "mv-fill-y" }, root);
  svg("rect", { x: left, y: top, width: side, height: side, class: "mv-rule-frame" }, root);
  const cells = WANTED_TOKENS.map((_, k) =>
    WANTED_TOKENS.slice(0, k + 1).map((_, j) =>
      svg("rect", { x: (left + j * cell).toFixed(1), y: (top + k * cell).toFixed(1), width: (cell - 1).toFixed(1), height: (cell - 1).toFixed(1), class: "mv-lti-cell" }, root),
    ),
  );
  WANTED_TOKENS.forEach((_, k) => {
    if (k % 3) return;
    svg("text", { x: left - 6, y: top + (k + 0.5) * cell + 4, "text-anchor": "end", text: String(k) }, root);
  });
  const start = narrow ? [left, top + side + 48] : [left + side + 34, 40];
  const span = narrow ? side : width - start[0] - 8;
  svg("text", { x: narrow ? 0 : start[0], y: start[1] - (narrow ? 12 : 26), text: narrow ? "B̄ of each token" : "B̄ of each token (● a word, · noise)", class: "mv-title" }, root);
  const slot = span / count;
  const base = start[1] + 58;
  const bars = WANTED_TOKENS.map((is, j) => {
    svg("text", { x: start[0] + (j + 0.5) * slot, y: base + 15, "text-anchor": "middle", text: is ? "●" : "·" }, root);
    return svg("rect", { x: start[0] + j * slot + 1, width: slot - 2, class: "mv-lti-B" }, root);
  });
  const below = base + 46;
  svg("text", { x: narrow ? 0 : start[0], y: below, text: "Answers to a 1 at step 0 (●), at 4 (○)", class: "mv-title" }, root);
  const floor = below + (narrow ? 72 : 150);
  const answers = ["mv-lti-first", "mv-lti-later"].map((name) => svg("path", { class: name }, root));
  svg("line", { x1: start[0], x2: start[0] + span, y1: floor, y2: floor, class: "mv-slide-base" }, root);
  return { cells, bars, base, answers, start, slot, floor, tall: narrow ? 56 : 128 };
}

function drawBreak({ cells, bars, base, answers, start, slot, floor, tall }, { M, B_bar }) {
  const largest = Math.max(...M.flat());
  cells.forEach((row, k) =>
    row.forEach((cell, j) => set(cell, { "fill-opacity": (M[k][j] / largest).toFixed(3) })),
  );
  bars.forEach((bar, j) => {
    const height = (50 * B_bar[j]) / Math.max(...B_bar);
    set(bar, { y: (base - height).toFixed(1), height: height.toFixed(1) });
  });
  const responses = [M.map((row) => row[0]), M.slice(DELAY).map((row) => row[DELAY])];
  responses.forEach((response, n) => {
    const r = n ? 5 : 3;
    set(answers[n], {
      d: response.map((value, lag) => {
        const [x, y] = [start[0] + (lag + 0.5) * slot, floor - (tall * value) / largest];
        return `M${(x - r).toFixed(1)} ${y.toFixed(1)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
      }).join(""),
    });
  });
}

export default { render };
