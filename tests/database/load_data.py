"""Events and users to load, and what the tests of loading look at."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select

from citus_analytics.github.models import github_events
from citus_analytics.github.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

SINCE = datetime(2025, 1, 1, tzinfo=UTC)
SAMPLE = Sample(events=1000, users=50, since=SINCE, until=SINCE + timedelta(hours=1))
EVENTS = b"".join(SAMPLE.events_csv())
USERS = b"".join(SAMPLE.users_csv())
GOOD = b'7,PushEvent,t,2,"{""size"": 1}",{},5,,2025-01-01T00:00:00Z\n'
# Two lines, and a quote in a field: it must not confuse the counting of lines.
LONG = b'8,WatchEvent,t,2,"{""a"":\n""\\"" ""}",{},6,,2025-01-01T00:00:00Z\n'


def count(connection: Connection | Session) -> int:
    return connection.execute(select(func.count()).select_from(github_events)).scalar_one()


def with_earlier_work(connection: Connection) -> None:
    """Do something that a failed load must not undo."""
    connection.execute(insert(github_events).values(event_id=1, user_id=1))


def packed(tmp_path: Path) -> Path:
    path = tmp_path / "events.csv.gz"
    path.write_bytes(gzip.compress(EVENTS))
    return path


def plain(tmp_path: Path) -> Path:
    path = tmp_path / "events.csv"
    path.write_bytes(EVENTS)
    return path
