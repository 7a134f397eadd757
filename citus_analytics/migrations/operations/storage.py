"""Operations about where and how the rows of a table lie.

Definitions: Citus documentation, "Citus Utility Functions" (`alter_table_set_access_method`,
`update_distributed_table_colocation`, `isolate_tenant_to_new_shard`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NoReturn

from alembic.operations import Operations

from citus_analytics.errors import OperationError
from citus_analytics.migrations.operations.base import (
    CITUS,
    Arguments,
    DiscardOp,
    Extension,
    Guarded,
    TableOperation,
    Transaction,
)
from citus_analytics.migrations.operations.placed import colocated_with
from citus_analytics.migrations.operations.placement import ALLOW_TRIGGERS
from citus_analytics.sql import literal, qualify

if TYPE_CHECKING:
    from citus_analytics.migrations.operations.base import Step

_COLUMNAR = Extension("citus_columnar", (11, 1))


@Operations.register_operation("alter_table_set_access_method")
@dataclass(frozen=True, slots=True)
class AlterTableSetAccessMethodOp(TableOperation):
    """Store a table by rows (`heap`) or by columns (`columnar`).

    Attributes:
        new: Whether the same migration creates the table. Dropping it undoes both.
    """

    function: ClassVar = "alter_table_set_access_method"
    transaction: ClassVar = Transaction.SEQUENTIAL

    table_name: str
    access_method: str
    was: str | None = None
    schema: str | None = None
    new: bool = field(default=False, compare=False)

    @classmethod
    def alter_table_set_access_method(
        cls,
        operations: Operations,
        table_name: str,
        access_method: str,
        *,
        was: str | None = None,
        schema: str | None = None,
    ) -> None:
        """Store a table by rows or by columns. Its rows are rewritten, and writers wait meanwhile.

        A table that is stored this way already is left alone.

        Args:
            operations: Filled in by Alembic.
            table_name: The table, distributed or not, or a partition.
            access_method: `columnar` (the extension citus_columnar), or `heap`, PostgreSQL's own.
            was: The access method until now; without it the operation cannot be reversed.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and an extension is not installed.
        """
        operations.invoke(cls(table_name, access_method, was, schema))

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        positional = (self.table_name, self.access_method)
        return Arguments(positional, {"was": self.was, "schema": self.schema})

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        table, method = literal(qualify(self.table_name, self.schema)), literal(self.access_method)
        step = Guarded(
            call=self.function,
            body=f"{ALLOW_TRIGGERS}\n"
            "IF NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c\n"
            "               JOIN pg_catalog.pg_am AS m ON m.oid = c.relam\n"
            f"               WHERE c.oid = {table}::regclass AND m.amname = {method}) THEN\n"
            f"  PERFORM alter_table_set_access_method({table}, {method});\nEND IF;",
            otherwise=f"table {self.subject} is not stored as {self.access_method}, it stays as "
            "it is",
            needs=(CITUS, _COLUMNAR) if self.access_method == "columnar" else (CITUS,),
        )
        return (step,)

    def reverse(self) -> AlterTableSetAccessMethodOp | DiscardOp:
        """Return the operation that stores the table as before, if it is not dropped anyway.

        Raises:
            OperationError: The operation was not told how that was.
        """
        if self.new:
            return DiscardOp(self)
        if self.was is None:
            raise OperationError(
                f"alter_table_set_access_method({self.subject!r}, {self.access_method!r}) cannot "
                "be reversed: it does not say how the table was stored. Give it was='heap'."
            )
        return AlterTableSetAccessMethodOp(
            self.table_name, self.was, self.access_method, self.schema
        )


@Operations.register_operation("update_distributed_table_colocation")
@dataclass(frozen=True, slots=True)
class UpdateDistributedTableColocationOp(TableOperation):
    """Say that a table's shards belong to those of another, without moving any."""

    function: ClassVar = "update_distributed_table_colocation"

    table_name: str
    colocate_with: str
    colocate_schema: str | None = None
    was: str | None = None
    was_schema: str | None = None
    schema: str | None = None

    @classmethod
    def update_distributed_table_colocation(
        cls,
        operations: Operations,
        table_name: str,
        colocate_with: str,
        *,
        colocate_schema: str | None = None,
        was: str | None = None,
        was_schema: str | None = None,
        schema: str | None = None,
    ) -> None:
        """Say that a table's shards belong to those of another. No row is moved.

        Citus refuses if the two do not have the same number of shards on the same nodes.

        Args:
            operations: Filled in by Alembic.
            table_name: The distributed table.
            colocate_with: The table to be colocated with; `"none"` breaks its colocation.
            colocate_schema: The schema of `colocate_with`, None for that of the table.
            was: The table that it was colocated with, or `"none"`; without it the operation cannot
                be reversed.
            was_schema: The schema of `was`, None for that of the table.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        colocation = (colocate_with, colocate_schema, was, was_schema)
        operations.invoke(cls(table_name, *colocation, schema))

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        named = {
            "colocate_schema": self.colocate_schema,
            "was": self.was,
            "was_schema": self.was_schema,
            "schema": self.schema,
        }
        return Arguments((self.table_name, self.colocate_with), named)

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        table = qualify(self.table_name, self.schema)
        wanted = colocated_with(self.colocate_with, self.colocate_schema, self.schema)
        step = Guarded(
            call=self.function,
            body=f"PERFORM update_distributed_table_colocation({literal(table)}, {wanted});",
            otherwise=f"table {table} is local, and colocated with every other",
        )
        return (step,)

    def reverse(self) -> UpdateDistributedTableColocationOp:
        """Return the operation that colocates the table as before.

        Raises:
            OperationError: The operation was not told how that was.
        """
        if self.was is None:
            raise OperationError(
                f"update_distributed_table_colocation({self.subject!r}) cannot be reversed: it "
                "does not say what the table was colocated with. Give it was=..., or was='none'."
            )
        before, now = (self.was, self.was_schema), (self.colocate_with, self.colocate_schema)
        return UpdateDistributedTableColocationOp(self.table_name, *before, *now, self.schema)


@Operations.register_operation("isolate_tenant_to_new_shard")
@dataclass(frozen=True, slots=True)
class IsolateTenantToNewShardOp(TableOperation):
    """Give one value of the distribution column a shard of its own."""

    function: ClassVar = "isolate_tenant_to_new_shard"

    table_name: str
    tenant_id: str | int
    cascade: bool = False
    schema: str | None = None

    @classmethod
    def isolate_tenant_to_new_shard(
        cls,
        operations: Operations,
        table_name: str,
        tenant_id: str | int,
        *,
        cascade: bool = False,
        schema: str | None = None,
    ) -> None:
        """Give one value of the distribution column a shard of its own.

        It splits a shard in three, and Citus cannot merge shards: it cannot be reversed. In a
        transaction it comes before every other change of a distributed table, and only once.

        Args:
            operations: Filled in by Alembic.
            table_name: A table distributed by hash.
            tenant_id: The value, or its text if it is neither a string nor an integer.
            cascade: Whether the shards of colocated tables are split as well; needed if there are
                such tables.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        operations.invoke(cls(table_name, tenant_id, cascade, schema))

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        named = {"cascade": self.cascade, "schema": self.schema}
        return Arguments((self.table_name, self.tenant_id), named)

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        table = qualify(self.table_name, self.schema)
        arguments = [literal(table), literal(str(self.tenant_id))]
        if self.cascade:
            arguments.append("'CASCADE'")
        step = Guarded(
            call=self.function,
            body=f"PERFORM isolate_tenant_to_new_shard({', '.join(arguments)});",
            otherwise=f"table {table} is local, and has no shards to split",
        )
        return (step,)

    def reverse(self) -> NoReturn:
        """Refuse: there is no way back.

        Raises:
            OperationError: Always.
        """
        raise OperationError(
            f"isolate_tenant_to_new_shard({self.subject!r}, {self.tenant_id!r}) cannot be "
            "reversed: Citus cannot merge shards. To make the shards even again, downgrade with "
            "alter_distributed_table(shard_count=...)."
        )
