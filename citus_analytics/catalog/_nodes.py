"""The nodes of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from sqlalchemy import text

from citus_analytics.catalog._citus import citus_version

if TYPE_CHECKING:
    from sqlalchemy import Connection

NodeRole: TypeAlias = Literal["primary", "secondary", "unavailable"]

_NODES: Final = text("""
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


def nodes(connection: Connection) -> tuple[Node, ...]:
    """Return the nodes that the metadata names, the coordinator first; none without Citus.

    A coordinator that was never told its own address (`citus_set_coordinator_host`) is not in the
    metadata of a cluster with workers.
    """
    if citus_version(connection) is None:
        return ()
    return tuple(Node(**row) for row in connection.execute(_NODES).mappings())
