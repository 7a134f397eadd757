"""Operations that distribute a table over a Citus cluster, and bring it back.

Definitions: Citus documentation, "Citus Utility Functions" (`create_distributed_table`,
`create_reference_table`, `undistribute_table`).
"""

from __future__ import annotations

from dataclasses import dataclass

from alembic.operations import MigrateOperation, Operations

from citus_analytics.distribution import Distributed, Reference
from citus_analytics.errors import OperationError
from citus_analytics.operations.execution import execute_on_citus
from citus_analytics.sql import literal, qualify


@Operations.register_operation("create_distributed_table")
@dataclass(frozen=True, slots=True)
class CreateDistributedTableOp(MigrateOperation):
    """Shard a table by the hash of its distribution column."""

    table_name: str
    distribution: Distributed
    schema: str | None = None

    @classmethod
    def create_distributed_table(
        cls,
        operations: Operations,
        table_name: str,
        column: str,
        *,
        colocate_with: str | None = None,
        shard_count: int | None = None,
        schema: str | None = None,
    ) -> None:
        """Shard a table by the hash of `column`.

        Rows that the table has are moved to the shards, and writers wait meanwhile.

        Args:
            operations: Filled in by Alembic.
            table_name: The table, on the coordinator until now.
            column: The distribution column.
            colocate_with: A distributed table of the same schema, whose shards this table's join;
                None leaves the choice to Citus.
            shard_count: The number of shards; None takes the server's `citus.shard_count`.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        distribution = Distributed(
            column=column, colocate_with=colocate_with, shard_count=shard_count
        )
        operations.invoke(cls(table_name, distribution, schema))

    def reverse(self) -> UndistributeTableOp:
        """Return the operation that makes the table local again."""
        return UndistributeTableOp(self.table_name, self.distribution, self.schema)


@Operations.register_operation("create_reference_table")
@dataclass(frozen=True, slots=True)
class CreateReferenceTableOp(MigrateOperation):
    """Copy a table to every node."""

    table_name: str
    schema: str | None = None

    @classmethod
    def create_reference_table(
        cls, operations: Operations, table_name: str, *, schema: str | None = None
    ) -> None:
        """Copy a table to every node, and keep the copies the same.

        Args:
            operations: Filled in by Alembic.
            table_name: The table, on the coordinator until now.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        operations.invoke(cls(table_name, schema))

    def reverse(self) -> UndistributeTableOp:
        """Return the operation that makes the table local again."""
        return UndistributeTableOp(self.table_name, Reference(), self.schema)


@Operations.register_operation("undistribute_table")
@dataclass(frozen=True, slots=True)
class UndistributeTableOp(MigrateOperation):
    """Bring a distributed or reference table back to the coordinator."""

    table_name: str
    was: Distributed | Reference | None = None
    schema: str | None = None

    @classmethod
    def undistribute_table(
        cls,
        operations: Operations,
        table_name: str,
        *,
        was: Distributed | Reference | None = None,
        schema: str | None = None,
    ) -> None:
        """Bring a table back to the coordinator, with its rows. A local table is left alone.

        Args:
            operations: Filled in by Alembic.
            table_name: The table.
            was: How it was distributed; without it the operation cannot be reversed.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        operations.invoke(cls(table_name, was, schema))

    def reverse(self) -> CreateDistributedTableOp | CreateReferenceTableOp:
        """Return the operation that distributes the table as it was.

        Raises:
            OperationError: The operation was not told how that was.
        """
        match self.was:
            case Distributed():
                return CreateDistributedTableOp(self.table_name, self.was, self.schema)
            case Reference():
                return CreateReferenceTableOp(self.table_name, self.schema)
            case None:
                raise OperationError(
                    f"undistribute_table({self.table_name!r}) cannot be reversed: it does not say "
                    "how the table was distributed. Give it was=Distributed(...) or Reference()."
                )


@Operations.implementation_for(CreateDistributedTableOp)
def _create_distributed_table(operations: Operations, operation: CreateDistributedTableOp) -> None:
    distribution, schema = operation.distribution, operation.schema
    table = qualify(operation.table_name, schema)
    arguments = [literal(table), literal(distribution.column)]
    if distribution.colocate_with is not None:
        colocate_with = literal(qualify(distribution.colocate_with, schema))
        arguments.append(f"colocate_with => {colocate_with}")
    if distribution.shard_count is not None:
        arguments.append(f"shard_count => {distribution.shard_count:d}")
    execute_on_citus(
        operations,
        f"PERFORM create_distributed_table({', '.join(arguments)});",
        what=f"table {table} is not distributed by {distribution.column}, it stays local",
    )


@Operations.implementation_for(CreateReferenceTableOp)
def _create_reference_table(operations: Operations, operation: CreateReferenceTableOp) -> None:
    table = qualify(operation.table_name, operation.schema)
    execute_on_citus(
        operations,
        f"PERFORM create_reference_table({literal(table)});",
        what=f"table {table} is not copied to every node, it stays local",
    )


@Operations.implementation_for(UndistributeTableOp)
def _undistribute_table(operations: Operations, operation: UndistributeTableOp) -> None:
    table = qualify(operation.table_name, operation.schema)
    execute_on_citus(
        operations,
        "IF EXISTS (SELECT FROM pg_catalog.pg_dist_partition\n"
        f"           WHERE logicalrelid = {literal(table)}::regclass) THEN\n"
        f"  PERFORM undistribute_table({literal(table)});\nEND IF;",
        what=f"table {table} is local as it is",
    )
