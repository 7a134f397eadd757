"""A Citus of one node, most people's first: `CREATE EXTENSION citus`, and nothing else.

The coordinator has the shards itself, and hides them from its clients.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text

from citus_analytics import (
    GITHUB_ROLLUP_1MIN,
    Base,
    catalog,
    commits_per_hour,
    count_events,
    rollups_of,
    run_rollup,
    top_repository_creators,
)
from citus_analytics.__main__ import main
from citus_analytics.github.migrate import downgrade, upgrade
from citus_analytics.rollups.run import verify
from tests.autogenerate import Application, differences
from tests.event_data import NOON, api_event
from tests.rollups import add, assert_adds_up, event
from tests.servers import ON_SINGLE_NODE_CITUS, SHARD_COUNT, execute

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Connection

pytestmark = ON_SINGLE_NODE_CITUS

EVENTS = 700
USERS = 7


def address(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def hour(tmp_path: Path) -> Path:
    """An hour of events, one of which created a repository."""
    created = api_event(0, type="CreateEvent", payload={"ref_type": "repository"})
    events = [created, *(api_event(number) for number in range(1, EVENTS))]
    path = tmp_path / "hour.json"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def distributed(connection: Connection) -> set[str]:
    return {
        table.name
        for table in catalog.tables(connection)
        if (table.kind, table.column, table.shard_count) == ("distributed", "user_id", SHARD_COUNT)
    }


def test_migrations_there_and_back(empty_database: URL) -> None:
    engine = create_engine(empty_database, poolclass=NullPool)
    upgrade(empty_database)
    with engine.connect() as connection:
        names = {"github_events", "github_users", "github_rollup_1min", "github_user_activity"}
        assert distributed(connection) >= names
        nodes = text("SELECT count(*), bool_and(shouldhaveshards) FROM pg_dist_node")
        assert tuple(connection.execute(nodes).one()) == (1, True)
    downgrade(empty_database)
    with engine.connect() as connection:
        names = {table.name for table in catalog.tables(connection) if table.extension is None}
        assert names == {"alembic_version"}
    upgrade(empty_database)


@pytest.mark.parametrize("connections", ["1", "3"])
def test_what_is_loaded_is_analyzed(
    database: URL, connection: Connection, hour: Path, connections: str
) -> None:
    url = address(database)
    command = [
        "load",
        "events",
        str(hour),
        "--connections",
        connections,
        "--database-url",
        url,
    ]
    assert main(command) == 0
    assert count_events(connection) == EVENTS
    # `api_event` gives every second event, and only a push, one commit.
    assert [(each.hour, each.commits) for each in commits_per_hour(connection)] == [
        (NOON, EVENTS // 2)
    ]
    assert [(each.login, each.repositories) for each in top_repository_creators(connection)] == [
        ("user-1", 1)
    ]
    users = connection.execute(text("SELECT count(*) FROM github_users")).scalar_one()
    assert users == USERS
    connection.rollback()
    assert main(command) == 0
    assert count_events(connection) == EVENTS
    assert run_rollup(connection, GITHUB_ROLLUP_1MIN).changes > 0
    assert_adds_up(connection)
    connection.execute(text("UPDATE github_events SET event_type = 'X' WHERE user_id = 1"))
    connection.execute(text("DELETE FROM github_events WHERE user_id = 2"))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)
    for rollup in rollups_of(Base.metadata):
        assert [each for each in verify(connection, rollup) if each.groups] == []
    connection.execute(text("TRUNCATE github_events"))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)


def test_the_status(database: URL, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json", "--database-url", address(database)]) == 0
    document = json.loads(capsys.readouterr().out)
    (node,) = document["nodes"]
    assert (node["reachable"], node["shards"]) == (True, 20 * SHARD_COUNT)
    (events,) = [table for table in document["tables"] if table["name"] == "github_events"]
    assert (events["kind"], events["column"], events["shard_count"]) == (
        "distributed",
        "user_id",
        SHARD_COUNT,
    )
    assert document["findings"] == []
    assert main(["status", "--database-url", address(database)]) == 0
    assert "Nothing needs attention." in capsys.readouterr().out


@pytest.mark.parametrize(
    "setting", ["citus.override_table_visibility=off", "citus.show_shards_for_app_name_prefixes=*"]
)
def test_shards_that_are_shown_are_not_dropped(database: URL, setting: str) -> None:
    url = database.update_query_dict({"options": f"-c {setting} -c application_name=somebody"})
    with create_engine(url, poolclass=NullPool).connect() as connection:
        shown = text("SELECT count(*) FROM pg_class WHERE relname ~ '^github_users_[0-9]+$'")
        assert connection.execute(shown).scalar_one() == SHARD_COUNT
    assert differences(url, Base.metadata) == []


def test_a_single_postgresql_outgrows_its_machine(application: Application) -> None:
    execute(application.url, "DROP EXTENSION citus CASCADE")
    application.revise(Base.metadata)
    application.upgrade()
    with create_engine(application.url, poolclass=NullPool).begin() as connection:
        add(connection, event(1), event(2))
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        add(connection, event(2), event(3))
    execute(application.url, "CREATE EXTENSION citus")
    application.revise(Base.metadata)
    application.upgrade()
    assert differences(application.url, Base.metadata) == []
    with create_engine(application.url, poolclass=NullPool).begin() as connection:
        assert distributed(connection) >= {"github_events", "github_users", "github_rollup_1min"}
        add(connection, event(1))
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        assert_adds_up(connection)
