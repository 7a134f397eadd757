"""The analytics beyond the tutorial's: against plain Python, raw events, and the statements."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from citus_analytics.errors import ArgumentError
from citus_analytics.github import analytics
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.rollups.run import run_rollup
from tests.database.analytics_data import (
    CLOCK_CHANGES,
    INT_MAX,
    Event,
    add_events,
    push,
    random_events,
    set_zone,
)
from tests.database.test_rollup_measures import start_of_bucket

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from tests.servers import DatabaseServer

WINDOWS: list[dict[str, Any]] = [
    {},
    {"since": CLOCK_CHANGES[0] - timedelta(minutes=61, seconds=5), "until": CLOCK_CHANGES[1]},
    {"until": CLOCK_CHANGES[2].replace(minute=0)},
]


def some_events(number: int, *, of_nobody: bool = False) -> list[Event]:
    """Return random events, with forks and, if wanted, events without a user among them."""
    events = random_events(number)
    for each in events[::9]:
        each["event_type"] = "ForkEvent"
    for each in events[::31] if of_nobody else ():
        each["user_id"] = None
    return events


class Oracle:
    """What Python says of events."""

    def __init__(self, events: list[Event], window: dict[str, Any]) -> None:
        since, until = window.get("since"), window.get("until")
        self.events = [
            each
            for each in events
            if not window
            or (
                (at := each["created_at"]) is not None
                and (since is None or since <= at)
                and (until is None or at < until)
            )
        ]

    def over_time(self, every: str, *by: str, **equal: object) -> list[tuple[Any, ...]]:
        """Count events by bucket and columns, in order."""
        found = Counter(
            (at and start_of_bucket(every, at), *(each[name] for name in by))
            for each in self.events
            if all(each[name] == value for name, value in equal.items())
            for at in [each["created_at"]]
        )
        return sorted(
            ((*group, number) for group, number in found.items()),
            key=lambda row: [(v is None, str(v)) for v in row[:-1]],
        )

    def most(self, column: str, **equal: object) -> list[tuple[int | None, int]]:
        """Count events by a column, the greatest number first."""
        found = Counter(
            each[column]
            for each in self.events
            if all(each[name] == value for name, value in equal.items())
        )
        return sorted(found.items(), key=lambda e: (-e[1], e[0] is None, e[0] or 0))

    def users(self, every: str, **equal: object) -> list[tuple[datetime | None, int]]:
        """Count different users by bucket."""
        found: dict[datetime | None, set[int]] = defaultdict(set)
        for each in self.events:
            if all(each[name] == value for name, value in equal.items()):
                at = each["created_at"]
                users = found[at and start_of_bucket(every, at)]
                users |= {each["user_id"]} - {None}
        return sorted(
            ((bucket, len(users)) for bucket, users in found.items()),
            key=lambda each: (each[0] is None, str(each[0])),
        )

    def heat(self, zone: str, **equal: object) -> list[tuple[int, int, int]]:
        """Count events by weekday and hour of a zone."""
        found = Counter(
            (shown.weekday(), shown.hour)
            for each in self.events
            if each["created_at"] is not None
            and all(each[name] == value for name, value in equal.items())
            for shown in [each["created_at"].astimezone(ZoneInfo(zone))]
        )
        return sorted((*cell, number) for cell, number in found.items())

    def sizes(self) -> analytics.PushSizes:
        """Take percentiles of the commits of pushes as SQL defines them."""
        sizes = sorted(
            int(size)
            for each in self.events
            if each["event_type"] == "PushEvent" and isinstance(each["payload"], dict)
            for size in [each["payload"].get("distinct_size")]
            if size is not None and -(2**31) <= int(size) <= INT_MAX
        )

        def percentile(percent: int) -> int | None:
            return next(
                (s for n, s in enumerate(sizes, 1) if n * 100 >= percent * len(sizes)), None
            )

        return analytics.PushSizes(len(sizes), percentile(50), percentile(95), percentile(99))


def plain(rows: Any) -> Any:
    """Return rows as tuples, with times in UTC."""
    if isinstance(rows, analytics.PushSizes):
        return rows
    return [
        tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in values)
        for values in (
            row if isinstance(row, tuple) else [getattr(row, name) for name in row.__slots__]
            for row in rows
        )
    ]


def answers(session: Session | Connection, **options: Any) -> list[Any]:
    """Ask everything that there is."""
    berlin, kathmandu = "1 day at Europe/Berlin", "Asia/Kathmandu"
    return [
        plain(rows)
        for rows in (
            analytics.events_by_type(session, **options),
            analytics.events_by_type(session, every="1 minute", event_type="ForkEvent", **options),
            analytics.events_by_type(session, every=berlin, **options),
            analytics.user_activity(session, 7, **options),
            analytics.user_activity(session, 7, event_type="PushEvent", **options),
            analytics.user_activity(session, None, **options),
            analytics.user_activity(session, None, every="1 hour", event_type="X", **options),
            analytics.repository_activity(session, 2, every="1 hour", **options),
            analytics.repository_activity(session, 2, event_type="WatchEvent", **options),
            analytics.repository_activity(session, None, event_type=None, **options),
            analytics.repository_activity(session, None, event_type="PushEvent", **options),
            analytics.active_users(session, **options),
            analytics.active_users(session, every="1 month", event_type="PushEvent", **options),
            analytics.trending_repositories(session, limit=None, **options),
            analytics.trending_repositories(session, event_type="ForkEvent", limit=2, **options),
            analytics.trending_repositories(session, event_type="PushEvent", limit=2, **options),
            analytics.trending_repositories(session, event_type=None, limit=None, **options),
            analytics.top_contributors(session, 1, limit=4, **options),
            analytics.top_contributors(session, None, limit=None, **options),
            analytics.top_contributors(session, None, event_type="ForkEvent", **options),
            analytics.top_contributors(session, 1, event_type="PushEvent", limit=None, **options),
            analytics.heat_map(session, time_zone=kathmandu, **options),
            analytics.heat_map(session, time_zone="Europe/Berlin", event_type="X", **options),
            analytics.push_sizes(session, **options),
        )
    ]


def expected(events: list[Event], window: dict[str, Any]) -> list[Any]:
    """Answer the same."""
    of = Oracle(events, window)
    berlin = "1 day at Europe/Berlin"
    return [
        of.over_time("1 hour", "event_type"),
        of.over_time("1 minute", "event_type", event_type="ForkEvent"),
        of.over_time(berlin, "event_type"),
        of.over_time("1 day", user_id=7),
        of.over_time("1 day", user_id=7, event_type="PushEvent"),
        of.over_time("1 day", user_id=None),
        [],
        of.over_time("1 hour", repo_id=2),
        of.over_time("1 day", repo_id=2, event_type="WatchEvent"),
        of.over_time("1 day", repo_id=None),
        of.over_time("1 day", repo_id=None, event_type="PushEvent"),
        of.users("1 day"),
        of.users("1 month", event_type="PushEvent"),
        of.most("repo_id", event_type="WatchEvent"),
        of.most("repo_id", event_type="ForkEvent")[:2],
        of.most("repo_id", event_type="PushEvent")[:2],
        of.most("repo_id"),
        of.most("user_id", repo_id=1)[:4],
        of.most("user_id", repo_id=None),
        of.most("user_id", repo_id=None, event_type="ForkEvent")[:10],
        of.most("user_id", repo_id=1, event_type="PushEvent"),
        of.heat("Asia/Kathmandu"),
        [],
        of.sizes(),
    ]


@pytest.mark.parametrize("window", WINDOWS, ids=["all", "window", "until"])
def test_answers_are_those_of_python(
    server: DatabaseServer, session: Session, window: dict[str, Any]
) -> None:
    """Rolled up in part, with changes pending; as of the last run; and from the events."""
    # On Citus the distribution column is never NULL.
    events = some_events(900, of_nobody=server.kind == "postgresql")
    add_events(session, events[:600])
    run_rollup(session, GITHUB_ROLLUP_1MIN)
    add_events(session, events[600:])
    wanted = expected(events, window)
    assert sum(map(bool, wanted)) == len(wanted) - (2 if server.kind == "postgresql" else 3)
    for freshness in ("raw", "fresh"):
        for found, by_python in zip(
            answers(session, freshness=freshness, **window), wanted, strict=True
        ):
            assert found == by_python
    assert answers(session, freshness="rolled_up", **window) == expected(events[:600], window)


@pytest.mark.parametrize("window", WINDOWS[:2], ids=["all", "window"])
def test_statements_compute_the_same(
    server: DatabaseServer, session: Session, window: dict[str, Any]
) -> None:
    add_events(session, some_events(400, of_nobody=server.kind == "postgresql"))
    pairs: list[tuple[Any, Any]] = [
        (analytics.events_by_type, {"every": "1 week", "event_type": "ForkEvent"}),
        (analytics.events_by_type, {}),
        (analytics.user_activity, {"user_id": 7, "event_type": "PushEvent"}),
        (analytics.repository_activity, {"repo_id": 2}),
        (analytics.repository_activity, {"repo_id": None, "event_type": "PushEvent"}),
        (analytics.user_activity, {"user_id": None}),
        (analytics.active_users, {"event_type": "PushEvent"}),
        (analytics.trending_repositories, {"limit": 2}),
        (analytics.trending_repositories, {"event_type": None}),
        (analytics.top_contributors, {"repo_id": 1, "limit": 3}),
        (analytics.top_contributors, {"repo_id": None, "limit": 3}),
        (analytics.heat_map, {"time_zone": "Asia/Kathmandu"}),
        (analytics.push_sizes, {}),
    ]
    for function, options in pairs:
        builder = getattr(analytics, f"{function.__name__}_statement")
        rows = session.execute(builder(**options, **window)).all()
        answer = function(session, **options, **window)
        if isinstance(answer, analytics.PushSizes):
            answer = [answer]
        of_nobody = options.get("user_id", 7) is None
        # On Citus, asking for what cannot be there is no error.
        assert bool(answer) is (not of_nobody or server.kind == "postgresql")
        assert [type(each)(*row) for row, each in zip(rows, answer, strict=True)] == answer


def test_hours_of_a_week_are_those_that_clocks_show(connection: Connection) -> None:
    """The hour that is repeated when summer time ends has one cell, whatever the session shows."""
    set_zone(connection, "Pacific/Chatham")
    sunday = datetime(2025, 10, 26, 0, 30, tzinfo=UTC)
    add_events(connection, [push(sunday + n * timedelta(hours=1)) for n in range(3)])
    found = analytics.heat_map(connection, time_zone="Europe/Berlin")
    cells = [analytics.HeatMapCell(6, 2, 2), analytics.HeatMapCell(6, 3, 1)]
    assert found == cells
    rows = connection.execute(analytics.heat_map_statement(time_zone="Europe/Berlin"))
    assert [analytics.HeatMapCell(*row) for row in rows] == cells


def test_nothing(session: Session) -> None:
    *lists, sizes = answers(session)
    assert not any(lists)
    assert sizes == analytics.PushSizes(0, None, None, None)


def test_what_is_no_bucket(session: Session) -> None:
    with pytest.raises(ArgumentError, match="a bucket must be like"):
        analytics.events_by_type(session, every="often")
    with pytest.raises(ArgumentError, match="time_zone must be"):
        analytics.heat_map(session, time_zone="Europe/Atlantis")
