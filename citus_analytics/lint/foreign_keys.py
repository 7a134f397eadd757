"""Rules about foreign keys: both rows must be on one node, and stay there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from citus_analytics.lint.colocation import group_of, is_on_citus
from citus_analytics.lint.finding import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from citus_analytics.lint.shape import ForeignKeyShape, Tables, TableShape

_HARMLESS = ("NO ACTION", "RESTRICT")


def distributed_to_local(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA004: from a distributed table to a local one."""
    for key, target in _foreign_keys(tables, table):
        if table.spread.distributed and target.spread.kind == "local":
            yield _fault(
                table,
                key,
                f"refers to {target.key!r}, which is local: workers do not have its rows. Make "
                f"{target.key!r} a reference table, or distribute it, before {table.key!r}.",
            )


def not_colocated(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA005: between distributed tables that are not colocated."""
    for key, target in _foreign_keys(tables, table):
        if not (table.spread.distributed and target.spread.distributed) or target is table:
            continue
        own, other = group_of(tables, table), group_of(tables, target)
        if own is not None and other is not None and own != other:
            yield _fault(
                table,
                key,
                f"refers to {target.key!r}, which is not sure to be colocated with it: their "
                f"{_difference(table, target)}. Declare colocate_with={target.name!r}, or make "
                f"{target.key!r} a reference table.",
            )


def distribution_columns_not_paired(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA006: between colocated tables, without the distribution columns at the same place."""
    for key, target in _foreign_keys(tables, table):
        if table.spread.kind != "sharded" or target.spread.kind != "sharded":
            continue
        own, other = group_of(tables, table), group_of(tables, target)
        if own is not None and other is not None and own != other:
            continue
        pairs = zip(key.columns, key.target_columns, strict=False)
        if not any(pair == (table.spread.column, target.spread.column) for pair in pairs):
            yield _fault(
                table,
                key,
                f"does not pair the distribution columns {table.spread.column!r} and "
                f"{target.spread.column!r} of {target.key!r}: the row that it refers to may be on "
                "another node. Add both, at the same place.",
            )


def replicated_to_distributed(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA007: from a reference table, or a local table tied to one, to a distributed table."""
    if table.spread.distributed:
        return
    for key, target in _foreign_keys(tables, table):
        if target.spread.distributed and is_on_citus(tables, table):
            is_local = table.spread.kind == "local"
            kind = "local table tied to a reference one" if is_local else "reference table"
            yield _fault(
                table,
                key,
                f"of a {kind} refers to {target.key!r}, which is distributed: no node has all "
                "rows. Drop the foreign key, or distribute "
                f"{table.key!r} by the column that it refers with.",
            )


def local_to_distributed(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA008: from a local table to a distributed one."""
    for key, target in _foreign_keys(tables, table):
        if target.spread.distributed and not is_on_citus(tables, table):
            yield _fault(
                table,
                key,
                f"of a local table refers to {target.key!r}, which is distributed: inserts are "
                f"checked, but rows that are deleted from {target.key!r} leave theirs behind. Drop "
                f"the foreign key, or distribute {table.key!r} as well.",
            )


def reference_to_local_with_action(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA009: from a reference table to a local one, with an action that writes."""
    for key, target in _foreign_keys(tables, table):
        actions = [action for action in _actions(key) if not action.endswith(_HARMLESS)]
        if table.spread.kind == "reference" and target.spread.kind == "local" and actions:
            yield _fault(
                table,
                key,
                f"of a reference table has {' and '.join(actions)}, but {target.key!r} is local: "
                "only NO ACTION and RESTRICT are supported. Make "
                f"{target.key!r} a reference table too, or leave the action out.",
            )


def action_on_distribution_column(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA010: an action that would change the distribution column."""
    for key, _ in _foreign_keys(tables, table):
        actions = [
            action
            for action in _actions(key)
            if "SET " in action or action.startswith("ON UPDATE CASCADE")
        ]
        if table.spread.kind == "sharded" and table.spread.column in key.columns and actions:
            yield _fault(
                table,
                key,
                f"contains the distribution column {table.spread.column!r} and has "
                f"{' and '.join(actions)}, which could move rows between shards. Use NO ACTION, "
                "RESTRICT or ON DELETE CASCADE.",
            )


def default_from_sequence(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA011: an action that sets a column to the next value of a sequence."""
    for key, _ in _foreign_keys(tables, table):
        for name in _set_to_default(key):
            column = table.column(name)
            numbered = column is not None and (column.sequence is not None or column.identity)
            if numbered and is_on_citus(tables, table):
                yield _fault(
                    table,
                    key,
                    f"has SET DEFAULT, but {name!r} takes its default from a sequence, which the "
                    "shards do not have. Give the column a constant default, or use SET NULL.",
                )


def _foreign_keys(
    tables: Tables, table: TableShape
) -> Iterator[tuple[ForeignKeyShape, TableShape]]:
    """Yield the foreign keys to tables that are known."""
    for key in table.foreign_keys:
        target = tables.get(key.target)
        if target is not None:
            yield key, target


def _fault(table: TableShape, key: ForeignKeyShape, message: str) -> Fault:
    return Fault(f"{key} of table {table.key!r} {message}", table.key, key.place or table.place)


def _actions(key: ForeignKeyShape) -> tuple[str, str]:
    return f"ON DELETE {key.on_delete}", f"ON UPDATE {key.on_update}"


def _set_to_default(key: ForeignKeyShape) -> tuple[str, ...]:
    """Return the columns that an action sets to their defaults."""
    if key.on_update == "SET DEFAULT" or key.on_delete == "SET DEFAULT":
        return key.columns
    if not key.on_delete.startswith("SET DEFAULT"):
        return ()
    listed = [name.strip('" ').lower() for name in re.split(r"[(),]", key.on_delete)]
    return tuple(name for name in key.columns if name.lower() in listed)


def _difference(table: TableShape, target: TableShape) -> str:
    if table.spread.kind != target.spread.kind:
        return f"kinds are {table.spread.kind} and {target.spread.kind}"
    own, other = (one.column(one.spread.column) for one in (table, target))
    if own is not None and other is not None and own.type != other.type:
        return f"distribution columns are {own.type} and {other.type}"
    if table.spread.alone or target.spread.alone:
        return "declarations say colocate_with='none'"
    return "shard counts are not said to be the same"
