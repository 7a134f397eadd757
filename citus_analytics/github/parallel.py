"""One source over several connections at the same time.

Each connection loads parts of the source in a transaction of its own. Nothing is committed before
all parts are in and the source has been read to its end; then the transactions are committed one
after the other, each with the record of its parts. So an error anywhere leaves nothing, and what
breaks off between the commits, a matter of milliseconds, leaves complete parts that are known as
loaded: loading the source again adds the others and no row twice.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Final

import psycopg

from citus_analytics.copy import LoadResult, Progress
from citus_analytics.copy.connection import driver_of
from citus_analytics.copy.csv import CsvLoad, header_of, sum_of
from citus_analytics.copy.errors import RejectedError
from citus_analytics.copy.source import Input, Tally
from citus_analytics.errors import LoadError
from citus_analytics.github.events import LONGEST_TEXT
from citus_analytics.github.store import (
    Content,
    EventLoad,
    HeldRejects,
    Ledger,
    Part,
    Users,
    connected,
    lock_together,
    without_timeouts,
)
from citus_analytics.sql import transaction_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import Connection, Engine, Table

    from citus_analytics.copy import ProgressCallback
    from citus_analytics.github.store import Kind, LoadOptions

# How often, in seconds, a thread that waits looks whether another one has failed.
_GLANCE: Final = 0.1


def load_in_parallel(
    engine: Engine,
    table: Table,
    source: Input,
    kind: Kind,
    options: LoadOptions,
    connections: int,
    progress: ProgressCallback | None,
) -> LoadResult | None:
    """Load a source over several connections; return None if its content turns out to be known.

    Each connection has one COPY. If the server refuses a row in one of them, all are undone, and
    the source is read again in batches, in which the row is found.

    Args:
        engine: Where the table is.
        table: Where the rows go.
        source: A source that can be read again.
        kind: What it is; arrays cannot be cut into parts.
        options: How to load.
        connections: How many; there is one more for the users.
        progress: Called from the thread of the caller.

    Raises:
        LoadError: As `load_once` does; nothing is loaded then.
    """
    try:
        return _ParallelLoad(table, source, kind, options, progress).run(engine, connections)
    except RejectedError:
        again = _ParallelLoad(table, source, kind, options, progress, in_batches=True)
        return again.run(engine, connections)


class _ParallelLoad:
    """One attempt to load a source; see `load_in_parallel`.

    Raises:
        RejectedError: The server refuses a row, and the load is not in batches.
    """

    def __init__(
        self,
        table: Table,
        source: Input,
        kind: Kind,
        options: LoadOptions,
        progress: ProgressCallback | None,
        *,
        in_batches: bool = False,
    ) -> None:
        self._table = table
        self._columns: Sequence[str] | None = None
        if kind == "csv" and options.header:
            self._columns, source = header_of(source, table)
        self._source = source
        self._kind = kind
        self._options = options
        self._progress = progress
        self._in_batches = in_batches
        self._rejects = HeldRejects(options)
        self._users: Users | None = None
        self._queue: Queue[Chunk | None] = Queue(1)
        self._failed = threading.Event()

    def run(self, engine: Engine, connections: int) -> LoadResult | None:
        content, tally = Content(), Tally()
        with closing(self._rejects), ExitStack() as stack:
            for_users, *others = (
                stack.enter_context(connected(engine)) for _ in range(1 + connections)
            )
            without_timeouts(for_users)
            lock_together(others, self._table)
            if self._options.users and self._kind != "csv":
                self._users = Users(for_users, self._options.buffers.users, shared=True)
            workers = [_Worker(self._load, connection) for connection in others]
            try:
                for worker in workers:
                    worker.start()
                with closing(self._source.content(tally)) as blocks:
                    noted = map(content.noted, blocks)
                    # Memory does not grow with the connections.
                    most = self._options.buffers.part_size
                    size = max(most // 8, 2 * most // connections)
                    for chunk in cut(noted, self._kind, self._source.name, size=size):
                        self._put(chunk)
                        if self._failed.is_set():
                            break
                        self._show(sum(worker.lines for worker in workers), tally.bytes)
                for _ in workers:
                    self._put(None)
                for worker in workers:
                    worker.join()
                for worker in workers:
                    if worker.error is not None:
                        raise worker.error  # noqa: TRY301
            except BaseException:
                # Also Ctrl-C, while a worker waits for the server.
                self._failed.set()
                started = [worker for worker in workers if worker.ident is not None]
                for worker in started:
                    worker.cancel()
                for worker in started:
                    worker.join()
                raise
            result = replace(sum_of(worker.result for worker in workers), bytes=tally.bytes)
            self._rejects.require_some(self._source, result)
            # Users without their events do no harm until the next try. They come first: another
            # transaction may hold their lock, and wait for that of the content.
            if self._users is not None:
                self._users.store()
                for_users.commit()
            # The first worker holds the lock of the content, and so is the last one to commit. If
            # this client is gone by then, whoever loads the content next waits for the others.
            keeper, *rest = workers
            ledger = Ledger(keeper.connection, self._table)
            if ledger.locked(content).parts:
                return None
            self._rejects.report()
            for worker in rest:
                of_worker = Ledger(worker.connection, self._table)
                of_worker.announce(content)
                of_worker.record(content, self._source, worker.result, worker.parts)
            parts = keeper.parts if content.bytes else [Part(0, 0)]
            ledger.record(content, self._source, keeper.result, parts)
            tokens = (transaction_token(worker.connection) for worker in workers)
            result = replace(result, token=",".join(tokens))
            for worker in (*rest, keeper):
                worker.connection.commit()
        self._show(result.rows, result.bytes)
        return result

    def _load(self, worker: _Worker) -> LoadResult:
        """Load chunks as they come, in one COPY or in batches; called from a thread of its own."""
        try:
            if self._kind != "csv":
                return self._load_events(worker)
            parts = (
                Input(
                    name=self._source.name,
                    blocks=partial(iter, chunk.blocks),
                    repeatable=True,
                    first_line=chunk.first_line,
                )
                for chunk in self._chunks(worker)
            )
            load = partial(
                CsvLoad,
                worker.connection,
                self._table,
                columns=self._columns,
                require_time_zone=self._options.require_time_zone,
            )
            if self._in_batches:
                return sum_of(load(part).run() for part in parts)
            return load(self._source).attempt(parts)
        except BaseException:
            self._failed.set()
            raise

    def _load_events(self, worker: _Worker) -> LoadResult:
        from citus_analytics.github.convert import read_events

        name = self._source.name
        load = EventLoad(
            worker.connection,
            self._table,
            name,
            self._rejects.options,
            self._users,
            in_batches=self._in_batches,
        )
        load.store(
            chain.from_iterable(
                read_events(chunk.blocks, name, first_line=chunk.first_line)
                for chunk in self._chunks(worker)
            )
        )
        return LoadResult(rows=load.rows, bytes=0, rejected=load.rejected)

    def _chunks(self, worker: _Worker) -> Iterator[Chunk]:
        """Yield chunks for one worker, until there are no more or something has failed."""
        while not self._failed.is_set():
            try:
                chunk = self._queue.get(timeout=_GLANCE)
            except Empty:
                continue
            if chunk is None:
                return
            worker.parts.append(Part(chunk.first, chunk.end))
            worker.lines += chunk.lines
            yield chunk

    def _put(self, chunk: Chunk | None) -> None:
        while not self._failed.is_set():
            with suppress(Full):
                self._queue.put(chunk, timeout=_GLANCE)
                return

    def _show(self, rows: int, read: int) -> None:
        if self._progress:
            total = self._source.total_bytes
            self._progress(Progress(bytes=read, rows=rows, total_bytes=total))


class _Worker(threading.Thread):
    """The thread that loads chunks through one connection.

    Attributes:
        connection: Where the table is.
        parts: The parts that it has taken so far.
        lines: How many lines end in them.
        result: What has been stored of them, in the end.
        error: What went wrong.
    """

    def __init__(self, load: Callable[[_Worker], LoadResult], connection: Connection) -> None:
        super().__init__(name="citus_analytics load", daemon=True)
        self.connection = connection
        self.parts: list[Part] = []
        self.lines = 0
        self.result = LoadResult(rows=0, bytes=0)
        self.error: BaseException | None = None
        self._load = load
        # That of the thread of the caller: `cancel` is called while the connection is in use.
        self._driver = driver_of(connection)

    def run(self) -> None:
        try:
            self.result = self._load(self)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread of the caller
            self.error = error

    def cancel(self) -> None:
        """End what the server does for this connection."""
        if isinstance(self._driver, psycopg.Connection) and self.is_alive():
            # A server that is gone has nothing to cancel.
            with suppress(psycopg.Error):
                self._driver.cancel_safe(timeout=5.0)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a content, of complete rows.

    Attributes:
        first: Its first byte, counted from 0.
        first_line: Its first line, counted from 1.
        lines: How many lines end in it.
        blocks: The part itself.
    """

    first: int
    first_line: int
    lines: int
    blocks: tuple[bytes, ...]

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.first + sum(map(len, self.blocks))


def cut(blocks: Iterable[bytes], kind: Kind, name: str, *, size: int) -> Iterator[Chunk]:
    """Yield a content in chunks that end where a row does, and are somewhat larger than `size`.

    Raises:
        LoadError: A row is too long to be kept in memory.
    """
    # In CSV a line end between quotes belongs to a field, and a quote in a field counts twice.
    counts_quotes = kind == "csv"
    first, first_line, kept, waiting, quotes = 0, 1, list[bytes](), 0, 0
    for block in blocks:
        end = 0
        if waiting + len(block) >= size:
            # How much of the block is complete rows.
            end = block.rfind(b"\n") + 1
            while counts_quotes and end and (quotes + block.count(b'"', 0, end)) % 2:
                end = block.rfind(b"\n", 0, end - 1) + 1
        if end:
            chunk = _chunk(first, first_line, [*kept, block[:end]])
            yield chunk
            first = chunk.end
            first_line += chunk.lines
            kept, waiting, quotes = [], 0, 0
        rest = block[end:]
        kept.append(rest)
        waiting += len(rest)
        quotes += rest.count(b'"') if counts_quotes else 0
        if waiting > size + 4 * LONGEST_TEXT:
            raise LoadError(
                f"{name}, line {first_line} or later: a row is longer than {LONGEST_TEXT:,} bytes. "
                "Nothing of it was loaded; load it over one connection."
            )
    if any(kept):
        yield _chunk(first, first_line, kept)


def _chunk(first: int, first_line: int, blocks: list[bytes]) -> Chunk:
    lines = sum(block.count(b"\n") for block in blocks)
    return Chunk(first, first_line, lines, tuple(blocks))
