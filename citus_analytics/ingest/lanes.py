"""Connections that load parts of one source at the same time, each with a thread of its own."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING

import psycopg

from citus_analytics.ingest.connections import driver_of
from citus_analytics.ingest.ledger import Part
from citus_analytics.ingest.results import LoadResult, sum_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Protocol

    from sqlalchemy import Connection

    from citus_analytics.ingest.parts import Piece

    class Work(Protocol):
        """What lanes have to do: pieces, each for one of them."""

        failed: threading.Event
        in_batches: bool

        def pieces(self) -> Iterator[Piece]:
            """Yield pieces until there are no more, or another lane failed."""

        def store(self, connection: Connection, pieces: Iterable[Piece]) -> LoadResult:
            """Store pieces, as they come, in one COPY."""


class Lane:
    """One connection, and the thread that loads pieces through it.

    Args:
        connection: Where the table is.
        work: What there is to do.

    Attributes:
        parts: What it has taken so far.
        lines: How many lines end in that.
        result: What has been stored of it.
        error: What went wrong.
    """

    def __init__(self, connection: Connection, work: Work) -> None:
        self.connection = connection
        self.parts: list[Part] = []
        self.lines = 0
        self.result = LoadResult(rows=0, bytes=0)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="citus_analytics load", daemon=True)
        self._work = work

    def cancel(self) -> None:
        """End what the server does for this connection."""
        driver = driver_of(self.connection)
        if isinstance(driver, psycopg.Connection) and self.thread.is_alive():
            driver.cancel_safe(timeout=5.0)

    def _run(self) -> None:
        try:
            pieces = self._taken()
            for piece in pieces:
                some = (piece,) if self._work.in_batches else chain((piece,), pieces)
                self.result = sum_of([self.result, self._work.store(self.connection, some)])
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self.error = error
            self._work.failed.set()

    def _taken(self) -> Iterator[Piece]:
        for piece in self._work.pieces():
            self.parts.append(Part(piece.first, piece.end))
            self.lines += piece.lines
            yield piece


@contextmanager
def working(lanes: Sequence[Lane], failed: threading.Event) -> Iterator[None]:
    """Let lanes work during the block, and wait for them; raise what they raised."""
    try:
        for lane in lanes:
            lane.connection.begin()
            lane.thread.start()
        yield
        for lane in lanes:
            lane.thread.join()
    except BaseException:
        # Also Ctrl-C, while a lane waits for the server.
        failed.set()
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
