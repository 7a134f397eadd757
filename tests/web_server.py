"""A web server on the loopback that misbehaves on demand."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal

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
        modified: When the content was modified; empty if that is not said.
        form: How the end of an answer shows: by its length, in chunks or by the connection's end.
        ranged: What to say of the part that is given alone, in place of the truth.
        honours_tags: Whether it minds which content the rest is asked of.
        requests: The requests so far: method, range.
        paths: What they asked for.
        authorizations: The users and passwords that came with them.
    """

    content: bytes
    breaks: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    ranges: bool = True
    head: bool = True
    tag: str = '"one"'
    modified: str = ""
    form: Literal["length", "chunks", "connection"] = "length"
    ranged: str = ""
    honours_tags: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    address: str = ""


@contextmanager
def served(site: Site) -> Iterator[Site]:
    """Serve a site; its address is known inside the block."""
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        asked = self.headers["Range"]
        self.site.requests.append((self.command, asked))
        self.site.paths.append(self.path)
        self.site.authorizations.append(self.headers["Authorization"])
        if not self.site.head and not body:
            self.send_error(405)
            return
        if body and self.site.errors:
            self.send_error(self.site.errors.pop(0))
            return
        start = 0
        same = self.headers["If-Range"] in (None, self.site.tag, self.site.modified)
        if asked and self.site.ranges and (same or not self.site.honours_tags):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        size = len(self.site.content)
        if start and start >= size:
            self.send_response(416)
            self.send_header("Content-Range", self.site.ranged or f"bytes */{size}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            ranged = self.site.ranged or f"bytes {start}-{size - 1}/{size}"
            self.send_header("Content-Range", ranged)
        self._send_headers(size - start, body=body)
        if body:
            self._send(self.site.content[start:])

    def _send_headers(self, size: int, *, body: bool) -> None:
        if self.site.form == "length" or not body:
            self.send_header("Content-Length", str(size))
        elif self.site.form == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
        if self.site.tag:
            self.send_header("ETag", self.site.tag)
        if self.site.modified:
            self.send_header("Last-Modified", self.site.modified)
        self.end_headers()

    def _send(self, content: bytes) -> None:
        end = self.site.breaks.pop(0) if self.site.breaks else None
        chunked = self.site.form == "chunks"
        if chunked:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(content[:end]), content[:end]))
        else:
            self.wfile.write(content[:end])
        if chunked and end is None:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
