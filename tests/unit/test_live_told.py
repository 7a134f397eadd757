"""Rejects that are told of once, without keeping all that there ever were."""

from __future__ import annotations

import sys

from citus_analytics.github.events import Reject
from citus_analytics.github.live.told import ToldRejects


def told(rejects: ToldRejects, *numbers: int, whole: bool = True) -> list[int]:
    """Return the numbers of those that are told of after a poll that has these."""
    poll = [Reject(number, "odd", b"%d" % number) for number in numbers]
    return [reject.line for reject in rejects.new_ones(poll, whole=whole)]


def test_what_the_poll_before_had_is_not_told_again() -> None:
    rejects = ToldRejects()
    assert told(rejects, 1, 2) == [1, 2]
    assert told(rejects, 1, 2, 3) == [3]
    assert told(rejects, 3) == []
    # These were gone in between.
    assert told(rejects, 1, 3) == [1]


def test_a_poll_without_all_pages_does_not_make_them_new() -> None:
    rejects = ToldRejects()
    told(rejects, 1, 2)
    assert told(rejects, 3, whole=False) == [3]
    assert told(rejects, whole=False) == []
    assert told(rejects, 1, 2, 3) == []
    assert told(rejects, 1) == []
    assert told(rejects, 1, 2) == [2]


def test_they_do_not_pile_up_while_no_poll_has_all_pages() -> None:
    rejects = ToldRejects()
    for start in range(0, 100_000, 100):
        # One of them is in every poll.
        new = told(rejects, -1, *range(start, start + 100), whole=False)
        assert new == [*([] if start else [-1]), *range(start, start + 100)]
    assert len(rejects._told) == 3000
    assert sys.getsizeof(next(iter(rejects._told))) < 100
    assert told(rejects, -1, *range(97_100, 100_000)) == []
