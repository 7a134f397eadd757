"""One source over several connections at the same time.

Each connection loads parts in a transaction of its own. Nothing is committed before all parts are
in and the source has been read to its end; then the transactions are committed one after the other,
each with the record of its parts. So an error anywhere leaves nothing, and what breaks off between
the commits, a matter of milliseconds, leaves complete parts that are known as loaded: loading the
source again adds the others and no row twice.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Final

import psycopg

from citus_analytics.ingest.connections import driver_of
from citus_analytics.ingest.csv_load import CsvLoad
from citus_analytics.ingest.json_load import JsonLoad
from citus_analytics.ingest.json_source import load_json_source
from citus_analytics.ingest.ledger import Content, Ledger, Part
from citus_analytics.ingest.once import require_some
from citus_analytics.ingest.parts import PART_SIZE, cut
from citus_analytics.ingest.results import LoadResult, Progress
from citus_analytics.ingest.sources import Input, Tally, content_blocks
from citus_analytics.ingest.users import Users

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection, Engine, Table

    from citus_analytics.gharchive import EventRow, Reject
    from citus_analytics.ingest.formats import Kind
    from citus_analytics.ingest.parts import Piece
    from citus_analytics.ingest.results import LoadOptions, ProgressCallback

# How often a thread that waits looks whether the others have failed.
_GLANCE: Final = 0.1
# How much of the content is on its way at a time: memory does not grow with the connections.
_ALL_PARTS: Final = 2 * PART_SIZE
_SMALLEST_PART: Final = PART_SIZE // 8


class _SharedUsers(Users):
    """Users whom several threads tell of."""

    __slots__ = ("_one_at_a_time",)

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._one_at_a_time = threading.Lock()

    def add(self, rows: Iterable[EventRow]) -> None:
        with self._one_at_a_time:
            super().add(rows)


class _Lane:
    """One connection, and the thread that loads parts through it."""

    def __init__(self, connection: Connection, load: ParallelLoad) -> None:
        self.connection = connection
        self.loaded: list[tuple[Part, LoadResult]] = []
        self.error: BaseException | None = None
        self._load = load
        self.thread = threading.Thread(target=self._run, name="citus_analytics load", daemon=True)

    @property
    def rows(self) -> int:
        """How many rows the server has taken so far."""
        return sum(result.rows for _, result in self.loaded)

    def cancel(self) -> None:
        """End what the server does for this connection."""
        driver = driver_of(self.connection)
        if isinstance(driver, psycopg.Connection) and self.thread.is_alive():
            driver.cancel_safe(timeout=5.0)

    def _run(self) -> None:
        try:
            for piece in self._load.pieces():
                result = self._load.store(self.connection, piece)
                self.loaded.append((Part(piece.first, piece.end), result))
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self.error = error
            self._load.failed.set()


class ParallelLoad:
    """One source on its way into one table.

    Args:
        engine: Where the table is.
        table: Where the rows go.
        source: A source that can be read again.
        kind: What it is; arrays have no parts.
        options: How to load.
        progress: Called from the thread of the caller.
    """

    def __init__(
        self,
        engine: Engine,
        table: Table,
        source: Input,
        kind: Kind,
        options: LoadOptions,
        progress: ProgressCallback | None,
    ) -> None:
        self._engine = engine
        self._table = table
        self._source = source
        self._kind = kind
        self._options = replace(options, rejects=self._reject)
        self._rejects = options.rejects
        self._progress = progress
        self._users: Users | None = None
        self._rejecting = threading.Lock()
        self._queue: Queue[Piece | None]
        self.failed = threading.Event()

    def run(self, jobs: int) -> LoadResult | None:
        """Load over so many connections; None if the content turns out to be known.

        Raises:
            LoadError: As `load_once` does; nothing is loaded then.
        """
        self._queue = Queue(1)
        content, tally = Content(), Tally()
        with ExitStack() as stack:
            for_users = stack.enter_context(self._engine.connect())
            lanes = [_Lane(stack.enter_context(self._engine.connect()), self) for _ in range(jobs)]
            if self._options.users and self._kind != "csv":
                self._users = _SharedUsers(for_users)
            with self._working(lanes):
                self._feed(lanes, content, tally)
            require_some(_sum(lanes, tally), self._source, self._table)
            return self._commit(for_users, lanes, content, tally)

    def pieces(self) -> Iterator[Piece]:
        """Yield parts, each to one thread, until there are no more or another thread failed."""
        while not self.failed.is_set():
            try:
                piece = self._queue.get(timeout=_GLANCE)
            except Empty:
                continue
            if piece is None:
                return
            yield piece

    def store(self, connection: Connection, piece: Piece) -> LoadResult:
        """Load one part."""
        source = Input(
            name=self._source.name,
            blocks=lambda: iter(piece.blocks),
            repeatable=True,
            first_line=piece.first_line,
        )
        if self._kind == "csv":
            return CsvLoad(connection, self._table, source).run()
        load = JsonLoad(connection, self._table, source.name, self._options, self._users)
        return load_json_source(load, source)

    @contextmanager
    def _working(self, lanes: list[_Lane]) -> Iterator[None]:
        """Let the lanes work during the block, and wait for them; raise what they raised."""
        try:
            for lane in lanes:
                lane.connection.begin()
                lane.thread.start()
            yield
            for lane in lanes:
                lane.thread.join()
        except BaseException:
            # Also Ctrl-C, while a lane waits for the server.
            self.failed.set()
            started = [lane for lane in lanes if lane.thread.ident is not None]
            for lane in started:
                # A server that is gone has nothing to cancel.
                with suppress(psycopg.Error):
                    lane.cancel()
            for lane in started:
                lane.thread.join()
            raise
        for lane in lanes:
            if lane.error is not None:
                raise lane.error

    def _feed(self, lanes: list[_Lane], content: Content, tally: Tally) -> None:
        with closing(content_blocks(self._source, tally)) as blocks:
            size = max(_SMALLEST_PART, _ALL_PARTS // len(lanes))
            for piece in cut(_noted(blocks, content), self._kind, self._source.name, size=size):
                if self.failed.is_set():
                    return
                self._put(piece)
                self._tell(lanes, tally)
        for _ in lanes:
            self._put(None)

    def _put(self, piece: Piece | None) -> None:
        while not self.failed.is_set():
            try:
                self._queue.put(piece, timeout=_GLANCE)
            except Full:
                continue
            return

    def _commit(
        self, for_users: Connection, lanes: list[_Lane], content: Content, tally: Tally
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
        for lane in lanes:
            ledger = Ledger(lane.connection, self._table)
            if lane is not keeper:
                ledger.announce(content)
            for part, result in lane.loaded:
                ledger.record(content, self._source, result, part)
        if not content.bytes:
            empty = LoadResult(rows=0, bytes=tally.bytes)
            Ledger(keeper.connection, self._table).record(content, self._source, empty, Part(0, 0))
        for lane in (*others, keeper):
            lane.connection.commit()
        self._tell(lanes, tally)
        return _sum(lanes, tally)

    def _tell(self, lanes: list[_Lane], tally: Tally) -> None:
        if self._progress:
            rows = sum(lane.rows for lane in lanes)
            total = self._source.total_bytes
            self._progress(Progress(bytes=tally.bytes, rows=rows, total_bytes=total))

    def _reject(self, reject: Reject) -> None:
        if self._rejects:
            with self._rejecting:
                self._rejects(reject)


def _sum(lanes: Iterable[_Lane], tally: Tally) -> LoadResult:
    results = [result for lane in lanes for _, result in lane.loaded]
    return LoadResult(
        rows=sum(result.rows for result in results),
        bytes=tally.bytes,
        rejected=sum(result.rejected for result in results),
    )


def _noted(blocks: Iterable[bytes], content: Content) -> Iterator[bytes]:
    for block in blocks:
        content.add(block)
        yield block
