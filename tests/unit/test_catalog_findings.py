"""Skew, load and findings, computed from what the catalogs say."""

from __future__ import annotations

import pytest

from citus_analytics.catalog import (
    CatalogTable,
    ClusterHealth,
    Finding,
    Link,
    Node,
    NodeHealth,
    Placement,
    Shard,
    node_loads,
    table_skew,
)
from citus_analytics.catalog.health import findings

MB = 1_000_000


def node(number: int, **changes: object) -> Node:
    values: dict[str, object] = {
        "id": number,
        "group": number,
        "host": "it's",
        "port": 5432,
        "role": "primary",
        "is_coordinator": number == 0,
        "active": True,
        "should_have_shards": number != 0,
        "metadata_synced": True,
    }
    return Node(**(values | changes))  # type: ignore[arg-type]


NODES = [node(number) for number in range(3)]


def table(name: str, *, partition_of: str | None = None) -> CatalogTable:
    return CatalogTable(
        schema="public",
        name=name,
        kind="distributed",
        column="id",
        colocation_id=1,
        shard_count=2,
        access_method="heap",
        partitioned=False,
        partition_of=partition_of and f'"public"."{partition_of}"',
        extension=None,
        in_distributed_schema=False,
        auto_converted=False,
    )


def shards(name: str, *sizes: int | None, first: int = 1) -> list[Shard]:
    """Shards of these sizes, by turns on the nodes 1 and 2."""
    return [
        Shard(
            id=first + number,
            schema="public",
            table=name,
            kind="distributed",
            hash_range=(10 * number, 10 * number + 9),
            colocation_id=1,
            placements=(Placement(node=1 + number % 2, bytes=size),),
        )
        for number, size in enumerate(sizes)
    ]


def all_connected(*nodes: Node) -> ClusterHealth:
    return ClusterHealth(
        nodes=tuple(NodeHealth(node=n.id, reachable=True, error=None) for n in nodes),
        links=tuple(Link(source=a.id, target=b.id, connected=True) for a in nodes for b in nodes),
    )


def found(
    *parts: Shard, nodes: list[Node] = NODES, health: ClusterHealth | None = None
) -> tuple[Finding, ...]:
    tables = [table(name) for name in sorted({part.table for part in parts})]
    return findings(
        nodes=nodes,
        health=health or all_connected(*nodes),
        shards=parts,
        skew=table_skew(tables, parts),
        loads=node_loads(nodes, parts),
    )


@pytest.mark.parametrize(
    ("sizes", "ratio"),
    [
        ((10, 10), 1.0),
        ((30, 10), 1.5),
        ((0, 80, 0, 0), 4.0),
        ((0, 0), None),
        ((10, None), None),
    ],
)
def test_the_skew_of_a_table(sizes: tuple[int | None, ...], ratio: float | None) -> None:
    (skew,) = table_skew([table("a")], shards("a", *sizes))
    assert skew.ratio == ratio
    assert skew.shards == len(sizes)
    if None not in sizes:
        assert skew.largest_shard == 1 + sizes.index(skew.largest_bytes)


def test_one_shard_has_no_skew() -> None:
    assert table_skew([table("a")], shards("a", 10)) == ()


def test_partitions_of_partitions_count_with_the_root() -> None:
    tables = [table("a"), table("b", partition_of="a"), table("c", partition_of="b")]
    parts = [*shards("a", 0, 0), *shards("b", 0, 0, first=11), *shards("c", 10, 30, first=21)]
    more = [table("d", partition_of="a")], shards("d", 20, 0, first=31)
    (skew,) = table_skew(tables + more[0], parts + more[1])
    assert (skew.name, skew.mean_bytes, skew.largest_bytes) == ("a", 30.0, 30)
    assert skew.largest_shard == 1


def test_copies_of_a_shard_are_one_shard_to_its_table_and_two_to_its_nodes() -> None:
    (shard,) = shards("a", 10)
    copies = (Placement(node=1, bytes=None), Placement(node=2, bytes=30))
    twice = Shard(**{**{f: getattr(shard, f) for f in shard.__slots__}, "placements": copies})
    (skew,) = table_skew([table("a")], [twice, *shards("a", 0, 10, first=5)[1:]])
    assert skew.mean_bytes == 20.0
    assert [load.shards for load in node_loads(NODES, [twice])] == [1, 1]
    assert [load.bytes for load in node_loads(NODES, [twice])] == [None, 30]


def test_loads_without_shards() -> None:
    assert [load.bytes_ratio for load in node_loads(NODES, [])] == [None, None]
    assert [load.shards_ratio for load in node_loads(NODES, [])] == [None, None]
    assert node_loads([], []) == ()


def test_nothing_to_say() -> None:
    assert found() == ()
    assert found(*shards("a", 5 * MB, 5 * MB)) == ()
    assert found(nodes=[]) == ()


def test_small_differences_are_no_news() -> None:
    assert found(*shards("a", 0, 16384, 0, 16384)) == ()
    assert found(*shards("a", 900_000, 0, 0, 900_000)) == ()


def test_a_skewed_table() -> None:
    (finding,) = found(*shards("a", 9 * MB, 3 * MB, 0, 6 * MB, 0, 0))
    assert finding.kind == "table_skewed"
    assert 'shard of "public"."a", 1, has 3.0 times the mean of its 6 shards' in finding.message


def test_unbalanced_nodes() -> None:
    (finding,) = found(*shards("a", 8 * MB, 1 * MB, 8 * MB, 1 * MB))
    assert finding.kind == "nodes_unbalanced"
    assert finding.message.startswith("node 1 (it's:5432) holds 1.8 times the mean")


def test_unknown_sizes_accuse_nobody() -> None:
    assert found(*shards("a", 90 * MB, None, 0, 0)) == ()


def test_a_broken_link_between_healthy_nodes() -> None:
    health = all_connected(*NODES)
    links = tuple(
        Link(source=link.source, target=link.target, connected=False)
        if (link.source, link.target) == (1, 2)
        else link
        for link in health.links
    )
    broken = ClusterHealth(nodes=health.nodes, links=links)
    assert not broken.healthy
    (finding,) = found(health=broken)
    assert finding.kind == "nodes_disconnected"
    assert finding.message.startswith("node 1 (it's:5432) cannot connect to node 2 (it's:5432)")


def test_stale_metadata() -> None:
    (finding,) = found(nodes=[*NODES, node(7, metadata_synced=False, should_have_shards=False)])
    assert finding.kind == "metadata_not_synced"
    assert "start_metadata_sync_to_node('it''s', 5432)" in finding.message


def test_secondaries_follow_their_primary() -> None:
    replica = node(7, group=1, role="secondary", metadata_synced=False, active=False)
    assert found(*shards("a", 1, 1), nodes=[*NODES, replica]) == ()
