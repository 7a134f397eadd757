"""The further analytics: fresh answers, answers from raw events, and those of plain Python."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from citus_analytics.errors import ArgumentError, RollupError
from citus_analytics.github import insights
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.rollups.run import run_rollup
from tests.database.analytics_data import CLOCK_CHANGES, add_events, random_events

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

BERLIN = ZoneInfo("Europe/Berlin")
WINDOW: dict[str, Any] = {
    "since": CLOCK_CHANGES[0] - timedelta(minutes=61, seconds=5),
    "until": CLOCK_CHANGES[1] + timedelta(minutes=7),
}


def asked(session: Session, **options: Any) -> list[object]:
    return [
        insights.events_by_type(session, **options),
        insights.events_by_type(session, every="1 day at Europe/Berlin", **options),
        insights.user_activity(session, 7, **options),
        insights.repository_activity(session, 2, every="1 hour", **options),
        insights.active_users(session, **options),
        insights.active_users(session, every="1 month", **options),
        insights.trending_repositories(session, limit=2, **options),
        insights.top_contributors(session, 1, limit=4, **options),
        insights.heat_map(session, time_zone="Asia/Kathmandu", **options),
    ]


@pytest.mark.parametrize("window", [{}, WINDOW], ids=["all", "window"])
def test_fresh_answers_equal_raw_ones(session: Session, window: dict[str, Any]) -> None:
    events = random_events(700)
    add_events(session, events[:500])
    run_rollup(session, GITHUB_ROLLUP_1MIN)
    before = asked(session, freshness="raw", **window)
    add_events(session, events[500:])
    assert asked(session, **window) == asked(session, freshness="raw", **window)
    assert asked(session, freshness="rolled_up", **window) == before
    assert all(before)


def test_the_answers_of_python(session: Session) -> None:
    events = random_events(500)
    add_events(session, events)
    dated = [each for each in events if each["created_at"] is not None]
    stars = Counter(e["repo_id"] for e in dated if e["event_type"] == "WatchEvent")
    order = sorted(stars.items(), key=lambda each: (-each[1], each[0] is None, each[0] or 0))
    found = insights.trending_repositories(session, limit=None)
    assert [(each.repo_id, each.events) for each in found] == order
    cells = Counter(
        (local.weekday(), local.hour)
        for each in dated
        for local in [each["created_at"].astimezone(BERLIN)]
    )
    shown = insights.heat_map(session, time_zone="Europe/Berlin")
    assert [((each.weekday, each.hour), each.events) for each in shown] == sorted(cells.items())
    days: dict[datetime, set[int]] = defaultdict(set)
    for each in dated:
        start = each["created_at"].replace(hour=0, minute=0, second=0, microsecond=0)
        days[start].add(each["user_id"])
    users = insights.active_users(session)
    assert {each.bucket.astimezone(UTC): each.users for each in users} == {
        day: len(who) for day, who in days.items()
    }


def test_sizes_of_pushes(session: Session) -> None:
    assert insights.push_sizes(session) == insights.PushSizes(None, None, None)
    add_events(session, random_events(300))
    sizes = insights.push_sizes(session)
    assert sizes.p50 is not None
    assert sizes.p99 is not None
    assert sizes.p50 <= sizes.p99
    row = session.execute(insights.push_sizes_statement()).one()
    assert insights.PushSizes(*row) == sizes
    with pytest.raises(RollupError, match="no rollup can answer that"):
        insights.push_sizes(session, freshness="rolled_up")


def test_statements(session: Session) -> None:
    """They compute the same from the raw events."""
    add_events(session, random_events(300))
    pairs: list[tuple[list[Any], Any]] = [
        (insights.events_by_type(session), insights.events_by_type_statement()),
        (insights.user_activity(session, 7), insights.user_activity_statement(7)),
        (insights.repository_activity(session, 2), insights.repository_activity_statement(2)),
        (insights.active_users(session), insights.active_users_statement()),
        (insights.trending_repositories(session), insights.trending_repositories_statement()),
        (insights.top_contributors(session, 1), insights.top_contributors_statement(1)),
    ]
    for answer, statement in pairs:
        rows = session.execute(statement).all()
        assert [type(answer[0])(*row) for row in rows] == answer
    hours = session.execute(insights.heat_map_statement()).all()
    assert sum(row.events for row in hours) == sum(c.events for c in insights.heat_map(session))


def test_an_unknown_time_zone(session: Session) -> None:
    with pytest.raises(ArgumentError, match="time_zone must be"):
        insights.heat_map(session, time_zone="Europe/Atlantis")
