"""Operations that turn a schema into a tenant, whose tables are single shards on one node.

Definition: Citus documentation, "Schema-based sharding" (`citus_schema_distribute`,
`citus_schema_undistribute`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from alembic.operations import Operations

from citus_analytics.migrations.operations.base import Arguments, CitusOperation, Extension, Guarded
from citus_analytics.sql import literal, quote

if TYPE_CHECKING:
    from citus_analytics.migrations.operations.base import Step

_SINCE: Final = Extension("citus", (12, 0))


@Operations.register_operation("distribute_schema")
@dataclass(frozen=True, slots=True)
class DistributeSchemaOp(CitusOperation):
    """Let the tables of a schema live together on a node of Citus's choice."""

    function: ClassVar = "distribute_schema"

    schema_name: str

    @classmethod
    def distribute_schema(cls, operations: Operations, schema_name: str) -> None:
        """Let the tables of a schema live together on a node of Citus's choice (Citus 12.0).

        Tables that are created in it later live there too. A schema that is distributed already is
        left alone.

        Args:
            operations: Filled in by Alembic.
            schema_name: The schema.

        Raises:
            OperationError: The policy is `require` and Citus is not installed, or Citus is too old.
        """
        operations.invoke(cls(schema_name))

    @property
    def subject(self) -> str:
        """The schema."""
        return self.schema_name

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        return Arguments((self.schema_name,), {})

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        schema = quote(self.schema_name)
        return (_step(self, "NOT ", "citus_schema_distribute", f"schema {schema} stays local"),)

    def reverse(self) -> UndistributeSchemaOp:
        """Return the operation that brings the schema's tables back to the coordinator."""
        return UndistributeSchemaOp(self.schema_name)


@Operations.register_operation("undistribute_schema")
@dataclass(frozen=True, slots=True)
class UndistributeSchemaOp(CitusOperation):
    """Bring the tables of a distributed schema back to the coordinator."""

    function: ClassVar = "undistribute_schema"

    schema_name: str

    @classmethod
    def undistribute_schema(cls, operations: Operations, schema_name: str) -> None:
        """Bring the tables of a distributed schema back to the coordinator (Citus 12.0).

        A schema that is not distributed is left alone.

        Args:
            operations: Filled in by Alembic.
            schema_name: The schema.

        Raises:
            OperationError: The policy is `require` and Citus is not installed, or Citus is too old.
        """
        operations.invoke(cls(schema_name))

    @property
    def subject(self) -> str:
        """The schema."""
        return self.schema_name

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        return Arguments((self.schema_name,), {})

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        schema = quote(self.schema_name)
        return (_step(self, "", "citus_schema_undistribute", f"schema {schema} is local as it is"),)

    def reverse(self) -> DistributeSchemaOp:
        """Return the operation that distributes the schema again."""
        return DistributeSchemaOp(self.schema_name)


def _step(operation: CitusOperation, negation: str, call: str, otherwise: str) -> Guarded:
    schema = literal(quote(operation.subject))
    return Guarded(
        call=operation.function,
        body=f"IF {negation}EXISTS (SELECT FROM pg_catalog.pg_dist_schema\n"
        f"           WHERE schemaid = {schema}::regnamespace) THEN\n"
        f"  PERFORM {call}({schema});\nEND IF;",
        otherwise=otherwise,
        needs=(_SINCE,),
    )
