"""How long to wait after a poll; pure, and the only place that knows GitHub's rules for it.

GitHub bans those who go on asking while they are limited, and does not tell for how long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from citus_analytics.github.live.answers import Answer
    from citus_analytics.github.live.polls import Fetched

USUAL_INTERVAL: Final = 60.0
"""What GitHub's X-Poll-Interval mostly is, in seconds; for servers that do not send it."""

LONGEST_WAIT: Final = 6 * 3600.0
"""Whatever a server says, it is asked again after so many seconds: limits are reset hourly."""

_FIRST_BACKOFF: Final = 1.0
_LONGEST_BACKOFF: Final = 300.0
# What GitHub wants after a secondary limit without more words: a minute, and longer every time.
_FIRST_WHEN_LIMITED: Final = 60.0
_LONGEST_WHEN_LIMITED: Final = 3600.0


def pause(fetched: Fetched, *, failures: int, share: float, interval: float = 0.0) -> float:
    """Return how many seconds to wait until the next poll.

    After a poll that succeeded, that is what X-Poll-Interval says, or longer if the requests that
    are left would not last until the rate limit is reset: polls at even distances miss less than
    a burst and an hour's silence. After a failure it is what GitHub asks for, and otherwise
    seconds that double with every failure, or minutes if GitHub says that there are too many
    requests; X-Poll-Interval holds then too, if any page said it.

    What a server says has an end at `LONGEST_WAIT`; the caller's interval has none.

    Args:
        fetched: What came of the poll.
        failures: How many polls have failed in a row, this one included.
        share: A random number from 0 up to 1, so that many pollers do not come back at once.
        interval: How many seconds there are to be between polls at least.
    """
    answer = fetched.last
    if answer.problem is not None:
        usual, wait = 0.0, _pause_after_failure(answer, failures, share)
    else:
        usual, wait = USUAL_INTERVAL, _evenly_spread(answer, max(1, fetched.pages))
    asked = usual if fetched.poll_interval is None else float(fetched.poll_interval)
    return max(interval, min(max(asked, wait), LONGEST_WAIT))


def _pause_after_failure(answer: Answer, failures: int, share: float) -> float:
    # Half of it is random.
    backoff = _doubled(_FIRST_BACKOFF, failures, _LONGEST_BACKOFF) / 2 * (1 + share)
    if answer.retry_after is not None:
        return max(answer.retry_after, backoff)
    if not answer.limited:
        return backoff
    if answer.remaining == 0 and answer.resets_in:
        # The moment is in whole seconds.
        return answer.resets_in + 1 + share
    # A secondary limit. So is one that should have been reset by now.
    return _doubled(_FIRST_WHEN_LIMITED, failures, _LONGEST_WHEN_LIMITED) + share


def _doubled(first: float, failures: int, longest: float) -> float:
    # The exponent is bounded, for the powers have no bounds.
    return min(first * 2.0 ** min(failures - 1, 20), longest)


def _evenly_spread(answer: Answer, requests: int) -> float:
    if answer.remaining is None or answer.resets_in is None:
        return 0.0
    if answer.remaining < requests:
        return answer.resets_in + 1
    return answer.resets_in * requests / answer.remaining
