"""How fast events come in: from a file, and from the generator."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.database import execute, sample
from benchmarks.figures import Figure
from benchmarks.timing import alternate, median_ratio, milliseconds, say, seconds
from citus_analytics import github_events, load_events
from citus_analytics.server import find_binaries

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

REPETITIONS = 5


def measure(engine: Engine, rows: int) -> list[Figure]:
    r"""Compare `load_events` with psql's `\copy` of the same file, and time the generator.

    Measured: the time to connect, load a file of `rows` events into the empty `github_events`,
    and commit. The indexes are dropped: they would take most of the time, and hide what the
    clients take. And how many events a second the sample generator writes into that file.

    Promised: at most 1.05 of the time of `\copy`; at least 100,000 events a second.
    """
    execute(engine, *(f"DROP INDEX {index.name}" for index in github_events.indexes))
    with TemporaryDirectory() as directory:
        path = Path(directory, "events.csv")
        generating = seconds(partial(_generate, path, rows))
        arms = [partial(_into_empty, load, engine, path) for load in (_load_events, psql_copy)]
        ours, psqls = alternate(arms, REPETITIONS)
    say(rf"loading {rows:,} events: {milliseconds(ours)}, psql's \copy {milliseconds(psqls)}")
    name = rf"{rows:,} events: load_events / \copy"
    return [
        Figure(name, median_ratio(ours, psqls), "at most", 1.05),
        Figure(f"{rows:,} events generated a second", rows / generating, "at least", 100_000),
    ]


def _generate(path: Path, rows: int) -> None:
    with path.open("wb") as file:
        file.writelines(sample(rows).events_csv())


def _into_empty(load: Callable[[Engine, Path], None], engine: Engine, path: Path) -> float:
    execute(engine, "TRUNCATE github_events, github_rollup_1min_changes")
    return seconds(lambda: load(engine, path))


def _load_events(engine: Engine, path: Path) -> None:
    with engine.begin() as connection:
        load_events(connection, path)


def psql_copy(engine: Engine, path: Path) -> None:
    r"""Load CSV into `github_events` with psql's `\copy`."""
    address = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    psql = find_binaries().bindir / "psql"
    command = rf"\copy github_events from '{path}' WITH CSV"
    subprocess.run([psql, "--no-psqlrc", "--quiet", "-d", address, "-c", command], check=True)
