"""Who may write, and who may use the rights of a rollup's owner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from citus_analytics import Rollup, run_rollup
from citus_analytics.github.models import GITHUB_EVENTS_BY_TYPE, GITHUB_ROLLUP_1MIN
from tests.rollups import add, assert_adds_up, event
from tests.servers import ON_POSTGRESQL_ONLY, ON_SINGLE_NODE_CITUS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

    from tests.servers import DatabaseServer


def test_writers_need_no_rights_on_the_log(
    engine: Engine, database: URL, server: DatabaseServer
) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE ROLE only_writer LOGIN"))
    try:
        with engine.begin() as connection:
            connection.execute(text("GRANT INSERT ON github_events TO only_writer"))
        writer = create_engine(database.set(username="only_writer"), poolclass=NullPool)
        with writer.begin() as connection:
            add(connection, event(1), event(2))
        with writer.begin() as connection, pytest.raises(DBAPIError, match="permission denied"):
            connection.execute(text("SELECT count(*) FROM github_events_log"))
        with engine.begin() as connection:
            run_rollup(connection, GITHUB_ROLLUP_1MIN)
            assert_adds_up(connection)
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY only_writer"))
            connection.execute(text("DROP ROLE only_writer"))


@pytest.mark.parametrize("rollup", [GITHUB_ROLLUP_1MIN, GITHUB_EVENTS_BY_TYPE])
def test_readers_need_no_search_path(connection: Connection, rollup: Rollup) -> None:
    add(connection, event(1), event(2))
    view = f"public.{rollup.table().name}_fresh"
    connection.execute(text("SET LOCAL search_path = pg_catalog"))
    assert connection.scalar(text(f"SELECT count(*) > 0 FROM {view}"))


@pytest.fixture
def stranger(engine: Engine) -> Iterator[Connection]:
    """A connection of somebody who may create tables of their own."""
    with engine.begin() as connection:
        connection.execute(text("CREATE ROLE stranger LOGIN"))
    try:
        with engine.connect() as connection:
            connection.execute(text("SET LOCAL ROLE stranger"))
            yield connection
            connection.rollback()
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP ROLE stranger"))


def attach(connection: Connection, table: str) -> None:
    connection.execute(text(f"CREATE TEMPORARY TABLE {table} (user_id bigint)"))
    connection.execute(
        text(
            f"CREATE TRIGGER mine AFTER INSERT ON {table} REFERENCING NEW TABLE AS _added "
            "FOR EACH STATEMENT EXECUTE FUNCTION github_events_capture()"
        )
    )


def test_nobody_else_can_use_the_rights_of_the_owner(stranger: Connection) -> None:
    attach(stranger, "mine")
    with pytest.raises(DBAPIError, match="for another table than mine"):
        stranger.execute(text("INSERT INTO mine (user_id) VALUES (1)"))


@ON_SINGLE_NODE_CITUS
def test_a_table_that_is_named_like_a_shard(stranger: Connection) -> None:
    shard = stranger.scalar(
        text(
            "SELECT min(shardid) FROM pg_dist_shard WHERE logicalrelid = 'github_events'::regclass"
        )
    )
    attach(stranger, f"mine_{shard}")
    with pytest.raises(DBAPIError, match=f"for another table than mine_{shard}"):
        stranger.execute(text(f"INSERT INTO mine_{shard} (user_id) VALUES (1)"))


@ON_POSTGRESQL_ONLY
def test_the_source_has_been_renamed(stranger: Connection) -> None:
    attach(stranger, "mine")
    stranger.execute(text("RESET ROLE"))
    stranger.execute(text("ALTER TABLE github_events RENAME TO events"))
    stranger.execute(text("INSERT INTO events (user_id, event_id) VALUES (1, 1)"))
    stranger.execute(text("SET LOCAL ROLE stranger"))
    with pytest.raises(DBAPIError, match="for another table than mine"):
        stranger.execute(text("INSERT INTO mine (user_id) VALUES (1)"))
