"""GitHub's events API followed live: each event once, whatever breaks on the way.

    for poll in follow(engine, Feed(repo="citusdata/citus"), wait=stop.wait):
        print(poll.new, poll.lag, poll.gap)

A poll asks for all pages of a feed and stores the events that are new, together with how far the
feed has been read (`followed_feeds`), in one transaction. Killed at any time and started again, it
continues from there: events that are offered again are left out, and events that GitHub no longer
offers are reported as a gap.

Definitions: GitHub's documentation, "REST API endpoints for events" (at most 300 events, ETag,
X-Poll-Interval) and "Rate limits for the REST API" (how long to wait after which refusal).
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from citus_analytics.errors import ArgumentError, CitusAnalyticsError, LoadError
from citus_analytics.github.events import EventRow, Reject
from citus_analytics.github.load import LoadOptions, RejectCallback, load_outcomes
from citus_analytics.github.models import followed_feeds
from citus_analytics.github.store import connected, set_local, transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import httpx
    from sqlalchemy import Connection, Engine

    Wait: TypeAlias = Callable[[float], bool]
    Shield: TypeAlias = Callable[[], AbstractContextManager[object]]

__all__ = ["GITHUB", "Feed", "FollowOptions", "Gap", "Poll", "follow"]

GITHUB: Final = "https://api.github.com"
"""The API of github.com."""

USUAL_INTERVAL: Final = 60
"""What GitHub's X-Poll-Interval usually says, in seconds; for servers that do not send it."""

LONGEST_WAIT: Final = 6 * 3600.0
"""The longest wait, in seconds, that a server is granted: GitHub resets its limits every hour."""

_LOG: Final = logging.getLogger(__name__)
_YEAR: Final = 366 * 86400.0

# A hundred events are a few hundred kilobytes.
_LARGEST_PAGE: Final = 1 << 26
# GitHub has three pages. Other servers may have more, and one that links to itself has to end.
_MOST_PAGES: Final = 30
# What GitHub offers at most. It counts events before it leaves some of them out, so that three
# pages of a hundred may have fewer.
_FULL_PAGES: Final = 3
_FULL_EVENTS: Final = 300
# As many as the largest poll can have.
_MOST_REPORTED: Final = 100 * _MOST_PAGES

# Timeout, too early, and the failures of a server or of what stands before it.
_TEMPORARY: Final = frozenset({408, 425, 500, 502, 503, 504, 520, 522, 524})
_ADVICE: Final = {
    401: "The token is not valid: set GITHUB_TOKEN to another one, or unset it for public events",
    403: "This token may not read the feed, or it needs one",
    404: "The feed does not exist, or this token may not see it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The events of a repository, an organization or a user; without any, all public events.

    Attributes:
        repo: A repository, as owner/name.
        org: The name of an organization.
        user: The login of a user: what this user did.
        api: The address of the API; for GitHub Enterprise Server, https://HOSTNAME/api/v3.

    Raises:
        ArgumentError: More than one of them is given, or a name or the address is malformed.
    """

    repo: str | None = None
    org: str | None = None
    user: str | None = None
    api: str = GITHUB

    def __post_init__(self) -> None:
        given = {"repo": self.repo, "org": self.org, "user": self.user}
        names = {kind: name for kind, name in given.items() if name is not None}
        if len(names) > 1:
            raise ArgumentError(
                f"{' and '.join(names)} are given: a feed has the events of one repository, one "
                "organization or one user"
            )
        for kind, name in names.items():
            form = "owner/name" if kind == "repo" else "a name"
            parts = name.split("/")
            if len(parts) != form.count("/") + 1 or not all(
                re.fullmatch(r"(?!\.\.?$)[A-Za-z0-9_.-]+", part) for part in parts
            ):
                raise ArgumentError(f"{kind} must be {form} as GitHub allows it, not {name!r}")
        try:
            parsed = urlsplit(self.api)
            # Reading the port raises ValueError if it is not a number.
            valid = parsed.scheme in ("http", "https") and parsed.hostname and parsed.port != 0
        except ValueError:
            valid = False
        if not valid or re.search(r"[@?#\s]", self.api) or not self.api.isprintable():
            raise ArgumentError(
                f"{self.api!r} is not the address of an API; write it like {GITHUB} or, for GitHub "
                "Enterprise Server, https://HOSTNAME/api/v3"
            )

    @property
    def address(self) -> str:
        """The address of the feed."""
        path = "events"
        for kind, name in (("repos", self.repo), ("orgs", self.org), ("users", self.user)):
            if name is not None:
                path = f"{kind}/{name}/events"
        return f"{self.api.rstrip('/')}/{path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowOptions:
    """How a feed is followed.

    Attributes:
        token: A GitHub token; without one, GitHub answers 60 requests an hour instead of 5,000. It
            is sent to the server of the feed alone, and never shown.
        interval: The least number of seconds between polls, failed ones included; at most a year.
            GitHub's own X-Poll-Interval is honoured in any case.
        max_polls: After how many polls to end, failed ones not counted; None for never.
        max_failures: After how many failed polls in a row to give up; None for never.
        timeout: How many seconds a response may take.
        rejects: Called with each event that cannot be stored, after the transaction, and not again
            while further polls of the same call of `follow` have it too: a new call reports those
            that GitHub still offers once more. Its line is its number in the poll.

    Raises:
        ArgumentError: A number is out of range, or the token cannot be sent in a header.
    """

    token: str | None = field(default=None, repr=False)
    interval: float = 0.0
    max_polls: int | None = None
    max_failures: int | None = None
    timeout: float = 30.0
    rejects: RejectCallback | None = None

    def __post_init__(self) -> None:
        if self.token == "":
            raise ArgumentError("the GitHub token is empty: leave it out")
        # The message does not show it.
        if self.token is not None and not re.fullmatch(r"[!-~]([ -~]*[!-~])?", self.token):
            raise ArgumentError(
                "the GitHub token begins or ends with a space, or has characters that are not ASCII"
            )
        for name, least in (("interval", 0), ("max_polls", 1), ("max_failures", 1)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ArgumentError(f"{name} must be at least {least}, not {value}")
        if self.interval > _YEAR:
            raise ArgumentError(
                f"interval must be at most a year, {_YEAR:.0f} seconds, not {self.interval}"
            )
        if not self.timeout > 0:
            raise ArgumentError(f"timeout must be more than 0 seconds, not {self.timeout}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Events may have been missed: a poll has none in common with the one before.

    If the poll before had no event that can be stored, none can be in common. Then it is a gap if
    the poll has as many events as GitHub offers, and all of them are newer than those of the polls
    before.

    Attributes:
        since: When the newest event of the polls before happened.
        until: When the oldest event of this poll happened that is newer than that.
    """

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """The result of a poll.

    Attributes:
        at: When it was made, in UTC.
        outcome: "loaded"; "unchanged", if GitHub says that there is nothing new; or "failed", if
            there was no first page, and nothing was loaded.
        pages: How many pages were read.
        new: Events that were stored.
        known: Events that were there already.
        rejected: Events that cannot be stored, without those that were reported by an earlier poll
            of the same call of `follow`.
        newest: When the newest of these events happened; None without any.
        gap: What may have been missed since the poll before; None if nothing.
        problem: Why the first page, or a page after those that were loaded, could not be read; None
            if all were.
        remaining: How many requests GitHub's rate limit leaves; None if it does not say.
        next_in: How many seconds later the next poll is due.
    """

    at: datetime
    outcome: Literal["loaded", "unchanged", "failed"]
    pages: int = 0
    new: int = 0
    known: int = 0
    rejected: int = 0
    newest: datetime | None = None
    gap: Gap | None = None
    problem: str | None = None
    remaining: int | None = None
    next_in: float = 0.0

    @property
    def lag(self) -> timedelta | None:
        """How old the newest event was."""
        return None if self.newest is None else self.at - self.newest


def follow(
    engine: Engine,
    feed: Feed,
    *,
    options: FollowOptions | None = None,
    wait: Wait | None = None,
    shield: Shield = nullcontext,
) -> Iterator[Poll]:
    """Poll a feed forever, store its events in `github_events`, and yield the result of each poll.

    A poll is one transaction, committed before it is yielded: events, users, and how far the feed
    has been read. An event that is there already, from whatever source, is left out (see
    `LoadOptions.unique`). A `Gap` is also logged as a warning.

    A failure that may pass is yielded as a failed poll, and tried again later. Where a further page
    cannot be read, those before it are loaded. When the next poll is due, after a poll or a
    failure, is kept in the database too: the next call waits for the rest of it. So is the number
    of failures in a row, by which pauses double.

    Args:
        engine: An engine on the driver psycopg 3.
        feed: What to follow, in a database after migration ca_0006.
        options: How to follow it.
        wait: Called to wait for so many seconds; returns whether to end instead of polling, as the
            `wait` of a `threading.Event` does. By default, `time.sleep`.
        shield: Entered around each transaction, for callers who hold signals back.

    Raises:
        LoadError: GitHub refuses for good (a wrong token, no such feed), too many polls have
            failed, or httpx is not installed. What is loaded stays, and the next call continues
            from there.
        sqlalchemy.exc.DBAPIError: The database fails. The same holds.
    """
    options = options or FollowOptions()
    wait = _sleep if wait is None else wait
    address = feed.address
    reported: dict[bytes, None] = {}
    # `failures` goes on where the call before has ended, `failed` is what this one gives up after.
    polls = failed = 0
    with http_client(options) as client:
        with connected(engine) as connection:
            # The driver reads no times under another one.
            set_local(connection, "DateStyle", "ISO")
            position, rest, failures = _read_position(connection, address)
        # Even if the clock was set back, no wait is longer than it can have been.
        due = time.monotonic() + min(rest, max(LONGEST_WAIT, options.interval))
        while polls != options.max_polls:
            if wait(max(0.0, due - time.monotonic())):
                return
            request = partial(get_page, client, timeout=options.timeout)
            fetched = fetch(request, address, position.etag)
            last = fetched.last
            if last.problem is None:
                polls, failed, failures = polls + 1, 0, 0
            else:
                failed, failures = failed + 1, failures + 1
            pause = delay(
                fetched,
                failures=failures,
                jitter=random.random(),  # noqa: S311 - nothing secret
                interval=options.interval,
            )
            due = time.monotonic() + pause
            poll = Poll(
                at=datetime.now(UTC),
                outcome="unchanged" if last.unchanged else "loaded" if fetched.pages else "failed",
                pages=fetched.pages,
                newest=fetched.newest,
                gap=gap_before(position, fetched),
                problem=last.problem,
                remaining=last.remaining,
                next_in=round(pause, 3),
            )
            next_poll = poll.at + timedelta(seconds=pause)
            if poll.outcome != "failed":
                position = advanced(position, fetched)
                rejects: list[Reject] = []
                with shield(), transaction(engine) as connection:
                    new, known = _store(connection, fetched, rejects)
                    _note(connection, address, next_poll, failures, position=position)
                complete = last.problem is None and not last.unchanged
                rejects = unreported(reported, rejects, complete=complete)
                poll = replace(poll, new=new, known=known, rejected=len(rejects))
                if options.rejects is not None:
                    for reject in rejects:
                        options.rejects(reject)
            else:
                with shield(), transaction(engine) as connection:
                    asked = last.limited or last.retry_after is not None
                    _note(connection, address, next_poll, failures, at_least=not asked)
            _log(address, poll)
            yield poll
            if last.problem is None:
                continue
            problem = f"{address}: {last.problem.rstrip('.')}."
            if not last.temporary:
                raise LoadError(f"{problem} What was loaded before stays.")
            if failed == options.max_failures:
                raise LoadError(
                    f"{problem} That was failure {failed} in a row. What was loaded before "
                    "stays; try again later, and it continues from there."
                )


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _log(address: str, poll: Poll) -> None:
    if poll.problem is not None:
        _LOG.warning("%s: %s", address, poll.problem)
    if poll.gap is not None:
        _LOG.warning(
            "%s: events may have been missed from %s to %s: GitHub no longer offers any that the "
            "poll before had",
            address,
            poll.gap.since.isoformat(),
            poll.gap.until.isoformat(),
        )


# One page: the request, and what GitHub's response means.


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The response to the request for a page, or why there was none.

    Attributes:
        status: The HTTP status; 0 if there was no complete response.
        events: The events of the page, as `json.loads` returns them.
        problem: Why it is not a page, for people; None if it is one, or an unchanged one.
        temporary: Whether trying again later may help against the problem.
        limited: Whether the problem is a rate limit.
        etag: The page's tag, with which to ask whether it has changed.
        next_page: The address of the next page, or None if this is the last.
        poll_interval: How many seconds GitHub wants between polls, or None if it does not say.
        remaining: How many requests are left, or None if GitHub does not say.
        resets_in: In how many seconds there are all of them again.
        retry_after: How many seconds GitHub wants before the next request.
    """

    status: int
    events: tuple[Any, ...] = ()
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
        """Whether the page is the one whose tag was sent."""
        return self.status == 304


def http_client(options: FollowOptions) -> httpx.Client:
    """Return a client for GitHub's API, to be closed.

    It follows redirects, such as those of a renamed repository; httpx drops the header that has
    the token when a redirect leads to another server.

    Raises:
        LoadError: httpx is not installed.
    """
    try:
        import httpx
    except ImportError as error:
        raise LoadError(
            "following GitHub's events needs the package httpx, which is not installed: install "
            "citus_analytics[github]"
        ) from error
    headers = {
        "User-Agent": "citus_analytics",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    if options.token is not None:
        headers["Authorization"] = f"Bearer {options.token}"
    return httpx.Client(headers=headers, timeout=options.timeout, follow_redirects=True)


def get_page(client: httpx.Client, url: str, etag: str | None, *, timeout: float) -> Response:
    """Ask for a page, and return the response; a failure is one, too, and is not raised.

    Args:
        client: The client.
        url: The address of the page.
        etag: The tag of an earlier response, to find out whether the page has changed.
        timeout: How many seconds the response may take.
    """
    import httpx

    deadline = time.monotonic() + timeout
    body = bytearray()
    try:
        with client.stream("GET", url, headers={"If-None-Match": etag} if etag else {}) as response:
            for block in response.iter_bytes():
                body += block
                # The client's own timeout starts anew with every byte.
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("it takes too long")
                if len(body) > _LARGEST_PAGE:
                    raise httpx.ReadError(f"it is longer than {_LARGEST_PAGE:,} bytes")
            return read_response(response, bytes(body))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = _shortened(str(error) or repr(error))
        return Response(status=0, problem=f"no complete response: {reason}", temporary=True)


def read_response(response: httpx.Response, body: bytes) -> Response:
    """Return what a response with this body means."""
    status, headers = response.status_code, response.headers
    problem = None
    try:
        # Not msgspec: text with half a surrogate pair is to spoil its event, not the whole page.
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        content, flaw = None, f"the page is not JSON: {_shortened(str(error))}"
    else:
        flaw = f"the page is not a list of events: {_shortened(body.decode(errors='replace'))}"
    if status == 200:
        problem = None if isinstance(content, list) else flaw
    elif status != 304:
        message = content.get("message") if isinstance(content, dict) else None
        problem = f"GitHub answered {status}"
        problem += f": {_shortened(message)}" if isinstance(message, str) else ""
    remaining = _integer(headers.get("X-RateLimit-Remaining"))
    limited = status == 429 or (
        status == 403
        and (remaining == 0 or "Retry-After" in headers or b"rate limit" in body.lower())
    )
    temporary = problem is not None and (limited or status in _TEMPORARY or status == 200)
    if problem and not temporary and status in _ADVICE:
        problem = f"{problem}. {_ADVICE[status]}"
    # Waits are differences between times of one clock, GitHub's.
    now = _date(headers.get("Date")) or datetime.now(UTC)
    resets_at = _integer(headers.get("X-RateLimit-Reset"))
    retry_after: float | None = _integer(headers.get("Retry-After"))
    if retry_after is None and (retry_at := _date(headers.get("Retry-After"))):
        retry_after = max(0.0, (retry_at - now).total_seconds())
    # A tag is sent back in a header, where not all text is allowed.
    etag = headers.get("ETag", "")
    return Response(
        status=status,
        events=tuple(content) if status == 200 and isinstance(content, list) else (),
        problem=problem,
        temporary=temporary,
        limited=limited,
        etag=etag if etag and etag.isascii() and etag.isprintable() else None,
        next_page=response.links.get("next", {}).get("url"),
        poll_interval=_integer(headers.get("X-Poll-Interval")),
        remaining=remaining,
        resets_in=None if resets_at is None else max(0.0, resets_at - now.timestamp()),
        retry_after=retry_after,
    )


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _integer(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch("[0-9]{1,15}", text) else None


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


# One poll: the pages of a feed, and what joins them to the poll before. Polls are joined by events
# that both have, and by nothing else: ids are not in the order of time, and GitHub does not promise
# that pages are.


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """The pages of a feed, in order, up to the last one or the first that could not be read.

    Attributes:
        outcomes: The events, each once, as rows or rejects.
        pages: How many pages there are.
        etag: The tag of the first page.
        last: The last response.
        poll_interval: The longest interval, in seconds, that any of the responses wants between
            polls; None if none says it.
    """

    outcomes: tuple[EventRow | Reject, ...]
    pages: int
    etag: str | None
    last: Response
    poll_interval: int | None = None

    @property
    def rows(self) -> tuple[EventRow, ...]:
        """The events that can be stored."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, EventRow))

    @property
    def newest(self) -> datetime | None:
        """When the newest event happened."""
        return max((row.created_at for row in self.rows), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a feed has been read.

    Attributes:
        etag: The tag of the first page, if all pages after it were read too.
        event_ids: The events of the last poll that had all pages.
        newest: When the newest event of all those polls happened.
    """

    etag: str | None = None
    event_ids: frozenset[int] = frozenset()
    newest: datetime | None = None


def fetch(get: Callable[[str, str | None], Response], address: str, etag: str | None) -> Fetched:
    """Read a feed, page by page.

    Pages shift while they are read: an event that moves to the next one meanwhile comes twice.

    Args:
        get: Asks for the page at an address, with the tag of the page that is known already.
        address: The feed.
        etag: The tag of the first page, if it is known.
    """
    pages: list[Response] = []
    url = f"{address}?per_page=100"
    while True:
        known = None if pages else etag
        last = get(url, known)
        if last.unchanged and known is None:
            problem = "GitHub answered that the page has not changed, which it was not asked"
            last = Response(status=0, problem=problem, temporary=True)
        if pages and last.status == 422:
            # No feed may be read so deeply, whatever the page before says.
            last = pages[-1]
            break
        if last.problem or last.unchanged:
            break
        pages.append(last)
        if last.next_page is None or len(pages) == _MOST_PAGES:
            break
        url = last.next_page
        if not same_origin(url, address):
            problem = f"the next page is said to be on another server: {url}"
            last = replace(last, problem=problem, temporary=True)
            break
    from citus_analytics.github.convert import convert_event

    outcomes: dict[object, EventRow | Reject] = {}
    for number, event in enumerate((event for page in pages for event in page.events), 1):
        try:
            outcome = convert_event(event, line=number)
        except CitusAnalyticsError as error:
            # An event in an old format does not spoil the others: nobody sends them live.
            outcome = Reject(number, str(error), repr(event).encode())
        if isinstance(outcome, EventRow):
            key: object = (outcome.event_id, outcome.user_id, outcome.created_at)
        else:
            key = outcome.text
        outcomes.setdefault(key, outcome)
    intervals = [page.poll_interval for page in (*pages, last) if page.poll_interval is not None]
    return Fetched(
        outcomes=tuple(outcomes.values()),
        pages=len(pages),
        etag=pages[0].etag if pages else None,
        last=last,
        poll_interval=max(intervals, default=None),
    )


def same_origin(one: str, other: str) -> bool:
    """Whether two addresses have the same scheme, host and port, however they are written.

    They are read by httpx, and so as they are requested. An address that it cannot read, or that
    names a user, whom httpx would send instead of the token, has the same origin as no other.
    """
    import httpx

    try:
        urls = [httpx.URL(one), httpx.URL(other)]
    except httpx.InvalidURL:
        return False
    if any(url.userinfo or not url.host for url in urls):
        return False
    return len({(url.scheme, url.host, url.port) for url in urls}) == 1


def gap_before(position: Position, fetched: Fetched) -> Gap | None:
    """Return what may have been missed between what was read before and this poll."""
    if fetched.last.problem is not None or position.newest is None:
        # Where pages are missing, the poll that has all of them decides.
        return None
    rows = fetched.rows
    newer = [row.created_at for row in rows if row.created_at > position.newest]
    if position.event_ids:
        joined = any(row.event_id in position.event_ids for row in rows)
    else:
        # The poll before had no usable event. If there is room for older ones, none has fallen out.
        full = fetched.pages >= _FULL_PAGES or len(fetched.outcomes) >= _FULL_EVENTS
        joined = len(newer) < len(rows) or not full
    return None if joined or not newer else Gap(since=position.newest, until=min(newer))


def advanced(position: Position, fetched: Fetched) -> Position:
    """Return how far the feed has been read after this poll."""
    if fetched.last.unchanged:
        return position
    if fetched.last.problem is not None:
        return replace(position, etag=None)
    times = [moment for moment in (position.newest, fetched.newest) if moment is not None]
    return Position(
        etag=fetched.etag,
        event_ids=frozenset(row.event_id for row in fetched.rows),
        newest=max(times, default=None),
    )


def delay(fetched: Fetched, *, failures: int, jitter: float, interval: float = 0.0) -> float:
    """Return how many seconds to wait until the next poll.

    After a poll that succeeded, it is what X-Poll-Interval says, or longer if the requests that are
    left would not last until the rate limit is reset: polls at even distances miss less than a
    burst and an hour's silence. After a failure it is what GitHub asks for, and otherwise seconds
    that double with every failure, or minutes if GitHub says that there are too many requests;
    X-Poll-Interval holds then too, if any page said it. GitHub bans clients that continue to ask
    while they are limited, and does not say for how long.

    What a server says is capped at `LONGEST_WAIT`; the caller's interval is not.

    Args:
        fetched: What the poll fetched.
        failures: How many polls have failed in a row, this one included.
        jitter: A random number from 0 up to 1, so that many pollers do not come back at once.
        interval: The least number of seconds between polls.
    """
    last = fetched.last
    # The exponent is bounded, because the powers are not.
    doubled = 2.0 ** min(max(failures - 1, 0), 20)
    backoff = min(doubled, 300.0) / 2 * (1 + jitter)
    if last.problem is None:
        requests = max(1, fetched.pages)
        if last.remaining is None or last.resets_in is None:
            wait = 0.0
        elif last.remaining < requests:
            wait = last.resets_in + 1
        else:
            wait = last.resets_in * requests / last.remaining
    elif last.retry_after is not None:
        wait = max(last.retry_after, backoff)
    elif not last.limited:
        wait = backoff
    elif last.remaining == 0 and last.resets_in:
        # The time of the reset is in whole seconds.
        wait = last.resets_in + 1 + jitter
    else:
        # A secondary limit, or one that should have been reset by now. GitHub wants a minute then,
        # and longer every time.
        wait = min(60 * doubled, 3600.0) + jitter
    asked = fetched.poll_interval
    if asked is None:
        asked = 0 if last.problem else USUAL_INTERVAL
    return max(interval, min(max(asked, wait), LONGEST_WAIT))


def unreported(
    reported: dict[bytes, None], rejects: Iterable[Reject], *, complete: bool
) -> list[Reject]:
    """Return the rejects that have not been reported yet, each text once, and note that they are.

    After a poll that had all pages, those of the polls before are forgotten. A poll without all
    pages may lack some that the next one has again, so they are kept then: the latest ones, and no
    more than the largest poll can have, however many such polls there are.

    Args:
        reported: The digests of the rejects that were reported; changed in place.
        rejects: The rejects of a poll.
        complete: Whether the poll had all pages.
    """
    found = {sha256(reject.text).digest(): reject for reject in rejects}
    new = [reject for digest, reject in found.items() if digest not in reported]
    kept = [] if complete else [digest for digest in reported if digest not in found]
    reported.clear()
    reported.update(dict.fromkeys([*kept, *found][-_MOST_REPORTED:]))
    return new


# The database: the events, and how far the feed has been read.


def _read_position(connection: Connection, address: str) -> tuple[Position, float, int]:
    """Return how far a feed has been read, how long to wait, and how many polls have failed."""
    statement = select(followed_feeds).where(followed_feeds.c.address == address)
    row = connection.execute(statement).one_or_none()
    if row is None:
        return Position(), 0.0, 0
    rest = (row.next_poll - datetime.now(UTC)).total_seconds() if row.next_poll else 0.0
    position = Position(etag=row.etag, event_ids=frozenset(row.event_ids), newest=row.newest)
    return position, rest, row.failures


def _store(connection: Connection, fetched: Fetched, rejects: list[Reject]) -> tuple[int, int]:
    """Store the events that are not there yet; return how many are new, and how many known."""
    if not fetched.outcomes:
        return 0, 0
    options = LoadOptions(unique=True, rejects=rejects.append)
    result = load_outcomes(connection, fetched.outcomes, options)
    return result.rows, result.duplicates


def _note(
    connection: Connection,
    address: str,
    next_poll: datetime,
    failures: int,
    *,
    at_least: bool = False,
    position: Position | None = None,
) -> None:
    """Note when GitHub may be asked again, and how far a poll has read that read something.

    With `at_least`, what an earlier refusal has asked for holds, if it is longer.
    """
    changed: dict[str, Any] = {
        "next_poll": next_poll,
        # More than the pauses need, and what the column can hold.
        "failures": min(failures, 1_000_000),
    }
    if position is not None:
        changed["etag"] = position.etag
        changed["event_ids"] = sorted(position.event_ids)
        changed["newest"] = position.newest
    if at_least:
        changed["next_poll"] = func.greatest(followed_feeds.c.next_poll, next_poll)
    statement = insert(followed_feeds).values(
        {"address": address, "event_ids": [], **changed, "next_poll": next_poll}
    )
    connection.execute(statement.on_conflict_do_update(index_elements=["address"], set_=changed))
