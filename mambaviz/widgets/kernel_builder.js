// KernelBuilder: eigenvalues and a step make a kernel. See kernel_builder.py.

/** The eigenvalues of A_bar: e^(Δλ) of the pair and of the third state. */
export function eigenvaluesOf(delta, A, frequency, alone) {
  const [re, im] = complexExp([delta * A, delta * frequency]);
  return [[re, im], [re, -im], [Math.exp(delta * alone), 0]];
}

/** What the input adds to the pair, as a complex number, and to the third state. */
export function entries(delta, A, frequency, alone) {
  const [re, im] = discretize("zoh", A, frequency, delta).B_bar;
  return { pair: [-A * re, -A * im], third: -Math.expm1(delta * alone) };
}

/** K_bar_j = (1 − share) Re(B_bar e^(jΔλ)) + share B_bar₃ e^(jΔA₃), by powers. */
export function kernelOf(delta, A, frequency, alone, share, length) {
  const [pole] = eigenvaluesOf(delta, A, frequency, alone);
  const { pair, third } = entries(delta, A, frequency, alone);
  let power = pair;
  return Array.from({ length }, (_, j) => {
    const tap = (1 - share) * power[0] + share * third * Math.exp(j * delta * alone);
    power = complexProduct(power, pole);
    return tap;
  });
}

/** The output of the recurrence for the input 1, 0, 0, …, state by state. */
export function impulseOf(delta, A, frequency, alone, share, length) {
  const [[re, im], , [kept]] = eigenvaluesOf(delta, A, frequency, alone);
  const { pair, third } = entries(delta, A, frequency, alone);
  let h = [0, 0, 0];
  return Array.from({ length }, (_, k) => {
    const x = k === 0 ? 1 : 0;
    h = [
      re * h[0] - im * h[1] + pair[0] * x,
      im * h[0] + re * h[1] + pair[1] * x,
      kept * h[2] + third * x,
    ];
    return (1 - share) * h[0] + share * h[2];
  });
}

const TAPS = 48;
const KNOBS = ["delta", "A", "frequency", "alone", "share"];

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const knobs = () => KNOBS.map((name) => model.get(name));
  const now = () => {
    const turned = knobs();
    return {
      K: kernelOf(...turned, TAPS),
      answer: impulseOf(...turned, TAPS),
      poles: eigenvaluesOf(...turned.slice(0, 4)),
      share: turned[4],
    };
  };
  const gap = ({ K, answer }) => Math.max(...K.map((tap, j) => Math.abs(tap - answer[j])));
  const half = (name) => `${format(Math.LN2 / (model.get("delta") * -model.get(name)))} steps`;
  const period = () => {
    const swing = model.get("delta") * model.get("frequency");
    if (!swing) return "none";
    // Faster than that, a swing looks like a slower one at whole steps.
    return swing > Math.PI ? "under 2 steps" : `${format((2 * Math.PI) / swing)} steps`;
  };

  picture(card, {
    height: (width) => (width < 480 ? 420 : 270),
    layout: (root, width) => layoutBuilder(root, width),
    draw: (parts) => drawBuilder(parts, now()),
    describe: () =>
      `A kernel of a pair of states with half-life ${half("A")} and period ${period()}, ` +
      `and of a third with half-life ${half("alone")}. ` +
      `Largest gap between kernel and impulse response: ${gap(now()) < 1e-12 ? "0 within rounding" : format(gap(now()))}.`,
  });
  readouts(card, [
    ["Kernel against impulse response", "y", () => (gap(now()) < 1e-12 ? "0 within rounding" : format(gap(now())))],
    ["Half-life of the pair", "A", () => half("A")],
    ["Period of the pair", "A", period],
    ["Half-life of the third state", "A", () => half("alone")],
  ]);
  for (const name of KNOBS) slider(card, name);
  return card.stop;
}

function layoutBuilder(root, width) {
  const narrow = width < 480;
  const size = 150;
  const [left, top] = narrow ? [44, 262] : [width - size - 8, 42];
  const right = narrow ? width - 8 : width - size - 40;
  const x = linear([-0.6, TAPS - 0.4], [52, right]);
  const y = linear([-1, 1], [206, 46]);
  svg("text", { x: 0, y: 14, text: "K̄: what a single 1 adds, by lag", class: "mv-title" }, root);
  svg("text", { x: 52, y: 33, text: "● the recurrence\u2003▮ the kernel", class: "mv-built-key" }, root);
  const grid = svg("g", {}, root);
  axis(root, { x, y, side: "bottom", values: [0, 10, 20, 30, 40], name: narrow ? "lag j" : "lag j, in steps" });
  const bars = svg("path", { class: "mv-built-bars" }, root);
  const dots = svg("path", { class: "mv-built-dots" }, root);
  const place = narrow ? { x: 0, y: 248 } : { x: left - 4, y: 14 };
  svg("text", { ...place, text: "eigenvalues of Ā", class: "mv-title" }, root);
  const middle = [left + size / 2, top + size / 2 - (narrow ? 4 : 0)];
  const radius = size / 2 - 8;
  svg("circle", { cx: middle[0], cy: middle[1], r: radius, class: "mv-rule-circle" }, root);
  svg("path", { d: `M${middle[0] - radius} ${middle[1]}h${2 * radius}M${middle[0]} ${middle[1] - radius}v${2 * radius}`, class: "mv-rule-axes" }, root);
  const poles = [0, 1, 2].map((n) =>
    svg("path", { d: n < 2 ? "M-5 -5L5 5M-5 5L5 -5" : "M-5 -5h10v10h-10Z", class: "mv-built-pole" }, root),
  );
  const keys = [["×", "the pair"], ["□", "the third state"]];
  keys.forEach(([sign, text], n) => {
    const at = narrow
      ? { x: left + size + 18, y: top + 30 + 22 * n }
      : { x: left + 30, y: top + size + 18 + 16 * n };
    svg("text", { ...at, text: `${sign} ${text}`, class: "mv-built-key" }, root);
  });
  return { x, y, bars, dots, poles, middle, radius, grid, right };
}

function drawBuilder({ x, y, bars, dots, poles, middle, radius, grid, right }, { K, answer, poles: at, share }) {
  const tallest = Math.max(...K.map(Math.abs)) || 1;
  const scaled = (value) => y(value / tallest);
  const half = Math.max(1, (x(1) - x(0)) * 0.34);
  bars.setAttribute("d", K.map((tap, j) =>
    `M${(x(j) - half).toFixed(1)} ${y(0).toFixed(1)}V${scaled(tap).toFixed(1)}h${(2 * half).toFixed(1)}V${y(0).toFixed(1)}Z`,
  ).join(""));
  const r = 2.2;
  dots.setAttribute("d", answer.map((value, j) =>
    `M${(x(j) - r).toFixed(1)} ${scaled(value).toFixed(1)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
  ).join(""));
  grid.replaceChildren();
  for (const value of [-tallest, 0, tallest]) {
    const line_ = svg("g", { class: "mv-axis" }, grid);
    svg("line", { x1: 52, x2: right, y1: scaled(value), y2: scaled(value) }, line_);
    svg("text", { x: 48, y: scaled(value) + 4, "text-anchor": "end", text: format(value, 2) }, line_);
  }
  at.forEach(([re, im], n) => {
    set(poles[n], {
      transform: `translate(${(middle[0] + re * radius).toFixed(1)} ${(middle[1] - im * radius).toFixed(1)})`,
      "stroke-opacity": (n < 2 ? share < 1 : share > 0) ? 1 : 0.25,
    });
  });
}

export default { render };
