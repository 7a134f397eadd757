"""A rollup of a table that is partitioned by time, and what becomes of expired partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import BigInteger, Column, DateTime, MetaData, NullPool, Table, create_engine

from citus_analytics.rollups.declare import Rollup, count
from citus_analytics.rollups.run import repair, verify
from citus_analytics.schema import Distributed
from tests.rollups import create

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

METADATA = MetaData()
READINGS = Table(
    "readings",
    METADATA,
    Column("sensor_id", BigInteger),
    Column("taken_at", DateTime(timezone=True)),
    Distributed("sensor_id"),
    postgresql_partition_by="RANGE (taken_at)",
)
HOURLY = Rollup(
    "readings_hourly",
    READINGS,
    time=READINGS.c.taken_at,
    every="1 hour",
    by=[READINGS.c.sensor_id],
    measures={"readings": count()},
)
PARTITIONS = """
CREATE TABLE readings_january PARTITION OF readings
  FOR VALUES FROM ('2026-01-01 00:00Z') TO ('2026-02-01 00:00Z');
CREATE TABLE readings_february PARTITION OF readings
  FOR VALUES FROM ('2026-02-01 00:00Z') TO ('2026-03-01 00:00Z');
"""
RUN = "SELECT readings_run()"
ROLLED_UP = "SELECT sensor_id, bucket, readings FROM readings_hourly ORDER BY 1, 2"
RAW = (
    "SELECT sensor_id, date_bin('1 hour', taken_at, '2000-01-01 00:00Z'), count(*) "
    "FROM readings GROUP BY 1, 2 ORDER BY 1, 2"
)


@pytest.fixture
def readings(empty_database: URL) -> Iterator[Connection]:
    """A rollup of 20 sensors that are read every 20 minutes from mid-January to mid-February."""
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.begin() as connection:
        create(connection, METADATA)
        connection.exec_driver_sql(PARTITIONS)
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
    rows(readings, RUN)
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
    rows(readings, RUN)
    assert rows(readings, ROLLED_UP) == rows(readings, RAW)


def test_a_dropped_partition_leaves_its_groups(readings: Connection) -> None:
    rows(readings, RUN)
    before = rows(readings, ROLLED_UP)
    readings.exec_driver_sql("DROP TABLE readings_january")
    readings.exec_driver_sql("INSERT INTO readings VALUES (1, '2026-02-20 12:00Z')")
    assert rows(readings, RUN) == [(1,)]
    after = rows(readings, ROLLED_UP)
    assert len(after) == len(before) + 1
    assert set(after) > set(before)


def test_an_attached_partition_is_found_and_mended(readings: Connection) -> None:
    rows(readings, RUN)
    readings.exec_driver_sql(
        "CREATE TABLE readings_april (sensor_id bigint, taken_at timestamptz);"
        "INSERT INTO readings_april VALUES (1, '2026-04-02 12:00Z'), (2, '2026-04-02 12:30Z')"
    )
    if rows(readings, "SELECT 1 FROM pg_extension WHERE extname = 'citus'"):
        readings.exec_driver_sql(
            "SELECT create_distributed_table('readings_april', 'sensor_id', "
            "colocate_with => 'readings')"
        )
    readings.exec_driver_sql(
        "ALTER TABLE readings ATTACH PARTITION readings_april "
        "FOR VALUES FROM ('2026-04-01 00:00Z') TO ('2026-05-01 00:00Z')"
    )
    (found,) = verify(readings, HOURLY)
    assert found.groups == 2
    assert any('"sensor_id" = 1' in example for example in found.examples)
    repair(readings, HOURLY)
    assert [found.groups for found in verify(readings, HOURLY)] == [0]
    assert rows(readings, ROLLED_UP) == rows(readings, RAW)
