"""Each content is loaded once: by name or not, compressed or not, at the same time or not."""

from __future__ import annotations

import gzip
import io
import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from citus_analytics.copy import LoadResult
from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.load import LoadOptions, load_files, load_once
from citus_analytics.github.models import (
    GithubEvent,
    github_events,
    github_rollup_1min,
    github_user_origins,
    github_users,
    loaded_files,
)
from tests.database.load_data import EVENTS, USERS, count
from tests.event_data import hour, line
from tests.rollups import assert_adds_up
from tests.servers import ON_POSTGRESQL_ONLY
from tests.web_server import Site, served

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from citus_analytics.copy import Source

UNIQUE = LoadOptions(unique=True)


def load(connection: Connection, content: bytes, **arguments: object) -> LoadResult:
    return load_once(connection, github_events, io.BytesIO(content), **arguments)  # type: ignore[arg-type]


def contents(engine: Engine) -> tuple[list[str], list[str]]:
    """Return all events and users, as text."""
    with engine.connect() as connection:
        events = connection.execute(text("SELECT e::text FROM github_events AS e")).scalars()
        users = connection.execute(text("SELECT u::text FROM github_users AS u")).scalars()
        return sorted(events), sorted(users)


@pytest.mark.parametrize("content", [EVENTS, hour(50)], ids=["csv", "json"])
def test_a_content_is_loaded_once(connection: Connection, content: bytes) -> None:
    first = load(connection, content)
    again = load(connection, content)
    assert (again.already_loaded, again.rows) == (True, first.rows)
    # The same content, of another size and from where it cannot be read twice.
    assert load(connection, gzip.compress(content)).already_loaded
    assert load_once(connection, github_events, iter([content])).already_loaded
    assert count(connection) == first.rows
    assert not load(connection, content + content).already_loaded


def test_a_byte_order_mark_belongs_to_the_content(connection: Connection) -> None:
    content = b"\xef\xbb\xbf" + EVENTS
    assert load(connection, content).rows == 1000
    assert load(connection, content).already_loaded
    assert not load(connection, EVENTS).already_loaded


def test_nothing_is_known_of_a_load_that_was_rolled_back(connection: Connection) -> None:
    load(connection, hour(5))
    connection.rollback()
    assert not load(connection, hour(5)).already_loaded


@pytest.mark.parametrize("content", [EVENTS, hour(50)], ids=["csv", "json"])
def test_force_replaces(engine: Engine, content: bytes) -> None:
    with engine.begin() as connection:
        load(connection, content)
        load(connection, hour(60)[len(hour(50)) :])
    before = contents(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE github_events SET event_type = 'Changed'"))
        result = load(connection, content, force=True)
        assert result.rows == content.count(b"\n")
        changed = connection.execute(
            text("SELECT count(*) FROM github_events WHERE event_type = 'Changed'")
        )
        assert changed.scalar_one() == 10
        connection.execute(text("SELECT rollup_http_request()"))
        assert_adds_up(connection)
    after = contents(engine)
    assert (len(after[0]), after[1]) == (len(before[0]), before[1])
    with engine.begin() as connection:
        assert load(connection, content).already_loaded


def test_users_are_loaded_once_and_replaced_by_force(connection: Connection) -> None:
    def load_users(content: bytes, *, force: bool = False) -> LoadResult:
        return load_once(connection, github_users, io.BytesIO(content), force=force)

    assert load_users(USERS).rows == 50
    assert load_users(USERS).already_loaded
    assert load_users(USERS + b"99,,new,,,\n") == LoadResult(
        rows=1, bytes=len(USERS) + 11, duplicates=50
    )
    connection.execute(text("UPDATE github_users SET login = 'changed'"))
    assert load_users(USERS, force=True).rows == 50
    changed = connection.execute(text("SELECT login FROM github_users WHERE login = 'changed'"))
    assert len(changed.all()) == 1


@pytest.mark.parametrize("keyed", [False, True])
def test_overlapping_files_add_no_duplicate(connection: Connection, keyed: bool) -> None:
    if keyed:
        connection.execute(text("CREATE UNIQUE INDEX k ON github_events (event_id, user_id)"))
    assert load(connection, hour(60), options=UNIQUE).rows == 60
    overlapping = hour(100)[len(hour(30)) :] + hour(100)[len(hour(90)) :]
    result = load(connection, overlapping, options=UNIQUE)
    assert (result.rows, result.duplicates) == (40, 40)
    assert count(connection) == 100
    assert load(connection, EVENTS, options=UNIQUE).rows == 1000
    assert load(connection, EVENTS + b"\n"[:0] + EVENTS, options=UNIQUE).rows == 0


@ON_POSTGRESQL_ONLY
def test_what_is_there_is_found_without_a_scan(connection: Connection) -> None:
    connection.execute(
        text(
            "INSERT INTO github_events (event_id, user_id, created_at) SELECT i, i % 5000, "
            "TIMESTAMPTZ '2024-01-01Z' + make_interval(secs => i) FROM generate_series(1, 200000) i"
        )
    )
    connection.execute(text("ANALYZE github_events"))
    scans = text("SELECT pg_stat_get_xact_numscans('github_events'::regclass)")
    before = connection.execute(scans).scalar_one()
    load(connection, hour(100), options=UNIQUE)
    assert connection.execute(scans).scalar_one() == before


def test_two_clients_load_the_same_file_at_the_same_time(engine: Engine) -> None:
    results: list[LoadResult] = []

    def load_it() -> None:
        with engine.begin() as connection:
            results.append(load(connection, hour(300)))

    threads = [threading.Thread(target=load_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.already_loaded for result in results) == [False, True, True, True]
    assert len(contents(engine)[0]) == 300


@pytest.mark.faults
@pytest.mark.parametrize("overlap", [False, True])
def test_clients_that_share_users_do_not_deadlock(engine: Engine, overlap: bool) -> None:
    errors: list[BaseException] = []

    def load_some(client: int) -> None:
        try:
            for turn in range(3):
                number = 0 if overlap else 1000 * client + 100 * turn
                content = b"".join(line(number + i) for i in range(100)) + b" " * client
                with engine.begin() as connection:
                    load(connection, content + b" " * turn * 10, options=UNIQUE)
        except BaseException as error:  # noqa: BLE001 - asserted on below
            errors.append(error)

    threads = [threading.Thread(target=load_some, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(contents(engine)[0]) == (100 if overlap else 1200)


def test_another_table_is_refused(connection: Connection) -> None:
    with pytest.raises(ArgumentError, match="use load_csv"):
        load_once(connection, github_rollup_1min, io.BytesIO(EVENTS))


def test_files_folders_ranges_and_the_web(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "hours").mkdir()
    for number in range(12):
        name = tmp_path / "hours" / f"h-{number}.json.gz"
        name.write_bytes(gzip.compress(line(number) * 2))
    seen: list[Source] = []
    pattern = f"{tmp_path}/hours/h-{{2..4}}.json.gz"
    load_files(engine, github_events, [pattern], loaded=lambda source, _: seen.append(source))
    assert seen == [f"{tmp_path}/hours/h-{number}.json.gz" for number in (2, 3, 4)]
    results = load_files(engine, github_events, [str(tmp_path / "hours")])
    assert [result.already_loaded for result in results] == [n in (2, 3, 4) for n in range(12)]
    with served(Site(gzip.compress(hour(70)), breaks=[100, 50])) as site:
        for _ in range(2):
            (result,) = load_files(engine, github_events, [f"{site.address}/h.json.gz"])
            assert result.rows == 70
    assert result.already_loaded
    assert len(contents(engine)[0]) == 24 + 70


def test_what_is_loaded_stays_when_a_later_file_fails(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "1.json").write_bytes(hour(5))
    (tmp_path / "2.json.gz").write_bytes(gzip.compress(hour(6))[:-9])
    for _ in range(2):
        with pytest.raises(LoadError, match="is cut short"):
            load_files(engine, github_events, [str(tmp_path)])
        assert len(contents(engine)[0]) == 5
    (tmp_path / "2.json.gz").write_bytes(gzip.compress(hour(6)))
    results = load_files(engine, github_events, [str(tmp_path)])
    assert [result.already_loaded for result in results] == [True, False]


def test_indexes_are_built_afterwards(engine: Engine, tmp_path: Path) -> None:
    indexes = text("SELECT indexdef FROM pg_indexes WHERE tablename = 'github_events' ORDER BY 1")
    path = tmp_path / "hour.json"
    path.write_bytes(hour(100))
    with engine.connect() as connection:
        before = connection.execute(indexes).scalars().all()

    def interrupt(progress: object) -> None:
        with engine.connect() as other:
            assert other.execute(indexes).scalars().all() == []
        raise KeyboardInterrupt

    def load_it(**arguments: object) -> None:
        load_files(engine, github_events, [path], indexes_later=True, **arguments)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        load_it(progress=interrupt)
    load_it()
    # As after a process that was killed in the middle.
    with engine.begin() as connection:
        assert connection.execute(indexes).scalars().all() == before
        connection.execute(text("DROP INDEX payload_index"))
    load_it()
    with engine.connect() as connection:
        assert connection.execute(indexes).scalars().all() == before


def test_the_tables_of_loading_are_empty_after_nothing(connection: Connection) -> None:
    assert load(connection, b"") == LoadResult(rows=0, bytes=0)
    assert load(connection, b"").already_loaded
    assert connection.execute(github_user_origins.select()).all() == []
    assert len(connection.execute(loaded_files.select()).all()) == 1


def test_paths_alone_and_in_lists(engine: Engine, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"h-{number}.json").write_bytes(line(number))
    calls: list[tuple[str, object]] = []

    def rows(sources: object) -> list[int]:
        results = load_files(
            engine,
            github_events,
            sources,  # type: ignore[arg-type]
            force=True,
            started=lambda source: calls.append(("started", source)),
            loaded=lambda source, _: calls.append(("loaded", source)),
        )
        return [result.rows for result in results]

    path = tmp_path / "h-0.json"
    with path.open("rb") as file:
        for alone in (path, str(path), file, [path], iter([str(path)])):
            assert rows(alone) == [1]
    assert rows(tmp_path) == rows([tmp_path]) == rows(str(tmp_path)) == [1, 1, 1]
    calls.clear()
    assert rows([tmp_path / "h-{1..2}.json"]) == [1, 1]
    expected = [tmp_path / "h-1.json", tmp_path / "h-2.json"]
    assert calls == [(word, each) for each in expected for word in ("started", "loaded")]
    with pytest.raises(ArgumentError, match=r"wrap it in io\.BytesIO"):
        load_files(engine, github_events, b"{}")  # type: ignore[arg-type]
    assert len(contents(engine)[0]) == 3


def test_building_indexes_is_announced_where_they_were_dropped(
    engine: Engine, tmp_path: Path
) -> None:
    calls: list[str] = []
    for number in range(2):
        path = tmp_path / f"{number}.json"
        path.write_bytes(line(number))
        load_files(
            engine,
            GithubEvent,
            path,
            indexes_later=True,
            loaded=lambda *_: calls.append("loaded"),
            building_indexes=lambda: calls.append("building"),
        )
    assert calls == ["loaded", "building", "loaded"]
