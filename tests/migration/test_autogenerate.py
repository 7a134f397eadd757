"""What autogenerate and `alembic check` make of models, and of what was changed by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    MetaData,
    Table,
    Text,
)

from citus_analytics.rollups.declare import Rollup, count, declare_rollup, maximum
from citus_analytics.schema import Distributed, Local, Reference, distribute
from tests.autogenerate import Application, differences, found, migrated
from tests.servers import ON_CITUS_ONLY, execute, query_text

if TYPE_CHECKING:
    import pytest
    from sqlalchemy import URL

    from citus_analytics.rollups.declare import Measure


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


def with_rollup(*measures: Measure) -> MetaData:
    metadata, source = clicks()
    Index("clicks_user_id_at", source.c.user_id, source.c.at)
    target = Table(
        "clicks_hourly",
        metadata,
        Column("user_id", BigInteger),
        Column("hour", DateTime(timezone=True)),
        Column("clicks", BigInteger),
        Column("last", DateTime(timezone=True)),
        Index(
            "clicks_hourly_key",
            "user_id",
            "hour",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
    )
    state = Table("clicks_latest", metadata, Column("at", DateTime(timezone=True)))
    distribute(source, Distributed(column="user_id"))
    distribute(target, Distributed(column="user_id", colocate_with="clicks"))
    distribute(state, Local())
    if measures:
        declare_rollup(
            Rollup(
                source=source,
                target=target,
                state=state,
                function="roll_up_clicks",
                time_column="at",
                bucket=timedelta(hours=1),
                bucket_column="hour",
                dimensions=("user_id",),
                measures=measures,
            )
        )
    return metadata


def rolled_up(url: URL) -> str:
    execute(url, "SELECT roll_up_clicks()")
    return query_text(
        url,
        "SELECT string_agg(concat(clicks, ' ', extract(minute FROM last)), ',') FROM clicks_hourly",
    )


def test_a_rollup_comes_changes_and_goes(application: Application) -> None:
    metadata = with_rollup(count("clicks"))
    assert migrated(application, metadata).count("op.create_rollup_function(") == 1
    execute(
        application.url,
        "INSERT INTO clicks SELECT 1, 'page', timestamptz '2026-03-01 12:00Z' + i * interval "
        "'1 minute' FROM generate_series(1, 30) AS i",
    )
    assert rolled_up(application.url) == "30 "
    changed = with_rollup(count("clicks"), maximum("last", "at"))
    assert migrated(application, changed).count("op.replace_rollup_function(") == 2
    assert rolled_up(application.url) == "30 30"
    assert migrated(application, with_rollup()).count("op.drop_rollup_function(") == 1
    application.downgrade()
    assert differences(application.url, changed) == []
    assert rolled_up(application.url) == "30 30"
    application.downgrade("base")
    remaining = "SELECT count(*) FROM pg_class WHERE relname LIKE 'clicks%%'"
    assert query_text(application.url, remaining) == "0"


@ON_CITUS_ONLY
def test_a_rollup_follows_its_tables(application: Application) -> None:
    metadata = with_rollup(count("clicks"))
    migrated(application, metadata)
    execute(application.url, "INSERT INTO clicks VALUES (1, 'page', '2026-03-01 12:00Z')")
    execute(
        application.url,
        "SET citus.enable_unsafe_triggers TO on",
        "SELECT undistribute_table('clicks')",
    )
    source = migrated(application, metadata)
    assert source.index("op.drop_rollup_function(") < source.index("op.create_distributed_table(")
    execute(application.url, "INSERT INTO clicks VALUES (1, 'page', '2026-03-01 12:00Z')")
    assert rolled_up(application.url) == "2 "


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
