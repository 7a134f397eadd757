"""Operations that put a table on shards or on every node, and bring it back.

Definitions: Citus documentation, "Citus Utility Functions" (`create_distributed_table`,
`create_reference_table`, `citus_add_local_table_to_metadata`, `undistribute_table`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from alembic.operations import Operations

from citus_analytics.errors import OperationError
from citus_analytics.migrations.operations import placement
from citus_analytics.migrations.operations.base import (
    Arguments,
    DiscardOp,
    TableOperation,
    Transaction,
)
from citus_analytics.schema import Distributed, Distribution, Local, Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from citus_analytics.migrations.operations.base import Step
    from citus_analytics.schema import DistributionType


@Operations.register_operation("create_distributed_table")
@dataclass(frozen=True, slots=True)
class CreateDistributedTableOp(TableOperation):
    """Put a table on shards.

    Attributes:
        new: Whether the same migration creates the table. Dropping it undoes both.
    """

    function: ClassVar = "create_distributed_table"
    transaction: ClassVar = Transaction.SEQUENTIAL

    table_name: str
    distribution: Distributed
    schema: str | None = None
    new: bool = field(default=False, compare=False)

    @classmethod
    def create_distributed_table(
        cls,
        operations: Operations,
        table_name: str,
        column: str | None,
        *,
        distribution_type: DistributionType = "hash",
        colocate_with: str | None = None,
        colocate_schema: str | None = None,
        shard_count: int | None = None,
        schema: str | None = None,
    ) -> None:
        """Put a table on shards, by the hash of `column`.

        Its rows are moved, and writers wait meanwhile: see `create_distributed_table_concurrently`.

        Args:
            operations: Filled in by Alembic.
            table_name: The table, on the coordinator until now.
            column: The distribution column; None for a table of a single shard (Citus 12.0).
            distribution_type: `hash`, or `append` or `range`, whose shards are made by hand.
            colocate_with: A distributed table whose shards this table's join; `"none"` for a group
                of its own; None leaves the choice to Citus.
            colocate_schema: The schema of `colocate_with`, None for that of the table.
            shard_count: The number of shards; None takes the server's `citus.shard_count`.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            DeclarationError: The arguments contradict each other.
            OperationError: The policy is `require` and Citus is not installed, or Citus is too old.
        """
        distribution = Distributed(
            column=column,
            colocate_with=colocate_with,
            shard_count=shard_count,
            distribution_type=distribution_type,
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

    def reverse(self) -> UndistributeTableOp | DiscardOp:
        """Return the operation that makes the table local again, if it is not dropped anyway."""
        if self.new:
            return DiscardOp(self)
        return UndistributeTableOp(self.table_name, self.distribution, self.schema)

    def _details(self) -> Iterator[object]:
        yield self.distribution


@Operations.register_operation("create_reference_table")
@dataclass(frozen=True, slots=True)
class CreateReferenceTableOp(TableOperation):
    """Copy a table to every node.

    Attributes:
        new: Whether the same migration creates the table. Dropping it undoes both.
    """

    function: ClassVar = "create_reference_table"

    table_name: str
    schema: str | None = None
    new: bool = field(default=False, compare=False)

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

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        return Arguments((self.table_name,), {"schema": self.schema})

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        return (placement.replicate(self.table_name, self.schema),)

    def reverse(self) -> UndistributeTableOp | DiscardOp:
        """Return the operation that makes the table local again, if it is not dropped anyway."""
        if self.new:
            return DiscardOp(self)
        return UndistributeTableOp(self.table_name, Reference(), self.schema)


@Operations.register_operation("add_local_table_to_metadata")
@dataclass(frozen=True, slots=True)
class AddLocalTableToMetadataOp(TableOperation):
    """Make a table of the coordinator known to the other nodes."""

    function: ClassVar = "add_local_table_to_metadata"

    table_name: str
    schema: str | None = None
    cascade: bool = False

    @classmethod
    def add_local_table_to_metadata(
        cls,
        operations: Operations,
        table_name: str,
        *,
        cascade: bool = False,
        schema: str | None = None,
    ) -> None:
        """Make a table of the coordinator known to the other nodes, so that they can query it.

        Args:
            operations: Filled in by Alembic.
            table_name: The table, which stays on the coordinator.
            cascade: Whether the tables that foreign keys join to it become known as well.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        operations.invoke(cls(table_name, schema, cascade))

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        return Arguments((self.table_name,), {"cascade": self.cascade, "schema": self.schema})

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        return (placement.make_known(self.table_name, self.schema, cascade=self.cascade),)

    def reverse(self) -> UndistributeTableOp:
        """Return the operation that makes the table known to the coordinator alone."""
        return UndistributeTableOp(self.table_name, Local(), self.schema, self.cascade)


@Operations.register_operation("undistribute_table")
@dataclass(frozen=True, slots=True)
class UndistributeTableOp(TableOperation):
    """Bring a table that Citus manages back to the coordinator."""

    function: ClassVar = "undistribute_table"
    transaction: ClassVar = Transaction.SEQUENTIAL

    table_name: str
    was: Distribution | None = None
    schema: str | None = None
    cascade: bool = False

    @classmethod
    def undistribute_table(
        cls,
        operations: Operations,
        table_name: str,
        *,
        was: Distribution | None = None,
        cascade: bool = False,
        schema: str | None = None,
    ) -> None:
        """Bring a table back to the coordinator, with its rows. A plain table is left alone.

        Args:
            operations: Filled in by Alembic.
            table_name: The table.
            was: How it was distributed; `Local()` for a local table in Citus's metadata. Without
                it the operation cannot be reversed.
            cascade: Whether the tables that foreign keys join to it come back as well.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        operations.invoke(cls(table_name, was, schema, cascade))

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        named = {"was": self.was, "cascade": self.cascade, "schema": self.schema}
        return Arguments((self.table_name,), named)

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        return (placement.bring_back(self.table_name, self.schema, cascade=self.cascade),)

    def reverse(
        self,
    ) -> CreateDistributedTableOp | CreateReferenceTableOp | AddLocalTableToMetadataOp:
        """Return the operation that distributes the table as it was.

        Raises:
            OperationError: It was not told how that was, or brought back other tables too.
        """
        match self.was:
            case Local():
                return AddLocalTableToMetadataOp(self.table_name, self.schema, self.cascade)
            case Distributed() if not self.cascade:
                return CreateDistributedTableOp(self.table_name, self.was, self.schema)
            case Reference() if not self.cascade:
                return CreateReferenceTableOp(self.table_name, self.schema)
            case None:
                raise OperationError(
                    f"undistribute_table({self.subject!r}) cannot be reversed: it does not say "
                    "how the table was distributed. Give it was=Distributed(...) or Reference()."
                )
            case _:
                raise OperationError(
                    f"undistribute_table({self.subject!r}, cascade=True) cannot be reversed: it "
                    "does not say which other tables it brought back."
                )
