"""Polls from page to page, and from one to the next: what joins, and what is a gap."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from citus_analytics.github.live import Gap
from citus_analytics.github.live.answers import Answer, no_answer
from citus_analytics.github.live.polls import Fetched, Position, advanced, fetch, gap_before
from tests.github_api import START, live_event

if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS = "https://api.github.com/events"
LATER = datetime(2027, 1, 1, tzinfo=UTC)


def page(*numbers: int, following: str | None = None) -> Answer:
    events = tuple(live_event(number) for number in numbers)
    return Answer(status=200, events=events, etag=f'"{numbers}"', next_page=following)


def pages(*some: Answer) -> Fetched:
    """Return what comes of a poll whose answers are these."""
    asked: list[str] = []

    def get(url: str, etag: str | None) -> Answer:
        asked.append(url)
        last = len(asked) == len(some)
        following = None if last else f"{ADDRESS}?page={len(asked) + 1}"
        return replace(some[len(asked) - 1], next_page=following)

    return fetch(get, ADDRESS, None)


def always(answer: Answer) -> Callable[[str, str | None], Answer]:
    def get(url: str, etag: str | None) -> Answer:
        return answer

    return get


def ids(fetched: Fetched) -> list[int]:
    return [row.event_id - 1_000_000 for row in fetched.rows]


def at(number: int) -> datetime:
    return START + timedelta(seconds=number)


def after(*polls: Fetched) -> Position:
    position = Position()
    for fetched in polls:
        position = advanced(position, fetched, LATER)
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
    def get(url: str, etag: str | None) -> Answer:
        assert url.startswith(ADDRESS)
        return page(1, following="https://api.github.com.example.com/events?page=2")

    fetched = fetch(get, ADDRESS, None)
    assert fetched.pages == 1
    assert "another server" in (fetched.last.problem or "")


@pytest.mark.parametrize("following", ["https://[/events", "https://api.github.com:port/events"])
def test_a_page_at_no_address_is_not_asked_for(following: str) -> None:
    fetched = fetch(always(page(1, following=following)), ADDRESS, None)
    assert (fetched.pages, fetched.last.temporary) == (1, True)
    assert following in (fetched.last.problem or "")


def test_the_address_of_a_page_may_be_written_otherwise() -> None:
    fetched = fetch(always(page(1, following="https://API.github.com:443/events")), ADDRESS, None)
    assert (fetched.last.problem, ids(fetched)) == (None, [1])


def test_pages_without_an_end_have_one() -> None:
    fetched = fetch(always(page(1, following=f"{ADDRESS}?page=1")), ADDRESS, None)
    assert ids(fetched) == [1]
    assert fetched.last.problem is None


def test_pages_too_deep_are_the_end() -> None:
    fetched = pages(page(2), replace(no_answer(""), status=422, problem="pagination is limited"))
    assert (ids(fetched), fetched.last.problem) == ([2], None)


def test_the_interval_is_the_longest_that_a_page_says() -> None:
    first = replace(page(3), poll_interval=60)
    for second in (no_answer("broken"), page(2), replace(page(2), poll_interval=10)):
        assert pages(first, second).poll_interval == 60
    assert pages(replace(page(3), poll_interval=0)).poll_interval == 0
    assert pages(page(3)).poll_interval is None


def test_unchanged_is_an_answer_only_to_the_question() -> None:
    unchanged = Answer(status=304)
    assert fetch(always(unchanged), ADDRESS, '"a"').last.unchanged
    for fetched in (pages(unchanged), pages(page(2), unchanged)):
        assert not fetched.last.unchanged
        assert fetched.last.temporary


def test_what_cannot_be_read_is_rejected_alone() -> None:
    odd: list[object] = [
        None,
        "text",
        {"id": "1"},
        live_event(1, actor="login"),
        live_event(2, type="\ud800"),
        live_event(3),
    ]
    fetched = pages(Answer(status=200, events=tuple(odd)))
    assert ids(fetched) == [3]
    assert [one.line for one in fetched.outcomes] == [1, 2, 3, 4, 5, 6]


def test_polls_that_have_an_event_in_common_join() -> None:
    assert gap_before(after(pages(page(3, 2, 1))), pages(page(6, 5, 4, 3))) is None
    assert gap_before(Position(), pages(page(3, 2, 1))) is None


def test_polls_without_an_event_in_common_have_a_gap() -> None:
    gap = gap_before(after(pages(page(3, 2, 1))), pages(page(9, 8, 7)))
    assert gap == Gap(since=at(3), until=at(7))


def test_a_gap_in_a_feed_without_order_reaches_to_what_is_newer() -> None:
    late = replace(page(), events=(live_event(9), live_event(0), live_event(7)))
    assert gap_before(after(pages(page(3, 2))), pages(late)) == Gap(since=at(3), until=at(7))


def test_what_comes_late_is_no_gap() -> None:
    assert gap_before(after(pages(page(3, 2))), pages(page(1, 0))) is None


def test_a_feed_that_was_empty_has_no_gap() -> None:
    assert gap_before(after(pages(page(1)), pages(page())), pages(page(9))) is None


NOTHING_USABLE = replace(page(), events=("odd",))


@pytest.mark.parametrize("nothing", [NOTHING_USABLE, page()], ids=["odd", "empty"])
def test_a_full_poll_after_one_without_a_usable_event_has_a_gap(nothing: Answer) -> None:
    position = after(pages(page(3, 2)), pages(nothing))
    gap = Gap(since=at(3), until=at(5))
    assert gap_before(position, pages(page(9, 8), page(7), page(6, 5))) == gap
    assert gap_before(position, pages(page(*range(304, 4, -1)))) == gap
    # All that was not usable is no reason to call it joined.
    assert gap_before(position, pages(page(9, 8), NOTHING_USABLE, page(6, 5))) == gap


def test_without_a_usable_event_before_what_may_have_joined_has_no_gap() -> None:
    position = after(pages(page(3, 2)), pages(NOTHING_USABLE))
    for joined in (
        pages(page(*range(103, 3, -1)), page(*range(203, 103, -1))),
        pages(page(9, 8), page(7), page(5, 3)),
        pages(page(2), page(1), page(0)),
        pages(NOTHING_USABLE, NOTHING_USABLE, NOTHING_USABLE),
        pages(page(9), page(8), page(7), no_answer("broken")),
    ):
        assert gap_before(position, joined) is None
    nothing_before = after(pages(NOTHING_USABLE))
    assert gap_before(nothing_before, pages(page(9), page(8), page(7))) is None


def test_a_poll_without_all_pages_does_not_join() -> None:
    """What it has is not taken for what the poll before had."""
    broken = pages(page(9, 8), no_answer("broken"))
    assert ids(broken) == [9, 8]
    assert gap_before(after(pages(page(3, 2))), broken) is None
    position = after(pages(page(3, 2)), broken)
    assert position.etag is None
    assert gap_before(position, pages(page(9, 8), page(7, 6))) == Gap(since=at(3), until=at(6))
    assert gap_before(position, pages(page(9, 8), page(4, 3))) is None


def test_a_poll_that_brings_nothing_new_leaves_the_position() -> None:
    before = after(pages(page(3, 2)))
    unchanged = fetch(always(Answer(status=304)), ADDRESS, before.etag)
    assert advanced(before, unchanged, LATER) == before
    assert before.etag == '"(3, 2)"'
