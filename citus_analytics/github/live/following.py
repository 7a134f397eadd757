"""The loop: wait, ask GitHub, store what came in one transaction, tell of it."""

from __future__ import annotations

import logging
import random
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.live.client import Client
from citus_analytics.github.live.pace import LONGEST_WAIT, pause
from citus_analytics.github.live.polls import Poll, Position, advanced, fetch, gap_before
from citus_analytics.github.live.positions import read_position, write_next_poll, write_position
from citus_analytics.github.live.told import ToldRejects
from citus_analytics.github.load import (
    LoadOptions,
    LoadResult,
    RejectCallback,
    in_transactions,
    load_outcomes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from citus_analytics.github.events import Reject
    from citus_analytics.github.live.answers import Answer
    from citus_analytics.github.live.feed import Feed
    from citus_analytics.github.live.polls import Fetched

    Wait: TypeAlias = Callable[[float], bool]
    Shield: TypeAlias = Callable[[], AbstractContextManager[object]]

_LOG: Final = logging.getLogger(__name__)
_YEAR: Final = 366 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowOptions:
    """How a feed is followed.

    Attributes:
        token: A token of GitHub's; without one, GitHub answers 60 requests an hour instead of
            5,000. It goes to the server of the feed alone, and is not shown.
        interval: How many seconds there are to be between polls at least, failed ones too; a year
            at most. GitHub's own X-Poll-Interval is honoured in any case.
        max_polls: After how many polls to end, failed ones not counted; None for never.
        max_failures: After how many failed polls in a row to give up; None for never.
        timeout: How many seconds an answer may take.
        rejects: Called with each event that cannot be stored, after the transaction, and not again
            while further polls of the same call of `follow` have it too: whoever starts anew is
            told again of those that GitHub still offers. Its line is its number in the poll.

    Raises:
        ArgumentError: A number is out of range, or the token cannot stand in a header.
    """

    token: str | None = field(default=None, repr=False)
    interval: float = 0.0
    max_polls: int | None = None
    max_failures: int | None = None
    timeout: float = 30.0
    rejects: RejectCallback | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not (
            self.token.isascii() and self.token.isprintable() and self.token.strip() == self.token
        ):
            raise ArgumentError(
                "the token of GitHub's has spaces at its ends, or characters that are not ASCII"
            )
        if self.token == "":
            raise ArgumentError("the token of GitHub's is empty: leave it out")
        for name, least in (("interval", 0), ("max_polls", 1), ("max_failures", 1)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ArgumentError(f"{name} is {value}; it must be {least} or more")
        if self.interval > _YEAR:
            raise ArgumentError(
                f"interval is {self.interval} seconds; it must be {_YEAR:.0f} or less, a year"
            )
        if not self.timeout > 0:
            raise ArgumentError(f"timeout is {self.timeout}; it must be more than 0 seconds")


def follow(
    engine: Engine,
    feed: Feed,
    *,
    options: FollowOptions | None = None,
    wait: Wait | None = None,
    shield: Shield = nullcontext,
) -> Iterator[Poll]:
    """Poll a feed for ever, store its events in `github_events`, and yield what came of each poll.

    A poll is one transaction, committed before it is yielded: events, users, and how far the feed
    has been read. An event that is there already, from whatever source, is left out (see
    `LoadOptions.unique`). A `Gap` is also a warning in the log.

    What GitHub fails to do for a time is yielded as a failed poll, and tried again later. Where a
    further page cannot be had, those before it are loaded. How long GitHub wants to be left alone,
    after a poll or a refusal, is kept in the database too: the next call waits for the rest of it.

    Args:
        engine: An engine on the driver psycopg 3.
        feed: What to follow, in a database after migration ca_0004.
        options: How to follow it.
        wait: Called to wait for so many seconds; returns whether to end instead of polling, as the
            `wait` of a `threading.Event` does. By default, `time.sleep`.
        shield: Entered around each transaction, by those who hold signals back.

    Raises:
        LoadError: GitHub refuses for good (a wrong token, no such feed), or too many polls have
            failed. What is loaded stays, and the next call goes on from there.
        sqlalchemy.exc.DBAPIError: The database fails. The same holds.
    """
    following = _Following(engine, feed, options or FollowOptions(), shield)
    return following.polls(_sleep if wait is None else wait)


class _Following:
    """A feed that is followed, and how far it has been read."""

    __slots__ = ("_client", "_engine", "_feed", "_options", "_position", "_shield", "_told")

    def __init__(self, engine: Engine, feed: Feed, options: FollowOptions, shield: Shield) -> None:
        self._engine = in_transactions(engine)
        self._feed = feed
        self._options = options
        self._shield = shield
        self._client = Client(token=options.token, timeout=options.timeout)
        self._position = Position()
        self._told = ToldRejects()

    def polls(self, wait: Wait) -> Iterator[Poll]:
        with self._engine.connect() as connection:
            self._position = read_position(connection, self._feed.address)
        due = time.monotonic() + self._rest_of_the_wait()
        polls = failures = 0
        while polls != self._options.max_polls:
            if wait(max(0.0, due - time.monotonic())):
                return
            fetched = fetch(self._client.get, self._feed.address, self._position.etag)
            failures = failures + 1 if fetched.last.problem else 0
            polls += not failures
            next_in = self._pause(fetched, failures)
            due = time.monotonic() + next_in
            poll = self._stored(fetched, next_in)
            self._log(poll)
            yield poll
            self._check(fetched.last, failures)

    def _rest_of_the_wait(self) -> float:
        if self._position.next_poll is None:
            return 0.0
        rest = (self._position.next_poll - datetime.now(UTC)).total_seconds()
        # A clock that was set back is no reason to wait longer than somebody may have asked for.
        return min(max(0.0, rest), max(LONGEST_WAIT, self._options.interval))

    def _pause(self, fetched: Fetched, failures: int) -> float:
        share = random.random()  # noqa: S311 - nothing secret
        return pause(fetched, failures=failures, share=share, interval=self._options.interval)

    def _stored(self, fetched: Fetched, next_in: float) -> Poll:
        """Store what there is to store, and return what came of it."""
        last, now = fetched.last, datetime.now(UTC)
        poll = Poll(
            at=now,
            outcome="unchanged" if last.unchanged else "loaded" if fetched.pages else "failed",
            pages=fetched.pages,
            newest=fetched.newest,
            gap=gap_before(self._position, fetched),
            problem=last.problem,
            remaining=last.remaining,
            next_in=round(next_in, 3),
        )
        next_poll = now + timedelta(seconds=next_in)
        if poll.outcome == "failed":
            self._keep_away_until(next_poll, last)
            return poll
        position = advanced(self._position, fetched, next_poll)
        rejects: list[Reject] = []
        with self._shield():
            with self._engine.begin() as connection:
                result = _load(connection, fetched, rejects)
                write_position(connection, self._feed.address, position)
            self._position = position
        rejected = self._tell_rejects(fetched, rejects)
        return replace(poll, new=result.rows, known=result.duplicates, rejected=rejected)

    def _keep_away_until(self, next_poll: datetime, last: Answer) -> None:
        """Note for whoever starts next how long GitHub wants to be left alone, if it said so."""
        if last.limited or last.retry_after is not None:
            with self._shield(), self._engine.begin() as connection:
                write_next_poll(connection, self._feed.address, next_poll)

    def _tell_rejects(self, fetched: Fetched, rejects: list[Reject]) -> int:
        """Tell of those that the poll before did not have; return how many they are."""
        whole = fetched.last.problem is None and not fetched.last.unchanged
        new = self._told.new_ones(rejects, whole=whole)
        if self._options.rejects is not None:
            for reject in new:
                self._options.rejects(reject)
        return len(new)

    def _log(self, poll: Poll) -> None:
        address = self._feed.address
        if poll.problem is not None:
            _LOG.warning("%s: %s", address, poll.problem)
        if poll.gap is not None:
            since, until = (moment.isoformat() for moment in (poll.gap.since, poll.gap.until))
            _LOG.warning(
                "%s: events may have been missed from %s to %s: GitHub offers none any longer that "
                "the poll before had",
                address,
                since,
                until,
            )

    def _check(self, last: Answer, failures: int) -> None:
        if last.problem is None:
            return
        if not last.temporary:
            raise LoadError(f"{self._feed.address}: {last.problem} What was loaded before stays.")
        if failures == self._options.max_failures:
            raise LoadError(
                f"{self._feed.address}: {last.problem}. That was failure {failures} in a row. What "
                "was loaded before stays; try again later, and it goes on from there."
            )


def _load(connection: Connection, fetched: Fetched, rejects: list[Reject]) -> LoadResult:
    """Store the events that are not there yet, and note what cannot be stored."""
    if not fetched.outcomes:
        return LoadResult(rows=0, bytes=0)
    options = LoadOptions(unique=True, rejects=rejects.append)
    return load_outcomes(connection, fetched.outcomes, options)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
