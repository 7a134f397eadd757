"""A rollup adds up whatever its tables and columns are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    quoted_name,
    text,
)

from citus_analytics.rollups.declare import Rollup, average, count, minimum
from citus_analytics.schema import Distributed
from citus_analytics.sql import qualify, quote
from tests.rollups import create

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

    from tests.servers import DatabaseServer

# What the machinery itself calls something, and what text can be torn apart by.
OURS = ["n", "at", "key", "l", "r", "t", "u", "d", "f", "g", "log", "drained", "written", "dead"]
OURS += ["since_", "until_", "target_", "horizon_", "groups", "repair", "examples", "found", "raw"]
OURS += ["w", "h", "edge", "lost", "hit"]
OURS += ["one", "shard", "added", "removed", "wait", "changes", "started", "excluded", "rows"]
TROUBLE = ['"', "'", "\\", "%1$s", "%", ":b", "$function$", "$log$", "$citus$", "--", "\n", "\r"]
TROUBLE += ["A", "é", "time", "select", "user", "{key}", " "]
NAMES = st.sampled_from(OURS) | st.lists(st.sampled_from(TROUBLE), min_size=1, max_size=4).map(
    "".join
)


@dataclass(frozen=True)
class Names:
    """What the tables and columns are called: names of columns may be those of tables."""

    tables: tuple[str, ...]
    columns: tuple[str, ...]

    def metadata(self) -> MetaData:
        """Return tables and a rollup that have them."""
        # Always quoted: SQLAlchemy misses keywords that are followed by a line end.
        source, target, state = (quoted_name(name, quote=True) for name in self.tables)
        key, time, other, number, bucket, rows, least, minute = (
            quoted_name(name, quote=True) for name in self.columns
        )
        metadata = MetaData(schema="Shop's %")
        raw = Table(
            source,
            metadata,
            Column(key, BigInteger),
            Column(time, DateTime(timezone=True)),
            Column(other, Text),
            Column(number, BigInteger),
            Distributed(key),
        )
        Rollup(
            target,
            raw,
            time=time,
            every="1 minute",
            by=[other, key],
            bucket=bucket,
            measures={rows: count(), least: minimum(number), f"{least} avg": average(number)},
            function=f"run {target}",
            state=Table(state, metadata, Column(minute, DateTime(timezone=True), primary_key=True)),
        )
        return metadata


ALL_NAMES = st.builds(
    Names,
    st.lists(NAMES, min_size=3, max_size=3, unique=True).map(tuple),
    st.lists(NAMES, min_size=8, max_size=8, unique=True).map(tuple),
)


@pytest.fixture
def empty(empty_database: URL) -> Iterator[Connection]:
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        yield connection


def execute(connection: Connection, statement: str) -> list[tuple[object, ...]]:
    """Run a statement as it is, but for its colons, which are SQLAlchemy's."""
    clause = text(statement.replace(":", "\\:"))
    result = connection.execute(clause)
    return [tuple(row) for row in result] if result.returns_rows else []


def check(connection: Connection, names: Names) -> None:
    """Write, change, delete and truncate; fail unless the rollup follows."""
    schema = "Shop's %"
    source, target, state = (qualify(table, schema) for table in names.tables)
    key, time, *_, minute = map(quote, names.columns)
    run = qualify(f"run {names.tables[1]}", schema)
    reconcile = qualify(f"{names.tables[0]}_reconcile", schema)
    for change, groups in (
        (f"INSERT INTO {source} SELECT i, '2026-01-01', 'a', i FROM generate_series(1, 6) i", 6),
        (f"UPDATE {source} SET {time} = '2026-01-02' WHERE {key} < 3", 6),
        (f"DELETE FROM {source} WHERE {key} = 4", 5),
        (f"TRUNCATE {source}", 0),
    ):
        execute(connection, change)
        fresh = qualify(f"{names.tables[1]}_fresh", schema)
        assert execute(connection, f"SELECT count(*) FROM {fresh}") == [(groups,)]
        execute(connection, f"SELECT {run}()")
        assert execute(connection, f"SELECT count(*) FROM {target}") == [(groups,)]
        table = names.tables[1].replace("'", "''")
        escape = "E" if "\\" in table else ""
        table = table.replace("\\", "\\\\")
        found = f"SELECT groups FROM {reconcile}({escape}'{table}', NULL, NULL, false)"
        assert execute(connection, found) == [(0,)]
    assert execute(connection, f"SELECT {minute} > '2000-01-01' FROM {state}") == [(True,)]


def test_any_names(server: DatabaseServer, empty: Connection) -> None:
    # A distributed transaction that creates everything anew takes a while.
    examples = 25 if server.kind == "postgresql" else 4

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(ALL_NAMES)
    @example(Names(("log", "source", "target"), (*OURS[:7], "minute")))
    @example(Names(("r", "t", "l"), (*OURS[2:9], "started")))
    @example(Names(("a", "b", "c"), tuple(OURS[14:22])))
    @example(Names(("at", "time\n", "x"), ("n", "key", "l", "r", "t", "u", "minutes", "d")))
    def adds_up(names: Names) -> None:
        try:
            execute(empty, """CREATE SCHEMA "Shop's %" """)
            create(empty, names.metadata())
            check(empty, names)
        finally:
            empty.rollback()

    adds_up()
