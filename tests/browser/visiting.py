"""Open pages of the built book as a reader does, and note what they ask."""

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}


@dataclass
class Visit:
    """A page that was opened, with everything that went wrong on it."""

    page: Page
    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def complaints(self) -> list[str]:
        return (
            [f"asks the network: {url}" for url in self.outside]
            + [f"cannot load: {url}" for url in self.failed]
            + [f"console: {text}" for text in self.errors]
        )


@contextlib.contextmanager
def visit(
    browser: Browser, root: str, path: str, **options
) -> Iterator[Visit]:
    """Open ``root + path`` with everything outside ``root`` cut off.

    Args:
        browser: a running Chromium.
        root: the address of the book's folder, ending in a slash.
        path: the page, with what follows ``?`` and ``#``.
        options: for the browser's context, such as a viewport.
    """
    context = browser.new_context(**({"viewport": DESKTOP} | options))
    try:
        seen = Visit(context.new_page())
        _watch(context, seen, root)
        seen.page.goto(root + path, wait_until="load")
        settle(seen.page)
        yield seen
    finally:
        context.close()


def settle(page: Page) -> None:
    """Wait until the equations are set and two frames have been painted."""
    page.evaluate(
        """async () => {
            if (window.MathJax?.startup) await MathJax.startup.promise;
            for (let k = 0; k < 2; k++)
                await new Promise((ok) => requestAnimationFrame(ok));
        }"""
    )


def _watch(context: BrowserContext, seen: Visit, root: str) -> None:
    def decide(route):
        url = route.request.url
        if url.startswith((root, "data:", "blob:")):
            route.continue_()
        else:
            seen.outside.append(url)
            route.abort()

    def note_failure(request):
        if request.url not in seen.outside:
            seen.failed.append(f"{request.url} ({request.failure})")

    def note_answer(response):
        if response.status >= 400:
            seen.failed.append(f"{response.url} ({response.status})")

    def note_console(message):
        if message.type in ("error", "warning"):
            seen.errors.append(f"{message.type}: {message.text}")

    context.route("**/*", decide)
    page = seen.page
    page.on("requestfailed", note_failure)
    page.on("response", note_answer)
    page.on("console", note_console)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("websocket", lambda socket: seen.outside.append(socket.url))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder below ``/some/where/``, as a static host might."""

    prefix = "/some/where"

    def translate_path(self, path: str) -> str:
        if not path.startswith(self.prefix + "/"):
            return str(Path(self.directory) / "nothing here")
        return super().translate_path(path.removeprefix(self.prefix))

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; gives the address of its root."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{_Quiet.prefix}/"
        finally:
            server.shutdown()


def pages_of(book: Path) -> list[str]:
    """Every page of the built book, relative to its folder.

    A page that only sends the reader on to another one does not count.
    """
    return sorted(
        page.relative_to(book).as_posix()
        for page in book.rglob("*.html")
        if 'http-equiv="refresh"' not in page.read_text(encoding="utf-8")
    )
