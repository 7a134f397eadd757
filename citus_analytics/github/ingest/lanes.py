"""Connections that load parts of one source at the same time, each with a thread of its own."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg

from citus_analytics.github.ingest.connections import driver_of
from citus_analytics.github.ingest.ledger import Part
from citus_analytics.github.ingest.results import LoadResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import Connection

    from citus_analytics.github.ingest.parts import Piece


class Lane:
    """One connection, and the thread that loads pieces through it.

    Args:
        connection: Where the table is.
        pieces: What there is to load; other lanes take from the same.
        store: Stores pieces as they come.
        failed: What to set when something goes wrong.

    Attributes:
        parts: What it has taken so far.
        lines: How many lines end in that.
        result: What has been stored of it, in the end.
        error: What went wrong.
    """

    def __init__(
        self,
        connection: Connection,
        pieces: Iterator[Piece],
        store: Callable[[Connection, Iterable[Piece]], LoadResult],
        failed: threading.Event,
    ) -> None:
        self.connection = connection
        self.parts: list[Part] = []
        self.lines = 0
        self.result = LoadResult(rows=0, bytes=0)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="citus_analytics load", daemon=True)
        self._driver = driver_of(connection)
        self._pieces = pieces
        self._store = store
        self._failed = failed

    def cancel(self) -> None:
        """End what the server does for this connection."""
        if isinstance(self._driver, psycopg.Connection) and self.thread.is_alive():
            # A server that is gone has nothing to cancel.
            with suppress(psycopg.Error):
                self._driver.cancel_safe(timeout=5.0)

    def let_go(self) -> None:
        """Forget a connection that is lost: closing it would raise another error."""
        if self._driver.closed:
            self.connection.invalidate()

    def _run(self) -> None:
        try:
            self.result = self._store(self.connection, self._taken())
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self.error = error
            self._failed.set()

    def _taken(self) -> Iterator[Piece]:
        for piece in self._pieces:
            self.parts.append(Part(piece.first, piece.end))
            self.lines += piece.lines
            yield piece


@contextmanager
def working(lanes: Sequence[Lane], failed: threading.Event) -> Iterator[None]:
    """Let lanes work during the block, and wait for them; raise what they raised."""
    try:
        for lane in lanes:
            lane.thread.start()
        yield
        for lane in lanes:
            lane.thread.join()
        _raise_first_error(lanes)
    except BaseException:
        # Also Ctrl-C, while a lane waits for the server.
        failed.set()
        started = [lane for lane in lanes if lane.thread.ident is not None]
        for lane in started:
            lane.cancel()
        for lane in started:
            lane.thread.join()
            lane.let_go()
        raise


def _raise_first_error(lanes: Iterable[Lane]) -> None:
    for lane in lanes:
        if lane.error is not None:
            raise lane.error
