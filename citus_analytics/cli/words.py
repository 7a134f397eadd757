"""Numbers, times and results as a person reads them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from citus_analytics.copy import LoadResult
    from citus_analytics.rollups.run import RollupRun


@dataclass(slots=True)
class Watch:
    """A stop watch; `seconds` is there once it has been stopped."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Watch]:
    """Time a block."""
    watch, start = Watch(), time.perf_counter()
    yield watch
    watch.seconds = round(time.perf_counter() - start, 6)


def in_utc(run: RollupRun) -> RollupRun:
    """Return the same run with its times in UTC, not in the zone of the connection."""
    return replace(
        run,
        since=run.since and run.since.astimezone(UTC),
        until=run.until and run.until.astimezone(UTC),
    )


def plural(number: int, noun: str) -> str:
    """Return a number of things: 1 row, 2 rows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration with as many digits as matter: 12.3 s, 45 ms, 6.7 ms."""
    if seconds >= 1:
        return f"{seconds:,.1f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def size(number: float) -> str:
    """Return a number of bytes in the unit that reads best: 8 kB, 12.3 MB, 1.2 GB."""
    if number < 1e6:
        return f"{number / 1e3:,.0f} kB"
    factor, unit = next((f, u) for f, u in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if number >= f)
    return f"{number / factor:,.1f} {unit}"


def minute(moment: datetime) -> str:
    """Return a time to the minute, with the name of its zone: 2026-03-01 12:00 UTC."""
    return f"{moment:%Y-%m-%d %H:%M %Z}"


def loaded(result: LoadResult, seconds: float) -> str:
    """Return how much was loaded, and how fast."""
    return (
        f"{result.rows:,} rows, {size(result.bytes)}, in {duration(seconds)}: "
        f"{result.rows / max(seconds, 1e-6):,.0f} rows a second."
    )


def rolled_up(run: RollupRun, seconds: float) -> str:
    """Return what a run of a rollup did."""
    if run.since is None or run.until is None:
        return f"nothing has changed since the last run ({duration(seconds)})."
    return (
        f"{run.groups_written:,} groups written, {run.groups_removed:,} removed, "
        f"from {minute(run.since)} to {minute(run.until)}, in {duration(seconds)}."
    )
