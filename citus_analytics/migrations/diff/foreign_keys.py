"""Foreign keys of distributed tables, as operations of their own.

Citus accepts a foreign key only between tables that are distributed already, so it is added after
both are, and it is dropped before either of them is distributed in another way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alembic.operations import MigrateOperation
from alembic.operations.ops import CreateForeignKeyOp, DropConstraintOp
from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.sql.elements import conv

from citus_analytics.sql import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from collections.abc import Set as AbstractSet

    from citus_analytics.migrations.diff.groups import Group
    from citus_analytics.migrations.diff.state import Declared, ForeignKey, Live, TableKey


@dataclass(frozen=True, slots=True)
class DetachedKeys:
    """Foreign keys that are dropped before the tables change, and those that are added after."""

    first: list[MigrateOperation] = field(default_factory=list)
    last: list[MigrateOperation] = field(default_factory=list)


def detach_foreign_keys(
    groups: Collection[Group], changed: AbstractSet[TableKey], declared: Declared, live: Live
) -> DetachedKeys:
    """Take the foreign keys that Citus looks at out of the groups.

    Those of the tables in `changed`, which will be distributed in another way, go and come back.
    """
    detached = DetachedKeys()

    def is_spread(key: TableKey) -> bool:
        return declared.is_spread(key) or live.is_spread(key) or key in changed

    for group in groups:
        if group.create is not None:
            detached.last.extend(_take_from_table(group, is_spread, live))
        if group.drop is not None:
            detached.first.extend(_take_from_drop(group, live))
        _take_from_changes(group, detached)
    dropped = {group.key for group in groups if group.drop is not None}
    gone = {
        (live.key(drop.schema, drop.table_name), drop.constraint_name)
        for drop in detached.first
        if isinstance(drop, DropConstraintOp)
    }
    for key in live.foreign_keys:
        stays = key.table not in dropped and (key.table, key.name) not in gone
        if stays and not changed.isdisjoint((key.table, key.referred)):
            create = _create(key)
            detached.first.append(create.reverse())
            detached.last.append(create)
    return detached


def _take_from_table(
    group: Group, is_spread: Callable[[TableKey], bool], live: Live
) -> list[CreateForeignKeyOp]:
    create = group.create
    if create is None:
        return []
    keys = [
        item
        for item in create.columns
        if isinstance(item, ForeignKeyConstraint)
        and (
            is_spread(group.key)
            or is_spread(live.key(item.referred_table.schema, item.referred_table.name))
        )
    ]
    # By identity: columns are compared to make SQL expressions.
    taken = set(map(id, keys))
    create.columns = [item for item in create.columns if id(item) not in taken]
    return [_named(CreateForeignKeyOp.from_constraint(key)) for key in keys]


def _take_from_drop(group: Group, live: Live) -> list[MigrateOperation]:
    """Take the foreign keys out of what would create a dropped table again; return their drops.

    They go first wherever the table is, so that tables can be dropped in any order.
    """
    reverse = group.drop._reverse if group.drop else None  # noqa: SLF001 - the only way to it
    if reverse is not None:
        reverse.columns = [
            item for item in reverse.columns if not isinstance(item, ForeignKeyConstraint)
        ]
    return [_create(key).reverse() for key in live.foreign_keys if key.table == group.key]


def _take_from_changes(group: Group, detached: DetachedKeys) -> None:
    stay: list[MigrateOperation] = []
    for change in group.changes:
        if isinstance(change, CreateForeignKeyOp):
            detached.last.append(_named(change))
        elif isinstance(change, DropConstraintOp) and change.constraint_type == "foreignkey":
            detached.first.append(change)
        else:
            stay.append(change)
    group.changes[:] = stay


def _create(key: ForeignKey) -> CreateForeignKeyOp:
    return CreateForeignKeyOp(
        # The name as it is: no naming convention shall make another one of it.
        conv(key.name),
        key.table[1],
        key.referred[1],
        list(key.columns),
        list(key.referred_columns),
        source_schema=key.table[0],
        referent_schema=key.referred[0],
        **key.options,
    )


def _named(operation: CreateForeignKeyOp) -> CreateForeignKeyOp:
    """Give a foreign key the name that PostgreSQL would: a downgrade has to drop it by its name."""
    if operation.constraint_name is None:
        name = default_name(operation.source_table, operation.local_cols)
        operation.constraint_name = conv(name)
    return operation


def default_name(table: str, columns: list[str]) -> str:
    """Return the name that PostgreSQL gives to a foreign key without one.

    Of the names of the table and of the columns the longer one is cut first (`makeObjectName`).
    """
    first, second = table.encode(), "_".join(columns).encode()
    room = LONGEST_NAME - len("__fkey")
    while len(first) + len(second) > room:
        if len(first) > len(second):
            first = first[:-1]
        else:
            second = second[:-1]
    return f"{first.decode(errors='ignore')}_{second.decode(errors='ignore')}_fkey"
