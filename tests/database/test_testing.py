"""`citus_analytics.testing`, used as an application's tests would use it."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    text,
)
from sqlalchemy.orm import Session

from citus_analytics import Distributed, Rollup, RollupError, count, run_rollup
from citus_analytics.testing import assert_exact
from tests.rollup_lab import ALL_EVENTS, BY_KIND, PER_USER, build, events, row
from tests.servers import ON_CITUS_ONLY, ON_EVERY_SERVER, citus_binaries

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Connection

    from tests.servers import DatabaseServer, Prepared

ROLLUPS = (PER_USER, BY_KIND, ALL_EVENTS)


@pytest.fixture
def built(server: DatabaseServer, prepared: Prepared) -> Engine:
    citus = server.kind == "citus"
    return prepared("lab", lambda engine: build(engine, citus=citus))


def write(connection: Connection, seed: int) -> None:
    rng = random.Random(seed)
    numbers = range(seed * 200, seed * 200 + 150)
    connection.execute(events.insert(), [row(rng, number) for number in numbers])
    connection.execute(text("UPDATE events SET ms = ms + 1, kind = 'b' WHERE id % 7 = 3"))
    connection.execute(text("DELETE FROM events WHERE id % 5 = 1"))


@ON_EVERY_SERVER
def test_what_adds_up_is_exact(built: Engine) -> None:
    """Rollups of every kind: empty, with changes pending, after a run, and with more of them."""
    with Session(built) as session:
        for rollup in ROLLUPS:
            assert_exact(session, rollup)
    for seed in (1, 2):
        with built.begin() as connection:
            write(connection, seed)
            for rollup in ROLLUPS:
                assert_exact(connection, rollup)
        with built.begin() as connection:
            run_rollup(connection, PER_USER)
            for rollup in ROLLUPS:
                assert_exact(connection, rollup)


def failure(connection: Connection, rollup: Rollup) -> str:
    with pytest.raises(AssertionError) as failed:
        assert_exact(connection, rollup)
    return str(failed.value)


def test_what_does_not_add_up_is_named(built: Engine) -> None:
    with built.begin() as connection:
        write(connection, 1)
        run_rollup(connection, PER_USER)
        write(connection, 2)
    with built.connect() as connection:
        # A line of the log says something else than the row.
        connection.execute(text("INSERT INTO events (id, user_id, kind) VALUES (-1, 3, 'lost')"))
        connection.execute(text("UPDATE events_log SET kind = 'found' WHERE kind = 'lost'"))
        said = failure(connection, BY_KIND)
        assert "by_kind_fresh of rollup 'by_kind' differs from the raw rows in 2 groups" in said
        assert "bucket=None, kind=lost, country=None: the rollup has no such group" in said
        assert "bucket=None, kind=found, country=None: the raw rows have no such group" in said
        # It has no time, and so is in no bucket of the other one.
        assert_exact(connection, PER_USER)
        connection.rollback()
        # A number is changed by hand.
        connection.execute(text("UPDATE all_events SET n = n + 1"))
        assert re.search(
            r"all rows: n is \d+, and \d+ in the raw rows", failure(connection, ALL_EVENTS)
        )


def test_a_table_is_compared_without_what_is_pending(built: Engine) -> None:
    with built.connect() as connection:
        write(connection, 1)
        run_rollup(connection, PER_USER)
        write(connection, 2)
        connection.commit()
        assert_exact(connection, PER_USER)
        connection.execute(text("UPDATE per_user_1_hour SET n = n + 5 WHERE user_id = 3"))
        said = failure(connection, PER_USER)
        assert "per_user_1_hour_fresh of rollup 'per_user'" in said
        assert "user_id=3" in said
        assert " in the raw rows" in said
        connection.rollback()
        # The log has a row that has never been, and the table is short of it: as if a run had taken
        # too much. The fresh view has both.
        write(connection, 3)
        connection.execute(text("UPDATE all_events SET n = n - 1"))
        connection.execute(text("INSERT INTO events_log (n, key) VALUES (1, 3)"))
        said = failure(connection, ALL_EVENTS)
        assert "all_events of rollup 'all_events' differs from the raw rows without what is" in said


source = Table(
    "orders",
    MetaData(),
    Column("tenant_id", BigInteger),
    Column("id", BigInteger),
    PrimaryKeyConstraint("tenant_id", "id"),
    Distributed("tenant_id"),
)
ORDERS = Rollup("orders_by_tenant", source, by=["tenant_id"], measures={"orders": count()})


def test_what_cannot_be_compared_is_refused(built: Engine) -> None:
    with built.connect() as connection:
        with pytest.raises(RollupError, match="has no rollup 'orders_by_tenant'"):
            assert_exact(connection, ORDERS)
        connection.execute(text("UPDATE events_rollups SET horizon = now()"))
        with pytest.raises(RollupError, match="has had raw rows expired"):
            assert_exact(connection, PER_USER)
        connection.execute(text("UPDATE events_rollups SET horizon = NULL, complete_since = now()"))
        with pytest.raises(RollupError, match="is not complete"):
            assert_exact(connection, PER_USER)


CONFTEST = """
import pytest
from alembic import command
from alembic.config import Config

pytest_plugins = ["citus_analytics.testing"]


@pytest.fixture(scope="session")
def analytics_migrate():
    def migrate(url):
        with open("migrated", "a") as file:
            file.write("once\\n")
        configuration = Config("alembic.ini")
        configuration.attributes["url"] = url
        command.upgrade(configuration, "heads")

    return migrate
"""

TESTS = """
import pytest
from sqlalchemy import func, insert, select
from citus_analytics import GITHUB_ROLLUP_1MIN, GithubEvent
from citus_analytics.testing import assert_exact, assert_pushdown, assert_router

EVENT = {"event_id": 1, "user_id": 1, "event_type": "PushEvent", "repo_id": 1}


@pytest.mark.parametrize("number", range(4))
def test_a_database_of_ones_own(analytics_session, number):
    assert analytics_session.scalar(select(func.count()).select_from(GithubEvent)) == 0
    analytics_session.execute(insert(GithubEvent).values(EVENT))
    analytics_session.commit()
    assert_exact(analytics_session, GITHUB_ROLLUP_1MIN)


def test_the_shape(analytics_session):
    assert_pushdown(analytics_session, GithubEvent)
    assert_router(analytics_session, select(GithubEvent).where(GithubEvent.user_id == 1))


@pytest.mark.parametrize("analytics_server", ["postgresql"], indirect=True)
def test_without_citus(analytics_server, analytics_session):
    assert analytics_server.kind == "postgresql"
    assert_pushdown(analytics_session, GithubEvent)
"""


def test_the_fixtures(tmp_path: Path) -> None:
    """A suite of somebody else's, in two processes."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "alembic.ini").write_text(
        "[alembic]\nscript_location = citus_analytics:_alembic\npath_separator = os\n"
    )
    (tmp_path / "test_application.py").write_text(TESTS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"),
            *("-n", "2", "--dist=worksteal", "-W", "error", str(tmp_path)),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    clusters = citus_binaries() is not None
    passed = "5 passed, 1 skipped" if clusters else "4 passed, 2 skipped"
    assert passed in done.stdout, done.stdout
    assert "does not have Citus: nothing is pushed down" in done.stdout
    # Each server's template is migrated by one of the processes.
    assert (tmp_path / "migrated").read_text() == "once\n" * (2 if clusters else 1)


FAILING = """
import os
from sqlalchemy import create_engine, func, select, text
from citus_analytics import GITHUB_EVENTS_BY_TYPE, GithubEvent
from citus_analytics.testing import assert_exact, assert_pushdown, assert_router

engine = create_engine(os.environ["ADDRESS"])
first, second, third = (select(GithubEvent).where(GithubEvent.user_id == n) for n in range(3))


def test_router():
    with engine.connect() as connection:
        connection.execute(text("SET citus.explain_all_tasks = on"))
        assert_router(connection, first)
        assert_router(connection, second.union_all(third))
        assert_router(connection, third)


def test_pushdown():
    with engine.connect() as connection:
        assert_pushdown(connection, first)
        assert_pushdown(connection, select(*GITHUB_EVENTS_BY_TYPE.fresh("1 hour").c))
        assert_pushdown(connection, third)


def test_exact():
    with engine.connect() as connection:
        assert_exact(connection, GITHUB_EVENTS_BY_TYPE)
        connection.execute(
            text(
                "INSERT INTO github_events_by_type_1_day (bucket, event_type, events) "
                "SELECT '2026-01-01Z', repeat(n::text, 999), 1 FROM generate_series(1, 99) AS n"
            )
        )
        assert_exact(connection, GITHUB_EVENTS_BY_TYPE)
"""


@ON_CITUS_ONLY
def test_a_failure_shows_the_line_and_little_else(database: URL, tmp_path: Path) -> None:
    (tmp_path / "test_application.py").write_text(FAILING)
    address = database.render_as_string(hide_password=False)
    done = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": "", "ADDRESS": address, "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert "3 failed" in done.stdout, done.stdout + done.stderr
    failures = re.split(r"^_+ (test_\w+) _+$", done.stdout, flags=re.MULTILINE)
    for name, text_, line in zip(
        failures[1::2],
        failures[2::2],
        (
            "assert_router(connection, second.union_all(third))",
            'assert_pushdown(connection, select(*GITHUB_EVENTS_BY_TYPE.fresh("1 hour").c))',
            "assert_exact(connection, GITHUB_EVENTS_BY_TYPE)",
        ),
        strict=True,
    ):
        marked = re.findall(r"^>\s+(.*)$", text_, re.MULTILINE)
        assert marked == [line], name
        assert "testing.py:" not in text_
        said = re.findall(r"^E.*$", text_, re.MULTILINE)
        assert said[0].startswith("E           AssertionError: ")
        assert 2 <= len(said) <= 30
        assert max(map(len, said)) < 350
    assert "no such group" in failures[-1]
