"""What a typed analytic costs over the bare driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
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
from citus_analytics.github.models import GITHUB_LOGINS, GITHUB_ROLLUP_1MIN
from citus_analytics.github.sample import Sample

if TYPE_CHECKING:
    from psycopg import Connection as DriverConnection
    from sqlalchemy import Connection, Engine

EVENTS = 1_000
WARM_UP = 20  # Past psycopg's and PostgreSQL's thresholds for prepared plans.


@dataclass(frozen=True, slots=True)
class Question:
    """One analytic with its filters."""

    name: str
    function: Callable[..., object]
    filters: dict[str, Any]


def measure(engine: Engine, rows: int) -> list[Figure]:
    """Compare each typed function with psycopg that runs the same SQL.

    Measured: the time of a call on a Connection, and on a Session, when the tables are small,
    1,000 events, so that little hides the Python around the query. The other arm is `execute` and
    `fetchall` of the SQL that the function sends, with its parameters, on the same connection. What
    SQLAlchemy takes to execute the same text is told beside them.

    Promised: at most 3 times the driver's time, for a question that takes it 0.06 ms: SQLAlchemy
    takes 0.03 ms a call, and planning the question and typing its answer 0.05 ms, however large the
    tables are. The turns are a thousandth of `rows`, 10 to 1,000.
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
        run_rollup(connection, GITHUB_LOGINS)
    execute(engine, "VACUUM ANALYZE github_events, github_users, github_rollup_1min")


def _questions() -> list[Question]:
    window = {"since": SINCE, "until": SINCE + timedelta(hours=6)}
    return [
        Question("count_events()", analytics.count_events, {}),
        Question("count_events(6 hours)", analytics.count_events, window),
        Question("commits_per_hour()", analytics.commits_per_hour, {}),
        Question("commits_per_hour(6 hours)", analytics.commits_per_hour, window),
        Question("top_repository_creators(5)", analytics.top_repository_creators, {"limit": 5}),
        Question("most_active_users()", analytics.most_active_users, {}),
        Question("most_active_users(6 hours)", analytics.most_active_users, window),
    ]


def _measure(
    connection: Connection, session: Session, question: Question, turns: int
) -> list[Figure]:
    sent: list[tuple[str, Any]] = []

    def note(*given: Any) -> None:
        sent.append((given[2], given[3]))

    for _ in range(2):
        # At first it looks at what there is of rollups, too.
        sent.clear()
        event.listen(connection, "before_cursor_execute", note)
        question.function(connection, **question.filters)
        event.remove(connection, "before_cursor_execute", note)
    # One, and on Citus some about the state of the rollups.
    statements = [(sql, sql.encode(), parameters) for sql, parameters in sent]
    driver_connection: DriverConnection[Any] | None = connection.connection.dbapi_connection  # type: ignore[assignment]
    assert driver_connection is not None
    asks = (
        lambda: [
            driver_connection.cursor().execute(encoded, parameters).fetchall()
            for _, encoded, parameters in statements
        ],
        lambda: [
            connection.exec_driver_sql(sql, parameters).all() for sql, _, parameters in statements
        ],
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
        Figure(f"{question.name}: {way} / driver", median_ratio(times, driver), "at most", 3.0)
        for way, times in (("connection", on_connection), ("session", on_session))
    ]
