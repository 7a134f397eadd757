"""Random applications: tables with keys, foreign keys and distributions that Citus can have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from citus_analytics.schema import Distributed, Distribution, Local, Reference, distribute

NAMES = ("events", "Users", 'odd "name"', "it's", "per%cent", "org:acme", "select", "späße")
SCHEMAS = (None, "Shop %d")
COLUMNS = ("tenant", "id")

Kind: TypeAlias = Literal["undeclared", "local", "reference", "hash", "colocated", "single"]
Key: TypeAlias = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class RandomTable:
    """A table: bigint columns `tenant`, `id` and `other`, and a text `note`.

    Attributes:
        name: Its name.
        schema: Its schema.
        keyed: Whether (tenant, id) is its primary key.
        indexed: Whether `note` has an index.
        distribution: What is declared.
        refers_to: The table that (tenant, other) refers to.
        ondelete: What happens to a row that refers to a deleted one.
    """

    name: str
    schema: str | None
    keyed: bool
    indexed: bool
    distribution: Distribution | None = None
    refers_to: Key | None = None
    ondelete: str | None = None

    @property
    def key(self) -> Key:
        """Schema and name."""
        return (self.schema, self.name)


Tables: TypeAlias = tuple[RandomTable, ...]


def metadata_of(application: Tables) -> MetaData:
    """Return the application's models."""
    metadata = MetaData()
    for table in application:
        model = Table(
            table.name,
            metadata,
            Column("tenant", BigInteger, nullable=False),
            Column("id", BigInteger, nullable=False),
            Column("other", BigInteger),
            Column("note", Text),
            schema=table.schema,
        )
        if table.keyed:
            model.append_constraint(PrimaryKeyConstraint("tenant", "id"))
        if table.indexed:
            Index(f"{table.name}_note", model.c.note)
        if table.refers_to is not None:
            columns = [".".join(filter(None, (*table.refers_to, name))) for name in COLUMNS]
            model.append_constraint(
                ForeignKeyConstraint(["tenant", "other"], columns, ondelete=table.ondelete)
            )
        if table.distribution is not None:
            distribute(model, table.distribution)
    return metadata


@st.composite
def applications(draw: st.DrawFn, *, before: Tables = ()) -> Tables:
    """Draw an application; one that comes after another has some of its tables."""
    kept = [table for table in before if draw(st.sampled_from([True, True, True, False]))]
    taken = {table.name for table in before}
    fresh = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3 if before else 4))
    tables = kept + [
        RandomTable(
            name,
            draw(st.sampled_from(SCHEMAS)),
            keyed=draw(st.booleans()),
            indexed=draw(st.booleans()),
        )
        for name in fresh
        if name not in taken
    ]
    spread: list[RandomTable] = []
    for table in tables:
        stays = table in before and draw(st.booleans()) and _can_stay(table)
        spread.append(table if stays else draw(_spread(table, spread)))
    return tuple(spread)


def _can_stay(table: RandomTable) -> bool:
    """Whether what the table is colocated with, or refers to, is still there for it."""
    return table.refers_to is None and not (
        isinstance(table.distribution, Distributed) and table.distribution.colocate_with
    )


@st.composite
def _spread(draw: st.DrawFn, table: RandomTable, others: list[RandomTable]) -> RandomTable:
    kinds: list[Kind] = ["undeclared", "local", "reference", "hash", "single"]
    hashed = [other for other in others if _column(other)]
    if hashed:
        kinds += ["colocated", "colocated"]
    match draw(st.sampled_from(kinds)):
        case "local":
            spread = replace(table, distribution=Local())
        case "reference":
            spread = replace(table, distribution=Reference())
        case "hash":
            column, shards = draw(st.sampled_from(COLUMNS)), draw(st.sampled_from([None, 2, 3]))
            spread = replace(table, distribution=Distributed(column=column, shard_count=shards))
        case "single":
            spread = replace(table, distribution=Distributed(column=None, colocate_with="none"))
        case "colocated":
            spread = replace(table, distribution=_beside(table, draw(st.sampled_from(hashed))))
        case _:
            spread = replace(table, distribution=None)
    referable = [other for other in others if other.keyed and _may_refer(spread, other, others)]
    target = draw(st.none() | st.sampled_from(referable)) if referable else None
    actions = [None, "CASCADE", "RESTRICT"]
    return replace(
        spread,
        refers_to=target.key if target else None,
        ondelete=draw(st.sampled_from(actions)) if target else None,
    )


def _column(table: RandomTable) -> str | None:
    return table.distribution.column if isinstance(table.distribution, Distributed) else None


def _beside(table: RandomTable, other: RandomTable) -> Distributed:
    return Distributed(
        column=_column(other),
        colocate_with=other.name,
        colocate_schema=None if other.schema == table.schema else other.schema or "public",
    )


def _may_refer(table: RandomTable, other: RandomTable, others: list[RandomTable]) -> bool:
    """Whether Citus has foreign keys from the one to the other, whatever was before."""
    if isinstance(other.distribution, Reference):
        return table.distribution is not None
    if isinstance(table.distribution, Local):
        return isinstance(other.distribution, Local)
    return _column(table) == "tenant" == _column(other) and _root(table, others) == _root(
        other, others
    )


def _root(table: RandomTable, others: list[RandomTable]) -> Key:
    """Return the table at the end of the chain of colocation."""
    by_key = {other.key: other for other in others}
    while isinstance(table.distribution, Distributed) and table.distribution.colocate_with:
        schema = table.distribution.colocate_schema or table.schema
        table = by_key[None if schema == "public" else schema, table.distribution.colocate_with]
    return table.key
