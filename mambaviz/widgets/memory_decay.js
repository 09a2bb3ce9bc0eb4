// MemoryDecay: what Δ and A leave of the past. See memory_decay.py.

/** What one step leaves of the state: A_bar = e^(ΔA). */
export function decay(delta, A) {
  return Math.exp(delta * A);
}

/** The share of a token that is left after `lag` steps. */
export function shareLeft(delta, A, lag) {
  return Math.exp(delta * A * lag);
}

/** The share of a new token that one step takes in if B = −A: 1 − A_bar. */
export function shareTaken(delta, A) {
  return -Math.expm1(delta * A);
}

/** After how many steps half of a token is left: ln 2 / (Δ|A|). */
export function halfLife(delta, A) {
  return Math.LN2 / (delta * Math.abs(A));
}

/** The A of each of several states: A, 2A, 3A, … as Mamba starts. */
export function spectrum(A, states) {
  return Array.from({ length: states }, (_, n) => (n + 1) * A);
}

/**
 * The state after each token if B = −A, so that a constant input of one leads
 * every state to one: h = A_bar h + (1 − A_bar) x.
 */
export function trajectory(delta, A, x) {
  const [kept, taken] = [decay(delta, A), shareTaken(delta, A)];
  let h = 0;
  return x.map((now) => (h = kept * h + taken * now));
}

const LAGS = 60;
const WORDS = "once there was a small fox who lived alone in the wood and".split(" ");
// Tokens arrive: one alone, then a run of them, then two close together.
export const INPUT = Array.from({ length: LAGS }, (_, k) =>
  k === 3 || (k >= 14 && k < 26) || k === 40 || k === 44 ? 1 : 0,
);

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const knob = (name) => model.get(name);
  const steps = () => halfLife(knob("delta"), knob("A"));

  picture(card, {
    height: () => 436,
    layout: (root, width) => layoutPicture(root, width),
    draw: (parts) => drawPicture(parts, knob("delta"), spectrum(knob("A"), knob("states"))),
    describe: () =>
      `With Δ = ${format(knob("delta"))} and A = ${format(knob("A"))} a token has ` +
      `lost half of its weight after ${format(steps())} steps; ` +
      `${percent(shareLeft(knob("delta"), knob("A"), 10))} of it is left after 10.`,
  });
  readouts(card, [
    ["Half-life", "h", () => `${format(steps())} steps`],
    ["Ā = exp(ΔA)", "A", () => format(decay(knob("delta"), knob("A")), 4)],
    ["Taken in of a token (B = −A)", "x", () => percent(shareTaken(knob("delta"), knob("A")))],
    ["Left after 10 steps", "h", () => percent(shareLeft(knob("delta"), knob("A"), 10))],
    ["Left after 100 steps", "h", () => percent(shareLeft(knob("delta"), knob("A"), 100))],
  ]);
  slider(card, "delta");
  slider(card, "A");
  slider(card, "states");
  return card.stop;
}

function layoutPicture(root, width) {
  const narrow = width < 480;
  const left = 40;
  const right = width - 10;
  const past = {
    // The newest token stands at the right, as in a line of text.
    x: linear([LAGS - 1, 0], [left + 4, right - 4]),
    y: linear([0, 1], [176, 34]),
  };
  const time = {
    x: linear([0, LAGS], [left + 4, right - 4]),
    y: linear([0, 1], [396, 296]),
  };
  const asPercent = (v) => `${Math.round(100 * v)} %`;
  axis(root, { ...past, side: "left", values: [0, 0.5, 1], text: asPercent });
  axis(root, {
    ...past,
    side: "bottom",
    values: narrow ? [0, 20, 40] : [0, 10, 20, 30, 40, 50],
    text: (v) => (v === 0 ? "now" : `${v}`),
  });
  const caption = (x, y, text, anchor = "start") =>
    svg("text", { x, y, text, "text-anchor": anchor, class: "mv-title" }, root);
  caption(0, 14, `What is left of a token, by its age${narrow ? "" : " in steps"}`);
  const words = WORDS.slice(narrow ? -6 : -13);
  const slot = (right - left) / words.length;
  const chips = words.map((word, k) => {
    const at = left + slot * (k + 0.5);
    const chip = svg("text", { x: at, y: 222, text: word, class: "mv-word" }, root);
    return {
      chip,
      lag: words.length - 1 - k,
      bar: svg("rect", { x: at - slot / 2 + 3, y: 229, height: 5, rx: 2, class: "mv-fill-h" }, root),
      share: svg("text", { x: at, y: 249, class: "mv-word-share" }, root),
      widest: slot - 6,
    };
  });
  caption(
    0,
    280,
    narrow
      ? "Tokens (sticks) and states (thick: A)"
      : "The states while tokens (sticks) arrive; thick A, thinner 2A, 3A, …",
  );
  axis(root, { ...time, side: "left", values: [0, 0.5, 1], text: asPercent });
  axis(root, {
    ...time,
    side: "bottom",
    values: narrow ? [0, 20, 40] : [0, 10, 20, 30, 40, 50],
    name: "time in steps →",
  });
  for (const [k, x] of INPUT.entries()) {
    if (!x) continue;
    const at = time.x(k);
    svg("line", { x1: at, x2: at, y1: time.y(0), y2: time.y(1), class: "mv-stick" }, root);
    svg("circle", { cx: at, cy: time.y(1), r: 2.5, class: "mv-fill-x" }, root);
  }
  const layer = (name) => svg("g", { class: name }, root);
  return {
    past,
    time,
    chips,
    bars: svg("path", { class: "mv-bars" }, root),
    curves: layer("mv-curves"),
    paths: layer("mv-curves"),
    ruler: svg("path", { class: "mv-ruler" }, root),
    rulerText: svg("text", { class: "mv-ruler-text" }, root),
    width,
  };
}

function drawPicture(parts, delta, spectrumA) {
  const { past, time, chips, bars, curves, paths, ruler, rulerText } = parts;
  const [A] = spectrumA;
  const half = Math.abs(past.x(0) - past.x(1)) / 2 - 0.6;
  let d = "";
  for (let lag = 0; lag < LAGS; lag++) {
    const at = past.x(lag);
    const top = past.y(shareLeft(delta, A, lag)).toFixed(1);
    d += `M${(at - half).toFixed(1)} ${past.y(0)}V${top}h${(2 * half).toFixed(1)}V${past.y(0)}Z`;
  }
  bars.setAttribute("d", d);

  // The further down the spectrum, the fainter and the finer the line.
  const strokes = (group, count, path) => {
    while (group.children.length > count) group.lastChild.remove();
    while (group.children.length < count) svg("path", {}, group);
    [...group.children].forEach((element, n) =>
      set(element, { d: path(n), "stroke-opacity": (1 - (0.7 * n) / 16).toFixed(2) }),
    );
  };
  const lags = Array.from({ length: 2 * LAGS - 1 }, (_, k) => k / 2);
  strokes(curves, spectrumA.length, (n) =>
    line(lags.map((lag) => [past.x(lag), past.y(shareLeft(delta, spectrumA[n], lag))])),
  );
  strokes(paths, spectrumA.length, (n) =>
    // h_k stands where the hold of x_k ends, one step after its stick.
    line([0, ...trajectory(delta, spectrumA[n], INPUT)].map((h, k) => [time.x(k), time.y(h)])),
  );
  paths.firstChild.setAttribute("class", "mv-first");
  curves.firstChild.setAttribute("class", "mv-first");

  for (const { chip, lag, bar, share, widest } of chips) {
    const left = shareLeft(delta, A, lag);
    chip.setAttribute("fill-opacity", (0.35 + 0.65 * left).toFixed(3));
    bar.setAttribute("width", (widest * left).toFixed(1));
    share.textContent = `${Math.round(100 * left)} %`;
  }

  const steps = halfLife(delta, A);
  const far = Math.min(steps, LAGS - 1);
  const [from, to] = [past.x(0), past.x(far)];
  const y = past.y(0.5);
  const end = steps > far ? `M${to + 6} ${y - 4}L${to} ${y}L${to + 6} ${y + 4}` : `M${to} ${y - 6}V${y + 6}`;
  ruler.setAttribute("d", `M${from} ${y - 6}V${y + 6}M${from} ${y}H${to}${end}`);
  const beyond = steps > far ? ", beyond this picture" : "";
  // A short ruler has its text at its left, where the plot is empty.
  const inside = Math.abs(to - from) > 210;
  set(rulerText, {
    x: inside ? (from + to) / 2 : to - 8,
    y: inside ? y - 8 : y + 4,
    "text-anchor": inside ? "middle" : "end",
    text: `half-life ${format(steps)} steps${beyond}`,
  });
}

export default { render };
