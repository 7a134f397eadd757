"""What PostgreSQL and Citus know about themselves: the only reader of their catalogs.

Every function takes a connection or a session, reads, and returns frozen dataclasses; none of them
commits, and none needs more rights than to connect. From asyncio, `await session.run_sync(tables)`
on an `AsyncSession` or an `AsyncConnection` calls any of them.

A database without Citus has no nodes, no shards and no colocation groups, and that is what these
functions then return: it is not an error. A coordinator that has all shards itself is a cluster of
one node.

Names are as the catalogs have them, without quotes. Sizes are bytes on disk with indexes and TOAST,
as `pg_total_relation_size` counts them. Only what is committed has a size on another node.
"""

from __future__ import annotations

from citus_analytics.catalog.health import (
    ClusterHealth,
    ClusterStatus,
    Finding,
    FindingKind,
    Link,
    NodeHealth,
    NodeLoad,
    TableSkew,
    cluster_health,
    cluster_status,
    node_loads,
    table_skew,
)
from citus_analytics.catalog.inspect import (
    CatalogRollup,
    CatalogTable,
    ColocationGroup,
    Node,
    NodeRole,
    Placement,
    Shard,
    TableKind,
    TableSize,
    access_methods,
    citus_version,
    colocation_groups,
    nodes,
    rollups,
    shards,
    table_sizes,
    tables,
)

__all__ = [
    "CatalogRollup",
    "CatalogTable",
    "ClusterHealth",
    "ClusterStatus",
    "ColocationGroup",
    "Finding",
    "FindingKind",
    "Link",
    "Node",
    "NodeHealth",
    "NodeLoad",
    "NodeRole",
    "Placement",
    "Shard",
    "TableKind",
    "TableSize",
    "TableSkew",
    "access_methods",
    "citus_version",
    "cluster_health",
    "cluster_status",
    "colocation_groups",
    "node_loads",
    "nodes",
    "rollups",
    "shards",
    "table_sizes",
    "table_skew",
    "tables",
]
