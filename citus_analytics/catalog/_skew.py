"""How evenly the data lie: over the shards of a table, and over the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from citus_analytics.catalog._sizes import lineages, total

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from citus_analytics.catalog._nodes import Node
    from citus_analytics.catalog._shards import Shard
    from citus_analytics.catalog._tables import CatalogTable


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSkew:
    """How evenly the rows of a distributed table lie over its shards, by bytes.

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
    """What a node holds of the sharded tables.

    Reference tables do not count: they are the same on every node.

    Attributes:
        node: The id of the node.
        shards: The number of shards (copies of shards, where they are replicated).
        bytes: What they take; None if a size is unknown.
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
    root_of = {name: ancestors[-1] for name, ancestors in lineages(tables).items()}
    parts: dict[str, dict[object, list[Shard]]] = {}
    for shard in shards:
        root = root_of.get(shard.qualified_table)
        if root is not None and shard.kind == "distributed":
            # What has no hash range is not partitioned either, and stands for itself.
            place = shard.hash_range or shard.id
            parts.setdefault(root, {}).setdefault(place, []).append(shard)
    return tuple(
        _skew(table, [*parts[table.qualified_name].values()])
        for table in tables
        if len(parts.get(table.qualified_name, ())) > 1
    )


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
    counts = {node: len(sizes) for node, sizes in held.items()}
    sums = {node: total(sizes) for node, sizes in held.items()}
    return tuple(
        NodeLoad(
            node=node.id,
            shards=counts[node.id],
            bytes=sums[node.id],
            mean_shards=fmean(counts.values()),
            mean_bytes=_mean([*sums.values()]),
        )
        for node in nodes
        if node.id in held
    )


def _skew(table: CatalogTable, parts: Sequence[Sequence[Shard]]) -> TableSkew:
    sizes = [total(shard.bytes for shard in part) for part in parts]
    known = [size for size in sizes if size is not None]
    complete = len(known) == len(sizes)
    largest = max(known, default=0)
    return TableSkew(
        schema=table.schema,
        name=table.name,
        shards=len(parts),
        mean_bytes=_mean(sizes),
        largest_bytes=largest if complete else None,
        largest_shard=_id_of(parts[sizes.index(largest)], table) if complete else None,
    )


def _id_of(part: Sequence[Shard], table: CatalogTable) -> int:
    """Return the shard of the table itself among those of its partitions."""
    own = (shard.id for shard in part if shard.qualified_table == table.qualified_name)
    return next(own, part[0].id)


def _mean(sizes: Sequence[int | None]) -> float | None:
    whole = total(sizes)
    return None if whole is None else whole / len(sizes)


def _ratio(size: float | None, mean: float | None) -> float | None:
    return None if size is None or not mean else size / mean
