"""Colocation groups: tables whose shards for the same values sit on the same nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from citus_analytics.catalog._citus import citus_version
from citus_analytics.catalog._tables import tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from citus_analytics.catalog._tables import CatalogTable

_GROUPS: Final = text("""
SELECT colocationid AS id, shardcount AS shard_count,
       -- Citus writes -1 for a copy on every node.
       CASE WHEN replicationfactor > 0 THEN replicationfactor END AS replication_factor,
       pg_catalog.format_type(nullif(distributioncolumntype, 0), NULL) AS column_type
FROM pg_catalog.pg_dist_colocation
ORDER BY colocationid
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColocationGroup:
    """Tables that can be joined on their distribution columns without leaving a node.

    Attributes:
        id: The number of the group.
        shard_count: The number of shards of each of its tables.
        replication_factor: How many copies there are of each shard; None for one on every node,
            which reference tables have.
        column_type: The type of the distribution columns, such as "bigint"; None for tables that
            have none.
        tables: The `qualified_name` of each table, partitions and extensions' tables included.
    """

    id: int
    shard_count: int
    replication_factor: int | None
    column_type: str | None
    tables: tuple[str, ...]


def colocation_groups(connection: Connection) -> tuple[ColocationGroup, ...]:
    """Return the colocation groups, ordered by id; none without Citus."""
    return groups_of(connection, tables(connection))


def groups_of(connection: Connection, known: Iterable[CatalogTable]) -> tuple[ColocationGroup, ...]:
    """Return the colocation groups, with those of the `known` tables that are in them."""
    if citus_version(connection) is None:
        return ()
    members: dict[int | None, list[str]] = {}
    for table in known:
        members.setdefault(table.colocation_id, []).append(table.qualified_name)
    return tuple(
        ColocationGroup(**row, tables=tuple(members.get(row["id"], ())))
        for row in connection.execute(_GROUPS).mappings()
    )
