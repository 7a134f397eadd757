"""What can be typed after `citus-analytics follow`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.github.follow import GITHUB

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable


def add_follow_arguments(follow: ArgumentParser, positive: Callable[[str], int]) -> None:
    """Add the options of the command; `positive` reads a number from 1 upwards."""
    whose = follow.add_mutually_exclusive_group()
    whose.add_argument("--repo", metavar="OWNER/NAME", help="the events of a repository")
    whose.add_argument("--org", metavar="NAME", help="the events of an organization")
    whose.add_argument("--user", metavar="LOGIN", help="what a user does")
    follow.add_argument(
        "--api",
        default=GITHUB,
        metavar="URL",
        help=f"where GitHub's API is (default: {GITHUB}); of GitHub Enterprise Server, "
        "https://HOSTNAME/api/v3",
    )
    ends = follow.add_mutually_exclusive_group()
    ends.add_argument(
        "--once", action="store_true", help="poll once, and fail if that is not possible"
    )
    ends.add_argument(
        "--max-polls",
        type=positive,
        metavar="N",
        help="end after N polls, failed ones not counted (default: never)",
    )
    follow.add_argument(
        "--rollup", action="store_true", help="bring the rollup up to date after new events"
    )
    follow.add_argument(
        "--rejects", metavar="FILE", help="append events that cannot be stored here, as JSON lines"
    )
    follow.add_argument(
        "--json",
        action="store_true",
        help="print a JSON document on a line of its own for each poll, and one at the end",
    )
