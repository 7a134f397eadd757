"""The analytics without a database: arguments and statements."""

from __future__ import annotations

import inspect
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Select, create_engine, make_url, union_all
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

from citus_analytics.copy import load_csv
from citus_analytics.errors import ArgumentError
from citus_analytics.github import analytics
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN, github_users
from citus_analytics.rollups.run import run_rollup

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=3)
BERLIN = ZoneInfo("Europe/Berlin")

BUILDERS: list[Callable[..., Any]] = [
    analytics.count_events_statement,
    analytics.commits_per_hour_statement,
    analytics.top_repository_creators_statement,
    analytics.most_active_users_statement,
    analytics.events_by_type_statement,
    partial(analytics.user_activity_statement, 7),
    partial(analytics.repository_activity_statement, 7, event_type="PushEvent"),
    analytics.active_users_statement,
    analytics.trending_repositories_statement,
    partial(analytics.top_contributors_statement, 7),
    analytics.heat_map_statement,
    analytics.push_sizes_statement,
]
FUNCTIONS: list[Callable[..., Any]] = [
    analytics.count_events,
    analytics.commits_per_hour,
    analytics.top_repository_creators,
    analytics.most_active_users,
    analytics.events_by_type,
    partial(analytics.user_activity, user_id=7),
    partial(analytics.repository_activity, repo_id=7),
    analytics.active_users,
    analytics.trending_repositories,
    partial(analytics.top_contributors, repo_id=7),
    analytics.heat_map,
    analytics.push_sizes,
]


def with_rollup(session: Any) -> object:
    return run_rollup(session, GITHUB_ROLLUP_1MIN)


def with_csv(session: Any) -> object:
    return load_csv(session, github_users, [b""])


LIMITED: list[Callable[..., Any]] = [
    analytics.top_repository_creators_statement,
    analytics.most_active_users_statement,
    analytics.trending_repositories_statement,
    partial(analytics.top_contributors_statement, 7),
]


def sql_of(statement: Select[*tuple[Any, ...]]) -> str:
    compiled = statement.compile(dialect=psycopg.dialect())  # type: ignore[no-untyped-call]
    return " ".join(str(compiled).split())


@pytest.mark.parametrize("function", [*FUNCTIONS, with_rollup, with_csv])
@pytest.mark.parametrize(
    "session",
    [
        AsyncSession(),
        async_scoped_session(async_sessionmaker(), scopefunc=int),
        create_engine("postgresql+psycopg://"),
        make_url("postgresql://me:secret@host/name"),
        "postgresql://me:secret@host/name",
        None,
    ],
    ids=lambda session: type(session).__name__,
)
def test_what_does_not_execute_is_an_error(function: Callable[[Any], object], session: Any) -> None:
    with pytest.raises(
        ArgumentError, match=rf"a Connection or a Session .* not through {type(session).__name__};"
    ) as caught:
        function(session)
    assert "run_sync of an AsyncSession" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("name", ["since", "until"])
def test_naive_datetime_is_an_error(builder: Callable[..., object], name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^{name} must be .*pass {name}\.replace\(tzinfo="):
        builder(**{name: NOON.replace(tzinfo=None)})


@pytest.mark.parametrize("moment", [date(2026, 1, 5), "2026-01-05T12:00:00Z", 1_767_614_400])
def test_another_type_than_datetime_is_an_error(moment: Any) -> None:
    with pytest.raises(ArgumentError, match="since must be an aware datetime; found"):
        analytics.count_events_statement(since=moment)


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("until", [NOON, NOON - timedelta(microseconds=1)])
def test_empty_window_is_an_error(builder: Callable[..., object], until: datetime) -> None:
    with pytest.raises(ArgumentError, match=r"the window .* is empty: since is 2026-01-05T12"):
        builder(since=NOON, until=until)


def test_window_is_compared_in_time_and_not_by_the_clock() -> None:
    before = datetime(2025, 10, 26, 2, 45, tzinfo=BERLIN)
    after = datetime(2025, 10, 26, 2, 15, tzinfo=BERLIN, fold=1)
    analytics.count_events_statement(since=before, until=after)
    with pytest.raises(ArgumentError, match="is empty"):
        analytics.count_events_statement(since=after, until=before)


@pytest.mark.parametrize("builder", LIMITED)
@pytest.mark.parametrize("limit", [0, -1, True, 2.0, "5"])
def test_limit_is_a_positive_integer(builder: Callable[..., object], limit: object) -> None:
    with pytest.raises(ArgumentError, match=f"limit must be a positive integer.*found {limit!r}"):
        builder(limit=limit)


ANY: Any = None
OF_AN_ID: list[tuple[str, Callable[..., Any]]] = [
    ("user_id", analytics.user_activity_statement),
    ("repo_id", analytics.repository_activity_statement),
    ("repo_id", analytics.top_contributors_statement),
    ("user_id", lambda value: analytics.user_activity(ANY, value)),
    ("repo_id", lambda value: analytics.repository_activity(ANY, value)),
    ("repo_id", lambda value: analytics.top_contributors(ANY, value)),
]


@pytest.mark.parametrize(("name", "function"), OF_AN_ID)
@pytest.mark.parametrize("value", ["citusdata/citus", "7", 2**63, -(2**70), True, 7.0, [7], NOON])
def test_an_id_is_an_integer(name: str, function: Callable[..., object], value: object) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} must be GitHub's id, an integer of 64 bits"):
        function(value)


def test_other_integers_are_ids() -> None:
    class Number:
        """As numpy and pandas have them."""

        def __index__(self) -> int:
            return 7

    number: Any = Number()
    assert 7 in analytics.user_activity_statement(number).compile().params.values()


@pytest.mark.parametrize(
    "function",
    [
        function
        for function in (*BUILDERS, *FUNCTIONS)
        if "event_type" in inspect.signature(function).parameters
        and not getattr(function, "keywords", {}).get("event_type")
    ],
)
@pytest.mark.parametrize("value", [7, b"PushEvent", ["PushEvent"], "a\0b"])
def test_a_type_is_a_string(function: Callable[..., object], value: object) -> None:
    with pytest.raises(ArgumentError, match="event_type must be a string such as 'PushEvent'"):
        function(*([None] if function in FUNCTIONS else []), event_type=value)


@pytest.mark.parametrize("function", [*FUNCTIONS, *BUILDERS])
def test_errors_are_documented(function: Any) -> None:
    function = getattr(function, "func", function)
    described = inspect.getdoc(function) or ""
    assert "Raises:\n    ArgumentError: " in described
    assert ("    RollupError: " in described) is not function.__name__.endswith("_statement")


@pytest.mark.parametrize(
    "zone",
    [
        *("Europe/Atlantis", "", "Europe", "../etc/passwd", "/etc/localtime", "a\0b", None, 1),
        # Files that some machines have beside the time zones, and servers do not know.
        *("localtime", "posixrules", "Factory", "posix/Europe/Berlin", "right/Europe/Berlin"),
    ],
)
def test_unknown_time_zone_is_an_error(zone: Any) -> None:
    with pytest.raises(ArgumentError, match=r"time_zone must be the IANA name .*'Europe/Berlin'"):
        analytics.commits_per_hour_statement(time_zone=zone)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_check_their_arguments_before_they_query(function: Callable[..., object]) -> None:
    with pytest.raises(ArgumentError, match="since must be"):
        function(None, since=NOON.replace(tzinfo=None))


def test_without_filters_nothing_is_filtered() -> None:
    assert sql_of(analytics.count_events_statement()) == (
        "SELECT count(*) AS events FROM github_events"
    )


def test_window_is_a_range_of_the_bare_column() -> None:
    sql = sql_of(analytics.count_events_statement(since=NOON, until=LATER, event_type="PushEvent"))
    assert "WHERE github_events.created_at >= %(since_1)s::TIMESTAMP WITH TIME ZONE AND" in sql
    assert "AND github_events.created_at < %(until_1)s::TIMESTAMP WITH TIME ZONE AND" in sql
    assert "AND github_events.event_type = %(event_type_1)s" in sql


def test_values_are_bound() -> None:
    statement = analytics.most_active_users_statement(since=NOON, until=LATER, limit=7)
    assert {*statement.compile().params.values()} == {NOON, LATER, 7}


def test_hours_do_not_depend_on_the_zone_of_the_session() -> None:
    statement = analytics.commits_per_hour_statement(time_zone="Asia/Kolkata")
    assert "date_trunc('hour', github_events.created_at, %(time_zone_1)s" in sql_of(statement)
    assert statement.compile().params == {"time_zone_1": "Asia/Kolkata"}


@pytest.mark.parametrize("builder", LIMITED)
def test_no_limit_is_every_row(builder: Callable[..., Select[*tuple[Any, ...]]]) -> None:
    assert "LIMIT" not in sql_of(builder(limit=None))


@pytest.mark.parametrize("builder", BUILDERS)
def test_sqlalchemy_caches_one_statement_for_all_values(
    builder: Callable[..., Select[*tuple[Any, ...]]],
) -> None:
    key = builder(since=NOON)._generate_cache_key()
    assert key is not None
    assert key == builder(since=LATER)._generate_cache_key()
    other = builder(until=NOON)._generate_cache_key()
    assert other is not None
    assert key.key != other.key


def test_statements_combine_without_mixing_their_values() -> None:
    days = [
        analytics.count_events_statement(since=NOON, until=LATER),
        analytics.count_events_statement(since=LATER),
    ]
    parameters = union_all(*days).compile().params
    assert sorted(parameters.values()) == [NOON, LATER, LATER]
    users = [analytics.top_contributors_statement(each, limit=each + 1) for each in (3, 5)]
    parameters = union_all(*(each.subquery().select() for each in users)).compile().params
    assert sorted(parameters.values()) == [3, 4, 5, 6]
