"""How tables were distributed before a migration, for a downgrade to bring that back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from citus_analytics.migrations.operations import AlterDistributedTableOp, UndistributeTableOp
from citus_analytics.schema import Distributed, Reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from alembic.operations import MigrateOperation

    from citus_analytics.migrations.diff.state import Live, TableKey
    from citus_analytics.schema import Distribution


def before(key: TableKey, live: Live, leaving: Sequence[TableKey]) -> Distribution:
    """Return how a table is distributed now, as it can be declared when it comes back.

    `leaving` are the tables that leave their colocation groups, in the order in which they do.
    A downgrade brings them back in the opposite order: each joins a table of its group that has
    stayed, or else the one that left last.
    """
    distribution = live.distribution_of(key)
    if not isinstance(distribution, Distributed):
        return distribution
    group = live.group_of(key)
    stayed = [other for other in group if other not in leaving]
    left = [other for other in leaving if other in group]
    partner = next(iter(stayed), None) or left[-1]
    if partner == key:
        return distribution
    schema, name = partner
    return Distributed(
        column=distribution.column,
        colocate_with=name,
        colocate_schema=None if schema == key[0] else live.tables[partner].schema,
    )


def with_before(
    key: TableKey, changes: Iterable[MigrateOperation], live: Live, leaving: Sequence[TableKey]
) -> list[MigrateOperation]:
    """Return the changes of a table's distribution with what they are to be reversed to."""
    was = before(key, live, leaving)
    return [_with_before(change, was) for change in changes]


def _with_before(change: MigrateOperation, was: Distribution) -> MigrateOperation:
    match change, was:
        case UndistributeTableOp(), Distributed() | Reference():
            return replace(change, was=was)
        case AlterDistributedTableOp(), Distributed() if _leaves(change):
            return replace(change, was=was)
        case _:
            return change


def leaves_group(changes: Iterable[MigrateOperation]) -> bool:
    """Whether a table leaves its colocation group by these changes."""
    return any(map(_leaves, changes))


def _leaves(change: MigrateOperation) -> bool:
    # With a cascade the whole group goes, and stays together.
    return isinstance(change, UndistributeTableOp) or (
        isinstance(change, AlterDistributedTableOp) and not change.cascade_to_colocated
    )
