"""The types that the public functions promise.

mypy checks the promises; they are never called. The types of the analytics are in
`test_queries.py`.
"""

from __future__ import annotations

import dataclasses
import typing
from datetime import datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any, assert_type

import pytest
from alembic.config import Config
from sqlalchemy import URL, Select, Table, select

import citus_analytics as ca
from citus_analytics import migrations
from citus_analytics.migrations import Job, RollupSpec, database_url, op
from citus_analytics.rollups.sql import RollupSql, render
from citus_analytics.server import Binaries, EmbeddedServer, find_binaries

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, scoped_session


def rollups(connection: Connection, session: Session, rollup: ca.Rollup, *, wait: bool) -> None:
    # Only who does not wait has to think of None.
    assert_type(ca.run_rollup(session, ca.GITHUB_ROLLUP_1MIN), ca.RollupRun)
    assert_type(ca.run_rollup(connection, rollup), ca.RollupRun)
    assert_type(ca.run_rollup(session, ca.GITHUB_ROLLUP_1MIN, wait=True), ca.RollupRun)
    assert_type(ca.run_rollup(session, ca.GITHUB_ROLLUP_1MIN, wait=False), ca.RollupRun | None)
    assert_type(ca.run_rollup(session, rollup, wait=wait), ca.RollupRun | None)
    run = ca.run_rollup(session, ca.GITHUB_ROLLUP_1MIN)
    assert_type(run.groups_written, int)
    assert_type(run.groups_removed, int)
    assert_type(run.since, datetime | None)
    assert_type(run.until, datetime | None)


def loading(connection: Connection, session: Session, path: Path) -> None:
    assert_type(ca.load_events(connection, path), ca.LoadResult)
    assert_type(ca.load_users(session, "-", progress=print), ca.LoadResult)
    assert_type(ca.load_csv(connection, ca.github_users, [b"1,a"]), ca.LoadResult)
    with path.open("rb") as file:
        result = ca.load_events(session, file, progress=lambda progress: progress.rows)
    assert_type(result.rows, int)
    assert_type(result.bytes, int)


def loading_in_a_scope(scope: scoped_session[Session], path: Path) -> None:
    assert_type(ca.load_events(scope, path), ca.LoadResult)


def progress_of_loading(progress: ca.Progress) -> None:
    assert_type(progress.bytes, int)
    assert_type(progress.rows, int)
    assert_type(progress.total_bytes, int | None)


def questions(session: Session) -> None:
    for hour in ca.commits_per_hour(session):
        assert_type(hour, ca.HourlyCommits)
    for creator in ca.top_repository_creators(session, limit=None):
        assert_type(creator, ca.RepositoryCreator)
    for activity in ca.most_active_users(session):
        assert_type(activity, ca.UserActivity)
    rows = session.execute(ca.most_active_users_statement()).all()
    user_id, _, total = rows[0]
    assert_type(user_id, int | None)
    assert_type(total, int)


def models(event: ca.GithubEvent) -> None:
    assert_type(event.user_id, int | None)
    assert_type(event.payload, dict[str, Any] | None)
    assert_type(event.created_at, datetime | None)
    statement = select(ca.GithubEvent.user_id, ca.GithubEvent.created_at)
    assert_type(statement, Select[int | None, datetime | None])
    assert_type(ca.github_events, Table)


def declarations(table: Table, rollup: ca.Rollup) -> None:
    assert_type(ca.distribution_of(table), ca.Distributed | ca.Reference | ca.Local)
    assert_type(ca.declared_distribution(table), ca.Distributed | ca.Reference | ca.Local | None)
    assert_type(ca.declare_rollup(rollup), ca.Rollup)
    assert_type(ca.rollups_of(table.metadata), tuple[ca.Rollup, ...])
    assert_type([ca.count("n"), ca.total("s", "size")], list[ca.Measure])
    assert_type(render(RollupSpec.of(rollup)), RollupSql)


def migrating(url: URL, connection: Connection, rollup: ca.Rollup, moment: datetime) -> None:
    assert_type(database_url("postgresql://db"), URL)
    assert_type(migrations.configuration(connection), Config)
    migrations.upgrade(url, citus="require")
    migrations.downgrade("postgresql://db", "-1", citus="skip")
    # `op` knows Alembic's operations and ours.
    assert_type(op.create_table("t"), Table)
    op.create_distributed_table("t", "id", colocate_with="u")
    op.create_reference_table("t", schema="s")
    op.undistribute_table("t", was=ca.Reference())
    op.create_distributed_table("t", None)
    op.create_distributed_table_concurrently("t", "id", colocate_with="none", shard_count=8)
    op.alter_distributed_table("t", shard_count=8, was=ca.Distributed(column="id", shard_count=4))
    op.create_time_partitions("t", "1 day", moment, start_from=moment)
    op.create_time_partitions("t", timedelta(days=1), moment)
    op.isolate_tenant_to_new_shard("t", 7, cascade=True)
    op.schedule("nightly", "0 3 * * *", "SELECT 1")
    op.unschedule("nightly", was=Job("0 3 * * *", "SELECT 1"))
    spec = RollupSpec.of(rollup)
    op.create_rollup_function(spec, version=1)
    op.replace_rollup_function(spec, version=2, was_spec=spec, was_version=1)
    op.drop_rollup_function(spec, version=2)


def servers() -> None:
    assert_type(find_binaries(), Binaries)
    with EmbeddedServer() as server:
        assert_type(server, EmbeddedServer)
        assert_type(server.url, URL)
        assert_type(server.pid, int)


def wrong_calls(session: Session, rollup: ca.Rollup) -> None:
    """What mypy must refuse; it complains of an ignore that is not needed."""
    ca.run_rollup(session, rollup, False)  # type: ignore[call-overload]
    ca.load_events(session, 7)  # type: ignore[arg-type]
    ca.count_events(session, since="2026-01-01")  # type: ignore[arg-type]
    migrations.upgrade("postgresql://db", citus="perhaps")  # type: ignore[arg-type]
    op.create_distributed_table("t")  # type: ignore[call-arg]
    op.create_distributed_table("t", "id", distribution_type="list")  # type: ignore[arg-type]
    op.create_distributed_table_concurrently("t", None)  # type: ignore[arg-type]
    ca.run_rollup(session, ca.GITHUB_ROLLUP_1MIN, wait=False).groups_written  # type: ignore[union-attr]  # noqa: B018


DATACLASSES = [
    value
    for value in (*map(vars(ca).get, ca.__all__), RollupSpec, RollupSql)
    if isinstance(value, type) and dataclasses.is_dataclass(value)
]


def test_there_are_results_to_look_at() -> None:
    assert {ca.RollupRun, ca.LoadResult, ca.UserActivity} <= set(DATACLASSES)


@pytest.mark.parametrize(
    "result", [ca.RollupRun, ca.LoadResult, ca.Progress, ca.HourlyCommits, ca.UserActivity]
)
def test_programs_can_ask_for_the_types_of_results(result: type) -> None:
    """Serialisers such as pydantic resolve annotations at run time."""
    hints = typing.get_type_hints(result)
    assert set(hints) == {field.name for field in dataclasses.fields(result)}


@pytest.mark.parametrize("kind", DATACLASSES)
def test_public_dataclasses_are_frozen_and_slotted(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)


def test_everything_that_the_package_promises_is_there() -> None:
    assert len(ca.__all__) == len(set(ca.__all__))
    assert [name for name in ca.__all__ if not hasattr(ca, name)] == []


def test_the_package_says_that_it_is_typed() -> None:
    assert (files(ca) / "py.typed").is_file()
