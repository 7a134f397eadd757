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

    from citus_analytics.copy import Progress
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
