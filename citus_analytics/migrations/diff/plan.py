"""The plan of a migration: Alembic's operations and ours, in an order that Citus accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic.operations.ops import (
    CreateIndexOp,
    CreatePrimaryKeyOp,
    CreateUniqueConstraintOp,
    DropColumnOp,
    ModifyTableOps,
)

from citus_analytics.migrations.diff.before import before, leaves_group, with_before
from citus_analytics.migrations.diff.distribution import (
    change_access_method,
    change_distribution,
    create_distribution,
    create_storage,
    discard,
)
from citus_analytics.migrations.diff.foreign_keys import detach_foreign_keys
from citus_analytics.migrations.diff.groups import group_by_table, in_order
from citus_analytics.migrations.diff.rollups import change_rollups
from citus_analytics.migrations.diff.state import DeclaredTable
from citus_analytics.migrations.operations import SetMultiShardModifyModeOp, UndistributeTableOp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from alembic.operations import MigrateOperation

    from citus_analytics.migrations.diff.groups import Group
    from citus_analytics.migrations.diff.state import Declared, Live, TableKey

    Operations = list[MigrateOperation]

_SEVERAL = 2


def plan(
    operations: Sequence[MigrateOperation], declared: Declared, live: Live
) -> list[MigrateOperation]:
    """Return the whole migration, given what Alembic's own comparison has found."""
    first, groups, last = group_by_table(operations, declared, live)
    ordered = in_order(groups, declared)
    changes = _changes(ordered, declared, live)
    changed = {key for key, found in changes.items() if found}
    dropped = {group.key for group in ordered if group.drop is not None}
    leaving = [
        group.key
        for group in ordered
        if group.key in live.tables and (group.drop or leaves_group(changes.get(group.key, ())))
    ]
    assembly = _Assembly(declared, live, changes, leaving)
    keys = detach_foreign_keys(ordered, changed, declared, live)
    rollups = change_rollups(declared, live, changed | dropped)
    tables = [operation for group in ordered for operation in assembly.of(group)]
    steps = [*rollups.first, *keys.first, *tables, *keys.last, *rollups.last]
    if any(declared.is_spread(group.key) or live.is_spread(group.key) for group in ordered):
        steps = _sequentially(steps)
    return [*first, *steps, *last]


def _sequentially(steps: list[MigrateOperation]) -> list[MigrateOperation]:
    """Let a migration of several steps keep to one connection a node, in both directions.

    Alembic's own operations work on shards in parallel, after which Citus refuses some of them.
    """
    if len(steps) < _SEVERAL:
        return steps
    mode = SetMultiShardModifyModeOp("sequential")
    return [mode, *steps, mode.reverse()]


def _changes(
    groups: Iterable[Group], declared: Declared, live: Live
) -> dict[TableKey, list[MigrateOperation]]:
    """Return how the distribution of each existing table changes."""
    changes: dict[TableKey, list[MigrateOperation]] = {}
    for group in groups:
        if live.citus and group.key in declared.tables and live.decides(group.key):
            table = declared.tables[group.key]
            changes[group.key] = change_distribution(table, declared, live, changes)
    return changes


class _Assembly:
    """Puts together what happens to a table, its distribution included."""

    def __init__(
        self,
        declared: Declared,
        live: Live,
        changes: Mapping[TableKey, Operations],
        leaving: Sequence[TableKey],
    ) -> None:
        self.declared = declared
        self.live = live
        self.changes = changes
        self.leaving = leaving

    def of(self, group: Group) -> Operations:
        """Return what happens to the table of a group, in order."""
        if group.drop is not None:
            return self._dropped(group)
        if group.create is not None:
            return self._created(group)
        return self._changed(group)

    def _dropped(self, group: Group) -> Operations:
        assert group.drop is not None  # noqa: S101 - as the caller has seen
        lost: Operations = []
        if self.live.decides(group.key):
            was = DeclaredTable(
                key=group.key,
                distribution=before(group.key, self.live, self.leaving),
                access_method=self.live.tables[group.key].access_method,
            )
            lost = discard(was)
        return [*lost, *_modify(group, group.changes), group.drop]

    def _created(self, group: Group) -> Operations:
        assert group.create is not None  # noqa: S101 - as the caller has seen
        # Other plugins may create tables that no model declares.
        table = self.declared.tables.get(group.key, DeclaredTable(key=group.key))
        stored = create_storage(table)
        if stored:
            group.create.kw.pop("postgresql_using", None)
        return [
            group.create,
            *stored,
            *create_distribution(table, new=True),
            *_modify(group, group.changes),
        ]

    def _changed(self, group: Group) -> Operations:
        changes = with_before(group.key, self.changes.get(group.key, ()), self.live, self.leaving)
        # A table goes back to one node before it gets keys that are allowed there only, and gets
        # those that need its new column after that; a column that it was distributed by goes last.
        first = [change for change in changes if isinstance(change, UndistributeTableOp)]
        then = [change for change in changes if change not in first]
        late = [
            operation for operation in group.changes if then and self._is_late(group, operation)
        ]
        modified = [operation for operation in group.changes if operation not in late]
        stored: Operations = []
        if self.live.citus and group.key in self.declared.tables:
            stored = change_access_method(self.declared.tables[group.key], self.live)
        return [*first, *_modify(group, modified), *stored, *then, *_modify(group, late)]

    def _is_late(self, group: Group, operation: MigrateOperation) -> bool:
        if isinstance(operation, CreateIndexOp | CreatePrimaryKeyOp | CreateUniqueConstraintOp):
            return True
        column = self.live.tables[group.key].column
        return isinstance(operation, DropColumnOp) and operation.column_name == column


def _modify(group: Group, operations: Sequence[MigrateOperation]) -> Operations:
    if not operations:
        return []
    schema, name = group.key
    return [ModifyTableOps(name, list(operations), schema=schema)]
