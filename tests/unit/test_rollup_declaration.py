"""Declaring rollups, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import JSON, BigInteger, Boolean, Column, DateTime, MetaData, Table, Text

from citus_analytics.errors import DeclarationError
from citus_analytics.rollups.declare import (
    Measure,
    Rollup,
    count,
    declare_rollup,
    maximum,
    minimum,
    rollups_of,
    total,
)
from citus_analytics.rollups.sql import RollupSpec
from citus_analytics.schema import Distributed, Local, Reference, distribute

if TYPE_CHECKING:
    from sqlalchemy.types import TypeEngine


def table(metadata: MetaData, name: str, *columns: str, **options: Any) -> Table:
    return Table(name, metadata, *(Column(column, BigInteger) for column in columns), **options)


def declaration(**changes: Any) -> dict[str, Any]:
    """Return the arguments of a rollup that works, but for `changes`."""
    metadata = MetaData()
    source = table(metadata, "clicks", "user_id", "page_id", "at", "size")
    target = table(metadata, "hourly", "user_id", "page_id", "hour", "n", "bytes")
    for distributed in (source, target):
        distribute(distributed, Distributed(column="user_id"))
    arguments = {
        "source": source,
        "target": target,
        "state": Table("state", metadata, Column("ran", DateTime(timezone=True))),
        "function": "roll_up_clicks",
        "time_column": "at",
        "bucket": timedelta(hours=1),
        "bucket_column": "hour",
        "dimensions": ("user_id", "page_id"),
        "measures": (count("n"), total("bytes", "size")),
    }
    return arguments | changes


def test_a_rollup_takes_its_name_from_its_target_and_its_key_from_both() -> None:
    rollup = Rollup(**declaration())
    assert rollup.name == "hourly"
    assert rollup.key == "user_id"


def test_measures_say_what_they_aggregate() -> None:
    measures = [count("n"), total("s", "size"), minimum("a", "size"), maximum("b", "size")]
    assert [*map(str, measures)] == ["count(*)", "sum(size)", "min(size)", "max(size)"]
    assert [measure.name for measure in measures] == ["n", "s", "a", "b"]


@pytest.mark.parametrize("bucket", [timedelta(0), timedelta(minutes=-1)])
def test_a_bucket_has_a_width(bucket: timedelta) -> None:
    with pytest.raises(
        DeclarationError, match=rf"must be a timedelta longer than 0, got {bucket}\.$"
    ):
        Rollup(**declaration(bucket=bucket))


def test_a_rollup_without_measures() -> None:
    with pytest.raises(DeclarationError, match=r"^rollup 'hourly' has no measures\.$"):
        Rollup(**declaration(measures=()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_column": "when"}, r"^table 'clicks' has no column 'when'"),
        ({"dimensions": ("user_id", "hour")}, r"^table 'clicks' has no column 'hour'"),
        ({"dimensions": ("user_id", "size")}, r"^table 'hourly' has no column 'size'"),
        ({"measures": (total("bytes", "bites"),)}, r"^table 'clicks' has no column 'bites'"),
        ({"measures": (count("m"), total("s", "size"))}, r"'hourly' has no column 'm', 's'"),
        ({"bucket_column": "minute"}, r"^table 'hourly' has no column 'minute'"),
    ],
)
def test_columns_that_are_not_there(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message) as caught:
        Rollup(**declaration(**changes))
    found = {
        "clicks": "its columns are user_id, page_id, at, size.",
        "hourly": "its columns are user_id, page_id, hour, n, bytes.",
    }
    assert any(columns in str(caught.value) for columns in found.values())


def test_columns_are_known_by_their_names_in_the_database() -> None:
    metadata = MetaData()
    source = Table(
        "clicks",
        metadata,
        Column("user_id", BigInteger, key="user"),
        Column("at", DateTime(timezone=True), key="when"),
    )
    target = table(metadata, "hourly", "user_id", "hour", "n")
    for distributed in (source, target):
        distribute(distributed, Distributed(column="user_id"))
    changes = {"source": source, "target": target, "dimensions": ("user_id",)}
    rollup = Rollup(**declaration(**changes, measures=(count("n"),)))
    spec = RollupSpec.of(rollup)
    assert (spec.key, spec.key_type, spec.time_column) == ("user_id", "BIGINT", "at")
    with pytest.raises(DeclarationError, match=r"has no column 'when'; its columns are user_id"):
        Rollup(**declaration(**changes, measures=(count("n"),), time_column="when"))


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (("n", "avg", "size"), r"'n' must be one of count, sum, min, max, got 'avg'\.$"),
        (("n", "count", "size"), r"'n' counts rows, and takes no column: got 'size'\.$"),
        (("n", "sum"), r"'n' needs the column of its sum\.$"),
    ],
)
def test_what_is_no_measure(measure: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        Measure(*measure)


@pytest.mark.parametrize(
    "changes",
    [
        {"measures": (count("n"), total("n", "size"))},
        {"measures": (count("page_id"),)},
        {"dimensions": ("user_id", "page_id", "page_id")},
        {"bucket_column": "page_id"},
    ],
)
def test_no_column_has_two_parts(changes: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match=r"^rollup 'hourly' names '(n|page_id)' twice: "):
        Rollup(**declaration(**changes))


@pytest.mark.parametrize(
    ("measure", "kind", "message"),
    [
        (total("bytes", "word"), Text, "no sum of Text"),
        (total("bytes", "word"), DateTime, "no sum of DateTime"),
        (maximum("bytes", "word"), JSON, "no max of JSON"),
        (minimum("bytes", "word"), Boolean, "no min of Boolean"),
    ],
)
def test_what_postgresql_does_not_aggregate(
    measure: Measure, kind: type[TypeEngine[Any]], message: str
) -> None:
    metadata = MetaData()
    source = table(metadata, "clicks", "user_id", "page_id", "at")
    source.append_column(Column("word", kind))
    distribute(source, Distributed(column="user_id"))
    with pytest.raises(DeclarationError, match=rf"'bytes': PostgreSQL has {message}.*'clicks'"):
        Rollup(**declaration(source=source, measures=(measure,)))


def test_the_largest_word_is_a_measure() -> None:
    metadata = MetaData()
    source = table(metadata, "clicks", "user_id", "page_id", "at")
    source.append_column(Column("word", Text))
    distribute(source, Distributed(column="user_id"))
    rollup = Rollup(**declaration(source=source, measures=(maximum("bytes", "word"),)))
    assert [*map(str, rollup.measures)] == ["max(word)"]


def test_a_function_has_a_name_that_fits() -> None:
    with pytest.raises(DeclarationError, match=r"at most 63 bytes in PostgreSQL, got .* of 64"):
        Rollup(**declaration(function="é" * 32))


@pytest.mark.parametrize("columns", [(), ("ran", "more")])
def test_the_state_has_one_column(columns: tuple[str, ...]) -> None:
    message = rf"needs a state table of one column, got 'state' with {len(columns)}\.$"
    with pytest.raises(DeclarationError, match=message):
        Rollup(**declaration(state=table(MetaData(), "state", *columns)))


@pytest.mark.parametrize("moved", ["target", "state"])
def test_the_tables_are_in_one_schema(moved: str) -> None:
    columns = ("user_id", "page_id", "hour", "n", "bytes") if moved == "target" else ("ran",)
    message = rf"^rollup 'hourly' needs its tables in one schema, got clicks, .*shop\.{moved}"
    elsewhere = table(
        MetaData(), "hourly" if moved == "target" else "state", *columns, schema="shop"
    )
    with pytest.raises(DeclarationError, match=message.replace("target", "hourly")):
        Rollup(**declaration(**{moved: elsewhere}))


def test_the_key_is_a_dimension() -> None:
    message = r"^rollup 'hourly' must have the distribution column 'user_id' .*, got page_id: only"
    with pytest.raises(DeclarationError, match=message):
        Rollup(**declaration(dimensions=("page_id",)))


@pytest.mark.parametrize("distribution", [Local(), Reference()])
def test_both_tables_are_distributed(distribution: Local | Reference) -> None:
    target = table(MetaData(), "hourly", "user_id", "page_id", "hour", "n", "bytes")
    distribute(target, distribution)
    message = (
        r"^rollup 'hourly' needs a distributed source and target, got 'clicks' as "
        rf"Distributed\(.*\) and 'hourly' as {type(distribution).__name__}\(\)\.$"
    )
    with pytest.raises(DeclarationError, match=message):
        Rollup(**declaration(target=target))


def test_a_table_of_a_single_shard_has_no_key() -> None:
    target = table(MetaData(), "hourly", "user_id", "page_id", "hour", "n", "bytes")
    distribute(target, Distributed(column=None))
    message = r"needs a distribution column, but 'hourly' is declared with column=None"
    with pytest.raises(DeclarationError, match=message):
        Rollup(**declaration(target=target))


def test_both_tables_are_distributed_by_the_same_column() -> None:
    target = table(MetaData(), "hourly", "user_id", "page_id", "hour", "n", "bytes")
    distribute(target, Distributed(column="page_id"))
    message = r"distributed by its source's column 'user_id', got 'page_id'\.$"
    with pytest.raises(DeclarationError, match=message):
        Rollup(**declaration(target=target))


def test_declared_rollups_are_found_in_their_metadata() -> None:
    rollup = Rollup(**declaration())
    metadata = rollup.target.metadata
    assert rollups_of(metadata) == ()
    assert declare_rollup(rollup) is rollup
    declare_rollup(rollup)  # Saying it again is no contradiction.
    assert rollups_of(metadata) == (rollup,)
    assert rollups_of(MetaData()) == ()


def test_a_target_has_one_rollup() -> None:
    arguments = declaration()
    rollup = declare_rollup(Rollup(**arguments))
    other = Rollup(**arguments | {"bucket": timedelta(minutes=5)})
    message = r"^table 'hourly' already is the target .* rollup, which 'roll_up_clicks' runs\.$"
    with pytest.raises(DeclarationError, match=message):
        declare_rollup(other)
    assert rollups_of(rollup.target.metadata) == (rollup,)
