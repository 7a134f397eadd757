"""`citus-analytics rollups`: run, status, verify, repair, backfill, expire."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import MetaData, NullPool, create_engine, text

import citus_analytics
from citus_analytics import Rollup, count
from citus_analytics.__main__ import main
from citus_analytics.github.migrate import downgrade, upgrade
from tests import autogenerate
from tests.servers import ON_POSTGRESQL_ONLY, execute, query_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL

    from tests.servers import DatabaseServer

    Cli = Callable[..., tuple[int, str, str]]

ROOT = Path(citus_analytics.__file__).parents[1]
TABLES = {
    "github_rollup_1min",
    "github_user_activity",
    "github_events_by_type_1_minute",
    "github_events_by_type_15_minutes",
    "github_events_by_type_1_hour",
    "github_events_by_type_1_day",
    "github_repositories_created",
    "github_repositories_created_by_day",
    "github_active_users_1_hour",
    "github_active_users_1_day",
    "github_stars",
    "github_repository_activity",
    "github_push_sizes_1_hour",
    "github_push_sizes_1_day",
    "github_logins",
}


def address(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def add_events(url: URL, first: int, last: int) -> None:
    """Add events an hour apart from 2026-01-01 on, all of which create a repository."""
    execute(
        url,
        """INSERT INTO github_events (event_id, event_type, repo_id, payload, user_id, created_at)
        SELECT i, 'CreateEvent', 1, '{"ref_type": "repository"}', mod(i, 5),
               timestamptz '2026-01-01 00:00Z' + i * interval '1 hour'"""
        f" FROM generate_series({first}, {last}) AS i",
    )


@pytest.fixture
def cli(database: URL, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `rollups` in this process; returns exit code, standard output and standard error."""
    monkeypatch.setenv("DATABASE_URL", address(database))

    def cli(*arguments: str) -> tuple[int, str, str]:
        code = main(["rollups", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return cli


def document(result: tuple[int, str, str], code: int = 0) -> Any:
    assert result[0] == code, result[2]
    return json.loads(result[1])


def test_the_life_of_rollups(cli: Cli, database: URL) -> None:
    """On PostgreSQL and on Citus: everything but the service."""
    add_events(database, 0, 99)
    before = document(cli("status", "--json"))["tables"]
    assert {each["table"] for each in before} == TABLES
    of_events = [each for each in before if each["table"] != "github_logins"]
    assert {each["pending"] for each in of_events} == {100}
    # What no run has added up yet is no difference.
    assert document(cli("verify", "--json"))["adds_up"]

    run = document(cli("run", "--json"))
    assert (run["changes"], run["sources"][0]["source"]) == (100, "github_events")
    after = document(cli("status", "--json"))["tables"]
    assert {(each["pending"], each["lag_seconds"], each["error"]) for each in after} == {
        (0, 0.0, None)
    }
    assert all(each["complete"] and each["last_run"].endswith("+00:00") for each in after)

    execute(database, "UPDATE github_user_activity SET events = 3 WHERE user_id = 2")
    code, out, err = cli("verify")
    assert code == 1
    assert "github_user_activity: 20 groups differ" in out
    assert '  "user_id" = 2, "bucket" = 2026-01-' in out
    assert ':00:00+00: "events" -2\n' in out
    assert "github_rollup_1min: adds up" in out
    assert "github_user_activity (20)" in err
    assert "rollups repair" in err
    wrong = document(cli("verify", "github_user_activity", "--json"), 1)
    assert (wrong["adds_up"], wrong["tables"][0]["groups"]) == (False, 20)
    window = ("--since", "2026-01-02T00:00Z", "--until", "2026-01-03T00:00Z")
    repaired = document(cli("repair", *window, "--json"))
    assert 0 < repaired["groups"] < 20
    assert document(cli("verify", *window, "--json"))["adds_up"]
    assert document(cli("verify", "--json"), 1)["tables"][1]["groups"] == 20 - repaired["groups"]
    assert cli("repair")[0] == 0
    assert document(cli("verify", "--json"))["adds_up"]

    expired = document(cli("expire", "--before", "2026-01-02T00:00Z", "--json"))
    assert expired["deleted"] == 24
    assert query_text(database, "SELECT sum(total_events) FROM github_rollup_1min") == "100"
    add_events(database, 5, 5)
    assert document(cli("run", "--json"))["changes"] == 1
    assert query_text(database, "SELECT sum(total_events) FROM github_rollup_1min") == "101"
    # Beyond the horizon nothing is compared, totals over all time not at all, and none is lost.
    tables = {each["table"]: each for each in document(cli("verify", "--json"))["tables"]}
    assert tables.pop("github_repositories_created")["groups"] is None
    assert {each["groups"] for each in tables.values()} == {0}
    assert document(cli("repair", "--json"))["groups"] == 0
    total = "SELECT sum(repositories) FROM github_repositories_created"
    assert query_text(database, total) == "101"
    code, _, err = cli("verify", "--since", "2026-01-01T00:00Z")
    assert code == 1
    assert "have been expired" in err


@ON_POSTGRESQL_ONLY
def test_a_backfill_is_complete_and_can_be_resumed(cli: Cli, database: URL) -> None:
    downgrade(database, "ca_0001")
    add_events(database, 0, 99)
    upgrade(database)
    tables = document(cli("status", "--json"))["tables"]
    assert [each["table"] for each in tables if each["complete"]] == ["github_logins"], "no users"
    assert "backfill it" in cli("status")[1]
    code, _, err = cli("verify")
    assert code == 1
    assert "rollups backfill" in err
    code, _, err = cli("expire", "--before", "2026-01-02T00:00Z")
    assert code == 1
    assert "Backfill the rollups first." in err

    # Somebody has interrupted a backfill after two windows.
    engine = create_engine(database, poolclass=NullPool)
    for _ in range(2):
        with engine.begin() as connection:
            connection.execute(text("SELECT github_events_backfill(interval '1 day')"))
    done = document(cli("backfill", "--json"))
    assert (done["windows"], done["sources"][0]["source"]) == (4, "github_events")
    assert all(each["complete"] for each in document(cli("status", "--json"))["tables"])
    assert document(cli("verify", "--json"))["adds_up"]
    assert "github_events: complete already" in cli("backfill", "--window", "7d")[1]


@ON_POSTGRESQL_ONLY
def test_what_cannot_be_done(cli: Cli, database: URL) -> None:
    assert "declares no rollup 'x'" in cli("status", "x")[2]
    assert cli("run", "--metrics", "9187")[0] == 2
    downgrade(database, "base")
    for action in ("run", "status", "verify", "repair", "backfill"):
        code, out, err = cli(action, "--json")
        assert (code, out) == (1, "")
        assert "Migrate the database first" in err


SEVERAL_SOURCES = """
from sqlalchemy import BigInteger, Column, MetaData, Table
from citus_analytics import Distributed, Rollup, count

METADATA = MetaData()
for name in ("first", "second", "third", "fourth"):
    table = Table(name, METADATA, Column("key", BigInteger), Distributed("key"))
    Rollup(f"{name}_by_key", table, by=["key"], measures={"rows": count()})
"""


@ON_POSTGRESQL_ONLY
def test_sources_that_are_missing_do_not_keep_others_waiting(
    cli: Cli, database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "several_sources.py").write_text(SEVERAL_SOURCES)
    monkeypatch.syspath_prepend(tmp_path)
    declared = importlib.import_module("several_sources").METADATA
    there = MetaData()
    for name in ("second", "fourth"):
        execute(database, f"CREATE TABLE {name} (key bigint)")
        execute(database, f"INSERT INTO {name} SELECT generate_series(1, 3)")
        table = declared.tables[name].to_metadata(there)
        Rollup(f"{name}_by_key", table, by=["key"], measures={"rows": count()})
    autogenerate.repair(database, there)
    named = ("--metadata", "several_sources:METADATA")

    filled = cli("backfill", *named, "--json")
    assert {each["source"] for each in document(filled, 1)["sources"]} == {"second", "fourth"}
    execute(database, "INSERT INTO second VALUES (4)", "INSERT INTO fourth VALUES (4)")
    with create_engine(database, poolclass=NullPool).connect() as other:
        other.execute(text("SELECT fourth_run()"))
        run = cli("run", *named, "--json", "--no-wait")
    assert document(run, 1)["sources"][0]["source"] == "second"
    assert "another run of fourth is in progress" in run[2]
    code, out, err = cli("run", *named)
    assert code == 1
    for name in ("second", "fourth"):
        assert f"{name}: " in out
        assert query_text(database, f"SELECT sum(rows) FROM {name}_by_key") == "4"
    for name in ("first", "third"):
        assert f"{name}: the database has no rollup '{name}_by_key'" in err
        assert f"the database has no rollup '{name}_by_key'" in filled[2]


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("text", ["10", "0s", "1.5s", "s", "10 s", "1y", "9999999s"])
def test_lengths_of_time(cli: Cli, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli("run", "--every", text)
    assert f"{text!r} is not a length of time" in capsys.readouterr().err


@ON_POSTGRESQL_ONLY
def test_a_run_under_way_is_left_alone(cli: Cli, database: URL) -> None:
    engine = create_engine(database, poolclass=NullPool)
    with engine.connect() as other:
        other.execute(text("SELECT github_events_run()"))
        code, out, err = cli("run", "--no-wait", "--json")
        assert code == 3
        assert [each["source"] for each in json.loads(out)["sources"]] == ["github_users"]
        assert "another run of github_events is in progress" in err


# The service


@contextmanager
def service(database: URL, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "citus_analytics", "rollups", "run", "--every", *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": address(database)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def next_run(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the next run of the rollups of the events; nothing happens to the users."""
    assert process.stdout is not None
    while line := process.stdout.readline():
        run: dict[str, Any] = json.loads(line)
        if run["source"] == "github_events":
            return run
    raise AssertionError(process.stderr and process.stderr.read())


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_a_service_adds_up_until_a_signal_comes(database: URL, number: signal.Signals) -> None:
    with service(database, "50ms", "--json") as process:
        assert next_run(process)["outcome"] == "added up"
        add_events(database, 0, 9)
        while not (run := next_run(process))["changes"]:
            pass
        assert (run["source"], run["changes"]) == ("github_events", 10)
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert query_text(database, "SELECT sum(total_events) FROM github_rollup_1min") == "10"


@ON_POSTGRESQL_ONLY
def test_a_service_prints_a_line_a_run(database: URL) -> None:
    add_events(database, 0, 9)
    with service(database, "50ms") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
    assert " UTC github_events: 10 changes added up, in " in lines[0]
    assert "github_users: nothing has changed" in lines[1]
    assert "github_events: nothing has changed" in lines[2]


@ON_POSTGRESQL_ONLY
def test_a_service_leaves_another_run_alone(database: URL) -> None:
    engine = create_engine(database, poolclass=NullPool)
    with service(database, "50ms", "--json") as process:
        next_run(process)
        with engine.connect() as other:
            other.execute(text("SELECT github_events_run()"))
            while next_run(process)["outcome"] != "busy":
                pass
        while next_run(process)["outcome"] != "added up":
            pass


@ON_POSTGRESQL_ONLY
def test_a_service_outlives_errors_and_waits_longer(cli: Cli, database: URL) -> None:
    """The error is printed, and noted in the database until a run succeeds."""
    add_events(database, 0, 9)
    execute(
        database,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'out of order'; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON github_user_activity EXECUTE FUNCTION refuse()",
    )
    with service(database, "50ms", "--json") as process:
        failed = [next_run(process) for _ in range(4)]
        assert {(each["outcome"], each["error"]) for each in failed} == {
            ("failed", "out of order.")
        }
        starts = [each["at"] for each in failed]
        assert starts == sorted(starts)
        assert "out of order." in cli("status")[1]
        execute(database, "DROP TRIGGER refuse ON github_user_activity")
        while (run := next_run(process))["outcome"] == "failed":
            pass
        assert run["changes"] == 10
    assert document(cli("status", "--json"))["tables"][0]["error"] is None


@ON_POSTGRESQL_ONLY
def test_a_service_outlives_its_connection(server: DatabaseServer, database: URL) -> None:
    with service(database, "50ms", "--json") as process:
        next_run(process)
        execute(
            server.url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{database.database}'",
        )
        add_events(database, 0, 9)
        while not (run := next_run(process)).get("changes"):
            pass
        assert run["changes"] == 10


@ON_POSTGRESQL_ONLY
def test_metrics(database: URL) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    add_events(database, 0, 9)
    with service(database, "50ms", "--json", "--metrics", str(port)) as process:
        next_run(process)
        next_run(process)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            lines = response.read().decode().splitlines()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    name = "citus_analytics_rollup_changes_total"
    assert f"# TYPE {name} counter" in lines
    assert f'{name}{{source="github_events"}} 10.0' in lines
    assert 'citus_analytics_rollup_failures_total{source="github_events"} 0.0' in lines
