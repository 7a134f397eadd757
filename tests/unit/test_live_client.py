"""One request to GitHub's API: what is sent, to whom, and what of the answer is taken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from citus_analytics.github.live.client import Client
from tests.github_api import GitHub, Reply, live_event, playing

if TYPE_CHECKING:
    from citus_analytics.github.live.answers import Answer
    from tests.github_api import Damage

EVENTS = [live_event(number) for number in range(150)]


def get(github: GitHub, *, token: str | None = None, etag: str | None = None) -> Answer:
    client = Client(token=token, timeout=0.5)
    return client.get(f"{github.address}/events?per_page=100", etag)


def test_what_github_wants_to_be_told() -> None:
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
        assert "authorization" not in other.requests[0][1]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "/events", "http://[", "http://ü..ö/"])
def test_a_redirect_to_nowhere_is_no_answer(location: str) -> None:
    with playing(GitHub(EVENTS)) as github:
        github.replies = [Reply(302, {"Location": location}, b"")] * 20
        answer = get(github)
    assert (answer.status, answer.events, answer.temporary) == (0, (), True)


@pytest.mark.parametrize("damage", ["cut", "closed", "chunk"])
def test_half_an_answer_is_none(damage: Damage) -> None:
    with playing(GitHub(EVENTS)) as github:
        github.replies = [Reply(damage=damage)]
        answer = get(github)
    assert (answer.status, answer.events, answer.temporary) == (0, (), True)
    assert answer.problem is not None
    assert answer.problem.startswith("no answer: ")


def test_an_answer_byte_by_byte_has_an_end() -> None:
    with playing(GitHub(EVENTS)) as github:
        github.replies = [Reply(damage="slow")]
        start = time.monotonic()
        answer = get(github)
        assert time.monotonic() - start < 5
    assert answer.problem == "no answer: the answer takes too long"


def test_nobody_there_is_no_answer() -> None:
    answer = Client(token=None, timeout=1).get("http://127.0.0.1:9/events", None)
    assert (answer.status, answer.temporary) == (0, True)
    assert "refused" in (answer.problem or "")
