"""The catalogs as the library reads them, on both kinds of server."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from citus_analytics import catalog
from citus_analytics.errors import ArgumentError
from tests.servers import ON_POSTGRESQL_ONLY, execute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL, Engine

    from tests.servers import DatabaseServer


@pytest.fixture
def empty(empty_database: URL) -> Iterator[Connection]:
    """A connection to an empty database."""
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        yield connection


def create(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)


def own(connection: Connection) -> list[catalog.CatalogTable]:
    return [table for table in catalog.tables(connection) if table.extension is None]


def sizes(connection: Connection) -> dict[str, int | None]:
    return {size.name: size.bytes for size in catalog.table_sizes(connection)}


def test_the_version_of_citus(server: DatabaseServer, empty: Connection) -> None:
    version = catalog.citus_version(empty)
    if server.kind == "postgresql":
        assert version is None
    else:
        assert version is not None
        assert f"Citus {version[0]}.{version[1]}," in server.version


def test_an_empty_database(empty: Connection) -> None:
    assert own(empty) == []
    assert catalog.shards(empty) == ()
    assert catalog.colocation_groups(empty) == ()


@ON_POSTGRESQL_ONLY
def test_without_citus_nothing_is_distributed(connection: Connection) -> None:
    found = catalog.cluster_status(connection)
    assert {table.kind for table in found.tables} == {"local"}
    assert {table.shard_count for table in found.tables} == {None}
    assert (found.citus, found.nodes, found.shards, found.groups) == (None, (), (), ())
    assert (found.skew, found.loads, found.findings) == ((), (), ())
    assert found.health == catalog.ClusterHealth(nodes=(), links=())
    assert all(size.bytes is not None for size in found.sizes)


def test_every_kind_of_relation(empty: Connection) -> None:
    create(
        empty,
        "CREATE TABLE a (id int)",
        "CREATE UNLOGGED TABLE b (id int PRIMARY KEY)",
        "CREATE TABLE c (id int) PARTITION BY LIST (id)",
        "CREATE TABLE c_1 PARTITION OF c FOR VALUES IN (1)",
        "CREATE EXTENSION file_fdw",
        "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
        "CREATE FOREIGN TABLE d (id int) SERVER files OPTIONS (filename '/dev/null')",
        # None of these is a table that anybody keeps rows in.
        "CREATE TEMPORARY TABLE e (id int)",
        "CREATE VIEW f AS SELECT 1 AS id",
        "CREATE MATERIALIZED VIEW g AS SELECT 1 AS id",
        "CREATE SEQUENCE h",
    )
    found = {table.name: table for table in own(empty)}
    assert {name: table.access_method for name, table in found.items()} == {
        "a": "heap",
        "b": "heap",
        "c": None,
        "c_1": "heap",
        "d": None,
    }
    assert [name for name, table in found.items() if table.partitioned] == ["c"]
    assert found["c_1"].partition_of == found["c"].qualified_name == '"public"."c"'
    assert found["c"].partition_of is None


def test_inheritance_is_not_partitioning(empty: Connection) -> None:
    create(empty, "CREATE TABLE a (id int)", "CREATE TABLE b () INHERITS (a)")
    assert [table.partition_of for table in own(empty)] == [None, None]


def test_names_of_any_kind_in_order(empty: Connection) -> None:
    create(
        empty,
        'CREATE SCHEMA "Sales"',
        'CREATE TABLE "Sales"."Order ""s"" :b" (id int)',
        "CREATE TABLE foo_102008 (id int)",
        "CREATE TABLE foo_99999999999999999999 (id int)",
        'CREATE TABLE "Zoo" (id int)',
        'CREATE TABLE "äpfel" (id int)',
    )
    expected = [
        ("Sales", 'Order "s" :b'),
        ("public", "Zoo"),
        ("public", "foo_102008"),
        ("public", "foo_99999999999999999999"),
        ("public", "äpfel"),
    ]
    assert [(table.schema, table.name) for table in own(empty)] == expected
    assert own(empty)[0].qualified_name == '"Sales"."Order ""s"" :b"'
    assert [*sizes(empty).values()].count(0) >= len(expected)


def test_only_some_schemas(empty: Connection) -> None:
    create(empty, "CREATE TABLE a (id int)")
    create(empty, "CREATE SCHEMA one", "CREATE TABLE one.b (id int)")
    create(empty, "CREATE SCHEMA two", "CREATE TABLE two.c (id int)")
    for schemas, expected in (
        (["one"], ["b"]),
        ({"two", "one"}, ["b", "c"]),
        (("public", "nowhere"), ["a"]),
        ([], []),
    ):
        assert [table.name for table in catalog.tables(empty, schemas=schemas)] == expected
        assert [size.name for size in catalog.table_sizes(empty, schemas=schemas)] == expected
    with pytest.raises(ArgumentError, match="collection of names; found 'public'"):
        catalog.tables(empty, schemas="public")


def test_tables_of_extensions_say_so(empty: Connection) -> None:
    create(
        empty,
        "CREATE TABLE mine (id int)",
        "CREATE TABLE theirs (id int)",
        "CREATE EXTENSION hstore",
        "ALTER EXTENSION hstore ADD TABLE theirs",
    )
    found = {table.name: table.extension for table in catalog.tables(empty, schemas=["public"])}
    assert found == {"mine": None, "theirs": "hstore"}


def test_sizes_of_local_tables(empty: Connection) -> None:
    create(
        empty,
        "CREATE TABLE a (id int PRIMARY KEY, t text)",
        "INSERT INTO a SELECT n, repeat('x', 100) FROM generate_series(1, 1000) AS n",
        "CREATE SCHEMA archive",
        "CREATE TABLE p (id int) PARTITION BY LIST (id)",
        "CREATE TABLE archive.p_1 PARTITION OF p FOR VALUES IN (1) PARTITION BY LIST (id)",
        "CREATE TABLE archive.p_1_1 PARTITION OF archive.p_1 FOR VALUES IN (1)",
        "CREATE TABLE p_2 PARTITION OF p FOR VALUES IN (2)",
        "INSERT INTO p SELECT 1 + n % 2 FROM generate_series(1, 5000) AS n".replace("%", "%%"),
    )
    found = sizes(empty)
    for table in ("a", "archive.p_1_1", "p_2"):
        counted = empty.execute(text(f"SELECT pg_total_relation_size('{table}')")).scalar_one()
        assert found[table.split(".")[-1]] == counted > 0
    assert found["p_1"] == found["p_1_1"]
    assert found["p"] == (found["p_1_1"] or 0) + (found["p_2"] or 0)
    # Partitions count wherever they are.
    (size,) = [size for size in catalog.table_sizes(empty, schemas=["public"]) if size.name == "p"]
    assert size.bytes == found["p"]


def test_a_locked_table_makes_nobody_wait(empty_database: URL, empty: Connection) -> None:
    execute(empty_database, "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int)")
    create(empty, "LOCK TABLE a")
    assert sizes(empty)["a"] == 8192, "its own locks keep nobody out"
    with create_engine(empty_database, poolclass=NullPool).connect() as other:
        found: dict[str, int | None] = {}
        asking = threading.Thread(target=lambda: found.update(sizes(other)))
        asking.start()
        asking.join(timeout=20)
        empty.rollback()
        asking.join()
    assert (found["a"], found["b"]) == (None, 0)


def test_ordinary_users(server: DatabaseServer, database: URL, connection: Connection) -> None:
    """Who may do nothing but connect sees what everybody sees."""
    execute(
        database,
        "CREATE SCHEMA secret",
        "CREATE TABLE secret.plans (id int, t text)",
        "DROP ROLE IF EXISTS passer_by",
        "CREATE ROLE passer_by LOGIN",
    )
    if server.kind == "citus":
        execute(database, "SELECT create_distributed_table('secret.plans', 'id')")
    expected = catalog.cluster_status(connection)
    assert {shard.schema for shard in expected.shards} <= {"public", "secret"}
    with create_engine(database.set(username="passer_by"), poolclass=NullPool).connect() as weak:
        assert catalog.cluster_status(weak) == expected
        assert catalog.table_sizes(weak) == expected.sizes
        assert catalog.colocation_groups(weak) == expected.groups
    assert all(size.bytes is not None for size in expected.sizes)
    execute(database, "DROP ROLE passer_by")


READERS: list[Callable[[Any], object]] = [
    catalog.access_methods,
    catalog.citus_version,
    catalog.cluster_health,
    catalog.cluster_status,
    catalog.colocation_groups,
    catalog.nodes,
    catalog.rollups,
    catalog.shards,
    catalog.table_sizes,
    catalog.tables,
]


@pytest.mark.parametrize("read", READERS)
def test_sessions_and_asyncio(engine: Engine, read: Callable[[Any], object]) -> None:
    with engine.connect() as connection:
        expected = read(connection)
    with Session(engine) as session:
        assert read(session) == expected
    scope = scoped_session(sessionmaker(engine))
    assert read(scope) == expected
    scope.remove()

    async def read_asynchronously() -> tuple[object, object]:
        async_engine = create_async_engine(engine.url, poolclass=NullPool)
        async with async_engine.connect() as connection, AsyncSession(async_engine) as session:
            return await connection.run_sync(read), await session.run_sync(read)

    assert asyncio.run(read_asynchronously()) == (expected, expected)


def test_a_session_sees_its_own_transaction(empty_database: URL) -> None:
    engine = create_engine(empty_database, poolclass=NullPool)
    with Session(engine) as session:
        session.execute(text("CREATE TABLE a (id int)"))
        assert [size.bytes for size in catalog.table_sizes(session, schemas=["public"])] == [0]
        session.rollback()
        assert catalog.tables(session, schemas=["public"]) == ()


def test_nothing_is_committed(empty_database: URL, empty: Connection) -> None:
    create(empty, "CREATE TABLE a (id int)")
    catalog.cluster_status(empty)
    empty.rollback()
    assert own(empty) == []


def test_a_read_only_transaction_is_enough(connection: Connection) -> None:
    connection.execute(text("SET TRANSACTION READ ONLY"))
    assert catalog.cluster_status(connection).tables
