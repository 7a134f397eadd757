"""Small files over several connections, as large ones are, and what goes on beside them."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import event, text

from citus_analytics.github import load
from citus_analytics.github.load import Buffers, LoadOptions
from citus_analytics.github.models import github_events
from tests.database.load_data import count
from tests.event_data import hour

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection, Engine, Table

    from citus_analytics.copy import LoadResult, Progress

SMALL: Final = Buffers(block_size=1000, part_size=30_000)


def load_files(
    engine: Engine,
    table: Table,
    sources: Any,
    *,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
    progress: Callable[[Progress], object] | None = None,
    **arguments: Any,
) -> list[LoadResult]:
    """Load in small parts; the first come slowly, so that each connection has some."""
    calls = itertools.count()

    def slowly(so_far: Progress) -> None:
        if next(calls) < 6 and arguments.get("connections", 1) > 1:
            time.sleep(0.05)
        if progress is not None:
            progress(so_far)

    if options.buffers == Buffers():
        options = replace(options, buffers=SMALL)
    return load.load_files(engine, table, sources, options=options, progress=slowly, **arguments)


def events(engine: Engine) -> int:
    """Return how many events are committed."""
    with engine.connect() as connection:
        return count(connection)


def lose_after(
    engine: Engine,
    commits: int,
    path: Path,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
) -> None:
    """Load a file over three connections, and lose them after so many commits."""
    left = [commits]

    def lose(connection: Connection) -> None:
        if not left[0]:
            connection.invalidate()
            raise ConnectionResetError
        left[0] -= 1

    event.listen(engine, "commit", lose)
    with pytest.raises(ConnectionResetError):
        load_files(engine, github_events, [path], options=options, connections=3)
    event.remove(engine, "commit", lose)


def until(engine: Engine, query: str) -> str:
    """Wait until a query has a row, and return its value."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
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
