// DrawAndRemember: what N numbers keep of a signal. See draw_and_remember.py.

/** A and B of LegT: the polynomial that fits the last `horizon` steps. */
export function legtSystem(N, horizon) {
  const b = Array.from({ length: N }, (_, n) => Math.sqrt(2 * n + 1));
  const sign = (n, k) => (n < k && (k - n) % 2 ? -1 : 1);
  return {
    A: b.map((bn, n) => b.map((bk, k) => (-bn * bk * sign(n, k)) / horizon)),
    B: b.map((value) => value / horizon),
  };
}

/** A_bar and B_bar of a random memory of N numbers: a corner of the largest. */
export function randomSystem(N, { G, g, scales }) {
  return {
    A_bar: G.slice(0, N).map((row) => row.slice(0, N).map((value) => scales[N - 1] * value)),
    B_bar: g.slice(0, N),
  };
}

/** A_bar and B_bar of "legt", "fading" or "random": the same at every step. */
export function systemOf(memory, N, horizon, random) {
  if (memory === "random") return randomSystem(N, random);
  if (memory === "legt") {
    const { A, B } = legtSystem(N, horizon);
    return discretizeMatrix(A, B, 1);
  }
  const A_bar = legsTransition(N, Math.exp(-1 / horizon));
  return { A_bar, B_bar: legsInput(A_bar) };
}

/** The state after the last of x: h = A_bar h + B_bar x, step by step. */
export function stateOf(memory, N, horizon, x, random) {
  const fixed = memory === "legs" ? null : systemOf(memory, N, horizon, random);
  let h = new Array(N).fill(0);
  x.forEach((now, k) => {
    const { A_bar, B_bar } = fixed ?? scaledStep(N, k);
    h = matrixVector(A_bar, h).map((kept, n) => kept + B_bar[n] * now);
  });
  return h;
}

// The steps of scaled LegS differ, and each costs about N³: made once for an N.
const scaled = { N: 0, steps: [] };

/** Step k of scaled LegS: the past becomes k of k + 1 parts. */
function scaledStep(N, k) {
  if (scaled.N !== N) Object.assign(scaled, { N, steps: [] });
  if (!scaled.steps[k]) {
    const A_bar = legsTransition(N, k / (k + 1));
    scaled.steps[k] = { A_bar, B_bar: legsInput(A_bar) };
  }
  return scaled.steps[k];
}

// How the random memory is read: inputs smooth over so many steps, each
// number of the state to this relative error.
const CORRELATION = 3;
const PRECISION = 0.01;

/**
 * W = S Kᵀ (K S Kᵀ + p² diag(K S Kᵀ))⁻¹: row j reads the input of j steps ago
 * best, if the inputs have the covariance S.
 */
export function bestDecoder(A_bar, B_bar, count) {
  let column = B_bar;
  const columns = Array.from({ length: count }, () => {
    const now = column;
    column = matrixVector(A_bar, now);
    return now;
  });
  const K = B_bar.map((_, n) => columns.map((values) => values[n]));
  const lags = columns.map((_, j) => j);
  const S = lags.map((j) => lags.map((k) => Math.exp(-((j - k) ** 2) / (2 * CORRELATION ** 2))));
  const KS = matrixProduct(K, S);
  const gram = KS.map((row) => K.map((other) => row.reduce((sum, value, j) => sum + value * other[j], 0)));
  const size = gram.map((row, n) => Math.sqrt(row[n]) || 1);
  const noisy = gram.map((row, n) =>
    row.map((value, k) => value / (size[n] * size[k]) + (n === k ? PRECISION ** 2 : 0)),
  );
  const root = cholesky(noisy);
  return lags.map((j) =>
    solveCholesky(root, KS.map((row, n) => row[j] / size[n])).map((value, n) => value / size[n]),
  );
}

/** L with L Lᵀ = M. */
function cholesky(M) {
  const L = M.map((row) => row.map(() => 0));
  for (let n = 0; n < M.length; n++) {
    for (let k = 0; k <= n; k++) {
      let rest = M[n][k];
      for (let j = 0; j < k; j++) rest -= L[n][j] * L[k][j];
      L[n][k] = n === k ? Math.sqrt(rest) : rest / L[k][k];
    }
  }
  return L;
}

/** v with L Lᵀ v = w. */
function solveCholesky(L, w) {
  const v = [...w];
  for (let n = 0; n < v.length; n++) {
    for (let k = 0; k < n; k++) v[n] -= L[n][k] * v[k];
    v[n] /= L[n][n];
  }
  for (let n = v.length - 1; n >= 0; n--) {
    for (let k = n + 1; k < v.length; k++) v[n] -= L[k][n] * v[k];
    v[n] /= L[n][n];
  }
  return v;
}

/** The numbers that are read: those heard, as moved by hand. */
export function movedState(memory, heard, moved) {
  return memory === "random" ? heard : heard.map((value, n) => value + moved[n]);
}

/** Where on [0, 1] an age lies: 1 is now. */
export function positionOf(memory, age, horizon) {
  return memory === "fading" ? Math.exp(-age / horizon) : Math.max(0, 1 - age / horizon);
}

/** The last `count` steps as read from the state h, oldest first. */
export function readingOf(memory, N, horizon, h, count, random) {
  const lags = Array.from({ length: count }, (_, k) => count - 1 - k);
  if (memory === "random") {
    const { A_bar, B_bar } = randomSystem(N, random);
    const W = bestDecoder(A_bar, B_bar, count);
    return lags.map((lag) => dot(W[lag], h));
  }
  const span = memory === "legs" ? count : horizon;
  return lags.map((lag) => {
    const age = lag + 0.5; // the middle of the hold
    if (memory === "legt" && age > span) return 0;
    return dot(legendreBasis(N, positionOf(memory, age, span)), h);
  });
}

function dot(v, w) {
  return v.reduce((sum, value, n) => sum + value * w[n], 0);
}

/** The rms error of each of `parts` parts of the past, over the rms of x. */
export function errorByAge(reading, x, parts) {
  const power = dot(x, x) / x.length;
  let start = 0;
  return Array.from({ length: parts }, (_, part) => {
    const end = start + Math.floor(x.length / parts) + (part < x.length % parts ? 1 : 0);
    let sum = 0;
    for (let k = start; k < end; k++) sum += (reading[k] - x[k]) ** 2;
    const error = Math.sqrt(sum / (end - start) / power);
    start = end;
    return error;
  });
}

/** How alike two signals are: 1 is the same shape. */
export function correlation(one, other) {
  const apart = (values) => {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    return values.map((value) => value - mean);
  };
  const [v, w] = [apart(one), apart(other)];
  return dot(v, w) / Math.sqrt(dot(v, v) * dot(w, w));
}

const FIFTHS = 5;
const PACE_OF_PLAY = 90; // milliseconds a step
const HEARD_BY = ["memory", "states", "horizon", "now", "samples"];
const WITHOUT_HORIZON = {
  legs: "scaled LegS has none: its horizon is all that was heard",
  random: "a random matrix has none",
};
const TEMPLATES = {
  Wave: (k) => 0.8 * Math.sin((2 * Math.PI * k) / 21),
  Steps: (k) => [0.6, -0.5, 0.2, -0.8][Math.floor(k / 16)],
  "One bump": (k) => Math.exp(-(((k - 14) / 4) ** 2)),
  Silence: () => 0,
};

function render(context) {
  const card = makeCard(context);
  const { model, knobs, signal } = card;
  const knob = (name) => model.get(name);
  const random = model.get("words").random;
  let last = { turned: [] };
  const now = () => {
    const turned = [...HEARD_BY, "moved"].map(knob);
    if (turned.some((value, n) => value !== last.turned[n])) {
      const [memory, N, horizon, count, samples, moved] = turned;
      const x = samples.slice(0, count);
      const heard = stateOf(memory, N, horizon, x, random);
      const h = movedState(memory, heard, moved);
      const largest = Math.max(...heard.map(Math.abs));
      const reading = readingOf(memory, N, horizon, h, count, random);
      const silent = x.every((value) => value === 0);
      last = {
        ...{ turned, memory, N, horizon, count, samples, x, heard, h, reading, silent },
        byHand: h.some((value, n) => value !== heard[n]),
        // How far the bars of the state reach: not a bar moved by hand.
        limit: memory === "random" ? 1.1 * largest || 1 : Math.max(0.5, 1.25 * largest),
        errors: silent ? [] : errorByAge(reading, x, FIFTHS),
        whole: silent ? NaN : errorByAge(reading, x, 1)[0],
        alike: silent ? NaN : correlation(reading, x),
      };
    }
    return last;
  };
  // Where the pen of the keyboard is; no knob, so it is not shared.
  const pen = { at: 0, shown: false };
  // Likewise which number of the state is being moved.
  const held = { at: 0, shown: false, id: null };
  const share = ({ memory, N, horizon, h, count }) =>
    readingOf(memory, N, horizon, h.map((value, n) => (n === held.at ? value : 0)), count, random);
  let parts = null;
  const draw = () => {
    held.at = Math.min(held.at, now().N - 1);
    drawMemory(parts, now(), pen);
    drawNumbers(parts, now(), held, share);
  };

  const root = picture(card, {
    height: (width) => (width < 520 ? 538 : 418),
    layout: (svgRoot, width) => (parts = layoutMemory(svgRoot, width, random.g.length)),
    draw,
    describe: () => describeMemory(now(), knobs.memory.options),
  });
  const write = penOnPaper(card, root, "samples", { pen, parts: () => parts, draw });
  moveNumbers(card, root, { held, parts: () => parts, now, draw });
  for (const type of ["focusin", "focusout"]) {
    root.addEventListener(type, (event) => {
      const handle = event.target.closest?.(".mv-handle");
      if (!handle) return;
      (handle === parts.pen ? pen : held).shown = type === "focusin";
      draw();
    }, { signal });
  }

  const tools = html("div", { class: "mv-player" });
  player(card, tools);
  penShapes(card, tools, "samples", TEMPLATES, write);
  const back = html("button", { type: "button", class: "mv-button" }, "Numbers as heard");
  const still = () => knob("moved").map(() => 0);
  const forget = () => knob("moved").some((value) => value !== 0) && card.turn("moved", still());
  back.addEventListener("click", forget, { signal });
  const ready = () => (back.disabled = !now().byHand);
  card.onChange(ready);
  ready();
  tools.append(back);
  // Numbers moved by hand belong to what was heard when they were moved.
  for (const name of HEARD_BY) {
    model.on(`change:${name}`, forget);
    signal.addEventListener("abort", () => model.off(`change:${name}`, forget));
  }
  card.controls.before(tools);

  const told = (text) => () => (now().silent ? "a signal of 0" : text());
  readouts(card, [
    ["Kept", "h", () => `${now().N} for ${now().count} heard`],
    ["Correlation", "h", told(() => format(now().alike))],
    ["Error, all of it", "x", told(() => format(now().whole))],
    ["Error, newest fifth", "x", told(() => format(now().errors.at(-1)))],
    ["Error, oldest fifth", "x", told(() => format(now().errors[0]))],
  ]);
  choice(card, "memory").classList.add("mv-hold-rule");
  slider(card, "states");
  restWhile(card, slider(card, "horizon"), () => WITHOUT_HORIZON[knob("memory")]);
  slider(card, "now");
  return card.stop;
}

/** A button that lets the state hear the signal step by step. */
function player(card, tools) {
  const { model, signal } = card;
  const { low, high } = card.knobs.now;
  const play = html("button", { type: "button", class: "mv-button", "aria-pressed": "false" }, "Play");
  tools.append(play);
  let timer = 0;
  const pause = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  };
  play.addEventListener("click", () => {
    if (timer) return pause();
    if (model.get("now") === high) card.turn("now", low);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      if (model.get("now") < high) card.turn("now", model.get("now") + 1);
      if (model.get("now") >= high) pause();
    }, PACE_OF_PLAY);
  }, { signal });
  signal.addEventListener("abort", pause);
}

/** Move the numbers of the state: by mouse or finger, or by the keys of the handle. */
function moveNumbers(card, root, { held, parts, now, draw }) {
  const { model, signal } = card;
  const write = (n, value) => {
    const { heard, limit } = now();
    const moved = [...model.get("moved")];
    moved[n] = Number((clamp(value, -limit, limit) - heard[n]).toFixed(9));
    card.turn("moved", moved);
  };
  const value = (event) => {
    const pixel = event.clientY - root.getBoundingClientRect().top;
    return Math.round((100 * now().limit * (parts().zero - pixel)) / HALF_BAR) / 100;
  };
  const on = (type, act, options = {}) =>
    root.addEventListener(type, (event) => event.target.closest?.(".mv-state-area") && act(event), { signal, ...options });
  on("pointerdown", (event) => {
    const { N, memory } = now();
    if (event.button !== 0 || memory === "random") return;
    event.preventDefault();
    event.target.setPointerCapture(event.pointerId);
    const { start, slotOf } = parts();
    const across = event.clientX - root.getBoundingClientRect().left - start;
    held.at = clamp(Math.floor(across / slotOf(N)), 0, N - 1);
    held.id = event.pointerId;
    write(held.at, value(event));
    draw();
  });
  on("touchstart", (event) => now().memory === "random" || event.preventDefault(), { passive: false });
  on("pointermove", (event) => held.id === event.pointerId && write(held.at, value(event)));
  on("lostpointercapture", () => {
    held.id = null;
    draw();
  });
  root.addEventListener("keydown", (event) => {
    if (!event.target.closest?.(".mv-number") || event.ctrlKey || event.metaKey || event.altKey) return;
    const { N, h } = now();
    const places = { ArrowLeft: held.at - 1, ArrowRight: held.at + 1, Home: 0, End: N - 1 };
    const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 4, PageDown: -4 };
    if (event.key in places) {
      held.at = clamp(places[event.key], 0, N - 1);
      draw();
    } else if (event.key in steps) {
      // To the next twentieth, so that the keys give round numbers.
      const by = steps[event.key];
      const twentieths = Number((20 * h[held.at]).toFixed(6));
      write(held.at, ((by > 0 ? Math.floor(twentieths) : Math.ceil(twentieths)) + by) / 20);
    } else return;
    event.preventDefault();
  }, { signal });
}

function describeMemory({ memory, N, count, silent, errors, alike, byHand }, names) {
  const start = `${names[memory]}, ${N} numbers after ${count} steps${byHand ? ", moved by hand" : ""}. `;
  if (silent) return `${start}The signal is 0.`;
  return (
    `${start}Correlation of the signal with what is read from the state: ${format(alike)}. ` +
    `Errors by fifths of the past, oldest first: ${errors.map((error) => format(error, 2)).join(", ")}.`
  );
}

const TALL = { top: 36, bottom: 206 };
const HALF_BAR = 42; // from 0 to the limit of the state's bars, in pixels

function layoutMemory(root, width, most) {
  const narrow = width < 520;
  const count = 64;
  const [left, right] = [30, width - 8];
  const x = linear([0, count], [left, right]);
  const y = linear([-1.15, 1.15], [TALL.bottom, TALL.top]);
  const legend = svg("text", { x: 0, y: 14, class: "mv-title" }, root);
  svg("tspan", { class: "mv-fill-x", text: narrow ? "━ drawn" : "━ the signal: draw here" }, legend);
  svg("tspan", { class: "mv-fill-h", text: narrow ? "\u2003━ read from the state" : "\u2003━ what the state alone can tell of it" }, legend);
  axis(root, { x, y, side: "left", values: [-1, 0, 1] });
  axis(root, { x, y, side: "bottom", values: [0, 16, 32, 48], name: "step →" });
  const future = svg("rect", { y: TALL.top, height: TALL.bottom - TALL.top, class: "mv-remember-future" }, root);
  const shape = (name) => svg("path", { class: name }, root);
  const [area, drawn, coming] = ["mv-hold-area", "mv-hold-tread", "mv-remember-coming"].map(shape);
  const read = shape("mv-remember-read");
  const share = shape("mv-remember-share");
  const nowLine = shape("mv-ruler");
  const nowText = svg("text", { y: TALL.top - 5, class: "mv-ruler-text" }, root);
  penPaper(root, { left, right, ...TALL });
  const pen = penHandle(root);

  const base = TALL.bottom + 40;
  svg("text", { x: 0, y: base + 12, text: narrow ? "How much each age counts" : "How much each age counts in the fit", class: "mv-title" }, root);
  const weights = Array.from({ length: count }, (_, k) =>
    svg("rect", { x: x(k), y: base + 20, width: x(1) - x(0), height: 9, class: "mv-remember-weight" }, root),
  );
  const unweighted = svg("text", { x: left, y: base + 29, text: "no weight was designed" }, root);

  const top = base + 58;
  svg("text", { x: 0, y: top, text: narrow ? "Error by age, in fifths of the past" : "Error by age, in fifths; 1: knows nothing", class: "mv-title" }, root);
  const middle = narrow ? right : left + (right - left) * 0.48;
  const slot = (middle - left) / FIFTHS;
  const errorScale = linear([0, 1.25], [top + 78, top + 10]);
  svg("line", { x1: left, x2: middle, y1: errorScale(1), y2: errorScale(1), class: "mv-rule-level" }, root);
  svg("text", { x: left - 6, y: errorScale(1) + 4, "text-anchor": "end", text: "1" }, root);
  const bars = Array.from({ length: FIFTHS }, (_, n) => ({
    bar: svg("rect", { x: left + slot * n + 4, width: slot - 8, class: "mv-remember-error" }, root),
    text: svg("text", { x: left + slot * (n + 0.5), y: top + 92, "text-anchor": "middle" }, root),
  }));
  svg("text", { x: left + 4, y: top + 94 + 14, text: "oldest" }, root);
  svg("text", { x: middle - 4, y: top + 94 + 14, "text-anchor": "end", text: "newest" }, root);

  const start = narrow ? left : middle + 34;
  const floor = narrow ? top + 136 : top;
  const title = svg("text", { x: narrow ? 0 : start, y: floor, class: "mv-title" }, root);
  const slotOf = (N) => Math.min(26, (right - start) / N);
  const zero = floor + 12 + HALF_BAR;
  const numbers = Array.from({ length: most }, () => svg("rect", { class: "mv-remember-number" }, root));
  const level = svg("line", { x1: start, y1: zero, y2: zero, class: "mv-rule-level" }, root);
  const hit = svg("rect", { x: start, y: zero - HALF_BAR - 4, height: 2 * HALF_BAR + 8, class: "mv-hit mv-state-area" }, root);
  const handle = svg("g", {
    ...{ class: "mv-handle mv-number", role: "slider", "data-lm-suppress-shortcuts": "true", "aria-orientation": "vertical" },
    "aria-label": "number of the state: left and right choose it, up and down move it",
  }, root);
  svg("circle", { r: 5, class: "mv-grip" }, handle);
  const byHand = { title, start, slotOf, level, hit, handle, share };
  return { ...byHand, x, y, count, area, drawn, coming, read, future, nowLine, nowText, pen, weights, unweighted, bars, errorScale, numbers, zero, right };
}

function drawMemory(parts, state, pen) {
  const { x, y, drawn, coming, area, read, future, nowLine, nowText, right } = parts;
  const { samples, count, reading, memory, horizon } = state;
  const tread = (from, to) =>
    samples.slice(from, to).map((value, n) => {
      const [start, end, at] = [x(from + n), x(from + n + 1), y(value)].map((pixel) => pixel.toFixed(1));
      return `${n ? "V" : `M${start} `}${at}H${end}`;
    }).join("");
  const heard = tread(0, count);
  set(drawn, { d: heard });
  set(area, { d: `${heard}V${y(0).toFixed(1)}H${x(0).toFixed(1)}Z` });
  set(coming, { d: tread(count, samples.length) });
  set(read, { d: line(reading.map((value, k) => [x(k + 0.5), clamp(y(value), TALL.top - 4, TALL.bottom + 4)])) });
  set(future, { x: x(count), width: Math.max(0, right - x(count)) });
  set(nowLine, { d: `M${x(count).toFixed(1)} ${TALL.top}V${TALL.bottom}` });
  set(nowText, { x: x(count), "text-anchor": count > 10 ? "end" : "start", text: "now" });
  placePen(parts.pen, parts, samples, pen.at, `step ${pen.at}`);
  set(parts.pen, { "fill-opacity": pen.shown ? 1 : 0.6 });

  const span = memory === "legs" ? count : horizon;
  parts.weights.forEach((cell, k) => {
    const age = count - k - 0.5;
    const kept = age < 0 || memory === "random" ? 0 : positionOf(memory, age, span);
    const weight = memory === "fading" ? kept : kept > 0 ? 1 : 0;
    set(cell, { "fill-opacity": (0.9 * weight).toFixed(3) });
  });
  parts.unweighted.style.display = memory === "random" ? "" : "none";

  parts.bars.forEach(({ bar, text }, n) => {
    const error = state.errors[n];
    const top = parts.errorScale(Math.min(error ?? 0, 1.25));
    set(bar, { y: top.toFixed(1), height: (parts.errorScale(0) - top).toFixed(1) });
    set(text, { text: error === undefined ? "–" : format(error, 2) });
  });
}

/** The numbers of the state, the handle at one of them, and that one's curve. */
function drawNumbers({ x, y, zero, start, slotOf, numbers, title, level, hit, handle, share }, state, held, shareOf) {
  const { N, h, limit, memory } = state;
  const wide = slotOf(N);
  const fixed = memory === "random";
  const tallOf = (value) => HALF_BAR * clamp(value / limit, -1, 1);
  numbers.forEach((bar, n) => {
    const tall = tallOf(h[n] ?? 0);
    set(bar, {
      ...{ x: (start + wide * n + 1).toFixed(1), width: (wide - 2).toFixed(1), height: Math.abs(tall).toFixed(1) },
      y: Math.min(zero, zero - tall).toFixed(1),
    });
  });
  const more = fixed ? ", no more" : held.shown || held.id !== null ? `; φ${subscript(held.at)}: ${format(h[held.at])}` : ": drag one";
  set(title, { text: `The state: these N numbers${more}` });
  set(level, { x2: start + wide * N });
  set(hit, { width: wide * N });
  set(handle, {
    ...{ tabindex: fixed ? null : 0, transform: `translate(${(start + wide * (held.at + 0.5)).toFixed(1)} ${(zero - tallOf(h[held.at])).toFixed(1)})` },
    ...{ "aria-valuemin": -limit.toFixed(2), "aria-valuemax": limit.toFixed(2), "aria-valuenow": h[held.at].toFixed(4) },
    "aria-valuetext": `number ${held.at + 1} of ${N}: ${format(h[held.at])}`,
    "fill-opacity": held.shown ? 1 : 0.6,
  });
  handle.style.display = fixed ? "none" : "";
  hit.style.display = fixed ? "none" : "";
  const shown = !fixed && (held.shown || held.id !== null);
  set(share, {
    d: shown ? line(shareOf(state).map((value, k) => [x(k + 0.5), clamp(y(value), TALL.top - 4, TALL.bottom + 4)])) : "",
  });
}

function subscript(n) {
  return [...String(n)].map((digit) => "₀₁₂₃₄₅₆₇₈₉"[digit]).join("");
}

export default { render };
