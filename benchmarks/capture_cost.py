"""What it costs a load that its changes are captured."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlalchemy import MetaData, Table

from benchmarks.database import OTHER, distribute_other, execute, sample
from benchmarks.figures import Figure
from benchmarks.timing import alternate, median_ratio, milliseconds, say, seconds
from citus_analytics import github_events, load_csv

if TYPE_CHECKING:
    from sqlalchemy import Engine

REPETITIONS = 9


def measure(engine: Engine, rows: int) -> list[Figure]:
    """Compare COPY into the events with COPY into a table that has no triggers.

    Measured: COPY of a fifth of `rows` events, with its commit, into the empty `github_events`.
    The other arm is the same COPY into a table with the same columns and indexes, and on Citus
    the same shards, but without the triggers that capture changes.

    Promised: at most 1.15 of the other arm's time.
    """
    events = max(rows // 5, 1)
    bare = github_events.to_metadata(MetaData(), schema=OTHER)
    bare.create(engine)
    distribute_other(engine, bare.name)
    with TemporaryDirectory() as directory:
        path = Path(directory, "events.csv")
        path.write_bytes(b"".join(sample(events).events_csv()))
        captured, uncaptured = alternate(
            [lambda: _copy(engine, github_events, path), lambda: _copy(engine, bare, path)],
            REPETITIONS,
        )
    name = f"COPY of {events:,} events: captured / uncaptured"
    say(f"{name}: {milliseconds(captured)} / {milliseconds(uncaptured)}")
    return [Figure(name, median_ratio(captured, uncaptured), "at most", 1.15)]


def _copy(engine: Engine, table: Table, path: Path) -> float:
    execute(engine, f"TRUNCATE {table.fullname}, github_rollup_1min_changes")

    def load() -> None:
        with engine.begin() as connection:
            load_csv(connection, table, path)

    return seconds(load)
