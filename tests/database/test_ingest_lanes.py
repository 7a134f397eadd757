"""What goes on beside a load over several connections, and what may happen to them."""

from __future__ import annotations

import gzip
import threading
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text

from citus_analytics.github.ingest import LoadOptions, Progress, load_files
from citus_analytics.github.models import github_events
from tests.database.small_parts import events, in_background, path, small_parts, until
from tests.event_data import hour, line, refused_line

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Engine

    from citus_analytics.github.gharchive import Reject

__all__ = ["path", "small_parts"]

pytestmark = pytest.mark.usefixtures("small_parts")

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

    (result,) = load_files(engine, github_events, [path], jobs=3, progress=begin_to_change)
    changing.join(timeout=60)
    assert not changing.is_alive()
    assert result.rows == events(engine) == 1000


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
    (result,) = load_files(engine, github_events, [path], jobs=2)
    locking.join(timeout=60)
    assert result.rows == events(engine) == 1000


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("level", ["AUTOCOMMIT", "REPEATABLE READ"])
def test_engines_at_other_isolation_levels(
    database: URL, path: Path, jobs: int, level: str
) -> None:
    engine = create_engine(database, poolclass=NullPool, isolation_level=level)
    path.write_bytes(hour(600) + refused_line(1))
    (result,) = load_files(engine, github_events, [path], jobs=jobs)
    assert (result.rows, result.rejected, events(engine)) == (600, 1, 600)
    (again,) = load_files(engine, github_events, [path], jobs=jobs)
    assert again.already_loaded


@pytest.mark.parametrize("jobs", [1, 3])
def test_timeouts_are_for_statements_that_are_not_loads(
    database: URL, path: Path, jobs: int
) -> None:
    options = "-c statement_timeout=500ms -c idle_in_transaction_session_timeout=500ms"
    engine = create_engine(database, poolclass=NullPool, connect_args={"options": options})
    calls = []

    def sleep(progress: Progress) -> None:
        calls.append(progress)
        if len(calls) < 5:
            time.sleep(0.3)

    load_files(engine, github_events, [path], jobs=jobs, progress=sleep)
    assert events(engine) == 1000


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_an_interrupt_is_told_when_the_connections_are_lost_too(
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
        load_files(engine, github_events, [path], jobs=3, progress=lose_all)
    assert threading.active_count() == 1
    assert events(engine) == 0


@pytest.mark.parametrize("jobs", [1, 3])
def test_rejects_of_what_is_loaded_are_not_told_again(
    engine: Engine, path: Path, jobs: int
) -> None:
    content = hour(600) + line(1, actor={}) * 3
    path.write_bytes(content)
    load_files(engine, github_events, [path])
    packed = path.with_suffix(".json.gz")
    packed.write_bytes(gzip.compress(content))
    told: list[Reject] = []
    options = LoadOptions(rejects=told.append)
    (result,) = load_files(engine, github_events, [packed], options=options, jobs=jobs)
    assert (result.already_loaded, result.rejected, told) == (True, 3, [])


def test_more_users_than_are_kept_in_memory(
    engine: Engine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("citus_analytics.github.ingest.users._MOST_IN_MEMORY", 2)
    monkeypatch.setattr("citus_analytics.github.ingest.json_load.BLOCK_SIZE", 1000)
    load_files(engine, github_events, [path], jobs=3)
    with engine.connect() as connection:
        logins = connection.execute(text("SELECT login FROM github_users ORDER BY user_id"))
        assert logins.scalars().all() == [f"user-{number}" for number in range(1, 8)]
