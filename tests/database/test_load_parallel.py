"""One file over several connections: all of it or nothing, and whatever breaks, once."""

from __future__ import annotations

import csv
import gzip
import io
import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text

from citus_analytics.errors import LoadError
from citus_analytics.github.load import LoadOptions
from citus_analytics.github.models import github_events, loaded_files
from tests.database.load_data import EVENTS, LONG
from tests.database.small_parts import events, load_files, lose_after
from tests.event_data import hour, line

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from citus_analytics.copy import Progress
    from citus_analytics.github.events import Reject

CSV = EVENTS + LONG * 200


def parts(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(connection.execute(select(loaded_files)).all())


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "json", "json.gz"])
def test_all_of_it_is_loaded_once(engine: Engine, tmp_path: Path, kind: str) -> None:
    content = hour(1000) if kind.startswith("json") else CSV
    path = tmp_path / f"events.{kind}"
    path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    seen: list[Progress] = []
    (result,) = load_files(engine, github_events, [path], connections=3, progress=seen.append)
    rows = 1000 if kind.startswith("json") else len(list(csv.reader(io.StringIO(CSV.decode()))))
    assert (result.rows, result.bytes, result.rejected) == (rows, path.stat().st_size, 0)
    assert parts(engine) > 5
    assert (seen[-1].rows, seen[-1].bytes) == (rows, seen[-1].total_bytes)
    for connections in (1, 2):
        (again,) = load_files(engine, github_events, [path], connections=connections)
        assert (again.already_loaded, again.rows) == (True, rows)
    assert events(engine) == rows
    if kind.startswith("json"):
        with engine.connect() as connection:
            users = connection.execute(text("SELECT count(*) FROM github_users")).scalar_one()
        assert users == 7


def test_rejects_have_their_lines_in_the_file(engine: Engine, tmp_path: Path) -> None:
    lines = [line(number) for number in range(600)]
    lines[100] = b"\n"
    lines[400] = lines[500] = line(1, actor={})
    path = tmp_path / "hour.json"
    path.write_bytes(b"".join(lines))
    rejects: list[Reject] = []
    options = LoadOptions(rejects=rejects.append)
    (result,) = load_files(engine, github_events, [path], options=options, connections=2)
    assert sorted(reject.line for reject in rejects) == [401, 501]
    assert (result.rows, result.rejected) == (597, 2)


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_bad_row_leaves_nothing_and_is_named(engine: Engine, tmp_path: Path, kind: str) -> None:
    good, bad = (EVENTS, b"7,x,t,two,{},{},5,,\n") if kind == "csv" else (hour(1000), b"{}\n")
    path = tmp_path / "events"
    path.write_bytes(good + bad + good)
    with pytest.raises(LoadError, match=r"events, line 1001") as caught:
        load_files(engine, github_events, [path], options=LoadOptions(strict=True), connections=2)
    assert caught.value.line == 1001
    assert (events(engine), parts(engine)) == (0, 0)
    path.write_bytes(good)
    load_files(engine, github_events, [path], connections=2)
    assert events(engine) == 1000


def test_a_file_that_is_cut_short_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "hour.json.gz"
    packed = gzip.compress(hour(1000))
    for size in (len(packed) // 2, len(packed) - 9, len(packed) - 1):
        path.write_bytes(packed[:size])
        with pytest.raises(LoadError, match="is cut short"):
            load_files(engine, github_events, [path], connections=2)
        assert (events(engine), parts(engine)) == (0, 0)
    path.write_bytes(packed)
    load_files(engine, github_events, [path], connections=2)
    assert events(engine) == 1000


def test_an_interrupt_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "hour.json"
    path.write_bytes(hour(1000))
    with pytest.raises(KeyboardInterrupt):
        load_files(engine, github_events, [path], connections=2, progress=interrupt)
    assert (events(engine), parts(engine)) == (0, 0)
    assert threading.active_count() == 1


@pytest.mark.parametrize("commits", [0, 1, 2])
@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_what_breaks_off_between_the_commits_is_completed(
    engine: Engine, tmp_path: Path, commits: int, connections: int, kind: str
) -> None:
    path = tmp_path / "events"
    path.write_bytes(CSV * 3 if kind == "csv" else hour(3000))
    rows = 3600 if kind == "csv" else 3000
    lose_after(engine, commits, path)
    partly = events(engine)
    assert partly < rows
    (result,) = load_files(engine, github_events, [path], connections=connections)
    assert (result.rows, result.already_loaded) == (rows - partly, False)
    assert events(engine) == rows
    (again,) = load_files(engine, github_events, [path], connections=connections)
    assert again.already_loaded
    assert events(engine) == rows


def test_several_clients_at_once_load_it_once(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(1000))
    loaded: list[bool] = []

    def load_it(connections: int) -> None:
        (result,) = load_files(engine, github_events, [path], connections=connections)
        loaded.append(not result.already_loaded)

    threads = [threading.Thread(target=load_it, args=(connections,)) for connections in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(loaded) == [False, False, True]
    assert events(engine) == 1000
