"""The command `follow`: a line for each poll of GitHub's events, and a summary at the end."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from citus_analytics.cli.database import engine_for, url_of
from citus_analytics.cli.failures import printable
from citus_analytics.cli.interrupts import Interrupts
from citus_analytics.cli.output import log_held_back, open_rejects, write, write_json_line
from citus_analytics.cli.words import duration, in_utc, plural, rolled_up, timed
from citus_analytics.github.live import GITHUB, Feed, FollowOptions, follow
from citus_analytics.github.load import write_reject
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.rollups.run import run_rollup

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from citus_analytics.github.live import Poll
    from citus_analytics.rollups.run import RollupRun

_COUNTED: Final = ("new", "known", "rejected")


class _Report:
    """What has come of the polls so far."""

    def __init__(self, arguments: Namespace) -> None:
        self._json: bool = arguments.json
        self._counts: Counter[str] = Counter()

    def poll(self, poll: Poll) -> None:
        """Count a poll."""
        self._counts["failed" if poll.problem else "polls"] += 1
        self._counts["gaps"] += poll.gap is not None
        self._counts.update({name: getattr(poll, name) for name in _COUNTED})

    def tell(self, poll: Poll, run: RollupRun | None, seconds: float) -> None:
        """Write the lines of a poll."""
        if self._json:
            lag = poll.lag and poll.lag.total_seconds()
            rollup = run and {**asdict(in_utc(run)), "seconds": seconds}
            write_json_line({"poll": {**asdict(poll), "lag_seconds": lag, "rollup": rollup}})
        else:
            write(*(printable(line) for line in _lines(poll)))
            if run is not None:
                write(f"  Rollup: {rolled_up(in_utc(run), seconds)}")
        # Whoever follows what is written, through a pipe or in a file, does so now.
        sys.stdout.flush()

    def finish(self, feed: Feed, seconds: float, *, interrupted: bool) -> None:
        """Write the summary."""
        names = ("polls", "failed", *_COUNTED, "gaps")
        sums = {name: self._counts[name] for name in names}
        if self._json:
            write_json_line({"summary": {**sums, "seconds": seconds, "interrupted": interrupted}})
            return
        end = " Interrupted; what was polled is stored, and the same command goes on from there."
        write(
            f"{plural(sums['polls'], 'poll')}, {sums['failed']:,} failed: {_numbers(sums)}, "
            f"{plural(sums['gaps'], 'gap')}.{end if interrupted else ''}",
            f"Python: follow(engine, {_call(feed)})",
        )


def follow_feed(arguments: Namespace) -> None:
    """Follow a feed until the polls asked for are made, or a signal comes."""
    feed = Feed(repo=arguments.repo, org=arguments.org, user=arguments.user, api=arguments.api)
    engine, report, interrupts = engine_for(url_of(arguments)), _Report(arguments), Interrupts()
    with (
        open_rejects(arguments.rejects) as rejects,
        # The lines of the polls say the same.
        log_held_back("citus_analytics.github.live"),
        timed() as whole,
        interrupts.handled(),
    ):
        options = FollowOptions(
            token=os.environ.get("GITHUB_TOKEN", "").strip() or None,
            max_polls=1 if arguments.once else arguments.max_polls,
            max_failures=1 if arguments.once else None,
            rejects=None if rejects is None else partial(write_reject, rejects, feed.address),
        )
        try:
            _follow(arguments, engine, feed, options, report, interrupts)
        except KeyboardInterrupt:
            if interrupts.forced:
                raise
    report.finish(feed, whole.seconds, interrupted=interrupts.asked)


def _follow(
    arguments: Namespace,
    engine: Engine,
    feed: Feed,
    options: FollowOptions,
    report: _Report,
    interrupts: Interrupts,
) -> None:
    for poll in follow(engine, feed, options=options, wait=interrupts.wait, shield=interrupts.held):
        report.poll(poll)
        run = None
        with timed() as watch:
            if arguments.rollup and poll.new:
                with interrupts.held(), engine.begin() as connection:
                    run = run_rollup(connection, GITHUB_ROLLUP_1MIN)
        report.tell(poll, run, watch.seconds)


def _lines(poll: Poll) -> Iterator[str]:
    parts = [_outcome(poll)]
    if poll.lag is not None:
        parts.append(f"newest {timedelta(seconds=int(poll.lag.total_seconds()))} old")
    if poll.remaining is not None:
        parts.append(f"{plural(poll.remaining, 'request')} left")
    parts.append(f"next poll in {duration(poll.next_in)}")
    yield f"{poll.at:%Y-%m-%d %H:%M:%S %Z}: {'; '.join(parts)}"
    if poll.problem is not None:
        rest = "The pages after these cannot be had" if poll.pages else "Nothing was loaded"
        yield f"  {rest}: {poll.problem}"
    if poll.gap is not None:
        since, until = poll.gap.since, poll.gap.until
        yield f"  Gap: events may have been missed from {since:%F %T %Z} to {until:%F %T %Z}."


def _outcome(poll: Poll) -> str:
    match poll.outcome:
        case "unchanged":
            return "nothing new"
        case "failed":
            return "failed"
        case "loaded":
            return _numbers({name: getattr(poll, name) for name in _COUNTED})


def _numbers(counts: dict[str, Any]) -> str:
    return (
        f"{plural(counts['new'], 'event')} new, {counts['known']:,} there already, "
        f"{counts['rejected']:,} rejected"
    )


def _call(feed: Feed) -> str:
    given = {name: getattr(feed, name) for name in ("repo", "org", "user")}
    given["api"] = None if feed.api == GITHUB else feed.api
    arguments = (f"{name}={value!r}" for name, value in given.items() if value is not None)
    return f"Feed({', '.join(arguments)})"
