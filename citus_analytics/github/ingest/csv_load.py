"""CSV on its way into a table: as the bytes that it is."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Final, NoReturn

from citus_analytics.errors import LoadError
from citus_analytics.github.ingest.connections import (
    RejectedError,
    all_or_nothing,
    checked_json,
    copy,
    copy_statement,
)
from citus_analytics.github.ingest.faults import explain, lacks_place, row_at_fault
from citus_analytics.github.ingest.results import LoadResult, Progress
from citus_analytics.github.ingest.sources import Tally, content_blocks, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    import psycopg
    from sqlalchemy import Connection, Table

    from citus_analytics.github.ingest.results import ProgressCallback
    from citus_analytics.github.ingest.sources import Input

# The first release of PostgreSQL to which a line of CSV with nothing but `\.` is not the end.
_READS_TO_THE_END: Final = 18
_END_MARK: Final = re.compile(rb"[\r\n](?=\\\.[\r\n])")
# What of a mark, with the line end before it, may stand at the end of a block.
_PART_OF_MARK: Final = 3


class CsvLoad:
    """One source of CSV on its way into one table.

    Args:
        connection: Where the table is.
        table: Where the rows go.
        source: Where they come from.
        progress: Called with how far the load has come.
        watch: Called with every block of the content.
    """

    __slots__ = ("_connection", "_progress", "_source", "_statement", "_table", "_watch")

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
        self._statement = copy_statement(connection, table, "FORMAT csv")
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
        if repeatable and lacks_place(error, self._table):
            error = self._find_bad_json(error)
        if explained := explain(error, self._table, self._source):
            raise explained from error
        raise error

    def attempt(
        self, parts: Iterable[Input] | None = None, *, check_json: bool = False
    ) -> LoadResult:
        """Load, or leave everything as it was.

        Args:
            parts: Parts of the source that are to be loaded, of complete rows; otherwise, all.
            check_json: Whether Citus is to look at JSON where it knows the lines.

        Raises:
            RejectedError: The server refuses the data, and a row may be at fault.
        """
        tally = Tally()
        with (
            all_or_nothing(self._connection),
            checked_json(self._connection, wanted=check_json),
        ):
            sources = (self._source,) if parts is None else parts
            with row_at_fault(self._table):
                rows = self._copy(sources, tally, self._progress, self._watch)
            if self._progress:
                self._progress(self._so_far(tally.bytes, rows))
        return LoadResult(rows=rows, bytes=tally.bytes)

    def _find_bad_json(self, error: psycopg.Error) -> psycopg.Error:
        """Return what the coordinator says of a source that a worker refused; load nothing."""
        try:
            with all_or_nothing(self._connection), checked_json(self._connection):
                self._copy_in_vain(error)
        except RejectedError as rejected:
            return rejected.error

    def _copy_in_vain(self, error: psycopg.Error) -> NoReturn:
        self._copy((self._source,), Tally(), None, None)
        # The source is no longer what it was when it was refused.
        raise RejectedError(error)

    def _copy(
        self,
        sources: Iterable[Input],
        tally: Tally,
        progress: ProgressCallback | None,
        watch: Callable[[bytes], object] | None,
    ) -> int:
        """Send sources to the server; return the number of rows."""
        with closing(self._blocks(sources, tally, watch)) as blocks:
            sent = blocks if progress is None else self._told(blocks, tally, progress)
            return copy(self._connection, self._statement, sent)

    def _blocks(
        self,
        sources: Iterable[Input],
        tally: Tally,
        watch: Callable[[bytes], object] | None,
    ) -> Generator[bytes]:
        version = self._connection.dialect.server_version_info
        ends_early = version is not None and int(version[0]) < _READS_TO_THE_END
        for source in sources:
            with closing(content_blocks(source, tally)) as content:
                blocks = content if watch is None else watched(content, watch)
                if source.first_line == 1:
                    blocks = _without_byte_order_mark(blocks)
                yield from _without_end_marks(blocks, source) if ends_early else blocks

    def _told(
        self, blocks: Iterable[bytes], tally: Tally, progress: ProgressCallback
    ) -> Iterator[bytes]:
        rows = 0
        for block in blocks:
            yield block
            rows += block.count(b"\n")
            progress(self._so_far(tally.bytes, rows))

    def _so_far(self, read: int, rows: int) -> Progress:
        return Progress(bytes=read, rows=rows, total_bytes=self._source.total_bytes)


def _without_byte_order_mark(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks without the mark that some programs begin a file of UTF-8 with."""
    rest = iter(blocks)
    start = b""
    while len(start) < len(BOM_UTF8) and (block := next(rest, None)) is not None:
        start += block
    yield start.removeprefix(BOM_UTF8)
    yield from rest


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
