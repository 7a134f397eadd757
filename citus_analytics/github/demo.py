"""The demo: the tutorial's story on made-up events, and the proof that the rollup adds up."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from alembic.runtime.migration import MigrationContext
from sqlalchemy import NullPool, create_engine, func, select, text

from citus_analytics.cli.commands import Server, in_utc, rolled_up
from citus_analytics.cli.main import ExitError, add_command, add_database_url, add_json, positive
from citus_analytics.cli.output import (
    ProgressBar,
    Screen,
    duration,
    plural,
    timed,
    waiting,
    write_json,
)
from citus_analytics.copy import LoadResult
from citus_analytics.github.analytics import count_events
from citus_analytics.github.cli import QUESTIONS, call_of, loaded
from citus_analytics.github.load import load_events, load_users
from citus_analytics.github.migrate import upgrade
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN, Base, github_events, github_users
from citus_analytics.github.sample import Sample
from citus_analytics.migrations import database_url
from citus_analytics.rollups.run import RollupRun, run_rollup
from citus_analytics.rollups.sql import RollupSpec
from citus_analytics.server import EmbeddedServer

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from citus_analytics.cli.main import Commands

_EVENTS: Final = 300_000
_UNTIL: Final = datetime(2026, 3, 1, 20, tzinfo=UTC)
_SINCE: Final = _UNTIL - timedelta(hours=8)
# Enough to reach every part of the past, and few beside what is there.
_LATE_EVENTS: Final = 500
_TABLES_NAMED: Final = 3

# Tables of an extension are nobody's data.
_USER_TABLES: Final = text("""
SELECT c.oid::regclass::text
FROM pg_catalog.pg_class AS c
WHERE c.relkind IN ('r', 'p', 'f')
  AND c.relnamespace::regnamespace::text !~ '^(pg_.*|information_schema)$'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
""")

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


_Result = TypeVar("_Result")


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

    def __str__(self) -> str:
        verdict = (
            "They agree" if self.agree else f"They differ, in {self.groups_that_differ:,} groups"
        )
        return f"{self.raw:,} events, {self.rolled_up:,} rolled up. {verdict}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the story.

    Attributes:
        step: What was done.
        call: The library call that does it; empty for SQL of the demo's own.
        seconds: How long it took, with its commit.
        result: What came of it.
    """

    step: str
    call: str
    seconds: float
    result: Any


def add_demo(commands: Commands) -> None:
    """Add `demo`."""
    parser = add_command(
        commands,
        "demo",
        demo,
        "see the whole story on made-up events",
        "Migrate a database, load made-up events, roll them up, ask the four questions, then load "
        "events that come late, and see that raw and rolled-up totals still agree. Runs on a "
        "temporary server of its own (extra: embedded) unless --database-url names another.",
    )
    add_database_url(
        parser, "an empty database to run on, which keeps the data; DATABASE_URL is ignored"
    )
    parser.add_argument(
        "--events",
        type=positive,
        default=_EVENTS,
        metavar="N",
        help=f"how many events to make up (default: {_EVENTS:,})",
    )
    add_json(parser)


def demo(arguments: Namespace) -> None:
    """Tell the whole story, on a temporary server or on an empty database.

    Raises:
        ExitError: The database is not empty, or raw and rolled-up totals disagree after a run.
    """
    # First of all, because the package that it needs may be missing.
    screen = None if arguments.json else Screen()
    sample = Sample(events=arguments.events, since=_SINCE, until=_UNTIL)
    late = Sample(
        events=min(_LATE_EVENTS, -(-arguments.events // 10)),
        since=_SINCE,
        until=_UNTIL,
        first_event_id=arguments.events + 1,
        seed=1,
    )
    with _database(arguments.database_url) as engine:
        with engine.connect() as connection:
            _require_empty(connection)
            server = Server.of(connection)
        story = _Story(engine, screen)
        place = "given by its URL" if arguments.database_url else "in a temporary directory"
        story.say(f"Server: {server}; {place}.")

        story.heading("Create the tables")
        story.step("Migrations", "migrate.upgrade(url)", partial(_migrate, server))

        story.heading("Load made-up users and events")
        load = partial(_load, load_users, "users", sample.users, sample.users_csv)
        story.step("Users", "load_users(session, source)", load)
        load = partial(_load, load_events, "events", sample.events, sample.events_csv)
        story.step("Events", "load_events(session, source)", load)

        story.heading("Roll up")
        story.step("Rollup", "run_rollup(session, GITHUB_ROLLUP_1MIN)", _roll_up)
        story.step("Raw against rolled up", "", _require_agreement)

        story.heading("Ask")
        story.step("Events", call_of(count_events, {}), count_events)
        for name, question in QUESTIONS.items():
            filters = {} if name == "commits-per-hour" else {"limit": 5}
            call = call_of(question.function, filters)
            story.step(name, call, partial(question.ask, filters=filters))

        story.heading("Load events that come late: of minutes that have been rolled up")
        load = partial(_load, load_events, "events", late.events, late.events_csv)
        story.step("Late events", "load_events(session, source)", load)
        story.step("Raw against rolled up", "", _compare)

        story.heading("Roll up again: only what has changed")
        story.step("Rollup", "run_rollup(session, GITHUB_ROLLUP_1MIN)", _roll_up)
        totals = story.step("Raw against rolled up", "", _require_agreement)

    if screen is None:
        write_json({"server": server, "steps": story.steps, "totals": totals, "agree": True})
        return
    screen.heading("Raw and rolled-up events agree, group by group, before and after late events.")
    if arguments.database_url:
        screen.note("The data stay in the database; `citus-analytics query --help` asks more.")


class _Story:
    """Steps on a database, shown as they are taken unless there is no screen.

    Attributes:
        steps: The steps so far.
    """

    def __init__(self, engine: Engine, screen: Screen | None) -> None:
        self.steps: list[Step] = []
        self._engine = engine
        self._screen = screen

    def heading(self, text: str) -> None:
        if self._screen is not None:
            self._screen.heading(text)

    def say(self, text: str) -> None:
        if self._screen is not None:
            self._screen.say(text)

    def step(self, name: str, call: str, work: Callable[[Connection], _Result]) -> _Result:
        """Take a step in a transaction of its own; return what came of it."""
        with self._engine.begin() as connection, timed() as watch:
            result = work(connection)
        self.steps.append(Step(step=name, call=call, seconds=watch.seconds, result=result))
        took = duration(watch.seconds)
        match result:
            case list(rows):
                question = QUESTIONS[name]
                self.say(f"{question.title} ({took}):")
                if self._screen is not None:
                    question.show(self._screen, rows)
            case LoadResult() as load:
                self.say(f"{name}: {loaded(load, watch.seconds)}")
            case RollupRun() as run:
                self.say(f"{name}: {rolled_up(run, watch.seconds)}")
            case int(number):
                self.say(f"{name}: {number:,} ({took}).")
            case other:
                self.say(f"{name}: {other} ({took}).")
        if call and self._screen is not None:
            self._screen.note(f"  Python: {call}")
        return result


def _migrate(server: Server, connection: Connection) -> str:
    # The server line has said whether there is Citus: a migration need not warn that there is not.
    upgrade(connection, citus="auto" if server.citus else "skip")
    revision = MigrationContext.configure(connection).get_current_revision()
    return f"the tables are at revision {revision}"


def _load(
    function: Callable[..., LoadResult],
    what: str,
    rows: int,
    source: Callable[[], Iterator[bytes]],
    connection: Connection,
) -> LoadResult:
    with ProgressBar() as bar:
        show = partial(bar.show, f"Loading {what}", total_rows=rows)
        return function(connection, source(), progress=show)


def _roll_up(connection: Connection) -> RollupRun:
    with waiting("Rolling up"):
        return in_utc(run_rollup(connection, GITHUB_ROLLUP_1MIN))


def _compare(connection: Connection) -> Totals:
    with waiting("Comparing"):
        raw, rolled_up, groups = connection.execute(_COMPARE).one()
    return Totals(raw=raw, rolled_up=rolled_up, groups_that_differ=groups)


def _require_agreement(connection: Connection) -> Totals:
    totals = _compare(connection)
    if not totals.agree:
        raise ExitError(
            f"the rollup does not add up: {totals.raw:,} events, but {totals.rolled_up:,} "
            f"rolled up, and {totals.groups_that_differ:,} groups differ. This is a bug of "
            "citus_analytics, unless somebody else wrote to the database meanwhile."
        )
    return totals


@contextmanager
def _database(address: str | None) -> Iterator[Engine]:
    if address:
        yield create_engine(database_url(address), poolclass=NullPool)
        return
    server = EmbeddedServer()
    try:
        with waiting("Starting PostgreSQL"):
            server.start()
        yield create_engine(server.url, poolclass=NullPool)
    finally:
        server.stop()


def _require_empty(connection: Connection) -> None:
    """Refuse a database that has tables, unless they are the built-in ones without rows."""
    tables = list(connection.execute(_USER_TABLES).scalars())
    machinery = RollupSpec.of(GITHUB_ROLLUP_1MIN)
    ours = {*Base.metadata.tables, machinery.changes, machinery.outcome, "alembic_version"}
    rows = {
        table.name: connection.scalar(select(func.count()).select_from(table)) or 0
        for table in (github_events, github_users)
        if table.name in tables
    }
    migrated = "alembic_version" in tables and ours.issuperset(tables)
    if not tables or (migrated and not any(rows.values())):
        return
    named = ", ".join(
        f"{name} ({plural(rows[name], 'row')})" if rows.get(name) else name
        for name in sorted(tables, key=lambda name: -rows.get(name, 0))[:_TABLES_NAMED]
    )
    more = f" and {len(tables) - _TABLES_NAMED} more" if len(tables) > _TABLES_NAMED else ""
    raise ExitError(
        f"the database {connection.engine.url.database} is not empty: it has the tables {named}"
        f"{more}. The demo has left it as it is. Give it an empty database (CREATE DATABASE demo), "
        "or omit --database-url for a temporary server."
    )
