// Draws the book's plotly plates, in the colours of the page.
//
// A classic script, loaded after the page's own copy of plotly.js. A plate's
// JSON writes colours as var(--mv-NAME, #hex), which plotly cannot read: we
// resolve them, again whenever the page turns light or dark, and to the light
// values on paper. Nothing here asks the network for anything.

(() => {
  "use strict";

  const CONFIG = {
    displaylogo: false,
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    plotlyServerURL: "",
    responsive: false, // we watch a plate's own width, not the window's
    scrollZoom: false,
    showSendToCloud: false,
    topojsonURL: "",
  };
  const VARIABLE = /var\((--mv-\w+), (#[0-9a-f]{6})\)/g;
  const PAPER_WIDTH = 640; // fits A4 and Letter

  const plates = new Map(); // element of the plot -> its JSON as text
  const drawn = new Set();

  /** The figure's JSON with colours that plotly can read. */
  function resolve(text, paper) {
    const page = getComputedStyle(document.documentElement);
    const colour = (_, name, light) =>
      paper ? light : page.getPropertyValue(name).trim() || light;
    return JSON.parse(text.replace(VARIABLE, colour));
  }

  function draw(plot, paper = false) {
    const { data, layout } = resolve(plates.get(plot), paper);
    // Under a finger, dragging must scroll the page and not the picture.
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
    layout.width = plot.clientWidth;
    if (paper) layout.width = Math.min(layout.width, PAPER_WIDTH);
    layout.uirevision = "kept"; // what the reader zoomed stays zoomed
    Plotly.react(plot, data, layout, CONFIG);
    // The group's label says it; marks and ticks one by one would not.
    for (const picture of plot.querySelectorAll(".main-svg")) {
      picture.setAttribute("aria-hidden", "true");
    }
    plot.dataset.mounted = "true"; // hides the words for who sees no picture
    drawn.add(plot);
  }

  function start() {
    const near = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) {
          if (isIntersecting && !drawn.has(target)) draw(target);
        }
      },
      { rootMargin: "600px" },
    );
    const sized = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const width = target.clientWidth;
        if (drawn.has(target) && width && width !== target.layout.width) {
          Plotly.relayout(target, { width });
        }
      }
    });
    for (const figure of document.querySelectorAll("[data-plotly]")) {
      const plot = figure.querySelector(".mv-plot");
      const json = figure.querySelector("script[type='application/json']");
      plates.set(plot, json.textContent);
      near.observe(plot);
      sized.observe(plot);
    }

    new MutationObserver(() => drawn.forEach((plot) => draw(plot))).observe(
      document.documentElement,
      { attributeFilter: ["data-theme"] },
    );
    addEventListener("beforeprint", () => {
      for (const plot of plates.keys()) draw(plot, true);
    });
    addEventListener("afterprint", () => drawn.forEach((plot) => draw(plot)));
  }

  if (document.readyState === "loading") {
    addEventListener("DOMContentLoaded", start);
  } else {
    start();
  }
})();
