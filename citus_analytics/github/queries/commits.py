"""How many commits were pushed in each hour: the tutorial's `num_commits`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Integer, Select, cast, func, literal_column, select

from citus_analytics.github.models import github_events
from citus_analytics.github.queries._binding import (
    Arguments,
    Binds,
    bound,
    fetch,
    given,
    in_window,
    placeholders,
    window,
    zone_named,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class HourlyCommits:
    """The commits that were pushed in one hour.

    Attributes:
        hour: The start of the hour, in the time zone that was asked for. None stands for the
            pushes that have no time, which are in no window. The two hours that a clock shows
            when summer time ends differ in `fold` only, and Python calls them equal: use
            `hour.astimezone(UTC)` as a key.
        commits: The sum of the pushes' distinct commits, or None if no push of the hour says how
            many it had. GitHub has left that number out since October 2025: unknown, not zero.
    """

    hour: datetime | None
    commits: int | None


def commits_per_hour(
    session: Session | Connection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    time_zone: str = "UTC",
) -> list[HourlyCommits]:
    """Return the commits of every hour that has a push, in order of time.

    An hour starts when the clocks of `time_zone` show a full hour: half-hour offsets are
    honoured, and the hour that is repeated when summer time ends counts as two. (The tutorial's
    SQL takes the zone from the database session, which makes no difference here.)

    The commits of a push are its `payload->>'distinct_size'`. Where that is no whole number, or
    does not fit PostgreSQL's `integer`, the tutorial's SQL fails; here the push counts as one
    that does not say how many commits it had.

    Args:
        session: Where to ask. The caller keeps its transaction.
        since: Take pushes created at this aware datetime or later.
        until: Take pushes created before this aware datetime.
        time_zone: The IANA name of the zone of the hours, such as `"Asia/Kolkata"`.

    Raises:
        ArgumentError: A bound is no aware datetime, `since` is not before `until`, or the zone
            is unknown.
    """
    arguments = _arguments(since, until, time_zone)
    rows = fetch(session, _prepared(*arguments), arguments)
    zone = ZoneInfo(time_zone)
    # The driver returns instants in the zone of the connection.
    return [HourlyCommits(hour and hour.astimezone(zone), commits) for hour, commits in rows]


def commits_per_hour_statement(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    time_zone: str = "UTC",
) -> Select[datetime | None, int | None]:
    """Return the statement of `commits_per_hour`: rows of `hour` and `commits`.

    The hours are those of `time_zone`; the driver returns them in the zone of the connection.

    Raises:
        ArgumentError: As `commits_per_hour` does.
    """
    return _statement(bound(_arguments(since, until, time_zone)))


def _arguments(since: datetime | None, until: datetime | None, time_zone: str) -> Arguments:
    return window(since, until) | given(time_zone=zone_named(time_zone).key)


def _statement(binds: Binds) -> Select[datetime | None, int | None]:
    created_at: ColumnElement[datetime | None] = github_events.c.created_at
    # With two arguments, date_trunc takes the zone of the session: on Citus, of the workers'.
    hour: ColumnElement[datetime | None] = func.date_trunc(
        literal_column("'hour'"),
        created_at,
        binds["time_zone"],
        type_=created_at.type,
    )
    return (
        select(hour.label("hour"), func.sum(_distinct_size()).label("commits"))
        .where(github_events.c.event_type == literal_column("'PushEvent'"))
        .where(*in_window(created_at, binds))
        .group_by(hour)
        .order_by("hour")
    )


def _distinct_size() -> ColumnElement[int | None]:
    """Return `(payload->>'distinct_size')::int`, with NULL where that cast would fail.

    One jsonpath, because each further look into a large payload would fetch and decompress it
    again. `strict` keeps arrays from being searched, `double()` reads a number that is spelled
    as a string, and the last argument silences what is no number.
    """
    whole_numbers = func.jsonb_path_query_first(
        github_events.c.payload,
        literal_column(
            "'strict $.distinct_size.double()"
            " ? (@ >= -2147483648 && @ <= 2147483647 && @ == @.floor())'"
        ),
        literal_column("'{}'"),
        literal_column("true"),
    )
    return cast(whole_numbers, Integer)


@cache
def _prepared(*filters: str) -> Select[datetime | None, int | None]:
    return _statement(placeholders(filters))
