"""What a rollup is: its source, its buckets, its dimensions and its measures.

A rollup is a table of aggregates over buckets of time, kept equal to the aggregate of its source.
"Dimension" and "measure" are used as in Kimball, "The Data Warehouse Toolkit": the dimensions say
what a row is about, the measures are the numbers that are aggregated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, get_args

from sqlalchemy import JSON, Boolean, Date, DateTime, LargeBinary, String, Table, Time, Uuid

from citus_analytics.errors import DeclarationError
from citus_analytics.schema import (
    ColumnLike,
    Distributed,
    TableLike,
    column_name,
    distribution_of,
    table_of,
)
from citus_analytics.sql import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import MetaData

_INFO_KEY = "citus_analytics.rollups"
_NO_ORDER: Final = (Boolean, JSON, Uuid)
_NO_SUM: Final = (*_NO_ORDER, Date, DateTime, LargeBinary, String)

# The longest suffix of the names that are derived from a target's.
_LONGEST_TARGET: Final = LONGEST_NAME - len("_capture_truncate")

Aggregate: TypeAlias = Literal["count", "sum", "min", "max"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One aggregated column of a rollup: `count` of rows, or `sum`, `min` or `max` of a column.

    Raises:
        DeclarationError: The aggregate is another one, counts a column, or lacks its column.
    """

    name: str
    aggregate: Aggregate
    column: str | None = None

    def __post_init__(self) -> None:
        if self.aggregate not in get_args(Aggregate):
            raise DeclarationError(
                f"measure {self.name!r} must be one of {', '.join(get_args(Aggregate))}, got "
                f"{self.aggregate!r}."
            )
        if self.aggregate == "count" and self.column is not None:
            raise DeclarationError(
                f"measure {self.name!r} counts rows, and takes no column: got {self.column!r}."
            )
        if self.aggregate != "count" and self.column is None:
            raise DeclarationError(
                f"measure {self.name!r} needs the column of its {self.aggregate}."
            )

    def __str__(self) -> str:
        return f"{self.aggregate}({self.column or '*'})"


def count(name: str) -> Measure:
    """Return a measure that counts rows."""
    return Measure(name, "count")


def total(name: str, column: ColumnLike) -> Measure:
    """Return a measure that sums `column`."""
    return Measure(name, "sum", column_name(column))


def minimum(name: str, column: ColumnLike) -> Measure:
    """Return a measure that keeps the smallest `column`."""
    return Measure(name, "min", column_name(column))


def maximum(name: str, column: ColumnLike) -> Measure:
    """Return a measure that keeps the largest `column`."""
    return Measure(name, "max", column_name(column))


@dataclass(frozen=True, slots=True, init=False)
class Rollup:
    """A table of aggregates over buckets of time, kept equal to the aggregate of its source.

    Attributes:
        source: The table of raw rows. Its distribution column is the rollup's key.
        target: The table of aggregates: the dimensions, `bucket_column` and the measures.
        state: A table of one timestamp column: when the rollup last ran.
        function: The name of the SQL function that runs the rollup, without arguments.
        time_column: The column of the source that says when a row happened. Rows in which it is
            NULL belong to no bucket and are not rolled up.
        bucket: The width of a bucket. Buckets are aligned to 1970-01-01 00:00 UTC.
        bucket_column: The column of the target that holds the start of the bucket.
        dimensions: The columns, of the same name in both tables, by which rows are grouped;
            the key is one of them.
        measures: The aggregated columns of the target.
    """

    source: Table
    target: Table
    state: Table
    function: str
    time_column: str
    bucket: timedelta
    bucket_column: str
    dimensions: tuple[str, ...]
    measures: tuple[Measure, ...]

    def __init__(
        self,
        *,
        source: TableLike,
        target: TableLike,
        state: TableLike,
        function: str,
        time_column: ColumnLike,
        bucket: timedelta,
        bucket_column: ColumnLike,
        dimensions: Iterable[ColumnLike],
        measures: Iterable[Measure],
    ) -> None:
        """Describe a rollup; the attributes of the class say what the arguments mean.

        Tables may be given as the classes that are mapped to them, and columns as mapped
        attributes.

        Raises:
            DeclarationError: A table lacks a column that is named here, or the state has several;
                a time has no time zone; a column of the target is named twice; a measure's column
                has no such aggregate; the tables are not all in one schema; the source and the
                target are not distributed by the same column; a name is too long; or the bucket
                is not positive.
        """
        values: dict[str, Any] = {
            "source": table_of(source),
            "target": table_of(target),
            "state": table_of(state),
            "function": function,
            "time_column": column_name(time_column),
            "bucket": bucket,
            "bucket_column": column_name(bucket_column),
            "dimensions": tuple(map(column_name, dimensions)),
            "measures": tuple(measures),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        name = self.target.name
        bucket: object = self.bucket
        if not isinstance(bucket, timedelta) or bucket <= timedelta(0):
            raise DeclarationError(
                f"a rollup's bucket must be a timedelta longer than 0, got {bucket}."
            )
        if not self.measures:
            raise DeclarationError(f"rollup {name!r} has no measures.")
        if len(self.state.columns) != 1:
            raise DeclarationError(
                f"rollup {name!r} needs a state table of one column, got {self.state.name!r} with "
                f"{len(self.state.columns)}."
            )
        schemas = {table.key: table.schema for table in (self.source, self.target, self.state)}
        if len(set(schemas.values())) > 1:
            raise DeclarationError(
                f"rollup {name!r} needs its tables in one schema, got {', '.join(schemas)}."
            )
        if len(self.function.encode()) > LONGEST_NAME:
            raise DeclarationError(
                f"a function's name has at most {LONGEST_NAME} bytes in PostgreSQL, got "
                f"{self.function!r} of {len(self.function.encode())}."
            )
        if len(name.encode()) > _LONGEST_TARGET:
            raise DeclarationError(
                f"rollup {name!r} has a name of {len(name.encode())} bytes; names derived from it "
                f"fit into PostgreSQL's {LONGEST_NAME} only up to {_LONGEST_TARGET}."
            )

        read = [measure.column for measure in self.measures if measure.column is not None]
        written = [*self.dimensions, self.bucket_column, *(each.name for each in self.measures)]
        _require(self.source, self.time_column, *self.dimensions, *read)
        _require(self.target, *written)
        twice = sorted({column for column in written if written.count(column) > 1})
        if twice:
            raise DeclarationError(
                f"rollup {name!r} names {', '.join(map(repr, twice))} twice: a column of the "
                "target is one dimension, the bucket, or one measure."
            )
        for measure in self.measures:
            _require_aggregate(self.source, measure)
        (state_column,) = self.state.columns
        _require_time_zone(self.source, self.time_column)
        _require_time_zone(self.target, self.bucket_column)
        _require_time_zone(self.state, state_column.name)
        if self.key not in self.dimensions:
            raise DeclarationError(
                f"rollup {name!r} must have the distribution column {self.key!r} among its "
                f"dimensions, got {', '.join(self.dimensions)}: only then is a group computed on "
                "one node."
            )

    @property
    def name(self) -> str:
        """The name of the rollup, which is that of its target."""
        return self.target.name

    @property
    def key(self) -> str:
        """The distribution column that the source and the target share."""
        source, target = distribution_of(self.source), distribution_of(self.target)
        if not isinstance(source, Distributed) or not isinstance(target, Distributed):
            raise DeclarationError(
                f"rollup {self.target.name!r} needs a distributed source and target, got "
                f"{self.source.name!r} as {source} and {self.target.name!r} as {target}."
            )
        if source.column is None or target.column is None:
            raise DeclarationError(
                f"rollup {self.target.name!r} needs a distribution column, but "
                f"{(self.source if source.column is None else self.target).name!r} is declared "
                "with column=None, as a table of a single shard."
            )
        if source.column != target.column:
            raise DeclarationError(
                f"rollup {self.target.name!r} must be distributed by its source's column "
                f"{source.column!r}, got {target.column!r}."
            )
        return source.column


def declare_rollup(rollup: Rollup) -> Rollup:
    """Declare `rollup` beside its target, so that migrations know its machinery; return it.

    Raises:
        DeclarationError: The target already has a different rollup, or another rollup has a
            function of the same name.
    """
    declarations = _declarations(rollup.target.metadata)
    for key, declared in declarations.items():
        if key == rollup.target.key and declared != rollup:
            raise DeclarationError(
                f"table {rollup.target.key!r} already is the target of a different rollup, which "
                f"{declared.function!r} runs."
            )
        same_function = (declared.function, declared.target.schema) == (
            rollup.function,
            rollup.target.schema,
        )
        if key != rollup.target.key and same_function:
            raise DeclarationError(
                f"rollup {rollup.name!r} needs a function name of its own: {rollup.function!r} "
                f"already runs rollup {declared.name!r}."
            )
    return declarations.setdefault(rollup.target.key, rollup)


def rollups_of(metadata: MetaData) -> tuple[Rollup, ...]:
    """Return the rollups that were declared for the tables of `metadata`."""
    return tuple(_declarations(metadata).values())


def _declarations(metadata: MetaData) -> dict[str, Rollup]:
    return cast("dict[str, Rollup]", metadata.info.setdefault(_INFO_KEY, {}))


def _require(table: Table, *names: str) -> None:
    # A column's key may be another than its name, which alone is known to the database.
    columns = [column.name for column in table.columns]
    missing = [name for name in names if name not in columns]
    if missing:
        raise DeclarationError(
            f"table {table.key!r} has no column {', '.join(map(repr, missing))}; its columns are "
            f"{', '.join(columns)}."
        )


def _require_aggregate(table: Table, measure: Measure) -> None:
    # Types that are not listed, an application's own among them, are left to the server.
    unfit = _NO_SUM if measure.aggregate == "sum" else _NO_ORDER
    for column in table.columns:
        if column.name == measure.column and isinstance(column.type, unfit):
            raise DeclarationError(
                f"rollup measure {measure.name!r}: PostgreSQL has no {measure.aggregate} of "
                f"{column.type!r}, which column {column.name!r} of {table.key!r} is."
            )


def _require_time_zone(table: Table, name: str) -> None:
    for column in table.columns:
        kind = column.type
        # Other types, an application's own among them, are left to the server.
        naive = isinstance(kind, DateTime) and not kind.timezone
        if column.name == name and (naive or isinstance(kind, Date | Time)):
            raise DeclarationError(
                f"column {name!r} of {table.key!r} must be a timestamp with time zone, "
                f"DateTime(timezone=True), got {kind!r}: without a zone a bucket would depend on "
                "the session."
            )
