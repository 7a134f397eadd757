r"""GitHub's events API followed live: each event once, whatever broke on the way.

    for poll in follow(engine, Feed(repo="citusdata/citus"), wait=stop.wait):
        print(poll.new, poll.lag, poll.gap)

A poll asks for all pages of a feed and stores what is new in them, with how far the feed has been
read (`followed_feeds`), in one transaction. Killed at any time and started again, it goes on from
there: what it meets again is left out, and what GitHub no longer offers is reported as a gap.

Definitions: GitHub's documentation, "REST API endpoints for events" (at most 300 events, ETag,
X-Poll-Interval) and "Rate limits for the REST API" (what to wait for after which refusal).
"""

from __future__ import annotations

from citus_analytics.github.live.feed import GITHUB, Feed
from citus_analytics.github.live.following import FollowOptions, follow
from citus_analytics.github.live.polls import Gap, Poll

__all__ = ["GITHUB", "Feed", "FollowOptions", "Gap", "Poll", "follow"]
