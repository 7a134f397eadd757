"""What needs attention in a cluster, in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from citus_analytics.sql import literal, qualify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from citus_analytics.catalog._health import ClusterHealth
    from citus_analytics.catalog._nodes import Node
    from citus_analytics.catalog._shards import Shard
    from citus_analytics.catalog._skew import NodeLoad, TableSkew

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

# A shard or a node is conspicuous that has that many times the mean ...
SKEWED_TABLE: Final = 2.0
UNBALANCED_NODE: Final = 1.5
# ... and that many bytes more. Below, an index page more or less makes the difference.
CONSPICUOUS_BYTES: Final = 1_000_000


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
    loads: Sequence[NodeLoad],
) -> tuple[Finding, ...]:
    """Return what needs attention, the most urgent first; nothing without Citus."""
    names = {node.id: str(node) for node in nodes}
    held = Counter(placement.node for shard in shards for placement in shard.placements)
    return (
        *_unreachable(health, names, held),
        *_disconnected(health, names),
        *_of_nodes(nodes, held),
        *_unregistered(nodes),
        *_of_loads(nodes, loads, names),
        *_skewed(skew),
    )


def _unreachable(
    health: ClusterHealth, names: Mapping[int, str], held: Mapping[int, int]
) -> Iterator[Finding]:
    for node in health.nodes:
        if not node.reachable:
            yield Finding(
                kind="node_unreachable",
                message=f"{_name(node.node, names)} does not answer: {node.error}. It holds "
                f"{_shards(held[node.node])}, whose sizes are unknown; queries that need "
                "them fail. Start it, or look at its log and at pg_hba.conf.",
            )


def _disconnected(health: ClusterHealth, names: Mapping[int, str]) -> Iterator[Finding]:
    for link in health.broken:
        yield Finding(
            kind="nodes_disconnected",
            message=f"{_name(link.source, names)} cannot connect to "
            f"{_name(link.target, names)}, so queries that move rows between them fail. "
            "Look at the network between them, and at pg_hba.conf of the second.",
        )


def _of_nodes(nodes: Iterable[Node], held: Mapping[int, int]) -> Iterator[Finding]:
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
                message=f"the metadata on {node} are not up to date, so it may answer queries "
                "wrongly. Citus syncs them within a minute of reaching it; SELECT "
                f"start_metadata_sync_to_node({address}) does so now, and says what hinders it.",
            )


def _unregistered(nodes: Sequence[Node]) -> Iterator[Finding]:
    if nodes and not any(node.is_coordinator for node in nodes):
        yield Finding(
            kind="coordinator_not_in_metadata",
            message="the coordinator is not in the metadata, so workers cannot connect to it and "
            "reference tables have no copy on it. Tell its address with "
            "SELECT citus_set_coordinator_host('address', port).",
        )


def _of_loads(
    nodes: Iterable[Node], loads: Sequence[NodeLoad], names: Mapping[int, str]
) -> Iterator[Finding]:
    drained = {node.id for node in nodes if not node.should_have_shards}
    for load in loads:
        name = names[load.node]
        if load.node in drained:
            yield Finding(
                kind="node_to_be_drained",
                message=f"{name} should have no shards, and holds {_shards(load.shards)}. "
                "SELECT citus_rebalance_start(drain_only => true) moves them elsewhere.",
            )
        elif load.mean_shards and not load.shards:
            yield Finding(
                kind="node_unused",
                message=f"{name} holds no shard, where the mean is {load.mean_shards:.1f}. "
                "SELECT citus_rebalance_start() gives it its part.",
            )
        elif _conspicuous(load.bytes, load.mean_bytes, UNBALANCED_NODE):
            yield Finding(
                kind="nodes_unbalanced",
                message=f"{name} holds {load.bytes_ratio:.1f} times the mean of the nodes. "
                "SELECT citus_rebalance_start() moves shards, but never parts of a shard.",
            )


def _skewed(skew: Iterable[TableSkew]) -> Iterator[Finding]:
    for table in skew:
        if _conspicuous(table.largest_bytes, table.mean_bytes, SKEWED_TABLE):
            name = qualify(table.name, table.schema)
            yield Finding(
                kind="table_skewed",
                message=f"the largest shard of {name}, {table.largest_shard}, has "
                f"{table.ratio:.1f} times the mean of its {table.shards} shards. Few values of "
                "the distribution column have many of the rows: another column, or "
                "isolate_tenant_to_new_shard, spreads them.",
            )


def _conspicuous(size: int | None, mean: float | None, times: float) -> bool:
    if size is None or mean is None:
        return False
    return size >= times * mean and size - mean >= CONSPICUOUS_BYTES


def _name(node: int, names: Mapping[int, str]) -> str:
    return names.get(node, "the coordinator")


def _shards(number: int) -> str:
    return f"{number:,} shard{'' if number == 1 else 's'}"
