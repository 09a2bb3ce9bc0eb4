// HoldIt: a held input, and two ways to follow it. See hold_it.py.

/** Every state h_k = A_bar h_{k−1} + B_bar x_k, from 0 on; all real. */
export function recurrence(A_bar, B_bar, x) {
  let h = 0;
  return x.map((now) => (h = A_bar * h + B_bar * now));
}

/**
 * The continuous state at each of `times`, while x_k is held from kΔ to
 * (k + 1)Δ: h(kΔ + s) = e^(sA) h(kΔ) + (e^(sA) − 1)/A B x_k.
 */
export function heldState(A, B, delta, x, times) {
  const move = (h, s, now) => {
    const driven = A === 0 ? s : Math.expm1(s * A) / A;
    return Math.exp(s * A) * h + driven * B * now;
  };
  const starts = [0];
  for (const now of x) starts.push(move(starts.at(-1), delta, now));
  return times.map((t) => {
    const k = clamp(Math.floor(t / delta), 0, x.length - 1);
    return move(starts[k], t - k * delta, x[k]);
  });
}

/** When each hold ends: (k + 1)Δ. */
export function holdEnds(delta, x) {
  return x.map((_, k) => (k + 1) * delta);
}

/**
 * Steps and curve side by side, for B = −A: the `states` of the recurrence
 * after `rule`, the continuous state at the end of each hold (`exact`), and
 * the largest `gap` between the two.
 */
export function follow(rule, A, delta, x) {
  const bars = discretize(rule, A, 0, delta);
  const A_bar = bars.A_bar[0];
  const B_bar = bars.B_bar[0] * -A;
  const states = recurrence(A_bar, B_bar, x);
  const exact = heldState(A, -A, delta, x, holdEnds(delta, x));
  const gap = Math.max(...states.map((h, k) => Math.abs(h - exact[k])));
  return { A_bar, B_bar, states, exact, gap };
}

// Below this a gap is what 53 bits leave of an exact 0.
const ROUNDING = 1e-12;
// The input stays within one; the rest is room for dots that miss.
const REACH = 1.45;
const STRIDE = 0.05;
const KEYS = {
  ArrowUp: STRIDE,
  ArrowRight: STRIDE,
  ArrowDown: -STRIDE,
  ArrowLeft: -STRIDE,
  PageUp: 5 * STRIDE,
  PageDown: -5 * STRIDE,
  Home: -Infinity,
  End: Infinity,
};

function render(context) {
  const card = makeCard(context);
  const { model, knobs } = card;
  const knob = (name) => model.get(name);
  // The picture, its words and each number ask for the same steps.
  let last = { turned: [] };
  const now = () => {
    const turned = [knob("rule"), knob("A"), knob("delta"), knob("samples")];
    if (turned.some((value, n) => value !== last.turned[n])) {
      const [rule, A, delta, samples] = turned;
      last = { turned, A, delta, samples, ...follow(rule, A, delta, samples) };
    }
    return last;
  };
  // Which step is looked at more closely; no knob, so it is not shared.
  let marked = 1;
  let focused = null;
  let parts = null;
  const draw = () => {
    const { length } = knob("samples");
    if (parts.steps?.length !== length) {
      parts.steps = layoutSteps(parts, length);
      // The handles are new ones; whoever was at one of them stays there.
      parts.steps[focused]?.handle.focus({ preventScroll: true });
    }
    drawPicture(parts, now(), Math.min(marked, length - 1), knob("view") === "steps");
  };

  const root = picture(card, {
    height: (width) => bottomOf(width) + (width < 480 ? 92 : 74),
    layout: (svgRoot, width) => (parts = layoutPicture(svgRoot, width, knobs.samples)),
    draw,
    describe: () =>
      `${knob("samples").length} values, each held for Δ = ${format(knob("delta"))}, with ` +
      `A = ${format(knob("A"))}. Steps: ${knobs.rule.options[knob("rule")]}. ` +
      `Largest gap between steps and curve: ${gapText(now().gap)}. ` +
      (knob("view") === "steps"
        ? `Shown are the inputs x and the outputs y of the steps 0 to ${knob("samples").length - 1}, and no time.`
        : "Shown are x(t) and y(t), with the steps on them."),
  });
  // An image hides what stands in it from a screen reader; a group does not.
  root.setAttribute("role", "group");

  const mark = (k) => {
    if (k === marked) return;
    marked = k;
    draw();
  };
  const turn = (k, value) => {
    const { low, high } = knobs.samples;
    const near = Math.round(clamp(value, low, high) / STRIDE) * STRIDE;
    const fit = Number(near.toFixed(2));
    const x = knob("samples");
    if (fit !== x[k]) card.turn("samples", x.map((old, n) => (n === k ? fit : old)));
  };
  handles(root, card.signal, {
    mark,
    focus: (k) => (focused = k),
    key: (k, stride) => turn(k, knob("samples")[k] + stride),
    grab: (k, pixel) => {
      // The value keeps its distance from the finger: nothing jumps.
      const offset = parts.y(knob("samples")[k]) - pixel;
      return (next) => turn(k, parts.y.invert(next + offset));
    },
  });

  readouts(card, [
    ["Largest gap", "h", () => gapText(now().gap)],
    ["Ā", "A", () => format(now().A_bar)],
    ["B̄", "B", () => format(now().B_bar)],
    ["One step in half-lives", "delta", () => format((-knob("A") * knob("delta")) / Math.LN2)],
  ]);
  choice(card, "rule").classList.add("mv-hold-rule");
  choice(card, "view").classList.add("mv-hold-rule");
  slider(card, "delta");
  slider(card, "A");
  return card.stop;
}

function gapText(gap) {
  return gap < ROUNDING ? "0 within rounding" : format(gap);
}

/** Let every handle below `root` be dragged, keyed and looked at. */
function handles(root, signal, { mark, focus, key, grab }) {
  const indexOf = (event) => {
    const handle = event.target.closest?.(".mv-handle");
    return handle ? Number(handle.dataset.step) : null;
  };
  let drag = null;
  const on = (type, act, options = {}) =>
    root.addEventListener(
      type,
      (event) => {
        const k = indexOf(event);
        if (k !== null) act(event, k);
      },
      { signal, ...options },
    );
  const pixel = (event) => event.clientY - root.getBoundingClientRect().top;
  on("pointerover", (_, k) => drag || mark(k));
  on("focusin", (_, k) => {
    focus(k);
    mark(k);
  });
  on("focusout", ({ target }) => {
    // A handle that a new layout took away was not left by the reader.
    queueMicrotask(() => target.isConnected && focus(null));
  });
  on("pointerdown", (event, k) => {
    if (event.button !== 0) return;
    // The default would start selecting the labels.
    event.preventDefault();
    const handle = event.target.closest(".mv-handle");
    handle.focus({ preventScroll: true });
    handle.setPointerCapture(event.pointerId);
    drag = { id: event.pointerId, to: grab(k, pixel(event)) };
  });
  // For browsers that apply touch-action to no shape: do not start to scroll.
  on("touchstart", (event) => event.preventDefault(), { passive: false });
  on("pointermove", (event) => {
    if (drag?.id === event.pointerId) drag.to(pixel(event));
  });
  on("lostpointercapture", () => (drag = null));
  on("keydown", (event, k) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    key(k, KEYS[event.key]);
  });
}

const TOP = 50;
const bottomOf = (width) => TOP + (width < 480 ? 250 : 280);

/** A text of several colours: pieces are strings or [symbol, string]. */
function sentence(text, pieces) {
  const spans = pieces.map((piece) => {
    const [symbol, words] = Array.isArray(piece) ? piece : ["ink", piece];
    return svg("tspan", { class: `mv-fill-${symbol}`, text: words });
  });
  text.replaceChildren(...spans);
}

const subscript = (k) => [...String(k)].map((digit) => "₀₁₂₃₄₅₆₇₈₉"[digit]).join("");

function layoutPicture(root, width, { low, high }) {
  const narrow = width < 480;
  const bottom = bottomOf(width);
  const y = linear([-REACH, REACH], [bottom, TOP]);
  const [left, right] = [24, width - 12];
  const group = (name) => svg("g", { class: name }, root);
  const parts = {
    root,
    legend: svg("text", { x: 0, y: 14, class: "mv-title" }, root),
    narrow,
    low,
    high,
    y,
    left,
    right,
    bottom,
    band: svg("rect", { y: TOP, height: bottom - TOP, class: "mv-hold-band" }, root),
    grid: group("mv-axis"),
    tread: svg("path", { class: "mv-hold-tread" }, root),
    area: svg("path", { class: "mv-hold-area" }, root),
    curve: svg("path", { class: "mv-hold-curve" }, root),
    misses: svg("path", { class: "mv-hold-misses" }, root),
    sticks: svg("path", { class: "mv-hold-sticks" }, root),
    dots: group("mv-hold-dots"),
    handles: group("mv-hold-handles"),
    ruler: svg("path", { class: "mv-ruler" }, root),
    rulerText: svg("text", { y: TOP - 13, "text-anchor": "middle", class: "mv-hold-delta" }, root),
    times: group("mv-hold-times"),
    // Where the closer look at one step is written, line by line.
    looks: [0, 1, 2].map((n) =>
      svg("text", { x: 0, y: bottom + 44 + 19 * n, class: "mv-hold-look" }, root),
    ),
  };
  for (const value of [low, 0, high]) {
    const at = y(value);
    svg("line", { x1: left, x2: right, y1: at, y2: at }, parts.grid);
    svg("text", { x: left - 6, y: at + 4, "text-anchor": "end", text: format(value) }, parts.grid);
  }
  parts.edges = svg("path", { class: "mv-hold-edges" }, parts.grid);
  return parts;
}

/** What depends on the number of steps: edges, handles and dots. */
function layoutSteps(parts, count) {
  const { left, right, bottom } = parts;
  const x = linear([0, count], [left, right]);
  parts.x = x;
  const wide = x(1) - x(0);
  const edges = Array.from({ length: count + 1 }, (_, k) => `M${x(k).toFixed(1)} ${TOP}V${bottom}`);
  parts.edges.setAttribute("d", edges.join(""));
  parts.handles.replaceChildren();
  parts.dots.replaceChildren();
  return Array.from({ length: count }, (_, k) => {
    const handle = svg(
      "g",
      {
        class: "mv-handle",
        tabindex: 0,
        role: "slider",
        "aria-label": `x_${k}`,
        "aria-orientation": "vertical",
        "aria-valuemin": parts.low,
        "aria-valuemax": parts.high,
        "data-step": k,
        // JupyterLab's shortcuts would take the arrow keys.
        "data-lm-suppress-shortcuts": "true",
      },
      parts.handles,
    );
    svg("rect", { x: x(k), width: wide, y: -22, height: 44, class: "mv-hit" }, handle);
    svg("circle", { cx: x(k + 0.5), r: 7, class: "mv-grip" }, handle);
    const name = svg("text", { x: x(k + 0.5), text: `x${subscript(k)}`, class: "mv-name" }, handle);
    const dot = svg("g", {}, parts.dots);
    return {
      handle,
      name,
      dot,
      mark: svg("path", {}, dot),
      label: svg("text", {}, dot),
    };
  });
}

// About as wide as "held for Δ = 0.05" is.
const RULER_TEXT = 112;
const DOT = "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z";
const BEYOND = "M-6 7L0 -3L6 7Z";

function drawPicture(parts, state, marked, inSteps) {
  set(parts.root, { class: inSteps ? "mv-picture mv-in-steps" : "mv-picture" });
  sentence(parts.legend, inSteps ? namesOfSteps(parts) : namesInTime(parts));
  drawInput(parts, state, marked);
  parts.steps.forEach((step, k) => drawStep(parts, step, state, k, k === marked));
  if (inSteps) {
    drawSequences(parts, state, marked);
    return;
  }
  drawCurve(parts, state);
  drawMisses(parts, state);
  drawTimes(parts, state);
  look(parts, state, marked);
}

function namesInTime({ narrow }) {
  return [
    ["x", narrow ? "━ x, held" : "━ input x, held"],
    "\u2003",
    ["y", narrow ? "━ y(t) = h(t)" : "━ output y(t) = h(t), continuous"],
    "\u2003",
    ["h", narrow ? "● h, in steps" : "● state h, step by step"],
  ];
}

function namesOfSteps({ narrow }) {
  return [
    ["x", narrow ? "○ input xₖ" : "○ the input xₖ, a sequence"],
    "\u2003",
    ["y", narrow ? "● output yₖ = hₖ" : "● the output yₖ = hₖ, a sequence"],
  ];
}

/** Without time: a stick for each x_k, a dot for each y_k, at one place k. */
function drawSequences(parts, state, marked) {
  const { x, y, bottom } = parts;
  const sticks = state.samples.map((value, k) => `M${x(k + 0.5).toFixed(1)} ${y(0).toFixed(1)}V${y(value).toFixed(1)}`);
  set(parts.sticks, { d: sticks.join("") });
  parts.steps.forEach(({ handle, dot, label }, k) => {
    set(handle, { "aria-valuetext": `${format(state.samples[k])}, at step ${k}` });
    const at = shown(y(state.states[k]), bottom);
    set(dot, { transform: `translate(${x(k + 0.5).toFixed(1)} ${at.toFixed(1)})` });
    // The name of the input stands above or below its ring.
    set(label, { x: 9, y: 4, "text-anchor": "start", text: `y${subscript(k)}` });
  });
  writeTicks(parts, state.samples.map((_, k) => [x(k + 0.5), k ? String(k) : "k = 0"]));
  lookAtStep(parts, state, marked);
}

function drawInput(parts, { samples, delta }, marked) {
  const { x, y, left, right } = parts;
  let tread = "";
  let area = `M${left} ${y(0)}`;
  for (const [k, value] of samples.entries()) {
    const [from, to, at] = [x(k), x(k + 1), y(value)].map((pixel) => pixel.toFixed(1));
    tread += `${k ? "V" : `M${from} `}${at}H${to}`;
    area += `V${at}H${to}`;
  }
  set(parts.tread, { d: tread });
  set(parts.area, { d: `${area}V${y(0)}Z` });
  const [from, to] = [x(marked), x(marked + 1)];
  set(parts.band, { x: from, width: to - from });
  set(parts.ruler, { d: `M${from} ${TOP - 9}v8M${from} ${TOP - 5}H${to}M${to} ${TOP - 9}v8` });
  set(parts.rulerText, {
    x: clamp((from + to) / 2, left + RULER_TEXT / 2, right - RULER_TEXT / 2),
    text: `held for Δ = ${format(delta)}`,
  });
}

function drawCurve({ x, y, curve, narrow }, { A, delta, samples }) {
  const perStep = narrow ? 12 : 24;
  const steps = Array.from({ length: samples.length * perStep + 1 }, (_, n) => n / perStep);
  const h = heldState(A, -A, delta, samples, steps.map((step) => step * delta));
  curve.setAttribute("d", line(steps.map((step, n) => [x(step), y(h[n])])));
}

/** One sample's handle and the dot at the end of its hold. */
function drawStep({ x, y, bottom, narrow }, step, { samples, states, exact, delta }, k, marked) {
  const [value, h, before] = [samples[k], states[k], k ? exact[k - 1] : 0];
  set(step.handle, {
    transform: `translate(0 ${y(value).toFixed(1)})`,
    class: marked ? "mv-handle mv-marked" : "mv-handle",
    "aria-valuenow": value,
    "aria-valuetext": `${format(value)}, held from ${format(k * delta)} to ${format((k + 1) * delta)}`,
  });
  // The curve comes from the other side of the tread.
  set(step.name, { y: before > value ? 22 : -13 });

  const last = k === samples.length - 1;
  const at = y(h);
  const inside = at >= TOP && at <= bottom;
  set(step.dot, {
    transform: `translate(${x(k + 1).toFixed(1)} ${shown(at, bottom).toFixed(1)})`,
    class: marked ? "mv-marked" : null,
  });
  set(step.mark, { d: inside ? DOT : BEYOND, transform: at > bottom ? "scale(1 -1)" : null });
  const off = miss(h, exact[k]);
  const going = last ? 0 : exact[k + 1] - h;
  set(step.label, { ...(inside ? placed(off, h - before, going) : beside(last)), text: `h${subscript(k)}` });
  // A narrow picture has no room for every name.
  step.label.style.display = narrow && (k > 1 || off) && !marked ? "none" : "";
}

/** Where a dot is drawn: one beyond the picture is an arrow at its edge. */
function shown(at, bottom) {
  return at >= TOP && at <= bottom ? at : clamp(at, TOP + 8, bottom - 8);
}

/** How far a dot is from the curve; 0 where only rounding parts them. */
function miss(h, exact) {
  return Math.abs(h - exact) < ROUNDING ? 0 : h - exact;
}

function drawMisses({ x, y, bottom, misses }, { states, exact }) {
  const lines = states.map((h, k) => {
    if (!miss(h, exact[k])) return "";
    const [from, to] = [y(exact[k]), shown(y(h), bottom)];
    return `M${x(k + 1).toFixed(1)} ${from.toFixed(1)}V${to.toFixed(1)}`;
  });
  misses.setAttribute("d", lines.join(""));
}

/** Where a dot's label is clear of the curve and of the line to it. */
function placed(off, coming, going) {
  const above = { x: 0, y: -10, "text-anchor": "middle" };
  const below = { x: 0, y: 20, "text-anchor": "middle" };
  if (off) return off > 0 ? above : below;
  if (coming > 0 && going <= 0) return above;
  if (coming <= 0 && going >= 0) return below;
  return { x: 7, y: going > 0 ? 15 : -7, "text-anchor": "start" };
}

/** Where the label of an arrow at the edge of the picture stands. */
function beside(last) {
  return { x: last ? -9 : 9, y: 4, "text-anchor": last ? "end" : "start" };
}

function drawTimes({ times, left, right, bottom, narrow }, { samples, delta }) {
  const time = linear([0, samples.length * delta], [left, right]);
  const values = ticks(time.domain, narrow ? 5 : 10);
  writeTicks({ times, bottom }, values.map((value) => [time(value), value === 0 ? "t = 0" : format(value)]));
}

/** Marks along the lower edge; pairs of a place and a word. */
function writeTicks({ times, bottom }, marks) {
  while (times.children.length > marks.length) times.lastChild.remove();
  while (times.children.length < marks.length) {
    const tick = svg("g", {}, times);
    svg("path", { d: "M0 0v6" }, tick);
    svg("text", { y: 19, "text-anchor": "middle" }, tick);
  }
  for (const [n, [at, text]] of marks.entries()) {
    const tick = times.children[n];
    set(tick, { transform: `translate(${at.toFixed(1)} ${bottom})` });
    set(tick.lastChild, { text });
  }
}

/** The step k in its letters and in numbers. */
function stepInWords({ A_bar, B_bar, states, samples }, k) {
  const sub = subscript(k);
  const before = k ? states[k - 1] : 0;
  const sum = [
    ["A", format(A_bar)],
    " · ",
    ["h", signed(before)],
    " + ",
    ["B", format(B_bar)],
    " · ",
    ["x", signed(samples[k])],
  ];
  const result = [" = ", ["h", format(states[k])]];
  const rule = [
    ["h", `h${sub}`],
    " = ",
    ["A", "Ā"],
    " ",
    ["h", k ? `h${subscript(k - 1)}` : "0"],
    " + ",
    ["B", "B̄"],
    " ",
    ["x", `x${sub}`],
  ];
  return { sub, rule, sum, result };
}

/** One step in numbers, in two lines or three. */
function look({ looks, narrow }, state, k) {
  const { exact, delta } = state;
  const { sub, rule, sum, result } = stepInWords(state, k);
  const end = format((k + 1) * delta);
  const there = [["y", `y(${end})`], " = ", ["y", format(exact[k])]];
  const first = narrow
    ? ["End of the hold of ", ["x", `x${sub}`], ": curve ", ...there]
    : ["At the end of the hold of ", ["x", `x${sub}`], " the curve is at ", ...there];
  const rows = narrow
    ? [first, ["and dot ", ...rule, ...result], ["from ", ...sum]]
    : [first, ["and the dot is at ", ...rule, " = ", ...sum, ...result], []];
  for (const [n, row] of rows.entries()) sentence(looks[n], row);
}

/** The same where there is no time and no curve. */
function lookAtStep({ looks, narrow }, state, k) {
  const { sub, rule, sum, result } = stepInWords(state, k);
  const first = ["Step ", ["ink", `k = ${k}`], ": ", ["x", `x${sub}`], " goes in, ", ["y", `y${sub}`], " = ", ["h", `h${sub}`], " comes out"];
  const rows = narrow ? [first, [...rule, ...result], ["from ", ...sum]] : [first, [...rule, " = ", ...sum, ...result], []];
  for (const [n, row] of rows.entries()) sentence(looks[n], row);
}

/** A factor as it stands behind a dot: a negative one in brackets. */
function signed(value) {
  return value < 0 ? `(${format(value)})` : format(value);
}

export default { render };
