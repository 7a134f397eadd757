"""What depends on a table that Citus makes anew: it is still there, or nothing has happened."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine

from citus_analytics.errors import OperationError
from citus_analytics.migrations import (
    AddLocalTableToMetadataOp,
    AlterDistributedTableOp,
    AlterTableSetAccessMethodOp,
    CitusOperation,
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    DistributeSchemaOp,
    UndistributeSchemaOp,
    UndistributeTableOp,
)
from tests.operations import rows, run
from tests.servers import ON_CITUS_ONLY, execute, query_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

    from tests.servers import DatabaseServer

pytestmark = ON_CITUS_ONLY

ROLES = "CREATE ROLE reader", "CREATE ROLE keeper", "CREATE ROLE outsider"
SHOP = """
CREATE SCHEMA "org:acme";
GRANT USAGE, CREATE ON SCHEMA "org:acme" TO keeper;
SET search_path TO "org:acme";
CREATE TABLE "T 1%" (tenant bigint NOT NULL, id bigint NOT NULL, "no:te" text, n int,
  PRIMARY KEY (tenant, id), CONSTRAINT positive CHECK (id > 0));
CREATE TABLE lines (tenant bigint, id bigint);
INSERT INTO "T 1%" SELECT i, i FROM generate_series(1, 20) AS i;
CREATE INDEX by_note ON "T 1%" ("no:te");
CREATE STATISTICS both_of_them ON tenant, id FROM "T 1%";
GRANT SELECT ON "T 1%" TO reader;
GRANT UPDATE (n) ON "T 1%" TO reader;
ALTER TABLE "T 1%" ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_them ON "T 1%" FOR SELECT TO reader USING (true);
COMMENT ON TABLE "T 1%" IS 'it''s a "table": %s';
COMMENT ON COLUMN "T 1%"."no:te" IS 'a column';
COMMENT ON INDEX by_note IS 'an index';
COMMENT ON CONSTRAINT positive ON "T 1%" IS 'a constraint';
COMMENT ON STATISTICS both_of_them IS 'statistics';
COMMENT ON POLICY all_of_them ON "T 1%" IS 'a policy';
ALTER DEFAULT PRIVILEGES IN SCHEMA "org:acme" GRANT SELECT ON TABLES TO outsider;
CREATE VIEW v WITH (security_barrier) AS SELECT * FROM "T 1%";
REVOKE ALL ON v FROM outsider;
GRANT SELECT ON v TO reader WITH GRANT OPTION;
GRANT UPDATE (n) ON v TO PUBLIC;
ALTER VIEW v OWNER TO keeper;
COMMENT ON VIEW v IS 'a view';
COMMENT ON COLUMN v.n IS 'a column of a view';
CREATE VIEW above AS SELECT n, count(*) AS many FROM v GROUP BY n;
CREATE RULE nothing AS ON INSERT TO above DO INSTEAD NOTHING;
COMMENT ON RULE nothing ON above IS 'a rule';
CREATE MATERIALIZED VIEW kept WITH (fillfactor = 70) AS
  SELECT "no:te", count(*) AS many FROM "T 1%" GROUP BY 1;
CREATE UNIQUE INDEX kept_key ON kept ("no:te");
CREATE INDEX kept_many ON kept (many) WHERE many > 3;
CREATE STATISTICS of_kept ON "no:te", many FROM kept;
COMMENT ON MATERIALIZED VIEW kept IS 'a materialized view';
COMMENT ON INDEX kept_key IS 'its index';
GRANT SELECT ON kept TO reader;
ALTER MATERIALIZED VIEW kept CLUSTER ON kept_key;
ALTER MATERIALIZED VIEW kept ALTER COLUMN many SET STATISTICS 33;
CREATE MATERIALIZED VIEW empty AS SELECT n FROM "T 1%" WITH NO DATA;
"""
SCHEMA = "org:acme"
TABLE = "T 1%"
QUOTED = '"org:acme"."T 1%"'

STATE = """
WITH c AS (SELECT * FROM pg_class WHERE relnamespace = '"org:acme"'::regnamespace
           AND relname !~ '_1[0-9]{5}$')
SELECT 'comment', i.type, i.identity, d.description
FROM pg_description AS d, LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) AS i
WHERE i.identity LIKE '%org:acme%' AND i.identity !~ '_1[0-9]{5}'
UNION ALL SELECT 'class', relname, concat_ws(' ', relkind, relowner::regrole, reloptions,
  relispopulated, relrowsecurity), array(SELECT x::text FROM unnest(coalesce(relacl,
  acldefault('r', relowner))) AS x ORDER BY 1)::text FROM c WHERE relkind IN ('r', 'p', 'v', 'm')
UNION ALL SELECT 'column', relname, attname, concat(attacl, ' ', attstattarget) FROM c
  JOIN pg_attribute AS a ON attrelid = c.oid WHERE attnum > 0 AND relkind IN ('r', 'p', 'v', 'm')
UNION ALL SELECT 'index', relname, pg_get_indexdef(indexrelid), indisclustered::text
  FROM pg_index AS i JOIN c ON c.oid = i.indexrelid
UNION ALL SELECT 'rule', relname, pg_get_ruledef(w.oid), '' FROM pg_rewrite AS w JOIN c
  ON c.oid = ev_class
UNION ALL SELECT 'statistics', '', pg_get_statisticsobjdef(oid), '' FROM pg_statistic_ext
  WHERE stxrelid IN (SELECT oid FROM c)
ORDER BY 1, 2, 3, 4
"""


@pytest.fixture(scope="module")
def shop(server: DatabaseServer) -> Iterator[URL]:
    with server.database("empty") as url:
        execute(url, "CREATE EXTENSION citus_columnar", *ROLES)
        yield url
        execute(url, "DROP OWNED BY keeper, reader, outsider", "DROP ROLE keeper, reader, outsider")


@pytest.fixture
def connection(shop: URL) -> Iterator[Connection]:
    """A connection to a table with everything that can depend on it."""
    engine = create_engine(shop, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in SHOP.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement.replace("%", "%%"), ())
        connection.exec_driver_sql("SET search_path TO public")
        yield connection
        connection.exec_driver_sql('DROP SCHEMA "org:acme" CASCADE')


distribute = CreateDistributedTableOp(TABLE, "tenant", shard_count=4, schema=SCHEMA)
beside = CreateDistributedTableOp("lines", "tenant", colocate_with=TABLE, schema=SCHEMA)
undistribute = UndistributeTableOp(TABLE, schema=SCHEMA)


@pytest.mark.parametrize(
    ("operation", "before"),
    [
        (AlterDistributedTableOp(TABLE, shard_count=6, schema=SCHEMA), [distribute]),
        (
            AlterDistributedTableOp(TABLE, column="id", schema=SCHEMA),
            [distribute],
        ),
        (
            AlterDistributedTableOp(
                "lines", shard_count=6, cascade_to_colocated=True, schema=SCHEMA
            ),
            [distribute, beside],
        ),
        (undistribute, [distribute]),
        (undistribute, [CreateReferenceTableOp(TABLE, schema=SCHEMA)]),
        (undistribute, [AddLocalTableToMetadataOp(TABLE, schema=SCHEMA)]),
        (AlterTableSetAccessMethodOp(TABLE, "columnar", schema=SCHEMA), []),
        (AddLocalTableToMetadataOp(TABLE, schema=SCHEMA), []),
        (AddLocalTableToMetadataOp(TABLE, cascade=True, schema=SCHEMA), []),
        (DistributeSchemaOp(SCHEMA), []),
        (UndistributeSchemaOp(SCHEMA), [DistributeSchemaOp(SCHEMA)]),
    ],
    ids=lambda value: value.function if isinstance(value, CitusOperation) else "",
)
def test_what_depends_on_a_table_outlives_it(
    operation: CitusOperation, before: list[CitusOperation], connection: Connection
) -> None:
    state = rows(connection, STATE)
    run(connection, *before, operation)
    assert rows(connection, STATE) == state
    # Done is done, and nothing is lost by doing it again.
    run(connection, operation)
    assert rows(connection, STATE) == state


@pytest.mark.parametrize(
    ("lost", "drop", "described"),
    [
        (
            f"CREATE FUNCTION f({QUOTED}) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            f"DROP FUNCTION f({QUOTED})",
            r'function f\("org:acme"."T 1%"\)',
        ),
        (
            f"CREATE FUNCTION f() RETURNS SETOF {QUOTED} LANGUAGE sql AS 'SELECT * FROM {QUOTED}'",
            "DROP FUNCTION f()",
            r"function f\(\)",
        ),
        (
            "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql "
            'RETURN (SELECT max(many) FROM "org:acme".above)',
            "DROP FUNCTION f()",
            r"function f\(\)",
        ),
        (
            f"CREATE TABLE holder (one {QUOTED}, many {QUOTED}[])",
            "DROP TABLE holder",
            "column many of table holder, column one of table holder",
        ),
        (f"CREATE DOMAIN d AS {QUOTED}", "DROP DOMAIN d", "type d"),
        (
            "CREATE TABLE other (n int); CREATE POLICY p ON other "
            'USING (n IN (SELECT n FROM "org:acme".v))',
            "DROP TABLE other",
            "policy p on table other",
        ),
    ],
)
def test_what_cannot_be_brought_back_is_named(
    lost: str, drop: str, described: str, connection: Connection
) -> None:
    run(connection, distribute)
    for statement in lost.split("; "):
        connection.exec_driver_sql(statement.replace("%", "%%"), ())
    state = rows(connection, STATE)
    message = rf"^undistribute_table drops what depends .* not be brought back: {described}\. Drop"
    with pytest.raises(OperationError, match=message):
        run(connection, undistribute)
    assert rows(connection, STATE) == state
    connection.exec_driver_sql(drop.replace("%", "%%"), ())
    run(connection, undistribute)
    assert rows(connection, STATE) == state


@pytest.mark.parametrize("table", ["orders", "lines"])
def test_a_foreign_key_is_not_dropped_in_passing(table: str, empty_database: URL) -> None:
    execute(
        empty_database,
        "CREATE TABLE orders (tenant bigint PRIMARY KEY, parent bigint)",
        "CREATE TABLE plans (id bigint PRIMARY KEY)",
        "CREATE TABLE lines (tenant bigint, plan bigint REFERENCES plans)",
        "SELECT create_reference_table('plans')",
        "SELECT create_distributed_table('orders', 'tenant')",
        "SELECT create_distributed_table('lines', 'tenant')",
        "ALTER TABLE lines ADD FOREIGN KEY (tenant) REFERENCES orders",
    )
    message = "drops the foreign key lines_tenant_fkey of table lines: .* Drop it before"
    alter = AlterDistributedTableOp(table, shard_count=6, cascade_to_colocated=False)
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        with pytest.raises(OperationError, match=message):
            run(connection, alter)
        connection.rollback()
        alter.cascade_to_colocated = True
        run(connection, alter)
        keys = rows(connection, "SELECT FROM pg_constraint WHERE conrelid = 'lines'::regclass")
        assert len(keys) == 2


def test_partitions_keep_their_comments(empty_database: URL) -> None:
    execute(
        empty_database,
        "CREATE TABLE days (tenant bigint, at date) PARTITION BY RANGE (at)",
        "CREATE TABLE day PARTITION OF days FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')",
        "CREATE INDEX by_day ON days (at)",
        "COMMENT ON TABLE day IS 'one'",
        "COMMENT ON COLUMN day.at IS 'two'",
        "COMMENT ON INDEX by_day IS 'three'",
        "CREATE VIEW of_a_day AS SELECT * FROM day",
        "COMMENT ON VIEW of_a_day IS 'four'",
    )
    comments = (
        "SELECT string_agg(description, ' ' ORDER BY description) FROM pg_description "
        "WHERE description IN ('one', 'two', 'three', 'four')"
    )
    with create_engine(empty_database, poolclass=NullPool).begin() as connection:
        run(connection, CreateDistributedTableOp("days", "tenant", shard_count=4))
        run(connection, AlterDistributedTableOp("days", shard_count=6), UndistributeTableOp("days"))
    assert query_text(empty_database, comments) == "four one three two"


def test_the_details_of_a_notice_are_logged(
    empty_database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    execute(
        empty_database,
        "CREATE TABLE clicks (tenant bigint)",
        "CREATE VIEW one AS SELECT * FROM clicks",
        "CREATE VIEW two AS SELECT * FROM clicks",
        "SELECT create_distributed_table('clicks', 'tenant')",
    )
    with create_engine(empty_database, poolclass=NullPool).begin() as connection:
        run(connection, UndistributeTableOp("clicks"))
    assert "\nDETAIL: drop cascades to view one\ndrop cascades to view two" in caplog.text
