"""A rollup adds up whatever its tables and columns are called."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import NullPool, create_engine, text

from citus_analytics.migrations import (
    CreateDistributedTableOp,
    CreateRollupFunctionOp,
    RollupSpec,
)
from citus_analytics.schema import Distributed
from citus_analytics.sql import qualify, quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

    from tests.servers import DatabaseServer

# What the machinery itself calls something, and what text can be torn apart by.
OURS = ["changes", "sharded", "found", "wait", "since", "until", "now_bucket", "groups_written"]
OURS += ["key", "keys", "bucket", "pairs", "pages", "source", "added", "removed", "new", "tg_op"]
OURS += ["r", "s", "t", "c", "g", "o", "d0", "m0", "excluded", "changed", "once", "reported"]
TROUBLE = ['"', "'", "\\", "%1$s", "%", ":b", "$function$", "$log$", "$citus$", "--", "\n", "\r"]
TROUBLE += ["A", "é", "time", "select", "lateral", "{key}", " "]
NAMES = st.sampled_from(OURS) | st.lists(st.sampled_from(TROUBLE), min_size=1, max_size=4).map(
    "".join
)


@dataclass(frozen=True)
class Names:
    """What the tables and columns are called: names of columns may be those of tables."""

    tables: tuple[str, ...]
    columns: tuple[str, ...]

    def spec(self) -> RollupSpec:
        """Return a rollup that has them."""
        source, target, state, function = self.tables
        key, time, other, number, bucket, count, least, minute = self.columns
        return RollupSpec(
            function=function,
            source=source,
            target=target,
            state=state,
            state_column=minute,
            key=key,
            key_type="BIGINT",
            time_column=time,
            bucket=timedelta(minutes=1),
            bucket_column=bucket,
            dimensions=(other, key),
            measures={count: "count(*)", least: f"min({number})"},
            schema="Shop's %",
        )


ALL_NAMES = st.builds(
    Names,
    st.lists(NAMES, min_size=4, max_size=4, unique=True).map(tuple),
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


def create(connection: Connection, spec: RollupSpec) -> None:
    """Create the tables of a rollup, and the rollup."""
    key, time, bucket = quote(spec.key), quote(spec.time_column), quote(spec.bucket_column)
    other = quote(spec.dimensions[0])
    number = quote(spec.measures[[*spec.measures][1]][len("min(") : -1])
    source, target, state = (
        qualify(table, spec.schema) for table in (spec.source, spec.target, spec.state)
    )
    measures = ", ".join(f"{quote(name)} bigint" for name in spec.measures)
    for statement in (
        f"CREATE SCHEMA {quote(spec.schema or '')}",
        f"CREATE TABLE {source} ({key} bigint, {time} timestamptz, {other} text, {number} bigint)",
        f"CREATE TABLE {target} ({key} bigint, {bucket} timestamptz, {other} text, {measures})",
        f"CREATE UNIQUE INDEX ON {target} ({key}, {bucket}, {other}) NULLS NOT DISTINCT",
        f"CREATE TABLE {state} ({quote(spec.state_column)} timestamptz PRIMARY KEY)",
    ):
        execute(connection, statement)
    operations = Operations(MigrationContext.configure(connection, opts={"citus": "auto"}))
    colocated = Distributed(column=spec.key, colocate_with=spec.source)
    for operation in (
        CreateDistributedTableOp.of(spec.source, Distributed(column=spec.key), spec.schema),
        CreateDistributedTableOp.of(spec.target, colocated, spec.schema),
        CreateRollupFunctionOp(spec, version=1),
    ):
        operations.invoke(operation)


def check(connection: Connection, spec: RollupSpec) -> None:
    """Write, change, delete and truncate; fail unless the rollup follows."""
    source, target = qualify(spec.source, spec.schema), qualify(spec.target, spec.schema)
    key, time = quote(spec.key), quote(spec.time_column)
    for change, groups in (
        (f"INSERT INTO {source} SELECT i, '2026-01-01', 'a', i FROM generate_series(1, 6) i", 6),
        (f"UPDATE {source} SET {time} = '2026-01-02' WHERE {key} < 3", 6),
        (f"DELETE FROM {source} WHERE {key} = 4", 5),
        (f"TRUNCATE {source}", 0),
    ):
        execute(connection, change)
        execute(connection, f"SELECT {qualify(spec.function, spec.schema)}()")
        assert execute(connection, f"SELECT count(*) FROM {target}") == [(groups,)]
    state = qualify(spec.state, spec.schema)
    execute(connection, f"UPDATE {state} SET {quote(spec.state_column)} = '1901-10-10'")
    execute(connection, f"SELECT {qualify(spec.function, spec.schema)}()")
    found = f"SELECT {quote(spec.state_column)} > '2000-01-01' FROM {state}"
    assert execute(connection, found) == [(True,)]


def test_any_names(server: DatabaseServer, empty: Connection) -> None:
    # A distributed transaction that creates everything anew takes a while.
    examples = 40 if server.kind == "postgresql" else 6

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(ALL_NAMES)
    @example(Names(("changes", "source", "target", "f"), (*OURS[:7], "minute")))
    @example(Names(("r", "t", "o", "found"), (*OURS[2:9], "now_bucket")))
    @example(Names(("a", "b", "c", "d"), ("keys", "found", "key", "pairs", "r", "s", "t", "since")))
    def adds_up(names: Names) -> None:
        try:
            create(empty, names.spec())
            check(empty, names.spec())
        finally:
            empty.rollback()

    adds_up()
