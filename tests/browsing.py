"""Headless Chromium for the tests, and a page to show an explorable on."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from mambaviz import theme
from mambaviz.widgets import modules

# No sandbox, because containers run as root; the rest keeps the browser from
# asking the network for anything of its own.
LAUNCH_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")
HOST = Path(modules.__file__).parents[1] / "book" / "static" / "host.js"


def find_chromium() -> str | None:
    """The browser's path: $CHROMIUM, or the first of NAMES that is there."""
    if wanted := os.environ.get("CHROMIUM"):
        return shutil.which(wanted)
    return next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def browser() -> Browser:
    """One headless Chromium for the session; every test opens its pages."""
    path = find_chromium()
    if path is None:
        wanted = os.environ.get("CHROMIUM")
        missing = (
            f"CHROMIUM={wanted} is no program" if wanted else "no Chromium"
        )
        advice = f"{missing}: get it with `apt-get install chromium`"
        # A green run in CI must mean that the browser tests ran.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(advice)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=path, args=LAUNCH_ARGUMENTS
        )
        yield running
        running.close()


def page_with(*explorables, mode: str = "light") -> str:
    """A page of its own that shows explorables as the book does."""
    used = dict.fromkeys(widget._module for widget in explorables)
    scripts = [
        HOST.read_text(encoding="utf-8"),
        *map(modules.classic, ["lib", *used]),
    ]
    head = "".join(f"<script>{script}</script>" for script in scripts)
    style = theme.css_variables() + modules.stylesheet()
    body = "".join(widget.static_html() for widget in explorables)
    return (
        f'<!doctype html><html data-theme="{mode}"><head>'
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{style}</style>{head}</head><body>{body}</body></html>"
    )
