"""The schema that the rules judge: tables, columns, keys, and how the tables are distributed.

Declared tables are read into a `Model` at once; migrations build one up, `Event` by `Event`, be it
an operation or SQL. Every event looks at the table that changes and at those that refer to it,
never at all tables, so that the work grows with the number of events alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from sqlalchemy import (
    BinaryExpression,
    ColumnClause,
    ForeignKeyConstraint,
    PrimaryKeyConstraint,
    TextClause,
    UnaryExpression,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.exc import CompileError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.schema import Column as DeclaredColumn
from sqlalchemy.schema import CreateColumn
from sqlalchemy.sql import operators

from citus_analytics.rollups.sql import RollupSpec
from citus_analytics.schema import Distributed, Reference, declared_distribution
from citus_analytics.sql import DIALECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Constraint, Index, MetaData
    from sqlalchemy import Table as DeclaredTable
    from sqlalchemy.schema import SchemaItem

    from citus_analytics.schema import Distribution

# In the `info` of a SchemaItem that a migration creates: where it does so.
PLACE: Final = "citus_analytics.place"

_P = TypeVar("_P")

# Stands in SQL text for what only a run of a migration could tell: it is accepted where a name is
# and inside of a literal.
UNKNOWN_TEXT: Final = "citus_analytics_unknown"


class Name(NamedTuple):
    """The name of a table or an index."""

    schema: str | None
    name: str

    def __str__(self) -> str:
        return self.name if self.schema is None else f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Place:
    """A statement in a file of migrations.

    Attributes:
        path: The file.
        line: The line of the column, key or call at fault, counted from 1.
        first, last: The lines of the whole statement; a comment on any of them can ignore.
    """

    path: str
    line: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: Its name in the database.
        type: The type that Citus compares: as SQL, without lengths and precisions. None if unknown.
        full_type: The type with them.
        collation: Its own collation, None for that of the type.
        identity: Whether it is an identity.
        serial: Whether its type is SERIAL or the like.
        generated: Whether it is generated from others.
        sequence: The sequence that its default takes values from.
        place: Where a migration creates it, None for that of the table.
    """

    name: str
    type: str | None = None
    full_type: str | None = None
    collation: str | None = None
    identity: bool = False
    serial: bool = False
    generated: bool = False
    sequence: str | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """What must be unique, or must not overlap.

    Attributes:
        kind: What the server calls it.
        name: None if the server makes it up.
        columns: The columns that are compared by equality.
        included: The columns in INCLUDE, which are not compared.
        has_expression: Whether something else than a column is compared.
        place: Where a migration creates it, None for that of the table.
    """

    kind: Literal["primary key", "unique constraint", "unique index", "exclusion constraint"]
    name: str | None
    columns: tuple[str, ...]
    included: tuple[str, ...] = ()
    has_expression: bool = False
    place: Place | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" if self.name else self.kind


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key; its actions are in SQL's words, such as "SET NULL (a)"."""

    name: str | None
    columns: tuple[str, ...]
    target: Name
    target_columns: tuple[str, ...]
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"
    place: Place | None = None

    def __str__(self) -> str:
        columns = ", ".join(self.columns)
        return f"foreign key {self.name!r}" if self.name else f"foreign key ({columns})"


@dataclass(frozen=True, slots=True)
class OtherIndex:
    """An index that is neither a B-tree nor a hash, be it that of an exclusion constraint."""

    name: str | None
    method: str
    place: Place | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the rows of a table are.

    Attributes:
        kind: "unknown" is a table that is used but not created in the migrations read.
        column: The distribution column of a sharded table.
        colocate_with: The table that it is declared to be colocated with; None leaves the choice to
            Citus.
        colocate_schema: Its schema, None for that of the table itself.
        alone: Whether it is not to be colocated with anything.
        shard_count: The number of shards, None for the server's default.
    """

    kind: Literal["sharded", "single-shard", "reference", "local", "unknown"] = "local"
    column: str | None = None
    colocate_with: str | None = None
    colocate_schema: str | None = None
    alone: bool = False
    shard_count: int | None = None

    @property
    def distributed(self) -> bool:
        """Whether the table has shards, be it a single one."""
        return self.kind in ("sharded", "single-shard")

    @property
    def spread(self) -> bool:
        """Whether the rows are not on the coordinator alone."""
        return self.distributed or self.kind == "reference"

    @classmethod
    def over_shards(
        cls,
        column: str | None,
        *,
        colocate_with: str | None = None,
        colocate_schema: str | None = None,
        shard_count: int | None = None,
        distribution_type: str = "hash",
    ) -> Placement:
        """Return where `create_distributed_table` with these arguments puts the rows."""
        # "none" and "default" are Citus's own words; with a schema, they are names of tables.
        word = colocate_with if colocate_schema is None else None
        # Ranges are not colocated with anything, hashes are.
        alone = word == "none" or distribution_type != "hash"
        return cls(
            kind="single-shard" if column is None else "sharded",
            column=column,
            colocate_with=None if alone or word == "default" else colocate_with,
            colocate_schema=colocate_schema,
            alone=alone,
            shard_count=shard_count,
        )

    @classmethod
    def of(cls, distribution: Distribution | None) -> Placement:
        """Return where a declaration puts the rows; a table without one is local."""
        match distribution:
            case Distributed():
                return cls.over_shards(
                    distribution.column,
                    colocate_with=distribution.colocate_with,
                    colocate_schema=distribution.colocate_schema,
                    shard_count=distribution.shard_count,
                )
            case Reference():
                return cls(kind="reference")
        return cls()


class Group(NamedTuple):
    """A colocation group.

    Citus keeps the shards of a group together. A table that names no other joins the group of its
    kind, type and shard count, and Citus then insists on one collation in the group (Citus
    documentation, "Colocating tables").

    Attributes:
        type: The type of the distribution columns, None for single-shard tables.
        shard_count: The number of shards, None for the server's default.
        owner: The table that asked for a group of its own.
    """

    type: str | None
    shard_count: int | None
    owner: Name | None


@dataclass(slots=True, eq=False)
class Table:
    """A table at one moment.

    Attributes:
        name: Its name as it is written.
        columns: Its columns by their names, in order.
        place: Where a migration creates or first uses it.
        leader: The table whose own declaration decides the colocation group: this one, if it names
            no other. None if it is not distributed, or names something that cannot be followed.
        partner: The table that it is colocated with: the one that it names, or the first one of the
            group that Citus chooses.
        refusal: Why it cannot be colocated with the table that it names.
        filled: Where a migration gives it rows.
        has_trigger: Whether it has a trigger.
        partitioned: Whether it is a table of partitions.
        columnar: Whether it is stored by columns.
        parents: The tables that it inherits from.
        indexes: Its indexes other than B-trees and hashes.
    """

    name: Name
    columns: dict[str, Column] = field(default_factory=dict)
    keys: list[Key] = field(default_factory=list)
    foreign_keys: list[ForeignKey] = field(default_factory=list)
    indexes: list[OtherIndex] = field(default_factory=list)
    placement: Placement = Placement()
    place: Place | None = None
    leader: Table | None = None
    partner: Table | None = None
    refusal: str | None = None
    filled: Place | None = None
    has_trigger: bool = False
    partitioned: bool = False
    columnar: bool = False
    parents: tuple[Name, ...] = ()

    @property
    def distribution_column(self) -> Column | None:
        """The distribution column, if there is one and it is known."""
        column = self.placement.column
        return None if column is None else self.columns.get(column)

    @property
    def partner_name(self) -> Name | None:
        """The table that it is declared to be colocated with."""
        partner, schema = self.placement.colocate_with, self.placement.colocate_schema
        return None if partner is None else Name(schema or self.name.schema, partner)

    @property
    def group(self) -> Group | None:
        """The colocation group of a distributed table; None if it is not known."""
        leader = self.leader
        if leader is None:
            return None
        owner = leader.name if leader.placement.alone else None
        if leader.placement.kind == "single-shard":
            return Group(None, None, owner)
        column = leader.distribution_column
        if column is None or column.type is None:
            return None
        return Group(column.type, leader.placement.shard_count, owner)

    def is_called(self, part: Key | ForeignKey, name: str) -> bool:
        """Return whether a constraint has this name, given to it or made up by PostgreSQL."""
        if part.name is not None:
            return part.name == name
        table, columns = self.name.name, "_".join(part.columns)
        match part:
            case ForeignKey():
                return name == f"{table}_{columns}_fkey"
            case Key(kind="primary key"):
                return name == f"{table}_pkey"
            case Key(kind="exclusion constraint"):
                return name == f"{table}_{columns}_excl"
        return name == f"{table}_{columns}_key"


@dataclass(frozen=True, slots=True)
class Action:
    """What an event does: one of the classes below."""


@dataclass(frozen=True, slots=True)
class TableAction(Action):
    """What an event does to a table."""

    table: Name


@dataclass(frozen=True, slots=True)
class CreateTable(TableAction):
    """CREATE TABLE."""

    created: Table
    if_not_exists: bool = False


class DropTable(TableAction):
    """DROP TABLE."""


@dataclass(frozen=True, slots=True)
class RenameTable(TableAction):
    """ALTER TABLE ... RENAME TO, and ... SET SCHEMA."""

    new: Name


@dataclass(frozen=True, slots=True)
class SetAccessMethod(TableAction):
    """`alter_table_set_access_method`, and ALTER TABLE ... SET ACCESS METHOD."""

    columnar: bool


@dataclass(frozen=True, slots=True)
class Inherit(TableAction):
    """ALTER TABLE ... INHERIT, or NO INHERIT."""

    parent: Name
    no_longer: bool = False


@dataclass(frozen=True, slots=True)
class AlterUnsupported(TableAction):
    """An ALTER TABLE that Citus does not have; `what` in SQL's words."""

    what: str


@dataclass(frozen=True, slots=True)
class Extend(TableAction):
    """ALTER TABLE ... ADD, and CREATE INDEX; `part` has what is new."""

    part: Table


@dataclass(frozen=True, slots=True)
class DropColumn(TableAction):
    """ALTER TABLE ... DROP COLUMN."""

    column: str


@dataclass(frozen=True, slots=True)
class AlterColumn(TableAction):
    """ALTER TABLE ... ALTER COLUMN, and ... RENAME COLUMN.

    Attributes:
        column: The column.
        new_name: None if it keeps its name.
        retyped: A column of the new type, None if it keeps its type.
        new_default: A column with the new default, None if it keeps its default.
    """

    column: str
    new_name: str | None = None
    retyped: Column | None = None
    new_default: Column | None = None


@dataclass(frozen=True, slots=True)
class DropConstraint(TableAction):
    """ALTER TABLE ... DROP CONSTRAINT."""

    name: str


@dataclass(frozen=True, slots=True)
class DropIndex(Action):
    """DROP INDEX, which does not name the table."""

    index: Name


@dataclass(frozen=True, slots=True)
class Distribute(TableAction):
    """`create_distributed_table`, its concurrent form, and `create_reference_table`.

    Attributes:
        function: Which of the three.
        placement: None if only a run of the migration could tell.
    """

    function: str
    placement: Placement | None


@dataclass(frozen=True, slots=True)
class AlterDistribution(TableAction):
    """`alter_distributed_table`; None leaves a property as it is."""

    column: str | None = None
    colocate_with: str | None = None
    colocate_schema: str | None = None
    shard_count: int | None = None


@dataclass(frozen=True, slots=True)
class Undistribute(TableAction):
    """`undistribute_table`; `reversible` if it says how the table was distributed."""

    reversible: bool = False


class Fill(TableAction):
    """INSERT, or COPY FROM."""


@dataclass(frozen=True, slots=True)
class Update(TableAction):
    """UPDATE, DELETE, MERGE, or ON CONFLICT of an INSERT.

    Attributes:
        statement: Which of them.
        columns: The columns that may get another value.
        functions: The functions that it calls, also in WHERE.
        conditional: Those among them that are called in CASE or COALESCE.
        stable_calls: The functions, operators (such as "+") and casts (such as "::date") of a
            column that are STABLE, each with the column, given the tables.
    """

    statement: Literal["UPDATE", "DELETE", "MERGE", "DO UPDATE", "DO NOTHING"]
    columns: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    conditional: tuple[str, ...] = ()
    stable_calls: Callable[[Model], Iterable[tuple[str, str]]] = lambda _: ()


@dataclass(frozen=True, slots=True)
class CreateTrigger(TableAction):
    """CREATE TRIGGER."""

    after_row: bool = False


@dataclass(frozen=True, slots=True)
class CreateRollups(TableAction):
    """`op.create_rollups`; the table is their source."""

    rollups: RollupSpec


@dataclass(frozen=True, slots=True)
class DropRollups(TableAction):
    """`op.drop_rollups`; the table is their source."""


class AllowTriggers(Action):
    """A setting of citus.enable_unsafe_triggers."""


class RunConcurrently(Action):
    """Something runs CONCURRENTLY; its effect is an event of its own."""


@dataclass(frozen=True, slots=True)
class EndMigration(Action):
    """The end of `upgrade`; `irreversible` if `downgrade` does nothing, and `upgrade` something."""

    irreversible: bool


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a migration does.

    Attributes:
        action: What.
        place: Where it says so.
        revision: The migration.
        in_sql: Whether it is part of SQL text.
        autocommit: Whether it runs outside of the migration's transaction.
        downgrade: Whether it belongs to the way back.
    """

    action: Action
    place: Place
    revision: str
    in_sql: bool = False
    autocommit: bool = False
    downgrade: bool = False


class Change(NamedTuple):
    """A table that has changed, and what of it has to be judged again: the whole table, or a part.

    A part has columns, keys, foreign keys and indexes of the table, so that the work does not grow
    with what the table had before.
    """

    table: Table
    part: Table

    def merged(self, other: Change) -> Change:
        """Return the change of both changes of a table."""
        if self.part is self.table or other.part is self.table:
            return Change(self.table, self.table)
        part = Table(
            self.table.name,
            self.part.columns | other.part.columns,
            self.part.keys + other.part.keys,
            self.part.foreign_keys + other.part.foreign_keys,
            self.part.indexes + other.part.indexes,
        )
        return Change(self.table, part)

    def now(self) -> Change:
        """Return the change without what has been dropped or replaced since."""
        table, part = self
        if part is table:
            return self

        def kept(changed: list[_P], there: list[_P]) -> list[_P]:
            # What has changed in a migration is among the last.
            return [one for one in changed if any(one is other for other in reversed(there))]

        columns = {name: table.columns[name] for name in part.columns if name in table.columns}
        return Change(
            table,
            Table(
                table.name,
                columns,
                kept(part.keys, table.keys),
                kept(part.foreign_keys, table.foreign_keys),
                kept(part.indexes, table.indexes),
            ),
        )


class Model:
    """All tables at one moment.

    Attributes:
        allows_triggers: Whether the migration at hand has set citus.enable_unsafe_triggers.
        rollups: The rollups by their source.
    """

    def __init__(self) -> None:
        self.allows_triggers = False
        self.rollups: dict[Name, RollupSpec] = {}
        # All by names with a schema. The inner dictionaries are sets that keep their order.
        self._tables: dict[Name, Table] = {}
        self._referrers: dict[Name, dict[Name, None]] = {}
        self._index_owners: dict[Name, Table] = {}
        self._numbered: dict[str, dict[tuple[Table, str], None]] = {}
        self._groups: dict[Group, Table] = {}
        self._tied: set[Table] | None = None
        self._heirs: dict[Name, set[Name]] = {}
        # What a downgrade has changed, as it was.
        self._before: dict[Table, tuple[Placement, bool]] = {}
        self._rollups_before: dict[Name, RollupSpec] | None = None

    @property
    def tables(self) -> list[Table]:
        """All tables."""
        return list(self._tables.values())

    def find(self, name: Name) -> Table | None:
        """Return a table, None if there is none; the schema "public" may be named or not."""
        return self._tables.get(_with_schema(name))

    def placement(self, name: Name) -> Placement:
        """Return where the rows of a table are, be it known or not."""
        table = self.find(name)
        return Placement(kind="unknown") if table is None else table.placement

    def is_on_citus(self, table: Table) -> bool:
        """Return whether Citus holds a table to its rules.

        These are the spread tables, and local tables that foreign keys tie to reference tables,
        which Citus adds to its metadata. Distributed tables do not hand this on.
        """
        return table.placement.spread or table in self._all_tied()

    def first_numbered(self, sequence: str) -> tuple[Table, Column] | None:
        """Return the first column that takes its default from a sequence, among those on Citus."""
        for table, name in self._numbered.get(sequence, ()):
            column = table.columns.get(name)
            if column is None or column.sequence != sequence:
                continue
            if self.find(table.name) is table and self.is_on_citus(table):
                return table, column
        return None

    def referrers(self, table: Table) -> Iterator[tuple[Table, ForeignKey]]:
        """Yield the foreign keys of other tables to a table."""
        for referrer in self._referring(table):
            for key in referrer.foreign_keys:
                if referrer is not table and self.find(key.target) is table:
                    yield referrer, key

    def heirs(self, table: Table) -> list[Table]:
        """Return the tables that inherit from a table."""
        found = map(self.find, sorted(self._heirs.get(_with_schema(table.name), ()), key=str))
        return [one for one in found if one is not None and self._inherits(one, table)]

    def _inherits(self, table: Table, parent: Table) -> bool:
        return any(self.find(name) is parent for name in table.parents)

    def rollups_with(self, name: Name) -> list[RollupSpec]:
        """Return the rollups of which a table is the source or one of the tables of aggregates."""
        name = _with_schema(name)
        return [
            spec
            for source, spec in self.rollups.items()
            if name.schema == source.schema
            and name.name in (spec.source, *(target.table for target in spec.targets))
        ]

    def declare(self, tables: Iterable[Table]) -> None:
        """Take over declared tables, all at once."""
        added = list(tables)
        for table in added:
            self._add(table)
        for table in added:
            if table.placement.colocate_with is None:
                self._place(table, table.placement)
        # Each after the one that it is colocated with; of a circle, nothing can be followed.
        for table in added:
            chain: list[Table] = []
            follower: Table | None = table
            while follower is not None and follower.leader is None and follower not in chain:
                chain.append(follower)
                follower = self.find(follower.partner_name) if follower.partner_name else None
            for link in reversed(chain):
                self._place(link, link.placement)

    def apply(self, event: Event) -> list[Change]:
        """Apply an event; return what has to be judged again.

        These are the table that has changed, those whose foreign keys lead to it if they depend on
        what has changed, and those that Citus takes over because of it.
        """
        action, place = event.action, event.place
        match action:
            case AllowTriggers():
                self.allows_triggers = True
            case EndMigration():
                self.allows_triggers = False
            case DropIndex(index=index):
                table = self._index_owners.pop(_with_schema(index), None)
                if table is not None:
                    dropped = ("unique index", index.name)
                    table.keys = [key for key in table.keys if (key.kind, key.name) != dropped]
                    table.indexes = [one for one in table.indexes if one.name != index.name]
            case CreateTable(if_not_exists=True) if self.find(action.table) is not None:
                pass
            case CreateTable(created=created):
                self._drop(action.table)
                created.place = place
                return [_whole(created), *self._add(created)]
            case DropTable():
                self._drop(action.table)
            case CreateRollups(table=source, rollups=rollups):
                self.rollups[_with_schema(source)] = rollups
            case DropRollups(table=source):
                self.rollups.pop(_with_schema(source), None)
            case TableAction() if not isinstance(action, Update):
                table = self.find(action.table)
                if table is None:
                    table = Table(action.table, placement=Placement(kind="unknown"), place=place)
                    self._add(table)
                return self._alter(table, action, place)
        return []

    def apply_downgrade(self, action: Action) -> None:
        """Apply what decides how the rest of a downgrade is judged, until `end_downgrade`.

        The model is not rolled back: the next migration starts from what the upgrade has left.
        """
        match action:
            case AllowTriggers():
                self.allows_triggers = True
                return
            case CreateRollups(table=source) | DropRollups(table=source):
                if self._rollups_before is None:
                    self._rollups_before = dict(self.rollups)
                if isinstance(action, CreateRollups):
                    self.rollups[_with_schema(source)] = action.rollups
                else:
                    self.rollups.pop(_with_schema(source), None)
                return
        table = self.find(action.table) if isinstance(action, TableAction) else None
        if table is None:
            return
        self._before.setdefault(table, (table.placement, table.columnar))
        match action:
            case Undistribute():
                table.placement = Placement()
            case Distribute(placement=placement):
                table.placement = placement or Placement(kind="unknown")
            case AlterDistribution():
                table.placement = _altered(table.placement, action)
            case SetAccessMethod(columnar=columnar):
                table.columnar = columnar

    def end_downgrade(self) -> None:
        """Go back to what the upgrade has left."""
        self.allows_triggers = False
        for table, (placement, columnar) in self._before.items():
            table.placement, table.columnar = placement, columnar
        self._before.clear()
        if self._rollups_before is not None:
            self.rollups, self._rollups_before = self._rollups_before, None

    def _alter(self, table: Table, action: TableAction, place: Place) -> list[Change]:
        match action:
            case Extend(part=part):
                added = Table(
                    table.name,
                    {
                        column.name: replace(column, place=column.place or place)
                        for column in part.columns.values()
                    },
                    [replace(key, place=key.place or place) for key in part.keys],
                    [replace(key, place=key.place or place) for key in part.foreign_keys],
                    [replace(index, place=index.place or place) for index in part.indexes],
                )
                table.columns |= added.columns
                table.keys += added.keys
                table.foreign_keys += added.foreign_keys
                table.indexes += added.indexes
                return [Change(table, added), *self._note(table, added)]
            case DropColumn(column=name):
                # PostgreSQL drops keys with their columns.
                table.columns.pop(name, None)
                table.keys = [one for one in table.keys if name not in one.columns + one.included]
                kept = [key for key in table.foreign_keys if name not in key.columns]
                self._set_foreign_keys(table, kept)
            case AlterColumn():
                return self._alter_column(table, action)
            case DropConstraint(name=name):
                table.keys = [key for key in table.keys if not table.is_called(key, name)]
                table.indexes = [index for index in table.indexes if index.name != name]
                kept = [key for key in table.foreign_keys if not table.is_called(key, name)]
                self._set_foreign_keys(table, kept)
            case RenameTable(new=new):
                self._rename(table, new)
                return [_whole(table)]
            case SetAccessMethod(columnar=columnar):
                table.columnar = columnar
                return [_whole(table)]
            case Inherit(parent=parent, no_longer=no_longer):
                if no_longer:
                    table.parents = tuple(one for one in table.parents if one != parent)
                elif not self.placement(parent).spread:  # Citus accepts it from a spread parent.
                    table.parents += (parent,)
                    self._bequeath(table)
                return [_whole(table)]
            case Distribute(placement=placement):
                return [] if placement is None else self._redistribute(table, placement)
            case AlterDistribution():
                return self._redistribute(table, _altered(table.placement, action))
            case Undistribute():
                return self._redistribute(table, Placement())
            case Fill():
                table.filled = place
            case CreateTrigger():
                table.has_trigger = True
        return []

    def _bequeath(self, table: Table) -> None:
        for parent in table.parents:
            self._heirs.setdefault(_with_schema(parent), set()).add(_with_schema(table.name))

    def _add(self, table: Table) -> list[Change]:
        """Add a table; return those that Citus takes over with it."""
        self._tables[_with_schema(table.name)] = table
        self._bequeath(table)
        return self._note(table, table)

    def _note(self, table: Table, part: Table) -> list[Change]:
        """Take note of new columns and keys; return the tables that Citus takes over for them."""
        for column in part.columns.values():
            self._number(table, column)
        named = [key.name for key in part.keys if key.kind == "unique index"]
        for name in (*named, *(index.name for index in part.indexes)):
            if name is not None:
                self._index_owners[_with_schema(Name(table.name.schema, name))] = table
        self._refer(part)
        new = self._tie(table) if part is table or part.foreign_keys else []
        return [_whole(one) for one in new]

    def _drop(self, name: Name) -> None:
        table = self.find(name)
        if table is not None:
            self._untie(table)
            self._refer(table, no_longer=True)
            del self._tables[_with_schema(name)]
            group = table.group
            if group is not None and self._groups.get(group) is table:
                del self._groups[group]

    def _rename(self, table: Table, new: Name) -> None:
        old = table.name
        self._refer(table, no_longer=True)
        del self._tables[_with_schema(old)]
        table.name = new
        self._tables[_with_schema(new)] = table
        self._refer(table)
        for name in self._referrers.pop(_with_schema(old), {}):
            referrer = self._tables[name]
            referrer.foreign_keys = [
                replace(key, target=new) if _with_schema(key.target) == _with_schema(old) else key
                for key in referrer.foreign_keys
            ]
            self._refer(referrer)
        for heir in self._heirs.pop(_with_schema(old), ()):
            table_of_heir = self._tables.get(heir)
            if table_of_heir is not None:
                table_of_heir.parents = tuple(
                    new if _with_schema(one) == _with_schema(old) else one
                    for one in table_of_heir.parents
                )
                self._bequeath(table_of_heir)
        self._bequeath(table)

    def _alter_column(self, table: Table, action: AlterColumn) -> list[Change]:
        name, new = action.column, action.new_name or action.column
        column = table.columns.get(name, Column(name))
        if (like := action.retyped) is not None:
            column = replace(
                column, type=like.type, full_type=like.full_type, collation=like.collation
            )
        if (like := action.new_default) is not None:
            column = replace(column, sequence=like.sequence, identity=like.identity)
        if new == name:
            table.columns[name] = column
            self._number(table, column)
            of_column = [key for key in table.foreign_keys if name in key.columns]
            part = Table(table.name, {name: column}, foreign_keys=of_column)
            return [Change(table, part)]
        column = replace(column, name=new)
        if name in table.columns:
            table.columns = {
                column.name if known == name else known: column if known == name else other
                for known, other in table.columns.items()
            }
        else:
            table.columns[new] = column
        self._number(table, column)

        def renamed(columns: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(new if one == name else one for one in columns)

        part = Table(table.name, {new: column})
        for place, key in enumerate(table.keys):
            if name in key.columns or name in key.included:
                table.keys[place] = replace(
                    key, columns=renamed(key.columns), included=renamed(key.included)
                )
                part.keys.append(table.keys[place])
        for place, foreign_key in enumerate(table.foreign_keys):
            if name in foreign_key.columns:
                table.foreign_keys[place] = replace(
                    foreign_key, columns=renamed(foreign_key.columns)
                )
                part.foreign_keys.append(table.foreign_keys[place])
        changes = []
        for referrer in self._referring(table):
            of_referrer = Table(referrer.name)
            for place, foreign_key in enumerate(referrer.foreign_keys):
                if name in foreign_key.target_columns and self.find(foreign_key.target) is table:
                    referrer.foreign_keys[place] = replace(
                        foreign_key, target_columns=renamed(foreign_key.target_columns)
                    )
                    of_referrer.foreign_keys.append(referrer.foreign_keys[place])
            changes.append(Change(referrer, of_referrer))
        if table.placement.column == name:
            table.placement = replace(table.placement, column=new)
            part = table
        return [Change(table, part), *changes]

    def _redistribute(self, table: Table, placement: Placement) -> list[Change]:
        self._untie(table)
        self._place(table, placement)
        return [_whole(one) for one in (table, *self._referring(table), *self._tie(table))]

    def _place(self, table: Table, placement: Placement) -> None:
        """Give a table its place, and find what it is colocated with."""
        table.placement = placement
        table.leader = table.partner = table.refusal = None
        if not placement.distributed:
            return
        name = table.partner_name
        if name is None:
            table.leader = table
            if placement.kind == "sharded" and (group := table.group) is not None:
                first = self._groups.setdefault(group, table)
                table.partner = None if first is table else first
            return
        partner = table.partner = self.find(name)
        if partner is None or partner.placement.kind == "unknown":
            table.refusal = "which is not known here"
        elif not partner.placement.distributed:
            table.refusal = f"which is {partner.placement.kind}"
        elif partner.leader is None or partner is table:
            table.refusal = "which in turn is colocated with this one, or with no distributed table"
        else:
            table.leader = partner.leader
            if partner.placement.kind != placement.kind:
                table.refusal = (
                    f"which is {partner.placement.kind}, while this one is {placement.kind}"
                )

    def _number(self, table: Table, column: Column) -> None:
        if column.sequence is not None:
            self._numbered.setdefault(column.sequence, {})[table, column.name] = None

    def _refer(self, table: Table, *, no_longer: bool = False) -> None:
        """Note which tables a table refers to, or that it does so no longer."""
        name = _with_schema(table.name)
        for key in table.foreign_keys:
            referrers = self._referrers.setdefault(_with_schema(key.target), {})
            if no_longer:
                referrers.pop(name, None)
            else:
                referrers[name] = None

    def _referring(self, table: Table) -> list[Table]:
        return [self._tables[one] for one in self._referrers.get(_with_schema(table.name), ())]

    def _set_foreign_keys(self, table: Table, keys: list[ForeignKey]) -> None:
        if keys != table.foreign_keys:
            self._untie(table)
            self._refer(table, no_longer=True)
            table.foreign_keys = keys
            self._refer(table)
            self._tie(table)

    def _links(self, table: Table) -> Iterator[Table]:
        """Yield the reference and local tables that foreign keys tie to a table, either way."""
        targets = (self.find(key.target) for key in table.foreign_keys)
        for other in (*targets, *self._referring(table)):
            if other is not None and other.placement.kind in ("reference", "local"):
                yield other

    def _all_tied(self) -> set[Table]:
        if self._tied is None:
            self._tied = set()
            for table in self._tables.values():
                if table.placement.kind == "reference":
                    self._tie(table)
        return self._tied

    def _tie(self, table: Table) -> list[Table]:
        """Note which local tables are tied now that a table has new links; return them."""
        tied = self._all_tied()
        kind = table.placement.kind
        new: list[Table] = []
        if (
            kind == "local"
            and table not in tied
            and any(one.placement.kind == "reference" or one in tied for one in self._links(table))
        ):
            tied.add(table)
            new.append(table)
        waiting = [table] if kind == "reference" else list(new)
        while waiting:
            for other in self._links(waiting.pop()):
                if other.placement.kind == "local" and other not in tied:
                    tied.add(other)
                    new.append(other)
                    waiting.append(other)
        return new

    def _untie(self, table: Table) -> None:
        """Forget which tables are tied through a table that is about to lose its links."""
        tied = self._all_tied()
        if table in tied and all(one.placement.kind == "reference" for one in self._links(table)):
            tied.discard(table)
        elif table in tied or table.placement.kind == "reference":
            self._tied = None


def _whole(table: Table) -> Change:
    return Change(table, table)


def _with_schema(name: Name) -> Name:
    return name if name.schema is not None else Name("public", name.name)


def _altered(placement: Placement, change: AlterDistribution) -> Placement:
    if not placement.distributed:
        return placement
    regrouped = change.colocate_with is not None or change.shard_count is not None
    same = "none" if placement.alone else placement.colocate_with
    return Placement.over_shards(
        change.column or placement.column,
        colocate_with=change.colocate_with if regrouped else same,
        colocate_schema=change.colocate_schema if regrouped else placement.colocate_schema,
        shard_count=change.shard_count or placement.shard_count,
    )


# Declared tables. Types and defaults are taken from the DDL that SQLAlchemy would send, which alone
# decides what the server gets to see (a primary key of Integer, for one, is SERIAL).

_SERIAL = re.compile(r"(SMALL|BIG)?SERIAL\b")
_SERIAL_TYPES = {"SMALL": "SMALLINT", "": "INTEGER", "BIG": "BIGINT"}
_NEXTVAL = re.compile(r"""nextval\(\s*E?'"?([^'"]+)"?'""", re.IGNORECASE)
_TYPE = re.compile(
    r"(?P<type>.+?)(?= DEFAULT | NOT NULL| NULL\b| GENERATED | COLLATE | CONSTRAINT |$)", re.DOTALL
)
_ORDERED = re.compile(
    r"(?P<column>\"[^\"]+\"|\w+)(\s+(ASC|DESC))?(\s+NULLS\s+(FIRST|LAST))?", re.IGNORECASE
)
_COLLATE = re.compile(r" COLLATE (?P<collation>\"[^\"]+\"|\S+)")


def read_metadata(metadata: Iterable[MetaData]) -> Model:
    """Return the model of declared tables."""
    model = Model()
    model.declare(read_table(table) for part in metadata for table in part.tables.values())
    return model


def read_table(table: DeclaredTable) -> Table:
    """Return a table of SQLAlchemy's as the rules see it."""
    constraints = sorted(table.constraints, key=lambda constraint: str(constraint.name))
    indexes = sorted(table.indexes, key=lambda index: str(index.name))
    keys = [*map(_read_key, constraints), *map(_read_index, indexes)]
    return Table(
        name=Name(table.schema, table.name),
        columns={column.name: _read_column(column) for column in table.columns},
        keys=[key for key in keys if key is not None],
        foreign_keys=[
            _read_foreign_key(one) for one in constraints if isinstance(one, ForeignKeyConstraint)
        ],
        placement=Placement.of(declared_distribution(table)),
        **read_options(table.dialect_kwargs, table.schema),
        indexes=[
            *(
                OtherIndex(str(index.name), method, _place_of(index, ()))
                for index in indexes
                if (method := other_method(index.dialect_kwargs.get("postgresql_using")))
            ),
            *(
                OtherIndex(str(one.name) if one.name else None, method, _place_of(one, ()))
                for one in constraints
                if isinstance(one, ExcludeConstraint) and (method := other_method(one.using))
            ),
        ],
    )


def read_options(options: Mapping[str, object], schema: str | None) -> dict[str, Any]:
    """Return what the options of CREATE TABLE say, as attributes of a `Table`."""
    inherits = options.get("postgresql_inherits")
    names = inherits if isinstance(inherits, list | tuple) else [inherits]
    using = options.get("postgresql_using")
    return {
        "partitioned": options.get("postgresql_partition_by") is not None,
        "columnar": isinstance(using, str) and using.lower() == "columnar",
        "parents": tuple(
            Name(parent or schema, name)
            for one in names
            if isinstance(one, str)
            for parent, _, name in [one.rpartition(".")]
        ),
    }


def other_method(using: object) -> str | None:
    """Return the access method of an index if it is neither a B-tree nor a hash."""
    known = using.lower() if isinstance(using, str) else "btree"
    return None if known in ("btree", "hash") else known


def _read_column(column: DeclaredColumn[Any]) -> Column:
    place = column.info.get(PLACE)
    try:
        ddl = str(CreateColumn(column).compile(dialect=DIALECT))
    except (CompileError, InvalidRequestError):
        return Column(column.name, place=place)
    definition = ddl.removeprefix(DIALECT.identifier_preparer.format_column(column)).strip()
    serial, nextval = _SERIAL.match(definition), _NEXTVAL.search(definition)
    sequence = nextval[1] if nextval else None
    if serial:
        definition = _SERIAL.sub(_SERIAL_TYPES[serial[1] or ""], definition, count=1)
        sequence = f"{column.table.name}_{column.name}_seq"
    found, collate = _TYPE.match(definition), _COLLATE.search(definition)
    full_type = found["type"].upper() if found else None
    return Column(
        name=column.name,
        type=None if full_type is None else _without_modifiers(full_type),
        full_type=full_type,
        collation=collate["collation"].strip('"') if collate else None,
        identity=column.identity is not None,
        serial=serial is not None,
        generated=column.computed is not None,
        sequence=sequence,
        place=place,
    )


def _without_modifiers(full_type: str) -> str:
    precision = re.fullmatch(r"FLOAT\s*\((\d+)\)", full_type)
    if precision:
        return "REAL" if int(precision[1]) <= 24 else "DOUBLE PRECISION"
    bare = re.sub(r"\s*\([^)]*\)", "", full_type)
    return {"FLOAT": "DOUBLE PRECISION", "DECIMAL": "NUMERIC"}.get(bare, bare)


def _read_key(constraint: Constraint) -> Key | None:
    name = constraint.name if isinstance(constraint.name, str) else None
    match constraint:
        case PrimaryKeyConstraint() | UniqueConstraint() if constraint.columns:
            is_primary = isinstance(constraint, PrimaryKeyConstraint)
            return Key(
                "primary key" if is_primary else "unique constraint",
                name,
                tuple(column.name for column in constraint.columns),
                _included(constraint),
                place=_place_of(constraint, constraint.columns),
            )
        case ExcludeConstraint():
            # SQLAlchemy shows the elements nowhere else.
            elements = [(one[0], one[2]) for one in constraint._render_exprs]  # noqa: SLF001
            columns = tuple(constraint.columns)
            return read_exclusion(name, elements, _place_of(constraint, columns))
    return None


def read_exclusion(
    name: str | None, elements: Iterable[tuple[object, str]], place: Place | None = None
) -> Key:
    """Return the key of an exclusion constraint, given pairs of element and operator."""
    compared = [(column_name(what), operator.strip()) for what, operator in elements]
    return Key(
        "exclusion constraint",
        name,
        tuple(column for column, operator in compared if column is not None and operator == "="),
        has_expression=any(column is None for column, _ in compared),
        place=place,
    )


def _read_index(index: Index) -> Key | None:
    if not index.unique:
        return None
    columns = tuple(filter(None, map(column_name, index.expressions)))
    # The elements of an index may be expressions.
    own = [part for part in index.expressions if isinstance(part, DeclaredColumn)]
    return Key(
        "unique index", str(index.name), columns, _included(index), place=_place_of(index, own)
    )


def _read_foreign_key(constraint: ForeignKeyConstraint) -> ForeignKey:
    targets: list[tuple[Name, str]] = []
    for element in constraint.elements:
        try:
            column = element.column
            targets.append((Name(column.table.schema, column.table.name), column.name))
        except SQLAlchemyError:  # It is in other metadata, or in another migration.
            table, _, name = element.target_fullname.rpartition(".")
            schema, _, table = table.rpartition(".")
            targets.append((Name(schema or None, table), name))
    return ForeignKey(
        name=constraint.name if isinstance(constraint.name, str) else None,
        columns=tuple(column.name for column in constraint.columns),
        target=targets[0][0],
        target_columns=tuple(column for _, column in targets),
        on_delete=foreign_key_action(constraint.ondelete),
        on_update=foreign_key_action(constraint.onupdate),
        place=_place_of(constraint, constraint.columns),
    )


def foreign_key_action(action: str | None) -> str:
    """Return an action in SQL's words."""
    return " ".join((action or "NO ACTION").upper().split())


def column_name(part: object) -> str | None:
    """Return the column that an index or a constraint compares; None if it is an expression.

    An order or a collation does not count. An expression of a column is not the column.
    """
    while True:
        match part:
            case str():
                return part
            case ColumnClause(is_literal=False):
                return part.name
            case TextClause() | ColumnClause():  # Alembic renders an order as text.
                ordered = _ORDERED.fullmatch(str(part))
                return ordered["column"].strip('"') if ordered else None
            case UnaryExpression() if part.modifier is not None:
                part = part.element
            case BinaryExpression() if part.operator is operators.collate:
                part = part.left
            case _:
                return None


def _included(item: Constraint | Index) -> tuple[str, ...]:
    return tuple(
        part.name if isinstance(part, DeclaredColumn) else str(part)
        for part in item.dialect_kwargs.get("postgresql_include") or ()
    )


def _place_of(item: SchemaItem, columns: Iterable[DeclaredColumn[Any]]) -> Place | None:
    """Return where a migration creates a constraint, or the first of its columns."""
    places: list[Place | None] = [one.info.get(PLACE) for one in (item, *columns)]
    return next((place for place in places if place is not None), None)
