"""The tutorial's four analytics on GitHub's events, typed.

Each is a function that takes a session or a connection, and a builder that returns the same
statement: to embed in a larger query, to `EXPLAIN`, or to await on an `AsyncSession`. The
statements select mapped classes, so that an application's `do_orm_execute` hooks and
`with_loader_criteria` (tenants, soft deletes) apply to both.

Without filters, each returns what the tutorial's SQL returns, with ties put in a fixed order. The
functions answer from the built-in rollups and what is pending of them, so that the answer equals
the raw events at this moment and costs what it shows, not what is stored: `freshness="fresh"`.
`"rolled_up"` is as of the last run, and `"raw"` is computed from the events, as the statements are.
Where rollups cannot serve (the database has none, or the session has `do_orm_execute` hooks, which
may filter rows), a fresh answer is computed from the events, too.

`since` and `until` are aware datetimes and select the half-open window `[since, until)`, so that
adjacent windows neither overlap nor leave a gap. Rows without a time are in no window.

Every column of the tutorial's tables may be NULL, and so may a value that comes from one: None is
a valid answer, never an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final
from typing import cast as cast_type
from zoneinfo import ZoneInfo

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Select,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    select,
)

from citus_analytics.errors import ArgumentError
from citus_analytics.github.models import (
    COMMITS,
    CREATES_REPOSITORY,
    DISTINCT_SIZE,
    IS_PUSH,
    GithubEvent,
    GithubRollup1Min,
    GithubUser,
)
from citus_analytics.rollups.ask import Freshness, Question
from citus_analytics.rollups.declare import Every, count, total
from citus_analytics.sql import executor_of, qualify

if TYPE_CHECKING:
    from sqlalchemy import BindParameter
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.types import TypeEngine

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

# PostgreSQL sums bigints to a numeric, which the driver would return as a Decimal. A rollup writes
# no NULL totals; a row that was written without one has no events.
_EVENTS: Final = cast(
    func.coalesce(func.sum(GithubRollup1Min.total_events), literal_column("0")), BigInteger
).label("events")
_ACTIVE: Final = (
    select(GithubRollup1Min.user_id, GithubRollup1Min.ingest_time.label("minute"), _EVENTS)
    .group_by(GithubRollup1Min.user_id, GithubRollup1Min.ingest_time)
    .order_by(
        _EVENTS.desc(),
        GithubRollup1Min.ingest_time.asc().nulls_last(),
        GithubRollup1Min.user_id.asc().nulls_last(),
    )
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

    Args:
        session: The session or connection to query. The caller keeps its transaction.
        since: Count events created at this aware datetime or later.
        until: Count events created before this aware datetime.
        event_type: Count events of this type only, such as `"PushEvent"`.
        freshness: `"fresh"` equals the events at this moment, `"rolled_up"` as of the last run, and
            `"raw"` is computed from them.

    Raises:
        ArgumentError: A bound is not an aware datetime, `since` is not before `until`, or `session`
            is something else, such as an `AsyncSession`.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired.
    """
    question = _counted(typed=event_type is not None)
    values = {} if event_type is None else {"event_type": event_type}
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
        ArgumentError: As `count_events` does.
    """
    statement = _COUNT.where(*_in_window(GithubEvent.created_at, since, until))
    if event_type is not None:
        statement = statement.where(
            GithubEvent.event_type == _bound("event_type", event_type, Text())
        )
    return statement


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
        session: The session or connection to query. The caller keeps its transaction.
        since: Take pushes created at this aware datetime or later.
        until: Take pushes created before this aware datetime.
        time_zone: The IANA name of the time zone of the hours, such as `"Asia/Kolkata"`.
        freshness: `"fresh"` equals the events at this moment, `"rolled_up"` as of the last run, and
            `"raw"` is computed from them.

    Raises:
        ArgumentError: A bound is not an aware datetime, `since` is not before `until`, or the
            time zone is unknown.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired.
    """
    zone = checked_zone(time_zone)
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
        ArgumentError: As `commits_per_hour` does.
    """
    checked_zone(time_zone)
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


def checked_zone(time_zone: str) -> ZoneInfo:
    """Return the time zone of a name.

    Raises:
        ArgumentError: There is none.
    """
    try:
        return ZoneInfo(time_zone)
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
    freshness: Freshness = "fresh",
) -> list[RepositoryCreator]:
    """Return who created repositories, the greatest number first.

    Equal numbers are in the order of the logins' code points, the unknown login last. Events of
    users who are not in `github_users` are left out, as the tutorial's join leaves them out.

    Args:
        session: The session or connection to query. The caller keeps its transaction.
        since: Count repositories created at this aware datetime or later.
        until: Count repositories created before this aware datetime.
        limit: Return at most this many creators, or all of them if None.
        freshness: `"fresh"` equals the events at this moment, `"rolled_up"` as of the last run, and
            `"raw"` is computed from them.

    Raises:
        ArgumentError: A bound is not an aware datetime, `since` is not before `until`, or the
            limit is not a positive integer.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired.
    """
    _limit(limit)
    answer = _creators().ask(session, since=since, until=until, limit=limit, freshness=freshness)
    return [RepositoryCreator(login, repositories) for login, repositories in answer]


def top_repository_creators_statement(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> Select[str | None, int]:
    """Return the statement of `top_repository_creators`: rows of `login` and `repositories`.

    Raises:
        ArgumentError: As `top_repository_creators` does.
    """
    in_window = _in_window(GithubEvent.created_at, since, until)
    return _CREATORS.where(*in_window).limit(_limit(limit))


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
    session: Executor,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = 5,
    freshness: Freshness = "fresh",
) -> list[UserActivity]:
    """Return the users and minutes with the most events, the greatest number first.

    As of the last run, the numbers are those of `github_rollup_1min`. Equal numbers are in the
    order of the minute, then of the user's id, unknown ones last.

    Args:
        session: The session or connection to query. The caller keeps its transaction.
        since: Consider minutes that start at this aware datetime or later.
        until: Consider minutes that start before this aware datetime.
        limit: Return at most this many users and minutes, or all of them if None.
        freshness: `"fresh"` equals the events at this moment, `"rolled_up"` as of the last run, and
            `"raw"` is computed from them.

    Raises:
        ArgumentError: A bound is not an aware datetime, `since` is not before `until`, or the
            limit is not a positive integer.
        RollupError: No rollup can answer as of the last run, or events are needed that have been
            expired.
    """
    if freshness == "rolled_up":
        statement = most_active_users_statement(since=since, until=until, limit=limit)
        rows = executor_of(session).execute(statement)
        return [UserActivity(user_id, minute, events) for user_id, minute, events in rows]
    _in_window(GithubEvent.created_at, since, until)
    _limit(limit)
    since, until = (edge and _MINUTE.next_start(edge) for edge in (since, until))
    if since is not None and since == until:
        return []
    answer = _activity().ask(session, since=since, until=until, limit=limit, freshness=freshness)
    return [UserActivity(user_id, minute, events) for minute, user_id, events in answer]


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
    in_window = _in_window(GithubRollup1Min.ingest_time, since, until)
    return _ACTIVE.where(*in_window).limit(_limit(limit))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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
        every="1 hour" if time_zone == "UTC" else f"1 hour at {time_zone}",
        where=IS_PUSH,
    )


class _Creators(Question):
    """Who created repositories, by login: several users may have one, and some have none."""

    def columns(self) -> list[Column[Any]]:
        return [Column("login", Text()), Column("repositories", BigInteger())]

    def order_by(self, alias: str) -> list[str]:
        return [f"{alias}repositories DESC", f'{alias}login COLLATE "C" ASC NULLS LAST']

    def finish(self, query: str, schema: str | None) -> str:
        users = qualify("github_users", schema)
        return (
            "SELECT u.login, sum(q.repositories)::bigint AS repositories\n"
            f"FROM (\n{query}\n) AS q JOIN {users} AS u ON q.user_id = u.user_id GROUP BY u.login"
        )

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
    )


_MINUTE: Final = Every(60)


@cache
def _activity() -> Question:
    return Question(
        GithubEvent,
        measures={"events": count()},
        by=[GithubEvent.user_id],
        every="1 minute",
        ranked="events",
        # As the rollup of the tutorial, which has rows with a time alone.
        undated=False,
    )


def _in_window(
    time: InstrumentedAttribute[datetime | None], since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    """Return the conditions that put `time` into `[since, until)`: ranges an index can serve.

    Raises:
        ArgumentError: A bound is not an aware datetime, or `since` is not before `until`.
    """
    for name, bound in (("since", since), ("until", until)):
        if bound is None:
            continue
        if not isinstance(bound, datetime):
            raise ArgumentError(f"{name} must be an aware datetime; found {bound!r}")
        if bound.utcoffset() is None:
            raise ArgumentError(
                f"{name} must be an aware datetime; found {bound!r}, which has no time zone: "
                f"pass {name}.replace(tzinfo=UTC), or the zone that it was meant in"
            )
    # Within one zone Python compares clock readings, which are wrong when summer time ends; and
    # the first and last of its moments cannot be converted to another zone.
    if since and until and since - _EPOCH >= until - _EPOCH:
        raise ArgumentError(
            f"the window [since, until) is empty: since is {since.isoformat()}, until is "
            f"{until.isoformat()}; pass a since that is earlier than until"
        )
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
