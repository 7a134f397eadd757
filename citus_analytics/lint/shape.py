"""A table as the rules see it: names, types as SQL, keys, and how it is spread.

A declared table and a table of a migration both end as a `TableShape`, so that one rule serves
both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from citus_analytics.lint.finding import Place
from citus_analytics.schema import Distributed, Reference

if TYPE_CHECKING:
    from citus_analytics.schema import Distribution

Kind: TypeAlias = Literal["sharded", "single-shard", "reference", "local"]
KeyKind: TypeAlias = Literal[
    "primary key", "unique constraint", "unique index", "exclusion constraint"
]

# In the `info` of what a migration creates: where it does so, and whether it is gone again.
PLACE = "citus_analytics.place"
DROPPED = "citus_analytics.dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a table is spread: one of the four kinds, and the details of the distributed ones.

    Attributes:
        kind: Which of the four.
        column: The distribution column of a sharded table.
        colocate_with: The table whose shards are to be beside, None for Citus's own choice.
        colocate_schema: Its schema, None for that of the table itself.
        alone: Whether it is not to be colocated with anything.
        shard_count: The number of shards, None for the server's default.
    """

    kind: Kind = "local"
    column: str | None = None
    colocate_with: str | None = None
    colocate_schema: str | None = None
    alone: bool = False
    shard_count: int | None = None

    @property
    def distributed(self) -> bool:
        """Whether the table has shards, be it a single one."""
        return self.kind in ("sharded", "single-shard")

    @classmethod
    def over_shards(
        cls,
        column: str | None,
        *,
        colocate_with: str | None,
        colocate_schema: str | None,
        shard_count: int | None,
    ) -> Spread:
        """Return how the arguments of `create_distributed_table` spread a table."""
        # In Citus's own word; with a schema, even this is the name of a table.
        alone = colocate_with == "none" and colocate_schema is None
        return cls(
            kind="single-shard" if column is None else "sharded",
            column=column,
            colocate_with=None if alone or colocate_with == "default" else colocate_with,
            colocate_schema=colocate_schema,
            alone=alone,
            shard_count=shard_count,
        )

    @classmethod
    def of(cls, distribution: Distribution) -> Spread:
        """Return a declared distribution as the rules see it."""
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
            case _:
                return cls()


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """A column: its type as SQL without length and the like, None where it is not known."""

    name: str
    type: str | None
    full_type: str | None
    collation: str | None
    identity: bool
    generated: bool
    sequence: str | None
    place: Place | None


@dataclass(frozen=True, slots=True)
class KeyShape:
    """What must be unique: `columns` are compared by equality, `included` only come along."""

    kind: KeyKind
    name: str | None
    columns: tuple[str, ...]
    included: tuple[str, ...]
    place: Place | None

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" if self.name else self.kind


@dataclass(frozen=True, slots=True)
class ForeignKeyShape:
    """A foreign key, with the key of the referenced table in the metadata, and the actions."""

    name: str | None
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    on_delete: str
    on_update: str
    place: Place | None

    def __str__(self) -> str:
        columns = ", ".join(self.columns)
        return f"foreign key {self.name!r}" if self.name else f"foreign key ({columns})"


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table, and how it is spread."""

    name: str
    schema: str | None
    columns: tuple[ColumnShape, ...]
    keys: tuple[KeyShape, ...]
    foreign_keys: tuple[ForeignKeyShape, ...]
    spread: Spread
    place: Place | None

    @property
    def key(self) -> str:
        """The name of the table in the metadata, with its schema."""
        return in_schema(self.name, self.schema)

    def column(self, name: str | None) -> ColumnShape | None:
        """Return a column by its name in the database."""
        return next((column for column in self.columns if column.name == name), None)


Tables: TypeAlias = dict[str, TableShape]


def in_schema(name: str, schema: str | None) -> str:
    """Return the name under which SQLAlchemy's metadata knows a table."""
    return name if schema is None else f"{schema}.{name}"
