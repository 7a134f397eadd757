"""Everything about a cluster at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from citus_analytics.catalog._citus import citus_version
from citus_analytics.catalog._findings import Finding, findings
from citus_analytics.catalog._groups import ColocationGroup, groups_of
from citus_analytics.catalog._health import ClusterHealth, cluster_health
from citus_analytics.catalog._nodes import Node, nodes
from citus_analytics.catalog._shards import Shard, shards
from citus_analytics.catalog._sizes import TableSize, sizes_of
from citus_analytics.catalog._skew import NodeLoad, TableSkew, node_loads, table_skew
from citus_analytics.catalog._tables import CatalogTable, tables

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """What the other functions of this package return, and what is wrong with it.

    Attributes:
        citus: The version of Citus, as `citus_version` returns it.
        nodes: The nodes, as `nodes` returns them.
        health: The state of their connections, as `cluster_health` returns it.
        tables: The tables, as `tables` returns them.
        sizes: The size of each of the tables, in the same order.
        shards: The shards, as `shards` returns them.
        groups: The colocation groups, as `colocation_groups` returns them.
        skew: The skew of the tables with several shards.
        loads: What each node holds.
        findings: What needs attention; empty if nothing does.
    """

    citus: tuple[int, int] | None
    nodes: tuple[Node, ...]
    health: ClusterHealth
    tables: tuple[CatalogTable, ...]
    sizes: tuple[TableSize, ...]
    shards: tuple[Shard, ...]
    groups: tuple[ColocationGroup, ...]
    skew: tuple[TableSkew, ...]
    loads: tuple[NodeLoad, ...]
    findings: tuple[Finding, ...]


def cluster_status(connection: Connection) -> ClusterStatus:
    """Return everything about the cluster of this connection, each part read once.

    Nodes that do not answer are waited for as by `cluster_health` and `shards`, and make sizes
    unknown. Without Citus there are tables with their sizes, and nothing else.
    """
    known, members, parts = tables(connection), nodes(connection), shards(connection)
    health = cluster_health(connection)
    skew, loads = table_skew(known, parts), node_loads(members, parts)
    return ClusterStatus(
        citus=citus_version(connection),
        nodes=members,
        health=health,
        tables=known,
        sizes=sizes_of(connection, known, parts),
        shards=parts,
        groups=groups_of(connection, known),
        skew=skew,
        loads=loads,
        findings=findings(nodes=members, health=health, shards=parts, skew=skew, loads=loads),
    )
