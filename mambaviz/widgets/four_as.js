// FourAs: the error of the best reader of four memories. See four_as.py.

/** G with G Gᵀ = the covariance: a smooth input is noise, averaged. */
export function smoothingRoot(count, correlation) {
  // Two bells meet in a bell wider by √2, and their sum over all centres is
  // c √(π/2) but for e^(−π² c² / 2).
  const scale = Math.sqrt(correlation * Math.sqrt(Math.PI / 2));
  const margin = Math.ceil(6.2 * correlation);
  return Array.from({ length: count }, (_, j) =>
    Array.from({ length: count + 2 * margin }, (_, u) =>
      Math.exp(-(((j + margin - u) / correlation) ** 2)) / scale,
    ),
  );
}

/** Row n: what number n of the state holds of each past input, newest first. */
export function kernelsOf(kind, N, delta, count, random) {
  if (kind === "lin") {
    const rows = [];
    for (const part of [0, 1]) {
      for (let n = 0; n < N / 2; n++) {
        const { A_bar, B_bar } = discretize("zoh", -0.5, Math.PI * n, delta);
        let power = B_bar;
        rows.push(Array.from({ length: count }, () => {
          const now = power[part];
          power = complexProduct(power, A_bar);
          return now;
        }));
      }
    }
    return rows;
  }
  if (kind === "real") {
    return Array.from({ length: N }, (_, n) => {
      const A = n + 1;
      const B_bar = -Math.expm1(-delta * A) / A;
      return Array.from({ length: count }, (_, j) => B_bar * Math.exp(-delta * A * j));
    });
  }
  let [A_bar, column] = [null, null];
  if (kind === "legs") {
    A_bar = legsTransition(N, Math.exp(-delta));
    column = legsInput(A_bar);
  } else {
    const scale = random.scales[N - 1];
    A_bar = random.G.slice(0, N).map((row) => row.slice(0, N).map((value) => scale * value));
    column = random.g.slice(0, N);
  }
  const columns = Array.from({ length: count }, () => {
    const now = column;
    column = matrixVector(A_bar, now);
    return now;
  });
  return columns[0].map((_, n) => columns.map((values) => values[n]));
}

/**
 * The error of the best linear reader for each lag: what is left of a row of
 * [G, 0] outside the columns of [(K G)ᵀ, scaled to 1; precision I].
 */
export function decoderErrors(K, G, precision) {
  const columns = matrixProduct(K, G).map((row, n) => {
    const size = Math.hypot(...row) || 1;
    return Float64Array.from([
      ...row.map((value) => value / size),
      ...K.map((_, k) => (k === n ? precision : 0)),
    ]);
  });
  const Q = orthonormal(columns);
  return G.map((row) => {
    const rest = Float64Array.from([...row, ...K.map(() => 0)]);
    const whole = Math.hypot(...row);
    // Twice: what rounding left of the first projection goes by the second.
    for (let pass = 0; pass < 2; pass++) for (const q of Q) removePart(rest, q);
    return Math.hypot(...rest) / whole;
  });
}

/** v − (v · q) q, in place. */
function removePart(v, q) {
  let sum = 0;
  for (let k = 0; k < v.length; k++) sum += v[k] * q[k];
  for (let k = 0; k < v.length; k++) v[k] -= sum * q[k];
}

/** Gram and Schmidt, each column twice. */
function orthonormal(columns) {
  const Q = [];
  for (const column of columns) {
    const q = Float64Array.from(column);
    for (let pass = 0; pass < 2; pass++) for (const earlier of Q) removePart(q, earlier);
    const size = Math.hypot(...q);
    Q.push(q.map((value) => value / size));
  }
  return Q;
}

/** How many steps are remembered before the first that is not. */
export function reachOf(errors) {
  const first = errors.findIndex((error) => !(error < 0.5));
  return first < 0 ? errors.length : first;
}

const PAST = 200;
const SMOOTH = 8;
const FOUR = [
  ["lin", "S4D-Lin", "━ ●"],
  ["legs", "LegS", "━ ■"],
  ["real", "S4D-Real", "━ ▲"],
  ["random", "random", "┅ ×"],
];

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const knob = (name) => model.get(name);
  const random = knob("words").random;
  const G = smoothingRoot(PAST, SMOOTH);
  let last = { turned: [] };
  const now = () => {
    const turned = ["states", "span", "digits"].map(knob);
    if (turned.some((value, n) => value !== last.turned[n])) {
      const [states, span, digits] = turned;
      const errors = FOUR.map(([kind]) =>
        decoderErrors(kernelsOf(kind, states, span / PAST, PAST, random), G, 10 ** -digits),
      );
      last = { turned, errors };
    }
    return last.errors;
  };
  const reach = (n) => {
    const steps = reachOf(now()[n]);
    return steps === PAST ? `all ${PAST} steps` : `${steps} step${steps === 1 ? "" : "s"}`;
  };
  picture(card, {
    height: (width) => (width < 520 ? 352 : 336),
    layout: layoutFour,
    draw: (parts) => drawFour(parts, now()),
    describe: () =>
      `With an error below one half, ${FOUR.map(([, name], n) => `${name} reads back ${reach(n)}`).join(", ")}.`,
  });
  readouts(card, FOUR.map(([, name], n) => [`${name} reads back`, "h", () => reach(n)]));
  for (const name of ["states", "digits", "span"]) slider(card, name);
  return card.stop;
}

function layoutFour(root, width) {
  const narrow = width < 520;
  svg("text", { x: 0, y: 14, text: narrow ? "Error of the best reader" : "Error of the best reader, by the age of the input", class: "mv-title" }, root);
  const keys = FOUR.map(([kind, name, mark], n) => {
    const at = narrow ? { x: 8 + (n % 2) * (width / 2), y: 36 + 18 * Math.floor(n / 2) } : { x: 40 + (n * (width - 50)) / 4, y: 36 };
    return svg("text", { ...at, text: `${mark} ${name}${kind !== "random" ? "" : narrow ? " draw" : ", one draw"}`, class: `mv-four-key mv-four-${kind}` }, root);
  });
  const top = narrow ? 72 : 54;
  const bottom = narrow ? 300 : 284;
  const x = linear([PAST, 0], [36, width - 12]);
  const y = linear([0, 1.14], [bottom, top]);
  axis(root, { x, y, side: "left", values: [0, 0.5, 1] });
  axis(root, {
    ...{ x, y, side: "bottom", values: narrow ? [0, 100, 200] : [0, 50, 100, 150, 200], name: "age in steps; now is at the right" },
    text: (value) => (value === 0 ? "now" : format(value)),
  });
  svg("text", { x: 40, y: y(1) - 10, text: "1: knows nothing" }, root);
  const curves = FOUR.map(([kind]) => ({
    curve: svg("path", { class: `mv-four-curve mv-four-${kind}` }, root),
    marks: svg("path", { class: `mv-four-mark mv-four-${kind}` }, root),
  }));
  return { x, y, curves, keys };
}

const MARK_SHAPES = [
  (x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z`,
  (x, y) => `M${x - 3.6} ${y - 3.6}h7.2v7.2h-7.2Z`,
  (x, y) => `M${x} ${y - 4.6}l4.4 8h-8.8Z`,
  (x, y) => `M${x - 4} ${y - 4}l8 8M${x - 4} ${y + 4}l8 -8`,
];

function drawFour({ x, y, curves }, errors) {
  curves.forEach(({ curve, marks }, n) => {
    set(curve, { d: line(errors[n].map((error, lag) => [x(lag + 0.5), y(error)])) });
    // Apart from each other's marks, so that curves on one line all show.
    const places = [0, 1, 2, 3, 4].map((k) => 8 + 40 * k + 10 * n);
    set(marks, {
      d: places.map((lag) => MARK_SHAPES[n](Number(x(lag + 0.5).toFixed(1)), Number(y(errors[n][lag]).toFixed(1)))).join(""),
    });
  });
}

export default { render };
