"""The built-in models: what applications and Alembic see of them without a database."""

from __future__ import annotations

import pytest
from sqlalchemy import Table, inspect
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.orm import configure_mappers
from sqlalchemy.schema import CreateIndex

from citus_analytics.github.models import (
    GITHUB_ROLLUP_1MIN,
    Base,
    GithubEvent,
    GithubRollup1Min,
    GithubUser,
    LatestRollup,
    github_events,
    github_rollup_1min,
    github_users,
    latest_rollup,
)
from citus_analytics.rollups.declare import rollups_of
from citus_analytics.schema import Distributed, Local, distribution_of

DIALECT = psycopg.dialect()  # type: ignore[no-untyped-call]


def test_the_tutorials_tables_and_those_that_loading_needs() -> None:
    tutorials = [github_events, github_users, github_rollup_1min, latest_rollup]
    of_loading = ["github_user_origins", "loaded_files", "followed_feeds"]
    of_rollups = {
        table.name for rollup in rollups_of(Base.metadata) for table in rollup.targets.values()
    }
    names = {*(table.name for table in tutorials), *of_loading}
    assert {*Base.metadata.tables} == names | of_rollups


@pytest.mark.parametrize("table", [github_events, github_users, github_rollup_1min])
def test_distributed_tables_have_no_key_that_the_tutorial_has_not(table: Table) -> None:
    assert [*table.primary_key] == []
    assert all(column.nullable for column in table.columns)
    assert table.constraints == {table.primary_key}


@pytest.mark.parametrize(
    ("model", "identity"),
    [
        (GithubEvent, ["event_id", "user_id"]),
        (GithubUser, ["user_id"]),
        (GithubRollup1Min, ["event_type", "repo_id", "user_id", "ingest_time"]),
        (LatestRollup, ["minute"]),
    ],
)
def test_the_orm_tells_rows_apart(model: type[Base], identity: list[str]) -> None:
    configure_mappers()
    assert [column.name for column in inspect(model).primary_key] == identity


def test_distribution_stands_beside_the_tables() -> None:
    assert distribution_of(github_events) == Distributed(column="user_id")
    colocated = Distributed(column="user_id", colocate_with="github_events")
    assert distribution_of(github_users) == colocated
    assert distribution_of(github_rollup_1min) == colocated
    assert distribution_of(latest_rollup) == Local()


def test_the_rollup_is_declared() -> None:
    assert GITHUB_ROLLUP_1MIN in rollups_of(Base.metadata)
    assert GITHUB_ROLLUP_1MIN.name == "github_rollup_1min"
    assert GITHUB_ROLLUP_1MIN.function == "rollup_http_request"
    assert GITHUB_ROLLUP_1MIN.key == "user_id"


def test_indexes() -> None:
    found = {
        str(index.name): str(CreateIndex(index).compile(dialect=DIALECT))
        for table in (github_events, github_users, github_rollup_1min, latest_rollup)
        for index in table.indexes
    }
    assert found == {
        "event_type_index": "CREATE INDEX event_type_index ON github_events (event_type)",
        "payload_index": "CREATE INDEX payload_index ON github_events "
        "USING gin (payload jsonb_path_ops)",
        "created_at_index": "CREATE INDEX created_at_index ON github_events (created_at)",
        "github_users_key": "CREATE UNIQUE INDEX github_users_key ON github_users (user_id)",
        "github_users_login_index": "CREATE INDEX github_users_login_index ON github_users "
        "(left(login, 100))",
        "github_rollup_1min_group_index": "CREATE UNIQUE INDEX github_rollup_1min_group_index "
        "ON github_rollup_1min (user_id, ingest_time, event_type, repo_id) NULLS NOT DISTINCT",
    }


def test_no_json_is_null_and_not_the_json_null() -> None:
    for name in ("payload", "repo", "org"):
        type_ = github_events.columns[name].type
        process = type_.dialect_impl(DIALECT).bind_processor(DIALECT)
        assert process is not None
        assert process(None) is None
