// The card an explorable stands in: question, picture, readouts, controls.

/** An HTML element; attributes that are false or null are left out. */
export function html(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

let cards = 0;

/**
 * Build an explorable's card from what the host hands to `render`: the model,
 * the element and a signal that ends it all; in the book also `share`, which
 * gives a link to the present state, `first`, the state before the address
 * changed it, and `refusals`, what the address asked for in vain.
 */
export function makeCard({ model, el, signal, share, first, refusals = [] }) {
  // Hosts that know no signal call what `render` returns instead.
  const stop = new AbortController();
  const ended = signal ?? stop.signal;
  const { question, answer, computed } = model.get("words");
  const knobs = model.get("knobs");
  const start = Object.fromEntries(
    Object.keys(knobs).map((name) => [name, first ? first[name] : model.get(name)]),
  );
  const id = `mv-card-${(cards += 1)}`;
  const part = (name, attributes = {}) =>
    html("div", { class: `mv-${name}`, ...attributes });
  const card = {
    model,
    knobs,
    id,
    signal: ended,
    picture: part("stage"),
    readouts: part("readouts"),
    controls: part("controls"),
    error: part("error", { role: "alert", hidden: true }),
    spoken: html("p", { class: "mv-spoken", role: "status" }),
    stop: () => stop.abort(),
  };

  /** Call `changed` whenever one of the knobs turns. */
  card.onChange = (changed) => {
    for (const name of Object.keys(knobs)) {
      model.on(`change:${name}`, changed);
      ended.addEventListener("abort", () => model.off(`change:${name}`, changed));
    }
  };
  card.refuse = (message) => {
    card.error.textContent = message ?? "";
    card.error.hidden = !message;
  };
  /** Turn a knob, or say why it does not turn. */
  card.turn = (name, value) => {
    const { value: fit, refusal } = accept(name, knobs[name], value);
    card.refuse(refusal && `${refusal} Nothing was changed.`);
    if (refusal) return false;
    model.set(name, fit);
    model.save_changes();
    return true;
  };

  const reset = html("button", { type: "button", class: "mv-button" }, "Reset");
  reset.addEventListener("click", () => {
    card.refuse(null);
    for (const [name, value] of Object.entries(start)) model.set(name, value);
    model.save_changes();
  });
  const foot = html("div", { class: "mv-foot" }, reset);
  if (share) foot.append(shareButton(card, share));
  foot.append(
    disclosure("What to see", html("p", {}, answer)),
    disclosure("How is this computed", provenance(computed, Boolean(share))),
  );
  const title = html("h3", { class: "mv-question", id: `${id}-question` }, question);
  el.append(
    html(
      "section",
      { class: "mv-card", "aria-labelledby": title.id },
      title,
      card.picture,
      card.error,
      card.controls,
      card.readouts,
      foot,
      card.spoken,
    ),
  );
  if (refusals.length) card.refuse(refusals.join(" "));

  // What is to be seen is spoken when the knobs have come to rest.
  let rest = 0;
  card.onChange(() => {
    clearTimeout(rest);
    rest = setTimeout(() => {
      if (card.describe) card.spoken.textContent = card.describe();
    }, 600);
  });
  ended.addEventListener("abort", () => clearTimeout(rest));
  return card;
}

function shareButton(card, share) {
  const button = html("button", { type: "button", class: "mv-button" }, "Copy link");
  button.addEventListener("click", async () => {
    const address = share();
    try {
      await navigator.clipboard.writeText(address);
      button.textContent = "Link copied";
    } catch {
      button.textContent = "Link is in the address bar";
    }
    setTimeout(() => (button.textContent = "Copy link"), 2500);
  });
  return button;
}

function disclosure(summary, content) {
  return html("details", {}, html("summary", {}, summary), content);
}

// The addresses count from the book's root, so only the book has links.
function provenance(computed, inBook) {
  const root = document.documentElement.dataset.content_root ?? "";
  const list = html("ul");
  for (const [name, address] of Object.entries(computed)) {
    const code = html("code", {}, name);
    list.append(html("li", {}, inBook ? html("a", { href: root + address }, code) : code));
  }
  return html(
    "div",
    {},
    "In this page, by JavaScript whose values are tested against:",
    list,
  );
}

function nameOf(knob) {
  return html("span", { class: "mv-name" }, knob.label);
}

/** A slider with a field for the exact number. */
export function slider(card, name) {
  const { model, knobs, controls, signal } = card;
  const knob = knobs[name];
  const scale = strides(knob);
  const range = html("input", {
    type: "range",
    min: scale.low,
    max: scale.high,
    step: 1,
    "data-trait": name,
    "aria-label": knob.label,
    // JupyterLab's shortcuts would take the arrow keys; it asks the target.
    "data-lm-suppress-shortcuts": "true",
  });
  const field = html("input", {
    type: "text",
    inputmode: "decimal",
    autocomplete: "off",
    "data-field": name,
    "aria-label": `${knob.label}, exact value`,
    "data-lm-suppress-shortcuts": "true",
  });
  const row = html("div", { class: "mv-slider" }, nameOf(knob), range, field);
  row.style.setProperty("--mv-symbol", `var(--mv-${knob.symbol})`);
  if (knob.unit) row.append(html("span", { class: "mv-unit" }, knob.unit));
  if (knob.hint) row.append(html("p", { class: "mv-hint" }, knob.hint));
  controls.append(row);

  const show = () => {
    const value = model.get(name);
    if (Number(range.value) !== scale.at(value)) range.value = scale.at(value);
    field.value = format(value, 4);
    range.setAttribute("aria-valuetext", `${field.value} ${knob.unit}`.trim());
  };
  range.addEventListener("input", () => card.turn(name, scale.value(Number(range.value))), { signal });
  field.addEventListener(
    "change",
    () => {
      const number = parseNumber(field.value);
      const typed = Number.isNaN(number) ? field.value : number;
      if (!card.turn(name, typed)) show();
    },
    { signal },
  );
  model.on(`change:${name}`, show);
  signal.addEventListener("abort", () => model.off(`change:${name}`, show));
  show();
  return range;
}

/**
 * Let a slider rest where it would do nothing: `reason` gives the words that
 * then stand in place of its hint, or nothing where it works.
 */
export function restWhile(card, range, reason) {
  const row = range.closest(".mv-slider");
  const hint = row.querySelector(".mv-hint");
  const usual = hint.textContent;
  const show = () => {
    const why = reason();
    for (const input of row.querySelectorAll("input")) input.disabled = Boolean(why);
    hint.textContent = why || usual;
  };
  card.onChange(show);
  show();
}

/** A group of buttons of which one is pressed. */
export function choice(card, name) {
  const { model, knobs, controls, signal, id } = card;
  const knob = knobs[name];
  const group = html("fieldset", { class: "mv-choice" }, html("legend", {}, knob.label));
  const buttons = Object.entries(knob.options).map(([value, label]) => {
    const input = html("input", {
      type: "radio",
      name: `${id}-${name}`,
      value,
      "data-trait": name,
      "data-lm-suppress-shortcuts": "true",
    });
    input.addEventListener("change", () => card.turn(name, value), { signal });
    group.append(html("label", {}, input, html("span", {}, label)));
    return input;
  });
  if (knob.hint) group.append(html("p", { class: "mv-hint" }, knob.hint));
  controls.append(group);
  const show = () => {
    for (const input of buttons) input.checked = input.value === model.get(name);
  };
  model.on(`change:${name}`, show);
  signal.addEventListener("abort", () => model.off(`change:${name}`, show));
  show();
  return group;
}

/**
 * Live numbers as text. Each entry is a label (a string or a node), the symbol
 * whose colour it takes, and a function that gives the present text.
 */
export function readouts(card, entries) {
  const list = html("dl");
  const cells = entries.map(([label, symbol, value]) => {
    const cell = html("dd", { class: "mv-value" });
    list.append(
      html("div", {}, html("dt", { class: symbol && `mv-${symbol}` }, label), cell),
    );
    return [cell, value];
  });
  card.readouts.append(list);
  const show = () => {
    for (const [cell, value] of cells) {
      const text = value();
      if (cell.textContent !== text) cell.textContent = text;
    }
  };
  card.onChange(show);
  show();
}
