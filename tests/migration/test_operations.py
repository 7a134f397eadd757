"""The operations on tables of an application's own, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Integer,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    text,
)

from citus_analytics import Rollup, count, maximum, minimum, total
from citus_analytics.errors import OperationError
from citus_analytics.migrations import (
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    CreateRollupsOp,
    UndistributeTableOp,
)
from citus_analytics.schema import Distributed, Reference
from tests.operations import rows, run, values
from tests.servers import ON_CITUS_ONLY, SHARD_COUNT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

# Names that must be quoted everywhere, a schema, measures of every kind, a key that is no number.
METADATA = MetaData()
VIEWS = Table(
    "Page Views",
    METADATA,
    Column("Tenant", Text),
    Column("key", DateTime(timezone=True)),
    Column("groups", Integer),
    Column("it's", Text),
    Column("Milli%seconds", BigInteger),
    Distributed("Tenant"),
    schema="Web Shop",
)
ROLLUP = Rollup(
    'views by "hour"',
    VIEWS,
    time="key",
    every="1 hour",
    by=["Tenant", "groups", "it's"],
    measures={
        "n": count(),
        "total": total("Milli%seconds"),
        "least": minimum("Milli%seconds"),
        "most": maximum("Milli%seconds"),
    },
    function="Roll 100% up",
)
SPEC = ROLLUP.spec()
EXPECTED = """
SELECT "Tenant", date_bin('1 hour', "key", '2000-01-01 00:00+00'), groups, "it's",
       count(*), sum("Milli%seconds"), min("Milli%seconds"), max("Milli%seconds")
FROM "Web Shop"."Page Views" GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
FOUND = """
SELECT "Tenant", bucket, groups, "it's", n, total, least, most
FROM "Web Shop"."views by ""hour\""" ORDER BY 1, 2, 3, 4
"""


@pytest.fixture
def plain(empty_database: URL) -> Iterator[Connection]:
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        yield connection


def kind_of(connection: Connection, table: str) -> tuple[object, ...] | None:
    found = connection.execute(
        text(
            "SELECT citus_table_type, distribution_column, shard_count FROM citus_tables "
            "WHERE table_name = CAST(:table AS regclass)"
        ),
        {"table": table},
    ).one_or_none()
    return None if found is None else tuple(found)


def test_a_rollup_of_someone_elses_tables(plain: Connection) -> None:
    plain.execute(text('CREATE SCHEMA "Web Shop"'))
    METADATA.create_all(plain)
    create = CreateRollupsOp(SPEC)
    beside = Distributed("Tenant", colocate_with="Page Views")
    run(
        plain,
        CreateDistributedTableOp.of("Page Views", Distributed("Tenant"), "Web Shop"),
        CreateDistributedTableOp.of(ROLLUP.name, beside, "Web Shop"),
        create,
    )
    plain.commit()
    for shift in (0, 2, 5):
        plain.exec_driver_sql(
            'INSERT INTO "Web Shop"."Page Views" '
            "SELECT 'tenant ' || i %% 7, timestamptz '2026-03-01' + i * interval '97 s', i %% 3, "
            "nullif('it''s ' || i %% 2, 'it''s 1'), i + %s FROM generate_series(1, 200) AS i",
            (shift,),
        )
        plain.exec_driver_sql('SELECT "Web Shop"."Roll 100%% up"()', ())
        plain.commit()
        assert rows(plain, FOUND) == rows(plain, EXPECTED)
    plain.exec_driver_sql('DELETE FROM "Web Shop"."Page Views" WHERE "Tenant" = %s', ("tenant 3",))
    plain.exec_driver_sql('SELECT "Web Shop"."Roll 100%% up"()', ())
    assert rows(plain, FOUND) == rows(plain, EXPECTED)
    plain.commit()

    run(plain, create.reverse())
    left = "SELECT proname FROM pg_proc WHERE pronamespace = '\"Web Shop\"'::regnamespace"
    assert rows(plain, left) == []
    run(plain, create.reverse().reverse())
    plain.commit()
    plain.exec_driver_sql('SELECT "Web Shop"."Roll 100%% up"()', ())
    assert rows(plain, FOUND) == rows(plain, EXPECTED)


@ON_CITUS_ONLY
def test_distribution_there_and_back(plain: Connection) -> None:
    plain.execute(text("CREATE TABLE clicks AS SELECT i AS user_id FROM generate_series(1, 99) i"))
    plain.commit()
    create = CreateDistributedTableOp.of("clicks", Distributed(column="user_id", shard_count=6))
    run(plain, create)
    plain.commit()
    assert kind_of(plain, "clicks") == ("distributed", "user_id", 6)
    plain.commit()
    run(plain, create.reverse())
    plain.commit()
    assert kind_of(plain, "clicks") is None
    plain.commit()
    run(plain, create.reverse().reverse())
    plain.commit()
    assert kind_of(plain, "clicks") == ("distributed", "user_id", 6)
    assert plain.execute(text("SELECT count(*) FROM clicks")).scalar_one() == 99


@ON_CITUS_ONLY
def test_reference_tables_there_and_back(plain: Connection) -> None:
    plain.execute(text("CREATE TABLE countries (code text PRIMARY KEY)"))
    create = CreateReferenceTableOp("countries")
    run(plain, create)
    plain.commit()
    assert kind_of(plain, "countries") == ("reference", "<none>", 1)
    plain.commit()
    run(plain, create.reverse())
    plain.commit()
    assert kind_of(plain, "countries") is None
    run(plain, create.reverse())  # A local table is left alone.


@ON_CITUS_ONLY
def test_tables_join_the_servers_shard_count(plain: Connection) -> None:
    plain.execute(text("CREATE TABLE a (id int); CREATE TABLE b (id int)"))
    run(
        plain,
        CreateDistributedTableOp.of("a", Distributed(column="id")),
        CreateDistributedTableOp.of("b", Distributed(column="id", colocate_with="a")),
    )
    assert kind_of(plain, "a") == kind_of(plain, "b") == ("distributed", "id", SHARD_COUNT)


def test_a_rollup_is_not_created_half(empty_database: URL) -> None:
    engine = create_engine(empty_database, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, pytest.raises(OperationError, match="needs a transaction"):
        run(connection, CreateRollupsOp(SPEC))


def test_operations_carry_what_their_reverse_needs() -> None:
    distributed = CreateDistributedTableOp.of("t", Distributed(column="c", colocate_with="u"), "s")
    reference = CreateReferenceTableOp("t", schema="s")
    rollup = CreateRollupsOp(SPEC)
    for operation in (distributed, reference, rollup):
        assert values(operation.reverse().reverse()) == values(operation)
    undistribute = UndistributeTableOp("t", was=Reference(), schema="s")
    assert values(reference.reverse()) == values(undistribute)
    with pytest.raises(OperationError, match="was=Distributed"):
        UndistributeTableOp("t").reverse()
