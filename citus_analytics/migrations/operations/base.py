"""What all operations have in common: the arguments that they are, and what they need."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from alembic.operations import MigrateOperation

if TYPE_CHECKING:
    from collections.abc import Iterator


class Transaction(Enum):
    """What an operation needs of the transaction that it runs in.

    Attributes:
        ANY: Nothing: it is one statement, and runs inside of a transaction and without one.
        SEQUENTIAL: As `ANY`, but it switches the transaction to Citus's sequential mode, because
            Citus would otherwise use several connections to a node, and then refuse to create a
            function or a trigger in the same transaction.
        REQUIRED: A transaction: it is several statements, all or nothing.
        FORBIDDEN: No transaction around it: it commits on its way.
    """

    ANY = "any"
    SEQUENTIAL = "sequential"
    REQUIRED = "required"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension of the server, and the oldest version that will do, as `(major, minor)`."""

    name: str
    since: tuple[int, int]


CITUS = Extension("citus", (11, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """PL/pgSQL that runs where the server has what it needs.

    Attributes:
        call: What is asked for, as the message about a version that is too old names it.
        body: The statements.
        otherwise: What is not done where an extension is missing: "table t stays local".
        needs: The extensions.
    """

    call: str
    body: str
    otherwise: str
    needs: tuple[Extension, ...] = (CITUS,)


Step: TypeAlias = str | Guarded


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of an operation's function on `op`."""

    positional: tuple[object, ...]
    named: Mapping[str, object]


class CitusOperation(MigrateOperation, ABC):
    """An operation of this package: frozen arguments, and the statements that they come to.

    Attributes:
        function: The name of its function on `op`.
        transaction: What it needs of the transaction that it runs in.
    """

    function: ClassVar[str]
    transaction: ClassVar[Transaction] = Transaction.ANY

    @property
    @abstractmethod
    def subject(self) -> str:
        """What it is about, such as the name of a table."""

    @abstractmethod
    def arguments(self) -> Arguments:
        """Return what its function is called with to get this operation."""

    @abstractmethod
    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed, in order."""

    def given(self) -> Arguments:
        """Return the arguments without those that have their default."""
        arguments = self.arguments()
        parameters = inspect.signature(getattr(type(self), self.function)).parameters
        named = {
            name: value
            for name, value in arguments.named.items()
            if value != parameters[name].default
        }
        return Arguments(arguments.positional, named)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the operation as `alembic check` prints it."""
        return (self.function, self.subject, *self._details())

    def _details(self) -> Iterator[object]:
        given = self.given()
        yield from given.positional[1:]
        for name, value in given.named.items():
            if name != "schema":
                yield value if is_dataclass(value) else f"{name}={value!r}"


class TableOperation(CitusOperation, ABC):
    """An operation about a table.

    Attributes:
        table_name: The table.
        schema: Its schema, None for the first of the search path.
    """

    table_name: str
    schema: str | None

    @property
    def subject(self) -> str:
        """The name of the table, for people to read."""
        return dotted(self.table_name, self.schema)


@dataclass(frozen=True, slots=True)
class DiscardOp(CitusOperation):
    """What undoes an operation on a table that is dropped: nothing, and no line of code.

    Attributes:
        discarded: The operation, which does what it does once the table has been created again.
    """

    function: ClassVar = "discard"
    # `alembic check` looks into what has operations, and finds nothing to do.
    ops: ClassVar[tuple[()]] = ()

    discarded: CitusOperation

    @property
    def subject(self) -> str:
        """What the operation is about."""
        return self.discarded.subject

    def arguments(self) -> Arguments:
        """Return what it is."""
        return Arguments((self.discarded,), {})

    def given(self) -> Arguments:
        """Return what it is: it has no function on `op`, and so no defaults."""
        return self.arguments()

    def steps(self) -> tuple[Step, ...]:
        """Return nothing."""
        return ()

    def reverse(self) -> CitusOperation:
        """Return the operation."""
        return self.discarded

    def _details(self) -> Iterator[object]:
        yield self.discarded.function


def dotted(name: str, schema: str | None) -> str:
    """Return a name for people to read, with its schema if there is one."""
    return name if schema is None else f"{schema}.{name}"
