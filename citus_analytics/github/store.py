"""What loading GitHub's events does in the database, for one connection or several.

- `EventLoad` copies the rows of events, and finds those that the server refuses.
- `Ledger` knows which files are loaded (`loaded_files`).
- `Stage` compares rows with those that are there, before they go in.
- `Users` keeps the newest record of each user that the events mention.
- `HeldRejects` keeps what cannot be stored until all of a source is.

Loaders hold advisory locks until the end of their transaction. One that needs several takes them in
the order file, rows, users, so that no two loaders of one source wait for each other. Transactions
that load several sources take them in the same order.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable, UniqueViolation
from sqlalchemy import (
    BigInteger,
    Column,
    LargeBinary,
    MetaData,
    Table,
    and_,
    any_,
    column,
    delete,
    func,
    literal_column,
    select,
    table,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import array, distinct_on, insert
from sqlalchemy.exc import DBAPIError, OperationalError

from citus_analytics.copy import LoadResult
from citus_analytics.copy.connection import (
    checked_json,
    columns_of,
    copy_rows,
    pinned_settings,
    read_rows,
    savepoint,
)
from citus_analytics.copy.errors import (
    RejectedError,
    is_fault_of_data,
    may_be_from_worker,
    place_in_context,
)
from citus_analytics.copy.source import BLOCK_SIZE
from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.events import EventRow, Reject, UserRecord
from citus_analytics.github.models import (
    github_events,
    github_user_origins,
    github_users,
    loaded_files,
)
from citus_analytics.sql import copy_field, qualify, quote, schema_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Delete, Engine, FromClause

    from citus_analytics.copy.source import Input

Format: TypeAlias = Literal["auto", "csv", "json"]
Kind: TypeAlias = Literal["csv", "lines", "array"]
RejectCallback: TypeAlias = Callable[[Reject], object]

BUSY: Final = (LockNotAvailable, DeadlockDetected)
"""Errors of the driver where another transaction keeps a table for longer than `LOCK_TIMEOUT`."""

LOCK_TIMEOUT: Final = "2s"
"""How long to wait for the lock of a table: meanwhile, all that come later wait behind it."""

# What comes after the name of the table in CREATE INDEX.
_INDEXES: Final = text(
    "SELECT substr(def, strpos(def, ' USING ')) FROM pg_catalog.pg_index, "
    "LATERAL pg_catalog.pg_get_indexdef(indexrelid) AS def "
    "WHERE indrelid = CAST(:table AS regclass) AND indisvalid"
)
# Whether a table may refuse rows that a copy of it would take. Capturing changes refuses none.
_LATE_DEMANDS: Final = text(
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint "
    "WHERE conrelid = CAST(:table AS regclass) AND contype = 'f') "
    "OR EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = CAST(:table AS regclass) "
    "AND NOT tgisinternal AND tgenabled <> 'D' "
    "AND tgname !~ '_capture_(insert|update|delete|truncate)$')"
)
_NOBODY: Final = UserRecord(None, None, None, None, None)
# How many rows are read at a time to be sent again.
_PAGE: Final = 10_000
# After a refusal more rows may be refused, and for each of them the others are sent again.
_SMALL_BATCH_SIZE: Final = 1 << 18
_SHOWN: Final = 120
# The fields of COPY's text format.
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
# What identifies a row. The time of an event is among it for the index on (user_id, created_at),
# which finds the event without a scan of the table.
_KEYS: Final = {
    github_events: ("user_id", "created_at", "event_id"),
    github_users: ("user_id",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffers:
    """How much a load keeps in memory, for each connection; the defaults were measured.

    Attributes:
        block_size: Bytes that are read, and sent, at a time.
        batch_size: Bytes that are sent with one COPY, and kept until the server has taken them,
            while rows are looked for that the server refuses.
        part_size: Bytes of a content that one of several connections takes at a time, at most; a
            file of less than an eighth of that goes over one connection.
        users: Users who are kept before they go to a temporary table.
        rejects: Bytes of rejects that are kept before they go to a temporary file.
    """

    block_size: int = BLOCK_SIZE
    batch_size: int = 1 << 24
    part_size: int = 1 << 23
    users: int = 20_000
    rejects: int = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a source is loaded.

    Attributes:
        format: What the source is; "auto" looks at its first character: JSON begins with a brace
            or a bracket.
        users: Whether the users that events in JSON mention are stored as well.
        unique: Whether a row that is there already, or was earlier in the source, is left out. An
            event is the same if its id, its user and its time are, and none is missing; a user if
            the id is. Needs the isolation level READ COMMITTED.
        header: Whether the first line of CSV names the columns, in any order.
        require_time_zone: Whether times in CSV that have no zone are refused, and words such as
            `now`; otherwise times without a zone are in UTC. JSON has to have zones anyway.
        strict: Whether the first event that is found that cannot be stored ends the load. A
            malformed row of CSV always does.
        rejects: Called with each event that cannot be stored: when all of a file has been read and
            stored, and before anything is committed; not at all if the file fails before that.
        buffers: How much is kept in memory.
    """

    format: Format = "auto"
    users: bool = True
    unique: bool = False
    header: bool = False
    require_time_zone: bool = False
    strict: bool = False
    rejects: RejectCallback | None = None
    buffers: Buffers = Buffers()


class EventLoad:
    """Events on their way into one table.

    A server refuses few rows: for numbers that are too large, text that is nested too deeply or a
    constraint of the user's own. So a source that can be read again goes in one COPY, and nothing
    of it is kept: a COPY is what costs on Citus, where it begins and ends on every shard. If a row
    is refused after all, the source is read once more, in batches of a COPY each. What a batch
    holds is kept until the server has taken it, so that the row at fault is found and rejected, and
    the others are sent again.

    Args:
        connection: Where the table is.
        table: Where the rows go: `github_events`, or a table with the same columns.
        name: What to call the source in messages.
        options: How to load, and what to do with events that cannot be stored.
        users: Where to note the users, if anywhere.
        in_batches: Whether to keep rows until the server has taken them.
        tracked: Whether the table has columns for the line and the text of each event, in batches.
        unless_known: Whether a row that a unique key knows is left out, and not rejected.

    Attributes:
        rows: How many have been sent, or stored in batches, so far.
        rejected: How many events could not be stored.
        refused: The rows among these that the server refuses.
    """

    def __init__(
        self,
        connection: Connection,
        table: Table,
        name: str,
        options: LoadOptions,
        users: Users | None,
        *,
        in_batches: bool = True,
        tracked: bool = False,
        unless_known: bool = False,
    ) -> None:
        self._connection = connection
        self._table = table
        self._tracked = tracked
        self._unless_known = unless_known
        self._name = name
        self._options = options
        self._users = users
        self._in_batches = in_batches
        self._batch_size = options.buffers.batch_size
        self.rows = 0
        self.rejected = 0
        self.refused: list[EventRow] = []

    def store(self, outcomes: Iterable[EventRow | Reject]) -> None:
        """Store the rows among the outcomes, and reject the others.

        Raises:
            LoadError: With `strict`, an event cannot be stored.
            RejectedError: The server refuses a row, and the load is not in batches.
        """
        blocks = self._blocks(outcomes)
        for first in blocks:
            if self._in_batches:
                self._store_batch(chain((first,), blocks))
            else:
                sent = self._sent(chain((first,), blocks))
                copy_rows(self._connection, self._table, "text", sent)
            if self._users is not None and self._users.full:
                self._users.spill()

    def _blocks(self, outcomes: Iterable[EventRow | Reject]) -> Iterator[list[EventRow]]:
        """Yield the rows in blocks that are worth sending."""
        enough = self._options.buffers.block_size
        block: list[EventRow] = []
        size = 0
        for outcome in outcomes:
            if isinstance(outcome, Reject):
                self._reject(outcome)
                continue
            row = _with_origin(outcome) if self._tracked else outcome
            block.append(row)
            size += len(row.copy)
            if size >= enough:
                yield block
                block, size = [], 0
        if block:
            yield block

    def _sent(self, blocks: Iterable[list[EventRow]]) -> Iterator[bytes]:
        """Yield blocks, each noted at once, until there are too many users for the memory."""
        for block in blocks:
            self._note(block)
            yield b"".join([row.copy for row in block])
            if self._users is not None and self._users.full:
                return

    def _store_batch(self, blocks: Iterable[list[EventRow]]) -> None:
        batch: list[EventRow] = []

        def sent() -> Iterator[bytes]:
            size = 0
            for block in blocks:
                batch.extend(block)
                copied = b"".join([row.copy for row in block])
                yield copied
                size += len(copied)
                if size >= self._batch_size:
                    return

        try:
            with savepoint(self._connection):
                copy_rows(self._connection, self._table, "text", sent())
            self._batch_size = min(2 * self._batch_size, self._options.buffers.batch_size)
        except RejectedError as rejected:
            self._batch_size = min(self._batch_size, _SMALL_BATCH_SIZE)
            with savepoint(self._connection), checked_json(self._connection):
                batch = self._without_refused(batch, rejected.error)
        self._note(batch)

    def _note(self, rows: list[EventRow]) -> None:
        self.rows += len(rows)
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
        self.rejected += 1
        if self._options.rejects:
            self._options.rejects(reject)

    def _without_refused(self, rows: list[EventRow], error: psycopg.Error | None) -> list[EventRow]:
        """Store all rows but those that the server refuses; return those that it has.

        Args:
            rows: The rows of a batch.
            error: What the server said when it refused them.

        Raises:
            psycopg.Error: No row is at fault.
        """
        stored: list[EventRow] = []
        refused: list[tuple[EventRow, str]] = []
        # Errors hold on to results and to much else: only that of the first row is kept.
        first: tuple[int, psycopg.Error] | None = None
        waiting = [rows]
        while waiting:
            some = waiting.pop()
            if error is None:
                try:
                    with savepoint(self._connection):
                        copy_rows(self._connection, self._table, "text", [r.copy for r in some])
                    stored += some
                    continue
                except RejectedError as rejected:
                    error = rejected.error
            unplaced = may_be_from_worker(error, self._table)
            if unplaced and len(some) == 1:
                error = self._fault_of(some[0], error)
            line = place_in_context(error.diag.context, self._table).line
            if len(some) > 1 and (unplaced or line is None or line > len(some)):
                # Of what fails on a worker of Citus only the message is known.
                middle = len(some) // 2
                waiting += [some[middle:], some[:middle]]
            else:
                at = 0 if len(some) == 1 or line is None else line - 1
                row = some[at]
                if not (self._unless_known and error.sqlstate == UniqueViolation.sqlstate):
                    refused.append((row, error.diag.message_primary or str(error)))
                    if first is None or row.line < first[0]:
                        first = row.line, error.with_traceback(None)
                # What follows is halved, so that many bad rows are not all sent again for each.
                middle = (at + 1 + len(some)) // 2
                parts = some[middle:], some[at + 1 : middle], some[:at]
                waiting += [part for part in parts if part]
            error = None
        for row, said in sorted(refused, key=lambda each: each[0].line):
            self.refused.append(row)
            reject = Reject(row.line, f"the server refuses it: {said}", row.text)
            self._reject(reject, first and first[1])
        return stored

    def _fault_of(self, row: EventRow, error: psycopg.Error) -> psycopg.Error:
        """Return what is wrong with a row that COPY refused by itself, without the SQLSTATE.

        An INSERT is tried, for which Citus passes on the SQLSTATE that a worker gave.

        Raises:
            psycopg.Error: What COPY said: the row is not at fault, or no longer.
        """
        values = tuple(
            None
            if field == r"\N"
            else _ESCAPED.sub(lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), field)
            for field in row.copy.decode().removesuffix("\n").split("\t")
        )
        into, marks = columns_of(self._connection, self._table), ", ".join(["%s"] * len(values))
        try:
            with savepoint(self._connection):
                self._connection.exec_driver_sql(
                    f"INSERT INTO {into} VALUES ({marks})",  # noqa: S608 - quoted
                    values,
                )
        except DBAPIError as refused:
            said = refused.orig
        else:
            raise error
        if isinstance(said, psycopg.Error) and is_fault_of_data(said):
            return said
        raise error from said


def _with_origin(row: EventRow) -> EventRow:
    """Return a row with two more fields: the line and the text of its event."""
    origin = b"\t%d\t\\\\x%s\n" % (row.line, row.text.hex().encode())
    return row._replace(copy=row.copy.removesuffix(b"\n") + origin)


class Content:
    """The content of a source as it passes by: its size, and its fingerprint at the end."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.bytes = 0

    @classmethod
    def of(cls, source: Input) -> Content:
        """Read a source to its end."""
        content = cls()
        with closing(source.content()) as blocks:
            for block in blocks:
                content.add(block)
        return content

    def add(self, block: bytes) -> None:
        """Note the next block."""
        self._hash.update(block)
        self.bytes += len(block)

    def noted(self, block: bytes) -> bytes:
        """Note the next block, and return it."""
        self.add(block)
        return block

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all blocks."""
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a content, in bytes: from the first up to, and without, the end."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a content.

    Attributes:
        parts: What of it is loaded, in order.
        total: The size of the content; 0 if nothing is known.
        result: The result of loading these parts.
    """

    parts: tuple[Part, ...]
    total: int
    result: LoadResult

    @property
    def complete(self) -> bool:
        """Whether all of it is loaded."""
        return bool(self.parts) and not self.missing

    @property
    def missing(self) -> tuple[Part, ...]:
        """What is not loaded, in order."""
        ends = [0, *(part.end for part in self.parts)]
        firsts = [*(part.first for part in self.parts), self.total]
        gaps = (Part(end, first) for end, first in zip(ends, firsts, strict=True))
        return tuple(gap for gap in gaps if gap.first < gap.end)


class Ledger:
    """The files that are loaded into one table."""

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._table = table.name

    def may_know(self, source: Input) -> bool:
        """Whether a file of this size is loaded, so that it is worth reading this one."""
        if not source.repeatable or source.total_bytes is None:
            return False
        statement = select(loaded_files.c.fingerprint).where(
            loaded_files.c.table_name == self._table,
            loaded_files.c.stored_bytes == source.total_bytes,
        )
        return self._connection.execute(statement.limit(1)).first() is not None

    def known(self, content: Content) -> Known:
        """Return what is known of a content."""
        # Without `loaded_at`, which the driver cannot read under every DateStyle.
        columns = [column for column in loaded_files.c if column.name != "loaded_at"]
        statement = select(*columns).where(*self._is(content))
        rows = self._connection.execute(statement.order_by(loaded_files.c.first_byte)).all()
        return Known(
            parts=tuple(Part(row.first_byte, row.end_byte) for row in rows),
            total=rows[0].total_bytes if rows else 0,
            result=LoadResult(
                rows=sum(row.row_count for row in rows),
                bytes=rows[0].stored_bytes if rows else 0,
                rejected=sum(row.rejected for row in rows),
                duplicates=sum(row.duplicates for row in rows),
                already_loaded=True,
            ),
        )

    def locked(self, content: Content) -> Known:
        """Return the same, and let no other loader have this content until the transaction ends."""
        require_read_committed(self._connection)
        lock(self._connection, "file", self._table, content.fingerprint)
        # Parts may still be on their way into the table, of a client that is gone. A savepoint that
        # is rolled back lets go of the locks that were taken in it.
        waiting = self._connection.begin_nested()
        lock(self._connection, "parts", self._table, content.fingerprint)
        waiting.rollback()
        return self.known(content)

    def announce(self, content: Content) -> None:
        """Say that parts are about to be committed, beside a transaction that holds the content."""
        key = _lock_key("parts", self._table, content.fingerprint)
        self._connection.execute(select(func.pg_advisory_xact_lock_shared(key)))

    def record(
        self, content: Content, source: Input, result: LoadResult, parts: Sequence[Part]
    ) -> None:
        """Note that parts are loaded, in the transaction that loads them.

        The rows of several parts, which are only known for all of them, are noted with the first.
        """
        rows = [
            {
                "table_name": self._table,
                "fingerprint": content.fingerprint,
                "total_bytes": content.bytes,
                "stored_bytes": source.total_bytes or result.bytes,
                "name": source.name,
                "first_byte": each.first,
                "end_byte": each.end,
                "row_count": 0 if number else result.rows,
                "rejected": 0 if number else result.rejected,
                "duplicates": 0 if number else result.duplicates,
            }
            for number, each in enumerate(parts)
        ]
        if rows:
            self._connection.execute(insert(loaded_files), rows)

    def forget(self, content: Content) -> None:
        """Note that nothing of a content is loaded."""
        self._connection.execute(delete(loaded_files).where(*self._is(content)))

    def _is(self, content: Content) -> tuple[ColumnElement[bool], ...]:
        columns = loaded_files.c
        return columns.table_name == self._table, columns.fingerprint == content.fingerprint


class _RefusedError(Exception):
    """Rows are refused that are to replace others."""


class Stage:
    """A temporary table of rows, which are compared with those of a table before they go in.

    Args:
        connection: Where the table is.
        table: `github_events` or `github_users`.
        indexed: Whether what an index of the table refuses is refused by the temporary table, where
            its row is known. Most rows are refused by none, and indexes cost time.
        of_events: Whether the rows are those of an `EventLoad`, which can be rejected one by one.

    Attributes:
        table: The temporary table.
        tracked: Whether it has the line and the text of each event, because the table has foreign
            keys or triggers: what these refuse is known only when the rows go in.
    """

    def __init__(
        self, connection: Connection, table: Table, *, indexed: bool, of_events: bool
    ) -> None:
        self._connection = connection
        self._target = table
        self._indexed = indexed
        self._key = _KEYS[table]
        # What a constraint of the table refuses is refused here, where it can be rejected.
        target = qualify(table.name, schema_of(connection, table))
        self.tracked = (
            indexed
            and of_events
            and bool(connection.execute(_LATE_DEMANDS, {"table": target}).scalar_one())
        )
        origin = (Column("_line", BigInteger), Column("_text", LargeBinary))
        self.table = _temporary_table(
            f"{table.name}_staged", [*table.columns, *(origin if self.tracked else ())]
        )
        connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE {quote(self.table.name)} (LIKE {target} INCLUDING CONSTRAINTS "
            "INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY) ON COMMIT DROP"
        )
        if self.tracked:
            connection.exec_driver_sql(
                f"ALTER TABLE pg_temp.{quote(self.table.name)} ADD COLUMN _line bigint, "
                "ADD COLUMN _text bytea, "
                "ADD COLUMN _number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
            )
        if indexed:
            # A unique one would refuse the second of two rows, which is to be left out.
            for definition in connection.execute(_INDEXES, {"table": target}).scalars():
                connection.exec_driver_sql(
                    f"CREATE INDEX ON pg_temp.{quote(self.table.name)} {definition}"
                )

    def insert_missing(self, name: str, options: LoadOptions) -> tuple[int, int]:
        """Insert what the table does not have yet, each row once.

        Loaders do this one after the other until they commit: none sees what another one is about
        to insert.

        Args:
            name: What to call the source in messages.
            options: What to do with rows that the table refuses, if they are tracked.

        Returns:
            How many rows were inserted, and how many rejected.
        """
        self._lock()
        self._leave_one_of_each()
        self._connection.execute(text(f"ANALYZE pg_temp.{self.table.name}"))
        keys = self._keys()
        known = _temporary_table(
            f"{self._target.name}_known", [self._target.c[name] for name in self._key]
        )
        known.create(self._connection)
        found = select(*(keys.c[name] for name in self._key)).join(
            self._target, self._same(self._target, keys)
        )
        self._connection.execute(insert(known).from_select([*self._key], found))
        self._connection.execute(delete(self.table).where(self._same(self.table, known)))
        known.drop(self._connection)
        if self.tracked:
            return self._insert_each(name, options)
        return self._insert(), 0

    def replace(self, name: str, options: LoadOptions) -> tuple[int, int]:
        """Insert all rows, instead of those that the table has; see `insert_missing`."""
        self._lock()
        if self._target is github_users:
            self._leave_one_of_each()
        old = delete(self._target).where(self._same(self._target, self._keys()))
        if self.tracked:
            return self._insert_each(name, options, instead_of=old)
        self._connection.execute(old)
        return self._insert(), 0

    def _insert_each(
        self, name: str, options: LoadOptions, *, instead_of: Delete | None = None
    ) -> tuple[int, int]:
        """Insert rows so that each one that the table refuses is rejected, and the others go in.

        By COPY: where INSERT ... SELECT fails within a savepoint, Citus may leave the transaction
        of a worker aborted.
        """
        rejected = 0
        while True:
            load = EventLoad(self._connection, self._target, name, options, None, unless_known=True)
            with (
                suppress(_RefusedError),
                savepoint(self._connection),
                pinned_settings(self._connection),
            ):
                if instead_of is not None:
                    self._connection.execute(instead_of)
                load.store(self._rows())
                if instead_of is not None and load.refused:
                    # What the table has of a row that is refused stays.
                    raise _RefusedError
                self.table.drop(self._connection)
                return load.rows, rejected + load.rejected
            rejected += load.rejected
            number: ColumnElement[int] = literal_column("_number")
            refused = [row.event_id for row in load.refused]
            self._connection.execute(delete(self.table).where(number == any_(array(refused))))

    def _rows(self) -> Iterator[EventRow]:
        """Yield the rows as they were sent, with their number instead of the id of the event."""
        columns = ", ".join(
            quote(column.name) for column in self._target.columns if column.computed is None
        )
        last = 0
        while True:
            page = read_rows(
                self._connection,
                f"SELECT {columns}, _line, _text, _number "  # noqa: S608 - quoted
                f"FROM pg_temp.{quote(self.table.name)} WHERE _number > {last} "
                f"ORDER BY _number LIMIT {_PAGE}",
            )
            for row in page:
                fields, line, origin, number = row.rsplit(b"\t", 3)
                last = int(number)
                yield EventRow(
                    event_id=last,
                    user_id=0,
                    created_at=datetime.min,  # noqa: DTZ901 - nobody reads it
                    copy=fields + b"\n",
                    user=_NOBODY,
                    line=int(line),
                    text=bytes.fromhex(origin.decode().removeprefix("\\\\x")),
                )
            if len(page) < _PAGE:
                return

    def _lock(self) -> None:
        require_read_committed(self._connection)
        lock(self._connection, "rows", self._target.name)
        if self._target is github_users:
            # Loaders of events write users too.
            lock(self._connection, "users")

    def _leave_one_of_each(self) -> None:
        other = self.table.alias("other")
        ctid: ColumnElement[object] = literal_column(f"{self.table.name}.ctid")
        self._connection.execute(
            delete(self.table).where(
                self._same(self.table, other), ctid > literal_column("other.ctid")
            )
        )

    def _insert(self) -> int:
        names = [column.name for column in self._target.columns]
        rows = select(*(self.table.c[name] for name in names))
        # A unique key of the user's own may know a row that was written a moment ago.
        statement = insert(self._target).from_select(names, rows).on_conflict_do_nothing()
        try:
            done = self._connection.execute(
                statement, execution_options={"preserve_rowcount": True}
            )
        except DBAPIError as error:
            said = error.orig
            if not isinstance(said, psycopg.Error):
                raise
            if not self._indexed and (
                is_fault_of_data(said) or may_be_from_worker(said, self.table)
            ):
                raise RejectedError(said) from error
            if is_fault_of_data(said):
                raise LoadError(
                    f"{self._target.name} refuses a row: {said.diag.message_primary}. Nothing of "
                    f"its source was loaded. {said.diag.message_detail or ''}".rstrip()
                ) from error
            raise
        self.table.drop(self._connection)
        return done.rowcount

    def _keys(self) -> FromClause:
        """Return the keys of the rows, as a subquery that Citus sends to the workers."""
        keys = select(*(self.table.c[name] for name in self._key))
        return keys.offset(func.int8(0)).subquery("keys")

    def _same(self, one: FromClause, other: FromClause) -> ColumnElement[bool]:
        return and_(*(one.c[name] == other.c[name] for name in self._key))


class Users:
    """The newest record of every user among the events that were added.

    What is stored says which event it comes from (`github_user_origins`), so that records may come
    in any order, from any number of loaders, and what remains is what the newest event says.

    Memory holds some; the others wait in a temporary table of the connection, to which they can go
    when the connection is not busy with a COPY.

    Args:
        connection: Where the tables are.
        most: How many are kept in memory.
        shared: Whether several threads add users, and the connection does nothing else, so that it
            is never busy.
    """

    def __init__(self, connection: Connection, most: int, *, shared: bool = False) -> None:
        self._connection = connection
        self._most = most
        self._shared = shared
        self._lock = Lock()
        self._newest: dict[int, tuple[datetime, int, UserRecord]] = {}
        self._waiting: Table | None = None

    @property
    def full(self) -> bool:
        """Whether memory holds as many as it should, so that `spill` is to be called."""
        return len(self._newest) > self._most and not self._shared

    def add(self, rows: Iterable[EventRow]) -> None:
        """Note what events say of their users."""
        with self._lock:
            newest = self._newest
            for row in rows:
                known = newest.get(row.user_id)
                if known is None or known[:2] <= (row.created_at, row.event_id):
                    newest[row.user_id] = (row.created_at, row.event_id, row.user)
            if self._shared and len(newest) > self._most:
                self.spill()

    def spill(self) -> Table:
        """Move those in memory to the temporary table, and return that."""
        if self._waiting is None:
            columns = (github_users.c[name] for name in UserRecord._fields)
            self._waiting = _temporary_table(
                "github_users_waiting", [*github_user_origins.columns, *columns]
            )
            self._waiting.create(self._connection)

        def lines() -> Iterator[bytes]:
            for user_id, (created_at, event_id, user) in self._newest.items():
                moment = created_at.isoformat().encode()
                fields = b"\t".join(map(copy_field, user))
                yield b"%d\t%b\t%d\t%b\n" % (user_id, moment, event_id, fields)

        try:
            copy_rows(self._connection, self._waiting, "text", lines())
        except RejectedError as rejected:
            # No row of the source is at fault.
            raise rejected.error from None
        self._newest.clear()
        return self._waiting

    def store(self) -> None:
        """Write the records that are newer than what is stored.

        Loaders do this one after the other until they commit: each would wait for users of the
        other, in whatever order.
        """
        if not self._newest and self._waiting is None:
            return
        waiting = self.spill()
        lock(self._connection, "users")
        origins = github_user_origins
        newest = (
            select(waiting.c.user_id, waiting.c.created_at, waiting.c.event_id)
            .ext(distinct_on(waiting.c.user_id))
            .order_by(waiting.c.user_id, waiting.c.created_at.desc(), waiting.c.event_id.desc())
        )
        new_origins = insert(origins).from_select(["user_id", "created_at", "event_id"], newest)
        seen = new_origins.excluded
        self._connection.execute(
            new_origins.on_conflict_do_update(
                index_elements=["user_id"],
                set_={"created_at": seen.created_at, "event_id": seen.event_id},
                where=tuple_(origins.c.created_at, origins.c.event_id)
                < tuple_(seen.created_at, seen.event_id),
            )
        )
        # Those whose event is now the origin. The subquery is one that Citus sends to the workers.
        records = select(waiting).offset(func.int8(0)).subquery("waiting")
        is_origin = and_(
            *(records.c[name] == origins.c[name] for name in ("user_id", "created_at", "event_id"))
        )
        columns = ["user_id", *UserRecord._fields]
        current = (
            select(*(records.c[name] for name in columns))
            .ext(distinct_on(records.c.user_id))
            .join(origins, is_origin)
            .order_by(records.c.user_id)
        )
        new_users = insert(github_users).from_select(columns, current)
        self._connection.execute(
            new_users.on_conflict_do_update(
                index_elements=["user_id"],
                set_={name: new_users.excluded[name] for name in UserRecord._fields},
            )
        )
        waiting.drop(self._connection)
        self._waiting = None


def _temporary_table(name: str, columns: Iterable[Column[object]]) -> Table:
    return Table(
        name,
        MetaData(),
        *(Column(each.name, each.type) for each in columns),
        schema="pg_temp",
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )


class HeldRejects:
    """The rejects of a source, until it is read to its end: it may have to be read again.

    Many of them wait in a temporary file. Several threads may add some.

    Args:
        options: How to load, and what is called with rejects, if anything.

    Attributes:
        options: The same, but that rejects are held.
    """

    def __init__(self, options: LoadOptions) -> None:
        self.options = replace(options, rejects=self._hold)
        self._callback = options.rejects
        self._count = 0
        self._file = SpooledTemporaryFile(max_size=options.buffers.rejects)  # noqa: SIM115 - close
        self._lock = Lock()

    def close(self) -> None:
        """Forget them."""
        self._file.close()

    def report(self) -> None:
        """Call back with all of them, in the order in which they came."""
        if self._callback is None:
            return
        self._file.seek(0)
        for _ in range(self._count):
            self._callback(pickle.load(self._file))  # noqa: S301 - its own file

    def require_some(self, source: Input, result: LoadResult) -> None:
        """Refuse a source of which nothing at all can be stored, and report its rejects.

        Raises:
            LoadError: Everything in it was rejected.
        """
        if result.rejected and not result.rows and not result.duplicates:
            self.report()
            raise LoadError(
                f"{source.name}: nothing in it can be stored as an event, {result.rejected} of "
                f"{result.rejected} were rejected. Nothing of it was loaded. Check that it "
                "is the right file, in the right format; --rejects, or LoadOptions(rejects=...), "
                "has the reasons."
            )

    def _hold(self, reject: Reject) -> None:
        if self._callback is not None:
            with self._lock:
                pickle.dump(reject, self._file)
                self._count += 1


def lock(connection: Connection, *names: str) -> None:
    """Wait until no other transaction holds or shares the lock of these names, and hold it."""
    connection.execute(select(func.pg_advisory_xact_lock(_lock_key(*names))))


def _lock_key(*names: str) -> int:
    digest = hashlib.sha256("\0".join(("citus_analytics", *names)).encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def lock_together(connections: Sequence[Connection], table: Table) -> None:
    """Begin transactions that take their time and can write to a table: all of them, or none.

    If another transaction came between two of them, waiting to change the table, the second would
    wait for that one, that one for the first, and the first for the second, for they commit
    together: for ever.
    """
    while True:
        try:
            for connection in connections:
                without_timeouts(connection)
                set_local(connection, "lock_timeout", LOCK_TIMEOUT)
                name = qualify(table.name, schema_of(connection, table))
                connection.exec_driver_sql(f"LOCK TABLE {name} IN ROW EXCLUSIVE MODE")
                set_local(connection, "lock_timeout", "0")
        except OperationalError as error:
            for connection in connections:
                connection.rollback()
            if not isinstance(error.orig, BUSY):
                raise
        else:
            return


@contextmanager
def connected(engine: Engine) -> Iterator[Connection]:
    """Connect at READ COMMITTED, whatever isolation level the engine or the server has.

    After an error the connection is thrown away. What the server still holds of the transaction
    ends with it, even where SQLAlchemy takes an interrupted commit for the end of the transaction.
    """
    with engine.execution_options(isolation_level="READ COMMITTED").connect() as connection:
        try:
            yield connection
        except BaseException:
            connection.invalidate()
            raise


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Connect as `connected` does, and commit at the end of the block."""
    with connected(engine) as connection:
        yield connection
        connection.commit()


def without_timeouts(connection: Connection) -> None:
    """Let a transaction take its time, as pg_dump does: a load is as long as its source."""
    names = (
        "idle_in_transaction_session_timeout",
        "lock_timeout",
        "statement_timeout",
        "transaction_timeout",
    )
    settings = table("pg_settings", column("name"), schema="pg_catalog")
    statement = select(func.set_config(settings.c.name, "0", True))
    connection.execute(statement.where(settings.c.name.in_(names)))


def set_local(connection: Connection, name: str, value: str) -> None:
    """Change a setting until the end of the transaction."""
    connection.execute(select(func.set_config(name, value, True)))


def require_read_committed(connection: Connection) -> None:
    """Refuse a transaction whose snapshot is older than the locks that it waits for.

    Raises:
        ArgumentError: It is at another isolation level.
    """
    level = connection.execute(select(func.current_setting("transaction_isolation"))).scalar_one()
    if level != "read committed":
        raise ArgumentError(
            f"loading once needs the isolation level READ COMMITTED, and this transaction is at "
            f"{level.upper()}: it would not see what another loader has just committed. Use "
            "connection.execution_options(isolation_level='READ COMMITTED')."
        )
