"""What an answer is where there was no run, where rows have been expired, and on a cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from citus_analytics import (
    GITHUB_ROLLUP_1MIN,
    GithubEvent,
    RollupError,
    ask,
    count,
    count_events,
    explain_shape,
    most_active_users,
    run_rollup,
)
from citus_analytics.rollups.run import expire
from tests.database.analytics_data import add_events, random_events

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from citus_analytics.rollups.ask import Freshness
    from tests.servers import DatabaseServer

EVENTS: dict[str, Any] = {"measures": {"events": count()}}


def test_before_the_first_run_nothing_is_rolled_up(session: Session) -> None:
    add_events(session, random_events(50))
    answer = ask(session, GithubEvent, **EVENTS, freshness="rolled_up")
    assert [tuple(row) for row in answer] == [(0,)]
    assert (answer.plan.freshness, answer.plan.as_of, answer.plan.pending) == (
        "rolled_up", None, 50,
    )  # fmt: skip
    run_rollup(session, GITHUB_ROLLUP_1MIN)
    answer = ask(session, GithubEvent, **EVENTS, freshness="rolled_up")
    assert [tuple(row) for row in answer] == [(50,)]
    assert answer.plan.as_of == session.scalar(
        text("SELECT min(last_run) FROM github_events_rollups")
    )


def test_raw_is_what_is_left(engine: Engine) -> None:
    noon = datetime(2026, 1, 5, 12, tzinfo=UTC)
    events = random_events(60)
    for number, each in enumerate(events):
        each["created_at"] = noon + timedelta(minutes=number)
    with engine.begin() as connection:
        add_events(connection, events)
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
    expire(engine, GITHUB_ROLLUP_1MIN, noon + timedelta(minutes=40))
    with engine.connect() as connection:
        left = connection.scalar(text("SELECT count(*) FROM github_events"))
        assert left == count_events(connection, freshness="raw") == 20
        assert count_events(connection) == count_events(connection, freshness="rolled_up") == 60
        # Whole minutes are rolled up; of others the events would be needed.
        window: dict[str, Any] = {"since": noon, "until": noon + timedelta(minutes=5, seconds=30)}
        assert len(most_active_users(connection, until=noon + timedelta(minutes=3))) == 3
        for freshness in ("fresh", "rolled_up"):
            with pytest.raises(RollupError, match="have been expired, and no rollup has"):
                most_active_users(connection, freshness=freshness, **window)
        assert most_active_users(connection, freshness="raw", **window) == []


def test_the_shapes_that_are_documented(server: DatabaseServer, session: Session) -> None:
    add_events(session, random_events(100))
    run_rollup(session, GITHUB_ROLLUP_1MIN)
    add_events(session, random_events(50))
    session.commit()

    def shape(freshness: Freshness, **asked: Any) -> str:
        answer = ask(session, GithubEvent, **EVENTS, freshness=freshness, **asked)
        return explain_shape(session, answer.plan.statement).kind

    groups: list[list[Any]] = [
        [],
        [GithubEvent.repo_id],
        [GithubEvent.event_type, GithubEvent.repo_id],
    ]
    on_citus = server.kind == "citus"
    for by in groups:
        for freshness in ("fresh", "rolled_up"):
            of_one = shape(freshness, by=by, where=GithubEvent.user_id == 7)
            assert of_one == ("router" if on_citus else "not_distributed")
        assert shape("fresh", by=by) == ("pull" if on_citus else "not_distributed")
    assert shape("rolled_up") == ("reference" if on_citus else "not_distributed")
