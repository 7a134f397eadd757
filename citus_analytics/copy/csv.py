"""CSV into a table, as the bytes that it is: the server parses it, and nothing else does."""

from __future__ import annotations

import csv
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from sqlalchemy import Date, DateTime, Time, text

from citus_analytics.copy.connection import (
    checked_json,
    connection_of,
    copy_rows,
    pinned_settings,
    savepoint,
)
from citus_analytics.copy.errors import (
    RejectedError,
    explain,
    is_fault_of_data,
    may_be_from_worker,
    place_in_context,
    rows_of,
)
from citus_analytics.copy.source import BinaryReader, Tally, expand, open_source, peek
from citus_analytics.errors import LoadError
from citus_analytics.schema import table_of
from citus_analytics.sql import qualify, schema_of, transaction_token

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import psycopg
    from sqlalchemy import Connection, Table

    from citus_analytics.copy.source import Input, PathName, Source
    from citus_analytics.schema import TableLike
    from citus_analytics.sql import Executor

# The first release of PostgreSQL to which a line of CSV with nothing but `\.` is not the end.
_READS_TO_THE_END: Final = 18
_END_MARK: Final = re.compile(rb"[\r\n](?=\\\.[\r\n])")
# What of a mark, with the line end before it, may stand at the end of a block.
_PART_OF_MARK: Final = 3

# A field of CSV as the server reads it: a quote anywhere begins or ends what is taken as it is.
_FIELD: Final = rb'(?:[^",\r\n]++|"[^"]*+")*+'
_ROW_END: Final = rb"(?:\r\n|\n|\r)"
_ROW: Final = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*+" + _ROW_END)
_TIME_WITH_ZONE: Final = re.compile(
    rb"\d{4,}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)? ?(?:Z|UTC|[+-]\d\d(?::?\d\d){0,2})",
    re.IGNORECASE,
)
# Not one of the words, such as now.
_TIME_OR_DATE: Final = re.compile(rb"\d.*", re.DOTALL)
# How many rows are sent at a time to find the one that is refused, and then to see others pass.
_BATCH: Final = 10_000
_BATCH_TO_CONFIRM: Final = 10
_REFERS_TO_ITSELF: Final = text(
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE contype = 'f' "
    "AND conrelid = CAST(:table AS regclass) AND confrelid = conrelid)"
)
_LONGEST_HEADER: Final = 1 << 20
_LONGEST_ROW: Final = 1 << 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the load of a source has come.

    A source with a row that the server refuses is read again, and both numbers begin anew.

    Attributes:
        bytes: Bytes read of the source, as they are stored there: compressed, if it is.
        rows: Rows sent. Those of CSV, and all over several connections, are counted by line ends,
            whatever is on the lines, until the load is complete. The last call has the server's
            number.
        total_bytes: The bytes that there are, or None for a source of unknown size.
    """

    bytes: int
    rows: int
    total_bytes: int | None


ProgressCallback: TypeAlias = Callable[[Progress], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What was loaded.

    Attributes:
        rows: Rows that the server has taken.
        bytes: Bytes read of the source, as they are stored there: compressed, if it is.
        rejected: Events that could not be stored.
        duplicates: Rows that were left out because they are there already.
        already_loaded: Whether nothing was done, because the file had been loaded before; the
            other numbers are those of that time.
        token: What `at_least` of a question takes: once the transaction has been committed, what
            has been loaded is in the answer, or the question is refused.
    """

    rows: int
    bytes: int
    rejected: int = 0
    duplicates: int = 0
    already_loaded: bool = False
    token: str = field(default="", compare=False)


def sum_of(results: Iterable[LoadResult]) -> LoadResult:
    """Return what several results add up to."""
    some = list(results)
    return LoadResult(
        rows=sum(result.rows for result in some),
        bytes=sum(result.bytes for result in some),
        rejected=sum(result.rejected for result in some),
        duplicates=sum(result.duplicates for result in some),
    )


def load_csv(
    connection: Executor,
    table: TableLike,
    source: Source | Iterable[PathName],
    *,
    header: bool = False,
    require_time_zone: bool = False,
    progress: ProgressCallback | None = None,
) -> LoadResult:
    """Load CSV, UTF-8, into a table: a field for every column, in their order or a header's.

    Whatever the session's settings are, times without a zone are in UTC, and dates are year, month
    and day.

    All or nothing, in the caller's transaction: nothing is committed, and after an error the
    table and what the transaction did before are as they were. On an autocommit connection the
    load is a transaction of its own. A session's pending objects are flushed first, unless its
    autoflush is off, as by `Session.execute`.

    With asyncio, `await session.run_sync(load_csv, table, source)` does the same.

    On Citus, a source that cannot be read twice (a pipe, a generator) loads somewhat slower: the
    coordinator must check its JSON, because a worker that finds it bad cannot name the line.

    Args:
        connection: A connection or session on the driver psycopg 3.
        table: Where the rows go: a table or a mapped class.
        source: A path, a folder (its files that end with `.csv` or `.csv.gz`), a range such as
            `2015-01-{01..31}.csv`, an http(s) address, a list of these, or any iterable of `Path`s,
            such as `Path.glob` returns; "-" for standard input, an open binary file (which stays
            open), or an iterable of bytes in blocks of any size. Any of them may be compressed by
            gzip.
        header: Whether the first line of each source names the columns, in any order.
        require_time_zone: Whether to refuse times without a zone in columns that have one, and
            words such as `now` for any time or date.
        progress: Called after every block, and at the end, with what has been read so far, of each
            file anew. What it raises ends the load and reaches the caller.

    Raises:
        LoadError: A row is malformed, with its line and column (of a row of several lines the
            first, or the last if the source cannot be read twice), a header does not name the
            columns of the table, or a file cannot be read. Without a line, if a worker of Citus
            refused what it got, of which Citus passes on the words alone, and the row was not found
            by sending them again, for which the source has to be one that can be read twice.
        ArgumentError: The source is open in text mode or gives no bytes, or the connection or the
            table is of another kind.
        psycopg.Error: An error that is not the fault of the source, such as a missing table.
    """
    table = table_of(table)
    opened = connection_of(connection, table)
    inputs = [open_source(each) for each in _sources(source)]
    with savepoint(opened) if len(inputs) > 1 else nullcontext():
        results = []
        for each in inputs:
            columns, read = header_of(each, table) if header else (None, each)
            results.append(
                CsvLoad(
                    opened,
                    table,
                    read,
                    columns=columns,
                    require_time_zone=require_time_zone,
                    progress=progress,
                ).run()
            )
        return replace(sum_of(results), token=transaction_token(opened))


def header_of(source: Input, table: Table) -> tuple[list[str], Input]:
    """Return the columns that the first line of CSV names, and the source to read from then on.

    Raises:
        LoadError: The line does not name each column of the table that can be loaded, once.
    """

    def first_line(blocks: Iterator[bytes]) -> bytes:
        line = b""
        for block in blocks:
            line += block
            if _ROW.match(line) or len(line) > _LONGEST_HEADER:
                break
        return line.removeprefix(BOM_UTF8)

    start, source = peek(source, first_line)
    line = found[0] if (found := _ROW.match(start + b"\n")) else start
    try:
        names = next(csv.reader([line.decode().rstrip("\r\n")]), [])
    except (UnicodeDecodeError, csv.Error):
        names = []
    expected = [column.name for column in table.columns if column.computed is None]
    problems = [
        f"{problem} {', '.join(map(repr, found))}"
        for problem, found in (
            ("lacks", [name for name in expected if name not in names]),
            ("has unknown", [name[:80] for name in names if name not in expected]),
            ("repeats", [name for name in expected if names.count(name) > 1]),
        )
        if found
    ]
    if problems:
        raise LoadError(
            f"{source.name}, line 1: the header {' and '.join(problems)}. Nothing of it was "
            f"loaded. The columns of {table.name} are {', '.join(expected)}, in any order.",
            line=1,
        )
    return names, source


def _sources(source: Source | Iterable[PathName]) -> Iterable[Source]:
    """Return the single sources behind a path, several paths or another source."""
    paths: Any = source if isinstance(source, list | tuple) else [source]
    if paths and all(isinstance(path, str | PathLike) for path in paths):
        return [name for path in paths for name in expand(path)]
    if isinstance(source, Iterable) and not isinstance(source, Sequence | BinaryReader):
        # A generator of paths, or a set of them; strings may as well be text.
        elements = iter(cast("Iterable[Any]", source))
        first = list(islice(elements, 1))
        if first and isinstance(first[0], PathLike):
            return _sources([*first, *elements])
        return [chain(first, elements)]
    return [cast("Source", source)]


class _UndoneError(Exception):
    """Ends a block whose work is to be undone."""


def _words(error: psycopg.Error) -> str:
    """Return what the server says, without the numbers of shards."""
    return re.sub(r"\d+", "", error.diag.message_primary or str(error))


class CsvLoad:
    """One source of CSV on its way into one table.

    Args:
        connection: Where the table is.
        table: Where the rows go.
        source: Where they come from.
        columns: What the header at the start of the source names; None without a header.
        require_time_zone: See `load_csv`.
        progress: Called with how far the load has come.
        watch: Called with every block of the content.
    """

    def __init__(
        self,
        connection: Connection,
        table: Table,
        source: Input,
        *,
        columns: Sequence[str] | None = None,
        require_time_zone: bool = False,
        progress: ProgressCallback | None = None,
        watch: Callable[[bytes], object] | None = None,
    ) -> None:
        self._connection = connection
        self._table = table
        self._source = source
        self._columns = columns
        self._require_time_zone = require_time_zone
        self._progress = progress
        self._watch = watch

    def run(self) -> LoadResult:
        """Load, or raise and leave everything as it was."""
        repeatable = self._source.repeatable
        try:
            return self.attempt(check_json=not repeatable)
        except RejectedError as rejected:
            error = rejected.error
        if repeatable and may_be_from_worker(error, self._table):
            error = self._find_bad_json(error)
        line = self._refused_line(error) if repeatable else None
        if explained := explain(error, self._table, self._source, self._columns, line=line):
            raise explained from error
        if may_be_from_worker(error, self._table):
            said = " ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
            advice = (
                "nor has it been found by sending the rows again: if no row is wrong, see what "
                "that node has logged."
                if repeatable
                else "load from a file or a list, which can be read again to find it."
            )
            raise LoadError(
                f"{self._source.name}: a node refused what it got: {said.rstrip('.')}. Nothing of "
                f"it was loaded. Citus does not say whether a row is at fault, and which; {advice}"
            ) from error
        raise error

    def _refused_line(self, error: psycopg.Error) -> int | None:
        """Return the line of the row that the server refuses without saying which; load nothing.

        It says nothing where a foreign key or a trigger looks at a row after COPY has read all of
        them, or a worker of Citus does. Rows are sent again, some at a time, up to those at fault.
        """
        if place_in_context(error.diag.context, self._table).line is not None:
            return None
        if self._connection.execute(
            _REFERS_TO_ITSELF,
            {"table": qualify(self._table.name, schema_of(self._connection, self._table))},
        ).scalar_one():
            # A row may need one that comes after it.
            return None
        found: int | None = None
        with (
            suppress(_UndoneError),
            savepoint(self._connection),
            pinned_settings(self._connection),
            closing(rows_of(self._source)) as rows,
        ):
            if self._columns is not None and self._source.first_line == 1:
                next(rows, None)
            while batch := list(islice(rows, _BATCH)):
                if (said := self._refused(batch)) is None:
                    continue
                # Nothing else, such as a full disk, is the fault of a row: others have to pass.
                passed, after = False, list[tuple[int, bytes]]()
                while len(batch) > 1:
                    first, second = batch[: len(batch) // 2], batch[len(batch) // 2 :]
                    refused = self._refused(first)
                    if refused is None:
                        passed, batch = True, second
                    else:
                        batch, after, said = first, second, refused
                after += islice(rows, _BATCH_TO_CONFIRM)
                passed = passed or any(
                    self._refused([row]) is None for row in after[:_BATCH_TO_CONFIRM]
                )
                if _words(said) == _words(error) and (passed or is_fault_of_data(error)):
                    found = self._source.first_line - 1 + batch[0][0]
                break
            raise _UndoneError
        return found

    def _refused(self, rows: list[tuple[int, bytes]]) -> psycopg.Error | None:
        """Load rows, and return None; or what the server says that refuses them."""
        content = [row for _, row in rows]
        if rows[0][0] == 1:
            content[0] = content[0].removeprefix(BOM_UTF8)
        try:
            with savepoint(self._connection):
                copy_rows(self._connection, self._table, "csv", content, columns=self._columns)
        except RejectedError as rejected:
            return rejected.error
        return None

    def attempt(
        self, parts: Iterable[Input] | None = None, *, check_json: bool = False
    ) -> LoadResult:
        """Load in one COPY, or leave everything as it was.

        Args:
            parts: Parts of the source that are to be loaded, of complete rows, in their order;
                otherwise, all of it.
            check_json: Whether Citus is to look at JSON where it knows the lines.

        Raises:
            RejectedError: The server refuses the data, and a row may be at fault.
        """
        tally = Tally()

        def show(rows: int) -> None:
            if self._progress:
                total = self._source.total_bytes
                self._progress(Progress(bytes=tally.bytes, rows=rows, total_bytes=total))

        def shown(blocks: Iterable[bytes]) -> Iterator[bytes]:
            rows = 0
            for block in blocks:
                yield block
                rows += block.count(b"\n")
                show(rows)

        with (
            savepoint(self._connection),
            pinned_settings(self._connection),
            checked_json(self._connection) if check_json else nullcontext(),
        ):
            rows = self._copy((self._source,) if parts is None else parts, tally, shown)
            show(rows)
        return LoadResult(rows=rows, bytes=tally.bytes)

    def _find_bad_json(self, error: psycopg.Error) -> psycopg.Error:
        """Return what the coordinator says of a source that a worker refused; load nothing."""
        try:
            with (
                savepoint(self._connection),
                pinned_settings(self._connection),
                checked_json(self._connection),
            ):
                self._watch = None
                self._copy((self._source,), Tally(), iter)
                # The source is no longer what it was when it was refused: undo it all the same.
                raise RejectedError(error)  # noqa: TRY301
        except RejectedError as rejected:
            return rejected.error

    def _copy(
        self,
        sources: Iterable[Input],
        tally: Tally,
        shown: Callable[[Iterator[bytes]], Iterator[bytes]],
    ) -> int:
        sources = iter(sources)
        first = next(sources, None)
        if first is not None:
            sources = chain((first,), sources)
        with closing(self._blocks(sources, tally)) as blocks:
            return copy_rows(
                self._connection,
                self._table,
                "csv",
                shown(blocks) if self._progress else blocks,
                columns=self._columns,
                header=self._columns is not None and first is not None and first.first_line == 1,
            )

    def _blocks(self, sources: Iterable[Input], tally: Tally) -> Generator[bytes]:
        """Yield what is to be sent of some sources."""
        version = self._connection.dialect.server_version_info
        ends_early = version is not None and int(version[0]) < _READS_TO_THE_END
        for source in sources:
            with closing(source.content(tally)) as content:
                blocks: Iterator[bytes] = content
                if self._watch is not None:
                    blocks = _watched(blocks, self._watch)
                if source.first_line == 1:
                    blocks = _without_byte_order_mark(blocks)
                if self._require_time_zone:
                    blocks = _with_zones(blocks, source, self._table, self._columns)
                yield from _without_end_marks(blocks, source) if ends_early else blocks


def _watched(blocks: Iterable[bytes], watch: Callable[[bytes], object]) -> Iterator[bytes]:
    for block in blocks:
        watch(block)
        yield block


def _without_byte_order_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield blocks without the mark that some programs begin a file of UTF-8 with."""
    start = b""
    while len(start) < len(BOM_UTF8) and (block := next(blocks, None)) is not None:
        start += block
    yield start.removeprefix(BOM_UTF8)
    yield from blocks


def _with_zones(
    blocks: Iterator[bytes], source: Input, table: Table, columns: Sequence[str] | None
) -> Iterator[bytes]:
    """Yield blocks as they are, up to a time without a zone.

    Raises:
        LoadError: There is one, or a word such as `now`.
    """
    types = {column.name: column.type for column in table.columns if column.computed is None}
    names = types if columns is None else columns
    fields, times = [], list[tuple[str, re.Pattern[bytes]]]()
    for name in names:
        kind = types[name]
        if isinstance(kind, DateTime | Date | Time):
            zoned = isinstance(kind, DateTime) and kind.timezone
            times.append((name, _TIME_WITH_ZONE if zoned else _TIME_OR_DATE))
            fields.append(b"(" + _FIELD + b")")
        else:
            fields.append(_FIELD)
    row = re.compile(b",".join(fields) + _ROW_END)
    header = columns is not None and source.first_line == 1
    line, rest = source.first_line, b""
    for block in chain(blocks, (None,)):
        # The end of the content ends its last row.
        content = rest + (block or b"\n")
        position = 0
        while match := _ROW.match(content, position):
            if block is not None and match.end() == len(content) and content.endswith(b"\r"):
                # A line feed may follow.
                break
            values = row.match(content, position)
            # The server refuses a row that has fewer fields, or more.
            for (name, pattern), found in zip(
                times, values.groups() if values else (), strict=False
            ):
                value = found.replace(b'"', b"").strip()
                if value and not pattern.fullmatch(value) and not header:
                    said = value.decode(errors="replace")
                    raise LoadError(
                        f"{source.name}, line {line}, column {name}: {said!r} is not a time with "
                        "its zone, such as 2025-01-31T12:00:00Z. Nothing of it was loaded. Correct "
                        "the row; or load without require_time_zone (--require-time-zone), and "
                        "times without a zone are in UTC.",
                        line=line,
                        column=name,
                    )
            header = False
            line += match[0].count(b"\n")
            position = match.end()
        rest = content[position:]
        if len(rest) > _LONGEST_ROW:
            raise LoadError(
                f"{source.name}, line {line}: a row is longer than {_LONGEST_ROW:,} bytes, or a "
                "quote has no end. Nothing of it was loaded; correct it, or load it without "
                "require_time_zone (--require-time-zone).",
                line=line,
            )
        if block is not None:
            yield block


def _without_end_marks(blocks: Iterator[bytes], source: Input) -> Iterator[bytes]:
    """Yield blocks as they are, up to a line by which older servers end the data.

    Raises:
        LoadError: There is such a line; between quotes it is a part of a value to all servers.
    """
    # The line end before the first line counts as a line, too.
    line, quotes, kept = source.first_line - 1, 0, b"\n"
    # The end of the content ends its last line, but nothing is to be sent for it.
    for block in chain(blocks, (None,)):
        looked_at = kept + (b"\n" if block is None else block)
        mark = _end_mark(looked_at, quotes)
        if mark is not None:
            line += looked_at.count(b"\n", 0, mark + 1)
            raise LoadError(
                f"{source.name}, line {line}: there is nothing but \\. on this line. PostgreSQL "
                f"before version {_READS_TO_THE_END} takes it for the end of the data, and would "
                "leave out all rows after it without saying so. Nothing of it was loaded; "
                'remove the line, or write the value in quotes ("\\.") if it is one.',
                line=line,
            )
        passed = max(0, len(looked_at) - _PART_OF_MARK)
        line += looked_at.count(b"\n", 0, passed)
        quotes += looked_at.count(b'"', 0, passed)
        kept = looked_at[passed:]
        if block is not None:
            yield block


def _end_mark(content: bytes, quotes: int) -> int | None:
    """Return where the line end before a mark is, given how many quotes came before."""
    # Nearly always there is none. To look for one byte first is ten times faster where there is no
    # backslash at all.
    if b"\\" not in content or b"\\." not in content:
        return None
    counted = 0
    for match in _END_MARK.finditer(content):
        quotes += content.count(b'"', counted, match.start())
        counted = match.start()
        if quotes % 2 == 0:
            return counted
    return None
