"""What the catalogs say: tables, nodes, shards, sizes, colocation groups and rollups.

Definitions: PostgreSQL documentation, "System Catalogs"; Citus documentation, "Citus Tables and
Views". What is read here is the same in Citus 11 to 14.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sqlalchemy import text

from citus_analytics.errors import ArgumentError
from citus_analytics.rollups.sql import (
    STATE_COLUMNS,
    RollupSpec,
    demands,
    described,
    functions,
    mistyped,
    row_functions,
    triggers,
    views,
)
from citus_analytics.sql import qualify

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from citus_analytics.sql import Executor

TableKind: TypeAlias = Literal["local", "citus_local", "distributed", "single_shard", "reference"]
NodeRole: TypeAlias = Literal["primary", "secondary", "unavailable"]


# ------------------------------------------------------------------------------------------- Citus

_VERSION = text("SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus'")


def citus_version(session: Executor) -> tuple[int, int] | None:
    """Return the version of Citus in this database, such as (13, 2).

    Returns:
        The major and minor version of the extension, or None if this database does not have it,
        whatever is installed on the server.
    """
    version = session.execute(_VERSION).scalar_one_or_none()
    if version is None:
        return None
    # What follows the minus counts the scripts within a version: 13.2-1.
    major, minor = version.partition("-")[0].split(".")[:2]
    return int(major), int(minor)


# Each node runs the command in a connection of its own, all at the same time, and a node that
# cannot be reached is a row, not an error. Public, and the same since Citus 11.0.
_ON_ALL_NODES = text(
    "SELECT nodeid, success, result FROM pg_catalog.run_command_on_all_nodes(:command)"
)

# The node that this connection leads to, unless it is a replica: that answers for no other.
_THIS_NODE = text("""
SELECT coalesce((SELECT nodeid FROM pg_catalog.pg_dist_node
                 WHERE groupid = (SELECT groupid FROM pg_catalog.pg_dist_local_group)
                   AND noderole = 'primary'), 0)
WHERE NOT pg_catalog.pg_is_in_recovery()
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a node answers to a command.

    Attributes:
        value: The JSON object that the command returned; empty if the node did not answer.
        error: Why it did not answer, in Citus's words; None if it did.
    """

    value: dict[str, Any]
    error: str | None


def ask_all_nodes(session: Executor, command: str) -> dict[int, Answer]:
    """Return the answer of every active primary node, by its id.

    A coordinator that is not in the metadata has the id 0. The nodes do not see what the
    transaction of `session` has not yet committed. Waits for a node that does not answer for
    as long as `citus.node_connection_timeout` says.

    Args:
        session: Leads to a database with Citus.
        command: A query for one JSON object.
    """
    answers = {
        row.nodeid: (
            Answer(value=json.loads(row.result), error=None)
            if row.success
            else Answer(value={}, error=" ".join(row.result.split()))
        )
        for row in session.execute(_ON_ALL_NODES, {"command": command})
    }
    if any(answer.error is not None for answer in answers.values()):
        # A node need not be able to connect to itself, because its address has changed or it asks
        # itself for a password. It answers this connection all the same.
        this = session.execute(_THIS_NODE).scalar_one_or_none()
        if this in answers and answers[this].error is not None:
            escaped = command.replace(":", r"\:")
            result = session.execute(text(f"SELECT CAST(({escaped}) AS text)")).scalar_one()
            answers[this] = Answer(value=json.loads(result), error=None)
    return answers


# ------------------------------------------------------------------------------------------ Tables

# Of a row `p` of pg_dist_partition. Tables without a distribution column differ in how they are
# replicated ("t" is two-phase commit: everywhere) and in whether they have a colocation group.
_KIND = """CASE
    WHEN p.partmethod <> 'n' THEN 'distributed'
    WHEN p.repmodel = 't' THEN 'reference'
    WHEN p.colocationid = 0 THEN 'citus_local'
    ELSE 'single_shard' END"""

# Of a row `c` of pg_class whose schema is `n`: how Citus spreads the table.
_SPREAD = f"""
    SELECT {_KIND} AS kind,
           pg_catalog.column_to_column_name(p.logicalrelid, p.partkey) AS column,
           nullif(p.colocationid, 0) AS colocation_id,
           (SELECT count(*) FROM pg_catalog.pg_dist_shard AS s
            WHERE s.logicalrelid = p.logicalrelid) AS shard_count,
           {{in_distributed_schema}} AS in_distributed_schema,
           p.autoconverted AS auto_converted
    FROM pg_catalog.pg_dist_partition AS p WHERE p.logicalrelid = c.oid"""
_NOT_SPREAD = """
    SELECT NULL AS kind, NULL AS column, NULL AS colocation_id, NULL AS shard_count,
           false AS in_distributed_schema, false AS auto_converted
    WHERE false"""
_DISTRIBUTED_SCHEMAS_SINCE = (12, 0)
_IN_DISTRIBUTED_SCHEMA = """EXISTS (
               SELECT FROM pg_catalog.pg_dist_schema AS ds
               WHERE ds.schemaid = n.oid AND ds.colocationid = p.colocationid)"""

_TABLES = """
SELECT n.nspname AS schema, c.relname AS name, coalesce(spread.kind, 'local') AS kind,
       spread.column, spread.colocation_id, spread.shard_count,
       CASE WHEN c.relkind <> 'p' THEN am.amname END AS access_method,
       c.relkind = 'p' AS partitioned,
       parent_schema.nspname AS parent_schema, parent.relname AS parent, e.extname AS extension,
       coalesce(spread.in_distributed_schema, false) AS in_distributed_schema,
       coalesce(spread.auto_converted, false) AS auto_converted,
       CASE WHEN c.relkind = 'r' AND c.reltuples >= 0 THEN c.reltuples::bigint END
         AS estimated_rows
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am AS am ON am.oid = c.relam
LEFT JOIN (pg_catalog.pg_inherits AS i
           JOIN pg_catalog.pg_class AS parent ON parent.oid = i.inhparent
           JOIN pg_catalog.pg_namespace AS parent_schema ON parent_schema.oid = parent.relnamespace)
       ON i.inhrelid = c.oid AND c.relispartition
LEFT JOIN (pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid)
       ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
      AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
LEFT JOIN LATERAL ({spread}) AS spread ON true
WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND (CAST(:schemas AS text[]) IS NULL OR n.nspname = ANY(CAST(:schemas AS text[])))
  AND NOT {is_shard}
ORDER BY n.nspname, c.relname
"""

_ACCESS_METHODS = text("SELECT amname FROM pg_catalog.pg_am WHERE amtype = 't'")


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
        auto_converted: Whether Citus added a local table to its metadata (kind "citus_local") on
            its own account, for a foreign key to a reference table, and will undo that.
        estimated_rows: How many rows the last VACUUM or ANALYZE found in a local table; None
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
    session: Executor, *, schemas: Collection[str] | None = None
) -> tuple[CatalogTable, ...]:
    """Return the ordinary, partitioned and foreign tables, ordered by schema and name.

    System tables, temporary tables and shards are left out. Partitions and the tables of
    extensions are included, and marked as what they are.

    Args:
        session: Where to look; two queries, which ask no other node.
        schemas: Only these schemas; None for all.

    Raises:
        ArgumentError: `schemas` is a single string.
    """
    if isinstance(schemas, str):
        raise ArgumentError(f"schemas must be a collection of names; found {schemas!r}")
    citus = citus_version(session)
    if citus is None:
        statement = _TABLES.format(spread=_NOT_SPREAD, is_shard="false")
    else:
        has_schemas = citus >= _DISTRIBUTED_SCHEMAS_SINCE
        statement = _TABLES.format(
            spread=_SPREAD.format(
                in_distributed_schema=_IN_DISTRIBUTED_SCHEMA if has_schemas else "false"
            ),
            # Citus hides shards from queries on pg_class, but not from applications whose names
            # begin as `citus.show_shards_for_app_name_prefixes` says.
            is_shard="pg_catalog.relation_is_a_known_shard(c.oid)",
        )
    found = []
    wanted = {"schemas": None if schemas is None else list(schemas)}
    for row in session.execute(text(statement), wanted).mappings():
        values = dict(row)
        parent_schema, parent = values.pop("parent_schema"), values.pop("parent")
        found.append(CatalogTable(**values, partition_of=parent and qualify(parent, parent_schema)))
    return tuple(found)


def access_methods(session: Executor) -> frozenset[str]:
    """Return the access methods that tables of this database can have, such as "heap"."""
    return frozenset(session.execute(_ACCESS_METHODS).scalars())


# ------------------------------------------------------------------------------------------- Nodes

_NODES = text("""
SELECT nodeid AS id, groupid AS "group", nodename AS host, nodeport AS port,
       noderole::text AS role, groupid = 0 AS is_coordinator, isactive AS active,
       shouldhaveshards AS should_have_shards,
       hasmetadata AND coalesce(metadatasynced, false) AS metadata_synced
FROM pg_catalog.pg_dist_node
ORDER BY groupid, noderole, nodeid
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A server of the cluster, as `pg_dist_node` has it.

    Attributes:
        id: The number that Citus names it by.
        group: The group of a primary and its secondaries, which hold the same shards.
        host: The name or address under which the other nodes connect to it.
        port: Its TCP port.
        role: "primary", "secondary" (a replica) or "unavailable".
        is_coordinator: Whether it is the coordinator, the group 0.
        active: Whether Citus sends queries to it.
        should_have_shards: Whether it is meant to hold shards of distributed tables.
        metadata_synced: Whether its copy of the metadata is up to date.
    """

    id: int
    group: int
    host: str
    port: int
    role: NodeRole
    is_coordinator: bool
    active: bool
    should_have_shards: bool
    metadata_synced: bool

    def __str__(self) -> str:
        return f"node {self.id} ({self.host}:{self.port})"


def nodes(session: Executor) -> tuple[Node, ...]:
    """Return the nodes that the metadata names, the coordinator first; none without Citus.

    A coordinator without workers is added by Citus with its first distributed table. One with
    workers is missing until `citus_set_coordinator_host` has set its address.
    """
    if citus_version(session) is None:
        return ()
    return tuple(Node(**row) for row in session.execute(_NODES).mappings())


# ------------------------------------------------------------------------------------------ Shards

# Measuring a relation `c` waits while somebody else holds, or waits for, an exclusive lock on it or
# on one of its indexes; and for ever if that is the transaction for which another node is asking.
# The size of such a relation is unknown for the moment.
_LOCKED = """EXISTS (
    SELECT FROM pg_catalog.pg_locks AS l
    WHERE l.mode = 'AccessExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
      AND l.relation IN (SELECT c.oid UNION ALL
                         SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid = c.oid))"""

# Run by each node. `citus_shard_sizes`, which the view `citus_shards` reads, names relations by
# their schemas: one schema that the role may not use, and no size of the node is known. Relations
# are found by their row types, because Citus hides shards in pg_class.
_SHARD_SIZES = rf"""
SELECT coalesce(json_object_agg(s.shardid, CASE WHEN NOT {_LOCKED}
                                                THEN pg_catalog.pg_total_relation_size(c.oid) END),
                '{{}}')
FROM (SELECT typrelid AS oid, typname AS name FROM pg_catalog.pg_type WHERE typrelid <> 0) AS c
JOIN pg_catalog.pg_dist_shard AS s
  ON s.shardid = CAST(substring(c.name FROM '_(\d{{1,18}})$') AS bigint)
WHERE pg_catalog.relation_is_a_known_shard(c.oid)
"""

# 1 is the state of a placement that is in use.
_SHARDS = text(f"""
SELECT s.shardid AS id, n.nspname AS schema, c.relname AS table, {_KIND} AS kind,
       CASE WHEN p.partmethod = 'h' THEN s.shardminvalue::int END AS hash_min,
       CASE WHEN p.partmethod = 'h' THEN s.shardmaxvalue::int END AS hash_max,
       nullif(p.colocationid, 0) AS colocation_id,
       array_agg(node.nodeid ORDER BY node.nodeid) AS nodes
FROM pg_catalog.pg_dist_shard AS s
JOIN pg_catalog.pg_class AS c ON c.oid = s.logicalrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_dist_partition AS p ON p.logicalrelid = s.logicalrelid
JOIN pg_catalog.pg_dist_placement AS placement
  ON placement.shardid = s.shardid AND placement.shardstate = 1
JOIN pg_catalog.pg_dist_node AS node
  ON node.groupid = placement.groupid AND node.noderole = 'primary'
GROUP BY s.shardid, n.nspname, c.relname, p.partmethod, p.repmodel, p.colocationid,
         s.shardminvalue, s.shardmaxvalue
ORDER BY n.nspname, c.relname, hash_min, s.shardid
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A shard on a node.

    Attributes:
        node: The id of the (primary) node.
        bytes: What it takes there, with indexes and TOAST; None if that is unknown: the node is
            not active or does not answer, its metadata are not synced, the shard is not yet
            committed, or something has locked it.
    """

    node: int
    bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A part of a table.

    Attributes:
        id: The number at the end of its name on the nodes.
        schema: The schema of its table.
        table: The name of its table.
        kind: The kind of its table.
        hash_range: The first and the last hash value whose rows are in it; None unless the table
            is sharded by hash.
        colocation_id: The colocation group of its table, if it is in one.
        placements: Where it is: one node, several where it is replicated, every node for a
            reference table.
    """

    id: int
    schema: str
    table: str
    kind: TableKind
    hash_range: tuple[int, int] | None
    colocation_id: int | None
    placements: tuple[Placement, ...]

    @property
    def qualified_table(self) -> str:
        """The `qualified_name` of its table."""
        return qualify(self.table, self.schema)

    @property
    def bytes(self) -> int | None:
        """The size of its largest copy whose size is known; None if none is."""
        return max((p.bytes for p in self.placements if p.bytes is not None), default=None)


def shards(session: Executor) -> tuple[Shard, ...]:
    """Return the shards of all tables, with their sizes; none without Citus.

    Ordered by schema, table and hash range. All active nodes are asked for sizes at the same time;
    for one that does not answer, this waits as long as `citus.node_connection_timeout` says, and
    its sizes are unknown.
    """
    if citus_version(session) is None:
        return ()
    sizes = {
        (node, int(shard)): size
        for node, answer in ask_all_nodes(session, _SHARD_SIZES).items()
        for shard, size in answer.value.items()
    }
    return tuple(
        Shard(
            id=row.id,
            schema=row.schema,
            table=row.table,
            kind=row.kind,
            hash_range=None if row.hash_min is None else (row.hash_min, row.hash_max),
            colocation_id=row.colocation_id,
            placements=tuple(
                Placement(node=node, bytes=sizes.get((node, row.id))) for node in row.nodes
            ),
        )
        for row in session.execute(_SHARDS)
    )


# ------------------------------------------------------------------------------------------- Sizes

_LOCAL_SIZES = text(f"""
SELECT n.nspname, c.relname,
       CASE WHEN NOT {_LOCKED} THEN pg_catalog.pg_total_relation_size(c.oid) END
FROM unnest(CAST(:schemas AS text[]), CAST(:names AS text[])) AS wanted (schema, name)
JOIN pg_catalog.pg_namespace AS n ON n.nspname = wanted.schema
JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = wanted.name
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSize:
    """What a table takes on disk.

    Attributes:
        schema: The schema of the table.
        name: The name of the table.
        bytes: The sum over all nodes and copies, with indexes, TOAST and, of a partitioned table,
            its partitions; None if a part of it is unknown.
    """

    schema: str
    name: str
    bytes: int | None


def table_sizes(
    session: Executor, *, schemas: Collection[str] | None = None
) -> tuple[TableSize, ...]:
    """Return the sizes of the tables that `tables` returns, in the same order.

    Nodes that do not answer are waited for as by `shards`; the sizes of tables that have shards
    there are unknown, and so are those of tables that something else has locked.

    Args:
        session: Where to look. The size of a local table is that on this node.
        schemas: Only these schemas; None for all.

    Raises:
        ArgumentError: `schemas` is a single string.
    """
    wanted = {(table.schema, table.name) for table in tables(session, schemas=schemas)}
    # A partition may be in another schema than its parent.
    sizes = sizes_of(session, tables(session), shards(session))
    return tuple(size for size in sizes if (size.schema, size.name) in wanted)


def sizes_of(
    session: Executor, tables: Sequence[CatalogTable], shards: Iterable[Shard]
) -> tuple[TableSize, ...]:
    """Return the sizes of `tables`, given all tables and all shards of the database."""
    own = {table.qualified_name: None if table.kind == "local" else 0 for table in tables}
    local = [table for table in tables if table.kind == "local"]
    names = {"schemas": [t.schema for t in local], "names": [t.name for t in local]}
    for schema, name, size in session.execute(_LOCAL_SIZES, names):
        own[qualify(name, schema)] = size
    for shard in shards:
        name = shard.qualified_table
        own[name] = total((own.get(name, 0), *(p.bytes for p in shard.placements)))
    # With its own bytes, every partition adds to its parent, to the parent of that, and so on.
    parents = {table.qualified_name: table.partition_of for table in tables}
    sums: dict[str, int | None] = dict.fromkeys(parents, 0)
    for partition in parents:
        ancestor: str | None = partition
        while ancestor is not None:
            sums[ancestor] = total((sums.get(ancestor, 0), own[partition]))
            ancestor = parents.get(ancestor)
    return tuple(
        TableSize(schema=table.schema, name=table.name, bytes=sums[table.qualified_name])
        for table in tables
    )


def total(sizes: Iterable[int | None]) -> int | None:
    """Return the sum of sizes, which is unknown if one of them is."""
    known = 0
    for size in sizes:
        if size is None:
            return None
        known += size
    return known


# ------------------------------------------------------------------------------- Colocation groups

_GROUPS = text("""
SELECT g.colocationid AS id, g.shardcount AS shard_count,
       -- Citus writes -1 for a copy on every node.
       CASE WHEN g.replicationfactor > 0 THEN g.replicationfactor END AS replication_factor,
       pg_catalog.format_type(nullif(g.distributioncolumntype, 0), NULL) AS column_type,
       array_agg(n.nspname::text ORDER BY n.nspname, c.relname) AS schemas,
       array_agg(c.relname::text ORDER BY n.nspname, c.relname) AS names
FROM pg_catalog.pg_dist_colocation AS g
LEFT JOIN (pg_catalog.pg_dist_partition AS p
           JOIN pg_catalog.pg_class AS c ON c.oid = p.logicalrelid
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace)
       ON p.colocationid = g.colocationid
GROUP BY g.colocationid, g.shardcount, g.replicationfactor, g.distributioncolumntype
ORDER BY g.colocationid
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColocationGroup:
    """Tables that can be joined on their distribution columns without leaving a node.

    Attributes:
        id: The number of the group.
        shard_count: The number of shards of each of its tables.
        replication_factor: How many copies there are of each shard; None for one on every node,
            which reference tables have.
        column_type: The type of the distribution columns, such as "bigint"; None for tables that
            have none.
        tables: The `qualified_name` of each table, partitions and extensions' tables included.
    """

    id: int
    shard_count: int
    replication_factor: int | None
    column_type: str | None
    tables: tuple[str, ...]


def colocation_groups(session: Executor) -> tuple[ColocationGroup, ...]:
    """Return the colocation groups, ordered by id; none without Citus."""
    if citus_version(session) is None:
        return ()
    return tuple(
        ColocationGroup(
            id=row.id,
            shard_count=row.shard_count,
            replication_factor=row.replication_factor,
            column_type=row.column_type,
            # A group without tables has one NULL here.
            tables=tuple(
                qualify(name, schema)
                for schema, name in zip(row.schemas, row.names, strict=True)
                if name is not None
            ),
        )
        for row in session.execute(_GROUPS)
    )


# ----------------------------------------------------------------------------------------- Rollups

# Functions and tables that carry a description, by the name and schema of each.
_DESCRIBED = text("""
SELECT n.nspname AS schema, o.kind, o.name, d.description
FROM (SELECT 'pg_proc'::regclass AS class, 'FUNCTION' AS kind, p.oid, p.proname AS name,
             p.pronamespace AS namespace
      FROM pg_catalog.pg_proc AS p
      UNION ALL
      SELECT 'pg_class'::regclass, 'TABLE', c.oid, c.relname, c.relnamespace
      FROM pg_catalog.pg_class AS c WHERE c.relkind = 'r') AS o
JOIN pg_catalog.pg_namespace AS n ON n.oid = o.namespace
JOIN pg_catalog.pg_description AS d
  ON d.classoid = o.class AND d.objoid = o.oid AND d.objsubid = 0
WHERE d.description LIKE 'Rollups of citus\\_analytics: %'
ORDER BY n.nspname, o.name
""")

_FUNCTIONS = text("""
SELECT p.proname, p.prosrc
FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = :schema AND p.proname = ANY(CAST(:names AS text[]))
""")

# Of all tables: one that has been renamed keeps its triggers. Citus hides shards in pg_class, and
# not in pg_trigger.
_TRIGGERS = text("""
SELECT n.nspname AS schema, c.relname AS table, t.tgname AS name, p.proname AS function,
       t.tgenabled IN ('O', 'A') AS enabled
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
JOIN pg_catalog.pg_namespace AS m ON m.oid = p.pronamespace
WHERE m.nspname = :schema AND p.proname = ANY(CAST(:names AS text[])) {and_no_shard}
""")

_RELATIONS = text("""
SELECT c.relname AS name, c.relkind AS kind, ARRAY(
         SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relkind IN ('r', 'p', 'v')
  AND c.relname = ANY(CAST(:names AS text[]))
""")

_SHARDED = text("""
SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition WHERE logicalrelid = to_regclass(:name))
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRollup:
    """The rollups of one source as the catalogs have them.

    Attributes:
        spec: What they were created from, the schema named also where the search path would find
            it.
        faults: What of their machinery is missing, disabled or changed, and what else keeps them
            from adding up, in words; empty if all of it is as it was created.
        incomplete: The tables that changes of the source may have missed because of that: once it
            is repaired, they have to be backfilled.
        regrouped: The tables that have lost a column that they are grouped by.
        renamed: The schema and the name of the source, if it has other ones by now.
    """

    spec: RollupSpec
    faults: tuple[str, ...]
    incomplete: tuple[str, ...] = ()
    regrouped: tuple[str, ...] = ()
    renamed: tuple[str, str] | None = None


def rollups(session: Executor) -> tuple[CatalogRollup, ...]:
    """Return the rollups of a database by their sources, ordered by schema and name.

    They are recognised by the description that their functions and their state table carry.
    """
    citus = citus_version(session) is not None
    specs: dict[tuple[str, str], RollupSpec] = {}
    carriers: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in session.execute(_DESCRIBED).all():
        spec = RollupSpec.read(row.description, schema=row.schema)
        carrier = (row.kind, row.name)
        if spec is None or carrier not in {each[:2] for each in described(spec)}:
            continue
        key = (row.schema, spec.source)
        if specs.setdefault(key, spec) == spec:
            carriers.setdefault(key, []).append(carrier)
    return tuple(_rollup(session, specs[key], carriers[key], citus=citus) for key in sorted(specs))


def _rollup(
    session: Executor, spec: RollupSpec, carriers: Collection[tuple[str, str]], *, citus: bool
) -> CatalogRollup:
    """Return the rollups of one source, and what is wrong with them."""
    names: dict[str, Any] = {"schema": spec.schema}
    faults: list[str] = []
    every = {target.table for target in spec.targets}
    incomplete: set[str] = set()
    watching = {function for _, _, function in triggers(spec)}

    # The functions. Those of a table on shards are told by the one that finds shards.
    both = [functions(spec, sharded=sharded) for sharded in (False, True)]
    names["names"] = [*(each.name for each in both[True]), *row_functions(spec)]
    bodies = {row.proname: row.prosrc for row in session.execute(_FUNCTIONS, names)}
    sharded = f"{spec.source}_sibling" in bodies
    expected: dict[str, str | None] = {each.name: each.body for each in both[sharded]}
    if sharded:
        expected |= dict.fromkeys(row_functions(spec))
    for name, body in expected.items():
        if name not in bodies or body not in (None, bodies[name]):
            state = "has been changed" if name in bodies else "is missing"
            faults.append(f"function {name} {state}")
            if name in watching:
                incomplete |= every
    source = {"name": qualify(spec.source, spec.schema)}
    spread = citus and bool(session.execute(_SHARDED, source).scalar_one())
    if spread and not sharded:
        faults.append(f"table {spec.source} has been distributed since its rollups were created")
    elif sharded and not spread:
        faults.append(f"table {spec.source} is not on shards, as when its rollups were created")

    # The tables and views.
    wanted_views = views(spec, sharded=sharded)
    names["names"] = [spec.source, *spec.machinery, *every, *wanted_views]
    columns = {row.name: row.columns for row in session.execute(_RELATIONS, names)}
    outboxes = set(spec.machinery) - {spec.log, spec.state}
    for table in (spec.source, *spec.machinery):
        if table not in columns and (sharded or table not in outboxes):
            faults.append(f"table {table} is missing")
            if table != spec.state:
                incomplete |= every
    if spec.state in columns:
        faults += (
            f"table {spec.state} has no column {column}"
            for column in STATE_COLUMNS
            if column not in columns[spec.state]
        )
    regrouped = []
    for target in spec.targets:
        # That it is missing is among the demands.
        groups = {*target.by, *([] if target.bucket is None else [target.bucket])}
        own = {*groups, target.rows, *target.sums, *target.extremes}
        found = set(columns.get(target.table, ()))
        if not own <= found:
            incomplete.add(target.table)
            if found and not groups <= found:
                regrouped.append(target.table)
    for view, shown in wanted_views.items():
        if view not in columns:
            faults.append(f"view {view} is missing")
        elif shown is not None and set(shown) != set(columns[view]):
            faults.append(f"view {view} has been changed")

    # The triggers.
    names["names"] = list(watching)
    no_shard = "AND NOT pg_catalog.relation_is_a_known_shard(t.tgrelid)" if citus else ""
    statement = text(_TRIGGERS.text.replace("{and_no_shard}", no_shard))
    fired = session.execute(statement, names).all()
    enabled = {(row.table, row.name, row.function) for row in fired if row.enabled}
    elsewhere = {
        (row.schema, row.table)
        for row in fired
        if (row.schema, row.table) not in ((spec.schema, spec.source), (spec.schema, spec.log))
    }
    renamed = min(elsewhere) if elsewhere and spec.source not in columns else None
    if renamed is not None:
        faults = [
            f"table {spec.source} has been renamed to {renamed[1]}"
            + ("" if renamed[0] == spec.schema else f" in schema {renamed[0]}")
            if fault == f"table {spec.source} is missing"
            else fault
            for fault in faults
        ]
    for table, name, _ in sorted(triggers(spec) - enabled):
        if table in columns:
            faults.append(f"trigger {name} on {table} is missing or disabled")
            incomplete |= every

    # What else keeps them from adding up.
    for query in demands(spec)[: 2 if citus else 1]:
        for message in session.execute(text(query.replace(":", "\\:"))).scalars():
            if not (message.startswith("there is no table") and spec.source not in columns):
                faults.append(message)
    if {spec.source, spec.log, *every} <= columns.keys():
        for row in session.execute(text(mistyped(spec).replace(":", "\\:"))):
            faults.append(
                f"column {row.name} of {row.relation} is a {row.found}, and was a {row.wanted}"
            )
            incomplete |= every
    faults += (
        f"the description of {kind.lower()} {name} is missing or has been changed"
        for kind, name, _ in described(spec)
        if (kind, name) not in carriers
        and (name in bodies if kind == "FUNCTION" else name in columns)
    )
    return CatalogRollup(
        spec=spec,
        faults=tuple(dict.fromkeys(faults)),
        incomplete=tuple(t.table for t in spec.targets if t.table in incomplete),
        regrouped=tuple(regrouped),
        renamed=renamed,
    )
