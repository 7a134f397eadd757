"""Writers, runs and repairs of every kind at once: at any moment fresh = raw, at rest target = raw.

The oracle is Python over the raw rows of the snapshot that the views are read in.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from psycopg import Error as DriverError
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from citus_analytics.rollups.run import backfill
from citus_analytics.server import EmbeddedServer
from tests.processes import eventually
from tests.rollup_lab import (
    ALL_EVENTS,
    TABLES,
    Torture,
    Writer,
    assert_at_rest,
    assert_fresh,
    assert_verified,
    build,
    run,
    run_many,
    run_sql,
    tolerated,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers import DatabaseServer

ISOLATION_LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


@pytest.fixture
def lab(postgres: DatabaseServer) -> Iterator[Engine]:
    """An engine on an empty database."""
    with postgres.database("empty") as url:
        yield create_engine(url, poolclass=NullPool)


def torture(engine: Engine, seconds: float, seed: int) -> None:
    job = Torture(engine, seconds, seed)
    for number, level in enumerate((*ISOLATION_LEVELS, "READ COMMITTED")):
        job.writer(number, level, two_phase=number == 0)
    job.runner(1)
    job.runner(2, wait=False, pause=0.1)
    job.looker(1)
    job.looker(2)
    job.verifier()
    job.verifier(repair=True)
    job.finish()
    with engine.begin() as connection:
        run(connection)
        assert_at_rest(connection)
        assert_verified(connection)


def test_a_second_of_everything(lab: Engine) -> None:
    build(lab, citus=False)
    torture(lab, 1.5, 1)


@pytest.mark.faults
@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.endurance)])
def test_everything_at_once(lab: Engine, seconds: float) -> None:
    build(lab, citus=False)
    torture(lab, seconds, 2)


@pytest.mark.faults
def test_backfill_beside_writers(lab: Engine) -> None:
    """Rows from before the rollups change while windows of them are added up."""
    build(lab, citus=False, rows=3_000)
    job = Torture(lab, 6, 1)
    job.writer(1, "READ COMMITTED", truncates=False)
    job.writer(2, "REPEATABLE READ")
    job.runner(1)
    windows = backfill(lab, ALL_EVENTS)
    next(windows)
    # One that truncates, which may leave nothing to add up.
    job.writer(3, "READ COMMITTED")
    for _ in windows:
        time.sleep(0.3)
    job.looker(1)
    job.verifier()
    job.finish()
    with lab.begin() as connection:
        run(connection)
        assert_at_rest(connection)


@pytest.mark.faults
def test_repair_of_what_no_trigger_saw_beside_writers(lab: Engine) -> None:
    build(lab, citus=False)
    with lab.begin() as connection:
        # However little the writers have done by then.
        run_many(connection, Writer(connection, random.Random(1)).rows(200), "")
    job = Torture(lab, 4, 1)
    job.writer(1, "READ COMMITTED", truncates=False)
    job.writer(2, "SERIALIZABLE")
    job.runner(1)
    assert eventually(lambda: len(job.done) == len(job.threads) or bool(job.raised))
    for change in ("DELETE FROM events WHERE id % 4 = 1", "UPDATE events SET ms = 11, kind = 'q'"):
        with lab.begin() as connection:
            run_sql(connection, "LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
            run_sql(connection, "SET LOCAL session_replication_role = 'replica'")
            run_sql(connection, change)
        with lab.begin() as connection:
            found = 0
            for target in TABLES:
                found += run_sql(
                    connection,
                    "SELECT groups FROM events_reconcile(:target, NULL, NULL, true)",
                    target=target,
                ).scalar_one()
            assert found > 0
            assert_verified(connection)
    job.looker(1)
    job.finish()
    with lab.begin() as connection:
        run(connection)
        assert_at_rest(connection)


@pytest.mark.faults
@pytest.mark.parametrize("seconds", [5, pytest.param(20, marks=pytest.mark.endurance)])
def test_terminated_backends(lab: Engine, seconds: float) -> None:
    """Writers and runners whose backends are terminated in the middle, again and again."""
    build(lab, citus=False)
    until = time.monotonic() + seconds
    unexpected: list[BaseException] = []

    def insist(job: Callable[[], None]) -> None:
        while time.monotonic() < until:
            try:
                job()
            except (DBAPIError, DriverError) as error:
                gone = isinstance(error, DriverError) or error.connection_invalidated
                if not gone and not tolerated(error):
                    unexpected.append(error)

    def write_some(seed: int) -> None:
        with lab.connect() as connection:
            writer = Writer(connection, random.Random(seed))
            for _ in range(50):
                write(writer, 2)

    def run_some() -> None:
        with lab.begin() as connection:
            run(connection)
            time.sleep(0.02)

    jobs = [lambda seed=seed: write_some(seed) for seed in range(3)] + [run_some] * 2
    threads = [threading.Thread(target=insist, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    rng = random.Random(1)
    while time.monotonic() < until:
        time.sleep(rng.random() / 5)
        with lab.begin() as connection:
            run_sql(
                connection,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
                "current_database() AND pid <> pg_backend_pid() AND backend_type = "
                "'client backend' ORDER BY random() LIMIT 2",
            )
    for thread in threads:
        thread.join()
    assert unexpected == []
    with lab.begin() as connection:
        assert_verified(connection)
        run(connection)
        assert_at_rest(connection)


@pytest.mark.faults
@pytest.mark.parametrize("delay", [0.1, 0.5, 1.5])
def test_a_killed_server(place: Path, delay: float) -> None:
    """SIGKILL of the whole server in the middle of writes and runs; durable, so fsync is on."""
    with EmbeddedServer(place / "server", settings={"max_prepared_transactions": "10"}) as server:
        engine = create_engine(server.url, poolclass=NullPool)
        build(engine, citus=False)
        job = Torture(engine, 60, 1)
        job.writer(1, "READ COMMITTED", two_phase=True)
        job.writer(2, "SERIALIZABLE")
        job.runner(1)
        time.sleep(delay)
        os.kill(server.pid, signal.SIGKILL)
        # COPY raises the errors of the driver.
        with pytest.raises((DBAPIError, DriverError)):
            job.finish()
        server.stop()
        server.start()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for name in run_sql(connection, "SELECT gid FROM pg_prepared_xacts").scalars().all():
                run_sql(connection, f"COMMIT PREPARED '{name}'")
        with engine.begin() as connection:
            assert_fresh(connection)
            assert_verified(connection)
            run(connection)
            assert_at_rest(connection)


@pytest.mark.endurance
@pytest.mark.timeout(1200)
def test_a_large_copy(lab: Engine) -> None:
    """COPY of 200,000 rows, and then more than 500,000 changes pending."""
    build(lab, citus=False)
    with lab.connect() as connection:
        writer = Writer(connection, random.Random(1))
        rows = writer.rows(10_000)
        driver = connection.connection.driver_connection
        assert driver is not None
        run_sql(connection, "SELECT 1")
        with driver.cursor().copy(f"COPY events ({', '.join(rows[0])}) FROM STDIN") as copy:
            for turn in range(20):
                for each in rows:
                    copy.write_row([each["id"] + (turn << 41), *list(each.values())[1:]])
        connection.commit()
        run_sql(connection, "UPDATE events SET ms = ms - 1 WHERE ms > 1")
        run_sql(connection, "UPDATE events SET kind = 'w' WHERE kind = 'a'")
        connection.commit()
        assert run_sql(connection, "SELECT count(*) FROM events_log").scalar_one() >= 500_000
        assert_fresh(connection)
        assert_verified(connection)
        assert (run(connection) or 0) >= 500_000
        assert_at_rest(connection)
        connection.commit()
        run_sql(connection, "TRUNCATE events")
        assert_fresh(connection)
        run(connection)
        assert_at_rest(connection)
