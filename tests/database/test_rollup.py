"""The rollup adds up: whatever wrote, in whatever order, however late."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.orm import Session

from citus_analytics.errors import RollupError
from citus_analytics.github.migrate import downgrade, upgrade
from citus_analytics.github.models import (
    GITHUB_ROLLUP_1MIN,
    GithubEvent,
    github_events,
    github_rollup_1min,
)
from citus_analytics.rollups.run import RollupRun, backfill, rollup_status, run_rollup
from tests.rollups import NOON, add, assert_adds_up, event, raw_groups, rolled_up_groups
from tests.servers import ON_CITUS_ONLY, ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from collections import Counter

    from sqlalchemy import URL, Connection

    from tests.rollups import Group
    from tests.servers import DatabaseServer


MINUTE = timedelta(minutes=1)


def count_changes(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM github_events_log")).scalar_one())


def test_a_run_says_what_it_did(connection: Connection) -> None:
    add(connection, event(1), event(1), event(2, at=NOON + 5 * MINUTE))
    assert run_rollup(connection, GITHUB_ROLLUP_1MIN) == RollupRun(changes=3)
    assert_adds_up(connection)
    assert run_rollup(connection, GITHUB_ROLLUP_1MIN) == RollupRun(changes=0)


def test_the_tutorials_function_runs_from_sql(connection: Connection) -> None:
    add(connection, event(1), event(2))
    assert connection.execute(text("SELECT rollup_http_request()")).scalar_one() in ("", None)
    assert_adds_up(connection)
    minute = connection.execute(
        text("SELECT minute, minute = date_trunc('minute', now()) FROM latest_rollup")
    ).one()
    assert minute[1], f"the last run is noted as {minute[0]}"


def test_the_tutorials_first_row_of_latest_rollup_is_welcome(connection: Connection) -> None:
    connection.execute(text("INSERT INTO latest_rollup VALUES ('10-10-1901')"))
    add(connection, event(1))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    connection.execute(text("INSERT INTO latest_rollup VALUES ('10-10-1901')"))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)
    assert connection.execute(text("SELECT count(*) FROM latest_rollup")).scalar_one() == 1


def test_events_of_the_minute_that_is_still_being_written(connection: Connection) -> None:
    now = connection.execute(text("SELECT date_trunc('minute', now())")).scalar_one()
    add(connection, event(1, at=now))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    add(connection, event(1, at=now + timedelta(seconds=59)))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert list(rolled_up_groups(connection).values()) == [2]


def test_two_runs_at_once_count_once(engine: Engine) -> None:
    with engine.begin() as connection:
        add(connection, *(event(user) for user in range(500)))
    with engine.connect() as first:
        run_rollup(first, GITHUB_ROLLUP_1MIN)

        def second() -> None:
            with engine.begin() as connection:
                run_rollup(connection, GITHUB_ROLLUP_1MIN)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive(), "the second run did not wait for the first"
        first.commit()
        thread.join()
    with engine.connect() as connection:
        assert_adds_up(connection)


def test_a_second_run_may_leave_at_once(engine: Engine) -> None:
    with engine.begin() as connection:
        add(connection, event(1))
    with engine.connect() as first, engine.connect() as second:
        run_rollup(first, GITHUB_ROLLUP_1MIN)
        assert run_rollup(second, GITHUB_ROLLUP_1MIN, wait=False) is None
        second.execute(text("SELECT 1"))  # The caller's transaction goes on.
        first.commit()
        second.rollback()
        assert run_rollup(second, GITHUB_ROLLUP_1MIN, wait=False) is not None


def test_an_event_that_arrives_a_month_late(connection: Connection) -> None:
    add(connection, event(1))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    late = NOON - timedelta(days=31)
    add(connection, event(1, at=late))
    assert run_rollup(connection, GITHUB_ROLLUP_1MIN) == RollupRun(changes=1)
    assert_adds_up(connection)


def test_updates_move_events_between_groups(connection: Connection) -> None:
    add(connection, event(1), event(1), event(2))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    connection.execute(
        text(
            "UPDATE github_events SET event_type = 'ForkEvent', created_at = :at WHERE user_id = 1"
        ),
        {"at": NOON + timedelta(hours=1)},
    )
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)


def test_deleted_events_leave_no_groups(connection: Connection) -> None:
    add(connection, event(1), event(1), event(2))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    connection.execute(text("DELETE FROM github_events WHERE user_id = 2"))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)


def test_truncate_empties_the_rollup(engine: Engine) -> None:
    with engine.begin() as connection:
        add(connection, *(event(user) for user in range(20)))
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE github_events"))
        add(connection, event(7))
    with engine.begin() as connection:
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        assert_adds_up(connection)


def test_an_upsert_counts_once(engine: Engine) -> None:
    upsert = text(
        "INSERT INTO github_events (event_id, user_id, event_type, created_at) "
        "VALUES (1, 1, :type, :at) "
        "ON CONFLICT (event_id, user_id) DO UPDATE SET event_type = excluded.event_type"
    )
    with engine.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX once ON github_events (event_id, user_id)"))
    with engine.begin() as connection:
        for event_type in ("PushEvent", "ForkEvent"):
            connection.execute(upsert, {"type": event_type, "at": NOON})
            run_rollup(connection, GITHUB_ROLLUP_1MIN)
        assert_adds_up(connection)


def test_events_without_a_time_are_in_no_bucket(connection: Connection) -> None:
    add(connection, event(1, at=None), event(1))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    connection.execute(text("UPDATE github_events SET created_at = NULL"))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert rolled_up_groups(connection) == {}


def test_null_dimensions_are_groups_of_their_own(connection: Connection) -> None:
    add(connection, event(1, repo_id=None), event(1, repo_id=None, event_type=None), event(1))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    add(connection, event(1, repo_id=None))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    connection.execute(text("DELETE FROM github_events WHERE event_type IS NULL"))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)


@ON_POSTGRESQL_ONLY
def test_events_without_a_user_are_a_group_too(connection: Connection) -> None:
    """Citus refuses them, a single PostgreSQL does not."""
    add(connection, event(None), event(None, repo_id=2), event(1))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)
    connection.execute(text("DELETE FROM github_events WHERE user_id IS NULL AND repo_id = 2"))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)


@ON_CITUS_ONLY
def test_clients_of_workers_write(
    server: DatabaseServer, engine: Engine, connection: Connection
) -> None:
    """A worker hides its shards from its clients, and writes to them itself."""
    for node in server.nodes:
        url = node.url_for(str(engine.url.database))
        with create_engine(url, poolclass=NullPool).begin() as writer:
            add(writer, *(event(user) for user in range(20)))
            writer.execute(text("UPDATE github_events SET repo_id = 2 WHERE user_id = 3"))
            writer.execute(text("DELETE FROM github_events WHERE user_id = 5"))
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        assert_adds_up(connection)
        connection.commit()


def test_a_rolled_back_change_is_no_change(connection: Connection) -> None:
    add(connection, event(1))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    connection.commit()
    add(connection, event(2))
    connection.rollback()
    assert count_changes(connection) == 0
    run_rollup(connection, GITHUB_ROLLUP_1MIN)


def test_a_rolled_back_run_has_not_happened(connection: Connection) -> None:
    add(connection, event(1))
    connection.commit()
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    connection.rollback()
    assert rolled_up_groups(connection) == {}
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)


def test_a_run_touches_only_what_changed(connection: Connection) -> None:
    add(connection, *(event(user, at=NOON + user * MINUTE) for user in range(300)))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    connection.commit()
    versions = "SELECT user_id, xmin::text FROM github_rollup_1min"
    before: dict[int, str] = dict(connection.execute(text(versions)).all())
    add(connection, event(7, at=NOON + 7 * MINUTE))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    connection.commit()
    after: dict[int, str] = dict(connection.execute(text(versions)).all())
    assert [user for user in after if after[user] != before[user]] == [7]


def test_runs_leave_nothing_behind(connection: Connection) -> None:
    add(connection, event(1), event(2))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert count_changes(connection) == 0


def test_the_view_is_fresh_at_any_moment(connection: Connection) -> None:
    def fresh() -> Counter[Group]:
        return rolled_up_groups(connection, "github_rollup_1min_fresh")

    add(connection, event(1), event(1), event(2))
    assert fresh() == raw_groups(connection)
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert fresh() == raw_groups(connection)
    connection.execute(text("DELETE FROM github_events WHERE user_id = 2"))
    connection.execute(text("UPDATE github_events SET event_type = 'ForkEvent'"))
    add(connection, event(3, repo_id=None))
    assert fresh() == raw_groups(connection)
    assert fresh() != rolled_up_groups(connection)


def test_buckets_do_not_depend_on_the_sessions_time_zone(connection: Connection) -> None:
    connection.execute(text("SET LOCAL TIME ZONE 'Asia/Kathmandu'"))
    add(connection, event(1), event(2, at=NOON + timedelta(minutes=59, seconds=59)))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)


def test_events_from_before_the_rollup_are_backfilled(empty_database: URL) -> None:
    upgrade(empty_database, "ca_0001")
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.begin() as connection:
        add(connection, *(event(user % 50, at=NOON + user * 20 * MINUTE) for user in range(200)))
    upgrade(empty_database)
    with engine.begin() as connection:
        add(connection, event(1), event(1, at=NOON + 30 * 24 * 60 * MINUTE))
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
    windows = list(backfill(engine, GITHUB_ROLLUP_1MIN))
    assert len(windows) > 2
    with engine.begin() as connection:
        assert_adds_up(connection)
        assert all(status.complete for status in rollup_status(connection, GITHUB_ROLLUP_1MIN))
    assert list(backfill(engine, GITHUB_ROLLUP_1MIN)) == []


def test_a_database_without_the_rollup_is_named(engine: Engine, database: URL) -> None:
    downgrade(database, "ca_0001")
    with engine.connect() as connection, pytest.raises(RollupError, match="alembic upgrade head"):
        run_rollup(connection, GITHUB_ROLLUP_1MIN)


@pytest.mark.parametrize("at", ["infinity", "-infinity", "12026-03-01 12:00Z", "0044-03-15 BC"])
def test_times_that_python_does_not_know(connection: Connection, at: str) -> None:
    connection.execute(
        text("INSERT INTO github_events (event_id, user_id, created_at) VALUES (1, 1, :at)"),
        {"at": at},
    )
    add(connection, event(2))
    groups = 1 if "infinity" in at else 2
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    total = connection.execute(text("SELECT sum(total_events) FROM github_rollup_1min"))
    assert total.scalar_one() == groups


def test_a_session_that_knows_the_tables_by_another_bind(engine: Engine) -> None:
    binds: dict[Any, Engine | Connection] = {github_events: engine, github_rollup_1min: engine}
    with Session(binds=binds) as session:
        # Not flushed yet: what the session holds is rolled up as well.
        session.add(GithubEvent(event_id=1, event_type="PushEvent", user_id=1, created_at=NOON))
        run_rollup(session, GITHUB_ROLLUP_1MIN)


def test_a_connection_that_translates_schemas(connection: Connection) -> None:
    add(connection, event(1))
    connection.execute(text("SET LOCAL search_path TO pg_catalog"))
    with connection.begin_nested() as savepoint:
        with pytest.raises(RollupError):
            run_rollup(connection, GITHUB_ROLLUP_1MIN)
        savepoint.rollback()
    elsewhere = connection.execution_options(schema_translate_map={None: "public"})
    run_rollup(elsewhere, GITHUB_ROLLUP_1MIN)
