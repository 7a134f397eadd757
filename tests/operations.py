"""Operations of every kind with what they need, and what a database has to tell about them."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from alembic.migration import MigrationContext
from alembic.operations import Operations

from citus_analytics.migrations import (
    AddLocalTableToMetadataOp,
    AlterDistributedTableOp,
    AlterTableSetAccessMethodOp,
    CitusOperation,
    CreateDistributedFunctionOp,
    CreateDistributedTableConcurrentlyOp,
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    CreateTimePartitionsOp,
    DistributeSchemaOp,
    DropOldTimePartitionsOp,
    IsolateTenantToNewShardOp,
    UndistributeSchemaOp,
    UndistributeTableOp,
    UpdateDistributedTableColocationOp,
)
from citus_analytics.schema import Distributed, Local, Reference

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation
    from sqlalchemy import Connection

    from citus_analytics.migrations import Policy

SHOP = "Web Shop"
# Names that break every text that does not quote them.
CLICKS = 'Clicks: 100% "it\'s"'
TENANT = "Tenant:Id"

SCHEMAS = f"""
CREATE SCHEMA "{SHOP}"; CREATE SCHEMA other; CREATE SCHEMA nothing;
CREATE TABLE "{SHOP}"."Clicks: 100% ""it's""\" ("{TENANT}" bigint PRIMARY KEY, n int);
INSERT INTO "{SHOP}"."Clicks: 100% ""it's""\" SELECT i, i FROM generate_series(1, 99) AS i;
CREATE TABLE "{SHOP}"."Beside" ("{TENANT}" bigint PRIMARY KEY, n int);
CREATE TABLE other."Beside" ("{TENANT}" bigint PRIMARY KEY, n int);
CREATE TABLE "{SHOP}"."By day" ("{TENANT}" bigint, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE "{SHOP}"."By day_p2019" PARTITION OF "{SHOP}"."By day"
  FOR VALUES FROM ('2019-01-01 00:00+00') TO ('2020-01-01 00:00+00');
CREATE FUNCTION "{SHOP}"."Add: 1%"("it's" bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
"""
DROP_SCHEMAS = f'DROP SCHEMA "{SHOP}" CASCADE; DROP SCHEMA other CASCADE; DROP SCHEMA nothing;'
FUNCTION = f'"{SHOP}"."Add: 1%"(bigint)'
DAY = timedelta(days=1)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)

BY_TENANT = Distributed(column=TENANT, shard_count=4)
ALONE = Distributed(column=TENANT, colocate_with="none", shard_count=4)
BESIDE = Distributed(column=TENANT, colocate_with="Beside", colocate_schema="other")

_clicks = CreateDistributedTableOp.of(CLICKS, ALONE, SHOP)
_beside = CreateDistributedTableOp.of(
    "Beside", Distributed(column=TENANT, colocate_with=CLICKS), SHOP
)
_other = CreateDistributedTableOp.of("Beside", ALONE, "other")
_function = CreateDistributedFunctionOp(
    FUNCTION,
    distribution_argument="it's",
    colocate_with="Beside",
    colocate_schema="other",
    force_delegation=True,
)


@dataclass(frozen=True, slots=True)
class Case:
    """An operation, and those that come before it."""

    operation: CitusOperation
    before: tuple[CitusOperation, ...] = ()


CASES = {
    "create_distributed_table": Case(CreateDistributedTableOp.of(CLICKS, BY_TENANT, SHOP)),
    "create_distributed_table, colocated": Case(
        CreateDistributedTableOp.of(CLICKS, BESIDE, SHOP), (_other,)
    ),
    "create_distributed_table, single shard": Case(
        CreateDistributedTableOp.of(CLICKS, Distributed(column=None), SHOP)
    ),
    "create_distributed_table_concurrently": Case(
        CreateDistributedTableConcurrentlyOp(
            CLICKS, TENANT, colocate_with="Beside", colocate_schema="other", schema=SHOP
        ),
        (_other,),
    ),
    "create_reference_table": Case(CreateReferenceTableOp(CLICKS, schema=SHOP)),
    "add_local_table_to_metadata": Case(
        AddLocalTableToMetadataOp(CLICKS, cascade=True, schema=SHOP)
    ),
    "undistribute_table": Case(UndistributeTableOp(CLICKS, was=ALONE, schema=SHOP), (_clicks,)),
    "undistribute_table, reference": Case(
        UndistributeTableOp(CLICKS, was=Reference(), schema=SHOP),
        (CreateReferenceTableOp(CLICKS, schema=SHOP),),
    ),
    "undistribute_table, local": Case(
        UndistributeTableOp(CLICKS, was=Local(), schema=SHOP),
        (AddLocalTableToMetadataOp(CLICKS, schema=SHOP),),
    ),
    "alter_distributed_table, shards of all": Case(
        AlterDistributedTableOp(
            CLICKS, shard_count=6, cascade_to_colocated=True, was=ALONE, schema=SHOP
        ),
        (_clicks, _beside),
    ),
    "alter_distributed_table, colocation": Case(
        AlterDistributedTableOp(
            CLICKS, colocate_with="Beside", colocate_schema="other", was=ALONE, schema=SHOP
        ),
        (
            CreateDistributedTableOp.of(
                "Beside", Distributed(column=TENANT, shard_count=6), "other"
            ),
            _clicks,
        ),
    ),
    "alter_table_set_access_method": Case(
        AlterTableSetAccessMethodOp("Beside", "columnar", was="heap", schema="other"), (_other,)
    ),
    "alter_table_set_access_method, partition": Case(
        AlterTableSetAccessMethodOp("By day_p2019", "columnar", was="heap", schema=SHOP)
    ),
    "update_distributed_table_colocation": Case(
        UpdateDistributedTableColocationOp(
            CLICKS, "Beside", colocate_schema="other", was="none", schema=SHOP
        ),
        (_clicks, _other),
    ),
    "isolate_tenant_to_new_shard": Case(
        IsolateTenantToNewShardOp(CLICKS, 7, cascade=True, schema=SHOP), (_clicks, _beside)
    ),
    "create_time_partitions": Case(
        CreateTimePartitionsOp("By day", DAY, NEW_YEAR + 3 * DAY, start_from=NEW_YEAR, schema=SHOP)
    ),
    "drop_old_time_partitions": Case(DropOldTimePartitionsOp("By day", NEW_YEAR, schema=SHOP)),
    "create_distributed_function": Case(_function, (_other,)),
    "undistribute_function": Case(_function.reverse(), (_other, _function)),
    "distribute_schema": Case(DistributeSchemaOp("other")),
    "undistribute_schema": Case(UndistributeSchemaOp("other"), (DistributeSchemaOp("other"),)),
    "undistribute_schema, empty": Case(
        UndistributeSchemaOp("nothing"), (DistributeSchemaOp("nothing"),)
    ),
}
IRREVERSIBLE = {
    "isolate_tenant_to_new_shard",
    "create_time_partitions",
    "drop_old_time_partitions",
}

_CATALOGS = {
    "tables": """
        SELECT logicalrelid::text, partmethod::text, repmodel::text,
               column_to_column_name(logicalrelid, partkey), ARRAY(
                 SELECT o.logicalrelid::text FROM pg_dist_partition AS o
                 WHERE o.colocationid = p.colocationid AND o.colocationid <> 0 ORDER BY 1)
        FROM pg_dist_partition AS p ORDER BY 1""",
    "shards": """
        SELECT logicalrelid::text, shardminvalue, shardmaxvalue FROM pg_dist_shard
        ORDER BY 1, shardminvalue::bigint""",
    "functions": """
        SELECT objid::regprocedure::text, distribution_argument_index, force_delegation,
               ARRAY(SELECT logicalrelid::text FROM pg_dist_partition AS p
                     WHERE p.colocationid = o.colocationid ORDER BY 1)
        FROM pg_dist_object AS o WHERE classid = 'pg_proc'::regclass ORDER BY 1""",
    "schemas": "SELECT schemaid::regnamespace::text FROM pg_dist_schema ORDER BY 1",
}
_RELATIONS = """
    SELECT c.oid::regclass::text, c.relkind::text, pg_get_expr(c.relpartbound, c.oid), m.amname
    FROM pg_class AS c LEFT JOIN pg_am AS m ON m.oid = c.relam
    -- Shards that Citus has yet to clean up are none of ours.
    WHERE c.relkind IN ('r', 'p') AND c.relname !~ '_10[0-9]{4}$' AND c.relnamespace IN (
      SELECT oid FROM pg_namespace WHERE nspname IN ('Web Shop', 'other', 'public'))
    ORDER BY 1"""


def values(operation: MigrateOperation) -> tuple[type, dict[str, Any]]:
    """Return what makes two operations do the same; they are equal only to themselves."""
    assert isinstance(operation, CitusOperation)
    compared = (item.name for item in fields(operation) if item.compare)
    return type(operation), {name: getattr(operation, name) for name in compared}


def run(connection: Connection, *operations: MigrateOperation, citus: Policy = "auto") -> None:
    """Run operations in the transaction of a connection, or without one."""
    context = MigrationContext.configure(connection, opts={"citus": citus})
    for operation in operations:
        Operations(context).invoke(operation)


def script_of(*operations: MigrateOperation, citus: Policy = "auto") -> str:
    """Return what `--sql` writes for operations."""
    output = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        opts={"as_sql": True, "output_buffer": output, "citus": citus},
    )
    for operation in operations:
        Operations(context).invoke(operation)
    return output.getvalue()


def rows(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    """Run a query that has no parameters, whatever signs it has."""
    return [tuple(row) for row in connection.exec_driver_sql(statement.replace("%", "%%"), ())]


def catalogs(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return what PostgreSQL's and Citus's catalogs tell, without numbers that never come again."""
    found = {"relations": rows(connection, _RELATIONS)}
    if rows(connection, "SELECT FROM pg_extension WHERE extname = 'citus'"):
        found |= {name: rows(connection, statement) for name, statement in _CATALOGS.items()}
    return found
