"""The linter on declared tables: what it takes for what, and what it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ExcludeConstraint

from citus_analytics.lint import Finding, lint_metadata
from citus_analytics.lint.model import read_metadata
from citus_analytics.schema import Distributed, Distribution, Reference, distribute

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


@pytest.mark.parametrize(
    ("distribution", "found"),
    [
        (Reference(), []),
        (Distributed(column=None), []),
        (Distributed(column="k", shard_count=1), ["CA001"]),
    ],
)
def test_only_shards_need_the_distribution_column(
    distribution: Distribution, found: list[str]
) -> None:
    one = table("t", UniqueConstraint("k"), Column("v", BigInteger, unique=True))
    assert codes_of(one, distribution) == found


def test_a_column_is_known_by_its_name_in_the_database() -> None:
    one = Table(
        "t",
        MetaData(),
        Column("tenant id", BigInteger, key="tenant"),
        Column("v", BigInteger, key="value"),
        UniqueConstraint("tenant", "value"),
    )
    assert codes_of(one, Distributed(column="tenant id")) == []


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
        (BY_K, Distributed(column="k", colocate_with="none"), ["CA005"]),
        (Distributed(column=None), Distributed(column=None), []),
        (Distributed(column=None), Distributed(column=None, colocate_with="none"), ["CA005"]),
        (Distributed(column=None), BY_K, ["CA005"]),
        (Distributed(column=None), Distributed(column="k", colocate_with="a"), ["CA018"]),
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
    distribute(metadata.tables["reference"], Reference())
    model = read_metadata([metadata])
    on_citus = {str(one.name) for one in model.tables if model.is_on_citus(one)}
    assert on_citus == {"reference", "near", "far"}


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
