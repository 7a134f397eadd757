"""A rollup of a table that is partitioned by time, and what becomes of expired partitions."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Engine,
    MetaData,
    NullPool,
    Table,
    create_engine,
)

from citus_analytics.errors import OperationError, RollupError
from citus_analytics.migrations import (
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    CreateRollupsOp,
    DropOldTimePartitionsOp,
)
from citus_analytics.rollups.declare import Rollup, count, distinct, minimum, specs_of
from citus_analytics.rollups.run import backfill, repair, rollup_status, run_rollup, verify
from citus_analytics.schema import Distributed, Reference, declared_distribution
from tests.rollups import create
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL, Connection

    from tests.servers import Prepared

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
def readings(prepared: Prepared) -> Iterator[Connection]:
    """A rollup of 20 sensors that are read every 20 minutes from mid-January to mid-February."""

    def prepare(engine: Engine) -> None:
        with engine.begin() as connection:
            create(connection, METADATA)
            connection.exec_driver_sql(PARTITIONS)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO readings SELECT i, taken_at FROM generate_series(1, 20) AS i, "
                "generate_series('2026-01-15 00:00Z'::timestamptz, '2026-02-14 23:59Z', '20 min') "
                "AS taken_at"
            )

    with prepared("readings", prepare).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
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


# What is dropped. Nothing that is done afterwards subtracts it.

KEPT = MetaData()
SAMPLES = Table(
    "samples",
    KEPT,
    Column("sensor", BigInteger),
    Column("noted_at", DateTime(timezone=True)),
    Column("at", DateTime(timezone=True)),
    Distributed("sensor"),
    postgresql_partition_by="RANGE (at)",
)
BY_SENSOR = Rollup(
    "by_sensor",
    SAMPLES,
    time="at",
    every=["1 hour", "1 week"],
    by=["sensor"],
    measures={"samples": count(), "first": minimum("at"), "sensors": distinct("sensor")},
)
# A bucket has an hour of January and 23 hours of February.
BY_DAY = Rollup(
    "by_day",
    SAMPLES,
    time="at",
    every="1 day at Europe/Berlin",
    measures={"samples": count(), "sensors": distinct("sensor")},
)
EVER = Rollup("ever", SAMPLES, measures={"samples": count()})
WITH_BUCKETS = (BY_SENSOR, BY_DAY)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
SAMPLE = """
INSERT INTO samples SELECT i % 7, at - interval '1 day', at FROM
  generate_series('{since}'::timestamptz, '{until}', interval '45 min') WITH ORDINALITY AS a (at, i)
"""


def partition(name: str, bounds: str, rest: str = "") -> str:
    return f"CREATE TABLE samples_{name} PARTITION OF samples {bounds} {rest}"


def months(*names: str) -> list[str]:
    edges = {"january": "'2026-01-01Z'", "february": "'2026-02-01Z'", "march": "'2026-03-01Z'"}
    ends = [*edges.values(), "'2026-04-01Z'"]
    bounds = dict(zip(edges, itertools.pairwise(ends), strict=True))
    return [partition(name, "FOR VALUES FROM ({}) TO ({})".format(*bounds[name])) for name in names]


def execute(engine: Engine, *statements: str) -> None:
    for statement in statements:
        with engine.begin() as connection:
            connection.exec_driver_sql(statement.replace("%", "%%"))


@pytest.fixture
def samples(prepared: Prepared) -> Engine:
    """Rollups of a table that has no partitions yet."""

    def prepare(engine: Engine) -> None:
        with engine.begin() as connection:
            create(connection, KEPT)

    return prepared("samples", prepare)


def run(engine: Engine) -> None:
    with engine.begin() as connection:
        run_rollup(connection, EVER)


def groups(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the rollups have, after a run, by their fresh views."""
    run(engine)
    with engine.connect() as connection:
        return {
            table.name: sorted(rows(connection, f"SELECT * FROM {table.name}_fresh"), key=repr)
            for rollup in (*WITH_BUCKETS, EVER)
            for table in rollup.targets.values()
        }


def drop_by_hand(engine: Engine) -> None:
    execute(engine, "DROP TABLE samples_january")


def detach(engine: Engine) -> None:
    execute(
        engine, "ALTER TABLE samples DETACH PARTITION samples_january", "DROP TABLE samples_january"
    )


def drop_by_operation(engine: Engine) -> None:
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        operations.invoke(DropOldTimePartitionsOp("samples", FEBRUARY))


DROPS: dict[str, Callable[[Engine], None]] = {
    "by hand": drop_by_hand,
    "detached": detach,
    "by the operation": drop_by_operation,
}


def assert_kept(engine: Engine, before: dict[str, list[tuple[Any, ...]]]) -> None:
    """Fail unless nothing of what was dropped is subtracted, whatever is done."""
    assert groups(engine) == before
    for move in (verify, repair):
        for rollup in WITH_BUCKETS:
            with engine.begin() as connection:
                assert {each.groups for each in move(connection, rollup)} == {0}
        with engine.begin() as connection, pytest.raises(RollupError, match="cannot be compared"):
            move(connection, EVER)
    assert groups(engine) == before
    with engine.begin() as connection:
        (status,) = rollup_status(connection, EVER)
        assert status.horizon == FEBRUARY
        assert status.late == 0


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("pending", ["none", "some", "all"])
def test_what_was_dropped_is_kept(samples: Engine, pending: str, drop: str) -> None:
    execute(samples, *months("january", "february"))
    execute(samples, SAMPLE.format(since="2026-01-20Z", until="2026-02-10Z"))
    with samples.connect() as connection:
        wanted = {
            table.name: sorted(rows(connection, f"SELECT * FROM {table.name}_fresh"), key=repr)
            for rollup in (*WITH_BUCKETS, EVER)
            for table in rollup.targets.values()
        }
    if pending != "all":
        run(samples)
    if pending == "some":
        execute(
            samples,
            # None of January is the smallest of a week: which one is the next has gone with it.
            "DELETE FROM samples WHERE sensor = 3 AND at BETWEEN '2026-01-28Z' AND '2026-02-05Z'",
            SAMPLE.format(since="2026-01-29 12:30Z", until="2026-02-02 17:00Z"),
        )
        # Nothing is dropped yet: the views are right.
        with samples.connect() as connection:
            wanted = {
                table: sorted(rows(connection, f"SELECT * FROM {table}_fresh"), key=repr)
                for table in wanted
            }
    DROPS[drop](samples)
    assert_kept(samples, wanted)
    # What comes later is compared.
    execute(samples, *months("march"), SAMPLE.format(since="2026-03-03Z", until="2026-03-04Z"))
    run(samples)
    execute(samples, "DELETE FROM by_sensor_1_hour WHERE bucket >= '2026-02-09 23:00Z'")
    with samples.begin() as connection:
        found = {each.table: each.groups for each in verify(connection, BY_SENSOR)}
        assert found["by_sensor_1_hour"] > 30
        assert sum(found.values()) == found["by_sensor_1_hour"]
        repair(connection, BY_SENSOR)
        assert {each.groups for each in verify(connection, BY_SENSOR)} == {0}


def test_an_older_partition_comes_and_goes(samples: Engine) -> None:
    execute(samples, *months("february"), SAMPLE.format(since="2026-02-01Z", until="2026-02-03Z"))
    run(samples)
    execute(samples, *months("january"), SAMPLE.format(since="2026-01-30Z", until="2026-01-31Z"))
    before = groups(samples)
    with samples.begin() as connection:
        for rollup in (*WITH_BUCKETS, EVER):
            assert {each.groups for each in verify(connection, rollup)} == {0}
    drop_by_hand(samples)
    assert_kept(samples, before)


def test_the_last_partition_is_dropped(samples: Engine) -> None:
    execute(samples, *months("january"), SAMPLE.format(since="2026-01-30Z", until="2026-01-31Z"))
    before = groups(samples)
    drop_by_hand(samples)
    for rollup in WITH_BUCKETS:
        with samples.begin() as connection:
            assert {each.groups for each in repair(connection, rollup)} == {0}
    execute(samples, *months("february"))
    assert groups(samples) == before
    for rollup in WITH_BUCKETS:
        with samples.begin() as connection:
            assert {each.groups for each in repair(connection, rollup)} == {0}
    assert groups(samples) == before


BOUNDS = {
    "a default partition": partition("rest", "DEFAULT"),
    "a partition without an end": partition("end", "FOR VALUES FROM ('2026-03-01Z') TO (MAXVALUE)"),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_beside_others(samples: Engine, name: str) -> None:
    execute(samples, BOUNDS[name], *months("january", "february"))
    execute(samples, SAMPLE.format(since="2026-01-31Z", until="2026-02-02Z"))
    if "default" in name:
        execute(samples, SAMPLE.format(since="2025-12-30Z", until="2025-12-31Z"))
    before = groups(samples)
    drop_by_hand(samples)
    assert_kept(samples, before)


def test_a_partition_without_a_beginning(samples: Engine) -> None:
    execute(
        samples,
        partition("january", "FOR VALUES FROM (MINVALUE) TO ('2026-02-01Z')"),
        *months("february"),
        SAMPLE.format(since="2026-01-31Z", until="2026-02-02Z"),
    )
    before = groups(samples)
    drop_by_hand(samples)
    assert_kept(samples, before)


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("drop", ["by hand", "by the operation"])
def test_partitions_of_partitions(samples: Engine, drop: str) -> None:
    execute(
        samples,
        *(f"{each} PARTITION BY HASH (sensor)" for each in months("january", "february")),
        *(
            f"CREATE TABLE {month}_{n} PARTITION OF samples_{month} "
            f"FOR VALUES WITH (MODULUS 2, REMAINDER {n})"
            for month in ("january", "february")
            for n in range(2)
        ),
        SAMPLE.format(since="2026-01-31Z", until="2026-02-02Z"),
    )
    before = groups(samples)
    DROPS[drop](samples)
    assert_kept(samples, before)


def test_rows_that_are_not_in_the_rollups_are_not_dropped(empty_database: URL) -> None:
    engine = create_engine(empty_database, poolclass=NullPool)
    tables = MetaData()
    SAMPLES.to_metadata(tables)
    with engine.begin() as connection:
        create(connection, tables)
    execute(engine, *months("january", "february"))
    execute(engine, SAMPLE.format(since="2026-01-31Z", until="2026-02-02Z"))
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        for table in KEPT.sorted_tables:
            if table is SAMPLES:
                continue
            table.create(connection)
            match declared_distribution(table):
                case Distributed() as distribution:
                    operations.invoke(CreateDistributedTableOp.of(table.name, distribution))
                case Reference():
                    operations.invoke(CreateReferenceTableOp(table.name))
        (spec,) = specs_of(KEPT)
        operations.invoke(CreateRollupsOp(spec))
    with pytest.raises(
        OperationError, match=r"drop_old_time_partitions\(samples\) would lose rows"
    ):
        drop_by_operation(engine)
    for _ in backfill(engine, EVER):
        pass
    before = groups(engine)
    drop_by_operation(engine)
    assert_kept(engine, before)


def test_a_rollup_by_another_time(empty_database: URL) -> None:
    """The partitions are of one time, and the buckets of another."""
    tables = MetaData()
    source = SAMPLES.to_metadata(tables)
    noted = Rollup("noted", source, time="noted_at", every="1 day", measures={"samples": count()})
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.begin() as connection:
        create(connection, tables)
    execute(engine, *months("january", "february"))
    execute(engine, SAMPLE.format(since="2026-01-20Z", until="2026-02-10Z"))
    drop_by_operation(engine)
    with engine.begin() as connection:
        before = rows(connection, "SELECT * FROM noted ORDER BY bucket")
        assert len(before) == 22
        assert {each.groups for each in repair(connection, noted)} == {0}
        assert rows(connection, "SELECT * FROM noted ORDER BY bucket") == before
        (status,) = rollup_status(connection, noted)
        assert status.horizon is not None
        assert datetime(2026, 1, 30, 23, tzinfo=UTC) < status.horizon < FEBRUARY
