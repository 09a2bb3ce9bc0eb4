// ComparisonTable: three networks, counted and measured. See comparison_table.py.

/** The counts of "transformer", "rnn" or "linear" at a length L and a width D. */
export function costsOf(kind, L, D) {
  const layers = { transformer: 1, rnn: 4, linear: 6 }[kind];
  const matrices = 24 * D * D; // two operations for each of 12 D² weights
  if (kind === "transformer") {
    return {
      chain: layers,
      training: L * matrices + 2 * D * L * (L + 1),
      token: matrices + 4 * D * L,
      bytes: 2 * L * layers * D * 4,
    };
  }
  const same = { training: L * matrices, token: matrices, bytes: layers * D * 4 };
  if (kind === "rnn") return { chain: L + layers - 1, ...same };
  const levels = Math.ceil(Math.log2(L));
  return {
    chain: layers * levels,
    training: same.training + layers * 3 * D * (levels * L - (2 ** levels - 1)),
    token: same.token + layers * 2 * D,
    bytes: same.bytes,
  };
}

/** The power of the length that a count grows with, from L to 2 L. */
export function slopeOf(kind, row, L, D) {
  return Math.log2(costsOf(kind, 2 * L, D)[row] / costsOf(kind, L, D)[row]);
}

/** A count in few letters: 4,099 or 1.23 million. */
export function inWords(count) {
  if (count < 1e6) return Math.round(count).toLocaleString("en-GB");
  if (count >= 1e15) return format(count);
  const step = Math.floor(Math.log10(count) / 3);
  const name = ["million", "billion", "trillion"][step - 2];
  return `${Number((count / 10 ** (3 * step)).toPrecision(3))} ${name}`;
}

const NETWORKS = { transformer: "Transformer", rnn: "RNN, tanh", linear: "linear recurrence" };
const TABLE_ROWS = [
  ["chain", "Training: steps that wait for one another"],
  ["training", "Training: operations for the sequence"],
  ["token", "Generation: operations for one more token"],
  ["bytes", "Generation: bytes kept from token to token"],
];
const MEASURED_ROWS = [
  ["sequence", "Measured: seconds for a text of"],
  ["token", "Measured: one more token after"],
];

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const times = model.get("words").times;
  const size = () => [2 ** model.get("doublings"), model.get("d_model")];
  const slopeText = (power) => `slope ${format(Math.abs(power) < 0.005 ? 0 : Number(power.toFixed(2)))}`;

  picture(card, {
    height: (width) => heightOf(width, times),
    layout: (root, width) => layoutTable(root, width, times),
    draw: (parts) => drawTable(parts, ...size(), slopeText),
    describe: () => {
      const [L, D] = size();
      return (
        `At ${L.toLocaleString("en-GB")} tokens and a width of ${D}. ` +
        TABLE_ROWS.map(([row, title]) =>
          `${title}: ${Object.entries(NETWORKS).map(([kind, name]) => `${name} ${inWords(costsOf(kind, L, D)[row])}, ${slopeText(slopeOf(kind, row, L, D))}`).join("; ")}.`,
        ).join(" ")
      );
    },
  });
  slider(card, "doublings");
  slider(card, "d_model");
  readouts(card, [
    ["Length L", "x", () => `${size()[0].toLocaleString("en-GB")} tokens`],
    ["One more token, Transformer over RNN", "y", () => {
      const [L, D] = size();
      return `${format(costsOf("transformer", L, D).token / costsOf("rnn", L, D).token)} times`;
    }],
    ["Memory, Transformer over RNN", "h", () => {
      const [L, D] = size();
      return `${inWords(Math.round(costsOf("transformer", L, D).bytes / costsOf("rnn", L, D).bytes))} times`;
    }],
  ]);
  return card.stop;
}

const [HEAD, ROW] = [44, 96];

function heightOf(width, times) {
  return HEAD + 8 + ROW * (TABLE_ROWS.length + (times ? MEASURED_ROWS.length : 0));
}

function layoutTable(root, width, times) {
  const wide = width / 3;
  const narrow = width < 480;
  Object.entries(NETWORKS).forEach(([kind, name], n) => {
    const lines = narrow && kind === "linear" ? ["linear", "recurrence"] : [name];
    lines.forEach((words, row) =>
      svg("text", { x: (wide * n + 6).toFixed(1), y: 16 + 15 * row, text: words, class: "mv-title" }, root),
    );
  });
  const rule = (y) => svg("line", { x1: 0, x2: width, y1: y, y2: y, class: "mv-table-rule" }, root);
  const cell = (n, top) => ({
    value: svg("text", { x: (wide * n + 6).toFixed(1), y: top + 42, class: "mv-table-value" }, root),
    slope: svg("text", { x: (wide * n + 6).toFixed(1), y: top + 60, class: "mv-table-slope" }, root),
    line: svg("path", { class: "mv-table-line" }, root),
    dot: svg("circle", { r: 3, class: "mv-table-dot" }, root),
    box: { x: wide * n + 6, width: Math.min(wide - 16, 150), y: top + 90, height: 22 },
  });
  const rows = TABLE_ROWS.map(([row, title], r) => {
    const top = HEAD + ROW * r;
    rule(top);
    svg("text", { x: 6, y: top + 19, text: title, class: "mv-table-name" }, root);
    return [row, Object.keys(NETWORKS).map((kind, n) => [kind, cell(n, top)])];
  });
  if (times) {
    MEASURED_ROWS.forEach(([what, title], r) => {
      const top = HEAD + ROW * (TABLE_ROWS.length + r);
      rule(top);
      svg("text", { x: 6, y: top + 19, text: `${title} ${lastOf(times[what]).toLocaleString("en-GB")}`, class: "mv-table-name" }, root);
      Object.values(times[what]).forEach(([lengths, seconds], n) => drawMeasured(cell(n, top), lengths, seconds));
    });
  }
  return { rows };
}

/** The longest text that was measured. */
function lastOf(of) {
  return Object.values(of)[0][0].at(-1);
}

/** Seconds at the last length, and the slope over the last four. */
function drawMeasured({ value, slope, line: path, dot, box }, lengths, seconds) {
  const last = seconds.at(-1);
  const shown = last < 1e-3 ? `${format(last * 1e6)} µs` : last < 1 ? `${format(last * 1e3)} ms` : `${format(last)} s`;
  set(value, { text: shown });
  const power = fittedSlope(lengths.slice(-4), seconds.slice(-4));
  set(slope, { text: `slope ${format(Number(power.toFixed(1)))}` });
  const logs = seconds.map(Math.log10);
  spark({ path, dot, box }, lengths.map(Math.log2), logs, logs.length - 1, Math.min(...logs), Math.max(...logs, Math.min(...logs) + 3));
}

/** The slope of a straight line through the logarithms, by least squares. */
export function fittedSlope(lengths, seconds) {
  const [u, v] = [lengths, seconds].map((values) => values.map(Math.log));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [mu, mv] = [mean(u), mean(v)];
  const over = u.reduce((sum, value, n) => sum + (value - mu) * (v[n] - mv), 0);
  return over / u.reduce((sum, value) => sum + (value - mu) ** 2, 0);
}

function spark({ path, dot, box }, at, values, marked, low, high) {
  const x = linear([at[0], at.at(-1)], [box.x, box.x + box.width]);
  const y = linear([low, high], [box.y, box.y - box.height]);
  path.setAttribute("d", line(values.map((value, n) => [x(at[n]), y(value)])));
  set(dot, { cx: x(at[marked]).toFixed(1), cy: y(values[marked]).toFixed(1) });
}

function drawTable({ rows }, L, D, slopeText) {
  const powers = Array.from({ length: 17 }, (_, n) => n + 4);
  for (const [row, cells] of rows) {
    const all = cells.map(([kind]) => powers.map((p) => Math.log10(costsOf(kind, 2 ** p, D)[row])));
    const [low, high] = [Math.min(...all.flat()), Math.max(...all.flat())];
    cells.forEach(([kind, cell], n) => {
      const count = costsOf(kind, L, D)[row];
      set(cell.value, { text: inWords(count) });
      set(cell.slope, { text: slopeText(slopeOf(kind, row, L, D)) });
      spark({ ...cell, path: cell.line }, powers, all[n], powers.indexOf(Math.log2(L)), low, high);
    });
  }
}

export default { render };
