"""More questions about GitHub's events, typed: over time, of a user, of a repository, of all.

Each is a function that answers from whatever rollups serve, and a builder of the statement that
computes the same from the raw events, as in `citus_analytics.github.analytics`. `since` and `until`
are aware datetimes and select `[since, until)`. `every` is the width of a bucket, as in `Rollup`:
`"1 hour"`, `"1 day at Europe/Berlin"`, `"1 month"`.

Events without a time are in no bucket, and in no answer that has buckets or a window.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Text, bindparam

from citus_analytics.github.analytics import checked_zone
from citus_analytics.github.models import DISTINCT_SIZE, IS_PUSH, GithubEvent
from citus_analytics.rollups.ask import Freshness, Question
from citus_analytics.rollups.declare import count, distinct, percentiles

if TYPE_CHECKING:
    from sqlalchemy import Select

    from citus_analytics.sql import Executor


@dataclass(frozen=True, slots=True)
class EventsOfType:
    """How many events of one type there were in one bucket.

    Attributes:
        bucket: The start of the bucket, in the zone of the connection.
        event_type: The type, None where it is not known.
        events: The number of events.
    """

    bucket: datetime
    event_type: str | None
    events: int


@dataclass(frozen=True, slots=True)
class Activity:
    """How many events there were in one bucket.

    Attributes:
        bucket: The start of the bucket, in the zone of the connection.
        events: The number of events.
    """

    bucket: datetime
    events: int


@dataclass(frozen=True, slots=True)
class ActiveUsers:
    """How many different users had events in one bucket.

    Attributes:
        bucket: The start of the bucket, in the zone of the connection.
        users: The number of users; events without a user do not count.
    """

    bucket: datetime
    users: int


@dataclass(frozen=True, slots=True)
class TrendingRepository:
    """How many events of one type a repository had.

    Attributes:
        repo_id: GitHub's id of the repository, None for the events of no known one.
        events: The number of events, stars by default.
    """

    repo_id: int | None
    events: int


@dataclass(frozen=True, slots=True)
class Contributor:
    """How many events one user had on a repository.

    Attributes:
        user_id: GitHub's id of the user, None for the events of no known one.
        events: The number of events.
    """

    user_id: int | None
    events: int


@dataclass(frozen=True, slots=True)
class HeatMapCell:
    """How many events there were in one hour of the day on one day of the week.

    Attributes:
        weekday: The day of the week: 0 is Monday.
        hour: The hour of the day that the clocks show, from 0 to 23.
        events: The number of events.
    """

    weekday: int
    hour: int
    events: int


@dataclass(frozen=True, slots=True)
class PushSizes:
    """Percentiles of the number of distinct commits of a push.

    Attributes:
        p50: The median; None where no push says how many commits it had.
        p95: The number that 95 % of the pushes do not exceed.
        p99: The number that 99 % of the pushes do not exceed.
    """

    p50: float | None
    p95: float | None
    p99: float | None


def events_by_type(
    session: Executor,
    *,
    every: str = "1 hour",
    since: datetime | None = None,
    until: datetime | None = None,
    freshness: Freshness = "fresh",
) -> list[EventsOfType]:
    """Return the events by type and interval, in order of time.

    Args:
        session: The session or connection to query. The caller keeps its transaction.
        every: The width of the intervals.
        since: Count events created at this aware datetime or later.
        until: Count events created before this aware datetime.
        freshness: As of now, as of the last run, or from the events alone.

    Raises:
        ArgumentError: A bound is not an aware datetime, or the window is empty.
        DeclarationError: `every` is not the width of a bucket.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired.
    """
    answer = _by_type(every).ask(session, since=since, until=until, freshness=freshness)
    return [EventsOfType(*row) for row in answer]


def events_by_type_statement(
    *, every: str = "1 hour", since: datetime | None = None, until: datetime | None = None
) -> Select[Any]:
    """Return the statement of `events_by_type`: rows of `bucket`, `event_type` and `events`."""
    return _by_type(every).raw_statement(since=since, until=until)


def user_activity(
    session: Executor,
    user_id: int,
    *,
    every: str = "1 day",
    since: datetime | None = None,
    until: datetime | None = None,
    freshness: Freshness = "fresh",
) -> list[Activity]:
    """Return the events of one user over time; the arguments are those of `events_by_type`."""
    answer = _of("user_id", every).ask(
        session, since=since, until=until, freshness=freshness, parameters={"user_id": user_id}
    )
    return [Activity(*row) for row in answer]


def user_activity_statement(
    user_id: int,
    *,
    every: str = "1 day",
    since: datetime | None = None,
    until: datetime | None = None,
) -> Select[Any]:
    """Return the statement of `user_activity`: rows of `bucket` and `events`."""
    statement = _of("user_id", every).raw_statement(since=since, until=until)
    return statement.params(user_id=user_id)


def repository_activity(
    session: Executor,
    repo_id: int,
    *,
    every: str = "1 day",
    since: datetime | None = None,
    until: datetime | None = None,
    freshness: Freshness = "fresh",
) -> list[Activity]:
    """Return the events of a repository over time; the arguments are those of `events_by_type`."""
    answer = _of("repo_id", every).ask(
        session, since=since, until=until, freshness=freshness, parameters={"repo_id": repo_id}
    )
    return [Activity(*row) for row in answer]


def repository_activity_statement(
    repo_id: int,
    *,
    every: str = "1 day",
    since: datetime | None = None,
    until: datetime | None = None,
) -> Select[Any]:
    """Return the statement of `repository_activity`: rows of `bucket` and `events`."""
    statement = _of("repo_id", every).raw_statement(since=since, until=until)
    return statement.params(repo_id=repo_id)


def active_users(
    session: Executor,
    *,
    every: str = "1 day",
    since: datetime | None = None,
    until: datetime | None = None,
    freshness: Freshness = "fresh",
) -> list[ActiveUsers]:
    """Return how many different users were active; the arguments are those of `events_by_type`."""
    answer = _active(every).ask(session, since=since, until=until, freshness=freshness)
    return [ActiveUsers(*row) for row in answer]


def active_users_statement(
    *, every: str = "1 day", since: datetime | None = None, until: datetime | None = None
) -> Select[Any]:
    """Return the statement of `active_users`: rows of `bucket` and `users`."""
    return _active(every).raw_statement(since=since, until=until)


def trending_repositories(
    session: Executor,
    *,
    event_type: str = "WatchEvent",
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = 10,
    freshness: Freshness = "fresh",
) -> list[TrendingRepository]:
    """Return the repositories with the most events of a type, equal ones in the order of their ids.

    Args:
        session: The session or connection to query. The caller keeps its transaction.
        event_type: What is counted: `"WatchEvent"` is a star, `"ForkEvent"` a fork.
        since: Count events created at this aware datetime or later.
        until: Count events created before this aware datetime.
        limit: Return at most this many repositories, or all of them if None.
        freshness: As of now, as of the last run, or from the events alone.

    Raises:
        ArgumentError: A bound is not an aware datetime, the window is empty, or the limit is not a
            positive integer.
        RollupError: As for `events_by_type`.
    """
    answer = _trending().ask(
        session,
        since=since,
        until=until,
        limit=limit,
        freshness=freshness,
        parameters={"event_type": event_type},
    )
    return [TrendingRepository(*row) for row in answer]


def trending_repositories_statement(
    *,
    event_type: str = "WatchEvent",
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = 10,
) -> Select[Any]:
    """Return the statement of `trending_repositories`: rows of `repo_id` and `events`."""
    statement = _trending().raw_statement(since=since, until=until).limit(limit)
    return statement.params(event_type=event_type)


def top_contributors(
    session: Executor,
    repo_id: int,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = 10,
    freshness: Freshness = "fresh",
) -> list[Contributor]:
    """Return the users with the most events on a repository, equal ones in the order of their ids.

    The arguments and errors are those of `trending_repositories`.
    """
    answer = _contributors().ask(
        session,
        since=since,
        until=until,
        limit=limit,
        freshness=freshness,
        parameters={"repo_id": repo_id},
    )
    return [Contributor(*row) for row in answer]


def top_contributors_statement(
    repo_id: int,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = 10,
) -> Select[Any]:
    """Return the statement of `top_contributors`: rows of `user_id` and `events`."""
    statement = _contributors().raw_statement(since=since, until=until).limit(limit)
    return statement.params(repo_id=repo_id)


def heat_map(
    session: Executor,
    *,
    time_zone: str = "UTC",
    since: datetime | None = None,
    until: datetime | None = None,
    freshness: Freshness = "fresh",
) -> list[HeatMapCell]:
    """Return the events by weekday and hour of the day, as the clocks of a time zone show them.

    The list is in the order of the weekday and the hour; hours without an event are left out.

    Raises:
        ArgumentError: A bound is not an aware datetime, the window is empty, or the time zone is
            unknown.
        RollupError: As for `events_by_type`.
    """
    zone = checked_zone(time_zone)
    answer = _hours(time_zone).ask(session, since=since, until=until, freshness=freshness)
    cells: dict[tuple[int, int], int] = defaultdict(int)
    for bucket, events in answer:
        shown: datetime = bucket.astimezone(zone)
        cells[shown.weekday(), shown.hour] += events
    return [HeatMapCell(*cell, events) for cell, events in sorted(cells.items())]


def heat_map_statement(
    *, time_zone: str = "UTC", since: datetime | None = None, until: datetime | None = None
) -> Select[Any]:
    """Return the statement of `heat_map` before it is folded: rows of `bucket` and `events`."""
    checked_zone(time_zone)
    return _hours(time_zone).raw_statement(since=since, until=until)


def push_sizes(
    session: Executor,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    freshness: Freshness = "fresh",
) -> PushSizes:
    """Return percentiles of the distinct commits of pushes.

    No built-in rollup keeps them: the answer is from the events, unless an application has declared
    one with `percentiles(...)` of the same number.

    Raises:
        ArgumentError: A bound is not an aware datetime, or the window is empty.
        RollupError: As for `events_by_type`.
    """
    answer = _sizes().ask(session, since=since, until=until, freshness=freshness)
    return PushSizes(*answer.rows[0])


def push_sizes_statement(
    *, since: datetime | None = None, until: datetime | None = None
) -> Select[Any]:
    """Return the statement of `push_sizes`: one row of `p50`, `p95` and `p99`."""
    return _sizes().raw_statement(since=since, until=until)


# The questions, each made when it is first asked.


@lru_cache(maxsize=64)
def _by_type(every: str) -> Question:
    return Question(
        GithubEvent,
        measures={"events": count()},
        by=[GithubEvent.event_type],
        every=every,
        undated=False,
    )


@lru_cache(maxsize=64)
def _of(column: str, every: str) -> Question:
    of = getattr(GithubEvent, column)
    return Question(
        GithubEvent,
        measures={"events": count()},
        every=every,
        where=of == bindparam(column, type_=BigInteger()),
        undated=False,
    )


@lru_cache(maxsize=64)
def _active(every: str) -> Question:
    measures = {"users": distinct(GithubEvent.user_id)}
    return Question(GithubEvent, measures=measures, every=every, undated=False)


@lru_cache
def _trending() -> Question:
    return Question(
        GithubEvent,
        measures={"events": count()},
        by=[GithubEvent.repo_id],
        where=GithubEvent.event_type == bindparam("event_type", type_=Text()),
        ranked="events",
        undated=False,
    )


@lru_cache
def _contributors() -> Question:
    return Question(
        GithubEvent,
        measures={"events": count()},
        by=[GithubEvent.user_id],
        where=GithubEvent.repo_id == bindparam("repo_id", type_=BigInteger()),
        ranked="events",
        undated=False,
    )


@lru_cache(maxsize=64)
def _hours(time_zone: str) -> Question:
    every = "1 hour" if time_zone == "UTC" else f"1 hour at {time_zone}"
    return Question(GithubEvent, measures={"events": count()}, every=every, undated=False)


@lru_cache
def _sizes() -> Question:
    return Question(
        GithubEvent,
        measures={"p": percentiles(DISTINCT_SIZE)},
        where=IS_PUSH,
        undated=False,
    )
