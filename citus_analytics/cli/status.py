"""`citus-analytics status`: the cluster for a person, or as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from citus_analytics.catalog import cluster_status
from citus_analytics.cli.database import engine_for, server_of, url_of
from citus_analytics.cli.output import open_screen, write_json
from citus_analytics.cli.progress import waiting
from citus_analytics.cli.words import plural, size

if TYPE_CHECKING:
    from argparse import Namespace

    from citus_analytics.catalog import CatalogTable, ClusterStatus, Node
    from citus_analytics.cli.database import Server
    from citus_analytics.cli.screen import Screen

_KINDS: Final = {
    "distributed": "distributed",
    "single_shard": "single shard",
    "reference": "reference",
    "citus_local": "local, known to Citus",
    "local": "local",
}
_OF_CITUS: Final = ("type", "column", "group", "shards")
# What does not apply; "unknown" is what does, but cannot be told.
_NOTHING: Final = "-"
_NAMED: Final = 3


def status(arguments: Namespace) -> None:
    """Tell the state of a cluster, or of a database without Citus."""
    screen = None if arguments.json else open_screen()
    with engine_for(url_of(arguments)).connect() as connection, waiting("Asking all nodes"):
        server, found = server_of(connection), cluster_status(connection)
    if screen is None:
        write_json(_document(server, found))
        return
    screen.say(str(server))
    if found.citus is None:
        _show_tables(screen, found)
    else:
        _show_nodes(screen, found)
        _show_tables(screen, found)
        _show_groups(screen, found)
        _show_skew(screen, found)
        _show_findings(screen, found)
    screen.note("Python: citus_analytics.catalog.cluster_status(connection)")


def _show_nodes(screen: Screen, found: ClusterStatus) -> None:
    loads = {load.node: load for load in found.loads}
    rows, bars = [], []
    for node in found.nodes:
        load = loads.get(node.id)
        rows.append(
            (
                str(node.id),
                f"{node.host}:{node.port}",
                _role(node),
                _state(node, found),
                load.shards if load else _NOTHING,
                _size(load.bytes) if load else _NOTHING,
            )
        )
        bars.append(load.bytes or 0 if load else 0)
    headers = ("node", "address", "role", "state", "shards", "size")
    screen.heading("Nodes, and what they hold of sharded tables")
    screen.table(headers, rows, numeric=("node", "shards", "size"), bars=bars)


def _show_tables(screen: Screen, found: ClusterStatus) -> None:
    pairs = zip(found.tables, found.sizes, strict=True)
    own = [(table, size.bytes) for table, size in pairs if _is_shown(table)]
    # The largest first, and before them what may be larger.
    own.sort(key=lambda pair: (pair[1] is not None, -(pair[1] or 0)))
    screen.heading("Tables, with all their copies, indexes and partitions")
    if not own:
        screen.say("There are none.")
        return
    of_citus = _OF_CITUS if found.citus is not None else ()
    partitions = Counter(table.partition_of for table in found.tables)
    rows = [
        (
            f"{table.schema}.{table.name}",
            *(_spread(table) if of_citus else ()),
            _storage(table, partitions[table.qualified_name]),
            _size(size),
        )
        for table, size in own
    ]
    headers = ("table", *of_citus, "storage", "size")
    screen.table(headers, rows, numeric=("group", "shards", "size"))


def _show_groups(screen: Screen, found: ClusterStatus) -> None:
    shown = {table.qualified_name: table for table in found.tables if _is_shown(table)}
    rows = []
    for group in found.groups:
        members = [shown[name] for name in group.tables if name in shown]
        named = ", ".join(f"{table.schema}.{table.name}" for table in members[:_NAMED])
        more = f" and {len(members) - _NAMED} more" if len(members) > _NAMED else ""
        copies = group.replication_factor or "every node"
        column_type = group.column_type or _NOTHING
        rows.append((str(group.id), group.shard_count, copies, column_type, named + more))
    if rows:
        screen.heading("Colocation groups, whose tables join without leaving a node")
        headers = ("group", "shards", "copies", "column type", "tables")
        screen.table(headers, rows, numeric=("group", "shards", "copies"))


def _show_skew(screen: Screen, found: ClusterStatus) -> None:
    skew = [(table, table.ratio) for table in found.skew if table.ratio is not None]
    skew.sort(key=lambda pair: -pair[1])
    if not skew:
        return
    screen.heading("Skew, the largest shard of a table over the mean of its shards")
    rows = [
        (
            f"{table.schema}.{table.name}",
            table.shards,
            _size(table.mean_bytes),
            _size(table.largest_bytes),
            f"{ratio:.2f}",
        )
        for table, ratio in skew
    ]
    headers = ("table", "shards", "mean", "largest", "ratio")
    screen.table(headers, rows, numeric=headers[1:], bars=[ratio for _, ratio in skew])


def _show_findings(screen: Screen, found: ClusterStatus) -> None:
    if not found.findings:
        screen.heading("Nothing needs attention.")
        return
    screen.heading(f"{plural(len(found.findings), 'warning')}")
    for finding in found.findings:
        screen.warn(f"- {finding.message}")


def _is_shown(table: CatalogTable) -> bool:
    """Whether a table is of somebody's own, and not a part of another."""
    return table.extension is None and table.partition_of is None


def _spread(table: CatalogTable) -> tuple[str, str, str, int | str]:
    group = str(table.colocation_id or _NOTHING)
    kind = f"{_KINDS[table.kind]}{', by schema' if table.in_distributed_schema else ''}"
    return kind, table.column or _NOTHING, group, table.shard_count or _NOTHING


def _storage(table: CatalogTable, partitions: int) -> str:
    if table.partitioned:
        return plural(partitions, "partition")
    return table.access_method or "foreign"


def _role(node: Node) -> str:
    if node.role != "primary":
        return f"{node.role}, group {node.group}"
    return "coordinator" if node.is_coordinator else "worker"


def _state(node: Node, found: ClusterStatus) -> str:
    if not node.active:
        return "inactive"
    health = next((health for health in found.health.nodes if health.node == node.id), None)
    if health is not None and not health.reachable:
        return "does not answer"
    if any(link.source == node.id for link in found.health.broken):
        return "cannot reach all nodes"
    return "ok" if node.metadata_synced or node.role != "primary" else "metadata not synced"


def _size(number: float | None) -> str | None:
    return None if number is None else size(number)


def _document(server: Server, found: ClusterStatus) -> dict[str, Any]:
    """Return the status as JSON has it: one list of nodes, and one of tables."""
    health = {node.node: node for node in found.health.nodes}
    loads = {load.node: load for load in found.loads}
    skew = {(table.schema, table.name): table.ratio for table in found.skew}
    return {
        "server": server,
        "nodes": [
            {
                **asdict(node),
                "reachable": health[node.id].reachable if node.id in health else None,
                "error": health[node.id].error if node.id in health else None,
                "shards": loads[node.id].shards if node.id in loads else None,
                "bytes": loads[node.id].bytes if node.id in loads else None,
            }
            for node in found.nodes
        ],
        "links": found.health.links,
        "tables": [
            {**asdict(table), "bytes": size.bytes, "skew": skew.get((table.schema, table.name))}
            for table, size in zip(found.tables, found.sizes, strict=True)
        ],
        "colocation_groups": found.groups,
        "findings": found.findings,
    }
