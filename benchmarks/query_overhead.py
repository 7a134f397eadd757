"""What a typed analytic costs over the bare driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select
from sqlalchemy.orm import Session

from benchmarks.harness import (
    SINCE,
    Arm,
    Figure,
    alternate,
    execute,
    median_ratio,
    milliseconds,
    say,
    seconds,
)
from citus_analytics import run_rollup
from citus_analytics.github import analytics
from citus_analytics.github.load import load_events, load_users
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.github.sample import Sample

if TYPE_CHECKING:
    from psycopg import Connection as DriverConnection
    from sqlalchemy import Connection, Engine

EVENTS = 1_000
WARM_UP = 20  # Past psycopg's and PostgreSQL's thresholds for prepared plans.


@dataclass(frozen=True, slots=True)
class Question:
    """One analytic with its filters: the typed function, and the builder of its statement."""

    name: str
    function: Callable[..., object]
    builder: Callable[..., Select[*tuple[Any, ...]]]
    filters: dict[str, Any]


def measure(engine: Engine, rows: int) -> list[Figure]:
    """Compare each typed function with psycopg that runs the same SQL.

    Measured: the time of a call on a Connection, and on a Session, when the tables are small,
    1,000 events, so that little hides the Python around the query. The other arm is `execute` and
    `fetchall` of the compiled SQL with its parameters, on the same connection. What SQLAlchemy
    takes to execute the same statement is told beside them.

    Promised: at most 4 times the driver's time, for a question that takes it 0.05 ms: building the
    statement, SQLAlchemy's key for its cache and the ORM's part of the execution take 0.1 to 0.3 ms
    a call, however large the tables are. The turns are a thousandth of `rows`, 10 to 1,000.
    """
    _fill(engine)
    turns = min(max(rows // 1000, 10), 1000)
    with engine.connect() as connection, Session(connection) as session:
        return [
            figure
            for question in _questions()
            for figure in _measure(connection, session, question, turns)
        ]


def _fill(engine: Engine) -> None:
    sample = Sample(events=EVENTS, since=SINCE, until=SINCE + timedelta(days=1), users=100)
    with engine.begin() as connection:
        load_events(connection, sample.events_csv())
        load_users(connection, sample.users_csv())
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
    execute(engine, "VACUUM ANALYZE github_events, github_users, github_rollup_1min")


def _questions() -> list[Question]:
    window = {"since": SINCE, "until": SINCE + timedelta(hours=6)}
    count = (analytics.count_events, analytics.count_events_statement)
    commits = (analytics.commits_per_hour, analytics.commits_per_hour_statement)
    creators = (analytics.top_repository_creators, analytics.top_repository_creators_statement)
    active = (analytics.most_active_users, analytics.most_active_users_statement)
    return [
        Question("count_events()", *count, {}),
        Question("count_events(6 hours)", *count, window),
        Question("commits_per_hour()", *commits, {}),
        Question("commits_per_hour(6 hours)", *commits, window),
        Question("top_repository_creators(5)", *creators, {"limit": 5}),
        Question("most_active_users()", *active, {}),
        Question("most_active_users(6 hours)", *active, window),
    ]


def _measure(
    connection: Connection, session: Session, question: Question, turns: int
) -> list[Figure]:
    statement = question.builder(**question.filters)
    asks = (
        _driver(connection, question),
        lambda: connection.execute(statement).all(),
        partial(question.function, connection, **question.filters),
        partial(question.function, session, **question.filters),
    )
    arms: list[Arm] = [partial(seconds, ask) for ask in asks]
    alternate(arms, WARM_UP)
    driver, core, on_connection, on_session = alternate(arms, turns)
    say(
        f"{question.name}: driver {milliseconds(driver)}, SQLAlchemy {milliseconds(core)}, "
        f"connection {milliseconds(on_connection)}, session {milliseconds(on_session)}"
    )
    return [
        Figure(f"{question.name}: {way} / driver", median_ratio(times, driver), "at most", 4.0)
        for way, times in (("connection", on_connection), ("session", on_session))
    ]


def _driver(connection: Connection, question: Question) -> Callable[[], object]:
    compiled = question.builder(**question.filters).compile(dialect=connection.dialect)
    sql, parameters = str(compiled).encode(), dict(compiled.params)
    driver: DriverConnection[Any] | None = connection.connection.dbapi_connection  # type: ignore[assignment]
    assert driver is not None
    return lambda: driver.cursor().execute(sql, parameters).fetchall()
