"""Operations that create, replace and drop a rollup's function, with the machinery behind it."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

from alembic.operations import Operations

from citus_analytics.errors import DeclarationError
from citus_analytics.migrations.operations.base import (
    Arguments,
    CitusOperation,
    Transaction,
    dotted,
)
from citus_analytics.rollups.sql import RollupSpec, render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from citus_analytics.migrations.operations.base import Step

# What the tables of a rollup hold stands and falls with these.
LASTING = ("source", "target", "key", "key_type", "schema")


@dataclass(frozen=True, slots=True)
class _RollupOperation(CitusOperation, ABC):
    """What all of them are about."""

    transaction: ClassVar = Transaction.REQUIRED

    spec: RollupSpec
    version: int

    @property
    def subject(self) -> str:
        """The function."""
        return dotted(self.spec.function, self.spec.schema)

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        return Arguments((self.spec,), {"version": self.version})


@Operations.register_operation("create_rollup_function")
@dataclass(frozen=True, slots=True)
class CreateRollupFunctionOp(_RollupOperation):
    """Create a rollup's function, its change log and its triggers."""

    function: ClassVar = "create_rollup_function"

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

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        return render(self.spec, version=self.version).create

    def reverse(self) -> DropRollupFunctionOp:
        """Return the operation that drops what this one creates."""
        return DropRollupFunctionOp(self.spec, self.version)


@Operations.register_operation("drop_rollup_function")
@dataclass(frozen=True, slots=True)
class DropRollupFunctionOp(_RollupOperation):
    """Drop a rollup's function, its change log and its triggers."""

    function: ClassVar = "drop_rollup_function"

    @classmethod
    def drop_rollup_function(
        cls, operations: Operations, spec: RollupSpec, *, version: int
    ) -> None:
        """Drop a rollup's function, its change log and its triggers; keep its tables.

        Parts of it that are missing are no hindrance.

        Args:
            operations: Filled in by Alembic.
            spec: The rollup in plain names.
            version: The version that it was created with.

        Raises:
            OperationError: The migration runs without a transaction.
            DeclarationError: There is no such version.
        """
        operations.invoke(cls(spec, version))

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        return render(self.spec, version=self.version).drop

    def reverse(self) -> CreateRollupFunctionOp:
        """Return the operation that creates what this one drops."""
        return CreateRollupFunctionOp(self.spec, self.version)


@Operations.register_operation("replace_rollup_function")
@dataclass(frozen=True, slots=True)
class ReplaceRollupFunctionOp(_RollupOperation):
    """Replace a rollup's function, its change log and its triggers, in place.

    Attributes:
        faults: What is wrong with the rollup in the database, for `alembic check` to tell.
    """

    function: ClassVar = "replace_rollup_function"

    was_spec: RollupSpec
    was_version: int
    faults: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in LASTING:
            now, was = getattr(self.spec, name), getattr(self.was_spec, name)
            if now != was:
                raise DeclarationError(
                    f"rollup function {self.subject!r} cannot be replaced by one whose {name} is "
                    f"{now!r}, and not {was!r}. Drop it, and create the other with a new target."
                )

    @classmethod
    def replace_rollup_function(
        cls,
        operations: Operations,
        spec: RollupSpec,
        *,
        version: int,
        was_spec: RollupSpec,
        was_version: int,
    ) -> None:
        """Replace a rollup's function, its change log and its triggers, in place.

        Its tables stay as they are, and everything is logged as changed, so that the next run
        makes the target exact; but for groups older than the oldest row of the source, which were
        expired on purpose. With twice the same rollup it repairs: triggers that are missing, a
        function that was edited. Writers of the source wait until the migration has committed.

        Args:
            operations: Filled in by Alembic.
            spec: The rollup in plain names, of the same source, target and key as before.
            version: The version of the SQL, which renders the same for ever.
            was_spec: The rollup until now.
            was_version: The version until now.

        Raises:
            OperationError: The migration runs without a transaction.
            DeclarationError: There is no such version, or it is another source, target or key.
        """
        operations.invoke(cls(spec, version, was_spec, was_version))

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        named = {
            "version": self.version,
            "was_spec": self.was_spec,
            "was_version": self.was_version,
        }
        return Arguments((self.spec,), named)

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        was = render(self.was_spec, version=self.was_version)
        becomes = render(self.spec, version=self.version)
        return (*was.keep, *was.drop, *becomes.create, *becomes.relog)

    def reverse(self) -> ReplaceRollupFunctionOp:
        """Return the operation that replaces it back."""
        return ReplaceRollupFunctionOp(self.was_spec, self.was_version, self.spec, self.version)

    def _details(self) -> Iterator[object]:
        yield f"version={self.version}"
        yield from self.faults
        for item in fields(self.spec):
            now, was = getattr(self.spec, item.name), getattr(self.was_spec, item.name)
            if now != was:
                yield f"{item.name} becomes {now!r}, and was {was!r}"
