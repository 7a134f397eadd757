"""The command line without a database: arguments, help, exit codes and words."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import MetaData

import citus_analytics
from citus_analytics.__main__ import main
from citus_analytics.cli.commands import add_rollups, rolled_up
from citus_analytics.cli.main import add_command, printable, run
from citus_analytics.cli.output import duration, size

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from citus_analytics.cli.main import Commands

ROOT = Path(citus_analytics.__file__).parents[1]
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
EMPTY = MetaData()
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what is said of arguments that cannot be understood."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def failure(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """Return what is said of a command that fails."""
    assert main(arguments) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("citus-analytics: ")
    return said.err


@pytest.mark.parametrize(
    "command",
    [
        (),
        *(
            (name,)
            for name in (
                "demo",
                "migrate",
                "load",
                "follow",
                "rollups",
                "query",
                "status",
                "grafana",
                "explain",
                "lint",
            )
        ),
        *(
            ("rollups", name)
            for name in ("run", "status", "verify", "repair", "backfill", "expire")
        ),
        *(("query", name) for name in ("count", "commits-per-hour", "top-creators", "most-active")),
    ],
)
def test_help_explains_the_exit_codes(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    help_text = capsys.readouterr().out
    assert "usage: citus-analytics" in help_text
    assert "exit codes:" in help_text
    assert "130" in help_text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"citus-analytics {citus_analytics.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "COMMAND"),
        ("frobnicate", "frobnicate"),
        ("demo --events 0", "'0' is not a positive integer"),
        ("demo --events many", "'many' is not a positive integer"),
        ("migrate --downgrade base --revision head", "not allowed with"),
        ("migrate --sql --json", "not allowed with"),
        ("migrate --citus perhaps", "auto"),
        ("load events", "SOURCE"),
        ("load repositories x.csv", "repositories"),
        ("query", "QUESTION"),
        ("query most-active --limit none", "'none' is not a positive integer"),
        ("query count --since yesterday", "'yesterday' is not a time"),
        ("query count --since 2026-03-01T12:00", "has no time zone: write 2026-03-01T12:00Z"),
        # An abbreviation would change its meaning when another option comes.
        ("rollups run --no", "--no"),
        ("rollups", "ACTION"),
        ("rollups expire", "--before"),
        ("rollups expire --before 2026-03-01", "has no time zone"),
    ],
)
def test_arguments_that_are_not_understood(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in usage_error(capsys, *arguments.split())


@pytest.mark.parametrize(
    "arguments",
    ["migrate", "load events x.csv", "rollups run", "query count", "query most-active", "status"],
)
def test_a_database_must_be_named(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(capsys, 2, *arguments.split())
    assert "--database-url" in said
    assert "DATABASE_URL" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("migrate --sql --create", "--sql connects to no database"),
        ("migrate --create --database-url postgresql://localhost", "names no database to create"),
        (
            "rollups run nonesuch",
            "citus_analytics.github.models:Base declares no rollup 'nonesuch'; "
            "its rollups are: github_rollup_1min, ",
        ),
        (
            "rollups run --metadata tests.unit.test_cli:EMPTY",
            "declares no rollup; its rollups are: none",
        ),
        ("rollups run --metadata nonesuch:Base", "'nonesuch' cannot be imported"),
    ],
)
def test_arguments_that_contradict_what_is_there(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in failure(capsys, 2, *arguments.split())


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://localhost/x", "postgresql://u:secret@ss@host:port/name"]
)
def test_a_url_that_cannot_be_read(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(capsys, 2, "query", "count", "--database-url", url)
    assert "postgresql://" in said
    assert "secret" not in said


@pytest.mark.parametrize("arguments", ["demo", "migrate", "rollups run", "query count", "status"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_server_that_is_down(
    arguments: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(capsys, 1, *arguments.split(), "--database-url", NOWHERE, *options)
    assert "127.0.0.1" in said
    assert "server is running" in said
    assert len(said.splitlines()) == 1


def test_sql_needs_no_database(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--sql"]) == 0
    script = capfd.readouterr().out
    assert script.startswith("BEGIN;")
    assert "CREATE TABLE github_events" in script
    assert script.rstrip().endswith("COMMIT;")
    assert main(["migrate", "--downgrade", "base", "--sql"]) == 0
    assert "DROP TABLE github_events" in capfd.readouterr().out


def test_an_unknown_revision_has_no_sql(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nonesuch" in failure(capsys, 1, "migrate", "--sql", "--revision", "nonesuch")


def test_a_reader_that_leaves_early() -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "citus_analytics", "migrate", "--sql"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    program.stdout.close()
    assert program.stderr is not None
    assert b"Traceback" not in program.stderr.read()
    assert program.wait() == 0
    program.stderr.close()


def test_an_interrupt_is_reported_whatever_fails_after_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextmanager
    def transaction() -> Iterator[None]:
        try:
            yield
        finally:
            raise psycopg.OperationalError("the connection is lost")

    def wait(arguments: Namespace) -> None:
        with transaction():
            raise KeyboardInterrupt

    def add_wait(commands: Commands) -> None:
        add_command(commands, "wait", wait, "wait", "Wait.")

    assert run(["wait"], version="1", commands=[add_wait]) == 130
    assert capsys.readouterr().err == "citus-analytics: interrupted\n"


def test_the_core_has_no_rollups_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["rollups", "run"], version="1", commands=[add_rollups])
    assert ended.value.code == 2
    assert "the following arguments are required: --metadata" in capsys.readouterr().err


def test_no_text_sends_commands_to_a_terminal() -> None:
    assert (
        printable("\x1b[31mred\r\nnot\x00") == "\N{REPLACEMENT CHARACTER}[31mred\ufffd\nnot\ufffd"
    )
    assert printable("Éva 用户") == "Éva 用户"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.00123, "1.2 ms"), (0.0451, "45 ms"), (12.34, "12.3 s"), (1234.5, "1,234.5 s")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 kB"),
        (8192, "8 kB"),
        (12_345_678, "12.3 MB"),
        (1.2e9, "1.2 GB"),
        (2_345.6e12, "2,345.6 TB"),
    ],
)
def test_sizes(number: float, words: str) -> None:
    assert size(number) == words


def test_what_a_run_did() -> None:
    words = rolled_up(1234, 0.045)
    for part in ("1,234", "45 ms"):
        assert part in words
    assert "nothing has changed" in rolled_up(0, 0.001)
