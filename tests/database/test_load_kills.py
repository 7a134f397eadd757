"""Loads that are killed from outside, tried again, and compared with one undisturbed load."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text

import citus_analytics
from citus_analytics.__main__ import main
from citus_analytics.github.load import load_files
from citus_analytics.github.migrate import upgrade
from citus_analytics.github.models import github_events
from citus_analytics.server import EmbeddedServer
from tests.event_data import hour, line
from tests.processes import IS_ROOT
from tests.rollups import assert_adds_up
from tests.servers import ON_POSTGRESQL_ONLY, execute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL, Connection

    from tests.servers import DatabaseServer

pytestmark = pytest.mark.faults

# Over several it has more to keep together.
CONNECTIONS = [pytest.param("1", marks=pytest.mark.endurance), "2"]
ROOT = Path(citus_analytics.__file__).parents[1]
EVENTS = 30_000
EXPECTED = (EVENTS, EVENTS, sum(1_000_000 + number for number in range(EVENTS)), 7)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hours") / "hour.json.gz"
    path.write_bytes(gzip.compress(hour(EVENTS), 1))
    return path


def loading(url: URL, file: Path, *options: str) -> subprocess.Popen[str]:
    """Start the program in a process of its own."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return subprocess.Popen(
        [sys.executable, "-m", "citus_analytics", "load", "events", str(file), *options],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def found(engine: Engine) -> tuple[int, ...]:
    """Return how many events, different ones, the sum of their ids, and how many users."""
    statement = text(
        "SELECT count(*), count(DISTINCT event_id), coalesce(sum(event_id), 0) FROM github_events"
    )
    with engine.connect() as connection:
        users = connection.execute(text("SELECT count(*) FROM github_users")).scalar_one()
        return (*connection.execute(statement).one(), users)


def finish(url: URL, file: Path, *options: str) -> None:
    with loading(url, file, *options) as process:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said


@contextmanager
def kept_from_its_end(engine: Engine) -> Iterator[int]:
    """Let no load store its users, which it does before it commits anything.

    Yields the backend that keeps it from that.
    """
    with engine.connect() as keeping:
        keeping.execute(text("LOCK TABLE github_users IN SHARE MODE"))
        yield keeping.execute(text("SELECT pg_backend_pid()")).scalar_one()


def wait_for_rows(engine: Engine, seconds: float) -> None:
    """Wait until a load has begun, and then some time."""
    working = text(
        "SELECT count(*) FROM pg_stat_activity WHERE left(query, 4) = 'COPY' AND pid <> "
        "pg_backend_pid() AND datname = current_database()"
    )
    with engine.connect() as connection:
        deadline = time.monotonic() + 30
        while not connection.execute(working).scalar_one() and time.monotonic() < deadline:
            connection.rollback()
            time.sleep(0.005)
    time.sleep(seconds)


@pytest.mark.parametrize("connections", CONNECTIONS)
def test_a_client_that_is_killed_again_and_again(
    database: URL, engine: Engine, file: Path, connections: str
) -> None:
    for delay in (0.0, 0.2, 0.9):
        with loading(database, file, "--connections", connections) as process:
            wait_for_rows(engine, delay)
            process.kill()
    finish(database, file, "--connections", connections)
    assert found(engine) == EXPECTED
    finish(database, file, "--connections", connections)
    assert found(engine) == EXPECTED
    with engine.begin() as connection:
        connection.execute(text("SELECT rollup_http_request()"))
        assert_adds_up(connection)


@pytest.mark.parametrize("connections", CONNECTIONS)
def test_an_interrupted_client_says_where_it_stands(
    database: URL, engine: Engine, file: Path, connections: str
) -> None:
    with (
        kept_from_its_end(engine),
        loading(database, file, "--connections", connections, "--json") as process,
    ):
        wait_for_rows(engine, 0.1)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert printed == ""
    assert f"interrupted while loading {file}, after 0 of 1 file. Run the same command" in said
    assert found(engine) == (0, 0, 0, 0)
    finish(database, file, "--connections", connections)
    assert found(engine) == EXPECTED


@pytest.fixture
def commits() -> Iterator[list[Callable[[], object]]]:
    """What is called before the commits of this process's engines, each once."""
    waiting: list[Callable[[], object]] = []

    def committing(connection: Connection) -> None:
        if waiting:
            waiting.pop(0)()

    event.listen(Engine, "commit", committing)
    yield waiting
    event.remove(Engine, "commit", committing)


def test_an_interrupt_between_two_commits(
    database: URL,
    engine: Engine,
    tmp_path: Path,
    commits: list[Callable[[], object]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.render_as_string(hide_password=False))
    # Of two parts, one for each connection.
    file = tmp_path / "hour.json"
    file.write_bytes(hour(EVENTS))

    def interrupt() -> None:
        raise KeyboardInterrupt

    # The users, one connection's events, and the other one's.
    commits[:] = [int, int, interrupt]
    load = ["load", "events", str(file), "--connections", "2"]
    assert main(load) == 130
    assert 0 < found(engine)[0] < EVENTS
    said = capsys.readouterr().err
    assert "nothing" not in said
    assert "Run the same command again: it loads what is missing." in said
    assert main(load) == 0
    assert found(engine) == EXPECTED


def test_no_reject_is_lost(
    database: URL,
    commits: list[Callable[[], object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.render_as_string(hide_password=False))
    sources, rejects = [tmp_path / "1.json", tmp_path / "2.json"], tmp_path / "rejects"

    def written() -> list[str]:
        return [Path(json.loads(each)["source"]).name for each in rejects.read_bytes().splitlines()]

    sources[0].write_bytes(hour(5) + line(1, actor={}))
    sources[1].write_bytes(b'{"actor": "octocat", "repository": {"id": 1}}\n')
    load = ["load", "events", *map(str, sources), "--rejects", str(rejects)]
    before: list[list[str]] = []
    commits[:] = [lambda: before.append(written())]
    assert main(load) == 1
    # A kill after the commit comes too late to lose it.
    assert (before, written()) == ([["1.json"]], ["1.json"])
    sources[1].write_bytes(hour(6) + line(1, actor={}))
    for _ in range(2):
        assert main(load) == 0
        assert written() == ["1.json", "2.json"]


@pytest.mark.parametrize("connections", CONNECTIONS)
def test_rejects_that_cannot_be_written(
    database: URL, engine: Engine, tmp_path: Path, connections: str
) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(5) + line(1, actor={}))
    with loading(database, path, "--connections", connections, "--rejects", "/dev/full") as process:
        _, said = process.communicate(timeout=120)
    assert (process.returncode, "No space left" in said) == (1, True), said
    assert found(engine) == (0, 0, 0, 0)


@pytest.mark.parametrize("connections", CONNECTIONS)
def test_connections_that_are_cut(
    database: URL, engine: Engine, file: Path, connections: str
) -> None:
    for delay in (0.0, 0.3):
        with (
            kept_from_its_end(engine) as keeping,
            loading(database, file, "--connections", connections) as process,
        ):
            wait_for_rows(engine, delay)
            # Those that copy, or by now only wait to end.
            execute(
                database,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid NOT IN "
                f"(pg_backend_pid(), {keeping}) AND datname = current_database() "
                "AND (left(query, 4) = 'COPY' OR wait_event_type = 'Lock')",
            )
            _, said = process.communicate(timeout=120)
            assert process.returncode == 1, said
            assert "Traceback" not in said
        assert found(engine)[0] == 0
    finish(database, file, "--connections", connections)
    assert found(engine) == EXPECTED


@pytest.mark.parametrize("connections", CONNECTIONS)
def test_a_killed_server(place: Path, file: Path, connections: str) -> None:
    """SIGKILL of the whole server, again and again; durable, so fsync is on."""
    with EmbeddedServer(place / "server") as server:
        upgrade(server.url)
        engine = create_engine(server.url, poolclass=NullPool)
        for delay in (0.0, 0.2, 0.6):
            with loading(server.url, file, "--connections", connections) as process:
                wait_for_rows(engine, delay)
                os.kill(server.pid, signal.SIGKILL)
                process.communicate(timeout=60)
            server.stop()
            server.start()
        finish(server.url, file, "--connections", connections)
        assert found(engine) == EXPECTED


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of a few megabytes, where root may make one."""
    directory = place / "small"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory)]
    if not IS_ROOT or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here: a full disk has not been tested")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("connections", [1, 2])
def test_a_full_disk(
    server: DatabaseServer,
    database: URL,
    engine: Engine,
    file: Path,
    small_disk: Path,
    connections: int,
) -> None:
    owner = os.stat(f"/proc/{server.nodes[0].pid}")  # noqa: PTH116
    os.chown(small_disk, owner.st_uid, owner.st_gid)
    name = f"small_{connections}"
    execute(database, f"CREATE TABLESPACE {name} LOCATION '{small_disk}'")
    try:
        execute(database, f"ALTER TABLE github_events SET TABLESPACE {name}")
        for _ in range(2):
            with pytest.raises(psycopg.errors.DiskFull, match="No space left on device"):
                load_files(engine, github_events, [file], connections=connections)
            assert found(engine) == (0, 0, 0, 0)
    finally:
        execute(database, "ALTER TABLE github_events SET TABLESPACE pg_default")
        execute(database, f"DROP TABLESPACE {name}")
    load_files(engine, github_events, [file], connections=connections)
    assert found(engine) == EXPECTED
