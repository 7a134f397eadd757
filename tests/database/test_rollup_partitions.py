"""A rollup of a table that is partitioned by time, and what becomes of expired partitions."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import NullPool, create_engine

from citus_analytics.migrations import CreateDistributedTableOp, CreateRollupFunctionOp, RollupSpec
from citus_analytics.schema import Distributed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

SPEC = RollupSpec(
    function="roll_up_readings",
    source="readings",
    target="readings_hourly",
    state="readings_latest",
    state_column="hour",
    key="sensor_id",
    key_type="BIGINT",
    time_column="taken_at",
    bucket=timedelta(hours=1),
    bucket_column="hour",
    dimensions=("sensor_id",),
    measures={"readings": "count(*)"},
)
TABLES = """
CREATE TABLE readings (sensor_id bigint, taken_at timestamptz) PARTITION BY RANGE (taken_at);
CREATE INDEX ON readings (sensor_id, taken_at);
CREATE TABLE readings_january PARTITION OF readings
  FOR VALUES FROM ('2026-01-01 00:00Z') TO ('2026-02-01 00:00Z');
CREATE TABLE readings_february PARTITION OF readings
  FOR VALUES FROM ('2026-02-01 00:00Z') TO ('2026-03-01 00:00Z');
CREATE TABLE readings_hourly (sensor_id bigint, hour timestamptz, readings bigint);
CREATE UNIQUE INDEX ON readings_hourly (sensor_id, hour) NULLS NOT DISTINCT;
CREATE TABLE readings_latest (hour timestamptz PRIMARY KEY);
"""
RUN = "SELECT groups_written, groups_removed FROM readings_hourly_run(wait => true)"
ROLLED_UP = "SELECT sensor_id, hour, readings FROM readings_hourly ORDER BY 1, 2"
RAW = (
    "SELECT sensor_id, date_bin('1 hour', taken_at, '2000-01-01 00:00Z'), count(*) "
    "FROM readings GROUP BY 1, 2 ORDER BY 1, 2"
)


@pytest.fixture
def readings(empty_database: URL) -> Iterator[Connection]:
    """A rollup of 20 sensors that are read every 20 minutes from mid-January to mid-February."""
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(TABLES)
        operations = Operations(MigrationContext.configure(connection))
        for table, other in (("readings", None), ("readings_hourly", "readings")):
            distribution = Distributed(column="sensor_id", colocate_with=other)
            operations.invoke(CreateDistributedTableOp.of(table, distribution))
        operations.invoke(CreateRollupFunctionOp(SPEC, version=1))
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(
            "INSERT INTO readings SELECT i, taken_at FROM generate_series(1, 20) AS i, "
            "generate_series('2026-01-15 00:00Z'::timestamptz, '2026-02-14 23:59Z', '20 min') "
            "AS taken_at"
        )
        yield connection


def rows(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.exec_driver_sql(statement)]


def test_it_adds_up(readings: Connection) -> None:
    assert rows(readings, RUN) == [(20 * 31 * 24, 0)]
    assert rows(readings, ROLLED_UP) == rows(readings, RAW)
    readings.exec_driver_sql("DELETE FROM readings WHERE sensor_id = 3")
    readings.exec_driver_sql(
        "UPDATE readings SET taken_at = '2026-02-27 12:00Z' "
        "WHERE sensor_id = 4 AND taken_at < '2026-01-16 00:00Z'"
    )
    readings.exec_driver_sql(
        "CREATE TABLE readings_march PARTITION OF readings "
        "FOR VALUES FROM ('2026-03-01 00:00Z') TO ('2026-04-01 00:00Z')"
    )
    readings.exec_driver_sql("INSERT INTO readings VALUES (5, '2026-03-02 00:00Z')")
    assert rows(readings, RUN) == [(2, 31 * 24 + 24)]
    assert rows(readings, ROLLED_UP) == rows(readings, RAW)


def test_a_dropped_partition_leaves_its_groups(readings: Connection) -> None:
    rows(readings, RUN)
    before = rows(readings, ROLLED_UP)
    readings.exec_driver_sql("DROP TABLE readings_january")
    readings.exec_driver_sql("INSERT INTO readings VALUES (1, '2026-02-20 12:00Z')")
    assert rows(readings, RUN) == [(1, 0)]
    after = rows(readings, ROLLED_UP)
    assert len(after) == len(before) + 1
    assert set(after) > set(before)


def test_a_late_row_is_found_by_the_index(readings: Connection) -> None:
    rows(readings, RUN)
    readings.exec_driver_sql("VACUUM ANALYZE readings")
    readings.exec_driver_sql("INSERT INTO readings VALUES (1, '2026-01-20 12:30Z')")
    read = "SELECT sum(seq_tup_read) FROM pg_stat_xact_user_tables WHERE relname LIKE 'readings%%'"
    # What earlier transactions have read counts until it has been flushed.
    readings.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    readings.exec_driver_sql("BEGIN")
    readings.exec_driver_sql(RUN)
    # On Citus the coordinator, which holds no shards here, has nothing to read in any case.
    [(rows_read,)] = rows(readings, read)
    readings.exec_driver_sql("COMMIT")
    assert rows_read < 100
