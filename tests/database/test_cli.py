"""The command line on real databases, mostly as the program that a user runs."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool, create_engine
from sqlalchemy_utils import drop_database

import citus_analytics
from citus_analytics.__main__ import main
from tests.database.load_data import EVENTS, GOOD, SAMPLE, USERS
from tests.processes import is_alive
from tests.programs import psql, schema_dump
from tests.rollups import assert_adds_up
from tests.servers import ON_POSTGRESQL_ONLY, ON_SINGLE_NODE_CITUS, execute, query_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

    from tests.servers import DatabaseServer

ROOT = Path(citus_analytics.__file__).parents[1]
Done: TypeAlias = subprocess.CompletedProcess[str]
Run: TypeAlias = Callable[..., Done]
PROGRAM = [sys.executable, "-m", "citus_analytics"]
WITHOUT_RICH = [
    sys.executable,
    "-c",
    "import sys; sys.modules['rich'] = None\n"
    "from citus_analytics.__main__ import main; sys.exit(main())",
]


def address(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def program(*arguments: str, database: URL | None = None, command: list[str] = PROGRAM) -> Done:
    """Run the program in a process of its own, with this DATABASE_URL or none."""
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    if database is not None:
        environment["DATABASE_URL"] = address(database)
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the program in this process, with this DATABASE_URL or none."""

    def run(*arguments: str, database: URL | None = None, stdin: bytes = b"") -> Done:
        monkeypatch.setenv("DATABASE_URL", "" if database is None else address(database))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(arguments)
        said = capsys.readouterr()
        return Done(arguments, code, said.out, said.err)

    return run


def succeed(done: Done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_json(done: Done) -> Any:
    return json.loads(succeed(done))


def failure(done: Done, code: int) -> str:
    """Return what a command says that fails; a program that reads its output finds none."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_a_round_trip_in_json(
    run: Run, server: DatabaseServer, empty_database: URL, tmp_path: Path
) -> None:
    def ask(*arguments: str, stdin: bytes = b"") -> Any:
        return read_json(run(*arguments, "--json", database=empty_database, stdin=stdin))

    migrated = ask("migrate")
    assert (migrated["previous_revision"], migrated["revision"]) == (None, "ca_0007")
    events = tmp_path / "events.csv"
    events.write_bytes(EVENTS)
    loaded = ask("load", "events", str(events))
    assert (loaded["rows"], loaded["bytes"]) == (SAMPLE.events, len(EVENTS))
    assert ask("load", "users", "-", stdin=USERS)["rows"] == SAMPLE.users
    first, second = ask("rollups", "run"), ask("rollups", "run", "--no-wait")
    assert (first["changes"], second["changes"]) == (SAMPLE.events + SAMPLE.users, 0)

    assert ask("query", "count") == {"events": SAMPLE.events}
    pushes = ask("query", "count", "--type", "PushEvent")["events"]
    assert 0 < pushes < SAMPLE.events
    assert ask("query", "count", "--until", "2025-01-01T00:00Z") == {"events": 0}
    (hour,) = ask("query", "commits-per-hour", "--time-zone", "Asia/Kathmandu")[1:]
    assert hour["hour"] == "2025-01-01T06:00:00+05:45"
    creators = ask("query", "top-creators", "--limit", "all")
    assert creators == sorted(creators, key=lambda row: -row["repositories"])
    assert len(ask("query", "most-active")) == 5
    (active,) = ask("query", "most-active", "--limit", "1")
    assert active["minute"].endswith("+00:00")
    # The events of the window and no others, although minutes are cut.
    started = datetime.fromisoformat(active["minute"])
    since, until = started + timedelta(seconds=20), started + timedelta(seconds=100)
    window = ("--since", since.isoformat(), "--until", until.isoformat())
    found = ask("query", "most-active", "--limit", "all", *window)
    raw = (
        "SELECT count(*) FROM github_events "
        f"WHERE created_at >= '{since}' AND created_at < '{until}'"
    )
    counted = int(psql(server, empty_database, raw))
    assert 0 < counted == sum(row["events"] for row in found)
    assert ask("query", "count", *window) == {"events": counted}

    tutorial = "SELECT sum(total_events) FROM github_rollup_1min WHERE event_type = 'PushEvent'"
    assert psql(server, empty_database, tutorial).strip() == str(pushes)
    assert ask("migrate", "--downgrade", "base")["revision"] is None


def test_a_round_trip_for_a_person(run: Run, database: URL, tmp_path: Path) -> None:
    def ask(*arguments: str, stdin: bytes = b"") -> str:
        return succeed(run(*arguments, database=database, stdin=stdin))

    assert "revision ca_0007" in ask("migrate")
    assert "Nothing found" in ask("query", "most-active")
    assert "load_files(engine, github_events, ['-'])" in ask("load", "events", "-", stdin=EVENTS)
    assert "users" in ask("load", "users", "-", stdin=USERS)
    assert "2025-01-01 00:" in ask("query", "most-active"), "fresh, without a run"
    assert 'SELECT "github_events_run"();' in ask("rollups", "run")
    assert "1,000 events" in ask("query", "count")
    assert "2025-01-01 00:00 UTC" in ask("query", "commits-per-hour")
    assert "user-1" in ask("query", "top-creators")
    assert "most_active_users(session, limit=2)" in ask("query", "most-active", "--limit", "2")


def test_what_a_migration_notices(run: Run, server: DatabaseServer, empty_database: URL) -> None:
    if server.kind == "citus":
        read_json(run("migrate", "--citus", "require", "--json", database=empty_database))
        return
    said = failure(run("migrate", "--citus", "require", database=empty_database), 1)
    assert "CREATE EXTENSION citus" in said
    done = run("migrate", database=empty_database)
    succeed(done)
    assert done.stderr.count("Running upgrade") == 7
    assert "is not distributed by user_id" in done.stderr
    assert done.stderr.count("Citus is not installed") == 1


@ON_POSTGRESQL_ONLY
def test_the_sql_makes_the_same_schema(
    run: Run, server: DatabaseServer, empty_database: URL, database: URL
) -> None:
    psql(server, empty_database, succeed(run("migrate", "--sql")))
    assert schema_dump(server, empty_database) == schema_dump(server, database)


@ON_POSTGRESQL_ONLY
def test_a_database_is_created_if_it_is_missing(run: Run, server: DatabaseServer) -> None:
    url = server.url.set(database="web-shop 2")
    assert "migrate --create" in failure(run("migrate", database=url), 1)
    try:
        done = run("migrate", "--create", "--json", database=url)
        created = read_json(done)
        assert (created["created"], created["revision"]) == (True, "ca_0007")
        assert "Created the database web-shop 2.\n" in done.stderr
        done = run("migrate", "--create", "--json", database=url)
        again = read_json(done)
        assert (again["created"], again["previous_revision"]) == (False, "ca_0007")
        assert "Created" not in done.stderr
    finally:
        drop_database(url)


@ON_SINGLE_NODE_CITUS
def test_a_database_is_created_with_citus_if_it_is_required(
    run: Run, server: DatabaseServer
) -> None:
    url = server.url.set(database="shop")
    try:
        succeed(run("migrate", "--create", "--citus", "require", database=url))
        distributed = "SELECT count(*) > 3 FROM pg_dist_partition WHERE partmethod = 'h'"
        assert query_text(url, distributed) == "True"
    finally:
        drop_database(url)


@ON_POSTGRESQL_ONLY
def test_a_database_that_may_not_be_created(server: DatabaseServer) -> None:
    execute(server.url, "CREATE ROLE guest LOGIN")
    try:
        url = server.url.set(username="guest", database="guests")
        said = failure(program("migrate", "--create", database=url), 1)
    finally:
        execute(server.url, "DROP ROLE guest")
    assert said == "citus-analytics: permission denied to create database.\n"


def test_the_rollups_of_an_application(run: Run, empty_database: URL) -> None:
    config = Config(str(ROOT / "examples/page_views/alembic.ini"))
    config.attributes["url"] = empty_database
    command.upgrade(config, "head")
    execute(
        empty_database,
        "INSERT INTO page_views VALUES (1, 1, '/', 30, '{}', '2026-03-01 12:01Z'),"
        " (2, 2, '/', 20, '{}', '2026-03-01 13:01Z')",
    )
    target = ("rollups", "run", "--metadata", "examples.page_views.models:Base")
    document = read_json(run(*target, "--json", database=empty_database))
    assert [source["source"] for source in document["sources"]] == ["page_views"]
    assert document["changes"] == 2
    told = succeed(run(*target, "page_views_rollup", database=empty_database))
    assert told.startswith("page_views: nothing has changed since the last run")
    assert 'any client: SELECT "page_views_run"();' in told


def test_a_malformed_row_is_named(run: Run, database: URL, tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    events.write_bytes(GOOD + GOOD.replace(b",t,2,", b",t,two,"))
    said = failure(run("load", "events", str(events), database=database), 1)
    assert f"{events}, line 2, column repo_id" in said
    assert read_json(run("query", "count", "--json", database=database)) == {"events": 0}
    assert "cannot be read" in failure(run("load", "events", "nowhere.csv", database=database), 1)


@ON_POSTGRESQL_ONLY
def test_what_is_not_there_yet(run: Run, server: DatabaseServer, empty_database: URL) -> None:
    for arguments in ("rollups run", "query count", "query most-active --json", "load users -"):
        said = failure(run(*arguments.split(), database=empty_database, stdin=USERS), 1)
        assert "Migrate the database first" in said
    missing = failure(run("query", "count", database=empty_database.set(database="nowhere")), 1)
    assert "nowhere" in missing
    assert "does not exist" in missing


@ON_POSTGRESQL_ONLY
def test_arguments_that_only_the_library_can_judge(run: Run, database: URL) -> None:
    zone = run("query", "commits-per-hour", "--time-zone", "Mars/Olympus", database=database)
    assert "Mars/Olympus" in failure(zone, 2)
    bounds = ("--since", "2026-03-02T00:00Z", "--until", "2026-03-01T00:00Z")
    assert "is empty" in failure(run("query", "count", *bounds, database=database), 2)


@ON_POSTGRESQL_ONLY
def test_without_rich_only_tables_are_missing(database: URL, tmp_path: Path) -> None:
    def ask(*arguments: str) -> Done:
        return program(*arguments, database=database, command=WITHOUT_RICH)

    (tmp_path / "events.csv").write_bytes(EVENTS)
    succeed(ask("load", "events", str(tmp_path / "events.csv")))
    succeed(ask("rollups", "run"))
    assert len(read_json(ask("query", "most-active", "--json"))) == 5
    for arguments in (["query", "most-active"], ["demo", "--database-url", address(database)]):
        said = failure(ask(*arguments), 1)
        assert "citus_analytics[cli]" in said
        assert "--json" in said


def test_the_demo_on_a_given_url(server: DatabaseServer, empty_database: URL) -> None:
    told = succeed(program("demo", "--events", "2000", "--database-url", address(empty_database)))
    expected = (
        "2 worker nodes; new tables get 4 shards" if server.kind == "citus" else "without Citus"
    )
    assert expected in told.splitlines()[0]
    assert "2,000 events, 2,000 rolled up. They agree" in told
    assert "2,160 events, 2,000 rolled up. They differ" in told
    assert told.count("2,160 events, 2,160 rolled up. They agree") == 2
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        assert_adds_up(connection)


def test_the_demo_in_json(run: Run, server: DatabaseServer, database: URL) -> None:
    """A migrated database without rows is as good as an empty one."""
    told = read_json(run("demo", "--events", "500", "--json", "--database-url", address(database)))
    assert (told["server"]["citus"] is None) == (server.kind == "postgresql")
    assert told["agree"] is True
    assert told["totals"] == {"raw": 540, "rolled_up": 540, "groups_that_differ": 0}
    results = {step["step"]: step["result"] for step in told["steps"]}
    assert [answer["agree"] for answer in results["Answers"]] == [True] * 12
    events = results["Answers"][0]
    assert (events["raw"], events["rolled_up"], events["fresh"]) == (540, 500, 540)
    assert results["most-active"][0].keys() == {"user_id", "minute", "events"}
    assert all(step["seconds"] > 0 for step in told["steps"])


def test_the_demo_refuses_a_database_in_use(run: Run, database: URL, tmp_path: Path) -> None:
    succeed(run("load", "events", "-", database=database, stdin=GOOD))
    said = failure(run("demo", "--events", "10", "--database-url", address(database)), 1)
    assert "github_events (1 row)" in said
    assert "empty database" in said
    assert read_json(run("query", "count", "--json", database=database)) == {"events": 1}


def test_the_demo_refuses_tables_of_others(run: Run, empty_database: URL) -> None:
    execute(empty_database, "CREATE SCHEMA shop", "CREATE TABLE shop.orders (id int)")
    options = ["--json", "--database-url", address(empty_database)]
    assert "shop.orders" in failure(run("demo", *options), 1)


@contextmanager
def running_demo(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a demo that takes its time, once its server is there."""
    with subprocess.Popen(
        [*PROGRAM, "demo", "--events", "100000000"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_an_interrupted_demo_leaves_nothing_behind(place: Path, number: signal.Signals) -> None:
    with running_demo(place) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        # What follows is a load of some hours.
        assert any(line.startswith("Users:") for line in demo.stdout)
        (lock,) = place.glob("*/data/postmaster.pid")
        server = int(lock.read_text().split()[0])
        assert is_alive(server)
        demo.send_signal(number)
        assert demo.wait(timeout=30) == 130
        assert demo.stderr.read() == "citus-analytics: interrupted\n"
    assert [*place.iterdir()] == []
    assert not is_alive(server)


def test_a_reader_that_leaves_the_demo(place: Path) -> None:
    with running_demo(place) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        demo.stdout.readline()
        demo.stdout.close()
        assert demo.wait(timeout=30) == 0
        assert demo.stderr.read() == ""
    assert [*place.iterdir()] == []
