// ThreeOdometers: scores and updates of a growing text. See three_odometers.py.

/** Each token computes the whole triangle once more: L (L + 1) (L + 2) / 6. */
export function scoresWithoutCache(L) {
  return (L * (L + 1) * (L + 2)) / 6;
}

/** Each token computes its own row: L (L + 1) / 2. */
export function scoresWithCache(L) {
  return (L * (L + 1)) / 2;
}

/** Each token updates the state once. */
export function stateUpdates(L) {
  return L;
}

/** The power of the length that a count grows with, from L to 2 L. */
export function slopeOfCount(way, L) {
  return Math.log2(ODOMETERS[way](2 * L) / ODOMETERS[way](L));
}

const ODOMETERS = { without: scoresWithoutCache, cache: scoresWithCache, mamba: stateUpdates };
const ODOMETER_TITLES = {
  without: "scores, without a cache",
  cache: "scores, with a cache",
  mamba: "Mamba: updates of a state",
};
const [WHEELS, MOST] = [9, 1000];
const BEAT = 110; // milliseconds

function withCommas(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ",");
}

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const now = () => model.get("tokens");
  const newest = (way, L) => ODOMETERS[way](L) - ODOMETERS[way](L - 1);

  picture(card, {
    height: (width) => (width < 560 ? 446 : 238),
    layout: (root, width) => layoutOdometers(root, width),
    draw: (parts) => drawOdometers(parts, now(), newest),
    describe: () => {
      const L = now();
      const told = Object.keys(ODOMETERS).map((way) => `${ODOMETER_TITLES[way]} ${withCommas(ODOMETERS[way](L))}`);
      return `After ${L} ${L === 1 ? "token" : "tokens"}: ${told.join("; ")}.`;
    },
  });
  odometerButtons(card);
  slider(card, "tokens");
  readouts(card, [
    ["Cache saves a factor", "ink", () => format(scoresWithoutCache(now()) / scoresWithCache(now()))],
    ["Slope without a cache", "warn", () => slopeOfCount("without", now()).toFixed(2)],
    ["Slope with a cache", "x", () => slopeOfCount("cache", now()).toFixed(2)],
    ["Mamba’s slope", "h", () => slopeOfCount("mamba", now()).toFixed(2)],
  ]);
  return card.stop;
}

/** Add a token, double the text, and play: ever larger steps up to the end. */
function odometerButtons(card) {
  const { model, signal } = card;
  const button = (text) => html("button", { type: "button", class: "mv-button" }, text);
  const [add, double, play] = ["Add a token", "Double the text", "Play"].map(button);
  play.setAttribute("aria-pressed", "false");
  card.controls.before(html("div", { class: "mv-player" }, add, double, play));
  const to = (L) => card.turn("tokens", Math.min(MOST, L));
  let timer = 0;
  const pause = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  };
  add.addEventListener("click", () => {
    pause();
    to(model.get("tokens") + 1);
  }, { signal });
  double.addEventListener("click", () => {
    pause();
    to(2 * model.get("tokens"));
  }, { signal });
  play.addEventListener("click", () => {
    if (timer) return pause();
    if (model.get("tokens") >= MOST) to(1);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      const L = model.get("tokens");
      to(L + Math.max(1, Math.round(L / 25)));
      if (model.get("tokens") >= MOST) pause();
    }, BEAT);
  }, { signal });
  signal.addEventListener("abort", pause);
}

function layoutOdometers(root, width) {
  const narrow = width < 560;
  const wide = narrow ? width : width * 0.52;
  const wheel = Math.min(23, (wide - 30) / (WHEELS + 0.8));
  const rows = {};
  Object.keys(ODOMETERS).forEach((way, n) => {
    const top = 14 + 76 * n;
    svg("text", { x: 0, y: top, text: ODOMETER_TITLES[way], class: `mv-title mv-count-${way}` }, root);
    const digits = Array.from({ length: WHEELS }, (_, k) => {
      const x = k * (wheel + 1) + Math.floor(k / 3) * 5;
      svg("rect", { x: x.toFixed(1), y: top + 8, width: wheel.toFixed(1), height: 32, rx: 3, class: "mv-count-wheel" }, root);
      return svg("text", { x: (x + wheel / 2).toFixed(1), y: top + 30, "text-anchor": "middle" }, root);
    });
    const plus = svg("text", { x: 0, y: top + 55, class: "mv-count-small" }, root);
    rows[way] = { digits, plus };
  });
  const left = narrow ? 40 : wide + 52;
  const y = linear([0, 9], narrow ? [408, 262] : [200, 34]);
  const x = linear([0, 3], [left, width - 20]);
  svg("text", { x: narrow ? 0 : left - 34, y: narrow ? 246 : 14, text: "the counts against L", class: "mv-title" }, root);
  axis(root, { x, y, side: "left", values: [0, 3, 6, 9], text: (p) => ["1", "10³", "10⁶", "10⁹"][p / 3] });
  axis(root, { x, y, side: "bottom", values: [0, 1, 2, 3], text: (p) => withCommas(10 ** p), name: "tokens L" });
  const dots = {};
  for (const [way, count] of Object.entries(ODOMETERS)) {
    const points = Array.from({ length: 61 }, (_, n) => {
      const L = Math.round(10 ** (n / 20));
      return [x(Math.log10(L)), y(Math.log10(count(L)))];
    });
    svg("path", { d: line(points), class: `mv-count-line mv-count-${way}` }, root);
    const [endX, endY] = points.at(-1);
    svg("text", { x: endX, y: endY - 8, "text-anchor": "end", text: { without: "slope 3", cache: "slope 2", mamba: "slope 1" }[way], class: `mv-count-small mv-count-${way}` }, root);
    dots[way] = svg("circle", { r: 5, class: `mv-count-dot mv-count-${way}` }, root);
  }
  return { rows, dots, x, y };
}

function drawOdometers({ rows, dots, x, y }, L, newest) {
  for (const [way, count] of Object.entries(ODOMETERS)) {
    const written = String(count(L));
    const lead = WHEELS - written.length;
    rows[way].digits.forEach((digit, k) =>
      set(digit, {
        text: k < lead ? "0" : written[k - lead],
        class: `mv-count-digit${k < lead ? " mv-count-lead" : ` mv-count-${way}`}`,
      }),
    );
    set(rows[way].plus, { text: `the newest token added ${withCommas(newest(way, L))}` });
    set(dots[way], { cx: x(Math.log10(L)).toFixed(1), cy: y(Math.log10(count(L))).toFixed(1) });
  }
}

export default { render };
