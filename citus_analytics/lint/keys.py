"""Rules about what must be unique. A shard can only look after its own rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.lint.finding import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from citus_analytics.lint.shape import KeyShape, Tables, TableShape


def unique_without_distribution_column(_: Tables, table: TableShape) -> Iterator[Fault]:
    """CA001: a primary key, unique constraint or unique index without the distribution column."""
    for key in _lacking(table):
        if key.kind != "exclusion constraint" and table.spread.column not in key.included:
            yield Fault(
                f"{key} of table {table.key!r} does not contain the distribution column "
                f"{table.spread.column!r}: no shard can tell what the others have. Add "
                f"{table.spread.column!r} to it, or distribute the table by one of its columns.",
                table.key,
                key.place or table.place,
            )


def exclusion_without_distribution_column(_: Tables, table: TableShape) -> Iterator[Fault]:
    """CA002: an exclusion constraint that does not compare the distribution column with `=`."""
    for key in _lacking(table):
        if key.kind == "exclusion constraint":
            yield Fault(
                f"{key} of table {table.key!r} does not compare the distribution column "
                f"{table.spread.column!r} with =: rows of different shards could not exclude each "
                f"other. Add ({table.spread.column!r}, '=') to it.",
                table.key,
                key.place or table.place,
            )


def distribution_column_only_included(_: Tables, table: TableShape) -> Iterator[Fault]:
    """CA003: a unique key that has the distribution column in INCLUDE alone."""
    for key in _lacking(table):
        if key.kind != "exclusion constraint" and table.spread.column in key.included:
            yield Fault(
                f"{key} of table {table.key!r} has the distribution column "
                f"{table.spread.column!r} in INCLUDE only: create_distributed_table accepts it, "
                "but it is unique within each shard and not in the table, and the index cannot be "
                f"created again. Make {table.spread.column!r} one of its key columns.",
                table.key,
                key.place or table.place,
            )


def _lacking(table: TableShape) -> Iterator[KeyShape]:
    """Yield the keys whose compared columns lack the distribution column."""
    if table.spread.kind == "sharded":
        yield from (key for key in table.keys if table.spread.column not in key.columns)
