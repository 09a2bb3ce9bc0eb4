// A pen on a picture: a series of values drawn by mouse, by finger or by key.

const PEN_LABEL = "pen: left and right move it, up and down draw";
const PEN_NUDGE = 0.05;
const PEN_FINEST = 0.01;

/** The rectangle that takes the strokes. */
export function penPaper(root, { left, right, top, bottom }) {
  return svg("rect", { x: left, y: top, width: right - left, height: bottom - top, class: "mv-hit mv-draw-area" }, root);
}

/** The handle at the pen of the keyboard, a slider for the value under it. */
export function penHandle(root) {
  const handle = svg("g", {
    ...{ class: "mv-handle mv-pen", tabindex: 0, role: "slider", "aria-label": PEN_LABEL },
    ...{ "aria-orientation": "vertical", "aria-valuemin": -1, "aria-valuemax": 1, "data-lm-suppress-shortcuts": "true" },
  }, root);
  svg("circle", { r: 6, class: "mv-grip" }, handle);
  return handle;
}

/** Put the handle on value `at` of a series; `where` names that place. */
export function placePen(handle, { x, y }, series, at, where) {
  set(handle, {
    transform: `translate(${x(at + 0.5).toFixed(1)} ${y(series[at]).toFixed(1)})`,
    "aria-valuenow": series[at],
    "aria-valuetext": `${where}: ${format(series[at])}`,
  });
}

/**
 * Draw the series of a knob: by mouse, finger or pen on the paper, with the
 * keys by the handle that has focus. `pen.at` is where that one is, no knob,
 * so it is not shared; `parts` gives the present `x`, `y` and `count`; `draw`
 * is called when the pen has moved. Returns `write(changes)`, which takes
 * pairs of a place and a value.
 */
export function penOnPaper(card, root, name, { pen, parts, draw }) {
  const { model, knobs, signal } = card;
  // An image hides the pen that stands in it from a screen reader.
  root.setAttribute("role", "group");
  const write = (changes) => {
    const { low, high } = knobs[name];
    const series = [...model.get(name)];
    for (const [k, value] of changes) {
      const near = Math.round(clamp(value, low, high) / PEN_FINEST) * PEN_FINEST;
      series[k] = Number(near.toFixed(2));
    }
    card.turn(name, series);
  };

  let drag = null;
  const spot = (event) => {
    const { x, y, count } = parts();
    const box = root.getBoundingClientRect();
    return {
      k: clamp(Math.floor(x.invert(event.clientX - box.left)), 0, count - 1),
      value: y.invert(event.clientY - box.top),
    };
  };
  const on = (type, act, options = {}) =>
    root.addEventListener(type, (event) => event.target.closest?.(".mv-draw-area") && act(event), { signal, ...options });
  on("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    event.target.setPointerCapture(event.pointerId);
    drag = { id: event.pointerId, from: spot(event) };
    write([[drag.from.k, drag.from.value]]);
  });
  // For browsers that apply touch-action to no shape: do not start to scroll.
  on("touchstart", (event) => event.preventDefault(), { passive: false });
  on("pointermove", (event) => {
    if (drag?.id !== event.pointerId) return;
    const { from } = drag;
    const to = spot(event);
    // A quick hand skips values: those between lie on a straight line.
    const count = Math.max(1, Math.abs(to.k - from.k));
    write(Array.from({ length: count + 1 }, (_, n) => [
      from.k + (n * (to.k - from.k)) / count,
      from.value + (n * (to.value - from.value)) / count,
    ]));
    drag.from = to;
  });
  on("lostpointercapture", () => (drag = null));

  root.addEventListener("keydown", (event) => {
    if (!event.target.closest?.(".mv-pen") || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = parts().count - 1;
    const places = { ArrowLeft: pen.at - 1, ArrowRight: pen.at + 1, Home: 0, End: last };
    const values = { ArrowUp: PEN_NUDGE, ArrowDown: -PEN_NUDGE, PageUp: 5 * PEN_NUDGE, PageDown: -5 * PEN_NUDGE };
    const value = (k) => model.get(name)[k];
    if (event.key in places) {
      const from = pen.at;
      pen.at = clamp(places[event.key], 0, last);
      // With shift the pen is on the paper.
      if (event.shiftKey) {
        const [level, way] = [value(from), Math.sign(pen.at - from)];
        write(Array.from({ length: Math.abs(pen.at - from) + 1 }, (_, n) => [from + n * way, level]));
      }
      draw();
    } else if (event.key in values) {
      write([[pen.at, value(pen.at) + values[event.key]]]);
    } else return;
    event.preventDefault();
  }, { signal });
  return write;
}

/** Buttons that write a whole series, each by a function of the place. */
export function penShapes(card, tools, name, shapes, write) {
  for (const [label, shape] of Object.entries(shapes)) {
    const button = html("button", { type: "button", class: "mv-button" }, label);
    const values = () => card.model.get(name).map((_, k) => [k, shape(k)]);
    button.addEventListener("click", () => write(values()), { signal: card.signal });
    tools.append(button);
  }
}
