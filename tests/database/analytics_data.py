"""Events and users for the analytics: around changes of the clocks, with ties and gaps."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Connection, insert, text

from citus_analytics.github.models import github_events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from citus_analytics.github.analytics import HourlyCommits


Event: TypeAlias = dict[str, Any]

ZONES = [
    "UTC",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
]
# When the clocks of Berlin, of New York and of Lord Howe Island go back, then forth.
CLOCK_CHANGES = [
    datetime(2025, 10, 26, 1, tzinfo=UTC),
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2025, 11, 2, 6, tzinfo=UTC),
    datetime(2026, 3, 8, 7, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2025, 10, 4, 15, 30, tzinfo=UTC),
]
INT_MAX = 2**31 - 1
# Each is a distinct_size on which the tutorial's SQL works.
SIZES: list[Any] = [0, 1, 2, 7, INT_MAX, -(2**31), "5", "-3", "007", " 4 ", None]
# Each is one on which it fails.
UNFIT_SIZES: list[Any] = [
    *(INT_MAX + 1, -(2**31) - 1, 10**30, 1e300, 1.5, 1e-9, "1.5", "9999999999", "NaN", "inf"),
    *("", "abc", "1 2", True, [3], [], {}, {"distinct_size": 3}),
]


def push(moment: datetime | None, **payload: Any) -> Event:
    return {
        "event_type": "PushEvent",
        "user_id": 1,
        "payload": payload,
        "created_at": moment,
    }


def add_events(session: Session | Connection, events: Sequence[Event]) -> None:
    names = ("event_id", "event_type", "repo_id", "user_id", "payload", "created_at")
    if events:
        session.execute(
            insert(github_events), [{name: each.get(name) for name in names} for each in events]
        )


def random_events(number: int, seed: int = 2) -> list[Event]:
    """Return events around the changes of the clocks, with ties, gaps and missing values."""
    chance = random.Random(seed)
    kinds = ["PushEvent", "PushEvent", "CreateEvent", "CreateEvent", "WatchEvent", None]
    payloads: list[Any] = [
        *({"distinct_size": size} for size in SIZES),
        *({"ref_type": kind} for kind in ("repository", "repository", "branch")),
        *({}, {"ref": "main"}, None, [{"distinct_size": 9}], "distinct_size", 3),
    ]
    return [
        {
            "event_id": event_id,
            "event_type": chance.choice(kinds),
            "repo_id": chance.choice([1, 2, 3, None]),
            "user_id": chance.randrange(40),
            "payload": chance.choice(payloads),
            "created_at": chance.choice(CLOCK_CHANGES)
            + timedelta(minutes=chance.randrange(-300, 300), microseconds=chance.randrange(10**6))
            if chance.random() < 0.98
            else None,
        }
        for event_id in range(number)
    ]


def random_users(seed: int = 3) -> list[dict[str, Any]]:
    """Return users, some without a login, some with the same one, and some missing."""
    chance = random.Random(seed)
    logins = [None, "", "ada", "Ada", "ada-", "éva", "zoe", "用户", *(f"u{n}" for n in range(9))]
    return [{"user_id": each, "login": chance.choice(logins)} for each in range(35)]


def set_zone(session: Session | Connection, zone: str) -> None:
    # Citus passes the zone on to the workers only if it is told to.
    session.execute(text("SET LOCAL citus.propagate_set_commands TO 'local'"))
    session.execute(text(f"SET LOCAL TIME ZONE '{zone}'"))


def in_utc(moment: datetime | None) -> datetime | None:
    """Return the moment so that equal means equal, even when the clocks go back."""
    return moment and moment.astimezone(UTC)


def instants(rows: Sequence[HourlyCommits]) -> list[tuple[datetime | None, int | None]]:
    return [(in_utc(row.hour), row.commits) for row in rows]
