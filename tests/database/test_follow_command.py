"""The command `follow` as the program that a user runs: what it prints, interrupted and killed."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

import citus_analytics
from tests.github_api import Reply, live_event, stored
from tests.processes import eventually
from tests.rollups import assert_adds_up
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL, Connection, Engine

    from tests.github_api import GitHub

ROOT = Path(citus_analytics.__file__).parents[1]


@contextmanager
def following(
    url: URL, github: GitHub, *options: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run the program in a process of its own."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    given = {name: value for name, value in os.environ.items() if name != "GITHUB_TOKEN"}
    with subprocess.Popen(
        [sys.executable, "-m", "citus_analytics", "follow", "--api", github.address, *options],
        cwd=ROOT,
        env={**given, "DATABASE_URL": address, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run(url: URL, github: GitHub, *options: str, code: int = 0, **environment: str) -> str:
    """Run the program to its end; return what it prints, or says if it fails."""
    with following(url, github, *options, **environment) as process:
        out, said = process.communicate(timeout=60)
    assert process.returncode == code, out + said
    assert "Traceback" not in said
    return said if code else out


@ON_POSTGRESQL_ONLY
def test_lines_for_a_person(database: URL, github: GitHub) -> None:
    github.happen(*range(150))
    github.headers = {"X-RateLimit-Remaining": "4987", "X-RateLimit-Reset": "0"}
    github.replies = [None, None, Reply(502)]

    def happen(_: int) -> None:
        if len(github.requests) == 3:
            github.happen(*range(150, 700))

    github.before = happen
    first, failed, reason, second, gap, summary, python = run(
        database, github, "--max-polls", "2"
    ).splitlines()
    assert "UTC: 150 events new, 0 there already, 0 rejected; newest " in first
    assert "; 4,987 requests left; next poll in " in first
    assert "UTC: failed; " in failed
    assert reason == "  Nothing was loaded: GitHub answered 502"
    assert "UTC: 300 events new, 0 there already, 0 rejected; newest " in second
    assert gap == (
        "  Gap: events may have been missed from 2026-03-01 12:02:29 UTC to "
        "2026-03-01 12:06:40 UTC."
    )
    assert summary == "2 polls, 1 failed: 450 events new, 0 there already, 0 rejected, 1 gap."
    assert python == f"Python: follow(engine, Feed(api='{github.address}'))"


def test_lines_of_json(database: URL, connection: Connection, github: GitHub) -> None:
    github.happen(*range(100))
    told = run(database, github, "--max-polls", "2", "--rollup", "--json", "--repo", "a/b")
    first, second, summary = map(json.loads, told.splitlines())
    assert first["poll"].items() >= {"outcome": "loaded", "new": 100, "problem": None}.items()
    assert first["poll"]["newest"] == "2026-03-01T12:01:39+00:00"
    assert first["poll"]["lag_seconds"] > 0
    assert first["poll"]["rollup"]["changes"] > 0
    assert (second["poll"]["outcome"], second["poll"]["rollup"]) == ("unchanged", None)
    assert summary["summary"].pop("seconds") > 0
    assert summary == {
        "summary": {
            "polls": 2,
            "failed": 0,
            "new": 100,
            "known": 0,
            "rejected": 0,
            "gaps": 0,
            "interrupted": False,
        }
    }
    assert github.requests[0][0].startswith("/repos/a/b/events")
    assert_adds_up(connection)


@ON_POSTGRESQL_ONLY
def test_the_token_is_sent_and_not_shown(database: URL, github: GitHub) -> None:
    github.replies = [None, Reply(401, body=b'{"message": "Bad credentials"}')]
    told = run(database, github, "--once", GITHUB_TOKEN="sesame\n")
    told += run(database, github, "--once", code=1, GITHUB_TOKEN="sesame")
    assert [asked["authorization"] for _, asked, _ in github.requests] == ["Bearer sesame"] * 2
    assert "set GITHUB_TOKEN to another one" in told
    assert "sesame" not in told
    run(database, github, "--once", GITHUB_TOKEN="")
    assert "authorization" not in github.requests[-1][1]


@ON_POSTGRESQL_ONLY
def test_once_is_once(database: URL, engine: Engine, github: GitHub) -> None:
    github.happen(*range(150))
    github.replies = [Reply(500), None, Reply(500)]
    said = run(database, github, "--once", code=1)
    assert said.startswith(f"citus-analytics: {github.address}/events: GitHub answered 500.")
    assert stored(engine) == []
    run(database, github, "--once", code=1)
    assert stored(engine) == [*range(50, 150)]
    run(database, github, "--once")
    assert stored(engine) == [*range(150)]


@ON_POSTGRESQL_ONLY
def test_rejects_are_kept(database: URL, github: GitHub, tmp_path: Path) -> None:
    github.events = [live_event(1, payload={"text": "\0"}), live_event(2)]
    file = tmp_path / "rejects"
    for number in (1, 2):
        assert "1 rejected" in run(database, github, "--once", "--rejects", str(file))
        github.happen(number + 2)
        rejects = [json.loads(line) for line in file.read_bytes().splitlines()]
        assert len(rejects) == number
    assert rejects[0]["source"] == f"{github.address}/events"
    assert json.loads(rejects[0]["text"])["id"] == "1000001"


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("options", [["--repo", "nobody"], ["--org", "a", "--user", "b"]], ids=str)
def test_a_feed_that_cannot_be(database: URL, github: GitHub, options: list[str]) -> None:
    run(database, github, *options, code=2)


def test_a_database_without_the_tables(empty_database: URL, github: GitHub) -> None:
    assert "citus-analytics migrate" in run(empty_database, github, "--once", code=1)


SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name
)


@contextmanager
def stopped_before_the_commit(engine: Engine) -> Iterator[Callable[[], bool]]:
    """Let nobody note a position; yield what tells whether somebody waits for that."""
    waiting = text(
        "SELECT count(*) FROM pg_locks "
        "WHERE relation = CAST('followed_feeds' AS regclass) AND NOT granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with engine.connect() as connection, engine.connect() as other:
        connection.execute(text("LOCK TABLE followed_feeds IN SHARE MODE"))
        yield lambda: other.execute(waiting).scalar_one() == 1


@ON_POSTGRESQL_ONLY
@SIGNALS
def test_interrupted_while_it_waits(
    database: URL, engine: Engine, github: GitHub, number: signal.Signals
) -> None:
    github.happen(1, 2)
    github.interval = 60
    with following(database, github) as process:
        assert process.stdout is not None
        assert "2 events new" in process.stdout.readline()
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert out.startswith("1 poll, 0 failed: 2 events new, 0 there already")
    assert "Interrupted; what was polled is stored" in out
    assert stored(engine) == [1, 2]


@ON_POSTGRESQL_ONLY
def test_interrupted_while_github_answers(database: URL, engine: Engine, github: GitHub) -> None:
    github.happen(*range(100))
    github.replies = [Reply(damage="slow")]
    with following(database, github, "--json") as process:
        assert eventually(lambda: len(github.requests) == 1)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert json.loads(out)["summary"]["interrupted"] is True
    assert stored(engine) == []


@pytest.mark.faults
@SIGNALS
def test_interrupted_while_it_stores(
    database: URL, engine: Engine, github: GitHub, number: signal.Signals
) -> None:
    github.happen(1, 2)
    with following(database, github, "--json") as process:
        with stopped_before_the_commit(engine) as stopped:
            assert eventually(stopped)
            process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
        out, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert json.loads(out.splitlines()[-1])["summary"]["new"] == 2
    assert stored(engine) == [1, 2]


@pytest.mark.faults
def test_a_second_interrupt_does_not_wait(database: URL, engine: Engine, github: GitHub) -> None:
    github.happen(1, 2)
    with following(database, github) as process, stopped_before_the_commit(engine) as stopped:
        assert eventually(stopped)
        process.send_signal(signal.SIGINT)
        # Two that come before the program has got the time to look are one.
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (130, "", "citus-analytics: interrupted\n")
    assert stored(engine) == []
    run(database, github, "--once")
    assert stored(engine) == [1, 2]


@pytest.mark.faults
def test_killed_before_the_commit(database: URL, engine: Engine, github: GitHub) -> None:
    github.happen(*range(150))
    with following(database, github) as process, stopped_before_the_commit(engine) as stopped:
        assert eventually(stopped)
        process.kill()
        process.wait()
        assert stored(engine) == []
    github.happen(150)
    run(database, github, "--once")
    assert stored(engine) == [*range(151)]


@pytest.mark.faults
def test_the_server_lets_go_before_the_commit(
    database: URL, engine: Engine, github: GitHub
) -> None:
    github.happen(*range(150))
    terminate = text(
        "SELECT pg_terminate_backend(pid) FROM pg_locks "
        "WHERE relation = CAST('followed_feeds' AS regclass) AND NOT granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with following(database, github) as process:
        with stopped_before_the_commit(engine) as stopped:
            assert eventually(stopped)
            with engine.connect() as connection:
                connection.execute(terminate)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in said
    assert stored(engine) == []
    run(database, github, "--once")
    assert stored(engine) == [*range(150)]


@pytest.mark.endurance
def test_killed_again_and_again(
    database: URL, engine: Engine, connection: Connection, github: GitHub
) -> None:
    """The feed goes on meanwhile, with fewer events between two polls than GitHub offers."""
    github.happen(*range(100))
    numbers = itertools.count(100)
    # With every request of a poll of three pages, which leaves half of the window for a restart.
    github.before = lambda page: github.happen(*itertools.islice(numbers, 10 if page == 1 else 3))
    chance = random.Random(7)
    for _ in range(8):
        with following(database, github, "--rollup") as process:
            asked = len(github.requests)
            assert eventually(lambda asked=asked: len(github.requests) > asked)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.4))
            process.kill()
            process.wait()
    github.before = lambda _: None
    told: dict[str, Any] = json.loads(
        run(database, github, "--once", "--rollup", "--json").splitlines()[0]
    )
    assert told["poll"]["gap"] is None
    assert stored(engine) == [*range(next(numbers))]
    assert_adds_up(connection)
