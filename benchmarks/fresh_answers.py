"""What the tutorial's four questions cost fresh: against raw rows, and against DuckDB."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.harness import (
    SINCE,
    Figure,
    alternate,
    execute,
    median_ratio,
    milliseconds,
    say,
    seconds,
)
from citus_analytics import (
    GITHUB_LOGINS,
    GITHUB_ROLLUP_1MIN,
    commits_per_hour,
    count_events,
    most_active_users,
    run_rollup,
    top_repository_creators,
)
from citus_analytics.github.load import load_events, load_users
from citus_analytics.github.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

PENDING: Final = 100
REPETITIONS: Final = 21

QUESTIONS: Final[dict[str, Callable[..., object]]] = {
    "count": count_events,
    "commits per hour": commits_per_hour,
    "creators, best 5": partial(top_repository_creators, limit=5),
    "active users, best 5": partial(most_active_users, limit=5),
}
# The same of DuckDB's own storage.
DUCKDB: Final = {
    "count": "SELECT count(*) FROM events",
    "commits per hour": (
        "SELECT date_trunc('hour', created_at), "
        "sum(CAST(json_extract_string(payload, '$.distinct_size') AS INTEGER)) "
        "FROM events WHERE event_type = 'PushEvent' GROUP BY 1 ORDER BY 1"
    ),
    "creators, best 5": (
        "SELECT login, count(*) FROM events JOIN users USING (user_id) "
        "WHERE event_type = 'CreateEvent' "
        "AND json_extract_string(payload, '$.ref_type') = 'repository' "
        "GROUP BY login ORDER BY 2 DESC LIMIT 5"
    ),
    "active users, best 5": (
        "SELECT user_id, date_trunc('minute', created_at), count(*) FROM events "
        "GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 5"
    ),
}
_EVENTS: Final = (
    "SELECT event_id, event_type, payload, user_id, created_at FROM read_csv('{path}', "
    "header = false, columns = {{event_id: 'BIGINT', event_type: 'VARCHAR', public: 'VARCHAR', "
    "repo_id: 'BIGINT', payload: 'VARCHAR', repo: 'VARCHAR', user_id: 'BIGINT', org: 'VARCHAR', "
    "created_at: 'TIMESTAMPTZ'}})"
)
_USERS: Final = (
    "SELECT user_id, login FROM read_csv('{path}', header = false, columns = {{user_id: 'BIGINT', "
    "url: 'VARCHAR', login: 'VARCHAR', avatar: 'VARCHAR', gravatar: 'VARCHAR', shown: 'VARCHAR'}})"
)


def measure(engine: Engine, rows: int) -> list[Figure]:
    """Compare fresh answers with those from raw rows, with DuckDB's, and with more stored.

    Measured, on the client: each of the tutorial's four questions, fresh, with 100 changes pending.
    The other arms are the same question from raw rows, and, if the package duckdb is installed,
    DuckDB's own time for it on its own copy of the rows.

    Promised: a twentieth of either, and at most 1.5 times what it takes with a tenth of the rows,
    which are of the same month.
    The count is compared with raw rows alone: DuckDB keeps it as a statistic.
    """
    duckdb: Any = None
    try:
        duckdb = import_module("duckdb")
    except ImportError:
        say("duckdb is not installed: nothing is compared with it")
    execute(engine, "DROP INDEX payload_index")
    figures: list[Figure] = []
    small: dict[str, list[float]] = {}
    stored = 0
    for size in (rows // 10, rows):
        times = _fill_and_ask(engine, stored, size)
        stored = size + PENDING
        for name, (fresh, raw, alone) in times.items():
            say(
                f"{size:,} events, {name}: fresh {milliseconds(alone)}, in turns with raw "
                f"{milliseconds(fresh)} and {milliseconds(raw)}"
            )
            if size == rows:
                figures.append(
                    Figure(f"{name}: fresh / raw", median_ratio(fresh, raw), "at most", 0.05)
                )
                grown = median(alone) / median(small[name])
                figures.append(Figure(f"{name}: fresh / a tenth stored", grown, "at most", 1.5))
            small[name] = alone
    if duckdb is not None:
        ours = {name: median(times) for name, times in small.items()}
        figures += _against_duckdb(duckdb, rows, ours)
    execute(
        engine,
        "CREATE INDEX payload_index ON github_events USING gin (payload jsonb_path_ops)",
    )
    return figures


def _month(events: int, *, after: int = 0) -> Sample:
    """Return events of one month, however many: the answers have as many rows."""
    until = SINCE + timedelta(days=31)
    return Sample(events=events, since=SINCE, until=until, first_event_id=after + 1)


def _fill_and_ask(
    engine: Engine, stored: int, size: int
) -> dict[str, tuple[list[float], list[float], list[float]]]:
    with engine.begin() as connection:
        load_events(connection, _month(size - stored, after=stored).events_csv())
        if not stored:
            load_users(connection, _month(size).users_csv())
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        run_rollup(connection, GITHUB_LOGINS)
    execute(engine, "VACUUM ANALYZE")
    with engine.begin() as connection:
        load_events(connection, _month(PENDING, after=size).events_csv())
    found = {}
    with engine.connect() as connection:
        for name, question in QUESTIONS.items():
            arms = [
                partial(_ask, connection, question, "fresh"),
                partial(_ask, connection, question, "raw"),
            ]
            for _ in range(6):  # Past the thresholds for prepared plans.
                arms[0]()
            fresh, raw = alternate(arms, REPETITIONS if size < 5_000_000 else 3)
            # Not each time after all raw rows have been read, as where the arms take turns.
            alone = [arms[0]() for _ in range(REPETITIONS)]
            found[name] = (fresh, raw, alone)
    return found


def _ask(connection: Connection, question: Callable[..., object], freshness: str) -> float:
    return seconds(lambda: question(connection, freshness=freshness))


def _against_duckdb(duckdb: Any, rows: int, ours: dict[str, float]) -> list[Figure]:
    figures = []
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as other:
        for table, query, lines in (
            ("events", _EVENTS, _month(rows).events_csv()),
            ("users", _USERS, _month(rows).users_csv()),
        ):
            path = Path(folder) / f"{table}.csv"
            with path.open("wb") as file:
                file.writelines(lines)
            other.execute(f"CREATE TABLE {table} AS {query.format(path=path)}")
        for name, query in DUCKDB.items():
            times = [seconds(lambda q=query: other.execute(q).fetchall()) for _ in range(7)]  # type: ignore[misc]
            say(f"{name}: DuckDB {milliseconds(times)}")
            if name != "count":
                ratio = ours[name] / median(times)
                figures.append(Figure(f"{name}: fresh / DuckDB", ratio, "at most", 0.05))
    return figures
