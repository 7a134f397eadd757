"""Which users were most active, and when: the tutorial's question to the rollup."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, ColumnElement, Select, cast, func, literal_column, select

from citus_analytics.github.models import github_rollup_1min
from citus_analytics.github.queries._binding import (
    Binds,
    bound,
    fetch,
    in_window,
    limited,
    placeholders,
    window,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class UserActivity:
    """How many events one user had in one minute.

    Attributes:
        user_id: GitHub's id of the user. None stands for the events of no known user.
        minute: The start of the minute, in the zone of the connection. None stands for the
            events that have no time, which are in no window.
        events: The number of events, of all types and on all repositories.
    """

    user_id: int | None
    minute: datetime | None
    events: int


def most_active_users(
    session: Session | Connection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = 5,
) -> list[UserActivity]:
    """Return the users and minutes with the most events, the greatest number first.

    The numbers are those of `github_rollup_1min` as its last run left it. Equal numbers are in
    the order of the minute, then of the user's id, unknown ones last.

    Args:
        session: Where to ask. The caller keeps its transaction.
        since: Consider minutes that start at this aware datetime or later.
        until: Consider minutes that start before this aware datetime.
        limit: Return at most this many users and minutes, or all of them if None.

    Raises:
        ArgumentError: A bound is no aware datetime, `since` is not before `until`, or the limit
            is no positive integer.
    """
    arguments = window(since, until) | limited(limit)
    rows = fetch(session, _prepared(*arguments), arguments)
    return [UserActivity(user_id, minute, events) for user_id, minute, events in rows]


def most_active_users_statement(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = 5,
) -> Select[int | None, datetime | None, int]:
    """Return the statement of `most_active_users`: rows of `user_id`, `minute` and `events`.

    Raises:
        ArgumentError: As `most_active_users` does.
    """
    return _statement(bound(window(since, until) | limited(limit)))


def _statement(binds: Binds) -> Select[int | None, datetime | None, int]:
    user_id: ColumnElement[int | None] = github_rollup_1min.c.user_id
    ingest_time: ColumnElement[datetime | None] = github_rollup_1min.c.ingest_time
    total_events: ColumnElement[int] = github_rollup_1min.c.total_events
    # PostgreSQL sums bigints to a numeric, which the driver would return as a Decimal. A rollup
    # writes no NULL totals; a row that was written without one has no events.
    events = cast(func.coalesce(func.sum(total_events), literal_column("0")), BigInteger).label(
        "events"
    )
    minute = ingest_time.label("minute")
    return (
        select(user_id, minute, events)
        .where(*in_window(ingest_time, binds))
        .group_by(user_id, ingest_time)
        .order_by(events.desc(), minute.asc().nulls_last(), user_id.asc().nulls_last())
        .limit(binds.get("limit"))
    )


@cache
def _prepared(*filters: str) -> Select[int | None, datetime | None, int]:
    return _statement(placeholders(filters))
