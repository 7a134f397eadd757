"""The tutorial's story on a migrated database, its SQL verbatim beside the typed functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from citus_analytics.github.analytics import (
    commits_per_hour,
    count_events,
    most_active_users,
    top_repository_creators,
)
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.rollups.run import repair, run_rollup, verify
from tests import tutorial
from tests.programs import psql
from tests.rollups import add, assert_adds_up, event
from tests.tutorial_data import write_csvs

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Connection

    from tests.servers import DatabaseServer


def rows(connection: Connection, statement: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(text(statement.replace(":", "\\:")))]


def test_the_tutorial_end_to_end(
    server: DatabaseServer, database: URL, connection: Connection, tmp_path: Path
) -> None:
    events = write_csvs(tmp_path)
    printed = psql(
        server,
        database,
        tutorial.COPY + tutorial.COUNT + tutorial.INITIALIZE + tutorial.RUN,
        cwd=tmp_path,
    )
    assert printed.split() == [str(events)]
    assert_adds_up(connection)

    assert rows(connection, tutorial.COUNT) == [(count_events(connection),)]
    hours = [(row.hour, row.commits) for row in commits_per_hour(connection)]
    assert hours == rows(connection, tutorial.COMMITS_PER_HOUR)
    assert len(hours) > 1
    creators = [(row.login, row.repositories) for row in top_repository_creators(connection)]
    # The tutorial leaves the order of equals open.
    verbatim = rows(connection, tutorial.REPOSITORY_CREATORS)
    assert sorted(creators) == sorted(verbatim)
    assert [count for _, count in creators] == [count for _, count in verbatim]
    assert creators
    active = [row.events for row in most_active_users(connection)]
    assert active == [total for _, _, total in rows(connection, tutorial.MOST_ACTIVE_USERS)]


def test_the_tutorials_own_function_can_still_be_put_in(
    server: DatabaseServer, database: URL, connection: Connection
) -> None:
    """Not that anybody should; but `CREATE OR REPLACE` must find the same name and type."""
    add(connection, event(1), event(2))
    connection.commit()
    psql(server, database, tutorial.INITIALIZE + tutorial.FUNCTION + tutorial.RUN)
    assert_adds_up(connection)
    # It has added what the log holds too: that is found, and mended.
    add(connection, event(1))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert sum(each.groups for each in verify(connection, GITHUB_ROLLUP_1MIN)) > 0
    repair(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)
