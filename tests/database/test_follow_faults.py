"""A feed that is followed while GitHub or the database fails, or asks for patience."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import LoadError
from citus_analytics.github.live import Feed, FollowOptions, Gap, follow
from citus_analytics.github.models import followed_feeds, github_users
from tests.database.follow_data import Waits, counts, polls, stored
from tests.github_api import START, Reply, limited
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.github_api import GitHub


def test_limits_and_intervals_are_honoured(engine: Engine, github: GitHub) -> None:
    github.happen(1)
    github.interval = 60
    github.replies = [limited(403, Retry_After="120"), limited(429), None]
    waits = Waits()
    assert [poll.outcome for poll in polls(engine, github, 4, wait=waits)] == [
        "failed",
        "failed",
        "loaded",
        "unchanged",
    ]
    assert waits == pytest.approx([0, 120, 120, 60], abs=5)
    # Whoever starts anew waits as well.
    waits = Waits()
    polls(engine, github, 1, wait=waits)
    assert waits == pytest.approx([60], abs=5)


def test_a_limit_is_honoured_by_whoever_starts_next(engine: Engine, github: GitHub) -> None:
    github.happen(1)
    before = [poll.outcome for poll in polls(engine, github)]
    with engine.connect() as connection:
        read = select(followed_feeds.c.etag, followed_feeds.c.event_ids, followed_feeds.c.newest)
        position = connection.execute(read).one()
    github.replies = [limited(403, Retry_After="3000"), Reply(503, {"Retry-After": "2000"})]
    waits = Waits()
    for _ in range(2):
        with pytest.raises(LoadError, match="try again later"):
            polls(engine, github, 2, wait=waits, max_failures=1)
    after = [poll.outcome for poll in polls(engine, github, wait=waits)]
    assert waits == pytest.approx([0, 3000, 2000], abs=5)
    assert (before, after) == (["loaded"], ["unchanged"])
    with engine.connect() as connection:
        assert connection.execute(read).one() == position


def test_a_limit_is_honoured_before_anything_was_read(engine: Engine, github: GitHub) -> None:
    github.happen(1)
    github.replies = [limited(429, Retry_After="3000"), Reply(502)]
    waits = Waits()
    for _ in range(3):
        polls(engine, github, wait=waits)
    # The server error asks for nothing, and leaves the moment that has been noted before it.
    assert waits == pytest.approx([0, 3000, 3000], abs=5)
    assert stored(engine) == [1]


def test_a_callers_interval_holds_after_failures_and_restarts(
    engine: Engine, github: GitHub
) -> None:
    github.happen(1)
    github.replies = [Reply(502), None]
    waits, day = Waits(), 86400
    polls(engine, github, 2, wait=waits, interval=day)
    polls(engine, github, 1, wait=waits, interval=day)
    assert waits == pytest.approx([0, day, day], abs=5)


FAULTS = {
    "server error": Reply(500, body=b"<html>"),
    "cut": Reply(damage="cut"),
    "closed": Reply(damage="closed"),
    "no JSON": Reply(200, body=b'[{"id": "1"'),
    "no list": Reply(200, body=b'{"message": "hello"}'),
    "slow": Reply(damage="slow"),
    "limited": limited(),
}


def test_after_a_fault_it_is_as_if_there_had_been_none(
    engine: Engine, github: GitHub, subtests: pytest.Subtests
) -> None:
    happened = 0
    for page in (1, 2):
        for name, fault in FAULTS.items():
            with subtests.test(name, page=page):
                github.happen(*range(happened, happened + 150))
                happened += 150
                github.replies = [*([None] * (page - 1)), fault]
                broken, whole = polls(engine, github, 2, timeout=0.3)
                assert broken.problem is not None
                assert (whole.outcome, whole.problem) == ("loaded", None)
                # Without a first page there is nothing to load; with it, it is loaded.
                assert counts(broken) == (("failed", 0, 0, 0), ("loaded", 100, 0, 0))[page - 1]
                assert (broken.gap, whole.gap) == (None, None)
                assert stored(engine) == [*range(happened)]


def test_a_gap_is_not_hidden_by_a_poll_without_all_pages(engine: Engine, github: GitHub) -> None:
    github.happen(*range(10))
    polls(engine, github)
    github.happen(*range(10, 500))
    github.replies = [None, Reply(500)]
    broken, whole = polls(engine, github, 2)
    assert (broken.new, broken.gap) == (100, None)
    assert whole.gap == Gap(
        since=START + timedelta(seconds=9), until=START + timedelta(seconds=200)
    )


def test_somebody_may_give_up(engine: Engine, github: GitHub) -> None:
    github.happen(*range(150))
    github.replies = [Reply(500), None, Reply(502), Reply(503)]
    options = FollowOptions(max_failures=3)
    following = follow(engine, Feed(api=github.address), options=options, wait=Waits())
    assert [poll.outcome for poll in islice(following, 3)] == ["failed", "loaded", "failed"]
    with pytest.raises(LoadError, match=r"GitHub answers 503. That was failure 3 in a row"):
        next(following)
    assert stored(engine) == [*range(50, 150)]


def test_a_poll_is_one_transaction(engine: Engine, github: GitHub) -> None:
    github.happen(1, 2)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE followed_feeds ADD CONSTRAINT nothing CHECK (false)"))
    with pytest.raises(DBAPIError, match="check constraint"):
        polls(engine, github)
    assert stored(engine) == []
    with engine.begin() as connection:
        assert connection.execute(select(github_users)).all() == []
        connection.execute(text("ALTER TABLE followed_feeds DROP CONSTRAINT nothing"))
    polls(engine, github)
    assert stored(engine) == [1, 2]


@ON_POSTGRESQL_ONLY
def test_no_time_is_lost_by_a_clock_that_was_set_back(engine: Engine, github: GitHub) -> None:
    github.happen(1)
    polls(engine, github)
    with engine.begin() as connection:
        connection.execute(text("UPDATE followed_feeds SET next_poll = '9999-01-01Z'"))
    waits = Waits()
    polls(engine, github, 1, wait=waits)
    assert waits == pytest.approx([6 * 3600], abs=1)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_github_refuses_for_good_ends_it(engine: Engine, github: GitHub, status: int) -> None:
    github.happen(1)
    polls(engine, github)
    github.replies = [Reply(status, body=b'{"message": "Go away"}')]
    with pytest.raises(LoadError, match=rf"{github.address}/events: GitHub answers {status}: Go"):
        polls(engine, github, 2)
    assert stored(engine) == [1]
