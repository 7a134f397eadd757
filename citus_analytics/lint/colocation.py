"""Which tables sit on the same nodes, as far as declarations tell.

Citus keeps the shards of a colocation group together. A table that names no other joins the group
of its shard count, type and kind, and Citus then insists on one collation in the group.
Definitions: Citus documentation, "Colocating tables"; what the server does was tried on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from citus_analytics.lint.shape import in_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from citus_analytics.lint.shape import ColumnShape, Tables, TableShape


@dataclass(frozen=True, slots=True)
class Group:
    """A colocation group.

    Attributes:
        type: The type of the distribution columns, None for single-shard tables.
        shard_count: The number of shards, None for the server's default.
        owner: The table that has asked for a group of its own.
    """

    type: str | None
    shard_count: int | None
    owner: str | None


def key_column(table: TableShape) -> ColumnShape | None:
    """Return the distribution column of a table; None if it has none."""
    return table.column(table.spread.column) if table.spread.kind == "sharded" else None


def partner_key(table: TableShape) -> str | None:
    """Return the key of the table that `table` is to be colocated with."""
    spread = table.spread
    if spread.colocate_with is None:
        return None
    return in_schema(spread.colocate_with, spread.colocate_schema or table.schema)


def find(tables: Tables, key: str | None) -> TableShape | None:
    """Return a table by its key; the default schema may be named or not."""
    if key is None:
        return None
    return tables.get(key) or tables.get(key.removeprefix("public."))


def leader(tables: Tables, table: TableShape) -> TableShape | None:
    """Return the table whose own words decide the group of `table`; None if nobody's do."""
    seen = {table.key}
    while (partner := partner_key(table)) is not None:
        found = find(tables, partner)
        if found is None or found.key in seen or not found.spread.distributed:
            return None
        seen.add(found.key)
        table = found
    return table


def group_of(tables: Tables, table: TableShape) -> Group | None:
    """Return the colocation group of a distributed table; None if it is not known."""
    chief = leader(tables, table)
    if chief is None:
        return None
    owner = chief.key if chief.spread.alone else None
    if chief.spread.kind == "single-shard":
        return Group(None, None, owner)
    column = key_column(chief)
    if column is None or column.type is None:
        return None
    return Group(column.type, chief.spread.shard_count, owner)


def converted(tables: Tables) -> set[str]:
    """Return the local tables that Citus takes over: foreign keys tie them to reference tables.

    Citus adds such tables to its metadata, and from then on holds them to its rules. Distributed
    tables do not hand this on.
    """
    links: dict[str, set[str]] = {key: set() for key in tables}
    for one, other in _links(tables):
        links[one].add(other)
        links[other].add(one)
    reached = {key for key, table in tables.items() if table.spread.kind == "reference"}
    waiting = list(reached)
    while waiting:
        new = links[waiting.pop()] - reached
        reached |= new
        waiting.extend(new)
    return {key for key in reached if tables[key].spread.kind == "local"}


def is_on_citus(tables: Tables, table: TableShape) -> bool:
    """Return whether a table is spread, or taken over because of its foreign keys."""
    return table.spread.kind != "local" or table.key in converted(tables)


def _links(tables: Tables) -> Iterator[tuple[str, str]]:
    for key, table in tables.items():
        for foreign_key in table.foreign_keys:
            target = tables.get(foreign_key.target)
            if target and not (table.spread.distributed or target.spread.distributed):
                yield key, foreign_key.target
