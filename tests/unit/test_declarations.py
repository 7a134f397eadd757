"""Declaring how tables are spread, and what is refused."""

from __future__ import annotations

import pickle
from typing import Any, cast

import pytest
from alembic.autogenerate import render_python_code
from alembic.migration import MigrationContext
from alembic.operations.ops import CreateTableOp, UpgradeOps
from sqlalchemy import BigInteger, Column, Index, MetaData, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from citus_analytics.errors import CitusAnalyticsError, DeclarationError
from citus_analytics.schema import (
    Distributed,
    Distribution,
    Local,
    Reference,
    declared_distribution,
    distribute,
    distribution_of,
    table_of,
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


def test_a_distribution_column_that_is_not_there() -> None:
    message = (
        r"^table 'shop\.clicks' cannot be distributed by 'userid': "
        r"its columns are user_id, page_id\. Give"
    )
    clicks = table(schema="shop")
    with pytest.raises(DeclarationError, match=message):
        distribute(clicks, Distributed(column="userid"))
    assert distribution_of(clicks) == Local()


def test_a_second_declaration_that_differs() -> None:
    clicks = table()
    distribute(clicks, Distributed(column="user_id"))
    message = r"^table 'clicks' is already declared as Distributed\('user_id'\); .* Reference\(\)"
    with pytest.raises(DeclarationError, match=message):
        distribute(clicks, Reference())
    assert distribution_of(clicks) == Distributed(column="user_id")


def test_a_distribution_column_without_a_name() -> None:
    with pytest.raises(DeclarationError, match=r"needs a column or the name of one, .* got ''"):
        Distributed(column="")


@pytest.mark.parametrize("shard_count", [0, -4, True, 2.0, "8"])
def test_no_shards(shard_count: Any) -> None:
    with pytest.raises(DeclarationError, match=rf"a positive integer, got {shard_count!r}\.$"):
        Distributed("user_id", shard_count=shard_count)


def test_a_colocated_table_has_no_shard_count_of_its_own() -> None:
    message = r"colocated with 'users' .* leave out either colocate_with or shard_count=8\.$"
    with pytest.raises(DeclarationError, match=message):
        Distributed(column="user_id", colocate_with="users", shard_count=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"column": None, "shard_count": 1}, "single shard: leave out"),
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
    for name in ("column", "colocate_with", "colocate_schema", "shard_count"):
        with pytest.raises(AttributeError):
            setattr(declared, name, "page_id")
    assert hash(declared) == hash(Distributed(column="user_id"))


class Base(DeclarativeBase):
    pass


class Site(Base):
    __tablename__ = "sites"
    __table_args__ = (Reference(), {"schema": "shop"})
    site_id: Mapped[int] = mapped_column(primary_key=True)


class Visit(Base):
    __tablename__ = "visits"
    site: Mapped[int] = mapped_column("site_id", primary_key=True)
    visit_id: Mapped[int] = mapped_column(primary_key=True)
    __table_args__ = (Index("visits_index", "visit_id"), Distributed(site))


class OfASite:
    """A mixin: what is declared once holds for every table."""

    __table_args__ = (Distributed("site_id", colocate_with=Visit),)
    site_id: Mapped[int] = mapped_column(primary_key=True)


class Click(OfASite, Base):
    __tablename__ = "clicks"


class Sale(OfASite, Base):
    __tablename__ = "sales"


def test_mapped_classes_carry_their_declaration() -> None:
    assert distribution_of(Site) == Reference()
    assert distribution_of(Visit) == Distributed("site_id")
    for kind in (Click, Sale):
        assert distribution_of(kind) == Distributed("site_id", colocate_with="visits")


@pytest.mark.parametrize("item", [Distributed("b"), Reference(), Local()])
def test_tables_carry_their_declaration(item: Distribution) -> None:
    columns = [Column("a", BigInteger), Column("b", BigInteger)]
    assert distribution_of(Table("t", MetaData(), *columns, item)) == item


@pytest.mark.parametrize("existing", [True, False])
def test_a_declaration_stands_after_its_column(existing: bool) -> None:
    metadata = MetaData()
    if existing:
        Table("t", metadata, Column("a", BigInteger))
    with pytest.raises(DeclarationError, match=r"by 'b': .* after the columns"):
        Table("t", metadata, Distributed("b"), Column("b", BigInteger), extend_existing=existing)


def test_a_table_that_has_its_columns_later() -> None:
    deferred = Table("t", MetaData(), Reference())
    deferred.append_column(Column("id", BigInteger))
    assert distribution_of(deferred.to_metadata(MetaData())) == Reference()


def test_copied_columns_carry_nothing() -> None:
    metadata = MetaData()
    orders = Table("orders", metadata, Column("id", BigInteger), Distributed("id"))
    copies = [column._copy() for column in orders.columns]
    assert declared_distribution(Table("archive", metadata, *copies)) is None


def test_a_replaced_column_leaves_the_declaration() -> None:
    metadata = MetaData()
    Table("orders", metadata, Column("id", BigInteger), Distributed("id"))
    orders = Table("orders", metadata, Column("id", Text), extend_existing=True)
    assert distribution_of(orders.to_metadata(MetaData())) == Distributed("id")


def test_a_declaration_is_pickled() -> None:
    orders = Table("orders", MetaData(), Column("id", BigInteger), Distributed("id"))
    assert distribution_of(pickle.loads(pickle.dumps(orders))) == Distributed("id")


def test_a_copy_of_a_table_has_its_declaration() -> None:
    metadata = MetaData()
    Table("plans", metadata, Column("id", BigInteger), Reference(), schema="shop")
    orders = Table("orders", metadata, Column("id", BigInteger), schema="shop")
    distribute(orders, Distributed("id", colocate_with=Table("x", metadata, schema="shop")))
    copies = [
        table.to_metadata(MetaData()).to_metadata(MetaData(), schema="other")
        for table in metadata.sorted_tables
    ]
    declared = {copy.key: declared_distribution(copy) for copy in copies}
    assert declared == {
        "other.plans": Reference(),
        "other.orders": Distributed("id", colocate_with="x"),
        "other.x": None,
    }


def test_a_declaration_is_not_in_what_creates_the_table() -> None:
    for kind in (Site, Visit, Click):
        table = table_of(kind)
        sql = str(CreateTable(table)) + repr(table)
        assert not {"citus", "distributed", "reference"} & set(sql.lower().split())
        operations = UpgradeOps([CreateTableOp.from_table(table)])
        context = MigrationContext.configure(dialect_name="postgresql")
        code = render_python_code(operations, migration_context=context)
        assert "Distributed" not in code
        assert "Reference" not in code


def test_a_table_that_is_refused_is_not_in_its_metadata() -> None:
    metadata = MetaData()
    with pytest.raises(DeclarationError, match="cannot be distributed by 'nope'"):
        Table("clicks", metadata, Column("id", BigInteger), Distributed("nope"))
    assert not metadata.tables


def test_columns_and_tables_are_named_by_themselves() -> None:
    assert Distributed(Visit.site).column == "site_id"
    assert Distributed(table().columns["page_id"]).column == "page_id"
    assert Distributed("id", colocate_with=Visit) == Distributed("id", colocate_with="visits")
    beside = Distributed("id", colocate_with=Site)
    assert beside == Distributed("id", colocate_with="sites", colocate_schema="shop")


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Distributed(cast("Any", 3)), "needs a column or the name of one, .* got 3"),
        (
            lambda: Distributed(cast("Any", Visit)),
            "needs a column or the name of one, .*<class",
        ),
        (lambda: Distributed("id", colocate_with=int).colocate_with, "expected a Table or a class"),
        (lambda: distribute(cast("Any", "clicks"), Reference()), "class .* got 'clicks'"),
        (lambda: Column("id", BigInteger, Reference()), r"Reference\(\) belongs among the arg"),
        (
            lambda: distribute(Site, Distributed("site_id", colocate_with=Visit)),
            "cannot be colocated with 'visits', which has no schema",
        ),
    ],
)
def test_arguments_of_the_wrong_kind(declare: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declare()
