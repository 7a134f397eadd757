"""`alembic check` names what was changed by hand, and autogenerate brings it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text

from citus_analytics import GITHUB_ROLLUP_1MIN, Base
from citus_analytics.rollups.run import repair as mend
from tests.autogenerate import differences, found, repair
from tests.rollups import add, assert_adds_up, event
from tests.servers import ON_CITUS_ONLY, execute

if TYPE_CHECKING:
    from sqlalchemy import URL

DRIFT = {
    "SELECT undistribute_table('github_user_origins')": {
        ("create_distributed_table", "github_user_origins")
    },
    # A unique index has the distribution column: Citus changes no column under it.
    "DROP INDEX github_repositories_created_key; "
    "SELECT alter_distributed_table('github_repositories_created', "
    "distribution_column => 'repositories')": {
        ("alter_distributed_table", "github_repositories_created"),
        ("add_index", "github_repositories_created_key"),
        # Its triggers' functions name the column.
        ("drop_rollups", "github_events"),
        ("create_rollups", "github_events"),
    },
    "SELECT alter_distributed_table('github_user_origins', shard_count => 3, "
    "cascade_to_colocated => false)": {("alter_distributed_table", "github_user_origins")},
    "SELECT create_reference_table('latest_rollup')": {("undistribute_table", "latest_rollup")},
}


@ON_CITUS_ONLY
@pytest.mark.parametrize("by_hand", DRIFT)
def test_distribution_that_was_changed_by_hand(database: URL, by_hand: str) -> None:
    execute(database, *by_hand.split("; "))
    differences = found(database, Base.metadata)
    assert {(what, str(getattr(on, "name", on))) for what, on in differences} == DRIFT[by_hand]
    assert len(differences) == len(DRIFT[by_hand])


# Citus wants it in the session, PostgreSQL takes it for anybody's setting.
UNSAFE = "SET citus.enable_unsafe_triggers TO on"
ROLLUP_DRIFT = {
    "CREATE OR REPLACE FUNCTION rollup_http_request() RETURNS void LANGUAGE sql AS ''": (
        "function rollup_http_request has been changed"
    ),
    "DROP FUNCTION rollup_http_request()": "function rollup_http_request is missing",
    f"{UNSAFE}; DROP TRIGGER github_events_capture_update ON github_events": (
        "trigger github_events_capture_update on github_events is missing or disabled"
    ),
    f"{UNSAFE}; ALTER TABLE github_events DISABLE TRIGGER github_events_capture_insert": (
        "trigger github_events_capture_insert on github_events is missing or disabled"
    ),
}


@pytest.mark.parametrize("by_hand", ROLLUP_DRIFT)
def test_a_rollup_that_was_changed_by_hand(database: URL, by_hand: str) -> None:
    engine = create_engine(database, poolclass=NullPool)
    with engine.begin() as connection:
        add(connection, event(1), event(2))
    execute(database, *by_hand.split("; "))
    dropped, created = differences(database, Base.metadata)
    assert dropped[:2] == ("drop_rollups", "github_events")
    assert created[:2] == ("create_rollups", "github_events")
    assert ROLLUP_DRIFT[by_hand] in created
    with engine.begin() as connection:
        add(connection, event(3), event(1))

    repair(database, Base.metadata)
    assert differences(database, Base.metadata) == []
    with engine.begin() as connection:
        mend(connection, GITHUB_ROLLUP_1MIN)
        connection.execute(text("SELECT rollup_http_request()"))
        assert_adds_up(connection)


@ON_CITUS_ONLY
def test_what_was_changed_by_hand_is_brought_back(database: URL) -> None:
    for by_hand in DRIFT:
        execute(database, *by_hand.split("; "))
        repair(database, Base.metadata)
        assert differences(database, Base.metadata) == []
