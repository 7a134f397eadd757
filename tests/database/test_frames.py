"""Frames have the values and the types that PostgreSQL has; Python is the oracle."""

from __future__ import annotations

import asyncio
import enum
import json
import math
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Enum,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    NullPool,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
    TypeDecorator,
    Uuid,
    create_engine,
    func,
    insert,
    literal,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, REAL
from sqlalchemy.exc import DataError
from sqlalchemy.ext.asyncio import AsyncResult, AsyncSession, create_async_engine
from sqlalchemy.orm import Bundle

from citus_analytics import (
    GithubEvent,
    Question,
    ask,
    average,
    commits_per_hour,
    count,
    distinct,
    maximum,
    percentiles,
    total,
)
from citus_analytics.errors import ArgumentError
from citus_analytics.frames import to_arrow, to_arrow_batches, to_pandas, to_polars
from citus_analytics.github.analytics import HourlyCommits, PushSizes, UserActivity
from citus_analytics.github.load import load_events
from citus_analytics.github.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Dialect
    from sqlalchemy.orm import Session

    from tests.servers import DatabaseServer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class Cents(TypeDecorator[Decimal]):
    """An amount, kept as its number of cents."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:  # noqa: ARG002, D102
        return None if value is None else int(value * 100)

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:  # noqa: ARG002, D102
        return None if value is None else Decimal(value) / 100


def decimals(digits: int, after: int) -> st.SearchStrategy[Decimal]:
    most = 10**digits - 1
    # Arithmetic would round to the digits of a context.
    return st.integers(-most, most).map(lambda n: Decimal(f"{n}E-{after}"))


# A float of 32 bits is one of 64 bits; and PostgreSQL has one NaN.
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
SMALL_FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
).filter(lambda value: value is not None)
ZONES = st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")])
TIMES = st.builds(
    lambda moment, zone: moment.replace(tzinfo=UTC).astimezone(zone),
    # The first and the last day have no time in another zone.
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),  # noqa: DTZ001
    ZONES,
)
SPANS = st.timedeltas(timedelta(days=-10_000_000), timedelta(days=10_000_000))

# Of each column: its type in SQL, its type in Arrow, and its values.
COLUMNS: dict[str, tuple[Any, pa.DataType, st.SearchStrategy[Any]]] = {
    "small": (SmallInteger(), pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "normal": (Integer(), pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "big": (BigInteger(), pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "float_4": (REAL(), pa.float32(), SMALL_FLOATS),
    "float_8": (Double(), pa.float64(), FLOATS),
    "price": (Numeric(12, 2), pa.decimal128(12, 2), decimals(12, 2)),
    "largest": (Numeric(38, 19), pa.decimal128(38, 19), decimals(38, 19)),
    "wide": (Numeric(76, 30), pa.decimal256(76, 30), decimals(76, 30)),
    "any_number": (Numeric(), pa.decimal256(76, 38), decimals(60, 30)),
    "truth": (Boolean(), pa.bool_(), st.booleans()),
    "words": (Text(), pa.string(), TEXTS),
    "code": (String(20), pa.string(), TEXTS),
    "bytes": (LargeBinary(), pa.binary(), st.binary(max_size=20)),
    "document": (JSONB(), pa.string(), JSON),
    "day": (Date(), pa.date32(), st.dates()),
    "clock": (Time(), pa.time64("us"), st.times()),
    "moment": (DateTime(timezone=True), pa.timestamp("us", tz="UTC"), TIMES),
    "local": (DateTime(), pa.timestamp("us"), st.datetimes()),
    "span": (Interval(), pa.duration("us"), SPANS),
    "id": (Uuid(), pa.string(), st.uuids()),
    "numbers": (
        ARRAY(BigInteger),
        pa.list_(pa.int64()),
        st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=4),
    ),
    "names": (ARRAY(Text), pa.list_(pa.string()), st.lists(TEXTS, max_size=4)),
    "color": (Enum(Color, name="color"), pa.string(), st.sampled_from(Color)),
    "cents": (Cents(), pa.int64(), decimals(15, 2)),
}
VALUES = Table(
    "frame_values",
    MetaData(),
    Column("row", BigInteger, primary_key=True),
    *(Column(name, kind) for name, (kind, _, _) in COLUMNS.items()),
    prefixes=["TEMPORARY"],
)
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | each for name, (_, _, each) in COLUMNS.items()}),
    max_size=4,
)
EXTREMES: dict[str, Any] = {
    **dict.fromkeys(COLUMNS),
    "big": -(2**63),
    "float_8": math.nan,
    "float_4": -math.inf,
    "moment": datetime.max.replace(tzinfo=UTC),
    "local": datetime.min,  # noqa: DTZ901
    "day": date.max,
    "clock": time.max,
    "span": timedelta(microseconds=-1),
}


def in_arrow(name: str, value: Any) -> Any:
    """Return what Arrow has for a value of a column, as its own `to_pylist` shows it."""
    if value is None:
        return None
    match name:
        case "document":
            return value  # Compared as JSON.
        case "id":
            return str(value)
        case "color":
            return value.name
        case "cents":
            return int(value * 100)
        case "moment":
            return value.astimezone(UTC)
        case _:
            return value


def same(left: object, right: object) -> bool:
    nan = isinstance(left, float) and isinstance(right, float) and math.isnan(left)
    return math.isnan(right) if nan and isinstance(right, float) else left == right


@pytest.fixture(scope="module")
def frames_connection(postgres: DatabaseServer) -> Iterator[Connection]:
    with postgres.database("empty") as url:
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            VALUES.create(connection)
            yield connection


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=ROWS, zone=st.sampled_from(["UTC", "America/New_York"]))
@example(rows=[], zone="UTC")
@example(rows=[EXTREMES, dict.fromkeys(COLUMNS)], zone="UTC")
def test_every_value_is_what_the_server_has(
    rows: list[dict[str, Any]], zone: str, frames_connection: Connection
) -> None:
    with frames_connection.begin_nested() as savepoint:
        compare(frames_connection, rows, zone)
        savepoint.rollback()


def compare(connection: Connection, rows: list[dict[str, Any]], zone: str) -> None:
    if rows:
        connection.execute(
            insert(VALUES), [{"row": number, **row} for number, row in enumerate(rows)]
        )
    # A time is the same moment, whatever zone the session shows it in.
    edge = any(row["moment"] == datetime.max.replace(tzinfo=UTC) for row in rows)
    connection.execute(text(f"SET TIME ZONE '{'UTC' if edge else zone}'"))
    statement = select(*(VALUES.c[name] for name in COLUMNS)).order_by(VALUES.c.row)

    table = to_arrow(connection.execute(statement))
    assert table.schema == pa.schema([(name, kind) for name, (_, kind, _) in COLUMNS.items()])
    found = table.to_pylist()
    assert len(found) == len(rows)
    for got, row in zip(found, rows, strict=True):
        for name, value in row.items():
            shown = got[name] if name != "document" or got[name] is None else json.loads(got[name])
            assert same(shown, in_arrow(name, value)), name

    # A statement that is text, of which SQLAlchemy knows no types: the server's are the same.
    plain = [name for name in COLUMNS if name not in ("color", "cents", "id")]
    sql = text(f"SELECT {', '.join(plain)} FROM frame_values ORDER BY row")
    assert to_arrow(connection.execute(sql)).equals(table.select(plain)) or any(
        isinstance(value, float) and math.isnan(value) for row in rows for value in row.values()
    )

    # In batches, from a cursor of the server.
    streamed = connection.execute(statement, execution_options={"stream_results": True})
    reader = to_arrow_batches(streamed, rows=1)
    assert reader.schema == table.schema
    batches = list(reader)
    assert [batch.num_rows for batch in batches] == [1] * len(rows)

    frame = to_pandas(connection.execute(statement))
    assert [each.pyarrow_dtype for each in frame.dtypes] == [k for _, k, _ in COLUMNS.values()]
    assert frame["big"].isna().tolist() == [row["big"] is None for row in rows]
    assert [int(v) for v in frame["big"].dropna()] == [
        row["big"] for row in rows if row["big"] is not None
    ]

    narrow = [name for name in COLUMNS if name not in ("wide", "any_number")]
    kept = statement.with_only_columns(*(VALUES.c[name] for name in narrow))
    polars = to_polars(connection.execute(kept))
    assert polars.columns == narrow
    assert polars.schema["moment"] == pl.Datetime("us", "UTC")
    assert polars["big"].to_list() == [row["big"] for row in rows]
    assert polars["price"].to_list() == [row["price"] for row in rows]
    assert polars["float_8"].is_null().to_list() == [row["float_8"] is None for row in rows]
    with pytest.raises(ArgumentError, match=r"column 'wide' .* numeric='float' or 'text'"):
        to_polars(connection.execute(statement))


NUMBERS = [
    Decimal("NaN"),
    Decimal("Infinity"),
    Decimal("-Infinity"),
    Decimal("1E-45"),
    Decimal(10) ** 50,
    Decimal("0.10"),
]


def test_numbers_that_no_decimal_of_arrow_holds_are_floats_or_text(
    frames_connection: Connection,
) -> None:
    statement = select(func.unnest(literal(NUMBERS, ARRAY(Numeric))).label("number"))
    with pytest.raises(ArgumentError, match=r"column 'number', numeric in SQL.*numeric='float'"):
        to_arrow(frames_connection.execute(statement))
    floats = to_arrow(frames_connection.execute(statement), numeric="float")
    assert floats.schema == pa.schema([("number", pa.float64())])
    assert all(
        same(got, float(number))
        for got, number in zip(floats["number"].to_pylist(), NUMBERS, strict=True)
    )
    texts = to_polars(frames_connection.execute(statement), numeric="text")
    said = frames_connection.execute(
        select(func.unnest(literal(NUMBERS, ARRAY(Numeric))).cast(Text))
    )
    assert texts["number"].to_list() == list(said.scalars())


@pytest.mark.parametrize(
    ("declared", "kind", "value"),
    [
        ("numeric(5,2)", pa.decimal128(5, 2), Decimal("999.99")),
        ("numeric(3,5)", pa.decimal128(5, 5), Decimal("0.00999")),
        ("numeric(3,-2)", pa.decimal128(5, 0), Decimal(99900)),
        ("numeric(1000,3)", pa.string(), "1.500"),
        ("numeric(12,2)[]", pa.list_(pa.decimal128(12, 2)), [Decimal("1.00"), None]),
        ("timestamptz(0)", pa.timestamp("us", tz="UTC"), NOON),
        ("name", pa.string(), "a"),
        ("inet", pa.string(), "192.168.0.1/32"),
    ],
)
def test_types_that_only_the_server_knows(
    declared: str, kind: pa.DataType, value: object, frames_connection: Connection
) -> None:
    written = {
        "numeric(5,2)": "999.99",
        "numeric(3,5)": "0.00999",
        "numeric(3,-2)": "99900",
        "numeric(1000,3)": "1.5",
        "numeric(12,2)[]": "{1,NULL}",
        "timestamptz(0)": "2026-03-01 14:00:00+02",
        "name": "a",
        "inet": "192.168.0.1",
    }[declared]
    found = to_arrow(frames_connection.execute(text(f"SELECT '{written}'::{declared} AS a")))
    assert found.schema == pa.schema([("a", kind)])
    if declared != "inet":
        assert found["a"].to_pylist() == [value]
    else:
        assert found["a"].to_pylist()[0] in ("192.168.0.1", value)


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 12:00 BC", "12026-01-01"])
@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_times_that_python_does_not_have_are_refused(
    moment: str, kind: str, frames_connection: Connection
) -> None:
    result = frames_connection.execute(text(f"SELECT '{moment}'::{kind} AS at"))
    with pytest.raises(ArgumentError, match="Leave such rows out in SQL, or cast the column"):
        to_arrow(result)
    said = frames_connection.execute(text(f"SELECT ('{moment}'::{kind})::text AS at"))
    assert to_arrow(said)["at"].to_pylist()[0].startswith(moment[:5].strip())


def test_what_has_no_columns_is_refused(frames_connection: Connection) -> None:
    connection = frames_connection
    twice = connection.execute(text("SELECT 1 AS a, 2 AS a"))
    with pytest.raises(ArgumentError, match="two columns are named 'a'"):
        to_arrow(twice)
    read = connection.execute(text("SELECT 1 AS a"))
    rows = read.all()
    with pytest.raises(ArgumentError, match="read or closed already"):
        to_arrow(read)
    with pytest.raises(ArgumentError, match="lost the types of its columns: pass the Result"):
        to_arrow(rows)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="returns no rows"):
        to_arrow(connection.execute(VALUES.delete()))
    with pytest.raises(ArgumentError, match="what columns an empty list has"):
        to_arrow([])
    with pytest.raises(ArgumentError, match="not int"):
        to_arrow(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="expected dataclasses, found int"):
        to_arrow([3])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="expected a UserActivity, found a HourlyCommits"):
        to_arrow([UserActivity(1, NOON, 1), HourlyCommits(NOON, 1)])
    with pytest.raises(ArgumentError, match="not AsyncResult; with asyncio, what `await"):
        to_arrow(AsyncResult(connection.execute(text("SELECT 1"))))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="'decimal', 'float' or 'text', got 'double'"):
        to_arrow([], of=UserActivity, numeric="double")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="rows must be a positive integer"):
        to_arrow_batches([], of=UserActivity, rows=0)
    matrix = connection.execute(text("SELECT ARRAY[[1, 2], [3, 4]] AS matrix"))
    with pytest.raises(ArgumentError, match="column 'matrix', int4"):
        to_arrow(matrix)


def sample(events: int) -> Iterator[bytes]:
    until = NOON + timedelta(hours=2)
    return iter(Sample(events=events, users=10, since=NOON, until=until).events_csv())


def test_a_mapped_class(session: Session) -> None:
    load_events(
        session,
        Sample(events=100, users=10, since=NOON, until=NOON + timedelta(hours=1)).events_csv(),
    )
    statement = select(
        GithubEvent.event_id, GithubEvent.payload, GithubEvent.created_at.label("at")
    )
    expected = session.execute(statement.order_by(GithubEvent.event_id)).all()
    table = to_arrow(session.execute(statement.order_by(GithubEvent.event_id)))
    assert table["event_id"].to_pylist() == [row.event_id for row in expected]
    assert [json.loads(each) for each in table["payload"].to_pylist()] == [
        row.payload for row in expected
    ]
    assert table["at"].to_pylist() == [row.at for row in expected]
    assert to_arrow(session.execute(statement).columns("at")).schema.names == ["at"]
    streamed = session.execute(statement, execution_options={"yield_per": 40})
    assert [batch.num_rows for batch in to_arrow_batches(streamed, rows=30)] == [30, 30, 30, 10]
    with pytest.raises(ArgumentError, match=r"objects instead of columns \(GithubEvent\)"):
        to_arrow(session.execute(select(GithubEvent)))
    hours = commits_per_hour(session)
    found = to_polars(hours)
    assert found.schema == {"hour": pl.Datetime("us", "UTC"), "commits": pl.Int64()}
    assert found.rows() == [(each.hour, each.commits) for each in hours]


class Tags(TypeDecorator[set[str]]):
    """A set, kept as an array."""

    impl = ARRAY(Text)
    cache_ok = True

    def process_bind_param(self, value: set[str] | None, dialect: Dialect) -> list[str] | None:  # noqa: ARG002, D102
        return None if value is None else sorted(value)

    def process_result_value(self, value: list[str] | None, dialect: Dialect) -> set[str] | None:  # noqa: ARG002, D102
        return None if value is None else set(value)


def test_arrays_have_what_the_database_has(frames_connection: Connection) -> None:
    colors = Enum(Color, name="frames_color")
    table = Table(
        "frames_arrays",
        MetaData(),
        Column("colors", ARRAY(colors)),
        Column("cents", ARRAY(Cents())),
        Column("tags", Tags()),
    )
    with frames_connection.begin_nested() as savepoint:
        table.create(frames_connection)
        row = {"colors": [Color.RED, None, Color.BLUE], "cents": [Decimal("1.25")], "tags": {"a"}}
        frames_connection.execute(insert(table), row)
        expected = {"colors": ["RED", None, "BLUE"], "cents": [125], "tags": ["a"]}
        everything = {"n": count()}
        by = [table.c.colors, table.c.cents, table.c.tags]
        for data in (
            frames_connection.execute(select(table)),
            ask(frames_connection, table, measures=everything, by=by),
        ):
            frame = to_arrow(data).select(["colors", "cents", "tags"])
            assert frame.to_pylist() == [expected]
            assert [str(kind.value_type) for kind in frame.schema.types] == [
                "string",
                "int64",
                "string",
            ]
        savepoint.rollback()
    square = text("SELECT ARRAY[ARRAY['a', 'b']] AS square")
    with pytest.raises(ArgumentError, match=r"'square', text\[\] in SQL.*is an array"):
        to_arrow(frames_connection.execute(square))


def test_objects_of_one_column_are_none(session: Session) -> None:
    session.add(GithubEvent(event_id=1, user_id=7))
    of_event: Any = Bundle("of_event", GithubEvent.event_type)
    bundled = select(of_event, GithubEvent.repo_id)
    with pytest.raises(ArgumentError, match=r"objects instead of columns \(of_event, repo_id\)"):
        to_arrow(session.execute(bundled))


def test_a_batch_is_read_when_it_is_asked_for(frames_connection: Connection) -> None:
    statement = text("SELECT g AS n, 1 / (50001 - g) AS one FROM generate_series(1, 60000) AS g")
    options = {"stream_results": True, "max_row_buffer": 100}
    with frames_connection.begin_nested() as savepoint:
        streamed = frames_connection.execute(statement, execution_options=options)
        reader = to_arrow_batches(streamed, rows=1000)
        # The server has not computed row 50,001 yet, which it fails at.
        assert reader.read_next_batch()["n"].to_pylist() == list(range(1, 1001))
        with pytest.raises(DataError, match="division by zero"):
            reader.read_all()
        savepoint.rollback()


def test_asyncio(database: URL) -> None:
    async def main() -> pa.Table:
        engine = create_async_engine(database, poolclass=NullPool)
        async with AsyncSession(engine) as session:
            found = to_arrow(await session.execute(select(literal(1, BigInteger).label("one"))))
            answer = await session.run_sync(ask, GithubEvent, measures={"events": count()})
            assert to_arrow(answer)["events"].to_pylist() == [0]
        await engine.dispose()
        return found

    found = asyncio.run(main())
    assert found.schema == pa.schema([("one", pa.int64())])
    assert found.to_pylist() == [{"one": 1}]


@dataclass(frozen=True)
class Everything:
    truth: bool
    number: int | None
    part: float
    amount: Decimal
    words: str
    moment: datetime
    day: date
    span: timedelta
    names: tuple[str, ...]
    extra: dict[str, Any]
    id: uuid.UUID | None


def test_dataclasses() -> None:
    berlin = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    id_ = uuid.UUID(int=7)
    one = Everything(
        True,
        2**53 + 1,
        math.nan,
        Decimal("0.1"),
        "é",
        berlin,
        date.max,
        timedelta(1),
        ("a",),
        {"a": [1]},
        id_,
    )
    kinds = {
        "truth": pa.bool_(),
        "number": pa.int64(),
        "part": pa.float64(),
        "amount": pa.decimal256(76, 38),
        "words": pa.string(),
        "moment": pa.timestamp("us", tz="UTC"),
        "day": pa.date32(),
        "span": pa.duration("us"),
        "names": pa.list_(pa.string()),
        "extra": pa.string(),
        "id": pa.string(),
    }
    table = to_arrow([one])
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == kinds
    (row,) = table.to_pylist()
    assert row["number"] == 2**53 + 1
    assert row["amount"] == Decimal("0.1")
    assert row["moment"] == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert (row["extra"], row["id"], row["names"]) == ('{"a": [1]}', str(id_), ["a"])
    assert to_arrow([], of=Everything).schema == table.schema
    # Integers with None stay integers, to the last digit.
    activity = [UserActivity(2**63 - 1, NOON, 1), UserActivity(None, NOON, 2)]
    frame = to_pandas(iter(activity))
    assert str(frame["user_id"].dtype) == "int64[pyarrow]"
    assert frame["user_id"].tolist() == [2**63 - 1, pd.NA]
    with pytest.raises(ArgumentError, match=r"column 'user_id', bigint in SQL"):
        to_arrow([UserActivity(2**63, NOON, 1)])
    # A single one is a row, such as what `push_sizes` returns.
    assert str(to_arrow(one).to_pylist()) == str(table.to_pylist())
    sizes = PushSizes(3, 1, 2, 2)
    assert to_polars(sizes).rows(named=True) == [{"pushes": 3, "p50": 1, "p95": 2, "p99": 2}]
    assert to_pandas(sizes).shape == (1, 4)
    assert to_arrow_batches(PushSizes(0, None, None, None)).read_all().num_rows == 1
    with pytest.raises(ArgumentError, match="become a frame, not type"):
        to_arrow(PushSizes)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"column 'hour'.* has no time zone"):
        to_arrow([HourlyCommits(datetime(2026, 1, 1), 1)])  # noqa: DTZ001


METADATA = MetaData()
SALES = Table(
    "frame_sales",
    METADATA,
    Column("sale_id", BigInteger, primary_key=True),
    Column("shop", Text, nullable=False),
    Column("color", Enum(Color, name="color")),
    Column("amount", Numeric(12, 2)),
    Column("pieces", Integer),
    Column("weight", Double),
    Column("ratio", Numeric),
    Column("at", DateTime(timezone=True)),
)


@pytest.mark.parametrize("empty", [False, True])
def test_an_answer_has_the_types_of_its_question(empty: bool, postgres: DatabaseServer) -> None:
    with postgres.database("empty") as url:
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            METADATA.create_all(connection)
            if not empty:
                connection.execute(
                    insert(SALES),
                    [
                        {
                            "sale_id": n,
                            "shop": "a",
                            "color": Color.RED,
                            "amount": Decimal("0.10"),
                            "pieces": 2**31 - 1,
                            "weight": 0.5,
                            "ratio": Decimal("1.5"),
                            "at": NOON,
                        }
                        for n in range(3)
                    ],
                )
            answer = ask(
                connection,
                SALES,
                measures={
                    "sales": count(),
                    "revenue": total(SALES.c.amount),
                    "pieces": total(SALES.c.pieces),
                    "numbers": total(SALES.c.sale_id),
                    "heavy": total(SALES.c.weight),
                    "mean": average(SALES.c.amount),
                    "most": maximum(SALES.c.amount),
                    "ratios": total(SALES.c.ratio),
                    "p": percentiles(SALES.c.weight, [0.5]),
                    "shops": distinct(SALES.c.shop),
                },
                by=[SALES.c.shop, SALES.c.color],
            )
    table = to_arrow(answer)
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == {
        "shop": pa.string(),
        "color": pa.string(),
        "sales": pa.int64(),
        "revenue": pa.decimal128(38, 2),
        "pieces": pa.int64(),
        "numbers": pa.decimal128(38, 0),
        "heavy": pa.float64(),
        "mean": pa.float64(),
        "most": pa.decimal128(12, 2),
        "ratios": pa.decimal256(76, 38),
        "p50": pa.float64(),
        "shops": pa.int64(),
    }
    expected = {
        "shop": "a",
        "color": "RED",
        "sales": 3,
        "revenue": Decimal("0.30"),
        "pieces": 3 * (2**31 - 1),
        "numbers": Decimal(3),
        "heavy": 1.5,
        "mean": 0.1,
        "most": Decimal("0.10"),
        "ratios": Decimal("4.5"),
        "p50": 0.5,
        "shops": 1,
    }
    assert table.to_pylist() == ([] if empty else [expected])
    assert to_pandas(answer, numeric="float")["ratios"].dtype == pd.ArrowDtype(pa.float64())
    assert to_polars(answer, numeric="text").schema["ratios"] == pl.String()


def test_an_answer_from_rollups(session: Session) -> None:
    load_events(
        session,
        Sample(events=500, users=10, since=NOON, until=NOON + timedelta(hours=2)).events_csv(),
    )
    kinds = {"bucket": pl.Datetime("us", "UTC"), "event_type": pl.String(), "events": pl.Int64()}
    hourly = Question(
        GithubEvent, measures={"events": count()}, by=[GithubEvent.event_type], every="1 hour"
    )
    for freshness in ("fresh", "raw"):
        answer = hourly.ask(session, freshness=freshness)
        assert answer.plan.freshness == freshness
        frame = to_polars(answer)
        assert frame.schema == kinds
        assert frame.rows() == [tuple(row) for row in answer]
        assert frame["events"].sum() == 500
        reader = to_arrow_batches(hourly.stream(session, freshness=freshness, batch=4), rows=5)
        assert reader.read_next_batch().num_rows == 5
        rest = [row for batch in reader for row in batch.to_pylist()]
        assert rest == frame.slice(5).to_dicts()
    none = hourly.ask(session, until=NOON)
    assert none.plan.rollups
    assert to_polars(none).schema == kinds
