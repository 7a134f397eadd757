"""Events in JSON on their way into `github_events`: what can be stored is, the rest is told.

A server refuses few rows: for numbers that are too large, text that is nested too deeply or a
constraint of the user's own. So a source that can be read again goes in one COPY, and nothing of it
is kept: a COPY is what costs on Citus, where it begins and ends on every shard. If a row is refused
after all, the source is read once more, in batches of a COPY each. What a batch holds is kept until
the server has taken it, so that the row at fault is found and rejected, and the others are sent
again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from citus_analytics.errors import LoadError
from citus_analytics.github.gharchive import EventRow, Reject
from citus_analytics.github.ingest.connections import (
    RejectedError,
    all_or_nothing,
    checked_json,
    copy,
    copy_statement,
)
from citus_analytics.github.ingest.faults import (
    fault_of_row,
    is_of_data,
    lacks_place,
    place_in_context,
    row_at_fault,
)
from citus_analytics.github.ingest.sources import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import psycopg
    from sqlalchemy import Connection, Table

    from citus_analytics.github.ingest.results import LoadOptions
    from citus_analytics.github.ingest.users import Users

# Many events, so that a statement costs little; few enough to be kept, twice, in memory.
_BATCH_SIZE: Final = 1 << 24
_SMALL_BATCH_SIZE: Final = 1 << 18
_SHOWN: Final = 120


class Counts:
    """What became of the events so far."""

    __slots__ = ("rejected", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.rejected = 0


class _Refused:
    """What the server refused of a batch, and what it said.

    Of the errors, which hold on to results and to much else, only that of the first row is kept.
    """

    __slots__ = ("_first_line", "_rows", "error")

    def __init__(self) -> None:
        self._first_line = 0
        self._rows: list[tuple[EventRow, str]] = []
        self.error: psycopg.Error | None = None

    def add(self, row: EventRow, error: psycopg.Error) -> None:
        if self.error is None or row.line < self._first_line:
            self._first_line = row.line
            self.error = error.with_traceback(None)
        self._rows.append((row, error.diag.message_primary or str(error)))

    def rejects(self) -> Iterator[Reject]:
        """Yield the rows in the order of their lines."""
        for row, said in sorted(self._rows, key=lambda each: each[0].line):
            yield Reject(row.line, f"the server refuses it: {said}", row.text)


class JsonLoad:
    """Events on their way into one table.

    Args:
        connection: Where the table is.
        table: Where the rows go: `github_events`, or a table with the same columns.
        name: What to call the source in messages.
        options: What is done with events that cannot be stored.
        users: Where to note the users, if anywhere.
        in_batches: Whether to keep what is sent until the server has taken it. If not, and the
            server refuses a row, `RejectedError` is raised.
    """

    __slots__ = (
        "_batch_size",
        "_connection",
        "_in_batches",
        "_name",
        "_options",
        "_statement",
        "_table",
        "_users",
        "counts",
    )

    def __init__(
        self,
        connection: Connection,
        table: Table,
        name: str,
        options: LoadOptions,
        users: Users | None,
        *,
        in_batches: bool = True,
    ) -> None:
        self._connection = connection
        self._in_batches = in_batches
        self._statement = copy_statement(connection, table, "FORMAT text")
        self._table = table
        self._name = name
        self._options = options
        self._users = users
        self._batch_size = _BATCH_SIZE
        self.counts = Counts()

    def store(self, outcomes: Iterable[EventRow | Reject]) -> None:
        """Store the rows among the outcomes, and tell of the others."""
        rows = self._rows(outcomes)
        for first in rows:
            if self._in_batches:
                self._store_batch(first, rows)
            else:
                self._store_all(first, rows)
            if self._users is not None:
                self._users.make_room()

    def _store_all(self, first: EventRow, rows: Iterator[EventRow]) -> None:
        with row_at_fault(self._table):
            copy(self._connection, self._statement, self._noted(_blocks(first, rows)))

    def _noted(self, blocks: Iterable[list[EventRow]]) -> Iterator[bytes]:
        """Yield blocks, each noted at once, until there is room for no more users."""
        for block in blocks:
            self._note(block)
            yield b"".join([row.copy for row in block])
            if self._users is not None and self._users.full:
                return

    def _store_batch(self, first: EventRow, rows: Iterator[EventRow]) -> None:
        kept: list[EventRow] = []
        try:
            with all_or_nothing(self._connection):
                copy(
                    self._connection,
                    self._statement,
                    _batch(_blocks(first, rows), kept, self._batch_size),
                )
            self._batch_size = min(2 * self._batch_size, _BATCH_SIZE)
        except RejectedError as rejected:
            # Where one is refused more may be, and each has the others sent again.
            self._batch_size = min(self._batch_size, _SMALL_BATCH_SIZE)
            with all_or_nothing(self._connection), checked_json(self._connection):
                kept = self._without_refused(kept, rejected.error)
        self._note(kept)

    def _rows(self, outcomes: Iterable[EventRow | Reject]) -> Iterator[EventRow]:
        for outcome in outcomes:
            if isinstance(outcome, Reject):
                self._reject(outcome)
            else:
                yield outcome

    def _note(self, rows: list[EventRow]) -> None:
        self.counts.rows += len(rows)
        if self._users is not None:
            self._users.add(rows)

    def _reject(self, reject: Reject, cause: Exception | None = None) -> None:
        if self._options.strict:
            line = f", line {reject.line}" if reject.line else ""
            raise LoadError(
                f"{self._name}{line}: {reject.reason}. Nothing of it was "
                f"loaded. It begins with {reject.text[:_SHOWN]!r}. Correct it or "
                "leave it out, or load without strict to have it rejected.",
                line=reject.line or None,
            ) from cause
        self.counts.rejected += 1
        if self._options.rejects:
            self._options.rejects(reject)

    def _without_refused(self, rows: list[EventRow], error: psycopg.Error) -> list[EventRow]:
        """Store all rows but those that the server refuses; return those that it has."""
        stored: list[EventRow] = []
        refused = _Refused()
        waiting = self._divided(rows, error, refused)
        while waiting:
            some = waiting.pop()
            try:
                with all_or_nothing(self._connection):
                    copy(self._connection, self._statement, [row.copy for row in some])
                stored += some
            except RejectedError as rejected:
                waiting += self._divided(some, rejected.error, refused)
        for reject in refused.rejects():
            self._reject(reject, refused.error)
        return stored

    def _divided(
        self, rows: list[EventRow], error: psycopg.Error, refused: _Refused
    ) -> list[list[EventRow]]:
        """Return what to try after rows were refused, the last first, and note the row at fault.

        What follows it is halved, so that many bad rows are not all sent again for each of them.
        Of what fails on a worker of Citus only the words are known: rows are halved to find the one
        that fails, but whether it is at fault has to be asked.

        Raises:
            psycopg.Error: No row is at fault.
        """
        unplaced = lacks_place(error, self._table)
        if unplaced and len(rows) == 1:
            error = fault_of_row(self._connection, self._table, rows[0].copy, error)
        if not (is_of_data(error) or unplaced):
            raise error
        line = place_in_context(error.diag.context, self._table).line
        if len(rows) == 1:
            at = 0
        elif unplaced or line is None or line > len(rows):
            middle = len(rows) // 2
            return [rows[middle:], rows[:middle]]
        else:
            at = line - 1
        refused.add(rows[at], error)
        middle = (at + 1 + len(rows)) // 2
        parts = [rows[middle:], rows[at + 1 : middle], rows[:at]]
        return [part for part in parts if part]


def _blocks(first: EventRow, rows: Iterator[EventRow]) -> Iterator[list[EventRow]]:
    """Yield rows in blocks that are worth sending."""
    block, size = [first], len(first.copy)
    for row in rows:
        block.append(row)
        size += len(row.copy)
        if size >= BLOCK_SIZE:
            yield block
            block, size = [], 0
    yield block


def _batch(
    blocks: Iterable[list[EventRow]], kept: list[EventRow], batch_size: int
) -> Iterator[bytes]:
    """Yield the blocks of a batch, and keep their rows."""
    size = 0
    for block in blocks:
        kept += block
        sent = b"".join([row.copy for row in block])
        yield sent
        size += len(sent)
        if size >= batch_size:
            return
