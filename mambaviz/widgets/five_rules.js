// FiveRules: five ways to a discrete pole, one of which leaves the unit
// circle. See five_rules.py. A complex number is the array [re, im].

/** Every rule's A_bar for A = `re` + i `im` and a step `delta`, by rule. */
export function poles(re, im, delta) {
  const names = ["zoh", "mamba", "bilinear", "backward_euler", "euler"];
  return Object.fromEntries(
    names.map((rule) => [rule, discretize(rule, re, im, delta).A_bar]),
  );
}

/** |z| of a complex z. */
export function magnitude([re, im]) {
  return Math.hypot(re, im);
}

/** 1, z, z², …, z^count: the states after each step without input. */
export function powers(z, count) {
  const states = [[1, 0]];
  while (states.length <= count) states.push(complexProduct(z, states.at(-1)));
  return states;
}

/** What is truly left of a state after `time` without input: e^(A time). */
export function trueState(re, im, time) {
  return complexExp([re * time, im * time]);
}

/**
 * The way of a rule's A_bar from 1 while the step grows from 0 to `delta`:
 * `count` + 1 points, densest where the way begins.
 */
export function trail(rule, re, im, delta, count) {
  return Array.from(
    { length: count + 1 },
    (_, j) => discretize(rule, re, im, delta * (j / count) ** 2).A_bar,
  );
}

/** B_bar of Mamba's code over B_bar of ZOH; 1 as the step goes to 0. */
export function bBarRatio(re, im, delta) {
  return complexQuotient(
    discretize("mamba", re, im, delta).B_bar,
    discretize("zoh", re, im, delta).B_bar,
  );
}

/** The step from which on Euler's state no longer fades: |1 + ΔA| = 1. */
export function eulerLeavesAt(re, im) {
  return (-2 * re) / (re * re + im * im);
}

/** What becomes of a state that every step multiplies by this much. */
export function fate(size) {
  return size < 1 ? "fades" : size > 1 ? "grows" : "stays";
}

const STEPS = 30;
// Rows end here, above the 1 at which every state starts.
const LIMIT = 1.5;
// Mamba's code shares its A_bar, and so its pole and its row, with ZOH.
const DRAWN = ["zoh", "bilinear", "backward_euler", "euler"];

// matplotlib's letters for markers, as paths about the origin.
const SHAPES = {
  o: "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1 -5 0Z",
  s: "M-4.4 -4.4H4.4V4.4H-4.4Z",
  D: "M0 -3.2L3.2 0L0 3.2L-3.2 0Z",
  v: "M-5.2 -4.2H5.2L0 5.2Z",
  "^": "M-5.2 4.2H5.2L0 -5.2Z",
};

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const { rules } = model.get("words");
  const values = () => ["A", "frequency", "delta"].map((name) => model.get(name));
  const sizes = () =>
    Object.entries(poles(...values())).map(([rule, pole]) => [rule, magnitude(pole)]);

  picture(card, {
    height: (width) => (width < 560 ? plane(width).bottom + 254 : 404),
    layout: (root, width) => layoutPicture(root, width, rules),
    draw: (parts) => drawPicture(parts, ...values()),
    describe: () => {
      const [re, im, delta] = values();
      const say = (wanted) =>
        sizes()
          .filter(([, size]) => fate(size) === wanted)
          .map(([rule, size]) => `${rules[rule].label} (|Ā| = ${nearOne(size)})`)
          .join(", ");
      const said = ["fades", "stays", "grows"]
        .filter(say)
        .map((wanted) => `the state ${wanted} with ${say(wanted)}`);
      return `With Δ = ${format(delta)} and A = ${complexText([re, im])}, ${said.join("; ")}.`;
    },
  });
  readouts(card, [
    ...DRAWN.map((rule) => [
      html("span", { class: "mv-key" }, keyOf(rule, rules), `|Ā| of ${nameOf_(rule, rules)}`),
      null,
      () => {
        const size = magnitude(poles(...values())[rule]);
        return `${nearOne(size)}, ${fate(size)}`;
      },
    ]),
    ["Euler leaves the circle at Δ", "delta", () => format(eulerLeavesAt(...values()))],
    [
      `|B̄| of ${rules.mamba.label} ÷ ZOH`,
      "B",
      () => format(magnitude(bBarRatio(...values()))),
    ],
  ]);
  slider(card, "delta");
  slider(card, "A");
  slider(card, "frequency");
  return card.stop;
}
