"""Catching up in batches: what one run cannot do in its time, many can, and nothing is lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from citus_analytics.rollups.run import RollupRun, catch_up, run_rollup
from tests.rollup_lab import (
    PER_USER,
    Torture,
    Writer,
    assert_at_rest,
    assert_fresh,
    assert_verified,
    build,
    run,
    run_sql,
    write,
)
from tests.servers import ON_EVERY_SERVER, ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from sqlalchemy import URL

    from tests.servers import DatabaseServer

pytestmark = pytest.mark.faults

ROWS: Final = 150_000


@pytest.fixture
def lab(server: DatabaseServer, empty_database: URL) -> Engine:
    """An engine on a database with the rollups of the lab."""
    engine = create_engine(empty_database, poolclass=NullPool)
    build(engine, citus=server.kind == "citus")
    return engine


def fill(lab: Engine, rows: int = ROWS, *, inserts: bool = False) -> int:
    """Make many changes, by statements of every kind or one; return how many are pending."""
    with lab.begin() as connection:
        run_sql(
            connection,
            "INSERT INTO events (id, user_id, kind, payload, ms, temp, at) SELECT i, i % 12, "
            "(ARRAY['a', 'b', 'x', NULL])[1 + i % 4], jsonb_build_object('c', 'c' || i % 3), "
            "i % 7, (i % 5) / 4.0, timestamptz '2026-03-28 22:00Z' + i % 20 * interval '10 min' "
            f"FROM generate_series(1, {rows}) AS i",
        )
        if not inserts:
            run_sql(connection, "UPDATE events SET ms = ms + 1 WHERE id % 3 = 0")
            run_sql(connection, "DELETE FROM events WHERE id % 3 = 1")
        pending: int = run_sql(connection, "SELECT count(*) FROM events_log").scalar_one()
    return pending


def settle(lab: Engine) -> None:
    with lab.begin() as connection:
        run(connection)
        assert_at_rest(connection)
        assert_verified(connection)


@ON_EVERY_SERVER
def test_many_changes(lab: Engine) -> None:
    pending = fill(lab)
    assert pending == 2 * ROWS
    done = 0
    for number, batch in enumerate(catch_up(lab, PER_USER)):
        done += batch.changes
        if number == 1:
            with lab.begin() as connection:
                left = run_sql(connection, "SELECT count(*) FROM events_log").scalar_one()
                assert left == pending - done
                assert_fresh(connection)
                assert_verified(connection)
    assert number > 1
    assert done == pending
    with lab.begin() as connection:
        assert_at_rest(connection)
    assert {batch.changes for batch in catch_up(lab, PER_USER)} == {0}


@pytest.mark.parametrize(
    "server",
    [
        "postgresql",
        "citus",
        pytest.param(
            "single_node_citus",
            marks=pytest.mark.xfail(
                strict=False,
                reason="beside large writes a coordinator with shards of its own is seen, and may "
                "be left, with a difference of a group or two",
            ),
        ),
    ],
    indirect=True,
)
def test_others_write_and_run_meanwhile(server: DatabaseServer, lab: Engine) -> None:
    fill(lab, ROWS // 2)
    job = Torture(lab, 20, 1)
    citus = server.kind == "citus"
    # TRUNCATE would leave nothing to do.
    job.writer(1, "READ COMMITTED", citus=citus, truncates=False)
    job.writer(2, "REPEATABLE READ", citus=citus, truncates=False)
    job.runner(1, wait=False, conflicts=True)
    try:
        for number, _ in enumerate(catch_up(lab, PER_USER)):
            with lab.begin() as connection:
                assert_verified(connection, ("per_user_1_hour", "by_kind_users"))
            if number % 2:
                with lab.begin() as connection:
                    run_rollup(connection, PER_USER, page=1)
    finally:
        job.until = time.monotonic()
        job.finish()
    settle(lab)


CATCH_UP: Final = """
import sys, time
from sqlalchemy import create_engine
from citus_analytics.rollups.run import catch_up
from tests.rollup_lab import PER_USER
for batch in catch_up(create_engine(sys.argv[1]), PER_USER):
    print(batch.changes, flush=True)
    time.sleep(0.1)
"""


@ON_EVERY_SERVER
def test_killed_between_batches(lab: Engine) -> None:
    """Killed again and again, in and between batches: what is done is done."""
    pending = fill(lab)
    address = lab.url.render_as_string(hide_password=False)
    left = [pending]
    for delay in (0.0, 0.2, 0.5):
        process = subprocess.Popen(
            [sys.executable, "-c", CATCH_UP, address], stdout=subprocess.PIPE, cwd=Path.cwd()
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with lab.begin() as connection:
            # The lock of who was killed ends with the server's session.
            run_sql(connection, "SELECT pg_advisory_xact_lock(1)")
            assert_verified(connection, ("per_user_1_hour",))
        with lab.begin() as connection:
            left.append(run_sql(connection, "SELECT count(*) FROM events_log").scalar_one())
    # A batch of pages that are empty already is one too.
    assert pending > left[1] >= left[2] >= left[3]
    for _ in catch_up(lab, PER_USER):
        pass
    with lab.begin() as connection:
        assert_at_rest(connection)
        assert_verified(connection)


@ON_POSTGRESQL_ONLY
def test_a_timeout_that_a_batch_meets(lab: Engine) -> None:
    # Where smallest values go, a batch looks at the source too.
    fill(lab, 5 * ROWS, inserts=True)
    durations: list[float] = []

    def timed(page: int | None, milliseconds: int = 0) -> RollupRun:
        with lab.begin() as connection:
            run_sql(connection, f"SET LOCAL statement_timeout = {milliseconds}")
            start = time.monotonic()
            found = run_rollup(connection, PER_USER, page=page)
            durations.append(time.monotonic() - start)
            return found

    # Warm, and what a batch costs here and now.
    first = timed(0)
    assert first.next_page is not None
    limit = int(durations[0] * 2_500) + 100
    with pytest.raises(DBAPIError, match="statement timeout"):
        timed(None, limit)
    page: int | None = first.next_page
    while page is not None:
        page = timed(page, limit).next_page
    assert len(durations) > 4
    with lab.begin() as connection:
        assert_at_rest(connection)


@ON_EVERY_SERVER
def test_batches_of_a_log_that_is_small_or_empty(server: DatabaseServer, lab: Engine) -> None:
    rng = random.Random(1)
    with lab.connect() as connection:
        writer = Writer(connection, rng, citus=server.kind == "citus")
        for _ in range(8):
            write(writer, 2)
            with lab.begin() as other:
                found: list[Any] = [run_rollup(other, PER_USER, page=page) for page in (0, 0, 99)]
                assert [each.changes for each in found[1:]] == [0, 0]
                assert {each.next_page for each in found} == {None}
                assert_at_rest(other)
    with lab.begin() as connection, lab.begin() as other:
        run_rollup(connection, PER_USER, page=0)
        assert run_rollup(other, PER_USER, wait=False, page=0) is None
