"""What answers of GitHub's mean, and how long to wait after them: no server, no clock."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime

import pytest

from citus_analytics.errors import ArgumentError
from citus_analytics.github.live import Feed, FollowOptions
from citus_analytics.github.live.answers import Answer, read_answer, same_origin
from citus_analytics.github.live.pace import LONGEST_WAIT, pause
from citus_analytics.github.live.polls import Fetched

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RESET = str(int((NOW + timedelta(minutes=30)).timestamp()))


def answer(status: int = 200, body: object = (), **headers: str) -> Answer:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(status, message, content, NOW)  # type: ignore[arg-type]


def wait_after(
    last: Answer,
    *,
    failures: int = 0,
    share: float = 0.0,
    pages: int = 1,
    interval: float = 0.0,
    first: Answer | None = None,
) -> float:
    """Return how long to wait; the interval of a `first` page is of the same poll."""
    fetched = Fetched(
        outcomes=(),
        pages=pages,
        etag=None,
        last=last,
        poll_interval=(last if first is None else first).poll_interval,
    )
    return pause(fetched, failures=failures, share=share, interval=interval)


def test_a_page() -> None:
    links = '<https://x/events?page=1>; rel="prev", <https://x/events?page=3>; rel="next"'
    page = answer(200, [{"id": "1"}], x_poll_interval="75", etag='W/"a"', link=links)
    assert page == Answer(
        status=200,
        events=({"id": "1"},),
        etag='W/"a"',
        next_page="https://x/events?page=3",
        poll_interval=75,
    )
    assert wait_after(page) == 75


def test_the_interval_that_is_usual() -> None:
    assert wait_after(answer()) == 60
    for nonsense in ("soon", "-5", "", "1e9", "9" * 40):
        assert wait_after(answer(x_poll_interval=nonsense)) == 60
    assert wait_after(answer(x_poll_interval="7200")) == 7200
    assert wait_after(answer(x_poll_interval="999999")) == LONGEST_WAIT == 6 * 3600


def test_a_callers_interval_is_a_least_one() -> None:
    page = answer(x_poll_interval="10")
    assert wait_after(page, interval=20) == 20
    assert wait_after(page, interval=5) == 10
    assert wait_after(page, interval=86400) == 86400
    for status, after in ((502, "0"), (403, "120"), (503, "30")):
        assert wait_after(answer(status, retry_after=after), failures=1, interval=300) == 300
    assert wait_after(answer(502), failures=9, interval=1) == 128


def test_the_interval_holds_if_a_further_page_fails() -> None:
    page = answer(x_poll_interval="60")
    assert wait_after(answer(502), failures=1, first=page) == 60
    assert wait_after(answer(502), failures=9, first=page) == 128
    assert wait_after(answer(403, retry_after="90"), failures=1, first=page) == 90


@pytest.mark.parametrize(
    ("remaining", "pages", "expected"),
    [("5000", 3, 60), ("45", 3, 120), ("3", 3, 1800), ("2", 3, 1801), ("0", 1, 1801)],
)
def test_requests_last_until_the_limit_is_reset(
    remaining: str, pages: int, expected: float
) -> None:
    left = answer(x_ratelimit_remaining=remaining, x_ratelimit_reset=RESET)
    assert wait_after(left, pages=pages) == expected


def test_the_clock_is_githubs() -> None:
    """Ours is twenty minutes slow."""
    theirs = format_datetime(NOW + timedelta(minutes=20), usegmt=True)
    left = answer(x_ratelimit_remaining="0", x_ratelimit_reset=RESET, date=theirs)
    assert wait_after(left) == 601


def test_the_primary_limit_lasts_until_it_is_reset() -> None:
    for status in (403, 429):
        refused = answer(
            status,
            {"message": "API rate limit exceeded"},
            x_ratelimit_remaining="0",
            x_ratelimit_reset=RESET,
        )
        assert (refused.temporary, refused.limited) == (True, True)
        assert refused.problem == f"GitHub answers {status}: API rate limit exceeded"
        assert wait_after(refused, failures=1) == 1801


def test_the_secondary_limit_lasts_as_long_as_github_says() -> None:
    moment = format_datetime(NOW + timedelta(seconds=90), usegmt=True)
    for after, expected in (("7200", 7200), ("120", 120), (moment, 90), ("0", 0.5)):
        refused = answer(403, {"message": "no"}, retry_after=after)
        assert (refused.temporary, refused.limited) == (True, True)
        assert wait_after(refused, failures=1) == expected


def test_the_secondary_limit_without_a_time_is_minutes_that_double() -> None:
    refusals = (
        answer(403, {"message": "You have exceeded a secondary rate limit."}),
        answer(429),
        answer(429, x_ratelimit_remaining="4000", x_ratelimit_reset=RESET),
        answer(403, x_ratelimit_remaining="0"),
        # It should have been reset by now.
        answer(403, x_ratelimit_remaining="0", x_ratelimit_reset="1"),
    )
    for refused in refusals:
        waits = [wait_after(refused, failures=number) for number in (1, 2, 3, 6, 7, 10**6)]
        assert waits == [60, 120, 240, 1920, 3600, 3600]
        assert 60 < wait_after(refused, failures=1, share=0.5) < 61


def test_what_fails_for_a_time_is_tried_again_ever_more_rarely() -> None:
    broken = answer(502, b"<html>Bad Gateway")
    assert (broken.temporary, broken.limited) == (True, False)
    assert broken.problem == "GitHub answers 502"
    waits = [wait_after(broken, failures=number, share=0.5) for number in (1, 2, 3, 9, 10, 10**6)]
    assert waits == [0.75, 1.5, 3, 192, 225, 225]
    assert wait_after(broken, failures=1, share=0) < wait_after(broken, failures=1, share=0.9)
    assert wait_after(answer(503, b"", retry_after="30"), failures=1) == 30


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "GITHUB_TOKEN"),
        (403, "with this token"),
        (404, "no such feed"),
        (410, "410"),
        (451, ""),
    ],
)
def test_what_github_refuses_for_good(status: int, advice: str) -> None:
    refused = answer(status, {"message": "Not for you"}, x_ratelimit_remaining="4000")
    assert not refused.temporary
    assert refused.problem is not None
    assert refused.problem.startswith(f"GitHub answers {status}: Not for you")
    assert advice in refused.problem


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'[{"id": 1}', b"[\xff]", b"[" * 100_000, b'{"message": "hello"}']
)
def test_a_page_that_is_none_is_asked_for_again(body: bytes) -> None:
    page = answer(200, body)
    assert (page.events, page.temporary) == ((), True)
    assert (page.problem or "").startswith("the page is no ")
    assert len(page.problem or "") < 300


def test_a_tag_that_cannot_be_sent_back_is_forgotten() -> None:
    assert answer(etag='"a\r\n b"').etag is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://GHE.example.com/api/v3", "https://ghe.example.com/api/v3/events?page=2"),
        ("https://h:443/events", "https://h/events"),
        ("HTTPS://h/events", "https://h:443/"),
        ("http://h:80", "http://h:"),
        ("http://[::1]:8080/a", "http://[::1]:8080/b"),
    ],
)
def test_addresses_of_the_same_server(one: str, other: str) -> None:
    assert same_origin(one, other)
    assert same_origin(other, one)


@pytest.mark.parametrize(
    "other",
    [
        "http://h/",
        "http://h:443/",
        "https://h:80/",
        "https://h:0/",
        "https://h.example.com/",
        "https://user@h/",
        "https://h@example.com/",
        "https://example.com\\@h/",
        "https://h:port/",
        "https://[",
        "//h/",
        "https:///",
        "",
    ],
)
def test_addresses_of_another_server(other: str) -> None:
    assert not same_origin("https://h/", other)
    assert not same_origin(other, "https://h/")


def test_addresses() -> None:
    assert Feed().address == "https://api.github.com/events"
    enterprise = "https://github.example.com/api/v3/"
    assert Feed(repo="a-b/c.d", api=enterprise).address == f"{enterprise}repos/a-b/c.d/events"
    assert Feed(org="citusdata").address == "https://api.github.com/orgs/citusdata/events"
    assert Feed(user="x", api="http://[::1]:80").address == "http://[::1]:80/users/x/events"


@pytest.mark.parametrize(
    "given",
    [
        {"repo": "a/b", "org": "c"},
        {"repo": "a"},
        {"repo": "a/b/c"},
        {"repo": "../users"},
        {"org": ""},
        {"user": "a/b"},
        {"user": "ü"},
        {"api": "api.github.com"},
        {"api": "ftp://api.github.com"},
        {"api": "https://"},
        {"api": "https://token@api.github.com"},
        {"api": "https://api.github.com?page=2"},
        {"api": "https://x:port"},
        {"api": "https://x\n/"},
    ],
    ids=str,
)
def test_what_is_no_feed(given: dict[str, str]) -> None:
    with pytest.raises(ArgumentError):
        Feed(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"token": ""},
        {"token": "a\nb"},
        {"token": "ü"},
        {"interval": -1},
        {"interval": 1e9},
        {"interval": float("inf")},
        {"max_polls": 0},
        {"max_failures": 0},
        {"timeout": 0},
        {"interval": float("nan")},
    ],
    ids=str,
)
def test_options_that_cannot_be(given: dict[str, float]) -> None:
    with pytest.raises(ArgumentError):
        replace(FollowOptions(), **given)  # type: ignore[arg-type]


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(FollowOptions(token="secret"))
