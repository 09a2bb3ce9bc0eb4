// Wires: the two equations as a circuit. See wires.py.

/** What is on every wire; A is [a, b, c, d], row by row. */
export function currents([a, b, c, d], B, C, D, h, x) {
  const Bx = B.map((value) => value * x);
  const Ah = [a * h[0] + b * h[1], c * h[0] + d * h[1]];
  const Ch = C[0] * h[0] + C[1] * h[1];
  return { Bx, Ah, slope: [Ah[0] + Bx[0], Ah[1] + Bx[1]], Ch, Dx: D * x, y: Ch + D * x };
}

/** The state after a time `delta` in which x is held. */
export function later([a, b, c, d], B, h, x, delta) {
  const { A_bar, B_bar } = discretizeMatrix([[a, b], [c, d]], B, delta);
  return matrixVector(A_bar, h).map((value, n) => value + B_bar[n] * x);
}

/** The two eigenvalues of A as [re, im]. */
export function eigenvaluesOf([a, b, c, d]) {
  const mean = (a + d) / 2;
  // ((a − d) / 2)² + b c is the discriminant, without its cancellation.
  const square = ((a - d) / 2) ** 2 + b * c;
  const root = Math.sqrt(Math.abs(square));
  return square < 0
    ? [[mean, root], [mean, -root]]
    : [[mean + root, 0], [mean - root, 0]];
}

const STEPS_OF_WIRES = ["B", "A", "C", "D"];
const PASSING = 0.1; // seconds
const FASTEST_WIRE = 120; // milliseconds between two of them while playing

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const knob = (name) => model.get(name);
  const now = () => {
    const [A, B, C, h, x] = ["A", "B", "C", "h", "x"].map(knob);
    const D = knob("skip") === "on" ? knob("D") : 0;
    const shown = STEPS_OF_WIRES.indexOf(knob("step").toUpperCase());
    return { A, B, C, D, h, x, shown, isCut: knob("skip") === "off", ...currents(A, B, C, D, h, x) };
  };

  picture(card, {
    height: () => 500,
    layout: layoutWires,
    draw: (parts) => drawWires(parts, now()),
    describe: () => {
      const { h, x, Bx, Ah, slope, Ch, Dx, y, shown } = now();
      const said = [
        `Input ${format(x)}, state ${pairText(h)}.`,
        `B x is ${pairText(Bx)}.`,
        `A h is ${pairText(Ah)}; the rate h′ is ${pairText(slope)}.`,
        `C h is ${format(Ch)}.`,
        `D x is ${format(Dx)}; the output is ${format(y)}.`,
      ];
      return said.slice(0, shown + 2).join(" ");
    },
  });
  choice(card, "step").classList.add("mv-hold-rule");
  timeButtons(card);
  const grid = html("div", { class: "mv-matrices" });
  for (const [name, rows] of [["A", 2], ["B", 2], ["C", 1], ["h", 2]]) grid.append(matrixFields(card, name, rows));
  const from = (step, value) => () => (now().shown < STEPS_OF_WIRES.indexOf(step) ? "not yet" : value());
  card.controls.append(grid);
  slider(card, "x");
  slider(card, "D");
  choice(card, "skip");
  readouts(card, [
    ["B x", "B", () => pairText(now().Bx)],
    ["h′ = A h + B x", "A", from("A", () => pairText(now().slope))],
    ["C h: y without D", "C", from("C", () => format(now().Ch))],
    ["y = C h + D x", "y", from("D", () => format(now().y))],
    ["Eigenvalues of A", "A", from("A", () => modes(knob("A")).values)],
    ["So, left alone, h", "h", from("A", () => modes(knob("A")).fate)],
  ]);
  return card.stop;
}

function pairText(values, digits = 3) {
  return `(${values.map((value) => format(value, digits)).join(", ")})`;
}

/** A number of the state as its field has room for: in thousandths at most. */
function stateText(value) {
  return String(Number(Number(value.toPrecision(4)).toFixed(3)));
}

/** A pair beside a wire, in thousandths at most. */
function wireText(values, digits) {
  return pairText(values.map((value) => Number(value.toFixed(3))), digits);
}

/** The eigenvalues of A as text, and what they do to a state left alone. */
function modes(A) {
  const [[first, swing], [second]] = eigenvaluesOf(A);
  const values = swing ? `${format(first)} ± ${format(swing)} i` : `${format(first)}, ${format(second)}`;
  const largest = Math.max(first, second);
  const size = largest < 0 ? "fades" : largest > 0 ? "grows" : swing ? "never rests" : "stays or drifts";
  return { values, fate: swing && largest ? `swings, ${size}` : size };
}

/** Time goes on, by a step or at a run; A, B, C and D stay. */
function timeButtons(card) {
  const { model, signal, knobs } = card;
  const row = html("div", { class: "mv-player" });
  const button = (text) => {
    const made = html("button", { type: "button", class: "mv-button" }, text);
    row.append(made);
    return made;
  };
  const step = button(`Let ${PASSING} s pass`);
  const play = button("Play");
  play.setAttribute("aria-pressed", "false");
  const on = () => {
    const { low, high } = knobs.h;
    const [A, B, h, x] = ["A", "B", "h", "x"].map((name) => model.get(name));
    const then = later(A, B, h, x, PASSING);
    if (then.some((value) => value < low || value > high)) {
      card.refuse("The state has outgrown this picture: with this A it grows without end.");
      return false;
    }
    return card.turn("h", then);
  };
  let timer = 0;
  const pause = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  };
  step.addEventListener("click", () => {
    pause();
    on();
  }, { signal });
  play.addEventListener("click", () => {
    if (timer) return pause();
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => on() || pause(), FASTEST_WIRE);
  }, { signal });
  signal.addEventListener("abort", pause);
  card.controls.before(row);
}

/** A series as a small matrix of number fields. */
function matrixFields(card, name, rows) {
  const { model, knobs, signal } = card;
  const knob = knobs[name];
  const count = model.get(name).length;
  const box = html("div", { class: `mv-matrix mv-${name}`, role: "group", "aria-label": knob.label });
  const body = html("div", { class: "mv-entries" });
  body.style.setProperty("--mv-columns", count / rows);
  const fields = Array.from({ length: count }, (_, n) => {
    const [row, column] = [Math.floor((n * rows) / count), n % (count / rows)];
    const field = html("input", {
      ...{ type: "number", step: 0.1, min: knob.low, max: knob.high, inputmode: "decimal" },
      "aria-label": count > 2 ? `${name}, row ${row + 1}, column ${column + 1}` : `${name}, number ${n + 1}`,
      "data-entry": `${name}${n}`,
      "data-lm-suppress-shortcuts": "true",
    });
    field.addEventListener("input", () => {
      // A number that is being typed may not be one yet.
      if (field.value === "" || Number.isNaN(field.valueAsNumber)) return;
      card.turn(name, model.get(name).map((old, m) => (m === n ? field.valueAsNumber : old)));
    }, { signal });
    field.addEventListener("change", () => show(true), { signal });
    body.append(field);
    return field;
  });
  box.append(html("span", { class: "mv-name" }, `${name} =`), body);
  const show = (all) => {
    model.get(name).forEach((value, n) => {
      const text = name === "h" ? stateText(value) : String(Number(value.toFixed(4)));
      const typing = !all && fields[n] === document.activeElement && fields[n].valueAsNumber === value;
      if (!typing && fields[n].value !== text) fields[n].value = text;
    });
  };
  const changed = () => show(false);
  model.on(`change:${name}`, changed);
  signal.addEventListener("abort", () => model.off(`change:${name}`, changed));
  show(true);
  return box;
}

// Both equations in pieces: whose colour, the words, and the first step that
// has them. No-break spaces, since those of a text's pieces are dropped.
const EQUATIONS = [
  ["h", "h′", 1],
  ["sum", "\u00a0=\u00a0", 1],
  ["A", "A", 1],
  ["h", "\u00a0h", 1],
  ["sum", "\u00a0+\u00a0", 1],
  ["B", "B", 0],
  ["x", "\u00a0x", 0],
  ["sum", "\u2003\u2003", -1],
  ["y", "y", 2],
  ["sum", "\u00a0=\u00a0", 2],
  ["C", "C", 2],
  ["h", "\u00a0h", 2],
  ["sum", "\u00a0+\u00a0", 3],
  ["D", "D", 3],
  ["x", "\u00a0x", 3],
];

function layoutWires(root, width) {
  const wide = Math.min(width, 560);
  const start = Math.floor((width - wide) / 2);
  const narrow = wide < 420;
  const middle = start + Math.round(wide * 0.43);
  const left = start + (narrow ? 40 : Math.round(wide * 0.17));
  const right = start + wide - (narrow ? 22 : 48);
  const at = { x: 58, B: 128, sum: 196, h: 282, C: 354, out: 420, y: 478 };
  const half = 80; // of the state's width
  // Terms of the two equations: B with x, A with its loop, C, D.
  const groups = {};
  for (const name of ["D", "A", "B", "C"]) groups[name] = svg("g", { class: `mv-wire mv-wire-${name}` }, root);
  const wire = (name, d) => svg("path", { d, class: "mv-wire-line" }, groups[name]);
  const head = (name, x, y, turn) => svg("path", { d: "M-5 -8L0 0L5 -8Z", transform: `translate(${x} ${y}) rotate(${turn})`, class: "mv-wire-head" }, groups[name]);
  const box = (name, x, y, text) => {
    svg("rect", { x: x - 17, y: y - 17, width: 34, height: 34, rx: 4, class: "mv-wire-box" }, groups[name]);
    svg("text", { x, y: y + 5, "text-anchor": "middle", text, class: "mv-wire-matrix" }, groups[name]);
  };
  const value = (name, x, y, anchor = "start") => svg("text", { x, y, "text-anchor": anchor, class: "mv-wire-value" }, groups[name]);

  wire("B", `M${middle} ${at.x + 14}V${at.B - 17}M${middle} ${at.B + 17}V${at.sum - 13}`);
  head("B", middle, at.sum - 13, 0);
  box("B", middle, at.B, "B");
  wire("A", `M${middle - half} ${at.h}H${left}V${at.h - 26}M${left} ${at.h - 60}V${at.sum}H${middle - 13}`);
  head("A", middle - 13, at.sum, -90);
  box("A", left, at.h - 43, "A");
  wire("A", `M${middle} ${at.sum + 13}V${at.h - 20}`);
  head("A", middle, at.h - 20, 0);
  wire("C", `M${middle} ${at.h + 20}V${at.C - 17}M${middle} ${at.C + 17}V${at.out - 13}`);
  head("C", middle, at.out - 13, 0);
  box("C", middle, at.C, "C");
  wire("D", `M${middle + 14} ${at.x}H${right}V${at.h - 17}M${right} ${at.h + 17}V${at.out}H${middle + 13}`);
  head("D", middle + 13, at.out, 90);
  box("D", right, at.h, "D");
  wire("C", `M${middle} ${at.out + 13}V${at.y - 15}`);
  head("C", middle, at.y - 15, 0);

  const node = (x, y, name, text) => {
    svg("circle", { cx: x, cy: y, r: name === "sum" ? 12 : 14, class: `mv-wire-node mv-wire-${name}` }, root);
    return svg("text", { x, y: y + 5, "text-anchor": "middle", text, class: `mv-wire-letter mv-wire-${name}` }, root);
  };
  node(middle, at.x, "x", "x");
  node(middle, at.sum, "sum", "+");
  node(middle, at.out, "sum", "+");
  node(middle, at.y, "y", "y");
  svg("rect", { x: middle - half, y: at.h - 20, width: 2 * half, height: 40, rx: 8, class: "mv-wire-state" }, root);
  const sums = svg("text", { x: start + 2, y: 18, class: "mv-wire-equations" }, root);
  return {
    groups,
    narrow,
    terms: EQUATIONS.map(([symbol, text, step]) => ({
      ...{ symbol, step },
      piece: svg("tspan", { text, "data-symbol": symbol }, sums),
    })),
    x: svg("text", { x: middle - 22, y: at.x + 5, "text-anchor": "end", class: "mv-wire-value mv-wire-x" }, root),
    h: svg("text", { x: middle, y: at.h + 5, "text-anchor": "middle", class: "mv-wire-letter mv-wire-h" }, root),
    Bx: value("B", middle + 9, at.B + 38),
    Ah: value("A", start + 2, at.sum - 26),
    pushed: value("A", start + 2, at.sum - 10),
    slope: value("A", middle + 9, at.sum + 42),
    Ch: value("C", middle + 9, at.C + 38),
    Dx: value("D", right - 8, at.out - 9, "end"),
    y: svg("text", { x: middle + 24, y: at.y + 5, class: "mv-wire-value mv-wire-y" }, root),
  };
}

function drawWires(parts, { h, x, Bx, Ah, slope, Ch, Dx, y, shown, isCut }) {
  STEPS_OF_WIRES.forEach((name, n) => {
    const cut = name === "D" && isCut;
    set(parts.groups[name], { class: `mv-wire mv-wire-${name}${n > shown ? " mv-later" : ""}${cut ? " mv-cut" : ""}${n === shown ? " mv-newest" : ""}` });
  });
  for (const { symbol, step, piece } of parts.terms) {
    const state = step > shown ? " mv-later" : step === shown ? " mv-newest" : "";
    set(piece, { class: `mv-wire-term mv-wire-${symbol}${state}` });
    // Cut, the last three pieces are no part of the model.
    piece.style.display = step === 3 && isCut ? "none" : "";
  }
  const digits = parts.narrow ? 2 : 3;
  set(parts.x, { text: `x = ${format(x)}` });
  set(parts.h, { text: `h = ${wireText(h, digits)}` });
  set(parts.Bx, { text: `B x = ${wireText(Bx, digits)}` });
  set(parts.Ah, { text: shown >= 1 ? "A h =" : "" });
  set(parts.pushed, { text: shown >= 1 ? wireText(Ah, digits) : "" });
  set(parts.slope, { text: shown >= 1 ? `h′ = ${wireText(slope, digits)}` : "" });
  set(parts.Ch, { text: shown >= 2 ? `C h = ${format(Ch, digits)}` : "" });
  set(parts.Dx, { text: shown >= 3 ? (isCut ? "cut" : `D x = ${format(Dx, digits)}`) : "" });
  set(parts.y, { text: shown >= 3 ? `y = ${format(y)}` : shown === 2 ? `so far ${format(Ch)}` : "" });
}

export default { render };
