"""Operations that create and drop a rollup's function, with the machinery behind it."""

from __future__ import annotations

from dataclasses import dataclass

from alembic.operations import MigrateOperation, Operations

from citus_analytics.operations.execution import execute, require_transaction
from citus_analytics.rollup_sql import RollupSpec, render


@Operations.register_operation("create_rollup_function")
@dataclass(frozen=True, slots=True)
class CreateRollupFunctionOp(MigrateOperation):
    """Create a rollup's function, its change log and its triggers."""

    spec: RollupSpec
    version: int

    @classmethod
    def create_rollup_function(
        cls, operations: Operations, spec: RollupSpec, *, version: int
    ) -> None:
        """Create a rollup's function, its change log and its triggers.

        The source, the target and the state table exist already, and the source and the target
        are distributed if they are to be: the change log joins their shards. Rows that the source
        has are logged as changed, so that the first run rolls them up. Writers of the source wait
        until the migration has committed.

        Args:
            operations: Filled in by Alembic.
            spec: The rollup in plain names.
            version: The version of the SQL, which renders the same for ever.

        Raises:
            OperationError: The migration runs without a transaction.
            DeclarationError: There is no such version.
        """
        operations.invoke(cls(spec, version))

    def reverse(self) -> DropRollupFunctionOp:
        """Return the operation that drops what this one creates."""
        return DropRollupFunctionOp(self.spec, self.version)


@Operations.register_operation("drop_rollup_function")
@dataclass(frozen=True, slots=True)
class DropRollupFunctionOp(MigrateOperation):
    """Drop a rollup's function, its change log and its triggers."""

    spec: RollupSpec
    version: int

    @classmethod
    def drop_rollup_function(
        cls, operations: Operations, spec: RollupSpec, *, version: int
    ) -> None:
        """Drop a rollup's function, its change log and its triggers; keep its tables.

        Args:
            operations: Filled in by Alembic.
            spec: The rollup in plain names.
            version: The version that it was created with.

        Raises:
            OperationError: The migration runs without a transaction.
            DeclarationError: There is no such version.
        """
        operations.invoke(cls(spec, version))

    def reverse(self) -> CreateRollupFunctionOp:
        """Return the operation that creates what this one drops."""
        return CreateRollupFunctionOp(self.spec, self.version)


@Operations.implementation_for(CreateRollupFunctionOp)
def _create_rollup_function(operations: Operations, operation: CreateRollupFunctionOp) -> None:
    require_transaction(operations, f"creating rollup function {operation.spec.function!r}")
    for statement in render(operation.spec, version=operation.version).create:
        execute(operations, statement)


@Operations.implementation_for(DropRollupFunctionOp)
def _drop_rollup_function(operations: Operations, operation: DropRollupFunctionOp) -> None:
    require_transaction(operations, f"dropping rollup function {operation.spec.function!r}")
    for statement in render(operation.spec, version=operation.version).drop:
        execute(operations, statement)
