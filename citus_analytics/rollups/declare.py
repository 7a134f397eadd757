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

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, reduce
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
    Double,
    Enum,
    Float,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Time,
    TypeDecorator,
    Uuid,
    and_,
    bindparam,
    quoted_name,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import DOMAIN, JSONB
from sqlalchemy.sql import coercions, roles
from sqlalchemy.sql.elements import Label
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.sqltypes import NullType
from sqlalchemy.sql.util import ClauseAdapter

from citus_analytics.errors import ArgumentError, DeclarationError
from citus_analytics.rollups.sql import (
    BASE,
    INFINITE,
    LONGEST_BASE,
    REGISTERS,
    SHIFT,
    TOTAL,
    VALUE,
    RollupSpec,
    TargetSpec,
    best_query,
    read,
)
from citus_analytics.schema import (
    ColumnLike,
    Distributed,
    Local,
    Reference,
    TableLike,
    column_name,
    declared_distribution,
    distribution_of,
    rows_of,
    table_of,
)
from citus_analytics.sql import DIALECT, LONGEST_NAME, quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Select, TextualSelect
    from sqlalchemy.types import TypeEngine

_INFO_KEY = "citus_analytics.rollups"

ExpressionLike: TypeAlias = "ColumnLike | ColumnElement[Any]"
"""A column, or an SQL expression over columns of the source."""

Aggregate: TypeAlias = Literal[
    "count", "sum", "avg", "var_samp", "stddev_samp", "min", "max", "distinct", "percentiles"
]


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """One number that a rollup keeps; made by `count`, `total`, `average` and their like."""

    aggregate: Aggregate
    value: ExpressionLike | None = None
    approximate: bool = False
    fractions: tuple[float, ...] = ()


Late: TypeAlias = Literal["add", "refuse"]


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


def distinct(value: ExpressionLike, *, approximate: bool = False) -> Measure:
    """Count different values: SQL's `count(DISTINCT value)`, which does not count NULL.

    Each group keeps its values, with the number of rows of each, in a table of its own. So it costs
    as much space as there are different values in a group.

    Args:
        value: What is counted.
        approximate: Keep 2,048 registers instead of the values, as HyperLogLog does (Flajolet et
            al., "HyperLogLog: the analysis of a near-optimal cardinality estimation algorithm",
            2007), but with the number of rows behind each of their ranks, so that deletions are
            exact too. The standard error is 2.3 %, and less for fewer than 5,000 values. The space
            is bounded: it pays where groups have more than some 20,000 different values.
    """
    return Measure("distinct", value, approximate=approximate)


def percentiles(value: ExpressionLike, fractions: Sequence[float] = (0.5, 0.95, 0.99)) -> Measure:
    """Keep percentiles of a number: SQL's `percentile_disc`, with a relative error of 1 %.

    The values are counted by bins of their logarithms (Masson, Rim and Lee, "DDSketch: a fast and
    fully-mergeable quantile sketch with relative-error guarantees", 2019), whatever their sign.
    Zero is exact. Infinities are the smallest and the largest values, NaN is larger than any, as in
    PostgreSQL. Other values are taken as between 1e-300 and 1e300 in size.

    Args:
        value: The number; NULLs are left out.
        fractions: Which percentiles are read: 0.5 is the median. A measure named `p` is read as
            `p50`, `p95` and `p99`, double precision, NULL where no row has a value. Every other
            fraction can be read by `Rollup.select`.

    Raises:
        DeclarationError: A fraction is not between 0 and 1, or there is none.
    """
    given = tuple(fractions)
    if not given or not all(0 <= fraction <= 1 for fraction in given):
        raise DeclarationError(f"percentiles need fractions between 0 and 1, got {given!r}.")
    return Measure("percentiles", value, fractions=given)


def names_read(label: str, measure: Measure) -> dict[str, str]:
    """Return what a measure that is kept by its values is read as: names, and how."""
    if measure.aggregate == "percentiles":
        return {_percentile(label, each): repr(float(each)) for each in measure.fractions}
    return {label: "approximate" if measure.approximate else "distinct"}


def _percentile(label: str, fraction: float) -> str:
    return f"{label}{f'{fraction * 100:.10g}'.replace('.', '_')}"


BY_VALUES: Final = ("distinct", "percentiles")

_EVERY = re.compile(
    r"(?:(\d+)\s+)?(second|minute|hour|day|week|month|quarter|year)s?(?:\s+at\s+(\S+))?"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ABOUT: Final = {
    "hour": 3_600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "quarter": 7_776_000,
    "year": 31_536_000,
}
# Of a bucket of the calendar: how many hours it has at least, and how often its end is looked for.
_SHORTEST: Final = {
    "hour": (0.25, 0.25),
    "day": (22, 0.25),
    "week": (164, 1),
    "month": (666, 6),
    "quarter": (2130, 6),
    "year": (8730, 6),
}
_NO_ZONES: Final = re.compile(r"(posix|right)/|(localtime|posixrules|Factory)$")
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


@dataclass(frozen=True, slots=True)
class Every:
    """The width of buckets: so many seconds from 1970-01-01 00:00 UTC, or a unit of a calendar."""

    seconds: int | None = None
    unit: str | None = None
    zone: str = "UTC"

    @property
    def length(self) -> int:
        """The number of seconds, about."""
        return self.seconds or _ABOUT[str(self.unit)]

    def start_of(self, moment: datetime) -> datetime:
        """Return the start of the bucket of an aware datetime, in UTC."""
        if self.seconds is not None:
            return moment.astimezone(UTC) - (moment - _EPOCH) % timedelta(seconds=self.seconds)
        zone = ZoneInfo(self.zone)
        if self.unit == "hour":
            # As PostgreSQL has it: what the clocks show, less the minutes.
            shown = moment.astimezone(zone)
            past = timedelta(minutes=shown.minute, seconds=shown.second)
            return moment.astimezone(UTC) - past - timedelta(microseconds=shown.microsecond)
        start = moment.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        if self.unit == "week":
            start -= timedelta(days=start.weekday())
        if self.unit in ("month", "quarter", "year"):
            start = start.replace(day=1)
        if self.unit == "quarter":
            start = start.replace(month=(start.month - 1) // 3 * 3 + 1)
        if self.unit == "year":
            start = start.replace(month=1)
        return start.astimezone(UTC)

    def last_start(self, moment: datetime) -> datetime:
        """Return the last moment up to an aware datetime that parts buckets, in UTC.

        That is the start of its bucket. But clocks that are set by half an hour begin amid an hour,
        which has started when another was shown.
        """
        while (start := self.start_of(moment)) != moment:
            moment = start
        return start

    def next_start(self, moment: datetime) -> datetime:
        """Return the first moment from an aware datetime on that parts buckets, in UTC."""
        start = self.start_of(moment)
        if start == moment.astimezone(UTC):
            return start
        if self.seconds is not None:
            return start + timedelta(seconds=self.seconds)
        # The clocks decide: look where the shortest one would end, and go on from there.
        shortest, step = _SHORTEST[str(self.unit)]
        after = start + timedelta(hours=shortest)
        while (end := self.last_start(after)) <= moment:
            after += timedelta(hours=step)
        return end

    def is_made_of(self, other: Every) -> bool:
        """Whether each bucket consists of whole buckets of another width.

        What a time zone differs from UTC by is what it has differed by since 1972.
        """
        if self == other:
            return True
        if self.seconds is not None:
            return other.seconds is not None and self.seconds % other.seconds == 0
        if other.seconds is not None:
            common = 3_600 if self.unit == "hour" else 86_400
            return math.gcd(common, _shift(self.zone)) % other.seconds == 0
        units = {
            "hour": (),
            "day": ("hour",),
            "week": ("hour", "day"),
            "month": ("hour", "day"),
            "quarter": ("hour", "day", "month"),
            "year": ("hour", "day", "month", "quarter"),
        }
        return self.zone == other.zone and other.unit in units[str(self.unit)]

    def __str__(self) -> str:
        if self.seconds is None:
            return f"1 {self.unit}" + ("" if self.zone == "UTC" else f" at {self.zone}")
        for unit in ("day", "hour", "minute", "second"):
            number, rest = divmod(self.seconds, _SECONDS[unit])
            if not rest:
                return f"{number} {unit}{'' if number == 1 else 's'}"
        raise AssertionError(self.seconds)


@cache
def _shift(zone: str) -> int:
    """Return the greatest number of seconds of which all offsets of a zone are a multiple."""
    clock = ZoneInfo(zone)
    weeks = (datetime(1972, 1, 10, tzinfo=UTC) + timedelta(weeks=n) for n in range(3_500))
    offsets = {moment.astimezone(clock).utcoffset() or timedelta() for moment in weeks}
    return math.gcd(86_400, *(int(offset.total_seconds()) for offset in offsets))


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises:
        KeyError: This machine does not know it, or it is a file beside the time zones that servers
            do not know, or that counts leap seconds.
        OSError: The name is that of a folder.
        ValueError: The name is a path.
    """
    if _NO_ZONES.match(name):
        raise KeyError(name)
    return ZoneInfo(name)


def width_of(width: str | timedelta) -> Every:
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
            zone_of(zone)
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
        lookup: The dimensions by which groups are looked up.
        value_tables: The tables of what does not add up, by the width of their buckets and the
            measure.
        late: What becomes of rows that come for time that has been expired.
        target: The table that it was given to hold the aggregates, None if it has made its own.
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
    lookup: tuple[str, ...]
    value_tables: Mapping[tuple[Every | None, str], Table]
    late: Late
    target: Table | None

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
        lookup: Sequence[ColumnLike] = (),
        function: str | None = None,
        state: TableLike | None = None,
        late: Late = "add",
    ) -> None:
        """Declare a rollup beside its source, so that migrations know it.

        Args:
            name: The name of its table; with several buckets, `<name>_<bucket>` for each.
            source: The table of raw rows, or the class mapped to it; of a class that shares the
                table of its parent, its own rows count.
            measures: The aggregates, by the column that holds each.
            by: The dimensions: columns, or immutable expressions with a label. With the
                distribution column among them the rollup is sharded like its source, without it is
                a reference table.
            time: The column that says when a row happened, a timestamp with time zone; None for
                totals over all time.
            every: The width of the buckets, or several: `5 minutes`, `1 day at Europe/Berlin`; see
                `width_of`.
            where: What rows are aggregated; all by default.
            undated: Whether rows without a finite time are kept, as a group whose bucket is NULL.
            target: A table that exists in the metadata already, to hold the aggregates: its
                columns are the dimensions, `bucket`, and the measures, one of which is `count()`.
            bucket: The name of the column that holds the start of the bucket.
            ranked: A measure by which the tables are indexed, so that the groups with the greatest
                are found at once.
            lookup: The dimensions by which groups are looked up, over all time: the index of the
                tables begins with them. By default it begins with the distribution column, if
                that is a dimension, and the bucket.
            function: The name of a function without arguments that runs the rollup from SQL.
            state: A table of one timestamp that is told the minute of the last run.
            late: What becomes of rows that come, or go, for time that has been expired: `"add"`
                adds them to the aggregates, `"refuse"` leaves them out. Either way they are
                counted; all rollups of a source do the same.

        Raises:
            DeclarationError: Something of it cannot work; the message says what.
        """
        table = table_of(source)
        widths = _widths(name, time, every)
        dimensions = {}
        for expression in by:
            element = expression_of(table, expression)
            label = label_of(element)
            if not label:
                raise DeclarationError(
                    f"rollup {name!r}: give the dimension {element} a name, with .label('...')."
                )
            if label in dimensions:
                raise DeclarationError(f"rollup {name!r} has two dimensions named {label!r}.")
            if target is None:
                _require_type(name, f"dimension {label!r}", element)
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
            value = None if measure.value is None else expression_of(table, measure.value)
            if value is not None:
                require_aggregate(f"rollup {name!r}", column, measure.aggregate, value)
                kept = measure.aggregate in ("min", "max") and target is None
                if kept or (measure.aggregate == "distinct" and not measure.approximate):
                    _require_type(name, f"measure {column!r}", value)
            values[column] = (measure, value)
        names = [*dimensions, *([bucket] if widths != [None] else [])]
        for column, (measure, _) in values.items():
            names += names_read(column, measure) if measure.fractions else [column]
        hidden = [each for each in names if each.startswith("_")]
        if hidden:
            raise DeclarationError(
                f"rollup {name!r}: names of columns that start with an underscore, such as "
                f"{hidden[0]!r}, are for what it keeps for itself."
            )
        if isinstance(where, str):
            raise DeclarationError(
                f"rollup {name!r}: where must be an SQL expression, such as Reading.kind != 'x', "
                f"got the text {where!r}."
            )
        own_rows = rows_of(source)
        if own_rows is not None:
            where = own_rows if where is None else and_(own_rows, where)
        if len(set(widths)) < len(widths):
            raise DeclarationError(
                f"rollup {name!r} names a bucket twice: {', '.join(map(str, widths))}."
            )
        twice = sorted({each for each in names if names.count(each) > 1})
        if twice:
            raise DeclarationError(
                f"rollup {name!r} names {', '.join(map(repr, twice))} twice: a column is one "
                "dimension, the bucket, or one measure."
            )
        rankable = [
            c for c, (m, _) in values.items() if m.aggregate not in (*BY_VALUES, "min", "max")
        ]
        if ranked is not None and ranked not in rankable:
            raise DeclarationError(
                f"rollup {name!r} is ranked by {ranked!r}, which is not one of its measures that "
                f"add up: {', '.join(rankable)}."
            )
        if late not in ("add", "refuse"):
            raise DeclarationError(
                f"rollup {name!r}: late must be 'add' or 'refuse', got {late!r}."
            )
        if time is not None:
            require_time_zone(table, column_name(time))
        found_by = [column_name(column) for column in lookup]
        unknown = [each for each in found_by if each not in dimensions]
        if unknown:
            raise DeclarationError(
                f"rollup {name!r} looks groups up by {unknown[0]!r}, which is not one of its "
                f"dimensions: {', '.join(dimensions)}."
            )
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
            "lookup": tuple(found_by),
            "late": late,
            "value_tables": {},
            "target": None if target is None else table_of(target),
        }
        for attribute, value in attributes.items():
            object.__setattr__(self, attribute, value)
        if target is not None and len(widths) > 1:
            raise DeclarationError(f"rollup {name!r}: a target of its own holds one bucket.")
        if self.key is not None and not self._is_keyed():
            extremes = [c for c, (m, _) in values.items() if m.aggregate in ("min", "max")]
            if extremes:
                raise DeclarationError(
                    f"rollup {name!r}: measure {extremes[0]!r} needs the distribution column "
                    f"{self.key!r} among the dimensions: when a smallest or largest value goes, "
                    "the next one is looked up beside it, on its shard. Add it to by; select() "
                    "without it adds the groups up."
                )
        targets: dict[Every | None, Table] = {}
        tables: dict[tuple[Every | None, str], Table] = {}
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "value_tables", tables)
        try:
            for width in widths:
                if self.target is not None:
                    targets[width] = self._check_target(self.target)
                    continue
                suffix = "" if len(widths) == 1 else "_" + re.sub(r"\W+", "_", str(width)).lower()
                targets[width] = self._make_target(f"{name}{suffix}", width)
                for label, (measure, _) in values.items():
                    if measure.aggregate in BY_VALUES:
                        table_name = f"{name}{suffix}_{label}"
                        tables[width, label] = self._make_target(table_name, width, values_of=label)
            _declare(self)
        except BaseException:
            # What is refused leaves the metadata as it was.
            for made in self.tables:
                if made is not self.target:
                    table.metadata.remove(made)
            raise

    def remove(self) -> None:
        """Take the rollup and the tables that it has made out of its metadata.

        As `MetaData.remove` does for a table: for a rollup of somebody else's that an application
        does not want, to be called before Alembic or a question looks at the metadata. The next
        `alembic revision --autogenerate` writes the migration that drops it from the database. A
        `target` and a `state` that it was given stay declared, and are kept no longer.

        Raises:
            DeclarationError: It is not declared in its metadata: it has been removed.
        """
        metadata = self.source.metadata
        declarations, frozen = _declarations(metadata), _frozen(metadata)
        if declarations.get(self.name) is not self:
            raise DeclarationError(f"there is no rollup {self.name!r} in the metadata any more.")
        del declarations[self.name]
        left = [each.spec() for each in declarations.values() if each.source is self.source]
        del frozen[self.source.key]
        if left:
            frozen[self.source.key] = reduce(RollupSpec.merged, left)
        for table in self.tables:
            if table is not self.target:
                metadata.remove(table)

    def __repr__(self) -> str:
        """Name what it is of; its tables, with all their columns, would be pages."""
        every = [str(each) for each in self.targets if each is not None]
        given = {"every": every, "by": [*self.dimensions], "measures": [*self.measures]}
        shown = "".join(f", {name}={value!r}" for name, value in given.items() if value)
        return f"Rollup({self.name!r}, {self.source.name!r}{shown})"

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables of the rollup: the targets, and those of what does not add up."""
        return (*self.targets.values(), *self.value_tables.values())

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
        column = self.dimensions.get(self.key)
        return isinstance(column, Column) and column.name == self.key

    def _make_target(
        self, name: str, width: Every | None, *, values_of: str | None = None
    ) -> Table:
        source = self.source
        if len(name.encode()) > LONGEST_BASE:
            raise DeclarationError(
                f"rollup table {name!r} has a name of {len(name.encode())} bytes; the names "
                f"derived from it fit into PostgreSQL's 63 only up to {LONGEST_BASE}."
            )
        if (name if source.schema is None else f"{source.schema}.{name}") in source.metadata.tables:
            raise DeclarationError(f"rollup table {name!r}: there is a table of that name already.")
        columns: list[Column[Any]] = []
        for label, element in self.dimensions.items():
            columns.append(Column(label, element.type))
        if width is not None:
            columns.append(Column(self.bucket, DateTime(timezone=True)))
        if not columns:
            columns.append(Column(TOTAL, Boolean, nullable=False))
        if values_of is not None:
            columns.append(Column(VALUE, self._value_type(values_of), nullable=False))
        group = [column.name for column in columns]
        zero = text("0")
        additive: dict[str, Column[Any]] = {}
        visible: list[Column[Any]] = []
        rows = "_rows" if values_of is not None else self._rows_column()
        if rows.startswith("_"):
            additive[rows] = Column(rows, BigInteger, nullable=False, server_default=zero)
        measures = self.measures.items() if values_of is None else ()
        for label, (measure, value) in measures:
            if measure.aggregate in BY_VALUES:
                continue
            if measure.aggregate in ("min", "max"):
                visible.append(Column(label, None if value is None else value.type))
            elif value is None:
                visible.append(Column(label, BigInteger, nullable=False, server_default=zero))
            else:
                base = self.input_name(value)
                for part in PARTS[measure.aggregate]:
                    for each in kept_as(part, value):
                        column = f"_{base}_{each}"
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
                        visible_type(measure.aggregate, value),
                        Computed(visible_value(measure.aggregate, base, value), persisted=True),
                    )
                )
        key = self.key
        first = [*self.lookup, *([] if key is None else [key]), self.bucket]
        ordered = sorted(group, key=lambda c: first.index(c) if c in first else len(first))
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
        if self.ranked is not None and values_of is None:
            # In the order of `best`: by the measure, then by the group.
            rest = sorted(group, key=lambda column: column != self.bucket)
            rank = text(f"{quote(self.ranked)} DESC NULLS LAST")
            items.append(Index(f"{name}_rank", rank, *(c for c in rest if c != TOTAL)))
        for item in items:
            if isinstance(item, Column) and len(item.name.encode()) > LONGEST_NAME:
                raise DeclarationError(
                    f"rollup {self.name!r} would have a column {item.name!r} of "
                    f"{len(item.name.encode())} bytes, and PostgreSQL has at most {LONGEST_NAME}: "
                    "give what it is named after a shorter label."
                )
        # SQLAlchemy does not quote what a line end follows.
        quoted = quoted_name(name, quote=True if name.endswith("\n") else None)
        return Table(quoted, source.metadata, *items, schema=source.schema)

    def _value_type(self, label: str) -> TypeEngine[Any]:
        measure, value = self.measures[label]
        if value is None or measure.aggregate == "percentiles" or measure.approximate:
            return Integer()
        return value.type

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

    def input_name(self, value: ColumnElement[Any]) -> str:
        """Return the name of a value in hidden columns; equal values share them."""
        names: dict[str, str] = {}
        for label, (_, other) in self.measures.items():
            sql = None if other is None else sql_of(self.source, other)
            if sql is None or sql in names:
                continue
            # Of letters alone: it is in expressions in which Alembic takes a colon for a parameter.
            name = re.sub(r"\W+", "_", getattr(other, "name", None) or label)
            while name in names.values():
                name += "_"
            names[sql] = name
        return names[sql_of(self.source, value)]

    def _is_key(self, element: ColumnElement[Any]) -> bool:
        return isinstance(element, Column) and element.name == self.key

    def abbreviated(self) -> tuple[list[ColumnElement[Any]], int]:
        """Return what is abbreviated of its dimensions and distinct values, from what length on.

        That is the number of bytes that a value may have without being abbreviated.
        """

        def long(elements: Iterable[ColumnElement[Any] | None]) -> list[ColumnElement[Any]]:
            found = [element for element in elements if element is not None]
            return [element for element in found if is_long(element) and not self._is_key(element)]

        texts = long(self.dimensions.values())
        counted = long(
            value
            for measure, value in self.measures.values()
            if measure.aggregate == "distinct" and not measure.approximate
        )
        # An index has the dimensions, and one value.
        return [*texts, *counted], _LONGEST // max(len(texts) + bool(counted), 2)

    def spec(self) -> RollupSpec:
        """Return the rollup in plain names, as a migration freezes it; of this rollup alone."""
        columns: dict[str, str] = {}

        abbreviated, longest = self.abbreviated()

        def logged(element: ColumnElement[Any], template: str = "{}") -> str:
            """Return the column of the log that holds an expression."""
            if template == "{}" and self._is_key(element):
                return "key"
            sql = template.format(sql_of(self.source, element))
            base = getattr(element, "name", None) or "value"
            for known, expression in columns.items():
                if expression == sql:
                    return known
            name = str(base)
            while name in columns or name in ("n", "at", "key"):
                name += "_"
            columns[name] = sql
            return name

        def grouped(element: ColumnElement[Any]) -> str:
            """Return the column of the log for an expression that is part of an index."""
            if any(element is each for each in abbreviated):
                return logged(element, _abbreviated(element, longest))
            return logged(element)

        dimensions = {label: grouped(element) for label, element in self.dimensions.items()}
        sums: dict[str, str] = {}
        visible: dict[str, str] = {}
        extremes: dict[str, tuple[str, str]] = {}
        values: dict[str, str] = {}
        for label, (measure, value) in self.measures.items():
            if value is None:
                visible[label] = f"{quote(label)}::bigint"
                continue
            if measure.aggregate in BY_VALUES:
                if measure.aggregate == "percentiles":
                    values[label] = logged(value.label(f"{label}_bin"), _bin(value))
                elif measure.approximate:
                    values[label] = logged(value.label(f"{label}_register"), _REGISTER)
                else:
                    values[label] = grouped(value)
                continue
            column = logged(value)
            if measure.aggregate in ("min", "max"):
                extremes[label] = (measure.aggregate, column)
                continue
            base = self.input_name(value)
            for part in PARTS[measure.aggregate]:
                for each in kept_as(part, value):
                    sums[f"_{base}_{each}"] = _additive(each, f"l.{quote(column)}", value)
            kind = visible_type(measure.aggregate, value).compile(DIALECT).lower()
            visible[label] = f"({visible_value(measure.aggregate, base, value)})::{kind}"
        targets = []
        where = None
        if self.where is not None:
            where = logged(self.where.label(f"in_{self.name}"), "({}) IS TRUE")
        for width, table in self.targets.items():
            group = dict(dimensions)
            if not group and width is None:
                group = {TOTAL: "true"}
            target = TargetSpec(
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
            targets.append(target)
            for label, column in values.items():
                kind = type_name(self._value_type(label))
                targets.append(
                    replace(
                        target,
                        table=self.value_tables[width, label].name,
                        by={**group, VALUE: column},
                        rows="_rows",
                        sums={},
                        visible={},
                        extremes={},
                        of=table.name,
                        value=kind,
                        reads=names_read(label, self.measures[label][0]),
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
            late=self.late,
        )

    def table(self, every: str | timedelta | None = None) -> Table:
        """Return the table with buckets of a width: its numbers as of the last run.

        Args:
            every: The width of the buckets; None for the finest.

        Raises:
            ArgumentError: The rollup has no such buckets.
        """
        if every is None:
            return next(iter(self.targets.values()))
        wanted = width_of(every)
        if wanted not in self.targets:
            raise ArgumentError(
                f"rollup {self.name!r} has no buckets of {wanted}; it has "
                f"{', '.join(map(str, self.targets))}."
            )
        return self.targets[wanted]

    def fresh(self, every: str | timedelta | None = None) -> Table:
        """Return the fresh view as a table, to select from: equal to the raw rows at any moment.

        It has the dimensions, the bucket and the measures; see `table` for the argument.

        Raises:
            ArgumentError: The rollup has no such buckets.
        """
        table = self.table(every)
        _, target = self._merged(table)
        columns = [Column(c, table.c[c].type) for c in target.by if c != TOTAL]
        if target.bucket is not None:
            columns.append(Column(target.bucket, DateTime(timezone=True)))
        columns += (Column(name, kind) for name, kind in self._types({}).items())
        # Of a metadata of its own: Alembic is not to create it.
        return Table(f"{table.name}_fresh", MetaData(), *columns, schema=table.schema)

    def select(
        self,
        *,
        by: Sequence[ColumnLike] = (),
        measures: Sequence[str] | None = None,
        every: str | timedelta | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        freshness: Literal["fresh", "rolled_up"] = "fresh",
    ) -> Select[Any]:
        """Return the statement for the measures of a window, by some of the dimensions.

        It reads the table with the widest buckets that answers exactly. What does not add up over
        groups, such as distinct values and percentiles, is computed for the groups that are asked
        for. The statement has the columns of the bucket, the dimensions and the measures, in this
        order; it can be filtered, sorted and limited like every other.

            readings.select(by=["kind"], measures=["readings", "p95"], every="1 hour", since=monday)

        Args:
            by: The dimensions to group by; none by default.
            measures: The measures; all by default. Percentiles by any fraction are written `p99.9`
                where the measure is named `p`.
            every: The width of the buckets, a multiple of one that the rollup has; none by default:
                one group for the whole window.
            since: Look at buckets from this aware datetime on, the start of one; from the beginning
                by default.
            until: Look at buckets before this aware datetime, the start of one; all by default.
                Rows without a time are in no window that has a bound.
            freshness: `"fresh"` equals the raw rows at any moment, `"rolled_up"` equals them as of
                the last run and costs less.

        Raises:
            ArgumentError: The rollup cannot answer that; the message says why.
        """
        dimensions = [column_name(column) for column in by]
        unknown = [name for name in dimensions if name not in self.dimensions]
        if unknown:
            raise ArgumentError(
                f"rollup {self.name!r} has no dimension {unknown[0]!r}; it has "
                f"{', '.join(map(repr, self.dimensions)) or 'none'}."
            )
        if freshness not in ("fresh", "rolled_up"):
            raise ArgumentError(f"freshness must be 'fresh' or 'rolled_up', got {freshness!r}.")
        asked = self._fractions(measures or ())
        types = self._types(asked)
        wanted = list(types if measures is None else measures)
        missing = [name for name in wanted if name not in types]
        if missing or not wanted:
            raise ArgumentError(
                f"rollup {self.name!r} has no measure {missing[0] if missing else ''!r}; it has "
                f"{', '.join(map(repr, types))}."
            )
        width = None if every is None else width_of(every)
        level = self._level(width, since, until)
        spec, target = self._merged(self.targets[level])
        spec = _with_fractions(spec, target, self, asked)
        bounded = since is not None or until is not None
        query = read(
            spec,
            target,
            by=dimensions,
            width="" if width is None else None if width == level else str(width),
            measures=wanted,
            fresh=freshness == "fresh",
            window=bounded,
        )
        columns: list[Column[Any]] = []
        if width is not None:
            columns.append(Column(self.bucket, DateTime(timezone=True)))
        columns += (Column(c, self.dimensions[c].type) for c in self.dimensions if c in dimensions)
        columns += (Column(name, kind) for name, kind in types.items() if name in wanted)
        statement = text(_with_parameters(query, bounded))
        if bounded:
            # Unique: a statement may compare two windows.
            statement = statement.bindparams(
                bindparam(
                    "since", "-infinity" if since is None else since.isoformat(), unique=True
                ),
                bindparam("until", "infinity" if until is None else until.isoformat(), unique=True),
            )
        rows = statement.columns(*columns).subquery(self.name)
        order = [self.bucket] if width is not None else []
        return select(*(rows.c[name] for name in (*order, *dimensions, *wanted)))

    def best(self, limit: int, *, every: str | timedelta | None = None) -> TextualSelect:
        """Return the statement for the groups with the greatest measure of a ranked rollup, fresh.

        It reads the table by the index of its ranking, without the groups that have changes
        pending, and adds those up: its cost follows what is pending, and not what is stored. Rows
        are of the dimensions, the bucket and the measure, the greatest first.

        Args:
            limit: How many groups, at most.
            every: The width of the buckets; None for the finest.

        Raises:
            ArgumentError: The rollup is not ranked, or the limit is not a positive integer.
        """
        if self.ranked is None:
            raise ArgumentError(f"rollup {self.name!r} is not ranked: declare it with ranked=...")
        if type(limit) is not int or limit < 1:
            raise ArgumentError(f"limit must be a positive integer; found {limit!r}")
        table = self.table(every)
        spec, target = self._merged(table)
        group = [table.c[name] for name in (*target.by, target.bucket) if name is not None]
        measure = Column(self.ranked, self._types({})[self.ranked])
        query = _with_parameters(best_query(spec, target, self.ranked), False)
        statement = text(f"{query} LIMIT :limit")
        limited = statement.bindparams(bindparam("limit", limit, unique=True))
        return limited.columns(*group, measure)

    def _fractions(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the fractions that are asked for beside the declared ones, by measure and name."""
        declared = self._types({})
        found: dict[str, dict[str, str]] = {}
        for name in names:
            labels = [
                label
                for label, (measure, _) in self.measures.items()
                if measure.aggregate == "percentiles" and _fraction(label, name)
            ]
            if name in declared or not labels:
                continue
            if len(labels) > 1:
                raise ArgumentError(
                    f"{name!r} may be a percentile of {' or of '.join(map(repr, labels))}: declare "
                    "the fraction, or name the measures so that none begins like another."
                )
            found.setdefault(labels[0], {})[name] = _fraction(labels[0], name)
        return found

    def _types(self, asked: Mapping[str, Mapping[str, str]]) -> dict[str, TypeEngine[Any]]:
        """Return the measures as they are read, and their types: the order of the fresh view."""
        added: dict[str, TypeEngine[Any]] = {}
        extremes: dict[str, TypeEngine[Any]] = {}
        counted: dict[str, TypeEngine[Any]] = {}
        for label, (measure, value) in self.measures.items():
            if value is None:
                added[label] = BigInteger()
            elif measure.aggregate in ("min", "max"):
                extremes[label] = value.type
            elif measure.aggregate == "distinct":
                counted[label] = BigInteger()
            elif measure.aggregate == "percentiles":
                names = [*names_read(label, measure), *asked.get(label, ())]
                counted |= dict.fromkeys(names, Double())
            else:
                added[label] = visible_type(measure.aggregate, value)
        return {**added, **extremes, **counted}

    def _merged(self, table: Table) -> tuple[RollupSpec, TargetSpec]:
        """Return all rollups of the source, and what they know of a table."""
        spec = _frozen(self.source.metadata)[self.source.key]
        return spec, next(target for target in spec.targets if target.table == table.name)

    def _level(
        self, width: Every | None, since: datetime | None, until: datetime | None
    ) -> Every | None:
        """Return the widest buckets of the rollup that answer for a width and a window."""
        for name, moment in (("since", since), ("until", until)):
            if moment is not None and moment.utcoffset() is None:
                raise ArgumentError(f"{name} must be an aware datetime, got {moment!r}.")
            if moment is not None and moment.year in (MINYEAR, MAXYEAR):
                # Beyond lies what Python cannot compute with.
                raise ArgumentError(
                    f"{name} must be in a year from {MINYEAR + 1} to {MAXYEAR - 1}, got "
                    f"{moment.isoformat()}; None is for no bound."
                )
            if moment is not None and width is not None and width.start_of(moment) != moment:
                raise ArgumentError(
                    f"{name} must be the start of a bucket of {width}, got {moment.isoformat()}."
                )
        bounds = [moment for moment in (since, until) if moment is not None]
        fitting = [
            level
            for level in self.targets
            if (width is None or (level is not None and width.is_made_of(level)))
            and all(level is not None and level.start_of(moment) == moment for moment in bounds)
        ]
        if not fitting:
            asked = "" if width is None else f" by {width}"
            edges = " and ".join(moment.isoformat() for moment in bounds)
            window = f" for a window with the edge {edges}" if edges else ""
            raise ArgumentError(
                f"rollup {self.name!r} cannot answer{asked}{window}: it has buckets of "
                f"{', '.join(map(str, self.targets))}, "
                "what is asked for must consist of whole ones."
            )
        return max(fitting, key=lambda level: 0 if level is None else level.length)


def _with_parameters(query: str, bounded: bool) -> str:
    """Return a query for `text()`, in which a colon would start a parameter."""
    query = query.replace(":", "\\:")
    for name in ("limit", *(("since", "until") if bounded else ())):
        query = query.replace(f"\\:{name}\0", f":{name}")
    return query


def _fraction(label: str, name: str) -> str:
    """Return the fraction of which the percentile is asked for as `p99.9`, empty if it is none."""
    percent = name.removeprefix(label).replace("_", ".")
    if not name.startswith(label) or not re.fullmatch(r"\d+(\.\d+)?", percent):
        return ""
    return str(Decimal(percent) / 100) if Decimal(percent) <= 100 else ""


def _with_fractions(
    spec: RollupSpec,
    target: TargetSpec,
    rollup: Rollup,
    asked: Mapping[str, Mapping[str, str]],
) -> RollupSpec:
    """Return the specification, in which percentiles are read that nobody has declared."""
    targets = list(spec.targets)
    for number, each in enumerate(targets):
        for (_, label), table in rollup.value_tables.items():
            if (each.of, each.table) == (target.table, table.name) and label in asked:
                targets[number] = replace(each, reads={**each.reads, **asked[label]})
    return replace(spec, targets=tuple(targets))


def rollups_of(metadata: MetaData) -> tuple[Rollup, ...]:
    """Return the rollups that were declared on the tables of `metadata`."""
    return tuple(_declarations(metadata).values())


def specs_of(metadata: MetaData) -> tuple[RollupSpec, ...]:
    """Return the rollups of `metadata` in plain names: one specification for each source.

    Raises:
        DeclarationError: A name that is derived for a rollup is that of something else.
    """
    specs = tuple(_frozen(metadata).values())
    _require_names(metadata, specs)
    return specs


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


def _frozen(metadata: MetaData) -> dict[str, RollupSpec]:
    """Return all rollups of each source in plain names, by the source's key."""
    return cast("dict[str, RollupSpec]", metadata.info.setdefault(f"{_INFO_KEY}.frozen", {}))


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
        if other.source is rollup.source and other.late != rollup.late:
            raise DeclarationError(
                f"rollups {other.name!r} and {rollup.name!r} of one source do different things "
                "with late rows."
            )
        times = {other.time, rollup.time} - {None}
        if other.source is rollup.source and len(times) > 1:
            raise DeclarationError(
                f"rollups {other.name!r} and {rollup.name!r} have different times of one source."
            )
    key, spec = rollup.source.key, rollup.spec()
    frozen = _frozen(rollup.source.metadata)
    merged = frozen[key].merged(spec) if key in frozen else spec
    _require_names(rollup.source.metadata, tuple({**frozen, key: merged}.values()))
    declarations[rollup.name] = rollup
    frozen[key] = merged


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
    return [width_of(width) for width in given]


def expression_of(table: Table, value: ExpressionLike) -> ColumnElement[Any]:
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


def label_of(element: ColumnElement[Any]) -> str | None:
    """Return the name of a column or a label, None of what nobody has named."""
    # A function has the name of what it does, which several calls share.
    name = None if isinstance(element, FunctionElement) else getattr(element, "name", None)
    # SQLAlchemy's own, of label(None), until a statement is compiled.
    return None if name is None or re.match(r"%\(\d+ ", name) else name


def sql_of(table: Table, element: ColumnElement[Any]) -> str:
    """Return an expression as SQL over a row `r` of the source."""
    if hasattr(element, "element") and hasattr(element, "name") and not isinstance(element, Column):
        element = element.element  # A label names it, and is no part of it.
    adapted = ClauseAdapter(table.alias("r")).traverse(element)
    sql = str(adapted.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))
    return _QUOTED.sub(_with_backslashes, sql)


# A name, or a string and what makes it one with escapes.
_QUOTED: Final = re.compile(r"\"(?:[^\"]|\"\")*\"|(\bE)?'((?:[^']|'')*)'", re.IGNORECASE)


def _with_backslashes(found: re.Match[str]) -> str:
    """Return a string whose backslashes mean the same with every `standard_conforming_strings`."""
    if found[1] or "\\" not in (found[2] or ""):
        return found[0]
    escaped = found[2].replace("\\", "\\\\")
    return f"E'{escaped}'"


# Values that may be too long for an index: longer ones are abbreviated.
_LONGEST: Final = 2400


def _require_type(name: str, what: str, element: ColumnElement[Any]) -> None:
    if isinstance(kind_of(element), NullType):
        bare = cast("Any", element).element if isinstance(element, Label) else element
        raise DeclarationError(
            f"rollup {name!r}: {what} needs a type for its column, and that of {bare} is not "
            "known: give it one, as in func.upper(Reading.kind, type_=Text), or cast it."
        )


def kind_of(element: ColumnElement[Any]) -> TypeEngine[Any]:
    """Return the type of a value; of an application's own type and of a domain that beneath it."""
    kind = element.type
    while isinstance(kind, TypeDecorator | DOMAIN):
        kind = (
            kind.load_dialect_impl(DIALECT) if isinstance(kind, TypeDecorator) else kind.data_type
        )
    return kind


def is_long(element: ColumnElement[Any]) -> bool:
    """Whether values may be too long for an index, and are abbreviated in the log."""
    kind = kind_of(element)
    if isinstance(kind, JSONB | LargeBinary):
        return True
    if not isinstance(kind, String) or isinstance(kind, Enum):
        return False
    return kind.length is None or kind.length > 60


def type_name(kind: TypeEngine[Any]) -> str:
    """Return the name of a type, without the collation that `compile` adds."""
    name = re.sub(" COLLATE .*", "", kind.compile(DIALECT))
    return name if '"' in name else name.lower()


# Zeros at the end of a number in the text of a JSON value, by which equal ones may differ: strings
# are passed over, in which there may be such, too.
_CANONICAL: Final = (
    'regexp_replace({0}, E\'("(?:[^"\\\\\\\\]|\\\\\\\\.)*")|([.][0-9]*[1-9])0+(?![0-9])'
    "|[.]0+(?![0-9])', E'\\\\1\\\\2', 'g')"
)


def _abbreviated(element: ColumnElement[Any], longest: int) -> str:
    """Return the template for a value that is part of an index, and has at most so many bytes.

    A value that would not fit is its beginning and its digest: it remains a group of its own.
    """
    kind = kind_of(element)
    value = "{0}" if isinstance(element, Column) else "({0})"
    if isinstance(kind, LargeBinary):
        short = f"substring({value}, 1, {longest - 20}) || decode(md5({value}), 'hex')"
        return f"CASE WHEN octet_length({value}) > {longest} THEN {short} ELSE {{0}} END"
    name = type_name(element.type)
    if name != "text":
        value = f"({value})::text"
    characters = (longest - 40) // 4
    if isinstance(kind, String) and kind.length is not None:
        # A cast would cut the digest off.
        characters = min(characters, kind.length - 35)
    short = f"left({value}, {characters}) || '...' || md5({value})"
    if isinstance(kind, JSONB):
        # A string; to_jsonb() is not immutable. Equal values are one group, however they are
        # written.
        same = _CANONICAL.format(value)
        digest = f"'\"' || md5({same}) || '\"'"
        short = f"CASE WHEN octet_length({same}) > {longest} THEN {digest} ELSE {same} END"
    if name != "text":
        short = f"({short})::{name}"
    return f"CASE WHEN octet_length({value}) > {longest} THEN {short} ELSE {{0}} END"


# The register of a value, and the rank: the number of zeros that its hash starts with, and one.
_HASH: Final = "hash_record_extended(ROW({0}), 0)"
_REGISTER: Final = (
    f"CASE WHEN {{0}} IS NOT NULL THEN (({_HASH} & {REGISTERS - 1}) * 64 + "
    f"53 - length(ltrim((({_HASH}) >> 11)::bit(52)::text, '0')))::integer END"
)


def _bin(value: ColumnElement[Any]) -> str:
    """Return the template for the bin of a number."""
    kind = kind_of(value)
    size, special = "least(greatest(abs(({0})::numeric), 1e-300), 1e300)::float8", ""
    if isinstance(kind, Integer | Float):
        size = "least(greatest(abs(({0})::float8), float8 '1e-300'), float8 '1e300')"
    if not isinstance(kind, Integer):
        special = (
            f"WHEN {{0}} = 'NaN' THEN {INFINITE + 1} WHEN {{0}} = 'Infinity' THEN {INFINITE} "
            f"WHEN {{0}} = '-Infinity' THEN -{INFINITE} "
        )
    if not isinstance(kind, _KNOWN):
        special = special.replace("{0}", "({0})::numeric")
    return (
        f"CASE WHEN {{0}} = 0 THEN 0 {special}ELSE sign(({{0}})::numeric)::integer * "
        f"({SHIFT} + ceil(ln({size}) / {math.log(BASE)!r})::integer) END"
    )


# Numbers of which it is known whether they may be NaN; the type of others is known to the server.
_KNOWN: Final = (Integer, Float, Numeric)
_NO_ORDER: Final = (Boolean, JSON, Uuid)
_NO_SUM: Final = (*_NO_ORDER, Date, DateTime, Interval, LargeBinary, String, Time)


def require_aggregate(
    what: str, measure: str, aggregate: Aggregate, value: ColumnElement[Any]
) -> None:
    """Refuse a measure of values that PostgreSQL has no such aggregate of."""
    # Types that are not listed, an application's own among them, are left to the server.
    unfit = {"count": (), "min": _NO_ORDER, "max": _NO_ORDER, "distinct": (JSON,)}.get(
        aggregate, _NO_SUM
    )
    kind = kind_of(value)
    if isinstance(kind, unfit) and not (aggregate == "distinct" and isinstance(kind, JSONB)):
        raise DeclarationError(
            f"{what}: PostgreSQL has no {aggregate} of {value.type!r}, which measure "
            f"{measure!r} asks for."
        )


def require_time_zone(table: Table, name: str) -> None:
    """Refuse a column that does not say at what moment something happened."""
    columns = [column for column in table.columns if column.name == name]
    if not columns:
        raise DeclarationError(
            f"table {table.key!r} has no column {name!r}; its columns are "
            f"{', '.join(column.name for column in table.columns)}."
        )
    kind = kind_of(columns[0])
    # Other types, an application's own among them, are left to the server.
    if (isinstance(kind, DateTime) and not kind.timezone) or isinstance(kind, Date | Time):
        raise DeclarationError(
            f"column {name!r} of {table.key!r} must be a timestamp with time zone, "
            f"DateTime(timezone=True), got {kind!r}: without a zone a bucket would depend on the "
            "session."
        )


# What a measure is computed from: hidden columns, each of which adds and subtracts exactly.

PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "count": ("count",),
    "sum": ("count", "sum"),
    "avg": ("count", "sum"),
    "var_samp": ("count", "sum", "squares"),
    "stddev_samp": ("count", "sum", "squares"),
}


def _has_special(value: ColumnElement[Any]) -> bool:
    """Whether values may be NaN or infinite, which cannot be subtracted again."""
    return not isinstance(kind_of(value), Integer)


def kept_as(part: str, value: ColumnElement[Any]) -> tuple[str, ...]:
    """Return what a part is kept as: special values are counted beside the sum of the others."""
    return ("sum", "nan", "inf", "ninf") if part == "sum" and _has_special(value) else (part,)


def _hidden_type(part: str, value: ColumnElement[Any]) -> Any:
    if part == "count":
        return BigInteger()
    kind = kind_of(value)
    small = isinstance(kind, Integer) and not isinstance(kind, BigInteger)
    return BigInteger() if part == "sum" and small else Numeric()


def _additive(part: str, column: str, value: ColumnElement[Any]) -> str:
    """Return what one row of the log, of weight 1, adds to a hidden column."""
    if part == "count":
        return f"CASE WHEN {column} IS NULL THEN 0 ELSE 1 END"
    if not isinstance(kind_of(value), _KNOWN):
        column = f"({column})::numeric"
    if _has_special(value):
        finite = f"CASE WHEN {column} - {column} = 0 THEN {column}::numeric ELSE 0 END"
    else:
        # A row of the log may stand for many: its weight times its value may need a wider type.
        wide = _hidden_type("sum", value).compile(DIALECT).lower()
        finite = f"coalesce({column}, 0)::{wide}"
    return {
        "sum": finite,
        "squares": f"({finite})::numeric * ({finite})",
        "nan": f"CASE WHEN {column} = 'NaN' THEN 1 ELSE 0 END",
        "inf": f"CASE WHEN {column} = 'Infinity' THEN 1 ELSE 0 END",
        "ninf": f"CASE WHEN {column} = '-Infinity' THEN 1 ELSE 0 END",
    }[part]


def visible_type(aggregate: str, value: ColumnElement[Any]) -> Any:
    """Return the type of a measure that is computed from hidden columns."""
    if aggregate == "count":
        return BigInteger()
    if aggregate == "sum":
        return _hidden_type("sum", value)
    return Numeric()


def visible_value(aggregate: str, base: str, value: ColumnElement[Any]) -> str:
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
