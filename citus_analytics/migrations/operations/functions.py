"""Operations that say on which node a function runs.

Definition: Citus documentation, "Citus Utility Functions" (`create_distributed_function`).
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alembic.operations import Operations

from citus_analytics.migrations.operations.base import Arguments, CitusOperation, Guarded
from citus_analytics.migrations.operations.placed import colocated_with
from citus_analytics.sql import literal

if TYPE_CHECKING:
    from citus_analytics.migrations.operations.base import Step


@dataclass(frozen=True, slots=True)
class _FunctionOperation(CitusOperation, ABC):
    """What both operations carry, so that each is the whole of the other's reverse."""

    signature: str
    distribution_argument: str | None = None
    colocate_with: str | None = None
    colocate_schema: str | None = None
    force_delegation: bool | None = None

    @property
    def subject(self) -> str:
        """The function."""
        return self.signature

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        named = {
            "distribution_argument": self.distribution_argument,
            "colocate_with": self.colocate_with,
            "colocate_schema": self.colocate_schema,
            "force_delegation": self.force_delegation,
        }
        return Arguments((self.signature,), named)

    def _step(self, *arguments: str) -> Guarded:
        given = ", ".join((literal(self.signature), *arguments))
        return Guarded(
            call=self.function,
            body=f"PERFORM create_distributed_function({given});",
            otherwise=f"function {self.signature} runs where it is called",
        )


@Operations.register_operation("create_distributed_function")
@dataclass(frozen=True, slots=True)
class CreateDistributedFunctionOp(_FunctionOperation):
    """Run a function on the node that has the rows that one of its arguments names."""

    function: ClassVar = "create_distributed_function"

    @classmethod
    def create_distributed_function(
        cls,
        operations: Operations,
        signature: str,
        *,
        distribution_argument: str | None = None,
        colocate_with: str | None = None,
        colocate_schema: str | None = None,
        force_delegation: bool | None = None,
    ) -> None:
        """Run a function on the node that has the rows that one of its arguments names.

        Args:
            operations: Filled in by Alembic.
            signature: The function as SQL, such as `shop.add_click(bigint, text)`; names are
                quoted where SQL needs it.
            distribution_argument: The name of the argument, or its position, such as `$1`.
            colocate_with: The distributed table whose distribution column the argument stands for.
            colocate_schema: The schema of `colocate_with`, None for the first of the search path.
            force_delegation: Whether a call is passed on even in a transaction of several
                statements.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        colocation = (distribution_argument, colocate_with, colocate_schema)
        operations.invoke(cls(signature, *colocation, force_delegation))

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        arguments = []
        if self.distribution_argument is not None:
            arguments.append(f"distribution_arg_name => {literal(self.distribution_argument)}")
        if self.colocate_with is not None:
            wanted = colocated_with(self.colocate_with, self.colocate_schema, None)
            arguments.append(f"colocate_with => {wanted}")
        if self.force_delegation is not None:
            arguments.append(f"force_delegation => {str(self.force_delegation).lower()}")
        return (self._step(*arguments),)

    def reverse(self) -> UndistributeFunctionOp:
        """Return the operation that lets the function run where it is called."""
        return UndistributeFunctionOp(*_carried(self))


@Operations.register_operation("undistribute_function")
@dataclass(frozen=True, slots=True)
class UndistributeFunctionOp(_FunctionOperation):
    """Run a function where it is called, as every other; the rest says how it was."""

    function: ClassVar = "undistribute_function"

    @classmethod
    def undistribute_function(
        cls,
        operations: Operations,
        signature: str,
        *,
        distribution_argument: str | None = None,
        colocate_with: str | None = None,
        colocate_schema: str | None = None,
        force_delegation: bool | None = None,
    ) -> None:
        """Run a function where it is called, as every other. It stays on all nodes.

        Args:
            operations: Filled in by Alembic.
            signature: The function as SQL, such as `shop.add_click(bigint, text)`.
            distribution_argument: What `create_distributed_function` was given, for the reverse.
            colocate_with: The same.
            colocate_schema: The same.
            force_delegation: The same.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        colocation = (distribution_argument, colocate_with, colocate_schema)
        operations.invoke(cls(signature, *colocation, force_delegation))

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        # Citus has no function for this: one that is distributed by nothing is as all others.
        return (self._step(),)

    def reverse(self) -> CreateDistributedFunctionOp:
        """Return the operation that distributes the function as it was."""
        return CreateDistributedFunctionOp(*_carried(self))


def _carried(
    operation: _FunctionOperation,
) -> tuple[str, str | None, str | None, str | None, bool | None]:
    return (
        operation.signature,
        operation.distribution_argument,
        operation.colocate_with,
        operation.colocate_schema,
        operation.force_delegation,
    )
