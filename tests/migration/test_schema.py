"""The migrated schema: the tutorial's, on every server, up and down any number of times."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import URL, NullPool, create_engine, text

from citus_analytics.errors import OperationError
from citus_analytics.migrations import configuration, downgrade, upgrade
from citus_analytics.models import Base
from citus_analytics.server import EmbeddedServer, installed_binaries
from tests import tutorial
from tests.programs import psql, schema_dump
from tests.rollups import add, assert_adds_up, event
from tests.servers import ON_CITUS_ONLY, ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from tests.servers import DatabaseServer

TUTORIAL_TABLES = ("github_events", "github_users", "github_rollup_1min", "latest_rollup")


def query(url: URL, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement), parameters)]


def tables(url: URL) -> list[str]:
    """Return what is in the database, but for views that Citus puts there."""
    found = query(
        url,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relkind = 'r' ORDER BY 1",
    )
    return [name for (name,) in found]


def distributed(url: URL) -> list[tuple[str, str, str]]:
    """Return table, distribution column and colocation group of the distributed tables."""
    return query(
        url,
        "SELECT table_name::text, distribution_column, colocation_id::text FROM citus_tables "
        "ORDER BY 1",
    )


def test_up_and_down_any_number_of_times(server: DatabaseServer, empty_database: URL) -> None:
    upgrade(empty_database)
    first = schema_dump(server, empty_database)
    for _ in range(2):
        downgrade(empty_database)
        assert tables(empty_database) == ["alembic_version"]
        assert query(empty_database, "SELECT * FROM alembic_version") == []
        functions = "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        assert query(empty_database, functions) == []
        upgrade(empty_database)
        assert schema_dump(server, empty_database) == first


def test_downgrade_with_data_in_the_tables(empty_database: URL) -> None:
    upgrade(empty_database)
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.begin() as connection:
        add(connection, *(event(user) for user in range(20)))
        connection.execute(text("SELECT rollup_http_request()"))
        add(connection, event(1))
    downgrade(empty_database)
    assert tables(empty_database) == ["alembic_version"]


def test_migrations_are_one_transaction_that_the_caller_may_own(empty_database: URL) -> None:
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.connect() as connection:
        upgrade(connection)
        add(connection, event(1))
        connection.execute(text("SELECT rollup_http_request()"))
        assert_adds_up(connection)
        connection.rollback()
    assert tables(empty_database) == []


def test_each_revision_goes_up_and_down_alone(empty_database: URL) -> None:
    scripts = ScriptDirectory.from_config(configuration(empty_database))
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    for revision in revisions:
        upgrade(empty_database, revision)
        downgrade(empty_database, "-1")
        upgrade(empty_database, revision)
    assert query(empty_database, "SELECT * FROM alembic_version") == [(revisions[-1],)]


def test_the_offline_script_makes_the_same_schema(
    server: DatabaseServer, database: URL, empty_database: URL
) -> None:
    psql(server, empty_database, offline_script("upgrade", "head"))
    assert schema_dump(server, empty_database) == schema_dump(server, database)
    if server.kind == "citus":
        assert distributed(empty_database) == distributed(database)
    psql(server, empty_database, offline_script("downgrade", "head:base"))
    assert tables(empty_database) == ["alembic_version"]


def offline_script(direction: str, revision: str) -> str:
    config = configuration("postgresql://nobody@nowhere/nothing")
    config.output_buffer = output = io.StringIO()
    getattr(command, direction)(config, revision, sql=True)
    return output.getvalue()


def test_alembic_check_finds_nothing_to_do(database: URL) -> None:
    command.check(configuration(database))


def test_columns_and_constraints_are_the_tutorials(
    server: DatabaseServer, database: URL, empty_database: URL
) -> None:
    psql(server, empty_database, tutorial.CREATE_TABLES)
    facts = {
        "columns": "SELECT attrelid::regclass::text, attnum, attname, format_type(atttypid, "
        "atttypmod), attnotnull, atthasdef FROM pg_attribute "
        "WHERE attrelid = CAST(:name AS regclass) AND attnum > 0 ORDER BY attnum",
        "constraints": "SELECT conname, contype::text, pg_get_constraintdef(oid) "
        "FROM pg_constraint WHERE conrelid = CAST(:name AS regclass) ORDER BY conname",
    }
    for table in TUTORIAL_TABLES:
        for kind, statement in facts.items():
            found = query(database, statement, name=table)
            assert found == query(empty_database, statement, name=table), (table, kind)


def test_the_tutorials_indexes_are_there(
    server: DatabaseServer, database: URL, empty_database: URL
) -> None:
    psql(server, empty_database, tutorial.CREATE_TABLES)
    indexes = (
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT LIKE 'al%'"
    )
    added = set(query(database, indexes)) - set(query(empty_database, indexes))
    assert not set(query(empty_database, indexes)) - set(query(database, indexes))
    names = sorted(definition.split(" ON ")[0] for (definition,) in added)
    assert names == [
        "CREATE INDEX user_created_at_index",
        "CREATE UNIQUE INDEX github_rollup_1min_group_index",
    ]


def test_models_create_what_migrations_create(database: URL, empty_database: URL) -> None:
    Base.metadata.create_all(create_engine(empty_database, poolclass=NullPool))
    columns = (
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute "
        "WHERE attrelid = CAST(:name AS regclass) AND attnum > 0 ORDER BY attnum"
    )
    for table in TUTORIAL_TABLES:
        found = query(database, columns, name=table)
        assert found == query(empty_database, columns, name=table)


@ON_CITUS_ONLY
def test_three_tables_are_colocated_by_user(database: URL) -> None:
    found = {name: (column, group) for name, column, group in distributed(database)}
    internal = {name for name in found if name.startswith("github_rollup_1min_")}
    tutorials = {name: found[name] for name in found if name not in internal}
    assert set(tutorials) == {"github_events", "github_users", "github_rollup_1min"}
    assert {column for column, _ in tutorials.values()} == {"user_id"}
    assert len({group for _, group in found.values()}) == 1


@ON_CITUS_ONLY
def test_policy_skip_distributes_nothing(empty_database: URL) -> None:
    upgrade(empty_database, citus="skip")
    assert distributed(empty_database) == []
    command.check(configuration(empty_database))
    downgrade(empty_database)


@ON_POSTGRESQL_ONLY
def test_policy_require_refuses_and_leaves_nothing(empty_database: URL) -> None:
    with pytest.raises(OperationError, match=r"Citus is required.*CREATE EXTENSION citus"):
        upgrade(empty_database, citus="require")
    assert tables(empty_database) == []


@ON_POSTGRESQL_ONLY
def test_policy_auto_says_what_stays_local(
    empty_database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade(empty_database)
    said = [message for message in caplog.messages if "Citus is not installed" in message]
    assert [name for name in TUTORIAL_TABLES[:3] if any(name in line for line in said)] == [
        *TUTORIAL_TABLES[:3]
    ]


@pytest.mark.parametrize("major", [15, 16, 17, 18])
def test_on_every_postgresql_of_this_machine(major: int) -> None:
    found = [binaries for binaries in installed_binaries() if binaries.version[0] == major]
    if not found:
        pytest.skip(f"PostgreSQL {major} is not on this machine")
    with EmbeddedServer(binaries=found[0], settings={"fsync": "off"}) as server:
        upgrade(server.url)
        engine = create_engine(server.url, poolclass=NullPool)
        with engine.begin() as connection:
            add(connection, event(1), event(1), event(None))
            connection.execute(text("SELECT rollup_http_request()"))
            assert_adds_up(connection)
        command.check(configuration(server.url))
        downgrade(server.url)
        assert tables(server.url) == ["alembic_version"]
