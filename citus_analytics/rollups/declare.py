"""What a rollup is: its source, its buckets, its dimensions and its measures.

A rollup is a table of aggregates over buckets of time, kept equal to the aggregate of its source.
"Dimension" and "measure" are used as in Kimball, "The Data Warehouse Toolkit": the dimensions say
what a row is about, the measures are the numbers that are aggregated.

    PAGE_VIEWS = Rollup(
        "page_views_rollup", PageView, time=PageView.viewed_at, every=["5 minutes", "1 day"],
        by=[PageView.site_id, PageView.payload["country"].astext.label("country")],
        measures={"views": count(), "seconds": total(PageView.seconds)},
    )

The declaration makes the tables that hold the aggregates, one for each bucket, beside the source's:
`alembic revision --autogenerate` creates them, distributes them, and creates what keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast
from zoneinfo import ZoneInfo

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Computed,
    Date,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Table,
    Time,
    Uuid,
    text,
)
from sqlalchemy.sql import coercions, roles
from sqlalchemy.sql.util import ClauseAdapter

from citus_analytics.errors import DeclarationError
from citus_analytics.rollups.sql import LONGEST_BASE, RollupSpec, TargetSpec
from citus_analytics.schema import (
    ColumnLike,
    Distributed,
    Local,
    Reference,
    TableLike,
    column_name,
    declared_distribution,
    distribution_of,
    table_of,
)
from citus_analytics.sql import DIALECT, LONGEST_NAME, quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import MetaData

_INFO_KEY = "citus_analytics.rollups"

ExpressionLike: TypeAlias = "ColumnLike | ColumnElement[Any]"
"""A column, or an SQL expression over columns of the source."""

Aggregate: TypeAlias = Literal["count", "sum", "avg", "var_samp", "stddev_samp", "min", "max"]


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """One number that a rollup keeps; made by `count`, `total`, `average` and their like."""

    aggregate: Aggregate
    value: ExpressionLike | None = None


def count(value: ExpressionLike | None = None) -> Measure:
    """Count rows, or the rows in which `value` is not NULL: SQL's `count(*)` and `count(value)`."""
    return Measure("count", value)


def total(value: ExpressionLike) -> Measure:
    """Sum `value`: SQL's `sum(value)`, NULL where no row has one.

    A sum of floats is that of their exact decimal values, a numeric: it has no order and no drift,
    and a deletion undoes an insertion exactly. NaN and infinities are counted apart: the sum is
    NaN or infinite as long as one of them is in the group.
    """
    return Measure("sum", value)


def average(value: ExpressionLike) -> Measure:
    """Average `value`: SQL's `avg(value)`, a numeric, NULL where no row has one."""
    return Measure("avg", value)


def variance(value: ExpressionLike) -> Measure:
    """Return the variance of the sample: SQL's `var_samp(value)`, NULL for fewer than two values.

    It is computed from exact sums of the values and of their squares, so that nothing cancels out.
    """
    return Measure("var_samp", value)


def stddev(value: ExpressionLike) -> Measure:
    """Return the standard deviation of the sample: SQL's `stddev_samp(value)`."""
    return Measure("stddev_samp", value)


def minimum(value: ExpressionLike) -> Measure:
    """Keep the smallest `value`: SQL's `min(value)`.

    Where the smallest itself is deleted, its group is computed from the source again.
    """
    return Measure("min", value)


def maximum(value: ExpressionLike) -> Measure:
    """Keep the largest `value`: SQL's `max(value)`; as for `minimum` if it is deleted."""
    return Measure("max", value)


_EVERY = re.compile(
    r"(?:(\d+)\s+)?(second|minute|hour|day|week|month|quarter|year)s?(?:\s+at\s+(\S+))?"
)
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


@dataclass(frozen=True, slots=True)
class Every:
    """The width of buckets: so many seconds from 1970-01-01 00:00 UTC, or a unit of a calendar."""

    seconds: int | None = None
    unit: str | None = None
    zone: str = "UTC"

    def __str__(self) -> str:
        if self.seconds is None:
            return f"1 {self.unit}" + ("" if self.zone == "UTC" else f" at {self.zone}")
        for unit in ("day", "hour", "minute", "second"):
            number, rest = divmod(self.seconds, _SECONDS[unit])
            if not rest:
                return f"{number} {unit}{'' if number == 1 else 's'}"
        raise AssertionError(self.seconds)


def every(width: str | timedelta) -> Every:
    """Read the width of a bucket: `5 minutes`, `1 hour`, `1 day at Europe/Berlin`, `1 month`.

    Seconds, minutes, hours and days without a zone are fixed intervals, aligned to 1970-01-01
    00:00 UTC. Days in a zone, weeks (from Monday on), months, quarters and years are those of the
    calendar, in UTC where no zone is named.

    Raises:
        DeclarationError: It says no width of a bucket.
    """
    if isinstance(width, timedelta):
        seconds = width.total_seconds()
        if seconds < 1 or seconds != int(seconds):
            raise DeclarationError(f"a bucket must be a whole number of seconds, got {width}.")
        return Every(int(seconds))
    match = _EVERY.fullmatch(str(width).strip())
    if match is None or match[1] == "0":
        raise DeclarationError(
            f"a bucket must be like '5 minutes', '1 hour', '1 day at Europe/Berlin' or '1 month', "
            f"got {width!r}."
        )
    number, unit, zone = int(match[1] or 1), match[2], match[3]
    if zone is not None:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError) as error:
            raise DeclarationError(
                f"a bucket in a time zone needs its IANA name, such as Europe/Berlin, got {zone!r}."
            ) from error
    if unit in _SECONDS and zone is None:
        return Every(number * _SECONDS[unit])
    if number != 1 or unit in ("second", "minute"):
        raise DeclarationError(
            "a bucket of the calendar is one hour, day, week, month, quarter or year, got "
            f"{width!r}."
        )
    return Every(unit=unit, zone=zone or "UTC")


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Rollup:
    """A table of aggregates for each bucket, kept equal to the aggregate of its source.

    Attributes:
        name: Its name.
        source: The table of raw rows.
        targets: The tables of aggregates, by the width of their buckets, the finest first; under
            None where the rollup has no buckets.
        function: A function without arguments that runs it from SQL, besides `<source>_run()`.
        state: A table of one timestamp, the minute of the last run.
        time: The column that says when a row happened.
        undated: Whether rows without a finite time are kept.
        where: What rows are aggregated, None for all.
        dimensions: The dimensions by name.
        measures: The measures by name, with the value that each aggregates.
        bucket: The column that holds the start of the bucket.
        ranked: The measure by which the tables are indexed.
    """

    name: str
    source: Table
    targets: Mapping[Every | None, Table]
    function: str | None
    state: Table | None
    time: str | None
    undated: bool
    where: ColumnElement[bool] | None
    dimensions: Mapping[str, ColumnElement[Any]]
    measures: Mapping[str, tuple[Measure, ColumnElement[Any] | None]]
    bucket: str
    ranked: str | None

    def __init__(
        self,
        name: str,
        source: TableLike,
        *,
        measures: Mapping[str, Measure],
        by: Sequence[ExpressionLike] = (),
        time: ColumnLike | None = None,
        every: str | timedelta | Sequence[str | timedelta] | None = None,
        where: ColumnElement[bool] | None = None,
        undated: bool = False,
        target: TableLike | None = None,
        bucket: str = "bucket",
        ranked: str | None = None,
        function: str | None = None,
        state: TableLike | None = None,
    ) -> None:
        """Declare a rollup beside its source, so that migrations know it.

        Args:
            name: The name of its table; with several buckets, `<name>_<bucket>` for each.
            source: The table of raw rows, or the class mapped to it.
            measures: The aggregates, by the column that holds each.
            by: The dimensions: columns, or immutable expressions with a label. With the
                distribution column among them the rollup is sharded like its source, without it is
                a reference table.
            time: The column that says when a row happened, a timestamp with time zone; None for
                totals over all time.
            every: The width of the buckets, or several; see the function `every`.
            where: What rows are aggregated; all by default.
            undated: Whether rows without a finite time are kept, as a group whose bucket is NULL.
            target: A table that exists in the metadata already, to hold the aggregates: its
                columns are the dimensions, `bucket`, and the measures, one of which is `count()`.
            bucket: The name of the column that holds the start of the bucket.
            ranked: A measure by which the tables are indexed, so that the groups with the greatest
                are found at once.
            function: The name of a function without arguments that runs the rollup from SQL.
            state: A table of one timestamp that is told the minute of the last run.

        Raises:
            DeclarationError: Something of it cannot work; the message says what.
        """
        table = table_of(source)
        widths = _widths(name, time, every)
        dimensions = {}
        for expression in by:
            element = _expression(table, expression)
            label = getattr(element, "name", None)
            if not label:
                raise DeclarationError(
                    f"rollup {name!r}: give the dimension {element} a name, with .label('...')."
                )
            if label in dimensions:
                raise DeclarationError(f"rollup {name!r} has two dimensions named {label!r}.")
            dimensions[label] = element
        if not measures:
            raise DeclarationError(f"rollup {name!r} has no measures.")
        values = {}
        for column, measure in measures.items():
            if not isinstance(measure, Measure):
                raise DeclarationError(
                    f"rollup {name!r}: measure {column!r} must be count(), total(...), "
                    f"average(...) or the like, got {measure!r}."
                )
            value = None if measure.value is None else _expression(table, measure.value)
            if value is not None:
                _require_aggregate(name, column, measure.aggregate, value)
            values[column] = (measure, value)
        names = [*dimensions, *([bucket] if widths != [None] else []), *values]
        twice = sorted({each for each in names if names.count(each) > 1})
        if twice:
            raise DeclarationError(
                f"rollup {name!r} names {', '.join(map(repr, twice))} twice: a column is one "
                "dimension, the bucket, or one measure."
            )
        if ranked is not None and ranked not in values:
            raise DeclarationError(
                f"rollup {name!r} is ranked by {ranked!r}, which is not one of its measures: "
                f"{', '.join(values)}."
            )
        if time is not None:
            _require_time_zone(table, column_name(time))
        attributes: dict[str, Any] = {
            "name": name,
            "source": table,
            "function": function,
            "state": None if state is None else table_of(state),
            "time": None if time is None else column_name(time),
            "undated": undated,
            "where": where,
            "dimensions": dimensions,
            "measures": values,
            "bucket": bucket,
            "ranked": ranked,
        }
        for attribute, value in attributes.items():
            object.__setattr__(self, attribute, value)
        if target is not None and len(widths) > 1:
            raise DeclarationError(f"rollup {name!r}: a target of its own holds one bucket.")
        targets = {}
        for width in widths:
            if target is not None:
                targets[width] = self._check_target(table_of(target))
            else:
                suffix = "" if len(widths) == 1 else "_" + re.sub(r"\W+", "_", str(width)).lower()
                targets[width] = self._make_target(f"{name}{suffix}", width)
        object.__setattr__(self, "targets", targets)
        _declare(self)

    @property
    def key(self) -> str | None:
        """The distribution column of the source, None if it is on no shards."""
        distribution = distribution_of(self.source)
        return distribution.column if isinstance(distribution, Distributed) else None

    def _is_keyed(self) -> bool:
        """Whether a target is on shards: the distribution column is a dimension of its own name.

        A source on a single shard has no such column, and everything is beside it.
        """
        if self.key is None:
            return isinstance(distribution_of(self.source), Distributed)
        column = self.dimensions.get(self.key or "")
        return isinstance(column, Column) and column.name == self.key

    def _make_target(self, name: str, width: Every | None) -> Table:
        source = self.source
        if len(name.encode()) > LONGEST_BASE:
            raise DeclarationError(
                f"rollup table {name!r} has a name of {len(name.encode())} bytes; the names "
                f"derived from it fit into PostgreSQL's 63 only up to {LONGEST_BASE}."
            )
        if f"{source.schema}.{name}" in source.metadata.tables or name in source.metadata.tables:
            raise DeclarationError(f"rollup table {name!r}: there is a table of that name already.")
        columns: list[Column[Any]] = []
        for label, element in self.dimensions.items():
            columns.append(Column(label, element.type))
        if width is not None:
            columns.append(Column(self.bucket, DateTime(timezone=True)))
        if not columns:
            columns.append(Column("_total", Boolean, nullable=False))
        group = [column.name for column in columns]
        zero = text("0")
        additive: dict[str, Column[Any]] = {}
        visible: list[Column[Any]] = []
        rows = self._rows_column()
        if rows.startswith("_"):
            additive[rows] = Column(rows, BigInteger, nullable=False, server_default=zero)
        for label, (measure, value) in self.measures.items():
            if measure.aggregate in ("min", "max"):
                visible.append(Column(label, None if value is None else value.type))
            elif value is None:
                visible.append(Column(label, BigInteger, nullable=False, server_default=zero))
            else:
                base = self._input_name(value)
                for part in _PARTS[measure.aggregate]:
                    for column in _hidden(base, part, value):
                        additive.setdefault(
                            column,
                            Column(
                                column,
                                _hidden_type(part, value),
                                nullable=False,
                                server_default=zero,
                            ),
                        )
                visible.append(
                    Column(
                        label,
                        _visible_type(measure.aggregate, value),
                        Computed(_visible(measure.aggregate, base, value), persisted=True),
                    )
                )
        key = self.key
        ordered = sorted(group, key=lambda column: (column != key, column != self.bucket))
        items: list[Any] = [*columns, *additive.values(), *visible]
        distribution = declared_distribution(source)
        if isinstance(distribution, Distributed):
            items.append(
                Distributed(key, colocate_with=source) if self._is_keyed() else Reference()
            )
        elif distribution is not None:
            items.append(Local())
        items.append(
            Index(f"{name}_key", *ordered, unique=True, postgresql_nulls_not_distinct=True)
        )
        if self.ranked is not None:
            items.append(Index(f"{name}_rank", text(f"{quote(self.ranked)} DESC NULLS LAST")))
        for item in items:
            if isinstance(item, Column) and len(item.name.encode()) > LONGEST_NAME:
                raise DeclarationError(
                    f"rollup {self.name!r} would have a column {item.name!r} of "
                    f"{len(item.name.encode())} bytes, and PostgreSQL has at most {LONGEST_NAME}: "
                    "give what it is named after a shorter label."
                )
        return Table(name, source.metadata, *items, schema=source.schema)

    def _check_target(self, target: Table) -> Table:
        if target.schema != self.source.schema:
            raise DeclarationError(
                f"rollup {self.name!r} needs its tables in one schema, got {self.source.key} and "
                f"{target.key}."
            )
        columns = [column.name for column in target.columns]
        bucket = [] if self.time is None else [self.bucket]
        missing = {*self.dimensions, *bucket, *self.measures} - set(columns)
        if missing:
            raise DeclarationError(
                f"table {target.key!r} has no column {', '.join(map(repr, sorted(missing)))}; its "
                f"columns are {', '.join(columns)}."
            )
        for label, (measure, value) in self.measures.items():
            if measure.aggregate not in ("count", "min", "max") or (
                measure.aggregate == "count" and value is not None
            ):
                raise DeclarationError(
                    f"rollup {self.name!r}: measure {label!r} needs hidden columns, which "
                    f"{target.key!r} does not have: leave out target."
                )
        if self._rows_column().startswith("_"):
            raise DeclarationError(
                f"rollup {self.name!r} needs a measure count() in {target.key!r}: a group is there "
                "while it is above 0."
            )
        found = declared_distribution(target)
        if isinstance(found, Distributed) != self._is_keyed():
            raise DeclarationError(
                f"rollup {self.name!r}: {target.key!r} must be distributed like its source "
                f"{self.source.key!r}, by {self.key!r}, got {found!r}."
            )
        return target

    def _rows_column(self) -> str:
        """Return the column that counts the rows of a group: a `count()`, or a hidden one."""
        for label, (measure, value) in self.measures.items():
            if measure.aggregate == "count" and value is None:
                return label
        return "_rows"

    def _input_name(self, value: ColumnElement[Any]) -> str:
        """Return the name of a value in hidden columns; equal values share them."""
        sql = _sql(self.source, value)
        for label, (_, other) in self.measures.items():
            if other is not None and _sql(self.source, other) == sql:
                return getattr(value, "name", None) or label
        raise AssertionError(sql)

    def spec(self) -> RollupSpec:
        """Return the rollup in plain names, as a migration freezes it; of this rollup alone."""
        columns: dict[str, str] = {}

        def logged(element: ColumnElement[Any], template: str = "{}") -> str:
            """Return the column of the log that holds an expression."""
            if isinstance(element, Column) and element.name == self.key:
                return "key"
            sql = template.format(_sql(self.source, element))
            base = getattr(element, "name", None) or "value"
            for known, expression in columns.items():
                if expression == sql:
                    return known
            name = str(base)
            while name in columns or name in ("n", "at", "key"):
                name += "_"
            columns[name] = sql
            return name

        dimensions = {label: logged(element) for label, element in self.dimensions.items()}
        sums: dict[str, str] = {}
        visible: dict[str, str] = {}
        extremes: dict[str, tuple[str, str]] = {}
        for label, (measure, value) in self.measures.items():
            if value is None:
                visible[label] = f"{quote(label)}::bigint"
                continue
            column = logged(value)
            if measure.aggregate in ("min", "max"):
                extremes[label] = (measure.aggregate, column)
                continue
            base = self._input_name(value)
            for part in _PARTS[measure.aggregate]:
                for hidden in _hidden(base, part, value):
                    sums[hidden] = _additive(
                        hidden.removeprefix(f"_{base}_"), f"l.{quote(column)}", value
                    )
            kind = _visible_type(measure.aggregate, value).compile(DIALECT).lower()
            visible[label] = f"({_visible(measure.aggregate, base, value)})::{kind}"
        targets = []
        where = None
        if self.where is not None:
            where = logged(self.where.label(f"in_{self.name}"), "({}) IS TRUE")
        for width, table in self.targets.items():
            group = dict(dimensions)
            if not group and width is None:
                group = {"_total": "true"}
            targets.append(
                TargetSpec(
                    rollup=self.name,
                    table=table.name,
                    every=None if width is None else str(width),
                    bucket=None if width is None else self.bucket,
                    by=group,
                    rows=self._rows_column(),
                    sums=sums,
                    visible=visible,
                    extremes=extremes,
                    where=where,
                    undated=self.undated or width is None,
                    keyed=self.key is None or self._is_keyed(),
                )
            )
        return RollupSpec(
            source=self.source.name,
            schema=self.source.schema,
            key=self.key,
            time=self.time,
            columns=columns,
            targets=tuple(targets),
            functions=() if self.function is None else (self.function,),
            states={}
            if self.state is None
            else {self.state.name: next(iter(self.state.columns)).name},
        )


def rollups_of(metadata: MetaData) -> tuple[Rollup, ...]:
    """Return the rollups that were declared on the tables of `metadata`."""
    return tuple(_declarations(metadata).values())


def specs_of(metadata: MetaData) -> tuple[RollupSpec, ...]:
    """Return the rollups of `metadata` in plain names: one specification for each source.

    Raises:
        DeclarationError: A name that is derived for a rollup is that of something else.
    """
    specs = _merged(metadata)
    _require_names(metadata, specs)
    return specs


def _merged(metadata: MetaData) -> tuple[RollupSpec, ...]:
    merged: dict[str, RollupSpec] = {}
    for rollup in rollups_of(metadata):
        spec = rollup.spec()
        key = rollup.source.key
        merged[key] = merged[key].merged(spec) if key in merged else spec
    return tuple(merged.values())


def _require_names(metadata: MetaData, specs: Sequence[RollupSpec]) -> None:
    """Refuse rollups of which a derived name is taken."""
    relations: dict[tuple[str | None, str], str] = {}
    functions: dict[tuple[str | None, str], str] = {}
    for table in metadata.tables.values():
        relations[table.schema, table.name] = f"table {table.name!r}"
        for index in table.indexes:
            relations.setdefault((table.schema, str(index.name)), f"an index of {table.name!r}")
    for spec in specs:
        derived = [
            (relations, spec.derived_relations),
            (functions, spec.derived_functions),
            (functions, dict.fromkeys(spec.functions, "a function that runs rollups")),
        ]
        for taken, names in derived:
            for name, what in names.items():
                other = taken.get((spec.schema, name))
                if other is not None:
                    raise DeclarationError(
                        f"{what} of the rollups of {spec.source!r} would have the name {name!r}, "
                        f"and so has {other}: give one of them another name."
                    )
                taken[spec.schema, name] = f"{what} of the rollups of {spec.source!r}"


def _declarations(metadata: MetaData) -> dict[str, Rollup]:
    return cast("dict[str, Rollup]", metadata.info.setdefault(_INFO_KEY, {}))


def _declare(rollup: Rollup) -> None:
    declarations = _declarations(rollup.source.metadata)
    if rollup.name in declarations:
        raise DeclarationError(f"there is a rollup {rollup.name!r} already.")
    for other in declarations.values():
        if rollup.function is not None and other.function == rollup.function:
            raise DeclarationError(
                f"rollup {rollup.name!r} needs a function name of its own: {rollup.function!r} "
                f"already runs rollup {other.name!r}."
            )
        times = {other.time, rollup.time} - {None}
        if other.source is rollup.source and len(times) > 1:
            raise DeclarationError(
                f"rollups {other.name!r} and {rollup.name!r} have different times of one source."
            )
    declarations[rollup.name] = rollup
    try:
        _require_names(rollup.source.metadata, _merged(rollup.source.metadata))
    except DeclarationError:
        del declarations[rollup.name]
        raise


def _widths(
    name: str,
    time: ColumnLike | None,
    widths: str | timedelta | Sequence[str | timedelta] | None,
) -> list[Every] | list[None]:
    if (time is None) != (widths is None):
        raise DeclarationError(
            f"rollup {name!r} needs both time and every, or neither, for totals over all time."
        )
    if widths is None:
        return [None]
    given = [widths] if isinstance(widths, str | timedelta) else list(widths)
    if not given:
        raise DeclarationError(f"rollup {name!r}: every names no bucket.")
    return [every(width) for width in given]


def _expression(table: Table, value: ExpressionLike) -> ColumnElement[Any]:
    """Return a dimension or a measure's value as an expression over columns of the table."""
    if isinstance(value, str):
        found = [column for column in table.columns if column.name == value]
        if not found:
            raise DeclarationError(
                f"table {table.key!r} has no column {value!r}; its columns are "
                f"{', '.join(column.name for column in table.columns)}."
            )
        return found[0]
    element = coercions.expect(roles.ColumnArgumentRole, value)
    if not isinstance(element, Column):
        return element
    # A mapped attribute stands for the column of its table.
    column = table.corresponding_column(element)
    if column is None:
        raise DeclarationError(f"{element} is not a column of the source {table.key!r}.")
    return column


def _sql(table: Table, element: ColumnElement[Any]) -> str:
    """Return an expression as SQL over a row `r` of the source."""
    if hasattr(element, "element") and hasattr(element, "name") and not isinstance(element, Column):
        element = element.element  # A label names it, and is no part of it.
    adapted = ClauseAdapter(table.alias("r")).traverse(element)
    return str(adapted.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))


_NO_ORDER: Final = (Boolean, JSON, Uuid)
_NO_SUM: Final = (*_NO_ORDER, Date, DateTime, LargeBinary, String, Time)


def _require_aggregate(
    rollup: str, measure: str, aggregate: Aggregate, value: ColumnElement[Any]
) -> None:
    # Types that are not listed, an application's own among them, are left to the server.
    unfit = {"count": (), "min": _NO_ORDER, "max": _NO_ORDER}.get(aggregate, _NO_SUM)
    if isinstance(value.type, unfit):
        raise DeclarationError(
            f"rollup {rollup!r}: PostgreSQL has no {aggregate} of {value.type!r}, which measure "
            f"{measure!r} asks for."
        )


def _require_time_zone(table: Table, name: str) -> None:
    columns = [column for column in table.columns if column.name == name]
    if not columns:
        raise DeclarationError(
            f"table {table.key!r} has no column {name!r}; its columns are "
            f"{', '.join(column.name for column in table.columns)}."
        )
    kind = columns[0].type
    # Other types, an application's own among them, are left to the server.
    if (isinstance(kind, DateTime) and not kind.timezone) or isinstance(kind, Date | Time):
        raise DeclarationError(
            f"column {name!r} of {table.key!r} must be a timestamp with time zone, "
            f"DateTime(timezone=True), got {kind!r}: without a zone a bucket would depend on the "
            "session."
        )


# What a measure is computed from: hidden columns, each of which adds and subtracts exactly.

_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "count": ("count",),
    "sum": ("count", "sum"),
    "avg": ("count", "sum"),
    "var_samp": ("count", "sum", "squares"),
    "stddev_samp": ("count", "sum", "squares"),
}


def _has_special(value: ColumnElement[Any]) -> bool:
    """Whether values may be NaN or infinite, which cannot be subtracted again."""
    return not isinstance(value.type, Integer)


def _hidden(base: str, part: str, value: ColumnElement[Any]) -> list[str]:
    if part == "sum" and _has_special(value):
        return [f"_{base}_{each}" for each in ("sum", "nan", "inf", "ninf")]
    return [f"_{base}_{part}"]


def _hidden_type(part: str, value: ColumnElement[Any]) -> Any:
    if part == "count":
        return BigInteger()
    small = isinstance(value.type, Integer) and not isinstance(value.type, BigInteger)
    return BigInteger() if part == "sum" and small else Numeric()


def _additive(part: str, column: str, value: ColumnElement[Any]) -> str:
    """Return what one row of the log, of weight 1, adds to a hidden column."""
    if _has_special(value):
        finite = f"CASE WHEN {column} - {column} = 0 THEN {column}::numeric ELSE 0 END"
    else:
        # A row of the log may stand for many: its weight times its value may need a wider type.
        wide = _hidden_type("sum", value).compile(DIALECT).lower()
        finite = f"coalesce({column}, 0)::{wide}"
    return {
        "count": f"CASE WHEN {column} IS NULL THEN 0 ELSE 1 END",
        "sum": finite,
        "squares": f"({finite})::numeric * ({finite})",
        "nan": f"CASE WHEN {column} = 'NaN' THEN 1 ELSE 0 END",
        "inf": f"CASE WHEN {column} = 'Infinity' THEN 1 ELSE 0 END",
        "ninf": f"CASE WHEN {column} = '-Infinity' THEN 1 ELSE 0 END",
    }[part]


def _visible_type(aggregate: str, value: ColumnElement[Any]) -> Any:
    if aggregate == "count":
        return BigInteger()
    if aggregate == "sum":
        return _hidden_type("sum", value)
    return Numeric()


def _visible(aggregate: str, base: str, value: ColumnElement[Any]) -> str:
    """Return the expression of a measure over the hidden columns."""
    number, total_, squares = (quote(f"_{base}_{part}") for part in ("count", "sum", "squares"))
    if aggregate == "count":
        return number
    specials = ""
    if _has_special(value):
        nan, inf, ninf = (quote(f"_{base}_{part}") for part in ("nan", "inf", "ninf"))
        specials = (
            f"WHEN {nan} > 0 OR {inf} > 0 AND {ninf} > 0 THEN 'NaN'::numeric "
            f"WHEN {inf} > 0 THEN 'Infinity'::numeric WHEN {ninf} > 0 THEN '-Infinity'::numeric "
        )
        if aggregate in ("var_samp", "stddev_samp"):
            specials = f"WHEN ({nan} + {inf} + {ninf}) > 0 THEN 'NaN'::numeric "
    if aggregate == "sum":
        return f"CASE WHEN {number} = 0 THEN NULL {specials}ELSE {total_} END"
    if aggregate == "avg":
        mean = f"{total_}::numeric / {number}::numeric"
        return f"CASE WHEN {number} = 0 THEN NULL {specials}ELSE {mean} END"
    spread = (
        # A difference that is about to be added has a spread that may be negative.
        f"greatest({number}::numeric * {squares} - {total_}::numeric * {total_}::numeric, 0) / "
        f"({number}::numeric * ({number} - 1)::numeric)"
    )
    if aggregate == "stddev_samp":
        spread = f"sqrt({spread})"
    return f"CASE WHEN {number} < 2 THEN NULL {specials}ELSE {spread} END"
