"""One source over several connections at the same time.

Each connection loads parts in a transaction of its own. Nothing is committed before all parts are
in and the source has been read to its end; then the transactions are committed one after the other,
each with the record of its parts. So an error anywhere leaves nothing, and what breaks off between
the commits, a matter of milliseconds, leaves complete parts that are known as loaded: loading the
source again adds the others and no row twice.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Final

from citus_analytics.github.ingest.connections import RejectedError
from citus_analytics.github.ingest.csv_load import CsvLoad
from citus_analytics.github.ingest.json_load import JsonLoad
from citus_analytics.github.ingest.json_source import load_json_parts
from citus_analytics.github.ingest.lanes import Lane, working
from citus_analytics.github.ingest.ledger import Content, Ledger, Part
from citus_analytics.github.ingest.locks import lock_together, without_timeouts
from citus_analytics.github.ingest.once import require_some
from citus_analytics.github.ingest.parts import PART_SIZE, cut
from citus_analytics.github.ingest.rejects import HeldRejects
from citus_analytics.github.ingest.results import LoadResult, Progress, sum_of
from citus_analytics.github.ingest.sources import Input, Tally, content_blocks, watched
from citus_analytics.github.ingest.users import Users

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection, Engine, Table

    from citus_analytics.github.gharchive import EventRow
    from citus_analytics.github.ingest.formats import Kind
    from citus_analytics.github.ingest.parts import Piece
    from citus_analytics.github.ingest.results import LoadOptions, ProgressCallback

# How often a thread that waits looks whether the others have failed.
_GLANCE: Final = 0.1
# How much of the content is on its way at a time: memory does not grow with the connections.
_ALL_PARTS: Final = 2 * PART_SIZE
_SMALLEST_PART: Final = PART_SIZE // 8


class _SharedUsers(Users):
    """Users whom several threads tell of; they have a connection that does nothing else."""

    __slots__ = ("_one_at_a_time",)

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._one_at_a_time = threading.Lock()

    @property
    def full(self) -> bool:
        # Their connection has no COPY under way: there is always room.
        return False

    def add(self, rows: Iterable[EventRow]) -> None:
        with self._one_at_a_time:
            super().add(rows)
            if super().full:
                self._spill()


def load_in_parallel(
    engine: Engine,
    table: Table,
    source: Input,
    kind: Kind,
    options: LoadOptions,
    jobs: int,
    progress: ProgressCallback | None,
) -> LoadResult | None:
    """Load a source over so many connections; return None if its content turns out to be known.

    Each connection has one COPY. If the server refuses a row in one of them, all are undone, and
    the source is read again in batches, in which the row is found.

    Args:
        engine: Where the table is.
        table: Where the rows go.
        source: A source that can be read again.
        kind: What it is; arrays have no parts.
        options: How to load.
        jobs: How many connections; there is one more for the users.
        progress: Called from the thread of the caller.

    Raises:
        LoadError: As `load_once` does; nothing is loaded then.
    """
    try:
        return ParallelLoad(engine, table, source, kind, progress).run(jobs, options)
    except RejectedError:
        again = ParallelLoad(engine, table, source, kind, progress, in_batches=True)
        return again.run(jobs, options)


class ParallelLoad:
    """One attempt to load a source; see `load_in_parallel`."""

    def __init__(
        self,
        engine: Engine,
        table: Table,
        source: Input,
        kind: Kind,
        progress: ProgressCallback | None,
        *,
        in_batches: bool = False,
    ) -> None:
        self._engine = engine
        self._table = table
        self._source = source
        self._kind = kind
        self._progress = progress
        self._in_batches = in_batches
        self._users: Users | None = None
        self._queue: Queue[Piece | None] = Queue(1)
        self._failed = threading.Event()

    def run(self, jobs: int, options: LoadOptions) -> LoadResult | None:
        """Load over so many connections; None if the content turns out to be known.

        Raises:
            LoadError: As `load_once` does; nothing is loaded then.
            RejectedError: The server refuses a row, and the load is not in batches.
        """
        content, tally = Content(), Tally()
        with ExitStack() as stack:
            rejects = stack.enter_context(closing(HeldRejects(options)))
            for_users, *others = (
                stack.enter_context(self._engine.connect()) for _ in range(1 + jobs)
            )
            lock_together(others, self._table)
            for connection in (for_users, *others):
                without_timeouts(connection)
            if options.users and self._kind != "csv":
                self._users = _SharedUsers(for_users)
            store = partial(self._store, rejects.options)
            lanes = [Lane(each, self._pieces(), store, self._failed) for each in others]
            with working(lanes, self._failed):
                self._feed(lanes, content, tally)
            result = replace(sum_of(lane.result for lane in lanes), bytes=tally.bytes)
            require_some(result, self._source, rejects)
            return self._commit(for_users, lanes, content, result, rejects)

    def _pieces(self) -> Iterator[Piece]:
        """Yield parts, each to one thread, until there are no more or another thread failed."""
        while not self._failed.is_set():
            try:
                piece = self._queue.get(timeout=_GLANCE)
            except Empty:
                continue
            if piece is None:
                return
            yield piece

    def _store(
        self, options: LoadOptions, connection: Connection, pieces: Iterable[Piece]
    ) -> LoadResult:
        """Store pieces as they come: in one COPY, or in batches."""
        parts = map(self._part, pieces)
        if self._kind != "csv":
            load = JsonLoad(
                connection,
                self._table,
                self._source.name,
                options,
                self._users,
                in_batches=self._in_batches,
            )
            return load_json_parts(load, parts)
        if self._in_batches:
            return sum_of(CsvLoad(connection, self._table, part).run() for part in parts)
        return CsvLoad(connection, self._table, self._source).attempt(parts)

    def _part(self, piece: Piece) -> Input:
        return Input(
            name=self._source.name,
            blocks=lambda: iter(piece.blocks),
            repeatable=True,
            first_line=piece.first_line,
        )

    def _feed(self, lanes: list[Lane], content: Content, tally: Tally) -> None:
        with closing(content_blocks(self._source, tally)) as blocks:
            size = max(_SMALLEST_PART, _ALL_PARTS // len(lanes))
            noted = watched(blocks, content.add)
            for piece in cut(noted, self._kind, self._source.name, size=size):
                if self._failed.is_set():
                    return
                self._put(piece)
                self._tell(sum(lane.lines for lane in lanes), tally.bytes)
        for _ in lanes:
            self._put(None)

    def _put(self, piece: Piece | None) -> None:
        while not self._failed.is_set():
            try:
                self._queue.put(piece, timeout=_GLANCE)
            except Full:
                continue
            return

    def _commit(
        self,
        for_users: Connection,
        lanes: list[Lane],
        content: Content,
        result: LoadResult,
        rejects: HeldRejects,
    ) -> LoadResult | None:
        # Users without their events do no harm until the next try. They come first: another
        # transaction may hold their lock, and wait for that of the content.
        if self._users is not None:
            self._users.store()
            for_users.commit()
        # The first lane holds the lock of the content, and so is the last one to commit. If this
        # client is gone by then, the others are waited for by whoever loads the content next.
        keeper, *others = lanes
        if Ledger(keeper.connection, self._table).locked(content).parts:
            return None
        rejects.tell()
        for lane in lanes:
            ledger = Ledger(lane.connection, self._table)
            if lane is not keeper:
                ledger.announce(content)
            if lane.parts:
                ledger.record(content, self._source, lane.result, *lane.parts)
        if not content.bytes:
            Ledger(keeper.connection, self._table).record(content, self._source, result, Part(0, 0))
        for lane in (*others, keeper):
            lane.connection.commit()
        self._tell(result.rows, result.bytes)
        return result

    def _tell(self, rows: int, read: int) -> None:
        if self._progress:
            total = self._source.total_bytes
            self._progress(Progress(bytes=read, rows=rows, total_bytes=total))
