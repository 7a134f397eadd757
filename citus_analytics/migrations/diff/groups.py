"""What happens to each table, and in which order the tables come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alembic.operations import MigrateOperation
from alembic.operations.ops import CreateTableOp, DropTableOp, ModifyTableOps

from citus_analytics.migrations.diff.state import TableKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from citus_analytics.migrations.diff.state import Declared, Live


@dataclass(slots=True)
class Group:
    """What Alembic does to one table.

    Attributes:
        key: The table.
        create: Its creation, if it is new.
        drop: Its drop, if it goes.
        changes: What happens to its columns, constraints and indexes, in order.
    """

    key: TableKey
    create: CreateTableOp | None = None
    drop: DropTableOp | None = None
    changes: list[MigrateOperation] = field(default_factory=list)


def group_by_table(
    operations: Iterable[MigrateOperation], declared: Declared, live: Live
) -> tuple[list[MigrateOperation], dict[TableKey, Group], list[MigrateOperation]]:
    """Return the operations on no table, and those on each, those of internal ones left out.

    Of the former there are two lists: what comes before the first table, and what comes after.
    Tables to which Alembic does nothing have a group as well, if both sides know them.
    """
    before: list[MigrateOperation] = []
    after: list[MigrateOperation] = []
    groups: dict[TableKey, Group] = {}
    internal = live.internal - declared.tables.keys()
    for operation in operations:
        if not isinstance(operation, CreateTableOp | DropTableOp | ModifyTableOps):
            (after if groups else before).append(operation)
            continue
        key = live.key(operation.schema, operation.table_name)
        if key in internal:
            continue
        group = groups.setdefault(key, Group(key))
        match operation:
            case CreateTableOp():
                group.create = operation
            case DropTableOp():
                group.drop = operation
            case ModifyTableOps():
                group.changes.extend(operation.ops)
    for key in declared.tables:
        if key in live.tables:
            groups.setdefault(key, Group(key))
    return before, groups, after


def in_order(groups: dict[TableKey, Group], declared: Declared) -> list[Group]:
    """Return the groups in the order given, but each after the one that it depends on.

    A table comes after the one that it is to be colocated with.
    """
    after: dict[TableKey, set[TableKey]] = {key: set() for key in groups}
    for key, group in groups.items():
        if group.drop is None and key in declared.tables:
            partner = declared.tables[key].colocated_with
            if partner in groups and groups[partner].drop is None:
                after[key].add(partner)
    seen: set[TableKey] = set()
    return [groups[key] for start in groups for key in _depth_first(start, after, seen)]


def _depth_first(
    key: TableKey, after: dict[TableKey, set[TableKey]], seen: set[TableKey]
) -> Iterator[TableKey]:
    if key in seen:
        return
    seen.add(key)
    for other in sorted(after[key], key=str):
        yield from _depth_first(other, after, seen)
    yield key
