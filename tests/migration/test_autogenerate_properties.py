"""Whatever an application's tables are, autogenerate brings a database to them, and back."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import NullPool, create_engine, text

from citus_analytics.schema import Distributed, Local, Reference
from citus_analytics.sql import qualify
from tests.autogenerate import Application, differences
from tests.random_models import SCHEMAS, applications, metadata_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

    from tests.random_models import Tables
    from tests.servers import DatabaseServer

ROWS = 5


@pytest.fixture(scope="module")
def shop(server: DatabaseServer) -> Iterator[URL]:
    """A database that every example leaves as it was."""
    with server.database("empty") as url:
        run(url, f'CREATE SCHEMA "{SCHEMAS[1]}"')
        yield url


@st.composite
def histories(draw: st.DrawFn) -> tuple[Tables, Tables]:
    first = draw(applications())
    return first, draw(applications(before=first))


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(histories())
def test_there_and_back(shop: URL, server: DatabaseServer, history: tuple[Tables, Tables]) -> None:
    folder = Path(mkdtemp())
    application = Application(shop, folder / "migrations")
    first, second = history
    try:
        migrate(application, first)
        if server.kind == "citus":
            assert_spread_as_declared(shop, first)
        fill(shop, first)
        migrate(application, second)
        if server.kind == "citus":
            assert_spread_as_declared(shop, second)
        for table in set(names(first)) & set(names(second)):
            assert count(shop, table) == ROWS
        application.downgrade()
        assert differences(shop, metadata_of(first)) == []
        for table in set(names(first)) & set(names(second)):
            assert count(shop, table) == ROWS
        application.downgrade("base")
        assert tables_in(shop) == ["public.alembic_version"]
    finally:
        shutil.rmtree(folder)
        for table in tables_in(shop):
            run(shop, f"DROP TABLE {table} CASCADE")


def migrate(application: Application, tables: Tables) -> None:
    """Generate a revision, run it, and see that nothing is left to do."""
    metadata = metadata_of(tables)
    application.revise(metadata)
    application.upgrade()
    assert differences(application.url, metadata) == []


def names(tables: Tables) -> list[str]:
    return [qualify(table.name, table.schema or "public") for table in tables]


def run(url: URL, statement: str) -> list[tuple[Any, ...]]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        # A colon would start a parameter.
        result = connection.execute(text(statement.replace(":", "\\:")))
        return [tuple(row) for row in result] if result.returns_rows else []


def fill(url: URL, tables: Tables) -> None:
    for name in names(tables):
        rows = f"SELECT i, i FROM generate_series(1, {ROWS}) AS i"
        run(url, f"INSERT INTO {name} (tenant, id) {rows}")


def count(url: URL, table: str) -> int:
    [(found,)] = run(url, f"SELECT count(*) FROM {table}")
    return int(found)


def tables_in(url: URL) -> list[str]:
    found = run(
        url,
        "SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class AS c "
        "JOIN pg_namespace AS n ON n.oid = relnamespace "
        "WHERE relkind = 'r' AND nspname IN ('public', 'Shop %d') ORDER BY 1",
    )
    return [name for (name,) in found]


def assert_spread_as_declared(url: URL, tables: Tables) -> None:
    """Ask Citus itself."""
    found: dict[tuple[str, str], tuple[Any, ...]] = {
        (schema, name): tuple(rest)
        for schema, name, *rest in run(
            url,
            "SELECT nspname, relname, citus_table_type, distribution_column, shard_count, "
            "colocation_id FROM citus_tables JOIN pg_class AS c ON c.oid = table_name "
            "JOIN pg_namespace AS n ON n.oid = relnamespace",
        )
    }
    for table in tables:
        kind, column, shards, group = found.get((table.schema or "public", table.name), (None,) * 4)
        match table.distribution:
            case Reference():
                assert kind == "reference"
            case Distributed(column=wanted, shard_count=wanted_shards, colocate_with=other):
                assert (kind, column) == ("distributed", wanted or "<none>")
                assert wanted_shards in (None, shards)
                if other not in (None, "none"):
                    schema = table.distribution.colocate_schema or table.schema or "public"
                    assert group == found[schema, other][3]
            case Local():
                assert kind in (None, "local")
            case None:
                pass
