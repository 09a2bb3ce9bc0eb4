// The static host: runs the explorables' modules in a page without a kernel.
//
// A classic script, so that it works when a reader double-clicks a file, and
// so that an explorable is drawn while the page is parsed, before the first
// paint. It gives a module the interface that anywidget gives it in Jupyter.

window.MambaViz ??= (() => {
  "use strict";
  const modules = {};

  /** The model of an explorable: its state, with anywidget's interface. */
  class Model {
    #state;
    #listeners = new Map();
    #saved;

    constructor(state, saved) {
      this.#state = state;
      this.#saved = saved;
    }

    get(name) {
      return this.#state[name];
    }

    set(name, value) {
      const changes = typeof name === "string" ? { [name]: value } : name;
      for (const [key, now] of Object.entries(changes)) {
        if (this.#state[key] === now) continue;
        this.#state[key] = now;
        this.#tell(`change:${key}`, now);
        this.#tell("change", now);
      }
    }

    save_changes() {
      this.#saved();
    }

    on(events, listener) {
      for (const event of events.split(" ")) {
        this.#listeners.set(event, [...(this.#listeners.get(event) ?? []), listener]);
      }
    }

    off(events, listener) {
      for (const event of events?.split(" ") ?? this.#listeners.keys()) {
        const left = (this.#listeners.get(event) ?? []).filter(
          (other) => listener && other !== listener,
        );
        this.#listeners.set(event, left);
      }
    }

    #tell(event, value) {
      for (const listener of this.#listeners.get(event) ?? []) listener(this, value);
    }
  }

  /** Take in a module; the library, named "lib", must come first. */
  function define(name, make) {
    modules[name] = make(modules.lib);
  }

  // What the address says of an explorable: #memory-decay?delta=0.1&A=-2
  function addressed(id, hash = location.hash) {
    const [anchor, query] = hash.slice(1).split("?");
    return anchor === id && query ? new URLSearchParams(query) : null;
  }

  function readAddress(id, knobs) {
    const values = {};
    const refusals = [];
    for (const [name, text] of addressed(id) ?? []) {
      const knob = Object.hasOwn(knobs, name) && knobs[name];
      if (!knob) {
        refusals.push(`The link names “${name}”, which is no knob here.`);
        continue;
      }
      const parse = modules.lib.parseNumber;
      const value = {
        choice: () => text,
        series: () => text.split(",").map(parse),
        quantity: () => (Number.isNaN(parse(text)) ? text : parse(text)),
      }[knob.kind]();
      const { value: fit, refusal } = modules.lib.accept(name, knob, value);
      if (refusal) refusals.push(`In the link: ${refusal}`);
      else values[name] = fit;
    }
    return { values, refusals };
  }

  function writeAddress(id, model) {
    const query = Object.keys(model.get("knobs"))
      .map((name) => `${name}=${encodeURIComponent(model.get(name))}`)
      .join("&");
    history.replaceState(history.state, "", `#${id}?${query}`);
    return location.href;
  }

  /** Draw the explorable whose JSON lies in `element`. */
  function mount(element) {
    const { explorable: name } = element.dataset;
    const state = JSON.parse(
      element.querySelector("script[type='application/json']").textContent,
    );
    const first = { ...state };
    const { values, refusals } = readAddress(element.id, state.knobs);
    let rest = 0;
    const model = new Model({ ...state, ...values }, () => {
      clearTimeout(rest);
      rest = setTimeout(() => writeAddress(element.id, model), 400);
    });
    const el = document.createElement("div");
    el.className = "mv-mounted";
    // The drawing measures its place, so it must stand in the page first.
    element.querySelector(".mv-fallback").hidden = true;
    element.append(el);
    try {
      modules[name].default.render({
        model,
        el,
        signal: new AbortController().signal,
        share: () => writeAddress(element.id, model),
        refusals,
        first,
      });
      element.model = model;
      element.dataset.mounted = "true";
    } catch (error) {
      el.remove();
      element.querySelector(".mv-fallback").hidden = false;
      throw error;
    }
    addEventListener("hashchange", () => {
      if (!addressed(element.id)) return;
      model.set(readAddress(element.id, state.knobs).values);
      element.scrollIntoView();
    });
    if (addressed(element.id)) {
      addEventListener("load", () => element.scrollIntoView());
    }
  }

  return { define, mount, modules };
})();
