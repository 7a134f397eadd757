"""Whether the nodes of a cluster answer, and whether each can connect to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from citus_analytics.catalog._citus import ask_all_nodes, citus_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from citus_analytics.catalog._citus import Answer

# Every node checks its connections to the active ones. The list travels with the command, because
# a node whose metadata are not synced would not know it. `citus_check_cluster_node_health` asks
# the same, one node after the other: with a host that swallows packets it takes a timeout for
# every node of the cluster, this takes two in all.
_COMMAND: Final = text("""
SELECT format(
    'SELECT coalesce(json_object_agg(id, pg_catalog.citus_check_connection_to_node(host, port)),'
    ' ''{}'')'
    ' FROM json_to_recordset(%L) AS node (id int, host text, port int)',
    coalesce(json_agg(json_build_object('id', nodeid, 'host', nodename, 'port', nodeport)), '[]')
), coalesce(array_agg(nodeid ORDER BY nodeid), '{}') AS targets
FROM pg_catalog.pg_dist_node WHERE isactive
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The way from a node to a node.

    Attributes:
        source: The id of the node that connects.
        target: The id of the node that it connects to, which may be itself.
        connected: Whether it could; None if the source did not answer.
    """

    source: int
    target: int
    connected: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealth:
    """Whether a node answers.

    Attributes:
        node: The id of the node; 0 for a coordinator that is not in the metadata.
        reachable: Whether it answered the node of this connection.
        error: Why it did not, in Citus's words; None if it did.
    """

    node: int
    reachable: bool
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterHealth:
    """The state of a cluster's connections.

    Attributes:
        nodes: Every active primary node, ordered by id.
        links: Every pair of such a node and an active node, ordered by their ids.
    """

    nodes: tuple[NodeHealth, ...]
    links: tuple[Link, ...]

    @property
    def healthy(self) -> bool:
        """Whether every node connects to every node. True without Citus, with no node at all."""
        return all(link.connected for link in self.links)

    @property
    def broken(self) -> tuple[Link, ...]:
        """The links that fail although the target answers the node of this connection."""
        dead = {node.node for node in self.nodes if not node.reachable}
        return tuple(
            link for link in self.links if link.connected is False and link.target not in dead
        )


def cluster_health(connection: Connection) -> ClusterHealth:
    """Let every active node connect to every active node, and return what came of it.

    What cannot be reached is a result, not an error. Nodes are connected to as the role of this
    connection: one that a node does not let in finds it unreachable. May take twice
    `citus.node_connection_timeout` (30 seconds by default) where packets get lost.

    Definition: Citus documentation, `citus_check_cluster_node_health`.
    """
    if citus_version(connection) is None:
        return ClusterHealth(nodes=(), links=())
    command, targets = connection.execute(_COMMAND).one()
    answers = sorted(ask_all_nodes(connection, command).items())
    return ClusterHealth(
        nodes=tuple(
            NodeHealth(node=node, reachable=answer.error is None, error=answer.error)
            for node, answer in answers
        ),
        links=tuple(link for node, answer in answers for link in _links(node, answer, targets)),
    )


def _links(source: int, answer: Answer, targets: list[int]) -> Iterator[Link]:
    for target in targets:
        yield Link(source=source, target=target, connected=answer.value.get(str(target)))
