"""What GitHub answers to a request, and what that means; nothing here asks for anything."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_NEXT: Final = re.compile(r'<([^<>]*)>\s*;[^,<]*\brel="?next\b')
_SHOWN: Final = 200
# Timeout, too early, and what a server says when it is not at its best.
_TEMPORARY: Final = frozenset({408, 425, 500, 502, 503, 504, 520, 522, 524})
_LIMITED: Final = frozenset({403, 429})
_PORTS: Final = {"http": 80, "https": 443}
_ADVICE: Final = {
    401: "The token is not valid: set GITHUB_TOKEN to another one, or to none for public events.",
    404: "There is no such feed, or it is not for this token to see.",
    403: "This may not be read with this token, or not without one.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one request, or that there was none.

    Attributes:
        status: The HTTP status; 0 if there was no complete answer.
        events: What a page has, as `json.loads` returns it.
        problem: Why it is no page, for people; None if it is one, or an unchanged one.
        temporary: Whether trying again later may help against the problem.
        limited: Whether the problem is a rate limit.
        etag: What the page is known by, to ask whether it has changed.
        next_page: The address of the next page, or None if this is the last.
        poll_interval: How many seconds GitHub wants between polls, or None if it does not say.
        remaining: How many requests are left, or None if GitHub does not say.
        resets_in: In how many seconds there are all of them again.
        retry_after: How many seconds GitHub wants before the next request.
    """

    status: int
    events: tuple[object, ...] = ()
    problem: str | None = None
    temporary: bool = False
    limited: bool = False
    etag: str | None = None
    next_page: str | None = None
    poll_interval: int | None = None
    remaining: int | None = None
    resets_in: float | None = None
    retry_after: float | None = None

    @property
    def unchanged(self) -> bool:
        """Whether there is nothing that was not in the answer with the tag that was sent."""
        return self.status == 304


def no_answer(reason: object) -> Answer:
    """Return that there was no answer, or not all of it."""
    return Answer(status=0, problem=f"no answer: {_shown(str(reason))}", temporary=True)


def read_answer(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Answer:
    """Return what an answer means.

    Args:
        status: The HTTP status.
        headers: The headers, whose names are found in any case.
        body: All of the body.
        now: The time, for servers that do not tell theirs.
    """
    events = problem = None
    if status == 200:
        events, problem = _events(body)
    elif status != 304:
        problem = f"GitHub answers {status}{_message(body)}"
    remaining = _number(headers.get("X-RateLimit-Remaining"))
    limited = status == 429 or (
        status in _LIMITED
        and (remaining == 0 or "Retry-After" in headers or b"rate limit" in body.lower())
    )
    temporary = limited or status in _TEMPORARY or status == 200
    if problem and not temporary and status in _ADVICE:
        problem = f"{problem}. {_ADVICE[status]}"
    links = _NEXT.search(headers.get("Link", ""))
    # Waiting times are differences between times of one clock, GitHub's.
    now = _moment(headers.get("Date")) or now
    return Answer(
        status=status,
        events=tuple(events or ()),
        problem=problem,
        temporary=problem is not None and temporary,
        limited=limited,
        etag=_tag(headers.get("ETag")),
        next_page=links[1] if links else None,
        poll_interval=_number(headers.get("X-Poll-Interval")),
        remaining=remaining,
        resets_in=_until(headers.get("X-RateLimit-Reset"), now),
        retry_after=_after(headers.get("Retry-After"), now),
    )


def same_origin(one: str, other: str) -> bool:
    """Whether two addresses have the same scheme, host and port, however these are written.

    An address that cannot be read, or that names a user, has the origin of no other one: about
    where it leads, two readers may disagree.
    """
    origin = _origin(one)
    return origin is not None and origin == _origin(other)


def _origin(address: str) -> tuple[str, str, int | None] | None:
    try:
        parts = urlsplit(address)
        port = _PORTS.get(parts.scheme) if parts.port is None else parts.port
    except ValueError:
        return None
    if not parts.hostname or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname.lower(), port


def _events(body: bytes) -> tuple[list[object] | None, str | None]:
    # Not by msgspec: a text with half a surrogate pair spoils its event, not the whole page.
    try:
        events = json.loads(body)
    except (ValueError, RecursionError) as error:
        return None, f"the page is no JSON: {_shown(str(error))}"
    if not isinstance(events, list):
        return None, f"the page is no list of events: {_shown(repr(events))}"
    return events, None


def _message(body: bytes) -> str:
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    message = content.get("message") if isinstance(content, dict) else None
    return f": {_shown(message)}" if isinstance(message, str) else ""


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _tag(text: str | None) -> str | None:
    # It is sent back in a header, which not every text may stand in.
    return text if text and text.isascii() and text.isprintable() else None


def _number(text: str | None) -> int | None:
    usable = text is not None and text.isascii() and text.isdecimal() and len(text) < 16
    return int(text) if text is not None and usable else None


def _until(epoch: str | None, now: datetime) -> float | None:
    seconds = _number(epoch)
    return None if seconds is None else max(0.0, seconds - now.timestamp())


def _after(text: str | None, now: datetime) -> float | None:
    seconds = _number(text)
    if seconds is not None:
        return float(seconds)
    moment = _moment(text)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def _moment(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
