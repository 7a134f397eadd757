"""Distribution, partitions, jobs and rollups as Alembic operations.

An operation is data, as in `alembic.operations.ops`: its attributes are the arguments of its
function on `op`, and may be changed, by a `Rewriter` for example, until it is rendered or run. Each
operation knows its SQL, what it needs of its transaction, and the operation that reverses it.
`blocks` sends the SQL to the server, `render` writes an operation as a line of a migration, and
`compare` decides which operations a migration needs.

Definitions: Citus documentation, "Citus Utility Functions", where nothing else is said.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
)

import alembic.op
from alembic.operations import MigrateOperation, Operations
from sqlalchemy import Connection

from citus_analytics.errors import ArgumentError, OperationError
from citus_analytics.migrations.blocks import (
    ALLOW_TRIGGERS,
    CITUS,
    REFUSE_TO_DROP_FOREIGN_KEYS,
    Extension,
    Guarded,
    Step,
    Transaction,
    colocated,
    colocation,
    connected,
    create_time_partitions,
    drop_old_time_partitions,
    execute,
    has_shards,
    is_colocated_with,
    is_distributed,
    is_distributed_by,
    is_managed,
    is_reference,
    just,
    refuse_to_part_rollups,
    undistribute_if_new,
)
from citus_analytics.rollups.sql import RollupSpec, create, drop
from citus_analytics.schema import Distributed, Distribution, Local, Reference
from citus_analytics.sql import literal, on_citus, qualify, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ModifyMode: TypeAlias = Literal["sequential", "parallel"]


def _internal(*, compare: bool = False) -> Any:
    """Return a field that is not an argument of the operation's function."""
    return field(default=False, compare=compare, repr=False, metadata={"internal": True})


@dataclass(eq=False)
class CitusOperation(MigrateOperation):
    """Base class of the operations of this package.

    Attributes:
        function: The name of its function on `op`.
        transaction: What it needs of the transaction that it runs in.
        implied: Whether another operation of the same migration has the same effect, as DROP TABLE
            has on the shards of the table. An implied operation is neither rendered nor executed;
            its reverse is.
    """

    function: ClassVar[str]
    transaction: ClassVar[Transaction] = Transaction.ANY

    _: KW_ONLY
    implied: bool = _internal()

    @property
    @abstractmethod
    def subject(self) -> str:
        """What the operation changes, such as the name of a table."""

    @abstractmethod
    def steps(self) -> tuple[Step, ...]:
        """Return the statements, in order."""

    def arguments(self) -> Iterator[tuple[str | None, Any]]:
        """Yield name and value of the arguments of its function that differ from their defaults.

        The name of a positional argument is None.
        """
        own = [item for item in fields(self) if not item.metadata.get("internal")]
        yield from ((None, getattr(self, item.name)) for item in own if not item.kw_only)
        # A schema comes last, as in Alembic's own operations.
        for item in sorted(own, key=lambda item: item.name == "schema"):
            if item.kw_only and getattr(self, item.name) != item.default:
                yield item.name, getattr(self, item.name)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the operation as `alembic check` prints it."""
        _, *others = self.arguments()  # The first is the subject.
        details = (
            value if name is None else f"{name}={value!r}"
            for name, value in others
            if name != "schema"
        )
        return (self.function, self.subject, *details)


@Operations.implementation_for(CitusOperation)
def _execute(operations: Operations, operation: CitusOperation) -> None:
    # With `--sql` there is no connection, or one that only writes.
    connection: object = operations.migration_context.connection
    if isinstance(operation, TableOperation) and isinstance(connection, Connection):
        # As SQLAlchemy does for the tables of Alembic's own operations.
        translated = connection.get_execution_options().get("schema_translate_map") or {}
        operation = replace(operation, schema=translated.get(operation.schema, operation.schema))
    if not operation.implied:
        execute(operations, operation)


@dataclass(eq=False)
class TableOperation(CitusOperation):
    """Base class of the operations on a table.

    Attributes:
        table_name: The table.
        schema: Its schema, None for the first of the search path.
    """

    table_name: str
    _: KW_ONLY
    schema: str | None = None

    @property
    def subject(self) -> str:
        """The name of the table, as messages have it."""
        return _dotted(self.table_name, self.schema)

    @property
    def quoted(self) -> str:
        """The name of the table as SQL."""
        return qualify(self.table_name, self.schema)

    @property
    def _refusal(self) -> str:
        """The statement that fails if the table has rollups, which do not follow it."""
        oid = f"ARRAY[{literal(self.quoted)}::regclass::oid]"
        return f"{refuse_to_part_rollups(self.function, oid)}\n"


def _dotted(name: str, schema: str | None) -> str:
    return name if schema is None else f"{schema}.{name}"


# Where a table lives.


@dataclass(eq=False)
class _DistributeOp(TableOperation):
    """Base class of the two operations that put a table on shards."""

    column: str | None
    _: KW_ONLY
    colocate_with: str | None = None
    colocate_schema: str | None = None
    shard_count: int | None = None

    def _step(self, needs: Extension, *, before: str = "") -> Guarded:
        """Return the call of the function, after the statements in `before`."""
        distribution = self.distribution
        column, partner = distribution.column, distribution.colocate_with
        arguments = [literal(self.quoted), "NULL" if column is None else literal(column)]
        conditions = [is_distributed_by(column)]
        if partner is not None:
            wanted = colocation(partner, distribution.colocate_schema, self.schema)
            arguments.append(f"colocate_with => {wanted}")
            if distribution.names_a_table:
                schemas = (distribution.colocate_schema, self.schema)
                conditions.append(is_colocated_with(partner, *schemas))
        if distribution.shard_count is not None:
            arguments.append(f"shard_count => {distribution.shard_count:d}")
            conditions.append(has_shards(distribution.shard_count))
        how = "put on a shard" if column is None else f"distributed by {column}"
        return Guarded(
            call=f"{self.function}(column=None)" if column is None else self.function,
            body=f"{before}{self._refusal}PERFORM {self.function}({', '.join(arguments)});",
            only_if=f"NOT {is_distributed(self.quoted, *conditions)}",
            otherwise=f"table {self.quoted} is not {how}, it stays local",
            needs=(needs,),
        )

    @property
    def distribution(self) -> Distributed:
        """How the table is distributed afterwards.

        Raises:
            DeclarationError: The attributes contradict each other.
        """
        return Distributed(
            self.column,
            colocate_with=self.colocate_with,
            colocate_schema=self.colocate_schema,
            shard_count=self.shard_count,
        )


@Operations.register_operation("create_distributed_table")
@dataclass(eq=False)
class CreateDistributedTableOp(_DistributeOp):
    """Put a table on shards.

    Attributes:
        new: Whether the same migration creates the table. Dropping it undoes both.
    """

    function: ClassVar = "create_distributed_table"
    transaction: ClassVar = Transaction.SEQUENTIAL

    _: KW_ONLY
    new: bool = _internal()

    @classmethod
    def create_distributed_table(
        cls,
        operations: Operations,
        table_name: str,
        column: str | None,
        *,
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
            colocate_with: A distributed table whose shards this table's join; `"none"` for a group
                of its own; None leaves the choice to Citus.
            colocate_schema: The schema of `colocate_with`, None for that of the table.
            shard_count: The number of shards; None takes the server's `citus.shard_count`.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            DeclarationError: The arguments contradict each other.
            OperationError: The policy is `require` and Citus is not installed, or Citus is too old.
        """
        operation = cls(
            table_name,
            column,
            colocate_with=colocate_with,
            colocate_schema=colocate_schema,
            shard_count=shard_count,
            schema=schema,
        )
        operations.invoke(operation)

    @classmethod
    def of(
        cls,
        table_name: str,
        distribution: Distributed,
        schema: str | None = None,
        *,
        new: bool = False,
    ) -> CreateDistributedTableOp:
        """Return the operation that distributes a table as declared."""
        return cls(
            table_name,
            distribution.column,
            colocate_with=distribution.colocate_with,
            colocate_schema=distribution.colocate_schema,
            shard_count=distribution.shard_count,
            schema=schema,
            new=new,
        )

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        needs = Extension("citus", (12, 0)) if self.column is None else CITUS
        return (self._step(needs, before=undistribute_if_new(self.quoted)),)

    def reverse(self) -> UndistributeTableOp:
        """Return the operation that makes the table local again, unless it is dropped anyway."""
        return UndistributeTableOp(
            self.table_name, was=self.distribution, schema=self.schema, implied=self.new
        )


@Operations.register_operation("create_distributed_table_concurrently")
@dataclass(eq=False)
class CreateDistributedTableConcurrentlyOp(_DistributeOp):
    """Put a table on shards while it is written to."""

    function: ClassVar = "create_distributed_table_concurrently"
    transaction: ClassVar = Transaction.FORBIDDEN

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
        operation = cls(
            table_name,
            column,
            colocate_with=colocate_with,
            colocate_schema=colocate_schema,
            shard_count=shard_count,
            schema=schema,
        )
        operations.invoke(operation)

    def steps(self) -> tuple[Step, ...]:
        """Return the statements.

        Raises:
            OperationError: There is no distribution column.
        """
        if self.column is None:
            raise OperationError(
                f"{self.function}({self.subject!r}) needs a distribution column. For a table of a "
                "single shard use create_distributed_table, during which writers wait."
            )
        return (self._step(Extension("citus", (11, 1))),)

    def reverse(self) -> UndistributeTableOp:
        """Return the operation that makes the table local again, while writers wait."""
        return UndistributeTableOp(self.table_name, was=self.distribution, schema=self.schema)


@Operations.register_operation("create_reference_table")
@dataclass(eq=False)
class CreateReferenceTableOp(TableOperation):
    """Copy a table to every node.

    Attributes:
        new: Whether the same migration creates the table. Dropping it undoes both.
    """

    function: ClassVar = "create_reference_table"

    _: KW_ONLY
    new: bool = _internal()

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
        operations.invoke(cls(table_name, schema=schema))

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        step = Guarded(
            call=self.function,
            body=f"{undistribute_if_new(self.quoted)}{self._refusal}"
            f"PERFORM create_reference_table({literal(self.quoted)});",
            only_if=f"NOT {is_reference(self.quoted)}",
            otherwise=f"table {self.quoted} is not copied to every node, it stays local",
        )
        return (step,)

    def reverse(self) -> UndistributeTableOp:
        """Return the operation that makes the table local again, unless it is dropped anyway."""
        return UndistributeTableOp(
            self.table_name, was=Reference(), schema=self.schema, implied=self.new
        )


@Operations.register_operation("add_local_table_to_metadata")
@dataclass(eq=False)
class AddLocalTableToMetadataOp(TableOperation):
    """Make a local table known to the other nodes."""

    function: ClassVar = "add_local_table_to_metadata"

    _: KW_ONLY
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
        """Make a local table known to the other nodes, so that they can query it.

        Definition: `citus_add_local_table_to_metadata`.

        Args:
            operations: Filled in by Alembic.
            table_name: The table, which stays on the coordinator.
            cascade: Whether the tables that foreign keys connect with it become known as well.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        operations.invoke(cls(table_name, cascade=cascade, schema=schema))

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        cascade = ", cascade_via_foreign_keys => true" if self.cascade else ""
        step = Guarded(
            call=self.function,
            body=f"{refuse_to_part_rollups(self.function, 'rewritten')}\n"
            f"PERFORM citus_add_local_table_to_metadata({literal(self.quoted)}{cascade});",
            rewrites=connected(self.quoted) if self.cascade else just(self.quoted),
            otherwise=f"there are no other nodes for table {self.quoted} to be known to",
        )
        return (step,)

    def reverse(self) -> UndistributeTableOp:
        """Return the operation that makes the table known to the coordinator alone."""
        return UndistributeTableOp(
            self.table_name, was=Local(), cascade=self.cascade, schema=self.schema
        )


@Operations.register_operation("undistribute_table")
@dataclass(eq=False)
class UndistributeTableOp(TableOperation):
    """Bring a table that Citus manages back to the coordinator.

    Attributes:
        new: Whether the same migration creates the table. Dropping it undoes both.
    """

    function: ClassVar = "undistribute_table"
    transaction: ClassVar = Transaction.SEQUENTIAL

    _: KW_ONLY
    was: Distribution | None = None
    cascade: bool = False
    new: bool = _internal()

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
        """Bring a table back to the coordinator, with its rows. Does nothing to a local table.

        The rollups of a table are dropped before, and created again behind it, in the same
        migration.

        Args:
            operations: Filled in by Alembic.
            table_name: The table.
            was: How it was distributed; `Local()` for a local table in Citus's metadata. Without
                it the operation cannot be reversed.
            cascade: Whether the tables that foreign keys connect with it come back as well.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and Citus is not installed.
        """
        operations.invoke(cls(table_name, was=was, cascade=cascade, schema=schema))

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        cascade = ", cascade_via_foreign_keys => true" if self.cascade else ""
        step = Guarded(
            call=self.function,
            body=f"{refuse_to_part_rollups(self.function, 'rewritten')}\n{ALLOW_TRIGGERS}\n"
            f"PERFORM undistribute_table({literal(self.quoted)}{cascade});",
            only_if=is_managed(self.quoted),
            rewrites=connected(self.quoted) if self.cascade else just(self.quoted),
            otherwise=f"table {self.quoted} is local as it is",
        )
        return (step,)

    def reverse(
        self,
    ) -> (
        CreateDistributedTableOp
        | CreateReferenceTableOp
        | AddLocalTableToMetadataOp
        | UndistributeTableOp
    ):
        """Return the operation that distributes the table as it was, unless it is dropped anyway.

        Raises:
            OperationError: It does not say how the table was distributed, or it brought back other
                tables too.
        """
        name, schema = self.table_name, self.schema
        if self.new or (self.implied and self.was is None):
            # The table is created before it, or dropped after it: one is the reverse of the other.
            return replace(self, new=self.implied, implied=self.new)
        match self.was:
            case Local():
                return AddLocalTableToMetadataOp(name, cascade=self.cascade, schema=schema)
            case Distributed() if not self.cascade:
                return CreateDistributedTableOp.of(name, self.was, schema, new=self.implied)
            case Reference() if not self.cascade:
                return CreateReferenceTableOp(name, schema=schema, new=self.implied)
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


@Operations.register_operation("alter_distributed_table")
@dataclass(eq=False)
class AlterDistributedTableOp(TableOperation):
    """Change the distribution column, the number of shards or the colocation of a table.

    Attributes:
        undoes: The operation that this one is the reverse of.
    """

    function: ClassVar = "alter_distributed_table"
    transaction: ClassVar = Transaction.SEQUENTIAL

    _: KW_ONLY
    column: str | None = None
    shard_count: int | None = None
    colocate_with: str | None = None
    colocate_schema: str | None = None
    cascade_to_colocated: bool | None = None
    was: Distributed | None = None
    undoes: AlterDistributedTableOp | None = field(
        default=None, compare=False, repr=False, metadata={"internal": True}
    )

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

        What is left out stays as it is. Does nothing to a table that is already distributed as
        asked. A table that has rollups changes with what is colocated with it
        (`cascade_to_colocated`), or between `drop_rollups` and `create_rollups`.

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
        operation = cls(
            table_name,
            column=column,
            shard_count=shard_count,
            colocate_with=colocate_with,
            colocate_schema=colocate_schema,
            cascade_to_colocated=cascade_to_colocated,
            was=was,
            schema=schema,
        )
        operations.invoke(operation)

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        arguments = [literal(self.quoted)]
        # Citus refuses to change nothing.
        already = []
        if self.column is not None:
            arguments.append(f"distribution_column => {literal(self.column)}")
            already.append(is_distributed_by(self.column))
        if self.shard_count is not None:
            arguments.append(f"shard_count => {self.shard_count:d}")
            already.append(has_shards(self.shard_count))
        if self.colocate_with is not None:
            wanted = (self.colocate_with, self.colocate_schema, self.schema)
            arguments.append(f"colocate_with => {colocation(*wanted)}")
            already.append(is_colocated_with(*wanted))
        if self.cascade_to_colocated is not None:
            arguments.append(f"cascade_to_colocated => {str(self.cascade_to_colocated).lower()}")
        step = Guarded(
            call=self.function,
            body=f"{REFUSE_TO_DROP_FOREIGN_KEYS.strip()}\n"
            f"{refuse_to_part_rollups(self.function, 'rewritten', together=True)}\n"
            f"{ALLOW_TRIGGERS}\n"
            f"PERFORM alter_distributed_table({', '.join(arguments)});",
            only_if=f"NOT {is_distributed(self.quoted, *already)}",
            rewrites=(colocated if self.cascade_to_colocated else just)(self.quoted),
            otherwise=f"table {self.quoted} is local, and has no shards to change",
        )
        return (step,)

    def reverse(self) -> AlterDistributedTableOp:
        """Return the operation that changes back what this one changes.

        Raises:
            OperationError: The operation does not say what to go back to.
        """
        if self.undoes is not None:
            return self.undoes
        was = self.was
        if was is None or (self.column is not None and was.column is None):
            raise self._irreversible("how the table was distributed. Give it was=Distributed(...)")
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

    def _becomes(self, was: Distributed) -> Distributed:
        """Return how the table is distributed afterwards."""
        column = was.column if self.column is None else self.column
        if (self.shard_count, self.colocate_with) == (None, None):
            return Distributed(
                column,
                colocate_with=was.colocate_with,
                colocate_schema=was.colocate_schema,
                shard_count=was.shard_count,
            )
        by_default = self.colocate_with in (None, "default") and self.colocate_schema is None
        return Distributed(
            column,
            colocate_with=None if by_default else self.colocate_with,
            colocate_schema=self.colocate_schema,
            shard_count=self.shard_count,
        )

    def _irreversible(self, unknown: str) -> OperationError:
        return OperationError(
            f"alter_distributed_table({self.subject!r}) cannot be reversed: it does not say "
            f"{unknown}."
        )


@Operations.register_operation("update_distributed_table_colocation")
@dataclass(eq=False)
class UpdateDistributedTableColocationOp(TableOperation):
    """Declare a table colocated with another, without moving a shard."""

    function: ClassVar = "update_distributed_table_colocation"

    colocate_with: str
    _: KW_ONLY
    colocate_schema: str | None = None
    was: str | None = None
    was_schema: str | None = None

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
        """Declare a table colocated with another. No row is moved.

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
        operation = cls(
            table_name,
            colocate_with,
            colocate_schema=colocate_schema,
            was=was,
            was_schema=was_schema,
            schema=schema,
        )
        operations.invoke(operation)

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        wanted = colocation(self.colocate_with, self.colocate_schema, self.schema)
        step = Guarded(
            call=self.function,
            body=f"PERFORM update_distributed_table_colocation({literal(self.quoted)}, {wanted});",
            otherwise=f"table {self.quoted} is local, and colocated with every other",
        )
        return (step,)

    def reverse(self) -> UpdateDistributedTableColocationOp:
        """Return the operation that colocates the table as before.

        Raises:
            OperationError: The operation does not say what to go back to.
        """
        if self.was is None:
            raise OperationError(
                f"update_distributed_table_colocation({self.subject!r}) cannot be reversed: it "
                "does not say what the table was colocated with. Give it was=..., or was='none'."
            )
        return UpdateDistributedTableColocationOp(
            self.table_name,
            self.was,
            colocate_schema=self.was_schema,
            was=self.colocate_with,
            was_schema=self.colocate_schema,
            schema=self.schema,
        )


@Operations.register_operation("isolate_tenant_to_new_shard")
@dataclass(eq=False)
class IsolateTenantToNewShardOp(TableOperation):
    """Give one value of the distribution column a shard of its own."""

    function: ClassVar = "isolate_tenant_to_new_shard"

    tenant_id: str | int
    _: KW_ONLY
    cascade: bool = False

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
        operations.invoke(cls(table_name, tenant_id, cascade=cascade, schema=schema))

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        arguments = [literal(self.quoted), literal(str(self.tenant_id))]
        if self.cascade:
            arguments.append("'CASCADE'")
        step = Guarded(
            call=self.function,
            body=f"PERFORM isolate_tenant_to_new_shard({', '.join(arguments)});",
            otherwise=f"table {self.quoted} is local, and has no shards to split",
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


@Operations.register_operation("alter_table_set_access_method")
@dataclass(eq=False)
class AlterTableSetAccessMethodOp(TableOperation):
    """Store a table by rows (`heap`) or by columns (`columnar`).

    Attributes:
        new: Whether the same migration creates the table. Dropping it undoes both.
    """

    function: ClassVar = "alter_table_set_access_method"
    transaction: ClassVar = Transaction.SEQUENTIAL

    access_method: str
    _: KW_ONLY
    was: str | None = None
    new: bool = _internal()

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

        Does nothing to a table that is already stored this way.

        Args:
            operations: Filled in by Alembic.
            table_name: The table, distributed or not, or a partition.
            access_method: `columnar` (the extension citus_columnar), or `heap`, PostgreSQL's own.
            was: The access method until now; without it the operation cannot be reversed.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            OperationError: The policy is `require` and an extension is not installed.
        """
        operations.invoke(cls(table_name, access_method, was=was, schema=schema))

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        table, method = literal(self.quoted), literal(self.access_method)
        columnar = Extension("citus_columnar", (11, 1))
        step = Guarded(
            call=self.function,
            body=f"{ALLOW_TRIGGERS}\nPERFORM alter_table_set_access_method({table}, {method});",
            only_if="NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c\n"
            "  JOIN pg_catalog.pg_am AS m ON m.oid = c.relam\n"
            f"  WHERE c.oid = {table}::regclass AND m.amname = {method})",
            rewrites=just(self.quoted),
            otherwise=f"table {self.subject} is not stored as {self.access_method}, it stays as "
            "it is",
            needs=(CITUS, columnar) if self.access_method == "columnar" else (CITUS,),
        )
        return (step,)

    def reverse(self) -> AlterTableSetAccessMethodOp:
        """Return the operation that stores the table as before, unless it is dropped anyway.

        Raises:
            OperationError: The operation does not say what to go back to.
        """
        if self.new or self.implied:
            # The table is created with it, or dropped with it: one is the reverse of the other.
            return replace(self, new=self.implied, implied=self.new)
        if self.was is None:
            raise OperationError(
                f"alter_table_set_access_method({self.subject!r}, {self.access_method!r}) cannot "
                "be reversed: it does not say how the table was stored. Give it was='heap'."
            )
        return AlterTableSetAccessMethodOp(
            self.table_name, self.was, was=self.access_method, schema=self.schema
        )


@Operations.register_operation("set_multi_shard_modify_mode")
@dataclass(eq=False)
class SetMultiShardModifyModeOp(CitusOperation):
    """Choose how many connections to a node Citus uses until the transaction ends."""

    function: ClassVar = "set_multi_shard_modify_mode"
    # `alembic check` looks into what has operations, and finds nothing that differs.
    ops: ClassVar[tuple[()]] = ()

    mode: ModifyMode

    @classmethod
    def set_multi_shard_modify_mode(cls, operations: Operations, mode: ModifyMode) -> None:
        """Use one connection to each node (`sequential`), or several, until the transaction ends.

        Alembic's own operations, such as `op.drop_constraint`, work on the shards of a table in
        parallel, after which Citus refuses foreign keys to reference tables, functions, triggers
        and new distributed tables in the same transaction. `run_environment` begins each
        transaction in sequential mode, and so does `sequential_transactions`; this is for
        environments without either. Without Citus it does
        nothing.

        Definition: Citus documentation, "Configuration Reference".

        Args:
            operations: Filled in by Alembic.
            mode: `sequential`, or `parallel` for the server's default.

        Raises:
            OperationError: It is another mode.
        """
        operations.invoke(cls(mode))

    @property
    def subject(self) -> str:
        """The mode."""
        return self.mode

    def steps(self) -> tuple[Step, ...]:
        """Return the statements.

        Raises:
            OperationError: It is another mode.
        """
        if self.mode not in get_args(ModifyMode):
            raise OperationError(
                f"set_multi_shard_modify_mode({self.mode!r}): the modes are "
                f"{' and '.join(get_args(ModifyMode))}."
            )
        setting = f"'citus.multi_shard_modify_mode', {literal(self.mode)}, true"
        return (on_citus(f"PERFORM set_config({setting});"),)

    def reverse(self) -> SetMultiShardModifyModeOp:
        """Return its counterpart at the end of a migration, which comes first in the downgrade."""
        return replace(self, implied=not self.implied)


# Partitions by time.


@Operations.register_operation("create_time_partitions")
@dataclass(eq=False)
class CreateTimePartitionsOp(TableOperation):
    """Create the partitions of a time range."""

    function: ClassVar = "create_time_partitions"

    partition_interval: timedelta | str
    end_at: datetime
    _: KW_ONLY
    start_from: datetime | None = None

    @classmethod
    def create_time_partitions(
        cls,
        operations: Operations,
        table_name: str,
        partition_interval: timedelta | str,
        end_at: datetime,
        *,
        start_from: datetime | None = None,
        schema: str | None = None,
    ) -> None:
        """Create the partitions that cover the time from `start_from` to `end_at`.

        Existing partitions are left alone, and the new ones are aligned with the first of them.
        The very first partition starts at a round time in UTC: the minute, hour, day, Monday,
        month, quarter or year that suits the interval.

        It is plain SQL, the same on every server. Names and ranges are those of Citus's function
        of the same name in a session whose time zone is UTC.

        Args:
            operations: Filled in by Alembic.
            table_name: A table partitioned by the range of one date, timestamp or timestamptz.
            partition_interval: The width of a partition, as a `timedelta` or an SQL interval such
                as `1 month`.
            end_at: Where the last partition ends, or a little later.
            start_from: Where the first partition starts, or a little earlier; None is the time at
                which the migration runs.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            ArgumentError: A datetime is naive, or the interval or the span is not positive.
            OperationError: The table is not partitioned that way.
        """
        operations.invoke(
            cls(table_name, partition_interval, end_at, start_from=start_from, schema=schema)
        )

    def steps(self) -> tuple[Step, ...]:
        """Return the statements.

        Raises:
            ArgumentError: A datetime is naive, or the interval or the span is not positive.
        """
        _require_aware(f"{self.function}(end_at=...)", self.end_at)
        if self.start_from is not None:
            _require_aware(f"{self.function}(start_from=...)", self.start_from)
            if self.start_from >= self.end_at:
                raise ArgumentError(
                    f"{self.function}({self.subject!r}) must start before it ends, got "
                    f"start_from={self.start_from} and end_at={self.end_at}."
                )
        width = self.partition_interval
        if isinstance(width, timedelta) and width <= timedelta(0):
            raise ArgumentError(f"a partition_interval must be longer than 0, got {width}.")
        return (create_time_partitions(self.quoted, width, self.start_from, self.end_at),)

    def reverse(self) -> NoReturn:
        """Refuse: which partitions it created, and which were there, only the server knew.

        Raises:
            OperationError: Always.
        """
        raise OperationError(
            f"{self.function}({self.subject!r}) cannot be reversed: a downgrade would drop rows. "
            "Drop the table, or some of its partitions, by name."
        )


@Operations.register_operation("drop_old_time_partitions")
@dataclass(eq=False)
class DropOldTimePartitionsOp(TableOperation):
    """Drop the partitions before a time, with their rows."""

    function: ClassVar = "drop_old_time_partitions"

    older_than: datetime

    @classmethod
    def drop_old_time_partitions(
        cls,
        operations: Operations,
        table_name: str,
        older_than: datetime,
        *,
        schema: str | None = None,
    ) -> None:
        """Drop the partitions that end at `older_than` or before, with their rows.

        Rollups of the table keep their aggregates: what is pending is added up first, and their
        horizon moves to the end of the newest partition that goes.

        Args:
            operations: Filled in by Alembic.
            table_name: A table partitioned by the range of one date, timestamp or timestamptz.
            older_than: The end of the newest partition that goes.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            ArgumentError: The datetime is naive.
            OperationError: The table is not partitioned that way, or it has rollups that are not
                complete.
        """
        operations.invoke(cls(table_name, older_than, schema=schema))

    def steps(self) -> tuple[Step, ...]:
        """Return the statements.

        Raises:
            ArgumentError: The datetime is naive.
        """
        _require_aware(f"{self.function}(older_than=...)", self.older_than)
        return (drop_old_time_partitions(self.quoted, self.older_than),)

    def reverse(self) -> NoReturn:
        """Refuse: the rows are gone.

        Raises:
            OperationError: Always.
        """
        raise OperationError(
            f"{self.function}({self.subject!r}) cannot be reversed: the rows are gone."
        )


def _require_aware(argument: str, value: datetime) -> None:
    if value.tzinfo is None:
        raise ArgumentError(
            f"{argument} must have a time zone, got {value}. Write datetime(..., tzinfo=UTC), for "
            "one."
        )


# Functions and schemas.


@dataclass(eq=False)
class _FunctionOp(CitusOperation):
    """Base class of both operations on functions, each of which is the reverse of the other."""

    signature: str
    _: KW_ONLY
    distribution_argument: str | None = None
    colocate_with: str | None = None
    colocate_schema: str | None = None
    force_delegation: bool | None = None

    @property
    def subject(self) -> str:
        """The function."""
        return self.signature

    def _carried(self) -> dict[str, Any]:
        return {
            "signature": self.signature,
            "distribution_argument": self.distribution_argument,
            "colocate_with": self.colocate_with,
            "colocate_schema": self.colocate_schema,
            "force_delegation": self.force_delegation,
        }

    def _step(self, *arguments: str) -> Guarded:
        given = ", ".join((literal(self.signature), *arguments))
        return Guarded(
            call=self.function,
            body=f"PERFORM create_distributed_function({given});",
            otherwise=f"function {self.signature} runs where it is called",
        )


@Operations.register_operation("create_distributed_function")
@dataclass(eq=False)
class CreateDistributedFunctionOp(_FunctionOp):
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
        operation = cls(
            signature,
            distribution_argument=distribution_argument,
            colocate_with=colocate_with,
            colocate_schema=colocate_schema,
            force_delegation=force_delegation,
        )
        operations.invoke(operation)

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        arguments = []
        if self.distribution_argument is not None:
            arguments.append(f"distribution_arg_name => {literal(self.distribution_argument)}")
        if self.colocate_with is not None:
            wanted = colocation(self.colocate_with, self.colocate_schema, None)
            arguments.append(f"colocate_with => {wanted}")
        if self.force_delegation is not None:
            arguments.append(f"force_delegation => {str(self.force_delegation).lower()}")
        return (self._step(*arguments),)

    def reverse(self) -> UndistributeFunctionOp:
        """Return the operation that lets the function run where it is called."""
        return UndistributeFunctionOp(**self._carried())


@Operations.register_operation("undistribute_function")
@dataclass(eq=False)
class UndistributeFunctionOp(_FunctionOp):
    """Run a function where it is called, like any other."""

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
        """Run a function where it is called, like any other. It stays on all nodes.

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
        operation = cls(
            signature,
            distribution_argument=distribution_argument,
            colocate_with=colocate_with,
            colocate_schema=colocate_schema,
            force_delegation=force_delegation,
        )
        operations.invoke(operation)

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        # Citus has no function for this: distributed by nothing, a function is like any other.
        return (self._step(),)

    def reverse(self) -> CreateDistributedFunctionOp:
        """Return the operation that distributes the function as it was."""
        return CreateDistributedFunctionOp(**self._carried())


@dataclass(eq=False)
class _SchemaOp(CitusOperation):
    """Base class of both operations on schemas."""

    schema_name: str

    @property
    def subject(self) -> str:
        """The schema."""
        return self.schema_name

    @property
    def _quoted(self) -> str:
        """The name of the schema as an SQL string."""
        return literal(quote(self.schema_name))

    @property
    def _refusal(self) -> str:
        """The statement that fails if tables of the schema have rollups."""
        tables = (
            "ARRAY(SELECT c.oid FROM pg_catalog.pg_class AS c "
            f"WHERE c.relnamespace = {self._quoted}::regnamespace)"
        )
        return f"{refuse_to_part_rollups(self.function, tables)}\n"

    @property
    def _is_distributed(self) -> str:
        """The condition that the schema is distributed."""
        return (
            "EXISTS (SELECT FROM pg_catalog.pg_dist_schema\n"
            f"  WHERE schemaid = {self._quoted}::regnamespace)"
        )


@Operations.register_operation("distribute_schema")
@dataclass(eq=False)
class DistributeSchemaOp(_SchemaOp):
    """Keep the tables of a schema together on one node."""

    function: ClassVar = "distribute_schema"

    @classmethod
    def distribute_schema(cls, operations: Operations, schema_name: str) -> None:
        """Keep the tables of a schema together on one node, which Citus chooses (Citus 12.0).

        So are tables that are created in it later. A schema that is distributed already is
        left alone.

        Definition: Citus documentation, "Schema-based sharding" (`citus_schema_distribute`).

        Args:
            operations: Filled in by Alembic.
            schema_name: The schema.

        Raises:
            OperationError: The policy is `require` and Citus is not installed, or Citus is too old.
        """
        operations.invoke(cls(schema_name))

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        step = Guarded(
            call=self.function,
            body=f"{self._refusal}PERFORM citus_schema_distribute({self._quoted});",
            only_if=f"NOT {self._is_distributed}",
            otherwise=f"schema {quote(self.schema_name)} stays local",
            needs=(Extension("citus", (12, 0)),),
        )
        return (step,)

    def reverse(self) -> UndistributeSchemaOp:
        """Return the operation that brings the schema's tables back to the coordinator."""
        return UndistributeSchemaOp(self.schema_name)


@Operations.register_operation("undistribute_schema")
@dataclass(eq=False)
class UndistributeSchemaOp(_SchemaOp):
    """Bring the tables of a distributed schema back to the coordinator."""

    function: ClassVar = "undistribute_schema"

    @classmethod
    def undistribute_schema(cls, operations: Operations, schema_name: str) -> None:
        """Bring the tables of a distributed schema back to the coordinator (Citus 12.0).

        A schema that is not distributed is left alone.

        Definition: Citus documentation, "Schema-based sharding" (`citus_schema_undistribute`).

        Args:
            operations: Filled in by Alembic.
            schema_name: The schema.

        Raises:
            OperationError: The policy is `require` and Citus is not installed, or Citus is too old.
        """
        operations.invoke(cls(schema_name))

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        step = Guarded(
            call=self.function,
            body=f"{self._refusal}PERFORM citus_schema_undistribute({self._quoted});",
            only_if=self._is_distributed,
            otherwise=f"schema {quote(self.schema_name)} is local as it is",
            needs=(Extension("citus", (12, 0)),),
            rewrites="SELECT p.logicalrelid FROM pg_catalog.pg_dist_partition AS p\n"
            "  JOIN pg_catalog.pg_class AS c ON c.oid = p.logicalrelid\n"
            f"  WHERE c.relnamespace = {self._quoted}::regnamespace",
        )
        return (step,)

    def reverse(self) -> DistributeSchemaOp:
        """Return the operation that distributes the schema again."""
        return DistributeSchemaOp(self.schema_name)


# Jobs of the extension pg_cron.

# The first in which scheduling a name again replaces its job.
_PG_CRON = Extension("pg_cron", (1, 4))


@dataclass(frozen=True, slots=True)
class Job:
    """A command and its schedule.

    Attributes:
        schedule: In the syntax of cron, in pg_cron's time zone: `*/5 * * * *`.
        command: One SQL command or several.
    """

    schedule: str
    command: str


@Operations.register_operation("schedule")
@dataclass(eq=False)
class ScheduleOp(CitusOperation):
    """Schedule a command on the server."""

    function: ClassVar = "schedule"

    name: str
    cron: str
    command: str

    @classmethod
    def schedule(cls, operations: Operations, name: str, schedule: str, command: str) -> None:
        """Schedule a command on the server, as the user who runs the migration.

        A job of this name and user is replaced.

        Definition: pg_cron's documentation, `cron.schedule`.

        Args:
            operations: Filled in by Alembic.
            name: The name of the job.
            schedule: In the syntax of cron, in pg_cron's time zone: `*/5 * * * *`.
            command: One SQL command or several.

        Raises:
            OperationError: The policy is `require` and pg_cron is not installed.
        """
        operations.invoke(cls(name, schedule, command))

    @property
    def subject(self) -> str:
        """The job."""
        return self.name

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        arguments = ", ".join(map(literal, (self.name, self.cron, self.command)))
        step = Guarded(
            call=self.function,
            body=f"PERFORM cron.schedule({arguments});",
            otherwise=f"job {self.name} is not scheduled",
            needs=(_PG_CRON,),
        )
        return (step,)

    def reverse(self) -> UnscheduleOp:
        """Return the operation that removes the job."""
        return UnscheduleOp(self.name, was=Job(self.cron, self.command))


@Operations.register_operation("unschedule")
@dataclass(eq=False)
class UnscheduleOp(CitusOperation):
    """Remove a scheduled command."""

    function: ClassVar = "unschedule"

    name: str
    _: KW_ONLY
    was: Job | None = None

    @classmethod
    def unschedule(cls, operations: Operations, name: str, *, was: Job | None = None) -> None:
        """Remove a scheduled command. Does nothing if there is no such job.

        Definition: pg_cron's documentation, `cron.unschedule`.

        Args:
            operations: Filled in by Alembic.
            name: The name of a job of the user who migrates.
            was: The job; without it the operation cannot be reversed.

        Raises:
            OperationError: The policy is `require` and pg_cron is not installed.
        """
        operations.invoke(cls(name, was=was))

    @property
    def subject(self) -> str:
        """The job."""
        return self.name

    def steps(self) -> tuple[Step, ...]:
        """Return the statements."""
        step = Guarded(
            call=self.function,
            body="PERFORM cron.unschedule(j.jobid) FROM cron.job AS j\n"
            f"WHERE j.jobname = {literal(self.name)} AND j.username = current_user;",
            otherwise=f"job {self.name} is not scheduled as it is",
            needs=(_PG_CRON,),
        )
        return (step,)

    def reverse(self) -> ScheduleOp:
        """Return the operation that schedules the job again.

        Raises:
            OperationError: The operation does not say what the job was.
        """
        if self.was is None:
            raise OperationError(
                f"unschedule({self.name!r}) cannot be reversed: it does not say what the job was. "
                "Give it was=Job(schedule, command)."
            )
        return ScheduleOp(self.name, self.was.schedule, self.was.command)


# Rollups.


@dataclass(eq=False)
class _RollupsOp(CitusOperation):
    """What both operations on rollups are about."""

    transaction: ClassVar = Transaction.REQUIRED

    spec: RollupSpec

    @property
    def subject(self) -> str:
        """The source."""
        return _dotted(self.spec.source, self.spec.schema)


@Operations.register_operation("create_rollups")
@dataclass(eq=False)
class CreateRollupsOp(_RollupsOp):
    """Create what keeps the rollups of a source.

    Attributes:
        again: Whether the same migration drops the rollups that were there before.
        clear: The tables whose groups are others than those before, which the reverse empties.
        incomplete: The tables whose values change in the same migration.
        renamed_from: The name that the source had before, if it has been renamed.
        moved_from: The schema that the source was in before, if it has been moved.
        faults: What is wrong with the rollups in the database, for `alembic check` to tell.
    """

    function: ClassVar = "create_rollups"

    _: KW_ONLY
    again: bool = _internal()
    clear: tuple[str, ...] = field(
        default=(), compare=False, repr=False, metadata={"internal": True}
    )
    incomplete: tuple[str, ...] = field(
        default=(), compare=False, repr=False, metadata={"internal": True}
    )
    renamed_from: str | None = field(
        default=None, compare=False, repr=False, metadata={"internal": True}
    )
    moved_from: str | None = field(
        default=None, compare=False, repr=False, metadata={"internal": True}
    )
    faults: tuple[str, ...] = field(
        default=(), compare=False, repr=False, metadata={"internal": True}
    )

    @classmethod
    def create_rollups(cls, operations: Operations, spec: RollupSpec) -> None:
        """Create what keeps the rollups of a source: its log, triggers, functions and views.

        The source and the tables of the rollups exist already, and are distributed if they are to
        be: the log joins the shards of the source. On a source that has rows the rollups are
        complete once they have been backfilled. Writers of the source wait until the migration
        has committed.

        Args:
            operations: Filled in by Alembic.
            spec: All rollups of the source, in plain names.

        Raises:
            OperationError: The migration runs without a transaction, or the tables do not suit.
        """
        operations.invoke(cls(spec))

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the operation as `alembic check` prints it."""
        return (*super().to_diff_tuple(), *self.faults)

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        return create(self.spec)

    def reverse(self) -> DropRollupsOp:
        """Return the operation that drops what this one creates."""
        return DropRollupsOp(
            self.spec,
            keep_state=self.again,
            clear=self.clear,
            incomplete=self.incomplete,
            renamed_to=self.renamed_from,
            moved_to=self.moved_from,
        )


@Operations.register_operation("drop_rollups")
@dataclass(eq=False)
class DropRollupsOp(_RollupsOp):
    """Drop what keeps the rollups of a source, and keep their tables."""

    function: ClassVar = "drop_rollups"

    _: KW_ONLY
    keep_state: bool = False
    clear: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    renamed_to: str | None = None
    moved_to: str | None = None

    @classmethod
    def drop_rollups(
        cls,
        operations: Operations,
        spec: RollupSpec,
        *,
        keep_state: bool = False,
        clear: tuple[str, ...] = (),
        incomplete: tuple[str, ...] = (),
        renamed_to: str | None = None,
        moved_to: str | None = None,
    ) -> None:
        """Drop what keeps the rollups of a source; keep their tables.

        What is pending is added up first. Parts of it that are missing are no hindrance: where it
        cannot be added up, a warning says so, and the tables have to be backfilled again.

        Args:
            operations: Filled in by Alembic.
            spec: All rollups of the source, in plain names.
            keep_state: Whether what is known of them stays, such as what has been expired, for
                rollups that the same migration creates again.
            clear: Tables of rollups that are emptied, because the same migration changes what their
                rows are grouped by. They are backfilled afterwards, which is refused where rows
                have been expired: their aggregates would be lost.
            incomplete: Tables of rollups that have to be backfilled again, because the migration
                changes values, which fires no trigger, or because changes have been missed.
            renamed_to: The name of the source after the migration, under which the state is kept.
            moved_to: The schema of the source after the migration, to which the state is moved.

        Raises:
            OperationError: The migration runs without a transaction, or a table of `clear` has
                aggregates of rows that have been expired.
        """
        operation = cls(
            spec,
            keep_state=keep_state,
            clear=clear,
            incomplete=incomplete,
            renamed_to=renamed_to,
            moved_to=moved_to,
        )
        operations.invoke(operation)

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        return drop(
            self.spec,
            keep=self.keep_state,
            clear=self.clear,
            incomplete=self.incomplete,
            renamed_to=self.renamed_to,
            moved_to=self.moved_to,
        )

    def reverse(self) -> CreateRollupsOp:
        """Return the operation that creates what this one drops."""
        return CreateRollupsOp(
            self.spec,
            again=self.keep_state,
            clear=self.clear,
            incomplete=self.incomplete,
            renamed_from=self.renamed_to,
            moved_from=self.moved_to,
        )


_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Function(Generic[_P, _R]):
    """The function of an operation on `op`, with the types that its class method has."""

    def __init__(self, method: Callable[Concatenate[Operations, _P], _R]) -> None:
        self._method = method

    def __get__(self, operations: Operations, owner: type[Operations]) -> Callable[_P, _R]:
        def call(*arguments: _P.args, **named: _P.kwargs) -> _R:
            return self._method(operations, *arguments, **named)

        return call


class CitusOperations(Operations):
    """Alembic's operations, and those of this package, for type checkers.

    Alembic itself finds them by their registration: `alembic.op` has them too, but not the types.
    """

    create_distributed_table = _Function(CreateDistributedTableOp.create_distributed_table)
    create_distributed_table_concurrently = _Function(
        CreateDistributedTableConcurrentlyOp.create_distributed_table_concurrently
    )
    create_reference_table = _Function(CreateReferenceTableOp.create_reference_table)
    add_local_table_to_metadata = _Function(AddLocalTableToMetadataOp.add_local_table_to_metadata)
    undistribute_table = _Function(UndistributeTableOp.undistribute_table)
    alter_distributed_table = _Function(AlterDistributedTableOp.alter_distributed_table)
    update_distributed_table_colocation = _Function(
        UpdateDistributedTableColocationOp.update_distributed_table_colocation
    )
    isolate_tenant_to_new_shard = _Function(IsolateTenantToNewShardOp.isolate_tenant_to_new_shard)
    alter_table_set_access_method = _Function(
        AlterTableSetAccessMethodOp.alter_table_set_access_method
    )
    set_multi_shard_modify_mode = _Function(SetMultiShardModifyModeOp.set_multi_shard_modify_mode)
    create_time_partitions = _Function(CreateTimePartitionsOp.create_time_partitions)
    drop_old_time_partitions = _Function(DropOldTimePartitionsOp.drop_old_time_partitions)
    create_distributed_function = _Function(CreateDistributedFunctionOp.create_distributed_function)
    undistribute_function = _Function(UndistributeFunctionOp.undistribute_function)
    distribute_schema = _Function(DistributeSchemaOp.distribute_schema)
    undistribute_schema = _Function(UndistributeSchemaOp.undistribute_schema)
    schedule = _Function(ScheduleOp.schedule)
    unschedule = _Function(UnscheduleOp.unschedule)
    create_rollups = _Function(CreateRollupsOp.create_rollups)
    drop_rollups = _Function(DropRollupsOp.drop_rollups)


op = cast("CitusOperations", alembic.op)
"""`alembic.op`, under a type that knows the operations of this package."""
