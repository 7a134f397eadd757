"""A feed that is followed: each event once, its user, gaps, failures of GitHub and the database."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import LoadError
from citus_analytics.github.follow import Feed, FollowOptions, Gap, Poll, follow
from citus_analytics.github.load import load_api_events
from citus_analytics.github.models import followed_feeds, github_users
from tests.github_api import START, Reply, limited, live_event, stored
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from citus_analytics.github.events import Reject
    from tests.github_api import GitHub


class Waits(list[float]):
    """How long it was to be waited."""

    def __call__(self, seconds: float) -> bool:
        """Note it, and do not wait."""
        self.append(seconds)
        return False


def polls(
    engine: Engine, github: GitHub, number: int = 1, *, wait: Waits | None = None, **options: Any
) -> list[Poll]:
    """Poll so many times, failed polls included."""
    feed = Feed(api=github.address)
    waits = Waits() if wait is None else wait
    following = follow(engine, feed, options=FollowOptions(**options), wait=waits)
    return [*islice(following, number)]


def counts(poll: Poll) -> tuple[str, int, int, int]:
    return poll.outcome, poll.new, poll.known, poll.rejected


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
    assert waits == pytest.approx([0, 120, 120, 60], abs=25)
    # Whoever starts anew waits as well.
    waits = Waits()
    polls(engine, github, 1, wait=waits)
    assert waits == pytest.approx([60], abs=25)


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
    assert waits == pytest.approx([0, 3000, 2000], abs=25)
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
    assert waits == pytest.approx([0, 3000, 3000], abs=25)
    assert stored(engine) == [1]


def test_a_callers_interval_holds_after_failures_and_restarts(
    engine: Engine, github: GitHub
) -> None:
    github.happen(1)
    github.replies = [Reply(502), None]
    waits, day = Waits(), 86400
    polls(engine, github, 2, wait=waits, interval=day)
    polls(engine, github, 1, wait=waits, interval=day)
    assert waits == pytest.approx([0, day, day], abs=25)


def test_pauses_double_across_restarts(engine: Engine, github: GitHub) -> None:
    github.happen(1)
    waits, spent = Waits(), []
    for _ in range(6):
        github.replies = [Reply(502)]
        start = time.monotonic()
        with pytest.raises(LoadError, match="failure 1 in a row"):
            polls(engine, github, 2, wait=waits, max_failures=1)
        spent.append(time.monotonic() - start)
    # Each pause has a jitter of up to half of it; what has passed since the failure is no part of
    # what is left.
    for n, wait in enumerate(waits[1:]):
        assert 2.0**n / 2 - spent[n] - spent[n + 1] <= wait <= 2.0**n
    read = select(followed_feeds.c.failures)
    with engine.connect() as connection:
        assert connection.scalar(read) == 6
    github.replies = []
    polls(engine, github, 1, wait=waits)
    with engine.connect() as connection:
        assert connection.scalar(read) == 0


FAULTS = {
    "server error": Reply(500, body=b"<html>"),
    "cut": Reply(damage="cut"),
    "closed": Reply(damage="closed"),
    "no JSON": Reply(200, body=b'[{"id": "1"'),
    "no list": Reply(200, body=b'{"message": "hello"}'),
    "slow": Reply(damage="slow"),
    "limited": limited(),
}


@pytest.mark.faults
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
                # The page before the one that is slow must come in this time, too.
                patience = 3.0 if name == "slow" else 30.0
                (broken,) = polls(engine, github, timeout=patience)
                (whole,) = polls(engine, github)
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
    with pytest.raises(LoadError, match=r"GitHub answered 503. That was failure 3 in a row"):
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
    with pytest.raises(LoadError, match=rf"/events: GitHub answered {status}: Go away\. "):
        polls(engine, github, 2)
    assert stored(engine) == [1]
