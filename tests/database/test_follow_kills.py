"""The command `follow`, interrupted and killed at any time: what is there is whole."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from tests.database.follow_data import following, run, stored
from tests.github_api import Reply
from tests.processes import eventually
from tests.rollups import assert_adds_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL, Connection, Engine

    from tests.github_api import GitHub

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
        out, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, "")
    assert out.startswith("1 poll, 0 failed: 2 events new, 0 there already")
    assert "Interrupted; what was polled is stored" in out
    assert stored(engine) == [1, 2]


def test_interrupted_while_github_answers(database: URL, engine: Engine, github: GitHub) -> None:
    github.happen(*range(100))
    github.replies = [Reply(damage="slow")]
    with following(database, github, "--json") as process:
        assert eventually(lambda: len(github.requests) == 1)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, "")
    assert json.loads(out)["summary"]["interrupted"] is True
    assert stored(engine) == []


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
        out, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, "")
    assert json.loads(out.splitlines()[-1])["summary"]["new"] == 2
    assert stored(engine) == [1, 2]


def test_a_second_interrupt_does_not_wait(database: URL, engine: Engine, github: GitHub) -> None:
    github.happen(1, 2)
    with following(database, github) as process, stopped_before_the_commit(engine) as stopped:
        assert eventually(stopped)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        out, said = process.communicate(timeout=10)
    assert (process.returncode, out, said) == (130, "", "citus-analytics: interrupted\n")
    assert stored(engine) == []
    run(database, github, "--once")
    assert stored(engine) == [1, 2]


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
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in said
    assert stored(engine) == []
    run(database, github, "--once")
    assert stored(engine) == [*range(150)]


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
