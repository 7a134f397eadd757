"""The linter on declared tables: what it takes for what, and what it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import (
    JSON,
    TIMESTAMP,
    BigInteger,
    Column,
    Enum,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    Sequence,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ExcludeConstraint

from citus_analytics.distribution import Distributed, Distribution, Reference, distribute
from citus_analytics.lint import Finding, lint_metadata
from citus_analytics.lint.colocation import converted
from citus_analytics.lint.reading import shape_of
from citus_analytics.lint.shape import Spread

if TYPE_CHECKING:
    from sqlalchemy.types import TypeEngine

BY_K = Distributed(column="k")


def table(
    name: str, *parts: Column[int] | Index | UniqueConstraint, metadata: MetaData | None = None
) -> Table:
    return Table(name, metadata or MetaData(), Column("k", BigInteger), *parts)


def codes(metadata: MetaData) -> list[str]:
    return sorted(finding.code for finding in lint_metadata(metadata))


def codes_of(one: Table, distribution: Distribution = BY_K) -> list[str]:
    distribute(one, distribution)
    return codes(one.metadata)


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (UniqueConstraint("v"), ["CA001"]),
        (UniqueConstraint("v", "k"), []),
        (Index("i", "v", unique=True), ["CA001"]),
        (Index("i", "v", "k", unique=True), []),
        (Index("i", "v"), []),
        (Index("i", text("lower(k)"), "v", unique=True), ["CA001"]),
        (Index("i", "k", text("lower(v)"), unique=True), []),
        (Index("i", "v", unique=True, postgresql_where=text("v > 0")), ["CA001"]),
        (Index("i", "v", unique=True, postgresql_include=["k"]), ["CA003"]),
        (UniqueConstraint("v", postgresql_include=["k"]), ["CA003"]),
    ],
)
def test_unique_keys(part: Index | UniqueConstraint, found: list[str]) -> None:
    assert codes_of(table("t", Column("v", BigInteger), part)) == found


def test_keys_of_ordered_and_collated_columns() -> None:
    one = Table("t", MetaData(), Column("k", Text), Column("v", Text))
    Index("i", one.c.k.desc(), one.c.v, unique=True)
    Index("j", one.c.k.collate("C"), one.c.v, unique=True)
    assert codes_of(one) == []
    Index("l", func.lower(one.c.k), unique=True)
    assert codes_of(one) == ["CA001"]


def test_exclusion_constraints_of_expressions() -> None:
    one = table("t", Column("v", BigInteger))
    overlap = (func.int8range(one.c.v, one.c.v), "&&")
    one.append_constraint(ExcludeConstraint(("k", "="), overlap, name="good"))
    assert codes_of(one) == []
    one.append_constraint(ExcludeConstraint((func.abs(one.c.k), "="), overlap, name="bad"))
    assert codes_of(one) == ["CA002"]


@pytest.mark.parametrize("distribution", [Reference(), Distributed(column="k", shard_count=1)])
def test_only_shards_need_the_distribution_column(distribution: Distribution) -> None:
    one = table("t", UniqueConstraint("k"), Column("v", BigInteger, unique=True))
    found = codes_of(one, distribution)
    assert found == ([] if isinstance(distribution, Reference) else ["CA001"])


def test_a_column_is_known_by_its_name_in_the_database() -> None:
    one = Table(
        "t",
        MetaData(),
        Column("tenant id", BigInteger, key="tenant"),
        Column("v", BigInteger, key="value"),
        UniqueConstraint("tenant", "value"),
    )
    assert codes_of(one, Distributed(column="tenant id")) == []


@pytest.mark.parametrize(
    ("type_", "sql"),
    [
        (BigInteger(), "BIGINT"),
        (String(20), "VARCHAR"),
        (Text(), "TEXT"),
        (Numeric(10, 2), "NUMERIC"),
        (Float(), "DOUBLE PRECISION"),
        (Float(20), "REAL"),
        (Uuid(), "UUID"),
        (TIMESTAMP(timezone=True), "TIMESTAMP WITH TIME ZONE"),
        (postgresql.TIMESTAMP(timezone=True, precision=3), "TIMESTAMP WITH TIME ZONE"),
        (postgresql.ARRAY(Integer), "INTEGER[]"),
        (Enum("a", "b", name="mood"), "MOOD"),
    ],
)
def test_types_are_those_that_citus_compares(type_: TypeEngine[object], sql: str) -> None:
    one = Table("t", MetaData(), Column("c", type_, nullable=False, server_default="x NOT NULL"))
    (column,) = shape_of(one, Spread()).columns
    assert column.type == sql


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (Column("v", Integer, primary_key=True, autoincrement=True), ["CA001", "CA013"]),
        (Column("v", SmallInteger, Identity()), ["CA012", "CA013"]),
        (Column("v", BigInteger, Identity()), ["CA012"]),
        (Column("v", Integer, server_default=Sequence("s").next_value()), ["CA013"]),
        (Column("v", Integer, server_default=text("7 + nextval('s'::regclass)")), ["CA013"]),
        (Column("v", Text, server_default=text("nextval('s')")), []),
        (Column("v", BigInteger, server_default=Sequence("s").next_value()), []),
    ],
)
def test_numbered_columns(column: Column[int], found: list[str]) -> None:
    assert codes_of(table("t", column)) == found


def test_local_tables_are_free() -> None:
    one = table("t", Column("v", Integer, Identity(), unique=True), Column("w", JSON))
    assert codes(one.metadata) == []


@pytest.mark.parametrize(
    ("type_", "found"),
    [
        (JSON(), ["CA015"]),
        (postgresql.TSVECTOR(), ["CA015"]),
        (postgresql.MONEY(), ["CA015"]),
        (postgresql.BIT(3), ["CA015"]),
        (Numeric(3, -2), ["CA015"]),
        (Numeric(3, 2), []),
        (postgresql.JSONB(), []),
        (postgresql.INT4RANGE(), []),
    ],
)
def test_types_that_can_be_hashed(type_: TypeEngine[object], found: list[str]) -> None:
    assert codes_of(Table("t", MetaData(), Column("k", type_))) == found


def pair(
    one: Distribution,
    other: Distribution,
    *,
    type_: TypeEngine[int] | None = None,
    ondelete: str | None = None,
    onupdate: str | None = None,
) -> list[str]:
    """Judge a table `a`, and a table `b` that refers to it with its column k."""
    metadata = MetaData()
    a = Table("a", metadata, Column("k", BigInteger, unique=True))
    key = ForeignKey("a.k", ondelete=ondelete, onupdate=onupdate)
    b = Table("b", metadata, Column("k", type_ or BigInteger(), key))
    distribute(a, one)
    distribute(b, other)
    return codes(metadata)


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (BY_K, BY_K, []),
        (BY_K, Reference(), ["CA007"]),
        (Reference(), BY_K, []),
        (Reference(), Reference(), []),
        (Distributed(column="k", shard_count=3), BY_K, ["CA005"]),
        (Distributed(column="k", shard_count=3), Distributed(column="k", shard_count=3), []),
        (BY_K, Distributed(column="k", colocate_with="a"), []),
    ],
)
def test_foreign_keys(one: Distribution, other: Distribution, found: list[str]) -> None:
    assert pair(one, other) == found


def test_distribution_columns_of_different_types() -> None:
    assert pair(BY_K, BY_K, type_=Integer()) == ["CA005"]
    together = Distributed(column="k", colocate_with="a")
    assert pair(BY_K, together, type_=Integer()) == ["CA017"]


@pytest.mark.parametrize(
    ("ondelete", "onupdate", "found"),
    [
        ("set  null", None, ["CA010"]),
        ("SET NULL (k)", None, ["CA010"]),
        (None, "CASCADE", ["CA010"]),
        ("CASCADE", "RESTRICT", []),
    ],
)
def test_actions_on_the_distribution_column(
    ondelete: str | None, onupdate: str | None, found: list[str]
) -> None:
    assert pair(BY_K, BY_K, ondelete=ondelete, onupdate=onupdate) == found
    assert pair(Reference(), BY_K, ondelete=ondelete, onupdate=onupdate) == found


def test_a_foreign_key_to_a_table_of_other_metadata_is_not_judged() -> None:
    metadata = MetaData()
    one = Table("t", metadata, Column("k", BigInteger, ForeignKey("elsewhere.k")))
    assert codes_of(one) == []


def test_local_tables_that_citus_takes_over() -> None:
    metadata = MetaData()
    links = (("reference", None), ("near", "reference"), ("far", "near"), ("own", None))
    for name, target in links:
        keys = [ForeignKeyConstraint(["k"], [f"{target}.k"])] if target else []
        Table(name, metadata, Column("k", BigInteger, unique=True), *keys)
    shapes = {
        name: shape_of(one, Spread(kind="reference" if name == "reference" else "local"))
        for name, one in metadata.tables.items()
    }
    assert converted(shapes) == {"near", "far"}


def test_partners() -> None:
    metadata = MetaData()
    for name, partner in (("a", "b"), ("b", "a"), ("c", "c"), ("d", "nobody")):
        one = Table(name, metadata, Column("k", BigInteger))
        distribute(one, Distributed(column="k", colocate_with=partner))
    assert [(one.code, one.subject) for one in lint_metadata(metadata)] == [
        ("CA018", "a"),
        ("CA018", "b"),
        ("CA018", "c"),
        ("CA018", "d"),
    ]


def test_partners_are_looked_for_in_the_schema_of_the_table() -> None:
    metadata = MetaData()
    for name, schema, partner in (("a", "shop", None), ("b", "shop", "a"), ("c", None, "a")):
        one = Table(name, metadata, Column("k", BigInteger), schema=schema)
        distribute(one, Distributed(column="k", colocate_with=partner))
    assert [(one.code, one.subject) for one in lint_metadata(metadata)] == [("CA018", "c")]


def test_collations() -> None:
    metadata = MetaData()
    for name, type_ in (("a", Text()), ("b", Text(collation="C"))):
        distribute(Table(name, metadata, Column("k", type_)), BY_K)
    assert codes(metadata) == ["CA017"]


def test_findings_say_where_and_what() -> None:
    one = table("t", UniqueConstraint("k", name="mine"))
    Table("u", one.metadata, Column("k", BigInteger), Column("v", Text, unique=True), schema="s")
    distribute(one.metadata.tables["s.u"], BY_K)
    (finding,) = lint_metadata(one.metadata)
    assert finding == Finding("CA001", finding.message, "s.u", None, None, "error")
    assert str(finding) == f"s.u: CA001 {finding.message}"
    assert "unique constraint of table 's.u'" in finding.message
