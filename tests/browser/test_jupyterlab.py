"""The chapter in a real JupyterLab: page and Python move each other."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from jupyter_client import BlockingKernelClient

from mambaviz import widgets
from mambaviz.book import notebooks

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
EVERY = """\
from mambaviz import widgets
shown = {name: getattr(widgets, name)() for name in widgets.__all__}
display(*shown.values())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own on copies of the chapters."""
    home = tmp_path_factory.mktemp("lab")
    for name in ("chapters", "mambaviz", "_config.yml"):
        (home / name).symlink_to(ROOT / name)
    folder = home / "lab"
    notebooks.write_lab(home)
    every = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(EVERY)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python"}},
    )
    nbformat.write(every, folder / "every.ipynb")
    port = free_port()
    settings = {
        f"JUPYTER_{kind}_DIR": str(home / "jupyter" / kind.lower())
        for kind in ("CONFIG", "DATA", "RUNTIME")
    }
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=",
            f"--ServerApp.root_dir={folder}",
        ],
        env={**os.environ, **settings, "IPYTHONDIR": str(home / "ipython")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        address = f"http://127.0.0.1:{port}/"
        try:
            wait_until_it_answers(address + "api", server)
            yield address, home / "jupyter" / "runtime"
        finally:
            server.terminate()


def wait_until_it_answers(url: str, server: subprocess.Popen) -> None:
    for _ in range(240):
        if server.poll() is not None:
            pytest.fail(f"JupyterLab ended: {server.stdout.read()[-2000:]}")
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(url, timeout=5),
        ):
            return
        time.sleep(0.25)
    pytest.fail("JupyterLab did not answer within a minute")


class Kernel:
    """A second client of a notebook's own kernel."""

    def __init__(self, address: str, runtime: Path, notebook: str):
        with urllib.request.urlopen(address + "api/sessions") as answer:
            kernels = {
                session["path"]: session["kernel"]["id"]
                for session in json.load(answer)
            }
        self.client = BlockingKernelClient(
            connection_file=str(runtime / f"kernel-{kernels[notebook]}.json")
        )
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def __call__(self, code: str) -> str:
        said = []

        def listen(message):
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])

        reply = self.client.execute_interactive(
            code, output_hook=listen, timeout=60
        )
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(said).strip()


def run_all(page, address: str, runtime: Path, notebook: str) -> Kernel:
    """Open a notebook and run all its cells."""
    page.goto(f"{address}lab/tree/{notebook}?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
    refuse_offers(page)
    page.wait_for_selector('[data-status="idle"], .jp-Notebook')
    page.locator(".jp-Notebook").click(position={"x": 5, "y": 5})
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    return Kernel(address, runtime, notebook)


def test_page_and_python_move_each_other(browser, lab):
    address, runtime = lab
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    try:
        kernel = run_all(page, address, runtime, "zero-order-hold.ipynb")
        # Asked after "run all", so answered when all cells have run.
        assert kernel("print(round(memory.delta, 3), memory.A)") == "0.1 -1.0"

        show_explorable(page, "states")  # only MemoryDecay has several
        card = page.locator(".mv-card", has_text="How long does a state")
        slider = card.locator("input[type=range][data-trait=delta]")
        slider.wait_for(timeout=60_000)
        picture = card.locator("svg.mv-picture")

        # The page moves Python; the arrow keys are the slider's, not Lab's.
        before = picture.inner_html()
        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
        # The last of five messages too, or it would undo what Python sets.
        field = card.locator("input[data-field=delta]")
        eventually(
            lambda: kernel("print(memory.delta)") == field.input_value()
        )
        assert 0.05 < float(field.input_value()) < 0.1
        assert picture.inner_html() != before

        # Python moves the page.
        before = picture.inner_html()
        kernel("memory.delta = 0.5")
        page.wait_for_function(
            "card => card.querySelector('[data-field=delta]').value === '0.5'",
            arg=card.element_handle(),
        )
        page.wait_for_function(
            "([svg, before]) => svg.innerHTML !== before",
            arg=[picture.element_handle(), before],
        )

        # Nonsense is refused on both sides, and nothing moves.
        field.fill("-2")
        field.press("Tab")
        assert "Δ must be" in card.locator(".mv-error").inner_text()
        refused = kernel(
            "try:\n    memory.delta = -2\n"
            "except Exception as error:\n    print(error)"
        )
        assert "you gave -2" in refused
        assert kernel("print(memory.delta)") == "0.5"

        outside = [
            url
            for url in asked
            if not url.startswith((address, "data:", "blob:", "ws://127."))
        ]
        assert outside == []
    finally:
        page.close()


def test_every_explorable_draws_and_moves_in_the_lab(browser, lab):
    address, runtime = lab
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        kernel = run_all(page, address, runtime, "every.ipynb")
        kinds = kernel("print(*shown)").split()
        assert kinds == widgets.__all__
        cards = page.locator(".jp-OutputArea .mv-card")
        cards.nth(len(kinds) - 1).wait_for(timeout=60_000)
        assert cards.count() == len(kinds)
        for n, name in enumerate(kinds):
            card = cards.nth(n)
            card.scroll_into_view_if_needed()
            question = card.locator(".mv-question").inner_text()
            assert question == getattr(widgets, name).question
            picture = card.locator("svg.mv-picture").first
            assert picture.bounding_box()["height"] > 80, name

            # The page moves Python.
            slider = card.locator("input[type=range]").first
            trait = slider.get_attribute("data-trait")
            now = f"print(shown[{name!r}].{trait})"
            before = kernel(now)
            drawn = picture.inner_html()
            at = slider.input_value()
            slider.focus()
            slider.press("ArrowLeft")
            if slider.input_value() == at:  # it stood at its lower end
                slider.press("ArrowRight")
            eventually(lambda now=now, old=before: kernel(now) != old)
            page.wait_for_function(
                "([svg, drawn]) => svg.innerHTML !== drawn",
                arg=[picture.element_handle(), drawn],
            )

            # Python moves the page, back to where it was.
            kernel(f"shown[{name!r}].{trait} = {before}")
            page.wait_for_function(
                "([slider, at]) => slider.value === at",
                arg=[slider.element_handle(), at],
            )
        assert errors == []
    finally:
        page.close()


def eventually(holds) -> None:
    """Wait for what has to travel from the page to the kernel."""
    for _ in range(50):
        if holds():
            return
        time.sleep(0.2)
    pytest.fail("the change did not arrive within ten seconds")


def refuse_offers(page) -> None:
    """Close what a first start of JupyterLab asks."""
    for name in ("No", "Dismiss", "Select"):
        button = page.get_by_role("button", name=name, exact=True)
        with contextlib.suppress(Exception):
            button.first.click(timeout=1500)


def show_explorable(page, trait: str) -> None:
    """Scroll to the card with this slider, as Lab draws cells lazily."""
    page.evaluate(
        """async (trait) => {
          const wait = (ms) => new Promise((ok) => setTimeout(ok, ms));
          const view = document.querySelector(".jp-WindowedPanel-outer");
          for (let top = 0; top < view.scrollHeight; top += 300) {
            view.scrollTop = top;
            await wait(120);
            const name = `input[data-trait="${trait}"]`;
            const slider = document.querySelector(name);
            slider?.scrollIntoView({ block: "center" });
            if (slider) return;
          }
        }""",
        trait,
    )
