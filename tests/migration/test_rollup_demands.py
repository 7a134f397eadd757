"""What a rollup is refused for before anything of it is created."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import NullPool, create_engine

from citus_analytics.errors import OperationError
from citus_analytics.migrations import (
    AddLocalTableToMetadataOp,
    CitusOperation,
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    CreateRollupsOp,
    DistributeSchemaOp,
    RollupSpec,
    TargetSpec,
)
from citus_analytics.schema import Distributed, Reference
from tests.servers import ON_CITUS_ONLY, ON_POSTGRESQL_ONLY

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
BY_SITE = Distributed("site")
BESIDE = Distributed("site", colocate_with="visits")
UNKEYED = replace(SPEC, targets=(replace(SPEC.targets[0], by={"page": "page"}, keyed=False),))
SOURCE = "CREATE TABLE visits (site bigint, page text, at timestamptz, data json)"
TARGET = (
    "CREATE TABLE visits_hourly (site bigint, page text, hour timestamptz, "
    "visits bigint DEFAULT 0 NOT NULL)"
)
INDEX = "CREATE UNIQUE INDEX ON visits_hourly (site, hour, page) NULLS NOT DISTINCT"


def create(
    url: URL,
    *statements: str,
    source: Distributed | Reference | None = BY_SITE,
    target: Distributed | Reference | None = BESIDE,
    spec: RollupSpec = SPEC,
    isolation_level: str = "READ COMMITTED",
) -> None:
    """Create a rollup of tables that the statements create."""
    engine = create_engine(url, poolclass=NullPool, isolation_level=isolation_level)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
        operations = Operations(MigrationContext.configure(connection))
        for table, distribution in (("visits", source), ("visits_hourly", target)):
            match distribution:
                case Distributed():
                    operations.invoke(CreateDistributedTableOp.of(table, distribution))
                case Reference():
                    operations.invoke(CreateReferenceTableOp(table))
        operations.invoke(CreateRollupsOp(spec))


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
    source = SOURCE.replace("bigint", "bigint NOT NULL").replace("text", "text NOT NULL")
    key = "ALTER TABLE visits_hourly ADD PRIMARY KEY (page, site, hour)"
    create(empty_database, source, TARGET, key)


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
@pytest.mark.parametrize(
    "target",
    [
        Distributed(column="site", colocate_with="none"),
        Distributed(column="page"),
        Reference(),
        None,
    ],
)
def test_a_target_on_other_shards(
    empty_database: URL, target: Distributed | Reference | None
) -> None:
    with pytest.raises(OperationError, match='colocated with its source "visits"'):
        create(empty_database, SOURCE, TARGET, INDEX, target=target)


@ON_CITUS_ONLY
@pytest.mark.parametrize("target", [Distributed(column="page"), None])
def test_a_target_without_the_key_that_is_no_reference_table(
    empty_database: URL, target: Distributed | None
) -> None:
    index = "CREATE UNIQUE INDEX ON visits_hourly (page, hour) NULLS NOT DISTINCT"
    with pytest.raises(OperationError, match="must be a reference table"):
        create(empty_database, SOURCE, TARGET, index, target=target, spec=UNKEYED)


@ON_CITUS_ONLY
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "must be local like its source"),
        (Reference(), "is a reference table"),
        (Distributed("page"), "is distributed by page, and its rollups were declared for site"),
    ],
)
def test_a_source_on_other_shards(
    empty_database: URL, source: Distributed | Reference | None, message: str
) -> None:
    with pytest.raises(OperationError, match=message):
        create(empty_database, SOURCE, TARGET, INDEX, source=source, target=Distributed("site"))


# Statements after the tables have been created, and the message.
UNFIT = {
    "columnar target": (
        (
            "CREATE EXTENSION IF NOT EXISTS citus_columnar",
            "DROP TABLE visits_hourly",
            f"{TARGET} USING columnar",
        ),
        "row storage, not a columnar one",
    ),
    "unlogged target": (("ALTER TABLE visits_hourly SET UNLOGGED",), "not an unlogged one"),
    "partitioned target": (
        ("DROP TABLE visits_hourly", f"{TARGET} PARTITION BY RANGE (site)", INDEX),
        "not a partitioned one",
    ),
    "unlogged source": (("ALTER TABLE visits SET UNLOGGED",), "visits is unlogged"),
    "unlogged partition": (
        (
            "DROP TABLE visits",
            f"{SOURCE} PARTITION BY RANGE (site)",
            "CREATE UNLOGGED TABLE visits_1 PARTITION OF visits FOR VALUES FROM (1) TO (9)",
        ),
        "visits_1 is unlogged",
    ),
    "view": (
        ("ALTER TABLE visits RENAME TO v", "CREATE VIEW visits AS SELECT * FROM v"),
        '"visits" is a view',
    ),
    "materialized view": (
        ("ALTER TABLE visits RENAME TO v", "CREATE MATERIALIZED VIEW visits AS SELECT * FROM v"),
        '"visits" is a materialized view',
    ),
    "foreign table": (
        (
            "CREATE EXTENSION file_fdw",
            "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
            "DROP TABLE visits",
            SOURCE.replace("CREATE", "CREATE FOREIGN")
            + " SERVER files OPTIONS (filename '/dev/null')",
        ),
        '"visits" is a foreign table',
    ),
    "foreign partition": (
        (
            "CREATE EXTENSION file_fdw",
            "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
            "DROP TABLE visits",
            f"{SOURCE} PARTITION BY RANGE (site)",
            "CREATE FOREIGN TABLE visits_1 PARTITION OF visits FOR VALUES FROM (1) TO (9) "
            "SERVER files OPTIONS (filename '/dev/null')",
        ),
        'partition visits_1 of "visits" is a foreign table',
    ),
    "partition": (
        (
            "ALTER TABLE visits RENAME TO visits_1",
            f"{SOURCE.replace('visits', 'parent')} PARTITION BY RANGE (site)",
            "ALTER TABLE visits_1 RENAME TO visits",
            "ALTER TABLE parent ATTACH PARTITION visits DEFAULT",
        ),
        '"visits" is a partition of parent',
    ),
    "parent": (
        ("CREATE TABLE child () INHERITS (visits)",),
        "child inherits from visits",
    ),
    "child": (
        (SOURCE.replace("visits", "parent"), "ALTER TABLE visits INHERIT parent"),
        "visits inherits from parent",
    ),
    "column of the source": (("ALTER TABLE visits DROP COLUMN page",), "has no column page"),
    "column of the target": (
        ("ALTER TABLE visits_hourly DROP COLUMN visits",),
        'rollup table "visits_hourly" has no column visits',
    ),
    "no source": (("DROP TABLE visits",), 'there is no table "visits"'),
    "no target": (("DROP TABLE visits_hourly",), 'there is no table "visits_hourly"'),
    "NOT NULL": (
        ("ALTER TABLE visits_hourly ADD COLUMN extra text NOT NULL",),
        "column extra of rollup table .* has no default",
    ),
    "NOT NULL dimension": (
        ("ALTER TABLE visits_hourly ALTER COLUMN page SET NOT NULL",),
        "column page of rollup table .* is NOT NULL",
    ),
    "generated": (
        (
            "ALTER TABLE visits_hourly DROP COLUMN visits",
            "ALTER TABLE visits_hourly ADD visits bigint GENERATED ALWAYS AS (1) STORED",
        ),
        "visits of rollup table .* is generated",
    ),
    "check": (
        ("ALTER TABLE visits_hourly ADD CHECK (visits > 0)",),
        "constraint visits_hourly_visits_check of visits_hourly could refuse",
    ),
    "foreign key": (
        (
            "CREATE TABLE sites (id bigint PRIMARY KEY)",
            "ALTER TABLE visits_hourly ADD FOREIGN KEY (site) REFERENCES sites",
        ),
        "constraint visits_hourly_site_fkey of visits_hourly could refuse",
    ),
    "foreign key of another": (
        (
            "ALTER TABLE visits_hourly ADD UNIQUE (site, hour, page, visits)",
            "CREATE TABLE notes (a bigint, b timestamptz, c text, d bigint, FOREIGN KEY "
            "(a, b, c, d) REFERENCES visits_hourly (site, hour, page, visits))",
        ),
        "constraint notes_a_b_c_d_fkey of notes could refuse",
    ),
    "exclusion": (
        ("ALTER TABLE visits_hourly ADD EXCLUDE USING btree (page WITH =)",),
        "must not have the index visits_hourly_page_excl",
    ),
    "narrower index": (
        ("CREATE UNIQUE INDEX old_shape ON visits_hourly (site, hour)",),
        "must not have the index old_shape",
    ),
    "index of an expression": (
        ("CREATE UNIQUE INDEX old_shape ON visits_hourly (lower(page))",),
        "must not have the index old_shape",
    ),
    "trigger": (
        (
            "CREATE TRIGGER checks BEFORE UPDATE ON visits_hourly FOR EACH ROW "
            "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        ),
        "trigger checks of rollup table",
    ),
    "rule": (
        ("CREATE RULE ignore AS ON INSERT TO visits_hourly DO INSTEAD NOTHING",),
        "rule ignore of rollup table",
    ),
    "log": (("CREATE TABLE visits_log ()",), "there is a relation visits_log already"),
    "state": (("CREATE TABLE visits_rollups ()",), "there is a relation visits_rollups already"),
    "fresh view": (
        ("CREATE VIEW visits_hourly_fresh AS SELECT 1",),
        "there is a relation visits_hourly_fresh already",
    ),
    "function": (
        ("CREATE FUNCTION visits_run(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",),
        "there is a function visits_run already",
    ),
}


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("unfit", [each for each in UNFIT if each != "columnar target"])
def test_tables_that_do_not_suit(empty_database: URL, unfit: str) -> None:
    statements, message = UNFIT[unfit]
    with pytest.raises(OperationError, match=message):
        create(empty_database, SOURCE, TARGET, INDEX, *statements, source=None, target=None)


@ON_CITUS_ONLY
def test_a_columnar_target(empty_database: URL) -> None:
    statements, message = UNFIT["columnar target"]
    with pytest.raises(OperationError, match=message):
        create(empty_database, SOURCE, TARGET, *statements, source=None, target=None)


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE visits_hourly ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "ALTER TABLE visits_hourly ADD COLUMN note text, ADD COLUMN at timestamptz NOT NULL "
        "DEFAULT now()",
        "ALTER TABLE visits ADD CHECK (page <> ''); "
        "ALTER TABLE visits_hourly ADD CHECK (page <> '')",
        "CREATE TRIGGER told AFTER INSERT ON visits_hourly FOR EACH STATEMENT "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE INDEX ON visits_hourly (visits)",
    ],
)
def test_a_target_with_more_than_it_needs(empty_database: URL, statement: str) -> None:
    create(empty_database, SOURCE, TARGET, INDEX, statement)


CHANGING = [
    "now()",
    "random()",
    "CURRENT_DATE",
    "clock_timestamp()",
    "CAST(r.at AS date)",
    "r.at::text",
    "date_trunc('day', r.at)",
    "extract(hour FROM r.at)",
    "to_char(r.at, 'YYYY')",
    "date_trunc('day', r.at, current_setting('TimeZone'))",
    "date_trunc('day', now(), 'Europe/Berlin')",
    "r.at || r.page",
    "volatile_by_default(r.page)",
]
SAME_FOREVER = [
    "date_trunc('day', r.at, 'Europe/Berlin')",
    "date_trunc('day', r.at AT TIME ZONE 'Europe/Berlin')",
    "extract(hour FROM r.at AT TIME ZONE 'UTC')",
    "(r.data ->> 'page')",
    "r.data -> 'page'",
    "r.site::text",
    "lower(r.page) || ' ' || r.site::text",
    "(r.page LIKE 'a%%') IS TRUE",
    "r.data::jsonb",
    "r.at > CAST('2026-01-01 00:00:00+00:00' AS timestamptz)",
    "immutable(r.page)",
]
FUNCTIONS = (
    "CREATE FUNCTION volatile_by_default(text) RETURNS text LANGUAGE plpgsql "
    "AS 'BEGIN RETURN $1; END'",
    "CREATE FUNCTION immutable(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
)


@pytest.mark.parametrize("sql", CHANGING)
def test_expressions_that_depend_on_more_than_the_row(empty_database: URL, sql: str) -> None:
    spec = replace(SPEC, columns={"page": sql})
    with pytest.raises(OperationError, match="depends on more than the row"):
        create(empty_database, *FUNCTIONS, SOURCE, TARGET, INDEX, spec=spec)


@pytest.mark.parametrize("sql", SAME_FOREVER)
def test_expressions_of_the_row(empty_database: URL, sql: str) -> None:
    # As a filter, whose type does not matter to the target.
    spec = replace(SPEC, columns={"page": "r.page", "value": sql.replace("%%", "%")})
    create(empty_database, *FUNCTIONS, SOURCE, TARGET, INDEX, spec=spec)


@ON_CITUS_ONLY
@pytest.mark.parametrize(
    "operation",
    [
        CreateDistributedTableOp.of("visits", BY_SITE),
        CreateDistributedTableOp.of("visits_hourly", BY_SITE),
        CreateReferenceTableOp("visits_hourly"),
        AddLocalTableToMetadataOp("visits"),
        DistributeSchemaOp("public"),
    ],
)
def test_tables_that_are_distributed_after_their_rollups(
    empty_database: URL, operation: CitusOperation
) -> None:
    create(empty_database, SOURCE, TARGET, INDEX, source=None, target=None)
    with create_engine(empty_database, poolclass=NullPool).begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        with pytest.raises(OperationError, match="would part table visits from its rollups"):
            operations.invoke(operation)
