"""Each measure is PostgreSQL's own aggregate of the raw rows, whatever has happened to them."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Double,
    Integer,
    MetaData,
    NullPool,
    Numeric,
    Table,
    Text,
    create_engine,
    insert,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from citus_analytics import (
    Distributed,
    Rollup,
    average,
    count,
    distinct,
    maximum,
    minimum,
    percentiles,
    run_rollup,
    stddev,
    total,
    variance,
)
from citus_analytics.rollups.run import verify
from tests.autogenerate import repair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

    from citus_analytics.rollups.declare import Measure
    from tests.servers import DatabaseServer

Row: TypeAlias = dict[str, Any]

METADATA = MetaData()
READINGS = Table(
    "readings",
    METADATA,
    Column("id", BigInteger),
    Column("sensor", BigInteger),
    Column("kind", Text),
    Column("payload", JSONB(none_as_null=True)),
    Column("at", DateTime(timezone=True)),
    Column("small", Integer),
    Column("big", BigInteger),
    Column("float", Double),
    Column("exact", Numeric),
    Distributed("sensor"),
)
NUMBERS = ("small", "big", "float", "exact")
AGGREGATES = {
    "count": count,
    "sum": total,
    "avg": average,
    "var_samp": variance,
    "stddev_samp": stddev,
    "min": minimum,
    "max": maximum,
}


FRACTIONS = {"0": 0, "30": 0.3, "50": 0.5, "99_9": 0.999, "100": 1}
# What is kept by its values, of every number and some more.
VALUES: dict[str, Measure] = {f"{column} distinct": distinct(column) for column in NUMBERS}
VALUES |= {f"{column} p": percentiles(column, [*FRACTIONS.values()]) for column in NUMBERS}
VALUES |= {"kind distinct": distinct("kind"), "at distinct": distinct("at")}
VALUES |= {"payload distinct": distinct("payload")}
VALUES |= {"about kind": distinct("kind", approximate=True)}
VALUES |= {"about float": distinct("float", approximate=True)}
READ_AS = tuple(
    name
    for label, measure in VALUES.items()
    for name in ([f"{label}{each}" for each in FRACTIONS] if measure.fractions else [label])
)


def measures(*aggregates: str) -> dict[str, Measure]:
    """Return the measures of every number, and some more; of all aggregates unless told."""
    found = {"readings": count(), "last_kind": maximum(READINGS.c.kind)}
    found |= {"first_at": minimum(READINGS.c.at)}
    found |= {
        f"{column} {name}": measure(READINGS.c[column])
        for column in NUMBERS
        for name, measure in AGGREGATES.items()
    }
    return {
        name: each for name, each in found.items() if each.aggregate in (aggregates or AGGREGATES)
    }


def expression(measure: str) -> str:
    """Return the measure as SQL over the raw rows."""
    known = {"readings": "count(*)", "last_kind": "max(kind)", "first_at": "min(at)"}
    if measure in known:
        return known[measure]
    column, aggregate = measure.split(" ")
    if column == "about":
        return f'count(DISTINCT "{aggregate}")'
    if aggregate == "distinct":
        return f'count(DISTINCT "{column}")'
    if aggregate.startswith("p"):
        # As PostgreSQL sorts them; which one of them it takes is for Python to say.
        return f'array_agg("{column}" ORDER BY "{column}") FILTER (WHERE "{column}" IS NOT NULL)'
    cast = "::numeric" if column == "float" and aggregate not in ("count", "min", "max") else ""
    return f'{aggregate}("{column}"{cast})'


# The measures of each rollup, and what the tables are grouped by.
HOUR = "date_bin('1 hour', at, '1970-01-01 00:00Z')"
DAY = "date_trunc('day', at, 'Europe/Berlin')"
MONTH = "date_trunc('month', at, 'UTC')"
DATED = "at IS NOT NULL"


@dataclass(frozen=True)
class Expected:
    """What a table of a rollup has to have: the groups of raw rows that a condition selects."""

    by: dict[str, str]
    measures: tuple[str, ...]
    where: str = "true"
    # What is kept in tables of its own: the views have it.
    values: tuple[str, ...] = ()

    def query(self, measures: tuple[str, ...]) -> str:
        """Return the query over the raw rows."""
        columns = [*self.by.values(), *map(expression, measures)]
        groups = f"GROUP BY {', '.join(self.by.values())}" if self.by else "HAVING count(*) > 0"
        return f"SELECT {', '.join(columns)} FROM readings WHERE {self.where} {groups}"


ALL = tuple(measures())
BY_SENSOR = Rollup(
    "sensor",
    READINGS,
    time="at",
    every=["1 hour", "1 day at Europe/Berlin"],
    by=["sensor"],
    measures={**measures(), **VALUES},
)
BY_COUNTRY = Rollup(
    "by_country",
    READINGS,
    time="at",
    every="1 hour",
    by=[READINGS.c.payload["country"].astext.label("country"), "sensor"],
    where=READINGS.c.small > 0,
    measures={"readings": count(), "float sum": total(READINGS.c.float)},
    undated=True,
)
EVER = Rollup("ever", READINGS, by=["sensor", "kind"], measures={"float avg": average("float")})
# Without the distribution column: reference tables on Citus.
BY_KIND = Rollup(
    "by_kind",
    READINGS,
    time="at",
    every="1 month",
    by=["kind"],
    measures={**measures("count", "sum", "avg", "var_samp", "stddev_samp"), **VALUES},
    undated=True,
)
TOTALS = Rollup(
    "totals", READINGS, measures={"readings": count(), "big sum": total(READINGS.c.big)}
)

TABLES = {
    "sensor_1_hour": Expected({"sensor": "sensor", "bucket": HOUR}, ALL, DATED, READ_AS),
    "sensor_1_day_at_europe_berlin": Expected(
        {"sensor": "sensor", "bucket": DAY}, ALL, DATED, READ_AS
    ),
    "by_country": Expected(
        {"country": "payload->>'country'", "sensor": "sensor", "bucket": HOUR},
        ("readings", "float sum"),
        "small > 0",
    ),
    "ever": Expected({"sensor": "sensor", "kind": "kind"}, ("float avg",)),
    "by_kind": Expected(
        {"kind": "kind", "bucket": MONTH},
        tuple(measures("count", "sum", "avg", "var_samp", "stddev_samp")),
        values=READ_AS,
    ),
    "totals": Expected({}, ("readings", "big sum")),
}


def rows(
    connection: Connection, table: str, expected: Expected, measures: tuple[str, ...]
) -> list[tuple[Any, ...]]:
    columns = ", ".join(f'"{column}"' for column in (*expected.by, *measures))
    return [tuple(row) for row in connection.exec_driver_sql(f"SELECT {columns} FROM {table}")]


def same(measure: str, found: Any, wanted: Any) -> bool:
    """Whether two values are equal, but for the last digits of a quotient or a root.

    Of a percentile, all values of the group are wanted.
    """
    if " p" in measure:
        return near(FRACTIONS[measure.split(" p")[1]], found, wanted)
    if isinstance(found, float) and isinstance(wanted, float):
        return bool(found == wanted) or (math.isnan(found) and math.isnan(wanted))
    if not isinstance(found, Decimal) or not isinstance(wanted, Decimal | int):
        return bool(found == wanted)
    wanted = Decimal(wanted)
    if found.is_nan() or wanted.is_nan():
        return bool(found.is_nan() and wanted.is_nan())
    if found == wanted:
        return True
    quotient = measure.endswith(("avg", "var_samp", "stddev_samp"))
    if not quotient or not (found.is_finite() and wanted.is_finite()):
        return False
    # PostgreSQL's own may have fewer digits: it starts from sums of another scale.
    last_digit = max(int(each.as_tuple().exponent) for each in (found, wanted))
    tolerance = max(abs(wanted) * Decimal("1e-14"), Decimal(1).scaleb(last_digit))
    return bool(abs(found - wanted) <= tolerance)


def near(fraction: float, found: float | None, values: list[Any] | None) -> bool:
    """Whether a percentile of sorted values is within 1 %."""
    if not values or found is None:
        return found is None and not values
    place = math.ceil(Fraction(str(fraction)) * len(values))
    value = float(values[max(place, 1) - 1])
    if not math.isfinite(value) or value == 0:
        return same("", found, value)
    size = min(max(abs(value), 1e-300), 1e300)
    return abs(found - math.copysign(size, value)) <= 0.010001 * size


def assert_equal(
    connection: Connection, table: str, expected: Expected, measures: tuple[str, ...]
) -> None:
    query = expected.query(measures).replace("%", "%%")
    wanted = [tuple(row) for row in connection.exec_driver_sql(query)]
    found = rows(connection, table, expected, measures)
    width = len(expected.by)

    def key(row: tuple[Any, ...]) -> str:
        return repr(row[:width])

    assert sorted(map(key, found)) == sorted(map(key, wanted)), table
    for left, right in zip(sorted(found, key=key), sorted(wanted, key=key), strict=True):
        for name, one, other in zip(measures, left[width:], right[width:], strict=True):
            assert same(name, one, other), (
                f"{table} {left[:width]}: {name} is {one}, and not {other}"
            )


def assert_fresh(connection: Connection) -> None:
    for table, expected in TABLES.items():
        shown = (*expected.measures, *expected.values)
        assert_equal(connection, f"{table}_fresh", expected, shown)


def assert_rolled_up(connection: Connection) -> None:
    run_rollup(connection, EVER)
    for table, expected in TABLES.items():
        assert_equal(connection, table, expected, expected.measures)
    assert_fresh(connection)
    for rollup in (BY_SENSOR, BY_COUNTRY, EVER, BY_KIND, TOTALS):
        assert [each for each in verify(connection, rollup) if each.groups] == []


# What happens to the rows.


@dataclass(frozen=True)
class Insert:
    """Insert rows."""

    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Update:
    """Give the rows with these numbers, counted round, the values of a row."""

    numbers: tuple[int, ...]
    values: Row


@dataclass(frozen=True)
class Delete:
    """Delete the rows with these numbers."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """Run the rollups."""


Step: TypeAlias = Insert | Update | Delete | Run

TROUBLE = (
    0.1,
    0.2,
    0.0,
    -0.0,
    1.7976931348623157e308,
    1e300,
    -1e300,
    5e-324,
    float("nan"),
    float("inf"),
    float("-inf"),
)
SPRING = datetime(2026, 3, 28, 22, 59, tzinfo=UTC)
ROWS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([None, "", "a", "b"]),
        "payload": st.sampled_from([None, {}, {"country": None}, {"country": "nl"}]),
        "at": st.none()
        | st.sampled_from([datetime(1900, 1, 1, tzinfo=UTC), datetime(2400, 2, 29, tzinfo=UTC)])
        | st.integers(0, 6).map(lambda hours: SPRING + hours * timedelta(minutes=40)),
        "small": st.none() | st.integers(-3, 3) | st.sampled_from([2**31 - 1, -(2**31)]),
        "big": st.none() | st.integers(-3, 3) | st.sampled_from([2**63 - 1, -(2**63)]),
        "float": st.none() | st.sampled_from(TROUBLE) | st.floats(),
        "exact": st.none()
        | st.decimals(-(10**20), 10**20, places=12)
        | st.sampled_from([*map(Decimal, ("NaN", "Infinity", "-Infinity", "1E+100", "1E-100"))]),
    }
)
SENSORS = st.integers(1, 3)
NEW_ROWS = st.builds(lambda sensor, row: {"sensor": sensor, **row}, SENSORS, ROWS)
NUMBERS_OF_ROWS = st.lists(st.integers(0, 99), min_size=1, max_size=6).map(tuple)
STEPS = st.lists(
    st.one_of(
        st.builds(Insert, st.lists(NEW_ROWS, min_size=1, max_size=6).map(tuple)),
        st.builds(Update, NUMBERS_OF_ROWS, ROWS),
        st.builds(Delete, NUMBERS_OF_ROWS),
        st.just(Run()),
    ),
    min_size=1,
    max_size=8,
)


def row(**values: Any) -> Row:
    empty: Row = dict.fromkeys(column.name for column in READINGS.columns if column.name != "id")
    return {**empty, "sensor": 1, "at": SPRING, **values}


NAN = Insert((row(float=float("nan"), exact=Decimal("NaN")), row(float=1.5, exact=Decimal(2))))


@pytest.fixture
def readings(empty_database: URL) -> Iterator[Connection]:
    repair(empty_database, METADATA)
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        yield connection


def play(connection: Connection, steps: list[Step]) -> None:
    ids = itertools.count()
    live: list[int] = []
    for step in steps:
        match step:
            case Insert(new):
                numbered = [{"id": next(ids), **row} for row in new]
                live += [row["id"] for row in numbered]
                connection.execute(insert(READINGS), numbered)
            case Update(numbers, values) if live:
                chosen = {live[number % len(live)] for number in numbers}
                connection.execute(update(READINGS).where(READINGS.c.id.in_(chosen)).values(values))
            case Delete(numbers) if live:
                gone = {live[number % len(live)] for number in numbers}
                live = [number for number in live if number not in gone]
                connection.execute(READINGS.delete().where(READINGS.c.id.in_(gone)))
            case Run():
                run_rollup(connection, EVER)
        connection.commit()
        assert_fresh(connection)
        connection.commit()


def test_every_measure_at_any_moment(server: DatabaseServer, readings: Connection) -> None:
    # Each look at what is fresh takes a while on a cluster.
    @settings(
        max_examples=20 if server.kind == "postgresql" else 3,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(STEPS)
    @example([NAN, Run(), Delete((0,)), Run(), Delete((0,))])
    @example(
        [
            Insert((row(float=float("inf"), kind="a"), row(float=float("-inf"), kind="b"))),
            Run(),
            Delete((1,)),
            Run(),
            Update((0,), {"float": 3.0, "kind": None}),
        ]
    )
    @example([Insert((row(small=1, big=1), row(small=1, big=1))), Run(), Delete((0,)), Run()])
    def adds_up(steps: list[Step]) -> None:
        readings.rollback()
        readings.execute(text("TRUNCATE readings"))
        readings.commit()
        play(readings, steps)
        assert_rolled_up(readings)
        readings.execute(READINGS.delete())
        run_rollup(readings, EVER)
        for table, expected in TABLES.items():
            assert rows(readings, table, expected, expected.measures) == []
        for rollup in (BY_SENSOR, BY_KIND):
            for values in rollup.tables:
                assert readings.exec_driver_sql(f'SELECT * FROM "{values.name}"').all() == []
        left = readings.execute(text("SELECT count(*) FROM readings_log")).scalar_one()
        assert left == 0
        readings.commit()

    adds_up()


# Smallest and largest values whose next ones only the source knows.


def extremes(*dimensions: str) -> MetaData:
    metadata = MetaData()
    visits = Table(
        "visits",
        metadata,
        Column("site", BigInteger),
        Column("page", Text),
        Column("seconds", Integer),
        Column("at", DateTime(timezone=True)),
        Distributed("site"),
    )
    Rollup(
        "longest",
        visits,
        time="at",
        every="1 day",
        by=dimensions,
        measures={"first_page": minimum("page"), "seconds": maximum("seconds")},
    )
    return metadata


VISITS = """
INSERT INTO visits
SELECT i % 3, 'page ' || i % 5, i, timestamptz '2026-03-01' + i * interval '1 hour'
FROM generate_series(1, 60) AS i"""
CHANGES = (
    VISITS,
    "DELETE FROM visits WHERE seconds % 24 IN (22, 23)",
    "UPDATE visits SET seconds = NULL WHERE seconds % 2 = 0",
    "UPDATE visits SET page = 'page 9' WHERE page < 'page 2'",
    "DELETE FROM visits WHERE seconds > 30",
    "DELETE FROM visits WHERE site = 1",
)


def check_extremes(url: URL, *dimensions: str) -> None:
    repair(url, extremes(*dimensions))
    group = ", ".join([*dimensions, "bucket"])
    found = f"SELECT {group}, first_page, seconds FROM longest"
    wanted = (
        f"SELECT {', '.join([*dimensions, DAY_OF_VISIT])}, min(page), max(seconds) FROM visits "
        f"GROUP BY {', '.join([*dimensions, DAY_OF_VISIT])}"
    )
    with create_engine(url, poolclass=NullPool).connect() as connection:
        for change, late in itertools.product(CHANGES, (False, True)):
            if not late:
                connection.exec_driver_sql(change.replace("%", "%%"))
                connection.commit()
            raw = connection.exec_driver_sql(wanted).all()
            if late:
                connection.exec_driver_sql("SELECT visits_run()")
                connection.commit()
                assert sorted(connection.exec_driver_sql(found).all(), key=repr) == sorted(
                    raw, key=repr
                ), change
            fresh = connection.exec_driver_sql(f"{found}_fresh").all()
            assert sorted(fresh, key=repr) == sorted(raw, key=repr), change


DAY_OF_VISIT = "date_trunc('day', at, 'UTC')"


def test_extremes_that_go(empty_database: URL) -> None:
    check_extremes(empty_database, "site")


def test_extremes_of_a_dimension(empty_database: URL) -> None:
    check_extremes(empty_database, "site", "page")


# Buckets, in Python.

HALF_HOURS = [SPRING + 30 * number * timedelta(minutes=1) for number in range(-60, 60)]
MOMENTS = [
    *HALF_HOURS,
    # The clock goes back on Lord Howe Island by half an hour, and in Berlin by an hour.
    *(datetime(2026, 4, 4, 12, tzinfo=UTC) + number * timedelta(minutes=15) for number in range(9)),
    *(
        datetime(2026, 10, 24, 20, tzinfo=UTC) + number * timedelta(minutes=15)
        for number in range(40)
    ),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2024, 2, 29, 12, tzinfo=UTC),
    datetime(2024, 12, 30, tzinfo=UTC),
    datetime(2027, 1, 3, 23, 30, tzinfo=UTC),
]


def start_of_bucket(width: str, moment: datetime) -> datetime:
    """Return the start of the bucket of a moment, by the calendar of Python."""
    number, unit, zone = re.fullmatch(r"(\d+) (\w+?)s?(?: at (\S+))?", width).groups()  # type: ignore[union-attr]
    seconds = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
    if unit in seconds and zone is None:
        step = timedelta(seconds=int(number) * seconds[unit])
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        return epoch + (moment - epoch) // step * step
    clock = ZoneInfo(zone or "UTC")
    if unit == "hour":
        # Of the hour that the clocks show, so much has passed.
        shown = moment.astimezone(clock)
        return moment.astimezone(UTC) - (shown - shown.replace(minute=0, second=0, microsecond=0))
    start = moment.astimezone(clock).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if unit == "week":
        start -= timedelta(days=start.weekday())
    if unit in ("month", "quarter", "year"):
        start = start.replace(day=1)
    if unit == "quarter":
        start = start.replace(month=(start.month - 1) // 3 * 3 + 1)
    if unit == "year":
        start = start.replace(month=1)
    return start.astimezone(UTC)


WIDTHS = [
    "1 second",
    "7 seconds",
    "5 minutes",
    "90 minutes",
    "3 hours",
    "1 day",
    "10 days",
    "1 hour at Europe/Berlin",
    "1 day at Europe/Berlin",
    "1 day at America/Sao_Paulo",
    "1 day at Australia/Lord_Howe",
    "1 day at Asia/Kathmandu",
    "1 week",
    "1 week at America/New_York",
    "1 month",
    "1 month at Europe/Berlin",
    "1 quarter at Europe/Berlin",
    "1 year at Pacific/Auckland",
]


def test_buckets_of_every_width(empty_database: URL) -> None:
    metadata = MetaData()
    source = Table("s", metadata, Column("k", BigInteger), Column("at", DateTime(timezone=True)))
    rollup = Rollup("r", source, time="at", every=WIDTHS, measures={"n": count()})
    repair(empty_database, metadata)
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        # What a bucket is does not depend on the session.
        connection.execute(text("SET TIME ZONE 'Asia/Kolkata'"))
        connection.execute(insert(source), [{"k": 1, "at": moment} for moment in MOMENTS])
        run_rollup(connection, rollup)
        connection.execute(text("SET TIME ZONE 'America/Adak'"))
        for width, table in zip(WIDTHS, rollup.targets.values(), strict=True):
            wanted = Counter(start_of_bucket(width, moment) for moment in MOMENTS)
            for name in (table.name, f"{table.name}_fresh"):
                found = connection.execute(text(f'SELECT bucket, n FROM "{name}"')).all()
                assert {at.astimezone(UTC): n for at, n in found} == wanted, width
        assert [each for each in verify(connection, rollup) if each.groups] == []


@pytest.mark.parametrize("undated", [False, True])
def test_rows_without_a_finite_time(empty_database: URL, undated: bool) -> None:
    metadata = MetaData()
    source = Table(
        "s",
        metadata,
        Column("k", BigInteger),
        Column("at", DateTime(timezone=True)),
        Distributed("k"),
    )
    by_key = Rollup(
        "by_key",
        source,
        time="at",
        every="1 day",
        by=["k"],
        measures={"n": count()},
        undated=undated,
    )
    Rollup("by_day", source, time="at", every="1 day", measures={"n": count()}, undated=undated)
    repair(empty_database, metadata)
    times = (
        "NULL",
        "'infinity'",
        "'-infinity'",
        "'294276-12-31 23:59:59Z'",
        "'4714-11-24 00:00Z BC'",
    )
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        for change in (
            "INSERT INTO s SELECT k, at FROM generate_series(1, 3) AS k, "
            f"unnest(ARRAY[{', '.join(times)}, '2026-03-01 12:00Z']::timestamptz[]) AS at",
            "UPDATE s SET at = '2026-03-01 13:00Z' WHERE k = 1 AND at = 'infinity'",
            "UPDATE s SET at = NULL WHERE k = 2",
            "DELETE FROM s WHERE at IS NULL OR NOT isfinite(at)",
        ):
            connection.exec_driver_sql(change)
            connection.commit()
            finite = "CASE WHEN isfinite(at) THEN at END"
            # Times at the edges of the type are buckets of their own.
            day = (
                f"CASE WHEN {finite} BETWEEN '1000-01-01' AND '3000-01-01' "
                f"THEN date_trunc('day', at, 'UTC') ELSE {finite} END"
            )
            where = "true" if undated else f"{finite} IS NOT NULL"
            for table, group in (("by_key", f"k, ({day})::text"), ("by_day", f"({day})::text")):
                wanted = connection.exec_driver_sql(
                    f"SELECT {group}, count(*) FROM s WHERE {where} GROUP BY {group}"
                ).all()
                columns = "k, bucket::text, n" if table == "by_key" else "bucket::text, n"
                found = connection.exec_driver_sql(f"SELECT {columns} FROM {table}_fresh").all()
                assert sorted(found, key=repr) == sorted(wanted, key=repr), (table, change)
                connection.exec_driver_sql("SELECT s_run()")
                connection.commit()
                found = connection.exec_driver_sql(f"SELECT {columns} FROM {table}").all()
                assert sorted(found, key=repr) == sorted(wanted, key=repr), (table, change)
            assert [each for each in verify(connection, by_key) if each.groups] == []
            connection.commit()
