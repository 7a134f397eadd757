"""Declaring how tables are spread, and what is refused."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table

from citus_analytics.errors import CitusAnalyticsError, DeclarationError
from citus_analytics.schema import (
    Distributed,
    Distribution,
    Local,
    Reference,
    declared_distribution,
    distribute,
    distribution_of,
)


def table(name: str = "clicks", *, schema: str | None = None) -> Table:
    columns = [Column("user_id", BigInteger), Column("page_id", BigInteger)]
    return Table(name, MetaData(), *columns, schema=schema)


@pytest.mark.parametrize(
    "distribution",
    [
        Distributed(column="user_id"),
        Distributed(column="user_id", colocate_with="users"),
        Distributed(column="page_id", shard_count=1),
        Distributed(column="page_id", colocate_with="users", colocate_schema="other"),
        Distributed(column="page_id", colocate_with="none", shard_count=1),
        Distributed(column="page_id", distribution_type="range"),
        Distributed(column=None),
        Reference(),
        Local(),
    ],
)
def test_what_was_declared_is_found_again(distribution: Distribution) -> None:
    clicks = table(schema="shop")
    distribute(clicks, distribution)
    assert distribution_of(clicks) == distribution
    distribute(clicks, distribution)  # Saying it again is no contradiction.
    assert distribution_of(clicks) == distribution


def test_a_table_of_which_nothing_is_said_is_local() -> None:
    assert distribution_of(table()) == Local()
    assert declared_distribution(table()) is None


def test_what_is_declared_local_is_told_from_what_is_not_declared() -> None:
    clicks = table()
    distribute(clicks, Local())
    assert declared_distribution(clicks) == Local()


def test_tables_of_one_name_in_two_schemas_are_two_tables() -> None:
    metadata = MetaData()
    first, second = (Table("t", metadata, Column("id", BigInteger), schema=s) for s in ("a", "b"))
    distribute(first, Distributed(column="id"))
    distribute(second, Reference())
    assert distribution_of(first) == Distributed(column="id")
    assert distribution_of(second) == Reference()


def test_metadata_does_not_leak_into_other_metadata() -> None:
    declared, other = table(), table()
    distribute(declared, Reference())
    assert distribution_of(other) == Local()


def test_alembic_has_nothing_to_render() -> None:
    clicks = table()
    distribute(clicks, Distributed(column="user_id"))
    assert clicks.info == {}


def test_a_distribution_column_that_is_not_there() -> None:
    message = (
        r"^table 'shop\.clicks' cannot be distributed by 'userid': "
        r"its columns are user_id, page_id\.$"
    )
    clicks = table(schema="shop")
    with pytest.raises(DeclarationError, match=message):
        distribute(clicks, Distributed(column="userid"))
    assert distribution_of(clicks) == Local()


def test_a_second_declaration_that_differs() -> None:
    clicks = table()
    distribute(clicks, Distributed(column="user_id"))
    message = (
        r"^table 'clicks' is already declared as Distributed\(column='user_id'.* Reference\(\)"
    )
    with pytest.raises(DeclarationError, match=message):
        distribute(clicks, Reference())
    assert distribution_of(clicks) == Distributed(column="user_id")


def test_a_distribution_column_without_a_name() -> None:
    with pytest.raises(DeclarationError, match=r"column=\.\.\.\) needs the name .* got ''"):
        Distributed(column="")


@pytest.mark.parametrize("shard_count", [0, -4])
def test_no_shards(shard_count: int) -> None:
    with pytest.raises(DeclarationError, match=rf"must be at least 1, got {shard_count}\.$"):
        Distributed(column="user_id", shard_count=shard_count)


def test_a_colocated_table_has_no_shard_count_of_its_own() -> None:
    message = r"colocated with 'users' .* leave out either colocate_with or shard_count=8\.$"
    with pytest.raises(DeclarationError, match=message):
        Distributed(column="user_id", colocate_with="users", shard_count=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"column": None, "shard_count": 1}, "single shard: leave out"),
        ({"column": None, "distribution_type": "range"}, "single shard: leave out"),
        ({"column": "id", "distribution_type": "append", "shard_count": 4}, "by append are made"),
        ({"column": "id", "distribution_type": "range", "colocate_with": "u"}, "by range are made"),
        ({"column": "id", "distribution_type": "list"}, "hash, append, range, got 'list'"),
        ({"column": "id", "colocate_schema": "s"}, r"colocate_schema='s'\) is the schema of"),
        (
            {"column": "id", "colocate_with": "none", "colocate_schema": "s", "shard_count": 4},
            "colocated with 'none' has its shard count",
        ),
    ],
)
def test_arguments_that_contradict_each_other(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        Distributed(**arguments)


def test_errors_are_caught_as_ours_and_as_value_errors() -> None:
    for kind in (CitusAnalyticsError, ValueError):
        with pytest.raises(kind):
            Distributed(column="")


def test_declarations_are_frozen() -> None:
    declared = Distributed(column="user_id")
    with pytest.raises(FrozenInstanceError):
        declared.column = "page_id"  # type: ignore[misc]
    assert hash(declared) == hash(Distributed(column="user_id"))
