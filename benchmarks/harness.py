"""What the benchmarks share: arms that take turns, figures, and a database of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy_utils import create_database

from citus_analytics.errors import ArgumentError
from citus_analytics.github.migrate import downgrade, upgrade
from citus_analytics.github.sample import Sample
from citus_analytics.server import EmbeddedServer
from citus_analytics.sql import on_citus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Engine

Arm: TypeAlias = Callable[[], float]
"""Does something once, and returns the seconds of the part that is compared."""

OTHER = "benchmarks"
"""The schema for tables of the other arm."""

SINCE = datetime(2025, 1, 1, tzinfo=UTC)
_EVENTS_A_MINUTE = 20
# Room for the indexes, and no checkpoint in the middle of one arm alone.
_SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "16GB", "checkpoint_timeout": "1h"}


@dataclass(frozen=True, slots=True)
class Figure:
    """The ratio of two arms, with what is promised of it."""

    name: str
    value: float
    bound: Literal["at most", "at least"]
    promised: float

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        if self.bound == "at most":
            return self.value <= self.promised
        return self.value >= self.promised


def as_table(found: dict[str, list[Figure]]) -> str:
    """Return a line for each figure, in aligned columns, below a line of titles."""

    def number(value: float) -> str:
        return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"

    rows = [("benchmark", "figure", "", "promised", "kept")]
    for benchmark, figures in found.items():
        for figure in figures:
            promised = f"{figure.bound} {number(figure.promised)}"
            kept = "yes" if figure.kept else "NO"
            rows.append((benchmark, figure.name, number(figure.value), promised, kept))
    name, what, value, promise, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{row[0]:<{name}}  {row[1]:<{what}}  {row[2]:>{value}}  {row[3]:<{promise}}  {row[4]}"
        for row in rows
    )


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    start = perf_counter()
    action()
    return perf_counter() - start


def alternate(arms: Sequence[Arm], repetitions: int) -> list[list[float]]:
    """Return the times of each arm; another one begins each turn, so that noise hits all alike."""
    times: list[list[float]] = [[] for _ in arms]
    for turn in range(repetitions):
        for step in range(len(arms)):
            which = (turn + step) % len(arms)
            times[which].append(arms[which]())
    return times


def median_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios, turn by turn."""
    return median(time / other for time, other in zip(times, others, strict=True))


def compare(name: str, arm: Arm, other: Arm, *, repetitions: int, at_most: float) -> Figure:
    """Let two arms take turns, and return the ratio of their times."""
    times, others = alternate([arm, other], repetitions)
    say(f"{name}: {milliseconds(times)} / {milliseconds(others)}")
    return Figure(name, median_ratio(times, others), "at most", at_most)


def milliseconds(times: Sequence[float]) -> str:
    """Return the median of times, for people."""
    return f"{median(times) * 1e3:,.2f} ms"


def say(words: str) -> None:
    """Report progress on standard error, beside the figures themselves."""
    print(words, file=sys.stderr, flush=True)


@contextmanager
def embedded_database() -> Iterator[URL]:
    """Lend an empty database on a server of its own."""
    with EmbeddedServer(settings=_SETTINGS) as server:
        url = server.url_for("benchmarks")
        create_database(url)
        yield url


@contextmanager
def migrated(url: URL) -> Iterator[Engine]:
    """Migrate an empty database and lend it; leave it empty.

    Raises:
        ArgumentError: The database is not empty.
    """
    engine = create_engine(url, poolclass=NullPool)
    tables = """
        SELECT n.nspname || '.' || c.relname
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
          AND NOT EXISTS (
              SELECT FROM pg_depend AS d
              WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        LIMIT 1
    """
    with engine.connect() as connection:
        table = connection.execute(text(tables)).scalar_one_or_none()
    if table is not None:
        raise ArgumentError(
            f"benchmarks need a database to themselves, but this one has the table {table}: "
            "name an empty one, which will be empty again at the end."
        )
    upgrade(url)
    try:
        execute(engine, f"CREATE SCHEMA {OTHER}")
        yield engine
    finally:
        execute(engine, f"DROP SCHEMA IF EXISTS {OTHER} CASCADE")
        downgrade(url)
        execute(engine, "DROP TABLE alembic_version")


def execute(engine: Engine, *statements: str) -> None:
    """Run statements, each in a transaction of its own, or in none where it wants none."""
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            connection.exec_driver_sql(statement)


def distribute_other(engine: Engine, table: str) -> None:
    """Distribute a table of the other arm like the events, where there is Citus."""
    execute(
        engine,
        on_citus(
            f"PERFORM create_distributed_table('{OTHER}.{table}', 'user_id', "
            "colocate_with => 'github_events');"
        ),
    )


def sample(events: int, *, after: int = 0) -> Sample:
    """Return made-up events; those that come after so many others are also later ones."""
    return Sample(
        events=events, since=moment(after), until=moment(after + events), first_event_id=after + 1
    )


def moment(events: int) -> datetime:
    """Return the start of the minute after so many events."""
    return SINCE + timedelta(minutes=-(-events // _EVENTS_A_MINUTE))
