"""The tutorial's two files, made up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from citus_analytics.github.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = 3000


def write_csvs(directory: Path) -> int:
    """Write `events.csv` and `users.csv`; return the number of events."""
    sample = Sample(
        events=EVENTS,
        since=datetime(2026, 3, 1, 9, tzinfo=UTC),
        until=datetime(2026, 3, 1, 12, tzinfo=UTC),
    )
    (directory / "events.csv").write_bytes(b"".join(sample.events_csv()))
    (directory / "users.csv").write_bytes(b"".join(sample.users_csv()))
    return EVENTS
