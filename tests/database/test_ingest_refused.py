"""Rows that only the server refuses: their source is read twice, and everything is told once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import text

from citus_analytics.errors import LoadError
from citus_analytics.ingest import LoadOptions, Progress, load_files
from citus_analytics.models import github_events
from tests.database.small_parts import events, small_parts
from tests.event_data import hour, line
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from citus_analytics.gharchive import Reject

__all__ = ["small_parts"]

pytestmark = pytest.mark.usefixtures("small_parts")

TOO_LARGE = {"number": 0}
EVENTS = 600


def write_hour(path: Path) -> None:
    """Write an hour in which lines 101 and 501 are refused here, and 301 and 401 by the server."""
    lines = [line(number) for number in range(EVENTS)]
    lines[100] = lines[500] = line(1, actor={})
    for at in (300, 400):
        # A number that JSON has, and no numeric of PostgreSQL's.
        lines[at] = line(at, payload=TOO_LARGE).replace(b'"number": 0', b'"number": 1e999999')
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("jobs", [1, 3])
def test_each_reject_is_told_once(engine: Engine, tmp_path: Path, jobs: int) -> None:
    path = tmp_path / "hour.json"
    write_hour(path)
    rejects: list[Reject] = []
    options = LoadOptions(rejects=rejects.append)
    (result,) = load_files(engine, github_events, [path], options=options, jobs=jobs)
    assert sorted(reject.line for reject in rejects) == [101, 301, 401, 501]
    refused = {reject.line for reject in rejects if "the server refuses it" in reject.reason}
    assert refused == {301, 401}
    assert (result.rows, result.rejected, events(engine)) == (EVENTS - 4, 4, EVENTS - 4)
    (again,) = load_files(engine, github_events, [path], options=options, jobs=jobs)
    assert again.already_loaded
    assert (again.rows, again.rejected) == (EVENTS - 4, 4)


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_nobody_can_refuse_is_told_once_it_is_read(
    engine: Engine, tmp_path: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More of them than memory holds.
    monkeypatch.setattr("citus_analytics.ingest.rejects._MOST_IN_MEMORY", 100)
    path = tmp_path / "hour.json"
    path.write_bytes(hour(300) + b"".join(line(number, actor={}) for number in range(200)))
    rejects: list[Reject] = []
    options = LoadOptions(rejects=rejects.append)
    (result,) = load_files(engine, github_events, [path], options=options, jobs=jobs)
    assert sorted(reject.line for reject in rejects) == list(range(301, 501))
    assert all(reject.text == line(reject.line - 301, actor={}).strip() for reject in rejects)
    assert (result.rows, result.rejected) == (300, 200)


@pytest.mark.parametrize("jobs", [1, 3])
def test_whoever_is_told_of_rejects_can_fail_the_load(
    engine: Engine, tmp_path: Path, jobs: int
) -> None:
    def no_room(reject: Reject) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "hour.json"
    write_hour(path)
    with pytest.raises(OSError, match="No space left"):
        load_files(engine, github_events, [path], options=LoadOptions(rejects=no_room), jobs=jobs)
    assert events(engine) == 0


@pytest.mark.parametrize("jobs", [1, 3])
def test_strict_names_what_the_server_refuses(engine: Engine, tmp_path: Path, jobs: int) -> None:
    path = tmp_path / "hour.json"
    refused = line(1, payload=TOO_LARGE).replace(b'"number": 0', b'"number": 1e999999')
    path.write_bytes(hour(300) + refused + hour(300))
    with pytest.raises(LoadError, match=r"hour\.json, line 301: the server refuses it") as caught:
        load_files(engine, github_events, [path], options=LoadOptions(strict=True), jobs=jobs)
    assert caught.value.line == 301
    assert events(engine) == 0


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_what_is_no_fault_of_a_row_fails_at_once(
    engine: Engine, tmp_path: Path, jobs: int, kind: str
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
        connection.execute(text("DROP TABLE github_rollup_1min_changes"))
    seen: list[Progress] = []
    with pytest.raises(psycopg.Error):
        load_files(engine, github_events, [path], jobs=jobs, progress=seen.append)
    assert events(engine) == 0
    bytes_seen = [progress.bytes for progress in seen]
    assert bytes_seen == sorted(bytes_seen)
    assert bytes_seen[0] < bytes_seen[-1]
