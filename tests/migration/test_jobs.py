"""Jobs of pg_cron: scheduled, replaced, ended; and servers without pg_cron."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text

from citus_analytics.errors import OperationError
from citus_analytics.migrations import Job, ScheduleOp, UnscheduleOp
from citus_analytics.server import EmbeddedServer, installed_binaries
from tests.operations import rows, run, script_of, values
from tests.programs import psql
from tests.servers import DatabaseServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

    from citus_analytics.migrations import CitusOperation, Policy

NAME = 'roll 100% of "it\'s" :up'
NIGHTLY = ScheduleOp(NAME, "0 3 * * *", "SELECT 'it''s' || '100%', :x")
HOURLY = ScheduleOp(NAME, "0 * * * *", "SELECT 1")
JOBS = "SELECT jobname, schedule, command FROM cron.job"
SETTINGS = {
    "fsync": "off",
    "shared_preload_libraries": "pg_cron",
    "cron.database_name": "postgres",
    # Jobs would connect by TCP, to where this server does not listen.
    "cron.launch_active_jobs": "off",
}


@pytest.fixture(scope="module")
def cron() -> Iterator[DatabaseServer]:
    """A plain PostgreSQL with pg_cron in its database `postgres`."""
    found = next((one for one in installed_binaries() if one.has_extension("pg_cron")), None)
    if found is None:
        pytest.skip("no PostgreSQL of this machine has the extension pg_cron: no job was tested")
    with EmbeddedServer(binaries=found, settings=SETTINGS) as node:
        yield DatabaseServer("postgresql", (node,))


@pytest.fixture
def connection(cron: DatabaseServer) -> Iterator[Connection]:
    """A connection to a database without jobs."""
    with create_engine(cron.url, poolclass=NullPool).connect() as connection:
        connection.execute(text("CREATE EXTENSION pg_cron"))
        connection.commit()
        yield connection
        connection.rollback()
        connection.execute(text("DROP EXTENSION pg_cron"))
        connection.commit()


@pytest.fixture
def plain(empty_database: URL) -> Iterator[Connection]:
    """A connection to a database without pg_cron."""
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        yield connection


def test_scheduled_and_ended(connection: Connection) -> None:
    run(connection, NIGHTLY)
    assert rows(connection, JOBS) == [(NAME, NIGHTLY.cron, NIGHTLY.command)]
    run(connection, NIGHTLY.reverse())
    assert rows(connection, JOBS) == []
    run(connection, NIGHTLY.reverse().reverse())
    assert rows(connection, JOBS) == [(NAME, NIGHTLY.cron, NIGHTLY.command)]


def test_doing_it_twice_changes_nothing(connection: Connection) -> None:
    run(connection, NIGHTLY, NIGHTLY)
    assert len(rows(connection, JOBS)) == 1
    run(connection, UnscheduleOp(NAME), UnscheduleOp(NAME))
    assert rows(connection, JOBS) == []


def test_a_job_of_the_same_name_is_replaced(connection: Connection) -> None:
    run(connection, NIGHTLY, ScheduleOp("another", "1 1 1 1 *", "SELECT"), HOURLY)
    assert sorted(rows(connection, JOBS)) == [
        ("another", "1 1 1 1 *", "SELECT"),
        (NAME, "0 * * * *", "SELECT 1"),
    ]


def test_the_script_does_the_same(cron: DatabaseServer, connection: Connection) -> None:
    psql(cron, cron.url, script_of(HOURLY, NIGHTLY))
    assert rows(connection, JOBS) == [(NAME, NIGHTLY.cron, NIGHTLY.command)]
    psql(cron, cron.url, script_of(UnscheduleOp(NAME)))
    assert rows(connection, JOBS) == []


@pytest.mark.parametrize("operation", [NIGHTLY, UnscheduleOp(NAME)], ids=["schedule", "unschedule"])
@pytest.mark.parametrize("policy", ["auto", "skip"])
def test_without_pg_cron_nothing_is_done(
    operation: CitusOperation, policy: Policy, plain: Connection
) -> None:
    notices = []
    driver = plain.connection.driver_connection
    assert driver is not None
    driver.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    run(plain, operation, citus=policy)
    said = f"pg_cron is not installed in this database: job {NAME} is not scheduled"
    assert [notice.startswith(said) for notice in notices] == [True] * (policy == "auto")


def test_without_pg_cron_where_it_is_required(plain: Connection) -> None:
    with pytest.raises(OperationError, match=r"^pg_cron is required, .*EXTENSION pg_cron"):
        run(plain, NIGHTLY, citus="require")


def test_a_job_that_is_not_known_cannot_come_back() -> None:
    unschedule = UnscheduleOp(NAME, was=Job("0 * * * *", "SELECT 1"))
    assert values(unschedule.reverse()) == values(HOURLY)
    with pytest.raises(OperationError, match=r"cannot be reversed: .* was=Job\(schedule, command"):
        UnscheduleOp(NAME).reverse()
