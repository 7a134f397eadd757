"""Rollups whose machinery was broken by hand are created anew, and add up again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text

from citus_analytics import GITHUB_ROLLUP_1MIN, Base, rollups_of
from citus_analytics.errors import OperationError
from citus_analytics.migrations import (
    AlterDistributedTableOp,
    CreateRollupsOp,
    DropRollupsOp,
    UndistributeTableOp,
)
from citus_analytics.rollups.declare import specs_of
from citus_analytics.rollups.run import repair as mend
from citus_analytics.rollups.run import verify
from citus_analytics.schema import Distributed
from tests.autogenerate import differences, repair
from tests.operations import rows, run
from tests.rollups import add, assert_adds_up, event, rolled_up_groups
from tests.servers import ON_CITUS_ONLY, ON_POSTGRESQL_ONLY, SHARD_COUNT

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

SPEC, _ = specs_of(Base.metadata)
CAPTURE = "github_events_capture"
RUN = text("SELECT rollup_http_request()")


@pytest.fixture
def rolled_up(connection: Connection) -> Connection:
    """A connection to some events that have been rolled up, and some that have not."""
    add(connection, *(event(user) for user in range(20)))
    connection.execute(RUN)
    add(connection, *(event(user) for user in range(5)))
    connection.commit()
    return connection


def unsafely(connection: Connection, statement: str) -> None:
    """Do what somebody has done by hand."""
    connection.execute(text("SET LOCAL citus.enable_unsafe_triggers = on"))
    connection.execute(text("SET LOCAL citus.multi_shard_modify_mode = 'sequential'"))
    connection.execute(text(statement))
    connection.commit()


def assert_everything_adds_up(connection: Connection) -> None:
    assert_adds_up(connection)
    for rollup in rollups_of(Base.metadata):
        assert [each for each in verify(connection, rollup) if each.groups] == []


def test_created_anew_under_another_name_and_back(rolled_up: Connection) -> None:
    other = replace(SPEC, functions=('Roll "it" up',))
    run(rolled_up, DropRollupsOp(SPEC, keep_state=True), CreateRollupsOp(other, again=True))
    rolled_up.commit()
    rolled_up.execute(text("""SELECT "Roll ""it"" up"()"""))
    assert_everything_adds_up(rolled_up)
    add(rolled_up, event(3), event(99))
    rolled_up.commit()
    run(
        rolled_up,
        CreateRollupsOp(other, again=True).reverse(),
        DropRollupsOp(SPEC, keep_state=True).reverse(),
    )
    rolled_up.commit()
    rolled_up.execute(RUN)
    assert_everything_adds_up(rolled_up)
    assert rows(rolled_up, """SELECT FROM pg_proc WHERE proname = 'Roll "it" up'""") == []


@pytest.mark.parametrize("event_", ["insert", "update", "delete", "truncate"])
def test_missing_triggers(event_: str, database: URL, rolled_up: Connection) -> None:
    unsafely(rolled_up, f"DROP TRIGGER {CAPTURE}_{event_} ON github_events")
    missed = {
        "insert": "INSERT INTO github_events SELECT * FROM github_events WHERE user_id < 9",
        "update": "UPDATE github_events SET repo_id = 2 WHERE user_id < 9",
        "delete": "DELETE FROM github_events WHERE user_id < 9",
        "truncate": "TRUNCATE github_events",
    }
    rolled_up.execute(text(missed[event_]))
    rolled_up.commit()
    assert sum(each.groups for each in verify(rolled_up, GITHUB_ROLLUP_1MIN)) > 0
    rolled_up.commit()
    repair(database, Base.metadata)
    assert differences(database, Base.metadata) == []
    for rollup in rollups_of(Base.metadata):
        mend(rolled_up, rollup)
    rolled_up.commit()
    rolled_up.execute(RUN)
    assert_everything_adds_up(rolled_up)
    # And all is captured again.
    add(rolled_up, event(3), event(4))
    for statement in missed.values():
        rolled_up.execute(text(statement))
        rolled_up.commit()
        rolled_up.execute(RUN)
        assert_everything_adds_up(rolled_up)
        rolled_up.commit()
    assert rolled_up_groups(rolled_up) == {}


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize(
    "damage",
    [
        "CREATE OR REPLACE FUNCTION rollup_http_request() RETURNS void LANGUAGE sql AS 'SELECT'",
        "DROP FUNCTION rollup_http_request()",
        "DROP FUNCTION github_events_run",
        "DROP TABLE github_events_rollups",
        "DROP VIEW github_user_activity_fresh",
        "CREATE OR REPLACE VIEW github_user_activity_fresh AS "
        "SELECT bucket, user_id, events, 1 AS one FROM github_user_activity",
        "ALTER TABLE github_events_rollups DROP COLUMN horizon",
        "ALTER TRIGGER github_events_capture_insert ON github_events RENAME TO other",
        "COMMENT ON FUNCTION github_events_run IS NULL",
        f"CREATE OR REPLACE FUNCTION {CAPTURE}() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN RETURN NULL; END'",
    ],
)
def test_what_was_edited_by_hand_is_repaired(
    damage: str, database: URL, rolled_up: Connection
) -> None:
    damage_and_repair(damage, database, rolled_up)


@ON_CITUS_ONLY
@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE github_events_by_type_1_day_outbox",
        "DROP FUNCTION github_events_by_type_1_day_rows CASCADE",
        "DROP VIEW github_events_by_type_1_day_now",
        "DROP FUNCTION github_events_sibling",
    ],
)
def test_what_only_a_cluster_has_is_repaired(
    damage: str, database: URL, rolled_up: Connection
) -> None:
    damage_and_repair(damage, database, rolled_up)


def damage_and_repair(damage: str, database: URL, rolled_up: Connection) -> None:
    unsafely(rolled_up, damage)
    if "CREATE" in damage:
        add(rolled_up, event(77))
        rolled_up.commit()
    assert differences(database, Base.metadata) != []
    repair(database, Base.metadata)
    assert differences(database, Base.metadata) == []
    for rollup in rollups_of(Base.metadata):
        mend(rolled_up, rollup)
    rolled_up.execute(RUN)
    assert_everything_adds_up(rolled_up)


def test_a_log_that_is_gone_takes_its_writers_with_it_until_it_is_repaired(
    database: URL, rolled_up: Connection
) -> None:
    unsafely(rolled_up, "DROP TABLE github_events_log CASCADE")
    assert differences(database, Base.metadata) != []
    repair(database, Base.metadata)
    assert differences(database, Base.metadata) == []
    for rollup in rollups_of(Base.metadata):
        mend(rolled_up, rollup)
    rolled_up.execute(RUN)
    assert_everything_adds_up(rolled_up)


def test_what_is_pending_is_not_lost(rolled_up: Connection) -> None:
    # The log alone knows of these groups: no row is left.
    add(rolled_up, event(1, at=None), event(4))
    rolled_up.execute(RUN)
    rolled_up.execute(text("DELETE FROM github_events"))
    rolled_up.commit()
    run(rolled_up, DropRollupsOp(SPEC, keep_state=True), CreateRollupsOp(SPEC, again=True))
    rolled_up.execute(RUN)
    rolled_up.commit()
    assert rolled_up_groups(rolled_up) == {}
    assert_everything_adds_up(rolled_up)


@ON_CITUS_ONLY
def test_rollups_follow_a_change_of_the_shards(rolled_up: Connection) -> None:
    was = Distributed(column="user_id", shard_count=SHARD_COUNT)
    reshard = AlterDistributedTableOp(
        "github_events", shard_count=6, cascade_to_colocated=True, was=was
    )
    for operation in (reshard, reshard.reverse()):
        run(
            rolled_up,
            DropRollupsOp(SPEC, keep_state=True),
            operation,
            CreateRollupsOp(SPEC, again=True),
        )
        rolled_up.commit()
        add(rolled_up, *(event(user) for user in range(20)))
        rolled_up.execute(RUN)
        assert_everything_adds_up(rolled_up)
        rolled_up.commit()


@ON_CITUS_ONLY
def test_shards_change_under_the_rollups(database: URL, rolled_up: Connection) -> None:
    was = Distributed(column="user_id", shard_count=SHARD_COUNT)
    reshard = AlterDistributedTableOp(
        "github_events", shard_count=6, cascade_to_colocated=True, was=was
    )
    for operation in (reshard, reshard.reverse()):
        run(rolled_up, operation)
        rolled_up.commit()
        assert differences(database, Base.metadata) == []
        add(rolled_up, *(event(user) for user in range(20)))
        rolled_up.execute(RUN)
        assert_everything_adds_up(rolled_up)
        rolled_up.commit()


@ON_CITUS_ONLY
def test_a_source_that_leaves_its_rollups(database: URL, rolled_up: Connection) -> None:
    was = Distributed(column="user_id", shard_count=SHARD_COUNT)
    alone = AlterDistributedTableOp(
        "github_events", shard_count=6, cascade_to_colocated=False, was=was
    )
    target = AlterDistributedTableOp("github_rollup_1min", colocate_with="none", was=was)
    home = UndistributeTableOp("github_events", was=was)
    for operation in (alone, target, home):
        with pytest.raises(OperationError, match=r"from its rollups\. Put op\.drop_rollups"):
            run(rolled_up, operation)
        rolled_up.rollback()
    # Around it, as it says, or by hand.
    unsafely(rolled_up, "SELECT undistribute_table('github_events')")
    found = str(differences(database, Base.metadata))
    assert "not on shards, as when its rollups were created" in found
    rolled_up.commit()
    repair(database, Base.metadata)
    assert differences(database, Base.metadata) == []
    add(rolled_up, *(event(user) for user in range(20)))
    rolled_up.execute(RUN)
    assert_everything_adds_up(rolled_up)


def test_rollups_go_and_come_back(database: URL, rolled_up: Connection) -> None:
    run(rolled_up, DropRollupsOp(SPEC))
    rolled_up.commit()
    assert_adds_up(rolled_up)
    rolled_up.execute(text("DELETE FROM github_events WHERE user_id = 3"))
    rolled_up.commit()
    run(rolled_up, DropRollupsOp(SPEC).reverse())
    rolled_up.commit()
    engine = create_engine(database, poolclass=NullPool)
    for rollup in rollups_of(Base.metadata):
        with engine.begin() as connection:
            mend(connection, rollup)
    assert_everything_adds_up(rolled_up)
