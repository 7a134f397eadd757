"""The shards of a cluster, where they are, and how large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from citus_analytics.catalog._citus import ask_all_nodes, citus_version
from citus_analytics.catalog._tables import KIND, TableKind
from citus_analytics.sql import qualify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, RowMapping


# Whoever holds, or waits for, an exclusive lock on a relation `c` or on one of its indexes makes
# the counting of its bytes wait; and never end, where it is another node's part of the transaction
# that asks. Such a relation has an unknown size for the moment.
LOCKED: Final = """EXISTS (
    SELECT FROM pg_catalog.pg_locks AS l
    WHERE l.mode = 'AccessExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
      AND l.relation IN (SELECT c.oid UNION ALL
                         SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid = c.oid))"""

# Runs on each node. `citus_shard_sizes`, which the view `citus_shards` reads, names relations by
# their schemas: one schema that the user may not use, and it has no sizes at all of a node.
_SIZES: Final = rf"""
SELECT coalesce(json_object_agg(s.shardid, CASE WHEN NOT {LOCKED}
                                                THEN pg_catalog.pg_total_relation_size(c.oid) END),
                '{{}}')
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_dist_shard AS s
  ON s.shardid = CAST(substring(c.relname FROM '_(\d{{1,18}})$') AS bigint)
WHERE c.relkind IN ('r', 'p', 'f') AND pg_catalog.relation_is_a_known_shard(c.oid)
"""  # noqa: S608

# 1 is the state of a placement that is in use.
_SHARDS: Final = text(
    f"""
SELECT s.shardid AS id, n.nspname AS schema, c.relname AS table, {KIND} AS kind,
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
GROUP BY s.shardid, n.nspname, c.relname, p.logicalrelid, p.partmethod, p.repmodel,
         p.colocationid, s.shardminvalue, s.shardmaxvalue
ORDER BY n.nspname, c.relname, hash_min, s.shardid
"""  # noqa: S608
)


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


def shards(connection: Connection) -> tuple[Shard, ...]:
    """Return the shards of all tables, with their sizes; none without Citus.

    Ordered by schema, table and hash range. All active nodes are asked for sizes at the same time;
    for one that does not answer, this waits as long as `citus.node_connection_timeout` says, and
    its sizes are unknown.
    """
    if citus_version(connection) is None:
        return ()
    answers = ask_all_nodes(connection, _SIZES)
    sizes = {node: answer.value for node, answer in answers.items()}
    return tuple(_shard(row, sizes) for row in connection.execute(_SHARDS).mappings())


def _shard(row: RowMapping, sizes: Mapping[int, Mapping[str, Any]]) -> Shard:
    return Shard(
        id=row["id"],
        schema=row["schema"],
        table=row["table"],
        kind=row["kind"],
        hash_range=None if row["hash_min"] is None else (row["hash_min"], row["hash_max"]),
        colocation_id=row["colocation_id"],
        placements=tuple(
            Placement(node=node, bytes=sizes.get(node, {}).get(str(row["id"])))
            for node in row["nodes"]
        ),
    )
