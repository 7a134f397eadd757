"""A server on the loopback that plays GitHub's events API, and misbehaves as it is told."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import select

from citus_analytics.github.models import github_events
from tests.event_data import api_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

Damage: TypeAlias = Literal["cut", "closed", "slow", "chunk"]
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def live_event(number: int, **changes: Any) -> dict[str, Any]:
    """Return an event; the higher the number, the later it happened."""
    moment = START + timedelta(seconds=number)
    changes.setdefault("created_at", moment.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return api_event(number, **changes)


def stored(engine: Engine) -> list[int]:
    """Return the numbers of the events in the database, each as often as it is there."""
    with engine.connect() as connection:
        ids = connection.execute(select(github_events.c.event_id)).scalars()
        return sorted((event_id or 0) - 1_000_000 for event_id in ids)


@dataclass
class Reply:
    """What a request gets instead of its page.

    Attributes:
        status: The status.
        headers: Headers, in addition to the usual ones.
        body: The body.
        damage: What happens to the answer on its way: it is cut, never begun, sent byte by byte,
            or cut between chunks. The page itself is damaged if there is no body.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    damage: Damage | None = None


def limited(status: int = 403, **headers: str) -> Reply:
    """Return a refusal because of a rate limit."""
    message = json.dumps({"message": "You have exceeded a secondary rate limit."}).encode()
    return Reply(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, message
    )


@dataclass
class GitHub:
    """The feed, and what was asked of it.

    Attributes:
        events: The events, the newest first. GitHub offers the first 300.
        page_size: How many events a page has at most.
        interval: X-Poll-Interval; None for no such header.
        headers: Further headers of every answer.
        replies: What the next requests get; None for what they ask for.
        before: Called before each answer with the number of the page.
        requests: The path and the headers of each request so far, and the status it got.
    """

    events: list[dict[str, Any]] = field(default_factory=list)
    page_size: int = 100
    interval: int | None = 0
    headers: dict[str, str] = field(default_factory=dict)
    replies: list[Reply | None] = field(default_factory=list)
    before: Callable[[int], object] = lambda _: None
    requests: list[tuple[str, dict[str, str], int]] = field(default_factory=list)
    address: str = ""

    def happen(self, *numbers: int) -> None:
        """Let events happen, in this order."""
        self.events[:0] = [live_event(number) for number in reversed(numbers)]

    @property
    def statuses(self) -> list[int]:
        """What the requests got."""
        return [status for _, _, status in self.requests]


@contextmanager
def playing(github: GitHub) -> Iterator[GitHub]:
    """Serve a feed; its address is known inside the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"github": github}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    github.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield github
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    github: GitHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        page = int(parse_qs(urlsplit(self.path).query).get("page", ["1"])[0])
        self.github.before(page)
        special = self.github.replies.pop(0) if self.github.replies else None
        reply = self._page(page)
        if special is not None:
            body = reply.body if special.body is None else special.body
            headers = {**reply.headers, **special.headers}
            reply = Reply(special.status, headers, body, special.damage)
        asked = {name.lower(): value for name, value in self.headers.items()}
        self.github.requests.append((self.path, asked, reply.status))
        self._send(reply)

    def _page(self, page: int) -> Reply:
        offered = self.github.events[:300]
        start = (page - 1) * self.github.page_size
        body = json.dumps(offered[start : start + self.github.page_size]).encode()
        headers = {"ETag": f'W/"{hashlib.sha256(body).hexdigest()}"', **self.github.headers}
        if self.github.interval is not None:
            headers["X-Poll-Interval"] = str(self.github.interval)
        if start + self.github.page_size < len(offered):
            path = urlsplit(self.path).path
            address = f"{self.github.address}{path}?per_page=100&page="
            headers["Link"] = f'<{address}{page + 1}>; rel="next", <{address}9>; rel="last"'
        if self.headers["If-None-Match"] == headers["ETag"]:
            return Reply(304, headers, b"")
        return Reply(200, headers, body)

    def _send(self, reply: Reply) -> None:
        body = reply.body or b""
        self.close_connection = reply.damage is not None
        if reply.damage == "closed":
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.damage == "chunk":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))
            return
        if reply.status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._send_body(body, reply.damage)

    def _send_body(self, body: bytes, damage: Damage | None) -> None:
        if damage == "slow":
            try:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.02)
            except OSError:
                # The client has had enough.
                return
        self.wfile.write(body[: len(body) // 2] if damage == "cut" else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
