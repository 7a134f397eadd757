"""The demo: the tutorial's story on made-up events, and the proof that the rollup adds up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from citus_analytics.cli import answers
from citus_analytics.cli.database import engine_for, require_empty, server_of
from citus_analytics.cli.failures import ExitError
from citus_analytics.cli.output import open_screen, write_json
from citus_analytics.cli.progress import loading, waiting
from citus_analytics.cli.words import duration, in_utc, loaded, rolled_up, timed
from citus_analytics.github.load import LoadResult, load_events, load_users
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.github.queries import count_events
from citus_analytics.github.sample import Sample
from citus_analytics.migrations import database_url, upgrade
from citus_analytics.rollups.run import RollupRun, run_rollup
from citus_analytics.server import EmbeddedServer

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from citus_analytics.cli.database import Server
    from citus_analytics.cli.screen import Screen
    from citus_analytics.migrations import Policy

_UNTIL: Final = datetime(2026, 3, 1, 20, tzinfo=UTC)
_SINCE: Final = _UNTIL - timedelta(hours=8)
# Enough to reach every part of the past, and few beside what is there.
_LATE_EVENTS: Final = 500

# Aggregates the raw events anew, in one pass with the rollup and so at one moment. Citus does it
# shard by shard, because both tables are grouped by the column that they are distributed by.
_COMPARE: Final = text("""
SELECT coalesce(sum(raw), 0)::bigint,
       coalesce(sum(rolled_up), 0)::bigint,
       count(*) FILTER (WHERE raw <> rolled_up)
FROM (
  SELECT user_id, event_type, repo_id, minute, sum(raw) AS raw, sum(rolled_up) AS rolled_up
  FROM (
    SELECT user_id, event_type, repo_id,
           date_bin('1 minute', created_at, timestamptz '1970-01-01 00:00:00+00') AS minute,
           1 AS raw, 0 AS rolled_up
    FROM github_events WHERE created_at IS NOT NULL
    UNION ALL
    SELECT user_id, event_type, repo_id, ingest_time, 0, total_events
    FROM github_rollup_1min
  ) AS events
  GROUP BY user_id, event_type, repo_id, minute
) AS groups
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The raw events beside the rolled-up ones.

    Attributes:
        raw: The number of raw events.
        rolled_up: The sum of the rollup's groups.
        groups_that_differ: Groups (type, repository, user, minute) whose numbers are not the same.
    """

    raw: int
    rolled_up: int
    groups_that_differ: int

    @property
    def agree(self) -> bool:
        """Whether the rollup adds up, group by group."""
        return self.raw == self.rolled_up and self.groups_that_differ == 0


Result: TypeAlias = "str | LoadResult | RollupRun | Totals | int | list[answers.Row]"


@dataclass(frozen=True, slots=True)
class Part:
    """A step of the story that is still to be made.

    Attributes:
        name: What it is, for a person.
        call: The library call that does it; empty for SQL of the demo's own.
        work: Does it, in a transaction that is committed afterwards.
    """

    name: str
    call: str
    work: Callable[[Connection], Result]


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the story that has been made, and what came of it."""

    step: str
    call: str
    seconds: float
    result: Result


def demo(arguments: Namespace) -> None:
    """Tell the whole story, on a temporary server or on an empty database.

    Raises:
        ExitError: The database is not empty, or raw and rolled-up totals disagree after a run.
    """
    # First of all, because the package that it needs may be missing.
    screen = None if arguments.json else open_screen()
    steps = []
    with _database(arguments.database_url) as engine:
        with engine.connect() as connection:
            require_empty(connection)
            server = server_of(connection)
        if screen:
            place = "given by its URL" if arguments.database_url else "in a temporary directory"
            screen.say(f"Server: {server}; {place}.")
        for heading, parts in _story(arguments.events, server).items():
            if screen:
                screen.heading(heading)
            for part in parts:
                steps.append(step := _made(part, engine))
                if screen:
                    _show(screen, step)
    _conclude(arguments, screen, server, steps)


@contextmanager
def _database(address: str | None) -> Iterator[Engine]:
    if address:
        yield engine_for(database_url(address))
        return
    server = EmbeddedServer()
    try:
        with waiting("Starting PostgreSQL"):
            server.start()
        yield engine_for(server.url)
    finally:
        server.stop()


def _story(events: int, server: Server) -> dict[str, list[Part]]:
    sample = Sample(events=events, since=_SINCE, until=_UNTIL)
    late = Sample(
        events=min(_LATE_EVENTS, -(-events // 10)),
        since=_SINCE,
        until=_UNTIL,
        first_event_id=events + 1,
        seed=1,
    )
    run = Part("Rollup", "run_rollup(session, GITHUB_ROLLUP_1MIN)", _roll_up)
    compare = Part("Raw against rolled up", "", _compare)
    # The server line has said whether there is Citus: a migration need not warn that there is not.
    migrate = partial(_migrate, citus="auto" if server.citus else "skip")
    return {
        "Create the tables": [Part("Migrations", "migrations.upgrade(url)", migrate)],
        "Load made-up users and events": [
            Part("Users", "load_users(session, source)", partial(_load_users, sample)),
            Part("Events", "load_events(session, source)", partial(_load_events, sample)),
        ],
        "Roll up": [run, compare],
        "Ask": [
            Part("Events", answers.call("count", {}), count_events),
            *(_question(name) for name in ("commits-per-hour", "top-creators", "most-active")),
        ],
        "Load events that come late: of minutes that have been rolled up": [
            Part("Late events", "load_events(session, source)", partial(_load_events, late)),
            compare,
        ],
        "Roll up again: only what has changed": [run, compare],
    }


def _question(name: str) -> Part:
    limit = {} if name == "commits-per-hour" else {"limit": 5}
    return Part(
        name, answers.call(name, limit), lambda connection: answers.ask(connection, name, limit)
    )


def _migrate(connection: Connection, *, citus: Policy) -> str:
    upgrade(connection, citus=citus)
    return MigrationContext.configure(connection).get_current_revision() or ""


def _load_users(sample: Sample, connection: Connection) -> LoadResult:
    with loading("Loading users", sample.users) as progress:
        return load_users(connection, sample.users_csv(), progress=progress)


def _load_events(sample: Sample, connection: Connection) -> LoadResult:
    with loading("Loading events", sample.events) as progress:
        return load_events(connection, sample.events_csv(), progress=progress)


def _roll_up(connection: Connection) -> RollupRun:
    with waiting("Rolling up"):
        return in_utc(run_rollup(connection, GITHUB_ROLLUP_1MIN))


def _compare(connection: Connection) -> Totals:
    with waiting("Comparing"):
        raw, rolled_up, groups = connection.execute(_COMPARE).one()
    return Totals(raw=raw, rolled_up=rolled_up, groups_that_differ=groups)


def _made(part: Part, engine: Engine) -> Step:
    with engine.begin() as connection, timed() as watch:
        result = part.work(connection)
    return Step(part.name, part.call, watch.seconds, result)


def _show(screen: Screen, step: Step) -> None:
    match step.result:
        case list(rows):
            screen.say(f"{answers.TITLES[step.step]} ({duration(step.seconds)}):")
            answers.show(screen, step.step, rows)
        case other:
            screen.say(f"{step.step}: {_in_words(other, step.seconds)}")
    if step.call:
        screen.note(f"  Python: {step.call}")


def _in_words(result: Result, seconds: float) -> str:
    match result:
        case LoadResult():
            return loaded(result, seconds)
        case RollupRun():
            return rolled_up(result, seconds)
        case Totals():
            verdict = (
                "They agree"
                if result.agree
                else f"They differ, in {result.groups_that_differ:,} groups"
            )
            return (
                f"{result.raw:,} events, {result.rolled_up:,} rolled up. {verdict} "
                f"({duration(seconds)})."
            )
        case int():
            return f"{result:,} ({duration(seconds)})."
        case _:
            return f"the tables are at revision {result} ({duration(seconds)})."


def _conclude(
    arguments: Namespace, screen: Screen | None, server: Server, steps: list[Step]
) -> None:
    first, _, last = [step.result for step in steps if isinstance(step.result, Totals)]
    for totals in (first, last):
        if not totals.agree:
            raise ExitError(
                f"the rollup does not add up: {totals.raw:,} events, but {totals.rolled_up:,} "
                f"rolled up, and {totals.groups_that_differ:,} groups differ. This is a bug of "
                "citus_analytics, unless somebody else wrote to the database meanwhile."
            )
    if screen is None:
        write_json({"server": server, "steps": steps, "totals": last, "agree": last.agree})
        return
    screen.heading("Raw and rolled-up events agree, group by group, before and after late events.")
    if arguments.database_url:
        screen.note("The data stay in the database; `citus-analytics query --help` asks more.")
