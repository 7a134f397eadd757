"""The tables of a database, and how each is spread over the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from sqlalchemy import text

from citus_analytics.catalog._citus import citus_version
from citus_analytics.errors import ArgumentError
from citus_analytics.sql import qualify

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection, TextClause

TableKind: TypeAlias = Literal["local", "citus_local", "distributed", "single_shard", "reference"]

# Of a row `p` of pg_dist_partition. Tables without a distribution column differ in how they are
# replicated ("t" is two-phase commit: everywhere) and in whether they have a colocation group.
KIND: Final = """CASE
    WHEN p.logicalrelid IS NULL THEN 'local'
    WHEN p.partmethod <> 'n' THEN 'distributed'
    WHEN p.repmodel = 't' THEN 'reference'
    WHEN p.colocationid = 0 THEN 'citus_local'
    ELSE 'single_shard' END"""

_ACCESS_METHODS: Final = text("SELECT amname FROM pg_catalog.pg_am WHERE amtype = 't'")
_COLUMNS: Final = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned,
       CASE WHEN c.relkind <> 'p' THEN am.amname END AS access_method,
       parent_schema.nspname AS parent_schema, parent.relname AS parent, e.extname AS extension,
       CASE WHEN c.relkind = 'r' AND c.reltuples >= 0 THEN c.reltuples::bigint END
         AS estimated_rows"""
_FROM: Final = """
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am AS am ON am.oid = c.relam
LEFT JOIN (pg_catalog.pg_inherits AS i
           JOIN pg_catalog.pg_class AS parent ON parent.oid = i.inhparent
           JOIN pg_catalog.pg_namespace AS parent_schema ON parent_schema.oid = parent.relnamespace)
       ON i.inhrelid = c.oid AND c.relispartition
LEFT JOIN (pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid)
       ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
      AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'"""
_WHERE: Final = """
WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND (CAST(:schemas AS text[]) IS NULL OR n.nspname = ANY(CAST(:schemas AS text[])))"""
_ORDER: Final = "\nORDER BY n.nspname, c.relname"

_ON_POSTGRESQL: Final = text(
    f"""{_COLUMNS}, 'local' AS kind, NULL AS column, NULL AS colocation_id, NULL AS shard_count,
       false AS in_distributed_schema, false AS auto_converted{_FROM}{_WHERE}{_ORDER}"""
)
# Citus hides shards from queries on pg_class, but for some names of applications it does not.
_ON_CITUS: Final = f"""{_COLUMNS}, {KIND} AS kind,
       pg_catalog.column_to_column_name(p.logicalrelid, p.partkey) AS column,
       nullif(p.colocationid, 0) AS colocation_id, s.shard_count,
       {{schema_is_distributed}} AS in_distributed_schema,
       coalesce(p.autoconverted, false) AS auto_converted{_FROM}
LEFT JOIN pg_catalog.pg_dist_partition AS p ON p.logicalrelid = c.oid
LEFT JOIN (SELECT logicalrelid, count(*) AS shard_count
           FROM pg_catalog.pg_dist_shard GROUP BY logicalrelid) AS s ON s.logicalrelid = c.oid
{_WHERE} AND NOT pg_catalog.relation_is_a_known_shard(c.oid){_ORDER}"""  # noqa: S608
_SCHEMA_IS_DISTRIBUTED: Final = (
    "EXISTS (SELECT FROM pg_catalog.pg_dist_schema AS ds"
    " WHERE ds.schemaid = n.oid AND ds.colocationid = p.colocationid)"
)
_FIRST_WITH_DISTRIBUTED_SCHEMAS: Final = (12, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogTable:
    """A table as the catalogs have it.

    Attributes:
        schema: The schema, named also where the search path would find it.
        name: The name, without quotes.
        kind: "distributed" (sharded by a column), "single_shard" (one shard, on some node),
            "reference" (a copy on every node), "citus_local" (on the coordinator, but known to
            Citus) or "local" (not known to Citus).
        column: The distribution column; None for all but distributed tables.
        colocation_id: The colocation group; None for tables that are in none, which local and
            Citus local tables are.
        shard_count: The number of shards; None for local tables.
        access_method: "heap", "columnar" and the like; None for partitioned and foreign tables,
            which store nothing themselves.
        partitioned: Whether the table is partitioned, and its rows are in its partitions.
        partition_of: The `qualified_name` of the parent, if the table is a partition.
        extension: The extension that the table is a member of, None for tables of one's own.
        in_distributed_schema: Whether the table is distributed because its schema is.
        auto_converted: Whether Citus has made a local table known to itself (kind "citus_local")
            on its own account, for a foreign key to a reference table, and will undo that.
        estimated_rows: How many rows the last VACUUM or ANALYZE has found in a local table; None
            before the first.
    """

    schema: str
    name: str
    kind: TableKind
    column: str | None
    colocation_id: int | None
    shard_count: int | None
    access_method: str | None
    partitioned: bool
    partition_of: str | None
    extension: str | None
    in_distributed_schema: bool
    auto_converted: bool
    estimated_rows: int | None = None

    @property
    def qualified_name(self) -> str:
        """The quoted name with its schema, as SQL takes it."""
        return qualify(self.name, self.schema)


def tables(
    connection: Connection, *, schemas: Collection[str] | None = None
) -> tuple[CatalogTable, ...]:
    """Return the ordinary, partitioned and foreign tables, ordered by schema and name.

    Tables of the system, temporary tables and shards are left out; partitions are not, nor are
    the tables of extensions, which say so.

    Args:
        connection: Where to look; two queries, which ask no other node.
        schemas: Only these schemas; None for all.

    Raises:
        ArgumentError: `schemas` is a single string.
    """
    if isinstance(schemas, str):
        raise ArgumentError(f"schemas must be a collection of names; found {schemas!r}")
    rows = connection.execute(
        _statement(citus_version(connection)),
        {"schemas": None if schemas is None else list(schemas)},
    ).mappings()
    return tuple(
        CatalogTable(
            **{name: value for name, value in row.items() if not name.startswith("parent")},
            partition_of=row["parent"] and qualify(row["parent"], row["parent_schema"]),
        )
        for row in rows
    )


def access_methods(connection: Connection) -> frozenset[str]:
    """Return the access methods that tables of this database can have, such as "heap"."""
    return frozenset(connection.execute(_ACCESS_METHODS).scalars())


def _statement(citus: tuple[int, int] | None) -> TextClause:
    if citus is None:
        return _ON_POSTGRESQL
    has_schemas = citus >= _FIRST_WITH_DISTRIBUTED_SCHEMAS
    return text(
        _ON_CITUS.format(schema_is_distributed=_SCHEMA_IS_DISTRIBUTED if has_schemas else "false")
    )
