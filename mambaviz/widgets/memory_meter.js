// MemoryMeter: bytes of a KV cache and of an SSM's state. See memory_meter.py.

/** Bytes that each model keeps, and the numbers in the cache. */
export function memoryOf(layers, width, length) {
  const floats = 2 * layers * width * length;
  const blocks = 2 * layers; // as many parameters
  return {
    floats,
    cache: 2 * floats,
    state: 2 * blocks * EXPAND * width * D_STATE,
    conv: 2 * blocks * EXPAND * width * D_CONV,
  };
}

/** From how many tokens on the cache is as large as what Mamba keeps. */
export function crossoverOf(d_conv) {
  const { cache, state, conv } = memoryOf(1, 1, 1);
  return Math.ceil((state + (d_conv * conv) / D_CONV) / cache);
}

const [EXPAND, D_STATE, D_CONV] = [2, 16, 4];
const FARTHEST = 4000;

function grouped(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ",");
}

function inBytes(count) {
  if (count < 1000) return `${count} B`;
  const step = Math.min(4, Math.floor(Math.log10(count) / 3));
  return `${format(count / 1000 ** step)} ${["kB", "MB", "GB", "TB"][step - 1]}`;
}

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const now = () => {
    const [length, layers, width] = ["length", "layers", "width"].map((name) => model.get(name));
    const found = memoryOf(layers, width, length);
    return { length, layers, width, ...found, both: found.state + found.conv };
  };
  picture(card, {
    height: () => 366,
    layout: (root, width) => layoutMeter(root, width),
    draw: (parts) => drawMeter(parts, now()),
    describe: () => {
      const { length, cache, both } = now();
      return (
        `After ${length} tokens the KV cache has ${inBytes(cache)}, and Mamba keeps ${inBytes(both)}. ` +
        `They are equal at ${crossoverOf(D_CONV)} tokens, or at ${crossoverOf(0)} without the inputs of the convolution.`
      );
    },
  });
  for (const name of ["length", "layers", "width"]) slider(card, name);
  readouts(card, [
    ["Numbers in the cache", "x", () => grouped(now().floats)],
    ["KV cache, bytes", "x", () => grouped(now().cache)],
    ["Mamba’s states, bytes", "h", () => grouped(now().state)],
    ["with convolution, bytes", "h", () => grouped(now().both)],
    ["Cache over states", "ink", () => `${format(now().cache / now().state)} times`],
    ["Equal at", "ink", () => `${crossoverOf(0)} tokens`],
    ["with convolution, at", "ink", () => `${crossoverOf(D_CONV)} tokens`],
  ]);
  return card.stop;
}

function layoutMeter(root, width) {
  const narrow = width < 480;
  svg("text", { x: 0, y: 14, text: narrow ? "kept for this text" : "what each model keeps for this text", class: "mv-title" }, root);
  const bars = ["cache", "both"].map((name, n) => {
    const y = 24 + 46 * n;
    svg("rect", { x: 0, y, width, height: 20, rx: 3, class: "mv-meter-track" }, root);
    const bar = svg("rect", { x: 0, y, height: 20, rx: 3, class: `mv-meter-${name}` }, root);
    const text = svg("text", { x: 0, y: y + 34, class: `mv-meter-name mv-meter-${name}` }, root);
    return { bar, text };
  });
  const x = linear([0, Math.log10(FARTHEST)], [62, width - 10]);
  const y = linear([-1.6, 2.6], [318, 150]); // powers of ten of the state
  svg("text", { x: 0, y: 132, text: narrow ? "bytes against length" : "bytes against length, both axes logarithmic", class: "mv-title" }, root);
  axis(root, { x, y, side: "bottom", values: [0, 1, 2, 3], text: (p) => grouped(10 ** p), name: "tokens L" });
  const frame = svg("g", { class: "mv-axis" }, root);
  // Of a range of four powers of ten and a bit, four or five are inside.
  const levels = Array.from({ length: 5 }, () => ({
    rule: svg("line", { x1: x.range[0], x2: x.range[1] }, frame),
    text: svg("text", { x: x.range[0] - 6, "text-anchor": "end" }, frame),
  }));
  const here = svg("line", { y1: y.range[0], y2: y.range[1], class: "mv-meter-here" }, root);
  const path = (name) => svg("path", { class: `mv-meter-line mv-meter-${name}` }, root);
  const lines = { cache: path("cache"), state: path("state"), both: path("both") };
  const per = crossoverOf(0); // of the states, in tokens of cache
  const far = x.range[1];
  set(lines.cache, { d: line([0, Math.log10(FARTHEST)].map((p) => [x(p), y(p - Math.log10(per))])) });
  set(lines.state, { d: line([[x(0), y(0)], [far, y(0)]]) });
  const both = Math.log10(crossoverOf(D_CONV) / per);
  set(lines.both, { d: line([[x(0), y(both)], [far, y(both)]]) });
  nameLine(root, "state", far, y(0) + 15, "Mamba’s states");
  nameLine(root, "both", far, y(both) - 6, narrow ? "with convolution" : "states and the convolution’s inputs");
  nameLine(root, "cache", x(3) - 12, y(3 - Math.log10(per)) - 4, "KV cache");
  for (const [length, level] of [[per, 0], [crossoverOf(D_CONV), both]]) {
    svg("circle", { cx: x(Math.log10(length)).toFixed(1), cy: y(level).toFixed(1), r: 4, class: "mv-meter-crossing" }, root);
  }
  svg("text", { x: x(Math.log10(per)) + 2, y: y(0) + 16, text: String(per), class: "mv-meter-name" }, root);
  svg("text", { x: x(Math.log10(crossoverOf(D_CONV))) - 5, y: y(both) - 7, "text-anchor": "end", text: String(crossoverOf(D_CONV)), class: "mv-meter-name" }, root);
  const dot = svg("circle", { r: 5.5, class: "mv-meter-dot" }, root);
  return { bars, width, x, y, levels, here, dot, per };
}

/** A name that ends at a place; the lines behind it are left out. */
function nameLine(root, name, x, y, text) {
  const paper = svg("rect", { class: "mv-meter-paper" }, root);
  const words = svg("text", { x, y, "text-anchor": "end", text, class: `mv-meter-name mv-meter-${name}` }, root);
  const wide = words.getComputedTextLength();
  set(paper, { x: (x - wide - 3).toFixed(1), y: (y - 11).toFixed(1), width: (wide + 4).toFixed(1), height: 14 });
}

function drawMeter({ bars, width, x, y, levels, here, dot, per }, { length, cache, both, state }) {
  const most = Math.max(cache, both);
  [[cache, `KV cache: ${inBytes(cache)}`], [both, `Mamba: ${inBytes(both)}`]].forEach(([count, words], n) => {
    set(bars[n].bar, { width: Math.max(1.5, (width * count) / most).toFixed(1) });
    set(bars[n].text, { text: words });
  });
  const lowest = Math.ceil(Math.log10(state) + y.domain[0]);
  levels.forEach(({ rule, text }, n) => {
    const power = lowest + n - Math.log10(state); // above the states
    const at = y(power).toFixed(1);
    const inside = power <= y.domain[1];
    set(rule, { y1: at, y2: at, visibility: inside ? null : "hidden" });
    set(text, { y: (y(power) + 4).toFixed(1), text: inside ? inBytes(10 ** (lowest + n)) : "" });
  });
  const at = x(Math.log10(length)).toFixed(1);
  set(here, { x1: at, x2: at });
  set(dot, { cx: at, cy: y(Math.log10(length / per)).toFixed(1) });
}

export default { render };
