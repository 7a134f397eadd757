"""Feeds that are followed in tests: how to poll them, and what is there afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

import citus_analytics
from citus_analytics.github.live import Feed, FollowOptions, Poll, follow
from citus_analytics.github.models import github_events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Engine

    from tests.github_api import GitHub

ROOT = Path(citus_analytics.__file__).parents[1]


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


def stored(engine: Engine) -> list[int]:
    """Return the numbers of the events that are there, as often as they are."""
    with engine.connect() as connection:
        ids = connection.execute(select(github_events.c.event_id)).scalars()
        return sorted((event_id or 0) - 1_000_000 for event_id in ids)


def counts(poll: Poll) -> tuple[str, int, int, int]:
    return poll.outcome, poll.new, poll.known, poll.rejected


@contextmanager
def following(
    url: URL, github: GitHub, *options: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run the program in a process of its own."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    given = {name: value for name, value in os.environ.items() if name != "GITHUB_TOKEN"}
    with subprocess.Popen(
        [sys.executable, "-m", "citus_analytics", "follow", "--api", github.address, *options],
        cwd=ROOT,
        env={**given, "DATABASE_URL": address, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run(url: URL, github: GitHub, *options: str, code: int = 0, **environment: str) -> str:
    """Run the program to its end; return what it prints, or says if it fails."""
    with following(url, github, *options, **environment) as process:
        out, said = process.communicate(timeout=60)
    assert process.returncode == code, out + said
    assert "Traceback" not in said
    return said if code else out
