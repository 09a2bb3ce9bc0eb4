// KernelSlides: a kernel laid over a padded input. See kernel_slides.py.

/** The kernel of h_k = A_bar h_{k−1} + (1 − A_bar) x_k: (1 − A_bar) A_bar^j. */
export function taps(A_bar, length) {
  const K = [];
  for (let power = 1 - A_bar; K.length < length; power *= A_bar) K.push(power);
  return K;
}

/** The tokens, of which the last `pads` give their places to `fill`. */
export function padded(x, pads, fill) {
  return x.map((value, k) => (k < x.length - pads ? value : fill));
}

/**
 * What is summed for output k: for each lag j the place k + ahead − j, what
 * stands there (0 outside) and its product with K_j. `ahead` is 0 for a causal
 * kernel.
 */
export function terms(K, x, k, ahead) {
  return K.map((tap, lag) => {
    const place = k + ahead - lag;
    const value = x[place] ?? 0;
    return { place, value, product: tap * value };
  });
}

/** Every output: the sum of its terms. */
export function slide(K, x, ahead) {
  return x.map((_, k) => terms(K, x, k, ahead).reduce((sum, { product }) => sum + product, 0));
}

/** The states of h_k = A_bar h_{k−1} + (1 − A_bar) x_k, from 0 on. */
export function carry(A_bar, x) {
  let h = 0;
  return x.map((now) => (h = A_bar * h + (1 - A_bar) * now));
}

const SLIDES = [0.9, 0.4, -0.6, 0.7, 1, -0.3, 0.5, 0.8];
const AHEAD = 2;
const PACE = 900; // milliseconds a token
const SUBSCRIPTS = "₀₁₂₃₄₅₆₇";

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const knob = (name) => model.get(name);
  const now = () => {
    const [k, A_bar, pads] = ["k", "A_bar", "pads"].map(knob);
    const ahead = knob("padding") === "both" ? AHEAD : 0;
    const x = padded(SLIDES, pads, knob("fill"));
    const K = taps(A_bar, x.length);
    return { k, pads, ahead, x, K, terms: terms(K, x, k, ahead), y: slide(K, x, ahead), h: carry(A_bar, x) };
  };
  const apart = ({ y, h }) => Math.max(...y.map((value, k) => Math.abs(value - h[k])));
  const beforePads = ({ h, pads }) => h[h.length - 1 - pads];

  picture(card, {
    height: () => 416,
    layout: (root, width) => layoutSlides(root, width),
    draw: (parts) => drawSlides(parts, now()),
    describe: () => {
      const all = now();
      const { k, y, h, pads, ahead } = all;
      return (
        `The kernel lies over token ${k}${ahead ? ` and ${ahead} later ones` : " and those before it"}. ` +
        `Sum of products ${format(y[k])}; recurrence ${format(h[k])}. ` +
        (pads ? `State carried on: ${format(beforePads(all))} after the last token, ${format(h.at(-1))} after ${pads} pads.` : "")
      );
    },
  });
  slideButtons(card);
  slider(card, "k");
  slider(card, "A_bar");
  slider(card, "pads");
  restWhile(card, slider(card, "fill"), () => !knob("pads") && "no padding yet: raise Pads first");
  choice(card, "padding");
  readouts(card, [
    ["yₖ by the kernel", "y", () => format(now().y[knob("k")])],
    ["yₖ by the recurrence", "h", () => format(now().h[knob("k")])],
    ["Largest gap of all", "y", () => {
      const gap = apart(now());
      return gap < 1e-12 ? "under 10⁻¹²" : format(gap);
    }],
    ["State after the last token", "h", () => format(beforePads(now()))],
    ["State after the padding", "h", () => format(now().h.at(-1))],
  ]);
  return card.stop;
}

/** Step and play: the kernel moves on by one token, and after the last starts again. */
function slideButtons(card) {
  const { model, signal } = card;
  const step = html("button", { type: "button", class: "mv-button" }, "Next token");
  const play = html("button", { type: "button", class: "mv-button", "aria-pressed": "false" }, "Play");
  card.controls.before(html("div", { class: "mv-player" }, step, play));
  const on = () => card.turn("k", (model.get("k") + 1) % SLIDES.length);
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
    if (model.get("k") === SLIDES.length - 1) card.turn("k", 0);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      on();
      if (model.get("k") === SLIDES.length - 1) pause();
    }, PACE);
  }, { signal });
  signal.addEventListener("abort", pause);
}

function layoutSlides(root, width) {
  const narrow = width < 480;
  const first = 1 - SLIDES.length;
  const last = SLIDES.length - 1 + AHEAD;
  const x = linear([first - 0.5, last + 0.5], [2, width - 2]);
  const wide = x(1) - x(0);
  const title = (y, text, symbol) => svg("text", { x: 2, y, text, class: `mv-title mv-slide-${symbol}` }, root);
  title(14, narrow ? "kernel K̄, turned round" : "the kernel K̄, turned round: newest at the right", "K");
  title(100, narrow ? "input x, with zeros around it" : "the input x, with zeros where there is none", "x");
  title(216, "their products", "product");
  title(314, narrow ? "outputs y: the sums" : "the outputs y: each the sum of the products at its turn", "y");
  // In three pieces, so that it crosses no title.
  const windows = [[20, 66], [106, 98], [222, 78]].map(([y, height]) =>
    svg("rect", { y, height, rx: 4, class: "mv-slide-window" }, root),
  );
  const rows = {};
  for (const [name, base, size] of [["K", 80, 52], ["x", 148, 36], ["product", 262, 36], ["y", 358, 34]]) {
    svg("line", { x1: 2, x2: width - 2, y1: base, y2: base, class: "mv-slide-base" }, root);
    const bars = [];
    for (let place = first; place <= last; place++) {
      bars.push(svg("rect", { x: x(place) - wide * 0.38, width: wide * 0.76, class: `mv-slide-bar mv-slide-${name}` }, root));
    }
    rows[name] = { bars, base, size };
  }
  const names = Array.from({ length: last - first + 1 }, (_, n) =>
    svg("text", { x: x(first + n), y: 198, "text-anchor": "middle", class: "mv-slide-name" }, root),
  );
  const sums = SLIDES.map((_, k) =>
    svg("text", { x: x(k), y: 410, "text-anchor": "middle", class: "mv-slide-name" }, root),
  );
  return { x, wide, first, rows, names, sums, windows, narrow };
}

function drawSlides({ x, wide, first, rows, names, sums, windows, narrow }, state) {
  const { k, pads, ahead, K, y, terms: summed } = state;
  const values = { K: {}, x: {}, product: {}, y: {} };
  for (const [lag, { place, product }] of summed.entries()) {
    values.K[place] = K[lag];
    values.product[place] = product;
  }
  state.x.forEach((value, place) => (values.x[place] = value));
  y.forEach((value, place) => (values.y[place] = value));
  // Products and sums share one scale, so that a sum can be seen to be one.
  const highest = (all) => Math.max(...all.map(Math.abs)) || 1;
  const sum = highest([...y, ...summed.map(({ product }) => product)]);
  const largest = { K: highest(K), x: 1, product: sum, y: sum };
  for (const [name, { bars, base, size }] of Object.entries(rows)) {
    bars.forEach((bar, n) => {
      const place = first + n;
      const value = values[name][place];
      const scaled = (value ?? 0) / largest[name];
      const tall = Math.abs(scaled) * size;
      const held = name === "x" && (value === undefined || place >= SLIDES.length - pads);
      const later = name === "y" && place > k;
      // A zero is drawn too, as a low box: it takes part in the sum.
      set(bar, {
        y: (held && tall < 3 ? base - 8 : scaled >= 0 ? base - tall : base).toFixed(1),
        height: (held && tall < 3 ? 8 : tall).toFixed(1),
        class: `mv-slide-bar mv-slide-${name}${held ? " mv-slide-zero" : ""}${later ? " mv-slide-later" : ""}`,
      });
    });
  }
  names.forEach((text, n) => {
    const place = first + n;
    const token = place >= 0 && place < SLIDES.length;
    const padding = token && place >= SLIDES.length - pads;
    set(text, { text: padding ? (narrow ? "p" : "pad") : token ? `x${SUBSCRIPTS[place]}` : "0" });
  });
  sums.forEach((text, place) =>
    set(text, {
      text: `y${SUBSCRIPTS[place]}`,
      class: place === k ? "mv-slide-name mv-slide-marked" : "mv-slide-name",
    }),
  );
  const newest = k + ahead;
  const oldest = newest - K.length + 1;
  for (const frame of windows) {
    set(frame, {
      x: (x(Math.max(first, oldest)) - wide / 2).toFixed(1),
      width: (x(newest) - x(Math.max(first, oldest)) + wide).toFixed(1),
    });
  }
}

export default { render };
