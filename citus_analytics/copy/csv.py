"""CSV into a table, as the bytes that it is: the server parses it, and nothing else does."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from citus_analytics.copy.connection import (
    checked_json,
    connection_of,
    copy_rows,
    savepoint,
)
from citus_analytics.copy.errors import RejectedError, explain, may_be_from_worker
from citus_analytics.copy.source import Tally, expand, open_source
from citus_analytics.errors import LoadError
from citus_analytics.schema import table_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

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
    """

    rows: int
    bytes: int
    rejected: int = 0
    duplicates: int = 0
    already_loaded: bool = False


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
    source: Source | Sequence[PathName],
    *,
    progress: ProgressCallback | None = None,
) -> LoadResult:
    """Load CSV without a header, UTF-8, into a table: a field for every column, in their order.

    All or nothing, in the caller's transaction: nothing is committed, and after an error the
    table and what the transaction did before are as they were. On an autocommit connection the
    load is a transaction of its own. A session's pending objects are flushed first, unless its
    autoflush is off, as by `Session.execute`.

    With asyncio, `await session.run_sync(load_csv, table, source)` does the same.

    On Citus, a source that cannot be read twice (a pipe, an iterable) loads somewhat slower: the
    coordinator must check its JSON, because a worker that finds it bad cannot name the line.

    Args:
        connection: A connection or session on the driver psycopg 3.
        table: Where the rows go: a table or a mapped class.
        source: A path, a folder (its files that end with `.csv` or `.csv.gz`), a range such as
            `2015-01-{01..31}.csv`, an http(s) address, or a list of these; "-" for standard input,
            an open binary file (which stays open), or an iterable of bytes in blocks of any size.
            Any of them may be compressed by gzip.
        progress: Called after every block, and at the end, with what has been read so far, of each
            file anew. What it raises ends the load and reaches the caller.

    Raises:
        LoadError: A row is malformed, with its line and column (of a row of several lines the
            first, or the last if the source cannot be read twice), or a file cannot be read.
        ArgumentError: The source is open in text mode or gives no bytes, or the connection or the
            table is of another kind.
        psycopg.Error: An error that is not the fault of the source, such as a missing table; and a
            constraint that a worker of Citus found violated, for which Citus does not pass on what
            kind of error that is.
    """
    table = table_of(table)
    opened = connection_of(connection, table)
    inputs = [open_source(each) for each in _sources(source)]
    with savepoint(opened) if len(inputs) > 1 else nullcontext():
        return sum_of(CsvLoad(opened, table, each, progress=progress).run() for each in inputs)


def _sources(source: Source | Sequence[PathName]) -> Iterable[Source]:
    """Return the single sources behind a path, a list of paths or another source."""
    paths: Any = source if isinstance(source, list | tuple) else [source]
    if paths and all(isinstance(path, str | PathLike) for path in paths):
        return [name for path in paths for name in expand(path)]
    return [cast("Source", source)]


class CsvLoad:
    """One source of CSV on its way into one table.

    Args:
        connection: Where the table is.
        table: Where the rows go.
        source: Where they come from.
        progress: Called with how far the load has come.
        watch: Called with every block of the content.
    """

    __slots__ = ("_connection", "_progress", "_source", "_table", "_watch")

    def __init__(
        self,
        connection: Connection,
        table: Table,
        source: Input,
        *,
        progress: ProgressCallback | None = None,
        watch: Callable[[bytes], object] | None = None,
    ) -> None:
        self._connection = connection
        self._table = table
        self._source = source
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
        if explained := explain(error, self._table, self._source):
            raise explained from error
        raise error

    def attempt(
        self, parts: Iterable[Input] | None = None, *, check_json: bool = False
    ) -> LoadResult:
        """Load in one COPY, or leave everything as it was.

        Args:
            parts: Parts of the source that are to be loaded, of complete rows; otherwise, all.
            check_json: Whether Citus is to look at JSON where it knows the lines.

        Raises:
            RejectedError: The server refuses the data, and a row may be at fault.
        """
        sources = (self._source,) if parts is None else parts
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
            checked_json(self._connection) if check_json else nullcontext(),
        ):
            with closing(self._blocks(sources, tally)) as blocks:
                sent = shown(blocks) if self._progress else blocks
                rows = copy_rows(self._connection, self._table, "csv", sent)
            show(rows)
        return LoadResult(rows=rows, bytes=tally.bytes)

    def _find_bad_json(self, error: psycopg.Error) -> psycopg.Error:
        """Return what the coordinator says of a source that a worker refused; load nothing."""
        try:
            with savepoint(self._connection), checked_json(self._connection):
                with closing(self._blocks((self._source,), Tally(), watched=False)) as blocks:
                    copy_rows(self._connection, self._table, "csv", blocks)
                # The source is no longer what it was when it was refused: undo it all the same.
                raise RejectedError(error)  # noqa: TRY301
        except RejectedError as rejected:
            return rejected.error

    def _blocks(
        self, sources: Iterable[Input], tally: Tally, *, watched: bool = True
    ) -> Generator[bytes]:
        """Yield what is to be sent of some sources."""
        version = self._connection.dialect.server_version_info
        ends_early = version is not None and int(version[0]) < _READS_TO_THE_END
        for source in sources:
            with closing(source.content(tally)) as content:
                blocks: Iterator[bytes] = content
                if watched and self._watch is not None:
                    blocks = _watched(blocks, self._watch)
                if source.first_line == 1:
                    blocks = _without_byte_order_mark(blocks)
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
