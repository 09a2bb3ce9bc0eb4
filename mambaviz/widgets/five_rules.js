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
// The rows of states end here, above the 1 at which each state starts.
const LIMIT = 1.5;
// Mamba's code shares its A_bar with ZOH, and so its pole and its row.
const DRAWN = ["zoh", "bilinear", "backward_euler", "euler"];

// matplotlib's letters for markers, as paths about the origin.
const SHAPES = {
  o: "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1 -5 0Z",
  D: "M0 -3L3 0L0 3L-3 0Z",
  s: "M-4.3 -4.3H4.3V4.3H-4.3Z",
  v: "M-5.2 -4.2H5.2L0 5.4Z",
  "^": "M-5.2 4.2H5.2L0 -5.4Z",
};

function render(context) {
  const card = makeCard(context);
  const { model } = card;
  const looks = looksOf(model.get("words").rules);
  const knob = (name) => model.get(name);
  const now = () => poles(knob("A"), knob("frequency"), knob("delta"));

  picture(card, {
    height: (width) => shapeOf(width).height,
    layout: (root, width) => layoutPicture(root, shapeOf(width), looks),
    draw: (parts) => drawPicture(parts, knob("A"), knob("frequency"), knob("delta")),
    describe: () =>
      `With Δ = ${format(knob("delta"))} and A = ` +
      `${complexText([knob("A"), knob("frequency")])}: ${fatesText(now(), looks)}.`,
  });
  card.readouts.classList.add("mv-rule-readouts");
  readouts(card, [
    ...DRAWN.map((rule) => [
      html("span", { class: "mv-rule-key" }, keyTo(looks[rule]), `|Ā| of ${looks[rule].name}`),
      null,
      () => {
        const size = magnitude(now()[rule]);
        return `${sizeText(size)}, ${fate(size)}`;
      },
    ]),
    ["Euler leaves the circle at Δ", "delta", () => format(eulerLeavesAt(knob("A"), knob("frequency")))],
    [
      "|B̄| of Mamba's code ÷ ZOH's",
      "B",
      () => format(magnitude(bBarRatio(knob("A"), knob("frequency"), knob("delta")))),
    ],
  ]);
  slider(card, "delta");
  slider(card, "A");
  slider(card, "frequency");
  return card.stop;
}

/** How each drawn rule looks, from the palette's words about all five. */
function looksOf(rules) {
  return Object.fromEntries(
    DRAWN.map((rule) => {
      const { label, ink, dashes, marker } = rules[rule];
      const look = { name: label, ink, dashes, shapes: [SHAPES[marker]] };
      if (rule === "zoh") {
        look.name = `${label}, ${rules.mamba.label}`;
        look.shapes.push(SHAPES[rules.mamba.marker]);
      }
      return [rule, look];
    }),
  );
}

/** A rule's marker; the second shape of a shared one lies in the first. */
function marker(parent, { ink, shapes }) {
  const group = svg("g", { class: `mv-rule mv-rule-${ink}` }, parent);
  shapes.forEach((d, n) =>
    svg("path", { d, class: shapes.length > 1 && !n ? "mv-rule-ring" : "mv-rule-solid" }, group),
  );
  return group;
}

function keyTo(look) {
  const key = svg("svg", { viewBox: "-7 -7 14 14", width: 14, height: 14, "aria-hidden": "true" });
  marker(key, look);
  return key;
}

/** A magnitude with as many digits as tell it from 1. */
function sizeText(size) {
  let digits = 3;
  while (digits < 9 && size !== 1 && format(size, digits) === "1") digits++;
  return format(size, digits);
}

function complexText([re, im]) {
  if (im === 0) return format(re);
  return `${format(re)} ${im < 0 ? "−" : "+"} ${format(Math.abs(im))}i`;
}

function fatesText(found, looks) {
  const fates = DRAWN.map((rule) => {
    const size = magnitude(found[rule]);
    return `the state ${fate(size)} with ${looks[rule].name} (|Ā| = ${sizeText(size)})`;
  });
  return fates.join("; ");
}

/** Where everything lies, in pixels, in a picture of this width. */
function shapeOf(width) {
  const wide = width >= 560;
  const plane = {
    left: 0.5,
    top: 22.5,
    width: (wide ? Math.round(width * 0.5 - 14) : width) - 2,
    height: wide ? 356 : Math.min(width, 330),
  };
  const left = wide ? plane.left + plane.width + 27 : 0;
  const top = wide ? 0 : plane.top + plane.height + 18;
  const columns = wide || width < 280 ? 1 : 2;
  const pitch = (width - left + 16) / columns;
  const rows = DRAWN.map((rule, n) => {
    const x = left + (n % columns) * pitch;
    const y = top + (wide ? 40 : 58) + Math.floor(n / columns) * 86;
    const last = n >= DRAWN.length - columns;
    return { rule, x: x + 24, y, width: pitch - 44, last };
  });
  return { width, wide, plane, left, top, rows, height: rows.at(-1).y + 100 };
}

function layoutPicture(root, shape, looks) {
  const { wide, left, top } = shape;
  const title = (x, y, text) => svg("text", { x, y, text, class: "mv-title" }, root);
  title(0, 12, "One step's Ā, and its way from Δ = 0");
  const plane = layoutPlane(root, shape.plane, looks);
  title(left, top + 12, `${STEPS} steps from h = 1 without input`);
  const legend = [
    ["curve", "true", "the true Re h,"],
    ["dots", "word", "a rule's Re h,"],
    ["tint", "word", "its ±|h|"],
  ];
  if (!wide) legend.push(["↑", "over", "its last |h|"]);
  const lines = wide ? [legend] : [legend.slice(0, 2), legend.slice(2)];
  const [truth] = lines.flatMap((words, n) => {
    const text = svg("text", { x: left, y: top + 31 + 16 * n }, root);
    return words.map(([word, name, meaning]) => {
      svg("tspan", { text: word, class: `mv-rule-${name}` }, text);
      return svg("tspan", { text: ` ${meaning} ` }, text);
    });
  });
  const strips = shape.rows.map((row) => layoutStrip(root, row, looks[row.rule], wide));
  return { plane, strips, truth };
}

function layoutPlane(root, frame, looks) {
  const { left, top, width, height } = frame;
  const scale = Math.min(width / 2.62, height / 2.62);
  const middle = { x: left + width / 2, y: top + height * 0.54 };
  const x = (re) => middle.x + scale * re;
  const y = (im) => middle.y - scale * im;
  svg("rect", { x: left, y: top, width, height, rx: 8, class: "mv-rule-frame" }, root);
  svg("circle", { cx: x(0), cy: y(0), r: scale, class: "mv-rule-disc" }, root);
  const axes = `M${left} ${y(0)}h${width}M${x(0)} ${top}v${height}`;
  svg("path", { d: axes, class: "mv-rule-axes" }, root);
  svg("circle", { cx: x(0), cy: y(0), r: scale, class: "mv-rule-circle" }, root);
  const say = (at, up, text, anchor = "middle", name = null) =>
    svg("text", { x: at, y: up, text, "text-anchor": anchor, class: name }, root);
  say(x(1) + 4, y(0) + 15, "1", "start");
  say(x(-1) - 4, y(0) + 15, "−1", "end");
  say(x(0) + 5, y(1) - 5, "i", "start");
  say(x(0) + 5, y(-1) + 14, "−i", "start");
  say(x(0), y(-0.6), "inside, the state fades");
  say(left + 8, top + height - 8, "outside, it grows", "start");
  say(left + width - 5, y(0) - 6, "Re Ā", "end", "mv-rule-axis");
  // Below, where no way leads out of the picture; beside −i if it must.
  const low = top + height - 8;
  say(x(0) + (low - y(-1) < 26 ? 24 : 5), low, "Im Ā", "start", "mv-rule-axis");
  const layer = () => svg("g", {}, root);
  const [trails, leaders, markers, labels] = [layer(), layer(), layer(), layer()];
  const marks = DRAWN.map((rule) => {
    const look = looks[rule];
    return {
      rule,
      name: look.name,
      trail: svg("path", {
        class: `mv-rule-trail mv-rule-${look.ink}`,
        "stroke-dasharray": look.dashes.length ? look.dashes.map((n) => 1.5 * n).join(" ") : null,
      }, trails),
      leader: svg("path", { class: "mv-rule-leader" }, leaders),
      marker: marker(markers, look),
      arrow: svg("path", { class: `mv-rule-arrow mv-rule-${look.ink}` }, markers),
      label: svg("text", { class: `mv-rule-label mv-rule-halo mv-rule-${look.ink}` }, labels),
    };
  });
  const ring = Array.from({ length: 64 }, (_, n) => {
    const turn = (n * Math.PI) / 32;
    return [x(Math.cos(turn)), y(Math.sin(turn))];
  });
  const written = [
    box(x(1), y(0), 20, 20),
    box(x(-1) - 20, y(0), 20, 20),
    box(x(0), y(1) - 18, 16, 18),
    box(x(0) - 76, y(-0.6) - 12, 152, 16),
    box(left + width - 42, y(0) - 18, 42, 18),
  ];
  return { frame, x, y, ring, marks, written };
}

function layoutStrip(root, { rule, x, y, width, last }, look, wide) {
  const group = svg("g", { transform: `translate(${x} ${y})` }, root);
  const at = linear([0, STEPS], [0, width]);
  const up = linear([-LIMIT, LIMIT], [80, 20]);
  for (const value of [-1, 0, 1]) {
    const level = { x1: 0, x2: width, y1: up(value), y2: up(value) };
    svg("line", { ...level, class: "mv-rule-level" }, group);
    svg("text", { x: -5, y: up(value) + 4, "text-anchor": "end", text: format(value) }, group);
  }
  if (last) {
    for (const k of wide ? [0, 10, 20] : [0, 10]) {
      svg("text", { x: at(k), y: 96, "text-anchor": "middle", text: k }, group);
    }
    const end = { x: width, y: 96, "text-anchor": "end", text: `${STEPS} steps` };
    svg("text", end, group);
  }
  const key = svg("g", { transform: "translate(6 9)" }, group);
  marker(key, look);
  const name = look.name[0].toUpperCase() + look.name.slice(1);
  const size = wide ? "" : "mv-rule-small";
  svg("text", { x: 17, y: 13, text: name, class: `mv-rule-label mv-rule-${look.ink} ${size}` }, group);
  return {
    rule,
    at,
    up,
    tint: svg("path", { class: `mv-rule-tint mv-rule-${look.ink}` }, group),
    truth: svg("path", { class: "mv-rule-truth" }, group),
    dots: svg("path", { class: `mv-rule-dots mv-rule-${look.ink}` }, group),
    // A narrow strip has its room where the dots are gone.
    beyond: svg("text", { x: width - 3, y: wide ? 13 : 35, class: "mv-rule-beyond" }, group),
    wide,
  };
}

function drawPicture({ plane, strips, truth: meaning }, re, im, delta) {
  const found = poles(re, im, delta);
  drawPlane(plane, found, re, im, delta);
  const [{ at, up }] = strips;
  const truth = truthPath(at, up, re, im, delta);
  meaning.textContent = isTooFast(im, delta) ? " the true ±|h|, " : " the true Re h, ";
  for (const strip of strips) {
    strip.truth.setAttribute("d", truth);
    drawStrip(strip, powers(found[strip.rule], STEPS));
  }
}

function drawPlane({ frame, x, y, ring, marks, written }, found, re, im, delta) {
  const start = [x(1), y(0)];
  const onTrails = [];
  const items = marks.map(({ rule, name, trail: path, marker: mark, arrow }) => {
    const pole = found[rule];
    const { at, away } = pinned(frame, start, [x(pole[0]), y(pole[1])]);
    // ZOH may turn several times; the others never turn by more than half.
    const count = rule === "euler" ? 1 : rule === "zoh" ? 40 + Math.ceil(10 * delta * im) : 40;
    const way = away
      ? [start, at]
      : trail(rule, re, im, delta, count).map(([a, b]) => [x(a), y(b)]);
    path.setAttribute("d", line(way));
    mark.setAttribute("transform", `translate(${at[0].toFixed(1)} ${at[1].toFixed(1)})`);
    arrow.setAttribute("d", away ? arrowhead(at, away) : "");
    onTrails.push(...thinned(way));
    const text = away ? `${name}: ${complexText(pole)}` : name;
    // No measuring, which would cost a layout: no font here is wider.
    return { at, text, width: 8.1 * text.length };
  });
  const places = placeLabels(frame, items, written, [...onTrails, ...ring]);
  places.forEach(({ x: left, y: base, anchor, from }, n) => {
    set(marks[n].label, { x: left, y: base, "text-anchor": anchor, text: items[n].text });
    marks[n].leader.setAttribute("d", from ? line([items[n].at, from]) : "");
  });
}

/** A point kept in the frame, on its straight way from `start`. */
function pinned({ left, top, width, height }, start, point) {
  const margin = 16;
  const low = [left + margin, top + margin];
  const high = [left + width - margin, top + height - margin];
  let share = 1;
  for (const side of [0, 1]) {
    const way = point[side] - start[side];
    const room = (way > 0 ? high : low)[side] - start[side];
    if (Math.abs(way) > Math.abs(room)) share = Math.min(share, room / way);
  }
  if (share === 1) return { at: point, away: null };
  const way = point.map((p, side) => p - start[side]);
  const length = Math.hypot(...way);
  return {
    at: start.map((p, side) => p + share * way[side]),
    away: way.map((w) => w / length),
  };
}

/** A small arrowhead at a marker that points away from it. */
function arrowhead([x, y], [dx, dy]) {
  const point = (along, across) => [x + along * dx - across * dy, y + along * dy + across * dx];
  return line([point(8, -4), point(13, 0), point(8, 4)]);
}

/** Points of a line no closer than 10 pixels, along its straight parts too. */
function thinned(points) {
  const kept = [points[0]];
  for (const point of points) {
    const from = kept.at(-1);
    const way = [point[0] - from[0], point[1] - from[1]];
    const count = Math.floor(Math.hypot(...way) / 10);
    for (let n = 1; n <= count; n++) {
      kept.push([from[0] + (n / count) * way[0], from[1] + (n / count) * way[1]]);
    }
  }
  return kept;
}

function box(left, top, width, height) {
  return { left, top, right: left + width, bottom: top + height };
}

function meet(one, other) {
  return (
    one.left < other.right &&
    other.left < one.right &&
    one.top < other.bottom &&
    other.top < one.bottom
  );
}

function holds({ left, right, top, bottom }, [x, y]) {
  return x > left && x < right && y > top && y < bottom;
}

function halfway([a, b], [c, d]) {
  return [(a + c) / 2, (b + d) / 2];
}

/**
 * Names beside their markers: for each the nearest place within the frame
 * that covers no marker, no other name and as little as may be of the words
 * in `written` and of `points` on lines.
 */
function placeLabels(frame, items, written, points) {
  const taken = items.map(({ at: [x, y] }) => box(x - 8, y - 7, 16, 14));
  const room = box(frame.left + 3, frame.top + 3, frame.width - 6, frame.height - 6);
  return items.map((item, k) => {
    const own = taken[k];
    let best = { cost: Infinity };
    for (const distance of [11, 20, 32, 48, 68, 92]) {
      // No place costs less than its distance.
      if (distance >= best.cost) break;
      for (let n = 0; n < 16; n++) {
        const place = placeBeside(item, distance, (n * Math.PI) / 8);
        const { area } = place;
        let cost = distance;
        if (area.left < room.left || area.right > room.right) cost += 400;
        if (area.top < room.top || area.bottom > room.bottom) cost += 400;
        for (const other of taken) {
          if (meet(area, other)) cost += 200;
          // The line to a far name should not cross what is another's.
          if (other !== own && place.from && holds(other, halfway(item.at, place.from))) cost += 40;
        }
        for (const other of written) if (meet(area, other)) cost += 60;
        for (const point of points) {
          if (cost >= best.cost) break;
          if (holds(area, point)) cost += 7;
        }
        if (cost < best.cost) best = { ...place, cost };
      }
    }
    taken.push(best.area);
    return best;
  });
}

/** A name at some distance from its marker; far off, a line leads `from` it. */
function placeBeside({ at: [x, y], width }, distance, angle) {
  const [dx, dy] = [Math.cos(angle), Math.sin(angle)];
  const anchor = dx > 0.3 ? "start" : dx < -0.3 ? "end" : "middle";
  const near = [x + distance * dx, y + distance * dy];
  const shift = anchor === "start" ? 0 : anchor === "end" ? width : width / 2;
  const middle = near[1] + 4 * dy;
  const area = box(near[0] - shift, middle - 8, width, 16);
  return { area, anchor, x: near[0], y: middle + 4, from: distance > 12 ? near : null };
}

/** Whether the true state turns by more than half between two steps. */
function isTooFast(im, delta) {
  return delta * im > Math.PI;
}

/** The true state over a strip; its bounds alone where it turns too fast. */
function truthPath(at, up, re, im, delta) {
  const curve = (perStep, value) =>
    line(
      Array.from({ length: STEPS * perStep + 1 }, (_, n) => [
        at(n / perStep),
        up(value((n / perStep) * delta)),
      ]),
    );
  if (isTooFast(im, delta)) {
    const bound = (time) => magnitude(trueState(re, im, time));
    return curve(4, bound) + curve(4, (time) => -bound(time));
  }
  const perStep = clamp(Math.ceil(4 * delta * Math.hypot(re, im)), 2, 12);
  return curve(perStep, (time) => trueState(re, im, time)[0]);
}

function drawStrip({ at, up, tint, dots, beyond, wide }, states) {
  const sizes = states.map(magnitude);
  const last = sizes.at(-1);
  const exit = sizes.findIndex((size) => size > LIMIT);
  const edge = sizes.map((size, k) => [at(k), Math.min(size, LIMIT)]);
  if (exit > 0) {
    const leaves = Math.log(LIMIT) / Math.log(sizes[1]);
    edge.splice(exit, 0, [at(leaves), LIMIT]);
  }
  const rim = (sign) => edge.map(([x, size]) => [x, up(sign * size)]);
  tint.setAttribute("d", `${line([...rim(1), ...rim(-1).reverse()])}Z`);
  // A dot is a stroke of no length with a round cap.
  const shown = exit < 0 ? states : states.slice(0, exit);
  dots.setAttribute(
    "d",
    shown.map(([h], k) => `M${at(k).toFixed(1)} ${up(h).toFixed(1)}h0`).join(""),
  );
  const far = wide ? `|h| reaches ${format(last)} ↑` : `${format(last, 2)} ↑`;
  beyond.textContent = exit < 0 ? "" : far;
}

export default { render };
