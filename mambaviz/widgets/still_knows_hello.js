// StillKnowsHello: what of the first word a state keeps. See still_knows_hello.py.

/** Numbers in [0, 1) by a linear congruential generator, the same in Python. */
export function draws(count, seed) {
  return Array.from({ length: count }, () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  });
}

/** Orthonormal columns from those of M, by Gram and Schmidt, twice for rounding. */
export function orthogonal(M) {
  const columns = M[0].map((_, k) => M.map((row) => row[k]));
  const done = [];
  for (let column of columns) {
    for (let again = 0; again < 2; again++) {
      for (const q of done) {
        const along = inner(q, column);
        column = column.map((value, n) => value - along * q[n]);
      }
    }
    const size = Math.sqrt(inner(column, column));
    done.push(column.map((value) => value / size));
  }
  return M.map((_, n) => done.map((q) => q[n]));
}

/** W_h = ρ Q and W_x of the network with so many states. */
export function network(rho, count) {
  const Q = memoize(`Q${count}`, () => orthogonal(rowsOf(spread(count * count, 1), count)));
  const size = Math.sqrt(3 / count);
  return {
    W_h: Q.map((row) => row.map((value) => rho * value)),
    W_x: rowsOf(spread(count * SIGNS, 2), SIGNS).map((row) => row.map((value) => size * value)),
  };
}

/** Every state of one text: h_t = f(W_h h_{t−1} + W_x x_t). */
export function statesOf(kind, { W_h, W_x }, text) {
  let h = W_h.map(() => 0);
  return text.map((x) => {
    const before = h;
    h = W_h.map((row, n) => {
      const driven = inner(row, before) + inner(W_x[n], x);
      return kind === "tanh" ? Math.tanh(driven) : driven;
    });
    return h;
  });
}

/** The norm of a change after 0, 1, 2, … of the steps that led to `states`. */
export function stretchByLag(kind, W_h, states) {
  const sums = new Array(states[0].length + 1).fill(0);
  for (const text of states) {
    let J = W_h.map((_, n) => W_h.map((_, k) => (n === k ? 1 : 0)));
    sums[0] += 1;
    text.forEach((h, t) => {
      J = matrixProduct(W_h, J);
      if (kind === "tanh") J = J.map((row, n) => row.map((value) => (1 - h[n] * h[n]) * value));
      sums[t + 1] += J.reduce((sum, row) => sum + inner(row, row), 0) / W_h.length;
    });
  }
  return sums.map((sum) => Math.sqrt(sum / states.length));
}

/** How often a linear probe, fitted on the first half, names each word. */
export function readWords(kind, rho, error, count, half) {
  const given = network(rho, count);
  const texts = sentences(half);
  const last = texts.map((text) => statesOf(kind, given, text).at(-1));
  const rms = Math.sqrt(last.reduce((sum, h) => sum + inner(h, h), 0) / (last.length * count));
  const noise = memoize(`noise${last.length * count}`, () => spread(last.length * count, 4));
  const size = error * rms * Math.sqrt(3);
  const H = last.map((h, n) => h.map((value, k) => value + size * noise[n * count + k]));
  const T = texts.map((text) => text.flat());
  const W = linearProbe(H.slice(0, half), T.slice(0, half));
  const right = new Array(PROBED.length).fill(0);
  for (let n = half; n < H.length; n++) {
    const read = W[0].map((_, k) => W.reduce((sum, row, j) => sum + row[k] * H[n][j], 0));
    right.forEach((_, word) => {
      const all = [0, 1, 2].every((sign) => read[SIGNS * word + sign] > 0 === T[n][SIGNS * word + sign] > 0);
      if (all) right[word] += 1;
    });
  }
  return right.map((hits) => hits / half);
}

/** W = (Hᵀ H + r I)⁻¹ Hᵀ T, with r a 10⁻⁹ of the mean of the diagonal. */
export function linearProbe(H, T) {
  const size = H[0].length;
  const G = Array.from({ length: size }, () => new Array(size).fill(0));
  const S = Array.from({ length: size }, () => new Array(T[0].length).fill(0));
  H.forEach((h, n) => {
    for (let j = 0; j < size; j++) {
      for (let k = 0; k < size; k++) G[j][k] += h[j] * h[k];
      for (let k = 0; k < S[0].length; k++) S[j][k] += h[j] * T[n][k];
    }
  });
  const r = (1e-9 * G.reduce((sum, row, n) => sum + row[n], 0)) / size;
  G.forEach((row, n) => (row[n] += r));
  return eliminate(G, S);
}

const SIGNS = 3; // a word is one of eight: three signs
const PROBED = ["Hello", "my", "name", "is", "Maarten"];
const [STATES, HALF, RUNS, FAR] = [16, 500, 8, 24];
const CHANCE = 1 / 8;

const kept = new Map();
function memoize(key, make) {
  if (!kept.has(key)) kept.set(key, make());
  return kept.get(key);
}

function inner(v, w) {
  let sum = 0;
  for (let n = 0; n < v.length; n++) sum += v[n] * w[n];
  return sum;
}

function spread(count, seed) {
  return draws(count, seed).map((u) => 2 * u - 1);
}

function rowsOf(flat, wide) {
  return Array.from({ length: flat.length / wide }, (_, n) => flat.slice(n * wide, (n + 1) * wide));
}

function words(count, seed) {
  return rowsOf(spread(count * SIGNS, seed).map((u) => (u < 0 ? -1 : 1)), SIGNS);
}

function sentences(half) {
  return memoize(`texts${half}`, () => {
    const all = words(2 * half * PROBED.length, 3);
    return rowsOf(all, PROBED.length);
  });
}

/** G⁻¹ S for a positive definite G, by elimination. */
function eliminate(G, S) {
  const size = G.length;
  for (let j = 0; j < size; j++) {
    for (let n = j + 1; n < size; n++) {
      const factor = G[n][j] / G[j][j];
      for (let k = j; k < size; k++) G[n][k] -= factor * G[j][k];
      for (let k = 0; k < S[0].length; k++) S[n][k] -= factor * S[j][k];
    }
  }
  for (let n = size - 1; n >= 0; n--) {
    for (let k = 0; k < S[0].length; k++) {
      let rest = S[n][k];
      for (let j = n + 1; j < size; j++) rest -= G[n][j] * S[j][k];
      S[n][k] = rest / G[n][n];
    }
  }
  return S;
}

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  let done = { key: "" };
  const now = () => {
    const [kind, rho, error] = ["kind", "rho", "error"].map((name) => model.get(name));
    const key = `${kind} ${rho} ${error}`;
    if (done.key !== key) {
      const given = network(rho, STATES);
      const runs = memoize("runs", () => rowsOf(words(RUNS * 2 * FAR, 5), 2 * FAR));
      const states = runs.map((text) => statesOf(kind, given, text).slice(FAR));
      done = { key, kind, rho, shares: readWords(kind, rho, error, STATES, HALF), left: stretchByLag(kind, given.W_h, states) };
    }
    return done;
  };
  const read = (word) => `${format(100 * now().shares[word])} %`;

  picture(card, {
    height: (width) => (width < 560 ? 470 : 270),
    layout: (root, width) => layoutHello(root, width),
    draw: (parts) => drawHello(parts, now()),
    describe: () => {
      const { shares, left, rho } = now();
      return (
        `Read from the last state: ${PROBED.map((word, n) => `${word} ${format(100 * shares[n])} %`).join(", ")}; chance is 12.5 %. ` +
        `A gradient is ${format(left[4])} of its size after 4 steps and ${format(left[FAR])} after ${FAR}; ρ to these powers is ${format(rho ** 4)} and ${format(rho ** FAR)}.`
      );
    },
  });
  slider(card, "rho");
  slider(card, "error");
  choice(card, "kind");
  readouts(card, [
    ["“Hello” read (chance 12.5 %)", "x", () => read(0)],
    ["“Maarten” read", "x", () => read(4)],
    ["Gradient after 4 steps", "h", () => format(now().left[4])],
    ["ρ⁴", "A", () => format(now().rho ** 4)],
    ["Gradient after 24 steps", "h", () => format(now().left[FAR])],
    ["ρ²⁴", "A", () => format(now().rho ** FAR)],
  ]);
  return card.stop;
}

const [LOWEST, HIGHEST] = [-15, 3]; // powers of ten of the gradient

function layoutHello(root, width) {
  const narrow = width < 560;
  const wide = narrow ? width : width * 0.46;
  svg("text", { x: 0, y: 14, text: "% of sentences in which it is read", class: "mv-title" }, root);
  const x = linear([-0.5, 4.5], [50, wide - 6]);
  const y = linear([0, 1], [190, 44]); // room for a number below the title
  axis(root, { x, y, side: "left", values: [0, 0.5, 1], text: (value) => String(100 * value) });
  svg("line", { x1: x(-0.5), x2: x(4.5), y1: y(CHANCE), y2: y(CHANCE), class: "mv-hello-chance" }, root);
  svg("text", { x: x(-0.5) - 6, y: y(CHANCE) + 2, "text-anchor": "end", text: "chance", class: "mv-hello-small" }, root);
  const bars = PROBED.map((word, n) => {
    svg("text", { x: x(n), y: 208, "text-anchor": "middle", text: word, class: "mv-word mv-hello-word" }, root);
    svg("text", { x: x(n), y: 224, "text-anchor": "middle", text: n === 4 ? "now" : `${4 - n} ago`, class: "mv-hello-small" }, root);
    const bar = svg("rect", { x: (x(n) - 0.32 * (x(1) - x(0))).toFixed(1), width: (0.64 * (x(1) - x(0))).toFixed(1), class: "mv-hello-bar" }, root);
    const label = svg("text", { x: x(n), "text-anchor": "middle", class: "mv-hello-share" }, root);
    return { bar, label };
  });
  const [left, top] = narrow ? [46, 274] : [wide + 54, 34];
  svg("text", { x: narrow ? 0 : left - 42, y: top - 20, text: "norm of a gradient, against lag", class: "mv-title" }, root);
  const lag = linear([0, FAR], [left, width - 10]);
  const power = linear([LOWEST, HIGHEST], [top + 156, top]);
  const raised = (value) => (value === 0 ? "1" : `10${[...String(value)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("")}`);
  axis(root, { x: lag, y: power, side: "left", values: [-15, -10, -5, 0], text: raised });
  axis(root, { x: lag, y: power, side: "bottom", values: [0, 4, 8, 12, 16, 20, 24], name: "lag, in steps" });
  svg("line", { x1: lag(4), x2: lag(4), y1: top, y2: top + 156, class: "mv-hello-lag" }, root);
  svg("text", { x: lag(4) + 4, y: top + 150, text: "“Hello”", class: "mv-hello-small" }, root);
  const law = svg("path", { class: "mv-hello-law" }, root);
  const dots = svg("path", { class: "mv-hello-dots" }, root);
  const name = svg("text", { "text-anchor": "end", class: "mv-hello-name", text: "ρ to the lag" }, root);
  return { y, bars, lag, power, law, dots, name };
}

function drawHello({ y, bars, lag, power, law, dots, name }, { shares, left, rho }) {
  bars.forEach(({ bar, label }, n) => {
    const at = y(shares[n]);
    set(bar, { y: at.toFixed(1), height: Math.max(0, y(0) - at).toFixed(1) });
    set(label, { y: (at - 5).toFixed(1), text: format(100 * shares[n], 2) });
  });
  const place = (value) => power(Math.min(HIGHEST, Math.max(LOWEST, Math.log10(value))));
  law.setAttribute("d", line(left.map((_, k) => [lag(k), place(rho ** k)])));
  const r = 2.6;
  dots.setAttribute("d", left.map((value, k) =>
    `M${(lag(k) - r).toFixed(1)} ${place(value).toFixed(1)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
  ).join(""));
  const above = Math.min(place(rho ** FAR), place(rho ** 17)) > power(HIGHEST) + 24;
  set(name, { x: lag(FAR), y: (place(rho ** 18) + (above ? -12 : 22)).toFixed(1) });
}

export default { render };
