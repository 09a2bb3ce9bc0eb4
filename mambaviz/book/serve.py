"""A small server for the built book, on this machine only.

Standard library only: ``make serve`` needs nothing installed.
"""

import argparse
import functools
import http.server
import sys
from pathlib import Path

FIRST_PORT = 8000
PORTS_TRIED = 50


class BookHandler(http.server.SimpleHTTPRequestHandler):
    """Files of one folder, with the book's own page where there is none."""

    # The types that some systems' tables get wrong.
    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
        ".json": "application/json",
        ".ipynb": "application/x-ipynb+json",
        ".woff2": "font/woff2",
        ".whl": "application/octet-stream",
    }

    def end_headers(self) -> None:
        """Ask browsers to look again, since the book may be rebuilt."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def send_error(self, code, message=None, explain=None) -> None:
        """Answer a missing page with the book's ``404.html``."""
        page = Path(self.directory, "404.html")
        if code != 404 or not page.is_file():
            super().send_error(code, message, explain)
            return
        body = page.read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args) -> None:
        """Keep the terminal quiet."""


def open_server(
    folder: Path, port: int | None = None
) -> http.server.ThreadingHTTPServer:
    """Bind a server for a folder to a port of 127.0.0.1.

    Args:
        folder: what to serve.
        port: the port; ``None`` for the first free one from 8000 on, and 0
            for any.

    Returns:
        The server, not yet answering: call ``serve_forever``.

    Raises:
        OSError: the port is taken, or all those tried are.

    Example:
        >>> server = open_server(Path("."), port=0)
        >>> server.server_address[0]
        '127.0.0.1'
        >>> server.server_close()
    """
    handler = functools.partial(BookHandler, directory=str(folder))
    ports = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED)
    taken = None
    for candidate in ports if port is None else [port]:
        try:
            return http.server.ThreadingHTTPServer(
                ("127.0.0.1", candidate), handler
            )
        except OSError as error:
            taken = error
    wanted = f"{ports[0]} to {ports[-1]}" if port is None else str(port)
    raise OSError(
        taken.errno,
        f"cannot listen on port {wanted} of 127.0.0.1 ({taken.strerror}); "
        "name another, as in `make serve PORT=9000`",
    )


def main(arguments: list[str]) -> int:
    """Serve until interrupted.

    Args:
        arguments: the folder and, if wanted, the port.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int, nargs="?")
    options = parser.parse_args(arguments)
    if not (options.folder / "index.html").is_file():
        print("There is no book yet: run `make book` first.", file=sys.stderr)
        return 1
    try:
        server = open_server(options.folder, options.port)
    except (OSError, OverflowError) as error:
        print(error, file=sys.stderr)
        return 1
    address, port = server.server_address[:2]
    print(f"The book is at http://{address}:{port}/ (Ctrl-C ends it).")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
