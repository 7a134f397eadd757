"""The analytics on a database: against the tutorial's SQL, plain Python, and at the edges."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeAlias
from zoneinfo import ZoneInfo

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, text, update

from citus_analytics.errors import ArgumentError, RollupError
from citus_analytics.github import analytics
from citus_analytics.github.models import (
    GITHUB_LOGINS,
    GITHUB_ROLLUP_1MIN,
    Base,
    GithubEvent,
    github_users,
)
from citus_analytics.migrations import DropRollupsOp
from citus_analytics.rollups.ask import Question
from citus_analytics.rollups.declare import count, specs_of
from citus_analytics.rollups.run import run_rollup
from tests.database.analytics_data import (
    CLOCK_CHANGES,
    INT_MAX,
    UNFIT_SIZES,
    ZONES,
    Event,
    add_events,
    in_utc,
    instants,
    push,
    random_events,
    random_users,
    set_zone,
)
from tests.tutorial import COMMITS_PER_HOUR, COUNT, MOST_ACTIVE_USERS, REPOSITORY_CREATORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Session

    from citus_analytics.rollups.ask import Freshness

Window: TypeAlias = tuple[datetime | None, datetime | None]

EVER = datetime.max.replace(tzinfo=UTC)


def test_empty_tables(session: Session) -> None:
    assert analytics.count_events(session) == 0
    assert analytics.commits_per_hour(session) == []
    assert analytics.top_repository_creators(session) == []
    assert analytics.most_active_users(session) == []


def test_count_is_the_tutorials(connection: Connection) -> None:
    add_events(connection, random_events(500))
    counted = analytics.count_events(connection)
    assert counted == connection.exec_driver_sql(COUNT).scalar_one() == 500
    assert type(counted) is int


def test_commits_are_the_tutorials_in_every_zone(connection: Connection) -> None:
    add_events(connection, random_events(800))
    for zone in ZONES:
        set_zone(connection, zone)
        rows = connection.exec_driver_sql(COMMITS_PER_HOUR).all()
        expected = [(in_utc(hour), commits) for hour, commits in rows]
        assert len(expected) > 30
        assert expected[-1][0] is None
        for session_zone in (zone, "Pacific/Chatham", "<-03:17>+03:17"):
            set_zone(connection, session_zone)
            found = analytics.commits_per_hour(connection, time_zone=zone)
            assert instants(found) == expected
            assert {each.hour.tzinfo for each in found if each.hour} == {ZoneInfo(zone)}
            assert {type(each.commits) for each in found} == {int, type(None)}


def test_the_hour_that_is_repeated_counts_as_two(connection: Connection) -> None:
    start = datetime(2025, 10, 26, 0, 30, tzinfo=UTC)
    add_events(
        connection, [push(start + n * timedelta(hours=1), distinct_size=10**n) for n in range(3)]
    )
    found = analytics.commits_per_hour(connection, time_zone="Europe/Berlin")
    shown = [(each.hour.isoformat(), each.commits) for each in found if each.hour]
    assert shown == [
        ("2025-10-26T02:00:00+02:00", 1),
        ("2025-10-26T02:00:00+01:00", 10),
        ("2025-10-26T03:00:00+01:00", 100),
    ]


def test_pushes_without_a_usable_size(connection: Connection) -> None:
    noon = datetime(2026, 1, 5, 12, tzinfo=UTC)
    hours = [noon + n * timedelta(hours=1) for n in range(len(UNFIT_SIZES))]
    for hour, size in zip(hours, UNFIT_SIZES, strict=True):
        add_events(connection, [push(hour, distinct_size=size)])
    unknown = [analytics.HourlyCommits(hour, None) for hour in hours]
    assert analytics.commits_per_hour(connection) == unknown
    for hour in hours:
        add_events(connection, [push(hour, distinct_size=2), push(hour, size=5)])
    known = [analytics.HourlyCommits(hour, 2) for hour in hours]
    assert analytics.commits_per_hour(connection) == known


def test_creators_are_the_tutorials(connection: Connection) -> None:
    add_events(connection, random_events(1500))
    connection.execute(insert(github_users), random_users())
    expected = [tuple(row) for row in connection.exec_driver_sql(REPOSITORY_CREATORS)]
    found = analytics.top_repository_creators(connection)
    assert [each.repositories for each in found] == [number for _, number in expected]
    expected.sort(key=lambda row: (-row[1], row[0] is None, row[0] or ""))
    assert [(each.login, each.repositories) for each in found] == expected
    assert None in {each.login for each in found}
    assert len({each.repositories for each in found}) < len(found) > 10
    assert analytics.top_repository_creators(connection, limit=3) == found[:3]


LONG = "long login " * 200
changes = st.lists(
    st.one_of(
        # A user who is new, or has another login from now on.
        st.tuples(
            st.just("user"),
            st.integers(1, 9),
            st.sampled_from(["a", "b", "c", "", None, LONG, LONG + "!", LONG[:-1] + "x"]),
        ),
        st.tuples(st.just("gone"), st.integers(1, 9), st.none()),
        st.tuples(st.just("created"), st.integers(1, 10), st.integers(1, 4)),
        st.tuples(st.just("deleted"), st.integers(1, 10), st.none()),
        st.tuples(st.just("run"), st.sampled_from(["events", "users"]), st.none()),
    ),
    min_size=5,
    max_size=30,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=changes, size=st.integers(1, 5))
def test_creators_whatever_becomes_of_users(
    connection: Connection, steps: list[tuple[str, Any, Any]], size: int
) -> None:
    """Logins that are shared, changed, long, unknown; pending and run, page by page."""
    noon = datetime(2026, 1, 5, 12, tzinfo=UTC)
    repository = {"event_type": "CreateEvent", "created_at": noon, "repo_id": 1}
    repository["payload"] = {"ref_type": "repository"}
    with connection.begin_nested() as savepoint:
        for what, which, value in steps:
            if what == "run":
                run_rollup(connection, GITHUB_ROLLUP_1MIN if which == "events" else GITHUB_LOGINS)
            elif what == "created":
                events = [{**repository, "event_id": 1, "user_id": which} for _ in range(value)]
                connection.execute(insert(GithubEvent), events)
            elif what == "deleted":
                connection.execute(delete(GithubEvent).where(GithubEvent.user_id == which))
            elif what == "gone":
                connection.execute(delete(github_users).where(github_users.c.user_id == which))
            else:
                user = github_users.c.user_id == which
                renamed = connection.execute(update(github_users).where(user).values(login=value))
                if not renamed.rowcount:
                    values = {"user_id": which, "login": value}
                    connection.execute(insert(github_users).values(values))
        rows = [tuple(row) for row in connection.exec_driver_sql(REPOSITORY_CREATORS)]
        rows.sort(key=lambda row: (-row[1], row[0] is None, row[0] or ""))
        expected = [analytics.RepositoryCreator(*row) for row in rows]
        found: list[analytics.RepositoryCreator] = []
        page = analytics.top_repository_creators(connection, limit=size)
        while page:
            assert len(page) == min(size, len(expected) - len(found))
            found += page
            page = analytics.top_repository_creators(connection, limit=size, after=page[-1])
        assert found == expected
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        assert expected[:size] == analytics.top_repository_creators(
            connection, limit=size, freshness="rolled_up"
        )
        savepoint.rollback()


def of_users(number: int, seed: int = 4) -> list[Event]:
    """Return events of a few users and minutes, with many ties, some without a time."""
    chance = random.Random(seed)
    noon = datetime(2026, 1, 5, 12, tzinfo=UTC)
    moments = [None, *(noon + n * timedelta(minutes=1) for n in range(5))]
    return [
        {
            "event_id": event_id,
            "event_type": chance.choice(["PushEvent", "WatchEvent", None]),
            "repo_id": chance.choice([1, 2, None]),
            "user_id": chance.randrange(20),
            "created_at": moment
            and moment + timedelta(seconds=chance.randrange(60), milliseconds=event_id % 2),
        }
        for event_id in range(number)
        for moment in [chance.choice(moments)]
    ]


def most_active(
    connection: Connection, *freshness: Freshness, **options: Any
) -> list[tuple[Any, ...]]:
    """Return all of the most active users as tuples, which every way to ask agrees on."""
    found: list[list[tuple[Any, ...]]] = [
        [(each.user_id, each.minute, each.events) for each in rows]
        for rows in (
            analytics.most_active_users(connection, limit=None, freshness=each, **options)
            for each in freshness or ("fresh", "raw", "rolled_up")
        )
    ]
    statement = analytics.most_active_users_statement(limit=None, **options)
    found.append([tuple(row) for row in connection.execute(statement)])
    assert found == [found[0]] * len(found)
    return found[0]


def test_most_active_are_the_tutorials(connection: Connection) -> None:
    events = of_users(700)
    add_events(connection, events[:300])
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    add_events(connection, events[300:])
    before = analytics.most_active_users(connection)
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    expected = connection.exec_driver_sql(MOST_ACTIVE_USERS).all()
    found = analytics.most_active_users(connection)
    assert [each.events for each in found] == [row[2] for row in expected]
    totals: dict[tuple[Any, Any], int] = defaultdict(int)
    for each in events:
        if at := each["created_at"]:
            totals[at.replace(second=0, microsecond=0), each["user_id"]] += 1
    order = sorted(totals.items(), key=lambda each: (-each[1], each[0]))
    every = most_active(connection)
    assert [((minute, user_id), number) for user_id, minute, number in every] == order
    assert sum(number for _, _, number in every) < len(events), "some have no time"
    assert [(each.user_id, each.minute, each.events) for each in found] == every[:5]
    assert found == before
    assert {type(each.events) for each in found} == {int}


def test_a_window_of_most_active_has_its_events_alone(connection: Connection) -> None:
    """To the instant; of whole minutes, the tutorial's rollup says the same."""
    add_events(connection, of_users(700))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    noon = datetime(2026, 1, 5, 12, tzinfo=UTC)
    second = timedelta(seconds=1)
    raw = (
        "SELECT user_id, date_trunc('minute', created_at) AS minute, count(*) AS events "
        "FROM github_events WHERE created_at >= %s AND created_at < %s"
    )
    rollup = (
        "SELECT user_id, ingest_time, sum(total_events) FROM github_rollup_1min "
        "WHERE ingest_time >= %s AND ingest_time < %s"
    )
    end = " GROUP BY 1, 2 ORDER BY 3 DESC, 2, 1"
    for since, until in itertools.combinations([0, 1, 30, 59.9995, 60, 90, 150, 240, 241], 2):
        window = (noon + since * second, noon + until * second)
        asked: dict[str, Any] = {"since": window[0], "until": window[1]}
        if -(-since // 60) < until // 60:
            found = most_active(connection, **asked)
        else:
            found = most_active(connection, "fresh", "raw", **asked)
            # Without a whole minute, there is nothing that a run has rolled up.
            with pytest.raises(RollupError, match="no rollup can answer that"):
                analytics.most_active_users(connection, freshness="rolled_up", **asked)
        expected = [tuple(row) for row in connection.exec_driver_sql(raw + end, window)]
        assert found == expected
        if since % 60 == until % 60 == 0:
            assert found == [tuple(row) for row in connection.exec_driver_sql(rollup + end, window)]
    assert most_active(connection, until=noon + 30 * second) == most_active(
        connection, "fresh", since=noon, until=noon + 30 * second
    )
    total = sum(number for _, _, number in most_active(connection))
    assert total == sum(
        number
        for window in ({"until": noon + 77 * second}, {"since": noon + 77 * second})
        for _, _, number in most_active(connection, **window)
    )


def test_windows_are_half_open(connection: Connection) -> None:
    start = datetime(2026, 1, 5, 12, tzinfo=UTC)
    end = start + timedelta(hours=1)
    instant = timedelta(microseconds=1)
    for moment in (start - instant, start, end - instant, end, None):
        add_events(
            connection,
            [
                push(moment, distinct_size=1),
                push(moment, ref_type="repository") | {"event_type": "CreateEvent"},
            ],
        )
    connection.execute(insert(github_users), [{"user_id": 1, "login": "ada"}])
    assert analytics.count_events(connection) == 10
    assert analytics.count_events(connection, since=start, until=end) == 4
    assert analytics.count_events(connection, since=start) == 6
    assert analytics.count_events(connection, until=end) == 6
    assert analytics.count_events(connection, event_type="PushEvent", since=start, until=end) == 2
    assert instants(analytics.commits_per_hour(connection, since=start, until=end)) == [(start, 2)]
    assert analytics.top_repository_creators(connection, since=start, until=end) == [
        analytics.RepositoryCreator("ada", 2)
    ]


def test_builders_and_functions_agree(session: Session) -> None:
    add_events(session, random_events(300))
    session.execute(insert(github_users), random_users())
    since, until = CLOCK_CHANGES[0] - timedelta(hours=2), CLOCK_CHANGES[2]
    counted = session.execute(
        analytics.count_events_statement(since=since, until=until)
    ).scalar_one()
    assert 0 < counted == analytics.count_events(session, since=since, until=until) < 300
    hourly = session.execute(analytics.commits_per_hour_statement(since=since, until=until)).all()
    assert [tuple(each) for each in hourly] == instants(
        analytics.commits_per_hour(session, since=since, until=until)
    )
    creators = session.execute(
        analytics.top_repository_creators_statement(limit=4, since=since, until=until)
    ).all()
    assert [analytics.RepositoryCreator(*each) for each in creators] == (
        analytics.top_repository_creators(session, limit=4, since=since, until=until)
    )


def test_a_window_from_the_first_to_the_last_moment(connection: Connection) -> None:
    since = datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))
    until = datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))
    add_events(connection, [push(CLOCK_CHANGES[0])])
    assert analytics.count_events(connection, since=since, until=until) == 1
    with pytest.raises(ArgumentError, match="is empty"):
        analytics.count_events(connection, since=until, until=since)


times = st.one_of(
    st.datetimes(datetime(2015, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.builds(
        lambda change, seconds: change + timedelta(seconds=seconds),
        st.sampled_from(CLOCK_CHANGES),
        st.integers(-9000, 9000),
    ),
)
sizes = st.one_of(st.integers(0, 30), st.integers(), st.sampled_from(UNFIT_SIZES))
payloads = st.fixed_dictionaries({}, optional={"distinct_size": sizes})
pushes = st.builds(
    lambda moment, payload: push(moment, **payload), st.one_of(st.none(), times), payloads
)
windows: st.SearchStrategy[Window] = st.one_of(
    st.tuples(st.one_of(st.none(), times), st.none()),
    st.tuples(st.none(), times),
    st.tuples(times, times).filter(lambda pair: pair[0] < pair[1]),
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=st.lists(pushes, max_size=25), zone=st.sampled_from(ZONES), window=windows)
def test_answers_are_those_of_plain_python(
    connection: Connection, events: list[Event], zone: str, window: Window
) -> None:
    since, until = window
    with connection.begin_nested() as savepoint:
        add_events(connection, events)
        counted = analytics.count_events(connection, since=since, until=until)
        hourly = analytics.commits_per_hour(connection, since=since, until=until, time_zone=zone)
        savepoint.rollback()
    selected = [event for event in events if is_in(window, event["created_at"])]
    assert counted == len(selected)
    assert instants(hourly) == hours_in_python(selected, ZoneInfo(zone))


def is_in(window: Window, moment: datetime | None) -> bool:
    if window == (None, None):
        return True
    since, until = window
    return moment is not None and (since or moment) <= moment < (until or EVER)


def hours_in_python(
    events: Sequence[Event], zone: ZoneInfo
) -> list[tuple[datetime | None, int | None]]:
    sums: dict[datetime | None, int | None] = {}
    for event in events:
        hour = start_of_hour(event["created_at"], zone)
        size = event["payload"].get("distinct_size")
        sums.setdefault(hour, None)
        if type(size) is int and -(2**31) <= size <= INT_MAX:
            sums[hour] = (sums[hour] or 0) + size
    return sorted(sums.items(), key=lambda each: each[0] or EVER)


def start_of_hour(moment: datetime | None, zone: ZoneInfo) -> datetime | None:
    if moment is None:
        return None
    shown = moment.astimezone(zone)
    return moment - timedelta(
        minutes=shown.minute, seconds=shown.second, microseconds=shown.microsecond
    )


# From rollups, and without them.


def answers(session: Session | Connection, **options: Any) -> list[object]:
    """Return what everything says that has a freshness."""
    window = {name: options[name] for name in ("since", "until") if name in options}
    zone = options.pop("time_zone", "UTC")
    freshness = options["freshness"]
    return [
        analytics.count_events(session, **options),
        analytics.count_events(session, event_type="PushEvent", **options),
        analytics.count_events(session, event_type="x" * 200, **options),
        analytics.commits_per_hour(session, time_zone=zone, **options),
        analytics.top_repository_creators(session, **options),
        analytics.top_repository_creators(session, limit=3, **options),
        *(
            analytics.most_active_users(session, limit=limit, freshness=freshness, **window)
            for limit in (5, None)
        ),
    ]


SOME_WINDOWS: list[dict[str, Any]] = [
    {},
    {"since": CLOCK_CHANGES[0] - timedelta(minutes=17, seconds=3)},
    {"until": CLOCK_CHANGES[1] + timedelta(minutes=1)},
    {"since": CLOCK_CHANGES[0].replace(minute=0), "until": CLOCK_CHANGES[3]},
    {"since": CLOCK_CHANGES[4], "until": CLOCK_CHANGES[4] + timedelta(seconds=30)},
]


def test_fresh_answers_equal_raw_ones(session: Session) -> None:
    """Rolled up in part, with changes pending; then as of the last run."""
    session.execute(insert(github_users), random_users())
    events = random_events(900)
    add_events(session, events[:600])
    run_rollup(session, GITHUB_ROLLUP_1MIN)
    zones = ("UTC", "Asia/Kolkata", "Australia/Lord_Howe", "Europe/Berlin")
    asked = [
        {**window, "time_zone": zone}
        for window, zone in zip(SOME_WINDOWS, itertools.cycle(zones), strict=False)
    ]
    before = [answers(session, freshness="raw", **each) for each in asked]
    add_events(session, events[600:])
    session.execute(text("DELETE FROM github_events WHERE user_id = 3"))
    for each, rolled_up in zip(asked, before, strict=True):
        raw = answers(session, freshness="raw", **each)
        assert answers(session, freshness="fresh", **each) == raw
        if len(each) == 1:
            assert answers(session, freshness="rolled_up", **each) == rolled_up
    run_rollup(session, GITHUB_ROLLUP_1MIN)
    for each in asked:
        raw = answers(session, freshness="raw", **each)
        assert answers(session, freshness="fresh", **each) == raw
        if len(each) == 1:
            assert answers(session, freshness="rolled_up", **each) == raw


def test_the_most_active_are_found_by_their_ranking(session: Session) -> None:
    """However few rows another table that could serve has."""
    rows = "SELECT 1, timestamptz '2026-01-01Z' + n * interval '1 minute', 1"
    session.execute(
        text(f"INSERT INTO github_user_activity {rows} FROM generate_series(1, 500) AS n")
    )
    session.execute(text("ANALYZE github_user_activity, github_rollup_1min"))
    question = Question(
        GithubEvent,
        measures={"events": count()},
        by=[GithubEvent.user_id],
        every="1 minute",
        ranked="events",
        undated=False,
    )
    minute = datetime(2026, 1, 1, tzinfo=UTC)
    windows: list[dict[str, Any]] = [{}, {"since": minute}]
    windows.append({"since": minute, "until": minute + timedelta(hours=1)})
    for window in windows:
        answer = question.ask(session, limit=3, **window)
        assert answer.plan.rollups == ("github_user_activity",)
        assert [row.events for row in answer] == [1, 1, 1]


def test_without_the_rollups(engine: Engine, session: Session) -> None:
    """An application may have left them out."""
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        operations.invoke(DropRollupsOp(specs_of(Base.metadata)[0]))
        add_events(connection, random_events(100))
    assert answers(session, freshness="fresh") == answers(session, freshness="raw")
    with pytest.raises(RollupError, match="the database has no rollups of 'github_events'"):
        analytics.count_events(session, freshness="rolled_up")
