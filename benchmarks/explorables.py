"""How fast the explorables answer, in headless Chromium on this machine.

For each slider of each explorable of the built book: how long the handler of
an input and the drawing after it take together (95th percentile), and in how
many frames the change is painted. For each page: when its first explorable
was drawn, counted from the moment the page was parsed, and what its own files
weigh. Before anything is timed, every pure function of every module is
compared, in the page itself, with the golden values that Python computed.

Run from the repository's root after ``make book``:

    python -m benchmarks.explorables

It writes the record ``explorable_latency``.
"""

import gzip
import json
import statistics
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from mambaviz.records.store import write_record
from tests.browser.visiting import DESKTOP, served
from tests.browsing import LAUNCH_ARGUMENTS, find_chromium

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "_build" / "html"
GOLDEN = ROOT / "tests" / "fixtures" / "golden.json"
PAGES = ("index.html", "chapters/zero-order-hold.html")
INPUTS = 200
LOADS = 15

# Moves one slider INPUTS times. What an input costs is the time inside its
# event and inside the callback that it asked for in the next frame.
DRIVE = """async ([box, trait, inputs]) => {
  const root = document.querySelector("#" + box);
  const slider = root.querySelector(`[type=range][data-trait="${trait}"]`);
  const [low, high] = [Number(slider.min), Number(slider.max)];
  const ask = window.requestAnimationFrame;
  const costs = [], frames = [];
  for (let k = 0; k < inputs; k++) {
    let work = 0;
    window.requestAnimationFrame = (callback) => ask((now) => {
      const start = performance.now();
      callback(now);
      work += performance.now() - start;
    });
    const drawing = () => root.querySelector("svg.mv-picture").innerHTML;
    const before = drawing();
    // A walk that visits the range unevenly and never stays where it is.
    const share = (k * 0.618034) % 1;
    const start = performance.now();
    slider.value = Math.round(low + share * (high - low));
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    work += performance.now() - start;
    window.requestAnimationFrame = ask;
    let count = 0;
    while (drawing() === before && count < 9) {
      await new Promise((ok) => ask(ok));
      count += 1;
    }
    costs.push(work);
    frames.push(count);
    await new Promise((ok) => ask(ok));
  }
  return { costs, frames };
}"""

COMPARE = """(golden) => {
  let worst = 0;
  const compare = (ours, theirs, name) => {
    if (theirs !== null && typeof theirs === "object") {
      for (const key of Object.keys(theirs))
        compare(ours[key], theirs[key], name);
    } else if (ours !== theirs) {
      const error = Math.abs(ours - theirs);
      if (!(error <= 1e-9 * Math.abs(theirs)))
        throw new Error(`${name}: ${ours} where Python has ${theirs}`);
      worst = Math.max(worst, error);
    }
  };
  for (const [module, functions] of Object.entries(golden)) {
    const code = MambaViz.modules[module];
    if (!code) continue;
    for (const [name, cases] of Object.entries(functions))
      for (const { args, value } of cases)
        compare(code[name](...args), value, `${module}.${name}`);
  }
  return worst;
}"""

WATCH_FIRST_DRAWING = """
new MutationObserver((_, observer) => {
  if (!document.querySelector("svg.mv-picture[aria-label]")) return;
  window.firstDrawing = performance.now();
  observer.disconnect();
}).observe(document, { subtree: true, childList: true, attributes: true,
                       attributeFilter: ["aria-label"] });
"""


def percentile(values: list[float], share: float) -> float:
    """The smallest value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def time_sliders(page: Page) -> list[list]:
    """One row per slider of the page that stands open."""
    sliders = page.locator("[data-explorable] input[type=range]")
    rows = []
    for k in range(sliders.count()):
        slider = sliders.nth(k)
        box = slider.evaluate("e => e.closest('[data-explorable]').id")
        trait = slider.get_attribute("data-trait")
        slider.scroll_into_view_if_needed()
        seen = page.evaluate(DRIVE, [box, trait, INPUTS])
        rows.append(
            [
                f"{box}: {trait}",
                round(statistics.median(seen["costs"]), 2),
                round(percentile(seen["costs"], 0.95), 2),
                max(seen["frames"]),
                None,
                None,
            ]
        )
    return rows


def time_loading(browser: Browser, url: str) -> float:
    """Median time from parsed to drawn, below zero if drawn before."""
    times = []
    for _ in range(LOADS):
        context = browser.new_context(viewport=DESKTOP)
        context.add_init_script(WATCH_FIRST_DRAWING)
        page = context.new_page()
        page.goto(url, wait_until="load")
        times.append(
            page.evaluate(
                "firstDrawing - performance.getEntriesByType('navigation')"
                "[0].domInteractive"
            )
        )
        context.close()
    return statistics.median(times)


def own_kilobytes(page: Page, root: str) -> float:
    """What a page loads of ours, compressed: not the theme, not vendors."""
    names = page.evaluate(
        "() => performance.getEntriesByType('resource').map((e) => e.name)"
    )
    ours = {url for url in names if "_static/mambaviz/" in url} | {page.url}
    total = 0
    for url in ours:
        path = BOOK / url.removeprefix(root).split("#")[0].split("?")[0]
        total += len(gzip.compress(path.read_bytes(), 9))
    return total / 1000


def main() -> int:
    """Check, measure, print and write the record."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    rows, worst = [], 0.0
    with sync_playwright() as playwright, served(BOOK) as root:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=LAUNCH_ARGUMENTS
        )
        for path in PAGES:
            page = browser.new_page(viewport=DESKTOP)
            page.goto(root + path, wait_until="load")
            worst = max(worst, page.evaluate(COMPARE, golden))
            size = own_kilobytes(page, root)
            if path == PAGES[-1]:
                rows += time_sliders(page)
            page.close()
            first = time_loading(browser, root + path)
            rows.append(
                [path, None, None, None, round(first, 1), round(size, 1)]
            )
        version = browser.version
        browser.close()
    columns = [
        "what",
        "input_and_drawing_median_ms",
        "input_and_drawing_p95_ms",
        "painted_after_frames",
        "first_drawing_after_parsed_ms",
        "own_files_gzip_kb",
    ]
    print("  ".join(columns))
    for row in rows:
        print("  ".join("-" if v is None else str(v) for v in row))
    path = write_record(
        "explorable_latency",
        command="python -m benchmarks.explorables",
        columns=columns,
        rows=rows,
        repeats=INPUTS,
        statistic=(
            f"median and 95th percentile of {INPUTS} inputs per slider;"
            f" median of {LOADS} loads per page"
        ),
        checked_against="mambaviz.theory, by the golden values, 1e-9 relative",
        max_abs_error=worst,
        software={"chromium": version},
        config={"viewport": DESKTOP},
    )
    print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
