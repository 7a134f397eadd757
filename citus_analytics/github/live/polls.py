"""What a poll brings, how far a feed has been read, and what may have been missed between polls.

Whether polls join shows in the events that both have, and in nothing else: ids are not in the
order of time, and GitHub does not promise that pages are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from citus_analytics.errors import CitusAnalyticsError
from citus_analytics.github.events import EventRow, Reject
from citus_analytics.github.live.answers import Answer, same_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# GitHub has three. Others may count otherwise, and an address that leads to itself has an end.
_MOST_PAGES: Final = 30
# With so much, in pages of a hundred events, there may have been more. GitHub counts events before
# it leaves some of them out, so that the pages may have fewer.
_FULL_PAGES: Final = 3
_FULL: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Events may have been missed: a poll has none in common with the one before.

    If that one had no event that can be stored, none can be in common. Then it is a gap if the poll
    has as many events as GitHub offers, and all of them are newer than those of the polls before.

    Attributes:
        since: When the newest event of the polls before happened.
        until: When the oldest event of this poll happened that is newer than that.
    """

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """What came of a poll.

    Attributes:
        at: When it was made, in UTC.
        outcome: "loaded"; "unchanged", if GitHub says that there is nothing new; or "failed", if
            there was no first page, and nothing was loaded.
        pages: How many pages were read.
        new: Events that were stored.
        known: Events that were there already.
        rejected: Events that cannot be stored, without those that the poll before had too, in the
            same call of `follow`.
        newest: When the newest of these events happened; None without any.
        gap: What may have been missed since the poll before; None if nothing.
        problem: Why there was no page, or none after those that were loaded; None if all is well.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a feed has been read.

    Attributes:
        etag: What the first page is known by, if all pages after it were read too.
        event_ids: The events of the last poll that had all pages.
        newest: When the newest event of all those polls happened.
        next_poll: When GitHub is to be asked again.
    """

    etag: str | None = None
    event_ids: frozenset[int] = frozenset()
    newest: datetime | None = None
    next_poll: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """The pages of a feed, in order, up to the last one or the first that could not be had.

    Attributes:
        outcomes: Its events, each once, as rows or rejects.
        pages: How many pages there are.
        etag: What the first page is known by.
        last: The last answer.
        poll_interval: The most seconds that any of the answers wants between polls, or None if
            none says it.
    """

    outcomes: tuple[EventRow | Reject, ...]
    pages: int
    etag: str | None
    last: Answer
    poll_interval: int | None = None

    @property
    def rows(self) -> tuple[EventRow, ...]:
        """The events that can be stored."""
        return tuple(one for one in self.outcomes if isinstance(one, EventRow))

    @property
    def full(self) -> bool:
        """Whether there are as many events as GitHub offers at most."""
        return self.pages >= _FULL_PAGES or len(self.outcomes) >= _FULL

    @property
    def newest(self) -> datetime | None:
        """When the newest event happened."""
        return max((row.created_at for row in self.rows), default=None)


def fetch(get: Callable[[str, str | None], Answer], address: str, etag: str | None) -> Fetched:
    """Read a feed, page by page.

    Pages shift while they are read: what has moved to the next one meanwhile comes a second time.

    Args:
        get: Asks for an address, with the tag of the answer that is known already.
        address: The feed.
        etag: The tag of the first page, if it is known.
    """
    url: str | None = f"{address}?per_page=100"
    events: list[object] = []
    pages: list[Answer] = []
    while url is not None:
        known = None if pages else etag
        answer = get(url, known)
        if pages and answer.status == 422:
            # So deep no feed is to be read, whatever the page before says.
            break
        if answer.unchanged and known is None:
            problem = "GitHub says that a page has not changed, and was not asked that"
            answer = replace(answer, status=0, problem=problem, temporary=True)
        if answer.problem or answer.unchanged:
            return _fetched(events, pages, answer)
        events += answer.events
        pages.append(answer)
        url = answer.next_page if len(pages) < _MOST_PAGES else None
        if url is not None and not same_origin(url, address):
            problem = f"the next page is said to be at another server: {url}"
            return _fetched(events, pages, replace(answer, problem=problem, temporary=True))
    return _fetched(events, pages, pages[-1])


def gap_before(position: Position, fetched: Fetched) -> Gap | None:
    """Return what may have been missed between what was read and this poll."""
    if fetched.last.problem is not None or position.newest is None:
        # Without all pages, the poll that has them decides.
        return None
    rows = fetched.rows
    newer = [row.created_at for row in rows if row.created_at > position.newest]
    if position.event_ids:
        joined = any(row.event_id in position.event_ids for row in rows)
    else:
        # The poll before had no usable event. With room for older ones, nothing fell out since.
        joined = len(newer) < len(rows) or not fetched.full
    return None if joined or not newer else Gap(since=position.newest, until=min(newer))


def advanced(position: Position, fetched: Fetched, next_poll: datetime) -> Position:
    """Return how far the feed has been read after this poll."""
    moved = replace(position, next_poll=next_poll)
    if fetched.last.unchanged:
        return moved
    if fetched.last.problem is not None:
        return replace(moved, etag=None)
    times = [time for time in (position.newest, fetched.newest) if time is not None]
    return replace(
        moved,
        etag=fetched.etag,
        event_ids=frozenset(row.event_id for row in fetched.rows),
        newest=max(times, default=None),
    )


def _fetched(events: list[object], pages: list[Answer], last: Answer) -> Fetched:
    intervals = (answer.poll_interval for answer in (*pages, last))
    return Fetched(
        outcomes=tuple(_outcomes(events)),
        pages=len(pages),
        etag=pages[0].etag if pages else None,
        last=last,
        poll_interval=max((each for each in intervals if each is not None), default=None),
    )


def _outcomes(events: list[object]) -> Iterator[EventRow | Reject]:
    seen: set[tuple[object, ...]] = set()
    for number, event in enumerate(events, 1):
        outcome = _outcome(event, number)
        key = _key(outcome)
        if key not in seen:
            seen.add(key)
            yield outcome


def _key(outcome: EventRow | Reject) -> tuple[object, ...]:
    if isinstance(outcome, Reject):
        return (outcome.text,)
    return outcome.event_id, outcome.user_id, outcome.created_at


def _outcome(event: object, number: int) -> EventRow | Reject:
    if not isinstance(event, dict):
        return Reject(number, "it is no object", repr(event).encode("utf-8", "backslashreplace"))
    # Only here, because it needs msgspec.
    from citus_analytics.github.convert import convert_event

    try:
        return convert_event(event, line=number)
    except CitusAnalyticsError as error:
        # Nobody sends old formats live: it is one odd event among others.
        return Reject(number, str(error), repr(event).encode("utf-8", "backslashreplace"))
