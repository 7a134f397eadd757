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
from citus_analytics.copy.csv import CsvLoad, sum_of
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
    lock_together,
    without_timeouts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
    jobs: int,
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
        jobs: How many connections; there is one more for the users.
        progress: Called from the thread of the caller.

    Raises:
        LoadError: As `load_once` does; nothing is loaded then.
    """
    try:
        return ParallelLoad(engine, table, source, kind, options, progress).run(jobs)
    except RejectedError:
        again = ParallelLoad(engine, table, source, kind, options, progress, in_batches=True)
        return again.run(jobs)


class ParallelLoad:
    """One attempt to load a source; see `load_in_parallel`."""

    def __init__(
        self,
        engine: Engine,
        table: Table,
        source: Input,
        kind: Kind,
        options: LoadOptions,
        progress: ProgressCallback | None,
        *,
        in_batches: bool = False,
    ) -> None:
        self.failed = threading.Event()
        self._engine = engine
        self._table = table
        self._source = source
        self._kind = kind
        self._options = options
        self._progress = progress
        self._in_batches = in_batches
        self._rejects = HeldRejects(options)
        self._users: Users | None = None
        self._queue: Queue[Chunk | None] = Queue(1)

    def run(self, jobs: int) -> LoadResult | None:
        """Load over so many connections; return None if the content turns out to be known.

        Raises:
            LoadError: As `load_once` does; nothing is loaded then.
            RejectedError: The server refuses a row, and the load is not in batches.
        """
        content, tally = Content(), Tally()
        with closing(self._rejects), ExitStack() as stack:
            for_users, *others = (
                stack.enter_context(self._engine.connect()) for _ in range(1 + jobs)
            )
            lock_together(others, self._table)
            for connection in (for_users, *others):
                without_timeouts(connection)
            if self._options.users and self._kind != "csv":
                self._users = Users(for_users, self._options.buffers.users, shared=True)
            workers = [_Worker(self, connection) for connection in others]
            try:
                for worker in workers:
                    worker.start()
                self._feed(workers, content, tally)
                for worker in workers:
                    worker.join()
                for worker in workers:
                    if worker.error is not None:
                        raise worker.error  # noqa: TRY301
            except BaseException:
                # Also Ctrl-C, while a worker waits for the server.
                self.failed.set()
                started = [worker for worker in workers if worker.ident is not None]
                for worker in started:
                    worker.cancel()
                for worker in started:
                    worker.join()
                    worker.forget_lost_connection()
                raise
            result = replace(sum_of(worker.result for worker in workers), bytes=tally.bytes)
            self._rejects.require_some(self._source, result)
            return self._commit(for_users, workers, content, result)

    def _feed(self, workers: list[_Worker], content: Content, tally: Tally) -> None:
        """Cut the source into chunks for the workers, until it ends or a worker fails."""
        # Memory does not grow with the connections.
        most = self._options.buffers.part_size
        size = max(most // 8, 2 * most // len(workers))

        def noted(blocks: Iterable[bytes]) -> Iterator[bytes]:
            for block in blocks:
                content.add(block)
                yield block

        with closing(self._source.content(tally)) as blocks:
            for chunk in cut(noted(blocks), self._kind, self._source.name, size=size):
                if not self._put(chunk):
                    return
                self._show(sum(worker.lines for worker in workers), tally.bytes)
        for _ in workers:
            self._put(None)

    def _put(self, chunk: Chunk | None) -> bool:
        while not self.failed.is_set():
            try:
                self._queue.put(chunk, timeout=_GLANCE)
            except Full:
                continue
            return True
        return False

    def take(self) -> Chunk | None:
        """Return the next chunk, each to one worker; None after the last or a failure."""
        while not self.failed.is_set():
            try:
                return self._queue.get(timeout=_GLANCE)
            except Empty:
                continue
        return None

    def store(self, connection: Connection, chunks: Iterable[Chunk]) -> LoadResult:
        """Store chunks as they come: in one COPY, or in batches."""
        if self._kind != "csv":
            from citus_analytics.github.convert import read_events

            name = self._source.name
            load = EventLoad(
                connection,
                self._table,
                name,
                self._rejects.options,
                self._users,
                in_batches=self._in_batches,
            )
            load.store(
                chain.from_iterable(
                    read_events(chunk.blocks, name, first_line=chunk.first_line) for chunk in chunks
                )
            )
            return LoadResult(rows=load.rows, bytes=0, rejected=load.rejected)
        parts = (
            Input(
                name=self._source.name,
                blocks=partial(iter, chunk.blocks),
                repeatable=True,
                first_line=chunk.first_line,
            )
            for chunk in chunks
        )
        if self._in_batches:
            return sum_of(CsvLoad(connection, self._table, part).run() for part in parts)
        return CsvLoad(connection, self._table, self._source).attempt(parts)

    def _commit(
        self,
        for_users: Connection,
        workers: list[_Worker],
        content: Content,
        result: LoadResult,
    ) -> LoadResult | None:
        # Users without their events do no harm until the next try. They come first: another
        # transaction may hold their lock, and wait for that of the content.
        if self._users is not None:
            self._users.store()
            for_users.commit()
        # The first worker holds the lock of the content, and so is the last one to commit. If this
        # client is gone by then, whoever loads the content next waits for the others.
        keeper, *others = workers
        ledger = Ledger(keeper.connection, self._table)
        if ledger.locked(content).parts:
            return None
        self._rejects.report()
        for worker in others:
            of_worker = Ledger(worker.connection, self._table)
            of_worker.announce(content)
            if worker.parts:
                of_worker.record(content, self._source, worker.result, *worker.parts)
        if keeper.parts or not content.bytes:
            parts = keeper.parts or [Part(0, 0)]
            ledger.record(content, self._source, keeper.result, *parts)
        for worker in (*others, keeper):
            worker.connection.commit()
        self._show(result.rows, result.bytes)
        return result

    def _show(self, rows: int, read: int) -> None:
        if self._progress:
            total = self._source.total_bytes
            self._progress(Progress(bytes=read, rows=rows, total_bytes=total))


class _Worker(threading.Thread):
    """One connection, and the thread that loads chunks through it.

    Args:
        load: What it is a part of.
        connection: Where the table is.

    Attributes:
        connection: The same.
        parts: The parts that it has taken so far.
        lines: How many lines end in them.
        result: What has been stored of them, in the end.
        error: What went wrong.
    """

    def __init__(self, load: ParallelLoad, connection: Connection) -> None:
        super().__init__(name="citus_analytics load", daemon=True)
        self.connection = connection
        self.parts: list[Part] = []
        self.lines = 0
        self.result = LoadResult(rows=0, bytes=0)
        self.error: BaseException | None = None
        self._load = load
        self._driver = driver_of(connection)

    def run(self) -> None:
        """Load chunks until there are no more, or another worker has failed."""
        try:
            self.result = self._load.store(self.connection, self._chunks())
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self.error = error
            self._load.failed.set()

    def _chunks(self) -> Iterator[Chunk]:
        while (chunk := self._load.take()) is not None:
            self.parts.append(Part(chunk.first, chunk.end))
            self.lines += chunk.lines
            yield chunk

    def cancel(self) -> None:
        """End what the server does for this connection."""
        if isinstance(self._driver, psycopg.Connection) and self.is_alive():
            # A server that is gone has nothing to cancel.
            with suppress(psycopg.Error):
                self._driver.cancel_safe(timeout=5.0)

    def forget_lost_connection(self) -> None:
        """Let go of a connection that is lost: closing it would raise another error."""
        if self._driver.closed:
            self.connection.invalidate()


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
