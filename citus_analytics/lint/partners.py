"""Rules about the partners that tables name, or that Citus chooses for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.lint.colocation import find, group_of, key_column, leader, partner_key
from citus_analytics.lint.finding import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from citus_analytics.lint.shape import ColumnShape, Tables, TableShape


def partners_differ(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA017: colocated distribution columns of different types or collations."""
    own = key_column(table)
    if own is None:
        return
    for partner in _partners(tables, table):
        other = key_column(partner)
        if other is not None and (difference := _difference(own, other)):
            yield Fault(
                f"table {table.key!r} is colocated with {partner.key!r}, but their distribution "
                f"columns differ: {difference}. Equal values must have equal hashes: declare both "
                "columns alike, or give one table a shard_count of its own.",
                table.key,
                own.place or table.place,
            )
            return


def no_such_partner(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA018: a table to be colocated with something that has no shards of the same kind."""
    key = partner_key(table)
    if key is None:
        return
    partner = find(tables, key)
    if partner is None:
        wrong = "which is not known here"
    elif not partner.spread.distributed:
        wrong = f"which is {partner.spread.kind}"
    elif leader(tables, table) is None:
        wrong = "which in turn is colocated with this one, or with no distributed table"
    elif partner.spread.kind != table.spread.kind:
        wrong = f"which is {partner.spread.kind}, while this one is {table.spread.kind}"
    else:
        return
    yield Fault(
        f"table {table.key!r} is to be colocated with {key!r}, {wrong}. Name a distributed table "
        "of the same kind and schema, which is distributed before this one.",
        table.key,
        table.place,
    )


def single_shard(_: Tables, table: TableShape) -> Iterator[Fault]:
    """CA019: a distributed table without a distribution column, before Citus 12.0."""
    if table.spread.kind == "single-shard":
        yield Fault(
            f"table {table.key!r} has no distribution column: single-shard tables came with Citus "
            "12.0. Give it a distribution column, or make it a reference table.",
            table.key,
            table.place,
        )


def _partners(tables: Tables, table: TableShape) -> Iterator[TableShape]:
    """Yield the table that is named, or those before this one that Citus would choose."""
    key = partner_key(table)
    if key is not None:
        if (partner := find(tables, key)) is not None:
            yield partner
        return
    group = group_of(tables, table)
    for other in tables.values():
        if other is table:
            return
        chooses_itself = leader(tables, other) is other and other.spread.kind == "sharded"
        if group is not None and chooses_itself and group_of(tables, other) == group:
            yield other


def _difference(own: ColumnShape, other: ColumnShape) -> str | None:
    if own.type is None or other.type is None:
        return None
    if own.type != other.type:
        return f"{own.name!r} is {own.type}, {other.name!r} is {other.type}"
    if own.collation != other.collation:
        mine, theirs = own.collation or "the default", other.collation or "the default"
        return f"the collation of {own.name!r} is {mine}, that of {other.name!r} is {theirs}"
    return None
