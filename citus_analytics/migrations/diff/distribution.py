"""How a table that exists becomes distributed as it is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.migrations.operations import (
    AlterDistributedTableOp,
    AlterTableSetAccessMethodOp,
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    UndistributeTableOp,
)
from citus_analytics.schema import Distributed, Local, Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from alembic.operations import MigrateOperation

    from citus_analytics.migrations.diff.state import Declared, DeclaredTable, Live, TableKey

    Changes = Mapping[TableKey, Sequence[MigrateOperation]]


def create_distribution(table: DeclaredTable, *, new: bool) -> list[MigrateOperation]:
    """Return the operation that distributes a local table as declared, if it is to be."""
    schema, name = table.key
    match table.distribution:
        case Distributed() as distribution:
            return [CreateDistributedTableOp(name, distribution, schema, new=new)]
        case Reference():
            return [CreateReferenceTableOp(name, schema, new=new)]
        case _:
            return []


def create_storage(table: DeclaredTable) -> list[MigrateOperation]:
    """Return the operation that stores a new table as declared, if that is not the usual way.

    `CREATE TABLE ... USING columnar` fails on a server without Citus; this does as its policy says.
    """
    schema, name = table.key
    if table.access_method in (None, "heap"):
        return []
    return [AlterTableSetAccessMethodOp(name, table.access_method, schema=schema, new=True)]


def discard(table: DeclaredTable) -> list[MigrateOperation]:
    """Return what a DROP TABLE does away with, so that its reverse brings it back."""
    lost = [*create_storage(table), *create_distribution(table, new=True)]
    return [operation.reverse() for operation in reversed(lost)]


def change_access_method(table: DeclaredTable, live: Live) -> list[MigrateOperation]:
    """Return the operation that stores an existing table as declared, if it is not."""
    schema, name = table.key
    found = live.tables[table.key].access_method
    if found is None or table.access_method in (None, found):
        return []
    # As with distribution: what a server does not have is not asked of it.
    if table.access_method not in live.access_methods:
        return []
    return [AlterTableSetAccessMethodOp(name, table.access_method, was=found, schema=schema)]


def change_distribution(
    table: DeclaredTable, declared: Declared, live: Live, planned: Changes
) -> list[MigrateOperation]:
    """Return the operations that distribute an existing table as declared; none if it is so.

    `planned` has the changes of the tables that it is colocated with.
    """
    if table.distribution is None:
        return []
    found = live.distribution_of(table.key)
    match table.distribution, found:
        case (Local(), Local()) | (Reference(), Reference()):
            return []
        case Distributed() as wanted, Distributed() if (wanted.column is None) == (
            found.column is None
        ):
            return _alter(table, wanted, declared, live, planned)
        case _, Local():
            return create_distribution(table, new=False)
        case _:
            return [_undistribute(table.key, found), *create_distribution(table, new=False)]


def _undistribute(key: TableKey, was: Distributed | Reference | Local) -> MigrateOperation:
    assert not isinstance(was, Local)  # noqa: S101 - a local table is not undistributed
    return UndistributeTableOp(key[1], was=was, schema=key[0])


def _alter(
    table: DeclaredTable, wanted: Distributed, declared: Declared, live: Live, planned: Changes
) -> list[MigrateOperation]:
    found = live.tables[table.key]
    column = wanted.column if wanted.column != found.column else None
    shard_count = wanted.shard_count if wanted.shard_count != found.shard_count else None
    moves = not _is_colocated(table, wanted, declared, live, planned)
    if column is None and shard_count is None and not moves:
        return []
    others = [key for key in live.group_of(table.key) if key != table.key]
    # Tables that follow this one by their declaration follow it now; others stay as they are.
    cascade = None
    if others and (shard_count is not None or moves):
        alone = moves and table.colocated_with is None
        follow = all(_follows(key, table, declared) for key in others)
        cascade = column is None and not alone and follow
    return [
        AlterDistributedTableOp(
            table.key[1],
            column=column,
            shard_count=shard_count,
            colocate_with=wanted.colocate_with if moves else None,
            colocate_schema=wanted.colocate_schema if moves else None,
            cascade_to_colocated=cascade,
            was=Distributed(column=found.column, shard_count=found.shard_count),
            schema=table.key[0],
        )
    ]


def _follows(key: TableKey, table: DeclaredTable, declared: Declared) -> bool:
    """Whether a colocated table takes the shard count of another one for its own."""
    other = declared.tables.get(key)
    while other is not None and other.colocated_with is not None:
        if other.colocated_with == table.key:
            return True
        other = declared.tables.get(other.colocated_with)
    return False


def _may_join(key: TableKey, table: DeclaredTable, declared: Declared) -> bool:
    other = declared.tables.get(key)
    if other is None or _follows(key, table, declared):
        return other is not None
    return isinstance(other.distribution, Distributed) and other.distribution.colocate_with is None


def _is_colocated(
    table: DeclaredTable, wanted: Distributed, declared: Declared, live: Live, planned: Changes
) -> bool:
    group = live.group_of(table.key)
    if wanted.colocate_with is None:
        return True
    partner = table.colocated_with
    if partner is None:
        # Those that have joined it by their own declaration, or by Citus's choice, may stay.
        return all(_may_join(key, table, declared) for key in group if key != table.key)
    changes = planned.get(partner, ())
    stays = all(
        isinstance(change, AlterDistributedTableOp) and change.cascade_to_colocated
        for change in changes
    )
    return partner in group and stays
