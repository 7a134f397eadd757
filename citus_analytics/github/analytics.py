"""Questions about GitHub's events, typed: the tutorial's four, and more of what people ask.

Each is a function that takes a session or a connection, and a builder, `..._statement`, of the
statement that computes the same from the events: to embed in a larger query, to `EXPLAIN`, or to
await on an `AsyncSession`. The statements select `GithubEvent`, and for the creators `GithubUser`,
so that an application's `do_orm_execute` hooks and `with_loader_criteria` (tenants, soft deletes)
on these classes apply to both.

The functions answer from whatever rollups the database has and from what is pending of them. These
arguments mean the same everywhere:

- `session`: The session or connection to query. The caller keeps its transaction.
- `since`, `until`: Aware datetimes, which select the half-open window `[since, until)`, so that
  adjacent windows neither overlap nor leave a gap. Events without a time are in no window; without
  one they count, where there are buckets as one of their own, None; but not in `most_active_users`
  and `heat_map`, as they were in no minute and in no hour of a clock.
- `every`: The width of the buckets, as in a `Rollup`: `"1 hour"`, `"1 day at Europe/Berlin"`,
  `"1 month"`. Their starts come in the time zone of the connection.
- `event_type`: Count events of this type only, such as `"PushEvent"`; those of all types if None.
- `user_id`, `repo_id`: GitHub's id. None stands, as in the results, for what is not known: the
  events without a user, or without a repository. On Citus every event has a user.
- `limit`: Return at most so many rows, the first ones of the order; all of them if None.
- `after`: Return only what comes after this one, the last of an earlier answer: the next page. Each
  page is as of its own moment.
- `freshness`: `"fresh"` equals the events at this moment, and costs what it shows and not what is
  stored; `"rolled_up"` is as of the last run, and refused for a window that is shorter than the
  buckets of the rollups; `"raw"` is computed from the events, as the statements are. Where
  rollups cannot serve (the database has none, or the session has `do_orm_execute` hooks, which may
  filter rows), a fresh answer is computed from the events, too, and one as of the last run is
  refused.

They raise `ArgumentError` if a bound is not an aware datetime, if `since` is not before `until`, if
the limit is not a positive integer, if an id is not an integer of 64 bits, if `every` is not the
width of a bucket, if a time zone is unknown, or if `session` is something else, such as an
`AsyncSession`; and `RollupError` if no rollup can answer as of the last run, or if events are
needed that have been expired. The statements raise the same for their arguments.

Without filters, the first four return what the tutorial's SQL returns, with ties put in a fixed
order. Every column of the tutorial's tables may be NULL, and so may a value that comes from one:
None is a valid answer, never an error.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache, lru_cache
from itertools import accumulate
from operator import index
from typing import TYPE_CHECKING, Any, Final, Literal
from typing import cast as cast_type

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    text,
)

from citus_analytics.errors import ArgumentError
from citus_analytics.github.models import (
    COMMITS,
    CREATES_REPOSITORY,
    DISTINCT_SIZE,
    GITHUB_LOGINS,
    IS_PUSH,
    STARS_OR_FORKS,
    GithubEvent,
    GithubUser,
)
from citus_analytics.rollups.ask import (
    Answer,
    Freshness,
    Order,
    Question,
    checked_window,
)
from citus_analytics.rollups.declare import count, distinct, total, zone_of
from citus_analytics.sql import qualify, quote

if TYPE_CHECKING:
    from collections.abc import Sequence
    from zoneinfo import ZoneInfo

    from sqlalchemy import BindParameter, Label
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.types import TypeEngine

    from citus_analytics.rollups.sql import RollupSpec
    from citus_analytics.sql import Executor

# What no argument changes is built once, here, because building a statement costs more than
# PostgreSQL needs to answer a small question. Constants are written into the SQL instead of being
# bound, so that even a generic plan knows them.
_COUNT: Final = select(func.count().label("events")).select_from(GithubEvent)

_COMMITS: Final = func.sum(DISTINCT_SIZE).label("commits")
_IS_PUSH: Final = GithubEvent.event_type == literal_column("'PushEvent'")

_REPOSITORIES: Final = func.count().label("repositories")
_CREATORS: Final = (
    select(GithubUser.login, _REPOSITORIES)
    # Both tables are distributed by user_id: Citus joins them shard by shard.
    .join_from(GithubEvent, GithubUser, GithubEvent.user_id == GithubUser.user_id)
    .where(GithubEvent.event_type == literal_column("'CreateEvent'"))
    # Containment, unlike payload->>'ref_type', can use payload_index.
    .where(GithubEvent.payload.contains(literal_column("""'{"ref_type": "repository"}'""")))
    .group_by(GithubUser.login)
    # The collation of code points: the same order on every server and every node.
    .order_by(_REPOSITORIES.desc(), GithubUser.login.collate("C").asc().nulls_last())
)


def count_events(
    session: Executor,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
    freshness: Freshness = "fresh",
) -> int:
    """Return how many events there are.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    question = _counted(typed=event_type is not None)
    values = {} if event_type is None else {"event_type": _given("event_type", event_type)}
    answer = question.ask(session, since=since, until=until, freshness=freshness, parameters=values)
    events: int = answer.rows[0][0]
    return events


def count_events_statement(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
) -> Select[int]:
    """Return the statement of `count_events`: one row with the number of `events`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """
    statement = _COUNT.where(*_in_window(GithubEvent.created_at, since, until))
    return statement.where(*_equal(event_type=event_type))


@dataclass(frozen=True, slots=True)
class HourlyCommits:
    """The commits that were pushed in one hour.

    Attributes:
        hour: The start of the hour, in the requested time zone. None stands for the pushes that
            have no time, which are in no window. The two hours that a clock shows when summer
            time ends differ in `fold` only, and Python considers them equal: use
            `hour.astimezone(UTC)` as a key.
        commits: The sum of the pushes' distinct commits, or None if no push of the hour says how
            many it had. GitHub has left that number out since October 2025: unknown, not zero.
    """

    hour: datetime | None
    commits: int | None


def commits_per_hour(
    session: Executor,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    time_zone: str = "UTC",
    freshness: Freshness = "fresh",
) -> list[HourlyCommits]:
    """Return the commits of every hour that has a push, in order of time.

    An hour starts when the clocks of `time_zone` show a full hour: half-hour offsets are
    honoured, and the hour that is repeated when summer time ends counts as two. (The tutorial's
    SQL uses the time zone of the database session, which makes no difference here.)

    The commits of a push are its `payload->>'distinct_size'`. Where that is not a whole number,
    or does not fit PostgreSQL's `integer`, the tutorial's SQL fails; here the push counts as one
    that does not say how many commits it had.

    Args:
        session: The session or connection to query.
        since: Take pushes created at this aware datetime or later.
        until: Take pushes created before this aware datetime.
        time_zone: The IANA name of the time zone of the hours, such as `"Asia/Kolkata"`.
        freshness: As of now, as of the last run, or from the events alone.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    zone = _zone(time_zone)
    answer = _commits(time_zone).ask(session, since=since, until=until, freshness=freshness)
    # The driver returns times in the zone of the connection.
    return [HourlyCommits(hour and hour.astimezone(zone), commits) for hour, commits in answer]


def commits_per_hour_statement(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    time_zone: str = "UTC",
) -> Select[datetime | None, int | None]:
    """Return the statement of `commits_per_hour`: rows of `hour` and `commits`.

    The hours are those of `time_zone`; the driver returns them in the zone of the connection.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """
    _zone(time_zone)
    hour: ColumnElement[datetime | None] = func.date_trunc(
        literal_column("'hour'"),
        GithubEvent.created_at,
        # Without this argument, date_trunc uses the zone of the session: on Citus, the workers'.
        _bound("time_zone", time_zone, Text()),
        type_=GithubEvent.created_at.type,
    )
    return (
        select(hour.label("hour"), _COMMITS)
        .where(_IS_PUSH, *_in_window(GithubEvent.created_at, since, until))
        .group_by(hour)
        .order_by("hour")
    )


def _zone(time_zone: str) -> ZoneInfo:
    try:
        return zone_of(time_zone)
    # ZoneInfo looks names up as files, so a folder or a path is unknown in a way of its own.
    except (KeyError, ValueError, OSError, TypeError, AttributeError) as error:
        raise ArgumentError(
            f"time_zone must be the IANA name of a time zone, such as 'Europe/Berlin'; found "
            f"{time_zone!r}, which is not in this machine's time zone database (the package "
            f"'tzdata' provides one)"
        ) from error


@dataclass(frozen=True, slots=True)
class RepositoryCreator:
    """How many repositories one account created.

    Attributes:
        login: The account's name. None stands for all the users whose name is not known.
        repositories: The number of repositories, at least 1.
    """

    login: str | None
    repositories: int


def top_repository_creators(
    session: Executor,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
    after: RepositoryCreator | None = None,
    freshness: Freshness = "fresh",
) -> list[RepositoryCreator]:
    """Return who created repositories, the greatest number first.

    Equal numbers are in the order of the logins' code points, the unknown login last. Events of
    users who are not in `github_users` are left out, as the tutorial's join leaves them out.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    answer = _creators().ask(
        session,
        since=since,
        until=until,
        limit=limit,
        after=_place(RepositoryCreator, after),
        freshness=freshness,
    )
    return [RepositoryCreator(login, repositories) for login, repositories in answer]


def top_repository_creators_statement(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> Select[str | None, int]:
    """Return the statement of `top_repository_creators`: rows of `login` and `repositories`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """
    in_window = _in_window(GithubEvent.created_at, since, until)
    return _CREATORS.where(*in_window).limit(_limit(limit))


@dataclass(frozen=True, slots=True)
class UserActivity:
    """How many events one user had in one minute.

    Attributes:
        user_id: GitHub's id of the user. None stands for the events of no known user.
        minute: The start of the minute, in the zone of the connection. Where the window begins
            or ends within it, only the events in the window count.
        events: The number of events, of all types and on all repositories, at least 1.
    """

    user_id: int | None
    minute: datetime
    events: int


def most_active_users(
    session: Executor,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = 5,
    after: UserActivity | None = None,
    freshness: Freshness = "fresh",
) -> list[UserActivity]:
    """Return the users and minutes with the most events, the greatest number first.

    Equal numbers are in the order of the minute, then of the user's id, an unknown one last. Events
    without a time were in no minute, and are left out, as from the tutorial's rollup.

    The events are those of the window to the instant, like everywhere else. Of whole minutes the
    numbers are those of the tutorial's SQL over `github_rollup_1min`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    answer = _activity().ask(
        session,
        since=since,
        until=until,
        limit=limit,
        after=_place(UserActivity, after, bucket="minute"),
        freshness=freshness,
    )
    return [UserActivity(user_id, minute, events) for minute, user_id, events in answer]


def most_active_users_statement(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = 5,
) -> Select[int | None, datetime, int]:
    """Return the statement of `most_active_users`: rows of `user_id`, `minute` and `events`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """
    statement = _activity().raw_statement(since=since, until=until)
    columns = statement.selected_columns
    minute: Any = columns["bucket"]
    shown = [columns["user_id"], minute.element.label("minute"), columns["events"]]
    statement = statement.with_only_columns(*shown).order_by(None)
    order = [text("events DESC"), text("minute"), text("user_id NULLS LAST")]
    return statement.order_by(*order).limit(_limit(limit))


@dataclass(frozen=True, slots=True)
class EventsOfType:
    """How many events of one type there were in one bucket.

    Attributes:
        bucket: The start of the bucket, None for the events without a time.
        event_type: The type, None where it is not known.
        events: The number of events.
    """

    bucket: datetime | None
    event_type: str | None
    events: int


def events_by_type(
    session: Executor,
    *,
    every: str = "1 hour",
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
    freshness: Freshness = "fresh",
) -> list[EventsOfType]:
    """Return the events by type over time, in order of time and then of the type.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    asked = _Asked(every=every, by="event_type", event_type=event_type)
    return [EventsOfType(*row) for row in asked.answer(session, since, until, freshness)]


def events_by_type_statement(
    *,
    every: str = "1 hour",
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
) -> Select[datetime | None, str | None, int]:
    """Return the statement of `events_by_type`: rows of `bucket`, `event_type` and `events`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """
    asked = _Asked(every=every, by="event_type", event_type=event_type)
    return asked.statement(since, until)


@dataclass(frozen=True, slots=True)
class Activity:
    """How many events there were in one bucket.

    Attributes:
        bucket: The start of the bucket, None for the events without a time.
        events: The number of events.
    """

    bucket: datetime | None
    events: int


def user_activity(
    session: Executor,
    user_id: int | None,
    *,
    every: str = "1 day",
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
    freshness: Freshness = "fresh",
) -> list[Activity]:
    """Return the events of the user with this id over time, in order of time.

    None asks for the events of no known user.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    asked = _Asked(every=every, user_id=user_id, event_type=event_type)
    return [Activity(*row) for row in asked.answer(session, since, until, freshness)]


def user_activity_statement(
    user_id: int | None,
    *,
    every: str = "1 day",
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
) -> Select[datetime | None, int]:
    """Return the statement of `user_activity`: rows of `bucket` and `events`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """
    asked = _Asked(every=every, user_id=user_id, event_type=event_type)
    return asked.statement(since, until)


def repository_activity(
    session: Executor,
    repo_id: int | None,
    *,
    every: str = "1 day",
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
    freshness: Freshness = "fresh",
) -> list[Activity]:
    """Return the events on the repository with this id over time, in order of time.

    None asks for the events on no known repository.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    asked = _Asked(every=every, repo_id=repo_id, event_type=event_type)
    return [Activity(*row) for row in asked.answer(session, since, until, freshness)]


def repository_activity_statement(
    repo_id: int | None,
    *,
    every: str = "1 day",
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
) -> Select[datetime | None, int]:
    """Return the statement of `repository_activity`: rows of `bucket` and `events`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """
    asked = _Asked(every=every, repo_id=repo_id, event_type=event_type)
    return asked.statement(since, until)


@dataclass(frozen=True, slots=True)
class ActiveUsers:
    """How many different users had events in one bucket.

    Attributes:
        bucket: The start of the bucket, None for the events without a time.
        users: The number of users; events without a user do not count.
    """

    bucket: datetime | None
    users: int


def active_users(
    session: Executor,
    *,
    every: str = "1 day",
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
    freshness: Freshness = "fresh",
) -> list[ActiveUsers]:
    """Return how many different users were active over time, in order of time.

    A user who is active in two buckets counts in both: the numbers of days do not add up to that
    of a month, which is `every="1 month"`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    asked = _Asked("users", every=every, event_type=event_type)
    return [ActiveUsers(*row) for row in asked.answer(session, since, until, freshness)]


def active_users_statement(
    *,
    every: str = "1 day",
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
) -> Select[datetime | None, int]:
    """Return the statement of `active_users`: rows of `bucket` and `users`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """
    return _Asked("users", every=every, event_type=event_type).statement(since, until)


@dataclass(frozen=True, slots=True)
class TrendingRepository:
    """How many events of a type, or of all types, a repository had.

    Attributes:
        repo_id: GitHub's id of the repository, None for the events of no known one.
        events: The number of events, at least 1.
    """

    repo_id: int | None
    events: int


def trending_repositories(
    session: Executor,
    *,
    event_type: str | None = "WatchEvent",
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = 10,
    after: TrendingRepository | None = None,
    freshness: Freshness = "fresh",
) -> list[TrendingRepository]:
    """Return the repositories with the most events of a type, the greatest number first.

    A `"WatchEvent"` is a star, a `"ForkEvent"` a fork; None counts events of all types. Equal
    numbers are in the order of the repository's id, an unknown one last.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    asked = _Asked(by="repo_id", ranked=True, event_type=event_type)
    answer = asked.answer(session, since, until, freshness, limit, after)
    return [TrendingRepository(*row) for row in answer]


def trending_repositories_statement(
    *,
    event_type: str | None = "WatchEvent",
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = 10,
) -> Select[int | None, int]:
    """Return the statement of `trending_repositories`: rows of `repo_id` and `events`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """
    asked = _Asked(by="repo_id", ranked=True, event_type=event_type)
    return asked.statement(since, until, limit)


@dataclass(frozen=True, slots=True)
class Contributor:
    """How many events one user had on a repository.

    Attributes:
        user_id: GitHub's id of the user, None for the events of no known one.
        events: The number of events, at least 1.
    """

    user_id: int | None
    events: int


def top_contributors(
    session: Executor,
    repo_id: int | None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
    limit: int | None = 10,
    after: Contributor | None = None,
    freshness: Freshness = "fresh",
) -> list[Contributor]:
    """Return the users with the most events on the repository with this id, most events first.

    None asks for the events on no known repository. Equal numbers are in the order of the user's
    id, an unknown one last.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    asked = _Asked(by="user_id", ranked=True, repo_id=repo_id, event_type=event_type)
    answer = asked.answer(session, since, until, freshness, limit, after)
    return [Contributor(*row) for row in answer]


def top_contributors_statement(
    repo_id: int | None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
    limit: int | None = 10,
) -> Select[int | None, int]:
    """Return the statement of `top_contributors`: rows of `user_id` and `events`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """
    asked = _Asked(by="user_id", ranked=True, repo_id=repo_id, event_type=event_type)
    return asked.statement(since, until, limit)


@dataclass(frozen=True, slots=True)
class HeatMapCell:
    """How many events there were in one hour of the day on one day of the week.

    Attributes:
        weekday: The day of the week, from 0 for Monday to 6 for Sunday, as Python counts them.
        hour: The hour of the day that the clocks show, from 0 to 23.
        events: The number of events, at least 1.
    """

    weekday: int
    hour: int
    events: int


def heat_map(
    session: Executor,
    *,
    time_zone: str = "UTC",
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
    freshness: Freshness = "fresh",
) -> list[HeatMapCell]:
    """Return the events by weekday and hour, as the clocks of a time zone show them.

    In the order of the weekday and the hour. Cells without an event are left out, and so are events
    without a time, which no clock has shown.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    zone = _zone(time_zone)
    asked = _Asked(every=_hour_of(time_zone), event_type=event_type)
    cells: dict[tuple[int, int], int] = defaultdict(int)
    for bucket, events in asked.answer(session, since, until, freshness):
        if bucket is not None:
            shown: datetime = bucket.astimezone(zone)
            cells[shown.weekday(), shown.hour] += events
    return [HeatMapCell(*cell, events) for cell, events in sorted(cells.items())]


def heat_map_statement(
    *,
    time_zone: str = "UTC",
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
) -> Select[int, int, int]:
    """Return the statement of `heat_map`: rows of `weekday`, `hour` and `events`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """
    _zone(time_zone)
    shown = func.timezone(_bound("time_zone", time_zone, Text()), GithubEvent.created_at)
    weekday = cast(func.date_part(literal_column("'isodow'"), shown) - 1, Integer)
    hour = cast(func.date_part(literal_column("'hour'"), shown), Integer)
    statement = (
        select(weekday.label("weekday"), hour.label("hour"), func.count().label("events"))
        .where(func.isfinite(GithubEvent.created_at))
        .where(*_in_window(GithubEvent.created_at, since, until))
        .group_by(weekday, hour)
        .order_by(text("weekday"), text("hour"))
    )
    return statement.where(*_equal(event_type=event_type))


@dataclass(frozen=True, slots=True)
class PushSizes:
    """Percentiles of the number of distinct commits of a push.

    Attributes:
        pushes: How many pushes say how many commits they had.
        p50: The median: half of those pushes have at most so many; None if there are no pushes.
        p95: 95 % of the pushes have at most so many.
        p99: 99 % of the pushes have at most so many.
    """

    pushes: int
    p50: int | None
    p95: int | None
    p99: int | None


def push_sizes(
    session: Executor,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    freshness: Freshness = "fresh",
) -> PushSizes:
    """Return how many commits pushes have: exact percentiles, PostgreSQL's `percentile_disc`.

    A push has the commits that `commits_per_hour` counts, and does not count if it does not say how
    many these are.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired, or the database has not been migrated.
    """
    rows = _Asked("sizes").answer(session, since, until, freshness)
    known = sorted((commits, events) for commits, events in rows if commits is not None)
    up_to = list(accumulate(events for _, events in known))
    pushes = up_to[-1] if up_to else 0

    def percentile(percent: int) -> int | None:
        return known[bisect_left(up_to, -(-percent * pushes // 100))][0] if known else None

    return PushSizes(pushes, percentile(50), percentile(95), percentile(99))


def push_sizes_statement(
    *, since: datetime | None = None, until: datetime | None = None
) -> Select[int, int | None, int | None, int | None]:
    """Return the statement of `push_sizes`: one row of `pushes`, `p50`, `p95` and `p99`.

    Raises:
        ArgumentError: An argument cannot be accepted; the message says why.
    """

    def percentile(fraction: str) -> Label[int | None]:
        found = func.percentile_disc(literal_column(fraction)).within_group(DISTINCT_SIZE)
        return found.label(f"p{fraction[2:]}")

    pushes = func.count(DISTINCT_SIZE).label("pushes")
    return (
        select(pushes, percentile("0.50"), percentile("0.95"), percentile("0.99"))
        .select_from(GithubEvent)
        .where(_IS_PUSH, *_in_window(GithubEvent.created_at, since, until))
    )


_BEGINNING: Final[ColumnElement[Any]] = literal_column("'-infinity'")
_END: Final[ColumnElement[Any]] = literal_column("'infinity'")

# The questions, each made when it is first asked.


@cache
def _counted(*, typed: bool) -> Question:
    where = GithubEvent.event_type == bindparam("event_type", type_=Text()) if typed else None
    return Question(GithubEvent, measures={"events": count()}, where=where)


@lru_cache(maxsize=64)
def _commits(time_zone: str) -> Question:
    return Question(
        GithubEvent,
        measures={"commits": total(COMMITS)},
        every=_hour_of(time_zone),
        where=IS_PUSH,
    )


class _Creators(Question):
    """Who created repositories, by login: several users may have one, and some have none."""

    further = GITHUB_LOGINS

    def columns(self) -> list[Column[Any]]:
        return [Column("login", Text()), Column("repositories", BigInteger())]

    def order(self) -> list[Order]:
        return [Order(name="repositories", descending=True), Order(name="login", collation="C")]

    def joined(self, rows: str, schema: str | None) -> str:
        users = qualify("github_users", schema)
        return (
            "SELECT u.login, sum(q._rows)::bigint AS repositories\n"
            f"FROM (\n{rows}\n) AS q JOIN {users} AS u ON q.user_id = u.user_id\n"
            "GROUP BY u.login HAVING sum(q._rows) > 0"
        )

    def greatest(
        self,
        legs: Sequence[str],
        table: str,
        further: RollupSpec,
        beyond: str,
        *,
        distributed: bool,
    ) -> str:
        users = qualify("github_users", further.schema)
        logins = qualify("github_logins", further.schema)
        state, log = (qualify(name, further.schema) for name in (further.state, further.log))
        (logged,) = (t.by["login"] for t in further.targets if t.table == "github_logins")
        login = further.columns[logged].replace("r.", "u.")  # As the rollup has it: shortened.
        same = f"left(u.login, 100) = left(s.login, 100) AND {login} = s.login"
        # The users whose number is not that of their login are counted: those who share it, or
        # have none, or may do so since the last run, and those with pending events. All others are
        # read by the ranking.
        if distributed:
            changed = [f"SELECT l.key AS user_id, l.{quote(logged)} AS login FROM {log} AS l"]
            changed += (f"SELECT q._key, NULL::text FROM ({leg}) AS q" for leg in legs[1:])
            # Each node sees what is shared and what has changed: nothing else is sent around. It is
            # read by itself, or a transaction that has changed it could not ask.
            return f"""WITH shared AS MATERIALIZED (
  SELECT s.login FROM {logins} AS s WHERE s.users > 1 AND s.login IS NOT NULL
), changed AS MATERIALIZED (
  SELECT c.user_id, c.login FROM ({" UNION ".join(changed)}) AS c
), added AS (
  SELECT a.login, sum(q._rows)::bigint AS repositories FROM (
    SELECT u.user_id, u.login FROM changed AS s JOIN {users} AS u ON u.user_id = s.user_id
    UNION SELECT u.user_id, u.login FROM changed AS s JOIN {users} AS u ON {same}
    UNION SELECT u.user_id, u.login FROM shared AS s JOIN {users} AS u ON {same}
    UNION SELECT u.user_id, u.login FROM {users} AS u WHERE left(u.login, 100) IS NULL
  ) AS a JOIN ({" UNION ALL ".join(legs)}) AS q ON q.user_id = a.user_id
  GROUP BY a.login HAVING sum(q._rows) > 0
), others AS (
  SELECT p.login, p.repositories FROM (
    SELECT u.login, t.repositories FROM {table} AS t JOIN {users} AS u ON u.user_id = t.user_id
    WHERE t.repositories > 0 AND left(u.login, 100) IS NOT NULL
    AND t.user_id NOT IN (SELECT s.user_id FROM changed AS s WHERE s.user_id IS NOT NULL)
    AND {login} NOT IN (SELECT s.login FROM changed AS s WHERE s.login IS NOT NULL)
    AND {login} NOT IN (SELECT s.login FROM shared AS s)
  ) AS p WHERE {beyond}
  ORDER BY p.repositories DESC NULLS LAST, p.login COLLATE "C" LIMIT :limit\0
)
SELECT * FROM added UNION ALL SELECT * FROM others"""

        def few(query: str) -> str:
            # PostgreSQL expects little in an array, and looks it up by an index.
            return f"SELECT unnest(ARRAY({query}))"

        # Every login may be shared until the rollup has been filled.
        shared = f"""
      SELECT s.login FROM {logins} AS s WHERE s.users > 1
      UNION SELECT l.{quote(logged)} FROM {log} AS l
      UNION SELECT {login} FROM {users} AS u WHERE NOT EXISTS (
        SELECT FROM {state} AS s
        WHERE s.target = 'github_logins' AND s.complete_since = '-infinity'
      )
    """
        pending = "".join(
            f"""
    UNION SELECT u.user_id, u.login FROM {users} AS u WHERE u.user_id IN (
      {few(f"SELECT q.user_id FROM ({leg}) AS q")}
    )"""
            for leg in legs[1:]
        )
        rows = "\n    UNION ALL ".join(
            f"SELECT c.login, q._rows FROM counted AS c JOIN ({leg}) AS q ON q.user_id = c.user_id"
            for leg in legs
        )
        # NOT IN, unlike NOT EXISTS, looks them up in a hash table. Equal numbers are in the order
        # of the logins, so that all of them are needed.
        return f"""WITH counted AS (
  SELECT q.user_id, q.login FROM (
    SELECT u.user_id, u.login FROM ({few(shared)}) AS s (login)
    JOIN {users} AS u ON {same}
    UNION SELECT u.user_id, u.login FROM {users} AS u WHERE left(u.login, 100) IS NULL{pending}
  ) AS q
), added AS (
  SELECT a.login, sum(a._rows)::bigint AS repositories FROM (
    {rows}
  ) AS a GROUP BY a.login HAVING sum(a._rows) > 0
), others AS (
  SELECT p.login, p.repositories FROM (
    SELECT u.login, t.repositories FROM {table} AS t JOIN {users} AS u ON u.user_id = t.user_id
    WHERE t.repositories > 0
    AND t.user_id NOT IN (SELECT c.user_id FROM counted AS c WHERE c.user_id IS NOT NULL)
  ) AS p WHERE {beyond}
  ORDER BY p.repositories DESC NULLS LAST FETCH FIRST (:limit\0) ROWS WITH TIES
)
SELECT * FROM added UNION ALL SELECT * FROM others"""

    def raw_statement(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> Select[Any]:
        return cast_type("Select[Any]", top_repository_creators_statement(since=since, until=until))


@cache
def _creators() -> Question:
    return _Creators(
        GithubEvent,
        measures={"repositories": count()},
        by=[GithubEvent.user_id],
        where=CREATES_REPOSITORY,
        ranked="repositories",
    )


@cache
def _activity() -> Question:
    return Question(
        GithubEvent,
        measures={"events": count()},
        by=[GithubEvent.user_id],
        every="1 minute",
        ranked="events",
        # As the rollup of the tutorial, which has minutes of events with a time alone.
        undated=False,
    )


def _hour_of(time_zone: str) -> str:
    return "1 hour" if time_zone == "UTC" else f"1 hour at {time_zone}"


class _Asked:
    """What is asked about the events whose columns have some values, where these are given."""

    def __init__(
        self,
        measure: Literal["events", "users", "sizes"] = "events",
        *,
        every: str | None = None,
        by: Literal["event_type", "repo_id", "user_id"] | None = None,
        ranked: bool = False,
        **equal: int | str | None,
    ) -> None:
        self._asked = (measure, every, by, ranked)
        self._equal = {n: _given(n, value) for n, value in equal.items() if value is not None}
        # No type stands for all of them, but no id for the events that have none.
        self._unknown = tuple(n for n, v in equal.items() if v is None and n != "event_type")

    def answer(
        self,
        session: Executor,
        since: datetime | None,
        until: datetime | None,
        freshness: Freshness,
        limit: int | None = None,
        after: TrendingRepository | Contributor | None = None,
    ) -> Answer:
        # The rollup of stars and forks serves what says that it is about these.
        stars = self._equal.get("event_type") in ("WatchEvent", "ForkEvent")
        question = _question(*self._asked, self._unknown, (*self._equal,), stars)
        return question.ask(
            session,
            since=since,
            until=until,
            limit=limit,
            after=_place(Contributor if self._asked[2] == "user_id" else TrendingRepository, after),
            freshness=freshness,
            parameters=self._equal,
        )

    def statement(
        self, since: datetime | None, until: datetime | None, limit: int | None = None
    ) -> Select[*tuple[Any, ...]]:
        """Return the statement over the events, whose values are bound under names of their own."""
        question = _question(*self._asked, self._unknown)
        statement = question.raw_statement(since=since, until=until)
        return statement.where(*_equal(**self._equal)).limit(_limit(limit))


def _place(of: type[Any], after: Any, **named: str) -> dict[str, Any] | None:
    """Return the row of an answer that a result stands for, given other names of its columns."""
    if after is None:
        return None
    if not isinstance(after, of):
        raise ArgumentError(f"after must be a {of.__name__} of an earlier answer; found {after!r}")
    found = asdict(after)
    return found | {column: found[name] for column, name in named.items()}


def _given(name: str, value: Any) -> int | str:
    """Return a value that a column can be compared with: a type of event, or an id."""
    if name == "event_type":
        if isinstance(value, str) and "\0" not in value:
            return value
        raise ArgumentError(
            f"event_type must be a string such as 'PushEvent', or None for events of all types; "
            f"found {value!r}"
        )
    # Whatever is an integer, such as one of numpy's; a bool is one to Python alone.
    number = index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else None
    if number is None or not -(2**63) <= number < 2**63:
        raise ArgumentError(
            f"{name} must be GitHub's id, an integer of 64 bits and not a name, or None for the "
            f"events that have none; found {value!r}"
        )
    return number


def _equal(**equal: int | str | None) -> list[ColumnElement[bool]]:
    return [
        getattr(GithubEvent, name)
        == _bound(name, _given(name, value), getattr(GithubEvent, name).type)
        for name, value in equal.items()
        if value is not None
    ]


@lru_cache(maxsize=512)
def _question(
    measure: str,
    every: str | None,
    by: str | None,
    ranked: bool,
    unknown: tuple[str, ...],
    equal: tuple[str, ...] = (),
    stars: bool = False,
) -> Question:
    conditions: list[ColumnElement[bool]] = [
        getattr(GithubEvent, name).is_(None) for name in unknown
    ]
    conditions += (
        getattr(GithubEvent, name) == bindparam(name, type_=getattr(GithubEvent, name).type)
        for name in equal
    )
    if stars:
        conditions.append(STARS_OR_FORKS)
    if measure == "sizes":
        conditions.append(COMMITS.is_not(None))
    return Question(
        GithubEvent,
        measures={"users": distinct(GithubEvent.user_id)}
        if measure == "users"
        else {"events": count()},
        by=[COMMITS] if measure == "sizes" else [getattr(GithubEvent, by)] if by else [],
        every=every,
        where=and_(*conditions) if conditions else None,
        ranked="events" if ranked else None,
    )


def _in_window(
    time: InstrumentedAttribute[datetime | None], since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    """Return the conditions that put `time` into `[since, until)`: ranges an index can serve."""
    since, until = checked_window(since, until)
    # Rows whose time is not finite are in no window.
    if since is None:
        return (
            [] if until is None else [time > _BEGINNING, time < _bound("until", until, time.type)]
        )
    if until is None:
        return [time >= _bound("since", since, time.type), time < _END]
    return [
        time >= _bound("since", since, time.type),
        time < _bound("until", until, time.type),
    ]


def _limit(limit: int | None) -> BindParameter[int] | None:
    # bool is an int to Python, but nobody who passes one means a number of rows.
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ArgumentError(
            f"limit must be a positive integer, or None for every row; found {limit!r}"
        )
    return None if limit is None else _bound("limit", limit, BigInteger())


def _bound(name: str, value: Any, type_: TypeEngine[Any]) -> BindParameter[Any]:
    """Return a bound value whose name in the SQL tells which argument it is."""
    return bindparam(name, value, type_, unique=True)
