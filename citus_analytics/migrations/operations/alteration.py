"""The operation that changes how a table is distributed.

Definition: Citus documentation, "Citus Utility Functions" (`alter_distributed_table`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from alembic.operations import Operations

from citus_analytics.errors import OperationError
from citus_analytics.migrations.operations import placed
from citus_analytics.migrations.operations.base import (
    Arguments,
    Guarded,
    TableOperation,
    Transaction,
)
from citus_analytics.migrations.operations.placed import colocated_with
from citus_analytics.migrations.operations.placement import ALLOW_TRIGGERS
from citus_analytics.schema import Distributed
from citus_analytics.sql import literal, qualify

if TYPE_CHECKING:
    from citus_analytics.migrations.operations.base import Step


@Operations.register_operation("alter_distributed_table")
@dataclass(frozen=True, slots=True)
class AlterDistributedTableOp(TableOperation):
    """Change the distribution column, the number of shards or the colocation of a table.

    Attributes:
        undoes: The operation that this one is the reverse of.
    """

    function: ClassVar = "alter_distributed_table"
    transaction: ClassVar = Transaction.SEQUENTIAL

    table_name: str
    column: str | None = None
    shard_count: int | None = None
    colocate_with: str | None = None
    colocate_schema: str | None = None
    cascade_to_colocated: bool | None = None
    was: Distributed | None = None
    schema: str | None = None
    undoes: AlterDistributedTableOp | None = field(default=None, compare=False, repr=False)

    @classmethod
    def alter_distributed_table(
        cls,
        operations: Operations,
        table_name: str,
        *,
        column: str | None = None,
        shard_count: int | None = None,
        colocate_with: str | None = None,
        colocate_schema: str | None = None,
        cascade_to_colocated: bool | None = None,
        was: Distributed | None = None,
        schema: str | None = None,
    ) -> None:
        """Change how a table is distributed. Its rows are moved, and writers wait meanwhile.

        What is left out stays as it is. The triggers of a rollup stay too. A table that is as it
        shall be already is left alone.

        Args:
            operations: Filled in by Alembic.
            table_name: The distributed table.
            column: The new distribution column.
            shard_count: The new number of shards.
            colocate_with: The table whose shards this table's join; `"none"` for a group of its
                own; `"default"` for what Citus would choose for a new table.
            colocate_schema: The schema of `colocate_with`, None for that of the table.
            cascade_to_colocated: Whether the tables that it is colocated with change too, or it
                leaves them. Citus refuses to guess: where there are such tables, a new number of
                shards needs True or False.
            was: How the table was distributed; without it the operation cannot be reversed.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        changes = (column, shard_count, colocate_with, colocate_schema)
        operations.invoke(cls(table_name, *changes, cascade_to_colocated, was, schema))

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        named = {
            "column": self.column,
            "shard_count": self.shard_count,
            "colocate_with": self.colocate_with,
            "colocate_schema": self.colocate_schema,
            "cascade_to_colocated": self.cascade_to_colocated,
            "was": self.was,
            "schema": self.schema,
        }
        return Arguments((self.table_name,), named)

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        table = qualify(self.table_name, self.schema)
        step = Guarded(
            call=self.function,
            body=f"IF NOT {self._as_it_shall_be(table)} THEN\n"
            f"  {ALLOW_TRIGGERS}\n"
            f"  PERFORM alter_distributed_table({self._changes(table)});\nEND IF;",
            otherwise=f"table {table} is local, and has no shards to change",
        )
        return (step,)

    def _as_it_shall_be(self, table: str) -> str:
        """Return the condition that nothing is left to change, which Citus refuses."""
        conditions = []
        if self.column is not None:
            conditions.append(placed.by(self.column))
        if self.shard_count is not None:
            conditions.append(placed.in_shards(self.shard_count))
        if self.colocate_with is not None:
            wanted = (self.colocate_with, self.colocate_schema, self.schema)
            conditions.append(placed.beside(*wanted))
        return placed.is_on_shards(table, *conditions)

    def _changes(self, table: str) -> str:
        changes = [literal(table)]
        if self.column is not None:
            changes.append(f"distribution_column => {literal(self.column)}")
        if self.shard_count is not None:
            changes.append(f"shard_count => {self.shard_count:d}")
        if self.colocate_with is not None:
            wanted = colocated_with(self.colocate_with, self.colocate_schema, self.schema)
            changes.append(f"colocate_with => {wanted}")
        if self.cascade_to_colocated is not None:
            changes.append(f"cascade_to_colocated => {str(self.cascade_to_colocated).lower()}")
        return ", ".join(changes)

    def reverse(self) -> AlterDistributedTableOp:
        """Return the operation that changes back what this one changes.

        Raises:
            OperationError: The operation was not told how that was.
        """
        if self.undoes is not None:
            return self.undoes
        was = self._was()
        leaves = self.shard_count is not None and self.cascade_to_colocated is not True
        joins_again = was.names_a_table and (leaves or self.colocate_with is not None)
        resharded = (self.shard_count, self.colocate_with) != (None, None) and not joins_again
        if resharded and was.shard_count is None:
            raise self._irreversible("its shards. Give it was=Distributed(..., shard_count=...)")
        back = joins_again or self.colocate_with is not None
        # Whom the table has joined, by name or by Citus's choice for its new number of shards, is
        # left behind as it is. With nothing said of others, there were none before.
        leaves_alone = resharded and (
            self.colocate_with is not None or self.cascade_to_colocated is None
        )
        return AlterDistributedTableOp(
            self.table_name,
            column=None if self.column is None else was.column,
            shard_count=was.shard_count if resharded else None,
            colocate_with=(was.colocate_with or "default") if back else None,
            colocate_schema=was.colocate_schema if back else None,
            cascade_to_colocated=False if leaves_alone else self.cascade_to_colocated,
            was=self._becomes(was),
            schema=self.schema,
            undoes=self,
        )

    def _was(self) -> Distributed:
        if self.was is None or (self.column is not None and self.was.column is None):
            raise self._irreversible("how the table was distributed. Give it was=Distributed(...)")
        return self.was

    def _becomes(self, was: Distributed) -> Distributed:
        column = was.column if self.column is None else self.column
        if (self.shard_count, self.colocate_with) == (None, None):
            return replace(was, column=column)
        by_default = self.colocate_with in (None, "default") and self.colocate_schema is None
        return Distributed(
            column=column,
            colocate_with=None if by_default else self.colocate_with,
            colocate_schema=self.colocate_schema,
            shard_count=self.shard_count,
        )

    def _irreversible(self, unknown: str) -> OperationError:
        return OperationError(
            f"alter_distributed_table({self.subject!r}) cannot be reversed: it does not say "
            f"{unknown}."
        )
