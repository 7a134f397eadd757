"""Writers and runs at full speed, all at once, with servers and clients that die."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.github.migrate import upgrade
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.rollups.run import run_rollup
from citus_analytics.server import EmbeddedServer
from tests.rollups import NOON, add, assert_adds_up, event

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection

pytestmark = pytest.mark.faults

WRITERS = 4
RUNNERS = 2
SECONDS = 4.0
MONTH = int(timedelta(days=31).total_seconds())


def write_for_a_while(engine: Engine, seed: int, until: float) -> None:
    """Insert, update and delete events up to a month old; roll back now and then."""
    rng = random.Random(seed)
    with engine.connect() as connection:
        while time.monotonic() < until:
            user = rng.randrange(40)
            match rng.randrange(10):
                case 0:
                    change = "UPDATE github_events SET event_type = 'X' WHERE user_id = :user"
                    connection.execute(text(change), {"user": user})
                case 1:
                    change = "DELETE FROM github_events WHERE user_id = :user AND repo_id = 1"
                    connection.execute(text(change), {"user": user})
                case _:
                    ages = (
                        rng.choice([rng.randrange(90), rng.randrange(MONTH)]) for _ in range(20)
                    )
                    rows = (
                        event(rng.randrange(40), at=NOON - timedelta(seconds=age), repo_id=age % 3)
                        for age in ages
                    )
                    add(connection, *rows)
            (connection.rollback if rng.randrange(8) == 0 else connection.commit)()


def run_for_a_while(engine: Engine, until: float) -> None:
    with engine.connect() as connection:
        while time.monotonic() < until:
            run_rollup(connection, GITHUB_ROLLUP_1MIN)
            connection.commit()


def in_threads(*jobs: Callable[[], None]) -> list[BaseException]:
    """Run jobs at the same time; return what they raised."""
    raised: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_writers_and_runs_at_once(engine: Engine) -> None:
    until = time.monotonic() + SECONDS
    raised = in_threads(
        *(lambda seed=seed: write_for_a_while(engine, seed, until) for seed in range(WRITERS)),
        *(lambda: run_for_a_while(engine, until) for _ in range(RUNNERS)),
    )
    # Writers that meet on the same rows may deadlock, as in any application; runs never do.
    assert [error for error in raised if "deadlock detected" not in str(error)] == []
    with engine.begin() as connection:
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        assert_adds_up(connection)
        assert connection.execute(text("SELECT count(*) FROM github_events")).scalar_one() > 0


def fill(connection: Connection, events: int = 20_000) -> None:
    connection.execute(
        text(
            "INSERT INTO github_events (event_id, event_type, repo_id, user_id, created_at) "
            "SELECT i, 'PushEvent', i % 7, i % 500, :noon - make_interval(secs => i) "
            "FROM generate_series(1, :events) AS i"
        ),
        {"noon": NOON, "events": events},
    )


def test_a_terminated_run_leaves_nothing_wrong(engine: Engine) -> None:
    with engine.begin() as connection:
        fill(connection)
    for delay in (0.0, 0.01, 0.05, 0.1):
        with engine.connect() as running, engine.connect() as killer:
            pid = running.execute(text("SELECT pg_backend_pid()")).scalar_one()

            def run(connection: Connection = running) -> None:
                run_rollup(connection, GITHUB_ROLLUP_1MIN)
                time.sleep(1)  # Not committed when the end comes.
                connection.commit()

            thread = threading.Thread(target=lambda: suppressed(run))
            thread.start()
            time.sleep(delay)
            killer.execute(text("SELECT pg_terminate_backend(CAST(:pid AS integer))"), {"pid": pid})
            thread.join()
        with engine.begin() as connection:
            rolled_up = connection.execute(text("SELECT count(*) FROM github_rollup_1min"))
            assert rolled_up.scalar_one() == 0
    with engine.begin() as connection:
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        assert_adds_up(connection)


def suppressed(job: Callable[[], None]) -> None:
    with suppress(DBAPIError):
        job()


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
def test_a_killed_server_leaves_nothing_wrong(place: Path, delay: float) -> None:
    """SIGKILL of the whole server in the middle of writes and runs; durable, so fsync is on."""
    with EmbeddedServer(place / "server") as server:
        upgrade(server.url)
        engine = create_engine(server.url, poolclass=NullPool)
        with engine.begin() as connection:
            fill(connection)
        until = time.monotonic() + 60
        threads = [
            threading.Thread(target=lambda: suppressed(lambda: run_for_a_while(engine, until))),
            threading.Thread(
                target=lambda: suppressed(lambda: write_for_a_while(engine, 1, until))
            ),
        ]
        for thread in threads:
            thread.start()
        time.sleep(delay)
        os.kill(server.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
        server.stop()
        server.start()
        with engine.begin() as connection:
            run_rollup(connection, GITHUB_ROLLUP_1MIN)
            assert_adds_up(connection)
            events = connection.execute(text("SELECT count(*) FROM github_events")).scalar_one()
            assert events >= 20_000 - 500
