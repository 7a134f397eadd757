"""Following without a database: requests, what responses mean, gaps between polls, and waits."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import httpx
import pytest

from citus_analytics.errors import ArgumentError
from citus_analytics.github.events import Reject
from citus_analytics.github.follow import (
    LONGEST_WAIT,
    Feed,
    Fetched,
    FollowOptions,
    Gap,
    Position,
    Response,
    advanced,
    delay,
    fetch,
    gap_before,
    get_page,
    http_client,
    read_response,
    same_origin,
    unreported,
)
from tests.github_api import START, GitHub, Reply, live_event, playing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.github_api import Damage

ADDRESS = "https://api.github.com/events"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RESET = str(int((NOW + timedelta(minutes=30)).timestamp()))
EVENTS = [live_event(number) for number in range(150)]


# Feeds and options.


def test_addresses_of_feeds() -> None:
    assert Feed().address == "https://api.github.com/events"
    enterprise = "https://github.example.com/api/v3/"
    assert Feed(repo="a-b/c.d", api=enterprise).address == f"{enterprise}repos/a-b/c.d/events"
    assert Feed(org="citusdata").address == "https://api.github.com/orgs/citusdata/events"
    assert Feed(user="x", api="http://[::1]:80").address == "http://[::1]:80/users/x/events"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repo": "a/b", "org": "c"}, "repo and org are given"),
        ({"repo": "a"}, "repo must be owner/name as GitHub allows it, not 'a'"),
        ({"repo": "a/b/c"}, "repo must be"),
        ({"repo": "../users"}, "repo must be"),
        ({"org": ""}, "org must be a name as GitHub allows it, not ''"),
        ({"org": "a\n"}, "org must be"),
        ({"user": "a/b"}, "user must be"),
        ({"user": "ü"}, "user must be"),
        ({"api": "api.github.com"}, "'api.github.com' is not the address of an API"),
        ({"api": "ftp://api.github.com"}, "not the address"),
        ({"api": "https://"}, "not the address"),
        ({"api": "https://token@api.github.com"}, "not the address"),
        ({"api": "https://api.github.com?page=2"}, "not the address"),
        ({"api": "https://x:port"}, "not the address"),
        ({"api": "https://x\n/"}, "not the address"),
    ],
    ids=str,
)
def test_feeds_that_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Feed(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"token": ""},
        {"token": "a\nb"},
        {"token": "a\n"},
        {"token": "ü"},
        {"token": " a"},
        {"interval": -1},
        {"interval": 1e9},
        {"interval": float("inf")},
        {"interval": float("nan")},
        {"max_polls": 0},
        {"max_failures": 0},
        {"timeout": 0},
    ],
    ids=str,
)
def test_options_that_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ArgumentError):
        replace(FollowOptions(), **given)  # type: ignore[arg-type]


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(FollowOptions(token="secret"))
    with pytest.raises(ArgumentError) as refused:
        FollowOptions(token="secret ")
    assert "secret" not in str(refused.value)


def test_without_httpx_the_error_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['httpx'] = None\n"
        "from citus_analytics.github.follow import FollowOptions, http_client\n"
        "http_client(FollowOptions())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "LoadError: following GitHub's events needs the package httpx" in done.stderr
    assert done.stderr.endswith("install citus_analytics[github]\n")


# Requests to a server that plays GitHub.


def get(
    github: GitHub, *, token: str | None = None, etag: str | None = None, timeout: float = 30.0
) -> Response:
    with http_client(FollowOptions(token=token, timeout=timeout)) as client:
        return get_page(client, f"{github.address}/events?per_page=100", etag, timeout=timeout)


def test_the_headers_that_github_wants() -> None:
    with playing(GitHub(EVENTS)) as github:
        assert get(github, token="secret").events == tuple(EVENTS[:100])
        ((path, headers, _),) = github.requests
    assert path == "/events?per_page=100"
    assert headers["authorization"] == "Bearer secret"
    assert headers["user-agent"] == "citus_analytics"
    assert headers["accept"] == "application/vnd.github+json"
    assert headers["x-github-api-version"] == "2022-11-28"
    assert "if-none-match" not in headers


def test_without_a_token_none_is_sent() -> None:
    with playing(GitHub(EVENTS)) as github:
        get(github)
        assert "authorization" not in github.requests[0][1]


def test_a_page_is_known_by_its_tag() -> None:
    with playing(GitHub(EVENTS, interval=90)) as github:
        first = get(github)
        assert first.next_page == f"{github.address}/events?per_page=100&page=2"
        second = get(github, etag=first.etag)
        assert (second.status, second.unchanged, second.problem) == (304, True, None)
        assert second.poll_interval == 90


def test_a_redirect_on_the_same_server_keeps_the_token() -> None:
    with playing(GitHub(EVENTS)) as github:
        github.replies = [Reply(301, {"Location": f"{github.address}/repositories/1/events"}, b"")]
        assert len(get(github, token="secret").events) == 100
        path, headers, _ = github.requests[1]
    assert path == "/repositories/1/events"
    assert headers["authorization"] == "Bearer secret"


def test_a_redirect_to_another_server_does_not_get_the_token() -> None:
    with playing(GitHub(EVENTS)) as github, playing(GitHub(EVENTS)) as other:
        github.replies = [Reply(302, {"Location": f"{other.address}/events"}, b"")]
        assert len(get(github, token="secret").events) == 100
        assert "secret" not in str(other.requests)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "/events", "http://[", "http://ü..ö/"])
def test_a_redirect_to_nowhere_is_a_failure(location: str) -> None:
    with playing(GitHub(EVENTS)) as github:
        github.replies = [Reply(302, {"Location": location}, b"")] * 50
        response = get(github)
    assert (response.status, response.events, response.temporary) == (0, (), True)


@pytest.mark.parametrize("damage", ["cut", "closed", "chunk"])
def test_half_a_response_is_a_failure(damage: Damage) -> None:
    with playing(GitHub(EVENTS)) as github:
        github.replies = [Reply(damage=damage)]
        response = get(github)
    assert (response.status, response.events, response.temporary) == (0, (), True)
    assert (response.problem or "").startswith("no complete response: ")


def test_a_response_byte_by_byte_has_an_end() -> None:
    with playing(GitHub(EVENTS)) as github:
        github.replies = [Reply(damage="slow")]
        start = time.monotonic()
        response = get(github, timeout=0.5)
        # All of it would take minutes.
        assert time.monotonic() - start < 20
    assert response.problem == "no complete response: it takes too long"


def test_a_server_that_is_not_there_is_a_failure() -> None:
    response = get(GitHub(address="http://127.0.0.1:9"))
    assert (response.status, response.temporary) == (0, True)
    assert "refused" in (response.problem or "")


# What responses mean, and how long to wait after them.


def responded(status: int = 200, body: object = (), **headers: str) -> Response:
    given = {"date": format_datetime(NOW, usegmt=True)}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_response(httpx.Response(status, headers=given), content)


def wait_after(
    last: Response,
    *,
    failures: int = 0,
    jitter: float = 0.0,
    pages: int = 1,
    interval: float = 0.0,
    first: Response | None = None,
) -> float:
    """Return how long to wait; the interval of a `first` page is of the same poll."""
    fetched = Fetched(
        outcomes=(),
        pages=pages,
        etag=None,
        last=last,
        poll_interval=(last if first is None else first).poll_interval,
    )
    return delay(fetched, failures=failures, jitter=jitter, interval=interval)


def test_a_page() -> None:
    links = '<https://x/events?page=1>; rel="prev", <https://x/events?page=3>; rel="next"'
    response = responded(200, [{"id": "1"}], x_poll_interval="75", etag='W/"a"', link=links)
    assert response == Response(
        status=200,
        events=({"id": "1"},),
        etag='W/"a"',
        next_page="https://x/events?page=3",
        poll_interval=75,
    )
    assert wait_after(response) == 75


def test_the_usual_interval() -> None:
    assert wait_after(responded()) == 60
    for nonsense in ("soon", "-5", "", "1e9", "9" * 40):
        assert wait_after(responded(x_poll_interval=nonsense)) == 60
    assert wait_after(responded(x_poll_interval="7200")) == 7200
    assert wait_after(responded(x_poll_interval="999999")) == LONGEST_WAIT == 6 * 3600


def test_a_callers_interval_is_the_least_one() -> None:
    response = responded(x_poll_interval="10")
    assert wait_after(response, interval=20) == 20
    assert wait_after(response, interval=5) == 10
    assert wait_after(response, interval=86400) == 86400
    for status, after in ((502, "0"), (403, "120"), (503, "30")):
        assert wait_after(responded(status, retry_after=after), failures=1, interval=300) == 300
    assert wait_after(responded(502), failures=9, interval=1) == 128


def test_the_interval_holds_if_a_further_page_fails() -> None:
    first = responded(x_poll_interval="60")
    assert wait_after(responded(502), failures=1, first=first) == 60
    assert wait_after(responded(502), failures=9, first=first) == 128
    assert wait_after(responded(403, retry_after="90"), failures=1, first=first) == 90


@pytest.mark.parametrize(
    ("remaining", "pages", "expected"),
    [("5000", 3, 60), ("45", 3, 120), ("3", 3, 1800), ("2", 3, 1801), ("0", 1, 1801)],
)
def test_requests_last_until_the_limit_is_reset(
    remaining: str, pages: int, expected: float
) -> None:
    left = responded(x_ratelimit_remaining=remaining, x_ratelimit_reset=RESET)
    assert wait_after(left, pages=pages) == expected


def test_the_clock_is_githubs() -> None:
    theirs = format_datetime(NOW + timedelta(minutes=20), usegmt=True)
    left = responded(x_ratelimit_remaining="0", x_ratelimit_reset=RESET, date=theirs)
    assert wait_after(left) == 601


@pytest.mark.parametrize("date", ["", "soon", "Sun, 99 Mar 2026 12:00:00 GMT"])
def test_without_githubs_clock_it_is_ours(date: str) -> None:
    reset = str(int(time.time()) + 600)
    left = responded(x_ratelimit_remaining="0", x_ratelimit_reset=reset, date=date)
    assert wait_after(left) == pytest.approx(601, abs=5)


@pytest.mark.parametrize("status", [403, 429])
def test_the_primary_limit_lasts_until_it_is_reset(status: int) -> None:
    refused = responded(
        status,
        {"message": "API rate limit exceeded"},
        x_ratelimit_remaining="0",
        x_ratelimit_reset=RESET,
    )
    assert (refused.temporary, refused.limited) == (True, True)
    assert refused.problem == f"GitHub answered {status}: API rate limit exceeded"
    assert wait_after(refused, failures=1) == 1801


def test_the_secondary_limit_lasts_as_long_as_github_says() -> None:
    moment = format_datetime(NOW + timedelta(seconds=90), usegmt=True)
    for after, expected in (("7200", 7200), ("120", 120), (moment, 90), ("0", 0.5)):
        refused = responded(403, {"message": "no"}, retry_after=after)
        assert (refused.temporary, refused.limited) == (True, True)
        assert wait_after(refused, failures=1) == expected


@pytest.mark.parametrize(
    "refused",
    [
        responded(403, {"message": "You have exceeded a secondary rate limit."}),
        responded(429),
        responded(429, x_ratelimit_remaining="4000", x_ratelimit_reset=RESET),
        responded(403, x_ratelimit_remaining="0"),
        # It should have been reset by now.
        responded(403, x_ratelimit_remaining="0", x_ratelimit_reset="1"),
    ],
)
def test_the_secondary_limit_without_a_time_is_minutes_that_double(refused: Response) -> None:
    waits = [wait_after(refused, failures=number) for number in (1, 2, 3, 6, 7, 10**6)]
    assert waits == [60, 120, 240, 1920, 3600, 3600]
    assert 60 < wait_after(refused, failures=1, jitter=0.5) < 61


def test_temporary_failures_are_retried_ever_more_rarely() -> None:
    broken = responded(502, b"<html>Bad Gateway")
    assert (broken.temporary, broken.limited) == (True, False)
    assert broken.problem == "GitHub answered 502"
    waits = [wait_after(broken, failures=number, jitter=0.5) for number in (1, 2, 3, 9, 10, 10**6)]
    assert waits == [0.75, 1.5, 3, 192, 225, 225]
    assert wait_after(broken, failures=1, jitter=0) < wait_after(broken, failures=1, jitter=0.9)
    assert wait_after(responded(503, b"", retry_after="30"), failures=1) == 30


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "GITHUB_TOKEN"),
        (403, "This token may not read the feed"),
        (404, "The feed does not exist"),
        (410, "410"),
        (451, ""),
    ],
)
def test_a_refusal_for_good(status: int, advice: str) -> None:
    refused = responded(status, {"message": "Not for you"}, x_ratelimit_remaining="4000")
    assert not refused.temporary
    assert refused.problem is not None
    assert refused.problem.startswith(f"GitHub answered {status}: Not for you")
    assert advice in refused.problem


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'[{"id": 1}', b"[\xff]", b"[" * 100_000, b'{"message": "hello"}']
)
def test_a_malformed_page_is_asked_for_again(body: bytes) -> None:
    response = responded(200, body)
    assert (response.events, response.temporary) == ((), True)
    assert (response.problem or "").startswith("the page is not ")
    assert len(response.problem or "") < 300


@pytest.mark.parametrize("tag", ["", '"a\tb"', '"ü"'])
def test_a_tag_that_cannot_be_sent_back_is_ignored(tag: str) -> None:
    assert read_response(httpx.Response(200, headers=[(b"ETag", tag.encode())]), b"[]").etag is None


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


# Polls from page to page, and from one to the next.


def page(*numbers: int, following: str | None = None) -> Response:
    events = tuple(live_event(number) for number in numbers)
    return Response(status=200, events=events, etag=f'"{numbers}"', next_page=following)


BROKEN = Response(status=0, problem="broken", temporary=True)


def pages(*responses: Response) -> Fetched:
    """Return the result of a poll that gets these responses."""
    asked: list[str] = []

    def get(url: str, etag: str | None) -> Response:
        asked.append(url)
        last = len(asked) == len(responses)
        following = None if last else f"{ADDRESS}?page={len(asked) + 1}"
        return replace(responses[len(asked) - 1], next_page=following)

    return fetch(get, ADDRESS, None)


def always(response: Response) -> Callable[[str, str | None], Response]:
    def get(url: str, etag: str | None) -> Response:
        return response

    return get


def ids(fetched: Fetched) -> list[int]:
    return [row.event_id - 1_000_000 for row in fetched.rows]


def at(number: int) -> datetime:
    return START + timedelta(seconds=number)


def after(*polls: Fetched) -> Position:
    position = Position()
    for fetched in polls:
        position = advanced(position, fetched)
    return position


def test_pages_that_shift_while_they_are_read() -> None:
    """Two events happen after the first page: the second begins with the end of the first."""
    fetched = pages(page(6, 5, 4), page(5, 4, 3), page(3, 2, 1))
    assert ids(fetched) == [6, 5, 4, 3, 2, 1]
    assert (fetched.pages, fetched.newest) == (3, at(6))


def test_an_event_is_the_same_if_id_user_and_time_are() -> None:
    twice = replace(page(1), events=(live_event(1, user=1), live_event(1, user=2)))
    assert len(pages(twice).rows) == 2


def test_a_page_of_another_server_is_not_asked_for() -> None:
    def get(url: str, etag: str | None) -> Response:
        assert url.startswith(ADDRESS)
        return page(1, following="https://api.github.com.example.com/events?page=2")

    fetched = fetch(get, ADDRESS, None)
    assert fetched.pages == 1
    assert "another server" in (fetched.last.problem or "")


@pytest.mark.parametrize("following", ["https://[/events", "https://api.github.com:port/events"])
def test_a_page_at_a_malformed_address_is_not_asked_for(following: str) -> None:
    fetched = fetch(always(page(1, following=following)), ADDRESS, None)
    assert (fetched.pages, fetched.last.temporary) == (1, True)
    assert following in (fetched.last.problem or "")


def test_the_address_of_a_page_may_be_written_otherwise() -> None:
    fetched = fetch(always(page(1, following="https://API.github.com:443/events")), ADDRESS, None)
    assert (fetched.last.problem, ids(fetched)) == (None, [1])


def test_pages_that_link_to_themselves_have_an_end() -> None:
    fetched = fetch(always(page(1, following=f"{ADDRESS}?page=1")), ADDRESS, None)
    assert ids(fetched) == [1]
    assert fetched.last.problem is None


def test_pages_too_deep_are_the_end() -> None:
    fetched = pages(page(2), replace(BROKEN, status=422, problem="pagination is limited"))
    assert (ids(fetched), fetched.last.problem) == ([2], None)


def test_the_interval_is_the_longest_that_a_page_says() -> None:
    first = replace(page(3), poll_interval=60)
    for second in (BROKEN, page(2), replace(page(2), poll_interval=10)):
        assert pages(first, second).poll_interval == 60
    assert pages(replace(page(3), poll_interval=0)).poll_interval == 0
    assert pages(page(3)).poll_interval is None


def test_unchanged_is_a_response_only_to_a_tag() -> None:
    unchanged = Response(status=304)
    assert fetch(always(unchanged), ADDRESS, '"a"').last.unchanged
    for fetched in (pages(unchanged), pages(page(2), unchanged)):
        assert not fetched.last.unchanged
        assert fetched.last.temporary


def test_malformed_events_are_rejected_alone() -> None:
    odd: list[object] = [
        None,
        "text",
        {"id": "1"},
        live_event(1, actor="login"),
        live_event(2, type="\ud800"),
        json.loads("[" * 500 + "]" * 500),
        live_event(3),
    ]
    fetched = pages(Response(status=200, events=tuple(odd)))
    assert ids(fetched) == [3]
    assert [outcome.line for outcome in fetched.outcomes] == [1, 2, 3, 4, 5, 6, 7]


def test_polls_that_have_an_event_in_common_join() -> None:
    assert gap_before(after(pages(page(3, 2, 1))), pages(page(6, 5, 4, 3))) is None
    assert gap_before(Position(), pages(page(3, 2, 1))) is None


def test_polls_without_an_event_in_common_have_a_gap() -> None:
    gap = gap_before(after(pages(page(3, 2, 1))), pages(page(9, 8, 7)))
    assert gap == Gap(since=at(3), until=at(7))


def test_a_gap_in_a_feed_without_order_reaches_to_the_oldest_newer_event() -> None:
    late = replace(page(), events=(live_event(9), live_event(0), live_event(7)))
    assert gap_before(after(pages(page(3, 2))), pages(late)) == Gap(since=at(3), until=at(7))


def test_late_events_are_not_a_gap() -> None:
    assert gap_before(after(pages(page(3, 2))), pages(page(1, 0))) is None


def test_a_feed_that_was_empty_has_no_gap() -> None:
    assert gap_before(after(pages(page(1)), pages(page())), pages(page(9))) is None


NOTHING_USABLE = replace(page(), events=("odd",))


@pytest.mark.parametrize("nothing", [NOTHING_USABLE, page()], ids=["odd", "empty"])
def test_a_full_poll_after_one_without_a_usable_event_has_a_gap(nothing: Response) -> None:
    position = after(pages(page(3, 2)), pages(nothing))
    gap = Gap(since=at(3), until=at(5))
    assert gap_before(position, pages(page(9, 8), page(7), page(6, 5))) == gap
    assert gap_before(position, pages(page(*range(304, 4, -1)))) == gap
    # Unusable events are no reason to call it joined.
    assert gap_before(position, pages(page(9, 8), NOTHING_USABLE, page(6, 5))) == gap


def test_polls_that_may_have_joined_have_no_gap_after_one_without_a_usable_event() -> None:
    position = after(pages(page(3, 2)), pages(NOTHING_USABLE))
    for joined in (
        pages(page(*range(103, 3, -1)), page(*range(203, 103, -1))),
        pages(page(9, 8), page(7), page(5, 3)),
        pages(page(2), page(1), page(0)),
        pages(NOTHING_USABLE, NOTHING_USABLE, NOTHING_USABLE),
        pages(page(9), page(8), page(7), BROKEN),
    ):
        assert gap_before(position, joined) is None
    nothing_before = after(pages(NOTHING_USABLE))
    assert gap_before(nothing_before, pages(page(9), page(8), page(7))) is None


def test_a_poll_without_all_pages_does_not_join() -> None:
    """Its events are not taken for those of the last complete poll."""
    broken = pages(page(9, 8), BROKEN)
    assert ids(broken) == [9, 8]
    assert gap_before(after(pages(page(3, 2))), broken) is None
    position = after(pages(page(3, 2)), broken)
    assert position.etag is None
    assert gap_before(position, pages(page(9, 8), page(7, 6))) == Gap(since=at(3), until=at(6))
    assert gap_before(position, pages(page(9, 8), page(4, 3))) is None


def test_a_poll_that_brings_nothing_new_leaves_the_position() -> None:
    before = after(pages(page(3, 2)))
    unchanged = fetch(always(Response(status=304)), ADDRESS, before.etag)
    assert advanced(before, unchanged) == before
    assert before.etag == '"(3, 2)"'


# Rejects that are reported once, without keeping all that there ever were.


def report(reported: dict[bytes, None], *numbers: int, complete: bool = True) -> list[int]:
    """Return the numbers of those that are reported after a poll that has these."""
    rejects = [Reject(number, "odd", b"%d" % number) for number in numbers]
    return [reject.line for reject in unreported(reported, rejects, complete=complete)]


def test_rejects_of_the_poll_before_are_not_reported_again() -> None:
    reported: dict[bytes, None] = {}
    assert report(reported, 1, 2) == [1, 2]
    assert report(reported, 1, 2, 3) == [3]
    assert report(reported, 3) == []
    # These were gone in between.
    assert report(reported, 1, 3) == [1]


def test_a_poll_without_all_pages_does_not_make_rejects_new() -> None:
    reported: dict[bytes, None] = {}
    report(reported, 1, 2)
    assert report(reported, 3, complete=False) == [3]
    assert report(reported, complete=False) == []
    assert report(reported, 1, 2, 3) == []
    assert report(reported, 1) == []
    assert report(reported, 1, 2) == [2]


def test_rejects_do_not_pile_up_while_no_poll_has_all_pages() -> None:
    reported: dict[bytes, None] = {}
    for start in range(0, 20_000, 100):
        # One of them is in every poll.
        new = report(reported, -1, *range(start, start + 100), complete=False)
        assert new == [*([] if start else [-1]), *range(start, start + 100)]
    assert len(reported) == 3000
    assert report(reported, -1, *range(17_100, 20_000)) == []
