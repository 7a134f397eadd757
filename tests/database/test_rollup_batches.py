"""Catching up in batches: what one run cannot do in its time, many can, and nothing is lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import Engine, MetaData
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import ArgumentError
from citus_analytics.rollups.declare import (
    Rollup,
    average,
    count,
    distinct,
    maximum,
    percentiles,
    specs_of,
    total,
)
from citus_analytics.rollups.run import RollupBatch, catch_up, run_batch, run_rollup
from tests import rollup_lab
from tests.rollup_lab import (
    Torture,
    Writer,
    assert_verified,
    build,
    engine_with,
    run,
    run_sql,
    write,
)
from tests.servers import ON_EVERY_SERVER, ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

    from tests.servers import DatabaseServer, Prepared

pytestmark = pytest.mark.endurance

ROWS: Final = 150_000

# The source of the lab. Where smallest or largest values are kept, there are no batches.
METADATA: Final = MetaData()
EVENTS: Final = rollup_lab.events.to_metadata(METADATA)
PER_USER: Final = Rollup(
    "per_user",
    EVENTS,
    time=EVENTS.c.at,
    every=["1 minute", "1 hour"],
    by=[EVENTS.c.user_id, EVENTS.c.kind],
    measures={
        "n": count(),
        "ms": total(EVENTS.c.ms),
        "temps": distinct(EVENTS.c.temp),
        "p": percentiles(EVENTS.c.ms, [0.5]),
    },
)
BY_KIND: Final = Rollup(
    "by_kind",
    EVENTS,
    by=[EVENTS.c.kind],
    measures={"n": count(), "avg_ms": average(EVENTS.c.ms), "users": distinct(EVENTS.c.user_id)},
)
(SPEC,) = specs_of(METADATA)
TABLES: Final = tuple(target.table for target in SPEC.targets)
WANTED: Final = {
    "SELECT user_id, bucket, kind, n, ms, temps FROM {per_user_1_hour}": "SELECT user_id, "
    "date_trunc('hour', at, 'UTC'), kind, count(*), sum(ms)::numeric, count(DISTINCT temp) "
    "FROM events WHERE isfinite(at) GROUP BY 1, 2, 3",
    "SELECT kind, n, round(avg_ms, 6), users FROM {by_kind}": "SELECT kind, count(*), "
    "round(avg(ms), 6), count(DISTINCT user_id) FROM events GROUP BY 1",
}


def assert_fresh(connection: Connection) -> None:
    """Fail unless the fresh views equal what the server aggregates; nobody else writes."""
    for query, wanted in WANTED.items():
        found = run_sql(
            connection,
            query.format(per_user_1_hour="per_user_1_hour_fresh", by_kind="by_kind_fresh"),
        )
        assert Counter(map(tuple, found)) == Counter(map(tuple, run_sql(connection, wanted))), query


def assert_at_rest(connection: Connection) -> None:
    """Fail unless nothing is pending, and the rollups without the log say the same."""
    assert run_sql(connection, "SELECT count(*) FROM events_log").scalar_one() == 0
    for table in TABLES:
        rows = "_rows" if table not in ("per_user_1_minute", "per_user_1_hour", "by_kind") else "n"
        assert (
            run_sql(connection, f"SELECT count(*) FROM {table} WHERE {rows} < 1").scalar_one() == 0
        )
    assert_fresh(connection)


@pytest.fixture
def lab(server: DatabaseServer, prepared: Prepared) -> Engine:
    """An engine on a database with the rollups."""
    citus = server.kind == "citus"
    return prepared(
        "batches", lambda engine: build(engine, citus=citus, tables=METADATA, spec=SPEC)
    )


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
        assert_verified(connection, TABLES)


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
                assert_verified(connection, TABLES)
    assert number > 1
    assert done == pending
    with lab.begin() as connection:
        assert_at_rest(connection)
    assert {batch.changes for batch in catch_up(lab, PER_USER)} == {0}


@ON_EVERY_SERVER
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
                assert_verified(connection, TABLES)
            if number % 2:
                with lab.begin() as connection:
                    run_batch(connection, PER_USER, 1)
    finally:
        job.until = time.monotonic()
        job.finish()
    settle(lab)


CATCH_UP: Final = """
import sys, time
from sqlalchemy import create_engine
from citus_analytics.rollups.run import catch_up
from tests.database.test_rollup_batches import PER_USER
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
        assert_verified(connection, TABLES)


@ON_POSTGRESQL_ONLY
def test_a_timeout_that_a_batch_meets(lab: Engine) -> None:
    fill(lab, 5 * ROWS, inserts=True)
    durations: list[float] = []

    def timed(page: int, milliseconds: int = 0) -> RollupBatch:
        with lab.begin() as connection:
            run_sql(connection, f"SET LOCAL statement_timeout = {milliseconds}")
            start = time.monotonic()
            found = run_batch(connection, PER_USER, page)
            durations.append(time.monotonic() - start)
            return found

    # Warm, and what a batch costs here and now.
    first = timed(0)
    assert first.next_page is not None
    limit = int(durations[0] * 2_500) + 100
    with lab.connect() as connection:
        run_sql(connection, f"SET LOCAL statement_timeout = {limit}")
        with pytest.raises(DBAPIError, match="statement timeout"):
            run_rollup(connection, PER_USER)
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
                found: list[Any] = [run_batch(other, PER_USER, page) for page in (0, 0, 99)]
                assert [each.changes for each in found[1:]] == [0, 0]
                assert {each.next_page for each in found} == {None}
                assert_at_rest(other)
    with lab.begin() as connection, lab.begin() as other:
        run_batch(connection, PER_USER, 0)
        assert run_batch(other, PER_USER, 0, wait=False) is None
        with pytest.raises(ArgumentError, match="page must be 0, or the next_page of a batch; fou"):
            run_batch(connection, PER_USER, -1)


@ON_EVERY_SERVER
def test_where_smallest_values_are_kept_there_is_one_batch(
    server: DatabaseServer, empty_database: URL
) -> None:
    """A value that comes in a later batch than it goes would stay the largest for ever."""
    tables = MetaData()
    source = rollup_lab.events.to_metadata(tables)
    rollup = Rollup("highest", source, by=[source.c.user_id], measures={"ms": maximum(source.c.ms)})
    engine = engine_with(server, empty_database, tables)
    pending = fill(engine)
    assert [batch.changes for batch in catch_up(engine, rollup)] == [pending]
