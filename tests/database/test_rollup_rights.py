"""Who may write, and who may use the rights of a rollup's owner."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from citus_analytics import Rollup, RollupError, run_rollup
from citus_analytics.github.models import GITHUB_EVENTS_BY_TYPE, GITHUB_ROLLUP_1MIN
from citus_analytics.rollups.run import (
    audit_window,
    expire_window,
    record_failure,
    repair,
    rollup_status,
    run_batch,
)
from tests.rollups import add, assert_adds_up, event
from tests.servers import ON_POSTGRESQL_ONLY, ON_SINGLE_NODE_CITUS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


OWNERS: dict[str, Callable[[Connection], object]] = {
    "run_rollup": lambda connection: run_rollup(connection, GITHUB_ROLLUP_1MIN),
    "run_batch": lambda connection: run_batch(connection, GITHUB_ROLLUP_1MIN),
    "repair": lambda connection: repair(connection, GITHUB_ROLLUP_1MIN),
    "audit_window": lambda connection: audit_window(
        connection, GITHUB_ROLLUP_1MIN, "github_rollup_1min"
    ),
    "expire_window": lambda connection: expire_window(
        connection, GITHUB_ROLLUP_1MIN, datetime(2100, 1, 1, tzinfo=UTC)
    ),
    "record_failure": lambda connection: record_failure(connection, GITHUB_ROLLUP_1MIN, "x"),
}


def test_who_may_not_is_told_who_may(engine: Engine, database: URL) -> None:
    """In a sentence, without what the server was about."""
    with engine.begin() as connection:
        connection.execute(text("CREATE ROLE only_reader LOGIN"))
        add(connection, event(1), event(2))
        # Something to repair.
        wrong = "INSERT INTO github_rollup_1min (user_id, total_events, ingest_time)"
        connection.execute(text(f"{wrong} VALUES (1, 1, timestamptz '2026-01-01Z')"))
    try:
        reader = create_engine(database.set(username="only_reader"), poolclass=NullPool)
        refused = "permission denied for .* need the rights of the owner of their tables"
        with reader.connect() as connection, pytest.raises(RollupError, match=refused):
            rollup_status(connection, GITHUB_ROLLUP_1MIN)
        with engine.begin() as connection:
            connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO only_reader"))
        for call in OWNERS.values():
            with (
                reader.connect() as connection,
                pytest.raises(RollupError, match=refused) as caught,
            ):
                call(connection)
            assert "\n" not in str(caught.value)
        with reader.connect() as connection:
            assert rollup_status(connection, GITHUB_ROLLUP_1MIN)[0].pending == 2
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY only_reader"))
            connection.execute(text("DROP ROLE only_reader"))


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
