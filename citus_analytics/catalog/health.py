"""The health of a cluster: the connections of its nodes, skew, load, and what needs attention."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal, TypeAlias

from sqlalchemy import text

from citus_analytics.catalog.inspect import (
    CatalogTable,
    ColocationGroup,
    Node,
    Shard,
    TableSize,
    ask_all_nodes,
    citus_version,
    colocation_groups,
    nodes,
    shards,
    sizes_of,
    tables,
    total,
)
from citus_analytics.sql import literal, qualify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from citus_analytics.sql import Executor


# ------------------------------------------------------------------------------------- Connections

# Builds a command with which every node checks its connections to the active ones. The list of
# these travels with the command, because a node whose metadata is not synced would not know it.
# `citus_check_cluster_node_health` asks the same, one node after the other: with a host that
# swallows packets it takes a timeout for every node of the cluster, this takes two in all.
_CHECK_CONNECTIONS = text("""
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
    """Whether one node can connect to another.

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
        """Whether every node connects to every node. True without Citus, without nodes."""
        return all(link.connected for link in self.links)

    @property
    def broken(self) -> tuple[Link, ...]:
        """The links that fail although the target answers the node of this connection."""
        dead = {node.node for node in self.nodes if not node.reachable}
        return tuple(
            link for link in self.links if link.connected is False and link.target not in dead
        )


def cluster_health(session: Executor) -> ClusterHealth:
    """Let every active node connect to every active node, and return which of them succeed.

    A node that cannot be reached is a result, not an error. Nodes are connected to as the role of
    this session: one that does not let that role in counts as unreachable. May take twice
    `citus.node_connection_timeout` (30 seconds by default) where packets get lost.

    Definition: Citus documentation, `citus_check_cluster_node_health`.
    """
    if citus_version(session) is None:
        return ClusterHealth(nodes=(), links=())
    command, targets = session.execute(_CHECK_CONNECTIONS).one()
    answers = sorted(ask_all_nodes(session, command).items())
    return ClusterHealth(
        nodes=tuple(
            NodeHealth(node=node, reachable=answer.error is None, error=answer.error)
            for node, answer in answers
        ),
        links=tuple(
            Link(source=node, target=target, connected=answer.value.get(str(target)))
            for node, answer in answers
            for target in targets
        ),
    )


# ----------------------------------------------------------------------------------- Skew and load


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSkew:
    """How evenly the rows of a distributed table are spread over its shards, by bytes.

    Attributes:
        schema: The schema of the table.
        name: The name of the table.
        shards: The number of its shards. A shard of a partitioned table is what all partitions
            have in one hash range, which is on one node.
        mean_bytes: The mean size of its shards; None if a size is unknown.
        largest_bytes: The size of its largest shard; None if a size is unknown.
        largest_shard: The id of its largest shard; None if a size is unknown.
    """

    schema: str
    name: str
    shards: int
    mean_bytes: float | None
    largest_bytes: int | None
    largest_shard: int | None

    @property
    def ratio(self) -> float | None:
        """The largest shard over the mean: 1 is even, the number of shards is all in one.

        None if a size is unknown, or there is nothing in the table.
        """
        return _ratio(self.largest_bytes, self.mean_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLoad:
    """How much of the sharded tables a node holds.

    Reference tables do not count: they are the same on every node.

    Attributes:
        node: The id of the node.
        shards: The number of shards (copies of shards, where they are replicated).
        bytes: Their size; None if a size is unknown.
        mean_shards: The mean number of shards of the nodes that share the load: those that
            should have shards, and those that have some.
        mean_bytes: The mean of their bytes; None if a size is unknown.
    """

    node: int
    shards: int
    bytes: int | None
    mean_shards: float
    mean_bytes: float | None

    @property
    def shards_ratio(self) -> float | None:
        """The shards of the node over the mean; None if there are no shards."""
        return _ratio(self.shards, self.mean_shards)

    @property
    def bytes_ratio(self) -> float | None:
        """The bytes of the node over the mean; None if unknown, or there is nothing."""
        return _ratio(self.bytes, self.mean_bytes)


def table_skew(tables: Sequence[CatalogTable], shards: Iterable[Shard]) -> tuple[TableSkew, ...]:
    """Return the skew of each table with several shards, in the order of `tables`.

    Partitions count with the table that they belong to, and are not listed themselves.

    Args:
        tables: All tables, as `tables` returns them.
        shards: All shards, as `shards` returns them.
    """
    parents = {table.qualified_name: table.partition_of for table in tables}
    parts: dict[str, dict[object, list[Shard]]] = {}
    for shard in shards:
        if shard.kind == "distributed" and shard.qualified_table in parents:
            root = shard.qualified_table
            while parent := parents.get(root):
                root = parent
            # A shard without a hash range is not partitioned either, and stands for itself.
            place = shard.hash_range or shard.id
            parts.setdefault(root, {}).setdefault(place, []).append(shard)
    skew = []
    for table in tables:
        groups = [*parts.get(table.qualified_name, {}).values()]
        if len(groups) < 2:
            continue
        sizes = [total(shard.bytes for shard in group) for group in groups]
        known = [size for size in sizes if size is not None]
        mean = largest = largest_shard = None
        if len(known) == len(sizes):
            mean, largest = fmean(known), max(known)
            group = groups[known.index(largest)]
            # Of the table itself, rather than of one of its partitions.
            own = (shard for shard in group if shard.qualified_table == table.qualified_name)
            largest_shard = next(own, group[0]).id
        skew.append(
            TableSkew(
                schema=table.schema,
                name=table.name,
                shards=len(groups),
                mean_bytes=mean,
                largest_bytes=largest,
                largest_shard=largest_shard,
            )
        )
    return tuple(skew)


def node_loads(nodes: Iterable[Node], shards: Iterable[Shard]) -> tuple[NodeLoad, ...]:
    """Return the load of each primary node that shares it, in the order of `nodes`.

    Args:
        nodes: All nodes, as `nodes` returns them.
        shards: All shards, as `shards` returns them.
    """
    held: dict[int, list[int | None]] = {
        node.id: []
        for node in nodes
        if node.role == "primary" and node.active and node.should_have_shards
    }
    for shard in shards:
        if shard.kind in ("distributed", "single_shard"):
            for placement in shard.placements:
                held.setdefault(placement.node, []).append(placement.bytes)
    everything = total(size for sizes in held.values() for size in sizes)
    return tuple(
        NodeLoad(
            node=node.id,
            shards=len(held[node.id]),
            bytes=total(held[node.id]),
            mean_shards=fmean(map(len, held.values())),
            mean_bytes=None if everything is None else everything / len(held),
        )
        for node in nodes
        if node.id in held
    )


def _ratio(size: float | None, mean: float | None) -> float | None:
    return None if size is None or not mean else size / mean


# ---------------------------------------------------------------------------------------- Findings

FindingKind: TypeAlias = Literal[
    "coordinator_not_in_metadata",
    "node_unreachable",
    "nodes_disconnected",
    "node_inactive",
    "metadata_not_synced",
    "node_to_be_drained",
    "node_unused",
    "nodes_unbalanced",
    "table_skewed",
]

# A shard or a node is reported if it has so many times the mean ...
_SKEWED_TABLE = 2.0
_UNBALANCED_NODE = 1.5
# ... and so many bytes more. Below that, an index page more or less makes the difference.
_NOTABLE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that needs attention.

    Attributes:
        kind: What it is, for programs.
        message: What is wrong, what was found, and what to do, for people.
    """

    kind: FindingKind
    message: str


def findings(
    *,
    nodes: Sequence[Node],
    health: ClusterHealth,
    shards: Iterable[Shard],
    skew: Iterable[TableSkew],
    loads: Iterable[NodeLoad],
) -> tuple[Finding, ...]:
    """Return what needs attention, the most urgent first; nothing without Citus."""
    held = Counter(placement.node for shard in shards for placement in shard.placements)
    return (
        *_of_connections(nodes, health, held),
        *_of_metadata(nodes, held),
        *_of_balance(nodes, loads, skew),
    )


def _of_connections(
    nodes: Iterable[Node], health: ClusterHealth, held: Mapping[int, int]
) -> Iterator[Finding]:
    # Only a coordinator answers without being in the metadata.
    names = defaultdict(lambda: "the coordinator", {node.id: str(node) for node in nodes})
    for node in health.nodes:
        if not node.reachable:
            yield Finding(
                kind="node_unreachable",
                message=f"{names[node.node]} does not answer: {node.error}. It holds "
                f"{_shards(held[node.node])}, whose sizes are unknown; queries that need them "
                "fail. Start it, or look at its log and at pg_hba.conf.",
            )
    for link in health.broken:
        if link.source == link.target:
            message = (
                f"{names[link.source]} cannot connect to itself. Queries run, but VACUUM, CREATE "
                "INDEX CONCURRENTLY and moving or splitting shards fail. Look at its "
                "listen_addresses and pg_hba.conf, or correct its address with "
                f"SELECT citus_update_node({link.source}, 'address', port)."
            )
        else:
            message = (
                f"{names[link.source]} cannot connect to {names[link.target]}, so queries that "
                "move rows between them fail. Look at the network between them, and at "
                "pg_hba.conf of the second."
            )
        yield Finding(kind="nodes_disconnected", message=message)


def _of_metadata(nodes: Sequence[Node], held: Mapping[int, int]) -> Iterator[Finding]:
    for node in nodes:
        if node.role != "primary":
            continue
        address = f"{literal(node.host)}, {node.port}"
        if not node.active:
            yield Finding(
                kind="node_inactive",
                message=f"{node} is not active, and holds {_shards(held[node.id])}. Activate it "
                f"with SELECT citus_activate_node({address}).",
            )
        elif not node.metadata_synced:
            yield Finding(
                kind="metadata_not_synced",
                message=f"the metadata on {node} is not up to date, so it may answer queries "
                "wrongly. Citus syncs them within a minute of reaching it; SELECT "
                f"start_metadata_sync_to_node({address}) does so now, or says what prevents it.",
            )
    if nodes and not any(node.is_coordinator for node in nodes):
        yield Finding(
            kind="coordinator_not_in_metadata",
            message="the coordinator is not in the metadata, so workers cannot connect to it and "
            "reference tables have no copy on it. Set its address with "
            "SELECT citus_set_coordinator_host('address', port).",
        )


def _of_balance(
    nodes: Iterable[Node], loads: Iterable[NodeLoad], skew: Iterable[TableSkew]
) -> Iterator[Finding]:
    by_id = {node.id: node for node in nodes}
    for load in loads:
        node = by_id[load.node]
        if not node.should_have_shards:
            yield Finding(
                kind="node_to_be_drained",
                message=f"{node} should have no shards, and holds {_shards(load.shards)}. "
                "SELECT citus_rebalance_start(drain_only => true) moves them elsewhere.",
            )
        elif load.mean_shards and not load.shards:
            yield Finding(
                kind="node_unused",
                message=f"{node} holds no shard, where the mean is {load.mean_shards:.1f}. "
                "SELECT citus_rebalance_start() moves its share there.",
            )
        elif _stands_out(load.bytes, load.mean_bytes, _UNBALANCED_NODE):
            yield Finding(
                kind="nodes_unbalanced",
                message=f"{node} holds {load.bytes_ratio:.1f} times the mean of the nodes. "
                "SELECT citus_rebalance_start() moves shards, but never parts of a shard.",
            )
    for table in skew:
        if _stands_out(table.largest_bytes, table.mean_bytes, _SKEWED_TABLE):
            yield Finding(
                kind="table_skewed",
                message=f"the largest shard of {qualify(table.name, table.schema)}, "
                f"{table.largest_shard}, has {table.ratio:.1f} times the mean of its "
                f"{table.shards} shards. Few values of the distribution column have many of the "
                "rows: another column, or isolate_tenant_to_new_shard, spreads them.",
            )


def _stands_out(size: int | None, mean: float | None, times: float) -> bool:
    if size is None or mean is None:
        return False
    return size >= times * mean and size - mean >= _NOTABLE_BYTES


def _shards(number: int) -> str:
    return f"{number:,} shard{'' if number == 1 else 's'}"


# ------------------------------------------------------------------------------------------ Status


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """The results of the other functions of this package, and the findings.

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


def cluster_status(session: Executor) -> ClusterStatus:
    """Return everything about the cluster of this session, each part read once.

    Nodes that do not answer are waited for as by `cluster_health` and `shards`, and make sizes
    unknown. Without Citus there are tables with their sizes, and nothing else.
    """
    all_tables, all_nodes, all_shards = tables(session), nodes(session), shards(session)
    health = cluster_health(session)
    skew, loads = table_skew(all_tables, all_shards), node_loads(all_nodes, all_shards)
    return ClusterStatus(
        citus=citus_version(session),
        nodes=all_nodes,
        health=health,
        tables=all_tables,
        sizes=sizes_of(session, all_tables, all_shards),
        shards=all_shards,
        groups=colocation_groups(session),
        skew=skew,
        loads=loads,
        findings=findings(
            nodes=all_nodes, health=health, shards=all_shards, skew=skew, loads=loads
        ),
    )
