"""Corners of autogenerate: explicit schemas, tables kept alone, other plugins, tenants."""

from __future__ import annotations

from typing import Any

from alembic.operations.ops import CreateTableOp, DropTableOp, ExecuteSQLOp
from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, MetaData, Table

from citus_analytics.migrations.compare import Declared, Live, plan
from citus_analytics.schema import Distributed, Reference, distribute
from tests.autogenerate import Application, differences, migrated
from tests.servers import ON_CITUS_ONLY, execute, query_text


def table(metadata: MetaData, name: str, *constraints: Any) -> Table:
    return Table(
        name,
        metadata,
        Column("tenant", BigInteger, primary_key=True),
        Column("id", BigInteger, primary_key=True),
        Column("other", BigInteger),
        *constraints,
    )


def test_the_default_schema_by_its_name(application: Application) -> None:
    metadata = MetaData(schema="public")
    distribute(table(metadata, "plans"), Reference())
    distribute(table(metadata, "orders"), Distributed(column="tenant"))
    migrated(application, metadata)
    migrated(application, MetaData())
    application.downgrade()
    assert differences(application.url, metadata) == []
    application.downgrade("base")


@ON_CITUS_ONLY
def test_a_table_that_is_kept_alone_may_be_followed(application: Application) -> None:
    metadata = MetaData()
    distribute(table(metadata, "a"), Distributed(column="tenant", colocate_with="none"))
    distribute(table(metadata, "b"), Distributed(column="tenant", colocate_with="a"))
    distribute(table(metadata, "c"), Distributed(column="tenant"))
    migrated(application, metadata)


@ON_CITUS_ONLY
def test_a_table_that_joins_others_by_its_number_of_shards_leaves_them_again(
    application: Application,
) -> None:
    before, after = MetaData(), MetaData()
    for metadata, shard_count in ((before, None), (after, 2)):
        distribute(table(metadata, "a"), Distributed(column="tenant", shard_count=2))
        distribute(table(metadata, "b"), Distributed(column="tenant", shard_count=shard_count))
    migrated(application, before)
    migrated(application, after)
    groups = "SELECT count(DISTINCT colocation_id) FROM citus_tables"
    assert query_text(application.url, groups) == "1"
    application.downgrade()
    assert differences(application.url, before) == []
    shards = "SELECT string_agg(shard_count::text, ' ' ORDER BY table_name::text) FROM citus_tables"
    assert query_text(application.url, shards) == "2 4"
    application.downgrade("base")


@ON_CITUS_ONLY
def test_a_table_of_a_distributed_schema(application: Application) -> None:
    execute(application.url, "CREATE SCHEMA tenant", "SELECT citus_schema_distribute('tenant')")
    metadata = MetaData(schema="tenant")
    table(metadata, "t")
    table(metadata, "u")
    migrated(application, metadata)
    smaller = MetaData(schema="tenant")
    table(smaller, "u")
    migrated(application, smaller)
    application.downgrade()
    assert differences(application.url, metadata) == []
    colocated = "SELECT count(DISTINCT colocation_id) FROM citus_tables"
    assert query_text(application.url, colocated) == "1"


def test_operations_of_other_plugins_stay_before_or_after_the_tables() -> None:
    first, last = ExecuteSQLOp("CREATE TYPE mood"), ExecuteSQLOp("DROP TYPE mood")
    create, drop = CreateTableOp("made", []), DropTableOp("gone")
    operations = plan([first, create, drop, last], Declared(), Live(citus=False))
    assert operations == [first, create, drop, last]


@ON_CITUS_ONLY
def test_a_repair_is_harmless_in_a_chain_that_starts_from_scratch(
    application: Application,
) -> None:
    metadata = MetaData()
    distribute(table(metadata, "clicks"), Distributed(column="tenant", shard_count=4))
    distribute(table(metadata, "plans"), Reference())
    migrated(application, metadata)
    execute(
        application.url,
        "SELECT undistribute_table('clicks')",
        "SELECT undistribute_table('plans')",
    )
    migrated(application, metadata)
    application.downgrade("base")
    application.upgrade()
    assert differences(application.url, metadata) == []


def test_a_dropped_table_that_refers_to_one_that_stays(application: Application) -> None:
    metadata = MetaData()
    table(metadata, "a")
    table(metadata, "b", ForeignKeyConstraint(["tenant", "other"], ["a.tenant", "a.id"]))
    migrated(application, metadata)
    smaller = MetaData()
    table(smaller, "a")
    migrated(application, smaller)
    application.downgrade()
    assert differences(application.url, metadata) == []


@ON_CITUS_ONLY
def test_names_that_come_back_are_not_made_again(application: Application) -> None:
    def shop(shard_count: int) -> MetaData:
        convention = {"fk": "fk_%(table_name)s_%(constraint_name)s"}
        metadata = MetaData(naming_convention=convention)
        distribute(table(metadata, "a"), Distributed(column="tenant", shard_count=shard_count))
        key = ForeignKeyConstraint(["tenant", "other"], ["a.tenant", "a.id"], name="parent")
        distribute(table(metadata, "b", key), Distributed(column="tenant", colocate_with="a"))
        return metadata

    migrated(application, shop(6))
    migrated(application, shop(4))
    application.downgrade()
    assert differences(application.url, shop(6)) == []
