"""The database that a benchmark works in, and the events in it."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy_utils import create_database

from citus_analytics.errors import ArgumentError
from citus_analytics.github.sample import Sample
from citus_analytics.migrations import downgrade, upgrade
from citus_analytics.server import EmbeddedServer
from citus_analytics.sql import on_citus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Engine

OTHER = "benchmarks"
"""The schema for the tables of the other arm."""

SINCE = datetime(2025, 1, 1, tzinfo=UTC)
_EVENTS_A_MINUTE = 20
# Room for the indexes, and no checkpoint in the middle of one arm alone.
_SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "16GB", "checkpoint_timeout": "1h"}

_OTHERS_TABLES = """
SELECT n.nspname || '.' || c.relname
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND NOT EXISTS (SELECT FROM pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
LIMIT 1
"""


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
    _refuse_tables(engine)
    upgrade(url)
    try:
        execute(engine, f"CREATE SCHEMA {OTHER}")
        yield engine
    finally:
        execute(engine, f"DROP SCHEMA IF EXISTS {OTHER} CASCADE")
        downgrade(url)
        execute(engine, "DROP TABLE alembic_version")


def _refuse_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        table = connection.execute(text(_OTHERS_TABLES)).scalar_one_or_none()
    if table is not None:
        raise ArgumentError(
            f"benchmarks need a database to themselves, but this one has the table {table}: "
            "name an empty one, which will be empty again at the end."
        )


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
