"""A feed that is followed: each event once, its user, and gaps that are told."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select

from citus_analytics.github.live import Feed, FollowOptions, Gap, follow
from citus_analytics.github.load import load_api_events
from citus_analytics.github.models import followed_feeds, github_users
from tests.database.follow_data import Waits, counts, polls, stored
from tests.github_api import START, live_event

if TYPE_CHECKING:
    import pytest
    from sqlalchemy import Engine

    from citus_analytics.github.events import Reject
    from tests.github_api import GitHub


def test_each_event_is_stored_once_with_its_user(engine: Engine, github: GitHub) -> None:
    github.happen(*range(250))
    (first,) = polls(engine, github)
    assert counts(first) == ("loaded", 250, 0, 0)
    assert (first.pages, first.newest) == (3, START + timedelta(seconds=249))
    assert first.lag == first.at - (START + timedelta(seconds=249))
    (second,) = polls(engine, github)
    assert counts(second) == ("unchanged", 0, 0, 0)
    assert github.statuses == [200, 200, 200, 304]
    github.happen(250, 251)
    (third,) = polls(engine, github)
    assert counts(third) == ("loaded", 2, 250, 0)
    assert [poll.gap for poll in (first, second, third)] == [None] * 3
    assert stored(engine) == [*range(252)]
    with engine.connect() as connection:
        logins = connection.execute(select(github_users.c.login)).scalars().all()
    assert sorted(logins, key=str) == [f"user-{number}" for number in range(1, 8)]


def test_the_newest_record_of_a_user_wins(engine: Engine, github: GitHub) -> None:
    for number, login in enumerate(("old", "new")):
        github.events.insert(0, live_event(number, actor={"id": 1, "login": login}))
        polls(engine, github)
    with engine.connect() as connection:
        assert connection.execute(select(github_users.c.login)).scalars().all() == ["new"]


def test_pages_that_shift_while_they_are_read(engine: Engine, github: GitHub) -> None:
    github.happen(*range(220))
    happening = iter(range(220, 400))

    def happen(page: int) -> None:
        if page > 1:
            github.happen(*(next(happening) for _ in range(10)))

    github.before = happen
    (first,) = polls(engine, github)
    assert counts(first) == ("loaded", 220, 0, 0)
    github.before = lambda _: None
    (second,) = polls(engine, github)
    assert counts(second) == ("loaded", 20, 220, 0)
    assert stored(engine) == [*range(240)]


def test_events_that_are_there_from_elsewhere(engine: Engine, github: GitHub) -> None:
    with engine.begin() as connection:
        load_api_events(connection, [live_event(number) for number in range(5)])
    github.happen(*range(8))
    assert counts(polls(engine, github)[0]) == ("loaded", 3, 5, 0)
    assert stored(engine) == [*range(8)]


def test_a_gap_is_told_even_after_a_restart(
    engine: Engine, github: GitHub, caplog: pytest.LogCaptureFixture
) -> None:
    github.happen(*range(100))
    polls(engine, github)
    github.happen(*range(100, 600))
    with caplog.at_level(logging.WARNING, "citus_analytics"):
        (poll,) = polls(engine, github)
    expected = Gap(since=START + timedelta(seconds=99), until=START + timedelta(seconds=300))
    assert poll.gap == expected
    (record,) = caplog.records
    assert expected.since.isoformat() in record.getMessage()
    assert expected.until.isoformat() in record.getMessage()
    assert stored(engine) == [*range(100), *range(300, 600)]
    github.happen(600)
    assert polls(engine, github)[0].gap is None


def test_feeds_have_positions_of_their_own(engine: Engine, github: GitHub) -> None:
    github.happen(1, 2)
    for feed in (Feed(repo="a/b", api=github.address), Feed(org="a", api=github.address)):
        options = FollowOptions(max_polls=2)
        outcomes = [poll.outcome for poll in follow(engine, feed, options=options, wait=Waits())]
        assert outcomes == ["loaded", "unchanged"]
    assert [path.split("?")[0] for path, _, _ in github.requests] == [
        *["/repos/a/b/events"] * 2,
        *["/orgs/a/events"] * 2,
    ]
    assert stored(engine) == [1, 2]


def test_what_cannot_be_stored_is_told_once(engine: Engine, github: GitHub) -> None:
    github.happen(1, 2)
    github.events += [live_event(3, payload={"text": "\0"}), live_event(4, actor="login")]
    rejects: list[Reject] = []
    first = polls(engine, github, 1, rejects=rejects.append)[0]
    assert counts(first) == ("loaded", 2, 0, 2)
    assert [reject.line for reject in rejects] == [3, 4]
    assert "u0000" in rejects[0].reason
    rejects.clear()
    following = follow(
        engine,
        Feed(api=github.address),
        options=FollowOptions(rejects=rejects.append),
        wait=Waits(),
    )
    for number in (5, 6):
        github.happen(number)
        next(following)
    assert len(rejects) == 2
    assert stored(engine) == [1, 2, 5, 6]


def test_an_event_that_ends_the_waiting_ends_it(engine: Engine, github: GitHub) -> None:
    github.happen(1)
    github.interval = 3600
    stop = threading.Event()
    for poll in follow(engine, Feed(api=github.address), wait=stop.wait):
        assert poll.new == 1
        stop.set()
    assert stored(engine) == [1]


def test_the_shield_is_around_the_transaction(engine: Engine, github: GitHub) -> None:
    github.happen(1)
    seen: list[list[int]] = []

    class Shield:
        def __enter__(self) -> None:
            seen.append(stored(engine))

        def __exit__(self, *_: object) -> None:
            seen.append(stored(engine))

    options = FollowOptions(max_polls=1)
    list(follow(engine, Feed(api=github.address), options=options, shield=Shield))
    assert seen == [[], [1]]


def test_several_followers_at_once(engine: Engine, github: GitHub) -> None:
    github.happen(*range(100))
    happening = iter(range(100, 100_000))
    one_at_a_time = threading.Lock()

    def happen(_: int) -> None:
        with one_at_a_time:
            github.happen(*(next(happening) for _ in range(20)))

    github.before = happen
    new: Counter[int] = Counter()

    def run(number: int) -> None:
        for poll in polls(engine, github, 5):
            new[number] += poll.new

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = stored(engine)
    assert len(found) == len(set(found)) == new.total()
    with engine.connect() as connection:
        assert len(connection.execute(select(followed_feeds.c.address)).all()) == 1
