"""What autogenerate and `alembic check` make of models, and of what was changed by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    MetaData,
    Table,
    Text,
)

from citus_analytics.rollups.declare import Rollup, count
from citus_analytics.schema import Distributed, Reference, distribute
from tests.autogenerate import Application, differences, found, migrated
from tests.servers import ON_CITUS_ONLY, execute, query_text

if TYPE_CHECKING:
    import pytest
    from sqlalchemy import URL


def clicks(**options: Any) -> tuple[MetaData, Table]:
    metadata = MetaData()
    table = Table(
        "clicks",
        metadata,
        Column("user_id", BigInteger),
        Column("page", Text),
        Column("at", DateTime(timezone=True)),
        **options,
    )
    return metadata, table


@ON_CITUS_ONLY
def test_what_is_not_declared_is_left_alone(application: Application) -> None:
    metadata, _ = clicks()
    migrated(application, metadata)
    execute(application.url, "CREATE EXTENSION citus_columnar")
    for by_hand in (
        "SELECT create_distributed_table('clicks', 'user_id')",
        "SELECT alter_table_set_access_method('clicks', 'columnar')",
    ):
        execute(application.url, by_hand)
        assert differences(application.url, metadata) == []


@ON_CITUS_ONLY
def test_tables_without_a_model_of_their_own_are_never_dropped(application: Application) -> None:
    metadata, table = clicks(postgresql_partition_by="RANGE (at)")
    distribute(table, Distributed(column="user_id"))
    migrated(application, metadata)
    execute(
        application.url,
        "CREATE EXTENSION citus_columnar",
        "SELECT create_time_partitions('clicks', '1 day', '2026-03-03', '2026-03-01')",
        "SELECT alter_table_set_access_method('clicks_p2026_03_01', 'columnar')",
        "INSERT INTO clicks SELECT i, 'page', '2026-03-01' FROM generate_series(1, 100) AS i",
        "CREATE EXTENSION pg_stat_statements",
    )
    assert differences(application.url, metadata) == []


@ON_CITUS_ONLY
def test_tables_are_stored_as_they_are_declared(application: Application) -> None:
    execute(application.url, "CREATE EXTENSION citus_columnar")
    metadata, table = clicks(postgresql_using="columnar")
    distribute(table, Distributed(column="user_id"))
    source = migrated(application, metadata)
    assert "postgresql_using" not in source
    assert "op.alter_table_set_access_method('clicks', 'columnar'" in source
    migrated(application, MetaData())
    application.downgrade()
    assert access_method(application.url) == "columnar"


@ON_CITUS_ONLY
def test_storage_changes_there_and_back(application: Application) -> None:
    execute(application.url, "CREATE EXTENSION citus_columnar")
    metadata, _ = clicks(postgresql_using="heap")
    migrated(application, metadata)
    metadata, _ = clicks(postgresql_using="columnar")
    source = migrated(application, metadata)
    assert "op.alter_table_set_access_method('clicks', 'columnar', was='heap')" in source
    assert access_method(application.url) == "columnar"
    application.downgrade()
    assert access_method(application.url) == "heap"


def access_method(url: URL) -> str:
    return query_text(
        url,
        "SELECT amname FROM pg_class JOIN pg_am ON pg_am.oid = relam WHERE relname = 'clicks'",
    )


def with_rollup() -> MetaData:
    metadata, source = clicks()
    distribute(source, Distributed(column="user_id"))
    Rollup(
        "clicks_hourly",
        source,
        time="at",
        every="1 hour",
        by=["user_id"],
        measures={"clicks": count()},
        function="roll_up_clicks",
    )
    return metadata


def rolled_up(url: URL) -> str:
    execute(url, "SELECT roll_up_clicks()")
    return query_text(url, "SELECT string_agg(clicks::text, ',') FROM clicks_hourly")


@ON_CITUS_ONLY
def test_a_rollup_follows_its_tables(application: Application) -> None:
    metadata = with_rollup()
    migrated(application, metadata)
    execute(application.url, "INSERT INTO clicks VALUES (1, 'page', '2026-03-01 12:00Z')")
    execute(
        application.url,
        "SET citus.enable_unsafe_triggers TO on",
        "SELECT undistribute_table('clicks')",
    )
    source = migrated(application, metadata)
    assert source.index("op.drop_rollups(") < source.index("op.create_distributed_table(")
    execute(application.url, "INSERT INTO clicks VALUES (1, 'page', '2026-03-01 12:00Z')")
    assert rolled_up(application.url) == "2"


@ON_CITUS_ONLY
def test_the_environments_own_filters_are_honoured(application: Application) -> None:
    metadata, table = clicks()
    distribute(table, Reference())
    migrated(application, metadata)
    execute(application.url, "SELECT undistribute_table('clicks')")
    assert differences(application.url, metadata, include_object=lambda *_: False) == []
    assert found(application.url, metadata) == [("create_reference_table", "clicks")]


@ON_CITUS_ONLY
def test_a_table_with_rows_is_not_distributed_without_a_warning(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    metadata, table = clicks()
    migrated(application, metadata)
    distribute(table, Distributed(column="user_id"))
    application.revise(metadata)
    assert "writers wait" not in caplog.text
    execute(
        application.url,
        "INSERT INTO clicks SELECT i, 'page', now() FROM generate_series(1, 1000) AS i",
        "ANALYZE clicks",
    )
    assert found(application.url, metadata) == [("create_distributed_table", "clicks")]
    assert "create_distributed_table moves about 1000 rows of clicks" in caplog.text
