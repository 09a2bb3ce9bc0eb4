// DrawASignal: x(t) is drawn, h(t) and y(t) follow. See draw_a_signal.py.

/** A and B of a mass on a spring, with h = (position, velocity / ω). */
export function oscillator(omega, zeta) {
  return { A: [[0, omega], [-omega, -2 * zeta * omega]], B: [0, omega] };
}

/** The states and outputs at the ends of `substeps` parts of each hold. */
export function respond(omega, zeta, D, entry, x, delta, substeps) {
  const { A, B } = oscillator(omega, zeta);
  const { A_bar, B_bar } = discretizeMatrix(A, B, delta / substeps);
  let h = [0, 0];
  const [states, y] = [[], []];
  for (const value of x) {
    for (let n = 0; n < substeps; n++) {
      h = matrixVector(A_bar, h).map((kept, m) => kept + B_bar[m] * value);
      states.push(h);
      y.push(h[entry] + D * value);
    }
  }
  return { states, y };
}

const HOLD = 0.1; // seconds
const QUARTERS = 4;
const SHAPES = {
  Step: (k) => (k >= 6 ? 0.6 : 0),
  "One push": (k) => (k >= 6 && k < 9 ? 1 : 0),
  Wave: (k) => 0.6 * Math.sin(2.5 * HOLD * k),
  Silence: () => 0,
};

function render(context) {
  const card = makeCard(context);
  const { model, knobs } = card;
  const knob = (name) => model.get(name);
  let last = { turned: [] };
  const now = () => {
    const turned = ["omega", "zeta", "D", "reads", "samples"].map(knob);
    if (turned.some((value, n) => value !== last.turned[n])) {
      const [omega, zeta, D, reads, x] = turned;
      const entry = reads === "velocity" ? 1 : 0;
      last = { turned, omega, zeta, x, entry, ...respond(omega, zeta, D, entry, x, HOLD, QUARTERS) };
    }
    return last;
  };
  const largest = (values) => Math.max(...values.map(Math.abs));
  // Where the pen of the keyboard is; no knob, so it is not shared.
  const pen = { at: 10 };
  let parts = null;
  const draw = () => drawSignals(parts, now(), pen);

  const root = picture(card, {
    height: () => 482,
    layout: (svgRoot, width) => (parts = layoutSignals(svgRoot, width, knob("samples").length)),
    draw,
    describe: () => {
      const { x, states, y } = now();
      return (
        `Largest input ${format(largest(x))}, largest number in the state ${format(largest(states.flat()))}, ` +
        `largest output ${format(largest(y))}. At the end the state is ` +
        `${states.at(-1).map((value) => format(value)).join(" and ")}.`
      );
    },
  });
  const write = penOnPaper(card, root, "samples", { pen, parts: () => parts, draw });

  const tools = html("div", { class: "mv-player" });
  penShapes(card, tools, "samples", SHAPES, write);
  card.controls.before(tools);
  for (const name of ["omega", "zeta", "D"]) slider(card, name);
  choice(card, "reads");
  readouts(card, [
    ["Eigenvalues of A", "A", () => eigenvaluesText(now())],
    ["Largest |x|", "x", () => format(largest(now().x))],
    ["Largest |h|", "h", () => format(largest(now().states.flat()))],
    ["Largest |y|", "y", () => format(largest(now().y))],
    ["h at the end", "h", () => now().states.at(-1).map((value) => format(value)).join(", ")],
  ]);
  return card.stop;
}

function eigenvaluesText({ omega, zeta }) {
  const re = -zeta * omega;
  const root = omega * Math.sqrt(Math.abs(1 - zeta * zeta));
  return zeta < 1 ? `${format(re)} ± ${format(root)} i` : `${format(re + root)}, ${format(re - root)}`;
}

const PANELS = { x: [34, 144], h: [184, 294], y: [334, 444] };

function layoutSignals(root, width, count) {
  const narrow = width < 520;
  const [left, right] = [34, width - 8];
  const x = linear([0, count], [left, right]);
  const names = {
    x: narrow ? "━ x(t): draw here" : "━ the input x(t): draw here",
    h: narrow ? "━ h₁ position  ╌ h₂ velocity" : "━ the state h(t): ━ h₁, position   ╌ h₂, velocity / ω",
    y: narrow ? "━ y(t) = C h + D x" : "━ the output y(t) = C h + D x",
  };
  const levels = {};
  for (const [name, [top, bottom]] of Object.entries(PANELS)) {
    svg("text", { x: 0, y: top - 12, text: names[name], class: `mv-title mv-fill-${name}` }, root);
    const group = svg("g", { class: "mv-axis" }, root);
    levels[name] = [top, (top + bottom) / 2, bottom].map((at) => {
      svg("line", { x1: left, x2: right, y1: at, y2: at }, group);
      return svg("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, group);
    });
  }
  const times = svg("g", { class: "mv-axis" }, root);
  for (const second of [0, 1, 2, 3, 4, 5, 6]) {
    const at = x(second / HOLD);
    for (const [top, bottom] of Object.values(PANELS)) svg("line", { x1: at, x2: at, y1: top, y2: bottom }, times);
    svg("text", { x: at, y: PANELS.y[1] + 18, "text-anchor": second === 6 ? "end" : "middle", text: second === 6 ? "6 s" : second }, times);
  }
  const shape = (name) => svg("path", { class: name }, root);
  const [area, tread] = [shape("mv-hold-area"), shape("mv-hold-tread")];
  const second = shape("mv-signal-h mv-signal-second");
  const first = shape("mv-signal-h");
  const curve = shape("mv-hold-curve");
  const [top, bottom] = PANELS.x;
  penPaper(root, { left, right, top: top - 6, bottom: bottom + 6 });
  const handle = penHandle(root);
  return { x, y: linear([-1, 1], [bottom, top]), count, levels, area, tread, first, second, curve, handle };
}

function drawSignals(parts, { x: samples, states, y: output, entry }, pen) {
  const { x, y, levels } = parts;
  const tread = samples.map((value, k) => {
    const [from, to, at] = [x(k), x(k + 1), y(value)].map((pixel) => pixel.toFixed(1));
    return `${k ? "V" : `M${from} `}${at}H${to}`;
  }).join("");
  set(parts.tread, { d: tread });
  set(parts.area, { d: `${tread}V${y(0).toFixed(1)}H${x(0).toFixed(1)}Z` });
  levels.x.forEach((text, n) => set(text, { text: ["1", "0", "−1"][n] }));
  const scaleFor = (name, values) => {
    const highest = Math.max(...values.map(Math.abs));
    // A scale that grows in few steps, so that a drag does not make it jump.
    const limit = [1, 2, 5, 10, 20, 50, 100].find((one) => one >= highest) ?? highest;
    levels[name].forEach((text, n) => set(text, { text: format([limit, 0, -limit][n]) }));
    return linear([-limit, limit], [PANELS[name][1], PANELS[name][0]]);
  };
  const h = scaleFor("h", states.flat());
  const at = (n) => x((n + 1) / QUARTERS);
  const start = [x(0), h(0)];
  set(parts.first, { d: line([start, ...states.map((state, n) => [at(n), h(state[0])])]) });
  set(parts.second, { d: line([start, ...states.map((state, n) => [at(n), h(state[1])])]) });
  const out = scaleFor("y", output);
  set(parts.curve, { d: line([[x(0), out(output[0] - states[0][entry])], ...output.map((value, n) => [at(n), out(value)])]) });
  placePen(parts.handle, parts, samples, pen.at, `at ${format(pen.at * HOLD)} s`);
}

export default { render };
