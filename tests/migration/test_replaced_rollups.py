"""A rollup whose function is replaced, or repaired, adds up after the next run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from citus_analytics.errors import DeclarationError
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.migrations import (
    AlterDistributedTableOp,
    ReplaceRollupFunctionOp,
    RollupSpec,
)
from citus_analytics.schema import Distributed
from tests.operations import rows, run, values
from tests.rollups import add, assert_adds_up, event, rolled_up_groups
from tests.servers import ON_CITUS_ONLY, SHARD_COUNT

if TYPE_CHECKING:
    from sqlalchemy import Connection

SPEC = RollupSpec.of(GITHUB_ROLLUP_1MIN)
REPAIR = ReplaceRollupFunctionOp(SPEC, version=1, was_spec=SPEC, was_version=1)
RENAMED = replace(SPEC, function='Roll "it" up')
CAPTURE = "github_rollup_1min_capture"


@pytest.fixture
def rolled_up(connection: Connection) -> Connection:
    """A connection to some events that have been rolled up, and some that have not."""
    add(connection, *(event(user) for user in range(20)))
    connection.execute(text("SELECT rollup_http_request()"))
    add(connection, *(event(user) for user in range(5)))
    connection.commit()
    return connection


def unsafely(connection: Connection, statement: str) -> None:
    """Do what somebody has done by hand."""
    connection.execute(text("SET LOCAL citus.enable_unsafe_triggers = on"))
    connection.execute(text("SET LOCAL citus.multi_shard_modify_mode = 'sequential'"))
    connection.execute(text(statement))
    connection.commit()


def test_replaced_and_back(rolled_up: Connection) -> None:
    operation = ReplaceRollupFunctionOp(RENAMED, version=1, was_spec=SPEC, was_version=1)
    run(rolled_up, operation)
    rolled_up.commit()
    rolled_up.execute(text("""SELECT "Roll ""it"" up"()"""))
    assert_adds_up(rolled_up)
    add(rolled_up, event(3), event(99))
    rolled_up.commit()
    run(rolled_up, operation.reverse())
    rolled_up.commit()
    rolled_up.execute(text("SELECT rollup_http_request()"))
    assert_adds_up(rolled_up)
    assert values(operation.reverse().reverse()) == values(operation)
    assert rows(rolled_up, """SELECT FROM pg_proc WHERE proname = 'Roll "it" up'""") == []


@pytest.mark.parametrize("event_", ["insert", "update", "delete", "truncate"])
def test_missing_triggers(event_: str, rolled_up: Connection) -> None:
    unsafely(rolled_up, f"DROP TRIGGER {CAPTURE}_{event_} ON github_events")
    missed = {
        "insert": "INSERT INTO github_events SELECT * FROM github_events WHERE user_id < 9",
        "update": "UPDATE github_events SET repo_id = 2 WHERE user_id < 9",
        "delete": "DELETE FROM github_events WHERE user_id < 9",
        "truncate": "DELETE FROM github_events WHERE user_id < 9",
    }
    rolled_up.execute(text(missed[event_]))
    rolled_up.commit()
    run(rolled_up, REPAIR)
    rolled_up.commit()
    rolled_up.execute(text("SELECT rollup_http_request()"))
    assert_adds_up(rolled_up)
    # And all is captured again.
    for statement in missed.values():
        rolled_up.execute(text(statement))
    rolled_up.commit()
    rolled_up.execute(text("SELECT rollup_http_request()"))
    assert_adds_up(rolled_up)
    rolled_up.execute(text("TRUNCATE github_events"))
    rolled_up.execute(text("SELECT rollup_http_request()"))
    assert rolled_up_groups(rolled_up) == {}


@pytest.mark.parametrize(
    "damage",
    [
        "CREATE OR REPLACE FUNCTION rollup_http_request() RETURNS void LANGUAGE sql AS 'SELECT'",
        "DROP FUNCTION rollup_http_request()",
        "DROP TABLE github_rollup_1min_changes",
        "DROP TABLE github_rollup_1min_outcome",
        f"CREATE OR REPLACE FUNCTION {CAPTURE}() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN RETURN NULL; END'",
    ],
)
def test_what_was_edited_by_hand_is_repaired(damage: str, rolled_up: Connection) -> None:
    unsafely(rolled_up, damage)
    if "CREATE" in damage:
        add(rolled_up, event(77))
        rolled_up.commit()
    run(rolled_up, REPAIR)
    rolled_up.commit()
    rolled_up.execute(text("SELECT rollup_http_request()"))
    assert_adds_up(rolled_up)


def test_what_waits_in_the_change_log_is_not_lost(rolled_up: Connection) -> None:
    # The log alone knows of this group: it is older than every row that is left.
    add(rolled_up, event(1, at=None), event(4))
    rolled_up.execute(text("SELECT rollup_http_request()"))
    rolled_up.execute(text("DELETE FROM github_events"))
    rolled_up.commit()
    run(rolled_up, REPAIR)
    rolled_up.execute(text("SELECT rollup_http_request()"))
    rolled_up.commit()
    assert rolled_up_groups(rolled_up) == {}


def test_groups_whose_rows_were_expired_stay(rolled_up: Connection) -> None:
    rolled_up.execute(text("SELECT rollup_http_request()"))
    before = rolled_up_groups(rolled_up)
    unsafely(rolled_up, f"DROP TRIGGER {CAPTURE}_delete ON github_events")
    rolled_up.execute(text("DELETE FROM github_events"))
    rolled_up.commit()
    run(rolled_up, REPAIR, REPAIR)
    rolled_up.execute(text("SELECT rollup_http_request()"))
    assert rolled_up_groups(rolled_up) == before


@ON_CITUS_ONLY
def test_the_triggers_outlive_a_change_of_the_shards(rolled_up: Connection) -> None:
    was = Distributed(column="user_id", shard_count=SHARD_COUNT)
    reshard = AlterDistributedTableOp(
        "github_events", shard_count=6, cascade_to_colocated=True, was=was
    )
    for operation in (reshard, reshard.reverse()):
        run(rolled_up, operation)
        rolled_up.commit()
        add(rolled_up, *(event(user) for user in range(20)))
        rolled_up.execute(text("SELECT rollup_http_request()"))
        assert_adds_up(rolled_up)
        rolled_up.commit()


@pytest.mark.parametrize("name", ["source", "target", "key", "key_type", "schema"])
def test_another_rollup_is_no_replacement(name: str) -> None:
    change: dict[str, Any] = {name: "another"}
    message = rf"cannot be replaced by one whose {name} is 'another', and not .* new target\.$"
    with pytest.raises(DeclarationError, match=message):
        ReplaceRollupFunctionOp(
            replace(SPEC, **change), version=1, was_spec=SPEC, was_version=1
        ).steps()
