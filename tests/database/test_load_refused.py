"""Rows that only the server refuses: their source is read twice, and everything is told once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import text

from citus_analytics.errors import LoadError
from citus_analytics.github.load import Buffers, LoadOptions
from citus_analytics.github.models import github_events
from tests.database.load_data import GOOD
from tests.database.small_parts import SMALL, events, load_files
from tests.event_data import hour, line, refused_line
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

    from citus_analytics.copy import LoadResult, Progress
    from citus_analytics.github.events import Reject

EVENTS = 600


def write_hour(path: Path) -> None:
    """Write an hour in which lines 101 and 501 are refused here, and 301 and 401 by the server."""
    lines = [line(number) for number in range(EVENTS)]
    lines[100] = lines[500] = line(1, actor={})
    for at in (300, 400):
        lines[at] = refused_line(at)
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("connections", [1, 3])
def test_each_reject_is_reported_once(engine: Engine, tmp_path: Path, connections: int) -> None:
    path = tmp_path / "hour.json"
    write_hour(path)
    rejects: list[Reject] = []
    options = LoadOptions(rejects=rejects.append)
    (result,) = load_files(engine, github_events, [path], options=options, connections=connections)
    assert sorted(reject.line for reject in rejects) == [101, 301, 401, 501]
    refused = {reject.line for reject in rejects if "the server refuses it" in reject.reason}
    assert refused == {301, 401}
    assert (result.rows, result.rejected, events(engine)) == (EVENTS - 4, 4, EVENTS - 4)
    (again,) = load_files(engine, github_events, [path], options=options, connections=connections)
    assert again.already_loaded
    assert (again.rows, again.rejected) == (EVENTS - 4, 4)


@pytest.mark.parametrize("connections", [1, 3])
def test_more_rejects_than_are_kept_in_memory(
    engine: Engine, tmp_path: Path, connections: int
) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(300) + b"".join(line(number, actor={}) for number in range(200)))
    rejects: list[Reject] = []
    # More of them than memory holds.
    options = LoadOptions(rejects=rejects.append, buffers=replace(SMALL, rejects=100))
    (result,) = load_files(engine, github_events, [path], options=options, connections=connections)
    assert sorted(reject.line for reject in rejects) == list(range(301, 501))
    assert all(reject.text == line(reject.line - 301, actor={}).strip() for reject in rejects)
    assert (result.rows, result.rejected) == (300, 200)


@pytest.mark.parametrize("connections", [1, 3])
def test_a_callback_for_rejects_can_fail_the_load(
    engine: Engine, tmp_path: Path, connections: int
) -> None:
    def no_room(reject: Reject) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "hour.json"
    write_hour(path)
    with pytest.raises(OSError, match="No space left"):
        load_files(
            engine,
            github_events,
            [path],
            options=LoadOptions(rejects=no_room),
            connections=connections,
        )
    assert events(engine) == 0


@pytest.mark.parametrize("connections", [1, 3])
def test_strict_names_what_the_server_refuses(
    engine: Engine, tmp_path: Path, connections: int
) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(300) + refused_line(1) + hour(300))
    with pytest.raises(LoadError, match=r"hour\.json, line 301: the server refuses it") as caught:
        load_files(
            engine, github_events, [path], options=LoadOptions(strict=True), connections=connections
        )
    assert caught.value.line == 301
    assert events(engine) == 0


@pytest.fixture
def copies(engine: Engine) -> Callable[[], int]:
    """Returns how many statements have inserted events; on PostgreSQL only."""
    statements = (
        "CREATE TABLE copies ()",
        "CREATE FUNCTION note_copy() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO copies DEFAULT VALUES; RETURN NULL; END'",
        "CREATE TRIGGER note_copy AFTER INSERT ON github_events EXECUTE FUNCTION note_copy()",
    )
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))

    def copies() -> int:
        with engine.connect() as connection:
            return len(connection.execute(text("SELECT FROM copies")).all())

    return copies


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("connections", [1, 3])
def test_a_source_goes_in_one_copy_over_each_connection(
    engine: Engine,
    tmp_path: Path,
    connections: int,
    copies: Callable[[], int],
) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(3000))
    # Much more than a batch.
    options = LoadOptions(buffers=replace(SMALL, batch_size=1000))
    load_files(engine, github_events, [path], options=options, connections=connections)
    assert 1 <= copies() <= connections
    assert events(engine) == 3000


@ON_POSTGRESQL_ONLY
def test_a_copy_ends_when_memory_has_no_room_for_users(
    engine: Engine, tmp_path: Path, copies: Callable[[], int]
) -> None:
    path = tmp_path / "hour.json"
    content = hour(3000)
    path.write_bytes(content)
    options = LoadOptions(buffers=Buffers(block_size=10_000, users=4))
    load_files(engine, github_events, [path], options=options)
    # Every block tells of all seven users.
    assert copies() > len(content) // 30_000
    assert events(engine) == 3000


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_errors_that_no_row_causes_fail_at_once(
    engine: Engine, tmp_path: Path, connections: int, kind: str
) -> None:
    """Nothing is read again for it: how far the load has come never goes back.

    Of what a worker of Citus met with, only the words are known, and so a row has to be looked for.
    """
    path = tmp_path / "events"
    row = b'%d,PushEvent,t,2,"{""size"": 1}",{},5,,2025-01-01T00:00:00Z\n'
    content = hour(3000) if kind == "json" else b"".join(row % number for number in range(30_000))
    path.write_bytes(content)
    with engine.begin() as connection:
        # Capture cannot work any longer.
        connection.execute(text("DROP TABLE github_events_log CASCADE"))
    seen: list[Progress] = []
    with pytest.raises(psycopg.Error):
        load_files(engine, github_events, [path], connections=connections, progress=seen.append)
    assert events(engine) == 0
    bytes_seen = [progress.bytes for progress in seen]
    assert bytes_seen == sorted(bytes_seen)
    assert bytes_seen[0] < bytes_seen[-1]


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("kind", ["interrupted", "cut short"])
def test_errors_of_the_client_come_before_earlier_ones_of_the_server(
    engine: Engine, tmp_path: Path, connections: int, kind: str
) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(refused_line(1) + hour(9000)[:-50])
    calls = []

    def interrupt(progress: Progress) -> None:
        calls.append(progress)
        if kind == "interrupted" and len(calls) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt if kind == "interrupted" else LoadError) as caught:
        load_files(engine, github_events, [path], connections=connections, progress=interrupt)
    assert "cut short" in str(caught.value) or kind == "interrupted"
    assert events(engine) == 0


@pytest.mark.parametrize("unique", [True, False], ids=["unique", "force"])
def test_constraints_of_the_table_reject_what_is_compared_first(
    engine: Engine, tmp_path: Path, unique: bool
) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE github_events ADD CONSTRAINT mine CHECK (event_type <> 'No')")
        )
    path = tmp_path / "hour.json"
    path.write_bytes(hour(50) + line(50, type="No") + line(51))
    rejects: list[Reject] = []
    options = LoadOptions(rejects=rejects.append, unique=unique)
    (result,) = load_files(engine, github_events, [path], options=options, force=not unique)
    assert [reject.line for reject in rejects] == [51]
    assert "mine" in rejects[0].reason
    assert (result.rows, result.rejected, events(engine)) == (51, 1, 51)


@pytest.mark.parametrize("unique", [True, False], ids=["unique", "force"])
@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
def test_what_only_an_index_refuses_is_rejected(
    engine: Engine, tmp_path: Path, unique: bool, stream: bool
) -> None:
    path = tmp_path / "hour.json"
    # Longer than an entry of a B-tree may be, even when it is compressed.
    kind = "".join(map(chr, range(0x4E00, 0x4E00 + 9000)))
    # The second of two equal events is left out, whatever unique indexes there are.
    with engine.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX ON github_events (user_id, event_id)"))
    path.write_bytes(hour(5) + line(6, type=kind) + line(7) * (1 + unique))
    rejects: list[Reject] = []
    options = LoadOptions(rejects=rejects.append, unique=unique)
    source = iter([path.read_bytes()]) if stream else path
    (result,) = load_files(engine, github_events, [source], options=options, force=not unique)
    assert [reject.line for reject in rejects] == [6]
    assert "index row" in rejects[0].reason
    assert (result.rows, result.rejected, result.duplicates) == (6, 1, unique)
    assert events(engine) == 6


def test_a_row_of_csv_that_only_an_index_refuses_is_named(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    kind = "".join(map(chr, range(0x4E00, 0x4E00 + 9000)))
    path.write_bytes(GOOD + b"8" + GOOD.replace(b"PushEvent", kind.encode()) + GOOD)
    with pytest.raises(LoadError, match=r"events\.csv, line 2: index row"):
        load_files(engine, github_events, [path], options=LoadOptions(unique=True))
    assert events(engine) == 0


DEMANDS = {
    "foreign key": (
        "CREATE TABLE kinds (name text PRIMARY KEY)",
        "SELECT create_reference_table('kinds')",
        "INSERT INTO kinds VALUES ('PushEvent'), ('WatchEvent'), ('CreateEvent')",
        "ALTER TABLE github_events ADD CONSTRAINT demand FOREIGN KEY (event_type) "
        "REFERENCES kinds (name)",
    ),
    "trigger": (
        "CREATE FUNCTION demand() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF right(new.event_type, 5) <> ''Event'' THEN "
        "RAISE check_violation USING MESSAGE = ''demand: no such kind''; END IF; "
        "RETURN new; END'",
        "CREATE TRIGGER demand AFTER INSERT ON github_events FOR EACH ROW EXECUTE FUNCTION "
        "demand()",
    ),
}


def demand(engine: Engine, kind: str) -> None:
    """Make the table refuse events whose type is none, when they go in."""
    with engine.begin() as connection:
        on_citus = connection.scalar(text("SELECT to_regclass('pg_dist_partition') IS NOT NULL"))
        for statement in DEMANDS[kind]:
            if on_citus or "create_reference_table" not in statement:
                connection.exec_driver_sql(statement)


@pytest.fixture(params=["foreign key", "trigger"])
def demanding(engine: Engine, request: pytest.FixtureRequest) -> Engine:
    with engine.connect() as connection:
        on_citus = connection.scalar(text("SELECT to_regclass('pg_dist_partition') IS NOT NULL"))
    if on_citus and request.param == "trigger":
        pytest.skip("Citus has no triggers on distributed tables")
    demand(engine, request.param)
    return engine


@pytest.mark.parametrize("unique", [True, False], ids=["unique", "force"])
@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
def test_what_only_a_foreign_key_or_a_trigger_refuses_is_rejected(
    demanding: Engine, tmp_path: Path, unique: bool, stream: bool
) -> None:
    path = tmp_path / "hour.json"
    # The texts have what COPY would have to escape.
    odd = line(51, type="Tab\\t\\\\\\n\N{SNOWMAN}")
    path.write_bytes(hour(50) + odd + line(52) * (1 + unique) + line(53, type="No") + line(54))
    rejects: list[Reject] = []
    options = LoadOptions(rejects=rejects.append, unique=unique)

    def load() -> LoadResult:
        source = iter([path.read_bytes()]) if stream else path
        (result,) = load_files(
            demanding, github_events, [source], options=options, force=not unique
        )
        return result

    result = load()
    last = 53 + unique
    assert [(reject.line, reject.text) for reject in rejects] == [
        (51, odd.strip()),
        (last, line(53, type="No").strip()),
    ]
    assert all("demand" in reject.reason for reject in rejects)
    assert (result.rows, result.rejected, result.duplicates) == (52, 2, unique)
    assert events(demanding) == 52
    if not unique:
        assert load().rows == 52
        assert events(demanding) == 52


def test_a_refused_row_leaves_the_one_that_it_was_to_replace(
    engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(5) + line(6, type="No"))
    load_files(engine, github_events, [path])
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kinds (name text PRIMARY KEY)"))
    demands = DEMANDS["foreign key"][1:]
    with engine.begin() as connection:
        on_citus = connection.scalar(text("SELECT to_regclass('pg_dist_partition') IS NOT NULL"))
        for statement in demands if on_citus else demands[1:]:
            suffix = " NOT VALID" if statement.startswith("ALTER") else ""
            connection.execute(text(statement + suffix))
    rejects: list[Reject] = []
    options = LoadOptions(rejects=rejects.append)
    (result,) = load_files(engine, github_events, [path], options=options, force=True)
    assert (result.rows, result.rejected, events(engine)) == (5, 1, 6)
    assert len(rejects) == 1


def test_strict_names_what_a_foreign_key_refuses(demanding: Engine, tmp_path: Path) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(5) + line(6, type="No") + line(7))
    options = LoadOptions(unique=True, strict=True)
    with pytest.raises(LoadError, match=r"hour\.json, line 6: the server refuses it"):
        load_files(demanding, github_events, [path], options=options)
    assert events(demanding) == 0


def test_nothing_that_can_be_stored(demanding: Engine, tmp_path: Path) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(line(6, type="No") + line(7, type="No"))
    with pytest.raises(LoadError, match="nothing in it can be stored"):
        load_files(demanding, github_events, [path], options=LoadOptions(unique=True))
    assert events(demanding) == 0


def test_a_unique_key_beside_a_foreign_key(demanding: Engine, tmp_path: Path) -> None:
    """What another key knows is left out as before, and not rejected."""
    with demanding.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX ON github_events (user_id, repo_id)"))
    path = tmp_path / "hour.json"
    path.write_bytes(line(1) + line(1, id="77") + line(2, type="No"))
    (result,) = load_files(demanding, github_events, [path], options=LoadOptions(unique=True))
    assert (result.rows, result.rejected, result.duplicates) == (1, 1, 1)
