"""Loaders beside each other and beside others: nothing twice, and nobody waits for ever."""

from __future__ import annotations

import gzip
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.load import LoadOptions, load_api_events, load_once
from citus_analytics.github.models import github_events, github_users
from tests.database.load_data import USERS
from tests.database.small_parts import (
    SMALL,
    events,
    in_background,
    load_files,
    lose_after,
    path,
    until,
)
from tests.event_data import api_event, hour, line, refused_line

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Engine

    from citus_analytics.copy import Progress
    from citus_analytics.github.events import Reject

__all__ = ["path"]

WAITING = """
SELECT 1 FROM pg_locks WHERE relation = 'github_events'::regclass AND NOT granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def test_whoever_waits_to_change_the_table_waits_for_all_of_it(engine: Engine, path: Path) -> None:
    def change() -> None:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE github_events ADD COLUMN further int"))

    changing = threading.Thread(target=change)

    def begin_to_change(progress: Progress) -> None:
        if changing.ident is None:
            changing.start()
            # Some connections have not begun to write yet.
            until(engine, WAITING)

    (result,) = load_files(engine, github_events, [path], connections=3, progress=begin_to_change)
    changing.join(timeout=60)
    assert not changing.is_alive()
    assert result.rows == events(engine) == 1000


@pytest.mark.faults
def test_a_table_that_is_locked_is_waited_for(engine: Engine, path: Path) -> None:
    locked = threading.Event()

    def lock() -> None:
        with engine.begin() as connection:
            connection.execute(text("LOCK TABLE github_events IN SHARE MODE"))
            locked.set()
            # Longer than the load waits in one go.
            time.sleep(3)

    locking = in_background(lock)
    locked.wait(timeout=60)
    (result,) = load_files(engine, github_events, [path], connections=2)
    locking.join(timeout=60)
    assert result.rows == events(engine) == 1000


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("level", ["AUTOCOMMIT", "REPEATABLE READ"])
def test_engines_at_other_isolation_levels(
    database: URL, path: Path, connections: int, level: str
) -> None:
    engine = create_engine(database, poolclass=NullPool, isolation_level=level)
    path.write_bytes(hour(600) + refused_line(1))
    (result,) = load_files(engine, github_events, [path], connections=connections)
    assert (result.rows, result.rejected, events(engine)) == (600, 1, 600)
    (again,) = load_files(engine, github_events, [path], connections=connections)
    assert again.already_loaded


@pytest.mark.parametrize("connections", [1, 3])
def test_timeouts_do_not_apply_to_loads(database: URL, path: Path, connections: int) -> None:
    options = "-c statement_timeout=1000ms -c idle_in_transaction_session_timeout=1000ms"
    engine = create_engine(database, poolclass=NullPool, connect_args={"options": options})
    calls = []

    def sleep(progress: Progress) -> None:
        calls.append(progress)
        if len(calls) < 3:
            time.sleep(1.2)

    load_files(engine, github_events, [path], connections=connections, progress=sleep)
    assert events(engine) == 1000


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_an_interrupt_is_raised_when_the_connections_are_lost_too(
    engine: Engine, path: Path, kind: str
) -> None:
    if kind == "csv":
        row = b"%d,PushEvent,t,2,{},{},5,,2025-01-01T00:00:00Z\n"
        path.write_bytes(b"".join(row % number for number in range(9000)))

    def lose_all(progress: Progress) -> None:
        with engine.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                    "AND backend_type = 'client backend' AND query LIKE '%github_events%'"
                )
            )
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_files(engine, github_events, [path], connections=3, progress=lose_all)
    assert threading.active_count() == 1
    assert events(engine) == 0


@pytest.mark.parametrize("connections", [1, 3])
def test_rejects_of_a_loaded_file_are_not_reported_again(
    engine: Engine, path: Path, connections: int
) -> None:
    content = hour(600) + line(1, actor={}) * 3
    path.write_bytes(content)
    load_files(engine, github_events, [path])
    packed = path.with_suffix(".json.gz")
    packed.write_bytes(gzip.compress(content))
    told: list[Reject] = []
    options = LoadOptions(rejects=told.append)
    (result,) = load_files(
        engine, github_events, [packed], options=options, connections=connections
    )
    assert (result.already_loaded, result.rejected, told) == (True, 3, [])


def test_more_users_than_are_kept_in_memory(engine: Engine, path: Path) -> None:
    options = LoadOptions(buffers=replace(SMALL, users=2))
    load_files(engine, github_events, [path], options=options, connections=3)
    with engine.connect() as connection:
        logins = connection.execute(text("SELECT login FROM github_users ORDER BY user_id"))
        assert logins.scalars().all() == [f"user-{number}" for number in range(1, 8)]


UNIQUE = LoadOptions(unique=True)
SLOW_COMMIT = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('slow.done', true) IS DISTINCT FROM 'yes' THEN
    PERFORM set_config('slow.done', 'yes', true), pg_sleep(2);
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON loaded_files
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()
"""
WAITING_CLIENT = """
SELECT wait_event FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND backend_type = 'client backend'
"""


@pytest.mark.faults
def test_a_commit_that_outlives_its_client_is_waited_for(engine: Engine, path: Path) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(SLOW_COMMIT)
    failed: list[DBAPIError] = []

    def first() -> None:
        try:
            load_files(
                engine, github_events, [path], connections=2, options=LoadOptions(users=False)
            )
        except DBAPIError as error:
            failed.append(error)

    thread = in_background(first)
    until(
        engine,
        "SELECT 1 FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event = 'PgSleep'",
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state = 'idle in transaction'"
        )
    (result,) = load_files(engine, github_events, [path])
    thread.join()
    assert failed
    assert (0 < result.rows < 1000, result.already_loaded) == (True, False)
    assert events(engine) == 1000
    assert load_files(engine, github_events, [path])[0].already_loaded


def test_the_rest_of_a_file_is_unique_where_that_is_asked_for(engine: Engine, path: Path) -> None:
    lose_after(engine, 2, path)
    assert 0 < events(engine) < 1000
    with engine.begin() as connection:
        load_api_events(connection, map(api_event, range(1000)), options=UNIQUE)
    (result,) = load_files(engine, github_events, [path], options=UNIQUE)
    assert result.duplicates > 0
    assert events(engine) == 1000


def test_the_rest_of_a_file_has_its_lines_and_its_format(engine: Engine, path: Path) -> None:
    path.write_bytes(b"".join(line(n) if n % 10 == 0 else b"no event\n" for n in range(3000)))
    rejects: list[Reject] = []
    lose_after(engine, 2, path)
    partly = events(engine)
    assert 0 < partly < 300
    options = LoadOptions(rejects=rejects.append)
    (result,) = load_files(engine, github_events, [path], options=options)
    assert (result.rows, events(engine)) == (300 - partly, 300)
    assert result.rejected == len(rejects) < 2700
    lines = path.read_bytes().splitlines()
    assert rejects
    assert all(lines[reject.line - 1] == reject.text == b"no event" for reject in rejects)
    assert len({reject.line for reject in rejects}) == len(rejects)


def test_a_forced_load_waits_for_those_that_add_events(engine: Engine, path: Path) -> None:
    load_files(engine, github_events, [path])
    with engine.connect() as connection:
        load_api_events(connection, map(api_event, range(990, 1010)), options=UNIQUE)
        path.write_bytes(hour(1010))
        thread = in_background(lambda: load_files(engine, github_events, [path], force=True))
        assert until(engine, WAITING_CLIENT) == "advisory"
        connection.commit()
        thread.join()
    assert events(engine) == 1010


def test_users_of_a_file_and_users_of_events_wait_for_each_other(engine: Engine) -> None:
    def load_them() -> None:
        with engine.begin() as connection:
            load_api_events(connection, map(api_event, range(20)))

    with engine.connect() as connection:
        load_once(connection, github_users, [USERS])
        thread = in_background(load_them)
        assert until(engine, WAITING_CLIENT) == "advisory"
        connection.commit()
        thread.join()
    assert events(engine) == 20


def test_a_transaction_with_two_files_beside_several_connections(
    engine: Engine, path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(hour(100))
    with engine.connect() as connection:
        load_once(connection, github_events, other)
        thread = in_background(lambda: load_files(engine, github_events, [path], connections=2))
        assert until(engine, WAITING_CLIENT) == "advisory"
        assert load_once(connection, github_events, path).rows == 1000
        connection.commit()
        thread.join()
    assert events(engine) == 1100


def test_a_table_with_a_unique_index_is_loaded_over_one_connection(
    engine: Engine, path: Path
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE UNIQUE INDEX ON github_events (event_id, user_id)")
    path.write_bytes(hour(1000) + line(1))
    (result,) = load_files(engine, github_events, [path], connections=2)
    assert (result.rows, result.rejected) == (1000, 1)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_old_snapshot_is_refused(database: URL, path: Path, level: str) -> None:
    engine = create_engine(database, poolclass=NullPool, isolation_level=level)
    with engine.connect() as connection, pytest.raises(ArgumentError, match=level):
        load_once(connection, github_events, path)
    with engine.connect() as connection, pytest.raises(ArgumentError, match=level):
        load_api_events(connection, [api_event(1)], options=UNIQUE)
    assert events(engine) == 0


@pytest.mark.parametrize("connections", [1, 3])
def test_a_file_of_nothing_that_can_be_stored(engine: Engine, path: Path, connections: int) -> None:
    path.write_bytes(line(1, actor={}) * 1000)
    with pytest.raises(LoadError, match=r"1000 of 1000 were rejected\. Nothing of it was loaded"):
        load_files(engine, github_events, [path], connections=connections)
    path.write_bytes(hour(1000))
    assert load_files(engine, github_events, [path], connections=connections)[0].rows == 1000


@pytest.mark.parametrize("connections", [1, 2])
def test_loads_that_build_indexes_later_beside_each_other(
    engine: Engine, path: Path, connections: int
) -> None:
    rows: list[int] = []

    def load() -> None:
        results = load_files(
            engine, github_events, [path], connections=connections, indexes_later=True
        )
        rows.append(0 if results[0].already_loaded else results[0].rows)

    threads = [in_background(load) for _ in range(3)]
    for thread in threads:
        thread.join()
    assert sorted(rows) == [0, 0, 1000]
    assert events(engine) == 1000
    assert {index["name"] for index in inspect(engine).get_indexes("github_events")} == {
        index.name for index in github_events.indexes
    }


def test_a_table_that_is_written_to_keeps_its_indexes(engine: Engine, path: Path) -> None:
    with engine.connect() as connection:
        load_api_events(connection, [api_event(2000)])
        thread = in_background(
            lambda: load_files(engine, github_events, [path], indexes_later=True)
        )
        thread.join(1)
        assert thread.is_alive()
        load_api_events(connection, [api_event(2001)])
        connection.commit()
        thread.join()
    assert events(engine) == 1002


def test_missing_indexes_are_warned_of(
    engine: Engine, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX event_type_index")
    load_files(engine, github_events, [path])
    assert "lacks its indexes event_type_index" in caplog.text
    load_files(engine, github_events, [path], indexes_later=True)
    caplog.clear()
    load_files(engine, github_events, [path])
    assert "lacks its indexes" not in caplog.text
    assert [each for each in caplog.records if each.name.startswith("citus_analytics")] == []
