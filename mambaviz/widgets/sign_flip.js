// SignFlip: the HiPPO matrix, and the same with a plus. See sign_flip.py.

/** A of LegS, with the sign 1 or −1; its eigenvalues are its diagonal. */
export function legsMatrix(N, sign) {
  const b = Array.from({ length: N }, (_, n) => Math.sqrt(2 * n + 1));
  return b.map((bn, n) =>
    b.map((bk, k) => (n > k ? sign * bn * bk : n === k ? sign * (n + 1) : 0)),
  );
}

/** The Frobenius norm of A_bar^k, k = 0 … count, by zero-order hold. */
export function normsOf(N, sign, delta, count) {
  const A_bar = legsTransition(N, Math.exp(sign * delta));
  let power = A_bar.map((row, n) => row.map((_, k) => (k === n ? 1 : 0)));
  return Array.from({ length: count + 1 }, () => {
    const norm = Math.hypot(...power.flat());
    power = matrixProduct(A_bar, power);
    return norm;
  });
}

const POWERS = 100;

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const knob = (name) => model.get(name);
  const sign = () => (knob("sign") === "plus" ? 1 : -1);
  const norms = (which) => normsOf(knob("states"), which, knob("delta"), POWERS);
  const eigenvalues = () => {
    const mark = sign() < 0 ? "−" : "";
    return `${mark}1${knob("states") > 1 ? ` to ${mark}${knob("states")}` : ""}`;
  };
  picture(card, {
    height: (width) => (width < 560 ? 564 : 330),
    layout: layoutSign,
    draw: (parts) =>
      drawSign(parts, {
        A: legsMatrix(knob("states"), sign()),
        chosen: norms(sign()),
        other: norms(-sign()),
        plus: sign() > 0,
      }),
    describe: () =>
      `The eigenvalues are ${eigenvalues()}. After ${POWERS} steps without input at most ` +
      `${format(norms(sign()).at(-1), 2)} times the state is left: it ${sign() > 0 ? "explodes" : "fades"}.`,
  });
  readouts(card, [
    ["Eigenvalues of A", "A", eigenvalues],
    ["Left after 10 steps, at most", "h", () => format(norms(sign())[10], 2)],
    [`Left after ${POWERS} steps, at most`, "h", () => format(norms(sign()).at(-1), 2)],
  ]);
  choice(card, "sign");
  slider(card, "states");
  slider(card, "delta");
  return card.stop;
}

const MOST_STATES = 12;

function layoutSign(root, width) {
  const narrow = width < 560;
  const side = narrow ? Math.min(width - 16, 216) : 204;
  const cell = side / MOST_STATES;
  svg("text", { x: 0, y: 14, text: "A, the stronger the larger", class: "mv-title" }, root);
  const matrix = Array.from({ length: MOST_STATES }, (_, n) =>
    Array.from({ length: n + 1 }, (_, k) => ({
      box: svg("rect", { x: 8 + k * cell, y: 28 + n * cell, width: cell - 1.5, height: cell - 1.5, class: "mv-sign-cell" }, root),
      bar: svg("path", { class: "mv-sign-bar" }, root),
      at: [8 + (k + 0.5) * cell - 0.75, 28 + (n + 0.5) * cell - 0.75],
    })),
  );
  const lineAt = 28 + side + 40;
  svg("text", { x: 0, y: lineAt - 16, text: "its eigenvalues", class: "mv-title" }, root);
  const x = linear([-12.8, 12.8], [8, 8 + side]);
  svg("line", { x1: x(-12.8), x2: x(12.8), y1: lineAt, y2: lineAt, class: "mv-rule-level" }, root);
  for (const value of [-12, -6, 0, 6, 12]) {
    svg("line", { x1: x(value), x2: x(value), y1: lineAt - (value ? 3 : 8), y2: lineAt + (value ? 3 : 8), class: "mv-rule-level" }, root);
    svg("text", { x: x(value), y: lineAt + 22, "text-anchor": "middle", text: format(value) }, root);
  }
  const crosses = svg("path", { class: "mv-sign-cross" }, root);

  const left = narrow ? 48 : side + 76;
  const top = narrow ? lineAt + 64 : 44;
  const bottom = narrow ? top + 160 : 282;
  svg("text", { x: narrow ? 0 : left - 36, y: top - (narrow ? 18 : 30), text: "‖Āᵏ‖: what is left of a state, at most", class: "mv-title" }, root);
  const time = linear([0, POWERS], [left, width - 16]);
  const grid = svg("g", {}, root);
  axis(root, { x: time, y: linear([0, 1], [bottom, top]), side: "bottom", values: [0, 25, 50, 75, 100], name: "steps k →" });
  const curve = (name) => svg("path", { class: name }, root);
  const other = curve("mv-sign-other");
  const chosen = curve("mv-sign-chosen");
  const end = svg("text", { x: left + 10, y: top + 16, class: "mv-ruler-text" }, root);
  return { matrix, x, lineAt, crosses, time, top, bottom, left, width, grid, other, chosen, end };
}

function drawSign({ matrix, x, lineAt, crosses, time, top, bottom, left, width, grid, other, chosen, end }, now) {
  const N = now.A.length;
  const largest = Math.max(...now.A.flat().map(Math.abs));
  const kind = now.plus ? "mv-sign-plus" : "mv-sign-minus";
  matrix.forEach((row, n) =>
    row.forEach(({ box, bar, at }, k) => {
      const inside = n < N;
      const share = inside ? 0.12 + (0.8 * Math.abs(now.A[n][k])) / largest : 0.03;
      set(box, { "fill-opacity": share.toFixed(3), class: `mv-sign-cell ${inside ? kind : ""}` });
      const [cx, cy] = at.map((pixel) => pixel.toFixed(1));
      const d = now.plus ? `M${cx - 3} ${cy}h6M${cx} ${cy - 3}v6` : `M${cx - 3} ${cy}h6`;
      set(bar, { d: inside ? d : "" });
    }),
  );
  const signed = now.plus ? 1 : -1;
  set(crosses, {
    d: now.A.map((_, n) => {
      const at = x(signed * (n + 1)).toFixed(1);
      return `M${at - 4} ${lineAt - 4}l8 8M${at - 4} ${lineAt + 4}l8 -8`;
    }).join(""),
    class: `mv-sign-cross ${kind}`,
  });

  const logs = (norms) => norms.map((norm) => Math.log10(norm));
  const [bold, faint] = [logs(now.chosen), logs(now.other)];
  const all = [...bold, ...faint];
  const y = linear([Math.min(...all, -1), Math.max(...all, 1)], [bottom, top]);
  grid.replaceChildren();
  for (const power of ticks(y.domain, 5).filter(Number.isInteger)) {
    const axis_ = svg("g", { class: "mv-axis" }, grid);
    svg("line", { x1: left, x2: width - 16, y1: y(power), y2: y(power) }, axis_);
    svg("text", { x: left - 6, y: y(power) + 4, "text-anchor": "end", text: powerOfTen(power) }, axis_);
  }
  const path = (values) => line(values.map((value, k) => [time(k), y(value)]));
  set(chosen, { d: path(bold), class: `mv-sign-chosen ${kind}` });
  set(other, { d: path(faint) });
  set(end, { text: `after ${POWERS} steps: ${format(now.chosen.at(-1), 2)}` });
}

/** 10³ for 3. */
function powerOfTen(power) {
  if (power === 0) return "1";
  return `10${[...String(power)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("")}`;
}

export default { render };
