"""What a typed analytic costs over the bare driver that runs the same SQL.

The tables are small, 1,000 events of one day, so that little hides the Python around the query.
They live in a schema of their own, in a transaction that is rolled back. Per question, four ways
to ask it take turns on one connection, and the medians of their times are compared:

- driver: a psycopg cursor, `execute` and `fetchall` of the compiled SQL with its parameters;
- connection, session: the typed function on a SQLAlchemy Connection, or Session;
- builder: the statement built anew each time, and executed on the Connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Connection, Select, create_engine, insert, text
from sqlalchemy.orm import Session

from citus_analytics import queries
from citus_analytics.models import Base, github_events, github_rollup_1min, github_users

if TYPE_CHECKING:
    from psycopg import Connection as DriverConnection

ROUNDS = 1_000
EVENTS = 1_000
USERS = 97
MIDNIGHT = datetime(2026, 1, 5, tzinfo=UTC)

_Ask: TypeAlias = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Question:
    """One analytic with its filters: the typed function, and the builder of its statement."""

    name: str
    function: Callable[..., object]
    builder: Callable[..., Select[*tuple[Any, ...]]]
    filters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Overhead:
    """The medians of one question: the driver's in seconds, the others' as ratios to it."""

    question: str
    rows: int
    driver: float
    connection: float
    session: float
    builder: float


def questions() -> list[Question]:
    """Return the questions, with answers of 1 to 24 rows."""
    hours = {"since": MIDNIGHT, "until": MIDNIGHT + timedelta(hours=6)}
    count = (queries.count_events, queries.count_events_statement)
    commits = (queries.commits_per_hour, queries.commits_per_hour_statement)
    creators = (queries.top_repository_creators, queries.top_repository_creators_statement)
    active = (queries.most_active_users, queries.most_active_users_statement)
    return [
        Question("count_events()", *count, {}),
        Question("count_events(6 hours)", *count, hours),
        Question("count_events(6 hours, type)", *count, {**hours, "event_type": "PushEvent"}),
        Question("commits_per_hour()", *commits, {}),
        Question("commits_per_hour(6 hours)", *commits, hours),
        Question("commits_per_hour(Kolkata)", *commits, {"time_zone": "Asia/Kolkata"}),
        Question("top_repository_creators(5)", *creators, {"limit": 5}),
        Question("most_active_users()", *active, {}),
        Question("most_active_users(6 hours)", *active, hours),
    ]


def run(url: str, *, rounds: int = ROUNDS) -> list[Overhead]:
    """Measure every question on the server at `url`, print a line for each, and return them."""
    engine = create_engine(url)
    print(
        f"{'question':<28}{'rows':>5}{'driver':>10}{'connection':>12}{'session':>9}{'builder':>9}"
    )
    try:
        with engine.connect() as connection:
            _fill(connection)
            results = [_measure(connection, question, rounds) for question in questions()]
            connection.rollback()
    finally:
        engine.dispose()
    return results


def _measure(connection: Connection, question: Question, rounds: int) -> Overhead:
    with Session(connection) as session:
        ways: list[_Ask] = [
            _driver(connection, question),
            partial(question.function, connection, **question.filters),
            partial(question.function, session, **question.filters),
            lambda: connection.execute(question.builder(**question.filters)).all(),
        ]
        seconds = _medians(ways, rounds)
    ratios = [each / seconds[0] for each in seconds[1:]]
    rows = len(connection.execute(question.builder(**question.filters)).all())
    print(
        f"{question.name:<28}{rows:>5}{seconds[0] * 1e6:>7.0f} us"
        f"{ratios[0]:>12.2f}{ratios[1]:>9.2f}{ratios[2]:>9.2f}",
        flush=True,
    )
    return Overhead(question.name, rows, seconds[0], *ratios)


def _medians(ways: list[_Ask], rounds: int) -> list[float]:
    """Return the median seconds of each way; they take turns, so that noise hits all alike."""
    for ask in ways * 20:  # Past psycopg's and PostgreSQL's thresholds for prepared plans.
        ask()
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds):
        for step in range(len(ways)):
            which = (turn + step) % len(ways)
            start = perf_counter()
            ways[which]()
            times[which].append(perf_counter() - start)
    return [median(each) for each in times]


def _driver(connection: Connection, question: Question) -> _Ask:
    compiled = question.builder(**question.filters).compile(dialect=connection.dialect)
    sql, parameters = str(compiled).encode(), dict(compiled.params)
    driver: DriverConnection[Any] | None = connection.connection.dbapi_connection  # type: ignore[assignment]
    assert driver is not None
    return lambda: driver.cursor().execute(sql, parameters).fetchall()


def _fill(connection: Connection) -> None:
    connection.execute(text("CREATE SCHEMA query_overhead"))
    connection.execute(text("SET LOCAL search_path TO query_overhead"))
    Base.metadata.create_all(connection, checkfirst=False)
    events = [_event(number) for number in range(EVENTS)]
    connection.execute(insert(github_events), events)
    connection.execute(
        insert(github_users), [{"user_id": each, "login": f"user{each}"} for each in range(USERS)]
    )
    connection.execute(
        insert(github_rollup_1min),
        [
            {
                "event_type": event["event_type"],
                "repo_id": event["repo_id"],
                "user_id": event["user_id"],
                "total_events": 1 + event["event_id"] % 3,
                "ingest_time": event["created_at"].replace(second=0),
            }
            for event in events
        ],
    )
    for table in (github_events, github_users, github_rollup_1min):
        connection.execute(text(f"ANALYZE {table.name}"))


def _event(number: int) -> dict[str, Any]:
    push = number % 2 == 0
    return {
        "event_id": number,
        "event_type": "PushEvent" if push else "CreateEvent",
        "repo_id": number % 50,
        "user_id": number % USERS,
        "payload": {"distinct_size": number % 5} if push else {"ref_type": "repository"},
        "created_at": MIDNIGHT + number * timedelta(days=1) / EVENTS,
    }
