"""What a rollup is refused for before anything of it is created."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import NullPool, create_engine

from citus_analytics.errors import OperationError
from citus_analytics.migrations import (
    CreateDistributedTableOp,
    CreateRollupsOp,
    RollupSpec,
    TargetSpec,
)
from citus_analytics.schema import Distributed
from tests.servers import ON_CITUS_ONLY

if TYPE_CHECKING:
    from sqlalchemy import URL

SPEC = RollupSpec(
    source="visits",
    key="site",
    time="at",
    columns={"page": "r.page"},
    targets=(
        TargetSpec(
            rollup="visits_hourly",
            table="visits_hourly",
            every="1 hour",
            bucket="hour",
            by={"site": "key", "page": "page"},
            rows="visits",
            visible={"visits": '"visits"::bigint'},
        ),
    ),
)
SOURCE = "CREATE TABLE visits (site bigint, page text, at timestamptz)"
TARGET = (
    "CREATE TABLE visits_hourly (site bigint, page text, hour timestamptz, "
    "visits bigint DEFAULT 0 NOT NULL)"
)
INDEX = "CREATE UNIQUE INDEX ON visits_hourly (site, hour, page) NULLS NOT DISTINCT"


def create(
    url: URL,
    *statements: str,
    target: Distributed | None = None,
    isolation_level: str = "READ COMMITTED",
) -> None:
    """Create a rollup of tables that the statements create."""
    engine = create_engine(url, poolclass=NullPool, isolation_level=isolation_level)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
        operations = Operations(MigrationContext.configure(connection))
        beside = Distributed(column="site", colocate_with="visits")
        for table, distribution in (
            ("visits", Distributed(column="site")),
            ("visits_hourly", target or beside),
        ):
            operations.invoke(CreateDistributedTableOp.of(table, distribution))
        operations.invoke(CreateRollupsOp(SPEC))


@pytest.mark.parametrize(
    "index",
    [
        "SELECT 1",
        "CREATE INDEX ON visits_hourly (site, hour, page)",
        "CREATE UNIQUE INDEX ON visits_hourly (site, hour, page)",
        "CREATE UNIQUE INDEX ON visits_hourly (site, hour) INCLUDE (page) NULLS NOT DISTINCT",
        "CREATE UNIQUE INDEX ON visits_hourly (site, hour, page) NULLS NOT DISTINCT WHERE site > 0",
    ],
)
def test_a_target_that_may_have_two_rows_of_a_group(empty_database: URL, index: str) -> None:
    with pytest.raises(OperationError, match=r'needs a unique index on "site", "page", "hour" '):
        create(empty_database, SOURCE, TARGET, index)


def test_a_key_whose_columns_cannot_be_null(empty_database: URL) -> None:
    key = "ALTER TABLE visits_hourly ADD PRIMARY KEY (page, site, hour)"
    create(empty_database, SOURCE, TARGET, key)


@pytest.mark.parametrize("statement", [SOURCE, TARGET])
def test_times_without_a_zone(empty_database: URL, statement: str) -> None:
    statements = [
        one.replace("timestamptz", "timestamp") if one == statement else one
        for one in (SOURCE, TARGET, INDEX)
    ]
    with pytest.raises(OperationError, match="must be a timestamp with time zone"):
        create(empty_database, *statements)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_old_snapshot(empty_database: URL, level: str) -> None:
    with pytest.raises(OperationError, match="under READ COMMITTED"):
        create(empty_database, SOURCE, TARGET, INDEX, isolation_level=level)


@ON_CITUS_ONLY
@pytest.mark.xfail(strict=True, reason="it is not looked at")
@pytest.mark.parametrize(
    "target", [Distributed(column="site", colocate_with="none"), Distributed(column="page")]
)
def test_a_target_on_other_shards(empty_database: URL, target: Distributed) -> None:
    with pytest.raises(OperationError, match='colocated with its source "visits"'):
        create(empty_database, SOURCE, TARGET, INDEX, target=target)
