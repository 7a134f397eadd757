"""A web server on the loopback that misbehaves as it is told."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Site:
    """What the server serves, and how.

    Attributes:
        content: What every address answers.
        breaks: After how many bytes the next answers break off.
        errors: The codes with which the next requests are refused.
        ranges: Whether it gives the rest of an answer alone.
        tag: The tag of the content; empty for none.
        requests: The requests so far: method, range.
    """

    content: bytes
    breaks: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    ranges: bool = True
    head: bool = True
    tag: str = '"one"'
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""


@contextmanager
def served(site: Site) -> Iterator[Site]:
    """Serve a site; its address is known inside the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            asked = self.headers["Range"]
            site.requests.append((self.command, asked))
            if not site.head and not body:
                self.send_error(405)
                return
            if body and site.errors:
                self.send_error(site.errors.pop(0))
                return
            start = 0
            same = self.headers["If-Range"] in (None, site.tag)
            if asked and site.ranges and same:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(site.content) - start))
            if site.tag:
                self.send_header("ETag", site.tag)
            self.end_headers()
            if body:
                end = start + site.breaks.pop(0) if site.breaks else None
                self.wfile.write(site.content[start:end])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler
