"""How much the tables take on disk, over all nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from citus_analytics.catalog._shards import LOCKED, shards
from citus_analytics.catalog._tables import tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from citus_analytics.catalog._shards import Shard
    from citus_analytics.catalog._tables import CatalogTable

_LOCAL_SIZES: Final = text(
    f"""
SELECT n.nspname, c.relname,
       CASE WHEN NOT {LOCKED} THEN pg_catalog.pg_total_relation_size(c.oid) END
FROM unnest(CAST(:schemas AS text[]), CAST(:names AS text[])) AS wanted (schema, name)
JOIN pg_catalog.pg_namespace AS n ON n.nspname = wanted.schema
JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = wanted.name
"""  # noqa: S608
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSize:
    """What a table takes on disk.

    Attributes:
        schema: The schema of the table.
        name: The name of the table.
        bytes: The sum over all nodes and copies, with indexes, TOAST and, of a partitioned table,
            its partitions; None if a part of it is unknown.
    """

    schema: str
    name: str
    bytes: int | None


def table_sizes(
    connection: Connection, *, schemas: Collection[str] | None = None
) -> tuple[TableSize, ...]:
    """Return the sizes of the tables that `tables` returns, in the same order.

    Nodes that do not answer are waited for as by `shards`; the sizes of tables that have shards
    there are unknown, and so are those of tables that something else has locked.

    Args:
        connection: Where to look. The size of a local table is that on this connection's node.
        schemas: Only these schemas; None for all.

    Raises:
        ArgumentError: `schemas` is a single string.
    """
    wanted = tables(connection, schemas=schemas)
    # A partition may be in another schema than its parent.
    known = wanted if schemas is None else tables(connection)
    sizes = sizes_of(connection, known, shards(connection))
    of_table = {(size.schema, size.name): size for size in sizes}
    return tuple(
        of_table[table.schema, table.name]
        for table in wanted
        if (table.schema, table.name) in of_table
    )


def sizes_of(
    connection: Connection, known: Sequence[CatalogTable], parts: Iterable[Shard]
) -> tuple[TableSize, ...]:
    """Return the sizes of the `known` tables, given all shards."""
    own = _sizes_of_shards(parts) | _sizes_of_local(connection, known)
    totals: dict[str, int | None] = {}
    for name, ancestors in lineages(known).items():
        for ancestor in ancestors:
            totals[ancestor] = total((totals.get(ancestor, 0), own.get(name, 0)))
    return tuple(
        TableSize(schema=table.schema, name=table.name, bytes=totals[table.qualified_name])
        for table in known
    )


def lineages(known: Sequence[CatalogTable]) -> dict[str, tuple[str, ...]]:
    """Return for each table itself, its parent if it is a partition, and so on to the root."""
    parents = {table.qualified_name: table.partition_of for table in known}
    return {name: tuple(_upwards(name, parents)) for name in parents}


def total(sizes: Iterable[int | None]) -> int | None:
    """Return the sum, which is unknown if a part of it is."""
    numbers = list(sizes)
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _upwards(name: str | None, parents: Mapping[str, str | None]) -> Iterable[str]:
    while name is not None:
        yield name
        name = parents.get(name)


def _sizes_of_shards(parts: Iterable[Shard]) -> dict[str, int | None]:
    sizes: dict[str, int | None] = {}
    for shard in parts:
        name = shard.qualified_table
        sizes[name] = total((sizes.get(name, 0), *(p.bytes for p in shard.placements)))
    return sizes


def _sizes_of_local(connection: Connection, known: Iterable[CatalogTable]) -> dict[str, int | None]:
    local = [table for table in known if table.kind == "local"]
    rows = connection.execute(
        _LOCAL_SIZES,
        {"schemas": [t.schema for t in local], "names": [t.name for t in local]},
    )
    sizes = {(schema, name): size for schema, name, size in rows}
    return {t.qualified_name: sizes.get((t.schema, t.name)) for t in local}
