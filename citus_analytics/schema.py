"""How a table is spread over a Citus cluster: schema items that stand among its columns.

    class PageView(Base):
        __tablename__ = "page_views"
        __table_args__ = (Distributed("site_id"),)

        site_id: Mapped[int] = mapped_column(primary_key=True)

    countries = Table("countries", metadata, Column("code", Text, primary_key=True), Reference())

The three kinds are those of the Citus documentation ("Choosing a distribution column", "Table
types"): a distributed table is sharded by its distribution column, a reference table has a full
copy on every node, a local table lives on the coordinator alone.

A declaration goes along with `Table.to_metadata`, is compared by `alembic check` and autogenerate,
and never shows in a `CREATE TABLE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

from sqlalchemy import Column, ColumnElement, Table, event, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstrumentedAttribute, Mapped, MappedColumn, Mapper
from sqlalchemy.schema import SchemaItem

from citus_analytics.errors import DeclarationError

if TYPE_CHECKING:
    from sqlalchemy.sql.base import SchemaEventTarget

TableLike: TypeAlias = "Table | type[Any]"
"""A table, or the class that is mapped to it."""

ColumnLike: TypeAlias = "str | Column[Any] | Mapped[Any]"
"""A column by its name, as a column, or as a mapped attribute."""


def table_of(target: TableLike) -> Table:
    """Return a table, given itself or the class that is mapped to it.

    Raises:
        DeclarationError: It is neither.
    """
    if isinstance(target, Table):
        return target
    try:
        mapper = inspect(target)
    except NoInspectionAvailable:
        mapper = None
    if isinstance(mapper, Mapper) and isinstance(mapper.local_table, Table):
        return mapper.local_table
    raise DeclarationError(f"expected a Table or a class mapped to one, got {target!r}.")


def rows_of(target: TableLike) -> ColumnElement[bool] | None:
    """Return which rows of its table a mapped class stands for, None for all of them.

    A subclass that has no table of its own stands for some of its parent's.
    """
    mapper = inspect(target, raiseerr=False)
    if not isinstance(mapper, Mapper) or not mapper.single or mapper.polymorphic_on is None:
        return None
    classes = mapper.self_and_descendants
    return mapper.polymorphic_on.in_(
        [each.polymorphic_identity for each in classes if not each.polymorphic_abstract]
    )


def column_name(target: ColumnLike) -> str:
    """Return the name that a column has in the database.

    Raises:
        DeclarationError: It is not a column, or has no name yet.
    """
    if isinstance(target, str):
        return target
    column: object = target
    if isinstance(target, MappedColumn):
        column = target.column
    elif isinstance(target, InstrumentedAttribute):
        columns: list[object] = getattr(target.property, "columns", [])
        # In joined inheritance the column of the class itself comes first.
        column = columns[0] if columns else None
    if not isinstance(column, Column):
        raise DeclarationError(f"expected a column or the name of one, got {target!r}.")
    if not column.name:
        raise DeclarationError(f"column {target!r} has no name yet: give its name as a string.")
    return str(column.name)


class _Declaration(SchemaItem):
    """What the three kinds share: they are attached to tables, and compare by value."""

    def _values(self) -> dict[str, object]:
        """Return the arguments that differ from their defaults."""
        return {}

    def _resolved(self, table: Table) -> Distribution:
        """Return the declaration in plain names, as the given table has it."""
        raise NotImplementedError

    def _set_parent(self, parent: SchemaEventTarget, **kw: Any) -> None:  # noqa: ARG002
        if not isinstance(parent, Table):
            raise DeclarationError(
                f"{self!r} belongs among the arguments of a Table or into __table_args__, and was "
                f"given to {parent!r}."
            )
        distribute(parent, cast("Distribution", self))

    def __call__(self, target: object, parent: object) -> None:
        """Do nothing: as a listener, a declaration is carried over to copies of its table."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == cast("Any", other)._values()

    def __hash__(self) -> int:
        return hash((type(self), tuple(self._values().items())))

    def __repr__(self) -> str:
        try:
            values = self._values()
        except DeclarationError:  # A column or a class that is not mapped yet.
            return f"<{type(self).__name__}>"
        positional = [repr(values.pop("column"))] if "column" in values else []
        named = [f"{name}={value!r}" for name, value in values.items()]
        return f"{type(self).__name__}({', '.join([*positional, *named])})"


class Distributed(_Declaration):
    """A table on shards, by the hash of its distribution column."""

    __visit_name__ = "citus_distributed"

    def __init__(
        self,
        column: ColumnLike | None,
        *,
        colocate_with: TableLike | str | None = None,
        shard_count: int | None = None,
        colocate_schema: str | None = None,
    ) -> None:
        """Declare a table on shards.

        Args:
            column: The distribution column: it decides the shard of a row. None keeps the whole
                table in a single shard (Citus 12.0 and later).
            colocate_with: The table whose shards sit on the same nodes, so that joins on the
                distribution column stay on one node; `"none"`, in Citus's own word, is with
                nothing. None leaves the choice to Citus, which colocates tables with the same
                column type and shard count.
            shard_count: The number of shards; None takes the server's `citus.shard_count`.
            colocate_schema: The schema of `colocate_with`, where that is a name; None for the
                schema of the table itself.

        Raises:
            DeclarationError: The arguments contradict each other, or are of the wrong type.
        """
        self._column = column
        self._colocate_with = colocate_with
        self._colocate_schema = colocate_schema
        self._shard_count = shard_count
        if (
            not column
            if isinstance(column, str)
            else not isinstance(column, Column | Mapped | None)
        ):
            raise DeclarationError(
                f"Distributed(column) needs a column or the name of one, or None for a table of a "
                f"single shard, got {column!r}."
            )
        if colocate_with == "" or not isinstance(colocate_with, str | Table | type | None):
            raise DeclarationError(
                "Distributed(colocate_with=...) needs a table, a mapped class or the name of a "
                f"table, got {colocate_with!r}."
            )
        if shard_count is not None and (type(shard_count) is not int or shard_count < 1):
            raise DeclarationError(
                f"Distributed(shard_count=...) must be a positive integer, got {shard_count!r}."
            )
        if colocate_schema is not None and not isinstance(colocate_with, str):
            raise DeclarationError(
                f"Distributed(colocate_schema={colocate_schema!r}) is the schema of colocate_with, "
                f"which is {'not given' if colocate_with is None else 'a table, and has its own'}."
            )
        if column is None and shard_count is not None:
            raise DeclarationError(
                "Distributed(None) is a table of a single shard: leave out shard_count."
            )
        if shard_count is not None and self.names_a_table:
            raise DeclarationError(
                f"a table colocated with {self.colocate_with!r} has its shard count: leave out "
                f"either colocate_with or shard_count={shard_count}."
            )

    @property
    def column(self) -> str | None:
        """The name of the distribution column; None for a table of a single shard."""
        return None if self._column is None else column_name(self._column)

    @property
    def colocate_with(self) -> str | None:
        """The name of the table whose shards sit on the same nodes, or `"none"`."""
        if self._colocate_with is None or isinstance(self._colocate_with, str):
            return self._colocate_with
        return table_of(self._colocate_with).name

    @property
    def colocate_schema(self) -> str | None:
        """The schema of `colocate_with`; None for that of the table itself."""
        if self._colocate_with is None or isinstance(self._colocate_with, str):
            return self._colocate_schema
        return table_of(self._colocate_with).schema

    @property
    def shard_count(self) -> int | None:
        """The number of shards; None for the server's `citus.shard_count`."""
        return self._shard_count

    @property
    def names_a_table(self) -> bool:
        """Whether `colocate_with` is a table; with a schema, even "none" is."""
        return self._colocate_with is not None and not (
            self._colocate_with == "none" and self._colocate_schema is None
        )

    def _values(self) -> dict[str, object]:
        named = {
            "colocate_with": self.colocate_with,
            "colocate_schema": self.colocate_schema,
            "shard_count": self.shard_count,
        }
        given = {name: value for name, value in named.items() if value is not None}
        return {"column": self.column, **given}

    def _resolved(self, table: Table) -> Distributed:
        # A column's key may differ from its name, and only the name is known to the database.
        columns = [column.name for column in table.columns]
        if self.column is not None and self.column not in columns:
            known = f"its columns are {', '.join(columns)}" if columns else "it has no columns yet"
            raise DeclarationError(
                f"table {table.key!r} cannot be distributed by {self.column!r}: {known}. Give the "
                "declaration after the columns, or call distribute() once they are there."
            )
        schema = self.colocate_schema
        if self._colocate_with is not None and not isinstance(self._colocate_with, str):
            if schema is None and table.schema is not None:
                raise DeclarationError(
                    f"table {table.key!r} cannot be colocated with {self.colocate_with!r}, which "
                    "has no schema: give its name and its schema, as strings."
                )
            schema = None if schema == table.schema else schema
        return Distributed(
            self.column,
            colocate_with=self.colocate_with,
            shard_count=self.shard_count,
            colocate_schema=schema,
        )


class Reference(_Declaration):
    """A small table with a full copy on every node, so that any shard can join it."""

    __visit_name__ = "citus_reference"

    def _resolved(self, table: Table) -> Reference:  # noqa: ARG002 - it names nothing
        return self


class Local(_Declaration):
    """A table on the coordinator alone; what a table is when nothing is declared."""

    __visit_name__ = "citus_local"

    def _resolved(self, table: Table) -> Local:  # noqa: ARG002 - it names nothing
        return self


Distribution: TypeAlias = Distributed | Reference | Local

# For what pickles a table; in its `info`, Alembic would render it into migrations.
_ATTRIBUTE = "_citus_distribution"


def distribute(target: TableLike, distribution: Distribution) -> None:
    """Declare how a table is spread, where it cannot be said among the table's own arguments.

    Raises:
        DeclarationError: The table lacks the distribution column, or already has a different
            declaration.
    """
    table = table_of(target)
    wanted = distribution._resolved(table)  # noqa: SLF001 - of the same family
    declared = declared_distribution(table)
    if declared == wanted:
        return
    if declared is not None:
        raise DeclarationError(
            f"table {table.key!r} is already declared as {declared!r}; it cannot become "
            f"{wanted!r} as well."
        )
    setattr(table, _ATTRIBUTE, wanted)
    # `Table.to_metadata` copies listeners that ask for it, and nothing else that is unknown to it.
    event.listen(table, "after_parent_attach", wanted, propagate=True)


def declared_distribution(target: TableLike) -> Distribution | None:
    """Return what was declared for a table, None if nothing was."""
    table = table_of(target)
    declared = cast("Distribution | None", getattr(table, _ATTRIBUTE, None))
    for listener in table.dispatch.after_parent_attach:
        if isinstance(listener, Distributed | Reference | Local):
            declared = listener
    return declared


def distribution_of(target: TableLike) -> Distribution:
    """Return what was declared for a table; `Local()` where nothing was."""
    return declared_distribution(target) or Local()
