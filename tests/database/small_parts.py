"""Small files over several connections, as large ones are, and what goes on beside them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, text

from citus_analytics.github.ingest import load_files
from citus_analytics.github.ingest import parallel as parallel_module
from citus_analytics.github.ingest.parts import cut
from citus_analytics.github.models import github_events
from tests.database.ingest_data import count
from tests.event_data import hour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from citus_analytics.github.ingest.formats import Kind
    from citus_analytics.github.ingest.parts import Piece


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small files into parts too; the first come slowly, so that each connection has some."""

    def cut_small(blocks: Iterable[bytes], kind: Kind, name: str, *, size: int) -> Iterator[Piece]:
        small = (block[i : i + 999] for block in blocks for i in range(0, len(block), 999))
        for number, piece in enumerate(cut(small, kind, name, size=20_000)):
            yield piece
            time.sleep(0.05 if number < 6 else 0)

    monkeypatch.setattr(parallel_module, "cut", cut_small)
    monkeypatch.setattr("citus_analytics.github.ingest.files.PART_SIZE", 8)


def events(engine: Engine) -> int:
    """Return how many events are committed."""
    with engine.connect() as connection:
        return count(connection)


def lose_after(engine: Engine, commits: int, path: Path) -> None:
    """Load a file over three connections, and lose them after so many commits."""
    left = [commits]

    def lose(connection: Connection) -> None:
        if not left[0]:
            connection.invalidate()
            raise ConnectionResetError
        left[0] -= 1

    event.listen(engine, "commit", lose)
    with pytest.raises(ConnectionResetError):
        load_files(engine, github_events, [path], jobs=3)
    event.remove(engine, "commit", lose)


def until(engine: Engine, query: str) -> str:
    """Wait until a query has a row, and return its value."""
    for _ in range(300):
        with engine.connect() as connection:
            row = connection.execute(text(query)).first()
        if row is not None:
            return str(row[0])
        time.sleep(0.05)
    raise AssertionError(query)


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(1000))
    return path
