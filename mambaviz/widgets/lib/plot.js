// SVG pictures that measure their card and are drawn once per frame.

const NS = "http://www.w3.org/2000/svg";

/** An SVG element; `null` attributes are left out. */
export function svg(tag, attributes = {}, parent = null) {
  const element = document.createElementNS(NS, tag);
  set(element, attributes);
  parent?.append(element);
  return element;
}

/**
 * Set several attributes, and the text under the name `text`. What is as it
 * was is left alone: comparing is cheaper than laying out anew.
 */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    const text = String(value);
    if (name === "text") {
      if (element.textContent !== text) element.textContent = text;
    } else if (value === null) {
      element.removeAttribute(name);
    } else if (element.getAttribute(name) !== text) {
      element.setAttribute(name, text);
    }
  }
  return element;
}

/** A straight map from `[d0, d1]` to `[r0, r1]`, with its inverse. */
export function linear([d0, d1], [r0, r1]) {
  const slope = (r1 - r0) / (d1 - d0);
  const map = (value) => r0 + slope * (value - d0);
  map.invert = (pixel) => d0 + (pixel - r0) / slope;
  map.domain = [d0, d1];
  map.range = [r0, r1];
  return map;
}

/** The `d` of a polyline; values far outside the picture are cut off. */
export function line(points) {
  let d = "";
  for (const [x, y] of points) {
    const cut = clamp(y, -4000, 4000);
    d += `${d ? "L" : "M"}${x.toFixed(1)} ${cut.toFixed(1)}`;
  }
  return d;
}

/** Round tick values, about `count` of them. */
export function ticks([low, high], count = 5) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((s) => s * power >= rough) * power;
  const found = [];
  for (let t = Math.ceil(low / step - 1e-9); t * step <= high + step * 1e-9; t++) {
    found.push(Number((t * step).toPrecision(12)));
  }
  return found;
}

/** An axis with its grid lines; `side` is "bottom" or "left". */
export function axis(parent, { x, y, side, values, name, text = format }) {
  const group = svg("g", { class: `mv-axis mv-axis-${side}` }, parent);
  const across = side === "bottom";
  const scale = across ? x : y;
  const [near, far] = across ? y.range : x.range;
  for (const value of values ?? ticks(scale.domain)) {
    const at = scale(value);
    svg(
      "line",
      across
        ? { x1: at, x2: at, y1: near, y2: far }
        : { x1: near, x2: far, y1: at, y2: at },
      group,
    );
    svg(
      "text",
      across
        ? { x: at, y: near + 16, "text-anchor": "middle", text: text(value) }
        : { x: near - 6, y: at + 4, "text-anchor": "end", text: text(value) },
      group,
    );
  }
  if (name) {
    svg(
      "text",
      across
        ? { x: x.range[1], y: near + 32, "text-anchor": "end", text: name, class: "mv-axis-name" }
        : { x: near - 6, y: far - 10, "text-anchor": "start", text: name, class: "mv-axis-name" },
      group,
    );
  }
  return group;
}

/**
 * A picture in a card: `layout` builds what depends on the size alone, `draw`
 * what depends on the knobs; `describe` says in a sentence what is to be seen.
 */
export function picture(card, { height, layout, draw, describe }) {
  const root = svg("svg", { class: "mv-picture", role: "img" });
  card.picture.append(root);
  let width = 0;
  let parts = null;
  let waiting = 0;

  const paint = () => {
    waiting = 0;
    if (!parts) return;
    draw(parts);
    root.setAttribute("aria-label", describe());
  };
  const measure = () => {
    // The true width may be a fraction below the rounded clientWidth.
    const now = Math.floor(card.picture.getBoundingClientRect().width);
    if (now === width || now < 40) return;
    width = now;
    const tall = height(width);
    set(root, { width, height: tall, viewBox: `0 0 ${width} ${tall}` });
    root.replaceChildren();
    parts = layout(root, width, tall);
    paint();
  };
  const request = () => {
    waiting ||= requestAnimationFrame(paint);
  };
  const watcher = new ResizeObserver(measure);
  watcher.observe(card.picture);
  card.signal.addEventListener("abort", () => {
    watcher.disconnect();
    cancelAnimationFrame(waiting);
  });
  card.onChange(request);
  card.describe = describe;
  measure();
  return root;
}
