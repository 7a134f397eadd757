"""CSV on its way into a table: as the bytes that it is."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, NoReturn

from citus_analytics.ingest.connections import (
    RejectedError,
    all_or_nothing,
    checked_json,
    copy,
    copy_statement,
)
from citus_analytics.ingest.faults import explain, lacks_place
from citus_analytics.ingest.results import LoadResult, Progress
from citus_analytics.ingest.sources import Tally, content_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import psycopg
    from sqlalchemy import Connection, Table

    from citus_analytics.ingest.results import ProgressCallback
    from citus_analytics.ingest.sources import Input


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
            return self._load(check_json=not repeatable)
        except RejectedError as rejected:
            error = rejected.error
        if repeatable and lacks_place(error, self._table):
            error = self._find_bad_json(error)
        if explained := explain(error, self._table, self._source):
            raise explained from error
        raise error

    def _load(self, *, check_json: bool) -> LoadResult:
        tally = Tally()
        with (
            all_or_nothing(self._connection),
            checked_json(self._connection, wanted=check_json),
        ):
            rows = self._copy(tally, self._progress, self._watch)
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
        self._copy(Tally(), None, None)
        # The source is no longer what it was when it was refused.
        raise RejectedError(error)

    def _copy(
        self,
        tally: Tally,
        progress: ProgressCallback | None,
        watch: Callable[[bytes], object] | None,
    ) -> int:
        """Send the source to the server; return the number of rows."""
        with closing(self._blocks(tally, progress, watch)) as blocks:
            return copy(self._connection, self._statement, blocks)

    def _blocks(
        self,
        tally: Tally,
        progress: ProgressCallback | None,
        watch: Callable[[bytes], object] | None,
    ) -> Generator[bytes]:
        with closing(content_blocks(self._source, tally)) as blocks:
            for block in blocks:
                if watch:
                    watch(block)
                yield block
                if progress:
                    progress(self._so_far(tally.bytes, tally.lines))

    def _so_far(self, read: int, rows: int) -> Progress:
        return Progress(bytes=read, rows=rows, total_bytes=self._source.total_bytes)
