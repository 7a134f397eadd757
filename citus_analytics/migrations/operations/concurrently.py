"""The operation that puts a table on shards while it is written to.

Definition: Citus documentation, "Citus Utility Functions"
(`create_distributed_table_concurrently`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alembic.operations import Operations

from citus_analytics.errors import OperationError
from citus_analytics.migrations.operations import placement
from citus_analytics.migrations.operations.base import Arguments, TableOperation, Transaction
from citus_analytics.migrations.operations.distribution import UndistributeTableOp
from citus_analytics.schema import Distributed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from citus_analytics.migrations.operations.base import Step


@Operations.register_operation("create_distributed_table_concurrently")
@dataclass(frozen=True, slots=True)
class CreateDistributedTableConcurrentlyOp(TableOperation):
    """Put a table on shards while it is written to."""

    function: ClassVar = "create_distributed_table_concurrently"
    transaction: ClassVar = Transaction.FORBIDDEN

    table_name: str
    distribution: Distributed
    schema: str | None = None

    def __post_init__(self) -> None:
        distribution = self.distribution
        if distribution.column is None or distribution.distribution_type != "hash":
            raise OperationError(
                f"{self.function}({self.subject!r}) needs a distribution column and its hash, got "
                f"{distribution}. Use create_distributed_table, during which writers wait."
            )

    @classmethod
    def create_distributed_table_concurrently(
        cls,
        operations: Operations,
        table_name: str,
        column: str,
        *,
        colocate_with: str | None = None,
        colocate_schema: str | None = None,
        shard_count: int | None = None,
        schema: str | None = None,
    ) -> None:
        """Put a table on shards, by the hash of `column`, while it is written to (Citus 11.1).

        Writers wait only at the very end. Without a primary key or a replica identity, UPDATE and
        DELETE fail until then. Put it into `with op.get_context().autocommit_block():`.

        Args:
            operations: Filled in by Alembic.
            table_name: The table, on the coordinator until now.
            column: The distribution column.
            colocate_with: A distributed table whose shards this table's join; `"none"` for a group
                of its own; None leaves the choice to Citus.
            colocate_schema: The schema of `colocate_with`, None for that of the table.
            shard_count: The number of shards; None takes the server's `citus.shard_count`.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            DeclarationError: The arguments contradict each other.
            OperationError: There is a transaction, or no Citus that will do.
        """
        distribution = Distributed(
            column=column,
            colocate_with=colocate_with,
            shard_count=shard_count,
            colocate_schema=colocate_schema,
        )
        operations.invoke(cls(table_name, distribution, schema))

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        return placement.distributing(self.table_name, self.distribution, self.schema)

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        return (
            placement.distribute(self.function, self.table_name, self.distribution, self.schema),
        )

    def reverse(self) -> UndistributeTableOp:
        """Return the operation that makes the table local again, while writers wait."""
        return UndistributeTableOp(self.table_name, self.distribution, self.schema)

    def _details(self) -> Iterator[object]:
        yield self.distribution
