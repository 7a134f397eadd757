"""Partitions by time: the same on every server, and those that Citus's own functions make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text

from citus_analytics.errors import ArgumentError, OperationError
from citus_analytics.migrations import (
    CreateDistributedTableOp,
    CreateTimePartitionsOp,
    DropOldTimePartitionsOp,
)
from citus_analytics.schema import Distributed
from tests.operations import rows, run
from tests.servers import ON_CITUS_ONLY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

START = datetime(2026, 2, 25, 17, 42, 31, tzinfo=UTC)
WIDTHS = {
    "10 seconds": timedelta(seconds=70),
    "5 minutes": timedelta(minutes=17),
    "1 hour": timedelta(hours=5),
    "1 day": timedelta(days=9),
    "1 week": timedelta(days=30),
    "2 weeks": timedelta(days=40),
    "1 month": timedelta(days=90),
    "3 months": timedelta(days=400),
    "1 year": timedelta(days=800),
}
PARTITIONS = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits AS i
JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = '{}'::regclass ORDER BY 1
"""


@pytest.fixture
def connection(empty_database: URL) -> Iterator[Connection]:
    """A connection of someone who is far from UTC, and writes dates the other way round."""
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        connection.execute(text("SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'SQL, DMY'"))
        connection.commit()
        yield connection


def partitioned(connection: Connection, kind: str = "timestamptz", name: str = "events") -> None:
    columns = f'("user" bigint, at {kind}) PARTITION BY RANGE (at)'
    connection.execute(text(f'CREATE TABLE "{name}" {columns}'))


def partitions(connection: Connection, name: str = "events") -> list[tuple[str, str]]:
    connection.execute(text("SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'"))
    return [(name, bounds) for name, bounds in rows(connection, PARTITIONS.format(f'"{name}"'))]


@ON_CITUS_ONLY
@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_they_are_those_of_citus(kind: str, connection: Connection) -> None:
    widths = {w: span for w, span in WIDTHS.items() if kind != "date" or span.days > 0}
    for width, span in widths.items():
        partitioned(connection, kind)
        run(connection, CreateTimePartitionsOp("events", width, START + span, start_from=START))
        ours = partitions(connection)
        assert len(ours) > 1
        connection.execute(text("DROP TABLE events"))
        partitioned(connection, kind)
        connection.execute(
            text("SELECT create_time_partitions('events', CAST(:width AS interval), :end, :start)"),
            {"width": width, "end": START + span, "start": START},
        )
        assert partitions(connection) == ours
        connection.rollback()


def test_they_do_not_depend_on_the_session(connection: Connection) -> None:
    partitioned(connection)
    two_days = CreateTimePartitionsOp(
        "events", timedelta(days=1), START + timedelta(1), start_from=START
    )
    run(connection, two_days)
    assert rows(connection, "SHOW TimeZone") == [("Asia/Kolkata",)]
    assert rows(connection, "SHOW DateStyle") == [("SQL, DMY",)]
    assert partitions(connection) == [
        (
            "events_p2026_02_25",
            "FOR VALUES FROM ('2026-02-25 00:00:00+00') TO ('2026-02-26 00:00:00+00')",
        ),
        (
            "events_p2026_02_26",
            "FOR VALUES FROM ('2026-02-26 00:00:00+00') TO ('2026-02-27 00:00:00+00')",
        ),
    ]


def test_they_continue_what_there_is(connection: Connection) -> None:
    partitioned(connection)
    connection.execute(
        text(
            "CREATE TABLE oldest PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('-infinity');"
            "CREATE TABLE others PARTITION OF events DEFAULT;"
            "CREATE TABLE old PARTITION OF events"
            "  FOR VALUES FROM ('20/02/2026 06:00 UTC') TO ('21/02/2026 06:00 UTC')"
        )
    )
    days = CreateTimePartitionsOp(
        "events", timedelta(days=1), START, start_from=START - timedelta(days=2)
    )
    run(connection, days, days)
    assert [name for name, _ in partitions(connection)] == [
        *(f"events_p2026_02_2{day}" for day in (3, 4, 5)),
        "old",
        "oldest",
        "others",
    ]
    assert "FROM ('2026-02-25 06:00:00+00')" in partitions(connection)[2][1]


def test_they_start_now_if_nothing_else_is_said(connection: Connection) -> None:
    partitioned(connection)
    end = datetime.now(tz=timezone(timedelta(hours=9))) + timedelta(days=1)
    run(connection, CreateTimePartitionsOp("events", "1 day", end))
    connection.execute(text("INSERT INTO events VALUES (1, now()), (2, now() + '23 hours')"))
    past = CreateTimePartitionsOp("events", "1 day", START - timedelta(days=9999))
    before = partitions(connection)
    run(connection, past)
    assert partitions(connection) == before


def test_names_that_are_too_long(connection: Connection) -> None:
    name = 'é"%' * 15
    partitioned(connection, name=name.replace('"', '""'))
    run(
        connection,
        CreateTimePartitionsOp(name, "1 hour", START + timedelta(hours=2), start_from=START),
    )
    found = rows(connection, "SELECT relname FROM pg_class WHERE relispartition")
    assert sorted(partition.removeprefix(name[:34]) for (partition,) in found) == [
        "_p2026_02_25_1700",
        "_p2026_02_25_1800",
        "_p2026_02_25_1900",
    ]


@pytest.mark.parametrize(
    ("definition", "found"),
    [
        ("(at timestamptz)", "not partitioned"),
        ("(at timestamptz) PARTITION BY LIST (at)", r"partitioned by LIST \(at\)"),
        ("(at bigint) PARTITION BY RANGE (at)", r"partitioned by RANGE \(at\)"),
        ("(a date, at date) PARTITION BY RANGE (a, at)", r"partitioned by RANGE \(a, at\)"),
        ("(at date) PARTITION BY RANGE ((at + 1))", r"partitioned by RANGE \(\(\(at \+ 1\)\)\)"),
    ],
)
def test_a_table_that_is_not_partitioned_by_time(
    definition: str, found: str, connection: Connection
) -> None:
    connection.execute(text(f"CREATE TABLE events {definition}"))
    connection.commit()
    operations = {
        "create_time_partitions": CreateTimePartitionsOp("events", "1 day", START, start_from=None),
        "drop_old_time_partitions": DropOldTimePartitionsOp("events", START),
    }
    for function, operation in operations.items():
        message = rf"^{function}\(events\) needs a table partitioned by .*; this one is {found}$"
        with pytest.raises(OperationError, match=message):
            run(connection, operation)
        connection.rollback()


@pytest.mark.parametrize("width", ["0", "-1 day", "6 hours"])
def test_an_interval_that_cannot_be(width: str, connection: Connection) -> None:
    partitioned(connection, "date")
    with pytest.raises(OperationError, match=r"\(events\) needs an interval .* got"):
        run(connection, CreateTimePartitionsOp("events", width, START))


def test_arguments_that_cannot_be() -> None:
    naive, day = datetime(2026, 1, 1), timedelta(days=1)  # noqa: DTZ001
    for create in (
        CreateTimePartitionsOp("t", day, naive),
        CreateTimePartitionsOp("t", day, START, start_from=naive),
        DropOldTimePartitionsOp("t", naive),
    ):
        with pytest.raises(ArgumentError, match=r"must have a time zone, got 2026-01-01 00:00"):
            create.steps()
    with pytest.raises(ArgumentError, match="must start before it ends"):
        CreateTimePartitionsOp("t", day, START, start_from=START).steps()
    with pytest.raises(ArgumentError, match="must be longer than 0, got 0:00:00"):
        CreateTimePartitionsOp("t", timedelta(0), START).steps()


def test_old_ones_go_and_the_others_stay(connection: Connection) -> None:
    partitioned(connection)
    run(
        connection,
        CreateDistributedTableOp.of("events", Distributed(column="user")),
        CreateTimePartitionsOp("events", "1 day", START + timedelta(days=2), start_from=START),
    )
    connection.execute(text("CREATE TABLE others PARTITION OF events DEFAULT"))
    connection.execute(
        text(
            "INSERT INTO events SELECT i, timestamptz '2026-02-25 UTC' + i * interval '1 hour' "
            "FROM generate_series(0, 71) AS i"
        )
    )
    connection.commit()
    run(connection, DropOldTimePartitionsOp("events", datetime(2026, 2, 27, 23, tzinfo=UTC)))
    connection.commit()
    assert [name for name, _ in partitions(connection)] == ["events_p2026_02_27", "others"]
    assert rows(connection, "SELECT count(*) FROM events") == [(24,)]
