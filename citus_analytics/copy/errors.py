"""What was wrong with a row, worked out from what the server says about it.

The server knows the line on which a bad row ends and, mostly, the column. Where the source can be
read again, the line on which the row starts, and the column of bytes that are not text, are looked
up in it: only then, and only up to that line, does Python parse the CSV.
"""

from __future__ import annotations

import csv
import re
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from citus_analytics.errors import LoadError
from citus_analytics.schema import Distributed, distribution_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    import psycopg
    from sqlalchemy import Table

    from citus_analytics.copy.source import Input

# The classes of SQLSTATE for data that is wrong, breaks a constraint, or exceeds a limit.
_FAULTS_OF_DATA: Final = ("22", "23", "54")
_NULL_NOT_ALLOWED: Final = "22004"
_NOT_IN_ENCODING: Final = "22021"
_INVALID_TEXT: Final = "22P02"
_INTERNAL: Final = "XX000"
_LONGEST_ROW: Final = 1 << 24


class RejectedError(Exception):
    """The server has received all of the data, and refuses it; a row may be at fault."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a source something is, as far as that is known."""

    line: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        column = f", column {self.column}" if self.column else ""
        return f", line {self.line}{column}" if self.line else column


def is_fault_of_data(error: psycopg.Error) -> bool:
    """Whether the data are at fault, and neither the connection nor the server."""
    return (error.sqlstate or "")[:2] in _FAULTS_OF_DATA


def may_be_from_worker(error: psycopg.Error, table: Table) -> bool:
    """Whether this may come from a Citus worker: COPY passes on its message, no line or SQLSTATE.

    The worker may have met with bad data, a full disk or anything else.
    """
    return error.sqlstate == _INTERNAL and place_in_context(error.diag.context, table).line is None


def place_in_context(context: str | None, table: Table) -> Place:
    """Read `COPY github_events, line 3, column repo_id: "x"`, in any language.

    On Citus a worker's context names a shard, whose lines are not those of the source.
    """
    found = re.search(
        rf"^COPY {re.escape(table.name)}(?!\w)[^\d\n]*(\d+)(?:, \S+ ({_names(table)})(?!\w))?",
        context or "",
        re.MULTILINE,
    )
    return Place(int(found[1]), found[2]) if found else Place()


def explain(
    error: psycopg.Error,
    table: Table,
    source: Input,
    columns: Sequence[str] | None,
    *,
    line: int | None = None,
) -> LoadError | None:
    """Return an error that names the row of CSV at fault, or None if no row is at fault.

    Args:
        error: What the server said.
        table: Where the rows go.
        source: Where they come from.
        columns: What the header of the source names; None without a header.
        line: Where the row at fault starts, if that was looked for.
    """
    if line is not None:
        place = Place(line, error.diag.column_name)
    elif is_fault_of_data(error):
        place = _place(error, table, source, columns)
    else:
        return None
    said = error.diag.message_primary or str(error)
    detail = (error.diag.message_detail or "").removesuffix(".")
    detail = f" ({detail})" if detail else ""
    of_value = error.sqlstate == _INVALID_TEXT
    if of_value and place.line == 1 and re.search(rf'"({_names(table)})"', said):
        advice = "The first line seems to be a header: load with header=True (--header)."
    else:
        advice = "Correct the row or leave it out, and load again."
    return LoadError(
        f"{source.name}{place}: {said}{detail}. Nothing of it was loaded. {advice}",
        line=place.line,
        column=place.column,
    )


def _place(
    error: psycopg.Error, table: Table, source: Input, columns: Sequence[str] | None
) -> Place:
    place = place_in_context(error.diag.context, table)
    before = source.first_line - 1
    column = place.column or error.diag.column_name
    if column is None:
        distribution = distribution_of(table)
        if error.sqlstate == _NULL_NOT_ALLOWED and isinstance(distribution, Distributed):
            # Citus says only that the partition column cannot be NULL.
            column = distribution.column
        # As in `missing data for column "repo_id"`.
        elif found := re.search(rf'"({_names(table)})"', error.diag.message_primary or ""):
            column = found[1]
    if place.line is None or not source.repeatable:
        return Place(place.line and before + place.line, column)
    start, row = _row_that_ends(source, place.line)
    if column is None and error.sqlstate == _NOT_IN_ENCODING:
        column = _column_that_is_not_text(row, columns or [column.name for column in table.columns])
    return Place(before + start, column)


def _names(table: Table) -> str:
    return "|".join(re.escape(column.name) for column in table.columns)


def rows_of(source: Input) -> Generator[tuple[int, bytes]]:
    """Yield the rows of CSV, each with the line on which it starts, counted within the source.

    Of a row that is longer than any the server takes, only the beginning.
    """
    start, row, quoted = 1, b"", False
    with closing(_lines(source)) as lines:
        for number, text in enumerate(lines, 1):
            # A line end between quotes belongs to the field; a quote in a field counts twice.
            if not quoted:
                if number > 1:
                    yield start, row
                start, row = number, b""
            if len(row) < _LONGEST_ROW:
                row += text + b"\n"
            quoted ^= text.count(b'"') % 2 == 1
    if row != b"\n":
        yield start, row


def _row_that_ends(source: Input, line: int) -> tuple[int, bytes]:
    """Return the line on which the row starts that is on this line, and the row."""
    with closing(rows_of(source)) as rows:
        for start, row in rows:
            if start + row.count(b"\n") > line:
                return start, row
    return line, b""


def _lines(source: Input) -> Generator[bytes]:
    rest = b""
    for block in source.content():
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    yield rest


def _column_that_is_not_text(row: bytes, columns: Iterable[str]) -> str | None:
    """Return the column that holds a zero byte, or bytes that are not UTF-8."""
    try:
        fields = next(csv.reader([row.decode("latin-1")], strict=True), [])
    except csv.Error:
        return None
    for column, field in zip(columns, fields, strict=False):
        try:
            if "\0" in field.encode("latin-1").decode():
                return column
        except UnicodeDecodeError:
            return column
    return None
