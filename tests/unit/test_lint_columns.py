"""The linter on columns: which types they have on the server, and what numbers them."""

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
    Identity,
    Integer,
    MetaData,
    Numeric,
    Sequence,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects import postgresql

from citus_analytics.lint import lint_metadata
from citus_analytics.lint.model import read_table
from citus_analytics.schema import Distributed, distribute

if TYPE_CHECKING:
    from sqlalchemy.types import TypeEngine


def codes_of(*columns: Column[int]) -> list[str]:
    """Judge a table that is distributed by its column k."""
    one = Table("t", MetaData(), *columns)
    distribute(one, Distributed(column="k"))
    return sorted(finding.code for finding in lint_metadata(one.metadata))


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
    (column,) = read_table(one).columns.values()
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
    assert codes_of(Column("k", BigInteger), column) == found


def test_local_tables_are_free() -> None:
    one = Table("t", MetaData(), Column("v", Integer, Identity(), unique=True), Column("w", JSON))
    assert lint_metadata(one.metadata) == []


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
def test_types_that_can_be_hashed(type_: TypeEngine[int], found: list[str]) -> None:
    assert codes_of(Column("k", type_)) == found
