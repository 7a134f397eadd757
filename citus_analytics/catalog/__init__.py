"""What PostgreSQL and Citus know of themselves: the only reader of their catalogs.

Every function takes a connection, reads, and returns frozen dataclasses; none of them commits, and
none needs more rights than to connect. A database without Citus has no nodes, no shards and no
colocation groups, which is what these functions then return: it is no error.

Definitions: PostgreSQL documentation, "System Catalogs"; Citus documentation, "Citus Tables and
Views". What is read here is the same in Citus 11 to 14.

Names are as the catalogs have them, without quotes. Sizes are bytes on disk with indexes and TOAST,
as `pg_total_relation_size` counts them. Only what is committed has a size on another node.
"""

from __future__ import annotations

from citus_analytics.catalog._citus import citus_version
from citus_analytics.catalog._findings import Finding, FindingKind
from citus_analytics.catalog._groups import ColocationGroup, colocation_groups
from citus_analytics.catalog._health import ClusterHealth, Link, NodeHealth, cluster_health
from citus_analytics.catalog._nodes import Node, NodeRole, nodes
from citus_analytics.catalog._rollups import CatalogRollup, rollups
from citus_analytics.catalog._shards import Placement, Shard, shards
from citus_analytics.catalog._sizes import TableSize, table_sizes
from citus_analytics.catalog._skew import NodeLoad, TableSkew, node_loads, table_skew
from citus_analytics.catalog._status import ClusterStatus, cluster_status
from citus_analytics.catalog._tables import CatalogTable, TableKind, access_methods, tables

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
