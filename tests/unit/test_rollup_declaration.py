"""Declaring rollups: the tables that they make, what is refused, and what the database is told."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Computed,
    Date,
    DateTime,
    Double,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    create_engine,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import citus_analytics
from citus_analytics.errors import ArgumentError, DeclarationError
from citus_analytics.github.models import GITHUB_STARS, Base
from citus_analytics.rollups import run
from citus_analytics.rollups.declare import (
    Every,
    Rollup,
    average,
    count,
    distinct,
    maximum,
    minimum,
    rollups_of,
    specs_of,
    stddev,
    total,
    variance,
    width_of,
)
from citus_analytics.rollups.sql import (
    MARKER,
    RollupSpec,
    TargetSpec,
    create,
    functions,
    row_functions,
    views,
)
from citus_analytics.schema import (
    Distributed,
    Distribution,
    Local,
    Reference,
    declared_distribution,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.types import TypeEngine

AT = DateTime(timezone=True)


def clicks(
    *more: Column[Any], name: str = "clicks", distribution: Distribution | None = None
) -> Table:
    """Return a table to roll up."""
    return Table(
        name,
        MetaData(),
        Column("user_id", BigInteger),
        Column("page", Text),
        Column("payload", JSONB),
        Column("size", Integer),
        Column("at", AT),
        *more,
        distribution or Distributed("user_id"),
    )


def declare(source: Table | None = None, **changes: Any) -> Rollup:
    """Declare a rollup that works, but for `changes`."""
    arguments = {
        "time": "at",
        "every": "1 hour",
        "by": ["user_id", "page"],
        "measures": {"n": count(), "bytes": total("size")},
    }
    name = changes.pop("name", "hourly")
    return Rollup(name, clicks() if source is None else source, **arguments | changes)


# Buckets.


@pytest.mark.parametrize(
    ("width", "words"),
    [
        ("second", "1 second"),
        ("90 seconds", "90 seconds"),
        ("5 minutes", "5 minutes"),
        ("60 minutes", "1 hour"),
        ("36 hours", "36 hours"),
        ("7 days", "7 days"),
        ("week", "1 week"),
        ("1 quarter", "1 quarter"),
        ("1 hour at Asia/Kathmandu", "1 hour at Asia/Kathmandu"),
        (" 1 day at Europe/Berlin ", "1 day at Europe/Berlin"),
        ("1 month at UTC", "1 month"),
        (timedelta(minutes=5), "5 minutes"),
        (timedelta(days=1), "1 day"),
    ],
)
def test_the_width_of_a_bucket(width: str | timedelta, words: str) -> None:
    assert str(width_of(width)) == words
    assert width_of(words) == width_of(width)


def test_one_width_has_one_value() -> None:
    assert (
        width_of("60 minutes") == width_of("1 hour") == width_of(timedelta(hours=1)) == Every(3600)
    )
    assert width_of("1 day") != width_of("1 day at Europe/Berlin")


@pytest.mark.parametrize(
    ("width", "message"),
    [
        ("", "must be like '5 minutes'"),
        ("5", "must be like '5 minutes'"),
        ("0 minutes", "must be like '5 minutes'"),
        ("-1 hours", "must be like '5 minutes'"),
        ("1.5 hours", "must be like '5 minutes'"),
        ("1 fortnight", "got '1 fortnight'"),
        ("1 hour and 5 minutes", "must be like '5 minutes'"),
        ("1 day at Nowhere/Else", "IANA name, such as Europe/Berlin, got 'Nowhere/Else'"),
        ("1 day at ../etc/passwd", "IANA name, such as Europe/Berlin"),
        ("1 day at right/Europe/Berlin", "IANA name, such as Europe/Berlin"),
        ("2 days at Europe/Berlin", "is one hour, day, week, month, quarter or year, got"),
        ("2 weeks", "is one hour, day, week, month, quarter or year, got"),
        ("1 minute at Europe/Berlin", "is one hour, day, week, month, quarter or year, got"),
        (timedelta(0), "a whole number of seconds, got 0:00:00"),
        (timedelta(seconds=-1), "a whole number of seconds"),
        (timedelta(milliseconds=1500), "a whole number of seconds, got 0:00:01.5"),
    ],
)
def test_what_is_no_width(width: str | timedelta, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        width_of(width)
    with pytest.raises(DeclarationError, match=message):
        declare(every=width)


# Tables.


def test_a_table_holds_the_groups_and_their_measures() -> None:
    rollup = declare(measures={"n": count(), "bytes": total("size"), "most": maximum("size")})
    (table,) = rollup.targets.values()
    assert table.name == "hourly"
    assert table.metadata is rollup.source.metadata
    assert declared_distribution(table) == Distributed("user_id", colocate_with="clicks")
    columns = {column.name: column for column in table.columns}
    assert list(columns) == [
        "user_id",
        "page",
        "bucket",
        "_size_count",
        "_size_sum",
        "n",
        "bytes",
        "most",
    ]
    assert isinstance(columns["bucket"].type, DateTime)
    assert columns["bucket"].type.timezone
    assert isinstance(columns["page"].type, Text)
    assert isinstance(columns["most"].type, Integer)
    generated = [name for name, column in columns.items() if isinstance(column.computed, Computed)]
    assert generated == ["bytes"]
    (index,) = table.indexes
    assert index.unique
    assert [column.name for column in index.columns] == ["user_id", "bucket", "page"]
    assert index.dialect_options["postgresql"]["nulls_not_distinct"] is True


def test_several_buckets_are_several_tables() -> None:
    widths = ["5 minutes", "1 day at Europe/Berlin", timedelta(hours=1)]
    rollup = declare(every=widths)
    assert [table.name for table in rollup.targets.values()] == [
        "hourly_5_minutes",
        "hourly_1_day_at_europe_berlin",
        "hourly_1_hour",
    ]
    assert [*map(str, rollup.targets)] == ["5 minutes", "1 day at Europe/Berlin", "1 hour"]


def test_without_buckets_there_is_one_table() -> None:
    rollup = declare(time=None, every=None, by=["user_id"])
    (table,) = rollup.targets.values()
    assert [column.name for column in table.columns][:1] == ["user_id"]
    assert "bucket" not in table.columns


def test_without_buckets_and_dimensions_there_is_one_row() -> None:
    rollup = declare(time=None, every=None, by=[], measures={"n": count()})
    (table,) = rollup.targets.values()
    assert [column.name for column in table.columns] == ["_total", "n"]
    assert declared_distribution(table) == Reference()


@pytest.mark.parametrize(
    ("source", "by", "expected"),
    [
        (Distributed("user_id"), ["user_id"], Distributed("user_id", colocate_with="clicks")),
        (Distributed("user_id"), ["page"], Reference()),
        (Local(), ["user_id"], Local()),
    ],
)
def test_tables_are_distributed_like_their_source(
    source: Distribution, by: list[str], expected: Distribution
) -> None:
    rollup = declare(clicks(distribution=source), by=by)
    assert [declared_distribution(table) for table in rollup.targets.values()] == [expected]


def test_an_expression_that_is_named_like_the_key_is_not_the_key() -> None:
    source = clicks()
    rollup = declare(source, by=[(source.c.user_id % 10).label("user_id")])
    assert [declared_distribution(table) for table in rollup.targets.values()] == [Reference()]


def test_a_ranked_rollup_has_an_index() -> None:
    (table,) = declare(ranked="bytes").targets.values()
    assert {index.name for index in table.indexes} == {"hourly_key", "hourly_rank"}


def test_groups_are_found_by_their_index() -> None:
    def columns(name: str, **options: Any) -> list[str]:
        rollup = declare(clicks(Column("country", Text)), name=name, **options)
        (index,) = next(iter(rollup.targets.values())).indexes
        return [column.name for column in index.columns]

    by = ["country", "page", "user_id"]
    assert columns("by_default", by=by) == ["user_id", "bucket", "country", "page"]
    assert columns("unkeyed", by=["country", "page"]) == ["bucket", "country", "page"]
    assert columns("found", by=by, lookup=["page"]) == ["page", "user_id", "bucket", "country"]
    two = ["page", "country"]
    assert columns("by_two", by=["country", "page"], lookup=two) == [*two, "bucket"]


def test_the_types_of_measures_lose_nothing() -> None:
    source = clicks(
        Column("big", BigInteger), Column("ratio", Double), Column("price", Numeric(8, 2))
    )
    kinds: dict[str, type[TypeEngine[Any]]] = {}
    for column in ("size", "big", "ratio", "price"):
        rollup = declare(
            source,
            name=f"of_{column}",
            measures={
                "n": count(column),
                "s": total(column),
                "a": average(column),
                "v": variance(column),
            },
        )
        (table,) = rollup.targets.values()
        kinds |= {f"{name} {column}": type(table.columns[name].type) for name in "nsav"}
    assert {name for name, kind in kinds.items() if kind is BigInteger} == {
        *(f"n {column}" for column in ("size", "big", "ratio", "price")),
        "s size",
    }
    assert set(kinds.values()) == {BigInteger, Numeric}


def test_equal_values_share_their_hidden_columns() -> None:
    source = clicks()
    rollup = declare(
        source, measures={"s": total("size"), "a": average(source.c.size), "d": stddev("size")}
    )
    (table,) = rollup.targets.values()
    hidden = [column.name for column in table.columns if column.name.startswith("_")]
    assert hidden == ["_rows", "_size_count", "_size_sum", "_size_squares"]


def test_mapped_classes_and_expressions() -> None:
    class Model(DeclarativeBase):
        pass

    class View(Model):
        __tablename__ = "views"
        __table_args__ = (Distributed("site"),)
        site: Mapped[int] = mapped_column("site", BigInteger, primary_key=True)
        seen: Mapped[Any] = mapped_column("seen_at", AT)
        data: Mapped[Any] = mapped_column(JSONB)

    rollup = Rollup(
        "seen",
        View,
        time=View.seen,
        every="1 hour",
        by=[
            View.site,
            View.data["country"].astext.label("country"),
            func.lower("x", type_=Text).label("x"),
        ],
        measures={
            "n": count(),
            "length": total(func.length(View.data["name"].astext).label("length")),
        },
        where=View.data["bot"].astext.is_(None),
    )
    assert rollup.time == "seen_at"
    (spec,) = specs_of(Model.metadata)
    # What may be too long for an index is abbreviated there.
    assert spec.columns["country"].endswith("ELSE r.data ->> 'country' END")
    assert spec.columns["length"] == "length(r.data ->> 'name')"
    assert spec.columns["in_seen"] == "((r.data ->> 'bot') IS NULL) IS TRUE"
    assert spec.key == "site"


def test_columns_are_known_by_their_names_in_the_database() -> None:
    source = Table(
        "clicks",
        MetaData(),
        Column("user_id", BigInteger, key="user"),
        Column("at", AT, key="when"),
        Distributed("user_id"),
    )
    rollup = Rollup("r", source, time="at", every="1 hour", by=["user_id"], measures={"n": count()})
    assert (rollup.key, rollup.time) == ("user_id", "at")
    with pytest.raises(DeclarationError, match=r"has no column 'when'; its columns are user_id"):
        Rollup("q", source, time="when", every="1 hour", measures={"n": count()})


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measures": {}}, r"^rollup 'hourly' has no measures\.$"),
        (
            {"measures": {"n": "count"}},
            r"measure 'n' must be count\(\), total\(\.\.\.\), .*got 'count'",
        ),
        ({"time": None}, r"^rollup 'hourly' needs both time and every, or neither"),
        ({"every": None}, r"^rollup 'hourly' needs both time and every, or neither"),
        ({"every": []}, r"^rollup 'hourly': every names no bucket\.$"),
        ({"time": "when"}, r"^table 'clicks' has no column 'when'; its columns are user_id, page,"),
        ({"by": ["user_id", "hour"]}, r"^table 'clicks' has no column 'hour'; its columns are"),
        ({"measures": {"s": total("bites")}}, r"^table 'clicks' has no column 'bites'"),
        ({"by": ["page", "page"]}, r"^rollup 'hourly' has two dimensions named 'page'\.$"),
        ({"measures": {"page": count()}}, r"^rollup 'hourly' names 'page' twice: a column is one"),
        ({"measures": {"bucket": count()}}, r"^rollup 'hourly' names 'bucket' twice"),
        ({"bucket": "page"}, r"^rollup 'hourly' names 'page' twice"),
        ({"where": "page = 'x'"}, r"where must be an SQL expression, .* got the text"),
        ({"every": ["1 hour", "60 minutes"]}, r"names a bucket twice: 1 hour, 1 hour\.$"),
        (
            {"ranked": "size"},
            r"ranked by 'size', which is not one of its measures that add up: n, bytes\.$",
        ),
        (
            {"lookup": ["bytes"]},
            r"^rollup 'hourly' looks groups up by 'bytes', which is not one of its dimensions: ",
        ),
        ({"name": "n" * 50}, r"has a name of 50 bytes; .* only up to \d+\.$"),
        ({"name": "é" * 40}, r"has a name of 80 bytes; .* only up to \d+\.$"),
        ({"name": "clicks"}, r"^rollup table 'clicks': there is a table of that name already\.$"),
        ({"target": clicks(name="t"), "every": ["1 hour", "1 day"]}, r"holds one bucket\.$"),
        ({"target": "clicks"}, r"^expected a Table or a class mapped to one, got 'clicks'\.$"),
    ],
)
def test_what_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declare(**changes)


def test_an_expression_needs_a_name() -> None:
    source = clicks()
    with pytest.raises(DeclarationError, match=r"give the dimension .* a name, with \.label"):
        declare(source, by=[source.c.size % 10])
    with pytest.raises(DeclarationError, match=r"give the dimension abs.* a name, with \.label"):
        declare(source, by=[func.abs(source.c.size)])
    with pytest.raises(DeclarationError, match=r"give the dimension .* a name, with \.label"):
        declare(source, by=[func.abs(source.c.size).label(None)])


def test_what_is_refused_leaves_nothing_behind() -> None:
    source = clicks()
    metadata = source.metadata
    declare(source, name="first", function="run_first")
    Table("hourly_1_day", metadata, Column("n", Integer))
    Table("second_fresh", metadata, Column("n", Integer))
    own = Table("own", metadata, Column("user_id", BigInteger), Distributed("user_id"))
    before = (dict(metadata.tables), rollups_of(metadata), specs_of(metadata))
    for changes, message in (
        ({"name": "first", "every": "1 day"}, "there is a table of that name already"),
        ({"name": "first", "every": ["1 day", "2 days"]}, "there is a rollup 'first' already"),
        ({"every": ["1 hour", "1 day"]}, "'hourly_1_day': there is a table of that name already"),
        ({"name": "second"}, "would have the name 'second_fresh'"),
        ({"function": "run_first"}, "needs a function name of its own"),
        ({"late": "refuse"}, "do different things"),
        ({"measures": {"n" * 70: count()}}, "PostgreSQL has at most 63"),
        ({"measures": {"users": distinct("user_id"), "d" * 60: distinct("page")}}, "of 67 bytes"),
        ({"target": own}, "'own' has no column"),
    ):
        with pytest.raises(DeclarationError, match=message):
            declare(source, **changes)
        assert (dict(metadata.tables), rollups_of(metadata), specs_of(metadata)) == before, message
    # What was wrong can be made right under the same name.
    assert declare(source, every=["1 hour", "2 days"]).targets.keys() == {
        width_of("1 hour"),
        width_of("2 days"),
    }


def test_columns_of_other_tables() -> None:
    other = clicks(name="other")
    with pytest.raises(
        DeclarationError, match=r"other\.page is not a column of the source 'clicks'"
    ):
        declare(by=[other.c.page])
    with pytest.raises(DeclarationError, match=r"other\.size is not a column of the source"):
        declare(measures={"s": total(other.c.size)})


def test_a_name_that_two_buckets_share() -> None:
    with pytest.raises(DeclarationError, match="names a bucket twice"):
        declare(every=["60 minutes", "1 hour"])


@pytest.mark.parametrize(
    ("measure", "kind", "message"),
    [
        (total, Text, "no sum of Text"),
        (total, DateTime, "no sum of DateTime"),
        (average, Boolean, "no avg of Boolean"),
        (variance, JSON, "no var_samp of JSON"),
        (stddev, Date, "no stddev_samp of Date"),
        (maximum, JSON, "no max of JSON"),
        (minimum, Boolean, "no min of Boolean"),
        (minimum, Uuid, "no min of Uuid"),
    ],
)
def test_what_postgresql_does_not_aggregate(
    measure: Any, kind: type[TypeEngine[Any]], message: str
) -> None:
    source = clicks(Column("odd", kind))
    with pytest.raises(DeclarationError, match=rf"PostgreSQL has {message}.*, which measure 'm'"):
        declare(source, measures={"m": measure("odd")})


def test_what_postgresql_does_aggregate() -> None:
    source = clicks(Column("odd", JSON), Column("day", Date))
    rollup = declare(
        source,
        measures={"n": count("odd"), "last": maximum("page"), "first": minimum("day")},
    )
    assert {name: measure.aggregate for name, (measure, _) in rollup.measures.items()} == {
        "n": "count",
        "last": "max",
        "first": "min",
    }


@pytest.mark.parametrize("kind", [DateTime(), Date()])
def test_a_time_has_a_zone(kind: TypeEngine[Any]) -> None:
    source = clicks(Column("when", kind))
    with pytest.raises(
        DeclarationError, match=r"column 'when' .* must be a timestamp with time zone"
    ):
        declare(source, time="when")


def hourly(
    source: Table, *without: str, distribution: Distribution | None = None, **options: Any
) -> Table:
    columns: dict[str, Any] = {
        "user_id": BigInteger,
        "page": Text,
        "hour": AT,
        "n": BigInteger,
        "most": Integer,
    }
    return Table(
        "mine",
        source.metadata,
        *(Column(name, kind) for name, kind in columns.items() if name not in without),
        distribution or Distributed("user_id", colocate_with="clicks"),
        **options,
    )


def test_a_table_of_ones_own() -> None:
    source = clicks()
    target = hourly(source)
    rollup = declare(
        source, target=target, bucket="hour", measures={"n": count(), "most": maximum("size")}
    )
    assert list(rollup.targets.values()) == [target]
    assert "hourly" not in source.metadata.tables


@pytest.mark.parametrize(
    ("without", "changes", "message"),
    [
        (
            ["hour"],
            {},
            r"^table 'mine' has no column 'hour'; its columns are user_id, page, n, most\.$",
        ),
        (["page", "n"], {}, r"^table 'mine' has no column 'n', 'page'"),
        ([], {"measures": {"most": maximum("size")}}, r"needs a measure count\(\) in 'mine'"),
        ([], {"measures": {"n": count(), "most": total("size")}}, r"'most' needs hidden columns"),
        ([], {"measures": {"n": count("size")}}, r"'n' needs hidden columns, which 'mine'"),
    ],
)
def test_a_table_that_does_not_suit(
    without: list[str], changes: dict[str, Any], message: str
) -> None:
    source = clicks()
    target = hourly(source, *without)
    arguments = {"target": target, "bucket": "hour", "measures": {"n": count()}}
    with pytest.raises(DeclarationError, match=message):
        declare(source, **arguments | changes)


@pytest.mark.parametrize(
    ("distribution", "by"),
    [
        (Local(), ["user_id"]),
        (Reference(), ["user_id"]),
        (Distributed("user_id"), ["page"]),
    ],
)
def test_a_table_that_is_distributed_in_another_way(
    distribution: Distribution, by: list[str]
) -> None:
    source = clicks()
    target = hourly(source, distribution=distribution)
    with pytest.raises(
        DeclarationError, match="'mine' must be distributed like its source 'clicks'"
    ):
        declare(source, target=target, bucket="hour", by=by, measures={"n": count()})


def test_a_table_of_another_schema() -> None:
    source = clicks()
    target = hourly(source, distribution=Local(), schema="shop")
    with pytest.raises(DeclarationError, match=r"in one schema, got clicks and shop\.mine\.$"):
        declare(source, target=target, bucket="hour", measures={"n": count()})


def test_names_are_taken_once() -> None:
    source = clicks()
    first = declare(source, function="roll_up", name="first")
    assert rollups_of(source.metadata) == (first,)
    with pytest.raises(DeclarationError, match=r"^there is a rollup 'first' already\.$"):
        declare(source, name="first", target=hourly(source), bucket="hour", measures={"n": count()})
    with pytest.raises(DeclarationError, match=r"'roll_up' already runs rollup 'first'\.$"):
        declare(source, name="second", function="roll_up")
    assert rollups_of(MetaData()) == ()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("clicks_log", {}, "the log of the rollups of 'clicks' would have the name 'clicks_log'"),
        ("clicks_rollups", {}, "the state of the rollups .* table 'clicks_rollups'"),
        ("first_fresh", {}, "the fresh view of 'first' .* and so has table 'first_fresh'"),
        ("pages_outbox", {}, "the outbox of 'pages' of the rollups"),
        ("pages_now", {}, "a view of 'pages' of the rollups"),
        ("second", {"function": "clicks_run"}, "a function that runs rollups .* 'clicks_run'"),
        ("second", {"function": "pages_rows"}, "a function that runs rollups .* 'pages_rows'"),
        ("second", {"function": "f" * 64}, "has a name of 64 bytes"),
        (
            "second",
            {"by": [func.lower(Column("page"), type_=Text).label("p" * 64)]},
            "shorter label",
        ),
    ],
)
def test_names_that_are_derived_twice(name: str, changes: dict[str, Any], message: str) -> None:
    table = clicks()
    measures = {"clicks": count()}
    Rollup("first", table, by=["user_id"], measures=measures)
    Rollup("pages", table, by=["page"], measures=measures)
    with pytest.raises(DeclarationError, match=message):
        Rollup(name, table, **({"by": ["user_id"], "measures": measures} | changes))
    # What was refused is not there.
    assert [rollup.name for rollup in rollups_of(table.metadata)] == ["first", "pages"]


def test_a_table_that_is_declared_later_and_has_a_derived_name() -> None:
    table = clicks()
    Rollup("first", table, by=["user_id"], measures={"clicks": count()})
    Table("clicks_log", table.metadata, Column("line", Text))
    with pytest.raises(DeclarationError, match=r"the log of .* and so has table 'clicks_log'"):
        specs_of(table.metadata)


def test_the_names_of_two_sources() -> None:
    table = clicks()
    Rollup("first", table, by=["user_id"], measures={"clicks": count()})
    other = Table("clicks_log_log", table.metadata, Column("line", Text))
    Table("x", table.metadata, Column("line", Text))
    Rollup("second", other, by=["line"], measures={"lines": count()})
    third = Table("clicks_first", table.metadata, Column("line", Text))
    with pytest.raises(DeclarationError, match="'clicks_log_log_run'"):
        Rollup("third", third, measures={"lines": count()}, function="clicks_log_log_run")


def test_every_derived_name_is_known() -> None:
    for spec in specs_of(Base.metadata):
        for sharded in (False, True):
            names = {function.name for function in functions(spec, sharded=sharded)}
            assert names <= {*spec.derived_functions, *spec.functions}
            assert {*views(spec, sharded=sharded)} <= spec.derived_relations.keys()
        assert {*row_functions(spec)} <= spec.derived_functions.keys()
        assert {*spec.machinery} <= spec.derived_relations.keys()
        script = "\n".join(create(spec))
        created = re.findall(r'CREATE (?:TABLE|VIEW)(?: IF NOT EXISTS)? "(\w+)"', script)
        assert {*created} <= spec.derived_relations.keys()
        created = re.findall(r'CREATE FUNCTION "(\w+)"', script)
        assert {*created} <= {*spec.derived_functions, *spec.functions}


def test_one_source_has_one_time() -> None:
    source = clicks(Column("seen", AT))
    declare(source, name="first")
    declare(source, name="totals", time=None, every=None)
    with pytest.raises(DeclarationError, match="'first' and 'second' have different times of one"):
        declare(source, name="second", time="seen")


# What the database is told.


def test_the_rollups_of_a_source_share_a_log() -> None:
    source = clicks()
    declare(source, name="first", by=["user_id", "page"], measures={"s": total("size")})
    declare(source, name="second", by=["page"], measures={"a": average("size")}, undated=True)
    declare(source, name="third", by=[(source.c.size % 2).label("page")], measures={"n": count()})
    (spec,) = specs_of(source.metadata)
    assert (spec.source, spec.key, spec.time) == ("clicks", "user_id", "at")
    assert spec.columns["page"].endswith("ELSE r.page END")
    del spec.columns["page"]  # type: ignore[attr-defined]
    assert spec.columns == {"size": "r.size", "page_": "r.size % 2"}
    assert [(each.table, dict(each.by), each.keyed) for each in spec.targets] == [
        ("first", {"user_id": "key", "page": "page"}, True),
        ("second", {"page": "page"}, False),
        ("third", {"page": "page_"}, False),
    ]
    assert set(spec.machinery) == {"clicks_log", "clicks_rollups", "second_outbox", "third_outbox"}


def test_the_migrations_have_the_rollups_as_they_are_declared() -> None:
    folder = Path(citus_analytics.__file__).parents[1] / "alembic" / "versions"
    frozen = []
    for revision, name in (("ca_0005", "AFTER"), ("ca_0007", "LOGINS")):
        (newest,) = folder.glob(f"{revision}_*.py")
        found = spec_from_file_location("frozen", newest)
        assert found is not None
        assert found.loader is not None
        migration = module_from_spec(found)
        found.loader.exec_module(migration)
        frozen.append(getattr(migration, name))
    assert specs_of(Base.metadata) == tuple(frozen)


# What an identifier may be: anything but NUL. The fragments are what text can be torn apart by.
FRAGMENTS = ['"', "'", "\\", "%", "%1$s", ":b", "{key}", "(", ")", "--", "/*", ";", "\n", " ", "$$"]
FRAGMENTS += ["$function$", "a", "B", "é", "select", "*", "\r", "\u2028", "$"]
CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
NAMES = (
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map("".join)
    | st.text(CHARACTERS, min_size=1, max_size=40)
).filter(lambda name: len(name.encode()) <= 40 and not name.startswith("_"))
MAYBE = st.none() | NAMES
TARGETS = st.builds(
    TargetSpec,
    rollup=NAMES,
    table=NAMES,
    every=st.none() | st.just("1 hour"),
    bucket=MAYBE,
    by=st.dictionaries(NAMES, NAMES, max_size=2),
    rows=NAMES,
    sums=st.dictionaries(NAMES, NAMES, max_size=2),
    extremes=st.dictionaries(NAMES, st.tuples(st.sampled_from(["min", "max"]), NAMES), max_size=2),
    visible=st.dictionaries(NAMES, NAMES, max_size=2),
    where=MAYBE,
    undated=st.booleans(),
    keyed=st.booleans(),
)
SPECS = st.builds(
    RollupSpec,
    source=NAMES,
    schema=MAYBE,
    key=MAYBE,
    time=MAYBE,
    columns=st.dictionaries(NAMES, NAMES, max_size=2),
    targets=st.lists(TARGETS, min_size=1, max_size=2).map(tuple),
    functions=st.lists(NAMES, max_size=2).map(tuple),
    states=st.dictionaries(NAMES, NAMES, max_size=2),
)


@settings(deadline=None)
@given(SPECS)
def test_a_description_says_it_all(spec: RollupSpec) -> None:
    assert RollupSpec.read(spec.describe(), schema=spec.schema) == spec


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "mine",
        MARKER,
        f"{MARKER}nonsense",
        f"{MARKER}[]",
        f"{MARKER}{json.dumps({'source': 's'})}",
    ],
)
def test_a_comment_that_describes_no_rollups(comment: str) -> None:
    assert RollupSpec.read(comment, schema=None) is None


def test_a_rollup_is_shown_in_a_line() -> None:
    assert str(GITHUB_STARS) == (
        "Rollup('github_stars', 'github_events', every=['1 day'], "
        "by=['event_type', 'repo_id'], measures=['events'])"
    )


NO_CONNECTION: Any = None
NOBODY = create_engine("postgresql+psycopg://")
MOVES: dict[str, Callable[[Any], object]] = {
    "run_rollup": lambda rollup: run.run_rollup(NO_CONNECTION, rollup),
    "run_batch": lambda rollup: run.run_batch(NO_CONNECTION, rollup),
    "verify": lambda rollup: run.verify(NO_CONNECTION, rollup),
    "repair": lambda rollup: run.repair(NO_CONNECTION, rollup),
    "audit": lambda rollup: next(run.audit(NOBODY, rollup)),
    "audit_window": lambda rollup: run.audit_window(NO_CONNECTION, rollup, "github_stars"),
    "backfill_window": lambda rollup: run.backfill_window(NO_CONNECTION, rollup),
    "expire_window": lambda rollup: run.expire_window(
        NO_CONNECTION, rollup, datetime(2026, 1, 1, tzinfo=UTC)
    ),
    "rollup_status": lambda rollup: run.rollup_status(NO_CONNECTION, rollup),
    "record_failure": lambda rollup: run.record_failure(NO_CONNECTION, rollup, "x"),
    "hold_runs": lambda rollup: run.hold_runs(NO_CONNECTION, rollup).__enter__(),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("rollup", ["github_stars", None, GITHUB_STARS.table()])
def test_what_is_no_rollup_cannot_be_moved(move: str, rollup: object) -> None:
    with pytest.raises(ArgumentError, match=r"a Rollup is needed, such as citus_analytics\.GITHUB"):
        MOVES[move](rollup)
