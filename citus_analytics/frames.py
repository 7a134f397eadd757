"""Answers as Arrow, polars and pandas: columns of the types that SQL declares.

    to_polars(ask(session, PageView, measures={"views": count()}, by=[PageView.path]))

Each function takes an `Answer` or a `Stream` of the planner, a `Result` of SQLAlchemy, or
dataclasses such as those that the analytics return, one of them or many. What a column is in the
frame follows from its type in SQL alone, so that an answer without rows has the columns of one with
a million:

| in SQL | in Arrow |
|---|---|
| `smallint`, `integer`, `bigint` | `int16`, `int32`, `int64` |
| `real`, `double precision` | `float32`, `float64`; NaN and NULL stay apart |
| `numeric(p, s)` | `decimal128(p, s)`, from 39 digits on `decimal256(p, s)` |
| `numeric` | `decimal256(76, 38)` |
| `boolean`, `bytea`, `date` | `bool`, `binary`, `date32` |
| `timestamp with time zone` | `timestamp[us, UTC]` |
| `timestamp`, `time` | `timestamp[us]`, `time64[us]` |
| `interval` | `duration[us]`; a month is 30 days, a year 365, as psycopg reads them |
| `json`, `jsonb` | `string`, the text of the value |
| an array of one dimension | `list` of its elements |
| `text` and everything else | `string` |

In an `Answer`, a total of integers is `decimal128(38, 0)`, a total of `numeric(p, s)` is
`decimal128(38, s)`; averages, variances and standard deviations, which are rounded quotients, and
totals of floats are `float64`.

Nothing is rounded, cut or wrapped silently: a value that its column cannot hold is an error that
names the column. Decimals of Arrow cannot be NaN or infinite, and polars has none of more than 38
digits: `numeric="float"` makes all of them `float64`, `numeric="text"` makes them strings.

pyarrow, polars and pandas are imported when they are needed: the extras `arrow`, `polars` and
`pandas` install them.
"""

from __future__ import annotations

import json
import operator
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from importlib import import_module
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

import psycopg
from psycopg.types.json import Json, Jsonb
from sqlalchemy import ARRAY, Enum, Float, Integer, Numeric, Result, Row, TypeDecorator
from sqlalchemy.dialects.postgresql import DOMAIN
from sqlalchemy.exc import DataError
from sqlalchemy.types import TypeEngine

from citus_analytics.errors import ArgumentError, MissingPackageError
from citus_analytics.rollups.ask import Answer, Stream
from citus_analytics.rollups.declare import kind_of, type_name
from citus_analytics.sql import DIALECT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    import polars as pl
    import pyarrow as pa
    from _typeshed import DataclassInstance

__all__ = ["Frameable", "Numbers", "to_arrow", "to_arrow_batches", "to_pandas", "to_polars"]

Frameable: TypeAlias = (
    "Answer | Stream | Result[*tuple[Any, ...]] | Iterable[DataclassInstance] | DataclassInstance"
)
"""What becomes a frame: an answer, the result of a statement, dataclasses of one class, or one."""

Numbers: TypeAlias = Literal["decimal", "float", "text"]
"""What `numeric` becomes: decimals, which are exact; float64; or strings as PostgreSQL's."""


def to_arrow(
    data: Frameable, *, of: type[DataclassInstance] | None = None, numeric: Numbers = "decimal"
) -> pa.Table:
    """Return rows as a table of Arrow.

    Args:
        data: An answer, a stream or result that has not been read yet, or dataclasses; a single
            one, such as what `push_sizes` returns, is a row.
        of: The class of the dataclasses, which a list without any cannot tell.
        numeric: What `numeric` becomes.

    Raises:
        ArgumentError: The data have no columns, or a value does not fit its column; the message
            says which, and what to do.
        MissingPackageError: pyarrow is not installed.
    """
    schema, batches = _batches(data, of=of, numeric=numeric, rows=65_536)
    return _package("pyarrow").Table.from_batches(list(batches), schema)


def to_arrow_batches(
    data: Frameable,
    *,
    of: type[DataclassInstance] | None = None,
    numeric: Numbers = "decimal",
    rows: int = 65_536,
) -> pa.RecordBatchReader:
    """Return a reader of batches, for what is larger than memory.

    Rows are read as the reader is. The server sends them that way too if they are those of
    `Question.stream`, or of a statement that is executed with `yield_per`; both are read within
    their transaction:

        reader = to_arrow_batches(question.stream(session))
        reader = to_arrow_batches(session.execute(statement, execution_options={"yield_per": 1000}))

    Args:
        data: An answer, a stream or result that has not been read yet, or an iterable of
            dataclasses.
        of: The class of the dataclasses, which an iterable without any cannot tell.
        numeric: What `numeric` becomes.
        rows: The number of rows of a batch; the last one may have fewer.

    Raises:
        ArgumentError: As `to_arrow` does; for a value, while the reader is read.
        MissingPackageError: pyarrow is not installed.
    """
    if type(rows) is not int or rows < 1:
        raise ArgumentError(f"rows must be a positive integer; found {rows!r}")
    schema, batches = _batches(data, of=of, numeric=numeric, rows=rows)
    return _package("pyarrow").RecordBatchReader.from_batches(schema, batches)


def to_polars(
    data: Frameable, *, of: type[DataclassInstance] | None = None, numeric: Numbers = "decimal"
) -> pl.DataFrame:
    """Return rows as a DataFrame of polars; the arguments and errors are those of `to_arrow`.

    Raises:
        ArgumentError: A column is `numeric` without a precision, or of more than 38 digits, which
            polars does not have: choose `numeric="float"` or `"text"`.
        MissingPackageError: polars or pyarrow is not installed.
    """
    polars, arrow = _package("polars"), _package("pyarrow")
    schema, batches = _batches(data, of=of, numeric=numeric, rows=65_536)
    wide = [each.name for each in schema if "decimal256" in str(each.type)]
    if wide:
        raise ArgumentError(
            f"column {wide[0]!r} is a numeric that may have more than the 38 digits of polars: "
            "pass numeric='float' or 'text', or cast it in SQL, to numeric(38, 9) for example."
        )
    return cast("pl.DataFrame", polars.from_arrow(arrow.Table.from_batches(list(batches), schema)))


def to_pandas(
    data: Frameable, *, of: type[DataclassInstance] | None = None, numeric: Numbers = "decimal"
) -> pd.DataFrame:
    """Return rows as a DataFrame of pandas; the arguments and errors are those of `to_arrow`.

    Its columns are of `pandas.ArrowDtype`: integers with NULLs stay integers, and times keep their
    microseconds and their zone.

    Raises:
        MissingPackageError: pandas or pyarrow is not installed.
    """
    pandas = _package("pandas")
    return to_arrow(data, of=of, numeric=numeric).to_pandas(types_mapper=pandas.ArrowDtype)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        extra = name.removeprefix("py")
        raise MissingPackageError(
            f"this needs the package {name}, which is not installed: install the extra {extra}, as "
            f"in pip install 'citus_analytics[{extra}]'."
        ) from error


# Quotients and roots, which PostgreSQL rounds.
_ROUNDED: Final = ("avg", "var_samp", "stddev_samp")


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: its name, its type in SQL, and the type of the application, if there is one."""

    name: str
    sql: str
    type: TypeEngine[Any] | None = None


def _batches(
    data: Frameable, *, of: type[DataclassInstance] | None, numeric: Numbers, rows: int
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    arrow = _package("pyarrow")
    if numeric not in typing.get_args(Numbers):
        raise ArgumentError(f"numeric must be 'decimal', 'float' or 'text', got {numeric!r}.")
    columns, tuples = _columns(data, of)
    names = [column.name for column in columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArgumentError(f"two columns are named {twice!r}: give one of them a .label('...').")
    made = [_conversion(column, numeric, arrow) for column in columns]
    schema = arrow.schema([(name, kind) for name, (kind, _) in zip(names, made, strict=True)])

    def batches() -> Iterator[pa.RecordBatch]:
        while True:
            try:
                chunk = list(islice(tuples, rows))
            except DataError as error:
                if getattr(error.orig, "sqlstate", None) is not None:
                    raise  # The server's own: the statement has failed midway.
                raise ArgumentError(
                    "a value of the result is none that Python can hold, such as the time "
                    "'infinity' or one before the year 1 or after the year 9999: "
                    f"{str(error.orig).strip()}. Leave such rows out in SQL, or cast the column to "
                    "text."
                ) from error
            if not chunk:
                return
            arrays = []
            for column, (kind, convert), values in zip(
                columns, made, zip(*chunk, strict=True), strict=True
            ):
                try:
                    converted = [None if value is None else convert(value) for value in values]
                    arrays.append(arrow.array(converted, type=kind))
                except (arrow.ArrowException, OverflowError, TypeError, ValueError) as error:
                    hint = (
                        "; pass numeric='float' or numeric='text'" if "decimal" in str(kind) else ""
                    )
                    raise ArgumentError(
                        f"column {column.name!r}, {column.sql} in SQL, has a value that Arrow's "
                        f"{kind} cannot hold: {error}{hint}."
                    ) from error
            yield arrow.record_batch(arrays, schema=schema)

    return schema, batches()


def _columns(
    data: Frameable, of: type[DataclassInstance] | None
) -> tuple[list[_Column], Iterator[Sequence[Any]]]:
    """Return the columns of the data, and an iterator over its rows."""
    if isinstance(data, Answer | Stream):
        question = data.question
        columns = []
        for each in question.columns():
            measure, value = question.measures.get(each.name, (None, None))
            sql = type_name(kind_of(each) if isinstance(each.type, DOMAIN) else each.type)
            if measure is not None and value is not None and sql == "numeric":
                kind = kind_of(value)
                if measure.aggregate in _ROUNDED or isinstance(kind, Float):
                    sql = "double precision"
                elif isinstance(kind, Integer):
                    sql = "numeric(38, 0)"
                elif isinstance(kind, Numeric) and kind.precision is not None:
                    sql = f"numeric(38, {kind.scale or 0})"
            columns.append(_Column(each.name, sql, each.type))
        return columns, iter(data)

    if isinstance(data, Result):
        if not getattr(data, "returns_rows", True):
            raise ArgumentError("the statement returns no rows: it has no columns.")
        # The result of an ORM statement has the one of the cursor in it.
        raw: Any = getattr(data, "raw", None) or data
        cursor = getattr(raw, "cursor", None)
        if cursor is None:
            raise ArgumentError(
                "the result has been read or closed already, and has lost the types of its "
                "columns: pass the one that execute() returns."
            )
        keys = list(data.keys())
        described = list(cursor.description)
        statement = getattr(getattr(raw.context, "compiled", None), "statement", None)
        exported = list(getattr(statement, "exported_columns", ()))
        kinds = [each.type for each in exported]
        if len(kinds) != len(described):
            kinds = [None] * len(described)
        found = [
            _Column(each.name, each.type_display, kind)
            for each, kind in zip(described, kinds, strict=True)
        ]
        by_name = {each.name: each for each in found}
        if set(keys) <= set(by_name):
            # `Result.columns` may have chosen some of them.
            return [by_name[key] for key in keys], iter(data)
        asked: Any = getattr(statement, "column_descriptions", ())
        asked = asked or getattr(statement, "returning_column_descriptions", ())
        whole = all(isinstance(each["type"], TypeEngine) for each in asked)
        if whole and len(keys) == len(found):
            # A mapped attribute may have another name than its column.
            return [_Column(k, c.sql, c.type) for k, c in zip(keys, found, strict=True)], iter(data)
        raise ArgumentError(
            f"the result has objects instead of columns ({', '.join(keys)}): select columns, as in "
            "select(PageView.path, PageView.seconds) or select(PageView.__table__)."
        )

    given: Any = data
    if not hasattr(given, "__iter__") and is_dataclass(given) and not isinstance(given, type):
        given = [given]
    if not hasattr(given, "__iter__"):
        raise ArgumentError(
            "an Answer, a Result of SQLAlchemy or dataclasses become a frame, not "
            f"{type(given).__name__}; with asyncio, what `await session.execute(...)` returns."
        )
    objects = iter(given)
    first = next(objects, None)
    if first is not None:
        objects = chain([first], objects)
    cls = of if of is not None else type(first)
    if not is_dataclass(cls):
        if first is None:
            raise ArgumentError("nothing says what columns an empty list has: pass of=, its class.")
        lost = ", which has lost the types of its columns: pass the Result itself"
        raise ArgumentError(
            f"expected dataclasses, found {cls.__name__}{lost if isinstance(first, Row) else ''}."
        )
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise ArgumentError(
            f"the annotations of {cls.__name__} cannot be read: {error}; import what they name at "
            "runtime, not for type checkers alone."
        ) from error
    names = [each.name for each in fields(cls)]

    def rows() -> Iterator[Sequence[Any]]:
        for each in objects:
            if type(each) is not cls:
                raise ArgumentError(f"expected a {cls.__name__}, found a {type(each).__name__}.")
            yield [getattr(each, name) for name in names]

    return [_Column(name, _sql_of(hints[name])) for name in names], rows()


_SQL_OF: Final[Mapping[object, str]] = {
    bool: "boolean",
    int: "bigint",
    float: "double precision",
    str: "text",
    bytes: "bytea",
    Decimal: "numeric",
    datetime: "timestamp with time zone",
    date: "date",
    time: "time",
    timedelta: "interval",
}


def _sql_of(annotation: Any) -> str:
    """Return the type in SQL of what a dataclass says of a field."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        given = [each for each in arguments if each is not type(None)]
        return _sql_of(given[0]) if len(given) == 1 else "text"
    if origin in (list, tuple) and arguments:
        return f"{_sql_of(arguments[0])}[]"
    if annotation is dict or origin in (dict, Mapping):
        return "jsonb"
    return _SQL_OF.get(annotation, "text")


_SQL_TYPE: Final = re.compile(
    r"(.+?)\s*(?:\((\d+)(?:\s*,\s*(-?\d+))?\))?( with(?:out)? time zone)?"
)


def _conversion(
    column: _Column, numeric: Numbers, arrow: Any
) -> tuple[pa.DataType, Callable[[Any], Any]]:
    """Return the type in Arrow of a column, and what makes its values ones that Arrow takes."""
    kind = column.type
    # What the application sees is made what the database has again.
    stored: Any = None
    if isinstance(kind, TypeDecorator | Enum):
        stored = kind.dialect_impl(DIALECT).bind_processor(DIALECT)
    match = _SQL_TYPE.fullmatch(column.sql.lower())
    name, precision, scale = "", None, None
    if match is not None:
        name, precision, scale = match[1] + (match[4] or ""), match[2], match[3]
    if name == "float":
        name = "float4" if precision and int(precision) <= 24 else "float8"
    known = psycopg.adapters.types.get(name)
    made: dict[str, tuple[pa.DataType, Callable[[Any], Any]]] = {
        "bool": (arrow.bool_(), bool),
        "int2": (arrow.int16(), operator.index),
        "int4": (arrow.int32(), operator.index),
        "int8": (arrow.int64(), operator.index),
        "oid": (arrow.uint32(), operator.index),
        "float4": (arrow.float32(), float),
        "float8": (arrow.float64(), float),
        "bytea": (arrow.binary(), bytes),
        "date": (arrow.date32(), _same),
        "time": (arrow.time64("us"), _same),
        "timestamp": (arrow.timestamp("us"), _naive),
        "timestamptz": (arrow.timestamp("us", tz="UTC"), _aware),
        "interval": (arrow.duration("us"), _same),
        "json": (arrow.string(), _json),
        "jsonb": (arrow.string(), _json),
    }
    arrow_type, convert = made.get(known.name if known else "", (arrow.string(), _text))
    # An array of a type that psycopg does not know has a number for a name.
    if column.sql.endswith("[]") or isinstance(kind, ARRAY):
        item = kind.item_type if isinstance(kind, ARRAY) else None
        of = _Column(column.name, column.sql.removesuffix("[]"), item)
        inner, each_of = _conversion(of, numeric, arrow)
        arrow_type, convert = arrow.list_(inner), _each(each_of)
    elif known is not None and known.name == "numeric":
        digits, after = int(precision or 76), int(scale or 0) if precision else 38
        # A scale may be negative, or larger than the precision.
        digits, after = max(digits, after) - min(after, 0), max(after, 0)
        if numeric == "float":
            arrow_type, convert = arrow.float64(), float
        elif numeric == "text" or digits > 76:
            convert = _digits
        else:
            make = arrow.decimal128 if digits <= 38 else arrow.decimal256
            arrow_type, convert = make(digits, after), _decimal
    if stored is None:
        return arrow_type, convert

    def original(value: Any) -> Any:
        plain = stored(value)
        plain = plain.obj if isinstance(plain, Json | Jsonb) else plain
        return None if plain is None else convert(plain)

    return arrow_type, original


def _same(value: Any) -> Any:
    return value


def _each(convert: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    return lambda values: [None if value is None else convert(value) for value in values]


def _text(value: Any) -> str:
    if isinstance(value, list):
        raise ValueError(f"{value!r} is an array")  # noqa: TRY004 - like what else does not fit
    return str(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _decimal(value: Any) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(str(value))


def _digits(value: Any) -> str:
    return f"{value:f}" if isinstance(value, Decimal) and value.is_finite() else str(value)


def _aware(value: datetime) -> datetime:
    if value.utcoffset() is None:
        raise ValueError(f"{value!r} has no time zone")
    return value


def _naive(value: datetime) -> datetime:
    if value.utcoffset() is not None:
        raise ValueError(f"{value!r} has a time zone")
    return value
